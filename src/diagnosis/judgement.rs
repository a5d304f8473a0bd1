//! Derives findings, each with the next step, from the examinations. Pure: it sends no queries.
//!
//! One cause is one finding: a server whose answers have the wrong ID is not called silent as well. A fault of a server
//! degrades; only a group without any server that works, or a name without an answer, makes things unusable.

use std::net::IpAddr;

use super::report::{
    Agreement, AnswerReport, CertificateReport, CertificateTrouble, EXPIRES_SOON_DAYS, EdnsReport,
    Fault, Finding, GroupReport, Health, HttpsReport, Medium, NameAnswer, NameReport, NameResult,
    OfferResult, ServerReport, Strays, TierReport, TransportReport, Trouble,
};
use crate::config::{Config, GroupConfig};
use crate::message::wire::MAX_PAYLOAD;

/// What was heard.
pub(super) struct Evidence<'a> {
    pub(super) config: &'a Config,
    pub(super) groups: &'a [GroupReport],
    pub(super) names: &'a [NameReport],
    pub(super) node_name: Option<&'a str>,
}

/// What a finding is about.
#[derive(Debug, Clone, Default)]
struct FindingSubject {
    group: Option<String>,
    server: Option<String>,
    transport: Option<Medium>,
    name: Option<String>,
}

impl FindingSubject {
    fn group(group: &GroupReport) -> Self {
        Self {
            group: Some(group.group.clone()),
            ..Self::default()
        }
    }

    fn server(group: &GroupReport, server: &ServerReport) -> Self {
        Self {
            server: Some(server.server.clone()),
            ..Self::group(group)
        }
    }

    fn name(name: &NameReport) -> Self {
        Self {
            name: Some(name.name.clone()),
            ..Self::default()
        }
    }

    fn in_group(self, group: &str) -> Self {
        Self {
            group: Some(group.to_owned()),
            ..self
        }
    }

    fn at(self, server: &str) -> Self {
        Self {
            server: Some(server.to_owned()),
            ..self
        }
    }

    fn over(self, transport: Medium) -> Self {
        Self {
            transport: Some(transport),
            ..self
        }
    }

