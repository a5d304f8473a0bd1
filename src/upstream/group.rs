//! A group of servers that share one view of names: the order in which a query asks them, and how many extra queries it may
//! send.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::extra::ExtraQueries;
use super::health::State;
use super::metrics::{GroupMetrics, UpstreamFamilies};
use super::plan::{Candidate, Plan, Tier, Tiers};
use super::server::Server;
use crate::config::{Bogus, GroupConfig, HostName, NamedServer, Policy, Probe};

/// One query in this many also asks a poor server, whose answer shows whether it got better.
const TRICKLE: u32 = 100;

/// A lookup ends this long before the deadline, so that the client gets the reply in time.
const MARGIN: Duration = Duration::from_millis(100);

/// A host name of servers, and how it was resolved.
#[derive(Debug)]
pub struct Host {
    /// The name, and the group that resolves it.
    pub name: HostName,
    /// The addresses that it resolved to last.
    pub addresses: Vec<IpAddr>,
    failure: Mutex<Option<String>>,
}

impl Host {
    fn new(named: &NamedServer) -> Self {
        Self {
            name: named.host.clone(),
            addresses: named.addresses.clone(),
            failure: Mutex::default(),
        }
    }

    /// Why the last attempt to resolve it failed; None if it did not fail.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Sets why the last attempt to resolve it failed, or that it did not fail.
    pub fn set_failure(&self, failure: Option<String>) {
        *self.lock() = failure;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // A panic cannot leave a part of a text.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group of servers.
#[derive(Debug)]
pub struct Group {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its servers, in configured order. Empty while all of them are host names without addresses.
    pub servers: Vec<Arc<Server>>,
    /// Host names of servers.
    pub hosts: Vec<Host>,
    /// Index of the first of its servers among all servers.
    first: usize,
    /// A try counts as lost if it has no answer after this long.
    pub try_timeout: Duration,
    /// How long a query may take in all.
    pub deadline: Duration,
    /// The question of its probes.
    pub probe: Probe,
    /// The shortest zone of its routes, in the form in which it is appended to a name: empty for the root.
    pub zone: String,
    /// What a lookup does when a server finds an answer bogus.
    pub bogus: Bogus,
    /// Counters.
    pub metrics: GroupMetrics,
    /// The order in which its servers are asked.
    pub policy: Policy,
    start_fanout: usize,
    /// Tokens for hedges, resends and moves to other servers. A reload keeps them, because questions that are on their way get
    /// theirs from what new questions pay in.
    pub extra: Arc<ExtraQueries>,
    /// Whether `max_queries_per_second` limits queries to its servers.
    limited: bool,
    turn: AtomicU32,
    /// Shared with the group of its name before a reload, whose questions may still be in flight.
    in_flight: Arc<AtomicUsize>,
    max_in_flight: usize,
}

impl Group {
    /// The group of `servers`. `first` is the index of the first one among all servers, `old` the group of its name before a
    /// reload.
    pub(super) fn new(
        config: &GroupConfig,
        old: Option<&Self>,
        zone: String,
        first: usize,
        servers: Vec<Arc<Server>>,
        metrics: &UpstreamFamilies,
        now: Instant,
    ) -> Self {
        let hedge_percent = config.failover.hedge_budget_percent;
        let kept = old.filter(|old| old.extra.suits(hedge_percent, servers.len()));
        let extra = kept.map_or_else(
            || Arc::new(ExtraQueries::new(hedge_percent, servers.len(), now)),
            |old| Arc::clone(&old.extra),
        );
        for server in &servers {
            server.set_group(&servers);
            server.rate.set(config.max_queries_per_second);
        }
        Self {
            name: Arc::clone(&config.name),
            hosts: config.named().map(Host::new).collect(),
            first,
            servers,
            try_timeout: config.try_timeout,
            deadline: config.deadline,
            probe: config.probe.clone(),
            zone,
            bogus: config.bogus,
            metrics: metrics.group(&config.name),
            policy: config.policy,
            start_fanout: config.failover.start_fanout,
            extra,
            limited: config.max_queries_per_second.is_some(),
            turn: AtomicU32::new(0),
            in_flight: old.map_or_else(Arc::default, |old| Arc::clone(&old.in_flight)),
            max_in_flight: config.max_in_flight.get(),
        }
    }

    /// How long a lookup may take whose route asks this group first.
    #[must_use]
    pub fn budget(&self) -> Duration {
        self.deadline.saturating_sub(MARGIN).max(self.deadline / 2)
    }

    /// Whether every server is down.
    #[must_use]
    pub fn down(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.state() == State::Down)
    }

    /// Whether every server is silent or down.
    #[must_use]
    pub fn suspected(&self) -> bool {
        self.servers.iter().all(|server| server.state().suspected())
    }

    /// The servers that are not down or looped, in the order in which a query asks them. None if all are.
    fn tier(&self, now: Instant) -> Option<Tier> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.servers.len();
        let start = match self.policy {
            Policy::RoundRobin => turn as usize % count.max(1),
            Policy::Ordered | Policy::Fastest => 0,
        };
        let mut order: SmallVec<[(State, &Server, usize); 4]> = (0..count)
            .map(|offset| (start + offset) % count)
            .map(|place| (self.servers[place].state(), &*self.servers[place], place))
            .filter(|(state, server, _)| *state != State::Down && !server.looped())
            .collect();
        order.sort_by_key(|(state, server, _)| self.rank(*state, server, now));
        let (best, ..) = *order.first()?;
        let mut at_once = match best {
            State::Unknown => self.start_fanout,
            _ => 1,
        };
        if best == State::Good
            && turn % TRICKLE == TRICKLE - 1
            && let Some(poor) = order.iter().position(|(state, ..)| *state == State::Poor)
        {
            let poor = order.remove(poor);
            order.insert(1, poor);
            at_once = 2;
        }
        let candidates = order
            .iter()
            .map(|(_, server, place)| server.candidate(self.first + place))
            .collect();
        Some(Tier {
            candidates,
            at_once,
            try_timeout: self.try_timeout,
        })
    }

