//! For /status: the names with most queries, the names that clients waited for longest, and the clients with most queries.
//! Counted only if `status.top` says so, because names and clients are private data.
//!
//! Each worker has counts of its own, and publishes them four times a second. Counts cover the last 5 to 10 minutes, and are
//! bounded: see [`crate::metrics::space_saving`].

use std::cell::{Cell, RefCell};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::budgets::{TOP_COUNTED, TOP_SHOWN};
use crate::config::TopCounts;
use crate::message::wire;
use crate::metrics::space_saving::{Counted, SpaceSaving, Summary};

/// Length of a period of counting. The counts of the period before are shown, too.
const PERIOD: Duration = Duration::from_mins(5);

/// A name in wire format, lower-cased.
pub type WireName = Arc<[u8]>;

/// Counts of this period and of the one before.
#[derive(Debug)]
struct Counts<K> {
    current: SpaceSaving<K>,
    earlier: Summary<K>,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn new() -> Self {
        Self {
            current: SpaceSaving::new(TOP_COUNTED),
            earlier: Summary::default(),
        }
    }

    fn end_period(&mut self) {
        self.earlier = self.current.summary();
        self.current = SpaceSaving::new(TOP_COUNTED);
    }

    fn summary(&self) -> Summary<K> {
        Summary::merged([&self.earlier, &self.current.summary()])
    }
}

/// A worker's counts.
#[derive(Debug)]
pub(super) struct WorkerTop {
    what: TopCounts,
    asked: RefCell<Counts<WireName>>,
    waited: RefCell<Counts<WireName>>,
    clients: RefCell<Counts<IpAddr>>,
    /// When this period began, and when the one before began.
    began: Cell<[Instant; 2]>,
    published: Arc<Mutex<Option<Published>>>,
}

/// A worker's published counts.
#[derive(Debug)]
struct Published {
    asked: Summary<WireName>,
    waited: Summary<WireName>,
    clients: Summary<IpAddr>,
    since: Instant,
}

impl WorkerTop {
    /// A worker's counters of what `what` says, which are published on `board`. None if nothing is to be counted.
    pub(super) fn new(what: TopCounts, board: &TopBoard, now: Instant) -> Option<Self> {
        if what == TopCounts::Off {
            return None;
        }
        let published = Arc::default();
        board.add(&published);
        Some(Self {
            what,
            asked: RefCell::new(Counts::new()),
            waited: RefCell::new(Counts::new()),
            clients: RefCell::new(Counts::new()),
            began: Cell::new([now; 2]),
            published,
        })
    }

    /// What is counted.
    pub(super) fn what(&self) -> TopCounts {
        self.what
    }

    fn counts_names(&self) -> bool {
        matches!(self.what, TopCounts::Names | TopCounts::All)
    }

    /// Counts a client's query for a lower-cased wire name.
    #[inline(never)]
    pub(super) fn asked(&self, name: &[u8], client: IpAddr) {
        if self.counts_names() {
            self.asked.borrow_mut().current.add(name, 1, || name.into());
        }
        if matches!(self.what, TopCounts::Clients | TopCounts::All) {
            let mut clients = self.clients.borrow_mut();
            clients.current.add(&client, 1, || client);
        }
    }

    /// Adds the time that a client waited for the answer to a question.
    #[inline(never)]
    pub(super) fn waited(&self, section: &[u8], duration: Duration) {
        if !self.counts_names() {
            return;
        }
        let end = wire::skip_question_name(section, 0).unwrap_or(0);
        // Octets that are lengths of labels do not change, because they are below `A`.
        let name = section[..end].to_ascii_lowercase();
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut waited = self.waited.borrow_mut();
        waited.current.add(&name[..], micros, || name[..].into());
    }

    /// Publishes the counts. To be called a few times a second.
    pub(super) fn publish(&self, now: Instant) {
        let [began, _] = self.began.get();
        if now.saturating_duration_since(began) >= PERIOD {
            self.began.set([now, began]);
            self.asked.borrow_mut().end_period();
            self.waited.borrow_mut().end_period();
            self.clients.borrow_mut().end_period();
        }
        let published = Published {
            asked: self.asked.borrow().summary(),
            waited: self.waited.borrow().summary(),
            clients: self.clients.borrow().summary(),
            since: self.began.get()[1],
        };
        let mut place = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(published);
    }
}