    fn is(self, kind: Fault, problem: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            kind,
            severity: Health::Degraded,
            group: self.group,
            server: self.server,
            transport: self.transport,
            name: self.name,
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

impl Finding {
    fn unusable(self) -> Self {
        Self {
            severity: Health::Unusable,
            ..self
        }
    }
}

/// The worst of all.
pub(super) fn verdict(findings: &[Finding]) -> Health {
    let severities = findings.iter().map(|finding| finding.severity);
    severities.max().unwrap_or(Health::Healthy)
}

/// A server that answers queries for names works, even if it refuses the probe question.
pub(super) fn credit(groups: &mut [GroupReport], names: &[NameReport]) {
    for group in groups {
        for server in &mut group.servers {
            let answered = names
                .iter()
                .flat_map(|name| &name.tiers)
                .filter(|tier| tier.group == group.group)
                .flat_map(|tier| &tier.answers)
                .any(|answer| answer.server == server.server && is_final(answer));
            let reached = server
                .transports
                .first()
                .is_some_and(|first| first.reachable);
            server.working |= answered && reached;
        }
    }
}

impl Evidence<'_> {
    /// Whether everything was asked before the deadline.
    pub(super) fn is_complete(&self) -> bool {
        let late = |trouble: Option<Trouble>| trouble == Some(Trouble::OutOfTime);
        let servers = self.groups.iter().flat_map(|group| &group.servers);
        let mut transports = servers.flat_map(|server| &server.transports);
        let answers = self.names.iter().flat_map(|name| &name.tiers);
        let mut answers = answers.flat_map(|tier| &tier.answers);
        let mut https = self.names.iter().flat_map(|name| &name.https);
        !transports.any(|transport| late(transport.failure))
            && !answers.any(|answer| late(answer.failure))
            && !https.any(|report| late(report.failure))
    }

    /// All there are, the worst first.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.has_no_network() {
            let problem = "there is no route to any server from here";
            let advice = "look at its interfaces and routes (`ip route`); in a pod, at the CNI plugin's log.";
            findings.push(
                FindingSubject::default()
                    .is(Fault::NoNetwork, problem, advice)
                    .unusable(),
            );
        } else {
            for (group, config) in self.groups.iter().zip(&self.config.groups) {
                self.judge_group(group, config, &mut findings);
            }
            for name in self.names {
                judge_name(name, &mut findings);
            }
        }
        if !self.is_complete() {
            let problem = "the deadline was over before everything was asked";
            let advice = "give it more time with --deadline.";
            findings.push(FindingSubject::default().is(Fault::OutOfTime, problem, advice));
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    fn has_no_network(&self) -> bool {
        let servers = self.groups.iter().flat_map(|group| &group.servers);
        let mut transports = servers.flat_map(|server| &server.transports).peekable();
        transports.peek().is_some()
            && transports.all(|transport| transport.failure == Some(Trouble::NoRoute))
    }

    fn judge_group(&self, group: &GroupReport, config: &GroupConfig, findings: &mut Vec<Finding>) {
        for written in &group.unresolved {
            let subject = FindingSubject::group(group).at(written);
            findings.push(subject.is(
                Fault::ServerNameUnresolved,
                "its name has no address",
                "look the name up with the group behind @, or write the server's address.",
            ));
        }
        for server in &group.servers {
            let subject = FindingSubject::server(group, server);
            let transport = ServerFindings { subject, server };
            findings.extend(transport.findings());
            findings.extend(slowness(group, server, config));
            if let Some(first) = server.transports.first()
                && first.reachable
                && first.loss_percent > f64::from(config.failover.poor_loss_percent)
            {
                findings.push(loss(group, server, first));
            }
            if self.node_name.is_some()
                && server.identity.as_deref() == self.node_name
                && server.software.as_deref().is_some_and(is_nodens)
            {
                findings.push(FindingSubject::server(group, server).is(
                    Fault::Loop,
                    "it is the nodens of this node: queries would go round in a circle",
                    "name a server that does not forward to this node's address.",
                ));
            }
        }
        if !group.servers.iter().any(|server| server.working) {
            findings.push(group_down(group));
        }
    }
}

fn is_nodens(software: &str) -> bool {
    software.starts_with("nodens ")
}

fn group_down(group: &GroupReport) -> Finding {
    let zones = match &group.zones[..] {
        [] => "no route leads to it".to_owned(),
        zones => format!("nothing below {} can be resolved", zones.join(", ")),
    };
    let problem = match group.servers.len() {
        0 => format!("it has no server with an address: {zones}"),
        1 => format!("its only server does not work: {zones}"),
        count => format!("none of its {count} servers works: {zones}"),
    };
    let advice =
        "see what is said of each server; a route with a second tier goes on to other servers.";
    FindingSubject::group(group)
        .is(Fault::GroupDown, problem, advice)
        .unusable()
}

fn loss(group: &GroupReport, server: &ServerReport, transport: &TransportReport) -> Finding {
    let lost = transport.sent - transport.answered;
    let problem = format!(
        "{lost} of {} queries got no answer ({} %)",
        transport.sent, transport.loss_percent
    );
    let advice = "compare with another node: if all lose, look at the server's load and rate limits, else at this node's \
                  network and connection tracking table.";
    FindingSubject::server(group, server)
        .over(transport.transport)
        .is(Fault::Loss, problem, advice)
}

/// Slower than the longest hedge delay, so that every query asks a second server too, or much slower than another.
fn slowness(group: &GroupReport, server: &ServerReport, config: &GroupConfig) -> Option<Finding> {
    let median = |server: &ServerReport| Some(server.transports.first()?.rtt_ms?.median);
    let own = median(server)?;
    let others = group
        .servers
        .iter()
        .filter(|other| other.server != server.server);
    let fastest = others
        .filter_map(median)
        .min_by(f64::total_cmp)
        .filter(|&fastest| {
            let failover = &config.failover;
            own - fastest > failover.poor_slower_by.as_secs_f64() * 1e3
                && own > fastest * f64::from(failover.poor_slower_factor)
        });
    let always = config.failover.hedge_max.as_secs_f64() * 1e3;
    let problem = match fastest {
        Some(fastest) => format!("it takes {own:.0} ms, the fastest of its group {fastest:.1} ms"),
        None if own > always => {
            format!("it takes {own:.0} ms: most queries will also ask a second server")
        }
        None => return None,
    };
    let advice =
        "look at its load, and at what it has to ask itself; put a nearer server in front of it.";
    let transport = server.transports.first()?.transport;
    let subject = FindingSubject::server(group, server).over(transport);
    Some(subject.is(Fault::Slow, problem, advice))
}

/// A server and its findings.
struct ServerFindings<'a> {
    subject: FindingSubject,
    server: &'a ServerReport,
}

