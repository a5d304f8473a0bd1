//! What an upstream answered: checked once, its hop-by-hop parts removed, ready to be stored and stamped.
//!
//! Owns the judgement what kind of answer it is and how long it holds (RFC 2181 §8, RFC 2308 §5). Must not look into
//! RDATA beyond what compression and SOA.MINIMUM force (RFC 3597 §4 lists the types that may hold compressed names).

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::ede::{ExtendedError, PassedOn, extended_errors};
use super::rdata;
use super::wire::{self, Counts, HEADER_LEN, Malformed, Record, Records, Section, flag, rcode, rr};

/// RFC 2308 §5 wants an empty answer without SOA kept by nobody, lest two caches hand it to each other for ever. But it often
/// stands beside addresses of the other family: gone sooner than they are, it fails the lookup of both in musl. Kept longer,
/// it hides records that come to be.
const EMPTY_WITHOUT_SOA: u32 = 30;

/// A response without OPT and TSIG, its QNAME lower-cased, the TTLs of each `RRset` made equal, otherwise byte for byte as
/// the upstream sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    facts: Facts,
    /// Seconds it may be kept; none when nothing in it says.
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

/// What is known of a response beside its bytes, in as few as possible: every answer in the cache has them.
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

/// A response to be read, wherever its bytes are.
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
    /// Each goes on where the one before it leads, and what was asked for comes after them.
    InOrder,
    OutOfOrder,
}

/// What clients stumble over, beside aliases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Oddities {
    /// A name in RDATA is compressed that has to be written out.
    wrongly_compressed: bool,
    /// The answer section has records of another type, class or name than the question and its aliases.
    unasked: bool,
    /// There are records that only those get who set DO.
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
    /// The number of the record whose address stands at `number` when address `by` comes first. Records of no turn keep
    /// theirs.
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

    /// It, to be read.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            facts: &self.facts,
            bytes: &self.bytes,
        }
    }

    /// What is to be stored of it: [`View::of`] puts it together again.
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

    /// A validator's verdict that what it was told is bogus (RFC 8914 §4.7 to 4.10); none unless it is a failure.
    #[must_use]
    pub fn verdict(&self) -> Option<&ExtendedError> {
        self.verdict.as_deref()
    }

    /// Whether the upstream cut it.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.view().truncated()
    }

    /// Whether its answer section has a CNAME, but nothing of the type that was asked for.
    #[must_use]
    pub fn aliases_alone(&self) -> bool {
        self.aliases != Aliases::None && !self.asked_for
    }

    /// Whether clients stumble over it: see [`super::regular`].
    #[must_use]
    pub fn is_irregular(&self) -> bool {
        self.aliases == Aliases::OutOfOrder
            || self.oddities.wrongly_compressed
            || self.oddities.unasked
    }

    /// Whether it has records that only those get who set DO.
    #[must_use]
    pub fn has_dnssec(&self) -> bool {
        self.oddities.dnssec
    }

    /// It, taken for this kind: whoever puts a response together knows better than its bytes tell.
    #[must_use]
    pub(super) fn of_kind(mut self, kind: Kind) -> Self {
        self.facts.kind = kind;
        self
    }

    /// It, with these extended errors.
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

/// Most messages have no more records. For others room is made as they come: their counts may lie.
const TYPICAL_RECORDS: usize = 8;

/// What one walk over the records finds.
struct Survey<'a> {
    message: &'a [u8],
    qtype: u16,
    kept: SmallVec<[Record; TYPICAL_RECORDS]>,
    opt: Option<Record>,
    tsig: Option<Record>,
    asked_for: bool,
    oddities: Oddities,
    aliases: Aliases,
    /// Where the name stands that the aliases so far lead to.
    target: usize,
    min_ttl: u32,
    max_ttl: u32,
    soa_minimum: Option<u32>,
    name_servers: bool,
}

impl<'a> Survey<'a> {
    fn new(message: &'a [u8], qtype: u16) -> Self {
        Self {
            message,
            qtype,
            kept: SmallVec::new(),
            opt: None,
            tsig: None,
            asked_for: false,
            oddities: Oddities::default(),
            aliases: Aliases::None,
            target: HEADER_LEN,
            min_ttl: u32::MAX,
            max_ttl: 0,
            soa_minimum: None,
            name_servers: false,
        }
    }

