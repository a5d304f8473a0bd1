//! A host that is out of something: the real binary in network namespaces of its own, judged by what its clients hear, by
//! /metrics and by the log. Needs root, iproute2, dig and Python; `.ci/run` runs it.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod disk;
mod ports;
