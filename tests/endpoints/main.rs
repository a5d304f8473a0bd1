//! A Service's address as a server: endpoints that end before kube-proxy knows, in network namespaces with kube-proxy's rules.
//! Needs root, iproute2, nftables, conntrack and procps; `.ci/run` runs it.

#![allow(missing_docs, reason = "no library")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod service;

use std::thread;
use std::time::Duration;

use client::{Asked, Client};
use common::namespace::{Instance, assert_root};
use common::wait_for;
use service::{Fate, OTHER, SERVICE, Service};

/// kube-proxy learns of a pod's end in a second, and of some in two.
const UNKNOWN: Duration = Duration::from_secs(2);
/// Between two pods of a roll, and before the first.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of all queries.
#[derive(Debug, Default)]
struct Sum {
    asked: usize,
    /// When, and after how long.
    servfail: Vec<(u32, u32)>,
    unanswered: usize,
    over_a_second: usize,
    over_four: usize,
    slowest: u32,
}

fn sum(queries: &[Asked]) -> Sum {
    let mut sum = Sum {
        asked: queries.len(),
        ..Sum::default()
    };
    for query in queries {
        match query.reply {
            None => sum.unanswered += 1,
            Some((0, took)) => {
                sum.over_a_second += usize::from(took > 1000);
                sum.over_four += usize::from(took > 4000);
                sum.slowest = sum.slowest.max(took);
            }
            Some((_, took)) => sum.servfail.push((query.at, took)),
        }
    }
    sum
}

fn tries(nodens: &Instance) -> usize {
    let (_, text) = nodens.page("/metrics").expect("it runs");
    let tries = text
        .lines()
        .filter(|line| line.starts_with("nodens_upstream_tries_total{"))
        .filter_map(|line| line.rsplit(' ').next());
    tries
        .map(|count| count.parse::<usize>().expect("a count"))
        .sum()
}

/// A client that asks nodens, on a node where the first server is a Service with two pods.
struct Scene {
    // In this order: processes end before their namespaces go.
    client: Client,
    nodens: Instance,
    service: Service,
}

impl Scene {
    /// The client has asked for a while.
    fn start(servers: &[&str]) -> Self {
        assert_root();
        let service = Service::new(&[11, 12]);
        let nodens = service.nodens(servers);
        let client = Client::start(&service.node, "127.0.0.1:53");
        thread::sleep(PAUSE);
        Self {
            client,
            nodens,
            service,
        }
    }
}

fn warnings(nodens: &Instance) -> Vec<String> {
    let log = nodens.process.log();
    let lines = log.lines().filter(|line| line.contains("WARN"));
    lines.map(str::to_owned).collect()
}

/// Whether what was to last so long did, more or less. A machine without CPU time for `nft` makes outages longer, and nodens later.
fn kept_up(sum: &Sum, planned: Duration) -> bool {
    let lasted = client::BETWEEN * u32::try_from(sum.asked).expect("few");
    let kept_up = lasted < planned + planned / 4;
    if !kept_up {
        println!("NOT CHECKED what was lost, or late: it took {lasted:?} instead of {planned:?}");
    }
    kept_up
}

/// Two pods of kube-dns are replaced, one after the other, while a client asks.
fn roll(fate: Fate, servers: &[&str]) {
    let scene = Scene::start(servers);
    for (ends, then) in [(11, [12, 13]), (12, [13, 14])] {
        scene.service.end(ends, fate);
        thread::sleep(UNKNOWN);
        scene.service.set_endpoints(&then);
        thread::sleep(PAUSE);
    }
    let sum = sum(&scene.client.end());
    let (tries, log) = (tries(&scene.nodens), scene.nodens.process.log());
    println!(
        "{fate:?}, {}: {tries} tries, {sum:?}",
        servers.join(" and ")
    );
    assert!(sum.asked > 1000, "{sum:?}");
    assert_eq!(sum.unanswered, 0, "{sum:?}\n{log}");
    if kept_up(&sum, PAUSE + 2 * (UNKNOWN + PAUSE)) {
        assert!(sum.servfail.is_empty(), "{sum:?}\n{log}");
        assert_eq!(sum.over_a_second, 0, "{sum:?}\n{log}");
    }
    assert!(tries * 10 <= sum.asked * 13, "{tries} tries, {sum:?}");
    assert!(
        warnings(&scene.nodens).len() <= 2,
        "one for each pod: {log}"
    );
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_whose_pods_refuse_costs_no_answer() {
    roll(Fate::Refuses, &[SERVICE]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_whose_pods_refuse_every_query_costs_no_answer() {
    roll(Fate::RefusesAlways, &[SERVICE]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_whose_pods_are_said_to_be_unreachable_costs_no_answer() {
    roll(Fate::HostUnreachable, &[SERVICE]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_whose_pods_have_no_address_any_more_costs_no_answer() {
    roll(Fate::NoNeighbour, &[SERVICE]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_whose_pods_are_silent_costs_no_answer() {
    roll(Fate::Silent, &[SERVICE]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_roll_beside_another_server_costs_no_answer() {
    roll(Fate::Refuses, &[SERVICE, OTHER]);
    roll(Fate::Silent, &[SERVICE, OTHER]);
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_second_without_endpoints_costs_no_answer() {
    for gone in [Some(Fate::Refuses), Some(Fate::RefusesAlways), None] {
        let scene = Scene::start(&[SERVICE]);
        match gone {
            Some(fate) => [11, 12].map(|pod| scene.service.end(pod, fate)),
            // kube-proxy refuses.
            None => [scene.service.set_endpoints(&[]), ()],
        };
        thread::sleep(PAUSE);
        scene.service.set_endpoints(&[13, 14]);
        thread::sleep(PAUSE);
        let sum = sum(&scene.client.end());
        let warnings = warnings(&scene.nodens);
        println!("{gone:?}: {} tries, {sum:?}", tries(&scene.nodens));
        assert_eq!(sum.unanswered, 0, "{sum:?}");
        if kept_up(&sum, 3 * PAUSE) {
            assert!(sum.servfail.is_empty(), "{sum:?}");
            assert!(sum.slowest < 2000, "{sum:?}");
        }
        assert!(warnings.len() <= 2, "{warnings:#?}");
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables and conntrack; .ci/run runs it"]
fn a_service_without_endpoints_for_long_is_a_fast_failure() {
    let scene = Scene::start(&[SERVICE]);
    scene.service.set_endpoints(&[]);
    thread::sleep(Duration::from_secs(6));
    scene.service.set_endpoints(&[13, 14]);
    wait_for("the server to be good", || {
        let (_, status) = scene.nodens.page("/status")?;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        (status["upstreams"][0]["servers"][0]["health"][0]["state"] == "good").then_some(())
    });
    let queries = scene.client.end();
    println!("{} tries, {:?}", tries(&scene.nodens), sum(&queries));
    let failed = |query: &&Asked| query.reply.is_some_and(|(code, _)| code != 0);
    let took = |query: &Asked| query.reply.map_or(u32::MAX, |(_, took)| took);
    assert!(
        queries.iter().all(|query| took(query) < 4000),
        "{:?}",
        sum(&queries)
    );
    // Once it has been gone for longer than a roll takes.
    let late = queries.iter().filter(|query| query.at > 5000);
    let slowest = late.filter(failed).map(took).max();
    assert!(slowest.is_some_and(|slowest| slowest < 250), "{slowest:?}");
    let warnings = warnings(&scene.nodens);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

#[test]
#[ignore = "the client of the other tests"]
fn a_client_of_another_test() {
    client::run();
}
