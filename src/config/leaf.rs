//! Single values: parsed from the configuration, and printed again by `nodens check`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use figment::value::Value;
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value as Json, json};

use super::error::Problem;
use super::shape::{self, Shape};
use super::{
    Bogus, Denial, InterfaceKind, LogFormat, OnExit, Policy, PrivateZones, Probe, QueryLog,
    Scheduling, TopCounts,
};

/// A value that stands for itself.
pub(super) trait Leaf: Sized {
    /// What is wanted, with an example; completes "X is not ...".
    const EXPECTED: &'static str;

    /// Reads what was typed; never called with `null`.
    fn parse(value: &Value) -> Result<Self, Problem>;

    /// Writes it so that [`Leaf::parse`] reads the same.
    fn show(&self) -> String;

    /// JSON Schema of what is taken, as far as it can say that.
    fn schema(range: Option<&Range<Self>>) -> Json;

    /// What a key of this type may hold.
    fn shape(range: Option<&Range<Self>>) -> Shape {
        Shape {
            bounds: range.map(|range| (range.min.show(), range.max.show())),
            ..Shape::of([Self::schema(range)])
        }
    }

    /// The value as it is written in JSON.
    fn json(&self) -> Json {
        self.show().into()
    }
}

/// The lowest and the highest value that make sense.
#[derive(Debug)]
pub(super) struct Range<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: Leaf + PartialOrd> Range<T> {
    /// What is wrong with `value`, shown as it was typed.
    pub(super) fn check(&self, value: &T, typed: impl FnOnce() -> String) -> Option<Problem> {
        if *value > self.max {
            let limit = self.max.show();
            Some(Problem::OverLimit {
                value: typed(),
                limit,
            })
        } else if *value < self.min {
            let limit = self.min.show();
            Some(Problem::UnderLimit {
                value: typed(),
                limit,
            })
        } else {
            None
        }
    }
}

/// Bytes, as the configuration writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Size(pub(super) u64);

/// A filter that `tracing_subscriber` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Level(pub(super) String);

/// Values longer than this are cut in messages; a whole file given as a value would hide the other mistakes.
const MAX_SHOWN: usize = 120;

/// What was typed, on one line.
pub(super) fn show_value(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    if text.chars().count() > MAX_SHOWN {
        text = text.chars().take(MAX_SHOWN).chain(['…']).collect();
    }
    text
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::String(_, string) => text.push_str(&show_text(string)),
        Value::Char(_, character) => text.push_str(&show_text(&character.to_string())),
        Value::Bool(_, truth) => text.push_str(if *truth { "true" } else { "false" }),
        Value::Num(..) => match (value.to_u128(), value.to_i128()) {
            (Some(number), _) => text.push_str(&number.to_string()),
            (None, Some(number)) => text.push_str(&number.to_string()),
            (None, None) => text.push_str("a fraction"),
        },
        Value::Empty(..) => text.push_str("null"),
        Value::Array(_, items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                text.push_str(if position > 0 { ", " } else { "" });
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Dict(_, dict) => {
            text.push('{');
            for (position, (key, value)) in dict.iter().enumerate() {
                text.push_str(if position > 0 { ", " } else { "" });
                text.push_str(&show_text(key));
                text.push_str(": ");
                write_value(text, value);
            }
            text.push('}');
        }
    }
}

/// Text as it is, quoted where it would not read as one word of one line.
pub(super) fn show_text(text: &str) -> String {
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        format!("{text:?}")
    } else {
        text.to_owned()
    }
}

/// `[a, b]`.
pub(super) fn show_list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(", "))
}

/// The mistake of a text that holds several list items, each of which is `fine`.
pub(super) fn several(text: &str, fine: impl Fn(&str) -> bool) -> Option<Problem> {
    let parts = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    (parts.len() > 1 && parts.iter().all(|part| fine(part))).then(|| Problem::SeveralInOne {
        value: show_text(text),
        list: show_list(parts),
    })
}

pub(super) fn not_a<T: Leaf>(value: &Value) -> Problem {
    let expected = T::EXPECTED;
    Problem::NotA {
        value: show_value(value),
        expected,
    }
}

/// A whole number, also in quotes, as charts tend to write it.
fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Num(..) => value
            .to_u128()
            .and_then(|number| u64::try_from(number).ok()),
        Value::String(_, text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok()
        }
        _ => None,
    }
}

impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration such as 500ms, 4s or 1d";

    fn parse(value: &Value) -> Result<Self, Problem> {
        match (integer(value), value) {
            (Some(0), _) => Ok(Self::ZERO),
            (Some(_), _) => Err(Problem::NoUnit {
                value: show_value(value),
            }),
            (None, Value::String(_, text)) => {
                humantime::parse_duration(text).map_err(|_| not_a::<Self>(value))
            }
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        const UNITS: [(u128, &str); 6] = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        let nanos = self.as_nanos();
        if nanos == 0 {
            return "0s".to_owned();
        }
        let whole = UNITS.iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
        whole.map_or_else(
            || format!("{nanos}ns"),
            |(unit, name)| format!("{}{name}", nanos / unit),
        )
    }

    /// The units of `humantime`.
    fn schema(_: Option<&Range<Self>>) -> Json {
        const UNITS: &str = "nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y";
        let text = shape::pattern(&format!("0+|\\s*([0-9]+(\\.[0-9]+)?\\s*({UNITS})\\s*)+"));
        json!({"anyOf": [text, {"const": 0}]})
    }
}

impl Leaf for Size {
    const EXPECTED: &'static str = "a size such as 64MiB or 0";

    fn parse(value: &Value) -> Result<Self, Problem> {
        match (integer(value), value) {
            (Some(bytes), _) => Ok(Self(bytes)),
            (None, Value::String(_, text)) => {
                let size = text.parse::<ByteSize>().map_err(|_| not_a::<Self>(value))?;
                Ok(Self(size.as_u64()))
            }
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        const UNITS: [(u64, &str); 4] = [
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        let whole = UNITS
            .iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit));
        whole.map_or_else(
            || self.0.to_string(),
            |(unit, name)| format!("{}{name}", self.0 / unit),
        )
    }

    /// The units of `bytesize`, in any case.
    fn schema(range: Option<&Range<Self>>) -> Json {
        let unit = "[KkMmGgTtPpEe]?[Ii]?[Bb]?";
        let text = shape::pattern(&format!("([0-9]+\\.?[0-9]*|\\.[0-9]+)\\s*{unit}"));
        let mut bytes = json!({"type": "integer", "minimum": 0});
        if let Some(range) = range {
            bytes["minimum"] = range.min.0.into();
            bytes["maximum"] = range.max.0.into();
        }
        json!({"anyOf": [text, bytes]})
    }
}

