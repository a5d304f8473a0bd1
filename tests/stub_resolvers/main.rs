//! The resolvers that programs really have, as clients of the real binary: glibc's, musl's and Go's.
//!
//! Each does something of its own with what it hears: musl fails a lookup of which one half fails, glibc and Go leave a
//! nameserver that does not recurse, musl before 1.2.4 takes what is in a truncated answer. The tests whose name begins
//! with `why` show that without nodens in between; they fail when a library changes its mind.
//!
//! Needs root, for port 53 of a loopback address and for `/etc/resolv.conf` in a mount namespace; cc, musl-gcc and Go.
//!
//! ```text
//! cargo test --test stub_resolvers -- --ignored
//! ```

#![allow(missing_docs, reason = "no library")]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "tests/situations uses all of it")]
#[path = "../situations/server.rs"]
mod server;
#[allow(dead_code, reason = "tests/situations uses all of it")]
#[path = "../situations/wire.rs"]
mod wire;

mod clients;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clients::{ALL, Client, ResolvConf, musl_has_tcp};
use common::dns::{Ask, Message, Over, rcode, rr};
use common::namespace::assert_root;
use common::{Nodens, free_address, wait_for};
use server::{Query, Server};
use wire::Says;

/// What glibc and musl wait for a nameserver (resolv.conf(5), `timeout`); a lookup that takes longer lost a datagram.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Before this server, at port 53 of an address of its own.
fn at_port_53(yaml: &str) -> Nodens {
    assert_root();
    let listen = SocketAddr::from((free_address().ip(), 53)).to_string();
    Nodens::start_on(&[&listen], &format!("workers: 1\n{yaml}"))
}

fn before(server: &Server) -> Nodens {
    let server = server.address;
    at_port_53(&format!(
        "upstreams: {{group: {{servers: [\"{server}\"]}}}}\n"
    ))
}

fn nameserver(nodens: &Nodens) -> String {
    format!("nameserver {}\n", nodens.address().ip())
}

/// A server of its own at port 53, over UDP; ends with the value.
struct Bare {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    fn start(script: fn(&Query) -> Says) -> Self {
        assert_root();
        let address = SocketAddr::from((free_address().ip(), 53));
        let socket = UdpSocket::bind(address).expect("port 53 is free");
        let (asked, stopped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (Arc::clone(&asked), Arc::clone(&stopped));
        let serve = move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                let query = Query::read(&buffer[..length], Over::Udp, 1);
                // Who is gone meanwhile does not want it.
                let _ = socket.send_to(&script(&query).bytes(), client);
            }
        };
        let thread = Some(thread::spawn(serve));
        Self {
            address,
            asked,
            stopped,
            thread,
        }
    }

    fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let woken = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// `v4.corp`: an address for a second, and an empty answer that says nothing of how long.
