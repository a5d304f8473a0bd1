//! One query to one server, and everything that came of it.
//!
//! Queries of clients and health probes use only the answer and ignore other messages. A diagnosis reports those, too:
//! messages with a wrong ID, to another question, from another address, ICMP errors and their kinds. So UDP sockets are
//! not connected, and each query has a socket, or a connection, of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::RootCertStore;

use super::certificate::Handshake;
use super::report::{CertificateReport, Medium, Strays, Trouble};
use crate::config::{ServerConfig, Transport};
use crate::message::form::failed;
use crate::message::framing::{Frames, put_frame};
use crate::message::response::Response;
use crate::message::wire::{self, HEADER_LEN, MAX_MESSAGE_LEN};
use crate::net::open::unconnected_udp;
use crate::net::watched::Watched;
use crate::runtime::timeout::timeout_at;
use crate::transport::exchange::answers;
use crate::transport::https::{self, Endpoint, Failure};
use crate::transport::tls;

/// Time limits, and the number of queries.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueryLimits {
    /// Queries that measure a server.
    pub(super) tries: usize,
    /// Time limit of one query.
    pub(super) timeout: Duration,
    /// When the whole diagnosis must end.
    pub(super) deadline: Instant,
}

/// A question and the form in which it is asked.
#[derive(Debug, Clone)]
pub(super) struct Inquiry {
    pub(super) name: Name,
    pub(super) record_type: RecordType,
    pub(super) class: DNSClass,
    /// Payload size and DO; none to ask without EDNS.
    pub(super) edns: Option<(u16, bool)>,
}

impl Inquiry {
    pub(super) fn new(name: Name, record_type: RecordType) -> Self {
        Self {
            name,
            record_type,
            class: DNSClass::IN,
            edns: Some((wire::MAX_PAYLOAD, false)),
        }
    }

    pub(super) fn with_edns(&self, edns: Option<(u16, bool)>) -> Self {
        Self {
            edns,
            ..self.clone()
        }
    }

    fn message(&self) -> io::Result<Vec<u8>> {
        let mut query = Query::query(self.name.clone(), self.record_type);
        query.set_query_class(self.class);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = true;
        message.add_query(query);
        if let Some((payload, dnssec_ok)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns.set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        message.to_vec().map_err(io::Error::other)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) message: Vec<u8>,
    /// From the query to the answer.
    pub(super) rtt: Duration,
    /// To connect and shake hands before the query.
    pub(super) connect: Duration,
}

impl Heard {
    /// The whole response code.
    pub(super) fn rcode(&self) -> u16 {
        crate::message::form::code_of(&self.message)
    }

    pub(super) fn truncated(&self) -> bool {
        wire::flags(&self.message) & wire::flag::TC != 0
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) struct Unheard {
    pub(super) trouble: Trouble,
    pub(super) text: String,
}

impl Unheard {
    fn new(trouble: Trouble, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { trouble, text }
    }

    /// The failure for an error of UDP, or of connecting.
    pub(super) fn of_host(error: &io::Error) -> Self {
        let trouble = match error.kind() {
            io::ErrorKind::ConnectionRefused => Trouble::Refused,
            io::ErrorKind::HostUnreachable => Trouble::Unreachable,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Trouble::NoRoute,
            io::ErrorKind::PermissionDenied => Trouble::NotPermitted,
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    Trouble::NoSocket
                }
                // Other ICMP errors, such as "protocol unreachable".
                _ => Trouble::Unreachable,
            },
        };
        Self::new(trouble, error.to_string())
    }

    /// The failure for an error of an established connection.
    fn of_stream(error: &io::Error) -> Self {
        Self::new(Trouble::Closed, ended(error))
    }
}

/// The outcome of one query.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) medium: Medium,
    pub(super) result: Result<Heard, Unheard>,
    pub(super) strays: Strays,
    pub(super) certificate: Option<CertificateReport>,
}

/// The way to one server.
#[derive(Debug, Clone)]
pub(super) struct ServerPath {
    pub(super) server: ServerConfig,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) pace: QueryLimits,
}

