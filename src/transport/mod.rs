//! One exchange with one server: a question goes out, and what comes back is matched, checked and delivered.
//!
//! Owns upstream sockets, which belong to one worker each. Knows nothing of other servers: which one is asked, and what
//! happens when it fails, is `upstream`'s.

pub mod stream;
pub mod tls;
pub mod udp;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::message::query::{Question, UpstreamEdns};
use crate::message::response::{Kind, Response};
use crate::message::wire::{self, HEADER_LEN, flag, rcode};
use crate::metrics::{Mismatch, Outcome};
use crate::upstream::health::Fine;
use crate::upstream::server::{Carrier, Server};

/// A question on its way, shared by all its tries.
#[derive(Debug)]
pub struct Asking {
    key: Rc<[u8]>,
    hash: u64,
}

impl Asking {
    /// The question of a key made by [`crate::message::query::Query::key`].
    #[must_use]
    pub fn new(key: &Rc<[u8]>, hasher: &ahash::RandomState) -> Self {
        Self {
            key: Rc::clone(key),
            hash: hasher.hash_one(Question::of(key).name),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The question.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        Question::of(&self.key)
    }

    /// Tells different names apart: A and AAAA of one name that never resolves are one reason to doubt a server, not two.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Why a try ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryError {
    /// ICMP or the TCP stack said that the server cannot be reached, or the connection broke.
    #[error("unreachable")]
    Unreachable,
    /// It could not be sent, or its connection ended before the answer.
    #[error("not sent, or cut off")]
    Broken,
    /// The response's counts, lengths or names lie.
    #[error("malformed response")]
    Malformed,
}

/// How a try ended.
#[derive(Debug)]
pub struct Delivery {
    /// The try's number in its plan.
    pub number: usize,
    /// How it travelled.
    pub carrier: Carrier,
    /// Whether it carried our OPT.
    pub edns: UpstreamEdns,
    /// What came.
    pub result: Result<Response, TryError>,
}

/// Where the tries of one question deliver. Closed when nobody waits any more; what comes later only tells the server's
/// health.
#[derive(Debug, Default)]
pub struct Mailbox {
    deliveries: RefCell<Vec<Delivery>>,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    answered: Cell<bool>,
}

impl Mailbox {
    /// Delivers, and wakes whoever waits.
    fn deliver(&self, delivery: Delivery) {
        if self.closed.get() {
            return;
        }
        self.deliveries.borrow_mut().push(delivery);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The next delivery.
    pub async fn receive(&self) -> Delivery {
        poll_fn(|context| {
            if let Some(delivery) = self.deliveries.borrow_mut().pop() {
                Poll::Ready(delivery)
            } else {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// The question was answered: tries that never will be were lost by their servers. Of a question that nobody
    /// answers they say nothing.
    pub fn settle(&self) {
        self.answered.set(true);
    }
}

/// A try in flight.
#[derive(Debug, Clone)]
pub struct Pending {
    asking: Rc<Asking>,
    mailbox: Rc<Mailbox>,
    number: usize,
    edns: UpstreamEdns,
    sent: Instant,
}

impl Pending {
    /// A try that leaves now.
    #[must_use]
    pub fn new(
        asking: &Rc<Asking>,
        mailbox: &Rc<Mailbox>,
        number: usize,
        edns: UpstreamEdns,
        sent: Instant,
    ) -> Self {
        let (asking, mailbox) = (Rc::clone(asking), Rc::clone(mailbox));
        Self {
            asking,
            mailbox,
            number,
            edns,
            sent,
        }
    }

    /// Appends the query's bytes under this ID.
    fn write(&self, id: u16, out: &mut Vec<u8>) {
        self.asking.question().write(id, self.edns, out);
    }

    /// Whether a message answers this try's question (RFC 5452 §9.1). Servers that fail may leave the question out.
    fn matches(&self, message: &[u8]) -> Result<(), Mismatch> {
        let flags = wire::flags(message);
        if message.len() < HEADER_LEN || flags & (flag::QR | flag::OPCODE) != flag::QR {
            return Err(Mismatch::NotAResponse);
        }
        if wire::u16_at(message, 4) == Some(0) {
            let failed = !matches!(flags & flag::RCODE, rcode::NOERROR | rcode::NXDOMAIN);
            return if failed {
                Ok(())
            } else {
                Err(Mismatch::Question)
            };
        }
        let asked = self.asking.question().section;
        let (asked_name, asked_type) = asked.split_at(asked.len() - 4);
        let Some(answered) = message.get(HEADER_LEN..HEADER_LEN + asked.len()) else {
            return Err(Mismatch::Question);
        };
        let (name, qtype) = answered.split_at(asked_name.len());
        let same = name.eq_ignore_ascii_case(asked_name) && qtype == asked_type;
        if same {
            Ok(())
        } else {
            Err(Mismatch::Question)
        }
    }

    /// Reads a message that matches, tells the server's health, and delivers.
    fn answered(self, server: &Server, carrier: Carrier, message: &[u8], now: Instant) {
        let took = now.saturating_duration_since(self.sent);
        let result = self.read(message);
        server.metrics.duration.observe(took.as_secs_f64());
        server.metrics.outcome(outcome(&result));
        let fine = match &result {
            Ok(response) if matches!(response.kind(), Kind::Positive | Kind::Negative) => Fine::Yes,
            _ => Fine::NotYetKnown,
        };
        server.answered(carrier, now, took, fine);
        self.deliver(carrier, result);
    }

    fn read(&self, message: &[u8]) -> Result<Response, TryError> {
        if wire::u16_at(message, 4) == Some(0) {
            // The question was left out: put ours in its place, so that everything behind reads one form.
            let mut whole = message[..HEADER_LEN].to_vec();
            whole[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            whole.extend_from_slice(self.asking.question().section);
            return Response::read(&whole).map_err(|_| TryError::Malformed);
        }
        Response::read(message).map_err(|_| TryError::Malformed)
    }

    /// The network said that the server cannot be reached.
    fn unreachable(self, server: &Server, carrier: Carrier, now: Instant) {
        server.metrics.outcome(Outcome::Unreachable);
        server.unreachable(carrier, now);
        self.deliver(carrier, Err(TryError::Unreachable));
    }

    /// It could not be sent, or the connection it was on ended. That says nothing of the server: this host may be out
    /// of sockets, or the server may have had enough of this connection.
    fn broken(self, server: &Server, carrier: Carrier) {
        server.metrics.outcome(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Broken));
    }

    fn deliver(self, carrier: Carrier, result: Result<Response, TryError>) {
        let (number, edns) = (self.number, self.edns);
        self.mailbox.deliver(Delivery {
            number,
            carrier,
            edns,
            result,
        });
    }

    /// Whether its answer would come too late to matter, even to tell how slow the server is. If so, the server's
    /// health hears of the loss.
    fn expired(&self, server: &Server, carrier: Carrier, now: Instant) -> bool {
        let expired = now.saturating_duration_since(self.sent) > server.try_timeout * 3 / 2;
        match (expired, self.mailbox.answered.get()) {
            (true, true) => server.lost(carrier, now, self.sent),
            (true, false) => server.metrics.outcome(Outcome::Unanswered),
            (false, _) => {}
        }
        expired
    }
}

fn outcome(result: &Result<Response, TryError>) -> Outcome {
    match result {
        Err(TryError::Malformed) => Outcome::Malformed,
        Err(TryError::Unreachable | TryError::Broken) => Outcome::Unreachable,
        Ok(response) if response.truncated() => Outcome::Truncated,
        Ok(response) => match (response.kind(), response.rcode()) {
            (Kind::Positive | Kind::Negative, _) => Outcome::Answered,
            (Kind::Referral, _) => Outcome::Referral,
            (Kind::Failure, rcode::SERVFAIL) => Outcome::Servfail,
            (Kind::Failure, rcode::REFUSED) => Outcome::Refused,
            (Kind::Failure, rcode::NOTIMP) => Outcome::Notimp,
            (Kind::Failure, rcode::FORMERR) => Outcome::Formerr,
            (Kind::Failure, _) => Outcome::OtherCode,
        },
    }
}

/// Numbers nobody can guess, from the operating system, a few hundred a call (RFC 5452 §9.2: IDs and ports).
#[derive(Debug)]
pub struct Unpredictable {
    buffer: [u8; 512],
    at: usize,
}

impl Unpredictable {
    /// Empty; the first number fills it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: [0; 512],
            at: 512,
        }
    }

    /// 16 random bits.
    pub fn next_u16(&mut self) -> u16 {
        if self.at + 2 > self.buffer.len() {
            getrandom::fill(&mut self.buffer)
                .expect("getrandom(2) works once the kernel has booted");
            self.at = 0;
        }
        self.at += 2;
        u16::from_ne_bytes([self.buffer[self.at - 2], self.buffer[self.at - 1]])
    }
}

impl Default for Unpredictable {
    fn default() -> Self {
        Self::new()
    }
}
