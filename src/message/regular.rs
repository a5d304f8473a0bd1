//! Rewrites answers that some clients misread into a form that all clients understand.
//!
//! Owns the bytes of rewritten answers, and which records a client gets. The records' data does not change.

use std::collections::{HashMap, HashSet};

use super::alias::{Owner, answers, append, chain, name_at};
use super::ede::PassedOn;
use super::query::Question;
use super::response::{Response, View, comes_along, is_dnssec};
use super::wire::{self, Counts, HEADER_LEN, Record, Records, Section, rr};

/// The answer written anew: each alias before its target, all names in RDATA written out, and no records that were not
/// asked for. None if that is not possible.
///
/// glibc reads an answer once, from front to back, and passes over the records of names that no alias has led to so far. Go
/// and c-ares refuse a whole answer in which the target of an SRV record is compressed (RFC 3597 §4). musl takes an address of
/// either family, and of any name, for the one it asked for.
#[must_use]
pub fn regular(answer: View<'_>, question: &Question<'_>) -> Option<Response> {
    let message = answer.message();
    let mut counts = Counts::read(message).ok()?;
    let ordered = in_order(answer)?;
    let others = Records::new(message, answer.question_end(), counts).flatten();
    let others: Vec<Record> = others.skip(ordered.len()).collect();
    let asked_for = AskedFor::new(answer, question)?;
    let answers: Vec<Record> = asked_for.of(message, ordered);
    // The other sections belong to answers that were left out: name servers alone would look like a referral.
    let emptied = counts.answers > 0 && answers.is_empty();
    let is_left = |record: &&Record| {
        let about_the_answers = record.section != Section::Authority || record.rtype == rr::NS;
        asked_for.may_have(record.rtype) && !(emptied && about_the_answers)
    };
    let others: Vec<&Record> = others.iter().filter(is_left).collect();
    let of = |section| {
        let count = others.iter().filter(|record| record.section == section);
        u16::try_from(count.count()).ok()
    };
    counts.answers = u16::try_from(answers.len()).ok()?;
    counts.authorities = of(Section::Authority)?;
    counts.additionals = of(Section::Additional)?;

    let name = answer.question();
    let owner = Owner {
        name: &name[..name.len() - 4],
        pointer: u16::try_from(HEADER_LEN).ok(),
    };
    let mut written = message[..answer.question_end()].to_vec();
    counts.write(&mut written);
    for record in answers.iter().chain(others) {
        append(&mut written, message, record, owner).ok()?;
    }
    let response = Response::read(&written).ok()?;
    Some(response.with_errors(&PassedOn::of(answer.errors())))
}

/// The records that an answer to a question may hold.
struct AskedFor<'a> {
    question: &'a Question<'a>,
    /// The names that its aliases lead to, its own included.
    names: HashSet<Vec<u8>>,
}

impl<'a> AskedFor<'a> {
    fn new(answer: View<'_>, question: &'a Question<'a>) -> Option<Self> {
        let names = chain(answer)?.into_iter().collect();
        Some(Self { question, names })
    }

    /// The answer section's records that belong to the question.
    fn of(&self, message: &[u8], mut records: Vec<Record>) -> Vec<Record> {
        if self.question.qtype == rr::ANY {
            return records;
        }
        records.retain(|record| self.is_of_its_type(message, record));
        let has_a_name = |record: &Record| {
            record.rtype != self.question.qtype
                || name_at(message, record.start)
                    .is_some_and(|(owner, _)| self.names.contains(&owner.to_ascii_lowercase()))
        };
        // CoreDNS's `rewrite` may answer with records of another name only. Most clients ignore the owner name and use
        // them.
        let of_the_type = |record: &&Record| record.rtype == self.question.qtype;
        if records.iter().filter(of_the_type).any(has_a_name) {
            records.retain(has_a_name);
        }
        records
    }

    fn is_of_its_type(&self, message: &[u8], record: &Record) -> bool {
        let qtype = self.question.qtype;
        let wanted = |rtype| rtype == qtype || (comes_along(rtype) && self.may_have(rtype));
        // RFC 4034 §3.1: a signature begins with the type that it covers.
        let covers = || wire::u16_at(message, record.rdata_at()).is_some_and(wanted);
        record.class == self.question.qclass
            && wanted(record.rtype)
            && (record.rtype != rr::RRSIG || qtype == rr::RRSIG || covers())
    }

    fn may_have(&self, rtype: u16) -> bool {
        let qtype = self.question.qtype;
        self.question.dnssec_ok || !is_dnssec(rtype) || qtype == rr::ANY || rtype == qtype
    }
}

/// The records of the answer section, each alias before what it leads to.
fn in_order(answer: View<'_>) -> Option<Vec<Record>> {
    let message = answer.message();
    let mut order = HashMap::new();
    for (place, name) in chain(answer)?.into_iter().enumerate() {
        order.entry(name).or_insert(place);
    }
    let mut place = 0;
    let mut placed = Vec::new();
    for record in answers(answer) {
        let (owner, _) = name_at(message, record.start)?;
        // A record without a place in that order, such as a DNAME, stays behind the record before it.
        place = *order.get(&owner.to_ascii_lowercase()).unwrap_or(&place);
        placed.push((place, record));
    }
    placed.sort_by_key(|(place, _)| *place);
    Some(placed.into_iter().map(|(_, record)| record).collect())
}
