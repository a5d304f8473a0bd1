//! `nodens probe`: the real binary before servers that fail in every way the fault suite has, and in some more. Each fault
//! must be called by its name, and by no other.

#![allow(missing_docs, reason = "no library")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod https;
mod names;
mod output;
mod servers;

/// The fault suite's upstreams, and the messages they send.
#[path = "../faults/message.rs"]
#[allow(dead_code, reason = "the suite's own client is not needed here")]
mod message;
#[path = "../faults/upstream.rs"]
#[allow(dead_code, reason = "its counts are not needed here")]
mod upstream;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use common::{TempDir, nodens};
use serde_json::Value;

/// A configuration of groups and what is behind them, to be probed.
struct Scene {
    config: PathBuf,
    _dir: TempDir,
}

/// What a run said.
struct Said {
    json: Value,
    status: i32,
}

impl Scene {
    /// One group `g`, which everything goes to.
    fn of(servers: &[SocketAddr]) -> Self {
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        Self::written(&format!("upstreams: {{g: {{servers: {servers:?}}}}}\n"))
    }

    fn written(yaml: &str) -> Self {
        let dir = TempDir::new();
        let config = dir.write("nodens.yaml", &format!("node_name: this-node\n{yaml}"));
        Self { config, _dir: dir }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = nodens();
        command.args(["probe", "--config"]).arg(&self.config);
        command.args(arguments).output().expect("it runs")
    }

    /// Runs it with short times, as JSON.
    fn probe(&self, arguments: &[&str]) -> Said {
        let defaults = ["--json", "--timeout", "400ms"];
        let has = |flag: &str| arguments.contains(&flag);
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(defaults.iter().filter(|_| !has("--timeout")));
        all.extend(has("--timeout").then_some("--json"));
        Said::read(&self.run(&all))
    }
}

impl Said {
    fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let json = serde_json::from_str(&text);
        Self {
            json: json.unwrap_or_else(|error| panic!("{error}: {text}{errors}")),
            status: output.status.code().expect("it ends by itself"),
        }
    }

    fn findings(&self) -> &[Value] {
        self.json["findings"].as_array().expect("a list")
    }

    /// The kinds of the findings.
    fn kinds(&self) -> BTreeSet<&str> {
        let kinds = self.findings().iter();
        kinds
            .map(|finding| finding["kind"].as_str().expect("a kind"))
            .collect()
    }

    /// Everything that is asserted about most runs: the kinds, in any order, and the exit status.
    fn complaint(&self, kinds: &[&str], status: i32) -> Option<String> {
        let wanted: BTreeSet<_> = kinds.iter().copied().collect();
        let mut complaint = String::new();
        if self.kinds() != wanted {
            let kinds = self.kinds();
            let _ = writeln!(complaint, "{kinds:?} instead of {wanted:?}");
        }
        if self.status != status {
            let _ = writeln!(complaint, "exit status {} instead of {status}", self.status);
        }
        let verdict = ["healthy", "degraded", "unusable"][usize::try_from(status).expect("0 to 2")];
        if self.json["verdict"] != verdict {
            let said = &self.json["verdict"];
            let _ = writeln!(complaint, "verdict {said} instead of {verdict}");
        }
        (!complaint.is_empty()).then(|| {
            let all = serde_json::to_string_pretty(&self.json).expect("JSON");
            format!("{complaint}{all}")
        })
    }

    #[track_caller]
    fn expect(&self, kinds: &[&str], status: i32) {
        if let Some(complaint) = self.complaint(kinds, status) {
            panic!("{complaint}");
        }
    }

    fn server(&self, number: usize) -> &Value {
        &self.json["groups"][0]["servers"][number]
    }
}
