//! Starts, changes and stops the parts of the process, each in the right order.
//!
//! The one module that knows every other. Binding happens before anything starts, so that a mistake starts nothing, and
//! before anything changes, so that a mistake changes nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::addresses::{BoundAddress, ListenAddress};
use super::admin::{Admin, AdminError, BoundAdmin, Instance};
use super::change;
use super::coredns::HealthAnswers;
use super::files::{FileShares, TooFewFiles};
use super::handover::{self, Offers};
use super::memory_limit;
use super::metrics::Metrics;
use super::readiness::{Readiness, StartPart};
use super::reload_status::Reloads;
use super::scheduling;
use super::take_over::TakeOver;
use super::threads::{self, Commands, Heartbeat, WorkerThread};
use crate::cache::Cache;
use crate::config::Config;
use crate::listener::slots::ConnectionSlots;
use crate::net::network::kernel;
use crate::net::open;
use crate::net::process::{file_limit, open_files};
use crate::net::scheduling::ThreadPolicy;
use crate::node::{Node, NodeError, Successor};
use crate::serving::setup::{Setup, SetupError};
use crate::serving::top::TopBoard;
use crate::serving::worker::Shared;
use crate::upstream::loops::LoopNames;
use crate::upstream::{Upstreams, history, probe};

/// Linux's default soft limit of open files (`INR_OPEN_CUR`).
const USUAL_FILE_LIMIT: u64 = 1_024;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listen address cannot be bound.
    #[error("listen {address}: {source}; {}", open::remedy(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin interface cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The node cannot be set up.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The configuration cannot be put in force.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    /// A worker's thread or its runtime cannot be created.
    #[error(
        "worker thread: {0}; raise the limits of processes and of open files, or lower workers"
    )]
    Thread(#[source] io::Error),
}

/// All reasons why nothing was started, or changed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct StartErrors(pub Vec<StartError>);

impl From<StartError> for StartErrors {
    fn from(only: StartError) -> Self {
        Self(vec![only])
    }
}

/// A running instance. Dropping it stops the workers without waiting for them.
pub struct App {
    /// Address of the admin interface.
    pub admin: Option<SocketAddr>,
    /// What workers share.
    pub shared: Arc<Shared>,
    /// All families.
    pub metrics: Arc<Metrics>,
    /// What became of changes of the configuration.
    pub reloads: Arc<Reloads>,
    addresses: Vec<ListenAddress>,
    /// The addresses served, for /status.
    shown_addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    workers: Vec<WorkerThread>,
    upstreams: watch::Sender<Arc<Upstreams>>,
    node: Option<Arc<Node>>,
    /// None without `handover`.
    offers: Option<Offers>,
    _admin: Admin,
    tasks: JoinSet<()>,
}

