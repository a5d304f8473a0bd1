//! A real Prometheus, a scene in which everything is asked and something fails, and every expression evaluated.

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::common::dns::{Ask, Over, exchange};
use super::common::peers::tool;
use super::common::stand_in::StandIn;
use super::common::{Process, TempDir, free_address, wait_for};
use super::expressions::{ALERTS, Fires, Had, PANELS};
use super::scene::{QUERIES, Running, Who, coredns, get, server};

/// Long against the pause between scrapes, short against anybody's patience.
const WINDOW: &str = "5s";

/// A Prometheus that scrapes each of its jobs five times a second.
struct Prometheus {
    process: Process,
    _directory: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    fn start(jobs: &[(&str, SocketAddr)]) -> Self {
        let (directory, address) = (TempDir::new(), free_address());
        let mut config = String::from("global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n");
        config.push_str("scrape_configs:\n");
        for (job, target) in jobs {
            let targets = format!("static_configs: [{{targets: [\"{target}\"]}}]");
            writeln!(config, "- {{job_name: {job}, {targets}}}").expect("a String grows");
        }
        let config = directory.write("prometheus.yml", &config);
        let mut command = tool("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path("data").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let mut process = Process::spawn("prometheus", &mut command, directory.path("log"));
        process.wait_until("200 from /-/ready", || {
            get(address, "/-/ready").filter(|(status, _)| *status == 200)
        });
        Self {
            process,
            _directory: directory,
            address,
        }
    }

    /// What an expression gives: its values that are numbers. Fails if it cannot be evaluated.
    fn values(&self, expression: &str) -> Vec<f64> {
        let mut query = String::new();
        for octet in expression.bytes() {
            write!(query, "%{octet:02x}").expect("a String grows");
        }
        let answer = get(self.address, &format!("/api/v1/query?query={query}"));
        let (status, body) =
            answer.unwrap_or_else(|| panic!("no answer; it said:\n{}", self.process.log()));
        assert_eq!(status, 200, "{expression}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["status"], "success", "{expression}: {body}");
        let results = body["data"]["result"].as_array().expect("a vector");
        let value = |result: &serde_json::Value| -> f64 {
            let text = result["value"][1].as_str().expect("a value");
            text.parse().expect("a number")
        };
        results
            .iter()
            .map(value)
            .filter(|value| value.is_finite())
            .collect()
    }
}

/// For one job, as Grafana would ask.
fn of(expression: &str, job: &str) -> String {
    expression.replace("JOB", job).replace("WINDOW", WINDOW)
}

/// Clients that ask without waiting, until the value goes.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(servers: impl Iterator<Item = (SocketAddr, SocketAddr)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = servers
            .map(|(server, health)| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || ask_until(&stop, server, health))
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ask_until(stop: &AtomicBool, server: SocketAddr, health: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(server).expect("loopback");
    socket.set_nonblocking(true).expect("settable");
    let mut round = 0_u32;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        for (name, qtype, over, dnssec_ok, _) in QUERIES {
            let ask = Ask::new(name, qtype);
            let ask = if dnssec_ok { ask.dnssec_ok() } else { ask };
            if over == Over::Tcp {
                exchange(server, over, &ask.message()).expect("what is known is answered");
            } else {
                // A reply that finds no room is as good as read.
                let _ = socket.send(&ask.message());
            }
        }
        // Nobody knows these yet: one is answered, one fails, one is never answered.
        for zone in ["ok.example", "sick.example", "down.example"] {
            let _ = socket.send(&Ask::new(&format!("n{round}.{zone}"), 1).message());
        }
        // As the kubelet asks.
        get(health, "/health");
        while socket.recv(&mut [0; 2048]).is_ok() {}
        // The pace of the load, not a wait for anything.
        thread::sleep(Duration::from_millis(50));
    }
}

/// How a result is shown in the table.
fn shown(values: Option<&[f64]>) -> String {
    match values {
        None => "no such family".to_owned(),
        Some([]) => "-".to_owned(),
        Some([first, ..]) => format!("{first:.4}"),
    }
}

#[test]
#[ignore = "needs Prometheus; with NODENS_COREDNS a CoreDNS, too"]
fn what_dashboards_and_alerts_ask_for_is_there() {
    let (server, silent) = (server(), StandIn::new(|_, _| vec![]));
    silent.set_silent(true);
    let mut running = vec![("nodens", Who::Nodens)];
    if coredns().is_some() {
        running.push(("coredns", Who::Coredns));
    } else {
        println!("NODENS_COREDNS names no CoreDNS: only nodens is looked at");
    }
    let running: Vec<(&str, Running)> = running
        .into_iter()
        .map(|(job, who)| {
            let silent = Some(silent.address);
            (job, Running::start(who, server.address, silent))
        })
        .collect();
    let jobs: Vec<_> = running
        .iter()
        .map(|(job, one)| (*job, one.metrics))
        .collect();
    let prometheus = Prometheus::start(&jobs);
    let addresses = running.iter().map(|(_, one)| (one.address, one.health));
    let load = Load::start(addresses);
    for (job, one) in &running {
        wait_for("some scrapes", || {
            let scrapes = prometheus.values(&format!("count_over_time(up{{job=\"{job}\"}}[1m])"));
            (scrapes.first()? >= &5.0).then_some(())
        });
        // Of what is first counted now, an increase can be seen.
        one.break_corefile();
    }
    let has = |job: &str, had: Had| had == Had::Now || job == "nodens";
    for (name, had, expression) in PANELS {
        let values = jobs.iter().map(|(job, _)| {
            let expression = of(expression, job);
            has(job, had).then(|| {
                wait_for(&format!("{name} of {job}: {expression}"), || {
                    Some(prometheus.values(&expression)).filter(|values| !values.is_empty())
                })
            })
        });
        let values: Vec<String> = values.map(|values| shown(values.as_deref())).collect();
        println!("panel {name:32} {}", values.join("  "));
    }
    for (name, had, fires, expression) in ALERTS {
        let values = jobs.iter().map(|(job, _)| {
            let expression = of(expression, job);
            let what = format!("alert {name} of {job}: {expression}");
            has(job, had).then(|| match fires {
                Fires::InTheScene => wait_for(&what, || {
                    Some(prometheus.values(&expression)).filter(|values| !values.is_empty())
                }),
                Fires::Never => {
                    let values = prometheus.values(&expression);
                    assert_eq!(values, Vec::<f64>::new(), "{what}");
                    values
                }
                Fires::Perhaps => prometheus.values(&expression),
            })
        });
        let values: Vec<String> = values.map(|values| shown(values.as_deref())).collect();
        println!("alert {name:32} {}", values.join("  "));
    }
    drop(load);
    for (job, one) in &running {
        assert!(!one.log().contains("panic"), "{job}:\n{}", one.log());
    }
}
