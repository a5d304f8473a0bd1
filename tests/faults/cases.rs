//! The cases: each a fault put on upstream servers while a load runs, and the limits they are held to.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{Load, Names, Results, Running};
use crate::message;
use crate::report::{Expect, FIRST, Figures, Limits, Row};
use crate::resolver::{Group, Kind, Resolver, Setup};
use crate::upstream::{Server, Tcp, Udp};

/// Without a fault, before it.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a fault lasts: two seconds of beginning, the rest settled.
const FAULT: Duration = Duration::from_millis(4500);
/// "it carries ≥ 99 % again within 5 s".
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Names that were cached and have expired.
const EXPIRED_NAMES: usize = 500;
/// "At once" when everything is known to be down: one try each (DESIGN §5.11) within the longest hedge delay, 200 ms.
const AT_ONCE: u64 = 250;

/// More open files than this are worth a note: many systems allow a process 1,024.
const MANY_FILES: usize = 500;

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scene {
    /// A fault that begins after a while, with this many servers.
    Later(usize, fn(&[Server])),
    /// A fault that was there before the resolver started.
    FromTheStart(fn(&[Server])),
    /// The primary is silent for so long, then back.
    Returns(Duration),
    /// All silent, what is asked for was cached and has expired.
    Stale,
    /// A name that never resolves is asked for beside good ones.
    Never,
    /// One zone's servers are dead and flooded with queries, another zone is asked.
    DeadZone,
    /// The first tier has the name as NXDOMAIN, the second would answer.
    Tiers,
}

/// A case of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) scene: Scene,
    pub(crate) limits: Option<Limits>,
}

impl Case {
    /// Whether it needs more than one group of servers, which the peers have no equal word for.
    pub(crate) fn needs_groups(&self) -> bool {
        matches!(self.scene, Scene::DeadZone | Scene::Tiers)
    }

