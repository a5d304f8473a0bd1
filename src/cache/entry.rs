//! One answer: its message, its age, its weight.
//!
//! Owns how long an answer is fresh (RFC 2181 §8, RFC 2308 §5); `now` is an argument.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use triomphe::{HeaderWithLength, ThinArc};

use super::moment::Moment;
use crate::config::CacheConfig;
use crate::message::query::Question;
use crate::message::response::{Facts, Kind, Response, View, sane_ttl};
use crate::message::wire;

/// Bytes that an entry takes outside its own block of memory: its slot in the table, with the table's unused slots (about 65), an
/// eighth of a ghost, and memory that the allocator leaves unused. Measured as the resident memory for each entry in full caches
/// of 64 MiB (`tests/memory.rs`), less the entry's block.
const OVERHEAD: usize = 80;

/// In seconds. Answers with a shorter lifetime are not prefetched: a prefetch begins at least one second before the end, which
/// would be a large part of their lifetime.
const MIN_PREFETCH_LIFETIME: u32 = 5;

/// An answer with its metadata, in one block of memory. Clones share the block.
#[derive(Debug, Clone)]
pub struct Entry(ThinArc<Head, u8>);

/// The metadata, which stands before the message. Each entry has one, so every byte here costs memory once for each entry.
#[derive(Debug)]
struct Head {
    stored: Moment,
    /// For how many seconds after `stored` the answer is fresh.
    lifetime: u32,
    /// Upper bound of the TTLs that clients see, in seconds.
    ttl_cap: u32,
    /// Index of the route that answered, for metrics. [`NO_ROUTE`] for answers that nodens makes itself.
    route: u16,
    facts: Facts,
    /// Milliseconds from the query to the answer, 65,535 at most: `deadline` is at most a minute.
    took: u16,
    /// The tier of the route that answered; 0 is the first.
    tier: u8,
    /// The last byte of the key (DO, CD, RD missing). The rest of the key is the question, which is in the message.
    bits: u8,
    /// Hits so far, counted up to `prefetch_hits`, the number that makes the entry popular.
    hits: AtomicU8,
    /// [`FETCHING`] while a prefetch is under way; else the [`second_number`] in which the last one ended; 0 if there was none.
    prefetch: AtomicU8,
}

/// Stands for "no route" among the indices of routes: no route has it.
pub const NO_ROUTE: u16 = u16::MAX;

/// A prefetch is under way.
const FETCHING: u8 = u8::MAX;

/// Age in seconds as a number from 1 to 254, which differs from the numbers of the seconds around it.
fn second_number(age: u32) -> u8 {
    (age % 254).to_le_bytes()[0] + 1
}

/// Size of the block that the allocator uses for this many bytes. Its block sizes are multiples of an eighth of the next power of
/// two, and of 16 bytes.
fn allocated_size(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step)
}

/// Bounds that a route sets for its answers.
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
    /// Seconds any answer is kept. Does not change the TTLs that clients see. 0: no answer is kept.
    pub max_lifetime: u32,
}

impl Bounds {
    /// Lowers the three upper bounds of TTLs to this many seconds.
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
    /// The route's tier that answered; 0 is the first.
    pub tier: usize,
    /// Time from the query to the answer.
    pub took: Duration,
}

impl Entry {
    /// The answer to the question of `key`, which arrived at `stored` from `origin`.
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

