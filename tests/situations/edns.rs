//! Servers, and firewalls in front of them, that cannot bear EDNS or the AD bit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{Reply, ask, group_of, question, says, send, settled};
use crate::common::dns::{Over, flag, question_end, rcode};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server};

/// What a server does with what it cannot bear, which it does to probes too.
type Refusal = fn(&Query) -> Does;

const FORMERR: Refusal = |q| q.says("FORMERR").without_opt().into();
const NOTIMP: Refusal = |q| q.says("NOTIMP").without_opt().into();
const SILENCE: Refusal = |_| Does::Silence;
/// As a server of the next EDNS version might: with an OPT of its own.
const BADVERS: Refusal = |q| q.says("BADVERS").into();
/// The header alone, without the question.
const BARE_FORMERR: Refusal = |q| {
    let mut header = q.says("FORMERR").without_opt().bytes();
    header.truncate(12);
    header[5] = 0;
    header.into()
};
/// Header and question, and ARCOUNT as in the query although nothing follows.
const LYING_FORMERR: Refusal = |q| {
    let mut message = q.says("FORMERR").without_opt().bytes();
    message[11] = 1;
    message.into()
};
/// Header with the query's QDCOUNT and ARCOUNT, and nothing else.
const LYING_BARE_FORMERR: Refusal = |q| {
    let mut header = q.says("FORMERR").without_opt().bytes();
    header.truncate(12);
    header[11] = 1;
    header.into()
};
/// The query as it came, OPT and all, with QR and FORMERR set.
const ECHOED_FORMERR: Refusal = |q| {
    let mut echo = q.bytes.clone();
    echo[2] |= 0x80;
    echo[3] = echo[3] & 0xf0 | rcode::FORMERR.to_be_bytes()[1];
    echo.into()
};
/// The same with NOTIMP.
const ECHOED_NOTIMP: Refusal = |q| {
    let mut echo = q.bytes.clone();
    echo[2] |= 0x80;
    echo[3] = echo[3] & 0xf0 | rcode::NOTIMP.to_be_bytes()[1];
    echo.into()
};

/// An answer with OPT in its answer section, and the address behind it in the additional one, as some home routers give it.
const MISPLACED_OPT: Refusal = |q| {
    let mut message = q.honest().without_opt().bytes();
    if !q.probe {
        let opt = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
        let answers = question_end(&message);
        message.splice(answers..answers, opt);
        message[11] = 1;
    }
    message.into()
};

/// Refuses every query with OPT in this way, and answers the others.
fn refuses_edns(refusal: Refusal) -> Server {
    Server::start_for_all(move |q: &Query| {
        if q.edns {
            refusal(q)
        } else {
            q.honest().without_opt().into()
        }
    })
}

fn start(server: &Server, scheme: &str) -> Nodens {
    Nodens::start(&group_of(&[server.over(scheme)], ""))
}

/// A server that refuses something answers all the same: the first names within the deadline, further ones at once
/// and at one query each. It is never thought to be down for long.
fn is_answered(server: &Server, nodens: &Nodens, bears: impl Fn(&Query) -> bool) {
    for name in ["first.corp. A", "second.corp. A"] {
        let reply = ask(nodens, name, Over::Udp);
        assert_eq!(
            reply.gist(),
            "NOERROR 192.0.2.1",
            "{name}\n{}",
            nodens.log()
        );
    }
    // A probe that was lost before may still have its say.
    wait_for("the server to be good", || {
        (nodens.metric("nodens_upstream_state", &[("state", "good")]) >= 1.0).then_some(())
    });
    let before = server.count();
    let replies: Vec<Reply> = (0..10)
        .map(|n| ask(nodens, &format!("then{n}.corp. A"), Over::Udp))
        .collect();
    for reply in &replies {
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1", "{}", nodens.log());
    }
    let slow = replies
        .iter()
        .filter(|reply| reply.took > Duration::from_millis(150));
    assert!(
        slow.count() <= 1,
        "{:?}",
        replies.iter().map(|r| r.took).collect::<Vec<_>>()
    );
    let refused = server.asked()[before..]
        .iter()
        .filter(|q| !bears(q))
        .count();
    assert!(
        refused <= 1,
        "of 10 further queries it had to refuse {refused}"
    );
    let asked = server.count() - before;
    assert!(asked <= 12, "10 further questions took {asked} queries");
}

