//! What Prometheus reads.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::client::{ask, group_of, in_front_of, new_names, says};
use crate::common::Nodens;
use crate::common::dns::Over;
use crate::server::{Query, Server};

/// A scrape after queries of all kinds.
fn scrape() -> String {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "no.example." => q.says("NXDOMAIN").authority("example. 300 SOA 300"),
        "fail.example." => q.says("SERVFAIL"),
        _ => q.honest(),
    });
    let nodens = in_front_of(&server);
    for name in new_names("n", 20) {
        says(&nodens, &name);
        ask(&nodens, &name, Over::Tcp);
    }
    for name in ["no.example. A", "fail.example. A"] {
        says(&nodens, name);
    }
    nodens.wait_for_metric("nodens_cache_hits_total", &[], 20.0);
    let (status, text) = nodens.get("/metrics");
    assert_eq!(status, 200);
    text
}

#[test]
fn durations_are_in_seconds() {
    let text = scrape();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next());
    let odd: Vec<_> = names
        .filter(|name| name.contains("microseconds") || name.contains("milliseconds"))
        .collect();
    assert_eq!(odd, Vec::<&str>::new());
    assert!(
        text.contains("# TYPE nodens_upstream_srtt_seconds gauge"),
        "{text}"
    );
}

#[test]
fn the_smoothed_round_trip_time_is_one_of_seconds() {
    let server = Server::start(|q: &Query| q.honest().after(std::time::Duration::from_millis(50)));
    let nodens = Nodens::start(&group_of(&[server.over("")], ""));
    for name in new_names("n", 20) {
        says(&nodens, &name);
    }
    let seconds = nodens.metric("nodens_upstream_srtt_seconds", &[("transport", "udp")]);
    assert!(
        (0.005..5.0).contains(&seconds),
        "{seconds} s for answers of 50 ms"
    );
}

#[test]
#[ignore = "needs promtool, from Debian's package prometheus"]
fn promtool_finds_nothing_to_say() {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let started = promtool
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.expect("promtool is installed: apt-get install prometheus");
    let mut input = child.stdin.take().expect("it is piped");
    input
        .write_all(scrape().as_bytes())
        .expect("promtool reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
