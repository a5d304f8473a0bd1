//! A full cache, and 2,000 connections whose clients ask for 60 KiB answers and are in no hurry to read them, in the memory that
//! the chart gives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::dns::{Ask, Over, rcode, read_frame, record, response, rr, send_frame};
use crate::common::limit_open_files;
use crate::common::stand_in::StandIn;
use crate::honest::{Honest, RIGHT};
use crate::scene::Scene;

const CLIENTS: u8 = 8;
const CONNECTIONS: u16 = 250;
/// Large answers that each connection asks for at once.
const ANSWERS: u16 = 3;
/// Names with large answers: a quarter more than the cache has room for.
const NAMES: u16 = 1_400;
/// Records of 268 octets each: 60 KiB and a little less than a message can have.
const RECORDS: usize = 230;
/// How often all of them do so, and bytes that the later times may add.
const TIMES: usize = 6;
const MOST_MORE: u64 = 24_000_000;
/// How long the clients read nothing.
const PAUSE: Duration = Duration::from_secs(1);

/// Large answers for TXT over TCP, an address for all else.
fn server() -> StandIn {
    let text = [&[255][..], &[b'x'; 255]].concat();
    StandIn::new(move |query, over| {
        let is_large = query[12..].starts_with(b"\x05large");
        vec![match over {
            Over::Udp if is_large => {
                let mut cut = response(query, &[]);
                cut[2] |= 2;
                cut
            }
            Over::Tcp if is_large => response(query, &vec![record(rr::TXT, 300, &text); RECORDS]),
            _ => response(query, &[record(rr::A, 300, &RIGHT)]),
        }]
    })
}

fn large(number: u16) -> Ask {
    Ask::new(&format!("large.n{}.example.", number % NAMES), rr::TXT)
}

/// A connection from this client.
fn connect(client: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // What the kernel holds is not the point.
    socket.set_recv_buffer_size(4 << 10).expect("set");
    let client = IpAddr::from(Ipv4Addr::new(127, 99, 1, client));
    socket
        .bind(&SocketAddr::new(client, 0).into())
        .expect("bound");
    socket.connect(&to.into()).expect("connected");
    socket.into()
}

/// Whole answers that a client reads until there is nothing more, or its connection was closed to make room for others.
fn read_all(mut stream: TcpStream) -> u16 {
    let mut answers = 0;
    while answers < ANSWERS
        && let Ok(message) = read_frame(&mut stream)
    {
        assert_eq!(message[3] & 15, 0, "an answer");
        answers += 1;
    }
    answers
}

/// All connections ask, read nothing for a while, and then read what is theirs.
fn ask_for_large_answers(address: SocketAddr) {
    let mut streams = Vec::new();
    for number in 0..CONNECTIONS {
        for client in 1..=CLIENTS {
            let mut stream = connect(client, address);
            for answer in 0..ANSWERS {
                let number = number * u16::from(CLIENTS) + u16::from(client) + answer * 500;
                send_frame(&mut stream, &large(number).message()).expect("sent");
            }
            streams.push(stream);
        }
    }
    thread::sleep(PAUSE);
    let connections = streams.len();
    let answers: u32 = streams.into_iter().map(read_all).map(u32::from).sum();
    println!("{connections} connections read {answers} answers");
    assert!(answers > 0);
}

#[test]
#[ignore = "needs root and cgroups"]
fn two_thousand_clients_with_large_answers_and_a_full_cache_fit_the_charts_memory() {
    let case = "large answers";
    let scene = Scene::start_with(16_384, server(), "");
    limit_open_files(std::process::id(), 8_192);
    let address = scene.nodens.address();
    for number in 0..NAMES {
        let reply = large(number).send(address, Over::Tcp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
        assert!(reply.length > 60_000, "{reply:?}");
    }
    let evicted = scene.nodens.metric("nodens_cache_evictions_total", &[]);
    assert!(evicted > 0.0, "the cache is not full");

    // Cached answers that come and go among those that wait for clients leave gaps between them. The gaps do not add up.
    let full = scene.nodens.rss_bytes();
    let honest = Honest::start(address);
    let after: Vec<_> = (0..TIMES)
        .map(|_| {
            ask_for_large_answers(address);
            scene.nodens.rss_bytes()
        })
        .collect();
    let heard = honest.stop();
    println!(
        "{case}: {full} bytes resident, after each time {after:?}, at most {}",
        scene.nodens.peak_rss_bytes()
    );
    heard.assert_all_answered(case);
    let most_gaps = after[..TIMES / 2].iter().max().expect("some");
    assert!(after[TIMES - 1] < most_gaps + MOST_MORE, "{after:?}");
}