fn edns_is_left_out(refusal: Refusal, scheme: &str) {
    let server = refuses_edns(refusal);
    let nodens = start(&server, scheme);
    is_answered(&server, &nodens, |q| !q.edns);
}

#[test]
fn formerr_to_edns_is_remembered() {
    edns_is_left_out(FORMERR, "");
}

#[test]
fn formerr_to_edns_without_the_question_is_remembered() {
    edns_is_left_out(BARE_FORMERR, "");
}

#[test]
fn formerr_to_edns_with_an_arcount_that_lies_is_understood() {
    edns_is_left_out(LYING_FORMERR, "");
}

#[test]
fn formerr_to_edns_with_counts_and_no_question_is_understood() {
    edns_is_left_out(LYING_BARE_FORMERR, "");
}

#[test]
fn formerr_to_edns_that_echoes_the_query_is_understood() {
    edns_is_left_out(ECHOED_FORMERR, "");
}

#[test]
fn notimp_to_edns_is_understood() {
    edns_is_left_out(NOTIMP, "");
}

#[test]
fn notimp_to_edns_that_echoes_the_query_is_understood() {
    edns_is_left_out(ECHOED_NOTIMP, "");
}

#[test]
fn badvers_to_edns_version_0_is_understood() {
    edns_is_left_out(BADVERS, "");
}

/// Clients' own names fail so too often to ask for each again: probes find it out.
fn edns_is_left_out_by_probes(head: &'static str) {
    let server = Server::start_for_all(move |q: &Query| {
        if q.edns {
            q.says(head).without_opt()
        } else {
            q.honest().without_opt()
        }
    });
    let nodens = start(&server, "");
    wait_for("a probe to find it out", || {
        let server = server_in_status(&nodens, "group");
        (server["edns"] == "omitted").then_some(())
    });
    is_answered(&server, &nodens, |q| !q.edns);
}

#[test]
fn servfail_to_edns_is_found_out() {
    edns_is_left_out_by_probes("SERVFAIL");
}

#[test]
fn refused_to_edns_is_found_out() {
    edns_is_left_out_by_probes("REFUSED");
}

#[test]
fn a_misplaced_opt_is_understood() {
    edns_is_left_out(MISPLACED_OPT, "");
}

/// A code of which the low bits alone mean something else must not become that: BADCOOKIE is not YXRRSET, and what ends in
/// NOERROR is no empty answer.
#[test]
fn extended_codes_of_servers_do_not_become_others() {
    for code in [23_u16, 32, 35, 4095] {
        let server = Server::start(move |q: &Query| {
            let mut message = q.says("NOERROR").without_opt().bytes();
            message[3] |= code.to_be_bytes()[1] & 0x0f;
            message[11] = 1;
            let high = (code >> 4).to_be_bytes()[1];
            message.extend([0, 0, 41, 0x04, 0xd0, high, 0, 0, 0, 0, 0]);
            message
        });
        let nodens = start(&server, "");
        for ask in [
            question("web.corp. A"),
            question("web.corp. A").payload(1232),
        ] {
            for over in [Over::Udp, Over::Tcp] {
                let reply = send(&nodens, &ask, over);
                assert_eq!(reply.gist(), "SERVFAIL", "{code} over {over:?}: {reply:?}");
            }
        }
    }
}

#[test]
fn silence_to_edns_is_understood() {
    edns_is_left_out(SILENCE, "");
}

#[test]
fn formerr_to_edns_is_remembered_over_tcp() {
    edns_is_left_out(FORMERR, "tcp://");
}

