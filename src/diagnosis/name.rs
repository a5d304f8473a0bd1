//! The servers' answers for a name, and the result that a client gets.
//!
//! Owns the way of a name: route, tiers, servers, aliases. Every server of every tier is asked, unlike for a client's
//! query; the client's result follows from the answers by the rules of failover. It is assumed that nodens knows
//! already which servers are silent; a stub resolver waits for each of them in every query. Limits: wildcards of
//! `records`, DNS64 and caches are left out.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;

use super::asking::{Inquiry, ServerPath, Tried, Unheard};
use super::report::{
    Agreement, ClientReport, Medium, NameAnswer, NameResult, SearchReport, SearchStep, TierReport,
    Trouble, in_milliseconds,
};
use crate::config::{Config, OwnAnswer, StaticRecords};
use crate::message::form::may_refuse_form;
use crate::message::labels::rcode_label;
use crate::message::query::{Question, wire_name};
use crate::message::response::{Kind, Response};
use crate::message::wire::{rcode, rr};
use crate::upstream::routes::{Route, Routes};

/// Types that clients ask for.
const TYPES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];
/// How often a question that got no answer is asked again, in each form: where a fifth of all datagrams is lost, one name in
/// three thousand still gets none.
const AGAIN: usize = 2;
/// The most aliases that are followed: as many as nodens follows.
const ALIASES: u8 = crate::budgets::ALIAS_STEPS;

/// A configuration, to look names up by.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) config: Arc<Config>,
    pub(super) routes: Routes,
    /// The servers of each group.
    pub(super) lines: Vec<Vec<ServerPath>>,
    /// How long a client waits for a silent server before it asks the next one, if clients ask the servers themselves; none
    /// if nodens asks for them.
    pub(super) patience: Option<Duration>,
}

/// The result for one name.
#[derive(Debug, Clone)]
pub(super) struct Sighting {
    pub(super) route: Option<String>,
    pub(super) answered_here: bool,
    pub(super) tiers: Vec<TierReport>,
    pub(super) client: ClientReport,
}

impl Directory {
    /// Tries the names that a pod would, in their order, until one has addresses. Returns the last one's name, what
    /// became of it, and the search. The names are asked for at the same time, so that a silent server costs its
    /// timeout only once.
    pub(super) async fn search(
        self: &Arc<Self>,
        candidates: &[Name],
    ) -> (Name, Sighting, SearchReport) {
        let mut looks = JoinSet::new();
        for (number, name) in candidates.iter().cloned().enumerate() {
            let directory = Arc::clone(self);
            looks.spawn(async move { (number, directory.look(&name).await) });
        }
        let mut sightings = looks.join_all().await;
        sightings.sort_by_key(|(number, _)| *number);
        let mut search = SearchReport {
            steps: Vec::new(),
            queries: 0,
            ms: 0.0,
        };
        let mut last = (Name::root(), Sighting::nothing(None));
        for (number, sighting) in sightings {
            let name = &candidates[number];
            let client = &sighting.client;
            search.steps.push(SearchStep {
                name: name.to_ascii(),
                result: client.result,
                ms: client.ms,
            });
            search.queries += TYPES.len();
            search.ms += client.ms;
            // As glibc: silence ends the search, any answer without addresses goes on to the next name.
            let ends = matches!(client.result, NameResult::Addresses | NameResult::NoAnswer);
            last = (name.clone(), sighting);
            if ends {
                break;
            }
        }
        search.ms = (search.ms * 1e3).round() / 1e3;
        let (name, sighting) = last;
        (name, sighting, search)
    }

    /// Asks all servers about a name, and follows its aliases.
    async fn look(&self, name: &Name) -> Sighting {
        let mut first = self.look_once(name).await;
        let mut target = first.alias_of_client();
        let mut followed = 0;
        while let Some(alias) = target.take()
            && self.config.complete_cnames
            && followed < ALIASES
        {
            followed += 1;
            let next = self.look_once(&alias).await;
            target = next.alias_of_client();
            let ms = first.client.ms + next.client.ms;
            first.client = ClientReport { ms, ..next.client };
        }
        first
    }

