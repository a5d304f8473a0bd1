//! What servers say about themselves: EDNS, recursion, sizes, certificates, who they are.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::Value;

use super::common::dns::{Over, failure, flag, opt, rcode, record, response, rr, u16_at};
use super::common::stand_in::StandIn;
use super::common::{free_address, free_sockets};
use super::https::{Certificate, TlsServer};
use super::{Said, Scene};

/// A server that is as it should be: it resolves, and answers with EDNS to EDNS.
pub(crate) fn good(query: &[u8], _: Over) -> Vec<Vec<u8>> {
    vec![answer(
        query,
        &[record(rr::A, 300, &[192, 0, 2, 1])],
        flag::RA,
    )]
}

/// An answer with these header bits set, and with OPT if the query has one.
pub(crate) fn answer(query: &[u8], records: &[Vec<u8>], flags: u16) -> Vec<u8> {
    let mut message = response(query, records);
    let own = u16_at(&message, 2).expect("a header") & !flag::AA | flags;
    message[2..4].copy_from_slice(&own.to_be_bytes());
    if offered(query).is_some() {
        message[11] = 1;
        message.extend_from_slice(&opt(1232, 0, false));
    }
    message
}

/// The payload size that a query offers; none without OPT. Queries of ours have it last, without options.
fn offered(query: &[u8]) -> Option<u16> {
    (u16_at(query, 10) == Some(1)).then(|| u16_at(query, query.len() - 8).expect("an OPT"))
}

fn probe(server: &StandIn) -> Said {
    Scene::of(&[server.address]).probe(&[])
}

#[test]
fn a_good_server_has_no_findings_and_is_described() {
    let server = StandIn::scripting_probes(|query, over| {
        let mut answers = good(query, over);
        let flags = u16_at(&answers[0], 2).expect("a header") | flag::AD;
        answers[0][2..4].copy_from_slice(&flags.to_be_bytes());
        answers
    });
    let said = probe(&server);
    said.expect(&[], 0);
    let described = said.server(0);
    assert_eq!(described["working"], true);
    assert_eq!(described["edns"]["state"], "understood");
    assert_eq!(described["answer"]["rcode"], "NOERROR");
    for bit in ["recursion", "authenticated"] {
        assert_eq!(described["answer"][bit], true, "{bit}");
    }
    assert_eq!(described["answer"]["authoritative"], false);
    // It has nothing large, so that nobody knows what would get through.
    assert!(described["large"]["largest_octets"].is_null());
    let udp = &described["transports"][0];
    assert_eq!(
        (&udp["transport"], &udp["sent"], &udp["answered"]),
        (&"udp".into(), &5.into(), &5.into())
    );
    let times =
        ["min", "median", "max"].map(|which| udp["rtt_ms"][which].as_f64().expect("a time"));
    assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
}

#[test]
fn silence_to_edns_is_told_from_silence() {
    let server = StandIn::scripting_probes(|query, over| match offered(query) {
        Some(_) => vec![],
        None => good(query, over),
    });
    let said = probe(&server);
    said.expect(&["edns_ignored"], 1);
    assert_eq!(said.server(0)["edns"]["state"], "ignored");
}

#[test]
fn a_code_to_edns_alone_is_told_from_a_refusal() {
    for code in [rcode::FORMERR, rcode::NOTIMP] {
        let server = StandIn::scripting_probes(move |query, over| match offered(query) {
            Some(_) => vec![failure(query, code)],
            None => good(query, over),
        });
        probe(&server).expect(&["edns_refused"], 1);
    }
}

#[test]
fn servers_that_do_not_resolve_for_others_are_found() {
    let closed = StandIn::scripting_probes(|query, _| {
        vec![answer(query, &[record(rr::A, 300, &[192, 0, 2, 1])], 0)]
    });
    probe(&closed).expect(&["no_recursion"], 1);
    let referring = StandIn::scripting_probes(|query, _| {
        let mut message = response(query, &[record(rr::NS, 300, &[0])]);
        // The record is of the authority section, and the answer nobody's own.
        message.swap(7, 9);
        message[2] &= !flag::AA.to_be_bytes()[0];
        message[3] |= flag::RA.to_be_bytes()[1];
        vec![message]
    });
    probe(&referring).expect(&["no_recursion", "group_down"], 2);
}

