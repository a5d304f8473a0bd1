//! Which answers of another process may be served under a setup of this one.
//!
//! Owns the description that an instance gives of its setup to its successor, and the comparison. It decides as a reload does
//! ([`Setup::keeps_answer`]), with less knowledge: what cannot be told for sure is refused, which costs a query.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::setup::Setup;
use crate::cache::Entry;
use crate::message::alias;
use crate::message::wire::rr;
use crate::upstream::routes::{RouteWords, Routes, UnknownZones};

/// What an instance says of the setup to which its cache belongs.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetupWords {
    /// By index.
    routes: Vec<Option<RouteWords>>,
    /// Hash of all that is said of `records` and `hosts`.
    local_names: u64,
    complete_cnames: bool,
}

/// Another process's setup, compared with one of this process.
pub struct Inheritance<'a> {
    setup: &'a Setup,
    theirs: Routes,
    /// Where in `setup`, by their index.
    indices: Vec<Option<u16>>,
    /// Whether answers with aliases can be judged at all.
    same_aliases: bool,
}

impl Setup {
    /// It, in words for a successor.
    #[must_use]
    pub fn words(&self) -> SetupWords {
        let mut hasher = DefaultHasher::new();
        format!("{:?} {:?}", self.config.records, self.config.hosts).hash(&mut hasher);
        SetupWords {
            routes: self.routes.words(&self.config),
            local_names: hasher.finish(),
            complete_cnames: self.config.complete_cnames,
        }
    }

    /// What of a predecessor with such a setup may be served under this one.
    ///
    /// # Errors
    /// [`UnknownZones`] if the words make no sense.
    pub fn inheritance(&self, words: &SetupWords) -> Result<Inheritance<'_>, UnknownZones> {
        let (theirs, indices) = self.routes.of_another(&self.config, &words.routes)?;
        let own = self.words();
        Ok(Inheritance {
            setup: self,
            theirs,
            indices,
            same_aliases: own.local_names == words.local_names
                && own.complete_cnames == words.complete_cnames,
        })
    }
}

impl Inheritance<'_> {
    /// The index here of their route.
    #[must_use]
    pub fn route(&self, theirs: u16) -> Option<u16> {
        *self.indices.get(usize::from(theirs))?
    }

    /// Whether an answer that came by a route that they have, [`Inheritance::route`], may be served here.
    #[must_use]
    pub fn takes(&self, entry: &Entry) -> bool {
        let (name, qtype) = (entry.name(), entry.qtype());
        let keeps = |name: &[u8], index| {
            let routes = &self.setup.routes;
            routes.keeps(name, qtype, index, &self.theirs)
        };
        let own = |name: &[u8]| self.setup.local.owns(name, rr::IN);
        let leads_where_it_led = |target: &[u8]| match self.theirs.find(target, qtype) {
            // The names are the same on both sides, or `same_aliases` is false.
            _ if own(target) => true,
            Some(index) => keeps(target, index),
            None => self.setup.routes.find(target, qtype).is_none(),
        };
        let targets = alias::targets(entry.response());
        entry.route().is_some_and(|index| keeps(name, index))
            && !own(name)
            && (targets.is_empty() || self.same_aliases)
            && targets.iter().all(|target| leads_where_it_led(target))
    }
}
