//! Putting another setup in force, in the order in which nothing can be served by what no longer holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::threads::{Command, Commands};
use crate::serving::metrics::ServingFamilies;
use crate::serving::setup::Setup;
use crate::serving::worker::Shared;
use crate::upstream::Upstreams;
use crate::upstream::metrics::UpstreamFamilies;
use crate::upstream::server::Server;

/// How long a worker may take to work under another setup.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);

/// Has workers work under `setup` and whoever sends probes ask its servers; returns once that is so. Results that arrive late
/// are compared with the setup in force, so that changes first.
pub async fn put_in_force(
    setup: &Arc<Setup>,
    shared: &Shared,
    upstreams: &watch::Sender<Arc<Upstreams>>,
    workers: &[Commands],
) {
    shared.current.store(Arc::clone(setup));
    upstreams.send_replace(Arc::clone(&setup.upstreams));
    let mut taken = Vec::new();
    for worker in workers {
        let (done, is_done) = oneshot::channel();
        let _ = worker.send(Command::Work(Arc::clone(setup), done));
        taken.push(is_done);
    }
    for is_done in taken {
        if timeout(SETUP_PATIENCE, is_done).await.is_err() {
            tracing::error!("a worker does not take the new configuration; /health will tell");
        }
    }
}

/// Has the cache forget what the new setup does not vouch for. Takes as long as it takes to look at every entry.
pub fn forget_answers(shared: &Shared, setup: &Setup, old: &Setup) {
    let cache = &shared.cache;
    if setup.config.cache.max_size != old.config.cache.max_size {
        cache.resize(setup.config.cache.max_size);
    }
    // Whoever failed may be somebody else now; asking again is cheap.
    cache.forget_failures();
    if !setup.config.status.failures {
        shared.failures.forget();
    }
    if !setup.keeps_all(old) {
        cache.retain(|entry| setup.keeps_answer(entry, old));
    }
}

/// Has the metrics forget routes that are gone. What still waits under one of them is not counted any more.
pub fn forget_routes(metrics: &ServingFamilies, setup: &Setup, old: &Setup) {
    let zones = setup.routes.existing_zones();
    for (zone, old_zone) in zones.zip(old.routes.existing_zones()) {
        if let (None, Some(gone)) = (zone, old_zone) {
            metrics.forget_route(gone);
        }
    }
}

/// Has the metrics forget groups and servers that are gone.
pub fn forget_servers(metrics: &UpstreamFamilies, setup: &Setup, old: &Setup) {
    let groups = &setup.config.groups;
    for gone in &old.config.groups {
        if !groups.iter().any(|group| group.name == gone.name) {
            metrics.forget_group(&gone.name);
        }
    }
    let there = |gone: &Server| {
        let mut servers = setup.upstreams.servers.iter();
        servers.any(|server| server.group == gone.group && server.label == gone.label)
    };
    for server in &old.upstreams.servers {
        if !there(server) {
            metrics.forget(&server.group, &server.label);
        }
    }
}
