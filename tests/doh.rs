//! DNS over HTTPS to upstream servers (RFC 8484): a real HTTP/2 server with a certificate of its own on loopback.

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::dns::{Ask, Message, Over, Section, rcode, record, response, rr, u16_at};
use common::stand_in::StandIn;
use common::tls::{Root, certificate_for};
use common::{Nodens, free_address, wait_for};
use h2::Reason;
use h2::server::{Connection, SendResponse, handshake};
use hyper::body::Bytes;
use hyper::http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const NAME: &str = "doh.example";

/// What the server does with clients' queries. Probes are answered always, so that only queries tell what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Answers,
    /// Says of each answer that it is so many seconds old.
    AnswersOfAge(u32),
    /// Answers so many queries on a connection, then closes it, whatever else is in flight.
    ClosesAfter(usize),
    /// Answers so many queries on a connection, then announces its end and takes no others.
    GoesAwayAfter(usize),
    /// Resets the first request for each name.
    ResetsFirst,
    /// Answers with this status, and an answer as its body.
    Status(u16),
    /// Answers with a body that is longer than a message can be.
    TooLong,
    /// Answers with text.
    Text,
    /// Answers another question.
    AnotherQuestion,
    Silent,
}

/// A query as it came.
#[derive(Debug, Clone)]
struct Asked {
    /// Method, authority, path and content type.
    request: [String; 4],
    id: u16,
    question: Vec<u8>,
    connection: usize,
}

struct DohServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    root: Root,
    _runtime: tokio::runtime::Runtime,
}

impl DohServer {
    fn start(script: Script) -> Self {
        Self::start_as(NAME, &[b"h2"], script)
    }

    fn start_as(name: &str, protocols: &[&[u8]], script: Script) -> Self {
        let (mut config, root) = certificate_for(name);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        runtime.spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                number += 1;
                let (acceptor, all) = (acceptor.clone(), Arc::clone(&all));
                tokio::spawn(async move {
                    // A client that ends the connection is no news.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    if let Ok(connection) = handshake(stream).await {
                        serve(connection, script, number, &all).await;
                    }
                });
            }
        });
        Self {
            address,
            asked,
            root,
            _runtime: runtime,
        }
    }

    fn written(&self) -> String {
        format!("https://{}/dns-query#{NAME}", self.address)
    }

    /// A configuration with this server, and others behind it.
    fn config(&self, others: &[String]) -> String {
        let mut servers = vec![self.written()];
        servers.extend(others.iter().cloned());
        let servers = serde_json::to_string(&servers).expect("strings");
        format!(
            "workers: 1\nupstreams: {{doh: {{servers: {servers}, tls_ca: {}, try_timeout: 500ms, deadline: 4s, failover: {{start_fanout: 1}}}}}}\nroutes: {{\".\": doh}}\n",
            self.root.file.display()
        )
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no thread panics").clone()
    }
}

type Server = Connection<TlsStream<TcpStream>, Bytes>;

async fn serve(mut connection: Server, script: Script, number: usize, all: &Mutex<Vec<Asked>>) {
    let mut answered = 0;
    let mut unanswered = Vec::new();
    let mut further = VecDeque::new();
    loop {
        let next = match further.pop_front() {
            Some(request) => Some(Ok(request)),
            None => connection.accept().await,
        };
        let Some(Ok((request, mut respond))) = next else {
            return;
        };
        let (parts, mut body) = request.into_parts();
        let mut query = Vec::new();
        // The body is read from the connection, which has to be driven beside it.
        loop {
            tokio::select! {
                data = body.data() => match data {
                    Some(Ok(data)) => query.extend_from_slice(&data),
                    _ => break,
                },
                other = connection.accept() => match other {
                    Some(Ok(other)) => further.push_back(other),
                    _ => return,
                },
            }
        }
        // A probe asks for `. NS`.
        if query.get(12) == Some(&0) {
            answer(&mut respond, &query, 200, None);
            continue;
        }
        let seen = note(&Request::from_parts(parts, ()), &query, number, all);
        if matches!(script, Script::GoesAwayAfter(most) if answered >= most) {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        match script {
            Script::Answers | Script::ClosesAfter(_) | Script::GoesAwayAfter(_) => {
                answer(&mut respond, &query, 200, None);
            }
            Script::AnswersOfAge(age) => answer(&mut respond, &query, 200, Some(age)),
            Script::ResetsFirst if seen == 1 => respond.send_reset(Reason::INTERNAL_ERROR),
            Script::ResetsFirst => answer(&mut respond, &query, 200, None),
            Script::Status(status) => answer(&mut respond, &query, status, None),
            Script::TooLong => {
                send(
                    &mut respond,
                    200,
                    None,
                    "application/dns-message",
                    vec![0; 70_000],
                );
            }
            Script::Text => send(&mut respond, 200, None, "text/plain", address_for(&query)),
            Script::AnotherQuestion => {
                let other = Ask::new("other.example.", rr::A).message();
                answer(&mut respond, &other, 200, None);
            }
            Script::Silent => unanswered.push(respond),
        }
        answered += 1;
        match script {
            Script::GoesAwayAfter(most) if answered == most => connection.graceful_shutdown(),
            Script::ClosesAfter(most) if answered == most => {
                // Long enough for the answer to leave, and for other queries to arrive in vain.
                let _ = tokio::time::timeout(Duration::from_millis(20), async {
                    while let Some(Ok(other)) = connection.accept().await {
                        unanswered.push(other.1);
                    }
                })
                .await;
                return;
            }
            _ => {}
        }
    }
}

/// Writes a query down; returns how often its question has come.
fn note(request: &Request<()>, query: &[u8], connection: usize, all: &Mutex<Vec<Asked>>) -> usize {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let uri = request.uri();
    let asked = Asked {
        request: [
            request.method().to_string(),
            uri.authority().map(ToString::to_string).unwrap_or_default(),
            uri.path().to_owned(),
            header("content-type"),
        ],
        id: u16_at(query, 0).expect("a header"),
        question: query[12..common::dns::question_end(query)].to_vec(),
        connection,
    };
    let mut all = all.lock().expect("no thread panics");
    all.push(asked.clone());
    let same = |other: &&Asked| other.question == asked.question;
    all.iter().filter(same).count()
}

fn address_for(query: &[u8]) -> Vec<u8> {
    response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])
}

