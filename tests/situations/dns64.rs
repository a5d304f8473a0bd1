//! Names without IPv6 addresses in an IPv6-only cluster (DNS64, RFC 6147): which answers are made, and which stay as they are.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::client::{BOTH, Reply, all_at_once, ask, change, question, says, send, settled};
use crate::common::dns::{Ask, Over, Section, flag, rr};
use crate::common::{Nodens, wait_for};
use crate::server::{Query, Server, text_of};
use crate::wire::{Says, extended_errors};

const SOA: &str = "example. 300 SOA 300";

/// A server that knows A alone.
fn knows_ipv4(q: &Query) -> Says {
    match q.qtype {
        rr::A => q.says("NOERROR ad").answer("@ 20 A 192.0.2.1"),
        _ => q.says("NOERROR ad").authority(SOA),
    }
}

fn configuration(server: &Server, root: &str, more: &str) -> String {
    let server = server.over("");
    format!(
        "workers: 1\nupstreams: {{vpc: {{servers: [\"{server}\"], deadline: 2s}}}}\nroutes: {{\".\": {{group: vpc, {root}}}}}\n{more}"
    )
}

/// In front of a server, with these options of the root's route.
fn with(server: &Server, root: &str, more: &str) -> Nodens {
    settled(&configuration(server, root, more), &[server.over("")])
}

const WELL_KNOWN: &str = "dns64: 64:ff9b::/96";

fn well_known(server: &Server) -> Nodens {
    with(server, WELL_KNOWN, "")
}

fn highest_ttl(reply: &Reply) -> u32 {
    let ttls = reply.message.records.iter().map(|record| record.ttl);
    ttls.max().expect("records")
}

#[test]
fn a_name_without_ipv6_gets_an_address_that_the_nat64_translates() {
    let server = Server::start(knows_ipv4);
    let nodens = well_known(&server);
    for over in BOTH {
        let asked = question("www.example. AAAA").flags(flag::RD | flag::AD);
        let reply = send(&nodens, &asked, over);
        assert_eq!(reply.gist(), "NOERROR 64:ff9b::c000:201", "{over:?}");
        assert!(!reply.has(flag::AD) && !reply.has(flag::AA), "{over:?}");
        assert!(highest_ttl(&reply) <= 20, "{reply:?}");
        assert_eq!(reply.message.count(Section::Authority), 0);
    }
    // Both are in the cache, each under its own question.
    assert_eq!(says(&nodens, "www.example. A"), "NOERROR 192.0.2.1");
    assert_eq!(server.asked_for("www.example. AAAA"), 1);
    assert_eq!(server.asked_for("www.example. A"), 1);
    let made = |of| nodens.metric("nodens_dns64_answers_total", &[("made", of)]);
    assert!((made("address") - 1.0).abs() < f64::EPSILON && made("pointer") < 0.5);
    assert_eq!(says(&nodens, "www.example. TXT"), "NOERROR");
}

#[test]
fn a_client_that_asks_both_at_once_costs_no_further_query() {
    let server = Server::start(knows_ipv4);
    let nodens = well_known(&server);
    let both = ["www.example. A".to_owned(), "www.example. AAAA".to_owned()];
    let replies = all_at_once(&nodens, &both);
    let gists: Vec<_> = replies.iter().map(|(gist, _)| &gist[..]).collect();
    assert_eq!(gists, ["NOERROR 192.0.2.1", "NOERROR 64:ff9b::c000:201"]);
    assert_eq!(server.asked_for("www.example. A"), 1);
}

#[test]
fn the_address_of_ipv4only_arpa_tells_clients_the_prefix() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q
            .says("NOERROR")
            .answer("@ 86400 A 192.0.0.170")
            .answer("@ 86400 A 192.0.0.171"),
        _ => q.says("NOERROR").authority("arpa. 3600 SOA 3600"),
    });
    let nodens = with(&server, "dns64: 2001:db8:64::/96", "");
    assert_eq!(
        says(&nodens, "ipv4only.arpa. AAAA"),
        "NOERROR 2001:db8:64::c000:aa 2001:db8:64::c000:ab"
    );
}

