//! What odd input gets, asked of the real binary: queries that are none, responses that lie, configurations that
//! cannot be meant. docs/behaviour.md has it in a table; what mistakes in a configuration look like is checked in docs.rs.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use common::dns::{
    self, Ask, Message, Over, Section, failure, flag, header, opt, rcode, record, response, rr,
    wire_name,
};
use common::stand_in::StandIn;
use common::{
    Nodens, TempDir, free_address, free_sockets, nodens, nodens_with_files, run_to_its_end,
    serve_and_fail, wait_for,
};

const BOTH: [Over; 2] = [Over::Udp, Over::Tcp];

/// An upstream that gives every question one address.
fn willing() -> StandIn {
    StandIn::new(|query, _| vec![response(query, &[address(1)])])
}

/// 192.0.2.x as an A record for the name in the question.
fn address(last: u8) -> Vec<u8> {
    record(rr::A, 300, &[192, 0, 2, last])
}

/// A configuration with these servers, asked one after the other and never at once.
fn one_after_the_other(servers: &[String]) -> String {
    format!(
        "upstreams:\n  group:\n    servers: {servers:?}\n    try_timeout: 12s\n    deadline: 15s\n    \
         failover: {{start_fanout: 1, hedge_min: 10s, hedge_max: 10s}}\nroutes: {{\".\": group}}\n"
    )
}

fn in_front_of(server: &StandIn) -> Nodens {
    settled(&[server.address.to_string()])
}

/// Started, and all servers known to be good, so that the first of them is asked first.
fn settled(servers: &[String]) -> Nodens {
    let nodens = Nodens::start(&one_after_the_other(servers));
    for server in servers {
        let labels = [("server", server.as_str()), ("state", "good")];
        nodens.wait_for_metric("nodens_upstream_state", &labels, 1.0);
    }
    nodens
}

/// A query under [`ODD_ID`] and the response code it must get.
struct OddQuery {
    name: &'static str,
    bytes: Vec<u8>,
    rcode: u16,
}

const ODD_ID: u16 = 0x4f44;

const ONE: [u16; 4] = [1, 0, 0, 0];
const ONE_AND_OPT: [u16; 4] = [1, 0, 0, 1];

fn odd(name: &'static str, opcode: u16, counts: [u16; 4], body: &[u8], rcode: u16) -> OddQuery {
    let header = header(ODD_ID, opcode << 11 | flag::RD, counts);
    let bytes = [&header, body].concat();
    OddQuery { name, bytes, rcode }
}

/// What cannot be read: FORMERR.
fn unreadable() -> Vec<OddQuery> {
    let good = Ask::new("odd.example.", rr::A).question();
    let with = |rest: &[u8]| [&good, rest].concat();
    let named = |name: &[u8]| [name, &[0, 1, 0, 1]].concat();
    let opt = opt(1232, 0, false);
    let long = [&[63][..], &[b'a'; 63]].concat().repeat(3);
    let octets_256 = [&long[..], &[62], &[b'a'; 62], &[0]].concat();
    let octets_257 = [&long[..], &[63], &[b'a'; 63], &[0]].concat();
    let promised = [2, 0, 0, 0];
    let cases = [
        ("no question", [0; 4], vec![]),
        ("two questions", promised, with(&good)),
        ("QDCOUNT of two, one is there", promised, good.clone()),
        ("a promised question", ONE, vec![]),
        ("QNAME of 256 octets", ONE, named(&octets_256)),
        ("QNAME of 257 octets", ONE, named(&octets_257)),
        ("a pointer to itself as QNAME", ONE, named(&[0xc0, 12])),
        ("a pointer inside QNAME", ONE, named(b"\x03odd\xc0\x0c")),
        ("a label of a reserved kind", ONE, named(b"\x41odd\0")),
        ("cut off in a label", ONE, b"\x07odd".to_vec()),
        ("QNAME without its end", ONE, b"\x03odd".to_vec()),
        ("cut off before QTYPE", ONE, wire_name("odd.example.")),
        ("cut off in QCLASS", ONE, good[..good.len() - 1].to_vec()),
        ("ARCOUNT of one, none is there", ONE_AND_OPT, good.clone()),
        ("an OPT that is cut off", ONE_AND_OPT, with(&opt[..9])),
        ("two OPT", [1, 0, 0, 2], with(&opt.repeat(2))),
    ];
    let odd = |(name, counts, body): (_, _, Vec<u8>)| odd(name, 0, counts, &body, rcode::FORMERR);
    cases.into_iter().map(odd).collect()
}

