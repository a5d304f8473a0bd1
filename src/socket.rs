//! Sockets: how they are opened, and the batched calls tokio and socket2 do not have (`recvmmsg(2)`, `sendmmsg(2)`).
//!
//! The one module with `unsafe`. Owns buffers and control messages; knows nothing of DNS.
#![allow(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of C structures and address families, as the C interfaces want them"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram};
use std::ptr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Room for one PKTINFO and one drop counter.
const CONTROL_LEN: usize = 128;

/// Control messages must be aligned like `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// Datagrams received by one call.
pub struct ReceiveBatch {
    // Vectors are never resized, so the headers' pointers into them stay valid.
    headers: Vec<libc::mmsghdr>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    buffers: Vec<u8>,
    _iovecs: Vec<libc::iovec>,
    datagram_len: usize,
    received: usize,
}

impl ReceiveBatch {
    /// Room for `count` datagrams of at most `datagram_len` octets; longer ones are cut.
    #[must_use]
    pub fn new(count: usize, datagram_len: usize) -> Self {
        // SAFETY: all-zero bytes are valid values of these C structs.
        let (mut headers, mut names) = unsafe {
            (
                vec![mem::zeroed::<libc::mmsghdr>(); count],
                vec![mem::zeroed::<libc::sockaddr_storage>(); count],
            )
        };
        let mut controls = vec![Control([0; CONTROL_LEN]); count];
        let mut buffers = vec![0_u8; count * datagram_len];
        let base = buffers.as_mut_ptr();
        let mut iovecs: Vec<libc::iovec> = (0..count)
            .map(|index| libc::iovec {
                // SAFETY: index < count, so the offset is inside `buffers`.
                iov_base: unsafe { base.add(index * datagram_len) }.cast(),
                iov_len: datagram_len,
            })
            .collect();
        let (names_at, controls_at, iovecs_at) = (
            names.as_mut_ptr(),
            controls.as_mut_ptr(),
            iovecs.as_mut_ptr(),
        );
        for (index, header) in headers.iter_mut().enumerate() {
            // SAFETY: each vector has `count` elements and index < count.
            unsafe {
                header.msg_hdr.msg_name = names_at.add(index).cast();
                header.msg_hdr.msg_control = controls_at.add(index).cast();
                header.msg_hdr.msg_iov = iovecs_at.add(index);
            }
            header.msg_hdr.msg_iovlen = 1;
        }
        let mut batch = Self {
            headers,
            names,
            controls,
            buffers,
            _iovecs: iovecs,
            datagram_len,
            received: count,
        };
        batch.rearm();
        batch
    }

    /// Whether the last call filled the batch, so that more may be waiting.
    #[must_use]
    pub fn full(&self) -> bool {
        self.received == self.headers.len()
    }

