//! Which clients may ask, how many queries they may have in flight, and when the upstreams are not asked.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::client::{Client, Served};
use super::denials::other_family;
use super::metrics::{Cap, Dropped, StaleReason};
use super::worker::Worker;
use crate::cache::{Blames, Entry};
use crate::config::Denial;
use crate::message::ede::{self, ExtendedError};
use crate::message::query::{Question, Reject, key_for_type};
use crate::message::reply::Asked;
use crate::message::wire::rcode;
use crate::upstream::group::Group;

/// Why the upstreams are not asked.
pub(super) struct Obstacle {
    /// The reason to report if an expired answer is served.
    pub(super) stale_reason: StaleReason,
    /// The response code of the reply if there is no expired answer.
    pub(super) code: u16,
    /// The extended error of that reply.
    pub(super) error: ExtendedError,
}

/// Whether an expired answer may be served for this reason. A negative answer may not be served only because the new answer is
/// late: the name may exist by then.
pub(super) fn may_stand_in(entry: &Entry, reason: StaleReason) -> bool {
    match reason {
        StaleReason::UpstreamsDown | StaleReason::Failed | StaleReason::Denied => true,
        StaleReason::Slow | StaleReason::Overload => !entry.is_negative(),
    }
}

impl Worker {
    /// Whether `allow` has the client's address.
    #[inline]
    #[must_use]
    pub fn allows(&self, client: SocketAddr) -> bool {
        let ip = client.ip();
        let networks = &self.setup.config.allow;
        networks.iter().any(|network| network.contains(&ip))
    }