/// What can be read but is not for a forwarder.
fn unwanted() -> Vec<OddQuery> {
    let refused = [
        ("AXFR", rr::AXFR, rr::CLASS_IN),
        ("IXFR", rr::IXFR, rr::CLASS_IN),
        ("class CHAOS, an unknown name", rr::TXT, rr::CLASS_CH),
        ("class HESIOD", rr::A, 4),
        ("class NONE", rr::A, 254),
        ("class ANY", rr::A, 255),
        ("class 0", rr::A, 0),
    ];
    let refused = refused.map(|(name, qtype, qclass)| {
        let question = Ask::new("odd.example.", qtype).class(qclass).question();
        odd(name, 0, ONE, &question, rcode::REFUSED)
    });
    let question = Ask::new("odd.example.", rr::A).question();
    let not_implemented = [
        ("IQUERY", 1),
        ("STATUS", 2),
        ("an opcode nobody assigned", 3),
        ("NOTIFY", 4),
        ("UPDATE", 5),
        ("the highest opcode", 15),
    ];
    let not_implemented =
        not_implemented.map(|(name, opcode)| odd(name, opcode, ONE, &question, rcode::NOTIMP));
    let bad_version = [("EDNS version 1", 1), ("EDNS version 255", 255)].map(|(name, version)| {
        let body = [&question[..], &opt(1232, version, true)].concat();
        odd(name, 0, ONE_AND_OPT, &body, rcode::BADVERS)
    });
    // The last record, of type 250 or 24, class ANY, TTL 0 (RFC 8945 §4.2, RFC 2931 §3); nobody reads its RDATA.
    let signed = [("TSIG", 250_u16), ("SIG(0)", 24)].map(|(name, rtype)| {
        let fixed = [0, 255, 0, 0, 0, 0, 0, 18];
        let record = [&[0], &rtype.to_be_bytes()[..], &fixed, &[0; 18]].concat();
        let body = [&question[..], &record].concat();
        odd(name, 0, ONE_AND_OPT, &body, rcode::NOTIMP)
    });
    refused
        .into_iter()
        .chain(signed)
        .chain(not_implemented)
        .chain(bad_version)
        .collect()
}

fn odd_queries() -> impl Iterator<Item = OddQuery> {
    unreadable().into_iter().chain(unwanted())
}

#[test]
fn odd_queries_get_their_error_with_id_and_opcode_kept() {
    let upstream = willing();
    let nodens = in_front_of(&upstream);
    for over in BOTH {
        for OddQuery { name, bytes, rcode } in odd_queries() {
            let reply = dns::exchange(nodens.address(), over, &bytes);
            let reply = reply.unwrap_or_else(|error| panic!("{name} over {over:?}: {error}"));
            let reply =
                Message::read(&reply).unwrap_or_else(|e| panic!("{name} over {over:?}: {e}"));
            let context = format!("{name} over {over:?}: {reply:?}");
            assert_eq!(reply.id, ODD_ID, "ID, {context}");
            assert!(reply.has(flag::QR), "QR, {context}");
            assert_eq!(
                reply.opcode(),
                u16::from(bytes[2] >> 3 & 0xf),
                "opcode, {context}"
            );
            assert_eq!(reply.rcode(), rcode, "RCODE, {context}");
            assert_eq!(reply.records.len(), 0, "records, {context}");
            if rcode == rcode::BADVERS {
                let version = reply.opt.as_ref().map(|opt| opt.version);
                assert_eq!(version, Some(0), "our own EDNS version, {context}");
            }
        }
    }
    assert_eq!(
        upstream.asked(),
        Vec::<Vec<u8>>::new(),
        "none of it reaches the upstream"
    );
}

