//! How the process's file descriptors are shared out: clients' connections must not take what upstream sockets, the admin
//! interface and reloads need.
//!
//! Owns the arithmetic alone. Who opens something keeps to its share: [`crate::listener::slots`] for clients,
//! [`crate::transport::udp::Shared`] for upstream sockets. What is left is for all else.

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

impl FileShares {
    /// Shares out what is left of `limit` when `open` descriptors are open, and the workers are not started yet. Half of it
    /// is kept from clients, up to [`FILES_NOT_FOR_CLIENTS`]; three quarters of that are for upstream sockets.
    #[must_use]
    pub fn new(limit: usize, open: usize, workers: NonZeroUsize) -> Self {
        let workers = workers.get();
        let left = limit.saturating_sub(open + workers * FILES_PER_RUNTIME);
        let kept = (left / 2).min(FILES_NOT_FOR_CLIENTS);
        Self {
            // With less than one connection there would be no TCP at all.
            clients: (left - kept).max(1),
            upstream_per_worker: kept * 3 / 4 / workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_there_is() {
        for limit in [0, 16, 64, 256, 1_024, 65_536, 1_048_576] {
            for workers in [1, 2, 8, 64] {
                let open = 12 + workers;
                let workers = NonZeroUsize::new(workers).expect("not zero");
                let shares = FileShares::new(limit, open, workers);
                let taken = open
                    + workers.get() * (FILES_PER_RUNTIME + shares.upstream_per_worker)
                    + shares.clients;
                assert!(
                    taken <= limit || shares.clients == 1,
                    "{limit}, {workers}: {shares:?}"
                );
            }
        }
    }

    #[test]
    fn a_usual_limit_leaves_clients_all_but_what_is_kept() {
        let workers = NonZeroUsize::new(2).expect("not zero");
        let shares = FileShares::new(1_048_576, 20, workers);
        let others = 20 + 2 * FILES_PER_RUNTIME + FILES_NOT_FOR_CLIENTS;
        assert_eq!(shares.clients, 1_048_576 - others);
    }
}
