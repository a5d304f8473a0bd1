//! Decides which server one query asks next, and when. Pure: takes events and `now`, returns the next step.
//!
//! Owns the order of tries, hedges, resends and tiers. Must not touch sockets: `transport` sends the queries.

use std::time::{Duration, Instant};

use smallvec::{SmallVec, smallvec};

use super::extra::Extra;

/// A server that the query may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its index in the process's list of servers.
    pub server: usize,
    /// After this long without an answer, the next server is asked, too.
    pub hedge_delay: Duration,
    /// The time within which its answers usually come; it may be longer than `hedge_max`. Before it is over, sending the
    /// question again is of no use.
    pub answer_time: Duration,
}

/// Candidates and tries that are stored without an allocation. Most groups have at most so many servers, and most queries
/// need at most so many tries.
const FEW: usize = 3;

/// How often a question is sent again at once because the network reports that its server cannot be reached. With half of a
/// Service's endpoints gone, one question in 130,000 meets a dead endpoint each time.
const UNREACHABLE_RETRIES: u32 = 16;

/// When no other server is left, a server that answered until lately is asked again after this long. The pause doubles with
/// the tries, up to `BRIDGE_PAUSE_MAX`. kube-proxy may soon send queries to another endpoint.
const BRIDGE_PAUSE: Duration = Duration::from_millis(50);
const BRIDGE_PAUSE_MAX: Duration = Duration::from_millis(400);
/// The plan checks this often, or at the server's hedge delay if that is longer, whether such a server has answered other
/// queries meanwhile. If so, the server is asked at once.
const BRIDGE_LOOK: Duration = Duration::from_millis(20);

/// The longest pause before a question that got no token for an extra query requests one again, while the tier has a server
/// that was not asked. A longer pause would leave too little of the question's 4 s for that server.
const LONGEST_PAUSE_BEFORE_ANOTHER_SERVER: Duration = Duration::from_millis(250);

/// The groups of a route, in the order in which they are asked.
pub type Tiers = SmallVec<[Tier; 1]>;

/// The candidates of one group, in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Never empty.
    pub candidates: SmallVec<[Candidate; FEW]>,
    /// How many candidates are asked at first, as far as extra queries allow: one, or several while no server has answered
    /// yet, or to see whether a poor server got better.
    pub at_once: usize,
    /// A try counts as lost if it has no answer after this long.
    pub try_timeout: Duration,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask this server. If the try fails, report that to the plan by the try's number.
    Try {
        /// The try's number.
        number: usize,
        /// The server's index.
        server: usize,
        /// Whether an earlier try still waits for its answer. False for the tries that a tier starts with.
        hedge: bool,
    },
    /// The try has had no answer for its hedge delay. Report that to the server's health, then step again.
    Overdue(usize),
    /// Wait for an event, until this time at most.
    Wait(Instant),
    /// No server is left to ask, or no time.
    Exhausted,
}

/// How a try ended without a final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryFailure {
    /// The server gave no final answer, and asking it again would not help.
    Declined,
    /// The network reported that the server cannot be reached.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    /// Overdue, and reported by [`Step::Overdue`].
    Late,
    /// Ended without a final answer.
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Try {
    server: usize,
    sent: Instant,
    hedge_delay: Duration,
    answer_time: Duration,
    status: Status,
    /// The try ended with [`TryFailure::Declined`].
    declined: bool,
}

/// One query's plan.
#[derive(Debug)]
pub struct Plan {
    tiers: Tiers,
    tier: usize,
    /// Candidates of this tier that were asked.
    asked: usize,
    /// Tries of this tier after each candidate was asked once.
    resent: u32,
    /// Number of the tier's first try.
    first: usize,
    tries: SmallVec<[Try; FEW]>,
    /// When the next server is asked, if no event comes before.
    next_at: Instant,
    /// The server of the latest try that ended as unreachable before it was overdue. The next step may ask it again at once.
    unreachable: Option<usize>,
    /// How often such servers may still be asked again at once.
    retries: u32,
    /// How often this tier requested a token for an extra query and got none.
    tokens_refused: u32,
    end: Instant,
    /// All servers are down, and each gets one try at most.
    last_resort: bool,
    /// When the client's time is over. `end` is never later.
    deadline: Instant,
    /// Set when no server is left to ask, but one that answered until lately may answer again soon.
    bridge: Option<Bridge>,
}

/// A server that answered until lately. It is asked again at `ask_at`, or earlier if it has answered other queries
/// meanwhile.
#[derive(Debug, Clone, Copy)]
struct Bridge {
    candidate: Candidate,
    ask_at: Instant,
    pause: Duration,
}

impl Plan {
    /// A plan that asks `tiers` one after the other. Answers that come after `end` are too late.
    #[must_use]
    pub fn new(tiers: Tiers, now: Instant, end: Instant) -> Self {
        Self {
            tiers,
            tier: 0,
            asked: 0,
            resent: 0,
            first: 0,
            tries: SmallVec::new(),
            next_at: now,
            unreachable: None,
            retries: UNREACHABLE_RETRIES,
            tokens_refused: 0,
            end,
            last_resort: false,
            deadline: end,
            bridge: None,
        }
    }

