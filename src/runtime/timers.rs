//! Which waker is woken at which time. Pure: the current time is an argument.
//!
//! Most timers are removed long before their time, because the answer came. Removal does not search the heap: the timer's entry
//! stays there as a *leftover*. A leftover is dropped when it reaches the top of the heap, or when there are more leftovers
//! than timers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;
use std::time::Instant;

use slab::Slab;

/// Leftovers are cleared out when there are this many more of them than timers.
const LEFTOVERS: usize = 64;

/// Identifies a timer. Its owner must remove the timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey(usize);

/// All timers.
#[derive(Debug, Default)]
pub struct Timers {
    waiting: Slab<Timer>,
    /// A heap by time. An entry is a leftover unless `waiting` holds a timer with its key and time that has not been woken.
    order: BinaryHeap<Reverse<(Instant, TimerKey)>>,
}

#[derive(Debug)]
struct Timer {
    at: Instant,
    /// None after it was woken.
    waker: Option<Waker>,
}

impl Timers {
    /// Adds a timer, which wakes `waker` at `at` or soon after.
    pub fn insert(&mut self, at: Instant, waker: &Waker) -> TimerKey {
        let waker = Some(waker.clone());
        let key = TimerKey(self.waiting.insert(Timer { at, waker }));
        self.order.push(Reverse((at, key)));
        key
    }

    /// Removes a timer, woken or not.
    pub fn remove(&mut self, key: TimerKey) {
        self.waiting.remove(key.0);
        if self.order.len() > 2 * self.waiting.len() + LEFTOVERS {
            let waiting = &self.waiting;
            self.order
                .retain(|Reverse((at, key))| is_waiting(waiting, *at, *key));
        }
    }

    /// Whether the timer's waker was woken. If not, `waker` replaces it.
    pub fn was_woken(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match &mut self.waiting[key.0].waker {
            None => true,
            Some(known) => {
                known.clone_from(waker);
                false
            }
        }
    }

    /// The earliest time at which a waker is due.
    pub fn earliest(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, key))) = self.order.peek() {
            if is_waiting(&self.waiting, at, key) {
                return Some(at);
            }
            self.order.pop();
        }
        None
    }

    /// Wakes all wakers that are due at `now`.
    pub fn wake_due(&mut self, now: Instant) {
        while self.earliest().is_some_and(|at| at <= now) {
            let due = self.order.pop();
            let timer = due.and_then(|Reverse((_, key))| self.waiting.get_mut(key.0));
            if let Some(waker) = timer.and_then(|timer| timer.waker.take()) {
                waker.wake();
            }
        }
    }
}

fn is_waiting(waiting: &Slab<Timer>, at: Instant, key: TimerKey) -> bool {
    waiting
        .get(key.0)
        .is_some_and(|timer| timer.at == at && timer.waker.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Counts wakes.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Woken {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Woken>, Waker) {
        let woken = Arc::<Woken>::default();
        (Arc::clone(&woken), woken.into())
    }

    #[test]
    fn timers_wake_once_at_their_time_and_removed_ones_never() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let (late, late_waker) = waker();
        let (gone, gone_waker) = waker();
        let (early, early_waker) = waker();
        let late_key = timers.insert(start + 30 * MS, &late_waker);
        let gone_key = timers.insert(start + 10 * MS, &gone_waker);
        let early_key = timers.insert(start + 20 * MS, &early_waker);
        assert_eq!(timers.earliest(), Some(start + 10 * MS));
        timers.remove(gone_key);
        assert_eq!(timers.earliest(), Some(start + 20 * MS));

        timers.wake_due(start + 19 * MS);
        assert!(!timers.was_woken(early_key, &early_waker));
        timers.wake_due(start + 20 * MS);
        timers.wake_due(start + 20 * MS);
        assert!(timers.was_woken(early_key, &early_waker));
        assert_eq!(timers.earliest(), Some(start + 30 * MS));
        timers.remove(early_key);
        timers.wake_due(start + 31 * MS);
        assert!(timers.was_woken(late_key, &late_waker));
        timers.remove(late_key);
        assert_eq!(timers.earliest(), None);
        assert_eq!((early.count(), gone.count(), late.count()), (1, 0, 1));
    }

    #[test]
    fn a_reused_key_has_the_time_of_its_new_timer() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let (first, first_waker) = waker();
        let (second, second_waker) = waker();
        let key = timers.insert(start + 10 * MS, &first_waker);
        timers.remove(key);
        let again = timers.insert(start + 20 * MS, &second_waker);
        assert_eq!(key, again, "the key is used again");
        timers.wake_due(start + 10 * MS);
        assert!(!timers.was_woken(again, &second_waker));
        timers.wake_due(start + 20 * MS);
        assert!(timers.was_woken(again, &second_waker));
        assert_eq!((first.count(), second.count()), (0, 1));
    }

    #[test]
    fn only_the_last_waker_of_a_timer_is_woken() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let (first, first_waker) = waker();
        let (second, second_waker) = waker();
        let key = timers.insert(start, &first_waker);
        assert!(!timers.was_woken(key, &second_waker));
        timers.wake_due(start);
        assert_eq!((first.count(), second.count()), (0, 1));
    }

    #[test]
    fn removed_timers_do_not_pile_up_in_the_heap() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let (_, waker) = waker();
        let lasting = timers.insert(start + 1_000 * MS, &waker);
        for step in 0..10_000 {
            let key = timers.insert(start + step * MS / 100 + 20 * MS, &waker);
            timers.remove(key);
            assert!(
                timers.order.len() <= 2 + LEFTOVERS,
                "{}",
                timers.order.len()
            );
        }
        assert_eq!(timers.earliest(), Some(start + 1_000 * MS));
        timers.remove(lasting);
    }
}
