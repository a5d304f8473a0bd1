//! What a worker says to one client at once: hits, errors, expired answers; counted, and logged if replies are logged.
//!
//! Owns no state. The bytes are [`crate::message::reply`]'s, the order of the steps is [`crate::serving::query_path`]'s.

use std::net::SocketAddr;
use std::time::Instant;

use crate::cache::Entry;
use crate::config::QueryLog;
use crate::message::ede::{self, ExtendedError};
use crate::message::query::{Query, Reject};
use crate::message::reply::{self, Asked, Extras, Protocol, Ttls};
use crate::message::wire::rcode;
use crate::metrics::{Dropped, StaleReason, rcode_label, type_label};
use crate::serving::worker::Worker;

/// What became of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// A reply was appended, from the cache.
    Hit,
    /// A reply was appended, of our own.
    Replied,
    /// There will be none.
    Dropped,
    /// It follows by way of [`crate::listener::ReplyTo`].
    Later,
}

/// Who sent a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Its address.
    pub address: SocketAddr,
    /// How it came.
    pub protocol: Protocol,
    /// When it was read.
    pub received: Instant,
}

impl Worker {
    pub(crate) fn nsid(&self) -> &[u8] {
        self.setup.config.node_name.as_bytes()
    }

    /// Stamps a fresh answer from the cache.
    #[inline]
    pub(crate) fn hit(
        &self,
        entry: &Entry,
        age: u32,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        self.metrics.hit();
        let rotate = match entry.response().rotation() {
            Some(_) if self.setup.config.cache.rotate => self.random.borrow_mut().u32(..),
            _ => 0,
        };
        let extras = Extras {
            error: None,
            nsid: self.nsid(),
            rotate,
        };
        let code = reply::answer(entry, asked, Ttls::Aged(age), extras, out);
        self.replied(code, entry.route(), asked.section, client, "hit");
    }

    /// Counts a reply, and logs it if replies are logged.
    #[inline]
    pub(crate) fn replied(
        &self,
        code: u16,
        route: impl Into<Option<u16>>,
        name: &[u8],
        client: Client,
        how: &str,
    ) {
        self.metrics.reply(code, route.into());
        match self.setup.config.log.queries {
            QueryLog::Off => {}
            QueryLog::Errors if matches!(code, rcode::NOERROR | rcode::NXDOMAIN) => {}
            QueryLog::Errors | QueryLog::All => log_query(code, name, client, how),
        }
    }

    /// Replies to bytes that are no query we can answer.
    pub(crate) fn reject(
        &self,
        message: &[u8],
        reject: Reject,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let code = match reject {
            Reject::Short => {
                self.metrics.dropped(Dropped::Short);
                return Served::Dropped;
            }
            Reject::NotAQuery => {
                self.metrics.dropped(Dropped::NotAQuery);
                return Served::Dropped;
            }
            Reject::Answer(code) => code,
            Reject::BadVersion => rcode::BADVERS,
        };
        if !self.allows(client.address) && !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        reply::reject(message, code, out);
        self.replied(code, None, &[], client, "rejected");
        Served::Replied
    }

    /// A client outside `allow`: REFUSED, but not so often that we could be used to flood it.
    pub(crate) fn turn_away(&self, asked: &Asked<'_>, client: Client, out: &mut Vec<u8>) -> Served {
        if !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        let error = ExtendedError::new(ede::PROHIBITED, "this client is outside allow");
        self.fail(asked, rcode::REFUSED, &error, None, client, out);
        Served::Replied
    }

    /// REFUSED for what is never forwarded.
    pub(crate) fn refuse(
        &self,
        query: &Query<'_>,
        error: Option<ExtendedError>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let asked = Asked::new(query, client.protocol);
        let error = error.unwrap_or_else(|| ExtendedError::new(ede::OTHER, "not forwarded"));
        self.fail(&asked, rcode::REFUSED, &error, None, client, out);
        Served::Replied
    }

    /// Stamps an error and its reason.
    pub(crate) fn fail(
        &self,
        asked: &Asked<'_>,
        code: u16,
        error: &ExtendedError,
        route: Option<u16>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        let extras = Extras {
            error: Some(error),
            nsid: self.nsid(),
            rotate: 0,
        };
        reply::error(asked, code, extras, out);
        self.replied(code, route, asked.section, client, "failed");
    }

    /// Stamps an expired answer (RFC 8767).
    pub(crate) fn serve_stale(
        &self,
        entry: &Entry,
        asked: &Asked<'_>,
        client: Client,
        reason: StaleReason,
        out: &mut Vec<u8>,
    ) -> Served {
        self.metrics.stale(reason);
        let code = match entry.response().rcode() {
            rcode::NXDOMAIN => ede::STALE_NXDOMAIN,
            _ => ede::STALE_ANSWER,
        };
        let text = match reason {
            StaleReason::UpstreamsDown => "the route's upstreams are down",
            StaleReason::Slow => "the upstreams are slow",
            StaleReason::Failed => "the upstreams failed",
            StaleReason::Overload => "too many queries are in flight",
        };
        let error = ExtendedError::new(code, text);
        let extras = Extras {
            error: Some(&error),
            nsid: self.nsid(),
            rotate: 0,
        };
        let ttl = crate::cache::seconds(self.setup.config.cache.stale_ttl);
        let code = reply::answer(entry, asked, Ttls::Fixed(ttl), extras, out);
        self.replied(code, entry.route(), asked.section, client, "stale");
        Served::Replied
    }
}

/// One line a reply, at the target `nodens::message::query`.
#[cold]
fn log_query(code: u16, section: &[u8], client: Client, how: &str) {
    let name_end = crate::message::wire::skip_question_name(section, 0).unwrap_or(0);
    let name = presentation(&section[..name_end]);
    let qtype = crate::message::wire::u16_at(section, name_end).map_or("", type_label);
    let protocol = match client.protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    };
    let microseconds = u64::try_from(client.received.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "nodens::message::query",
        client = %client.address,
        protocol,
        name,
        r#type = qtype,
        rcode = rcode_label(code),
        how,
        microseconds,
    );
}

/// A wire name as people write it; octets that are no letters, digits, `-` or `_` as `\DDD` (RFC 1035 §5.1), so that no
/// client can forge log lines.
#[must_use]
pub fn presentation(mut name: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    while let [length, rest @ ..] = name
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        for &octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(octet.into()),
                _ => write!(text, "\\{octet:03}").expect("a string takes every write"),
            }
        }
        text.push('.');
        name = rest;
    }
    if text.is_empty() {
        ".".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::presentation;

    #[test]
    fn names_in_logs_cannot_forge_lines() {
        assert_eq!(presentation(b"\x03a\nb\x02c.\0"), "a\\010b.c\\046.");
        assert_eq!(presentation(b"\0"), ".");
    }
}
