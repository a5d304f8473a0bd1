//! Instructions a hit and a miss take in user space, counted by callgrind and compared with a record:
//!
//!     cargo test --test instructions -- --ignored --nocapture
//!
//! It fails if one takes over 10 % more than recorded. `NODENS_RECORD=1` writes the record anew. The record is of the binary
//! of the image, which `NODENS_TEST_BINARY` names: other flags give other figures.
//!
//! Unlike time, instructions do not depend on how busy the machine is. They do depend on the compiler and a little on
//! the C library (which picks its memcpy by CPU): the record names the compiler, and 10 % is room enough for the rest.
//! One query is in flight at a time, and all threads sleep before each, so that nothing depends on who is faster: batches
//! are of one. The kernel's share is not counted. Needs valgrind.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use common::dns::{Ask, receive, record, response, rr, udp_to};
use common::stand_in::StandIn;
use common::{Nodens, PATIENCE, TempDir};

/// More than this many percent over the record fail.
const TOLERANCE: u64 = 10;

/// Queries counted; enough that starting and the worker's four ticks a second do not show.
const QUERIES: u64 = 5_000;

/// From a batch of messages to a batch of replies.
const MESSAGES: &str = "*nodens::listener::udp::Listener::reply_to_batch*";
/// All that a worker does, its runtime included.
const WORKER: &str = "nodens::process::threads::run*";

/// What is counted.
struct Case {
    name: &'static str,
    meaning: &'static str,
    /// What happens inside the functions of this name counts.
    function: &'static str,
    addresses: u8,
    edns: bool,
    /// Whether each query is for a name of its own.
    miss: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "hit",
        meaning: "a cached address, from the query's bytes to the reply's",
        function: MESSAGES,
        addresses: 1,
        edns: false,
        miss: false,
    },
    Case {
        name: "hit8",
        meaning: "the same with EDNS and eight addresses, which take turns",
        function: MESSAGES,
        addresses: 8,
        edns: true,
        miss: false,
    },
    Case {
        name: "hit_udp",
        meaning: "a cached address, all of the worker",
        function: WORKER,
        addresses: 1,
        edns: true,
        miss: false,
    },
    Case {
        name: "miss",
        meaning: "a name that one upstream server has to be asked for, all of the worker",
        function: WORKER,
        addresses: 1,
        edns: true,
        miss: true,
    },
];

type Counts = BTreeMap<&'static str, u64>;

#[test]
#[ignore = "takes a minute, needs valgrind, and its record is of the binary of the image"]
fn a_hit_and_a_miss_take_no_more_instructions_than_recorded() {
    let counts: Counts = CASES.iter().map(|case| (case.name, count(case))).collect();
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.txt");
    if std::env::var_os("NODENS_RECORD").is_some() {
        fs::write(&record, written(&counts)).expect("tests/instructions.txt can be written");
        println!("recorded in {}", record.display());
        return;
    }
    let worse = compare(
        &counts,
        &fs::read_to_string(record).expect("tests/instructions.txt is there"),
    );
    assert!(
        worse.is_empty(),
        "over {TOLERANCE} % more than recorded, or not recorded: {worse:?}. If it is worth it, record it with \
         NODENS_RECORD=1 and say in the commit what for."
    );
}

/// The record's text.
fn written(counts: &Counts) -> String {
    let mut text = String::from(
        "# Instructions in user space: tests/instructions.rs, with NODENS_RECORD=1.\n",
    );
    writeln!(text, "compiler = {}", compiler()).expect("a String grows");
    for Case { name, meaning, .. } in CASES {
        writeln!(text, "# {meaning}\n{name} = {}", counts[name]).expect("a String grows");
    }
    text
}

/// `rustc -V` and the host it compiles for.
fn compiler() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or("?")
    };
    format!("rustc {} for {}", line("release: "), line("host: "))
}

