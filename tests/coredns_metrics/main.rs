//! Families under `CoreDNS`'s names (`metrics.coredns`): what they count, that their names, labels and buckets are those of
//! `CoreDNS`, and that what its dashboards and alerts ask for is there.
//!
//! Two tests are ignored by default: `what_dashboards_and_alerts_ask_for_is_there` needs Prometheus (Debian's package prometheus),
//! `families_and_counts_are_those_of_a_real_coredns` a `CoreDNS`:
//!
//!     NODENS_COREDNS=/path/to/coredns cargo test --test coredns_metrics -- --ignored --nocapture

#[path = "../common/mod.rs"]
mod common;
mod expressions;
mod prometheus;
mod record;
mod scene;
mod scrape;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use common::dns::{Ask, Over, rcode, rr};
use common::{Nodens, wait_for};
use record::{FAMILIES, NOT_HERE, Of, Recorded};
use scene::{QUERIES, Running, Who, ask, get, server};
use scrape::Scrape;

/// Counts by the values of labels, as [`Scrape::by`] gives them.
type Counts = BTreeMap<Vec<String>, f64>;

fn counts<const LABELS: usize>(expected: &[([&str; LABELS], f64)]) -> Counts {
    let of = |(values, count): &([&str; LABELS], f64)| {
        (
            values.iter().map(|&value| value.to_owned()).collect(),
            *count,
        )
    };
    expected.iter().map(of).collect()
}

/// Waits until so many replies are counted: workers hand their counts in from time to time only. They hand these in last,
/// and a scrape reads them last, so only the next scrape has all counts.
fn after_replies(what: impl Fn() -> Scrape, replies: f64) -> Scrape {
    wait_for("all replies to be counted", || {
        let counted = what().sum("coredns_dns_responses_total");
        assert!(counted <= replies, "{counted} replies are counted");
        (counted >= replies).then(&what)
    })
}

#[test]
fn nothing_is_there_without_the_key() {
    let server = server();
    let nodens = Nodens::start(&format!(
        "upstreams: {{vpc: {{servers: [\"{}\"]}}}}",
        server.address
    ));
    Ask::new("a.ok.example", rr::A).send(nodens.address(), Over::Udp);
    nodens.wait_for_metric("nodens_queries_total", &[], 1.0);
    let (_, text) = nodens.get("/metrics");
    assert!(!text.contains("coredns"), "{text}");
}

/// What is asked at an address of IPv4 and one of IPv6, and the code of each reply.
fn asked_of_both(v4: SocketAddr, v6: SocketAddr) -> [(Ask, SocketAddr, Over, u16); 13] {
    let plain = |name: &str| Ask::new(name, rr::A);
    let of = |qtype| Ask::new("b.ok.example", qtype);
    let (ok, no) = (rcode::NOERROR, rcode::NXDOMAIN);
    [
        (plain("a.ok.example"), v4, Over::Udp, ok),
        (plain("A.ok.example"), v4, Over::Udp, ok),
        (plain("a.ok.example"), v4, Over::Tcp, ok),
        (plain("a.ok.example"), v6, Over::Udp, ok),
        (plain("gone.example"), v4, Over::Udp, no),
        (plain("gone.example"), v6, Over::Tcp, no),
        (plain("sick.example"), v4, Over::Udp, rcode::SERVFAIL),
        (plain("host.example"), v4, Over::Udp, ok),
        (plain("x.internal"), v4, Over::Udp, no),
        (plain("elsewhere.test"), v4, Over::Udp, rcode::REFUSED),
        (of(rr::A).dnssec_ok(), v4, Over::Udp, ok),
        (of(rr::NSEC3), v4, Over::Udp, ok),
        (of(rr::CAA), v4, Over::Udp, ok),
    ]
}

