//! Aliases that lead out of what a server knows: their targets are looked up, each by its own route, and the client gets
//! alias and target in one answer (RFC 1034 §4.3.2 asks that of whoever recurses; stub resolvers do not follow).
//!
//! Owns which targets are looked up, and the limits: [`ALIAS_STEPS`], the question's own deadline, no circles. A target is
//! looked up as if a client had asked for it: from its route's own answer, from the cache, in a flight that others share,
//! kept under its own name.
//!
//! Limits: only the end of a chain is looked up. Aliases that a server followed itself stay as it followed them. A target
//! that no route holds stays with what the server said.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::client::{Client, Turn};
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

/// Seconds for which an alias is kept whose target its servers have left out, and fail to resolve when they are asked for it. What
/// they refuse, as authoritative servers do, they will go on to refuse.
const LEFT_OUT: u32 = 5;

/// What is wrong with aliases that no answer can come of.
const CIRCLE: &str = "the aliases lead in a circle";

/// An answer, and what the targets of its aliases make of it.
pub(super) struct Found {
    /// The whole answer.
    pub(super) answer: Answer,
    /// Seconds for which each part that was cached is fresh.
    seconds: u32,
    /// Whether each part may be kept.
    storable: bool,
    /// Why a part of it is an expired answer, if one is.
    pub(super) stale: Option<StaleReason>,
}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            seconds: u32::MAX,
            storable: true,
            stale: None,
        }
    }
}

/// Answers a question from the configuration, and looks up where its aliases lead.
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

/// Whose servers gave an answer.
#[derive(Clone, Copy)]
pub(super) struct Informant {
    /// By way of this route, which may have asked in other words.
    pub(super) route: u16,
    pub(super) group: usize,
}

/// A question whose answer takes further questions: where an alias leads.
pub(super) struct Chain<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) key: &'a [u8],
    /// Its flight; none if it is answered from the configuration.
    pub(super) flight: Option<&'a Rc<Flight>>,
    /// The client, if it alone waits.
    pub(super) client: Option<Client>,
    /// When the question's time is over. Of one answered from the configuration, when it came: its target's route says how
    /// long it may take.
    pub(super) end: Instant,
}

