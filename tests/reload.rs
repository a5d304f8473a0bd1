//! A configuration that changes while clients ask: what is new holds at once, what is wrong changes nothing, and nobody
//! waits or hears the wrong server.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use common::dns::{Ask, Message, Over, Section, rcode, record, response, rr, udp_to};
use common::stand_in::StandIn;
use common::{Nodens, Process, TempDir, get, nodens, wait_for};

/// A server that answers every A question with this address.
fn answering(last: u8) -> StandIn {
    StandIn::new(move |query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, last])])])
}

/// The last octet of the one address of a reply.
fn address_of(reply: &Message) -> u8 {
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    let records: Vec<_> = reply.section(Section::Answer).collect();
    assert_eq!(records.len(), 1, "{reply:?}");
    *records[0].rdata.last().expect("four octets")
}

fn ask(server: SocketAddr, name: &str) -> u8 {
    address_of(&Ask::new(name, rr::A).send(server, Over::Udp))
}

/// `moving.` is the first server's, all else the second's.
fn routes(moving: &StandIn, rest: &StandIn) -> String {
    format!(
        "workers: 2\nupstreams:\n  moving: {{servers: [\"{}\"]}}\n  rest: {{servers: [\"{}\"]}}\n\
         routes: {{moving.: moving, \".\": rest}}",
        moving.address, rest.address
    )
}

/// How many configurations it has put in force.
fn taken(nodens: &Nodens) -> u64 {
    nodens.status()["configuration"]["taken"]
        .as_u64()
        .expect("a number")
}

/// Replaces the configuration, has it read, and waits until it is in force.
fn change(nodens: &Nodens, listen: &[&str], yaml: &str) {
    let before = taken(nodens);
    nodens.rewrite(listen, yaml);
    nodens.hang_up();
    wait_for("the configuration to be in force", || {
        (taken(nodens) > before).then_some(())
    });
}

/// Names that clients ask for, by either route.
const NAMES: u64 = 40;

const LISTEN: [&str; 1] = ["127.0.0.1:0"];

#[test]
fn swaps_under_load_lose_and_misroute_nothing() {
    swap_under_load(50);
}

#[test]
#[ignore = "takes a minute, in release"]
fn nor_do_a_thousand() {
    swap_under_load(1000);
}

fn swap_under_load(swaps: u64) {
    let (one, two) = (answering(1), answering(2));
    let rest = answering(9);
    let nodens = Nodens::start(&routes(&one, &rest));
    let server = nodens.address();
    for name in 0..NAMES {
        assert_eq!(ask(server, &format!("n{name}.example.")), 9);
    }
    let asked_once = rest.asked().len();
    // Even: half of it is the number of swaps done. Odd: a swap is under way, and either server is right.
    let phase = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (phase, over) = (Arc::clone(&phase), Arc::clone(&over));
            thread::spawn(move || {
                let mut asked = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    let name = asked % NAMES;
                    let before = phase.load(Ordering::SeqCst);
                    let moving = ask(server, &format!("n{name}.moving."));
                    let after = phase.load(Ordering::SeqCst);
                    if before == after && before % 2 == 0 {
                        let expected = if before / 2 % 2 == 0 { 1 } else { 2 };
                        assert_eq!(moving, expected, "client {client}, swap {}", before / 2);
                    } else {
                        assert!(matches!(moving, 1 | 2), "{moving}");
                    }
                    assert_eq!(ask(server, &format!("n{name}.example.")), 9);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for swap in 1..=swaps {
        phase.fetch_add(1, Ordering::SeqCst);
        let moving = if swap % 2 == 0 { &one } else { &two };
        change(&nodens, &LISTEN, &routes(moving, &rest));
        phase.fetch_add(1, Ordering::SeqCst);
    }
    over.store(true, Ordering::Relaxed);
    // A query that got no answer, or the wrong one, panicked there.
    let asked: Vec<u64> = clients
        .into_iter()
        .map(|client| client.join().expect("a client found fault"))
        .collect();
    assert!(
        asked.iter().all(|&count| count > swaps),
        "hardly a load: {asked:?}"
    );
    assert_eq!(taken(&nodens), swaps + 1);
    // What was cached by a route that stayed was not asked again.
    assert_eq!(rest.asked().len(), asked_once);
}

#[test]
fn a_late_answer_of_an_old_route_is_its_askers_and_nobody_elses() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let slow = {
        let gate = Arc::clone(&gate);
        StandIn::new(move |query, _| {
            let open = gate.0.lock().expect("no thread panics with it");
            drop(gate.1.wait_while(open, |open| !*open));
            vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]
        })
    };
    let (two, rest) = (answering(2), answering(9));
    // Its probes wait behind the gate too; a server of which nothing is known is asked all the same.
    let nodens = Nodens::start(&routes(&slow, &rest));
    let early = Ask::new("late.moving.", rr::A);
    let socket = udp_to(nodens.address()).expect("a socket");
    socket.send(&early.message()).expect("sends");
    wait_for("the query to be in flight", || {
        (nodens.metric("nodens_in_flight", &[]) >= 1.0).then_some(())
    });
    change(&nodens, &LISTEN, &routes(&two, &rest));
    // It does not join the question that is in flight by the old route.
    assert_eq!(ask(nodens.address(), "late.moving."), 2);
    *gate.0.lock().expect("no thread panics with it") = true;
    gate.1.notify_all();
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).expect("an answer");
    let reply = Message::read(&reply[..length]).expect("a message");
    assert_eq!(address_of(&reply), 1, "it was asked under the old route");
    assert_eq!(ask(nodens.address(), "late.moving."), 2, "the cache has it");
}

