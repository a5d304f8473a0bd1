//! Loops: an upstream that leads back to our own listeners, directly or through others.
//!
//! Each server is asked for a name that nobody else knows; if that question arrives here, the server gets no queries until
//! it no longer does.

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

/// How often each server is asked.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The same for one that leads back to us.
const LOOPED_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// What follows the first label of every loop probe's name: nobody delegates it (RFC 6761 §6.4), so nobody else is
/// troubled. The zone by which the group is reached comes behind it, so that loops through that zone are found too.
const LABELS: &[u8] = b"\x06nodens\x07invalid";
/// Octets of the first label, its length included.
const FIRST_LABEL_LEN: usize = 17;

/// Names asked by loop probes in flight, and whether one of them came back to our own listeners.
#[derive(Debug, Default)]
pub struct LoopNames(Mutex<HashMap<Vec<u8>, bool>>);

impl LoopNames {
    /// Whether a client's name is that of a loop probe of ours; remembers that it came.
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

    /// Forgets a name; whether it came back.
    fn take(&self, name: &[u8]) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
            .unwrap_or(false)
    }
}

/// How long until a server is to be checked again.
pub(super) fn interval(server: &Server) -> Duration {
    if server.looped() {
        LOOPED_CHECK_INTERVAL
    } else {
        CHECK_INTERVAL
    }
}

/// Asks for a name nobody else knows, and looks whether the question arrives at our own listeners.
pub(super) async fn check(zone: String, names: Arc<LoopNames>, server: Arc<Server>) {
    let label = format!("{:016x}", fastrand::u64(..));
    // A zone too long for the name in front of it is left unchecked.
    let Ok(name) = Name::from_ascii(format!("{label}.nodens.invalid.{zone}")) else {
        return;
    };
    let wire = wire_name(&name);
    names.expect(wire.clone());
    let question = Query::query(name, RecordType::TXT);
    // Lost or answered, what matters is whether we saw it.
    let asked = timeout(
        server.try_timeout,
        ask(&server, server.carrier(), question, server.form()),
    )
    .await;
    let came_back = names.take(&wire);
    if !came_back && matches!(&asked, Ok(Err(error)) if shortage(error).is_some()) {
        // Nothing was asked, and what was found out before holds on.
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
