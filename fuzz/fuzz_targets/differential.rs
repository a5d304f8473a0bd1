//! Any bytes as a response, read by hickory-proto and by us. Both read the same contents from it, from the message that we
//! cache and from the replies that we send. If one of the two refuses it, [`Difference`] has the reason.

#![no_main]

use std::collections::HashMap;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::DecodeError;
use libfuzzer_sys::fuzz_target;
use nodens::message::compress::{Changes, append};
use nodens::message::response::{Response, sane_ttl};
use nodens::message::wire::{
    self, Counts, HEADER_LEN, MAX_MESSAGE_LEN, Records, Section, flag, rr,
};

/// Why one of the two may refuse a message that the other accepts.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// We refuse: a response has one question, or it answers none of ours.
    NumberOfQuestions,
    /// We refuse: the question's name is the first name of a message, so it cannot have a pointer (RFC 1035 §4.1.4).
    QuestionName,
    /// We refuse: a pointer's target is after the header and ends before the pointer, and a name has few pointers.
    Pointers,
    /// We refuse: OPT may be in the additional section only, and once (RFC 6891 §6.1.1).
    Opt,
    /// We refuse: TSIG must be the last record (RFC 8945 §5.1).
    SignatureIsLast,
    /// We refuse: the SOA of a denial has its numbers (RFC 1035 §3.3.13). hickory takes an empty one in an UPDATE.
    EmptySoa,
    /// We refuse: a name has a pointer into OPT, which we remove.
    NamesThroughOpt,
    /// No rule of either: a pointer leads through a record's type, class, TTL or length, or through the header, so the name changes
    /// with them. The message that we cache is not compared then.
    NamesThroughNumbers,
    /// hickory refuses: it decodes the RDATA of types that it knows, and checks in which sections they may be. We pass RDATA on
    /// unchanged (RFC 3597).
    Rdata,
    /// hickory refuses: it accepts known opcodes only. We compare the opcode with the query's elsewhere.
    Operation,
    /// hickory refuses: what a pointer leads to must end before the name that holds the pointer. We want it to end before the
    /// pointer.
    Overlap,
}

impl Difference {
    /// Why we refuse a message that hickory accepts. None if there is no valid reason.
    fn of_ours(message: &[u8]) -> Option<Self> {
        let counts = Counts::read(message).ok()?;
        if counts.questions != 1 {
            return Some(Self::NumberOfQuestions);
        }
        let Ok(name_end) = wire::skip_question_name(message, HEADER_LEN) else {
            return Some(Self::QuestionName);
        };
        let (mut opts, mut signed) = (0, false);
        for record in Records::new(message, name_end + 4, counts) {
            // Wrong counts and lengths are refused by both. So a pointer must be the reason.
            let Ok(record) = record else {
                return Some(Self::Pointers);
            };
            if signed {
                return Some(Self::SignatureIsLast);
            }
            if record.rtype == rr::OPT {
                opts += 1;
                if opts > 1 || record.section != Section::Additional {
                    return Some(Self::Opt);
                }
            }
            let is_empty = record.end == record.rdata_at();
            if is_empty && record.rtype == rr::SOA && record.section == Section::Authority {
                return Some(Self::EmptySoa);
            }
            signed |= record.rtype == rr::TSIG && record.section == Section::Additional;
        }
        (opts > 0).then_some(Self::NamesThroughOpt)
    }

