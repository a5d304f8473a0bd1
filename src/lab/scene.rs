//! The demo's set-up: stand-ins on loopback, and the real proxy in front of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::lab::stand_in::{BlackHole, StandIn, Zone, kube_dns, vpc_dns};
use crate::process::app::App;
use crate::upstream::health::State;
use crate::upstream::server::HealthReport;

/// Any free port of loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Long enough that a question repeated after a plain stub resolver's two attempts is still a hit, short enough that
/// the tour can wait for its end. In seconds.
pub(crate) const REGISTRY_TTL: u32 = 6;

/// How often a state is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Who stands behind an upstream server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Knows the cluster's names.
    KubeDns,
    /// Receives queries and never answers.
    BlackHole,
    /// Knows the company's names.
    VpcDns,
}

impl Who {
    /// Its name in the tour's text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KubeDns => "kube-dns",
            Self::BlackHole => "black hole",
            Self::VpcDns => "VPC DNS",
        }
    }
}

/// Everything that runs. Dropping it stops it.
pub(crate) struct Scene {
    /// The real proxy.
    pub(crate) app: App,
    /// Where it listens, over UDP and TCP.
    pub(crate) listen: SocketAddr,
    /// Its configuration.
    pub(crate) yaml: String,
    /// Where each server is.
    pub(crate) servers: [(Who, SocketAddr); 3],
    vpc: Option<StandIn>,
    _kube: StandIn,
    _hole: BlackHole,
}

/// A server's health as /status shows it.
pub(crate) struct ShownHealth {
    pub(crate) group: String,
    pub(crate) server: String,
    pub(crate) who: Option<Who>,
    pub(crate) report: HealthReport,
}

impl Scene {
    /// Starts the stand-ins, then the proxy.
    ///
    /// # Errors
    /// Loopback has no free port, or the proxy does not take its configuration.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let hole = BlackHole::bind(LOOPBACK).context("a server that never answers")?;
        let kube = StandIn::start(&kube_dns(), LOOPBACK).await;
        let kube = kube.context("a stand-in for kube-dns")?;
        let vpc = StandIn::start(&vpc_zones(), LOOPBACK).await;
        let vpc = vpc.context("a stand-in for the VPC's DNS")?;
        let servers = [
            (Who::KubeDns, kube.address()),
            (Who::BlackHole, hole.address().context("its address")?),
            (Who::VpcDns, vpc.address()),
        ];
        let yaml = configuration(&servers);
        let config = Config::from_yaml(&yaml).context("the demo's configuration")?;
        let app = App::start(config).await.context("the proxy")?;
        let listen = app.listen().first().copied();
        Ok(Self {
            listen: listen.context("the proxy listens nowhere")?,
            app,
            yaml,
            servers,
            vpc: Some(vpc),
            _kube: kube,
            _hole: hole,
        })
    }

    /// Who listens at `address`, which may be a metric's label.
    pub(crate) fn who(&self, address: &str) -> Option<Who> {
        self.servers
            .iter()
            .find(|(_, known)| known.to_string() == address)
            .map(|(who, _)| *who)
    }

    /// Where `who` listens.
    pub(crate) fn address(&self, wanted: Who) -> Option<SocketAddr> {
        self.servers
            .iter()
            .find(|(who, _)| *who == wanted)
            .map(|(_, address)| *address)
    }

    /// The servers in the users' resolv.conf without nodens: the VPC's, the silent one first.
    pub(crate) fn resolv_conf(&self) -> Vec<SocketAddr> {
        [Who::BlackHole, Who::VpcDns]
            .into_iter()
            .filter_map(|who| self.address(who))
            .collect()
    }

    /// Stops the VPC's DNS and waits until its address is closed.
    pub(crate) async fn stop_vpc(&mut self) {
        if let Some(vpc) = self.vpc.take() {
            vpc.stop().await;
        }
    }

    /// Starts the VPC's DNS again, where it was.
    ///
    /// # Errors
    /// Another program has taken its port meanwhile.
    pub(crate) async fn restart_vpc(&mut self) -> anyhow::Result<()> {
        if let (None, Some(address)) = (&self.vpc, self.address(Who::VpcDns)) {
            let vpc = StandIn::start(&vpc_zones(), address).await;
            self.vpc = Some(vpc.context("the VPC's DNS cannot start again")?);
        }
        Ok(())
    }

    /// The proxy's present state of each server, over the transport that its queries take.
    pub(crate) fn health(&self) -> Vec<ShownHealth> {
        let now = std::time::Instant::now();
        let setup = self.app.shared.current.load();
        let servers = setup.upstreams.servers.iter();
        servers
            .map(|server| ShownHealth {
                group: server.group.to_string(),
                server: server.label.clone(),
                who: self.who(&server.label),
                report: server.report(server.carrier(), now),
            })
            .collect()
    }

    /// Waits until the proxy believes `state` of `who`, for at most `patience`; how long it took, none if it did not.
    pub(crate) async fn wait_for(
        &self,
        who: Who,
        state: State,
        patience: Duration,
    ) -> Option<Duration> {
        let started = Instant::now();
        loop {
            let believed =
                |health: &ShownHealth| health.who == Some(who) && health.report.state == state;
            if self.health().iter().any(believed) {
                return Some(started.elapsed());
            }
            if started.elapsed() >= patience {
                return None;
            }
            sleep(POLL).await;
        }
    }
}

/// The VPC's zones, with a registry whose records live so short that the tour sees them expire. (A zone of its own
/// outranks example.com's record of the name.)
fn vpc_zones() -> Vec<Zone> {
    let registry = Zone::new("registry.example.com")
        .ttl(REGISTRY_TTL)
        .a("registry.example.com", [10, 1, 20, 5])
        .aaaa("registry.example.com", [0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 5]);
    vpc_dns().into_iter().chain([registry]).collect()
}

fn configuration(servers: &[(Who, SocketAddr); 3]) -> String {
    let [(_, kube), (_, hole), (_, vpc)] = servers;
    format!(
        r#"listen: ["127.0.0.1:0"]      # 0: any free port; on a node 169.254.20.53:53
admin: 127.0.0.1:0
workers: 2
upstreams:
  cluster: {{servers: ["{kube}"]}}
  vpc:     {{servers: ["{hole}", "{vpc}"]}}
routes:
  cluster.local: {{group: cluster, max_negative_ttl: 5s}}
  96.10.in-addr.arpa: cluster
  ".": vpc
records:
  ci-cache.example.com: {{A: [10.1.40.7]}}
"#
    )
}
