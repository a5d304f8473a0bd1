//! One configuration, and what is made from it. A reload makes a new setup and replaces the old one as a whole.
//!
//! Owns no sockets and no threads. State that must outlive a reload (the cache, metrics) is in
//! [`crate::serving::worker::Shared`]. A server that both configurations name in the same words is taken over with its health.

use std::sync::Arc;
use std::time::Instant;

use super::local::LocalZone;
use crate::cache::Entry;
use crate::config::Config;
use crate::message::alias;
use crate::message::query::Question;
use crate::message::wire::rr;
use crate::net::network::Network;
use crate::upstream::metrics::UpstreamFamilies;
use crate::upstream::routes::{Routes, TooManyZones};
use crate::upstream::{UpstreamError, Upstreams};

/// A configuration, and what is made from it.
#[derive(Debug)]
pub struct Setup {
    /// The validated configuration.
    pub config: Config,
    /// Zone → groups.
    pub routes: Routes,
    /// Groups, servers and their health.
    pub upstreams: Arc<Upstreams>,
    /// Names that are answered from the configuration.
    pub local: LocalZone,
}

/// Why a valid configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A group cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// There were too many zones since the start, so that the new routes cannot get indices of their own.
    #[error(transparent)]
    Zones(#[from] TooManyZones),
}

impl Setup {
    /// The setup that `config` describes. Servers and indices of zones are taken over from `previous` where the configurations
    /// agree.
    ///
    /// # Errors
    /// All errors, not the first one alone.
    pub fn new(
        config: Config,
        previous: Option<&Self>,
        metrics: &UpstreamFamilies,
        network: &Arc<dyn Network>,
        now: Instant,
    ) -> Result<Self, Vec<SetupError>> {
        let known = previous.map(|old| (&old.routes, &old.config));
        let routes = Routes::replacing(&config, known).map_err(|error| vec![error.into()])?;
        let known = previous.map(|old| &*old.upstreams);
        let upstreams = Upstreams::new(&config, known, metrics, network, now)
            .map_err(|errors| errors.into_iter().map(SetupError::from).collect::<Vec<_>>())?;
        let version = env!("CARGO_PKG_VERSION");
        let local = LocalZone::new(&config.records, &config.hosts, &config.node_name, version);
        Ok(Self {
            config,
            routes,
            upstreams: Arc::new(upstreams),
            local,
        })
    }

    /// Whether a question is answered without servers, because the configuration has the name, or DNS64 makes it an alias.
    #[must_use]
    pub fn answers(&self, question: &Question<'_>) -> bool {
        self.local.owns(question.name, question.qclass) || self.ipv4_pointer(question).is_some()
    }

    /// The target, if DNS64 makes the question's reverse name an alias.
    #[must_use]
    pub fn ipv4_pointer(&self, question: &Question<'_>) -> Option<Vec<u8>> {
        if question.qclass != rr::IN || question.validates() {
            return None;
        }
        self.routes.ipv4_pointer(question.name, question.qtype)
    }

    /// Whether an answer for a lower-cased wire name and type, which `other`'s route `index` gave, may be served under this
    /// setup.
    #[must_use]
    pub fn keeps(&self, name: &[u8], qtype: u16, index: u16, other: &Self) -> bool {
        self.routes.keeps(name, qtype, index, &other.routes)
            && !self.local.owns(name, rr::IN)
            && self.routes.ipv4_pointer(name, qtype).is_none()
    }

    /// Whether an answer cached under `other` may be served under this setup: its own route and the routes of its aliases'
    /// targets have not changed.
    #[must_use]
    pub fn keeps_answer(&self, entry: &Entry, other: &Self) -> bool {
        let (name, qtype) = (entry.name(), entry.qtype());
        let route = entry.route();
        route.is_some_and(|route| self.keeps(name, qtype, route, other))
            && self.keeps_aliases(entry, other)
    }

    /// Whether each alias's target in an answer cached under `other` would be looked up in the same way under this setup.
    /// Targets that the server itself followed are checked as well: an answer that is dropped without need costs one query.
    #[must_use]
    pub fn keeps_aliases(&self, entry: &Entry, other: &Self) -> bool {
        let targets = alias::targets(entry.response());
        if targets.is_empty() {
            return true;
        }
        let (qtype, same_names) = (entry.qtype(), self.same_local_names(other));
        self.config.complete_cnames == other.config.complete_cnames
            && targets.iter().all(|target| {
                let pointer = |setup: &Self| setup.routes.ipv4_pointer(target, qtype);
                if pointer(self) != pointer(other) {
                    return false;
                }
                match (
                    self.local.owns(target, rr::IN),
                    other.local.owns(target, rr::IN),
                ) {
                    (true, true) => same_names,
                    (false, false) => match other.routes.find(target, qtype) {
                        Some(index) => self.routes.keeps(target, qtype, index, &other.routes),
                        None => self.routes.find(target, qtype).is_none(),
                    },
                    _ => false,
                }
            })
    }

    fn same_local_names(&self, other: &Self) -> bool {
        self.config.records == other.config.records && self.config.hosts == other.config.hosts
    }

    /// Whether all answers cached under `other` may be served under this setup.
    #[must_use]
    pub fn keeps_all(&self, other: &Self) -> bool {
        self.routes.same_as(&other.routes)
            && self.same_local_names(other)
            && self.config.complete_cnames == other.config.complete_cnames
    }
}
