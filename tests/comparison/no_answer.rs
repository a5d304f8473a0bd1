//! Clients that hear nothing, or of a failure, although there is an answer.

use std::thread;
use std::time::{Duration, Instant};

use crate::cases::Case;
use crate::cell::{Cell, Tally, time};
use crate::client::{
    Heard, Said, all_at_once, asked_over_tcp, heard_on, one_by_one, over_tcp, over_udp, question,
    resolve,
};
use crate::common::dns::{Ask, Over, flag, question_end, rcode, udp_to, wire_name};
use crate::resolver::Kind;
use crate::scene::{Scene, odd, odd_with, pair, spare};
use crate::server::{Does, Query, Server, Tcp};
use crate::wrong_data::{EXPIRED, addresses};

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "The first of two servers is silent from the start; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, |_| Does::Silence),
    ),
    Case::new(
        "The first of two servers falls silent while it is in use; 10 names",
        "each answered within 1 s",
        falls_silent,
    ),
    Case::new(
        "The first of two servers says SERVFAIL; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, |q| q.says("SERVFAIL").into()),
    ),
    Case::new(
        "The first of two servers says REFUSED; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, |q| q.says("REFUSED").into()),
    ),
    Case::new(
        "The first of two servers says NOTIMP; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, |q| q.says("NOTIMP").without_opt().into()),
    ),
    Case::new(
        "The first of two servers answers with wrong IDs; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, wrong_id),
    ),
    Case::new(
        "The first of two servers answers other questions; 10 names",
        "each answered within 1 s",
        |kind| first_is(kind, wrong_question),
    ),
    Case::new(
        "All servers are silent, and nothing is cached",
        "something within 5 s: then glibc gives this server up",
        all_silent,
    ),
    Case::new(
        "All servers have stopped, the answer has expired",
        "the expired answer within 1 s (RFC 8767)",
        |kind| expired(kind, &mut |server| server.stops()),
    ),
    Case::new(
        "All servers fall silent, the answer has expired",
        "the expired answer within 1 s (RFC 8767)",
        |kind| expired(kind, &mut |server| server.falls_silent()),
    ),
    Case::new(
        "All servers say SERVFAIL, the answer has expired",
        "the expired answer within 1 s (RFC 8767)",
        |kind| {
            expired(kind, &mut |server| {
                server.now_says_to_all(|q: &Query| q.says("SERVFAIL"));
            })
        },
    ),
    Case::new(
        "The same, where AAAA was NOERROR without SOA: A and AAAA when all servers have stopped",
        "both: musl fails a lookup of which one half fails",
        expired_beside_empty,
    ),
    Case::new(
        "TC, and the bytes are cut inside a record; 20 addresses over TCP",
        "20 addresses",
        cut_inside_a_record,
    ),
    Case::new(
        "405 addresses in a datagram of 6,500 octets, without TC",
        "405 addresses",
        large_datagram,
    ),
    Case::new(
        "TC from servers that close a TCP connection after each answer; 50 names at once",
        "all answered",
        closes_after_each_answer,
    ),
    Case::new(
        "The same, where servers are asked over TCP only",
        "all answered",
        closes_after_each_answer_tcp,
    ),
    Case::new(
        "TC from servers whose TCP port is mute, the third name: over UDP, over TCP",
        "the cut answer within 1 s",
        tcp_is_mute,
    ),
    Case::new(
        "EDNS refused by FORMERR, which carries no OPT; 3 names of a client with EDNS",
        "all answered within 1 s",
        |kind| refuses_edns(kind, |q| q.says("FORMERR").without_opt().into()),
    ),
    Case::new(
        "The same by a FORMERR whose ARCOUNT lies",
        "all answered within 1 s",
        |kind| {
            refuses_edns(kind, |q| {
                let mut message = q.says("FORMERR").without_opt().bytes();
                message[11] = 1;
                message.into()
            })
        },
    ),
    Case::new("The same by NOTIMP", "all answered within 1 s", |kind| {
        refuses_edns(kind, |q| q.says("NOTIMP").without_opt().into())
    }),
    Case::new("The same by BADVERS", "all answered within 1 s", |kind| {
        refuses_edns(kind, |q| q.says("BADVERS").into())
    }),
    Case::new(
        "The same by silence",
        "all answered; the first name may take long",
        refuses_edns_by_silence,
    ),
    Case::new(
        "FORMERR to the AD bit; 3 names of a client that sets AD",
        "all answered within 1 s",
        refuses_ad,
    ),
    Case::new(
        "A name of 255 octets, whose answer has a compressed owner",
        "answered",
        longest_name,
    ),
    Case::new(
        "Answers take 1.8 s; 10 names at once",
        "all answered",
        slow_answers,
    ),
    Case::new(
        "Answers take 1.8 s, clients' TCP connections are idle after 1 s; 10 clients",
        "all answered: who waits is not idle",
        idle_timeout,
    ),
    Case::new(
        "SIGTERM with 8 queries in flight over UDP and 8 over TCP, 1 s from their answers",
        "all answered, or told that they will not be",
        terminated,
    ),
    Case::new(
        "An alias into another zone, without its target, as kube-dns answers for ExternalName",
        "the alias with its address",
        alias_into_another_zone,
    ),
];

