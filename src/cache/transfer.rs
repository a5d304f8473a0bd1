//! The cache's entries as a stream of bytes, which a process sends to its successor.
//!
//! Owns the format, and the checks of received entries. A frame is not trusted more than a server's response: its message is
//! read by [`Response::read`], and key, hash, TTL and kind are derived from the message. The values that the sender adds (age,
//! bounds) can only make an entry older or its lifetime shorter. Must not know sockets or routes.
//!
//! A stream consists of [`MAGIC`], frames, and an empty frame as its end. A frame is its length in octets (32 bits), followed
//! by that many octets. This module does not know the contents of the first frame. Each other frame is an entry: the key's last
//! byte, route (16 bits), tier (8), kind (8), age in milliseconds (64), lifetime in seconds (32), the cap of its TTLs in
//! seconds (32), and the message, with the servers' extended errors in an OPT record. Numbers are in network order.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::{Bounds, Entry, Origin};
use crate::budgets::HANDOVER_ENTRY_BYTES;
use crate::message::query::Question;
use crate::message::response::{Kind, Response};
use crate::message::wire::{self, Counts, flag, rr};

/// The first octets of a stream. They contain the version of the format.
pub const MAGIC: [u8; 15] = *b"nodens cache 1\n";

/// Octets of a frame before the message.
const HEAD: usize = 21;

/// Octets of an OPT record before its options (RFC 6891 §6.1.2).
const OPT_HEAD: usize = 11;

/// OPCODE (RFC 1035 §4.1.1).
const OPCODE: u16 = 0x7800;

/// Why entries cannot be read from a stream.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The stream ended early, or took too long.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// The stream does not begin with [`MAGIC`].
    #[error("it speaks another format")]
    Foreign,
    /// A frame has this length in octets, which is too long.
    #[error("a frame of {0} octets, which is too long")]
    FrameTooLong(u32),
}

impl TransferError {
    /// Whether the sender was too slow. The entries received until then are sound.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        use io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, Self::Stream(error) if matches!(error.kind(), TimedOut | WouldBlock))
    }
}

/// An entry received from another process.
#[derive(Debug)]
pub struct Received {
    bits: u8,
    response: Response,
    /// Index of the route that answered, in the sender's setup.
    pub route: u16,
    /// The tier of the route that answered; 0 is the first.
    pub tier: u8,
    age: Duration,
    lifetime: u32,
    ttl_cap: u32,
}

/// Reads [`MAGIC`].
///
/// # Errors
/// [`TransferError::Foreign`], and errors of the stream.
pub fn read_magic(stream: &mut impl Read) -> Result<(), TransferError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic)?;
    if magic == MAGIC {
        Ok(())
    } else {
        Err(TransferError::Foreign)
    }
}

/// Reads a frame of at most `most` octets into `frame`. Returns false for the empty frame, the end of the stream.
///
/// # Errors
/// [`TransferError::FrameTooLong`], and errors of the stream.
pub fn read_frame(
    stream: &mut impl Read,
    frame: &mut Vec<u8>,
    most: usize,
) -> Result<bool, TransferError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    let octets = usize::try_from(length).unwrap_or(usize::MAX);
    if octets > most {
        return Err(TransferError::FrameTooLong(length));
    }
    frame.clear();
    // Memory is allocated as octets arrive, because the announced length may be wrong.
    let read = stream.take(u64::from(length)).read_to_end(frame)?;
    if read < octets {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(length > 0)
}

/// Writes a frame. An empty frame ends the stream.
///
/// # Errors
/// Errors of the stream.
pub fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(frame)
}

impl Entry {
    /// Writes the entry, with its age at `now`, as the contents of `frame`. Returns false if such entries are not handed over.
    #[must_use]
    pub fn write(&self, now: Instant, frame: &mut Vec<u8>) -> bool {
        let (Some(route), Some(kind)) = (self.route(), kind_number(self.response().kind())) else {
            return false;
        };
        let age = now.saturating_duration_since(self.stored());
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        frame.clear();
        frame.push(self.question().bits());
        frame.extend_from_slice(&route.to_be_bytes());
        frame.extend_from_slice(&[self.tier(), kind]);
        frame.extend_from_slice(&age.to_be_bytes());
        frame.extend_from_slice(&self.lifetime().to_be_bytes());
        frame.extend_from_slice(&self.ttl_cap().to_be_bytes());
        let view = self.response();
        frame.extend_from_slice(view.message());
        let errors = view.errors();
        if let Ok(length) = u16::try_from(errors.len())
            && length > 0
        {
            let message = &mut frame[HEAD..];
            let counts = Counts::read(message).unwrap_or_default();
            Counts {
                additionals: counts.additionals.saturating_add(1),
                ..counts
            }
            .write(message);
            let mut opt = [0; OPT_HEAD];
            opt[1..3].copy_from_slice(&rr::OPT.to_be_bytes());
            opt[OPT_HEAD - 2..].copy_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&opt);
            frame.extend_from_slice(errors);
        }
        frame.len() <= HANDOVER_ENTRY_BYTES
    }
}

