//! Responses, read: their kind, TTLs and order, what is taken out of them, and damaged ones.

use super::*;
use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};
use hickory_proto::rr::{Name, RData, Record as Rr, RecordType};

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

fn response(qtype: RecordType, answers: &[(&str, u32, RData)]) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(name("www.example.com."), qtype));
    for (owner, ttl, data) in answers {
        message.add_answer(Rr::from_rdata(name(owner), *ttl, data.clone()));
    }
    message
}

fn soa(minimum: u32) -> RData {
    RData::SOA(SOA::new(
        name("ns.example.com."),
        name("root.example.com."),
        1,
        2,
        3,
        4,
        minimum,
    ))
}

fn read(message: &Message) -> Response {
    Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
}

fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

#[test]
fn kinds_and_lifetimes() {
    let www = "www.example.com.";
    let alias = || RData::CNAME(CNAME(name("edge.example.net.")));
    let authority = |mut message: Message, ttl, data| {
        message.add_authority(Rr::from_rdata(name("example.com."), ttl, data));
        message
    };
    let coded = |mut message: Message, code| {
        message.metadata.response_code = code;
        message
    };
    let empty = || response(RecordType::A, &[]);
    let chain = || response(RecordType::A, &[(www, 30, alias())]);
    for (case, message, want) in [
        (
            "the smallest TTL counts",
            response(
                RecordType::A,
                &[(www, 30, alias()), ("edge.example.net.", 20, a(1))],
            ),
            (Kind::Positive, Some(20)),
        ),
        (
            "an alias out of the server's zones",
            chain(),
            (Kind::Positive, Some(30)),
        ),
        (
            "an alias to nothing",
            authority(chain(), 60, soa(10)),
            (Kind::Negative, Some(10)),
        ),
        (
            "NODATA",
            authority(empty(), 60, soa(90)),
            (Kind::Negative, Some(60)),
        ),
        ("NODATA without SOA", empty(), (Kind::Negative, Some(30))),
        (
            "an authoritative server's name servers alone",
            {
                let mut message = authority(empty(), 20, RData::NS(NS(name("ns.example.com."))));
                message.metadata.authoritative = true;
                message
            },
            (Kind::Negative, Some(20)),
        ),
        (
            "NXDOMAIN",
            authority(coded(empty(), ResponseCode::NXDomain), 900, soa(300)),
            (Kind::Negative, Some(300)),
        ),
        (
            "NXDOMAIN without SOA",
            coded(empty(), ResponseCode::NXDomain),
            (Kind::Negative, Some(5)),
        ),
        (
            "a referral",
            authority(empty(), 60, RData::NS(NS(name("ns.example.com.")))),
            (Kind::Referral, None),
        ),
        (
            "SERVFAIL",
            coded(empty(), ResponseCode::ServFail),
            (Kind::Failure, None),
        ),
        (
            "a TTL with the top bit set",
            response(RecordType::A, &[(www, 1 << 31, a(1))]),
            (Kind::Positive, Some(0)),
        ),
    ] {
        let response = read(&message);
        assert_eq!((response.kind(), response.ttl()), want, "{case}");
    }
}

fn ttls(response: &Response) -> Vec<u32> {
    let view = response.view();
    let ttl = |index| wire::u32_at(view.message(), view.ttl_at(index)).expect("inside");
    (0..view.ttl_count()).map(ttl).collect()
}

#[test]
fn time_in_caches_is_taken_off_every_ttl_but_that_of_opt() {
    let www = "www.example.com.";
    let mut message = response(RecordType::A, &[(www, 300, a(1))]);
    message.add_authority(Rr::from_rdata(name("example.com."), 40, soa(300)));
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    for (seconds, want) in [(0, [300, 40]), (100, [200, 0]), (u32::MAX, [0, 0])] {
        let mut bytes = message.to_vec().expect("encodes");
        grow_older(&mut bytes, seconds);
        let older = Message::from_vec(&bytes).expect("still well-formed");
        let records = older.answers.iter().chain(&older.authorities);
        let ttls: Vec<_> = records.map(|record| record.ttl).collect();
        assert_eq!(ttls, want, "{seconds}");
        let kept = older.edns.is_some_and(|edns| edns.flags().dnssec_ok);
        assert!(kept, "{seconds}");
    }
    // What lies about its records stays as it is.
    let mut cut = message.to_vec().expect("encodes");
    cut.truncate(40);
    let before = cut.clone();
    grow_older(&mut cut, 1);
    assert_eq!(cut, before);
}

