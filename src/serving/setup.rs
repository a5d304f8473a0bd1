//! One configuration and what is made from it. A reload makes another one and puts it in this one's place, as a whole.
//!
//! Owns no sockets and no threads. What must outlive a reload (the cache, metrics, clients' connections) is in
//! [`crate::serving::worker::Shared`]; servers that the new configuration names in the same words are taken over with their health.

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

/// A configuration in force, and what it is made of.
#[derive(Debug)]
pub struct Setup {
    /// As validated.
    pub config: Config,
    /// Zone → groups.
    pub routes: Routes,
    /// Groups, servers and their health.
    pub upstreams: Arc<Upstreams>,
    /// Names answered here.
    pub local: LocalZone,
}

/// Why a valid configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A group cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Its routes cannot be told apart from earlier ones.
    #[error(transparent)]
    Zones(#[from] TooManyZones),
}

impl Setup {
    /// What `config` describes, taking over what `previous` has in the same words.
    ///
    /// # Errors
    /// All there are.
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

    /// Whether a question is answered here, because the configuration holds the name or DNS64 makes it an alias.
    #[must_use]
    pub fn answers(&self, question: &Question<'_>) -> bool {
        self.local.owns(question.name, question.qclass) || self.ipv4_pointer(question).is_some()
    }

    /// The name that DNS64 makes a reverse name an alias of.
    #[must_use]
    pub fn ipv4_pointer(&self, question: &Question<'_>) -> Option<Vec<u8>> {
        if question.qclass != rr::IN || question.validates() {
            return None;
        }
        self.routes.ipv4_pointer(question.name, question.qtype)
    }

    /// Whether an answer for a lower-cased wire name and type, cached by way of `other`'s route `index`, may be served under
    /// this configuration.
    #[must_use]
    pub fn keeps(&self, name: &[u8], qtype: u16, index: u16, other: &Self) -> bool {
        self.routes.keeps(name, qtype, index, &other.routes)
            && !self.local.owns(name, rr::IN)
            && self.routes.ipv4_pointer(name, qtype).is_none()
    }

    /// Whether an answer cached under `other` may be served under this configuration: its own route and those to which its
    /// aliases lead are as they were.
    #[must_use]
    pub fn keeps_answer(&self, entry: &Entry, other: &Self) -> bool {
        let (name, qtype) = (entry.name(), entry.qtype());
        let route = entry.route();
        route.is_some_and(|route| self.keeps(name, qtype, route, other))
            && self.keeps_aliases(entry, other)
    }

    /// Whether each alias in an answer of `other` leads where it led. Which of the targets were looked up here, and which the
    /// server knew, does not matter: forgetting one too many costs a query.
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

    /// Whether it keeps everything cached under `other`.
    #[must_use]
    pub fn keeps_all(&self, other: &Self) -> bool {
        self.routes.same_as(&other.routes)
            && self.same_local_names(other)
            && self.config.complete_cnames == other.config.complete_cnames
    }
}
