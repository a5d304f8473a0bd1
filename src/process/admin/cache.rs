//! The requests of `nodens cache` to the running instance: list entries, get the records of a name, flush.
//!
//! Served only on the Unix socket, which only our own user can open: any pod in the node's network reaches a TCP
//! address on loopback, and a flush while servers are down removes the answers that clients depend on. Requests and
//! answers are JSON. Entries are read on a blocking thread, because the runtime has other connections to serve.

use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hickory_proto::rr::Name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::status::Instance;
use crate::budgets::CACHE_ENTRIES_LISTED;
use crate::cache::Entry;
use crate::message::labels::{presentation, rcode_label, type_text};
use crate::message::query::wire_name;
use crate::message::wire::Counts;
use crate::serving::worker::Shared;

/// A name in presentation format; relative ones are below the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AskedName(Name);

impl TryFrom<String> for AskedName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for AskedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name is not empty; the root is \".\"".to_owned());
        }
        let name = Name::from_str_relaxed(text).map_err(|error| error.to_string())?;
        Ok(Self(name))
    }
}

impl From<AskedName> for String {
    fn from(name: AskedName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for AskedName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = self.0.clone();
        name.set_fqdn(true);
        out.write_str(&name.to_ascii())
    }
}

impl AskedName {
    fn wire(&self) -> Vec<u8> {
        wire_name(&self.0)
    }

    /// The name, with its final dot.
    pub(super) fn into_name(self) -> Name {
        let mut name = self.0;
        name.set_fqdn(true);
        name
    }
}

/// Which entries are to be listed, for POST /cache/list.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListRequest {
    /// Those at and below this name; all without it.
    pub zone: Option<AskedName>,
    /// At most this many, the first in the order of their names.
    pub limit: usize,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryList {
    /// How many entries there are, be they listed or not.
    pub matching: usize,
    /// What they weigh.
    pub bytes: u64,
    /// The listed ones.
    pub entries: Vec<EntryLine>,
}

/// A listed entry.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryLine {
    /// QNAME.
    pub name: String,
    /// QTYPE.
    #[serde(rename = "type")]
    pub qtype: String,
    /// It is for queries with DO.
    pub dnssec_ok: bool,
    /// It is for queries with CD.
    pub checking_disabled: bool,
    /// Seconds for which it is fresh; 0 if it is stale.
    pub ttl_seconds: u32,
    /// Seconds for which it has been stale.
    pub stale_seconds: u64,
    /// Its weight in `cache.max_size`.
    pub bytes: u64,
    /// Its response code.
    pub rcode: String,
    /// Records in its answer section.
    pub answers: u16,
    /// Zone of the route by which it came.
    pub route: Option<String>,
}

/// Which answers are to be shown, for POST /cache/get.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetRequest {
    /// QNAME.
    pub name: AskedName,
    /// QTYPE; any without it.
    pub qtype: Option<u16>,
}

/// An entry and its message.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryMessage {
    /// The entry.
    pub entry: EntryLine,
    /// The message in wire format, with the TTLs of now.
    pub message: Vec<u8>,
}

/// The answers to be forgotten, for POST /cache/flush.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlushRequest {
    /// Everything.
    All,
    /// One name, all types.
    Name(AskedName),
    /// A name and all below it.
    Zone(AskedName),
}

/// The routes of the Unix socket.
pub(super) fn router(instance: &Arc<Instance>) -> Router {
    Router::new()
        .route("/cache/list", post(list))
        .route("/cache/get", post(get))
        .route("/cache/flush", post(flush))
        .with_state(Arc::clone(instance))
}

async fn list(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    answer(instance, &body, |shared, request: ListRequest| {
        let zone = request.zone.as_ref().map(AskedName::wire);
        let concerned = |entry: &Entry| match &zone {
            Some(zone) => is_within(entry.name(), zone),
            None => true,
        };
        let limit = request.limit.min(CACHE_ENTRIES_LISTED);
        let (mut matching, mut bytes) = (0, 0);
        let mut first = BinaryHeap::new();
        let now = Instant::now();
        for entry in shared.cache.iter().filter(concerned) {
            matching += 1;
            bytes += entry.weight();
            let line = line(shared, &entry, now);
            if first.len() < limit {
                first.push(line);
            } else if let Some(mut last) = first.peek_mut()
                && line < *last
            {
                *last = line;
            }
        }
        EntryList {
            matching,
            bytes,
            entries: first.into_sorted_vec(),
        }
    })
    .await
}

