//! `--https`: what is behind a name's addresses; and a TLS server with certificates of every kind, which also answers DNS.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::common::dns::{Over, flag, read_frame, record, rr, send_frame};
use super::common::free_sockets;
use super::common::stand_in::StandIn;
use super::common::tls::{self, Root};
use super::servers::{answer, good};
use super::{Said, Scene};

/// A certificate to be made.
pub(crate) struct Certificate(CertificateParams);

impl Certificate {
    pub(crate) fn of(name: &str) -> Self {
        Self(CertificateParams::new([name.to_owned()]).expect("a DNS name"))
    }

    /// One that may sign others.
    pub(crate) fn of_an_authority(mut self) -> Self {
        self.0.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Its last second is at least so many whole days from now, and less than one more.
    pub(crate) fn expiring_in_days(mut self, days: i64) -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let noon = now + Duration::from_hours(12);
        let moved = Duration::from_hours(24 * days.unsigned_abs());
        let end = if days < 0 {
            noon.saturating_sub(moved)
        } else {
            noon + moved
        };
        self.0.not_after = date_time_ymd(1970, 1, 1) + end;
        self
    }
}

/// A server that shakes hands and answers framed DNS queries, with a certificate of its own. Its threads end with the
/// process.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    pub(crate) root: Root,
}

impl TlsServer {
    pub(crate) fn start(certificate: &Certificate) -> Self {
        let (config, root) = tls::certificate(&certificate.0);
        let (_, listener) = free_sockets();
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || accept(&listener, &Arc::new(config)));
        Self { address, root }
    }
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) {
    for stream in listener.incoming().flatten() {
        let config = Arc::clone(config);
        // A client that ends the connection ends it with an error, which is no news.
        thread::spawn(move || serve(stream, config));
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = StreamOwned::new(connection, stream);
    loop {
        let query = read_frame(&mut stream).ok()?;
        send_frame(&mut stream, &good(&query, Over::Tcp).remove(0)).ok()?;
    }
}

/// Probes `www.example.` with `--https`, whose address is this one.
fn behind(address: SocketAddr, ca: Option<&TlsServer>) -> Said {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("an IPv4 address");
    };
    let server = StandIn::scripting_probes(move |query, _| {
        let is_a = query[12..].starts_with(b"\x03www\x07example\0\0\x01");
        let records = if is_a {
            vec![record(rr::A, 300, &ip.octets())]
        } else {
            vec![]
        };
        vec![answer(query, &records, flag::RA)]
    });
    let https = format!("--https={}", address.port());
    let mut arguments = vec!["www.example.", &https, "--timeout", "2s"];
    let file = ca.map(|ca| ca.root.file.display().to_string());
    if let Some(file) = &file {
        arguments.extend(["--ca-file", file]);
    }
    Scene::of(&[server.address]).probe(&arguments)
}

#[test]
fn addresses_that_accept_tls_have_no_findings() {
    let web = TlsServer::start(&Certificate::of("www.example"));
    let said = behind(web.address, Some(&web));
    said.expect(&[], 0);
    let report = &said.json["names"][0]["https"][0];
    assert_eq!(report["address"], web.address.to_string());
    for time in ["connect_ms", "handshake_ms"] {
        assert!(report[time].as_f64() > Some(0.0), "{time}: {report}");
    }
}

#[test]
fn certificates_connections_and_handshakes_that_fail_are_told_apart() {
    let web = TlsServer::start(&Certificate::of("www.example"));
    let untrusted = behind(web.address, None);
    untrusted.expect(&["https_certificate"], 1);
    let certificate = &untrusted.json["names"][0]["https"][0]["certificate"];
    assert_eq!(certificate["trouble"], "untrusted");

    let other = TlsServer::start(&Certificate::of("other.example"));
    let said = behind(other.address, Some(&other));
    said.expect(&["https_certificate"], 1);
    assert_eq!(
        said.json["names"][0]["https"][0]["certificate"]["trouble"],
        "wrong_name"
    );

    let expired = TlsServer::start(&Certificate::of("www.example").expiring_in_days(-1));
    let said = behind(expired.address, Some(&expired));
    said.expect(&["https_certificate"], 1);
    assert_eq!(
        said.json["names"][0]["https"][0]["certificate"]["trouble"],
        "expired"
    );

    behind(super::common::free_address(), None).expect(&["https_unreachable"], 1);

    let (_, mute) = free_sockets();
    let address = mute.local_addr().expect("bound");
    let said = behind(address, None);
    said.expect(&["https_failed"], 1);
    assert!(said.json["names"][0]["https"][0]["connect_ms"].as_f64() > Some(0.0));
}
