//! Sends one question to every server of a route, for a person who compares the answers.
//!
//! Without failover: servers that are down are asked as well. The responses do not change the state of a server.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use tokio::task::JoinSet;

use super::Upstreams;
use super::health::State;
use super::probe_exchange::exchange;
use super::server::Server;
use crate::runtime;
use crate::runtime::timeout::timeout;
use crate::transport::Carrier;

/// The result at one server.
#[derive(Debug)]
pub struct ServerAnswer {
    /// The server.
    pub server: Arc<Server>,
    /// Its state.
    pub state: State,
    /// The transport of the last query. A response that did not fit a datagram is fetched over TCP.
    pub carrier: Carrier,
    /// Time for all its queries.
    pub duration: Duration,
    /// The response, or why there is none.
    pub response: Result<Message, String>,
}

/// Asks all servers of these groups at once, and waits for each up to `patience`. The answers are in the order of the groups
/// and of their servers. A server that is in several groups is asked for each.
pub async fn ask_each(
    upstreams: &Upstreams,
    groups: &[usize],
    question: &Query,
    patience: Duration,
) -> Vec<ServerAnswer> {
    let servers = groups
        .iter()
        .flat_map(|&group| &upstreams.groups[group].servers);
    let mut asked = JoinSet::new();
    for (place, server) in servers.enumerate() {
        let (server, question) = (Arc::clone(server), question.clone());
        asked.spawn(async move { (place, ask(server, question, patience).await) });
    }
    // `join_all` panics if one of the tasks did.
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn ask(server: Arc<Server>, question: Query, patience: Duration) -> ServerAnswer {
    let start = runtime::now();
    let mut carrier = server.carrier();
    let response = timeout(patience, async {
        loop {
            let response = exchange(&server, carrier, question.clone(), server.form()).await?;
            let message = Message::from_vec(&response).map_err(std::io::Error::other)?;
            if carrier == Carrier::Stream || !message.metadata.truncation {
                return Ok::<_, std::io::Error>(message);
            }
            carrier = Carrier::Stream;
        }
    })
    .await;
    ServerAnswer {
        state: server.state(),
        duration: runtime::since(start),
        response: match response {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        },
        carrier,
        server,
    }
}
