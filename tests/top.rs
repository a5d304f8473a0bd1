//! `nodens top` before real instances: as text, and in a real pseudo-terminal, which `script` of util-linux makes.

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use common::dns::{Ask, Over, failure, record, response, rr};
use common::stand_in::StandIn;
use common::{Nodens, TempDir, binary, free_address, nodens, unconfigured, wait_for};

fn answering() -> StandIn {
    StandIn::new(|query, _| {
        let address = record(rr::A, 300, &[192, 0, 2, 1]);
        vec![response(query, &[address])]
    })
}

/// An instance whose servers are all well.
fn well(node: &str) -> (StandIn, Nodens) {
    let server = answering();
    let nodens = Nodens::start(&format!(
        "node_name: {node}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}",
        server.address
    ));
    wait_for_state(&nodens, 0, "good");
    (server, nodens)
}

fn wait_for_state(nodens: &Nodens, server: usize, state: &str) {
    wait_for(&format!("server {server} to be {state}"), || {
        let status = nodens.status();
        let health = &status["upstreams"][0]["servers"][server]["health"][0];
        (health["state"] == state).then_some(())
    });
}

/// Prints the tables once, of instances that are asked here.
fn once(arguments: &[String]) -> (Option<i32>, String) {
    let output = nodens()
        .args(["top", "--once", "--interval", "100ms"])
        .args(arguments)
        .output()
        .expect("it runs");
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let errors = String::from_utf8_lossy(&stderr);
    assert_eq!(errors, "");
    let text = String::from_utf8(stdout).expect("it prints UTF-8");
    let obeyed = |character: char| character.is_control() && character != '\n';
    assert!(!text.contains(obeyed), "{text:?}");
    (status.code(), text)
}

fn socket(nodens: &Nodens) -> [String; 2] {
    let path = nodens.path("nodens.sock").display().to_string();
    ["--socket".to_owned(), path]
}

fn instance(address: &impl ToString) -> [String; 2] {
    ["--instance".to_owned(), address.to_string()]
}

/// Lines of a table, without its title and its headings.
fn table<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|line| *line != title).skip(2);
    let mut rows = Vec::new();
    rows.extend(lines.by_ref().take_while(|line| !line.is_empty()));
    rows
}

#[test]
fn what_is_sick_comes_first_and_decides_the_exit_status() {
    let (_server, good) = well("node-a");
    let (server, gone) = (answering(), free_address());
    let sick = Nodens::start(&format!(
        "node_name: node-b\nupstreams: {{vpc: {{servers: [\"{}\", \"{gone}\"]}}}}",
        server.address
    ));
    wait_for_state(&sick, 0, "good");
    wait_for_state(&sick, 1, "down");
    let nobody = free_address();

    let (code, text) = once(&socket(&good));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("1 of 1 instance reached, 0 of 1 servers sick\n"),
        "{text}"
    );

    let admin = format!("http://{}", good.admin.expect("it has one"));
    let all = [instance(&admin), socket(&sick), instance(&nobody)].concat();
    let (code, text) = once(&all);
    assert_eq!(code, Some(1), "{text}");
    let rows = table(&text, "Instances");
    let [first, second, third] = rows[..] else {
        panic!("three rows: {text}");
    };
    assert!(
        first.contains(&nobody.to_string()) && first.contains("unreachable"),
        "{text}"
    );
    assert!(first.contains("Connection refused"), "{text}");
    assert!(
        second.starts_with("node-b") && second.contains("1 of 2 servers sick"),
        "{text}"
    );
    assert!(
        third.starts_with("node-a") && third.contains("good"),
        "{text}"
    );
    let rows = table(&text, "Servers");
    assert!(rows[0].starts_with(&gone.to_string()), "{text}");
    assert!(
        rows[0].contains("down") && rows[0].contains("1 of 1: node-b"),
        "{text}"
    );
    assert_eq!(rows.len(), 3, "{text}");

    let (code, text) = once(&instance(&nobody));
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("0 of 1 instance reached") && text.contains("Connection refused"),
        "{text}"
    );
}

#[test]
fn an_instance_that_never_answers_keeps_no_other_waiting() {
    let (_server, good) = well("node-a");
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = mute.local_addr().expect("it is bound");
    let web = StandIn::new(|_, _| Vec::new());
    let (code, text) = once(&[instance(&address), socket(&good), instance(&web.address)].concat());
    assert_eq!(code, Some(1), "{text}");
    let rows = table(&text, "Instances");
    assert!(text.contains("no answer within 3 s"), "{text}");
    assert!(rows[2].starts_with("node-a"), "{text}");
}

