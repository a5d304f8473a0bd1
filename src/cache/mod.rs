//! The answer cache, shared by all workers: entries, ageing, bounds.
//!
//! Owns which answers are kept, and for how long (RFC 2181 §8, RFC 2308 §5). Must not know clients, routes or sockets; `now` is
//! an argument. Bounded in bytes: an entry weighs its block of memory (metadata, message, TTL offsets) and the table's
//! overhead.

mod entry;
mod failures;
mod last_asked;
mod moment;
pub mod transfer;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache as Shards;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

pub use entry::{Bounds, Entry, NO_ROUTE, Origin};
pub use failures::{Blames, Failing, Failure};

use crate::config::CacheConfig;
use failures::Failures;
use last_asked::{LastAsked, QuestionAtTier};

/// Number of evicted keys that the table remembers, as a share of the entries. That is enough to tell names that are asked
/// again from names that were asked once, and takes a quarter of the memory that the default of `quick_cache` takes.
const GHOSTS: f64 = 0.125;

/// Rough size of an entry in bytes, from which the table estimates how many entries it will hold.
const TYPICAL_ENTRY: u64 = 300;

/// Least size of a shard in bytes, so that each DNS message (64 KiB and its key) fits into one.
const MIN_SHARD_SIZE: u64 = 1 << 20;

/// The table's key is already a keyed 64-bit hash; hashing it again would add nothing.
#[derive(Debug, Clone, Default)]
struct AlreadyHashed;

impl BuildHasher for AlreadyHashed {
    type Hasher = Identity;

    fn build_hasher(&self) -> Identity {
        Identity(0)
    }
}

struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are 64-bit numbers");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<u64, Entry> for ByBytes {
    fn weight(&self, _: &u64, entry: &Entry) -> u64 {
        entry.weight()
    }
}

/// The key being inserted. The table reports a replaced entry as evicted, too; by this key the two are told apart.
#[derive(Debug, Default)]
struct KeyBeingReplaced(Option<u64>);

/// Numbers of entries that were evicted to make room.
#[derive(Debug, Default)]
struct Evictions {
    positive: AtomicU64,
    negative: AtomicU64,
}

#[derive(Debug, Clone)]
struct CountEvictions(Arc<Evictions>);

impl Lifecycle<u64, Entry> for CountEvictions {
    type RequestState = KeyBeingReplaced;

    fn on_evict(&self, replacing: &mut KeyBeingReplaced, key: u64, entry: Entry) {
        if replacing.0 != Some(key) {
            let evictions = if entry.is_negative() {
                &self.0.negative
            } else {
                &self.0.positive
            };
            evictions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    shards: Shards<u64, Entry, ByBytes, AlreadyHashed, CountEvictions>,
    /// Randomly seeded at start, so that nobody can choose names whose hashes collide.
    hasher: ahash::RandomState,
    evictions: Arc<Evictions>,
    /// A table apart from the answers, so that a failure never replaces an answer.
    failures: Failures,
    flushes: AtomicU64,
    last_asked: LastAsked,
}

/// Number of flushes since the start. An answer that was asked for at another number may be one that a flush should have
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushes(u64);

/// What a flush removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flushed {
    /// Answers.
    pub answers: u64,
    /// Remembered failures.
    pub failures: u64,
}

impl Cache {
    /// An empty cache. With `max_size` 0 it stays empty.
    #[must_use]
    pub fn new(config: &CacheConfig) -> Self {
        Self::with_hasher(config, ahash::RandomState::new())
    }

    /// As [`Cache::new`], with this hasher. Which entries are evicted depends on the hasher.
    ///
    /// # Panics
    /// Never: the options that the cache is built from are set.
    #[must_use]
    pub fn with_hasher(config: &CacheConfig, hasher: ahash::RandomState) -> Self {
        let evictions = Arc::new(Evictions::default());
        let most = usize::try_from(config.max_size / MIN_SHARD_SIZE).unwrap_or(usize::MAX);
        // quick_cache rounds up to a power of two; round down, so that shards do not get too small.
        let shards = 1 << most.clamp(1, 64).ilog2();
        let options = OptionsBuilder::new()
            .shards(shards)
            .weight_capacity(config.max_size)
            .ghost_allocation(GHOSTS)
            .estimated_items_capacity(
                usize::try_from(config.max_size / TYPICAL_ENTRY).unwrap_or(usize::MAX),
            )
            .build()
            .expect("both capacities are set");
        let count = CountEvictions(Arc::clone(&evictions));
        Self {
            shards: Shards::with_options(options, ByBytes, AlreadyHashed, count),
            hasher,
            evictions,
            failures: Failures::default(),
            flushes: AtomicU64::new(0),
            last_asked: LastAsked::new(),
        }
    }

