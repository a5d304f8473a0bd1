//! The sockets of all processes, from /proc/net. IPv4 only, because all addresses of the tests are IPv4.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The state of a listening TCP socket in /proc/net/tcp (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// A socket's addresses and its state, in the kernel's hexadecimal form.
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    state: String,
}

fn entries(protocol: &str) -> Vec<Entry> {
    let text = fs::read_to_string(format!("/proc/net/{protocol}")).expect("Linux has it");
    let entry = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        let state = fields.next()?.to_owned();
        Some(Entry {
            local,
            remote,
            state,
        })
    };
    text.lines().skip(1).filter_map(entry).collect()
}

/// `0100007F:0035` is 127.0.0.1:53 on a little-endian machine: the address is a number in the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
}

/// Number of TCP sockets that listen at exactly this address.
pub(crate) fn tcp_listeners(address: SocketAddr) -> usize {
    let listens = |entry: &&Entry| entry.local == address && entry.state == LISTEN;
    entries("tcp").iter().filter(listens).count()
}

/// Number of UDP sockets that are bound to exactly this address.
pub(crate) fn udp_bound(address: SocketAddr) -> usize {
    let bound = |entry: &&Entry| entry.local == address;
    entries("udp").iter().filter(bound).count()
}

/// Whether a UDP socket is connected from the one address to the other.
pub(crate) fn udp_connected(local: SocketAddr, remote: SocketAddr) -> bool {
    let connected = |entry: &Entry| entry.local == local && entry.remote == remote;
    entries("udp").iter().any(connected)
}

/// Local addresses of the UDP sockets that are connected to this address.
pub(crate) fn udp_connected_to(remote: SocketAddr) -> Vec<SocketAddr> {
    let connected = entries("udp")
        .into_iter()
        .filter(|entry| entry.remote == remote);
    connected.map(|entry| entry.local).collect()
}