impl ServerFindings<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let Some(first) = self.server.transports.first() else {
            return findings;
        };
        let tcp = self.server.transports.get(1);
        findings.extend(self.strays(first));
        if !first.reachable && findings.is_empty() {
            findings.extend(self.unreached(first, tcp));
        }
        if first.reachable {
            findings.extend(self.without_tcp(tcp));
            findings.extend(self.edns());
            findings.extend(self.large(first));
        }
        if let Some(answer) = &self.server.answer {
            findings.extend(self.answer(answer));
        }
        if let Some(certificate) = &self.server.certificate
            && certificate.trouble.is_none()
            && let Some(problem) = ends_soon(certificate)
        {
            let advice = "have it renewed.";
            findings.push(self.is(Fault::CertificateExpiresSoon, problem, advice));
        }
        findings
    }

    fn is(&self, kind: Fault, problem: impl Into<String>, advice: &str) -> Finding {
        self.subject.clone().is(kind, problem, advice)
    }

    fn over(&self, medium: Medium, kind: Fault, problem: String, advice: &str) -> Finding {
        self.subject.clone().over(medium).is(kind, problem, advice)
    }

    /// Messages that answered nothing.
    fn strays(&self, transport: &TransportReport) -> Vec<Finding> {
        let Strays {
            wrong_id,
            wrong_question,
            malformed,
            wrong_source,
        } = transport.strays;
        let mut findings = Vec::new();
        let medium = transport.transport;
        if wrong_id + wrong_question > 0 {
            let problem = format!(
                "{wrong_id} answers had another ID than the query, {wrong_question} answered another question"
            );
            let advice = "do not use it: somebody forges answers, or it mixes up its clients; look at what is between it \
                          and here (`tcpdump port 53`).";
            findings.push(self.over(medium, Fault::WrongAnswers, problem, advice));
        }
        if malformed > 0 {
            let problem = format!("{malformed} messages came that are no well-formed responses");
            let advice = "see that a DNS server listens there, and nothing else; then look for what changes its answers on \
                          the way.";
            findings.push(self.over(medium, Fault::Malformed, problem, advice));
        }
        if wrong_source > 0 {
            let problem =
                format!("{wrong_source} answers came from another address than was asked");
            let advice = "have it answer from the address that was asked (`interface` settings, asymmetric NAT): stub \
                          resolvers and nodens ignore others.";
            findings.push(self.over(medium, Fault::WrongSource, problem, advice));
        }
        findings
    }

    /// Why there was no answer over the transport that queries take.
    fn unreached(&self, first: &TransportReport, tcp: Option<&TransportReport>) -> Option<Finding> {
        let medium = first.transport;
        let text = first.failure_text.clone().unwrap_or_default();
        let tcp_answers = tcp.is_some_and(|tcp| tcp.reachable);
        Some(match first.failure? {
            Trouble::OutOfTime => return None,
            Trouble::Refused => {
                let problem = match tcp {
                    Some(tcp) if tcp.failure == Some(Trouble::Refused) => {
                        "connection refused over UDP and TCP: the host is there, and nobody listens"
                            .to_owned()
                    }
                    Some(_) => format!("port unreachable over UDP ({text}); {}", beside(tcp)),
                    None => "connection refused: the host is there, and nobody listens".to_owned(),
                };
                let advice = "start the DNS server there, or mend address and port; with a Service, see that it has \
                              endpoints (`kubectl get endpointslices`).";
                self.over(medium, Fault::Refused, problem, advice)
            }
            Trouble::Unreachable | Trouble::NoRoute | Trouble::NotPermitted | Trouble::NoSocket => {
                let advice =
                    "look at routes, network policies and firewalls between here and the server.";
                self.over(medium, Fault::Unreachable, text, advice)
            }
            Trouble::Silence | Trouble::Closed if tcp_answers => {
                let problem = "it answers over TCP, not over UDP".to_owned();
                let advice =
                    "allow UDP port 53 in both directions, or write the server as tcp://ADDRESS.";
                self.over(Medium::Udp, Fault::TcpOnly, problem, advice)
            }
            Trouble::Closed => {
                let problem = format!("no answer over {}: {text}", medium_text(medium));
                let advice = "something accepts connections there and ends them: see that it is a DNS server, and that it \
                              lets this host ask (its access list, its limit of connections).";
                self.is(Fault::NoAnswer, problem, advice)
            }
            Trouble::Silence => {
                let what = match (medium, tcp) {
                    (Medium::Udp, Some(other)) if other.failure == Some(Trouble::Silence) => {
                        "no answer over UDP or TCP from here".to_owned()
                    }
                    (Medium::Udp, Some(_)) => {
                        format!("no answer over UDP from here; {}", beside(tcp))
                    }
                    (_, _) => format!("no answer over {}: {text}", medium_text(medium)),
                };
                let advice = "if it answers on the node, pods cannot reach it: nodens must run with hostNetwork. Else look \
                              at the server, and at firewalls and network policies on the way.";
                self.is(Fault::NoAnswer, what, advice)
            }
            Trouble::Certificate => self.certificate(&text),
            Trouble::Tls => {
                let problem = format!("TLS: {text}");
                let advice =
                    "see that the port is that of TLS, and that the server speaks TLS 1.2 or 1.3.";
                self.over(medium, Fault::TlsFailed, problem, advice)
            }
            Trouble::Http => {
                let problem = format!("HTTP: {text}");
                let advice = "see that the path is right (often /dns-query), and that the server speaks HTTP/2.";
                self.over(medium, Fault::HttpFailed, problem, advice)
            }
        })
    }

    fn certificate(&self, text: &str) -> Finding {
        let trouble = self.server.certificate.as_ref();
        let (kind, advice) = match trouble.and_then(|certificate| certificate.trouble) {
            Some(CertificateTrouble::WrongName) => (
                Fault::CertificateWrongName,
                "write the name that the certificate has behind #, or have it issued for this one.",
            ),
            Some(CertificateTrouble::Expired) => (Fault::CertificateExpired, "have it renewed."),
            Some(CertificateTrouble::NotYetValid) => (
                Fault::CertificateExpired,
                "compare this host's clock with the server's.",
            ),
            Some(CertificateTrouble::Unusable) => (
                Fault::CertificateUntrusted,
                "give the server another certificate: no root in tls_ca makes this one good.",
            ),
            _ => (
                Fault::CertificateUntrusted,
                "name the root that it leads to in the group's tls_ca; where that is done, have the server send the \
                 certificates in between as well.",
            ),
        };
        self.is(kind, text, advice)
    }

    /// A server that answers over UDP has to answer over TCP as well (RFC 7766 §5).
    fn without_tcp(&self, tcp: Option<&TransportReport>) -> Option<Finding> {
        let tcp = tcp?;
        let answer = self.server.answer.as_ref();
        let truncated = answer.is_some_and(|answer| answer.truncated);
        if tcp.reachable {
            let octets = answer.and_then(|answer| answer.octets_over_tcp);
            if truncated && octets.is_none() {
                return Some(self.truncated_over_tcp(Medium::Tcp));
            }
            let octets = octets?;
            if octets > usize::from(MAX_PAYLOAD) {
                return None;
            }
            let problem = format!(
                "it truncates an answer of {octets} octets, which would fit: each query takes a second one over TCP"
            );
            let advice = "look at its rate limits (RRL), and at what is between it and here.";
            return Some(self.over(Medium::Udp, Fault::NeedlessTruncation, problem, advice));
        }
        if tcp.failure == Some(Trouble::OutOfTime) {
            return None;
        }
        let why = tcp.failure_text.clone().unwrap_or_default();
        let advice =
            "allow TCP port 53 (RFC 7766): answers that are too large for UDP come that way.";
        Some(if truncated {
            let problem = format!("it truncates its answers, and gives none over TCP: {why}");
            self.over(Medium::Tcp, Fault::TruncatedWithoutTcp, problem, advice)
        } else {
            let problem = format!("it answers over UDP, not over TCP: {why}");
            self.over(Medium::Tcp, Fault::UdpOnly, problem, advice)
        })
    }

    fn truncated_over_tcp(&self, medium: Medium) -> Finding {
        let problem =
            "it truncates its answers over TCP, too: nobody can have them whole".to_owned();
        let advice = "look at what is between it and here: over TCP, no answer is too long.";
        self.over(medium, Fault::TruncatedWithoutTcp, problem, advice)
    }

    fn edns(&self) -> Option<Finding> {
        let medium = self.server.transports.first()?.transport;
        Some(match &self.server.edns {
            EdnsReport::Refused(code) => {
                let problem =
                    format!("it says {code} to queries with EDNS, and answers those without");
                let advice = "nodens asks it without EDNS; update the server or the firewall in front of it (RFC 6891).";
                self.over(medium, Fault::EdnsRefused, problem, advice)
            }
            EdnsReport::Ignored => {
                let problem =
                    "it is silent to queries with EDNS, and answers those without".to_owned();
                let advice = "a firewall in front of it drops EDNS: update it (RFC 6891). nodens asks it without, as soon \
                              as it has found out.";
                self.over(medium, Fault::EdnsIgnored, problem, advice)
            }
            EdnsReport::Understood | EdnsReport::LeftOut | EdnsReport::Unknown => return None,
        })
    }

    fn large(&self, udp: &TransportReport) -> Option<Finding> {
        let large = self.server.large.as_ref()?;
        // If datagrams are lost anyway, a missing answer to a large payload size proves nothing.
        if udp.loss_percent > 0.0 {
            return None;
        }
        let lost = large
            .offers
            .iter()
            .find(|offer| offer.result == OfferResult::Silence)?;
        let mut before = large
            .offers
            .iter()
            .filter(|offer| offer.offered < lost.offered && offer.result != OfferResult::Silence);
        let through = before.next_back()?;
        let problem = format!(
            "no answer came over UDP when {} octets were offered, when {} were it came",
            lost.offered, through.offered
        );
        let advice = "fragments or large packets are lost on the way: compare the MTU of both ends (`ping -M do -s 1372`), and \
                      have the server send at most 1232 octets.";
        Some(self.over(Medium::Udp, Fault::LargeAnswersLost, problem, advice))
    }

    fn answer(&self, answer: &AnswerReport) -> Option<Finding> {
        let question = &answer.question;
        let useful = answer.rcode == "NOERROR" || answer.rcode == "NXDOMAIN";
        if !useful {
            let problem = format!("it says {} to {question}", answer.rcode);
            let advice = "allow this host's address in its access list; if it only serves zones of its own, give it routes \
                          of theirs, and the group a `probe` that it answers.";
            return Some(self.is(Fault::Refuses, problem, advice));
        }
        let medium = self.server.transports.first()?.transport;
        if answer.truncated && medium != Medium::Udp {
            return Some(self.truncated_over_tcp(medium));
        }
        let resolves = answer.recursion || answer.authoritative;
        if answer.referral || !resolves {
            let problem = format!(
                "it does not resolve for others: its answer to {question} {}",
                if answer.referral {
                    "points to other servers"
                } else {
                    "says that recursion is not available"
                }
            );
            let advice = "allow recursion for this host's address, or use a server that resolves.";
            return Some(self.is(Fault::NoRecursion, problem, advice));
        }
        None
    }
}

