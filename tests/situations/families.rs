//! Names that servers deny when they are asked for one family of addresses, and that have addresses of the other.

use std::time::Duration;

use crate::client::{all_at_once, ask, in_front_of, question, says, send, tiers};
use crate::common::dns::{Over, Section};
use crate::common::wait_for;
use crate::server::{Does, Query, Server};
use crate::wire::{Says, type_of};

const SLOW: Duration = Duration::from_millis(300);

fn denied(q: &Query) -> Says {
    q.says("NXDOMAIN").authority("corp. 60 SOA 60")
}

fn address(q: &Query) -> Says {
    let record = if q.qtype == type_of("A") {
        "@ 300 A 192.0.2.1"
    } else {
        "@ 300 AAAA 2001:db8::1"
    };
    q.says("NOERROR").answer(record)
}

/// Has addresses of this type, and denies the name when it is asked for anything else.
fn knows_only(known: &'static str) -> impl Fn(&Query) -> Does + Send + Sync + 'static {
    move |q: &Query| {
        if q.qtype == type_of(known) {
            address(q).into()
        } else {
            denied(q).into()
        }
    }
}

/// Both types, as a name and as what it has.
const BOTH_WAYS: [(&str, &str, &str); 2] = [
    ("x.corp. A", "x.corp. AAAA", "NOERROR 192.0.2.1"),
    ("x.corp. AAAA", "x.corp. A", "NOERROR 2001:db8::1"),
];

#[test]
fn a_denial_of_one_family_beside_the_other_is_an_empty_answer() {
    for (exists, denied, addresses) in BOTH_WAYS {
        let server = Server::start(knows_only(exists.split_once(' ').expect("a type").1));
        let nodens = in_front_of(&server);
        assert_eq!(says(&nodens, exists), addresses);
        for over in [Over::Udp, Over::Tcp] {
            let reply = ask(&nodens, denied, over);
            assert_eq!(reply.gist(), "NOERROR", "{denied} over {over:?}");
            let soa = reply.message.section(Section::Authority).count();
            assert_eq!(soa, 1, "the SOA says how long that holds");
        }
        assert_eq!(server.asked_for(denied), 1, "it is kept");
        assert_eq!(
            says(&nodens, "x.corp. TXT"),
            "NXDOMAIN",
            "what is no address is told as it came"
        );
        nodens.wait_for_metric("nodens_denials_doubted_total", &[], 1.0);
    }
}

#[test]
fn a_denial_that_is_kept_is_forgotten_when_the_other_family_is_known() {
    for (exists, denied, addresses) in BOTH_WAYS {
        let server = Server::start(knows_only(exists.split_once(' ').expect("a type").1));
        let nodens = in_front_of(&server);
        assert_eq!(says(&nodens, denied), "NXDOMAIN", "nothing else is known");
        assert_eq!(says(&nodens, exists), addresses);
        assert_eq!(says(&nodens, denied), "NOERROR");
    }
}

#[test]
fn a_denial_waits_for_the_answer_to_the_other_family_that_is_in_flight() {
    for (exists, denied_type, addresses) in BOTH_WAYS {
        let exists_type = type_of(exists.split_once(' ').expect("a type").1);
        let server = Server::start(move |q: &Query| -> Does {
            if q.qtype == exists_type {
                address(q).after(SLOW)
            } else {
                denied(q).into()
            }
        });
        let nodens = in_front_of(&server);
        let replies = all_at_once(&nodens, &[exists.to_owned(), denied_type.to_owned()]);
        let gists: Vec<_> = replies.iter().map(|(gist, _)| &gist[..]).collect();
        assert_eq!(gists, [addresses, "NOERROR"]);
    }
}

#[test]
fn a_denial_beside_expired_addresses_that_are_served_is_an_empty_answer() {
    let server = Server::start(|q: &Query| -> Does {
        if q.qtype == type_of("AAAA") {
            q.says("NXDOMAIN").authority("corp. 1 SOA 1").into()
        } else if q.turn == 1 {
            q.says("NOERROR").answer("@ 1 A 192.0.2.1").into()
        } else {
            // Later than cache.stale.after.
            address(q).after(Duration::from_millis(900))
        }
    });
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    wait_for("the address to be expired", || {
        // The question of another client, whose answer is on its way as the two below are asked.
        let reply = ask(&nodens, "x.corp. A", Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1");
        (reply.message.records[0].ttl == 30).then_some(())
    });
    let questions = ["A", "AAAA"].map(|rtype| format!("x.corp. {rtype}"));
    let replies = all_at_once(&nodens, &questions);
    let gists: Vec<_> = replies.iter().map(|(gist, _)| &gist[..]).collect();
    assert_eq!(gists, ["NOERROR 192.0.2.1", "NOERROR"]);
}

#[test]
fn a_name_that_does_not_exist_is_denied_for_both_families() {
    let server = Server::start(|q: &Query| {
        let says = denied(q);
        let is_slow = q.qtype == type_of("A") && !q.name.starts_with("fast");
        if is_slow {
            says.after(SLOW)
        } else {
            says.into()
        }
    });
    let nodens = in_front_of(&server);
    for name in ["slow", "fast"] {
        let questions = ["A", "AAAA"].map(|rtype| format!("{name}.corp. {rtype}"));
        for (gist, took) in all_at_once(&nodens, &questions) {
            assert_eq!(gist, "NXDOMAIN");
            assert!(
                took < Duration::from_millis(900),
                "{took:?}: nobody waits for nobody"
            );
        }
    }
}

#[test]
fn a_denial_does_not_wait_long_for_a_server_that_is_silent_to_the_other_family() {
    let server = Server::start(|q: &Query| -> Does {
        if q.qtype == type_of("AAAA") {
            Does::Silence
        } else {
            denied(q).into()
        }
    });
    let nodens = in_front_of(&server);
    let questions = ["A", "AAAA"].map(|rtype| format!("x.corp. {rtype}"));
    let replies = all_at_once(&nodens, &questions);
    let (gist, took) = &replies[0];
    assert_eq!(gist, "NXDOMAIN");
    assert!(*took < Duration::from_millis(1900), "{took:?}");
}

#[test]
fn an_earlier_tiers_denial_is_not_doubted_for_what_a_later_one_says() {
    let vpc = Server::start(|q: &Query| {
        if q.qtype == type_of("A") {
            q.says("REFUSED")
        } else {
            denied(q)
        }
    });
    let public = Server::start(knows_only("A"));
    let nodens = tiers(&vpc, &public, "");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NXDOMAIN");
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NXDOMAIN");
    assert_eq!(vpc.asked_for("x.corp. AAAA"), 1, "it is kept");
}

#[test]
fn who_asks_for_dnssec_hears_what_the_server_said() {
    let server = Server::start(knows_only("A"));
    let nodens = in_front_of(&server);
    for (text, gist) in [
        ("x.corp. A", "NOERROR 192.0.2.1"),
        ("x.corp. AAAA", "NXDOMAIN"),
        ("x.corp. A", "NOERROR 192.0.2.1"),
        ("x.corp. AAAA", "NXDOMAIN"),
    ] {
        let reply = send(&nodens, &question(text).dnssec_ok(), Over::Udp);
        assert_eq!(reply.gist(), gist, "{text}");
    }
    assert_eq!(server.asked_for("x.corp. AAAA"), 1, "it is kept");
}

#[test]
fn an_alias_whose_target_is_denied_for_one_family_is_an_empty_answer_behind_it() {
    let server = Server::start(|q: &Query| {
        let alias = "@ 300 CNAME y.corp.";
        if q.qtype == type_of("A") {
            q.says("NOERROR")
                .answer(alias)
                .answer("y.corp. 300 A 192.0.2.1")
        } else {
            denied(q).answer(alias)
        }
    });
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1 CNAME");
    assert_eq!(says(&nodens, "x.corp. AAAA"), "NOERROR CNAME");
}

/// An error says nothing about the records of a name (RFC 2308 §7): it is no "no such record".
#[test]
fn an_error_for_one_family_is_told_and_the_other_is_answered() {
    for head in ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"] {
        for (exists, fails, addresses) in BOTH_WAYS {
            let known = type_of(exists.split_once(' ').expect("a type").1);
            let server = Server::start(move |q: &Query| {
                if q.qtype == known {
                    address(q)
                } else {
                    q.says(head)
                }
            });
            let nodens = in_front_of(&server);
            for turn in ["asked", "remembered"] {
                let questions = [exists, fails].map(str::to_owned);
                let replies = all_at_once(&nodens, &questions);
                let gists: Vec<_> = replies.iter().map(|(gist, _)| &gist[..]).collect();
                assert_eq!(gists, [addresses, head], "{turn}");
            }
        }
    }
}
