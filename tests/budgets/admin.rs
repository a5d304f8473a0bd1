//! What connections to the admin interface can cost.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, Over, rcode, record, response, rr};
use crate::common::stand_in::StandIn;
use crate::common::{Nodens, PATIENCE, limit_open_files, wait_for};
use crate::{MB, growth, holds_within, in_mb};

fn start() -> (StandIn, Nodens) {
    let server = StandIn::new(|_, _| vec![]);
    let nodens = Nodens::start(&format!(
        "upstreams: {{group: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    (server, nodens)
}

/// The status code of a page, asked over a connection of its own; none if there is no answer soon.
fn code(admin: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn idle_connections_cost_a_bounded_number_of_descriptors_and_shut_nobody_out() {
    const CONNECTIONS: usize = 1_000;
    /// People, Prometheus and probes need a handful.
    const MOST: usize = 256;
    const MOST_BYTES: u64 = 8 * MB;
    let (_server, nodens) = start();
    let admin = nodens.admin.expect("it has one over TCP");
    // Those of this process: the usual limit is 1,024.
    limit_open_files(std::process::id(), 4_096);
    assert_eq!(code(admin, "/health"), Some(200));
    let (descriptors, memory) = (nodens.descriptors().len(), nodens.rss_bytes());
    let mut idle = Vec::new();
    let mut failed = 0;
    for _ in 0..CONNECTIONS {
        // A listener that is full leaves them unanswered, one after the other.
        match TcpStream::connect_timeout(&admin, Duration::from_millis(100)) {
            Ok(stream) => idle.push(stream),
            Err(_) => failed += 1,
        }
        if failed > 20 {
            break;
        }
    }
    // Connections are accepted after they are made; until then they cost no descriptor.
    let mut most = 0;
    holds_within(Duration::from_secs(3), || {
        most = most.max(nodens.descriptors().len().saturating_sub(descriptors));
        most >= idle.len()
    });
    let start = Instant::now();
    wait_for("/health to be answered over a new connection", || {
        (code(admin, "/health") == Some(200)).then_some(())
    });
    let after = nodens.rss_bytes();
    println!(
        "{} idle connections: {most} descriptors; {}; /health answered after {:?}",
        idle.len(),
        growth(memory, after),
        start.elapsed()
    );
    assert!(
        most <= MOST,
        "{most} descriptors for {} idle connections; at most {MOST}",
        idle.len()
    );
    assert!(
        after < memory + MOST_BYTES,
        "{} for {} idle connections; at most {:.0} MB",
        growth(memory, after),
        idle.len(),
        in_mb(MOST_BYTES)
    );
}

/// Whether the server has closed the connection.
fn closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(0) => true,
        // 408, for instance.
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn a_request_whose_head_does_not_end_is_given_up() {
    let (_server, nodens) = start();
    let admin = nodens.admin.expect("it has one over TCP");
    let connect = || {
        let mut stream = TcpStream::connect(admin).expect("connects");
        stream
            .write_all(b"GET /status HTTP/1.1\r\nHost: local")
            .expect("sent");
        stream.set_nonblocking(true).expect("settable");
        stream
    };
    let (mut silent, mut dribbling) = (connect(), connect());
    let start = Instant::now();
    let (mut silent_closed, mut dribbling_closed) = (None, None);
    let mut last_octet = start;
    let both = holds_within(PATIENCE, || {
        if last_octet.elapsed() > Duration::from_millis(200) {
            // An octet now and then does not prolong it; that it cannot be sent any more shows below.
            let _ = dribbling.write(b"x");
            last_octet = Instant::now();
        }
        if silent_closed.is_none() && closed(&mut silent) {
            silent_closed = Some(start.elapsed());
        }
        if dribbling_closed.is_none() && closed(&mut dribbling) {
            dribbling_closed = Some(start.elapsed());
        }
        silent_closed.is_some() && dribbling_closed.is_some()
    });
    println!(
        "half a head and then nothing: {silent_closed:?}; and then an octet at a time: {dribbling_closed:?}"
    );
    assert!(
        both,
        "closed within {PATIENCE:?}: the one that sends nothing more after {silent_closed:?}, the one that sends an octet \
         now and then after {dribbling_closed:?}"
    );
    assert_eq!(code(admin, "/health"), Some(200));
}

/// How long each of so many queries took, at a steady rate: half of them hits, half of them new names.
fn latencies(address: SocketAddr, count: u32, round: &str) -> Vec<Duration> {
    const INTERVAL: Duration = Duration::from_millis(2);
    let start = Instant::now();
    let mut latencies: Vec<_> = (0..count)
        .map(|number| {
            let due = start + INTERVAL * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let name = match number % 2 {
                0 => "popular.example".to_owned(),
                _ => format!("{round}{number}.example"),
            };
            let sent = Instant::now();
            let reply = Ask::new(&name, rr::A).send(address, Over::Udp);
            assert_eq!(reply.rcode(), rcode::NOERROR);
            sent.elapsed()
        })
        .collect();
    latencies.sort_unstable();
    latencies
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Keeps this many connections open, each of which reads /status every two seconds as the page does, until it is told to stop.
/// Returns how many answers came.
fn look_on(admin: SocketAddr, connections: usize, stop: &AtomicBool) -> usize {
    const PAUSE: Duration = Duration::from_secs(2);
    let connect = || {
        let stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let mut open: Vec<Option<TcpStream>> = (0..connections).map(|_| None).collect();
    let (mut answers, mut buffer) = (0, vec![0; 1 << 20]);
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        let pause = PAUSE / u32::try_from(connections).expect("not that many");
        for (place, due) in open.iter_mut().zip(1..) {
            // Answers to the question before; closed ones are opened anew.
            if let Some(stream) = place {
                match stream.read(&mut buffer) {
                    Ok(0) => *place = None,
                    Ok(_) => answers += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => *place = None,
                }
            }
            if place.is_none() {
                *place = connect();
            }
            if let Some(stream) = place {
                // One that has been closed meanwhile is seen the next time.
                let _ = stream.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
            thread::sleep((round + pause * due).saturating_duration_since(Instant::now()));
        }
    }
    answers
}

#[test]
#[ignore = "measures latencies for 15 s, on a machine that does nothing else"]
fn clients_do_not_notice_a_thousand_open_pages() {
    const QUERIES: u32 = 3_000;
    /// Beyond what it takes anyhow: two turns of a busy machine's scheduler.
    const SLACK: Duration = Duration::from_millis(8);
    let server = StandIn::new(|query, _| {
        let address = record(rr::A, 300, &[192, 0, 2, 1]);
        vec![response(query, &[address])]
    });
    let nodens = Nodens::start(&format!(
        "upstreams: {{group: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    let admin = nodens.admin.expect("it has one over TCP");
    limit_open_files(std::process::id(), 4_096);
    let without = latencies(nodens.address(), QUERIES, "a");
    let stop = Arc::new(AtomicBool::new(false));
    let looking = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || look_on(admin, 1_000, &stop))
    };
    let with = latencies(nodens.address(), QUERIES, "b");
    stop.store(true, Ordering::Relaxed);
    let answers = looking.join().expect("it does not panic");
    let shown = |of: &[Duration]| format!("p50 {:?}, p99 {:?}", quantile(of, 50), quantile(of, 99));
    println!(
        "500 queries a second: {}; with 1,000 pages open, {answers} answers to them: {}",
        shown(&without),
        shown(&with)
    );
    assert!(answers > 0, "nobody looked");
    let most = quantile(&without, 99) + SLACK;
    assert!(
        quantile(&with, 99) < most,
        "p99 {:?}, at most {most:?}",
        quantile(&with, 99)
    );
}

/// Opens a hundred connections a second that ask for a lot and read nothing, and keeps the last hundred, until it is told to stop.
/// Returns how many there were.
fn ask_and_never_read(admin: SocketAddr, stop: &AtomicBool) -> u32 {
    const KEPT: usize = 100;
    const REQUESTS: usize = 200;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(REQUESTS);
    let (mut open, mut opened) = (VecDeque::new(), 0);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_millis(10) * opened;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        opened += 1;
        let Ok(mut stream) = TcpStream::connect_timeout(&admin, Duration::from_secs(2)) else {
            continue;
        };
        stream.set_nonblocking(true).expect("settable");
        // It may have been closed already.
        let _ = stream.write(&request);
        open.push_back(stream);
        if open.len() > KEPT {
            open.pop_front();
        }
    }
    opened
}

#[test]
fn connections_that_ask_and_never_read_shut_nobody_out() {
    const FLOODERS: usize = 2;
    const HONEST: usize = 30;
    let (_server, nodens) = start();
    let admin = nodens.admin.expect("it has one over TCP");
    limit_open_files(std::process::id(), 4_096);
    let stop = AtomicBool::new(false);
    let (codes, opened, slowest) = thread::scope(|scope| {
        let floods: Vec<_> = (0..FLOODERS)
            .map(|_| scope.spawn(|| ask_and_never_read(admin, &stop)))
            .collect();
        let mut slowest = Duration::ZERO;
        let codes: Vec<_> = (0..HONEST)
            .map(|_| {
                let asked = Instant::now();
                let code = code(admin, "/health");
                slowest = slowest.max(asked.elapsed());
                code
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        let opened = floods
            .into_iter()
            .map(|flood| flood.join().expect("no panic"));
        (codes, opened.sum::<u32>(), slowest)
    });
    let answered = codes.iter().filter(|code| **code == Some(200)).count();
    println!(
        "{opened} connections that never read; {answered} of {HONEST} others answered, after {slowest:?} at most"
    );
    assert_eq!(answered, HONEST, "{codes:?}");
}
