//! Any sequence of inserts, gets, flushes and steps of the clock on a cache, compared with a model that forgets nothing. An
//! entry is the last answer to its question, with the right age. The cache stays within its size. Flushed entries are gone.

#![no_main]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nodens::cache::{Blames, Bounds, Cache, Entry, Failing, Flushes, Origin};
use nodens::config::CacheConfig;
use nodens::message::ede::ExtendedError;
use nodens::message::response::Response;

const BOUNDS: Bounds = Bounds {
    max_ttl: 200,
    max_negative_ttl: 20,
    later_max_negative_ttl: 10,
    min_ttl: 0,
    max_lifetime: 150,
};

/// The shortest and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// What the model knows of an answer.
struct Known {
    stored: Instant,
    lifetime: u32,
    /// A number in the answer's address, or its SOA's serial, which tells answers apart.
    mark: u32,
}

/// A response about a name of one letter. Without an address it is negative.
fn response(letter: u8, qtype: u8, ttl: u32, mark: u32, size: usize) -> Response {
    let mut message = vec![
        0, 0, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 1, letter, 0, 0, qtype, 0, 1,
    ];
    let mut record = |section: usize, rtype: u8, rdata: &[u8]| {
        message[section] += 1;
        message.extend_from_slice(&[0xc0, 12, 0, rtype, 0, 1]);
        message.extend_from_slice(&ttl.to_be_bytes());
        let length = u16::try_from(rdata.len()).expect("short");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(rdata);
    };
    if qtype == 1 {
        record(7, 1, &mark.to_be_bytes());
    } else {
        let mut soa = vec![0, 0];
        soa.extend_from_slice(&mark.to_be_bytes());
        soa.extend_from_slice(&[0; 12]);
        soa.extend_from_slice(&ttl.to_be_bytes());
        record(9, 6, &soa);
    }
    for _ in 0..size / 250 {
        record(11, 16, &[0; 250]);
    }
    Response::read(&message).expect("well-formed")
}

fn mark_of(entry: &Entry) -> u32 {
    let view = entry.response();
    let rdata = view.ttl_at(0) + 6;
    // The SOA's two names are the root, of one octet each.
    let at = if entry.is_negative() {
        rdata + 2
    } else {
        rdata
    };
    let bytes = view.message()[at..at + 4].try_into().expect("four octets");
    u32::from_be_bytes(bytes)
}

struct Run {
    cache: Cache,
    model: HashMap<Vec<u8>, Known>,
    now: Instant,
    capacity: u64,
    asked: Flushes,
    inserts: u32,
}

impl Run {
    fn step(&mut self, [what, which, value]: [u8; 3]) {
        let letter = b'a' + which % 23;
        let qtype = if which & 32 == 0 { 1 } else { 28 };
        let key = [&[1, letter, 0, 0, qtype, 0, 1][..], &[which >> 6]].concat();
        match what % 8 {
            0..=2 => {
                self.inserts += 1;
                let size = usize::from(what >> 3) * usize::from(value);
                let answer = response(letter, qtype, value.into(), self.inserts, size);
                let tier = usize::from(what >> 7);
                let origin = Origin {
                    route: 0,
                    tier,
                    took: Duration::ZERO,
                };
                let entry = Entry::new(&key, &answer, self.now, origin, BOUNDS);
                let negative = entry.is_negative();
                assert_eq!(negative, qtype != 1);
                let bound = match (negative, tier) {
                    (true, 0) => BOUNDS.max_negative_ttl,
                    (true, _) => BOUNDS.later_max_negative_ttl,
                    _ => BOUNDS.max_ttl,
                };
                let lifetime = u32::from(value).min(bound).min(BOUNDS.max_lifetime);
                let known = Known {
                    stored: self.now,
                    lifetime,
                    mark: self.inserts,
                };
                if what % 8 == 2 {
                    let flushed = self.cache.flushes() != self.asked;
                    self.cache.insert_if_current(&key, &entry, self.asked);
                    if flushed {
                        return;
                    }
                } else {
                    self.cache.insert(&key, &entry);
                }
                assert!(
                    self.cache.failure(&key, self.now).is_none(),
                    "an answer ends a failure"
                );
                if lifetime > 0 {
                    self.model.insert(key, known);
                }
            }
            3 | 4 => self.check(&key),
            5 => self.now += Duration::from_millis(u64::from(value) * u64::from(which)),
            6 if value < 32 => {
                self.cache.flush(|name| name[1] == letter);
                self.model.retain(|key, _| key[1] != letter);
                let of_name = |entry: &Entry| entry.name()[1] == letter;
                assert!(!self.cache.iter().any(|entry| of_name(&entry)));
                assert!(self.cache.failure(&key, self.now).is_none());
            }
            6 => self.asked = self.cache.flushes(),
            _ if value < 64 => {
                self.capacity = u64::from(value) * u64::from(which);
                self.cache.resize(self.capacity);
            }
            _ => {
                let error = ExtendedError::new(22, "nobody answers");
                let failing = Failing {
                    code: 2,
                    error: &error,
                    blames: Blames::Question,
                };
                self.cache.remember_failure(&key, failing, PAUSES, self.now);
                assert!(self.cache.failure(&key, self.now).is_some());
                assert!(self.cache.failure(&key, self.now + PAUSES.1).is_none());
            }
        }
        assert!(self.cache.bytes() <= self.capacity, "more than it may hold");
    }

    fn check(&self, key: &[u8]) {
        let Some(entry) = self.cache.get(key) else {
            return;
        };
        assert_eq!(entry.response().question(), &key[..key.len() - 1]);
        let known = self.model.get(key).expect("somebody stored it");
        assert_eq!(
            mark_of(&entry),
            known.mark,
            "an older answer, or another question's"
        );
        let age = self.now.duration_since(known.stored).as_secs();
        let left = u64::from(known.lifetime).saturating_sub(age);
        assert_eq!(u64::from(entry.seconds_left(self.now)), left);
        assert_eq!(entry.age_if_fresh(self.now).is_some(), left > 0);
        assert_eq!(entry.expired_for(self.now).is_zero(), {
            let life = Duration::from_secs(known.lifetime.into());
            self.now.duration_since(known.stored) <= life
        });
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [size, steps @ ..] = bytes else {
        return;
    };
    let config = CacheConfig {
        max_size: u64::from(*size) << 8,
        ..CacheConfig::default()
    };
    let cache = Cache::new(&config);
    let mut run = Run {
        asked: cache.flushes(),
        cache,
        model: HashMap::new(),
        now: Instant::now(),
        capacity: config.max_size,
        inserts: 0,
    };
    for step in steps.as_chunks::<3>().0 {
        run.step(*step);
    }
    for key in run.model.keys() {
        run.check(key);
    }
    let weight: u64 = run.cache.iter().map(|entry| entry.weight()).sum();
    assert_eq!(weight, run.cache.bytes());
    let answers = run.cache.entries() as u64;
    assert_eq!(run.cache.flush(|_| true).answers, answers);
    assert_eq!((run.cache.entries(), run.cache.bytes()), (0, 0));
});