#[test]
fn every_length_of_prefix_embeds_as_rfc_6052_says() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 20 A 192.0.2.33"),
        _ => q.says("NOERROR").authority(SOA),
    });
    let prefixes = [
        ("a.", "2001:db8::/32", "2001:db8:c000:221::"),
        ("b.", "2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("c.", "2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("d.", "2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        (
            "e.",
            "2001:db8:122:344::/64",
            "2001:db8:122:344:c0:2:2100:0",
        ),
        ("f.", "2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ];
    let mut routes = "routes: {\".\": vpc".to_owned();
    for (zone, prefix, _) in prefixes {
        write!(routes, ", {zone}: {{group: vpc, dns64: \"{prefix}\"}}").expect("grows");
    }
    let server_address = server.over("");
    let yaml = format!(
        "workers: 1\nupstreams: {{vpc: {{servers: [\"{server_address}\"]}}}}\n{routes}}}\n"
    );
    let nodens = settled(&yaml, &[server.over("")]);
    for (zone, prefix, want) in prefixes {
        let gist = says(&nodens, &format!("www.{zone} AAAA"));
        assert_eq!(gist, format!("NOERROR {want}"), "{prefix}");
    }
    assert_eq!(says(&nodens, "www.example. AAAA"), "NOERROR", "no dns64");
}

#[test]
fn made_addresses_hold_no_longer_than_what_they_are_made_of() {
    for (case, a, soa, more, most) in [
        ("the A record's TTL", 40, Some(300), "", 40),
        ("the SOA's", 3_000, Some(50), "", 50),
        ("no SOA", 3_000, None, "", 600),
        (
            "the route's cap on denials",
            3_000,
            Some(300),
            ", max_negative_ttl: 5s",
            5,
        ),
    ] {
        let server = Server::start(move |q: &Query| match (q.qtype, soa) {
            (rr::A, _) => q.says("NOERROR").answer(&format!("@ {a} A 192.0.2.1")),
            (_, Some(soa)) => {
                let soa = format!("example. {soa} SOA {soa}");
                q.says("NOERROR").authority(&soa)
            }
            (_, None) => q.says("NOERROR"),
        });
        let nodens = with(&server, &format!("{WELL_KNOWN}{more}"), "");
        let reply = ask(&nodens, "www.example. AAAA", Over::Udp);
        assert_eq!(highest_ttl(&reply), most, "{case}");
    }
}

#[test]
fn addresses_of_the_names_own_are_left_alone_and_excluded_ones_count_as_none() {
    let server = Server::start(|q: &Query| {
        let own = "@ 60 AAAA 2001:db8::1";
        let mapped = "@ 60 AAAA ::ffff:192.0.2.9";
        let elsewhere = "@ 60 AAAA 2001:db8:bad::1";
        let says = q.says("NOERROR");
        match (q.qtype, &q.name[..]) {
            (rr::A, "excluded-alone.example.") => says.authority(SOA),
            (rr::A, _) => says.answer("@ 20 A 192.0.2.1"),
            (_, "own.example.") => says.answer(own),
            (_, "mapped.example." | "excluded-alone.example.") => says.answer(mapped),
            (_, "both.example.") => says.answer(mapped).answer(own),
            _ => says.answer(elsewhere),
        }
    });
    let nodens = well_known(&server);
    for (name, want) in [
        ("own.example.", "NOERROR 2001:db8::1"),
        ("mapped.example.", "NOERROR 64:ff9b::c000:201"),
        ("excluded-alone.example.", "NOERROR"),
        ("both.example.", "NOERROR 2001:db8::1"),
        ("elsewhere.example.", "NOERROR 2001:db8:bad::1"),
    ] {
        assert_eq!(says(&nodens, &format!("{name} AAAA")), want, "{name}");
    }
    assert_eq!(server.asked_for("own.example. A"), 0);
    let table = "dns64: {prefix: 64:ff9b::/96, exclude: [\"2001:db8:bad::/48\"]}";
    let nodens = with(&server, table, "");
    for (name, want) in [
        ("elsewhere.example.", "NOERROR 64:ff9b::c000:201"),
        ("mapped.example.", "NOERROR ::ffff:192.0.2.9"),
    ] {
        assert_eq!(says(&nodens, &format!("{name} AAAA")), want, "{name}");
    }
}

#[test]
fn a_name_that_does_not_exist_or_has_no_address_at_all_stays_so() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "nowhere.example." => q.says("NXDOMAIN").authority(SOA),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    for (text, want) in [
        ("nowhere.example. AAAA", "NXDOMAIN"),
        ("empty.example. AAAA", "NOERROR"),
    ] {
        for over in BOTH {
            let reply = ask(&nodens, text, over);
            assert_eq!(reply.gist(), want);
            assert_eq!(reply.message.count(Section::Authority), 1, "{text}");
        }
    }
    assert_eq!(server.asked_for("nowhere.example. A"), 0);
    assert_eq!(server.asked_for("empty.example. A"), 1);
}

#[test]
fn what_a_filter_blocks_with_the_unspecified_address_leads_nowhere() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 20 A 0.0.0.0"),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    assert_eq!(says(&nodens, "ads.example. AAAA"), "NOERROR");
}

