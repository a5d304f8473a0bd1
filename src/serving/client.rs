//! What serving knows of the client of a query.

use std::net::SocketAddr;
use std::time::Instant;

use crate::message::reply::Protocol;

/// The sender of a message, and how and when the message came.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The client's address.
    pub address: SocketAddr,
    /// The message's transport.
    pub protocol: Protocol,
    /// When the message was read.
    pub received: Instant,
    /// The message's length in octets.
    pub octets: u16,
    /// The listen address that the message came to.
    pub listener: ListenerIndex,
}

impl Client {
    /// Whether it cannot use a truncated answer. A client over UDP can: it asks again over TCP.
    pub(super) fn wants_whole(self) -> bool {
        self.protocol == Protocol::Tcp
    }
}

/// A number for each listen address, for metrics that are counted by listen address. Without such metrics it is always 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerIndex(pub u16);

/// The place of a waiter among those that get the same answer, and the server that gave it.
#[derive(Debug, Clone, Copy, Default)]
pub struct WaiterPlace {
    /// Number of waiters before this one. By it, each waiter gets another address first.
    pub index: u32,
    /// The server; see [`crate::upstream::ask::Answer`].
    pub server: Option<u32>,
}

/// How a client's message was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// A reply from the cache was appended.
    Hit,
    /// Another reply was appended.
    Replied,
    /// The message gets no reply.
    Dropped,
    /// The reply will be sent through [`super::waiting::ReplyTo`].
    Later,
}
