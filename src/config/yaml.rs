//! YAML text into a figment dictionary and the line of every key.
//!
//! Owns what YAML may look like here: one document, a table at the top, no key twice, spaces for indentation. Scalars
//! follow YAML 1.2's core schema, except that a number which would not print as it was typed (`1.10`, `0x10`, `007`)
//! stays text: a TXT record or a node's name must not change its spelling. No key of ours takes a fraction.
//!
//! Limits: [`MAX_BYTES`], [`MAX_DEPTH`], [`MAX_NODES`]. Tags other than `!!str` are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::{Dict, Empty, Tag, Value};
use saphyr_parser::{Event, Parser, ScalarStyle};

use super::path::KeyPath;

/// A configuration of 4,000 records is under 1 MiB; more is another file given by mistake.
const MAX_BYTES: usize = 4 << 20;

/// The deepest key, `upstreams.x.failover.hedge_min`, stands on level 4. Bounds the recursion of [`YamlNode::flatten`].
const MAX_DEPTH: usize = 32;

/// Nodes that aliases may add: nested ones double at each step (the "billion laughs").
const MAX_NODES: usize = 20_000;

/// The content of a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Document {
    /// Keys and values.
    pub(super) dict: Dict,
    /// The line of every key and list item, counted from 1.
    pub(super) lines: BTreeMap<KeyPath, usize>,
    /// The file of keys that stand in another file than the configuration's.
    pub(super) files: BTreeMap<KeyPath, PathBuf>,
}

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct YamlError {
    /// Counted from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) problem: YamlProblem,
}

/// What is wrong with a YAML text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlProblem {
    /// The parser gave up.
    #[error("is not YAML: {0}")]
    Syntax(String),
    /// YAML 1.2 §6.1 forbids tabs in indentation.
    #[error("a tab indents this line; YAML wants spaces")]
    Tab,
    /// `---` in the middle.
    #[error("a second document starts here; put everything into one (remove this `---`)")]
    SecondDocument,
    /// A list or a scalar at the top.
    #[error("holds {0} at the top, where keys such as `listen:` and `upstreams:` are wanted")]
    NotATable(&'static str),
    /// YAML 1.2 §3.2.1.3: keys are unique.
    #[error("{path}: the key is here twice, first on line {first}; keep one")]
    DuplicateKey {
        /// The key's path.
        path: String,
        /// Where it was first.
        first: usize,
    },
    /// `{a: b}: c` or `[a]: c`.
    #[error("a list, a table or an alias is used as a key; a key is a word")]
    KeyNotText,
    /// More than 32 levels.
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than 4 MiB.
    #[error("is larger than 4MiB")]
    TooLarge,
    /// Over 20,000 nodes by way of aliases, or an alias inside its own anchor.
    #[error("an alias repeats itself or too much; write the values out")]
    Alias,
    /// `!include`, `!!binary`.
    #[error("the tag {0} has no meaning here; remove it")]
    Tag(String),
}

/// Reads a whole file. No document: the text is empty but for white space and comments, or `errors` says why.
pub(super) fn parse(text: &str) -> (Option<Document>, Vec<YamlError>) {
    let mut errors = Vec::new();
    match build(text, &mut errors) {
        Ok(
            None
            | Some(YamlNode {
                data: Data::Scalar(Value::Empty(..)),
                ..
            }),
        ) => (None, errors),
        Ok(Some(root)) => {
            let kind = match root.data {
                Data::Table(_) => {
                    let mut document = Document::default();
                    if let Value::Dict(_, dict) =
                        root.flatten(&KeyPath::default(), &mut document.lines)
                    {
                        document.dict = dict;
                    }
                    return (Some(document), errors);
                }
                Data::List(_) => "a list",
                Data::Scalar(_) => "a single value",
            };
            let problem = YamlProblem::NotATable(kind);
            errors.push(YamlError {
                line: root.line,
                problem,
            });
            (None, errors)
        }
        Err(error) => {
            errors.push(error);
            (None, errors)
        }
    }
}

/// Reads the value of an environment variable or a flag: `4`, `true`, `null`, `[a, b]`, `{a: b}`; what is not YAML
/// (`[::1]:53`), or empty, is text.
pub(super) fn parse_value(text: &str) -> Value {
    let text = text.trim();
    let mut errors = Vec::new();
    match build(text, &mut errors) {
        Ok(Some(root)) if errors.is_empty() => {
            root.flatten(&KeyPath::default(), &mut BTreeMap::new())
        }
        _ => Value::from(text),
    }
}

