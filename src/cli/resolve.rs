//! `nodens resolve NAME [TYPE]`: what would a pod get?
//!
//! Owns the arguments and the output; [`crate::cli::stub`] asks. DNS only: `/etc/hosts` is not read. Lines that begin
//! with `;;` name the question and the server, the others are records in presentation form (RFC 1035 §5.1).

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hickory_proto::rr::{Name, Record, RecordType};

use crate::cli::stub::{NoReply, Stub, StubOutcome, StubReply};
use crate::message::record_text::{data_text, type_text};

/// The file that glibc reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// glibc's defaults (resolv.conf(5): `RES_TIMEOUT`, `RES_DFLRETRY`), for `--server` where there is no resolv.conf.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_ATTEMPTS: usize = 2;

/// Exit status when no records came.
const NO_RECORDS: u8 = 1;
/// Exit status for arguments that cannot be used, as clap's own.
const BAD_ARGUMENTS: u8 = 2;

/// Look a name up as a pod's stub resolver would
#[derive(Debug, clap::Args)]
pub(crate) struct ResolveArgs {
    /// Name to look up, completed by the search list unless it ends with a dot; for an IP address its PTR
    #[arg(value_parser = parse_subject)]
    name: Subject,

    /// Record type [default: A and AAAA, for an IP address PTR]
    #[arg(value_name = "TYPE", value_parser = parse_type)]
    record_type: Option<RecordType>,

    /// Server to ask instead of those in resolv.conf, IP or IP:port; several are asked in turn
    #[arg(long, value_name = "ADDR", value_parser = parse_server)]
    server: Vec<SocketAddr>,

    /// Where servers, search list and options are read from [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
}

/// The name or address that is looked up.
#[derive(Debug, Clone)]
struct Subject {
    name: Name,
    /// Asked for when no type is given.
    default_types: &'static [RecordType],
}

/// Runs the subcommand. Needs a runtime with I/O and time; one thread will do.
pub(crate) async fn run(args: ResolveArgs) -> anyhow::Result<ExitCode> {
    let mut report = String::new();
    let status = look_up(args, &mut report).await;
    io::stdout().write_all(report.as_bytes())?;
    match status {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) => {
            writeln!(io::stderr(), "nodens resolve: {}", failure.reason)?;
            Ok(ExitCode::from(failure.status))
        }
    }
}

/// Why there are no records.
#[derive(Debug, PartialEq, Eq)]
struct LookupFailure {
    status: u8,
    reason: String,
}

async fn look_up(args: ResolveArgs, report: &mut String) -> Result<(), LookupFailure> {
    let stub = stub(args.server, args.resolv_conf.as_deref()).map_err(|error| LookupFailure {
        status: BAD_ARGUMENTS,
        reason: format!("{error:#}"),
    })?;
    let types = match &args.record_type {
        Some(record_type) => std::slice::from_ref(record_type),
        None => args.name.default_types,
    };
    let mut worst: Option<(Severity, String)> = None;
    for name in stub.candidates(&args.name.name) {
        let mut found = false;
        let mut gone = false;
        for answer in ask(&stub, &name, types).await {
            let (severity, reason) = describe(&answer.heard, &name, answer.record_type, report);
            found |= severity == Severity::None;
            // As in glibc: silence ends the search, an answer without records goes on to the next name.
            gone |= severity == Severity::Silence;
            if worst.as_ref().is_none_or(|(before, _)| *before < severity) {
                worst = Some((severity, reason));
            }
        }
        if found {
            return Ok(());
        }
        if gone {
            break;
        }
    }
    let reason = worst.map_or_else(|| "no name to ask for".to_owned(), |(_, reason)| reason);
    Err(LookupFailure {
        status: NO_RECORDS,
        reason,
    })
}

/// The gravity of an answer; the worst one is reported as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    None,
    NoName,
    NoData,
    Failure,
    Silence,
}

struct AnswerOfType {
    record_type: RecordType,
    heard: Result<StubReply, NoReply>,
}

/// A and AAAA go out at the same time, as in a pod.
async fn ask(stub: &Stub, name: &Name, types: &[RecordType]) -> Vec<AnswerOfType> {
    if let [RecordType::A, RecordType::AAAA] = types {
        let [a, aaaa] = stub.ask_addresses(name).await;
        let pair = [(RecordType::A, a), (RecordType::AAAA, aaaa)];
        return pair
            .map(|(record_type, heard)| AnswerOfType { record_type, heard })
            .into();
    }
    let mut answers = Vec::with_capacity(types.len());
    for &record_type in types {
        let heard = stub.ask(name, record_type).await;
        answers.push(AnswerOfType { record_type, heard });
    }
    answers
}

