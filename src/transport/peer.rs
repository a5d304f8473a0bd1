//! The server at the other end of exchanges, and who hears what became of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::https::Endpoint;
use super::metrics::ExchangeMetrics;
use super::tls::Tls;
use crate::metrics::impl_label;
use crate::net::network::Network;

/// How a message travels; the health of the two is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Carrier {
    /// UDP.
    #[serde(rename = "udp")]
    Datagram,
    /// TCP, TLS or HTTPS.
    #[serde(rename = "tcp")]
    Stream,
}

impl_label!(Carrier {
    Datagram => "udp",
    Stream => "tcp",
});

/// What an answer said of the server that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerQuality {
    /// It answered the question.
    Final,
    /// It refused or failed, which speaks against the server only if another one answers the question.
    Undecided,
}

/// Hears what became of exchanges with one server.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// A response came `rtt` after its query.
    fn answered(&self, carrier: Carrier, now: Instant, rtt: Duration, quality: AnswerQuality);

    /// The network said that the server cannot be reached.
    fn unreachable(&self, carrier: Carrier, now: Instant);

    /// A query was given up without an answer.
    fn expired(&self, carrier: Carrier, now: Instant);

    /// A query that left at `sent` and expired was never answered, while its question was answered by another try.
    fn lost(&self, carrier: Carrier, now: Instant, sent: Instant);
}

/// A server as its exchanges need it.
#[derive(Debug)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its TLS connections need, if it is spoken to over TLS.
    pub tls: Option<Tls>,
    /// Where it takes requests, if it is spoken to over HTTPS.
    pub https: Option<Endpoint>,
    /// Its name in logs.
    pub label: String,
    /// When a single try counts as lost.
    pub try_timeout: Duration,
    /// When a connection takes no new queries any more, before jitter.
    pub stream_max_age: Duration,
    /// Counters.
    pub metrics: ExchangeMetrics,
    /// How it is reached.
    pub network: Arc<dyn Network>,
    /// Who hears what became of exchanges.
    pub observer: Arc<dyn Observer>,
}

impl Peer {
    /// Whether the answer to a query sent then would come too late to matter, even to tell how slow the server is.
    #[must_use]
    pub fn is_too_late(&self, sent: Instant, now: Instant) -> bool {
        now.saturating_duration_since(sent) > self.patience()
    }

    /// How long after its query an answer matters.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.try_timeout * 3 / 2
    }
}
