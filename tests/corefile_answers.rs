//! The same Corefile before CoreDNS and before nodens: names, types, transports and faults, and what clients read.
//!
//! `tests/corefile/answers.txt` records what CoreDNS 1.15.0 says to each question, and what nodens says where that is
//! something else, by intent. With a CoreDNS at hand both are asked anew, and `NODENS_RECORD=1` writes the record:
//!
//!     NODENS_COREDNS=/path/to/coredns cargo test --test corefile_answers

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::dns::{
    Ask, Over, Section, exchange, failure, flag, header, question_end, rcode, receive, record,
    response, rr, u16_at, udp_to, wire_name,
};
use common::stand_in::StandIn;
use common::{Process, TempDir, free_address, nodens};
use hickory_proto::op::Message;

const RECORD: &str = "tests/corefile/answers.txt";

/// A Corefile, and what is asked of it.
struct Scene {
    name: &'static str,
    /// The file: `BIND` is the line of the listener, `VPC`, `CORP`, `CLOSED` and `SILENT` are servers.
    corefile: &'static str,
    questions: Vec<Question>,
}

#[derive(Clone)]
struct Question {
    ask: Ask,
    over: Over,
}

impl Question {
    fn shown(&self) -> String {
        let mut shown = format!("{} {}", self.ask.name, type_name(self.ask.qtype));
        let over = if self.over == Over::Udp { "UDP" } else { "TCP" };
        write!(shown, " {over}").expect("a String grows");
        if let Some((payload, dnssec_ok)) = self.ask.edns {
            let dnssec_ok = if dnssec_ok { " DO" } else { "" };
            write!(shown, " EDNS {payload}{dnssec_ok}").expect("a String grows");
        }
        if self.ask.flags & flag::RD == 0 {
            shown.push_str(" without RD");
        }
        shown
    }
}

fn type_name(rtype: u16) -> String {
    hickory_proto::rr::RecordType::from(rtype).to_string()
}

/// Why a reply is not the one of CoreDNS: as docs/coredns.md says it.
struct Difference {
    reason: &'static str,
    holds: fn(scene: &str, question: &str, coredns: &str, nodens: &str) -> bool,
}

const DIFFERENCES: [Difference; 10] = [
    Difference {
        reason: "The next server is asked when one refuses, whatever `failover` says",
        holds: |scene, _, theirs, _| {
            scene == "the first server refuses" && theirs.starts_with("REFUSED")
        },
    },
    Difference {
        reason: "A TTL under 5 s stays as it is, and an alias to a name that does not exist is kept as long as its SOA says",
        holds: |_, question, theirs, _| {
            ["zero.", "alias-nx."]
                .iter()
                .any(|name| question.starts_with(name))
                && theirs.contains(" 5 in ")
        },
    },
    Difference {
        reason: "What is cut to the size of a UDP reply keeps the records that fit, of a client's payload size up to 1,232",
        holds: |_, question, theirs, ours| {
            question.contains(" TXT UDP") && theirs.contains(" tc ") && ours.contains(" tc ")
        },
    },
    Difference {
        reason: "`localhost` is answered here",
        holds: |_, question, _, ours| {
            question.starts_with("localhost") && ours.contains("127.0.0.1")
        },
    },
    Difference {
        reason: "`version.bind` and its like are answered here",
        holds: |_, question, _, ours| {
            question.starts_with("version.bind") && ours.contains("txt nodens")
        },
    },
    Difference {
        reason: "Transfers of zones are refused",
        holds: |_, question, _, ours| question.contains(" AXFR ") && ours.starts_with("REFUSED"),
    },
    Difference {
        reason: "What does not exist by `hosts` or `template` says so with a SOA, so that clients keep it",
        holds: |_, _, theirs, ours| {
            let code = |text: &str| text.split(' ').next().map(str::to_owned);
            code(theirs) == code(ours)
                && !theirs.contains(" soa ")
                && ours.contains(" soa ")
                && ours.contains(" nobody.invalid. ")
        },
    },
    Difference {
        reason: "Names of `hosts` have a TTL of 60 s",
        holds: |scene, _, theirs, ours| {
            scene == "names answered here" && theirs.replace(" 3600 in ", " 60 in ") == ours
        },
    },
    Difference {
        reason: "Names of a `template` have no other types than those it answers",
        holds: |_, question, theirs, ours| {
            question.starts_with("x.dev.example AAAA")
                && theirs.contains("ns.example.")
                && ours.contains("nobody.invalid.")
        },
    },
    Difference {
        reason: "`dns64` is for clients over IPv4, too",
        holds: |scene, _, _, ours| scene == "IPv6 from IPv4" && ours.contains("64:ff9b::"),
    },
];

