//! The forwarder between software that others wrote: dig and dnsperf in front, NSD and Unbound behind.
//!
//! What a client hears through nodens must be what it would hear from the upstream itself: header bits, records and
//! their order, all octets of RDATA. Only the ID, the age of TTLs, OPT (hop by hop) and the order of addresses may
//! differ.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::Instant;

use common::dns::{Ask, Message, Over, Section, flag, rcode, rr};
use common::peers::{Nsd, Unbound, Zone, run, sign, tool};
use common::{Nodens, TempDir};

const ZONE: &str = "interop.example.";

/// What there is to ask for. Addresses are from the ranges for documentation (RFC 5737, RFC 3849).
const RECORDS: &str = r#"
$ORIGIN interop.example.
$TTL 3600
@           IN SOA   ns hostmaster 1 7200 3600 1209600 300
@           IN NS    ns
@           IN MX    10 mail
@           IN MX    20 mail.elsewhere.example.
@           IN CAA   0 issue "ca.example"
ns          IN A     192.0.2.53
mail        IN A     192.0.2.25
mail        IN AAAA  2001:db8::25
www         IN A     192.0.2.80
www         IN AAAA  2001:db8::80
www         IN HTTPS 1 . alpn=h2,h3
pool        IN A     192.0.2.1
pool        IN A     192.0.2.2
pool        IN A     192.0.2.3
pool        IN A     192.0.2.4
text        IN TXT   "one string" "and another; with a semicolon"
text        IN TXT   "a second record"
_ldap._tcp  IN SRV   0 5 389 www
alias1      IN CNAME alias2
alias2      IN CNAME alias3
alias3      IN CNAME pool
briefly     IN CNAME brief
brief    60 IN A     192.0.2.60
away        IN CNAME www.elsewhere.example.
dangling    IN CNAME nobody
tree        IN DNAME forest
leaf.forest IN A     192.0.2.7
odd         IN TYPE65280 \# 7 01c00cff00c0fe
empty       IN TYPE65281 \# 0
*.wild      IN TXT   "whatever you ask"
child       IN NS    ns.child
child       IN NS    ns.elsewhere.example.
ns.child    IN A     192.0.2.54
ns.child    IN AAAA  2001:db8::54
spoilt      IN A     192.0.2.66
"#;

/// The zone, signed; the record of `spoilt` was changed after that, so its signature is wrong.
struct Authority {
    _dir: TempDir,
    zone: Zone,
    trust_anchor: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let dir = TempDir::new();
        let mut text = RECORDS.to_owned();
        for number in 1..=60 {
            writeln!(text, "wide IN AAAA 2001:db8::1:{number:x}").expect("a String grows");
        }
        let file = dir.write("interop.zone", &text);
        let (zone, trust_anchor) = sign(&Zone { name: ZONE, file });
        let signed = fs::read_to_string(&zone.file).expect("ldns-signzone wrote it");
        let spoilt = signed.replace("192.0.2.66", "192.0.2.67");
        assert_ne!(spoilt, signed, "the signed zone holds the record to spoil");
        fs::write(&zone.file, spoilt).expect("it can be written");
        Self {
            _dir: dir,
            zone,
            trust_anchor,
        }
    }

    fn serve(&self) -> Nsd {
        Nsd::start(std::slice::from_ref(&self.zone))
    }
}

/// A configuration that sends everything to one server.
fn everything_to(server: SocketAddr) -> String {
    format!("upstreams: {{only: {{servers: [\"{server}\"]}}}}\nroutes: {{\".\": only}}\n")
}

/// A question, and what keeps its comparison from being one of two equal mistakes.
struct Case {
    name: &'static str,
    ask: Ask,
    /// Response code of the true answer.
    rcode: u16,
    /// Types the true answer holds.
    holds: &'static [u16],
    /// Whether the answer may come from the cache.
    stored: bool,
}

