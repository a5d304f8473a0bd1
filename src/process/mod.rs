//! The process: what is started, changed and stopped, and how people and programs look into it.

pub mod addresses;
pub mod admin;
pub mod app;
pub mod reload;
