//! nodens: one nameserver on every Kubernetes node that always answers.
//!
//! # The life of a query
//! A client's message arrives at a [`listener`], on one of a worker's sockets. [`serving::query_path`] is the whole path on
//! one page: the message is read ([`message::query`]), looked up ([`cache`]), routed ([`upstream::routes`]), asked of an
//! [`upstream`] group over a [`transport`], and stamped ([`message::reply`]). Nothing crosses threads on the way.
//!
//! # Words
//! - *query*: from a client; *reply*: to a client; *response*: from an upstream server.
//! - *route*: a zone and the groups its names go to; *group*: servers that share one view of names; *tier*: a group's
//!   place in a route; *server*: one upstream server.
//! - *try*: one query to one server; *hedge*: a further try while an earlier one is overdue; *flight*: a question being
//!   asked, with all clients that wait for it.

pub mod budgets;
pub mod cache;
pub mod cli;
pub mod config;
pub mod diagnosis;
pub mod lab;
pub mod listener;
pub mod message;
pub mod metrics;
pub mod net;
pub mod node;
pub mod process;
pub mod runtime;
pub mod serving;
pub mod transport;
pub mod upstream;
