//! The nftables rules that keep DNS to and from our addresses out of connection tracking, over nfnetlink.
//!
//! Owns the table `inet nodens` and nothing else. The table is replaced as a whole in one transaction, so it is always
//! complete and never has a rule twice. Without connection tracking the node has no entry for every query, its table
//! does not fill up, and the second of two queries from one socket (A and AAAA) is not dropped by a race.
//!
//! Three rules for each address, port and protocol, before connection tracking looks (priority raw): what arrives for
//! us, what this host itself sends to us, and what we send back.
//!
//! While the addresses pass from or to another server, as kube-proxy is one, TCP is tracked for a while: connection
//! tracking alone knows which connections are whose. Chains of ours look at connections that it does not know yet
//! before the other server's translation does, and have them not translated.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkDeserializable as _, NetlinkMessage,
};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook, Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator,
    Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::exchange;

/// Our table, of the family `inet`.
pub(super) const TABLE: &str = "nodens";

/// `NF_IP_PRI_RAW`: before connection tracking, which hooks in at -200.
const PRIORITY_RAW: i32 = -300;
/// Before `NF_IP_PRI_NAT_DST` (-100), at which kube-proxy translates. The first chain that decides is the last that is
/// asked.
const PRIORITY_BEFORE_TRANSLATION: i32 = -110;
/// `NFNL_SUBSYS_NFTABLES`, which a batch names.
const SUBSYSTEM: u16 = 10;
/// `NF_ACCEPT`, the policy of a chain.
const ACCEPT: u32 = 1;
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// Offset of the flags in a TCP header, and the flag of a connection's first packet (RFC 9293 §3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 2;
/// Attributes of the expression `nat`, and its type `NFT_NAT_DNAT`.
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFT_NAT_DNAT: u32 = 1;
/// Protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A list of what rules do, as the kernel has it.
type RuleBody = Vec<ListAttribute<ExpressionAttribute>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RuleChain {
    Prerouting,
    Output,
    /// What arrives, before another server's translation.
    Arriving,
    /// What this host sends, before another server's translation.
    Leaving,
}

impl RuleChain {
    /// Those of a table that keeps everything out of connection tracking.
    const NOTRACK: [Self; 2] = [Self::Prerouting, Self::Output];
    const TRANSLATION: [Self; 2] = [Self::Arriving, Self::Leaving];

    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Arriving => "arriving",
            Self::Leaving => "leaving",
        }
    }

    fn hook(self) -> InetHookNumber {
        match self {
            Self::Prerouting | Self::Arriving => InetHookNumber::PreRouting,
            Self::Output | Self::Leaving => InetHookNumber::LocalOut,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Prerouting | Self::Output => "filter",
            Self::Arriving | Self::Leaving => "nat",
        }
    }

    fn priority(self) -> i32 {
        match self {
            Self::Prerouting | Self::Output => PRIORITY_RAW,
            Self::Arriving | Self::Leaving => PRIORITY_BEFORE_TRANSLATION,
        }
    }
}

/// Whether we are the packet's source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// The hook of a chain, and whether we are the source or the destination of its packets.
const ALL: [(RuleChain, End); 3] = [
    (RuleChain::Prerouting, End::Destination),
    (RuleChain::Output, End::Destination),
    (RuleChain::Output, End::Source),
];
const REPLIES: [(RuleChain, End); 1] = [(RuleChain::Output, End::Source)];

/// Addresses with the ports at which they are served, from what is listened on.
pub(super) fn endpoints(addresses: &[IpAddr], listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut endpoints = BTreeSet::new();
    for &address in addresses {
        for listen in listen {
            let any = listen.ip().is_unspecified() && listen.is_ipv4() == address.is_ipv4();
            if any || listen.ip() == address {
                endpoints.insert(SocketAddr::new(address, listen.port()));
            }
        }
    }
    endpoints.into_iter().collect()
}

/// Creates the whole table, in place of one with its name: all queries are ours.
///
/// # Errors
/// The kernel's `errno`; the table is then as it was.
pub(super) fn replace(endpoints: &[SocketAddr]) -> io::Result<()> {
    put(rules(endpoints, &[UDP, TCP], &ALL))
}

/// Has new queries come to us, over UDP and on new TCP connections. Others keep the connections that they have.
///
/// # Errors
/// The kernel's `errno`; the table is then as it was.
pub(super) fn replace_for_new(endpoints: &[SocketAddr]) -> io::Result<()> {
    let mut kept = rules(endpoints, &[UDP], &ALL);
    kept.extend(untranslated(endpoints, Connections::All));
    put_or(kept, rules(endpoints, &[UDP, TCP], &ALL))
}

