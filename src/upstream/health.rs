//! The state of one server over one transport, and the events that change it. Pure: events, `now` and random numbers come in
//! as arguments; no sockets, no clock.
//!
//! The rules are those of docs/architecture/failover.md. Round-trip times are smoothed as RFC 6298 §2 says.

use std::time::{Duration, Instant};

use crate::config::FailoverConfig;
use crate::metrics::{Label, impl_label};
use crate::transport::AnswerQuality;

/// Tries that must be known before their loss rate counts: one loss in a handful of tries is no rate of 5 %.
const LOSS_MIN_TRIES: u32 = 20;
/// Answers that must be known before it counts that most of them are refusals.
const ANSWER_MIN: u32 = 4;
/// Length of a period in which ended tries are counted. The counts of the period before are used, too.
const ENDED_TRIES_PERIOD: Duration = Duration::from_secs(4);
/// A server that leaves more of its tries unanswered is not reliable. Its answer to an extra query is no sign that only
/// other servers lose queries.
const RELIABLE_UNANSWERED_PERCENT: u32 = 5;
/// Time until the next probe of a poor server, which shows whether it got better.
const POOR_PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Time from a down server's answer to a probe until the next probe, which confirms that the server is back.
const CONFIRM_PAUSE: Duration = Duration::from_millis(100);
/// A server is down after [`NETWORK_ERRORS_OFTEN`] errors of the network in a row, if the first one came this long ago. One
/// error is not enough: it is about one source port, behind which may be one endpoint of a Service.
const NETWORK_ERRORS_FOR: Duration = Duration::from_millis(200);
const NETWORK_ERRORS_OFTEN: u32 = 4;
/// A server is down at once after so many errors in a row. With half of a Service's endpoints gone, one row in 30,000 is as
/// long.
const NETWORK_ERRORS_AT_ONCE: u32 = 16;
/// Time until the next probe of a server with errors of the network that is not down yet.
const NETWORK_ERRORS_PROBE_PAUSE: Duration = Duration::from_millis(50);
/// A query that finds no other server waits for one whose last answer is not older than this. kube-proxy takes a second or
/// two to learn that a Service's endpoint is gone, and as long to learn that another is ready. Clients wait 5 s.
const BRIDGED_OUTAGE: Duration = Duration::from_secs(3);

/// The state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It answers well.
    Good = 0,
    /// It has not answered yet.
    Unknown = 1,
    /// It answers, but too slowly, or with too many losses or refusals.
    Poor = 2,
    /// Suspected: tries are overdue or the network reported an error, and no answer came since.
    Silent = 3,
    /// It gets no queries: a probe was lost, too, or the network reported enough errors, or it forwards queries to us.
    Down = 4,
}

impl State {
    /// The state whose `as u8` this is.
    #[must_use]
    pub fn from_u8(value: u8) -> Self {
        Self::ALL
            .get(usize::from(value))
            .copied()
            .unwrap_or(Self::Unknown)
    }

    /// Whether queries that wait for the server move on without waiting for their own timers.
    #[must_use]
    pub fn suspected(self) -> bool {
        matches!(self, Self::Silent | Self::Down)
    }
}

// In order of preference.
impl_label!(State {
    Good => "good",
    Unknown => "unknown",
    Poor => "poor",
    Silent => "silent",
    Down => "down",
});

/// Why the state changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing has happened yet.
    Started,
    /// It answered a client's query.
    Answered,
    /// It answered probes.
    ProbeAnswered,
    /// Tries for two different names were overdue, and no answer came since the older one was sent. For TCP beside UDP: a
    /// question that was answered over UDP with TC got no answer over TCP.
    Overdue,
    /// A probe got no answer in time.
    ProbeLost,
    /// ICMP or the TCP stack reported that it cannot be reached.
    Unreachable,
    /// It lost too many queries.
    Lossy,
    /// Most of its answers were REFUSED, SERVFAIL or the like, and another server answered these questions.
    Refusing,
    /// It is far slower than another server.
    Slow,
    /// The reason for which it was poor has gone.
    Recovered,
    /// It forwards queries to us.
    Loop,
}

impl_label!(Reason {
    Started => "started",
    Answered => "answered",
    ProbeAnswered => "probe_answered",
    Overdue => "overdue",
    ProbeLost => "probe_lost",
    Unreachable => "unreachable",
    Lossy => "lossy",
    Refusing => "refusing",
    Slow => "slow",
    Recovered => "recovered",
    Loop => "loop",
});

