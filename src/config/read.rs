//! Reads keys out of the merged layers, one by one, and goes on after a mistake.
//!
//! [`Section`] is a table: it hands out leaves (with their default, checked against a range) and further tables, notes
//! where each value came from, and at the end reports the keys nobody asked for. Everything lands in one [`Report`].

use std::cell::RefCell;
use std::collections::BTreeMap;

use figment::value::{Dict, Value};
use serde_json::{Value as Json, json};

use super::error::{ConfigError, ConfigErrors, Origin, Problem};
use super::files::Files;
use super::layers::Layers;
use super::leaf::{Leaf, Range, show_value};
use super::path::KeyPath;
use super::shape::Shape;
use super::spelling::nearest;

/// A value in force, for `nodens check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key, such as `routes."cluster.local".max_negative_ttl`.
    pub path: String,
    /// The value, written as it could be in the file.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// Whether the same is in force, whoever set it.
#[must_use]
pub fn same_values(one: &[Setting], other: &[Setting]) -> bool {
    fn values(settings: &[Setting]) -> impl Iterator<Item = (&String, &String)> {
        settings
            .iter()
            .map(|setting| (&setting.path, &setting.value))
    }
    values(one).eq(values(other))
}

/// A key nobody asked for.
struct Unknown {
    path: KeyPath,
    key: String,
    origin: Origin,
    known: Vec<String>,
}

/// Everything found while reading.
pub(super) struct Report<'a> {
    layers: &'a Layers,
    files: Files,
    errors: RefCell<Vec<ConfigError>>,
    unknown: RefCell<Vec<Unknown>>,
    settings: RefCell<Vec<Setting>>,
    warnings: RefCell<Vec<String>>,
    /// What each key may hold; noted for a JSON Schema alone.
    shapes: Option<RefCell<Shapes>>,
}

/// Keys, and what each may hold. None of them has dots of its own.
pub(super) type Shapes = BTreeMap<String, Shape>;

/// A table without keys stands for one that is absent, empty or no table.
static EMPTY: Dict = Dict::new();

impl<'a> Report<'a> {
    pub(super) fn new(layers: &'a Layers, errors: Vec<ConfigError>) -> Self {
        Self {
            layers,
            files: Files::default(),
            errors: RefCell::new(errors),
            unknown: RefCell::default(),
            settings: RefCell::default(),
            warnings: RefCell::default(),
            shapes: None,
        }
    }

    /// The same, for values that name files, which are read from these.
    pub(super) fn with_files(self, files: Files) -> Self {
        Self { files, ..self }
    }

    /// Where files that values name are read from.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// One that notes what each key may hold, rather than what is wrong.
    pub(super) fn noting(layers: &'a Layers) -> Self {
        let shapes = Some(RefCell::default());
        Self {
            shapes,
            ..Self::new(layers, Vec::new())
        }
    }

    /// What each key may hold.
    pub(super) fn into_shapes(self) -> Shapes {
        self.shapes.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Notes what the key at `path` may hold.
    pub(super) fn note(&self, path: &KeyPath, shape: impl FnOnce() -> Shape) {
        if let Some(shapes) = &self.shapes {
            shapes.borrow_mut().insert(path.to_string(), shape());
        }
    }

    /// The table at the top.
    pub(super) fn top(&'a self) -> Section<'a> {
        Section {
            report: self,
            path: KeyPath::default(),
            dict: &self.layers.dict,
            origin: Origin::Default,
            known: RefCell::default(),
        }
    }

    pub(super) fn origin(&self, path: &KeyPath, value: Option<&Value>) -> Origin {
        self.layers.origin(path, value)
    }

    pub(super) fn error(&self, origin: Origin, path: &KeyPath, problem: Problem) {
        let path = path.clone();
        self.errors.borrow_mut().push(ConfigError::Key {
            origin,
            path,
            problem,
        });
    }

    pub(super) fn error_at(&self, path: &KeyPath, value: &Value, problem: Problem) {
        self.error(self.origin(path, Some(value)), path, problem);
    }

    pub(super) fn setting(&self, origin: Origin, path: &KeyPath, value: String) {
        let path = path.to_string();
        self.settings.borrow_mut().push(Setting {
            path,
            value,
            origin,
        });
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// A table that is a value in a dictionary, such as a group.
    pub(super) fn table(
        &'a self,
        path: &KeyPath,
        value: &'a Value,
        expected: &'static str,
    ) -> Section<'a> {
        let dict = match value {
            Value::Dict(_, dict) => dict,
            Value::Empty(..) => &EMPTY,
            other => {
                let value = show_value(other);
                self.error_at(path, other, Problem::NotA { value, expected });
                &EMPTY
            }
        };
        Section {
            report: self,
            path: path.clone(),
            dict,
            origin: self.origin(path, Some(value)),
            known: RefCell::default(),
        }
    }

    /// Reads a leaf; a mistake is noted and gives `None`.
    pub(super) fn leaf<T: Leaf>(&self, path: &KeyPath, value: &Value) -> Option<T> {
        match leaf(value) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.error_at(path, value, problem);
                None
            }
        }
    }

