//! JSON Schema (draft 2020-12) of what a key may hold, as the code that reads the key says it.
//!
//! A schema may allow what the code refuses, because it cannot say all. It must not refuse what the code takes.

use serde_json::{Map, Value as Json, json};

/// An octet of an IPv4 address, as the standard library reads it.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// 0 to 65535.
const PORT: &str =
    "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})";
/// Checks only the characters; the groups of digits are checked when the value is read.
const IPV6: &str = "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*";
/// A label, in which `\` makes the next character, or a number of three digits, a part of it (RFC 1035 §5.1).
const LABEL: &str = r"(\\[0-9]{3}|\\[^0-9]|[^\s.\\]){1,63}";

/// What a key may hold, and what holds without it.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// Schemas of values that are no tables, any of which will do.
    pub(super) values: Vec<Json>,
    /// What holds for the table that it may be, beside what holds for the keys in it; none if no table will do.
    pub(super) table: Option<Map<String, Json>>,
    /// What is in force if nobody sets it.
    pub(super) default: Option<Json>,
    /// The lowest and the highest value.
    pub(super) bounds: Option<(String, String)>,
}

impl Shape {
    /// Values of these schemas.
    pub(super) fn of(values: impl IntoIterator<Item = Json>) -> Self {
        Self {
            values: values.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(super) fn with_default(self, default: impl Into<Json>) -> Self {
        let default = Some(default.into());
        Self { default, ..self }
    }

    /// One value, or a list of them.
    pub(super) fn list(item: Json) -> Self {
        let items = json!({"type": "array", "items": item});
        Self::of([item, items])
    }

    /// Of a list: so many items at least, and so many at most.
    pub(super) fn counting(self, least: usize, most: usize) -> Self {
        let shape = self.with_rule("minItems", least);
        shape.with_rule("maxItems", most)
    }

    /// Of a list: it is not empty.
    pub(super) fn at_least_one(self) -> Self {
        self.with_rule("minItems", 1)
    }

    /// Of a list: no item twice.
    pub(super) fn unique(self) -> Self {
        self.with_rule("uniqueItems", true)
    }

    fn with_rule(mut self, keyword: &str, value: impl Into<Json>) -> Self {
        if let Some(list) = self.values.last_mut() {
            list[keyword] = value.into();
        }
        self
    }

    /// A table, for which `rules` hold.
    pub(super) fn table(rules: Json) -> Self {
        Self::default().or_table(rules)
    }

    /// Or a table, for which `rules` hold.
    pub(super) fn or_table(self, rules: Json) -> Self {
        let Json::Object(rules) = rules else {
            unreachable!("rules of a table are keywords and their values")
        };
        let table = Some(rules);
        Self { table, ..self }
    }
}

/// Text of this form as a whole.
pub(super) fn pattern(pattern: &str) -> Json {
    json!({"type": "string", "pattern": format!("^({pattern})$")})
}

/// One of these words.
pub(super) fn words(words: &[&str]) -> Json {
    json!({"enum": words})
}

/// One of these words, in any case. Editors suggest them as they are here.
pub(super) fn words_in_any_case(documented: &[&str]) -> Json {
    let any_case: Vec<_> = documented.iter().map(|word| any_case(word)).collect();
    json!({"anyOf": [words(documented), pattern(&any_case.join("|"))]})
}

/// A pattern for this word of letters in any case.
pub(super) fn any_case(word: &str) -> String {
    let both = |c: char| format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase());
    word.chars().map(both).collect()
}

/// Text, or a number that is taken for text.
pub(super) fn text() -> Json {
    json!({"type": ["string", "number"]})
}

/// An address without a port.
pub(super) fn address() -> Json {
    pattern(&format!("{}|{IPV6}", ipv4_pattern()))
}

/// An IPv4 address.
pub(super) fn ipv4() -> Json {
    pattern(&ipv4_pattern())
}

/// An IPv6 address.
pub(super) fn ipv6() -> Json {
    pattern(IPV6)
}

fn ipv4_pattern() -> String {
    format!("{OCTET}(\\.{OCTET}){{3}}")
}

/// An address with a port.
pub(super) fn address_and_port() -> Json {
    pattern(&format!(
        "{}:{PORT}|{}",
        ipv4_pattern(),
        bracketed_and_port()
    ))
}

fn bracketed_and_port() -> String {
    format!("\\[{IPV6}(%[0-9]+)?\\]:{PORT}")
}

/// A network, or an address that stands for one.
pub(super) fn network() -> Json {
    let ipv4_length = "(/(3[0-2]|[12]?[0-9]))?";
    pattern(&format!(
        "{}{ipv4_length}|{IPV6}{IPV6_LENGTH}",
        ipv4_pattern()
    ))
}

/// An IPv6 network, of one of these lengths.
pub(super) fn ipv6_network(lengths: &[u8]) -> Json {
    let lengths: Vec<_> = lengths.iter().map(u8::to_string).collect();
    pattern(&format!("{IPV6}/({})", lengths.join("|")))
}

const IPV6_LENGTH: &str = "(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?";

/// A domain name.
pub(super) fn domain_name() -> Json {
    pattern(&format!("\\.|{LABEL}(\\.{LABEL})*\\.?"))
}

/// A domain name that is no wildcard.
pub(super) fn zone() -> Json {
    let mut zone = domain_name();
    zone["not"] = json!({"pattern": "^\\*(\\.|$)"});
    zone
}

/// The name of a group.
pub(super) fn group_name() -> Json {
    pattern("[A-Za-z0-9_.-]{1,63}")
}

/// A group in a route; a name that looks like a number need not be quoted.
pub(super) fn group() -> Json {
    let mut group = group_name();
    group["type"] = text()["type"].take();
    group
}

/// An entry of `servers`.
pub(super) fn server() -> Json {
    let ipv4 = ipv4_pattern();
    let host = format!("({ipv4}(:{PORT})?|\\[{IPV6}(%[0-9]+)?\\](:{PORT})?|{IPV6})");
    let forms = [
        "(/|\\..*/).*".to_owned(),
        format!("((udp|tcp)://)?{host}"),
        format!("tls://{host}#.+"),
        format!("https://{host}(/[^#]*)?#.+"),
        format!(
            "((udp|tcp|tls|https)://)?[^@#:/\\[\\]\\s]+(:{PORT})?(/[^#]*)?(#.+)?@[A-Za-z0-9_.-]{{1,63}}"
        ),
    ];
    pattern(&forms.join("|"))
}