/// The last outcomes as bits: 1 is bad.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    bits: u128,
    seen: u32,
}

impl Window {
    fn push(&mut self, bad: bool, size: u32) {
        self.bits = (self.bits << 1 | u128::from(bad)) & ((1 << size) - 1);
        self.seen = (self.seen + 1).min(size);
    }

    fn bad(&self) -> u32 {
        self.bits.count_ones()
    }
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TryEnd {
    Answered,
    Unanswered,
}

/// Tries that ended in this period and the one before. Periods are long, because behind a limit on packets a second, the
/// loss in some parts of a second is far lower than in others.
#[derive(Debug, Clone, Copy)]
struct EndedTries {
    since: Instant,
    /// Numbers of answered and of unanswered tries, in this period and in the one before.
    periods: [[u32; 2]; 2],
}

impl EndedTries {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            periods: [[0; 2]; 2],
        }
    }

    fn count(&mut self, now: Instant, end: TryEnd) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= ENDED_TRIES_PERIOD {
            let before = if passed < 2 * ENDED_TRIES_PERIOD {
                self.periods[0]
            } else {
                [0; 2]
            };
            *self = Self {
                since: now,
                periods: [[0; 2], before],
            };
        }
        self.periods[0][end as usize] += 1;
    }

    fn unanswered_percent(&self) -> u32 {
        let [now, before] = self.periods;
        let [answered, unanswered] = [0, 1].map(|end| now[end] + before[end]);
        let all = answered + unanswered;
        if all < LOSS_MIN_TRIES {
            return 0;
        }
        u32::try_from(u64::from(unanswered) * 100 / u64::from(all)).unwrap_or(100)
    }
}

/// A server's health over one transport.
#[derive(Debug, Clone)]
pub struct Health {
    state: State,
    reason: Reason,
    changed: Instant,
    last_heard: Option<Instant>,
    /// The oldest overdue try: when it was sent, and the hash of its QNAME.
    overdue: Option<(Instant, u64)>,
    /// Errors of the network in a row: when the first came, and how many there were.
    network_errors: Option<(Instant, u32)>,
    srtt: Option<Duration>,
    rttvar: Duration,
    losses: Window,
    answers: Window,
    slow: bool,
    ended: EndedTries,
    /// When it last changed from down to another state. Losses of tries that were sent before do not count.
    came_back: Option<Instant>,
    probe: Probe,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    in_flight: bool,
    /// When the next probe leaves. None while clients' queries show enough of the server's state.
    next: Option<Instant>,
    pause: Duration,
    answered_in_row: u32,
    /// The last answer to a probe took longer than a try may take.
    answers_late: bool,
}

