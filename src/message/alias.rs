//! Aliases in an answer (RFC 1034 §3.6.2): where a chain of CNAMEs ends, and how the answer about that name is joined
//! to the chain.
//!
//! Owns the bytes of answers that are joined from two. CNAMEs made from a DNAME (RFC 6672 §3.1) count as CNAMEs. Must
//! not know where the second answer comes from, nor how old it is.

use std::collections::HashMap;

use super::ede::PassedOn;
use super::rdata;
use super::response::{Response, View};
use super::wire::{
    self, Counts, MAX_MESSAGE_LEN, MAX_NAME_LEN, Malformed, POINTER, POINTER_REACH, Record,
    Records, Section, flag, rr,
};

/// The target of each CNAME in the answer section, lower-cased, in wire format.
#[must_use]
pub fn targets(answer: View<'_>) -> Vec<Vec<u8>> {
    let message = answer.message();
    let cnames = answers(answer).filter(|record| record.rtype == rr::CNAME);
    cnames
        .filter_map(|record| name_at(message, record.rdata_at()))
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect()
}

/// The name at the end of the chain of aliases that begins with the question's name, lower-cased, in wire format. None
/// if the question's name is no alias, or if the chain leads back to it.
#[must_use]
pub fn end(answer: View<'_>) -> Option<Vec<u8>> {
    let mut passed = chain(answer)?;
    let last = passed.pop()?;
    (!passed.is_empty() && !passed.contains(&last)).then_some(last)
}

/// Whether an answer has a record of the type that was asked for, and not aliases alone.
#[must_use]
pub fn has_records_asked_for(answer: View<'_>) -> bool {
    let question = answer.question();
    let qtype = wire::u16_at(question, question.len() - 4);
    answers(answer).any(|record| Some(record.rtype) == qtype)
}

/// The question's name, the name it is an alias of, and so on, lower-cased, in wire format; a circle ends with the name
/// that it comes back to. None if a name cannot be read.
pub(super) fn chain(answer: View<'_>) -> Option<Vec<Vec<u8>>> {
    let message = answer.message();
    let mut targets: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for record in answers(answer).filter(|record| record.rtype == rr::CNAME) {
        let (owner, _) = name_at(message, record.start)?;
        let (target, _) = name_at(message, record.rdata_at())?;
        let owner = targets.entry(owner.to_ascii_lowercase());
        owner.or_insert_with(|| target.to_ascii_lowercase());
    }
    let question = answer.question();
    let mut name = question[..question.len() - 4].to_vec();
    let mut names = Vec::new();
    while let Some(target) = targets.remove(&name) {
        names.push(std::mem::replace(&mut name, target));
    }
    names.push(name);
    Some(names)
}

/// Joins two answers: the aliases of `first`, then everything in `rest`, which is about the name where they end. The
/// other sections of `first` are left out, because they are about another name.
///
/// # Errors
/// [`Malformed`] if it does not fit a message.
pub fn joined(first: View<'_>, rest: View<'_>) -> Result<Response, Malformed> {
    let mut message = first.message().to_vec();
    let mut counts = Counts::read(&message)?;
    let target = &rest.question()[..rest.question().len() - 4];
    let (mut end, mut pointer) = (first.question_end(), None);
    for record in answers(first) {
        end = record.end;
        if record.rtype == rr::CNAME && points_at(&message, &record, target) {
            pointer = u16::try_from(record.rdata_at()).ok();
        }
    }
    message.truncate(end);
    let owner = Owner {
        name: target,
        pointer: pointer.filter(|at| usize::from(*at) < POINTER_REACH),
    };
    let further = Counts::read(rest.message())?;
    for record in Records::new(rest.message(), rest.question_end(), further) {
        append(&mut message, rest.message(), &record?, owner)?;
    }
    let answers = u32::from(counts.answers) + u32::from(further.answers);
    counts.answers = u16::try_from(answers).map_err(|_| Malformed)?;
    counts.authorities = further.authorities;
    counts.additionals = further.additionals;
    counts.write(&mut message);
    let (ours, theirs) = (wire::flags(&message), wire::flags(rest.message()));
    // AD only if both answers have it (RFC 4035 §3.2.3). RFC 6604 §3: the response code is that of the last name.
    let flags = ours & !(flag::RCODE | flag::AD)
        | ours & theirs & flag::AD
        | theirs & (flag::TC | flag::RCODE);
    wire::put_u16(&mut message, 2, flags);
    let mut errors = PassedOn::of(first.errors());
    errors.add(rest.errors());
    let response = Response::read(&message)?.of_kind(rest.kind());
    Ok(response.with_errors(&errors))
}

/// The owner name of most records behind an alias, and its offset if the message holds it already.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) name: &'a [u8],
    pub(super) pointer: Option<u16>,
}

impl Owner<'_> {
    /// Appends a name; a pointer to it if it is this name and the message holds it already.
    pub(super) fn put(self, message: &mut Vec<u8>, name: &[u8]) {
        match self.pointer {
            Some(at) if name.eq_ignore_ascii_case(self.name) => {
                message.extend_from_slice(&(POINTER | at).to_be_bytes());
            }
            _ => message.extend_from_slice(name),
        }
    }
}

