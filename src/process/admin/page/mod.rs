//! The page at `/`: what /status says, for people. One HTML document without anything from elsewhere.
//!
//! The server writes it whole, so that it can be read without JavaScript; with it, the page reads /status every two seconds
//! and asks servers at the press of a button ([`ask`]). Words that come from the network are escaped here, and are text nodes
//! there; the Content-Security-Policy allows no script and no style but ours, and no connection but to us.

mod ask;
mod render;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::process::admin::access::{RequestOrigin, refuse_host_names};
use crate::process::admin::http::status;
use crate::process::admin::status::Instance;
use ask::Questions;
pub use render::duration;

/// Octets of a question from the page.
const QUESTION_BYTES: usize = 2_048;

/// Limits the effect of markup that gets into the page in spite of escaping: it cannot load or run anything. `img-src
/// data:` is for the empty icon, without which browsers ask for /favicon.ico.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A number that nobody can guess, for one response.
fn nonce() -> Result<String, getrandom::Error> {
    Ok(format!(
        "{:016x}{:016x}",
        getrandom::u64()?,
        getrandom::u64()?
    ))
}

async fn page(
    State(instance): State<Arc<Instance>>,
    Extension(peer): Extension<RequestOrigin>,
) -> Response {
    let Ok(nonce) = nonce() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    (
        [
            (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (header::CONTENT_SECURITY_POLICY, policy(&nonce)),
        ],
        render::document(&instance.status(), peer, &nonce),
    )
        .into_response()
}

/// Headers of every answer: browsers must not guess its type, store it, or send its address to other sites.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

async fn add_headers(request: axum::extract::Request, next: middleware::Next) -> Response {
    (HEADERS, next.run(request).await).into_response()
}

/// The page, what it reads, and what it has done.
pub(super) fn router(instance: &Arc<Instance>) -> Router {
    let asking = Router::new()
        .route("/ask", post(ask::ask))
        .layer(DefaultBodyLimit::max(QUESTION_BYTES))
        .with_state((Arc::clone(instance), Arc::new(Questions::new())));
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .with_state(Arc::clone(instance))
        .merge(asking)
        .layer(middleware::from_fn(refuse_host_names))
        .layer(middleware::from_fn(add_headers))
}
