//! nodens in a cgroup before a server that works.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::common::dns::{record, response, rr};
use crate::common::stand_in::StandIn;
use crate::common::{Nodens, wait_for};
use crate::honest::{Heard, Honest, RIGHT};

/// Honest clients ask alone for so long before and after.
const ALONE: Duration = Duration::from_millis(500);
/// Bytes that may be held more than before once it is over.
const MOST_KEPT: u64 = 8_000_000;
/// The memory limit in bytes: the chart's.
const MEMORY: u64 = 256 << 20;

/// A cgroup of its own, removed with the value.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// One of this v1 controller; under v2 there is one hierarchy for all of them.
    pub(crate) fn new(controller: &str) -> Self {
        let root = PathBuf::from("/sys/fs/cgroup");
        let v1 = root.join(controller);
        let parent = if v1.is_dir() { v1 } else { root };
        let path = parent.join(format!(
            "nodens-exhaustion-{}-{controller}",
            std::process::id()
        ));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Writes the first of these files that there is.
    pub(crate) fn set(&self, files: &[(&str, &str)]) {
        let there = files.iter().find(|(file, _)| self.0.join(file).exists());
        let (file, value) = there.expect("the controller has one of these files");
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// A number of a file that has one in each line.
    pub(crate) fn count(&self, file: &str, field: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(file)).expect("the controller has it");
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {field} in {text}"))
    }

    pub(crate) fn take(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("it runs");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves it a little later.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) struct Scene {
    // In this order: the process ends before its cgroup is removed.
    pub(crate) nodens: Nodens,
    _server: Option<StandIn>,
    _memory: Cgroup,
}

impl Scene {
    /// With so many descriptors at most.
    pub(crate) fn start(files: u32, server: StandIn) -> Self {
        Self::start_with(files, server, "")
    }

    /// The same with more lines of configuration.
    pub(crate) fn start_with(files: u32, server: StandIn, more: &str) -> Self {
        let scene = Self::before(files, server.address, more);
        Self {
            _server: Some(server),
            ..scene
        }
    }

    /// The same before a server of the caller's own.
    pub(crate) fn before(files: u32, server: SocketAddr, more: &str) -> Self {
        let memory = Cgroup::new("memory");
        let limit = MEMORY.to_string();
        memory.set(&[("memory.limit_in_bytes", &limit), ("memory.max", &limit)]);
        let command = format!(
            "echo $$ > {}/cgroup.procs && ulimit -n {files} && exec \"$0\" \"$@\"",
            memory.0.display()
        );
        let yaml =
            format!("workers: 1\nupstreams: {{group: {{servers: [\"{server}\"]}}}}\n{more}\n");
        let nodens = Nodens::start_under("sh", &["-c".to_owned(), command], &yaml);
        Self {
            nodens,
            _server: None,
            _memory: memory,
        }
    }

    /// Runs `flood` while honest clients ask; what they heard. Memory and descriptors return to what they were.
    pub(crate) fn during(&self, case: &str, flood: impl FnOnce()) -> Heard {
        let honest = Honest::start(self.nodens.address());
        thread::sleep(ALONE);
        let (memory, files) = (self.nodens.rss_bytes(), self.nodens.descriptors().len());
        flood();
        // What the flood held is closed by now, and may not be gone yet.
        let files_then = self.nodens.descriptors().len();
        thread::sleep(ALONE);
        let heard = honest.stop();
        println!(
            "{case}: {} to {} bytes resident, at most {}, of a limit of {MEMORY}; {files}, {files_then}, {} descriptors",
            memory,
            self.nodens.rss_bytes(),
            self.nodens.peak_rss_bytes(),
            self.nodens.descriptors().len()
        );
        // Upstream sockets of the honest clients' own questions may be more than before.
        wait_for(&format!("{case}: as before"), || {
            let memory_is_back = self.nodens.rss_bytes() < memory + MOST_KEPT;
            let files_are_back = self.nodens.descriptors().len() <= files + 32;
            (memory_is_back && files_are_back).then_some(())
        });
        heard
    }
}

pub(crate) fn server() -> StandIn {
    StandIn::new(|query, _| vec![response(query, &[record(rr::A, 300, &RIGHT)])])
}