    /// Whether it takes a minute and more.
    pub(crate) fn long(&self) -> bool {
        matches!(self.scene, Scene::Returns(silence) if silence > Duration::from_secs(30))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as a case holds it")]
const fn limits(first_p99: u64, settled_p99: u64) -> Option<Limits> {
    Some(Limits {
        expect: Expect::Right,
        first_p99: Some(Duration::from_millis(first_p99)),
        settled_p99: Some(Duration::from_millis(settled_p99)),
        datagrams: None,
    })
}

const fn spending(limits: Option<Limits>, datagrams: f64) -> Option<Limits> {
    match limits {
        Some(limits) => Some(Limits {
            datagrams: Some(datagrams),
            ..limits
        }),
        None => None,
    }
}

const fn expecting(limits: Option<Limits>, expect: Expect) -> Option<Limits> {
    match limits {
        Some(limits) => Some(Limits { expect, ..limits }),
        None => None,
    }
}

fn case(name: &'static str, scene: Scene, limits: Option<Limits>) -> Case {
    Case {
        name,
        scene,
        limits,
    }
}

fn primary(name: &'static str, fault: fn(&[Server]), limits: Option<Limits>) -> Case {
    case(name, Scene::Later(3, fault), limits)
}

/// All servers do the same.
fn all(servers: &[Server], behaviour: Udp) {
    for server in servers {
        server.set(behaviour);
    }
}

/// The table of the README, and as its first line the same load without a fault, which shows what the machine adds.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn table() -> Vec<Case> {
    let returns = |name, seconds| {
        let limits = limits(0, 5).map(|limits| Limits {
            first_p99: None,
            ..limits
        });
        case(name, Scene::Returns(Duration::from_secs(seconds)), limits)
    };
    vec![
        primary("no fault (what the machine adds)", |_| {}, None),
        case(
            "first silent from the start",
            Scene::FromTheStart(|s| s[0].set(Udp::Silent)),
            limits(250, 5),
        ),
        primary(
            "primary falls silent",
            |s| s[0].set(Udp::Silent),
            limits(250, 5),
        ),
        returns("primary returns after 4 s", 4),
        returns("primary returns after 60 s", 60),
        primary(
            "primary SERVFAIL",
            |s| s[0].set(Udp::Code(message::SERVFAIL)),
            limits(10, 5),
        ),
        primary(
            "primary REFUSED",
            |s| s[0].set(Udp::Code(message::REFUSED)),
            limits(10, 5),
        ),
        primary(
            "primary FORMERR to OPT",
            |s| s[0].set(Udp::FormerrToOpt),
            limits(10, 5),
        ),
        primary(
            "primary drops 20 %",
            |s| s[0].set(Udp::Drop(20)),
            limits(250, 25),
        ),
        primary(
            "primary answers after 900 ms",
            |s| s[0].set(Udp::Delay(Duration::from_millis(900))),
            limits(250, 25),
        ),
        primary(
            "primary wrong ID",
            |s| s[0].set(Udp::WrongId),
            limits(250, 5),
        ),
        primary(
            "primary wrong question",
            |s| s[0].set(Udp::WrongQuestion),
            limits(250, 5),
        ),
        primary(
            "primary garbage",
            |s| s[0].set(Udp::Garbage),
            limits(250, 5),
        ),
        primary(
            "primary port unreachable",
            |s| s[0].set(Udp::Closed),
            limits(250, 5),
        ),
        primary(
            "all drop 20 %",
            |s| all(s, Udp::Drop(20)),
            spending(limits(250, 250), 1.5),
        ),
        case(
            "the only server drops 20 %",
            Scene::Later(1, |s| s[0].set(Udp::Drop(20))),
            spending(limits(250, 250), 1.5),
        ),
        primary(
            "all 700 ms slow",
            |s| all(s, Udp::Delay(Duration::from_millis(700))),
            spending(limits(1000, 750), 1.2),
        ),
        case(
            "all silent, cached and expired",
            Scene::Stale,
            expecting(limits(550, 2), Expect::Stale),
        ),
        primary(
            "all silent, nothing cached",
            |s| all(s, Udp::Silent),
            expecting(limits(4000, AT_ONCE), Expect::Explained),
        ),
        case(
            "a name never resolves, others do",
            Scene::Never,
            limits(5, 5),
        ),
        case(
            "another zone's group dead, flooded",
            Scene::DeadZone,
            limits(5, 5),
        ),
        case(
            "NXDOMAIN in the first tier",
            Scene::Tiers,
            expecting(limits(5, 5), Expect::NoSuchName),
        ),
    ]
}

/// What bad input gets: nothing of it reaches a client, and none of it ends the wait for the true answer.
pub(crate) fn bad_input() -> Vec<Case> {
    let only = |name, fault| case(name, Scene::Later(1, fault), limits(250, 250));
    vec![
        primary(
            "primary wrong source",
            |s| s[0].set(Udp::WrongSource),
            limits(250, 5),
        ),
        primary(
            "primary lying counts",
            |s| s[0].set(Udp::LyingCounts),
            limits(250, 5),
        ),
        primary(
            "primary compression loop",
            |s| s[0].set(Udp::CompressionLoop),
            limits(250, 5),
        ),
        primary(
            "primary answers twice",
            |s| s[0].set(Udp::Twice),
            limits(10, 5),
        ),
        primary(
            "primary answers after 200 ms",
            |s| s[0].set(Udp::Delay(Duration::from_millis(200))),
            limits(250, 25),
        ),
        only("the only server truncates", |s| s[0].set(Udp::Truncated)),
        primary(
            "primary truncates, TCP refused",
            |s| {
                s[0].set_tcp(Tcp::Refused);
                s[0].set(Udp::Truncated);
            },
            limits(250, 25),
        ),
        primary(
            "primary truncates, half a frame",
            |s| {
                s[0].set_tcp(Tcp::HalfFrame);
                s[0].set(Udp::Truncated);
            },
            limits(250, 25),
        ),
        primary(
            "primary truncates, TCP reset",
            |s| {
                s[0].set_tcp(Tcp::Reset);
                s[0].set(Udp::Truncated);
            },
            limits(250, 25),
        ),
    ]
}

/// Servers at 127.0.0.2 and up.
fn servers(count: usize) -> Vec<Server> {
    let ip = |index| [127, 0, 0, u8::try_from(index + 2).expect("few servers")];
    (0..count).map(|index| Server::start(ip(index))).collect()
}

fn addresses(servers: &[Server]) -> Vec<std::net::SocketAddr> {
    servers.iter().map(Server::address).collect()
}

/// A label no other load uses.
fn label() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("c{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn wait_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}

/// Datagrams with clients' questions that these servers got.
fn datagrams(servers: &[Server]) -> u64 {
    servers.iter().map(|server| server.count().queries).sum()
}

impl Case {
    /// Runs it once.
    pub(crate) fn run(&self, kind: Kind, qps: u32) -> Row {
        let mut row = match self.scene {
            Scene::Later(count, fault) => {
                let servers = servers(count);
                let resolver = Resolver::start(kind, &Setup::one(addresses(&servers)));
                let load = load(&resolver, qps, WARM_UP + FAULT);
                self.follow(kind, qps, &resolver, &servers, load, WARM_UP, fault)
            }
            Scene::FromTheStart(fault) => {
                let servers = servers(3);
                fault(&servers);
                let resolver = Resolver::start(kind, &Setup::one(addresses(&servers)));
                let load = load(&resolver, qps, FAULT);
                self.follow(kind, qps, &resolver, &servers, load, Duration::ZERO, |_| {})
            }
            Scene::Returns(silence) => self.returns(kind, qps, silence),
            Scene::Stale => self.stale(kind, qps),
            Scene::Never => self.never(kind, qps),
            Scene::DeadZone => self.dead_zone(kind, qps),
            Scene::Tiers => self.tiers(kind, qps),
        };
        row.judge();
        row
    }

    /// Has a load run, brings the fault about after `warm_up`, and counts.
    #[expect(
        clippy::too_many_arguments,
        reason = "one scene's parts, used once each"
    )]
    fn follow(
        &self,
        kind: Kind,
        qps: u32,
        resolver: &Resolver,
        servers: &[Server],
        load: Load,
        warm_up: Duration,
        fault: impl FnOnce(&[Server]),
    ) -> Row {
        let running = load.start();
        wait_until(running.start + warm_up);
        fault(servers);
        let begin = Instant::now();
        let before = datagrams(servers);
        wait_until(begin + FIRST);
        let between = datagrams(servers);
        let files = resolver.files();
        let results = running.results();
        let after = datagrams(servers);
        let mut row = self.row(kind, qps, &results, begin);
        row.datagrams = (
            per_query(after - before, row.first.asked + row.settled.asked),
            per_query(after - between, row.settled.asked),
        );
        if files > MANY_FILES {
            row.note = format!("{files} open files after 2 s");
        }
        row.complain(kind, resolver, &results);
        row
    }