/// Findings about a server that answers over TCP and not over UDP.
fn beside(tcp: Option<&TransportReport>) -> String {
    match tcp {
        Some(tcp) if tcp.reachable => "it answers over TCP".to_owned(),
        Some(tcp) => format!("TCP: {}", tcp.failure_text.clone().unwrap_or_default()),
        None => String::new(),
    }
}

fn medium_text(medium: Medium) -> &'static str {
    match medium {
        Medium::Udp => "UDP",
        Medium::Tcp => "TCP",
        Medium::Tls => "TLS",
        Medium::Https => "HTTPS",
    }
}

fn ends_soon(certificate: &CertificateReport) -> Option<String> {
    let days = certificate
        .days_left
        .filter(|&days| days < EXPIRES_SOON_DAYS)?;
    Some(format!("its certificate expires in {days} days"))
}

fn is_final(answer: &NameAnswer) -> bool {
    !matches!(answer.result, NameResult::Failure | NameResult::NoAnswer)
}

fn judge_name(name: &NameReport, findings: &mut Vec<Finding>) {
    let before = findings.len();
    findings.extend(between_tiers(name));
    let hidden = findings.len() > before && findings[before].kind == Fault::HiddenByTier;
    if name.client.result != NameResult::Addresses && !hidden {
        findings.extend(unresolved(name));
    }
    for tier in &name.tiers {
        judge_tier(name, tier, findings);
    }
    for report in &name.https {
        findings.extend(https(name, report));
    }
}