impl Health {
    /// A server that has not answered yet. Its first probe is due at once.
    #[must_use]
    pub fn new(config: &FailoverConfig, now: Instant) -> Self {
        Self {
            state: State::Unknown,
            reason: Reason::Started,
            changed: now,
            last_heard: None,
            overdue: None,
            network_errors: None,
            srtt: None,
            rttvar: Duration::ZERO,
            losses: Window::default(),
            answers: Window::default(),
            slow: false,
            ended: EndedTries::new(now),
            came_back: None,
            probe: Probe {
                in_flight: false,
                next: Some(now),
                pause: config.probe_min,
                answered_in_row: 0,
                answers_late: false,
            },
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The reason for the last change of state, and its time.
    #[must_use]
    pub fn last_change(&self) -> (Reason, Instant) {
        (self.reason, self.changed)
    }

    /// Smoothed round-trip time, if any answer was timed.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Share of the last tries that were lost, in percent.
    #[must_use]
    pub fn loss_percent(&self) -> u32 {
        (self.losses.bad() * 100)
            .checked_div(self.losses.seen)
            .unwrap_or(0)
    }

    /// How long a query waits for this server before it asks the next one, too.
    #[must_use]
    pub fn hedge_delay(&self, config: &FailoverConfig) -> Duration {
        self.answer_time(config).min(config.hedge_max)
    }

    /// The time within which nearly all its answers come (RFC 6298 §2.3).
    #[must_use]
    pub fn answer_time(&self, config: &FailoverConfig) -> Duration {
        let expected = self
            .srtt
            .map_or(config.hedge_max, |srtt| srtt + 4 * self.rttvar);
        expected.max(config.hedge_min)
    }

    /// A client's query was answered after `rtt`.
    /// `others_rtt` is the best smoothed round-trip time among the group's other servers.
    pub fn answered(
        &mut self,
        config: &FailoverConfig,
        now: Instant,
        rtt: Duration,
        quality: AnswerQuality,
        others_rtt: Option<Duration>,
    ) {
        self.heard(now, rtt);
        self.ended.count(now, TryEnd::Answered);
        self.losses.push(false, config.poor_loss_window);
        if quality == AnswerQuality::Final {
            self.answers.push(false, config.poor_answer_window);
        }
        if matches!(self.state, State::Unknown | State::Silent | State::Down) {
            self.change(State::Good, Reason::Answered, now);
            self.probe.next = None;
        }
        self.judge(config, now, others_rtt);
    }

    /// The server refused or failed a question that another server of the group answered.
    pub fn refused_alone(&mut self, config: &FailoverConfig, now: Instant) {
        self.answers.push(true, config.poor_answer_window);
        self.judge(config, now, None);
    }

    /// A try was given up without an answer.
    pub fn expired(&mut self, now: Instant) {
        self.ended.count(now, TryEnd::Unanswered);
    }

    /// Whether the server answers nearly all tries. Unlike the losses that make a server poor, this counts tries whose
    /// question no server answered, too.
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        self.ended.unanswered_percent() <= RELIABLE_UNANSWERED_PERCENT
    }

    /// A try sent at `sent` was lost: its question was answered elsewhere, or by a later datagram.
    pub fn lost(&mut self, config: &FailoverConfig, now: Instant, sent: Instant) {
        if self.came_back.is_some_and(|back| sent < back) {
            return;
        }
        self.losses.push(true, config.poor_loss_window);
        self.judge(config, now, None);
    }

    /// A try sent at `sent` has no answer after the hedge delay. `question` is the hash of its QNAME.
    pub fn overdue(&mut self, now: Instant, sent: Instant, question: u64) {
        if self.has_heard_since(sent) {
            return;
        }
        match self.overdue {
            Some((older, other)) if self.last_heard.is_none_or(|heard| heard < older) => {
                if other == question {
                    return;
                }
                if matches!(self.state, State::Good | State::Poor | State::Unknown) {
                    self.change(State::Silent, Reason::Overdue, now);
                    self.probe.answered_in_row = 0;
                    self.probe.next = Some(now);
                }
            }
            _ => self.overdue = Some((sent, question)),
        }
    }

    /// The network reported to a socket that the server cannot be reached. The latest query on the socket was sent at
    /// `sent`.
    pub fn unreachable(&mut self, config: &FailoverConfig, now: Instant, sent: Instant) {
        // The server has answered since. Behind a Service's address, that answer may be from another endpoint.
        if self.has_heard_since(sent) {
            return;
        }
        let (first, before) = self.network_errors.unwrap_or((now, 0));
        let times = before + 1;
        self.network_errors = Some((first, times));
        let is_down = match self.state {
            State::Unknown | State::Down => true,
            State::Good | State::Poor | State::Silent => {
                let for_long = now.saturating_duration_since(first) >= NETWORK_ERRORS_FOR;
                times >= NETWORK_ERRORS_AT_ONCE || for_long && times >= NETWORK_ERRORS_OFTEN
            }
        };
        if is_down {
            self.fall(config, now, Reason::Unreachable);
            return;
        }
        if self.state != State::Silent {
            self.change(State::Silent, Reason::Unreachable, now);
            self.probe.answered_in_row = 0;
        }
        let soon = now + NETWORK_ERRORS_PROBE_PAUSE;
        self.probe.next = Some(self.probe.next.map_or(soon, |next| next.min(soon)));
    }

    /// Until when a question that was first sent to this server at `asked` is worth asking it again, if no other server is
    /// left. None if the server has never answered, or if it is silent or down, the network reports no error, and it has
    /// answered no question since `asked`.
    #[must_use]
    pub fn bridged_until(&self, asked: Instant) -> Option<Instant> {
        let may_return =
            !self.state.suspected() || self.cannot_be_reached() || self.has_heard_since(asked);
        let heard = self.last_heard.filter(|_| may_return);
        heard.map(|heard| heard + BRIDGED_OUTAGE)
    }

    /// Whether the network reports that the server cannot be reached, or that was the reason of its last change of state.
    #[must_use]
    pub fn cannot_be_reached(&self) -> bool {
        self.network_errors.is_some() || self.reason == Reason::Unreachable
    }

    /// The server did not answer a question over this transport that it has answered over the other one. The question was
    /// sent at `sent`. If others were answered since, the server may only be slow.
    pub fn unanswered(&mut self, config: &FailoverConfig, now: Instant, sent: Instant) {
        if self.has_heard_since(sent) {
            return;
        }
        self.fall(config, now, Reason::Overdue);
    }

    /// The server forwards queries to us, so it is down.
    pub fn looped(&mut self, config: &FailoverConfig, now: Instant) {
        self.fall(config, now, Reason::Loop);
    }

    /// A probe is about to leave. At most one is in flight at a time.
    pub fn probe_sent(&mut self) {
        debug_assert!(!self.probe.in_flight, "the caller asked probe_due first");
        self.probe.in_flight = true;
        self.probe.next = None;
    }

    /// When the next probe leaves. None while one is in flight, or if none is needed.
    #[must_use]
    pub fn probe_due(&self) -> Option<Instant> {
        if self.probe.in_flight {
            None
        } else {
            self.probe.next
        }
    }

    /// A probe was answered after `rtt`; `late` if that is longer than a try may take. Any response shows that the server is
    /// alive.
    pub fn probe_answered(
        &mut self,
        config: &FailoverConfig,
        now: Instant,
        (rtt, late): (Duration, bool),
        others_rtt: Option<Duration>,
    ) {
        self.probe.in_flight = false;
        self.probe.answers_late = late;
        self.heard(now, rtt);
        self.probe.answered_in_row += 1;
        if self.state == State::Poor {
            self.losses.push(false, config.poor_loss_window);
        }
        match self.state {
            State::Down if self.probe.answered_in_row < config.recover_probes => {
                self.probe.next = Some(now + CONFIRM_PAUSE);
                return;
            }
            State::Down | State::Silent | State::Unknown => {
                self.change(State::Good, Reason::ProbeAnswered, now);
            }
            State::Good | State::Poor => {}
        }
        self.probe.pause = config.probe_min;
        self.probe.next = None;
        self.judge(config, now, others_rtt);
    }

    /// A probe that had already counted as lost was answered after `rtt`: the server is slow, but alive.
    pub fn probe_answered_late(&mut self, config: &FailoverConfig, now: Instant, rtt: Duration) {
        self.heard(now, rtt);
        self.probe.answers_late = true;
        if matches!(self.state, State::Unknown | State::Silent | State::Down) {
            self.change(State::Good, Reason::ProbeAnswered, now);
            self.probe.pause = config.probe_min;
            self.probe.next = None;
        }
    }

    /// Whether the last answer to a probe took longer than a try may take.
    #[must_use]
    pub fn answers_late(&self) -> bool {
        self.probe.answers_late
    }

    /// A probe could not be sent, because there was no socket. It is sent later. This says nothing about the server.
    pub fn probe_not_sent(&mut self, config: &FailoverConfig, now: Instant) {
        self.probe.in_flight = false;
        self.probe.next = Some(now + config.probe_min);
    }

    /// A probe got no answer.
    pub fn probe_lost(&mut self, config: &FailoverConfig, now: Instant, lost: LostProbe) {
        let LostProbe {
            sent,
            reason,
            jitter,
        } = lost;
        self.probe.in_flight = false;
        self.probe.answered_in_row = 0;
        // Answers to clients' queries count more than lost probes: some servers do not answer the probe's question at all.
        let heard_since = self.has_heard_since(sent);
        if heard_since && !self.state.suspected() {
            self.probe.next = (self.state == State::Poor).then(|| now + POOR_PROBE_PAUSE);
            return;
        }
        if heard_since && self.state == State::Silent {
            // The lost probe was sent before the server's last answer, so it does not confirm the suspicion, which came
            // later. Another probe does.
            self.probe.next = Some(now);
            return;
        }
        if reason == Reason::Unreachable
            && matches!(self.state, State::Good | State::Poor | State::Silent)
        {
            self.unreachable(config, now, sent);
            if self.state == State::Silent {
                return;
            }
        } else if self.state == State::Down {
            self.probe.pause = (self.probe.pause * 2).min(config.probe_max);
        } else {
            self.fall(config, now, reason);
        }
        // The pause runs from the sending of one probe to the sending of the next, so that a server that returns right after
        // a probe was sent is found within probe_max.
        self.probe.next = Some(now.max(sent + spread(self.probe.pause, jitter)));
    }

    fn heard(&mut self, now: Instant, rtt: Duration) {
        self.last_heard = Some(now);
        self.overdue = None;
        self.network_errors = None;
        // RFC 6298 §2.2, §2.3.
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (3 * self.rttvar + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((7 * srtt + rtt) / 8);
            }
        }
    }

