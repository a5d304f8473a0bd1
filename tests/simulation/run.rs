//! One run of the simulation from one seed: a node, its clients and servers, changes of its configuration, and successors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nodens::budgets::{UPSTREAM_PORTS, UPSTREAM_PORTS_RETIRED};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use crate::clients::Clients;
use crate::names::{Names, OTHER, VPC};
use crate::node::Node;
use crate::servers::{SERVERS, Servers};
use crate::standstill::{PATIENCE, Progress, Watch};
use crate::world::{Micros, SECOND, World, seconds};

/// The most workers an instance has.
pub(crate) const WORKERS: usize = 3;

/// The emphasis of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Some of everything.
    Mixed,
    /// Outages of whole groups last longer than expired answers may be served, and some names are asked so rarely that their
    /// entries get that old. Most names have two tiers of groups.
    Outages,
    /// All servers of a group lose datagrams, and many different names are asked.
    Loss,
}

impl Kind {
    fn of(seed: u64) -> Self {
        match seed % 4 {
            1 => Self::Outages,
            2 => Self::Loss,
            _ => Self::Mixed,
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    /// The first violation of a rule.
    pub(crate) violation: Option<String>,
    /// A hash of all events.
    pub(crate) hash: u64,
    pub(crate) simulated: Duration,
    pub(crate) took: Duration,
    pub(crate) queries: u64,
    /// Replies by response code.
    pub(crate) replies: BTreeMap<u8, u64>,
    pub(crate) lookups: BTreeMap<&'static str, u64>,
    pub(crate) asked: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Datagrams and questions to groups while all their servers lost datagrams.
    pub(crate) under_loss: (u64, u64),
    /// Queries that were lost with a killed instance.
    pub(crate) lost: usize,
    /// Most UDP sockets to servers that were open at once.
    pub(crate) most_sockets: usize,
    pub(crate) counts: Counts,
    pub(crate) lines: Vec<String>,
}

/// Runs a seed for `length` of simulated time. Keeps a log if `lines` is true.
pub(crate) fn run(seed: u64, length: Duration, lines: bool) -> Outcome {
    run_by_wall_clock(seed, length, lines, true)
}

/// As [`run`]. If `is_set`, the wall clock is set again and again, which must not change anything.
pub(crate) fn run_by_wall_clock(seed: u64, length: Duration, lines: bool, is_set: bool) -> Outcome {
    let started = Instant::now();
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let watch = Watch::start(seed, PATIENCE);
    let mut outcome = runtime.block_on(simulate(seed, length, (lines, is_set), &watch.progress));
    outcome.took = started.elapsed();
    outcome
}

/// The variable parts of the configuration.
struct Shape {
    workers: usize,
    policy: &'static str,
    cache: &'static str,
    /// Whether changes of the configuration may change the cache's size.
    resizes: bool,
    /// Groups of the route for `.`.
    rest: &'static str,
    /// `cache.stale.max_age` in seconds, and further keys beside it.
    max_stale: u64,
    stale: &'static str,
    moving: u8,
    /// Servers of the VPC's group.
    vpc: Vec<&'static str>,
}

impl Shape {
    fn any(random: &mut fastrand::Rng, kind: Kind, seed: u64) -> Self {
        let mut shape = Self {
            workers: random.usize(1..=WORKERS),
            policy: ["ordered", "fastest", "round_robin"][random.usize(..3)],
            cache: ["256KiB", "1MiB", "16MiB"][random.usize(..3)],
            resizes: false,
            rest: "vpc",
            max_stale: 0,
            stale: "",
            moving: VPC,
            vpc: vec!["10.1.0.2", "10.1.0.251", "10.1.0.252"],
        };
        (shape.max_stale, shape.stale) = match (kind, random.usize(..3)) {
            (Kind::Mixed | Kind::Loss, 0) => (0, ""),
            (Kind::Mixed | Kind::Loss, 1) => (60, ""),
            (Kind::Mixed | Kind::Loss, _) => (60, ", after: 0s"),
            (Kind::Outages, 0) => (1, ""),
            (Kind::Outages, 1) => (2, ""),
            (Kind::Outages, _) => (5, ", after: 0s"),
        };
        if kind == Kind::Outages {
            shape.rest = "[vpc, other]";
            shape.resizes = seed % 8 != 1;
            if !shape.resizes {
                shape.cache = "16MiB";
            }
        }
        if kind == Kind::Loss {
            // The datagrams of a question can be counted only if there is one worker.
            shape.workers = 1;
        }
        shape
    }

    fn yaml(&self) -> String {
        let Self {
            workers,
            policy,
            cache,
            rest,
            max_stale,
            stale,
            ..
        } = self;
        let moving = if self.moving == OTHER { "other" } else { "vpc" };
        let vpc = self.vpc.join(", ");
        format!(
            "workers: {workers}\n\
             upstreams:\n  \
               kube: {{servers: [10.96.0.10, 10.96.0.11], policy: {policy}}}\n  \
               vpc: {{servers: [{vpc}], policy: {policy}}}\n  \
               other: {{servers: [10.2.0.2, 10.2.0.3], policy: {policy}}}\n\
             routes: {{cluster.local: kube, moving.example: {moving}, \".\": {rest}}}\n\
             cache: {{max_size: {cache}, stale: {{max_age: {max_stale}s{stale}}}}}\n"
        )
    }

    /// Makes a random change.
    fn change(&mut self, random: &mut fastrand::Rng) {
        if self.resizes && random.bool() {
            self.cache = ["64KiB", "256KiB", "1MiB", "16MiB"][random.usize(..4)];
            return;
        }
        match random.u8(..4) {
            0 | 1 => self.moving = if self.moving == VPC { OTHER } else { VPC },
            2 => {
                self.vpc = vec!["10.1.0.2", "10.1.0.251", "10.1.0.252"];
                if random.bool() {
                    self.vpc.remove(random.usize(..3));
                }
            }
            _ => self.policy = ["ordered", "fastest", "round_robin"][random.usize(..3)],
        }
    }
}

/// Changes the node's configuration, replaces the node, and hands connections to it.
struct Operator {
    world: Arc<World>,
    node: Node,
    shape: Shape,
    random: fastrand::Rng,
    start: tokio::time::Instant,
    counts: Counts,
    wall: WallClock,
}

/// The wall clock, which the node's host may set.
struct WallClock {
    is_set: bool,
    shows: SystemTime,
    read: Instant,
    random: fastrand::Rng,
}

impl WallClock {
    fn new(seed: u64, is_set: bool) -> Self {
        Self {
            is_set,
            shows: UNIX_EPOCH + Duration::from_hours(500_000),
            read: nodens::runtime::now(),
            // A generator of its own, so that everything else is the same with and without it.
            random: fastrand::Rng::with_seed(seed ^ 0xc10c),
        }
    }

    /// Reads the clock. It may have been set since it was read last.
    fn read(&mut self) -> SystemTime {
        let now = nodens::runtime::now();
        self.shows += now.saturating_duration_since(self.read);
        self.read = now;
        if self.is_set {
            let step = Duration::from_secs([1, 3_600, 1_000_000_000][self.random.usize(..3)]);
            let forth = self.shows.checked_add(step);
            let back = self.shows.checked_sub(step);
            let set = if self.random.bool() { forth } else { back };
            self.shows = set.filter(|set| *set >= UNIX_EPOCH).unwrap_or(UNIX_EPOCH);
        }
        self.shows
    }
}

/// Numbers of the operator's actions.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) changes: u64,
    pub(crate) successors: u64,
    pub(crate) killed: u64,
}

impl Operator {
    /// Hands new connections to the node until `time`.
    async fn accept_until(&mut self, time: Micros) {
        let due = self.start + Duration::from_micros(time);
        let mut due = pin!(tokio::time::sleep_until(due));
        loop {
            let opened = poll_fn(|context| {
                let mut inner = self.world.lock();
                let opened = std::mem::take(&mut inner.clients.opened);
                if !opened.is_empty() {
                    return Poll::Ready(opened);
                }
                inner.clients.open_wanted = Some(context.waker().clone());
                drop(inner);
                due.as_mut().poll(context).map(|()| Vec::new())
            });
            let opened = opened.await;
            if opened.is_empty() {
                return;
            }
            for (stream, client) in opened {
                self.node.accept(stream, client);
            }
        }
    }

