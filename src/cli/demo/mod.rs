//! `nodens demo`: the real proxy in front of stand-ins on loopback, and a guided tour of the failures that clients do
//! not notice.
//!
//! Owns the order of the tour and its text. The questions and their promises are in `demo/step.rs`, the world in
//! `lab/scene.rs`, asking and counting in `demo/client.rs`. Whatever can be read from the proxy is read from it: hit or
//! miss, the route, and the server that answered come from the metrics.
//!
//! Limits: IPv4 loopback only; the plain stub resolver beside it is [`crate::cli::stub`], which asks as glibc does.

mod client;
mod step;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cli::stub::{StubTransport, plain_stub_wait};
use crate::lab::scene::{REGISTRY_TTL, Scene, Who};
use crate::message::labels::rcode_label;
use crate::metrics::Label;
use crate::upstream::health::State;
use client::{CacheUse, ClientReply, CounterGrowth, CounterValues};
use step::{DemoStep, alias, big, cluster_name, no_such_name, own_name, registry};

/// What the advice to these users sets: `options timeout:1 attempts:2`. glibc's own default timeout is 5 s.
const STUB_TIMEOUT: Duration = Duration::from_secs(1);
const STUB_ATTEMPTS: usize = 2;

/// A lost probe takes one `try_timeout` of 1 s; the rest is for busy machines.
const FOUND_DOWN_WITHIN: Duration = Duration::from_secs(5);

/// Probes of a server that is down are 5 s apart at most, and one more confirms the first.
const BACK_WITHIN: Duration = Duration::from_secs(6);

/// Columns of the terminal the tour is set for, and where its text begins.
const COLUMNS: usize = 100;
const INDENT: usize = 24;

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Exit after the tour: 0 if every step was as promised, else 1
    #[arg(long)]
    once: bool,
}

