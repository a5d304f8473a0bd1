//! The addresses of servers that are written as host names (`NAME@GROUP`), from the groups that are to resolve them.

use std::net::IpAddr;

use tokio::task::JoinSet;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use super::asking::{Inquiry, ServerPath};
use crate::config::{Config, GroupConfig, HostName, is_server_address};

/// Resolves all names there are. `lines` gives the servers of a group as they are then.
pub(super) async fn resolve(config: &mut Config, lines: impl Fn(&GroupConfig) -> Vec<ServerPath>) {
    let hosts = |config: &Config| -> Vec<HostName> {
        let named = config.groups.iter().flat_map(GroupConfig::named);
        let unknown = named.filter(|named| named.addresses.is_empty());
        unknown.map(|named| named.host.clone()).collect()
    };
    // A group that resolves names may have servers by name itself, but not in a circle.
    for _ in 0..config.groups.len() {
        let mut found = JoinSet::new();
        for host in hosts(config) {
            let group = config.groups.iter().find(|group| group.name == host.via);
            let lines = group.map(&lines).unwrap_or_default();
            found.spawn(async move { (addresses(&lines, &host).await, host) });
        }
        let mut any = false;
        for (addresses, host) in found.join_all().await {
            any |= !addresses.is_empty();
            config.set_addresses(&host, &addresses);
        }
        if !any {
            return;
        }
    }
}

/// The addresses from the first server that has any.
async fn addresses(lines: &[ServerPath], host: &HostName) -> Vec<IpAddr> {
    for line in lines {
        let mut addresses = Vec::new();
        for record_type in [RecordType::A, RecordType::AAAA] {
            let inquiry = Inquiry::new(host.name.clone(), record_type);
            let Ok(heard) = line.ask(&inquiry).await.result else {
                break;
            };
            let Ok(message) = Message::from_vec(&heard.message) else {
                continue;
            };
            let answers = message.answers.iter();
            addresses.extend(answers.filter_map(|record| record.data.ip_addr()));
        }
        addresses.retain(|ip| is_server_address(*ip));
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(crate::budgets::HOST_ADDRESSES);
        if !addresses.is_empty() {
            return addresses;
        }
    }
    Vec::new()
}
