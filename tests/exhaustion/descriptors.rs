//! Descriptors and connections used up by others.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::common::dns::{Ask, rr, udp_to};
use crate::scene::{Scene, server};

/// Connects without waiting for long: a full backlog is what this is about.
fn connections(scene: &Scene, most: usize) -> Vec<TcpStream> {
    let wait = Duration::from_millis(100);
    let connect = |_| TcpStream::connect_timeout(&scene.nodens.address(), wait).ok();
    (0..most).filter_map(connect).collect()
}

fn ask_new_names(socket: &UdpSocket, round: usize) {
    for number in 0..10 {
        let name = format!("ever-{round}-{number}.example.");
        socket
            .send(&Ask::new(&name, rr::A).message())
            .expect("sent");
    }
}

fn flood(files: u32) {
    let case = format!("{files} descriptors");
    let scene = Scene::start(files, server());
    let heard = scene.during(&case, || {
        let idle = connections(&scene, 300);
        println!("{case}: {} idle connections", idle.len());
        let socket = udp_to(scene.nodens.address()).expect("a socket");
        for round in 0..100 {
            ask_new_names(&socket, round);
            thread::sleep(Duration::from_millis(10));
        }
        let open = scene.nodens.descriptors().len();
        println!("{case}: {open} descriptors open at the end of the flood");
    });
    heard.assert_all_answered(&case);
}

#[test]
#[ignore = "needs root and cgroups"]
fn honest_clients_are_answered_with_64_descriptors() {
    flood(64);
}

#[test]
#[ignore = "needs root and cgroups"]
fn honest_clients_are_answered_with_256_descriptors() {
    flood(256);
}

#[test]
#[ignore = "needs root and cgroups"]
fn honest_clients_are_answered_with_1024_descriptors() {
    flood(1024);
}

#[test]
#[ignore = "needs root and cgroups"]
fn connections_that_send_an_octet_at_a_time_cost_honest_clients_nothing() {
    let scene = Scene::start(1024, server());
    let heard = scene.during("an octet at a time", || {
        let mut slow = connections(&scene, 300);
        let message = Ask::new("slow.example.", rr::A).message();
        for octet in message.iter().take(15) {
            // One that was closed by the server has ended, as it should.
            slow.retain_mut(|stream| stream.write_all(&[*octet]).is_ok());
            thread::sleep(Duration::from_millis(100));
        }
        println!("an octet at a time: {} connections at the end", slow.len());
    });
    heard.assert_all_answered("an octet at a time");
}

#[test]
#[ignore = "needs root and cgroups"]
fn slow_connections_to_the_admin_port_cost_honest_clients_nothing() {
    let case = "slow connections to the admin port";
    let scene = Scene::start(256, server());
    let admin = scene.nodens.admin.expect("it has one");
    let connect = |_| TcpStream::connect_timeout(&admin, Duration::from_millis(100)).ok();
    let heard = scene.during(case, || {
        let never_read: Vec<_> = (0..100)
            .filter_map(connect)
            .map(|mut stream| {
                let sent = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
                sent.map(|()| stream)
            })
            .collect();
        let mut slow: Vec<_> = (0..200).filter_map(connect).collect();
        for octet in b"GET /metrics HTT" {
            slow.retain_mut(|stream| stream.write_all(&[*octet]).is_ok());
            thread::sleep(Duration::from_millis(100));
        }
        println!(
            "{case}: {} and {} connections",
            never_read.len(),
            slow.len()
        );
    });
    heard.assert_all_answered(case);
}