/// Adds an answer to the report; returns its gravity and the reason.
fn describe(
    answer: &Result<StubReply, NoReply>,
    name: &Name,
    record_type: RecordType,
    report: &mut String,
) -> (Severity, String) {
    let question = format!("{} IN {}", name.to_ascii(), type_text(record_type));
    let heard = match answer {
        Ok(heard) => heard,
        Err(unheard) => {
            let reason = format!("{question}: {unheard}");
            add_line(report, &format!(";; {reason}"));
            return (Severity::Silence, reason);
        }
    };
    let outcome = heard.outcome();
    let records = &heard.message.answers;
    let what = match (outcome, records.len()) {
        (StubOutcome::Records, 1) => "1 record".to_owned(),
        (StubOutcome::Records, count) => format!("{count} records"),
        (outcome, 0) => outcome.to_string(),
        // The CNAMEs that led to a name without such records.
        (outcome, _) => format!("{outcome} behind the CNAME"),
    };
    let reason = format!("{question}: {what} from {}", heard.server);
    let took = heard.waited.as_secs_f64() * 1_000.0;
    let transport = heard.transport;
    add_line(
        report,
        &format!(";; {reason} over {transport} in {took:.1} ms"),
    );
    for record in records {
        add_line(report, &presentation(record));
    }
    let severity = match outcome {
        StubOutcome::Records => Severity::None,
        StubOutcome::NoData => Severity::NoData,
        StubOutcome::NoName => Severity::NoName,
        StubOutcome::Failure(_) => Severity::Failure,
    };
    (severity, reason)
}

fn add_line(report: &mut String, line: &str) {
    report.push_str(line);
    report.push('\n');
}

fn stub(servers: Vec<SocketAddr>, resolv_conf: Option<&Path>) -> anyhow::Result<Stub> {
    let path = resolv_conf.unwrap_or(Path::new(RESOLV_CONF));
    let mut stub = match fs::read_to_string(path) {
        Ok(text) => Stub::from_resolv_conf(&text)
            .with_context(|| format!("cannot use {}", path.display()))?,
        // An image without /etc/resolv.conf can still ask a server given by --server.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && resolv_conf.is_none()
                && !servers.is_empty() =>
        {
            Stub::new(Vec::new(), DEFAULT_TIMEOUT, DEFAULT_ATTEMPTS)
        }
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    };
    if !servers.is_empty() {
        stub.servers = servers;
    }
    Ok(stub)
}

fn parse_subject(text: &str) -> Result<Subject, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let mut name = Name::from(address);
        name.set_fqdn(true);
        return Ok(Subject {
            name,
            default_types: &[RecordType::PTR],
        });
    }
    if text.is_empty() {
        return Err("a name is not empty; the root is \".\"".to_owned());
    }
    let name = Name::from_str_relaxed(text).map_err(|error| error.to_string())?;
    Ok(Subject {
        name,
        default_types: &[RecordType::A, RecordType::AAAA],
    })
}

/// A mnemonic in any case, or `TYPE65` (RFC 3597 §5).
pub(super) fn parse_type(text: &str) -> Result<RecordType, String> {
    let text = text.to_ascii_uppercase();
    let by_number = text
        .strip_prefix("TYPE")
        .and_then(|number| number.parse::<u16>().ok());
    let record_type = match by_number {
        Some(number) => Ok(RecordType::from(number)),
        None => text.parse::<RecordType>(),
    };
    match record_type {
        Ok(RecordType::AXFR | RecordType::IXFR) => {
            Err("zone transfers are not for stub resolvers".to_owned())
        }
        Ok(record_type) => Ok(record_type),
        Err(_) => Err("not a record type; try A, AAAA, CNAME, TXT, PTR, SRV or TYPE65".to_owned()),
    }
}

fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text)
        .parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, 53))
        .or_else(|_| text.parse())
        .map_err(|_| "not an address; try 10.0.0.2, 10.0.0.2:5300 or [fd00::2]:5300".to_owned())
}

