//! The text of /metrics, taken apart.

use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Debug)]
pub(crate) struct Sample {
    /// With `_bucket`, `_sum` or `_count`.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// All lines of one family.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<Sample>,
}

/// All families.
#[derive(Debug, Default)]
pub(crate) struct Scrape(pub(crate) BTreeMap<String, Family>);

impl Scrape {
    pub(crate) fn read(text: &str) -> Self {
        let mut scrape = Self::default();
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                name.clone_into(&mut current);
                let known = scrape.0.insert(current.clone(), Family::default());
                assert!(known.is_none(), "{name} is there twice");
                kind.clone_into(&mut scrape.family(&current).kind);
            } else if !line.starts_with('#') {
                let sample = read_sample(line);
                assert!(sample.name.starts_with(&current), "{line}: of {current}?");
                scrape.family(&current).samples.push(sample);
            }
        }
        scrape
    }

    fn family(&mut self, name: &str) -> &mut Family {
        self.0.get_mut(name).expect("its TYPE came first")
    }

    /// Names of families that begin so.
    pub(crate) fn names(&self, prefix: &str) -> BTreeSet<String> {
        let names = self.0.keys().filter(|name| name.starts_with(prefix));
        names.cloned().collect()
    }

    /// Values that are not 0, added up by these labels. Of a histogram, name its `_count` or `_sum`.
    pub(crate) fn by(&self, name: &str, labels: &[&str]) -> BTreeMap<Vec<String>, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples(name).filter(|sample| sample.value != 0.0) {
            let of = |label: &&str| sample.labels.get(*label).cloned().unwrap_or_default();
            *sums.entry(labels.iter().map(of).collect()).or_default() += sample.value;
        }
        sums
    }

    /// All values together.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.samples(name).map(|sample| sample.value).sum()
    }

    /// Values of one label.
    pub(crate) fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let values = self
            .samples(name)
            .filter_map(|sample| sample.labels.get(label));
        values.cloned().collect()
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = &Sample> {
        let all = self.0.values().flat_map(|family| &family.samples);
        all.filter(move |sample| sample.name == name)
    }
}

impl Family {
    /// Names of its labels but `le`. Empty values count: a label without value is none to Prometheus, and a gap to a reader.
    pub(crate) fn label_names(&self) -> BTreeSet<&str> {
        let all = self.samples.iter().flat_map(|sample| sample.labels.keys());
        all.map(String::as_str)
            .filter(|label| *label != "le")
            .collect()
    }

    /// Bounds of its buckets but `+Inf`.
    pub(crate) fn bounds(&self) -> Vec<f64> {
        let all = self
            .samples
            .iter()
            .filter_map(|sample| sample.labels.get("le"));
        let mut bounds: Vec<f64> = all
            .filter(|bound| *bound != "+Inf")
            .map(|bound| bound.parse().expect("a number"))
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds
    }
}

fn read_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, inside) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("a brace")),
        None => (series, ""),
    };
    // No value in these tests has a quotation mark.
    let labels = inside.split_inclusive("\",").filter_map(|label| {
        let (label, value) = label.split_once("=\"")?;
        let value = value.trim_end_matches(',').trim_end_matches('"');
        Some((label.to_owned(), value.to_owned()))
    });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value
            .parse()
            .unwrap_or_else(|error| panic!("{line}: {error}")),
    }
}
