//! Wrong data: what servers say that must not be taken, or not be passed on, as it stands.

use std::time::{Duration, Instant};

use crate::client::{
    BOTH, always, ask, group_of, in_front_of, question, says, send, settled, tiers,
};
use crate::common::dns::{Over, Section, flag, rr};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server};
use crate::wire::extended_errors;

/// Long enough that nothing asks again by itself, for a name that is gone for good.
const GONE: &str = "corp. 3600 SOA 3600";

/// `x.corp. A` is 10.0.0.1 for a second; `y.corp. A` for an hour.
fn vpc() -> Server {
    Server::start(|q: &Query| {
        let ttl = if q.name == "x.corp." { 1 } else { 3600 };
        q.says("NOERROR").answer(&format!("@ {ttl} A 10.0.0.1"))
    })
}

/// Knows no name of corp.
fn public() -> Server {
    Server::start(|q: &Query| q.says("NXDOMAIN").authority(GONE))
}

/// vpc answered `x.corp. A`, then `vpc_fails`; public says something negative. For three seconds after the answer has
/// expired, the client gets it all the same; then vpc is back with a new one.
fn outage_of_the_first_tier(
    public: &Server,
    vpc_fails: impl Fn(&Query) -> Does + Send + Sync + 'static,
) {
    let vpc = vpc();
    let nodens = tiers(&vpc, public, "");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 10.0.0.1");
    vpc.now_says(vpc_fails);
    let mut expired = None;
    always(
        &nodens,
        "x.corp. A",
        &["NOERROR 10.0.0.1"],
        "vpc was asked again, three seconds ago",
        || {
            if vpc.asked_for("x.corp. A") > 1 {
                expired.get_or_insert_with(Instant::now);
            }
            expired.is_some_and(|at| at.elapsed() > Duration::from_secs(3))
        },
    );
    vpc.now_says(|q| q.says("NOERROR").answer("@ 60 A 10.0.0.2"));
    wait_for("the new address of x.corp", || {
        let got = says(&nodens, "x.corp. A");
        assert!(got.starts_with("NOERROR 10.0.0."), "{got}");
        (got == "NOERROR 10.0.0.2").then_some(())
    });
}

#[test]
fn an_expired_answer_of_the_first_tier_outranks_the_seconds_no_such_name_when_the_first_fails() {
    outage_of_the_first_tier(&public(), |q| q.says("SERVFAIL").into());
}

#[test]
fn an_expired_answer_of_the_first_tier_outranks_the_seconds_no_such_name_when_the_first_is_silent()
{
    outage_of_the_first_tier(&public(), |_| Does::Silence);
}

#[test]
fn an_expired_answer_of_the_first_tier_outranks_the_seconds_empty_answer() {
    let public = Server::start(|q: &Query| q.says("NOERROR").authority(GONE));
    outage_of_the_first_tier(&public, |q| q.says("SERVFAIL").into());
}

#[test]
fn an_expired_answer_of_the_first_tier_outranks_the_seconds_no_such_name_without_soa() {
    let public = Server::start(|q: &Query| q.says("NXDOMAIN"));
    outage_of_the_first_tier(&public, |q| q.says("REFUSED").into());
}

#[test]
fn what_the_first_tier_said_holds_for_its_ttl_though_a_prefetch_reaches_the_second() {
    let vpc = Server::start(|q: &Query| q.says("NOERROR").answer("@ 10 A 10.0.0.1"));
    let public = Server::start(|q: &Query| q.says("NOERROR").answer("@ 60 A 192.0.2.9"));
    let nodens = tiers(&vpc, &public, "cache: {prefetch: {hits: 1, percent: 90}}\n");
    let started = Instant::now();
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 10.0.0.1");
    vpc.now_says(|q| q.says("SERVFAIL"));
    let mut first = None;
    let asked = || public.asked_for("x.corp. A");
    always(
        &nodens,
        "x.corp. A",
        &["NOERROR 10.0.0.1"],
        "the second tier was asked three times",
        || {
            if asked() > 0 {
                first.get_or_insert_with(Instant::now);
            }
            asked() > 2
        },
    );
    let first = first.expect("asked three times");
    assert!(
        first.elapsed() >= Duration::from_secs(1),
        "one prefetch a second at most: {:?}",
        first.elapsed()
    );
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "it was still fresh"
    );
    wait_for(
        "the second tier's word, once the first one's is over",
        || {
            let got = says(&nodens, "x.corp. A");
            let fresh = started.elapsed() < Duration::from_secs(9);
            assert!(got == "NOERROR 10.0.0.1" || !fresh, "{got}");
            (got == "NOERROR 192.0.2.9").then_some(())
        },
    );
}

