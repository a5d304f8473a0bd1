//! A worker's replies to clients: hits, fresh and expired answers, errors. Each is counted, and logged if replies are logged.
//!
//! [`crate::message::reply`] writes the bytes, and [`super::query_path`] decides which reply is given.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::client::{Client, WaiterPlace};
use super::coredns::{EntryKind, ReplySource};
use super::metrics::{StaleReason, WorkerMetrics};
use super::query_log::{self, ReplyInfo};
use super::recent_failures::WorkerFailures;
use super::setup::Setup;
use super::top::WorkerTop;
use crate::cache::{Entry, seconds};
use crate::config::QueryLog;
use crate::message::ede::{self, ExtendedError};
use crate::message::reply::{self, Asked, Extras, Source, Ttls};
use crate::message::response::Response;
use crate::message::wire::rcode;
use crate::runtime;

/// Writes a worker's replies under one setup.
pub struct Replies {
    setup: Arc<Setup>,
    /// The worker's counters.
    pub metrics: Rc<WorkerMetrics>,
    /// Failures for /status. None unless /status shows them.
    pub(super) failures: Option<Rc<WorkerFailures>>,
    /// Counts of names and clients for /status. None unless /status shows them.
    pub(super) top: Option<Rc<WorkerTop>>,
    /// For the rotation of addresses, which need not be unpredictable.
    random: RefCell<fastrand::Rng>,
}

impl Replies {
    /// Replies by the settings of `setup`.
    #[must_use]
    pub(super) fn new(
        setup: &Arc<Setup>,
        metrics: &Rc<WorkerMetrics>,
        failures: Option<Rc<WorkerFailures>>,
        top: Option<Rc<WorkerTop>>,
    ) -> Self {
        Self {
            setup: Arc::clone(setup),
            metrics: Rc::clone(metrics),
            failures,
            top,
            random: RefCell::new(fastrand::Rng::new()),
        }
    }

    fn nsid(&self) -> &[u8] {
        self.setup.config.node_name.as_bytes()
    }

    /// The rotation of addresses in a reply from the cache; see [`Extras::rotate`].
    #[inline]
    fn random_rotation(&self, entry: &Entry) -> u32 {
        match entry.response().rotation() {
            Some(_) if self.setup.config.cache.rotate => self.random.borrow_mut().u32(..),
            _ => 0,
        }
    }

