//! DNS64 (RFC 6147): a name without IPv6 addresses gets some that the network's NAT64 translates to its IPv4 addresses.
//!
//! Owns when addresses are made, of which answers, and for how long they hold. The A records are looked up as if a client
//! had asked for them, by the same route, as targets of aliases are; what comes of them is cached in place of the answer to
//! the AAAA question. Reverse names of made addresses are aliases of those of IPv4 (§5.3.1), answered here.
//!
//! Limits: names of `records` and `hosts` have the addresses that stand there. Clients that validate (DO and CD), that ask
//! without RD, or for ANY, get what the servers say. Additional sections are as they come.

use std::time::Instant;

use super::aliases::{Chain, Found, Informant};
use super::local::RECORD_TTL;
use super::metrics::Synthesised;
use super::worker::Worker;
use crate::cache::{Entry, Origin};
use crate::message::dns64::{self, Addresses, Dns64, SECONDS_WITHOUT_SOA};
use crate::message::ede::{self, ExtendedError};
use crate::message::own;
use crate::message::query::{Question, key_for_type};
use crate::message::response::{Kind, Response};
use crate::message::wire::{rcode, rr};
use crate::upstream::ask::{Answer, Failed};
use crate::upstream::routes::Route;

/// The rule by which a route's answer to a question gets addresses; none if it is to stay as it is.
pub(super) fn rule<'a>(route: &'a Route, question: &Question<'_>) -> Option<&'a Dns64> {
    let applies = question.qtype == rr::AAAA && question.cacheable() && !question.validates();
    route.dns64.as_ref().filter(|_| applies)
}

/// What comes of an answer of route `index` to the AAAA question of `chain`.
pub(super) async fn complete(
    rule: &Dns64,
    chain: &Chain<'_>,
    index: u16,
    answer: Result<Answer, Failed>,
) -> Result<Found, Failed> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failed) => return in_place_of(failed, rule, chain, index).await,
    };
    let by = Informant {
        route: index,
        group: chain.worker.setup.routes.get(index).tiers[answer.tier],
    };
    if chain.target(&answer.response, Some(by)).is_some() {
        // The addresses are another route's, which says whether any are made.
        return chain.follow(answer, Some(by)).await;
    }
    let response = &answer.response;
    let is_final = matches!(response.kind(), Kind::Positive | Kind::Negative);
    if !is_final || response.truncated() || response.rcode() == rcode::NXDOMAIN {
        return Ok(answer.into());
    }
    let addresses = rule.addresses(response.view());
    if addresses == Addresses::All || is_doubted(rule, chain, index, &answer) {
        return Ok(answer.into());
    }
    let mut found = Found::from(answer);
    let response = &mut found.answer.response;
    if addresses == Addresses::None {
        let holds = dns64::seconds_of(response.view());
        found.keep_for(bounded(holds, chain, index, found.answer.tier));
    } else {
        let holds = response.ttl().unwrap_or(0).min(SECONDS_WITHOUT_SOA);
        let counted = rule.without_excluded(response.view());
        *response = counted.map_err(|_| failed(too_long()))?;
        if addresses == Addresses::Some {
            return Ok(found);
        }
        found.keep_for(bounded(holds, chain, index, found.answer.tier));
    }
    synthesise(rule, chain, &mut found).await?;
    Ok(found)
}

/// RFC 6147 §5.1.2: a failure counts as an empty answer, because there are servers that know A alone. But when nobody answered,
/// or a validator has spoken, or addresses of the name's own are known, it is a failure.
async fn in_place_of(
    failed: Failed,
    rule: &Dns64,
    chain: &Chain<'_>,
    index: u16,
) -> Result<Found, Failed> {
    let setup = &chain.worker.setup;
    let mut tiers = setup.routes.get(index).tiers.iter();
    let nobody_answers = tiers.all(|&tier| setup.upstreams.groups[tier].suspected());
    if nobody_answers
        || failed.error.is_verdict()
        || Instant::now() >= chain.end
        || known(rule, chain).is_some()
    {
        return Err(failed);
    }
    let empty = own::Asked {
        section: Question::of(chain.key).section,
        qtype: rr::AAAA,
        ttl: SECONDS_WITHOUT_SOA,
    };
    let empty = own::denial(empty, rcode::NOERROR, 0, 0);
    let response = Response::read(&empty).expect("a message of our own is well-formed");
    let mut found = Found::from(Answer { response, tier: 0 });
    found.keep_for(SECONDS_WITHOUT_SOA);
    match synthesise(rule, chain, &mut found).await {
        Ok(true) => Ok(found),
        Ok(false) | Err(_) => Err(failed),
    }
}

/// Looks up the name's A records, and puts what is made of them in place of an answer without addresses; false if there are
/// none, so that the answer stays.
async fn synthesise(rule: &Dns64, chain: &Chain<'_>, found: &mut Found) -> Result<bool, Failed> {
    let key = key_for_type(chain.key, rr::A);
    let content = chain.by_its_route(&key, chain.steps()).await;
    // RFC 6147 §5.1.6: an error is the answer then. That there are no addresses would be wrong.
    let entry = found.take(content).map_err(|error| {
        let text = format!("dns64, A records: {}", error.text);
        let error = ExtendedError::new(error.code, &text).with_servers(error.servers.clone());
        failed(error)
    })?;
    if entry.response().kind() != Kind::Positive {
        return Ok(false);
    }
    let made = rule.synthesised(entry.response());
    let Some(response) = made.map_err(|_| failed(too_long()))? else {
        return Ok(false);
    };
    let answer = &mut found.answer;
    answer.response = response;
    answer.tier = answer.tier.max(usize::from(entry.tier()));
    chain.worker.metrics.synthesised(Synthesised::Address);
    Ok(true)
}

/// As long as a negative answer of the route may be kept: addresses of the name's own are not seen before.
fn bounded(seconds: u32, chain: &Chain<'_>, index: u16, tier: usize) -> u32 {
    let bounds = &chain.worker.setup.routes.get(index).bounds;
    seconds.min(match tier {
        0 => bounds.max_negative_ttl,
        _ => bounds.later_max_negative_ttl,
    })
}

/// An earlier answer with addresses of the name's own, to fall back on.
fn known<'a>(rule: &Dns64, chain: &'a Chain<'_>) -> Option<&'a Entry> {
    let known = chain.flight?.stale();
    known.filter(|entry| rule.has_real_addresses(entry.response()))
}

/// Whether the name had addresses of its own which an empty answer does not take away.
fn is_doubted(rule: &Dns64, chain: &Chain<'_>, index: u16, empty: &Answer) -> bool {
    let Some(known) = known(rule, chain) else {
        return false;
    };
    let (worker, now) = (chain.worker, Instant::now());
    let bounds = worker.setup.routes.get(index).bounds;
    let origin = Origin {
        route: index,
        tier: empty.tier,
    };
    let entry = Entry::new(chain.key, &empty.response, now, origin, bounds);
    entry.is_negative()
        && worker
            .doubts(chain.key, index, (known, &entry), now)
            .is_some()
}

fn too_long() -> ExtendedError {
    ExtendedError::new(ede::OTHER, "dns64: the answer does not fit a message")
}

fn failed(error: ExtendedError) -> Failed {
    let code = rcode::SERVFAIL;
    Failed { code, error }
}

impl Worker {
    /// The answer that makes a reverse name of an address with a route's prefix an alias of the one of IPv4; none for other
    /// questions.
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
