//! A response written anew with its names compressed (RFC 1035 §4.1.4), for clients that it is too long for.
//!
//! Owns which names may be compressed: owners, and names in RDATA of the types of RFC 1035. Names in RDATA of later types
//! are written out (RFC 3597 §4), also where the upstream sent a pointer. A name that differs in case alone is the same
//! name, so that the first spelling stands for all. RDATA that is not what its type says passes as it is.

use super::response::{Facts, View};
use super::wire::{self, Counts, HEADER_LEN, Record, Records, Section, rr};

/// RFC 1035 §4.1.4: a pointer has 14 bits for the offset.
const POINTER_REACH: usize = 1 << 14;
/// RFC 1035 §4.1.4: the two high bits that tell a pointer from a label.
const POINTER: u16 = 0xc000;
/// RFC 1035 §2.3.4: 255 octets hold 127 labels and the root.
const MAX_LABELS: usize = 127;
/// Labels that names may point to. More than any reply over UDP holds; without a limit, the largest messages, which only
/// go over TCP, would take time in proportion to the square of their length.
const MAX_KNOWN_LABELS: usize = 1_024;

/// A response as it is sent to a client whom it is too long for: as many whole records as there is room for.
#[derive(Debug)]
pub struct Compressed {
    facts: Facts,
    /// The message, then the offsets of its TTLs as native 16-bit numbers.
    bytes: Vec<u8>,
    /// The records that it has.
    pub kept: Counts,
}

impl Compressed {
    /// Writes `response` in at most `room` octets, which must have room for the question.
    #[cold]
    #[must_use]
    pub fn new(response: View<'_>, room: usize) -> Self {
        let message = response.message();
        let question_end = response.question_end();
        let whole = Counts::read(message).unwrap_or_default();
        let mut kept = Counts {
            questions: whole.questions,
            ..Counts::default()
        };
        let mut writer = Writer::new(message, question_end);
        let mut ttls = Vec::with_capacity(response.ttl_count() * 2);
        for record in Records::new(message, question_end, whole).map_while(Result::ok) {
            let start = writer.out.len();
            let ttl_at = writer.put_record(record);
            let (true, Ok(ttl_at)) = (writer.out.len() <= room, u16::try_from(ttl_at)) else {
                writer.out.truncate(start);
                break;
            };
            ttls.extend_from_slice(&ttl_at.to_ne_bytes());
            match record.section {
                Section::Answer => kept.answers += 1,
                Section::Authority => kept.authorities += 1,
                Section::Additional => kept.additionals += 1,
            }
        }
        let mut bytes = writer.out;
        kept.write(&mut bytes);
        let facts = response.facts_of_length(bytes.len());
        bytes.extend_from_slice(&ttls);
        Self { facts, bytes, kept }
    }

    /// It, to be read.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::of(&self.facts, &self.bytes)
    }
}

/// Whether names in a type's RDATA may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Everybody must understand pointers there.
    Compressed,
    /// RFC 3597 §4: they have to be written out; an upstream may have done otherwise.
    WrittenOut,
}

/// Where names stand in a type's RDATA.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Octets before the names.
    before: usize,
    count: usize,
    /// Octets behind them.
    after: usize,
    names: Names,
}

/// The layout of a record's RDATA; none if it holds no names, or none that anybody may have compressed (RFC 3597 §4).
fn layout(message: &[u8], record: &Record) -> Option<Layout> {
    use Names::{Compressed, WrittenOut};
    let (before, count, after, names) = match record.rtype {
        rr::NS | rr::CNAME | rr::PTR | rr::MD | rr::MF | rr::MB | rr::MG | rr::MR => {
            (0, 1, 0, Compressed)
        }
        rr::MX => (2, 1, 0, Compressed),
        rr::MINFO => (0, 2, 0, Compressed),
        // Five 32-bit numbers follow.
        rr::SOA => (0, 2, 20, Compressed),
        rr::DNAME => (0, 1, 0, WrittenOut),
        rr::AFSDB | rr::RT => (2, 1, 0, WrittenOut),
        rr::RP => (0, 2, 0, WrittenOut),
        rr::PX => (2, 2, 0, WrittenOut),
        rr::SRV => (6, 1, 0, WrittenOut),
        rr::NAPTR => (naptr_before(message, record)?, 1, 0, WrittenOut),
        _ => return None,
    };
    Some(Layout {
        before,
        count,
        after,
        names,
    })
}