impl Case {
    /// A question for a name in the zone, with EDNS.
    fn new(name: &'static str, owner: &str, qtype: u16, holds: &'static [u16]) -> Self {
        let owner = if owner == "@" {
            ZONE.to_owned()
        } else {
            format!("{owner}.{ZONE}")
        };
        let ask = Ask::new(&owner, qtype).payload(1232);
        Self {
            name,
            ask,
            rcode: rcode::NOERROR,
            holds,
            stored: true,
        }
    }

    fn rcode(self, rcode: u16) -> Self {
        Self { rcode, ..self }
    }

    fn dnssec_ok(self) -> Self {
        Self {
            ask: self.ask.dnssec_ok(),
            ..self
        }
    }

    fn flags(self, flags: u16) -> Self {
        Self {
            ask: self.ask.flags(flags),
            ..self
        }
    }

    fn payload(self, octets: u16) -> Self {
        Self {
            ask: self.ask.payload(octets),
            ..self
        }
    }

    fn without_edns(mut self) -> Self {
        self.ask.edns = None;
        self
    }

    /// DESIGN: ANY and RD=0 neither read nor fill the cache.
    fn never_stored(self) -> Self {
        Self {
            stored: false,
            ..self
        }
    }
}

fn cases() -> Vec<Case> {
    use rr::{
        A, AAAA, ANY, CAA, CNAME, DNAME, DNSKEY, HTTPS, MX, NS, NSEC3, PRIVATE, RRSIG, SOA, SRV,
        TXT,
    };
    vec![
        Case::new("an address", "www", A, &[A, NS]),
        Case::new("an IPv6 address", "www", AAAA, &[AAAA]),
        Case::new("several addresses", "pool", A, &[A]),
        Case::new("without EDNS", "mail", AAAA, &[AAAA]).without_edns(),
        Case::new("a payload under 512", "mail", A, &[A]).payload(100),
        Case::new("a payload of 4096", "ns", A, &[A]).payload(4096),
        Case::new("mixed case", "MaiL", MX, &[SOA]),
        Case::new("mixed case with an answer", "_LDAP._tcP", SRV, &[SRV]),
        Case::new("MX and its addresses", "@", MX, &[MX, A, AAAA]),
        Case::new("SOA", "@", SOA, &[SOA]),
        Case::new("CAA", "@", CAA, &[CAA]),
        Case::new("HTTPS", "www", HTTPS, &[HTTPS]),
        Case::new("TXT of two records", "text", TXT, &[TXT]),
        Case::new("a type for private use", "odd", PRIVATE, &[PRIVATE]),
        Case::new(
            "a record without RDATA",
            "empty",
            PRIVATE + 1,
            &[PRIVATE + 1],
        ),
        Case::new("a wildcard", "any.thing.wild", TXT, &[TXT]),
        Case::new("sixty addresses", "wide", AAAA, &[AAAA]),
        Case::new("sixty addresses without EDNS", "wide", AAAA, &[AAAA]).without_edns(),
        Case::new("a chain of aliases", "alias1", A, &[CNAME, A]),
        Case::new(
            "an alias and an address of unlike TTLs",
            "briefly",
            A,
            &[CNAME, A],
        ),
        Case::new("an alias asked for as such", "alias1", CNAME, &[CNAME]),
        Case::new("an alias out of the zone", "away", A, &[CNAME]),
        Case::new("an alias to nothing", "dangling", A, &[CNAME, SOA]).rcode(rcode::NXDOMAIN),
        Case::new("an alias to NODATA", "alias3", TXT, &[CNAME, SOA]),
        Case::new("DNAME", "leaf.tree", A, &[DNAME, CNAME, A]),
        Case::new("NXDOMAIN", "nobody", A, &[SOA]).rcode(rcode::NXDOMAIN),
        Case::new("NODATA", "www", TXT, &[SOA]),
        Case::new("DO", "www", A, &[A, RRSIG]).dnssec_ok(),
        Case::new("DO and CD", "www", A, &[A, RRSIG])
            .dnssec_ok()
            .flags(flag::RD | flag::CD),
        Case::new("DO, several addresses", "pool", A, &[A, RRSIG]).dnssec_ok(),
        Case::new("DO, sixty addresses", "wide", AAAA, &[AAAA, RRSIG]).dnssec_ok(),
        Case::new("DO, keys", "@", DNSKEY, &[DNSKEY, RRSIG]).dnssec_ok(),
        Case::new(
            "DO, a type for private use",
            "odd",
            PRIVATE,
            &[PRIVATE, RRSIG],
        )
        .dnssec_ok(),
        Case::new("DO, a wildcard", "x.wild", TXT, &[TXT, RRSIG, NSEC3]).dnssec_ok(),
        Case::new("DO, DNAME", "leaf.tree", A, &[DNAME, CNAME, A, RRSIG]).dnssec_ok(),
        Case::new("DO, NODATA", "www", TXT, &[SOA, RRSIG, NSEC3]).dnssec_ok(),
        Case::new("DO, NXDOMAIN", "nobody", A, &[SOA, RRSIG, NSEC3])
            .rcode(rcode::NXDOMAIN)
            .dnssec_ok(),
        Case::new("AD asked for", "mail", A, &[A]).flags(flag::RD | flag::AD),
        Case::new("ANY", "www", ANY, &[A]).never_stored(),
        Case::new("RD=0", "www", A, &[A]).flags(0).never_stored(),
        Case::new("a delegation", "host.child", A, &[NS, A, AAAA]).never_stored(),
        Case::new("a delegation, RD=0", "host.child", A, &[NS, A, AAAA])
            .flags(0)
            .never_stored(),
        Case::new(
            "a delegation, RD=0 and DO",
            "host.child",
            A,
            &[NS, A, AAAA, NSEC3],
        )
        .flags(0)
        .dnssec_ok()
        .never_stored(),
    ]
}