#[test]
fn a_mistake_changes_nothing_and_is_told() {
    let (one, two, rest) = (answering(1), answering(2), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    assert_eq!(ask(nodens.address(), "a.moving."), 1);
    let wrong = format!(
        "{}\ncache: {{max_sise: 1MiB}}\nallow: [nowhere]",
        routes(&two, &rest)
    );
    nodens.rewrite(&LISTEN, &wrong);
    // Nobody asks it to: it finds out by itself.
    wait_for("the mistakes to be told", || {
        (nodens.metric("nodens_config_reload_success", &[]) < 0.5).then_some(())
    });
    let mistakes = nodens.status()["configuration"]["mistakes"].to_string();
    for part in [
        "cache.max_sise",
        "max_size",
        "allow",
        "nowhere",
        "nodens.yaml:9",
        "nodens.yaml:10",
    ] {
        assert!(mistakes.contains(part), "{part} is not in {mistakes}");
        nodens.wait_for_log(part);
    }
    assert_eq!(ask(nodens.address(), "b.moving."), 1);
    assert_eq!(taken(&nodens), 1);

    nodens.rewrite(&LISTEN, &routes(&two, &rest));
    wait_for("the mended configuration to be in force", || {
        (nodens.metric("nodens_config_reload_success", &[]) > 0.5).then_some(())
    });
    assert_eq!(ask(nodens.address(), "b.moving."), 2);
    assert_eq!(
        nodens.status()["configuration"]["mistakes"].to_string(),
        "[]"
    );
}

#[test]
fn a_file_that_is_far_too_large_is_refused_and_not_held() {
    let (one, rest) = (answering(1), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let before = nodens.rss_bytes();
    let large = "# a line of a file that somebody put in the wrong place\n".repeat(600_000);
    nodens.rewrite(&LISTEN, &(routes(&one, &rest) + "\n" + &large));
    nodens.wait_for_log("is larger than 4MiB");
    let more = nodens.rss_bytes().saturating_sub(before);
    // As much as is taken of a file is read to be refused, and the allocator may keep that room.
    let most = 16 << 20;
    assert!(large.len() as u64 > 2 * most, "{} bytes", large.len());
    assert!(more < most, "{more} bytes more");
    assert_eq!(ask(nodens.address(), "a.moving."), 1);
}

/// Opening it would wait for whoever writes to it, and the main thread with it.
#[test]
fn a_pipe_is_not_read_again() {
    let (one, rest) = (answering(1), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let (file, pipe) = (nodens.path("nodens.yaml"), nodens.path("pipe"));
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo is there").success());
    fs::rename(&pipe, &file).expect("files of one directory");
    nodens.hang_up();
    nodens.wait_for_log("a pipe can be read once only");
    assert_eq!(ask(nodens.address(), "a.moving."), 1);
    let mistakes = nodens.status()["configuration"]["mistakes"].to_string();
    assert!(mistakes.contains("a pipe"), "{mistakes}");
}

#[test]
fn a_listen_address_that_cannot_be_had_changes_nothing() {
    let (one, two, rest) = (answering(1), answering(2), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let busy = rest.address.to_string();
    nodens.rewrite(&[LISTEN[0], &busy], &routes(&two, &rest));
    nodens.hang_up();
    wait_for("the mistake to be told", || {
        (nodens.metric("nodens_config_reload_success", &[]) < 0.5).then_some(())
    });
    let mistakes = nodens.status()["configuration"]["mistakes"].to_string();
    assert!(mistakes.contains(&busy), "{mistakes}");
    assert_eq!(ask(nodens.address(), "a.moving."), 1);
}

#[test]
fn a_config_map_is_swapped_by_its_symlink() {
    let (one, two, rest) = (answering(1), answering(2), answering(9));
    let dir = TempDir::new();
    let socket = dir.path("nodens.sock");
    // As the kubelet lays a ConfigMap out: data in a directory of its own, `..data` pointing there, and each key a link
    // through `..data`. An update makes another directory and renames a new `..data` over the old one.
    let version = |number: u8, moving: &StandIn| {
        let data = dir.path(&format!("..version{number}"));
        fs::create_dir(&data).expect("a new directory");
        let head = format!(
            "listen: [\"127.0.0.1:0\"]\nadmin: null\nsocket: {}\n",
            socket.display()
        );
        fs::write(data.join("nodens.yaml"), head + &routes(moving, &rest)).expect("writes");
        let link = dir.path("..data_tmp");
        symlink(&data, &link).expect("links");
        fs::rename(link, dir.path("..data")).expect("files of one directory");
    };
    version(1, &one);
    symlink("..data/nodens.yaml", dir.path("nodens.yaml")).expect("links");
    let mut command = nodens();
    command
        .args(["serve", "--config"])
        .arg(dir.path("nodens.yaml"));
    let mut process = Process::spawn("nodens", &mut command, dir.path("nodens.log"));
    let status = || -> Option<serde_json::Value> {
        let (code, body) = get(&socket, "/status").ok()?;
        (code == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    };
    let first = process.wait_until("/status", status);
    let server: SocketAddr = first["listen"][0]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("an address");
    assert_eq!(ask(server, "a.moving."), 1);
    version(2, &two);
    process.wait_until("the swap to be seen", || {
        (status()?["configuration"]["taken"] == 2).then_some(())
    });
    assert_eq!(ask(server, "a.moving."), 2);
}

#[test]
fn addresses_are_added_and_drained() {
    let (one, rest) = (answering(1), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let first = nodens.address();
    let second = common::free_address();
    let yaml = routes(&one, &rest);
    change(&nodens, &[LISTEN[0], &second.to_string()], &yaml);
    for server in [first, second] {
        assert_eq!(ask(server, "a.moving."), 1);
        let reply = Ask::new("a.moving.", rr::A).send(server, Over::Tcp);
        assert_eq!(address_of(&reply), 1);
    }
    change(&nodens, &LISTEN, &yaml);
    wait_for("the second address to be closed", || {
        let socket = udp_to(second).ok()?;
        socket.send(&Ask::new("a.moving.", rr::A).message()).ok()?;
        // Port unreachable: refused at once rather than left waiting.
        socket.recv(&mut [0; 512]).err()
    });
    assert_eq!(ask(first, "a.moving."), 1);
    assert_eq!(nodens.status()["listen"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_is_known_of_servers_that_stay_is_kept_and_those_that_go_are_forgotten() {
    let (one, two, rest) = (answering(1), answering(2), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let health = |server: &StandIn| {
        let status = nodens.status();
        let groups = status["upstreams"].as_array().expect("groups").clone();
        let servers = groups
            .iter()
            .flat_map(|group| group["servers"].as_array().expect("servers"));
        let label = server.address.to_string();
        let mut found = servers
            .filter(|server| server["server"] == label.as_str())
            .map(|server| server["health"][0].clone());
        found.next_back()
    };
    let probed =
        |server: &StandIn| health(server).and_then(|health| health["probes_answered"].as_u64());
    wait_for("all to be good", || {
        (health(&rest)?["state"] == "good" && health(&one)?["state"] == "good").then_some(())
    });
    let before = probed(&rest);
    change(&nodens, &LISTEN, &routes(&two, &rest));
    let after = health(&rest).expect("it stays");
    assert_eq!(after["state"], "good", "{after}");
    assert_eq!(probed(&rest), before, "it was not met anew");
    assert!(health(&one).is_none());
    let gone = one.address.to_string();
    let state = |server: &str| {
        nodens.metric(
            "nodens_upstream_state",
            &[("server", server), ("state", "good")],
        )
    };
    assert!(state(&gone).abs() < 0.5);
    let (_, text) = nodens.get("/metrics");
    let shown = text.lines().filter(|line| {
        ["state", "srtt"]
            .iter()
            .any(|of| line.starts_with(&format!("nodens_upstream_{of}")))
            && !line.contains("_total")
            && line.contains(&gone)
    });
    assert_eq!(shown.count(), 0);
}

#[test]
fn what_takes_a_restart_is_named_and_stays() {
    let (one, rest) = (answering(1), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let other = routes(&one, &rest).replace("workers: 2", "workers: 1\nlog: {format: json}");
    change(&nodens, &LISTEN, &other);
    let status = nodens.status();
    assert_eq!(status["workers"], 2);
    let named = status["configuration"]["restart_needed"].to_string();
    assert_eq!(named, r#"["workers","log.format"]"#);
    assert!((nodens.metric("nodens_config_restart_needed", &[]) - 2.0).abs() < 0.5);
    assert_eq!(ask(nodens.address(), "a.moving."), 1);
}

#[test]
fn zones_groups_and_servers_that_are_gone_leave_nothing_in_the_metrics() {
    let (one, rest) = (answering(1), answering(9));
    let nodens = Nodens::start(&routes(&one, &rest));
    let yaml = |number: u32| {
        let gone = format!("127.9.{}.{}", number / 250, number % 250 + 1);
        let groups = format!("upstreams:\n  spare{number}: {{servers: [\"{gone}:9\"]}}\n  moving:");
        routes(&one, &rest)
            .replace("upstreams:\n  moving:", &groups)
            .replace(
                "routes: {",
                &format!("routes: {{zone{number}.: spare{number}, "),
            )
    };
    let lines = || nodens.get("/metrics").1.lines().count();
    change(&nodens, &LISTEN, &yaml(0));
    let before = lines();
    for number in 1..=20 {
        change(&nodens, &LISTEN, &yaml(number));
        Ask::new(&format!("a.zone{number}."), rr::A).send(nodens.address(), Over::Udp);
    }
    // Reasons and states that servers have just then may differ by a few.
    wait_for("metrics to be as few as before", || {
        (lines() <= before + 20).then_some(())
    });
    let (_, text) = nodens.get("/metrics");
    for gone in ["zone7.", "spare7", "127.9.0.8:"] {
        let shown: Vec<_> = text.lines().filter(|line| line.contains(gone)).collect();
        assert!(shown.is_empty(), "{shown:#?}");
    }
}

/// A probe that took the instance for dead would have it restarted, and it could not start again.
#[test]
fn a_mistake_in_the_file_does_not_hide_the_running_instance_from_commands() {
    let server = StandIn::new(|query, _| vec![response(query, &[])]);
    let upstreams = format!("upstreams: {{vpc: {{servers: [\"{}\"]}}}}", server.address);
    let nodens = Nodens::start(&upstreams);
    let with = |more: &str| nodens.rewrite(&["127.0.0.1:0"], &format!("{upstreams}\n{more}"));
    let run = |arguments: &[&str]| {
        let mut command = common::nodens();
        command
            .args(arguments)
            .arg("--config")
            .arg(nodens.path("nodens.yaml"));
        let output = common::run_to_its_end(command);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let health = &["health"][..];
    let commands = [health, &["top", "--once"], &["cache", "list"]];
    for mistake in [
        "cache: {max_ttl: 9d}",
        "routes: {corp: missing}",
        "unknown_key: 1",
        "upstreams: {}",
    ] {
        with(mistake);
        for arguments in commands {
            let (status, said) = run(arguments);
            assert_eq!(status, Some(0), "{mistake}: {arguments:?}: {said}");
        }
    }
    for (mistake, words) in [
        ("socket: twice.sock", "the key is here twice"),
        ("{", "--socket"),
    ] {
        with(mistake);
        let (status, said) = run(health);
        assert_eq!(status, Some(1), "{mistake}: {said}");
        assert!(said.contains(words), "{mistake}: {said}");
    }
}

#[test]
fn questions_in_flight_count_against_max_in_flight_after_a_reload_too() {
    let silent = StandIn::new(|_, _| vec![]);
    let yaml = |deadline: &str| {
        format!(
            "workers: 1\nupstreams:\n  all:\n    servers: [\"{}\"]\n    max_in_flight: 1\n    try_timeout: 12s\n    \
             deadline: {deadline}\n    failover: {{start_fanout: 1, hedge_min: 10s, hedge_max: 10s}}\n",
            silent.address
        )
    };
    let nodens = Nodens::start(&yaml("15s"));
    let client = udp_to(nodens.address()).expect("a socket");
    let query = Ask::new("slow.example.", rr::A);
    client.send(&query.message()).expect("sent");
    wait_for("the server to be asked", || {
        (silent.asked_count() == 1).then_some(())
    });
    change(&nodens, &["127.0.0.1:0"], &yaml("16s"));
    let reply = Ask::new("other.example.", rr::A).send(nodens.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::SERVFAIL, "{reply:?}");
    assert_eq!(silent.asked_count(), 1, "there was room for one question");
}