#[test]
fn a_name_whose_a_records_cannot_be_had_fails_and_is_not_said_to_have_none() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("SERVFAIL"),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    let asked = question("www.example. AAAA").payload(1232);
    let reply = send(&nodens, &asked, Over::Udp);
    assert_eq!(reply.gist(), "SERVFAIL");
    let errors = extended_errors(&reply.message);
    assert!(
        errors[0].1.starts_with("dns64, A records: vpc: "),
        "{errors:?}"
    );
}

#[test]
fn a_server_that_fails_for_aaaa_is_asked_for_a() {
    for code in ["SERVFAIL", "NOTIMP", "REFUSED"] {
        let server = Server::start(move |q: &Query| match q.qtype {
            rr::AAAA => q.says(code),
            _ => knows_ipv4(q),
        });
        let nodens = well_known(&server);
        let gist = says(&nodens, "www.example. AAAA");
        assert_eq!(gist, "NOERROR 64:ff9b::c000:201", "{code}");
    }
}

#[test]
fn a_validators_verdict_a_silent_server_and_a_failure_of_both_stay_failures() {
    let server = Server::start(|q: &Query| match (&q.name[..], q.qtype) {
        ("bogus.example.", rr::AAAA) => q.says("SERVFAIL").ede(6),
        ("broken.example.", _) => q.says("SERVFAIL"),
        _ => knows_ipv4(q),
    });
    let nodens = well_known(&server);
    for name in ["bogus.example.", "broken.example."] {
        let asked = question(&format!("{name} AAAA")).payload(1232);
        assert_eq!(
            send(&nodens, &asked, Over::Udp).gist(),
            "SERVFAIL",
            "{name}"
        );
    }
    assert_eq!(server.asked_for("bogus.example. A"), 0);
    let before = Instant::now();
    server.falls_silent();
    assert_eq!(says(&nodens, "www.example. AAAA"), "SERVFAIL");
    // One deadline, and not another one for A.
    assert!(before.elapsed() < Duration::from_secs(3));
    assert_eq!(server.asked_for("www.example. A"), 0);
}

#[test]
fn addresses_of_the_names_own_outlive_a_failure_of_their_server() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::AAAA => q.says("NOERROR").answer("@ 1 AAAA 2001:db8::1"),
        _ => knows_ipv4(q),
    });
    let nodens = well_known(&server);
    assert_eq!(says(&nodens, "www.example. AAAA"), "NOERROR 2001:db8::1");
    server.now_says(|q| match q.qtype {
        rr::AAAA => q.says("SERVFAIL"),
        _ => knows_ipv4(q),
    });
    wait_for("a stale answer", || {
        let reply = ask(&nodens, "www.example. AAAA", Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 2001:db8::1");
        (highest_ttl(&reply) > 1).then_some(())
    });
}

