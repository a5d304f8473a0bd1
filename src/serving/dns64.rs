//! DNS64 (RFC 6147): a name without IPv6 addresses gets synthesised ones, which the network's NAT64 translates to its IPv4
//! addresses.
//!
//! Owns when addresses are synthesised, from which answers, and how long they are fresh. The A records are looked up by the
//! same route as if a client had asked for them, as targets of aliases are. The answer with synthesised addresses is cached in
//! place of the answer to the AAAA question. Reverse names of synthesised addresses are aliases of the IPv4 reverse names
//! (§5.3.1), and are answered here.
//!
//! Limits: names of `records` and `hosts` have the addresses of the configuration only. Queries of clients that validate (DO
//! and CD), queries without RD, and queries for ANY get the servers' answers. Addresses in additional sections are not changed.

use std::time::Duration;

use super::aliases::{AnsweringGroup, Chain, CompletedAnswer};
use super::local::RECORD_TTL;
use super::metrics::Synthesised;
use super::worker::Worker;
use crate::cache::{Entry, Origin};
use crate::message::dns64::{self, Addresses, Dns64, SECONDS_WITHOUT_SOA};
use crate::message::ede::{self, ExtendedError};
use crate::message::own;
use crate::message::query::{Question, key_for_type};
use crate::message::response::{Kind, Response};
use crate::message::wire::{Malformed, rcode, rr};
use crate::runtime;
use crate::upstream::ask::{Answer, Failed};
use crate::upstream::routes::Route;

/// The rule for synthesising addresses in a route's answer to a question. None if the answer is not to be changed.
pub(super) fn rule<'a>(route: &'a Route, question: &Question<'_>) -> Option<&'a Dns64> {
    let applies = question.qtype == rr::AAAA && question.cacheable() && !question.validates();
    route.dns64.as_ref().filter(|_| applies)
}

/// A question for AAAA on a route with DNS64.
pub(super) struct Completion<'a> {
    pub(super) rule: &'a Dns64,
    pub(super) route: u16,
    pub(super) chain: Chain<'a>,
}