    /// A plan for servers that are all down. Each candidate gets one try, all at once as far as extra queries allow. The
    /// tries wait for the longest hedge delay among the candidates, as long as a healthy server would need.
    #[must_use]
    pub fn last_resort(candidates: SmallVec<[Candidate; FEW]>, now: Instant, end: Instant) -> Self {
        let patience = candidates
            .iter()
            .map(|c| c.hedge_delay)
            .max()
            .unwrap_or_default();
        let at_once = candidates.len();
        let tier = Tier {
            candidates,
            at_once,
            try_timeout: patience,
        };
        Self {
            last_resort: true,
            retries: 0,
            deadline: end,
            ..Self::new(smallvec![tier], now, end.min(now + patience))
        }
    }

    /// The server that is asked first.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        let first = self.tiers.first()?.candidates.first()?;
        Some(first.server)
    }

    /// Returns what to do next. `suspected` tells whether a server is silent or down. `may` takes a token for an extra query
    /// to a server, and returns false if there is none.
    pub fn step(
        &mut self,
        now: Instant,
        suspected: impl Fn(usize) -> bool,
        mut may: impl FnMut(usize, Extra) -> bool,
    ) -> Step {
        if now >= self.end || self.tiers.is_empty() {
            return Step::Exhausted;
        }
        if let Some(number) = self.newly_late(now) {
            return Step::Overdue(number);
        }
        if let Some(bridge) = self.bridge {
            return self.step_on_bridge(bridge, now, &suspected, &mut may);
        }
        if let Some(step) = self.ask_unreachable_again(now, &mut may) {
            return step;
        }
        if self.tier_is_over(now, &suspected) {
            if self.tier + 1 == self.tiers.len() {
                return self.after_the_last_tier(now, &suspected, &mut may);
            }
            self.enter_next_tier(now);
        }
        self.put_suspected_last(&suspected);
        if let Some(step) = self.ask_at_once(now, &mut may) {
            return step;
        }
        if self.last_resort {
            return if self.nobody_can_answer() {
                Step::Exhausted
            } else {
                Step::Wait(self.end)
            };
        }
        let waiting = |a_try: &&Try| a_try.status != Status::Over;
        let Some(newest) = self.tries[self.first..].iter().rev().find(waiting) else {
            // All tries of this tier have failed: the next server is asked at once.
            return self.ask_next(now);
        };
        let moves_on = suspected(newest.server) && self.has_unasked();
        if now < self.next_at && !moves_on {
            return Step::Wait(self.wake_at(now));
        }
        let Some(next) = self.next_candidate() else {
            self.next_at = now + newest.hedge_delay;
            return Step::Wait(self.wake_at(now));
        };
        let delay = newest.hedge_delay;
        self.ask_beside(next, delay, now, &suspected, &mut may)
    }

    /// Asks `next` while other tries of this tier wait, if there is a token for the extra query. Without a token, asks the
    /// next tier if all waiting tries are lost, and else requests a token again later. `delay` is the hedge delay of the
    /// newest waiting try.
    fn ask_beside(
        &mut self,
        next: Candidate,
        delay: Duration,
        now: Instant,
        suspected: &impl Fn(usize) -> bool,
        may: &mut impl FnMut(usize, Extra) -> bool,
    ) -> Step {
        let timeout = self.tiers[self.tier].try_timeout;
        let is_lost = |a_try: &Try| now >= a_try.sent + timeout;
        let mut waiting = self.tries[self.first..]
            .iter()
            .filter(|a_try| a_try.status != Status::Over);
        let lost = waiting.clone().all(is_lost);
        let hopeless = waiting.all(|a_try| suspected(a_try.server) || is_lost(a_try));
        let extra = match (hopeless, self.has_unasked()) {
            (true, true) => Extra::AnotherServer,
            (true, false) => Extra::Replacement,
            (false, _) => Extra::Hedge,
        };
        if may(next.server, extra) {
            return self.ask_next(now);
        }
        if lost && self.tier + 1 < self.tiers.len() {
            self.enter_next_tier(now);
            self.put_suspected_last(suspected);
            return self.ask_next(now);
        }
        self.wait_for_token(delay, now)
    }

    /// Asks the servers that a tier starts with: one in any case, further ones as far as extra queries allow.
    fn ask_at_once(
        &mut self,
        now: Instant,
        may: &mut impl FnMut(usize, Extra) -> bool,
    ) -> Option<Step> {
        let tier = &mut self.tiers[self.tier];
        if self.asked >= tier.at_once.min(tier.candidates.len()) {
            return None;
        }
        if self.asked > 0 && !may(tier.candidates[self.asked].server, Extra::Replacement) {
            tier.at_once = self.asked;
            return None;
        }
        Some(self.ask_next(now))
    }

    /// Asks a server again if the network reported at once that it cannot be reached, and no other server is left. Behind a
    /// Service's address, a query from another source port may reach another endpoint. An endpoint that has just ended
    /// refuses queries until kube-proxy knows that it is gone.
    fn ask_unreachable_again(
        &mut self,
        now: Instant,
        may: &mut impl FnMut(usize, Extra) -> bool,
    ) -> Option<Step> {
        let server = self.unreachable.take()?;
        let mut candidates = self.tiers[self.tier].candidates.iter();
        // A server of an earlier tier is not asked again.
        let candidate = *candidates.find(|candidate| candidate.server == server)?;
        let waiting = |a_try: &Try| a_try.status == Status::Waiting;
        let others = self.has_unasked() || self.tries[self.first..].iter().any(waiting);
        if self.retries == 0 || others || !may(server, Extra::Replacement) {
            return None;
        }
        self.retries -= 1;
        let step = self.ask(candidate, now);
        self.schedule(now, candidate.hedge_delay);
        Some(step)
    }

    /// No server is left to ask, but `server` answered until lately: asks it again from time to time, until `until` at most.
    /// Returns false if that time is over, or if the plan did this before.
    pub fn wait_for_return(&mut self, server: usize, until: Instant, now: Instant) -> bool {
        let until = until.min(self.deadline);
        let mut candidates = self.tiers.iter().flat_map(|tier| &tier.candidates);
        let candidate = candidates.find(|candidate| candidate.server == server);
        let Some(&candidate) = candidate.filter(|_| self.bridge.is_none() && now < until) else {
            return false;
        };
        // A try that still waits there has its time to be answered.
        let waiting = |a_try: &&Try| a_try.server == server && a_try.status != Status::Over;
        let last = self.tries.iter().filter(waiting).map(|a_try| a_try.sent);
        let answered_by = last.max().map(|sent| sent + candidate.hedge_delay);
        self.end = until;
        self.next_at = answered_by.map_or(now, |at| at.max(now));
        self.bridge = Some(Bridge {
            candidate,
            ask_at: now + BRIDGE_PAUSE,
            pause: BRIDGE_PAUSE,
        });
        true
    }

    fn step_on_bridge(
        &mut self,
        bridge: Bridge,
        now: Instant,
        suspected: impl Fn(usize) -> bool,
        may: &mut impl FnMut(usize, Extra) -> bool,
    ) -> Step {
        let Bridge {
            candidate,
            ask_at,
            pause,
        } = bridge;
        if self.has_declined(candidate.server) {
            return Step::Exhausted;
        }
        if now >= self.next_at {
            self.next_at = now + BRIDGE_LOOK.max(candidate.hedge_delay);
            let is_back = !suspected(candidate.server);
            if (is_back || now >= ask_at) && may(candidate.server, Extra::Replacement) {
                self.bridge = Some(Bridge {
                    candidate,
                    ask_at: now + pause,
                    pause: (pause * 2).min(BRIDGE_PAUSE_MAX),
                });
                // A server that is slow is not asked again before it had time to answer.
                self.next_at = self.next_at.max(now + candidate.answer_time);
                return self.ask(candidate, now);
            }
        }
        let waiting = self
            .tries
            .iter()
            .filter(|a_try| a_try.status == Status::Waiting);
        let overdue = waiting.map(|a_try| a_try.sent + a_try.hedge_delay);
        Step::Wait(overdue.fold(self.next_at.min(self.end), Instant::min))
    }

    /// There is no token for an extra query. The plan requests one again after a pause that doubles each time, because
    /// further questions pay tokens in.
    fn wait_for_token(&mut self, delay: Duration, now: Instant) -> Step {
        self.tokens_refused += 1;
        let mut pause = delay * (1 << self.tokens_refused.min(5));
        if self.has_unasked() {
            pause = pause.min(LONGEST_PAUSE_BEFORE_ANOTHER_SERVER.max(delay));
        }
        self.next_at = now + pause;
        Step::Wait(self.wake_at(now))
    }

    /// A try ended without a final answer.
    pub fn failed(&mut self, number: usize, how: TryFailure) {
        let server = self.tries[number].server;
        let status = std::mem::replace(&mut self.tries[number].status, Status::Over);
        self.tries[number].declined = how == TryFailure::Declined;
        if how == TryFailure::Unreachable {
            // Only an error that came at once leads to another try at once. An error that takes long, such as that of a
            // neighbour that does not answer, would take as long again.
            let may_answer = status == Status::Waiting && !self.has_declined(server);
            self.unreachable = may_answer.then_some(server);
        } else if self.unreachable == Some(server) {
            self.unreachable = None;
        }
    }

    /// The try is sent again by other means (over TCP, or without EDNS). Its timers start anew.
    pub fn goes_on(&mut self, number: usize, now: Instant) {
        self.tries[number].sent = now;
        self.tries[number].status = Status::Waiting;
        self.schedule(now, self.tries[number].hedge_delay);
    }

    /// The server a try went to.
    #[must_use]
    pub fn server(&self, number: usize) -> usize {
        self.tries[number].server
    }

    /// Whether the server has answered that it cannot answer.
    #[must_use]
    pub fn has_declined(&self, server: usize) -> bool {
        let mut tries = self.tries.iter();
        tries.any(|a_try| a_try.server == server && a_try.declined)
    }

    /// When a try was sent.
    #[must_use]
    pub fn sent(&self, number: usize) -> Instant {
        self.tries[number].sent
    }

    /// Number of tries so far.
    #[must_use]
    pub fn tries(&self) -> usize {
        self.tries.len()
    }

    fn newly_late(&mut self, now: Instant) -> Option<usize> {
        let number = self.tries.iter().position(|a_try| {
            a_try.status == Status::Waiting && now >= a_try.sent + a_try.hedge_delay
        })?;
        self.tries[number].status = Status::Late;
        Some(number)
    }

    /// Whether no server of this tier could still answer in time.
    fn tier_is_over(&self, now: Instant, suspected: impl Fn(usize) -> bool) -> bool {
        if self.last_resort || self.tries.len() == self.first {
            return false;
        }
        let Tier {
            candidates,
            try_timeout,
            ..
        } = &self.tiers[self.tier];
        let (asked, unasked) = candidates.split_at(self.asked);
        // A server has had its chance when it declined, when its first try is lost, or when all its tries have ended; a
        // resend does not prolong it. If one source port could not reach the server, it still has its chance while a try
        // from another port waits.
        let had_its_chance = |candidate: &Candidate| {
            let tries = self.tries[self.first..].iter();
            let mut tries = tries.filter(|a_try| a_try.server == candidate.server);
            let is_lost = |a_try: &Try| now >= a_try.sent + *try_timeout;
            tries.clone().any(|a_try| a_try.declined || is_lost(a_try))
                || tries.all(|a_try| a_try.status == Status::Over)
        };
        // A suspected server could be asked only by an extra query. If there was no token for one, the tier does not wait
        // for it.
        let is_beyond_reach =
            |candidate: &Candidate| self.tokens_refused > 0 && suspected(candidate.server);
        asked.iter().all(had_its_chance) && unasked.iter().all(is_beyond_reach)
    }

    fn nobody_can_answer(&self) -> bool {
        !self.has_unasked()
            && self.tries[self.first..]
                .iter()
                .all(|a_try| a_try.status == Status::Over)
    }

    /// Whether this tier has a server that was not asked yet.
    #[must_use]
    pub fn has_unasked(&self) -> bool {
        self.asked < self.tiers[self.tier].candidates.len()
    }

    /// The server that is asked next, for the first time or again.
    fn next_candidate(&self) -> Option<Candidate> {
        let unasked = self.tiers[self.tier].candidates.get(self.asked).copied();
        unasked.or_else(|| self.resend_target())
    }

    /// Sets the next try to `delay` from now. If that is a resend, the server first gets its usual time to answer.
    fn schedule(&mut self, now: Instant, delay: Duration) {
        self.next_at = now + delay;
        if self.has_unasked() {
            return;
        }
        let Some(target) = self.resend_target() else {
            return;
        };
        let last = self.tries[self.first..]
            .iter()
            .rfind(|a_try| a_try.server == target.server);
        if let Some(last) = last {
            self.next_at = self.next_at.max(last.sent + last.answer_time);
        }
    }

    /// Every server of the last tier has had its chance. If all of them are silent or down, they get no more queries, but as
    /// much time again, because they may be slow rather than gone. Otherwise servers are asked again.
    fn after_the_last_tier(
        &mut self,
        now: Instant,
        suspected: impl Fn(usize) -> bool,
        may: &mut impl FnMut(usize, Extra) -> bool,
    ) -> Step {
        if self.nobody_can_answer() {
            return Step::Exhausted;
        }
        let Tier {
            candidates,
            try_timeout,
            ..
        } = &self.tiers[self.tier];
        if candidates
            .iter()
            .all(|candidate| suspected(candidate.server))
        {
            let enough = self.tries[self.first].sent + *try_timeout * 2;
            if now >= enough {
                return Step::Exhausted;
            }
            return Step::Wait(self.wake_at(now).min(enough));
        }
        if now >= self.next_at
            && let Some(target) = self.resend_target()
        {
            if may(target.server, Extra::Replacement) {
                return self.ask_next(now);
            }
            return self.wait_for_token(target.hedge_delay, now);
        }
        Step::Wait(self.wake_at(now))
    }

    fn enter_next_tier(&mut self, now: Instant) {
        self.tier += 1;
        self.asked = 0;
        self.resent = 0;
        self.tokens_refused = 0;
        self.first = self.tries.len();
        self.next_at = now;
    }

    /// If the next candidate that was not asked yet is silent or down, moves the first one that is not before it. States may
    /// have changed since the plan was made.
    fn put_suspected_last(&mut self, suspected: impl Fn(usize) -> bool) {
        let unasked = &mut self.tiers[self.tier].candidates[self.asked..];
        if unasked.len() < 2 || !suspected(unasked[0].server) {
            return;
        }
        let is_better = |candidate: &Candidate| !suspected(candidate.server);
        if let Some(at) = unasked.iter().position(is_better) {
            unasked[..=at].rotate_right(1);
        }
    }

    fn ask_next(&mut self, now: Instant) -> Step {
        let candidates = &self.tiers[self.tier].candidates;
        let (candidate, delay) = if let Some(candidate) = candidates.get(self.asked) {
            self.asked += 1;
            (*candidate, candidate.hedge_delay)
        } else {
            let Some(candidate) = self.resend_target() else {
                return Step::Exhausted;
            };
            // The pause doubles with each round over the servers.
            let round = self.resent / u32::try_from(candidates.len()).unwrap_or(1) + 1;
            self.resent += 1;
            (candidate, candidate.hedge_delay * (1 << round.min(6)))
        };
        let step = self.ask(candidate, now);
        self.schedule(now, delay);
        step
    }

    fn ask(&mut self, candidate: Candidate, now: Instant) -> Step {
        let number = self.tries.len();
        // The tries that a tier starts with are no hedges of each other.
        let hedge = self.tries.len() - self.first >= self.tiers[self.tier].at_once
            && self.tries.iter().any(|a_try| a_try.status != Status::Over);
        self.tries.push(Try {
            server: candidate.server,
            sent: now,
            hedge_delay: candidate.hedge_delay,
            answer_time: candidate.answer_time,
            status: Status::Waiting,
            declined: false,
        });
        Step::Try {
            number,
            server: candidate.server,
            hedge,
        }
    }

    /// The server that is asked again, in turn: one of which no try has ended, else one that has not declined and of which a
    /// try still waits. A server that cannot be reached from one source port may be reached from another.
    fn resend_target(&self) -> Option<Candidate> {
        let candidates = &self.tiers[self.tier].candidates;
        let tries = &self.tries[self.first..];
        let mut in_turn = (0..candidates.len())
            .map(|offset| candidates[(self.resent as usize + offset) % candidates.len()]);
        let of_server = |server: usize| tries.iter().filter(move |a_try| a_try.server == server);
        let waits = |a_try: &Try| a_try.status != Status::Over;
        let all_wait = |candidate: &Candidate| of_server(candidate.server).all(waits);
        let some_wait = |candidate: &Candidate| {
            !self.has_declined(candidate.server) && of_server(candidate.server).any(waits)
        };
        let first = in_turn.clone().find(all_wait);
        first.or_else(|| in_turn.find(some_wait))
    }

    /// The next time at which the plan has something to do without an event.
    fn wake_at(&self, now: Instant) -> Instant {
        let timeout = self.tiers[self.tier].try_timeout;
        let mut wake = self.end;
        for a_try in &self.tries {
            if a_try.status == Status::Waiting {
                wake = wake.min(a_try.sent + a_try.hedge_delay);
            }
        }
        for a_try in &self.tries[self.first..] {
            let lost = a_try.sent + timeout;
            if a_try.status != Status::Over && lost > now {
                wake = wake.min(lost);
            }
        }
        if self.next_at > now && self.next_at < wake && self.next_candidate().is_some() {
            wake = self.next_at;
        }
        wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tier(servers: &[usize]) -> Tier {
        let candidates = servers
            .iter()
            .map(|&server| Candidate {
                server,
                hedge_delay: 20 * MS,
                answer_time: 20 * MS,
            })
            .collect();
        Tier {
            candidates,
            at_once: 1,
            try_timeout: 1000 * MS,
        }
    }

    /// Runs a plan on scripted servers: each declines, or never answers.
    struct Run {
        plan: Plan,
        start: Instant,
        now: Instant,
        hedges: u32,
        replacements: u32,
        suspected: Vec<usize>,
        log: Vec<(u128, usize)>,
    }

    impl Run {
        fn new(tiers: Vec<Tier>) -> Self {
            let start = Instant::now();
            let plan = Plan::new(tiers.into(), start, start + 4000 * MS);
            Self {
                plan,
                start,
                now: start,
                hedges: u32::MAX,
                replacements: u32::MAX,
                suspected: vec![],
                log: vec![],
            }
        }

        fn step(&mut self) -> Step {
            let suspected = &self.suspected;
            let (hedges, replacements) = (&mut self.hedges, &mut self.replacements);
            self.plan.step(
                self.now,
                |server| suspected.contains(&server),
                |_, extra| {
                    let left = match extra {
                        Extra::Hedge => &mut *hedges,
                        Extra::Replacement | Extra::AnotherServer => &mut *replacements,
                    };
                    let some = *left > 0;
                    *left = left.saturating_sub(1);
                    some
                },
            )
        }

        /// Runs until `until` ms. The servers in `not_me` decline at once.
        fn until(&mut self, until: u32, not_me: &[usize]) -> Option<Step> {
            let until = self.start + MS * until;
            loop {
                match self.step() {
                    Step::Try { number, server, .. } => {
                        self.log.push(((self.now - self.start).as_millis(), server));
                        if not_me.contains(&server) {
                            self.plan.failed(number, TryFailure::Declined);
                        }
                    }
                    Step::Overdue(_) => {}
                    Step::Wait(at) => {
                        assert!(at > self.now, "a wait that does not wait");
                        if at > until {
                            return None;
                        }
                        self.now = at;
                    }
                    Step::Exhausted => return Some(Step::Exhausted),
                }
            }
        }
    }

    #[test]
    fn silent_servers_are_hedged_in_order_then_asked_again_ever_slower() {
        let mut run = Run::new(vec![tier(&[1, 2, 3])]);
        run.until(300, &[]);
        assert_eq!(
            run.log,
            [
                (0, 1),
                (20, 2),
                (40, 3),
                (60, 1),
                (100, 2),
                (140, 3),
                (180, 1),
                (260, 2)
            ]
        );
    }

    #[test]
    fn a_server_found_silent_since_the_plan_was_made_is_asked_after_the_others() {
        let mut run = Run::new(vec![tier(&[1, 2, 3])]);
        run.suspected = vec![2];
        run.until(50, &[]);
        assert_eq!(run.log, [(0, 1), (20, 3), (40, 2)]);

        let mut run = Run::new(vec![tier(&[1]), tier(&[2, 3])]);
        (run.hedges, run.replacements) = (0, 0);
        run.suspected = vec![2];
        run.until(1500, &[]);
        assert_eq!(run.log, [(0, 1), (1000, 3)], "in the next tier, too");
    }

    #[test]
    fn servfail_moves_to_the_next_server_at_once() {
        let mut run = Run::new(vec![tier(&[1, 2, 3])]);
        assert_eq!(run.until(4000, &[1, 2, 3]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn the_next_tier_is_asked_only_when_nobody_is_left_in_the_first() {
        let mut run = Run::new(vec![tier(&[1, 2]), tier(&[3])]);
        run.until(100, &[1]);
        assert!(
            run.log.iter().all(|(_, server)| *server != 3),
            "{:?}",
            run.log
        );
        run.until(1500, &[1]);
        let second = run
            .log
            .iter()
            .find(|(_, server)| *server == 3)
            .expect("asked in the end");
        assert!(
            second.0 >= 1000,
            "the first tier's tries must be lost first: {second:?}"
        );

        let mut run = Run::new(vec![tier(&[1, 2]), tier(&[3])]);
        run.until(10, &[1, 2]);
        assert_eq!(run.log, [(0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn without_hedges_a_query_waits_for_its_server() {
        let mut run = Run::new(vec![tier(&[1, 2])]);
        run.hedges = 0;
        run.until(900, &[]);
        assert_eq!(run.log, [(0, 1)]);
        run.until(2000, &[]);
        assert_eq!(run.log[1].1, 2, "a try that is lost is no hedge");
    }

    #[test]
    fn a_server_that_was_not_asked_is_asked_soon_after_extra_queries_are_to_be_had() {
        for servers in [vec![tier(&[1, 2])], vec![tier(&[3]), tier(&[1, 2])]] {
            let mut run = Run::new(servers);
            for tier in &mut run.plan.tiers {
                for candidate in &mut tier.candidates {
                    candidate.hedge_delay = 200 * MS;
                }
            }
            (run.hedges, run.replacements) = (0, 0);
            run.until(2300, &[]);
            assert!(
                run.log.iter().all(|(_, server)| *server != 2),
                "{:?}",
                run.log
            );
            run.replacements = 1;
            run.until(2600, &[]);
            assert_eq!(
                run.log.last().map(|(_, server)| *server),
                Some(2),
                "{:?}",
                run.log
            );
        }
    }

    #[test]
    fn what_was_not_to_be_had_in_one_tier_delays_nothing_in_the_next() {
        let mut run = Run::new(vec![tier(&[1]), tier(&[2])]);
        (run.hedges, run.replacements) = (0, 0);
        run.until(1030, &[]);
        assert_eq!(run.log, [(0, 1), (1000, 2)]);
        run.hedges = 1;
        run.until(1100, &[]);
        assert_eq!(run.log, [(0, 1), (1000, 2), (1060, 2)]);
    }

    #[test]
    fn without_extra_queries_the_next_tier_is_asked_once_the_try_is_lost() {
        let mut run = Run::new(vec![tier(&[1, 2]), tier(&[3])]);
        (run.hedges, run.replacements) = (0, 0);
        run.until(3500, &[]);
        let [first, second] = run.log[..] else {
            panic!("one query to each tier: {:?}", run.log)
        };
        assert_eq!((first, second.1), ((0, 1), 3));
        assert!((1000..2000).contains(&second.0), "{second:?}");
    }

    #[test]
    fn without_extra_queries_no_more_is_hoped_for_from_servers_found_silent() {
        let mut run = Run::new(vec![tier(&[1, 2])]);
        (run.hedges, run.replacements) = (0, 0);
        run.until(500, &[]);
        run.suspected.extend([1, 2]);
        assert_eq!(run.until(4000, &[]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1)]);
        assert_eq!((run.now - run.start).as_millis(), 2000);
    }

    #[test]
    fn without_extra_queries_one_of_those_asked_together_is_asked() {
        let mut run = Run::new(vec![Tier {
            at_once: 3,
            ..tier(&[1, 2, 3])
        }]);
        (run.hedges, run.replacements) = (0, 1);
        run.until(900, &[]);
        assert_eq!(run.log, [(0, 1), (0, 2)]);
    }

    #[test]
    fn a_slow_server_is_asked_again_once_its_answer_is_late() {
        let mut slow = tier(&[1]);
        slow.candidates[0].answer_time = 700 * MS;
        let mut run = Run::new(vec![slow]);
        run.until(1500, &[]);
        let asked: Vec<_> = run.log.iter().map(|(at, _)| *at).collect();
        assert_eq!(asked, [0, 700, 1400]);
    }

    #[test]
    fn queries_in_flight_leave_a_server_found_silent() {
        let mut run = Run::new(vec![tier(&[1, 2])]);
        run.hedges = 0;
        run.until(5, &[]);
        run.suspected.push(1);
        run.until(6, &[]);
        assert_eq!(
            run.log
                .iter()
                .map(|(_, server)| *server)
                .collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[test]
    fn a_single_server_is_asked_again_and_again() {
        let mut run = Run::new(vec![tier(&[1])]);
        run.until(400, &[]);
        assert_eq!(
            run.log.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
            [0, 20, 60, 140, 300]
        );
    }

    #[test]
    fn the_last_resort_is_one_try_each_and_no_long_wait() {
        let start = Instant::now();
        let plan = Plan::last_resort(tier(&[1, 2]).candidates, start, start + 4000 * MS);
        let mut run = Run {
            plan,
            ..Run::new(vec![])
        };
        run.start = start;
        run.now = start;
        assert_eq!(run.until(4000, &[]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1), (0, 2)]);
        assert_eq!(run.now - start, 20 * MS);
    }

    #[test]
    fn servers_found_gone_meanwhile_end_the_query_before_its_deadline() {
        let mut run = Run::new(vec![tier(&[1, 2])]);
        run.until(500, &[]);
        run.suspected.extend([1, 2]);
        assert_eq!(run.until(4000, &[]), Some(Step::Exhausted));
        assert_eq!((run.now - run.start).as_millis(), 2000);
        let late = run.log.iter().filter(|(at, _)| *at > 1000).count();
        assert_eq!(
            late, 0,
            "no query leaves for a server that is gone: {:?}",
            run.log
        );
    }

    /// Steps for as long as tries are sent, each of which ends as unreachable at once. Returns their number.
    fn unreachable_at_once(run: &mut Run) -> usize {
        let mut tries = 0;
        while let Step::Try { number, .. } = run.step() {
            tries += 1;
            run.plan.failed(number, TryFailure::Unreachable);
        }
        tries
    }

    #[test]
    fn who_cannot_be_reached_is_asked_again_at_once_if_nobody_else_is_left() {
        let again = UNREACHABLE_RETRIES as usize;
        let mut run = Run::new(vec![tier(&[1])]);
        assert_eq!(unreachable_at_once(&mut run), 1 + again);
        assert_eq!(run.step(), Step::Exhausted);
        // Another server is asked first, and tokens limit how often a server is asked again.
        let mut run = Run::new(vec![tier(&[1, 2])]);
        run.replacements = 1;
        assert_eq!(unreachable_at_once(&mut run), 2 + 1);
        // A server that declined is not asked again.
        let mut run = Run::new(vec![tier(&[1])]);
        assert_eq!(run.until(4000, &[1]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1)]);
    }

    #[test]
    fn who_is_found_unreachable_after_a_while_is_not_asked_again() {
        let mut run = Run::new(vec![tier(&[1])]);
        let Step::Try { number, .. } = run.step() else {
            panic!("the first server is asked at once");
        };
        run.now += 30 * MS;
        assert_eq!(run.step(), Step::Overdue(number));
        run.plan.failed(number, TryFailure::Unreachable);
        assert_eq!(run.step(), Step::Exhausted);
    }

    #[test]
    fn an_error_at_an_earlier_tiers_server_takes_no_token() {
        let mut run = Run::new(vec![tier(&[1]), tier(&[2])]);
        (run.hedges, run.replacements) = (0, 0);
        run.until(1030, &[]);
        assert_eq!(run.log, [(0, 1), (1000, 2)]);
        // The first server's truncated answer came late, and TCP does not reach the server.
        run.plan.goes_on(0, run.now);
        run.plan.failed(0, TryFailure::Unreachable);
        run.replacements = 1;
        assert!(matches!(run.step(), Step::Wait(_)));
        assert_eq!(run.replacements, 1);
        assert_eq!(run.plan.retries, UNREACHABLE_RETRIES);
    }

    #[test]
    fn an_error_at_one_port_says_nothing_of_tries_at_others() {
        let mut run = Run::new(vec![tier(&[1])]);
        run.until(30, &[]);
        assert_eq!(run.log, [(0, 1), (20, 1)]);
        run.plan.failed(0, TryFailure::Unreachable);
        run.until(400, &[]);
        assert_eq!(run.log[2..], [(60, 1), (140, 1), (300, 1)]);
        // A server that declined is not asked again, even while another try there waits.
        run.plan.failed(1, TryFailure::Declined);
        run.until(4000, &[]);
        assert_eq!(run.log.len(), 5);
    }

    #[test]
    fn who_is_waited_for_is_asked_ever_more_seldom_until_it_is_back() {
        let mut run = Run::new(vec![tier(&[1])]);
        unreachable_at_once(&mut run);
        run.suspected = vec![1];
        let until = run.start + 3000 * MS;
        assert!(run.plan.wait_for_return(1, until, run.now));
        while run.now < run.start + 2000 * MS {
            match run.step() {
                Step::Try { number, .. } => {
                    run.log.push(((run.now - run.start).as_millis(), 1));
                    run.plan.failed(number, TryFailure::Unreachable);
                }
                Step::Wait(at) => run.now = at,
                step => panic!("{step:?}"),
            }
        }
        let asked: Vec<u128> = run.log.drain(..).map(|(at, _)| at).collect();
        assert_eq!(asked, [60, 120, 220, 420, 820, 1220, 1620]);
        // Another query got an answer from the server.
        run.suspected.clear();
        run.until(2010, &[]);
        assert_eq!(run.log.len(), 1, "{:?}", run.log);
        run.suspected = vec![1];
        run.replacements = 0;
        assert_eq!(run.until(4000, &[]), Some(Step::Exhausted));
        assert_eq!(run.now, until);
        assert!(!run.plan.wait_for_return(1, until + MS, run.now), "once");
    }

    #[test]
    fn who_declines_is_not_waited_for_any_longer() {
        let mut run = Run::new(vec![tier(&[1])]);
        unreachable_at_once(&mut run);
        assert!(run.plan.wait_for_return(1, run.start + 3000 * MS, run.now));
        assert_eq!(run.until(3000, &[1]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1)]);
    }

    #[test]
    fn a_server_that_declines_after_an_error_at_another_port_is_not_asked_again() {
        let mut run = Run::new(vec![tier(&[1])]);
        run.until(25, &[]);
        run.plan.failed(1, TryFailure::Unreachable);
        run.plan.failed(0, TryFailure::Declined);
        assert_eq!(run.until(1000, &[]), Some(Step::Exhausted));
        assert_eq!(run.log, [(0, 1), (20, 1)]);
    }

    #[test]
    fn a_server_that_is_asked_again_after_an_error_has_its_hedge_delay() {
        let mut run = Run::new(vec![tier(&[1])]);
        run.until(0, &[]);
        run.now += 20 * MS;
        run.plan.failed(0, TryFailure::Unreachable);
        run.until(50, &[]);
        assert_eq!(run.log, [(0, 1), (20, 1), (40, 1)]);
    }

    #[test]
    fn a_server_that_may_come_back_is_not_asked_twice_at_once() {
        let mut run = Run::new(vec![tier(&[1])]);
        run.until(25, &[]);
        assert_eq!(run.log, [(0, 1), (20, 1)]);
        let until = run.start + 3000 * MS;
        assert!(run.plan.wait_for_return(1, until, run.now));
        run.until(50, &[]);
        assert_eq!(run.log[2..], [(40, 1)]);
    }

    #[test]
    fn a_last_resort_may_wait_for_a_return_until_the_deadline() {
        let start = Instant::now();
        let plan = Plan::last_resort(tier(&[1]).candidates, start, start + 4000 * MS);
        let mut run = Run {
            plan,
            ..Run::new(vec![])
        };
        (run.start, run.now) = (start, start);
        assert_eq!(unreachable_at_once(&mut run), 1, "one try");
        assert!(!run.plan.wait_for_return(2, start + 9000 * MS, start));
        assert!(run.plan.wait_for_return(1, start + 9000 * MS, start));
        run.suspected = vec![1];
        assert_eq!(run.until(5000, &[]), Some(Step::Exhausted));
        assert_eq!(run.now - start, 4000 * MS);
    }

    #[test]
    fn unknown_servers_are_asked_together() {
        let mut run = Run::new(vec![Tier {
            at_once: 3,
            ..tier(&[1, 2, 3, 4])
        }]);
        run.until(10, &[]);
        assert_eq!(run.log, [(0, 1), (0, 2), (0, 3)]);
    }

    proptest::proptest! {
        #[test]
        fn every_query_ends_before_its_deadline(
            tiers in proptest::collection::vec(1_usize..4, 1..4),
            not_me in proptest::collection::vec(0_usize..9, 0..9),
            unreachable in proptest::collection::vec(0_usize..9, 0..4),
            hedges in 0_u32..5,
            replacements in 0_u32..5,
        ) {
            let mut next = 0;
            let tiers: Vec<Tier> = tiers.iter().map(|&size| {
                let servers: Vec<usize> = (next..next + size).collect();
                next += size;
                tier(&servers)
            }).collect();
            let mut run = Run::new(tiers);
            (run.hedges, run.replacements) = (hedges, replacements);
            let end = run.start + 4000 * MS;
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < 2000, "it spins");
                match run.step() {
                    Step::Try { number, server, .. } => {
                        assert!(run.now < end);
                        if unreachable.contains(&server) {
                            run.plan.failed(number, TryFailure::Unreachable);
                        } else if not_me.contains(&server) {
                            run.plan.failed(number, TryFailure::Declined);
                        }
                    }
                    Step::Overdue(_) => {}
                    Step::Wait(at) => {
                        assert!(at > run.now && at <= end);
                        run.now = at;
                    }
                    Step::Exhausted => break,
                }
            }
        }
    }
}
