//! Addresses and servers that come and go: what is told to go leaves nothing behind, and what is refused changes nothing.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use std::time::{Duration, Instant};

use crate::common::dns::{
    Ask, Message, Over, rcode, read_frame, receive, record, response, rr, send_frame, tcp_to,
    udp_to,
};
use crate::common::namespace::{Instance, Namespace, assert_root};
use crate::common::sockets::{tcp_listeners, udp_bound};
use crate::common::stand_in::{Gate, StandIn};
use crate::common::{Nodens, Process, TempDir, free_address, limit_open_files, wait_for};
use crate::holds_within;

/// How long "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Answers every name, those that begin with "slow" once the gate is open; over TCP, so that only these wait.
fn upstream(gate: &Gate) -> StandIn {
    let gate = gate.clone();
    StandIn::new(move |query, _| {
        if query[13..].starts_with(b"slow") {
            gate.wait();
        }
        vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]
    })
}

/// The server is asked once and nobody gives up.
fn patient(server: &StandIn, more: &str) -> String {
    format!(
        "workers: 2\nupstreams:\n  group:\n    servers: [\"tcp://{}\"]\n    try_timeout: 30s\n    deadline: 60s\n    \
         failover: {{hedge_min: 10s, hedge_max: 10s}}\n{more}\n",
        server.address
    )
}

/// Connects and asks once over each of so many connections; how many got no answer.
fn unserved(server: SocketAddr, connections: usize) -> usize {
    let question = Ask::new("any.example.", rr::A);
    let mut waiting: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let mut stream = tcp_to(server).expect("connects");
            send_frame(&mut stream, &question.message()).expect("sent");
            stream
        })
        .collect();
    let mut last = Instant::now();
    while !waiting.is_empty() && last.elapsed() < AT_ONCE {
        let before = waiting.len();
        waiting.retain_mut(|stream| {
            let short = Duration::from_millis(5);
            stream.set_read_timeout(Some(short)).expect("settable");
            let mut first = [0];
            !matches!(stream.peek(&mut first), Ok(1)) || read_frame(stream).is_err()
        });
        if waiting.len() < before {
            last = Instant::now();
        }
    }
    waiting.len()
}

/// An instance and one that waits for it to go, which serves an address of its own as well.
struct Pair {
    gate: Gate,
    shared: SocketAddr,
    own: SocketAddr,
    server: StandIn,
    first: Nodens,
    second: Nodens,
}

impl Pair {
    fn new() -> Self {
        let gate = Gate::default();
        let server = upstream(&gate);
        let (shared, own) = (free_address(), free_address());
        let yaml = patient(&server, "handover: true\nshutdown_grace: 60s");
        let first = Nodens::start_on(&[&shared.to_string()], &yaml);
        let second = Nodens::start_on(&[&shared.to_string(), &own.to_string()], &yaml);
        assert_eq!(tcp_listeners(shared), 2, "both listen");
        Self {
            gate,
            shared,
            own,
            server,
            first,
            second,
        }
    }

    /// The second one does not serve the shared address any more.
    fn assert_left(&self) {
        let left = holds_within(AT_ONCE, || tcp_listeners(self.shared) == 1);
        let listeners = tcp_listeners(self.shared);
        let unserved = unserved(self.shared, 200);
        println!(
            "{listeners} listening TCP sockets; {unserved} of 200 connections were not served"
        );
        assert!(
            left && unserved == 0,
            "{listeners} TCP sockets listen at the address that one instance serves, and {unserved} of 200 connections \
             to it were not served"
        );
        for _ in 0..50 {
            let reply = Ask::new("any.example.", rr::A).send(self.shared, Over::Udp);
            assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
        }
        assert_eq!(self.first.listen, [self.shared]);
    }
}

#[test]
fn a_successor_that_is_told_to_drop_an_address_while_it_waits_leaves_nothing_there() {
    let pair = Pair::new();
    let own = pair.own.to_string();
    pair.second
        .rewrite(&[&own], &patient(&pair.server, "handover: true"));
    pair.second.hang_up();
    wait_for("the new configuration to be in force", || {
        (pair.second.status()["configuration"]["taken"] == 2).then_some(())
    });
    pair.assert_left();
    let reply = Ask::new("any.example.", rr::A).send(pair.own, Over::Tcp);
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
}

