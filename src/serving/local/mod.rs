//! Answers for names that are not forwarded: those of `records:` and `hosts:` in the configuration, and the CHAOS names of the
//! process.
//!
//! Owns the names, their reverse names and the response. Must not touch sockets. The caller adds what belongs to one client:
//! OPT, truncation and the ID. Follows RFC 4892 (`id.server`), RFC 2308 (negative answers), RFC 4592 (wildcards).
//!
//! Limits: names and wildcards, no zones. Names below or beside them are forwarded, as the `hosts` plugin of `CoreDNS` does
//! with `fallthrough`. A type that a name does not have is NODATA, and is never forwarded. A CNAME is followed here only to
//! names that are in `records:`, too; [`super::aliases`] looks up other targets. No zone transfers.

pub(crate) mod authority;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, PTR, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;

use crate::config::{HostsConfig, StaticRecords};
use crate::message::wire::HEADER_LEN;
use authority::{Authority, Known, Names, Stored, wire_key};

/// TTL of `records:`, in seconds. Clients do not notice when a reload or a restart changes records. A minute limits how long
/// they use the old ones, and asking again costs next to nothing.
pub const RECORD_TTL: u32 = 60;

/// TTL of CHAOS answers, in seconds. They tell which node answered this one query, so no cache may keep them (BIND uses 0,
/// too).
pub const CHAOS_TTL: u32 = 0;

/// RFC 1035 §3.3: a character-string has at most 255 bytes. A longer text is split into several, which readers of TXT join
/// again.
const MAX_CHARACTER_STRING: usize = 255;

/// Names that tell which node answered (RFC 4892, and BIND's older one).
const NODE_NAMES: [&[u8]; 2] = [b"\x02id\x06server\0", b"\x08hostname\x04bind\0"];

/// Names that tell which software answered.
const VERSION_NAMES: [&[u8]; 2] = [b"\x07version\x06server\0", b"\x07version\x04bind\0"];

/// The names that this process answers by itself. Clones share them.
#[derive(Debug, Clone)]
pub struct LocalZone {
    names: Arc<LocalNames>,
}

#[derive(Debug, Default)]
struct LocalNames {
    /// Class IN.
    internet: Names,
    /// Records of wildcards, by the wildcard's parent name. Empty in most configurations; then no lookup is made.
    wildcards: Names,
    /// Class CH.
    chaos: Names,
}

impl LocalZone {
    /// The names of `records`, those of `hosts` that are not in `records`, the reverse names of their addresses, and the CHAOS
    /// names for `node_name` and `version`.
    ///
    /// Each address gets a reverse name, unless `records` has that reverse name itself. Unspecified addresses, which stand for
    /// "blocked", get none.
    #[must_use]
    pub fn new(
        records: &[StaticRecords],
        hosts: &HostsConfig,
        node_name: &str,
        version: &str,
    ) -> Self {
        let (mut internet, mut wildcards) = (Names::default(), Names::default());
        for entry in records {
            if entry.name.is_wildcard() {
                wildcards.insert(wire_key(&entry.name.base_name()), stored_of(entry));
            } else {
                internet.insert(wire_key(&entry.name), stored_of(entry));
            }
        }
        for entry in &hosts.names {
            let key = wire_key(&entry.name);
            internet.entry(key).or_insert_with(|| stored_of(entry));
        }
        for (key, stored) in reverse_names(records, &internet) {
            internet.insert(key, stored);
        }
        for (address, name) in &hosts.reverse {
            if !address.is_unspecified() {
                let key = wire_key(&Name::from(*address));
                internet
                    .entry(key)
                    .or_insert_with(|| vec![pointer_to(name)]);
            }
        }
        let all = records.iter().chain(&hosts.names);
        for name in all.flat_map(|entry| empty_non_terminals(&entry.name, &wildcards)) {
            internet.entry(name).or_default();
        }

        let mut chaos = Names::default();
        let version = format!("nodens {version}");
        for (names, text) in [(NODE_NAMES, node_name), (VERSION_NAMES, &version)] {
            let stored = Stored {
                ttl: CHAOS_TTL,
                data: text_rdata(text),
            };
            chaos.extend(names.map(|name| (name.into(), vec![stored.clone()])));
        }
        Self {
            names: Arc::new(LocalNames {
                internet,
                wildcards,
                chaos,
            }),
        }
    }