impl ServerPath {
    /// The transport that queries take.
    pub(super) fn medium(&self) -> Medium {
        match self.server.transport {
            Transport::Udp => Medium::Udp,
            Transport::Tcp => Medium::Tcp,
            Transport::Tls(_) => Medium::Tls,
            Transport::Https { .. } => Medium::Https,
        }
    }

    /// Asks over the transport that queries take.
    pub(super) async fn ask(&self, inquiry: &Inquiry) -> Tried {
        self.ask_over(self.medium(), inquiry).await
    }

    /// Asks over a transport; TCP is there beside UDP as well.
    pub(super) async fn ask_over(&self, medium: Medium, inquiry: &Inquiry) -> Tried {
        let mut strays = Strays::default();
        let mut certificate = None;
        let now = Instant::now();
        let (end, cut) = match now + self.pace.timeout {
            end if end <= self.pace.deadline => (end, false),
            _ => (self.pace.deadline, true),
        };
        let result = match inquiry.message() {
            Err(error) => Err(Unheard::new(Trouble::NoSocket, error.to_string())),
            Ok(_) if now >= self.pace.deadline => Err(out_of_time()),
            Ok(query) => {
                let asked = async {
                    if medium == Medium::Udp {
                        self.over_udp(&query, &mut strays).await
                    } else {
                        // In a box: that of TLS with HTTP/2 is large.
                        Box::pin(self.over_stream(&query, &mut strays, &mut certificate)).await
                    }
                };
                match timeout_at(end, asked).await {
                    Ok(result) => result,
                    Err(_) if cut => Err(out_of_time()),
                    Err(_) => Err(Unheard::new(
                        Trouble::Silence,
                        format!("no answer within {:?}", self.pace.timeout),
                    )),
                }
            }
        };
        Tried {
            medium,
            result,
            strays,
            certificate,
        }
    }

