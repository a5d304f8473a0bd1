//! TCP and TLS servers that close a connection early, or answer one query at a time on it, and connections that grow old.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::{all_at_once, ask, assert_all, group_of, new_names, question, says, settled};
use crate::common::dns::{Over, udp_to};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server};

/// How a server ends a connection.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// With a FIN; what the client still sends is read.
    Orderly,
    /// As a process does that closes its socket with queries unread: with a reset.
    Abruptly,
}

/// Answers so many queries on each TCP connection, then ends it. Over UDP it says TC.
fn closes_after(answers: usize, ends: Ends) -> impl Fn(&Query) -> Does + Send + Sync + 'static {
    move |q: &Query| {
        if q.over == Over::Udp {
            return q.says("NOERROR tc").into();
        }
        let answer = q.honest().bytes();
        match ends {
            _ if q.on_connection < answers => Does::Answers(answer),
            Ends::Orderly => Does::AnswersAndCloses(answer),
            Ends::Abruptly => Does::AnswersAndResets(answer),
        }
    }
}

/// Nodens in front of one server that is reached in this way.
fn before(server: &Server, scheme: &str) -> Nodens {
    let options = if scheme == "tls://" {
        format!("tls_ca: {}", server.ca())
    } else {
        String::new()
    };
    let servers = [server.over(scheme)];
    settled(&group_of(&servers, &options), &servers)
}

/// Fifty new names at once, twice: all are answered.
fn all_are_answered(scheme: &str, answers: usize, ends: Ends) {
    let script = closes_after(answers, ends);
    let server = if scheme == "tls://" {
        Server::tls(script)
    } else {
        Server::start(script)
    };
    let nodens = before(&server, scheme);
    for burst in ["first", "second"] {
        let replies = all_at_once(&nodens, &new_names(burst, 50));
        assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    }
}

#[test]
fn a_tcp_server_that_closes_after_each_answer_costs_no_query() {
    all_are_answered("tcp://", 1, Ends::Orderly);
}

#[test]
fn a_tcp_server_that_closes_after_three_answers_costs_no_query() {
    all_are_answered("tcp://", 3, Ends::Orderly);
}

#[test]
fn a_tcp_server_that_resets_after_each_answer_costs_no_query() {
    all_are_answered("tcp://", 1, Ends::Abruptly);
}

#[test]
fn a_tcp_server_that_resets_after_three_answers_costs_no_query() {
    all_are_answered("tcp://", 3, Ends::Abruptly);
}

#[test]
fn a_tls_server_that_closes_after_each_answer_costs_no_query() {
    all_are_answered("tls://", 1, Ends::Orderly);
}

#[test]
fn a_tls_server_that_closes_after_three_answers_costs_no_query() {
    all_are_answered("tls://", 3, Ends::Orderly);
}

#[test]
fn a_tls_server_that_resets_after_each_answer_costs_no_query() {
    all_are_answered("tls://", 1, Ends::Abruptly);
}

#[test]
fn a_server_that_closes_after_each_answer_costs_no_truncated_query() {
    all_are_answered("", 1, Ends::Orderly);
}

#[test]
fn a_server_that_closes_after_three_answers_costs_no_truncated_query() {
    all_are_answered("", 3, Ends::Orderly);
}

#[test]
fn a_server_that_closes_early_gets_fewer_queries_on_a_connection() {
    let server = Server::start(closes_after(1, Ends::Orderly));
    let nodens = before(&server, "tcp://");
    let largest = |piles: &[usize]| piles.iter().copied().max().unwrap_or(0);
    all_at_once(&nodens, &new_names("first", 50));
    let piles = server.piles();
    let first = largest(&piles);
    all_at_once(&nodens, &new_names("second", 50));
    let second = largest(&server.piles()[piles.len()..]);
    assert!(
        second * 2 <= first,
        "{first} queries on one connection at first, {second} once it is known"
    );
}

#[test]
fn a_server_that_closes_between_two_questions_costs_none_of_them() {
    for scheme in ["tcp://", "tls://"] {
        let script = closes_after(1, Ends::Orderly);
        let server = if scheme == "tls://" {
            Server::tls(script)
        } else {
            Server::start(script)
        };
        let nodens = before(&server, scheme);
        for name in new_names("alone", 10) {
            assert_eq!(says(&nodens, &name), "NOERROR 192.0.2.1", "{scheme}");
        }
    }
}