fn unresolved(name: &NameReport) -> Option<Finding> {
    let answers = name.tiers.iter().flat_map(|tier| &tier.answers);
    if answers.clone().count() > 0
        && answers
            .clone()
            .all(|answer| answer.failure == Some(Trouble::OutOfTime))
    {
        return None;
    }
    let subject = FindingSubject::name(name);
    if name.route.is_none() && !name.answered_here {
        let problem = "no route holds it: clients get REFUSED";
        let advice = "add a route for its zone, or one for \".\".";
        return Some(subject.is(Fault::NoRoute, problem, advice).unusable());
    }
    let here = if name.answered_here {
        ", by the configuration"
    } else {
        ""
    };
    let (problem, advice) = match name.client.result {
        NameResult::Nxdomain => (
            format!("it does not exist{here} (NXDOMAIN)"),
            "check its spelling and the search list; an internal name needs a route to the servers that know it.",
        ),
        NameResult::Nodata => (
            format!("it exists, without addresses{here} (NODATA)"),
            "see at its owner's whether it has A or AAAA records.",
        ),
        NameResult::Failure => (
            format!("no server of its route could answer{here}"),
            "see what each server says about it; if others resolve it, the servers' way to its owner's is broken.",
        ),
        NameResult::NoAnswer | NameResult::Addresses => (
            "no server of its route answered".to_owned(),
            "see what is said of these servers; if they answer other names, the way to its owner's is broken.",
        ),
    };
    Some(
        subject
            .is(Fault::NameNotResolved, problem, advice)
            .unusable(),
    )
}

