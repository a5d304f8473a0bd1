//! Real-time scheduling of workers (`scheduling: realtime`), and what keeps it from taking the node's CPUs.
//!
//! A worker that uses more CPU time than its budget goes on under normal scheduling for a while. If a worker does not
//! get to check its budget, the kernel ends the process.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};

use crate::budgets::{REALTIME_CPU_PER_SECOND, REALTIME_PAUSE, REALTIME_WITHOUT_SLEEP};
use crate::config::Scheduling;
use crate::metrics::Registry;
use crate::net::scheduling::{ThreadPolicy, end_after_realtime, own_cpu_time, set_own};

/// The time over which a worker's CPU time is added up.
const WINDOW: Duration = Duration::from_secs(1);

/// The bit of `CAP_SYS_NICE` (capabilities(7)).
const SYS_NICE: u32 = 23;

/// Families of all workers; clones share them.
#[derive(Debug, Clone)]
pub struct SchedulingMetrics {
    workers: IntGauge,
    stepdowns: IntCounter,
}

impl SchedulingMetrics {
    /// Registers them, at zero.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            workers: registry.gauge(
                "nodens_realtime_workers",
                "Workers under real-time scheduling now: all, or none where it is not asked for or not to be had.",
            ),
            stepdowns: registry.counter(
                "nodens_realtime_stepdowns_total",
                "Times a worker used more CPU time than real-time scheduling allows it, and went on under normal scheduling for a while.",
            ),
        }
    }
}

/// The policy for workers: real-time scheduling if it is configured and the kernel allows it. If the kernel refuses it,
/// there is one warning.
#[must_use]
pub fn available(asked: Scheduling) -> ThreadPolicy {
    if asked == Scheduling::Normal {
        return ThreadPolicy::Normal;
    }
    let tried = end_after_realtime(REALTIME_WITHOUT_SLEEP)
        .and_then(|()| set_own(ThreadPolicy::Realtime))
        .and_then(|()| set_own(ThreadPolicy::Normal));
    let Err(error) = tried else {
        return ThreadPolicy::Realtime;
    };
    tracing::warn!(
        %error,
        "scheduling: realtime is not to be had here, so workers run under normal scheduling: {}",
        remedy(has_sys_nice())
    );
    ThreadPolicy::Normal
}

fn remedy(has_sys_nice: Option<bool>) -> &'static str {
    match has_sys_nice {
        Some(true) => {
            "the kernel groups real-time tasks (CONFIG_RT_GROUP_SCHED), and this process's cgroup has no share of their time \
             (cpu.rt_runtime_us in cgroup v1; in v2 there is none, and the kernel has to start with rt_group_sched=0), or \
             systemd forbids it (RestrictRealtime=no allows it)"
        }
        _ => {
            "it takes the capability SYS_NICE, which the chart adds with `scheduling: realtime`, or RLIMIT_RTPRIO of 1; under \
             systemd RestrictRealtime=no, too"
        }
    }
}

/// None where /proc cannot be read.
fn has_sys_nice() -> Option<bool> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    let bits = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(bits >> SYS_NICE & 1 == 1)
}

/// A worker's scheduling; lives on its thread.
#[derive(Debug)]
pub struct WorkerScheduling {
    metrics: SchedulingMetrics,
    budget: Budget,
    realtime: bool,
}

impl WorkerScheduling {
    /// Puts the calling thread, a worker's, under real-time scheduling.
    #[must_use]
    pub fn realtime(metrics: &SchedulingMetrics) -> Self {
        let mut worker = Self {
            metrics: metrics.clone(),
            budget: Budget::default(),
            realtime: false,
        };
        worker.put_under(ThreadPolicy::Realtime);
        worker
    }

    /// Checks the budget; to be called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        let Ok(used) = own_cpu_time() else { return };
        match self.budget.policy(now, used) {
            ThreadPolicy::Normal if self.realtime => {
                self.put_under(ThreadPolicy::Normal);
                self.metrics.stepdowns.inc();
                tracing::warn!(
                    "this worker used more than {} ms of CPU time in a second: it goes on under normal scheduling for {} s",
                    REALTIME_CPU_PER_SECOND.as_millis(),
                    REALTIME_PAUSE.as_secs()
                );
            }
            ThreadPolicy::Realtime if !self.realtime => self.put_under(ThreadPolicy::Realtime),
            ThreadPolicy::Normal | ThreadPolicy::Realtime => {}
        }
    }

    fn put_under(&mut self, policy: ThreadPolicy) {
        if let Err(error) = set_own(policy) {
            tracing::debug!(%error, ?policy, "the scheduling of a worker stays as it is");
            return;
        }
        self.realtime = policy == ThreadPolicy::Realtime;
        self.metrics.workers.add(if self.realtime { 1 } else { -1 });
    }
}

