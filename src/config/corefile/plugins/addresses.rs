//! Plugins that say where to listen: `bind` for queries; `health`, `ready` and `prometheus` for HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{changes_answers, no_option};
use crate::config::corefile::draft::{
    Draft,
    LineVerdict::{Differs, NoCounterpart, Taken},
    duration,
};
use crate::config::corefile::forward::duration_ms;
use crate::config::corefile::server::DraftBlock;
use crate::config::corefile::syntax::Directive;
use crate::config::corefile::{KUBE_DNS_PLACEHOLDER, Surroundings};

/// Default addresses of these plugins.
pub(super) const PROMETHEUS: &str = "localhost:9153";
pub(super) const HEALTH: &str = ":8080";
pub(super) const READY: &str = ":8181";

pub(super) fn bind(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut DraftBlock<'_>,
    directive: &Directive,
) {
    let mut taken = Vec::new();
    for word in &directive.arguments {
        let address = word.text.parse::<IpAddr>().ok();
        let is_kube_dns = address.is_some() && address == around.cluster_dns;
        if is_kube_dns || word.text == KUBE_DNS_PLACEHOLDER {
            draft.remark(directive, Differs, "the address of kube-dns is not bound: kube-dns is asked there. The chart's mode nodeLocal does it");
        } else if word.text == "lo" {
            server.bind.push(Ipv4Addr::LOCALHOST.into());
            if around.ipv6 {
                server.bind.push(Ipv6Addr::LOCALHOST.into());
            }
            draft.remark(
                directive,
                Differs,
                "listen: the loopback addresses; others that lo has must be written out",
            );
        } else if let Some(address) = address {
            server.bind.push(address);
            taken.push(address.to_string());
        } else {
            draft.unexpected(word, "an IP address (of an interface, write its address)");
        }
    }
    if !directive.block.is_empty() {
        changes_answers(
            draft,
            directive,
            "bind except".to_owned(),
            "write the addresses to listen at",
        );
    }
    if !taken.is_empty() {
        draft.remark(
            directive,
            Taken,
            "listen; all zones are answered at all addresses",
        );
    }
}

/// `health`, `ready` and `prometheus`: each has an address. Here all of /health, /ready and /metrics are served at each
/// of them.
pub(super) fn observed(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    directive: &Directive,
    default: &'static str,
) {
    for option in &directive.block {
        match (default, option.name.text.as_str()) {
            (HEALTH, "lameduck") => {
                let time = option.texts().first().and_then(|text| duration_ms(text));
                if let Some(time) = time {
                    let place = &option.name.place;
                    draft.set(&["shutdown_grace"], duration(time), place);
                }
                let note = "shutdown_grace: what is in flight is answered, and then it ends";
                draft.remark(option, Differs, note);
            }
            (PROMETHEUS, "runtime_metrics") => {
                draft.remark(option, NoCounterpart, "no metrics of a Go process");
            }
            (READY, "monitor") => {
                draft.remark(option, Taken, "/ready never goes back, but when it stops");
            }
            _ => no_option(draft, "health, ready and prometheus", option),
        }
    }
    let typed = directive
        .texts()
        .first()
        .copied()
        .unwrap_or(default)
        .to_owned();
    let Some(addresses) = addresses_of(&typed, around) else {
        return draft.unexpected(&directive.arguments[0], "an address such as :9153");
    };
    for address in &addresses {
        let place = || directive.name.place.clone();
        draft.observed.entry(*address).or_insert_with(place);
    }
    let names = if default == PROMETHEUS {
        let place = &directive.name.place;
        draft.set(&["metrics", "coredns"], true, place);
        "; metrics.coredns: CoreDNS's families beside our own"
    } else {
        ""
    };
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    draft.remark(
        directive,
        Taken,
        format!("metrics.listen: {}{names}", shown.join(" and ")),
    );
}

/// `localhost:9153`, `0.0.0.0:9153`, and `:9153`, which is every address of both families.
fn addresses_of(text: &str, around: &Surroundings<'_>) -> Option<Vec<SocketAddr>> {
    let text = text.replace("localhost:", "127.0.0.1:");
    let Some(port) = text.strip_prefix(':') else {
        return text.parse().ok().map(|address| vec![address]);
    };
    let port: u16 = port.parse().ok()?;
    let mut all = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    if around.ipv6 {
        all.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    Some(all)
}