    /// Receives what waits, without blocking; returns how many datagrams.
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`; `WouldBlock` when nothing waits.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        self.rearm();
        self.received = 0;
        let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
        // SAFETY: every header points into this batch's own vectors, with their true lengths.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        self.received = usize::try_from(received).unwrap_or(0);
        Ok(self.received)
    }

    /// The kernel wrote lengths into the headers it used; they must be full again before the next call.
    fn rearm(&mut self) {
        for header in &mut self.headers[..self.received] {
            header.msg_hdr.msg_namelen = len_of::<libc::sockaddr_storage>();
            header.msg_hdr.msg_controllen = CONTROL_LEN;
            header.msg_hdr.msg_flags = 0;
        }
    }

    /// The `index`-th datagram.
    #[inline]
    #[must_use]
    pub fn datagram(&self, index: usize) -> &[u8] {
        let length = self.headers[index].msg_len as usize;
        let start = index * self.datagram_len;
        &self.buffers[start..start + length.min(self.datagram_len)]
    }

    /// Who sent the `index`-th datagram; none for an address family other than IP.
    #[inline]
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<SocketAddr> {
        from_storage(&self.names[index])
    }

    /// What the kernel said beside the `index`-th datagram.
    #[inline]
    #[must_use]
    pub fn ancillary(&self, index: usize) -> Ancillary {
        let header = &self.headers[index].msg_hdr;
        if header.msg_controllen == 0 {
            return Ancillary::default();
        }
        debug_assert!(header.msg_controllen <= mem::size_of_val(&self.controls[index]));
        read_control(header)
    }
}

/// What the kernel says beside a datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// The address the datagram was sent to, on sockets that asked for it (PKTINFO).
    pub destination: Option<IpAddr>,
    /// Datagrams this socket has dropped for want of buffer since it was opened (`SO_RXQ_OVFL`).
    pub dropped: Option<u32>,
}

fn read_control(header: &libc::msghdr) -> Ancillary {
    let mut found = Ancillary::default();
    // SAFETY: the kernel filled `msg_control` with `msg_controllen` octets of well-formed control messages; the CMSG
    // macros stay within them. Payloads are read unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                    let octets = info.ipi_addr.s_addr.to_ne_bytes();
                    found.destination = Some(IpAddr::V4(Ipv4Addr::from(octets)));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                    found.destination = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    found.dropped = Some(ptr::read_unaligned(data.cast::<u32>()));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    found
}

/// Datagrams to be sent by one call.
pub struct SendBatch {
    slots: Vec<Outgoing>,
    used: usize,
}

struct Outgoing {
    bytes: Vec<u8>,
    peer: SocketAddr,
    source: Option<IpAddr>,
}

/// Most datagrams one `sendmmsg` call takes.
pub const MAX_BATCH: usize = 64;

impl SendBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            used: 0,
        }
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Datagrams to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// An empty buffer for a datagram to `peer`, leaving from `source` if given.
    #[inline]
    pub fn push(&mut self, peer: SocketAddr, source: Option<IpAddr>) -> &mut Vec<u8> {
        if self.used == self.slots.len() {
            let bytes = Vec::with_capacity(crate::wire::MAX_PAYLOAD);
            self.slots.push(Outgoing {
                bytes,
                peer,
                source,
            });
        }
        let slot = &mut self.slots[self.used];
        self.used += 1;
        slot.bytes.clear();
        slot.peer = peer;
        slot.source = source;
        &mut slot.bytes
    }

    /// Takes back the buffer that was pushed last.
    pub fn pop(&mut self) {
        self.used -= 1;
    }

    /// Sends the datagrams from number `from` on, without blocking; returns how many left, at least one.
    ///
    /// # Errors
    /// Those of `sendmmsg(2)` for datagram `from`; the ones behind it were not tried.
    pub fn send(&self, socket: &impl AsRawFd, from: usize) -> io::Result<usize> {
        let slots = &self.slots[from..self.used.min(from + MAX_BATCH)];
        let mut names = [MaybeUninit::<libc::sockaddr_storage>::uninit(); MAX_BATCH];
        let mut iovecs = [MaybeUninit::<libc::iovec>::uninit(); MAX_BATCH];
        let mut headers = [MaybeUninit::<libc::mmsghdr>::uninit(); MAX_BATCH];
        let mut controls = [MaybeUninit::<Control>::uninit(); MAX_BATCH];
        for (index, slot) in slots.iter().enumerate() {
            let name_len = write_storage(&slot.peer, &mut names[index]);
            let iovec = iovecs[index].write(libc::iovec {
                iov_base: slot.bytes.as_ptr().cast_mut().cast(),
                iov_len: slot.bytes.len(),
            });
            // SAFETY: all-zero bytes are a valid mmsghdr.
            let header = headers[index].write(unsafe { mem::zeroed() });
            header.msg_hdr.msg_name = names[index].as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = name_len;
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            if let Some(source) = slot.source {
                let control = controls[index].write(Control([0; CONTROL_LEN]));
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = CONTROL_LEN;
                header.msg_hdr.msg_controllen = write_source(&header.msg_hdr, source);
            }
        }
        // SAFETY: the first `slots.len()` headers are initialised and point to live buffers of the stated lengths;
        // sendmmsg only reads what iov_base points to.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                u32::try_from(slots.len()).unwrap_or(0),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(usize::try_from(sent).unwrap_or(0))
    }

    /// Forgets all datagrams, keeping their buffers.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a PKTINFO message that names the source address; returns the control length used.
fn write_source(header: &libc::msghdr, source: IpAddr) -> usize {
    // SAFETY: `msg_control` has CONTROL_LEN zeroed octets, more than CMSG_SPACE of either structure.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        match source {
            IpAddr::V4(ip) => {
                let mut info: libc::in_pktinfo = mem::zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(len_of::<libc::in_pktinfo>()) as usize;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
                libc::CMSG_SPACE(len_of::<libc::in_pktinfo>()) as usize
            }
            IpAddr::V6(ip) => {
                let mut info: libc::in6_pktinfo = mem::zeroed();
                info.ipi6_addr.s6_addr = ip.octets();
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(len_of::<libc::in6_pktinfo>()) as usize;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
                libc::CMSG_SPACE(len_of::<libc::in6_pktinfo>()) as usize
            }
        }
    }
}

/// `size_of` as the C interfaces want it.
const fn len_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[inline]
fn from_storage(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer = ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel wrote; sockaddr_storage is large and aligned enough.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[inline]
fn write_storage(
    address: &SocketAddr,
    storage: &mut MaybeUninit<libc::sockaddr_storage>,
) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in and aligned for it.
            unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            len_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in6 and aligned for it.
            unsafe { storage.as_mut_ptr().cast::<libc::sockaddr_in6>().write(raw) };
            len_of::<libc::sockaddr_in6>()
        }
    }
}

fn set_option(fd: RawFd, level: i32, name: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_value(fd, level, name, &on)
}

fn set_value<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a value that lives through the call, which only reads it. The
    // options used here take an `int` or a `sock_fprog`, whose instructions live as long as the caller's value.
    let result =
        unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), len_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What a listening UDP socket asks of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct UdpOptions {
    /// `SO_RCVBUF`, in octets.
    pub receive_buffer: usize,
    /// `SO_SNDBUF`, in octets.
    pub send_buffer: usize,
}

/// A listening UDP socket, and the receive buffer it really got, in octets.
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

/// A listening TCP socket.
///
/// # Errors
/// Those of `socket(2)`, `setsockopt(2)`, `bind(2)` and `listen(2)`.
pub fn listen_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    prepare(&socket, address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Fails if anybody listens at the address over UDP or TCP, even with `SO_REUSEPORT`. The sockets are closed again.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` and whatever else `bind(2)` says.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let udp = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    prepare(&udp, address)?;
    udp.bind(&address.into())?;
    let tcp = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    prepare(&tcp, address)?;
    // Connections of an earlier instance may still be in TIME_WAIT; a listener conflicts all the same.
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(1)
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `[::]:53` beside `0.0.0.0:53` is what users write; a dual-stack socket would take both.
        socket.set_only_v6(true)?;
    }
    Ok(())
}

