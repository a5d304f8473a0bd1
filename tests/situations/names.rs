//! The longest names, address types without a SOA, and queries that are signed.

use crate::client::{ask, in_front_of, question, says, settled};
use crate::common::dns::{self, Over, question_end, rcode, receive, u16_at, udp_to, wire_name};
use crate::common::wait_for;
use crate::server::{Query, Server};
use crate::wire::extended_errors;

/// A name of so many octets in wire format, of labels as long as they may be.
fn name_of(octets: usize) -> String {
    let mut name = String::new();
    let mut left = octets - 1;
    while left > 0 {
        // A single octet would be a label of none.
        let label = (left - 1).min(if left == 65 { 62 } else { 63 });
        name.push_str(&"a".repeat(label));
        name.push('.');
        left -= label + 1;
    }
    assert_eq!(wire_name(&name).len(), octets);
    name
}

/// An address whose owner is a pointer to `offset`.
fn owned_by_pointer(before: &[u8], offset: usize) -> Vec<u8> {
    let pointer = 0xc000 | u16::try_from(offset).expect("small");
    let rest = [0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1];
    [before, &pointer.to_be_bytes(), &rest].concat()
}

#[test]
fn the_longest_name_with_a_compressed_owner_is_answered() {
    let server = Server::start(|q: &Query| q.says("NOERROR").raw(owned_by_pointer(&[], 12)));
    let nodens = in_front_of(&server);
    for octets in [253, 254, 255] {
        let text = format!("{} A", name_of(octets));
        for over in crate::client::BOTH {
            let reply = ask(&nodens, &text, over);
            assert_eq!(
                reply.gist(),
                "NOERROR 192.0.2.1",
                "{octets} octets over {over:?}"
            );
        }
    }
}

#[test]
fn the_longest_name_with_an_owner_compressed_after_its_first_label_is_answered() {
    let server = Server::start(|q: &Query| {
        let second = 12 + 1 + usize::from(q.bytes[12]);
        q.says("NOERROR")
            .raw(owned_by_pointer(&q.bytes[12..second], second))
    });
    let nodens = in_front_of(&server);
    for octets in [253, 254, 255] {
        let text = format!("{} A", name_of(octets));
        assert_eq!(says(&nodens, &text), "NOERROR 192.0.2.1", "{octets} octets");
    }
}

/// RFC 3597 §4: Go and c-ares refuse an answer in which the target of SRV is compressed, as some routers give it.
#[test]
fn a_compressed_target_of_srv_is_written_out() {
    let server = Server::start(|q: &Query| {
        let target = [&b"\x04host"[..], &[0xc0, 12]].concat();
        let length = u8::try_from(6 + target.len()).expect("short");
        let fixed = [0xc0, 12, 0, 33, 0, 1, 0, 0, 1, 44, 0, length];
        q.says("NOERROR")
            .raw([&fixed[..], &[0, 1, 0, 2, 0, 80], &target].concat())
    });
    let nodens = in_front_of(&server);
    let query = question("web.corp. SRV").message();
    let written_out = b"\x04host\x03web\x04corp\0";
    for turn in ["first", "cached"] {
        let client = udp_to(nodens.address()).expect("a socket");
        client.send(&query).expect("sent");
        let reply = receive(&client).expect("a reply");
        assert!(
            reply.ends_with(written_out),
            "{turn}: {}",
            reply.escape_ascii()
        );
    }
    assert_eq!(server.asked_for("web.corp. SRV"), 1);
}

#[test]
fn an_alias_to_the_longest_name_is_answered() {
    let server = Server::start(|q: &Query| {
        let target = name_of(255);
        q.says("NOERROR")
            .answer(&format!("@ 300 CNAME {target}"))
            .raw(owned_by_pointer(&[], question_end(&q.bytes) + 12))
    });
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, "www.corp. A"), "NOERROR 192.0.2.1 CNAME");
}

#[test]
fn an_owner_that_expands_to_more_than_255_octets_is_no_answer() {
    let server = Server::start(|q: &Query| q.says("NOERROR").raw(owned_by_pointer(b"\x01x", 12)));
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, &format!("{} A", name_of(254))), "SERVFAIL");
}

/// One address type of a name exists, the other is empty, and nothing tells for how long; then the server stops.
fn both_types_outlive_the_server(exists: &'static str, empty: &'static str, address: &'static str) {
    let mut server = Server::start(move |q: &Query| {
        if q.is(exists) {
            let (_, rtype) = exists.split_once(' ').expect("a type");
            q.says("NOERROR").answer(&format!("@ 1 {rtype} {address}"))
        } else {
            q.says("NOERROR")
        }
    });
    let nodens = in_front_of(&server);
    let address = format!("NOERROR {address}");
    assert_eq!(says(&nodens, exists), address);
    assert_eq!(says(&nodens, empty), "NOERROR");
    server.stops();
    wait_for("the address to be stale", || {
        let reply = ask(&nodens, exists, Over::Udp);
        assert_eq!(reply.gist(), address);
        // TTL 1 while it is fresh, 30 when it is stale.
        (reply.message.records[0].ttl > 1).then_some(())
    });
    for over in crate::client::BOTH {
        let reply = ask(&nodens, empty, over);
        assert_eq!(reply.gist(), "NOERROR", "{empty} over {over:?}");
    }
}

#[test]
fn an_empty_aaaa_without_soa_is_there_as_long_as_its_stale_a() {
    both_types_outlive_the_server("v4.corp. A", "v4.corp. AAAA", "192.0.2.1");
}