    /// Takes one of this second's REFUSED replies to clients outside `allow`, if there is one.
    pub(super) fn may_refuse(&self, now: Instant) -> bool {
        let is_new_second = self
            .refused_second
            .get()
            .is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if is_new_second {
            self.refused_second.set(Some(now));
            self.refused_left
                .set(self.setup.config.udp.refused_per_second);
        }
        let left = self.refused_left.get();
        self.refused_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether an expired answer is young enough to fall back on.
    pub(super) fn may_serve_stale(
        &self,
        key: &[u8],
        route: u16,
        entry: &Entry,
        now: Instant,
    ) -> bool {
        let age = entry.expired_for(now);
        let stale = &self.setup.routes.get(route).stale;
        if age >= stale.max_age || !entry.is_negative() {
            return age < stale.max_age;
        }
        // A later tier's denial is never served when it has expired.
        (entry.tier() == 0 && age < stale.max_negative_age)
            || self.stands_beside_addresses(key, entry, stale.max_age, now)
    }

    /// Whether an entry says that a name has no addresses of one family, while addresses of the other family may be served.
    /// Clients ask for both, and musl fails the lookup if one of the two queries gets an error.
    fn stands_beside_addresses(
        &self,
        key: &[u8],
        entry: &Entry,
        max_age: Duration,
        now: Instant,
    ) -> bool {
        let Some(other) = other_family(entry.qtype()) else {
            return false;
        };
        if entry.response().rcode() != rcode::NOERROR {
            return false;
        }
        let addresses = self.shared.cache.get(&key_for_type(key, other));
        addresses.is_some_and(|addresses| {
            !addresses.is_negative()
                && entry.tier() <= addresses.tier()
                && addresses.expired_for(now) < max_age
        })
    }

    /// Whether an answer is fresh, or young enough to fall back on.
    pub(super) fn is_usable(&self, key: &[u8], route: u16, entry: &Entry, now: Instant) -> bool {
        entry.age_if_fresh(now).is_some() || self.may_serve_stale(key, route, entry, now)
    }

    /// Whether the `earlier` answer is to be served in place of the `later` one, and why.
    pub(super) fn doubts(
        &self,
        key: &[u8],
        route: u16,
        (earlier, later): (&Entry, &Entry),
        now: Instant,
    ) -> Option<StaleReason> {
        let is_later_tier = earlier.tier() < later.tier();
        // The earlier tier has the better view of the name, and cannot be asked at the moment. That is no reason to believe a
        // later tier's denial, nor to drop an answer of the earlier tier that is still fresh. No failure is remembered, so that
        // the earlier tier's next answer is served at once.
        let outranks = if later.is_negative() {
            is_later_tier && self.is_usable(key, route, earlier, now)
        } else {
            is_later_tier && earlier.age_if_fresh(now).is_some()
        };
        if outranks {
            return Some(StaleReason::Failed);
        }
        (later.is_negative() && self.is_served_despite_denial(key, route, (earlier, later), now))
            .then_some(StaleReason::Denied)
    }

    /// Whether the earlier answer is served although a server denies it (`stale_on`). Records are served for some time. An
    /// empty answer for one family of addresses is served beside addresses of the other, because NXDOMAIN would deny both.
    fn is_served_despite_denial(
        &self,
        key: &[u8],
        route: u16,
        (earlier, denial): (&Entry, &Entry),
        now: Instant,
    ) -> bool {
        let denied = match denial.response().rcode() {
            rcode::NXDOMAIN => Denial::Nxdomain,
            _ => Denial::Empty,
        };
        let route = self.setup.routes.get(route);
        let max_age = route.stale.max_age;
        if !route.stale_on.contains(&denied) {
            return false;
        }
        if earlier.is_negative() {
            return denied == Denial::Nxdomain
                && self.stands_beside_addresses(key, earlier, max_age, now);
        }
        earlier.expired_for(now) < self.setup.config.cache.stale_max_denied_age.min(max_age)
    }

    /// Whether no server of a route can be expected to answer, so that an expired answer is served at once: all are down, or,
    /// if the answer has records, all are silent or down.
    pub(super) fn no_better_answer_expected(&self, route: u16, entry: &Entry) -> bool {
        if !entry.is_negative() {
            return self.all_servers_suspected(route);
        }
        let groups = &self.setup.upstreams.groups;
        let mut tiers = self.setup.routes.get(route).tiers.iter();
        tiers.all(|&tier| groups[tier].down())
    }

    /// Whether all servers of a route are silent or down.
    pub(super) fn all_servers_suspected(&self, route: u16) -> bool {
        let groups = &self.setup.upstreams.groups;
        let mut tiers = self.setup.routes.get(route).tiers.iter();
        tiers.all(|&tier| groups[tier].suspected())
    }

    /// The group that a route asks first. Flights count against its limit. Must not be called for a route that answers by
    /// itself: it has no groups and no flights.
    pub(super) fn first_group(&self, route: u16) -> &Group {
        &self.setup.upstreams.groups[self.setup.routes.get(route).tiers[0]]
    }

    /// The obstacle, if a client has as many queries in flight as `limits.client_in_flight` allows.
    pub(super) fn client_obstacle(&self, client: Client) -> Option<Obstacle> {
        let ip: IpAddr = client.address.ip();
        let most = self.setup.config.limits.client_in_flight;
        let waiting = self.clients.of(ip);
        (waiting >= most).then(|| {
            self.metrics.rejected(Cap::Client);
            let text = "too many queries of this client are in flight";
            Obstacle {
                stale_reason: StaleReason::Overload,
                code: rcode::SERVFAIL,
                error: ExtendedError::new(ede::OTHER, text),
            }
        })
    }

    /// Why a question cannot be asked upstream at the moment: it failed recently, its group has too many questions in flight, or
    /// its servers get as many queries a second as they may. The last is an obstacle if the question would have to wait longer
    /// than half of the group's deadline, or at all if there is an expired answer.
    pub(super) fn upstream_obstacle(
        &self,
        key: &[u8],
        route: u16,
        stale: Option<&Entry>,
        now: Instant,
    ) -> Option<Obstacle> {
        if Question::of(key).cacheable()
            && let Some(failure) = self.shared.cache.failure(key, now)
            && (failure.blames == Blames::Question || self.all_servers_suspected(route))
            && (stale.is_some() || !failure.is_denial())
        {
            let code = if failure.error.is_verdict() {
                failure.error.code
            } else {
                ede::CACHED_ERROR
            };
            return Some(Obstacle {
                stale_reason: if failure.is_denial() {
                    StaleReason::Denied
                } else {
                    StaleReason::Failed
                },
                code: failure.code,
                error: ExtendedError {
                    code,
                    ..(*failure.error).clone()
                },
            });
        }
        let group = self.first_group(route);
        let longest_wait = match stale {
            Some(_) => Duration::ZERO,
            None => group.deadline / 2,
        };
        let (cap, why) = if !group.has_room() {
            (Cap::Group, "too many queries are in flight")
        } else if group.wait(now) > longest_wait {
            (Cap::Rate, "more queries than max_queries_per_second")
        } else {
            return None;
        };
        self.metrics.rejected(cap);
        let text = format!("{}: {why}", group.name);
        Some(Obstacle {
            stale_reason: StaleReason::Overload,
            code: rcode::SERVFAIL,
            error: ExtendedError::new(ede::OTHER, &text),
        })
    }

    /// Replies to a message that is not a query which we can answer, or drops it.
    pub(super) fn reject(
        &self,
        message: &[u8],
        reject: Reject,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let code = match reject {
            Reject::Short => {
                self.metrics.dropped(Dropped::Short);
                return Served::Dropped;
            }
            Reject::NotAQuery => {
                self.metrics.dropped(Dropped::NotAQuery);
                return Served::Dropped;
            }
            Reject::Answer(code) => code,
            Reject::BadVersion => rcode::BADVERS,
        };
        if !self.allows(client.address) && !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        self.replies.reject(message, code, client, out);
        Served::Replied
    }

    /// Replies REFUSED to a client outside `allow`. The rate is limited, so that queries with forged source addresses cannot
    /// make us flood a victim.
    pub(super) fn turn_away(&self, asked: &Asked<'_>, client: Client, out: &mut Vec<u8>) -> Served {
        if !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        let ip = client.address.ip();
        let text = format!("{ip} is in no network of the key allow: add it there");
        let error = ExtendedError::new(ede::PROHIBITED, &text);
        self.replies
            .failure(asked, rcode::REFUSED, &error, None, client, out);
        Served::Replied
    }

    /// Replies NOTIMP to a signed query (TSIG, SIG(0)). Forwarded as a query of ours it would lose its signature, and the reply
    /// would be unsigned. Forwarded unchanged it would need a path of its own past flights, cache and failover.
    #[cold]
    pub(super) fn decline_signed(
        &self,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let text =
            "signed queries (TSIG, SIG(0)) are not forwarded; ask a server that holds the key";
        let error = ExtendedError::new(ede::NOT_SUPPORTED, text);
        self.replies
            .failure(asked, rcode::NOTIMP, &error, None, client, out);
        Served::Replied
    }

    /// Replies REFUSED to a query that is never forwarded.
    pub(super) fn refuse(
        &self,
        asked: &Asked<'_>,
        error: Option<ExtendedError>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let error = error.unwrap_or_else(|| ExtendedError::new(ede::OTHER, "not forwarded"));
        self.replies
            .failure(asked, rcode::REFUSED, &error, None, client, out);
        Served::Replied
    }
}
