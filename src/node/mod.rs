//! The interface with the addresses that pods ask, and the nftables rules that keep their DNS out of connection
//! tracking.
//!
//! Owns one interface (or only addresses, on the loopback interface) and one nftables table, and touches nothing else
//! of the node. Everything goes to the kernel over netlink, from this process. Each step reads the current state and
//! adds what is missing. So a start takes over what a killed predecessor left, and nothing is set up twice.
//!
//! Limits: two instances that share a node during an upgrade must agree on addresses and ports; else each puts its own
//! rules back until the old one is gone. An instance that is killed removes nothing.

mod interface;
pub mod metrics;
pub mod netlink;
mod notrack;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::config::{InterfaceKind, NodeConfig, OnExit};
use metrics::{NodeMetrics, NodePart};

/// Pause between checks of the node. A flushed ruleset or a deleted interface interrupts DNS for at most this time; a
/// check costs a few system calls.
const RECHECK: Duration = Duration::from_secs(10);

/// A part of the set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The dummy interface.
    Interface(String),
    /// The state "up" of the interface.
    InterfaceUp(String),
    /// An address, on an interface.
    Address(IpAddr, String),
    /// The nftables table with its rules.
    Table,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::InterfaceUp(name) => write!(f, "interface {name} (it was down)"),
            Self::Address(address, name) => write!(f, "address {address} on {name}"),
            Self::Table => write!(f, "nftables table inet {}", notrack::TABLE),
        }
    }
}

/// Why the node could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel denies permission.
    #[error(
        "node: {object}: this needs CAP_NET_ADMIN: grant it (Kubernetes: securityContext: {{capabilities: {{add: [NET_ADMIN]}}}} for a container of UID 0; systemd: AmbientCapabilities=CAP_NET_ADMIN), or write `node: null` and set up the node yourself"
    )]
    Capability {
        /// The action and its object.
        object: String,
    },
    /// The kernel has no dummy interfaces.
    #[error(
        "node.interface {name}: this kernel has no dummy interfaces: load the module (`modprobe dummy`), or write node.interface: {{kind: loopback}}"
    )]
    NoDummy {
        /// The interface.
        name: String,
    },
    /// The name belongs to an interface of another kind.
    #[error(
        "node.interface {name}: there is {found} of this name, which is not ours to use: choose another node.interface.name"
    )]
    NotDummy {
        /// The interface.
        name: String,
        /// What it is.
        found: String,
    },
    /// The interface is no loopback interface.
    #[error(
        "node.interface {name}: it is {found}, not the loopback interface: write node.interface: {{kind: loopback}} without a name"
    )]
    NotLoopback {
        /// The interface.
        name: String,
        /// What it is.
        found: String,
    },
    /// There is no such loopback interface.
    #[error(
        "node.interface {name}: there is no such interface: write node.interface: {{kind: loopback}} without a name"
    )]
    NoLoopback {
        /// The interface.
        name: String,
    },
    /// Another interface has the address.
    #[error(
        "node.addresses {address}: {interface} has it already, as {address}/{prefix_len}: remove it there (`ip address del {address}/{prefix_len} dev {interface}`), or {instead}"
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
        /// The interface that has it.
        interface: String,
        /// The remedy.
        instead: &'static str,
    },
    /// The kernel has IPv6 switched off for the interface.
    #[error(
        "node.addresses {address}: IPv6 is switched off on {interface}: set the sysctl net.ipv6.conf.{interface}.disable_ipv6 to 0, or remove the address"
    )]
    NoIpv6 {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Anything else about an address.
    #[error("node.addresses {address} on {interface}: {source}")]
    Address {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Anything else about the interface.
    #[error("node.interface {name}: cannot {action} it: {source}")]
    Interface {
        /// What was to be done.
        action: &'static str,
        /// The interface.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel lacks what the rules need.
    #[error(
        "node.notrack: this kernel lacks what the rules need: load the modules nf_tables and nft_ct, or write node.notrack: false"
    )]
    NoNotrack,
    /// Anything else about the table.
    #[error("node.notrack: nftables table inet {}: {source}", notrack::TABLE)]
    Table {
        /// What the kernel says.
        source: io::Error,
    },
}

impl NodeError {
    /// The missing part.
    fn part(&self) -> NodePart {
        match self {
            Self::NoNotrack | Self::Table { .. } => NodePart::Rules,
            _ => NodePart::Interface,
        }
    }

