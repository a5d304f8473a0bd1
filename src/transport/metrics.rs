//! What is counted of exchanges with upstream servers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::message::labels::coredns_code_index;
use crate::metrics::coredns::{TIME_BOUNDS, TIMES};
use crate::metrics::distribution::Distribution;
use crate::metrics::{Label, PerLabel, Registry, impl_label};

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

/// The socket that a query leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketUse {
    /// A UDP socket that was open.
    OpenDatagram,
    /// A UDP socket that was opened for it.
    NewDatagram,
    /// A connection that was open.
    OpenStream,
    /// A connection that was opened for it.
    NewStream,
}

impl_label!(SocketUse {
    OpenDatagram => "open_datagram",
    NewDatagram => "new_datagram",
    OpenStream => "open_stream",
    NewStream => "new_stream",
});

/// What CoreDNS's families tell of a server and our own do not (`metrics.coredns`); all workers count into it.
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
    /// From query to response, by the index of the response's code.
    #[must_use]
    pub fn durations(&self) -> BTreeMap<usize, Distribution<TIME_BOUNDS>> {
        self.lock().clone()
    }

    /// Queries that left from such a socket.
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
        // Numbers that are only added to.
        self.durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each server by its group and label, so that a reload that makes it anew does not begin at 0.
type CountsByServer = Mutex<BTreeMap<(String, String), Arc<ServerCounts>>>;

/// The families of all servers.
#[derive(Debug)]
pub struct ExchangeFamilies {
    tries: IntCounterVec,
    duration: HistogramVec,
    mismatched: IntCounterVec,
    /// With `metrics.coredns` alone.
    coredns: Option<CountsByServer>,
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
            coredns: None,
        }
    }

    /// Has servers count what CoreDNS's families need, too. For those that are not there yet.
    pub fn count_for_coredns(&mut self) {
        self.coredns = Some(Mutex::default());
    }

    /// A server is gone: with servers that come and go, what was counted of them would grow without end.
    pub fn forget(&self, group: &str, server: &str) {
        // What was never shown is not there to be removed.
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
    /// How many tries ended.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.tries.iter().map(IntCounter::get).sum()
    }

    /// How many messages were ignored because they answer another question.
    #[must_use]
    pub fn wrong_questions(&self) -> u64 {
        self.mismatched.of(Mismatch::Question).get()
    }

    /// What CoreDNS's families need beside.
    #[must_use]
    pub fn coredns(&self) -> Option<&ServerCounts> {
        self.coredns.as_deref()
    }

    /// A try ended.
    pub fn ended(&self, outcome: Outcome) {
        self.tries.of(outcome).inc();
    }

    /// A response came so long after its query; its code, if it could be read.
    pub fn answered_after(&self, time: Duration, code: Option<u16>) {
        self.duration.observe(time.as_secs_f64());
        if let (Some(coredns), Some(code)) = (&self.coredns, code) {
            coredns.answered(code, time);
        }
    }

    /// A query leaves.
    pub fn sent(&self, socket: SocketUse) {
        if let Some(coredns) = &self.coredns {
            coredns.sockets.of(socket).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A message was ignored.
    pub fn mismatched(&self, reason: Mismatch) {
        self.mismatched.of(reason).inc();
    }
}
