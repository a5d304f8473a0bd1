//! A stub resolver: one question over UDP, and over TCP if the reply says TC, whatever else it holds.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{
    Ask, Message, Section, flag, read_frame, receive, send_frame, tcp_to, u16_at, udp_to,
};
use crate::wire::{gist, type_of};

/// How long glibc waits for a server (resolv.conf(5), `timeout`).
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Debug)]
pub(crate) enum Said {
    Message(Box<Message>),
    /// It cannot be read, or is no reply to what was asked.
    Malformed,
    Closed,
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) said: Said,
    pub(crate) took: Duration,
}

impl Heard {
    pub(crate) fn since(started: Instant, ask: &Ask, reply: io::Result<Vec<u8>>) -> Self {
        let took = started.elapsed();
        let said = match reply {
            Ok(bytes) => match Message::read(&bytes) {
                Ok(message) if message.id == ask.id && message.question == ask.question() => {
                    Said::Message(Box::new(message))
                }
                _ => Said::Malformed,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Said::Nothing,
            Err(_) => Said::Closed,
        };
        Self { said, took }
    }

    pub(crate) fn message(&self) -> Option<&Message> {
        match &self.said {
            Said::Message(message) => Some(message),
            _ => None,
        }
    }

    pub(crate) fn gist(&self) -> String {
        match &self.said {
            Said::Message(message) => gist(message),
            Said::Malformed => "malformed".to_owned(),
            Said::Closed => "closed".to_owned(),
            Said::Nothing => "nothing".to_owned(),
        }
    }

    /// Records in the answer section.
    pub(crate) fn answers(&self) -> usize {
        self.message()
            .map_or(0, |message| message.count(Section::Answer))
    }

    pub(crate) fn has(&self, bit: u16) -> bool {
        self.message().is_some_and(|message| message.has(bit))
    }
}

/// A question, written as `x.corp. A`, without EDNS.
pub(crate) fn question(text: &str) -> Ask {
    let (name, qtype) = text.split_once(' ').expect("a name and a type");
    Ask::new(name, type_of(qtype))
}

pub(crate) fn over_udp(server: SocketAddr, ask: &Ask) -> Heard {
    let started = Instant::now();
    Heard::since(started, ask, datagram(server, &ask.message()))
}

fn datagram(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let socket = udp_to(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(message)?;
    receive(&socket)
}

pub(crate) fn over_tcp(server: SocketAddr, ask: &Ask) -> Heard {
    let started = Instant::now();
    let reply = tcp_to(server).and_then(|mut stream| {
        send_frame(&mut stream, &ask.message())?;
        frame(&mut stream)
    });
    Heard::since(started, ask, reply)
}

/// A connection on which this was asked.
pub(crate) fn asked_over_tcp(server: SocketAddr, ask: &Ask) -> TcpStream {
    let mut stream = tcp_to(server).expect("it listens");
    send_frame(&mut stream, &ask.message()).expect("sent");
    stream
}

/// What comes on it.
pub(crate) fn heard_on(stream: &mut TcpStream, ask: &Ask, started: Instant) -> Heard {
    Heard::since(started, ask, frame(stream))
}

fn frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    read_frame(stream)
}

/// Over UDP, then over TCP if the reply says TC.
pub(crate) fn resolve(server: SocketAddr, ask: &Ask) -> Heard {
    let started = Instant::now();
    let reply = datagram(server, &ask.message());
    // Of a cut message, only the header is sure to be there.
    let cut = reply
        .as_ref()
        .is_ok_and(|bytes| u16_at(bytes, 2).is_some_and(|flags| flags & flag::TC != 0));
    if !cut {
        return Heard::since(started, ask, reply);
    }
    let said = over_tcp(server, ask).said;
    let took = started.elapsed();
    Heard { said, took }
}

/// New names, one after the other.
pub(crate) fn one_by_one(server: SocketAddr, word: &str, count: usize) -> Vec<Heard> {
    let name = |number| question(&format!("{word}{number}.example. A"));
    (0..count)
        .map(|number| resolve(server, &name(number)))
        .collect()
}

/// All of them at once, each by a thread of its own.
pub(crate) fn all_at_once(server: SocketAddr, asks: &[Ask]) -> Vec<Heard> {
    thread::scope(|scope| {
        let running: Vec<_> = asks
            .iter()
            .map(|ask| scope.spawn(move || resolve(server, ask)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        running.into_iter().map(join).collect()
    })
}
