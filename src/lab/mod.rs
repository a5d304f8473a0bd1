//! Servers and clients that the demo and the tests put around the proxy. Nothing that serves real clients may depend on
//! it.

pub mod scene;
pub mod stand_in;