    fn row(&self, kind: Kind, qps: u32, results: &Results, begin: Instant) -> Row {
        let end = begin + Duration::from_hours(1);
        Row {
            case: self.name.to_owned(),
            resolver: kind.name().to_owned(),
            qps,
            first: Figures::between(&results.records, begin, begin + FIRST),
            settled: Figures::between(&results.records, begin + FIRST, end),
            datagrams: (0.0, 0.0),
            lateness: results.lateness,
            limits: self.limits.filter(|_| kind == Kind::Nodens),
            note: String::new(),
            complaints: Vec::new(),
        }
    }

    /// The two seconds after the return are "first"; the silence before it must be answered in full too.
    fn returns(&self, kind: Kind, qps: u32, silence: Duration) -> Row {
        let servers = servers(3);
        let resolver = Resolver::start(kind, &Setup::one(addresses(&servers)));
        let watched = BACK_WITHIN + Duration::from_secs(2);
        let running = load(&resolver, qps, WARM_UP + silence + watched).start();
        wait_until(running.start + WARM_UP);
        servers[0].set(Udp::Silent);
        let fault = Instant::now();
        wait_until(fault + silence);
        servers[0].set(Udp::Answer);
        let back = Instant::now();
        wait_until(back + BACK_WITHIN);
        let (of_primary, of_all) = (datagrams(&servers[..1]), datagrams(&servers));
        // The load's own last tenth of a second still runs.
        let end =
            running.start + WARM_UP + silence + watched.saturating_sub(Duration::from_millis(100));
        wait_until(end);
        let (of_primary, of_all) = (
            datagrams(&servers[..1]) - of_primary,
            datagrams(&servers) - of_all,
        );
        let results = running.results();
        let mut row = self.row(kind, qps, &results, back);
        let share = of_primary as f64 * 100.0 / of_all.max(1) as f64;
        row.note = format!("{share:.1} % to the primary from 5 s after its return");
        let silent = Figures::between(&results.records, fault, back);
        if row.limits.is_some() {
            if share < 99.0 {
                row.complaints.push(format!(
                    "{share:.1} % to the primary 5 s after its return < 99 %"
                ));
            }
            if silent.right != silent.asked {
                let (right, asked) = (silent.right, silent.asked);
                row.complaints
                    .push(format!("during the silence: {right} of {asked} right"));
            }
        }
        let all = datagrams(&servers);
        row.datagrams.0 = per_query(all, results.records.len());
        row.complain(kind, &resolver, &results);
        row
    }

