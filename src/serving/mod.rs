//! A query's way through a worker.

pub mod flights;
pub mod local;
pub mod query_path;
pub mod replies;
pub mod setup;
pub mod worker;