/// The reply; where it was cut, the one over TCP.
fn whole(ask: &Ask, server: SocketAddr, over: Over) -> Message {
    let reply = ask.send(server, over);
    if reply.has(flag::TC) {
        ask.again().send(server, Over::Tcp)
    } else {
        reply
    }
}

/// An upstream's own answer, and when it was given.
struct Direct {
    message: Message,
    given: Instant,
    /// Seconds by which its TTLs may be lower than those it gave us: a cache counts whole seconds from another moment.
    counts_down: u32,
}

impl Direct {
    fn ask(case: &Case, server: SocketAddr, over: Over) -> Self {
        let given = Instant::now();
        let message = whole(&case.ask, server, over);
        let name = case.name;
        assert_eq!(
            message.rcode(),
            case.rcode,
            "{name}: the upstream's own answer: {message:#?}"
        );
        for rtype in case.holds {
            assert!(
                message.has_type(*rtype),
                "{name}: the upstream has no TYPE{rtype}: {message:#?}"
            );
        }
        Self {
            message,
            given,
            counts_down: 0,
        }
    }

    /// Fails unless `reply` says the same.
    fn assert_equals(&self, reply: &Message, case: &Case, way: &str) {
        let name = case.name;
        let context = || {
            format!(
                "{name}, {way}: got {reply:#?}\nthe upstream says {:#?}",
                self.message
            )
        };
        // We recurse, and from a cache nobody is an authority (RFC 1035 §4.1.1). A name that comes again is in the cache.
        let is_cached = case.stored && !way.starts_with("first");
        let own = flag::AA | flag::RA;
        assert_eq!(
            reply.flags & !own,
            self.message.flags & !own,
            "header bits of {}",
            context()
        );
        assert!(reply.has(flag::RA), "RA of {}", context());
        assert!(
            !reply.has(flag::AA) || (self.message.has(flag::AA) && !is_cached),
            "AA of {}",
            context()
        );
        assert_eq!(
            reply.opt.is_some(),
            case.ask.edns.is_some(),
            "OPT of {}",
            context()
        );
        assert_eq!(
            reply.trailing,
            0,
            "octets after the last record of {}",
            context()
        );
        let (ours, theirs) = (reply.sorted_addresses(), self.message.sorted_addresses());
        assert_eq!(
            ours.len(),
            theirs.len(),
            "number of records of {}",
            context()
        );
        // A second more than has passed: either side counts whole seconds.
        let age = u32::try_from(self.given.elapsed().as_secs() + 1).expect("a short test");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let same = (
                ours.section,
                &ours.owner,
                ours.rtype,
                ours.class,
                &ours.rdata,
            ) == (
                theirs.section,
                &theirs.owner,
                theirs.rtype,
                theirs.class,
                &theirs.rdata,
            );
            assert!(same, "{ours:?} is not {theirs:?} in {}", context());
            let ttls = theirs.ttl.saturating_sub(age)..=theirs.ttl + self.counts_down;
            assert!(
                ttls.contains(&ours.ttl),
                "TTL of {ours:?}, not in {ttls:?}, in {}",
                context()
            );
        }
    }
}

