//! The interface that carries our addresses, over rtnetlink.
//!
//! Reads the current state, computes what is missing ([`plan`], pure), and does exactly that. A dummy interface belongs
//! to nodens; of the loopback interface only the addresses do.
//!
//! Our addresses must never become the source address of packets of other programs on this host. An IPv4 address
//! therefore has scope link: the kernel takes source addresses for interfaces without one of their own, as the host
//! ends of pods' veth pairs often are, from the first interface that has one of global scope, and the loopback
//! interface is the first. An IPv6 address is deprecated (RFC 6724 §5, rule 3). Sockets can answer from such addresses
//! all the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{KernelMessage, attributes, exchange};
use super::{NodeError, Object};
use crate::config::{InterfaceConfig, InterfaceKind, NodeConfig};

/// Attributes of links and addresses (`linux/if_link.h`, `linux/if_addr.h`).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Lengths of `struct ifinfomsg` and `struct ifaddrmsg`, which stand before the attributes.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
/// Flags of a link (`linux/if.h`).
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// An existing interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExistingLink {
    index: u32,
    name: String,
    up: bool,
    loopback: bool,
    /// Its kind, such as `dummy` or `veth`; empty for hardware.
    kind: String,
}

/// An existing address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    index: u32,
    address: IpAddr,
    prefix_len: u8,
}

/// A missing part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InterfaceStep {
    Create,
    SetUp,
    Add(IpAddr),
}

/// Why the wanted state cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InterfaceObstacle {
    NoLoopback,
    OtherKind,
    Elsewhere(Held),
}

/// Creates the interface and addresses of `config` as far as they are missing; returns what was created.
///
/// # Errors
/// [`NodeError`], and then some of it may have been done.
pub(super) fn ensure(config: &NodeConfig, done: &mut Vec<Object>) -> Result<(), NodeError> {
    let name = &config.interface.name;
    let failed = |source| NodeError::link("look at", name, source);
    let mut link = find(name).map_err(failed)?;
    let held = addresses().map_err(failed)?;
    let steps = plan(config, link.as_ref(), &held)
        .map_err(|obstacle| explain(&config.interface, link.as_ref(), obstacle))?;
    for step in steps {
        match step {
            InterfaceStep::Create => {
                create(name).map_err(|source| NodeError::create(name, source))?;
                link = find(name).map_err(failed)?;
            }
            InterfaceStep::SetUp => {
                let up = |link: &ExistingLink| set_up(link.index);
                on(link.as_ref(), up).map_err(|source| NodeError::link("set up", name, source))?;
            }
            InterfaceStep::Add(address) => {
                let add = |link: &ExistingLink| add(link.index, address);
                on(link.as_ref(), add)
                    .map_err(|source| NodeError::address(address, name, source))?;
            }
        }
        done.push(match step {
            InterfaceStep::Create => Object::Interface(name.clone()),
            InterfaceStep::SetUp => Object::InterfaceUp(name.clone()),
            InterfaceStep::Add(address) => Object::Address(address, name.clone()),
        });
    }
    Ok(())
}

/// Deletes the dummy interface, or our addresses on the loopback interface; returns what was there.
///
/// # Errors
/// [`NodeError`], and then some of it may be left.
pub(super) fn remove(config: &NodeConfig) -> Result<Vec<Object>, NodeError> {
    let name = &config.interface.name;
    let failed = |source| NodeError::link("look at", name, source);
    let Some(link) = find(name).map_err(failed)? else {
        return Ok(Vec::new());
    };
    if !is_ours(&config.interface, &link) {
        return Err(explain(
            &config.interface,
            Some(&link),
            InterfaceObstacle::OtherKind,
        ));
    }
    if config.interface.kind == InterfaceKind::Dummy {
        delete(link.index).map_err(|source| NodeError::link("delete", name, source))?;
        return Ok(vec![Object::Interface(name.clone())]);
    }
    remove_addresses(name, &config.addresses)
}

/// As [`remove`], but if a dummy interface has addresses of another instance, only our addresses are deleted.
///
/// # Errors
/// [`NodeError`], and then some of it may be left.
pub(super) fn remove_ours(config: &NodeConfig) -> Result<Vec<Object>, NodeError> {
    let name = &config.interface.name;
    let failed = |source| NodeError::link("look at", name, source);
    let link = find(name).map_err(failed)?;
    let held = addresses().map_err(failed)?;
    match link {
        Some(link) if is_shared(&link, &held, &config.addresses) => {
            remove_addresses(name, &config.addresses)
        }
        _ => remove(config),
    }
}