/// Until the tour is over, or until a signal.
///
/// # Errors
/// Loopback has no free port, or nobody reads what is printed.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut tour = Tour::start().await?;
    let told = tokio::select! {
        told = tour.run_steps() => told,
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    };
    told?;
    if !args.once {
        tour.invite()?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let Tour { scene, broken, .. } = tour;
    scene.app.stop().await;
    Ok(if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The state of the tour.
struct Tour {
    scene: Scene,
    number: usize,
    broken: usize,
    /// When the registry's answer came into the cache, at the latest.
    registry_cached: Instant,
    /// Waited for the same questions, here and by a plain stub resolver.
    waited: (Duration, Duration),
}

impl Tour {
    async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            scene: Scene::start().await?,
            number: 0,
            broken: 0,
            registry_cached: Instant::now(),
            waited: (Duration::ZERO, Duration::ZERO),
        })
    }

    /// All steps, one after the other.
    async fn run_steps(&mut self) -> anyhow::Result<()> {
        self.introduce()?;
        let words = "the group's first server never answers, and the client does not notice";
        let first = registry(
            "asked for the first time",
            words,
            CacheUse::Miss,
            Some(Who::VpcDns),
        );
        self.take(&first).await?;
        self.registry_cached = Instant::now();
        let words = "from the cache; no server was asked";
        self.take(&registry("the same again", words, CacheUse::Hit, None))
            .await?;
        self.take(&cluster_name()).await?;
        self.take(&no_such_name()).await?;
        self.take(&big(StubTransport::Udp)).await?;
        self.take(&big(StubTransport::Tcp)).await?;
        self.take(&alias()).await?;
        self.take(&own_name()).await?;
        self.name_the_sick().await?;
        self.lose_the_vpc().await?;
        self.bring_the_vpc_back().await?;
        self.conclude()
    }

    fn introduce(&self) -> anyhow::Result<()> {
        say("nodens demo: everything below runs in this process, on loopback\n")?;
        for (who, address) in self.scene.servers {
            let what = match who {
                Who::KubeDns => "knows *.svc.cluster.local and refuses all else",
                Who::BlackHole => "a VPC server that never answers, listed first",
                Who::VpcDns => "knows registry.example.com and others",
            };
            say(&format!("  {:<10}  {address:<15}  {what}", who.name()))?;
        }
        let listen = self.scene.listen;
        say(&format!(
            "  {:<10}  {listen:<15}  in front of them, with\n",
            "nodens"
        ))?;
        for line in self.scene.yaml.lines() {
            say(&format!("    {line}"))?;
        }
        let servers: Vec<String> = self
            .scene
            .resolv_conf()
            .iter()
            .map(ToString::to_string)
            .collect();
        say(&format!(
            "\nEach question is asked twice: of nodens, and by a plain stub resolver as a pod without nodens\n\
             has it: nameservers {}, options timeout:{} attempts:{}.\n\
             (By default glibc would wait 5 s where this one waits {} s.)\n",
            servers.join(" and "),
            STUB_TIMEOUT.as_secs(),
            STUB_ATTEMPTS,
            STUB_TIMEOUT.as_secs(),
        ))
    }

    /// Asks a step's question here and of the plain stub resolver, and tells both.
    async fn take(&mut self, step: &DemoStep) -> anyhow::Result<()> {
        let over = match step.transport {
            StubTransport::Udp => "",
            StubTransport::Tcp => " +tcp",
        };
        self.open(
            &format!("{} {}{over}", step.name, step.record_type),
            step.title,
        )?;
        let name = Name::from_ascii(format!("{}.", step.name)).context(step.name)?;
        let metrics = &self.scene.app.metrics;
        let before = CounterValues::read(metrics);
        let listen = self.scene.listen;
        let reply = match client::ask(listen, &name, step.record_type, step.transport).await {
            Ok(reply) => reply,
            Err(error) => return self.close(Err(format!("{error:#}"))),
        };
        // Over TCP a stub asks only after UDP, which was shown.
        let stub = (step.transport == StubTransport::Udp).then(|| self.start_stub(step.name));
        let counted = match before.after_a_reply(metrics).await {
            Ok(counted) => counted,
            Err(error) => return self.close(Err(error.to_string())),
        };
        line("nodens", Some(reply.took), &told(&reply))?;
        line("", None, &self.origin(&counted))?;
        if let Some(why) = reply.extended_error() {
            line("", None, &why)?;
        }
        if let Some(stub) = stub {
            let (waited, found) = stub.await.context("the stub resolver")?;
            let found = match found {
                Ok(addresses) => short(
                    &addresses
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>(),
                ),
                Err(reason) => format!("FAILED: {reason}"),
            };
            line("stub", Some(waited), &found)?;
            self.waited.0 += reply.took;
            self.waited.1 += waited;
        }
        let kept = step.promise.check(&self.scene, &reply, &counted);
        self.close(kept.map(|()| step.promise.words))
    }

    fn start_stub(
        &self,
        name: &'static str,
    ) -> tokio::task::JoinHandle<(Duration, Result<Vec<std::net::IpAddr>, String>)> {
        let servers: Vec<SocketAddr> = self.scene.resolv_conf();
        tokio::spawn(
            async move { plain_stub_wait(&servers, name, STUB_TIMEOUT, STUB_ATTEMPTS).await },
        )
    }

    /// The source of a reply, by the metrics.
    fn origin(&self, counted: &CounterGrowth) -> String {
        let route = counted.route();
        let from: Vec<String> = counted
            .answered_by()
            .into_iter()
            .map(|server| match self.scene.who(&server) {
                Some(who) => format!("{} {server}", who.name()),
                None => server,
            })
            .collect();
        match counted.cached() {
            CacheUse::Own => "own record, no route".to_owned(),
            CacheUse::Miss if from.is_empty() => format!("miss, route {route} -> nobody answered"),
            CacheUse::Miss => format!("miss, route {route} -> {}", from.join(", ")),
            cached => format!("{}, route {route}", cached.name()),
        }
    }

    /// Which server is sick, and how the proxy knows.
    async fn name_the_sick(&mut self) -> anyhow::Result<()> {
        self.open("which server is sick?", "as /status shows it")?;
        let scene = &self.scene;
        let found = scene
            .wait_for(Who::BlackHole, State::Down, FOUND_DOWN_WITHIN)
            .await;
        let mut others_are_well = true;
        for health in scene.health() {
            let (state, who) = (health.report.state, health.who);
            others_are_well &= who == Some(Who::BlackHole) || state == State::Good;
            let reason = serde_json::to_value(health.report.reason)?;
            say(&format!(
                "    {:<18}  {:<10}  {:<15}  {:<7}  {:<14}  for {:.1} s",
                format!("upstreams.{}", health.group),
                who.map_or("?", Who::name),
                health.server,
                state.label(),
                reason.as_str().unwrap_or("?"),
                health.report.since_seconds,
            ))?;
        }
        self.close(match found {
            None => Err(format!(
                "the black hole is not down after {} s",
                FOUND_DOWN_WITHIN.as_secs()
            )),
            Some(_) if !others_are_well => Err("a healthy server is not good".to_owned()),
            Some(_) => Ok("the silent server is named, and gets probes only"),
        })
    }

    /// The registry after its TTL, with every server of its group gone.
    async fn lose_the_vpc(&mut self) -> anyhow::Result<()> {
        let expires = self.registry_cached + Duration::from_secs(u64::from(REGISTRY_TTL));
        let left = expires.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let seconds = left.as_secs_f64();
            say(&format!(
                "    (waiting {seconds:.1} s until registry.example.com's TTL of {REGISTRY_TTL} s is over)\n"
            ))?;
            sleep_until(expires).await;
        }
        self.scene.stop_vpc().await;
        let words = "nobody is left to ask, and CI goes on (RFC 8767)";
        let title = "expired, and the VPC DNS is stopped too";
        self.take(&registry(title, words, CacheUse::Stale, None))
            .await
    }

    /// The registry after its server's return.
    async fn bring_the_vpc_back(&mut self) -> anyhow::Result<()> {
        self.scene.restart_vpc().await?;
        let back = self.scene.wait_for(Who::VpcDns, State::Good, BACK_WITHIN);
        let back = back.await;
        let Some(back) = back else {
            self.open("registry.example.com A", "the VPC DNS is started again")?;
            let seconds = BACK_WITHIN.as_secs();
            return self.close(Err(format!("it is not good after {seconds} s")));
        };
        say(&format!(
            "    (the VPC DNS is started again; found by a probe after {} ms)\n",
            back.as_millis()
        ))?;
        let words = "fresh again, without a restart of anything";
        let title = "the VPC DNS is back";
        self.take(&registry(title, words, CacheUse::Miss, Some(Who::VpcDns)))
            .await
    }

    fn conclude(&self) -> anyhow::Result<()> {
        let (here, stub) = self.waited;
        say(&format!(
            "{} of {} steps as promised. For the same questions a client waited\n  \
             {:>8.1} ms for nodens\n  \
             {:>8.1} ms as a plain stub resolver with timeout:1 (about five times that with glibc's 5 s)",
            self.number - self.broken,
            self.number,
            milliseconds(here),
            milliseconds(stub),
        ))
    }

    /// What to try by hand.
    fn invite(&self) -> anyhow::Result<()> {
        let (ip, port) = (self.scene.listen.ip(), self.scene.listen.port());
        say("\nIt keeps serving; try these, and end it with Ctrl-C:\n")?;
        for question in [
            "registry.example.com",
            "+tcp big.example.com AAAA",
            "web.shop.svc.cluster.local",
            "-x 10.96.0.1",
            "CH TXT version.server",
        ] {
            say(&format!("  dig @{ip} -p {port} {question}"))?;
        }
        if let Some(admin) = self.scene.app.admin {
            say(&format!("  curl http://{admin}/status"))?;
            say(&format!("  curl http://{admin}/metrics"))?;
        }
        Ok(())
    }

    fn open(&mut self, what: &str, title: &str) -> anyhow::Result<()> {
        self.number += 1;
        say(&format!("{:>2}  {what:<46}{title}", self.number))
    }

    fn close(&mut self, verdict: Result<&str, String>) -> anyhow::Result<()> {
        match verdict {
            Ok(words) => line("ok", None, words)?,
            Err(why) => {
                self.broken += 1;
                say(&wrapped("    NOT AS PROMISED: ", &why))?;
            }
        }
        say("")
    }
}

