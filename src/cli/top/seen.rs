//! What `top` reads of /status: the fields it shows and no others, from older and newer versions too. A field that is missing
//! or that cannot be read is empty.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// A text from an instance, without control characters and without characters that change the order of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Escaped(String);

impl Escaped {
    pub(super) fn new(text: &str) -> Self {
        if text.chars().all(is_harmless) {
            return Self(text.to_owned());
        }
        let mut escaped = String::with_capacity(text.len() + 8);
        for character in text.chars() {
            match character {
                harmless if is_harmless(harmless) => escaped.push(harmless),
                other => escaped.extend(other.escape_unicode()),
            }
        }
        Self(escaped)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Neither a control character (C1 included) nor a Unicode character for layout or direction, nor an invisible one.
fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

impl fmt::Display for Escaped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Escaped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

/// A value of the wrong type counts as missing.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Elements that cannot be read are left out.
fn lenient_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let elements: Vec<serde_json::Value> = lenient(deserializer)?;
    let readable = |element| serde_json::from_value(element).ok();
    Ok(elements.into_iter().filter_map(readable).collect())
}

/// The status of one instance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct InstanceSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) version: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) node: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) ready: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub(super) uptime_seconds: f64,
    #[serde(deserialize_with = "lenient")]
    pub(super) configuration: ConfigurationSeen,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) routes: Vec<RepliesSeen>,
    #[serde(deserialize_with = "lenient")]
    pub(super) answered_here: RepliesSeen,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) upstreams: Vec<GroupSeen>,
    #[serde(deserialize_with = "lenient")]
    pub(super) totals: LookupsSeen,
    #[serde(deserialize_with = "lenient")]
    pub(super) cache: CacheSeen,
    /// None: they are not to be shown.
    #[serde(deserialize_with = "lenient")]
    pub(super) failures: Option<Vec<FailureSeen>>,
    /// None: nothing is counted.
    #[serde(deserialize_with = "lenient")]
    pub(super) top: Option<TopSeen>,
}

impl InstanceSeen {
    /// Reads /status; none if it is no such thing.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let seen: Self = serde_json::from_slice(body).ok()?;
        (!seen.version.as_str().is_empty()).then_some(seen)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigurationSeen {
    #[serde(deserialize_with = "lenient_list")]
    pub(super) mistakes: Vec<Escaped>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RepliesSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) queries: u64,
    #[serde(deserialize_with = "lenient")]
    pub(super) replies: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LookupsSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) cache_hits: u64,
    #[serde(deserialize_with = "lenient")]
    pub(super) cache_misses: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CacheSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) stale_served: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) name: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) in_flight: u64,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) hosts: Vec<HostSeen>,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) servers: Vec<ServerSeen>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct HostSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) host: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) failure: Option<Escaped>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) server: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) looped: bool,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) health: Vec<HealthSeen>,
    /// One a second, the oldest first; none while it was down or not timed yet.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) rtt_milliseconds: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct HealthSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) transport: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) state: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) since_seconds: f64,
    #[serde(deserialize_with = "lenient")]
    pub(super) srtt_milliseconds: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub(super) loss_percent: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct FailureSeen {
    #[serde(deserialize_with = "lenient")]
    pub(super) name: Escaped,
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub(super) qtype: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) route: Option<Escaped>,
    #[serde(deserialize_with = "lenient")]
    pub(super) rcode: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) text: Escaped,
    #[serde(deserialize_with = "lenient")]
    pub(super) count: u64,
    #[serde(deserialize_with = "lenient")]
    pub(super) ago_seconds: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TopSeen {
    #[serde(deserialize_with = "lenient_list")]
    pub(super) names: Vec<CountSeen>,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) slowest: Vec<CountSeen>,
    #[serde(deserialize_with = "lenient_list")]
    pub(super) clients: Vec<CountSeen>,
}

/// Of a name or a client; queries, or milliseconds that clients waited.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CountSeen {
    #[serde(alias = "client", deserialize_with = "lenient")]
    pub(super) name: Escaped,
    #[serde(alias = "waited_milliseconds", deserialize_with = "lenient")]
    pub(super) queries: f64,
    #[serde(alias = "error_milliseconds", deserialize_with = "lenient")]
    pub(super) error: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_of_a_text() {
        for (text, want) in [
            ("registry.example.com.", "registry.example.com."),
            ("größe.example.", "größe.example."),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\nb\r\tc\u{0}\u{7f}", "a\\u{a}b\\u{d}\\u{9}c\\u{0}\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}moc\u{200b}", "\\u{202e}moc\\u{200b}"),
        ] {
            assert_eq!(Escaped::new(text).as_str(), want);
            let json = serde_json::to_string(text).expect("a string");
            let read: Escaped = serde_json::from_str(&json).expect("a string");
            assert_eq!(read.as_str(), want);
        }
    }

    #[test]
    fn missing_unknown_and_odd_fields_cost_nothing_but_themselves() {
        let body = br#"{"version": "7.0", "node": 5, "uptime_seconds": "long", "news": {"a": [1]},
            "upstreams": [7, {"name": "vpc", "servers": [{"server": "10.0.0.2", "health":
                [{"state": "drowsy", "loss_percent": 2.5, "srtt_milliseconds": null, "mood": 3}], "rtt_milliseconds": [null, 1.5]}]}],
            "top": {"clients": [{"client": "10.0.0.7", "queries": 3, "error": 0}]}}"#;
        let seen = InstanceSeen::read(body).expect("it can be read");
        assert_eq!(seen.version.as_str(), "7.0");
        assert_eq!((seen.node.as_str(), seen.ready), ("", None));
        assert_eq!(seen.upstreams.len(), 1);
        let server = &seen.upstreams[0].servers[0];
        assert_eq!(server.health[0].state.as_str(), "drowsy");
        assert_eq!(server.rtt_milliseconds, [None, Some(1.5)]);
        assert!(seen.failures.is_none());
        let clients = seen.top.expect("it is counted").clients;
        assert_eq!(clients[0].name.as_str(), "10.0.0.7");
    }

    #[test]
    fn what_is_no_status_is_not_taken_for_one() {
        for body in [
            "",
            "ok\n",
            "{}",
            "[]",
            "null",
            "<html>",
            r#"{"version": 7}"#,
        ] {
            assert!(InstanceSeen::read(body.as_bytes()).is_none(), "{body}");
        }
    }
}