    /// What was found: the settings and warnings, or the mistakes.
    pub(super) fn finish(self) -> Result<(Vec<Setting>, Vec<String>), ConfigErrors> {
        let settings = self.settings.into_inner();
        let mut errors = self.errors.into_inner();
        for unknown in self.unknown.into_inner() {
            let Unknown {
                path,
                key,
                origin,
                known,
            } = unknown;
            let whole = path
                .with_its_zone_whole()
                .filter(|_| origin == Origin::Flag);
            let near = whole
                .map(|path| path.to_string())
                .or_else(|| nested(&key, &known, &origin))
                .or_else(|| nearest(&key, &known))
                .or_else(|| elsewhere(&key, &settings));
            let problem = Problem::UnknownKey { near, known };
            errors.push(ConfigError::Key {
                origin,
                path,
                problem,
            });
        }
        if errors.is_empty() {
            Ok((settings, self.warnings.into_inner()))
        } else {
            Err(ConfigErrors::new(errors))
        }
    }
}

/// The hint for a key such as `cache.max_size: 16MiB` in a file or `NODENS__CACHE_MAX_SIZE`, and for YAML 1.1's merge
/// key, which YAML 1.2 does not have.
fn nested(key: &str, known: &[String], origin: &Origin) -> Option<String> {
    if let Origin::Env { .. } = origin {
        let first = known.iter().find(|known| {
            let rest = key.strip_prefix(known.as_str());
            rest.is_some_and(|rest| rest.starts_with('_'))
        })?;
        let rest = &key[first.len() + 1..];
        let whole = format!("NODENS__{first}__{rest}").to_ascii_uppercase();
        return Some(format!("${whole}"));
    }
    if key == "<<" {
        return Some("the keys of the other table, written out".to_owned());
    }
    let (first, rest) = key.split_once('.')?;
    let nested = rest.replace('.', ": {");
    let ends = "}".repeat(1 + rest.matches('.').count());
    known
        .iter()
        .any(|known| known == first)
        .then(|| format!("{first}: {{{nested}: …{ends}"))
}

/// Items of a list, or the one value that stands for a list of one.
pub(super) fn list_items<'v>(path: &KeyPath, value: &'v Value) -> Vec<(KeyPath, &'v Value)> {
    let Value::Array(_, items) = value else {
        return vec![(path.clone(), value)];
    };
    let numbered = items.iter().enumerate();
    numbered
        .map(|(index, item)| (path.index(index), item))
        .collect()
}

fn leaf<T: Leaf>(value: &Value) -> Result<T, Problem> {
    let expected = T::EXPECTED;
    match value {
        Value::Empty(..) => Err(Problem::NoValue { expected }),
        value => T::parse(value),
    }
}

/// `max_ttl` at the top is `cache.max_ttl`.
fn elsewhere(key: &str, settings: &[Setting]) -> Option<String> {
    let ending = format!(".{key}");
    let mut paths = settings.iter().map(|setting| &setting.path);
    let path = paths.find(|path| path.ends_with(&ending) || *path == key)?;
    Some(if path == key {
        format!("{key} at the top level")
    } else {
        path.clone()
    })
}

