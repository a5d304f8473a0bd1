//! How the kernel shares out CPUs to this process's threads (sched(7)).

use std::io;
use std::time::Duration;

/// How the kernel treats a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadPolicy {
    /// `SCHED_OTHER`: by its weight.
    Normal,
    /// `SCHED_RR` with the lowest priority: before all threads that are not under real-time scheduling.
    Realtime,
}

/// Puts the calling thread under a policy. Threads and processes that it starts are under the normal one.
///
/// # Errors
/// Those of `sched_setscheduler(2)`: `EPERM` without the right, or where the kernel groups real-time tasks and this group
/// has no share.
pub fn set_own(policy: ThreadPolicy) -> io::Result<()> {
    let (number, priority) = match policy {
        ThreadPolicy::Normal => (libc::SCHED_OTHER, 0),
        ThreadPolicy::Realtime => (libc::SCHED_RR, 1),
    };
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    let number = number | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` is a live sched_param.
    if unsafe { libc::sched_setscheduler(0, number, &raw const parameters) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// CPU time that the calling thread has used.
///
/// # Errors
/// Those of `clock_gettime(2)`.
pub fn own_cpu_time() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}

/// Has the kernel end this process when one of its threads under real-time scheduling uses the CPU for so long without
/// sleeping (`RLIMIT_RTTIME`).
///
/// # Errors
/// Those of `setrlimit(2)`.
pub fn end_after_realtime(time: Duration) -> io::Result<()> {
    let microseconds = libc::rlim_t::try_from(time.as_micros()).unwrap_or(libc::RLIM_INFINITY);
    let limit = libc::rlimit {
        rlim_cur: microseconds,
        rlim_max: microseconds,
    };
    // SAFETY: `limit` is a live rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_RTTIME, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
