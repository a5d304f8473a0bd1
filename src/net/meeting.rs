//! The abstract Unix socket by which a successor connects to the instance that serves a listen address. It stands
//! beside the address's [`super::claim`].
//!
//! It is in the network namespace, as the address is, so that two pods of a node in the host's network need no
//! directory in common. It has no mode; both sides check the user instead. A process of the same user in the same
//! namespace could get some of the address's clients anyway, by `SO_REUSEPORT`: the kernel checks nothing else there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixStream};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::len_of;

fn name(address: SocketAddr) -> Vec<u8> {
    format!("\0nodens/{address}/cache").into_bytes()
}

/// The listening socket of the instance that serves an address. Dropping it closes it.
#[derive(Debug)]
pub struct MeetingPlace(UnixListener);

impl MeetingPlace {
    /// Opens the listening socket of an address, on the current runtime.
    ///
    /// # Errors
    /// `AddrInUse` if another instance has it; else those of the kernel.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let name = name(address);
        let name = unix::SocketAddr::from_abstract_name(&name[1..])?;
        let listener = unix::UnixListener::bind_addr(&name)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self)
    }

    /// Waits for a successor of our own user. The stream blocks.
    ///
    /// # Errors
    /// `PermissionDenied` if somebody else came; else those of `accept(2)`.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.0.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        check_user(&stream)?;
        Ok(stream)
    }
}

/// Connects to the instance of our own user that serves an address. The stream blocks.
///
/// # Errors
/// `ConnectionRefused` if there is none, `PermissionDenied` if somebody else is there; else those of `connect(2)`.
pub fn meet(address: SocketAddr, patience: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The time limit also bounds connect(2), which waits while the other side's queue is full.
    socket.set_write_timeout(Some(patience))?;
    let name = name(address);
    let name = std::ffi::OsStr::new(std::str::from_utf8(&name).map_err(io::Error::other)?);
    socket.connect(&SockAddr::unix(name)?)?;
    let stream = UnixStream::from(OwnedFd::from(socket));
    check_user(&stream)?;
    Ok(stream)
}

/// Whether the other side is a process of our own effective user.
fn check_user(stream: &UnixStream) -> io::Result<()> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: libc::gid_t::MAX,
    };
    let mut length = len_of::<libc::ucred>();
    // SAFETY: both pointers are those of values that live through the call, and the length is that of the first.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    if peer.uid == own {
        Ok(())
    } else {
        let text = format!("it runs as user {}, and we as {own}", peer.uid);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}
