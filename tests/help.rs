//! The examples at the end of each command's `--help`: there are some, and each ends with the status that it says.
//!
//! A shell runs them in a directory with the files that they name, and where they ask a running instance, in that one's. The
//! address 169.254.20.53 stands for the instance's own.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::dns::{self, Ask, Over, record, response, rr};
use common::stand_in::StandIn;
use common::{Nodens, TempDir, binary, nodens, serve_and_stop};

/// Words of a command behind `nodens`; none for itself.
type Words = Vec<String>;

fn help(command: &[String]) -> String {
    let output = nodens().args(command).arg("--help").output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every command below this one, and itself, with its help.
fn commands(command: &[String]) -> Vec<(Words, String)> {
    let text = help(command);
    let mut found = Vec::new();
    if let Some((_, list)) = text.split_once("Commands:\n") {
        let lines = list.lines().take_while(|line| !line.is_empty());
        // A description that is broken into lines goes on further to the right.
        let entries = lines.filter_map(|line| line.strip_prefix("  "));
        let names = entries.filter_map(|entry| entry.split(' ').next());
        for name in names.filter(|name| !name.is_empty()) {
            found.extend(commands(&[command, &[name.to_owned()]].concat()));
        }
    }
    found.push((command.to_vec(), text));
    found
}

#[derive(Debug)]
struct Example {
    line: String,
    status: i32,
}

/// The lines of an example are indented, and a comment says the status if it is not 0.
fn examples(help: &str) -> Vec<Example> {
    let Some((_, list)) = help.split_once("Examples:\n") else {
        return Vec::new();
    };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let example = |line: &str| {
        let (line, comment) = line
            .trim()
            .split_once(" # ")
            .unwrap_or((line.trim(), "0: "));
        let (status, _) = comment.split_once(": ").expect("a status and why");
        Example {
            line: line.trim().to_owned(),
            status: status.parse().expect("a status"),
        }
    };
    lines.map(example).collect()
}

/// What the examples name.
struct World {
    server: StandIn,
    instance: Nodens,
    programs: TempDir,
}

impl World {
    fn new() -> Self {
        let server = StandIn::new(|query, _| {
            let question = &query[12..dns::question_end(query)];
            let qtype = dns::u16_at(question, question.len() - 4);
            let answer = match qtype {
                _ if !question.starts_with(b"\x08registry\x07example\x03com\x00")
                    && qtype != Some(rr::PTR) =>
                {
                    return vec![dns::failure(query, dns::rcode::NXDOMAIN)];
                }
                Some(rr::A) => Some(record(rr::A, 300, &[10, 1, 20, 5])),
                Some(rr::PTR) => {
                    let name = dns::wire_name("registry.example.com.");
                    Some(record(rr::PTR, 300, &name))
                }
                _ => None,
            };
            vec![response(query, &answer.into_iter().collect::<Vec<_>>())]
        });
        let instance = Nodens::start(&forwarding(&server));
        write_files(&instance.path(""), &server);
        let programs = TempDir::new();
        symlink(
            fs::canonicalize(binary()).expect("it is built"),
            programs.path("nodens"),
        )
        .expect("a new directory takes a link");
        Self {
            server,
            instance,
            programs,
        }
    }

    /// A shell that finds `nodens`, in this directory.
    fn shell(&self, line: &str, directory: &Path) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let address = self.instance.address().to_string();
        let mut command = Command::new("sh");
        command
            .args(["-c", &line.replace("169.254.20.53", &address)])
            .current_dir(directory)
            .env_clear()
            .env(
                "PATH",
                format!("{}:{path}", self.programs.path("").display()),
            );
        command
    }

    fn run(&self, command: &[String], example: &Example) {
        let Example { line, status } = example;
        let asks = |word: &str| line.contains(&format!("nodens {word} "));
        let (found, said) = if asks("serve") {
            let directory = self.scratch();
            let shell = self.shell(&format!("exec {line}"), &directory.path(""));
            let (status, log) = serve_and_stop(shell);
            (status.code(), log)
        } else if ["health", "top", "cache", "resolve"].into_iter().any(asks) {
            // What the cache is asked for is there, whatever was flushed before.
            let ask = Ask::new("registry.example.com.", rr::A);
            let reply = ask.send(self.instance.address(), Over::Udp);
            assert_eq!(reply.rcode(), dns::rcode::NOERROR);
            outcome(self.shell(line, &self.instance.path("")).output())
        } else {
            outcome(self.shell(line, &self.scratch().path("")).output())
        };
        assert_eq!(found, Some(*status), "{command:?}: {line}\n{said}");
    }

    /// A directory with the files that the examples name.
    fn scratch(&self) -> TempDir {
        let directory = TempDir::new();
        directory.write("nodens.yaml", &forwarding(&self.server));
        write_files(&directory.path(""), &self.server);
        directory
    }
}

fn forwarding(server: &StandIn) -> String {
    let server = server.address;
    format!(
        "upstreams: {{vpc: {{servers: [\"{server}\"]}}}}\n\
         routes: {{cluster.local: {{group: vpc}}, \".\": vpc}}\n"
    )
}

fn write_files(directory: &Path, server: &StandIn) {
    let corefile = format!(
        ".:53 {{\n    errors\n    forward . {}\n    cache 30\n}}\n",
        server.address
    );
    let files: [(&str, &str); 2] = [
        ("Corefile", &corefile),
        ("resolv.conf", "nameserver 127.0.0.1\nsearch example.com\n"),
    ];
    for (name, text) in files {
        let file: PathBuf = directory.join(name);
        fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn outcome(output: std::io::Result<Output>) -> (Option<i32>, String) {
    let output = output.expect("sh runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), errors)
}

/// Whether an example needs root, or takes its time.
fn is_heavy(example: &Example) -> bool {
    ["nodens demo", "nodens node"]
        .iter()
        .any(|command| example.line.starts_with(command))
}

#[test]
fn every_command_has_examples_in_its_help() {
    let all = commands(&[]);
    assert!(all.len() > 15, "only {} commands were found", all.len());
    for (command, help) in all {
        // The help of those that are commands only together with another word lists these.
        let whole = command.is_empty() || !help.contains("Commands:\n");
        let examples = examples(&help);
        assert_eq!(!examples.is_empty(), whole, "{command:?}:\n{help}");
        let begins = format!("nodens {}", command.join(" "));
        let own = |example: &Example| example.line.contains(begins.trim_end());
        assert!(examples.iter().all(own), "{command:?}: {examples:#?}");
    }
}

#[test]
fn examples_end_with_the_status_that_they_say() {
    let world = World::new();
    let mut ran = 0;
    for (command, help) in commands(&[]) {
        for example in examples(&help).iter().filter(|example| !is_heavy(example)) {
            world.run(&command, example);
            ran += 1;
        }
    }
    assert!(ran > 20, "only {ran} ran");
}

/// `node remove` in a network namespace of its own, where there is nothing to remove.
#[test]
#[ignore = "as root, with util-linux; the tour of `demo` takes 11 s"]
fn examples_that_need_root_or_time_end_with_the_status_that_they_say() {
    let world = World::new();
    let mut ran = 0;
    for (command, help) in commands(&[]) {
        for mut example in examples(&help) {
            if is_heavy(&example) {
                let of_node = example.line.starts_with("nodens node");
                if of_node {
                    example.line = format!("exec unshare --net {}", example.line);
                }
                world.run(&command, &example);
                ran += 1;
            }
        }
    }
    assert_eq!(ran, 2);
}
