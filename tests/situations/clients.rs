//! What clients hold and how long: idle timeouts, shutting down, file descriptors, who may ask, listeners.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{all_at_once, group_of, new_names, question, says};
use crate::common::dns::{
    Ask, Message, Over, rcode, read_frame, receive, rr, send_frame, tcp_to, udp_to,
};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server, text_of};
use crate::wire::{extended_errors, gist};

/// Answers after this long.
fn slow(delay: Duration) -> Server {
    Server::start(move |q: &Query| q.honest().after(delay))
}

/// Such servers are asked once and waited for.
fn patient(server: &Server, more: &str) -> Nodens {
    let options = "try_timeout: 3s, failover: {start_fanout: 1, hedge_min: 5s, hedge_max: 5s}";
    let yaml = group_of(&[server.over("")], options);
    Nodens::start(&format!("{yaml}{more}"))
}

/// A connection over which this was asked.
fn asked_over_tcp(nodens: &Nodens, text: &str) -> (Ask, TcpStream) {
    let ask = question(text);
    let mut stream = tcp_to(nodens.address()).expect("connects");
    send_frame(&mut stream, &ask.message()).expect("sent");
    (ask, stream)
}

/// The reply on a connection, as text.
fn reply_on((ask, stream): &mut (Ask, TcpStream)) -> String {
    let frame = match read_frame(stream) {
        Ok(frame) => frame,
        Err(error) => return format!("closed without an answer ({})", error.kind()),
    };
    let message = Message::read(&frame).expect("well-formed");
    assert_eq!(message.id, ask.id);
    gist(&message)
}

fn assert_none_is_wrong(replies: &[String], want: &str, nodens: &str) {
    let mut wrong: HashMap<&str, usize> = HashMap::new();
    for reply in replies.iter().filter(|reply| *reply != want) {
        *wrong.entry(reply).or_default() += 1;
    }
    assert!(
        wrong.is_empty(),
        "of {}: {wrong:?}\n{nodens}",
        replies.len()
    );
}

#[test]
fn a_connection_with_a_query_in_flight_is_not_idle() {
    let server = slow(Duration::from_millis(700));
    let nodens = patient(&server, "tcp: {idle_timeout: 500ms}\n");
    let mut clients: Vec<_> = new_names("slow", 30)
        .iter()
        .map(|name| asked_over_tcp(&nodens, name))
        .collect();
    let replies: Vec<_> = clients.iter_mut().map(reply_on).collect();
    assert_none_is_wrong(&replies, "NOERROR 192.0.2.1", &nodens.log());
}

#[test]
fn a_connection_is_not_idle_while_the_second_of_two_queries_is_in_flight() {
    let server = Server::start(|q: &Query| {
        let delay = if q.name.starts_with("fast") { 0 } else { 700 };
        q.honest().after(Duration::from_millis(delay))
    });
    let nodens = patient(&server, "tcp: {idle_timeout: 500ms}\n");
    let mut clients: Vec<_> = (0..20)
        .map(|number| {
            let (first, mut stream) = asked_over_tcp(&nodens, &format!("fast{number}.corp. A"));
            let second = question(&format!("slow{number}.corp. A"));
            send_frame(&mut stream, &second.message()).expect("sent");
            (first, second, stream)
        })
        .collect();
    let mut replies = Vec::new();
    for (first, second, stream) in clients.drain(..) {
        let mut client = (first, stream);
        assert_eq!(reply_on(&mut client), "NOERROR 192.0.2.1");
        replies.push(reply_on(&mut (second, client.1)));
    }
    assert_none_is_wrong(&replies, "NOERROR 192.0.2.1", &nodens.log());
}

#[test]
fn a_client_that_sends_its_fin_after_its_query_gets_its_answer() {
    let server = slow(Duration::from_millis(700));
    let nodens = patient(&server, "tcp: {idle_timeout: 500ms}\n");
    let mut clients: Vec<_> = new_names("half", 10)
        .iter()
        .map(|name| asked_over_tcp(&nodens, name))
        .collect();
    for (_, stream) in &clients {
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("connected");
    }
    let replies: Vec<_> = clients.iter_mut().map(reply_on).collect();
    assert_none_is_wrong(&replies, "NOERROR 192.0.2.1", &nodens.log());
}

/// glibc and musl ask for both families from one socket, and some libraries give every query the same ID.
#[test]
fn queries_of_one_socket_with_one_id_get_a_reply_each() {
    let server = Server::start(|q: &Query| {
        let says = match q.qtype {
            rr::AAAA => q.says("NOERROR").answer("@ 300 AAAA 2001:db8::1"),
            _ => q.says("NOERROR").answer("@ 300 A 192.0.2.1"),
        };
        says.after(Duration::from_millis(100))
    });
    let nodens = patient(&server, "");
    let client = udp_to(nodens.address()).expect("a socket");
    // The last is the first once more, as a client without patience asks.
    for text in [
        "web.corp. A",
        "web.corp. AAAA",
        "shop.corp. A",
        "web.corp. A",
    ] {
        let mut ask = question(text);
        ask.id = 7;
        client.send(&ask.message()).expect("sent");
    }
    let mut replies: Vec<String> = (0..4)
        .map(|_| {
            let reply = receive(&client).expect("a reply");
            let message = Message::read(&reply).expect("well-formed");
            assert_eq!(message.id, 7);
            format!("{} {}", text_of(&message.question), gist(&message))
        })
        .collect();
    replies.sort();
    assert_eq!(
        replies,
        [
            "shop.corp. NOERROR 192.0.2.1",
            "web.corp. NOERROR 192.0.2.1",
            "web.corp. NOERROR 192.0.2.1",
            "web.corp. NOERROR 2001:db8::1",
        ]
    );
}