impl Drop for WorkerScheduling {
    fn drop(&mut self) {
        if self.realtime {
            self.metrics.workers.dec();
        }
    }
}

/// A worker's CPU time under real-time scheduling. Pure: times come in.
#[derive(Debug, Default)]
struct Budget {
    /// Times of the checks within the last [`WINDOW`], and the CPU time used by then.
    looks: VecDeque<(Instant, Duration)>,
    /// Until when it is over.
    over_until: Option<Instant>,
}

impl Budget {
    /// The policy for the time after `now`, when `used` CPU time was used since the start.
    fn policy(&mut self, now: Instant, used: Duration) -> ThreadPolicy {
        // The last check at or before the window's beginning is kept.
        while self
            .looks
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.looks.pop_front();
        }
        self.looks.push_back((now, used));
        if self.over_until.is_some_and(|until| now < until) {
            return ThreadPolicy::Normal;
        }
        self.over_until = None;
        let before = self.looks.front().map_or(used, |(_, before)| *before);
        if used.saturating_sub(before) > REALTIME_CPU_PER_SECOND {
            self.over_until = Some(now + REALTIME_PAUSE);
            return ThreadPolicy::Normal;
        }
        ThreadPolicy::Realtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    /// The policy at each tick of a worker that uses these shares of a CPU, in hundredths.
    fn policies(shares: impl IntoIterator<Item = u32>) -> Vec<ThreadPolicy> {
        let (mut now, mut used) = (Instant::now(), Duration::ZERO);
        let mut budget = Budget::default();
        budget.policy(now, used);
        let tick = |share: u32| {
            now += TICK;
            used += TICK * share / 100;
            budget.policy(now, used)
        };
        shares.into_iter().map(tick).collect()
    }

    #[test]
    fn a_worker_within_its_budget_stays_under_real_time_scheduling() {
        assert!(
            policies([49; 100])
                .iter()
                .all(|policy| *policy == ThreadPolicy::Realtime)
        );
        // Half a second at once, and then nothing.
        let burst = policies([100, 100, 0, 0, 0, 0]);
        assert_eq!(burst, [ThreadPolicy::Realtime; 6]);
    }

    #[test]
    fn one_that_uses_more_steps_down_within_a_second_and_comes_back_after_the_pause() {
        let ticks_of_pause =
            usize::try_from(REALTIME_PAUSE.as_millis() / TICK.as_millis()).expect("few");
        let all = policies(std::iter::repeat_n(100, 4).chain(std::iter::repeat_n(1, 100)));
        let down = all
            .iter()
            .position(|policy| *policy == ThreadPolicy::Normal);
        assert_eq!(down, Some(2), "600 ms were used by then, or 750");
        let back = all[2..]
            .iter()
            .position(|policy| *policy == ThreadPolicy::Realtime);
        assert_eq!(back, Some(ticks_of_pause));
        assert!(
            all[2 + ticks_of_pause..]
                .iter()
                .all(|policy| *policy == ThreadPolicy::Realtime)
        );
    }

    #[test]
    fn one_that_goes_on_using_more_stays_down() {
        let all = policies([80; 200]);
        let up = all
            .iter()
            .filter(|policy| **policy == ThreadPolicy::Realtime)
            .count();
        assert_eq!(up, 2, "before it was found out");
    }

    #[test]
    fn who_slept_between_two_looks_is_judged_by_what_was_used_since() {
        let mut budget = Budget::default();
        let start = Instant::now();
        budget.policy(start, Duration::ZERO);
        // As after the machine was stopped for a minute.
        let later = budget.policy(start + Duration::from_mins(1), Duration::from_millis(400));
        assert_eq!(later, ThreadPolicy::Realtime);
    }

    #[test]
    fn the_warning_says_what_is_missing() {
        assert!(remedy(Some(false)).contains("SYS_NICE"));
        assert!(remedy(None).contains("SYS_NICE"));
        assert!(remedy(Some(true)).contains("cpu.rt_runtime_us"));
    }
}