/// Leaves new queries to connection tracking, and so to a translator of the addresses such as kube-proxy. We keep the
/// TCP connections that we have. Our replies over UDP stay out of connection tracking, because it would take a client's
/// next query for the answer to a reply.
///
/// # Errors
/// The kernel's `errno`; the table is then as it was.
pub(super) fn replace_for_replies(endpoints: &[SocketAddr]) -> io::Result<()> {
    let mut kept = rules(endpoints, &[UDP], &REPLIES);
    kept.extend(untranslated(endpoints, Connections::Begun));
    put_or(kept, rules(endpoints, &[UDP, TCP], &REPLIES))
}

/// Makes rules by which open TCP connections stay where they are, or, if the kernel lacks what these need, others.
fn put_or(
    keeping: Vec<(RuleChain, RuleBody)>,
    others: Vec<(RuleChain, RuleBody)>,
) -> io::Result<()> {
    put(keeping).or_else(|error| {
        tracing::info!(%error, "this kernel cannot keep open TCP connections when addresses pass from one server to another");
        put(others)
    })
}

fn put(rules: Vec<(RuleChain, RuleBody)>) -> io::Result<()> {
    let mut messages = vec![
        // Deleting what is not there would fail the transaction.
        new(NfTablesMessage::NewTable(table())),
        plain(NfTablesMessage::DeleteTable(table())),
        new(NfTablesMessage::NewTable(table())),
    ];
    let has_rules = |chain: &RuleChain| rules.iter().any(|(of, _)| of == chain);
    let translation = RuleChain::TRANSLATION.into_iter().filter(has_rules);
    for chain in RuleChain::NOTRACK.into_iter().chain(translation) {
        messages.push(new(NfTablesMessage::NewChain(chain_message(chain))));
    }
    for (chain, body) in rules {
        let attributes = vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(chain.name().to_owned()),
            RuleAttribute::Expressions(body),
        ];
        messages.push(new(NfTablesMessage::NewRule(RuleMessage { attributes })));
    }
    transaction(messages)
}

/// Deletes the table; whether there was one.
///
/// # Errors
/// The kernel's `errno`.
pub(super) fn remove() -> io::Result<bool> {
    match transaction(vec![plain(NfTablesMessage::DeleteTable(table()))]) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether there is a table of our name.
///
/// # Errors
/// The kernel's `errno`, such as `EPERM` without `CAP_NET_ADMIN`.
pub(super) fn exists() -> io::Result<bool> {
    let request = NfTablesMessage::GetTable(table());
    Ok(!ask(request, NLM_F_ACK)?.is_empty())
}

/// Whether the table has exactly the rules for these endpoints.
///
/// # Errors
/// The kernel's `errno`.
pub(super) fn is_in_place(endpoints: &[SocketAddr]) -> io::Result<bool> {
    let tables = ask(NfTablesMessage::GetTable(table()), NLM_F_ACK)?;
    let dormant = |attribute: &TableAttribute| matches!(attribute, TableAttribute::Flags(flags) if flags.contains(TableFlags::Dormant));
    match &tables[..] {
        [NfTablesMessage::NewTable(table)] if !table.attributes.iter().any(dormant) => {}
        _ => return Ok(false),
    }
    let mut bodies = Vec::new();
    for chain in RuleChain::NOTRACK {
        let attributes = vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(chain.name().to_owned()),
        ];
        let chains = ask(
            NfTablesMessage::GetChain(ChainMessage { attributes }),
            NLM_F_ACK,
        )?;
        match &chains[..] {
            [NfTablesMessage::NewChain(found)] if is_hooked(found, chain) => {}
            _ => return Ok(false),
        }
        bodies.extend(bodies_of(chain)?);
    }
    Ok(rules_equal(&bodies, &rules(endpoints, &[UDP, TCP], &ALL)))
}

/// Whether the table has rules and all of them are for other addresses.
///
/// # Errors
/// The kernel's `errno`.
pub(super) fn is_for_others(addresses: &[IpAddr]) -> io::Result<bool> {
    let mut bodies = Vec::new();
    for chain in RuleChain::NOTRACK {
        bodies.extend(bodies_of(chain)?);
    }
    let is_for = |address| bodies.iter().any(|(_, body)| names(body, address));
    Ok(!bodies.is_empty() && !addresses.iter().any(is_for))
}

