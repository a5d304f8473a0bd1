//! A client that waits for its reply: what the reply repeats, what it says, where it goes.

use std::cell::RefCell;
use std::collections::hash_map::{self, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::client::{Client, Turn};
use super::metrics::{Cached, StaleReason};
use super::replies::Replies;
use crate::cache::Entry;
use crate::message::ede::ExtendedError;
use crate::message::query::{Edns, Query};
use crate::message::reply::Asked;
use crate::runtime;

/// Most questions are no longer, in octets.
const SHORT_SECTION: usize = 56;

/// Takes replies that are ready later. Each kind of client socket implements it.
pub trait ReplySink {
    /// Sends a reply, now or when there is room for it.
    fn send(self: Rc<Self>, reply: Reply);
}

/// Where a reply that is ready later goes.
pub struct ReplyTo {
    /// The client's socket or connection.
    pub sink: Rc<dyn ReplySink>,
    /// The address that a datagram was sent to, on wildcard sockets: its reply leaves from there.
    pub source: Option<IpAddr>,
}

/// Queries that wait, by client address; bounded by `limits.client_in_flight`.
#[derive(Debug, Default)]
pub struct ClientCounts(RefCell<HashMap<IpAddr, usize, ahash::RandomState>>);

impl ClientCounts {
    /// How many queries of this client wait.
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
    /// The client of `query`. In a box, because it is handed on from one to the next until it has its reply.
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

    /// Sends what it waited for. `route` is the one that failed, for metrics.
    pub fn reply(self: Box<Self>, content: Content, route: Option<u16>) {
        let sink = Rc::clone(&self.reply_to.sink);
        sink.send(Reply {
            waiter: self,
            content,
            route,
        });
    }
}

/// Who waits for an answer.
pub enum Waiting {
    /// A client.
    Client(Box<Waiter>),
    /// Whoever follows an alias to this question.
    Alias(oneshot::Sender<Content>),
}

impl Waiting {
    /// Gives what was waited for; see [`Waiter::reply`].
    pub fn reply(self, content: Content, route: Option<u16>) {
        match self {
            Self::Client(waiter) => waiter.reply(content, route),
            Self::Alias(sender) => {
                // Nobody there: it was out of time.
                let _ = sender.send(content);
            }
        }
    }
}

/// What a client that waited hears.
pub enum Content {
    /// What the upstreams answered.
    Answer(Entry, Turn),
    /// What is answered from the configuration.
    Local(Entry),
    /// An expired answer.
    Stale(Entry, StaleReason),
    /// A response code, and why.
    Failure(u16, Rc<ExtendedError>),
}

impl Content {
    /// Appends the reply that says it. `route` is the one that failed, for metrics.
    pub fn write(
        &self,
        replies: &Replies,
        asked: &Asked<'_>,
        client: Client,
        route: Option<u16>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Answer(entry, turn) => replies.fresh(entry, *turn, asked, client, out),
            Self::Local(entry) => replies.local(entry, asked, client, out),
            Self::Stale(entry, reason) => replies.stale(entry, asked, client, *reason, out),
            Self::Failure(code, error) => replies.failure(asked, *code, error, route, client, out),
        }
    }
}

/// A reply to a client that waited. Its bytes are made when there is room for them, so that replies that wait share what
/// they say.
pub struct Reply {
    waiter: Box<Waiter>,
    content: Content,
    route: Option<u16>,
}

impl Reply {
    /// The client it goes to.
    #[must_use]
    pub fn client(&self) -> Client {
        self.waiter.client
    }

    /// Octets of memory that it keeps.
    #[must_use]
    pub fn octets(&self) -> usize {
        let said = match &self.content {
            Content::Answer(entry, _) | Content::Local(entry) | Content::Stale(entry, _) => {
                usize::try_from(entry.weight()).unwrap_or(usize::MAX)
            }
            Content::Failure(..) => 0,
        };
        size_of::<Self>() + size_of::<Waiter>() + said
    }

    /// The address it leaves from, on wildcard sockets.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.waiter.reply_to.source
    }

    /// Appends its bytes, and counts it.
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
