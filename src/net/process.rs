//! Settings of this process in the kernel and in its allocator: the limit of open files, huge pages, unused memory.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libmimalloc_sys::mi_option_set;

/// `mi_option_purge_delay` of mimalloc.h, which libmimalloc-sys has no name for.
const PURGE_DELAY: c_int = 15;

/// In milliseconds. mimalloc waits a second by default: while the cache fills within a second, the tables that it has outgrown
/// then count beside the new ones. With 100,000 answers that was 3 MB. Pages are freed so seldom that a tenth of a second
/// costs 20 more system calls in 300,000 misses.
const UNUSED_MEMORY_KEPT: c_long = 100;

/// Has the allocator give memory back to the kernel a tenth of a second after its last use, so that it does not count against
/// the pod's limit.
pub fn return_unused_memory() {
    // SAFETY: the call stores a number in a table of options.
    unsafe { mi_option_set(PURGE_DELAY, UNUSED_MEMORY_KEPT) };
}

/// Has the kernel give this process no transparent huge pages, where it hands them out unasked (`enabled` is `always`):
/// with a heap of a few megabytes most of a 2 MiB page stays unused, and still counts against the pod's limit.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn refuse_huge_pages() -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    let on: libc::c_ulong = 1;
    // SAFETY: PR_SET_THP_DISABLE takes four numbers and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, zero, zero, zero) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises this process's limit of open files to its hard limit; returns it.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = file_limits()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

/// How many files this process may have open.
///
/// # Errors
/// Those of `getrlimit(2)`.
pub fn file_limit() -> io::Result<u64> {
    Ok(file_limits()?.rlim_cur)
}

fn file_limits() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// A lower bound of the number of open files: a new descriptor gets the lowest free number. The bound is exact while
/// few descriptors were closed. /proc has the number, too, but is not mounted everywhere.
///
/// # Errors
/// `EMFILE` if there are no descriptors left.
pub fn open_files() -> io::Result<usize> {
    let probe = io::stderr().as_fd().try_clone_to_owned()?;
    Ok(usize::try_from(probe.as_raw_fd()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// A version of mimalloc that numbers its options differently would have another one set.
    #[test]
    fn the_option_is_the_one_with_the_default_of_a_second() {
        // SAFETY: the call reads a number in a table of options.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, 1_000);
        return_unused_memory();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, UNUSED_MEMORY_KEPT);
    }
}
