//! HTTP connections of the admin interface, with limits on their number and on the time for a request's header.

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

use super::access::RequestOrigin;
use crate::budgets::{
    ADMIN_CONNECTIONS, ADMIN_HEADER_TIME, ADMIN_REQUEST_INTERVAL, ADMIN_REQUESTS_AT_ONCE,
};
use crate::runtime;

/// Connections that are accepted before the accepted ones are served: far fewer than the limit.
const ACCEPTED_AT_ONCE: usize = ADMIN_CONNECTIONS / 4;

/// Serves a listening socket for ever; dropping the future ends all its connections. A connection over the budget takes
/// the place of the oldest, so that nobody can lock others out by holding connections. Opening them faster than they
/// are served does not help either: accepted connections are served before more are accepted. Nor do many requests:
/// each lets other tasks run first, and the requests of one connection are limited in rate. Requests carry their
/// origin.
pub(super) async fn serve_connections<L: Listener>(
    mut listener: L,
    router: Router,
    peer: impl Fn(&L::Addr) -> RequestOrigin,
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
pub(super) async fn serve_connection<S>(stream: S, router: Router, peer: RequestOrigin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pace = Arc::new(RequestPace(Mutex::new(runtime::now())));
    let router = router
        .layer(Extension(peer))
        .layer(from_fn_with_state(pace, at_a_pace));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADER_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that closes the connection is no error.
    let _ = connection.await;
}

/// The time of the next request if requests came at the fixed interval, without a burst.
struct RequestPace(Mutex<Instant>);

impl RequestPace {
    /// When a request that came now is to be answered.
    fn next(&self, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // This is a token bucket of that many requests.
        let saved_up = ADMIN_REQUEST_INTERVAL * ADMIN_REQUESTS_AT_ONCE;
        *next = (*next).max(now) + ADMIN_REQUEST_INTERVAL;
        (*next).checked_sub(saved_up).unwrap_or(now)
    }
}

/// Answers a request after other ready tasks and not before its time, because a connection may send hundreds at once.
async fn at_a_pace(State(pace): State<Arc<RequestPace>>, request: Request, next: Next) -> Response {
    yield_now().await;
    sleep_until(pace.next(runtime::now()).into()).await;
    next.run(request).await
}
