//! TCP to upstream servers: connections that go silent without a word, as after a NAT has forgotten them, and servers that take
//! one connection.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Nodens;
use common::dns::{Ask, Over, Section, read_frame, record, response, rr, send_frame};

/// Answers on every connection, but on the first `forgotten` that carry a query only once.
fn forgetful(forgotten: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connections = Arc::clone(&connections);
            thread::spawn(move || serve(stream, &connections, forgotten));
        }
    });
    address
}

fn serve(mut stream: TcpStream, connections: &AtomicUsize, forgotten: usize) {
    let mut number = None;
    let mut answered = 0;
    while let Ok(query) = read_frame(&mut stream) {
        // Probes have connections of their own; they are for the root and for names under nodens.invalid.
        let of_a_client = query[12..].starts_with(b"\x04name");
        if of_a_client && number.is_none() {
            number = Some(connections.fetch_add(1, Ordering::Relaxed));
        }
        if number.is_some_and(|number| number < forgotten) && answered > 0 {
            continue;
        }
        answered += 1;
        let answer = response(&query, &[record(rr::A, 300, &[192, 0, 2, 1])]);
        if send_frame(&mut stream, &answer).is_err() {
            return;
        }
    }
}

#[test]
fn a_query_that_is_sent_again_goes_over_another_connection() {
    let server = forgetful(1);
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams: {{tcp: {{servers: [\"tcp://{server}\"]}}}}\nroutes: {{\".\": tcp}}\n"
    ));
    let ask = |name: &str| {
        let started = Instant::now();
        let reply = Ask::new(name, rr::A).send(nodens.address(), Over::Udp);
        assert_eq!(reply.count(Section::Answer), 1, "{name}: {reply:?}");
        started.elapsed()
    };
    ask("name.one.example.");
    let took = ask("name.two.example.");
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

#[test]
fn a_connection_that_went_silent_is_replaced_and_its_queries_are_answered() {
    let server = forgetful(1);
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams: {{tcp: {{servers: [\"tcp://{server}\"], try_timeout: 400ms}}}}\nroutes: {{\".\": tcp}}\n"
    ));
    let ask = |name: &str| {
        let started = Instant::now();
        let reply = Ask::new(name, rr::A).send(nodens.address(), Over::Udp);
        let answers: Vec<_> = reply
            .section(Section::Answer)
            .map(|r| r.rdata.clone())
            .collect();
        assert_eq!(
            answers,
            [[192, 0, 2, 1]],
            "{name}: {reply:?}\n{}",
            nodens.log()
        );
        started.elapsed()
    };
    ask("name.one.example.");
    // The silence has to be noticed, which takes one and a half try_timeouts and the next look at it.
    let took = ask("name.two.example.");
    assert!(took < Duration::from_secs(3), "took {took:?}");
    let took = ask("name.three.example.");
    assert!(
        took < Duration::from_millis(400),
        "the new connection is in use: {took:?}"
    );
}

/// What a server does with a second connection that carries clients' queries.
#[derive(Debug, Clone, Copy)]
enum Further {
    /// It accepts none.
    Refused,
    /// It closes them when a query comes.
    Closed,
}

/// Answers on the first connection that carries clients' queries, one at a time, each after 5 ms.
fn takes_one_connection(further: Further) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let mut taken = false;
        for mut stream in listener.incoming().flatten() {
            let Ok(query) = read_frame(&mut stream) else {
                continue;
            };
            let of_a_client = query[12..].starts_with(b"\x04name");
            if of_a_client && taken {
                continue;
            }
            taken |= of_a_client;
            thread::spawn(move || answer_in_turn(stream, query));
            if of_a_client && matches!(further, Further::Refused) {
                return;
            }
        }
    });
    address
}

fn answer_in_turn(mut stream: TcpStream, mut query: Vec<u8>) {
    loop {
        thread::sleep(Duration::from_millis(5));
        let answer = response(&query, &[record(rr::A, 300, &[192, 0, 2, 1])]);
        if send_frame(&mut stream, &answer).is_err() {
            return;
        }
        match read_frame(&mut stream) {
            Ok(next) => query = next,
            Err(_) => return,
        }
    }
}

#[test]
fn a_server_that_takes_one_connection_answers_everything() {
    for further in [Further::Refused, Further::Closed] {
        let server = takes_one_connection(further);
        let nodens = Nodens::start(&format!(
            "workers: 1\nupstreams: {{tcp: {{servers: [\"tcp://{server}\"]}}}}\nroutes: {{\".\": tcp}}\n"
        ));
        let ask = |number: usize| {
            let name = format!("name.{number}.example.");
            let reply = Ask::new(&name, rr::A).send(nodens.address(), Over::Udp);
            assert_eq!(
                reply.count(Section::Answer),
                1,
                "{further:?}, {name}: {reply:?}\n{}",
                nodens.log()
            );
        };
        for burst in 0..2 {
            thread::scope(|scope| {
                for number in 0..50 {
                    scope.spawn(move || ask(burst * 50 + number));
                }
            });
        }
    }
}
