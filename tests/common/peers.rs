//! Name servers and tools of other projects, from Debian's packages. A test fails if a tool that it needs is missing.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::dns::{Ask, Message, Over, exchange, rcode, rr};
use super::{Process, TempDir, free_address, wait_for};

/// The tools, and the Debian packages that have them.
const PACKAGES: [(&str, &str); 8] = [
    ("dig", "dnsutils"),
    ("dnsperf", "dnsperf"),
    ("nsd", "nsd"),
    ("unbound", "unbound"),
    ("ldns-keygen", "ldnsutils"),
    ("ldns-signzone", "ldnsutils"),
    ("nsd-checkzone", "nsd"),
    ("prometheus", "prometheus"),
];

/// A command for the tool. Fails with the package's name if the tool is missing.
pub(crate) fn tool(name: &str) -> Command {
    let package = PACKAGES
        .iter()
        .find_map(|(tool, package)| (*tool == name).then_some(package));
    let package = package.unwrap_or_else(|| panic!("{name} is missing from PACKAGES"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in sbin, which is not in everybody's PATH.
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file());
    let file = found.unwrap_or_else(|| {
        panic!(
            "this test needs `{name}`, from Debian's package `{package}`: apt-get install {package}"
        )
    });
    Command::new(file)
}

/// Runs a tool in a directory and returns its output. Fails with the output if the tool fails.
pub(crate) fn run(command: &mut Command, directory: &Path) -> String {
    let output = command
        .current_dir(directory)
        .output()
        .expect("the tool starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// A zone to be served.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    pub(crate) name: &'static str,
    pub(crate) file: PathBuf,
}

/// Signs a zone with a fresh ECDSA P-256 key and NSEC3. Returns the signed zone and the file with its DS record.
pub(crate) fn sign(zone: &Zone) -> (Zone, PathBuf) {
    let directory = zone.file.parent().expect("a zone lies in a directory");
    let mut keygen = tool("ldns-keygen");
    let key = run(
        keygen.args(["-a", "ECDSAP256SHA256", "-k", zone.name]),
        directory,
    );
    let mut signzone = tool("ldns-signzone");
    signzone
        .args(["-n", "-o", zone.name])
        .arg(&zone.file)
        .arg(key.trim());
    run(&mut signzone, directory);
    let signed = PathBuf::from(format!("{}.signed", zone.file.display()));
    let anchor = directory.join(format!("{}.ds", key.trim()));
    (
        Zone {
            name: zone.name,
            file: signed,
        },
        anchor,
    )
}

/// A running NSD. It is authoritative, so its answers have the zone's records only.
#[derive(Debug)]
pub(crate) struct Nsd {
    process: Process,
    _dir: TempDir,
    pub(crate) address: SocketAddr,
}

impl Nsd {
    pub(crate) fn start(zones: &[Zone]) -> Self {
        let dir = TempDir::new();
        let address = free_address();
        let path = |name: &str| dir.path(name).display().to_string();
        // Without rate limits, because some tests ask thousands of equal questions from one address.
        let mut config = format!(
            r#"server:
  ip-address: {ip}@{port}
  server-count: 1
  username: ""
  zonesdir: "{here}"
  database: ""
  pidfile: "{pid}"
  xfrdfile: "{state}"
  xfrdir: "{here}"
  zonelistfile: "{zones}"
  refuse-any: no
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
"#,
            ip = address.ip(),
            port = address.port(),
            here = path(""),
            pid = path("nsd.pid"),
            state = path("xfrd.state"),
            zones = path("zone.list"),
        );
        for Zone { name, file } in zones {
            let file = file.display();
            write!(config, "zone:\n  name: {name}\n  zonefile: \"{file}\"\n").expect("grows");
        }
        let config = dir.write("nsd.conf", &config);
        let mut command = tool("nsd");
        command.arg("-d").arg("-c").arg(config);
        let mut process = Process::spawn("nsd", &mut command, dir.path("nsd.log"));
        process.wait_until("answer from it", || answers(address, zones[0].name));
        Self {
            process,
            _dir: dir,
            address,
        }
    }

    /// Stops it, and waits until none of its processes holds the port.
    pub(crate) fn stop(mut self) {
        self.process.terminate();
        wait_for("NSD's port to be free", || {
            UdpSocket::bind(self.address).ok()
        });
    }
}

/// A running Unbound: a validating resolver that finds one zone at one server.
#[derive(Debug)]
pub(crate) struct Unbound {
    _process: Process,
    _dir: TempDir,
    pub(crate) address: SocketAddr,
}

impl Unbound {
    /// `trust_anchor` is a file with the zone's DS record.
    pub(crate) fn start(zone: &str, authority: SocketAddr, trust_anchor: &Path) -> Self {
        let dir = TempDir::new();
        let address = free_address();
        let config = format!(
            r#"server:
  interface: {ip}@{port}
  num-threads: 1
  directory: "{here}"
  pidfile: "{pid}"
  chroot: ""
  username: ""
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
  rrset-roundrobin: no
  module-config: "validator iterator"
  trust-anchor-file: "{anchor}"
remote-control:
  control-enable: no
stub-zone:
  name: {zone}
  stub-addr: {authority_ip}@{authority_port}
"#,
            ip = address.ip(),
            port = address.port(),
            here = dir.path("").display(),
            pid = dir.path("unbound.pid").display(),
            anchor = trust_anchor.display(),
            authority_ip = authority.ip(),
            authority_port = authority.port(),
        );
        let config = dir.write("unbound.conf", &config);
        let mut command = tool("unbound");
        command.arg("-d").arg("-p").arg("-c").arg(config);
        let mut process = Process::spawn("unbound", &mut command, dir.path("unbound.log"));
        process.wait_until("answer from it", || answers(address, zone));
        Self {
            _process: process,
            _dir: dir,
            address,
        }
    }
}

/// Whether the server has the zone. Fails at once if the port is closed, so it does not wait long.
fn answers(server: SocketAddr, zone: &str) -> Option<()> {
    let query = Ask::new(zone, rr::SOA).message();
    let reply = exchange(server, Over::Udp, &query).ok()?;
    (Message::read(&reply).ok()?.rcode() == rcode::NOERROR).then_some(())
}