/// Whether the interface carries addresses of another instance of nodens.
fn is_shared(link: &ExistingLink, held: &[Held], ours: &[IpAddr]) -> bool {
    held.iter()
        .any(|held| held.index == link.index && is_single(held) && !ours.contains(&held.address))
}

/// Deletes addresses from an interface; returns those that were there.
///
/// # Errors
/// [`NodeError`], and then some of them may be left.
pub(super) fn remove_addresses(name: &str, ours: &[IpAddr]) -> Result<Vec<Object>, NodeError> {
    let failed = |source| NodeError::link("look at", name, source);
    let Some(link) = find(name).map_err(failed)? else {
        return Ok(Vec::new());
    };
    let held = addresses().map_err(failed)?;
    let mut removed = Vec::new();
    for held in held
        .into_iter()
        .filter(|held| held.index == link.index && ours.contains(&held.address) && is_single(held))
    {
        take(held).map_err(|source| NodeError::address(held.address, name, source))?;
        removed.push(Object::Address(held.address, name.to_owned()));
    }
    Ok(removed)
}

fn is_ours(wanted: &InterfaceConfig, link: &ExistingLink) -> bool {
    match wanted.kind {
        InterfaceKind::Dummy => link.kind == "dummy",
        InterfaceKind::Loopback => link.loopback,
    }
}

/// Whether an address has a full-length prefix. One with a shorter prefix was not added by nodens: it makes a route.
fn is_single(held: &Held) -> bool {
    held.prefix_len == full_prefix(held.address)
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The missing parts in the order in which they must be created: an interface that is down loses its IPv6 addresses.
fn plan(
    config: &NodeConfig,
    link: Option<&ExistingLink>,
    held: &[Held],
) -> Result<Vec<InterfaceStep>, InterfaceObstacle> {
    let mut steps = Vec::new();
    match (link, config.interface.kind) {
        (None, InterfaceKind::Loopback) => return Err(InterfaceObstacle::NoLoopback),
        // The interface is created up.
        (None, InterfaceKind::Dummy) => steps.push(InterfaceStep::Create),
        (Some(link), _) if !is_ours(&config.interface, link) => {
            return Err(InterfaceObstacle::OtherKind);
        }
        (Some(link), _) if !link.up => steps.push(InterfaceStep::SetUp),
        (Some(_), _) => {}
    }
    for &address in &config.addresses {
        let here = |held: &&Held| Some(held.index) == link.map(|link| link.index);
        let same = || held.iter().filter(|held| held.address == address);
        if let Some(elsewhere) = same().find(|held| !(here(held) && is_single(held))) {
            return Err(InterfaceObstacle::Elsewhere(*elsewhere));
        }
        if same().next().is_none() {
            steps.push(InterfaceStep::Add(address));
        }
    }
    Ok(steps)
}

fn explain(
    wanted: &InterfaceConfig,
    link: Option<&ExistingLink>,
    obstacle: InterfaceObstacle,
) -> NodeError {
    let name = wanted.name.clone();
    match obstacle {
        InterfaceObstacle::NoLoopback => NodeError::NoLoopback { name },
        InterfaceObstacle::OtherKind => {
            let found = match link {
                Some(link) if link.loopback => "the loopback interface".to_owned(),
                Some(link) if !link.kind.is_empty() => format!("a {} interface", link.kind),
                _ => "an interface of another kind".to_owned(),
            };
            match wanted.kind {
                InterfaceKind::Dummy => NodeError::NotDummy { name, found },
                InterfaceKind::Loopback => NodeError::NotLoopback { name, found },
            }
        }
        InterfaceObstacle::Elsewhere(held) => {
            // Its name is for people; without it they still have its number.
            let other = find_index(held.index).ok().flatten();
            let loopback = other.as_ref().is_some_and(|other| other.loopback);
            let interface =
                other.map_or_else(|| format!("interface {}", held.index), |other| other.name);
            NodeError::AddressTaken {
                address: held.address,
                prefix_len: held.prefix_len,
                instead: if loopback && wanted.kind == InterfaceKind::Dummy && is_single(&held) {
                    "write node.interface: {kind: loopback}"
                } else {
                    "choose another address"
                },
                interface,
            }
        }
    }
}

fn on(
    link: Option<&ExistingLink>,
    act: impl FnOnce(&ExistingLink) -> io::Result<()>,
) -> io::Result<()> {
    act(link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?)
}

fn find(name: &str) -> io::Result<Option<ExistingLink>> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    get_link(message)
}