    fn stale(&self, kind: Kind, qps: u32) -> Row {
        let servers = servers(3);
        for server in &servers {
            server.set_ttl(1);
        }
        let resolver = Resolver::start(kind, &Setup::one(addresses(&servers)));
        let names = Names::Repeated(EXPIRED_NAMES);
        let load = Load {
            names,
            ..load(&resolver, qps, FAULT)
        };
        let prime = Load {
            qps: 1000,
            duration: Duration::from_millis(500),
            ..load.clone()
        };
        let primed = prime.run();
        // The last of them expires a second after its answer.
        thread::sleep(Duration::from_millis(1100));
        for server in &servers {
            server.set(Udp::Silent);
        }
        let mut row = self.follow(kind, qps, &resolver, &servers, load, Duration::ZERO, |_| {});
        let right = primed
            .records
            .iter()
            .filter(|record| record.right())
            .count();
        if row.limits.is_some() && right != EXPIRED_NAMES {
            row.complaints.push(format!(
                "only {right} of {EXPIRED_NAMES} names were cached before"
            ));
        }
        row
    }

    fn never(&self, kind: Kind, qps: u32) -> Row {
        let servers = servers(3);
        let resolver = Resolver::start(kind, &Setup::one(addresses(&servers)));
        let never = Load {
            qps: 50,
            names: Names::Never,
            ..load(&resolver, qps, WARM_UP + FAULT)
        };
        let good = load(&resolver, qps, WARM_UP + FAULT);
        // The servers must be known before the first name that never resolves comes.
        let warm = load(&resolver, 100, Duration::from_millis(200)).run();
        let changes = state_changes(kind, &resolver);
        let never = never.start();
        let mut row = self.follow(kind, qps, &resolver, &servers, good, WARM_UP, |_| {});
        let never = never.results();
        row.complain(kind, &resolver, &warm);
        let changes = state_changes(kind, &resolver) - changes;
        row.note = format!("{changes} state changes");
        if row.limits.is_some() {
            if changes != 0.0 {
                row.complaints
                    .push(format!("{changes} state changes, none expected"));
            }
            let all = Figures::between(&never.records, never.records[0].sent, Instant::now());
            if all.explained != all.asked {
                row.complaints.push(format!(
                    "the name that never resolves: {} of {} SERVFAIL with EDE, {} lost",
                    all.explained, all.asked, all.lost
                ));
            }
        }
        row
    }

