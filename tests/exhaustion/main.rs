//! What is scarce, taken by others: honest clients ask all the time, and hear what is right. The real binary in memory cgroups
//! and network namespaces of its own. Needs root, iproute2, nftables, conntrack, dig
//! and Python:
//!
//!     cargo test --test exhaustion -- --ignored --test-threads=1 --nocapture

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod conntrack;
mod cpu;
mod descriptors;
mod disk;
mod forged;
mod honest;
mod large;
mod messages;
mod names;
mod network;
mod ports;
mod processes;
mod scene;
mod sources;
