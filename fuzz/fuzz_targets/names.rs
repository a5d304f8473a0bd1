//! Names at any offset of any bytes: reading and comparing them must end, and must stay within the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::message::wire;

fuzz_target!(|bytes: &[u8]| {
    let [first, second, message @ ..] = bytes else {
        return;
    };
    let (first, second) = (usize::from(*first), usize::from(*second));
    let plain = wire::skip_question_name(message, first);
    let compressed = wire::skip_name(message, first);
    if let Ok(end) = plain {
        assert!((first + 1..=message.len()).contains(&end));
        assert!(end - first <= wire::MAX_NAME_LEN);
        // For a name without pointers, both functions return the same end.
        assert_eq!(compressed, Ok(end));
    }
    if let Ok(end) = compressed {
        assert!((first + 1..=message.len()).contains(&end));
        assert!(wire::same_name(message, first, first));
    }
    if compressed.is_ok() && wire::skip_name(message, second).is_ok() {
        let same = wire::same_name(message, first, second);
        assert_eq!(same, wire::same_name(message, second, first));
    }
});
