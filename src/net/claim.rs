//! Marks which instance of nodens serves an address, visible to other instances on the host.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram};

/// Marks an address as served by this instance for the other instances in its network namespace: an abstract Unix
/// socket, which the kernel removes when the process ends in any way.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held, never used")] UnixDatagram);

impl Claim {
    /// Claims an address for this process.
    ///
    /// # Errors
    /// `AddrInUse` if another instance has it; else those of `bind(2)`.
    pub fn take(address: SocketAddr) -> io::Result<Self> {
        UnixDatagram::bind_addr(&name(address)?).map(Self)
    }

    /// Marks this process as the successor: it serves the address, too, and goes on when the claimant ends.
    ///
    /// # Errors
    /// `AddrInUse` if another instance waits already; else those of `bind(2)`.
    pub fn wait_for(address: SocketAddr) -> io::Result<Self> {
        UnixDatagram::bind_addr(&name_of_next(address)?).map(Self)
    }

    /// Whether an instance waits for an address. Nothing is sent to it.
    #[must_use]
    pub fn is_waited_for(address: SocketAddr) -> bool {
        let connected =
            UnixDatagram::unbound().and_then(|socket| socket.connect_addr(&name_of_next(address)?));
        connected.is_ok()
    }
}

fn name(address: SocketAddr) -> io::Result<unix::SocketAddr> {
    unix::SocketAddr::from_abstract_name(format!("nodens/{address}"))
}

fn name_of_next(address: SocketAddr) -> io::Result<unix::SocketAddr> {
    unix::SocketAddr::from_abstract_name(format!("nodens/{address}/next"))
}
