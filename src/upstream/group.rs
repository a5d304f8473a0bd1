//! A group of servers that share one view of names: who is asked first, and how much hedging it may cost.

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

/// What is left of the deadline when we give up: the client must hear from us before it is over.
const MARGIN: Duration = Duration::from_millis(100);

/// A name of servers, and what became of it.
#[derive(Debug)]
pub struct Host {
    /// The name, and who resolves it.
    pub name: HostName,
    /// What it resolved to last.
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

    /// Why it could not be resolved the last time; none if it could.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().clone()
    }

    /// It could not be resolved, or could again.
    pub fn set_failure(&self, failure: Option<String>) {
        *self.lock() = failure;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // A text is whole or not there.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group.
#[derive(Debug)]
pub struct Group {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its servers, in configured order. None while the names of all of them have no addresses yet.
    pub servers: Vec<Arc<Server>>,
    /// Names of servers.
    pub hosts: Vec<Host>,
    /// Where they start among all servers.
    first: usize,
    /// When a single try counts as lost.
    pub try_timeout: Duration,
    /// A query's whole budget.
    pub deadline: Duration,
    /// What its probes ask.
    pub probe: Probe,
    /// The zone through which it is reached: the root if any route of it is, written as the end of a name.
    pub zone: String,
    /// What follows when one of its servers finds an answer bogus.
    pub bogus: Bogus,
    /// Counters.
    pub metrics: GroupMetrics,
    /// In which order its servers are asked.
    pub policy: Policy,
    start_fanout: usize,
    /// What hedges, resends and moves to other servers may cost.
    pub extra: ExtraQueries,
    /// Whether its servers may be sent only so many queries a second.
    limited: bool,
    turn: AtomicU32,
    in_flight: AtomicUsize,
    max_in_flight: usize,
}

impl Group {
    /// The group of these servers, the first of whom is at `first` among all.
    pub(super) fn new(
        config: &GroupConfig,
        zone: String,
        first: usize,
        servers: Vec<Arc<Server>>,
        metrics: &UpstreamFamilies,
        now: Instant,
    ) -> Self {
        let hedge_percent = config.failover.hedge_budget_percent;
        let extra = ExtraQueries::new(hedge_percent, servers.len(), now);
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
            in_flight: AtomicUsize::new(0),
            max_in_flight: config.max_in_flight.get(),
        }
    }

    /// How long a question may take whose route asks this group first.
    #[must_use]
    pub fn budget(&self) -> Duration {
        self.deadline.saturating_sub(MARGIN).max(self.deadline / 2)
    }

    /// Whether every server is known to be gone.
    #[must_use]
    pub fn down(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.state() == State::Down)
    }

    /// Whether every server is gone or suspected to be.
    #[must_use]
    pub fn suspected(&self) -> bool {
        self.servers.iter().all(|server| server.state().suspected())
    }

    /// The order in which a query asks the servers that are not down; none if all are.
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
        order.sort_by_key(|(state, server, _)| {
            let rtt = match self.policy {
                Policy::Fastest => server.srtt().unwrap_or(Duration::MAX),
                Policy::Ordered | Policy::RoundRobin => Duration::ZERO,
            };
            // One that has to wait is no better than a poor one.
            let waits = self.limited && !server.rate.wait(now).is_zero();
            let state = if waits {
                (*state).max(State::Poor)
            } else {
                *state
            };
            (state, rtt)
        });
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

    /// Everybody, beginning with another server each time: not all may be asked.
    fn last_resort(&self) -> impl Iterator<Item = Candidate> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let count = self.servers.len();
        (0..count)
            .map(move |offset| (turn + offset) % count)
            .map(|place| (place, &self.servers[place]))
            .filter(|(_, server)| !server.looped())
            .map(|(place, server)| server.candidate(self.first + place))
    }

    /// How long a question has to wait until a server may be sent it (`max_queries_per_second`).
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        if !self.limited {
            return Duration::ZERO;
        }
        let up = |server: &&Arc<Server>| server.state() != State::Down;
        let servers = self.servers.iter().filter(up);
        let shortest = servers.map(|server| server.rate.wait(now)).min();
        shortest.unwrap_or_default()
    }

    /// Whether another question may be asked; a dead zone must not starve the others.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.max_in_flight
    }

    /// Counts a question in; [`Group::left`] counts it out.
    pub fn entered(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a question out.
    pub fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Queries in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A plan over the groups of a route: those with a server left that could answer, one after the other; if there is
/// none, everybody gets one try.
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
