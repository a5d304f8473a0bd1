//! Upstream servers by host name: resolved by another group, again as TTLs say, and put in place while clients ask.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::dns::{Ask, Message, Over, Section, failure, rcode, record, response, rr};
use common::stand_in::StandIn;
use common::{Nodens, wait_for};

/// The question is for this name and this type.
fn is_for(query: &[u8], name: &str, qtype: u16) -> bool {
    let question = Ask::new(name, qtype).question();
    query[12..].to_ascii_lowercase().starts_with(&question)
}

fn answering(last: u8) -> StandIn {
    StandIn::new(move |query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, last])])])
}

fn octets(server: &StandIn) -> [u8; 4] {
    match server.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => panic!("{} is IPv4", server.address),
    }
}

fn ask(nodens: &Nodens, name: &str) -> Message {
    Ask::new(name, rr::A)
        .payload(1232)
        .send(nodens.address(), Over::Udp)
}

/// A server that knows `dns.corp.example A`: this address, or that there is no such name.
fn resolver(address: impl Fn() -> Option<[u8; 4]> + Send + Sync + 'static) -> StandIn {
    StandIn::new(move |query, _| {
        if !is_for(query, "dns.corp.example.", rr::A) {
            return vec![response(query, &[])];
        }
        vec![match address() {
            Some(ip) => response(query, &[record(rr::A, 1, &ip)]),
            None => failure(query, rcode::NXDOMAIN),
        }]
    })
}

/// The last octet of the first address of a reply.
fn answer(reply: &Message) -> Option<u8> {
    let mut records = reply.section(Section::Answer);
    records
        .next()
        .and_then(|record| record.rdata.last().copied())
}

fn extended_errors(reply: &Message) -> String {
    let options = reply.opt.as_ref().map(|opt| opt.options.clone());
    String::from_utf8_lossy(&options.unwrap_or_default()).into_owned()
}

/// `dns.corp.example` at this port, resolved by this server.
fn config(port: u16, resolver: &StandIn) -> String {
    format!(
        "workers: 1\nupstreams:\n  boot: {{servers: [\"{}\"], try_timeout: 300ms}}\n  corp: {{servers: [\"dns.corp.example:{port}@boot\"]}}\n\
         routes: {{\".\": corp, boot.: boot}}\n",
        resolver.address
    )
}

/// The servers in /status of the group with a name in it.
fn servers(nodens: &Nodens) -> Vec<String> {
    let status = nodens.status();
    let groups = status["upstreams"].as_array().expect("groups").clone();
    let corp = groups.iter().find(|group| group["name"] == "corp");
    let servers = corp.expect("the group")["servers"].as_array().cloned();
    let name = |server: &serde_json::Value| server["server"].as_str().map(str::to_owned);
    servers.expect("a list").iter().filter_map(name).collect()
}

/// The one name in /status.
fn host(nodens: &Nodens) -> serde_json::Value {
    let status = nodens.status();
    let groups = status["upstreams"].as_array().expect("groups").clone();
    let corp = groups.iter().find(|group| group["name"] == "corp");
    corp.expect("the group")["hosts"][0].clone()
}

