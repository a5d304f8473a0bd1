//! One try: a query to one server, from writing its bytes to delivering its result.

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

/// A question that is being asked upstream, and the mailbox for the results of its tries. All its tries share it.
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

    /// A hash of QNAME. The health of servers counts unanswered names by it: A and AAAA of one name that never resolves are one
    /// reason to doubt a server, not two.
    #[must_use]
    pub fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// The mailbox for results of its tries.
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
    /// The server closed the connection before it answered.
    #[error("connection ended")]
    Closed,
    /// The query could not be sent.
    #[error("not sent")]
    Broken,
    /// Each socket that the query was sent from received many messages that match no query: somebody may be guessing IDs.
    #[error("forged responses on every port")]
    Forged,
    /// The response cannot be parsed: its counts, lengths or names are wrong.
    #[error("malformed response")]
    Malformed,
    /// The server answered over HTTPS with this status in place of a message.
    #[error("HTTP status {0}")]
    HttpStatus(u16),
}

/// The result of a try.
#[derive(Debug)]
pub struct Delivery {
    /// The try's number in its plan.
    pub number: usize,
    /// The transport of its query.
    pub carrier: Carrier,
    /// The form of its query (OPT, AD).
    pub form: QueryForm,
    /// The response, or why there is none.
    pub result: Result<Response, TryError>,
    /// The query left this host no earlier than at this time. A query over TCP waits for its connection, and a query whose
    /// socket was closed is sent again. The server may have answered with what was true from then on.
    pub left: Instant,
    /// When the response or the error came.
    pub at: Instant,
}

/// The results of one question's tries. The lookup closes it when it ends; results that come later only count for the server's
/// health.
#[derive(Debug, Default)]
pub struct Mailbox {
    // A second delivery is rare.
    deliveries: RefCell<SmallVec<[Delivery; 1]>>,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    answered: Cell<bool>,
}

