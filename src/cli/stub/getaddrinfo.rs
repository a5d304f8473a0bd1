//! One `getaddrinfo` call, timed: how long a client without a forwarder waits for a name's addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::Instant;

use super::{Stub, StubReply};

/// How long a plain stub resolver takes for `name`'s addresses with these servers, and what it gets.
///
/// It measures one `getaddrinfo` for an absolute name: A and AAAA at the same time, servers in the order given, each
/// with the time limit of glibc (`timeout` for the first), `attempts` rounds, without memory of earlier calls. The time
/// is until both questions are answered or given up. With 5 s and 2 attempts, glibc's defaults, a silent first of two
/// servers costs 5 s, every time.
///
/// The error says what went wrong in words.
pub async fn plain_stub_wait(
    servers: &[SocketAddr],
    name: &str,
    timeout: Duration,
    attempts: usize,
) -> (Duration, Result<Vec<IpAddr>, String>) {
    let mut name = match Name::from_str_relaxed(name) {
        Ok(name) => name,
        Err(error) => return (Duration::ZERO, Err(format!("{name:?} is no name: {error}"))),
    };
    name.set_fqdn(true);
    let stub = Stub::new(servers.to_vec(), timeout, attempts);
    let started = Instant::now();
    let answers = stub.ask_addresses(&name).await;
    let waited = started.elapsed();

    let addresses: Vec<IpAddr> = answers
        .iter()
        .flatten()
        .flat_map(StubReply::addresses)
        .collect();
    if !addresses.is_empty() {
        return (waited, Ok(addresses));
    }
    let reasons = answers.map(|answer| match answer {
        Ok(heard) => format!("{} from {}", heard.outcome(), heard.server),
        Err(unheard) => unheard.to_string(),
    });
    let [a, aaaa] = reasons;
    let reason = if a == aaaa {
        a
    } else {
        format!("A: {a}; AAAA: {aaaa}")
    };
    (waited, Err(reason))
}
