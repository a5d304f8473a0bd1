//! A start whose configuration cannot be used: with `--state-dir` it goes on with the last good one, as the real binary.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use common::dns::{Ask, Over, Section, record, response, rr};
use common::stand_in::StandIn;
use common::{Process, TempDir, free_sockets, get, nodens, run_to_its_end, wait_for};

/// A server that answers every question with this address.
fn answering(last: u8) -> StandIn {
    StandIn::new(move |query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, last])])])
}

/// What an instance leaves behind when it ends: its files, and the address that clients know.
struct Place {
    dir: TempDir,
    listen: SocketAddr,
    server: StandIn,
}

impl Place {
    fn new() -> Self {
        let (socket, _listener) = free_sockets();
        Self {
            dir: TempDir::new(),
            listen: socket.local_addr().expect("it is bound"),
            server: answering(1),
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path("state/nodens")
    }

    /// A configuration whose `servers` are these.
    fn yaml(&self, servers: &str) -> String {
        format!(
            "listen: \"{}\"\nadmin: null\nsocket: {}\nupstreams: {{group: {{servers: [{servers}]}}}}\n",
            self.listen,
            self.dir.path("nodens.sock").display()
        )
    }

    fn good(&self) -> String {
        self.yaml(&format!("\"{}\"", self.server.address))
    }

    fn command(&self, file: &str) -> Command {
        let mut command = nodens();
        command
            .args(["serve", "--config"])
            .arg(self.dir.path(file))
            .arg("--state-dir")
            .arg(self.state());
        command
    }

    /// Starts it and waits until it serves.
    fn start(&self, file: &str) -> Process {
        let mut process = Process::spawn("nodens", &mut self.command(file), self.dir.path("log"));
        process.wait_until("200 from /ready", || {
            let (status, _) = get(&self.dir.path("nodens.sock"), "/ready").ok()?;
            (status == 200).then_some(())
        });
        process
    }

    /// Starts it with this configuration and ends it once it keeps it.
    fn serve_once(&self, file: &str, text: &str) {
        self.dir.write(file, text);
        let mut process = self.start(file);
        self.wait_until_kept();
        assert!(process.terminate().success(), "{}", process.log());
    }

    fn wait_until_kept(&self) {
        let file = self.state().join("last-good.json");
        wait_for("the configuration to be kept", || {
            file.exists().then_some(())
        });
    }

    fn reload_success(&self) -> bool {
        let (_, text) = get(&self.dir.path("nodens.sock"), "/metrics").expect("it serves");
        text.contains("\nnodens_config_reload_success 1\n")
    }

    fn mistakes(&self) -> String {
        let (_, text) = get(&self.dir.path("nodens.sock"), "/status").expect("it serves");
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        status["configuration"]["mistakes"].to_string()
    }

    /// The last octet of the address that clients are told.
    fn ask(&self) -> u8 {
        let reply = Ask::new("name.example.", rr::A).send(self.listen, Over::Udp);
        let record = reply.section(Section::Answer).next();
        *record
            .unwrap_or_else(|| panic!("{reply:?}"))
            .rdata
            .last()
            .expect("four octets")
    }
}

#[test]
fn a_bad_configuration_at_start_leaves_the_last_good_one_in_force_until_it_is_mended() {
    let place = Place::new();
    place.serve_once("nodens.yaml", &place.good());

    place.dir.write("nodens.yaml", &place.yaml("10.0.0.300"));
    let process = place.start("nodens.yaml");
    assert_eq!(place.ask(), 1);
    assert!(!place.reload_success());
    let mistakes = place.mistakes();
    assert!(mistakes.contains("10.0.0.300"), "{mistakes}");
    process.wait_for_log("the last good one is in force");

    let other = answering(2);
    let mended = place.yaml(&format!("\"{}\"", other.address));
    place.dir.write("nodens.yaml", &mended);
    process.signal("HUP");
    wait_for("the mended configuration to be in force", || {
        place.reload_success().then_some(())
    });
    assert_eq!(place.ask(), 2);
    assert_eq!(place.mistakes(), "[]");
}

#[test]
fn a_change_that_is_put_in_force_is_kept_and_one_that_is_refused_is_not() {
    let place = Place::new();
    place.dir.write("nodens.yaml", &place.good());
    let mut process = place.start("nodens.yaml");
    place.wait_until_kept();
    let kept = || fs::read_to_string(place.state().join("last-good.json")).expect("it is kept");
    let second = answering(2);
    let changed = place.yaml(&format!("\"{}\"", second.address));
    place.dir.write("nodens.yaml", &changed);
    process.signal("HUP");
    wait_for("the change to be kept", || {
        kept().contains(&second.address.to_string()).then_some(())
    });
    place.dir.write("nodens.yaml", "upstreams: [\n");
    process.signal("HUP");
    wait_for("the change to be refused", || {
        (!place.reload_success()).then_some(())
    });
    process.signal("KILL");
    process.wait_until("end", || {
        get(&place.dir.path("nodens.sock"), "/ready")
            .is_err()
            .then_some(())
    });
    let _process = place.start("nodens.yaml");
    assert_eq!(place.ask(), 2);
}

#[test]
fn files_that_the_configuration_names_are_kept_with_it() {
    let place = Place::new();
    let resolv_conf = place.dir.path("resolv.conf");
    // Its servers are asked at port 53, where nobody listens: the record is answered here.
    let yaml = format!(
        "{}hosts: [{}]\n",
        place.yaml(&format!("\"{}\"", resolv_conf.display())),
        place.dir.path("hosts").display()
    );
    fs::write(&resolv_conf, "nameserver 127.99.0.1\n").expect("written");
    place.dir.write("hosts", "192.0.2.7 name.example\n");
    place.serve_once("nodens.yaml", &yaml);

    // As a DHCP client leaves it while it waits for an answer.
    fs::write(&resolv_conf, "").expect("written");
    fs::remove_file(place.dir.path("hosts")).expect("removed");
    let process = place.start("nodens.yaml");
    assert_eq!(place.ask(), 7);
    let mistakes = place.mistakes();
    assert!(
        mistakes.contains("resolv.conf") && mistakes.contains("hosts"),
        "{mistakes}"
    );

    fs::write(&resolv_conf, "nameserver 127.99.0.2\n").expect("written");
    place.dir.write("hosts", "192.0.2.8 name.example\n");
    // No signal: the files are looked at as ever.
    wait_for("the files to be in force", || {
        place.reload_success().then_some(())
    });
    assert_eq!(place.ask(), 8);
    drop(process);
}

#[test]
fn a_corefile_is_kept_with_what_it_imports() {
    let place = Place::new();
    let corefile = format!(
        "import conf.d/*.conf\n.:{} {{\n  bind {}\n  forward . {}\n  cache\n}}\n",
        place.listen.port(),
        place.listen.ip(),
        place.server.address
    );
    let directory = place.dir.path("conf.d");
    fs::create_dir(&directory).expect("created");
    fs::write(directory.join("one.conf"), "(nothing) {\n  errors\n}\n").expect("written");
    place.dir.write("Corefile", &corefile);
    let start = || {
        let mut command = place.command("Corefile");
        command.env("NODENS__SOCKET", place.dir.path("nodens.sock"));
        command.env("NODENS__ADMIN", "127.0.0.1:0");
        let mut process = Process::spawn("nodens", &mut command, place.dir.path("log"));
        process.wait_until("200 from /ready", || {
            let (status, _) = get(&place.dir.path("nodens.sock"), "/ready").ok()?;
            (status == 200).then_some(())
        });
        process
    };
    let mut process = start();
    place.wait_until_kept();
    assert!(process.terminate().success(), "{}", process.log());
    fs::write(directory.join("one.conf"), "(nothing) {\n").expect("written");
    let _process = start();
    assert_eq!(place.ask(), 1);
    assert!(!place.reload_success());
}

#[test]
fn an_address_that_cannot_be_had_is_such_a_mistake_too() {
    let place = Place::new();
    place.serve_once("nodens.yaml", &place.good());
    // TEST-NET-1: no host has it.
    let elsewhere = place
        .good()
        .replace(&place.listen.to_string(), "192.0.2.1:53");
    place.dir.write("nodens.yaml", &elsewhere);
    let _process = place.start("nodens.yaml");
    assert_eq!(place.ask(), 1);
    let mistakes = place.mistakes();
    assert!(mistakes.contains("192.0.2.1"), "{mistakes}");
}

#[test]
fn a_first_start_without_a_good_configuration_ends_as_ever() {
    let place = Place::new();
    place.dir.write("nodens.yaml", &place.yaml("10.0.0.300"));
    let output = ended(place.command("nodens.yaml"));
    assert_eq!(output.0, Some(2));
    assert!(output.1.contains("10.0.0.300"), "{}", output.1);
    // Nor does what is no configuration at all help.
    fs::create_dir_all(place.state()).expect("created");
    fs::write(place.state().join("last-good.json"), "{").expect("written");
    let output = ended(place.command("nodens.yaml"));
    assert_eq!(output.0, Some(2));
    assert!(
        output.1.contains("10.0.0.300") && output.1.contains("last-good.json"),
        "{}",
        output.1
    );
}

#[test]
fn an_empty_variable_keeps_nothing() {
    let place = Place::new();
    let file = place.dir.write("nodens.yaml", &place.yaml("10.0.0.300"));
    let mut command = nodens();
    command.args(["serve", "--config"]).arg(file);
    command.env("NODENS_STATE_DIR", "");
    let (status, said) = ended(command);
    assert_eq!(status, Some(2));
    assert!(said.contains("10.0.0.300"), "{said}");
}

/// The exit status of a command that should end at once, and what it said.
fn ended(command: Command) -> (Option<i32>, String) {
    let output = run_to_its_end(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn only_its_owner_reads_what_is_kept_and_a_directory_that_cannot_be_written_harms_nobody() {
    let place = Place::new();
    place.serve_once("nodens.yaml", &place.good());
    let mode = |path: PathBuf| {
        let metadata = fs::metadata(path).expect("it is there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(place.state().join("last-good.json")), 0o600);
    assert_eq!(mode(place.state()), 0o700);
    let left = fs::read_dir(place.state()).expect("it is there").count();
    assert_eq!(left, 1, "nothing else is left behind");

    // A file where the directory should be.
    fs::remove_dir_all(place.dir.path("state")).expect("removed");
    place.dir.write("state", "");
    let process = place.start("nodens.yaml");
    process.wait_for_log("the last good configuration cannot be kept");
    assert_eq!(place.ask(), 1);
    assert!(place.reload_success());
}

#[test]
fn what_check_takes_serve_takes_certificates_included() {
    let place = Place::new();
    let yaml = place.good().replace(
        "]}}\n",
        &format!("], tls_ca: {}}}}}\n", place.dir.path("ca.pem").display()),
    );
    let file = place.dir.write("nodens.yaml", &yaml);
    let check = |expected: Option<i32>| {
        let mut command = nodens();
        command.args(["check", "--config"]).arg(&file);
        let (code, said) = ended(command);
        assert_eq!(code, expected, "{said}");
        said
    };
    // Neither without the file, nor with one that is none.
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            place.dir.write("ca.pem", content);
        }
        let said = check(Some(2));
        assert!(said.contains("tls_ca"), "{said}");
        let (code, _) = ended(place.command("nodens.yaml"));
        assert_eq!(code, Some(2));
    }
}