/// One record as a line of a zone file.
pub(super) fn presentation(record: &Record) -> String {
    format!(
        "{} {} {} {} {}",
        record.name.to_ascii(),
        record.ttl,
        record.dns_class,
        type_text(record.record_type()),
        data_text(&record.data)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::{NULL, TXT};

    use super::*;
    use crate::lab::stand_in::{BlackHole, StandIn, Zone, kube_dns, vpc_dns};

    const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: ResolveArgs,
    }

    /// A resolv.conf in a file that goes away with it.
    struct ResolvConf(PathBuf);

    impl ResolvConf {
        fn new(label: &str, text: &str) -> Self {
            let file = format!("nodens-resolve-{}-{label}.conf", std::process::id());
            let path = std::env::temp_dir().join(file);
            fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for ResolvConf {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn parse(arguments: &[&str]) -> Result<ResolveArgs, clap::Error> {
        Command::try_parse_from([&["resolve"], arguments].concat()).map(|command| command.args)
    }

    async fn resolve(
        label: &str,
        resolv_conf: &str,
        server: SocketAddr,
        arguments: &[&str],
    ) -> (Result<(), LookupFailure>, String) {
        let file = ResolvConf::new(label, resolv_conf);
        let server = server.to_string();
        let path = file.0.to_str().unwrap();
        let arguments = [arguments, &["--server", &server, "--resolv-conf", path]].concat();
        let mut report = String::new();
        let status = look_up(parse(&arguments).unwrap(), &mut report).await;
        (status, report)
    }

    async fn start(zones: &[Zone]) -> StandIn {
        StandIn::start(zones, LOOPBACK.into()).await.unwrap()
    }

    /// The lines of a report, without the time each answer took.
    fn lines(report: &str) -> Vec<&str> {
        report
            .lines()
            .map(|line| line.split(" in ").next().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn both_families_are_asked_and_shown() {
        let vpc = start(&vpc_dns()).await;
        let server = vpc.address();
        let (status, report) = resolve("both", "", server, &["registry.example.com"]).await;
        assert_eq!(status, Ok(()));
        assert_eq!(
            lines(&report),
            [
                &format!(";; registry.example.com. IN A: 1 record from {server} over UDP"),
                "registry.example.com. 60 IN A 10.1.20.5",
                &format!(";; registry.example.com. IN AAAA: 1 record from {server} over UDP"),
                "registry.example.com. 60 IN AAAA 2001:db8:20::5",
            ]
        );
        assert!(report.lines().next().unwrap().ends_with(" ms"), "{report}");
    }

    #[tokio::test]
    async fn one_family_is_enough() {
        let vpc = start(&vpc_dns()).await;
        let server = vpc.address();
        let (status, report) = resolve("one", "", server, &["gitlab.example.com."]).await;
        assert_eq!(status, Ok(()));
        assert!(report.contains("gitlab.example.com. 60 IN A 10.1.20.6\n"));
        assert!(report.contains("IN AAAA: NODATA from"), "{report}");
    }

    #[tokio::test]
    async fn the_search_list_of_resolv_conf_completes_the_name() {
        let kube = start(&kube_dns()).await;
        let conf =
            "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        let arguments = ["kubernetes.default", "a"];
        let (status, report) = resolve("search", conf, kube.address(), &arguments).await;
        assert_eq!(status, Ok(()));
        let server = kube.address();
        let tried = "kubernetes.default.shop.svc.cluster.local. IN A: NXDOMAIN";
        let asked = "kubernetes.default.svc.cluster.local. IN A: 1 record";
        assert_eq!(
            lines(&report),
            [
                &format!(";; {tried} from {server} over UDP"),
                &format!(";; {asked} from {server} over UDP"),
                "kubernetes.default.svc.cluster.local. 30 IN A 10.96.0.1",
            ]
        );
    }

    #[tokio::test]
    async fn aliases_reverse_names_and_big_answers_are_shown() {
        let vpc = start(&vpc_dns()).await;
        let kube = start(&kube_dns()).await;
        let (status, report) = resolve(
            "alias",
            "",
            vpc.address(),
            &["s3.internal.example.com", "A"],
        )
        .await;
        assert_eq!(status, Ok(()));
        let expected = "s3.internal.example.com. 60 IN CNAME gateway.internal.example.com.\n\
                        gateway.internal.example.com. 60 IN A 10.1.30.9\n";
        assert!(report.ends_with(expected), "{report}");

        let (status, report) = resolve("reverse", "", kube.address(), &["10.96.0.1"]).await;
        assert_eq!(status, Ok(()));
        let expected = "1.0.96.10.in-addr.arpa. 30 IN PTR kubernetes.default.svc.cluster.local.\n";
        assert!(report.ends_with(expected), "{report}");

        let (status, report) =
            resolve("big", "", vpc.address(), &["big.example.com", "AAAA"]).await;
        assert_eq!(status, Ok(()));
        assert!(report.contains("60 records from"), "{report}");
        assert!(report.contains("over TCP in"), "{report}");
        assert_eq!(report.lines().count(), 61);
    }

    #[tokio::test]
    async fn what_went_wrong_is_said_plainly() {
        let vpc = start(&vpc_dns()).await;
        let hole = BlackHole::bind(LOOPBACK.into()).unwrap();
        let silent = hole.address().unwrap();
        for (label, arguments, server, expected) in [
            (
                "nxdomain",
                ["missing.example.com.", "A"],
                vpc.address(),
                "IN A: NXDOMAIN from",
            ),
            (
                "nodata",
                ["gitlab.example.com.", "MX"],
                vpc.address(),
                "IN MX: NODATA from",
            ),
            (
                "chain",
                ["s3.internal.example.com.", "MX"],
                vpc.address(),
                "NODATA behind the CNAME",
            ),
            (
                "refused",
                ["example.org.", "TYPE65"],
                vpc.address(),
                "IN HTTPS: REFUSED from",
            ),
            (
                "silent",
                ["example.org.", "A"],
                silent,
                "timed out: no answer from",
            ),
        ] {
            let conf = "options timeout:1 attempts:1\n";
            let (status, report) = resolve(label, conf, server, &arguments).await;
            let failure = status.unwrap_err();
            assert_eq!(failure.status, NO_RECORDS, "{label}");
            assert!(failure.reason.contains(expected), "{label}: {failure:?}");
            assert!(report.contains(expected), "{label}: {report}");
        }
    }

    #[tokio::test]
    async fn silence_ends_the_search_and_is_the_reason() {
        let hole = BlackHole::bind(LOOPBACK.into()).unwrap();
        let conf = "search a.test b.test\noptions ndots:5 timeout:1 attempts:1\n";
        let server = hole.address().unwrap();
        let (status, report) = resolve("ends", conf, server, &["web", "A"]).await;
        assert!(
            status
                .unwrap_err()
                .reason
                .starts_with("web.a.test. IN A: timed out")
        );
        assert_eq!(report.lines().count(), 1, "{report}");
    }

    #[tokio::test]
    async fn an_unusable_resolv_conf_is_a_bad_argument() {
        let mut report = String::new();
        let args = parse(&["a.example.", "--resolv-conf", "/nonexistent/resolv.conf"]).unwrap();
        let failure = look_up(args, &mut report).await.unwrap_err();
        assert_eq!(failure.status, BAD_ARGUMENTS);
        assert!(
            failure.reason.contains("/nonexistent/resolv.conf"),
            "{failure:?}"
        );

        let server = LOOPBACK.into();
        let (status, _) = resolve("bad", "search a..b\n", server, &["a.example."]).await;
        assert_eq!(status.unwrap_err().status, BAD_ARGUMENTS);
    }

    #[test]
    fn arguments_are_checked() {
        for (arguments, expected) in [
            (&["a..b"][..], false),
            (&[""], false),
            (&["example.com", "NOTATYPE"], false),
            (&["example.com", "axfr"], false),
            (&["example.com", "TYPE99999"], false),
            (&["example.com", "--server", "dns.example"], false),
            (&[], false),
            (&["."], true),
            (&["_sip._tcp.example.com", "srv"], true),
            (&["example.com", "type65"], true),
            (&["example.com", "--server", "::1"], true),
            (&["example.com", "--server", "[::1]"], true),
            (&["example.com", "--server", "[::1]:5300"], true),
            (
                &[
                    "example.com",
                    "--server",
                    "10.0.0.2",
                    "--server",
                    "10.0.0.3:54",
                ],
                true,
            ),
        ] {
            let parsed = parse(arguments);
            assert_eq!(parsed.is_ok(), expected, "{arguments:?}");
            if let Err(error) = parsed {
                assert_eq!(error.exit_code(), i32::from(BAD_ARGUMENTS), "{arguments:?}");
            }
        }
        let args = parse(&["fd00::1", "--server", "10.0.0.2"]).unwrap();
        assert!(args.name.name.to_ascii().ends_with(".0.0.d.f.ip6.arpa."));
        assert_eq!(args.server, ["10.0.0.2:53".parse().unwrap()]);
    }

    #[test]
    fn records_are_written_as_in_a_zone_file() {
        let owner = Name::from_ascii("a.test.").unwrap();
        let line = |data| presentation(&Record::from_rdata(owner.clone(), 5, data));
        let txt = TXT::from_bytes(vec![b"say \"hi\"\\", b"", b"\x07\xff"]);
        assert_eq!(
            line(RData::TXT(txt)),
            r#"a.test. 5 IN TXT "say \"hi\"\\" "" "\007\255""#
        );
        let unknown = |bytes| RData::Unknown {
            code: RecordType::Unknown(65_300),
            rdata: NULL::with(bytes),
        };
        assert_eq!(
            line(unknown(vec![10, 0xff])),
            r"a.test. 5 IN TYPE65300 \# 2 0AFF"
        );
    }
}
