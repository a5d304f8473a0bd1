//! Any text as a configuration: it is valid, or it is refused with messages. Nothing panics or takes very long.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens::config::Config;

fuzz_target!(|text: &str| {
    match Config::from_yaml(text) {
        Ok(config) => {
            assert!(!config.listen.is_empty());
            for route in &config.routes {
                assert_eq!(route.tiers.is_empty(), route.answer.is_some());
                assert!(route.tiers.iter().all(|tier| *tier < config.groups.len()));
            }
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
