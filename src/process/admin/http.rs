//! The endpoints of the admin interface.
//!
//! `/health` says whether the workers' loops run, `/ready` whether this process has started and is not stopping.
//! Neither depends on upstream servers: a node whose upstreams are all down still needs its nameserver, for stale
//! answers and clear errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::status::Instance;

/// A worker whose loop has not run for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);

async fn health(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    let asked = Instant::now();
    let stuck = instance
        .heartbeats
        .iter()
        .position(|heartbeat| heartbeat.age() > STUCK);
    match stuck {
        None => {
            instance.health.count_ok(asked.elapsed());
            (StatusCode::OK, "ok\n".to_owned())
        }
        Some(index) => {
            instance.health.count_failed(asked.elapsed());
            let age = instance.heartbeats[index].age().as_secs();
            (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("worker {index} has not run for {age} s\n"),
            )
        }
    }
}

async fn ready(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    match instance.readiness.pending() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(pending) => (StatusCode::SERVICE_UNAVAILABLE, format!("{pending}\n")),
    }
}

async fn metrics(State(instance): State<Arc<Instance>>) -> Response {
    let text = if instance.shared.metrics.coredns().is_some() {
        // On a blocking thread, because all entries of the cache are read.
        tokio::task::spawn_blocking(move || instance.metrics_text()).await
    } else {
        Ok(instance.metrics_text())
    };
    match text {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(super) async fn status(State(instance): State<Arc<Instance>>) -> impl IntoResponse {
    match serde_json::to_string_pretty(&instance.status()) {
        Ok(json) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/json")],
            json + "\n",
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The endpoints that a node shows to other hosts.
pub(super) fn public(instance: &Arc<Instance>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(instance))
}
