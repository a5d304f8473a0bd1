//! A plain stub resolver, which uses resolv.conf as the C library in a pod does.
//!
//! Owns the order in which servers are asked, how long each may take, and the search list. Used by `nodens resolve` and
//! by the demo's "without us" column; must not be used to forward.
//!
//! It behaves as glibc's `res_nsend` and `res_nsearch` do: one query to one server, the next server when that one is
//! silent, refused by its kernel, or answers SERVFAIL, NOTIMP, REFUSED or FORMERR; `attempts` rounds; TCP after a
//! truncated answer; A and AAAA at the same time; no cache. CNAMEs are followed only within the answer: a CNAME whose
//! target the server did not resolve is an answer without addresses.
//!
//! hickory-resolver reads resolv.conf and hickory-net speaks the protocol, but `Resolver` itself is not used, because
//! it behaves otherwise: one timeout bounds its whole server list, so that it never reaches the second server when the
//! first is silent; it resends within a try, chases CNAMEs with queries of its own, and takes SERVFAIL for final.
//!
//! Limits: no `/etc/hosts`, no `rotate`, no `single-request`; a link-local server's zone is dropped. musl differs: it
//! asks all servers at once, and never falls back to TCP before 1.2.4.

mod getaddrinfo;
mod reply;
mod resolv_conf;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::net::NetError;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use tokio::time::Instant;

use crate::message::wire::MAX_PAYLOAD;
use crate::net::connected::ConnectedSockets;

pub use getaddrinfo::plain_stub_wait;
pub use reply::{NoReply, StubOutcome, StubReply, StubTransport};
pub use resolv_conf::ResolvConfError;

/// A stub resolver's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// Servers in the order they are asked.
    pub servers: Vec<SocketAddr>,
    /// Domains that complete a relative name, in their order.
    pub search: Vec<Name>,
    /// A name with at least this many dots is tried as it is before it is completed.
    pub ndots: usize,
    /// How long the first server may take. Later ones may take longer: see `patience`.
    pub timeout: Duration,
    /// How often the list of servers is gone through; 0 counts as 1.
    pub attempts: usize,
    /// Whether queries carry EDNS (RFC 6891).
    pub edns: bool,
}

impl Stub {
    /// A stub resolver without a search list.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration, attempts: usize) -> Self {
        Self {
            servers,
            search: Vec::new(),
            ndots: 1,
            timeout,
            attempts,
            edns: false,
        }
    }

    /// Asks one question and waits for an answer, as long as a stub resolver would.
    ///
    /// NXDOMAIN is an answer. So is SERVFAIL or REFUSED when no server had a better one.
    ///
    /// # Errors
    ///
    /// Nobody answered, or there is no server to ask.
    pub async fn ask(&self, name: &Name, record_type: RecordType) -> Result<StubReply, NoReply> {
        let started = Instant::now();
        let question = Query::query(name.clone(), record_type);
        let mut failure = None;
        let mut last = None;
        let mut tries = 0;
        for _ in 0..self.attempts.max(1) {
            for (position, &server) in self.servers.iter().enumerate() {
                tries += 1;
                let patience = patience(self.timeout, position, self.servers.len());
                match self.try_server(server, &question, patience).await {
                    Ok((transport, message)) => {
                        let heard = StubReply {
                            question: question.clone(),
                            server,
                            transport,
                            message,
                            waited: started.elapsed(),
                        };
                        if !matches!(heard.outcome(), StubOutcome::Failure(_)) {
                            return Ok(heard);
                        }
                        failure = Some(heard);
                    }
                    Err(error) => last = Some(error),
                }
            }
        }
        let waited = started.elapsed();
        match failure {
            Some(heard) => Ok(StubReply { waited, ..heard }),
            None => Err(NoReply {
                servers: self.servers.clone(),
                tries,
                waited,
                last,
            }),
        }
    }

    /// Asks for A and AAAA at the same time, as `getaddrinfo` does.
    pub async fn ask_addresses(&self, name: &Name) -> [Result<StubReply, NoReply>; 2] {
        let (a, aaaa) = tokio::join!(
            self.ask(name, RecordType::A),
            self.ask(name, RecordType::AAAA)
        );
        [a, aaaa]
    }

    async fn try_server(
        &self,
        server: SocketAddr,
        question: &Query,
        patience: Duration,
    ) -> Result<(StubTransport, Message), NetError> {
        let sockets = ConnectedSockets::default();
        let udp = UdpClientStream::builder(server, sockets.clone())
            .with_timeout(Some(patience))
            // Queries are repeated and counted here.
            .with_max_retries(0)
            .exchange();
        let answer = udp.send(self.request(question)).first_answer().await?;
        if !answer.truncation {
            return Ok((StubTransport::Udp, answer.into_message()));
        }
        let tcp = TcpClientStream::exchange(server, None, patience, None, sockets).await?;
        let answer = tcp.send(self.request(question)).first_answer().await?;
        // Over TCP hickory matches by ID alone.
        if answer.queries.first() == Some(question) {
            Ok((StubTransport::Tcp, answer.into_message()))
        } else {
            Err(NetError::Message("answered another question over TCP"))
        }
    }

    fn request(&self, question: &Query) -> DnsRequest {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(question.clone());
        if self.edns {
            let mut edns = Edns::new();
            // Without `options edns0`, glibc sends no EDNS, and 512 bytes are all it takes over UDP.
            edns.set_max_payload(MAX_PAYLOAD);
            message.set_edns(edns);
        }
        DnsRequest::new(message, DnsRequestOptions::default())
    }
}

/// How long glibc waits for the server at `position` of `servers` (`res_send.c`, `send_dg`): `timeout` for the first,
/// for each after it `timeout` doubled as many times as there are servers before it, divided by the number of servers.
fn patience(timeout: Duration, position: usize, servers: usize) -> Duration {
    if position == 0 {
        return timeout;
    }
    // Three servers at most are read from resolv.conf; the caps keep what a caller adds by hand from overflowing.
    let doublings = 1_u32 << position.min(16);
    let divisor = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
    timeout.saturating_mul(doublings) / divisor
}

#[cfg(test)]
mod tests;
