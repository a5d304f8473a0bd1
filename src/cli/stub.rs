//! A plain stub resolver: what the C library in a pod does with its resolv.conf.
//!
//! Owns the order in which servers are asked, how long each may take, and the search list. Used by `nodens resolve` and
//! by the demo's "without us" column; must not be used to forward.
//!
//! It behaves as glibc's `res_nsend` and `res_nsearch` do: one query to one server, the next server when that one is
//! silent, refused by its kernel, or answers SERVFAIL, NOTIMP, REFUSED or FORMERR; `attempts` rounds; TCP after a
//! truncated answer; A and AAAA at the same time; no cache. No name but those in the answer is followed: a CNAME whose
//! target the server did not resolve is an answer without addresses.
//!
//! hickory-resolver reads resolv.conf and hickory-net speaks the protocol, but `Resolver` itself is left out, since it
//! is no stub: one timeout bounds its whole server list, so that it never reaches the second server when the first is
//! silent; it resends within a try, chases CNAMEs with queries of its own, and takes SERVFAIL for final.
//!
//! Limits: no `/etc/hosts`, no `rotate`, no `single-request`; a link-local server's zone is dropped. musl differs: it
//! asks all servers at once, and never falls back to TCP before 1.2.4.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::net::NetError;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::time::Instant;

use crate::message::wire::MAX_PAYLOAD;
use crate::net::connected::ConnectedSockets;

/// resolv.conf(5), `MAXNS`: glibc reads no more servers than this; a fourth is never asked.
const MAX_SERVERS: usize = 3;

/// A stub resolver's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// Servers in the order they are asked.
    pub servers: Vec<SocketAddr>,
    /// Domains that complete a relative name, in their order.
    pub search: Vec<Name>,
    /// A name with at least this many dots is tried as it is before it is completed.
    pub ndots: usize,
    /// How long the first server may take. Later ones may take longer: see `patience`.
    pub timeout: Duration,
    /// How often the list of servers is gone through; 0 counts as 1.
    pub attempts: usize,
    /// Whether queries carry EDNS (RFC 6891).
    pub edns: bool,
}

/// A resolv.conf that says nothing usable.
#[derive(Debug, thiserror::Error)]
#[error("resolv.conf: {0}")]
pub struct ResolvConfError(#[source] NetError);

/// How a server was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// After an answer over UDP was truncated.
    Tcp,
}

/// A server's answer.
#[derive(Debug, Clone)]
pub struct StubReply {
    /// The question as it was sent.
    pub question: Query,
    /// Who answered.
    pub server: SocketAddr,
    /// How.
    pub transport: Transport,
    /// What.
    pub message: Message,
    /// How long the caller waited for it, other servers' silence included.
    pub waited: Duration,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Records of the type asked for.
    Records,
    /// The name exists, without records of that type.
    NoData,
    /// The name does not exist.
    NoName,
    /// The server could not or would not answer.
    Failure(ResponseCode),
}

/// No server answered.
#[derive(Debug, thiserror::Error)]
#[error("{}", NoReply::describe(servers, *tries, *waited, last.as_ref()))]
pub struct NoReply {
    /// Servers that were asked.
    pub servers: Vec<SocketAddr>,
    /// Queries sent.
    pub tries: usize,
    /// How long the caller waited.
    pub waited: Duration,
    /// What became of the last try.
    #[source]
    pub last: Option<NetError>,
}

