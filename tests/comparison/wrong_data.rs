//! What servers say that must not be taken, or not be passed on, as it stands.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Case;
use crate::cell::{Cell, time};
use crate::client::{Heard, question, resolve};
use crate::common::dns::{self, Section, flag, u16_at, wire_name};
use crate::resolver::Kind;
use crate::scene::{Scene, odd, pair};
use crate::server::{Query, Server};
use crate::wire::{Says, extended_errors};

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "NODATA with AA, NS in the authority section and no SOA, as load balancers send it",
        "NOERROR, empty; one server's word is enough",
        nodata_without_soa,
    ),
    Case::new(
        "NXDOMAIN has expired, the name exists by now, the answer takes 700 ms",
        "the address",
        a_name_that_came_to_be,
    ),
    Case::new(
        "The first server validates: SERVFAIL with EDE 6 (bogus). The second does not, and answers",
        "SERVFAIL with EDE 6",
        bogus,
    ),
    Case::new(
        "DS of the apex of a zone that has servers of its own",
        "asked of the parent's (RFC 4035 §3.1.4.1)",
        ds_at_an_apex,
    ),
    Case::new(
        "Two addresses of one name with TTLs 300 and 60",
        "60 for both (RFC 2181 §5.2)",
        ttls_of_a_set,
    ),
    Case::new(
        "NXDOMAIN whose SOA has TTL 3600 and MINIMUM 30",
        "told to be kept 30 s (RFC 2308 §5)",
        negative_ttl,
    ),
    Case::new(
        "RA=0 upstream: an answer, then NODATA",
        "RA=1: recursion is available, through others",
        recursion_available,
    ),
    Case::new(
        "AA=1 upstream, asked again",
        "AA=0 from the cache",
        authoritative,
    ),
    Case::new(
        "A query signed with TSIG by a key that the forwarder does not have",
        "forwarded as it is (RFC 8945 §5.5), or refused; no unsigned answer",
        signed,
    ),
];

fn nodata_without_soa(kind: Kind) -> Cell {
    let scene = Scene::of(
        kind,
        pair(|q: &Query| q.says("NOERROR aa").authority("corp. 3600 NS ns1.corp.")),
    )
    .settled(kind);
    let heard = resolve(scene.address(), &question("app.corp. AAAA"));
    let asked = scene.asked("app.corp.");
    let right = heard.gist() == "NOERROR" && asked == 1;
    Cell::judged(right, format!("{}, asked {asked} ×", heard.gist()))
}

/// After this an answer of TTL 1 has expired everywhere: `CoreDNS` keeps each for 5 s at least.
pub(crate) const EXPIRED: Duration = Duration::from_secs(7);

fn a_name_that_came_to_be(kind: Kind) -> Cell {
    let scene = Scene::of(
        kind,
        pair(|q: &Query| q.says("NXDOMAIN").authority("corp. 1 SOA 1")),
    );
    let ask = question("new.corp. A");
    let before = resolve(scene.address(), &ask);
    assert_eq!(before.gist(), "NXDOMAIN", "{}", kind.name());
    for server in &scene.servers {
        server.now_says(crate::scene::spare(|q: &Query| {
            let answer = q.says("NOERROR").answer("@ 60 A 10.0.0.1");
            answer.after(Duration::from_millis(700))
        }));
    }
    // The answer's own time passes.
    thread::sleep(EXPIRED);
    let heard = resolve(scene.address(), &ask.again());
    let text = format!("{} after {}", heard.gist(), time(heard.took));
    Cell::judged(heard.gist() == "NOERROR 10.0.0.1", text)
}

fn bogus(kind: Kind) -> Cell {
    let first = odd(|q: &Query| {
        if q.cd {
            q.says("NOERROR").answer("@ 60 A 203.0.113.66")
        } else {
            q.says("SERVFAIL").ede(6)
        }
    });
    let second = odd(|q: &Query| q.says("NOERROR").answer("@ 60 A 203.0.113.66"));
    let scene = Scene::of(kind, vec![first, second]).settled(kind);
    // The client has EDNS, or it could not be told.
    let heard = resolve(
        scene.address(),
        &question("forged.example. A").payload(1232),
    );
    let codes: Vec<u16> = errors(&heard).into_iter().map(|(code, _)| code).collect();
    let mut text = heard.gist();
    for code in &codes {
        write!(text, ", EDE {code}").expect("grows");
    }
    Cell::judged(heard.gist() == "SERVFAIL" && codes.contains(&6), text)
}

pub(crate) fn errors(heard: &Heard) -> Vec<(u16, String)> {
    heard.message().map(extended_errors).unwrap_or_default()
}

fn ds_at_an_apex(kind: Kind) -> Cell {
    let ds = || odd(|q: &Query| q.says("NOERROR").answer("@ 60 DS 1"));
    let scene = Scene::zone(kind, "corp.example.", ds(), ds());
    let heard = resolve(scene.address(), &question("corp.example. DS"));
    let asked = |server: &Server| server.asked_for("corp.example. DS") > 0;
    let (parent, child) = (asked(&scene.servers[0]), asked(&scene.servers[1]));
    let whom = match (parent, child) {
        (true, false) => "the parent's",
        (false, true) => "the child's",
        (true, true) => "both",
        (false, false) => "nobody",
    };
    let right = parent && !child && heard.gist() == "NOERROR DS";
    Cell::judged(right, format!("{}, asked of {whom}", heard.gist()))
}

fn ttls(heard: &Heard, section: Section) -> Vec<u32> {
    let message = heard.message();
    message.map_or_else(Vec::new, |message| {
        message.section(section).map(|record| record.ttl).collect()
    })
}

