//! Puts another setup in force, in an order in which no client is served by an outdated part.

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

/// Gives `setup` to the workers and to the sender of probes, and returns once all use it. The setup in force is changed
/// first, because results that arrive late are compared with it.
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

/// Removes the cache entries that the new setup does not keep. Reads every entry.
pub fn forget_answers(shared: &Shared, setup: &Setup, old: &Setup) {
    let cache = &shared.cache;
    if setup.config.cache.max_size != old.config.cache.max_size {
        cache.resize(setup.config.cache.max_size);
    }
    // Failures may be those of other servers than the present ones; asking again is cheap.
    cache.forget_failures();
    if !setup.config.status.failures {
        shared.failures.forget();
    }
    if !setup.keeps_all(old) {
        cache.retain(|entry| setup.keeps_answer(entry, old));
    }
}

/// Has the metrics forget routes that are gone. Queries that still wait under one of them are not counted.
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