#[test]
fn a_later_tiers_no_such_name_is_told_for_half_a_minute_at_most() {
    let (vpc, public) = (vpc(), public());
    let nodens = tiers(&vpc, &public, "");
    vpc.now_says(|q| q.says("SERVFAIL"));
    for over in BOTH {
        let reply = ask(&nodens, "y.corp. A", over);
        assert_eq!(reply.gist(), "NXDOMAIN");
        let told = reply.message.records[0].ttl;
        assert!(told <= 30, "told to be kept {told} s over {over:?}");
    }
}

#[test]
fn a_later_tiers_no_such_name_is_forgotten_after_tiers_max_negative_ttl() {
    let (vpc, public) = (vpc(), public());
    let nodens = tiers(&vpc, &public, "tiers: {max_negative_ttl: 1s}\n");
    vpc.now_says(|q| q.says("SERVFAIL"));
    assert_eq!(says(&nodens, "y.corp. A"), "NXDOMAIN");
    vpc.now_says(|q| q.says("NOERROR").answer("@ 60 A 10.0.0.1"));
    let started = Instant::now();
    wait_for("y.corp's address", || {
        (says(&nodens, "y.corp. A") == "NOERROR 10.0.0.1").then_some(())
    });
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn an_expired_empty_answer_of_the_first_tier_outranks_the_seconds_no_such_name() {
    // musl fails the lookup of A and AAAA if either does not exist.
    let vpc = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 1 A 10.0.0.1"),
        _ => q.says("NOERROR").authority("corp. 1 SOA 1"),
    });
    let public = public();
    let nodens = tiers(&vpc, &public, "");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 10.0.0.1");
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NOERROR");
    vpc.now_says(|q| q.says("SERVFAIL"));
    always(
        &nodens,
        "x.corp. AAAA",
        &["NOERROR"],
        "public was asked three times",
        || public.asked_for("x.corp. AAAA") >= 3,
    );
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 10.0.0.1");
}

#[test]
fn a_later_tiers_no_such_name_is_not_served_once_it_expired() {
    let (vpc, public) = (vpc(), public());
    let nodens = tiers(&vpc, &public, "tiers: {max_negative_ttl: 1s}\n");
    vpc.now_says(|q| q.says("SERVFAIL"));
    assert_eq!(says(&nodens, "y.corp. A"), "NXDOMAIN");
    public.now_says(|q| q.says("SERVFAIL"));
    wait_for("the end of its lifetime", || {
        (says(&nodens, "y.corp. A") == "SERVFAIL").then_some(())
    });
}

/// A load balancer's way of saying "no such record": its own name servers, authoritative, and no SOA.
fn load_balancer(head: &'static str) -> Server {
    Server::start(move |q: &Query| {
        if q.is("app.corp. A") {
            return q.says(head).answer("@ 60 A 10.0.0.9");
        }
        q.says(head).authority("corp. 3600 NS ns1.corp.")
    })
}

