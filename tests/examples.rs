//! The configurations in `config/` are what people copy: each must be valid as it stands.

mod common;

use std::fs;
use std::path::Path;

use common::nodens;

#[test]
fn every_example_passes_check() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let entries = fs::read_dir(&directory).expect("the directory of examples can be read");
    let files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    for name in ["internal-network", "public-cloud", "hybrid", "sidecar"] {
        let file = directory.join(format!("{name}.yaml"));
        assert!(files.contains(&file), "{} is missing", file.display());
    }
    for file in files {
        let output = nodens()
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {}\n{errors}",
            file.display(),
            output.status
        );
        assert!(!errors.contains("warning"), "{}: {errors}", file.display());
        assert!(
            text.contains(&file.display().to_string()),
            "what is in force, and from where: {text}"
        );
    }
}