    async fn over_udp(&self, query: &[u8], strays: &mut Strays) -> Result<Heard, Unheard> {
        let server = self.server.address;
        let refused = |error: io::Error| Unheard::of_host(&error);
        let socket = unconnected_udp(server).map_err(refused)?;
        // Readiness is watched on one descriptor of it; std reads from the other, and tells who sent what.
        let watched = socket.try_clone().and_then(Watched::new).map_err(refused)?;
        let socket = UdpSocket::from(socket);
        socket.send_to(query, server).map_err(refused)?;
        let sent = Instant::now();
        // The largest datagram there is.
        let mut buffer = vec![0; MAX_MESSAGE_LEN];
        loop {
            let mut ready = watched.ready().await.map_err(refused)?;
            match socket.recv_from(&mut buffer) {
                Ok((length, peer)) => {
                    let message = &buffer[..length];
                    if strays.sort(query, message, same(peer, server)) {
                        return Ok(Heard {
                            message: message.to_vec(),
                            rtt: sent.elapsed(),
                            connect: Duration::ZERO,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(Unheard::of_host(&error)),
            }
        }
    }

    async fn over_stream(
        &self,
        query: &[u8],
        strays: &mut Strays,
        certificate: &mut Option<CertificateReport>,
    ) -> Result<Heard, Unheard> {
        let started = Instant::now();
        let stream = TcpStream::connect(self.server.address)
            .await
            .map_err(|error| Unheard::of_host(&error))?;
        let (name, protocol) = match &self.server.transport {
            Transport::Udp | Transport::Tcp => {
                return exchange(stream, query, strays, started.elapsed()).await;
            }
            Transport::Tls(name) => (name, tls::DNS),
            Transport::Https { name, .. } => (name, tls::HTTP2),
        };
        let no_name = |error: io::Error| Unheard::new(Trouble::Tls, error.to_string());
        let handshake =
            Handshake::new(name, &[protocol], Arc::clone(&self.roots)).map_err(no_name)?;
        let shaken = handshake.shake(stream).await;
        *certificate = handshake.certificate();
        let stream = shaken.map_err(|error| of_handshake(&error, certificate.as_ref()))?;
        let connect = started.elapsed();
        match &self.server.transport {
            Transport::Https { name, path } => {
                let endpoint = Endpoint::new(name, self.server.address.port(), path);
                let endpoint =
                    endpoint.map_err(|error| Unheard::new(Trouble::Http, error.to_string()))?;
                over_https(stream, &endpoint, query, strays, connect).await
            }
            _ => exchange(stream, query, strays, connect).await,
        }
    }
}

impl Strays {
    /// Whether a message is the answer to a query; counts it otherwise. Stray datagrams of other hosts are not counted.
    fn sort(&mut self, query: &[u8], message: &[u8], from_server: bool) -> bool {
        let Ok(name_end) = wire::skip_question_name(query, HEADER_LEN) else {
            return false;
        };
        let fits = answers(&query[HEADER_LEN..name_end + 4], message).is_ok();
        let same_id = wire::id(message) == wire::id(query);
        if !from_server {
            self.wrong_source += usize::from(fits && same_id);
            return false;
        }
        // Servers that report a failure often encode the rest wrongly, and it is not needed.
        let readable = Response::read(message).is_ok() || fits && failed(message);
        match (readable, same_id, fits) {
            (true, true, true) => return true,
            (false, ..) => self.malformed += 1,
            (true, false, _) => self.wrong_id += 1,
            (true, true, false) => self.wrong_question += 1,
        }
        false
    }

    /// The sum of both.
    pub(super) fn add(&mut self, other: Self) {
        self.wrong_id += other.wrong_id;
        self.wrong_question += other.wrong_question;
        self.malformed += other.malformed;
        self.wrong_source += other.wrong_source;
    }
}

/// Whether both are the same address and port. The kernel adds a scope and a flow label to IPv6 addresses, which are
/// ignored.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}

/// How a connection ended. Of the usual end, the text of rustls is a link to its manual.
fn ended(error: &io::Error) -> String {
    let text = "the connection ended before the answer";
    match error.kind() {
        io::ErrorKind::UnexpectedEof => text.to_owned(),
        _ => format!("{text}: {error}"),
    }
}

fn out_of_time() -> Unheard {
    Unheard::new(Trouble::OutOfTime, "the deadline was over first")
}

/// The failure for a handshake that failed.
pub(super) fn of_handshake(error: &io::Error, certificate: Option<&CertificateReport>) -> Unheard {
    if let Some(trouble) = certificate.and_then(|seen| seen.trouble_text.clone()) {
        return Unheard::new(Trouble::Certificate, trouble);
    }
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection ended within the handshake".to_owned(),
        _ => error.to_string(),
    };
    Unheard::new(Trouble::Tls, text)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    query: &[u8],
    strays: &mut Strays,
    connect: Duration,
) -> Result<Heard, Unheard> {
    let broken = |error: io::Error| Unheard::of_stream(&error);
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(query));
    let sent = Instant::now();
    stream.write_all(&frame).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut frames = Frames::new();
    loop {
        if let Some(message) = frames.next_message() {
            if strays.sort(query, message, true) {
                return Ok(Heard {
                    message: message.to_vec(),
                    rtt: sent.elapsed(),
                    connect,
                });
            }
        } else if frames.fill(&mut stream).await.map_err(broken)? == 0 {
            let text = "the connection ended before the answer";
            return Err(Unheard::new(Trouble::Closed, text));
        }
    }
}

async fn over_https(
    stream: TlsStream<TcpStream>,
    endpoint: &Endpoint,
    query: &[u8],
    strays: &mut Strays,
    connect: Duration,
) -> Result<Heard, Unheard> {
    let http = |text: String| Unheard::new(Trouble::Http, text);
    let sent = Instant::now();
    let (mut requests, connection) = https::open(stream)
        .await
        .map_err(|error| http(error.to_string()))?;
    let mut asked = pin!(async {
        let response = https::post(&mut requests, endpoint, query).await;
        let response = response.map_err(|error| http(error.to_string()))?;
        match https::receive(response, wire::id(query)).await {
            Ok(message) if strays.sort(query, &message, true) => Ok(Heard {
                message,
                rtt: sent.elapsed(),
                connect,
            }),
            Ok(_) | Err(Failure::Malformed) => Err(http("the body is no answer".to_owned())),
            Err(Failure::Status(status)) => Err(http(format!("status {status}"))),
            Err(Failure::Ended(error)) => Err(http(match error.get_io() {
                Some(source) => ended(source),
                None => error.to_string(),
            })),
        }
    });
    tokio::select! {
        result = &mut asked => result,
        // The answer may have come with the end.
        _ = connection => asked.await,
    }
}