async fn get(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    answer(instance, &body, |shared, request: GetRequest| {
        let name = request.name.wire();
        let now = Instant::now();
        let entries = shared.cache.iter().filter(|entry| {
            entry.name() == name && request.qtype.is_none_or(|qtype| entry.qtype() == qtype)
        });
        let mut found: Vec<_> = entries
            .map(|entry| EntryMessage {
                entry: line(shared, &entry, now),
                message: entry.aged_message(now),
            })
            .collect();
        found.sort_by(|a, b| a.entry.cmp(&b.entry));
        found
    })
    .await
}

async fn flush(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    answer(instance, &body, |shared, request: FlushRequest| {
        let cache = &shared.cache;
        let flushed = match &request {
            FlushRequest::All => cache.flush(|_| true),
            FlushRequest::Name(name) => {
                let name = name.wire();
                cache.flush(|other| other == name)
            }
            FlushRequest::Zone(zone) => {
                let zone = zone.wire();
                cache.flush(|name| is_within(name, &zone))
            }
        };
        tracing::info!(
            what = match request {
                FlushRequest::All => "everything".to_owned(),
                FlushRequest::Name(name) => presentation(&name.wire()),
                FlushRequest::Zone(zone) => format!("zone {}", presentation(&zone.wire())),
            },
            answers = flushed.answers,
            failures = flushed.failures,
            "the cache was flushed on request"
        );
        flushed
    })
    .await
}

/// Reads the request, handles it on a blocking thread, and replies with the result.
async fn answer<Request, Reply>(
    instance: Arc<Instance>,
    body: &[u8],
    act: impl FnOnce(&Shared, Request) -> Reply + Send + 'static,
) -> Response
where
    Request: DeserializeOwned + Send + 'static,
    Reply: Serialize + Send + 'static,
{
    let request = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let act = move || serde_json::to_vec(&act(&instance.shared, request));
    match tokio::task::spawn_blocking(act).await {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(error)) => internal_error(error.to_string()),
        Err(error) => internal_error(error.to_string()),
    }
}

fn internal_error(text: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

fn line(shared: &Shared, entry: &Entry, now: Instant) -> EntryLine {
    let question = entry.question();
    let counts = Counts::read(entry.response().message()).unwrap_or_default();
    let setup = shared.current.load();
    let route = entry
        .route()
        .and_then(|index| setup.routes.existing(index))
        .map(|route| route.zone.clone());
    EntryLine {
        name: presentation(question.name),
        qtype: type_text(question.qtype),
        dnssec_ok: question.dnssec_ok,
        checking_disabled: question.checking_disabled,
        ttl_seconds: entry.seconds_left(now),
        stale_seconds: entry.expired_for(now).as_secs(),
        bytes: entry.weight(),
        rcode: rcode_label(entry.response().rcode()).to_owned(),
        answers: counts.answers,
        route,
    }
}

/// Whether a wire name is another one or below it.
fn is_within(name: &[u8], zone: &[u8]) -> bool {
    let mut suffix = name;
    while suffix.len() > zone.len() {
        let label = usize::from(suffix[0]) + 1;
        let Some(parent) = suffix.get(label..) else {
            return false;
        };
        suffix = parent;
    }
    suffix == zone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_ends_at_its_label() {
        let wire = |text| wire_name(&Name::from_ascii(text).expect("a name"));
        for (name, zone, want) in [
            ("a.corp.", "corp.", true),
            ("corp.", "corp.", true),
            ("A.b.Corp.", "corp.", true),
            ("corp.", ".", true),
            (".", ".", true),
            ("notcorp.", "corp.", false),
            ("com.", "corp.", false),
            (".", "corp.", false),
        ] {
            assert_eq!(is_within(&wire(name), &wire(zone)), want, "{name} {zone}");
        }
    }
}
