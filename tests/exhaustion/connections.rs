//! Connections of clients that are in no hurry: an octet of a query, or of a request, now and then.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::dns::{Ask, rr};
use crate::common::limit_open_files;
use crate::scene::{Scene, server};

/// Connections to port 53: more than `tcp.max_connections`, from several clients.
const QUERIES: u8 = 250;
const CLIENTS: u8 = 6;
/// Connections to the admin address: more than `ADMIN_CONNECTIONS`, which take no answer, and send no whole request.
const NEVER_READ: u8 = 100;
const REQUESTS: u8 = 200;
/// Between two octets.
const EVERY: Duration = Duration::from_millis(120);

/// A connection from this client; none if the backlog is full for long.
fn connect(client: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let client = IpAddr::from(Ipv4Addr::new(127, 99, 0, client));
    socket
        .bind(&SocketAddr::new(client, 0).into())
        .expect("bound");
    let connected = socket.connect_timeout(&to.into(), EVERY);
    connected.is_ok().then(|| socket.into())
}

/// Sends these octets over each, one at a time. Returns how many are open in the end.
fn send_slowly(mut streams: Vec<TcpStream>, octets: &[u8]) -> usize {
    for octet in octets {
        // One that was ended says so here.
        streams.retain_mut(|stream| stream.write_all(&[*octet]).is_ok());
        thread::sleep(EVERY);
    }
    streams.len()
}

#[test]
#[ignore = "needs root and cgroups"]
fn queries_that_arrive_an_octet_at_a_time_end_and_cost_honest_clients_nothing() {
    let case = "queries an octet at a time";
    let more = "tcp: {idle_timeout: 1s, max_connections: 1024}";
    let scene = Scene::start_with(8_192, server(), more);
    limit_open_files(std::process::id(), 8_192);
    let heard = scene.during(case, || {
        let clients = (0..QUERIES).flat_map(|_| 1..=CLIENTS);
        let slow: Vec<_> = clients
            .filter_map(|client| connect(client, scene.nodens.address()))
            .collect();
        let all = slow.len();
        // It announces an octet more than will come.
        let query = Ask::new("slow.example.", rr::A).message();
        let length = u16::try_from(query.len() + 1).expect("short");
        let left = send_slowly(slow, &[&length.to_be_bytes(), &query[..]].concat());
        println!("{case}: {all} connections, {left} at the end");
        assert!(all > 1_024, "{all} connections");
        assert_eq!(left, 0, "each ends after `tcp.idle_timeout`");
    });
    assert!(scene.nodens.metric("nodens_tcp_evicted_total", &[]) > 0.0);
    heard.assert_all_answered(case);
}

#[test]
#[ignore = "needs root and cgroups"]
fn requests_that_arrive_an_octet_at_a_time_cost_honest_clients_nothing() {
    let case = "requests an octet at a time";
    let scene = Scene::start(256, server());
    let admin = scene.nodens.admin.expect("it has one");
    let heard = scene.during(case, || {
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let ask = |mut stream: TcpStream| {
            let sent = stream.write_all(request);
            sent.map(|()| stream)
        };
        let never_read: Vec<_> = (0..NEVER_READ)
            .filter_map(|_| connect(1, admin))
            .map(ask)
            .collect();
        let slow = (0..REQUESTS).filter_map(|_| connect(1, admin)).collect();
        let left = send_slowly(slow, &request[..20]);
        println!(
            "{case}: {} that read nothing, {REQUESTS} slow, {left} at the end",
            never_read.len()
        );
        assert!(left <= 64, "{left} connections are open");
    });
    heard.assert_all_answered(case);
}