/// Several frames in one segment, a frame in many, and frames that hold no query between those that do.
#[test]
fn frames_of_a_stream_are_found_wherever_segments_end() {
    let server = Server::start(Query::honest);
    let nodens = patient(&server, "");
    let frame = |message: &[u8]| {
        let length = u16::try_from(message.len()).expect("short").to_be_bytes();
        [&length[..], message].concat()
    };
    let (first, second) = (question("a.corp. A"), question("b.corp. A"));
    let third = question("c.corp. A");
    let stream = &mut TcpStream::connect(nodens.address()).expect("connected");
    stream.set_nodelay(true).expect("settable");
    let empty = frame(&[]);
    let short = frame(b"short");
    let all = [
        &frame(&first.message())[..],
        &empty,
        &short,
        &frame(&second.message()),
    ]
    .concat();
    stream.write_all(&all).expect("sent");
    for octet in frame(&third.message()) {
        stream.write_all(&[octet]).expect("sent");
    }
    let mut ids: Vec<u16> = (0..3)
        .map(|_| read_frame(stream).expect("a reply"))
        .map(|reply| Message::read(&reply).expect("well-formed"))
        .inspect(|message| assert_eq!(gist(message), "NOERROR 192.0.2.1"))
        .map(|message| message.id)
        .collect();
    ids.sort_unstable();
    let mut want = [first.id, second.id, third.id];
    want.sort_unstable();
    assert_eq!(ids, want);
}

/// Eight clients over TCP and eight over UDP have a query in flight, 1 s from its answer, when SIGTERM comes. Each
/// gets `want`, then, over TCP, the end of the connection.
fn stopped_with_queries_in_flight(more: &str, want: &str) {
    let server = slow(Duration::from_secs(1));
    let nodens = patient(&server, more);
    let mut over_tcp: Vec<_> = new_names("tcp", 8)
        .iter()
        .map(|name| asked_over_tcp(&nodens, name))
        .collect();
    let over_udp: Vec<_> = new_names("udp", 8)
        .iter()
        .map(|name| {
            let client = udp_to(nodens.address()).expect("a socket");
            client.send(&question(name).message()).expect("sent");
            client
        })
        .collect();
    wait_for("all 16 at the server", || {
        (server.count() >= 16).then_some(())
    });
    let stopping = thread::spawn(move || nodens.terminate());
    let mut replies: Vec<_> = over_tcp.iter_mut().map(reply_on).collect();
    for client in &over_udp {
        let reply = receive(client).expect("a reply");
        replies.push(gist(&Message::read(&reply).expect("well-formed")));
    }
    let (status, log) = stopping.join().expect("no panic");
    assert_none_is_wrong(&replies, want, &log);
    for (_, stream) in &mut over_tcp {
        let rest = stream.read(&mut [0; 1]).expect("a FIN and no reset");
        assert_eq!(rest, 0, "nothing after the reply");
    }
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn what_is_in_flight_when_it_stops_is_answered_within_the_grace() {
    stopped_with_queries_in_flight("shutdown_grace: 10s\n", "NOERROR 192.0.2.1");
}

#[test]
fn what_is_in_flight_when_it_stops_is_answered_whatever_the_idle_timeout() {
    let more = "shutdown_grace: 10s\ntcp: {idle_timeout: 300ms}\n";
    stopped_with_queries_in_flight(more, "NOERROR 192.0.2.1");
}

#[test]
fn what_is_in_flight_after_the_grace_gets_servfail() {
    stopped_with_queries_in_flight("shutdown_grace: 300ms\n", "SERVFAIL");
}

/// A hundred clients that connect and say nothing.
fn idle_clients(nodens: &Nodens) -> Vec<TcpStream> {
    (0..100)
        .map(|_| tcp_to(nodens.address()).expect("the kernel takes it"))
        .collect()
}

/// New names, one after the other: some of them meet the moment at which clients hold all that there is to hold.
fn new_names_for_a_second(nodens: &Nodens) {
    let until = Instant::now() + Duration::from_secs(1);
    let mut replies = Vec::new();
    while Instant::now() < until {
        replies.push(says(nodens, &format!("new{}.example. A", replies.len())));
    }
    assert_none_is_wrong(&replies, "NOERROR 192.0.2.1", &nodens.log());
}

#[test]

fn clients_that_hold_connections_leave_descriptors_for_upstreams() {
    let server = Server::start(Query::honest);
    let nodens = Nodens::start_with_files(64, &group_of(&[server.over("")], ""));
    let _held = idle_clients(&nodens);
    new_names_for_a_second(&nodens);
    let many = all_at_once(&nodens, &new_names("many", 50));
    let many: Vec<_> = many.into_iter().map(|(reply, _)| reply).collect();
    assert_none_is_wrong(&many, "NOERROR 192.0.2.1", &nodens.log());
}

#[test]

fn clients_that_hold_connections_leave_descriptors_for_upstreams_over_tcp() {
    // Each name needs a connection of its own, so that none lives on one that was there before the clients.
    let server = Server::start(|q: &Query| Does::AnswersAndCloses(q.honest().bytes()));
    let nodens = Nodens::start_with_files(64, &group_of(&[server.over("tcp://")], ""));
    let _held = idle_clients(&nodens);
    new_names_for_a_second(&nodens);
}

#[test]

fn a_newcomer_over_tcp_is_answered_though_idle_clients_hold_all_there_is() {
    let server = Server::start(Query::honest);
    let nodens = Nodens::start_with_files(64, &group_of(&[server.over("")], ""));
    let _held = idle_clients(&nodens);
    for number in 0..5 {
        let mut newcomer = asked_over_tcp(&nodens, &format!("new{number}.example. A"));
        assert_eq!(
            reply_on(&mut newcomer),
            "NOERROR 192.0.2.1",
            "{}",
            nodens.log()
        );
    }
}

#[test]

fn a_warning_that_repeats_is_one_line_with_a_count() {
    let server = Server::start(Query::honest);
    let nodens = Nodens::start_with_files(64, &group_of(&[server.over("")], ""));
    let _held = idle_clients(&nodens);
    // Two seconds of whatever it has to say about it.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        says(&nodens, &format!("n{}.example. A", fastrand::u32(..)));
    }
    let log = nodens.log();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for line in log.lines() {
        // What follows the time; counts may differ from line to line.
        let (_, said) = line.split_once(' ').unwrap_or(("", line));
        let said = said.trim_end_matches(|c: char| c.is_ascii_digit() || "=()\"".contains(c));
        *times.entry(said).or_default() += 1;
    }
    let most = times.iter().max_by_key(|(_, times)| **times);
    assert!(most.is_some_and(|(_, times)| *times <= 5), "{most:?}");
}

