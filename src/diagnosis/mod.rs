//! Diagnoses the servers of a configuration: asks every server of every group, and looks names up if wanted, and
//! derives findings from the answers.
//!
//! - [`report`] is the result, plain data for display;
//! - `asking`, `certificate` and `https` make the queries and connections, `server`, `name` and `named` decide which;
//! - `judgement` derives the findings and their remedies. It sends no queries.
//!
//! Knows nothing of terminals, and serves no clients. Health, by which servers are chosen, belongs to `upstream`: these
//! queries do not change it.

mod asking;
mod certificate;
mod https;
mod judgement;
mod name;
mod named;
pub mod report;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_rustls::rustls::{self, RootCertStore};

use crate::config::{Config, GroupConfig, ServerConfig, ServerSource};
use crate::transport::tls::trusted_roots;
use crate::upstream::routes::Routes;
use crate::upstream::{UpstreamError, own_roots};
use asking::{Inquiry, QueryLimits, ServerPath};
pub use https::HttpsCheck;
use judgement::Evidence;
use name::Directory;
use report::{Diagnosis, FORMAT, GroupReport, NameReport, ServerReport};
use server::{Examination, question_text};

/// The scope of a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All servers, and the names.
    Everything,
    /// The names alone, which asks the servers of their routes two questions each.
    Names,
}

/// What to diagnose, and how long that may take.
#[derive(Debug)]
pub struct Order {
    /// Groups and routes.
    pub config: Config,
    /// Whether servers are examined.
    pub scope: Scope,
    /// Names to look up.
    pub names: Vec<NameToDiagnose>,
    /// Queries that measure a server, at least 1.
    pub tries: usize,
    /// How long a query may take.
    pub timeout: Duration,
    /// How long everything may take.
    pub deadline: Duration,
    /// Whether the addresses of names are connected to.
    pub https: Option<HttpsCheck>,
    /// How long clients wait for a silent server before they ask the next one, if they ask these servers themselves; none if
    /// nodens asks for them.
    pub patience: Option<Duration>,
    /// The node's name, if the configuration is that of a nodens here: a server of that name is a loop.
    pub node_name: Option<String>,
}

/// A name to look up.
#[derive(Debug, Clone)]
pub struct NameToDiagnose {
    /// As it was given.
    pub text: String,
    /// The names it may stand for, in the order a stub resolver tries them.
    pub candidates: Vec<Name>,
}

/// How far a diagnosis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// This many servers and names will be examined.
    Begun(usize),
    /// One of them is done.
    Done(String),
}

/// Why a diagnosis cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The roots of a group cannot be read.
    #[error(transparent)]
    TlsCa(#[from] UpstreamError),
    /// They can be read, but are no valid roots.
    #[error("upstreams.{group}.tls_ca: {source}")]
    Roots {
        /// The group.
        group: Arc<str>,
        /// Why.
        source: rustls::Error,
    },
}

/// The result of one task.
enum Piece {
    Server(usize, usize, Box<ServerReport>),
    Name(usize, Box<NameReport>),
}

/// The roots that a group trusts.
type Roots = HashMap<Arc<str>, Arc<RootCertStore>>;

