//! What listens: `listen`, `admin` and `metrics.listen`, and that none takes the address of another.

use std::net::{Ipv4Addr, SocketAddr};

use figment::value::Value;
use serde_json::{Value as Json, json};

use super::error::{Missing, Problem};
use super::leaf::{Leaf, several, show_list, show_value};
use super::limits;
use super::named::NO_INTERFACE;
use super::path::KeyPath;
use super::read::{Report, Section, list_items};
use super::shape::Shape;

/// All addresses of the process.
pub(super) struct Listeners<'a> {
    pub(super) listen: &'a [SocketAddr],
    pub(super) admin: Option<SocketAddr>,
    pub(super) metrics: &'a [SocketAddr],
    /// Whether those of `listen` are shared with another instance.
    pub(super) handover: bool,
}

pub(super) fn read_listen(top: &Section<'_>, report: &Report<'_>) -> Vec<SocketAddr> {
    let mut listen = Vec::new();
    top.note("listen", || {
        let shape = Shape::list(SocketAddr::schema(None)).counting(1, limits::MAX_LISTEN);
        shape.with_default(["127.0.0.1:5300"].as_slice())
    });
    match top.value("listen") {
        None => listen.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 5300))),
        Some(value) => {
            let items = list_items(&top.path("listen"), value);
            listen = read_addresses(report, &items);
            if items.is_empty() {
                top.error("listen", Problem::Missing(Missing::Listen));
            }
            top.check_count("listen", items.len(), limits::MAX_LISTEN);
        }
    }
    top.setting("listen", show_list(&listen));
    listen
}

pub(super) fn read_admin(top: &Section<'_>) -> Option<SocketAddr> {
    let admin = top.read_or_null("admin", Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9153))));
    if let Some(address) = admin.filter(|address| address.ip().is_multicast()) {
        let (value, why) = (address.to_string(), NO_HOST);
        top.error("admin", Problem::Unusable { value, why });
    }
    admin
}

pub(super) fn read_metrics_listen(metrics: &Section<'_>, report: &Report<'_>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    metrics.note("listen", || {
        let shape = Shape::list(SocketAddr::schema(None));
        let mut shape = shape.counting(0, limits::MAX_METRICS_LISTEN);
        shape.values.push(json!({"type": "null"}));
        shape.with_default(Json::Null)
    });
    if let Some(value) = metrics
        .value("listen")
        .filter(|value| !matches!(value, Value::Empty(..)))
    {
        let items = list_items(&metrics.path("listen"), value);
        addresses = read_addresses(report, &items);
        metrics.check_count("listen", items.len(), limits::MAX_METRICS_LISTEN);
    }
    let shown = match &*addresses {
        [] => "null".to_owned(),
        [address] => address.to_string(),
        _ => show_list(&addresses),
    };
    metrics.setting("listen", shown);
    addresses
}

/// Why no client can ask at such an address.
const NO_HOST: &str = "this address is a group's; write one of this host, such as 127.0.0.1:53, or 0.0.0.0:53 for all";

/// Addresses to listen at, none of them twice but those of which the kernel chooses the port.
fn read_addresses(report: &Report<'_>, items: &[(KeyPath, &Value)]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for (path, item) in items {
        let text = item.as_str().unwrap_or_default();
        if let Some(problem) = several(text, |part| part.parse::<SocketAddr>().is_ok()) {
            report.error_at(path, item, problem);
            continue;
        }
        let Some(address) = report.leaf::<SocketAddr>(path, item) else {
            continue;
        };
        if let SocketAddr::V6(v6) = address
            && v6.ip().is_unicast_link_local()
            && v6.scope_id() == 0
        {
            let (value, why) = (show_value(item), NO_INTERFACE);
            report.error_at(path, item, Problem::Unusable { value, why });
            continue;
        }
        if address.ip().is_multicast() || address.ip() == Ipv4Addr::BROADCAST {
            let (value, why) = (show_value(item), NO_HOST);
            report.error_at(path, item, Problem::Unusable { value, why });
            continue;
        }
        if address.port() != 0 && addresses.contains(&address) {
            let (value, first) = (show_value(item), String::new());
            report.error_at(path, item, Problem::Twice { value, first });
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// Reports addresses that two of these take: `admin` and `metrics.listen` are TCP listeners too.
pub(super) fn check_ports(top: &Section<'_>, metrics: &Section<'_>, all: &Listeners<'_>) {
    let &Listeners {
        listen,
        admin,
        metrics: metrics_listen,
        handover,
    } = all;
    let twice = |address: SocketAddr, other: &str| Problem::Twice {
        value: address.to_string(),
        first: format!(" (also in {other})"),
    };
    let taken = |address: &SocketAddr| address.port() != 0 && listen.contains(address);
    // The kernel gives a port of all addresses and of one of them to one of two listeners only, unless both may be shared.
    let takes_in = |value: SocketAddr, others: &[SocketAddr], key: &'static str| {
        let taken_in = |other: &&SocketAddr| {
            value.port() == other.port()
                && value.port() != 0
                && value.is_ipv4() == other.is_ipv4()
                && value.ip().is_unspecified()
                && !other.ip().is_unspecified()
        };
        let value = value.to_string();
        let other = *others.iter().find(taken_in)?;
        Some(Problem::TakesIn { value, other, key })
    };
    let admin_alone = admin.as_slice();
    for &address in admin_alone {
        let problem = taken(&address)
            .then(|| twice(address, "listen"))
            .or_else(|| takes_in(address, listen, "listen"))
            .or_else(|| takes_in(address, metrics_listen, "metrics.listen"));
        if let Some(problem) = problem {
            top.error("admin", problem);
        }
    }
    for &address in listen {
        let problem = takes_in(address, if handover { &[] } else { listen }, "listen")
            .or_else(|| takes_in(address, admin_alone, "admin"))
            .or_else(|| takes_in(address, metrics_listen, "metrics.listen"));
        if let Some(problem) = problem {
            top.error("listen", problem);
        }
    }
    for &address in metrics_listen {
        let is_admin = address.port() != 0 && admin == Some(address);
        // Not shared even with `handover`: the instance would wait for itself.
        let problem = taken(&address)
            .then(|| twice(address, "listen"))
            .or_else(|| is_admin.then(|| twice(address, "admin")))
            .or_else(|| takes_in(address, admin_alone, "admin"))
            .or_else(|| takes_in(address, listen, "listen"))
            .or_else(|| takes_in(address, metrics_listen, "metrics.listen"));
        if let Some(problem) = problem {
            metrics.error("listen", problem);
        }
    }
}
