//! What is slow, unfair or incomplete, and costs of which servers hear.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Case;
use crate::cell::{Cell, time};
use crate::client::{Heard, PATIENCE, all_at_once, one_by_one, question, resolve};
use crate::common::dns::{Message, Section, flag};
use crate::resolver::Kind;
use crate::scene::{Scene, odd, pair};
use crate::server::{Does, Query, Server};
use crate::wire::{gist, rdata_text};
use crate::wrong_data::{addresses, errors};

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "20 addresses, uncompressed 1,136 octets, compressed 376; a client without EDNS",
        "all in one datagram",
        compression,
    ),
    Case::new(
        "Four addresses, 40 times from the cache: how many of them come first",
        "taste: clients that take the first are spread",
        rotation,
    ),
    Case::new(
        "50 clients ask for one new name at once, the server needs 200 ms",
        "asked once, or once per thread",
        coalescing,
    ),
    Case::new(
        "A sole server that needs 100 ms: datagrams to it for each question",
        "at most 1.5",
        slow_sole_server,
    ),
    Case::new(
        "A sole server that drops every second query, 100 new names/s: datagrams for each question",
        "taste: more datagrams bring more answers, and make a full link worse",
        general_loss,
    ),
    Case::new(
        "NXDOMAIN with EDE 15 (blocked): first, from the cache",
        "passed on (RFC 8914 §3)",
        extended_error,
    ),
    Case::new(
        "`localhost. A`, without a word about it in the configuration",
        "not asked upstream (RFC 6761 §6.3)",
        localhost,
    ),
    Case::new(
        "PTR of 10.1.2.3, without a word about it in the configuration",
        "taste: not asked upstream (RFC 6303), or asked of who may know it",
        private_reverse,
    ),
];

fn compression(kind: Kind) -> Cell {
    let script = |q: &Query| addresses(q, "NOERROR", 20, &q.name.clone()).without_opt();
    let scene = Scene::of(kind, pair(script));
    let ask = question("service.name-of-some-leng.corp.example. A");
    let heard = crate::client::over_udp(scene.address(), &ask);
    let right = heard.answers() == 20
        && !heard.has(flag::TC)
        && heard.message().is_some_and(|message| message.length <= 512);
    let octets = heard.message().map_or(0, |message| message.length);
    let tc = if heard.has(flag::TC) { ", TC" } else { "" };
    Cell::judged(right, format!("{} in {octets} octets{tc}", heard.answers()))
}

fn rotation(kind: Kind) -> Cell {
    let scene = Scene::of(kind, pair(|q: &Query| addresses(q, "NOERROR", 4, "@")));
    let ask = question("web.corp. A");
    resolve(scene.address(), &ask);
    let first: BTreeSet<String> = (0..40)
        .filter_map(|_| {
            let heard = resolve(scene.address(), &ask.again());
            let first = heard.message()?.section(Section::Answer).next();
            first.map(rdata_text)
        })
        .collect();
    Cell::taste(format!("{} of 4", first.len()))
}

fn coalescing(kind: Kind) -> Cell {
    let server = odd(|q: &Query| q.honest().after(Duration::from_millis(200)));
    let scene = Scene::of(kind, vec![server]).settled(kind);
    // Until its usual time is known.
    one_by_one(scene.address(), "warm", 10);
    let asks = vec![question("same.example. A"); 50];
    let asks: Vec<_> = asks.iter().map(crate::common::dns::Ask::again).collect();
    let heard = all_at_once(scene.address(), &asks);
    let answered = heard
        .iter()
        .filter(|one| one.gist() == "NOERROR 192.0.2.1")
        .count();
    let asked = scene.asked("same.");
    let right = answered == 50 && asked <= 2;
    Cell::judged(right, format!("asked {asked} ×, {answered}/50"))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a few hundred, for people to read"
)]
fn each(datagrams: usize, questions: usize) -> f64 {
    datagrams as f64 / questions as f64
}

