//! `scheduling: realtime` before a real kernel. Needs root, and chrt and setpriv (util-linux). Says so where the kernel gives the
//! test itself no real-time scheduling, or does not group real-time tasks:
//!
//!     cargo test --test scheduling -- --ignored --nocapture

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::dns::{Ask, Over, rcode, rr, udp_to};
use common::{Nodens, wait_for};

const YAML: &str = "workers: 2\nscheduling: realtime\nrecords: {here.example: {A: 192.0.2.1}}\n\
    upstreams: {vpc: {servers: [\"127.0.0.1:9\"]}}\n";

/// `SCHED_OTHER` and `SCHED_RR`, with its lowest priority (sched(7)).
const NORMAL: (u32, u32) = (0, 0);
const REALTIME: (u32, u32) = (2, 1);

/// Policy and real-time priority of each thread, by name. A thread may end while they are read.
fn threads(process: u32) -> Vec<(String, (u32, u32))> {
    let of = |task: PathBuf| {
        let read = |file| fs::read_to_string(task.join(file)).ok();
        let (name, stat) = (read("comm")?, read("stat")?);
        // Behind the name in parentheses come fields 3 (state) and up (proc(5)).
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let field = |number: usize| {
            let value = fields.split(' ').nth(number - 3);
            value
                .and_then(|value| value.parse().ok())
                .expect("a number")
        };
        Some((name.trim().to_owned(), (field(41), field(40))))
    };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    tasks
        .filter_map(|task| of(task.expect("readable").path()))
        .collect()
}

/// Waits for `count` workers: the first may answer before another has been given its name.
fn workers(process: u32, count: usize) -> Vec<(u32, u32)> {
    wait_for("all workers", || {
        let all = threads(process).into_iter();
        let workers: Vec<_> = all
            .filter(|(name, _)| name.starts_with("worker-"))
            .map(|(_, scheduled)| scheduled)
            .collect();
        (workers.len() == count).then_some(workers)
    })
}

fn assert_answers(nodens: &Nodens) {
    let reply = Ask::new("here.example", rr::A).send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::NOERROR);
}

/// Whether anybody may be under real-time scheduling here; says so if not.
fn is_to_be_had() -> bool {
    let tried = Command::new("chrt").args(["-r", "1", "true"]).output();
    let tried = tried.expect("chrt is installed (util-linux)");
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        println!("NOT CHECKED: this machine gives the test no real-time scheduling: {why}");
    }
    tried.status.success()
}

/// Runs normally, says why once, and shows it.
fn assert_falls_back(nodens: &Nodens, why: &str) {
    assert_answers(nodens);
    assert_eq!(workers(nodens.id(), 2), [NORMAL; 2]);
    assert!(nodens.metric("nodens_realtime_workers", &[]) < 0.5);
    nodens.wait_for_log("realtime");
    let log = nodens.log();
    let said: Vec<_> = log
        .lines()
        .filter(|line| line.contains("realtime"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains(why), "{log}");
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn workers_are_under_real_time_scheduling_and_nobody_else_is() {
    if !is_to_be_had() {
        return;
    }
    let nodens = Nodens::start(YAML);
    assert_answers(&nodens);
    nodens.wait_for_metric("nodens_realtime_workers", &[], 2.0);
    for (name, scheduled) in threads(nodens.id()) {
        let right = if name.starts_with("worker-") {
            REALTIME
        } else {
            NORMAL
        };
        assert_eq!(scheduled, right, "{name}");
    }
    assert_eq!(workers(nodens.id(), 2), [REALTIME; 2]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", nodens.id())).expect("it runs");
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max realtime timeout"));
    assert!(
        limit.is_some_and(|line| line.contains("2000000")),
        "{limits}"
    );
}

#[test]
fn without_the_key_nobody_is() {
    let nodens = Nodens::start(&YAML.replace("scheduling: realtime\n", ""));
    assert_answers(&nodens);
    assert_eq!(workers(nodens.id(), 2), [NORMAL; 2]);
    assert!(!nodens.log().contains("realtime"));
}

#[test]
#[ignore = "needs root and setpriv; .ci/run runs it"]
fn without_the_capability_it_runs_normally_and_says_so() {
    let without = ["--bounding-set=-sys_nice", "--inh-caps=-sys_nice"].map(str::to_owned);
    let nodens = Nodens::start_under("setpriv", &without, YAML);
    assert_falls_back(&nodens, "SYS_NICE");
}

/// A cgroup (v1) of the CPU controller, whose tasks have no share of real-time tasks' time.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/cpu");
        // Only there where the kernel groups real-time tasks.
        if !root.join("cpu.rt_runtime_us").exists() {
            return None;
        }
        let group = root.join(format!("nodens-test-{}", std::process::id()));
        fs::create_dir(&group).expect("root may make one");
        Some(Self(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_for("the group to be empty", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
#[ignore = "needs root, and a kernel that groups real-time tasks; .ci/run runs it"]
fn where_the_kernel_gives_its_group_no_share_it_runs_normally_and_says_so() {
    let Some(group) = Group::new() else {
        println!(
            "NOT CHECKED: this kernel does not group real-time tasks (no cpu.rt_runtime_us in cgroup v1)"
        );
        return;
    };
    let enter = format!(
        "echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"",
        group.0.display()
    );
    let nodens = Nodens::start_under("sh", &["-c".to_owned(), enter], YAML);
    assert_falls_back(&nodens, "cpu.rt_runtime_us");
}

/// Sends queries as fast as it can until told to stop.
fn flood(address: SocketAddr, stop: &AtomicBool) {
    let client = udp_to(address).expect("a socket");
    client.set_nonblocking(true).expect("settable");
    let message = Ask::new("here.example", rr::A).message();
    let mut reply = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        let _ = client.send(&message);
        let _ = client.recv(&mut reply);
    }
}

#[test]
#[ignore = "needs root and takes a quarter of a minute; .ci/run runs it"]
fn a_worker_over_its_budget_steps_down_and_comes_back_after_the_flood() {
    if !is_to_be_had() {
        return;
    }
    let nodens = Nodens::start(&YAML.replace("workers: 2", "workers: 1"));
    let (stop, address) = (AtomicBool::new(false), nodens.address());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| flood(address, &stop));
        }
        nodens.wait_for_metric("nodens_realtime_stepdowns_total", &[], 1.0);
        assert_eq!(workers(nodens.id(), 1), [NORMAL]);
        assert!(nodens.metric("nodens_realtime_workers", &[]) < 0.5);
        stop.store(true, Ordering::Relaxed);
    });
    nodens.wait_for_log("500 ms of CPU time");
    nodens.wait_for_metric("nodens_realtime_workers", &[], 1.0);
    assert_eq!(workers(nodens.id(), 1), [REALTIME]);
    assert_answers(&nodens);
}
