//! Limits how many queries a group is sent beyond one for each question: hedges, resends, and moves to another server.
//!
//! Without a limit, we would answer loss that all servers share (a full link, a limit on packets a second) with more
//! queries, which make the loss worse. If one server among good ones is sick, there is no limit: a reliable server's answer
//! to an extra query gives the token back. A few extra queries a second are always allowed. They fill no link, and without
//! them a client that asks little over a lossy path would get no answer. Pure: `now` is an argument.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budgets::{EXTRA_QUERIES_PER_SECOND, EXTRA_QUERIES_PERCENT, FEW_QUESTIONS};

/// One token, in hundredths of a token, the unit in which questions pay in.
const TOKEN: i64 = 100;
/// Tokens that may be saved up however few questions are asked, so that the first questions after a failure need not wait.
const BURST: i64 = 50;
/// Tokens that a group of several servers keeps for a question's first query to another server. Otherwise questions that ask
/// the same servers again and again would leave no token to a question that was not sent to the working server yet.
const RESERVED: i64 = 10;

/// The reason for a further query for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// A try is overdue, and may still be answered in time.
    Hedge,
    /// No earlier try is worth waiting for: all are lost, or were sent to servers found silent.
    Replacement,
    /// As [`Extra::Replacement`], for a server that was not asked this question yet.
    AnotherServer,
}

/// Tokens for extra queries. Every question pays in. While few questions are asked, time pays in, too. Each extra query
/// takes a token, and a hedge takes a further one of the hedges' own.
#[derive(Debug)]
pub struct ExtraQueries {
    started: Instant,
    all: Tokens,
    hedges: Tokens,
    hedge_percent: i64,
    /// Tokens that are kept for [`Extra::AnotherServer`].
    reserved: i64,
    rate: Rate,
    /// Hundredths of a second since `started` for which time has paid in.
    paid_until: AtomicU64,
}

impl ExtraQueries {
    /// The tokens of a group of `servers` servers. Each question pays in `hedge_percent` hundredths of a token for hedges.
    #[must_use]
    pub fn new(hedge_percent: u32, servers: usize, now: Instant) -> Self {
        Self {
            started: now,
            all: Tokens::new(),
            hedges: Tokens::new(),
            hedge_percent: i64::from(hedge_percent),
            reserved: reserved(servers),
            rate: Rate::default(),
            paid_until: AtomicU64::new(0),
        }
    }

    /// Whether they suit a group with these settings, too.
    #[must_use]
    pub fn suits(&self, hedge_percent: u32, servers: usize) -> bool {
        self.hedge_percent == i64::from(hedge_percent) && self.reserved == reserved(servers)
    }

    /// A question pays in. What the questions of a second pay can be saved up: when a server fails, each of its queries in
    /// flight needs a token, and their number grows with the rate of questions.
    pub fn pay_in(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        self.time_pays_in(since);
        let questions = i64::try_from(self.rate.count(since.as_secs())).unwrap_or(i64::MAX / TOKEN);
        let percent = EXTRA_QUERIES_PERCENT;
        self.all
            .pay_in(percent, (questions * percent).max(BURST * TOKEN));
        self.hedges.pay_in(self.hedge_percent, BURST * TOKEN);
    }

    /// Time pays in. `since` is the time since the start.
    fn time_pays_in(&self, since: Duration) {
        // In steps of 10 ms, in which time pays whole hundredths of a token.
        let now = since.as_secs() * 100 + u64::from(since.subsec_millis() / 10);
        let before = self.paid_until.fetch_max(now, Ordering::Relaxed);
        // Time pays in for at most a second.
        let passed = i64::try_from(now.saturating_sub(before).min(100)).expect("at most 100");
        if passed > 0 && self.rate.recent(since.as_secs()) < FEW_QUESTIONS {
            self.all.time_pays_in(passed);
            self.hedges.time_pays_in(passed);
        }
    }

    /// Takes the tokens of an extra query. Returns false if there are none.
    #[must_use]
    pub fn take(&self, extra: Extra, now: Instant) -> bool {
        self.time_pays_in(now.saturating_duration_since(self.started));
        match extra {
            Extra::AnotherServer => self.all.take(0),
            Extra::Replacement => self.all.take(self.reserved),
            Extra::Hedge if self.hedge_percent == 0 || !self.hedges.take(0) => false,
            Extra::Hedge => {
                let both = self.all.take(self.reserved);
                if !both {
                    self.hedges.give_back();
                }
                both
            }
        }
    }

