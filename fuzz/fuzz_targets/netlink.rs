//! Any bytes as the kernel's reply over netlink: reading messages, and attributes within attributes, must end and must stay
//! within the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::node::netlink::{attributes, read};

/// Length of the header of a message (`struct nlmsghdr`).
const HEADER: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut received = Vec::new();
    let end = read(bytes, &mut received);
    let octets: usize = received
        .iter()
        .map(|message| HEADER + message.payload.len())
        .sum();
    assert!(octets <= bytes.len(), "more than was there");
    if let Err(error) = end {
        assert!(!error.to_string().is_empty());
    }
    for message in &received {
        // Messages about links and addresses have a header of their own before the attributes.
        for header in [0, 8, 16] {
            walk(message.payload.get(header..).unwrap_or_default(), 0);
        }
    }
});

/// Reads attributes within attributes, as deep as nodens does.
fn walk(bytes: &[u8], depth: usize) {
    let mut octets = 0;
    for (kind, value) in attributes(bytes) {
        assert_eq!(
            kind & 0xc000,
            0,
            "bits for nesting and byte order are no kind"
        );
        octets += 4 + value.len();
        if depth < 2 {
            walk(value, depth + 1);
        }
    }
    assert!(octets <= bytes.len(), "more than was there");
}