    fn dead_zone(&self, kind: Kind, qps: u32) -> Row {
        let (dead, live) = (servers(3), servers(3));
        let setup = Setup {
            groups: vec![
                Group {
                    name: "vpc",
                    servers: addresses(&dead),
                },
                Group {
                    name: "cluster",
                    servers: addresses(&live),
                },
            ],
            routes: vec![(".", vec!["vpc"]), ("live.suite.example", vec!["cluster"])],
            ..Setup::default()
        };
        let resolver = Resolver::start(kind, &setup);
        let flood = load(&resolver, 2000, WARM_UP + FAULT);
        let asked = Load {
            label: format!("{}.live", label()),
            ..load(&resolver, qps, WARM_UP + FAULT)
        };
        let flood: Running = flood.start();
        let mut row = self.follow(kind, qps, &resolver, &live, asked, WARM_UP, |_| {
            for server in &dead {
                server.set(Udp::Silent);
            }
        });
        let flood = flood.results();
        let lost = flood.records.iter().filter(|r| r.reply.is_none()).count();
        row.note = format!("beside 2,000/s to the dead group, of which {lost} lost");
        if row.limits.is_some() && lost > 0 {
            row.complaints
                .push(format!("the dead zone: {lost} queries got no reply at all"));
        }
        row
    }

    fn tiers(&self, kind: Kind, qps: u32) -> Row {
        let (first, second) = (servers(3), servers(3));
        for server in &first {
            server.set(Udp::Nxdomain);
        }
        let setup = Setup {
            groups: vec![
                Group {
                    name: "vpc",
                    servers: addresses(&first),
                },
                Group {
                    name: "public",
                    servers: addresses(&second),
                },
            ],
            routes: vec![(".", vec!["vpc", "public"])],
            ..Setup::default()
        };
        let resolver = Resolver::start(kind, &setup);
        let load = load(&resolver, qps, WARM_UP + FAULT);
        let mut row = self.follow(kind, qps, &resolver, &first, load, WARM_UP, |_| {});
        let asked = datagrams(&second);
        if row.limits.is_some() && asked > 0 {
            row.complaints
                .push(format!("the second tier was asked {asked} times"));
        }
        row
    }
}

impl Row {
    /// What must hold in every case: one reply a query, and no resolver that grows without end.
    fn complain(&mut self, kind: Kind, resolver: &Resolver, results: &Results) {
        if kind != Kind::Nodens {
            return;
        }
        if results.surplus > 0 {
            let surplus = results.surplus;
            self.complaints.push(format!(
                "{surplus} replies more than queries, or to none of them"
            ));
        }
        let wrong = self.first.wrong + self.settled.wrong;
        if wrong > 0 {
            self.complaints.push(format!(
                "{wrong} replies with records that are not the name's"
            ));
        }
        let bytes = resolver.resident_bytes();
        if bytes > 256 << 20 {
            self.complaints
                .push(format!("{} MiB resident", bytes >> 20));
        }
        if std::env::var_os("NODENS_FAULT_LOG").is_some() {
            println!("{}", resolver.log());
        }
    }
}

/// How often nodens changed its mind about a server; a warm-up's first impressions included.
fn state_changes(kind: Kind, resolver: &Resolver) -> f64 {
    if kind == Kind::Nodens {
        resolver.metric("nodens_upstream_state_changes_total{")
    } else {
        0.0
    }
}

fn per_query(datagrams: u64, queries: usize) -> f64 {
    datagrams as f64 / queries.max(1) as f64
}

fn load(resolver: &Resolver, qps: u32, duration: Duration) -> Load {
    Load {
        target: resolver.address,
        qps,
        duration,
        names: Names::New,
        label: label(),
    }
}
