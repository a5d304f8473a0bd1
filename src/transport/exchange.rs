//! One try: a question sent to one server, from the query's bytes to the delivery of what came of it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use smallvec::SmallVec;

use super::metrics::{Mismatch, Outcome};
use super::peer::{AnswerQuality, Carrier, Peer};
use crate::message::form::{self, QueryForm};
use crate::message::query::Question;
use crate::message::response::{Kind, Response};
use crate::message::wire::{self, HEADER_LEN, MAX_PAYLOAD, MIN_PAYLOAD, flag, rcode};
use crate::runtime;

/// A question on its way, shared by all its tries, and where they deliver.
#[derive(Debug)]
pub struct SharedQuestion {
    key: Rc<[u8]>,
    name_hash: u64,
    mailbox: Mailbox,
}

impl SharedQuestion {
    /// The question of a key made by [`crate::message::query::Query::key`].
    #[must_use]
    pub fn new(key: &Rc<[u8]>, hasher: &ahash::RandomState) -> Self {
        Self {
            key: Rc::clone(key),
            name_hash: hasher.hash_one(Question::of(key).name),
            mailbox: Mailbox::default(),
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
    pub fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Where its tries deliver.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
}

/// Why a try ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryError {
    /// ICMP or the TCP stack said that the server cannot be reached.
    #[error("unreachable")]
    Unreachable,
    /// The server ended the connection before the answer.
    #[error("connection ended")]
    Closed,
    /// It could not be sent.
    #[error("not sent")]
    Broken,
    /// Each of its sockets got many messages that match no query: somebody may be guessing IDs.
    #[error("forged responses on every port")]
    Forged,
    /// The response's counts, lengths or names lie.
    #[error("malformed response")]
    Malformed,
    /// The server answered over HTTPS with this status, and no message.
    #[error("HTTP status {0}")]
    HttpStatus(u16),
}

/// How a try ended.
#[derive(Debug)]
pub struct Delivery {
    /// The try's number in its plan.
    pub number: usize,
    /// How it travelled.
    pub carrier: Carrier,
    /// What its query carried.
    pub form: QueryForm,
    /// What came.
    pub result: Result<Response, TryError>,
    /// When.
    pub at: Instant,
}

/// Where the tries of one question deliver. Closed when nobody waits any more; what comes later only tells the server's
/// health.
#[derive(Debug, Default)]
pub struct Mailbox {
    // There is hardly ever a second one.
    deliveries: RefCell<SmallVec<[Delivery; 1]>>,
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

    /// What was delivered first and not taken yet.
    #[must_use]
    pub fn take(&self) -> Option<Delivery> {
        let mut deliveries = self.deliveries.borrow_mut();
        (!deliveries.is_empty()).then(|| deliveries.remove(0))
    }

