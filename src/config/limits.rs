//! The lowest and highest value of every key, and why. A value outside is an error and is never replaced silently.

use std::time::Duration;

use super::leaf::{Range, Size};

/// One socket each per worker; more is a list pasted by mistake.
pub(super) const MAX_LISTEN: usize = 64;
/// A port each for health, readiness and metrics, in both families, and room to spare.
pub(super) const MAX_METRICS_LISTEN: usize = 8;
/// Every packet is compared with the networks one by one.
pub(super) const MAX_NETWORKS: usize = 1_024;
/// All are read once a second.
pub(super) const MAX_HOSTS_FILES: usize = 16;
/// Bytes; as much as the configuration itself. Some 100,000 names, at some 200 bytes of memory each.
pub(super) const MAX_HOSTS_FILE: u64 = 4 << 20;
/// Of one name: 1,000 AAAA records take 28,000 bytes of the 65,535 that a message has.
pub(super) const MAX_HOST_ADDRESSES: usize = 1_000;
/// One reply holds them all; of more, clients over UDP would get a part.
pub(super) const MAX_ANSWER_ADDRESSES: usize = 32;
/// There are fewer types in use; each query that the cache cannot answer is compared with them one by one.
pub(super) const MAX_FILTER: usize = 32;
/// Each server costs sockets per worker and a probe; health comparisons are pairwise.
pub(super) const MAX_SERVERS: usize = 64;
/// One for each family, and a second of each while clients move; every address costs six rules that each packet of the
/// node passes.
pub(super) const MAX_NODE_ADDRESSES: usize = 8;
/// `IFNAMSIZ` is 16, the last byte for NUL.
pub(super) const MAX_INTERFACE_NAME: usize = 15;
/// `sockaddr_un.sun_path` has 108 bytes, the last for NUL.
pub(super) const MAX_SOCKET_PATH: usize = 107;
/// RFC 1035 §3.3: a string has one length octet. The node's name is one in `id.server`.
pub(super) const MAX_TEXT: usize = 255;
/// Below this the cache's own tables outweigh what they hold; 0 turns it off.
pub(super) const MIN_CACHE: Size = Size(64 << 10);
/// A node's DNS answers do not fill it; more is a unit mistaken.
pub(super) const MAX_CACHE: Size = Size(64 << 30);

/// One thread needs one CPU to be of use; no node has more than this many to give to DNS.
pub(super) const WORKERS: Range<usize> = Range { min: 1, max: 256 };
/// 0 stops at once. Kubernetes kills after `terminationGracePeriodSeconds`, rarely over 10 minutes.
pub(super) const SHUTDOWN_GRACE: Range<Duration> = seconds(0, 600);

/// Below 10 ms a healthy server in another zone counts as lost; a client gave up long before 30 s.
pub(super) const TRY_TIMEOUT: Range<Duration> = millis(10, 30_000);
/// Below 50 ms there is no time for a second server; clients wait 5 s by default and 30 s at most (glibc's cap).
pub(super) const DEADLINE: Range<Duration> = millis(50, 60_000);
/// 0 would answer nothing; a million queries waiting take about a gigabyte.
pub(super) const GROUP_IN_FLIGHT: Range<usize> = Range {
    min: 1,
    max: 1_000_000,
};
/// Below 1 s every query pays for a connection; a day is as good as for ever.
pub(super) const STREAM_MAX_AGE: Range<Duration> = seconds(1, 86_400);

/// 0 is no limit; no server takes over a million.
pub(super) const QUERIES_PER_SECOND: Range<u32> = Range {
    min: 0,
    max: 1_000_000,
};

/// 1 asks one server; more than 16 is a flood at start.
pub(super) const START_FANOUT: Range<usize> = Range { min: 1, max: 16 };
/// Below 1 ms every query is hedged; above 10 s clients are gone.
pub(super) const HEDGE: Range<Duration> = millis(1, 10_000);
/// Share of queries; 0 turns hedging off.
pub(super) const HEDGE_BUDGET: Range<u32> = Range { min: 0, max: 100 };
/// Faster than every 50 ms is an attack on a server that is struggling; slower than 1 min leaves it unused for long.
pub(super) const PROBE_PAUSE: Range<Duration> = millis(50, 60_000);
/// One answer may be luck; with more than 10 a server is back only after a minute.
pub(super) const RECOVER_PROBES: Range<u32> = Range { min: 1, max: 10 };
/// 100 turns the judgement off, since nothing loses more; 0 would condemn a server for one packet.
pub(super) const POOR_LOSS: Range<u32> = Range { min: 1, max: 100 };
/// Under 20 tries a single loss is already 5 %; outcomes are kept as the bits of one 128-bit number.
pub(super) const POOR_LOSS_WINDOW: Range<u32> = Range { min: 20, max: 120 };
/// Under 4 answers "most of them" means nothing; kept in the same way.
pub(super) const POOR_ANSWER_WINDOW: Range<u32> = Range { min: 4, max: 120 };
/// Below 1 ms servers trade places by noise.
pub(super) const POOR_SLOWER_BY: Range<Duration> = millis(1, 10_000);
/// 1 leaves the judgement to `poor_slower_by` alone.
pub(super) const POOR_SLOWER_FACTOR: Range<u32> = Range { min: 1, max: 1_000 };

