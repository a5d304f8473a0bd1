//! Shared parts of the integration tests: the real binary with a test's configuration, scripted and real name servers as
//! upstreams, and DNS messages as bytes.
//!
//! All servers listen on loopback, at addresses that no other test uses. A process ends when the value that started it is
//! dropped.

#![allow(
    dead_code,
    reason = "every test binary compiles this module and uses its own part of it"
)]

pub(crate) mod dns;
pub(crate) mod namespace;
pub(crate) mod peers;
pub(crate) mod sockets;
pub(crate) mod stand_in;
pub(crate) mod tls;

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits, on a busy machine too, before it fails because something did not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Calls `check` until it returns a value. The pause only saves CPU time.
pub(crate) fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A number that is unique in this process.
fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// An address in 127.0.0.0/8 with a port that is free over UDP and TCP. Each call returns another IP address, and other test
/// processes get others, so that it is unlikely that another program takes the port first.
pub(crate) fn free_address() -> SocketAddr {
    let (socket, _listener) = free_sockets();
    socket.local_addr().expect("it is bound")
}

/// Sockets bound to an address like that of [`free_address`].
pub(crate) fn free_sockets() -> (UdpSocket, TcpListener) {
    sockets_at_port(0)
}

/// As [`free_sockets`], with this port; 0 for any free port.
pub(crate) fn sockets_at_port(port: u16) -> (UdpSocket, TcpListener) {
    let [_, high, low, _] = std::process::id().to_be_bytes();
    let number = u8::try_from(next_number() % 254 + 1).expect("at most 254");
    let ip = IpAddr::V4(Ipv4Addr::new(127, 64 | high & 0x3f, low, number));
    wait_for("a port that is free over UDP and TCP", || {
        let listener = TcpListener::bind((ip, port)).ok()?;
        let socket = UdpSocket::bind(listener.local_addr().ok()?).ok()?;
        Some((socket, listener))
    })
}

/// A directory that is removed with its contents when the value is dropped.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let name = format!("nodens-test-{}-{}", std::process::id(), next_number());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // An error does no harm: the directory is a temporary one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process whose output goes to a file. It is killed and reaped when the value is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(name: &'static str, command: &mut Command, log: PathBuf) -> Self {
        let output = File::create(&log).expect("the log file can be created");
        let errors = output.try_clone().expect("the log file can be shared");
        Self::spawn_writing_to(name, command, log, output.into(), errors.into())
    }

    /// As [`Process::spawn`], with standard output and standard error given.
    fn spawn_writing_to(
        name: &'static str,
        command: &mut Command,
        log: PathBuf,
        output: Stdio,
        errors: Stdio,
    ) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, log }
    }

    /// Waits until `check` returns a value. Fails with the process's output if the process ends before.
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = check() {
                return value;
            }
            let ended = self
                .child
                .try_wait()
                .expect("a child can be asked for its state");
            if ended.is_some() || Instant::now() > deadline {
                let state = ended.map_or("is still running".to_owned(), |s| format!("ended: {s}"));
                panic!(
                    "{}: no {what}; the process {state}; it said:\n{}",
                    self.name,
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has written this text. nodens writes its log in a thread of its own, so a line may come later
    /// than the event that it reports.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "{} did not write {text:?}; it wrote:\n{}",
                self.name,
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that the process has written to standard output and standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// A field of `/proc/PID/status` that is in kB, in bytes.
    fn status_bytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes =
            line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
        let Some(kilobytes): Option<u64> = kilobytes else {
            panic!("no {field} in:\n{status}");
        };
        kilobytes * 1024
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh")
            .args(["-c", &kill])
            .status()
            .expect("sh runs");
        assert!(sent.success(), "{kill}: {sent}");
    }

    /// Sends SIGTERM and returns how the process ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("a child can be asked for its state")
            {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} ignores SIGTERM:\n{}",
                self.name,
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test: that of this build, or the one that `NODENS_TEST_BINARY` names, so that a release binary can be
/// tested without a release build of the tests.
pub(crate) fn binary() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| {
        std::env::var("NODENS_TEST_BINARY")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_nodens").to_owned())
    })
}

/// The binary under test, without environment variables that would configure it.
pub(crate) fn nodens() -> Command {
    unconfigured(Command::new(binary()))
}

/// As [`nodens`], with a hard limit of `most` file descriptors.
pub(crate) fn nodens_with_files(most: u32) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
    command.args(["-c", &limited, binary()]);
    unconfigured(command)
}

