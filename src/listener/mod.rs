//! Client sockets: datagrams and streams in, replies out.

pub mod tcp;
pub mod udp;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Where a reply that is ready later goes.
pub enum ReplyTo {
    /// A datagram to this client, from the address it asked.
    Udp {
        /// The socket's outbox.
        outbox: Rc<udp::Outbox>,
        /// The client.
        peer: SocketAddr,
        /// The address it asked, on wildcard sockets.
        source: Option<IpAddr>,
    },
    /// A frame on this connection.
    Tcp(Rc<tcp::Connection>),
}

impl ReplyTo {
    /// Queues the reply that `write` appends.
    pub fn send(&self, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::Udp {
                outbox,
                peer,
                source,
            } => outbox.push(*peer, *source, write),
            Self::Tcp(connection) => connection.push(write),
        }
    }
}
