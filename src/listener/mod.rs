//! Client sockets: reads queries from datagrams and streams, and sends replies. `serving` decides what a message means.

pub mod slots;
pub mod tcp;
pub mod udp;