    fn link(action: &'static str, name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::Capability {
                object: format!("cannot {action} interface {name}"),
            },
            _ => Self::Interface {
                action,
                name,
                source,
            },
        }
    }

    fn create(name: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::NoDummy {
                name: name.to_owned(),
            },
            _ => Self::link("create", name, source),
        }
    }

    fn address(address: IpAddr, interface: &str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::Capability {
                object: format!("cannot change address {address} on {interface}"),
            },
            Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if address.is_ipv6() => {
                Self::NoIpv6 { address, interface }
            }
            _ => Self::Address {
                address,
                interface,
                source,
            },
        }
    }

    fn table(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::Capability {
                object: format!("cannot use nftables table inet {}", notrack::TABLE),
            },
            // The batch itself, a chain type or `notrack` is not there; EPROTONOSUPPORT: no netfilter at all.
            Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT) => Self::NoNotrack,
            _ => Self::Table { source },
        }
    }
}

/// Whether another instance serves our addresses when this one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    /// Another instance does: it has taken over what is set up.
    Serves,
    /// None does.
    None,
}

/// The node as this instance wants it. Dropping it changes nothing on the node.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    state: Mutex<NodeState>,
}

#[derive(Debug, Default)]
struct NodeState {
    rules: Rules,
    /// Interface and addresses that were not there before this instance.
    made: Vec<Object>,
    /// This instance has stopped looking after the node.
    left: bool,
}

/// The rules that this instance wants.
#[derive(Debug, Default)]
enum Rules {
    /// None, or none yet.
    #[default]
    None,
    /// None yet for arriving packets: they go to another server of our addresses (kube-proxy), if there is one, else to
    /// us.
    LeftToOthers,
    /// For these endpoints, all but those for TCP: others still have connections.
    TakingOver(Vec<SocketAddr>),
    /// All, for these endpoints.
    All(Vec<SocketAddr>),
    /// The rules for our replies only: arriving packets go to others again.
    Replies,
}

impl Node {
    /// Creates missing interface and addresses, before sockets are bound to them.
    ///
    /// # Errors
    /// Some of it may have been done, unless `on_exit` is `remove`.
    pub fn ensure_interface(config: &NodeConfig) -> Result<Self, NodeError> {
        if config.notrack {
            // Asks for the capability, so that its lack is known before anything is changed.
            notrack::exists().map_err(NodeError::table)?;
        }
        let node = Self {
            config: config.clone(),
            state: Mutex::default(),
        };
        let ensured = interface::ensure(config, &mut node.state().made);
        if let Err(error) = ensured {
            node.give_up();
            return Err(error);
        }
        tracing::info!(
            interface = config.interface.name,
            made = list(&node.state().made),
            "the node's addresses are in place"
        );
        Ok(node)
    }

    /// Makes the rules those of the listen addresses. To be called once listeners answer, and again when the addresses
    /// change. Does nothing while the addresses are left to others.
    ///
    /// # Errors
    /// The rules are then as they were.
    pub fn ensure_notrack(&self, listen: &[SocketAddr]) -> Result<(), NodeError> {
        if !self.config.notrack {
            Self::remove_stale_table();
            return Ok(());
        }
        // Held throughout, so that a check does not restore the earlier rules.
        let mut state = self.state();
        if matches!(state.rules, Rules::LeftToOthers) {
            return Ok(());
        }
        let endpoints = notrack::endpoints(&self.config.addresses, listen);
        if !notrack::is_in_place(&endpoints).map_err(NodeError::table)? {
            notrack::replace(&endpoints).map_err(NodeError::table)?;
        }
        state.rules = Rules::All(endpoints);
        Ok(())
    }

    /// To be called in place of the first [`Self::ensure_notrack`] by an instance whose servers have not answered yet.
    /// Returns whether it left the addresses to others until [`Self::take_over`]. It does so only with `on_exit:
    /// remove`, which means that another server may serve them, and only while the rules, which would divert the
    /// queries to us, are not in place.
    ///
    /// If no other server has the addresses, queries reach us all the same, through connection tracking.
    ///
    /// # Errors
    /// Why the rules cannot be made; there are none then.
    pub fn leave_to_others(&self, listen: &[SocketAddr]) -> Result<bool, NodeError> {
        if !self.config.notrack || self.config.on_exit == OnExit::Keep {
            return Ok(false);
        }
        let mut state = self.state();
        let endpoints = notrack::endpoints(&self.config.addresses, listen);
        if notrack::is_in_place(&endpoints).map_err(NodeError::table)? {
            return Ok(false);
        }
        // An existing table belongs to an instance with other addresses, which still needs it.
        if !notrack::exists().map_err(NodeError::table)? {
            notrack::replace_for_replies(&endpoints).map_err(NodeError::table)?;
        }
        state.rules = Rules::LeftToOthers;
        Ok(true)
    }