    /// Changes the state between good and poor. Without `others_rtt`, the last judgement of slowness holds.
    fn judge(&mut self, config: &FailoverConfig, now: Instant, others_rtt: Option<Duration>) {
        if let (Some(srtt), Some(other)) = (self.srtt, others_rtt) {
            self.slow =
                srtt > other + config.poor_slower_by && srtt > other * config.poor_slower_factor;
        }
        let lossy = self.losses.seen >= LOSS_MIN_TRIES
            && self.losses.bad() * 100 > self.losses.seen * config.poor_loss_percent;
        let refusing =
            self.answers.seen >= ANSWER_MIN && self.answers.bad() * 2 > self.answers.seen;
        let reason = match (lossy, refusing, self.slow) {
            (true, _, _) => Some(Reason::Lossy),
            (_, true, _) => Some(Reason::Refusing),
            (_, _, true) => Some(Reason::Slow),
            _ => None,
        };
        match (self.state, reason) {
            (State::Good, Some(reason)) => self.change(State::Poor, reason, now),
            (State::Poor, None) => self.change(State::Good, Reason::Recovered, now),
            _ => {}
        }
        if self.state == State::Poor && self.probe.next.is_none() {
            self.probe.next = Some(now + POOR_PROBE_PAUSE);
        }
    }

