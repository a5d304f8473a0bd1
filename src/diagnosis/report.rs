//! The result of a diagnosis, as plain data. The names of fields are those of the JSON that docs/probe.md describes;
//! they are only added to.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// The number that `version` of the JSON has: raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// Everything that was asked and found.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// [`FORMAT`].
    pub version: u32,
    /// The worst of the findings.
    pub verdict: Health,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
    /// Whether everything was asked before the deadline.
    pub complete: bool,
    /// Groups in the order of the configuration.
    pub groups: Vec<GroupReport>,
    /// Names in the order they were given.
    pub names: Vec<NameReport>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// How well all of it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing was found.
    Healthy,
    /// Everything can be answered, and something is sick.
    Degraded,
    /// A group has no server that works, or a name cannot be resolved.
    Unusable,
}

/// A group of servers.
#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    /// Its name.
    pub group: String,
    /// Zones of the routes that lead to it.
    pub zones: Vec<String>,
    /// The question its servers were asked, such as `. NS`.
    pub probe: String,
    /// Its servers, in their order.
    pub servers: Vec<ServerReport>,
    /// Servers by host names that could not be resolved, as they are written.
    pub unresolved: Vec<String>,
}

/// A server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerReport {
    /// As the configuration has it.
    pub server: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it gave any useful answer over the transport that queries take.
    pub working: bool,
    /// The transport that queries take, then TCP beside UDP.
    pub transports: Vec<TransportReport>,
    /// Of servers over TLS and HTTPS.
    pub certificate: Option<CertificateReport>,
    /// Its answer to the probe question.
    pub answer: Option<AnswerReport>,
    /// Whether it understands EDNS.
    pub edns: EdnsReport,
    /// How large its answers over UDP may be; none for servers that are not asked over UDP.
    pub large: Option<LargeReport>,
    /// Its software, by its own account (`version.bind`).
    pub software: Option<String>,
    /// Its name, by its own account (`id.server`).
    pub identity: Option<String>,
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
}

/// How a server is reached over one transport.
#[derive(Debug, Clone, Serialize)]
pub struct TransportReport {
    /// Which.
    pub transport: Medium,
    /// Whether an answer came.
    pub reachable: bool,
    /// Queries sent to measure it.
    pub sent: usize,
    /// Those that were answered.
    pub answered: usize,
    /// Share of those that were not.
    pub loss_percent: f64,
    /// Time from a query to its answer; over a stream that of connecting apart.
    pub rtt_ms: Option<Spread>,
    /// Time to connect, and with TLS to shake hands.
    pub connect_ms: Option<Spread>,
    /// Why the last unanswered query failed.
    pub failure: Option<Trouble>,
    /// The same in words.
    pub failure_text: Option<String>,
    /// Messages that arrived and matched no query.
    pub strays: Strays,
}

/// The least, the median and the greatest of some times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these times; none if there are none.
    #[must_use]
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<f64> = times.iter().copied().map(in_milliseconds).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: sorted[sorted.len() / 2],
            max: *sorted.last()?,
        })
    }
}

/// Why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// No message arrived.
    Silence,
    /// The host says that nobody listens there (ICMP port unreachable, TCP reset).
    Refused,
    /// A router or the host's neighbours say that it cannot be reached.
    Unreachable,
    /// This host has no route to it.
    NoRoute,
    /// This host does not allow it.
    NotPermitted,
    /// The connection ended before the answer.
    Closed,
    /// The server's certificate is not to be trusted.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The HTTP response was no DNS message.
    Http,
    /// This host cannot open a socket.
    NoSocket,
    /// The deadline of the diagnosis came first.
    OutOfTime,
}

/// Messages that arrived and matched no query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Strays {
    /// With another ID than the query's.
    pub wrong_id: usize,
    /// To another question.
    pub wrong_question: usize,
    /// That are no well-formed responses.
    pub malformed: usize,
    /// The right answer, from an address that was not asked.
    pub wrong_source: usize,
}

/// A server's certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateReport {
    /// The name it must be valid for.
    pub name: String,
    /// What is wrong with it.
    pub trouble: Option<CertificateTrouble>,
    /// The same in words.
    pub trouble_text: Option<String>,
    /// When it expires, in seconds since 1970.
    pub expires_at: Option<u64>,
    /// Days until then; negative when it is over.
    pub days_left: Option<i64>,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateTrouble {
    /// It is for another name.
    WrongName,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It leads to no root that is trusted.
    Untrusted,
    /// It is wrong in itself, whatever roots are trusted.
    Unusable,
}