    fn add(&mut self, record: Record) -> Result<(), Malformed> {
        // RFC 8945 §5.1: TSIG is the last record. One that is not cannot be taken out with all behind it.
        if self.tsig.is_some() {
            return Err(Malformed);
        }
        match (record.section, record.rtype) {
            (Section::Additional, rr::OPT) if self.opt.is_none() => {
                self.opt = Some(record);
                return Ok(());
            }
            // RFC 6891 §6.1.1: more than one OPT, or one elsewhere, is an error.
            (_, rr::OPT) => return Err(Malformed),
            // RFC 8945 §5.1: the last record, meant for this hop alone.
            (Section::Additional, rr::TSIG) if self.tsig.is_none() => {
                self.tsig = Some(record);
                return Ok(());
            }
            (Section::Answer, rtype) => {
                self.oddities.unasked |= self.is_unasked(&record);
                if rtype == rr::CNAME {
                    self.add_alias(&record);
                }
                self.asked_for |= rtype == self.qtype || self.qtype == rr::ANY;
            }
            (Section::Authority, rr::SOA) => {
                // Two names, then five 32-bit numbers, the last of which is MINIMUM (RFC 1035 §3.3.13).
                if record.end - record.rdata_at() < 22 {
                    return Err(Malformed);
                }
                let minimum = self.minimum(&record);
                self.soa_minimum = Some(self.soa_minimum.unwrap_or(minimum).min(minimum));
            }
            (Section::Authority, rr::NS) => self.name_servers = true,
            _ => {}
        }
        self.oddities.dnssec |=
            is_dnssec(record.rtype) && record.rtype != self.qtype && self.qtype != rr::ANY;
        self.oddities.wrongly_compressed |= rdata::wrongly_compressed(self.message, &record);
        let ttl = sane_ttl(wire::u32_at(self.message, record.ttl_at).ok_or(Malformed)?);
        self.min_ttl = self.min_ttl.min(ttl);
        self.max_ttl = self.max_ttl.max(ttl);
        self.kept.push(record);
        Ok(())
    }

    /// Whether a record of the answer section has nothing to do with the question.
    fn is_unasked(&self, record: &Record) -> bool {
        let belongs = if record.rtype == self.qtype {
            wire::same_name(self.message, record.start, self.target)
        } else {
            comes_along(record.rtype)
        };
        self.qtype != rr::ANY && (!belongs || record.class != rr::IN)
    }

    fn add_alias(&mut self, record: &Record) {
        let goes_on = wire::same_name(self.message, record.start, self.target);
        if self.asked_for || !goes_on {
            self.aliases = Aliases::OutOfOrder;
        } else if self.aliases == Aliases::None {
            self.aliases = Aliases::InOrder;
        }
        // Nobody has checked RDATA.
        if wire::skip_name(self.message, record.rdata_at()).is_ok() {
            self.target = record.rdata_at();
        }
    }

    fn finish(
        &self,
        end: usize,
        question_end: usize,
        counts: Counts,
    ) -> Result<Response, Malformed> {
        let mut rcode = wire::flags(self.message) & flag::RCODE;
        if let Some(opt) = self.opt {
            rcode |= u16::from(self.message[opt.ttl_at]) << 4;
        }
        let (kind, ttl) = self.judge(rcode, counts);
        let rotation = self.rotation();
        let mut bytes = self.stripped(end)?;
        let message_len = u16::try_from(bytes.len()).map_err(|_| Malformed)?;
        wire::put_u16(&mut bytes, 0, 0);
        // Every reply gets its client's own spelling; here one spelling must equal a key's.
        bytes[HEADER_LEN..question_end - 4].make_ascii_lowercase();
        let removed = u16::from(self.opt.is_some()) + u16::from(self.tsig.is_some());
        Counts {
            additionals: counts.additionals - removed,
            ..counts
        }
        .write(&mut bytes);
        if self
            .kept
            .last()
            .is_some_and(|last| self.opt.is_some_and(|opt| last.start > opt.start))
        {
            // Names may lead through RDATA that was not understood: what came of it must still hold together.
            let moved = Records::new(&bytes, question_end, Counts::read(&bytes)?);
            if moved.flatten().count() != self.kept.len() {
                return Err(Malformed);
            }
        }
        let ttls = self.ttls(rcode, &bytes);
        for (index, record) in self.kept.iter().enumerate() {
            let offset = u16::try_from(record.ttl_at - self.shift(record));
            let offset = offset.map_err(|_| Malformed)?;
            bytes.extend_from_slice(&offset.to_ne_bytes());
            if let Some(ttls) = &ttls {
                wire::put_u32(&mut bytes, usize::from(offset), ttls[index]);
            }
        }
        let errors = self.errors();
        bytes.extend_from_slice(errors.as_bytes());
        Ok(Response {
            facts: Facts {
                message_len,
                ttl_count: u16::try_from(self.kept.len()).map_err(|_| Malformed)?,
                question_end: u16::try_from(question_end).map_err(|_| Malformed)?,
                rcode,
                rotation,
                kind,
            },
            ttl,
            verdict: verdict(kind, &errors),
            aliases: self.aliases,
            asked_for: self.asked_for,
            oddities: self.oddities,
            bytes,
        })
    }