fn slow_sole_server(kind: Kind) -> Cell {
    let server = odd(|q: &Query| q.honest().after(Duration::from_millis(100)));
    let scene = Scene::of(kind, vec![server]).settled(kind);
    // Until its usual time is known.
    one_by_one(scene.address(), "warm", 20);
    let heard = one_by_one(scene.address(), "then", 20);
    let answered = heard.iter().filter(|one| one.answers() == 1).count();
    let each = each(scene.asked("then"), 20);
    let right = each <= 1.5 && answered == 20;
    Cell::judged(right, format!("{each:.2}, {answered}/20"))
}

fn general_loss(kind: Kind) -> Cell {
    let server = Server::start_for_all(|q: &Query| {
        if q.name != "ready.example." && fastrand::bool() {
            Does::Silence
        } else {
            q.honest().into()
        }
    });
    let scene = Scene::of(kind, vec![server]);
    // Until it is known that loss is general.
    steadily(&scene, "warm", 300);
    let (answered, failed) = steadily(&scene, "then", 500);
    let each = each(scene.asked("then"), 500);
    let silent = (500 - answered - failed) / 5;
    let answered = answered / 5;
    Cell::taste(format!(
        "{each:.2}; {answered} % answered, {silent} % hear nothing"
    ))
}

/// A hundred new names a second, so many in all: how many were answered, and how many got another reply.
fn steadily(scene: &Scene, word: &str, count: u32) -> (usize, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(scene.address()).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("settable");
    thread::scope(|scope| {
        scope.spawn(|| {
            let started = Instant::now();
            for number in 0..count {
                let due = started + Duration::from_millis(10) * number;
                // The load's own pace.
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let ask = question(&format!("{word}{number}.example. A"));
                // A socket that remembers a refusal says so once.
                let _ = socket.send(&ask.message());
            }
        });
        let (mut answered, mut failed, mut buffer) = (0, 0, [0; 2048]);
        while answered + failed < count as usize {
            let Ok(length) = socket.recv(&mut buffer) else {
                break;
            };
            match Message::read(&buffer[..length]) {
                Ok(reply) if gist(&reply) == "NOERROR 192.0.2.1" => answered += 1,
                _ => failed += 1,
            }
        }
        (answered, failed)
    })
}

fn extended_error(kind: Kind) -> Cell {
    let script = |q: &Query| {
        let says = q.says("NXDOMAIN").authority("example. 60 SOA 60");
        says.ede_text(15, b"blocked by list 7")
    };
    let scene = Scene::of(kind, pair(script));
    let ask = question("ads.example. A").payload(1232);
    let told = [ask.clone(), ask.again()].map(|ask| {
        let heard = resolve(scene.address(), &ask);
        errors(&heard).iter().any(|(code, _)| *code == 15)
    });
    let [first, again] = told.map(|told| if told { "EDE 15" } else { "none" });
    Cell::judged(told == [true, true], format!("{first}, {again}"))
}

/// What a resolver says of a name, and whether it asked for it.
fn asked_upstream(scene: &Scene, text: &str) -> (Heard, bool) {
    let heard = resolve(scene.address(), &question(text));
    let (name, _) = text.split_once(' ').expect("a name and a type");
    (heard, scene.asked(name) > 0)
}

fn localhost(kind: Kind) -> Cell {
    let scene = Scene::of(
        kind,
        pair(|q: &Query| q.says("NXDOMAIN").authority(". 60 SOA 60")),
    );
    let (heard, asked) = asked_upstream(&scene, "localhost. A");
    let text = if asked { "asked" } else { "not asked" };
    Cell::judged(!asked, format!("{text}, {}", heard.gist()))
}

fn private_reverse(kind: Kind) -> Cell {
    let scene = Scene::of(
        kind,
        pair(|q: &Query| q.says("NXDOMAIN").authority(". 60 SOA 60")),
    );
    let (heard, asked) = asked_upstream(&scene, "3.2.1.10.in-addr.arpa. PTR");
    let text = if asked { "asked" } else { "not asked" };
    Cell::taste(format!(
        "{text}, {} after {}",
        heard.gist(),
        time(heard.took)
    ))
}
