//! NXDOMAIN for A or AAAA of a name that has addresses of the other family.
//!
//! Some servers, load balancers and resolvers of container runtimes answer NXDOMAIN to AAAA where they mean that the name has no AAAA
//! record (RFC 4074 §4.2). But NXDOMAIN denies all types of a name (RFC 2308 §2.1). Clients ask for both families at once, and musl
//! fails the lookup if either reply is an error.
//!
//! Such an NXDOMAIN becomes an empty answer if there is a positive answer for the other family, from the same route and from no later
//! tier. That answer is fresh in the cache, or its flight brings it within [`PATIENCE`].
//!
//! Limits: clients that ask for DNSSEC get the server's own answer. A flight of another worker is not waited for: musl and glibc send
//! both queries from one socket, so one worker has both.

use std::time::Duration;

use super::aliases::Chain;
use super::waiting::Content;
use super::worker::Worker;
use crate::cache::Entry;
use crate::message::query::{Question, ShortKey, key_for_type};
use crate::message::response::Response;
use crate::message::wire::{rcode, rr};
use crate::runtime;
use crate::upstream::ask::Answer;

/// How long a denial waits for a flight of the other family. A client that asks for both families waits for both in any case. A longer
/// time would delay clients that ask for one family, of a server that is silent about the other.
const PATIENCE: Duration = Duration::from_secs(1);

/// AAAA for A, A for AAAA, and none for other types.
pub(super) fn other_family(qtype: u16) -> Option<u16> {
    match qtype {
        rr::A => Some(rr::AAAA),
        rr::AAAA => Some(rr::A),
        _ => None,
    }
}

/// The key of the same question for the other family. None if the rule of this module does not apply to the question.
fn key_beside(key: &[u8]) -> Option<ShortKey> {
    let question = Question::of(key);
    let other = other_family(question.qtype)?;
    (question.cacheable() && !question.dnssec_ok).then(|| key_for_type(key, other))
}

/// For NXDOMAIN: the key of the question for the other family, whose answer may show that the name exists. None for other responses.
pub(super) fn key_beside_denial(key: &[u8], response: &Response) -> Option<ShortKey> {
    (response.rcode() == rcode::NXDOMAIN)
        .then(|| key_beside(key))
        .flatten()
}

/// Whether this entry of the other family shows that a name exists which the tier `denied_by` of `route` denies.
fn outweighs(known: &Entry, route: u16, denied_by: usize) -> bool {
    !known.is_negative() && known.route() == Some(route) && usize::from(known.tier()) <= denied_by
}

impl Chain<'_> {
    /// Makes a denial an empty answer if the question for the other family, with the key `beside`, has a positive answer.
    pub(super) async fn check_denial(&self, denial: &mut Answer, route: u16, beside: &[u8]) {
        let worker = self.worker;
        let exists = match worker.flights.find(beside) {
            None => self.is_known(beside, route, denial.tier),
            // The other flight got NXDOMAIN, too, and waits for this one.
            Some(flight) if self.flight.is_some_and(|own| flight.depends_on(own)) => false,
            // A prefetch is waited for as well: the addresses that it refreshes may be gone.
            Some(flight) => {
                let end = self.end.min(runtime::now() + PATIENCE);
                match self.wait_for(flight, end).await {
                    Content::Answer(entry, _) | Content::Stale(entry, _) => {
                        outweighs(&entry, route, denial.tier)
                    }
                    _ => self.is_known(beside, route, denial.tier),
                }
            }
        };
        if exists {
            worker.metrics.denials_doubted.inc();
            denial.response = denial.response.clone().into_nodata();
        }
    }

    /// Whether a fresh answer to `beside` outweighs a denial by this tier.
    fn is_known(&self, beside: &[u8], route: u16, denied_by: usize) -> bool {
        let kept = self.worker.shared.cache.get(beside);
        kept.is_some_and(|entry| {
            entry.age_if_fresh(runtime::now()).is_some() && outweighs(&entry, route, denied_by)
        })
    }
}

impl Worker {
    /// Removes a denial for the other family from the cache if `known` has addresses of the name.
    pub(super) fn forget_denial_beside(&self, key: &[u8], known: &Entry) {
        if known.is_negative() {
            return;
        }
        let (Some(beside), Some(route)) = (key_beside(key), known.route()) else {
            return;
        };
        self.shared.cache.forget_if(&beside, |entry| {
            entry.response().rcode() == rcode::NXDOMAIN
                && entry.route() == Some(route)
                && outweighs(known, route, usize::from(entry.tier()))
        });
    }
}
