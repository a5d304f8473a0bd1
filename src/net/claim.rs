//! Which instance of ours serves an address, as other instances on the host see it.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram};

/// The sign that an instance serves an address, by which others of this network namespace know it: an abstract Unix
/// socket, which the kernel removes with the process, however that ends.
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

    /// Says that this process serves the address too, and will go on when the one that claimed it ends.
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
