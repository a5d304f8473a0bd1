//! Where a value stands in the configuration: `routes."cluster.local".group`.
//!
//! Paths are vectors of segments, never dotted strings, because zone names are keys and have dots themselves.

use std::fmt;

/// The path of a key, from the top of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<Segment>);

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Key(String),
    Index(usize),
}

impl KeyPath {
    /// A key of an upstream group.
    #[must_use]
    pub fn of_group(group: &str, key: &str) -> Self {
        Self::default().key("upstreams").key(group).key(key)
    }

    /// The path of a key of this table.
    #[must_use]
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The path of an item of this list, counted from 0.
    #[must_use]
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// The table or list this key stands in; `None` at the top.
    #[must_use]
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// `routes."cluster.local"` of `routes.cluster.local`: a zone that was split at its dots, put together again.
    #[must_use]
    pub(super) fn with_its_zone_whole(&self) -> Option<Self> {
        let key = |segment: &Segment| match segment {
            Segment::Key(key) => Some(key.clone()),
            Segment::Index(_) => None,
        };
        let keys: Vec<String> = self.0.iter().map(key).collect::<Option<_>>()?;
        match &*keys {
            [table, zone @ ..] if matches!(&**table, "routes" | "records") && zone.len() > 1 => {
                Some(Self::default().key(table).key(&zone.join(".")))
            }
            _ => None,
        }
    }

    /// Reads `cache.max_size` or `routes."cluster.local".group`, as flags name keys.
    #[must_use]
    pub(super) fn split(text: &str) -> Vec<String> {
        let mut segments = vec![String::new()];
        let mut quoted = false;
        for character in text.chars() {
            match character {
                '"' => quoted = !quoted,
                '.' if !quoted => segments.push(String::new()),
                _ => {
                    if let Some(last) = segments.last_mut() {
                        last.push(character);
                    }
                }
            }
        }
        segments
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if !key.is_empty() && key.chars().all(bare) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_are_quoted() {
        let path = KeyPath::default().key("routes").key("cluster.local");
        assert_eq!(
            path.key("tiers").index(1).to_string(),
            "routes.\"cluster.local\".tiers[1]"
        );
        assert_eq!(path.key("").to_string(), "routes.\"cluster.local\".\"\"");
    }

    #[test]
    fn a_printed_path_splits_into_the_same_keys() {
        let path = KeyPath::default()
            .key("routes")
            .key("cluster.local")
            .key("group");
        assert_eq!(
            KeyPath::split(&path.to_string()),
            ["routes", "cluster.local", "group"]
        );
    }
}
