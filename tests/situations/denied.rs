//! Names that a healthy server denies although it answered for them a moment ago: with `stale_on`, they stay for a while.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{question, says, send, settled};
use crate::common::dns::{Message, Over, rr, udp_to};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server};
use crate::wire::{Says, extended_errors, gist};

/// A server that knows `app.corp A` for a second, and has no AAAA for it.
fn app() -> Server {
    Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 1 A 10.0.0.1"),
        _ => q.says("NOERROR").authority("corp. 1 SOA 1"),
    })
}

fn nxdomain(q: &Query) -> Says {
    q.says("NXDOMAIN").authority("corp. 60 SOA 60")
}

fn empty(q: &Query) -> Says {
    q.says("NOERROR").authority("corp. 60 SOA 60")
}

fn in_front_of(server: &Server, option: &str, cache: &str) -> Nodens {
    let yaml = format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": {{group: group{option}}}}}\n{cache}",
        server.address
    );
    settled(&yaml, &[server.over("")])
}

/// Waits until the server has denied the name; the reply to that.
fn once_denied(server: &Server, nodens: &Nodens, text: &str) -> (String, Vec<(u16, String)>) {
    let before = server.asked_for(text);
    wait_for("the name to be asked for again", || {
        let reply = send(nodens, &question(text).payload(1232), Over::Udp);
        (server.asked_for(text) > before).then(|| (reply.gist(), extended_errors(&reply.message)))
    })
}

#[test]
fn denials_are_believed_unless_told_otherwise() {
    for (option, denial, want) in [
        ("", nxdomain as fn(&Query) -> Says, "NXDOMAIN"),
        ("", empty, "NOERROR"),
        (", stale_on: [nxdomain]", empty, "NOERROR"),
        (", stale_on: empty", nxdomain, "NXDOMAIN"),
    ] {
        let server = app();
        let nodens = in_front_of(&server, option, "");
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
        server.now_says(denial);
        let (gist, _) = once_denied(&server, &nodens, "app.corp. A");
        assert_eq!(gist, want, "{option}");
    }
}

#[test]
fn a_name_that_had_addresses_keeps_them_and_says_so() {
    for denial in [nxdomain as fn(&Query) -> Says, empty] {
        let server = app();
        let nodens = in_front_of(&server, ", stale_on: [nxdomain, empty]", "");
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
        server.now_says(denial);
        let (gist, errors) = once_denied(&server, &nodens, "app.corp. A");
        assert_eq!(gist, "NOERROR 10.0.0.1");
        assert_eq!(errors[0].0, 3, "{errors:?}");
        assert!(errors[0].1.contains("deny"), "{errors:?}");
        // The server is not asked for each query meanwhile, and the reason stays the same.
        let asked = server.asked_for("app.corp. A");
        let started = Instant::now();
        for _ in 0..20 {
            let ask = question("app.corp. A").payload(1232);
            let reply = send(&nodens, &ask, Over::Udp);
            assert_eq!(reply.gist(), "NOERROR 10.0.0.1");
            assert_eq!(extended_errors(&reply.message), errors);
        }
        let further = server.asked_for("app.corp. A") - asked;
        let seconds = started.elapsed().as_secs() + 1;
        assert!(further as u64 <= seconds, "{further} times in {seconds} s");
        let denied = [("reason", "denied")];
        assert!(nodens.metric("nodens_stale_total", &denied) >= 21.0);
        // A name that was never answered is denied as ever, and this one is heard of as soon as it is back.
        assert!(!says(&nodens, "new.corp. A").contains("10.0.0.1"));
        server.now_says(|q| q.says("NOERROR").answer("@ 60 A 10.0.0.2"));
        wait_for("the new address", || {
            (says(&nodens, "app.corp. A") == "NOERROR 10.0.0.2").then_some(())
        });
    }
}

#[test]
fn no_such_name_does_not_take_the_empty_answer_beside_addresses() {
    let server = app();
    let nodens = in_front_of(&server, ", stale_on: [nxdomain]", "");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
    assert_eq!(says(&nodens, "app.corp. AAAA"), "NOERROR");
    server.now_says(nxdomain);
    let (gist, _) = once_denied(&server, &nodens, "app.corp. AAAA");
    assert_eq!(gist, "NOERROR");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
}

