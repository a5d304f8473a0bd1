//! One exchange with one server: a question goes out, and what comes back is matched, checked and delivered.
//!
//! Owns upstream sockets, which belong to one worker each. Knows nothing of other servers: which one is asked, and what
//! happens when it fails, is `upstream`'s, which hears of everything through an [`Observer`].

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
