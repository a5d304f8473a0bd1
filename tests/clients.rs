//! What clients see of `nodens serve`: streams and their caps, strangers, coalescing, local names, shutting down.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::dns::{
    Ask, Message, Over, Section, flag, rcode, read_frame, receive, record, response, rr,
    send_frame, tcp_to, udp_to,
};
use common::stand_in::{Gate, StandIn};
use common::{Nodens, free_address, wait_for};

/// Answers every question with 192.0.2.1, names that begin with "slow" only once the gate is open.
fn upstream(gate: &Gate) -> StandIn {
    let gate = gate.clone();
    StandIn::new(move |query, over| {
        // Over TCP each connection has its own thread, so that only slow names wait.
        if query[13..].starts_with(b"slow") {
            assert_eq!(over, Over::Tcp, "slow names are asked over TCP");
            gate.wait();
        }
        vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]
    })
}

/// All names to one server over TCP, one connection a query, without hedges.
fn patient(server: &StandIn) -> String {
    format!(
        "workers: 1\nupstreams:\n  group:\n    servers: [\"tcp://{}\"]\n    try_timeout: 12s\n    deadline: 15s\n    \
         failover: {{start_fanout: 1, hedge_min: 10s, hedge_max: 10s}}\nroutes: {{\".\": group}}\n",
        server.address
    )
}

fn opened() -> Gate {
    let gate = Gate::default();
    gate.open();
    gate
}

fn assert_address(reply: &Message) {
    let answers: Vec<_> = reply
        .section(Section::Answer)
        .map(|r| r.rdata.clone())
        .collect();
    assert_eq!(answers, [[192, 0, 2, 1]], "{reply:?}");
}

#[test]
fn two_hundred_clients_of_one_unknown_name_cause_one_exchange() {
    let gate = Gate::default();
    let server = upstream(&gate);
    let nodens = Nodens::start(&patient(&server));
    let clients: Vec<UdpSocket> = (0..200)
        .map(|_| {
            let client = udp_to(nodens.address()).expect("a socket");
            client
                .send(&Ask::new("slow.example.", rr::A).message())
                .expect("sent");
            client
        })
        .collect();
    nodens.wait_for_metric("nodens_coalesced_total", &[], 199.0);
    gate.open();
    for client in &clients {
        let reply = Message::read(&receive(client).expect("a reply")).expect("well-formed");
        assert_address(&reply);
    }
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn replies_on_one_connection_come_as_they_become_ready() {
    let gate = Gate::default();
    let server = upstream(&gate);
    let nodens = Nodens::start(&patient(&server));
    // In the cache, so that it does not stand behind the slow one at the upstream.
    assert_address(&Ask::new("fast.example.", rr::A).send(nodens.address(), Over::Udp));
    let mut stream = tcp_to(nodens.address()).expect("connects");
    let (slow, fast) = (
        Ask::new("slow.example.", rr::A),
        Ask::new("fast.example.", rr::A),
    );
    send_frame(&mut stream, &slow.message()).expect("sent");
    send_frame(&mut stream, &fast.message()).expect("sent");
    let first = Message::read(&read_frame(&mut stream).expect("a reply")).expect("well-formed");
    assert_eq!(first.id, fast.id);
    gate.open();
    let second = Message::read(&read_frame(&mut stream).expect("a reply")).expect("well-formed");
    assert_eq!(second.id, slow.id);
}

/// Waits until the other side ends the connection; false if it stays.
fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("settable");
    match stream.read(&mut [0; 16]) {
        Ok(0) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        Ok(_) => panic!("nothing was asked"),
    }
}

#[test]
fn idle_connections_and_half_sent_queries_end_by_the_timeout() {
    let server = upstream(&opened());
    let nodens = Nodens::start(&format!(
        "tcp: {{idle_timeout: 300ms}}\n{}",
        patient(&server)
    ));
    let mut idle = tcp_to(nodens.address()).expect("connects");
    let mut half = tcp_to(nodens.address()).expect("connects");
    half.write_all(&[0, 40, 1, 2, 3]).expect("sent");
    assert!(
        ends(&mut idle, Duration::from_secs(10)),
        "an idle connection stays"
    );
    assert!(
        ends(&mut half, Duration::from_secs(10)),
        "half a query holds its connection"
    );
    wait_for("no connection left", || {
        (nodens.metric("nodens_tcp_connections", &[]) == 0.0).then_some(())
    });
}

