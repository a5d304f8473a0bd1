//! The page at the admin address and what it asks for: headers, escaping, who may ask for what. What a browser makes of it is
//! shown by `tests/page/run`.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use common::dns::{self, Ask, Over, record, response, rr};
use common::stand_in::StandIn;
use common::{Nodens, free_address, wait_for};

/// What an HTTP server said.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut named = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// One request over HTTP/1.0; `head` has further lines.
fn exchange(mut stream: impl Read + Write, request: &str, head: &str, body: &str) -> Answer {
    let length = body.len();
    let text = format!("{request} HTTP/1.0\r\nContent-Length: {length}\r\n{head}\r\n{body}");
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn over_tcp(nodens: &Nodens, request: &str, head: &str, body: &str) -> Answer {
    let admin = nodens.admin.expect("it has one over TCP");
    exchange(
        TcpStream::connect(admin).expect("it listens"),
        request,
        head,
        body,
    )
}

fn over_socket(nodens: &Nodens, request: &str, head: &str, body: &str) -> Answer {
    let socket = UnixStream::connect(nodens.path("nodens.sock"));
    exchange(socket.expect("it listens"), request, head, body)
}

const JSON: &str = "Content-Type: application/json\r\n";
const QUESTION: &str = r#"{"name": "www.example", "type": "A"}"#;

fn start() -> (StandIn, Nodens) {
    start_with("")
}

fn start_with(yaml: &str) -> (StandIn, Nodens) {
    let server = StandIn::new(|query, _| {
        let address = record(rr::A, 300, &[192, 0, 2, 1]);
        vec![response(query, &[address])]
    });
    let nodens = Nodens::start(&format!(
        "upstreams: {{group: {{servers: [\"{}\"]}}}}\n{yaml}\n",
        server.address
    ));
    (server, nodens)
}

#[test]
fn the_page_allows_nothing_but_its_own_script_and_style() {
    let (_server, nodens) = start();
    let page = over_tcp(&nodens, "GET /", "Host: localhost\r\n", "");
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("set-cookie"), None);
    let policy = page.header("content-security-policy").expect("a policy");
    let directives: Vec<_> = policy.split("; ").collect();
    for wanted in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&wanted), "{wanted} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("script-src 'nonce-").nth(1).expect("a nonce");
    let nonce = nonce.split('\'').next().expect("its end");
    let attribute = format!("nonce=\"{nonce}\"");
    assert_eq!(
        page.body.matches(&attribute).count(),
        2,
        "of script and style"
    );
    assert_eq!(page.body.matches("<script").count(), 1);
    // No place is left over, and nothing comes from elsewhere.
    for odd in [
        "src=", "http:", "https:", "@import", "url(", "style=", "onclick", "{nonce}",
    ] {
        let script = page.body.find("<script").expect("a script");
        assert!(!page.body[..script].contains(odd), "{odd}");
    }
    let again = over_tcp(&nodens, "GET /", "Host: localhost\r\n", "");
    assert!(!again.body.contains(nonce), "a nonce is for one response");
}

#[test]
fn names_with_markup_are_text_on_the_page() {
    let (_server, nodens) = start_with("node_name: \"<script>alert('node')</script>\"");
    // A transfer is refused, with the name among the failures.
    let name = "<script>alert(1)</script>\"'&.example.";
    let reply = Ask::new(name, rr::AXFR).send(nodens.address(), Over::Tcp);
    assert_eq!(reply.rcode(), dns::rcode::REFUSED);
    let (page, status) = wait_for("the failure", || {
        let page = over_tcp(&nodens, "GET /", "Host: localhost\r\n", "").body;
        let status = nodens.status();
        let failed = status["failures"][0]["name"].as_str()?.to_owned();
        page.contains("AXFR").then_some((page, failed))
    });
    assert_eq!(page.matches("<script").count(), 1, "our own");
    assert!(page.contains("&lt;script&gt;alert(&#39;node&#39;)&lt;/script&gt;"));
    assert!(
        !page.contains("alert(1)"),
        "octets that are no letters are escaped"
    );
    assert!(status.starts_with("\\060script\\062alert"), "{status}");
}

