//! One answer: its message, its age, its weight.
//!
//! Owns how long an answer is fresh (RFC 2181 §8, RFC 2308 §5); `now` is an argument.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use triomphe::{HeaderWithLength, ThinArc};

use crate::config::CacheConfig;
use crate::message::query::Question;
use crate::message::response::{Facts, Kind, Response, View, sane_ttl};
use crate::message::wire;

/// Bytes an entry takes beside its block: the table's slots with their slack (about 65), an eighth of a ghost, and what
/// churn leaves unused. Measured as the resident memory that full caches of 64 MiB hold for each entry
/// (`tests/memory.rs`), less the entry's block.
const OVERHEAD: usize = 80;

/// Answers shorter-lived than this are not prefetched, in seconds: their last second is too much of their life.
const MIN_PREFETCH_LIFETIME: u32 = 5;

/// An answer with all that is known of it, in one block of memory; clones share it.
#[derive(Debug, Clone)]
pub struct Entry(ThinArc<Head, u8>);

/// What stands before the message. Every byte of it counts as often as there are answers.
#[derive(Debug)]
struct Head {
    stored: Instant,
    /// Seconds it is fresh.
    lifetime: u32,
    /// No TTL it serves is above this, in seconds.
    ttl_cap: u32,
    /// The route that answered, for metrics; none for what is answered here.
    route: Option<u16>,
    facts: Facts,
    /// Milliseconds from the query to the answer, up to what fits: `deadline` is a minute at most.
    took: u16,
    /// Which of the route's tiers answered.
    tier: u8,
    /// What its key says beside the question: the message holds the rest.
    bits: u8,
    /// Hits so far, up to the number that makes it popular.
    hits: AtomicU8,
    /// [`FETCHING`], or the [`second`] of its life in which it was last fetched anew before it expired, or neither.
    prefetch: AtomicU8,
}

/// It is being fetched anew.
const FETCHING: u8 = u8::MAX;

/// A number from 1 to 254 for this second of an answer's life: another one than for the seconds around it.
fn second(age: u32) -> u8 {
    (age % 254).to_le_bytes()[0] + 1
}

/// What the allocator sets aside for so many bytes. Its sizes are multiples of an eighth of the next power of two, and at
/// least 16 bytes apart.
fn block(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step)
}

/// Upper bounds that a route sets for its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Seconds a positive answer is kept.
    pub max_ttl: u32,
    /// Seconds a negative answer is kept.
    pub max_negative_ttl: u32,
    /// Seconds a negative answer of a tier other than the first is kept.
    pub later_max_negative_ttl: u32,
    /// TTLs of positive answers below this are raised to it, in seconds; see [`Response::raise_ttls`].
    pub min_ttl: u32,
    /// Seconds any answer is kept, whatever clients are told: 0 keeps nothing.
    pub max_lifetime: u32,
}

impl Bounds {
    /// None of them above this many seconds.
    #[must_use]
    pub fn at_most(self, seconds: u32) -> Self {
        Self {
            max_ttl: self.max_ttl.min(seconds),
            max_negative_ttl: self.max_negative_ttl.min(seconds),
            later_max_negative_ttl: self.later_max_negative_ttl.min(seconds),
            ..self
        }
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Index of the route that answered.
    pub route: u16,
    /// Which of its tiers did; 0 is the one it asks first.
    pub tier: usize,
    /// How long after the query the answer came.
    pub took: Duration,
}

impl Entry {
    /// An answer as it arrived at `stored` from `origin`.
    #[must_use]
    pub fn new(
        key: &[u8],
        response: &Response,
        stored: Instant,
        origin: Origin,
        bounds: Bounds,
    ) -> Self {
        Self::build(key, response, stored, Some(origin), bounds)
    }

    /// An answer given here, never stored; clients may keep it for so many seconds at most.
    #[must_use]
    pub fn local(response: &Response, now: Instant, seconds: u32) -> Self {
        let bounds = Bounds {
            max_ttl: seconds,
            max_negative_ttl: seconds,
            later_max_negative_ttl: seconds,
            min_ttl: 0,
            max_lifetime: u32::MAX,
        };
        Self::build(&[], response, now, None, bounds)
    }

    fn build(
        key: &[u8],
        response: &Response,
        stored: Instant,
        origin: Option<Origin>,
        bounds: Bounds,
    ) -> Self {
        let tier = origin.map_or(0, |origin| origin.tier);
        let bound = match (response.kind(), tier) {
            (Kind::Negative, 0) => bounds.max_negative_ttl,
            (Kind::Negative, _) => bounds.later_max_negative_ttl,
            _ => bounds.max_ttl,
        };
        let (facts, bytes) = response.parts();
        let head = Head {
            stored,
            lifetime: response
                .ttl()
                .unwrap_or(0)
                .min(bound)
                .min(bounds.max_lifetime),
            // A stub that caches must not keep a "no" longer than we do, nor anything else (RFC 2308 §5).
            ttl_cap: bound,
            route: origin.map(|origin| origin.route),
            took: origin.map_or(0, |origin| {
                u16::try_from(origin.took.as_millis()).unwrap_or(u16::MAX)
            }),
            tier: u8::try_from(tier).unwrap_or(u8::MAX),
            facts,
            bits: key.last().copied().unwrap_or(0),
            hits: AtomicU8::new(0),
            prefetch: AtomicU8::new(0),
        };
        Self(ThinArc::from_header_and_slice(head, bytes))
    }

    #[inline]
    fn head(&self) -> &Head {
        &self.0.header.header
    }

