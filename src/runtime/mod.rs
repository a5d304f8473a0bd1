//! What a worker's thread does between two looks of tokio's runtime at its sockets.
//!
//! Whoever has read a socket opens a *turn* ([`Turns::begin`]). Flights that can go on because of what was read do so at the
//! turn's end, in the reader's own task, and what they wrote leaves then, all together. So a query wakes two tasks, one for
//! each socket that is read for it, and none to be asked, to be answered or to be sent.

pub mod timeout;
pub mod timers;
pub mod turns;

pub use turns::{Leaving, Turns};
