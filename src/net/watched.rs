//! UDP sockets as the runtime watches them.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::batch::ReceiveBatch;
use super::set_option;

/// A UDP socket that the runtime watches for datagrams and errors only. tokio's own `UdpSocket` is woken by each datagram
/// that has left, too: once more for every batch of replies, and for every query sent upstream.
#[derive(Debug)]
pub struct Watched(AsyncFd<Socket>);

/// There may be something to read.
pub type Ready<'a> = AsyncFdReadyGuard<'a, Socket>;

impl Watched {
    /// Watches a socket that does not block.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        // An ICMP error then counts as something to read. Waiting for both by their own names takes the runtime a list, which
        // every wait enters and leaves.
        set_option(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SELECT_ERR_QUEUE,
        )?;
        let interest = Interest::READABLE | Interest::PRIORITY;
        // SAFETY: a `Socket` owns its descriptor, which stays open and the same until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
        Ok(Self(watched?))
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.0.get_ref()
    }

    /// Waits until there may be a datagram or an ICMP error.
    ///
    /// # Errors
    /// If the runtime is going away.
    pub async fn ready(&self) -> io::Result<Ready<'_>> {
        poll_fn(|context| self.poll_ready(context)).await
    }

    /// The same for those who are polled.
    ///
    /// # Errors
    /// If the runtime is going away.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready<'_>>> {
        self.0.poll_read_ready(context)
    }

    /// Waits until the kernel's send buffer has room.
    ///
    /// # Errors
    /// If the runtime is going away, or there are no file descriptors left.
    pub async fn writable(&self) -> io::Result<()> {
        // Rare, so watched on the side, and only now.
        let socket = self.socket().try_clone()?;
        // SAFETY: as above.
        let side = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) }?;
        side.writable().await.map(drop)
    }
}

/// Reads what has arrived, and if that was all, has the next [`Watched::ready`] wait for more.
///
/// # Errors
/// `WouldBlock` if nothing has arrived; else a pending ICMP error or those of `recvmmsg(2)`.
pub fn receive(ready: &mut Ready<'_>, batch: &mut ReceiveBatch) -> io::Result<usize> {
    let received = batch.receive(ready.get_inner());
    let more = match &received {
        Ok(_) => batch.full(),
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    if !more {
        ready.clear_ready();
    }
    received
}
