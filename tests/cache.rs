//! `nodens cache`: what people see of the running instance's cache, and what a flush promises.

mod common;

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::dns::{
    Ask, Message, Over, Section, failure, rcode, receive, record, response, rr, udp_to, wire_name,
};
use common::stand_in::{Gate, StandIn};
use common::{Nodens, nodens, wait_for};

/// A server that has an address for each name but those below `missing` and `broken`.
fn server() -> StandIn {
    StandIn::new(|query, _| {
        let asked = |label| {
            let name = wire_name(label);
            let label = &name[..name.len() - 1];
            query.windows(label.len()).any(|part| part == label)
        };
        vec![if asked("missing") {
            let soa = [
                wire_name("."),
                wire_name("."),
                [60_u32.to_be_bytes(); 5].concat(),
            ]
            .concat();
            let mut answer = failure(query, rcode::NXDOMAIN);
            answer[9] = 1;
            answer.splice(answer.len().., record(rr::SOA, 60, &soa));
            answer
        } else if asked("broken") {
            failure(query, rcode::SERVFAIL)
        } else {
            response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])
        }]
    })
}

fn start(server: SocketAddr) -> Nodens {
    Nodens::start(&format!(
        "upstreams: {{all: {{servers: [\"{server}\"]}}}}\nroutes: {{\".\": all}}"
    ))
}

fn ask(nodens: &Nodens, name: &str) -> Message {
    Ask::new(name, rr::A).send(nodens.address(), Over::Udp)
}

/// Runs `nodens cache` against an instance.
fn cache(instance: &Nodens, arguments: &[&str]) -> Output {
    nodens()
        .arg("cache")
        .args(arguments)
        .arg("--socket")
        .arg(instance.path("nodens.sock"))
        .output()
        .expect("it runs")
}

