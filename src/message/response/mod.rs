//! A response of an upstream server: checked once, without its hop-by-hop parts, ready to be stored and to be sent as
//! replies.
//!
//! Owns the decision what kind of answer it is and how long it may be kept (RFC 2181 §8, RFC 2308 §5). Must not look
//! into RDATA further than compression and SOA.MINIMUM require (RFC 3597 §4 lists the types that may hold compressed
//! names).

mod survey;
mod without_opt;

use std::num::NonZeroU16;

use super::ede::{ExtendedError, PassedOn};
use super::wire::{self, Counts, HEADER_LEN, Malformed, Records, flag, rcode, rr};
use survey::Survey;

/// A response without OPT and TSIG, its QNAME lower-cased, the TTLs of each `RRset` made equal, otherwise byte for byte as
/// the upstream sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    facts: Facts,
    /// Seconds it may be kept; none if nothing in it says for how long.
    ttl: Option<u32>,
    /// Why it failed, if a validator found the answer bogus.
    verdict: Option<Box<ExtendedError>>,
    aliases: Aliases,
    /// Whether it has a record of the type that was asked for.
    asked_for: bool,
    oddities: Oddities,
    /// The message, then the offsets of its TTLs as native 16-bit numbers, then the extended errors of its OPT record, as
    /// options.
    bytes: Vec<u8>,
}

/// What is known of a response beside its bytes. Kept small, because every answer in the cache has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    message_len: u16,
    question_end: u16,
    ttl_count: u16,
    /// Low bits from the header, high bits from OPT (RFC 6891 §6.1.3).
    rcode: u16,
    /// Address records whose order may change.
    rotation: Option<Rotation>,
    kind: Kind,
}

/// A response whose bytes are elsewhere, such as in the cache.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    facts: &'a Facts,
    bytes: &'a [u8],
}

/// What a response means for the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It holds what was asked for, or an alias for it.
    Positive,
    /// NODATA or NXDOMAIN (RFC 2308 §2): final, as a positive answer is.
    Negative,
    /// The server points elsewhere: it does not resolve for us (RFC 8499 "lame"). Final only for RD=0.
    Referral,
    /// Any other response code: this server could not answer.
    Failure,
}

/// CNAMEs in an answer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aliases {
    None,
    /// Each CNAME's owner is the target of the one before it, and the records asked for follow them.
    InOrder,
    OutOfOrder,
}

/// Properties, beside the order of aliases, that some clients cannot handle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Oddities {
    /// A name in RDATA is compressed although it must be written out (RFC 3597 §4).
    wrongly_compressed: bool,
    /// The answer section has records of another type, class or name than the question and its aliases.
    unasked: bool,
    /// There are records that only clients with DO get.
    dnssec: bool,
}

/// A run of A or AAAA records of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Index of the first one among the TTLs.
    pub first: u16,
    /// How many there are; at least 2.
    pub count: NonZeroU16,
    /// Bytes of an address.
    pub width: u8,
}

impl Rotation {
    /// The number of the record whose address is sent at `number` when address `by` comes first. Records outside the
    /// run keep their data.
    #[must_use]
    pub fn source(self, by: u32, number: usize) -> usize {
        let (first, count) = (usize::from(self.first), usize::from(self.count.get()));
        match number.checked_sub(first) {
            Some(index) if index < count => first + (index + by as usize % count) % count,
            _ => number,
        }
    }
}

impl Response {
    /// Checks a message whose ID and question were already matched.
    ///
    /// # Errors
    /// [`Malformed`] if counts, lengths or names lie.
    pub fn read(message: &[u8]) -> Result<Self, Malformed> {
        let counts = Counts::read(message)?;
        if counts.questions != 1 {
            return Err(Malformed);
        }
        let question_end = wire::skip_question_name(message, HEADER_LEN)? + 4;
        let qtype = wire::u16_at(message, question_end - 4).ok_or(Malformed)?;
        wire::u16_at(message, question_end - 2).ok_or(Malformed)?;

        let mut survey = Survey::new(message, qtype);
        let mut records = Records::new(message, question_end, counts);
        for record in records.by_ref() {
            survey.add(record?)?;
        }
        let end = records.position();
        survey.finish(end, question_end, counts)
    }

