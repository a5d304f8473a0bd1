//! What was measured, and whether it is right.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::client::Heard;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
    /// What is right here depends on what one wants.
    Taste,
    /// There is no such feature to be tried.
    Absent,
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) verdict: Verdict,
    text: String,
}

impl Cell {
    pub(crate) fn judged(right: bool, text: impl Into<String>) -> Self {
        let verdict = if right {
            Verdict::Right
        } else {
            Verdict::Wrong
        };
        let text = text.into();
        Self { verdict, text }
    }

    pub(crate) fn taste(text: impl Into<String>) -> Self {
        let (verdict, text) = (Verdict::Taste, text.into());
        Self { verdict, text }
    }

    pub(crate) fn absent(why: &str) -> Self {
        let (verdict, text) = (Verdict::Absent, format!("n/a: {why}"));
        Self { verdict, text }
    }

    pub(crate) fn markdown(&self) -> String {
        let mark = match self.verdict {
            Verdict::Right => "✓ ",
            Verdict::Wrong => "✗ ",
            Verdict::Taste | Verdict::Absent => "",
        };
        format!("{mark}{}", self.text)
    }
}

/// A duration as a table shows it.
pub(crate) fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

/// What several questions got.
pub(crate) struct Tally {
    right: usize,
    all: usize,
    slowest: Duration,
    others: BTreeMap<String, usize>,
}

impl Tally {
    /// Counts the replies that are `want`.
    pub(crate) fn of(heard: &[Heard], want: &str) -> Self {
        let mut others = BTreeMap::new();
        for gist in heard.iter().map(Heard::gist).filter(|gist| gist != want) {
            *others.entry(gist).or_insert(0) += 1;
        }
        Self {
            right: heard.len() - others.values().sum::<usize>(),
            all: heard.len(),
            slowest: heard.iter().map(|one| one.took).max().unwrap_or_default(),
            others,
        }
    }

    pub(crate) fn all_within(&self, limit: Duration) -> bool {
        self.right == self.all && self.slowest <= limit
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}/{}", self.right, self.all);
        for (gist, count) in &self.others {
            write!(text, ", {count} × {gist}").expect("grows");
        }
        if self.right > 0 {
            write!(text, "; slowest {}", time(self.slowest)).expect("grows");
        }
        text
    }

    /// Right if all were answered as they should within the limit.
    pub(crate) fn cell(&self, limit: Duration) -> Cell {
        Cell::judged(self.all_within(limit), self.text())
    }
}