/// RFC 3403 §4.1: two 16-bit numbers and three strings stand before the name.
fn naptr_before(message: &[u8], record: &Record) -> Option<usize> {
    let mut at = record.rdata_at() + 4;
    for _ in 0..3 {
        at += usize::from(*message.get(at)?) + 1;
    }
    Some(at - record.rdata_at())
}

/// A label in the output that names may point to, with all that follows it. Labels with the same end form a list.
#[derive(Debug, Clone, Copy)]
struct Known {
    at: u16,
    /// The first of the labels that stand before this one.
    child: Option<u16>,
    /// The next of the labels that stand before the same one.
    sibling: Option<u16>,
}

struct Writer<'a> {
    message: &'a [u8],
    out: Vec<u8>,
    /// The root comes first; nothing points to it.
    known: Vec<Known>,
}

impl<'a> Writer<'a> {
    /// Begins with the header and the question, which has no pointers.
    fn new(message: &'a [u8], question_end: usize) -> Self {
        let root = Known {
            at: 0,
            child: None,
            sibling: None,
        };
        let mut writer = Self {
            message,
            out: message[..HEADER_LEN].to_vec(),
            known: vec![root],
        };
        writer.put_name(HEADER_LEN, Names::Compressed);
        writer
            .out
            .extend_from_slice(&message[writer.out.len()..question_end]);
        writer
    }

    /// Appends a record; returns the offset of its TTL.
    fn put_record(&mut self, record: Record) -> usize {
        let rdata_at = record.rdata_at();
        self.put_name(record.start, Names::Compressed);
        let ttl_at = self.out.len() + 4;
        self.copy(record.ttl_at - 4, rdata_at);
        match self.rdata_names(&record) {
            Some((layout, names)) => {
                self.copy(rdata_at, rdata_at + layout.before);
                for &at in &names[..layout.count] {
                    self.put_name(at, layout.names);
                }
                self.copy(record.end - layout.after, record.end);
            }
            None => self.copy(rdata_at, record.end),
        }
        // More than 65,535 octets have no room anywhere, so that the record is taken back.
        let length = u16::try_from(self.out.len() - ttl_at - 6).unwrap_or(u16::MAX);
        wire::put_u16(&mut self.out, ttl_at + 4, length);
        ttl_at
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.out.extend_from_slice(&self.message[from..to]);
    }

    /// Where the names of a record's RDATA begin; none if they and what is around them do not fill it.
    fn rdata_names(&self, record: &Record) -> Option<(Layout, [usize; 2])> {
        let layout = layout(self.message, record)?;
        let mut names = [0; 2];
        let mut at = record.rdata_at() + layout.before;
        for name in &mut names[..layout.count] {
            *name = at;
            at = wire::skip_name(self.message, at).ok()?;
        }
        (at + layout.after == record.end).then_some((layout, names))
    }

    /// Appends the name at `at`, which [`wire::skip_name`] has passed.
    fn put_name(&mut self, at: usize, names: Names) {
        let mut labels = [0; MAX_LABELS];
        let mut count = 0;
        for label in wire::labels(self.message, at).take(MAX_LABELS) {
            labels[count] = label;
            count += 1;
        }
        let mut end = 0;
        let mut new = count;
        while names == Names::Compressed
            && new > 0
            && let Some(longer) = self.find(end, wire::label(self.message, labels[new - 1]))
        {
            end = longer;
            new -= 1;
        }
        let pointer = self.known[end].at;
        for label in &mut labels[..new] {
            let text = wire::label(self.message, *label);
            *label = self.out.len();
            self.out.extend_from_slice(text);
        }
        if end == 0 {
            self.out.push(0);
        } else {
            self.out
                .extend_from_slice(&(POINTER | pointer).to_be_bytes());
        }
        if names == Names::Compressed {
            for &label in labels[..new].iter().rev() {
                let Some(longer) = self.learn(end, label) else {
                    break;
                };
                end = longer;
            }
        }
    }

