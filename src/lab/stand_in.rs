//! Stand-ins for the nameservers around us, on loopback: what the demo and the tests put behind the proxy.
//!
//! Owns authoritative servers over UDP and TCP ([`StandIn`], by hickory-server), the worlds they know ([`kube_dns`],
//! [`vpc_dns`]) and a server that never answers ([`BlackHole`]). Nothing that serves real clients may depend on it.
//!
//! Limits: no zone transfers, no DNSSEC, no delegations. Wildcards match by suffix even where a name beneath the suffix
//! exists (RFC 4592 §3.3.1 would stop at that name), as kube-dns does with its names.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, TXT};
use hickory_proto::rr::{DNSClass, Name, RData};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};

use crate::serving::local::authority::{self, Authority, Known, Names, Stored, wire_key};

/// TTL of a stand-in's records unless told otherwise, in seconds: what `CoreDNS` gives cluster names.
pub const DEFAULT_TTL: u32 = 30;

/// RFC 7766 §6.2.3: idle connections are kept for seconds. No test is silent on one for longer.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Responses waiting to be written on one TCP connection; more would wait in hickory-server.
const TCP_RESPONSES: usize = 32;

/// How often port 0 is tried until the port that UDP got is free for TCP as well. In use by others is one port in a
/// hundred on a busy machine, so 16 failures in a row mean something else.
const PORT_TRIES: usize = 16;

/// A zone that a [`StandIn`] speaks for.
///
/// Names are written in code, so that one that cannot be parsed is a mistake there: every function here that takes one
/// panics on it.
#[derive(Debug, Clone)]
pub struct Zone {
    apex: Name,
    names: Names,
    ttl: u32,
    wildcard_labels: usize,
}

impl Zone {
    /// A zone without names beneath `apex`.
    ///
    /// # Panics
    ///
    /// If `apex` is no name.
    #[must_use]
    pub fn new(apex: &str) -> Self {
        let apex = name(apex);
        let names = Names::from_iter([(wire_key(&apex), Vec::new())]);
        Self {
            apex,
            names,
            ttl: DEFAULT_TTL,
            wildcard_labels: usize::MAX,
        }
    }

    /// The TTL, in seconds, of the records added after this.
    #[must_use]
    pub fn ttl(mut self, ttl: u32) -> Self {
        self.ttl = ttl;
        self
    }

    /// How many labels a `*` of this zone stands for at most; any number unless told otherwise.
    ///
    /// kube-dns knows `service.namespace.svc.cluster.local`, but not `registry.example.com.default.svc.cluster.local`,
    /// which search lists send it.
    #[must_use]
    pub fn wildcard_labels(mut self, most: usize) -> Self {
        self.wildcard_labels = most;
        self
    }

    /// Adds a record. An `owner` that begins with `*.` is a wildcard (RFC 4592).
    ///
    /// # Panics
    ///
    /// If `owner` is no name in this zone.
    #[must_use]
    pub fn record(mut self, owner: &str, data: RData) -> Self {
        let owner = name(owner);
        assert!(
            self.apex.zone_of(&owner),
            "{owner} is not in the zone {}",
            self.apex
        );
        let stored = Stored {
            ttl: self.ttl,
            data,
        };
        self.names.entry(wire_key(&owner)).or_default().push(stored);
        // The names in between exist too, without records (RFC 8020 §2).
        let mut parent = owner.base_name();
        while self.apex.zone_of(&parent) && parent != self.apex {
            self.names.entry(wire_key(&parent)).or_default();
            parent = parent.base_name();
        }
        self
    }

    /// Adds an A record.
    ///
    /// # Panics
    ///
    /// As [`record`](Self::record).
    #[must_use]
    pub fn a(self, owner: &str, address: impl Into<Ipv4Addr>) -> Self {
        self.record(owner, RData::A(address.into().into()))
    }

    /// Adds an AAAA record.
    ///
    /// # Panics
    ///
    /// As [`record`](Self::record).
    #[must_use]
    pub fn aaaa(self, owner: &str, address: impl Into<Ipv6Addr>) -> Self {
        self.record(owner, RData::AAAA(address.into().into()))
    }

    /// Adds a CNAME record, which is followed as far as the stand-in's zones reach.
    ///
    /// # Panics
    ///
    /// As [`record`](Self::record), and if `target` is no name.
    #[must_use]
    pub fn cname(self, owner: &str, target: &str) -> Self {
        self.record(owner, RData::CNAME(CNAME(name(target))))
    }

    /// Adds a PTR record.
    ///
    /// # Panics
    ///
    /// As [`record`](Self::record), and if `target` is no name.
    #[must_use]
    pub fn ptr(self, owner: &str, target: &str) -> Self {
        self.record(owner, RData::PTR(PTR(name(target))))
    }

