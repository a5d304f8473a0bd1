//! Names that are answered here: what the configuration says of a zone, of a type or of a name, nobody is asked.

use std::time::{Duration, Instant};

use crate::client::{BOTH, ask, change, question, says, send, settled};
use crate::common::dns::{Ask, Message, Over, Section, flag, rr};
use crate::common::{Nodens, TempDir, wait_for};
use crate::server::{Query, Server};
use crate::wire::extended_errors;

/// A server that knows every name, in front of it a nodens with these further lines, and these entries of `routes`.
fn with_routes(server: &Server, routes: &str, more: &str) -> Nodens {
    settled(&configuration(server, routes, more), &[server.over("")])
}

fn configuration(server: &Server, routes: &str, more: &str) -> String {
    let server = server.over("");
    format!(
        "workers: 1\nupstreams: {{vpc: {{servers: [\"{server}\"]}}}}\nroutes: {{\".\": vpc, {routes}}}\n{more}"
    )
}

fn knows_everything() -> Server {
    Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 300 A 192.0.2.1"),
        rr::AAAA => q.says("NOERROR").answer("@ 300 AAAA 2001:db8::1"),
        rr::TXT => q.says("NOERROR").answer("@ 300 TXT text"),
        _ => q.says("NOERROR").authority("example. 300 SOA 300"),
    })
}

/// Owner, TTL and MINIMUM of the SOA in the authority section, which must be its only record.
fn soa(reply: &Message) -> (String, u32, u32) {
    let records: Vec<_> = reply.section(Section::Authority).collect();
    let [soa] = records[..] else {
        panic!("one SOA: {reply:?}")
    };
    assert_eq!(soa.rtype, rr::SOA);
    let minimum = soa.rdata.last_chunk().expect("five numbers");
    let owner = crate::server::text_of(&soa.owner);
    (owner, soa.ttl, u32::from_be_bytes(*minimum))
}

#[test]
fn a_zone_that_must_not_leak_does_not_exist_and_clients_may_keep_that() {
    let server = knows_everything();
    let nodens = with_routes(&server, "internal.: {answer: NXDOMAIN}", "");
    for over in BOTH {
        for text in [
            "db.prod.internal. A",
            "db.prod.internal. TXT",
            "internal. AAAA",
            "internal. DS",
            "internal. SOA",
        ] {
            let reply = ask(&nodens, text, over);
            assert_eq!(reply.gist(), "NXDOMAIN", "{text}");
            assert_eq!(soa(&reply.message), ("internal.".to_owned(), 60, 60));
            assert!(reply.has(flag::AA) && reply.has(flag::RA), "{text}");
        }
    }
    assert_eq!(says(&nodens, "internal.example. A"), "NOERROR 192.0.2.1");
    assert_eq!(server.count(), 1, "nothing of internal. left");
}