#[test]
fn what_is_no_query_is_dropped_and_counted() {
    let upstream = willing();
    let nodens = in_front_of(&upstream);
    let mut answer = Ask::new("odd.example.", rr::A).message();
    answer[2] |= 0x80;
    let cases = [
        ("an empty datagram", vec![], "short"),
        ("one octet", vec![0], "short"),
        ("eleven octets", vec![0; 11], "short"),
        ("a response", answer, "not_a_query"),
        (
            "a header with QR=1 and no question",
            header(1, flag::QR, [0; 4]),
            "not_a_query",
        ),
        (
            "NOTIFY's response",
            header(1, flag::QR | 4 << 11, [0; 4]),
            "not_a_query",
        ),
    ];
    for (name, bytes, _) in &cases {
        let socket = dns::udp_to(nodens.address()).expect("a socket");
        socket.send(bytes).expect("a datagram leaves");
        let good = Ask::new("good.example.", rr::A);
        socket.send(&good.message()).expect("a datagram leaves");
        let reply = dns::receive(&socket).unwrap_or_else(|error| panic!("{name}: {error}"));
        let reply = Message::read(&reply).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            reply.id, good.id,
            "{name}: the first reply is the good query's: {reply:?}"
        );
        assert_eq!(reply.rcode(), rcode::NOERROR, "{name}: {reply:?}");
    }
    for reason in ["short", "not_a_query"] {
        let sent = cases
            .iter()
            .filter(|case| case.2 == reason)
            .map(|_| 1.0)
            .sum();
        nodens.wait_for_metric("nodens_dropped_total", &[("reason", reason)], sent);
    }
}

