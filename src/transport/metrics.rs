//! What is counted of exchanges with upstream servers.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::metrics::{PerLabel, Registry, impl_label};

/// How one try with one server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a final answer.
    Answered,
    /// With SERVFAIL.
    Servfail,
    /// With REFUSED.
    Refused,
    /// With NOTIMP.
    Notimp,
    /// With FORMERR.
    Formerr,
    /// With another response code.
    OtherCode,
    /// With a referral: it does not resolve for us.
    Referral,
    /// With an answer cut to fit a datagram.
    Truncated,
    /// Not in time, while another try was answered.
    Lost,
    /// Not in time, and nobody else answered the question either.
    Unanswered,
    /// The network said that the server cannot be reached.
    Unreachable,
    /// With a message whose counts, lengths or names lie.
    Malformed,
    /// Over HTTPS, with a status other than 200.
    HttpError,
}

impl_label!(Outcome {
    Answered => "answered",
    Servfail => "servfail",
    Refused => "refused",
    Notimp => "notimp",
    Formerr => "formerr",
    OtherCode => "other_rcode",
    Referral => "referral",
    Truncated => "truncated",
    Lost => "lost",
    Unanswered => "unanswered",
    Unreachable => "unreachable",
    Malformed => "malformed",
    HttpError => "http_error",
});

/// Why a message from an upstream server's address was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// No query in flight has its ID.
    Id,
    /// Its question is not the one that was asked.
    Question,
    /// It is no response at all.
    NotAResponse,
}

impl_label!(Mismatch {
    Id => "id",
    Question => "question",
    NotAResponse => "not_a_response",
});

/// The families of all servers.
#[derive(Debug)]
pub struct ExchangeFamilies {
    tries: IntCounterVec,
    duration: HistogramVec,
    mismatched: IntCounterVec,
}

impl ExchangeFamilies {
    /// All at zero.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            tries: registry.counters(
                "nodens_upstream_tries_total",
                "Queries sent to upstream servers, by how they ended.",
                &["group", "server", "outcome"],
            ),
            duration: registry.histograms(
                "nodens_upstream_duration_seconds",
                "From sending a query to an upstream server to its answer.",
                &["group", "server"],
            ),
            mismatched: registry.counters(
                "nodens_upstream_mismatched_total",
                "Messages from an upstream server's address that answer nothing we asked, by what does not match.",
                &["group", "server", "reason"],
            ),
        }
    }

    /// One server's counters.
    #[must_use]
    pub fn server(&self, group: &str, server: &str) -> ExchangeMetrics {
        ExchangeMetrics {
            tries: PerLabel::new(|label| self.tries.with_label_values(&[group, server, label])),
            duration: self.duration.with_label_values(&[group, server]),
            mismatched: PerLabel::new(|label| {
                self.mismatched.with_label_values(&[group, server, label])
            }),
        }
    }
}

/// One server's counters; clones share them.
#[derive(Debug, Clone)]
pub struct ExchangeMetrics {
    tries: PerLabel<Outcome, IntCounter>,
    duration: Histogram,
    mismatched: PerLabel<Mismatch, IntCounter>,
}

impl ExchangeMetrics {
    /// A try ended.
    pub fn ended(&self, outcome: Outcome) {
        self.tries.of(outcome).inc();
    }

    /// A response came so many seconds after its query.
    pub fn answered_after(&self, seconds: f64) {
        self.duration.observe(seconds);
    }

    /// A message was ignored.
    pub fn mismatched(&self, reason: Mismatch) {
        self.mismatched.of(reason).inc();
    }
}