/// Whether a rule compares something with this address.
fn names(body: &RuleBody, address: &IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let value = Cmp::Data(DataAttribute::Value(octets));
    body.iter().any(|expression| match expression {
        ListAttribute::Element(attributes) => attributes.iter().any(|attribute| {
            matches!(attribute, ExpressionAttribute::Data(Expressions::Cmp(found)) if found.contains(&value))
        }),
        _ => false,
    })
}

/// The rules of a chain; none if it is not there.
fn bodies_of(chain: RuleChain) -> io::Result<Vec<(RuleChain, RuleBody)>> {
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.name().to_owned()),
    ];
    let found = ask(
        NfTablesMessage::GetRule(RuleMessage { attributes }),
        NLM_F_DUMP,
    )?;
    Ok(found
        .into_iter()
        .filter_map(|rule| body(rule, chain))
        .collect())
}

fn body(message: NfTablesMessage, chain: RuleChain) -> Option<(RuleChain, RuleBody)> {
    let NfTablesMessage::NewRule(rule) = message else {
        return None;
    };
    let bodies = rule
        .attributes
        .into_iter()
        .filter_map(|attribute| match attribute {
            RuleAttribute::Expressions(body) => Some(body),
            _ => None,
        });
    Some((chain, bodies.flatten().collect()))
}

fn is_hooked(found: &ChainMessage, chain: RuleChain) -> bool {
    hook(chain).iter().all(|wanted| {
        found.attributes.iter().any(|attribute| match attribute {
            ChainAttribute::Hook(found) => found.contains(wanted),
            _ => false,
        })
    })
}

fn rules_equal(found: &[(RuleChain, RuleBody)], wanted: &[(RuleChain, RuleBody)]) -> bool {
    let mut wanted: Vec<_> = wanted.iter().collect();
    // The kernel lists one chain after the other.
    wanted.sort_by_key(|(chain, _)| *chain as u8);
    found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| {
            found.0 == wanted.0
                && found.1.len() == wanted.1.len()
                && found.1.iter().zip(&wanted.1).all(expressions_equal)
        })
}

/// Whether an expression that the kernel lists is the wanted one. It may have more attributes, in another order.
fn expressions_equal(
    (found, wanted): (
        &ListAttribute<ExpressionAttribute>,
        &ListAttribute<ExpressionAttribute>,
    ),
) -> bool {
    let (ListAttribute::Element(found), ListAttribute::Element(wanted)) = (found, wanted) else {
        return false;
    };
    wanted.iter().all(|wanted| match wanted {
        // `notrack` has no data beyond its name, and the kernel lists none.
        ExpressionAttribute::Data(Expressions::Other { .. }) => true,
        ExpressionAttribute::Data(wanted) => found.iter().any(|found| match found {
            ExpressionAttribute::Data(found) => covers(found, wanted),
            _ => false,
        }),
        wanted => found.contains(wanted),
    })
}

fn covers(found: &Expressions, wanted: &Expressions) -> bool {
    fn all<T: PartialEq>(found: &[T], wanted: &[T]) -> bool {
        wanted.iter().all(|wanted| found.contains(wanted))
    }
    match (found, wanted) {
        (Expressions::Meta(found), Expressions::Meta(wanted)) => all(found, wanted),
        (Expressions::Payload(found), Expressions::Payload(wanted)) => all(found, wanted),
        (Expressions::Cmp(found), Expressions::Cmp(wanted)) => all(found, wanted),
        (found, wanted) => found == wanted,
    }
}

fn rules(
    endpoints: &[SocketAddr],
    protocols: &[u8],
    ends: &[(RuleChain, End)],
) -> Vec<(RuleChain, RuleBody)> {
    let mut rules = Vec::new();
    for &endpoint in endpoints {
        for &protocol in protocols {
            for &(chain, end) in ends {
                rules.push((chain, notrack(endpoint, protocol, end)));
            }
        }
    }
    rules
}

/// A rule such as `ip daddr 169.254.20.53 udp dport 53 notrack`.
fn notrack(endpoint: SocketAddr, protocol: u8, end: End) -> RuleBody {
    let mut body = packets(endpoint, protocol, end);
    let notrack = Expressions::Other {
        expression_type: "notrack".to_owned(),
        attributes: Vec::new(),
    };
    body.push(notrack.into());
    body
}

/// TCP connections that connection tracking does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connections {
    All,
    /// Those of which it has not seen the first packet.
    Begun,
}

