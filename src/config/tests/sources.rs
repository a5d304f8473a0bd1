//! Where the configuration comes from: the file, the environment and the command line.

use std::fmt::Write as _;

use super::*;
use crate::config::{Flags, Origin, load};

#[test]
fn a_bad_file_says_what_to_do() {
    let directory = TemporaryDirectory::new("files");
    let cases = [
        (
            "missing",
            directory.0.join("none.yaml"),
            ": there is no such file; check --config",
        ),
        ("directory", directory.0.clone(), ": cannot be read: "),
        (
            "empty",
            directory.file("empty.yaml", ""),
            ": is empty; write at least `listen:`",
        ),
        (
            "comments",
            directory.file("comments.yaml", "# a\n\n  # b\n"),
            ": is empty; write at least `listen:`",
        ),
        (
            "list",
            directory.file("list.yaml", "- a\n"),
            ":1: holds a list at the top, where keys such as `listen:`",
        ),
        (
            "syntax",
            directory.file("syntax.yaml", "a: 1\nb: [\n"),
            "is not YAML: ",
        ),
        (
            "tab",
            directory.file("tab.yaml", "cache:\n\tmax_ttl: 1s\n"),
            ":2: a tab indents this line; YAML wants spaces",
        ),
        (
            "documents",
            directory.file("two.yaml", "a: 1\n---\nb: 1\n"),
            ":2: a second document starts here",
        ),
        (
            "not UTF-8",
            directory.0.join("latin.yaml"),
            ": cannot be read: it is not UTF-8",
        ),
    ];
    fs::write(directory.0.join("latin.yaml"), [b'a', 0xe9]).expect("a temporary file");
    for (name, file, expected) in cases {
        let flags = Flags {
            config_file: Some(file.clone()),
            ..Flags::default()
        };
        let found = load(&flags).expect_err(name).to_string();
        assert!(
            found.starts_with(&file.display().to_string()),
            "{name}: {found}"
        );
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{name}: {found}"
        );
    }
}

#[test]
fn the_environment_outranks_the_file_and_flags_outrank_both() {
    let text = "upstreams: {vpc: {servers: [10.0.0.2]}}\ncache:\n  max_size: 1MiB\n  max_ttl: 1h\nworkers: 1\n";
    let file = Some((Path::new("nodens.yaml"), text));
    let variables = environment(&[
        ("NODENS__CACHE__MAX_SIZE", "2MiB"),
        ("NODENS__CACHE__STALE__MAX_AGE", "0"),
        ("NODENS__ADMIN", "null"),
        ("NODENS__LISTEN", "[127.0.0.1:53, \"[::1]:53\"]"),
        ("NODENS__UPSTREAMS__VPC__SERVERS", "10.0.0.9"),
        ("NODENS__HANDOVER", "true"),
        ("NODENS__WORKERS", "2"),
        ("NODENS__RECORDS__X.Y__A", "10.0.0.1"),
        ("NODENS_PORT", "tcp://10.0.0.1:53"),
        ("NODENS_SERVICE_HOST", "10.0.0.1"),
        ("NODENS__", "x"),
        ("PATH", "/bin"),
    ]);
    let overrides = [("workers".to_owned(), "3".to_owned())];
    let loaded = load_from(file, variables, &overrides).expect("a configuration");
    let config = &loaded.config;
    assert_eq!(
        (config.cache.max_size, config.cache.max_ttl.as_secs()),
        (2 << 20, 3_600)
    );
    assert_eq!(
        (config.admin, config.handover, config.listen.len()),
        (None, true, 2)
    );
    assert_eq!(config.groups[0].servers[0].to_string(), "10.0.0.9");
    assert_eq!(config.workers.get(), 3);
    assert_eq!(config.records[0].name.to_ascii(), "x.y.");
    let mut shown = String::new();
    for setting in &loaded.settings {
        if setting.origin != Origin::Default {
            writeln!(
                shown,
                "{} = {} ({})",
                setting.path, setting.value, setting.origin
            )
            .expect("a String");
        }
    }
    assert_eq!(
        shown,
        "listen = [127.0.0.1:53, [::1]:53] ($NODENS__LISTEN)\n\
         admin = null ($NODENS__ADMIN)\n\
         workers = 3 (command line)\n\
         handover = true ($NODENS__HANDOVER)\n\
         upstreams.vpc.servers = [10.0.0.9] ($NODENS__UPSTREAMS__VPC__SERVERS)\n\
         records.\"x.y\".a = [10.0.0.1] ($NODENS__RECORDS__X.Y__A)\n\
         cache.max_size = 2MiB ($NODENS__CACHE__MAX_SIZE)\n\
         cache.max_ttl = 1h (nodens.yaml:4)\n\
         cache.stale.max_age = 0s ($NODENS__CACHE__STALE__MAX_AGE)\n"
    );
}

#[test]
fn mistakes_outside_the_file_name_the_variable_or_the_flag() {
    let variables = environment(&[
        ("NODENS__CACHE", "5"),
        ("NODENS__CACHE__MAX_TTL", "9d"),
        ("NODENS__WROKERS", "1"),
        ("NODENS__LISTEN", "localhost:53"),
    ]);
    let overrides = [("tcp.idle_timeout".to_owned(), "2h".to_owned())];
    let found = load_from(Some((Path::new("x.yaml"), VPC)), variables, &overrides)
        .expect_err("mistakes")
        .to_string();
    let mut lines: Vec<_> = found.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "$NODENS__CACHE: cache: $NODENS__CACHE__MAX_TTL sets a key below this one, which is no table; remove one of the two",
            "$NODENS__CACHE__MAX_TTL: cache.max_ttl: 9d is over the limit of 7d",
            "$NODENS__LISTEN: listen: localhost:53 is not an address with a port such as 127.0.0.1:5300 or [::1]:5300",
            "$NODENS__WROKERS: wrokers: there is no such key; did you mean workers?",
            "command line: tcp.idle_timeout: 2h is over the limit of 1h",
        ]
    );
}

#[test]
fn a_variable_with_one_underscore_too_few_is_a_warning() {
    let variables = environment(&[
        ("NODENS_LISTEN", "127.0.0.1:53"),
        ("NODENS_CACHE__MAX_SIZE", "16MiB"),
        // Of Services called nodens and nodens-cache, and our own.
        ("NODENS_PORT", "tcp://10.96.0.53:53"),
        ("NODENS_SERVICE_HOST", "10.96.0.53"),
        ("NODENS_CACHE_PORT_53_TCP", "tcp://10.96.0.54:53"),
        ("NODENS_STATE_DIR", "/var/lib/nodens"),
        ("NODENS__WORKERS", "1"),
    ]);
    let loaded = load_from(Some((Path::new("x.yaml"), VPC)), variables, &[]).expect("valid");
    let unread: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| warning.starts_with('$'))
        .collect();
    assert_eq!(
        unread,
        [
            "$NODENS_CACHE__MAX_SIZE is not read: two underscores follow the name, NODENS__CACHE__MAX_SIZE",
            "$NODENS_LISTEN is not read: two underscores follow the name, NODENS__LISTEN",
        ]
    );
}