fn find_index(index: u32) -> io::Result<Option<ExistingLink>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    get_link(message)
}

fn get_link(message: LinkMessage) -> io::Result<Option<ExistingLink>> {
    match request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
        Ok(received) => Ok(received
            .iter()
            .find_map(|message| ExistingLink::read(&message.payload))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn addresses() -> io::Result<Vec<Held>> {
    let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let received = request(message, NLM_F_DUMP)?;
    let held = received
        .iter()
        .filter_map(|message| Held::read(&message.payload));
    Ok(held.collect())
}

fn create(name: &str) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
    ];
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    // Another instance that started at the same moment has created it.
    unless(
        libc::EEXIST,
        request(RouteNetlinkMessage::NewLink(message), flags),
    )
}

fn set_up(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK).map(drop)
}

fn delete(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    unless(
        libc::ENODEV,
        request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK),
    )
}

fn add(index: u32, address: IpAddr) -> io::Result<()> {
    let mut message = address_message(index, address);
    match address {
        IpAddr::V4(_) => message.header.scope = AddressScope::Link,
        IpAddr::V6(_) => {
            // Without duplicate address detection it is usable at once. Nobody else is on this link.
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_valid = u32::MAX;
            message
                .attributes
                .push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    // Another instance that started at the same moment has added it.
    unless(
        libc::EEXIST,
        request(RouteNetlinkMessage::NewAddress(message), flags),
    )
}

fn take(held: Held) -> io::Result<()> {
    let message = address_message(held.index, held.address);
    let gone = request(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK);
    unless(libc::EADDRNOTAVAIL, gone)
}

fn address_message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = full_prefix(address);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<KernelMessage>> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    exchange(NETLINK_ROUTE, vec![message])
}

/// Success, also where the kernel answers with this error: then the change was made by another instance.
fn unless(errno: i32, result: io::Result<Vec<KernelMessage>>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() != Some(errno) => Err(error),
        _ => Ok(()),
    }
}