    /// Adds a TXT record of one string of at most 255 bytes.
    ///
    /// # Panics
    ///
    /// As [`record`](Self::record).
    #[must_use]
    pub fn txt(self, owner: &str, text: &str) -> Self {
        self.record(owner, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    /// Records of `owner`, its own or a wildcard's.
    fn find(&self, owner: &Name) -> Option<&[Stored]> {
        if let Some(records) = self.names.get(&wire_key(owner)) {
            return Some(records);
        }
        let mut suffix = owner.clone();
        for _ in 0..self.wildcard_labels {
            if suffix == self.apex {
                break;
            }
            suffix = suffix.base_name();
            let wildcard = suffix.prepend_label("*").ok()?;
            if let Some(records) = self.names.get(&wire_key(&wildcard)) {
                return Some(records);
            }
        }
        None
    }
}

/// kube-dns of a cluster with Services in 10.96.0.0/16: `cluster.local` with any Service in any namespace, the API
/// server and kube-dns itself at their usual addresses, and the reverse zone of the Services. It knows nothing else and
/// refuses it, as one without a working upstream would.
#[must_use]
pub fn kube_dns() -> Vec<Zone> {
    let api = "kubernetes.default.svc.cluster.local";
    let dns = "kube-dns.kube-system.svc.cluster.local";
    vec![
        Zone::new("cluster.local")
            .wildcard_labels(2)
            .a(api, [10, 96, 0, 1])
            .a(dns, [10, 96, 0, 10])
            .a("*.svc.cluster.local", [10, 96, 12, 34]),
        Zone::new("96.10.in-addr.arpa")
            .ptr("1.0.96.10.in-addr.arpa", api)
            .ptr("10.0.96.10.in-addr.arpa", dns),
    ]
}

/// The DNS of a VPC: a company's registry, GitLab and object store, an answer too big for UDP, and NXDOMAIN for
/// `.local`, which the root zone does not have.
#[must_use]
pub fn vpc_dns() -> Vec<Zone> {
    // 2001:db8::/32 is for documentation (RFC 3849).
    let address = |host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, host);
    let company = Zone::new("example.com")
        .ttl(60)
        .a("registry.example.com", [10, 1, 20, 5])
        .aaaa("registry.example.com", address(5))
        .txt("registry.example.com", "the registry of the demo")
        .a("gitlab.example.com", [10, 1, 20, 6])
        .cname("s3.internal.example.com", "gateway.internal.example.com")
        .a("gateway.internal.example.com", [10, 1, 30, 9]);
    let company = (0..60).fold(company, |zone, n| {
        zone.aaaa("big.example.com", address(0x100 + n))
    });
    vec![company, Zone::new("local")]
}

/// An authoritative server on UDP and TCP that looks like a recursive one (RA set).
///
/// Names in its zones are answered, with NXDOMAIN or NODATA and an SOA where there is nothing; `. NS` is answered,
/// since health probes ask it; all else is REFUSED. Dropping it stops it, at the runtime's next turn; use
/// [`stop`](Self::stop) to know when its address is free.
pub struct StandIn {
    address: SocketAddr,
    queries: Arc<AtomicU64>,
    server: Server<Handler>,
}

impl StandIn {
    /// Serves `zones` at `bind`, on the runtime this is called on. Port 0 takes a free one, the same for UDP and TCP.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    #[expect(
        clippy::unused_async,
        reason = "async, so that it is called where there is a runtime to spawn on"
    )]
    pub async fn start(zones: &[Zone], bind: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind_both(bind)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let address = udp.local_addr()?;
        let queries = Arc::new(AtomicU64::new(0));
        let mut server = Server::new(Handler {
            world: World::new(zones),
            queries: Arc::clone(&queries),
        });
        server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES);
        Ok(Self {
            address,
            queries,
            server,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queries it got so far, over UDP and TCP together.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Stops it and waits until its sockets and connections are closed.
    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::debug!(%error, address = %self.address, "a stand-in did not stop cleanly");
        }
    }
}

/// A server that is there and never answers: packets to it vanish, TCP connections are made and stay silent.
///
/// Dropping it closes its sockets; what is sent there then is refused by the kernel.
#[derive(Debug)]
pub struct BlackHole {
    udp: UdpSocket,
    _tcp: TcpListener,
}

impl BlackHole {
    /// Takes `address` for UDP and TCP, port 0 for a free one. Needs no runtime: nobody ever reads its sockets, and the
    /// kernel's queues swallow or drop what arrives.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind_both(address)?;
        Ok(Self { udp, _tcp: tcp })
    }

    /// Where it keeps silent.
    ///
    /// # Errors
    ///
    /// The kernel does not tell the socket's address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// What a stand-in knows.
