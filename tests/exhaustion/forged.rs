//! Responses that no server sent, from whoever plays the server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, failure, rcode, read_frame, record, response, rr, send_frame};
use crate::common::free_sockets;
use crate::common::sockets::udp_connected_to;
use crate::common::stand_in::{StandIn, is_probe};
use crate::honest::{Heard, RIGHT};
use crate::scene::Scene;

/// What a forged response says.
const WRONG: [u8; 4] = [192, 0, 2, 66];
/// How long forged responses are sent.
const TIME: Duration = Duration::from_secs(3);
/// Forged responses to each query from each of three sources that are not the server.
const FROM_ELSEWHERE: usize = 100;
/// Forged responses to a port before the next port's: twice what closes it (`UNMATCHED_PER_PORT`).
const TO_A_PORT: u32 = 64;
/// Between two ports.
const PAUSE: Duration = Duration::from_millis(5);
/// The server answers after this time, so that queries wait for forged responses.
const DELAY: Duration = Duration::from_millis(20);

/// Whether the server takes TCP, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    UdpAlone,
    Tcp,
}

/// A server whose queries over UDP somebody else sees and answers first, right but for where they come from.
struct Watched {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    fn start(takes: Takes) -> Self {
        let (socket, listener) = free_sockets();
        if takes == Takes::Tcp {
            // Ends with the test's process.
            thread::spawn(move || serve_tcp(&listener));
        }
        let address = socket.local_addr().expect("it is bound");
        let (socket, stopped) = (Arc::new(socket), Arc::default());
        let thread = {
            let (socket, stopped) = (Arc::clone(&socket), Arc::clone(&stopped));
            thread::spawn(move || serve(&socket, &stopped))
        };
        Self {
            socket,
            address,
            stopped,
            thread: Some(thread),
        }
    }
}

impl Watched {
    /// Sends responses to a port, for a question that is not asked: which ID somebody guesses would be chance.
    fn forge(&self, port: SocketAddr) {
        for _ in 0..TO_A_PORT {
            let query = Ask::new("guessed.example.", rr::A).message();
            let lie = response(&query, &[record(rr::A, 300, &WRONG)]);
            // The port may be closed by now.
            let _ = self.socket.send_to(&lie, port);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the thread, which then sees that it is to stop.
        let woken = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &Arc<UdpSocket>, stopped: &AtomicBool) {
    let server = socket.local_addr().expect("it is bound");
    let elsewhere = Ipv4Addr::new(127, 66, 6, 6);
    let others = [
        (elsewhere, 0).into(),
        (elsewhere, server.port()).into(),
        SocketAddr::new(server.ip(), 0),
    ];
    let others = others.map(|address| UdpSocket::bind(address).expect("nobody else's"));
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).expect("it is open");
        if stopped.load(Ordering::Acquire) {
            return;
        }
        let query = &buffer[..length];
        if is_probe(query) {
            let _ = socket.send_to(&failure(query, rcode::NXDOMAIN), client);
            continue;
        }
        let lie = response(query, &[record(rr::A, 300, &WRONG)]);
        for other in &others {
            for _ in 0..FROM_ELSEWHERE {
                let _ = other.send_to(&lie, client);
            }
        }
        let (socket, answer) = (
            Arc::clone(socket),
            response(query, &[record(rr::A, 300, &RIGHT)]),
        );
        // Ends by itself.
        thread::spawn(move || {
            thread::sleep(DELAY);
            let _ = socket.send_to(&answer, client);
        });
    }
}

fn serve_tcp(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || while answer_over_tcp(&mut stream).is_some() {});
    }
}

/// Answers one query; none if the client is gone.
fn answer_over_tcp(stream: &mut TcpStream) -> Option<()> {
    let query = read_frame(stream).ok()?;
    let answer = response(&query, &[record(rr::A, 300, &RIGHT)]);
    send_frame(stream, &answer).ok()
}

#[test]
#[ignore = "needs root and cgroups"]
fn forged_responses_with_another_id_are_never_believed() {
    let forged = StandIn::new(|query, _| {
        let mut messages = Vec::new();
        for guess in 1..=20 {
            let mut lie = response(query, &[record(rr::A, 300, &[192, 0, 2, 66])]);
            lie[1] ^= guess;
            messages.push(lie);
        }
        messages.push(response(query, &[record(rr::A, 300, &RIGHT)]));
        messages
    });
    let scene = Scene::start(1024, forged);
    let heard = scene.during("forged responses", || thread::sleep(Duration::from_secs(2)));
    heard.assert_all_answered("forged responses");
}

/// What honest clients hear while all sockets to the server get forged responses, each port after it has been open for
/// up to `found`.
fn forge(case: &str, found: Duration, takes: Takes) -> Heard {
    let server = Watched::start(takes);
    let scene = Scene::before(1024, server.address, "");
    let mut sent = 0;
    let heard = scene.during(case, || {
        let start = Instant::now();
        while start.elapsed() < TIME {
            let listed = Instant::now();
            for port in udp_connected_to(server.address).into_iter().cycle() {
                server.forge(port);
                sent += TO_A_PORT;
                thread::sleep(PAUSE);
                if listed.elapsed() >= found {
                    break;
                }
            }
        }
    });
    let arrived = scene.nodens.metric("nodens_upstream_mismatched_total", &[]);
    println!("{case}: {sent} sent from the server's address, {arrived} to open ports");
    assert!(arrived > 2_000.0, "{arrived} arrived");
    heard
}

#[test]
#[ignore = "needs root and cgroups"]
fn forged_responses_from_elsewhere_and_to_ports_that_were_found_change_nothing() {
    let case = "forged responses, ports known after 100 ms";
    forge(case, Duration::from_millis(100), Takes::UdpAlone).assert_all_answered(case);
}

#[test]
#[ignore = "needs root and cgroups"]
fn who_knows_each_port_at_once_changes_nothing_where_the_server_takes_tcp() {
    let case = "forged responses, ports known at once";
    forge(case, Duration::ZERO, Takes::Tcp).assert_all_answered(case);
}

#[test]
#[ignore = "needs root and cgroups"]
fn who_knows_each_port_at_once_can_keep_answers_away_and_not_change_them_without_tcp() {
    let case = "forged responses, ports known at once, no TCP";
    forge(case, Duration::ZERO, Takes::UdpAlone).assert_nothing_wrong(case);
}