impl Stub {
    /// A stub resolver without a search list.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration, attempts: usize) -> Self {
        Self {
            servers,
            search: Vec::new(),
            ndots: 1,
            timeout,
            attempts,
            edns: false,
        }
    }

    /// What resolv.conf(5) asks for: servers, search list, `ndots`, `timeout`, `attempts` and `edns0`.
    ///
    /// Without a nameserver line the server is the one on this host, as that page has it.
    ///
    /// # Errors
    ///
    /// A search domain that is no name, or what else hickory-resolver rejects. Lines that it does not know are skipped.
    pub fn from_resolv_conf(text: &str) -> Result<Self, ResolvConfError> {
        // hickory takes a file without nameservers for an error.
        let is_server = |line: &str| line.split_whitespace().next() == Some("nameserver");
        let complete = if text.lines().any(is_server) {
            text.to_owned()
        } else {
            format!("{text}\nnameserver 127.0.0.1\n")
        };
        let (config, options) = parse_resolv_conf(complete).map_err(ResolvConfError)?;
        let servers = config.name_servers().iter().take(MAX_SERVERS);
        let mut search = config.search().to_vec();
        if search.is_empty() {
            // The domain of the host's own name, as glibc does.
            search.extend(config.domain().filter(|domain| !domain.is_root()).cloned());
        }
        Ok(Self {
            servers: servers
                .map(|server| SocketAddr::new(server.ip, 53))
                .collect(),
            search,
            ndots: options.ndots,
            timeout: options.timeout,
            attempts: options.attempts,
            edns: options.edns0,
        })
    }

    /// The names that `name` may stand for, in the order they are tried. A name that ends with a dot stands for itself.
    #[must_use]
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name.clone()];
        }
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        // A domain that makes the name too long completes nothing.
        let completed = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = name.iter().count().saturating_sub(1);
        let mut candidates: Vec<Name> = if dots >= self.ndots {
            std::iter::once(as_it_is).chain(completed).collect()
        } else {
            completed.chain(std::iter::once(as_it_is)).collect()
        };
        candidates.dedup();
        candidates
    }

    /// Asks one question and waits for an answer, as long as a stub resolver would.
    ///
    /// NXDOMAIN is an answer. So is SERVFAIL or REFUSED when no server had a better one.
    ///
    /// # Errors
    ///
    /// Nobody answered, or there is no server to ask.
    pub async fn ask(&self, name: &Name, record_type: RecordType) -> Result<StubReply, NoReply> {
        let started = Instant::now();
        let question = Query::query(name.clone(), record_type);
        let mut failure = None;
        let mut last = None;
        let mut tries = 0;
        for _ in 0..self.attempts.max(1) {
            for (position, &server) in self.servers.iter().enumerate() {
                tries += 1;
                let patience = patience(self.timeout, position, self.servers.len());
                match self.try_server(server, &question, patience).await {
                    Ok((transport, message)) => {
                        let heard = StubReply {
                            question: question.clone(),
                            server,
                            transport,
                            message,
                            waited: started.elapsed(),
                        };
                        if !matches!(heard.outcome(), Outcome::Failure(_)) {
                            return Ok(heard);
                        }
                        failure = Some(heard);
                    }
                    Err(error) => last = Some(error),
                }
            }
        }
        let waited = started.elapsed();
        match failure {
            Some(heard) => Ok(StubReply { waited, ..heard }),
            None => Err(NoReply {
                servers: self.servers.clone(),
                tries,
                waited,
                last,
            }),
        }
    }

    /// Asks for A and AAAA at the same time, as `getaddrinfo` does.
    pub async fn ask_addresses(&self, name: &Name) -> [Result<StubReply, NoReply>; 2] {
        let (a, aaaa) = tokio::join!(
            self.ask(name, RecordType::A),
            self.ask(name, RecordType::AAAA)
        );
        [a, aaaa]
    }

    async fn try_server(
        &self,
        server: SocketAddr,
        question: &Query,
        patience: Duration,
    ) -> Result<(Transport, Message), NetError> {
        let sockets = ConnectedSockets::default();
        let udp = UdpClientStream::builder(server, sockets.clone())
            .with_timeout(Some(patience))
            // The resends are ours to count.
            .with_max_retries(0)
            .exchange();
        let answer = udp.send(self.request(question)).first_answer().await?;
        if !answer.truncation {
            return Ok((Transport::Udp, answer.into_message()));
        }
        let tcp = TcpClientStream::exchange(server, None, patience, None, sockets).await?;
        let answer = tcp.send(self.request(question)).first_answer().await?;
        // Over TCP hickory matches by ID alone.
        if answer.queries.first() == Some(question) {
            Ok((Transport::Tcp, answer.into_message()))
        } else {
            Err(NetError::Message("answered another question over TCP"))
        }
    }

    fn request(&self, question: &Query) -> DnsRequest {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(question.clone());
        if self.edns {
            let mut edns = Edns::new();
            // Without `options edns0`, glibc sends no EDNS, and 512 bytes are all it takes over UDP.
            edns.set_max_payload(MAX_PAYLOAD);
            message.set_edns(edns);
        }
        DnsRequest::new(message, DnsRequestOptions::default())
    }
}