fn v4_only(q: &Query) -> Says {
    match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 1 A 192.0.2.1"),
        _ => q.says("NOERROR"),
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn an_expired_a_with_an_empty_aaaa_beside_it_is_found_after_the_servers_stopped() {
    let mut server = Server::start(v4_only);
    let nodens = before(&server);
    let pod = ResolvConf::new(&nameserver(&nodens));
    for client in ALL {
        let lookup = pod.lookup(client, "v4.corp");
        assert!(lookup.has("192.0.2.1"), "{client:?}: {lookup:?}");
    }
    server.stops();
    wait_for("the address to be stale", || {
        let reply = Ask::new("v4.corp.", rr::A).send(nodens.address(), Over::Udp);
        // TTL 1 while it is fresh, 30 when it is stale.
        (reply.records[0].ttl > 1).then_some(())
    });
    for client in ALL {
        let lookup = pod.lookup(client, "v4.corp");
        assert!(lookup.has("192.0.2.1"), "{client:?}: {lookup:?}");
        assert_eq!(lookup.count(), 1, "{client:?}: {lookup:?}");
        assert!(lookup.took < TIMEOUT, "{client:?}: {lookup:?}");
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn why_half_a_lookup_must_not_fail_musl_fails_all_of_it() {
    let bare = Bare::start(|q| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 60 A 192.0.2.1"),
        _ => q.says("SERVFAIL"),
    });
    let pod = ResolvConf::new(&format!("nameserver {}\n", bare.ip()));
    let found = ALL.map(|client| (client, pod.lookup(client, "v4.corp").has("192.0.2.1")));
    println!("{found:?}");
    let want = [
        (Client::Getent, true),
        (Client::Glibc, true),
        (Client::Musl, false),
        (Client::Go, true),
    ];
    assert_eq!(found, want);
}

/// A name without addresses, from a server that does not offer recursion: its empty answers look like referrals.
fn without_recursion(q: &Query) -> Says {
    // Go stays if there is an OPT.
    q.says("NOERROR -ra").without_opt()
}

/// The second nameserver of a pod: nobody should have to ask it.
fn second(q: &Query) -> Says {
    q.says("NOERROR")
}

/// musl asks all nameservers at once, whatever they say.
const ONE_AFTER_THE_OTHER: [Client; 2] = [Client::Glibc, Client::Go];

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn nobody_leaves_for_the_second_nameserver_because_a_server_offers_no_recursion() {
    let server = Server::start(without_recursion);
    let (nodens, second) = (before(&server), Bare::start(second));
    let pod = ResolvConf::new(&format!(
        "{}nameserver {}\n",
        nameserver(&nodens),
        second.ip()
    ));
    for client in ONE_AFTER_THE_OTHER {
        let lookup = pod.lookup(client, "mail.corp");
        assert_eq!(lookup.count(), 0, "{client:?}: {lookup:?}");
        assert_eq!(second.asked(), 0, "{client:?} asked the second nameserver");
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn why_recursion_must_be_available_glibc_and_go_leave_a_nameserver_without() {
    for client in ONE_AFTER_THE_OTHER {
        let (first, second) = (Bare::start(without_recursion), Bare::start(second));
        let pod = ResolvConf::new(&format!(
            "nameserver {}\nnameserver {}\n",
            first.ip(),
            second.ip()
        ));
        pod.lookup(client, "mail.corp");
        assert!(second.asked() > 0, "{client:?} stayed");
    }
}

/// So many IPv4 addresses, owners written out; nothing else.
fn many(count: usize) -> impl Fn(&Query) -> Says + Send + Sync + 'static {
    move |q: &Query| {
        if q.qtype != rr::A {
            return q.says("NOERROR").authority("corp. 60 SOA 60");
        }
        (1..=count).fold(q.says("NOERROR"), |says, number| {
            says.answer(&format!("{} 60 A 10.0.0.{number}", q.name))
        })
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn a_truncated_answer_is_fetched_over_tcp_or_its_records_are_taken() {
    let server = Server::start(many(60));
    let nodens = before(&server);
    let pod = ResolvConf::new(&nameserver(&nodens));
    for client in ALL {
        let lookup = pod.lookup(client, "web.corp");
        if client == Client::Musl && !musl_has_tcp() {
            // 12 octets of header, 14 of question, 16 for each address.
            assert_eq!(lookup.count(), (512 - 26) / 16, "{client:?}: {lookup:?}");
        } else if client == Client::Musl {
            // It keeps 48 addresses of a name at most.
            assert!(lookup.count() >= 48, "{client:?}: {lookup:?}");
        } else {
            assert_eq!(lookup.count(), 60, "{client:?}: {lookup:?}");
        }
        assert!(lookup.took < TIMEOUT, "{client:?}: {lookup:?}");
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn twenty_addresses_reach_a_client_that_has_no_tcp() {
    let server = Server::start(many(20));
    let nodens = before(&server);
    let pod = ResolvConf::new(&nameserver(&nodens));
    for client in ALL {
        let lookup = pod.lookup(client, "service.name-of-some-leng.corp.example");
        assert_eq!(lookup.count(), 20, "{client:?}: {lookup:?}");
    }
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn a_and_aaaa_asked_from_one_socket_both_arrive_in_whatever_order() {
    for slow in [rr::A, rr::AAAA] {
        let server = Server::start(move |q: &Query| {
            let says = match q.qtype {
                rr::A => q.says("NOERROR").answer("@ 60 A 192.0.2.1"),
                _ => q.says("NOERROR").answer("@ 60 AAAA 2001:db8::1"),
            };
            let delay = if q.qtype == slow { 400 } else { 0 };
            says.after(Duration::from_millis(delay))
        });
        let nodens = before(&server);
        for options in ["", "options single-request\n", "options edns0 trust-ad\n"] {
            let pod = ResolvConf::new(&format!("{}{options}", nameserver(&nodens)));
            for client in ALL {
                // A name of its own, so that each is asked for, and not found in the cache.
                let name = format!("{client:?}-{}.corp", options.len());
                let lookup = pod.lookup(client, &name);
                let both = lookup.has("192.0.2.1") && lookup.has("2001:db8::1");
                let one = client == Client::Getent && lookup.has("192.0.2.1");
                assert!(both || one, "{client:?} {options}: {lookup:?}");
                assert!(lookup.took < TIMEOUT, "{client:?} {options}: {lookup:?}");
            }
        }
    }
}

const SEARCH: &str =
    "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

fn pod_with_search(nodens: &Nodens) -> ResolvConf {
    ResolvConf::new(&format!("{}{SEARCH}", nameserver(nodens)))
}

/// kube-dns, which knows none of the names asked for here, and a server for the others.
fn cluster_and_others() -> (Server, Server, Nodens) {
    let cluster = Server::start(|q: &Query| q.says("NXDOMAIN").authority("cluster.local. 1 SOA 1"));
    let others = Server::start(|q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 60 A 192.0.2.1"),
        _ => q.says("NOERROR").authority("example.com. 60 SOA 60"),
    });
    let nodens = at_port_53(&format!(
        "upstreams: {{cluster: {{servers: [\"{}\"]}}, others: {{servers: [\"{}\"]}}}}\n\
         routes: {{cluster.local: cluster, \".\": others}}\n",
        cluster.address, others.address
    ));
    (cluster, others, nodens)
}

/// Waits until nodens knows that the cluster's server is down.
fn stop(cluster: &mut Server, nodens: &Nodens) {
    cluster.stops();
    wait_for("the cluster's server to be down", || {
        let name = format!("n{}.cluster.local.", fastrand::u32(..));
        Ask::new(&name, rr::A).send(nodens.address(), Over::Udp);
        let labels = [("group", "cluster"), ("state", "down")];
        (nodens.metric("nodens_upstream_state", &labels) >= 1.0).then_some(())
    });
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn a_name_found_behind_a_search_list_is_found_while_the_clusters_servers_are_down() {
    let (mut cluster, _others, nodens) = cluster_and_others();
    let pod = pod_with_search(&nodens);
    let name = "registry.example.com";
    let all_find_it = || {
        for client in ALL {
            let lookup = pod.lookup(client, name);
            assert!(lookup.has("192.0.2.1"), "{client:?}: {lookup:?}");
            assert!(lookup.took < TIMEOUT, "{client:?}: {lookup:?}");
        }
    };
    all_find_it();
    let asked = cluster.asked_for("registry.example.com.default.svc.cluster.local. A");
    assert!(asked > 0, "the search list was not used");
    stop(&mut cluster, &nodens);
    // What is not known any more is served all the same: all three names, both types.
    let expired = |reply: &Message| reply.records.first().is_some_and(|soa| soa.ttl > 1);
    wait_for("what the cluster said to expire", || {
        let name = format!("{name}.default.svc.cluster.local.");
        let reply = Ask::new(&name, rr::A).send(nodens.address(), Over::Udp);
        assert_eq!(reply.rcode(), rcode::NXDOMAIN, "{reply:?}");
        expired(&reply).then_some(())
    });
    all_find_it();
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn musl_alone_gives_a_new_name_up_behind_a_search_list_whose_zone_fails() {
    let (mut cluster, _others, nodens) = cluster_and_others();
    stop(&mut cluster, &nodens);
    let pod = pod_with_search(&nodens);
    let found = ALL.map(|client| {
        (
            client,
            pod.lookup(client, "new.example.com").has("192.0.2.1"),
        )
    });
    // musl does not go on after SERVFAIL: one of the names before may be the one that is meant. NXDOMAIN would help it,
    // and be a lie.
    let want = [
        (Client::Getent, true),
        (Client::Glibc, true),
        (Client::Musl, false),
        (Client::Go, true),
    ];
    assert_eq!(found, want);
    // A final dot says which.
    let lookup = pod.lookup(Client::Musl, "new.example.com.");
    assert!(lookup.has("192.0.2.1"), "{lookup:?}");
}

#[test]
#[ignore = "needs root, cc, musl-gcc and Go; .ci/run runs it"]
fn what_cannot_be_answered_fails_before_a_client_gives_its_nameserver_up() {
    let server = Server::start(v4_only);
    let nodens = before(&server);
    server.falls_silent();
    let pod = ResolvConf::new(&nameserver(&nodens));
    for client in ALL {
        let lookup = pod.lookup(client, "lost.corp");
        assert!(lookup.found.is_err(), "{client:?}: {lookup:?}");
        // musl hears SERVFAIL, asks once more, and waits until its timeout all the same.
        let most = match client {
            Client::Musl => TIMEOUT + Duration::from_secs(1),
            _ => TIMEOUT,
        };
        assert!(lookup.took < most, "{client:?}: {lookup:?}");
    }
}
