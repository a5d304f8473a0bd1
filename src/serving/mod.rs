//! A query's way through a worker, from its bytes to the reply's.
//!
//! [`query_path`] is the whole way on one page: serve → forward → fly → land. [`admission`] says who may ask and when the
//! upstreams are not asked, [`flights`] who waits for what, `resolve` what a flight asks, [`aliases`] where aliases lead, `dns64`
//! which addresses are made for names without IPv6, [`replies`] what a client reads, `query_log` what is logged of it,
//! [`local`] what is answered from the configuration, `own_answers` what a route says by itself,
//! [`recent_failures`] and [`top`] what /status tells of queries, [`inheritance`] what is served of another process's cache. No listener is known here:
//! one gives a [`waiting::ReplyTo`] with each query.

pub mod admission;
pub mod aliases;
pub mod client;
pub mod coredns;
mod dns64;
pub mod flights;
pub mod inheritance;
pub mod local;
pub mod metrics;
mod own_answers;
mod query_log;
pub mod query_path;
pub mod recent_failures;
pub mod replies;
mod resolve;
pub mod setup;
pub mod top;
pub mod waiting;
pub mod worker;
