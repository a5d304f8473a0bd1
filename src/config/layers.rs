//! The layers of the configuration, merged by figment: file < `NODENS__*` environment < flags.
//!
//! Each variable and each flag is a provider of its own, so that figment's tags tell which one set a value. The
//! environment is an argument: figment's own `Env` reads the process's, and splits keys at dots, which zone names have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{ConfigError, Origin, Problem};
use super::path::KeyPath;
use super::yaml::{self, Document};

/// Two underscores also after the name: a Service called `nodens` injects `NODENS_PORT` and the like into every pod.
pub(super) const PREFIX: &str = "NODENS__";

/// The merged values of all layers, and who set each one.
#[derive(Debug)]
pub(super) struct Layers {
    /// Merged keys and values.
    pub(super) dict: Dict,
    figment: Figment,
    file: Option<PathBuf>,
    lines: BTreeMap<KeyPath, usize>,
    files: BTreeMap<KeyPath, PathBuf>,
}

/// A single key set from outside the file.
struct Single {
    source: Origin,
    segments: Vec<String>,
    value: Value,
}

struct FileLayer<'a> {
    file: &'a Path,
    dict: &'a Dict,
}

impl Provider for FileLayer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", self.file)
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Provider for Single {
    fn metadata(&self) -> Metadata {
        match &self.source {
            Origin::Env { variable } => Metadata::from(ENV, variable.as_str()),
            _ => Metadata::named(FLAG),
        }
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        let mut segments = self.segments.iter().rev();
        let mut dict = Dict::new();
        if let Some(last) = segments.next() {
            dict.insert(last.clone(), self.value.clone());
        }
        for segment in segments {
            dict = Dict::from([(segment.clone(), Value::Dict(Tag::Default, dict))]);
        }
        Ok(Profile::Default.collect(dict))
    }
}

const ENV: &str = "environment";
const FLAG: &str = "flag";

impl Layers {
    /// Merges the layers. Mistakes that can be named already go to `errors`.
    pub(super) fn merge(
        file: Option<(&Path, Document)>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &[(String, String)],
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut figment = Figment::new();
        let mut below = Dict::new();
        let (mut lines, mut files) = (BTreeMap::new(), BTreeMap::new());
        if let Some((file, document)) = &file {
            let dict = &document.dict;
            figment = figment.merge(FileLayer { file, dict });
        }
        let file = file.map(|(path, document)| {
            below = document.dict;
            (lines, files) = (document.lines, document.files);
            path.to_owned()
        });
        let variables = variables(environment, &below);
        contradictions(&variables, errors);
        let flags = overrides.iter().map(|(key, value)| Single {
            source: Origin::Flag,
            segments: KeyPath::split(key),
            value: yaml::parse_value(value),
        });
        for single in variables.into_iter().chain(flags) {
            figment = figment.merge(single);
        }
        let dict = match figment.data() {
            Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
            Err(error) => {
                errors.push(ConfigError::Layers(Box::new(error)));
                Dict::new()
            }
        };
        Self {
            dict,
            figment,
            file,
            lines,
            files,
        }
    }

    /// Who set this value.
    pub(super) fn origin(&self, path: &KeyPath, value: Option<&Value>) -> Origin {
        let metadata = value.and_then(|value| self.figment.get_metadata(value.tag()));
        match metadata {
            None => Origin::Default,
            Some(metadata) if metadata.name == ENV => Origin::Env {
                variable: metadata
                    .source
                    .as_ref()
                    .and_then(|s| s.custom())
                    .unwrap_or_default()
                    .to_owned(),
            },
            Some(metadata) if metadata.name == FLAG => Origin::Flag,
            Some(_) => {
                let (line, elsewhere) = self.place(path);
                let path = elsewhere.or(self.file.as_ref()).cloned();
                Origin::File {
                    path: path.unwrap_or_default(),
                    line,
                }
            }
        }
    }

    /// The line of a key, or of the nearest key above it, and its file if that is not the configuration's.
    fn place(&self, path: &KeyPath) -> (usize, Option<&PathBuf>) {
        let mut path = Some(path.clone());
        while let Some(here) = path {
            if let Some(line) = self.lines.get(&here) {
                return (*line, self.files.get(&here));
            }
            path = here.parent();
        }
        (1, None)
    }
}