/// How many connections carry one query after the other for five seconds, with this group option.
fn connections_in_five_seconds(scheme: &str, option: &str) -> usize {
    let script = |q: &Query| q.honest();
    let server = if scheme == "tls://" {
        Server::tls(script)
    } else {
        Server::start(script)
    };
    let servers = [server.over(scheme)];
    let ca = if scheme == "tls://" {
        format!("tls_ca: {}, ", server.ca())
    } else {
        String::new()
    };
    let nodens = settled(&group_of(&servers, &format!("{ca}{option}")), &servers);
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(5) {
        number += 1;
        let got = says(&nodens, &format!("n{number}.example. A"));
        assert_eq!(got, "NOERROR 192.0.2.1", "query {number}");
    }
    server.piles().len()
}

#[test]
fn a_busy_connection_is_replaced_when_it_is_old() {
    for scheme in ["tcp://", "tls://"] {
        let connections = connections_in_five_seconds(scheme, "streams: {max_age: 1s}");
        // With jitter: each lives for at least half of it.
        let range = 4..=12;
        assert!(
            range.contains(&connections),
            "{scheme}: {connections} connections"
        );
    }
}

/// New names at once, twice, to a sole server whose answers take this long; its probes' too, if `probes` says so.
fn slow_answers_count(scheme: &str, options: &str, takes: Duration, probes: bool) {
    let script = move |q: &Query| q.honest().after(takes);
    let server = match (scheme, probes) {
        ("tls://", _) => Server::tls(script),
        (_, true) => Server::start_for_all(script),
        (_, false) => Server::start(script),
    };
    let tls = if scheme == "tls://" {
        format!("tls_ca: {}, ", server.ca())
    } else {
        String::new()
    };
    let nodens = Nodens::start(&group_of(
        &[server.over(scheme)],
        &format!("{tls}{options}"),
    ));
    for burst in ["first", "second"] {
        // The script answers one query after the other on a connection.
        let names = if scheme.is_empty() { 10 } else { 1 };
        let replies = all_at_once(&nodens, &new_names(burst, names));
        assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    }
}

#[test]
fn an_answer_that_outlives_its_try_counts() {
    for scheme in ["", "tcp://", "tls://"] {
        let takes = Duration::from_millis(700);
        slow_answers_count(scheme, "try_timeout: 400ms", takes, false);
    }
}

#[test]
fn an_answer_that_outlives_its_try_counts_though_probes_are_lost() {
    slow_answers_count("", "", Duration::from_millis(1_800), true);
}

/// RFC 7766 §6.2.1.1: answers come as they are ready, and a stray message or an empty frame between them ends nothing.
#[test]
fn answers_out_of_order_and_strays_between_them_are_sorted_out() {
    let server = Server::start(|q: &Query| {
        let delay = if q.name.starts_with("late") { 300 } else { 0 };
        let mut stray = q.says("NOERROR").answer("@ 300 A 203.0.113.66").bytes();
        stray[0] ^= 0xff;
        if q.name.starts_with("stray") {
            Does::Answers(stray)
        } else {
            q.honest().after(Duration::from_millis(delay))
        }
    });
    let tcp = server.over("tcp://");
    let nodens = settled(&group_of(std::slice::from_ref(&tcp), ""), &[tcp]);
    let names: Vec<String> = ["late", "early"]
        .iter()
        .flat_map(|word| (0..10).map(move |number| format!("{word}{number}.corp. A")))
        .collect();
    // Nobody gets an answer to this one, and it costs the others nothing.
    let nobodys = question("stray.corp. A");
    let client = udp_to(nodens.address()).expect("a socket");
    client.send(&nobodys.message()).expect("sent");
    let replies = all_at_once(&nodens, &names);
    assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    for (name, (_, took)) in names.iter().zip(&replies) {
        let waited = *took >= Duration::from_millis(290);
        assert_eq!(waited, name.starts_with("late"), "{name} took {took:?}");
    }
}