    /// A hedge was answered first, so it was needed. Its token of the hedges' own is given back.
    pub fn hedge_won(&self) {
        self.hedges.give_back();
    }

    /// An extra query was answered by a server that answers nearly all tries. So loss is not general, and the token is given
    /// back.
    pub fn answered_by_a_reliable_server(&self) {
        self.all.give_back();
    }
}

fn reserved(servers: usize) -> i64 {
    if servers > 1 { RESERVED } else { 0 }
}

/// A store of tokens. Races between workers may lose or add a few hundredths of a token, which does not matter.
#[derive(Debug)]
struct Tokens {
    saved: AtomicI64,
    /// How much more questions have paid than time would have, for a second at most. Time adds only what it would pay beyond
    /// that.
    ahead: AtomicI64,
}

impl Tokens {
    fn new() -> Self {
        Self {
            saved: AtomicI64::new(BURST * TOKEN),
            ahead: AtomicI64::new(0),
        }
    }

    fn pay_in(&self, percent: i64, most: i64) {
        let ahead = self.ahead.load(Ordering::Relaxed) + percent;
        let second = EXTRA_QUERIES_PER_SECOND * TOKEN;
        self.ahead.store(ahead.min(second), Ordering::Relaxed);
        let saved = self.saved.load(Ordering::Relaxed);
        if saved + percent <= most {
            self.saved.fetch_add(percent, Ordering::Relaxed);
        } else if saved > most {
            self.saved.store(most, Ordering::Relaxed);
        }
    }

    fn time_pays_in(&self, hundredths: i64) {
        let percent = hundredths * EXTRA_QUERIES_PER_SECOND * TOKEN / 100;
        let ahead = self.ahead.load(Ordering::Relaxed);
        self.ahead
            .store((ahead - percent).max(0), Ordering::Relaxed);
        let room = BURST * TOKEN - self.saved.load(Ordering::Relaxed);
        let added = (percent - ahead).min(room);
        if added > 0 {
            self.saved.fetch_add(added, Ordering::Relaxed);
        }
    }

    /// Takes a token, if at least `left` tokens remain.
    fn take(&self, left: i64) -> bool {
        if self.saved.load(Ordering::Relaxed) < (left + 1) * TOKEN {
            return false;
        }
        self.saved.fetch_sub(TOKEN, Ordering::Relaxed);
        true
    }

    fn give_back(&self) {
        self.saved.fetch_add(TOKEN, Ordering::Relaxed);
    }
}

/// Counts questions in this second and in the last one.
#[derive(Debug, Default)]
struct Rate {
    second: AtomicU64,
    counted: AtomicU64,
    last: AtomicU64,
}

impl Rate {
    /// Counts a question. Returns the number in the last second, or in this one if that is larger.
    fn count(&self, second: u64) -> u64 {
        let known = self.second.swap(second, Ordering::Relaxed);
        if known != second {
            let counted = self.counted.swap(0, Ordering::Relaxed);
            let last = if known + 1 == second { counted } else { 0 };
            self.last.store(last, Ordering::Relaxed);
        }
        self.counted.fetch_add(1, Ordering::Relaxed);
        self.recent(second)
    }

