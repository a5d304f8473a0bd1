//! Metrics of the node's interface, addresses and rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounterVec, IntGauge};

use crate::metrics::{PerLabel, Registry, impl_label};

/// A part of `node:` that could not be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePart {
    /// The interface, or an address.
    Interface,
    /// The rules.
    Rules,
}

impl_label!(NodePart {
    Interface => "interface",
    Rules => "rules",
});

/// The state of the node, as `node:` wants it.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    /// 1 while interface, addresses and rules are in place.
    pub setup_success: IntGauge,
    /// Its series appear with the first [`NodeMetrics::watched`].
    repairs: IntCounterVec,
    failed_checks: Arc<PerLabel<NodePart, AtomicU64>>,
}

impl NodeMetrics {
    /// No trouble so far.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let setup_success = registry.gauge(
            "nodens_node_setup_success",
            "1 while the interface, addresses and rules of `node:` are in place, or none are wanted; 0 while they are not.",
        );
        setup_success.set(1);
        let repairs = registry.counters(
            "nodens_node_repairs_total",
            "What of `node:` somebody else removed and was put back: interface, address or rules.",
            &["object"],
        );
        Self {
            setup_success,
            repairs,
            failed_checks: Arc::new(PerLabel::new(|_| AtomicU64::new(0))),
        }
    }

    /// A check found a part missing and could not put it back.
    pub fn check_failed(&self, part: NodePart) {
        self.failed_checks.of(part).fetch_add(1, Ordering::Relaxed);
    }

    /// How often that happened.
    #[must_use]
    pub fn failed_checks(&self, part: NodePart) -> u64 {
        self.failed_checks.of(part).load(Ordering::Relaxed)
    }

    /// Checks begin: registers the count of repairs at 0.
    pub fn watched(&self) {
        for object in ["interface", "address", "rules"] {
            let _ = self.repairs.with_label_values(&[object]);
        }
    }

    /// An `interface`, an `address` or the `rules` were put back.
    pub fn repaired(&self, object: &'static str) {
        self.repairs.with_label_values(&[object]).inc();
    }
}
