//! Metrics of exchanges with upstream servers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::message::labels::coredns_code_index;
use crate::metrics::coredns::{TIME_BOUNDS, TIMES};
use crate::metrics::distribution::Distribution;
use crate::metrics::{Label, PerLabel, Registry, impl_label};

/// How one try at one server ended.
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
    /// With a referral or a lame answer: the server does not resolve names recursively for us.
    Referral,
    /// With a truncated answer (TC).
    Truncated,
    /// Without an answer in time, while another try of the question was answered.
    Lost,
    /// Without an answer in time, and no other try of the question was answered either.
    Unanswered,
    /// The network said that the server cannot be reached, the server closed the connection, the query could not be sent, or
    /// every socket received too many messages that match no query.
    Unreachable,
    /// With a message that cannot be parsed: its counts, lengths or names are wrong.
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
    /// No query in flight on the socket has the message's ID.
    Id,
    /// The message's question is not the question of the query with its ID.
    Question,
    /// The message is not a response.
    NotAResponse,
}

impl_label!(Mismatch {
    Id => "id",
    Question => "question",
    NotAResponse => "not_a_response",
});

/// The kind of socket that a query was sent from, and whether it was open already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketUse {
    /// A UDP socket that was open already.
    OpenDatagram,
    /// A UDP socket that was opened for the query.
    NewDatagram,
    /// A connection that was open already.
    OpenStream,
    /// A connection that was opened for the query.
    NewStream,
}

impl_label!(SocketUse {
    OpenDatagram => "open_datagram",
    NewDatagram => "new_datagram",
    OpenStream => "open_stream",
    NewStream => "new_stream",
});

/// Counts about a server that only CoreDNS's metric families need (`metrics.coredns`). All workers share them.
#[derive(Debug)]
pub struct ServerCounts {
    durations: Mutex<BTreeMap<usize, Distribution<TIME_BOUNDS>>>,
    sockets: PerLabel<SocketUse, AtomicU64>,
}

impl Default for ServerCounts {
    fn default() -> Self {
        Self {
            durations: Mutex::default(),
            sockets: PerLabel::new(|_| AtomicU64::new(0)),
        }
    }
}

impl ServerCounts {
    /// Times from query to response, by the index of the response code.
    #[must_use]
    pub fn durations(&self) -> BTreeMap<usize, Distribution<TIME_BOUNDS>> {
        self.lock().clone()
    }

    /// Number of queries that were sent from this kind of socket.
    #[must_use]
    pub fn sent(&self, socket: SocketUse) -> u64 {
        self.sockets.of(socket).load(Ordering::Relaxed)
    }

    fn answered(&self, code: u16, after: Duration) {
        let mut durations = self.lock();
        let of_code = durations.entry(coredns_code_index(code)).or_default();
        of_code.observe_time(&TIMES.bounds, after);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Distribution<TIME_BOUNDS>>> {
        // A panic cannot leave these counters in a broken state.
        self.durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of each server by group and label. They outlive the server's other state, so that a reload which makes the server
/// anew does not reset them.
type CountsByServer = Mutex<BTreeMap<(String, String), Arc<ServerCounts>>>;

/// The metric families of all servers.
#[derive(Debug)]
pub struct ExchangeFamilies {
    tries: IntCounterVec,
    duration: HistogramVec,
    mismatched: IntCounterVec,
    /// Only with `metrics.coredns`.
    coredns: Option<CountsByServer>,
}

impl ExchangeFamilies {
    /// Registers the families.
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
            coredns: None,
        }
    }

    /// Has servers count what CoreDNS's families need, too. Applies only to servers made afterwards.
    pub fn count_for_coredns(&mut self) {
        self.coredns = Some(Mutex::default());
    }

    /// Removes the metrics of a server that is gone. Otherwise their number would grow without end where servers come and go.
    pub fn forget(&self, group: &str, server: &str) {
        // Removing fails for labels that were never used, and that is no error.
        for outcome in Outcome::ALL.iter().map(|outcome| outcome.label()) {
            let _ = self.tries.remove_label_values(&[group, server, outcome]);
        }
        for reason in Mismatch::ALL.iter().map(|reason| reason.label()) {
            let _ = self
                .mismatched
                .remove_label_values(&[group, server, reason]);
        }
        let _ = self.duration.remove_label_values(&[group, server]);
        if let Some(by_server) = &self.coredns {
            let mut by_server = by_server.lock().unwrap_or_else(PoisonError::into_inner);
            by_server.remove(&(group.to_owned(), server.to_owned()));
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
            coredns: self.coredns.as_ref().map(|by_server| {
                let mut by_server = by_server.lock().unwrap_or_else(PoisonError::into_inner);
                let labels = (group.to_owned(), server.to_owned());
                Arc::clone(by_server.entry(labels).or_default())
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
    coredns: Option<Arc<ServerCounts>>,
}

impl ExchangeMetrics {
    /// Number of tries that ended.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.tries.iter().map(IntCounter::get).sum()
    }

    /// Number of messages that were ignored because they answer another question.
    #[must_use]
    pub fn wrong_questions(&self) -> u64 {
        self.mismatched.of(Mismatch::Question).get()
    }

    /// The counts for CoreDNS's families; None without `metrics.coredns`.
    #[must_use]
    pub fn coredns(&self) -> Option<&ServerCounts> {
        self.coredns.as_deref()
    }

    /// Counts a try that ended.
    pub fn ended(&self, outcome: Outcome) {
        self.tries.of(outcome).inc();
    }

    /// Counts a response that came `time` after its query. `code` is its response code; None if it cannot be parsed.
    pub fn answered_after(&self, time: Duration, code: Option<u16>) {
        self.duration.observe(time.as_secs_f64());
        if let (Some(coredns), Some(code)) = (&self.coredns, code) {
            coredns.answered(code, time);
        }
    }

    /// Counts a query that is sent.
    pub fn sent(&self, socket: SocketUse) {
        if let Some(coredns) = &self.coredns {
            coredns.sockets.of(socket).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a message that is ignored.
    pub fn mismatched(&self, reason: Mismatch) {
        self.mismatched.of(reason).inc();
    }
}
