//! From a configuration to running parts, and back: what is started in which order, and how it stops.
//!
//! The one module that knows every other. Binding happens before anything starts, so that a mistake starts nothing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin, Readiness};
use crate::cache::Cache;
use crate::config::{Config, Transport};
use crate::listener::tcp;
use crate::local::LocalZone;
use crate::metrics::Metrics;
use crate::route::Routes;
use crate::socket::{self, UdpOptions};
use crate::transport::tls::{Tls, read_roots};
use crate::upstream::probe::LoopNames;
use crate::upstream::{Upstreams, probe};
use crate::worker::{self, Heartbeat, Shared, Sockets};

/// How often a free port is looked for when `listen` says 0: TCP may have what UDP just got.
const PORT_ATTEMPTS: usize = 20;

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
    /// A group's roots cannot be used.
    #[error("upstreams.{group}.tls_ca {}: {source}; it must be a readable file of PEM certificates", path.display())]
    TlsCa {
        /// The group.
        group: Arc<str>,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A TLS server's name cannot be used.
    #[error("server {server}: {source}")]
    Tls {
        /// The server.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// A worker's thread cannot be started.
    #[error("worker thread: {0}")]
    Thread(#[source] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there (see `ss -lunp` and `ss -ltnp`): stop it or choose another address"
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

/// All reasons why nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct StartErrors(pub Vec<StartError>);

/// A running instance. Dropping it stops the workers without waiting for them.
pub struct App {
    /// Addresses served, with the ports that were taken.
    pub listen: Vec<SocketAddr>,
    /// Address of the admin interface.
    pub admin: Option<SocketAddr>,
    /// What all parts share.
    pub shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
    workers: Vec<JoinHandle<io::Result<()>>>,
    _admin: Admin,
    _tasks: tokio::task::JoinSet<()>,
}

impl App {
    /// Binds everything, then starts everything, on the current runtime and on one thread a worker.
    ///
    /// # Errors
    /// All reasons at once; nothing is left running.
    #[expect(
        clippy::unused_async,
        reason = "it spawns, so it must be called on a runtime"
    )]
    pub async fn start(config: Config) -> Result<Self, StartErrors> {
        let mut errors = Vec::new();
        let bound = bind_all(&config, &mut errors);
        let admin = admin::Bound::bind(&config, &mut errors);
        let metrics = Metrics::new();
        let upstreams = Upstreams::new(&config, &metrics, Instant::now());
        let tls = tls_of(&config, &upstreams, &mut errors);
        if !errors.is_empty() {
            return Err(StartErrors(errors));
        }

        let listen: Vec<SocketAddr> = bound.iter().map(|(address, _)| *address).collect();
        let workers = config.workers.get();
        let shared = Arc::new(Shared {
            routes: Routes::new(&config),
            cache: Cache::new(&config.cache),
            local: LocalZone::new(
                &config.records,
                &config.node_name,
                env!("CARGO_PKG_VERSION"),
            ),
            tcp_clients: tcp::Clients::default(),
            hasher: ahash::RandomState::new(),
            loops: LoopNames::default(),
            upstreams,
            tls,
            metrics,
            config,
        });
        let stop = CancellationToken::new();
        let heartbeats: Vec<_> = (0..workers).map(|_| Arc::new(Heartbeat::new())).collect();
        let threads = start_workers(&shared, bound, &heartbeats, &stop)
            .map_err(|error| StartErrors(vec![StartError::Thread(error)]))?;

        let readiness = Arc::new(Readiness::new());
        let admin_address = admin.address();
        let state = admin::State::new(
            &shared,
            heartbeats,
            Arc::clone(&readiness),
            &listen,
            admin_address,
        );
        let admin = admin.serve(state);
        let mut tasks = tokio::task::JoinSet::new();
        let ready = Arc::clone(&readiness);
        tasks.spawn(probe::run(Arc::clone(&shared), move || ready.set_ready()));
        Ok(Self {
            listen,
            admin: admin_address,
            shared,
            readiness,
            stop,
            workers: threads,
            _admin: admin,
            _tasks: tasks,
        })
    }

    /// Stops accepting, waits until what is in flight is answered or `shutdown_grace` is over.
    pub async fn stop(mut self) {
        self.readiness.shut_down();
        self.stop.cancel();
        let workers = std::mem::take(&mut self.workers);
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
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// For each listen address, the address really bound and one socket pair a worker.
type Bound = Vec<(SocketAddr, Vec<(socket2::Socket, socket2::Socket)>)>;

fn bind_all(config: &Config, errors: &mut Vec<StartError>) -> Bound {
    let mut bound = Vec::new();
    for &address in &config.listen {
        match bind(config, address) {
            Ok(pair) => bound.push(pair),
            Err(source) => errors.push(StartError::Listen { address, source }),
        }
    }
    bound
}

fn bind(
    config: &Config,
    wanted: SocketAddr,
) -> io::Result<(SocketAddr, Vec<(socket2::Socket, socket2::Socket)>)> {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let options = UdpOptions {
        receive_buffer: size(config.udp.receive_buffer),
        send_buffer: size(config.udp.send_buffer),
    };
    let mut attempts = if wanted.port() == 0 { PORT_ATTEMPTS } else { 1 };
    let (address, udp, tcp) = loop {
        attempts -= 1;
        if wanted.port() != 0 && !config.handover {
            socket::check_free(wanted)?;
        }
        let (udp, granted) = socket::listen_udp(wanted, options)?;
        if granted < options.receive_buffer {
            tracing::warn!(
                address = %wanted,
                wanted = options.receive_buffer,
                granted,
                "the kernel grants a smaller receive buffer than udp.receive_buffer; raise the sysctl net.core.rmem_max"
            );
        }
        let bound = udp
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let address = SocketAddr::new(wanted.ip(), bound.port());
        match socket::listen_tcp(address) {
            Ok(tcp) => break (address, udp, tcp),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => {}
        }
    };
    let mut pairs = vec![(udp, tcp)];
    for _ in 1..config.workers.get() {
        pairs.push((
            socket::listen_udp(address, options)?.0,
            socket::listen_tcp(address)?,
        ));
    }
    Ok((address, pairs))
}

fn tls_of(
    config: &Config,
    upstreams: &Upstreams,
    errors: &mut Vec<StartError>,
) -> Vec<Option<Tls>> {
    let mut all = Vec::new();
    for (group, servers) in config.groups.iter().zip(&upstreams.groups) {
        let roots = match &group.tls_ca {
            None => Vec::new(),
            Some(path) => read_roots(path).unwrap_or_else(|source| {
                let (group, path) = (Arc::clone(&group.name), path.clone());
                errors.push(StartError::TlsCa {
                    group,
                    path,
                    source,
                });
                Vec::new()
            }),
        };
        for server in &servers.servers {
            all.push(match &server.config.transport {
                Transport::Udp | Transport::Tcp => None,
                Transport::Tls(name) => match Tls::new(name, &roots) {
                    Ok(tls) => Some(tls),
                    Err(source) => {
                        let server = server.label.clone();
                        errors.push(StartError::Tls { server, source });
                        None
                    }
                },
            });
        }
    }
    all
}

fn start_workers(
    shared: &Arc<Shared>,
    bound: Bound,
    heartbeats: &[Arc<Heartbeat>],
    stop: &CancellationToken,
) -> io::Result<Vec<JoinHandle<io::Result<()>>>> {
    let mut sockets: Vec<Sockets> = heartbeats
        .iter()
        .map(|_| Sockets {
            udp: vec![],
            tcp: vec![],
        })
        .collect();
    for (_, pairs) in bound {
        for (worker, (udp, tcp)) in sockets.iter_mut().zip(pairs) {
            worker.udp.push(udp);
            worker.tcp.push(tcp);
        }
    }
    let mut threads = Vec::new();
    for (index, (sockets, heartbeat)) in sockets.into_iter().zip(heartbeats).enumerate() {
        let (shared, heartbeat, stop) = (Arc::clone(shared), Arc::clone(heartbeat), stop.clone());
        let run = move || worker::run(shared, sockets, &heartbeat, stop);
        threads.push(
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(run)?,
        );
    }
    Ok(threads)
}
