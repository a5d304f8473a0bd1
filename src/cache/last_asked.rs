//! When questions that were answered lately had been asked upstream, whether or not their answers are still kept.
//!
//! Two workers may ask the same at the same time, and the one who asked first may hear last: what it hears may be what has been
//! replaced since. The newer answer may have been evicted, or may not have been kept at all, and so cannot tell.
//!
//! Owns a table of fixed size without locks. A question takes the place of one that was asked longest ago among a few: then the
//! newer answer itself has to tell, and where that is not kept, nothing protects it for the seconds that a question may take.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budgets::LAST_ASKED;

/// Bits of a slot that tell questions apart; the others are milliseconds, enough for 34 years.
const TAG_BITS: u32 = 24;
const TAG: u64 = (1 << TAG_BITS) - 1;

/// Places that a question may have. With one alone, every twentieth of the questions asked lately would be forgotten within half a
/// second at 500 answers a second.
const PLACES: usize = 4;

/// Who answers a question: another tier, or another route, does not outdate what this one says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// The question's hash.
    pub(super) hash: u64,
    /// The route.
    pub(super) route: Option<u16>,
    /// Its tier.
    pub(super) tier: u8,
}

impl Asked {
    /// The first of the places where it may stand, and its tag there.
    fn place(self) -> (usize, u64) {
        let who = u64::from(self.route.unwrap_or(u16::MAX)) << 8 | u64::from(self.tier);
        let tag = (self.hash >> 32 ^ who.wrapping_mul(0x9e37_79b9)) & TAG;
        let set = usize::try_from(self.hash).unwrap_or(usize::MAX) % (LAST_ASKED / PLACES);
        (set * PLACES, tag)
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct LastAsked {
    /// A millisecond before the first question.
    started: OnceLock<Instant>,
    /// Milliseconds since `started` in the high bits, the tag in the low ones; 0 for none.
    slots: Box<[AtomicU64]>,
}

impl LastAsked {
    /// Nothing was asked yet.
    pub(super) fn new() -> Self {
        Self {
            started: OnceLock::new(),
            slots: (0..LAST_ASKED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// When a question whose answer came lately had been asked, to the millisecond.
    pub(super) fn get(&self, asked: Asked) -> Option<Instant> {
        let (slots, tag) = self.places(asked);
        let (_, found) = own(slots, tag)?;
        Some(*self.started.get()? + Duration::from_millis(found >> TAG_BITS))
    }

    /// Where a question may stand, and its tag there.
    fn places(&self, asked: Asked) -> (&[AtomicU64], u64) {
        let (first, tag) = asked.place();
        (&self.slots[first..first + PLACES], tag)
    }

    /// Its answer came, and it had been asked at `at`. Returns whether the same question was asked later, and its answer came
    /// before. `kept` says when the answer that is kept had been asked for, if another question has taken this one's place.
    pub(super) fn is_outdated(
        &self,
        asked: Asked,
        at: Instant,
        kept: impl FnOnce() -> Option<Instant>,
    ) -> bool {
        let started = *self
            .started
            .get_or_init(|| at.checked_sub(Duration::from_millis(1)).unwrap_or(at));
        let passed = at.saturating_duration_since(started).as_millis();
        let milliseconds = u64::try_from(passed).unwrap_or(u64::MAX) & (u64::MAX >> TAG_BITS);
        let (slots, tag) = self.places(asked);
        let own = own(slots, tag);
        // A free one is the oldest of all.
        let oldest = || loaded(slots).min_by_key(|(_, found)| *found);
        let Some((slot, found)) = own.or_else(oldest) else {
            return false;
        };
        let is_outdated = if own.is_some() {
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

/// Slots, with what stands in each.
fn loaded(slots: &[AtomicU64]) -> impl Iterator<Item = (&AtomicU64, u64)> {
    slots
        .iter()
        .map(|slot| (slot, slot.load(Ordering::Relaxed)))
}

/// The slot that a question with this tag has, and what stands there.
fn own(slots: &[AtomicU64], tag: u64) -> Option<(&AtomicU64, u64)> {
    loaded(slots).find(|(_, found)| *found != 0 && found & TAG == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Asked = Asked {
        hash: 0x1234_5678_9abc_def0,
        route: Some(3),
        tier: 0,
    };

    #[test]
    fn what_was_asked_earlier_is_outdated_by_what_was_asked_later() {
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

    #[test]
    fn others_do_not_outdate_it() {
        let (table, start) = (LastAsked::new(), Instant::now());
        let (early, late) = (
            start + Duration::from_millis(1),
            start + Duration::from_secs(1),
        );
        for other in [
            Asked {
                route: Some(4),
                ..QUESTION
            },
            Asked {
                tier: 1,
                ..QUESTION
            },
            Asked {
                hash: QUESTION.hash ^ 1 << 40,
                ..QUESTION
            },
        ] {
            assert!(!table.is_outdated(other, late, || None));
            assert!(!table.is_outdated(QUESTION, early, || None), "{other:?}");
        }
    }
}