    /// The known label that stands before the one at index `end` and equals `label`.
    fn find(&self, end: usize, label: &[u8]) -> Option<usize> {
        let mut next = self.known[end].child;
        while let Some(index) = next {
            let known = self.known[usize::from(index)];
            if wire::label(&self.out, usize::from(known.at)).eq_ignore_ascii_case(label) {
                return Some(usize::from(index));
            }
            next = known.sibling;
        }
        None
    }

    /// Notes the label at offset `at` of the output, behind which stands the one at index `end`.
    fn learn(&mut self, end: usize, at: usize) -> Option<usize> {
        let index = self.known.len();
        if at >= POINTER_REACH || index >= MAX_KNOWN_LABELS {
            return None;
        }
        self.known.push(Known {
            at: u16::try_from(at).ok()?,
            child: None,
            sibling: self.known[end].child,
        });
        self.known[end].child = Some(u16::try_from(index).ok()?);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::Response;
    use super::*;
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    /// A name written out.
    fn name(labels: &[&str]) -> Vec<u8> {
        let mut name = Vec::new();
        for label in labels {
            name.push(u8::try_from(label.len()).expect("short"));
            name.extend_from_slice(label.as_bytes());
        }
        name.push(0);
        name
    }

    fn record(owner: &[u8], rtype: u16, rdata: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rdata.len()).expect("short");
        let [type_octets, length] = [rtype.to_be_bytes(), length.to_be_bytes()];
        let fixed = [&type_octets[..], &[0, 1, 0, 0, 0, 60], &length].concat();
        [owner, &fixed, rdata].concat()
    }

    /// A response to `www.example. A`, with answers, an authority section, and additional records.
    fn response(sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
        let mut message = vec![0, 0, 0x81, 0x80, 0, 1];
        for section in sections {
            let count = u16::try_from(section.len()).expect("few");
            message.extend_from_slice(&count.to_be_bytes());
        }
        message.extend_from_slice(&name(&["www", "example"]));
        message.extend_from_slice(&[0, 1, 0, 1]);
        message.extend(sections.into_iter().flatten().flatten());
        message
    }

    fn compressed(message: &[u8], room: usize) -> Compressed {
        let response = Response::read(message).expect("well-formed");
        Compressed::new(response.view(), room)
    }

    const NO_LIMIT: usize = wire::MAX_MESSAGE_LEN;

    #[test]
    fn owners_and_targets_point_to_what_was_written_before() {
        let alias = record(
            &name(&["www", "example"]),
            rr::CNAME,
            &name(&["edge", "net"]),
        );
        let address = record(&name(&["EDGE", "net"]), rr::A, &[192, 0, 2, 1]);
        let message = response([&[alias, address], &[], &[]]);
        let compressed = compressed(&message, NO_LIMIT);
        let question_end = HEADER_LEN + 13 + 4;
        let want = [
            // The owner at offset 12, and a target of which nothing was known.
            &record(&[0xc0, 12], rr::CNAME, &name(&["edge", "net"])),
            // The target of before, at the alias' RDATA.
            &record(&[0xc0, 41], rr::A, &[192, 0, 2, 1])[..],
        ];
        assert_eq!(
            compressed.view().message()[question_end..],
            want.concat(),
            "the alias' RDATA is at {}",
            question_end + 2 + 10
        );
        assert_eq!(compressed.view().ttl_at(1), question_end + 2 + 10 + 10 + 6);
    }

    #[test]
    fn names_of_later_types_are_written_out_even_if_they_came_as_pointers() {
        let owner = name(&["www", "example"]);
        let target = [0, 1, 0, 2, 0, 3, 0xc0, 12];
        let order = b"\0\x01\0\x02\x01s\x03sip\0\xc0\x0c";
        let message = response([
            &[
                record(&owner, rr::SRV, &target),
                record(&owner, rr::NAPTR, order),
                record(&owner, rr::DNAME, &[0xc0, 16]),
            ],
            &[],
            &[],
        ]);
        let compressed = compressed(&message, NO_LIMIT);
        let written_out = [&target[..6], &owner].concat();
        let order_written_out = [&order[..order.len() - 2], &owner].concat();
        let want = [
            record(&[0xc0, 12], rr::SRV, &written_out),
            record(&[0xc0, 12], rr::NAPTR, &order_written_out),
            record(&[0xc0, 12], rr::DNAME, &name(&["example"])),
        ];
        assert_eq!(compressed.view().message()[29..], want.concat());
    }

