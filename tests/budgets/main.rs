//! How much one client or one server may make the process hold or do, and what is left when an address or a server goes:
//! the real binary between scripted clients and servers, judged by replies, /metrics and what the kernel says of it.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod clients;
mod lifecycle;
mod log;
mod refreshes;
mod upstreams;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Bytes; memory is quoted in these.
const MB: u64 = 1_000_000;

/// So that thousands of replies fit: half of it is what the kernel grants without privileges on most systems.
const RECEIVE_BUFFER: usize = 4 << 20;

#[expect(clippy::cast_precision_loss, reason = "to be read, not reckoned with")]
fn in_mb(bytes: u64) -> f64 {
    bytes as f64 / MB as f64
}

/// Bytes from `before` to `after`, in words.
fn growth(before: u64, after: u64) -> String {
    let grown = in_mb(after.saturating_sub(before));
    let (before, after) = (in_mb(before), in_mb(after));
    format!("{before:.1} to {after:.1} MB, grown by {grown:.1} MB")
}

/// A bigger receive buffer, as far as the kernel grants it.
fn enlarge(socket: &UdpSocket) {
    SockRef::from(socket)
        .set_recv_buffer_size(RECEIVE_BUFFER)
        .expect("the kernel takes what it allows of it");
}

/// Asks for a condition until it holds or the time is over; whether it holds then. For tests that go on to look at
/// something else before they judge.
fn holds_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
