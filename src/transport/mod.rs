//! One exchange with one server: a query is sent, and received messages are matched to it, checked and delivered.
//!
//! Owns upstream sockets, each of which belongs to one worker. Knows nothing of other servers: `upstream` decides which server
//! is asked, and what happens when a server fails. It learns the results of all exchanges through an [`Observer`].

pub mod exchange;
pub mod https;
pub mod in_flight;
pub mod metrics;
pub mod peer;
pub mod random;
pub mod stream;
pub mod tls;
pub mod udp;

pub use exchange::{Delivery, Exchange, Mailbox, SharedQuestion, TryError};
pub use peer::{AnswerQuality, Carrier, Observer, Peer};
