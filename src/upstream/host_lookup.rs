//! Resolves the host name of a server by the servers of a group.
//!
//! Owns the two questions, A and AAAA, and the choice of servers to ask. The caller decides when to ask, and what to do with
//! the addresses. An alias is followed only within a response: the group's servers must resolve the name completely.

use std::net::IpAddr;
use std::time::Duration;

use crate::runtime::timeout::timeout;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::group::Group;
use super::health::State;
use super::probe_exchange::exchange;
use super::server::Server;
use crate::budgets::HOST_ADDRESSES;
use crate::config::is_server_address;
use crate::transport::Carrier;

/// How many servers are asked a question at most, one after the other.
const ASKED: usize = 3;

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The addresses, sorted. If no server answered for A or for AAAA, those of this type are the previous ones.
    pub addresses: Vec<IpAddr>,
    /// How long the addresses may be used; zero if no server answered for A or for AAAA.
    pub ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The responses of the group's servers have no usable address.
    #[error("it has no address")]
    NoAddress,
    /// None of the group's servers answered.
    #[error("no answer")]
    NoAnswer,
    /// The group has no servers itself.
    #[error("the group has no servers")]
    NoServers,
}

/// Resolves a name through a group's servers. `previous` is what it resolved to before.
///
/// # Errors
/// If the group has no servers, no server answered, or there is no address.
pub async fn look_up(group: &Group, name: &Name, previous: &[IpAddr]) -> Result<Found, HostError> {
    if group.servers.is_empty() {
        return Err(HostError::NoServers);
    }
    let (v4, v6) = tokio::join!(
        ask(group, name, RecordType::A),
        ask(group, name, RecordType::AAAA)
    );
    if v4.is_none() && v6.is_none() {
        return Err(HostError::NoAnswer);
    }
    let whole = v4.is_some() && v6.is_some();
    let kept = |is_kind: fn(&IpAddr) -> bool| Answer {
        addresses: previous.iter().copied().filter(is_kind).collect(),
        ttl: None,
    };
    let v4 = v4.unwrap_or_else(|| kept(IpAddr::is_ipv4));
    let v6 = v6.unwrap_or_else(|| kept(IpAddr::is_ipv6));
    let ttl = v4.ttl.into_iter().chain(v6.ttl).min().filter(|_| whole);
    let mut addresses = [v4.addresses, v6.addresses].concat();
    addresses.retain(|ip| is_server_address(*ip));
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(HOST_ADDRESSES);
    if addresses.is_empty() {
        return Err(HostError::NoAddress);
    }
    let ttl = Duration::from_secs(ttl.unwrap_or(0).into());
    Ok(Found { addresses, ttl })
}

/// A server's answer for A or AAAA.
struct Answer {
    addresses: Vec<IpAddr>,
    /// The lowest TTL of its records; None without records.
    ttl: Option<u32>,
}

/// Returns the first answer to a question. Servers in a better state are asked first.
async fn ask(group: &Group, name: &Name, record_type: RecordType) -> Option<Answer> {
    let usable = group.servers.iter().filter(|server| !server.looped());
    let mut servers: Vec<(State, &Server)> =
        usable.map(|server| (server.state(), &**server)).collect();
    servers.sort_by_key(|(state, _)| *state);
    for (_, server) in servers.into_iter().take(ASKED) {
        let question = Query::query(name.clone(), record_type);
        if let Some(message) = ask_server(server, question).await
            && matches!(
                message.metadata.response_code,
                ResponseCode::NoError | ResponseCode::NXDomain
            )
        {
            return Some(read(&message));
        }
    }
    None
}

async fn ask_server(server: &Server, question: Query) -> Option<Message> {
    let mut carrier = server.carrier();
    loop {
        let asked = exchange(server, carrier, question.clone(), server.form());
        let response = timeout(server.try_timeout, asked).await.ok()?.ok()?;
        let message = Message::from_vec(&response).ok()?;
        match carrier {
            Carrier::Datagram if message.metadata.truncation => carrier = Carrier::Stream,
            _ => return Some(message),
        }
    }
}

/// The addresses in an answer, whatever their owner names, because aliases may lead to them.
fn read(message: &Message) -> Answer {
    let mut answer = Answer {
        addresses: Vec::new(),
        ttl: None,
    };
    for record in &message.answers {
        match &record.data {
            RData::A(address) => answer.addresses.push(address.0.into()),
            RData::AAAA(address) => answer.addresses.push(address.0.into()),
            RData::CNAME(_) => {}
            _ => continue,
        }
        answer.ttl = Some(answer.ttl.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
    }
    answer
}
