//! Any bytes as a server's response: reading must not panic, offsets must lie within the message, and the message that is kept
//! must be read as the same response again. The compressed message must stay within its size limit and be readable, and so must
//! the answer that DNS64 makes from it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::message::compress::{Changes, append};
use nodens::message::dns64::{Addresses, Dns64, seconds_of};
use nodens::message::response::Response;
use nodens::message::wire::MAX_MESSAGE_LEN;

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = Response::read(bytes) else {
        return;
    };
    let view = response.view();
    let message = view.message();
    assert!(message.len() <= bytes.len());
    assert!(view.question_end() <= message.len());
    for index in 0..view.ttl_count() {
        assert!(view.ttl_at(index) + 6 <= message.len());
    }
    let again = Response::read(message).expect("what was kept is well-formed");
    assert_eq!(again.view().message(), message);
    assert_eq!(again.view().ttl_count(), view.ttl_count());
    assert_eq!(again.view().rotation(), view.rotation());
    // The high bits of the response code were in OPT, which is removed.
    assert_eq!(again.rcode(), response.rcode() & 0xf);
    let changes = Changes {
        ttl: |ttl| ttl,
        rdata_of: |number| number,
    };
    for room in [view.question_end(), 512, MAX_MESSAGE_LEN] {
        let room = room.max(view.question_end());
        let mut shown = Vec::new();
        append(view, room, &changes, &mut shown);
        assert!(shown.len() <= room);
        Response::read(&shown).expect("what is shown is well-formed");
    }
    let prefix = "64:ff9b::/96".parse().expect("a network");
    let excluded = "::ffff:0:0/96".parse().expect("a network");
    let rule = Dns64::new(prefix, vec![excluded]);
    let _ = seconds_of(view);
    if let Ok(Some(made)) = rule.synthesised(view) {
        assert_eq!(rule.addresses(made.view()), Addresses::All);
        assert!(!rule.has_real_addresses(made.view()));
        Response::read(made.view().message()).expect("what is made is well-formed");
    }
    if let Ok(counted) = rule.without_excluded(view) {
        let left = rule.addresses(counted.view());
        assert!(matches!(left, Addresses::All | Addresses::None));
    }
});