/// A tier's answers: the first final one for each type.
fn tier_result(tier: &TierReport) -> Option<NameResult> {
    let results: Vec<_> = tier
        .answers
        .iter()
        .filter(|answer| is_final(answer))
        .map(|answer| answer.result)
        .collect();
    let has = |wanted| results.contains(&wanted);
    [
        NameResult::Addresses,
        NameResult::Nxdomain,
        NameResult::Nodata,
    ]
    .into_iter()
    .find(|&wanted| has(wanted))
}

fn between_tiers(name: &NameReport) -> Option<Finding> {
    let mut tiers = name
        .tiers
        .iter()
        .filter_map(|tier| Some((tier, tier_result(tier)?)));
    let (first, says) = tiers.next()?;
    let knows = says == NameResult::Addresses;
    let (other, _) = tiers.find(|(_, other)| (*other == NameResult::Addresses) != knows)?;
    let subject = FindingSubject::name(name).in_group(&other.group);
    Some(if knows {
        let problem = format!(
            "group {} has it, group {} of a later tier denies it: clients are told so when the first does not answer",
            first.group, other.group
        );
        let advice = "put groups that know the same names into one route; give this name's zone a route of its own.";
        subject.is(Fault::DeniedByLaterTier, problem, advice)
    } else {
        let problem = format!(
            "group {} denies it, which is final: that group {} of a later tier has it helps nobody",
            first.group, other.group
        );
        let advice = "give its zone a route to the group that knows it.";
        subject.is(Fault::HiddenByTier, problem, advice).unusable()
    })
}

/// Names of servers, each once.
fn servers(answers: &[&NameAnswer]) -> String {
    let mut names: Vec<&str> = answers
        .iter()
        .map(|answer| answer.server.as_str())
        .collect();
    names.dedup();
    names.join(", ")
}

fn judge_tier(name: &NameReport, tier: &TierReport, findings: &mut Vec<Finding>) {
    let of = |wanted: NameResult| -> Vec<&NameAnswer> {
        let answers = tier.answers.iter();
        answers.filter(|answer| answer.result == wanted).collect()
    };
    let (having, denying) = (of(NameResult::Addresses), of(NameResult::Nxdomain));
    let subject = || FindingSubject::name(name).in_group(&tier.group);
    if !denying.is_empty() && (!having.is_empty() || !of(NameResult::Nodata).is_empty()) {
        let known = tier
            .answers
            .iter()
            .filter(|answer| matches!(answer.result, NameResult::Addresses | NameResult::Nodata));
        let known: Vec<_> = known.collect();
        let problem = format!(
            "{} say that it does not exist, {} know it",
            servers(&denying),
            servers(&known)
        );
        let advice = "servers of one group must know the same names: put those that do not know it into a group of their own.";
        findings.push(subject().is(Fault::KnownInPart, problem, advice));
    } else if let Some(problem) = contradiction(tier, &having) {
        let advice = "servers of one group must have one view: put them into groups of their own, or mend the zone at those that \
                      are behind.";
        findings.push(subject().is(Fault::ServersDisagree, problem, advice));
    }
    for (server, problem) in failures(tier) {
        // A finding of the server's examination explains it already.
        let explained = findings.iter().any(|finding| {
            matches!(finding.kind, Fault::Refuses | Fault::Loss)
                && finding.server.as_deref() == Some(server)
        });
        if !explained {
            let advice =
                "look at its log: it cannot reach the name's owner, or refuses its zone or type.";
            let finding = subject().at(server).is(Fault::FailsName, problem, advice);
            findings.push(finding);
        }
    }
}