impl Chain<'_> {
    /// Puts behind the aliases of `first` what is known of the names they lead to. `by` gave `first`; nobody, if it is
    /// from the configuration.
    pub(super) async fn follow(
        &self,
        first: Answer,
        mut by: Option<Informant>,
    ) -> Result<Found, Failed> {
        let mut found = Found::from(first);
        let mut steps = self.steps();
        while let Some(target) = self.target(&found.answer.response, by) {
            steps += 1;
            if steps > ALIAS_STEPS {
                let text = format!("more than {ALIAS_STEPS} aliases were followed");
                return Err(failed(&target, ede::OTHER, &text));
            }
            let key = key_about(self.key, &target);
            let is_asked_again = self.has_left_out(&target, by);
            let is_local = self.worker.setup.answers(&Question::of(&key));
            let content = if is_local {
                self.locally(&key).await
            } else {
                self.by_its_route(&key, steps).await
            };
            let so_far = is_asked_again.then(|| found.answer.response.clone());
            let refused = matches!(content, Content::Failure(rcode::REFUSED, _));
            if let Err(failed) = found.append(&target, content) {
                // They were asked for the name, and did answer that.
                found.answer.response = so_far.ok_or(failed)?;
                if !refused {
                    found.keep_for(LEFT_OUT);
                }
                break;
            }
            if !is_local {
                // Its own flight has followed it further.
                break;
            }
            by = None;
        }
        Ok(found)
    }

    /// How many aliases were followed on the way to this question.
    pub(super) fn steps(&self) -> u8 {
        match self.flight.map(|flight| flight.purpose()) {
            Some(Purpose::Alias(steps)) => steps,
            _ => 0,
        }
    }

    /// The name to look up next: the aliases end there, and whoever answered does not know it, or is not the one to ask.
    pub(super) fn target(&self, response: &Response, by: Option<Informant>) -> Option<Vec<u8>> {
        let (setup, question) = (&self.worker.setup, Question::of(self.key));
        // DNSSEC is between the client and the server. Of an alias itself, these types say what was asked for.
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
        // Servers of the group that would be asked first, and for this very name, say that there is nothing.
        let settled = by.is_some_and(|by| {
            route.tiers.first() == Some(&by.group)
                && (by.route == index || !route.rewrites(&target))
                && response.kind() == Kind::Negative
        });
        (!settled).then_some(target)
    }

    /// Whether the servers that gave an alias without its target are all that can be asked for that.
    fn has_left_out(&self, target: &[u8], by: Option<Informant>) -> bool {
        let (setup, question) = (&self.worker.setup, Question::of(self.key));
        let route = setup.routes.find(target, question.qtype);
        let tiers = route.map(|index| &setup.routes.get(index).tiers);
        by.is_some_and(|by| tiers.is_some_and(|tiers| tiers[..] == [by.group]))
    }

    async fn locally(&self, key: &[u8]) -> Content {
        let mut query = Vec::new();
        Question::of(key).write(0, QueryForm::WithoutOpt, &mut query);
        match local_response(self.worker, key, &query).await {
            Ok(response) => Content::Local(Entry::local(&response, runtime::now(), u32::MAX)),
            Err(failure) => failure,
        }
    }

    /// What a client would get for a further question, whose name has a route; but for what is about to expire when nobody
    /// waits: what is made of it would be gone as soon.
    pub(super) async fn by_its_route(&self, key: &[u8], steps: u8) -> Content {
        let (worker, now) = (self.worker, runtime::now());
        let (setup, question) = (&worker.setup, Question::of(key));
        let route = setup.routes.find(question.name, question.qtype);
        let route = route.expect("a target has a route, or is answered from the configuration");
        if let Some(content) = worker.own_content(route, key) {
            return content;
        }
        let is_prefetch = self
            .flight
            .is_some_and(|flight| flight.purpose() != Purpose::Client);
        let stored = worker.shared.cache.get(key);
        if let Some(entry) = &stored
            && let Some(age) = entry.age_if_fresh(now)
            && !(is_prefetch && entry.about_to_expire(age, &setup.config.cache))
        {
            worker.prefetch_if_due(key, entry, age, now);
            return Content::Answer(entry.clone(), Turn::default());
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

    async fn wait_for(&self, flight: Rc<Flight>, end: Instant) -> Content {
        let failure =
            |code, text| Content::Failure(rcode::SERVFAIL, Rc::new(ExtendedError::new(code, text)));
        if let Some(own) = self.flight {
            if flight.depends_on(own) {
                return failure(ede::OTHER, CIRCLE);
            }
            own.set_waits_for(Some(Rc::clone(&flight)));
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

impl Found {
    /// What `route`'s bounds leave of it: no part is kept for longer than it would be by itself.
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

    /// Makes what is known of a further question a part of it, whose bytes are still to be put in place.
    pub(super) fn take(&mut self, content: Content) -> Result<Entry, Rc<ExtendedError>> {
        match content {
            Content::Answer(entry, _) | Content::Local(entry) => {
                // What is not kept has the TTLs that the client is to be told.
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

    /// It is fresh for so many seconds at most.
    pub(super) fn keep_for(&mut self, seconds: u32) {
        self.seconds = self.seconds.min(seconds);
    }

    /// Puts what is known of `target` behind the aliases that lead there.
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

/// The failure that an alias is whose target is not known: by itself, it would be taken for the answer that there is no such
/// record.
fn failed(target: &[u8], code: u16, text: &str) -> Failed {
    let text = format!("alias {}: {text}", presentation(target));
    Failed {
        code: rcode::SERVFAIL,
        error: ExtendedError::new(code, &text),
    }
}
