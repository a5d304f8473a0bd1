//! `routes.ZONE.dns64`: the prefix that the network's NAT64 translates (RFC 6052), alone or in a table.

use std::net::Ipv6Addr;

use figment::value::Value;
use hickory_proto::rr::RecordType;
use ipnet::Ipv6Net;
use serde_json::{Value as Json, json};

use super::error::{Missing, Problem};
use super::leaf::{Leaf, Range, show_list, show_value};
use super::read::{Report, Section, list_items};
use super::shape::{self, Shape};
use super::{Dns64Config, limits};

/// RFC 6052 §2.2.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// RFC 6147 §5.1.4: addresses that stand for IPv4 within a host. No packet is sent to them.
const IPV4_MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// A prefix that IPv4 addresses are put behind.
#[derive(Debug, Clone, Copy)]
struct Nat64Prefix(Ipv6Net);

impl Leaf for Nat64Prefix {
    const EXPECTED: &'static str =
        "the prefix of a NAT64 such as 64:ff9b::/96, or a table such as {prefix: 64:ff9b::/96}";

    fn parse(value: &Value) -> Result<Self, Problem> {
        let network = network(value, Self::EXPECTED)?;
        let unusable = |why| {
            let value = show_value(value);
            Err(Problem::Unusable { value, why })
        };
        if !LENGTHS.contains(&network.prefix_len()) {
            return unusable(
                "the prefix of a NAT64 has a length of 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2); write for example 64:ff9b::/96",
            );
        }
        if network.addr().octets()[8] != 0 {
            return unusable(
                "bits 64 to 71 of a NAT64's prefix are zero (RFC 6052 §2.2); write for example 2001:db8:64::/96",
            );
        }
        if network == IPV4_MAPPED {
            return unusable(
                "no packet is sent to these addresses; write the prefix that your NAT64 translates, for example 64:ff9b::/96",
            );
        }
        Ok(Self(network))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        shape::ipv6_network(&LENGTHS)
    }
}

impl Leaf for Ipv6Net {
    const EXPECTED: &'static str = "an IPv6 network such as ::ffff:0:0/96";

    fn parse(value: &Value) -> Result<Self, Problem> {
        network(value, Self::EXPECTED)
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        let lengths: Vec<u8> = (0..=128).collect();
        shape::ipv6_network(&lengths)
    }
}

fn network(value: &Value, expected: &'static str) -> Result<Ipv6Net, Problem> {
    let parsed = value.as_str().and_then(|text| text.parse::<Ipv6Net>().ok());
    let Some(network) = parsed else {
        let value = show_value(value);
        return Err(Problem::NotA { value, expected });
    };
    if network == network.trunc() {
        return Ok(network);
    }
    Err(Problem::BeyondPrefix {
        value: show_value(value),
        network: network.trunc().to_string(),
    })
}

/// Reads what a route says of DNS64. `filter` is the route's.
pub(super) fn read(
    route: &Section<'_>,
    report: &Report<'_>,
    filter: &[RecordType],
) -> Option<Dns64Config> {
    route.note("dns64", || {
        let table = json!({"required": ["prefix"]});
        Nat64Prefix::shape(None).or_table(table)
    });
    let value = route.value("dns64")?;
    for (record_type, other) in [
        (RecordType::AAAA, "filter: [AAAA]"),
        // There would be nothing to make addresses from.
        (RecordType::A, "filter: [A]"),
    ] {
        if filter.contains(&record_type) {
            route.error("dns64", Problem::Both("dns64", other));
        }
    }
    let path = route.path("dns64");
    let table = matches!(value, Value::Dict(..)).then(|| route.part("dns64"));
    let typed = match &table {
        Some(table) => {
            table.note("prefix", || Nat64Prefix::shape(None));
            table.value("prefix")
        }
        None => Some(value),
    };
    let prefix = match typed {
        None => {
            route.error("dns64", Problem::Missing(Missing::Prefix));
            None
        }
        Some(typed) => {
            let path = match &table {
                Some(table) => table.path("prefix"),
                None => path.clone(),
            };
            let prefix = report.leaf::<Nat64Prefix>(&path, typed);
            if let Some(prefix) = prefix {
                let origin = report.origin(&path, Some(typed));
                report.setting(origin, &route.path("dns64").key("prefix"), prefix.show());
            }
            prefix
        }
    };
    let exclude = read_exclude(route, report, table.as_ref());
    if let Some(table) = table {
        table.finish();
    }
    Some(Dns64Config {
        prefix: prefix?.0,
        exclude,
    })
}

/// Addresses that count as none.
fn read_exclude(
    route: &Section<'_>,
    report: &Report<'_>,
    table: Option<&Section<'_>>,
) -> Vec<Ipv6Net> {
    let path = route.path("dns64").key("exclude");
    report.note(&path, || {
        let shape = Shape::list(Ipv6Net::schema(None))
            .counting(0, limits::MAX_NETWORKS)
            .unique();
        shape.with_default([IPV4_MAPPED.show()].as_slice())
    });
    let value = table.and_then(|table| table.value("exclude"));
    let mut exclude = Vec::new();
    match value {
        None => exclude.push(IPV4_MAPPED),
        Some(value) => {
            let items = list_items(&path, value);
            let (count, limit) = (items.len(), limits::MAX_NETWORKS);
            if count > limit {
                report.error_at(&path, value, Problem::TooMany { count, limit });
            }
            for (path, item) in items {
                match report.leaf::<Ipv6Net>(&path, item) {
                    Some(network) if exclude.contains(&network) => {
                        let (value, first) = (show_value(item), String::new());
                        report.error_at(&path, item, Problem::Twice { value, first });
                    }
                    network => exclude.extend(network),
                }
            }
        }
    }
    report.setting(report.origin(&path, value), &path, show_list(&exclude));
    exclude
}