fn answer(respond: &mut SendResponse<Bytes>, query: &[u8], status: u16, age: Option<u32>) {
    let media_type = "application/dns-message";
    send(respond, status, age, media_type, address_for(query));
}

fn send(
    respond: &mut SendResponse<Bytes>,
    status: u16,
    age: Option<u32>,
    media_type: &str,
    body: Vec<u8>,
) {
    let mut head = Response::builder()
        .status(status)
        .header("content-type", media_type);
    if let Some(age) = age {
        head = head.header("age", age);
    }
    let head = head.body(()).expect("a response");
    // Whoever ended the request does not want it.
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(body.into(), true);
    }
}

fn ask(nodens: &Nodens, name: &str) -> Message {
    Ask::new(name, rr::A)
        .payload(1232)
        .send(nodens.address(), Over::Udp)
}

fn assert_answered(nodens: &Nodens, name: &str) {
    let reply = ask(nodens, name);
    let answers: Vec<_> = reply
        .section(Section::Answer)
        .map(|r| r.rdata.clone())
        .collect();
    assert_eq!(answers, [[192, 0, 2, 1]], "{reply:?}\n{}", nodens.log());
}

/// Asks so many names at once.
fn assert_all_answered(nodens: &Nodens, names: usize) {
    thread::scope(|scope| {
        for number in 0..names {
            scope.spawn(move || assert_answered(nodens, &format!("n{number}.example.")));
        }
    });
}

fn assert_servfail(nodens: &Nodens, name: &str, text: &str) {
    let reply = ask(nodens, name);
    assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
    let options = reply.opt.map(|opt| opt.options).unwrap_or_default();
    let errors = String::from_utf8_lossy(&options);
    assert!(errors.contains(text), "{text} is not in {errors}");
}

#[test]
fn queries_are_posts_with_id_0_to_the_name_of_the_certificate_on_few_connections() {
    let server = DohServer::start(Script::Answers);
    let nodens = Nodens::start(&server.config(&[]));
    assert_all_answered(&nodens, 50);
    for number in 50..100 {
        assert_answered(&nodens, &format!("n{number}.example."));
    }
    let asked = server.asked();
    let authority = format!("{NAME}:{}", server.address.port());
    for query in &asked {
        let want = ["POST", &authority, "/dns-query", "application/dns-message"];
        assert_eq!(query.request, want);
        assert_eq!(query.id, 0);
    }
    let mut connections: Vec<_> = asked.iter().map(|query| query.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() <= 4, "{connections:?}");
}

#[test]
fn a_connection_over_its_age_is_replaced_without_a_query_lost() {
    let server = DohServer::start(Script::Answers);
    let config = server.config(&[]);
    let aged = config.replace("try_timeout", "streams: {max_age: 1s}, try_timeout");
    let nodens = Nodens::start(&aged);
    let mut number = 0;
    wait_for("a query on another connection", || {
        number += 1;
        assert_answered(&nodens, &format!("n{number}.example."));
        let asked = server.asked();
        (asked.last()?.connection != asked.first()?.connection).then_some(())
    });
}

#[test]
fn the_time_an_answer_spent_in_caches_is_taken_off_its_ttls() {
    let server = DohServer::start(Script::AnswersOfAge(100));
    let nodens = Nodens::start(&server.config(&[]));
    let reply = ask(&nodens, "n.example.");
    let ttls: Vec<_> = reply.section(Section::Answer).map(|r| r.ttl).collect();
    assert_eq!(ttls, [200], "{reply:?}");
}

#[test]
fn a_server_that_closes_after_each_answer_costs_no_query() {
    for most in [1, 3] {
        let server = DohServer::start(Script::ClosesAfter(most));
        let nodens = Nodens::start(&server.config(&[]));
        assert_all_answered(&nodens, 20);
    }
}

