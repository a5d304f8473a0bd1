//! Client sockets: datagrams and streams in, replies out. What a message means is `serving`'s.

pub mod slots;
pub mod tcp;
pub mod udp;