#[test]
fn an_authoritative_answer_with_ns_records_alone_is_nodata() {
    for head in ["NOERROR aa", "NOERROR aa -ra"] {
        let (first, second, public) = (load_balancer(head), load_balancer(head), public());
        let yaml = format!(
            "workers: 1\nupstreams:\n  vpc: {{servers: [\"{}\", \"{}\"]}}\n  public: {{servers: [\"{}\"]}}\n\
             routes: {{\".\": [vpc, public]}}\n",
            first.address, second.address, public.address
        );
        let nodens = settled(&yaml, &[first.over(""), second.over(""), public.over("")]);
        for (text, want) in [
            ("app.corp. A", "NOERROR 10.0.0.9"),
            ("app.corp. AAAA", "NOERROR"),
        ] {
            assert_eq!(says(&nodens, text), want, "{head}: {text}");
        }
        assert_eq!(second.count(), 0, "{head}: one server's word is enough");
        assert_eq!(
            public.count(),
            0,
            "{head}: the next tier is none of its business"
        );
    }
}

#[test]
fn a_referral_is_passed_over_as_before() {
    let (vpc, public) = (
        Server::start(|q: &Query| q.says("NOERROR -ra").authority("corp. 3600 NS ns1.corp.")),
        Server::start(|q: &Query| q.says("NOERROR").answer("@ 60 A 192.0.2.7")),
    );
    let nodens = tiers(&vpc, &public, "");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 192.0.2.7");
}

/// A lame answer: no record at all, neither recursion nor authority. glibc and Go leave such a server for the next one.
fn lame(q: &Query) -> crate::wire::Says {
    q.says("NOERROR -ra")
}

#[test]
fn a_lame_answer_moves_to_the_next_server_and_to_the_next_tier() {
    let (first, second) = (
        Server::start(lame),
        Server::start(|q: &Query| q.says("NOERROR").answer("@ 60 A 10.0.0.2")),
    );
    let servers = [first.over(""), second.over("")];
    let nodens = settled(&group_of(&servers, ""), &servers);
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.2");
    assert_eq!(first.count(), 1);
    let nodens = tiers(&first, &second, "");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.2");
}

#[test]
fn a_lame_answer_of_all_servers_is_the_clients() {
    let (first, second) = (Server::start(lame), Server::start(lame));
    let servers = [first.over(""), second.over("")];
    let nodens = settled(&group_of(&servers, ""), &servers);
    assert_eq!(says(&nodens, "app.corp. AAAA"), "NOERROR");
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[test]
fn a_lame_answer_beside_a_failure_is_not_taken_for_no_such_record() {
    let (first, second) = (
        Server::start(lame),
        Server::start(|q: &Query| q.says("SERVFAIL")),
    );
    let servers = [first.over(""), second.over("")];
    let nodens = settled(&group_of(&servers, ""), &servers);
    let reply = send(&nodens, &question("app.corp. A").payload(1232), Over::Udp);
    assert_eq!(reply.gist(), "SERVFAIL");
    let (_, text) = extended_errors(&reply.message).remove(0);
    let want = format!("{} does not resolve (lame)", first.address);
    assert!(text.contains(&want), "{text}");
}

#[test]
fn an_empty_answer_with_one_sign_of_sense_is_final() {
    for (head, authority) in [
        ("NOERROR", None),
        ("NOERROR aa -ra", None),
        ("NOERROR -ra", Some("corp. 60 SOA 60")),
    ] {
        let first = Server::start(move |q: &Query| {
            let says = q.says(head);
            authority.map_or(says.clone(), |record| says.authority(record))
        });
        let second = Server::start(|q: &Query| q.says("NOERROR").answer("@ 60 A 10.0.0.2"));
        let servers = [first.over(""), second.over("")];
        let nodens = settled(&group_of(&servers, ""), &servers);
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR", "{head}");
        assert_eq!(second.count(), 0, "{head}");
    }
}

/// A server says `first` (a negative answer), and a client asks until it has expired. By then the name exists, and the
/// answer takes 0.7 s, longer than an expired answer waits for a fresh one.
fn a_name_that_came_to_be(options: &str, first: fn(&Query) -> crate::wire::Says) {
    let server = Server::start(first);
    let yaml = format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": {{group: group{options}}}}}\n",
        server.address
    );
    let nodens = settled(&yaml, &[server.over("")]);
    let before = says(&nodens, "new.corp. A");
    assert!(!before.contains("10.0.0.1"), "{before}");
    server.now_says(|q| {
        let answer = q.says("NOERROR").answer("@ 60 A 10.0.0.1");
        answer.after(Duration::from_millis(700))
    });
    let reply = wait_for("the reply for which the server was asked anew", || {
        let asked = server.asked_for("new.corp. A");
        let reply = says(&nodens, "new.corp. A");
        (server.asked_for("new.corp. A") > asked).then_some(reply)
    });
    assert_eq!(reply, "NOERROR 10.0.0.1");
}