/// What a reply says, in short.
fn told(reply: &ClientReply) -> String {
    let metadata = &reply.message.metadata;
    let records = short(&reply.data());
    let bytes = reply.bytes;
    match (metadata.response_code, metadata.truncation) {
        (ResponseCode::NoError, true) => format!("{records}, whole, in {bytes} bytes; TC set"),
        (ResponseCode::NoError, false) => match reply.message.answers.first() {
            Some(first) => format!("{records}, TTL {} s", first.ttl),
            None => "no records".to_owned(),
        },
        (code, _) => rcode_label(code.into()).to_owned(),
    }
}

/// A few records as they are, many by their number.
fn short(records: &[String]) -> String {
    match records.len() {
        0..=3 => records.join(", "),
        many => format!("{many} records"),
    }
}

/// One line of a step: a label, a time, and text that is wrapped where the terminal ends.
fn line(label: &str, took: Option<Duration>, text: &str) -> anyhow::Result<()> {
    let took = took.map_or(String::new(), |took| {
        format!("{:.1} ms", milliseconds(took))
    });
    say(&wrapped(&format!("    {label:<7}{took:>11}  "), text))
}

/// `text` after `start`, continued below itself.
fn wrapped(start: &str, text: &str) -> String {
    let mut told = start.to_owned();
    let mut column = start.len();
    let mut first = true;
    for word in text.split(' ') {
        if !first && column + 1 + word.len() > COLUMNS {
            told.push('\n');
            told.push_str(&" ".repeat(INDENT));
            column = INDENT;
        } else if !first {
            told.push(' ');
            column += 1;
        }
        told.push_str(word);
        column += word.len();
        first = false;
    }
    told
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Prints a line at once, whatever stdout is.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("stdout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_themselves() {
        let told = wrapped("    stub     1000.0 ms  ", &"word ".repeat(40));
        assert!(told.lines().count() > 1);
        for line in told.lines() {
            assert!(line.len() <= COLUMNS, "{line}");
        }
        assert!(
            told.lines()
                .skip(1)
                .all(|line| line.starts_with(&" ".repeat(INDENT)))
        );
        assert_eq!(wrapped("    ok  ", "short"), "    ok  short");
    }
}
