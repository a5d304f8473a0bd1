//! Instructions a hit and a miss take in user space, counted by callgrind and compared with a record:
//!
//!     cargo bench --bench instructions                 # fails if one takes over 10 % more than recorded
//!     cargo bench --bench instructions -- --record     # writes the record anew
//!
//! Unlike time, instructions do not depend on how busy the machine is. They do depend on the compiler and a little on
//! the C library (which picks its memcpy by CPU): the record names the compiler, and 10 % is room enough for the rest.
//! `hit` and `hit8` are [`Worker::serve`](nodens::serving::worker::Worker::serve) alone, in this process. `hit_udp` and `miss`
//! are the whole of a worker of the real binary, runtime and batches of one included, with one query in flight and the
//! worker asleep before each, so that nothing depends on who is faster. The kernel's share is not in them. Needs valgrind.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use nodens::serving::client::Client;
use nodens::serving::worker::Worker;
use support::{Edns, answer, client, hit, query, store, worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// More than this many percent over the record fail.
const TOLERANCE: u64 = 10;

/// Queries counted; enough that starting and the worker's four ticks a second do not show.
const QUERIES: u64 = 5_000;

/// How long the binary may take to start, or to reply, under valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is counted, and what one of it is.
const CASES: [(&str, &str); 4] = [
    (
        "hit",
        "a cached address, from the query's bytes to the reply's",
    ),
    (
        "hit8",
        "the same with EDNS and eight addresses, which take turns",
    ),
    ("hit_udp", "a cached address, all of the worker"),
    (
        "miss",
        "a name that one upstream server has to be asked for, all of the worker",
    ),
];

type Counts = BTreeMap<String, u64>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--case") {
        serve_hits(&arguments[at + 1]);
        return ExitCode::SUCCESS;
    }
    let counts: Counts = CASES
        .iter()
        .map(|(case, _)| ((*case).to_owned(), count(case)))
        .collect();
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt");
    if arguments.iter().any(|argument| argument == "--record") {
        fs::write(&record, written(&counts)).expect("benches/instructions.txt can be written");
        println!("recorded in {}", record.display());
        return ExitCode::SUCCESS;
    }
    compare(
        &counts,
        &fs::read_to_string(record).expect("benches/instructions.txt is there"),
    )
}

