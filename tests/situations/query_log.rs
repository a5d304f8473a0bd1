//! The query log: what a line says of a reply, and that nobody can forge one.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::{ask, group_of, send, settled};
use crate::common::dns::{Ask, Over, exchange, record, rr};
use crate::common::{Nodens, wait_for};
use crate::server::{Query, Server};

/// nodens before `server`, with this under `log`.
fn logging(server: &Server, log: &str, more: &str) -> Nodens {
    let servers = [server.over("")];
    let yaml = format!("{}log: {{{log}}}\n{more}", group_of(&servers, ""));
    settled(&yaml, &servers)
}

/// Lines of the query log, once there are so many.
fn lines(nodens: &Nodens, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines of the query log"), || {
        let log = nodens.log();
        let lines = log.lines().filter(|line| line.contains("nodens::query"));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// The same as JSON, without what differs from run to run.
fn objects(nodens: &Nodens, count: usize) -> Vec<Value> {
    let object = |line: String| {
        let mut object: Value = serde_json::from_str(&line).expect("a line is JSON");
        let fields = object.as_object_mut().expect("an object");
        for varies in ["timestamp", "level", "target", "microseconds"] {
            assert!(fields.remove(varies).is_some(), "{varies}: {line}");
        }
        let client = fields.remove("client").expect("a client");
        let client = client
            .as_str()
            .and_then(|text| text.parse::<SocketAddr>().ok());
        assert!(
            client.is_some_and(|client| client.ip().is_loopback()),
            "{line}"
        );
        object
    };
    lines(nodens, count).into_iter().map(object).collect()
}

#[test]
fn a_line_says_what_was_asked_and_what_the_reply_was() {
    let server = Server::start(|q: &Query| match &*q.name {
        "four.example." => (1..=4).fold(q.says("NOERROR"), |says, number| {
            says.answer(&format!("@ 60 A 192.0.2.{number}"))
        }),
        "alias.example." => q
            .says("NOERROR")
            .answer("@ 60 CNAME four.example.")
            .answer("four.example. 60 A 192.0.2.1"),
        "blocked.example." => q
            .says("NXDOMAIN")
            .authority("example. 60 SOA 60")
            .ede_text(15, b"by list 7"),
        "empty.example." => q.says("NOERROR").authority("example. 60 SOA 60"),
        _ => q.says("SERVFAIL").ede_text(23, b""),
    });
    let more = "records: {mine.example: {TXT: [\"a \\\"b\\\"\"]}}\n";
    let nodens = logging(&server, "queries: all, format: json", more);
    let asked = server.over("");
    let failed = format!("22: group: {asked} failed (SERVFAIL)");
    let four = "A 192.0.2.1, A 192.0.2.2, A 192.0.2.3, +1 more";
    let cases = [
        (
            "alias.example. A",
            Over::Tcp,
            json!({"rcode": "NOERROR", "how": "miss", "server": asked, "answer": "CNAME four.example., A 192.0.2.1"}),
        ),
        (
            "four.example. A",
            Over::Udp,
            json!({"rcode": "NOERROR", "how": "miss", "server": asked, "answer": four}),
        ),
        (
            "empty.example. AAAA",
            Over::Udp,
            json!({"rcode": "NOERROR", "how": "miss", "server": asked}),
        ),
        (
            "blocked.example. A",
            Over::Udp,
            json!({"rcode": "NXDOMAIN", "how": "miss", "server": asked, "ede": "15: by list 7"}),
        ),
        (
            "blocked.example. A",
            Over::Udp,
            json!({"rcode": "NXDOMAIN", "how": "hit", "ede": "15: by list 7"}),
        ),
        (
            "mine.example. TXT",
            Over::Udp,
            json!({"rcode": "NOERROR", "how": "local", "answer": "TXT \"a \\\"b\\\"\""}),
        ),
        (
            "broken.example. MX",
            Over::Udp,
            json!({"rcode": "SERVFAIL", "how": "failed", "ede": failed}),
        ),
    ];
    for (number, (question, over, mut want)) in cases.into_iter().enumerate() {
        ask(&nodens, question, over);
        let (name, qtype) = question.split_once(' ').expect("a name and a type");
        let protocol = match over {
            Over::Udp => "udp",
            Over::Tcp => "tcp",
        };
        want["name"] = name.into();
        want["type"] = qtype.into();
        want["protocol"] = protocol.into();
        let mut said = objects(&nodens, number + 1).remove(number);
        if want["how"] == "failed" {
            // What the server said follows what we know.
            let ede = said["ede"].as_str().expect("a text").to_owned();
            let (ours, theirs) = ede.split_once("; ").expect("ours, and the server's");
            assert_eq!(theirs, "23");
            said["ede"] = ours.into();
        }
        assert_eq!(said, want, "{question}");
    }
}

#[test]
fn an_expired_answer_is_logged_as_such_with_the_reason() {
    let server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 1 A 192.0.2.1"));
    let more = "cache: {stale: {after: 0s}}\n";
    let nodens = logging(&server, "queries: all", more);
    ask(&nodens, "old.example. A", Over::Udp);
    server.falls_silent();
    let line = wait_for("a stale answer", || {
        ask(&nodens, "old.example. A", Over::Udp);
        let log = nodens.log();
        let mut lines = log.lines();
        let stale = lines.find(|line| line.contains("how=\"stale\""))?;
        Some(stale.to_owned())
    });
    assert!(
        line.contains(" answer=\"A 192.0.2.1\" ede=\"3: the "),
        "{line}"
    );
}

#[test]
fn neither_names_nor_data_nor_errors_can_forge_a_line() {
    const FORGED: &[u8] = b"x\"\n2026-01-01T00:00:00.000000Z  INFO nodens::query: client=\x1b[31m";
    let server = Server::start(|q: &Query| {
        let mut text = vec![u8::try_from(FORGED.len()).expect("a string")];
        text.extend_from_slice(FORGED);
        let alias = [&[3][..], b"a\n\"", &[0]].concat();
        q.says("NOERROR")
            .raw(record(rr::CNAME, 60, &alias))
            .raw(record(rr::TXT, 60, &text))
            .raw(record(rr::PRIVATE, 60, b"\n\""))
            .ede_text(0, FORGED)
            .ede_text(0, "\u{2028}\u{202e}".as_bytes())
    });
    for format in ["text", "json"] {
        let nodens = logging(&server, &format!("queries: all, format: {format}"), "");
        let name = [&[6][..], b"a\n\" b=", &[0]].concat();
        let mut message = Ask::new("x.", rr::ANY).message();
        message.splice(12..15, name);
        exchange(nodens.address(), Over::Udp, &message).expect("a reply");
        let log = lines(&nodens, 1);
        assert_eq!(log.len(), 1, "{log:#?}");
        let line = &log[0];
        assert!(line.is_ascii() && !line.contains('\x1b'), "{line}");
        let whole = nodens.log();
        let starts = if format == "text" { "20" } else { "{" };
        assert!(
            whole.lines().all(|line| line.starts_with(starts)),
            "{whole}"
        );
        if format == "json" {
            let said: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(said["name"], "a\\010\\034\\032b\\061.");
            let answer = said["answer"].as_str().expect("records");
            let begin = "CNAME a\\010\\034., TXT \"x\\\"\\0102026";
            assert!(answer.starts_with(begin), "{answer}");
            assert!(answer.ends_with(", TYPE65280 \\# 2 0A22"), "{answer}");
            let ede = said["ede"].as_str().expect("errors");
            assert!(ede.starts_with("0: x\"\\u{a}2026"), "{ede}");
            assert!(ede.ends_with("; 0: \\u{2028}\\u{202e}"), "{ede}");
        } else {
            // Fields are apart by spaces outside quotes: none of them is a forged one.
            let outside: String = unquoted(line);
            assert_eq!(outside.matches("client=").count(), 1, "{line}");
            assert_eq!(outside.matches("INFO").count(), 1, "{line}");
        }
    }
}

/// A line without what is in quotes.
fn unquoted(line: &str) -> String {
    let (mut outside, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ if !quoted => outside.push(c),
            _ => {}
        }
    }
    outside
}

