//! The result of a stub resolver's query: a server's answer, or that no server answered.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_resolver::net::NetError;

/// How a server was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubTransport {
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
    /// The server that answered.
    pub server: SocketAddr,
    /// The transport of the answer.
    pub transport: StubTransport,
    /// The answer.
    pub message: Message,
    /// How long the caller waited for it, other servers' silence included.
    pub waited: Duration,
}

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubOutcome {
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
    /// The error of the last try.
    #[source]
    pub last: Option<NetError>,
}

impl StubReply {
    /// The meaning of the answer.
    #[must_use]
    pub fn outcome(&self) -> StubOutcome {
        match self.message.metadata.response_code {
            ResponseCode::NoError if self.has_records() => StubOutcome::Records,
            ResponseCode::NoError => StubOutcome::NoData,
            ResponseCode::NXDomain => StubOutcome::NoName,
            rcode => StubOutcome::Failure(rcode),
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
            // hickory prefixes "io error: "; the inner error's text is the well-known one.
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

impl fmt::Display for StubTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

impl fmt::Display for StubOutcome {
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
