//! Aliases whose targets the answering server does not know. Each target is looked up by its own route, and the client gets
//! alias and target in one answer. RFC 1034 §4.3.2 requires that of recursive servers, and stub resolvers do not follow aliases
//! themselves.
//!
//! Owns which targets are looked up, and the limits: [`ALIAS_STEPS`], the question's deadline, no circles. A target is looked
//! up as if a client had asked for it: by its route's own answer, in the cache, or in a flight that clients may share. Its
//! answer is cached under its own name.
//!
//! Limits: only the end of a chain of aliases is looked up. The aliases that a server followed by itself are not checked. If no
//! route has the target's name, the server's answer is not changed.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::client::{Client, WaiterPlace};
use super::flights::{Course, Flight, Purpose, Wanted};
use super::metrics::StaleReason;
use super::waiting::{Content, Waiting};
use super::worker::Worker;
use crate::budgets::ALIAS_STEPS;
use crate::cache::{Bounds, Entry};
use crate::message::alias;
use crate::message::ede::{self, ExtendedError};
use crate::message::form::QueryForm;
use crate::message::labels::presentation;
use crate::message::query::{Question, key_about};
use crate::message::response::{Kind, Response};
use crate::message::wire::{rcode, rr};
use crate::runtime;
use crate::upstream::ask::{Answer, Failed};

/// Seconds for which an alias is cached if its servers left out the target, and fail when they are asked for the target itself.
/// If they refuse instead, as authoritative servers do, the alias is cached for its whole TTL, because asking again would not
/// help.
const LEFT_OUT: u32 = 5;

/// Text of the extended error for aliases that can never be resolved.
const CIRCLE: &str = "the aliases lead in a circle";

/// An answer, completed by the answers for targets of its aliases.
pub(super) struct CompletedAnswer {
    /// The whole answer.
    pub(super) answer: Answer,
    /// Seconds until the first of the added answers expires.
    seconds: u32,
    /// Whether all added answers may be cached.
    storable: bool,
    /// If one of the added answers is expired: why it was used.
    pub(super) stale: Option<StaleReason>,
}

impl From<Answer> for CompletedAnswer {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            seconds: u32::MAX,
            storable: true,
            stale: None,
        }
    }
}

/// Answers a question from the configuration, and looks up the targets of its aliases.
pub(super) async fn answer_locally(
    worker: &Rc<Worker>,
    key: &[u8],
    message: &[u8],
    client: Client,
) -> Content {
    let response = match local_response(worker, key, message).await {
        Ok(response) => response,
        Err(failure) => return failure,
    };
    if !response.aliases_alone() {
        return Content::Local(Entry::local(&response, client.received, u32::MAX));
    }
    let chain = Chain {
        worker,
        key,
        flight: None,
        client: Some(client),
        end: client.received,
    };
    let answer = Answer {
        response,
        tier: 0,
        server: None,
        asked: runtime::now(),
    };
    match Box::pin(chain.follow(answer, None)).await {
        Ok(found) => {
            let entry = Entry::local(&found.answer.response, runtime::now(), found.seconds);
            match found.stale {
                None => Content::Local(entry),
                Some(reason) => Content::Stale(entry, reason),
            }
        }
        Err(Failed { code, error }) => Content::Failure(code, Rc::new(error)),
    }
}

async fn local_response(worker: &Worker, key: &[u8], query: &[u8]) -> Result<Response, Content> {
    let message = match worker.reverse_alias(&Question::of(key)) {
        Some(message) => message,
        None => worker.setup.local.answer(query).await,
    };
    let response = Response::read(&message);
    response.map_err(|error| {
        let error = ExtendedError::new(ede::OTHER, &error.to_string());
        Content::Failure(rcode::SERVFAIL, Rc::new(error))
    })
}

/// The group whose servers gave an answer.
#[derive(Clone, Copy)]
pub(super) struct AnsweringGroup {
    /// The route by which the group was asked. It may have rewritten the name.
    pub(super) route: u16,
    pub(super) group: usize,
}

/// A question whose answer may need further questions.
pub(super) struct Chain<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) key: &'a [u8],
    /// The question's flight. None if it is answered from the configuration.
    pub(super) flight: Option<&'a Rc<Flight>>,
    /// The client, if the answer is for one client alone.
    pub(super) client: Option<Client>,
    /// The question's deadline. If the question is answered from the configuration: when it was received, and the target's
    /// route adds its deadline.
    pub(super) end: Instant,
}

