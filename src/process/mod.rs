//! The process: its start, changes and stop, and the interfaces by which people and programs watch it.

pub mod addresses;
pub mod admin;
pub mod app;
pub mod change;
pub mod coredns;
pub mod files;
pub mod handover;
mod host_names;
pub mod last_good;
mod memory_limit;
pub mod metrics;
pub mod readiness;
pub mod reload;
pub mod reload_status;
pub mod scheduling;
mod take_over;
pub mod threads;
