//! Answers that routes give by themselves (`answer`, `filter`), to clients and for targets of aliases. No server is asked. Such
//! an answer is cached only as part of an alias's answer.
//!
//! For a zone with `answer` we are authoritative, so AA is set. Negative answers have a SOA, so that clients cache them (RFC
//! 2308 §5). All have an extended error that names the zone whose configuration made them.

use std::rc::Rc;

use super::client::{Client, Served};
use super::local::authority::NEGATIVE_TTL;
use super::waiting::Content;
use super::worker::Worker;
use crate::cache::Entry;
use crate::config::OwnAnswer;
use crate::message::ede::{self, ExtendedError, PassedOn};
use crate::message::own;
use crate::message::query::Question;
use crate::message::reply::Asked;
use crate::message::response::Response;
use crate::message::wire::{flag, rcode};
use crate::runtime;
use crate::upstream::routes::Route;

impl Worker {
    /// Appends the reply to a question that route `index` answers by itself.
    pub(super) fn answer_by_route(
        &self,
        answer: &OwnAnswer,
        index: u16,
        question: &Question<'_>,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        match self.own_response(answer, index, question) {
            Ok((response, error)) => {
                self.replies
                    .own(&response, &error, index, asked, client, out);
            }
            Err(error) => {
                self.replies
                    .failure(asked, rcode::REFUSED, &error, Some(index), client, out);
            }
        }
        Served::Replied
    }

    /// The answer that route `index` gives by itself to the question of a key, for a flight that follows an alias. None if the
    /// route has servers asked.
    pub(super) fn own_content(&self, index: u16, key: &[u8]) -> Option<Content> {
        let question = Question::of(key);
        let answer = self.setup.routes.get(index).own_answer(question.qtype)?;
        Some(match self.own_response(answer, index, &question) {
            Ok((response, error)) => {
                let response = response.with_errors(&PassedOn::from(&error));
                Content::Local(Entry::local(&response, runtime::now(), u32::MAX))
            }
            Err(error) => Content::Failure(rcode::REFUSED, Rc::new(error)),
        })
    }

    /// The answer that route `index` gives by itself, and its reason; the reason alone as the error if the route refuses.
    fn own_response(
        &self,
        answer: &OwnAnswer,
        index: u16,
        question: &Question<'_>,
    ) -> Result<(Response, ExtendedError), ExtendedError> {
        let routes = &self.setup.routes;
        let route = routes.get(index);
        let (name, qtype) = (question.name, question.qtype);
        let question = own::Asked {
            section: question.section,
            qtype,
            ttl: NEGATIVE_TTL,
        };
        // In a filtered zone we can only say that the name has no record of this type. So the SOA's owner is the name itself,
        // and the answer says nothing about other names.
        let (flags, zone_at) = match route.answer {
            Some(_) => (flag::AA, routes.zone_at(name)),
            None => (0, 0),
        };
        let deny = |code| own::denial(question, code, flags, zone_at);
        let (code, message) = match answer {
            OwnAnswer::Refused => return Err(why(ede::BLOCKED, route)),
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
        Ok((response, why(code, route)))
    }
}

/// An extended error that names the zone whose configuration gives the answer.
fn why(code: u16, route: &Route) -> ExtendedError {
    let done = match route.answer {
        Some(_) => "answered",
        None => "filtered",
    };
    let text = format!("{done} by the configuration of {}", route.zone);
    ExtendedError::new(code, &text)
}