#[test]
fn records_of_one_set_get_the_lowest_of_their_ttls() {
    let (www, edge) = ("www.example.com.", "edge.example.net.");
    let alias = || RData::CNAME(CNAME(name(edge)));
    for (case, answers, want) in [
        (
            "an alias has a TTL of its own",
            vec![(www, 300, alias()), (edge, 60, a(1)), (edge, 60, a(2))],
            vec![300, 60, 60],
        ),
        (
            "they need not stand together, nor be spelt alike",
            vec![
                (edge, 200, a(1)),
                (www, 100, a(2)),
                ("EDGE.example.NET.", 50, a(3)),
            ],
            vec![50, 100, 50],
        ),
        (
            "another type is another set",
            vec![
                (edge, 200, a(1)),
                (edge, 100, RData::AAAA(AAAA::new(1, 2, 3, 4, 5, 6, 7, 8))),
            ],
            vec![200, 100],
        ),
        (
            "a TTL with the top bit set is none",
            vec![(www, 300, a(1)), (www, 1 << 31, a(2))],
            vec![0, 0],
        ),
    ] {
        let mut message = response(RecordType::A, &answers);
        message.set_edns(Edns::new());
        assert_eq!(ttls(&read(&message)), want, "{case}");
    }
}

#[test]
fn the_soa_of_a_denial_tells_its_minimum() {
    let www = "www.example.com.";
    let alias = || (www, 300, RData::CNAME(CNAME(name("edge.example.net."))));
    for (case, answers, code, (ttl, minimum), want) in [
        (
            "NODATA",
            vec![],
            ResponseCode::NoError,
            (3600, 30),
            vec![30],
        ),
        (
            "NXDOMAIN",
            vec![],
            ResponseCode::NXDomain,
            (3600, 30),
            vec![30],
        ),
        (
            "its TTL is lower",
            vec![],
            ResponseCode::NXDomain,
            (20, 3600),
            vec![20],
        ),
        (
            "an alias to nothing",
            vec![alias()],
            ResponseCode::NoError,
            (3600, 30),
            vec![300, 30],
        ),
        (
            "an answer",
            vec![(www, 60, a(1))],
            ResponseCode::NoError,
            (3600, 30),
            vec![60, 3600],
        ),
    ] {
        let mut message = response(RecordType::A, &answers);
        message.metadata.response_code = code;
        message.add_authority(Rr::from_rdata(name("example.com."), ttl, soa(minimum)));
        let response = read(&message);
        assert_eq!(ttls(&response), want, "{case}");
        let again = Response::read(response.view().message()).expect("well-formed");
        assert_eq!(again, response, "{case}: nothing is left to change");
    }
}

#[test]
fn verdicts_are_those_of_failures() {
    let failed = |code: u8, options: &[u8]| {
        let mut message = response(RecordType::A, &[]).to_vec().expect("encodes");
        message[3] |= code;
        message[11] = 1;
        let length = u8::try_from(options.len()).expect("short");
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, length]);
        message.extend_from_slice(options);
        let response = Response::read(&message).expect("well-formed");
        response
            .verdict()
            .map(|error| (error.code, error.text.clone()))
    };
    let bogus = |text: &str| Some((6, text.to_owned()));
    for (case, code, options, want) in [
        ("without text", 2, &b"\0\x0f\0\x02\0\x06"[..], bogus("")),
        ("with text", 2, b"\0\x0f\0\x05\0\x06sig", bogus("sig")),
        (
            "with a null behind",
            2,
            b"\0\x0f\0\x06\0\x06sig\0",
            bogus("sig"),
        ),
        (
            "behind others",
            2,
            b"\0\x03\0\x01x\0\x0f\0\x02\0\x16\0\x0f\0\x02\0\x06",
            bogus(""),
        ),
        ("another reason", 2, b"\0\x0f\0\x02\0\x16", None),
        ("cut off", 2, b"\0\x0f\0\x05\0\x06", None),
        ("no code", 2, b"\0\x0f\0\x01\0", None),
        ("no options", 2, b"", None),
        ("no failure", 3, b"\0\x0f\0\x02\0\x06", None),
    ] {
        assert_eq!(failed(code, options), want, "{case}");
    }
}