    /// An answer that nodens makes itself and does not store. Its TTLs are at most `seconds`.
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
            stored: Moment::of(stored),
            lifetime: response
                .ttl()
                .unwrap_or(0)
                .min(bound)
                .min(bounds.max_lifetime),
            // A client that caches must not keep an answer longer than we do; for negative ones see RFC 2308 §5.
            ttl_cap: bound,
            route: origin.map_or(NO_ROUTE, |origin| origin.route),
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
        Some(self.head().route).filter(|route| *route != NO_ROUTE)
    }

    /// The tier of the route that answered; 0 is the first.
    #[must_use]
    pub fn tier(&self) -> u8 {
        self.head().tier
    }

    /// Whether the answer says that the name, or a record of this type, does not exist.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.response().kind() == Kind::Negative
    }

    /// Upper bound of the TTLs that clients see, in seconds.
    #[must_use]
    pub fn ttl_cap(&self) -> u32 {
        self.head().ttl_cap
    }

    /// When the answer arrived.
    pub(super) fn stored(&self) -> Instant {
        self.head().stored.instant()
    }

    /// When the answer was asked for upstream.
    #[must_use]
    pub fn asked(&self) -> Instant {
        let (stored, took) = (
            self.stored(),
            Duration::from_millis(u64::from(self.head().took)),
        );
        stored.checked_sub(took).unwrap_or(stored)
    }

    /// For how many seconds after [`Entry::stored`] the answer is fresh.
    pub(super) fn lifetime(&self) -> u32 {
        self.head().lifetime
    }

    /// Age in whole seconds. None if the answer is expired.
    #[inline]
    #[must_use]
    pub fn age_if_fresh(&self, now: Instant) -> Option<u32> {
        let age = self.head().stored.seconds_until(now);
        u32::try_from(age)
            .ok()
            .filter(|age| *age < self.head().lifetime)
    }

    /// Seconds until the answer expires; 0 if it has expired.
    #[must_use]
    pub fn seconds_left(&self, now: Instant) -> u32 {
        let age = self.age_if_fresh(now);
        age.map_or(0, |age| self.head().lifetime - age)
    }

    /// Time since the answer expired; zero while it is fresh.
    #[must_use]
    pub fn expired_for(&self, now: Instant) -> Duration {
        let age = self.head().stored.until(now);
        age.saturating_sub(Duration::from_secs(u64::from(self.head().lifetime)))
    }

    /// Counts a hit at this age, in seconds. Returns whether a prefetch is due: the entry is popular and about to expire, no
    /// prefetch is under way, and none ended in this second.
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
        self.about_to_expire(age, config) && prefetch != FETCHING && prefetch != second_number(age)
    }

    /// Whether a popular entry of this age, in seconds, is prefetched.
    #[inline]
    #[must_use]
    pub fn about_to_expire(&self, age: u32, config: &CacheConfig) -> bool {
        // Ages are whole seconds. The last second before expiry counts even if `prefetch_percent` of the lifetime is less.
        let left = self.head().lifetime.saturating_sub(age);
        let threshold = u64::from(self.head().lifetime) * u64::from(config.prefetch_percent) / 100;
        u64::from(left) <= threshold.max(1)
    }

    /// Marks a prefetch as under way. False if another worker has one under way already.
    #[must_use]
    pub fn start_prefetch(&self) -> bool {
        self.head().prefetch.swap(FETCHING, Ordering::Relaxed) != FETCHING
    }

    /// Marks the prefetch as ended, with or without an answer. The next one may start in another second.
    pub fn end_prefetch(&self, now: Instant) {
        let age = self.age_if_fresh(now).unwrap_or_default();
        self.head()
            .prefetch
            .store(second_number(age), Ordering::Relaxed);
    }

    /// Whether the answer may be cached. Not cached are answers with TTL 0 (RFC 1035 §3.2.1), referrals, and truncated ones.
    #[must_use]
    pub fn storable(&self) -> bool {
        self.head().lifetime > 0 && !self.response().truncated()
    }

    /// Whether an older answer to the same question is no longer true. A referral and a truncated answer say nothing about it.
    #[must_use]
    pub fn outdates_others(&self) -> bool {
        let response = self.response();
        matches!(response.kind(), Kind::Positive | Kind::Negative) && !response.truncated()
    }

    /// Whether this is the answer to the question of `key`, and not to another question with the same hash.
    #[inline]
    pub(super) fn answers(&self, key: &[u8]) -> bool {
        key.split_last().is_some_and(|(bits, question)| {
            *bits == self.head().bits && question == self.response().question()
        })
    }

    /// The question, with the bits of the key.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        Question::with_bits(self.response().question(), self.head().bits)
    }

    /// The message with its TTLs reduced by its age.
    #[must_use]
    pub fn aged_message(&self, now: Instant) -> Vec<u8> {
        let age = self.head().stored.seconds_until(now);
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

    /// Bytes that the entry counts as in `cache.max_size`.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let bytes = size_of::<HeaderWithLength<Head>>() + size_of::<usize>() + self.0.slice.len();
        (OVERHEAD + allocated_size(bytes)) as u64
    }
}