impl ExistingLink {
    /// `None` for what is too short to be a link.
    fn read(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(LINK_HEADER)?;
        let flags = u32_at(header, 8)?;
        let mut link = Self {
            index: u32_at(header, 4)?,
            name: String::new(),
            up: flags & IFF_UP != 0,
            loopback: flags & IFF_LOOPBACK != 0,
            kind: String::new(),
        };
        for (kind, value) in attributes(rest) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_LINKINFO => {
                    let mut info = attributes(value);
                    let kind = info.find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    link.kind = kind.map_or_else(String::new, |(_, value)| text(value));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

impl Held {
    /// `None` for what is no address of IPv4 or IPv6.
    fn read(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(ADDRESS_HEADER)?;
        let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
        // On a point-to-point link IFA_ADDRESS is the other end's.
        let (_, value) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
        let address = match value.len() {
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into(),
            16 => Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into(),
            _ => return None,
        };
        Some(Self {
            index: u32_at(header, 4)?,
            address,
            prefix_len: header[1],
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnExit;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 53));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53));

    fn config(kind: InterfaceKind) -> NodeConfig {
        NodeConfig {
            addresses: vec![V4, V6],
            interface: InterfaceConfig {
                name: "dns0".to_owned(),
                kind,
            },
            notrack: true,
            on_exit: OnExit::Keep,
        }
    }

    fn link(kind: &str) -> ExistingLink {
        ExistingLink {
            index: 7,
            name: "dns0".to_owned(),
            up: true,
            loopback: kind.is_empty(),
            kind: kind.to_owned(),
        }
    }

    fn held(index: u32, address: IpAddr, prefix_len: u8) -> Held {
        Held {
            index,
            address,
            prefix_len,
        }
    }

    #[test]
    fn on_a_bare_node_everything_is_missing() {
        let steps = plan(&config(InterfaceKind::Dummy), None, &[]);
        assert_eq!(
            steps,
            Ok(vec![
                InterfaceStep::Create,
                InterfaceStep::Add(V4),
                InterfaceStep::Add(V6)
            ])
        );
    }

    #[test]
    fn what_a_predecessor_left_is_taken_over() {
        let there = [held(7, V4, 32), held(7, V6, 128)];
        for (kind, found) in [
            (InterfaceKind::Dummy, "dummy"),
            (InterfaceKind::Loopback, ""),
        ] {
            assert_eq!(plan(&config(kind), Some(&link(found)), &there), Ok(vec![]));
        }
    }

    #[test]
    fn an_interface_that_is_down_goes_up_before_it_gets_addresses() {
        let down = ExistingLink {
            up: false,
            ..link("dummy")
        };
        let steps = plan(
            &config(InterfaceKind::Dummy),
            Some(&down),
            &[held(7, V4, 32)],
        );
        assert_eq!(
            steps,
            Ok(vec![InterfaceStep::SetUp, InterfaceStep::Add(V6)])
        );
    }

    #[test]
    fn other_peoples_interfaces_are_left_alone() {
        let cases = [
            (
                InterfaceKind::Dummy,
                Some(link("veth")),
                InterfaceObstacle::OtherKind,
            ),
            (
                InterfaceKind::Dummy,
                Some(link("")),
                InterfaceObstacle::OtherKind,
            ),
            (
                InterfaceKind::Loopback,
                Some(link("dummy")),
                InterfaceObstacle::OtherKind,
            ),
            (InterfaceKind::Loopback, None, InterfaceObstacle::NoLoopback),
        ];
        for (kind, link, obstacle) in cases {
            assert_eq!(
                plan(&config(kind), link.as_ref(), &[]),
                Err(obstacle),
                "{link:?}"
            );
        }
    }

    #[test]
    fn an_address_of_another_interface_or_with_a_network_is_not_taken() {
        for other in [held(3, V4, 32), held(7, V4, 16), held(3, V6, 64)] {
            let there = [held(3, "10.0.0.1".parse().expect("an address"), 24), other];
            let steps = plan(&config(InterfaceKind::Dummy), Some(&link("dummy")), &there);
            assert_eq!(steps, Err(InterfaceObstacle::Elsewhere(other)));
            // Nor where we have it as well: pods would reach either.
            let twice = [held(7, V4, 32), held(7, V6, 128), other];
            let steps = plan(&config(InterfaceKind::Dummy), Some(&link("dummy")), &twice);
            assert_eq!(steps, Err(InterfaceObstacle::Elsewhere(other)));
        }
        let before = plan(&config(InterfaceKind::Dummy), None, &[held(3, V4, 32)]);
        assert_eq!(before, Err(InterfaceObstacle::Elsewhere(held(3, V4, 32))));
    }

    #[test]
    fn an_interface_with_another_instances_address_is_shared() {
        let link = link("dummy");
        let other: IpAddr = "10.96.0.10".parse().expect("an address");
        // What the kernel gives an interface that is up.
        let link_local: IpAddr = "fe80::1".parse().expect("an address");
        let mut there = vec![held(7, V4, 32), held(7, link_local, 64), held(1, other, 32)];
        assert!(!is_shared(&link, &there, &[V4]));
        there.push(held(7, other, 32));
        assert!(is_shared(&link, &there, &[V4]));
        assert!(!is_shared(&link, &there, &[V4, other]));
    }

    #[test]
    fn the_kernels_words_are_understood() {
        // `ip link show lo` and `ip address show lo`, shortened.
        let mut bytes = vec![0, 0, 4, 3];
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend((IFF_UP | IFF_LOOPBACK | 0x1_0040).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(attribute(IFLA_IFNAME, b"lo\0"));
        assert_eq!(
            ExistingLink::read(&bytes),
            Some(ExistingLink {
                index: 1,
                name: "lo".to_owned(),
                up: true,
                loopback: true,
                kind: String::new(),
            })
        );
        bytes.extend(attribute(
            IFLA_LINKINFO,
            &attribute(IFLA_INFO_KIND, b"dummy\0"),
        ));
        assert_eq!(ExistingLink::read(&bytes).expect("a link").kind, "dummy");
        assert_eq!(ExistingLink::read(&bytes[..10]), None);

        let mut bytes = vec![2, 32, 0x80, 253];
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(attribute(IFA_ADDRESS, &[10, 0, 0, 2]));
        bytes.extend(attribute(IFA_LOCAL, &[169, 254, 20, 53]));
        assert_eq!(Held::read(&bytes), Some(held(1, V4, 32)));
        assert_eq!(Held::read(&bytes[..8]), None);
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
