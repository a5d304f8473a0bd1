//! Limits on TCP connections of clients: their number in all and for each client address, and the memory that they hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge};

use crate::config::TcpConfig;
use crate::metrics::Registry;

/// Metrics of TCP connections of clients.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// Open connections.
    pub open: IntGauge,
    /// Connections that were closed to free slots or memory.
    pub evicted: IntCounter,
}

impl ConnectionMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            open: registry.gauge("nodens_tcp_connections", "Client connections over TCP now."),
            evicted: registry.counter(
                "nodens_tcp_evicted_total",
                "Client connections over TCP closed to make room: the longest idle for new ones, and those that take no replies for memory.",
            ),
        }
    }
}

/// Counts the connections of all workers, in all and by client address.
#[derive(Debug)]
pub struct ConnectionSlots {
    counts: Mutex<ConnectionCounts>,
    /// Octets of memory that all connections hold.
    held: AtomicUsize,
    /// Number of connections that there are file descriptors for. A larger `tcp.max_connections` does not count.
    most: usize,
    /// Metrics of the connections.
    pub metrics: ConnectionMetrics,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    total: usize,
    by_client: HashMap<IpAddr, usize, ahash::RandomState>,
}

/// The limit that a new connection would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `tcp.max_connections`, or the number that there are file descriptors for.
    Total,
    /// `tcp.max_connections_per_client`.
    Client,
}

impl ConnectionSlots {
    /// Without connections. There are file descriptors for `most`.
    #[must_use]
    pub fn new(metrics: ConnectionMetrics, most: usize) -> Self {
        Self {
            counts: Mutex::default(),
            held: AtomicUsize::new(0),
            most,
            metrics,
        }
    }

    /// Changes what is counted for one connection: it held `before` octets, and holds `now`.
    pub fn hold(&self, before: usize, now: usize) {
        if now >= before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Octets of memory that all connections hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, ConnectionCounts> {
        // A panic cannot leave the counts in a broken state.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's slot; dropping it frees it.
pub struct Slot {
    slots: Arc<ConnectionSlots>,
    client: IpAddr,
}

impl Slot {
    /// A slot for a connection of this client.
    ///
    /// # Errors
    /// The limit that the connection would exceed.
    pub fn take(
        slots: &Arc<ConnectionSlots>,
        config: &TcpConfig,
        client: IpAddr,
    ) -> Result<Self, Full> {
        let mut counts = slots.counts();
        let of_client = counts.by_client.get(&client).copied().unwrap_or(0);
        if of_client >= config.max_connections_per_client {
            return Err(Full::Client);
        }
        if counts.total >= config.max_connections.min(slots.most) {
            return Err(Full::Total);
        }
        counts.total += 1;
        counts.by_client.insert(client, of_client + 1);
        slots.metrics.open.inc();
        Ok(Self {
            slots: Arc::clone(slots),
            client,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts();
        counts.total -= 1;
        if let Some(of_client) = counts.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&self.client);
            }
        }
        self.slots.metrics.open.dec();
    }
}