#[test]
fn addresses_of_the_names_own_outlive_a_denial_that_is_not_believed() {
    let own = |q: &Query| match q.qtype {
        rr::AAAA => q.says("NOERROR").answer("@ 1 AAAA 2001:db8::1"),
        _ => knows_ipv4(q),
    };
    // A later tier's word, and a healthy server's with `stale_on`.
    let (vpc, public) = (Server::start(own), Server::start(knows_ipv4));
    let alone = Server::start(own);
    let servers = [&vpc, &public, &alone].map(|server| server.over(""));
    let [first, second, third] = &servers;
    let yaml = format!(
        "workers: 1\nupstreams: {{vpc: {{servers: [\"{first}\"]}}, public: {{servers: [\"{second}\"]}}, alone: {{servers: [\"{third}\"]}}}}\n\
         routes: {{\".\": {{tiers: [vpc, public], {WELL_KNOWN}}}, alone.: {{group: alone, stale_on: [empty], {WELL_KNOWN}}}}}\n"
    );
    let nodens = settled(&yaml, &servers);
    let texts = ["www.example. AAAA", "www.alone. AAAA"];
    for text in texts {
        assert_eq!(says(&nodens, text), "NOERROR 2001:db8::1", "{text}");
    }
    vpc.now_says(|q| q.says("SERVFAIL"));
    alone.now_says(knows_ipv4);
    for text in texts {
        wait_for("a stale answer", || {
            let reply = ask(&nodens, text, Over::Udp);
            assert_eq!(reply.gist(), "NOERROR 2001:db8::1", "{text}");
            (highest_ttl(&reply) > 1).then_some(())
        });
    }
    // A name of which no address was known has those of the tier that answers.
    let gist = says(&nodens, "other.example. AAAA");
    assert_eq!(gist, "NOERROR 64:ff9b::c000:201");
}

#[test]
fn popular_made_addresses_are_fetched_anew_before_they_expire() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q
            .says("NOERROR")
            .answer(&format!("@ 5 A 192.0.2.{}", q.turn)),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    assert_eq!(
        says(&nodens, "www.example. AAAA"),
        "NOERROR 64:ff9b::c000:201"
    );
    wait_for("the second address", || {
        let gist = says(&nodens, "www.example. AAAA");
        (gist == "NOERROR 64:ff9b::c000:202").then_some(())
    });
    let prefetches = nodens.metric("nodens_cache_prefetches_total", &[]);
    assert!(prefetches >= 1.0, "{prefetches}");
}

#[test]
fn made_addresses_are_served_stale_when_servers_are_gone() {
    let mut server = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 1 A 192.0.2.1"),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    let made = "NOERROR 64:ff9b::c000:201";
    assert_eq!(says(&nodens, "www.example. AAAA"), made);
    server.stops();
    wait_for("a stale answer", || {
        let asked = question("www.example. AAAA").payload(1232);
        let reply = send(&nodens, &asked, Over::Udp);
        assert_eq!(reply.gist(), made);
        let errors = extended_errors(&reply.message);
        errors.iter().any(|(code, _)| *code == 3).then_some(())
    });
}

#[test]
fn a_chain_of_aliases_is_kept_in_front_of_made_addresses() {
    let server = Server::start(|q: &Query| {
        let says = q.says("NOERROR").answer("@ 300 CNAME edge.cdn.example.");
        match q.qtype {
            rr::A => says.answer("edge.cdn.example. 20 A 192.0.2.1"),
            _ => says.authority("cdn.example. 300 SOA 300"),
        }
    });
    let nodens = well_known(&server);
    for over in BOTH {
        let reply = ask(&nodens, "www.example. AAAA", over);
        assert_eq!(reply.gist(), "NOERROR CNAME 64:ff9b::c000:201");
        let owners = reply.message.section(Section::Answer);
        let owners: Vec<_> = owners.map(|record| text_of(&record.owner)).collect();
        assert_eq!(owners, ["www.example.", "edge.cdn.example."], "{over:?}");
    }
}

/// `inside.` is the cluster's, without DNS64; all else has it.
fn cluster_and_world(cluster: &Server, world: &Server, more: &str) -> Nodens {
    let (inside, outside) = (cluster.over(""), world.over(""));
    let yaml = format!(
        "workers: 1\nupstreams: {{cluster: {{servers: [\"{inside}\"]}}, world: {{servers: [\"{outside}\"]}}}}\n\
         routes: {{inside.: cluster, \".\": {{group: world, {WELL_KNOWN}}}}}\n{more}"
    );
    settled(&yaml, &[inside, outside])
}