#[test]
fn one_odd_query_in_a_stream_does_not_spoil_the_next() {
    let upstream = willing();
    let nodens = in_front_of(&upstream);
    let mut stream = dns::tcp_to(nodens.address()).expect("a connection");
    for OddQuery { name, bytes, rcode } in odd_queries() {
        let good = Ask::new("good.example.", rr::A);
        // One after the other: replies to queries in flight together may change places (RFC 7766 §6.2.1.1).
        for (bytes, id, rcode) in [(&bytes, ODD_ID, rcode), (&good.message(), good.id, 0)] {
            dns::send_frame(&mut stream, bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            let reply = dns::read_frame(&mut stream).unwrap_or_else(|e| panic!("{name}: {e}"));
            let reply = Message::read(&reply).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((reply.id, reply.rcode()), (id, rcode), "{name}: {reply:?}");
        }
    }
}

#[test]
fn octets_after_a_querys_last_record_are_not_forwarded() {
    let upstream = willing();
    let nodens = in_front_of(&upstream);
    for (name, ask) in [
        ("plain.example.", Ask::new("plain.example.", rr::A)),
        (
            "edns.example.",
            Ask::new("edns.example.", rr::A).payload(1232),
        ),
    ] {
        for over in BOTH {
            let bytes = [ask.message(), b"and then some".to_vec()].concat();
            let reply = dns::exchange(nodens.address(), over, &bytes);
            let reply = reply.unwrap_or_else(|error| panic!("{name} {over:?}: {error}"));
            let reply = Message::read(&reply).unwrap_or_else(|e| panic!("{name} {over:?}: {e}"));
            assert_eq!(
                (reply.id, reply.rcode(), reply.trailing),
                (ask.id, 0, 0),
                "{name} {reply:?}"
            );
            assert_eq!(
                reply.count(Section::Answer),
                1,
                "{name} over {over:?}: {reply:?}"
            );
        }
        let question = ask.question();
        let asked = upstream
            .asked()
            .into_iter()
            .find(|q| q[12..].starts_with(&question));
        let asked = asked.unwrap_or_else(|| panic!("{name} was not forwarded"));
        let asked = Message::read(&asked).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(asked.trailing, 0, "{name}: {asked:?}");
    }
}

#[test]
fn octets_after_a_responses_last_record_are_not_forwarded() {
    let upstream = StandIn::new(|query, _| {
        vec![[response(query, &[address(1)]), b"and then some".to_vec()].concat()]
    });
    let nodens = in_front_of(&upstream);
    for way in ["first", "cached"] {
        for over in BOTH {
            let reply = Ask::new("long.example.", rr::A).send(nodens.address(), over);
            assert_eq!(
                (reply.count(Section::Answer), reply.trailing),
                (1, 0),
                "{way}: {reply:?}"
            );
        }
    }
}

#[test]
fn unknown_types_and_odd_rdata_arrive_byte_for_byte() {
    for (name, qtype, records) in [
        (
            "a type for private use",
            rr::PRIVATE,
            vec![record(rr::PRIVATE, 300, b"\x01\x02\x03")],
        ),
        (
            "RDATA that looks like pointers",
            rr::PRIVATE,
            vec![record(
                rr::PRIVATE,
                300,
                &[0xc0, 0xff, 0xc0, 0x0c, 0xff, 0xff],
            )],
        ),
        ("no RDATA", rr::PRIVATE, vec![record(rr::PRIVATE, 300, b"")]),
        (
            "an A record of five octets",
            rr::A,
            vec![record(rr::A, 300, &[1, 2, 3, 4, 5])],
        ),
        (
            "an A record of none",
            rr::A,
            vec![record(rr::A, 300, b""), address(1)],
        ),
        (
            "an AAAA record of four octets",
            rr::AAAA,
            vec![record(rr::AAAA, 300, &[1, 2, 3, 4])],
        ),
        (
            "a TXT whose string leaves its RDATA",
            rr::TXT,
            vec![record(rr::TXT, 300, b"\xff.")],
        ),
        (
            "an MX of one octet",
            rr::MX,
            vec![record(rr::MX, 300, b"\x00")],
        ),
        (
            "a type that nobody knows",
            rr::PRIVATE,
            vec![
                record(rr::PRIVATE, 300, b"x"),
                record(rr::PRIVATE, 300, b"y"),
            ],
        ),
        (
            "the same record twice",
            rr::TXT,
            vec![record(rr::TXT, 300, b"\x01a"); 2],
        ),
    ] {
        let flags = flag::AA | flag::RA;
        let upstream = StandIn::new(move |query, _| {
            let mut message = response(query, &records);
            message[2] |= (flags >> 8).to_be_bytes()[1];
            message[3] |= flags.to_be_bytes()[1];
            vec![message]
        });
        let nodens = in_front_of(&upstream);
        for (turn, over) in BOTH.into_iter().enumerate() {
            let ask = Ask::new("type.example.", qtype);
            let reply = dns::exchange(nodens.address(), over, &ask.message());
            let mut reply = reply.unwrap_or_else(|error| panic!("{name} over {over:?}: {error}"));
            let asked = upstream.asked();
            assert_eq!(asked.len(), 1, "{name}: asked once, then cached");
            // What the upstream would have sent to this client; the age of TTLs apart.
            let mut want = upstream.answer(&ask.message(), over).remove(0);
            // No more than the first reply, which is the upstream's own, is authoritative.
            if turn > 0 {
                want[2] &= !flag::AA.to_be_bytes()[0];
            }
            let start = dns::question_end(&want);
            for message in [&mut reply, &mut want] {
                clear_ttls(message, start);
            }
            assert_eq!(reply, want, "{name} over {over:?}");
        }
    }
}

/// Sets the TTL of every record to 0; owners must be pointers, as `record` makes them.
fn clear_ttls(message: &mut [u8], mut at: usize) {
    while at < message.len() {
        message[at + 6..at + 10].fill(0);
        at += 12 + usize::from(dns::u16_at(message, at + 10).expect("a whole record"));
    }
}

/// Responses with the right ID and question whose rest lies.
fn lies(query: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let honest = response(query, &[address(66)]);
    let answer = dns::question_end(&honest);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = honest.clone();
        change(&mut message);
        message
    };
    let pointer = |target: usize| (0xc000 | u16::try_from(target).expect("small")).to_be_bytes();
    let owned_by = |owner: &[u8]| {
        let mut message = honest[..answer].to_vec();
        message.extend_from_slice(owner);
        message.extend_from_slice(&honest[answer + 2..]);
        message
    };
    let label = [&[63][..], &[b'a'; 63]].concat();
    let without_question = [&honest[..4], &[0, 0], &honest[6..12], &honest[answer..]].concat();
    vec![
        ("no question", without_question),
        ("ANCOUNT one too high", changed(&|m| m[7] = 2)),
        ("ANCOUNT of 65,535", changed(&|m| m[6..8].fill(0xff))),
        ("NSCOUNT without records", changed(&|m| m[9] = 1)),
        ("ARCOUNT without records", changed(&|m| m[11] = 1)),
        (
            "RDLENGTH beyond the end",
            changed(&|m| m[answer + 11] = 200),
        ),
        ("cut off in RDATA", changed(&|m| m.truncate(m.len() - 1))),
        (
            "cut off in the fixed part",
            changed(&|m| m.truncate(answer + 7)),
        ),
        ("an owner that points to itself", owned_by(&pointer(answer))),
        (
            "an owner that points forward",
            owned_by(&pointer(answer + 4)),
        ),
        (
            "an owner that points beyond the end",
            owned_by(&pointer(16_000)),
        ),
        (
            "an owner that points into the header",
            owned_by(&pointer(4)),
        ),
        (
            "an owner that points to its own start",
            owned_by(&[b"\x01a", &pointer(answer)[..]].concat()),
        ),
        (
            "an owner of over 255 octets",
            owned_by(&[label.repeat(4), vec![0]].concat()),
        ),
        ("an owner of a reserved kind of label", owned_by(&[0x80, 0])),
        (
            "an owner without an end",
            [&honest[..answer], &[63]].concat(),
        ),
    ]
}

