//! DNS messages: bytes in and out. No sockets, no clock, no configuration.

pub mod alias;
pub mod compress;
pub mod dns64;
pub mod ede;
pub mod form;
pub mod framing;
pub mod labels;
pub mod own;
pub mod query;
mod rdata;
pub mod record_text;
pub mod regular;
pub mod reply;
pub mod response;
pub mod wire;