/// The header of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the bits of a header")]
pub struct AnswerReport {
    /// What was asked, such as `. NS`.
    pub question: String,
    /// The response code.
    pub rcode: String,
    /// Whether it has no answer and points to other servers.
    pub referral: bool,
    /// RA: the server resolves for others.
    pub recursion: bool,
    /// AA: the server is authoritative for the name.
    pub authoritative: bool,
    /// AD: it has validated the answer.
    pub authenticated: bool,
    /// TC over UDP.
    pub truncated: bool,
    /// Octets of the answer over TCP, where it was truncated over UDP.
    pub octets_over_tcp: Option<usize>,
}

/// How a server reacts to EDNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "rcode", rename_all = "snake_case")]
pub enum EdnsReport {
    /// It answers with EDNS.
    Understood,
    /// It answers, and leaves EDNS out.
    LeftOut,
    /// It answers with this code, and without EDNS properly.
    Refused(String),
    /// It answers queries without EDNS alone.
    Ignored,
    /// It answers nothing.
    Unknown,
}

/// How large an answer over UDP gets through.
#[derive(Debug, Clone, Serialize)]
pub struct LargeReport {
    /// Octets of the largest answer that came over UDP, if one was over 512.
    pub largest_octets: Option<usize>,
    /// Octets of the largest answer over TCP.
    pub available_octets: Option<usize>,
    /// The result for each payload size offered.
    pub offers: Vec<OfferReport>,
}

/// The result for a payload size offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfferReport {
    /// The size, in octets.
    pub offered: u16,
    /// The result.
    pub result: OfferResult,
    /// Octets of the largest message.
    pub octets: Option<usize>,
}

/// What came for a size that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferResult {
    /// The whole answer.
    Whole,
    /// A truncated one.
    Truncated,
    /// Nothing.
    Silence,
}

/// A name.
#[derive(Debug, Clone, Serialize)]
pub struct NameReport {
    /// As it was given.
    pub name: String,
    /// The name that servers were asked for: the one of the search list that exists, or the last that was tried.
    pub asked: String,
    /// The zone of its route; none if no route holds it.
    pub route: Option<String>,
    /// Whether the route, `records` or `hosts` answer it here.
    pub answered_here: bool,
    /// The answers of each tier's servers.
    pub tiers: Vec<TierReport>,
    /// The result that a client gets.
    pub client: ClientReport,
    /// The queries that a pod sends until it has an answer.
    pub search: SearchReport,
    /// Connections to the addresses, if they were asked for.
    pub https: Vec<HttpsReport>,
}

/// A tier's answers for a name.
#[derive(Debug, Clone, Serialize)]
pub struct TierReport {
    /// The group.
    pub group: String,
    /// Whether its servers agree.
    pub agreement: Agreement,
    /// Each server's answer for A, then for AAAA.
    pub answers: Vec<NameAnswer>,
}

/// Whether servers say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// All say the same.
    Same,
    /// All have addresses, but not the same ones, as with a CDN.
    Differs,
    /// Some have what others deny.
    Conflict,
    /// Fewer than two answered.
    Unknown,
}

/// A server's answer for a name.
#[derive(Debug, Clone, Serialize)]
pub struct NameAnswer {
    /// As the configuration has it.
    pub server: String,
    /// `A` or `AAAA`.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The meaning of the answer.
    pub result: NameResult,
    /// The response code, if it answered.
    pub rcode: Option<String>,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// Where an alias leads whose target it left out.
    pub alias: Option<String>,
    /// The lowest of the answer's records, in seconds.
    pub ttl: Option<u32>,
    /// Time until the answer, earlier tries included.
    pub ms: f64,
    /// How the answer came.
    pub transport: Medium,
    /// Why there is none.
    pub failure: Option<Trouble>,
}

/// The meaning of an answer for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NameResult {
    /// It has addresses.
    Addresses,
    /// The name exists, without addresses of this kind.
    Nodata,
    /// The name does not exist.
    Nxdomain,
    /// The server could not or would not answer.
    Failure,
    /// No answer came.
    NoAnswer,
}

