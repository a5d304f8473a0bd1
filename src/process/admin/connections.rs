//! HTTP connections of the admin interface: no more than its budget, and none that sends its request's header for ever.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{AbortHandle, JoinSet};

use super::access::Peer;
use crate::budgets::{ADMIN_CONNECTIONS, ADMIN_HEADER_TIME};

/// Serves a listening socket for ever; dropping the future ends all its connections. A connection over the budget takes
/// the place of the oldest, so that nobody can lock others out by holding connections. Requests carry where they come from.
pub(super) async fn serve_connections<L: Listener>(
    mut listener: L,
    router: Router,
    peer: impl Fn(&L::Addr) -> Peer,
) -> Infallible {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            (stream, from) = Listener::accept(&mut listener) => {
                by_age.retain(|connection| !connection.is_finished());
                if by_age.len() >= ADMIN_CONNECTIONS
                    && let Some(oldest) = by_age.pop_front()
                {
                    oldest.abort();
                }
                let service = TowerToHyperService::new(router.clone().layer(Extension(peer(&from))));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(ADMIN_HEADER_TIME)
                    .serve_connection(TokioIo::new(stream), service);
                by_age.push_back(connections.spawn(async move {
                    // A client that goes away is no matter of ours.
                    let _ = connection.await;
                }));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}
