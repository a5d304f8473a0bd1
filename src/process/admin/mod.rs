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
use tokio::task::JoinSet;

use crate::config::Config;
use access::Peer;
use connections::serve_connections;
pub use endpoint::AdminError;
use endpoint::{Listener, Location};
pub use page::duration;
pub use status::Instance;

/// The endpoints of the admin interface, not served yet.
pub struct BoundAdmin(Vec<Endpoint>);

struct Endpoint {
    location: Location,
    shows: Shows,
    /// None: an earlier instance has the location until it ends.
    listener: Option<Listener>,
}

#[derive(Clone, Copy)]
enum Shows {
    /// What can be looked at, and the cache, which can be flushed.
    Everything,
    /// What can be looked at.
    Status,
    /// What neighbours may look at.
    Public,
}

/// A served admin interface. Dropping it stops it and removes the Unix socket.
pub struct Admin {
    _servers: JoinSet<()>,
}

impl BoundAdmin {
    /// Binds what the configuration names; what cannot be had is added to `errors`. With `handover`, what an earlier
    /// instance has is waited for.
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
            endpoints.push(Endpoint {
                location,
                shows,
                listener,
            });
        }
        Self(endpoints)
    }

    /// Address of the admin interface over TCP, be it ours already or not.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0
            .iter()
            .find_map(|endpoint| match (&endpoint.location, &endpoint.listener) {
                (Location::Address("admin", _), Some(Listener::Tcp(listener))) => {
                    listener.local_addr().ok()
                }
                (Location::Address("admin", address), _) => Some(*address),
                _ => None,
            })
    }

    /// Serves on the current runtime.
    #[must_use]
    pub fn serve(self, instance: Instance) -> Admin {
        let instance = Arc::new(instance);
        let whole = http::public(&instance).merge(page::router(&instance));
        let mut servers = JoinSet::new();
        for endpoint in self.0 {
            let router = match endpoint.shows {
                Shows::Everything => whole.clone().merge(cache::router(&instance)),
                Shows::Status => whole.clone(),
                Shows::Public => http::public(&instance),
            };
            servers.spawn(endpoint.serve(router));
        }
        Admin { _servers: servers }
    }
}

impl Endpoint {
    async fn serve(self, router: Router) {
        let listener = match self.listener {
            Some(listener) => listener,
            None => self.location.take_over().await,
        };
        let error = match listener {
            Listener::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    match serve_connections(listener, router, |&from| from.into()).await {}
                }
                Err(error) => error,
            },
            Listener::Unix(listener, _file) => match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => {
                    match serve_connections(listener, router, |_| Peer::Socket).await {}
                }
                Err(error) => error,
            },
        };
        tracing::error!(%error, "the admin interface cannot be served");
    }
}