#[test]
fn it_ends_after_max_denied_age() {
    let server = app();
    let cache = "cache: {stale: {max_denied_age: 2s}}\n";
    let nodens = in_front_of(&server, ", stale_on: [nxdomain]", cache);
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
    server.now_says(nxdomain);
    let (gist, _) = once_denied(&server, &nodens, "app.corp. A");
    assert_eq!(gist, "NOERROR 10.0.0.1");
    let started = Instant::now();
    wait_for("the denial to be believed", || {
        (says(&nodens, "app.corp. A") == "NXDOMAIN").then_some(())
    });
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Queries for one name from sockets of their own, which the kernel spreads over the workers.
struct Askers {
    sockets: Vec<UdpSocket>,
    /// Queries without a reply: the socket's number, the ID, and when it was sent.
    waiting: Vec<(usize, u16, Instant)>,
}

impl Askers {
    fn new(nodens: &Nodens) -> Self {
        let socket = |_| {
            let socket = udp_to(nodens.address()).expect("a socket");
            socket.set_nonblocking(true).expect("an option");
            socket
        };
        Self {
            sockets: (0..16).map(socket).collect(),
            waiting: Vec::new(),
        }
    }

    /// Sends a query from each socket.
    fn ask(&mut self, text: &str) {
        for (number, socket) in self.sockets.iter().enumerate() {
            let ask = question(text);
            socket.send(&ask.message()).expect("sent");
            self.waiting.push((number, ask.id, Instant::now()));
        }
    }

    /// The replies that have come, and when their queries were sent.
    fn replies(&mut self) -> Vec<(String, Instant)> {
        let mut replies = Vec::new();
        let mut buffer = [0; 512];
        for (number, socket) in self.sockets.iter().enumerate() {
            while let Ok(length) = socket.recv(&mut buffer) {
                let reply = Message::read(&buffer[..length]).expect("well-formed");
                let is_its = |(at, id, _): &(usize, u16, _)| (*at, *id) == (number, reply.id);
                let index = self.waiting.iter().position(is_its).expect("it was asked");
                replies.push((gist(&reply), self.waiting.swap_remove(index).2));
            }
        }
        replies
    }
}

/// Workers share the cache, and not the questions that are under way: while one worker waits for its answer, another one is told
/// that the name is gone.
#[test]
fn a_denial_that_another_worker_was_told_meanwhile_is_not_taken_back() {
    const PATIENCE_FOR_STALE: Duration = Duration::from_secs(3);
    let server = app();
    let yaml = format!(
        "workers: 2\nupstreams: {{group: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": group}}\n\
         cache: {{stale: {{after: {}s, max_negative_age: 0s}}}}\n",
        server.address,
        PATIENCE_FOR_STALE.as_secs()
    );
    let nodens = settled(&yaml, &[server.over("")]);
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
    // What was kept after it expires no earlier.
    wait_for("the address to be expired", || {
        says(&nodens, "later.corp. A");
        (server.asked_for("later.corp. A") == 2).then_some(())
    });
    let was_asked = AtomicBool::new(false);
    server.now_says(move |q: &Query| -> Does {
        if was_asked.swap(true, Ordering::Relaxed) {
            return Does::Silence;
        }
        let denial = q.says("NXDOMAIN").authority("corp. 1 SOA 1");
        denial.after(Duration::from_millis(300))
    });
    // Questions that other workers ask after it are not older than its answer.
    let first = udp_to(nodens.address()).expect("a socket");
    let asked = server.asked_for("app.corp. A");
    let query = question("app.corp. A").message();
    first.send(&query).expect("sent");
    wait_for("the server to be asked", || {
        (server.asked_for("app.corp. A") > asked).then_some(())
    });
    let mut askers = Askers::new(&nodens);
    askers.ask("app.corp. A");
    let denied = wait_for("the denial", || {
        let replies = askers.replies();
        replies
            .iter()
            .any(|(gist, _)| gist == "NXDOMAIN")
            .then(Instant::now)
    });
    let mut longest = Duration::ZERO;
    let mut next = denied;
    while !askers.waiting.is_empty() {
        let now = Instant::now();
        if now >= next && now < denied + PATIENCE_FOR_STALE {
            askers.ask("app.corp. A");
            next += Duration::from_millis(100);
        }
        for (gist, sent) in askers.replies() {
            if sent > denied {
                assert!(!gist.starts_with("NOERROR"), "{gist} after a denial");
                longest = longest.max(sent.elapsed());
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(
        longest > Duration::from_millis(200),
        "nobody waited: {longest:?}"
    );
}
