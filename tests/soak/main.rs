//! A long run under a mixed load, with servers that fail in turns: one instance that lives as long as the run and is only
//! reloaded, and an address whose instance is reloaded, replaced, and now and then killed. Nothing may grow, and no query
//! may be lost but while an instance is dead.
//!
//! `NODENS_SOAK_MINUTES` (60) says how long; up to two minutes, everything happens more often:
//! `cargo test --test soak -- --ignored --nocapture`. The load is low: what it looks for adds up over time.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod samples;
mod servers;
mod slope;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clients::{Clients, Fault, Seen};
use common::dns::{Ask, Message, exchange, rcode, rr};
use common::{Nodens, free_address, wait_for};
use samples::Life;
use servers::{SERVERS, Server, Turns};
use slope::{Bound, median, slope};

/// Queries a second that each of the two instances gets, about.
const QUERIES_PER_SECOND: f64 = 200.0;
/// Resident memory, in bytes: 50 octets lost with each query would be 36 MB an hour.
const RSS: Bound = Bound {
    per_hour: 4e6,
    per_run: 2e6,
};
/// Open files: one lost with each replacement would be 60 an hour.
const DESCRIPTORS: Bound = Bound {
    per_hour: 15.0,
    per_run: 20.0,
};
/// Threads do not come and go.
const THREADS: Bound = Bound {
    per_hour: 0.5,
    per_run: 0.5,
};
/// The cache is full after a minute; how many answers that are depends on their sizes.
const ENTRIES: Bound = Bound {
    per_hour: 150.0,
    per_run: 150.0,
};
/// Questions and connections that nobody waits for any more.
const WAITING: Bound = Bound {
    per_hour: 5.0,
    per_run: 10.0,
};
/// How long after a kill answers come again at the latest. Whoever restarts it does so at once.
const BACK: Duration = Duration::from_secs(2);
/// Of so many queries, one may take more than its first try while no instance is dead.
const FIRST_TRY: u64 = 20_000;

/// How often things happen.
#[derive(Debug, Clone, Copy)]
struct Periods {
    run: Duration,
    reload: Duration,
    replacement: Duration,
    kill: Duration,
    turn: Duration,
    /// The age from which an instance's figures count.
    warm: Duration,
    /// How many times the noise of a long run: figures of a young instance have not settled.
    noise: f64,
}

impl Periods {
    fn of(run: Duration) -> Self {
        let seconds = Duration::from_secs;
        if run > seconds(120) {
            Self {
                run,
                reload: seconds(10),
                replacement: seconds(60),
                kill: seconds(300),
                turn: seconds(7),
                warm: run / 6,
                noise: 1.0,
            }
        } else {
            Self {
                run,
                reload: seconds(3),
                replacement: seconds(9),
                kill: seconds(25),
                turn: seconds(2),
                warm: run / 3,
                noise: 5.0,
            }
        }
    }
}

/// Something that is due again and again.
struct Every {
    period: Duration,
    due: Instant,
}

impl Every {
    fn new(period: Duration) -> Self {
        let due = Instant::now() + period;
        Self { period, due }
    }

    fn is_due(&mut self) -> bool {
        let due = Instant::now() >= self.due;
        if due {
            // From now on: what a busy machine delayed is not made up for.
            self.due = Instant::now() + self.period;
        }
        due
    }
}

/// The configuration of the given number: each one differs from the one before.
fn configuration(number: u64, cluster: &[Server], vpc: &[Server]) -> String {
    let list = |servers: &[Server]| {
        let addresses = servers
            .iter()
            .map(|server| format!("{:?}", server.address.to_string()));
        addresses.collect::<Vec<_>>().join(", ")
    };
    let choose = |from: &[&'static str]| {
        let number = usize::try_from(number).expect("a short run");
        from[number % from.len()]
    };
    format!(
        "workers: 2\nhandover: true\nshutdown_grace: 6s\nnode_name: version{number}\n\
         cache: {{max_size: 512KiB, max_ttl: {ttl}}}\n\
         upstreams:\n\
         \x20 cluster: {{servers: [{cluster}], policy: {policy}}}\n\
         \x20 vpc: {{servers: [{vpc}], policy: {policy}, try_timeout: {try_timeout}}}\n\
         \x20 spare{spare}: {{servers: [{vpc}]}}\n\
         routes:\n\
         \x20 cluster.local: cluster\n\
         \x20 zone{zone}.test: spare{spare}\n\
         \x20 \".\": vpc\n\
         records: {{here{number}.test: {{A: [192.0.2.9]}}}}\n",
        ttl = choose(&["1h", "2h"]),
        policy = choose(&["ordered", "fastest", "round_robin"]),
        try_timeout = choose(&["1s", "900ms", "1s", "1s", "800ms"]),
        spare = number / 3 % 2,
        // Not ever new ones: a zone that is gone keeps its number, of which there are 65,536.
        zone = number % 7,
        cluster = list(cluster),
        vpc = list(vpc),
    )
}