#[test]
fn a_route_below_such_a_zone_is_asked_and_the_names_above_it_exist() {
    let server = knows_everything();
    let nodens = with_routes(
        &server,
        "internal.: {answer: NXDOMAIN}, corp.eu.internal.: vpc",
        "records: {here.us.internal: {A: 10.0.0.9}}\n",
    );
    for (text, want) in [
        ("db.corp.eu.internal. A", "NOERROR 192.0.2.1"),
        ("corp.eu.internal. A", "NOERROR 192.0.2.1"),
        ("here.us.internal. A", "NOERROR 10.0.0.9"),
        // RFC 8020: "there is no eu.internal" would say that there is nothing below it either.
        ("eu.internal. A", "NOERROR"),
        ("us.internal. A", "NOERROR"),
        ("internal. A", "NOERROR"),
        ("asia.internal. A", "NXDOMAIN"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
}

#[test]
fn nodata_refused_and_addresses() {
    let server = knows_everything();
    let nodens = with_routes(
        &server,
        "empty.: {answer: NODATA}, closed.: {answer: REFUSED}, \
         portal.: {answer: [10.0.0.1, 10.0.0.2, \"fd00::1\"]}, four.: {answer: 10.0.0.4}",
        "",
    );
    for (text, want) in [
        ("x.empty. A", "NOERROR"),
        ("x.closed. A", "REFUSED"),
        ("portal. A", "NOERROR 10.0.0.1 10.0.0.2"),
        ("any.where.portal. AAAA", "NOERROR fd00::1"),
        ("any.where.portal. TXT", "NOERROR"),
        ("x.four. A", "NOERROR 10.0.0.4"),
        ("x.four. AAAA", "NOERROR"),
    ] {
        for over in BOTH {
            assert_eq!(ask(&nodens, text, over).gist(), want, "{text}");
        }
    }
    for (text, zone) in [("x.empty. A", "empty."), ("x.four. AAAA", "four.")] {
        let reply = ask(&nodens, text, Over::Udp);
        assert_eq!(soa(&reply.message), (zone.to_owned(), 60, 60));
    }
    assert_eq!(server.count(), 0);
}

#[test]
fn the_client_is_told_whose_word_it_is_and_metrics_count_it_for_the_route() {
    let server = knows_everything();
    let nodens = with_routes(
        &server,
        "internal.: {answer: NXDOMAIN}, portal.: {answer: 10.0.0.1}",
        "",
    );
    for (text, code, zone) in [
        ("x.internal. A", 15, "internal."),
        ("portal. A", 4, "portal."),
    ] {
        let reply = send(&nodens, &question(text).payload(1232), Over::Udp);
        let why = format!("answered by the configuration of {zone}");
        assert_eq!(extended_errors(&reply.message), [(code, why)], "{text}");
    }
    let labels = [("route", "internal."), ("rcode", "NXDOMAIN")];
    nodens.wait_for_metric("nodens_replies_total", &labels, 1.0);
    assert_eq!(nodens.status()["routes"][1]["answer"], "NXDOMAIN");
}

#[test]
fn private_reverse_zones_stay_on_the_node_by_one_word() {
    let server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 300 TXT pod"));
    let nodens = with_routes(
        &server,
        "96.10.in-addr.arpa: vpc",
        "private_zones: NXDOMAIN\nrecords: {here.example: {A: 192.168.2.1}}\n",
    );
    for (text, want) in [
        ("1.0.0.10.in-addr.arpa. TXT", "NXDOMAIN"),
        ("1.1.168.192.in-addr.arpa. TXT", "NXDOMAIN"),
        ("1.0.20.172.in-addr.arpa. TXT", "NXDOMAIN"),
        ("1.0.64.100.in-addr.arpa. TXT", "NXDOMAIN"),
        ("1.0.d.f.ip6.arpa. TXT", "NXDOMAIN"),
        // The longest zone wins, and what is above a route exists.
        ("1.0.96.10.in-addr.arpa. TXT", "NOERROR TXT"),
        ("10.in-addr.arpa. TXT", "NOERROR"),
        // So does what is above the reverse name of a record.
        ("168.192.in-addr.arpa. TXT", "NOERROR"),
        ("2.168.192.in-addr.arpa. TXT", "NOERROR"),
        ("8.8.8.8.in-addr.arpa. TXT", "NOERROR TXT"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
    let reply = ask(&nodens, "1.0.20.172.in-addr.arpa. TXT", Over::Udp);
    assert_eq!(soa(&reply.message).0, "20.172.in-addr.arpa.");
    assert_eq!(server.count(), 2);

    let nodens = with_routes(&server, "x.: vpc", "");
    let text = "1.0.0.10.in-addr.arpa. TXT";
    assert_eq!(says(&nodens, text), "NOERROR TXT", "by default");
}

#[test]
fn a_zone_that_comes_to_be_answered_here_is_no_longer_served_from_the_cache() {
    let server = knows_everything();
    let nodens = with_routes(&server, "internal.: vpc", "");
    assert_eq!(says(&nodens, "x.internal. A"), "NOERROR 192.0.2.1");
    let denied = configuration(&server, "internal.: {answer: NXDOMAIN}", "");
    change(&nodens, &denied);
    assert_eq!(says(&nodens, "x.internal. A"), "NXDOMAIN");
    change(&nodens, &configuration(&server, "internal.: vpc", ""));
    assert_eq!(says(&nodens, "x.internal. A"), "NOERROR 192.0.2.1");
}

#[test]
fn a_filtered_type_is_nodata_for_every_name_and_nobody_is_asked() {
    let server = knows_everything();
    let nodens = with_routes(&server, "corp.: {group: vpc, filter: [AAAA, HTTPS]}", "");
    for over in BOTH {
        for text in ["x.corp. AAAA", "corp. HTTPS"] {
            let reply = ask(&nodens, text, over);
            assert_eq!(reply.gist(), "NOERROR", "{text}");
            let name = text.split(' ').next().expect("a name");
            assert_eq!(soa(&reply.message), (name.to_owned(), 60, 60));
            assert!(!reply.has(flag::AA) && reply.has(flag::RA), "{text}");
        }
    }
    assert_eq!(server.count(), 0);
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    assert_eq!(says(&nodens, "x.example. AAAA"), "NOERROR 2001:db8::1");
    let reply = send(&nodens, &question("x.corp. AAAA").payload(1232), Over::Udp);
    let why = "filtered by the configuration of corp.".to_owned();
    assert_eq!(extended_errors(&reply.message), [(15, why)]);
}

#[test]
fn a_filtered_type_of_a_name_that_does_not_exist_is_nodata_too() {
    let server = Server::start(|q: &Query| q.says("NXDOMAIN").authority("corp. 300 SOA 300"));
    let nodens = with_routes(&server, "corp.: {group: vpc, filter: AAAA}", "");
    assert_eq!(says(&nodens, "nobody.corp. AAAA"), "NOERROR");
    assert_eq!(says(&nodens, "nobody.corp. A"), "NXDOMAIN");
    assert_eq!(says(&nodens, "nobody.corp. AAAA"), "NOERROR");
}

#[test]
fn a_type_that_comes_to_be_filtered_leaves_the_cache_and_others_stay() {
    let server = knows_everything();
    let nodens = with_routes(&server, "corp.: vpc", "");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NOERROR 2001:db8::1");
    let filtered = configuration(&server, "corp.: {group: vpc, filter: [AAAA]}", "");
    change(&nodens, &filtered);
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NOERROR");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    assert_eq!(server.count(), 2, "the address came from the cache");
    change(&nodens, &configuration(&server, "corp.: vpc", ""));
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NOERROR 2001:db8::1");
}

/// The TTL of the first record of the answer, or of the SOA.
fn told(nodens: &Nodens, text: &str) -> u32 {
    ask(nodens, text, Over::Udp).message.records[0].ttl
}

#[test]
fn a_route_without_a_cache_is_asked_each_time_and_its_ttls_pass() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 300 A 192.0.2.1"),
        _ => q.says("NXDOMAIN").authority("corp. 300 SOA 300"),
    });
    let nodens = with_routes(&server, "corp.: {group: vpc, cache: off}", "");
    for turn in 1..=3 {
        assert_eq!(told(&nodens, "x.corp. A"), 300);
        assert_eq!(told(&nodens, "x.corp. TXT"), 300);
        assert_eq!(server.asked_for("x.corp. A"), turn);
        assert_eq!(server.asked_for("x.corp. TXT"), turn);
        says(&nodens, "x.example. A");
    }
    assert_eq!(
        server.asked_for("x.example. A"),
        1,
        "the others' cache is on"
    );
    server.now_says(|q| q.says("SERVFAIL"));
    assert_eq!(says(&nodens, "x.corp. A"), "SERVFAIL", "nothing is stale");
}

#[test]
fn a_route_caps_and_raises_the_ttls_of_its_answers() {
    let server = Server::start(|q: &Query| match (q.name.as_str(), q.qtype) {
        ("short.corp.", rr::A) => q
            .says("NOERROR")
            .answer("@ 0 CNAME y.corp.")
            .answer("y.corp. 1 A 192.0.2.1"),
        (_, rr::A) => q.says("NOERROR").answer("@ 3600 A 192.0.2.1"),
        ("short.corp.", _) => q.says("NOERROR").authority("corp. 2 SOA 2"),
        _ => q.says("NXDOMAIN").authority("corp. 3600 SOA 3600"),
    });
    let cache = "cache: {min_ttl: 20s, max_ttl: 1m, max_negative_ttl: 40s}";
    let nodens = with_routes(&server, &format!("corp.: {{group: vpc, {cache}}}"), "");
    assert_eq!(told(&nodens, "long.corp. A"), 60);
    assert_eq!(told(&nodens, "long.corp. TXT"), 40);
    assert_eq!(
        told(&nodens, "short.corp. TXT"),
        2,
        "a denial is not raised"
    );
    let reply = ask(&nodens, "short.corp. A", Over::Udp);
    assert_eq!(reply.ttls(Section::Answer), ["20 CNAME", "20 192.0.2.1"]);
    // From the cache, for longer than the server's TTL.
    let waited = Instant::now();
    wait_for("the end of the server's TTL", || {
        (waited.elapsed() > Duration::from_millis(1_500)).then_some(())
    });
    assert!((1..20).contains(&told(&nodens, "short.corp. A")));
    assert_eq!(server.asked_for("short.corp. A"), 1);
    assert_eq!(told(&nodens, "x.example. A"), 3600);
}

#[test]
fn a_max_ttl_of_zero_is_told_to_clients() {
    let server = knows_everything();
    let nodens = with_routes(&server, "corp.: {group: vpc, cache: {max_ttl: 0s}}", "");
    assert_eq!(told(&nodens, "x.corp. A"), 0);
    assert_eq!(told(&nodens, "x.corp. A"), 0);
    assert_eq!(server.asked_for("x.corp. A"), 2);
}

#[test]
fn a_route_has_stale_answers_of_its_own_kind() {
    let server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 1 A 192.0.2.1"));
    let nodens = with_routes(
        &server,
        "never.: {group: vpc, cache: {stale: {max_age: 0s}}}, \
         brief.: {group: vpc, cache: {stale: {ttl: 7s}}}",
        "",
    );
    for zone in ["never", "brief", "example"] {
        assert_eq!(says(&nodens, &format!("x.{zone}. A")), "NOERROR 192.0.2.1");
    }
    server.now_says(|q| q.says("SERVFAIL"));
    wait_for("the end of the answer that is never stale", || {
        (says(&nodens, "x.never. A") == "SERVFAIL").then_some(())
    });
    let stale = |text: &str| {
        wait_for("a stale answer", || {
            let reply = send(&nodens, &question(text).payload(1232), Over::Udp);
            let errors = extended_errors(&reply.message);
            let is_stale = errors.iter().any(|(code, _)| *code == 3);
            is_stale.then(|| reply.message.records[0].ttl)
        })
    };
    assert_eq!((stale("x.brief. A"), stale("x.example. A")), (7, 30));
}

#[test]
fn a_wildcard_stands_for_names_that_do_not_exist() {
    let server = knows_everything();
    let records = "records:\n  \"*.dev.example\": {A: 10.0.0.1}\n  api.dev.example: {TXT: text}\n  \
                   x.deep.dev.example: {A: 10.0.0.2}\n  \"*.alias.example\": {CNAME: web.dev.example}\n";
    let nodens = with_routes(&server, "x.: vpc", records);
    for (text, want) in [
        ("web.dev.example. A", "NOERROR 10.0.0.1"),
        ("a.b.c.dev.example. A", "NOERROR 10.0.0.1"),
        ("*.dev.example. A", "NOERROR 10.0.0.1"),
        ("web.dev.example. AAAA", "NOERROR"),
        // RFC 4592 §2.2.1: a name that exists is not one of the wildcard's, whatever its types are.
        ("api.dev.example. A", "NOERROR"),
        // §2.2.2: this one exists because x.deep does.
        ("deep.dev.example. A", "NOERROR"),
        ("x.deep.dev.example. A", "NOERROR 10.0.0.2"),
        ("any.alias.example. A", "NOERROR 10.0.0.1 CNAME"),
        // Not below the wildcard, or below a name that exists: forwarded, as all that is not in `records`.
        ("dev.example. A", "NOERROR 192.0.2.1"),
        ("v1.api.dev.example. A", "NOERROR 192.0.2.1"),
        ("y.deep.dev.example. A", "NOERROR 192.0.2.1"),
        ("xdev.example. A", "NOERROR 192.0.2.1"),
    ] {
        for over in BOTH {
            assert_eq!(ask(&nodens, text, over).gist(), want, "{text}");
        }
    }
    let reply = ask(&nodens, "WeB.dev.example. A", Over::Udp);
    let owner = &reply.message.records[0].owner;
    assert_eq!(crate::server::text_of(owner), "web.dev.example.");
    assert_eq!(server.count(), 4);
}

#[test]
fn a_hosts_file_is_answered_and_a_broken_line_loses_nothing_else() {
    let server = knows_everything();
    let dir = TempDir::new();
    let hosts = "10.1.40.7 cache.example cache # ours\nfd00::7 cache.example\nnonsense\n\
                 10.1.40.8 a..b shop.example\n10.1.40.9 listed.example\n0.0.0.0 ads.example\n";
    let file = dir.write("hosts", hosts);
    let more = format!(
        "hosts: {}\nrecords: {{listed.example: {{A: 10.9.9.9}}}}\n",
        file.display()
    );
    let nodens = with_routes(&server, "x.: vpc", &more);
    for (text, want) in [
        ("cache.example. A", "NOERROR 10.1.40.7"),
        ("CACHE.example. AAAA", "NOERROR fd00::7"),
        ("cache. A", "NOERROR 10.1.40.7"),
        ("shop.example. A", "NOERROR 10.1.40.8"),
        ("shop.example. AAAA", "NOERROR"),
        ("ads.example. A", "NOERROR 0.0.0.0"),
        ("listed.example. A", "NOERROR 10.9.9.9"),
        ("below.cache.example. A", "NOERROR 192.0.2.1"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
    let reverse = send(
        &nodens,
        &Ask::new("7.40.1.10.in-addr.arpa.", rr::PTR),
        Over::Udp,
    );
    let pointers: Vec<_> = reverse.message.section(Section::Answer).collect();
    let [pointer] = pointers[..] else {
        panic!("one name: {reverse:?}")
    };
    assert_eq!(crate::server::text_of(&pointer.rdata), "cache.example.");
    for (line, what) in [
        (3, "nonsense is not an address such as"),
        (4, "a..b is not a domain name; it is left out"),
    ] {
        nodens.wait_for_log(&format!("hosts: {}:{line}: {what}", file.display()));
    }
}

#[test]
fn a_hosts_file_is_read_again_when_it_changes() {
    let server = knows_everything();
    let dir = TempDir::new();
    let file = dir.write("hosts", "10.0.0.1 moves.example\n");
    let more = format!("hosts: [{}]\n", file.display());
    let nodens = with_routes(&server, "x.: vpc", &more);
    assert_eq!(says(&nodens, "moves.example. A"), "NOERROR 10.0.0.1");
    assert_eq!(says(&nodens, "new.example. A"), "NOERROR 192.0.2.1");
    let text = "10.0.0.2 moves.example\n10.0.0.3 new.example\n";
    std::fs::write(&file, text).expect("it can be written");
    wait_for("the changed file to be read", || {
        (says(&nodens, "moves.example. A") == "NOERROR 10.0.0.2").then_some(())
    });
    wait_for("the end of what the cache holds of the new name", || {
        (says(&nodens, "new.example. A") == "NOERROR 10.0.0.3").then_some(())
    });
    // Without the file nothing changes, and /status says so.
    std::fs::remove_file(&file).expect("it was there");
    wait_for("the missing file to be noticed", || {
        let status = nodens.status();
        let mistakes = status["configuration"]["mistakes"].as_array()?.clone();
        let said = mistakes
            .first()?
            .as_str()?
            .contains("hosts: cannot be read");
        said.then_some(())
    });
    assert_eq!(says(&nodens, "moves.example. A"), "NOERROR 10.0.0.2");
}

#[test]
fn names_are_asked_for_under_another_suffix_and_come_back_under_their_own() {
    let server = Server::start(|q: &Query| match q.name.as_str() {
        "web.svc.cluster.local." if q.qtype == rr::A => q
            .says("NOERROR ad")
            .answer("@ 300 CNAME real.svc.cluster.local.")
            .answer("real.svc.cluster.local. 300 CNAME out.example.")
            .answer("out.example. 300 A 192.0.2.1"),
        "web.svc.cluster.local." => q.says("NOERROR").authority("cluster.local. 30 SOA 30"),
        "other.corp." => q.says("NOERROR").answer("@ 300 A 192.0.2.2"),
        _ => q.says("NXDOMAIN").authority("svc.cluster.local. 30 SOA 30"),
    });
    let rewrite = "corp.: {group: vpc, rewrite: {from: dev.corp, to: svc.cluster.local}}";
    let nodens = with_routes(&server, rewrite, "");
    let text = |name: &[u8]| crate::server::text_of(name);
    for over in BOTH {
        let reply = ask(&nodens, "WEB.dev.corp. A", over);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1 CNAME CNAME");
        let chain: Vec<_> = reply.message.section(Section::Answer).collect();
        let owners: Vec<_> = chain.iter().map(|record| text(&record.owner)).collect();
        assert_eq!(owners, ["web.dev.corp.", "real.dev.corp.", "out.example."]);
        assert_eq!(text(&chain[0].rdata), "real.dev.corp.");
        assert_eq!(text(&chain[1].rdata), "out.example.");

        let reply = ask(&nodens, "web.dev.corp. AAAA", over);
        assert_eq!(reply.gist(), "NOERROR");
        assert_eq!(soa(&reply.message), ("dev.corp.".to_owned(), 30, 30));
        let reply = ask(&nodens, "no.dev.corp. A", over);
        assert_eq!(reply.gist(), "NXDOMAIN");
        assert_eq!(soa(&reply.message), ("dev.corp.".to_owned(), 30, 30));
    }
    assert_eq!(says(&nodens, "other.corp. A"), "NOERROR 192.0.2.2");
    assert_eq!(
        server.asked_for("web.svc.cluster.local. A"),
        1,
        "then cached"
    );
    assert_eq!(server.count(), 4);
    let trusting = question("web.dev.corp. A").flags(flag::RD | flag::AD);
    assert!(
        !send(&nodens, &trusting, Over::Udp).has(flag::AD),
        "no longer what was signed"
    );
}

#[test]
fn a_name_that_would_become_too_long_is_not_asked_for() {
    let server = knows_everything();
    let long = format!(
        "rewrite: {{from: x, to: {}}}",
        vec!["y".repeat(60); 4].join(".")
    );
    let nodens = with_routes(&server, &format!("x.: {{group: vpc, {long}}}"), "");
    let name = format!("{}.x. A", "z".repeat(40));
    let reply = send(&nodens, &question(&name).payload(1232), Over::Udp);
    assert_eq!(reply.gist(), "SERVFAIL");
    let why = "the name that rewrite makes has more than 255 octets".to_owned();
    assert_eq!(extended_errors(&reply.message), [(0, why)]);
    assert_eq!(server.count(), 0);
}

#[test]
fn localhost_is_the_host_itself_unless_the_configuration_says_otherwise() {
    let server = knows_everything();
    let nodens = with_routes(&server, "", "");
    for (text, want) in [
        ("localhost. A", "NOERROR 127.0.0.1"),
        ("localhost. AAAA", "NOERROR ::1"),
        ("db.localhost. A", "NOERROR 127.0.0.1"),
        ("localhost. TXT", "NOERROR"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
    assert_eq!(server.count(), 0, "nobody is asked");
    assert_eq!(says(&nodens, "localhost.example. A"), "NOERROR 192.0.2.1");

    let nodens = with_routes(&server, "localhost: vpc", "");
    assert_eq!(says(&nodens, "localhost. A"), "NOERROR 192.0.2.1");
    let nodens = with_routes(&server, "", "records: {localhost: {A: 127.0.0.7}}\n");
    assert_eq!(says(&nodens, "localhost. A"), "NOERROR 127.0.0.7");
}

#[test]
fn names_of_tor_and_of_resolver_discovery_stay_here_unless_the_configuration_says_otherwise() {
    let server = knows_everything();
    let nodens = with_routes(&server, "", "");
    for (text, want) in [
        ("onion. A", "NXDOMAIN"),
        ("web.onion. AAAA", "NXDOMAIN"),
        ("_dns.resolver.arpa. HTTPS", "NOERROR"),
        ("resolver.arpa. A", "NOERROR"),
    ] {
        assert_eq!(says(&nodens, text), want, "{text}");
    }
    assert_eq!(server.count(), 0, "nobody is asked");
    assert_eq!(says(&nodens, "web.xonion. A"), "NOERROR 192.0.2.1");

    let nodens = with_routes(&server, "onion: vpc, resolver.arpa: vpc", "");
    assert_eq!(says(&nodens, "web.onion. A"), "NOERROR 192.0.2.1");
    assert_eq!(says(&nodens, "_dns.resolver.arpa. A"), "NOERROR 192.0.2.1");
}
