//! An instance of nodens on the made-up network. Its parts are put together as in `process::app`, on one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use nodens::cache::Cache;
use nodens::config::Config;
use nodens::listener::slots::ConnectionSlots;
use nodens::listener::tcp::Accepted;
use nodens::net::network::{Network, NewStream};
use nodens::process::change;
use nodens::process::handover::take_entry;
use nodens::process::metrics::Metrics;
use nodens::process::threads::{Command, Commands, Datagrams, Heartbeat, Parts, work};
use nodens::runtime;
use nodens::serving::setup::Setup;
use nodens::serving::top::TopBoard;
use nodens::serving::worker::Shared;
use nodens::upstream::loops::LoopNames;
use nodens::upstream::{Upstreams, probe};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::world::{Host, Instance, NAMESERVER, StreamId, World};

const CONNECTIONS: usize = 1_000;

pub(crate) struct Node {
    world: Arc<World>,
    network: Arc<dyn Network>,
    instance: Instance,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    upstreams: watch::Sender<Arc<Upstreams>>,
    workers: Vec<Commands>,
    handles: Vec<JoinHandle<std::io::Result<()>>>,
    /// Cancelled when the address is to be served no longer.
    listening: CancellationToken,
    stop: CancellationToken,
    probes: AbortHandle,
    next: usize,
}

impl Node {
    pub(crate) fn start(world: &Arc<World>, yaml: &str, predecessor: Option<&Self>) -> Self {
        let instance = world.new_instance();
        let network: Arc<dyn Network> = Arc::new(Host {
            world: Arc::downgrade(world),
            instance,
        });
        let config = Config::from_yaml(yaml).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        let metrics = Arc::new(Metrics::new());
        let now = runtime::now();
        let setup = Setup::new(config, None, &metrics.upstream, &network, now);
        let setup = Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")));
        let cache = Cache::with_hasher(
            &setup.config.cache,
            ahash::RandomState::with_seeds(1, 2, 3, 4),
        );
        if let Some(old) = predecessor {
            let words = old.shared.current.load().words();
            let inheritance = setup.inheritance(&words).expect("the same version's words");
            let mut frame = Vec::new();
            for entry in old.shared.cache.iter() {
                frame.clear();
                if entry.write(now, &mut frame) {
                    take_entry(&cache, &setup, &inheritance, &frame, now);
                }
            }
        }
        let shared = Arc::new(Shared {
            current: arc_swap::ArcSwap::new(Arc::clone(&setup)),
            cache,
            metrics: metrics.serving.clone(),
            failures: Arc::default(),
            top: TopBoard::default(),
            hasher: ahash::RandomState::with_seeds(5, 6, 7, 8),
            loops: Arc::new(LoopNames::default()),
            upstream_sockets: 1_024,
        });
        let slots = Arc::new(ConnectionSlots::new(
            metrics.connections.clone(),
            CONNECTIONS,
        ));
        let (stop, listening) = (CancellationToken::new(), CancellationToken::new());
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for _ in 0..setup.config.workers.get() {
            let (commands, receiver) = mpsc::unbounded_channel();
            let parts = Parts {
                shared: Arc::clone(&shared),
                slots: Arc::clone(&slots),
                heartbeat: Arc::new(Heartbeat::new()),
                stop: stop.clone(),
                realtime: None,
            };
            handles.push(spawn_local(work(parts, receiver)));
            let socket = Datagrams {
                socket: world.listen(instance),
                stop: listening.clone(),
            };
            let _ = commands.send(Command::Listen(socket));
            workers.push(commands);
        }
        let (upstreams, receiver) = watch::channel(Arc::clone(&setup.upstreams));
        let probes =
            spawn_local(probe::run(receiver, Arc::clone(&shared.loops), || ())).abort_handle();
        world.lock().servers.believed = Some(Arc::clone(&setup.upstreams));
        Self {
            world: Arc::clone(world),
            network,
            instance,
            shared,
            metrics,
            upstreams,
            workers,
            handles,
            listening,
            stop,
            probes,
            next: 0,
        }
    }

    /// Accepts a connection that a client opened.
    pub(crate) fn accept(&mut self, stream: StreamId, peer: SocketAddr) {
        let accepted = Accepted {
            stream: NewStream::MadeUp(self.world.near_end(stream, self.instance)),
            peer,
            listener: NAMESERVER,
            stop: self.listening.clone(),
            handed_over: None,
        };
        self.next += 1;
        let worker = &self.workers[self.next % self.workers.len()];
        let _ = worker.send(Command::Connection(accepted));
    }

    /// Puts a configuration in force. Returns the servers that it names.
    pub(crate) async fn reload(&self, yaml: &str) -> Vec<SocketAddr> {
        let mut config =
            Config::from_yaml(yaml).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        let old = self.shared.current.load_full();
        config.keep_fixed(&old.config);
        let now = runtime::now();
        let setup = Setup::new(
            config,
            Some(&old),
            &self.metrics.upstream,
            &self.network,
            now,
        );
        let setup = Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")));
        let servers = setup.upstreams.servers.iter();
        let named = servers.map(|server| server.config.address).collect();
        change::put_in_force(&setup, &self.shared, &self.upstreams, &self.workers).await;
        change::forget_answers(&self.shared, &setup, &old);
        change::forget_servers(&self.metrics.upstream, &setup, &old);
        change::forget_routes(&self.metrics.serving, &setup, &old);
        self.world.lock().servers.believed = Some(Arc::clone(&setup.upstreams));
        named
    }

    /// Stops as after SIGTERM. Returns its metrics.
    pub(crate) async fn stop(mut self) -> String {
        self.stop.cancel();
        self.listening.cancel();
        self.workers.clear();
        for handle in self.handles.drain(..) {
            handle.await.expect("no panic").expect("no error");
        }
        self.metrics.render()
    }

    /// Ends as after SIGKILL: clients get no notice.
    pub(crate) fn kill(&self) {
        self.world.kill(self.instance);
    }

    /// Its metrics, when the wall clock shows this time.
    pub(crate) fn scrape(&self, wall: SystemTime) -> String {
        let setup = self.shared.current.load();
        for server in &setup.upstreams.servers {
            server.show((runtime::now(), wall));
        }
        self.metrics.render()
    }

    /// The budget that it exceeds, if any.
    pub(crate) fn over_budget(&self) -> Option<String> {
        let (bytes, setup) = (self.shared.cache.bytes(), self.shared.current.load());
        let most = setup.config.cache.max_size;
        (bytes > most).then(|| format!("the cache weighs {bytes} octets and may weigh {most}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.probes.abort();
        for handle in &self.handles {
            handle.abort();
        }
    }
}