/// A reply without what differs by intent in nearly each: AA and RA, and OPT in a reply to a query without it.
fn compared(reply: &str, ask: &Ask) -> String {
    let mut reply = reply.replace(" aa", "").replace(" ra", "");
    if ask.edns.is_none() {
        reply = reply.replace(" opt-do", "").replace(" opt", "");
    }
    reply
}

/// Names and types as clients ask for them, over both transports.
fn usual() -> Vec<Question> {
    let mut questions = Vec::new();
    for (name, qtype) in [
        ("a.example", rr::A),
        ("a.example", rr::AAAA),
        ("A.Example", rr::MX),
        ("a.example", rr::TXT),
        ("a.example", rr::SRV),
        ("a.example", rr::CAA),
        ("a.example", rr::HTTPS),
        ("a.example", rr::PRIVATE),
        ("a.example", rr::ANY),
        ("a.example", rr::DS),
        ("a.example", rr::NS),
        ("a.example", rr::SOA),
        ("multi.example", rr::A),
        ("alias.example", rr::A),
        ("alias-nx.example", rr::A),
        ("nx.example", rr::A),
        ("nx-no-soa.example", rr::A),
        ("nodata.example", rr::A),
        ("empty.example", rr::A),
        ("servfail.example", rr::A),
        ("refused.example", rr::A),
        ("notimp.example", rr::A),
        ("formerr.example", rr::A),
        ("zero.example", rr::A),
        ("big.example", rr::TXT),
        ("localhost", rr::A),
        ("1.2.0.192.in-addr.arpa", rr::PTR),
        ("1.0.0.127.in-addr.arpa", rr::PTR),
    ] {
        for over in [Over::Udp, Over::Tcp] {
            let ask = Ask::new(name, qtype);
            questions.push(Question { ask, over });
        }
    }
    for ask in [
        Ask::new("edns.example", rr::A).payload(1232),
        Ask::new("do.example", rr::A).dnssec_ok(),
        Ask::new("big.example", rr::TXT).payload(4096),
        Ask::new("medium.example", rr::TXT),
        Ask::new("medium.example", rr::TXT).payload(1232),
        Ask::new("rd.example", rr::A).flags(0),
        Ask::new("cd.example", rr::A).flags(flag::RD | flag::CD),
        Ask::new("ad.example", rr::A).flags(flag::RD | flag::AD),
        Ask::new("version.bind", rr::TXT).class(rr::CLASS_CH),
        Ask::new("example", rr::AXFR),
    ] {
        questions.push(Question {
            ask,
            over: Over::Udp,
        });
    }
    questions
}

/// These names' addresses over UDP.
fn addresses(names: &[&str]) -> Vec<Question> {
    let question = |name: &&str| Question {
        ask: Ask::new(name, rr::A),
        over: Over::Udp,
    };
    names.iter().map(question).collect()
}

/// Names that the Corefile itself answers, and those beside them.
fn answered_here() -> Vec<Question> {
    let mut local = addresses(&[
        "cache.corp.example",
        "mirror",
        "HOST.example",
        "x.dev.example",
        "y.internal",
        "a.old.example",
        "a.corp.example",
        "who.corp.example",
        "hosted.corp.example",
        "who.example",
        "who.lab.example",
    ]);
    for (name, qtype) in [
        ("cache.corp.example", rr::AAAA),
        ("cache.corp.example", rr::TXT),
        ("x.dev.example", rr::AAAA),
        ("y.internal", rr::TXT),
        ("x.legacy.example", rr::AAAA),
        ("x.legacy.example", rr::A),
        ("7.40.1.10.in-addr.arpa", rr::PTR),
        ("9.40.1.10.in-addr.arpa", rr::PTR),
    ] {
        let ask = Ask::new(name, qtype);
        let over = Over::Tcp;
        local.push(Question { ask, over });
    }
    local
}

