//! The parts that all metrics share: the registry behind /metrics, closed sets of labels, the buckets of durations,
//! CoreDNS's buckets, and the text of families that are read at each scrape.
//!
//! Families stand beside what they count (`metrics.rs` in `transport`, `upstream`, `serving`, `listener`, `node` and
//! `process`), labels beside the enums they name. Label sets are closed: protocols, a fixed list of types and response
//! codes, and the routes, groups and servers of the configuration; never a QNAME or a client.

pub mod coredns;
pub mod distribution;
pub mod exposition;
pub mod repeated;
pub mod space_saving;

use std::marker::PhantomData;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, TextEncoder,
};

/// Seconds. Hits take microseconds, misses milliseconds; there is no bucket beyond the time that clients wait.
const BUCKETS: [f64; 16] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1, 0.25, 0.5, 1.0, 4.0,
];

/// A closed set of label values, one for each variant of an enum. Implemented by `impl_label!`.
pub trait Label: Copy + 'static {
    /// All variants, each at its own index.
    const ALL: &'static [Self];

    /// The label's value in /metrics, /status and logs.
    fn label(self) -> &'static str;

    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Implements [`Label`] for an enum without fields whose variants are named in the order of their declaration.
macro_rules! impl_label {
    ($enum:ident { $($variant:ident => $label:literal),+ $(,)? }) => {
        impl $crate::metrics::Label for $enum {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }

            #[inline]
            fn index(self) -> usize {
                self as usize
            }
        }

        const _: () = {
            let all = <$enum as $crate::metrics::Label>::ALL;
            let mut index = 0;
            while index < all.len() {
                assert!(all[index] as usize == index, "variants in the order of their declaration");
                index += 1;
            }
        };
    };
}
pub(crate) use impl_label;

/// One value for each label of a closed set.
#[derive(Debug, Clone)]
pub struct PerLabel<L, T> {
    values: Box<[T]>,
    label: PhantomData<L>,
}

impl<L: Label, T> PerLabel<L, T> {
    /// Makes the value of each label.
    pub fn new(make: impl FnMut(&'static str) -> T) -> Self {
        Self {
            values: L::ALL.iter().map(|label| label.label()).map(make).collect(),
            label: PhantomData,
        }
    }

    /// The value of a label.
    #[inline]
    pub fn of(&self, label: L) -> &T {
        &self.values[label.index()]
    }

    /// All, in the order of [`Label::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }
}

/// The registry of families. Registering a name twice panics, because it is a bug.
#[derive(Debug, Clone, Default)]
pub struct Registry(prometheus::Registry);

/// Takes over the value whenever it is asked for.
struct CountedElsewhere {
    counter: IntCounter,
    value: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl prometheus::core::Collector for CountedElsewhere {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.counter.reset();
        self.counter.inc_by((self.value)());
        self.counter.collect()
    }
}

impl Registry {
    /// Without families.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: prometheus::Result<C>,
    ) -> C {
        let collector = collector.expect("names and labels are literals that follow the format");
        self.collect(collector.clone());
        collector
    }

    /// Adds families that are not made here, such as those of the process.
    ///
    /// # Panics
    /// If one of their names is taken.
    pub fn collect(&self, collector: impl prometheus::core::Collector + 'static) {
        self.0
            .register(Box::new(collector))
            .expect("each name is registered once");
    }

    /// A counter whose value is kept elsewhere.
    pub fn counted_elsewhere(
        &self,
        name: &str,
        help: &str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let counter = IntCounter::new(name, help)
            .expect("names and labels are literals that follow the format");
        self.collect(CountedElsewhere {
            counter,
            value: Box::new(value),
        });
    }

    /// A family of counters.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// A family of gauges.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A family of gauges of seconds.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A family of histograms of seconds.
    #[must_use]
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    /// The text exposition.
    ///
    /// # Panics
    /// Never: a vector takes every write, and labels are UTF-8.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.0.gather(), &mut text)
            .expect("a vector takes every write");
        String::from_utf8(text).expect("labels are UTF-8")
    }
}
