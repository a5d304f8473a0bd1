//! The configurations in `config/` are what people copy: each must be valid as it stands, and name the schema by which
//! editors complete it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::nodens;

/// From the root of the repository.
const SCHEMA: &str = "docs/nodens.schema.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("config")).expect("the directory can be read");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn every_example_passes_check() {
    let files = examples();
    for name in ["internal-network", "public-cloud", "hybrid", "sidecar"] {
        let file = root().join(format!("config/{name}.yaml"));
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

#[test]
fn the_schema_in_the_repository_is_that_of_the_binary() {
    let output = nodens().arg("schema").output().expect("it runs");
    assert!(output.status.success(), "{}", output.status);
    let kept = fs::read(root().join(SCHEMA)).unwrap_or_default();
    assert!(
        output.stdout == kept,
        "{SCHEMA} is of another configuration; cargo run -- schema > {SCHEMA}"
    );
}

#[test]
fn editors_find_the_schema_of_every_example() {
    for file in examples() {
        let text = fs::read_to_string(&file).expect("the example can be read");
        let first = text.lines().next().unwrap_or_default();
        let schema = first.strip_prefix("# yaml-language-server: $schema=");
        let schema = schema.unwrap_or_else(|| panic!("{}: {first}", file.display()));
        let schema = file.parent().expect("a directory").join(schema);
        let found = schema.canonicalize().expect("the schema is there");
        assert_eq!(
            found,
            root().join(SCHEMA).canonicalize().expect("it is there")
        );
    }
}