/// Numbers of every width. A number too large for its type is also over the key's limit, so the message names the limit
/// and not the type.
macro_rules! number {
    ($($number:ty),*) => {$(
        impl Leaf for $number {
            const EXPECTED: &'static str = "a whole number";

            fn parse(value: &Value) -> Result<Self, Problem> {
                let number = integer(value).ok_or_else(|| not_a::<Self>(value))?;
                Ok(Self::try_from(number).unwrap_or(Self::MAX))
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn schema(range: Option<&Range<Self>>) -> Json {
                let mut number = json!({"type": "integer", "minimum": 0});
                if let Some(range) = range {
                    number["minimum"] = range.min.into();
                    number["maximum"] = range.max.into();
                }
                json!({"anyOf": [number, shape::pattern("[0-9]+")]})
            }

            fn json(&self) -> Json {
                (*self).into()
            }
        }
    )*};
}

number!(u32, usize);

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(value: &Value) -> Result<Self, Problem> {
        match value {
            Value::Bool(_, truth) => Ok(*truth),
            Value::String(_, text) => text.parse().map_err(|_| not_a::<Self>(value)),
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        json!({"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]})
    }

    fn json(&self) -> Json {
        (*self).into()
    }
}

impl Leaf for String {
    const EXPECTED: &'static str = "text (quote it if it looks like something else)";

    fn parse(value: &Value) -> Result<Self, Problem> {
        match value {
            Value::String(_, text) => Ok(text.clone()),
            Value::Num(..) if value.to_f64().is_none() => Ok(show_value(value)),
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        show_text(self)
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        shape::text()
    }
}

impl Leaf for PathBuf {
    const EXPECTED: &'static str = "a path such as /run/nodens/nodens.sock";

    fn parse(value: &Value) -> Result<Self, Problem> {
        match value {
            Value::String(_, text) if !text.is_empty() && !text.contains('\0') => {
                Ok(Self::from(text))
            }
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        show_text(&self.display().to_string())
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        json!({"type": "string", "minLength": 1})
    }
}

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an address with a port such as 127.0.0.1:5300 or [::1]:5300";

    fn parse(value: &Value) -> Result<Self, Problem> {
        let address = value.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| not_a::<Self>(value))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        shape::address_and_port()
    }
}

/// Words out of a closed list.
macro_rules! word {
    ($($word:ty: $expected:literal, $($written:literal is $variant:path),+;)*) => {$(
        impl Leaf for $word {
            const EXPECTED: &'static str = $expected;

            fn parse(value: &Value) -> Result<Self, Problem> {
                match value.as_str() {
                    $(Some($written) => Ok($variant),)+
                    _ => Err(not_a::<Self>(value)),
                }
            }

            fn show(&self) -> String {
                match self {
                    $($variant => $written.to_owned(),)+
                }
            }

            fn schema(_: Option<&Range<Self>>) -> Json {
                shape::words(&[$($written),+])
            }
        }
    )*};
}

word! {
    Policy: "ordered, fastest or round_robin",
        "ordered" is Policy::Ordered,
        "fastest" is Policy::Fastest,
        "round_robin" is Policy::RoundRobin;
    Bogus: "final or failover",
        "final" is Bogus::Final,
        "failover" is Bogus::Failover;
    Denial: "nxdomain or empty",
        "nxdomain" is Denial::Nxdomain,
        "empty" is Denial::Empty;
    PrivateZones: "forward or NXDOMAIN",
        "forward" is PrivateZones::Forward,
        "NXDOMAIN" is PrivateZones::NxDomain;
    Scheduling: "normal or realtime",
        "normal" is Scheduling::Normal,
        "realtime" is Scheduling::Realtime;
    LogFormat: "text or json",
        "text" is LogFormat::Text,
        "json" is LogFormat::Json;
    InterfaceKind: "dummy or loopback",
        "dummy" is InterfaceKind::Dummy,
        "loopback" is InterfaceKind::Loopback;
    OnExit: "keep or remove",
        "keep" is OnExit::Keep,
        "remove" is OnExit::Remove;
}

impl Leaf for QueryLog {
    const EXPECTED: &'static str = "off, errors or all";

    /// Helm passes `off` through YAML 1.1, where it is `false`.
    fn parse(value: &Value) -> Result<Self, Problem> {
        match value {
            Value::Bool(_, false) => Ok(Self::Off),
            other => other.deserialize().map_err(|_| not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        let word = match self {
            Self::Off => "off",
            Self::Errors => "errors",
            Self::All => "all",
        };
        word.to_owned()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        json!({"enum": ["off", "errors", "all", false]})
    }
}

impl Leaf for TopCounts {
    const EXPECTED: &'static str = "off, names, clients or all";

    /// `off` as for [`QueryLog`].
    fn parse(value: &Value) -> Result<Self, Problem> {
        match (value, value.as_str()) {
            (Value::Bool(_, false), _) | (_, Some("off")) => Ok(Self::Off),
            (_, Some("names")) => Ok(Self::Names),
            (_, Some("clients")) => Ok(Self::Clients),
            (_, Some("all")) => Ok(Self::All),
            _ => Err(not_a::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        let word = match self {
            Self::Off => "off",
            Self::Names => "names",
            Self::Clients => "clients",
            Self::All => "all",
        };
        word.to_owned()
    }

    fn schema(_range: Option<&Range<Self>>) -> Json {
        json!({"enum": ["off", "names", "clients", "all", false]})
    }
}

impl Leaf for Probe {
    const EXPECTED: &'static str =
        "a name and a type such as \". NS\" or \"kubernetes.default.svc.cluster.local A\"";

    fn parse(value: &Value) -> Result<Self, Problem> {
        let text = value.as_str().ok_or_else(|| not_a::<Self>(value))?;
        let words: Vec<_> = text.split_whitespace().collect();
        let [name, record_type] = words[..] else {
            return Err(not_a::<Self>(value));
        };
        let record_type: RecordType = record_type
            .to_ascii_uppercase()
            .parse()
            .ok()
            .filter(|record_type| !UNASKABLE.contains(record_type))
            .ok_or_else(|| not_a::<Self>(value))?;
        let name = parse_name(name)?;
        Ok(Self { name, record_type })
    }

    fn show(&self) -> String {
        format!("{} {}", show_name(&self.name), self.record_type)
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        shape::pattern("\\s*\\S+\\s+[A-Za-z0-9-]+\\s*")
    }
}

/// Types that no server answers plainly: transfers, meta types, and ANY (RFC 8482).
const UNASKABLE: [RecordType; 4] = [
    RecordType::AXFR,
    RecordType::ANY,
    RecordType::TSIG,
    RecordType::SIG,
];

/// A domain name, absolute whether or not the last dot is there, in lower case.
pub(super) fn parse_name(text: &str) -> Result<Name, Problem> {
    let value = || show_text(text);
    let source = match Name::from_str_relaxed(text) {
        Ok(mut name) if name.is_fqdn() || name.iter().len() > 0 => {
            name.set_fqdn(true);
            return Ok(name.to_lowercase());
        }
        Ok(_) => "it has no labels; the root is written \".\"".into(),
        Err(error) => empty_label(text).map_or(error, Into::into),
    };
    let source = Box::new(source);
    Err(Problem::Name {
        value: value(),
        source,
    })
}

/// What is wrong with a text that is a name but for dots with nothing between them, and what would be right.
fn empty_label(text: &str) -> Option<String> {
    let labels: Vec<&str> = text.split('.').filter(|label| !label.is_empty()).collect();
    let meant = labels.join(".");
    if meant.is_empty() || Name::from_str_relaxed(&meant).is_err() {
        return None;
    }
    let what = if text.starts_with('.') {
        "it begins with a dot"
    } else {
        "it has two dots without a label between them"
    };
    Some(format!("{what}; write {meant}"))
}

/// A name as it is written in the file, without the last dot.
pub(super) fn show_name(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some(short) if !short.is_empty() => short.to_owned(),
        _ => text,
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

impl Leaf for Level {
    const EXPECTED: &'static str =
        "a level (error, warn, info, debug, trace, off) or filters such as info,nodens=debug";

    /// A bare word that is no level would be taken for a module of that name and silence everything else: refused.
    fn parse(value: &Value) -> Result<Self, Problem> {
        // Helm passes `off` through YAML 1.1, where it is `false`.
        if value.to_bool() == Some(false) {
            return Ok(Self("off".to_owned()));
        }
        let text = value.as_str().ok_or_else(|| not_a::<Self>(value))?;
        if text.trim().is_empty() {
            return Err(not_a::<Self>(value));
        }
        let bare = |part: &&str| !part.contains(['=', '[', ']', '{', '}', '"', '/']);
        for word in text.split(',').map(str::trim).filter(bare) {
            if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
                let known: Vec<_> = LEVELS.iter().map(|&level| level.to_owned()).collect();
                let near = super::spelling::nearest(word, &known);
                let value = show_text(word);
                return Err(Problem::Level { value, near, known });
            }
        }
        match tracing_subscriber::EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(source) => Err(Problem::Filter {
                value: show_text(text),
                source,
            }),
        }
    }

    fn show(&self) -> String {
        show_text(&self.0)
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        let level = shape::words_in_any_case(&LEVELS);
        let filter = json!({"type": "string", "pattern": "[]=[{}/\",]"});
        json!({"anyOf": [level, filter, {"const": false}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_the_same() {
        for millis in [
            0, 1, 20, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000, 90_000_000,
        ] {
            let duration = Duration::from_millis(millis);
            let read = Duration::parse(&Value::from(duration.show()));
            assert_eq!(read.expect("a duration"), duration, "{}", duration.show());
        }
        for bytes in [0, 1, 1_000, 1 << 10, 3 << 20, (1 << 30) + 1, 5 << 40] {
            let read = Size::parse(&Value::from(Size(bytes).show()));
            assert_eq!(read.expect("a size"), Size(bytes), "{}", Size(bytes).show());
        }
        for policy in [Policy::Ordered, Policy::Fastest, Policy::RoundRobin] {
            assert_eq!(
                Policy::parse(&Value::from(policy.show())).expect("a policy"),
                policy
            );
        }
    }

    #[test]
    fn forms_of_durations_and_sizes() {
        let duration = |text: &str| {
            Duration::parse(&Value::from(text))
                .ok()
                .map(|d| d.as_millis())
        };
        assert_eq!(duration("0"), Some(0));
        assert_eq!(duration("0s"), Some(0));
        assert_eq!(duration("500ms"), Some(500));
        assert_eq!(duration("1m 30s"), Some(90_000));
        assert_eq!(duration("4"), None);
        assert_eq!(duration("-4s"), None);
        assert_eq!(duration("4 parsecs"), None);
        assert_eq!(duration("99999999999999999999y"), None);

        let size = |text: &str| Size::parse(&Value::from(text)).ok().map(|size| size.0);
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("64Mi"), Some(64 << 20));
        assert_eq!(size("64 MB"), Some(64_000_000));
        assert_eq!(size("-1"), None);
        assert_eq!(size("many"), None);
    }

    #[test]
    fn names_are_absolute_and_in_lower_case() {
        for text in ["Cluster.Local", "cluster.local", "cluster.local."] {
            let name = parse_name(text).expect("a name");
            assert_eq!(name.to_ascii(), "cluster.local.");
            assert!(name.is_fqdn());
            assert_eq!(show_name(&name), "cluster.local");
        }
        assert!(parse_name(".").expect("the root").is_root());
        assert!(parse_name("_x._tcp.a_b.example").is_ok());
        for text in ["", "a..b", "a b", &"x".repeat(64), &"x.".repeat(128)] {
            assert!(parse_name(text).is_err(), "{text}");
        }
    }
}