/// Rules that translate our endpoints to themselves, after which nobody else translates the connection.
fn untranslated(endpoints: &[SocketAddr], which: Connections) -> Vec<(RuleChain, RuleBody)> {
    let mut rules = Vec::new();
    for &endpoint in endpoints {
        for chain in RuleChain::TRANSLATION {
            rules.push((chain, to_itself(endpoint, which)));
        }
    }
    rules
}

/// A rule such as `ip daddr 169.254.20.53 tcp dport 53 tcp flags & syn == 0 dnat ip to 169.254.20.53`.
fn to_itself(endpoint: SocketAddr, which: Connections) -> RuleBody {
    let mut body = packets(endpoint, TCP, End::Destination);
    if which == Connections::Begun {
        body.extend(tcp_flag_is_not_set(SYN));
    }
    let (family, address) = family_and_address(endpoint.ip());
    let address = vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(address)),
    ];
    body.push(Expressions::Immediate(address).into());
    let number = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let translate = Expressions::Other {
        expression_type: "nat".to_owned(),
        attributes: vec![
            number(NFTA_NAT_TYPE, NFT_NAT_DNAT),
            number(NFTA_NAT_FAMILY, family.into()),
            number(NFTA_NAT_REG_ADDR_MIN, Register::Reg1.into()),
        ],
    };
    body.push(translate.into());
    body
}

/// Matches packets of one protocol from or to one of our endpoints.
fn packets(endpoint: SocketAddr, protocol: u8, end: End) -> RuleBody {
    let (family, address) = family_and_address(endpoint.ip());
    // Offsets of the addresses: RFC 791 §3.1, RFC 8200 §3.
    let (source, destination) = match endpoint.ip() {
        IpAddr::V4(_) => (12, 16),
        IpAddr::V6(_) => (8, 24),
    };
    // Offsets of the ports, in UDP and TCP alike: RFC 768, RFC 9293 §3.1.
    let (address_offset, port_offset) = match end {
        End::Source => (source, 0),
        End::Destination => (destination, 2),
    };
    let mut body = Vec::new();
    body.extend(meta_is(MetaKey::Nfproto, family));
    body.extend(payload_is(NETWORK, address_offset, address));
    body.extend(meta_is(MetaKey::L4Proto, protocol));
    let port = endpoint.port().to_be_bytes().to_vec();
    body.extend(payload_is(TRANSPORT, port_offset, port));
    body
}

fn family_and_address(ip: IpAddr) -> (u8, Vec<u8>) {
    let (family, address) = match ip {
        IpAddr::V4(ip) => (libc::NFPROTO_IPV4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::NFPROTO_IPV6, ip.octets().to_vec()),
    };
    (u8::try_from(family).expect("2 and 10"), address)
}

fn tcp_flag_is_not_set(flag: u8) -> [ListAttribute<ExpressionAttribute>; 3] {
    let mask = vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(1),
        Bitwise::Mask(DataAttribute::Value(vec![flag])),
        Bitwise::Xor(DataAttribute::Value(vec![0])),
    ];
    [
        payload(TRANSPORT, TCP_FLAGS, 1),
        Expressions::Bitwise(mask).into(),
        equal(vec![0]),
    ]
}

fn meta_is(key: MetaKey, value: u8) -> [ListAttribute<ExpressionAttribute>; 2] {
    let meta = vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)];
    [Expressions::Meta(meta).into(), equal(vec![value])]
}

fn payload_is(base: u32, offset: u32, value: Vec<u8>) -> [ListAttribute<ExpressionAttribute>; 2] {
    let length = u32::try_from(value.len()).expect("16 at most");
    [payload(base, offset, length), equal(value)]
}

/// Loads octets of a packet.
fn payload(base: u32, offset: u32, length: u32) -> ListAttribute<ExpressionAttribute> {
    let payload = vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ];
    Expressions::Payload(payload).into()
}

fn equal(value: Vec<u8>) -> ListAttribute<ExpressionAttribute> {
    let cmp = vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value)),
    ];
    Expressions::Cmp(cmp).into()
}

fn table() -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(TABLE.to_owned())],
    }
}

fn hook(chain: RuleChain) -> Vec<Hook> {
    vec![
        Hook::Number(chain.hook().into()),
        Hook::Priority(chain.priority().cast_unsigned()),
    ]
}

fn chain_message(chain: RuleChain) -> ChainMessage {
    ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(chain.name().to_owned()),
            ChainAttribute::Hook(hook(chain)),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(chain.kind().to_owned()),
        ],
    }
}

/// A message that changes or reads an existing object.
fn plain(message: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST;
    message
}

/// A message that creates an object behind the existing ones.
fn new(message: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    let mut message = plain(message);
    message.header.flags |= NLM_F_CREATE | NLM_F_APPEND;
    message
}

