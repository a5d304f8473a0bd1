//! Runs the simulation of `tests/simulation` for as long as one likes, on as many threads, with new seeds:
//!
//!     cargo run --release --example simulate -- --minutes 60
//!     cargo run --release --example simulate -- --seed 7

#![allow(dead_code, reason = "the test of the simulation uses more of it")]

#[path = "clients.rs"]
mod clients;
#[path = "loss.rs"]
mod loss;
#[path = "names.rs"]
mod names;
#[path = "node.rs"]
mod node;
#[path = "resolvers.rs"]
mod resolvers;
#[path = "run.rs"]
mod run;
#[path = "servers.rs"]
mod servers;
#[path = "standstill.rs"]
mod standstill;
#[path = "world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

/// Simulates a node, its clients, servers and network, and says which seeds found something.
#[derive(Parser)]
struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The first seed; a random one by default.
    #[arg(long)]
    seed: Option<u64>,
    /// One seed alone, with what happened.
    #[arg(long, requires = "seed")]
    once: bool,
    /// End with the first seed that finds something.
    #[arg(long)]
    first: bool,
    /// Threads, each with seeds of its own.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Simulated seconds of each run.
    #[arg(long, default_value_t = 120)]
    length: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments
        .seed
        .unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let length = Duration::from_secs(arguments.length);
    if arguments.once {
        let outcome = run::run(first, length, false);
        println!("{outcome:#?}");
        if outcome.violation.is_some() {
            println!("{}", run::explain(first, length));
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    println!("the first seed is {first}");
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let (next, found) = (AtomicU64::new(first), AtomicU64::new(0));
    let totals = thread::scope(|scope| {
        let work = || {
            let (mut simulated, mut queries) = (Duration::ZERO, 0);
            let over =
                || Instant::now() >= end || arguments.first && found.load(Ordering::Relaxed) > 0;
            while !over() {
                let outcome = run::run(next.fetch_add(1, Ordering::Relaxed), length, false);
                simulated += outcome.simulated;
                queries += outcome.queries;
                if outcome.violation.is_some() {
                    found.fetch_add(1, Ordering::Relaxed);
                    println!("{}", run::explain(outcome.seed, length));
                }
            }
            (simulated, queries)
        };
        let threads: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(work)).collect();
        let totals = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        totals.fold((Duration::ZERO, 0), |(a, b), (c, d)| (a + c, b + d))
    });
    let (simulated, queries) = totals;
    let found = found.load(Ordering::Relaxed);
    println!(
        "{} seeds, {:.1} simulated hours, {queries} queries: {found} found something",
        next.load(Ordering::Relaxed) - first,
        simulated.as_secs_f64() / 3600.0
    );
    if found > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