impl StubReply {
    /// What the answer comes to.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.message.metadata.response_code {
            ResponseCode::NoError if self.has_records() => Outcome::Records,
            ResponseCode::NoError => Outcome::NoData,
            ResponseCode::NXDomain => Outcome::NoName,
            rcode => Outcome::Failure(rcode),
        }
    }

    /// Addresses in the answer.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let answers = self.message.answers.iter();
        answers.filter_map(|record| record.data.ip_addr())
    }

    fn has_records(&self) -> bool {
        let wanted = self.question.query_type();
        let matches = |record: &Record| wanted == RecordType::ANY || record.record_type() == wanted;
        self.message.answers.iter().any(matches)
    }
}

impl NoReply {
    fn describe(
        servers: &[SocketAddr],
        tries: usize,
        waited: Duration,
        last: Option<&NetError>,
    ) -> String {
        if servers.is_empty() {
            return "there is no nameserver to ask".to_owned();
        }
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let what = match last {
            None | Some(NetError::Timeout) => "timed out".to_owned(),
            // hickory says "io error: " and wraps it; the inner one is what people know.
            Some(NetError::Io(error)) => error.to_string(),
            Some(error) => error.to_string(),
        };
        let times = if tries == 1 { "query" } else { "queries" };
        format!(
            "{what}: no answer from {} to {tries} {times} in {:.1} s",
            servers.join(", "),
            waited.as_secs_f64()
        )
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Records => "NOERROR",
            Self::NoData => "NODATA",
            Self::NoName => "NXDOMAIN",
            Self::Failure(ResponseCode::ServFail) => "SERVFAIL",
            Self::Failure(ResponseCode::Refused) => "REFUSED",
            Self::Failure(ResponseCode::NotImp) => "NOTIMP",
            Self::Failure(ResponseCode::FormErr) => "FORMERR",
            Self::Failure(other) => other.to_str(),
        })
    }
}

/// How long a plain stub resolver takes for `name`'s addresses with these servers, and what it gets.
///
/// Measured is one `getaddrinfo` for an absolute name: A and AAAA at the same time, servers in the order given, each
/// waited for as long as glibc waits (`timeout` for the first), `attempts` rounds, nothing remembered from the call
/// before. The time is until both questions are answered or given up. With 5 s and 2 attempts, glibc's defaults, a
/// silent first of two servers costs 5 s, every time.
///
/// The error says what went wrong in words.
pub async fn plain_stub_wait(
    servers: &[SocketAddr],
    name: &str,
    timeout: Duration,
    attempts: usize,
) -> (Duration, Result<Vec<IpAddr>, String>) {
    let mut name = match Name::from_str_relaxed(name) {
        Ok(name) => name,
        Err(error) => return (Duration::ZERO, Err(format!("{name:?} is no name: {error}"))),
    };
    name.set_fqdn(true);
    let stub = Stub::new(servers.to_vec(), timeout, attempts);
    let started = Instant::now();
    let answers = stub.ask_addresses(&name).await;
    let waited = started.elapsed();

    let addresses: Vec<IpAddr> = answers
        .iter()
        .flatten()
        .flat_map(StubReply::addresses)
        .collect();
    if !addresses.is_empty() {
        return (waited, Ok(addresses));
    }
    let reasons = answers.map(|answer| match answer {
        Ok(heard) => format!("{} from {}", heard.outcome(), heard.server),
        Err(unheard) => unheard.to_string(),
    });
    let [a, aaaa] = reasons;
    let reason = if a == aaaa {
        a
    } else {
        format!("A: {a}; AAAA: {aaaa}")
    };
    (waited, Err(reason))
}