/// A table being read.
pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    path: KeyPath,
    dict: &'a Dict,
    origin: Origin,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn path(&self, key: &str) -> KeyPath {
        self.path.key(key)
    }

    /// The path of the table itself.
    pub(super) fn own_path(&self) -> &KeyPath {
        &self.path
    }

    /// Who set the table itself.
    pub(super) fn own_origin(&self) -> Origin {
        self.origin.clone()
    }

    pub(super) fn origin(&self, key: &'static str) -> Origin {
        self.report.origin(&self.path(key), self.dict.get(key))
    }

    /// Notes what a key may hold.
    pub(super) fn note(&self, key: &'static str, shape: impl FnOnce() -> Shape) {
        self.report.note(&self.path(key), shape);
    }

    /// Notes that the default of a key is not the same everywhere.
    pub(super) fn note_default_varies(&self, key: &'static str) {
        if let Some(shapes) = &self.report.shapes
            && let Some(shape) = shapes.borrow_mut().get_mut(&self.path(key).to_string())
        {
            shape.default = None;
        }
    }

    /// The value as it is; `None` if nobody set it. Whoever reads it notes what it may be.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        if let Some(shapes) = &self.report.shapes {
            let mut shapes = shapes.borrow_mut();
            shapes.entry(self.path(key).to_string()).or_default();
        }
        self.dict.get(key)
    }

    /// A table below; one without keys if there is none.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        self.note(key, || {
            Shape::of([json!({"type": "null"})]).or_table(json!({}))
        });
        self.part(key)
    }

    /// The same for a key of which more can be said than that it is a table.
    pub(super) fn part(&self, key: &'static str) -> Section<'a> {
        match self.value(key) {
            Some(value) => self.report.table(&self.path(key), value, "a table of keys"),
            None => Section {
                report: self.report,
                path: self.path(key),
                dict: &EMPTY,
                origin: Origin::Default,
                known: RefCell::default(),
            },
        }
    }

    /// A table whose keys are the user's: names and values, none if it is absent.
    pub(super) fn entries(
        &self,
        key: &'static str,
        names: fn() -> Json,
    ) -> Vec<(&'a str, KeyPath, &'a Value)> {
        let table = || Shape::of([json!({"type": "null"})]);
        self.note(key, || table().or_table(json!({"propertyNames": names()})));
        let section = self.part(key);
        let dict = section.dict;
        dict.iter()
            .map(|(name, value)| (name.as_str(), section.path(name), value))
            .collect()
    }

    pub(super) fn error(&self, key: &'static str, problem: Problem) {
        self.report
            .error(self.origin(key), &self.path(key), problem);
    }

    /// Reports a list that has more items than `limit`.
    pub(super) fn check_count(&self, key: &'static str, count: usize, limit: usize) {
        if count > limit {
            self.error(key, Problem::TooMany { count, limit });
        }
    }

    pub(super) fn setting(&self, key: &'static str, value: String) {
        self.report
            .setting(self.origin(key), &self.path(key), value);
    }

    /// A leaf with a default.
    pub(super) fn read<T: Leaf>(&self, key: &'static str, default: T) -> T {
        self.note(key, || T::shape(None).with_default(default.json()));
        self.read_noted(key, default)
    }

    /// The same for a key of which was noted already what it may hold.
    pub(super) fn read_noted<T: Leaf>(&self, key: &'static str, default: T) -> T {
        let read = self
            .value(key)
            .and_then(|value| self.report.leaf(&self.path(key), value));
        let value = read.unwrap_or(default);
        self.setting(key, value.show());
        value
    }

    /// A leaf with a default, within limits. Out of them: an error, and the default so that reading can go on.
    pub(super) fn read_in<T: Leaf + PartialOrd + Clone>(
        &self,
        key: &'static str,
        default: T,
        range: &Range<T>,
    ) -> T {
        self.note(key, || T::shape(Some(range)).with_default(default.json()));
        self.read_leaf_in(key, default, range)
    }

    /// A leaf without a default, within limits; out of them, `stand_in`.
    pub(super) fn read_in_if_set<T: Leaf + PartialOrd + Clone>(
        &self,
        key: &'static str,
        stand_in: T,
        range: &Range<T>,
    ) -> Option<T> {
        self.note(key, || T::shape(Some(range)));
        self.value(key)?;
        Some(self.read_leaf_in(key, stand_in, range))
    }

    fn read_leaf_in<T: Leaf + PartialOrd + Clone>(
        &self,
        key: &'static str,
        default: T,
        range: &Range<T>,
    ) -> T {
        let value = self.read_noted(key, default.clone());
        if let Some(typed) = self.dict.get(key)
            && let Some(problem) = range.check(&value, || show_value(typed))
        {
            self.error(key, problem);
            return default;
        }
        value
    }

    /// A leaf that may be `null`.
    pub(super) fn read_or_null<T: Leaf>(&self, key: &'static str, default: Option<T>) -> Option<T> {
        self.note(key, || {
            let default = default.as_ref().map_or(Json::Null, Leaf::json);
            Shape::of([T::schema(None), json!({"type": "null"})]).with_default(default)
        });
        let value = match self.value(key) {
            None => default,
            Some(Value::Empty(..)) => None,
            Some(value) => self.report.leaf(&self.path(key), value),
        };
        self.setting(
            key,
            value.as_ref().map_or_else(|| "null".to_owned(), Leaf::show),
        );
        value
    }

    /// `low` must not be over `high`. The mistake is reported at the key that was set.
    pub(super) fn ordered<T: Leaf + PartialOrd>(
        &self,
        low: (&'static str, &T),
        high: (&'static str, &T),
    ) {
        if low.1 <= high.1 {
            return;
        }
        let (key, other) = (low.0.to_owned(), high.0.to_owned());
        if self.dict.contains_key(low.0) {
            let (value, other_value) = (low.1.show(), high.1.show());
            self.error(
                low.0,
                Problem::Over {
                    key,
                    value,
                    other,
                    other_value,
                },
            );
        } else {
            let (key, other) = (other, key);
            let (value, other_value) = (high.1.show(), low.1.show());
            let note = ", its default";
            self.error(
                high.0,
                Problem::Under {
                    key,
                    value,
                    other,
                    other_value,
                    note,
                },
            );
        }
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, value) in self.dict {
            if !known.contains(&key.as_str()) {
                let path = self.path(key);
                self.report.unknown.borrow_mut().push(Unknown {
                    origin: self.report.origin(&path, Some(value)),
                    path,
                    key: key.clone(),
                    known: known.iter().map(|&key| key.to_owned()).collect(),
                });
            }
        }
    }
}
