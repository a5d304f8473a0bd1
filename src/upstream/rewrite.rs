//! A route's `rewrite`: a name below one suffix is asked for under another suffix, and the names of the answer get the first
//! suffix again.
//!
//! Owns the question that is sent upstream, and the names that are changed in the answer: owners, targets of CNAME, and the
//! owner of a SOA at or above the suffix that was asked for (otherwise caches would reject it, RFC 2308 §3). Other names in
//! RDATA do not change.
//!
//! Limits: signatures are made for the name that was asked for, so AD is cleared. An answer counts as malformed if hickory
//! cannot read its RDATA, although it would be passed on without a rewrite.

use std::rc::Rc;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};

use super::ask::{Answer, Failed};
use crate::config::RewriteConfig;
use crate::message::ede::{self, ExtendedError, PassedOn};
use crate::message::query::{Question, wire_name};
use crate::message::response::Response;
use crate::message::wire::{MAX_NAME_LEN, rcode};

/// Changes one suffix to another, and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    from: Name,
    to: Name,
    /// Lower-cased wire form of `from`, and of `to`.
    wire: (Vec<u8>, Vec<u8>),
}

impl Rewrite {
    /// The rewrite of a configuration.
    #[must_use]
    pub fn new(config: &RewriteConfig) -> Self {
        Self {
            from: config.from.clone(),
            to: config.to.clone(),
            wire: (wire_name(&config.from), wire_name(&config.to)),
        }
    }

    /// Whether a lower-cased wire name is asked for under another suffix.
    #[must_use]
    pub fn concerns(&self, name: &[u8]) -> bool {
        suffix_at(name, &self.wire.0).is_some()
    }

    /// The name that is asked for in place of `name`; None if `name` is not below `from`, or the new name would be too long.
    #[must_use]
    pub fn outward_name(&self, name: &Name) -> Option<Name> {
        if !self.from.zone_of(name) {
            return None;
        }
        let below = usize::from(name.num_labels()) - usize::from(self.from.num_labels());
        let labels = Name::from_labels(name.iter().take(below)).ok()?;
        labels.append_domain(&self.to).ok()
    }

    /// The key of the question that is asked in place of `key`'s question. Returns `key` if the name is not below `from`.
    ///
    /// # Errors
    /// The name would be longer than a name can be.
    pub fn outward(&self, key: &Rc<[u8]>) -> Result<Rc<[u8]>, Failed> {
        let (from, to) = &self.wire;
        let name = Question::of(key).name;
        let Some(at) = suffix_at(name, from) else {
            return Ok(Rc::clone(key));
        };
        if at + to.len() > MAX_NAME_LEN {
            let text = "the name that rewrite makes has more than 255 octets";
            let (code, error) = (rcode::SERVFAIL, ExtendedError::new(ede::OTHER, text));
            return Err(Failed { code, error });
        }
        Ok([&name[..at], to, &key[name.len()..]].concat().into())
    }

    /// Turns the answer to the rewritten question into an answer to `key`'s question.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn back(&self, answer: Answer, key: &[u8]) -> Result<Answer, Failed> {
        if suffix_at(Question::of(key).name, &self.wire.0).is_none() {
            return Ok(answer);
        }
        let response = self.restored(&answer.response).ok_or_else(|| {
            let text = "the answer to a rewritten name cannot be read";
            let (code, error) = (rcode::SERVFAIL, ExtendedError::new(ede::OTHER, text));
            Failed { code, error }
        })?;
        let errors = PassedOn::of(answer.response.view().errors());
        let response = response.with_errors(&errors);
        Ok(Answer { response, ..answer })
    }

    fn restored(&self, response: &Response) -> Option<Response> {
        let mut message = Message::from_vec(response.view().message()).ok()?;
        for query in &mut message.queries {
            let name = self.name(query.name())?;
            query.set_name(name);
        }
        let (answers, authorities) = (&mut message.answers, &mut message.authorities);
        let all = answers.iter_mut().chain(authorities);
        for record in all.chain(&mut message.additionals) {
            self.restore(record)?;
        }
        message.metadata.authentic_data = false;
        Response::read(&message.to_vec().ok()?).ok()
    }

    fn restore(&self, record: &mut Record) -> Option<()> {
        record.name = match &record.data {
            RData::SOA(_) if record.name.zone_of(&self.to) => self.from.clone(),
            _ => self.name(&record.name)?,
        };
        if let RData::CNAME(target) = &record.data {
            record.data = RData::CNAME(CNAME(self.name(target)?));
        }
        Some(())
    }

    /// A name with the suffix that clients use.
    fn name(&self, name: &Name) -> Option<Name> {
        if !self.to.zone_of(name) {
            return Some(name.clone());
        }
        let own = name.iter().len() - self.to.iter().len();
        let mut restored = Name::from_labels(name.iter().take(own).chain(self.from.iter())).ok()?;
        restored.set_fqdn(true);
        Some(restored)
    }
}

/// Where a suffix begins in a name, on the boundary of a label. Both are lower-cased wire names.
fn suffix_at(name: &[u8], suffix: &[u8]) -> Option<usize> {
    let mut rest = name;
    while rest != suffix {
        rest = rest.get(usize::from(*rest.first()?) + 1..)?;
    }
    Some(name.len() - rest.len())
}