/// A value with the line it starts on.
#[derive(Debug, Clone)]
struct YamlNode {
    line: usize,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    Scalar(Value),
    List(Vec<YamlNode>),
    Table(Vec<YamlEntry>),
}

#[derive(Debug, Clone)]
struct YamlEntry {
    key: String,
    line: usize,
    value: YamlNode,
}

impl YamlNode {
    fn count(&self) -> usize {
        1 + match &self.data {
            Data::Scalar(_) => 0,
            Data::List(items) => items.iter().map(Self::count).sum(),
            Data::Table(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        }
    }

    fn flatten(self, path: &KeyPath, lines: &mut BTreeMap<KeyPath, usize>) -> Value {
        match self.data {
            Data::Scalar(value) => value,
            Data::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    let path = path.index(index);
                    lines.insert(path.clone(), item.line);
                    list.push(item.flatten(&path, lines));
                }
                Value::Array(Tag::Default, list)
            }
            Data::Table(entries) => {
                let mut dict = Dict::new();
                for entry in entries {
                    let path = path.key(&entry.key);
                    lines.insert(path.clone(), entry.line);
                    let value = entry.value.flatten(&path, lines);
                    dict.insert(entry.key, value);
                }
                Value::Dict(Tag::Default, dict)
            }
        }
    }
}

/// A list or a table whose end has not been met.
struct OpenCollection {
    node: YamlNode,
    anchor: usize,
    /// A table's keys so far, and their lines.
    seen: BTreeMap<String, usize>,
    /// A table's key that waits for its value.
    key: Option<(String, usize)>,
    /// The value of a key that was there already: read and dropped.
    duplicate: bool,
}

#[derive(Default)]
struct Builder {
    open: Vec<OpenCollection>,
    anchors: BTreeMap<usize, YamlNode>,
    aliased: usize,
    root: Option<YamlNode>,
}

fn build(text: &str, errors: &mut Vec<YamlError>) -> Result<Option<YamlNode>, YamlError> {
    if text.len() > MAX_BYTES {
        let problem = YamlProblem::TooLarge;
        return Err(YamlError { line: 1, problem });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax(text, &error))?;
        let line = span.start.line();
        let step = match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    Err(YamlProblem::SecondDocument)
                } else {
                    Ok(())
                }
            }
            other => builder.step(other, line, errors),
        };
        step.map_err(|problem| YamlError { line, problem })?;
    }
    Ok(builder.root)
}

/// The parser's error, or the most common cause of it.
fn syntax(text: &str, error: &saphyr_parser::ScanError) -> YamlError {
    let line = error.marker().line().max(1);
    let tab = |(_, text): &(usize, &str)| {
        let indentation = text.len() - text.trim_start_matches([' ', '\t']).len();
        text.as_bytes()[..indentation].contains(&b'\t')
    };
    let tabbed = text.lines().enumerate().take(line + 1).find(tab);
    if let Some((index, _)) = tabbed {
        return YamlError {
            line: index + 1,
            problem: YamlProblem::Tab,
        };
    }
    let info = error.info().escape_debug();
    let hint = hint(text.lines().nth(line - 1).unwrap_or_default(), error.info());
    YamlError {
        line,
        problem: YamlProblem::Syntax(format!("{info}{hint}")),
    }
}

/// The most common mistake in a line that the parser rejects.
fn hint(line: &str, info: &str) -> &'static str {
    let begins = |sign: char| {
        let mut words = line.split([' ', '[', '{', ',']);
        words.any(|word| word.starts_with(sign))
    };
    if info.contains("anchor") && begins('*') {
        "; quote what begins with *, for example \"*.dev.example\""
    } else if begins('@') || begins('`') || begins('%') {
        "; quote what begins with @, ` or %"
    } else if info.contains("flow") || info.contains("',' or") {
        "; a [ or { above is not closed, or a comma is missing"
    } else if info.contains("expected key")
        || info.contains("mapping values")
        || info.contains("indent")
    {
        "; this line is not indented as those it belongs to"
    } else {
        ""
    }
}

