//! Decides when to take the node's addresses from their other server: once our upstream servers answer.
//!
//! An instance that takes kube-dns's address before kube-proxy knows the way to its own upstream Service fails questions
//! that kube-dns would have answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep};

use super::readiness::{Readiness, StartPart};
use crate::budgets::{CONNECTIONS_OF_OTHERS, TAKE_OVER_TIME};
use crate::node::{Node, NodeError};
use crate::serving::setup::Setup;
use crate::serving::worker::Shared;
use crate::upstream::health::State;

/// Pause between checks of the servers, which delays a start by at most this time.
const LOOK: Duration = Duration::from_millis(20);

/// Addresses that are left to others, and the state that decides for how long.
pub(super) struct TakeOver {
    node: Arc<Node>,
    shared: Arc<Shared>,
    served: Arc<ArcSwap<Vec<SocketAddr>>>,
    readiness: Arc<Readiness>,
}

impl TakeOver {
    /// Not ready from now on until [`Self::run`] has ended.
    pub(super) fn new(
        node: &Arc<Node>,
        shared: &Arc<Shared>,
        served: &Arc<ArcSwap<Vec<SocketAddr>>>,
        readiness: &Arc<Readiness>,
    ) -> Self {
        readiness.awaits(StartPart::Addresses);
        Self {
            node: Arc::clone(node),
            shared: Arc::clone(shared),
            served: Arc::clone(served),
            readiness: Arc::clone(readiness),
        }
    }

    /// Waits until every route has a server that answers, for [`TAKE_OVER_TIME`] at most, and takes the addresses.
    pub(super) async fn run(self) {
        let began = Instant::now();
        let mut silent = silent_groups(&self.shared.current.load());
        while !silent.is_empty() && began.elapsed() < TAKE_OVER_TIME {
            sleep(LOOK).await;
            silent = silent_groups(&self.shared.current.load());
        }
        let waited = began.elapsed();
        if silent.is_empty() {
            tracing::info!(?waited, "our servers answer: the node's addresses are ours");
        } else {
            tracing::warn!(
                ?waited,
                groups = silent.join(", "),
                "no server has answered for some routes; the node's addresses are taken from others all the same"
            );
        }
        let listen = self.served.load_full();
        change(&self.node, move |node| node.take_over(&listen)).await;
        self.readiness.done(StartPart::Addresses);
        sleep(CONNECTIONS_OF_OTHERS).await;
        change(&self.node, Node::complete_take_over).await;
    }
}

/// Changes the node on a thread where this may take as long as the kernel holds its lock.
async fn change(
    node: &Arc<Node>,
    change: impl FnOnce(&Node) -> Result<(), NodeError> + Send + 'static,
) {
    let node = Arc::clone(node);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || change(&node)).await {
        tracing::error!(%error, "the node is not as it should be");
    }
}

/// The first groups of routes none of whose groups has a server that answers.
fn silent_groups(setup: &Setup) -> Vec<String> {
    let groups = &setup.upstreams.groups;
    let answers = |group: usize| {
        let mut states = groups[group].servers.iter().map(|server| server.state());
        states.any(|state| matches!(state, State::Good | State::Poor))
    };
    let mut silent: Vec<String> = setup
        .routes
        .iter()
        .filter(|route| !route.tiers.iter().any(|&group| answers(group)))
        .filter_map(|route| route.tiers.first())
        .map(|&group| groups[group].name.to_string())
        .collect();
    silent.sort();
    silent.dedup();
    silent
}