/// Appends a record of another message with its names written out, because their pointers lead into that message.
pub(super) fn append(
    message: &mut Vec<u8>,
    source: &[u8],
    record: &Record,
    owner: Owner<'_>,
) -> Result<(), Malformed> {
    let (name, fixed) = name_at(source, record.start).ok_or(Malformed)?;
    owner.put(message, &name);
    message.extend_from_slice(&source[fixed..fixed + 8]);
    let length_at = message.len();
    message.extend_from_slice(&[0, 0]);
    append_rdata(message, source, record);
    let length = message.len() - length_at - 2;
    let length = u16::try_from(length).map_err(|_| Malformed)?;
    wire::put_u16(message, length_at, length);
    if message.len() > MAX_MESSAGE_LEN {
        return Err(Malformed);
    }
    Ok(())
}

fn append_rdata(message: &mut Vec<u8>, source: &[u8], record: &Record) {
    let rdata_at = record.rdata_at();
    // RDATA that does not have its type's format is copied unchanged.
    let Some((layout, names)) = rdata::names(source, record) else {
        message.extend_from_slice(&source[rdata_at..record.end]);
        return;
    };
    message.extend_from_slice(&source[rdata_at..rdata_at + layout.before]);
    for &at in &names[..layout.count] {
        put_name(message, source, at);
    }
    message.extend_from_slice(&source[record.end - layout.after..record.end]);
}

/// Records of the answer section.
pub(super) fn answers(answer: View<'_>) -> impl Iterator<Item = Record> {
    let counts = Counts::read(answer.message()).unwrap_or_default();
    Records::new(answer.message(), answer.question_end(), counts)
        .flatten()
        .take_while(|record| record.section == Section::Answer)
}

fn points_at(message: &[u8], cname: &Record, target: &[u8]) -> bool {
    name_at(message, cname.rdata_at()).is_some_and(|(name, _)| name.eq_ignore_ascii_case(target))
}

/// A possibly compressed name, written out, and the offset behind it.
pub(super) fn name_at(message: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let end = wire::skip_name(message, start).ok()?;
    let mut name = Vec::with_capacity(MAX_NAME_LEN);
    put_name(&mut name, message, start);
    Some((name, end))
}