const WAYS: [(&str, &str, Over); 4] = [
    ("UDP over IPv4", "127.0.0.1:0", Over::Udp),
    ("TCP over IPv4", "127.0.0.1:0", Over::Tcp),
    ("UDP over IPv6", "[::1]:0", Over::Udp),
    ("TCP over IPv6", "[::1]:0", Over::Tcp),
];

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn answers_equal_the_authoritys_first_and_cached() {
    let authority = Authority::new();
    for (way, listen, over) in WAYS {
        let nsd = authority.serve();
        let nodens = Nodens::start_on(&[listen], &everything_to(nsd.address));
        let ask = |case: &Case| whole(&case.ask.again(), nodens.address(), over);
        let cases = cases();
        let directs: Vec<_> = cases
            .iter()
            .map(|case| Direct::ask(case, nsd.address, over))
            .collect();
        for turn in ["first", "second"] {
            for (case, direct) in cases.iter().zip(&directs) {
                direct.assert_equals(&ask(case), case, &format!("{turn}, {way}"));
            }
        }
        // With the upstream gone, an answer can only come from the cache.
        nsd.stop();
        for (case, direct) in cases.iter().zip(&directs) {
            let reply = ask(case);
            if case.stored {
                direct.assert_equals(&reply, case, &format!("cached, {way}"));
            } else {
                assert_eq!(
                    reply.rcode(),
                    rcode::SERVFAIL,
                    "{} is never stored, {way}",
                    case.name
                );
            }
        }
    }
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn what_unbound_validated_arrives_with_ad() {
    use rr::{A, AAAA, CNAME, NSEC3, RRSIG, SOA, TXT};
    const AD: u16 = flag::RD | flag::AD;
    let authority = Authority::new();
    let nsd = authority.serve();
    let unbound = Unbound::start(ZONE, nsd.address, &authority.trust_anchor);
    let nodens = Nodens::start(&everything_to(unbound.address));
    for (case, authenticated) in [
        (Case::new("AD asked for", "www", A, &[A]).flags(AD), true),
        (
            Case::new("AD asked for without EDNS", "www", AAAA, &[AAAA])
                .flags(AD)
                .without_edns(),
            true,
        ),
        (Case::new("neither AD nor DO", "www", A, &[A]), false),
        (Case::new("DO", "www", A, &[A, RRSIG]).dnssec_ok(), true),
        (
            Case::new("DO, aliases", "alias1", A, &[CNAME, A, RRSIG]).dnssec_ok(),
            true,
        ),
        (
            Case::new("DO, sixty addresses", "wide", AAAA, &[AAAA, RRSIG]).dnssec_ok(),
            true,
        ),
        (
            Case::new("DO, NODATA", "www", TXT, &[SOA, RRSIG, NSEC3]).dnssec_ok(),
            true,
        ),
        (
            Case::new("DO, NXDOMAIN", "nobody", A, &[SOA, RRSIG, NSEC3])
                .rcode(rcode::NXDOMAIN)
                .dnssec_ok(),
            true,
        ),
        (
            Case::new("a wrong signature and CD", "spoilt", A, &[A, RRSIG])
                .dnssec_ok()
                .flags(flag::RD | flag::CD),
            false,
        ),
    ] {
        // Unbound may add to its first answer what it had to learn for it; what it repeats is its answer.
        Direct::ask(&case, unbound.address, Over::Udp);
        let direct = Direct {
            counts_down: 1,
            ..Direct::ask(&case, unbound.address, Over::Udp)
        };
        assert_eq!(
            direct.message.has(flag::AD),
            authenticated,
            "{}: Unbound's own AD",
            case.name
        );
        for way in ["first", "cached"] {
            let reply = whole(&case.ask.again(), nodens.address(), Over::Udp);
            direct.assert_equals(&reply, &case, way);
        }
    }
    let spoilt = Ask::new(&format!("spoilt.{ZONE}"), A);
    for server in [unbound.address, nodens.address()] {
        assert_eq!(
            spoilt.send(server, Over::Udp).rcode(),
            rcode::SERVFAIL,
            "a wrong signature"
        );
    }
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn sixty_addresses_are_cut_between_records_over_udp_and_whole_over_tcp() {
    let authority = Authority::new();
    let nsd = authority.serve();
    let nodens = Nodens::start(&everything_to(nsd.address));
    let ask = Ask::new(&format!("wide.{ZONE}"), rr::AAAA);
    let over_tcp = ask.send(nodens.address(), Over::Tcp);
    let all: BTreeSet<_> = over_tcp
        .section(Section::Answer)
        .map(|record| &record.rdata)
        .collect();
    assert_eq!(
        (all.len(), over_tcp.has(flag::TC)),
        (60, false),
        "over TCP: {over_tcp:#?}"
    );
    for (case, payload, limit) in [
        ("without EDNS", None, 512),
        ("a payload that counts as 512", Some(100), 512),
        ("512", Some(512), 512),
        ("900", Some(900), 900),
        ("1232", Some(1232), 1232),
        ("more than we send", Some(4096), 1232),
    ] {
        let ask = payload.map_or(ask.again(), |octets| ask.again().payload(octets));
        let reply = ask.send(nodens.address(), Over::Udp);
        let here: BTreeSet<_> = reply
            .section(Section::Answer)
            .map(|record| &record.rdata)
            .collect();
        assert!(reply.has(flag::TC), "{case}: no TC: {reply:#?}");
        assert!(
            reply.length <= limit,
            "{case}: {} octets, not {limit}",
            reply.length
        );
        assert!(
            here.is_subset(&all),
            "{case}: other records than over TCP: {reply:#?}"
        );
        assert_eq!(
            here.len(),
            reply.records.len(),
            "{case}: a record twice: {reply:#?}"
        );
        let one_more = reply.length + over_tcp.records[0].length;
        assert!(
            one_more > limit,
            "{case}: {} octets leave room for another record",
            reply.length
        );
        assert_eq!(reply.opt.is_some(), payload.is_some(), "{case}: OPT");
    }
}

/// What dig printed, less what may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dig {
    status: String,
    flags: BTreeSet<String>,
    /// Records of each section, "-" for the TTL, sorted: the order is compared elsewhere.
    sections: Vec<(String, BTreeSet<String>)>,
}

impl Dig {
    fn run(server: SocketAddr, arguments: &str) -> Self {
        Self::read(&Self::text(server, arguments))
    }

    fn text(server: SocketAddr, arguments: &str) -> String {
        let mut dig = tool("dig");
        dig.args([
            "-r",
            "+tries=1",
            "+time=10",
            "-p",
            &server.port().to_string(),
        ]);
        dig.arg(format!("@{}", server.ip()))
            .args(arguments.split(' '));
        run(&mut dig, &std::env::temp_dir())
    }

    fn read(text: &str) -> Self {
        let after = |line: &str, mark: &str| line.split_once(mark).map(|(_, rest)| rest.to_owned());
        let mut dig = Self {
            status: String::new(),
            flags: BTreeSet::new(),
            sections: Vec::new(),
        };
        for line in text.lines() {
            if let Some(rest) = after(line, "status: ") {
                rest.split(',')
                    .next()
                    .unwrap_or_default()
                    .clone_into(&mut dig.status);
            } else if let Some(rest) = after(line, ";; flags: ") {
                let flags = rest.split(';').next().unwrap_or_default();
                dig.flags = flags.split_whitespace().map(str::to_owned).collect();
            } else if let Some(name) = line.strip_suffix(" SECTION:") {
                let name = name.trim_start_matches([';', ' ']).to_owned();
                dig.sections.push((name, BTreeSet::new()));
            } else if !line.is_empty() && !line.starts_with(';') {
                if dig.sections.is_empty() {
                    dig.sections.push(("SHORT".to_owned(), BTreeSet::new()));
                }
                let (_, records) = dig.sections.last_mut().expect("there is one");
                records.insert(without_ttl(line));
            }
        }
        dig
    }

    fn records(&self, section: &str) -> usize {
        self.sections
            .iter()
            .find(|(name, _)| name == section)
            .map_or(0, |(_, lines)| lines.len())
    }
}

/// "owner TTL class type data" with the TTL, if it has one, made "-".
fn without_ttl(line: &str) -> String {
    let mut fields: Vec<_> = line.split_whitespace().collect();
    if fields.len() > 4 && fields[1].parse::<u32>().is_ok() {
        fields[1] = "-";
    }
    fields.join(" ")
}

/// dig's arguments, the status it must print, and how many records of which section.
const DIG: [(&str, &str, &str, usize); 33] = [
    ("www.interop.example A", "NOERROR", "ANSWER", 1),
    ("www.interop.example", "NOERROR", "ANSWER", 1),
    ("www.interop.example AAAA +tcp", "NOERROR", "ANSWER", 1),
    ("pool.interop.example A", "NOERROR", "ANSWER", 4),
    ("pool.interop.example A +short", "", "SHORT", 4),
    ("www.interop.example A +bufsize=512", "NOERROR", "ANSWER", 1),
    (
        "www.interop.example A +bufsize=4096",
        "NOERROR",
        "ANSWER",
        1,
    ),
    ("www.interop.example A +noedns", "NOERROR", "ANSWER", 1),
    ("www.interop.example A +nocookie", "NOERROR", "ANSWER", 1),
    ("www.interop.example A +nsid", "NOERROR", "ANSWER", 1),
    (
        "www.interop.example A +subnet=192.0.2.0/24",
        "NOERROR",
        "ANSWER",
        1,
    ),
    ("www.interop.example A +padding=128", "NOERROR", "ANSWER", 1),
    (
        "www.interop.example A +tcp +keepalive",
        "NOERROR",
        "ANSWER",
        1,
    ),
    (
        "www.interop.example A +adflag +cdflag",
        "NOERROR",
        "ANSWER",
        1,
    ),
    (
        "www.interop.example A +noadflag +norecurse",
        "NOERROR",
        "ANSWER",
        1,
    ),
    ("wWw.iNtErOp.ExAmPlE A", "NOERROR", "ANSWER", 1),
    ("www.interop.example A +dnssec", "NOERROR", "ANSWER", 2),
    ("interop.example DNSKEY +dnssec", "NOERROR", "ANSWER", 2),
    ("interop.example MX", "NOERROR", "ANSWER", 2),
    ("_ldap._tcp.interop.example SRV", "NOERROR", "ANSWER", 1),
    ("www.interop.example HTTPS", "NOERROR", "ANSWER", 1),
    ("odd.interop.example TYPE65280", "NOERROR", "ANSWER", 1),
    (
        "odd.interop.example TYPE65280 +unknownformat",
        "NOERROR",
        "ANSWER",
        1,
    ),
    ("wide.interop.example AAAA", "NOERROR", "ANSWER", 60),
    ("wide.interop.example AAAA +noedns", "NOERROR", "ANSWER", 60),
    ("wide.interop.example AAAA +tcp", "NOERROR", "ANSWER", 60),
    ("nobody.interop.example A", "NXDOMAIN", "AUTHORITY", 1),
    (
        "nobody.interop.example A +dnssec",
        "NXDOMAIN",
        "AUTHORITY",
        8,
    ),
    ("www.interop.example TXT", "NOERROR", "AUTHORITY", 1),
    ("alias1.interop.example A", "NOERROR", "ANSWER", 7),
    ("leaf.tree.interop.example A", "NOERROR", "ANSWER", 3),
    (
        "host.child.interop.example A +norecurse",
        "NOERROR",
        "AUTHORITY",
        2,
    ),
    ("www.interop.example ANY", "NOERROR", "ANSWER", 1),
];

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn dig_prints_what_the_upstream_says() {
    let authority = Authority::new();
    let nsd = authority.serve();
    let nodens = Nodens::start_on(&["127.0.0.1:0", "[::1]:0"], &everything_to(nsd.address));
    for (arguments, status, section, records) in DIG {
        let direct = Dig::run(nsd.address, arguments);
        assert_eq!(
            direct.status, status,
            "dig {arguments}, directly: {direct:#?}"
        );
        assert_eq!(
            direct.records(section),
            records,
            "dig {arguments}, directly: {direct:#?}"
        );
        for server in &nodens.listen {
            for turn in ["first", "second"] {
                let mut through = Dig::run(*server, arguments);
                // With +short it prints no header.
                let has_header = !direct.flags.is_empty();
                assert_eq!(
                    through.flags.remove("ra"),
                    has_header,
                    "RA of {arguments}, {turn}: {through:#?}"
                );
                // Only what comes straight from the authority is authoritative; what others asked before is cached.
                let aa = through.flags.remove("aa");
                let expected = Dig {
                    flags: &direct.flags - &BTreeSet::from(["aa", "ra"].map(str::to_owned)),
                    ..direct.clone()
                };
                assert!(
                    !aa || direct.flags.contains("aa"),
                    "AA of {arguments}, {turn}"
                );
                assert_eq!(through, expected, "dig {arguments} @{server}, {turn}");
            }
        }
    }
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn dig_prints_what_nodens_itself_says() {
    let authority = Authority::new();
    let nsd = authority.serve();
    let nodens = Nodens::start_on(&["127.0.0.1:0", "[::1]:0"], &everything_to(nsd.address));
    for (arguments, status, flag, answers) in [
        ("wide.interop.example AAAA +ignore", "NOERROR", "tc", 42),
        (
            "wide.interop.example AAAA +ignore +noedns",
            "NOERROR",
            "tc",
            16,
        ),
        ("CH TXT version.server", "NOERROR", "qr", 1),
        ("CH TXT id.server", "NOERROR", "qr", 1),
        ("CH TXT hostname.bind", "NOERROR", "qr", 1),
        ("HS A www.interop.example", "REFUSED", "qr", 0),
        (
            "www.interop.example A +edns=1 +noednsnegotiation",
            "BADVERS",
            "qr",
            0,
        ),
        ("www.interop.example A +opcode=NOTIFY", "NOTIMP", "qr", 0),
        ("+header-only www.interop.example A", "FORMERR", "qr", 0),
    ] {
        for server in &nodens.listen {
            let reply = Dig::run(*server, arguments);
            let got = (
                reply.status.as_str(),
                reply.flags.contains(flag),
                reply.records("ANSWER"),
            );
            assert_eq!(
                got,
                (status, true, answers),
                "dig {arguments} @{server}: {reply:#?}"
            );
        }
    }
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn dig_is_refused_a_zone_transfer() {
    let authority = Authority::new();
    let nsd = authority.serve();
    let nodens = Nodens::start(&everything_to(nsd.address));
    for arguments in ["interop.example AXFR", "interop.example IXFR=1"] {
        let text = Dig::text(nodens.address(), arguments);
        assert!(text.contains("Transfer failed"), "dig {arguments}: {text}");
    }
}

/// RSS the process must stay under: a node lends it 100 MB.
const RSS_LIMIT_BYTES: u64 = 100_000_000;
const NAMES: u32 = 100_000;

/// A zone with 100,000 names, each with an address of its own, and a wildcard for any number more.
fn large_zone(dir: &TempDir) -> Zone {
    let mut text = String::from(
        "$ORIGIN perf.example.\n$TTL 3600\n@ SOA ns hostmaster 1 7200 3600 1209600 300\n\
         @ NS ns\nns A 192.0.2.53\n*.once A 192.0.2.99\n",
    );
    for number in 0..NAMES {
        let [_, b, c, d] = number.to_be_bytes();
        writeln!(text, "name{number} A 10.{b}.{c}.{d}").expect("a String grows");
    }
    Zone {
        name: "perf.example.",
        file: dir.write("perf.zone", &text),
    }
}

/// Writes questions until nobody reads them any more.
fn write_questions(pipe: ChildStdin, misses: Misses) {
    let mut pipe = BufWriter::with_capacity(1 << 16, pipe);
    for number in 0_u64.. {
        let line = match misses {
            Misses::Half if number % 2 == 0 => format!("q{number}.once.perf.example A\n"),
            _ => format!("name{}.perf.example A\n", fastrand::u32(..NAMES)),
        };
        if pipe.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Misses {
    /// Only of names asked for the first time.
    Few,
    /// Every other question is for a name never asked for before.
    Half,
}

/// Runs dnsperf against nodens in front of NSD; fails if a query is lost or the process grows too large.
fn assert_nothing_lost(misses: Misses) {
    let seconds = std::env::var("NODENS_DNSPERF_SECONDS").unwrap_or_else(|_| "10".to_owned());
    let dir = TempDir::new();
    let nsd = Nsd::start(&[large_zone(&dir)]);
    let nodens = Nodens::start(&everything_to(nsd.address));
    let mut dnsperf = tool("dnsperf");
    let server = nodens.address();
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    dnsperf.args(["-q", "500", "-l", &seconds, "-s", &ip, "-p", &port]);
    // Ten sockets, because 500 replies at once overflow the receive buffer of one: with it dnsperf loses NSD's own.
    dnsperf.args(["-c", "10"]);
    dnsperf
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = dnsperf.spawn().expect("dnsperf starts");
    let pipe = child.stdin.take().expect("its standard input is a pipe");
    let writer = thread::spawn(move || write_questions(pipe, misses));
    let output = child.wait_with_output().expect("dnsperf runs");
    writer.join().expect("the writer ends when dnsperf does");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let peak = nodens.peak_rss_bytes();
    println!(
        "dnsperf -q 500 -l {seconds}, misses {misses:?}: {} queries/s, mean {} s, peak RSS {} MB",
        figure(&text, "Queries per second:"),
        figure(&text, "Average Latency (s):"),
        peak / 1_000_000
    );
    // Whose fault a loss is, should there be one.
    let (_, metrics) = nodens.get("/metrics");
    let (status, log) = nodens.terminate();
    let told = ["drop", "tries", "rejected"];
    let told: Vec<_> = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && told.iter().any(|word| line.contains(word)))
        .collect();
    let context = || format!("{text}\n{}\n{log}", told.join("\n"));
    assert_ne!(figure(&text, "Queries completed:"), "0", "{}", context());
    assert_eq!(figure(&text, "Queries lost:"), "0", "{}", context());
    let codes = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Response codes:"));
    let codes = codes.unwrap_or_default().trim();
    let only_answers = codes.starts_with("NOERROR") && !codes.contains(',');
    assert!(
        only_answers,
        "other response codes than NOERROR: {}",
        context()
    );
    assert!(
        peak < RSS_LIMIT_BYTES,
        "peak RSS {peak} bytes, not under {RSS_LIMIT_BYTES}"
    );
    assert!(
        status.success(),
        "nodens after SIGTERM: {status}, {}",
        context()
    );
}

/// The word after a label in dnsperf's summary.
fn figure<'a>(text: &'a str, label: &str) -> &'a str {
    let rest = text.split_once(label).map(|(_, rest)| rest);
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.unwrap_or_else(|| panic!("no {label:?} in:\n{text}"))
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn dnsperf_loses_nothing_over_100_000_names() {
    assert_nothing_lost(Misses::Few);
}

#[test]
#[ignore = "needs dig, dnsperf, nsd, unbound, ldns-signzone; .ci/run runs it"]
fn dnsperf_loses_nothing_with_half_of_the_queries_missing_the_cache() {
    assert_nothing_lost(Misses::Half);
}