#[test]
fn long_texts_are_cut_and_truncation_is_told() {
    let server = Server::start(|q: &Query| {
        let text = [&[255][..], &[b'x'; 255]].concat();
        let long = text.repeat(4);
        (0..2).fold(q.says("NOERROR"), |says, _| {
            says.raw(record(rr::TXT, 60, &long))
        })
    });
    let nodens = logging(&server, "queries: all, format: json", "");
    let text = |number: usize| {
        let objects = objects(&nodens, number);
        objects[number - 1]["answer"].as_str().map(str::to_owned)
    };
    ask(&nodens, "long.example. TXT", Over::Tcp);
    let answer = text(1).expect("records");
    assert!(answer.len() < 650, "{answer}");
    assert!(
        answer.starts_with("TXT \"xxx") && answer.ends_with("xxx..."),
        "{answer}"
    );
    send(&nodens, &Ask::new("long.example.", rr::TXT), Over::Udp);
    assert_eq!(text(2).as_deref(), Some("truncated"));
}

#[test]
fn errors_alone_are_logged_or_nothing_is() {
    let server = Server::start(|q: &Query| match &*q.name {
        "good.example." => q.says("NOERROR").answer("@ 60 A 192.0.2.1"),
        "none.example." => q.says("NXDOMAIN").authority("example. 60 SOA 60"),
        _ => q.says("SERVFAIL"),
    });
    for (queries, want) in [("errors", vec!["SERVFAIL"]), ("off", vec![])] {
        let nodens = logging(&server, &format!("queries: {queries}, format: json"), "");
        for name in ["good", "none", "bad"] {
            ask(&nodens, &format!("{name}.example. A"), Over::Udp);
        }
        let (_, log) = nodens.terminate();
        let of_queries = log.lines().filter(|line| line.contains("nodens::query"));
        let codes: Vec<_> = of_queries
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["rcode"].clone())
            .collect();
        assert_eq!(codes, want, "{queries}");
    }
}
