//! Floods of messages that no client should send.

use std::thread;
use std::time::Duration;

use crate::common::dns::{Ask, header, rr, udp_to};
use crate::scene::{Scene, server};

/// 2,000 in all, 20 at a time.
const BATCHES: u16 = 100;
const PAUSE: Duration = Duration::from_millis(10);

#[test]
#[ignore = "needs root and cgroups"]
fn floods_of_formerr_notify_update_and_other_opcodes_cost_honest_clients_nothing() {
    let scene = Scene::start(1024, server());
    let heard = scene.during("FORMERR and opcodes", || {
        let socket = udp_to(scene.nodens.address()).expect("a socket");
        for batch in 0..BATCHES {
            for opcode in [2_u16, 4, 5, 6, 15] {
                for _ in 0..3 {
                    let ask = Ask::new("flood.example.", rr::A).flags(opcode << 11);
                    socket.send(&ask.message()).expect("sent");
                }
            }
            for _ in 0..5 {
                // One question is announced, and none is there.
                socket
                    .send(&header(batch, 0x0100, [1, 0, 0, 0]))
                    .expect("sent");
            }
            thread::sleep(PAUSE);
        }
    });
    heard.assert_all_answered("FORMERR and opcodes");
}