    /// Takes new queries from the others to whom the addresses were left, unless this instance is about to end. Others
    /// keep the TCP connections that they have until [`Self::complete_take_over`].
    ///
    /// # Errors
    /// Why the rules are not in place.
    pub fn take_over(&self, listen: &[SocketAddr]) -> Result<(), NodeError> {
        let mut state = self.state();
        if !matches!(state.rules, Rules::LeftToOthers) {
            return Ok(());
        }
        let endpoints = notrack::endpoints(&self.config.addresses, listen);
        let made = notrack::replace_for_new(&endpoints).map_err(NodeError::table);
        state.rules = Rules::TakingOver(endpoints);
        made
    }

    /// Keeps TCP out of connection tracking too, with which connections that others still have end.
    ///
    /// # Errors
    /// Why the rules are not in place; checks go on trying.
    pub fn complete_take_over(&self) -> Result<(), NodeError> {
        let mut state = self.state();
        let Rules::TakingOver(endpoints) = &mut state.rules else {
            return Ok(());
        };
        let endpoints = std::mem::take(endpoints);
        let made = notrack::replace(&endpoints).map_err(NodeError::table);
        state.rules = Rules::All(endpoints);
        made
    }

    /// A predecessor with `notrack: true` may have left rules. Lack of permission to look for them must not prevent the
    /// start.
    fn remove_stale_table() {
        match notrack::remove() {
            Ok(true) => tracing::info!("removed the rules that an earlier instance left"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "earlier instances' rules cannot be looked for"),
        }
    }

    /// Restores the parts that were removed, and returns them.
    ///
    /// # Errors
    /// What could not be put back.
    pub fn check(&self) -> Result<Vec<Object>, NodeError> {
        // Held throughout: nothing may be restored after the final removal.
        let state = self.state();
        if state.left {
            return Ok(Vec::new());
        }
        let mut repaired = Vec::new();
        interface::ensure(&self.config, &mut repaired)?;
        if let Rules::All(endpoints) = &state.rules
            && !notrack::is_in_place(endpoints).map_err(NodeError::table)?
        {
            notrack::replace(endpoints).map_err(NodeError::table)?;
            repaired.push(Object::Table);
        }
        Ok(repaired)
    }

    /// Checks from time to time, for ever, and says in log and metrics what it finds.
    pub async fn watch(self: Arc<Self>, metrics: NodeMetrics) {
        metrics.watched();
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + RECHECK, RECHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The same trouble every ten seconds is one line in the log.
        let mut trouble = String::new();
        loop {
            ticks.tick().await;
            let node = Arc::clone(&self);
            // The kernel may hold its lock on the network's configuration for seconds.
            let check = tokio::task::spawn_blocking(move || node.check());
            let Ok(result) = check.await else {
                // It panicked, which is logged already.
                metrics.setup_success.set(0);
                continue;
            };
            metrics.setup_success.set(i64::from(result.is_ok()));
            match result {
                Ok(repaired) => {
                    for object in &repaired {
                        match object {
                            Object::Interface(_) | Object::InterfaceUp(_) => {
                                metrics.repaired("interface");
                            }
                            Object::Address(..) => metrics.repaired("address"),
                            Object::Table => metrics.repaired("rules"),
                        }
                        tracing::warn!(%object, "put back what somebody removed from the node");
                    }
                    trouble.clear();
                }
                Err(error) => {
                    metrics.check_failed(error.part());
                    let text = error.to_string();
                    if text != trouble {
                        tracing::error!(%error, "the node is not as it should be");
                        trouble = text;
                    }
                }
            }
        }
    }

    /// No other instance serves our addresses, and this one is about to end: with `on_exit: remove`, new queries go to
    /// the addresses' other server (kube-proxy) from now on, while we answer those that arrived, and those on TCP
    /// connections that we have. Addresses and the rules for our replies stay until [`Self::leave`], because replies could
    /// not be sent without.
    ///
    /// Returns whether it did so; [`Self::ensure_notrack`] undoes it.
    pub fn turn_away(&self) -> bool {
        let mut state = self.state();
        if self.config.on_exit == OnExit::Keep {
            return false;
        }
        // Removed from the state, so that neither a check nor a pending take-over restores the rules.
        let (Rules::All(endpoints) | Rules::TakingOver(endpoints)) =
            std::mem::take(&mut state.rules)
        else {
            return false;
        };
        state.rules = Rules::Replies;
        // Then queries to our addresses go to others already.
        if notrack::is_for_others(&self.config.addresses).unwrap_or(false) {
            tracing::info!(
                "on_exit: remove: the rules are those of an instance with other addresses"
            );
            return false;
        }
        match notrack::replace_for_replies(&endpoints) {
            Ok(()) => tracing::info!("on_exit: remove: new queries are left to others"),
            Err(error) => tracing::error!(%error, "on_exit: remove: new queries still come here"),
        }
        true
    }

