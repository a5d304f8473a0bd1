//! One upstream server, which all workers share: its health over each transport, published so that it can be read without a
//! lock.
//!
//! Owns the lock around [`Health`], under which events are applied. The choice of servers for a query reads atomics only.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tracing::Level;

use super::health::{Health, LostProbe, Reason, State};
use super::history::RttHistory;
use super::metrics::{HealthMetrics, UpstreamFamilies};
use super::plan::Candidate;
use super::rate::RateLimit;
use super::tolerance::{Refusal, Tolerance};
use crate::config::{FailoverConfig, ServerConfig, Transport};
use crate::message::form::QueryForm;
use crate::metrics::Label;
use crate::net::network::Network;
use crate::runtime;
use crate::transport::https::Endpoint;
use crate::transport::metrics::ExchangeMetrics;
use crate::transport::tls::Tls;
use crate::transport::{AnswerQuality, Carrier, Observer, Peer};

/// However slow a server is, a question may be sent to it again after this long: then a datagram is more likely lost than
/// late.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// A smoothed round-trip time in microseconds, 0 for none yet.
type Srtt = Arc<AtomicU32>;

/// An upstream server. A reload keeps it if the new configuration has the same settings for it.
#[derive(Debug)]
pub struct Server {
    /// Its address and its transport.
    pub config: ServerConfig,
    /// What its TLS connections need, if queries go over TLS or HTTPS.
    pub tls: Option<Tls>,
    /// Where it takes requests, if queries go over HTTPS.
    pub https: Option<Endpoint>,
    /// The group's name.
    pub group: Arc<str>,
    /// As the configuration writes it: the label of metrics, and the name in extended errors.
    pub label: String,
    /// A try counts as lost if it has no answer after this long.
    pub try_timeout: Duration,
    /// Limits the queries that it is sent in a second.
    pub rate: RateLimit,
    /// The network over which it is reached.
    pub network: Arc<dyn Network>,
    stream_max_age: Duration,
    metrics: ExchangeMetrics,
    failover: FailoverConfig,
    by_carrier: [CarrierHealth; 2],
    srtt: Srtt,
    /// Round-trip times over the transport that queries use at first.
    rtt_history: RttHistory,
    /// Round-trip times of the group's other servers. By comparison with them, the server is judged slow.
    other_srtts: ArcSwap<Vec<Srtt>>,
    /// Wakes the task that sends probes.
    probe_wanted: Arc<Notify>,
    /// Whether it forwards queries to us.
    looped: AtomicBool,
    tolerance: Mutex<Tolerance>,
    /// The [`QueryForm`] in force, for lock-free reading.
    form: AtomicU8,
}

/// A server that is down before it has answered anything causes a warning only after it has been down for this long: when a
/// node boots, all servers are down for a moment.
const FIRST_WARNING: Duration = Duration::from_secs(10);

/// A server that is down again within this time after a warning is in the same outage, and causes no further warning.
const ONE_OUTAGE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct CarrierHealth {
    health: Mutex<Health>,
    state: AtomicU8,
    hedge_micros: AtomicU32,
    answer_micros: AtomicU32,
    /// Whether the server answers nearly all tries.
    reliable: AtomicBool,
    /// The server was down before it had answered anything, and there was no warning yet; see [`FIRST_WARNING`].
    warning_due: AtomicBool,
    /// When the last warning was logged.
    warned: Mutex<Option<Instant>>,
    metrics: HealthMetrics,
}

impl CarrierHealth {
    /// Whether to log a warning for a server that is down since `now`; see [`ONE_OUTAGE`].
    fn is_new_outage(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = warned.is_none_or(|before| now >= before + ONE_OUTAGE);
        if is_new {
            *warned = Some(now);
        }
        is_new
    }
}