    /// What is left of a message that was cut inside its records: header and question, with TC set.
    ///
    /// # Errors
    /// [`Malformed`] if not even the question is whole.
    pub fn cut_short(message: &[u8]) -> Result<Self, Malformed> {
        Counts::read(message)?;
        let question_end = wire::skip_question_name(message, HEADER_LEN)? + 4;
        let mut start = message.get(..question_end).ok_or(Malformed)?.to_vec();
        let flags = wire::flags(&start) | flag::TC;
        wire::put_u16(&mut start, 2, flags);
        Counts {
            questions: 1,
            answers: 0,
            authorities: 0,
            additionals: 0,
        }
        .write(&mut start);
        Self::read(&start)
    }

    /// A view of it.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            facts: &self.facts,
            bytes: &self.bytes,
        }
    }

    /// Its parts for storage; [`View::of`] makes a view of them.
    #[must_use]
    pub fn parts(&self) -> (Facts, &[u8]) {
        (self.facts, &self.bytes)
    }

    /// The whole response code.
    #[must_use]
    pub fn rcode(&self) -> u16 {
        self.facts.rcode
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.facts.kind
    }

    /// Seconds it may be kept, before any clamp; none if it must not be.
    #[must_use]
    pub fn ttl(&self) -> Option<u32> {
        self.ttl
    }

    /// Raises the TTLs of a positive answer to at least so many seconds.
    pub fn raise_ttls(&mut self, least: u32) {
        if least == 0 || self.facts.kind != Kind::Positive {
            return;
        }
        let view = self.view();
        let offsets: Vec<usize> = (0..view.ttl_count()).map(|i| view.ttl_at(i)).collect();
        for at in offsets {
            let ttl = wire::u32_at(&self.bytes, at).map_or(0, sane_ttl);
            wire::put_u32(&mut self.bytes, at, ttl.max(least));
        }
        self.ttl = Some(self.ttl.unwrap_or(0).max(least));
    }

    /// A validator's verdict that the answer is bogus (RFC 8914 §4.7 to 4.10); none unless the response is a failure.
    #[must_use]
    pub fn verdict(&self) -> Option<&ExtendedError> {
        self.verdict.as_deref()
    }

    /// Whether the upstream truncated it.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.view().truncated()
    }

    /// Whether it is a lame answer: NOERROR without any record, from a server that neither offers recursion nor has authority.
    /// glibc and Go then ask their next nameserver.
    #[must_use]
    pub fn is_lame(&self) -> bool {
        let view = self.view();
        self.rcode() == rcode::NOERROR
            && wire::flags(view.message()) & (flag::AA | flag::RA | flag::TC) == 0
            && view.ttl_count() == 0
    }

    /// Whether its answer section has a CNAME, but nothing of the type that was asked for.
    #[must_use]
    pub fn aliases_alone(&self) -> bool {
        self.aliases != Aliases::None && !self.asked_for
    }

    /// Whether some clients would misread it: see [`super::regular`].
    #[must_use]
    pub fn is_irregular(&self) -> bool {
        self.aliases == Aliases::OutOfOrder
            || self.oddities.wrongly_compressed
            || self.oddities.unasked
    }

    /// Whether it has records that only clients with DO get.
    #[must_use]
    pub fn has_dnssec(&self) -> bool {
        self.oddities.dnssec
    }

    /// The same response with another kind. Code that makes a response knows its kind better than the bytes tell.
    #[must_use]
    pub(super) fn of_kind(mut self, kind: Kind) -> Self {
        self.facts.kind = kind;
        self
    }

    /// The same response as NODATA: the name exists and has no record of this type (RFC 2308 §2.2). For NXDOMAIN.
    #[must_use]
    pub fn into_nodata(mut self) -> Self {
        let flags = wire::flags(&self.bytes) & !flag::RCODE | rcode::NOERROR;
        wire::put_u16(&mut self.bytes, 2, flags);
        self.facts.rcode = rcode::NOERROR;
        self
    }

    /// The same response with these extended errors.
    #[must_use]
    pub fn with_errors(mut self, errors: &PassedOn) -> Self {
        let known = self.view().errors().len();
        self.bytes.truncate(self.bytes.len() - known);
        self.bytes.extend_from_slice(errors.as_bytes());
        self
    }
}