    /// Ends looking after the node: `on_exit: remove` takes everything away, unless a successor needs it.
    pub fn leave(&self, successor: Successor) {
        self.state().left = true;
        match (self.config.on_exit, successor) {
            (OnExit::Keep, _) => tracing::info!("on_exit: keep: the node stays set up"),
            (OnExit::Remove, Successor::Serves) => {
                tracing::info!("the node stays set up for the instance that took over");
            }
            (OnExit::Remove, Successor::None) => match self.remove_ours() {
                Ok(removed) => tracing::info!(removed = list(&removed), "on_exit: remove"),
                Err(error) => tracing::error!(%error, "on_exit: remove: something is left"),
            },
        }
    }

    /// As [`remove`], but leaves what an instance with other addresses has put there: after a change of the addresses
    /// that pods ask, both run for a while.
    fn remove_ours(&self) -> Result<Vec<Object>, NodeError> {
        let table = match notrack::is_for_others(&self.config.addresses) {
            Ok(false) => notrack::remove(),
            other => other.map(|_| false),
        };
        let mut removed = interface::remove_ours(&self.config)?;
        if table.map_err(NodeError::table)? {
            removed.push(Object::Table);
        }
        Ok(removed)
    }

    /// Undoes a failed start: with `on_exit: remove`, removes what this instance created, so that another server of the
    /// addresses keeps its traffic.
    pub fn give_up(&self) {
        let mut state = self.state();
        state.left = true;
        if self.config.on_exit == OnExit::Keep {
            return;
        }
        let name = &self.config.interface.name;
        for object in std::mem::take(&mut state.made).into_iter().rev() {
            let undone = match &object {
                Object::Address(address, _) => {
                    interface::remove_addresses(name, &[*address]).map(drop)
                }
                Object::Interface(_) => interface::remove_ours(&self.config).map(drop),
                Object::InterfaceUp(_) | Object::Table => Ok(()),
            };
            if let Err(error) = undone {
                tracing::error!(%error, "on_exit: remove: something is left");
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, NodeState> {
        // A panic leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the table, and the interface or the addresses on it. Returns what was removed.
///
/// # Errors
/// What could not be removed; the rest is removed all the same.
pub fn remove(config: &NodeConfig) -> Result<Vec<Object>, NodeError> {
    let table = notrack::remove().map_err(NodeError::table);
    let mut removed = interface::remove(config)?;
    match table {
        Ok(true) => removed.push(Object::Table),
        // A kernel without nftables has no table of ours.
        Ok(false) | Err(NodeError::NoNotrack) => {}
        Err(error) => return Err(error),
    }
    Ok(removed)
}

/// The set-up to remove if the configuration is gone: the interface with its default name.
#[must_use]
pub fn defaults() -> NodeConfig {
    NodeConfig {
        addresses: Vec::new(),
        interface: crate::config::InterfaceConfig {
            name: "nodens".to_owned(),
            kind: InterfaceKind::Dummy,
        },
        notrack: true,
        on_exit: OnExit::Keep,
    }
}

/// For the log: one after the other.
fn list(objects: &[Object]) -> String {
    let texts: Vec<_> = objects.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        "nothing".to_owned()
    } else {
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn errors_name_their_object_and_the_remedy() {
        let v4: IpAddr = "169.254.20.53".parse().expect("an address");
        let v6: IpAddr = "fd00::53".parse().expect("an address");
        let cases = [
            (
                NodeError::create("dns0", errno(libc::EPERM)),
                "create interface dns0: this needs CAP_NET_ADMIN",
            ),
            (
                NodeError::create("dns0", errno(libc::EOPNOTSUPP)),
                "node.interface dns0: this kernel has no dummy interfaces",
            ),
            (
                NodeError::create("dns0", errno(libc::ENOMEM)),
                "node.interface dns0: cannot create it: ",
            ),
            (
                NodeError::address(v4, "lo", errno(libc::EPERM)),
                "address 169.254.20.53 on lo: this needs CAP_NET_ADMIN",
            ),
            (
                NodeError::address(v6, "lo", errno(libc::EACCES)),
                "node.addresses fd00::53: IPv6 is switched off on lo",
            ),
            (
                NodeError::address(v4, "lo", errno(libc::EACCES)),
                "node.addresses 169.254.20.53 on lo: Permission denied",
            ),
            (
                NodeError::table(errno(libc::EPERM)),
                "nftables table inet nodens: this needs CAP_NET_ADMIN",
            ),
            (
                NodeError::table(errno(libc::ENOENT)),
                "write node.notrack: false",
            ),
            (
                NodeError::table(errno(libc::EBUSY)),
                "node.notrack: nftables table inet nodens: ",
            ),
        ];
        for (error, part) in cases {
            let text = error.to_string();
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