impl Mailbox {
    /// Adds a delivery, and wakes the lookup that waits for it. Does nothing after `close`.
    fn deliver(&self, delivery: Delivery) {
        if self.closed.get() {
            return;
        }
        self.deliveries.borrow_mut().push(delivery);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Takes the oldest delivery.
    #[must_use]
    pub fn take(&self) -> Option<Delivery> {
        let mut deliveries = self.deliveries.borrow_mut();
        (!deliveries.is_empty()).then(|| deliveries.remove(0))
    }

    /// Waits until there is a delivery to take.
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

    /// Closes the mailbox: nobody waits for deliveries any more. Frees waker and deliveries at once, because tries without an
    /// answer keep the mailbox itself alive for a while.
    pub fn close(&self) {
        self.closed.set(true);
        self.waker.take();
        self.deliveries.take();
    }

    /// Notes that the question was answered. From then on, tries of it that stay unanswered count as lost by their servers. If
    /// no server answers a question, its tries say nothing about servers.
    pub fn settle(&self) {
        self.answered.set(true);
    }
}

/// A try whose query was sent, or waits to be sent.
#[derive(Debug)]
pub struct Exchange {
    question: Rc<SharedQuestion>,
    number: usize,
    form: QueryForm,
    sent: Instant,
    /// Size of a response over UDP, in octets, that the query's OPT allows.
    payload: u16,
    /// How often the query was sent again because its socket was closed.
    moves: u8,
    /// How many queries were sent on its socket before it.
    place: u32,
    /// See [`Delivery::left`].
    left: Instant,
    /// Whether the observer was told that the try is late.
    late: Cell<bool>,
}

impl Exchange {
    /// A try whose query is sent at `sent`.
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
            place: 0,
            left: sent,
            late: Cell::new(false),
        }
    }

    /// The same try, whose query allows only the least response size, which fits every network path. The server truncates
    /// longer responses, and the question is asked again over TCP.
    #[must_use]
    pub fn with_least_payload(mut self) -> Self {
        self.payload = MIN_PAYLOAD;
        self
    }

    /// Appends the query's bytes, with this ID.
    pub(super) fn write(&self, id: u16, out: &mut Vec<u8>) {
        let question = self.question.question();
        question.write_taking(self.payload, id, self.form, out);
    }

    /// When the query was sent.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Whether a lookup still waits for the result.
    pub(super) fn is_awaited(&self) -> bool {
        !self.question.mailbox.closed.get()
    }

    /// How often the query was sent again because its socket was closed.
    pub(super) fn moves(&self) -> u8 {
        self.moves
    }

    /// The same try, to be sent again from another socket.
    pub(super) fn move_on(mut self, now: Instant) -> Self {
        self.moves += 1;
        self.sent = now;
        self.left = now;
        self
    }

    /// How many queries were sent on its socket before it.
    pub(super) fn place(&self) -> u32 {
        self.place
    }

    /// Notes how many queries were sent on its socket before it.
    pub(super) fn takes_place(&mut self, place: u32) {
        self.place = place;
    }

    /// Notes that the query can leave this host now, and could not before.
    pub(super) fn may_leave(&mut self, now: Instant) {
        self.left = now;
    }

    /// Checks that a message answers this try's question.
    pub(super) fn matches(&self, message: &[u8]) -> Result<(), Mismatch> {
        answers(self.question.question().section, message)
    }

    /// Parses a matching message, tells the observer, and delivers the result.
    pub(super) fn answered(self, peer: &Peer, carrier: Carrier, message: &[u8], now: Instant) {
        let result = self.read(carrier, message);
        self.deliver_answer(peer, carrier, result, now);
    }

    /// Like `answered`, for a matching message of which only the start fitted into our buffer. It counts as truncated by the
    /// server.
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

    /// Like `answered`, for an answer that is not a DNS message.
    pub(super) fn answered_without_message(
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
            Ok(response) => match response.kind() {
                Kind::Negative if response.is_lame() => AnswerQuality::Undecided,
                Kind::Positive | Kind::Negative => AnswerQuality::Final,
                Kind::Referral | Kind::Failure => AnswerQuality::Undecided,
            },
            Err(_) => AnswerQuality::Undecided,
        };
        peer.observer.answered(carrier, now, rtt, quality);
        self.deliver(carrier, result, now);
    }

    fn read(&self, carrier: Carrier, message: &[u8]) -> Result<Response, TryError> {
        if leaves_question_out(message) {
            // After TC the question is asked over TCP, and that response must contain it. An answer without a question may be
            // for another question.
            let says_enough = form::failed(message) || wire::flags(message) & flag::TC != 0;
            return if says_enough {
                self.without_records(message)
            } else {
                Err(TryError::Malformed)
            };
        }
        match Response::read(message) {
            // RFC 2181 §9: a message with TC may be cut anywhere, even within a record.
            Err(_) if wire::flags(message) & flag::TC != 0 => Response::cut_short(message),
            // Servers that refuse EDNS may copy the query's counts and leave out the records. Only the response code matters
            // then.
            Err(_) if form::failed(message) => return self.without_records(message),
            // Routers and firewalls are known to cut what they take for too long, and to leave TC clear.
            Err(_) if carrier == Carrier::Datagram && message.len() >= usize::from(MIN_PAYLOAD) => {
                Response::cut_short(message)
            }
            result => result,
        }
        .map_err(|_| TryError::Malformed)
    }

    /// Makes a message of the response's header and our question, so that callers always find a question.
    fn without_records(&self, message: &[u8]) -> Result<Response, TryError> {
        let mut whole = message[..HEADER_LEN].to_vec();
        whole[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        whole.extend_from_slice(self.question.question().section);
        Response::read(&whole).map_err(|_| TryError::Malformed)
    }

    /// Ends tries that wait on one socket: the network reported to the socket that the server cannot be reached. This counts
    /// once for the server's health.
    pub(super) fn all_unreachable(
        exchanges: impl IntoIterator<Item = Self>,
        peer: &Peer,
        carrier: Carrier,
        now: Instant,
    ) {
        let exchanges: SmallVec<[Self; 1]> = exchanges.into_iter().collect();
        if let Some(sent) = exchanges.iter().map(Self::sent).max() {
            peer.observer.unreachable(carrier, now, sent);
        }
        for exchange in exchanges {
            peer.metrics.ended(Outcome::Unreachable);
            exchange.deliver(carrier, Err(TryError::Unreachable), now);
        }
    }

    /// Ends the try: the server closed each connection that the query was sent on. A server may close a connection for reasons
    /// of its own, so this does not count against its health.
    pub(super) fn closed(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Closed), runtime::now());
    }

    /// Ends the try: the query could not be sent. This host may be out of sockets, so it does not count against the server's
    /// health.
    pub(super) fn broken(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Broken), runtime::now());
    }

    /// Ends the try: each socket that the query was sent from was closed because of messages that match no query. Their sender
    /// need not be the server, so this does not count against its health.
    pub(super) fn forged(self, peer: &Peer, carrier: Carrier) {
        peer.metrics.ended(Outcome::Unreachable);
        self.deliver(carrier, Err(TryError::Forged), runtime::now());
    }

    /// Counts the try as unanswered. A later answer is still delivered if a lookup waits for it.
    pub(super) fn late(&self, peer: &Peer, carrier: Carrier, now: Instant) {
        if !self.late.replace(true) {
            peer.observer.expired(carrier, now);
        }
    }

    /// Ends the try: an answer would come too late. It counts as lost only if another try of the question was answered.
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
        let (number, form, left) = (self.number, self.form, self.left);
        self.question.mailbox.deliver(Delivery {
            number,
            carrier,
            form,
            result,
            left,
            at,
        });
    }
}

/// Checks that a message answers a question, which is given as a query's question section (RFC 5452 §9.1). A failure, or a
/// truncated message, may have no question. Any other message without a question is accepted here, too: it is malformed, and ends
/// its try at once.
pub(crate) fn answers(asked: &[u8], message: &[u8]) -> Result<(), Mismatch> {
    let flags = wire::flags(message);
    if message.len() < HEADER_LEN || flags & (flag::QR | flag::OPCODE) != flag::QR {
        return Err(Mismatch::NotAResponse);
    }
    if leaves_question_out(message) {
        return Ok(());
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

/// Whether a message has no question: QDCOUNT is 0, or the message is no longer than its header.
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
            (Kind::Negative, _) if response.is_lame() => Outcome::Referral,
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