/// Removes environment variables from a command that would configure the binary under test.
pub(crate) fn unconfigured(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODENS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `nodens serve` with a configuration that is expected to make it end at once.
pub(crate) fn serve_and_fail(config: &Path) -> Output {
    let mut command = nodens();
    command.args(["serve", "--config"]).arg(config);
    run_to_its_end(command)
}

/// Runs a command that is expected to end at once. Returns its exit status and output.
pub(crate) fn run_to_its_end(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // If the command serves instead, the test must fail and not hang.
    let mut guard = Killed(Some(child));
    wait_for("the command to end", || {
        let child = guard.0.as_mut()?;
        child
            .try_wait()
            .expect("a child can be asked for its state")
    });
    let child = guard.0.take().expect("taken only here");
    child.wait_with_output().expect("its output can be read")
}

/// Runs a command that serves, at free ports in place of those of its configuration, and ends it by SIGTERM when it serves.
/// Returns its exit status and output.
pub(crate) fn serve_and_stop(mut command: Command) -> (ExitStatus, String) {
    let dir = TempDir::new();
    let socket = dir.path("nodens.sock");
    for variable in ["NODENS__LISTEN", "NODENS__ADMIN"] {
        command.env(variable, "127.0.0.1:0");
    }
    command.env("NODENS__SOCKET", &socket);
    let mut process = Process::spawn("nodens", &mut command, dir.path("nodens.log"));
    process.wait_until("200 from /health", || {
        let (status, _) = get(&socket, "/health").ok()?;
        (status == 200).then_some(())
    });
    (process.terminate(), process.log())
}

struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sets the soft limit of open files of a process.
pub(crate) fn limit_open_files(process: u32, limit: u64) {
    let set = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--nofile={limit}:")])
        .status()
        .expect("prlimit is installed: apt-get install util-linux");
    assert!(set.success(), "prlimit --nofile={limit}: {set}");
}

/// A running `nodens serve`.
#[derive(Debug)]
pub(crate) struct Nodens {
    process: Process,
    dir: TempDir,
    /// Its listen addresses, in the order of its configuration.
    pub(crate) listen: Vec<SocketAddr>,
    /// The admin endpoint over TCP.
    pub(crate) admin: Option<SocketAddr>,
}

impl Nodens {
    /// Starts it on a free port of 127.0.0.1; `yaml` holds the rest of the configuration.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_on(&["127.0.0.1:0"], yaml)
    }

    /// Starts it on the given addresses and waits until it is ready.
    pub(crate) fn start_on(listen: &[&str], yaml: &str) -> Self {
        Self::start_at(listen, "127.0.0.1:0", yaml)
    }

    /// As [`Nodens::start_on`], with an admin address.
    pub(crate) fn start_at(listen: &[&str], admin: &str, yaml: &str) -> Self {
        let spawn = |command: &mut Command, log| Process::spawn("nodens", command, log);
        Self::start_by(nodens(), listen, admin, yaml, spawn)
    }

    /// As [`Nodens::start`], run by a wrapper command.
    pub(crate) fn start_under(wrapper: &str, arguments: &[String], yaml: &str) -> Self {
        let mut command = Command::new(wrapper);
        command.args(arguments).arg(binary());
        let spawn = |command: &mut Command, log| Process::spawn("nodens", command, log);
        Self::start_by(
            unconfigured(command),
            &["127.0.0.1:0"],
            "127.0.0.1:0",
            yaml,
            spawn,
        )
    }

    /// As [`Nodens::start`], with its log in a pipe.
    pub(crate) fn start_with_log(log: PipeWriter, yaml: &str) -> Self {
        let spawn = |command: &mut Command, file| {
            Process::spawn_writing_to("nodens", command, file, Stdio::null(), log.into())
        };
        Self::start_by(nodens(), &["127.0.0.1:0"], "127.0.0.1:0", yaml, spawn)
    }

    /// As [`Nodens::start`], with a hard limit of `most` file descriptors.
    pub(crate) fn start_with_files(most: u32, yaml: &str) -> Self {
        let (listen, spawn) = (&["127.0.0.1:0"], |command: &mut Command, log| {
            Process::spawn("nodens", command, log)
        });
        Self::start_by(nodens_with_files(most), listen, "127.0.0.1:0", yaml, spawn)
    }

    fn start_by(
        mut command: Command,
        listen: &[&str],
        admin: &str,
        yaml: &str,
        spawn: impl FnOnce(&mut Command, PathBuf) -> Process,
    ) -> Self {
        let dir = TempDir::new();
        let socket = dir.path("nodens.sock");
        let config = dir.write("nodens.yaml", &configuration(listen, admin, &socket, yaml));
        command.args(["serve", "--config"]).arg(&config);
        let mut process = spawn(&mut command, dir.path("nodens.log"));
        process.wait_until("200 from /ready", || {
            get(&socket, "/ready")
                .ok()
                .filter(|(status, _)| *status == 200)
        });
        let (status, body) = get(&socket, "/status").expect("it answered /ready");
        assert_eq!(status, 200, "/status: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("/status is JSON");
        let listen = body["listen"]
            .as_array()
            .expect("/status has `listen`")
            .iter()
            .map(address);
        let listen = listen
            .map(|address| address.expect("`listen` holds addresses"))
            .collect();
        let admin = address(&body["admin"]);
        Self {
            process,
            dir,
            listen,
            admin,
        }
    }

    /// Replaces its configuration file atomically by one with these listen addresses.
    pub(crate) fn rewrite(&self, listen: &[&str], yaml: &str) {
        let text = configuration(listen, "127.0.0.1:0", &self.path("nodens.sock"), yaml);
        let new = self.dir.write("new.yaml", &text);
        fs::rename(&new, self.path("nodens.yaml")).expect("files of one directory");
    }

    /// Sends SIGHUP, so that it reads its configuration.
    pub(crate) fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits until it has ended, as after SIGKILL.
    pub(crate) fn wait_for_end(&mut self) {
        let child = &mut self.process.child;
        child.wait().expect("a child can be waited for");
    }

    /// Sends SIGSTOP, and waits until all its threads have stopped.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.id());
        wait_for("all threads to stop", || {
            let tasks = fs::read_dir(&tasks).expect("the process runs");
            let stopped = |task: io::Result<fs::DirEntry>| {
                let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                // The state follows the name, which is in parentheses.
                stat.rsplit(") ").next()?.starts_with('T').then_some(())
            };
            tasks.map(stopped).collect::<Option<()>>()
        });
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Numbers of its open file descriptors.
    pub(crate) fn descriptors(&self) -> Vec<u64> {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the process runs");
        let number = |entry: io::Result<fs::DirEntry>| {
            // A descriptor may be closed while the directory is read.
            entry.ok()?.file_name().to_str()?.parse().ok()
        };
        directory.filter_map(number).collect()
    }

    /// The JSON of /status.
    pub(crate) fn status(&self) -> serde_json::Value {
        let (status, body) = self.get("/status");
        assert_eq!(status, 200, "/status: {body}");
        serde_json::from_str(&body).expect("/status is JSON")
    }

    /// Its first listen address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen[0]
    }

    /// The path of a file in its directory, which has its configuration, log and Unix socket.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// Status code and body of a page of its admin endpoint.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(&self.dir.path("nodens.sock"), path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}; it said:\n{}", self.log()))
    }

    /// Sum of the samples of a metric that have all of these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200, "/metrics: {text}");
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| labels.iter().all(|label| rest.contains(label.as_str())))
            .map(|rest| {
                let value = rest.rsplit(' ').next().expect("rsplit gives at least one");
                value
                    .parse::<f64>()
                    .unwrap_or_else(|error| panic!("{name}{rest}: {error}"))
            })
            .sum()
    }

    /// Waits until the sum reaches `least`: workers publish their counts four times a second.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let what = format!("{name}{labels:?} to reach {least}");
        wait_for(&what, || (self.metric(name, labels) >= least).then_some(()));
    }

    /// Resident memory.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.process.status_bytes("VmRSS")
    }

    /// The part of resident memory that is not pages of files.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        self.process.status_bytes("RssAnon")
    }

    /// The most resident memory it ever had.
    pub(crate) fn peak_rss_bytes(&self) -> u64 {
        self.process.status_bytes("VmHWM")
    }

    /// Waits until it has written this text to its log.
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.process.wait_for_log(text);
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Sends SIGTERM. Returns its exit status and its log.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        (self.process.terminate(), self.log())
    }
}

fn configuration(listen: &[&str], admin: &str, socket: &Path, yaml: &str) -> String {
    let socket = socket.display();
    format!("listen: {listen:?}\nadmin: \"{admin}\"\nsocket: {socket}\n{yaml}\n")
}

fn address(value: &serde_json::Value) -> Option<SocketAddr> {
    value.as_str().map(|text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    })
}

/// One HTTP request over a Unix socket; HTTP/1.0, so that the body ends where the connection does.
pub(crate) fn get(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, answer.clone());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(invalid)?;
    Ok((status, body.to_owned()))
}