fn scenes() -> Vec<Scene> {
    let faults = ["a.example", "nx.example", "again.example", "more.example"];
    let scene = |name, corefile, questions| Scene {
        name,
        corefile,
        questions,
    };
    vec![
        scene(
            "a cache before two servers",
            ".:PORT {\n    BIND\n    errors\n    forward . VPC VPC2 {\n        policy sequential\n    }\n    cache 30\n    loop\n    \
             reload\n    loadbalance\n}\n",
            usual(),
        ),
        scene(
            "no cache",
            ".:PORT {\n    BIND\n    forward . VPC\n}\n",
            usual(),
        ),
        scene(
            "names answered here",
            ".:PORT {\n    BIND\n    hosts {\n        10.1.40.7 cache.corp.example mirror\n        10.1.40.8 host.example\n        \
             10.1.41.9 hosted.corp.example\n        fallthrough\n    }\n    template IN A dev.example {\n        answer \"{{ .Name }} 60 IN A 10.1.40.20\"\n    }\n    \
             template ANY ANY internal {\n        rcode NXDOMAIN\n    }\n    template IN AAAA legacy.example {\n        rcode \
             NOERROR\n    }\n    rewrite name suffix .old.example .new.example answer auto\n    forward . VPC {\n        except \
             lab.example\n    }\n    forward lab.example CORP\n    cache 60\n}\ncorp.example:PORT {\n    BIND\n    hosts {\n        \
             10.1.40.7 cache.corp.example\n        fallthrough\n    }\n    forward . CORP\n}\n",
            answered_here(),
        ),
        scene(
            "clients that may not ask",
            ".:PORT {\n    BIND\n    acl {\n        allow net 10.0.0.0/8\n        block\n    }\n    forward . VPC\n}\n",
            addresses(&["a.example"]),
        ),
        scene(
            "zones without a server",
            "corp.example:PORT {\n    BIND\n    forward . CORP\n}\n",
            addresses(&["who.corp.example", "who.example"]),
        ),
        scene(
            "IPv6 from IPv4",
            ".:PORT {\n    BIND\n    dns64 64:ff9b::/96\n    forward . VPC\n    cache\n}\n",
            {
                let mut questions = addresses(&["v4only.example"]);
                for name in ["v4only.example", "a.example", "nx.example"] {
                    let ask = Ask::new(name, rr::AAAA);
                    let over = Over::Udp;
                    questions.push(Question { ask, over });
                }
                questions
            },
        ),
        scene(
            "the first server is closed",
            ".:PORT {\n    BIND\n    forward . CLOSED VPC {\n        policy sequential\n    }\n}\n",
            addresses(&faults),
        ),
        scene(
            "the first server is silent",
            ".:PORT {\n    BIND\n    forward . SILENT VPC {\n        policy sequential\n    }\n}\n",
            addresses(&faults),
        ),
        scene(
            "the first server refuses",
            ".:PORT {\n    BIND\n    forward . REFUSES VPC {\n        policy sequential\n    }\n}\n",
            addresses(&faults),
        ),
        scene(
            "the first server fails",
            ".:PORT {\n    BIND\n    forward . FAILS VPC {\n        policy sequential\n        failover SERVFAIL\n    }\n}\n",
            addresses(&faults),
        ),
        scene(
            "all servers are closed",
            ".:PORT {\n    BIND\n    forward . CLOSED\n    cache\n}\n",
            addresses(&faults),
        ),
    ]
}

/// SOA of `example`, by which names that do not exist are kept for a minute.
fn soa() -> Vec<u8> {
    let mut rdata = wire_name("ns.example");
    rdata.extend_from_slice(&wire_name("admin.example"));
    for field in [1_u32, 3_600, 600, 86_400, 60] {
        rdata.extend_from_slice(&field.to_be_bytes());
    }
    let mut soa = record(rr::SOA, 60, &rdata);
    soa.splice(..2, wire_name("example"));
    soa
}

/// Records of the answer and of the authority section, not authoritative, recursion available.
fn made(query: &[u8], code: u16, answers: &[Vec<u8>], authority: &[Vec<u8>]) -> Vec<u8> {
    let count = |records: &[Vec<u8>]| u16::try_from(records.len()).expect("few records");
    let copied = u16_at(query, 2).expect("a header") & (flag::RD | flag::CD);
    let mut message = header(
        u16_at(query, 0).expect("a header"),
        flag::QR | flag::RA | copied | code,
        [1, count(answers), count(authority), 0],
    );
    message.extend_from_slice(&query[12..question_end(query)]);
    message.extend(answers.iter().chain(authority).flatten());
    message
}