/// Appends a possibly compressed name that [`wire::skip_name`] has passed, written out.
fn put_name(out: &mut Vec<u8>, message: &[u8], start: usize) {
    for label in wire::labels(message, start) {
        out.extend_from_slice(label);
    }
    out.push(0);
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, MX, SOA, SRV};
    use hickory_proto::rr::{Name, RData, Record as Rr, RecordType};

    use super::*;
    use crate::message::query::wire_name;
    use crate::message::response::Kind;

    fn name(text: &str) -> Name {
        Name::from_str(text).expect("a name")
    }

    fn cname(owner: &str, target: &str) -> Rr {
        Rr::from_rdata(name(owner), 30, RData::CNAME(CNAME(name(target))))
    }

    fn message(question: &str, qtype: RecordType, answers: Vec<Rr>) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name(question), qtype));
        message.metadata.recursion_desired = true;
        for record in answers {
            message.add_answer(record);
        }
        message
    }

    fn read(message: &Message) -> Response {
        Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
    }

    fn soa(owner: &str) -> Rr {
        let soa = SOA::new(name("ns.corp."), name("root.corp."), 1, 2, 3, 4, 5);
        Rr::from_rdata(name(owner), 60, RData::SOA(soa))
    }

    #[test]
    fn a_chain_ends_where_no_alias_goes_on() {
        for (case, answers, want) in [
            (
                "one alias",
                vec![cname("a.example.", "b.corp.")],
                Some("b.corp."),
            ),
            (
                "two, in another order and case",
                vec![cname("B.corp.", "c."), cname("A.example.", "b.CORP.")],
                Some("c."),
            ),
            ("another name's", vec![cname("x.example.", "b.corp.")], None),
            ("to itself", vec![cname("a.example.", "A.example.")], None),
            (
                "in a circle",
                vec![cname("a.example.", "b."), cname("b.", "a.example.")],
                None,
            ),
            (
                "in a circle that the first is not part of",
                vec![
                    cname("a.example.", "b."),
                    cname("b.", "c."),
                    cname("c.", "b."),
                ],
                None,
            ),
            ("none", vec![], None),
        ] {
            let response = read(&message("a.example.", RecordType::A, answers));
            let want = want.map(|text| wire_name(&name(text)));
            assert_eq!(end(response.view()), want, "{case}");
        }
    }

    /// What `rest` says behind `a.example. CNAME b.corp.`, read by another parser.
    fn behind_an_alias(qtype: RecordType, rest: &Message) -> (Response, Message) {
        let mut first = message("a.example.", qtype, vec![cname("a.example.", "b.corp.")]);
        first.add_authority(soa("example."));
        let joined = joined(read(&first).view(), read(rest).view()).expect("fits");
        let read = Message::from_vec(joined.view().message()).expect("well-formed");
        (joined, read)
    }

    #[test]
    fn records_behind_an_alias_are_those_of_its_target() {
        let a = |last| Rr::from_rdata(name("B.corp."), 9, RData::A(A::new(10, 0, 0, last)));
        let rest = message("b.corp.", RecordType::A, vec![a(1), a(2)]);
        let (response, got) = behind_an_alias(RecordType::A, &rest);
        assert_eq!(response.kind(), Kind::Positive);
        assert_eq!(response.ttl(), Some(9));
        assert_eq!(
            response.view().rotation().map(|found| found.count.get()),
            Some(2)
        );
        let mut want = vec![cname("a.example.", "b.corp.")];
        want.extend(rest.answers);
        assert_eq!(got.answers, want);
        assert!(got.authorities.is_empty());
        // The owner of each address is a pointer.
        let alone = message(
            "a.example.",
            RecordType::A,
            vec![cname("a.example.", "b.corp.")],
        );
        let alone = read(&alone).view().message().len();
        assert_eq!(response.view().message().len(), alone + 2 * (2 + 10 + 4));
    }

    #[test]
    fn compressed_names_in_rdata_are_written_out() {
        // The encoder of the tests compresses the names of all of these but SRV's.
        let answers = [
            (RecordType::MX, RData::MX(MX::new(10, name("mail.b.corp.")))),
            (
                RecordType::SRV,
                RData::SRV(SRV::new(1, 2, 3, name("host.b.corp."))),
            ),
            (
                RecordType::HTTPS,
                RData::CNAME(CNAME(name("further.b.corp."))),
            ),
        ];
        for (qtype, data) in answers {
            let mut rest = message(
                "b.corp.",
                qtype,
                vec![Rr::from_rdata(name("b.corp."), 60, data)],
            );
            rest.add_authority(soa("corp."));
            rest.add_additional(Rr::from_rdata(
                name("mail.b.corp."),
                60,
                RData::A(A::new(10, 0, 0, 1)),
            ));
            let (_, got) = behind_an_alias(qtype, &rest);
            assert_eq!(got.answers[1..], rest.answers[..], "{qtype}");
            assert_eq!(got.authorities, rest.authorities, "{qtype}");
            assert_eq!(got.additionals, rest.additionals, "{qtype}");
        }
    }

    #[test]
    fn a_denial_of_the_target_is_one_of_the_alias() {
        let mut rest = message("b.corp.", RecordType::A, vec![]);
        rest.metadata.response_code = ResponseCode::NXDomain;
        rest.add_authority(soa("corp."));
        let (response, got) = behind_an_alias(RecordType::A, &rest);
        assert_eq!(response.kind(), Kind::Negative);
        assert_eq!(response.ttl(), Some(5), "SOA.MINIMUM");
        assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(got.answers, [cname("a.example.", "b.corp.")]);
        assert_eq!(got.authorities[0].name, name("corp."));

        let empty = message("b.corp.", RecordType::A, vec![]);
        let (response, got) = behind_an_alias(RecordType::A, &empty);
        assert_eq!(response.kind(), Kind::Negative);
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn authentic_is_what_all_of_it_is_and_cut_what_any_of_it_is() {
        for (first_ad, rest_ad, rest_tc) in [
            (true, true, false),
            (true, false, true),
            (false, true, false),
        ] {
            let mut first = message(
                "a.example.",
                RecordType::A,
                vec![cname("a.example.", "b.corp.")],
            );
            first.metadata.authentic_data = first_ad;
            let mut rest = message("b.corp.", RecordType::A, vec![]);
            rest.metadata.authentic_data = rest_ad;
            rest.metadata.truncation = rest_tc;
            let joined = joined(read(&first).view(), read(&rest).view()).expect("fits");
            let flags = wire::flags(joined.view().message());
            assert_eq!(flags & flag::AD != 0, first_ad && rest_ad);
            assert_eq!(joined.truncated(), rest_tc);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "8,000 records take it many minutes")]
    fn what_fits_no_message_is_an_error() {
        let many = (0..4_000)
            .map(|number| cname(&format!("n{number}.example."), "m.example."))
            .collect::<Vec<_>>();
        let mut first = message("a.example.", RecordType::A, many.clone());
        first.answers.insert(0, cname("a.example.", "b.corp."));
        let rest = message("b.corp.", RecordType::A, many);
        assert!(joined(read(&first).view(), read(&rest).view()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(first: Vec<u8>, rest: Vec<u8>) {
            let question = b"\0\0\x81\x80\0\x01\0\x02\0\x01\0\0\x01a\0\0\x01\0\x01";
            let message = |bytes: &[u8]| Response::read(&[&question[..], bytes].concat());
            if let (Ok(first), Ok(rest)) = (message(&first), message(&rest)) {
                let _ = end(first.view());
                let _ = targets(first.view());
                let _ = joined(first.view(), rest.view());
            }
        }
    }
}
