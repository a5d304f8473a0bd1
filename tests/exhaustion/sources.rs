//! Many clients that ask once.

use std::net::UdpSocket;

use crate::common::PATIENCE;
use crate::common::dns::{Ask, receive, rr};
use crate::scene::{Scene, server};

#[test]
#[ignore = "needs root and cgroups"]
fn ten_thousand_addresses_that_ask_once_leave_nothing_behind() {
    let scene = Scene::start(1024, server());
    let heard = scene.during("10,000 addresses", || {
        let message = Ask::new("cached.example.", rr::A).message();
        for number in 0..10_000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            let socket = UdpSocket::bind(format!("127.32.{high}.{low}:0")).ok();
            let socket = socket.unwrap_or_else(|| panic!("127.32.{high}.{low} is ours"));
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket.connect(scene.nodens.address()).expect("connected");
            socket.send(&message).expect("sent");
            receive(&socket).expect("a reply");
        }
    });
    heard.assert_all_answered("10,000 addresses");
}
