//! Extended errors (RFC 8914) that servers send: clients hear them, behind ours.

use crate::client::{BOTH, Reply, ask, group_of, in_front_of, question, send, settled};
use crate::common::dns::Over;
use crate::common::{Nodens, wait_for};
use crate::server::{Query, Server};
use crate::wire::extended_errors;

fn told(nodens: &Nodens, text: &str, over: Over) -> (Reply, Vec<(u16, String)>) {
    let reply = send(nodens, &question(text).payload(1232), over);
    let errors = extended_errors(&reply.message);
    (reply, errors)
}

#[test]
fn a_servers_extended_error_comes_with_its_answer_from_the_cache_too() {
    let server = Server::start(|q: &Query| {
        let says = q.says("NXDOMAIN").authority("example. 60 SOA 60");
        says.ede_text(15, b"blocked by list 7").ede(17)
    });
    let nodens = in_front_of(&server);
    let want = [(15, "blocked by list 7".to_owned()), (17, String::new())];
    for over in BOTH {
        let (reply, errors) = told(&nodens, "ads.example. A", over);
        assert_eq!(reply.gist(), "NXDOMAIN", "{over:?}");
        assert_eq!(errors, want, "{over:?}");
        // Who sent no OPT gets none.
        let reply = ask(&nodens, "ads.example. A", over);
        assert_eq!(reply.message.opt, None, "{over:?}");
    }
    assert_eq!(server.asked_for("ads.example. A"), 1);
}

#[test]
fn a_failure_says_first_what_we_know_and_then_what_servers_said() {
    let says = |code, text: &'static [u8]| {
        Server::start(move |q: &Query| q.says("SERVFAIL").ede_text(code, text))
    };
    let (first, second) = (says(22, b"no answer from ns1"), says(23, b"no route"));
    let servers = [first.over(""), second.over("")];
    let nodens = settled(&group_of(&servers, ""), &servers);
    for turn in ["asked", "remembered"] {
        let (reply, mut errors) = told(&nodens, "a.example. A", Over::Udp);
        assert_eq!(reply.gist(), "SERVFAIL", "{turn}");
        let ours = errors.remove(0);
        assert!(ours.1.starts_with("group: 127."), "{turn}: {ours:?}");
        errors.sort();
        let want = [(22, "no answer from ns1"), (23, "no route")];
        assert_eq!(
            errors,
            want.map(|(code, text)| (code, text.to_owned())),
            "{turn}"
        );
    }
}

#[test]
fn few_errors_are_passed_on_with_short_texts_in_utf_8() {
    let server = Server::start(|q: &Query| {
        let says = q.says("NOERROR").answer("@ 60 A 192.0.2.1");
        let says = says.ede_text(4, b"\xff\xfe").ede_text(5, &[b'x'; 600]);
        (30_000..30_020).fold(says, |says, code| says.ede_text(code, b"more"))
    });
    let nodens = in_front_of(&server);
    let (reply, errors) = told(&nodens, "a.example. A", Over::Tcp);
    assert_eq!(reply.gist(), "NOERROR 192.0.2.1");
    let lengths: Vec<_> = errors
        .iter()
        .map(|(code, text)| (*code, text.len()))
        .collect();
    assert_eq!(lengths, [(4, 0), (5, 200), (30_000, 4), (30_001, 4)]);
}

#[test]
fn no_record_is_left_out_for_an_error() {
    let server = Server::start(|q: &Query| {
        let says = q
            .says("NOERROR")
            .ede_text(4, &[b'x'; 200])
            .ede_text(5, b"y");
        (1..=20).fold(says, |says, n| says.answer(&format!("@ 60 A 192.0.2.{n}")))
    });
    let nodens = in_front_of(&server);
    for _ in ["asked", "cached"] {
        let reply = send(&nodens, &question("a.example. A").payload(512), Over::Udp);
        assert_eq!(reply.message.records.len(), 20);
        assert!(reply.message.length <= 512);
        assert_eq!(extended_errors(&reply.message), []);
    }
    let (_, errors) = told(&nodens, "a.example. A", Over::Udp);
    assert_eq!(errors.len(), 2);
}

#[test]
fn behind_an_expired_answer_our_error_comes_first() {
    let server = Server::start(|q: &Query| {
        let says = q.says("NOERROR").answer("@ 1 A 192.0.2.1");
        says.ede_text(4, b"forged for you")
    });
    let nodens = in_front_of(&server);
    told(&nodens, "a.example. A", Over::Udp);
    server.now_says(|q| q.says("SERVFAIL"));
    let errors = wait_for("an expired answer", || {
        let (reply, errors) = told(&nodens, "a.example. A", Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1");
        (errors.len() > 1).then_some(errors)
    });
    let codes: Vec<_> = errors.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [3, 4]);
}

#[test]
fn errors_about_an_alias_and_about_its_target_come_together() {
    let cluster = Server::start(|q: &Query| {
        let says = q.says("NOERROR").answer("@ 30 CNAME db.corp.");
        says.ede_text(0, b"of the alias")
    });
    let vpc = Server::start(|q: &Query| {
        let says = q.says("NOERROR").answer("@ 30 A 10.0.0.5");
        says.ede_text(0, b"of the target")
    });
    let yaml = format!(
        "workers: 1\nupstreams:\n  cluster: {{servers: [\"{}\"]}}\n  vpc: {{servers: [\"{}\"]}}\n\
         routes: {{cluster.local: cluster, corp.: vpc}}\n",
        cluster.over(""),
        vpc.over("")
    );
    let nodens = settled(&yaml, &[cluster.over(""), vpc.over("")]);
    for _ in ["asked", "cached"] {
        let (_, errors) = told(&nodens, "db.cluster.local. A", Over::Udp);
        let texts: Vec<_> = errors.iter().map(|(_, text)| &text[..]).collect();
        assert_eq!(texts, ["of the alias", "of the target"]);
    }
}
