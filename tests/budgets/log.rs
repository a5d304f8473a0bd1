//! The log: whoever reads it may stop reading.

use std::time::{Duration, Instant};

use crate::common::Nodens;
use crate::common::dns::{Ask, receive, rr, udp_to};

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