    async fn act(&mut self) {
        let metrics = self.node.scrape(self.wall.read());
        adds_up(&self.world, &metrics, Waiting::Some);
        if let Some(over) = self.node.over_budget() {
            self.world.lock().net.violated(|| over);
        }
        match self.random.u8(..10) {
            0 => self.kill(),
            1..4 => self.replace(),
            _ => self.change().await,
        }
    }

    fn kill(&mut self) {
        self.tell("it is killed");
        self.counts.killed += 1;
        self.node.kill();
        self.node = Node::start(&self.world, &self.shape.yaml(), None);
    }

    fn replace(&mut self) {
        self.tell("a successor takes over");
        self.counts.successors += 1;
        let successor = Node::start(&self.world, &self.shape.yaml(), Some(&self.node));
        let old = std::mem::replace(&mut self.node, successor);
        let world = Arc::clone(&self.world);
        // Queries of TCP clients that closed their connections before they were answered may be in flight.
        spawn_local(async move { adds_up(&world, &old.stop().await, Waiting::Some) });
    }

    async fn change(&mut self) {
        let before = self.shape.moving;
        self.shape.change(&mut self.random);
        let yaml = self.shape.yaml();
        self.tell(&format!("a change: {yaml}"));
        self.counts.changes += 1;
        if self.shape.moving != before {
            let inner = &mut *self.world.lock();
            inner.clients.change_done = Micros::MAX;
            inner
                .clients
                .moving
                .push((self.shape.moving, inner.net.now));
        }
        // A server that is no longer named gets no queries from the beginning of the change on. A server that is newly named
        // gets queries from the end of the change on.
        let named = self.node.reload(&yaml).await;
        let inner = &mut *self.world.lock();
        inner.clients.configuration_changed(inner.net.now);
        inner.servers.list(&named, inner.net.now);
        if let Some(over) = self.node.over_budget() {
            inner.net.violated(|| over);
        }
        if self.shape.moving != before {
            inner.clients.change_done = inner.net.now;
        }
    }