/// One address, who serves it, and who asks.
struct Site {
    listen: SocketAddr,
    clients: Clients,
    instance: Nodens,
    lives: Vec<Life>,
    /// From a kill to the first answer after it.
    outages: Vec<(Instant, Instant)>,
    reloads: u64,
}

impl Site {
    fn new(number: u64, yaml: &str) -> Self {
        let listen = free_address();
        let instance = Nodens::start_on(&[&listen.to_string()], yaml);
        Self {
            listen,
            clients: Clients::start(listen, number),
            lives: vec![Life::new()],
            instance,
            outages: vec![],
            reloads: 0,
        }
    }

    fn sample(&mut self) {
        let life = self.lives.last_mut().expect("never empty");
        life.sample(&self.instance);
        self.clients.check();
    }

    fn reload(&mut self, yaml: &str) {
        let taken = |nodens: &Nodens| nodens.status()["configuration"]["taken"].as_u64();
        let before = taken(&self.instance);
        self.instance.rewrite(&[&self.listen.to_string()], yaml);
        self.instance.hang_up();
        wait_for("the configuration to be in force", || {
            (taken(&self.instance) > before).then_some(())
        });
        self.reloads += 1;
    }

    fn replace(&mut self, yaml: &str) {
        let successor = Nodens::start_on(&[&self.listen.to_string()], yaml);
        let predecessor = std::mem::replace(&mut self.instance, successor);
        self.lives.push(Life::new());
        let (status, log) = predecessor.terminate();
        assert!(status.success(), "{status}: {log}");
    }

    fn kill(&mut self, yaml: &str) {
        let killed = Instant::now();
        self.instance.signal("KILL");
        self.instance.wait_for_end();
        self.instance = Nodens::start_on(&[&self.listen.to_string()], yaml);
        self.lives.push(Life::new());
        let question = Ask::new("svc1.default.svc.cluster.local.", rr::A);
        wait_for("an answer after a kill", || {
            let reply = exchange(self.listen, common::dns::Over::Udp, &question.message()).ok()?;
            (Message::read(&reply).ok()?.rcode() == rcode::NOERROR).then_some(())
        });
        self.outages.push((killed, Instant::now()));
    }
}

/// What must hold, and what did not.
#[derive(Default)]
struct Verdict(Vec<String>);

impl Verdict {
    fn claim(&mut self, holds: bool, otherwise: String) {
        if !holds {
            self.0.push(otherwise);
        }
    }

    /// A row of the table: first and last value, slope, and the slope allowed. Only growth is a fault.
    fn flat(&mut self, what: &str, points: &[(f64, f64)], most: f64) {
        let steep = slope(points);
        let tenth = points.len().div_ceil(10);
        let middle = |points: &[(f64, f64)]| {
            median(points.iter().map(|point| point.1).collect()).unwrap_or(0.0)
        };
        println!(
            "{what:34} {:14.1} {:14.1} {steep:14.2} {most:14.2}",
            middle(&points[..tenth]),
            middle(&points[points.len() - tenth..]),
        );
        self.claim(
            steep <= most,
            format!("{what} grows by {steep:.2} an hour, over {most:.2}"),
        );
    }
}

fn judge_clients(name: &str, seen: &Seen, outages: &[(Instant, Instant)], verdict: &mut Verdict) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let faults = seen.faults.lock().expect("no thread panics with it");
    let at_a_kill = |fault: &Fault| {
        outages
            .iter()
            .any(|(killed, back)| fault.from <= *back && fault.to >= *killed)
    };
    let (killed, other): (Vec<_>, Vec<_>) = faults.iter().partition(|fault| at_a_kill(fault));
    let lost = |faults: &[&Fault]| faults.iter().filter(|fault| fault.lost).count();
    println!(
        "\n{name}: {} answers over UDP ({} denials, {} truncated), {} over TCP on {} connections ({} queries crossed a FIN); \
         {} took over a second; not answered at the first try: {} at kills ({} lost), {} else ({} lost)",
        count(&seen.udp),
        count(&seen.denied),
        count(&seen.truncated),
        count(&seen.tcp),
        count(&seen.connections),
        count(&seen.crossed),
        count(&seen.late),
        killed.len(),
        lost(&killed),
        other.len(),
        lost(&other),
    );
    for fault in other.iter().take(20) {
        println!("  {} after {:?}", fault.what, fault.to - fault.from);
    }
    verdict.claim(
        lost(&other) == 0,
        format!("{name}: {} queries lost", lost(&other)),
    );
    let answers = count(&seen.udp) + count(&seen.tcp);
    verdict.claim(
        u64::try_from(other.len()).expect("fits") <= answers / FIRST_TRY,
        format!(
            "{name}: {} of {answers} queries took a second try",
            other.len()
        ),
    );
}

