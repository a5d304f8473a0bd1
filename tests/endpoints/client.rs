//! A client in a network namespace: a process of its own, which is this test binary once more.

use std::collections::HashMap;
use std::io::Read;
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, rr, u16_at};
use crate::common::namespace::Namespace;

/// Whom that process asks.
const SERVER: &str = "NODENS_ENDPOINTS_SERVER";
/// Queries are this far apart: 200 a second.
pub(crate) const BETWEEN: Duration = Duration::from_millis(5);
/// Replies that come all at once must not be more than a socket's buffer takes.
const SOCKETS: u16 = 8;
/// As long as stub resolvers wait.
const WAIT: Duration = Duration::from_secs(5);

/// Asks for a new name every 5 ms, each once, until it is told to end.
pub(crate) struct Client(Child);

/// What became of one query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Milliseconds since the first.
    pub(crate) at: u32,
    /// The reply's code, and milliseconds until it came.
    pub(crate) reply: Option<(u16, u32)>,
}

impl Client {
    pub(crate) fn start(namespace: &Namespace, server: &str) -> Self {
        let itself = std::env::current_exe().expect("the test's own program");
        let mut command = namespace.command("env");
        command
            .arg(format!("{SERVER}={server}"))
            .arg(itself)
            .args([
                "--exact",
                "a_client_of_another_test",
                "--ignored",
                "--nocapture",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self(command.spawn().expect("ip is installed"))
    }

    /// Ends it, and returns what became of its queries.
    pub(crate) fn end(mut self) -> Vec<Asked> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        let mut output = self.0.stdout.take().expect("it is piped");
        output.read_to_string(&mut text).expect("it writes text");
        assert!(self.0.wait().expect("it runs").success(), "{text}");
        let lines = text.lines().filter_map(|line| line.strip_prefix("query "));
        let asked = lines.map(|line| {
            let words = line.split(' ').map(|word| word.parse().expect("a number"));
            match words.collect::<Vec<u32>>()[..] {
                [at] => Asked { at, reply: None },
                [at, code, took] => Asked {
                    at,
                    reply: Some((u16::try_from(code).expect("a code"), took)),
                },
                _ => panic!("{line}"),
            }
        });
        asked.collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process's part; it does nothing in a test run of its own.
pub(crate) fn run() {
    let Ok(server) = std::env::var(SERVER) else {
        return;
    };
    let sockets: Vec<UdpSocket> = (0..SOCKETS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(&server).expect("an address");
            let patience = Some(Duration::from_millis(100));
            socket.set_read_timeout(patience).expect("a time");
            socket
        })
        .collect();
    let told = AtomicBool::new(false);
    let record = Mutex::new(Record::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Ordering::Relaxed);
        });
        for socket in &sockets {
            scope.spawn(|| receive(socket, &record, &told));
        }
        let start = Instant::now();
        for number in 0..=u16::MAX {
            let due = start + BETWEEN * u32::from(number);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if told.load(Ordering::Relaxed) {
                break;
            }
            let mut ask = Ask::new(&format!("job{number}.jobs.example"), rr::A);
            ask.id = number;
            lock(&record).sent.push(Instant::now());
            let socket = &sockets[usize::from(number % SOCKETS)];
            socket.send(&ask.message()).expect("nodens listens");
        }
    });
    let record = record.into_inner().expect("no thread panics with it");
    for (number, at) in (0..).zip(&record.sent) {
        let since_start = (*at - record.sent[0]).as_millis();
        match record.replies.get(&number) {
            Some((code, then)) => {
                println!("query {since_start} {code} {}", (*then - *at).as_millis());
            }
            None => println!("query {since_start}"),
        }
    }
}

#[derive(Debug, Default)]
struct Record {
    /// When the query with each ID left.
    sent: Vec<Instant>,
    /// The first reply to each: its code, and when it came.
    replies: HashMap<u16, (u16, Instant)>,
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().expect("no thread panics with it")
}

/// Takes replies until all queries have one, or the last has waited long enough.
fn receive(socket: &UdpSocket, record: &Mutex<Record>, told: &AtomicBool) {
    let mut buffer = [0; 2048];
    let mut ends = None;
    loop {
        if let Ok(length) = socket.recv(&mut buffer) {
            let field = |at| u16_at(&buffer[..length], at).expect("a header");
            let reply = (field(2) & 15, Instant::now());
            lock(record).replies.entry(field(0)).or_insert(reply);
        }
        if told.load(Ordering::Relaxed) {
            let ends = *ends.get_or_insert(Instant::now() + WAIT);
            let record = lock(record);
            if record.replies.len() == record.sent.len() || Instant::now() > ends {
                return;
            }
        }
    }
}