    /// Why hickory refuses a message that we accept. None if there is no valid reason.
    fn of_hickorys(message: &[u8], error: &DecodeError) -> Option<Self> {
        if matches!(error, DecodeError::LabelOverlapsWithOther { .. }) {
            return Some(Self::Overlap);
        }
        let mut plain = message.to_vec();
        let flags = wire::flags(&plain);
        wire::put_u16(&mut plain, 2, flags & !flag::OPCODE);
        if Message::from_vec(&plain).is_ok() {
            return Some(Self::Operation);
        }
        // RDATA of an unknown type is not decoded. It may be empty in an UPDATE only.
        wire::put_u16(&mut plain, 2, flags & !flag::OPCODE | UPDATE);
        let counts = Counts::read(message).ok()?;
        let question_end = wire::skip_question_name(message, HEADER_LEN).ok()? + 4;
        for record in Records::new(message, question_end, counts) {
            wire::put_u16(&mut plain, record.ok()?.ttl_at - 4, PRIVATE_TYPE);
        }
        if Message::from_vec(&plain).is_ok() {
            return Some(Self::Rdata);
        }
        leads_through_numbers(message).then_some(Self::NamesThroughNumbers)
    }
}

/// The opcode UPDATE (RFC 2136 §1.3).
const UPDATE: u16 = 5 << 11;

/// A type for private use (RFC 6895 §3.1).
const PRIVATE_TYPE: u16 = 65_280;

/// Whether a pointer's target includes type, class, TTL or length of a record, or octets of the header: with another TTL, ID or count
/// the name would be another one. Any octets that look like a pointer count as one.
fn leads_through_numbers(message: &[u8]) -> bool {
    let Ok(counts) = Counts::read(message) else {
        return false;
    };
    let Ok(name_end) = wire::skip_question_name(message, HEADER_LEN) else {
        return false;
    };
    let of_records = Records::new(message, name_end + 4, counts)
        .map_while(Result::ok)
        .map(|record| record.ttl_at - 4..record.rdata_at());
    let numbers: Vec<_> = std::iter::once(0..HEADER_LEN).chain(of_records).collect();
    let target = |at: usize| {
        let word = wire::u16_at(message, at).filter(|word| *word >= 0xc000)?;
        Some(usize::from(word & 0x3fff)).filter(|target| *target < at)
    };
    let through = |mut at: usize| {
        // Octets that are no name may lead in a circle. A name has no more labels and pointers than octets.
        for _ in 0..wire::MAX_NAME_LEN {
            let Some(&length) = message.get(at) else {
                return false;
            };
            let end = match length {
                1..=63 => at + 1 + usize::from(length),
                0xc0.. => at + 2,
                _ => at + 1,
            };
            if numbers.iter().any(|of| at < of.end && end > of.start) {
                return true;
            }
            match (length, target(at)) {
                (1..=63, _) => at = end,
                (_, Some(target)) => at = target,
                _ => return false,
            }
        }
        false
    };
    (0..message.len()).filter_map(target).any(through)
}

fuzz_target!(|bytes: &[u8]| {
    match (Response::read(bytes), Message::from_vec(bytes)) {
        (Ok(ours), Ok(theirs)) => agree(&ours, &theirs, bytes),
        (Ok(_), Err(error)) => {
            let difference = Difference::of_hickorys(bytes, &error);
            assert!(difference.is_some(), "hickory alone refuses it: {error}");
        }
        (Err(_), Ok(_)) => {
            let difference = Difference::of_ours(bytes);
            assert!(difference.is_some(), "we alone refuse it");
        }
        (Err(_), Err(_)) => {}
    }
});

fn agree(ours: &Response, theirs: &Message, bytes: &[u8]) {
    let code = u16::from(theirs.metadata.response_code);
    assert_eq!(ours.rcode(), code);
    assert_eq!(ours.truncated(), theirs.metadata.truncation);
    if leads_through_numbers(bytes) {
        return;
    }
    let view = ours.view();
    let kept = Message::from_vec(view.message()).expect("hickory takes what is kept");
    same(&kept, theirs, Ttls::of(theirs, bytes));

    let changes = Changes {
        ttl: sane_ttl,
        rdata_of: |number| number,
    };
    let mut shown = Vec::new();
    append(view, MAX_MESSAGE_LEN, &changes, &mut shown);
    let shown = Message::from_vec(&shown).expect("hickory takes what is shown");
    same(&shown, &kept, Ttls::Kept);
}

