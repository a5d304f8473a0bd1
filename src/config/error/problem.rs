//! What can be wrong with one key or its value.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hickory_proto::ProtoError;

/// What is wrong with a key or its value.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Another type, or not readable as what is wanted.
    #[error("{value} is not {expected}{}", no_space(value, expected))]
    NotA {
        /// As typed.
        value: String,
        /// What is wanted, with an example.
        expected: &'static str,
    },
    /// `deadline: 4`.
    #[error("{value} has no unit; write {value}s for seconds or {value}ms for milliseconds")]
    NoUnit {
        /// As typed.
        value: String,
    },
    /// `deadline:` and nothing after it.
    #[error("has no value; write {expected}, or remove the key to get the default")]
    NoValue {
        /// What is wanted, with an example.
        expected: &'static str,
    },
    /// More than allowed.
    #[error("{value} is over the limit of {limit}")]
    OverLimit {
        /// As typed.
        value: String,
        /// The highest allowed.
        limit: String,
    },
    /// Less than allowed.
    #[error("{value} is under the minimum of {limit}")]
    UnderLimit {
        /// As typed.
        value: String,
        /// The lowest allowed.
        limit: String,
    },
    /// A size that is neither 0 nor useful.
    #[error("{value} is under the minimum of {limit}; 0 turns the cache off")]
    CacheTooSmall {
        /// As typed.
        value: String,
        /// The lowest allowed.
        limit: String,
    },
    /// Two keys that belong together.
    #[error("{value} is over {other} ({other_value}); raise {other} or lower {path}", path = .key)]
    Over {
        /// This key's last word.
        key: String,
        /// In force.
        value: String,
        /// The key that must not be smaller.
        other: String,
        /// In force.
        other_value: String,
    },
    /// The same the other way round: the other key's default is in the way.
    #[error("{value} is under {other} ({other_value}{note}); raise {path} or lower {other}", path = .key)]
    Under {
        /// This key's last word.
        key: String,
        /// In force.
        value: String,
        /// The key that must not be larger.
        other: String,
        /// In force.
        other_value: String,
        /// `, its default`, where nobody set it.
        note: &'static str,
    },
    /// A key nobody knows.
    #[error("there is no such key{}", Hint { near: near.as_deref(), all: known, noun: "keys here" })]
    UnknownKey {
        /// What may have been meant.
        near: Option<String>,
        /// The keys that exist.
        known: Vec<String>,
    },
    /// A route to a group that is not there.
    #[error("there is no group {value}{}", Hint { near: near.as_deref(), all: known, noun: "groups" })]
    UnknownGroup {
        /// As typed.
        value: String,
        /// What may have been meant.
        near: Option<String>,
        /// The groups that exist.
        known: Vec<String>,
    },
    /// A key or a choice of keys that must be there.
    #[error("{0}")]
    Missing(Missing),
    /// Two keys of which one at most may be there.
    #[error("`{0}` and `{1}` exclude each other; keep one")]
    Both(&'static str, &'static str),
    /// The same thing twice.
    #[error("{value} is here twice{first}; keep one")]
    Twice {
        /// As typed.
        value: String,
        /// ` (first at nodens.yaml:4)`.
        first: String,
    },
    /// `servers: "10.0.0.2, 10.0.0.3"`.
    #[error("{value} holds several; write a list: {list}")]
    SeveralInOne {
        /// As typed.
        value: String,
        /// The same as a list.
        list: String,
    },
    /// Two listeners of which one takes in the other.
    #[error("{value} takes in {other} of {key}; choose another port or address for one of them")]
    TakesIn {
        /// As typed.
        value: String,
        /// The other address.
        other: SocketAddr,
        /// Its key.
        key: &'static str,
    },
    /// More items than allowed.
    #[error("has {count} items, over the limit of {limit}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The highest allowed.
        limit: usize,
    },
    /// A variable and another below it that cannot both hold.
    #[error("${longer} sets a key below this one, which is no table; remove one of the two")]
    Contradiction {
        /// The variable of the key below.
        longer: String,
    },
    /// A path of resolv.conf's kind that yields no server.
    #[error("{}: cannot be read: {source}; {remedy}", file.display())]
    ResolvConfUnreadable {
        /// As typed.
        file: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A resolv.conf without nameserver lines that can be used.
    #[error("{}: names no nameserver{left_out}; {remedy}", file.display())]
    ResolvConfEmpty {
        /// As typed.
        file: PathBuf,
        /// Lines that cannot be used, and why.
        left_out: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A hosts file that cannot be read.
    #[error("{file}: cannot be read: {source}; check the path and the file's permissions")]
    HostsUnreadable {
        /// As typed, on one line.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// An upstream by name.
    #[error(
        "{value} is a host name; write its IP address, or {value}@GROUP for a group whose servers resolve it"
    )]
    HostName {
        /// As typed.
        value: String,
    },
    /// `10.0.0.2@vpc`.
    #[error("{value} is an address, which nobody has to resolve; leave out @ and what follows")]
    AddressWithGroup {
        /// As typed.
        value: String,
    },
    /// Groups that need each other's servers before they have any themselves.
    #[error(
        "{value}: its name is resolved in a circle of groups, {circle}; have a group resolve it that needs none of them"
    )]
    GroupCircle {
        /// As typed.
        value: String,
        /// `a → b → a`.
        circle: String,
    },
    /// `quic://…`.
    #[error(
        "{value}: there is no transport {scheme}; write IP, tcp://IP, tls://IP#name or https://IP/dns-query#name"
    )]
    Scheme {
        /// As typed.
        value: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// `tls://1.1.1.1`.
    #[error(
        "{value}: TLS needs the name to check the certificate against; write {value}#name, for example {}://1.1.1.1#one.one.one.one",
        value.split("://").next().unwrap_or("tls")
    )]
    NoTlsName {
        /// As typed.
        value: String,
    },
    /// `tls://1.1.1.1#not a name`.
    #[error(
        "{value}: {name} is not a name that a certificate can carry; write the server's own after #"
    )]
    BadTlsName {
        /// As typed.
        value: String,
        /// What stands after `#`.
        name: String,
    },
    /// `10.0.0.2#name`.
    #[error("{value}: a name after # goes with tls:// and https:// only")]
    NameWithoutTls {
        /// As typed.
        value: String,
    },
    /// `https://1.1.1.1/dns-query{?dns}#name`.
    #[error(
        "{value}: {path} is not a path; write https://IP/dns-query#name, without a query or a template"
    )]
    HttpsPath {
        /// As typed.
        value: String,
        /// What stands before `#`.
        path: String,
    },
    /// An address that no server can have.
    #[error("{value}: {why}")]
    Unusable {
        /// As typed.
        value: String,
        /// Why, and what to write.
        why: &'static str,
    },
    /// `2001:db8::1/96`.
    #[error("{value} has bits set behind its length; write {network}")]
    BeyondPrefix {
        /// As typed.
        value: String,
        /// The network that it is in.
        network: String,
    },
    /// Upstream and listener are the same.
    #[error("{server} is our own listen address {listen}, queries would go in a circle; {remedy}")]
    Loop {
        /// The upstream server.
        server: String,
        /// The listen address it meets.
        listen: String,
        /// What to do.
        remedy: &'static str,
    },
    /// `10.0.0.0/8` as a zone.
    #[error("{value} is a network; write its reverse zone, {zones}")]
    Network {
        /// As typed.
        value: String,
        /// `10.in-addr.arpa`, or several.
        zones: String,
    },
    /// Not a domain name.
    #[error("{value} is not a domain name: {source}")]
    Name {
        /// As typed.
        value: String,
        /// Why, boxed because it is large.
        source: Box<ProtoError>,
    },
    /// `*.example.com` where names are taken literally.
    #[error("{value}: {why}")]
    Wildcard {
        /// As typed.
        value: String,
        /// What to write instead.
        why: &'static str,
    },
    /// RFC 2181 §10.1.
    #[error("a CNAME excludes other records of its name (RFC 2181 §10.1); keep one or the other")]
    CnameNotAlone,
    /// A CNAME that points to its owner.
    #[error("the CNAME points to itself")]
    CnameToItself,
    /// `rewrite: {from: x, to: y.x}`.
    #[error(
        "{from} and {to} are within each other, so that names would be rewritten in a circle; write suffixes apart from each other"
    )]
    RewriteLoop {
        /// As clients know it.
        from: String,
        /// As servers know it.
        to: String,
    },
    /// A suffix that none of the route's names has.
    #[error(
        "{from} is not in the route's zone {zone}, so that nothing would be rewritten; write {zone} or a name below it"
    )]
    RewriteElsewhere {
        /// As typed.
        from: String,
        /// The route's.
        zone: String,
    },
    /// A wildcard's CNAME that points below the wildcard's parent.
    #[error(
        "the CNAME points to {target}, which this wildcard stands for itself; write {target} in `records`, too"
    )]
    WildcardTarget {
        /// The target.
        target: String,
    },
    /// RFC 1035 §3.3: one length octet.
    #[error("{length} bytes are over the limit of 255 for a string (RFC 1035 §3.3)")]
    TextTooLong {
        /// In bytes.
        length: usize,
    },
    /// `level: inof` would be a filter for a module of this name.
    #[error("{value} is not a level{}", Hint { near: near.as_deref(), all: known, noun: "levels" })]
    Level {
        /// As typed.
        value: String,
        /// What may have been meant.
        near: Option<String>,
        /// Those that exist.
        known: Vec<String>,
    },
    /// tracing refuses the filter.
    #[error(
        "{value} is not a filter: {source}; write a level such as info, or filters such as info,nodens=debug"
    )]
    Filter {
        /// As typed.
        value: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// An address of the node at which nobody would answer.
    #[error("{address} is not in `listen`, so nobody would answer there; add \"{}\" to listen", SocketAddr::new(*address, 53))]
    NotListening {
        /// The address.
        address: IpAddr,
    },
    /// An interface's name that cannot be one.
    #[error(
        "{value} is not a name for an interface; write 1 to 15 letters, digits, -, _ or ., such as nodens"
    )]
    InterfaceName {
        /// As typed.
        value: String,
    },
}

