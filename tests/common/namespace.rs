//! Network namespaces for one test. Needs root and iproute2.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::{Process, TempDir, binary, get};

/// A network namespace. It is deleted with its contents when the value is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace with `lo` alone, which is up.
    pub(crate) fn new(role: &str) -> Self {
        let name = format!(
            "nodens-{}-{}-{role}",
            std::process::id(),
            super::next_number()
        );
        let namespace = Self { name };
        ip(&format!("netns add {}", namespace.name));
        namespace.ip("link set lo up");
        namespace
    }

    /// Adds a veth pair between this namespace and `other`, with both ends up.
    pub(crate) fn connect(&self, ours: &str, other: &Self, theirs: &str) {
        let peer = format!("peer name {theirs} netns {}", other.name);
        self.ip(&format!("link add {ours} type veth {peer}"));
        self.ip(&format!("link set {ours} up"));
        other.ip(&format!("link set {theirs} up"));
    }

    /// Runs `ip` with these arguments in the namespace. Fails the test if it fails.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs a program in the namespace. Fails the test if it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .expect("ip is installed");
        succeed(&format!("{program} {arguments:?}"), &output)
    }

    /// A command that will run in the namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Fails only if the namespace is gone already.
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}

/// A running nodens in a namespace.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) process: Process,
    socket: PathBuf,
}

impl Instance {
    /// Starts it and waits until it is ready; `yaml` is its configuration apart from `socket` and `admin`.
    pub(crate) fn start(
        namespace: &Namespace,
        dir: &TempDir,
        name: &'static str,
        yaml: &str,
    ) -> Self {
        let mut instance = Self::spawn(namespace, dir, name, yaml);
        instance.wait_until_ready();
        instance
    }

    /// As [`Self::start`], but does not wait.
    pub(crate) fn spawn(
        namespace: &Namespace,
        dir: &TempDir,
        name: &'static str,
        yaml: &str,
    ) -> Self {
        let socket = dir.path(&format!("{name}.sock"));
        let config = format!("socket: {}\nadmin: null\n{yaml}", socket.display());
        let file = dir.write(&format!("{name}.yaml"), &config);
        let mut command = namespace.command(binary());
        command.args(["serve", "--config"]).arg(&file);
        let log = dir.path(&format!("{name}.log"));
        let process = Process::spawn(name, &mut command, log);
        Self { process, socket }
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let socket = &self.socket;
        self.process.wait_until("200 from /ready", || {
            get(socket, "/ready")
                .ok()
                .filter(|(status, _)| *status == 200)
        });
    }

    /// Status and text of a page of the admin interface. None if nothing answers.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        get(&self.socket, path).ok()
    }

    /// The value of a counter or gauge, whose name has labels as in /metrics. 0 if /metrics does not have it.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = get(&self.socket, "/metrics").expect("it was ready");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().expect("a whole number"))
    }
}

/// Runs `ip` with these arguments. Fails the test if it fails.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip is installed: apt-get install iproute2");
    succeed(&format!("ip {arguments}"), &output)
}

fn succeed(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {}", both(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard output and standard error of a program.
pub(crate) fn both(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Fails the test unless it runs as root.
pub(crate) fn assert_root() {
    let user = Command::new("id").arg("-u").output().expect("id runs");
    let user = String::from_utf8_lossy(&user.stdout).into_owned();
    assert_eq!(user.trim(), "0", "network namespaces need root");
}
