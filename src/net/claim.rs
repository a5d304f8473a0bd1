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
        let name = unix::SocketAddr::from_abstract_name(format!("nodens/{address}"))?;
        UnixDatagram::bind_addr(&name).map(Self)
    }
}