    /// As `count`, without counting a question.
    fn recent(&self, second: u64) -> u64 {
        let counted = self.counted.load(Ordering::Relaxed);
        match second.saturating_sub(self.second.load(Ordering::Relaxed)) {
            0 => counted.max(self.last.load(Ordering::Relaxed)),
            1 => counted,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes all tokens, and returns how many there were.
    fn take_all(budget: &ExtraQueries, extra: Extra, now: Instant) -> i64 {
        let mut taken = 0;
        while budget.take(extra, now) {
            taken += 1;
        }
        taken
    }

    /// Asks `per_second` questions a second, for a second and then for `seconds` more. Each takes as many extra queries as
    /// it gets. Returns the extra queries of a second, without those of the first one, when the rate is not known yet.
    fn extra_a_second(per_second: u32, seconds: u32, extra: Extra) -> i64 {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, 2, start);
        take_all(&budget, Extra::AnotherServer, start);
        let mut taken = 0;
        for number in 0..per_second * (seconds + 1) {
            let now = start + Duration::from_secs(1) * number / per_second;
            budget.pay_in(now);
            let more = take_all(&budget, extra, now);
            taken += if number < per_second { 0 } else { more };
        }
        taken / i64::from(seconds)
    }

    #[test]
    fn what_a_question_may_cost_is_the_same_at_every_rate_that_matters_to_a_link() {
        for per_second in [50, 200, 20_000] {
            let extra = extra_a_second(per_second, 10, Extra::Replacement);
            let most = i64::from(per_second) * EXTRA_QUERIES_PERCENT / 100;
            assert!(
                (most - 1..=most).contains(&extra),
                "{extra} a second at {per_second}"
            );
        }
    }

    #[test]
    fn a_few_extra_queries_a_second_are_there_however_little_is_asked() {
        let most = EXTRA_QUERIES_PER_SECOND;
        for kind in [Extra::AnotherServer, Extra::Replacement, Extra::Hedge] {
            for per_second in [1, 5, 20, 39] {
                let extra = extra_a_second(per_second, 20, kind);
                assert!(
                    (most - 2..=most).contains(&extra),
                    "{extra} a second at {per_second}"
                );
            }
        }
    }

    #[test]
    fn a_question_that_nobody_follows_gets_its_extra_queries() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, 2, start);
        budget.pay_in(start);
        take_all(&budget, Extra::AnotherServer, start);
        let later = start + Duration::from_secs(1);
        let taken = take_all(&budget, Extra::AnotherServer, later);
        assert_eq!(
            taken,
            EXTRA_QUERIES_PER_SECOND - 1,
            "it paid for a part of one itself"
        );
    }

    /// A burst of questions has used all tokens, and nobody asks any more: a reload, or a job that waits for its answers.
    #[test]
    fn many_questions_that_nobody_follows_get_theirs_too() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, 2, start);
        for _ in 0..100 {
            budget.pay_in(start);
        }
        take_all(&budget, Extra::AnotherServer, start);
        let at = |tenths| start + Duration::from_millis(100) * tenths;
        let taken: i64 = (10..40)
            .map(|tenths| take_all(&budget, Extra::AnotherServer, at(tenths)))
            .sum();
        // From the second after the burst on, and not for what the questions have paid themselves.
        let paid = 100 * EXTRA_QUERIES_PERCENT / 100;
        let two_seconds = 2 * EXTRA_QUERIES_PER_SECOND;
        assert!(
            (two_seconds - paid..=two_seconds).contains(&taken),
            "{taken} in three seconds"
        );
    }

    #[test]
    fn hedges_have_a_share_of_their_own() {
        // Among them are the 50 that are saved up.
        let extra = extra_a_second(1000, 10, Extra::Hedge);
        assert!((100..=105).contains(&extra), "{extra} a second");
    }

    #[test]
    fn those_who_ask_again_leave_some_to_those_who_ask_another_server() {
        for again in [Extra::Replacement, Extra::Hedge] {
            let start = Instant::now();
            for (servers, left) in [(1, 0), (2, RESERVED)] {
                let budget = ExtraQueries::new(100, servers, start);
                let taken = take_all(&budget, again, start);
                assert_eq!(taken, BURST - left, "{again:?}");
                let taken = take_all(&budget, Extra::AnotherServer, start);
                assert_eq!(taken, left, "{again:?}");
            }
        }
    }

    #[test]
    fn a_second_of_questions_saves_up_for_a_failure() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, 2, start);
        for number in 0..10_000_u32 {
            budget.pay_in(start + Duration::from_secs(1) * number / 1000);
        }
        let saved = take_all(
            &budget,
            Extra::AnotherServer,
            start + Duration::from_secs(10),
        );
        let second = 1000 * EXTRA_QUERIES_PERCENT / 100;
        assert!((second - 1..=second).contains(&saved), "{saved}");
    }

    #[test]
    fn after_a_quiet_time_no_more_is_saved_than_the_burst() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, 2, start);
        for number in 0..10_000_u32 {
            budget.pay_in(start + Duration::from_secs(1) * number / 1000);
        }
        let later = start + Duration::from_mins(1);
        budget.pay_in(later);
        let saved = take_all(&budget, Extra::AnotherServer, later);
        assert_eq!(saved, BURST);
    }
}