#[test]
fn formerr_to_edns_with_an_arcount_that_lies_is_understood_over_tcp() {
    edns_is_left_out(LYING_FORMERR, "tcp://");
}

#[test]
fn notimp_to_edns_is_understood_over_tcp() {
    edns_is_left_out(NOTIMP, "tcp://");
}

#[test]
fn badvers_to_edns_version_0_is_understood_over_tcp() {
    edns_is_left_out(BADVERS, "tcp://");
}

#[test]
fn silence_to_edns_is_understood_over_tcp() {
    edns_is_left_out(SILENCE, "tcp://");
}

#[test]
fn a_client_that_wants_dnssec_is_answered_by_a_server_without_edns() {
    for (name, refusal) in [
        ("FORMERR", FORMERR),
        ("NOTIMP", NOTIMP),
        ("silence", SILENCE),
    ] {
        let server = refuses_edns(refusal);
        let nodens = start(&server, "");
        let question = question("signed.corp. A").dnssec_ok();
        let reply = send(&nodens, &question, Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1", "{name}");
        let opt = reply.message.opt.as_ref().map(|opt| opt.dnssec_ok);
        assert_eq!(
            opt,
            Some(true),
            "{name}: our own OPT repeats DO (RFC 3225 §3)"
        );
    }
}

/// It knows OPT, and takes the DO bit for a mistake.
#[test]
fn a_server_that_refuses_the_do_bit_alone_still_gets_edns_from_others() {
    let server = Server::start_for_all(|q: &Query| {
        let dnssec_ok = q.edns && q.bytes[q.bytes.len() - 4] & 0x80 != 0;
        if dnssec_ok {
            FORMERR(q)
        } else {
            q.honest().into()
        }
    });
    let nodens = settled(&group_of(&[server.over("")], ""), &[server.over("")]);
    for name in ["one.corp. A", "two.corp. A"] {
        let reply = send(&nodens, &question(name).dnssec_ok(), Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1", "{name}");
    }
    let before = server.count();
    assert_eq!(says(&nodens, "three.corp. A"), "NOERROR 192.0.2.1");
    let asked = &server.asked()[before..];
    assert!(asked.iter().all(|q| q.edns), "{asked:?}");
}

#[test]
fn notimp_of_a_server_that_bears_edns_moves_to_the_next_server() {
    let first = Server::start(|q: &Query| q.says("NOTIMP"));
    let second = Server::start(Query::honest);
    let servers = [first.over(""), second.over("")];
    let nodens = crate::client::settled(&group_of(&servers, ""), &servers);
    let reply = ask(&nodens, "web.corp. A", Over::Udp);
    assert_eq!(reply.gist(), "NOERROR 192.0.2.1");
}

#[test]
fn status_says_which_servers_do_without_edns() {
    let (without, with) = (refuses_edns(FORMERR), Server::start(Query::honest));
    let yaml = format!(
        "workers: 1\nupstreams: {{old: {{servers: [\"{}\"]}}, new: {{servers: [\"{}\"]}}}}\n\
         routes: {{corp: old, \".\": new}}\n",
        without.address, with.address
    );
    let nodens = Nodens::start(&yaml);
    for name in ["web.corp. A", "web.example. A"] {
        assert_eq!(ask(&nodens, name, Over::Udp).gist(), "NOERROR 192.0.2.1");
    }
    for (group, edns, refusal) in [("old", "omitted", Some("formerr")), ("new", "sent", None)] {
        let server = server_in_status(&nodens, group);
        assert_eq!(
            (server["edns"].as_str(), server["refusal"]["by"].as_str()),
            (Some(edns), refusal),
            "{server}"
        );
        assert_eq!(server["ad_bit"], "sent", "{server}");
    }
}

/// What /status says of a group's first server.
fn server_in_status(nodens: &Nodens, group: &str) -> serde_json::Value {
    let status = nodens.status();
    let groups = status["upstreams"].as_array().expect("groups");
    let group = groups.iter().find(|one| one["name"] == *group);
    group.expect("it is configured")["servers"][0].clone()
}

/// The right ID, and a question that nobody asked: somebody else's answer, or a forger's.
const ANOTHER_QUESTION: Refusal = |q| {
    let mut message = q.honest().bytes();
    let qtype = question_end(&message) - 3;
    message[qtype] ^= 1;
    message.into()
};

#[test]
fn answers_to_other_questions_are_no_sign_of_life() {
    let (first, second) = (
        Server::start_for_all(ANOTHER_QUESTION),
        Server::start(Query::honest),
    );
    let nodens = Nodens::start(&group_of(&[first.over(""), second.over("")], ""));
    wait_for("the server that answers other questions to be down", || {
        let server = &server_in_status(&nodens, "group")["health"][0];
        (server["state"] == "down").then_some(())
    });
    let reply = ask(&nodens, "example. A", Over::Udp);
    assert_eq!(reply.gist(), "NOERROR 192.0.2.1");
}

#[test]
fn status_says_how_edns_was_refused() {
    for (refusal, by) in [
        (NOTIMP, "notimp"),
        (BADVERS, "badvers"),
        (SILENCE, "silence"),
    ] {
        let server = refuses_edns(refusal);
        let nodens = start(&server, "");
        wait_for("a probe to find it out", || {
            (server_in_status(&nodens, "group")["refusal"]["by"] == *by).then_some(())
        });
        let asked = server.count();
        assert_eq!(asked, 0, "no client's query was needed, after {by}");
    }
}

#[test]
fn a_server_that_refuses_the_ad_bit_alone_still_gets_edns() {
    let server = refuses_ad(FORMERR);
    let nodens = start(&server, "");
    is_answered(&server, &nodens, |q| !q.ad);
    let said = server_in_status(&nodens, "group");
    assert_eq!(
        (&said["edns"], &said["ad_bit"]),
        (&"sent".into(), &"omitted".into())
    );
    let last = server.asked().pop().expect("it was asked");
    assert!(last.edns && !last.ad, "{last:?}");
}

#[test]
fn names_that_a_good_server_refuses_in_every_form_disable_nothing() {
    for code in ["FORMERR", "NOTIMP"] {
        let server = Server::start(move |q: &Query| {
            if q.name.starts_with("odd") {
                q.says(code)
            } else {
                q.honest()
            }
        });
        let nodens = crate::client::in_front_of(&server);
        for number in 0..20 {
            let reply = ask(&nodens, &format!("odd{number}.corp. A"), Over::Udp);
            assert_ne!(reply.message.rcode(), rcode::NOERROR, "{reply:?}");
        }
        // Four forms for the first 8 of them at most, then one query each.
        let asked = server.count();
        assert!(asked <= 8 * 4 + 12, "20 odd names took {asked} queries");
        assert_eq!(
            ask(&nodens, "web.corp. A", Over::Udp).gist(),
            "NOERROR 192.0.2.1"
        );
        let last = server.asked().pop().expect("it was asked");
        assert!(last.edns && last.ad, "{last:?}");
        assert_eq!(server_in_status(&nodens, "group")["edns"], "sent");
    }
}

#[test]
fn a_server_is_not_taken_for_one_without_edns_because_six_queries_were_lost() {
    let with_edns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&with_edns);
    let server = Server::start_for_all(move |q: &Query| {
        if q.edns && counted.fetch_add(1, Ordering::Relaxed) < 6 {
            Does::Silence
        } else {
            q.honest().into()
        }
    });
    let nodens = Nodens::start(&group_of(&[server.over("")], ""));
    wait_for("probes to ask with EDNS a seventh time", || {
        (with_edns.load(Ordering::Relaxed) >= 7).then_some(())
    });
    assert_eq!(
        ask(&nodens, "web.corp. A", Over::Udp).gist(),
        "NOERROR 192.0.2.1"
    );
    assert!(server.asked().iter().all(|q| q.edns), "{}", nodens.log());
    assert_eq!(server_in_status(&nodens, "group")["edns"], "sent");
}

#[test]
fn a_slow_server_is_not_taken_for_one_without_edns() {
    // Longer than a probe waits before it asks without EDNS too.
    let delay = Duration::from_millis(400);
    let server = Server::start_for_all(move |q: &Query| q.honest().after(delay));
    let nodens = crate::client::in_front_of(&server);
    for name in ["first.corp. A", "second.corp. A"] {
        assert_eq!(ask(&nodens, name, Over::Udp).gist(), "NOERROR 192.0.2.1");
    }
    assert!(
        server.asked().iter().all(|q| q.edns),
        "{:?}",
        server.asked()
    );
    assert_eq!(server_in_status(&nodens, "group")["edns"], "sent");
}

#[test]
fn a_server_that_stops_bearing_edns_is_asked_without() {
    let server = Server::start_for_all(|q: &Query| q.honest());
    let nodens = crate::client::in_front_of(&server);
    assert_eq!(
        ask(&nodens, "before.corp. A", Over::Udp).gist(),
        "NOERROR 192.0.2.1"
    );
    // A firewall in front of it is replaced.
    server.now_says_to_all(|q: &Query| {
        if q.edns {
            Does::Silence
        } else {
            q.honest().into()
        }
    });
    let names: Vec<_> = (0..4).map(|n| format!("after{n}.corp. A")).collect();
    for (gist, _) in crate::client::all_at_once(&nodens, &names) {
        assert_eq!(gist, "NOERROR 192.0.2.1", "{}", nodens.log());
    }
    assert_eq!(
        server_in_status(&nodens, "group")["refusal"]["by"],
        "silence"
    );
}

/// A server for which the AD bit is one of the bits that must be zero (RFC 1035 §4.1.1).
fn refuses_ad(refusal: Refusal) -> Server {
    Server::start_for_all(move |q: &Query| if q.ad { refusal(q) } else { q.honest().into() })
}

#[test]
fn formerr_to_the_ad_bit_is_understood() {
    let server = refuses_ad(FORMERR);
    let nodens = start(&server, "");
    is_answered(&server, &nodens, |q| !q.ad);
}

#[test]
fn formerr_to_the_ad_bit_is_understood_over_tcp() {
    let server = refuses_ad(FORMERR);
    let nodens = start(&server, "tcp://");
    is_answered(&server, &nodens, |q| !q.ad);
}

#[test]
fn formerr_to_both_edns_and_the_ad_bit_is_understood() {
    let server = Server::start_for_all(|q: &Query| {
        if q.ad || q.edns {
            FORMERR(q)
        } else {
            q.honest().without_opt().into()
        }
    });
    let nodens = start(&server, "");
    is_answered(&server, &nodens, |q| !q.ad && !q.edns);
}

#[test]
fn a_client_that_sets_the_ad_bit_is_answered_by_a_server_that_refuses_it() {
    let server = refuses_ad(FORMERR);
    let nodens = start(&server, "");
    let question = question("web.corp. A").flags(flag::RD | flag::AD);
    assert_eq!(
        send(&nodens, &question, Over::Udp).gist(),
        "NOERROR 192.0.2.1"
    );
}

#[test]
fn formerr_to_everything_is_an_error_and_no_endless_loop() {
    let server = Server::start(|q: &Query| q.says("FORMERR").without_opt());
    let nodens = crate::client::in_front_of(&server);
    let reply = ask(&nodens, "web.corp. A", Over::Udp);
    assert!(reply.message.rcode() != rcode::NOERROR, "{reply:?}");
    // With and without EDNS, with and without AD.
    assert!(server.count() <= 6, "{} queries", server.count());
    let whole = |q: &Query| q.bytes.len() >= question_end(&q.bytes);
    assert!(server.asked().iter().all(whole));
}
