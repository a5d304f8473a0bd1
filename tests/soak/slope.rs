//! Whether a figure that is noisy grows: its slope, and how much of one a run of some length may show.

use std::time::Duration;

/// How much a figure may grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) per_hour: f64,
    /// What noise makes of it at most over the whole run, once the figure has settled.
    pub(crate) per_run: f64,
}

impl Bound {
    /// The steepest slope, per hour, that a run of this length may show, with so many times the usual noise.
    pub(crate) fn slope(self, run: Duration, noise: f64) -> f64 {
        self.per_hour + noise * self.per_run * 3_600.0 / run.as_secs_f64()
    }
}

/// Points that [`slope`] compares pairwise; more are made fewer first.
const POINTS: usize = 300;

/// Slope per hour of points (seconds, value) in the order of time: the median of the slopes of all pairs (Theil and Sen),
/// which a few outliers do not change. 0 for fewer than two points.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let points = thinned(points);
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (at, (x, y)) in points.iter().enumerate() {
        for (later, value) in &points[at + 1..] {
            if later > x {
                slopes.push((value - y) / (later - x));
            }
        }
    }
    median(slopes).unwrap_or(0.0) * 3_600.0
}

/// The median; the upper one of an even number.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Each point stands for neighbours: medians of both coordinates.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS).max(1);
    let middle = |points: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
        median(points.iter().map(part).collect()).expect("a chunk holds a point")
    };
    points
        .chunks(together)
        .map(|chunk| {
            (
                middle(chunk, |point| point.0),
                middle(chunk, |point| point.1),
            )
        })
        .collect()
}

mod tests {
    use super::*;
    use crate::{QUERIES_PER_SECOND, RSS};

    const HOUR: Duration = Duration::from_hours(1);
    const MB: f64 = 1e6;

    /// Resident memory of a process at each second of an hour: 20 MB, noise of 1 MB either way, now and then 5 MB more, and
    /// what it leaks.
    fn memory(leak_per_second: f64) -> Vec<(f64, f64)> {
        let mut random = fastrand::Rng::with_seed(7);
        let value = |second: u32| {
            let noise = (random.f64() - 0.5) * 2.0 * MB;
            let spike = if random.u8(..) < 10 { 5.0 * MB } else { 0.0 };
            let at = f64::from(second);
            (at, 20.0 * MB + noise + spike + leak_per_second * at)
        };
        (0..3_600).map(value).collect()
    }

    #[test]
    fn a_line_has_its_slope() {
        let line: Vec<_> = (0..1_000)
            .map(|x| (f64::from(x), 2.0 * f64::from(x)))
            .collect();
        assert!((slope(&line) - 7_200.0).abs() < 1e-6);
        assert!(slope(&line[..1]).abs() < 1e-9);
    }

    #[test]
    fn fifty_octets_a_query_break_the_bound_of_memory() {
        let leak = memory(50.0 * QUERIES_PER_SECOND);
        assert!(slope(&leak) > RSS.slope(HOUR, 1.0), "{}", slope(&leak));
    }

    #[test]
    fn a_kilobyte_a_reload_does_not_hide_behind_the_noise_of_an_hour() {
        // 360 reloads: under the bound, but seen.
        let leaking = slope(&memory(100.0));
        assert!((leaking - 0.36 * MB).abs() < 0.2 * MB, "{leaking}");
    }

    #[test]
    fn noise_and_a_single_step_do_not_break_it() {
        assert!(slope(&memory(0.0)).abs() < RSS.slope(HOUR, 1.0) / 10.0);
        let step: Vec<_> = memory(0.0)
            .into_iter()
            .map(|(at, value)| (at, if at < 600.0 { value - 10.0 * MB } else { value }))
            .collect();
        assert!(slope(&step) < RSS.slope(HOUR, 1.0), "{}", slope(&step));
    }

    #[test]
    fn a_descriptor_lost_at_every_replacement_breaks_the_bound_of_descriptors() {
        let mut random = fastrand::Rng::with_seed(7);
        let count = |life: u32| {
            let at = f64::from(life * 60);
            (at, 60.0 + f64::from(life) + f64::from(random.u8(..10)))
        };
        let lives: Vec<_> = (0..60).map(count).collect();
        assert!(slope(&lives) > crate::DESCRIPTORS.slope(HOUR, 1.0));
    }
}