#[test]
fn a_successor_that_is_stopped_while_it_waits_leaves_nothing_there() {
    let pair = Pair::new();
    let client = udp_to(pair.own).expect("a socket");
    let slow = Ask::new("slow.example.", rr::A);
    client.send(&slow.message()).expect("sent");
    wait_for("the slow question to be asked", || {
        (pair.server.asked_count() > 0).then_some(())
    });
    pair.second.signal("TERM");
    wait_for("it to be stopping", || {
        (pair.second.get("/ready").0 == 503).then_some(())
    });
    pair.assert_left();
    pair.gate.open();
    let reply = Message::read(&receive(&client).expect("a reply")).expect("a message");
    assert_eq!(reply.id, slow.id);
}

/// A connection to the admin interface that is open already: asking over it takes the process no further descriptor.
struct Admin(BufReader<TcpStream>);

impl Admin {
    fn connect(nodens: &Nodens) -> Self {
        let admin = nodens.admin.expect("it has one over TCP");
        Self(BufReader::new(tcp_to(admin).expect("connects")))
    }

    fn status(&mut self) -> io::Result<serde_json::Value> {
        let request = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.0.get_mut().write_all(request)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// The lowest limit of open files that leaves a process so many descriptors.
fn limit_that_leaves(nodens: &Nodens, spare: usize) -> u64 {
    let used = nodens.descriptors();
    let free = (0..).filter(|number| !used.contains(number));
    free.take(spare).last().map_or(0, |last| last + 1)
}

#[test]
fn a_reload_that_runs_out_of_descriptors_changes_nothing() {
    /// More than two addresses can take.
    const MOST: usize = 60;
    let gate = Gate::default();
    let server = upstream(&gate);
    let yaml = patient(&server, "").replace("workers: 2", "workers: 1");
    let nodens = Nodens::start(&yaml);
    let old = ["127.0.0.1:0"];
    let mut left = Vec::new();
    let mut in_force = None;
    for spare in 0..MOST {
        // Others each time: what was left of the last ones would be in their way.
        let added = [free_address(), free_address()];
        let new = [old[0], &added[0].to_string(), &added[1].to_string()];
        let taken = nodens.status()["configuration"]["taken"].clone();
        let mut admin = Admin::connect(&nodens);
        assert_eq!(
            admin.status().expect("a status")["configuration"]["taken"],
            taken
        );
        limit_open_files(nodens.id(), limit_that_leaves(&nodens, spare));
        nodens.rewrite(&new, &yaml);
        nodens.hang_up();
        let is_in_force = wait_for("the configuration to be in force or refused", || {
            let status = admin.status().expect("a status");
            let configuration = &status["configuration"];
            let refused = configuration["mistakes"].as_array().expect("a list");
            let is_in_force = configuration["taken"] != taken;
            (is_in_force || !refused.is_empty()).then_some(is_in_force)
        });
        limit_open_files(nodens.id(), limit_that_leaves(&nodens, 1_000));
        if is_in_force {
            in_force = Some((spare, added));
            break;
        }
        let sockets = || added.map(|address| (udp_bound(address), tcp_listeners(address)));
        // Sockets are closed by the tasks that hold them, a moment later.
        if !holds_within(Duration::from_secs(2), || sockets() == [(0, 0); 2]) {
            left.push(format!("{spare} to spare: {:?}", sockets()));
        }
        assert_eq!(nodens.status()["listen"].as_array().map(Vec::len), Some(1));
        nodens.rewrite(&old, &yaml);
        nodens.hang_up();
        wait_for("the old configuration to be in force", || {
            (nodens.status()["configuration"]["taken"] != taken).then_some(())
        });
    }
    let (spare, added) = in_force.expect("with enough descriptors it is in force");
    println!("in force with {spare} descriptors to spare");
    // Two sockets for each address at least.
    assert!(spare >= 4, "it was refused often enough: {spare}");
    assert!(
        left.is_empty(),
        "refused, and yet there are sockets (UDP, TCP) at the two addresses: {left:#?}"
    );
    for address in added {
        for over in [Over::Udp, Over::Tcp] {
            let reply = Ask::new("any.example.", rr::A).send(address, over);
            assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
        }
    }
}

/// The reasons that /metrics gives for the state of each server over each transport.
fn reasons(nodens: &Nodens) -> BTreeMap<String, Vec<String>> {
    let (_, text) = nodens.get("/metrics");
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let Some(labels) = line.strip_prefix("nodens_upstream_state_reason{") else {
            continue;
        };
        let labels = labels.split('}').next().expect("split gives at least one");
        let (reason, rest): (Vec<_>, Vec<_>) = labels
            .split(',')
            .partition(|label| label.starts_with("reason="));
        reasons
            .entry(rest.join(","))
            .or_default()
            .extend(reason.into_iter().map(str::to_owned));
    }
    reasons
}

#[test]
fn a_server_has_one_reason_for_its_state_after_its_timeout_has_changed() {
    let server = upstream(&Gate::default());
    server.set_silent(true);
    let yaml = |timeout: &str| {
        format!(
            "upstreams: {{group: {{servers: [\"{}\"], try_timeout: {timeout}}}}}\n",
            server.address
        )
    };
    let nodens = Nodens::start(&yaml("200ms"));
    let has = |reason: &str| {
        let reasons = reasons(&nodens);
        let label = format!("reason=\"{reason}\"");
        let found = reasons.values().flatten().any(|found| *found == label);
        found.then_some(reasons)
    };
    let before = wait_for("its probe to be lost", || has("probe_lost"));
    assert!(
        before.values().all(|reasons| reasons.len() == 1),
        "{before:?}"
    );
    server.set_silent(false);
    nodens.rewrite(&["127.0.0.1:0"], &yaml("300ms"));
    nodens.hang_up();
    wait_for("the new timeout to be in force", || {
        (nodens.status()["configuration"]["taken"] == 2).then_some(())
    });
    let after = wait_for("its probe to be answered", || has("probe_answered"));
    assert!(
        after.values().all(|reasons| reasons.len() == 1),
        "one reason for each server and transport: {after:#?}"
    );
}

/// Replies wait for a link that is far slower than they become ready, and the process is told to stop.
#[test]
#[ignore = "needs root, iproute2 and dnsperf, and takes about 10 s; .ci/run runs it"]
fn replies_that_wait_for_the_kernel_leave_before_the_process_does() {
    /// Over a thousand octets each.
    const QUERIES: usize = 300;
    assert_root();
    let dir = TempDir::new();
    let (node, pod) = (Namespace::new("slow"), Namespace::new("pod"));
    node.connect("eth0", &pod, "eth0");
    node.ip("addr add 10.98.0.1/24 dev eth0");
    pod.ip("addr add 10.98.0.2/24 dev eth0");
    let tc = "qdisc add dev eth0 root tbf rate 1mbit burst 4kb latency 60s";
    node.run("tc", &tc.split(' ').collect::<Vec<_>>());
    let text = [
        "x".repeat(250),
        "y".repeat(250),
        "z".repeat(250),
        "w".repeat(250),
    ];
    // Local answers leave as those of servers do: when they are ready, and not with the queries' batch.
    let mut nodens = Instance::start(
        &node,
        &dir,
        "nodens",
        &format!(
            "listen: [\"10.98.0.1:53\"]\nworkers: 1\nshutdown_grace: 30s\nudp: {{send_buffer: 64KiB}}\n\
             upstreams: {{none: {{servers: [10.98.0.2]}}}}\nrecords: {{big.example: {{TXT: {text:?}}}}}\n"
        ),
    );
    let queries = dir.write("queries", &"big.example TXT\n".repeat(QUERIES));
    let mut dnsperf = pod.command("dnsperf");
    dnsperf.args("-s 10.98.0.1 -e -c 1 -T 1 -n 1 -t 15".split(' '));
    let outstanding = QUERIES.to_string();
    dnsperf.args(["-q", &outstanding, "-d"]).arg(&queries);
    let log = dir.path("dnsperf.log");
    let dnsperf = Process::spawn("dnsperf", &mut dnsperf, log);
    wait_for("all queries to have come", || {
        let count = nodens.metric(r#"nodens_queries_total{protocol="udp",type="TXT"}"#);
        (count == QUERIES as u64).then_some(())
    });
    let ended = nodens.process.terminate();
    assert!(ended.success(), "{ended}: {}", nodens.process.log());
    let completed = |log: &str| {
        let line = log
            .lines()
            .find_map(|line| line.trim().strip_prefix("Queries completed:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
    };
    // A reply that is lost it waits for as long as it was told.
    let answered = wait_for("the statistics of dnsperf", || completed(&dnsperf.log()));
    assert_eq!(answered, QUERIES, "replies that came");
}