#[test]
fn a_name_that_exists_by_now_is_answered_and_not_denied_from_memory() {
    a_name_that_came_to_be(", max_negative_ttl: 1s", |q| {
        q.says("NXDOMAIN").authority(GONE)
    });
}

#[test]
fn a_name_that_exists_by_now_is_answered_where_the_route_sets_no_limit() {
    a_name_that_came_to_be("", |q| q.says("NXDOMAIN").authority("corp. 1 SOA 1"));
}

#[test]
fn a_type_that_exists_by_now_is_answered_and_not_denied_from_memory() {
    a_name_that_came_to_be("", |q| q.says("NOERROR").authority("corp. 1 SOA 1"));
}

/// A server says NXDOMAIN for a second and falls silent; what a client hears when that has expired and the server is
/// known to be down.
fn denied_and_then_silent(options: &str, cache: &str) -> (Server, Nodens) {
    let server = Server::start(|q: &Query| q.says("NXDOMAIN").authority("corp. 1 SOA 1"));
    let yaml = format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": {{group: group{options}}}}}\n{cache}",
        server.address
    );
    let nodens = settled(&yaml, &[server.over("")]);
    assert_eq!(says(&nodens, "gone.corp. A"), "NXDOMAIN");
    server.falls_silent();
    wait_for("the server to be down", || {
        says(&nodens, "gone.corp. A");
        // A second name, so that two are overdue.
        says(&nodens, &format!("n{}.corp. A", fastrand::u32(..)));
        let labels = [("state", "down")];
        (nodens.metric("nodens_upstream_state", &labels) >= 1.0).then_some(())
    });
    (server, nodens)
}

#[test]
fn an_expired_no_such_name_is_served_while_servers_are_down() {
    let (_server, nodens) = denied_and_then_silent("", "");
    assert_eq!(says(&nodens, "gone.corp. A"), "NXDOMAIN");
}

#[test]
fn a_route_with_max_negative_ttl_serves_no_expired_no_such_name() {
    let (_server, nodens) = denied_and_then_silent(", max_negative_ttl: 1s", "");
    wait_for("the end of its lifetime", || {
        (says(&nodens, "gone.corp. A") == "SERVFAIL").then_some(())
    });
}

#[test]
fn an_expired_no_such_name_is_served_for_its_own_maximum_age_only() {
    let cache = "cache: {stale: {max_negative_age: 2s}}\n";
    let (_server, nodens) = denied_and_then_silent("", cache);
    wait_for("the end of its age", || {
        (says(&nodens, "gone.corp. A") == "SERVFAIL").then_some(())
    });
}

/// Two servers of one group: the first validates and says that the answer is bogus, the second does not validate.
struct Validating {
    second: Server,
    nodens: Nodens,
    _first: Server,
}

impl Validating {
    fn start(scheme: &str, code: u16, options: &str) -> Self {
        let first = Server::start(move |q: &Query| {
            if q.cd {
                q.says("NOERROR").answer("@ 60 A 203.0.113.66")
            } else {
                q.says("SERVFAIL").ede(code)
            }
        });
        let second = Server::start(|q: &Query| q.says("NOERROR").answer("@ 60 A 203.0.113.66"));
        let servers = [first.over(scheme), second.over(scheme)];
        let options =
            format!("failover: {{start_fanout: 1, hedge_min: 10s, hedge_max: 10s}}{options}");
        let nodens = settled(&group_of(&servers, &options), &servers);
        Self {
            second,
            nodens,
            _first: first,
        }
    }
}

