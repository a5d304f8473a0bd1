//! Any bytes as an upstream's response: reading must not panic, offsets must lie inside, and what is kept must read as
//! the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::response::Response;

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = Response::read(bytes) else {
        return;
    };
    let message = response.message();
    assert!(message.len() <= bytes.len());
    assert!(response.question_end() <= message.len());
    for index in 0..response.ttl_count() {
        assert!(response.ttl_at(index) + 6 <= message.len());
    }
    let again = Response::read(message).expect("what was kept is well-formed");
    assert_eq!(again.message(), message);
    assert_eq!(again.ttl_count(), response.ttl_count());
    assert_eq!(again.rotation(), response.rotation());
    // OPT, which is gone, may have held the high bits of the response code.
    assert_eq!(again.rcode(), response.rcode() & 0xf);
});