    /// The entry of a question, fresh or expired.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        let entry = self.shards.get(&self.hash(key))?;
        entry.answers(key).then_some(entry)
    }

    /// Stores an answer, if it may be cached. It replaces the entry of the same question. One that may not be cached removes an
    /// older entry, which is no longer true. Forgets the question's failure.
    pub fn insert(&self, key: &[u8], entry: &Entry) {
        if entry.storable() {
            let hash = self.hash(key);
            let mut replacing = KeyBeingReplaced(Some(hash));
            self.shards
                .insert_with_lifecycle(hash, entry.clone(), &mut replacing);
        } else if entry.outdates_others() {
            self.forget_if(key, |kept| {
                kept.asked() < entry.asked() && kept.tier() >= entry.tier()
            });
        }
        self.failures.forget(key);
    }

    /// The number of flushes so far. For [`Cache::insert_if_current`] it must be read before the upstream servers are asked.
    #[inline]
    #[must_use]
    pub fn flushes(&self) -> Flushes {
        Flushes(self.flushes.load(Ordering::SeqCst))
    }

    /// As [`Cache::insert`], but an answer that may be outdated is not stored:
    ///
    /// - if anything was flushed since the answer was asked for, at the number `asked`. The flushed names do not matter: an
    ///   answer that is dropped without need costs one query;
    /// - if another worker asked later and got its answer sooner, even if that answer is not in the cache: a slow server may
    ///   answer with what was true when it was asked.
    pub fn insert_if_current(&self, key: &[u8], entry: &Entry, asked: Flushes) {
        let hash = self.hash(key);
        let question = QuestionAtTier {
            hash,
            route: entry.route(),
            tier: entry.tier(),
        };
        let kept = || {
            let kept = self.get(key)?;
            let is_of_the_same = kept.route() == question.route && kept.tier() == question.tier;
            is_of_the_same.then(|| kept.asked())
        };
        let is_outdated = self.last_asked.is_outdated(question, entry.asked(), kept);
        // The newer answer may not be in the cache, because it was truncated or had a TTL of 0. If the entry in the cache is
        // older than this answer, this answer replaces it.
        let replaces_older = || kept().is_some_and(|kept| kept < entry.asked());
        if is_outdated && !replaces_older() || self.flushes() != asked {
            return;
        }
        self.insert(key, entry);
        // A flush increments the number first, and reads the entries afterwards. If it did not see this entry, it had read this
        // shard before the insert, and so its increment is visible here.
        if self.flushes() != asked {
            self.shards.remove(&hash);
        }
    }

    /// When the newest answer of a route to this question had been asked for. `tiers` is the number of its tiers. None if that is
    /// long ago.
    #[must_use]
    pub fn last_asked(&self, key: &[u8], route: u16, tiers: usize) -> Option<Instant> {
        let tiers = u8::try_from(tiers).unwrap_or(u8::MAX);
        self.last_asked_of(key, Some(route), 0..tiers)
    }

    /// Whether an answer to this question came that had been asked for later than this one, of the same tier or an earlier one. It
    /// may be in the cache no longer.
    #[must_use]
    pub fn had_newer(&self, key: &[u8], entry: &Entry) -> bool {
        let last = self.last_asked_of(key, entry.route(), 0..=entry.tier());
        last.is_some_and(|last| last > entry.asked())
    }

    fn last_asked_of(
        &self,
        key: &[u8],
        route: Option<u16>,
        tiers: impl Iterator<Item = u8>,
    ) -> Option<Instant> {
        let hash = self.hash(key);
        let of_tier = |tier| self.last_asked.get(QuestionAtTier { hash, route, tier });
        tiers.filter_map(of_tier).max()
    }

    /// Removes the entry of a question if `gone` is true for it. Does not count as a hit.
    pub fn forget_if(&self, key: &[u8], gone: impl Fn(&Entry) -> bool) {
        let hash = self.hash(key);
        let gone = |entry: &Entry| entry.answers(key) && gone(entry);
        // Mostly there is no such entry, and no lock for writing is needed.
        if self.shards.peek(&hash).is_some_and(|entry| gone(&entry)) {
            self.shards.remove_if(&hash, gone);
        }
    }