    #[test]
    fn what_is_not_what_its_type_says_passes_as_it_is() {
        let owner = name(&["www", "example"]);
        for (case, rtype, rdata) in [
            ("a name that runs past the end", rr::MX, &b"\0\x01\x05a"[..]),
            ("octets behind the name", rr::CNAME, b"\x01a\0\0"),
            ("a pointer to itself", rr::PTR, &[0xc0, 52]),
            ("a string that runs past the message", rr::NAPTR, &[255; 7]),
            ("nothing", rr::SRV, b""),
            ("a type of no layout", rr::TXT, b"\x02\xc0\x0c"),
        ] {
            let message = response([&[record(&owner, rtype, rdata)], &[], &[]]);
            let compressed = compressed(&message, NO_LIMIT);
            let want = record(&[0xc0, 12], rtype, rdata);
            assert_eq!(compressed.view().message()[29..], want, "{case}");
        }
    }

    /// Names that often end alike, in any case.
    fn any_name() -> impl Strategy<Value = Vec<u8>> {
        let label = prop::sample::select(vec!["a", "A", "www", "mx-1", "Example", "example"]);
        prop::collection::vec(label, 0..6).prop_map(|labels| name(&labels))
    }

    fn any_record() -> impl Strategy<Value = Vec<u8>> {
        let rdata = prop_oneof![
            any::<[u8; 4]>().prop_map(|address| (rr::A, address.to_vec())),
            any_name().prop_map(|name| (rr::CNAME, name)),
            any_name().prop_map(|name| (rr::NS, name)),
            any_name().prop_map(|name| (rr::PTR, name)),
            any_name().prop_map(|name| (rr::MX, [&[0, 7], &name[..]].concat())),
            any_name().prop_map(|name| (rr::SRV, [&[0, 1, 0, 2, 0, 3], &name[..]].concat())),
            any_name().prop_map(|name| (rr::NAPTR, [b"\0\x01\0\x02\x01s\0\0", &name[..]].concat())),
            (any_name(), any_name(), any::<[u8; 20]>())
                .prop_map(|(first, second, rest)| (rr::SOA, [&first, &second, &rest[..]].concat())),
            Just((rr::TXT, b"\x02\xc0\x0c".to_vec())),
        ];
        (any_name(), rdata).prop_map(|(owner, (rtype, rdata))| record(&owner, rtype, &rdata))
    }

    fn some_records() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(any_record(), 0..12)
    }

    proptest! {
        #[test]
        fn another_reader_finds_the_same_records(
            answers in some_records(), authorities in some_records(), additionals in some_records(), room in 29..1_500_usize,
        ) {
            let message = response([&answers, &authorities, &additionals]);
            let want = Message::from_vec(&message).expect("hickory reads it");
            let whole = compressed(&message, NO_LIMIT);
            let bytes = whole.view().message();
            prop_assert!(bytes.len() <= message.len());
            let got = Message::from_vec(bytes).expect("hickory reads it");
            prop_assert_eq!(&got.answers, &want.answers);
            prop_assert_eq!(&got.authorities, &want.authorities);
            prop_assert_eq!(&got.additionals, &want.additionals);
            // Reading it again finds the TTLs where the view says that they are.
            let again = Response::read(bytes).expect("well-formed");
            prop_assert_eq!(again.parts().1, &whole.bytes[..]);

            let cut = compressed(&message, room);
            let cut_bytes = cut.view().message();
            prop_assert!(cut_bytes.len() <= room);
            prop_assert_eq!(&cut_bytes[HEADER_LEN..], &bytes[HEADER_LEN..cut_bytes.len()]);
            Message::from_vec(cut_bytes).expect("hickory reads it");
            prop_assert_eq!(cut_bytes.len() == bytes.len(), bytes.len() <= room);
        }

        #[test]
        fn no_bytes_panic(tail: Vec<u8>, count in 0..9_u16, room in 29..600_usize) {
            let mut message = response([&[], &[], &[]]);
            wire::put_u16(&mut message, 6, count);
            message.extend_from_slice(&tail);
            if let Ok(response) = Response::read(&message) {
                let compressed = Compressed::new(response.view(), room);
                prop_assert!(compressed.view().message().len() <= room);
                prop_assert!(Response::read(compressed.view().message()).is_ok());
            }
        }
    }
}