impl Chain<'_> {
    /// Looks up the targets of the aliases in `first`, and appends their answers. `by` is the group that answered `first`; None
    /// if `first` is from the configuration.
    pub(super) async fn follow(
        &self,
        first: Answer,
        mut by: Option<AnsweringGroup>,
    ) -> Result<CompletedAnswer, Failed> {
        let mut found = CompletedAnswer::from(first);
        let mut steps = self.steps();
        while let Some(target) = self.target(&found.answer.response, by) {
            steps += 1;
            if steps > ALIAS_STEPS {
                let text = format!("more than {ALIAS_STEPS} aliases were followed");
                return Err(failed(&target, ede::OTHER, &text));
            }
            let key = key_about(self.key, &target);
            let is_local = self.worker.setup.answers(&Question::of(&key));
            let is_asked_again = !is_local && self.has_left_out(&target, by);
            let content = if is_local {
                self.locally(&key).await
            } else {
                self.by_its_route(&key, steps).await
            };
            let so_far = is_asked_again.then(|| found.answer.response.clone());
            let refused = matches!(content, Content::Failure(rcode::REFUSED, _));
            if let Err(failed) = found.append(&target, content) {
                if !refused && self.has_earlier_records() {
                    return Err(failed);
                }
                // The target is unknown, but the servers did answer the question: their answer without the target is served.
                found.answer.response = so_far.ok_or(failed)?;
                if !refused {
                    found.keep_for(LEFT_OUT);
                }
                break;
            }
            // The target's flight has followed any further aliases. A target of the configuration without such a record is no alias.
            if !is_local || found.answer.response.kind() == Kind::Negative {
                break;
            }
            by = None;
        }
        Ok(found)
    }

    /// Number of aliases that were followed on the way to this question.
    pub(super) fn steps(&self) -> u8 {
        match self.flight.map(|flight| flight.purpose()) {
            Some(Purpose::Alias(steps)) => steps,
            _ => 0,
        }
    }

    /// The name to look up next: the end of the aliases, unless the group that answered has settled it. None if there is
    /// nothing to look up.
    pub(super) fn target(
        &self,
        response: &Response,
        by: Option<AnsweringGroup>,
    ) -> Option<Vec<u8>> {
        let (setup, question) = (&self.worker.setup, Question::of(self.key));
        // Questions of these types are about the alias itself, and the target has no part in the answer. Questions with DO are
        // left alone as well, because validation is between the client and the server.
        let apart = matches!(question.qtype, rr::RRSIG | rr::DS | rr::DNSKEY | rr::DNAME);
        if !setup.config.complete_cnames
            || question.dnssec_ok
            || !question.cacheable()
            || apart
            || !response.aliases_alone()
            || response.truncated()
        {
            return None;
        }
        let target = alias::end(response.view())?;
        if setup.answers(&Question::of(&key_about(self.key, &target))) {
            return Some(target);
        }
        let index = setup.routes.find(&target, question.qtype)?;
        let route = setup.routes.get(index);
        if route.own_answer(question.qtype).is_some() {
            return Some(target);
        }
        // The target would be looked up at the group that has answered already, under the same name, and that group said that
        // the target has no such record.
        let settled = by.is_some_and(|by| {
            route.tiers.first() == Some(&by.group)
                && (by.route == index || !route.rewrites(&target))
                && response.kind() == Kind::Negative
        });
        (!settled).then_some(target)
    }

    /// Whether the group that gave an alias without its target is the only one that can be asked for the target.
    fn has_left_out(&self, target: &[u8], by: Option<AnsweringGroup>) -> bool {
        let (setup, question) = (&self.worker.setup, Question::of(self.key));
        let route = setup.routes.find(target, question.qtype);
        let tiers = route.map(|index| &setup.routes.get(index).tiers);
        by.is_some_and(|by| tiers.is_some_and(|tiers| tiers[..] == [by.group]))
    }

    /// Whether there is an earlier answer to the question that is more than an alias. It is served if the target fails.
    fn has_earlier_records(&self) -> bool {
        let earlier = self.flight.and_then(|flight| flight.stale());
        earlier.is_some_and(|entry| alias::has_records_asked_for(entry.response()))
    }

    async fn locally(&self, key: &[u8]) -> Content {
        let mut query = Vec::new();
        Question::of(key).write(0, QueryForm::WithoutOpt, &mut query);
        match local_response(self.worker, key, &query).await {
            Ok(response) => Content::Local(Entry::local(&response, runtime::now(), u32::MAX)),
            Err(failure) => failure,
        }
    }

    /// What a client would get for a further question whose name has a route. One thing differs: if this question's flight was
    /// not started by a client, a cached answer that is about to expire is not used, because an answer made from it would
    /// expire as soon.
    pub(super) async fn by_its_route(&self, key: &[u8], steps: u8) -> Content {
        let (worker, now) = (self.worker, runtime::now());
        let (setup, question) = (&worker.setup, Question::of(key));
        let route = setup.routes.find(question.name, question.qtype);
        let route = route.expect("a target has a route, or is answered from the configuration");
        if let Some(content) = worker.own_content(route, key) {
            return content;
        }
        let no_client_asked = self
            .flight
            .is_some_and(|flight| flight.purpose() != Purpose::Client);
        let stored = worker.shared.cache.get(key);
        if let Some(entry) = &stored
            && let Some(age) = entry.age_if_fresh(now)
            && !(no_client_asked && entry.about_to_expire(age, &setup.config.cache))
        {
            worker.prefetch_if_due(key, entry, age, now);
            return Content::Answer(entry.clone(), WaiterPlace::default());
        }
        let wanted = Wanted {
            key,
            route,
            known_since: worker.known_since(key, route, stored.as_ref()),
            stale: stored.filter(|entry| worker.may_serve_stale(key, route, entry, now)),
            client: self.client,
            purpose: Purpose::Alias(steps),
            now,
        };
        let flight = match worker.pursue(wanted) {
            Course::Reply(content) => return content,
            Course::Wait(flight) => flight,
        };
        let end = match self.flight {
            Some(_) => self.end,
            None => self.end + worker.first_group(route).budget(),
        };
        self.wait_for(flight, end).await
    }

    /// Whether a client waits for the answer that cannot use a truncated one.
    fn wants_whole(&self) -> bool {
        match self.flight {
            Some(own) => own.wants_whole().get(),
            None => self.client.is_some_and(Client::wants_whole),
        }
    }

    /// Waits for the result of a flight until `end`.
    pub(super) async fn wait_for(&self, flight: Rc<Flight>, end: Instant) -> Content {
        let failure =
            |code, text| Content::Failure(rcode::SERVFAIL, Rc::new(ExtendedError::new(code, text)));
        if let Some(own) = self.flight {
            if flight.depends_on(own) {
                return failure(ede::OTHER, CIRCLE);
            }
            own.set_waits_for(Some(Rc::clone(&flight)));
        }
        if self.wants_whole() {
            flight.wants_whole().set(true);
        }
        let (sender, receiver) = oneshot::channel();
        flight.join(Waiting::Alias(sender));
        let outcome = self.worker.turns.timeout_at(end, receiver).await;
        if let Some(own) = self.flight {
            own.set_waits_for(None);
        }
        match outcome {
            Ok(Ok(content)) => content,
            Ok(Err(_)) => failure(ede::OTHER, "the query was given up"),
            Err(_) => failure(ede::NO_REACHABLE_AUTHORITY, "no answer in time"),
        }
    }
}

