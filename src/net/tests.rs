//! Each module over real sockets on loopback.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;

use super::batch::{ReceiveBatch, SendBatch};
use super::open::{UdpOptions, check_free, listen_tcp, listen_udp};
use super::steering::{steer, stop_steering};
use std::net::UdpSocket;
use std::time::Duration;

const OPTIONS: UdpOptions = UdpOptions {
    receive_buffer: 1 << 20,
    send_buffer: 1 << 18,
};

/// How many of 64 connections arrive at each listener.
fn arrivals(listeners: &[Socket]) -> Vec<usize> {
    let address = listeners[0].local_addr().expect("bound");
    let address = address.as_socket().expect("IP");
    let clients: Vec<_> = (0..64)
        .map(|_| std::net::TcpStream::connect(address).expect("connects"))
        .collect();
    let arrived = |listener: &Socket| std::iter::from_fn(|| listener.accept().ok()).count();
    let counts: Vec<_> = listeners.iter().map(arrived).collect();
    assert_eq!(counts.iter().sum::<usize>(), clients.len());
    counts
}

#[test]
fn connections_are_steered_by_the_order_of_listening_and_a_gap_is_filled_by_the_last() {
    let first = listen_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 64 << 10).expect("binds");
    let address = first.local_addr().expect("bound");
    let address = address.as_socket().expect("IP");
    let mut listeners = vec![first];
    listeners.extend((1..4).map(|_| listen_tcp(address, 64 << 10).expect("shares the port")));
    assert!(
        arrivals(&listeners).iter().all(|&count| count > 0),
        "nobody has steered yet"
    );
    steer(&listeners[0], 2).expect("allowed");
    assert_eq!(arrivals(&listeners), [0, 0, 64, 0]);
    // The last one takes the place of the one that closes.
    drop(listeners.remove(1));
    steer(&listeners[0], 1).expect("allowed");
    assert_eq!(arrivals(&listeners), [0, 0, 64]);
    // There is nobody at 3: as if nobody steered.
    steer(&listeners[0], 3).expect("allowed");
    assert!(arrivals(&listeners).iter().all(|&count| count > 0));
    steer(&listeners[0], 1).expect("allowed");
    stop_steering(&listeners[2]).expect("allowed");
    assert!(arrivals(&listeners).iter().all(|&count| count > 0));
    stop_steering(&listeners[2]).expect("nothing to undo is no error");
}

fn echo_once(server: &str, client: &str, ask: impl Fn(u16) -> SocketAddr) {
    let (socket, _) = listen_udp(server.parse().expect("an address"), OPTIONS).expect("binds");
    let port = socket
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("IP")
        .port();
    let client = UdpSocket::bind(client).expect("binds");
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("settable");
    for number in 0..3_u8 {
        client.send_to(&[number; 5], ask(port)).expect("sends");
    }
    let mut receive = ReceiveBatch::new(8, 512);
    let mut send = SendBatch::new(512, 8);
    let mut got = 0;
    while got < 3 {
        match receive.receive(&socket) {
            Ok(count) => {
                for index in 0..count {
                    let peer = receive.peer(index).expect("an IP address");
                    let destination = receive.ancillary(index).destination;
                    send.push(peer, destination)
                        .extend_from_slice(receive.datagram(index));
                }
                got += count;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(send.send(&socket, 0).expect("sends"), 3);
    for number in 0..3_u8 {
        let mut buffer = [0; 16];
        let (length, from) = client.recv_from(&mut buffer).expect("an echo");
        assert_eq!(&buffer[..length], &[number; 5]);
        assert_eq!(
            from,
            ask(port),
            "replies leave from the address that was asked"
        );
    }
}

#[test]
fn batches_carry_datagrams_both_ways() {
    echo_once("127.0.0.1:0", "127.0.0.1:0", |port| {
        ([127, 0, 0, 1], port).into()
    });
    echo_once("[::1]:0", "[::1]:0", |port| {
        (Ipv6Addr::LOCALHOST, port).into()
    });
}

#[test]
fn wildcard_sockets_reply_from_the_address_that_was_asked() {
    echo_once("0.0.0.0:0", "127.0.0.1:0", |port| {
        ([127, 9, 8, 7], port).into()
    });
    echo_once("[::]:0", "[::1]:0", |port| {
        (Ipv6Addr::LOCALHOST, port).into()
    });
}

#[test]
fn a_shared_port_is_not_free() {
    let (socket, _) = listen_udp("127.77.5.3:0".parse().expect("ok"), OPTIONS).expect("binds");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let error = check_free(address).expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(socket);
    check_free(address).expect("free again");
}

#[test]
fn overflowing_receive_buffers_are_counted() {
    let tiny = UdpOptions {
        receive_buffer: 2048,
        send_buffer: 1 << 18,
    };
    let (socket, _) = listen_udp("127.0.0.1:0".parse().expect("ok"), tiny).expect("binds");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
    for _ in 0..100 {
        client.send_to(&[0; 500], address).expect("sends");
    }
    let mut batch = ReceiveBatch::new(64, 512);
    while batch.receive(&socket).is_ok() {}
    client.send_to(&[0; 5], address).expect("sends");
    assert_eq!(batch.receive(&socket).expect("one datagram"), 1);
    assert!(
        batch
            .ancillary(0)
            .dropped
            .is_some_and(|dropped| dropped > 0)
    );
}
