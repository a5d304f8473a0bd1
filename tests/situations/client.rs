//! A client's side: configurations in front of scripted servers, questions as text, replies as text.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, Message, Over, Record, Section, receive, udp_to};
use crate::common::{Nodens, wait_for};
use crate::server::Server;
use crate::wire::{gist, rdata_text, type_of};

pub(crate) const BOTH: [Over; 2] = [Over::Udp, Over::Tcp];

/// A question, written as `x.corp. A`, asked as a stub resolver asks it: without EDNS.
pub(crate) fn question(text: &str) -> Ask {
    let (name, qtype) = text.split_once(' ').expect("a name and a type");
    Ask::new(name, type_of(qtype))
}

/// A reply, and how long it took.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) took: Duration,
}

impl Reply {
    pub(crate) fn gist(&self) -> String {
        gist(&self.message)
    }

    /// Each record of a section as `TTL RDATA`, in the order of the message.
    pub(crate) fn ttls(&self, section: Section) -> Vec<String> {
        let text = |record: &Record| format!("{} {}", record.ttl, rdata_text(record));
        self.message.section(section).map(text).collect()
    }

    pub(crate) fn has(&self, bit: u16) -> bool {
        self.message.has(bit)
    }

    /// RDATA of the first record of the answer section.
    pub(crate) fn first(&self) -> String {
        let first = self.message.section(Section::Answer).next();
        first.map(rdata_text).unwrap_or_default()
    }
}

/// Asks and reads the reply, whose ID and question must be ours.
pub(crate) fn ask(nodens: &Nodens, text: &str, over: Over) -> Reply {
    send(nodens, &question(text), over)
}

/// The same over UDP, as text.
pub(crate) fn says(nodens: &Nodens, text: &str) -> String {
    ask(nodens, text, Over::Udp).gist()
}

pub(crate) fn send(nodens: &Nodens, ask: &Ask, over: Over) -> Reply {
    let started = Instant::now();
    let message = ask.send(nodens.address(), over);
    Reply {
        message,
        took: started.elapsed(),
    }
}

/// One group of these servers for all names, one worker. `options` are of the group, as `key: value` lines in braces
/// have them.
pub(crate) fn group_of(servers: &[String], options: &str) -> String {
    let comma = if options.is_empty() { "" } else { ", " };
    format!(
        "workers: 1\nupstreams: {{group: {{servers: {servers:?}{comma}{options}}}}}\nroutes: {{\".\": group}}\n"
    )
}

/// In front of one server over UDP.
pub(crate) fn in_front_of(server: &Server) -> Nodens {
    settled(&group_of(&[server.over("")], ""), &[server.over("")])
}

/// Tiers `[vpc, public]` of one server each. The first is asked alone, so that its word comes before the second's.
pub(crate) fn tiers(vpc: &Server, public: &Server, more: &str) -> Nodens {
    let (vpc, public) = (vpc.over(""), public.over(""));
    let yaml = format!(
        "workers: 1\nupstreams:\n  vpc: {{servers: [\"{vpc}\"]}}\n  public: {{servers: [\"{public}\"]}}\n\
         routes: {{\".\": [vpc, public]}}\n{more}"
    );
    settled(&yaml, &[vpc, public])
}

/// Started, and all these servers known to be good, so that they are asked in their order.
pub(crate) fn settled(yaml: &str, servers: &[String]) -> Nodens {
    let nodens = Nodens::start(yaml);
    for server in servers {
        nodens.wait_for_metric(
            "nodens_upstream_state",
            &[("server", server), ("state", "good")],
            1.0,
        );
    }
    nodens
}

/// Replaces the configuration, and waits until it is in force.
pub(crate) fn change(nodens: &Nodens, yaml: &str) {
    let taken = || nodens.status()["configuration"]["taken"].as_u64();
    let before = taken();
    nodens.rewrite(&["127.0.0.1:0"], yaml);
    nodens.hang_up();
    wait_for("the configuration to be in force", || {
        (taken() > before).then_some(())
    });
}

/// Asks all names at once from sockets of their own; returns each reply as text with the time it took, in order.
pub(crate) fn all_at_once(nodens: &Nodens, questions: &[String]) -> Vec<(String, Duration)> {
    let started = Instant::now();
    let clients: Vec<(Ask, UdpSocket)> = questions
        .iter()
        .map(|text| {
            let ask = question(text);
            let client = udp_to(nodens.address()).expect("a socket");
            client.send(&ask.message()).expect("sent");
            (ask, client)
        })
        .collect();
    // Each waits on its own, so that the time of one is not that of those before it.
    let waiting: Vec<_> = clients
        .into_iter()
        .map(|(ask, client)| {
            thread::spawn(move || {
                let reply = receive(&client).unwrap_or_else(|error| panic!("{ask:?}: {error}"));
                let took = started.elapsed();
                let message = Message::read(&reply).expect("well-formed");
                assert_eq!(message.id, ask.id, "{ask:?}");
                (gist(&message), took)
            })
        })
        .collect();
    let join = |thread: thread::JoinHandle<_>| thread.join().expect("it got a reply");
    waiting.into_iter().map(join).collect()
}

/// `name0.example. A` and so on, as many as wanted, with a word in front that no other call uses.
pub(crate) fn new_names(word: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{word}{number}.example. A"))
        .collect()
}

/// Fails unless all replies are `want`; shows how many of each other kind there were.
pub(crate) fn assert_all(replies: &[(String, Duration)], want: &str, nodens: &Nodens) {
    let wrong: Vec<_> = replies.iter().filter(|(gist, _)| gist != want).collect();
    let kinds: BTreeSet<_> = wrong.iter().map(|(gist, _)| gist).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} are {kinds:?} and not {want}\n{}",
        wrong.len(),
        replies.len(),
        nodens.log()
    );
}

/// Asks again and again until `done`, and then a little longer. Every reply on the way must be one of `allowed`.
pub(crate) fn always(
    nodens: &Nodens,
    text: &str,
    allowed: &[&str],
    what: &str,
    mut done: impl FnMut() -> bool,
) {
    let deadline = Instant::now() + crate::common::PATIENCE;
    let mut further = 10;
    while further > 0 {
        let got = says(nodens, text);
        assert!(
            allowed.contains(&&got[..]),
            "{text} got {got}, not {allowed:?}"
        );
        if done() {
            further -= 1;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