/// The limit of most rows: a user notices.
const SECOND: Duration = Duration::from_secs(1);
/// What an honest server says.
const ANSWERED: &str = "NOERROR 192.0.2.1";

fn honest() -> Server {
    Server::start(Query::honest)
}

/// The first of two servers does this with everything, also with what is asked about its health.
fn first_is(kind: Kind, fault: fn(&Query) -> Does) -> Cell {
    let scene = Scene::of(kind, vec![Server::start_for_all(fault), honest()]);
    let heard = one_by_one(scene.address(), "n", 10);
    Tally::of(&heard, ANSWERED).cell(SECOND)
}

fn wrong_id(q: &Query) -> Does {
    let mut message = q.honest().bytes();
    message[0] ^= 0x55;
    message.into()
}

fn wrong_question(q: &Query) -> Does {
    let mut message = q.honest().bytes();
    let qtype = question_end(&message) - 3;
    message[qtype] ^= 1;
    message.into()
}

fn falls_silent(kind: Kind) -> Cell {
    let scene = Scene::of(kind, vec![honest(), honest()]).settled(kind);
    one_by_one(scene.address(), "before", 10);
    // Not every resolver uses the first: the one in use is the one that counts.
    let used = scene.servers.iter().max_by_key(|server| {
        let asked = server.asked();
        asked
            .iter()
            .filter(|q| q.name.starts_with("before"))
            .count()
    });
    used.expect("two servers").falls_silent();
    let heard = one_by_one(scene.address(), "n", 10);
    Tally::of(&heard, ANSWERED).cell(SECOND)
}

fn all_silent(kind: Kind) -> Cell {
    let scene = Scene::of(kind, vec![honest(), honest()]).settled(kind);
    one_by_one(scene.address(), "before", 3);
    for server in &scene.servers {
        server.falls_silent();
    }
    let heard = one_by_one(scene.address(), "n", 3);
    let text: Vec<String> = [&heard[0], &heard[2]].map(shown).into();
    let right = heard.iter().all(|heard| heard.message().is_some());
    Cell::judged(right, format!("{}; the third {}", text[0], text[1]))
}

/// What was heard and when.
fn shown(heard: &Heard) -> String {
    match heard.said {
        Said::Nothing => "nothing in 5 s".to_owned(),
        _ if heard.gist() == ANSWERED => format!("answered after {}", time(heard.took)),
        _ => format!("{} after {}", heard.gist(), time(heard.took)),
    }
}

/// An answer has expired when the servers fail.
fn expired(kind: Kind, fail: &mut dyn FnMut(&mut Server)) -> Cell {
    let script = |q: &Query| q.says("NOERROR").answer("@ 1 A 192.0.2.1");
    let mut scene = Scene::of(kind, pair(script)).settled(kind);
    let ask = question("web.corp. A");
    let before = resolve(scene.address(), &ask);
    assert_eq!(before.gist(), ANSWERED, "{}", kind.name());
    scene.servers.iter_mut().for_each(fail);
    // The answer's own time passes.
    thread::sleep(EXPIRED);
    let heard = [(); 2].map(|()| resolve(scene.address(), &ask.again()));
    let right = heard
        .iter()
        .all(|heard| heard.gist() == ANSWERED && heard.took <= SECOND);
    let [first, second] = heard.each_ref().map(shown);
    Cell::judged(right, format!("{first}; then {second}"))
}

fn expired_beside_empty(kind: Kind) -> Cell {
    let script = |q: &Query| {
        if q.is("v4.corp. A") {
            q.says("NOERROR").answer("@ 1 A 192.0.2.1")
        } else {
            q.says("NOERROR")
        }
    };
    let mut scene = Scene::of(kind, pair(script)).settled(kind);
    let asks = ["v4.corp. A", "v4.corp. AAAA"].map(question);
    for ask in &asks {
        resolve(scene.address(), ask);
    }
    scene.servers.iter_mut().for_each(Server::stops);
    thread::sleep(EXPIRED);
    let [v4, v6] = asks.map(|ask| resolve(scene.address(), &ask.again()));
    let right = v4.gist() == ANSWERED && v6.gist() == "NOERROR";
    Cell::judged(right, format!("A {}, AAAA {}", shown(&v4), shown(&v6)))
}