#[test]
fn a_validators_verdict_is_final() {
    for scheme in ["", "tcp://"] {
        // RFC 8914 §4.7 to 4.10: DNSSEC Bogus, Signature Expired, Signature Not Yet Valid, DNSKEY Missing.
        for code in 6..=9 {
            let v = Validating::start(scheme, code, "");
            for turn in ["first", "remembered"] {
                let ask = question("forged.example. A").payload(1232);
                let reply = send(&v.nodens, &ask, Over::Udp);
                assert_eq!(reply.gist(), "SERVFAIL", "{scheme} EDE {code}, {turn}");
                let told = extended_errors(&reply.message);
                assert_eq!(told.len(), 1, "{scheme} EDE {code}, {turn}: {told:?}");
                assert_eq!(told[0].0, code, "{scheme} EDE {code}, {turn}: {told:?}");
            }
            assert_eq!(
                v.second.count(),
                0,
                "{scheme} EDE {code}: nobody else is asked"
            );
        }
    }
}

#[test]
fn a_client_that_validates_by_itself_gets_the_answer() {
    let v = Validating::start("", 6, "");
    let ask = question("forged.example. A").flags(flag::RD | flag::CD);
    let reply = send(&v.nodens, &ask, Over::Udp);
    assert_eq!(reply.gist(), "NOERROR 203.0.113.66");
}

#[test]
fn a_failure_of_another_kind_moves_to_the_next_server() {
    // RFC 8914: Other, DNSSEC Indeterminate, Stale Answer, Not Ready, No Reachable Authority, Network Error.
    for code in [0, 5, 3, 14, 22, 23] {
        let v = Validating::start("", code, "");
        let got = says(&v.nodens, "lame.example. A");
        assert_eq!(got, "NOERROR 203.0.113.66", "EDE {code}");
    }
}

#[test]
fn a_validators_verdict_moves_to_the_next_server_where_the_group_says_so() {
    let v = Validating::start("", 6, ", bogus: failover");
    assert_eq!(says(&v.nodens, "forged.example. A"), "NOERROR 203.0.113.66");
    let v = Validating::start("", 6, ", bogus: final");
    assert_eq!(says(&v.nodens, "forged.example. A"), "SERVFAIL");
}

#[test]
fn what_was_valid_when_it_came_stands_in_for_what_is_bogus() {
    let server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 1 A 10.0.0.1"));
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, "signed.example. A"), "NOERROR 10.0.0.1");
    server.now_says(|q| q.says("SERVFAIL").ede(7));
    always(
        &nodens,
        "signed.example. A",
        &["NOERROR 10.0.0.1"],
        "the server was asked again",
        || server.asked_for("signed.example. A") > 1,
    );
    assert_eq!(says(&nodens, "signed.example. A"), "NOERROR 10.0.0.1");
}

/// A server that answers everything with its number.
fn numbered(number: u8) -> Server {
    Server::start(move |q: &Query| {
        let answer = q.says("NOERROR");
        if q.qtype == rr::DS {
            answer.answer(&format!("@ 60 DS {number}"))
        } else {
            answer.answer(&format!("@ 60 A 10.0.0.{number}"))
        }
    })
}

