//! How often the servers are asked for what is in the cache already.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{
    Ask, Message, Over, Section, question_end, rcode, receive, record, response, rr, udp_to,
};
use crate::common::stand_in::{Gate, StandIn};
use crate::common::{Nodens, wait_for};
use crate::enlarge;

const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// Clients that ask for each name in turn, so that every worker gets its share of each.
struct Clients {
    sockets: Vec<UdpSocket>,
    names: usize,
    round: usize,
}

impl Clients {
    fn new(server: SocketAddr, names: usize) -> Self {
        let socket = |_| {
            let socket = udp_to(server).expect("a socket");
            socket.set_nonblocking(true).expect("settable");
            enlarge(&socket);
            socket
        };
        Self {
            sockets: (0..16).map(socket).collect(),
            names,
            round: 0,
        }
    }

    /// Asks for every name once, over the time given; returns how many replies came meanwhile. All of them must hold the
    /// address, fresh or not.
    fn ask_all(&mut self, over: Duration) -> usize {
        let start = Instant::now();
        self.round += 1;
        let mut replies = 0;
        for number in 0..self.names {
            let ask = Ask::new(&format!("popular{number}.example."), rr::A);
            let socket = &self.sockets[(number + self.round) % self.sockets.len()];
            socket.send(&ask.message()).expect("sent");
            if number % 16 == 15 || number + 1 == self.names {
                replies += self.read();
                let share = u32::try_from(number + 1).expect("few names");
                let due = over * share / u32::try_from(self.names).expect("few names");
                // The pace of the clients, and not a wait for anything.
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        replies + self.read()
    }

    fn read(&self) -> usize {
        let mut replies = 0;
        for socket in &self.sockets {
            loop {
                match receive(socket) {
                    Ok(bytes) => {
                        let reply = Message::read(&bytes).expect("a message");
                        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
                        let address = reply.section(Section::Answer).next();
                        assert_eq!(address.expect("an answer").rdata, ADDRESS, "{reply:?}");
                        replies += 1;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        replies
    }
}

/// Clients ask for popular names, again and again, while no server answers. RFC 9520 §3.2 wants a pause after each
/// failure; nothing says that it holds less for names whose last answer is still there.
fn an_outage(names: usize, round: Duration, measured: Duration) {
    const SERVERS: usize = 2;
    const WORKERS: usize = 2;
    /// Lookups that may begin within `measured`, at most 10 s: the pauses are 1, 2, 4, 5, 5 … seconds.
    const LOOKUPS: usize = 5;
    let new = || StandIn::new(|query, _| vec![response(query, &[record(rr::A, 2, &ADDRESS)])]);
    let servers = [new(), new()];
    let addresses = servers.each_ref().map(|server| server.address.to_string());
    let nodens = Nodens::start(&format!(
        "workers: {WORKERS}\nupstreams: {{group: {{servers: {addresses:?}}}}}\n"
    ));
    for address in &addresses {
        let labels = [("server", address.as_str()), ("state", "good")];
        nodens.wait_for_metric("nodens_upstream_state", &labels, 1.0);
    }
    for number in 0..names {
        let ask = Ask::new(&format!("popular{number}.example."), rr::A);
        let reply = ask.send(nodens.address(), Over::Udp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    }
    for server in &servers {
        server.set_silent(true);
    }
    let mut clients = Clients::new(nodens.address(), names);
    let down = [("group", "group"), ("transport", "udp"), ("state", "down")];
    wait_for("both servers to be down, and stale answers", || {
        clients.ask_all(round);
        let all_down = nodens.metric("nodens_upstream_state", &down) > 1.5;
        let stale = nodens.metric("nodens_stale_total", &[]) > 0.5;
        (all_down && stale).then_some(())
    });

    let asked = || servers.iter().map(StandIn::asked_count).sum::<usize>();
    let before = asked();
    let start = Instant::now();
    let (mut sent, mut replies) = (0, 0);
    while start.elapsed() < measured {
        sent += names;
        replies += clients.ask_all(round);
    }
    let (elapsed, datagrams) = (start.elapsed(), asked() - before);
    let rate = |count: usize| f64::from(u32::try_from(count).expect("few")) / elapsed.as_secs_f64();
    println!(
        "{names} names, {:.0} queries a second ({replies} of {sent} answered): {:.0} datagrams a second to {SERVERS} servers, \
         {:.2} for each name",
        rate(sent),
        rate(datagrams),
        rate(datagrams) / f64::from(u32::try_from(names).expect("few"))
    );
    assert!(
        replies * 10 >= sent * 9,
        "{replies} of {sent} queries were answered"
    );
    // A server that is down gets one try a lookup. Two workers may find a pause over at the same time.
    let most = names * SERVERS * WORKERS * LOOKUPS;
    assert!(
        datagrams <= most,
        "{datagrams} datagrams in {elapsed:?}, {:.0} a second; at most {most} with pauses between failures",
        rate(datagrams)
    );
}

#[test]
fn pauses_between_failures_hold_for_names_with_an_expired_answer() {
    an_outage(100, Duration::from_millis(100), Duration::from_secs(6));
}

#[test]
#[ignore = "thousands of queries a second for 10 s; .ci/run runs it"]
fn so_they_do_with_a_thousand_names() {
    an_outage(1_000, Duration::from_millis(150), Duration::from_secs(10));
}

/// Asks for the name; the seconds its answer has left.
fn ttl(server: SocketAddr, name: &str) -> u32 {
    let reply = Ask::new(name, rr::A).send(server, Over::Udp);
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    reply
        .section(Section::Answer)
        .next()
        .expect("an answer")
        .ttl
}

/// Questions in flight beside which nothing more is fetched before its time.
const MANY: usize = 64;
/// Seconds an answer lives, and how many it has left when it may be fetched anew.
const TTL: u32 = 12;
const DUE: u32 = 9;

fn in_flight(nodens: &Nodens) -> usize {
    let status = nodens.status();
    let groups = status["upstreams"].as_array().expect("groups");
    let count = |group: &serde_json::Value| group["in_flight"].as_u64().expect("a number");
    usize::try_from(groups.iter().map(count).sum::<u64>()).expect("few")
}

/// Many questions are in flight while a popular answer is due to be fetched anew, and then no more. `crowd` puts them in
/// flight: names under `slow.`, to a server that answers each name at once when it is asked for the first time if the
/// name begins with `p`, and else when the gate is open.
fn a_missed_turn_comes_again(crowd: impl FnOnce(&Nodens)) {
    let gate = Gate::default();
    let answer = |query: &[u8]| vec![response(query, &[record(rr::A, TTL, &ADDRESS)])];
    let slow = {
        let (gate, seen) = (gate.clone(), Mutex::new(HashSet::new()));
        StandIn::new(move |query, _| {
            let name = query[12..question_end(query)].to_vec();
            let first = seen.lock().expect("no thread panics with it").insert(name);
            if !(first && query[13] == b'p') {
                gate.wait();
            }
            answer(query)
        })
    };
    let fast = StandIn::new(move |query, _| answer(query));
    let nodens = Nodens::start(&format!(
        "workers: 1\ncache: {{prefetch: {{percent: {}}}}}\nupstreams:\n  slow:\n    servers: [\"tcp://{}\"]\n    \
         try_timeout: 30s\n    deadline: 60s\n    failover: {{hedge_min: 10s, hedge_max: 10s}}\n  \
         fast: {{servers: [\"{}\"]}}\nroutes: {{slow.: slow, \".\": fast}}\n",
        DUE * 100 / TTL,
        slow.address,
        fast.address
    ));
    for group in ["slow", "fast"] {
        let labels = [("group", group), ("state", "good")];
        nodens.wait_for_metric("nodens_upstream_state", &labels, 1.0);
    }
    crowd(&nodens);
    assert!(in_flight(&nodens) >= MANY);

    let left = || ttl(nodens.address(), "popular.example.");
    assert_eq!(left(), TTL);
    // Hits that make it popular, and then some while it is due.
    wait_for("it to have been due for a while", || {
        thread::sleep(PAUSE);
        (fast.asked_count() > 1 || left() < DUE - 1).then_some(())
    });
    let among_the_others = fast.asked_count() > 1;
    gate.open();
    wait_for("the others to be answered", || {
        (in_flight(&nodens) == 0).then_some(())
    });
    let missed = nodens.metric("nodens_cache_misses_total", &[]);
    while fast.asked_count() < 2 {
        let left = left();
        assert!(
            left > 1,
            "it expires and was not fetched anew, although nothing else is in flight any more"
        );
        thread::sleep(PAUSE);
    }
    let when = if among_the_others {
        "while they were in flight"
    } else {
        "after them"
    };
    println!("fetched anew {when}, with {} s left", left());
    wait_for("the new answer", || (left() >= DUE).then_some(()));
    assert_eq!(fast.asked_count(), 2, "fetched anew once");
    // What was asked last is counted with the prefetch or before it.
    nodens.wait_for_metric("nodens_cache_prefetches_total", &[], 1.0);
    let missed = nodens.metric("nodens_cache_misses_total", &[]) - missed;
    assert!(missed < 0.5, "{missed} queries had to wait for a server");
}

/// Between two queries of one client.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_prefetch_that_is_due_while_many_questions_are_in_flight_comes_later() {
    a_missed_turn_comes_again(|nodens| {
        let client = udp_to(nodens.address()).expect("a socket");
        for number in 0..2 * MANY {
            let ask = Ask::new(&format!("n{number}.slow."), rr::A);
            client.send(&ask.message()).expect("sent");
        }
        wait_for("them to be in flight", || {
            (in_flight(nodens) == 2 * MANY).then_some(())
        });
    });
}

#[test]
fn a_prefetch_that_is_due_while_many_others_are_in_flight_comes_later() {
    a_missed_turn_comes_again(|nodens| {
        wait_for("as many prefetches as there may be", || {
            for number in 0..MANY {
                ttl(nodens.address(), &format!("p{number}.slow."));
            }
            (in_flight(nodens) == MANY).then_some(())
        });
    });
}
