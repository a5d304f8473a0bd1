//! Connections of clients that are in no hurry.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::dns::{Ask, Over, rcode, record, response, rr};
use crate::common::stand_in::StandIn;
use crate::common::{Nodens, limit_open_files};

/// Connections that send an octet now and then: more than a client may have, from several.
const SLOW: u16 = 1_500;

/// A connection from one of a few clients.
fn connect_from(number: u16, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let client = Ipv4Addr::new(127, 99, 0, u8::try_from(number % 4 + 1).expect("small"));
    socket
        .bind(&SocketAddr::from((client, 0)).into())
        .expect("bound");
    socket.connect(&to.into()).expect("connects");
    socket.into()
}

#[test]
#[ignore = "takes ten seconds"]
fn connections_that_send_an_octet_now_and_then_end_and_keep_nobody_waiting() {
    let server =
        StandIn::new(|query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]);
    let nodens = Nodens::start(&format!(
        "workers: 1\ntcp: {{idle_timeout: 3s, max_connections: 1024}}\nupstreams: {{group: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    limit_open_files(std::process::id(), 8_192);
    // Sockets to the server stay open.
    for number in 0..200 {
        Ask::new(&format!("first{number}.example."), rr::A).send(nodens.address(), Over::Udp);
    }
    let before = (nodens.descriptors().len(), nodens.rss_bytes());
    let mut slow: Vec<_> = (0..SLOW)
        .map(|number| connect_from(number, nodens.address()))
        .collect();
    let (start, mut round, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(6) {
        for stream in &mut slow {
            // One that was ended says so here.
            let _ = stream.write(&[0]);
        }
        round += 1;
        for over in [Over::Tcp, Over::Udp] {
            let asked = Instant::now();
            let reply =
                Ask::new(&format!("name{round}.example."), rr::A).send(nodens.address(), over);
            assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
            slowest = slowest.max(asked.elapsed());
        }
    }
    nodens.wait_for_metric("nodens_tcp_evicted_total", &[], 1.0);
    drop(slow);
    crate::common::wait_for("no connection left", || {
        (nodens.metric("nodens_tcp_connections", &[]) == 0.0).then_some(())
    });
    let after = (nodens.descriptors().len(), nodens.rss_bytes());
    println!(
        "{SLOW} slow connections: {} queries of others answered after {slowest:?} at most; {before:?} to {after:?} \
         descriptors and octets",
        2 * round
    );
    assert!(after.0 < before.0 + 64, "{before:?} {after:?}");
    assert!(after.1 < before.1 + (32 << 20), "{before:?} {after:?}");
}