/// Each fact of our own families that is the same number there.
const SAME_AS_OURS: [(&str, &str); 10] = [
    ("coredns_dns_requests_total", "nodens_queries_total"),
    ("coredns_dns_responses_total", "nodens_replies_total"),
    (
        "coredns_dns_request_duration_seconds_count",
        "nodens_reply_duration_seconds_count",
    ),
    (
        "coredns_dns_request_size_bytes_count",
        "nodens_queries_total",
    ),
    (
        "coredns_dns_response_size_bytes_count",
        "nodens_replies_total",
    ),
    ("coredns_cache_hits_total", "nodens_cache_hits_total"),
    ("coredns_cache_misses_total", "nodens_cache_misses_total"),
    ("coredns_cache_entries", "nodens_cache_entries"),
    (
        "coredns_proxy_request_duration_seconds_count",
        "nodens_upstream_duration_seconds_count",
    ),
    (
        "coredns_forward_requests_total",
        "nodens_upstream_tries_total",
    ),
];

#[test]
fn every_reply_counts_under_its_address_and_zone() {
    let server = server();
    let yaml = format!(
        "metrics: {{coredns: true}}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}\n\
         routes: {{ok.example: vpc, gone.example: vpc, sick.example: vpc, internal: {{answer: NXDOMAIN}}}}\n\
         records: {{host.example: {{A: 192.0.2.8}}}}",
        server.address
    );
    let nodens = Nodens::start_on(&["127.0.0.1:0", "[::1]:0"], &yaml);
    let [v4, v6] = nodens.listen[..] else {
        panic!("two addresses");
    };
    let (mut sent, mut octets) = (0.0, 0.0);
    for (ask, to, over, code) in asked_of_both(v4, v6) {
        assert_eq!(ask.send(to, over).rcode(), code, "{ask:?}");
        sent += 1.0;
        octets += f64::from(u16::try_from(ask.message().len()).expect("a message"));
    }
    let scrape = after_replies(|| Scrape::read(&nodens.get("/metrics").1), sent);
    let (v4, v6) = (format!("dns://{v4}"), format!("dns://{v6}"));
    let to = server.address.to_string();
    let by = |family: &str, labels: &str| {
        let labels: Vec<&str> = labels.split(' ').filter(|name| !name.is_empty()).collect();
        scrape.by(family, &labels)
    };

    assert_eq!(
        by(
            "coredns_dns_requests_total",
            "server zone family proto type"
        ),
        counts(&[
            ([&*v4, "ok.example.", "1", "udp", "A"], 3.0),
            ([&*v4, "ok.example.", "1", "tcp", "A"], 1.0),
            ([&*v4, "ok.example.", "1", "udp", "NSEC3"], 1.0),
            ([&*v4, "ok.example.", "1", "udp", "other"], 1.0),
            ([&*v6, "ok.example.", "2", "udp", "A"], 1.0),
            ([&*v4, "gone.example.", "1", "udp", "A"], 1.0),
            ([&*v6, "gone.example.", "2", "tcp", "A"], 1.0),
            ([&*v4, "sick.example.", "1", "udp", "A"], 1.0),
            ([&*v4, "internal.", "1", "udp", "A"], 1.0),
            ([&*v4, ".", "1", "udp", "A"], 1.0),
            ([&*v4, "dropped", "1", "udp", "A"], 1.0),
        ])
    );
    assert_eq!(
        by("coredns_dns_responses_total", "zone rcode plugin"),
        counts(&[
            (["ok.example.", "NOERROR", "forward"], 4.0),
            (["ok.example.", "NOERROR", "cache"], 3.0),
            (["gone.example.", "NXDOMAIN", "forward"], 1.0),
            (["gone.example.", "NXDOMAIN", "cache"], 1.0),
            (["sick.example.", "SERVFAIL", ""], 1.0),
            (["internal.", "NXDOMAIN", "template"], 1.0),
            ([".", "NOERROR", "hosts"], 1.0),
            (["dropped", "REFUSED", ""], 1.0),
        ])
    );
    assert_eq!(
        by("coredns_dns_do_requests_total", "server zone"),
        counts(&[([&*v4, "ok.example."], 1.0)])
    );
    assert_eq!(
        by("coredns_cache_hits_total", "server zones type"),
        counts(&[
            ([&*v4, "ok.example.", "success"], 2.0),
            ([&*v6, "ok.example.", "success"], 1.0),
            ([&*v6, "gone.example.", "denial"], 1.0),
        ])
    );
    // What has no SOA is kept, too: two negative answers of b.ok.example.
    assert_eq!(
        by("coredns_cache_entries", "zones type"),
        counts(&[
            (["ok.example.", "success"], 2.0),
            (["ok.example.", "denial"], 2.0),
            (["gone.example.", "denial"], 1.0),
        ])
    );
    for family in [
        "coredns_proxy_request_duration_seconds_count",
        "coredns_forward_request_duration_seconds_count",
        "coredns_forward_responses_total",
    ] {
        // The only server is asked once more after SERVFAIL.
        let answers = counts(&[
            ([&*to, "NOERROR"], 4.0),
            ([&*to, "NXDOMAIN"], 1.0),
            ([&*to, "SERVFAIL"], 2.0),
        ]);
        assert_eq!(by(family, "to rcode"), answers, "{family}");
    }

    for (theirs, ours) in SAME_AS_OURS {
        assert_same(scrape.sum(theirs), scrape.sum(ours), theirs);
    }
    let sockets = scrape.sum("coredns_proxy_conn_cache_hits_total")
        + scrape.sum("coredns_proxy_conn_cache_misses_total");
    assert_same(sockets, 7.0, "queries sent");
    let size = scrape.sum("coredns_dns_request_size_bytes_sum");
    assert_same(size, octets, "octets");
    let requests = scrape.sum("coredns_cache_requests_total");
    assert_same(requests, 10.0, "queries that the cache could have answered");
}