/// Prints how each case compares with the record; the names of those that are worse.
fn compare(counts: &Counts, record: &str) -> Vec<&'static str> {
    let recorded = |key: &str| {
        let mut lines = record.lines().filter_map(|line| line.split_once(" = "));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let (then, now) = (recorded("compiler").unwrap_or("?"), compiler());
    let host = |compiler: &str| compiler.rsplit(' ').next().map(str::to_owned);
    if host(then) != host(&now) {
        println!(
            "NOT COMPARED: recorded with {then}, this is {now}\n{}",
            written(counts)
        );
        return Vec::new();
    }
    if then != now {
        println!(
            "recorded with {then}, this is {now}: part of the difference may be the compiler's"
        );
    }
    let mut worse = Vec::new();
    for Case { name, meaning, .. } in CASES {
        let now = counts[name];
        let Some(then) = recorded(name).and_then(|value| value.parse::<u64>().ok()) else {
            println!("{name}: {now}, not in the record ({meaning})");
            worse.push(name);
            continue;
        };
        let percent = now * 100 / then;
        println!("{name}: {now} instructions, recorded {then}: {percent} % ({meaning})");
        if now * 100 > then * (100 + TOLERANCE) {
            worse.push(name);
        }
        if percent + TOLERANCE < 100 {
            println!("  much better than recorded: record it, so that it stays so");
        }
    }
    worse
}

/// Instructions one query of a case takes.
fn count(case: &Case) -> u64 {
    let addresses = case.addresses;
    let upstream = StandIn::new(move |query, _| {
        let address = |last| record(rr::A, 86_400, &[192, 0, 2, last]);
        vec![response(
            query,
            &(1..=addresses).map(address).collect::<Vec<_>>(),
        )]
    });
    let scratch = TempDir::new();
    let output = scratch.path("callgrind.out");
    let valgrind = [
        "--tool=callgrind".to_owned(),
        "--quiet".to_owned(),
        "--collect-atstart=no".to_owned(),
        format!("--toggle-collect={}", case.function),
        format!("--callgrind-out-file={}", output.display()),
    ];
    let yaml = format!(
        "workers: 1\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}\n",
        upstream.address
    );
    let nodens = Nodens::start_under("valgrind", &valgrind, &yaml);
    let client = udp_to(nodens.address()).expect("loopback");
    for number in 0..QUERIES {
        let name = if case.miss {
            format!("host-{number:06}.example")
        } else {
            "registry.ci.example.com".to_owned()
        };
        ask(&client, &nodens, &name, case);
    }
    nodens.terminate();
    let text = fs::read_to_string(&output).expect("callgrind wrote its file");
    // The sum of all threads.
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: Option<u64> = total.and_then(|total| total.trim().parse().ok());
    let total = total.filter(|total| *total > QUERIES).unwrap_or_else(|| {
        panic!(
            "callgrind counted nothing in {}: is it inlined, or renamed?",
            case.function
        )
    });
    total / QUERIES
}

/// Asks while every thread of the binary sleeps, and waits for the answer.
fn ask(client: &UdpSocket, nodens: &Nodens, name: &str, case: &Case) {
    let mut ask = Ask::new(name, rr::A);
    if case.edns {
        ask = ask.payload(1232);
    }
    wait_until_idle(nodens.id());
    client.send(&ask.message()).expect("sent");
    let reply = receive(client).expect("a reply");
    assert_eq!(reply[3] & 15, 0, "{reply:?}");
    assert_eq!(reply[7], case.addresses, "{reply:?}");
}

/// Waits until every thread sleeps: a query that comes before costs no waking up, and which do would be chance.
fn wait_until_idle(process: u32) {
    let tasks = format!("/proc/{process}/task");
    let sleeps = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything; the state follows it.
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" S"))
    };
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.all(|task| task.is_ok_and(sleeps))) {
        assert!(Instant::now() < deadline, "the binary is never idle");
        thread::yield_now();
    }
}
