//! The fault suite: the real binary between a load of client queries and upstream servers that fall silent,
//! lose, refuse, lie and come back. Real time, real sockets, loopback only.
//!
//! ```text
//! cargo test --release --test faults -- --ignored --test-threads=1 --nocapture
//!   NODENS_FAULT_CASE=silent    only cases whose name holds this
//!   NODENS_FAULT_QPS=400        only this load
//!   NODENS_FAULT_TABLE=FILE     write the results as a Markdown table
//!   NODENS_FAULT_LOG=1          print nodens's log after each case
//!   NODENS_FAULT_CONFIG=TEXT    more lines for nodens's configuration
//!   NODENS_LONG=1               also what takes a minute and more
//! ```

#![expect(
    clippy::cast_precision_loss,
    reason = "counts of a few seconds, for people to read"
)]
#![allow(missing_docs, reason = "no library")]

mod cases;
mod load;
mod message;
mod report;
mod resolver;
mod upstream;

use std::env;
use std::time::Duration;

use cases::Case;
use report::Row;
use resolver::Kind;

/// A node's usual load, and a busy one's.
const LOADS: [u32; 2] = [400, 2000];

/// A load generator that is late by more than this says that the machine has no CPU to spare: figures of a few
/// milliseconds mean nothing then.
const DISTURBED: Duration = Duration::from_millis(3);
/// How often a case is run until the machine is quiet.
const ATTEMPTS: u32 = 3;

/// Runs the cases the environment asks for, printing each as it ends.
fn run(cases: &[Case], kinds: &[Kind], loads: &[u32]) -> Vec<Row> {
    let wanted = env::var("NODENS_FAULT_CASE").unwrap_or_default();
    let only: Option<u32> = env::var("NODENS_FAULT_QPS")
        .ok()
        .map(|qps| qps.parse().expect("NODENS_FAULT_QPS is a number"));
    let long = env::var_os("NODENS_LONG").is_some_and(|value| value == "1");
    println!("\n{}", report::heading());
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| case.name.contains(&wanted)) {
        if case.long() && !long {
            println!(
                "{:<34} LEFT OUT: it takes minutes; NODENS_LONG=1 runs it",
                case.name
            );
            continue;
        }
        for &kind in kinds {
            if case.needs_groups() && kind != Kind::Nodens {
                continue;
            }
            for &qps in loads
                .iter()
                .filter(|qps| only.is_none_or(|only| only == **qps))
            {
                rows.push(run_undisturbed(case, kind, qps));
            }
        }
    }
    rows
}

/// Runs a case again if it was outside its limits while the machine, and not only the resolver, was late, or if it was
/// only late: shared machines stall for milliseconds where no clock of ours looks. What stays outside its limits fails,
/// disturbed or not; a wrong record fails at once.
fn run_undisturbed(case: &Case, kind: Kind, qps: u32) -> Row {
    let mut attempt = 1;
    loop {
        let row = case.run(kind, qps);
        println!("{}", row.line());
        let only_late = row
            .complaints
            .iter()
            .all(|complaint| complaint.contains("p99"));
        let disturbed = !row.complaints.is_empty() && (only_late || row.lateness > DISTURBED);
        if !disturbed || row.first.wrong + row.settled.wrong > 0 || attempt == ATTEMPTS {
            return row;
        }
        println!(
            "      once more (the load itself was late by {:?})",
            row.lateness
        );
        attempt += 1;
    }
}

/// Fails with everything that was complained of.
fn assert_within_limits(rows: &[Row]) {
    assert!(
        !rows.is_empty(),
        "no case was run: NODENS_FAULT_CASE fits none"
    );
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| !row.complaints.is_empty())
        .map(|row| {
            format!(
                "{} at {}/s:\n    {}",
                row.case,
                row.qps,
                row.complaints.join("\n    ")
            )
        })
        .collect();
    let (bad, all) = (failed.len(), rows.len());
    assert!(
        failed.is_empty(),
        "{bad} of {all} cases are outside their limits:\n  {}",
        failed.join("\n  ")
    );
}

fn write_table(rows: &[Row]) {
    if let Some(path) = env::var_os("NODENS_FAULT_TABLE") {
        std::fs::write(&path, report::markdown(rows))
            .unwrap_or_else(|error| panic!("NODENS_FAULT_TABLE={}: {error}", path.display()));
    }
}

#[test]
#[ignore = "four minutes of load; .ci/run runs it"]
fn every_case_of_the_table_is_within_its_limits() {
    let rows = run(&cases::table(), &[Kind::Nodens], &LOADS);
    if env::var_os("NODENS_FAULT_TABLE").is_some() {
        write_table(&rows);
    }
    assert_within_limits(&rows);
}

#[test]
#[ignore = "a minute of load; .ci/run runs it"]
fn bad_input_never_reaches_a_client() {
    let rows = run(&cases::bad_input(), &[Kind::Nodens], &[400]);
    assert_within_limits(&rows);
}

#[test]
#[ignore = "minutes of load, and the peers must be installed; .ci/run runs it"]
fn peers() {
    let mut kinds = vec![Kind::Nodens];
    for kind in Kind::PEERS {
        match kind.version() {
            Some(version) => {
                println!("{version}");
                kinds.push(kind);
            }
            None => println!("NOT INSTALLED, NOT COMPARED: {}", kind.name()),
        }
    }
    let mut cases = cases::table();
    for case in &mut cases {
        case.limits = None;
    }
    let rows = run(&cases, &kinds, &[400]);
    write_table(&rows);
}