#[test]
fn what_neighbours_see_is_told_apart_from_the_admin_address() {
    let server = answering();
    let address = free_address();
    let yaml = format!(
        "metrics: {{listen: \"{address}\"}}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}",
        server.address
    );
    let nodens = Nodens::start(&yaml);
    let (code, text) = once(&instance(&address));
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("404") && text.contains("metrics.listen"),
        "{text}"
    );
    drop(nodens);
}

#[test]
fn failures_rates_and_counts_are_shown_without_control_characters() {
    let server = StandIn::new(|query, _| vec![failure(query, 2)]);
    let nodens = Nodens::start(&format!(
        "node_name: \"\\e[31mred\\u202e\"\nstatus: {{top: all}}\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}",
        server.address
    ));
    for _ in 0..3 {
        Ask::new("app.example", rr::A).send(nodens.address(), Over::Udp);
    }
    wait_for("the counts", || {
        let status = nodens.status();
        let (failed, asked) = (&status["failures"][0], &status["top"]["names"][0]);
        (failed["name"] == "app.example." && asked["name"] == "app.example.").then_some(())
    });
    // Found as `nodens health` finds it: by the configuration.
    let config = nodens.path("nodens.yaml").display().to_string();
    let (_, text) = once(&["--config".to_owned(), config]);
    let rows = table(&text, "Recent failures");
    assert!(rows[0].starts_with("app.example.  A"), "{text}");
    assert!(
        rows[0].contains("SERVFAIL") && rows[0].contains(&server.address.to_string()),
        "{text}"
    );
    assert!(
        table(&text, "Most asked names")[0].contains("app.example."),
        "{text}"
    );
    assert!(
        table(&text, "Clients that ask most")[0].contains("127.0.0.1"),
        "{text}"
    );
    assert!(text.contains("\\u{1b}[31mred\\u{202e}"), "{text}");
}

