//! An instance that ends sends new clients to its successor on the same port, so that its sockets are empty when they
//! close.
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of C structures and address families, as the C interfaces want them"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::{set_option, set_value};

/// Has the kernel give this UDP socket no further datagrams: one connected to its own address is not chosen for anybody
/// else's. What it holds already can still be read and answered.
///
/// # Errors
/// Those of `connect(2)`.
pub fn stop_receiving(socket: &Socket) -> io::Result<()> {
    let own = socket.local_addr()?.as_socket();
    let mut own = own.ok_or(io::ErrorKind::AddrNotAvailable)?;
    match own.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    socket.connect(&own.into())
}

/// Has the kernel give new connections to one listener of those that share an address: to that at `index`, counted in
/// the order in which they began to listen. If there is none at `index`, the kernel chooses as if nobody had asked.
///
/// A listener that is closed leaves its place to the last one.
///
/// # Errors
/// Those of `setsockopt(2)` with `SO_ATTACH_REUSEPORT_CBPF`.
pub fn steer(listener: &impl AsRawFd, index: u32) -> io::Result<()> {
    // A classic BPF program of one instruction: return this number.
    let mut instruction = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: index,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    let name = libc::SO_ATTACH_REUSEPORT_CBPF;
    set_value(listener.as_raw_fd(), libc::SOL_SOCKET, name, &program)
}

/// Undoes [`steer`] for all listeners of the address, whoever did it.
///
/// # Errors
/// Those of `setsockopt(2)` with `SO_DETACH_REUSEPORT_BPF`; that there is nothing to undo is none.
pub fn stop_steering(listener: &impl AsRawFd) -> io::Result<()> {
    match set_option(
        listener.as_raw_fd(),
        libc::SOL_SOCKET,
        SO_DETACH_REUSEPORT_BPF,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// From `asm-generic/socket.h`; the libc crate does not have it everywhere.
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;
