//! How the process's file descriptors are shared out: clients' connections must not take what upstream sockets, the admin
//! interface and reloads need.
//!
//! Owns the arithmetic only. Each user enforces its own share: [`crate::listener::slots`] for clients,
//! [`crate::transport::udp::Shared`] for upstream sockets. The rest is for everything else.

use std::num::NonZeroUsize;

use crate::budgets::FILES_NOT_FOR_CLIENTS;

/// Descriptors that a worker's runtime takes when it starts (epoll, its waker, and copies of both), and one to spare.
const FILES_PER_RUNTIME: usize = 5;

/// The shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileShares {
    /// Connections of clients.
    pub clients: usize,
    /// Upstream sockets of one worker.
    pub upstream_per_worker: usize,
}

/// The limit of open files leaves a worker no socket to ask a server with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit} (RLIMIT_NOFILE, `ulimit -n`): {needed} are needed at least; raise it or lower workers"
)]
pub struct TooFewFiles {
    /// The limit.
    pub limit: usize,
    /// The limit that would be needed.
    pub needed: usize,
}

impl FileShares {
    /// Divides the rest of `limit` when `open` descriptors are open and the workers are not started yet. Half of it, up
    /// to [`FILES_NOT_FOR_CLIENTS`], is not for clients; three quarters of that are for upstream sockets.
    ///
    /// # Errors
    /// If a worker's share would be no socket at all.
    pub fn new(limit: usize, open: usize, workers: NonZeroUsize) -> Result<Self, TooFewFiles> {
        let workers = workers.get();
        let taken = open + workers * FILES_PER_RUNTIME;
        let left = limit.saturating_sub(taken);
        let kept = (left / 2).min(FILES_NOT_FOR_CLIENTS);
        let upstream_per_worker = kept * 3 / 4 / workers;
        if upstream_per_worker == 0 {
            return Err(TooFewFiles {
                limit,
                needed: taken + 2 * (4 * workers).div_ceil(3),
            });
        }
        Ok(Self {
            clients: left - kept,
            upstream_per_worker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_there_is() {
        for limit in [0, 16, 64, 256, 1_024, 65_536, 1_048_576] {
            for workers in [1, 2, 8, 64, 256] {
                let open = 12 + workers;
                let workers = NonZeroUsize::new(workers).expect("not zero");
                let Ok(shares) = FileShares::new(limit, open, workers) else {
                    continue;
                };
                let per_worker = FILES_PER_RUNTIME + shares.upstream_per_worker;
                let taken = open + workers.get() * per_worker + shares.clients;
                assert!(taken <= limit, "{limit}, {workers}: {shares:?}");
                assert!(shares.clients > 0, "{limit}, {workers}: {shares:?}");
            }
        }
    }

    #[test]
    fn what_is_needed_at_least_is_enough_and_one_less_is_not() {
        for workers in [1, 2, 3, 8, 64, 256] {
            let workers = NonZeroUsize::new(workers).expect("not zero");
            let new = |limit| FileShares::new(limit, 20, workers);
            let needed = new(0).expect_err("none are left").needed;
            assert!(new(needed).is_ok(), "{workers}: {needed}");
            let limit = needed - 1;
            assert_eq!(new(limit), Err(TooFewFiles { limit, needed }));
        }
    }

    #[test]
    fn a_usual_limit_leaves_clients_all_but_what_is_kept() {
        let workers = NonZeroUsize::new(2).expect("not zero");
        let shares = FileShares::new(1_048_576, 20, workers).expect("enough");
        let others = 20 + 2 * FILES_PER_RUNTIME + FILES_NOT_FOR_CLIENTS;
        assert_eq!(shares.clients, 1_048_576 - others);
    }
}