impl<'a> View<'a> {
    /// The [`Response::parts`] of one response.
    #[inline]
    #[must_use]
    pub fn of(facts: &'a Facts, bytes: &'a [u8]) -> Self {
        Self { facts, bytes }
    }

    /// The message; its ID is 0, and TC is as the upstream sent it.
    #[inline]
    #[must_use]
    pub fn message(self) -> &'a [u8] {
        &self.bytes[..usize::from(self.facts.message_len)]
    }

    /// QNAME, lower-cased, QTYPE and QCLASS.
    #[inline]
    #[must_use]
    pub fn question(self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..self.question_end()]
    }

    /// Offset after the question.
    #[inline]
    #[must_use]
    pub fn question_end(self) -> usize {
        usize::from(self.facts.question_end)
    }

    /// Offset of the `index`-th TTL.
    #[inline]
    #[must_use]
    pub fn ttl_at(self, index: usize) -> usize {
        let at = usize::from(self.facts.message_len) + index * 2;
        usize::from(u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// Number of TTLs.
    #[inline]
    #[must_use]
    pub fn ttl_count(self) -> usize {
        usize::from(self.facts.ttl_count)
    }

    /// The server's extended errors (RFC 8914), as options of an OPT record.
    #[inline]
    #[must_use]
    pub fn errors(self) -> &'a [u8] {
        &self.bytes[self.ttls_end()..]
    }

    #[inline]
    fn ttls_end(self) -> usize {
        usize::from(self.facts.message_len) + self.ttl_count() * 2
    }

    /// The whole response code.
    #[inline]
    #[must_use]
    pub fn rcode(self) -> u16 {
        self.facts.rcode
    }

    /// What it means.
    #[inline]
    #[must_use]
    pub fn kind(self) -> Kind {
        self.facts.kind
    }

    /// Address records whose order may change.
    #[inline]
    #[must_use]
    pub fn rotation(self) -> Option<Rotation> {
        self.facts.rotation
    }

    /// Whether the upstream cut it.
    #[must_use]
    pub fn truncated(self) -> bool {
        wire::flags(self.bytes) & flag::TC != 0
    }
}

/// Types that may be in any answer: aliases and signatures.
pub(super) fn comes_along(rtype: u16) -> bool {
    matches!(rtype, rr::CNAME | rr::DNAME | rr::RRSIG)
}

/// RFC 4035 §3.2.1: types that only clients get that set DO or ask for the type.
pub(super) fn is_dnssec(rtype: u16) -> bool {
    matches!(rtype, rr::RRSIG | rr::NSEC | rr::NSEC3)
}

/// RFC 2181 §8: a TTL with the top bit set counts as zero.
#[must_use]
pub fn sane_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        ttl
    }
}

/// Subtracts `seconds` from the TTLs of a message that comes from another cache. Stops where the message is malformed.
pub fn grow_older(message: &mut [u8], seconds: u32) {
    let Ok(counts) = Counts::read(message) else {
        return;
    };
    let mut question_end = Ok(HEADER_LEN);
    for _ in 0..counts.questions {
        question_end = question_end
            .and_then(|at| wire::skip_question_name(message, at))
            .map(|at| at + 4);
    }
    let Ok(question_end) = question_end else {
        return;
    };
    let records = Records::new(message, question_end, counts).map_while(Result::ok);
    // OPT has no TTL.
    let offsets: Vec<usize> = records
        .filter(|record| record.rtype != rr::OPT)
        .map(|record| record.ttl_at)
        .collect();
    for at in offsets {
        let ttl = wire::u32_at(message, at).map_or(0, sane_ttl);
        wire::put_u32(message, at, ttl.saturating_sub(seconds));
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