impl Completion<'_> {
    /// Completes the servers' answer.
    pub(super) async fn complete(
        &self,
        answer: Result<Answer, Failed>,
    ) -> Result<CompletedAnswer, Failed> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failed) => return self.in_place_of(failed).await,
        };
        let by = AnsweringGroup {
            route: self.route,
            group: self.route().tiers[answer.tier],
        };
        if self.chain.target(&answer.response, Some(by)).is_some() {
            // The addresses are those of an alias's target. The target's route decides whether any are synthesised.
            return self.chain.follow(answer, Some(by)).await;
        }
        let response = &answer.response;
        let is_final = matches!(response.kind(), Kind::Positive | Kind::Negative);
        if !is_final || response.truncated() || response.rcode() == rcode::NXDOMAIN {
            return Ok(answer.into());
        }
        let mut found = CompletedAnswer::from(answer);
        let answer = &mut found.answer;
        let holds = match self.rule.addresses(answer.response.view()) {
            Addresses::All => return Ok(found),
            Addresses::None if self.is_doubted(answer) => return Ok(found),
            Addresses::None => dns64::seconds_of(answer.response.view()),
            Addresses::Some => {
                self.leave_out_excluded(answer)?;
                return Ok(found);
            }
            Addresses::Excluded => {
                let ttl = answer.response.ttl().unwrap_or(0);
                self.leave_out_excluded(answer)?;
                ttl.min(SECONDS_WITHOUT_SOA)
            }
        };
        found.keep_for(self.bounded(holds, found.answer.tier));
        self.synthesise(&mut found).await?;
        Ok(found)
    }

    /// Handles a failure of the AAAA question. RFC 6147 §5.1.2: it counts as an empty answer, because some servers can only
    /// answer A. It stays a failure if no server answers, if a validator gave a verdict, or if real IPv6 addresses of the name
    /// are known.
    async fn in_place_of(&self, failed: Failed) -> Result<CompletedAnswer, Failed> {
        let groups = &self.chain.worker.setup.upstreams.groups;
        let mut tiers = self.route().tiers.iter();
        if tiers.all(|&tier| groups[tier].suspected())
            || failed.error.is_verdict()
            || runtime::now() >= self.chain.end
            || self.known().is_some()
        {
            return Err(failed);
        }
        let empty = own::Asked {
            section: Question::of(self.chain.key).section,
            qtype: rr::AAAA,
            ttl: SECONDS_WITHOUT_SOA,
        };
        let empty = own::denial(empty, rcode::NOERROR, 0, 0);
        let response = Response::read(&empty).expect("a message of our own is well-formed");
        let mut found = CompletedAnswer::from(Answer {
            response,
            tier: 0,
            server: None,
            asked: runtime::now(),
        });
        found.keep_for(self.bounded(SECONDS_WITHOUT_SOA, 0));
        match self.synthesise(&mut found).await {
            Ok(true) => Ok(found),
            Ok(false) | Err(_) => Err(failed),
        }
    }

    /// Looks up the name's A records, and replaces an answer without addresses by one with synthesised addresses. Returns
    /// false, and leaves the answer, if there are no A records.
    async fn synthesise(&self, found: &mut CompletedAnswer) -> Result<bool, Failed> {
        let key = key_for_type(self.chain.key, rr::A);
        let content = self.chain.by_its_route(&key, self.chain.steps()).await;
        // RFC 6147 §5.1.6: if the A question fails, the client gets an error. An empty answer would be wrong.
        let entry = found.take(content).map_err(|error| {
            let text = format!("dns64, A records: {}", error.text);
            let error = ExtendedError::new(error.code, &text).with_servers(error.servers.clone());
            failed(error)
        })?;
        if entry.response().kind() != Kind::Positive {
            return Ok(false);
        }
        let made = self.rule.synthesised(entry.response());
        let Some(response) = made.map_err(too_long)? else {
            return Ok(false);
        };
        let answer = &mut found.answer;
        answer.response = response;
        answer.tier = answer.tier.max(usize::from(entry.tier()));
        let metrics = &self.chain.worker.metrics;
        metrics.synthesised(Synthesised::Address);
        Ok(true)
    }

    fn leave_out_excluded(&self, answer: &mut Answer) -> Result<(), Failed> {
        let counted = self.rule.without_excluded(answer.response.view());
        answer.response = counted.map_err(too_long)?;
        Ok(())
    }

    fn route(&self) -> &Route {
        self.chain.worker.setup.routes.get(self.route)
    }

    /// Limits the time that synthesised addresses are fresh to that of a negative answer of the route, because real addresses
    /// of the name are not noticed before.
    fn bounded(&self, seconds: u32, tier: usize) -> u32 {
        let bounds = &self.route().bounds;
        seconds.min(match tier {
            0 => bounds.max_negative_ttl,
            _ => bounds.later_max_negative_ttl,
        })
    }

    /// An earlier answer with real IPv6 addresses of the name, to fall back on.
    fn known(&self) -> Option<&Entry> {
        let known = self.chain.flight?.stale();
        known.filter(|entry| self.rule.has_real_addresses(entry.response()))
    }

    /// Whether the name has real IPv6 addresses which this empty answer does not replace.
    fn is_doubted(&self, empty: &Answer) -> bool {
        let Some(known) = self.known() else {
            return false;
        };
        let (key, now) = (self.chain.key, runtime::now());
        let origin = Origin {
            route: self.route,
            tier: empty.tier,
            took: Duration::ZERO,
        };
        let empty = Entry::new(key, &empty.response, now, origin, self.route().bounds);
        let worker = self.chain.worker;
        empty.is_negative()
            && worker
                .doubts(key, self.route, (known, &empty), now)
                .is_some()
    }
}

fn too_long(_: Malformed) -> Failed {
    let text = "dns64: the answer does not fit a message";
    failed(ExtendedError::new(ede::OTHER, text))
}

fn failed(error: ExtendedError) -> Failed {
    let code = rcode::SERVFAIL;
    Failed { code, error }
}

impl Worker {
    /// The answer to a question for the reverse name of a synthesised address: an alias of the IPv4 reverse name. None for
    /// other questions.
    pub(super) fn reverse_alias(&self, question: &Question<'_>) -> Option<Vec<u8>> {
        if self.setup.local.owns(question.name, question.qclass) {
            return None;
        }
        let target = self.setup.ipv4_pointer(question)?;
        self.metrics.synthesised(Synthesised::Pointer);
        let asked = own::Asked {
            section: question.section,
            qtype: question.qtype,
            ttl: RECORD_TTL,
        };
        Some(own::alias(asked, &target))
    }
}