/// Answers one query after the other on each TCP connection: a name with `slow` in front after this long, others at once. Over
/// UDP it says TC.
fn one_at_a_time(takes: Duration) -> impl Fn(&Query) -> Does + Send + Sync + 'static {
    move |q: &Query| {
        if q.over == Over::Udp {
            return q.says("NOERROR tc").into();
        }
        if q.name.starts_with("slow") {
            // The next query on the connection is read after that.
            thread::sleep(takes);
        }
        q.honest().into()
    }
}

#[test]
fn truncated_answers_come_whole_from_a_server_that_answers_one_query_at_a_time() {
    let server = Server::start(one_at_a_time(Duration::from_millis(150)));
    let nodens = before(&server, "");
    let replies = thread::scope(|scope| {
        let clients: Vec<_> = new_names("slow", 15)
            .into_iter()
            .map(|name| {
                let nodens = &nodens;
                scope.spawn(move || {
                    let reply = ask(nodens, &name, Over::Tcp);
                    (reply.gist(), reply.took)
                })
            })
            .collect();
        let reply = |client: thread::ScopedJoinHandle<'_, _>| client.join().expect("a reply");
        clients.into_iter().map(reply).collect::<Vec<_>>()
    });
    assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    let log = nodens.log();
    assert!(!log.contains("server is down"), "{log}");
}

#[test]
fn names_that_take_long_over_tcp_hold_up_no_others() {
    let server = Server::start(one_at_a_time(Duration::from_millis(300)));
    let nodens = before(&server, "tcp://");
    let names = [new_names("slow", 12), new_names("fast", 4)].concat();
    let replies = all_at_once(&nodens, &names);
    assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    for (name, (_, took)) in names.iter().zip(&replies) {
        let soon = *took < Duration::from_millis(250);
        assert_eq!(soon, name.starts_with("fast"), "{name} took {took:?}");
    }
    assert_eq!(server.count(), names.len(), "each is asked for once");
    let log = nodens.log();
    assert!(!log.contains("server is poor"), "{log}");
}

#[test]
fn more_queries_than_connections_are_spread_evenly_over_them() {
    let server = Server::start(one_at_a_time(Duration::from_millis(50)));
    let nodens = before(&server, "tcp://");
    for (round, word) in ["slow-first", "slow-second"].iter().enumerate() {
        says(&nodens, &format!("warm{round}.example. A"));
        let replies = all_at_once(&nodens, &new_names(word, 64));
        assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
        let piles = server.piles();
        let largest = piles.iter().max();
        assert!(
            piles.len() <= 16 && largest <= Some(&(round * 8 + 8)),
            "round {round}: {piles:?}"
        );
    }
}

#[test]
fn queries_one_after_another_take_one_connection() {
    for scheme in ["tcp://", "tls://"] {
        let script = one_at_a_time(Duration::from_millis(1));
        let server = if scheme == "tls://" {
            Server::tls(script)
        } else {
            Server::start(script)
        };
        let nodens = before(&server, scheme);
        for name in new_names("slow", 20) {
            assert_eq!(says(&nodens, &name), "NOERROR 192.0.2.1", "{scheme}");
        }
        assert_eq!(server.piles(), [20], "{scheme}");
    }
}

#[test]
fn a_server_that_answers_in_parallel_gets_no_connection_for_each_query() {
    let server = Server::start(|q: &Query| {
        let delay = if q.name.starts_with("late") { 100 } else { 0 };
        q.honest().after(Duration::from_millis(delay))
    });
    let servers = [server.over("tcp://")];
    let nodens = settled(&group_of(&servers, "streams: {max_age: 1s}"), &servers);
    // More than there are connections, so that early ones overtake late ones on some.
    let names = [new_names("late", 20), new_names("early", 20)].concat();
    let replies = all_at_once(&nodens, &names);
    assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    let first = server.piles().len();
    // When all connections are old, a new one is opened.
    let mut number = 0;
    wait_for("a new connection", || {
        number += 1;
        says(&nodens, &format!("single{number}.example. A"));
        (server.piles().len() > first).then_some(())
    });
    let before = server.piles().len();
    let replies = all_at_once(&nodens, &new_names("late-again", 20));
    assert_all(&replies, "NOERROR 192.0.2.1", &nodens);
    let opened = server.piles().len() - before;
    assert!(opened <= 1, "{opened} connections for 20 queries");
}