/// The variables meant for us, in order. Keys below are taken in the file's spelling, since variables are upper-case.
/// Variables with one underscore behind the name where ours have two, and the key at the top that each would set. What a
/// Service called `nodens` or `nodens-metrics` injects has no key of ours alone behind the name, and never two underscores.
pub(super) fn near_ours(environment: &[(String, String)]) -> Vec<(String, String)> {
    let near = |(name, _): &(String, String)| {
        let rest = name.strip_prefix("NODENS_")?;
        let key = rest.split("__").next().filter(|key| !key.is_empty())?;
        Some((name.clone(), key.to_ascii_lowercase()))
    };
    let mut found: Vec<_> = environment.iter().filter_map(near).collect();
    found.sort();
    found
}

fn variables(environment: impl IntoIterator<Item = (String, String)>, below: &Dict) -> Vec<Single> {
    let mut ours: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| name.len() > PREFIX.len() && name.starts_with(PREFIX))
        .collect();
    ours.sort();
    let single = |(variable, text): (String, String)| {
        let mut table = Some(below);
        let segments = variable[PREFIX.len()..].split("__").map(|segment| {
            let entry = table.and_then(|table| {
                table
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(segment))
            });
            table = entry.and_then(|(_, value)| value.as_dict());
            entry.map_or_else(|| segment.to_ascii_lowercase(), |(key, _)| key.clone())
        });
        Single {
            segments: segments.collect(),
            value: yaml::parse_value(&text),
            source: Origin::Env { variable },
        }
    };
    ours.into_iter().map(single).collect()
}

/// `NODENS__CACHE=5` beside `NODENS__CACHE__MAX_SIZE=1`: merging would silently drop the first.
fn contradictions(variables: &[Single], errors: &mut Vec<ConfigError>) {
    for shorter in variables
        .iter()
        .filter(|single| single.value.as_dict().is_none())
    {
        let longer = variables.iter().find(|other| {
            other.segments.len() > shorter.segments.len()
                && other.segments.starts_with(&shorter.segments)
        });
        if let Some(Single {
            source: Origin::Env { variable },
            ..
        }) = longer
        {
            let path = shorter
                .segments
                .iter()
                .fold(KeyPath::default(), |path, key| path.key(key));
            errors.push(ConfigError::Key {
                origin: shorter.source.clone(),
                path,
                problem: Problem::Contradiction {
                    longer: variable.clone(),
                },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn later_layers_win_and_every_value_knows_its_layer() {
        let (document, _) = yaml::parse("cache:\n  max_size: 1MiB\n  max_ttl: 1h\nworkers: 1\n");
        let file = document.map(|document| (Path::new("x.yaml"), document));
        let variables = environment(&[
            ("NODENS__CACHE__MAX_SIZE", "2MiB"),
            ("NODENS_PORT", "tcp://10.0.0.1:53"),
        ]);
        let flags = [("workers".to_owned(), "3".to_owned())];
        let mut errors = Vec::new();
        let layers = Layers::merge(file, variables, &flags, &mut errors);
        assert!(errors.is_empty());

        let cache = KeyPath::default().key("cache");
        let origin = |path: &KeyPath, value: &Value| layers.origin(path, Some(value)).to_string();
        let table = layers.dict["cache"].as_dict().expect("a table");
        assert_eq!(table["max_size"], Value::from("2MiB"));
        assert_eq!(
            origin(&cache.key("max_size"), &table["max_size"]),
            "$NODENS__CACHE__MAX_SIZE"
        );
        assert_eq!(origin(&cache.key("max_ttl"), &table["max_ttl"]), "x.yaml:3");
        assert_eq!(
            origin(&KeyPath::default().key("workers"), &layers.dict["workers"]),
            "command line"
        );
        assert_eq!(layers.dict.len(), 2, "NODENS_PORT is the Service's");
    }

    #[test]
    fn variables_find_keys_in_the_files_spelling() {
        let (document, _) = yaml::parse("upstreams: {VPC: {servers: x}}\n");
        let file = document.map(|document| (Path::new("x.yaml"), document));
        let variables = environment(&[("NODENS__UPSTREAMS__VPC__DEADLINE", "2s")]);
        let layers = Layers::merge(file, variables, &[], &mut Vec::new());
        let groups = layers.dict["upstreams"].as_dict().expect("a table");
        assert_eq!(groups.len(), 1);
        assert_eq!(groups["VPC"].find_ref("deadline"), Some(&Value::from("2s")));
    }

    #[test]
    fn a_zone_in_a_variable_keeps_its_dots() {
        let variables = environment(&[("NODENS__ROUTES__cluster.local", "vpc")]);
        let layers = Layers::merge(None, variables, &[], &mut Vec::new());
        assert!(
            layers.dict["routes"]
                .as_dict()
                .expect("a table")
                .contains_key("cluster.local")
        );
    }
}
