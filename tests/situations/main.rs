//! What real networks send: one test for each situation, the real binary between a client's socket and scripted servers.
//!
//! Each test shows the situation (what the servers say), the question, and the reply that is right. The scripts are
//! closures over one query, made of [`server::Query`] (what was asked) and [`wire::Says`] (what is answered, as text).
//!
//! | File | Situations |
//! |---|---|
//! | `answers` | wrong data: tiers, referrals that are none, stale "no such name", bogus, DS, TTLs, header bits |
//! | `aliases` | CNAMEs that lead from one route into another |
//! | `streams` | TCP and TLS servers that close early, and server connections that grow old |
//! | `truncation` | cut and oversized datagrams, servers with UDP only, compression where a reply does not fit |
//! | `edns` | servers that refuse EDNS or the AD bit |
//! | `denied` | names that are denied although they were answered a moment ago |
//! | `dns64` | names without IPv6 addresses in an IPv6-only cluster |
//! | `families` | names that are denied for one family of addresses, and have the other |
//! | `errors` | extended errors of servers |
//! | `names` | the longest names, an address type without a SOA, signed queries |
//! | `policies` | zones, types and names that are answered here |
//! | `query_log` | what the query log says, and that nobody can forge a line |
//! | `clients` | idle timeouts, shutting down, file descriptors, who may ask, listeners |
//! | `budgets` | datagrams sent for each question |
//! | `slow` | servers that need longer than a try may take |
//! | `unasked` | records that nobody asked for: another type, another name, DNSSEC |
//! | `metrics` | what Prometheus reads |
//!
//! What takes more than 10 s, or needs a tool, is ignored, with the reason; `.ci/run` runs all:
//!
//! ```text
//! cargo test --test situations -- --include-ignored --test-threads=1
//! ```

#![allow(missing_docs, reason = "no library")]

#[path = "../common/mod.rs"]
mod common;

mod aliases;
mod answers;
mod budgets;
mod client;
mod clients;
mod denied;
mod dns64;
mod edns;
mod errors;
mod families;
mod metrics;
mod names;
mod policies;
mod query_log;
mod server;
mod slow;
mod streams;
mod truncation;
mod unasked;
mod wire;