/// A transaction: all of it or nothing.
fn transaction(mut messages: Vec<NetlinkMessage<NetfilterMessage>>) -> io::Result<()> {
    let mark = |control: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        let mut message = NetlinkMessage::from(NetfilterMessage::new(header, control));
        message.header.flags = NLM_F_REQUEST;
        message
    };
    // Errors come without being asked for. An acknowledgement of each would overrun the socket's buffer, so the last
    // stands for all.
    if let Some(last) = messages.last_mut() {
        last.header.flags |= NLM_F_ACK;
    }
    messages.insert(0, mark(ControlMessage::BatchBegin));
    messages.push(mark(ControlMessage::BatchEnd));
    exchange(NETLINK_NETFILTER, messages).map(drop)
}

/// The listed objects; empty if there is none of the name.
fn ask(request: NfTablesMessage, flags: u16) -> io::Result<Vec<NfTablesMessage>> {
    let mut message = plain(request);
    message.header.flags |= flags;
    let received = match exchange(NETLINK_NETFILTER, vec![message]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        received => received?,
    };
    let mut found = Vec::new();
    for message in received {
        let message = NetfilterMessage::deserialize(&message.header, &message.payload)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let NetfilterMessageInner::NfTables(message) = message.inner {
            found.push(message);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let parse = |text: &&str| text.parse().expect("an address and port");
        texts.iter().map(parse).collect()
    }

    #[test]
    fn only_our_own_addresses_at_the_ports_they_are_served_on() {
        let ours = ["169.254.20.53", "fd00::53"].map(|text| text.parse().expect("an address"));
        let listen = [
            "127.0.0.1:5300",
            "169.254.20.53:53",
            "10.0.0.7:53",
            "[::]:5353",
        ];
        assert_eq!(
            endpoints(&ours, &addresses(&listen)),
            addresses(&["169.254.20.53:53", "[fd00::53]:5353"])
        );
        // Both name the same port: one rule is enough.
        assert_eq!(
            endpoints(&ours, &addresses(&["0.0.0.0:53", "169.254.20.53:53"])),
            addresses(&["169.254.20.53:53"])
        );
    }

    #[test]
    fn six_rules_an_endpoint() {
        let endpoints = addresses(&["169.254.20.53:53", "[fd00::53]:53"]);
        let rules = rules(&endpoints, &[UDP, TCP], &ALL);
        assert_eq!(rules.len(), 12);
        let prerouting = rules
            .iter()
            .filter(|(chain, _)| *chain == RuleChain::Prerouting);
        assert_eq!(prerouting.count(), 4);
    }

    #[test]
    fn rules_are_those_wanted_or_not() {
        let sort = |mut rules: Vec<(RuleChain, RuleBody)>| {
            rules.sort_by_key(|(chain, _)| *chain as u8);
            rules
        };
        let one = rules(&addresses(&["169.254.20.53:53"]), &[UDP, TCP], &ALL);
        let other = rules(&addresses(&["169.254.20.54:53"]), &[UDP, TCP], &ALL);
        let listed = sort(one.clone());
        assert!(rules_equal(&listed, &one));
        assert!(!rules_equal(&listed, &other), "another address");
        assert!(!rules_equal(&listed[1..], &one), "one is missing");
        assert!(
            !rules_equal(&[&listed[..], &listed[..1]].concat(), &one),
            "one is twice"
        );
        assert!(!rules_equal(&[], &one), "none");

        // As a kernel might list it: in another order, with more to it, and nothing of notrack but its name.
        let mut relisted = listed.clone();
        for (_, body) in &mut relisted {
            for expression in body {
                let ListAttribute::Element(attributes) = expression else {
                    panic!("a list of expressions");
                };
                attributes.retain(|attribute| {
                    !matches!(
                        attribute,
                        ExpressionAttribute::Data(Expressions::Other { .. })
                    )
                });
                for attribute in attributes {
                    if let ExpressionAttribute::Data(Expressions::Meta(meta)) = attribute {
                        meta.reverse();
                        meta.push(Meta::Unspecified);
                    }
                }
            }
        }
        assert!(rules_equal(&relisted, &one));

        // A rule that drops our queries instead.
        let mut dropping = listed;
        let last = dropping[0].1.last_mut().expect("notrack");
        let drop = Expressions::Other {
            expression_type: "reject".to_owned(),
            attributes: Vec::new(),
        };
        *last = drop.into();
        assert!(!rules_equal(&dropping, &one));
    }
}
