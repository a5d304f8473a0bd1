//! The text exposition of families whose values are read at each scrape. Their names, labels and help are literals; the
//! values of labels may be anything.

use std::fmt::{Display, Write};

use super::distribution::Distribution;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// Counter.
    Counter,
    /// Gauge.
    Gauge,
    /// Histogram.
    Histogram,
}

/// Bounds in whole numbers, and how many of those make one of the unit that is shown: 10⁹ nanoseconds are a second.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<const BOUNDS: usize> {
    /// Upper bounds.
    pub bounds: [u64; BOUNDS],
    /// How many make one.
    pub unit: u32,
}

impl<const BOUNDS: usize> Buckets<BOUNDS> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format's numbers have 53 bits"
    )]
    fn shown(&self, value: u64) -> f64 {
        value as f64 / f64::from(self.unit)
    }
}

/// The text so far.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family; each name once.
    pub fn family(
        &mut self,
        name: &'static str,
        kind: FamilyKind,
        help: &'static str,
    ) -> Family<'_> {
        let kind = match kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
        };
        let text = &mut self.0;
        put(
            text,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        Family { text, name }
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// A counter's or a gauge's value.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        put_sample(self.text, self.name, "", labels, value);
    }

    /// A histogram's.
    pub fn distribution<const BOUNDS: usize>(
        &mut self,
        labels: &[(&str, &str)],
        buckets: &Buckets<BOUNDS>,
        values: &Distribution<BOUNDS>,
    ) {
        let mut put_bucket = |bound: &str, count: u64| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            put_sample(self.text, self.name, "_bucket", &labels, count);
        };
        for (bound, count) in buckets.bounds.iter().zip(values.cumulative()) {
            put_bucket(&buckets.shown(*bound).to_string(), count);
        }
        put_bucket("+Inf", values.count());
        let sum = buckets.shown(values.sum());
        put_sample(self.text, self.name, "_sum", labels, sum);
        put_sample(self.text, self.name, "_count", labels, values.count());
    }
}

fn put_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&str, &str)],
    value: impl Display,
) {
    text.push_str(name);
    text.push_str(suffix);
    for (index, (label, value)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        put(text, format_args!("{label}=\""));
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(character),
            }
        }
        text.push('"');
    }
    let end = if labels.is_empty() { "" } else { "}" };
    put(text, format_args!("{end} {value}\n"));
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_the_format_has_it() {
        let mut out = Exposition::default();
        let mut counter = out.family("a_total", FamilyKind::Counter, "Of a.");
        counter.sample(&[("zone", "."), ("odd", "a\\b\"c\nd")], 3);
        out.family("b", FamilyKind::Gauge, "Of b.").sample(&[], 0.5);
        let buckets = Buckets {
            bounds: [250_000, 1_000_000_000],
            unit: 1_000_000_000,
        };
        let mut times = Distribution::default();
        for value in [1_000, 250_001, 3_000_000_000] {
            times.observe(&buckets.bounds, value);
        }
        let mut histogram = out.family("c_seconds", FamilyKind::Histogram, "Of c.");
        histogram.distribution(&[("to", "x")], &buckets, &times);
        let expected = [
            "# HELP a_total Of a.",
            "# TYPE a_total counter",
            r#"a_total{zone=".",odd="a\\b\"c\nd"} 3"#,
            "# HELP b Of b.",
            "# TYPE b gauge",
            "b 0.5",
            "# HELP c_seconds Of c.",
            "# TYPE c_seconds histogram",
            r#"c_seconds_bucket{to="x",le="0.00025"} 1"#,
            r#"c_seconds_bucket{to="x",le="1"} 2"#,
            r#"c_seconds_bucket{to="x",le="+Inf"} 3"#,
            r#"c_seconds_sum{to="x"} 3.000251001"#,
            r#"c_seconds_count{to="x"} 3"#,
        ];
        assert_eq!(out.into_text().lines().collect::<Vec<_>>(), expected);
    }
}
