//! What a service manager hears from `nodens serve` (`sd_notify(3)`), and what systemd says of deploy/nodens.service.

mod common;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::dns::{self, Ask, Over, record, response, rr};
use common::stand_in::{Gate, StandIn};
use common::{Process, TempDir, binary, free_address, free_sockets, nodens};

/// A service manager's socket and the instance that writes to it.
struct Supervised {
    nodens: Process,
    manager: UnixDatagram,
    listen: SocketAddr,
    /// Removed last.
    _directory: TempDir,
}

impl Supervised {
    fn start(listen: SocketAddr, server: SocketAddr) -> Self {
        let directory = TempDir::new();
        let socket = directory.path("notify.sock");
        let manager = UnixDatagram::bind(&socket).expect("the directory is new");
        manager.set_nonblocking(true).expect("a socket can be");
        let nodens = serve(&directory, &socket, listen, server);
        Self {
            nodens,
            manager,
            listen,
            _directory: directory,
        }
    }

    fn heard(&self) -> Option<String> {
        heard(&self.manager)
    }

    /// The next message, which must be this one.
    fn wait_to_hear(&mut self, wanted: &str) {
        let manager = &self.manager;
        let heard = self.nodens.wait_until(wanted, || heard(manager));
        assert_eq!(heard, format!("{wanted}\n"));
    }
}

/// A message that has arrived.
fn heard(manager: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 512];
    match manager.recv(&mut buffer) {
        Ok(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            None
        }
    }
}

fn serve(directory: &TempDir, manager: &Path, listen: SocketAddr, server: SocketAddr) -> Process {
    let yaml = format!(
        "listen: [\"{listen}\"]\nadmin: \"127.0.0.1:0\"\nupstreams: {{vpc: {{servers: [\"{server}\"]}}}}\n"
    );
    let config = directory.write("nodens.yaml", &yaml);
    let mut command = nodens();
    command.args(["serve", "--config"]).arg(config);
    command.env("NOTIFY_SOCKET", manager);
    Process::spawn("nodens", &mut command, directory.path("nodens.log"))
}

fn knows_every_name() -> StandIn {
    StandIn::new(|query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])])
}

#[test]
fn ready_is_said_once_when_queries_are_answered() {
    let server = knows_every_name();
    let mut supervised = Supervised::start(free_address(), server.address);
    supervised.wait_to_hear("READY=1");
    // The first query of all, by either transport.
    for over in [Over::Udp, Over::Tcp] {
        let reply = Ask::new("first.example.", rr::A).send(supervised.listen, over);
        assert_eq!(reply.rcode(), dns::rcode::NOERROR, "{over:?}");
    }
    assert_eq!(supervised.heard(), None, "one message is enough");
}

#[test]
fn ready_is_never_said_where_the_address_is_taken() {
    let (udp, tcp) = free_sockets();
    let listen = udp.local_addr().expect("it is bound");
    let server = knows_every_name();
    let mut supervised = Supervised::start(listen, server.address);
    let process = format!("/proc/{}/stat", supervised.nodens.id());
    // A child that nobody has waited for stays in the table as Z.
    common::wait_for("nodens to end", || {
        let stat = fs::read_to_string(&process).ok()?;
        stat.rsplit(") ").next()?.starts_with('Z').then_some(())
    });
    assert_eq!(supervised.heard(), None, "{}", supervised.nodens.log());
    assert_eq!(supervised.nodens.terminate().code(), Some(2));
    drop((udp, tcp));
}

/// Lets the server go on when the test ends, as the server waits for its threads then: a failed test must not hang.
struct OpenedAtEnd(Gate);

impl Drop for OpenedAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[test]
fn stopping_is_said_before_what_is_in_flight_is_answered() {
    let gate = Gate::default();
    let closed = gate.clone();
    let server = StandIn::new(move |query, _| {
        closed.wait();
        vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]
    });
    let gate = OpenedAtEnd(gate);
    let mut supervised = Supervised::start(free_address(), server.address);
    supervised.wait_to_hear("READY=1");
    let ask = Ask::new("late.example.", rr::A);
    let client = dns::udp_to(supervised.listen).expect("a socket");
    client.send(&ask.message()).expect("it is sent");
    common::wait_for("the query at the server", || {
        (server.asked_count() > 0).then_some(())
    });
    supervised.nodens.signal("TERM");
    supervised.wait_to_hear("STOPPING=1");
    gate.0.open();
    let reply = dns::receive(&client).expect("a reply");
    let reply = dns::Message::read(&reply).expect("it is DNS");
    assert_eq!(reply.rcode(), dns::rcode::NOERROR);
}

#[test]
fn a_manager_that_is_gone_keeps_nobody_from_being_served() {
    let server = knows_every_name();
    let (directory, listen) = (TempDir::new(), free_address());
    let missing = directory.path("missing.sock");
    let mut nodens = serve(&directory, &missing, listen, server.address);
    let log = directory.path("nodens.log");
    nodens.wait_until("a warning", || {
        let log = fs::read_to_string(&log).ok()?;
        let warning = "the service manager cannot be told";
        log.contains(warning).then_some(())
    });
    let reply = Ask::new("first.example.", rr::A).send(listen, Over::Udp);
    assert_eq!(reply.rcode(), dns::rcode::NOERROR);
    assert!(nodens.terminate().success(), "{}", nodens.log());
}

/// The unit with the binary under test in it.
fn unit(directory: &TempDir) -> PathBuf {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nodens.service");
    let unit = fs::read_to_string(unit).expect("it is there");
    assert!(unit.contains("=/usr/local/bin/nodens serve "), "{unit}");
    directory.write(
        "nodens.service",
        &unit.replace("/usr/local/bin/nodens", binary()),
    )
}

#[test]
fn the_commands_of_the_unit_exist() {
    let directory = TempDir::new();
    let unit = fs::read_to_string(unit(&directory)).expect("written just now");
    let commands = unit.lines().filter_map(|line| line.split_once("=/"));
    let ours = commands.filter_map(|(_, command)| {
        format!("/{command}")
            .strip_prefix(binary())
            .map(str::to_owned)
    });
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    for arguments in ours {
        let output = nodens()
            .args(arguments.split_whitespace())
            .arg("--help")
            .output();
        assert!(output.expect("it runs").status.success(), "{arguments}");
    }
}

#[test]
#[ignore = "needs systemd-analyze; .ci/run runs it"]
fn systemd_finds_no_fault_with_the_unit() {
    let directory = TempDir::new();
    // Our manual pages are not installed here.
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(unit(&directory))
        .output()
        .expect("systemd-analyze is installed: apt-get install systemd");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
}
