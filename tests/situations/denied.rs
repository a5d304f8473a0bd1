//! Names that a healthy server denies although it answered for them a moment ago: with `stale_on`, they stay for a while.

use std::time::{Duration, Instant};

use crate::client::{question, says, send, settled};
use crate::common::dns::{Over, rr};
use crate::common::{Nodens, wait_for};
use crate::server::{Query, Server};
use crate::wire::{Says, extended_errors};

/// A server that knows `app.corp A` for a second, and has no AAAA for it.
fn app() -> Server {
    Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 1 A 10.0.0.1"),
        _ => q.says("NOERROR").authority("corp. 1 SOA 1"),
    })
}

fn nxdomain(q: &Query) -> Says {
    q.says("NXDOMAIN").authority("corp. 60 SOA 60")
}

fn empty(q: &Query) -> Says {
    q.says("NOERROR").authority("corp. 60 SOA 60")
}

fn in_front_of(server: &Server, option: &str, cache: &str) -> Nodens {
    let yaml = format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": {{group: group{option}}}}}\n{cache}",
        server.address
    );
    settled(&yaml, &[server.over("")])
}

/// Waits until the server has denied the name; the reply to that.
fn once_denied(server: &Server, nodens: &Nodens, text: &str) -> (String, Vec<(u16, String)>) {
    let before = server.asked_for(text);
    wait_for("the name to be asked for again", || {
        let reply = send(nodens, &question(text).payload(1232), Over::Udp);
        (server.asked_for(text) > before).then(|| (reply.gist(), extended_errors(&reply.message)))
    })
}

#[test]
fn denials_are_believed_unless_told_otherwise() {
    for (option, denial, want) in [
        ("", nxdomain as fn(&Query) -> Says, "NXDOMAIN"),
        ("", empty, "NOERROR"),
        (", stale_on: [nxdomain]", empty, "NOERROR"),
        (", stale_on: empty", nxdomain, "NXDOMAIN"),
    ] {
        let server = app();
        let nodens = in_front_of(&server, option, "");
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
        server.now_says(denial);
        let (gist, _) = once_denied(&server, &nodens, "app.corp. A");
        assert_eq!(gist, want, "{option}");
    }
}

#[test]
fn a_name_that_had_addresses_keeps_them_and_says_so() {
    for denial in [nxdomain as fn(&Query) -> Says, empty] {
        let server = app();
        let nodens = in_front_of(&server, ", stale_on: [nxdomain, empty]", "");
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
        server.now_says(denial);
        let (gist, errors) = once_denied(&server, &nodens, "app.corp. A");
        assert_eq!(gist, "NOERROR 10.0.0.1");
        assert_eq!(errors[0].0, 3, "{errors:?}");
        assert!(errors[0].1.contains("deny"), "{errors:?}");
        // The server is not asked for each query meanwhile, and the reason stays the same.
        let asked = server.asked_for("app.corp. A");
        let started = Instant::now();
        for _ in 0..20 {
            let ask = question("app.corp. A").payload(1232);
            let reply = send(&nodens, &ask, Over::Udp);
            assert_eq!(reply.gist(), "NOERROR 10.0.0.1");
            assert_eq!(extended_errors(&reply.message), errors);
        }
        let further = server.asked_for("app.corp. A") - asked;
        let seconds = started.elapsed().as_secs() + 1;
        assert!(further as u64 <= seconds, "{further} times in {seconds} s");
        let denied = [("reason", "denied")];
        assert!(nodens.metric("nodens_stale_total", &denied) >= 21.0);
        // A name that was never answered is denied as ever, and this one is heard of as soon as it is back.
        assert!(!says(&nodens, "new.corp. A").contains("10.0.0.1"));
        server.now_says(|q| q.says("NOERROR").answer("@ 60 A 10.0.0.2"));
        wait_for("the new address", || {
            (says(&nodens, "app.corp. A") == "NOERROR 10.0.0.2").then_some(())
        });
    }
}

#[test]
fn no_such_name_does_not_take_the_empty_answer_beside_addresses() {
    let server = app();
    let nodens = in_front_of(&server, ", stale_on: [nxdomain]", "");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
    assert_eq!(says(&nodens, "app.corp. AAAA"), "NOERROR");
    server.now_says(nxdomain);
    let (gist, _) = once_denied(&server, &nodens, "app.corp. AAAA");
    assert_eq!(gist, "NOERROR");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
}

#[test]
fn it_ends_after_max_denied_age() {
    let server = app();
    let cache = "cache: {stale: {max_denied_age: 2s}}\n";
    let nodens = in_front_of(&server, ", stale_on: [nxdomain]", cache);
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 10.0.0.1");
    server.now_says(nxdomain);
    let (gist, _) = once_denied(&server, &nodens, "app.corp. A");
    assert_eq!(gist, "NOERROR 10.0.0.1");
    let started = Instant::now();
    wait_for("the denial to be believed", || {
        (says(&nodens, "app.corp. A") == "NXDOMAIN").then_some(())
    });
    assert!(started.elapsed() < Duration::from_secs(10));
}
