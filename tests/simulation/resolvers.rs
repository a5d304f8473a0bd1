//! Clients' stub resolvers: which queries they send at once, when and at which nameserver they ask again, and which replies
//! they accept.
//!
//! Sources: `resolv/res_send.c` of glibc 2.36, `src/network/res_msend.c` of musl 1.2.4 and `net/dnsclient_unix.go` of Go 1.22.
//! One behaviour of glibc is left out: when one of a pair of queries is answered and the other is not, glibc sends them one
//! after the other, and then from another port. Here it sends both again.

use crate::world::{Micros, SECOND, StreamId};

/// After this time glibc and Go ask again, and musl gives up.
const PATIENCE: Micros = 5 * SECOND;
/// After this time musl asks again. In each attempt it also asks up to twice more at once for each question, if it gets
/// SERVFAIL.
const PATIENCE_OF_MUSL: Micros = PATIENCE / 2;
const SERVFAILS_OF_MUSL: usize = 2;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// The stub resolver of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// A and AAAA at once from one port; both again after 5 s; the next nameserver after 5 s, or at once after a failure; both
    /// over one TCP connection if either was truncated.
    Glibc,
    /// A and AAAA at once from one port, to all nameservers. Questions without an answer again after 2.5 s, and at once after
    /// SERVFAIL. Each truncated question over a TCP connection of its own.
    Musl,
    /// A and AAAA each from a port of its own, and from another port for each try. The next nameserver after 5 s or a failure.
    /// Truncated questions over TCP.
    Go,
}

impl Resolver {
    pub(crate) const ALL: [Self; 3] = [Self::Glibc, Self::Musl, Self::Go];
}

/// The nameservers in resolv.conf: the node's, and in some cases one that never answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nameservers {
    This,
    ThisAndDead,
    DeadAndThis,
}

/// A query of a client.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) message: Vec<u8>,
    /// The query was answered, or was replaced by one over TCP.
    pub(crate) answered: bool,
}

/// A connection to this nameserver.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: StreamId,
    /// Octets that reached the nameserver and are not a complete query yet.
    pub(crate) inbox: Vec<u8>,
}

/// The client at one port.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) resolver: Resolver,
    pub(crate) nameservers: Nameservers,
    pub(crate) questions: Vec<Question>,
    /// Number of earlier attempts, at any nameserver.
    attempt: u8,
    /// How often it may still ask at once after SERVFAIL in this attempt.
    servfails: usize,
    /// When this attempt times out.
    pub(crate) until: Micros,
    pub(crate) connection: Option<Connection>,
    /// A TCP client that has closed its connection before it was answered.
    pub(crate) gone: bool,
}

/// What a resolver does because of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: it goes on waiting, or all its questions are answered.
    Nothing,
    /// It asks this question again at once.
    Again(usize),
    /// It asks the next nameserver.
    Elsewhere,
    /// It sends these queries over TCP.
    OverTcp(Vec<Vec<u8>>),
    /// It reports a failure to the application.
    GiveUp,
}

impl Asker {
    pub(crate) fn new(
        resolver: Resolver,
        nameservers: Nameservers,
        messages: Vec<Vec<u8>>,
    ) -> Self {
        let questions = messages.into_iter().map(|message| Question {
            message,
            answered: false,
        });
        let questions: Vec<_> = questions.collect();
        Self {
            resolver,
            nameservers,
            attempt: 0,
            servfails: SERVFAILS_OF_MUSL * questions.len(),
            questions,
            until: 0,
            connection: None,
            gone: false,
        }
    }

    /// How long it waits for answers to datagrams.
    pub(crate) fn patience(&self) -> Micros {
        match self.resolver {
            Resolver::Glibc | Resolver::Go => PATIENCE,
            Resolver::Musl => PATIENCE_OF_MUSL,
        }
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.questions.iter().all(|question| question.answered)
    }

    /// Begins the next attempt. Returns false if there is none left.
    pub(crate) fn begin_next_attempt(&mut self) -> bool {
        self.attempt += 1;
        self.servfails = SERVFAILS_OF_MUSL * self.questions.len();
        let rounds = 2;
        let nameservers = match (self.resolver, self.nameservers) {
            (Resolver::Musl, _) | (_, Nameservers::This) => 1,
            _ => 2,
        };
        self.attempt < rounds * nameservers
    }

    /// Whether this attempt asks the node's nameserver, and not the dead one.
    pub(crate) fn asks_this(&self) -> bool {
        match (self.resolver, self.nameservers) {
            (Resolver::Musl, _) | (_, Nameservers::This) => true,
            (_, Nameservers::ThisAndDead) => self.attempt.is_multiple_of(2),
            (_, Nameservers::DeadAndThis) => !self.attempt.is_multiple_of(2),
        }
    }

    /// The queries that an attempt sends.
    pub(crate) fn sends(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.resolver != Resolver::Musl;
        let wanted = self
            .questions
            .iter()
            .filter(move |question| all || !question.answered);
        wanted.map(|question| &question.message[..])
    }

    /// Handles a reply over UDP.
    pub(crate) fn take(&mut self, reply: &[u8]) -> Next {
        let mut questions = self.questions.iter();
        let Some(index) = questions.position(|question| question.message[..2] == reply[..2]) else {
            return Next::Nothing;
        };
        if self.questions[index].answered {
            return Next::Nothing;
        }
        let (code, truncated) = (reply[3] & 15, reply[2] & 2 != 0);
        let is_answer = matches!(code, 0 | NXDOMAIN);
        match self.resolver {
            Resolver::Musl if code == SERVFAIL && self.servfails > 0 => {
                self.servfails -= 1;
                Next::Again(index)
            }
            Resolver::Musl if !is_answer => Next::Nothing,
            Resolver::Musl | Resolver::Go if is_answer && truncated => {
                self.questions[index].answered = true;
                Next::OverTcp(vec![self.questions[index].message.clone()])
            }
            Resolver::Glibc if is_answer && truncated => {
                let messages = self.questions.iter();
                Next::OverTcp(messages.map(|question| question.message.clone()).collect())
            }
            // glibc is content with the other question's answer.
            Resolver::Glibc
                if !is_answer && self.questions.iter().any(|question| question.answered) =>
            {
                Next::GiveUp
            }
            Resolver::Glibc | Resolver::Go if !is_answer => Next::Elsewhere,
            _ => {
                self.questions[index].answered = true;
                Next::Nothing
            }
        }
    }

    /// Handles a reply over its connection.
    pub(crate) fn take_over_tcp(&mut self, reply: &[u8]) {
        for question in &mut self.questions {
            question.answered |= question.message[..2] == reply[..2];
        }
    }
}
