//! What a flight does: it asks its route's servers, and then further questions if their answer is incomplete.
//!
//! Owns the order of the steps, and the deadline for all of them. [`super::denials`] checks denials of one family of addresses,
//! [`super::aliases`] looks up targets of aliases, and [`super::dns64`] makes addresses for names without IPv6.

use std::rc::Rc;
use std::time::Instant;

use super::aliases::{AnsweringGroup, Chain, CompletedAnswer};
use super::denials;
use super::dns64::{self, Completion};
use super::flights::Flight;
use super::worker::Worker;
use crate::message::query::Question;
use crate::message::regular::regular;
use crate::transport::SharedQuestion;
use crate::upstream::ask::{Answer, Failed, ask};

/// Asks the servers of route `index` the question of a flight, and completes their answer.
///
/// # Errors
/// [`Failed`], if no server gave an answer, or the answer cannot be completed.
pub(super) async fn resolve(
    worker: &Rc<Worker>,
    index: u16,
    flight: &Rc<Flight>,
    key: &Rc<[u8]>,
    now: Instant,
) -> Result<CompletedAnswer, Failed> {
    let end = now + worker.first_group(index).budget();
    let route = worker.setup.routes.get(index);
    let mut answer = ask_servers(worker, index, (key, flight), now).await;
    let chain = Chain {
        worker,
        key,
        flight: Some(flight),
        client: None,
        end,
    };
    // The futures of these steps are boxed, because the steps are rare, and each flight's future would have room for them.
    if let Ok(answer) = &mut answer
        && let Some(beside) = denials::key_beside_denial(key, &answer.response)
    {
        Box::pin(chain.check_denial(answer, index, &beside)).await;
    }
    if let Some(rule) = dns64::rule(route, &Question::of(key)) {
        let completion = Completion {
            rule,
            route: index,
            chain,
        };
        return Box::pin(completion.complete(answer)).await;
    }
    let answer = answer?;
    if !answer.response.aliases_alone() {
        return Ok(answer.into());
    }
    let by = AnsweringGroup {
        route: index,
        group: route.tiers[answer.tier],
    };
    Box::pin(chain.follow(answer, Some(by))).await
}

/// Asks a route's servers, under another name if the route rewrites names.
async fn ask_servers(
    worker: &Worker,
    index: u16,
    (key, flight): (&Rc<[u8]>, &Flight),
    now: Instant,
) -> Result<Answer, Failed> {
    let setup = &worker.setup;
    let route = setup.routes.get(index);
    let asked = match &route.rewrite {
        None => Rc::clone(key),
        Some(rewrite) => rewrite.outward(key)?,
    };
    let question = Rc::new(SharedQuestion::new(&asked, &worker.shared.hasher));
    let mut answer = ask(
        &worker.links,
        &setup.upstreams,
        &route.tiers,
        (&question, flight.wants_whole()),
        now,
    )
    .await?;
    if let Some(rewrite) = &route.rewrite {
        answer = rewrite.back(answer, key)?;
    }
    let question = Question::of(key);
    let response = &answer.response;
    if (response.is_irregular() || (response.has_dnssec() && !question.dnssec_ok))
        && let Some(regular) = regular(answer.response.view(), &question)
    {
        answer.response = regular;
    }
    // Done here, before records of another route are added, because that route has bounds of its own.
    answer.response.raise_ttls(route.bounds.min_ttl);
    Ok(answer)
}
