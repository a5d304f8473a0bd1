//! The admin interface: /health, /ready, /metrics, /status, over TCP and over a Unix socket.
//!
//! `/health` is about our loops, `/ready` about our start and stop; neither is about the world: a node whose upstreams are
//! all dead still needs its nameserver, if only for stale answers and clear errors.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State as Shares;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::metrics::Totals;
use crate::process::app::StartError;
use crate::process::reload::{ReloadStatus, Reloads};
use crate::serving::setup::Setup;
use crate::serving::worker::{Heartbeat, Shared};
use crate::upstream::server::{Carrier, HealthReport};

/// A worker whose loop has not run for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// How often we look whether an earlier instance has let go of an address.
const LOOK: Duration = Duration::from_millis(250);

/// Whether we have started, and whether we are about to stop.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const STARTING: u8 = 0;
    const READY: u8 = 1;
    const STOPPING: u8 = 2;

    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU8::new(Self::STARTING))
    }

    /// Listening, and the first probes sent.
    pub fn set_ready(&self) {
        let _ = self.0.compare_exchange(
            Self::STARTING,
            Self::READY,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// No further traffic, please.
    pub fn shut_down(&self) {
        self.0.store(Self::STOPPING, Ordering::Relaxed);
    }

    fn pending(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            Self::READY => None,
            Self::STARTING => Some("the first probes have not left yet"),
            _ => Some("shutting down"),
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// What the endpoints show.
pub struct State {
    shared: Arc<Shared>,
    heartbeats: Vec<Arc<Heartbeat>>,
    readiness: Arc<Readiness>,
    listen: Arc<ArcSwap<Vec<SocketAddr>>>,
    reloads: Arc<Reloads>,
    admin: Option<SocketAddr>,
    started: Instant,
}

impl State {
    /// Shows these parts.
    #[must_use]
    pub fn new(
        shared: &Arc<Shared>,
        heartbeats: Vec<Arc<Heartbeat>>,
        readiness: Arc<Readiness>,
        listen: Arc<ArcSwap<Vec<SocketAddr>>>,
        reloads: Arc<Reloads>,
        admin: Option<SocketAddr>,
    ) -> Self {
        let (shared, started) = (Arc::clone(shared), Instant::now());
        Self {
            shared,
            heartbeats,
            readiness,
            listen,
            reloads,
            admin,
            started,
        }
    }

    fn metrics(&self) -> String {
        let Shared { metrics, cache, .. } = &*self.shared;
        let setup = self.shared.current.load();
        metrics
            .cache_entries
            .set(i64::try_from(cache.entries()).unwrap_or(i64::MAX));
        metrics
            .cache_bytes
            .set(i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
        metrics
            .cache_max_bytes
            .set(i64::try_from(setup.config.cache.max_size).unwrap_or(i64::MAX));
        let evictions = cache
            .evictions()
            .saturating_sub(metrics.cache_evictions.get());
        metrics.cache_evictions.inc_by(evictions);
        let clocks = (Instant::now(), SystemTime::now());
        for server in &setup.upstreams.servers {
            server.show(clocks);
        }
        metrics.render()
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        let (cache, setup) = (&self.shared.cache, self.shared.current.load());
        let Setup {
            upstreams,
            routes,
            config,
            ..
        } = &**setup;
        let groups = upstreams.groups.iter().map(|group| GroupStatus {
            name: group.name.to_string(),
            in_flight: group.in_flight(),
            hedges_sent: group.metrics.hedges_sent.get(),
            hedges_won: group.metrics.hedges_won.get(),
            servers: group
                .servers
                .iter()
                .map(|server| ServerStatus {
                    server: server.label.clone(),
                    looped: server.looped(),
                    health: Carrier::ALL
                        .into_iter()
                        .filter(|&carrier| {
                            carrier == server.carrier()
                                || server.state_of(carrier)
                                    != crate::upstream::health::State::Unknown
                        })
                        .map(|carrier| server.report(carrier, now))
                        .collect(),
                })
                .collect(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node_name.clone(),
            ready: self.readiness.pending().is_none(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.load().to_vec(),
            admin: self.admin,
            workers: self.heartbeats.len(),
            configuration: self.reloads.status(),
            routes: routes
                .iter()
                .map(|route| RouteStatus {
                    zone: route.zone.clone(),
                    groups: route
                        .tiers
                        .iter()
                        .map(|&tier| upstreams.groups[tier].name.to_string())
                        .collect(),
                })
                .collect(),
            upstreams: groups.collect(),
            totals: self.shared.metrics.totals(),
            cache: CacheStatus {
                entries: cache.entries(),
                bytes: cache.bytes(),
                max_bytes: config.cache.max_size,
                evictions: cache.evictions(),
            },
        }
    }
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    node: String,
    ready: bool,
    uptime_seconds: u64,
    listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    workers: usize,
    configuration: ReloadStatus,
    routes: Vec<RouteStatus>,
    upstreams: Vec<GroupStatus>,
    totals: Totals,
    cache: CacheStatus,
}

#[derive(Serialize)]
struct RouteStatus {
    zone: String,
    groups: Vec<String>,
}

#[derive(Serialize)]
struct GroupStatus {
    name: String,
    in_flight: usize,
    hedges_sent: u64,
    hedges_won: u64,
    servers: Vec<ServerStatus>,
}

#[derive(Serialize)]
struct ServerStatus {
    server: String,
    looped: bool,
    health: Vec<HealthReport>,
}

#[derive(Serialize)]
struct CacheStatus {
    entries: usize,
    bytes: u64,
    max_bytes: u64,
    evictions: u64,
}

async fn health(Shares(state): Shares<Arc<State>>) -> impl IntoResponse {
    let stuck = state
        .heartbeats
        .iter()
        .position(|heartbeat| heartbeat.age() > STUCK);
    match stuck {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(index) => {
            let age = state.heartbeats[index].age().as_secs();
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("worker {index} has not run for {age} s\n"),
            )
        }
    }
}

async fn ready(Shares(state): Shares<Arc<State>>) -> impl IntoResponse {
    match state.readiness.pending() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(pending) => (StatusCode::SERVICE_UNAVAILABLE, format!("{pending}\n")),
    }
}

async fn metrics(Shares(state): Shares<Arc<State>>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        state.metrics(),
    )
}

async fn status(Shares(state): Shares<Arc<State>>) -> impl IntoResponse {
    match serde_json::to_string_pretty(&state.status()) {
        Ok(json) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/json")],
            json + "\n",
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// What a node may show to its neighbours.
fn public(state: &Arc<State>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(state))
}

/// Everything.
fn whole(state: &Arc<State>) -> Router {
    Router::new()
        .route("/status", get(status))
        .with_state(Arc::clone(state))
        .merge(public(state))
}

/// The ways into the admin interface, not served yet.
pub struct Bound(Vec<Door>);

/// A way in.
struct Door {
    place: Place,
    shows: Shows,
    /// None: an earlier instance has the place until it ends.
    listener: Option<Listener>,
}

#[derive(Clone)]
enum Place {
    Address(&'static str, SocketAddr),
    File(PathBuf),
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

#[derive(Clone, Copy)]
enum Shows {
    Everything,
    Public,
}

/// A Unix socket's file; dropping it removes it, unless another instance has put its own in its place.
struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) != self.inode {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays");
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(metadata.ino())
}

impl Place {
    fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Address(_, address) => bind_tcp(*address).map(Listener::Tcp),
            Self::File(path) => {
                let listener = bind_socket(path)?;
                Ok(Listener::Unix(listener, SocketFile::new(path.clone())))
            }
        }
    }

    fn error(self, source: io::Error) -> StartError {
        match self {
            Self::Address(key, address) => StartError::Admin {
                key,
                address,
                source,
            },
            Self::File(path) => StartError::Socket { path, source },
        }
    }

    /// Waits until an earlier instance lets go of it.
    async fn take_over(&self) -> Listener {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Ok(listener) = self.bind() {
                return listener;
            }
        }
    }
}

/// A served admin interface. Dropping it stops it and removes the Unix socket.
pub struct Admin {
    _servers: JoinSet<()>,
}

impl Bound {
    /// Binds what the configuration names; what cannot be had is added to `errors`. With `handover`, what an earlier
    /// instance has is waited for.
    pub fn bind(config: &Config, errors: &mut Vec<StartError>) -> Self {
        let admin = |address| (Place::Address("admin", address), Shows::Everything);
        let metrics = |address| (Place::Address("metrics.listen", address), Shows::Public);
        let socket = |path| (Place::File(path), Shows::Everything);
        let wanted = [
            config.admin.map(admin),
            config.metrics_listen.map(metrics),
            config.socket.clone().map(socket),
        ];
        let mut doors = Vec::new();
        for (place, shows) in wanted.into_iter().flatten() {
            let listener = match place.bind() {
                Ok(listener) => Some(listener),
                Err(error) if config.handover && error.kind() == io::ErrorKind::AddrInUse => None,
                Err(error) => {
                    errors.push(place.error(error));
                    continue;
                }
            };
            doors.push(Door {
                place,
                shows,
                listener,
            });
        }
        Self(doors)
    }

    /// Address of the admin interface over TCP, be it ours already or not.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0
            .iter()
            .find_map(|door| match (&door.place, &door.listener) {
                (Place::Address("admin", _), Some(Listener::Tcp(listener))) => {
                    listener.local_addr().ok()
                }
                (Place::Address("admin", address), _) => Some(*address),
                _ => None,
            })
    }

    /// Serves on the current runtime.
    #[must_use]
    pub fn serve(self, state: State) -> Admin {
        let state = Arc::new(state);
        let mut servers = JoinSet::new();
        for door in self.0 {
            let router = match door.shows {
                Shows::Everything => whole(&state),
                Shows::Public => public(&state),
            };
            servers.spawn(door.serve(router));
        }
        Admin { _servers: servers }
    }
}

impl Door {
    async fn serve(self, router: Router) {
        let listener = match self.listener {
            Some(listener) => listener,
            None => self.place.take_over().await,
        };
        let ended = match listener {
            Listener::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
                Err(error) => Err(error),
            },
            Listener::Unix(listener, _file) => match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the admin interface ended");
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // An instance before us may have left connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A Unix socket that only our own user can use. One that nobody listens on any more is replaced.
fn bind_socket(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // On Linux the file inherits the socket's own mode, so there is no moment at which others could connect.
    let socket = fs::File::from(OwnedFd::from(socket));
    socket.set_permissions(fs::Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(128)?;
    Ok(OwnedFd::from(socket).into())
}
