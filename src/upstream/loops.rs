//! Finds loops: upstream servers that forward our queries to our own listeners, directly or through others.
//!
//! Each server is asked for a random name. If the question arrives at our listeners, the server gets no queries until a
//! later check finds no loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};

use super::probe_exchange::ask;
use super::server::Server;
use crate::message::query::wire_name;
use crate::net::open::shortage;
use crate::runtime;
use crate::runtime::timeout::timeout;

/// Time between two checks of a server.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two checks of a server that loops.
const LOOPED_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Labels after the first one in the name of a loop probe. Nobody delegates this name (RFC 6761 §6.4), so the question
/// reaches no authoritative server. The zone of the group's routes follows, so that loops through that zone are found, too.
const LABELS: &[u8] = b"\x06nodens\x07invalid";
/// Octets of the first label, with its length octet.
const FIRST_LABEL_LEN: usize = 17;

/// Names of the loop probes in flight, each with whether its question has come back to our listeners.
#[derive(Debug, Default)]
pub struct LoopNames(Mutex<HashMap<Vec<u8>, bool>>);

impl LoopNames {
    /// Whether a client's name is that of one of our loop probes. If so, remembers that the question came back.
    #[must_use]
    pub fn is_ours(&self, name: &[u8]) -> bool {
        if !name
            .get(FIRST_LABEL_LEN..)
            .is_some_and(|rest| rest.starts_with(LABELS))
        {
            return false;
        }
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            Some(came_back) => {
                *came_back = true;
                true
            }
            None => false,
        }
    }

    fn expect(&self, name: Vec<u8>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, false);
    }

    /// Forgets a name, and returns whether its question came back.
    fn take(&self, name: &[u8]) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
            .unwrap_or(false)
    }
}

/// Time until the next check of a server.
pub(super) fn interval(server: &Server) -> Duration {
    if server.looped() {
        LOOPED_CHECK_INTERVAL
    } else {
        CHECK_INTERVAL
    }
}

/// Asks a server for a random name, and checks whether the question arrives at our listeners.
pub(super) async fn check(zone: String, names: Arc<LoopNames>, server: Arc<Server>) {
    let label = format!("{:016x}", fastrand::u64(..));
    // If the zone is so long that the whole name is no valid one, the server is not checked.
    let Ok(name) = Name::from_ascii(format!("{label}.nodens.invalid.{zone}")) else {
        return;
    };
    let wire = wire_name(&name);
    names.expect(wire.clone());
    let question = Query::query(name, RecordType::TXT);
    // The response does not matter, only whether the question came back.
    let asked = timeout(
        server.try_timeout,
        ask(&server, server.carrier(), question, server.form()),
    )
    .await;
    let came_back = names.take(&wire);
    if !came_back && matches!(&asked, Ok(Err(error)) if shortage(error).is_some()) {
        // No query was sent, so the result of the last check holds.
        return;
    }
    if came_back && !server.looped() {
        tracing::error!(
            group = &*server.group,
            server = %server.label,
            "this upstream leads back to nodens itself and is not used until it no longer does; name a server that \
             does not forward to this node's address"
        );
    }
    server.set_looped(came_back, runtime::now());
}
