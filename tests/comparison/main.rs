//! The situations of real networks put to nodens and to its peers: `CoreDNS`, Unbound, dnsdist and dnsmasq, each a process
//! of its own between a stub resolver and scripted servers on loopback. Prints the table of `docs/comparison.md`.
//!
//! ```text
//! cargo test --release --test comparison -- --ignored --nocapture
//!   NODENS_COMPARISON_ROW=TTL      only situations in whose text this stands
//!   NODENS_COMPARISON_TABLE=FILE   write the table there too
//! ```
//!
//! A peer that is not installed is left out, which is printed. Peers may be wrong; nodens must not.
//!
//! | File | Holds |
//! |---|---|
//! | `cases` | the table: situation, what is right, how it is put |
//! | `scene` | a resolver of some kind in front of scripted servers |
//! | `client` | the stub resolver |
//! | `cell` | what was measured, and whether it is right |

#![allow(missing_docs, reason = "no library")]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the fault suite uses all of it")]
#[path = "../faults/message.rs"]
mod message;
#[allow(dead_code, reason = "the fault suite uses all of it")]
#[path = "../faults/resolver.rs"]
mod resolver;
#[allow(dead_code, reason = "tests/situations uses all of it")]
#[path = "../situations/server.rs"]
mod server;
#[allow(dead_code, reason = "tests/situations uses all of it")]
#[path = "../situations/wire.rs"]
mod wire;

mod cases;
mod cell;
mod client;
mod no_answer;
mod scene;
mod unfair;
mod wrong_data;

use std::fmt::Write as _;
use std::{env, fs, thread};

use cases::{Case, Part};
use cell::{Cell, Verdict};
use resolver::Kind;

/// One situation before all resolvers at once: what they do most of the time is wait.
fn run(case: &Case, kinds: &[Kind]) -> Vec<Cell> {
    thread::scope(|scope| {
        let put = |kind: Kind| scope.spawn(move || (case.put)(kind));
        let running: Vec<_> = kinds.iter().copied().map(put).collect();
        running
            .into_iter()
            .zip(kinds)
            .map(|(thread, kind)| {
                let cell = thread.join();
                cell.unwrap_or_else(|_| panic!("{} before: {}", kind.name(), case.situation))
            })
            .collect()
    })
}

fn heading(part: &Part, versions: &[String]) -> String {
    let rule = "|---".repeat(versions.len() + 2);
    format!(
        "### {}\n\n| Situation | Right | {} |\n{rule}|\n",
        part.heading,
        versions.join(" | ")
    )
}

#[test]
#[ignore = "takes minutes, and the peers must be installed"]
fn print_the_table() {
    let wanted = env::var("NODENS_COMPARISON_ROW").unwrap_or_default();
    let mut kinds = Vec::new();
    let mut versions = Vec::new();
    for kind in [
        Kind::Nodens,
        Kind::Coredns,
        Kind::Unbound,
        Kind::Dnsdist,
        Kind::Dnsmasq,
    ] {
        match kind.version() {
            Some(version) => {
                kinds.push(kind);
                versions.push(version);
            }
            None => println!("NOT INSTALLED, NOT COMPARED: {}", kind.name()),
        }
    }
    let mut wrong = vec![0; kinds.len()];
    let (mut table, mut judged, mut complaints) = (String::new(), 0, Vec::new());
    for part in cases::table() {
        let cases = part.cases.iter();
        let mut cases = cases
            .filter(|case| case.situation.contains(&wanted))
            .peekable();
        if cases.peek().is_some() {
            let heading = heading(&part, &versions);
            print!("\n{heading}");
            write!(table, "\n{heading}").expect("grows");
        }
        for case in cases {
            let cells = run(case, &kinds);
            let texts: Vec<String> = cells.iter().map(Cell::markdown).collect();
            let row = format!(
                "| {} | {} | {} |",
                case.situation,
                case.right,
                texts.join(" | ")
            );
            println!("{row}");
            writeln!(table, "{row}").expect("grows");
            judged += usize::from(cells[0].verdict != Verdict::Taste);
            for (count, cell) in wrong.iter_mut().zip(&cells) {
                *count += usize::from(cell.verdict == Verdict::Wrong);
            }
            if cells[0].verdict == Verdict::Wrong {
                complaints.push(row);
            }
        }
    }
    let counts: Vec<String> = kinds
        .iter()
        .zip(wrong)
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    let total = format!("\nWrong, of {judged} rows: {}.\n", counts.join(", "));
    print!("{total}");
    table.push_str(&total);
    if let Some(path) = env::var_os("NODENS_COMPARISON_TABLE") {
        fs::write(&path, table.trim_start())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(
        complaints.is_empty(),
        "nodens is wrong:\n{}",
        complaints.join("\n")
    );
}