/// What a server says, by the first label of the name. `who` tells the servers apart.
fn answer(who: u8, query: &[u8], over: Over) -> Vec<Vec<u8>> {
    let end = question_end(query);
    let qtype = u16_at(query, end - 4).expect("a question");
    let label = query[13..13 + usize::from(query[12])].to_ascii_lowercase();
    let label = String::from_utf8(label).expect("the tests' names are ASCII");
    let address = |ttl, last| record(rr::A, ttl, &[192, 0, 2, last]);
    let nothing = |code| made(query, code, &[], &[soa()]);
    let text = |octets: usize| {
        let strings = octets / 100;
        let texts: Vec<Vec<u8>> = (0..strings)
            .map(|number| {
                let mut rdata = vec![99];
                rdata.extend(format!("{number:099}").into_bytes());
                record(rr::TXT, 300, &rdata)
            })
            .collect();
        let whole = made(query, rcode::NOERROR, &texts, &[]);
        let room = if query.len() > end + 11 - 1 {
            1_232
        } else {
            512
        };
        if over == Over::Udp && whole.len() > room {
            let mut cut = made(query, rcode::NOERROR, &[], &[]);
            cut[2] |= 2;
            cut
        } else {
            whole
        }
    };
    let reply = match (&label[..], qtype) {
        ("nx", _) => nothing(rcode::NXDOMAIN),
        ("nx-no-soa", _) => failure(query, rcode::NXDOMAIN),
        ("empty", _) => made(query, rcode::NOERROR, &[], &[]),
        ("servfail", _) => failure(query, rcode::SERVFAIL),
        ("refused", _) => failure(query, rcode::REFUSED),
        ("notimp", _) => failure(query, rcode::NOTIMP),
        ("formerr", _) => failure(query, rcode::FORMERR),
        ("big", rr::TXT) => text(4_000),
        ("medium", rr::TXT) => text(800),
        ("alias" | "alias-nx", rr::A) => {
            let mut target = record(rr::A, 300, &[192, 0, 2, 5]);
            target.splice(..2, wire_name("target.example"));
            let alias = record(rr::CNAME, 300, &wire_name("target.example"));
            if label == "alias" {
                made(query, rcode::NOERROR, &[alias, target], &[])
            } else {
                made(query, rcode::NXDOMAIN, &[alias], &[soa()])
            }
        }
        ("multi", rr::A) => {
            let all = [address(300, 1), address(300, 2), address(300, 3)];
            made(query, rcode::NOERROR, &all, &[])
        }
        ("zero", rr::A) => made(query, rcode::NOERROR, &[address(0, 1)], &[]),
        ("nodata", _) => nothing(rcode::NOERROR),
        (_, rr::A) => made(query, rcode::NOERROR, &[address(300, who)], &[]),
        ("a", rr::AAAA) => {
            let mut rdata = [0; 16];
            rdata[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
            made(query, rcode::NOERROR, &[record(rr::AAAA, 300, &rdata)], &[])
        }
        ("a", rr::MX) => {
            let mut rdata = vec![0, 10];
            rdata.extend_from_slice(&wire_name("mail.example"));
            made(query, rcode::NOERROR, &[record(rr::MX, 300, &rdata)], &[])
        }
        ("a", rr::TXT) => {
            let texts = [record(rr::TXT, 300, b"\x05hello")];
            made(query, rcode::NOERROR, &texts, &[])
        }
        ("a", rr::PRIVATE) => {
            let odd = [record(rr::PRIVATE, 300, &[1, 2, 3])];
            made(query, rcode::NOERROR, &odd, &[])
        }
        (_, rr::PTR) => {
            let name = [record(rr::PTR, 300, &wire_name("host.example"))];
            response(query, &name)
        }
        _ => nothing(rcode::NOERROR),
    };
    vec![reply]
}

/// What both programs have behind them.
struct Servers {
    vpc: StandIn,
    second: StandIn,
    corp: StandIn,
    silent: StandIn,
    refuses: StandIn,
    fails: StandIn,
    closed: SocketAddr,
}

impl Servers {
    fn start() -> Self {
        let silent = StandIn::new(|_, _| vec![]);
        silent.set_silent(true);
        let always = |code| StandIn::new(move |query, _| vec![failure(query, code)]);
        Self {
            vpc: StandIn::new(|query, over| answer(1, query, over)),
            second: StandIn::new(|query, over| answer(1, query, over)),
            corp: StandIn::new(|query, over| answer(2, query, over)),
            silent,
            refuses: always(rcode::REFUSED),
            fails: always(rcode::SERVFAIL),
            closed: free_address(),
        }
    }

    fn corefile(&self, scene: &Scene, listen: SocketAddr) -> String {
        let mut text = scene
            .corefile
            .replace("PORT", &listen.port().to_string())
            .replace("BIND", &format!("bind {}", listen.ip()));
        for (word, address) in [
            ("VPC2", self.second.address),
            ("VPC", self.vpc.address),
            ("CORP", self.corp.address),
            ("SILENT", self.silent.address),
            ("REFUSES", self.refuses.address),
            ("FAILS", self.fails.address),
            ("CLOSED", self.closed),
        ] {
            text = text.replace(word, &address.to_string());
        }
        text
    }
}

/// A reply as text: code, flags, records with names in lower case, addresses in order, and whether there is OPT.
fn shown(reply: &[u8]) -> String {
    let message = match Message::from_vec(reply) {
        Ok(message) => message,
        Err(error) => return format!("unreadable: {error}"),
    };
    let own = common::dns::Message::read(reply).expect("hickory has read it");
    let mut text = type_of_code(own.rcode());
    for (bit, name) in [
        (flag::AA, "aa"),
        (flag::TC, "tc"),
        (flag::RD, "rd"),
        (flag::RA, "ra"),
        (flag::AD, "ad"),
        (flag::CD, "cd"),
    ] {
        if own.has(bit) {
            write!(text, " {name}").expect("a String grows");
        }
    }
    if let Some(opt) = &own.opt {
        text.push_str(if opt.dnssec_ok { " opt-do" } else { " opt" });
    }
    let sections = [
        ("answer", &message.answers, Section::Answer),
        ("authority", &message.authorities, Section::Authority),
        ("additional", &message.additionals, Section::Additional),
    ];
    for (name, records, section) in sections {
        let mut records: Vec<String> = records
            .iter()
            .map(|record| record.to_string().to_lowercase())
            .collect();
        assert_eq!(records.len(), own.count(section), "two readers count alike");
        records.sort();
        if records.len() > 4 {
            let more = records.len() - 2;
            records.truncate(2);
            records.push(format!("and {more} more"));
        }
        for record in records {
            write!(text, "\n        {name} {record}").expect("a String grows");
        }
    }
    text
}

fn type_of_code(code: u16) -> String {
    match code {
        rcode::NOERROR => "NOERROR".to_owned(),
        rcode::FORMERR => "FORMERR".to_owned(),
        rcode::SERVFAIL => "SERVFAIL".to_owned(),
        rcode::NXDOMAIN => "NXDOMAIN".to_owned(),
        rcode::NOTIMP => "NOTIMP".to_owned(),
        rcode::REFUSED => "REFUSED".to_owned(),
        other => format!("RCODE{other}"),
    }
}

/// What a program with this Corefile says to each question of the scene, asked twice: from the servers, and from the
/// cache. TTLs are those of the first reply; of the second they may be a second or two less.
fn replies(
    name: &'static str,
    mut command: Command,
    scene: &Scene,
    servers: &Servers,
) -> Vec<String> {
    let listen = free_address();
    let directory = TempDir::new();
    let corefile = directory.write("Corefile", &servers.corefile(scene, listen));
    command.arg(&corefile).current_dir(directory.path(""));
    let mut process = Process::spawn(name, &mut command, directory.path("log"));
    let ready = Ask::new("ready.example", rr::TXT);
    // What is sent while it starts may be lost.
    process.wait_until("a reply", || {
        let socket = udp_to(listen).ok()?;
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .ok()?;
        socket.send(&ready.message()).ok()?;
        receive(&socket).ok()
    });
    let ask = |question: &Question| {
        let reply = |ask: &Ask| match exchange(listen, question.over, &ask.message()) {
            Ok(reply) => shown(&reply),
            Err(error) => format!("no reply: {}", error.kind()),
        };
        let first = reply(&question.ask);
        let second = reply(&question.ask.again());
        if aged(
            &compared(&first, &question.ask),
            &compared(&second, &question.ask),
        ) {
            first
        } else {
            format!("{first}\n      and then {second}")
        }
    };
    scene.questions.iter().map(ask).collect()
}

/// Whether two replies are the same but for TTLs that got a little older.
fn aged(first: &str, second: &str) -> bool {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (words(first), words(second));
    let older = |(first, second): (&String, &String)| {
        first == second
            || matches!((first.parse::<u32>(), second.parse::<u32>()), (Ok(a), Ok(b)) if b <= a && a - b <= 5)
    };
    first.len() == second.len() && first.iter().zip(&second).all(older)
}

/// The replies of CoreDNS as the record has them, by scene and question.
fn recorded(record: &str, scene: &str, question: &str) -> String {
    let of_scene = record
        .split("\n# ")
        .find_map(|part| part.strip_prefix(&format!("{scene}\n")))
        .unwrap_or_else(|| panic!("{RECORD}: no scene {scene:?}"));
    let lines = of_scene
        .lines()
        .skip_while(|line| *line != question)
        .skip(1);
    let mut text = Vec::new();
    for line in lines {
        match line.strip_prefix("    ") {
            Some(line) if !line.starts_with("nodens: ") => text.push(line),
            _ => break,
        }
    }
    let text = text.join("\n");
    text.strip_prefix("CoreDNS: ")
        .unwrap_or_else(|| panic!("{RECORD}: {scene}: no {question:?}"))
        .to_owned()
}

#[test]
fn a_corefile_gives_the_same_answers_as_before_coredns() {
    let servers = Servers::start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORD);
    let record = fs::read_to_string(&path).unwrap_or_default();
    let coredns = std::env::var("NODENS_COREDNS").ok();
    let mut text = String::from(
        "Replies of CoreDNS 1.15.0 to clients, and of nodens with the same Corefile where they are others. See\n\
         tests/corefile_answers.rs.\n",
    );
    let (mut used, mut unexplained) = (BTreeSet::new(), Vec::new());
    for scene in scenes() {
        writeln!(text, "\n# {}", scene.name).expect("a String grows");
        let mut ours = nodens();
        ours.args(["serve", "--set", "admin=null", "--config"]);
        let ours = replies("nodens", ours, &scene, &servers);
        let theirs = coredns.as_ref().map(|binary| {
            let mut command = Command::new(binary);
            command.arg("-conf");
            replies("coredns", command, &scene, &servers)
        });
        for (index, question) in scene.questions.iter().enumerate() {
            let (ask, question) = (&question.ask, question.shown());
            let ours = &ours[index];
            let theirs = match &theirs {
                Some(theirs) => theirs[index].clone(),
                None => recorded(&record, scene.name, &question),
            };
            writeln!(
                text,
                "{question}\n    CoreDNS: {}",
                theirs.replace('\n', "\n    ")
            )
            .expect("a String grows");
            let (shown, ours, theirs) = (ours, &compared(ours, ask), &compared(&theirs, ask));
            if ours == theirs {
                continue;
            }
            writeln!(text, "    nodens: {}", shown.replace('\n', "\n    "))
                .expect("a String grows");
            let mut reasons = DIFFERENCES
                .iter()
                .filter(|difference| (difference.holds)(scene.name, &question, theirs, ours))
                .map(|difference| difference.reason)
                .peekable();
            if reasons.peek().is_none() {
                unexplained.push(format!(
                    "{}: {question}\n  CoreDNS: {theirs}\n  nodens: {ours}",
                    scene.name
                ));
            }
            for reason in reasons {
                writeln!(text, "    because: {reason}").expect("a String grows");
                used.insert(reason);
            }
        }
    }
    if std::env::var_os("NODENS_RECORD").is_some() {
        fs::write(&path, &text).expect("the record can be written");
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n\n"));
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/coredns.md");
    let documents = fs::read_to_string(documents).expect("the document");
    for difference in &DIFFERENCES {
        let reason = difference.reason;
        assert!(
            used.contains(reason),
            "no reply differs any more because: {reason}"
        );
        assert!(
            documents.contains(reason),
            "docs/coredns.md does not say: {reason}"
        );
    }
    if std::env::var_os("NODENS_RECORD").is_none() {
        assert_equal(&record, &text);
    }
}

fn assert_equal(record: &str, text: &str) {
    let differs = record
        .lines()
        .zip(text.lines())
        .find(|(then, now)| then != now);
    assert!(
        record == text,
        "{RECORD} is not what is said now, first here: {differs:?}"
    );
}
