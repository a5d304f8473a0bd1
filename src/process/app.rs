//! From a configuration to running parts, and back: what is started in which order, how it changes, and how it stops.
//!
//! The one module that knows every other. Binding happens before anything starts, so that a mistake starts nothing, and
//! before anything changes, so that a mistake changes nothing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Config;
use crate::listener::tcp;
use crate::metrics::Metrics;
use crate::net::open;
use crate::node::{Node, NodeError, Successor};
use crate::process::addresses::{Bound, Listening};
use crate::process::admin::{self, Admin, Readiness};
use crate::process::reload::Reloads;
use crate::serving::setup::{Setup, SetupError};
use crate::serving::worker::{self, Command, Heartbeat, Shared};
use crate::upstream::probe::{self, LoopNames};

/// A worker that does not take a new setup within this is stuck; `/health` tells of it.
const TAKING: Duration = Duration::from_secs(5);

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listen address cannot be had.
    #[error("listen {address}: {source}; {}", remedy(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin or metrics address cannot be had.
    #[error("{key} {address}: {source}; {}", remedy(source))]
    Admin {
        /// `admin` or `metrics.listen`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin socket cannot be made.
    #[error("socket {}: {source}; its directory must be writable, and no other instance may use it", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node cannot be set up.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The configuration cannot be put in force.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A worker's thread cannot be started.
    #[error("worker thread: {0}")]
    Thread(#[source] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there (see `ss -lunp` and `ss -ltnp`): stop it or choose another address; an instance \
             of nodens may share it if both have handover: true"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this host has no such address: add it to an interface or choose another"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: grant it or choose a port above"
        }
        _ => "choose an address of this host",
    }
}

/// All reasons why nothing was started, or changed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct StartErrors(pub Vec<StartError>);

/// A running instance. Dropping it stops the workers without waiting for them.
pub struct App {
    /// Address of the admin interface.
    pub admin: Option<SocketAddr>,
    /// What all parts share.
    pub shared: Arc<Shared>,
    /// What became of changes of the configuration.
    pub reloads: Arc<Reloads>,
    listening: Vec<Listening>,
    /// The addresses served, for /status.
    listen: Arc<ArcSwap<Vec<SocketAddr>>>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    workers: Vec<Thread>,
    setups: watch::Sender<Arc<Setup>>,
    node: Option<Arc<Node>>,
    _admin: Admin,
    tasks: JoinSet<()>,
}

/// A worker's thread.
struct Thread {
    commands: mpsc::UnboundedSender<Command>,
    handle: JoinHandle<io::Result<()>>,
}

