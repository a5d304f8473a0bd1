//! The query log: one line for each reply, with the target `nodens::query`.
//!
//! Owns the fields of a line. Names, data of records and texts of errors come from the network. They are converted to ASCII
//! without control characters here, and the log's formatter quotes them and escapes quotes, so that nobody can forge a line or
//! a field.
//!
//! Limits: [`QUERY_LOG_RECORDS`], [`QUERY_LOG_RECORD_BYTES`], [`QUERY_LOG_ERROR_BYTES`].

use std::borrow::Cow;

use hickory_proto::op::Message;

use super::client::Client;
use super::coredns::ReplySource;
use crate::budgets::{QUERY_LOG_ERROR_BYTES, QUERY_LOG_RECORD_BYTES, QUERY_LOG_RECORDS};
use crate::cache::Entry;
use crate::message::ede::{ExtendedError, extended_errors};
use crate::message::labels::{RCODES, presentation};
use crate::message::record_text::{data_text, type_text};
use crate::message::wire::{self, Counts, flag};
use crate::metrics::Label;
use crate::runtime;

/// What the log tells of a reply, apart from its bytes.
#[derive(Clone, Copy)]
pub(super) struct ReplyInfo<'a> {
    pub(super) code: u16,
    /// Index of the route that answered or failed, for metrics.
    pub(super) route: Option<u16>,
    /// What the reply was made from. None if the query could not be parsed.
    pub(super) made: Option<ReplySource>,
    /// Our extended error, if the reply has one.
    pub(super) error: Option<&'a ExtendedError>,
    /// The entry that the reply was made from.
    pub(super) entry: Option<&'a Entry>,
    /// The server that answered; see [`crate::upstream::ask::Answer`].
    pub(super) server: Option<u32>,
}

impl ReplyInfo<'_> {
    #[inline]
    pub(super) fn new(code: u16, route: Option<u16>, made: ReplySource) -> Self {
        Self {
            route,
            made: Some(made),
            ..Self::rejected(code)
        }
    }

    /// A reply to a query that could not be parsed.
    #[inline]
    pub(super) fn rejected(code: u16) -> Self {
        Self {
            code,
            route: None,
            made: None,
            error: None,
            entry: None,
            server: None,
        }
    }

    fn how(&self) -> &'static str {
        match self.made {
            Some(ReplySource::Hit(_)) => "hit",
            Some(ReplySource::Fresh) => "miss",
            Some(ReplySource::Local | ReplySource::Own) => "local",
            Some(ReplySource::Stale) => "stale",
            Some(ReplySource::Failure) => "failed",
            None => "rejected",
        }
    }
}

/// Writes the line. `section` is the question section of the query, empty if the query could not be parsed.
#[cold]
pub(super) fn write(
    info: ReplyInfo<'_>,
    server: Option<&str>,
    section: &[u8],
    client: Client,
    reply: &[u8],
) {
    let name_end = wire::skip_question_name(section, 0).unwrap_or(0);
    let qtype = wire::u16_at(section, name_end);
    let name = qtype.map(|_| presentation(&section[..name_end]));
    let qtype = qtype.map(|qtype| type_text(qtype.into()));
    let (answer, ede) = (records(reply), errors(&info));
    let microseconds =
        u64::try_from(runtime::since(client.received).as_micros()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "nodens::query",
        client = %client.address,
        protocol = client.protocol.label(),
        name,
        r#type = qtype,
        rcode = &*rcode_text(info.code),
        how = info.how(),
        server,
        answer,
        ede,
        microseconds,
    );
}

fn rcode_text(code: u16) -> Cow<'static, str> {
    let label = RCODES.iter().find(|(known, _)| *known == code);
    label.map_or_else(
        || format!("RCODE{code}").into(),
        |(_, label)| (*label).into(),
    )
}

/// The first records of the answer section, the number of further ones, and whether the reply is truncated.
fn records(reply: &[u8]) -> Option<String> {
    let count = usize::from(Counts::read(reply).ok()?.answers);
    let cut = wire::flags(reply) & flag::TC != 0;
    let mut parts = Vec::new();
    match Message::from_vec(reply) {
        Ok(message) => {
            for record in message.answers.iter().take(QUERY_LOG_RECORDS) {
                let record_type = type_text(record.record_type());
                let text = format!("{record_type} {}", data_text(&record.data));
                parts.push(bounded(&text, QUERY_LOG_RECORD_BYTES));
            }
            if let Some(more @ 1..) = count.checked_sub(QUERY_LOG_RECORDS) {
                parts.push(format!("+{more} more"));
            }
        }
        Err(_) if count > 0 => parts.push(format!("{count} records that cannot be read")),
        Err(_) => {}
    }
    if cut {
        parts.push("truncated".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Our own extended error, followed by those of servers.
fn errors(info: &ReplyInfo<'_>) -> Option<String> {
    let text = |error: &ExtendedError| match &*error.text {
        "" => error.code.to_string(),
        text => format!("{}: {text}", error.code),
    };
    let own = info.error.map(text);
    let behind = info.error.map_or(&[][..], |error| error.servers.as_bytes());
    let with_answer = info
        .entry
        .map_or(&[][..], |entry| entry.response().errors());
    let theirs = extended_errors(behind).chain(extended_errors(with_answer));
    let all: Vec<_> = own
        .into_iter()
        .chain(theirs.map(|error| text(&error)))
        .collect();
    (!all.is_empty()).then(|| bounded(&all.join("; "), QUERY_LOG_ERROR_BYTES))
}

/// The text as printable ASCII, with other characters escaped, cut after `most` octets.
fn bounded(text: &str, most: usize) -> String {
    let mut bounded = String::with_capacity(text.len().min(most));
    for character in text.chars() {
        let before = bounded.len();
        match character {
            ' '..='~' => bounded.push(character),
            other => bounded.extend(other.escape_unicode()),
        }
        if bounded.len() > most {
            bounded.truncate(before);
            bounded.push_str("...");
            break;
        }
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_text_is_printable_and_limited_in_length() {
        assert_eq!(bounded("a \"b\"", 10), "a \"b\"");
        assert_eq!(bounded("a\nb\u{202e}", 20), "a\\u{a}b\\u{202e}");
        assert_eq!(bounded("abcdef", 3), "abc...");
        assert_eq!(bounded("ab\u{1b}", 3), "ab...");
    }

    #[test]
    fn codes_without_a_name_are_numbers() {
        assert_eq!(rcode_text(2), "SERVFAIL");
        assert_eq!(rcode_text(11), "RCODE11");
    }
}