    async fn look_once(&self, name: &Name) -> Sighting {
        let wire = wire_name(name);
        if let Some(addresses) = self.own_addresses(name) {
            return Sighting::here(None, &addresses, NameResult::Nodata);
        }
        let Some(index) = self.routes.find(&wire, rr::A) else {
            return Sighting::nothing(None);
        };
        let route = self.routes.get(index);
        match &route.answer {
            Some(OwnAnswer::Addresses(addresses)) => {
                return Sighting::here(Some(route), addresses, NameResult::Nodata);
            }
            Some(OwnAnswer::NxDomain) => {
                return Sighting::here(Some(route), &[], NameResult::Nxdomain);
            }
            Some(OwnAnswer::NoData) => return Sighting::here(Some(route), &[], NameResult::Nodata),
            Some(OwnAnswer::Refused) => {
                return Sighting::here(Some(route), &[], NameResult::Failure);
            }
            None => {}
        }
        let asked = outward(route, &wire).unwrap_or_else(|| name.clone());
        let mut tiers = JoinSet::new();
        for (place, &group) in route.tiers.iter().enumerate() {
            let (lines, asked) = (self.lines[group].clone(), asked.clone());
            let name = self.config.groups[group].name.to_string();
            tiers.spawn(async move { (place, ask_tier(name, &lines, &asked).await) });
        }
        let mut tiers = tiers.join_all().await;
        tiers.sort_by_key(|(place, _)| *place);
        let tiers: Vec<_> = tiers.into_iter().map(|(_, tier)| tier).collect();
        Sighting {
            route: Some(route.zone.clone()),
            answered_here: false,
            client: client(route, &tiers, self.patience),
            tiers,
        }
    }

    /// Addresses that `records` or `hosts` have for a name; none if they do not have the name.
    fn own_addresses(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let mut owned = self.config.records.iter().chain(&self.config.hosts.names);
        let of_name = |records: &&StaticRecords| records.name.to_lowercase() == name.to_lowercase();
        let records = owned.find(of_name).filter(|found| found.cname.is_none())?;
        let v4 = records.a.iter().copied().map(IpAddr::V4);
        let v6 = records.aaaa.iter().copied().map(IpAddr::V6);
        Some(v4.chain(v6).collect())
    }
}

