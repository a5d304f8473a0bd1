//! The clients' messages and the replies to them. Each message must get one reply, or none for a reason that follows from its
//! octets.

use std::net::SocketAddr;

use nodens::message::query::{Query, Reject};
use nodens::message::response::Response;
use nodens::message::wire::{
    Counts, HEADER_LEN, MAX_PAYLOAD, MIN_PAYLOAD, Records, flag, flags, id, skip_question_name,
};

use crate::network::StreamId;

/// The address in each response that answers no query.
pub(crate) const FORGED: [u8; 4] = [203, 0, 113, 66];

/// A message that a client waits for a reply to.
#[derive(Debug)]
struct Waiting {
    client: SocketAddr,
    stream: Option<StreamId>,
    id: u16,
    opcode: u16,
    /// The question, spelt as in the query. None if it cannot be read.
    question: Option<Vec<u8>>,
    /// Greatest length of a reply over UDP, in octets.
    limit: usize,
    /// Whether the reply may be missing.
    optional: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Expected {
    waiting: Vec<Waiting>,
    /// Messages that reached a listener, and the number of them that must get no reply.
    pub(crate) arrived: u64,
    pub(crate) silent: u64,
    pub(crate) replies: u64,
    /// Whether the forged address was in another message of the input, too: then it proves nothing in a reply.
    pub(crate) forged_address_said: bool,
}

/// QNAME, QTYPE and QCLASS, if the message has exactly one question after its header.
fn question(message: &[u8]) -> Option<Vec<u8>> {
    let counts = Counts::read(message).ok()?;
    let end = skip_question_name(message, HEADER_LEN).ok()? + 4;
    if counts.questions != 1 {
        return None;
    }
    message.get(HEADER_LEN..end).map(<[u8]>::to_vec)
}

impl Expected {
    /// Whether a client is outside `allow`.
    pub(crate) fn is_stranger(client: SocketAddr) -> bool {
        client.ip().to_string().starts_with("198.")
    }

    /// Notes a message that is about to reach nodens.
    pub(crate) fn arrived(&mut self, client: SocketAddr, stream: Option<StreamId>, message: &[u8]) {
        self.arrived += 1;
        self.forged_address_said |= message.windows(4).any(|octets| octets == FORGED);
        let query = Query::read(message);
        if matches!(query, Err(Reject::Short | Reject::NotAQuery)) {
            self.silent += 1;
            return;
        }
        let edns = query.ok().and_then(|query| query.edns);
        let payload = edns.map_or(MIN_PAYLOAD, |edns| edns.payload);
        self.waiting.push(Waiting {
            client,
            stream,
            id: id(message),
            opcode: flags(message) & flag::OPCODE,
            question: question(message),
            limit: payload.clamp(MIN_PAYLOAD, MAX_PAYLOAD).into(),
            optional: Self::is_stranger(client),
        });
    }

    /// Notes that a connection was reset: replies to its client may be missing.
    pub(crate) fn gone(&mut self, stream: StreamId) {
        for waiting in &mut self.waiting {
            waiting.optional |= waiting.stream == Some(stream);
        }
    }

    /// Checks a reply that nodens sends.
    pub(crate) fn replied(&mut self, client: SocketAddr, stream: Option<StreamId>, reply: &[u8]) {
        self.replies += 1;
        let counts = Counts::read(reply).expect("a reply has a header");
        assert_ne!(flags(reply) & flag::QR, 0, "a reply is a response");
        let said = question(reply);
        assert_eq!(said.is_some(), counts.questions == 1);
        let of = |waiting: &Waiting| {
            (waiting.client, waiting.stream, waiting.id) == (client, stream, id(reply))
                && waiting.opcode == flags(reply) & flag::OPCODE
                && waiting.question == said
        };
        let fits = |waiting: &Waiting| stream.is_some() || reply.len() <= waiting.limit;
        // Several messages may differ in their OPT only. The reply counts for the one with the smallest limit.
        let takes = self.waiting.iter().enumerate();
        let takes = takes.filter(|(_, one)| of(one) && fits(one));
        let place = takes.min_by_key(|(_, one)| one.limit);
        let place = place.map(|(place, _)| place).unwrap_or_else(|| {
            let alike = self.waiting.iter().filter(|one| of(one)).count();
            panic!("{client}, for which {alike} like it wait: {reply:02x?}")
        });
        self.waiting.swap_remove(place);
        if stream.is_some() {
            assert_eq!(flags(reply) & flag::TC, 0, "TC over TCP");
        }
        let Some(section) = said else {
            assert_eq!(reply.len(), HEADER_LEN, "records without a question");
            return;
        };
        let mut records = Records::new(reply, HEADER_LEN + section.len(), counts);
        while let Some(record) = records.next() {
            record.expect("a record of a reply can be read");
        }
        assert_eq!(records.position(), reply.len(), "octets behind a reply");
        Response::read(reply).expect("a reply reads as a response");
        let forged = reply.windows(4).any(|octets| octets == FORGED);
        assert!(
            !forged || self.forged_address_said,
            "what was forged reached a client: {reply:02x?}"
        );
    }

    /// Number of messages without a reply that must get one.
    pub(crate) fn missing(&self) -> usize {
        self.waiting.iter().filter(|one| !one.optional).count()
    }

    /// A text of the messages without a reply that must get one.
    pub(crate) fn show(&self) -> String {
        let missing = self.waiting.iter().filter(|one| !one.optional);
        missing.map(|one| format!("{one:02x?}\n")).collect()
    }

    /// Number of messages without a reply that need not get one.
    pub(crate) fn lost(&self) -> u64 {
        self.waiting.len() as u64
    }
}