/// What `/status` shows of a server over one transport.
#[derive(Debug, Clone, serde::Serialize)]
pub struct HealthReport {
    /// The transport.
    pub transport: Carrier,
    /// The state.
    pub state: State,
    /// The reason for the last change of state.
    pub reason: Reason,
    /// Seconds since the last change of state.
    pub since_seconds: f64,
    /// Smoothed round-trip time in milliseconds.
    pub srtt_milliseconds: Option<f64>,
    /// Share of the last tries that were lost.
    pub loss_percent: u32,
    /// Probes answered since the start.
    pub probes_answered: u64,
    /// Probes lost since the start.
    pub probes_lost: u64,
}

/// What `/status` shows of the form in which a server is asked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FormReport {
    /// Whether queries carry OPT.
    pub edns: Part,
    /// Whether queries carry the AD bit.
    pub ad_bit: Part,
    /// Why something is left out.
    pub refusal: Option<RefusalReport>,
}

/// Whether a part of our queries is sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Sent, as usual.
    Sent,
    /// Left out, because the server refused it.
    Omitted,
}

impl Part {
    fn sent_if(sent: bool) -> Self {
        if sent { Self::Sent } else { Self::Omitted }
    }
}

/// What `/status` shows of a refusal that is remembered.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RefusalReport {
    /// What the server did.
    pub by: Refusal,
    /// Seconds since it was learnt.
    pub since_seconds: f64,
    /// Seconds until a probe tries the whole query again.
    pub tried_anew_in_seconds: f64,
}

/// Arguments of [`Server::new`].
pub(super) struct ServerParts<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) tls: Option<Tls>,
    pub(super) https: Option<Endpoint>,
    pub(super) group: &'a Arc<str>,
    pub(super) try_timeout: Duration,
    pub(super) stream_max_age: Duration,
    pub(super) failover: &'a FailoverConfig,
    pub(super) probe_wanted: &'a Arc<Notify>,
    pub(super) metrics: &'a UpstreamFamilies,
    pub(super) network: &'a Arc<dyn Network>,
    pub(super) now: Instant,
}

impl Server {
    pub(super) fn new(parts: ServerParts<'_>) -> Self {
        let label = parts.config.to_string();
        let health = |&carrier: &Carrier| CarrierHealth {
            health: Mutex::new(Health::new(parts.failover, parts.now)),
            state: AtomicU8::new(State::Unknown as u8),
            hedge_micros: AtomicU32::new(micros(parts.failover.hedge_max)),
            answer_micros: AtomicU32::new(micros(parts.failover.hedge_max)),
            reliable: AtomicBool::new(true),
            warning_due: AtomicBool::new(false),
            warned: Mutex::default(),
            metrics: parts.metrics.health(parts.group, &label, carrier),
        };
        Self {
            config: parts.config.clone(),
            tls: parts.tls,
            https: parts.https,
            group: Arc::clone(parts.group),
            try_timeout: parts.try_timeout,
            rate: RateLimit::none(parts.now),
            network: Arc::clone(parts.network),
            stream_max_age: parts.stream_max_age,
            metrics: parts.metrics.exchanges(parts.group, &label),
            failover: parts.failover.clone(),
            by_carrier: [Carrier::Datagram, Carrier::Stream].map(|carrier| health(&carrier)),
            srtt: Arc::default(),
            rtt_history: RttHistory::default(),
            other_srtts: ArcSwap::default(),
            probe_wanted: Arc::clone(parts.probe_wanted),
            looped: AtomicBool::new(false),
            tolerance: Mutex::default(),
            form: AtomicU8::new(QueryForm::Full as u8),
            label,
        }
    }

    /// Whether `parts` would make the same server, so that this one is kept, with all that is known of it.
    pub(super) fn is_made_of(&self, parts: &ServerParts<'_>) -> bool {
        let same_tls = match (&self.tls, &parts.tls) {
            (None, None) => true,
            (Some(own), Some(other)) => own.same(other),
            _ => false,
        };
        self.config == *parts.config
            && self.group == *parts.group
            && self.try_timeout == parts.try_timeout
            && self.stream_max_age == parts.stream_max_age
            && self.failover == *parts.failover
            && same_tls
    }

