//! Floods of messages that nobody should send: of clients, and of whoever plays the server.

use std::thread;
use std::time::Duration;

use crate::common::dns::{Ask, header, record, response, rr, udp_to};
use crate::common::stand_in::StandIn;
use crate::honest::RIGHT;
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

#[test]
#[ignore = "needs root and cgroups"]
fn forged_responses_with_another_id_are_never_believed() {
    let forged = StandIn::new(|query, _| {
        let mut messages = Vec::new();
        for guess in 1..=20 {
            let mut lie = response(query, &[record(rr::A, 300, &[192, 0, 2, 66])]);
            lie[1] ^= guess;
            messages.push(lie);
        }
        messages.push(response(query, &[record(rr::A, 300, &RIGHT)]));
        messages
    });
    let scene = Scene::start(1024, forged);
    let heard = scene.during("forged responses", || thread::sleep(Duration::from_secs(2)));
    heard.assert_all_answered("forged responses");
}