/// A server with an answer of 1,800 octets for the root, which loses UDP answers of more than `most` octets.
fn with_large_answers(most: usize) -> StandIn {
    StandIn::scripting_probes(move |query, over| {
        let text = [&[200][..], &[b'x'; 200]].concat();
        let records: Vec<_> = (0..8).map(|_| record(rr::TXT, 300, &text)).collect();
        let whole = answer(query, &records, flag::RA);
        let room = offered(query).map_or(512, usize::from);
        let message = match over {
            Over::Udp if whole.len() > room => answer(query, &[], flag::RA | flag::TC),
            _ => whole,
        };
        let lost = over == Over::Udp && message.len() > most;
        if lost { vec![] } else { vec![message] }
    })
}

#[test]
fn the_largest_answer_over_udp_is_found_out() {
    let server = with_large_answers(4_096);
    let said = probe(&server);
    said.expect(&[], 0);
    let large = &said.server(0)["large"];
    assert!(large["largest_octets"].as_u64() > Some(1_700), "{large}");
    assert!(large["available_octets"].as_u64() > Some(1_700), "{large}");
    let results: Vec<_> = large["offers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|offer| &offer["result"])
        .collect();
    assert_eq!(results, ["truncated", "truncated", "truncated", "whole"]);

    let server = with_large_answers(1_472);
    let said = probe(&server);
    said.expect(&["large_answers_lost"], 1);
    assert!(said.server(0)["large"]["largest_octets"].is_null());
}

#[test]
fn a_group_without_the_root_is_judged_by_its_own_zone() {
    let server = StandIn::scripting_probes(|query, over| {
        if query[12] == 0 {
            vec![failure(query, rcode::REFUSED)]
        } else {
            good(query, over)
        }
    });
    let groups = format!("upstreams: {{g: {{servers: [\"{}\"]}}}}\n", server.address);
    let own = format!("{groups}routes: {{cluster.local: g}}\n");
    let said = Scene::written(&own).probe(&[]);
    said.expect(&[], 0);
    assert_eq!(said.server(0)["answer"]["question"], "cluster.local. SOA");
    Scene::written(&groups)
        .probe(&[])
        .expect(&["refuses", "group_down"], 2);
    // One that answers what it is asked for works, though it refuses the root.
    Scene::written(&groups)
        .probe(&["www.example."])
        .expect(&["refuses"], 1);
}

#[test]
fn a_server_that_is_this_very_nodens_is_a_loop() {
    let scripted = |node: &'static str| {
        StandIn::scripting_probes(move |query, over| {
            let text = |text: &str| {
                let mut rdata = vec![u8::try_from(text.len()).expect("short")];
                rdata.extend_from_slice(text.as_bytes());
                vec![answer(query, &[record(rr::TXT, 0, &rdata)], 0)]
            };
            match &query[12..14] {
                b"\x07v" => text("nodens 0.1.0"),
                b"\x02i" => text(node),
                _ => good(query, over),
            }
        })
    };
    probe(&scripted("this-node")).expect(&["loop"], 1);
    let other = probe(&scripted("another-node"));
    other.expect(&[], 0);
    assert_eq!(other.server(0)["software"], "nodens 0.1.0");
    assert_eq!(other.server(0)["identity"], "another-node");
}

#[test]
fn servers_by_name_are_resolved_by_their_group() {
    let server = StandIn::scripting_probes(good);
    let scene = |ip: [u8; 4]| {
        let resolver = StandIn::scripting_probes(move |query, over| {
            let asked_for_server = query[12..].starts_with(b"\x03dns\x04corp\0\0\x01");
            let others = query[12..].starts_with(b"\x03dns\x04corp\0");
            match (asked_for_server, others) {
                (true, _) => vec![answer(query, &[record(rr::A, 300, &ip)], flag::RA)],
                (false, true) => vec![failure(query, rcode::NXDOMAIN)],
                _ => good(query, over),
            }
        });
        let port = server.address.port();
        let yaml = format!(
            "upstreams: {{g: {{servers: [\"dns.corp:{port}@via\"]}}, via: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": g}}\n",
            resolver.address
        );
        (resolver, Scene::written(&yaml))
    };
    let std::net::IpAddr::V4(ip) = server.address.ip() else {
        panic!("an IPv4 address");
    };
    let (_resolver, found) = scene(ip.octets());
    let said = found.probe(&[]);
    said.expect(&[], 0);
    assert_eq!(said.server(0)["address"], server.address.to_string());
    let (_resolver, lost) = scene([0, 0, 0, 0]);
    lost.probe(&[])
        .expect(&["server_name_unresolved", "group_down"], 2);
}