#[test]
fn odd_arguments_are_refused() {
    for arguments in [
        ["--instance", "https://127.0.0.1:9153"],
        ["--instance", "127.0.0.1"],
        ["--interval", "1ms"],
        ["--interval", "often"],
    ] {
        let output = nodens()
            .arg("top")
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// The largest terminal of these tests.
const ROWS: usize = 40;
const COLUMNS: usize = 120;

/// `nodens top` in a pseudo-terminal.
struct Terminal {
    script: Child,
    dir: TempDir,
}

impl Terminal {
    /// Runs it in so many columns; the terminal's modes are printed before and after, and its exit status.
    fn run(columns: u16, environment: &str, arguments: &[String]) -> Self {
        let dir = TempDir::new();
        let inside = format!(
            "stty cols {columns} rows {ROWS}; echo MODES $(stty -g); \
             {environment} sh -c 'echo PID $$; exec \"$0\" top --interval 100ms \"$@\"' '{}' {}; \
             echo STATUS $?; echo MODES $(stty -g)",
            binary(),
            arguments.join(" ")
        );
        let mut script = unconfigured(Command::new("script"));
        script
            .args(["-qefc", &inside])
            .arg(dir.path("typescript"))
            .envs([("TERM", "xterm"), ("SHELL", "/bin/sh")])
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let script = script.spawn();
        let script = script.expect("script is installed: apt-get install bsdutils");
        Self { script, dir }
    }

    /// All that was written to it.
    fn written(&self) -> String {
        let bytes = fs::read(self.dir.path("typescript")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it shows now. It does as it is told where to write, and leaves out colours; every character is one column wide.
    fn screen(&self) -> String {
        let mut rows: Vec<Vec<char>> = vec![vec![' '; COLUMNS]; ROWS];
        let (mut row, mut column) = (0, 0);
        let written = self.written();
        let mut characters = written.chars();
        while let Some(character) = characters.next() {
            match character {
                '\u{1b}' => {
                    let mut sequence = String::new();
                    for character in characters.by_ref() {
                        sequence.push(character);
                        if character.is_ascii_alphabetic() {
                            break;
                        }
                    }
                    if sequence == "[?1049h" {
                        rows = vec![vec![' '; COLUMNS]; ROWS];
                    } else if let Some(place) = sequence.strip_suffix('H') {
                        let mut numbers = place.trim_start_matches('[').split(';');
                        let mut number = || numbers.next()?.parse::<usize>().ok()?.checked_sub(1);
                        (row, column) = (number().unwrap_or(0), number().unwrap_or(0));
                    }
                }
                '\r' => column = 0,
                '\n' => row = (row + 1).min(ROWS - 1),
                other => {
                    if let Some(cell) = rows.get_mut(row).and_then(|row| row.get_mut(column)) {
                        *cell = other;
                    }
                    column += 1;
                }
            }
        }
        let lines: Vec<String> = rows.iter().map(|row| row.iter().collect()).collect();
        lines.join("\n")
    }

    fn wait_for(&self, what: &str) {
        wait_for(&format!("{what} in the terminal"), || {
            self.screen().contains(what).then_some(())
        });
    }

    fn type_in(&mut self, keys: &str) {
        let input = self.script.stdin.as_mut().expect("a pipe");
        input.write_all(keys.as_bytes()).expect("it reads");
        input.flush().expect("it reads");
    }

    fn process(&self) -> String {
        let written = self.written();
        let line = written.lines().find_map(|line| line.strip_prefix("PID "));
        line.expect("it was printed").trim().to_owned()
    }

    /// Waits for the end; the terminal must be as it was before.
    fn ended(&mut self) -> String {
        wait_for("the end of the terminal", || {
            self.script.try_wait().expect("it can be asked")
        });
        let written = self.written();
        let modes: Vec<_> = written
            .lines()
            .filter(|line| line.starts_with("MODES "))
            .collect();
        assert_eq!(modes.len(), 2, "{written:?}");
        assert_eq!(modes[0], modes[1]);
        let status = written.rfind("STATUS").expect("it ended");
        for (on, off) in [
            ("\u{1b}[?1049h", "\u{1b}[?1049l"),
            ("\u{1b}[?25l", "\u{1b}[?25h"),
        ] {
            let place = |sequence: &str| written[..status].rfind(sequence);
            assert!(
                place(on).is_some() && place(on) < place(off),
                "{on:?} and {off:?} in {written:?}"
            );
        }
        written
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn a_terminal_shows_instances_that_come_and_is_left_as_it_was() {
    let (server, good) = well("node-a");
    let later = free_address();
    let arguments = [socket(&good), instance(&later)].concat();
    let mut terminal = Terminal::run(120, "", &arguments);
    for shown in [
        "node-a",
        "unreachable",
        "Servers",
        &server.address.to_string(),
    ] {
        terminal.wait_for(shown);
    }
    let yaml = format!(
        "node_name: node-b\nupstreams: {{vpc: {{servers: [\"{}\"]}}}}",
        server.address
    );
    let _later = Nodens::start_at(&["127.0.0.1:0"], &later.to_string(), &yaml);
    terminal.wait_for("node-b");
    terminal.type_in("p");
    terminal.wait_for("PAUSED");
    terminal.type_in("?");
    terminal.wait_for("Shift-Tab");
    terminal.type_in("q");
    let written = terminal.ended();
    assert!(written.contains("STATUS 0"), "{written:?}");
    assert!(
        written.contains("\u{1b}[38;5;"),
        "states are coloured: {written:?}"
    );
}

#[test]
fn sigterm_leaves_the_terminal_as_it_was() {
    let (_server, good) = well("node-a");
    let mut terminal = Terminal::run(60, "NO_COLOR=1", &socket(&good));
    terminal.wait_for("node-a");
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", terminal.process())])
        .status();
    assert!(kill.expect("sh runs").success());
    let written = terminal.ended();
    assert!(written.contains("STATUS 0"), "{written:?}");
    assert!(
        !written.contains("\u{1b}[38;5;"),
        "NO_COLOR is set: {written:?}"
    );
}

#[test]
fn every_key_that_quits_leaves_the_terminal_as_it_was() {
    let nobody = free_address();
    for key in ["q", "\u{1b}", "\u{3}"] {
        let mut terminal = Terminal::run(80, "", &instance(&nobody));
        terminal.wait_for("unreachable");
        terminal.type_in(key);
        let written = terminal.ended();
        assert!(written.contains("STATUS 0"), "{key:?}: {written:?}");
    }
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let mut terminal = Terminal::run(80, "", &instance(&free_address()));
    terminal.wait_for("unreachable");
    let stat = format!("/proc/{}/stat", terminal.process());
    terminal.script.kill().expect("it runs");
    wait_for("the end of nodens top", || {
        // Gone, or dead and not waited for yet.
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        matches!(state, None | Some('Z' | 'X')).then_some(())
    });
}

#[test]
fn without_a_terminal_the_tables_are_printed_once() {
    let (_server, good) = well("node-a");
    let output = nodens()
        .arg("top")
        .args(socket(&good))
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(table(&text, "Instances")[0].starts_with("node-a"), "{text}");
}

#[test]
fn once_in_a_terminal_no_line_is_longer_than_it_is_wide() {
    let nobody = free_address();
    let arguments = [vec!["--once".to_owned()], instance(&nobody).to_vec()].concat();
    let terminal = Terminal::run(60, "", &arguments);
    terminal.wait_for("STATUS 2");
    let written = terminal.written();
    let printed = written.lines().skip_while(|line| !line.contains("reached"));
    let printed: Vec<_> = printed
        .take_while(|line| !line.contains("STATUS"))
        .collect();
    assert!(
        printed.iter().any(|line| line.contains("unreachable")),
        "{written}"
    );
    assert!(
        printed
            .iter()
            .all(|line| line.trim_end().chars().count() <= 60),
        "{written}"
    );
}
