//! A response written anew with its names compressed (RFC 1035 §4.1.4), for clients whose limit it exceeds.
//!
//! Owns which names may be compressed: owners, and names in RDATA of the types of RFC 1035. Names in RDATA of later
//! types are written out (RFC 3597 §4), also where the upstream sent a pointer. A name that differs in case alone is
//! the same name, so that the first spelling stands for all. RDATA that does not have its type's format is copied
//! unchanged.

use super::rdata::{self, Names};
use super::response::View;
use super::wire::{self, Counts, HEADER_LEN, POINTER, POINTER_REACH, Record, Records, Section};

/// RFC 1035 §2.3.4: 255 octets hold 127 labels and the root.
const MAX_LABELS: usize = 127;
/// The most labels that names may point to; names that would need further ones are written out. A reply over UDP hardly
/// has as many. Without a limit, the largest messages, which only go over TCP, would take time in proportion to the
/// square of their length.
const MAX_KNOWN_LABELS: usize = 512;

/// How a response's records are changed while they are written. Records are counted from 0 through all sections.
#[derive(Debug, Clone, Copy)]
pub struct Changes<T, R> {
    /// Maps a record's TTL to the TTL that is sent.
    pub ttl: T,
    /// Maps a record's number to the number of the record whose RDATA is sent in its place, which is an address of the
    /// same type.
    pub rdata_of: R,
}

/// Appends `response` in at most `room` octets, with as many whole records as fit. Returns how many records fit.
///
/// # Panics
/// If there is no room for the question.
#[cold]
pub fn append(
    response: View<'_>,
    room: usize,
    changes: &Changes<impl Fn(u32) -> u32, impl Fn(usize) -> usize>,
    out: &mut Vec<u8>,
) -> Counts {
    let message = response.message();
    let question_end = response.question_end();
    assert!(question_end <= room, "no room for the question");
    let whole = Counts::read(message).unwrap_or_default();
    let mut kept = Counts {
        questions: whole.questions,
        ..Counts::default()
    };
    let mut writer = Writer::new(message, question_end, room, out);
    let records = Records::new(message, question_end, whole).map_while(Result::ok);
    for (number, record) in records.enumerate() {
        let start = writer.out.len();
        let source = (changes.rdata_of)(number);
        let written = if source == number {
            writer.put_record(record, &changes.ttl)
        } else {
            writer.put_address(record, response.ttl_at(source) + 6, &changes.ttl)
        };
        if written.is_err() {
            writer.out.truncate(start);
            break;
        }
        match record.section {
            Section::Answer => kept.answers += 1,
            Section::Authority => kept.authorities += 1,
            Section::Additional => kept.additionals += 1,
        }
    }
    kept.write(&mut writer.out[writer.start..]);
    kept
}

/// A label in the output that names may point to, together with the labels after it. Labels that the same label follows
/// form a list. Indices are those of [`Writer::known`]; 0, the index of the root, means none.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Its offset in the output.
    at: u16,
    /// The first label in the list of those that precede this one.
    child: u16,
    /// The next label in the list that this label is in.
    sibling: u16,
}

/// Index of the root in [`Writer::known`]. Nothing points to it: it takes one octet, and a pointer two.
const ROOT: u16 = 0;

/// There is no room for the record, or it is malformed: it and what follows are left out.
#[derive(Debug)]
struct NotWritten;

struct Writer<'a> {
    message: &'a [u8],
    out: &'a mut Vec<u8>,
    /// Where the message begins in the output.
    start: usize,
    /// The end that the message must not pass. Nothing is written beyond it, even for a moment: the buffer would grow.
    end: usize,
    known: [Known; MAX_KNOWN_LABELS],
    known_len: u16,
}

impl<'a> Writer<'a> {
    /// Begins with the header and the question, which has no pointers.
    fn new(message: &'a [u8], question_end: usize, room: usize, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&message[..HEADER_LEN]);
        let mut writer = Self {
            message,
            out,
            start,
            end: start + room,
            known: [Known::default(); MAX_KNOWN_LABELS],
            known_len: ROOT + 1,
        };
        writer
            .put_name(HEADER_LEN, Names::Compressed)
            .and_then(|()| writer.copy(question_end - 4, question_end))
            .expect("there is room for the question, as the caller saw");
        writer
    }

    /// Octets of the message so far.
    fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Appends a record.
    fn put_record(&mut self, record: Record, ttl: impl Fn(u32) -> u32) -> Result<(), NotWritten> {
        self.put_fixed(record, ttl)?;
        let (rdata_at, start) = (record.rdata_at(), self.out.len());
        let Some((layout, names)) = rdata::names(self.message, &record) else {
            return self.copy(rdata_at, record.end);
        };
        self.copy(rdata_at, rdata_at + layout.before)?;
        for &at in &names[..layout.count] {
            self.put_name(at, layout.names)?;
        }
        self.copy(record.end - layout.after, record.end)?;
        let length = u16::try_from(self.out.len() - start).map_err(|_| NotWritten)?;
        wire::put_u16(self.out, start - 2, length);
        Ok(())
    }

