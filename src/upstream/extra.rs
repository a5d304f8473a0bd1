//! How many queries a group may be sent beyond one for each question: hedges, resends, and moves to another server.
//!
//! Without a limit, loss that all servers share (a full link, a limit on packets a second) makes us send more, and what we
//! send makes the loss worse. One sick server among good ones costs as much as it takes. Pure: `now` is an argument.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::budgets::EXTRA_QUERIES_PERCENT;

/// A token in the units in which questions pay in: percents.
const TOKEN: i64 = 100;
/// Tokens that may be saved up at any rate, so that the first questions a failure meets need not wait.
const BURST: i64 = 50;

/// What a further query for a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// An earlier one may still be answered in time.
    Hedge,
    /// No earlier one is waited for: all are lost, or went to servers found silent.
    Replacement,
}

/// Tokens for extra queries. Every question pays in; each extra query takes one, and a hedge one of the hedges' own too.
#[derive(Debug)]
pub struct ExtraQueries {
    started: Instant,
    all: Tokens,
    hedges: Tokens,
    hedge_percent: i64,
    rate: Rate,
}

impl ExtraQueries {
    /// `hedge_percent` hundredths of a token for hedges are paid in by each question.
    #[must_use]
    pub fn new(hedge_percent: u32, now: Instant) -> Self {
        Self {
            started: now,
            all: Tokens::new(),
            hedges: Tokens::new(),
            hedge_percent: i64::from(hedge_percent),
            rate: Rate::default(),
        }
    }

    /// A question pays in. A second's worth can be saved up: a server's failure costs its queries in flight, and those are
    /// the more, the more is asked.
    pub fn pay_in(&self, now: Instant) {
        let second = now.saturating_duration_since(self.started).as_secs();
        let questions = i64::try_from(self.rate.count(second)).unwrap_or(i64::MAX / TOKEN);
        let percent = EXTRA_QUERIES_PERCENT;
        self.all
            .pay_in(percent, (questions * percent).max(BURST * TOKEN));
        self.hedges.pay_in(self.hedge_percent, BURST * TOKEN);
    }

    /// Takes what an extra query costs, if it is there.
    #[must_use]
    pub fn take(&self, extra: Extra) -> bool {
        match extra {
            Extra::Replacement => self.all.take(),
            Extra::Hedge if self.hedge_percent == 0 || !self.hedges.take() => false,
            Extra::Hedge => {
                let both = self.all.take();
                if !both {
                    self.hedges.give_back();
                }
                both
            }
        }
    }

    /// A hedge answered first: it was needed, and is not counted against the hedges' own share.
    pub fn hedge_won(&self) {
        self.hedges.give_back();
    }

    /// An extra query was answered by a server that answers nearly all it is sent: loss is not general.
    pub fn answered_by_a_reliable_server(&self) {
        self.all.give_back();
    }
}

/// Races between workers cost or give a few hundredths of a token, which is of no account.
#[derive(Debug)]
struct Tokens(AtomicI64);

impl Tokens {
    fn new() -> Self {
        Self(AtomicI64::new(BURST * TOKEN))
    }

    fn pay_in(&self, percent: i64, most: i64) {
        let tokens = self.0.load(Ordering::Relaxed);
        if tokens + percent <= most {
            self.0.fetch_add(percent, Ordering::Relaxed);
        } else if tokens > most {
            self.0.store(most, Ordering::Relaxed);
        }
    }

    fn take(&self) -> bool {
        if self.0.load(Ordering::Relaxed) < TOKEN {
            return false;
        }
        self.0.fetch_sub(TOKEN, Ordering::Relaxed);
        true
    }

    fn give_back(&self) {
        self.0.fetch_add(TOKEN, Ordering::Relaxed);
    }
}

/// Questions in the last whole second.
#[derive(Debug, Default)]
struct Rate {
    second: AtomicU64,
    counted: AtomicU64,
    last: AtomicU64,
}

impl Rate {
    /// Counts one, and returns how many the last second had, or this one so far.
    fn count(&self, second: u64) -> u64 {
        let known = self.second.swap(second, Ordering::Relaxed);
        if known != second {
            let counted = self.counted.swap(0, Ordering::Relaxed);
            let last = if known + 1 == second { counted } else { 0 };
            self.last.store(last, Ordering::Relaxed);
        }
        let counted = self.counted.fetch_add(1, Ordering::Relaxed) + 1;
        counted.max(self.last.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Asks `per_second` questions for so many seconds, each of which takes as many extra queries as it gets, up to 3.
    /// Returns the extra queries in percent of the questions, without what is saved up at first.
    fn percent(per_second: u32, seconds: u32, extra: Extra) -> u32 {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, start);
        while budget.take(Extra::Replacement) {}
        let mut taken = 0;
        for number in 0..per_second * seconds {
            budget.pay_in(start + Duration::from_secs(1) * number / per_second);
            taken += u32::try_from((0..3).filter(|_| budget.take(extra)).count()).expect("few");
        }
        taken * 100 / (per_second * seconds)
    }

    #[test]
    fn what_a_question_may_cost_is_the_same_at_every_rate() {
        let most = u32::try_from(EXTRA_QUERIES_PERCENT).expect("a percentage");
        for per_second in [5, 200, 20_000] {
            let percent = percent(per_second, 10, Extra::Replacement);
            assert!(
                (most - 1..=most).contains(&percent),
                "{percent} % at {per_second}"
            );
        }
    }

    #[test]
    fn hedges_have_a_share_of_their_own() {
        let percent = percent(1000, 10, Extra::Hedge);
        assert!((10..=11).contains(&percent), "{percent} %");
    }

    #[test]
    fn a_second_of_questions_saves_up_for_a_failure() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, start);
        for number in 0..10_000_u32 {
            budget.pay_in(start + Duration::from_secs(1) * number / 1000);
        }
        let mut saved = 0;
        while budget.take(Extra::Replacement) {
            saved += 1;
        }
        let second = 1000 * EXTRA_QUERIES_PERCENT / 100;
        assert!((second - 1..=second).contains(&saved), "{saved}");
    }

    #[test]
    fn after_a_quiet_time_no_more_is_saved_than_the_burst() {
        let start = Instant::now();
        let budget = ExtraQueries::new(10, start);
        for number in 0..10_000_u32 {
            budget.pay_in(start + Duration::from_secs(1) * number / 1000);
        }
        budget.pay_in(start + Duration::from_mins(1));
        let mut saved = 0;
        while budget.take(Extra::Replacement) {
            saved += 1;
        }
        assert_eq!(saved, BURST);
    }
}
