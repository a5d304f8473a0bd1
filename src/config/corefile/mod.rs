//! A Corefile in place of YAML: CoreDNS's configuration, read into ours.
//!
//! Owns what each plugin means here. Each line is taken, or remarked on with what follows from its absence; a line without
//! which clients would get other answers is a mistake. Sources: coredns.io/plugins and coredns.io/manual, for 1.15;
//! NodeLocal DNSCache's placeholders: kubernetes.io/docs/tasks/administer-cluster/nodelocaldns.

mod chart;
pub(super) mod draft;
mod forward;
mod pattern;
mod plugins;
mod relay;
mod rewrite;
mod server;
pub(super) mod syntax;
mod template;
mod written;
pub(super) mod zones;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use figment::value::Value;

pub use draft::{LineRefusal, LineVerdict, Remark};
pub use syntax::SyntaxProblem;

use super::error::{ConfigError, CorefileProblem};
use super::files::Files;
use super::foreign::{self, HeldCorefile};
use super::yaml::Document;
use draft::Draft;
use server::{AclPlugin, DraftBlock};
use syntax::{Directive, Place, ServerBlock, Sources, SyntaxError, Word};
use zones::BlockKey;

/// The default address of NodeLocal DNSCache.
const NODE_LOCAL: &str = "169.254.20.10";

/// The address of kube-dns, which NodeLocal DNSCache takes over.
const KUBE_DNS_PLACEHOLDER: &str = "__PILLAR__DNS__SERVER__";

/// The address by which NodeLocal DNSCache asks kube-dns.
const CLUSTER_DNS_PLACEHOLDER: &str = "__PILLAR__CLUSTER__DNS__";

/// The servers of names outside of the cluster, which NodeLocal DNSCache takes from the ConfigMap kube-dns.
const UPSTREAM_PLACEHOLDER: &str = "__PILLAR__UPSTREAM__SERVERS__";

/// Remark about an `import` that imports nothing.
const NO_FILE: &str = "there is no such file here, so nothing is imported; if the cluster has some, in a ConfigMap such as coredns-custom, \
                       have them here, too";

/// Facts about the host that a Corefile depends on.
pub(super) struct Surroundings<'a> {
    /// Where kube-dns is.
    pub(super) cluster_dns: Option<IpAddr>,
    /// Whether this host has IPv6, so that `[::]` can be listened at.
    pub(super) ipv6: bool,
    /// Environment variables.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Where what it imports is read from.
    pub(super) files: &'a Files,
    /// What stands beside it in ConfigMaps, by key; `import` takes it from what it reads.
    pub(super) beside: &'a BTreeMap<String, String>,
}

/// What a Corefile becomes.
#[derive(Debug)]
pub(super) struct TranslatedCorefile {
    /// The remarks about its lines.
    pub(super) remarks: Vec<Remark>,
    /// Files that it imports.
    pub(super) files: BTreeSet<PathBuf>,
    pub(super) document: Document,
    /// Where kube-dns is.
    pub(super) kube_dns: Option<IpAddr>,
}

impl TranslatedCorefile {
    /// The configuration as YAML, with the line of the Corefile that each part comes from.
    #[must_use]
    pub(super) fn yaml(&self) -> String {
        written::yaml(&self.document)
    }

    /// The same as values of the Helm chart, without what the chart sets by itself.
    #[must_use]
    pub(super) fn chart_values(&self, cluster_dns: Option<IpAddr>) -> String {
        chart::values(self, cluster_dns)
    }
}

/// Whether a configuration file is a Corefile. Its name decides, because the text of a Corefile has no mark.
#[must_use]
pub fn is_corefile(file: &Path) -> bool {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.to_ascii_lowercase().contains("corefile")
}

