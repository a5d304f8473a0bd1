//! The last failures in replies to clients, for /status: each question once, with the last reason and the number of replies.
//!
//! A worker collects its own failures, and adds them to the process's list four times a second.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::budgets::RECENT_FAILURES;
use crate::message::ede::ExtendedError;
use crate::message::wire;

/// All failures of one question with one response code.
#[derive(Debug, Clone)]
pub struct RecentFailure {
    /// QNAME in wire format, lower-cased.
    pub name: Box<[u8]>,
    /// QTYPE.
    pub qtype: u16,
    /// The route that failed. None if the question reached no route.
    pub route: Option<u16>,
    /// The response code that clients got.
    pub code: u16,
    /// Code of the last extended error.
    pub error: u16,
    /// Text of the last extended error.
    pub text: Box<str>,
    /// When the last reply was sent.
    pub last: Instant,
    /// Number of replies.
    pub count: u64,
}

/// The last failures of the process.
#[derive(Debug, Default)]
pub struct RecentFailures(Mutex<Vec<RecentFailure>>);

impl RecentFailures {
    /// All failures, the latest first.
    #[must_use]
    pub fn all(&self) -> Vec<RecentFailure> {
        let mut all = self.lock().clone();
        all.sort_by_key(|failure| std::cmp::Reverse(failure.last));
        all
    }

    /// Forgets all failures, because /status is to show them no longer.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RecentFailure>> {
        // A panic cannot leave the list in a broken state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's failures since the last flush.
#[derive(Debug)]
pub(super) struct WorkerFailures {
    own: RefCell<Vec<RecentFailure>>,
    all: Arc<RecentFailures>,
}

impl WorkerFailures {
    pub(super) fn new(all: &Arc<RecentFailures>) -> Self {
        Self {
            own: RefCell::default(),
            all: Arc::clone(all),
        }
    }

    /// Adds a failure: a client got `code` for the question in `section`.
    pub(super) fn add(
        &self,
        section: &[u8],
        route: Option<u16>,
        code: u16,
        error: &ExtendedError,
        now: Instant,
    ) {
        let name_end = wire::skip_question_name(section, 0).unwrap_or(0);
        let Some(qtype) = wire::u16_at(section, name_end) else {
            return;
        };
        let failure = RecentFailure {
            name: section[..name_end].to_ascii_lowercase().into(),
            qtype,
            route,
            code,
            error: error.code,
            text: error.text.as_str().into(),
            last: now,
            count: 1,
        };
        merge(&mut self.own.borrow_mut(), failure);
    }

    /// Moves the worker's failures to the process's list.
    pub(super) fn flush(&self) {
        let mut own = self.own.borrow_mut();
        if !own.is_empty() {
            let mut all = self.all.lock();
            for failure in own.drain(..) {
                merge(&mut all, failure);
            }
        }
    }
}

impl Drop for WorkerFailures {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Adds a failure to a list, which has at most [`RECENT_FAILURES`].
fn merge(list: &mut Vec<RecentFailure>, failure: RecentFailure) {
    let same = |known: &&mut RecentFailure| {
        (known.qtype, known.code) == (failure.qtype, failure.code) && known.name == failure.name
    };
    if let Some(known) = list.iter_mut().find(same) {
        let count = known.count + failure.count;
        if known.last <= failure.last {
            *known = failure;
        }
        known.count = count;
    } else if list.len() < RECENT_FAILURES {
        list.push(failure);
    } else if let Some(oldest) = list.iter_mut().min_by_key(|known| known.last)
        && oldest.last <= failure.last
    {
        *oldest = failure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::wire::{rcode, rr};
    use std::time::Duration;

    fn section(label: &str) -> Vec<u8> {
        let mut section = vec![u8::try_from(label.len()).expect("a label")];
        section.extend(label.as_bytes());
        section.extend([0, 0, 1, 0, 1]);
        section
    }

    #[test]
    fn equal_failures_of_all_workers_are_one_with_their_number_and_the_last_reason() {
        let (all, start) = (Arc::default(), Instant::now());
        let workers = [WorkerFailures::new(&all), WorkerFailures::new(&all)];
        for (worker, label, text, second) in [
            (0, "a", "first", 0),
            (1, "A", "last", 3),
            (0, "a", "second", 2),
            (0, "b", "other", 1),
        ] {
            let (error, now) = (
                ExtendedError::new(22, text),
                start + Duration::from_secs(second),
            );
            workers[worker].add(&section(label), Some(7), rcode::SERVFAIL, &error, now);
        }
        assert!(all.all().is_empty(), "not flushed yet");
        // The order of flushes must not matter.
        workers[1].flush();
        workers[0].flush();
        workers[0].flush();
        let shown: Vec<_> = all
            .all()
            .into_iter()
            .map(|failure| (failure.name, failure.qtype, failure.text, failure.count))
            .collect();
        let name = |letter| Box::from([1, letter, 0]);
        assert_eq!(
            shown,
            [
                (name(b'a'), rr::A, "last".into(), 3),
                (name(b'b'), rr::A, "other".into(), 1)
            ]
        );
    }

    #[test]
    fn the_failure_that_is_longest_ago_makes_room() {
        let (all, start) = (Arc::default(), Instant::now());
        let worker = WorkerFailures::new(&all);
        for number in 0..100_u64 {
            let now = start + Duration::from_secs(number);
            let error = ExtendedError::new(22, "");
            worker.add(&section(&number.to_string()), None, 2, &error, now);
        }
        worker.flush();
        let all = all.all();
        assert_eq!(all.len(), RECENT_FAILURES);
        assert_eq!(all[0].name[..], [2, b'9', b'9', 0]);
        assert_eq!(all[RECENT_FAILURES - 1].name[..], [2, b'6', b'8', 0]);
    }
}
