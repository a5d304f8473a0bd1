//! What clients make the process hold, and how long their replies may be.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::dns::{
    Ask, Message, Over, failure, flag, header, opt, question_end, rcode, receive, record, response,
    rr, send_frame, tcp_to, udp_to, wire_name,
};
use crate::common::stand_in::{Gate, StandIn};
use crate::common::{Nodens, limit_open_files, wait_for};
use crate::{MB, enlarge, growth, holds_within, in_mb};

/// Queries of one client that wait for one answer.
const QUERIES: u16 = 2_000;
/// Queries sent before the process has counted them: far fewer than a receive buffer holds.
const WINDOW: u16 = 250;
/// Records of 268 octets each: 60 KiB and a little less than a message can have.
const RECORDS: usize = 230;
/// What the replies to all of these queries take, with all that is kept of who waits for them.
const MOST_AT_PEAK: u64 = 16 * MB;
/// What is kept for the next time, and code that ran for the first time.
const MOST_AFTER: u64 = 6 * MB;
/// How long freed memory may take to be given back to the system.
const GIVE_BACK: Duration = Duration::from_secs(15);

/// Reads replies until all have come; their lengths.
fn read_replies(socket: &UdpSocket) -> Vec<usize> {
    let (mut ids, mut lengths) = (HashSet::new(), Vec::new());
    while ids.len() < usize::from(QUERIES) {
        let bytes = receive(socket).unwrap_or_else(|error| {
            panic!("{} of {QUERIES} replies came, then: {error}", ids.len())
        });
        let reply = Message::read(&bytes).expect("a message");
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
        assert!(reply.has(flag::TC), "it was cut: {reply:?}");
        assert_eq!(reply.trailing, 0, "{reply:?}");
        assert!(ids.insert(reply.id), "a second reply to {}", reply.id);
        lengths.push(reply.length);
    }
    lengths
}

#[test]
fn a_large_answer_is_not_copied_for_each_client_that_waits_for_it() {
    let gate = Gate::default();
    let server = {
        let gate = gate.clone();
        StandIn::new(move |query, over| {
            if query[13..].starts_with(b"small") {
                return vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])];
            }
            assert_eq!(over, Over::Tcp, "the server is asked over TCP only");
            gate.wait();
            let text = [&[255][..], &[b'x'; 255]].concat();
            vec![response(query, &vec![record(rr::TXT, 300, &text); RECORDS])]
        })
    };
    // Nobody gives up before the gate opens, and the question is sent once.
    let nodens = Nodens::start(&format!(
        "workers: 1\nlimits: {{client_in_flight: 10000}}\nupstreams:\n  group:\n    servers: [\"tcp://{}\"]\n    \
         try_timeout: 30s\n    deadline: 60s\n    failover: {{hedge_min: 10s, hedge_max: 10s}}\n",
        server.address
    ));
    Ask::new("small.example.", rr::A).send(nodens.address(), Over::Udp);
    let before = nodens.rss_bytes();

    let client = udp_to(nodens.address()).expect("a socket");
    enlarge(&client);
    let reader = client.try_clone().expect("a second handle");
    let replies = thread::spawn(move || read_replies(&reader));
    let mut ask = Ask::new("large.example.", rr::TXT).payload(1232);
    for id in 0..QUERIES {
        ask.id = id;
        client.send(&ask.message()).expect("sent");
        if (id + 1) % WINDOW == 0 {
            // The small question is counted too.
            nodens.wait_for_metric("nodens_queries_total", &[], f64::from(id + 2));
        }
    }
    let waiting = nodens.rss_bytes();
    gate.open();
    let lengths = replies.join().expect("every reply is right");
    assert!(lengths.iter().all(|length| *length <= 1232), "{lengths:?}");

    let peak = nodens.peak_rss_bytes();
    println!("while they wait: {}", growth(before, waiting));
    println!("at its peak:     {}", growth(before, peak));
    let given_back = holds_within(GIVE_BACK, || nodens.rss_bytes() < before + MOST_AFTER);
    let after = nodens.rss_bytes();
    println!("afterwards:      {}", growth(before, after));
    assert!(
        peak < before + MOST_AT_PEAK,
        "at its peak: {}; at most {:.0} MB",
        growth(before, peak),
        in_mb(MOST_AT_PEAK)
    );
    assert!(
        given_back,
        "{GIVE_BACK:?} later: {}; at most {:.0} MB",
        growth(before, after),
        in_mb(MOST_AFTER)
    );
}

