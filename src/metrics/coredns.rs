//! CoreDNS's buckets, as its 1.11 to 1.15 have them (github.com/coredns/coredns: plugin/plugin.go, plugin/metrics/vars).

use super::exposition::Buckets;

/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

/// How many bounds histograms of times have.
pub const TIME_BOUNDS: usize = 16;

/// How many bounds histograms of sizes have.
pub const SIZE_BOUNDS: usize = 14;

/// From 0.25 ms on, each twice the one before.
pub const TIMES: Buckets<TIME_BOUNDS> = {
    let mut bounds = [250_000; TIME_BOUNDS];
    let mut index = 1;
    while index < TIME_BOUNDS {
        bounds[index] = 2 * bounds[index - 1];
        index += 1;
    }
    Buckets {
        bounds,
        unit: SECOND,
    }
};

/// Of messages, in octets.
pub const SIZES: Buckets<SIZE_BOUNDS> = Buckets {
    bounds: [
        0, 100, 200, 300, 400, 511, 1_023, 2_047, 4_095, 8_291, 16_000, 32_000, 48_000, 64_000,
    ],
    unit: 1,
};

/// Of /health: from 0.25 ms on, each ten times the one before.
pub const HEALTH_TIMES: Buckets<5> = Buckets {
    bounds: [250_000, 2_500_000, 25_000_000, 250_000_000, 2_500_000_000],
    unit: SECOND,
};