#[test]
fn an_empty_a_without_soa_is_there_as_long_as_its_stale_aaaa() {
    both_types_outlive_the_server("v6.corp. AAAA", "v6.corp. A", "2001:db8::1");
}

#[test]
fn an_expired_empty_aaaa_is_served_beside_its_stale_a_however_old_it_is() {
    let server = Server::start(|q: &Query| {
        if q.is("v4.corp. A") {
            q.says("NOERROR").answer("@ 1 A 192.0.2.1")
        } else {
            q.says("NOERROR").authority("corp. 1 SOA 1")
        }
    });
    let yaml = format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\n\
         cache: {{stale: {{max_negative_age: 0s}}}}\n",
        server.address
    );
    let nodens = settled(&yaml, &[server.over("")]);
    // Its A is not known, or its type is no address.
    let alone = ["v4.corp. TXT", "v6.corp. AAAA"];
    for text in ["v4.corp. AAAA", alone[0], alone[1]] {
        assert_eq!(says(&nodens, text), "NOERROR");
    }
    assert_eq!(says(&nodens, "v4.corp. A"), "NOERROR 192.0.2.1");
    server.now_says(|q| q.says("REFUSED"));
    for text in alone {
        wait_for("the end of an empty answer", || {
            (says(&nodens, text) == "REFUSED").then_some(())
        });
    }
    wait_for("an attempt to refresh", || {
        assert_eq!(says(&nodens, "v4.corp. AAAA"), "NOERROR");
        (server.asked_for("v4.corp. AAAA") > 1).then_some(())
    });
    assert_eq!(says(&nodens, "v4.corp. AAAA"), "NOERROR");
}

/// TSIG (RFC 8945 §4.2) for a message with this ID, by a key nobody here has; the MAC is made up.
fn tsig(id: u16, mac: u8) -> Vec<u8> {
    let algorithm = wire_name("hmac-sha256.");
    let rdata = [
        &algorithm[..],
        &[0, 0, 0x66, 0, 0, 0, 1, 44, 0, 32],
        &[mac; 32],
        &id.to_be_bytes(),
        &[0, 0, 0, 0],
    ]
    .concat();
    let length = u16::try_from(rdata.len()).expect("short").to_be_bytes();
    let fixed = [0, 250, 0, 255, 0, 0, 0, 0];
    [&wire_name("key.corp.")[..], &fixed, &length, &rdata].concat()
}

/// SIG(0) (RFC 2931 §3): the same by a public key.
fn sig0(_id: u16, signature: u8) -> Vec<u8> {
    let rdata = [
        &[0, 0, 13, 0, 0, 0, 0, 0][..],
        &[0x66, 0, 0, 0, 0x65, 0, 0, 0, 0, 9],
        &wire_name("key.corp."),
        &[signature; 64],
    ]
    .concat();
    let length = u16::try_from(rdata.len()).expect("short").to_be_bytes();
    [&[0, 0, 24, 0, 255, 0, 0, 0, 0][..], &length, &rdata].concat()
}

/// A signed query is either forwarded as it is, its signed response coming back as it is and never from the cache, or
/// it is not implemented here, which the client hears with a reason.
fn signed_queries(sign: fn(u16, u8) -> Vec<u8>) {
    let server = Server::start(move |q: &Query| {
        let mut message = q.says("NOERROR").answer("@ 300 A 192.0.2.1").bytes();
        let id = u16_at(&q.bytes, 0).expect("a header");
        message[11] += 1;
        message.extend(sign(id, 0xaa));
        message
    });
    let nodens = in_front_of(&server);
    for edns in [true, false] {
        let plain = question(&format!("signed-{edns}.corp. A"));
        let plain = if edns { plain.payload(1232) } else { plain };
        let mut query = plain.message();
        query[11] += 1;
        query.extend(sign(plain.id, 0x55));
        for (turn, over) in crate::client::BOTH.into_iter().enumerate() {
            let before = server.count();
            let reply = dns::exchange(nodens.address(), over, &query).expect("a reply");
            let message = dns::Message::read(&reply).expect("well-formed");
            if message.rcode() == rcode::NOTIMP {
                assert_eq!(server.count(), before, "nobody is asked");
                let explained = !extended_errors(&message).is_empty();
                assert_eq!(
                    explained, edns,
                    "EDE where the client has EDNS: {message:?}"
                );
                continue;
            }
            let context = format!("turn {turn} over {over:?}: {message:?}");
            let asked = server.asked();
            assert_eq!(asked.len(), before + 1, "never from the cache, {context}");
            let (sent, arrived) = (&query[2..], &asked[before].bytes[2..]);
            assert_eq!(
                sent, arrived,
                "forwarded unchanged but for its ID, {context}"
            );
            let signature = &message.records.last().expect("records").rtype;
            assert!(
                [24, 250].contains(signature),
                "the reply is signed, {context}"
            );
            let made_up = reply.windows(32).any(|octets| octets == [0xaa; 32]);
            assert!(made_up, "by the server and not by us, {context}");
        }
    }
    // What is not signed is as always.
    assert_eq!(
        says(&nodens, "plain.corp. A").split(' ').next(),
        Some("NOERROR")
    );
}

#[test]
fn a_tsig_signed_query_is_forwarded_unchanged_or_not_implemented() {
    signed_queries(tsig);
}

#[test]
fn a_sig0_signed_query_is_forwarded_unchanged_or_not_implemented() {
    signed_queries(sig0);
}