/// The instance that lived as long as the run.
fn judge_life(life: &Life, periods: Periods, verdict: &mut Verdict) {
    let counted = periods.run.saturating_sub(periods.warm);
    for (what, of, bound) in samples::FIGURES {
        let points = life.points(of, periods.warm.as_secs_f64());
        let most = bound.slope(counted, periods.noise);
        verdict.flat(&format!("one life: {what}"), &points, most);
    }
}

/// Instances that followed each other: at the same age, a later one has no more than an earlier one; and within each.
fn judge_lives(lives: &[Life], periods: Periods, verdict: &mut Verdict) {
    let whole = periods.replacement.as_secs_f64();
    let start = lives[0].born;
    for (what, of, bound) in samples::FIGURES {
        let mut same_age = vec![];
        let mut within = vec![];
        for life in lives {
            let points = life.points(of, whole / 2.0);
            let values = points.iter().map(|point| point.1).collect();
            if let Some(value) = median(values) {
                same_age.push(((life.born - start).as_secs_f64(), value));
                within.push(slope(&points));
            }
        }
        let most = bound.slope(periods.run, periods.noise);
        verdict.flat(&format!("{} lives: {what}", lives.len()), &same_age, most);
        let within = median(within).unwrap_or(0.0);
        println!(
            "{:34} {:>29} {within:14.2}",
            "  median slope within a life", ""
        );
    }
}

/// How long the run is.
fn minutes() -> f64 {
    let minutes = std::env::var("NODENS_SOAK_MINUTES").unwrap_or_else(|_| "60".to_owned());
    minutes.parse().expect("NODENS_SOAK_MINUTES is a number")
}

/// Has everything happen to the second address, and reloads alone to the first, for the whole run. Returns how many
/// replacements there were.
fn live(periods: Periods, sites: [&mut Site; 2], mut next: impl FnMut() -> String) -> u32 {
    let [steady, replaced] = sites;
    let start = Instant::now();
    let mut reload = Every::new(periods.reload);
    let mut replacement = Every::new(periods.replacement);
    let mut kill = Every::new(periods.kill);
    let mut report = Every::new(Duration::from_mins(1));
    let mut second = Every::new(Duration::from_secs(1));
    let mut replacements = 0;
    while start.elapsed() < periods.run {
        if second.is_due() {
            steady.sample();
            replaced.sample();
        }
        if kill.is_due() {
            replaced.kill(&next());
        }
        if replacement.is_due() {
            replaced.replace(&next());
            replacements += 1;
        }
        if reload.is_due() {
            steady.reload(&next());
            replaced.reload(&next());
        }
        if report.is_due() {
            println!("{:?}", steady.lives[0].last());
        }
        // Only keeps the loop from spinning.
        thread::sleep(Duration::from_millis(20));
    }
    replacements
}

#[test]
#[ignore = "takes an hour, or NODENS_SOAK_MINUTES"]
fn nothing_grows_and_nothing_is_lost() {
    let periods = Periods::of(Duration::from_secs_f64(minutes() * 60.0));
    let start = Instant::now();
    let turns = Turns {
        start,
        length: periods.turn,
    };
    let group = || {
        (0..SERVERS)
            .map(|number| Server::new(number, turns))
            .collect::<Vec<_>>()
    };
    let (cluster, vpc) = (group(), group());
    let mut version = 0;
    let mut next = || {
        version += 1;
        configuration(version, &cluster, &vpc)
    };
    let mut steady = Site::new(1, &next());
    let mut replaced = Site::new(2, &next());
    let replacements = live(periods, [&mut steady, &mut replaced], next);
    let cpu = steady.instance.metric("process_cpu_seconds_total", &[]);
    let (steady_seen, replaced_seen) = (steady.clients.stop(), replaced.clients.stop());

    let mut verdict = Verdict::default();
    let longest = replaced
        .outages
        .iter()
        .map(|(killed, back)| *back - *killed)
        .max();
    println!(
        "\n{:.0} s: {} reloads, {replacements} replacements, {} kills (answers again after {:?} at most); \
         the long-lived instance used {cpu:.0} s of CPU time",
        start.elapsed().as_secs_f64(),
        steady.reloads + replaced.reloads,
        replaced.outages.len(),
        longest.unwrap_or_default(),
    );
    verdict.claim(
        longest.unwrap_or_default() < BACK,
        format!("after a kill, the first answer took {longest:?}"),
    );
    verdict.claim(
        replacements > 0 && steady.reloads > 0 && longest.is_some(),
        "not everything happened: the run is too short".to_owned(),
    );
    judge_clients("only reloaded", &steady_seen, &steady.outages, &mut verdict);
    judge_clients(
        "replaced and killed",
        &replaced_seen,
        &replaced.outages,
        &mut verdict,
    );
    println!(
        "\n{:34} {:>14} {:>14} {:>14} {:>14}",
        "", "first tenth", "last tenth", "growth/hour", "allowed"
    );
    judge_life(&steady.lives[0], periods, &mut verdict);
    judge_lives(&replaced.lives, periods, &mut verdict);
    assert!(verdict.0.is_empty(), "\n{}", verdict.0.join("\n"));
}