    /// Whether any answer came at `time` or later.
    fn has_heard_since(&self, time: Instant) -> bool {
        self.last_heard.is_some_and(|heard| heard >= time)
    }

    fn fall(&mut self, config: &FailoverConfig, now: Instant, reason: Reason) {
        if self.state == State::Down {
            return;
        }
        self.change(State::Down, reason, now);
        self.probe.pause = config.probe_min;
        self.probe.answered_in_row = 0;
        self.probe.next = Some(now + config.probe_min);
    }

    fn change(&mut self, state: State, reason: Reason, now: Instant) {
        if self.state == State::Down {
            // Otherwise the losses from before would make the server poor, and with the few tries that a poor server gets,
            // it would be poor for long.
            self.losses = Window::default();
            self.answers = Window::default();
            self.came_back = Some(now);
        }
        self.state = state;
        self.reason = reason;
        self.changed = now;
        self.overdue = None;
    }
}

/// A lost probe.
#[derive(Debug, Clone, Copy)]
pub struct LostProbe {
    /// When it was sent.
    pub sent: Instant,
    /// [`Reason::ProbeLost`] or [`Reason::Unreachable`].
    pub reason: Reason,
    /// Random number in 0..=1 that spreads the next probe.
    pub jitter: f64,
}

/// Between 60 and 90 % of the pause, so that probes of many nodes are not sent in step, and none is sent after the pause.
fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.6 + 0.3 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lost(sent: Instant) -> LostProbe {
        LostProbe {
            sent,
            reason: Reason::ProbeLost,
            jitter: 0.5,
        }
    }

    struct Bench {
        config: FailoverConfig,
        start: Instant,
        health: Health,
    }

    impl Bench {
        fn new() -> Self {
            let (config, start) = (FailoverConfig::default(), Instant::now());
            let health = Health::new(&config, start);
            Self {
                config,
                start,
                health,
            }
        }

        fn good() -> Self {
            let mut bench = Self::new();
            bench.answer(0, 1);
            assert_eq!(bench.health.state(), State::Good);
            bench
        }

        fn at(&self, ms: u32) -> Instant {
            self.start + MS * ms
        }

        fn answer(&mut self, at: u32, rtt: u32) {
            let now = self.at(at);
            self.health
                .answered(&self.config, now, MS * rtt, AnswerQuality::Final, None);
        }

        fn probe_lost(&mut self, at: u32) {
            let (now, sent) = (self.at(at), self.at(at.saturating_sub(500)));
            self.health.probe_sent();
            self.health.probe_lost(&self.config, now, lost(sent));
        }

        fn probe_answered(&mut self, at: u32) {
            let now = self.at(at);
            self.health.probe_sent();
            self.health
                .probe_answered(&self.config, now, (MS, false), None);
        }
    }

    #[test]
    fn a_probe_for_which_there_is_no_socket_says_nothing_and_is_sent_later() {
        let mut bench = Bench::new();
        let before = bench.health.state();
        bench.health.probe_sent();
        let now = bench.at(0);
        bench.health.probe_not_sent(&bench.config, now);
        assert_eq!(bench.health.state(), before);
        assert_eq!(bench.health.probe_due(), Some(now + bench.config.probe_min));
    }

    #[test]
    fn a_server_that_answers_in_bursts_is_no_reliable_one() {
        let config = FailoverConfig::default();
        let start = Instant::now();
        let mut health = Health::new(&config, start);
        // 200 answers at the start of each second, and 100 tries that expire in the middle of it.
        for second in 0..20_u32 {
            for (millis, count, answered) in [(0, 200, true), (500, 100, false)] {
                let now = start + Duration::from_millis(u64::from(second) * 1000 + millis);
                for _ in 0..count {
                    if answered {
                        let rtt = Duration::from_millis(1);
                        health.answered(&config, now, rtt, AnswerQuality::Final, None);
                    } else {
                        health.expired(now);
                    }
                }
                assert_eq!(health.is_reliable(), second == 0 && answered, "{second} s");
            }
        }
        let now = start + Duration::from_mins(1);
        for _ in 0..20 {
            health.answered(
                &config,
                now,
                Duration::from_millis(1),
                AnswerQuality::Final,
                None,
            );
        }
        assert!(health.is_reliable(), "what is long past is forgotten");
    }

    #[test]
    fn two_different_overdue_questions_make_a_server_silent_and_a_lost_probe_down() {
        let mut bench = Bench::good();
        bench.health.overdue(bench.at(30), bench.at(10), 1);
        assert_eq!(bench.health.state(), State::Good);
        bench.health.overdue(bench.at(31), bench.at(11), 2);
        assert_eq!(bench.health.state(), State::Silent);
        assert_eq!(bench.health.probe_due(), Some(bench.at(31)));
        bench.probe_lost(1031);
        assert_eq!(bench.health.state(), State::Down);
        assert_eq!(bench.health.last_change().0, Reason::ProbeLost);
    }

    #[test]
    fn one_name_that_never_resolves_says_nothing_about_a_server() {
        let mut bench = Bench::good();
        for round in 1..100 {
            bench
                .health
                .overdue(bench.at(round * 20), bench.at(round * 20 - 19), 1);
        }
        assert_eq!(bench.health.state(), State::Good);
    }

    #[test]
    fn anything_heard_since_ends_suspicion() {
        let mut bench = Bench::good();
        bench.health.overdue(bench.at(30), bench.at(10), 1);
        bench.answer(31, 1);
        bench.health.overdue(bench.at(32), bench.at(12), 2);
        assert_eq!(bench.health.state(), State::Good);
    }

    #[test]
    fn a_down_server_comes_back_after_two_probe_answers_or_one_clients_answer() {
        let mut bench = Bench::good();
        bench.health.looped(&bench.config, bench.at(10));
        assert_eq!(bench.health.state(), State::Down);
        bench.probe_answered(600);
        assert_eq!(bench.health.state(), State::Down);
        assert_eq!(
            bench.health.probe_due(),
            Some(bench.at(600) + CONFIRM_PAUSE)
        );
        bench.probe_answered(700);
        assert_eq!(bench.health.state(), State::Good);

        bench.health.looped(&bench.config, bench.at(800));
        bench.answer(900, 1);
        assert_eq!(bench.health.state(), State::Good);
    }

    #[test]
    fn a_question_without_an_answer_over_tcp_brings_the_server_down_only_if_it_is_silent() {
        let unanswered = |bench: &mut Bench, at, sent| {
            let (now, sent) = (bench.at(at), bench.at(sent));
            bench.health.unanswered(&bench.config, now, sent);
            bench.health.state()
        };
        let mut never_heard = Bench::new();
        assert_eq!(unanswered(&mut never_heard, 1000, 0), State::Down);
        let mut silent = Bench::good();
        assert_eq!(unanswered(&mut silent, 1010, 10), State::Down);
        assert_eq!(silent.health.last_change().0, Reason::Overdue);
        let mut slow = Bench::good();
        slow.answer(500, 490);
        assert_eq!(unanswered(&mut slow, 1010, 10), State::Good);
        assert_eq!(unanswered(&mut slow, 1510, 510), State::Down);
    }

    /// The network reports an error to a source port that no other query uses.
    fn refuse(bench: &mut Bench, at: u32) -> State {
        let now = bench.at(at);
        bench.health.unreachable(&bench.config, now, now);
        bench.health.state()
    }

    #[test]
    fn one_port_that_is_refused_is_a_doubt_which_an_answer_ends() {
        let mut bench = Bench::good();
        assert_eq!(refuse(&mut bench, 10), State::Silent);
        assert_eq!(bench.health.probe_due(), Some(bench.at(60)));
        bench.answer(11, 1);
        assert_eq!(bench.health.state(), State::Good);
        assert_eq!(bench.health.probe_due(), None);
        // For two seconds, every second try gets an error and every other one an answer.
        for number in 0..200 {
            assert_eq!(refuse(&mut bench, 20 + 10 * number), State::Silent);
            bench.answer(21 + 10 * number, 1);
        }
    }

    #[test]
    fn a_server_is_down_once_many_ports_are_refused_or_none_is_answered_for_a_while() {
        let mut bench = Bench::good();
        for number in 1..NETWORK_ERRORS_AT_ONCE {
            assert_eq!(refuse(&mut bench, 10), State::Silent, "{number}");
        }
        assert_eq!(refuse(&mut bench, 10), State::Down);

        let mut bench = Bench::good();
        refuse(&mut bench, 10);
        for at in [60, 110, 160, 210] {
            assert_eq!(bench.health.probe_due(), Some(bench.at(at)));
            assert_eq!(bench.health.state(), State::Silent, "{at}");
            bench.health.probe_sent();
            let now = bench.at(at);
            let lost = LostProbe {
                reason: Reason::Unreachable,
                ..lost(now)
            };
            bench.health.probe_lost(&bench.config, now, lost);
        }
        assert_eq!(bench.health.state(), State::Down);
        assert_eq!(bench.health.last_change().0, Reason::Unreachable);

        let mut bench = Bench::new();
        assert_eq!(refuse(&mut bench, 10), State::Down, "never heard from");
    }

    #[test]
    fn an_error_for_what_was_sent_before_an_answer_came_says_nothing() {
        let mut bench = Bench::good();
        bench.answer(500, 1);
        let (now, sent) = (bench.at(3000), bench.at(400));
        bench.health.unreachable(&bench.config, now, sent);
        assert_eq!(bench.health.state(), State::Good);
    }

    #[test]
    fn a_lost_probe_that_is_older_than_an_answer_does_not_settle_a_younger_doubt() {
        let mut bench = Bench::good();
        bench.health.overdue(bench.at(30), bench.at(10), 1);
        bench.health.overdue(bench.at(31), bench.at(11), 2);
        bench.health.probe_sent();
        bench.answer(40, 1);
        bench.health.overdue(bench.at(900), bench.at(880), 3);
        bench.health.overdue(bench.at(901), bench.at(881), 4);
        assert_eq!(bench.health.state(), State::Silent);
        let (now, probe) = (bench.at(1031), lost(bench.at(31)));
        bench.health.probe_lost(&bench.config, now, probe);
        assert_eq!(bench.health.state(), State::Silent);
        assert_eq!(bench.health.probe_due(), Some(now));
    }

    #[test]
    fn who_cannot_be_reached_is_waited_for_until_it_has_been_gone_for_long() {
        let until = |bench: &Bench| bench.health.bridged_until(bench.at(5));
        let mut bench = Bench::new();
        refuse(&mut bench, 10);
        assert_eq!(until(&bench), None, "never heard from");

        let mut bench = Bench::good();
        bench.answer(100, 1);
        let end = Some(bench.at(100) + BRIDGED_OUTAGE);
        for _ in 0..20 {
            refuse(&mut bench, 200);
            assert_eq!(until(&bench), end);
        }
        assert_eq!(bench.health.state(), State::Down);
        bench.probe_answered(300);
        assert_eq!(until(&bench), Some(bench.at(300) + BRIDGED_OUTAGE));

        let mut bench = Bench::good();
        bench.health.overdue(bench.at(30), bench.at(10), 1);
        bench.health.overdue(bench.at(31), bench.at(11), 2);
        assert_eq!(until(&bench), None, "silent");
        bench.answer(40, 1);
        bench.health.overdue(bench.at(70), bench.at(50), 1);
        bench.health.overdue(bench.at(71), bench.at(51), 2);
        assert_eq!(bench.health.state(), State::Silent);
        assert_eq!(until(&bench), Some(bench.at(40) + BRIDGED_OUTAGE));
    }

    #[test]
    fn probes_of_a_down_server_slow_down_to_the_configured_pause() {
        let mut bench = Bench::good();
        bench.health.looped(&bench.config, bench.at(0));
        let mut pauses = Vec::new();
        let mut now = 500;
        for _ in 0..6 {
            bench.probe_lost(now);
            let due = bench.health.probe_due().expect("down servers are probed");
            pauses.push((due - bench.at(now)).as_millis());
            now += 6000;
        }
        assert_eq!(pauses, [250, 1000, 2500, 3250, 3250, 3250]);
    }

    #[test]
    fn loss_makes_poor_and_its_end_good() {
        let mut bench = Bench::good();
        for number in 0..80 {
            bench.answer(number, 1);
            if number % 5 == 0 {
                bench
                    .health
                    .lost(&bench.config, bench.at(number), bench.at(number));
            }
        }
        assert_eq!(
            (bench.health.state(), bench.health.last_change().0),
            (State::Poor, Reason::Lossy)
        );
        for number in 80..180 {
            bench.answer(number, 1);
        }
        assert_eq!(bench.health.state(), State::Good);
    }

    #[test]
    fn refusals_count_only_while_another_server_answers() {
        let mut bench = Bench::good();
        let refuse = |bench: &mut Bench, fine| {
            for number in 0..30 {
                let now = bench.at(number);
                bench.health.answered(&bench.config, now, MS, fine, None);
            }
            bench.health.state()
        };
        assert_eq!(refuse(&mut bench, AnswerQuality::Undecided), State::Good);
        for number in 0..10 {
            bench.health.refused_alone(&bench.config, bench.at(number));
        }
        assert_eq!(bench.health.state(), State::Poor);
        assert_eq!(refuse(&mut bench, AnswerQuality::Final), State::Good);
    }

    #[test]
    fn slowness_is_judged_against_another_server() {
        let mut bench = Bench::good();
        let others = Some(MS);
        for number in 0..20 {
            let now = bench.at(number);
            bench
                .health
                .answered(&bench.config, now, MS * 900, AnswerQuality::Final, others);
        }
        assert_eq!(
            (bench.health.state(), bench.health.last_change().0),
            (State::Poor, Reason::Slow)
        );
        let mut alone = Bench::good();
        for number in 0..20 {
            alone.answer(number, 900);
        }
        assert_eq!(alone.health.state(), State::Good);
    }

    #[test]
    fn hedge_delay_follows_the_round_trip_time_within_its_bounds() {
        let mut bench = Bench::new();
        assert_eq!(bench.health.hedge_delay(&bench.config), 200 * MS);
        bench.answer(0, 1);
        assert_eq!(bench.health.hedge_delay(&bench.config), 20 * MS);
        for number in 0..50 {
            bench.answer(number, 40);
        }
        let delay = bench.health.hedge_delay(&bench.config);
        assert!(delay > 39 * MS && delay < 60 * MS, "{delay:?}");
    }

    proptest::proptest! {
        #[test]
        fn a_server_that_answers_probes_is_never_down_for_ever(events in proptest::collection::vec(0_u8..7, 0..200)) {
            let mut bench = Bench::new();
            let mut now = 1000;
            let mut sent = None;
            for event in events {
                now += 7;
                let at = bench.at(now);
                match event {
                    0 => bench.answer(now, 5),
                    1 => bench.health.lost(&bench.config, at, at),
                    2 => bench.health.overdue(at, bench.at(now - 5), u64::from(now)),
                    3 => bench.health.unreachable(&bench.config, at, at),
                    4 if bench.health.probe_due().is_some() => {
                        assert!(sent.is_none(), "two probes at once");
                        bench.health.probe_sent();
                        sent = Some(at);
                    }
                    5 => if let Some(sent) = sent.take() {
                        bench.health.probe_lost(&bench.config, at, lost(sent));
                    },
                    6 if sent.take().is_some() => {
                        bench.health.probe_answered(&bench.config, at, (MS, false), None);
                    }
                    _ => {}
                }
            }
            if sent.is_some() {
                let at = bench.at(now);
                bench.health.probe_answered(&bench.config, at, (MS, false), None);
            }
            for _ in 0..bench.config.recover_probes {
                if bench.health.state() != State::Down {
                    break;
                }
                let due = bench.health.probe_due().expect("a down server has a probe coming");
                assert!(due <= bench.at(now) + bench.config.probe_max);
                now += 5000;
                bench.probe_answered(now);
            }
            assert_ne!(bench.health.state(), State::Down);
        }
    }
}
