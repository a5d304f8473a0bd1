//! Replies of routes that answer by themselves: nobody is asked, nothing is kept, and nobody waits.
//!
//! The names of such a zone are ours alone, so AA is set. Negative answers carry a SOA, so that clients keep them
//! (RFC 2308 §5), and an extended error that names the key which made them.

use super::client::{Client, Served};
use super::local::authority::NEGATIVE_TTL;
use super::worker::Worker;
use crate::config::OwnAnswer;
use crate::message::ede::{self, ExtendedError};
use crate::message::own;
use crate::message::query::Question;
use crate::message::reply::Asked;
use crate::message::response::Response;
use crate::message::wire::{flag, rcode};

impl Worker {
    /// Answers what route `index` answers by itself.
    pub(super) fn answer_by_route(
        &self,
        answer: &OwnAnswer,
        index: u16,
        question: &Question<'_>,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let routes = &self.setup.routes;
        let zone = &routes.get(index).zone;
        let (name, qtype) = (question.name, question.qtype);
        let question = own::Asked {
            section: question.section,
            qtype,
            ttl: NEGATIVE_TTL,
        };
        let deny = |code| own::denial(question, code, flag::AA, routes.zone_at(name));
        let (code, message) = match answer {
            OwnAnswer::Refused => {
                let error = why(ede::BLOCKED, zone);
                self.replies
                    .failure(asked, rcode::REFUSED, &error, Some(index), client, out);
                return Served::Replied;
            }
            OwnAnswer::Addresses(all) => match own::addresses(question, all) {
                Some(message) => (ede::FORGED_ANSWER, message),
                None => (ede::FORGED_ANSWER, deny(rcode::NOERROR)),
            },
            OwnAnswer::NxDomain if !routes.is_above_others(name) => {
                (ede::BLOCKED, deny(rcode::NXDOMAIN))
            }
            OwnAnswer::NxDomain | OwnAnswer::NoData => (ede::BLOCKED, deny(rcode::NOERROR)),
        };
        let response = Response::read(&message).expect("a message of our own is well-formed");
        self.replies
            .own(&response, &why(code, zone), index, asked, client, out);
        Served::Replied
    }
}

/// The key behind an answer, for whoever wonders about it.
fn why(code: u16, zone: &str) -> ExtendedError {
    ExtendedError::new(code, &format!("answered by the configuration of {zone}"))
}