/// The name that servers are asked for in place of one that the route rewrites.
fn outward(route: &Route, wire: &[u8]) -> Option<Name> {
    let rewrite = route.rewrite.as_ref()?;
    // Only the name of the key is used; type, class and flags are fillers.
    let key: Rc<[u8]> = [wire, &rr::A.to_be_bytes(), &rr::IN.to_be_bytes(), &[0]]
        .concat()
        .into();
    let outward = rewrite.outward(&key).ok()?;
    let mut labels = Vec::new();
    let mut rest = Question::of(&outward).name;
    while let [length, after @ ..] = rest
        && *length > 0
    {
        let (label, after) = after.split_at(usize::from(*length).min(after.len()));
        labels.push(label.to_vec());
        rest = after;
    }
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

async fn ask_tier(group: String, lines: &[ServerPath], name: &Name) -> TierReport {
    let mut asked = JoinSet::new();
    for (place, line) in lines.iter().enumerate() {
        for (number, record_type) in TYPES.into_iter().enumerate() {
            let (line, name) = (line.clone(), name.clone());
            asked.spawn(async move {
                let answer = ask_server(&line, &name, record_type).await;
                ((place, number), answer)
            });
        }
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
    TierReport {
        group,
        agreement: agreement(&answers),
        answers,
    }
}

/// Asks a server for one type, as nodens does: without EDNS if it refuses that, over TCP if the answer is truncated, and again
/// if nothing comes.
async fn ask_server(line: &ServerPath, name: &Name, record_type: RecordType) -> NameAnswer {
    let started = Instant::now();
    let inquiry = Inquiry::new(name.clone(), record_type);
    let plain = inquiry.with_edns(None);
    let mut tried = line.ask(&inquiry).await;
    match &tried.result {
        Ok(heard) if may_refuse_form(heard.rcode()) => tried = line.ask(&plain).await,
        Err(unheard) if unheard.trouble == Trouble::Silence => {
            tried = ask_again(line, [&inquiry, &plain]).await.unwrap_or(tried);
        }
        _ => {}
    }
    let truncated = |tried: &Tried| {
        tried
            .result
            .as_ref()
            .is_ok_and(super::asking::Heard::truncated)
    };
    if tried.medium == Medium::Udp && truncated(&tried) {
        tried = line.ask_over(Medium::Tcp, &inquiry).await;
    }
    name_answer(line, record_type, &tried, started.elapsed())
}

/// Asks in each of these forms, [`AGAIN`] times at once; the first answer, if there is one.
async fn ask_again(line: &ServerPath, forms: [&Inquiry; 2]) -> Option<Tried> {
    let mut tries = JoinSet::new();
    for inquiry in forms {
        for _ in 0..AGAIN {
            let (line, inquiry) = (line.clone(), inquiry.clone());
            tries.spawn(async move { line.ask(&inquiry).await });
        }
    }
    while let Some(tried) = tries.join_next().await {
        if let Ok(tried) = tried
            && tried.result.is_ok()
        {
            return Some(tried);
        }
    }
    None
}

fn name_answer(
    line: &ServerPath,
    record_type: RecordType,
    tried: &Tried,
    took: Duration,
) -> NameAnswer {
    let mut answer = NameAnswer {
        server: line.server.to_string(),
        record_type: record_type.to_string(),
        result: NameResult::NoAnswer,
        rcode: None,
        addresses: Vec::new(),
        alias: None,
        ttl: None,
        ms: in_milliseconds(took),
        transport: tried.medium,
        failure: None,
    };
    let heard = match &tried.result {
        Ok(heard) => heard,
        Err(Unheard { trouble, .. }) => {
            answer.failure = Some(*trouble);
            return answer;
        }
    };
    let code = heard.rcode();
    answer.rcode = Some(rcode_label(code).to_owned());
    let kind = Response::read(&heard.message).map(|response| response.kind());
    answer.result = match (code, kind) {
        (rcode::NXDOMAIN, _) => NameResult::Nxdomain,
        (rcode::NOERROR, Ok(Kind::Positive | Kind::Negative)) => NameResult::Nodata,
        _ => NameResult::Failure,
    };
    let Ok(message) = Message::from_vec(&heard.message) else {
        return answer;
    };
    for record in &message.answers {
        match &record.data {
            RData::A(address) => answer.addresses.push(address.0.into()),
            RData::AAAA(address) => answer.addresses.push(address.0.into()),
            RData::CNAME(target) => answer.alias = Some(target.0.to_ascii()),
            _ => continue,
        }
        answer.ttl = Some(answer.ttl.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
    }
    answer.addresses.sort_unstable();
    answer.addresses.dedup();
    // A target whose records the server sent is not reported.
    let open = answer.addresses.is_empty()
        && answer.result == NameResult::Nodata
        && message
            .authorities
            .iter()
            .all(|record| record.record_type() != RecordType::SOA);
    answer.alias = answer.alias.filter(|_| open);
    if !answer.addresses.is_empty() {
        answer.result = NameResult::Addresses;
    }
    answer
}

/// Whether servers that answered say the same, type by type.
fn agreement(answers: &[NameAnswer]) -> Agreement {
    let mut worst = Agreement::Unknown;
    for record_type in TYPES.map(|record_type| record_type.to_string()) {
        let of_type = answers
            .iter()
            .filter(|answer| answer.record_type == record_type);
        let final_ones: Vec<_> = of_type.filter(|answer| is_final(answer)).collect();
        let Some((first, others)) = final_ones
            .split_first()
            .filter(|(_, others)| !others.is_empty())
        else {
            continue;
        };
        let here = if others.iter().any(|other| other.result != first.result) {
            Agreement::Conflict
        } else if others
            .iter()
            .any(|other| other.addresses != first.addresses)
        {
            Agreement::Differs
        } else {
            Agreement::Same
        };
        worst = match (worst, here) {
            (Agreement::Conflict, _) | (_, Agreement::Conflict) => Agreement::Conflict,
            (Agreement::Differs, _) | (_, Agreement::Differs) => Agreement::Differs,
            (_, here) => here,
        };
    }
    worst
}

fn is_final(answer: &NameAnswer) -> bool {
    !matches!(answer.result, NameResult::Failure | NameResult::NoAnswer)
}

/// The answer that a client gets for one type, and its group: the first final answer, in the order of tiers and
/// servers.
fn of_type<'a>(tiers: &'a [TierReport], record_type: &str) -> Option<(&'a str, &'a NameAnswer)> {
    let all = tiers.iter().flat_map(|tier| {
        let answers = tier.answers.iter();
        answers.map(|answer| (tier.group.as_str(), answer))
    });
    let mut of_type = all.filter(|(_, answer)| answer.record_type == record_type);
    of_type
        .clone()
        .find(|(_, answer)| is_final(answer))
        .or_else(|| {
            // Without a final answer, any answer counts.
            of_type.find(|(_, answer)| answer.result == NameResult::Failure)
        })
}

fn client(route: &Route, tiers: &[TierReport], patience: Option<Duration>) -> ClientReport {
    let mut report = ClientReport {
        result: NameResult::NoAnswer,
        addresses: Vec::new(),
        server: None,
        group: None,
        ms: 0.0,
    };
    for record_type in TYPES {
        if route.own_answer(u16::from(record_type)).is_some() {
            continue;
        }
        let record_type = record_type.to_string();
        let found = of_type(tiers, &record_type);
        let waits = patience.map_or(0.0, |patience| {
            in_milliseconds(patience) * silent_before(tiers, &record_type, found)
        });
        let Some((group, answer)) = found else {
            let all = tiers.iter().flat_map(|tier| &tier.answers);
            let asked = all.map(|answer| answer.ms).fold(0.0, f64::max);
            report.ms = report.ms.max(asked).max(waits);
            continue;
        };
        report.ms = report.ms.max(answer.ms + waits);
        report.addresses.extend(&answer.addresses);
        let better = |new: NameResult, old: NameResult| rank(new) > rank(old);
        if better(answer.result, report.result) {
            report.result = answer.result;
            report.server = Some(answer.server.clone());
            report.group = Some(group.to_owned());
        }
    }
    report
}

/// How many servers before the one that answered, or in all, are silent.
fn silent_before(
    tiers: &[TierReport],
    record_type: &str,
    found: Option<(&str, &NameAnswer)>,
) -> f64 {
    let answers = tiers.iter().flat_map(|tier| &tier.answers);
    let of_type = answers.filter(|answer| answer.record_type == record_type);
    let before =
        of_type.take_while(|answer| found.is_none_or(|(_, found)| !std::ptr::eq(*answer, found)));
    before
        .filter(|answer| answer.failure == Some(Trouble::Silence))
        .map(|_| 1.0)
        .sum()
}

fn rank(result: NameResult) -> u8 {
    match result {
        NameResult::Addresses => 4,
        NameResult::Nxdomain => 3,
        NameResult::Nodata => 2,
        NameResult::Failure => 1,
        NameResult::NoAnswer => 0,
    }
}

impl Sighting {
    fn nothing(route: Option<&Route>) -> Self {
        Self {
            route: route.map(|route| route.zone.clone()),
            answered_here: false,
            tiers: Vec::new(),
            client: ClientReport {
                result: NameResult::Failure,
                addresses: Vec::new(),
                server: None,
                group: None,
                ms: 0.0,
            },
        }
    }

    /// Answered here, by these addresses, or else by `otherwise`.
    fn here(route: Option<&Route>, addresses: &[IpAddr], otherwise: NameResult) -> Self {
        let mut sighting = Self::nothing(route);
        sighting.answered_here = true;
        sighting.client.addresses = addresses.to_vec();
        sighting.client.result = if addresses.is_empty() {
            otherwise
        } else {
            NameResult::Addresses
        };
        sighting
    }

    /// The name to go on with, if the client's answer ends in an alias.
    fn alias_of_client(&self) -> Option<Name> {
        if self.client.result != NameResult::Nodata {
            return None;
        }
        let types = TYPES.map(|record_type| record_type.to_string());
        let mut answers = types.iter().filter_map(|one| of_type(&self.tiers, one));
        let alias = answers.find_map(|(_, answer)| answer.alias.clone())?;
        Name::from_ascii(alias).ok()
    }
}
