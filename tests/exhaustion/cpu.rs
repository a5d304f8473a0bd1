//! A hundredth of a CPU.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, rr, udp_to};
use crate::scene::{Cgroup, Scene, server};

#[test]
#[ignore = "needs root and cgroups"]
fn a_hundredth_of_a_cpu_makes_answers_slow_and_never_wrong() {
    let cpu = Cgroup::new("cpu");
    cpu.set(&[("cpu.cfs_quota_us", "1000"), ("cpu.max", "1000 100000")]);
    let scene = Scene::start(1024, server());
    let throttled = || cpu.count("cpu.stat", "nr_throttled");
    let heard = scene.during("a hundredth of a CPU", || {
        cpu.take(scene.nodens.id());
        let others = udp_to(scene.nodens.address()).expect("a socket");
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            // Honest clients alone may ask for less than there is.
            let more = if throttled() == 0 { 30 } else { 0 };
            for _ in 0..more {
                let question = Ask::new("cached.example.", rr::A).message();
                others.send(&question).expect("sent");
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let throttled = throttled();
    println!("a hundredth of a CPU: throttled in {throttled} periods of 100 ms");
    assert!(throttled > 0, "the CPU was scarce");
    heard.assert_all_answered("a hundredth of a CPU");
    drop(scene);
}
