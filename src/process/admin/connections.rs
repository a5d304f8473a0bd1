//! HTTP connections of the admin interface: no more than its budget, and none that sends its request's header for ever.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::sleep_until;

use super::access::Peer;
use crate::budgets::{
    ADMIN_CONNECTIONS, ADMIN_HEADER_TIME, ADMIN_REQUEST_INTERVAL, ADMIN_REQUESTS_AT_ONCE,
};
use crate::runtime;

/// Connections that are accepted before those that were accepted get their turn: far fewer than there may be.
const ACCEPTED_AT_ONCE: usize = ADMIN_CONNECTIONS / 4;

/// Serves a listening socket for ever; dropping the future ends all its connections. A connection over the budget takes
/// the place of the oldest, so that nobody can lock others out by holding connections. Nor by opening them faster than they
/// are served: those that were accepted get their turn before more are. Nor by asking a lot: each request lets others go first,
/// and those of one connection have a pace. Requests carry where they come from.
pub(super) async fn serve_connections<L: Listener>(
    mut listener: L,
    router: Router,
    peer: impl Fn(&L::Addr) -> Peer,
) -> Infallible {
    let mut connections = JoinSet::new();
    let mut accepted = 0;
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
                let connection = serve_connection(stream, router.clone(), peer(&from));
                by_age.push_back(connections.spawn(connection));
                accepted += 1;
                if accepted % ACCEPTED_AT_ONCE == 0 {
                    yield_now().await;
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve_connection<S>(stream: S, router: Router, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Arc::new(Pace(Mutex::new(runtime::now())));
    let router = router
        .layer(Extension(peer))
        .layer(from_fn_with_state(pace, at_a_pace));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADER_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that goes away is no matter of ours.
    let _ = connection.await;
}

/// When a connection's next request would be answered if none had been saved up.
struct Pace(Mutex<Instant>);

impl Pace {
    /// When a request that came now is to be answered.
    fn next(&self, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same as that many tokens that come back one by one.
        let saved_up = ADMIN_REQUEST_INTERVAL * ADMIN_REQUESTS_AT_ONCE;
        *next = (*next).max(now) + ADMIN_REQUEST_INTERVAL;
        (*next).checked_sub(saved_up).unwrap_or(now)
    }
}

/// Answers a request after whatever else is ready, and not before its time: a connection may bring hundreds at once.
async fn at_a_pace(State(pace): State<Arc<Pace>>, request: Request, next: Next) -> Response {
    yield_now().await;
    sleep_until(pace.next(runtime::now()).into()).await;
    next.run(request).await
}
