//! The source of sockets and of random numbers: the kernel, or a simulated network.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::open::{connect_udp, tcp_error};

/// A network, as seen from this host.
pub trait Network: Debug + Send + Sync {
    /// A UDP socket connected to a server, from a port that nobody can guess (RFC 5452 §9.2).
    ///
    /// # Errors
    /// That this host has no socket left ([`super::open::shortage`]), or no way to the server.
    fn connect_udp(&self, server: SocketAddr) -> io::Result<UdpSocket>;

    /// A TCP connection to a server.
    fn connect_tcp(&self, server: SocketAddr) -> Connecting;

    /// Fills `bytes` with unpredictable random numbers.
    fn fill_random(&self, bytes: &mut [u8]);
}

/// A connection that is being made. Ends with the errors of `connect(2)`.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// The network of this host's kernel.
#[must_use]
pub fn kernel() -> Arc<dyn Network> {
    Arc::new(Kernel)
}

#[derive(Debug)]
struct Kernel;

impl Network for Kernel {
    fn connect_udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        connect_udp(server).map(UdpSocket::Kernel)
    }

    fn connect_tcp(&self, server: SocketAddr) -> Connecting {
        Box::pin(async move {
            let stream = TcpStream::connect(server).await;
            let stream = stream.map_err(|error| tcp_error(server, error))?;
            stream.set_nodelay(true)?;
            Ok(Stream::Kernel(stream))
        })
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("getrandom(2) works once the kernel has booted");
    }
}

/// A UDP socket that does not block.
#[derive(Debug)]
pub enum UdpSocket {
    /// The kernel's.
    Kernel(Socket),
    /// The simulated network's.
    MadeUp(Box<dyn MadeUpSocket>),
}

impl From<Socket> for UdpSocket {
    fn from(socket: Socket) -> Self {
        Self::Kernel(socket)
    }
}

/// A UDP socket of a simulated network.
pub trait MadeUpSocket: Debug + Send + Sync {
    /// The address it is bound to.
    fn local_address(&self) -> SocketAddr;

    /// Whether there is a datagram or an error to take; if not, the context's task is woken when there is.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Takes the pending error, such as one of an ICMP message.
    fn take_error(&self) -> Option<io::Error>;

    /// Takes the datagram that waits longest, and who sent it.
    fn receive(&self) -> Option<(Vec<u8>, SocketAddr)>;

    /// Sends a datagram; without `to`, to the server it is connected to.
    ///
    /// # Errors
    /// A pending error, as the kernel reports it.
    fn send(&self, message: &[u8], to: Option<SocketAddr>) -> io::Result<()>;

    /// From now on no datagrams are delivered to it; those that wait can still be taken.
    fn stop_receiving(&self);
}

/// A TCP connection that is not registered with a runtime yet.
#[derive(Debug)]
pub enum NewStream {
    /// The kernel's; it does not block.
    Kernel(std::net::TcpStream),
    /// That of a made-up network.
    MadeUp(Box<dyn MadeUpStream>),
}

impl NewStream {
    /// Registers it with the runtime.
    ///
    /// # Errors
    /// If it cannot.
    pub fn watched(self) -> io::Result<Stream> {
        match self {
            Self::Kernel(stream) => TcpStream::from_std(stream).map(Stream::Kernel),
            Self::MadeUp(stream) => Ok(Stream::MadeUp(stream)),
        }
    }
}

/// A TCP connection.
#[derive(Debug)]
pub enum Stream {
    /// The kernel's.
    Kernel(TcpStream),
    /// That of a made-up network.
    MadeUp(Box<dyn MadeUpStream>),
}

/// A TCP connection of a simulated network. Its send buffer is never full.
pub trait MadeUpStream: Debug + Send + Sync {
    /// Whether there are octets, the end, or an error to take; if not, the context's task is woken when there are.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()>;

    /// Takes octets that have arrived; 0 at the other end's FIN.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to take; that the connection was reset.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends octets.
    ///
    /// # Errors
    /// That the connection was reset.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;

    /// Sends a FIN.
    fn shut_down(&self);

    /// Whether octets have arrived that nobody took.
    fn has_unread(&self) -> bool;
}

impl Stream {
    /// Has small messages leave at once.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.set_nodelay(true),
            Self::MadeUp(_) => Ok(()),
        }
    }

    /// Waits until there may be octets, the end, or an error.
    ///
    /// # Errors
    /// If the runtime is going away.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.readable().await,
            Self::MadeUp(stream) => {
                poll_fn(|context| stream.poll_readable(context)).await;
                Ok(())
            }
        }
    }

    /// Waits until there may be room for octets.
    ///
    /// # Errors
    /// If the runtime is going away.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.writable().await,
            Self::MadeUp(_) => Ok(()),
        }
    }

    /// Appends what has arrived, as far as the buffer has room; 0 octets at the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has; those of `recv(2)`.
    pub fn try_read_buf(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.try_read_buf(buffer),
            Self::MadeUp(stream) => {
                let mut octets = vec![0; buffer.capacity() - buffer.len()];
                let count = stream.try_read(&mut octets)?;
                buffer.extend_from_slice(&octets[..count]);
                Ok(count)
            }
        }
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; those of `send(2)`.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.try_write(bytes),
            Self::MadeUp(stream) => stream.write(bytes).map(|()| bytes.len()),
        }
    }

    /// Sends a FIN.
    ///
    /// # Errors
    /// Those of `shutdown(2)`.
    pub fn shut_down(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::MadeUp(stream) => {
                stream.shut_down();
                Ok(())
            }
        }
    }

    /// Whether octets have arrived that were not read. The runtime may not have heard of them yet.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        match self {
            Self::Kernel(stream) => {
                let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
                matches!(peeked, Ok(count) if count > 0)
            }
            Self::MadeUp(stream) => stream.has_unread(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::MadeUp(stream) => {
                std::task::ready!(stream.poll_readable(context));
                let count = stream.try_read(buffer.initialize_unfilled())?;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::MadeUp(stream) => Poll::Ready(stream.write(bytes).map(|()| bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_flush(context),
            Self::MadeUp(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(stream) => Pin::new(stream).poll_shutdown(context),
            Self::MadeUp(stream) => {
                stream.shut_down();
                Poll::Ready(Ok(()))
            }
        }
    }
}