/// Servers that fail for a name, or do not answer one of its types, while others answer: each once, with its fault.
fn failures(tier: &TierReport) -> Vec<(&str, String)> {
    let mut failures: Vec<(&str, String)> = Vec::new();
    let answers_something = |server: &str| {
        let mut own = tier.answers.iter().filter(|answer| answer.server == server);
        own.any(is_final)
    };
    let somebody_answers = tier.answers.iter().any(is_final);
    for answer in &tier.answers {
        let (server, what) = (answer.server.as_str(), &answer.record_type);
        let problem = match answer.result {
            NameResult::Failure if somebody_answers => {
                let code = answer.rcode.as_deref().unwrap_or("nothing");
                format!("it says {code} to {what}, other questions about the name are answered")
            }
            // A server that answers nothing is reported by its own examination.
            NameResult::NoAnswer
                if answer.failure == Some(Trouble::Silence) && answers_something(server) =>
            {
                format!("it is silent to {what}, and answers other questions about the name")
            }
            _ => continue,
        };
        if failures.iter().all(|(known, _)| *known != server) {
            failures.push((server, problem));
        }
    }
    failures
}

/// Contradictions between servers that all know a name: one has addresses of a family of which another has none, or
/// private addresses where another has public ones.
fn contradiction(tier: &TierReport, having: &[&NameAnswer]) -> Option<String> {
    if tier.agreement == Agreement::Conflict {
        let lacking = tier.answers.iter().find(|answer| {
            answer.result == NameResult::Nodata
                && having
                    .iter()
                    .any(|other| other.record_type == answer.record_type)
        })?;
        let of_type: Vec<_> = having
            .iter()
            .copied()
            .filter(|other| other.record_type == lacking.record_type)
            .collect();
        return Some(format!(
            "{} has no {} record, {} have",
            lacking.server,
            lacking.record_type,
            servers(&of_type)
        ));
    }
    let inside = |answer: &&&NameAnswer| answer.addresses.iter().all(|&ip| is_private(ip));
    let outside = |answer: &&&NameAnswer| !answer.addresses.iter().any(|&ip| is_private(ip));
    let (inside, outside) = (having.iter().find(inside)?, having.iter().find(outside)?);
    (inside.record_type == outside.record_type).then(|| {
        format!(
            "{} has private addresses for it, {} public ones",
            inside.server, outside.server
        )
    })
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn https(name: &NameReport, report: &HttpsReport) -> Option<Finding> {
    let subject = FindingSubject::name(name)
        .at(&report.address.to_string())
        .over(Medium::Https);
    let text = report.failure_text.clone().unwrap_or_default();
    Some(match report.failure {
        None => {
            let problem = ends_soon(report.certificate.as_ref()?)?;
            subject.is(Fault::HttpsCertificate, problem, "have it renewed.")
        }
        Some(Trouble::OutOfTime) => return None,
        Some(Trouble::Certificate) => subject.is(
            Fault::HttpsCertificate,
            text,
            "compare the certificate's names with this one, and its issuer with the roots that clients have; --ca-file adds one.",
        ),
        Some(Trouble::Tls | Trouble::Closed | Trouble::Http) => subject.is(
            Fault::HttpsFailed,
            format!("it accepts connections, and TLS fails: {text}"),
            "see that the port is that of HTTPS; a proxy or firewall on the way may end TLS.",
        ),
        Some(Trouble::Silence) if report.connect_ms.is_some() => subject.is(
            Fault::HttpsFailed,
            "it accepts connections, and is silent to TLS",
            "look at the server's load, and at the MTU on the way: a handshake's packets are large.",
        ),
        Some(_) => subject.is(
            Fault::HttpsUnreachable,
            format!("no connection: {text}"),
            "DNS has done its part: look at the server, at egress policies and at firewalls.",
        ),
    })
}