    /// Whether a question is answered here.
    ///
    /// `lower_qname_wire` is the QNAME in wire format and lower case, uncompressed and with the root's zero. All types of a
    /// name are answered here. If A were answered here and AAAA by an upstream, the name could be two different hosts.
    #[must_use]
    pub fn owns(&self, lower_qname_wire: &[u8], qclass: u16) -> bool {
        self.names
            .records_of(lower_qname_wire, DNSClass::from(qclass))
            .is_some()
    }

    /// The whole response to `query`, a message with one question for which [`owns`](Self::owns) is true.
    ///
    /// It has AA and RA set, RD copied, no OPT, and up to 65,535 bytes. A question for which `owns` is false gets REFUSED, and
    /// bytes that are no query get FORMERR.
    pub async fn answer(&self, query: &[u8]) -> Vec<u8> {
        let request = without_records(query).and_then(|bare| {
            // The address is not used. The protocol is TCP, so that no payload size limits the message.
            let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            Request::from_bytes(bare, client, Protocol::Tcp).ok()
        });
        let Some(request) = request else {
            return bare_error(query, ResponseCode::FormErr);
        };
        let captured = Captured::default();
        self.handle_request::<_, TokioTime>(&request, captured.clone())
            .await;
        captured
            .into_bytes()
            .unwrap_or_else(|| bare_error(query, ResponseCode::ServFail))
    }
}

#[async_trait]
impl RequestHandler for LocalZone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response_handle: R,
    ) -> ResponseInfo {
        authority::reply(&*self.names, request, response_handle).await
    }
}

impl LocalNames {
    fn of_class(&self, class: DNSClass) -> Option<&Names> {
        match class {
            DNSClass::IN => Some(&self.internet),
            DNSClass::CH => Some(&self.chaos),
            _ => None,
        }
    }

    /// Records of a name, or of the wildcard that matches it.
    fn records_of(&self, key: &[u8], class: DNSClass) -> Option<&[Stored]> {
        let records = self.of_class(class)?.get(key);
        let records = records.or_else(|| match class {
            DNSClass::IN if !self.wildcards.is_empty() => self.synthesized(key),
            _ => None,
        });
        records.map(Vec::as_slice)
    }

    /// RFC 4592 §3.3.1: a wildcard matches a name that does not exist if the wildcard's parent is the closest existing ancestor
    /// of the name.
    fn synthesized(&self, key: &[u8]) -> Option<&Vec<Stored>> {
        let mut above = key;
        loop {
            above = above.get(usize::from(*above.first()?) + 1..)?;
            if let Some(records) = self.wildcards.get(above) {
                return Some(records);
            }
            if self.internet.contains_key(above) {
                return None;
            }
        }
    }
}

impl Authority for LocalNames {
    fn look_up(&self, name: &Name, class: DNSClass) -> Known<'_> {
        match self.records_of(&wire_key(name), class) {
            // Each name is the apex of a zone of its own, because the names around it are forwarded.
            Some(records) => Known::Name {
                records,
                apex: name.clone(),
            },
            None => Known::Elsewhere,
        }
    }
}