/// The expected TTLs of a message.
enum Ttls {
    /// As in the original message.
    Kept,
    /// For each `RRset` its lowest TTL; for the SOA of a denial its MINIMUM, if that is lower.
    Lowest {
        lowest: HashMap<(Name, u16, u16), u32>,
        denies: bool,
    },
}

impl Ttls {
    fn of(message: &Message, bytes: &[u8]) -> Self {
        let qtype = u16::from(message.queries[0].query_type());
        let asked_for =
            |record: &Record| qtype == rr::ANY || u16::from(record.record_type()) == qtype;
        let nxdomain = wire::flags(bytes) & flag::RCODE == wire::rcode::NXDOMAIN;
        let denies = nxdomain || !message.answers.iter().any(asked_for);
        let mut lowest = HashMap::new();
        for section in [&message.answers, &message.authorities, &message.additionals] {
            let authority = std::ptr::eq(section, &message.authorities);
            for record in stays(section) {
                let ttl = own_ttl(record, denies && authority);
                let least = lowest.entry(set_of(record)).or_insert(ttl);
                *least = ttl.min(*least);
            }
        }
        Self::Lowest { lowest, denies }
    }

    fn wanted(&self, record: &Record, authority: bool) -> u32 {
        match self {
            Self::Lowest { lowest, .. } if u16::from(record.record_type()) != rr::RRSIG => {
                lowest[&set_of(record)]
            }
            Self::Lowest { denies, .. } => own_ttl(record, *denies && authority),
            Self::Kept => sane_ttl(record.ttl),
        }
    }
}

fn own_ttl(record: &Record, denies: bool) -> u32 {
    match &record.data {
        RData::SOA(soa) if denies => sane_ttl(record.ttl).min(sane_ttl(soa.minimum)),
        _ => sane_ttl(record.ttl),
    }
}

fn set_of(record: &Record) -> (Name, u16, u16) {
    let name = record.name.to_lowercase();
    (name, record.record_type().into(), record.dns_class.into())
}

/// Records without those for one hop only.
fn stays(records: &[Record]) -> impl Iterator<Item = &Record> {
    let for_one_hop = |record: &&Record| u16::from(record.record_type()) == rr::TSIG;
    records.iter().filter(move |record| !for_one_hop(record))
}

/// Types whose RDATA holds names and that hickory does not decode. Pointers in them change with what stands before them.
const NAMES_UNKNOWN_TO_HICKORY: [u16; 11] = [
    rr::MD,
    rr::MF,
    rr::MB,
    rr::MG,
    rr::MR,
    rr::MINFO,
    rr::RP,
    rr::AFSDB,
    rr::RT,
    rr::PX,
    rr::DNAME,
];

fn same(ours: &Message, theirs: &Message, ttls: Ttls) {
    assert_eq!(ours.queries, theirs.queries);
    for (section, our, their) in [
        ("answer", &ours.answers, &theirs.answers),
        ("authority", &ours.authorities, &theirs.authorities),
        ("additional", &ours.additionals, &theirs.additionals),
    ] {
        // hickory refuses a TSIG that is not the last record.
        let their: Vec<&Record> = stays(their).collect();
        assert_eq!(our.len(), their.len(), "records of {section}");
        for (our, their) in our.iter().zip(their) {
            assert_eq!(our.name, their.name);
            assert_eq!(our.record_type(), their.record_type());
            assert_eq!(our.dns_class, their.dns_class);
            if !NAMES_UNKNOWN_TO_HICKORY.contains(&u16::from(their.record_type())) {
                assert_eq!(our.data, their.data, "{section}: {}", their.name);
            }
            let wanted = ttls.wanted(their, section == "authority");
            assert_eq!(sane_ttl(our.ttl), wanted, "TTL of {}", their.name);
        }
    }
}
