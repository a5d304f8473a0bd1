//! The floor of misses: what the kernel and the batched calls cost when a query is only passed on.
//!
//! As `echo.rs`, with a second socket, to the upstream server. Each query goes there under an ID of the relay's own, and its
//! answer back to the client under the client's. No cache, no parsing, no timeouts, one source port: a forwarder on these calls
//! cannot be cheaper, so a ratio to this is what its own work costs.
//!
//!     cargo run --release --example relay -- 127.0.0.1:5399 127.0.0.1:5300

mod datagrams;
mod epoll;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use datagrams::{BUFFERS, QUERY_LEN, send_all};
use epoll::{Epoll, Wait};
use nodens::net::batch::{MAX_BATCH, ReceiveBatch, SendBatch};
use nodens::net::open::{listen_udp, unconnected_udp};

/// Numbers of the sockets.
const CLIENTS: u64 = 0;
const UPSTREAM: u64 = 1;

/// Octets of the ID, with which a message begins (RFC 1035 §4.1.1).
const ID: usize = 2;

/// A query under way: its client, and the ID that the client gave it.
type Asked = Option<(SocketAddr, [u8; ID])>;

fn main() -> io::Result<()> {
    let addresses = std::env::args().skip(1).map(|word| word.parse());
    let addresses: Result<Vec<SocketAddr>, _> = addresses.collect();
    let Ok([address, upstream]) = addresses.as_deref() else {
        eprintln!("usage: relay IP:PORT UPSTREAM-IP:PORT");
        std::process::exit(2);
    };
    let (clients, _) = listen_udp(*address, BUFFERS)?;
    let server = unconnected_udp(*upstream)?;
    let mut epoll = Epoll::new(2)?;
    epoll.add(&clients, CLIENTS, libc::EPOLLET)?;
    epoll.add(&server, UPSTREAM, libc::EPOLLET)?;
    let mut arrived = ReceiveBatch::new(MAX_BATCH, QUERY_LEN);
    let mut leaving = SendBatch::new(QUERY_LEN, MAX_BATCH);
    let mut asked: Vec<Asked> = vec![None; 1 << 16];
    let mut next: u16 = 0;
    loop {
        for number in epoll.wait(Wait::Forever)? {
            if number == CLIENTS {
                for_all(&clients, &mut arrived, |message, client| {
                    next = next.wrapping_add(1);
                    asked[usize::from(next)] = Some((client, [message[0], message[1]]));
                    push(&mut leaving, *upstream, next.to_be_bytes(), message);
                    send_full(&mut leaving, &server);
                })?;
                send_all(&mut leaving, &server);
            } else {
                for_all(&server, &mut arrived, |message, _| {
                    let id = u16::from_be_bytes([message[0], message[1]]);
                    if let Some((client, id)) = asked[usize::from(id)].take() {
                        push(&mut leaving, client, id, message);
                    }
                    send_full(&mut leaving, &clients);
                })?;
                send_all(&mut leaving, &clients);
            }
        }
    }
}

/// Calls `handle` with each datagram that waits at a socket.
fn for_all(
    socket: &impl AsRawFd,
    arrived: &mut ReceiveBatch,
    mut handle: impl FnMut(&[u8], SocketAddr),
) -> io::Result<()> {
    loop {
        let count = match arrived.receive(socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        for index in 0..count {
            let message = arrived.datagram(index);
            if let (Some(peer), true) = (arrived.peer(index), message.len() > ID) {
                handle(message, peer);
            }
        }
        if !arrived.full() {
            return Ok(());
        }
    }
}

/// Adds a message under another ID.
fn push(leaving: &mut SendBatch, to: SocketAddr, id: [u8; ID], message: &[u8]) {
    let bytes = leaving.push(to, None);
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&message[ID..]);
}

/// Sends a full batch.
fn send_full(leaving: &mut SendBatch, socket: &impl AsRawFd) {
    if leaving.len() == MAX_BATCH {
        send_all(leaving, socket);
    }
}