    /// Waits until there is something to take.
    pub async fn filled(&self) {
        poll_fn(|context| {
            if self.deliveries.borrow().is_empty() {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Nobody waits any more. What waited is let go of: tries that were not answered keep the mailbox for a while.
    pub fn close(&self) {
        self.closed.set(true);
        self.waker.take();
        self.deliveries.take();
    }

    /// The question was answered: tries that never will be were lost by their servers. Of a question that nobody
    /// answers they say nothing.
    pub fn settle(&self) {
        self.answered.set(true);
    }
}

/// A try on its way.
#[derive(Debug)]
pub struct Exchange {
    question: Rc<SharedQuestion>,
    number: usize,
    form: QueryForm,
    sent: Instant,
    /// Octets that an answer over UDP may have.
    payload: u16,
    moves: u8,
    /// Its server was told that it is late.
    late: Cell<bool>,
}

impl Exchange {
    /// A try that leaves now.
    #[must_use]
    pub fn new(
        question: &Rc<SharedQuestion>,
        number: usize,
        form: QueryForm,
        sent: Instant,
    ) -> Self {
        Self {
            question: Rc::clone(question),
            number,
            form,
            sent,
            payload: MAX_PAYLOAD,
            moves: 0,
            late: Cell::new(false),
        }
    }

    /// It, asking for an answer that gets through wherever anything does: what is longer is cut, and fetched over TCP.
    #[must_use]
    pub fn with_least_payload(mut self) -> Self {
        self.payload = MIN_PAYLOAD;
        self
    }

    /// Appends the query's bytes under this ID.
    pub(super) fn write(&self, id: u16, out: &mut Vec<u8>) {
        let question = self.question.question();
        question.write_taking(self.payload, id, self.form, out);
    }

    /// When it left.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Whether anybody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.question.mailbox.closed.get()
    }

    /// How often its socket was closed under it.
    pub(super) fn moves(&self) -> u8 {
        self.moves
    }

    /// It leaves once more, from another socket.
    pub(super) fn move_on(mut self, now: Instant) -> Self {
        self.moves += 1;
        self.sent = now;
        self
    }

    /// Whether a message answers this try's question.
    pub(super) fn matches(&self, message: &[u8]) -> Result<(), Mismatch> {
        answers(self.question.question().section, message)
    }

    /// Reads a message that matches, tells the observer, and delivers.
    pub(super) fn answered(self, peer: &Peer, carrier: Carrier, message: &[u8], now: Instant) {
        let result = self.read(message);
        self.deliver_answer(peer, carrier, result, now);
    }

    /// The start of a message that matches arrived, and the rest did not fit our buffer: as if the server had cut it.
    pub(super) fn answered_in_part(
        self,
        peer: &Peer,
        carrier: Carrier,
        start: &[u8],
        now: Instant,
    ) {
        let result = Response::cut_short(start).map_err(|_| TryError::Malformed);
        self.deliver_answer(peer, carrier, result, now);
    }

    /// What came for it is no message of DNS.
    pub(super) fn answered_otherwise(
        self,
        peer: &Peer,
        carrier: Carrier,
        error: TryError,
        now: Instant,
    ) {
        self.deliver_answer(peer, carrier, Err(error), now);
    }

    fn deliver_answer(
        self,
        peer: &Peer,
        carrier: Carrier,
        result: Result<Response, TryError>,
        now: Instant,
    ) {
        let rtt = now.saturating_duration_since(self.sent);
        let code = result.as_ref().ok().map(Response::rcode);
        peer.metrics.answered_after(rtt, code);
        peer.metrics.ended(outcome(&result));
        let quality = match &result {
            Ok(response) if matches!(response.kind(), Kind::Positive | Kind::Negative) => {
                AnswerQuality::Final
            }
            _ => AnswerQuality::Undecided,
        };
        peer.observer.answered(carrier, now, rtt, quality);
        self.deliver(carrier, result, now);
    }

    fn read(&self, message: &[u8]) -> Result<Response, TryError> {
        if leaves_question_out(message) {
            return self.without_records(message);
        }
        match Response::read(message) {
            // RFC 2181 §9: what stands behind TC may be cut anywhere, inside a record too.
            Err(_) if wire::flags(message) & flag::TC != 0 => Response::cut_short(message),
            // Servers that refuse EDNS copy the query's counts without its records, and the code is all that matters.
            Err(_) if form::failed(message) => return self.without_records(message),
            result => result,
        }
        .map_err(|_| TryError::Malformed)
    }

    /// The message's header with our question, so that everything behind reads one form.
    fn without_records(&self, message: &[u8]) -> Result<Response, TryError> {
        let mut whole = message[..HEADER_LEN].to_vec();
        whole[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        whole.extend_from_slice(self.question.question().section);
        Response::read(&whole).map_err(|_| TryError::Malformed)
    }

    /// The network said that the server cannot be reached.
    pub(super) fn unreachable(self, peer: &Peer, carrier: Carrier, now: Instant) {
        peer.metrics.ended(Outcome::Unreachable);
        peer.observer.unreachable(carrier, now);
        self.deliver(carrier, Err(TryError::Unreachable), now);
    }

    /// Its server ended the connection it was on, as often as it was asked. A server may have had enough of a connection,
    /// so its health is not told.
    pub(super) fn closed(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Closed), runtime::now());
    }

    /// It could not be sent. That says nothing of the server: this host may be out of sockets.
    pub(super) fn broken(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Broken), runtime::now());
    }

    /// Each socket that it was moved to was closed because of messages that match no query. Whoever sends them need not be the
    /// server, so its health is not told.
    pub(super) fn forged(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Forged), runtime::now());
    }

    /// It counts as unanswered from now on, although an answer is still taken while anybody waits for it.
    pub(super) fn late(&self, peer: &Peer, carrier: Carrier, now: Instant) {
        if !self.late.replace(true) {
            peer.observer.expired(carrier, now);
        }
    }

    /// It is given up because an answer would come too late. It counts as lost only if its question was answered
    /// otherwise.
    pub(super) fn expired(&self, peer: &Peer, carrier: Carrier, now: Instant) {
        self.late(peer, carrier, now);
        if self.question.mailbox.answered.get() {
            peer.metrics.ended(Outcome::Lost);
            peer.observer.lost(carrier, now, self.sent);
        } else {
            peer.metrics.ended(Outcome::Unanswered);
        }
    }

    fn deliver(self, carrier: Carrier, result: Result<Response, TryError>, at: Instant) {
        let (number, form) = (self.number, self.form);
        self.question.mailbox.deliver(Delivery {
            number,
            carrier,
            form,
            result,
            at,
        });
    }
}

/// Whether a message answers the question of a query, given as the section it has there (RFC 5452 §9.1). Servers that fail,
/// or cut their answer, may leave the question out.
pub(crate) fn answers(asked: &[u8], message: &[u8]) -> Result<(), Mismatch> {
    let flags = wire::flags(message);
    if message.len() < HEADER_LEN || flags & (flag::QR | flag::OPCODE) != flag::QR {
        return Err(Mismatch::NotAResponse);
    }
    if leaves_question_out(message) {
        // What TC leads to is the same question over TCP, which is answered with it.
        return if form::failed(message) || flags & flag::TC != 0 {
            Ok(())
        } else {
            Err(Mismatch::Question)
        };
    }
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

/// Whether a message has no question: it says so, or ends with its header.
fn leaves_question_out(message: &[u8]) -> bool {
    wire::u16_at(message, 4) == Some(0) || message.len() == HEADER_LEN
}

fn outcome(result: &Result<Response, TryError>) -> Outcome {
    match result {
        Err(TryError::Malformed) => Outcome::Malformed,
        Err(TryError::HttpStatus(_)) => Outcome::HttpError,
        Err(TryError::Unreachable | TryError::Closed | TryError::Broken | TryError::Forged) => {
            Outcome::Unreachable
        }
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