#[test]
fn ds_of_a_routes_apex_is_asked_of_the_parents_route() {
    let (root, corp, sub) = (numbered(1), numbered(2), numbered(3));
    let yaml = format!(
        "workers: 1\nupstreams: {{root: {{servers: [\"{}\"]}}, corp: {{servers: [\"{}\"]}}, sub: {{servers: [\"{}\"]}}}}\n\
         routes: {{\".\": root, corp.example: corp, sub.corp.example: sub}}\n",
        root.address, corp.address, sub.address
    );
    let servers = [&root, &corp, &sub];
    let nodens = settled(&yaml, &servers.map(|server| server.over("")));
    for (text, right) in [
        ("corp.example. DS", &root),
        ("sub.corp.example. DS", &corp),
        ("SUB.corp.example. DS", &corp),
        // Not at an apex, or not DS: the longest zone.
        ("host.sub.corp.example. DS", &sub),
        ("corp.example. A", &corp),
        ("sub.corp.example. A", &sub),
    ] {
        for over in BOTH {
            ask(&nodens, text, over);
        }
        let text = text.replace("SUB", "sub");
        let asked = servers.map(|server| server.asked_for(&text));
        let want = servers.map(|server| usize::from(std::ptr::eq(server, right)));
        assert_eq!(asked, want, "{text}: asked of [root, corp, sub]");
    }
}

#[test]
fn ds_of_the_root_is_asked_of_the_roots_route() {
    // The root has no parent. Its DS looks like a probe to the other tests' scripts.
    let root = Server::start_for_all(|q: &Query| {
        if q.is(". DS") {
            q.says("NOERROR").answer("@ 60 DS 1")
        } else {
            q.honest()
        }
    });
    assert_eq!(says(&in_front_of(&root), ". DS"), "NOERROR DS");
}

#[test]
fn records_of_one_set_have_the_lowest_of_their_ttls() {
    let server = Server::start(|q: &Query| {
        q.says("NOERROR")
            .answer("@ 300 CNAME web.example.")
            .answer("web.example. 200 A 192.0.2.1")
            .answer("WEB.example. 60 A 192.0.2.2")
            .answer("@ 250 A 192.0.2.9")
            .answer("web.example. 90 A 192.0.2.3")
    });
    let nodens = in_front_of(&server);
    for turn in ["first", "cached"] {
        for over in BOTH {
            let mut ttls = ask(&nodens, "www.example. A", over).ttls(Section::Answer);
            ttls.sort();
            // A second may pass between the answer and a hit.
            let aged: Vec<String> = ttls
                .iter()
                .map(|text| {
                    let (ttl, data) = text.split_once(' ').expect("a TTL");
                    let ttl: u32 = ttl.parse().expect("a number");
                    format!("{} {data}", ttl.div_ceil(10) * 10)
                })
                .collect();
            let want = [
                "250 192.0.2.9",
                "300 CNAME",
                "60 192.0.2.1",
                "60 192.0.2.2",
                "60 192.0.2.3",
            ];
            assert_eq!(aged, want, "{turn} over {over:?}");
        }
    }
}

#[test]
fn signatures_of_one_owner_are_no_set() {
    // RFC 4034 §3: their TTLs follow what they cover.
    let server = Server::start(|q: &Query| {
        q.says("NOERROR")
            .answer("@ 300 CNAME web.example.")
            .answer("@ 300 RRSIG CNAME")
            .answer("@ 60 RRSIG A")
    });
    let nodens = in_front_of(&server);
    let reply = send(&nodens, &question("www.example. A").dnssec_ok(), Over::Udp);
    let want = ["300 CNAME", "300 RRSIG", "60 RRSIG"];
    assert_eq!(reply.ttls(Section::Answer), want);
}

#[test]
fn a_negative_answer_is_told_to_be_kept_for_the_lesser_of_ttl_and_minimum() {
    // RFC 2308 §5: the TTL of the SOA record that a client sees.
    for head in ["NXDOMAIN", "NOERROR"] {
        for (soa, at_most) in [("corp. 3600 SOA 30", 30), ("corp. 20 SOA 3600", 20)] {
            let server = Server::start(move |q: &Query| q.says(head).authority(soa));
            let nodens = in_front_of(&server);
            for turn in ["first", "cached"] {
                for over in BOTH {
                    let reply = ask(&nodens, "no.corp. A", over);
                    let told = reply.message.records[0].ttl;
                    let right = told <= at_most && told + 5 > at_most;
                    assert!(right, "{head}, {soa}: {told} s, {turn} over {over:?}");
                }
            }
        }
    }
}

