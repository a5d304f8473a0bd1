//! Any bytes as a predecessor's cache: reading must not panic, and what is accepted must be what a server could have said.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use nodens::budgets::HANDOVER_ENTRY_BYTES;
use nodens::cache::transfer::{Received, read_frame};
use nodens::cache::{Bounds, Origin};
use nodens::message::response::{Kind, Response};

const BOUNDS: Bounds = Bounds {
    max_ttl: 86_400,
    max_negative_ttl: 3_600,
    later_max_negative_ttl: 30,
    min_ttl: 0,
    max_lifetime: u32::MAX,
};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let (mut stream, mut frame) = (bytes, Vec::new());
    while let Ok(true) = read_frame(&mut stream, &mut frame, HANDOVER_ENTRY_BYTES) {
        check(&frame);
    }
});

fn check(frame: &[u8]) {
    let Some(received) = Received::read(frame) else {
        return;
    };
    let message = received.response().view().message();
    let again = Response::read(message).expect("what was accepted is a response");
    assert!(matches!(again.kind(), Kind::Positive | Kind::Negative));
    assert!(!again.truncated());
    let now = Instant::now();
    let origin = Origin {
        route: 0,
        tier: 0,
        took: std::time::Duration::ZERO,
    };
    let Some(entry) = received.entry(now, origin, BOUNDS) else {
        return;
    };
    assert!(entry.seconds_left(now) <= BOUNDS.max_ttl);
    // Handed over again, it is the same: its age counts from now on.
    let mut frame = Vec::new();
    if entry.write(now, &mut frame) {
        let twice = Received::read(&frame).expect("an entry of ours");
        assert_eq!(twice.key(), received.key());
        assert_eq!(twice.response(), received.response());
    }
}
