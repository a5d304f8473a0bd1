//! The resolvers of C libraries and of Go, as clients: programs built here that ask for a name's addresses, each run with
//! an `/etc/resolv.conf` of the test's own in a mount namespace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::TempDir;
use crate::common::namespace::both;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// `getent ahosts`: glibc, which leaves out families that this machine has no address of.
    Getent,
    /// glibc's getaddrinfo.
    Glibc,
    /// musl's getaddrinfo, linked statically as in Alpine's images.
    Musl,
    /// Go's resolver, without cgo.
    Go,
}

pub(crate) const ALL: [Client; 4] = [Client::Getent, Client::Glibc, Client::Musl, Client::Go];

/// What a lookup gave: addresses, or the library's word for why not.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) found: Result<BTreeSet<String>, String>,
    pub(crate) took: Duration,
}

impl Lookup {
    pub(crate) fn has(&self, address: &str) -> bool {
        self.found
            .as_ref()
            .is_ok_and(|found| found.contains(address))
    }

    pub(crate) fn count(&self) -> usize {
        self.found.as_ref().map_or(0, BTreeSet::len)
    }
}

impl Client {
    fn command(self) -> (PathBuf, &'static [&'static str]) {
        match self {
            Self::Getent => ("getent".into(), &["ahosts"]),
            _ => (built(self).to_owned(), &[]),
        }
    }
}

/// The program of a client, built at its first use.
fn built(client: Client) -> &'static Path {
    static PROGRAMS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let source = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/stub_resolvers")
            .join(name)
    };
    let program = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiled = |compiler: &str, package: &str, name: &str, flags: &[&str]| {
        let program = program(name);
        let mut command = Command::new(compiler);
        command
            .args(flags)
            .arg("-o")
            .arg(&program)
            .arg(source("lookup.c"));
        succeed(&mut command, package);
        program
    };
    match client {
        Client::Getent => unreachable!("it comes with glibc"),
        Client::Glibc => PROGRAMS[0]
            .get_or_init(|| compiled("cc", "build-essential", "lookup-glibc", &["-Wall"])),
        Client::Musl => PROGRAMS[1].get_or_init(|| {
            compiled(
                "musl-gcc",
                "musl-tools",
                "lookup-musl",
                &["-Wall", "-static"],
            )
        }),
        Client::Go => PROGRAMS[2].get_or_init(|| {
            let program = program("lookup-go");
            let mut command = Command::new("go");
            // As `.ci/run` builds helm, so that what both need is built once.
            command.args([
                "build",
                "-gcflags=all=-N -l -dwarf=false",
                "-ldflags=-s -w",
                "-o",
            ]);
            command
                .arg(&program)
                .arg(source("lookup.go"))
                .env("CGO_ENABLED", "0");
            succeed(&mut command, "golang");
            program
        }),
    }
}

fn succeed(command: &mut Command, package: &str) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}: apt-get install {package}"));
    assert!(output.status.success(), "{command:?}: {}", both(&output));
}

/// Whether musl fetches a truncated answer over TCP, as from 1.2.4 on. Its loader, run by itself, says its version.
pub(crate) fn musl_has_tcp() -> bool {
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    let output = Command::new(&loader).output();
    let said =
        both(&output.unwrap_or_else(|error| panic!("{loader}: {error}: apt-get install musl")));
    let version = said.lines().find_map(|line| line.strip_prefix("Version "));
    let version = version.unwrap_or_else(|| panic!("{loader} says no version: {said}"));
    let numbers: Vec<u32> = version
        .split(['.', '-'])
        .filter_map(|part| part.parse().ok())
        .collect();
    numbers >= vec![1, 2, 4]
}

/// A pod's resolver configuration.
pub(crate) struct ResolvConf {
    directory: TempDir,
}

impl ResolvConf {
    pub(crate) fn new(text: &str) -> Self {
        let directory = TempDir::new();
        directory.write("resolv.conf", text);
        directory.write("nsswitch.conf", "hosts: files dns\n");
        Self { directory }
    }

    /// Has a client look a name up.
    pub(crate) fn lookup(&self, client: Client, name: &str) -> Lookup {
        let (program, arguments) = client.command();
        let script = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf && \
                      mount --bind \"$0/nsswitch.conf\" /etc/nsswitch.conf && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(self.directory.path(""));
        command.arg(program).args(arguments).arg(name);
        let started = Instant::now();
        let output = command
            .output()
            .expect("unshare is installed: apt-get install util-linux");
        let took = started.elapsed();
        let said = both(&output);
        let found = match output.status.code() {
            Some(0) => {
                let first = |line: &str| line.split(' ').next().map(str::to_owned);
                Ok(said.lines().filter_map(first).collect())
            }
            // 2 is getent's "not found".
            Some(1 | 2) => Err(said.trim().to_owned()),
            _ => panic!("{command:?}: {} {said}", output.status),
        };
        Lookup { found, took }
    }
}