    fn tell(&self, what: &str) {
        let net = &mut self.world.lock().net;
        let now = seconds(net.now);
        net.trace.line(|| format!("{now:.6} {what}"));
    }
}

async fn simulate(
    seed: u64,
    length: Duration,
    (lines, wall_clock_is_set): (bool, bool),
    progress: &Arc<Progress>,
) -> Outcome {
    let kind = Kind::of(seed);
    let world = World::new(seed, lines, Arc::clone(progress), |net| {
        (
            Names::new(net, kind),
            Servers::new(net, kind),
            Clients::new(net, kind),
        )
    });
    let end = Micros::try_from(length.as_micros()).expect("less than ages");
    world.lock().clients.ask_until = end;
    // The last questions may be asked again, and then over TCP. All are answered before this time.
    let rest = end + 15 * SECOND;
    let driver = spawn_local({
        let world = Arc::clone(&world);
        async move { world.run(rest).await }
    });
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let shape = Shape::any(&mut random, kind, seed);
    world.lock().clients.max_stale = shape.max_stale * SECOND;
    world.lock().clients.keeps_all = kind == Kind::Outages && !shape.resizes;
    let mut operator = Operator {
        node: Node::start(&world, &shape.yaml(), None),
        world: Arc::clone(&world),
        shape,
        random,
        start: tokio::time::Instant::now(),
        counts: Counts::default(),
        wall: WallClock::new(seed, wall_clock_is_set),
    };
    // Nothing changes towards the end, so that all rules can be checked.
    let mut next = 5 * SECOND;
    while next + 20 * SECOND < end && !driver.is_finished() {
        operator.accept_until(next).await;
        let quiet_until = world.lock().servers.quiet_until();
        if quiet_until > next {
            next = quiet_until;
            continue;
        }
        operator.act().await;
        next += operator.random.u64(SECOND..20 * SECOND);
    }
    operator.accept_until(rest).await;
    driver.await.expect("no panic");
    let Operator { node, counts, .. } = operator;
    if world.lock().net.violation.is_none() {
        at_rest(&world, node).await;
    }
    let inner = &mut *world.lock();
    inner.servers.end_loss();
    let most = 2 * WORKERS * SERVERS.len() * (UPSTREAM_PORTS + UPSTREAM_PORTS_RETIRED);
    let open = inner.net.most_sockets;
    if open > most {
        inner
            .net
            .violated(|| format!("{open} sockets were open, and {most} may be by two instances"));
    }
    Outcome {
        seed,
        violation: inner.net.violation.take(),
        hash: inner.net.trace.hash(),
        simulated: Duration::from_micros(inner.net.now),
        took: Duration::ZERO,
        queries: inner.clients.queries,
        lost: inner.clients.lost.len(),
        replies: inner.clients.replies.clone(),
        lookups: inner.clients.lookups.clone(),
        asked: inner.servers.asked,
        faults: inner.servers.faults.clone(),
        under_loss: inner.servers.under_loss,
        most_sockets: open,
        counts,
        lines: inner
            .net
            .trace
            .lines
            .take()
            .map(Vec::from)
            .unwrap_or_default(),
    }
}

/// Checks the rules that must hold when no client has asked for a while.
async fn at_rest(world: &Arc<World>, node: Node) {
    let pending = world.lock().clients.pending();
    if pending > 0 {
        world
            .lock()
            .net
            .violated(|| format!("{pending} queries are left without a reply"));
    }
    let metrics = node.stop().await;
    adds_up(world, &metrics, Waiting::None);
    let in_flight = sum(&metrics, "nodens_in_flight");
    if in_flight != 0.0 {
        let net = &mut world.lock().net;
        net.violated(|| format!("{in_flight} questions are in flight at rest"));
    }
}

/// Whether clients may still wait for replies of an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Some,
    None,
}