#[test]
fn responses_that_lie_are_malformed_and_the_next_server_is_asked() {
    let names: Vec<_> = lies(&Ask::new("x.", rr::A).message())
        .iter()
        .map(|(name, _)| *name)
        .collect();
    for (index, name) in names.into_iter().enumerate() {
        for (scheme, over) in [("", Over::Udp), ("tcp://", Over::Tcp)] {
            let liar = StandIn::new(move |query, _| vec![lies(query).swap_remove(index).1]);
            let honest = willing();
            let label = format!("{scheme}{}", liar.address);
            let servers = [label.clone(), format!("{scheme}{}", honest.address)];
            let nodens = settled(&servers);
            let started = Instant::now();
            let reply = Ask::new("lied.example.", rr::A).send(nodens.address(), Over::Udp);
            let context = format!("{name} over {over:?}: {reply:?}");
            assert_eq!(reply.rcode(), rcode::NOERROR, "{context}");
            let answer: Vec<_> = reply
                .section(Section::Answer)
                .map(|r| r.rdata.clone())
                .collect();
            assert_eq!(answer, [[192, 0, 2, 1]], "{context}");
            // The lie ends the try; nobody waits for try_timeout.
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "took too long: {context}"
            );
            // The same without EDNS, which some servers cannot bear; and no further.
            assert_eq!(liar.asked().len(), 2, "the liar was asked: {context}");
            let labels = [("server", label.as_str()), ("outcome", "malformed")];
            nodens.wait_for_metric("nodens_upstream_tries_total", &labels, 1.0);
        }
    }
}

#[test]
fn with_liars_only_the_client_hears_servfail() {
    let liar = StandIn::new(|query, _| vec![lies(query).swap_remove(0).1]);
    let nodens = in_front_of(&liar);
    for over in BOTH {
        let reply = Ask::new("lied.example.", rr::A).send(nodens.address(), over);
        assert_eq!(reply.rcode(), rcode::SERVFAIL, "{over:?}: {reply:?}");
    }
}

/// What somebody who guesses, or a server gone mad, might send before the true answer.
fn distractions(query: &[u8]) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let forged = response(query, &[address(66)]);
    let end = dns::question_end(&forged);
    let changed = |at: usize, with: u8| {
        let mut message = forged.clone();
        message[at] ^= with;
        message
    };
    let other_name = {
        let mut message = forged.clone();
        message[13] = b'X';
        message
    };
    vec![
        ("another ID", "id", changed(1, 1)),
        ("another QNAME", "question", other_name),
        ("another QTYPE", "question", changed(end - 3, 2)),
        ("another QCLASS", "question", changed(end - 1, 2)),
        ("the query itself", "not_a_response", query.to_vec()),
        ("nothing", "id", vec![]),
        ("eleven octets", "not_a_response", forged[..11].to_vec()),
    ]
}

