//! One pass over the records of a response: what kind of answer it is, how long it holds, and its bytes as they are kept.

use smallvec::SmallVec;

use super::without_opt::shift_pointers;
use super::{Aliases, Facts, Kind, Oddities, Response, Rotation, comes_along, is_dnssec, sane_ttl};
use crate::message::ede::{ExtendedError, PassedOn, extended_errors};
use crate::message::rdata;
use crate::message::wire::{
    self, Counts, HEADER_LEN, Malformed, Record, Records, Section, flag, rcode, rr,
};

/// Seconds that an empty answer without SOA is kept. RFC 2308 §5 says not to cache it, because two caches could refresh
/// it from each other for ever. But often the name has addresses of the other family: if the empty answer expires
/// before they do, musl fails the lookup of both. A longer time would hide records that are added meanwhile.
const EMPTY_WITHOUT_SOA: u32 = 30;

/// The same for NXDOMAIN. Resolvers of clouds leave out the SOA of what they have cached themselves. A pod's search list makes such
/// names of each name that it looks up, so each lookup would go upstream, and fail in an outage.
const DENIAL_WITHOUT_SOA: u32 = 5;

/// Most messages have no more records. Others allocate as records are read, because the counts in the header may lie.
const TYPICAL_RECORDS: usize = 8;

/// What one pass over the records collects.
pub(super) struct Survey<'a> {
    message: &'a [u8],
    qtype: u16,
    kept: SmallVec<[Record; TYPICAL_RECORDS]>,
    opt: Option<Record>,
    tsig: Option<Record>,
    asked_for: bool,
    oddities: Oddities,
    aliases: Aliases,
    /// Offset of the name that the aliases read so far lead to.
    target: usize,
    min_ttl: u32,
    max_ttl: u32,
    soa_minimum: Option<u32>,
    name_servers: bool,
}

impl<'a> Survey<'a> {
    pub(super) fn new(message: &'a [u8], qtype: u16) -> Self {
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

    pub(super) fn add(&mut self, record: Record) -> Result<(), Malformed> {
        // RFC 8945 §5.1: TSIG is the last record. A TSIG elsewhere cannot be removed together with the records behind
        // it.
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
        // RDATA has not been checked yet.
        if wire::skip_name(self.message, record.rdata_at()).is_ok() {
            self.target = record.rdata_at();
        }
    }

    pub(super) fn finish(
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
        // Every reply gets its client's own spelling; the stored message must match the key, which is lower-cased.
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
            // Names may point into RDATA whose type is unknown and whose pointers were not shifted: the result must still be
            // well-formed.
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

    /// The TTL of each record, if any of them changes. Records of one `RRset` get the lowest of theirs
    /// (RFC 2181 §5.2). The SOA of a negative answer gets its MINIMUM, if that is lower: clients read there how long they
    /// may keep it (RFC 2308 §5). `bytes` is the message as it is kept.
    fn ttls(&self, rcode: u16, bytes: &[u8]) -> Option<Vec<u32>> {
        // Decided by the code and not by `Kind`: the high bits of a code, which make the response a failure, are not in the
        // bytes that are kept.
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
        // A server that makes two names collide only lowers its own TTLs.
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

    /// What kind of response it is, and for how many seconds it may be kept.
    fn judge(&self, rcode: u16, counts: Counts) -> (Kind, Option<u32>) {
        let negative_ttl = self.soa_minimum.map(|minimum| self.min_ttl.min(minimum));
        match rcode {
            rcode::NXDOMAIN => {
                let without_soa = self.min_ttl.min(DENIAL_WITHOUT_SOA);
                (Kind::Negative, negative_ttl.or(Some(without_soa)))
            }
            rcode::NOERROR if self.asked_for => (Kind::Positive, Some(self.min_ttl)),
            // An alias to a name without such a record (SOA) or to a name that the server does not know (no SOA).
            rcode::NOERROR if counts.answers > 0 && self.soa_minimum.is_none() => {
                (Kind::Positive, Some(self.min_ttl))
            }
            rcode::NOERROR if self.soa_minimum.is_some() || counts.answers > 0 => {
                (Kind::Negative, negative_ttl)
            }
            // RFC 1034 §4.3.2: an authoritative answer is no referral. Load balancers answer NODATA in this way,
            // without SOA.
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