#[test]
fn at_the_cap_the_longest_idle_connection_makes_room() {
    let server = upstream(&opened());
    let caps = "tcp: {max_connections: 3, max_connections_per_client: 3}\n";
    let nodens = Nodens::start(&format!("{caps}{}", patient(&server)));
    let query = |stream: &mut TcpStream| {
        let ask = Ask::new("fast.example.", rr::A);
        send_frame(stream, &ask.message())?;
        read_frame(stream)
    };
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        let mut stream = tcp_to(nodens.address()).expect("connects");
        query(&mut stream).expect("answered");
        streams.push(stream);
    }
    // The first one is no longer the longest idle.
    query(&mut streams[0]).expect("answered");
    let mut newcomer = tcp_to(nodens.address()).expect("connects");
    query(&mut newcomer).expect("the newcomer is answered");
    assert!(
        ends(&mut streams[1], Duration::from_secs(10)),
        "the longest idle one stays"
    );
    query(&mut streams[0]).expect("the others go on");
    query(&mut streams[2]).expect("the others go on");
    nodens.wait_for_metric("nodens_tcp_evicted_total", &[], 1.0);
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_and_costs_bounded_memory() {
    let server = upstream(&opened());
    let caps = "tcp: {max_unsent: 128KiB, idle_timeout: 500ms}\n";
    let nodens = Nodens::start(&format!("{caps}{}", patient(&server)));
    assert_address(&Ask::new("fast.example.", rr::A).send(nodens.address(), Over::Udp));
    let before = nodens.rss_bytes();
    let mut stream = tcp_to(nodens.address()).expect("connects");
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .expect("settable");
    let mut frame = Vec::new();
    let message = Ask::new("fast.example.", rr::A).message();
    frame.extend_from_slice(&u16::try_from(message.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&message);
    let many = frame.repeat(1000);
    let sent = (0..2000)
        .take_while(|_| stream.write_all(&many).is_ok())
        .count();
    assert!(sent < 2000, "it took {sent},000 queries without an end");
    let grown = nodens.rss_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}

#[test]
fn strangers_are_refused_but_not_for_ever() {
    let server = upstream(&opened());
    let nodens = Nodens::start(&format!(
        "allow: [127.0.0.2]\nudp: {{refused_per_second: 5}}\n{}",
        patient(&server)
    ));
    let client = udp_to(nodens.address()).expect("a socket");
    let asks: Vec<Ask> = (0..100)
        .map(|_| Ask::new("fast.example.", rr::A).payload(1232))
        .collect();
    for ask in &asks {
        client.send(&ask.message()).expect("sent");
    }
    nodens.wait_for_metric("nodens_dropped_total", &[("reason", "not_allowed")], 80.0);
    let reply = Message::read(&receive(&client).expect("a reply")).expect("well-formed");
    assert_eq!(reply.rcode(), rcode::REFUSED);
    let friend = UdpSocket::bind("127.0.0.2:0").expect("loopback is a /8");
    friend.connect(nodens.address()).expect("connects");
    friend
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("settable");
    friend
        .send(&Ask::new("fast.example.", rr::A).message())
        .expect("sent");
    assert_address(&Message::read(&receive(&friend).expect("a reply")).expect("well-formed"));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn queries_without_rd_neither_read_nor_fill_the_cache() {
    let server = upstream(&opened());
    let nodens = Nodens::start(&patient(&server));
    let recursive = Ask::new("fast.example.", rr::A);
    let direct = recursive.again().flags(0);
    for (ask, asked) in [
        (&direct, 1),
        (&direct, 2),
        (&recursive, 3),
        (&recursive, 3),
        (&direct, 4),
    ] {
        assert_address(&ask.again().send(nodens.address(), Over::Udp));
        assert_eq!(server.asked().len(), asked, "{ask:?}");
    }
    // RD went upstream as it came, and came back as it was asked.
    let rd = |query: &Vec<u8>| query[2] & 1;
    assert_eq!(
        server.asked().iter().map(rd).collect::<Vec<_>>(),
        [0, 0, 1, 0]
    );
}

#[test]
fn ad_goes_to_those_who_show_that_they_know_it() {
    let server = StandIn::new(|query, _| {
        let mut answer = response(query, &[record(rr::A, 300, &[192, 0, 2, 1])]);
        answer[3] |= 0x20;
        vec![answer]
    });
    let nodens = Nodens::start(&patient(&server));
    let plain = Ask::new("signed.example.", rr::A);
    for (name, ask, want) in [
        ("neither", plain.clone(), false),
        ("AD", plain.clone().flags(flag::RD | flag::AD), true),
        ("DO", plain.dnssec_ok(), true),
    ] {
        for turn in ["first", "cached"] {
            let reply = ask.again().send(nodens.address(), Over::Udp);
            assert_eq!(reply.has(flag::AD), want, "{name}, {turn}");
        }
    }
    assert!(
        server.asked().iter().all(|query| query[3] & 0x20 != 0),
        "AD is always set upstream"
    );
}

#[test]
fn names_of_the_configuration_and_questions_about_the_server_are_answered_here() {
    let server = upstream(&opened());
    let nodens = Nodens::start(&format!(
        "node_name: node-7\nrecords: {{gateway.internal: {{A: 10.0.0.1}}}}\n{}",
        patient(&server)
    ));
    let about = |name: &str| {
        let reply = Ask::new(name, rr::TXT)
            .class(rr::CLASS_CH)
            .send(nodens.address(), Over::Udp);
        let answers: Vec<_> = reply
            .section(Section::Answer)
            .map(|r| r.rdata[1..].to_vec())
            .collect();
        answers.concat()
    };
    assert_eq!(about("id.server."), b"node-7");
    assert_eq!(about("hostname.bind."), b"node-7");
    assert!(about("version.server.").starts_with(b"nodens "));
    for over in [Over::Udp, Over::Tcp] {
        let reply = Ask::new("Gateway.internal.", rr::A).send(nodens.address(), over);
        let answers: Vec<_> = reply
            .section(Section::Answer)
            .map(|r| r.rdata.clone())
            .collect();
        assert_eq!(answers, [[10, 0, 0, 1]]);
        let reverse = Ask::new("1.0.0.10.in-addr.arpa.", rr::PTR).send(nodens.address(), over);
        assert_eq!(reverse.count(Section::Answer), 1, "{reverse:?}");
        let nodata = Ask::new("gateway.internal.", rr::AAAA).send(nodens.address(), over);
        assert_eq!(
            (nodata.rcode(), nodata.count(Section::Answer)),
            (rcode::NOERROR, 0)
        );
    }
    assert!(
        server.asked().is_empty(),
        "none of it is anybody else's business"
    );
    assert_address(&Ask::new("other.internal.", rr::A).send(nodens.address(), Over::Udp));
}

#[test]
fn what_is_in_flight_is_answered_before_the_end() {
    let gate = Gate::default();
    let server = upstream(&gate);
    let nodens = Nodens::start(&patient(&server));
    let over_udp = udp_to(nodens.address()).expect("a socket");
    over_udp
        .send(&Ask::new("slow-1.example.", rr::A).message())
        .expect("sent");
    let mut over_tcp = tcp_to(nodens.address()).expect("connects");
    send_frame(&mut over_tcp, &Ask::new("slow-2.example.", rr::A).message()).expect("sent");
    wait_for("both in flight", || {
        (nodens.metric("nodens_in_flight", &[]) >= 2.0).then_some(())
    });
    let stopping = std::thread::spawn(move || nodens.terminate());
    std::thread::spawn(move || {
        // Not a guess at timing: whether the signal or the answer comes first, both clients must be answered.
        gate.open();
    });
    assert_address(&Message::read(&receive(&over_udp).expect("a reply")).expect("well-formed"));
    assert_address(
        &Message::read(&read_frame(&mut over_tcp).expect("a reply")).expect("well-formed"),
    );
    let (status, log) = stopping.join().expect("no panic");
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn the_end_does_not_wait_longer_than_the_grace() {
    let server = upstream(&Gate::default());
    let nodens = Nodens::start(&format!("shutdown_grace: 300ms\n{}", patient(&server)));
    let client = udp_to(nodens.address()).expect("a socket");
    client
        .send(&Ask::new("slow.example.", rr::A).message())
        .expect("sent");
    wait_for("it is in flight", || {
        (nodens.metric("nodens_in_flight", &[]) >= 1.0).then_some(())
    });
    let started = Instant::now();
    let (status, log) = nodens.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}\n{log}",
        started.elapsed()
    );
    let reply = Message::read(&receive(&client).expect("even then a reply")).expect("well-formed");
    assert_eq!(reply.rcode(), rcode::SERVFAIL);
}

#[test]
fn an_upstream_that_leads_back_to_us_is_switched_off() {
    let middle = free_address();
    let first = Nodens::start(&format!(
        "upstreams: {{loop: {{servers: [\"{middle}\"]}}}}\nroutes: {{\".\": loop}}\n"
    ));
    let second = Nodens::start_on(
        &[&middle.to_string()],
        &format!(
            "upstreams: {{back: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": back}}\n",
            first.address()
        ),
    );
    // The first one to check after both run finds out; which one that is does not matter.
    wait_for("one of them notices", || {
        let noticed = |nodens: &Nodens| nodens.get("/status").1.contains("\"looped\": true");
        (noticed(&first) || noticed(&second)).then_some(())
    });
}
