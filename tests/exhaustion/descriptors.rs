//! Descriptors used up by idle connections and new names.

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