/// A UDP socket connected to an upstream server, from a port the kernel draws at random (RFC 5452 §9.2). ICMP errors
/// of every kind arrive on it (`IP_RECVERR`).
///
/// # Errors
/// Those of `socket(2)`, `setsockopt(2)` and `connect(2)`, such as "network is unreachable".
pub fn connect_udp(server: SocketAddr) -> io::Result<Socket> {
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
    socket.connect(&server.into())?;
    Ok(socket)
}

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
pub fn steer(listener: &Socket, index: u32) -> io::Result<()> {
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
pub fn stop_steering(listener: &Socket) -> io::Result<()> {
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
        let interest = Interest::READABLE | Interest::ERROR;
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
        self.0.ready(Interest::READABLE | Interest::ERROR).await
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

/// Has the kernel give this process no transparent huge pages, where it hands them out unasked (`enabled` is `always`):
/// with a heap of a few megabytes most of a 2 MiB page stays unused, and still counts against the pod's limit.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn refuse_huge_pages() -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    let on: libc::c_ulong = 1;
    // SAFETY: PR_SET_THP_DISABLE takes four numbers and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, zero, zero, zero) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises this process's limit of open files to its hard limit; returns it.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    const OPTIONS: UdpOptions = UdpOptions {
        receive_buffer: 1 << 20,
        send_buffer: 1 << 18,
    };

    /// How many of 64 connections arrive at each listener.
    fn arrivals(listeners: &[Socket]) -> Vec<usize> {
        let address = listeners[0].local_addr().expect("bound");
        let address = address.as_socket().expect("IP");
        let clients: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).expect("connects"))
            .collect();
        let arrived = |listener: &Socket| std::iter::from_fn(|| listener.accept().ok()).count();
        let counts: Vec<_> = listeners.iter().map(arrived).collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        counts
    }

    #[test]
    fn connections_are_steered_by_the_order_of_listening_and_a_gap_is_filled_by_the_last() {
        let first = listen_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        let address = first.local_addr().expect("bound");
        let address = address.as_socket().expect("IP");
        let mut listeners = vec![first];
        listeners.extend((1..4).map(|_| listen_tcp(address).expect("shares the port")));
        assert!(
            arrivals(&listeners).iter().all(|&count| count > 0),
            "nobody has steered yet"
        );
        steer(&listeners[0], 2).expect("allowed");
        assert_eq!(arrivals(&listeners), [0, 0, 64, 0]);
        // The last one takes the place of the one that closes.
        drop(listeners.remove(1));
        steer(&listeners[0], 1).expect("allowed");
        assert_eq!(arrivals(&listeners), [0, 0, 64]);
        // There is nobody at 3: as if nobody steered.
        steer(&listeners[0], 3).expect("allowed");
        assert!(arrivals(&listeners).iter().all(|&count| count > 0));
        steer(&listeners[0], 1).expect("allowed");
        stop_steering(&listeners[2]).expect("allowed");
        assert!(arrivals(&listeners).iter().all(|&count| count > 0));
        stop_steering(&listeners[2]).expect("nothing to undo is no error");
    }

    fn echo_once(server: &str, client: &str, ask: impl Fn(u16) -> SocketAddr) {
        let (socket, _) = listen_udp(server.parse().expect("an address"), OPTIONS).expect("binds");
        let port = socket
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("IP")
            .port();
        let client = UdpSocket::bind(client).expect("binds");
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("settable");
        for number in 0..3_u8 {
            client.send_to(&[number; 5], ask(port)).expect("sends");
        }
        let mut receive = ReceiveBatch::new(8, 512);
        let mut send = SendBatch::new();
        let mut got = 0;
        while got < 3 {
            match receive.receive(&socket) {
                Ok(count) => {
                    for index in 0..count {
                        let peer = receive.peer(index).expect("an IP address");
                        let destination = receive.ancillary(index).destination;
                        send.push(peer, destination)
                            .extend_from_slice(receive.datagram(index));
                    }
                    got += count;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(send.send(&socket, 0).expect("sends"), 3);
        for number in 0..3_u8 {
            let mut buffer = [0; 16];
            let (length, from) = client.recv_from(&mut buffer).expect("an echo");
            assert_eq!(&buffer[..length], &[number; 5]);
            assert_eq!(
                from,
                ask(port),
                "replies leave from the address that was asked"
            );
        }
    }

    #[test]
    fn batches_carry_datagrams_both_ways() {
        echo_once("127.0.0.1:0", "127.0.0.1:0", |port| {
            ([127, 0, 0, 1], port).into()
        });
        echo_once("[::1]:0", "[::1]:0", |port| {
            (Ipv6Addr::LOCALHOST, port).into()
        });
    }

    #[test]
    fn wildcard_sockets_reply_from_the_address_that_was_asked() {
        echo_once("0.0.0.0:0", "127.0.0.1:0", |port| {
            ([127, 9, 8, 7], port).into()
        });
        echo_once("[::]:0", "[::1]:0", |port| {
            (Ipv6Addr::LOCALHOST, port).into()
        });
    }

    #[test]
    fn a_shared_port_is_not_free() {
        let (socket, _) = listen_udp("127.77.5.3:0".parse().expect("ok"), OPTIONS).expect("binds");
        let address = socket.local_addr().expect("bound").as_socket().expect("IP");
        let error = check_free(address).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        check_free(address).expect("free again");
    }

    #[test]
    fn overflowing_receive_buffers_are_counted() {
        let tiny = UdpOptions {
            receive_buffer: 2048,
            send_buffer: 1 << 18,
        };
        let (socket, _) = listen_udp("127.0.0.1:0".parse().expect("ok"), tiny).expect("binds");
        let address = socket.local_addr().expect("bound").as_socket().expect("IP");
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        for _ in 0..100 {
            client.send_to(&[0; 500], address).expect("sends");
        }
        let mut batch = ReceiveBatch::new(64, 512);
        while batch.receive(&socket).is_ok() {}
        client.send_to(&[0; 5], address).expect("sends");
        assert_eq!(batch.receive(&socket).expect("one datagram"), 1);
        assert!(
            batch
                .ancillary(0)
                .dropped
                .is_some_and(|dropped| dropped > 0)
        );
    }
}
