//! The real nodens in a made-up world: clients, servers, routers, time and random numbers are made up from one seed.
//!
//!     cargo test --test simulation
//!     NODENS_SIMULATION_SECONDS=60 cargo test --test simulation seeds_find -- --nocapture
//!     NODENS_SIMULATION_SEED=7 cargo test --test simulation seeds_find -- --nocapture
//!
//! `world` is the network and the time. `names` has the true content of names, which servers answer with and which clients'
//! replies are compared with. `servers`, `clients` (with `resolvers`) and `node` exchange messages. `loss` checks the budget of
//! datagrams. `standstill` ends runs that would not end. `run` puts all together, changes the configuration, and replaces the
//! node.
//!
//! A run depends on its seed alone: a seed that fails reports what happened, and fails again in each run.

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

/// Simulated time of each run.
const LENGTH: Duration = Duration::from_mins(2);

/// Seeds that found a fault once, with the simulated time that they need. A change of the simulation makes a seed another run.
/// Then the fault gets a test of its own, or the seed is replaced by one that finds the fault again.
const FOUND: [(u64, Duration); 11] = [
    (8, Duration::from_secs(24)),
    (9, Duration::from_secs(5)),
    (500_383, Duration::from_secs(11)),
    (600_033, Duration::from_secs(15)),
    (700_057, Duration::from_secs(74)),
    (700_535, Duration::from_secs(6)),
    (800_325, Duration::from_secs(18)),
    (900_309, Duration::from_secs(101)),
    (1_160_450_463, Duration::from_secs(25)),
    (1_160_450_464, Duration::from_secs(19)),
    (3_940_647_529, Duration::from_secs(68)),
];

#[test]
fn seeds_find_nothing() {
    let seconds = std::env::var("NODENS_SIMULATION_SECONDS");
    let seconds = seconds.map_or(5, |seconds| seconds.parse().expect("seconds"));
    let first = std::env::var("NODENS_SIMULATION_SEED");
    // Each run of the tests starts with the same seed, so that a fault that is found is found again.
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

/// Tells a child process of the test below in which way its time is to stand still.
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
    // One seed of each kind.
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

/// nodens reads the wall clock in three places: to show times, and to check whether a certificate has expired. All other
/// decisions use the clock of the runtime.
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
