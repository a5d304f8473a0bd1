//! `nodens demo` as users run it: the real binary, nothing else installed or reachable.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// What the demo promises for its whole tour.
const TOUR: Duration = Duration::from_secs(20);

/// Columns the tour is set for.
const COLUMNS: usize = 100;

/// A running demo, killed when dropped.
struct Demo {
    child: Child,
    lines: Receiver<String>,
    started: Instant,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_nodens"))
            .arg("demo")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            started,
        }
    }

    /// The next line, none at the end of the output.
    fn line(&self) -> Option<String> {
        let left = TOUR.saturating_sub(self.started.elapsed());
        match self.lines.recv_timeout(left) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the tour takes over {TOUR:?}"),
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already if all is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Header, `registry.example.com`, A, IN.
fn query() -> Vec<u8> {
    let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    query.extend_from_slice(b"\x08registry\x07example\x03com\x00\x00\x01\x00\x01");
    query
}

#[test]
fn the_tour_is_as_promised_and_names_the_black_hole_as_down() {
    let mut demo = Demo::start(&["--once"]);
    let lines: Vec<String> = std::iter::from_fn(|| demo.line()).collect();
    let output = lines.join("\n");
    let status = demo.child.wait().unwrap();
    assert!(status.success(), "{status}\n{output}");
    assert!(demo.started.elapsed() < TOUR, "{output}");
    assert!(!output.contains("NOT AS PROMISED"), "{output}");

    let black_hole = lines
        .iter()
        .find_map(|line| line.trim_start().strip_prefix("black hole"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or_else(|| panic!("no black hole in\n{output}"));
    let named = |line: &&String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.contains(&black_hole) && words.contains(&"down")
    };
    assert_eq!(lines.iter().filter(named).count(), 1, "{output}");
    for line in &lines {
        assert!(line.chars().count() <= COLUMNS, "too wide: {line}");
    }
}

#[test]
fn without_once_it_keeps_serving_until_it_is_interrupted() {
    let mut demo = Demo::start(&[]);
    let port: u16 = loop {
        let line = demo.line().expect("it keeps serving");
        let mut words = line.split_whitespace();
        if words.next() == Some("dig") {
            let port = words.skip_while(|word| *word != "-p").nth(1);
            break port.unwrap().parse().unwrap();
        }
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.send(&query()).unwrap();
    let mut reply = [0; 512];
    let length = client.recv(&mut reply).unwrap();
    assert!(length > 12 && reply[..2] == query()[..2]);
    let (rcode, answers) = (reply[3] & 0x0f, [reply[6], reply[7]]);
    assert_eq!((rcode, answers), (0, [0, 1]), "one record");

    let interrupt = format!("kill -INT {}", demo.child.id());
    let sent = Command::new("sh")
        .args(["-c", &interrupt])
        .status()
        .unwrap();
    assert!(sent.success());
    assert!(demo.child.wait().unwrap().success());
}
