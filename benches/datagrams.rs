//! What the floors have in common: buffers like those of nodens, and sending all of a batch.

use std::os::fd::AsRawFd;

use nodens::net::batch::SendBatch;
use nodens::net::open::UdpOptions;

/// As nodens's defaults for `udp.receive_buffer` and `udp.send_buffer`.
pub(crate) const BUFFERS: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 1 << 20,
};

/// As nodens's longest query, so that the buffers touch as much memory.
pub(crate) const QUERY_LEN: usize = 2048;

/// Sends the datagrams of a batch and empties it.
pub(crate) fn send_all(batch: &mut SendBatch, socket: &impl AsRawFd) {
    let mut sent = 0;
    while sent < batch.len() {
        match batch.send(socket, sent) {
            Ok(count) => sent += count,
            // Loopback delivers within the call; a full buffer means that the other end does not read.
            Err(_) => sent += 1,
        }
    }
    batch.clear();
}