struct World {
    zones: Vec<Zone>,
    /// The answer to `. NS`.
    root: Vec<Stored>,
}

impl World {
    fn new(zones: &[Zone]) -> Self {
        let root = Stored {
            ttl: DEFAULT_TTL,
            data: RData::NS(NS(name("a.root-servers.net"))),
        };
        Self {
            zones: zones.to_vec(),
            root: vec![root],
        }
    }
}

impl Authority for World {
    fn look_up(&self, owner: &Name, class: DNSClass) -> Known<'_> {
        if class != DNSClass::IN {
            return Known::Elsewhere;
        }
        let zone = self
            .zones
            .iter()
            .filter(|zone| zone.apex.zone_of(owner))
            .max_by_key(|zone| zone.apex.iter().count());
        match zone {
            Some(zone) => match zone.find(owner) {
                Some(records) => Known::Name {
                    records,
                    apex: zone.apex.clone(),
                },
                None => Known::Nothing {
                    apex: zone.apex.clone(),
                },
            },
            None if owner.is_root() => Known::Name {
                records: &self.root,
                apex: Name::root(),
            },
            None => Known::Elsewhere,
        }
    }
}

struct Handler {
    world: World,
    queries: Arc<AtomicU64>,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response_handle: R,
    ) -> ResponseInfo {
        self.queries.fetch_add(1, Ordering::Relaxed);
        authority::reply(&self.world, request, response_handle).await
    }
}