/// A [`ResponseHandler`] that keeps the response instead of sending it.
#[derive(Debug, Clone, Default)]
struct Captured {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Captured {
    fn into_bytes(self) -> Option<Vec<u8>> {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

#[async_trait]
impl ResponseHandler for Captured {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        // Without a limit set, the encoder stops at 65,535 bytes, the most that TCP can frame.
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}

fn rdata_of(entry: &StaticRecords) -> impl Iterator<Item = RData> + '_ {
    let a = entry.a.iter().map(|&address| RData::A(address.into()));
    let aaaa = entry
        .aaaa
        .iter()
        .map(|&address| RData::AAAA(address.into()));
    let cname = entry
        .cname
        .iter()
        .map(|target| RData::CNAME(CNAME(absolute(target))));
    let txt = entry.txt.iter().map(|text| text_rdata(text));
    a.chain(aaaa).chain(cname).chain(txt)
}

fn stored_of(entry: &StaticRecords) -> Vec<Stored> {
    let stored = |data| Stored {
        ttl: RECORD_TTL,
        data,
    };
    rdata_of(entry).map(stored).collect()
}

fn pointer_to(name: &Name) -> Stored {
    Stored {
        ttl: RECORD_TTL,
        data: RData::PTR(PTR(absolute(name))),
    }
}

/// Names between `name` and the topmost wildcard's parent above it. They exist as empty non-terminals, so the wildcard matches
/// no name below them (RFC 4592 §2.2.2).
fn empty_non_terminals(name: &Name, wildcards: &Names) -> Vec<Box<[u8]>> {
    let (mut passed, mut above) = (Vec::new(), name.clone());
    let mut existing = 0;
    while !above.is_root() && !wildcards.is_empty() {
        above = above.base_name();
        let key = wire_key(&above);
        if wildcards.contains_key(&key) {
            existing = passed.len();
        }
        passed.push(key);
    }
    passed.truncate(existing);
    passed
}

fn reverse_names(records: &[StaticRecords], taken: &Names) -> Names {
    let mut reverse = Names::default();
    for entry in records.iter().filter(|entry| !entry.name.is_wildcard()) {
        let a = entry.a.iter().map(|&address| IpAddr::V4(address));
        let aaaa = entry.aaaa.iter().map(|&address| IpAddr::V6(address));
        for address in a.chain(aaaa).filter(|address| !address.is_unspecified()) {
            let key = wire_key(&Name::from(address));
            let stored = pointer_to(&entry.name);
            if taken.contains_key(&key) {
                continue;
            }
            let pointers: &mut Vec<Stored> = reverse.entry(key).or_default();
            if !pointers.contains(&stored) {
                pointers.push(stored);
            }
        }
    }
    reverse
}

fn absolute(name: &Name) -> Name {
    let mut name = name.clone();
    name.set_fqdn(true);
    name
}

fn text_rdata(text: &str) -> RData {
    let mut strings: Vec<&[u8]> = text.as_bytes().chunks(MAX_CHARACTER_STRING).collect();
    if strings.is_empty() {
        // RFC 1035 §3.3.14: at least one character-string, be it an empty one.
        strings.push(b"");
    }
    RData::TXT(TXT::from_bytes(strings))
}

/// `query` cut to header and question, so that the response has no OPT and no other record can fail to parse.
fn without_records(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER_LEN;
    loop {
        let label_len = usize::from(*query.get(end)?);
        end += 1 + label_len;
        match label_len {
            0 => break,
            1..=63 => {}
            // A compression pointer, which is invalid here: there is no name before the first (RFC 1035 §4.1.4).
            _ => return None,
        }
    }
    let mut bare = query.get(..end + 4)?.to_vec();
    bare[4..HEADER_LEN].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    Some(bare)
}

fn bare_error(query: &[u8], rcode: ResponseCode) -> Vec<u8> {
    let id = query
        .first_chunk()
        .map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = rcode;
    message
        .to_vec()
        .expect("a message without any section fits its 12 bytes")
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::{Edns, Query};
    use hickory_proto::rr::RecordType;

    use super::*;

    const IN: u16 = 1;
    const CH: u16 = 3;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn entry(owner: &str) -> StaticRecords {
        StaticRecords {
            name: name(owner),
            a: Vec::new(),
            aaaa: Vec::new(),
            cname: None,
            txt: Vec::new(),
        }
    }

    fn zone() -> LocalZone {
        let mut registry = entry("Registry.corp");
        registry.a = vec!["10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap()];
        registry.aaaa = vec!["fd00::7".parse().unwrap()];
        registry.txt = vec!["hello".to_owned()];
        let mut second = entry("second.corp.");
        second.a = vec!["10.0.0.7".parse().unwrap()];
        let mut alias = entry("alias.corp.");
        alias.cname = Some(name("ALIAS2.corp"));
        let mut alias2 = entry("alias2.corp.");
        alias2.cname = Some(name("registry.corp."));
        let mut outside = entry("outside.corp.");
        outside.cname = Some(name("elsewhere.example."));
        let mut snake = entry("snake.corp.");
        snake.cname = Some(name("tail.corp."));
        let mut tail = entry("tail.corp.");
        tail.cname = Some(name("snake.corp."));
        let mut blocked = entry("ads.example.");
        blocked.a = vec![Ipv4Addr::UNSPECIFIED];
        let entries = [
            registry, second, alias, alias2, outside, snake, tail, blocked,
        ];
        LocalZone::new(&entries, &HostsConfig::default(), "node-1", "1.2.3")
    }

    fn owns(owner: &str, class: u16) -> bool {
        zone().owns(&wire_key(&name(owner)), class)
    }

    async fn exchange(zone: &LocalZone, message: &Message) -> Message {
        let bytes = zone.answer(&message.to_vec().unwrap()).await;
        Message::from_vec(&bytes).unwrap()
    }

    fn question(owner: &str, record_type: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name(owner), record_type));
        message
    }

    async fn ask(owner: &str, record_type: RecordType) -> Message {
        exchange(&zone(), &question(owner, record_type)).await
    }