/// What it prints; it has to end well.
fn said(instance: &Nodens, arguments: &[&str]) -> String {
    let output = cache(instance, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn entries_are_listed_by_name_and_limited_to_a_zone_or_a_number() {
    let server = server();
    let nodens = start(server.address);
    for name in ["b.corp.", "a.corp.", "corp.", "notcorp.", "missing."] {
        ask(&nodens, name);
    }
    let names = |arguments: &[&str]| -> Vec<String> {
        let text = said(&nodens, arguments);
        let lines = text.lines().filter(|line| !line.starts_with(";;"));
        lines
            .map(|line| line.split(' ').next().expect("a name").to_owned())
            .collect()
    };
    let all = ["a.corp.", "b.corp.", "corp.", "missing.", "notcorp."];
    assert_eq!(names(&["list"]), all);
    assert_eq!(names(&["list", "--limit", "2"]), all[..2]);
    assert_eq!(names(&["list", "--zone", "Corp"]), all[..3]);
    let text = said(&nodens, &["list", "--limit", "1"]);
    assert!(
        text.starts_with("a.corp. A NOERROR 1 record, fresh for "),
        "{text}"
    );
    assert!(text.contains("bytes, route ."), "{text}");
    assert!(text.contains(";; the first 1 of 5 entries, "), "{text}");

    let json = said(&nodens, &["list", "--json", "--zone", "missing"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["matching"], 1);
    let entry = &json["entries"][0];
    assert_eq!(
        (&entry["type"], &entry["rcode"]),
        (&"A".into(), &"NXDOMAIN".into())
    );
    assert_eq!(
        cache(&nodens, &["list", "--limit", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_names_records_are_shown_with_the_ttls_that_are_left() {
    let server = server();
    let nodens = start(server.address);
    ask(&nodens, "www.example.");
    Ask::new("www.example.", rr::AAAA).send(nodens.address(), Over::Udp);
    let shown = said(&nodens, &["get", "WWW.example", "A"]);
    let (head, records) = shown.split_once('\n').expect("two lines");
    assert!(head.starts_with(";; www.example. A NOERROR"), "{shown}");
    let words: Vec<_> = records.split_whitespace().collect();
    let ttl: u32 = words[1].parse().expect("a TTL");
    assert!((1..=300).contains(&ttl), "{shown}");
    assert_eq!(
        [words[0], words[2], words[3], words[4]],
        ["www.example.", "IN", "A", "192.0.2.1"]
    );
    let both = said(&nodens, &["get", "www.example"]);
    assert_eq!(both.matches(";; www.example. ").count(), 2, "{both}");
    let none = cache(&nodens, &["get", "example"]);
    assert_eq!(none.status.code(), Some(1));
    let reason = String::from_utf8_lossy(&none.stderr);
    assert!(
        reason.contains("nothing is cached for example."),
        "{reason}"
    );
}

#[test]
fn a_flush_takes_a_name_or_a_zone_or_everything_and_says_how_much() {
    let server = server();
    let nodens = start(server.address);
    let fill = || {
        for name in ["a.corp.", "b.corp.", "corp.", "notcorp.", "broken.corp."] {
            ask(&nodens, name);
        }
    };
    fill();
    for (arguments, want) in [
        (
            &["flush", "A.corp"][..],
            "forgotten: 1 answer, 0 failures\n",
        ),
        (&["flush", "a.corp"], "forgotten: 0 answers, 0 failures\n"),
        (
            &["flush", "--zone", "corp"],
            "forgotten: 2 answers, 1 failure\n",
        ),
        (&["flush", "--all"], "forgotten: 1 answer, 0 failures\n"),
    ] {
        if arguments.contains(&"--zone") {
            // A failure is remembered for a second: this one is new.
            wait_for("a failure to be remembered", || {
                let before = server.asked_count();
                ask(&nodens, "broken.corp.");
                (server.asked_count() > before).then_some(())
            });
        }
        assert_eq!(said(&nodens, arguments), want, "{arguments:?}");
    }
    fill();
    for arguments in [
        &["flush"][..],
        &["flush", "a.corp", "--all"],
        &["flush", "a..corp"],
    ] {
        assert_eq!(
            cache(&nodens, arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    assert!(said(&nodens, &["list"]).contains(";; 4 entries"));
}

/// The cache holds what was asked for after the flush, and whoever asks after it gets that.
#[test]
fn an_answer_that_was_asked_for_before_a_flush_is_not_kept() {
    let (gate, changed) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let server = {
        let (gate, changed) = (gate.clone(), Arc::clone(&changed));
        StandIn::new(move |query, _| {
            let last = if changed.load(Ordering::SeqCst) { 2 } else { 1 };
            gate.wait();
            vec![response(query, &[record(rr::A, 300, &[192, 0, 2, last])])]
        })
    };
    let nodens = Arc::new(start(server.address));
    let address = |reply: &Message| {
        let mut answers = reply.section(Section::Answer);
        answers.next().map(|record| record.rdata.clone())
    };
    let client = |nodens: &Arc<Nodens>| {
        let nodens = Arc::clone(nodens);
        thread::spawn(move || ask(&nodens, "moved.example."))
    };
    let before = client(&nodens);
    wait_for("the server to be asked", || {
        (server.asked_count() > 0).then_some(())
    });
    changed.store(true, Ordering::SeqCst);
    said(&nodens, &["flush", "moved.example"]);
    let after = client(&nodens);
    nodens.wait_for_metric("nodens_queries_total", &[], 2.0);
    gate.open();
    let before = before.join().expect("it got a reply");
    assert_eq!(address(&before), Some(vec![192, 0, 2, 1]));
    let after = after.join().expect("it got a reply");
    assert_eq!(address(&after), Some(vec![192, 0, 2, 2]));
    let kept = said(&nodens, &["get", "moved.example", "A"]);
    assert!(
        kept.contains("192.0.2.2") && !kept.contains("192.0.2.1"),
        "{kept}"
    );
}

/// The flight that a flush replaced by another one is not forgotten.
#[test]
fn clients_who_asked_before_and_after_a_flush_get_servfail_when_the_grace_of_a_stop_is_over() {
    let silent = StandIn::new(|_, _| vec![]);
    let nodens = Nodens::start(&format!(
        "workers: 1\nshutdown_grace: 300ms\nupstreams:\n  all:\n    servers: [\"{}\"]\n    try_timeout: 12s\n    \
         deadline: 15s\n    failover: {{start_fanout: 1, hedge_min: 10s, hedge_max: 10s}}\n",
        silent.address
    ));
    let mut clients = Vec::new();
    for asked in 1_u8..=3 {
        let client = udp_to(nodens.address()).expect("a socket");
        let query = Ask::new("slow.example.", rr::A).payload(1232);
        client.send(&query.message()).expect("sent");
        clients.push(client);
        nodens.wait_for_metric("nodens_queries_total", &[], f64::from(asked));
        said(&nodens, &["flush", "slow.example"]);
    }
    let (status, log) = nodens.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    for client in &clients {
        let reply = receive(client).unwrap_or_else(|error| panic!("no reply: {error}\n{log}"));
        let reply = Message::read(&reply).expect("well-formed");
        assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
        let options = reply.opt.expect("the query had EDNS").options;
        let text = String::from_utf8_lossy(&options);
        assert!(text.contains("shutting down"), "{text:?}");
    }
}

#[test]
fn only_the_unix_socket_gives_access_to_the_cache() {
    let server = server();
    let nodens = start(server.address);
    ask(&nodens, "www.example.");
    let admin = nodens.admin.expect("it has one over TCP");
    for path in ["/cache/list", "/cache/get", "/cache/flush"] {
        assert_eq!(post(admin, path, "\"all\""), 404, "{path}");
    }
    assert!(said(&nodens, &["list"]).contains(";; 1 entry, "));
    let unset = common::TempDir::new().write("no-socket.yaml", "");
    let output = nodens_with_config(&unset);
    assert_eq!(output.status.code(), Some(2));
}

fn nodens_with_config(file: &std::path::Path) -> Output {
    let mut command = nodens();
    command.args(["cache", "list", "--config"]).arg(file);
    command.output().expect("it runs")
}

fn post(admin: SocketAddr, path: &str, body: &str) -> u16 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(admin).expect("it listens");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("{answer}"))
}
