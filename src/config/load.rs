//! Loads the configuration: from a file, the environment and the command line, or from a Corefile.
//!
//! Reads files (the configuration, resolv.conf, the host's name) and no socket. What each key may be: `schema.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::corefile::{self, LineVerdict, Remark, Surroundings, TranslatedCorefile, is_corefile};
use super::error::{ConfigError, ConfigErrors};
use super::files::Files;
use super::host::HostFacts;
use super::layers::Layers;
use super::read::{Report, Setting};
use super::yaml::Document;
use super::{Config, foreign, layers, schema, yaml};

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`; without it the defaults and the environment apply.
    pub config_file: Option<PathBuf>,
    /// Keys set on the command line, such as `cache.max_size` or `routes."cluster.local"`, and their values. They
    /// outrank everything else.
    pub overrides: Vec<(String, String)>,
    /// Where kube-dns is, for a Corefile with the plugin `kubernetes`.
    pub cluster_dns: Option<IpAddr>,
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every value in force and who set it, in the order of the schema.
    pub settings: Vec<Setting>,
    /// Warnings for the log: values that are valid but probably not intended.
    pub warnings: Vec<String>,
    /// The configuration file.
    pub file: Option<PathBuf>,
}

/// A Corefile as our configuration.
#[derive(Debug)]
pub struct Imported {
    /// What became of each line.
    pub remarks: Vec<Remark>,
    /// The configuration.
    pub yaml: String,
    /// The same as values of the Helm chart.
    pub chart_values: String,
    /// Files that it names and that are not here, as they need not be where it does not run.
    pub missing: Vec<ConfigError>,
}

/// Loads the configuration from the file that `flags` name, the process's environment and `flags`.
///
/// # Errors
/// Every mistake there is, at once.
pub fn load(flags: &Flags) -> Result<Loaded, ConfigErrors> {
    load_with(flags, Files::default())
}

/// The same from `files`, as [`Files::as_they_were`].
///
/// # Errors
/// Every mistake there is, at once.
pub fn load_with(flags: &Flags, files: Files) -> Result<Loaded, ConfigErrors> {
    let text = match &flags.config_file {
        None => None,
        Some(file) => Some((file.as_path(), read_file(file, &files)?)),
    };
    let file = text.as_ref().map(|(file, text)| (*file, text.as_str()));
    let host = HostFacts {
        cluster_dns: flags.cluster_dns,
        files,
        ..HostFacts::default()
    };
    load_on(&host, file, environment(), &flags.overrides)
}

/// The text of a configuration file.
pub(super) fn read_file(file: &Path, files: &Files) -> Result<String, ConfigErrors> {
    files.read_text(file).map_err(|source| {
        let file = file.to_owned();
        let error = match source.kind() {
            std::io::ErrorKind::NotFound => ConfigError::NoFile { file },
            _ => ConfigError::Unreadable { file, source },
        };
        ConfigErrors::new(vec![error])
    })
}

/// Loads the configuration from a file's text, an environment and overrides that are all given, so that nothing of the
/// process matters but the host's resolv.conf, its name and the CPUs.
///
/// # Errors
/// Every mistake there is, at once.
pub fn load_from(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, ConfigErrors> {
    load_on(&HostFacts::default(), file, environment, overrides)
}

/// Makes our configuration of a Corefile, or of the ConfigMap that holds one, whatever the file's name is.
///
/// # Errors
/// Every mistake there is, at once.
pub fn import(
    file: &Path,
    text: &str,
    cluster_dns: Option<IpAddr>,
) -> Result<Imported, ConfigErrors> {
    let host = HostFacts {
        cluster_dns,
        ..HostFacts::default()
    };
    let environment: Vec<(String, String)> = environment().collect();
    let corefile = read_corefile(&host, file, text, &environment)?;
    let mut errors = Vec::new();
    let layers = Layers::merge(
        Some((file, corefile.document.clone())),
        [],
        &[],
        &mut errors,
    );
    let report = Report::new(&layers, errors);
    schema::read(&report, &host);
    let mut missing = Vec::new();
    if let Err(errors) = report.finish() {
        let (of_host, others): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(ConfigError::is_of_this_host);
        if !others.is_empty() {
            return Err(ConfigErrors::new(
                others.into_iter().chain(of_host).collect(),
            ));
        }
        missing = of_host;
    }
    Ok(Imported {
        yaml: corefile.yaml(),
        chart_values: corefile.chart_values(cluster_dns),
        remarks: corefile.remarks,
        missing,
    })
}

/// The variables of the process. Octets that are not UTF-8 become U+FFFD, so that the mistake is visible.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

impl Config {
    /// A configuration from YAML alone, as if it stood in a file called `nodens.yaml`; `{}` gives the defaults.
    ///
    /// # Errors
    /// Every mistake there is, at once.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigErrors> {
        let file = Some((Path::new("nodens.yaml"), text));
        load_from(file, [], &[]).map(|loaded| loaded.config)
    }
}

/// What a configuration file says.
#[derive(Default)]
pub(super) struct FileContent {
    pub(super) document: Option<Document>,
    /// Mistakes after which the rest could be read.
    pub(super) mistakes: Vec<ConfigError>,
    /// Files that a Corefile imports.
    imports: Vec<PathBuf>,
    /// What differs from CoreDNS under a Corefile.
    differences: Vec<String>,
}

/// As [`load_from`], on this host.
pub(super) fn load_on(
    host: &HostFacts,
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, ConfigErrors> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let content = read_content(host, file, &environment)?;
    let path = file.map(|(path, _)| path);
    let mut errors = content.mistakes;
    let near_ours = layers::near_ours(&environment);
    let layers = Layers::merge(
        path.zip(content.document),
        environment,
        overrides,
        &mut errors,
    );
    let report = Report::new(&layers, errors).with_files(host.files.clone());
    let mut config = schema::read(&report, host);
    let (settings, mut warnings) = report.finish()?;
    warnings.extend(warnings_of_unread(near_ours, &settings));
    warnings.extend(content.differences);
    config.settings = settings.as_slice().into();
    config.read_from = host.files.clone();
    config.imports = content.imports;
    Ok(Loaded {
        config,
        settings,
        warnings,
        file: path.map(Path::to_owned),
    })
}

/// A warning for each variable that lacks an underscore; `near_ours` are the names of such variables, with the key that
/// each would set.
fn warnings_of_unread(
    near_ours: Vec<(String, String)>,
    settings: &[Setting],
) -> impl Iterator<Item = String> {
    let is_key = |key: &str| {
        let mut paths = settings.iter().map(|setting| setting.path.split('.'));
        paths.any(|mut path| path.next() == Some(key))
    };
    let unread = near_ours.into_iter().filter(move |(_, key)| is_key(key));
    unread.map(|(name, _)| {
        let meant = name.replacen('_', "__", 1);
        format!("${name} is not read: two underscores follow the name, {meant}")
    })
}

/// What the text of a file says; nothing without a file.
///
/// # Errors
/// If it cannot be translated, holds no table of keys, or is no configuration of ours.
pub(super) fn read_content(
    host: &HostFacts,
    file: Option<(&Path, &str)>,
    environment: &[(String, String)],
) -> Result<FileContent, ConfigErrors> {
    match file {
        None => Ok(FileContent::default()),
        Some((path, text)) if is_corefile(path) => {
            Ok(read_corefile(host, path, text, environment)?.into())
        }
        Some((path, text)) => read_yaml(path, text),
    }
}

/// # Errors
/// If the file holds no table of keys, or is no configuration of ours.
fn read_yaml(path: &Path, text: &str) -> Result<FileContent, ConfigErrors> {
    let (document, found) = yaml::parse(text);
    let name = path.display().to_string();
    let foreign = foreign::in_yaml(&name, text).or_else(|| match document {
        Some(_) => None,
        None => foreign::in_lines(&name, text),
    });
    let file = path.to_owned();
    if let Some(what) = foreign {
        return Err(ConfigErrors::new(vec![ConfigError::Foreign { file, what }]));
    }
    let mut mistakes: Vec<_> = found
        .into_iter()
        .map(|mistake| ConfigError::Yaml {
            file: file.clone(),
            line: mistake.line,
            problem: mistake.problem,
        })
        .collect();
    if document.is_none() {
        if mistakes.is_empty() {
            mistakes.push(ConfigError::EmptyFile { file });
        }
        // Without the file every other complaint would be about its absence.
        return Err(ConfigErrors::new(mistakes));
    }
    Ok(FileContent {
        document,
        mistakes,
        ..FileContent::default()
    })
}

impl From<TranslatedCorefile> for FileContent {
    fn from(corefile: TranslatedCorefile) -> Self {
        let remarks = corefile.remarks.iter();
        let differences = remarks.filter(|remark| remark.verdict != LineVerdict::Taken);
        Self {
            differences: differences.map(ToString::to_string).collect(),
            imports: corefile.files.into_iter().collect(),
            document: Some(corefile.document),
            mistakes: Vec::new(),
        }
    }
}

fn read_corefile(
    host: &HostFacts,
    path: &Path,
    text: &str,
    environment: &[(String, String)],
) -> Result<TranslatedCorefile, ConfigErrors> {
    let variable = |name: &str| {
        let known = environment.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.clone())
    };
    let around = Surroundings {
        cluster_dns: host.cluster_dns(),
        ipv6: host.ipv6.exists(),
        variable: &variable,
        files: &host.files,
        beside: &BTreeMap::new(),
    };
    corefile::import(path, text, &around).map_err(ConfigErrors::new)
}