/// The published counts of one worker.
type Place = Mutex<Option<Published>>;

/// The published counts of all workers.
#[derive(Debug, Default)]
pub struct TopBoard(Mutex<Vec<Weak<Place>>>);

/// The largest sums of all workers' counts, the largest first.
#[derive(Debug)]
pub struct Top {
    /// When counting began.
    pub since: Instant,
    /// Queries for each name.
    pub asked: Vec<Counted<WireName>>,
    /// Microseconds that clients waited for answers about each name, when the cache had none.
    pub waited: Vec<Counted<WireName>>,
    /// Queries of each client.
    pub clients: Vec<Counted<IpAddr>>,
}

impl TopBoard {
    fn add(&self, place: &Arc<Place>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| place.strong_count() > 0);
        places.push(Arc::downgrade(place));
    }

    /// Adds up the published counts. None if nothing is counted.
    #[must_use]
    pub fn read(&self) -> Option<Top> {
        let places: Vec<_> = {
            let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.iter().filter_map(Weak::upgrade).collect()
        };
        let locked: Vec<_> = places
            .iter()
            .map(|place| place.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let published: Vec<&Published> = locked.iter().filter_map(|place| place.as_ref()).collect();
        Some(Top {
            since: published.iter().map(|one| one.since).min()?,
            asked: heaviest(published.iter().map(|one| &one.asked)),
            waited: heaviest(published.iter().map(|one| &one.waited)),
            clients: heaviest(published.iter().map(|one| &one.clients)),
        })
    }
}

fn heaviest<'a, K: Clone + Eq + Hash + 'a>(
    summaries: impl Iterator<Item = &'a Summary<K>>,
) -> Vec<Counted<K>> {
    Summary::merged(summaries).heaviest(TOP_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_workers_are_added_up_and_forgotten_after_two_periods() {
        let (board, start) = (TopBoard::default(), Instant::now());
        assert!(WorkerTop::new(TopCounts::Off, &board, start).is_none());
        assert!(board.read().is_none());
        let worker = || WorkerTop::new(TopCounts::All, &board, start).expect("it counts");
        let workers = [worker(), worker()];
        let client = IpAddr::from([10, 0, 0, 1]);
        for worker in &workers {
            worker.asked(b"\x01a\0", client);
            worker.waited(b"\x01A\0\0\x01\0\x01", Duration::from_millis(3));
            worker.publish(start);
        }
        workers[0].asked(b"\x01b\0", client);
        workers[0].publish(start + PERIOD);
        let top = board.read().expect("they count");
        let asked: Vec<_> = top
            .asked
            .iter()
            .map(|one| (&one.key[..], one.count))
            .collect();
        assert_eq!(asked, [(&b"\x01a\0"[..], 2), (&b"\x01b\0"[..], 1)]);
        assert_eq!(top.waited[0].count, 6_000);
        assert_eq!((top.clients[0].key, top.clients[0].count), (client, 3));
        assert_eq!(top.since, start);

        workers[0].publish(start + 2 * PERIOD);
        let top = board.read().expect("they count");
        assert_eq!(top.asked.len(), 1, "the other worker's");
        drop(workers);
        assert!(board.read().is_none());
    }

    #[test]
    fn only_what_is_wanted_is_counted() {
        for (what, names, clients) in [(TopCounts::Names, 1, 0), (TopCounts::Clients, 0, 1)] {
            let (board, now) = (TopBoard::default(), Instant::now());
            let worker = WorkerTop::new(what, &board, now).expect("it counts");
            worker.asked(b"\x01a\0", IpAddr::from([10, 0, 0, 1]));
            worker.waited(b"\x01a\0\0\x01\0\x01", Duration::from_millis(3));
            worker.publish(now);
            let top = board.read().expect("it counts");
            let found = (top.asked.len(), top.waited.len(), top.clients.len());
            assert_eq!(found, (names, names, clients));
        }
    }
}