impl CompletedAnswer {
    /// `route`'s bounds, lowered so that no part of the answer is kept for longer than it would be by itself.
    pub(super) fn bounds(&self, route: Bounds) -> Bounds {
        let bounds = route.at_most(self.seconds);
        Bounds {
            max_lifetime: if self.storable {
                bounds.max_lifetime
            } else {
                0
            },
            ..bounds
        }
    }

    /// Takes the answer to a further question into account, and returns it. The caller adds its records.
    pub(super) fn take(&mut self, content: Content) -> Result<Entry, Rc<ExtendedError>> {
        match content {
            Content::Answer(entry, _) | Content::Local(entry) => {
                // An answer that may not be cached is never fresh. Its TTLs for clients count.
                let seconds = if entry.storable() {
                    entry.seconds_left(runtime::now())
                } else {
                    entry.ttl_cap()
                };
                self.keep_for(seconds);
                self.storable &= entry.storable();
                Ok(entry)
            }
            Content::Stale(entry, reason) => {
                self.stale.get_or_insert(reason);
                Ok(entry)
            }
            Content::Failure(_, error) => Err(error),
        }
    }

    /// Limits the time for which the answer is fresh to this many seconds.
    pub(super) fn keep_for(&mut self, seconds: u32) {
        self.seconds = self.seconds.min(seconds);
    }

    /// Appends the answer for `target` to the aliases that lead there.
    fn append(&mut self, target: &[u8], content: Content) -> Result<(), Failed> {
        let entry = self.take(content).map_err(|error| {
            let mut failed = failed(target, error.code, &error.text);
            failed.error.servers = error.servers.clone();
            failed
        })?;
        let rest = entry.response();
        if !matches!(rest.kind(), Kind::Positive | Kind::Negative) {
            let text = "no server resolves it (referral)";
            return Err(failed(target, ede::NO_REACHABLE_AUTHORITY, text));
        }
        let answer = &mut self.answer;
        answer.response = alias::joined(answer.response.view(), rest)
            .map_err(|_| failed(target, ede::OTHER, "the answer does not fit a message"))?;
        if answer.response.aliases_alone() && alias::end(answer.response.view()).is_none() {
            return Err(failed(target, ede::OTHER, CIRCLE));
        }
        answer.tier = answer.tier.max(usize::from(entry.tier()));
        Ok(())
    }
}

/// The failure for an alias whose target cannot be looked up. The alias alone would be understood as "no such record".
fn failed(target: &[u8], code: u16, text: &str) -> Failed {
    let text = format!("alias {}: {text}", presentation(target));
    Failed {
        code: rcode::SERVFAIL,
        error: ExtendedError::new(code, &text),
    }
}