impl Builder {
    fn step(
        &mut self,
        event: Event<'_>,
        line: usize,
        errors: &mut Vec<YamlError>,
    ) -> Result<(), YamlProblem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = match &tag {
                    None => style != ScalarStyle::Plain,
                    Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
                    Some(tag) => return Err(unknown_tag(tag)),
                };
                if self.wants_key() {
                    self.take_key(text.into_owned(), line, errors);
                    return Ok(());
                }
                let value = if is_text {
                    Value::from(&*text)
                } else {
                    plain(&text)
                };
                self.close(line, Data::Scalar(value), anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                self.start(line, Data::List(Vec::new()), anchor, tag.as_deref())?;
            }
            Event::MappingStart(anchor, tag) => {
                self.start(line, Data::Table(Vec::new()), anchor, tag.as_deref())?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.close(open.node.line, open.node.data, open.anchor);
                }
            }
            Event::Alias(anchor) => {
                if self.wants_key() {
                    return Err(YamlProblem::KeyNotText);
                }
                let node = self.anchors.get(&anchor).ok_or(YamlProblem::Alias)?;
                self.aliased += node.count();
                if self.aliased > MAX_NODES {
                    return Err(YamlProblem::Alias);
                }
                let data = node.data.clone();
                self.close(line, data, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.key.is_none() && matches!(open.node.data, Data::Table(_)))
    }

    fn take_key(&mut self, key: String, line: usize, errors: &mut Vec<YamlError>) {
        let above = self.open.iter().rev().skip(1).rev();
        let path = above.fold(KeyPath::default(), |path, open| {
            match (&open.node.data, &open.key) {
                (Data::List(items), _) => path.index(items.len()),
                (_, Some((key, _))) => path.key(key),
                _ => path,
            }
        });
        let Some(open) = self.open.last_mut() else {
            return;
        };
        match open.seen.entry(key.clone()) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(line);
            }
            std::collections::btree_map::Entry::Occupied(occupied) => {
                let path = path.key(&key).to_string();
                let first = *occupied.get();
                let problem = YamlProblem::DuplicateKey { path, first };
                errors.push(YamlError { line, problem });
                open.duplicate = true;
            }
        }
        open.key = Some((key, line));
    }

    fn start(
        &mut self,
        line: usize,
        data: Data,
        anchor: usize,
        tag: Option<&saphyr_parser::Tag>,
    ) -> Result<(), YamlProblem> {
        if let Some(tag) = tag {
            return Err(unknown_tag(tag));
        }
        if self.wants_key() {
            return Err(YamlProblem::KeyNotText);
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlProblem::TooDeep);
        }
        self.open.push(OpenCollection {
            node: YamlNode { line, data },
            anchor,
            seen: BTreeMap::new(),
            key: None,
            duplicate: false,
        });
        Ok(())
    }

    /// Puts a complete value into the open list or table; without one it is the whole document.
    fn close(&mut self, line: usize, data: Data, anchor: usize) {
        let node = YamlNode { line, data };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.node.data {
            Data::List(items) => items.push(node),
            Data::Table(entries) => {
                if let Some((key, line)) = open.key.take()
                    && !std::mem::take(&mut open.duplicate)
                {
                    let value = node;
                    entries.push(YamlEntry { key, line, value });
                }
            }
            Data::Scalar(_) => {}
        }
    }
}

fn unknown_tag(tag: &saphyr_parser::Tag) -> YamlProblem {
    YamlProblem::Tag(
        format!("{}{}", tag.handle, tag.suffix)
            .escape_debug()
            .to_string(),
    )
}