impl App {
    /// Sets up the node, binds everything, then starts everything, on the current runtime and on one thread a worker.
    ///
    /// # Errors
    /// All reasons at once; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartErrors> {
        let node = config.node.as_ref().map(Node::ensure_interface);
        let node = node.transpose().map_err(StartError::Node)?.map(Arc::new);
        let started = match Bound::all_of(config).await {
            Ok(bound) => Self::start_on(node.clone(), bound).await,
            Err(errors) => Err(errors),
        };
        if let (Err(_), Some(node)) = (&started, node) {
            node.give_up();
        }
        started
    }

    /// Starts everything on what is bound: workers and their listeners, then the node's rules, then the admin interface,
    /// then probes.
    async fn start_on(node: Option<Arc<Node>>, bound: Bound) -> Result<Self, StartErrors> {
        let Bound {
            setup,
            admin,
            addresses,
            cache,
            metrics,
            files,
        } = bound;
        let shared = new_shared(&setup, cache, &metrics, files);
        let stop = CancellationToken::new();
        let (workers, heartbeats) = start_workers(&shared, &metrics, files, &stop)?;
        let addresses = serve(addresses, &workers);

        let mut tasks = JoinSet::new();
        let readiness = Arc::new(Readiness::new());
        let shown_addresses = Arc::new(ArcSwap::from_pointee(served(&addresses)));
        if let Some(node) = &node {
            let left_to_others = begin_rules(node, served(&addresses))
                .await
                .inspect_err(|_| stop.cancel())
                .map_err(StartError::Node)?;
            tasks.spawn(Arc::clone(node).watch(metrics.node.clone()));
            if left_to_others {
                let others = TakeOver::new(node, &shared, &shown_addresses, &readiness);
                tasks.spawn(others.run());
            }
        }
        let admin_address = admin.address();
        let reloads = Arc::new(Reloads::new(&metrics));
        reloads.taken(Vec::new());
        let admin = admin.serve(Instance {
            shared: Arc::clone(&shared),
            metrics: Arc::clone(&metrics),
            heartbeats,
            readiness: Arc::clone(&readiness),
            listen: Arc::clone(&shown_addresses),
            reloads: Arc::clone(&reloads),
            health: HealthAnswers::default(),
            admin: admin_address,
            started: Instant::now(),
        });
        let upstreams = start_probes(&mut tasks, &shared, &readiness);
        let offers = setup.config.handover.then(|| Offers::new(&shared));
        let mut app = Self {
            admin: admin_address,
            shared,
            metrics,
            reloads,
            addresses,
            shown_addresses,
            readiness,
            stop,
            workers,
            upstreams,
            node,
            offers,
            _admin: admin,
            tasks,
        };
        app.offer_cache();
        Ok(app)
    }

    /// Addresses served, with the ports that were taken.
    #[must_use]
    pub fn listen(&self) -> Vec<SocketAddr> {
        served(&self.addresses)
    }

    /// Puts another configuration in force without losing a query: upstreams and routes change, as do addresses, limits
    /// and the cache's size; servers and sockets that stay keep what is known of them. Returns the keys whose change
    /// needs a restart; they stay as they are.
    ///
    /// # Errors
    /// All reasons at once; nothing has changed then.
    pub async fn reload(&mut self, mut config: Config) -> Result<Vec<&'static str>, StartErrors> {
        let old = self.shared.current.load_full();
        let fixed = config.keep_fixed(&old.config);
        let (added, kept) = self.compare(&config.listen);
        let prepared = Prepared::new(config, Some(&old), &self.metrics, Vec::new());
        let (setup, bound) = prepared.bind(Some(&added))?;

        // From here on nothing can fail.
        if setup.config.cache.max_size > old.config.cache.max_size {
            memory_limit::warn_of_cache(&setup.config.cache);
        }
        change::put_in_force(&setup, &self.shared, &self.upstreams, &self.commands()).await;
        let (shared, new_setup, old_setup) = (
            Arc::clone(&self.shared),
            Arc::clone(&setup),
            Arc::clone(&old),
        );
        let forget = move || change::forget_answers(&shared, &new_setup, &old_setup);
        if tokio::task::spawn_blocking(forget).await.is_err() {
            tracing::error!("the cache may hold answers of routes that changed");
        }
        change::forget_servers(&self.metrics.upstream, &setup, &old);
        change::forget_routes(&self.metrics.serving, &setup, &old);
        let new = serve(bound, &self.workers);
        let all = std::mem::take(&mut self.addresses);
        for (address, keep) in all.into_iter().zip(kept) {
            if keep {
                self.addresses.push(address);
            } else {
                self.tasks.spawn(address.drain());
            }
        }
        self.addresses.extend(new);
        self.shown_addresses.store(Arc::new(self.listen()));
        self.offer_cache();
        if let Some(node) = &self.node
            && let Err(error) = ensure_notrack(node, self.listen()).await
        {
            tracing::error!(%error, "the node's rules are for the addresses listened on before");
        }
        Ok(fixed)
    }

    fn commands(&self) -> Vec<Commands> {
        let workers = self.workers.iter();
        workers.map(|worker| worker.commands.clone()).collect()
    }

    /// Has a successor find the cache by each address served.
    fn offer_cache(&mut self) {
        let addresses = self.listen();
        if let Some(offers) = &mut self.offers {
            offers.follow(&addresses);
        }
    }

    /// The wanted addresses that are not served yet, and which of those served are still wanted.
    fn compare(&self, wanted: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<bool>) {
        let mut kept = vec![false; self.addresses.len()];
        let mut added = Vec::new();
        for &address in wanted {
            let mut served = self.addresses.iter().zip(&kept);
            let found = served.position(|(served, kept)| !kept && served.wanted == address);
            match found {
                Some(at) => kept[at] = true,
                None => added.push(address),
            }
        }
        (added, kept)
    }

    /// Without a successor, leaves new queries to the other server of the node's addresses before our sockets close.
    async fn turn_away_if_last(&self, node: &Arc<Node>, listen: &[SocketAddr]) {
        let is_last = || !self.addresses.iter().any(ListenAddress::has_other_instance);
        if !is_last() {
            return;
        }
        let turning = Arc::clone(node);
        let turned_away = tokio::task::spawn_blocking(move || turning.turn_away()).await;
        let turned_away =
            turned_away.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        // A successor that started meanwhile may have found the rules in place. One that starts later makes them
        // itself, because it claims the addresses first.
        if turned_away
            && !is_last()
            && let Err(error) = ensure_notrack(node, listen.to_vec()).await
        {
            tracing::error!(%error, "the node's rules were taken from the successor");
        }
    }

    /// Stops accepting, waits until what is in flight is answered or `shutdown_grace` is over.
    pub async fn stop(mut self) {
        self.readiness.shut_down();
        self.stop.cancel();
        let listen = self.listen();
        if let Some(node) = &self.node {
            self.turn_away_if_last(node, &listen).await;
        }
        let mut drains: JoinSet<()> = self.addresses.drain(..).map(ListenAddress::drain).collect();
        while drains.join_next().await.is_some() {}
        // A worker ends when the last sender of its commands is dropped.
        let workers: Vec<_> = std::mem::take(&mut self.workers)
            .into_iter()
            .map(|worker| worker.handle)
            .collect();
        let join = move || {
            for worker in workers {
                match worker.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a worker ended with an error"),
                    Err(_) => tracing::error!("a worker panicked"),
                }
            }
        };
        if tokio::task::spawn_blocking(join).await.is_err() {
            tracing::error!("the workers could not be waited for");
        }
        if let Some(node) = &self.node {
            node.leave(successor(&listen));
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Our own sockets are closed: whoever listens there now is another instance.
fn successor(listen: &[SocketAddr]) -> Successor {
    let taken = |address: &SocketAddr| {
        open::check_free(*address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    if listen.iter().any(taken) {
        Successor::Serves
    } else {
        Successor::None
    }
}

/// Divides the remaining file descriptors, and warns if clients get fewer connections than configured.
fn share_out_files(config: &Config) -> Result<FileShares, TooFewFiles> {
    let limit = file_limit().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files is not known; the usual one is assumed");
        USUAL_FILE_LIMIT
    });
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    // It is refused another only when it has as many as it may.
    let files = FileShares::new(most, open_files().unwrap_or(most), config.workers)?;
    if files.clients < config.tcp.max_connections {
        tracing::info!(
            limit,
            connections = files.clients,
            "the limit of open files allows fewer client connections than tcp.max_connections"
        );
    }
    Ok(files)
}

fn served(addresses: &[ListenAddress]) -> Vec<SocketAddr> {
    addresses.iter().map(|one| one.address).collect()
}

/// Has the rules of the node made for these addresses. The kernel may hold its lock on the network's configuration for
/// long, so this runs on a blocking thread.
async fn ensure_notrack(node: &Arc<Node>, listen: Vec<SocketAddr>) -> Result<(), NodeError> {
    let node = Arc::clone(node);
    let ensured = tokio::task::spawn_blocking(move || node.ensure_notrack(&listen)).await;
    // A panic there is a panic here.
    ensured.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// As [`ensure_notrack`] at the start, unless the addresses are left to others for now; whether they are.
async fn begin_rules(node: &Arc<Node>, listen: Vec<SocketAddr>) -> Result<bool, NodeError> {
    let asked = Arc::clone(node);
    let addresses = listen.clone();
    let left = tokio::task::spawn_blocking(move || asked.leave_to_others(&addresses)).await;
    let left = left.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    if !left {
        ensure_notrack(node, listen).await?;
    }
    Ok(left)
}

/// All that is checked and bound before anything is started.
struct Bound {
    setup: Arc<Setup>,
    admin: BoundAdmin,
    addresses: Vec<BoundAddress>,
    /// With what an earlier instance handed over.
    cache: Cache,
    metrics: Arc<Metrics>,
    files: FileShares,
}

impl Bound {
    /// Checks the configuration and binds its addresses, those of `listen` last.
    async fn all_of(config: Config) -> Result<Self, StartErrors> {
        let mut admin_errors = Vec::new();
        let admin = BoundAdmin::bind(&config, &mut admin_errors);
        let errors = admin_errors.into_iter().map(StartError::from).collect();
        let metrics = Arc::new(new_metrics(&config));
        let cache = Cache::new(&config.cache);
        let prepared = Prepared::new(config, None, &metrics, errors);
        // Before clients are served, because inherited entries must not replace newer ones.
        let cache = prepared.inherit(cache, &metrics).await;
        let (setup, addresses) = prepared.bind(None)?;
        memory_limit::warn_of_cache(&setup.config.cache);
        // All sockets that are bound are open by now.
        let files = share_out_files(&setup.config).map_err(StartError::Files)?;
        Ok(Self {
            setup,
            admin,
            addresses,
            cache,
            metrics,
            files,
        })
    }
}

fn new_metrics(config: &Config) -> Metrics {
    let mut metrics = Metrics::new();
    if config.metrics_coredns {
        metrics.count_for_coredns();
    }
    metrics
}

/// What a configuration needs before it can be put in force.
struct Prepared {
    config: Config,
    /// None if there are errors.
    setup: Option<Arc<Setup>>,
    errors: Vec<StartError>,
}

impl Prepared {
    /// Makes its setup.
    fn new(
        config: Config,
        previous: Option<&Setup>,
        metrics: &Metrics,
        mut errors: Vec<StartError>,
    ) -> Self {
        let setup = match Setup::new(
            config.clone(),
            previous,
            &metrics.upstream,
            &kernel(),
            Instant::now(),
        ) {
            Ok(setup) => Some(Arc::new(setup)),
            Err(more) => {
                errors.extend(more.into_iter().map(StartError::from));
                None
            }
        };
        Self {
            config,
            setup,
            errors,
        }
    }

    /// The cache with what an earlier instance hands over, if it is asked for and nothing is wrong so far.
    async fn inherit(&self, cache: Cache, metrics: &Metrics) -> Cache {
        match &self.setup {
            Some(setup) if self.config.handover && self.errors.is_empty() => {
                handover::inherit(cache, Arc::clone(setup), metrics).await
            }
            _ => cache,
        }
    }

    /// Opens sockets for `listen`, by default all of the configuration's. That comes last: clients may use them from the
    /// moment they are bound.
    fn bind(
        self,
        listen: Option<&[SocketAddr]>,
    ) -> Result<(Arc<Setup>, Vec<BoundAddress>), StartErrors> {
        let Self {
            config,
            setup,
            mut errors,
        } = self;
        let mut bound = Vec::new();
        // An instance that shares the port must not lose clients to one that will not start. Otherwise all errors are
        // reported at once.
        if errors.is_empty() || !config.handover {
            for &address in listen.unwrap_or(&config.listen) {
                match BoundAddress::bind(&config, address) {
                    Ok(one) => bound.push(one),
                    Err(source) => errors.push(StartError::Listen { address, source }),
                }
            }
        }
        match setup {
            Some(setup) if errors.is_empty() => Ok((setup, bound)),
            _ => Err(StartErrors(errors)),
        }
    }
}

/// What workers share, at the start.
fn new_shared(
    setup: &Arc<Setup>,
    cache: Cache,
    metrics: &Metrics,
    files: FileShares,
) -> Arc<Shared> {
    Arc::new(Shared {
        current: ArcSwap::new(Arc::clone(setup)),
        cache,
        metrics: metrics.serving.clone(),
        failures: Arc::default(),
        top: TopBoard::default(),
        hasher: ahash::RandomState::new(),
        loops: Arc::new(LoopNames::default()),
        upstream_sockets: files.upstream_per_worker,
    })
}

/// Starts the worker threads; returns them, and what shows that each one runs.
fn start_workers(
    shared: &Arc<Shared>,
    metrics: &Metrics,
    files: FileShares,
    stop: &CancellationToken,
) -> Result<(Vec<WorkerThread>, Vec<Arc<Heartbeat>>), StartError> {
    let setup = shared.current.load();
    let slots = ConnectionSlots::new(metrics.connections.clone(), files.clients);
    let heartbeats: Vec<_> = (0..setup.config.workers.get())
        .map(|_| Arc::new(Heartbeat::new()))
        .collect();
    let policy = scheduling::available(setup.config.scheduling);
    let realtime = (policy == ThreadPolicy::Realtime).then_some(&metrics.scheduling);
    let workers = threads::start(shared, &Arc::new(slots), &heartbeats, stop, realtime)
        .map_err(StartError::Thread)?;
    Ok((workers, heartbeats))
}

/// Starts probes of servers, and the record of their states; returns what gives them the servers of each new setup.
fn start_probes(
    tasks: &mut JoinSet<()>,
    shared: &Shared,
    readiness: &Arc<Readiness>,
) -> watch::Sender<Arc<Upstreams>> {
    let upstreams = Arc::clone(&shared.current.load().upstreams);
    let (sender, receiver) = watch::channel(upstreams);
    let ready = Arc::clone(readiness);
    let on_start = move || ready.done(StartPart::Probes);
    tasks.spawn(history::run(receiver.clone()));
    tasks.spawn(probe::run(receiver, Arc::clone(&shared.loops), on_start));
    sender
}

/// Has the workers serve what is bound.
fn serve(bound: Vec<BoundAddress>, workers: &[WorkerThread]) -> Vec<ListenAddress> {
    let commands: Vec<Commands> = workers
        .iter()
        .map(|worker| worker.commands.clone())
        .collect();
    bound.into_iter().map(|one| one.serve(&commands)).collect()
}
