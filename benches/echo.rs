//! The floor of hits: what the kernel and the batched calls cost when nothing is done with a query.
//!
//! One thread, batches of 64, through the same `recvmmsg`/`sendmmsg` wrappers as nodens, blocking in `epoll_wait` as a
//! server does that has other things to wait for. Each datagram goes back with its QR bit set. No cache, no parsing,
//! no runtime, no limits: a server on these calls cannot be cheaper, so a ratio to this is what its own work costs.
//!
//!     cargo run --release --example echo -- 127.0.0.1:5399

mod datagrams;
mod epoll;

use std::io;
use std::net::SocketAddr;

use datagrams::{BUFFERS, QUERY_LEN, send_all};
use epoll::{Epoll, Wait};
use nodens::net::batch::{MAX_BATCH, ReceiveBatch, SendBatch};
use nodens::net::open::listen_udp;

/// The octet with QR, opcode, AA, TC and RD (RFC 1035 §4.1.1), and QR in it.
const FLAGS: usize = 2;
const QR: u8 = 0x80;

fn main() -> io::Result<()> {
    let argument = std::env::args().nth(1);
    let address = argument.as_deref().map(str::parse::<SocketAddr>);
    let Some(Ok(address)) = address else {
        eprintln!("usage: echo IP:PORT");
        std::process::exit(2);
    };
    let (socket, _) = listen_udp(address, BUFFERS)?;
    let mut epoll = Epoll::new(1)?;
    epoll.add(&socket, 0, libc::EPOLLET)?;
    let mut queries = ReceiveBatch::new(MAX_BATCH, QUERY_LEN);
    let mut replies = SendBatch::new(2_048, MAX_BATCH);
    loop {
        epoll.wait(Wait::Forever)?.for_each(drop);
        loop {
            let count = match queries.receive(&socket) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for index in 0..count {
                let query = queries.datagram(index);
                let (Some(peer), true) = (queries.peer(index), query.len() > FLAGS) else {
                    continue;
                };
                let reply = replies.push(peer, None);
                reply.extend_from_slice(query);
                reply[FLAGS] |= QR;
            }
            send_all(&mut replies, &socket);
            if !queries.full() {
                break;
            }
        }
    }
}