#[test]
fn behind_an_alias_the_route_of_the_addresses_decides() {
    let leads_to = |target: &'static str| {
        move |q: &Query| match &q.name[..] {
            "alias.inside." | "alias.example." => {
                q.says("NOERROR").answer(&format!("@ 30 CNAME {target}"))
            }
            _ => knows_ipv4(q),
        }
    };
    let cluster = Server::start(leads_to("www.example."));
    let world = Server::start(leads_to("db.inside."));
    let nodens = cluster_and_world(&cluster, &world, "");
    assert_eq!(says(&nodens, "alias.example. AAAA"), "NOERROR CNAME");
    assert_eq!(
        says(&nodens, "alias.inside. AAAA"),
        "NOERROR CNAME 64:ff9b::c000:201"
    );
    assert_eq!(cluster.asked_for("db.inside. A"), 0);
}

#[test]
fn who_validates_or_asks_in_another_way_gets_what_the_server_said() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => knows_ipv4(q).answer("@ 20 RRSIG A"),
        _ => knows_ipv4(q),
    });
    let nodens = well_known(&server);
    for asked in [
        question("www.example. AAAA")
            .dnssec_ok()
            .flags(flag::RD | flag::CD),
        question("www.example. AAAA").flags(0),
        Ask::new("www.example.", rr::ANY),
    ] {
        assert_eq!(
            send(&nodens, &asked, Over::Udp).gist(),
            "NOERROR",
            "{asked:?}"
        );
    }
    // DO alone says that the client can read signatures, CD alone nothing (RFC 6147 §3).
    for asked in [
        question("www.example. AAAA").dnssec_ok(),
        question("www.example. AAAA").flags(flag::RD | flag::CD),
    ] {
        let reply = send(&nodens, &asked, Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 64:ff9b::c000:201", "{asked:?}");
        assert!(!reply.has(flag::AD), "{asked:?}");
    }
}

#[test]
fn names_of_records_have_what_stands_there() {
    let server = Server::start(knows_ipv4);
    let records = "records:\n  four.example: {A: 10.0.0.7}\n  both.example: {A: 10.0.0.7, AAAA: \"64:ff9b::a00:7\"}\n  \
                   alias.example: {CNAME: www.example}\n";
    let nodens = with(&server, WELL_KNOWN, records);
    for (text, want) in [
        ("four.example. AAAA", "NOERROR"),
        ("both.example. AAAA", "NOERROR 64:ff9b::a00:7"),
        ("alias.example. AAAA", "NOERROR CNAME 64:ff9b::c000:201"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
}

#[test]
fn many_addresses_are_whole_over_tcp_and_cut_between_records_over_udp() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => (0..40).fold(q.says("NOERROR"), |says, number| {
            says.answer(&format!("@ 20 A 192.0.2.{number}"))
        }),
        _ => q.says("NOERROR").authority(SOA),
    });
    let nodens = well_known(&server);
    let whole = ask(&nodens, "www.example. AAAA", Over::Tcp);
    assert_eq!(whole.message.count(Section::Answer), 40);
    let cut = ask(&nodens, "www.example. AAAA", Over::Udp);
    assert!(cut.has(flag::TC) && cut.message.count(Section::Answer) > 10);
}

/// `64:ff9b::192.0.2.1` as a reverse name.
const MADE: &str = "1.0.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.";

fn knows_reverse(q: &Query) -> Says {
    match &q.name[..] {
        "1.2.0.192.in-addr.arpa." => q.says("NOERROR").answer("@ 90 PTR www.example."),
        MADE => q.says("NOERROR").answer("@ 90 PTR other.example."),
        _ => q.says("NXDOMAIN").authority(SOA),
    }
}

#[test]
fn the_reverse_name_of_a_made_address_is_an_alias_of_the_one_of_ipv4() {
    let server = Server::start(knows_reverse);
    let nodens = well_known(&server);
    for over in BOTH {
        let reply = ask(&nodens, &format!("{MADE} PTR"), over);
        assert_eq!(reply.gist(), "NOERROR CNAME PTR", "{over:?}");
        assert!(highest_ttl(&reply) <= 90 && !reply.has(flag::AA));
    }
    assert_eq!(server.asked_for("1.2.0.192.in-addr.arpa. PTR"), 1);
    assert_eq!(server.asked_for(&format!("{MADE} PTR")), 0);
    nodens.wait_for_metric("nodens_dns64_answers_total", &[("made", "pointer")], 2.0);
    let unknown = MADE.replacen('1', "2", 1);
    let reply = ask(&nodens, &format!("{unknown} PTR"), Over::Udp);
    assert_eq!(reply.gist(), "NXDOMAIN CNAME");
    // Another address, another type, a client that validates: the server's.
    let elsewhere = MADE.replacen("4.6.0.0", "4.6.0.1", 1);
    assert_eq!(says(&nodens, &format!("{elsewhere} PTR")), "NXDOMAIN");
    assert_eq!(says(&nodens, &format!("{unknown} TXT")), "NXDOMAIN");
    let validates = question(&format!("{MADE} PTR")).dnssec_ok();
    let validates = validates.flags(flag::RD | flag::CD);
    assert_eq!(send(&nodens, &validates, Over::Udp).gist(), "NOERROR PTR");
}

