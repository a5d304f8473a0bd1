//! For each question answered recently: when its answer had been asked for upstream. Known even if the answer itself is no longer
//! in the cache.
//!
//! Why: two workers may ask the same question at the same time. The worker that asked first may get its answer last, and that
//! answer may be outdated by then. It must not replace the newer answer. The newer answer's entry cannot prevent that by itself,
//! because it may have been evicted or may have been uncacheable.
//!
//! Owns a table of fixed size without locks. When a set of slots is full, a new question takes the slot of the question that was
//! asked longest ago. For a question without a slot, the cached answer, if there is one, says when it was asked for. If there is
//! none, an older answer may be cached for as long as a question can take, which is some seconds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::NO_ROUTE;
use crate::budgets::LAST_ASKED;

/// Low bits of a slot, which identify its question. The high bits are milliseconds, enough for 34 years.
const TAG_BITS: u32 = 24;
const TAG: u64 = (1 << TAG_BITS) - 1;

/// Slots in a set: a question may be in any slot of its set. With one slot, 5 % of the questions would lose theirs within half a
/// second, at 500 answers a second.
const SLOTS_PER_SET: usize = 4;

/// An answer takes less than this: [`super::Entry::asked`] counts 65,535 ms at most. So no question was asked for longer before the
/// first answer. Times before the start of the table would all count as the same time.
const LONGEST_ANSWER: Duration = Duration::from_secs(66);

/// A question, and the tier of a route that is asked it. An answer never outdates that of another tier or route.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuestionAtTier {
    /// The question's hash.
    pub(super) hash: u64,
    /// The route.
    pub(super) route: Option<u16>,
    /// Its tier.
    pub(super) tier: u8,
}

impl QuestionAtTier {
    /// The first slot of its set, and its tag.
    fn first_slot_and_tag(self) -> (usize, u64) {
        let who = u64::from(self.route.unwrap_or(NO_ROUTE)) << 8 | u64::from(self.tier);
        let tag = (self.hash >> 32 ^ who.wrapping_mul(0x9e37_79b9)) & TAG;
        let set = usize::try_from(self.hash).unwrap_or(usize::MAX) % (LAST_ASKED / SLOTS_PER_SET);
        (set * SLOTS_PER_SET, tag)
    }
}

/// The table of questions.
#[derive(Debug)]
pub(super) struct LastAsked {
    /// [`LONGEST_ANSWER`] before the first answer's question, so that no time in the table is 0.
    started: OnceLock<Instant>,
    /// Each slot: milliseconds since `started` in the high bits, the tag in the low bits. 0: the slot is free.
    slots: Box<[AtomicU64]>,
}

impl LastAsked {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self {
            started: OnceLock::new(),
            slots: (0..LAST_ASKED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// When the newest answer to this question had been asked for, to the millisecond. None if the question has no slot.
    pub(super) fn get(&self, asked: QuestionAtTier) -> Option<Instant> {
        let (slots, tag) = self.slots_of(asked);
        let (_, found) = slot_with_tag(slots, tag)?;
        Some(*self.started.get()? + Duration::from_millis(found >> TAG_BITS))
    }

    /// The slots of a question's set, and its tag.
    fn slots_of(&self, asked: QuestionAtTier) -> (&[AtomicU64], u64) {
        let (first, tag) = asked.first_slot_and_tag();
        (&self.slots[first..first + SLOTS_PER_SET], tag)
    }

    /// Notes an answer that had been asked for at `at`, and returns whether it is outdated: whether an answer that was asked for
    /// later has come already. `kept` returns when the cached answer had been asked for; it is called only if the question
    /// has no slot.
    pub(super) fn is_outdated(
        &self,
        asked: QuestionAtTier,
        at: Instant,
        kept: impl FnOnce() -> Option<Instant>,
    ) -> bool {
        let started = *self
            .started
            .get_or_init(|| at.checked_sub(LONGEST_ANSWER).unwrap_or(at));
        let passed = at.saturating_duration_since(started).as_millis();
        let milliseconds = u64::try_from(passed).unwrap_or(u64::MAX) & (u64::MAX >> TAG_BITS);
        let (slots, tag) = self.slots_of(asked);
        let with_tag = slot_with_tag(slots, tag);
        // A free slot is 0, and so counts as the oldest.
        let oldest = || with_contents(slots).min_by_key(|(_, found)| *found);
        let Some((slot, found)) = with_tag.or_else(oldest) else {
            return false;
        };
        let is_outdated = if with_tag.is_some() {
            milliseconds < found >> TAG_BITS
        } else {
            found != 0 && kept().is_some_and(|later| at < later)
        };
        if !is_outdated {
            slot.store(milliseconds << TAG_BITS | tag, Ordering::Relaxed);
        }
        is_outdated
    }
}

/// Slots with their contents.
fn with_contents(slots: &[AtomicU64]) -> impl Iterator<Item = (&AtomicU64, u64)> {
    slots
        .iter()
        .map(|slot| (slot, slot.load(Ordering::Relaxed)))
}

/// The slot with this tag, and its contents.
fn slot_with_tag(slots: &[AtomicU64], tag: u64) -> Option<(&AtomicU64, u64)> {
    with_contents(slots).find(|(_, found)| *found != 0 && found & TAG == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: QuestionAtTier = QuestionAtTier {
        hash: 0x1234_5678_9abc_def0,
        route: Some(3),
        tier: 0,
    };

    #[test]
    fn an_answer_asked_for_earlier_is_outdated_by_one_asked_for_later() {
        let (table, start) = (LastAsked::new(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(table.get(QUESTION), None);
        assert!(!table.is_outdated(QUESTION, at(500), || None));
        assert_eq!(table.get(QUESTION), Some(at(500)));
        assert!(table.is_outdated(QUESTION, at(499), || None));
        assert!(table.is_outdated(QUESTION, at(0), || None));
        assert!(!table.is_outdated(QUESTION, at(500), || None));
        assert!(!table.is_outdated(QUESTION, at(501), || None));
    }

    /// The first answer of all may be to a question that was asked after others.
    #[test]
    fn questions_asked_before_the_first_answered_one_are_told_apart() {
        let (table, start) = (LastAsked::new(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let first = QuestionAtTier {
            hash: QUESTION.hash ^ 1 << 40,
            ..QUESTION
        };
        assert!(!table.is_outdated(first, at(500), || None));
        assert!(!table.is_outdated(QUESTION, at(200), || None));
        assert_eq!(table.get(QUESTION), Some(at(200)));
        assert!(table.is_outdated(QUESTION, at(100), || None));
    }

    #[test]
    fn an_answer_is_not_outdated_by_another_route_tier_or_question() {
        let (table, start) = (LastAsked::new(), Instant::now());
        let (early, late) = (
            start + Duration::from_millis(1),
            start + Duration::from_secs(1),
        );
        for other in [
            QuestionAtTier {
                route: Some(4),
                ..QUESTION
            },
            QuestionAtTier {
                tier: 1,
                ..QUESTION
            },
            QuestionAtTier {
                hash: QUESTION.hash ^ 1 << 40,
                ..QUESTION
            },
        ] {
            assert!(!table.is_outdated(other, late, || None));
            assert!(!table.is_outdated(QUESTION, early, || None), "{other:?}");
        }
    }
}