    /// The answer.
    #[inline]
    #[must_use]
    pub fn response(&self) -> View<'_> {
        View::of(&self.head().facts, &self.0.slice)
    }

    /// QNAME, lower-cased, in wire format.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let question = self.response().question();
        &question[..question.len() - 4]
    }

    /// QTYPE.
    #[must_use]
    pub fn qtype(&self) -> u16 {
        let question = self.response().question();
        let at = question.len() - 4;
        u16::from_be_bytes([question[at], question[at + 1]])
    }

    /// Index of the route that answered.
    #[must_use]
    pub fn route(&self) -> Option<u16> {
        self.head().route
    }

    /// Which of the route's tiers answered.
    #[must_use]
    pub fn tier(&self) -> u8 {
        self.head().tier
    }

    /// Whether it says that the name, or its record, does not exist.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.response().kind() == Kind::Negative
    }

    /// No TTL it serves is above this, in seconds.
    #[must_use]
    pub fn ttl_cap(&self) -> u32 {
        self.head().ttl_cap
    }

    /// When it arrived.
    pub(super) fn stored(&self) -> Instant {
        self.head().stored
    }

    /// When it was asked for.
    #[must_use]
    pub fn asked(&self) -> Instant {
        let took = Duration::from_millis(u64::from(self.head().took));
        self.head()
            .stored
            .checked_sub(took)
            .unwrap_or(self.head().stored)
    }

    /// Seconds it is fresh.
    pub(super) fn lifetime(&self) -> u32 {
        self.head().lifetime
    }

    /// Whole seconds since it arrived, while it may be served as it is.
    #[inline]
    #[must_use]
    pub fn age_if_fresh(&self, now: Instant) -> Option<u32> {
        let age = now.saturating_duration_since(self.head().stored).as_secs();
        u32::try_from(age)
            .ok()
            .filter(|age| *age < self.head().lifetime)
    }

    /// Seconds for which it is still fresh; 0 if it is not.
    #[must_use]
    pub fn seconds_left(&self, now: Instant) -> u32 {
        let age = self.age_if_fresh(now);
        age.map_or(0, |age| self.head().lifetime - age)
    }

    /// How long ago it ceased to be fresh; zero while it is.
    #[must_use]
    pub fn expired_for(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.head().stored);
        age.saturating_sub(Duration::from_secs(u64::from(self.head().lifetime)))
    }

    /// Counts a hit at this age, in seconds; whether it is popular and about to expire, and not being fetched anew.
    #[inline]
    #[must_use]
    pub fn prefetch_due(&self, age: u32, config: &CacheConfig) -> bool {
        if config.prefetch_hits == 0 || self.head().lifetime < MIN_PREFETCH_LIFETIME {
            return false;
        }
        let hits = self.head().hits.load(Ordering::Relaxed);
        if hits < config.prefetch_hits {
            self.head().hits.store(hits + 1, Ordering::Relaxed);
            return false;
        }
        let prefetch = self.head().prefetch.load(Ordering::Relaxed);
        self.about_to_expire(age, config) && prefetch != FETCHING && prefetch != second(age)
    }

    /// Whether it is so old, in seconds, that a popular one is fetched anew.
    #[inline]
    #[must_use]
    pub fn about_to_expire(&self, age: u32, config: &CacheConfig) -> bool {
        // Ages are whole seconds: the last one always counts.
        let left = self.head().lifetime.saturating_sub(age);
        let threshold = u64::from(self.head().lifetime) * u64::from(config.prefetch_percent) / 100;
        u64::from(left) <= threshold.max(1)
    }

    /// It is to be fetched anew now; false if some worker does so already.
    #[must_use]
    pub fn start_prefetch(&self) -> bool {
        self.head().prefetch.swap(FETCHING, Ordering::Relaxed) != FETCHING
    }

    /// It was fetched anew, or could not be: another turn may come, in another second of its life.
    pub fn end_prefetch(&self, now: Instant) {
        let age = self.age_if_fresh(now).unwrap_or_default();
        self.head().prefetch.store(second(age), Ordering::Relaxed);
    }

    /// Whether it belongs in the cache at all: RFC 1035 §3.2.1 (TTL 0), RFC 2308 §5 (NXDOMAIN without SOA), and never a cut one.
    #[must_use]
    pub fn storable(&self) -> bool {
        self.head().lifetime > 0 && !self.response().truncated()
    }

    /// Whether it is the answer to the question of this key, and not one whose hash is the same.
    #[inline]
    pub(super) fn answers(&self, key: &[u8]) -> bool {
        key.split_last().is_some_and(|(bits, question)| {
            *bits == self.head().bits && question == self.response().question()
        })
    }

    /// What its key says beside the question.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        Question::with_bits(self.response().question(), self.head().bits)
    }

    /// The message with the TTLs that it has by now.
    #[must_use]
    pub fn aged_message(&self, now: Instant) -> Vec<u8> {
        let age = now.saturating_duration_since(self.head().stored).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let view = self.response();
        let mut message = view.message().to_vec();
        for at in (0..view.ttl_count()).map(|index| view.ttl_at(index)) {
            let ttl = wire::u32_at(&message, at).map_or(0, sane_ttl);
            let left = ttl.min(self.head().ttl_cap).saturating_sub(age);
            wire::put_u32(&mut message, at, left);
        }
        message
    }

    /// What it counts for in `cache.max_size`, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let bytes = size_of::<HeaderWithLength<Head>>() + size_of::<usize>() + self.0.slice.len();
        (OVERHEAD + block(bytes)) as u64
    }
}
