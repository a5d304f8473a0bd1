//! The admin interface: /health, /ready, /metrics, /status and the page at /, over TCP and over a Unix socket; over the latter
//! the cache too.

mod access;
pub mod cache;
mod connections;
mod endpoint;
mod http;
mod page;
mod status;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::config::Config;
pub use access::RequestOrigin;
use connections::{serve_connection, serve_connections};
pub use endpoint::AdminError;
use endpoint::{AdminListener, Location};
pub use page::duration;
pub use status::Instance;

/// The endpoints of the admin interface, not served yet.
pub struct BoundAdmin(Vec<AdminEndpoint>);

struct AdminEndpoint {
    location: Location,
    shows: Shows,
    /// None while an earlier instance has the location.
    listener: Option<AdminListener>,
}

/// What an endpoint shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Everything, and requests for the cache, which can be flushed.
    Everything,
    /// Everything but requests for the cache.
    Status,
    /// What other hosts may see.
    Public,
}

/// What the endpoints of one instance show.
pub struct Pages {
    everything: Router,
    status: Router,
    public: Router,
}

/// A served admin interface. Dropping it stops it and removes the Unix socket.
pub struct Admin {
    _servers: JoinSet<()>,
}

impl BoundAdmin {
    /// Binds the locations of the configuration; failures are added to `errors`. With `handover`, a location that an
    /// earlier instance has is waited for.
    pub fn bind(config: &Config, errors: &mut Vec<AdminError>) -> Self {
        let admin = |address| (Location::Address("admin", address), Shows::Status);
        let metrics = |address| (Location::Address("metrics.listen", address), Shows::Public);
        let socket = |path| (Location::File(path), Shows::Everything);
        let wanted = config
            .admin
            .map(admin)
            .into_iter()
            .chain(config.metrics_listen.iter().copied().map(metrics))
            .chain(config.socket.clone().map(socket));
        let mut endpoints = Vec::new();
        for (location, shows) in wanted {
            let listener = match location.bind() {
                Ok(listener) => Some(listener),
                Err(error) if config.handover && error.kind() == io::ErrorKind::AddrInUse => None,
                Err(error) => {
                    errors.push(location.error(error));
                    continue;
                }
            };
            endpoints.push(AdminEndpoint {
                location,
                shows,
                listener,
            });
        }
        Self(endpoints)
    }

    /// Address of the admin interface over TCP, even if an earlier instance still has it.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0
            .iter()
            .find_map(|endpoint| match (&endpoint.location, &endpoint.listener) {
                (Location::Address("admin", _), Some(AdminListener::Tcp(listener))) => {
                    listener.local_addr().ok()
                }
                (Location::Address("admin", address), _) => Some(*address),
                _ => None,
            })
    }

    /// Serves on the current runtime.
    #[must_use]
    pub fn serve(self, instance: Instance) -> Admin {
        let pages = Pages::new(instance);
        let mut servers = JoinSet::new();
        for endpoint in self.0 {
            let router = pages.router(endpoint.shows);
            servers.spawn(endpoint.serve(router));
        }
        Admin { _servers: servers }
    }
}

impl Pages {
    /// Those of `instance`.
    #[must_use]
    pub fn new(instance: Instance) -> Self {
        let instance = Arc::new(instance);
        let public = http::public(&instance);
        let status = public.clone().merge(page::router(&instance));
        Self {
            everything: status.clone().merge(cache::router(&instance)),
            status,
            public,
        }
    }

    fn router(&self, shows: Shows) -> Router {
        let router = match shows {
            Shows::Everything => &self.everything,
            Shows::Status => &self.status,
            Shows::Public => &self.public,
        };
        router.clone()
    }

    /// Serves one connection until it ends, as an endpoint that shows this serves each of its own.
    pub async fn serve_connection<S>(&self, stream: S, shows: Shows, peer: RequestOrigin)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve_connection(stream, self.router(shows), peer).await;
    }
}

impl AdminEndpoint {
    async fn serve(self, router: Router) {
        let listener = match self.listener {
            Some(listener) => listener,
            None => self.location.take_over().await,
        };
        let error = match listener {
            AdminListener::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    match serve_connections(listener, router, |&from| from.into()).await {}
                }
                Err(error) => error,
            },
            AdminListener::Unix(listener, _file) => {
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => {
                        match serve_connections(listener, router, |_| RequestOrigin::Socket).await {}
                    }
                    Err(error) => error,
                }
            }
        };
        tracing::error!(%error, "the admin interface cannot be served");
    }
}