/// Runs the diagnosis. It always ends within its deadline.
///
/// # Errors
/// If the configuration's roots cannot be used.
pub async fn diagnose(
    order: Order,
    progress: Option<UnboundedSender<Progress>>,
) -> Result<Diagnosis, OrderError> {
    let started = Instant::now();
    let pace = QueryLimits {
        tries: order.tries.max(1),
        timeout: order.timeout,
        deadline: started + order.deadline,
    };
    let mut config = order.config;
    let roots = roots_of(&config)?;
    let lines = |group: &GroupConfig| lines_of(group, &roots, pace);
    named::resolve(&mut config, lines).await;
    let config = Arc::new(config);
    let directory = Arc::new(Directory {
        routes: Routes::new(&config),
        lines: config.groups.iter().map(lines).collect(),
        config: Arc::clone(&config),
        patience: order.patience,
    });
    let mut pieces = JoinSet::new();
    let examined = match order.scope {
        Scope::Everything => &config.groups[..],
        Scope::Names => &[],
    };
    for (index, group) in examined.iter().enumerate() {
        for (number, line) in directory.lines[index].iter().enumerate() {
            let examination = Arc::new(examination(&config, index, group, line));
            let report = async move { Box::new(examination.run().await) };
            pieces.spawn(async move { Piece::Server(index, number, report.await) });
        }
    }
    for (number, subject) in order.names.into_iter().enumerate() {
        let (directory, https) = (Arc::clone(&directory), order.https.clone());
        pieces.spawn(async move {
            let report = name_report(&directory, subject, https, pace).await;
            Piece::Name(number, Box::new(report))
        });
    }
    let (servers, names) = gather(pieces, examined.len(), progress).await;
    let groups = examined.iter().zip(servers).enumerate();
    let mut groups: Vec<_> = groups
        .map(|(index, (group, servers))| group_report(&config, index, group, servers))
        .collect();
    judgement::credit(&mut groups, &names);
    let evidence = Evidence {
        config: &config,
        groups: &groups,
        names: &names,
        node_name: order.node_name.as_deref(),
    };
    let (complete, findings) = (evidence.is_complete(), evidence.findings());
    Ok(Diagnosis {
        version: FORMAT,
        verdict: judgement::verdict(&findings),
        took: started.elapsed(),
        complete,
        groups,
        names,
        findings,
    })
}

/// Waits for all pieces; returns the servers of each group and the names, in their order.
async fn gather(
    mut pieces: JoinSet<Piece>,
    groups: usize,
    progress: Option<UnboundedSender<Progress>>,
) -> (Vec<Vec<ServerReport>>, Vec<NameReport>) {
    let tell = |what| {
        if let Some(progress) = &progress {
            // The receiver may be gone; then nobody needs the progress.
            let _ = progress.send(what);
        }
    };
    tell(Progress::Begun(pieces.len()));
    let mut servers = vec![BTreeMap::new(); groups];
    let mut names = BTreeMap::new();
    while let Some(piece) = pieces.join_next().await {
        match piece {
            Ok(Piece::Server(index, number, report)) => {
                tell(Progress::Done(report.server.clone()));
                servers[index].insert(number, *report);
            }
            Ok(Piece::Name(number, report)) => {
                tell(Progress::Done(report.name.clone()));
                names.insert(number, *report);
            }
            // Tasks are never cancelled; a panic was printed already.
            Err(error) => tracing::error!(%error, "a part of the diagnosis failed"),
        }
    }
    let in_order = |servers: BTreeMap<usize, ServerReport>| servers.into_values().collect();
    (
        servers.into_iter().map(in_order).collect(),
        names.into_values().collect(),
    )
}

fn lines_of(group: &GroupConfig, roots: &Roots, pace: QueryLimits) -> Vec<ServerPath> {
    let none = || Arc::new(RootCertStore::empty());
    let roots = roots.get(&group.name).map_or_else(none, Arc::clone);
    let line = |server: &ServerConfig| ServerPath {
        server: server.clone(),
        roots: Arc::clone(&roots),
        pace,
    };
    group.servers.iter().map(line).collect()
}

fn roots_of(config: &Config) -> Result<Roots, OrderError> {
    let mut all = Roots::new();
    for group in &config.groups {
        let name = || Arc::clone(&group.name);
        let extra = own_roots(group, config)?;
        let roots = trusted_roots(&extra).map_err(|source| OrderError::Roots {
            group: name(),
            source,
        })?;
        all.insert(name(), Arc::new(roots));
    }
    Ok(all)
}

