//! A query's way through a worker, from its bytes to the reply's.
//!
//! - [`query_path`]: the whole way on one page, serve → forward → fly → land;
//! - [`admission`]: which clients may ask, and when the upstreams are not asked;
//! - [`flights`] and [`waiting`]: questions in flight, and their waiters;
//! - `resolve`: which questions a flight asks; [`aliases`]: targets of aliases; `dns64`: addresses for names without IPv6;
//!   `denials`: NXDOMAIN for a name that has addresses of the other family;
//! - [`replies`]: the replies to clients; `query_log`: the log of replies;
//! - [`local`]: answers from the configuration; `own_answers`: answers that a route gives by itself;
//! - [`recent_failures`] and [`top`]: what /status shows of queries;
//! - [`worker`] and [`setup`]: a worker's state, and the parts of one configuration;
//! - [`inheritance`]: which entries of a predecessor's cache may be served;
//! - [`client`]: what is known of a query's client; [`metrics`] and [`coredns`]: counts of queries and replies.
//!
//! Must not know listeners: a listener gives a [`waiting::ReplyTo`] with each query.

pub mod admission;
pub mod aliases;
pub mod client;
pub mod coredns;
mod denials;
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