#[test]
fn queries_refused_by_goaway_are_asked_again_on_another_connection() {
    for most in [1, 3] {
        let server = DohServer::start(Script::GoesAwayAfter(most));
        let nodens = Nodens::start(&server.config(&[]));
        assert_all_answered(&nodens, 20);
        let last = server.asked().iter().map(|query| query.connection).max();
        assert!(last > Some(1), "{last:?}");
    }
}

#[test]
fn a_query_whose_request_was_reset_is_asked_again() {
    let server = DohServer::start(Script::ResetsFirst);
    let nodens = Nodens::start(&server.config(&[]));
    for number in 0..5 {
        assert_answered(&nodens, &format!("n{number}.example."));
    }
    assert!(server.asked().len() >= 10, "{:?}", server.asked());
}

#[test]
fn another_status_than_200_is_no_answer_and_says_so() {
    let server = DohServer::start(Script::Status(503));
    let nodens = Nodens::start(&server.config(&[]));
    assert_servfail(&nodens, "n.example.", "answered with HTTP status 503");
    let labels = [("outcome", "http_error")];
    nodens.wait_for_metric("nodens_upstream_tries_total", &labels, 1.0);
}

#[test]
fn the_next_server_is_asked_when_one_brings_no_answer() {
    for script in [
        Script::Status(404),
        Script::Status(500),
        Script::TooLong,
        Script::Text,
        Script::AnotherQuestion,
        Script::Silent,
    ] {
        let broken = DohServer::start(script);
        let fine = StandIn::new(|query, _| vec![address_for(query)]);
        let nodens = Nodens::start(&broken.config(&[fine.address.to_string()]));
        let asked = Instant::now();
        let reply = ask(&nodens, "n.example.");
        assert_eq!(reply.rcode(), rcode::NOERROR, "{script:?} {reply:?}");
        assert_eq!(reply.count(Section::Answer), 1, "{script:?} {reply:?}");
        assert!(asked.elapsed() < Duration::from_secs(2), "{script:?}");
        let was_asked = || (!broken.asked().is_empty()).then_some(());
        wait_for("a query at the broken server", was_asked);
    }
}

#[test]
fn a_message_without_an_answer_is_told_from_silence() {
    for (script, text) in [
        (Script::TooLong, "answered garbage"),
        (Script::Text, "answered garbage"),
        (Script::AnotherQuestion, "answered garbage"),
        (Script::Silent, "timed out"),
    ] {
        let server = DohServer::start(script);
        let nodens = Nodens::start(&server.config(&[]));
        assert_servfail(&nodens, "n.example.", text);
    }
}

#[test]
fn a_certificate_for_another_name_is_not_trusted() {
    let server = DohServer::start_as("other.example", &[b"h2"], Script::Answers);
    let nodens = Nodens::start(&server.config(&[]));
    assert_servfail(&nodens, "n.example.", "unreachable");
    assert!(server.asked().is_empty(), "no query may leave");
    let status = nodens.status();
    let shown = &status["upstreams"][0]["servers"][0];
    assert_eq!(shown["server"], server.written(), "{shown}");
    assert_eq!(shown["health"][0]["state"], "down", "{shown}");
}

#[test]
fn a_host_name_is_resolved_and_is_what_the_certificate_must_say() {
    let server = DohServer::start(Script::Answers);
    let resolver = StandIn::new(|query, _| {
        let question = Ask::new(&format!("{NAME}."), rr::A).question();
        let is_a = query[12..].starts_with(&question);
        let records = [record(rr::A, 300, &[127, 0, 0, 1])];
        vec![response(query, if is_a { &records } else { &[] })]
    });
    let nodens = Nodens::start(&format!(
        "upstreams:\n  boot: {{servers: [\"{}\"]}}\n  doh: {{servers: [\"https://{NAME}:{}@boot\"], tls_ca: {}}}\n\
         routes: {{\".\": doh, boot.: boot}}\n",
        resolver.address,
        server.address.port(),
        server.root.file.display()
    ));
    wait_for("an answer", || {
        (ask(&nodens, "n.example.").count(Section::Answer) == 1).then_some(())
    });
    let asked = server.asked();
    let authority = format!("{NAME}:{}", server.address.port());
    assert!(
        asked.iter().all(|query| query.request[1] == authority),
        "{asked:?}"
    );
}

#[test]
fn a_server_without_http_2_is_unreachable() {
    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        let server = DohServer::start_as(NAME, protocols, Script::Answers);
        let nodens = Nodens::start(&server.config(&[]));
        assert_servfail(&nodens, "n.example.", "unreachable");
    }
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let (_, root) = certificate_for(NAME);
    let nodens = Nodens::start(&format!(
        "upstreams: {{doh: {{servers: [\"https://{}#{NAME}\"], tls_ca: {}}}}}\nroutes: {{\".\": doh}}\n",
        free_address(),
        root.file.display()
    ));
    assert_servfail(&nodens, "n.example.", "unreachable");
}