fn ttls_of_a_set(kind: Kind) -> Cell {
    let server = |q: &Query| {
        let says = q.says("NOERROR").answer("@ 300 A 192.0.2.1");
        says.answer("@ 60 A 192.0.2.2")
    };
    let scene = Scene::of(kind, pair(server));
    let mut told = ttls(
        &resolve(scene.address(), &question("web.corp. A")),
        Section::Answer,
    );
    told.sort_unstable();
    let right = told.len() == 2 && told.iter().all(|ttl| (58..=60).contains(ttl));
    Cell::judged(right, format!("{told:?}"))
}

fn negative_ttl(kind: Kind) -> Cell {
    let server = |q: &Query| q.says("NXDOMAIN").authority("corp. 3600 SOA 30");
    let scene = Scene::of(kind, pair(server));
    let told = ["first", "again"].map(|_| {
        let heard = resolve(scene.address(), &question("no.corp. A"));
        ttls(&heard, Section::Authority).first().copied()
    });
    let right = told.iter().all(|ttl| ttl.is_some_and(|ttl| ttl <= 30));
    let text = told.map(|ttl| ttl.map_or("no SOA".to_owned(), |ttl| ttl.to_string()));
    Cell::judged(right, format!("{}, then {}", text[0], text[1]))
}

fn recursion_available(kind: Kind) -> Cell {
    let server = |q: &Query| match &q.name[..] {
        "yes.corp." => q.says("NOERROR -ra").answer("@ 300 A 10.0.0.1"),
        _ => q.says("NOERROR -ra").authority("corp. 300 SOA 300"),
    };
    let scene = Scene::of(kind, pair(server));
    let seen = ["yes.corp. A", "no.corp. AAAA"].map(|text| {
        let heard = resolve(scene.address(), &question(text));
        format!("{} RA={}", heard.gist(), u8::from(heard.has(flag::RA)))
    });
    let right = seen == ["NOERROR 10.0.0.1 RA=1", "NOERROR RA=1"];
    let short = seen.map(|text| {
        let (rest, ra) = text.rsplit_once(' ').unwrap_or(("", &text));
        let code = rest.split(' ').next().unwrap_or_default();
        if code == "NOERROR" {
            ra.to_owned()
        } else {
            format!("{code} {ra}")
        }
    });
    Cell::judged(right, format!("{}, then {}", short[0], short[1]))
}

fn authoritative(kind: Kind) -> Cell {
    let server = |q: &Query| q.says("NOERROR aa").answer("@ 300 A 10.0.0.1");
    let scene = Scene::of(kind, pair(server));
    let ask = question("web.corp. A");
    resolve(scene.address(), &ask);
    let heard = resolve(scene.address(), &ask.again());
    let right = heard.gist() == "NOERROR 10.0.0.1" && !heard.has(flag::AA);
    Cell::judged(right, format!("AA={}", u8::from(heard.has(flag::AA))))
}

/// A TSIG record (RFC 8945 §4.2) for a message with this ID; the MAC is made up.
fn tsig(id: u16) -> Vec<u8> {
    let rdata = [
        &wire_name("hmac-sha256.")[..],
        &[0, 0, 0x66, 0, 0, 0, 1, 44, 0, 32],
        &[0x55; 32],
        &id.to_be_bytes(),
        &[0; 4],
    ]
    .concat();
    let length = u16::try_from(rdata.len()).expect("short").to_be_bytes();
    let fixed = [0, 250, 0, 255, 0, 0, 0, 0];
    [&wire_name("key.corp.")[..], &fixed, &length, &rdata].concat()
}

fn signed(kind: Kind) -> Cell {
    let server = |q: &Query| {
        // With the signature of the query, if that still has one.
        let mut message = q
            .says("NOERROR")
            .answer("@ 300 A 192.0.2.1")
            .without_opt()
            .bytes();
        if has_tsig(&q.bytes) {
            message[11] += 1;
            message.extend(tsig(u16_at(&q.bytes, 0).expect("a header")));
        }
        message
    };
    let scene = Scene::of(kind, pair(server));
    let ask = question("signed.corp. A");
    let mut query = ask.message();
    query[11] += 1;
    query.extend(tsig(ask.id));
    let started = Instant::now();
    let reply = dns::udp_to(scene.address()).and_then(|socket| {
        socket.set_read_timeout(Some(crate::client::PATIENCE))?;
        socket.send(&query)?;
        dns::receive(&socket)
    });
    let Ok(reply) = reply else {
        return Cell::judged(false, format!("nothing after {}", time(started.elapsed())));
    };
    let Ok(message) = dns::Message::read(&reply) else {
        return Cell::judged(false, "malformed");
    };
    let gist = crate::wire::gist(&message);
    let answered = message.count(Section::Answer) > 0 && message.rcode() == 0;
    let intact = scene.servers.iter().flat_map(Server::asked);
    let intact = intact
        .filter(|q| q.name == "signed.corp.")
        .any(|q| has_tsig(&q.bytes));
    match (answered, has_tsig(&reply), intact) {
        (true, true, true) => Cell::judged(true, "forwarded as it is"),
        (true, false, true) => Cell::judged(false, "forwarded, reply unsigned"),
        (true, ..) => Cell::judged(false, "signature removed, reply unsigned"),
        (false, ..) => Cell::judged(true, gist),
    }
}

fn has_tsig(message: &[u8]) -> bool {
    dns::Message::read(message).is_ok_and(|message| message.has_type(dns::rr::TSIG))
}

/// So many addresses.
pub(crate) fn addresses(q: &Query, head: &str, count: usize, owner: &str) -> Says {
    (0..count).fold(q.says(head), |says, number| {
        let (high, low) = (number / 256, number % 256);
        says.answer(&format!("{owner} 300 A 10.0.{high}.{low}"))
    })
}