#[test]
fn a_name_becomes_the_servers_at_its_addresses() {
    let corp = answering(7);
    let ip = octets(&corp);
    let resolver = StandIn::new(move |query, _| {
        let found = is_for(query, "dns.corp.example.", rr::A);
        let other = record(rr::A, 300, &[127, 0, 0, 99]);
        let records = [other, record(rr::A, 300, &ip)];
        vec![response(query, if found { &records } else { &[] })]
    });
    let nodens = Nodens::start(&config(corp.address.port(), &resolver));
    wait_for("an answer", || answer(&ask(&nodens, "a.example.")));
    assert_eq!(answer(&ask(&nodens, "b.example.")), Some(7));
    let port = corp.address.port();
    let mut want = [format!("127.0.0.99:{port}"), corp.address.to_string()];
    want.sort();
    let mut got = servers(&nodens);
    got.sort();
    assert_eq!(got, want);
    let shown = host(&nodens);
    assert_eq!(shown["host"], "dns.corp.example@boot", "{shown}");
    assert_eq!(
        shown["addresses"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    assert_eq!(shown["failure"], serde_json::Value::Null, "{shown}");
}

#[test]
fn an_instance_whose_servers_have_no_address_yet_serves_and_says_why_it_cannot_answer() {
    let corp = answering(7);
    let ip = octets(&corp);
    let known = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&known);
    let resolver = resolver(move || says.load(Ordering::Relaxed).then_some(ip));
    let nodens = Nodens::start(&config(corp.address.port(), &resolver));
    wait_for("the failure in /status", || {
        (host(&nodens)["failure"] == "it has no address").then_some(())
    });
    let asked = Instant::now();
    let reply = ask(&nodens, "a.example.");
    assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
    assert!(asked.elapsed() < Duration::from_secs(1), "at once");
    let errors = extended_errors(&reply);
    let want = "corp: dns.corp.example@boot cannot be resolved (it has no address)";
    assert!(errors.contains(want), "{errors}");
    assert!(servers(&nodens).is_empty());
    let unresolved = |nodens: &Nodens| nodens.metric("nodens_upstream_unresolved_hosts", &[]);
    assert!((unresolved(&nodens) - 1.0).abs() < f64::EPSILON);
    known.store(true, Ordering::Relaxed);
    wait_for("an answer once it has an address", || {
        answer(&ask(&nodens, "a.example."))
    });
    assert!(unresolved(&nodens).abs() < f64::EPSILON);
}

#[test]
fn a_group_that_is_silent_at_first_resolves_names_later() {
    let corp = answering(7);
    let ip = octets(&corp);
    let resolver = resolver(move || Some(ip));
    resolver.set_silent(true);
    let nodens = Nodens::start(&config(corp.address.port(), &resolver));
    wait_for("the failure in /status", || {
        (host(&nodens)["failure"] == "no answer").then_some(())
    });
    resolver.set_silent(false);
    wait_for("an answer", || answer(&ask(&nodens, "a.example.")));
}

#[test]
fn a_reload_keeps_what_names_resolve_to() {
    let corp = answering(7);
    let ip = octets(&corp);
    let resolver = resolver(move || Some(ip));
    let yaml = config(corp.address.port(), &resolver);
    let nodens = Nodens::start(&yaml);
    wait_for("an answer", || answer(&ask(&nodens, "a.example.")));
    resolver.set_silent(true);
    nodens.rewrite(
        &["127.0.0.1:0"],
        &format!("{yaml}records: {{x.example: {{A: [192.0.2.9]}}}}\n"),
    );
    nodens.hang_up();
    wait_for("the record", || {
        (answer(&ask(&nodens, "x.example.")) == Some(9)).then_some(())
    });
    assert_eq!(answer(&ask(&nodens, "b.example.")), Some(7));
    assert_eq!(servers(&nodens), [corp.address.to_string()]);
}

#[test]
fn other_addresses_replace_servers_without_a_query_lost_and_a_failure_changes_nothing() {
    let one = answering(1);
    let port = one.address.port();
    let two = StandIn::at_port(port, |query, _| {
        vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 2])])]
    });
    let moved = Arc::new(AtomicBool::new(false));
    let (first, second, says) = (octets(&one), octets(&two), Arc::clone(&moved));
    let resolver = resolver(move || {
        let moved = says.load(Ordering::Relaxed);
        Some(if moved { second } else { first })
    });
    let nodens = Nodens::start(&config(port, &resolver));
    wait_for("an answer", || answer(&ask(&nodens, "first.example.")));
    moved.store(true, Ordering::Relaxed);
    nodens.hang_up();
    let mut number = 0;
    wait_for("an answer of the other server", || {
        number += 1;
        let last = answer(&ask(&nodens, &format!("n{number}.example.")));
        let last = last.expect("no query is lost");
        (last == 2).then_some(())
    });
    assert_eq!(servers(&nodens), [two.address.to_string()]);
    // What the server at the old address said holds on: by its name it is the same server.
    assert_eq!(answer(&ask(&nodens, "first.example.")), Some(1));
    resolver.set_silent(true);
    nodens.hang_up();
    wait_for("the failure in /status", || {
        (host(&nodens)["failure"] == "no answer").then_some(())
    });
    assert_eq!(servers(&nodens), [two.address.to_string()]);
    assert_eq!(answer(&ask(&nodens, "last.example.")), Some(2));
}