#[test]
fn recursion_is_available_whatever_the_server_says() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "no.corp." => q.says("NXDOMAIN -ra").authority("corp. 3600 SOA 300"),
        _ => q.says("NOERROR -ra").answer("@ 300 A 10.0.0.1"),
    });
    let nodens = in_front_of(&server);
    for text in ["yes.corp. A", "no.corp. A"] {
        for turn in ["first", "cached"] {
            for over in BOTH {
                let reply = ask(&nodens, text, over);
                assert!(
                    reply.has(flag::RA),
                    "{text}, {turn} over {over:?}: {reply:?}"
                );
            }
        }
    }
}

/// RFC 1035 §4.1.1.
#[test]
fn the_reserved_header_bit_is_zero_whatever_the_server_says() {
    const RESERVED: u16 = 0x0040;
    let server = Server::start(|q: &Query| {
        let says = match &q.name[..] {
            "no.corp." => q.says("NXDOMAIN").authority("corp. 3600 SOA 300"),
            _ => q.says("NOERROR").answer("@ 300 A 10.0.0.1"),
        };
        let mut message = says.bytes();
        message[3] |= RESERVED.to_be_bytes()[1];
        message
    });
    let nodens = in_front_of(&server);
    for text in ["yes.corp. A", "no.corp. A"] {
        for turn in ["first", "cached"] {
            let reply = send(&nodens, &question(text), Over::Udp);
            let told = reply.message.flags & RESERVED;
            assert_eq!(told, 0, "{text}, {turn}: {reply:?}");
        }
    }
}

/// RFC 2181 §8: a TTL whose highest bit is set counts as zero, as does a MINIMUM. Zero is for the question at hand.
#[test]
fn what_has_no_time_to_live_is_told_and_not_kept() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "high.corp." => q.says("NOERROR").answer("@ 2147483649 A 10.0.0.1"),
        "zero.corp." => q.says("NOERROR").answer("@ 0 A 10.0.0.1"),
        "alias.corp." => q
            .says("NOERROR")
            .answer("@ 0 CNAME zero.corp.")
            .answer("zero.corp. 300 A 10.0.0.1"),
        "none.corp." => q.says("NXDOMAIN").authority("corp. 300 SOA 0"),
        _ => q.says("NXDOMAIN").authority("corp. 2147483649 SOA 300"),
    });
    let nodens = in_front_of(&server);
    for (text, want) in [
        ("high.corp. A", "0 10.0.0.1"),
        ("zero.corp. A", "0 10.0.0.1"),
        ("alias.corp. A", "0 CNAME"),
        ("none.corp. A", "0 TYPE6"),
        ("long.corp. A", "0 TYPE6"),
    ] {
        for turn in 1..=2 {
            let reply = ask(&nodens, text, Over::Udp);
            let section = match reply.message.count(Section::Answer) {
                0 => Section::Authority,
                _ => Section::Answer,
            };
            assert_eq!(reply.ttls(section)[0], want, "{text}: {reply:?}");
            assert_eq!(server.asked_for(text), turn, "{text} is asked each time");
        }
    }
}

#[test]
fn an_answer_from_the_cache_is_not_authoritative() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "no.corp." => q.says("NXDOMAIN aa").authority("corp. 3600 SOA 300"),
        _ => q.says("NOERROR aa").answer("@ 300 A 10.0.0.1"),
    });
    let nodens = in_front_of(&server);
    for text in ["yes.corp. A", "no.corp. A"] {
        says(&nodens, text);
        for over in BOTH {
            let reply = ask(&nodens, text, over);
            assert!(!reply.has(flag::AA), "{text} over {over:?}: {reply:?}");
        }
        assert_eq!(server.asked_for(text), 1, "{text} came from the cache");
    }
}