impl Received {
    /// Reads a frame. None if this process would not have cached its answer.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (head, message) = frame.split_at_checked(HEAD)?;
        let flags = wire::flags(message);
        if flags & (flag::QR | OPCODE | flag::TC) != flag::QR {
            return None;
        }
        let response = Response::read(message).ok()?;
        if kind_number(response.kind()) != Some(head[4]) {
            return None;
        }
        let bits = head[0];
        let section = response.view().question();
        let question = Question::with_bits(section, bits);
        let class = wire::u16_at(section, section.len() - 2);
        let asked_for = question.cacheable() && class == Some(rr::IN);
        if !asked_for || question.bits() != bits || matches!(question.qtype, rr::AXFR | rr::IXFR) {
            return None;
        }
        let milliseconds = head[5..13].try_into().ok().map(u64::from_be_bytes)?;
        Some(Self {
            bits,
            route: wire::u16_at(head, 1)?,
            tier: head[3],
            age: Duration::from_millis(milliseconds),
            lifetime: wire::u32_at(head, 13)?,
            ttl_cap: wire::u32_at(head, 17)?,
            response,
        })
    }

    /// The message.
    #[must_use]
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Its key in this process's cache.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        [self.response.view().question(), &[self.bits]].concat()
    }

    /// The entry for this process's cache, with `bounds` of the route in `origin`. None if the clock cannot represent its age.
    #[must_use]
    pub fn entry(&self, now: Instant, origin: Origin, bounds: Bounds) -> Option<Entry> {
        let bounds = Bounds {
            max_lifetime: bounds.max_lifetime.min(self.lifetime),
            ..bounds.at_most(self.ttl_cap)
        };
        let stored = now.checked_sub(self.age)?;
        Some(Entry::new(
            &self.key(),
            &self.response,
            stored,
            origin,
            bounds,
        ))
    }
}

