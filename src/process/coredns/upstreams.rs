//! Families of upstream servers: those of `proxy`, and those that `forward` had before CoreDNS 1.11.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::CorednsSources;
use crate::config::Transport;
use crate::message::labels::coredns_code;
use crate::metrics::Label;
use crate::metrics::coredns::{TIME_BOUNDS, TIMES};
use crate::metrics::distribution::Distribution;
use crate::metrics::exposition::{Exposition, FamilyKind};
use crate::serving::metrics::{Cap, StaleReason};
use crate::transport::metrics::SocketUse;
use crate::upstream::server::Server;

/// What is known of one address, whatever groups it is in.
#[derive(Default)]
struct AddressCounts {
    durations: BTreeMap<usize, Distribution<TIME_BOUNDS>>,
    tries: u64,
    probes_lost: u64,
    /// Queries by protocol: those that found an open socket, and those for which one was opened.
    sockets: BTreeMap<&'static str, [u64; 2]>,
}

impl AddressCounts {
    fn add(&mut self, server: &Server) {
        let exchanges = server.exchanges();
        self.tries += exchanges.tries();
        self.probes_lost += server.probes_lost();
        let Some(counts) = exchanges.coredns() else {
            return;
        };
        for (code, times) in counts.durations() {
            self.durations.entry(code).or_default().add(&times);
        }
        let datagrams = [SocketUse::OpenDatagram, SocketUse::NewDatagram];
        let streams = [SocketUse::OpenStream, SocketUse::NewStream];
        let (uses, other): (_, Option<(&str, _)>) = match server.config.transport {
            Transport::Udp => (("udp", datagrams), Some(("tcp", streams))),
            Transport::Tcp => (("tcp", streams), None),
            Transport::Tls(_) => (("tcp-tls", streams), None),
            Transport::Https { .. } => (("https", streams), None),
        };
        // TCP beside UDP is shown once it was needed.
        let needed =
            |(_, uses): &(&str, [SocketUse; 2])| uses.iter().any(|socket| counts.sent(*socket) > 0);
        for (protocol, uses) in [uses].into_iter().chain(other.filter(needed)) {
            let sockets = self.sockets.entry(protocol).or_default();
            for (count, socket) in sockets.iter_mut().zip(uses) {
                *count += counts.sent(socket);
            }
        }
    }
}

/// What each address is called in the label `to`.
type ByAddress = BTreeMap<String, AddressCounts>;

/// Writes them all.
pub(super) fn write(out: &mut Exposition, sources: &CorednsSources<'_>, servers: &[Arc<Server>]) {
    let mut known = ByAddress::new();
    for server in servers {
        let to = server.config.address.to_string();
        known.entry(to).or_default().add(server);
    }
    write_proxy(out, &known);
    write_forward(out, &known);
    let totals = sources.shared.metrics.totals();
    out.family(
        "coredns_forward_max_concurrent_rejects_total",
        FamilyKind::Counter,
        "Queries not forwarded because their group had as many in flight as it may.",
    )
    .sample(&[], totals.rejected[Cap::Group.label()]);
    let stale = totals.stale[StaleReason::UpstreamsDown.label()];
    out.family(
        "coredns_forward_healthcheck_broken_total",
        FamilyKind::Counter,
        "Queries that came while all servers for them were down.",
    )
    .sample(&[], stale + sources.metrics.upstream.last_resorts());
}

fn write_proxy(out: &mut Exposition, known: &ByAddress) {
    let mut durations = out.family(
        "coredns_proxy_request_duration_seconds",
        FamilyKind::Histogram,
        "From sending a query to an upstream server to its response, by response code.",
    );
    for (to, server) in known {
        for (code, times) in &server.durations {
            let labels = [
                ("proxy_name", "forward"),
                ("to", to),
                ("rcode", coredns_code(*code)),
            ];
            durations.distribution(&labels, &TIMES, times);
        }
    }
    let mut failures = out.family(
        "coredns_proxy_healthcheck_failures_total",
        FamilyKind::Counter,
        "Health probes that were lost.",
    );
    for (to, server) in known {
        failures.sample(&[("proxy_name", "forward"), ("to", to)], server.probes_lost);
    }
    for (name, help, index) in [
        (
            "coredns_proxy_conn_cache_hits_total",
            "Queries that left from a socket that was open.",
            0,
        ),
        (
            "coredns_proxy_conn_cache_misses_total",
            "Queries for which a socket was opened.",
            1,
        ),
    ] {
        let mut family = out.family(name, FamilyKind::Counter, help);
        for (to, server) in known {
            for (protocol, counts) in &server.sockets {
                let labels = [
                    ("proxy_name", "forward"),
                    ("to", to.as_str()),
                    ("proto", protocol),
                ];
                family.sample(&labels, counts[index]);
            }
        }
    }
}

/// The names before CoreDNS 1.11, which many dashboards and alerts still ask for.
fn write_forward(out: &mut Exposition, known: &ByAddress) {
    let mut requests = out.family(
        "coredns_forward_requests_total",
        FamilyKind::Counter,
        "Queries sent to an upstream server.",
    );
    for (to, server) in known {
        requests.sample(&[("to", to)], server.tries);
    }
    let mut durations = out.family(
        "coredns_forward_request_duration_seconds",
        FamilyKind::Histogram,
        "From sending a query to an upstream server to its response, by response code.",
    );
    for (to, server) in known {
        for (code, times) in &server.durations {
            let labels = [("to", to.as_str()), ("rcode", coredns_code(*code))];
            durations.distribution(&labels, &TIMES, times);
        }
    }
    let mut responses = out.family(
        "coredns_forward_responses_total",
        FamilyKind::Counter,
        "Responses of an upstream server, by response code.",
    );
    for (to, server) in known {
        for (code, times) in &server.durations {
            let labels = [("to", to.as_str()), ("rcode", coredns_code(*code))];
            responses.sample(&labels, times.count());
        }
    }
    let mut failures = out.family(
        "coredns_forward_healthcheck_failures_total",
        FamilyKind::Counter,
        "Health probes that were lost.",
    );
    for (to, server) in known {
        failures.sample(&[("to", to)], server.probes_lost);
    }
    for (name, help, index) in [
        (
            "coredns_forward_conn_cache_hits_total",
            "Queries that left from a socket that was open.",
            0,
        ),
        (
            "coredns_forward_conn_cache_misses_total",
            "Queries for which a socket was opened.",
            1,
        ),
    ] {
        let mut family = out.family(name, FamilyKind::Counter, help);
        for (to, server) in known {
            for (protocol, counts) in &server.sockets {
                family.sample(&[("to", to), ("proto", protocol)], counts[index]);
            }
        }
    }
}