/// Something that must be there and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// `listen: []`.
    #[error("has no address; write at least one, for example [127.0.0.1:5300]")]
    Listen,
    /// `allow: []`.
    #[error("lets nobody ask; write [private], [all] or networks such as [10.0.0.0/8]")]
    Allow,
    /// A group without servers.
    #[error("the group has no `servers`; write at least one, for example servers: [10.0.0.2]")]
    Servers,
    /// Several groups and no routes.
    #[error("there are several groups ({0}) and no `routes`; write which names go where, for example routes: {{\".\": {first}}}", first = .0.split(", ").next().unwrap_or_default())]
    Routes(String),
    /// A route without a group.
    #[error(
        "the route has no group; write `group: name`, `tiers: [name, name]` or `answer: NXDOMAIN`"
    )]
    Group,
    /// A rewrite without both suffixes.
    #[error("needs `from` and `to`, for example {{from: dev.example, to: dev.svc.cluster.local}}")]
    Suffixes,
    /// DNS64 without a prefix.
    #[error("needs `prefix`, for example {{prefix: 64:ff9b::/96}}")]
    Prefix,
    /// A record without data.
    #[error("the name has no records; write for example {{A: [10.0.0.1]}}")]
    Records,
    /// `node: {notrack: true}`.
    #[error("has no address; write what pods ask, for example [169.254.20.53], or `node: null`")]
    NodeAddresses,
    /// An empty list below `A:` and the like.
    #[error("has no value; write one or remove the key")]
    Value,
}

/// What is probably wrong with `servers:[10.0.0.2]` where a table is wanted: YAML reads it as one word.
fn no_space(value: &str, expected: &str) -> &'static str {
    if !expected.starts_with("a table") {
        return "";
    }
    let key = value.split_once(':').map_or("", |(key, _)| key);
    let is_key = key.len() > 1 && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if is_key {
        "; write a space after the colon"
    } else {
        ""
    }
}

/// `; did you mean X?` or `; groups: a, b`.
struct Hint<'a> {
    near: Option<&'a str>,
    all: &'a [String],
    noun: &'static str,
}

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.near {
            Some(near) => write!(f, "; did you mean {near}?"),
            None => write!(f, "; {}: {}", self.noun, self.all.join(", ")),
        }
    }
}