#[test]
fn a_client_that_may_not_ask_hears_which_key_would_let_it() {
    let server = Server::start(Query::honest);
    let yaml = group_of(&[server.over("")], "");
    let nodens = Nodens::start(&format!("allow: [127.0.0.2]\n{yaml}"));
    let question = question("web.example. A").payload(1232);
    let reply = question.send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::REFUSED);
    let errors = extended_errors(&reply);
    // RFC 8914 §4.19: Prohibited.
    let [(18, text)] = &errors[..] else {
        panic!("{errors:?}");
    };
    let address = "127.0.0.1";
    let says_how = text.contains("allow") && text.contains(address);
    assert!(
        says_how,
        "the key and the client's address belong in {text:?}"
    );
}

/// What the reference says of the key `listen`.
fn reference_of_listen() -> &'static str {
    let reference = include_str!("../../docs/configuration.md");
    let row = reference
        .lines()
        .find(|line| line.starts_with("| `listen` |"));
    row.expect("the reference has a row for it")
}

#[test]
fn a_listener_on_every_ipv6_address_takes_ipv4_or_the_reference_says_no() {
    let server = Server::start(Query::honest);
    let nodens = Nodens::start_on(&["[::]:0"], &group_of(&[server.over("")], ""));
    let port = nodens.address().port();
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let v4 = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    let ask = question("web.example. A");
    for over in crate::client::BOTH {
        assert_eq!(
            gist(&ask.again().send(v6, over)),
            "NOERROR 192.0.2.1",
            "{over:?}"
        );
    }
    let takes_v4 = crate::common::dns::exchange(v4, Over::Tcp, &ask.message()).is_ok();
    if takes_v4 {
        for over in crate::client::BOTH {
            assert_eq!(
                gist(&ask.again().send(v4, over)),
                "NOERROR 192.0.2.1",
                "{over:?}"
            );
        }
    } else {
        let row = reference_of_listen();
        assert!(row.contains("[::]") && row.contains("IPv4"), "{row}");
    }
}

#[test]
fn a_listener_on_every_ipv6_address_leaves_the_port_to_one_on_every_ipv4_address() {
    let server = Server::start(Query::honest);
    let free = crate::common::free_address().port();
    let listen = [format!("0.0.0.0:{free}"), format!("[::]:{free}")];
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let nodens = Nodens::start_on(&listen, &group_of(&[server.over("")], ""));
    let ask = question("web.example. A");
    for address in [
        SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, free)),
        SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, free)),
    ] {
        for over in crate::client::BOTH {
            let reply = ask.again().send(address, over);
            assert_eq!(gist(&reply), "NOERROR 192.0.2.1", "{address} {over:?}");
        }
    }
    drop(nodens);
}