/// Checks that the number of queries is the sum of replies, drops and waiting queries.
fn adds_up(world: &World, metrics: &str, waiting: Waiting) {
    let (queries, replies, dropped) = (
        sum(metrics, "nodens_queries_total"),
        sum(metrics, "nodens_replies_total"),
        sum(metrics, "nodens_dropped_total"),
    );
    let left = queries - replies - dropped;
    if left < -0.5 || waiting == Waiting::None && left > 0.5 {
        let net = &mut world.lock().net;
        net.violated(|| format!("{queries} queries are {replies} replies and {dropped} dropped"));
    }
}

/// The sum of a metric family's samples.
fn sum(metrics: &str, family: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(family));
    let samples = lines.filter(|rest| rest.starts_with(['{', ' ']));
    samples
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Runs a failed seed again, and returns the log before the violation.
pub(crate) fn explain(seed: u64, length: Duration) -> String {
    let outcome = run(seed, length, true);
    let mut text = format!(
        "seed {seed}: {}\n",
        outcome
            .violation
            .as_deref()
            .unwrap_or("nothing is violated when it runs again")
    );
    let name = outcome.violation.as_deref().and_then(|text| {
        text.split(' ')
            .find(|word| word.starts_with('n') && word.contains('.'))
    });
    let about = |line: &&String| {
        line.contains("a change")
            || line.contains(" works")
            || line.contains(" is ") && !line.contains("is asked") && !line.contains("is answered")
            || name.is_some_and(|name| line.contains(name.trim_end_matches([',', ':'])))
    };
    let lines: Vec<_> = outcome.lines.iter().filter(about).collect();
    for line in &lines[lines.len().saturating_sub(200)..] {
        writeln!(text, "  {line}").expect("a String grows");
    }
    text
}