impl App {
    /// Sets up the node, binds everything, then starts everything, on the current runtime and on one thread a worker.
    ///
    /// # Errors
    /// All reasons at once; nothing is left running.
    #[expect(
        clippy::unused_async,
        reason = "it spawns, so it must be called on a runtime"
    )]
    pub async fn start(config: Config) -> Result<Self, StartErrors> {
        let node = config.node.as_ref().map(Node::ensure_interface);
        let node = node
            .transpose()
            .map_err(|error| StartErrors(vec![error.into()]))?;
        let node = node.map(Arc::new);
        let started = Self::start_on(node.clone(), config);
        if let (Err(_), Some(node)) = (&started, node) {
            node.give_up();
        }
        started
    }

    fn start_on(node: Option<Arc<Node>>, config: Config) -> Result<Self, StartErrors> {
        let mut errors = Vec::new();
        let admin = admin::Bound::bind(&config, &mut errors);
        let metrics = Metrics::new();
        let cache = Cache::new(&config.cache);
        let (setup, bound) = prepare(config, None, None, &metrics, errors)?;
        let shared = Arc::new(Shared {
            current: ArcSwap::new(Arc::clone(&setup)),
            cache,
            metrics,
            tcp_clients: tcp::Clients::default(),
            hasher: ahash::RandomState::new(),
            loops: Arc::new(LoopNames::default()),
        });
        let workers = setup.config.workers.get();
        let stop = CancellationToken::new();
        let heartbeats: Vec<_> = (0..workers).map(|_| Arc::new(Heartbeat::new())).collect();
        let threads = start_workers(&shared, &heartbeats, &stop)
            .map_err(|error| StartErrors(vec![StartError::Thread(error)]))?;
        let listening = serve(bound, &threads)?;

        let mut tasks = JoinSet::new();
        if let Some(node) = &node {
            node.ensure_notrack(&addresses(&listening))
                .map_err(|error| {
                    stop.cancel();
                    StartErrors(vec![error.into()])
                })?;
            tasks.spawn(Arc::clone(node).watch(shared.metrics.node()));
        }

        let readiness = Arc::new(Readiness::new());
        let admin_address = admin.address();
        let reloads = Arc::new(Reloads::default());
        reloads.taken(&shared.metrics, Vec::new());
        let listen = Arc::new(ArcSwap::from_pointee(addresses(&listening)));
        let state = admin::State::new(
            &shared,
            heartbeats,
            Arc::clone(&readiness),
            Arc::clone(&listen),
            Arc::clone(&reloads),
            admin_address,
        );
        let admin = admin.serve(state);
        let ready = Arc::clone(&readiness);
        let (setups, receiver) = watch::channel(setup);
        let loops = Arc::clone(&shared.loops);
        tasks.spawn(probe::run(receiver, loops, move || ready.set_ready()));
        take_over(&listening, &mut tasks);
        Ok(Self {
            admin: admin_address,
            shared,
            reloads,
            listening,
            listen,
            readiness,
            stop,
            workers: threads,
            setups,
            node,
            _admin: admin,
            tasks,
        })
    }

    /// Addresses served, with the ports that were taken.
    #[must_use]
    pub fn listen(&self) -> Vec<SocketAddr> {
        addresses(&self.listening)
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
        let metrics = &self.shared.metrics;
        let (setup, bound) = prepare(config, Some(&old), Some(&added), metrics, Vec::new())?;
        let new = serve(bound, &self.workers)?;

        // From here on nothing can fail. What is late asks `current` whether it still counts, so that comes first.
        self.shared.current.store(Arc::clone(&setup));
        self.setups.send_replace(Arc::clone(&setup));
        self.have_all_work_under(&setup).await;
        self.forget_what_changed(&setup, &old).await;
        take_over(&new, &mut self.tasks);
        let all = std::mem::take(&mut self.listening);
        for (listening, keep) in all.into_iter().zip(kept) {
            if keep {
                self.listening.push(listening);
            } else {
                self.tasks.spawn(listening.end());
            }
        }
        self.listening.extend(new);
        self.listen.store(Arc::new(self.listen()));
        if let Some(node) = &self.node
            && let Err(error) = node.ensure_notrack(&self.listen())
        {
            tracing::error!(%error, "the node's rules are for the addresses listened on before");
        }
        Ok(fixed)
    }

    /// The wanted addresses that are not served yet, and which of those served are still wanted.
    fn compare(&self, wanted: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<bool>) {
        let mut kept = vec![false; self.listening.len()];
        let mut added = Vec::new();
        for &address in wanted {
            let there =
                |(at, listening): &(usize, &Listening)| !kept[*at] && listening.wanted == address;
            let found = self.listening.iter().enumerate().find(there);
            match found.map(|(at, _)| at) {
                Some(at) => kept[at] = true,
                None => added.push(address),
            }
        }
        (added, kept)
    }

    async fn have_all_work_under(&self, setup: &Arc<Setup>) {
        let mut taken = Vec::new();
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            let _ = worker.commands.send(Command::Work(Arc::clone(setup), done));
            taken.push(is_done);
        }
        for is_done in taken {
            if timeout(TAKING, is_done).await.is_err() {
                tracing::error!("a worker does not take the new configuration; /health will tell");
            }
        }
    }

    /// Has the cache and the metrics forget what the new setup does not vouch for.
    async fn forget_what_changed(&self, setup: &Arc<Setup>, old: &Arc<Setup>) {
        let cache = &self.shared.cache;
        if setup.config.cache.max_size != old.config.cache.max_size {
            cache.resize(setup.config.cache.max_size);
        }
        // Whoever failed may be somebody else now; asking again is cheap.
        cache.forget_failures();
        if !setup.keeps_all(old) {
            let (shared, new, old) = (Arc::clone(&self.shared), Arc::clone(setup), Arc::clone(old));
            let forget = move || {
                shared.cache.retain(|name, entry| {
                    entry
                        .route()
                        .is_some_and(|route| new.keeps(name, route, &old))
                });
            };
            if tokio::task::spawn_blocking(forget).await.is_err() {
                tracing::error!("the cache may hold answers of routes that changed");
            }
        }
        let there = |gone: &crate::upstream::server::Server| {
            let mut servers = setup.upstreams.servers.iter();
            servers.any(|server| server.group == gone.group && server.label == gone.label)
        };
        for server in &old.upstreams.servers {
            if !there(server) {
                self.shared.metrics.forget(&server.group, &server.label);
            }
        }
    }

    /// Stops accepting, waits until what is in flight is answered or `shutdown_grace` is over.
    pub async fn stop(mut self) {
        self.readiness.shut_down();
        self.stop.cancel();
        let listen = self.listen();
        let mut ends: JoinSet<()> = self.listening.drain(..).map(Listening::end).collect();
        while ends.join_next().await.is_some() {}
        // With the last of those who can give it commands a worker ends.
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

fn addresses(listening: &[Listening]) -> Vec<SocketAddr> {
    listening.iter().map(|one| one.address).collect()
}

/// What a configuration needs before it can be put in force: its setup, and sockets for `listen` (by default all of the
/// configuration's). Sockets come last: clients may use them from the moment they are bound.
fn prepare(
    config: Config,
    previous: Option<&Setup>,
    listen: Option<&[SocketAddr]>,
    metrics: &Metrics,
    mut errors: Vec<StartError>,
) -> Result<(Arc<Setup>, Vec<Bound>), StartErrors> {
    let addresses = listen.unwrap_or(&config.listen).to_vec();
    let (handover, binding) = (config.handover, config.clone());
    let setup = match Setup::new(config, previous, metrics, Instant::now()) {
        Ok(setup) => Some(Arc::new(setup)),
        Err(more) => {
            errors.extend(more.into_iter().map(StartError::from));
            None
        }
    };
    let mut bound = Vec::new();
    // Who shares the port must not lose clients to somebody who will not start; else all mistakes are told at once.
    if errors.is_empty() || !handover {
        for address in addresses {
            match Bound::bind(&binding, address) {
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

/// Has the workers serve what is bound.
fn serve(bound: Vec<Bound>, workers: &[Thread]) -> Result<Vec<Listening>, StartErrors> {
    let commands: Vec<_> = workers
        .iter()
        .map(|worker| worker.commands.clone())
        .collect();
    let one = |bound: Bound| {
        let address = bound.address();
        let error = |source| StartErrors(vec![StartError::Listen { address, source }]);
        bound.serve(&commands).map_err(error)
    };
    bound.into_iter().map(one).collect()
}

/// Waits for earlier instances to go, where there are any.
fn take_over(listening: &[Listening], tasks: &mut JoinSet<()>) {
    for one in listening.iter().filter(|one| one.shared()) {
        tracing::info!(address = %one.address, "shared with an earlier instance");
        tasks.spawn(one.take_over());
    }
}

fn start_workers(
    shared: &Arc<Shared>,
    heartbeats: &[Arc<Heartbeat>],
    stop: &CancellationToken,
) -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for (index, heartbeat) in heartbeats.iter().enumerate() {
        let (shared, heartbeat, stop) = (Arc::clone(shared), Arc::clone(heartbeat), stop.clone());
        let (commands, receiver) = mpsc::unbounded_channel();
        let run = move || worker::run(shared, receiver, heartbeat, stop);
        let handle = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(run)?;
        threads.push(Thread { commands, handle });
    }
    Ok(threads)
}