#[test]
fn a_route_or_a_record_for_the_reverse_name_wins() {
    let (cluster, world) = (Server::start(knows_reverse), Server::start(knows_reverse));
    let more = "records: {host.example: {AAAA: [\"64:ff9b::c000:202\"]}}\n";
    let nodens = cluster_and_world(&cluster, &world, more);
    let of_record = MADE.replacen('1', "2", 1);
    assert_eq!(says(&nodens, &format!("{of_record} PTR")), "NOERROR PTR");
    assert_eq!(says(&nodens, &format!("{MADE} PTR")), "NOERROR CNAME PTR");
    let (inside, outside) = (cluster.over(""), world.over(""));
    for (zone, want) in [
        ("b.9.f.f.4.6.0.0.ip6.arpa", "NOERROR CNAME PTR"),
        (
            "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa",
            "NOERROR PTR",
        ),
    ] {
        let yaml = format!(
            "workers: 1\nupstreams: {{cluster: {{servers: [\"{inside}\"]}}, world: {{servers: [\"{outside}\"]}}}}\n\
             routes: {{{zone}: cluster, \".\": {{group: world, {WELL_KNOWN}}}}}\n"
        );
        change(&nodens, &yaml);
        assert_eq!(says(&nodens, &format!("{MADE} PTR")), want, "{zone}");
    }
}

#[test]
fn a_reload_forgets_what_was_made_with_another_prefix() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::PTR => knows_reverse(q),
        _ => knows_ipv4(q),
    });
    let nodens = with(&server, "max_negative_ttl: 1h", "");
    let reverse = format!("{MADE} PTR");
    for (options, address, pointer) in [
        ("max_negative_ttl: 1h", "NOERROR", "NOERROR PTR"),
        (WELL_KNOWN, "NOERROR 64:ff9b::c000:201", "NOERROR CNAME PTR"),
        (
            "dns64: 2001:db8:64::/96",
            "NOERROR 2001:db8:64::c000:201",
            "NOERROR PTR",
        ),
        ("max_negative_ttl: 1h", "NOERROR", "NOERROR PTR"),
    ] {
        change(&nodens, &configuration(&server, options, ""));
        for turn in ["asked", "cached"] {
            let gist = says(&nodens, "www.example. AAAA");
            assert_eq!(gist, address, "{options}, {turn}");
            assert_eq!(says(&nodens, &reverse), pointer, "{options}, {turn}");
        }
    }
}

#[test]
fn it_works_beside_rewrite_and_without_a_cache_and_without_completed_aliases() {
    let server = Server::start(|q: &Query| match (&q.name[..], q.qtype) {
        ("web.svc.cluster.local.", rr::A) => q.says("NOERROR").answer("@ 20 A 192.0.2.1"),
        (_, rr::A) => q.says("NXDOMAIN"),
        _ => q.says("NOERROR").authority("cluster.local. 30 SOA 30"),
    });
    let server_address = server.over("");
    let yaml = format!(
        "workers: 1\ncomplete_cnames: false\nupstreams: {{vpc: {{servers: [\"{server_address}\"]}}}}\n\
         routes: {{corp.: {{group: vpc, {WELL_KNOWN}, cache: off, rewrite: {{from: dev.corp, to: svc.cluster.local}}}}}}\n"
    );
    let nodens = settled(&yaml, &[server.over("")]);
    for _ in 0..2 {
        let gist = says(&nodens, "web.dev.corp. AAAA");
        assert_eq!(gist, "NOERROR 64:ff9b::c000:201");
    }
    assert_eq!(server.asked_for("web.svc.cluster.local. AAAA"), 2);
}
