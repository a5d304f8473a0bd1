//! No process is left, as after a fork bomb.

use crate::common::dns::{Ask, Over, rcode, rr};
use crate::scene::{Cgroup, Scene, server};

#[test]
#[ignore = "needs root and cgroups"]
fn without_a_process_left_it_serves_reloads_and_stops_in_order() {
    let pids = Cgroup::new("pids");
    let scene = Scene::start(1024, server());
    pids.take(scene.nodens.id());
    pids.set(&[("pids.max", "1")]);
    for number in 0..3 {
        scene.nodens.hang_up();
        let taken = |log: String| log.matches("configuration is in force").count() > number;
        crate::common::wait_for("a reload", || taken(scene.nodens.log()).then_some(()));
    }
    for over in [Over::Udp, Over::Tcp] {
        let name = format!("{over:?}.example.");
        let reply = Ask::new(&name, rr::A).send(scene.nodens.address(), over);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    }
    let (status, log) = scene.nodens.terminate();
    assert!(status.success(), "{status}: {log}");
}