    /// Appends a record with the RDATA at `rdata_at`, of the same length and without names.
    fn put_address(
        &mut self,
        record: Record,
        rdata_at: usize,
        ttl: impl Fn(u32) -> u32,
    ) -> Result<(), NotWritten> {
        self.put_fixed(record, ttl)?;
        self.copy(rdata_at, rdata_at + record.end - record.rdata_at())
    }

    /// Appends a record's owner name and the fixed fields before RDATA.
    fn put_fixed(&mut self, record: Record, ttl: impl Fn(u32) -> u32) -> Result<(), NotWritten> {
        let old = wire::u32_at(self.message, record.ttl_at).ok_or(NotWritten)?;
        self.put_name(record.start, Names::Compressed)?;
        self.copy(record.ttl_at - 4, record.ttl_at)?;
        self.put(&ttl(old).to_be_bytes())?;
        self.copy(record.ttl_at + 4, record.rdata_at())
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), NotWritten> {
        self.put(&self.message[from..to])
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), NotWritten> {
        if self.out.len() + octets.len() > self.end {
            return Err(NotWritten);
        }
        self.out.extend_from_slice(octets);
        Ok(())
    }

    /// Appends the name at `at`, which [`wire::skip_name`] has passed.
    fn put_name(&mut self, at: usize, names: Names) -> Result<(), NotWritten> {
        let message = self.message;
        let mut labels: [&[u8]; MAX_LABELS] = [&[]; MAX_LABELS];
        let mut count = 0;
        for (slot, label) in labels.iter_mut().zip(wire::labels(message, at)) {
            *slot = label;
            count += 1;
        }
        let mut end = ROOT;
        let mut new = count;
        while names == Names::Compressed
            && new > 0
            && let Some(longer) = self.find(end, labels[new - 1])
        {
            end = longer;
            new -= 1;
        }
        let mut behind = self.len();
        for label in &labels[..new] {
            self.put(label)?;
            behind += label.len();
        }
        if end == ROOT {
            self.put(&[0])?;
        } else {
            let pointer = POINTER | self.known[usize::from(end)].at;
            self.put(&pointer.to_be_bytes())?;
        }
        if names == Names::Compressed {
            for label in labels[..new].iter().rev() {
                behind -= label.len();
                let Some(longer) = self.learn(end, behind) else {
                    break;
                };
                end = longer;
            }
        }
        Ok(())
    }

    /// The known label that precedes the one at index `end` and equals `label`.
    fn find(&self, end: u16, label: &[u8]) -> Option<u16> {
        let written = &self.out[self.start..];
        let mut next = self.known[usize::from(end)].child;
        while next != ROOT {
            let known = self.known[usize::from(next)];
            if wire::label(written, usize::from(known.at)).eq_ignore_ascii_case(label) {
                return Some(next);
            }
            next = known.sibling;
        }
        None
    }

    /// Adds the label at offset `at` of the output to the known ones; the label after it has index `end`.
    fn learn(&mut self, end: u16, at: usize) -> Option<u16> {
        let index = self.known_len;
        let slot = self.known.get_mut(usize::from(index))?;
        if at >= POINTER_REACH {
            return None;
        }
        slot.at = u16::try_from(at).ok()?;
        let parent = &mut self.known[usize::from(end)];
        let sibling = std::mem::replace(&mut parent.child, index);
        self.known[usize::from(index)].sibling = sibling;
        self.known_len += 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::Response;
    use super::super::wire::rr;
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

    /// It as it is sent, behind something else in the buffer.
    fn compressed(message: &[u8], room: usize) -> Vec<u8> {
        let response = Response::read(message).expect("well-formed");
        append_unchanged(&response, room)
    }

    fn append_unchanged(response: &Response, room: usize) -> Vec<u8> {
        let changes = Changes {
            ttl: |ttl| ttl,
            rdata_of: |number| number,
        };
        let mut out = b"earlier".to_vec();
        append(response.view(), room, &changes, &mut out);
        out.split_off(7)
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
            compressed[question_end..],
            want.concat(),
            "the alias' RDATA is at {}",
            question_end + 2 + 10
        );
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
        assert_eq!(compressed[29..], want.concat());
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
            assert_eq!(compressed[29..], want, "{case}");
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
            let bytes = &compressed(&message, NO_LIMIT)[..];
            prop_assert!(bytes.len() <= message.len());
            let got = Message::from_vec(bytes).expect("hickory reads it");
            prop_assert_eq!(&got.answers, &want.answers);
            prop_assert_eq!(&got.authorities, &want.authorities);
            prop_assert_eq!(&got.additionals, &want.additionals);

            let cut_bytes = &compressed(&message, room)[..];
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
                let compressed = append_unchanged(&response, room);
                prop_assert!(compressed.len() <= room);
                prop_assert!(Response::read(&compressed).is_ok());
            }
        }
    }
}