    /// Appends a reply from a fresh entry of the cache.
    #[inline]
    pub fn hit(
        &self,
        entry: &Entry,
        age: u32,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        self.metrics.hit(entry.route());
        let extras = Extras {
            error: None,
            nsid: self.nsid(),
            rotate: self.random_rotation(entry),
        };
        let start = out.len();
        let code = reply::answer(source(entry), asked, Ttls::Aged(age), extras, out);
        let info = ReplyInfo {
            entry: Some(entry),
            ..ReplyInfo::new(code, entry.route(), ReplySource::Hit(EntryKind::of(entry)))
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply from an answer that has just come, for one of its waiters. The first waiter gets the addresses in the
    /// server's order, and each further one another address first.
    pub fn fresh(
        &self,
        entry: &Entry,
        place: WaiterPlace,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        let extras = Extras {
            error: None,
            nsid: self.nsid(),
            rotate: if self.setup.config.cache.rotate {
                place.index
            } else {
                0
            },
        };
        let start = out.len();
        let code = reply::answer(source(entry), asked, Ttls::Fresh, extras, out);
        let info = ReplyInfo {
            entry: Some(entry),
            server: place.server,
            ..ReplyInfo::new(code, entry.route(), ReplySource::Fresh)
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply from an answer of the configuration.
    pub fn local(&self, entry: &Entry, asked: &Asked<'_>, client: Client, out: &mut Vec<u8>) {
        let extras = Extras {
            nsid: self.nsid(),
            ..Extras::default()
        };
        let start = out.len();
        let code = reply::answer(source(entry), asked, Ttls::Fresh, extras, out);
        let info = ReplyInfo {
            entry: Some(entry),
            ..ReplyInfo::new(code, entry.route(), ReplySource::Local)
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply from an answer that route `route` gives by itself.
    pub fn own(
        &self,
        response: &Response,
        error: &ExtendedError,
        route: u16,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        let extras = Extras {
            error: Some(error),
            nsid: self.nsid(),
            rotate: 0,
        };
        let source = Source {
            response: response.view(),
            ttl_cap: u32::MAX,
        };
        let start = out.len();
        let code = reply::answer(source, asked, Ttls::Fresh, extras, out);
        let info = ReplyInfo {
            error: Some(error),
            ..ReplyInfo::new(code, Some(route), ReplySource::Own)
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply from an expired entry (RFC 8767).
    pub fn stale(
        &self,
        entry: &Entry,
        asked: &Asked<'_>,
        client: Client,
        reason: StaleReason,
        out: &mut Vec<u8>,
    ) {
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
            StaleReason::Denied => "the upstreams deny what they answered before",
        };
        let error = ExtendedError::new(code, text);
        let extras = Extras {
            error: Some(&error),
            nsid: self.nsid(),
            rotate: self.random_rotation(entry),
        };
        // The entry's route may have been removed by a reload.
        let route = entry
            .route()
            .and_then(|index| self.setup.routes.existing(index));
        let ttl = route.map_or(self.setup.config.cache.stale_ttl, |route| route.stale.ttl);
        let ttl = seconds(ttl);
        let start = out.len();
        let code = reply::answer(source(entry), asked, Ttls::Fixed(ttl), extras, out);
        let info = ReplyInfo {
            error: Some(&error),
            entry: Some(entry),
            ..ReplyInfo::new(code, entry.route(), ReplySource::Stale)
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply with an error code and its reason.
    pub fn failure(
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
        let start = out.len();
        reply::error(asked, code, extras, out);
        if let Some(failures) = &self.failures {
            failures.add(asked.section, route, code, error, runtime::now());
        }
        let info = ReplyInfo {
            error: Some(error),
            ..ReplyInfo::new(code, route, ReplySource::Failure)
        };
        self.count_reply(info, asked, client, &out[start..]);
    }

    /// Appends a reply to a message of which only the header could be parsed.
    pub fn reject(&self, message: &[u8], code: u16, client: Client, out: &mut Vec<u8>) {
        reply::reject(message, code, out);
        self.metrics.reply(code, None);
        self.log(ReplyInfo::rejected(code), &[], client, &[]);
    }

    /// Counts a reply, and logs it if replies are logged.
    #[inline]
    fn count_reply(&self, info: ReplyInfo<'_>, asked: &Asked<'_>, client: Client, reply: &[u8]) {
        if let Some(made) = info.made {
            let code = (info.code, info.route);
            self.metrics
                .reply_made(asked, client, code, made, reply.len());
        }
        self.log(info, asked.section, client, reply);
    }

    #[inline]
    fn log(&self, info: ReplyInfo<'_>, section: &[u8], client: Client, reply: &[u8]) {
        match self.setup.config.log.queries {
            QueryLog::Off => {}
            QueryLog::Errors if matches!(info.code, rcode::NOERROR | rcode::NXDOMAIN) => {}
            QueryLog::Errors | QueryLog::All => {
                let server = info.server.and_then(|index| {
                    let servers = &self.setup.upstreams.servers;
                    servers.get(usize::try_from(index).ok()?)
                });
                let server = server.map(|server| server.label.as_str());
                query_log::write(info, server, section, client, reply);
            }
        }
    }
}

/// The parts of an entry that replies are made from.
#[inline]
fn source(entry: &Entry) -> Source<'_> {
    Source {
        response: entry.response(),
        ttl_cap: entry.ttl_cap(),
    }
}
