//! Answers that clients stumble over, in a form that all of them understand.
//!
//! Owns the bytes of what is written anew; the records and what they say stay the same.

use std::collections::HashMap;

use super::alias::{Owner, answers, append, chain, name_at};
use super::ede::PassedOn;
use super::response::{Response, View};
use super::wire::{Counts, HEADER_LEN, Record, Records};

/// The answer written anew: each alias before what it leads to, and all names in RDATA written out. None if it cannot be.
///
/// glibc reads an answer once, from front to back, and passes over the records of names that no alias has led to so far. Go
/// and c-ares refuse a whole answer in which the target of an SRV record is compressed (RFC 3597 §4).
#[must_use]
pub fn regular(answer: View<'_>) -> Option<Response> {
    let message = answer.message();
    let mut records = in_order(answer)?;
    let counts = Counts::read(message).ok()?;
    let others = Records::new(message, answer.question_end(), counts).flatten();
    records.extend(others.skip(records.len()));
    let question = answer.question();
    let owner = Owner {
        name: &question[..question.len() - 4],
        pointer: u16::try_from(HEADER_LEN).ok(),
    };
    let mut written = message[..answer.question_end()].to_vec();
    for record in &records {
        append(&mut written, message, record, owner).ok()?;
    }
    let response = Response::read(&written).ok()?;
    Some(response.with_errors(&PassedOn::of(answer.errors())))
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
        // What has no place, such as a DNAME, stays with what is before it.
        place = *order.get(&owner.to_ascii_lowercase()).unwrap_or(&place);
        placed.push((place, record));
    }
    placed.sort_by_key(|(place, _)| *place);
    Some(placed.into_iter().map(|(_, record)| record).collect())
}
