//! A disk without room.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::dns::{Ask, Over, rcode, rr};
use crate::common::namespace::assert_root;
use crate::common::{Process, TempDir, free_sockets, get, nodens};

/// A file system of 64 KiB, unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        fs::create_dir(&at).expect("created");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(&at)
            .status();
        assert!(mounted.expect("mount runs").success(), "{}", at.display());
        Self(at)
    }

    /// Writes until there is no room.
    fn fill(&self) {
        let full = fs::write(self.0.join("filling"), vec![0; 1 << 20]);
        assert!(full.is_err(), "a megabyte fits into 64 KiB");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn start(dir: &TempDir, config: &Path, disk: &SmallDisk) -> Process {
    let mut command = nodens();
    command.args(["serve", "--config"]).arg(config);
    command.arg("--state-dir").arg(disk.0.join("state"));
    let mut process = Process::spawn("nodens", &mut command, dir.path("log"));
    process.wait_until("200 from /ready", || {
        let (status, _) = get(&disk.0.join("nodens.sock"), "/ready").ok()?;
        (status == 200).then_some(())
    });
    process
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_costs_what_is_to_be_kept_and_no_query() {
    assert_root();
    let dir = TempDir::new();
    let disk = SmallDisk::new(dir.path("disk"));
    let address = free_sockets().0.local_addr().expect("it is bound");
    let yaml = |last: u8| {
        format!(
            "listen: \"{address}\"\nadmin: null\nsocket: {}\nrecords: {{name.example: {{A: 192.0.2.{last}}}}}\n",
            disk.0.join("nodens.sock").display()
        )
    };
    let config = dir.write("nodens.yaml", &yaml(1));
    let ask = || {
        let reply = Ask::new("name.example.", rr::A).send(address, Over::Udp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    };

    // Full at the start.
    disk.fill();
    let mut process = start(&dir, &config, &disk);
    process.wait_for_log("the last good configuration cannot be kept");
    ask();
    assert!(process.terminate().success(), "{}", process.log());

    // Full while it runs: what was kept before is whole.
    fs::remove_file(disk.0.join("filling")).expect("removed");
    let process = start(&dir, &config, &disk);
    let kept = disk.0.join("state/last-good.json");
    crate::common::wait_for("the configuration to be kept", || {
        kept.exists().then_some(())
    });
    disk.fill();
    let before = fs::read_to_string(&kept).expect("it is kept");
    // Longer than what is left of the page that the file begins.
    fs::write(&config, format!("{}# {}\n", yaml(2), "x".repeat(10_000))).expect("written");
    process.signal("HUP");
    process.wait_for_log("the last good configuration cannot be kept");
    ask();
    assert_eq!(fs::read_to_string(&kept).expect("it is kept"), before);
    let left: Vec<_> = fs::read_dir(disk.0.join("state"))
        .expect("it is there")
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