    /// How far a record moved forward when OPT was taken out.
    fn shift(&self, record: &Record) -> usize {
        match self.opt {
            Some(opt) if record.start > opt.start => opt.end - opt.start,
            _ => 0,
        }
    }

    /// SOA.MINIMUM.
    fn minimum(&self, soa: &Record) -> u32 {
        sane_ttl(wire::u32_at(self.message, soa.end - 4).unwrap_or(0))
    }

    /// The TTL of each record, if any is to have another than it came with. Records of one `RRset` get the lowest of theirs
    /// (RFC 2181 §5.2). The SOA of a negative answer gets its MINIMUM, if that is lower: clients read there how long they
    /// may keep it (RFC 2308 §5). `bytes` is the message as it is kept.
    fn ttls(&self, rcode: u16, bytes: &[u8]) -> Option<Vec<u32>> {
        // Not by what kind it is: high bits of the code, which make it a failure, are gone from what is kept.
        let denies = !self.asked_for || rcode & flag::RCODE == rcode::NXDOMAIN;
        let lowers_soa = denies && self.soa_minimum.is_some();
        if self.min_ttl == self.max_ttl && !lowers_soa {
            return None;
        }
        let ttl = |record: &Record| {
            let ttl = sane_ttl(wire::u32_at(self.message, record.ttl_at).unwrap_or(0));
            match (record.section, record.rtype) {
                (Section::Authority, rr::SOA) if denies => ttl.min(self.minimum(record)),
                _ => ttl,
            }
        };
        let mut ttls: Vec<u32> = self.kept.iter().map(ttl).collect();
        // RFC 4034 §3: signatures of one owner are no RRset; the TTL of each follows what it covers.
        let in_sets = self.kept.iter().enumerate();
        let in_sets = in_sets.filter(|(_, record)| record.rtype != rr::RRSIG);
        // Should a server make two names share a hash, it gets the lower of its own TTLs for both.
        let hash = |record: &Record| wire::name_hash(bytes, record.start - self.shift(record));
        let mut in_sets: Vec<((u64, u16, u16), usize)> = in_sets
            .map(|(index, record)| ((hash(record), record.rtype, record.class), index))
            .collect();
        in_sets.sort_unstable();
        for set in in_sets.chunk_by(|(a, _), (b, _)| a == b) {
            let lowest = set.iter().map(|&(_, index)| ttls[index]).min();
            for &(_, index) in set {
                ttls[index] = lowest.unwrap_or(0);
            }
        }
        Some(ttls)
    }

    /// OPT's extended errors.
    fn errors(&self) -> PassedOn {
        let options = self
            .opt
            .and_then(|opt| self.message.get(opt.rdata_at()..opt.end));
        PassedOn::of(options.unwrap_or(&[]))
    }

    fn judge(&self, rcode: u16, counts: Counts) -> (Kind, Option<u32>) {
        let negative_ttl = self.soa_minimum.map(|minimum| self.min_ttl.min(minimum));
        match rcode {
            rcode::NXDOMAIN => (Kind::Negative, negative_ttl),
            rcode::NOERROR if self.asked_for => (Kind::Positive, Some(self.min_ttl)),
            // An alias that leads nowhere (SOA) or out of what the server knows (no SOA).
            rcode::NOERROR if counts.answers > 0 && self.soa_minimum.is_none() => {
                (Kind::Positive, Some(self.min_ttl))
            }
            rcode::NOERROR if self.soa_minimum.is_some() || counts.answers > 0 => {
                (Kind::Negative, negative_ttl)
            }
            // RFC 1034 §4.3.2: a server that is authoritative does not point elsewhere. Load balancers say so, without SOA.
            rcode::NOERROR if self.name_servers && wire::flags(self.message) & flag::AA == 0 => {
                (Kind::Referral, None)
            }
            rcode::NOERROR => (Kind::Negative, Some(self.min_ttl.min(EMPTY_WITHOUT_SOA))),
            _ => (Kind::Failure, None),
        }
    }

