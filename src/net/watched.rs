//! UDP sockets registered with the runtime.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::batch::{ReceiveBatch, SendBatch};
use super::network::{MadeUpSocket, UdpSocket};
use super::set_option;
use super::steering::stop_receiving;

/// A UDP socket that the runtime watches for datagrams and errors only. tokio's own `UdpSocket` is woken by each datagram
/// that has left, too: once more for every batch of replies, and for every query sent upstream.
#[derive(Debug)]
pub struct Watched(Inner);

#[derive(Debug)]
enum Inner {
    Kernel(AsyncFd<Socket>),
    MadeUp(Box<dyn MadeUpSocket>),
}

/// There may be something to read.
pub struct Ready<'a>(ReadyInner<'a>);

enum ReadyInner<'a> {
    Kernel(AsyncFdReadyGuard<'a, Socket>),
    MadeUp(&'a dyn MadeUpSocket),
}

impl Ready<'_> {
    /// Nothing was left to read: the next [`Watched::ready`] waits for more.
    pub fn clear_ready(&mut self) {
        if let ReadyInner::Kernel(guard) = &mut self.0 {
            guard.clear_ready();
        }
    }
}

impl Watched {
    /// Watches a socket that does not block.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(socket: impl Into<UdpSocket>) -> io::Result<Self> {
        let socket = match socket.into() {
            UdpSocket::Kernel(socket) => socket,
            UdpSocket::MadeUp(socket) => return Ok(Self(Inner::MadeUp(socket))),
        };
        // An ICMP error then counts as readable. Waiting for both events separately would cost an entry in a list of
        // the runtime for every wait.
        set_option(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SELECT_ERR_QUEUE,
        )?;
        let interest = Interest::READABLE | Interest::PRIORITY;
        // SAFETY: a `Socket` owns its descriptor, which stays open and the same until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
        Ok(Self(Inner::Kernel(watched?)))
    }

    /// The address it is bound to; none for a family other than IP.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Inner::Kernel(socket) => socket.get_ref().local_addr().ok()?.as_socket(),
            Inner::MadeUp(socket) => Some(socket.local_address()),
        }
    }

    /// Waits until there may be a datagram or an ICMP error.
    ///
    /// # Errors
    /// If the runtime is going away.
    pub async fn ready(&self) -> io::Result<Ready<'_>> {
        poll_fn(|context| self.poll_ready(context)).await
    }

    /// Polls for [`Watched::ready`].
    ///
    /// # Errors
    /// If the runtime is going away.
    #[inline]
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready<'_>>> {
        match &self.0 {
            Inner::Kernel(socket) => {
                let ready = socket.poll_read_ready(context);
                ready.map_ok(|guard| Ready(ReadyInner::Kernel(guard)))
            }
            Inner::MadeUp(socket) => {
                let ready = socket.poll_readable(context);
                ready.map(|()| Ok(Ready(ReadyInner::MadeUp(&**socket))))
            }
        }
    }

    /// Waits until the kernel's send buffer has room.
    ///
    /// # Errors
    /// If the runtime is going away, or there are no file descriptors left.
    pub async fn writable(&self) -> io::Result<()> {
        let Inner::Kernel(socket) = &self.0 else {
            return Ok(());
        };
        // Rare, so a second registration is made only when it is needed.
        let socket = socket.get_ref().try_clone()?;
        // SAFETY: as above.
        let side = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) }?;
        side.writable().await.map(drop)
    }

    /// Sends a datagram to the server that it is connected to, without blocking.
    ///
    /// # Errors
    /// Those of `send(2)`, among them a pending ICMP error.
    #[inline]
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        match &self.0 {
            Inner::Kernel(socket) => socket.get_ref().send(message).map(drop),
            Inner::MadeUp(socket) => socket.send(message, None),
        }
    }

    /// Sends the datagrams of a batch from number `from` on, without blocking; returns how many left, at least one.
    ///
    /// # Errors
    /// Those of `sendmmsg(2)` for datagram `from`; the ones behind it were not tried.
    #[inline]
    pub fn send_batch(&self, batch: &SendBatch, from: usize) -> io::Result<usize> {
        match &self.0 {
            Inner::Kernel(socket) => batch.send(socket.get_ref(), from),
            Inner::MadeUp(socket) => batch.send_made_up(&**socket, from),
        }
    }

    /// Reads what has arrived, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has arrived; else a pending ICMP error or those of `recvmmsg(2)`.
    pub fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        match &self.0 {
            Inner::Kernel(socket) => batch.receive(socket.get_ref()),
            Inner::MadeUp(socket) => batch.receive_made_up(&**socket),
        }
    }

    /// Has the kernel give it no further datagrams: see [`stop_receiving`].
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn stop_receiving(&self) -> io::Result<()> {
        match &self.0 {
            Inner::Kernel(socket) => stop_receiving(socket.get_ref()),
            Inner::MadeUp(socket) => {
                socket.stop_receiving();
                Ok(())
            }
        }
    }
}

/// Reads what has arrived, and if that was all, has the next [`Watched::ready`] wait for more.
///
/// # Errors
/// `WouldBlock` if nothing has arrived; else a pending ICMP error or those of `recvmmsg(2)`.
#[inline]
pub fn receive(ready: &mut Ready<'_>, batch: &mut ReceiveBatch) -> io::Result<usize> {
    let received = match &ready.0 {
        ReadyInner::Kernel(guard) => batch.receive(guard.get_inner()),
        ReadyInner::MadeUp(socket) => batch.receive_made_up(*socket),
    };
    let more = match &received {
        Ok(_) => batch.full(),
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    if !more {
        ready.clear_ready();
    }
    received
}
