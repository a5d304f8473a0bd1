//! Servers that need longer for an answer than a single try may take, for probes too: a satellite's link, a resolver at the
//! end of its strength. Servers that never answer some questions.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::budgets::ask_steadily;
use crate::client::{BOTH, ask, group_of, in_front_of, new_names, question, says, settled};
use crate::common::dns::{Over, Section, rr, u16_at, udp_to};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server};

/// Longer than the default of `try_timeout`, which is 1 s.
const LONG: Duration = Duration::from_millis(1300);

fn slow() -> Server {
    Server::start_for_all(|q: &Query| q.honest().after(LONG))
}

/// Ten new names a second for five seconds: each is answered.
fn everything_is_answered(servers: &[Server], nodens: &Nodens) {
    for server in servers {
        let server = server.over("");
        let good = [("server", &server[..]), ("state", "good")];
        nodens.wait_for_metric("nodens_upstream_state", &good, 1.0);
    }
    let load = ask_steadily(nodens, "steady", 10, Duration::from_secs(5));
    assert_eq!(
        load.answered.load(Ordering::Relaxed),
        load.asked.load(Ordering::Relaxed),
        "{load:?}\n{}",
        nodens.log()
    );
}

#[test]
fn a_server_that_needs_longer_than_a_try_from_the_start_is_not_a_dead_one() {
    let servers = [slow()];
    let nodens = Nodens::start(&group_of(&[servers[0].over("")], ""));
    everything_is_answered(&servers, &nodens);
}

#[test]
fn two_servers_that_need_longer_than_a_try_from_the_start_are_not_dead() {
    let servers = [slow(), slow()];
    let nodens = Nodens::start(&group_of(&servers.each_ref().map(|s| s.over("")), ""));
    everything_is_answered(&servers, &nodens);
}

/// Some old servers drop questions for AAAA. A is answered at once all the same, and the log does not tell of each doubt.
#[test]
fn a_server_that_is_silent_to_one_type_answers_others_and_is_no_news() {
    let server = Server::start(|q: &Query| match q.qtype {
        rr::AAAA => Does::Silence,
        _ => q.honest().into(),
    });
    let nodens = in_front_of(&server);
    let client = udp_to(nodens.address()).expect("a socket");
    for name in new_names("name", 60) {
        let aaaa = question(&name.replace(" A", " AAAA"));
        client.send(&aaaa.message()).expect("sent");
        let reply = ask(&nodens, &name, Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1", "{name}");
        assert!(reply.took < Duration::from_millis(500), "{name}: {reply:?}");
        // A client's pace.
        thread::sleep(Duration::from_millis(50));
    }
    let log = nodens.log();
    let changes = log.matches("upstream server is").count();
    assert!(changes <= 3, "{changes} changes\n{log}");
}

/// A question that failed is not asked again for a while. If it failed because all servers were gone, and one is back, it is.
#[test]
fn a_question_that_failed_for_want_of_servers_is_asked_as_soon_as_one_is_back() {
    let server = Server::start_for_all(|q: &Query| q.honest());
    let name = server.over("");
    let state = |state| [("server", &name[..]), ("state", state)];
    let options = "deadline: 1s, try_timeout: 500ms, failover: {probe_max: 500ms}";
    let yaml = group_of(std::slice::from_ref(&name), options);
    let pauses = "cache: {failure_min: 1m, failure_max: 1m}\n";
    let nodens = settled(&format!("{yaml}{pauses}"), std::slice::from_ref(&name));
    server.now_says_to_all(|_| Does::Silence);
    // Other names than the one that is asked for, because two make a server silent.
    wait_for("the server to be down", || {
        ask(&nodens, "y.corp. A", Over::Udp);
        ask(&nodens, "z.corp. A", Over::Udp);
        let down = nodens.metric("nodens_upstream_state", &state("down"));
        (down > 0.0).then_some(())
    });
    for _ in 0..2 {
        assert_eq!(says(&nodens, "x.corp. A"), "SERVFAIL");
    }
    assert_eq!(
        server.asked_for("x.corp. A"),
        1,
        "the second time it was known"
    );
    server.now_says_to_all(Query::honest);
    nodens.wait_for_metric("nodens_upstream_state", &state("good"), 1.0);
    assert_eq!(says(&nodens, "x.corp. A"), "NOERROR 192.0.2.1");
    // A question that failed for reasons of its own is left alone.
    server.now_says(|q| q.says("SERVFAIL"));
    for _ in 0..2 {
        assert_eq!(says(&nodens, "w.corp. A"), "SERVFAIL");
    }
    assert_eq!(
        server.asked_for("w.corp. A"),
        2,
        "the second time it was known"
    );
}

/// As behind firewalls that know RFC 1035 alone.
#[test]
fn an_answer_of_more_than_512_octets_that_is_lost_is_fetched_over_tcp() {
    let server = Server::start(|q: &Query| {
        let addresses = (1..=40).map(|last| format!("@ 60 A 10.0.0.{last}"));
        let whole = addresses.fold(q.says("NOERROR"), |says, record| says.answer(&record));
        let most = u16_at(&q.bytes, q.bytes.len() - 8).filter(|_| q.edns);
        match (q.over, most) {
            (Over::Udp, Some(most)) if most > 512 => Does::Silence,
            (Over::Udp, _) => q.says("NOERROR tc").into(),
            (Over::Tcp, _) => whole.into(),
        }
    });
    let nodens = in_front_of(&server);
    let reply = ask(&nodens, "long.corp. A", Over::Tcp);
    assert_eq!(reply.message.section(Section::Answer).count(), 40);
    assert!(reply.took < Duration::from_secs(1), "{:?}", reply.took);
}

/// glibc asks a server again that has failed, and would only hear what is remembered.
#[test]
fn a_sole_server_that_fails_once_is_asked_again() {
    let server = Server::start(|q: &Query| match (&q.name[..], q.turn) {
        ("always.corp.", _) | (_, 1) => q.says("SERVFAIL"),
        _ => q.honest(),
    });
    let nodens = in_front_of(&server);
    for over in BOTH {
        let name = format!("once{over:?}.corp. A");
        let reply = ask(&nodens, &name, over);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.1", "{name}");
        assert!(reply.took < Duration::from_secs(1), "{name}: {reply:?}");
    }
    for _ in 0..3 {
        assert_eq!(says(&nodens, "always.corp. A"), "SERVFAIL");
    }
    assert_eq!(server.asked_for("always.corp. A"), 2);
}