    /// Sorts servers: the lowest is asked first.
    fn rank(&self, state: State, server: &Server, now: Instant) -> (State, Duration, Duration) {
        let rtt = match self.policy {
            Policy::Fastest => server.srtt().unwrap_or(Duration::MAX),
            Policy::Ordered | Policy::RoundRobin => Duration::ZERO,
        };
        if !self.limited {
            return (state, Duration::ZERO, rtt);
        }
        // A server whose rate limit makes the query wait is no better than a poor one. The shorter wait comes first, or all
        // queries that have to wait would do so for the same server.
        let wait = server.rate.wait(now);
        let state = if wait.is_zero() {
            state
        } else {
            state.max(State::Poor)
        };
        (state, wait, rtt)
    }

    /// All servers that are not looped. Each call begins with another one, because tokens may not suffice for all.
    fn last_resort(&self) -> impl Iterator<Item = Candidate> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let count = self.servers.len();
        (0..count)
            .map(move |offset| (turn + offset) % count)
            .map(|place| (place, &self.servers[place]))
            .filter(|(_, server)| !server.looped())
            .map(|(place, server)| server.candidate(self.first + place))
    }

    /// How long a question has to wait until the server that is asked first may be sent it (`max_queries_per_second`).
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        if !self.limited {
            return Duration::ZERO;
        }
        let servers = self.servers.iter();
        let up = servers.map(|server| (server.state(), server));
        let up = up.filter(|(state, server)| *state != State::Down && !server.looped());
        let first = up.min_by_key(|(state, server)| self.rank(*state, server, now));
        first.map_or(Duration::ZERO, |(_, server)| server.rate.wait(now))
    }

    /// Whether another question may be in flight (`max_in_flight`). Without a limit, questions of a dead zone would leave
    /// nothing to other zones.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.max_in_flight
    }

    /// A question is in flight, until [`Group::left`].
    pub fn entered(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A question has ended.
    pub fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Questions in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A plan over those groups of a route that have a server to ask, one group after the other. If no group has one, every
/// server gets one try.
#[must_use]
pub fn plan(groups: &[&Group], now: Instant, end: Instant) -> Plan {
    for group in groups {
        group.extra.pay_in(now);
    }
    let tiers: Tiers = groups.iter().filter_map(|group| group.tier(now)).collect();
    if tiers.is_empty() {
        if let Some(first) = groups.first() {
            first.metrics.last_resort();
        }
        let everybody = groups
            .iter()
            .flat_map(|group| group.last_resort())
            .collect();
        return Plan::last_resort(everybody, now, end);
    }
    Plan::new(tiers, now, end)
}
