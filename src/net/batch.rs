//! Many datagrams by one system call: `recvmmsg(2)` and `sendmmsg(2)`, with the control messages beside them.
//!
//! Owns buffers, addresses and control messages in C's layout. Knows nothing of DNS.
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of C structures and address families, as the C interfaces want them"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

use super::len_of;
use super::network::MadeUpSocket;

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

    /// Receives from a socket of a simulated network.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits, or the socket's pending error.
    pub fn receive_made_up(&mut self, socket: &dyn MadeUpSocket) -> io::Result<usize> {
        self.rearm();
        self.received = 0;
        if let Some(error) = socket.take_error() {
            return Err(error);
        }
        while self.received < self.headers.len()
            && let Some((message, sender)) = socket.receive()
        {
            let index = self.received;
            let length = message.len().min(self.datagram_len);
            let start = index * self.datagram_len;
            self.buffers[start..start + length].copy_from_slice(&message[..length]);
            let mut name = MaybeUninit::zeroed();
            write_storage(&sender, &mut name);
            // SAFETY: all-zero bytes are a valid sockaddr_storage, and an address was written over them.
            self.names[index] = unsafe { name.assume_init() };
            let header = &mut self.headers[index];
            header.msg_len = length as libc::c_uint;
            header.msg_hdr.msg_controllen = 0;
            if message.len() > length {
                header.msg_hdr.msg_flags = libc::MSG_TRUNC;
            }
            self.received += 1;
        }
        if self.received == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
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

    /// Whether the `index`-th datagram was longer than the buffer, and its end is lost.
    #[inline]
    #[must_use]
    pub fn is_cut(&self, index: usize) -> bool {
        self.headers[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Who sent the `index`-th datagram; none for an address family other than IP.
    #[inline]
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<SocketAddr> {
        from_storage(&self.names[index])
    }

    /// The control messages of the `index`-th datagram.
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

/// The control messages of a datagram.
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
    /// Octets of a new slot's buffer.
    buffer_len: usize,
    /// Slots that stay when the batch is cleared.
    kept: usize,
}

struct Outgoing {
    bytes: Vec<u8>,
    peer: SocketAddr,
    source: Option<IpAddr>,
}

/// Most datagrams one `sendmmsg` call takes.
pub const MAX_BATCH: usize = 64;

impl SendBatch {
    /// An empty batch for datagrams of up to `buffer_len` octets, which keeps buffers for `kept` of them between batches.
    #[must_use]
    pub fn new(buffer_len: usize, kept: usize) -> Self {
        Self {
            slots: Vec::new(),
            used: 0,
            buffer_len,
            kept,
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
            let bytes = Vec::with_capacity(self.buffer_len);
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

    /// Sends by a socket of a simulated network.
    ///
    /// # Errors
    /// Those of the socket for datagram `from`.
    pub fn send_made_up(&self, socket: &dyn MadeUpSocket, from: usize) -> io::Result<usize> {
        let slots = &self.slots[from..self.used.min(from + MAX_BATCH)];
        for (sent, slot) in slots.iter().enumerate() {
            match socket.send(&slot.bytes, Some(slot.peer)) {
                Ok(()) => {}
                Err(error) if sent == 0 => return Err(error),
                Err(_) => return Ok(sent),
            }
        }
        Ok(slots.len())
    }

    /// Forgets all datagrams; buffers beyond those that are kept are given back.
    pub fn clear(&mut self) {
        self.used = 0;
        if self.slots.len() > self.kept {
            self.slots.truncate(self.kept);
            self.slots.shrink_to_fit();
        }
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
