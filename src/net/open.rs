//! Opens sockets with their options: listening ones for clients, and connected ones towards upstream servers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::ptr;

use socket2::{Domain, Protocol, Socket, Type};

use super::{len_of, set_option};

/// Connections that the kernel keeps until we accept them; `net.core.somaxconn` caps it. Beyond it a client's SYN is lost
/// and sent again a second later.
pub const LISTEN_BACKLOG: i32 = 1024;

/// The remedy for an address that cannot be bound, for the end of an error message.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    if let Some(shortage) = shortage(error) {
        return shortage;
    }
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program or another nodens listens there (see `ss -lunp` and `ss -ltnp`): stop it or choose another \
             address; two instances of nodens share it if both have handover: true and run as one user"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this host has no such address: choose another, or have nodens add it by `node: {addresses: [ADDRESS]}`"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: grant it or choose a port above"
        }
        _ => "choose an address of this host",
    }
}

/// Buffer sizes that a listening UDP socket asks for.
#[derive(Debug, Clone, Copy)]
pub struct UdpOptions {
    /// `SO_RCVBUF`, in octets.
    pub receive_buffer: usize,
    /// `SO_SNDBUF`, in octets.
    pub send_buffer: usize,
}

/// A listening UDP socket, and the size of the receive buffer that it got, in octets.
///
/// # Errors
/// Those of `socket(2)`, `setsockopt(2)` and `bind(2)`.
pub fn listen_udp(address: SocketAddr, options: UdpOptions) -> io::Result<(Socket, usize)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    prepare(&socket, address)?;
    socket.set_reuse_port(true)?;
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
    grow_receive_buffer(&socket, options.receive_buffer)?;
    socket.set_send_buffer_size(options.send_buffer)?;
    if address.ip().is_unspecified() {
        want_destination(&socket, address)?;
    }
    socket.bind(&address.into())?;
    // The kernel doubles what it is asked for, for its own bookkeeping (socket(7)).
    let granted = socket.recv_buffer_size()? / 2;
    Ok((socket, granted))
}

/// Asks for `size` octets beyond `net.core.rmem_max` where `CAP_NET_ADMIN` allows it, else up to it.
fn grow_receive_buffer(socket: &Socket, size: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option value is a live int of the stated length.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            ptr::from_ref(&value).cast(),
            len_of::<libc::c_int>(),
        )
    };
    if forced < 0 {
        socket.set_recv_buffer_size(size)
    } else {
        Ok(())
    }
}

/// Has the kernel tell each datagram's destination (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
fn want_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => set_option(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
        ),
    }
}

/// A listening TCP socket. The kernel keeps up to about `send_buffer` octets for a client that does not read, instead of the
/// megabytes that it would allow each (`net.ipv4.tcp_wmem`).
///
/// # Errors
/// Those of `socket(2)`, `setsockopt(2)`, `bind(2)` and `listen(2)`.
pub fn listen_tcp(address: SocketAddr, send_buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    prepare(&socket, address)?;
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(send_buffer)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Fails if anybody listens at the address over UDP or TCP, even with `SO_REUSEPORT`. The sockets are closed again.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` and whatever else `bind(2)` says.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let tcp = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    prepare(&tcp, address)?;
    // Connections of an earlier instance may still be in TIME_WAIT; a listener conflicts all the same.
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(1)?;
    // Done last and as briefly as possible: what a client sends to this socket is lost.
    let udp = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    prepare(&udp, address)?;
    udp.bind(&address.into())
}

/// The resource that this host lacks, if that is why a socket could not be opened. Such an error says nothing about the
/// server.
#[must_use]
pub fn shortage(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("this process may open no further file (ulimit -n)"),
        libc::ENFILE => Some("the system has no file left (fs.file-max)"),
        libc::EAGAIN => Some("no local port is left (net.ipv4.ip_local_port_range)"),
        libc::ENOBUFS | libc::ENOMEM => Some("the kernel has no memory for it"),
        _ => None,
    }
}

/// The error of a TCP connection to `server` that could not be made, with EAGAIN for "no local port is left", as
/// `connect(2)` reports it for UDP. For TCP the kernel reports EADDRNOTAVAIL instead, which it also reports where this
/// host has no address from which to reach the server.
pub(super) fn tcp_error(server: SocketAddr, error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) {
        return error;
    }
    match connect_udp(server) {
        Err(no_address) if shortage(&no_address).is_none() => error,
        _ => io::Error::from_raw_os_error(libc::EAGAIN),
    }
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `[::]:53` beside `0.0.0.0:53` is what users write; a dual-stack socket would take both. Clients of IPv4 would
        // also come as `::ffff:10.0.0.1`, which no network of `allow` holds.
        socket.set_only_v6(true)?;
    }
    Ok(())
}

/// A UDP socket connected to an upstream server, from a port the kernel draws at random (RFC 5452 §9.2). ICMP errors
/// of every kind arrive on it (`IP_RECVERR`).
///
/// # Errors
/// Those of `socket(2)`, `setsockopt(2)` and `connect(2)`, such as "network is unreachable"; see [`shortage`].
pub fn connect_udp(server: SocketAddr) -> io::Result<Socket> {
    let socket = unconnected_udp(server)?;
    socket.connect(&server.into())?;
    Ok(socket)
}

/// A UDP socket as [`connect_udp`] opens it, but not connected: it also receives datagrams from other hosts.
///
/// # Errors
/// Those of `socket(2)` and `setsockopt(2)`.
pub fn unconnected_udp(server: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    let (level, name) = match server {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_option(socket.as_raw_fd(), level, name)?;
    Ok(socket)
}
