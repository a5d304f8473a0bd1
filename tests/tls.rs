//! DNS over TLS to upstream servers: a real TLS server with a certificate of its own on loopback.

mod common;

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::dns::{Ask, Over, Section, rcode, read_frame, record, response, rr, send_frame};
use common::tls::{Root, certificate_for};
use common::{Nodens, TempDir};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the server does with a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Stays,
    Closes,
}

/// A DNS-over-TLS server that answers every A query with 192.0.2.1; its threads end with the process.
struct TlsServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    root: Root,
}

impl TlsServer {
    fn start(name: &str, after: After) -> Self {
        let (config, root) = certificate_for(name);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (config, connections) = (Arc::new(config), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                let count = Arc::clone(&count);
                // A client that ends the connection ends the loop with an error, which is no news.
                thread::spawn(move || drop(serve(stream, config, &count, after)));
            }
        });
        Self {
            address,
            connections,
            root,
        }
    }

    fn upstream(&self, name: &str) -> String {
        format!(
            "upstreams: {{dot: {{servers: [\"tls://{}#{name}\"], tls_ca: {}, deadline: 3s}}}}\nroutes: {{\".\": dot}}\n",
            self.address,
            self.root.file.display()
        )
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    connections: &AtomicUsize,
    after: After,
) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut counted = false;
    loop {
        let query = read_frame(&mut stream)?;
        if !counted {
            connections.fetch_add(1, Ordering::Relaxed);
            counted = true;
        }
        let answer = response(&query, &[record(rr::A, 300, &[192, 0, 2, 1])]);
        send_frame(&mut stream, &answer)?;
        if after == After::Closes {
            stream.conn.send_close_notify();
            return stream.flush();
        }
    }
}

fn assert_answered(nodens: &Nodens, name: &str) {
    let reply = Ask::new(name, rr::A).send(nodens.address(), Over::Udp);
    let answers: Vec<_> = reply
        .section(Section::Answer)
        .map(|r| r.rdata.clone())
        .collect();
    assert_eq!(answers, [[192, 0, 2, 1]], "{reply:?}\n{}", nodens.log());
}

#[test]
fn a_server_with_a_certificate_of_its_name_answers_over_few_connections() {
    let server = TlsServer::start("dot.example", After::Stays);
    let nodens = Nodens::start(&format!("workers: 1\n{}", server.upstream("dot.example")));
    for number in 0..50 {
        assert_answered(&nodens, &format!("n{number}.example."));
    }
    // One for the queries, and those of the probes, which are short.
    let connections = server.connections.load(Ordering::Relaxed);
    assert!(connections <= 6, "{connections} connections");
}

#[test]
fn a_connection_the_server_closed_costs_no_query() {
    let server = TlsServer::start("dot.example", After::Closes);
    let nodens = Nodens::start(&server.upstream("dot.example"));
    for number in 0..20 {
        assert_answered(&nodens, &format!("n{number}.example."));
    }
}

#[test]
fn a_certificate_for_another_name_is_not_trusted() {
    let server = TlsServer::start("other.example", After::Stays);
    let nodens = Nodens::start(&server.upstream("dot.example"));
    let reply = Ask::new("n.example.", rr::A).send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
    assert_eq!(
        server.connections.load(Ordering::Relaxed),
        0,
        "no query may leave"
    );
}

#[test]
fn the_log_says_once_why_a_handshake_fails() {
    let server = TlsServer::start("other.example", After::Stays);
    let nodens = Nodens::start(&format!("workers: 2\n{}", server.upstream("dot.example")));
    nodens.wait_for_log("no TLS with an upstream server");
    for number in 0..10 {
        let name = format!("n{number}.example.");
        Ask::new(&name, rr::A).send(nodens.address(), Over::Udp);
    }
    let log = nodens.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("no TLS with"))
        .collect();
    let [line] = &lines[..] else {
        panic!("{log}");
    };
    for part in ["WARN", &server.address.to_string(), "other.example"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn a_server_that_ends_each_connection_is_named_for_that() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that has gone is no news.
            let _ = read_frame(&mut stream);
        }
    });
    let nodens = Nodens::start(&format!(
        "upstreams: {{g: {{servers: [\"tcp://{address}\"]}}}}\nroutes: {{\".\": g}}\n"
    ));
    nodens.wait_for_metric("nodens_upstream_state", &[("state", "down")], 1.0);
    let reply = Ask::new("n.example.", rr::A)
        .payload(1232)
        .send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
    let options = reply.opt.map(|opt| opt.options).unwrap_or_default();
    let errors = String::from_utf8_lossy(&options);
    let text = format!("tcp://{address} closed the connection");
    assert!(errors.contains(&text), "{text} is not in {errors}");
}

#[test]
fn a_root_that_is_none_ends_it_with_2() {
    let dir = TempDir::new();
    let ca = dir.write("ca.pem", "no certificate");
    let file = dir.write(
        "nodens.yaml",
        &format!(
            "listen: [\"127.0.0.1:0\"]\nadmin: null\nupstreams: {{dot: {{servers: [\"tls://127.0.0.1:9#dot.example\"], tls_ca: {}}}}}\nroutes: {{\".\": dot}}\n",
            ca.display()
        ),
    );
    let output = common::serve_and_fail(&file);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("upstreams.dot.tls_ca") && errors.contains("ca.pem"),
        "{errors}"
    );
    assert!(fs::exists(&ca).expect("readable"));
}
