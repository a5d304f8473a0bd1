//! When questions that were answered lately had been asked upstream, whether or not their answers are still kept.
//!
//! Two workers may ask the same at the same time, and the one who asked first may hear last: what it hears may be what has been
//! replaced since. The newer answer may have been evicted, or may not have been kept at all, and so cannot tell.
//!
//! Owns a table of fixed size without locks. A question takes another's place: then the newer answer itself has to tell, and
//! where that is not kept, nothing protects it for the seconds that a question may take.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budgets::LAST_ASKED;

/// Bits of a slot that tell questions apart; the others are milliseconds, enough for 34 years.
const TAG_BITS: u32 = 24;

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
    /// Where it stands, and its tag there.
    fn place(self) -> (usize, u64) {
        let who = u64::from(self.route.unwrap_or(u16::MAX)) << 8 | u64::from(self.tier);
        let tag = (self.hash >> 32 ^ who.wrapping_mul(0x9e37_79b9)) & ((1 << TAG_BITS) - 1);
        let slot = usize::try_from(self.hash).unwrap_or(usize::MAX) % LAST_ASKED;
        (slot, tag)
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
        let (slot, tag) = asked.place();
        let found = self.slots[slot].load(Ordering::Relaxed);
        let is_same = found != 0 && found & ((1 << TAG_BITS) - 1) == tag;
        let started = self.started.get().filter(|_| is_same)?;
        Some(*started + Duration::from_millis(found >> TAG_BITS))
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
        let this = started + Duration::from_millis(milliseconds);
        let (slot, tag) = asked.place();
        let is_outdated = match self.get(asked) {
            Some(later) => this < later,
            None if self.slots[slot].load(Ordering::Relaxed) == 0 => false,
            None => kept().is_some_and(|later| at < later),
        };
        if is_outdated {
            return true;
        }
        self.slots[slot].store(milliseconds << TAG_BITS | tag, Ordering::Relaxed);
        false
    }
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
