//! A node that is made up whole, but for nodens: clients, servers, routers, time and chance come from one seed.
//!
//!     cargo test --test simulation
//!     NODENS_SIMULATION_SECONDS=60 cargo test --test simulation seeds_find -- --nocapture
//!     NODENS_SIMULATION_SEED=7 cargo test --test simulation seeds_find -- --nocapture
//!
//! `world` is the network and the time; `names` the authority that servers repeat, and clients' replies are compared with;
//! `servers`, `clients` and `node` are who talks; `loss` is the budget of datagrams; `standstill` ends runs that would not end;
//! `run` puts them together, changes the configuration, and replaces the node.
//! A run depends on its seed alone: one that fails says what happened, and does so again.

#![allow(dead_code, reason = "the example `simulate` shows more of a run")]

mod clients;
mod loss;
mod names;
mod node;
mod resolvers;
mod run;
mod servers;
mod standstill;
mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use standstill::Watch;

/// How long each run is.
const LENGTH: Duration = Duration::from_mins(2);

/// Runs that found something once, and how long they take to. A seed is another run once the simulation changes: then what it
/// found stands in a test of its own, and the seed is replaced by one that finds it again.
const FOUND: [(u64, Duration); 4] = [
    (8, Duration::from_secs(24)),
    (9, Duration::from_secs(5)),
    (1_160_450_463, Duration::from_secs(25)),
    (1_160_450_464, Duration::from_secs(19)),
];

#[test]
fn seeds_find_nothing() {
    let seconds = std::env::var("NODENS_SIMULATION_SECONDS");
    let seconds = seconds.map_or(5, |seconds| seconds.parse().expect("seconds"));
    let first = std::env::var("NODENS_SIMULATION_SEED");
    // The same ones in every run of the tests: what they find must be there the next time too.
    let mut seed = first
        .as_ref()
        .map_or(1, |seed| seed.parse().expect("a number"));
    let first_of_all = FOUND.iter().filter(|_| first.is_err());
    for &(seed, length) in first_of_all {
        println!("seed {seed} found something once");
        let again = run::run(seed, length, false);
        assert!(again.violation.is_none(), "{}", run::explain(seed, length));
    }
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    println!("the first seed is {seed}");
    let mut simulated = Duration::ZERO;
    let mut found = Vec::new();
    while std::time::Instant::now() < end {
        let outcome = run::run(seed, LENGTH, false);
        simulated += outcome.simulated;
        if outcome.violation.is_some() {
            println!("{}", run::explain(seed, LENGTH));
            found.push(seed);
        }
        seed += 1;
    }
    println!("{simulated:?} were simulated");
    assert!(found.is_empty(), "{found:?}");
}

/// What a process of its own is to do that would not end, for the test below.
const STANDS_STILL: &str = "NODENS_SIMULATION_STANDS_STILL";

#[test]
fn a_run_whose_time_stands_still_ends_with_its_seed() {
    match std::env::var(STANDS_STILL).as_deref() {
        Ok("nothing moves") => {
            let watch = Watch::start(4711, Duration::from_millis(200));
            watch.progress.touched(2_000_000);
            loop {
                std::thread::park();
            }
        }
        Ok(_) => {
            let watch = Watch::start(4711, standstill::PATIENCE);
            loop {
                watch.progress.touched(2_000_000);
            }
        }
        Err(_) => {}
    }
    for (what, why) in [
        ("nothing moves", "nothing moved for 200ms"),
        ("all happens at once", "1000000 things happened at once"),
    ] {
        let program = std::env::current_exe().expect("the tests' own program");
        let ended = Command::new(program)
            .args([
                "--exact",
                "a_run_whose_time_stands_still_ends_with_its_seed",
            ])
            .env(STANDS_STILL, what)
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&ended.stdout);
        let expected = format!("seed 4711: made-up time stands still at 2.000000 s: {why}\n");
        assert!(said.contains(&expected), "{what}: {said}");
        assert_eq!(ended.status.code(), Some(101), "{what}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    // One of each kind.
    for seed in [5, 6, 7] {
        the_same_run(seed, Duration::from_secs(20));
    }
}

fn the_same_run(seed: u64, length: Duration) {
    let (one, other) = (run::run(seed, length, true), run::run(seed, length, true));
    let differs = one
        .lines
        .iter()
        .zip(&other.lines)
        .position(|(one, other)| one != other);
    if let Some(at) = differs {
        let from = at.saturating_sub(5);
        panic!(
            "line {at}:\n{:#?}\n{:#?}",
            &one.lines[from..(at + 3).min(one.lines.len())],
            &other.lines[from..(at + 3).min(other.lines.len())]
        );
    }
    assert_eq!(one.hash, other.hash);
}

/// Nodens reads that clock in three places: to show when something was, and whether a certificate has expired. What it decides, it
/// decides by the clock of the runtime.
#[test]
fn the_clock_on_the_wall_decides_nothing() {
    for seed in [5, 6, 7] {
        let length = Duration::from_secs(15);
        let [set, not_set] =
            [true, false].map(|is_set| run::run_by_wall_clock(seed, length, false, is_set));
        assert_eq!(set.hash, not_set.hash, "seed {seed}");
    }
    let mut readers = Vec::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let code = std::fs::read_to_string(&path).expect("a source file");
            if code.contains("SystemTime::now") || code.contains("UNIX_EPOCH.elapsed") {
                let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR"));
                readers.push(path.expect("below it").display().to_string());
            }
        }
    }
    readers.sort();
    let known = [
        "src/diagnosis/certificate.rs",
        "src/process/admin/status.rs",
        "src/process/reload_status.rs",
    ];
    assert_eq!(readers, known);
}