    /// The first run of address records of one `RRset`, if it has at least two.
    fn rotation(&self) -> Option<Rotation> {
        let width = match self.qtype {
            rr::A => 4,
            rr::AAAA => 16,
            _ => return None,
        };
        let is_address = |record: &Record| {
            record.section == Section::Answer
                && record.rtype == self.qtype
                && record.end - record.rdata_at() == usize::from(width)
        };
        let first = self.kept.iter().position(is_address)?;
        let head = self.kept[first];
        let count = self.kept[first..]
            .iter()
            .take_while(|record| {
                is_address(record)
                    && record.class == head.class
                    && wire::same_name(self.message, record.start, head.start)
            })
            .count();
        (count > 1).then_some(Rotation {
            first: u16::try_from(first).ok()?,
            count: u16::try_from(count).ok()?.try_into().ok()?,
            width,
        })
    }

    /// The message without OPT, TSIG and whatever follows the last record.
    fn stripped(&self, end: usize) -> Result<Vec<u8>, Malformed> {
        let end = self.tsig.map_or(end, |tsig| tsig.start);
        let Some(opt) = self.opt else {
            let mut bytes = Vec::with_capacity(end + self.kept.len() * 2);
            bytes.extend_from_slice(&self.message[..end]);
            return Ok(bytes);
        };
        let mut bytes = Vec::with_capacity(end + self.kept.len() * 2);
        bytes.extend_from_slice(&self.message[..opt.start]);
        bytes.extend_from_slice(&self.message[opt.end.min(end)..end]);
        for record in self.kept.iter().filter(|record| record.start > opt.start) {
            shift_pointers(self.message, &mut bytes, record, opt)?;
        }
        Ok(bytes)
    }
}

/// The first of a failure's extended errors that is a validator's verdict.
fn verdict(kind: Kind, errors: &PassedOn) -> Option<Box<ExtendedError>> {
    let mut errors = extended_errors(errors.as_bytes()).filter(|_| kind == Kind::Failure);
    errors.find(ExtendedError::is_verdict).map(Box::new)
}

/// Types that may stand in any answer: aliases, and what shows that they and the answer are authentic.
pub(super) fn comes_along(rtype: u16) -> bool {
    matches!(rtype, rr::CNAME | rr::DNAME | rr::RRSIG)
}

/// RFC 4035 §3.2.1: types that go to those who set DO, or ask for them by name.
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

/// A record that stood behind OPT moved forward by OPT's length; so must the pointers in it that lead behind OPT. `message` is
/// what arrived, `bytes` what is left of it.
fn shift_pointers(
    message: &[u8],
    bytes: &mut [u8],
    record: &Record,
    opt: Record,
) -> Result<(), Malformed> {
    let shift = opt.end - opt.start;
    // RDATA that is not what its type says passes as it is.
    let in_rdata = rdata::names(message, record);
    let in_rdata = in_rdata.iter().flat_map(|(layout, at)| &at[..layout.count]);
    for &name in std::iter::once(&record.start).chain(in_rdata) {
        if let Some(at) = final_pointer(bytes, name - shift) {
            shift_pointer(bytes, at, opt)?;
        }
    }
    Ok(())
}

/// Takes so many seconds off the TTLs of a message that has been in somebody's cache, as far as it is well-formed.
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
    // The TTL of OPT is none.
    let offsets: Vec<usize> = records
        .filter(|record| record.rtype != rr::OPT)
        .map(|record| record.ttl_at)
        .collect();
    for at in offsets {
        let ttl = wire::u32_at(message, at).map_or(0, sane_ttl);
        wire::put_u32(message, at, ttl.saturating_sub(seconds));
    }
}

/// Offset of the pointer that ends a name; none for a name without one.
fn final_pointer(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 | 64..=0xbf => return None,
            length @ 1..=63 => at += usize::from(length) + 1,
            0xc0..=0xff => return Some(at),
        }
    }
}