/// What a client gets.
#[derive(Debug, Clone, Serialize)]
pub struct ClientReport {
    /// Of A and AAAA together.
    pub result: NameResult,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// The server that gave it; none if it is answered here, or no server answered.
    pub server: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// Time until both answers are there.
    pub ms: f64,
}

/// What a pod sends for a name.
#[derive(Debug, Clone, Serialize)]
pub struct SearchReport {
    /// The names, in their order, until one has addresses.
    pub steps: Vec<SearchStep>,
    /// Queries in all: A and AAAA for each name.
    pub queries: usize,
    /// Time in all.
    pub ms: f64,
}

/// One name of the search list.
#[derive(Debug, Clone, Serialize)]
pub struct SearchStep {
    /// The name.
    pub name: String,
    /// What it comes to.
    pub result: NameResult,
    /// Time until both answers are there.
    pub ms: f64,
}

/// A TLS connection to an address of a name.
#[derive(Debug, Clone, Serialize)]
pub struct HttpsReport {
    /// Where to.
    pub address: SocketAddr,
    /// Time to connect, if that succeeded.
    pub connect_ms: Option<f64>,
    /// Time to shake hands, if that succeeded.
    pub handshake_ms: Option<f64>,
    /// Why not.
    pub failure: Option<Trouble>,
    /// The same in words.
    pub failure_text: Option<String>,
    /// Its certificate, if it showed one.
    pub certificate: Option<CertificateReport>,
}

/// Something that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What kind of fault.
    pub kind: Fault,
    /// How bad.
    pub severity: Health,
    /// Which group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Which server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Over which transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Medium>,
    /// Which name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is wrong, in a sentence.
    pub problem: String,
    /// What to do next, in a sentence.
    pub advice: String,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No server of any group can be reached, for want of a route.
    NoNetwork,
    /// No server of a group works.
    GroupDown,
    /// A server's host name has no address.
    ServerNameUnresolved,
    /// A server answers neither over UDP nor over TCP.
    NoAnswer,
    /// The host says that nobody listens.
    Refused,
    /// A router says that the server cannot be reached, or this host has no way or no permission to ask.
    Unreachable,
    /// Answers over UDP alone.
    UdpOnly,
    /// Answers over TCP alone.
    TcpOnly,
    /// Queries or answers are lost.
    Loss,
    /// Slow, or much slower than the others of its group.
    Slow,
    /// Refuses the probe question.
    Refuses,
    /// Does not resolve for others.
    NoRecursion,
    /// Refuses EDNS.
    EdnsRefused,
    /// Is silent to EDNS.
    EdnsIgnored,
    /// Large answers over UDP do not arrive.
    LargeAnswersLost,
    /// Truncates what would fit.
    NeedlessTruncation,
    /// Truncates, and does not answer over TCP.
    TruncatedWithoutTcp,
    /// Answers with another ID or to another question.
    WrongAnswers,
    /// Answers with what is no message.
    Malformed,
    /// Answers from an address that was not asked.
    WrongSource,
    /// Is this nodens itself.
    Loop,
    /// The certificate is for another name.
    CertificateWrongName,
    /// The certificate has expired, or is not valid yet.
    CertificateExpired,
    /// The certificate expires within [`EXPIRES_SOON_DAYS`].
    CertificateExpiresSoon,
    /// The certificate leads to no root that is trusted, or is wrong in itself.
    CertificateUntrusted,
    /// TLS fails for another reason.
    TlsFailed,
    /// HTTP fails.
    HttpFailed,
    /// No route holds a name.
    NoRoute,
    /// Nobody has an address for a name.
    NameNotResolved,
    /// A part of a group's servers knows a name.
    KnownInPart,
    /// Servers of a group contradict each other about a name.
    ServersDisagree,
    /// A server fails for a name that others of its group answer.
    FailsName,
    /// A later tier knows a name that the first denies.
    HiddenByTier,
    /// A later tier denies a name that the first knows.
    DeniedByLaterTier,
    /// A name's address does not accept connections.
    HttpsUnreachable,
    /// The certificate at a name's address is not to be trusted, or expires soon.
    HttpsCertificate,
    /// The TLS handshake with a name's address fails for another reason.
    HttpsFailed,
    /// The deadline came before everything was asked.
    OutOfTime,
}

/// Days before its end in which a certificate is reported.
pub const EXPIRES_SOON_DAYS: i64 = 14;

/// With three digits behind the point: a microsecond.
#[must_use]
pub fn in_milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(in_milliseconds(*time))
}
