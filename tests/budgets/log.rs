//! The log: whoever reads it may stop reading.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, Over, failure, rcode, receive, rr, udp_to};
use crate::common::stand_in::StandIn;
use crate::common::{Nodens, free_sockets, wait_for};

/// A pipe holds 64 KiB, and each of these queries makes a line of over 300 octets: some 200 lines fit, 4,096 may wait, and the
/// rest is dropped. A writer that waited for the reader would have answered 200 of them.
#[test]
fn a_log_that_nobody_reads_costs_no_query() {
    const QUERIES: usize = 6_000;
    let (_unread, write_log) = std::io::pipe().expect("a pipe");
    let nodens = Nodens::start_with_log(
        write_log,
        "workers: 1\nlog: {queries: all}\nrecords: {\"*.example.\": {A: [192.0.2.1]}}\n",
    );
    let client = udp_to(nodens.address()).expect("a socket");
    let label = "x".repeat(60);
    let question = Ask::new(&format!("{label}.{label}.{label}.example."), rr::A).message();
    for number in 0..QUERIES {
        client.send(&question).expect("sent");
        if let Err(error) = receive(&client) {
            panic!("no answer to query {number}: {error}");
        }
    }
    nodens.wait_for_metric("nodens_log_lines_dropped_total", &[], 1.0);
    assert_eq!(nodens.get("/health").0, 200);
    let told = Instant::now();
    let (status, _) = nodens.terminate();
    assert!(status.success(), "{status}");
    let took = told.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?} to stop");
}

/// The lines about this server, without their times.
fn lines_about(nodens: &Nodens, server: SocketAddr) -> Vec<String> {
    let log = nodens.log();
    let about = log
        .lines()
        .filter(|line| line.contains("upstream server is") && line.contains(&server.to_string()));
    about
        .map(|line| {
            line.split_once("  ")
                .map_or(line, |(_, rest)| rest)
                .to_owned()
        })
        .collect()
}

#[test]
fn a_server_that_is_down_at_the_start_is_a_warning_only_if_it_stays_so() {
    let (absent, _) = free_sockets();
    let absent = absent.local_addr().expect("it is bound");
    let good = StandIn::new(|query, _| vec![failure(query, rcode::NXDOMAIN)]);
    let nodens = Nodens::start(&format!(
        "upstreams: {{group: {{servers: [\"{absent}\", \"{}\"]}}}}\n",
        good.address
    ));
    let started = Instant::now();
    nodens.wait_for_log("upstream server is down");
    let first = lines_about(&nodens, absent);
    assert!(first[0].contains("INFO"), "{first:?}");
    wait_for("a warning", || {
        let lines = lines_about(&nodens, absent);
        lines.iter().any(|line| line.contains("WARN")).then_some(())
    });
    assert!(
        started.elapsed() >= Duration::from_secs(9),
        "{:?}",
        lines_about(&nodens, absent)
    );
    // One that worked before is a warning at once.
    Ask::new("name.example.", rr::A).send(nodens.address(), Over::Udp);
    let good_address = good.address;
    drop(good);
    let mut number = 0;
    wait_for("the other server to be down", || {
        number += 1;
        Ask::new(&format!("name{number}.example."), rr::A).send(nodens.address(), Over::Udp);
        let lines = lines_about(&nodens, good_address);
        lines
            .iter()
            .any(|line| line.contains("is down"))
            .then_some(())
    });
    let lines = lines_about(&nodens, good_address);
    let down = lines
        .iter()
        .find(|line| line.contains("is down"))
        .expect("seen");
    assert!(down.contains("WARN"), "{lines:?}");
}
