//! Which answers of a predecessor's cache may be served under a setup of this process.
//!
//! Owns the description of its setup that an instance gives to its successor, and the comparison of setups. The comparison
//! follows the rules of a reload ([`Setup::keeps_answer`]), but knows less: an answer in doubt is refused, which costs a query.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::setup::Setup;
use crate::cache::Entry;
use crate::message::alias;
use crate::message::wire::rr;
use crate::upstream::routes::{RouteWords, Routes, UnknownZones};

/// An instance's description of the setup that its cached answers belong to.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetupWords {
    /// Routes by index. None where a route is gone.
    routes: Vec<Option<RouteWords>>,
    /// Hash of `records` and `hosts`.
    local_names: u64,
    complete_cnames: bool,
}

/// A predecessor's setup, compared with one of this process.
pub struct Inheritance<'a> {
    setup: &'a Setup,
    theirs: Routes,
    /// Index of the same route in `setup`, by index of the predecessor's route.
    indices: Vec<Option<u16>>,
    /// Whether both setups have the same local names and `complete_cnames`. If not, answers with aliases are refused.
    same_aliases: bool,
}

impl Setup {
    /// A description of the setup for a successor.
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

    /// Compares a predecessor's setup with this one.
    ///
    /// # Errors
    /// [`UnknownZones`] if the description has zones that cannot be routes.
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
    /// The index in this process of the predecessor's route `theirs`.
    #[must_use]
    pub fn route(&self, theirs: u16) -> Option<u16> {
        *self.indices.get(usize::from(theirs))?
    }

    /// Whether an answer of the predecessor may be served here. Its route must be the one that [`Inheritance::route`] returns.
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;
    use crate::cache::Origin;
    use crate::config::Config;
    use crate::message::response::Response;
    use crate::metrics::Registry;
    use crate::net::network::kernel;
    use crate::upstream::metrics::UpstreamFamilies;

    fn setup(yaml: &str) -> Setup {
        let groups = "upstreams: {a: {servers: [127.0.0.1:1]}, b: {servers: [127.0.0.1:2]}}";
        let config = Config::from_yaml(&format!("{groups}\n{yaml}")).expect("valid");
        let families = UpstreamFamilies::register(&Registry::new());
        Setup::new(config, None, &families, &kernel(), Instant::now()).expect("valid")
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    /// An answer to `x.corp. A`: an address, behind an alias if one is given.
    fn answer(alias: Option<&str>) -> Response {
        let owner = name("x.corp.");
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(owner.clone(), RecordType::A));
        let mut last = owner.clone();
        if let Some(alias) = alias {
            last = name(alias);
            let rdata = RData::CNAME(CNAME(last.clone()));
            message.add_answer(Record::from_rdata(owner, 300, rdata));
        }
        let rdata = RData::A(A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(last, 300, rdata));
        Response::read(&message.to_vec().expect("short")).expect("well-formed")
    }

    /// Whether `ours` takes [`answer`] of `theirs`, which is described in JSON as by a predecessor.
    fn takes(theirs: &Setup, ours: &Setup, alias: Option<&str>) -> bool {
        let words = serde_json::to_vec(&theirs.words()).expect("JSON");
        let words: SetupWords = serde_json::from_slice(&words).expect("JSON");
        let inheritance = ours.inheritance(&words).expect("zones");
        let response = answer(alias);
        let section = response.view().question();
        let index = theirs.routes.find(&section[..section.len() - 4], rr::A);
        let route = inheritance
            .route(index.expect("a route"))
            .expect("it is there");
        let key = [section, &[0]].concat();
        let bounds = theirs.routes.get(index.expect("a route")).bounds;
        let origin = Origin {
            route,
            tier: 0,
            took: std::time::Duration::ZERO,
        };
        let entry = Entry::new(&key, &response, Instant::now(), origin, bounds);
        inheritance.takes(&entry)
    }

    #[test]
    fn answers_are_taken_if_name_and_aliases_lead_where_they_led() {
        let before = "routes: {corp: a, example: a, .: a}";
        for (what, after, plain, aliased) in [
            ("the same", before, true, true),
            (
                "in another order",
                "routes: {.: a, example: a, corp: a}",
                true,
                true,
            ),
            (
                "the name's route",
                "routes: {corp: b, example: a, .: a}",
                false,
                false,
            ),
            (
                "the target's route",
                "routes: {corp: a, example: b, .: a}",
                true,
                false,
            ),
            (
                "a route for the target",
                "routes: {corp: a, y.example: a, example: a, .: a}",
                true,
                false,
            ),
            ("no route for the target", "routes: {corp: a}", true, false),
            (
                "a filter",
                "routes: {corp: {group: a, filter: [AAAA]}, example: a, .: a}",
                false,
                false,
            ),
            (
                "bounds",
                "routes: {corp: {group: a, max_negative_ttl: 5s}, example: a, .: a}",
                false,
                false,
            ),
            (
                "no completion",
                "routes: {corp: a, example: a, .: a}\ncomplete_cnames: false",
                true,
                false,
            ),
            (
                "a record elsewhere",
                "routes: {corp: a, example: a, .: a}\nrecords: {z.net: {A: [10.0.0.1]}}",
                true,
                false,
            ),
            (
                "a record of the name",
                "routes: {corp: a, example: a, .: a}\nrecords: {x.corp: {A: [10.0.0.1]}}",
                false,
                false,
            ),
            (
                "private zones",
                "routes: {corp: a, example: a, .: a}\nprivate_zones: NXDOMAIN",
                true,
                true,
            ),
        ] {
            let (theirs, ours) = (setup(before), setup(after));
            assert_eq!(takes(&theirs, &ours, None), plain, "{what}");
            let alias = Some("y.example.");
            assert_eq!(
                takes(&theirs, &ours, alias),
                aliased,
                "{what}, with an alias"
            );
        }
    }

    #[test]
    fn words_that_name_no_zones_are_an_error() {
        let ours = setup("routes: {.: a}");
        let words = r#"{"routes":[{"zone":"a..b","promise":"","tiers":[]}],"local_names":0,"complete_cnames":true}"#;
        let words: SetupWords = serde_json::from_str(words).expect("JSON");
        assert!(ours.inheritance(&words).is_err());
    }
}
