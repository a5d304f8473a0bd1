//! The client of a query, as far as serving knows it.

use std::net::SocketAddr;
use std::time::Instant;

use crate::message::reply::Protocol;

/// Who sent a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Its address.
    pub address: SocketAddr,
    /// How it came.
    pub protocol: Protocol,
    /// When it was read.
    pub received: Instant,
    /// Octets of its message.
    pub octets: u16,
    /// The listen address that it came to.
    pub listener: ListenerIndex,
}

/// Tells listen addresses apart, for metrics that are counted by them; all are one where nobody counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerIndex(pub u16);

/// One of those who waited for an answer, and who gave it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// How many who waited for it come before: each gets another address first.
    pub place: u32,
    /// The server; see [`crate::upstream::ask::Answer`].
    pub server: Option<u32>,
}

/// What became of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// A reply was appended, from the cache.
    Hit,
    /// A reply was appended, of our own.
    Replied,
    /// There will be none.
    Dropped,
    /// It follows by way of [`super::waiting::ReplyTo`].
    Later,
}