fn all_addresses(heard: &Heard, want: usize) -> Cell {
    let right = heard.answers() == want;
    if right {
        Cell::judged(true, format!("all after {}", time(heard.took)))
    } else if heard.answers() > 0 {
        Cell::judged(false, format!("{} of {want}", heard.answers()))
    } else {
        Cell::judged(false, shown(heard))
    }
}

fn cut_inside_a_record(kind: Kind) -> Cell {
    let script = |q: &Query| {
        if q.over == Over::Tcp {
            return addresses(q, "NOERROR", 20, "@").bytes();
        }
        let mut message = addresses(q, "NOERROR tc", 20, "@").bytes();
        message.truncate(question_end(&message) + 10 * 16 + 14);
        message
    };
    let scene = Scene::of(kind, pair(script));
    all_addresses(&resolve(scene.address(), &question("web.corp. A")), 20)
}

fn large_datagram(kind: Kind) -> Cell {
    let scene = Scene::of(kind, pair(|q: &Query| addresses(q, "NOERROR", 405, "@")));
    all_addresses(&resolve(scene.address(), &question("web.corp. A")), 405)
}

fn closes(q: &Query) -> Does {
    if q.over == Over::Udp {
        q.says("NOERROR tc").into()
    } else {
        Does::AnswersAndCloses(q.honest().bytes())
    }
}

fn fifty(address: std::net::SocketAddr) -> Tally {
    let asks: Vec<Ask> = (0..50)
        .map(|number| question(&format!("n{number}.example. A")))
        .collect();
    Tally::of(&all_at_once(address, &asks), ANSWERED)
}

fn closes_after_each_answer(kind: Kind) -> Cell {
    let scene = Scene::of(kind, pair(closes));
    fifty(scene.address()).cell(crate::client::PATIENCE)
}

fn closes_after_each_answer_tcp(kind: Kind) -> Cell {
    if kind == Kind::Dnsmasq {
        return Cell::absent("asks over its client's protocol");
    }
    let scene = Scene::with(kind, pair(closes), |setup| setup.upstream_tcp = true);
    fifty(scene.address()).cell(crate::client::PATIENCE)
}

fn tcp_is_mute(kind: Kind) -> Cell {
    let script = |q: &Query| addresses(q, "NOERROR tc", 5, "@");
    let servers = vec![odd_with(Tcp::Mute, script), odd_with(Tcp::Mute, script)];
    let scene = Scene::of(kind, servers);
    for name in ["first.corp. A", "second.corp. A"] {
        over_udp(scene.address(), &question(name));
    }
    // TCP, if it is tried at all, is known to be mute.
    thread::sleep(Duration::from_secs(2));
    let heard = [
        over_udp(scene.address(), &question("third.corp. A")),
        over_tcp(scene.address(), &question("fourth.corp. A")),
    ];
    let right = heard
        .iter()
        .all(|heard| heard.answers() == 5 && heard.took <= SECOND);
    let [udp, tcp] = heard.each_ref().map(|heard| {
        let tc = if heard.has(flag::TC) { ", TC" } else { "" };
        match heard.answers() {
            0 if heard.has(flag::TC) => format!("none, TC after {}", time(heard.took)),
            0 => shown(heard),
            some => format!("{some} addresses{tc} after {}", time(heard.took)),
        }
    });
    Cell::judged(right, format!("{udp}; {tcp}"))
}

fn edns_refusers(refusal: fn(&Query) -> Does) -> Vec<Server> {
    let server = || {
        Server::start_for_all(move |q: &Query| match &q.name[..] {
            // Asked by the suite, which must get an answer.
            "ready.example." => q.honest().into(),
            _ if q.edns => refusal(q),
            _ => q.honest().without_opt().into(),
        })
    };
    vec![server(), server()]
}

fn three_with_edns(scene: &Scene) -> Tally {
    let heard: Vec<Heard> = (0..3)
        .map(|number| {
            let ask = question(&format!("n{number}.corp. A"));
            resolve(scene.address(), &ask.payload(1232))
        })
        .collect();
    Tally::of(&heard, ANSWERED)
}

fn refuses_edns(kind: Kind, refusal: fn(&Query) -> Does) -> Cell {
    let scene = Scene::of(kind, edns_refusers(refusal));
    three_with_edns(&scene).cell(SECOND)
}

fn refuses_edns_by_silence(kind: Kind) -> Cell {
    let scene = Scene::of(kind, edns_refusers(|_| Does::Silence));
    three_with_edns(&scene).cell(crate::client::PATIENCE)
}