#[test]
fn a_host_name_gets_nothing_of_the_page() {
    let (server, nodens) = start();
    for host in [
        "evil.example",
        "evil.example:9153",
        "127.0.0.1.evil.example",
    ] {
        let head = format!("Host: {host}\r\n{JSON}");
        for request in ["GET /", "GET /status", "POST /ask"] {
            let body = if request.starts_with("POST") {
                QUESTION
            } else {
                ""
            };
            let refused = over_tcp(&nodens, request, &head, body);
            assert_eq!(
                refused.status, 421,
                "{request} for {host}: {}",
                refused.body
            );
            assert!(
                refused.body.contains("IP address or localhost"),
                "{}",
                refused.body
            );
        }
        // Prometheus and the kubelet may know the node by its name.
        let metrics = over_tcp(&nodens, "GET /metrics", &head, "");
        assert_eq!(metrics.status, 200);
    }
    let twice = "Host: 127.0.0.1\r\nHost: evil.example\r\n";
    assert_ne!(over_tcp(&nodens, "GET /status", twice, "").status, 200);
    for host in [
        "Host: 127.0.0.1:9153\r\n",
        "Host: localhost\r\n",
        "Host: [::1]:1\r\n",
        "",
    ] {
        assert_eq!(over_tcp(&nodens, "GET /", host, "").status, 200, "{host}");
    }
    // No browser gets to the Unix socket.
    let socket = over_socket(&nodens, "GET /status", "Host: nodens\r\n", "");
    assert_eq!(socket.status, 200);
    assert_eq!(server.asked_count(), 0);
}

