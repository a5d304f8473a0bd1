//! The regular expressions by which `template` and `rewrite` take the names below a zone: `(.*)\.dev\.example`, as nearly all
//! Corefiles have them.
//!
//! Nothing else of regular expressions is understood. Further names that an expression without `^` or `$` matches, such
//! as names with a search domain appended, are left to the zones.

/// The names that an expression takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Lower-cased, without its final dot.
    pub(super) zone: String,
    pub(super) names: MatchedNames,
    /// Whether `{1}` is what stands in front of the zone.
    pub(super) captured: bool,
}

/// Where the names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchedNames {
    /// The zone alone.
    At,
    /// Below the zone.
    Below,
    /// The zone, and below it.
    AtAndBelow,
    /// So many labels below the zone, and more.
    Deep,
}

/// A dot, as people write it.
const DOTS: [&str; 3] = ["\\.", "[.]", "."];

impl Pattern {
    /// Reads an expression; none if it is another kind of expression.
    pub(super) fn read(text: &str) -> Option<Self> {
        let begins = text.strip_prefix('^');
        let text = begins.unwrap_or(text);
        let ends = text.strip_suffix('$');
        let text = ends.unwrap_or(text);
        let text = ["\\.?", "[.]?", "\\.", "[.]"]
            .iter()
            .find_map(|end| text.strip_suffix(end))
            .unwrap_or(text);
        let (names, captured, rest) = front(text, begins.is_some(), ends.is_some())?;
        Some(Self {
            zone: literal(rest)?,
            names,
            captured,
        })
    }
}

/// The part before the zone: which names it matches, and whether it is a capture group.
fn front(text: &str, begins: bool, ends: bool) -> Option<(MatchedNames, bool, &str)> {
    const OR_NOTHING: [&str; 6] = [
        "(.*\\.)?",
        "(.*[.])?",
        "(?:.*\\.)?",
        "(.+\\.)?",
        "([^.]+\\.)*",
        "(?:[^.]+\\.)*",
    ];
    if let Some(rest) = OR_NOTHING.iter().find_map(|or| text.strip_prefix(or)) {
        return Some((MatchedNames::AtAndBelow, false, rest));
    }
    for boundary in ["(^|\\.)", "(^|[.])", "(?:^|\\.)"] {
        if let Some(rest) = text.strip_prefix(boundary) {
            return Some((MatchedNames::AtAndBelow, false, rest));
        }
    }
    for label in ["(?:[^.]+\\.){", "([^.]+\\.){"] {
        if let Some(rest) = text.strip_prefix(label) {
            let (count, rest) = rest.split_once(",}")?;
            count.parse::<u8>().ok()?;
            return Some((MatchedNames::Deep, false, rest));
        }
    }
    let (captured, rest) = match text.strip_prefix('(') {
        Some(inner) => {
            let (inner, rest) = inner.split_once(')')?;
            let named = inner
                .strip_prefix("?P<")
                .or_else(|| inner.strip_prefix("?<"));
            let (captured, inner) = match (inner.strip_prefix("?:"), named) {
                (Some(inner), _) => (false, inner),
                (_, Some(named)) => (true, named.split_once('>')?.1),
                _ => (true, inner),
            };
            let whole = any_text(inner).is_some_and(str::is_empty);
            (captured, whole.then_some(rest)?)
        }
        None => match any_text(text) {
            Some(rest) => (false, rest),
            // Any part of a name may be meant.
            None if !ends => return None,
            None if begins => return Some((MatchedNames::At, false, text)),
            // The part before the zone is not used.
            None => return Some((MatchedNames::AtAndBelow, false, text)),
        },
    };
    let rest = DOTS.iter().find_map(|dot| rest.strip_prefix(dot))?;
    Some((MatchedNames::Below, captured, rest))
}

/// What follows after `.*`, `.+`, `\w+`, or a class of characters such as `[a-z0-9-]+`.
fn any_text(text: &str) -> Option<&str> {
    let rest = [".*", ".+", "\\w+", "\\w*", "\\S+"]
        .iter()
        .find_map(|any| text.strip_prefix(any));
    rest.or_else(|| {
        let (class, rest) = text.strip_prefix('[')?.split_once(']')?;
        let letters = class.contains("a-z") || class == "^.";
        let rest = rest.strip_prefix(['+', '*'])?;
        letters.then_some(rest)
    })
}

/// Labels and the dots between them.
fn literal(text: &str) -> Option<String> {
    let mut zone = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(behind) = DOTS.iter().find_map(|dot| rest.strip_prefix(dot)) {
            zone.push('.');
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("\\-") {
            zone.push('-');
            rest = behind;
        } else if first.is_ascii_alphanumeric() || first == '-' || first == '_' {
            zone.push(first.to_ascii_lowercase());
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    let labels = zone.split('.').all(|label| !label.is_empty());
    labels.then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::{MatchedNames, Pattern};

    #[test]
    fn the_expressions_of_corefiles_are_read() {
        use MatchedNames::{At, AtAndBelow, Below, Deep};
        let cases = [
            (r"(.*)\.dev\.example", Below, true, "dev.example"),
            (r"^(.*)\.dev\.example\.$", Below, true, "dev.example"),
            (r"(.*).dev.example", Below, true, "dev.example"),
            (r".*\.Apps[.]example[.]$", Below, false, "apps.example"),
            (
                ".*.apps.ocp.example.com",
                Below,
                false,
                "apps.ocp.example.com",
            ),
            (r"^(?P<n>[^.]+)\.x\.y\.?$", Below, true, "x.y"),
            (r"[a-zA-Z.]+\.dev0\.be\.lan", Below, false, "dev0.be.lan"),
            (r"(?:.*)\.x\.y", Below, false, "x.y"),
            (r"^(.*\.)?x\.y\.$", AtAndBelow, false, "x.y"),
            (r"(^|[.])x\.y[.]$", AtAndBelow, false, "x.y"),
            (
                "com[.]cluster[.]local[.]$",
                AtAndBelow,
                false,
                "com.cluster.local",
            ),
            (r"^gate\.x\.y\.$", At, false, "gate.x.y"),
            (
                r"^(?:[^.]+\.){4,}internal\.net\.$",
                Deep,
                false,
                "internal.net",
            ),
        ];
        for (text, names, captured, zone) in cases {
            let expected = Pattern {
                zone: zone.to_owned(),
                names,
                captured,
            };
            assert_eq!(Pattern::read(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "^a",
            "ads",
            "^a|b",
            r"(.*)-(us-west-1)\.coredns\.rocks",
            "(.*)x",
            r"^(a|b)\.x\.y",
            r"ip-(\d+)\.x",
            r"x\.\.y",
            "(.*",
        ] {
            assert_eq!(Pattern::read(text), None, "{text}");
        }
    }
}
