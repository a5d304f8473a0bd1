//! Probes: one task for the process, at most one health probe in flight for a server and transport.
//!
//! Owns when a probe leaves and what its loss means; the rules are [`super::health`]'s.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Query;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::Upstreams;
use super::group::Group;
use super::health::{LostProbe, Reason, State};
use super::loops::{self, LoopNames};
use super::probe_exchange::ask;
use super::server::Server;
use crate::config::Probe;
use crate::transport::Carrier;

/// How long the task sleeps at most.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Sends probes whenever they are due, for as long as configurations may come. `started` is called once the first have
/// left.
pub async fn run(
    mut configured: watch::Receiver<Arc<Upstreams>>,
    loop_names: Arc<LoopNames>,
    started: impl FnOnce(),
) {
    let mut started = Some(started);
    let mut probes = JoinSet::new();
    let mut upstreams = configured.borrow_and_update().clone();
    let mut loop_checks = LoopChecks::default();
    loop {
        let now = Instant::now();
        let mut next = now + MAX_SLEEP;
        for group in &upstreams.groups {
            for server in &group.servers {
                next = next.min(send_due(group, server, &mut probes, now));
                if loop_checks.is_due(server, now) {
                    let (zone, names) = (group.zone.clone(), Arc::clone(&loop_names));
                    probes.spawn(loops::check(zone, names, Arc::clone(server)));
                }
            }
        }
        if let Some(started) = started.take() {
            started();
        }
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = upstreams.probe_wanted.notified() => {}
            Some(_) = probes.join_next(), if !probes.is_empty() => {}
            changed = configured.changed() => {
                if changed.is_err() {
                    return;
                }
                upstreams = configured.borrow_and_update().clone();
                loop_checks.keep_only(&upstreams);
            }
        }
    }
}

/// When each server is checked for a loop next. A server is known by its address in memory, which stays the same for as
/// long as it is configured.
#[derive(Debug, Default)]
struct LoopChecks(HashMap<usize, Instant>);

impl LoopChecks {
    /// Whether a server is to be checked now; the next time is set then.
    fn is_due(&mut self, server: &Arc<Server>, now: Instant) -> bool {
        let due = self.0.entry(Arc::as_ptr(server).addr()).or_insert(now);
        let is_due = *due <= now;
        if is_due {
            *due = now + loops::interval(server);
        }
        is_due
    }

    fn keep_only(&mut self, upstreams: &Upstreams) {
        let servers = upstreams.servers.iter();
        let there: Vec<usize> = servers.map(|server| Arc::as_ptr(server).addr()).collect();
        self.0.retain(|server, _| there.contains(server));
    }
}

/// Sends a server's health probes that are due; returns when the next one is, if that is known.
fn send_due(
    group: &Group,
    server: &Arc<Server>,
    probes: &mut JoinSet<()>,
    now: Instant,
) -> Instant {
    let mut next = now + MAX_SLEEP;
    for carrier in probed_carriers(server) {
        match server.probe_due(carrier) {
            Some(due) if due <= now => {
                server.probe_sent(carrier);
                probes.spawn(probe(group.probe.clone(), Arc::clone(server), carrier));
            }
            Some(due) => next = next.min(due),
            None => {}
        }
    }
    next
}

/// The transports that are probed: the one queries take, and TCP beside UDP once it has failed there.
fn probed_carriers(server: &Server) -> impl Iterator<Item = Carrier> {
    let first = server.carrier();
    let looped = server.looped();
    [Carrier::Datagram, Carrier::Stream]
        .into_iter()
        .filter(move |&carrier| {
            !looped
                && (carrier == first || server.state_of(carrier) != State::Unknown)
                && (carrier == Carrier::Stream || first == Carrier::Datagram)
        })
}

/// One health probe; whatever comes back, the server is alive.
async fn probe(asks: Probe, server: Arc<Server>, carrier: Carrier) {
    let sent = Instant::now();
    let question = Query::query(asks.name, asks.record_type);
    let answer = timeout(server.try_timeout, ask(&server, carrier, question)).await;
    let now = Instant::now();
    let reason = match answer {
        Ok(Ok(())) => return server.probe_answered(carrier, now, now - sent),
        Ok(Err(error)) => {
            tracing::debug!(server = %server.label, %error, "probe failed");
            match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::PermissionDenied => Reason::Unreachable,
                _ => Reason::ProbeLost,
            }
        }
        Err(_) => Reason::ProbeLost,
    };
    let jitter = fastrand::f64();
    let lost = LostProbe {
        sent,
        reason,
        jitter,
    };
    server.probe_lost(carrier, now, lost);
}