/// The record's text.
fn written(counts: &Counts) -> String {
    let mut text = String::from(
        "# Instructions in user space, by `cargo bench --bench instructions -- --record`.\n",
    );
    writeln!(text, "compiler = {}", compiler()).expect("a String grows");
    for (case, meaning) in CASES {
        writeln!(text, "# {meaning}\n{case} = {}", counts[case]).expect("a String grows");
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

fn compare(counts: &Counts, record: &str) -> ExitCode {
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
        return ExitCode::SUCCESS;
    }
    if then != now {
        println!(
            "recorded with {then}, this is {now}: part of the difference may be the compiler's"
        );
    }
    let mut failed = false;
    for (case, meaning) in CASES {
        let now = counts[case];
        let Some(then) = recorded(case).and_then(|value| value.parse::<u64>().ok()) else {
            println!("{case}: {now}, not in the record ({meaning})");
            failed = true;
            continue;
        };
        let percent = now * 100 / then;
        println!("{case}: {now} instructions, recorded {then}: {percent} % ({meaning})");
        failed |= now * 100 > then * (100 + TOLERANCE);
        if percent + TOLERANCE < 100 {
            println!("  much better than recorded: record it, so that it stays so");
        }
    }
    if failed {
        println!(
            "over {TOLERANCE} % more than recorded. If it is worth it:\n    cargo bench --bench instructions -- --record\n\
             and say in the commit what for."
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions one of a case takes.
fn count(case: &str) -> u64 {
    let total = match case {
        "hit" | "hit8" => {
            let own = std::env::current_exe().expect("a program knows where it is");
            let mut valgrind = Callgrind::new(case, "instructions::measured*");
            let mut child =
                valgrind.start(Command::new(own).args(["--case", case]), Stdio::inherit());
            let status = child.0.wait().expect("a child can be waited for");
            assert!(status.success(), "{case}: {status}");
            valgrind.counted()
        }
        "hit_udp" => of_the_binary(case, |_| "one.example".to_owned()),
        _ => of_the_binary(case, |number| format!("host-{number:06}.example")),
    };
    total / QUERIES
}

/// Runs in valgrind: everything outside [`measured`] does not count.
fn serve_hits(case: &str) {
    let (edns, addresses) = match case {
        "hit" => (Edns::Without, 1),
        _ => (Edns::With, 8),
    };
    let worker = worker();
    let query = query("registry.ci.example.com", edns);
    store(&worker.shared.cache, &query, addresses);
    let mut out = Vec::with_capacity(4096);
    // What happens once, such as filling the table of metrics, is over.
    hit(&worker, &query, client(), &mut out);
    measured(&worker, &query, client(), &mut out);
}

#[inline(never)]
fn measured(worker: &Rc<Worker>, query: &[u8], client: Client, out: &mut Vec<u8>) {
    for _ in 0..QUERIES {
        hit(worker, black_box(query), client, out);
    }
}

/// The instructions of the real binary's worker, asked for `name(0)`, `name(1)`, … one after the other.
fn of_the_binary(case: &str, name: impl Fn(u64) -> String) -> u64 {
    let upstream = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let server = upstream.local_addr().expect("bound");
    thread::spawn(move || {
        let mut query = [0; 512];
        // Ends with the process.
        while let Ok((length, peer)) = upstream.recv_from(&mut query) {
            let _ = upstream.send_to(&answer(&query[..length], 1), peer);
        }
    });
    let config = scratch(case).with_extension("yaml");
    let yaml = format!(
        "listen: [\"127.0.0.1:0\"]\nadmin: null\nworkers: 1\nupstreams: {{vpc: {{servers: [\"{server}\"]}}}}\n"
    );
    fs::write(&config, yaml).expect("the configuration can be written");
    let mut valgrind = Callgrind::new(case, "nodens::process::threads::run*");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    command.args(["serve", "--config"]).arg(&config);
    let mut child = valgrind.start(&mut command, Stdio::piped());
    let address = address_of(&mut child);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(address).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("settable");
    let mut reply = [0; 2048];
    for number in 0..QUERIES {
        let query = query(&name(number), Edns::With);
        child.wait_until_idle();
        socket.send(&query).expect("sent");
        let length = socket.recv(&mut reply).expect("a reply");
        assert_eq!(reply[3] & 15, 0, "{:?}", &reply[..length]);
        assert!(length > query.len(), "no answer: {:?}", &reply[..length]);
    }
    child.terminate();
    valgrind.counted()
}

/// Where the binary says it serves; what it logs after that is read by nobody.
fn address_of(child: &mut Running) -> SocketAddr {
    let log = child.0.stderr.take().expect("it is piped");
    let mut said = String::new();
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let address = lines.find_map(|line| {
        writeln!(said, "{line}").expect("a String grows");
        let (_, rest) = line.split_once("listen=")?;
        rest.trim_start_matches('"')
            .split(['"', ' '])
            .next()?
            .parse()
            .ok()
    });
    thread::spawn(move || lines.for_each(drop));
    address.unwrap_or_else(|| panic!("the binary does not serve; it said:\n{said}"))
}

/// A file of this run's own.
fn scratch(case: &str) -> PathBuf {
    std::env::temp_dir().join(format!("nodens-instructions-{}-{case}", std::process::id()))
}

/// One run of callgrind that counts inside the functions of this name only.
struct Callgrind {
    function: &'static str,
    output: PathBuf,
}

impl Callgrind {
    fn new(case: &str, function: &'static str) -> Self {
        Self {
            function,
            output: scratch(case),
        }
    }

    fn start(&mut self, command: &mut Command, stderr: Stdio) -> Running {
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
            .arg(format!("--toggle-collect={}", self.function))
            .arg(format!("--callgrind-out-file={}", self.output.display()))
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn();
        Running(child.unwrap_or_else(|error| panic!("valgrind (Debian package valgrind): {error}")))
    }

    /// The sum of all threads.
    fn counted(&self) -> u64 {
        let text = fs::read_to_string(&self.output).expect("callgrind wrote its file");
        let _ = fs::remove_file(&self.output);
        let _ = fs::remove_file(self.output.with_extension("yaml"));
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total = total.and_then(|total| total.trim().parse().ok());
        total.filter(|total| *total > QUERIES).unwrap_or_else(|| {
            panic!(
                "callgrind counted nothing in {}: is it inlined, or renamed?",
                self.function
            )
        })
    }
}

/// A child that does not outlive us.
struct Running(Child);

impl Running {
    /// Waits until every thread sleeps: a query that comes before costs no waking up, and which do would be chance.
    fn wait_until_idle(&self) {
        let tasks = format!("/proc/{}/task", self.0.id());
        let sleeps = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name in parentheses may hold anything; the state follows it.
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" S"))
        };
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.all(|task| task.is_ok_and(sleeps)))
        {
            assert!(Instant::now() < deadline, "the binary is never idle");
            thread::yield_now();
        }
    }

    fn terminate(&mut self) {
        let killed = Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(
            killed.is_ok_and(|status| status.success()),
            "kill: no such child"
        );
        let deadline = Instant::now() + PATIENCE;
        while self
            .0
            .try_wait()
            .expect("a child can be waited for")
            .is_none()
        {
            assert!(Instant::now() < deadline, "it ignores SIGTERM");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