/// The number that stands for a kind of answer in a frame. None for kinds that are never cached.
fn kind_number(kind: Kind) -> Option<u8> {
    match kind {
        Kind::Positive => Some(0),
        Kind::Negative => Some(1),
        Kind::Referral | Kind::Failure => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::tests::BOUNDS;
    use crate::message::ede::{ExtendedError, PassedOn};
    use crate::message::response::testing::response;

    const ORIGIN: Origin = Origin {
        route: 3,
        tier: 1,
        took: Duration::ZERO,
    };

    fn entry(response: &Response, stored: Instant, bounds: Bounds) -> (Vec<u8>, Entry) {
        let key = [response.view().question(), &[1]].concat();
        let entry = Entry::new(&key, response, stored, ORIGIN, bounds);
        (key, entry)
    }

    fn frame(entry: &Entry, now: Instant) -> Vec<u8> {
        let mut frame = Vec::new();
        assert!(entry.write(now, &mut frame));
        frame
    }

    #[test]
    fn an_entry_arrives_as_it_left_and_goes_on_ageing() {
        let start = Instant::now();
        let now = start + Duration::from_millis(10_500);
        let errors = PassedOn::from(&ExtendedError::new(15, "blocked"));
        for (name, answer, lifetime) in [
            ("positive", response("a.example.", 300, &[1, 2]), 300),
            (
                "a later tier's denial",
                response("b.example.", 300, &[]),
                30,
            ),
            (
                "with an extended error",
                response("c.example.", 60, &[1]).with_errors(&errors),
                60,
            ),
        ] {
            let (key, sent) = entry(&answer, start, BOUNDS);
            let received = Received::read(&frame(&sent, now)).expect(name);
            assert_eq!((received.route, received.tier), (3, 1), "{name}");
            assert_eq!(received.key(), key, "{name}");
            let arrived = received.entry(now, ORIGIN, BOUNDS).expect(name);
            assert_eq!(arrived.response().message(), sent.response().message());
            assert_eq!(arrived.response().errors(), sent.response().errors());
            assert_eq!(arrived.seconds_left(now), lifetime - 10, "{name}");
            assert_eq!(arrived.ttl_cap(), sent.ttl_cap(), "{name}");
            assert!(arrived.answers(&key), "{name}");
        }
    }

    #[test]
    fn an_entry_has_the_lower_bounds_of_sender_and_receiver() {
        let now = Instant::now();
        let answer = response("a.example.", 300, &[1]);
        let short = Bounds {
            max_ttl: 20,
            ..BOUNDS
        };
        for (theirs, ours) in [(short, BOUNDS), (BOUNDS, short)] {
            let (_, sent) = entry(&answer, now, theirs);
            let received = Received::read(&frame(&sent, now)).expect("an entry");
            let arrived = received.entry(now, ORIGIN, ours).expect("young");
            assert_eq!((arrived.lifetime(), arrived.ttl_cap()), (20, 20));
        }
    }

    #[test]
    fn frames_without_a_cacheable_answer_are_refused() {
        type Spoil = fn(&mut Vec<u8>, usize);
        let now = Instant::now();
        let (_, sent) = entry(&response("a.example.", 300, &[1]), now, BOUNDS);
        let good = frame(&sent, now);
        let end = HEAD + sent.response().question_end();
        let cases: [(&str, Spoil); 9] = [
            ("a query", |frame, _| frame[HEAD + 2] &= 0x7f),
            ("another opcode", |frame, _| frame[HEAD + 2] |= 0x28),
            ("cut", |frame, _| frame[HEAD + 2] |= 2),
            ("a failure", |frame, _| frame[HEAD + 3] |= 2),
            ("another kind", |frame, _| frame[4] = 1),
            ("a key of RD=0", |frame, _| frame[0] = 4),
            ("bits that no key has", |frame, _| frame[0] = 0x80),
            ("ANY", |frame, end| frame[end - 3] = 255),
            ("CHAOS", |frame, end| frame[end - 1] = 3),
        ];
        for (name, spoil) in cases {
            let mut frame = good.clone();
            spoil(&mut frame, end);
            assert!(Received::read(&frame).is_none(), "{name}");
        }
        for length in 0..good.len() {
            assert!(Received::read(&good[..length]).is_none(), "{length} octets");
        }
        let mut old = good;
        old[5] = 0xff;
        let old = Received::read(&old).expect("an entry");
        let old = old.entry(now, ORIGIN, BOUNDS);
        assert!(old.is_none_or(|old| old.age_if_fresh(now).is_none()));
    }

    /// If the seeds are not valid entries, the fuzz target starts without any.
    #[test]
    fn the_seeds_of_the_fuzz_target_are_entries() {
        let mut stream = &include_bytes!("../../fuzz/seeds/handover/two-entries")[..];
        let (mut frame, mut kinds) = (Vec::new(), Vec::new());
        while read_frame(&mut stream, &mut frame, HANDOVER_ENTRY_BYTES).expect("frames") {
            let received = Received::read(&frame).expect("an entry");
            kinds.push(received.response().kind());
            check(&frame);
        }
        assert_eq!(kinds, [Kind::Positive, Kind::Negative]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut stream = bytes.as_slice();
            let mut frame = Vec::new();
            while let Ok(true) = read_frame(&mut stream, &mut frame, HANDOVER_ENTRY_BYTES) {
                check(&frame);
            }
            check(&bytes);
        }

        #[test]
        fn spoilt_entries_are_refused_or_read_as_valid_answers(
            at in 0_usize..80,
            octet: u8,
            dropped in 0_usize..8,
        ) {
            let now = Instant::now();
            let (_, sent) = entry(&response("a.example.", 300, &[1, 2]), now, BOUNDS);
            let mut frame = frame(&sent, now);
            frame.truncate(frame.len() - dropped);
            let at = at % frame.len();
            frame[at] = octet;
            check(&frame);
        }
    }

    /// An accepted frame's message can be read again as a response, and is an answer.
    fn check(frame: &[u8]) {
        let Some(received) = Received::read(frame) else {
            return;
        };
        let again = Response::read(received.response().view().message()).expect("a response");
        assert!(matches!(again.kind(), Kind::Positive | Kind::Negative));
        if let Some(entry) = received.entry(Instant::now(), ORIGIN, BOUNDS) {
            assert!(entry.answers(&received.key()));
            assert!(entry.lifetime() <= BOUNDS.max_ttl);
        }
    }
}