    async fn ask_chaos(owner: &str, record_type: RecordType) -> Message {
        let mut message = question(owner, record_type);
        message.queries[0].set_query_class(DNSClass::CH);
        exchange(&zone(), &message).await
    }

    fn rdata(message: &Message) -> Vec<String> {
        message
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    #[test]
    fn ownership_is_by_exact_name_and_class() {
        for (owner, class, expected) in [
            ("registry.corp.", IN, true),
            ("REGISTRY.corp.", IN, true),
            ("alias.corp.", IN, true),
            ("7.0.0.10.in-addr.arpa.", IN, true),
            (
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                IN,
                true,
            ),
            ("beneath.registry.corp.", IN, false),
            ("beside.corp.", IN, false),
            ("corp.", IN, false),
            (".", IN, false),
            ("9.0.0.10.in-addr.arpa.", IN, false),
            ("0.0.0.0.in-addr.arpa.", IN, false),
            ("elsewhere.example.", IN, false),
            ("registry.corp.", CH, false),
            ("registry.corp.", 255, false),
            ("id.server.", CH, true),
            ("hostname.bind.", CH, true),
            ("version.server.", CH, true),
            ("version.bind.", CH, true),
            ("authors.bind.", CH, false),
            ("id.server.", IN, false),
        ] {
            assert_eq!(owns(owner, class), expected, "{owner} in class {class}");
        }
    }

    #[test]
    fn a_zone_is_shared_between_threads() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<LocalZone>();
    }

    #[tokio::test]
    async fn records_come_back_with_header_ttl_and_the_clients_spelling() {
        let message = question("rEgIsTrY.corp.", RecordType::A);
        let reply = exchange(&zone(), &message).await;
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert_eq!(reply.metadata.message_type, MessageType::Response);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert!(reply.metadata.recursion_desired && !reply.metadata.truncation);
        assert!(reply.queries[0].name().eq_case(message.queries[0].name()));
        assert!(reply.answers[0].name.eq_case(message.queries[0].name()));
        assert_eq!(rdata(&reply), ["10.0.0.7", "10.0.0.8"]);
        assert!(reply.answers.iter().all(|record| record.ttl == RECORD_TTL));
        assert!(reply.authorities.is_empty());
    }

    #[tokio::test]
    async fn recursion_desired_is_copied_when_clear() {
        let mut message = question("registry.corp.", RecordType::A);
        message.metadata.recursion_desired = false;
        let reply = exchange(&zone(), &message).await;
        assert!(!reply.metadata.recursion_desired);
    }

    #[tokio::test]
    async fn every_configured_type_is_answered() {
        for (owner, record_type, expected) in [
            ("registry.corp.", RecordType::AAAA, vec!["fd00::7"]),
            ("registry.corp.", RecordType::TXT, vec!["hello"]),
            (
                "registry.corp.",
                RecordType::ANY,
                vec!["10.0.0.7", "10.0.0.8", "fd00::7", "hello"],
            ),
            ("alias.corp.", RecordType::CNAME, vec!["ALIAS2.corp."]),
            (
                "7.0.0.10.in-addr.arpa.",
                RecordType::PTR,
                vec!["Registry.corp.", "second.corp."],
            ),
            (
                "8.0.0.10.in-addr.arpa.",
                RecordType::PTR,
                vec!["Registry.corp."],
            ),
        ] {
            let reply = ask(owner, record_type).await;
            assert_eq!(rdata(&reply), expected, "{owner} {record_type}");
        }
    }

    #[tokio::test]
    async fn a_type_the_name_lacks_is_nodata_with_an_soa() {
        for record_type in [RecordType::MX, RecordType::HTTPS, RecordType::Unknown(4711)] {
            let reply = ask("registry.corp.", record_type).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert!(reply.answers.is_empty() && reply.metadata.authoritative);
            let [soa] = &reply.authorities[..] else {
                panic!("{record_type}: {:?}", reply.authorities);
            };
            assert_eq!((soa.name.clone(), soa.ttl), (name("registry.corp."), 60));
            let RData::SOA(soa) = &soa.data else {
                panic!("{soa}")
            };
            assert_eq!(soa.minimum, authority::NEGATIVE_TTL);
        }
    }

    #[tokio::test]
    async fn a_cname_is_followed_to_names_of_ours() {
        let reply = ask("alias.corp.", RecordType::A).await;
        assert_eq!(
            rdata(&reply),
            ["ALIAS2.corp.", "registry.corp.", "10.0.0.7", "10.0.0.8"]
        );
        assert_eq!(reply.answers[3].name, name("registry.corp."));

        let without = ask("alias.corp.", RecordType::MX).await;
        assert_eq!(rdata(&without), ["ALIAS2.corp.", "registry.corp."]);
        assert_eq!(without.authorities[0].name, name("registry.corp."));
    }

