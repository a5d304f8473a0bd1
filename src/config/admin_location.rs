//! Where the running instance is asked, by its configuration: the keys `socket` and `admin`, and no other.
//!
//! The instance may run although its file has mistakes meanwhile, so mistakes in other keys do not count.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors};
use super::host::HostFacts;
use super::layers::Layers;
use super::load::{FileContent, Flags, environment, read_content, read_file};
use super::read::Report;
use super::yaml::YamlProblem;
use super::{listen, schema};

/// Stands for the address of kube-dns where a Corefile needs one. Neither `socket` nor `admin` depends on it.
const ANY_CLUSTER_DNS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The keys that are read.
const KEYS: [&str; 2] = ["socket", "admin"];

/// The location of an instance's admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminLocation {
    /// `socket`.
    Socket(PathBuf),
    /// `admin`, if `socket` is not set.
    Address(SocketAddr),
}

/// Where an instance with the configuration of `flags` is asked; none if neither key is set. The rest of the configuration may
/// have mistakes.
///
/// # Errors
/// Mistakes in `socket`, or in `admin` if it counts. If the file cannot be read or holds no table of keys, or is a Corefile that
/// cannot be translated, and the environment and the command line do not say the location: why not.
pub fn admin_location(flags: &Flags) -> Result<Option<AdminLocation>, ConfigErrors> {
    let host = HostFacts {
        cluster_dns: flags.cluster_dns.or(Some(ANY_CLUSTER_DNS)),
        ..HostFacts::default()
    };
    let environment: Vec<_> = environment().collect();
    let file = flags.config_file.as_deref();
    let text = file.map(|file| Ok((file, read_file(file, &host.files)?)));
    let content = text.transpose().and_then(|text| {
        let file = text.as_ref().map(|(file, text)| (*file, text.as_str()));
        read_content(&host, file, &environment)
    });
    locate(file, content, environment, &flags.overrides)
}

fn locate(
    file: Option<&Path>,
    content: Result<FileContent, ConfigErrors>,
    environment: Vec<(String, String)>,
    overrides: &[(String, String)],
) -> Result<Option<AdminLocation>, ConfigErrors> {
    let (content, file_errors) = match content {
        Ok(content) => (content, None),
        Err(errors) => (FileContent::default(), Some(errors)),
    };
    let mut errors = content.mistakes;
    let document = file.zip(content.document);
    let layers = Layers::merge(document, environment, overrides, &mut errors);
    errors.retain(is_of_location);
    let report = Report::new(&layers, errors);
    let location = read(&report);
    report.finish()?;
    let is_set = KEYS.iter().any(|key| layers.dict.contains_key(*key));
    match file_errors {
        Some(errors) if !is_set || location.is_none() => Err(errors),
        _ => Ok(location),
    }
}

/// Reads the keys, but `admin` only if it counts.
fn read(report: &Report<'_>) -> Option<AdminLocation> {
    let top = report.top();
    match schema::read_socket(&top) {
        Some(socket) => Some(AdminLocation::Socket(socket)),
        None => listen::read_admin(&top).map(AdminLocation::Address),
    }
}

fn is_of_location(error: &ConfigError) -> bool {
    let path = match error {
        ConfigError::Key { path, .. } => path.to_string(),
        ConfigError::Yaml {
            problem: YamlProblem::DuplicateKey { path, .. },
            ..
        } => path.clone(),
        _ => return false,
    };
    KEYS.contains(&path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "nodens.yaml";

    fn located(
        file: &str,
        text: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<AdminLocation>, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = variables.iter().map(owned).collect();
        let host = HostFacts {
            cluster_dns: Some(ANY_CLUSTER_DNS),
            ..HostFacts::default()
        };
        let file = Path::new(file);
        let content = read_content(&host, Some((file, text)), &environment);
        locate(Some(file), content, environment, &[]).map_err(|errors| errors.to_string())
    }

    fn socket(path: &str) -> AdminLocation {
        AdminLocation::Socket(path.into())
    }

    fn address(text: &str) -> AdminLocation {
        let address = text.parse().expect("an address");
        AdminLocation::Address(address)
    }

    #[test]
    fn the_socket_comes_before_the_admin_address() {
        let both = "socket: a.sock\nadmin: 127.0.0.1:9999";
        for (what, text, want) in [
            ("both", both, Some(socket("a.sock"))),
            (
                "the address",
                "admin: 127.0.0.1:9999",
                Some(address("127.0.0.1:9999")),
            ),
            ("neither", "workers: 1", Some(address("127.0.0.1:9153"))),
            ("no address", "admin: null", None),
        ] {
            assert_eq!(located(FILE, text, &[]), Ok(want), "{what}");
        }
        let variables = [("NODENS__SOCKET", "b.sock")];
        assert_eq!(located(FILE, both, &variables), Ok(Some(socket("b.sock"))));
    }

    #[test]
    fn mistakes_in_other_keys_do_not_count() {
        for mistake in [
            "workers: many",
            "workers: 1\nworkers: 2",
            "upstreams: 7",
            "no_such_key: 1",
            "listen: 127.0.0.1:5300, 127.0.0.1:5301",
            "admin: nowhere",
        ] {
            let text = format!("socket: a.sock\n{mistake}");
            assert_eq!(
                located(FILE, &text, &[]),
                Ok(Some(socket("a.sock"))),
                "{mistake}"
            );
        }
        let variables = [("NODENS__CACHE", "5"), ("NODENS__CACHE__MAX_SIZE", "1MiB")];
        assert_eq!(
            located(FILE, "socket: a.sock", &variables),
            Ok(Some(socket("a.sock")))
        );
    }

    #[test]
    fn mistakes_in_the_two_keys_are_told() {
        let long = format!("socket: /{}", "x".repeat(200));
        for (text, words) in [
            ("socket: [a, b]", "socket"),
            ("socket: a.sock\nsocket: b.sock", "the key is here twice"),
            (&long, "sun_path"),
            ("admin: nowhere", "nowhere"),
            ("admin: 224.0.0.1:9153", "224.0.0.1:9153"),
        ] {
            let said = located(FILE, text, &[]).expect_err(text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn a_file_without_keys_is_told_unless_the_environment_says_the_location() {
        for text in ["", "socket: [", "- socket", "apiVersion: v1\nkind: Pod\n"] {
            located(FILE, text, &[]).expect_err(text);
            located(FILE, text, &[("NODENS__ADMIN", "null")]).expect_err(text);
            let variables = [("NODENS__SOCKET", "b.sock")];
            assert_eq!(
                located(FILE, text, &variables),
                Ok(Some(socket("b.sock"))),
                "{text}"
            );
            let variables = [("NODENS__ADMIN", "127.0.0.1:9999")];
            let found = located(FILE, text, &variables);
            assert_eq!(found, Ok(Some(address("127.0.0.1:9999"))), "{text}");
        }
    }

    #[test]
    fn a_corefile_needs_no_address_of_kube_dns() {
        let corefile = "cluster.local:53 {\n prometheus :9153\n forward . __PILLAR__CLUSTER__DNS__\n}\n\
                        .:53 {\n kubernetes cluster.local\n forward . 10.0.0.2\n}\n";
        let other_port = located("Corefile", corefile, &[]);
        assert_eq!(other_port, Ok(Some(address("127.0.0.1:9154"))));
        let broken = ".:53 {\n forward\n}\n";
        located("Corefile", broken, &[]).expect_err("no translation");
        let variables = [("NODENS__SOCKET", "b.sock")];
        assert_eq!(
            located("Corefile", broken, &variables),
            Ok(Some(socket("b.sock")))
        );
    }
}