/// Zones of the routes that lead to a group, the shortest first.
fn zones_of(config: &Config, index: usize) -> Vec<Name> {
    let routes = config.routes.iter();
    let leading = routes.filter(|route| route.tiers.contains(&index));
    let mut zones: Vec<_> = leading.map(|route| route.zone.to_lowercase()).collect();
    zones.sort_by_key(|zone| (zone.num_labels(), zone.to_ascii()));
    zones
}

fn probe_of(group: &GroupConfig) -> Inquiry {
    Inquiry::new(group.probe.name.clone(), group.probe.record_type)
}

fn examination(
    config: &Config,
    index: usize,
    group: &GroupConfig,
    line: &ServerPath,
) -> Examination {
    let shortest = zones_of(config, index).into_iter().next();
    let below_root = shortest.filter(|zone| !zone.is_root());
    Examination {
        line: line.clone(),
        probe: probe_of(group),
        apex: below_root.map(|zone| Inquiry::new(zone, RecordType::SOA)),
    }
}

fn group_report(
    config: &Config,
    index: usize,
    group: &GroupConfig,
    servers: Vec<ServerReport>,
) -> GroupReport {
    let unresolved = group.sources.iter().filter(|source| match source {
        ServerSource::Address(_) => false,
        ServerSource::Host(named) => named.addresses.is_empty(),
    });
    GroupReport {
        group: group.name.to_string(),
        zones: zones_of(config, index).iter().map(Name::to_ascii).collect(),
        probe: question_text(&probe_of(group)),
        servers,
        unresolved: unresolved.map(ToString::to_string).collect(),
    }
}

async fn name_report(
    directory: &Arc<Directory>,
    subject: NameToDiagnose,
    https: Option<HttpsCheck>,
    pace: QueryLimits,
) -> NameReport {
    let (name, sighting, search) = directory.search(&subject.candidates).await;
    let https = match https {
        // Clients name in the handshake what their users typed, whatever the search list made of it.
        Some(check) => {
            let typed = subject.text.trim_end_matches('.');
            check.run(typed, &sighting.client.addresses, pace).await
        }
        None => Vec::new(),
    };
    NameReport {
        name: subject.text,
        asked: name.to_ascii(),
        route: sighting.route,
        answered_here: sighting.answered_here,
        tiers: sighting.tiers,
        client: sighting.client,
        search,
        https,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An HTTP handler may wait for a diagnosis on any thread.
    #[test]
    fn a_diagnosis_can_be_sent_between_threads() {
        fn is_send(_: &impl Send) {}
        let config = Config::from_yaml("upstreams: {g: {servers: [127.0.0.1]}}").expect("valid");
        let order = Order {
            config,
            scope: Scope::Names,
            names: Vec::new(),
            tries: 1,
            timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(1),
            https: None,
            patience: None,
            node_name: None,
        };
        is_send(&diagnose(order, None));
    }

    #[tokio::test]
    async fn names_alone_are_asked_for_where_servers_are_not_examined() {
        // Nobody listens there.
        let yaml = "upstreams: {g: {servers: [\"127.88.2.1:9\"]}}";
        let name = Name::from_ascii("www.example.").expect("a name");
        let order = Order {
            config: Config::from_yaml(yaml).expect("valid"),
            scope: Scope::Names,
            names: vec![NameToDiagnose {
                text: "www.example".to_owned(),
                candidates: vec![name],
            }],
            tries: 5,
            timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
            https: None,
            patience: None,
            node_name: None,
        };
        let diagnosis = diagnose(order, None).await.expect("no roots to read");
        assert!(diagnosis.groups.is_empty());
        let answers = &diagnosis.names[0].tiers[0].answers;
        assert!(
            answers
                .iter()
                .all(|answer| answer.failure == Some(report::Trouble::Refused))
        );
        let kinds: Vec<_> = diagnosis
            .findings
            .iter()
            .map(|finding| finding.kind)
            .collect();
        assert_eq!(kinds, [report::Fault::NameNotResolved]);
    }
}