#[test]
fn opt_is_removed_and_its_rcode_bits_kept() {
    let mut message = response(RecordType::A, &[("www.example.com.", 60, a(1))]);
    let without = message.to_vec().expect("encodes");
    message.set_edns(Edns::new());
    let mut with = message.to_vec().expect("encodes");
    let end = with.len();
    with[end - 6] = 1;
    with.extend_from_slice(b"bytes after the last record");
    let response = Response::read(&with).expect("well-formed");
    assert_eq!(response.view().message()[2..], without[2..]);
    assert_eq!(response.rcode(), 16);
}

#[test]
fn records_behind_opt_keep_their_names() {
    // Question "a.", OPT with 4 bytes of options, then two records: one owned by "b.", one by a pointer to it.
    let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
    message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
    message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0a\0\0");
    let second = message.len();
    message.extend_from_slice(b"\x01b\0\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
    message.extend_from_slice(&[0xc0, u8::try_from(second).expect("small")]);
    message.extend_from_slice(b"\0\x01\0\x01\0\0\0\x3c\0\x04\x05\x06\x07\x08");
    let response = Response::read(&message).expect("well-formed");
    let parsed = Message::from_vec(response.view().message()).expect("hickory reads it");
    let owners: Vec<_> = parsed
        .additionals
        .iter()
        .map(|record| record.name.to_ascii())
        .collect();
    assert_eq!(owners, ["b.", "b."]);
    for index in 0..response.view().ttl_count() {
        assert_eq!(
            wire::u32_at(response.view().message(), response.view().ttl_at(index)),
            Some(60)
        );
    }
}

#[test]
fn names_in_rdata_behind_opt_stay_the_same() {
    // Question "a.", OPT with 4 bytes of options, then an A record of "b." and a record with a pointer to it in its RDATA.
    let numbers = [0; 20];
    for (case, rtype, before, names, after) in [
        ("NS", rr::NS, &[][..], 1, &[][..]),
        ("MX", rr::MX, &[0, 10], 1, &[]),
        ("SRV", rr::SRV, &[0, 1, 0, 2, 0, 53], 1, &[]),
        ("SOA", rr::SOA, &[], 2, &numbers),
        ("MINFO", rr::MINFO, &[], 2, &[]),
        ("RP", rr::RP, &[], 2, &[]),
        ("AFSDB", rr::AFSDB, &[0, 1], 1, &[]),
        ("HTTPS", rr::HTTPS, &[0, 1], 1, &[0, 1, 0, 3, 2, b'h', b'2']),
    ] {
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
        message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
        message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0a\0\0");
        let target = [0xc0, u8::try_from(message.len()).expect("small")];
        message.extend_from_slice(b"\x01b\0\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
        let rdata = [before, &target.repeat(names), after].concat();
        message.push(0);
        message.extend_from_slice(&rtype.to_be_bytes());
        message.extend_from_slice(b"\0\x01\0\0\0\x3c\0");
        message.push(u8::try_from(rdata.len()).expect("short"));
        message.extend_from_slice(&rdata);
        let response = Response::read(&message).expect("well-formed");
        let kept = response.view().message();
        let name = response.view().ttl_at(1) + 6 + before.len();
        for number in 0..names {
            let found: Vec<&[u8]> = wire::labels(kept, name + number * 2).collect();
            assert_eq!(found, [b"\x01b"], "{case}, name {number}");
        }
    }
}

#[test]
fn odd_rdata_behind_opt_passes_as_it_is() {
    // Question "a.", OPT, a CNAME whose RDATA is no name but runs on, and an A record behind it.
    let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
    message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
    message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    let odd = message.len();
    message.extend_from_slice(b"\x01b\0\0\x05\0\x01\0\0\0\x3c\0\x02\x03x");
    message.extend_from_slice(b"\xc0\xff\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
    // The last record's owner leads to "b.".
    let owner = message.len() - 16;
    wire::put_u16(
        &mut message,
        owner,
        0xc000 | u16::try_from(odd).expect("small"),
    );
    let response = Response::read(&message).expect("well-formed");
    let kept = response.view().message();
    assert_eq!(
        kept[odd - 11..odd + 2],
        message[odd..odd + 13],
        "owner and fixed fields"
    );
    assert_eq!(&kept[odd + 2..odd + 4], b"\x03x", "odd RDATA");
    assert_eq!(
        Response::read(kept)
            .expect("still well-formed")
            .view()
            .ttl_count(),
        2
    );
}

#[test]
fn only_addresses_of_one_owner_rotate() {
    let www = "www.example.com.";
    let aaaa = |last| RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let rotation = |qtype, answers: &[_]| {
        read(&response(qtype, answers))
            .view()
            .rotation()
            .map(|r| (r.first, r.count.get(), r.width))
    };
    let alias = RData::CNAME(CNAME(name("edge.example.net.")));
    let edge = "edge.example.net.";
    assert_eq!(rotation(RecordType::A, &[(www, 9, a(1))]), None);
    assert_eq!(
        rotation(
            RecordType::A,
            &[(www, 9, alias), (edge, 9, a(1)), (edge, 9, a(2))]
        ),
        Some((1, 2, 4))
    );
    assert_eq!(
        rotation(
            RecordType::AAAA,
            &[(www, 9, aaaa(1)), (www, 9, aaaa(2)), (edge, 9, aaaa(3))]
        ),
        Some((0, 2, 16))
    );
    assert_eq!(
        rotation(RecordType::A, &[(www, 9, a(1)), (www, 8, a(2))]),
        Some((0, 2, 4)),
        "one RRset has one TTL"
    );
}

#[test]
fn lies_are_malformed() {
    let good = response(RecordType::A, &[("www.example.com.", 60, a(1))])
        .to_vec()
        .expect("encodes");
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Response::read(&bytes)
    };
    assert!(Response::read(&good).is_ok());
    assert_eq!(
        with(|b| b[7] = 2),
        Err(Malformed),
        "one answer more than there is"
    );
    assert_eq!(
        with(|b| b.truncate(b.len() - 1)),
        Err(Malformed),
        "cut off in RDATA"
    );
    assert_eq!(with(|b| b[5] = 0), Err(Malformed), "no question");
    assert_eq!(with(|b| b.truncate(8)), Err(Malformed), "no whole header");
    assert_eq!(
        with(|b| {
            let owner = b.len() - 16;
            wire::put_u16(b, owner, 0xc000 | u16::try_from(owner).expect("small"));
        }),
        Err(Malformed),
        "an owner that points to itself"
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Response::read(&bytes);
    }

    #[test]
    fn damaged_responses_do_not_panic(at in 0_usize..110, value: u8) {
        let mut message = response(RecordType::A, &[("www.example.com.", 60, a(1)), ("www.example.com.", 50, a(2)), ("x.example.com.", 40, a(3))]);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().expect("encodes");
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(response) = Response::read(&bytes) {
            for index in 0..response.view().ttl_count() {
                assert!(response.view().ttl_at(index) + 4 <= response.view().message().len());
            }
            let again = Response::read(response.view().message()).expect("well-formed");
            assert_eq!(again.view().message(), response.view().message());
        }
    }
}