/// Reads a Corefile.
///
/// # Errors
/// Every mistake there is, at once.
pub(super) fn import(
    file: &Path,
    text: &str,
    around: &Surroundings<'_>,
) -> Result<TranslatedCorefile, Vec<ConfigError>> {
    let (inside, text, beside) = unpacked(file, text)?;
    let around = &Surroundings {
        cluster_dns: around.cluster_dns,
        ipv6: around.ipv6,
        variable: around.variable,
        files: around.files,
        beside: &beside,
    };
    let text = with_placeholders(&text, around);
    let sources = Sources {
        variable: around.variable,
        files: around.files,
        beside: around.beside,
    };
    let corefile = syntax::parse(&inside, &text, sources);
    let mut draft = Draft::default();
    for import in &corefile.empty_imports {
        draft.remark(import, LineVerdict::Differs, NO_FILE);
    }
    let zones = zones_of(&corefile.servers);
    let (relays, servers) = relay::split_off(corefile.servers);
    let behind = relay::servers(&mut draft, &relays);
    let others = OtherBlocks { zones, behind };
    let mut blocks = Vec::new();
    for block in &servers {
        if let Some(key) = plugin_in_place_of_zone(block) {
            let name = key.text.clone();
            draft.refuse(&key.place, LineRefusal::PluginAsZone { name });
        } else {
            blocks.push((block, translate(&mut draft, around, block, &others)));
        }
    }
    set_for_all_blocks(&mut draft, around, &blocks);
    set_observed_addresses(&mut draft);
    let acls: Vec<_> = blocks.into_iter().map(|(_, drafted)| drafted.acl).collect();
    remark_on_acls(&mut draft, &acls);
    let errors = mistakes(&corefile.errors, &draft);
    if !errors.is_empty() {
        return Err(errors);
    }
    if servers.is_empty() {
        return Err(vec![ConfigError::EmptyFile {
            file: file.to_owned(),
        }]);
    }
    let document = draft.document();
    let mut remarks = draft.remarks;
    remarks.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    // A snippet is taken as often as it is imported.
    remarks.dedup();
    Ok(TranslatedCorefile {
        remarks,
        files: corefile.files,
        document,
        kube_dns: around.cluster_dns,
    })
}

/// What the translation of a block depends on in the others.
struct OtherBlocks {
    /// The zones of all blocks.
    zones: BTreeSet<String>,
    /// The servers behind each relay, by its address.
    behind: BTreeMap<String, Vec<String>>,
}

fn zones_of(servers: &[ServerBlock]) -> BTreeSet<String> {
    let keys = servers.iter().flat_map(|block| &block.keys);
    keys.filter_map(|word| BlockKey::read(&word.text))
        .flat_map(|key| key.zones)
        .collect()
}

/// The word in front of a block, if it is a plugin that stands outside of any block.
fn plugin_in_place_of_zone(block: &ServerBlock) -> Option<&Word> {
    let key = block.keys.first()?;
    plugins::is_translated(&key.text).then_some(key)
}

/// Sets what each block of CoreDNS has for itself, and all routes have together here: where clients ask, who may, and in
/// which order records are.
fn set_for_all_blocks(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    blocks: &[(&ServerBlock, DraftBlock<'_>)],
) {
    let addresses: Vec<(&ServerBlock, Vec<SocketAddr>)> = blocks
        .iter()
        .map(|(block, drafted)| (*block, drafted.addresses(around)))
        .collect();
    let mut listen: Vec<SocketAddr> = Vec::new();
    for address in addresses.iter().flat_map(|(_, addresses)| addresses) {
        if !listen.contains(address) {
            listen.push(*address);
        }
    }
    remark_on_addresses(draft, &addresses, &listen);
    remove_covered(&mut listen);
    let Some(first) = blocks.iter().find_map(|(block, _)| block.keys.first()) else {
        return;
    };
    let listen: Vec<Value> = listen
        .iter()
        .map(|address| address.to_string().into())
        .collect();
    draft.set(&["listen"], listen, &first.place);
    // CoreDNS answers every client unless `acl` says otherwise.
    draft.set(&["allow"], "all", &first.place);
    let rotate = blocks.iter().any(|(_, drafted)| drafted.balances);
    draft.set(&["cache", "rotate"], rotate, &first.place);
}

/// Every mistake: those of the text, then those of the lines that cannot be translated.
fn mistakes(syntax: &[SyntaxError], draft: &Draft) -> Vec<ConfigError> {
    let mistake = |place: &Place, problem| ConfigError::Corefile {
        file: place.file.to_path_buf(),
        line: place.line,
        column: place.column,
        problem,
    };
    let syntax = syntax
        .iter()
        .map(|error| mistake(&error.place, CorefileProblem::Syntax(error.problem.clone())));
    let refused = draft
        .refusals
        .iter()
        .map(|(place, refusal)| mistake(place, CorefileProblem::Refused(refusal.clone())));
    syntax.chain(refused).collect()
}

/// Reads a server block, and drafts its routes and records.
fn translate<'a>(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    block: &'a ServerBlock,
    others: &OtherBlocks,
) -> DraftBlock<'a> {
    let asks = |directive: &Directive| {
        let name = directive.name.text.as_str();
        matches!(name, "forward" | "proxy" | "kubernetes")
    };
    let mut server = DraftBlock::default();
    server.asks_others = block.body.iter().any(asks);
    for key in &block.keys {
        server.key(draft, key);
    }
    for directive in &block.body {
        match directive.name.text.as_str() {
            "forward" | "proxy" => {
                server
                    .forwards
                    .extend(forward::read(draft, directive, &others.behind));
            }
            _ => plugins::read(draft, around, &mut server, directive),
        }
    }
    server.records(draft, &others.zones);
    server.routes(draft, around, &others.zones);
    server
}