/// RFC 8767 §4 caps TTLs on the order of days to weeks; after 7 days a mistake is still being served. For no caching
/// at all there is `max_size: 0`.
pub(super) const MAX_TTL: Range<Duration> = seconds(1, 7 * 86_400);
/// The same for one route, where 0 keeps no answers.
pub(super) const ROUTE_MAX_TTL: Range<Duration> = seconds(0, 7 * 86_400);
/// Whoever gives a shorter TTL means it (RFC 2181 §8): after 1 h of an address that has moved, raising it is a fault of ours.
pub(super) const ROUTE_MIN_TTL: Range<Duration> = seconds(0, 3_600);
/// RFC 2308 §5: "values exceeding one day have been found to be problematic". 0 keeps no negative answers.
pub(super) const MAX_NEGATIVE_TTL: Range<Duration> = seconds(0, 86_400);
/// 0 asks each time. After 1 h the first group is back, and what another one said in its place still hides names.
pub(super) const LATER_TIER_NEGATIVE_TTL: Range<Duration> = seconds(0, 3_600);
/// RFC 9520 §3.2: at least 1 s, at most 5 min. Shorter floods a broken upstream, longer outlives its repair.
pub(super) const FAILURE: Range<Duration> = seconds(1, 300);
/// RFC 8767 §5 suggests one to three days; 0 turns stale answers off.
pub(super) const STALE_MAX_AGE: Range<Duration> = seconds(0, 7 * 86_400);
/// Denied names may be added: after an outage of 1 d "no such name" is more often wrong than right. 0 serves no expired
/// negative answers.
pub(super) const STALE_MAX_NEGATIVE_AGE: Range<Duration> = seconds(0, 86_400);
/// A name that is denied for a day is gone. 0 believes every denial.
pub(super) const STALE_MAX_DENIED_AGE: Range<Duration> = seconds(0, 86_400);
/// RFC 8767 §5 recommends 1.8 s; the clients here wait 1 s. 0 serves stale answers first and refreshes behind them.
pub(super) const STALE_AFTER: Range<Duration> = millis(0, 10_000);
/// RFC 8767 §4 recommends 30 s and wants it above 0; longer than 5 min delays the return to fresh answers.
pub(super) const STALE_TTL: Range<Duration> = seconds(1, 300);
/// 0 turns prefetch off. Entries count their hits in one octet. The key has a wider type, so that larger values are
/// read and refused.
pub(super) const PREFETCH_HITS: Range<u32> = Range { min: 0, max: 255 };
/// Above 90 % every hit would fetch.
pub(super) const PREFETCH_PERCENT: Range<u32> = Range { min: 1, max: 90 };

/// Each connection is a file descriptor; the usual hard limit is about a million.
pub(super) const CONNECTIONS: Range<usize> = Range {
    min: 1,
    max: 1_000_000,
};
/// IDs have 16 bits, so no connection can have more queries that differ in flight.
pub(super) const PIPELINE: Range<usize> = Range {
    min: 1,
    max: 65_535,
};
/// A reply has up to 65,537 bytes with its length, and it must fit whole.
pub(super) const UNSENT: Range<Size> = sizes(128 << 10, 1 << 30);
/// RFC 7766 §6.2.3: on the order of seconds; above 1 h idle connections are never reclaimed.
pub(super) const IDLE_TIMEOUT: Range<Duration> = millis(100, 3_600_000);

/// A buffer must hold a batch of 64 small packets; `setsockopt` takes an `int`.
pub(super) const SOCKET_BUFFER: Range<Size> = sizes(64 << 10, 1 << 30);
/// 0 drops everything from outside `allow`.
pub(super) const REFUSED_RATE: Range<u32> = Range {
    min: 0,
    max: 1_000_000,
};
/// A stub resolver asks A and AAAA at once: 1 would already hold back half of it, which may be wanted.
pub(super) const CLIENT_IN_FLIGHT: Range<usize> = Range {
    min: 1,
    max: 1_000_000,
};

const fn seconds(min: u64, max: u64) -> Range<Duration> {
    millis(min * 1_000, max * 1_000)
}

const fn millis(min: u64, max: u64) -> Range<Duration> {
    Range {
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    }
}

pub(super) const fn sizes(min: u64, max: u64) -> Range<Size> {
    Range {
        min: Size(min),
        max: Size(max),
    }
}