    #[tokio::test]
    async fn a_cname_that_leads_elsewhere_or_in_a_circle_ends_there() {
        let outside = ask("outside.corp.", RecordType::A).await;
        assert_eq!(outside.metadata.response_code, ResponseCode::NoError);
        assert_eq!(rdata(&outside), ["elsewhere.example."]);
        assert!(outside.authorities.is_empty());

        let circle = ask("snake.corp.", RecordType::A).await;
        assert_eq!(circle.metadata.response_code, ResponseCode::NoError);
        assert_eq!(rdata(&circle), ["tail.corp.", "snake.corp."]);
    }

    #[tokio::test]
    async fn a_reverse_name_in_records_outranks_the_one_made_from_an_address() {
        let mut host = entry("host.corp.");
        host.a = vec!["10.9.9.9".parse().unwrap()];
        let mut reverse = entry("9.9.9.10.in-addr.arpa.");
        reverse.cname = Some(name("9.delegated.corp."));
        let zone = LocalZone::new(&[host, reverse], &HostsConfig::default(), "n", "v");
        let message = question("9.9.9.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(
            rdata(&exchange(&zone, &message).await),
            ["9.delegated.corp."]
        );
    }

    #[tokio::test]
    async fn chaos_names_tell_node_and_version() {
        for (owner, expected) in [
            ("id.server.", "node-1"),
            ("HOSTNAME.bind.", "node-1"),
            ("version.server.", "nodens 1.2.3"),
            ("version.bind.", "nodens 1.2.3"),
        ] {
            let reply = ask_chaos(owner, RecordType::TXT).await;
            assert_eq!(rdata(&reply), [expected], "{owner}");
            let record = &reply.answers[0];
            assert_eq!((record.dns_class, record.ttl), (DNSClass::CH, CHAOS_TTL));
        }
        let nodata = ask_chaos("id.server.", RecordType::A).await;
        assert!(nodata.answers.is_empty());
        assert_eq!(nodata.authorities[0].dns_class, DNSClass::CH);
        let foreign = ask_chaos("authors.bind.", RecordType::TXT).await;
        assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
        assert!(!foreign.metadata.authoritative);
    }

    #[tokio::test]
    async fn no_opt_comes_back_whatever_the_query_carries() {
        let mut message = question("registry.corp.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(4_096).set_version(7);
        message.set_edns(edns);
        let reply = exchange(&zone(), &message).await;
        assert!(reply.edns.is_none() && reply.additionals.is_empty());
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    }

    #[tokio::test]
    async fn big_answers_are_whole() {
        let mut big = entry("big.corp.");
        big.a = (0..2_500_u32)
            .map(|n| Ipv4Addr::from(0x0a00_0000 + n))
            .collect();
        let long = "x".repeat(300);
        big.txt = vec![long.clone(), String::new()];
        let zone = LocalZone::new(&[big], &HostsConfig::default(), "n", "v");

        let reply = exchange(&zone, &question("big.corp.", RecordType::A)).await;
        assert_eq!(reply.answers.len(), 2_500);
        assert!(!reply.metadata.truncation);

        let texts = exchange(&zone, &question("big.corp.", RecordType::TXT)).await;
        let RData::TXT(text) = &texts.answers[0].data else {
            panic!("{texts}")
        };
        assert_eq!(
            text.txt_data
                .iter()
                .map(|part| part.len())
                .collect::<Vec<_>>(),
            [255, 45]
        );
        assert_eq!(text.txt_data.concat(), long.as_bytes());
        assert_eq!(rdata(&texts)[1], "");
    }

    #[tokio::test]
    async fn what_is_no_query_gets_formerr_and_transfers_are_refused() {
        let mut pointer = question("registry.corp.", RecordType::A).to_vec().unwrap();
        pointer[12] = 0xc0;
        for bytes in [&b""[..], b"\x12\x34", &[0; 12], &pointer] {
            let reply = zone().answer(bytes).await;
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        }
        let reply = ask("registry.corp.", RecordType::AXFR).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn keys_are_lower_case_wire_format() {
        let key = wire_key(&Name::from_str("WWW.Example.").unwrap());
        assert_eq!(&*key, b"\x03www\x07example\0");
        assert_eq!(&*wire_key(&Name::root()), b"\0");
    }
}