/// YAML 1.2 §10.3.2, the core schema, for what is not quoted.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Empty(Tag::Default, Empty::None),
        "true" | "True" | "TRUE" => return Value::from(true),
        "false" | "False" | "FALSE" => return Value::from(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<u64>()
        && number.to_string() == text
    {
        return Value::from(number);
    }
    if let Ok(number) = text.parse::<i64>()
        && number.to_string() == text
    {
        return Value::from(number);
    }
    Value::from(text)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, errors) = parse(text);
        errors
            .iter()
            .map(|error| format!("{}: {}", error.line, error.problem))
            .collect()
    }

    #[test]
    fn every_key_and_item_has_its_line() {
        let (document, errors) = parse("a: 1\nb:\n  c.d: [x,\n    y]\n  e:\n    - z\n");
        assert!(errors.is_empty());
        let lines = document.expect("a table").lines;
        let shown: Vec<_> = lines
            .iter()
            .map(|(path, line)| format!("{path}={line}"))
            .collect();
        let expected = [
            "a=1",
            "b=2",
            "b.\"c.d\"=3",
            "b.\"c.d\"[0]=3",
            "b.\"c.d\"[1]=4",
            "b.e=5",
            "b.e[0]=6",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn numbers_that_would_change_their_spelling_stay_text() {
        for text in ["1.10", "0x10", "007", "+5", "1e3", "-0"] {
            assert_eq!(plain(text), Value::from(text), "{text}");
        }
        assert_eq!(plain("10"), Value::from(10_u64));
        assert_eq!(plain("-3"), Value::from(-3_i64));
    }

    #[test]
    fn values_of_variables() {
        let cases = [
            ("4", Value::from(4_u64)),
            ("true", Value::from(true)),
            ("null", Value::Empty(Tag::Default, Empty::None)),
            ("", Value::from("")),
            ("64MiB", Value::from("64MiB")),
            (
                "[10.0.0.2, 10.0.0.3]",
                Value::from(vec!["10.0.0.2", "10.0.0.3"]),
            ),
            ("127.0.0.1:53", Value::from("127.0.0.1:53")),
            ("[::1]:53", Value::from("[::1]:53")),
            (
                "tls://1.1.1.1#one.one.one.one",
                Value::from("tls://1.1.1.1#one.one.one.one"),
            ),
            (". NS", Value::from(". NS")),
            ("\"4\"", Value::from("4")),
            ("*", Value::from("*")),
        ];
        for (text, expected) in cases {
            match (parse_value(text), expected) {
                (Value::Empty(..), Value::Empty(..)) => {}
                (value, expected) => assert_eq!(value, expected, "{text}"),
            }
        }
    }

    #[test]
    fn what_is_not_wanted_is_named_with_its_line() {
        let cases = [
            ("tab", "a:\n\tb: 1\n", "2: a tab indents this line"),
            (
                "two documents",
                "a: 1\n---\nb: 2\n",
                "2: a second document starts here",
            ),
            ("list", "- a\n- b\n", "1: holds a list at the top"),
            ("scalar", "hello\n", "1: holds a single value at the top"),
            (
                "duplicate",
                "a: 1\nb: 2\na: 3\n",
                "3: a: the key is here twice, first on line 1",
            ),
            (
                "deep duplicate",
                "a:\n  - {b: 1,\n   b: 2}\n",
                "3: a[0].b: the key is here twice, first on line 2",
            ),
            ("unclosed", "a: [1, 2\nb: 3\n", "is not YAML: "),
            (
                "key",
                "[a]: b\n",
                "1: a list, a table or an alias is used as a key",
            ),
            (
                "tag",
                "a: !include x\n",
                "1: the tag !include has no meaning",
            ),
            ("self", "a: &x [*x]\n", "an alias repeats itself"),
        ];
        for (name, text, expected) in cases {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].contains(expected), "{name}: {found:?}");
        }
    }

    #[test]
    fn aliases_work_until_they_explode() {
        let (document, errors) = parse("a: &x {b: 1}\nc: *x\n");
        assert!(errors.is_empty());
        assert_eq!(
            document.expect("a table").dict["c"].find_ref("b"),
            Some(&Value::from(1_u64))
        );

        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for level in 1..30 {
            let below = level - 1;
            writeln!(bomb, "a{level}: &a{level} [*a{below}, *a{below}]").expect("a String");
        }
        assert!(problems(&bomb)[0].contains("an alias repeats itself or too much"));
    }

    #[test]
    fn deep_nesting_ends_in_an_error_not_in_a_stack_overflow() {
        assert!(problems(&"- ".repeat(100_000))[0].contains("nested deeper"));
        assert!(!problems(&"[".repeat(100_000)).is_empty());
        assert_eq!(
            parse_value(&"[".repeat(100_000)),
            Value::from("[".repeat(100_000))
        );
    }

    #[test]
    fn nothing_but_comments_is_empty() {
        for text in ["", " \n", "# a\n\n# b\n", "---\n", "null\n", "\u{feff}"] {
            let (document, errors) = parse(text);
            assert!(
                document.is_none() && errors.is_empty(),
                "{text:?}: {errors:?}"
            );
        }
    }
}