    /// Sets the other servers of its group, with whose round-trip times its own is compared.
    pub(super) fn set_group(&self, group: &[Arc<Self>]) {
        let others = group
            .iter()
            .map(|server| &server.srtt)
            .filter(|srtt| !Arc::ptr_eq(srtt, &self.srtt));
        self.other_srtts.store(Arc::new(others.cloned().collect()));
    }

    /// The counters of exchanges with the server.
    #[must_use]
    pub fn exchanges(&self) -> &ExchangeMetrics {
        &self.metrics
    }

    /// Probes lost since the start, over both transports.
    #[must_use]
    pub fn probes_lost(&self) -> u64 {
        let lost = |known: &CarrierHealth| known.metrics.probes_lost.get();
        self.by_carrier.iter().map(lost).sum()
    }

    /// The transport that queries to the server use at first.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match self.config.transport {
            Transport::Udp => Carrier::Datagram,
            Transport::Tcp | Transport::Tls(_) | Transport::Https { .. } => Carrier::Stream,
        }
    }

    /// The server's state over the transport that queries use at first.
    #[must_use]
    pub fn state(&self) -> State {
        self.state_of(self.carrier())
    }

    /// The server's state over a transport.
    #[must_use]
    pub fn state_of(&self, carrier: Carrier) -> State {
        State::from_u8(
            self.by_carrier[carrier.index()]
                .state
                .load(Ordering::Relaxed),
        )
    }

    /// Whether the server answers nearly all tries over the transport that queries use at first.
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        self.by_carrier[self.carrier().index()]
            .reliable
            .load(Ordering::Relaxed)
    }

    /// Smoothed round-trip time; None if no answer was timed yet.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        known_srtt(&self.srtt)
    }

    /// Adds the smoothed round-trip time to the server's history; None if the server is down.
    pub fn sample_rtt(&self) {
        let up = self.state() != State::Down;
        self.rtt_history.push(self.srtt().filter(|_| up));
    }

    /// The smoothed round-trip time in each of the last seconds, the oldest first. None while the server was down or not
    /// timed yet.
    #[must_use]
    pub fn rtt_history(&self) -> Vec<Option<Duration>> {
        self.rtt_history.samples()
    }

    /// The server as a candidate of a query's plan. `index` is its index among all servers.
    #[must_use]
    pub fn candidate(&self, index: usize) -> Candidate {
        let known = &self.by_carrier[self.carrier().index()];
        let load =
            |micros: &AtomicU32| Duration::from_micros(u64::from(micros.load(Ordering::Relaxed)));
        Candidate {
            server: index,
            hedge_delay: load(&known.hedge_micros),
            answer_time: load(&known.answer_micros),
        }
    }

    /// Until when a question that was first sent to the server at `asked` is worth asking it again; see
    /// [`Health::bridged_until`]. None for a server that loops.
    #[must_use]
    pub fn bridged_until(&self, asked: Instant) -> Option<Instant> {
        if self.looped() {
            return None;
        }
        self.lock(self.carrier()).bridged_until(asked)
    }

    /// Whether the network reports that the server cannot be reached; see [`Health::cannot_be_reached`].
    #[must_use]
    pub fn cannot_be_reached(&self) -> bool {
        self.lock(self.carrier()).cannot_be_reached()
    }

    /// The server in the form that a worker's exchanges need.
    #[must_use]
    pub fn peer(self: &Arc<Self>) -> Peer {
        Peer {
            address: self.config.address,
            tls: self.tls.clone(),
            https: self.https.clone(),
            label: self.label.clone(),
            try_timeout: self.try_timeout,
            stream_max_age: self.stream_max_age,
            network: Arc::clone(&self.network),
            metrics: self.metrics.clone(),
            observer: Arc::clone(self) as Arc<dyn Observer>,
        }
    }

    /// The server refused or failed a question that another server of the group answered.
    pub fn refused_alone(&self, carrier: Carrier, now: Instant) {
        self.update(carrier, |health, config| {
            health.refused_alone(config, now);
        });
    }

    /// A try has had no answer for the hedge delay.
    pub fn overdue(&self, carrier: Carrier, now: Instant, sent: Instant, question: u64) {
        self.update(carrier, |health, _| {
            health.overdue(now, sent, question);
        });
    }

    /// A question to which the server gave a truncated answer over UDP was sent over TCP at `sent`, and got no answer in time.
    pub fn stream_unanswered(&self, now: Instant, sent: Instant) {
        self.update(Carrier::Stream, |health, config| {
            health.unanswered(config, now, sent);
        });
    }

    /// The form of queries to the server.
    #[must_use]
    pub fn form(&self) -> QueryForm {
        QueryForm::from_u8(self.form.load(Ordering::Relaxed))
    }

    /// The server refused a question in the whole form, and answered it in `form`.
    pub fn learn_form(&self, form: QueryForm, refusal: Refusal, now: Instant) {
        self.change_form(|tolerance| tolerance.learn(form, refusal, now));
    }

    /// The server accepted the whole form again.
    pub fn forget_form(&self) {
        self.change_form(Tolerance::forget);
    }

    /// A question was refused in every form.
    pub fn refused_in_every_form(&self, now: Instant) {
        self.change_form(|tolerance| tolerance.refused_in_every_form(now));
    }

    /// Whether a question that the server refused is worth asking in another form.
    #[must_use]
    pub fn may_ask_otherwise(&self, now: Instant) -> bool {
        self.lock_tolerance().may_ask_otherwise(now)
    }

    /// When a probe is to try the whole form again; None while queries have the whole form.
    #[must_use]
    pub fn form_trial_due(&self) -> Option<Instant> {
        if self.form() == QueryForm::Full {
            return None;
        }
        self.lock_tolerance().trial_due()
    }

    /// The probe of the whole form is sent.
    pub fn form_trial_sent(&self, now: Instant) {
        self.change_form(|tolerance| tolerance.trial_sent(now));
    }

    /// What `/status` shows of the form of queries to the server.
    #[must_use]
    pub fn form_report(&self, now: Instant) -> FormReport {
        let tolerance = self.lock_tolerance();
        let form = tolerance.form();
        FormReport {
            edns: Part::sent_if(form.has_opt()),
            ad_bit: Part::sent_if(form.has_ad()),
            refusal: tolerance.learnt().map(|learnt| RefusalReport {
                by: learnt.refusal,
                since_seconds: now.saturating_duration_since(learnt.since).as_secs_f64(),
                tried_anew_in_seconds: learnt
                    .tried_anew
                    .saturating_duration_since(now)
                    .as_secs_f64(),
            }),
        }
    }

    fn lock_tolerance(&self) -> MutexGuard<'_, Tolerance> {
        // As for Health: every field is valid by itself.
        let locked = self.tolerance.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event, publishes the form, and logs it if it has changed.
    fn change_form(&self, event: impl FnOnce(&mut Tolerance)) {
        let mut tolerance = self.lock_tolerance();
        let before = tolerance.form();
        event(&mut tolerance);
        let (form, learnt) = (tolerance.form(), tolerance.learnt());
        self.form.store(form as u8, Ordering::Relaxed);
        drop(tolerance);
        if before == form {
            return;
        }
        let (group, server) = (&*self.group, &self.label);
        if let Some(learnt) = learnt {
            tracing::warn!(
                group,
                server,
                refusal = learnt.refusal.label(),
                edns = form.has_opt(),
                ad_bit = form.has_ad(),
                "upstream server refuses a part of queries, which is left out for now"
            );
        } else {
            tracing::info!(group, server, "upstream server takes whole queries again");
        }
    }

    /// Whether the server forwards queries to us. Then it gets none, except for loop checks.
    #[must_use]
    pub fn looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// Records whether a loop check found that the server forwards queries to us.
    pub fn set_looped(&self, looped: bool, now: Instant) {
        let before = self.looped.swap(looped, Ordering::Relaxed);
        if looped {
            self.update(self.carrier(), |health, config| {
                health.looped(config, now);
            });
        } else if before {
            // From then on, it gets probes like other servers that are down.
            self.probe_wanted.notify_one();
        }
    }

    /// When the next probe leaves. None while one is in flight, or if none is needed.
    #[must_use]
    pub fn probe_due(&self, carrier: Carrier) -> Option<Instant> {
        self.lock(carrier).probe_due()
    }

    /// A probe leaves now.
    pub fn probe_sent(&self, carrier: Carrier) {
        self.lock(carrier).probe_sent();
    }

    /// A probe was answered.
    pub fn probe_answered(&self, carrier: Carrier, now: Instant, rtt: Duration) {
        self.by_carrier[carrier.index()]
            .metrics
            .probes_answered
            .inc();
        let others = self.best_other_srtt();
        let late = rtt > self.try_timeout;
        self.update(carrier, |health, config| {
            health.probe_answered(config, now, (rtt, late), others);
        });
    }

    /// How long a probe may take before it is lost.
    pub fn probe_patience(&self, carrier: Carrier) -> Duration {
        if self.lock(carrier).answers_late() {
            self.late_patience()
        } else {
            self.try_timeout
        }
    }

    /// How long after a probe was sent its answer still counts: as long as queries in flight wait for the server.
    #[must_use]
    pub fn late_patience(&self) -> Duration {
        self.try_timeout * 2
    }

    /// A probe that had already counted as lost was answered.
    pub fn probe_answered_late(&self, carrier: Carrier, now: Instant, rtt: Duration) {
        self.update(carrier, |health, config| {
            health.probe_answered_late(config, now, rtt);
        });
    }

    /// A probe was not sent, because this host had no socket for it.
    pub fn probe_not_sent(&self, carrier: Carrier, now: Instant) {
        self.update(carrier, |health, config| health.probe_not_sent(config, now));
    }

    /// A probe got no answer in time.
    pub fn probe_lost(&self, carrier: Carrier, now: Instant, lost: LostProbe) {
        self.by_carrier[carrier.index()].metrics.probes_lost.inc();
        self.update(carrier, |health, config| {
            health.probe_lost(config, now, lost);
        });
    }

    /// What `/status` shows.
    #[must_use]
    pub fn report(&self, carrier: Carrier, now: Instant) -> HealthReport {
        let health = self.lock(carrier);
        let (reason, changed) = health.last_change();
        HealthReport {
            transport: carrier,
            state: health.state(),
            reason,
            since_seconds: now.saturating_duration_since(changed).as_secs_f64(),
            srtt_milliseconds: health.srtt().map(|srtt| srtt.as_secs_f64() * 1e3),
            loss_percent: health.loss_percent(),
            probes_answered: self.by_carrier[carrier.index()]
                .metrics
                .probes_answered
                .get(),
            probes_lost: self.by_carrier[carrier.index()].metrics.probes_lost.get(),
        }
    }

    fn lock(&self, carrier: Carrier) -> MutexGuard<'_, Health> {
        // A panic cannot leave `Health` in a state that matters, because each field is valid by itself.
        self.by_carrier[carrier.index()]
            .health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event, publishes the health, wakes the task that sends probes if necessary, and logs a change of state.
    fn update(&self, carrier: Carrier, event: impl FnOnce(&mut Health, &FailoverConfig)) {
        let known = &self.by_carrier[carrier.index()];
        let mut health = self.lock(carrier);
        let (before, probe_before) = (health.state(), health.probe_due());
        event(&mut health, &self.failover);
        let (after, probe_after) = (health.state(), health.probe_due());
        let (reason, changed) = health.last_change();
        let srtt = health.srtt();
        known.hedge_micros.store(
            micros(health.hedge_delay(&self.failover)),
            Ordering::Relaxed,
        );
        let answer_time = health.answer_time(&self.failover).min(ANSWER_TIME_MAX);
        known
            .answer_micros
            .store(micros(answer_time), Ordering::Relaxed);
        known
            .reliable
            .store(health.is_reliable(), Ordering::Relaxed);
        known.state.store(after as u8, Ordering::Relaxed);
        drop(health);
        if carrier == self.carrier()
            && let Some(srtt) = srtt
        {
            self.srtt.store(micros(srtt).max(1), Ordering::Relaxed);
        }
        if probe_after.is_some() && probe_after != probe_before {
            self.probe_wanted.notify_one();
        }
        if before != after {
            known.metrics.changed(after);
            let at_first = before == State::Unknown && after == State::Down;
            known.warning_due.store(at_first, Ordering::Relaxed);
            let level = match (before, after) {
                (_, State::Down) if !at_first && known.is_new_outage(changed) => Level::WARN,
                // A server that does not answer AAAA becomes silent, and good again, hundreds of times in an hour.
                (_, State::Silent) | (State::Silent, State::Good | State::Poor) => Level::DEBUG,
                _ => Level::INFO,
            };
            self.log_state(level, carrier, before, after, reason);
        } else if known.warning_due.load(Ordering::Relaxed)
            && runtime::since(changed) >= FIRST_WARNING
            && known.warning_due.swap(false, Ordering::Relaxed)
        {
            self.log_state(Level::WARN, carrier, State::Unknown, after, reason);
        }
    }

    /// Updates the gauges. Called for each scrape rather than for each answer.
    pub fn show(&self, clocks: (Instant, SystemTime)) {
        for &carrier in Carrier::ALL {
            let (state, change, srtt) = {
                let health = self.lock(carrier);
                (health.state(), health.last_change(), health.srtt())
            };
            let metrics = &self.by_carrier[carrier.index()].metrics;
            metrics.show(state, change, srtt, clocks);
        }
    }

    fn log_state(
        &self,
        level: Level,
        carrier: Carrier,
        before: State,
        state: State,
        reason: Reason,
    ) {
        let (group, server, transport) = (&*self.group, &self.label, carrier.label());
        let (before, state, reason) = (before.label(), state.label(), reason.label());
        // tracing needs the level of an event at compile time.
        macro_rules! log {
            ($event:ident) => {
                tracing::$event!(
                    group,
                    server,
                    transport,
                    before,
                    reason,
                    "upstream server is {state}"
                )
            };
        }
        match level {
            Level::WARN => log!(warn),
            Level::DEBUG => log!(debug),
            _ => log!(info),
        }
    }

    fn best_other_srtt(&self) -> Option<Duration> {
        self.other_srtts.load().iter().filter_map(known_srtt).min()
    }
}

impl Observer for Server {
    fn answered(&self, carrier: Carrier, now: Instant, rtt: Duration, quality: AnswerQuality) {
        let others = self.best_other_srtt();
        self.update(carrier, |health, config| {
            health.answered(config, now, rtt, quality, others);
        });
    }

    fn unreachable(&self, carrier: Carrier, now: Instant, sent: Instant) {
        self.update(carrier, |health, config| {
            health.unreachable(config, now, sent);
        });
    }

    fn expired(&self, carrier: Carrier, now: Instant) {
        self.update(carrier, |health, _| health.expired(now));
    }

    fn lost(&self, carrier: Carrier, now: Instant, sent: Instant) {
        self.update(carrier, |health, config| health.lost(config, now, sent));
    }
}

fn known_srtt(srtt: &Srtt) -> Option<Duration> {
    match srtt.load(Ordering::Relaxed) {
        0 => None,
        micros => Some(Duration::from_micros(u64::from(micros))),
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
