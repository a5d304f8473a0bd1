//! Upstream groups and servers as the whole process sees them, and the asking of one question.
//!
//! - [`health`] and [`plan`] are the rules, pure;
//! - [`server`] and [`group`] are the shared state they act on;
//! - [`ask`] runs a plan over a worker's own transports.

pub mod ask;
pub mod group;
pub mod health;
pub mod plan;
pub mod probe;
pub mod server;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::config::Config;
use crate::metrics::Metrics;
use group::Group;
use server::Server;

/// All groups and servers of the process.
#[derive(Debug)]
pub struct Upstreams {
    /// Groups, as the configuration orders them; routes refer to them by index.
    pub groups: Vec<Group>,
    /// Servers of all groups.
    pub servers: Vec<Arc<Server>>,
    /// Notified when a probe is due earlier than it was.
    pub probe_wanted: Arc<Notify>,
}

impl Upstreams {
    /// The configured groups; nothing is known of any server yet.
    #[must_use]
    pub fn new(config: &Config, metrics: &Metrics, now: Instant) -> Self {
        let probe_wanted = Arc::new(Notify::new());
        let mut servers = Vec::new();
        let groups = config
            .groups
            .iter()
            .map(|group| {
                let members =
                    Group::make_servers(group, servers.len(), &probe_wanted, metrics, now);
                servers.extend(members.iter().cloned());
                Group::new(group, members, metrics)
            })
            .collect();
        Self {
            groups,
            servers,
            probe_wanted,
        }
    }
}