#[test]
fn another_page_has_nobody_asked() {
    let (server, nodens) = start();
    let host = nodens.admin.expect("it has one over TCP");
    for (head, want) in [
        (format!("{JSON}Origin: http://evil.example\r\n"), 403),
        (format!("{JSON}Origin: http://localhost:1\r\n"), 403),
        (format!("{JSON}Origin: null\r\n"), 403),
        (format!("{JSON}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{JSON}Sec-Fetch-Site: same-site\r\n"), 403),
        ("Content-Type: text/plain\r\n".to_owned(), 415),
        (String::new(), 415),
    ] {
        let head = format!("Host: {host}\r\n{head}");
        let refused = over_tcp(&nodens, "POST /ask", &head, QUESTION);
        assert_eq!(refused.status, want, "{head}{}", refused.body);
    }
    assert_eq!(
        over_tcp(&nodens, "GET /ask", "Host: localhost\r\n", "").status,
        405
    );
    assert_eq!(server.asked_count(), 0, "none of them reached a server");
    let own =
        format!("Host: {host}\r\n{JSON}Origin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(over_tcp(&nodens, "POST /ask", &own, QUESTION).status, 200);
    assert_eq!(server.asked_count(), 1);
}

#[test]
fn each_server_of_the_route_says_what_it_answers() {
    let gone = free_address();
    let (server, nodens) = {
        let server = StandIn::new(|query, _| {
            let address = record(rr::A, 300, &[192, 0, 2, 1]);
            vec![response(query, &[address])]
        });
        let nodens = Nodens::start(&format!(
            "upstreams: {{one: {{servers: [\"{}\"]}}, two: {{servers: [\"{gone}\"]}}}}\n\
             routes: {{\".\": {{tiers: [one, two], rewrite: {{from: corp, to: corp.example}}}}, mine: {{answer: NXDOMAIN}}}}\n\
             records: {{own.example: {{A: 192.0.2.7}}}}\n",
            server.address
        ));
        (server, nodens)
    };
    let ask = |name: &str| {
        let body = format!(r#"{{"name": "{name}", "type": "a"}}"#);
        let answer = over_socket(&nodens, "POST /ask", JSON, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let answer = ask("www.corp");
    assert_eq!(answer["name"], "www.corp.");
    assert_eq!(answer["asked_as"], "www.corp.example.");
    assert_eq!(answer["route"], ".");
    let [one, two] = &answer["servers"].as_array().expect("a list")[..] else {
        panic!("two servers: {answer}");
    };
    assert_eq!(
        (&one["rcode"], &one["group"]),
        (&"NOERROR".into(), &"one".into())
    );
    let records = one["records"].to_string();
    assert!(records.contains("300 A 192.0.2.1"), "{records}");
    assert_eq!(two["rcode"], serde_json::Value::Null);
    assert!(
        two["failure"]
            .as_str()
            .is_some_and(|why| why.contains("refused")),
        "{two}"
    );
    assert_eq!(server.asked_count(), 1);

    for (name, why) in [("x.mine", "NXDOMAIN"), ("own.example", "configuration")] {
        let answer = ask(name);
        let here = answer["answered_here"].as_str().expect("a reason");
        assert!(here.contains(why), "{here}");
        assert_eq!(answer["servers"].as_array().map(Vec::len), Some(0));
    }
    assert_eq!(server.asked_count(), 1, "nobody was asked");
}

#[test]
fn a_question_that_cannot_be_read_is_refused() {
    let (server, nodens) = start();
    let long = format!(r#"{{"name": "{}", "type": "A"}}"#, "a.".repeat(1_500));
    for (body, want) in [
        ("", 400),
        ("{}", 400),
        (r#"{"name": "", "type": "A"}"#, 400),
        (r#"{"name": "a..b", "type": "A"}"#, 400),
        (r#"{"name": "a", "type": "NOTHING"}"#, 400),
        (&long, 413),
    ] {
        let answer = over_socket(&nodens, "POST /ask", JSON, body);
        assert_eq!(answer.status, want, "{body}: {}", answer.body);
    }
    assert_eq!(server.asked_count(), 0);
}

#[test]
fn questions_are_few_and_the_next_one_is_told_when() {
    let (server, nodens) = start();
    let answers: Vec<_> = (0..10)
        .map(|_| over_socket(&nodens, "POST /ask", JSON, QUESTION))
        .collect();
    let count = |status| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    assert!((5..=6).contains(&count(200)), "{} were asked", count(200));
    assert_eq!(count(200) + count(429), 10);
    assert_eq!(server.asked_count(), count(200));
    let refused = answers.iter().find(|answer| answer.status == 429);
    assert_eq!(
        refused.and_then(|answer| answer.header("retry-after")),
        Some("1")
    );
    wait_for("another question to be allowed", || {
        (over_socket(&nodens, "POST /ask", JSON, QUESTION).status == 200).then_some(())
    });
}

#[test]
fn neighbours_see_no_page() {
    let address = free_address();
    let (_server, nodens) = start_with(&format!("metrics: {{listen: \"{address}\"}}"));
    let of_neighbours = |request: &str, body| {
        let stream = TcpStream::connect(address).expect("it listens");
        exchange(stream, request, &format!("Host: localhost\r\n{JSON}"), body).status
    };
    assert_eq!(of_neighbours("GET /metrics", ""), 200);
    for path in ["GET /", "GET /status"] {
        assert_eq!(of_neighbours(path, ""), 404, "{path}");
    }
    assert_eq!(of_neighbours("POST /ask", QUESTION), 404);
    drop(nodens);
}

#[test]
fn names_of_failures_are_shown_unless_that_is_turned_off() {
    let (server, nodens) = start();
    let fail = || {
        let reply = Ask::new("private.example", rr::AXFR).send(nodens.address(), Over::Tcp);
        assert_eq!(reply.rcode(), dns::rcode::REFUSED);
    };
    fail();
    wait_for("the failure", || {
        (nodens.status()["failures"][0]["name"] == "private.example.").then_some(())
    });
    let yaml = format!(
        "status: {{failures: false}}\nupstreams: {{group: {{servers: [\"{}\"]}}}}",
        server.address
    );
    nodens.rewrite(&["127.0.0.1:0"], &yaml);
    nodens.hang_up();
    wait_for("no failures", || {
        nodens.status()["failures"].is_null().then_some(())
    });
    let page = over_socket(&nodens, "GET /", "", "").body;
    assert!(!page.contains("private.example") && page.contains("status.failures is false"));
}