/// Whole numbers, as floating-point numbers.
fn assert_same(number: f64, expected: f64, what: &str) {
    assert!(
        (number - expected).abs() < 0.5,
        "{what}: {number}, and not {expected}"
    );
}

/// The families of one that runs the scene's Corefile and was asked everything.
fn scraped(who: Who) -> (Scrape, Running) {
    let server = server();
    let running = Running::start(who, server.address, None);
    ask(running.address);
    let replies = f64::from(u32::try_from(QUERIES.len()).expect("few"));
    // And the one that waited for it to answer.
    let scrape = after_replies(|| running.scrape(), replies + 1.0);
    (scrape, running)
}

/// What differs between a scrape and the record.
fn differences(scrape: &Scrape, wanted: impl Fn(&Recorded) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for recorded in FAMILIES.iter().filter(|recorded| wanted(recorded)) {
        let name = recorded.name;
        let Some(family) = scrape.0.get(name) else {
            found.push(format!("{name} is missing"));
            continue;
        };
        let labels: BTreeSet<&str> = recorded.labels.iter().copied().collect();
        if family.kind != recorded.kind {
            found.push(format!("{name} is a {}", family.kind));
        }
        if family.label_names() != labels {
            found.push(format!("{name} has the labels {:?}", family.label_names()));
        }
        if family.bounds() != recorded.bounds {
            found.push(format!("{name} has the buckets {:?}", family.bounds()));
        }
    }
    found
}

fn recorded_names(wanted: impl Fn(&Recorded) -> bool) -> BTreeSet<String> {
    let all = FAMILIES.iter().filter(|recorded| wanted(recorded));
    all.map(|recorded| recorded.name.to_owned()).collect()
}

#[test]
fn a_corefile_with_prometheus_has_the_families_of_coredns() {
    let (scrape, _running) = scraped(Who::Nodens);
    let not_of_node = |recorded: &Recorded| recorded.of != Of::NodeCache;
    assert_eq!(differences(&scrape, not_of_node), Vec::<String>::new());
    assert_eq!(scrape.names("coredns_"), recorded_names(not_of_node));
}

