//! Clients that wait for replies: what a reply repeats of the query, its content, and the socket that it is sent from.

use std::cell::RefCell;
use std::collections::hash_map::{self, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::client::{Client, WaiterPlace};
use super::metrics::{Cached, StaleReason};
use super::replies::Replies;
use crate::cache::Entry;
use crate::message::ede::ExtendedError;
use crate::message::query::{Edns, Query};
use crate::message::reply::Asked;
use crate::runtime;

/// In octets. Most question sections are no longer.
const SHORT_SECTION: usize = 56;

/// Takes replies that are not ready at once. Each kind of client socket implements it.
pub trait ReplySink {
    /// Sends a reply, at once or when the socket has room for it.
    fn send(self: Rc<Self>, reply: Reply);
}

/// The destination of a reply that is not ready at once.
pub struct ReplyTo {
    /// The client's socket or connection.
    pub sink: Rc<dyn ReplySink>,
    /// On wildcard sockets: the address that the query was sent to, which is the source address of the reply.
    pub source: Option<IpAddr>,
}

/// Numbers of waiting queries by client address, bounded by `limits.client_in_flight`.
#[derive(Debug, Default)]
pub struct ClientCounts(RefCell<HashMap<IpAddr, usize, ahash::RandomState>>);

impl ClientCounts {
    /// Number of waiting queries of this client.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> usize {
        self.0.borrow().get(&client).copied().unwrap_or(0)
    }
}

/// A query of a client that counts as waiting until this is dropped.
struct CountedQuery {
    counts: Rc<ClientCounts>,
    client: IpAddr,
}

impl CountedQuery {
    fn new(counts: &Rc<ClientCounts>, client: IpAddr) -> Self {
        *counts.0.borrow_mut().entry(client).or_insert(0) += 1;
        Self {
            counts: Rc::clone(counts),
            client,
        }
    }
}

impl Drop for CountedQuery {
    fn drop(&mut self) {
        if let hash_map::Entry::Occupied(mut counted) =
            self.counts.0.borrow_mut().entry(self.client)
        {
            *counted.get_mut() -= 1;
            if *counted.get() == 0 {
                counted.remove();
            }
        }
    }
}

/// A client that waits.
pub struct Waiter {
    replies: Rc<Replies>,
    id: u16,
    flags: u16,
    /// QNAME as the client spelt it, QTYPE and QCLASS.
    section: SmallVec<[u8; SHORT_SECTION]>,
    edns: Option<Edns>,
    client: Client,
    reply_to: ReplyTo,
    _counted: CountedQuery,
}

impl Waiter {
    /// The client of `query`. Boxed, because it is moved several times until its reply is sent.
    #[must_use]
    pub fn new(
        replies: &Rc<Replies>,
        counts: &Rc<ClientCounts>,
        query: &Query<'_>,
        client: Client,
        reply_to: ReplyTo,
    ) -> Box<Self> {
        Box::new(Self {
            replies: Rc::clone(replies),
            id: query.id,
            flags: query.flags,
            section: query.section().into(),
            edns: query.edns,
            client,
            reply_to,
            _counted: CountedQuery::new(counts, client.address.ip()),
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            id: self.id,
            flags: self.flags,
            section: &self.section,
            edns: self.edns,
            protocol: self.client.protocol,
        }
    }

    /// Sends the reply. `route` is for metrics of failures.
    pub fn reply(self: Box<Self>, content: Content, route: Option<u16>) {
        let sink = Rc::clone(&self.reply_to.sink);
        sink.send(Reply {
            waiter: self,
            content,
            route,
        });
    }
}

/// A waiter for an answer.
pub enum Waiting {
    /// A client.
    Client(Box<Waiter>),
    /// A flight or a local answer that needs this answer: because of an alias, for DNS64, or to check a denial of the other
    /// family of addresses.
    Alias(oneshot::Sender<Content>),
}

impl Waiting {
    /// Whether it is a client that cannot use a truncated answer.
    pub(super) fn wants_whole(&self) -> bool {
        match self {
            Self::Client(waiter) => waiter.client.wants_whole(),
            Self::Alias(_) => false,
        }
    }

    /// Delivers the answer; see [`Waiter::reply`].
    pub fn reply(self, content: Content, route: Option<u16>) {
        match self {
            Self::Client(waiter) => waiter.reply(content, route),
            Self::Alias(sender) => {
                // Sending fails if the receiver's deadline has passed.
                let _ = sender.send(content);
            }
        }
    }
}

/// The content of a reply to a client, or of an answer for another flight.
pub enum Content {
    /// An answer of the upstreams. For another flight, it may be a fresh one of the cache.
    Answer(Entry, WaiterPlace),
    /// An answer from the configuration.
    Local(Entry),
    /// An earlier answer, in place of one that is missing or not believed. Mostly it has expired. Or a new answer with a part
    /// that has expired.
    Stale(Entry, StaleReason),
    /// A response code and its reason.
    Failure(u16, Rc<ExtendedError>),
}

impl Content {
    /// Appends the reply with this content. `route` is for metrics of failures.
    pub fn write(
        &self,
        replies: &Replies,
        asked: &Asked<'_>,
        client: Client,
        route: Option<u16>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Answer(entry, place) => replies.fresh(entry, *place, asked, client, out),
            Self::Local(entry) => replies.local(entry, asked, client, out),
            Self::Stale(entry, reason) => replies.stale(entry, asked, client, *reason, out),
            Self::Failure(code, error) => replies.failure(asked, *code, error, route, client, out),
        }
    }
}

/// A reply to a client that waited. Its bytes are written when the socket has room for them; until then, replies with the same
/// content share one entry.
pub struct Reply {
    waiter: Box<Waiter>,
    content: Content,
    route: Option<u16>,
}

impl Reply {
    /// The client that it is sent to.
    #[must_use]
    pub fn client(&self) -> Client {
        self.waiter.client
    }

    /// Octets of memory that the reply holds.
    #[must_use]
    pub fn octets(&self) -> usize {
        let content = match &self.content {
            Content::Answer(entry, _) | Content::Local(entry) | Content::Stale(entry, _) => {
                usize::try_from(entry.weight()).unwrap_or(usize::MAX)
            }
            Content::Failure(..) => 0,
        };
        size_of::<Self>() + size_of::<Waiter>() + content
    }

    /// On wildcard sockets: the source address to send from.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.waiter.reply_to.source
    }

    /// Appends the reply's bytes, and counts the reply.
    pub fn write(self, out: &mut Vec<u8>) {
        let (asked, client, replies) = (
            self.waiter.asked(),
            self.waiter.client,
            &self.waiter.replies,
        );
        let cached = match &self.content {
            Content::Local(_) => Cached::Neither,
            _ => Cached::Miss,
        };
        self.content.write(replies, &asked, client, self.route, out);
        let duration = runtime::since(client.received);
        if let Some(top) = &replies.top {
            top.waited(asked.section, duration);
        }
        replies.metrics.replied_after(cached, 1, duration);
    }
}