fn refuses_ad(kind: Kind) -> Cell {
    let server = || {
        Server::start_for_all(|q: &Query| {
            if q.ad {
                q.says("FORMERR").without_opt()
            } else {
                q.honest()
            }
        })
    };
    let scene = Scene::of(kind, vec![server(), server()]);
    let heard: Vec<Heard> = (0..3)
        .map(|number| {
            let ask = question(&format!("n{number}.corp. A"));
            resolve(scene.address(), &ask.flags(flag::RD | flag::AD))
        })
        .collect();
    Tally::of(&heard, ANSWERED).cell(SECOND)
}

fn longest_name(kind: Kind) -> Cell {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}.", "b".repeat(61));
    assert_eq!(wire_name(&name).len(), 255);
    let scene = Scene::of(kind, pair(|q: &Query| q.honest()));
    let heard = resolve(scene.address(), &question(&format!("{name} A")));
    Cell::judged(heard.gist() == ANSWERED, shown(&heard))
}

fn slow_answers(kind: Kind) -> Cell {
    let script = |q: &Query| q.honest().after(Duration::from_millis(1800));
    let scene = Scene::of(kind, pair(script)).settled(kind);
    let asks: Vec<Ask> = (0..10)
        .map(|number| question(&format!("n{number}.example. A")))
        .collect();
    Tally::of(&all_at_once(scene.address(), &asks), ANSWERED).cell(crate::client::PATIENCE)
}

fn idle_timeout(kind: Kind) -> Cell {
    if kind == Kind::Dnsmasq {
        return Cell::absent("no such option");
    }
    let script = |q: &Query| q.honest().after(Duration::from_millis(1800));
    let scene = Scene::with(kind, pair(script), |setup| {
        setup.idle_seconds = Some(1);
        setup.slow_servers = true;
    });
    let started = Instant::now();
    let mut clients: Vec<_> = (0..10)
        .map(|number| {
            let ask = question(&format!("n{number}.example. A"));
            (asked_over_tcp(scene.address(), &ask), ask)
        })
        .collect();
    let heard: Vec<Heard> = clients
        .iter_mut()
        .map(|(stream, ask)| heard_on(stream, ask, started))
        .collect();
    Tally::of(&heard, ANSWERED).cell(crate::client::PATIENCE)
}

fn terminated(kind: Kind) -> Cell {
    let script = |q: &Query| q.honest().after(SECOND);
    let scene = Scene::of(kind, vec![odd(script)]);
    let asks = |word: &str| -> Vec<Ask> {
        (0..8)
            .map(|number| question(&format!("{word}{number}.example. A")))
            .collect()
    };
    let started = Instant::now();
    let mut over_tcp: Vec<_> = asks("stop-tcp")
        .into_iter()
        .map(|ask| (asked_over_tcp(scene.address(), &ask), ask))
        .collect();
    let datagrams: Vec<_> = asks("stop-udp")
        .into_iter()
        .map(|ask| {
            let socket = udp_to(scene.address()).expect("a socket");
            socket.send(&ask.message()).expect("sent");
            let patience = Some(crate::client::PATIENCE);
            socket.set_read_timeout(patience).expect("settable");
            (socket, ask)
        })
        .collect();
    crate::common::wait_for("all 16 at the server", || {
        (scene.asked("stop-") >= 16).then_some(())
    });
    scene.resolver.terminate();
    let tcp: Vec<Heard> = over_tcp
        .iter_mut()
        .map(|(stream, ask)| heard_on(stream, ask, started))
        .collect();
    let udp: Vec<Heard> = datagrams
        .iter()
        .map(|(socket, ask)| Heard::since(started, ask, crate::common::dns::receive(socket)))
        .collect();
    let count = |heard: &[Heard]| {
        let told = heard.iter().filter(|heard| heard.message().is_some());
        let answered = heard.iter().filter(|heard| heard.gist() == ANSWERED);
        (told.count(), answered.count())
    };
    let text = |(told, answered): (usize, usize)| match told - answered {
        0 => format!("{answered}/8"),
        failed => format!("{answered}/8 and {failed} told"),
    };
    let (udp, tcp) = (count(&udp), count(&tcp));
    let text = format!("UDP {}, TCP {}", text(udp), text(tcp));
    Cell::judged(udp.0 == 8 && tcp.0 == 8, text)
}

fn alias_into_another_zone(kind: Kind) -> Cell {
    let root = Server::start(spare(|q: &Query| q.honest()));
    let cluster = Server::start(spare(|q: &Query| {
        q.says("NOERROR").answer("@ 30 CNAME db.corp.")
    }));
    let scene = Scene::zone(kind, "cluster.local.", root, cluster);
    let heard = resolve(
        scene.address(),
        &question("db.default.svc.cluster.local. A"),
    );
    let code = heard.message().map(crate::common::dns::Message::rcode);
    let right = code == Some(rcode::NOERROR) && heard.answers() == 2;
    Cell::judged(right, heard.gist())
}
