//! What an instance holds, once a second.

use std::fs;
use std::time::Instant;

use crate::common::Nodens;
use crate::slope::Bound;
use crate::{DESCRIPTORS, ENTRIES, RSS, THREADS, WAITING};

/// A figure's name, where it stands in a sample, and how much it may grow.
pub(crate) type Figure = (&'static str, fn(&Sample) -> f64, Bound);

pub(crate) const FIGURES: [Figure; 8] = [
    ("resident bytes", |sample| sample.rss, RSS),
    ("anonymous bytes", |sample| sample.anonymous, RSS),
    ("open files", |sample| sample.descriptors, DESCRIPTORS),
    ("of them sockets", |sample| sample.sockets, DESCRIPTORS),
    ("threads", |sample| sample.threads, THREADS),
    ("cache entries", |sample| sample.entries, ENTRIES),
    ("questions in flight", |sample| sample.in_flight, WAITING),
    ("clients' connections", |sample| sample.connections, WAITING),
];

/// What an instance holds at a time.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Seconds since it became ready.
    age: f64,
    rss: f64,
    anonymous: f64,
    descriptors: f64,
    sockets: f64,
    threads: f64,
    entries: f64,
    in_flight: f64,
    connections: f64,
}

/// An instance from when it became ready.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) born: Instant,
    samples: Vec<Sample>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            samples: vec![],
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "far fewer than 2^52 of anything"
    )]
    pub(crate) fn sample(&mut self, nodens: &Nodens) {
        let (status, metrics) = nodens.get("/metrics");
        assert_eq!(status, 200, "/metrics: {metrics}");
        let metric = |name: &str| {
            let values = metrics.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let value = rest
                    .starts_with(['{', ' '])
                    .then(|| rest.rsplit(' ').next())??;
                value.parse::<f64>().ok()
            });
            values.sum()
        };
        let process = format!("/proc/{}", nodens.id());
        let descriptors = nodens.descriptors();
        let is_socket = |number: &&u64| {
            let target = fs::read_link(format!("{process}/fd/{number}"));
            target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        };
        let threads = fs::read_dir(format!("{process}/task")).expect("the process runs");
        self.samples.push(Sample {
            age: self.born.elapsed().as_secs_f64(),
            rss: nodens.rss_bytes() as f64,
            anonymous: nodens.anonymous_bytes() as f64,
            sockets: descriptors.iter().filter(is_socket).count() as f64,
            descriptors: descriptors.len() as f64,
            threads: threads.count() as f64,
            entries: metric("nodens_cache_entries"),
            in_flight: metric("nodens_in_flight"),
            connections: metric("nodens_tcp_connections"),
        });
    }

    /// A figure at each age from this one on, in seconds.
    pub(crate) fn points(&self, figure: fn(&Sample) -> f64, from: f64) -> Vec<(f64, f64)> {
        let samples = self.samples.iter().filter(|sample| sample.age >= from);
        samples.map(|sample| (sample.age, figure(sample))).collect()
    }

    pub(crate) fn last(&self) -> Option<&Sample> {
        self.samples.last()
    }
}
