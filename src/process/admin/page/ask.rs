//! One name asked of each server of its route, for the button on the page.
//!
//! Only for requests of our own page from this machine (see `access`), and limited in rate: each press sends a query to
//! each server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::budgets::{PAGE_QUESTION_INTERVAL, PAGE_QUESTION_TIME, PAGE_QUESTIONS};
use crate::message::labels::rcode_label;
use crate::message::query::wire_name;
use crate::message::wire::rr;
use crate::metrics::Label;
use crate::process::admin::access::{RequestOrigin, refusal};
use crate::process::admin::cache::AskedName;
use crate::process::admin::status::Instance;
use crate::serving::setup::Setup;
use crate::upstream::ask_each::{ServerAnswer, ask_each};
use crate::upstream::health::State as ServerState;
use crate::upstream::routes::Route;

/// Records that are shown of one answer.
const RECORDS_SHOWN: usize = 20;

/// How many more questions may be asked now.
#[derive(Debug)]
pub(super) struct Questions(Mutex<(u32, Instant)>);

impl Questions {
    pub(super) fn new() -> Self {
        Self(Mutex::new((PAGE_QUESTIONS, Instant::now())))
    }

    /// Takes one; false if there is none.
    fn take(&self, now: Instant) -> bool {
        // A panic leaves both numbers consistent.
        let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = &mut *questions;
        while *left < PAGE_QUESTIONS
            && now.saturating_duration_since(*since) >= PAGE_QUESTION_INTERVAL
        {
            *left += 1;
            *since += PAGE_QUESTION_INTERVAL;
        }
        if *left == PAGE_QUESTIONS {
            *since = now;
        }
        let any = *left > 0;
        *left -= u32::from(any);
        any
    }
}

/// What the page sends.
#[derive(Deserialize)]
pub(super) struct PageQuestion {
    name: AskedName,
    #[serde(rename = "type")]
    qtype: String,
}

/// What came of it.
#[derive(Serialize)]
struct Answers {
    name: String,
    #[serde(rename = "type")]
    qtype: String,
    /// The zone of the route.
    route: Option<String>,
    /// The name that servers were asked for, if it is another one.
    asked_as: Option<String>,
    /// Why nobody is asked.
    answered_here: Option<String>,
    servers: Vec<Line>,
}

/// What one server said.
#[derive(Serialize)]
struct Line {
    group: String,
    server: String,
    state: ServerState,
    transport: &'static str,
    milliseconds: f64,
    /// None if there was no answer.
    rcode: Option<&'static str>,
    /// As in a zone file, without class.
    records: Vec<String>,
    /// Why there was none.
    failure: Option<String>,
}

impl Line {
    fn new(answer: &ServerAnswer) -> Self {
        let (rcode, records, failure) = match &answer.response {
            Ok(message) => {
                let code = u16::from(message.metadata.response_code);
                (Some(rcode_label(code)), records(message), None)
            }
            Err(failure) => (None, Vec::new(), Some(failure.clone())),
        };
        Self {
            group: answer.server.group.to_string(),
            server: answer.server.label.clone(),
            state: answer.state,
            transport: answer.carrier.label(),
            milliseconds: answer.duration.as_secs_f64() * 1e3,
            rcode,
            records,
            failure,
        }
    }
}

fn records(message: &Message) -> Vec<String> {
    let all = message.answers.iter();
    let mut shown: Vec<_> = all
        .take(RECORDS_SHOWN)
        .map(|record| {
            let (name, ttl, kind) = (record.name.to_ascii(), record.ttl, record.record_type());
            format!("{name} {ttl} {kind} {}", record.data)
        })
        .collect();
    let left = message.answers.len().saturating_sub(RECORDS_SHOWN);
    if left > 0 {
        shown.push(format!("and {left} more"));
    }
    shown
}

/// POST /ask.
pub(super) async fn ask(
    State((instance, questions)): State<(Arc<Instance>, Arc<Questions>)>,
    Extension(peer): Extension<RequestOrigin>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = refusal(peer, &headers) {
        return (StatusCode::FORBIDDEN, refusal).into_response();
    }
    // A form of a foreign page cannot send this type without a preflight request.
    let json = headers.get(header::CONTENT_TYPE);
    if json.is_none_or(|kind| kind != "application/json") {
        return (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json\n",
        )
            .into_response();
    }
    let question: PageQuestion = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let Ok(qtype) = question.qtype.to_ascii_uppercase().parse::<RecordType>() else {
        return (StatusCode::BAD_REQUEST, "no such type\n").into_response();
    };
    if !questions.take(Instant::now()) {
        let text = "too many questions; try again in a second\n";
        return (
            StatusCode::TOO_MANY_REQUESTS,
            [(header::RETRY_AFTER, "1")],
            text,
        )
            .into_response();
    }
    let setup = instance.shared.current.load_full();
    let answers = answers(&setup, question.name.into_name(), qtype).await;
    match serde_json::to_vec(&answers) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn answers(setup: &Setup, name: Name, qtype: RecordType) -> Answers {
    let wire = wire_name(&name.to_lowercase());
    let mut answers = Answers {
        name: name.to_ascii(),
        qtype: qtype.to_string(),
        route: None,
        asked_as: None,
        answered_here: None,
        servers: Vec::new(),
    };
    if setup.local.owns(&wire, rr::IN) {
        answers.answered_here = Some("the configuration has this name".to_owned());
        return answers;
    }
    let Some(index) = setup.routes.find(&wire, qtype.into()) else {
        answers.answered_here = Some("no route holds this name: REFUSED".to_owned());
        return answers;
    };
    let route = setup.routes.get(index);
    answers.route = Some(route.zone.clone());
    if let Some(own) = route.own_answer(qtype.into()) {
        answers.answered_here = Some(format!("the route answers by itself: {own}"));
        return answers;
    }
    let asked = asked_as(route, &name);
    answers.asked_as = asked.as_ref().map(Name::to_ascii);
    let question = Query::query(asked.unwrap_or(name), qtype);
    let all = ask_each(
        &setup.upstreams,
        &route.tiers,
        &question,
        PAGE_QUESTION_TIME,
    )
    .await;
    answers.servers = all.iter().map(Line::new).collect();
    answers
}

fn asked_as(route: &Route, name: &Name) -> Option<Name> {
    route.rewrite.as_ref()?.outward_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn questions_are_left_again_one_after_the_other() {
        let (questions, start) = (Questions::new(), Instant::now());
        let asked = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            (0..10).filter(|_| questions.take(now)).count()
        };
        assert_eq!(
            [asked(0), asked(0), asked(1), asked(3), asked(60)],
            [5, 0, 1, 2, 5]
        );
    }
}