fn over_tls(server: &TlsServer, name: &str) -> Said {
    let yaml = format!(
        "upstreams: {{g: {{servers: [\"tls://{}#{name}\"], tls_ca: {}}}}}\n",
        server.address,
        server.root.file.display()
    );
    Scene::written(&yaml).probe(&["--timeout", "2s"])
}

#[test]
fn certificates_are_told_apart() {
    let good = TlsServer::start(&Certificate::of("dot.example"));
    let said = over_tls(&good, "dot.example");
    said.expect(&[], 0);
    let certificate = &said.server(0)["certificate"];
    assert!(
        certificate["days_left"].as_i64() > Some(700_000),
        "{certificate}"
    );
    assert_eq!(said.server(0)["transports"][0]["transport"], "tls");
    assert!(said.server(0)["transports"][0]["connect_ms"]["min"].as_f64() > Some(0.0));

    over_tls(&good, "other.example").expect(&["certificate_wrong_name", "group_down"], 2);

    let expired = TlsServer::start(&Certificate::of("dot.example").expiring_in_days(-3));
    let said = over_tls(&expired, "dot.example");
    said.expect(&["certificate_expired", "group_down"], 2);
    assert_eq!(said.server(0)["certificate"]["days_left"], -3);

    let ending = TlsServer::start(&Certificate::of("dot.example").expiring_in_days(5));
    over_tls(&ending, "dot.example").expect(&["certificate_expires_soon"], 1);

    let mut unknown = TlsServer::start(&Certificate::of("dot.example"));
    unknown.root = good.root;
    let said = over_tls(&unknown, "dot.example");
    said.expect(&["certificate_untrusted", "group_down"], 2);
    assert_eq!(said.server(0)["certificate"]["trouble"], "untrusted");

    // As `openssl req -x509` makes them.
    let authority = TlsServer::start(&Certificate::of("dot.example").of_an_authority());
    let said = over_tls(&authority, "dot.example");
    said.expect(&["certificate_untrusted", "group_down"], 2);
    assert_eq!(said.server(0)["certificate"]["trouble"], "unusable");
    let problem = "its certificate is that of a certificate authority, not of a server";
    let said_so = |finding: &Value| finding["problem"] == problem;
    assert!(said.findings().iter().any(said_so), "{}", said.json);
}

#[test]
fn a_server_that_truncates_over_tcp_as_well_is_found() {
    let server =
        StandIn::scripting_probes(|query, _| vec![answer(query, &[], flag::RA | flag::TC)]);
    let address = server.address;
    for written in [address.to_string(), format!("tcp://{address}")] {
        let yaml = format!("upstreams: {{g: {{servers: [\"{written}\"]}}}}\n");
        let said = Scene::written(&yaml).probe(&[]);
        said.expect(&["truncated_without_tcp", "group_down"], 2);
    }
}

#[test]
fn a_server_that_ends_each_connection_is_not_called_out_of_reach() {
    let (_socket, listener) = free_sockets();
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that has gone is no news.
            let _ = stream.read(&mut [0; 512]);
        }
    });
    let yaml = format!("upstreams: {{g: {{servers: [\"tcp://{address}\"]}}}}\n");
    let said = Scene::written(&yaml).probe(&[]);
    said.expect(&["no_answer", "group_down"], 2);
    let finding = said
        .findings()
        .iter()
        .find(|finding| finding["kind"] == "no_answer");
    let advice = finding.expect("expected above")["advice"].as_str();
    assert!(
        advice.expect("text").contains("accepts connections"),
        "{advice:?}"
    );
}

#[test]
fn a_server_over_https_that_speaks_no_http_2_is_found() {
    let server = TlsServer::start(&Certificate::of("doh.example"));
    let yaml = format!(
        "upstreams: {{g: {{servers: [\"https://{}/dns-query#doh.example\"], tls_ca: {}}}}}\n",
        server.address,
        server.root.file.display()
    );
    let said = Scene::written(&yaml).probe(&["--timeout", "2s"]);
    said.expect(&["http_failed", "group_down"], 2);
}

#[test]
fn what_is_no_tls_is_told_from_what_is_not_there() {
    let (_socket, listener) = free_sockets();
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || speak_no_tls(&listener));
    let probe = |address| {
        let yaml = format!("upstreams: {{g: {{servers: [\"tls://{address}#dot.example\"]}}}}\n");
        Scene::written(&yaml).probe(&[])
    };
    probe(address).expect(&["tls_failed", "group_down"], 2);
    probe(free_address()).expect(&["refused", "group_down"], 2);
}

fn speak_no_tls(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        });
    }
}
