//! The server at the other end of exchanges, and the observer of their results.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::https::Endpoint;
use super::metrics::ExchangeMetrics;
use super::tls::Tls;
use crate::metrics::impl_label;
use crate::net::network::Network;

/// The kind of transport. A server has a separate health for each.
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

/// What an answer says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerQuality {
    /// The server answered the question.
    Final,
    /// The server refused or failed. This counts against it only if another server answers the question.
    Undecided,
}

/// Is told the results of exchanges with one server.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// A response came `rtt` after its query.
    fn answered(&self, carrier: Carrier, now: Instant, rtt: Duration, quality: AnswerQuality);

    /// The network reported to a socket that the server cannot be reached. The latest query on the socket was sent at `sent`.
    fn unreachable(&self, carrier: Carrier, now: Instant, sent: Instant);

    /// A query has had no answer for [`Peer::patience`].
    fn expired(&self, carrier: Carrier, now: Instant);

    /// An expired query, sent at `sent`, stayed without an answer although another try of its question was answered.
    fn lost(&self, carrier: Carrier, now: Instant, sent: Instant);
}

/// What exchanges need to know of their server.
#[derive(Debug)]
pub struct Peer {
    /// The server's address.
    pub address: SocketAddr,
    /// Parameters of TLS; None without TLS.
    pub tls: Option<Tls>,
    /// The URI for requests over HTTPS; None without HTTPS.
    pub https: Option<Endpoint>,
    /// The server's name in logs.
    pub label: String,
    /// `try_timeout`: the time after which a try without an answer is replaced.
    pub try_timeout: Duration,
    /// Age at which a connection takes no new queries any more, before jitter.
    pub stream_max_age: Duration,
    /// The server's counters.
    pub metrics: ExchangeMetrics,
    /// The network that sockets are opened on.
    pub network: Arc<dyn Network>,
    /// Is told the results of exchanges.
    pub observer: Arc<dyn Observer>,
}

impl Peer {
    /// Whether an answer at `now` to a query sent at `sent` would come too late to matter, even as a measure of the server's
    /// speed.
    #[must_use]
    pub fn is_too_late(&self, sent: Instant, now: Instant) -> bool {
        now.saturating_duration_since(sent) > self.patience()
    }

    /// For how long after its query an answer matters.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.try_timeout * 3 / 2
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::Registry;
    use crate::net::network::kernel;
    use crate::transport::metrics::ExchangeFamilies;

    #[derive(Debug)]
    struct Nobody;

    impl Observer for Nobody {
        fn answered(&self, _: Carrier, _: Instant, _: Duration, _: AnswerQuality) {}
        fn unreachable(&self, _: Carrier, _: Instant, _: Instant) {}
        fn expired(&self, _: Carrier, _: Instant) {}
        fn lost(&self, _: Carrier, _: Instant, _: Instant) {}
    }

    /// A server over UDP and TCP. Nobody is told the results of exchanges with it.
    pub(crate) fn peer(address: SocketAddr) -> Peer {
        Peer {
            address,
            tls: None,
            https: None,
            label: address.to_string(),
            try_timeout: Duration::from_secs(1),
            stream_max_age: Duration::from_mins(1),
            network: kernel(),
            metrics: ExchangeFamilies::register(&Registry::new()).server("group", "server"),
            observer: Arc::new(Nobody),
        }
    }
}
