//! Any text as a Corefile: it is refused with messages, or becomes a configuration. The YAML that `nodens import` writes for it
//! is read as the same configuration.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nodens::config::{Config, import, load_from};

/// Whether a Corefile names files that not every machine has. Such an input is skipped.
fn leads_elsewhere(text: &str) -> bool {
    let text = text.replace("/etc/resolv.conf", "");
    text.contains('/')
        || text
            .lines()
            .any(|line| line.contains("import") && line.contains(['*', '?', '[', '.']))
}

/// The settings in force, without the sources of the settings and the names of files, which differ.
fn in_force(mut config: Config) -> String {
    config.settings = [].into();
    config.imports.clear();
    format!("{config:#?}")
}

fuzz_target!(|text: &str| {
    if leads_elsewhere(text) {
        return;
    }
    let file = Path::new("Corefile");
    match load_from(Some((file, text)), [], &[]) {
        Ok(loaded) => {
            let imported = import(file, text, None)
                .unwrap_or_else(|errors| panic!("what is served is not imported: {errors}"));
            let yaml = imported.yaml;
            let again = Config::from_yaml(&yaml)
                .unwrap_or_else(|errors| panic!("what was written is refused: {errors}\n{yaml}"));
            assert_eq!(in_force(again), in_force(loaded.config), "{yaml}");
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
