//! `epoll(7)` for the tools in this directory, which measure a server and must not be measured themselves.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// How long to wait.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "each tool waits in its own way")]
pub(crate) enum Wait {
    Forever,
    AtMost(Duration),
    Not,
}

/// Sockets to read from, each with a number.
pub(crate) struct Epoll {
    instance: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// `most` sockets are reported by one call.
    pub(crate) fn new(most: usize) -> io::Result<Self> {
        // SAFETY: no pointers are involved; the descriptor is ours alone.
        let instance = unsafe {
            let descriptor = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; most];
        Ok(Self { instance, events })
    }

    /// Watches a socket for something to read. `edge` is 0 or `EPOLLET`.
    pub(crate) fn add(
        &self,
        socket: &impl AsRawFd,
        number: u64,
        edge: libc::c_int,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | edge).cast_unsigned(),
            u64: number,
        };
        // SAFETY: `event` is a live epoll_event, and both descriptors are open.
        let added = unsafe {
            libc::epoll_ctl(
                self.instance.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The numbers of sockets that can be read.
    pub(crate) fn wait(&mut self, wait: Wait) -> io::Result<impl Iterator<Item = u64> + use<'_>> {
        let timeout = match wait {
            Wait::Forever => None,
            Wait::AtMost(duration) => Some(duration),
            Wait::Not => Some(Duration::ZERO),
        };
        let timeout = timeout.map(|duration| libc::timespec {
            tv_sec: duration.as_secs().cast_signed(),
            tv_nsec: duration.subsec_nanos().into(),
        });
        let most = libc::c_int::try_from(self.events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: room for `most` events; `timeout` lives until the call returns; no signal mask.
        let ready = unsafe {
            libc::epoll_pwait2(
                self.instance.as_raw_fd(),
                self.events.as_mut_ptr(),
                most,
                timeout.as_ref().map_or(ptr::null(), ptr::from_ref),
                ptr::null(),
            )
        };
        let count = match usize::try_from(ready) {
            Ok(count) => count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.events[..count].iter().map(|event| event.u64))
    }
}