    /// Removes all answers and failures of the lower-cased wire names that `concerns` chooses. Locks a shard for one entry at a
    /// time.
    pub fn flush(&self, concerns: impl Fn(&[u8]) -> bool) -> Flushed {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let mut answers = 0;
        for (hash, entry) in self.shards.iter() {
            if concerns(entry.name()) {
                let gone = |entry: &Entry| concerns(entry.name());
                answers += u64::from(self.shards.remove_if(&hash, gone).is_some());
            }
        }
        let failures = self.failures.forget_those(concerns);
        Flushed { answers, failures }
    }

    /// All entries, in no order. Locks a shard for one entry at a time; entries that are stored meanwhile may be missing.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        self.shards.iter().map(|(_, entry)| entry)
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The failure of a question that may not be asked again yet.
    #[must_use]
    pub fn failure(&self, key: &[u8], now: Instant) -> Option<Failure> {
        self.failures.get(key, now)
    }

    /// Remembers that a question failed; see `Failures::remember`.
    pub fn remember_failure(
        &self,
        key: &[u8],
        failing: Failing<'_>,
        pauses: (Duration, Duration),
        now: Instant,
    ) {
        self.failures.remember(key, failing, pauses, now);
    }

    /// Removes each entry for which `keep` is false. Hits in other shards are served meanwhile.
    pub fn retain(&self, keep: impl Fn(&Entry) -> bool) {
        self.shards.retain(|_, entry| keep(entry));
    }

    /// Forgets all failures, so that each question may be asked again at once.
    pub fn forget_failures(&self) {
        self.failures.forget_all();
    }

    /// Changes the maximal weight of all entries, in bytes, and evicts what is over it. With 0 the cache stays empty. The
    /// number of shards does not change: if a cache is made much smaller, the largest messages no longer fit into a shard.
    pub fn resize(&self, max_size: u64) {
        self.shards.set_capacity(max_size);
    }

    /// Number of entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.shards.len()
    }

    /// Weight of all entries in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shards.weight()
    }

    /// Number of entries that were evicted since the start.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.positive.load(Ordering::Relaxed) + self.negative_evictions()
    }

    /// Number of negative answers among [`Cache::evictions`].
    #[must_use]
    pub fn negative_evictions(&self) -> u64 {
        self.evictions.negative.load(Ordering::Relaxed)
    }
}