/// Four addresses.
fn four(q: &Query, ttl: u32) -> crate::wire::Says {
    (1..=4).fold(q.says("NOERROR"), |says, number| {
        says.answer(&format!("@ {ttl} A 10.0.0.{number}"))
    })
}

#[test]
fn stale_answers_take_turns_in_what_comes_first() {
    let mut server = Server::start(|q: &Query| four(q, 1));
    let nodens = in_front_of(&server);
    says(&nodens, "web.corp. A");
    server.stops();
    wait_for("a stale answer", || {
        let reply = ask(&nodens, "web.corp. A", Over::Udp);
        // TTL 1 while it is fresh, 30 when it is stale.
        (reply.message.records[0].ttl > 1).then_some(())
    });
    let replies: Vec<_> = (0..40)
        .map(|_| ask(&nodens, "web.corp. A", Over::Udp))
        .collect();
    let stale = |reply: &&crate::client::Reply| reply.message.records[0].ttl > 1;
    assert!(replies.iter().all(|reply| stale(&reply)), "all are stale");
    let mut first: Vec<_> = replies.iter().map(crate::client::Reply::first).collect();
    first.sort();
    first.dedup();
    assert!(first.len() > 1, "40 replies begin with {first:?}");
}

#[test]
fn clients_that_waited_for_one_answer_take_turns_in_what_comes_first() {
    use crate::common::dns::{Message, receive, udp_to};
    let server = Server::start(|q: &Query| four(q, 300).after(Duration::from_millis(500)));
    let nodens = in_front_of(&server);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let client = udp_to(nodens.address()).expect("a socket");
            let ask = question("web.corp. A");
            client.send(&ask.message()).expect("sent");
            client
        })
        .collect();
    let mut first: Vec<_> = clients
        .iter()
        .map(|client| {
            let reply = receive(client).expect("a reply");
            let message = Message::read(&reply).expect("well-formed");
            let took = Duration::ZERO;
            crate::client::Reply { message, took }.first()
        })
        .collect();
    nodens.wait_for_metric("nodens_coalesced_total", &[], 30.0);
    first.sort();
    first.dedup();
    assert!(first.len() > 1, "40 replies begin with {first:?}");
}

/// A name had an address; then the server says `says`, which may not be kept, and stops. The address does not come back.
fn what_was_said_since_counts(says_since: fn(&Query) -> crate::wire::Says, options: &str) {
    let mut server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 1 A 10.0.0.1"));
    let yaml = format!("{}{options}", group_of(&[server.over("")], ""));
    let nodens = settled(&yaml, &[server.over("")]);
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 10.0.0.1");
    server.now_says(says_since);
    wait_for("the server's new word", || {
        (says(&nodens, "x.corp. A") != "NOERROR 10.0.0.1").then_some(())
    });
    server.stops();
    for over in BOTH {
        let reply = ask(&nodens, "x.corp. A", over);
        assert_ne!(reply.gist(), "NOERROR 10.0.0.1", "{reply:?}");
    }
}

#[test]
fn an_address_is_not_served_again_after_a_denial_without_soa() {
    what_was_said_since_counts(|q| q.says("NXDOMAIN"), "");
}

#[test]
fn an_address_is_not_served_again_after_a_denial_that_may_not_be_kept() {
    what_was_said_since_counts(|q| q.says("NXDOMAIN").authority("corp. 0 SOA 0"), "");
    what_was_said_since_counts(|q| q.says("NOERROR").authority("corp. 0 SOA 0"), "");
}

#[test]
fn an_address_is_not_served_again_after_another_one_with_ttl_0() {
    what_was_said_since_counts(|q| q.says("NOERROR").answer("@ 0 A 10.0.0.2"), "");
}

#[test]
fn an_address_is_not_served_again_after_a_denial_that_the_route_does_not_keep() {
    what_was_said_since_counts(
        |q| q.says("NXDOMAIN").authority("corp. 60 SOA 60"),
        "cache: {max_negative_ttl: 0s}\n",
    );
}