/// How long glibc waits for the server at `position` of `servers` (`res_send.c`, `send_dg`): `timeout` for the first,
/// for each after it `timeout` doubled as many times as there are servers before it, divided by the number of servers.
fn patience(timeout: Duration, position: usize, servers: usize) -> Duration {
    if position == 0 {
        return timeout;
    }
    // Three servers at most are read from resolv.conf; the caps keep what a caller adds by hand from overflowing.
    let doublings = 1_u32 << position.min(16);
    let divisor = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
    timeout.saturating_mul(doublings) / divisor
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::NULL;

    use super::*;
    use crate::lab::stand_in::{BlackHole, StandIn, Zone, kube_dns, vpc_dns};

    const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
    /// What a silent server costs in these tests; answers on loopback take a hundredth of it.
    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(5);

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    async fn start(zones: &[Zone]) -> StandIn {
        StandIn::start(zones, LOOPBACK.into()).await.unwrap()
    }

    fn silent() -> (BlackHole, SocketAddr) {
        let hole = BlackHole::bind(LOOPBACK.into()).unwrap();
        let address = hole.address().unwrap();
        (hole, address)
    }

    /// An address where nobody listens: that of a black hole which is no more.
    fn closed() -> SocketAddr {
        silent().1
    }

    #[tokio::test]
    async fn a_silent_first_server_costs_its_timeout_and_the_second_answers() {
        let (_hole, hole) = silent();
        let vpc = start(&vpc_dns()).await;
        let servers = [hole, vpc.address()];
        let (waited, found) = plain_stub_wait(&servers, "registry.example.com", SHORT, 2).await;
        let expected: [IpAddr; 2] = [
            "10.1.20.5".parse().unwrap(),
            "2001:db8:20::5".parse().unwrap(),
        ];
        assert_eq!(found.unwrap(), expected);
        assert!(waited >= SHORT, "{waited:?}");
        assert_eq!(vpc.queries(), 2);
    }

    #[tokio::test]
    async fn nothing_is_remembered_from_one_call_to_the_next() {
        let (_hole, hole) = silent();
        let vpc = start(&vpc_dns()).await;
        let servers = [hole, vpc.address()];
        for _ in 0..2 {
            let (waited, found) = plain_stub_wait(&servers, "gitlab.example.com", SHORT, 2).await;
            assert_eq!(found.unwrap().len(), 1);
            assert!(waited >= SHORT, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn only_silent_servers_cost_every_round() {
        let (_hole, hole) = silent();
        let (waited, found) = plain_stub_wait(&[hole], "gitlab.example.com", SHORT, 2).await;
        let reason = found.unwrap_err();
        assert!(waited >= 2 * SHORT, "{waited:?}");
        assert!(reason.contains("timed out"), "{reason}");
        assert!(reason.contains(&hole.to_string()), "{reason}");
        assert!(reason.contains("2 queries"), "{reason}");
    }

    #[tokio::test]
    async fn a_closed_port_and_a_refusal_cost_nothing() {
        let kube = start(&kube_dns()).await;
        let vpc = start(&vpc_dns()).await;
        let servers = [closed(), kube.address(), vpc.address()];
        let (waited, found) = plain_stub_wait(&servers, "gitlab.example.com", LONG, 2).await;
        assert_eq!(found.unwrap().len(), 1);
        assert!(waited < LONG, "{waited:?}");
        assert_eq!(kube.queries(), 2);
    }

    #[tokio::test]
    async fn failures_are_said_in_words() {
        let kube = start(&kube_dns()).await;
        let vpc = start(&vpc_dns()).await;
        let cases = [
            (vec![kube.address()], "gitlab.example.com", "REFUSED from"),
            (vec![vpc.address()], "missing.example.com", "NXDOMAIN from"),
            (vec![vpc.address()], "example.com", "NODATA from"),
            (vec![closed()], "example.com", "refused"),
            (vec![], "example.com", "no nameserver"),
            (vec![vpc.address()], "bad..name", "is no name"),
        ];
        for (servers, owner, expected) in cases {
            let (_, found) = plain_stub_wait(&servers, owner, LONG, 1).await;
            let reason = found.unwrap_err();
            assert!(reason.contains(expected), "{owner}: {reason}");
        }
    }

    #[tokio::test]
    async fn a_refusal_from_all_is_asked_for_again_and_then_told() {
        let kube = start(&kube_dns()).await;
        let stub = Stub::new(vec![kube.address()], LONG, 3);
        let heard = stub
            .ask(&name("example.org."), RecordType::A)
            .await
            .unwrap();
        assert_eq!(heard.outcome(), Outcome::Failure(ResponseCode::Refused));
        assert_eq!(kube.queries(), 3);
    }

    #[tokio::test]
    async fn a_truncated_answer_is_fetched_over_tcp() {
        let vpc = start(&vpc_dns()).await;
        for edns in [false, true] {
            let stub = Stub {
                edns,
                ..Stub::new(vec![vpc.address()], LONG, 1)
            };
            let heard = stub
                .ask(&name("big.example.com."), RecordType::AAAA)
                .await
                .unwrap();
            assert_eq!(
                (heard.transport, heard.addresses().count()),
                (Transport::Tcp, 60)
            );
            assert_eq!(heard.message.edns.is_some(), edns);
        }
    }

    #[tokio::test]
    async fn a_cname_that_leads_out_of_the_answer_is_nodata() {
        let zone = Zone::new("test").cname("away.test", "elsewhere.example");
        let server = start(&[zone]).await;
        let stub = Stub::new(vec![server.address()], LONG, 1);
        let heard = stub.ask(&name("away.test."), RecordType::A).await.unwrap();
        assert_eq!(heard.outcome(), Outcome::NoData);
        assert_eq!(server.queries(), 1, "a stub resolver chases nothing");
    }

    #[test]
    fn resolv_conf_is_read_as_glibc_does() {
        let pod = Stub::from_resolv_conf(
            "nameserver 10.96.0.10\nnameserver fd00::a\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
             search default.svc.cluster.local svc.cluster.local cluster.local\n\
             options ndots:5 timeout:1 attempts:3 edns0\n",
        )
        .unwrap();
        let servers = ["10.96.0.10:53", "[fd00::a]:53", "10.0.0.2:53"];
        assert_eq!(pod.servers, servers.map(|text| text.parse().unwrap()));
        assert_eq!(pod.search[0], name("default.svc.cluster.local"));
        assert_eq!((pod.search.len(), pod.ndots), (3, 5));
        assert_eq!((pod.timeout, pod.attempts), (Duration::from_secs(1), 3));
        assert!(pod.edns);

        let empty = Stub::from_resolv_conf("# nothing\n").unwrap();
        assert_eq!(empty.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((empty.timeout, empty.attempts), (LONG, 2));
        assert_eq!((empty.ndots, empty.edns), (1, false));
        assert!(Stub::from_resolv_conf("search a..b\n").is_err());
    }

    #[test]
    fn the_search_list_goes_before_or_after_by_ndots() {
        let mut stub = Stub::new(Vec::new(), LONG, 1);
        stub.search = vec![name("svc.cluster.local"), name("cluster.local.")];
        stub.ndots = 2;
        for (asked, expected) in [
            ("web.", vec!["web."]),
            (
                "web",
                vec!["web.svc.cluster.local.", "web.cluster.local.", "web."],
            ),
            (
                "a.b",
                vec!["a.b.svc.cluster.local.", "a.b.cluster.local.", "a.b."],
            ),
            (
                "a.b.c",
                vec!["a.b.c.", "a.b.c.svc.cluster.local.", "a.b.c.cluster.local."],
            ),
            (
                "*.b.c",
                vec!["*.b.c.", "*.b.c.svc.cluster.local.", "*.b.c.cluster.local."],
            ),
        ] {
            let candidates: Vec<String> = stub
                .candidates(&name(asked))
                .iter()
                .map(Name::to_ascii)
                .collect();
            assert_eq!(candidates, expected, "{asked}");
        }
    }

    #[test]
    fn later_servers_get_glibcs_share_of_time() {
        let seconds = |position, servers| patience(LONG, position, servers).as_secs_f64();
        for (position, servers, expected) in [(0, 1, 5.0), (0, 3, 5.0), (1, 2, 5.0), (2, 4, 5.0)] {
            let patience = seconds(position, servers);
            assert!(
                (patience - expected).abs() < 1e-6,
                "{position} of {servers}: {patience}"
            );
        }
        assert!((seconds(1, 3) - 10.0 / 3.0).abs() < 1e-6);
        assert!(seconds(1_000, usize::MAX) >= 0.0);
    }

    #[test]
    fn any_type_of_record_answers_any() {
        let heard = |wanted| StubReply {
            question: Query::query(name("a."), wanted),
            server: LOOPBACK.into(),
            transport: Transport::Udp,
            message: {
                let mut message = Message::query().into_response();
                let data = RData::Unknown {
                    code: RecordType::Unknown(65_300),
                    rdata: NULL::with(vec![1]),
                };
                message.add_answer(Record::from_rdata(name("a."), 1, data));
                message
            },
            waited: Duration::ZERO,
        };
        assert_eq!(heard(RecordType::ANY).outcome(), Outcome::Records);
        assert_eq!(heard(RecordType::A).outcome(), Outcome::NoData);
        assert_eq!(
            heard(RecordType::Unknown(65_300)).outcome(),
            Outcome::Records
        );
    }
}