/// Whole seconds of a configured duration.
#[must_use]
pub fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ede::ExtendedError;
    use crate::message::query::key_about;
    use crate::message::response::Response;
    use crate::message::response::testing::{cut, response};

    pub(super) const BOUNDS: Bounds = Bounds {
        max_ttl: 86_400,
        max_negative_ttl: 3_600,
        later_max_negative_ttl: 30,
        min_ttl: 0,
        max_lifetime: u32::MAX,
    };

    fn failing(error: &ExtendedError) -> Failing<'_> {
        Failing {
            code: 2,
            error,
            blames: Blames::Question,
        }
    }

    const ORIGIN: Origin = Origin {
        route: 0,
        tier: 0,
        took: Duration::ZERO,
    };

    /// The default `cache.failure_min` and `cache.failure_max`.
    const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

    /// Stores an answer under its own question's key.
    fn store(cache: &Cache, response: &Response, now: Instant) -> Vec<u8> {
        let key = [response.view().question(), &[0]].concat();
        let entry = Entry::new(&key, response, now, ORIGIN, BOUNDS);
        cache.insert(&key, &entry);
        key
    }

    /// Two workers ask the same question. The worker that asked first gets its answer last.
    #[test]
    fn an_answer_asked_for_earlier_does_not_replace_one_asked_for_later() {
        let (cache, start) = (Cache::new(&CacheConfig::default()), Instant::now());
        let second = Duration::from_secs(1);
        let keep = |addresses: &[u8], took: Duration, came: Duration| {
            let (response, origin) = (
                response("a.example.", 60, addresses),
                Origin { took, ..ORIGIN },
            );
            let key = [response.view().question(), &[0]].concat();
            let entry = Entry::new(&key, &response, start + came, origin, BOUNDS);
            cache.insert_if_current(&key, &entry, cache.flushes());
            key
        };
        let newer = keep(&[2], second / 10, second + second / 10);
        keep(&[1], 2 * second, 2 * second);
        let kept = cache.get(&newer).expect("it was kept");
        assert!(kept.response().message().ends_with(&[2]));
        // An older answer is not stored either when the newer one has expired: the question is asked again then.
        keep(&[3], 62 * second, 62 * second);
        let kept = cache.get(&newer).expect("it was kept");
        assert!(kept.response().message().ends_with(&[2]));
    }

    #[test]
    fn an_answer_that_may_not_be_kept_outdates_an_older_one() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        // The tiers and times of two answers; the second one has TTL 0.
        for (first, second_one, kept) in [
            ((0, 0), (0, 1), false),
            ((1, 0), (0, 1), false),
            ((0, 0), (1, 1), true),
            ((0, 1), (0, 0), true),
        ] {
            let cache = Cache::new(&CacheConfig::default());
            let keep = |ttl, (tier, at): (usize, u32)| {
                let (response, origin) =
                    (response("a.example.", ttl, &[1]), Origin { tier, ..ORIGIN });
                let key = [response.view().question(), &[0]].concat();
                let entry = Entry::new(&key, &response, start + second * at, origin, BOUNDS);
                cache.insert(&key, &entry);
                key
            };
            let key = keep(60, first);
            keep(0, second_one);
            assert_eq!(cache.get(&key).is_some(), kept, "{first:?}, {second_one:?}");
        }
    }

    /// The cache keeps nothing, so that the table alone knows.
    #[test]
    fn when_a_route_answered_last_is_known_for_all_its_tiers() {
        let config = CacheConfig {
            max_size: 0,
            ..CacheConfig::default()
        };
        let (cache, start) = (Cache::new(&config), Instant::now());
        let tier = |tier, asked: Instant| {
            let (response, origin) = (response("a.example.", 60, &[1]), Origin { tier, ..ORIGIN });
            let key = [response.view().question(), &[0]].concat();
            let entry = Entry::new(&key, &response, asked, origin, BOUNDS);
            cache.insert_if_current(&key, &entry, cache.flushes());
            key
        };
        let second = Duration::from_secs(1);
        let key = tier(1, start + second);
        assert_eq!(cache.last_asked(&key, 0, 1), None);
        assert_eq!(cache.last_asked(&key, 0, 2), Some(start + second));
        tier(0, start + 2 * second);
        assert_eq!(cache.last_asked(&key, 0, 2), Some(start + 2 * second));
        tier(1, start + 3 * second);
        assert_eq!(cache.last_asked(&key, 0, 2), Some(start + 3 * second));
        assert_eq!(cache.last_asked(&key, 1, 2), None, "another route");
    }

    /// The newest of three answers may not be cached. Of the other two, the older one arrives first. If the newest is cut, which
    /// says nothing of the others, the second is kept; else neither.
    #[test]
    fn the_newest_answer_that_is_still_true_is_kept() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for (newest_is_cut, kept) in [(true, Some(2)), (false, None)] {
            let cache = Cache::new(&CacheConfig::default());
            let keep = |response: &Response, asked: u32, came: u32| {
                let (asked, came) = (asked * second, came * second);
                let origin = Origin {
                    took: came.saturating_sub(asked),
                    ..ORIGIN
                };
                let key = [response.view().question(), &[0]].concat();
                let entry = Entry::new(&key, response, start + came, origin, BOUNDS);
                cache.insert_if_current(&key, &entry, cache.flushes());
                key
            };
            let newest = if newest_is_cut {
                cut("a.example.", 60, &[3])
            } else {
                response("a.example.", 0, &[3])
            };
            keep(&response("a.example.", 60, &[1]), 0, 3);
            keep(&newest, 2, 4);
            let key = keep(&response("a.example.", 60, &[2]), 1, 5);
            let last = cache
                .get(&key)
                .and_then(|entry| entry.response().message().last().copied());
            assert_eq!(last, kept, "cut: {newest_is_cut}");
        }
    }

    /// As many questions as it takes to fill each slot of `LastAsked`.
    #[test]
    fn an_older_answer_does_not_replace_a_newer_one_after_many_other_questions() {
        let cache = Cache::with_hasher(
            &CacheConfig::default(),
            ahash::RandomState::with_seeds(1, 2, 3, 4),
        );
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let keep = |name: &str, address: u8, took: Duration, came: Duration| {
            let (response, origin) = (response(name, 60, &[address]), Origin { took, ..ORIGIN });
            let key = [response.view().question(), &[0]].concat();
            let entry = Entry::new(&key, &response, start + came, origin, BOUNDS);
            cache.insert_if_current(&key, &entry, cache.flushes());
            key
        };
        let newer = keep("a.example.", 2, second / 10, 2 * second);
        for other in 0..40_000 {
            keep(&format!("{other}.example."), 3, second / 10, 2 * second);
        }
        keep("a.example.", 1, 3 * second, 3 * second);
        let kept = cache.get(&newer).expect("it was kept");
        assert!(kept.response().message().ends_with(&[2]));
    }

    #[test]
    fn answers_live_as_long_as_their_ttl() {
        let cache = Cache::new(&CacheConfig::default());
        let start = Instant::now();
        let mut key = store(&cache, &response("a.example.", 10, &[1]), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let found = cache.get(&key).expect("stored");
        assert_eq!(found.age_if_fresh(start), Some(0));
        assert_eq!(found.age_if_fresh(at(9)), Some(9));
        assert_eq!(found.age_if_fresh(at(10)), None);
        assert_eq!(found.expired_for(at(12)), Duration::from_secs(2));
        key[1] = b'b';
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn a_hash_shared_by_two_questions_gives_neither_the_others_answer() {
        let (a, b) = (
            response("a.example.", 10, &[1]),
            response("b.example.", 10, &[1]),
        );
        let key = |response: &Response, bits| [response.view().question(), &[bits]].concat();
        let entry = Entry::new(&key(&a, 1), &a, Instant::now(), ORIGIN, BOUNDS);
        assert!(entry.answers(&key(&a, 1)));
        assert!(!entry.answers(&key(&a, 0)));
        assert!(!entry.answers(&key(&b, 1)));
        assert!(!entry.answers(&[]));
    }

    #[test]
    fn bounds_cut_lifetimes() {
        let now = Instant::now();
        let lifetime = |tier, ttl, addresses: &[u8]| {
            let bounds = Bounds {
                max_ttl: 100,
                max_negative_ttl: 5,
                later_max_negative_ttl: 3,
                min_ttl: 0,
                max_lifetime: u32::MAX,
            };
            Entry::new(
                &[0],
                &response("a.example.", ttl, addresses),
                now,
                Origin { tier, ..ORIGIN },
                bounds,
            )
            .lifetime()
        };
        assert_eq!(lifetime(0, 300, &[1]), 100);
        assert_eq!(lifetime(0, 30, &[1]), 30);
        assert_eq!(lifetime(0, 300, &[]), 5);
        assert_eq!(lifetime(1, 300, &[1]), 100, "a later tier's answer");
        assert_eq!(lifetime(1, 300, &[]), 3, "a later tier's denial");
    }

    #[test]
    fn ttl_zero_is_not_stored() {
        let cache = Cache::new(&CacheConfig::default());
        let key = store(&cache, &response("a.example.", 0, &[1]), Instant::now());
        assert!(cache.get(&key).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "20,000 entries take it hours")]
    fn the_cache_stays_within_its_size_and_counts_evictions() {
        let max_size = 1 << 20;
        let cache = Cache::new(&CacheConfig {
            max_size,
            ..CacheConfig::default()
        });
        let now = Instant::now();
        for number in 0..20_000_u32 {
            store(
                &cache,
                &response(&format!("host-{number}.example."), 300, &[1]),
                now,
            );
        }
        assert!(cache.bytes() <= max_size, "{} bytes", cache.bytes());
        assert!(cache.entries() > 1_000, "{} entries", cache.entries());
        assert_eq!(cache.evictions() + cache.entries() as u64, 20_000);
        let before = cache.evictions();
        for _ in 0..2 {
            store(&cache, &response("host-19999.example.", 300, &[1]), now);
        }
        assert_eq!(
            cache.evictions(),
            before,
            "an answer that replaces its older self"
        );
    }

    #[test]
    fn retain_removes_the_entries_that_are_not_to_be_kept() {
        let cache = Cache::new(&CacheConfig::default());
        let now = Instant::now();
        let gone = store(&cache, &response("a.cluster.local.", 60, &[1]), now);
        let kept = store(&cache, &response("A.example.", 60, &[1]), now);
        cache.retain(|entry| {
            assert_eq!(entry.route(), Some(0));
            assert_eq!(entry.qtype(), 1);
            entry.name() != b"\x01a\x07cluster\x05local\0"
        });
        assert!(cache.get(&gone).is_none());
        assert!(cache.get(&kept).is_some());
        assert_eq!((cache.entries(), cache.evictions()), (1, 0));
    }

    #[test]
    fn a_flush_removes_entries_and_drops_answers_asked_for_before_it() {
        let cache = Cache::new(&CacheConfig::default());
        let now = Instant::now();
        let error = ExtendedError::new(22, "vpc: 10.0.0.2 timed out");
        let gone = store(&cache, &response("a.corp.", 60, &[1]), now);
        let kept = store(&cache, &response("b.corp.", 60, &[1]), now);
        let failed = key_about(&gone, b"\x01c\x04corp\0");
        cache.remember_failure(&failed, failing(&error), PAUSES, now);
        let asked = cache.flushes();
        let flushed = cache.flush(|name| name != &kept[..kept.len() - 5]);
        assert_eq!((flushed.answers, flushed.failures), (1, 1));
        assert!(cache.get(&gone).is_none() && cache.get(&kept).is_some());
        assert!(cache.failure(&failed, now).is_none());
        let late = Entry::new(&gone, &response("a.corp.", 60, &[1]), now, ORIGIN, BOUNDS);
        cache.insert_if_current(&gone, &late, asked);
        assert!(cache.get(&gone).is_none());
        cache.insert_if_current(&gone, &late, cache.flushes());
        assert!(cache.get(&gone).is_some());
    }

    #[test]
    fn failures_can_be_forgotten() {
        let cache = Cache::new(&CacheConfig::default());
        let now = Instant::now();
        let error = ExtendedError::new(22, "vpc: 10.0.0.2 timed out");
        cache.remember_failure(b"key", failing(&error), PAUSES, now);
        assert!(cache.failure(b"key", now).is_some());
        cache.forget_failures();
        assert!(cache.failure(b"key", now).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "80,000 entries take it hours")]
    fn resize_limits_the_weight_at_once_and_from_then_on() {
        let mib = 1 << 20;
        let cache = Cache::new(&CacheConfig {
            max_size: 2 * mib,
            ..CacheConfig::default()
        });
        let now = Instant::now();
        let fill = || {
            for number in 0..20_000 {
                let name = format!("host-{number}.example.");
                store(&cache, &response(&name, 300, &[1]), now);
            }
            cache.bytes()
        };
        assert!((mib..=2 * mib).contains(&fill()), "{} bytes", cache.bytes());
        cache.resize(mib / 2);
        assert!(
            (1..=mib / 2).contains(&cache.bytes()),
            "{} bytes after it was made smaller",
            cache.bytes()
        );
        assert!(fill() <= mib / 2, "{} bytes", cache.bytes());
        cache.resize(4 * mib);
        assert!(fill() > 2 * mib, "{} bytes", cache.bytes());
        cache.resize(0);
        assert_eq!((cache.entries(), fill()), (0, 0));
        cache.resize(mib);
        assert!(fill() > mib / 2, "{} bytes after none", cache.bytes());
    }

    #[test]
    fn size_zero_keeps_nothing() {
        let cache = Cache::new(&CacheConfig {
            max_size: 0,
            ..CacheConfig::default()
        });
        let key = store(&cache, &response("a.example.", 60, &[1]), Instant::now());
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn popular_answers_are_fetched_anew_once_before_they_expire() {
        let config = CacheConfig::default();
        let answer = response("a.example.", 100, &[1]);
        let stored = Instant::now();
        let entry = Entry::new(&[0], &answer, stored, ORIGIN, BOUNDS);
        let mut fetched_at = Vec::new();
        for age in [91, 92, 50, 93, 94] {
            if entry.prefetch_due(age, &config) && entry.start_prefetch() {
                fetched_at.push(age);
            }
        }
        assert_eq!(fetched_at, [93]);
        assert!(!entry.prefetch_due(95, &config), "it is being fetched");
        entry.end_prefetch(stored + Duration::from_millis(95_500));
        assert!(
            !entry.prefetch_due(95, &config),
            "a turn that failed does not come again at once"
        );
        assert!(
            entry.prefetch_due(96, &config),
            "a turn that failed comes again"
        );
    }

    #[test]
    fn failures_are_remembered_ever_longer_and_forgotten_with_an_answer() {
        let cache = Cache::new(&CacheConfig::default());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let error = ExtendedError::new(22, "vpc: 10.0.0.2 timed out");
        let answer = response("a.example.", 60, &[1]);
        let key = [answer.view().question(), &[0]].concat();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..4 {
            cache.remember_failure(&key, failing(&error), PAUSES, at(now));
            let begin = now;
            while cache.failure(&key, at(now)).is_some() {
                now += 500;
            }
            pauses.push(now - begin);
        }
        assert_eq!(pauses, [1000, 2000, 4000, 5000]);
        cache.remember_failure(&key, failing(&error), PAUSES, at(now));
        store(&cache, &answer, at(now));
        assert!(cache.failure(&key, at(now)).is_none());
    }
}