#[test]
fn the_documented_families_are_those_of_the_record() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coredns.md");
    let page = fs::read_to_string(page).expect("the document");
    let rows = page.lines().filter_map(|line| {
        let name = line.strip_prefix("| `coredns_")?.split('`').next()?;
        Some(format!("coredns_{name}"))
    });
    let documented: Vec<String> = rows.collect();
    let names: BTreeSet<String> = documented.iter().cloned().collect();
    assert_eq!(names.len(), documented.len(), "each has one row");
    assert_eq!(names, recorded_names(|_| true));
}

#[test]
fn health_and_refused_changes_are_counted() {
    let server = server();
    let running = Running::start(Who::Nodens, server.address, None);
    let asked = "coredns_health_request_duration_seconds_count";
    let before = running.scrape().sum(asked);
    assert_eq!(
        get(running.health, "/health").map(|(code, _)| code),
        Some(200)
    );
    let scrape = running.scrape();
    assert_same(scrape.sum(asked), before + 1.0, asked);
    for family in [
        "coredns_health_request_failures_total",
        "coredns_reload_failed_total",
    ] {
        assert_same(scrape.sum(family), 0.0, family);
    }
    running.break_corefile();
    wait_for("the mistake to be counted", || {
        (running.scrape().sum("coredns_reload_failed_total") > 0.5).then_some(())
    });
}

/// What must be the same number there and here, by these labels. Zones differ by intent: ours are those of routes.
const SAME: [(&str, &[&str]); 8] = [
    ("coredns_dns_requests_total", &["proto", "family", "type"]),
    ("coredns_dns_responses_total", &["rcode"]),
    ("coredns_dns_do_requests_total", &[]),
    ("coredns_dns_request_size_bytes_count", &["proto"]),
    ("coredns_dns_request_size_bytes_sum", &["proto"]),
    ("coredns_dns_response_size_bytes_count", &["proto"]),
    ("coredns_cache_hits_total", &["type"]),
    (
        "coredns_proxy_request_duration_seconds_count",
        &["proxy_name", "rcode"],
    ),
];

#[test]
#[ignore = "needs a CoreDNS, which NODENS_COREDNS names"]
fn families_and_counts_are_those_of_a_real_coredns() {
    let Some(binary) = scene::coredns() else {
        println!("SKIPPED: NODENS_COREDNS names no CoreDNS to compare with");
        return;
    };
    let (theirs, _coredns) = scraped(Who::Coredns);
    let (ours, _nodens) = scraped(Who::Nodens);
    println!(
        "{binary}: version {:?}",
        theirs.values("coredns_build_info", "version")
    );
    let in_scene = |recorded: &Recorded| recorded.of == Of::Scene;
    assert_eq!(differences(&theirs, in_scene), Vec::<String>::new());
    let mut known = recorded_names(|recorded| matches!(recorded.of, Of::Scene | Of::Event));
    known.extend(NOT_HERE.map(str::to_owned));
    let unknown: Vec<_> = theirs
        .names("coredns_")
        .difference(&known)
        .cloned()
        .collect();
    assert_eq!(unknown, Vec::<String>::new(), "not in the record");
    for (family, labels) in SAME {
        let (theirs, ours) = (theirs.by(family, labels), ours.by(family, labels));
        println!("{family}{labels:?}: {ours:?}");
        assert_eq!(ours, theirs, "{family} by {labels:?}: here, and there");
    }
    // The plugins that the Corefile names, and that answer here.
    let plugins = |scrape: &Scrape| scrape.values("coredns_plugin_enabled", "name");
    let (theirs, ours) = (plugins(&theirs), plugins(&ours));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(
        missing.is_empty(),
        "enabled there and not here: {missing:?}"
    );
}