/// A query with OPT that asks for NSID (RFC 5001 §2.1).
fn with_nsid(ask: &Ask, payload: u16) -> Vec<u8> {
    let mut message = header(ask.id, ask.flags, [1, 0, 0, 1]);
    message.extend_from_slice(&ask.question());
    let mut opt = opt(payload, 0, false);
    let length = opt.len() - 1;
    opt[length] = 4;
    message.extend_from_slice(&opt);
    message.extend_from_slice(&[0, 3, 0, 0]);
    message
}

/// A name of 255 octets, the most there can be (RFC 1035 §3.1), that ends with this label.
fn longest_name(end: &str) -> String {
    let label = "n".repeat(63);
    let rest = 255 - 3 * 64 - 1 - (end.len() + 1) - 1;
    let name = format!("{label}.{label}.{label}.{}.{end}.", "m".repeat(rest));
    assert_eq!(wire_name(&name).len(), 255, "{name}");
    name
}

#[test]
fn no_datagram_is_longer_than_the_client_takes() {
    let refuses = || StandIn::new(|query, _| vec![failure(query, rcode::REFUSED)]);
    let refusing: Vec<_> = (0..8).map(|_| refuses()).collect();
    let fickle = StandIn::new(|query, _| {
        let owner = &query[12..question_end(query) - 4];
        let record = record(rr::A, 1, &[192, 0, 2, 1]);
        // Written out rather than as a pointer, which is another test's.
        vec![response(query, &[[owner, &record[2..]].concat()])]
    });
    let addresses: Vec<_> = refusing.iter().map(|s| s.address.to_string()).collect();
    let nodens = Nodens::start(&format!(
        "workers: 1\nnode_name: {}\ncache: {{stale: {{after: 0ms}}}}\nupstreams:\n  refusing: {{servers: {addresses:?}}}\n  \
         fickle: {{servers: [\"{}\"], try_timeout: 100ms, deadline: 500ms}}\n\
         routes: {{refused.: refusing, stale.: fickle}}\n",
        "node".repeat(63),
        fickle.address
    ));
    let stale = Ask::new(&longest_name("stale"), rr::A);
    let reply = stale.send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    fickle.set_silent(true);
    wait_for(
        "an expired answer, with an extended error that says so",
        || {
            let reply = stale
                .again()
                .payload(1232)
                .send(nodens.address(), Over::Udp);
            assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
            (!reply.opt?.options.is_empty()).then_some(())
        },
    );

    let mut long = Vec::new();
    for (what, name, code) in [
        (
            "every server refuses",
            longest_name("refused"),
            rcode::REFUSED,
        ),
        (
            "a remembered failure",
            longest_name("refused"),
            rcode::REFUSED,
        ),
        ("no route", longest_name("nowhere"), rcode::REFUSED),
        ("an expired answer", longest_name("stale"), rcode::NOERROR),
    ] {
        for payload in [0, 512, 600, 1232] {
            let ask = Ask::new(&name, rr::A);
            let socket = udp_to(nodens.address()).expect("a socket");
            socket.send(&with_nsid(&ask, payload)).expect("sent");
            let bytes = receive(&socket).unwrap_or_else(|error| panic!("{what}: {error}"));
            let reply = Message::read(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(reply.id, ask.id, "{what}: {reply:?}");
            assert_eq!(reply.question, ask.question(), "{what}: {reply:?}");
            assert_eq!(reply.rcode(), code, "{what}: {reply:?}");
            assert_eq!(reply.trailing, 0, "{what}: {reply:?}");
            assert!(reply.opt.is_some(), "{what}: {reply:?}");
            if reply.length > usize::from(payload.max(512)) {
                long.push(format!("{what}, payload {payload}: {}", reply.length));
            }
        }
    }
    assert!(
        long.is_empty(),
        "octets of replies that are too long: {long:#?}"
    );
}

/// Connections of clients that ask and never read: fewer than one client may have.
const CONNECTIONS_THAT_NEVER_READ: usize = 150;
/// Large names that each of them asks for.
const LARGE_NAMES: usize = 32;

/// A connection that has asked for all large names and reads nothing.
fn ask_and_never_read(address: SocketAddr) -> TcpStream {
    let mut stream = tcp_to(address).expect("connects");
    // What the kernel holds is not the point.
    SockRef::from(&stream)
        .set_recv_buffer_size(4 << 10)
        .expect("settable");
    for number in 0..LARGE_NAMES {
        let ask = Ask::new(&format!("large{number}.example."), rr::TXT);
        send_frame(&mut stream, &ask.message()).expect("sent");
    }
    stream
}

#[test]
#[ignore = "takes hundreds of megabytes of the kernel's memory for TCP"]
fn clients_over_tcp_that_never_read_share_a_budget_and_make_room_for_those_that_do() {
    /// `CONNECTION_BUFFERS`, and what the allocator and the connections themselves take.
    const MOST: u64 = 64 * (1 << 20) + 32 * MB;
    let server = StandIn::new(|query, over| {
        let text = [&[255][..], &[b'x'; 255]].concat();
        match over {
            Over::Udp => vec![],
            Over::Tcp => vec![response(query, &vec![record(rr::TXT, 300, &text); RECORDS])],
        }
    });
    let nodens = Nodens::start(&format!(
        "workers: 2\nupstreams: {{group: {{servers: [\"tcp://{}\"]}}}}\n",
        server.address
    ));
    limit_open_files(std::process::id(), 4_096);
    for number in 0..LARGE_NAMES {
        let ask = Ask::new(&format!("large{number}.example."), rr::TXT);
        let reply = ask.send(nodens.address(), Over::Tcp);
        assert_eq!(reply.rcode(), rcode::NOERROR);
    }
    let before = nodens.rss_bytes();
    let mut never_read = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..CONNECTIONS_THAT_NEVER_READ {
        never_read.push(ask_and_never_read(nodens.address()));
        if number % 10 == 9 {
            let asked = Instant::now();
            let reply = Ask::new("large1.example.", rr::TXT).send(nodens.address(), Over::Tcp);
            assert_eq!(reply.rcode(), rcode::NOERROR);
            assert!(reply.length > 60_000, "{reply:?}");
            slowest = slowest.max(asked.elapsed());
        }
    }
    nodens.wait_for_metric("nodens_tcp_evicted_total", &[], 1.0);
    let peak = nodens.peak_rss_bytes();
    println!(
        "{CONNECTIONS_THAT_NEVER_READ} connections that never read: {}; those that read waited {slowest:?} at most",
        growth(before, peak)
    );
    assert!(
        peak < before + MOST,
        "{}; at most {:.0} MB",
        growth(before, peak),
        in_mb(MOST)
    );
    drop(never_read);
    wait_for("no connection left", || {
        (nodens.metric("nodens_tcp_connections", &[]) == 0.0).then_some(())
    });
    assert!(
        holds_within(GIVE_BACK, || {
            Ask::new("large1.example.", rr::TXT).send(nodens.address(), Over::Tcp);
            nodens.rss_bytes() < before + 16 * MB
        }),
        "{GIVE_BACK:?} later: {}",
        growth(before, nodens.rss_bytes())
    );
}