/// What listens at all addresses of a port needs no other.
fn remove_covered(listen: &mut Vec<SocketAddr>) {
    let all = listen.clone();
    listen.retain(|address| {
        let covers = |other: &SocketAddr| {
            other.ip().is_unspecified()
                && other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
        };
        address.ip().is_unspecified() || !all.iter().any(covers)
    });
}

/// Remarks on blocks that are reached at more addresses here than in CoreDNS.
fn remark_on_addresses(
    draft: &mut Draft,
    blocks: &[(&ServerBlock, Vec<SocketAddr>)],
    listen: &[SocketAddr],
) {
    for (block, addresses) in blocks {
        let elsewhere = listen.iter().any(|address| !addresses.contains(address));
        if let Some(key) = block.keys.first().filter(|_| elsewhere) {
            let keys: Vec<&str> = block.keys.iter().map(|key| key.text.as_str()).collect();
            let note = "its zones are answered at all addresses of listen, there at its own alone";
            draft.remark_at(&key.place, keys.join(" "), LineVerdict::Differs, note);
        }
    }
}

/// The text of a Corefile, and where it is; of a ConfigMap, also what else it holds.
type Unpacked<'t> = (PathBuf, Cow<'t, str>, BTreeMap<String, String>);

fn unpacked<'t>(file: &Path, text: &'t str) -> Result<Unpacked<'t>, Vec<ConfigError>> {
    let Some(maps) = foreign::config_maps(text) else {
        return Ok((file.to_owned(), text.into(), BTreeMap::new()));
    };
    match maps.corefile {
        Some(HeldCorefile::InPlace(text)) => Ok((file.to_owned(), text.into(), maps.others)),
        Some(HeldCorefile::Apart(text)) => {
            Ok((syntax::inside(file, "Corefile"), text.into(), maps.others))
        }
        None => {
            let keys: Vec<&String> = maps.others.keys().collect();
            let (file, what) = (file.to_owned(), foreign::no_corefile(&keys));
            Err(vec![ConfigError::Foreign { file, what }])
        }
    }
}

/// Adds a remark about each `acl`. There is one `allow` for all zones.
fn remark_on_acls(draft: &mut Draft, acls: &[Option<AclPlugin<'_>>]) {
    for acl in acls.iter().flatten() {
        let alike = |other: &Option<AclPlugin<'_>>| {
            other
                .as_ref()
                .is_some_and(|other| other.whole && other.networks == acl.networks)
        };
        let note = if acls.iter().all(alike) {
            "allow, for all zones"
        } else {
            "allow, for all zones: other clients are refused in zones without this acl, too; run an instance for these zones if that is wrong"
        };
        draft.remark(acl.directive, LineVerdict::Differs, note);
    }
}

/// Where /health, /ready and /metrics are served. The admin address, which shows more, takes another port if they need
/// its own.
fn set_observed_addresses(draft: &mut Draft) {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 9_153));
    let observed = std::mem::take(&mut draft.observed);
    let mut others: Vec<SocketAddr> = observed
        .keys()
        .copied()
        .filter(|address| *address != admin)
        .collect();
    remove_covered(&mut others);
    let Some(place) = observed.values().next() else {
        return;
    };
    if others.iter().any(|address| address.port() == admin.port()) {
        draft.set(&["admin"], "127.0.0.1:9154", place);
    }
    if !others.is_empty() {
        let others: Vec<Value> = others
            .iter()
            .map(|address| address.to_string().into())
            .collect();
        draft.set(&["metrics", "listen"], others, place);
    }
}

/// NodeLocal DNSCache's placeholders that stand for one text each, replaced.
fn with_placeholders(text: &str, around: &Surroundings<'_>) -> String {
    let mut text = text
        .replace("__PILLAR__LOCAL__DNS__", NODE_LOCAL)
        .replace("__PILLAR__DNS__DOMAIN__", "cluster.local");
    if let Some(address) = around.cluster_dns {
        text = text.replace(CLUSTER_DNS_PLACEHOLDER, &address.to_string());
    }
    text
}
