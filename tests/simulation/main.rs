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
mod run;
mod servers;
mod standstill;
mod world;

use std::process::Command;
use std::time::Duration;

use standstill::Watch;

/// How long each run is.
const LENGTH: Duration = Duration::from_mins(2);

/// Runs that found something once, and how long they take to.
const FOUND: [(u64, Duration); 3] = [
    (31, Duration::from_secs(45)),
    (68, Duration::from_mins(1)),
    (1_584_132_427, Duration::from_secs(45)),
];

#[test]
fn what_was_found_once_is_not_found_again() {
    for (seed, length) in FOUND {
        let outcome = run::run(seed, length, false);
        assert!(
            outcome.violation.is_none(),
            "{}",
            run::explain(seed, length)
        );
    }
}

#[test]
fn seeds_find_nothing() {
    let seconds = std::env::var("NODENS_SIMULATION_SECONDS");
    let seconds = seconds.map_or(5, |seconds| seconds.parse().expect("seconds"));
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    let first = std::env::var("NODENS_SIMULATION_SEED");
    // The same ones in every run of the tests: what they find must be there the next time too.
    let mut seed = first.map_or(1, |seed| seed.parse().expect("a number"));
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