/// A UDP and a TCP socket at the same address.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 1;
    loop {
        let udp = UdpSocket::bind(address)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error)
                if address.port() == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("names of stand-ins are written in code");
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use hickory_proto::op::{Edns, Message, Query, ResponseCode};
    use hickory_proto::rr::RecordType;
    use tokio::time::timeout;

    use super::*;

    const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn question(owner: &str, record_type: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name(owner), record_type));
        message
    }

    async fn over_udp(server: SocketAddr, message: &Message) -> Message {
        let socket = tokio::net::UdpSocket::bind(SocketAddr::from(LOOPBACK))
            .await
            .unwrap();
        socket.connect(server).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let len = timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .expect("an answer in time")
            .unwrap();
        Message::from_vec(&buffer[..len]).unwrap()
    }

    async fn over_tcp(server: SocketAddr, message: &Message) -> Message {
        let query = message.to_vec().unwrap();
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let len = u16::try_from(query.len()).unwrap();
            stream.write_all(&len.to_be_bytes()).unwrap();
            stream.write_all(&query).unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut reply).unwrap();
            reply
        });
        Message::from_vec(&exchange.await.unwrap()).unwrap()
    }

    async fn start(zones: &[Zone]) -> StandIn {
        StandIn::start(zones, LOOPBACK.into()).await.unwrap()
    }

    fn rdata(message: &Message) -> Vec<String> {
        message
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    async fn check(server: &StandIn, cases: &[(&str, RecordType, ResponseCode, &[&str], bool)]) {
        for (owner, record_type, rcode, expected, soa) in cases {
            let reply = over_udp(server.address(), &question(owner, *record_type)).await;
            let case = format!("{owner} {record_type}");
            assert_eq!(reply.metadata.response_code, *rcode, "{case}");
            assert_eq!(rdata(&reply), *expected, "{case}");
            assert_eq!(!reply.authorities.is_empty(), *soa, "{case}");
            assert!(reply.metadata.recursion_available, "{case}");
            assert!(reply.metadata.recursion_desired, "{case}");
        }
    }

    #[tokio::test]
    async fn kube_dns_knows_the_cluster_and_nothing_else() {
        use RecordType::{A, AAAA, NS, PTR};
        use ResponseCode::{NXDomain, NoError, Refused};
        let server = start(&kube_dns()).await;
        let api = "kubernetes.default.svc.cluster.local.";
        #[rustfmt::skip]
        check(&server, &[
            (api, A, NoError, &["10.96.0.1"], false),
            (api, AAAA, NoError, &[], true),
            ("web.shop.svc.cluster.local.", A, NoError, &["10.96.12.34"], false),
            ("WEB.default.svc.cluster.local.", A, NoError, &["10.96.12.34"], false),
            ("web.shop.svc.cluster.local.", AAAA, NoError, &[], true),
            ("svc.cluster.local.", A, NoError, &[], true),
            ("registry.example.com.default.svc.cluster.local.", A, NXDomain, &[], true),
            ("registry.example.com.cluster.local.", A, NXDomain, &[], true),
            ("1.0.96.10.in-addr.arpa.", PTR, NoError, &[api], false),
            ("9.9.96.10.in-addr.arpa.", PTR, NXDomain, &[], true),
            ("registry.example.com.", A, Refused, &[], false),
            (".", NS, NoError, &["a.root-servers.net."], false),
        ])
        .await;
        assert_eq!(server.queries(), 12);
    }

    #[tokio::test]
    async fn vpc_dns_knows_the_company_and_nothing_else() {
        use RecordType::{A, AAAA, CNAME, NS};
        use ResponseCode::{NXDomain, NoError, Refused};
        let server = start(&vpc_dns()).await;
        let gateway = "gateway.internal.example.com.";
        #[rustfmt::skip]
        check(&server, &[
            ("registry.example.com.", A, NoError, &["10.1.20.5"], false),
            ("registry.example.com.", AAAA, NoError, &["2001:db8:20::5"], false),
            ("gitlab.example.com.", A, NoError, &["10.1.20.6"], false),
            ("s3.internal.example.com.", A, NoError, &[gateway, "10.1.30.9"], false),
            ("s3.internal.example.com.", CNAME, NoError, &[gateway], false),
            ("s3.internal.example.com.", AAAA, NoError, &[gateway], true),
            ("internal.example.com.", A, NoError, &[], true),
            ("example.com.", A, NoError, &[], true),
            ("missing.example.com.", A, NXDomain, &[], true),
            ("kubernetes.default.svc.cluster.local.", A, NXDomain, &[], true),
            ("example.org.", A, Refused, &[], false),
            (".", NS, NoError, &["a.root-servers.net."], false),
        ])
        .await;
    }

    #[tokio::test]
    async fn the_big_answer_is_cut_over_udp_and_whole_over_tcp() {
        let server = start(&vpc_dns()).await;
        let plain = question("big.example.com.", RecordType::AAAA);
        let mut roomy = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(crate::message::wire::MAX_PAYLOAD);
        roomy.set_edns(edns);

        let cut = over_udp(server.address(), &plain).await;
        assert!(cut.metadata.truncation && cut.edns.is_none());
        assert!(!cut.answers.is_empty() && cut.answers.len() < 20);
        let cut = over_udp(server.address(), &roomy).await;
        assert!(cut.metadata.truncation && cut.edns.is_some());
        assert!((20..60).contains(&cut.answers.len()));
        let whole = over_tcp(server.address(), &plain).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 60);
        assert_eq!(server.queries(), 3);
    }

    #[tokio::test]
    async fn wildcards_texts_and_ttls_are_what_the_zone_says() {
        let zone = Zone::new("test")
            .ttl(7)
            .txt("*.test", "anything")
            .cname("away.test", "elsewhere.example");
        let server = start(&[zone, Zone::new("inner.test")]).await;
        let deep = question("a.b.c.test.", RecordType::TXT);
        let reply = over_udp(server.address(), &deep).await;
        assert_eq!(rdata(&reply), ["anything"]);
        assert_eq!(reply.answers[0].ttl, 7);
        assert_eq!(reply.answers[0].name, deep.queries[0].name().clone());
        let inner = question("a.inner.test.", RecordType::TXT);
        let reply = over_udp(server.address(), &inner).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].name, name("inner.test"));
        let away = question("away.test.", RecordType::A);
        let reply = over_udp(server.address(), &away).await;
        assert_eq!(rdata(&reply), ["elsewhere.example."]);
    }

    #[tokio::test]
    async fn a_stopped_stand_in_frees_its_address() {
        let server = start(&kube_dns()).await;
        let address = server.address();
        assert!(bind_both(address).is_err());
        server.stop().await;
        let again = StandIn::start(&kube_dns(), address).await.unwrap();
        assert_eq!(again.address(), address);
    }

    #[tokio::test]
    async fn a_dropped_stand_in_stops() {
        let server = start(&kube_dns()).await;
        let address = server.address();
        over_udp(address, &question(".", RecordType::NS)).await;
        drop(server);
        timeout(PATIENCE, async {
            while bind_both(address).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("its sockets are closed");
    }

    #[tokio::test]
    async fn a_black_hole_takes_queries_and_says_nothing() {
        let hole = BlackHole::bind(LOOPBACK.into()).unwrap();
        let address = hole.address().unwrap();
        let query = question(".", RecordType::NS).to_vec().unwrap();

        let socket = UdpSocket::bind(SocketAddr::from(LOOPBACK)).unwrap();
        socket.connect(address).unwrap();
        socket.send(&query).unwrap();
        // Loopback delivers before `send` returns: an ICMP error or an answer would be here by now.
        socket.set_nonblocking(true).unwrap();
        let error = socket.recv(&mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&query).unwrap();
        stream.set_nonblocking(true).unwrap();
        let error = stream.read(&mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

        drop(hole);
        socket.send(&query).unwrap();
        let error = socket.recv(&mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