fn shift_pointer(bytes: &mut [u8], at: usize, opt: Record) -> Result<(), Malformed> {
    let target = usize::from(wire::u16_at(bytes, at).ok_or(Malformed)? & 0x3fff);
    if target >= opt.end {
        let moved = target - (opt.end - opt.start);
        wire::put_u16(
            bytes,
            at,
            0xc000 | u16::try_from(moved).map_err(|_| Malformed)?,
        );
    } else if target >= opt.start {
        return Err(Malformed);
    }
    Ok(())
}

/// Responses for the tests of whoever handles them.
#[cfg(test)]
pub(crate) mod testing {
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::Response;

    /// A response to `name A` with the given addresses' last octets, or NXDOMAIN for none.
    pub(crate) fn response(name: &str, ttl: u32, addresses: &[u8]) -> Response {
        let name = Name::from_ascii(name).expect("a name");
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        for last in addresses {
            let data = RData::A(A::new(192, 0, 2, *last));
            message.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
        if addresses.is_empty() {
            message.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, ttl);
            message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
        }
        Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};
    use hickory_proto::rr::{Name, RData, Record as Rr, RecordType};

    fn name(text: &str) -> Name {
        Name::from_str(text).expect("a name")
    }

    fn response(qtype: RecordType, answers: &[(&str, u32, RData)]) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("www.example.com."), qtype));
        for (owner, ttl, data) in answers {
            message.add_answer(Rr::from_rdata(name(owner), *ttl, data.clone()));
        }
        message
    }

    fn soa(minimum: u32) -> RData {
        RData::SOA(SOA::new(
            name("ns.example.com."),
            name("root.example.com."),
            1,
            2,
            3,
            4,
            minimum,
        ))
    }

    fn read(message: &Message) -> Response {
        Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
    }

    fn a(last: u8) -> RData {
        RData::A(A::new(192, 0, 2, last))
    }

    #[test]
    fn kinds_and_lifetimes() {
        let www = "www.example.com.";
        let alias = || RData::CNAME(CNAME(name("edge.example.net.")));
        let authority = |mut message: Message, ttl, data| {
            message.add_authority(Rr::from_rdata(name("example.com."), ttl, data));
            message
        };
        let coded = |mut message: Message, code| {
            message.metadata.response_code = code;
            message
        };
        let empty = || response(RecordType::A, &[]);
        let chain = || response(RecordType::A, &[(www, 30, alias())]);
        for (case, message, want) in [
            (
                "the smallest TTL counts",
                response(
                    RecordType::A,
                    &[(www, 30, alias()), ("edge.example.net.", 20, a(1))],
                ),
                (Kind::Positive, Some(20)),
            ),
            (
                "an alias out of the server's zones",
                chain(),
                (Kind::Positive, Some(30)),
            ),
            (
                "an alias to nothing",
                authority(chain(), 60, soa(10)),
                (Kind::Negative, Some(10)),
            ),
            (
                "NODATA",
                authority(empty(), 60, soa(90)),
                (Kind::Negative, Some(60)),
            ),
            ("NODATA without SOA", empty(), (Kind::Negative, Some(30))),
            (
                "an authoritative server's name servers alone",
                {
                    let mut message =
                        authority(empty(), 20, RData::NS(NS(name("ns.example.com."))));
                    message.metadata.authoritative = true;
                    message
                },
                (Kind::Negative, Some(20)),
            ),
            (
                "NXDOMAIN",
                authority(coded(empty(), ResponseCode::NXDomain), 900, soa(300)),
                (Kind::Negative, Some(300)),
            ),
            (
                "NXDOMAIN without SOA",
                coded(empty(), ResponseCode::NXDomain),
                (Kind::Negative, None),
            ),
            (
                "a referral",
                authority(empty(), 60, RData::NS(NS(name("ns.example.com.")))),
                (Kind::Referral, None),
            ),
            (
                "SERVFAIL",
                coded(empty(), ResponseCode::ServFail),
                (Kind::Failure, None),
            ),
            (
                "a TTL with the top bit set",
                response(RecordType::A, &[(www, 1 << 31, a(1))]),
                (Kind::Positive, Some(0)),
            ),
        ] {
            let response = read(&message);
            assert_eq!((response.kind(), response.ttl()), want, "{case}");
        }
    }

    fn ttls(response: &Response) -> Vec<u32> {
        let view = response.view();
        let ttl = |index| wire::u32_at(view.message(), view.ttl_at(index)).expect("inside");
        (0..view.ttl_count()).map(ttl).collect()
    }

    #[test]
    fn time_in_caches_is_taken_off_every_ttl_but_that_of_opt() {
        let www = "www.example.com.";
        let mut message = response(RecordType::A, &[(www, 300, a(1))]);
        message.add_authority(Rr::from_rdata(name("example.com."), 40, soa(300)));
        let mut edns = Edns::new();
        edns.set_dnssec_ok(true);
        message.set_edns(edns);
        for (seconds, want) in [(0, [300, 40]), (100, [200, 0]), (u32::MAX, [0, 0])] {
            let mut bytes = message.to_vec().expect("encodes");
            grow_older(&mut bytes, seconds);
            let older = Message::from_vec(&bytes).expect("still well-formed");
            let records = older.answers.iter().chain(&older.authorities);
            let ttls: Vec<_> = records.map(|record| record.ttl).collect();
            assert_eq!(ttls, want, "{seconds}");
            let kept = older.edns.is_some_and(|edns| edns.flags().dnssec_ok);
            assert!(kept, "{seconds}");
        }
        // What lies about its records stays as it is.
        let mut cut = message.to_vec().expect("encodes");
        cut.truncate(40);
        let before = cut.clone();
        grow_older(&mut cut, 1);
        assert_eq!(cut, before);
    }

    #[test]
    fn records_of_one_set_get_the_lowest_of_their_ttls() {
        let (www, edge) = ("www.example.com.", "edge.example.net.");
        let alias = || RData::CNAME(CNAME(name(edge)));
        for (case, answers, want) in [
            (
                "an alias has a TTL of its own",
                vec![(www, 300, alias()), (edge, 60, a(1)), (edge, 60, a(2))],
                vec![300, 60, 60],
            ),
            (
                "they need not stand together, nor be spelt alike",
                vec![
                    (edge, 200, a(1)),
                    (www, 100, a(2)),
                    ("EDGE.example.NET.", 50, a(3)),
                ],
                vec![50, 100, 50],
            ),
            (
                "another type is another set",
                vec![
                    (edge, 200, a(1)),
                    (edge, 100, RData::AAAA(AAAA::new(1, 2, 3, 4, 5, 6, 7, 8))),
                ],
                vec![200, 100],
            ),
            (
                "a TTL with the top bit set is none",
                vec![(www, 300, a(1)), (www, 1 << 31, a(2))],
                vec![0, 0],
            ),
        ] {
            let mut message = response(RecordType::A, &answers);
            message.set_edns(Edns::new());
            assert_eq!(ttls(&read(&message)), want, "{case}");
        }
    }

    #[test]
    fn the_soa_of_a_denial_tells_its_minimum() {
        let www = "www.example.com.";
        let alias = || (www, 300, RData::CNAME(CNAME(name("edge.example.net."))));
        for (case, answers, code, (ttl, minimum), want) in [
            (
                "NODATA",
                vec![],
                ResponseCode::NoError,
                (3600, 30),
                vec![30],
            ),
            (
                "NXDOMAIN",
                vec![],
                ResponseCode::NXDomain,
                (3600, 30),
                vec![30],
            ),
            (
                "its TTL is lower",
                vec![],
                ResponseCode::NXDomain,
                (20, 3600),
                vec![20],
            ),
            (
                "an alias to nothing",
                vec![alias()],
                ResponseCode::NoError,
                (3600, 30),
                vec![300, 30],
            ),
            (
                "an answer",
                vec![(www, 60, a(1))],
                ResponseCode::NoError,
                (3600, 30),
                vec![60, 3600],
            ),
        ] {
            let mut message = response(RecordType::A, &answers);
            message.metadata.response_code = code;
            message.add_authority(Rr::from_rdata(name("example.com."), ttl, soa(minimum)));
            let response = read(&message);
            assert_eq!(ttls(&response), want, "{case}");
            let again = Response::read(response.view().message()).expect("well-formed");
            assert_eq!(again, response, "{case}: nothing is left to change");
        }
    }

    #[test]
    fn verdicts_are_those_of_failures() {
        let failed = |code: u8, options: &[u8]| {
            let mut message = response(RecordType::A, &[]).to_vec().expect("encodes");
            message[3] |= code;
            message[11] = 1;
            let length = u8::try_from(options.len()).expect("short");
            message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, length]);
            message.extend_from_slice(options);
            let response = Response::read(&message).expect("well-formed");
            response
                .verdict()
                .map(|error| (error.code, error.text.clone()))
        };
        let bogus = |text: &str| Some((6, text.to_owned()));
        for (case, code, options, want) in [
            ("without text", 2, &b"\0\x0f\0\x02\0\x06"[..], bogus("")),
            ("with text", 2, b"\0\x0f\0\x05\0\x06sig", bogus("sig")),
            (
                "with a null behind",
                2,
                b"\0\x0f\0\x06\0\x06sig\0",
                bogus("sig"),
            ),
            (
                "behind others",
                2,
                b"\0\x03\0\x01x\0\x0f\0\x02\0\x16\0\x0f\0\x02\0\x06",
                bogus(""),
            ),
            ("another reason", 2, b"\0\x0f\0\x02\0\x16", None),
            ("cut off", 2, b"\0\x0f\0\x05\0\x06", None),
            ("no code", 2, b"\0\x0f\0\x01\0", None),
            ("no options", 2, b"", None),
            ("no failure", 3, b"\0\x0f\0\x02\0\x06", None),
        ] {
            assert_eq!(failed(code, options), want, "{case}");
        }
    }

    #[test]
    fn opt_is_removed_and_its_rcode_bits_kept() {
        let mut message = response(RecordType::A, &[("www.example.com.", 60, a(1))]);
        let without = message.to_vec().expect("encodes");
        message.set_edns(Edns::new());
        let mut with = message.to_vec().expect("encodes");
        let end = with.len();
        with[end - 6] = 1;
        with.extend_from_slice(b"bytes after the last record");
        let response = Response::read(&with).expect("well-formed");
        assert_eq!(response.view().message()[2..], without[2..]);
        assert_eq!(response.rcode(), 16);
    }

    #[test]
    fn records_behind_opt_keep_their_names() {
        // Question "a.", OPT with 4 bytes of options, then two records: one owned by "b.", one by a pointer to it.
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
        message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
        message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0a\0\0");
        let second = message.len();
        message.extend_from_slice(b"\x01b\0\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
        message.extend_from_slice(&[0xc0, u8::try_from(second).expect("small")]);
        message.extend_from_slice(b"\0\x01\0\x01\0\0\0\x3c\0\x04\x05\x06\x07\x08");
        let response = Response::read(&message).expect("well-formed");
        let parsed = Message::from_vec(response.view().message()).expect("hickory reads it");
        let owners: Vec<_> = parsed
            .additionals
            .iter()
            .map(|record| record.name.to_ascii())
            .collect();
        assert_eq!(owners, ["b.", "b."]);
        for index in 0..response.view().ttl_count() {
            assert_eq!(
                wire::u32_at(response.view().message(), response.view().ttl_at(index)),
                Some(60)
            );
        }
    }

    #[test]
    fn names_in_rdata_behind_opt_stay_the_same() {
        // Question "a.", OPT with 4 bytes of options, then an A record of "b." and a record with a pointer to it in its RDATA.
        let numbers = [0; 20];
        for (case, rtype, before, names, after) in [
            ("NS", rr::NS, &[][..], 1, &[][..]),
            ("MX", rr::MX, &[0, 10], 1, &[]),
            ("SRV", rr::SRV, &[0, 1, 0, 2, 0, 53], 1, &[]),
            ("SOA", rr::SOA, &[], 2, &numbers),
            ("MINFO", rr::MINFO, &[], 2, &[]),
            ("RP", rr::RP, &[], 2, &[]),
            ("AFSDB", rr::AFSDB, &[0, 1], 1, &[]),
        ] {
            let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
            message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
            message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0a\0\0");
            let target = [0xc0, u8::try_from(message.len()).expect("small")];
            message.extend_from_slice(b"\x01b\0\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
            let rdata = [before, &target.repeat(names), after].concat();
            message.push(0);
            message.extend_from_slice(&rtype.to_be_bytes());
            message.extend_from_slice(b"\0\x01\0\0\0\x3c\0");
            message.push(u8::try_from(rdata.len()).expect("short"));
            message.extend_from_slice(&rdata);
            let response = Response::read(&message).expect("well-formed");
            let kept = response.view().message();
            let name = response.view().ttl_at(1) + 6 + before.len();
            for number in 0..names {
                let found: Vec<&[u8]> = wire::labels(kept, name + number * 2).collect();
                assert_eq!(found, [b"\x01b"], "{case}, name {number}");
            }
        }
    }

    #[test]
    fn odd_rdata_behind_opt_passes_as_it_is() {
        // Question "a.", OPT, a CNAME whose RDATA is no name but runs on, and an A record behind it.
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 3];
        message.extend_from_slice(b"\x01a\0\0\x01\0\x01");
        message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        let odd = message.len();
        message.extend_from_slice(b"\x01b\0\0\x05\0\x01\0\0\0\x3c\0\x02\x03x");
        message.extend_from_slice(b"\xc0\xff\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04");
        // The last record's owner leads to "b.".
        let owner = message.len() - 16;
        wire::put_u16(
            &mut message,
            owner,
            0xc000 | u16::try_from(odd).expect("small"),
        );
        let response = Response::read(&message).expect("well-formed");
        let kept = response.view().message();
        assert_eq!(
            kept[odd - 11..odd + 2],
            message[odd..odd + 13],
            "owner and fixed fields"
        );
        assert_eq!(&kept[odd + 2..odd + 4], b"\x03x", "odd RDATA");
        assert_eq!(
            Response::read(kept)
                .expect("still well-formed")
                .view()
                .ttl_count(),
            2
        );
    }

    #[test]
    fn only_addresses_of_one_owner_rotate() {
        let www = "www.example.com.";
        let aaaa = |last| RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        let rotation = |qtype, answers: &[_]| {
            read(&response(qtype, answers))
                .view()
                .rotation()
                .map(|r| (r.first, r.count.get(), r.width))
        };
        let alias = RData::CNAME(CNAME(name("edge.example.net.")));
        let edge = "edge.example.net.";
        assert_eq!(rotation(RecordType::A, &[(www, 9, a(1))]), None);
        assert_eq!(
            rotation(
                RecordType::A,
                &[(www, 9, alias), (edge, 9, a(1)), (edge, 9, a(2))]
            ),
            Some((1, 2, 4))
        );
        assert_eq!(
            rotation(
                RecordType::AAAA,
                &[(www, 9, aaaa(1)), (www, 9, aaaa(2)), (edge, 9, aaaa(3))]
            ),
            Some((0, 2, 16))
        );
        assert_eq!(
            rotation(RecordType::A, &[(www, 9, a(1)), (www, 8, a(2))]),
            Some((0, 2, 4)),
            "one RRset has one TTL"
        );
    }

    #[test]
    fn lies_are_malformed() {
        let good = response(RecordType::A, &[("www.example.com.", 60, a(1))])
            .to_vec()
            .expect("encodes");
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Response::read(&bytes)
        };
        assert!(Response::read(&good).is_ok());
        assert_eq!(
            with(|b| b[7] = 2),
            Err(Malformed),
            "one answer more than there is"
        );
        assert_eq!(
            with(|b| b.truncate(b.len() - 1)),
            Err(Malformed),
            "cut off in RDATA"
        );
        assert_eq!(with(|b| b[5] = 0), Err(Malformed), "no question");
        assert_eq!(with(|b| b.truncate(8)), Err(Malformed), "no whole header");
        assert_eq!(
            with(|b| {
                let owner = b.len() - 16;
                wire::put_u16(b, owner, 0xc000 | u16::try_from(owner).expect("small"));
            }),
            Err(Malformed),
            "an owner that points to itself"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Response::read(&bytes);
        }

        #[test]
        fn damaged_responses_do_not_panic(at in 0_usize..110, value: u8) {
            let mut message = response(RecordType::A, &[("www.example.com.", 60, a(1)), ("www.example.com.", 50, a(2)), ("x.example.com.", 40, a(3))]);
            message.set_edns(Edns::new());
            let mut bytes = message.to_vec().expect("encodes");
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(response) = Response::read(&bytes) {
                for index in 0..response.view().ttl_count() {
                    assert!(response.view().ttl_at(index) + 4 <= response.view().message().len());
                }
                let again = Response::read(response.view().message()).expect("well-formed");
                assert_eq!(again.view().message(), response.view().message());
            }
        }
    }
}