#[test]
fn what_does_not_match_is_ignored_and_the_true_answer_still_counts() {
    let count = distractions(&Ask::new("x.", rr::A).message()).len();
    for index in 0..count {
        let upstream = StandIn::new(move |query, _| {
            let distraction = distractions(query).swap_remove(index).2;
            vec![
                distraction.clone(),
                distraction,
                response(query, &[address(1)]),
            ]
        });
        let nodens = in_front_of(&upstream);
        let ask = Ask::new("true.example.", rr::A);
        let (name, reason, _) = distractions(&ask.message()).swap_remove(index);
        let reply = ask.send(nodens.address(), Over::Udp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{name}: {reply:?}");
        let answer: Vec<_> = reply
            .section(Section::Answer)
            .map(|r| r.rdata.clone())
            .collect();
        assert_eq!(answer, [[192, 0, 2, 1]], "{name}: {reply:?}");
        let labels = [("reason", reason)];
        nodens.wait_for_metric("nodens_upstream_mismatched_total", &labels, 2.0);
        assert_eq!(
            upstream.asked().len(),
            1,
            "{name}: the wait goes on, nothing is sent again"
        );
    }
}

#[test]
fn an_answer_with_another_id_or_question_is_never_believed() {
    for index in 0..4 {
        let upstream = StandIn::new(move |query, _| vec![distractions(query).swap_remove(index).2]);
        let config = format!(
            "upstreams: {{group: {{servers: [\"{}\"], try_timeout: 200ms, deadline: 400ms}}}}\n\
             routes: {{\".\": group}}\n",
            upstream.address
        );
        let nodens = Nodens::start(&config);
        let ask = Ask::new("false.example.", rr::A);
        let (name, ..) = distractions(&ask.message()).swap_remove(index);
        let reply = ask.send(nodens.address(), Over::Udp);
        assert_eq!(reply.rcode(), rcode::SERVFAIL, "{name}: {reply:?}");
        assert_eq!(reply.count(Section::Answer), 0, "{name}: {reply:?}");
    }
}

#[test]
fn errors_of_one_server_are_not_the_clients() {
    for (name, code) in [
        ("SERVFAIL", rcode::SERVFAIL),
        ("REFUSED", rcode::REFUSED),
        ("NOTIMP", rcode::NOTIMP),
        ("FORMERR", rcode::FORMERR),
    ] {
        let broken = StandIn::new(move |query, _| vec![failure(query, code)]);
        let sound = willing();
        let servers = [broken.address.to_string(), sound.address.to_string()];
        let nodens = settled(&servers);
        let reply = Ask::new("moved.example.", rr::A).send(nodens.address(), Over::Udp);
        assert_eq!(
            (reply.rcode(), reply.count(Section::Answer)),
            (0, 1),
            "{name}: {reply:?}"
        );
    }
}

/// What a bad configuration's errors must say beside the file's name; each item on one line.
type Wanted = &'static [&'static [&'static str]];

const GOOD: &str = "upstreams: {vpc: {servers: [127.0.0.1]}}\n";

#[test]
fn configurations_that_cannot_be_meant_end_it_with_2_and_say_what_to_write() {
    let cases: [(&str, &str, Wanted); 14] = [
        ("empty", "", &[&["empty", "listen"]]),
        (
            "comments only",
            "# listen: [127.0.0.1:53]\n",
            &[&["empty", "listen"]],
        ),
        (
            "not YAML",
            "listen: [127.0.0.1:53\nadmin: }",
            &[&["not YAML"]],
        ),
        (
            "a tab",
            "cache:\n\tmax_size: 1MiB\n",
            &[&[":2:", "tab", "spaces"]],
        ),
        ("a list", "- listen\n", &[&["a list", "upstreams"]]),
        (
            "an unknown key",
            "upstreem: {}\n",
            &[&["upstreem", "upstreams"]],
        ),
        (
            "an unknown key inside a group",
            "upstreams: {vpc: {servers: [127.0.0.1], try_timout: 1s}}\n",
            &[&["upstreams.vpc.try_timout", "try_timeout"]],
        ),
        (
            "a group without servers",
            "upstreams: {vpc: {}}\n",
            &[&["upstreams.vpc", "servers: ["]],
        ),
        (
            "a group with no server in its list",
            "upstreams: {vpc: {servers: []}}\n",
            &[&["upstreams.vpc", "servers: ["]],
        ),
        (
            "a route to no group",
            "upstreams: {vpc: {servers: [127.0.0.1]}}\nroutes: {example.com: vcp}\n",
            &[&["example.com", "vcp", "did you mean vpc"]],
        ),
        (
            "a host name as server",
            "upstreams: {vpc: {servers: [dns.example.com]}}\n",
            &[&["upstreams.vpc.servers", "dns.example.com", "IP address"]],
        ),
        (
            "a value over its limit",
            "cache: {max_ttl: 9d}\n",
            &[&["cache.max_ttl", "9d", "7d"]],
        ),
        (
            "a number without its unit",
            "shutdown_grace: 10\n",
            &[&["shutdown_grace", "10s"]],
        ),
        (
            "all at once",
            "upstreams:\n  vpc: {servers: []}\n  dns: {servers: [1.2.3]}\nroutes: {\".\": vcp}\n\
             listne: []\ncache: {max_size: lots}\n",
            &[
                &[":2:", "upstreams.vpc"],
                &[":3:", "upstreams.dns.servers", "1.2.3"],
                &[":4:", "routes", "vcp", "vpc"],
                &[":5:", "listne", "listen"],
                &[":6:", "cache.max_size", "lots"],
            ],
        ),
    ];
    for (name, yaml, wanted) in cases {
        let dir = TempDir::new();
        let file = dir.write("nodens.yaml", yaml);
        let output = serve_and_fail(&file);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {errors}");
        for words in wanted {
            let file = file.display().to_string();
            let said = errors
                .lines()
                .any(|line| line.contains(&file) && words.iter().all(|word| line.contains(word)));
            assert!(
                said,
                "{name}: no line with {file} and {words:?} in:\n{errors}"
            );
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_ends_it_with_2() {
    let dir = TempDir::new();
    let file = dir.path("nodens.yaml");
    let output = serve_and_fail(&file);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for word in [
        file.display().to_string().as_str(),
        "no such file",
        "--config",
    ] {
        assert!(errors.contains(word), "no {word:?} in:\n{errors}");
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_error_to_tell() {
    for words in [&["schema"][..], &["man"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = nodens();
        let output = command.args(words).stdout(writer).output();
        let said = output.expect("the binary runs").stderr;
        assert_eq!(String::from_utf8_lossy(&said), "", "{words:?}");
    }
}

#[test]
fn a_log_filter_that_is_none_is_named_with_its_variable() {
    let mut command = nodens();
    command
        .args([
            "serve",
            "--set",
            "listen=127.0.0.1:0",
            "--set",
            "admin=null",
        ])
        .env("RUST_LOG", "nodens=loud");
    let output = run_to_its_end(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let expected = "RUST_LOG: \"nodens=loud\" is not a level such as info";
    assert!(said.contains(expected), "{said}");
}

/// Runs `nodens serve`, which must refuse to start because of all these keys and addresses. Returns the directory that
/// DIR stands for in `config`.
fn refuse_to_start(name: &str, config: &str, taken: &[(&str, String)]) -> TempDir {
    let dir = TempDir::new();
    let config = config.replace("DIR", &dir.path("").display().to_string());
    let file = dir.write("nodens.yaml", &format!("{config}\n{GOOD}"));
    let output = serve_and_fail(&file);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{name}: {errors}");
    for (key, value) in taken {
        let said = errors.lines().any(|line| {
            [key, value.as_str(), "in use"]
                .iter()
                .all(|word| line.contains(word))
        });
        assert!(
            said,
            "{name}: no word of {key} {value} in use in:\n{errors}"
        );
    }
    dir
}

#[test]
fn a_listen_address_in_use_ends_it_with_2() {
    let free = free_address();
    let ((udp, _), (_, tcp)) = (free_sockets(), free_sockets());
    let by_udp = udp.local_addr().expect("it is bound");
    let by_tcp = tcp.local_addr().expect("it is bound");
    for (name, listen, taken) in [
        ("held over UDP", vec![by_udp], vec![by_udp]),
        ("held over TCP", vec![by_tcp], vec![by_tcp]),
        (
            "all at once",
            vec![free, by_udp, by_tcp],
            vec![by_udp, by_tcp],
        ),
    ] {
        let listen: Vec<_> = listen.iter().map(SocketAddr::to_string).collect();
        let taken: Vec<_> = taken
            .iter()
            .map(|address| ("listen", address.to_string()))
            .collect();
        let config = format!("listen: {listen:?}\nadmin: \"127.0.0.1:0\"\nsocket: DIR/nodens.sock");
        let dir = refuse_to_start(name, &config, &taken);
        let socket = dir.path("nodens.sock");
        assert!(
            fs::symlink_metadata(&socket).is_err(),
            "{name}: something was started"
        );
    }
}

#[test]
fn signals_that_come_together_are_one() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = StandIn::new(move |query, _| {
        // An error once the test is over.
        let _ = released.lock().expect("nobody panics with it").recv();
        vec![response(query, &[address(1)])]
    });
    let servers = [upstream.address.to_string()];
    let nodens = Nodens::start(&one_after_the_other(&servers));
    let socket = dns::udp_to(nodens.address()).expect("a socket");
    let waits = Ask::new("waits.example.", rr::A).message();
    socket.send(&waits).expect("sent");
    nodens.wait_for_metric("nodens_in_flight", &[], 1.0);
    let both = format!("kill -TERM {0}; kill -TERM {0}", nodens.id());
    let sent = Command::new("sh").args(["-c", &both]).status();
    assert!(sent.expect("sh runs").success());
    nodens.wait_for_log("stopping");
    release.send(()).expect("the server waits for it");
    let reply = Message::read(&dns::receive(&socket).expect("a reply")).expect("well-formed");
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    wait_for("its end", || {
        dns::exchange(nodens.address(), Over::Tcp, &waits)
            .is_err()
            .then_some(())
    });
    nodens.wait_for_log("stopped");
    assert!(!nodens.log().contains("at once"), "{}", nodens.log());
}

/// Ends with 2 for want of files; returns how many it says are needed.
fn files_needed(limit: u32, config: &Path) -> Option<u32> {
    let mut command = nodens_with_files(limit);
    command.args(["serve", "--config"]).arg(config);
    let output = run_to_its_end(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{limit} files: {errors}");
    assert!(errors.contains("ulimit -n"), "{limit} files: {errors}");
    let (before, _) = errors.split_once(" are needed at least")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[test]
fn with_too_few_files_it_ends_with_2_and_with_what_it_says_it_needs_it_serves() {
    let upstream = willing();
    let workers = format!(
        "workers: 2\n{}",
        one_after_the_other(&[upstream.address.to_string()])
    );
    let dir = TempDir::new();
    let socket = dir.path("nodens.sock").display().to_string();
    let addresses = "listen: [\"127.0.0.1:0\"]\nadmin: \"127.0.0.1:0\"";
    let config = dir.write(
        "nodens.yaml",
        &format!("{addresses}\nsocket: {socket}\n{workers}"),
    );
    let needed: Vec<_> = (11..22)
        .filter_map(|limit| files_needed(limit, &config))
        .collect();
    let most = *needed
        .last()
        .expect("21 files are enough for its sockets, and for no more");
    files_needed(most - 1, &config).expect("it says so of one less, too");

    let nodens = Nodens::start_with_files(most, &workers);
    for over in BOTH {
        let answer = Ask::new("few.example.", rr::A).send(nodens.address(), over);
        assert_eq!(answer.rcode(), rcode::NOERROR, "{over:?}");
    }
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let upstream = willing();
    let first = in_front_of(&upstream);
    let socket = first.path("nodens.sock").display().to_string();
    let admin = first.admin.expect("it was configured").to_string();
    let config = format!(
        "listen: [\"{}\"]\nadmin: \"{admin}\"\nsocket: {socket}",
        first.address()
    );
    let taken = [
        ("listen", first.address().to_string()),
        ("admin", admin),
        ("socket", socket),
    ];
    refuse_to_start("a second nodens", &config, &taken);
    // More often than there are workers, each of which has a socket of its own.
    for _ in 0..20 {
        let reply = Ask::new("still.example.", rr::A).send(first.address(), Over::Udp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    }
    assert_eq!(
        first.get("/ready").0,
        200,
        "its Unix socket is still its own"
    );
}
