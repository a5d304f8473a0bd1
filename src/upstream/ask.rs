//! One question, asked of a route's groups until somebody answers: runs a [`Plan`] over a worker's own transports.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use tokio::time::{sleep, timeout_at};

use super::extra::Extra;
use super::group::{self, Group};
use super::plan::{Plan, Step, TryFailure};
use super::server::Server;
use super::{Upstreams, health::State};
use crate::config::Bogus;
use crate::message::ede::{self, ExtendedError, PassedOn};
use crate::message::query::UpstreamEdns;
use crate::message::response::{Kind, Response};
use crate::message::wire::rcode;
use crate::transport::stream::StreamPool;
use crate::transport::udp::{Port, Shared, UdpPool};
use crate::transport::{Carrier, Delivery, Exchange, Mailbox, SharedQuestion, TryError};

/// One worker's transports to every server of a configuration.
pub struct Links {
    links: Vec<Rc<Link>>,
    shared: Shared,
}

struct Link {
    server: Arc<Server>,
    udp: UdpPool,
    stream: StreamPool,
}

impl Links {
    /// Nothing is opened before the first query; sockets to servers that `previous` has too stay.
    #[must_use]
    pub fn new(upstreams: &Upstreams, previous: Option<&Self>) -> Self {
        let shared = previous.map_or_else(Shared::new, |old| old.shared.clone());
        let link = |server: &Arc<Server>| {
            let same = |link: &&Rc<Link>| Arc::ptr_eq(&link.server, server);
            let known = previous.and_then(|old| old.links.iter().find(same).cloned());
            known.unwrap_or_else(|| {
                let peer = Rc::new(server.peer());
                Rc::new(Link {
                    server: Arc::clone(server),
                    udp: UdpPool::new(Rc::clone(&peer), shared.clone()),
                    stream: StreamPool::new(peer, shared.clone()),
                })
            })
        };
        let links = upstreams.servers.iter().map(link).collect();
        Self { links, shared }
    }

    /// Forgets what is over; called every now and then.
    pub fn sweep(&self, now: Instant) {
        for link in &self.links {
            link.udp.sweep(now);
            link.stream.sweep(now);
        }
    }

    fn send(
        &self,
        server: usize,
        carrier: Carrier,
        exchange: Exchange,
        now: Instant,
    ) -> Option<Weak<Port>> {
        match carrier {
            Carrier::Datagram => self.links[server].udp.send(exchange, now),
            Carrier::Stream => {
                self.links[server].stream.send(exchange, now);
                None
            }
        }
    }
}

/// What a server said, and whose word it is.
#[derive(Debug)]
pub struct Answer {
    /// What it said.
    pub response: Response,
    /// Its tier: the index of its group among those of the route.
    pub tier: usize,
}

/// Nobody answered.
#[derive(Debug)]
pub struct Failed {
    /// The response code the client gets: the best of what was said instead, or SERVFAIL.
    pub code: u16,
    /// Why, naming the servers.
    pub error: ExtendedError,
}

/// What a server said or did instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoAnswer {
    Nothing,
    Code(u16),
    Referral,
    Malformed,
    Unreachable,
    Broken,
    NoStream,
}

impl NoAnswer {
    fn text(self) -> &'static str {
        match self {
            Self::Nothing => "timed out",
            Self::Code(rcode::SERVFAIL) => "failed (SERVFAIL)",
            Self::Code(rcode::REFUSED) => "refused",
            Self::Code(rcode::NOTIMP) => "not implemented (NOTIMP)",
            Self::Code(rcode::FORMERR) => "did not understand (FORMERR)",
            Self::Code(_) => "answered with an unusual code",
            Self::Referral => "does not resolve (referral)",
            Self::Malformed => "answered garbage",
            Self::Unreachable => "unreachable",
            Self::Broken => "could not be asked",
            Self::NoStream => "truncated, and cannot be asked over TCP",
        }
    }
}

/// What is known of one try.
struct Attempt {
    no_answer: NoAnswer,
    carrier: Carrier,
    port: Option<Weak<Port>>,
    why: Why,
}

/// Why a try was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It was the server's turn.
    Turn,
    /// An earlier try was lost, or its server was found silent.
    Replacement,
    /// An earlier try was overdue.
    Hedge,
}

/// One question on its way through its groups.
struct Lookup<'a> {
    links: &'a Links,
    upstreams: &'a Upstreams,
    groups: Vec<&'a Group>,
    question: &'a Rc<SharedQuestion>,
    mailbox: Rc<Mailbox>,
    plan: Plan,
    attempts: Vec<Attempt>,
    fallback: Option<Answer>,
    /// Extended errors of servers that did not answer.
    errors: PassedOn,
}

/// Asks the groups in turn until one of their servers gives a final answer, or the first group's deadline is near.
///
/// # Errors
/// [`Failed`] if nobody did, with the reason.
pub async fn ask(
    links: &Links,
    upstreams: &Upstreams,
    tiers: &[usize],
    question: &Rc<SharedQuestion>,
) -> Result<Answer, Failed> {
    let groups: Vec<&Group> = tiers.iter().map(|&tier| &upstreams.groups[tier]).collect();
    let now = Instant::now();
    let plan = group::plan(&groups, now, now + groups[0].budget());
    if let Some(first) = plan.first() {
        // Taken now, so that those who come later wait for later places.
        let wait = upstreams.servers[first].rate.take(now);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
    let mailbox = Rc::default();
    let (attempts, fallback) = (Vec::with_capacity(4), None);
    // Run in place: a future that takes it over would hold it twice.
    let mut lookup = Lookup {
        links,
        upstreams,
        groups,
        question,
        mailbox,
        plan,
        attempts,
        fallback,
        errors: PassedOn::default(),
    };
    lookup.run().await
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl Lookup<'_> {
    async fn run(&mut self) -> Result<Answer, Failed> {
        loop {
            // Before the next step: a final answer that is here must not be outrun by a failure that came with it.
            while let Some(delivery) = self.mailbox.take() {
                if let Some(outcome) = self.weigh(delivery) {
                    return outcome;
                }
            }
            let now = Instant::now();
            let servers = &self.upstreams.servers;
            let taken = Cell::new(None);
            let step = self.plan.step(
                now,
                |server| servers[server].state().suspected(),
                |server, extra| {
                    let may = servers[server].rate.wait(now).is_zero()
                        && self.groups[0].extra.take(extra);
                    taken.set(may.then_some(extra));
                    may
                },
            );
            match step {
                Step::Try {
                    number,
                    server,
                    hedge,
                } => {
                    let why = match taken.get() {
                        Some(Extra::Hedge) => Why::Hedge,
                        Some(Extra::Replacement) if hedge => Why::Replacement,
                        _ => Why::Turn,
                    };
                    self.start(number, server, why, now);
                }
                Step::Overdue(number) => self.overdue(number, now),
                Step::Wait(until) => {
                    // Filled or not, the next step is found anew.
                    let _ = timeout_at(until.into(), self.mailbox.filled()).await;
                }
                Step::Exhausted => return self.give_up(),
            }
        }
    }

    fn server(&self, number: usize) -> &Server {
        &self.upstreams.servers[self.plan.server(number)]
    }

    fn start(&mut self, number: usize, server: usize, why: Why, now: Instant) {
        let carrier = self.upstreams.servers[server].carrier();
        if why != Why::Turn {
            self.groups[0].metrics.hedges_sent.inc();
        }
        if !self.attempts.is_empty() {
            // The first try's place was taken before it left.
            let _ = self.upstreams.servers[server].rate.take(now);
        }
        self.attempts.push(Attempt {
            no_answer: NoAnswer::Nothing,
            carrier,
            port: None,
            why,
        });
        self.send(number, carrier, UpstreamEdns::Sent, now);
    }

    fn send(&mut self, number: usize, carrier: Carrier, edns: UpstreamEdns, now: Instant) {
        let exchange = Exchange::new(self.question, &self.mailbox, number, edns, now);
        self.attempts[number].carrier = carrier;
        self.attempts[number].port =
            self.links
                .send(self.plan.server(number), carrier, exchange, now);
    }

    fn overdue(&mut self, number: usize, now: Instant) {
        let attempt = &self.attempts[number];
        let server = self.server(number);
        let sent = self.plan.sent(number);
        server.overdue(attempt.carrier, now, sent, self.question.name_hash());
        // Another port may be another endpoint behind kube-proxy. A server that is gone is gone on every port.
        if let Some(port) = attempt.port.as_ref().and_then(Weak::upgrade)
            && !server.state_of(attempt.carrier).suspected()
        {
            port.lost_query();
        }
    }

    /// The tier of a try's server. Each group has servers of its own, whatever their addresses.
    fn tier(&self, number: usize) -> usize {
        let server = self.server(number);
        let holds = |group: &&Group| {
            group
                .servers
                .iter()
                .any(|one: &Arc<Server>| std::ptr::eq(Arc::as_ptr(one), server))
        };
        self.groups.iter().position(holds).unwrap_or_default()
    }

    /// What a delivery means: the final outcome, or one more reason to ask on.
    fn weigh(&mut self, delivery: Delivery) -> Option<Result<Answer, Failed>> {
        let Delivery {
            number,
            carrier,
            edns,
            result,
        } = delivery;
        let now = Instant::now();
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                self.lost(number, carrier, error);
                return None;
            }
        };
        if response.truncated() && carrier == Carrier::Datagram {
            // RFC 7766 §5: the same question to the same server over TCP. Should TCP fail, a cut answer beats none.
            self.keep(number, response);
            let no_tcp = self.server(number).state_of(Carrier::Stream).suspected();
            if no_tcp && self.plan.has_unasked() {
                self.attempts[number].no_answer = NoAnswer::NoStream;
                self.plan.failed(number, TryFailure::Declined);
                return None;
            }
            self.plan.goes_on(number, now);
            self.send(number, Carrier::Stream, edns, now);
            return None;
        }
        if let Some(failed) = self.condemned(number, &response) {
            self.won(number, response, now);
            return Some(Err(failed));
        }
        let recursion = self.question.question().recursion_desired;
        match (response.kind(), response.rcode()) {
            (Kind::Positive | Kind::Negative, _) => {
                return Some(Ok(self.won(number, response, now)));
            }
            (Kind::Referral, _) if !recursion => return Some(Ok(self.won(number, response, now))),
            (Kind::Failure, rcode::FORMERR) if edns == UpstreamEdns::Sent => {
                // RFC 6891 §7: it may not know EDNS.
                self.plan.goes_on(number, now);
                self.send(number, carrier, UpstreamEdns::Omitted, now);
                return None;
            }
            (Kind::Referral, _) => self.attempts[number].no_answer = NoAnswer::Referral,
            (Kind::Failure, code) => self.attempts[number].no_answer = NoAnswer::Code(code),
        }
        self.plan.failed(number, TryFailure::Declined);
        self.keep(number, response);
        None
    }

    /// The failure that a validator's verdict is, for clients that leave the checking to it. A server that does not
    /// validate would give them what was found forged.
    fn condemned(&self, number: usize, response: &Response) -> Option<Failed> {
        let verdict = response.verdict()?;
        let group = self.groups[self.tier(number)];
        if response.rcode() != rcode::SERVFAIL
            || group.bogus != Bogus::Final
            || self.question.question().checking_disabled
        {
            return None;
        }
        let (name, label, text) = (&group.name, &self.server(number).label, &verdict.text);
        let why = if text.is_empty() { "" } else { ": " };
        let text = format!("{name}: {label} found the answer bogus{why}{text}");
        let others = PassedOn::of(response.view().errors()).without(verdict.code);
        let error = ExtendedError::new(verdict.code, &text).with_servers(others);
        let code = rcode::SERVFAIL;
        Some(Failed { code, error })
    }

    fn lost(&mut self, number: usize, carrier: Carrier, error: TryError) {
        let (no_answer, how) = match error {
            TryError::Malformed => (NoAnswer::Malformed, TryFailure::Declined),
            TryError::Broken => (NoAnswer::Broken, TryFailure::Declined),
            // A server that takes no TCP for a truncated answer is still there for UDP.
            TryError::Unreachable if carrier != self.server(number).carrier() => {
                (NoAnswer::Unreachable, TryFailure::Declined)
            }
            TryError::Unreachable => (NoAnswer::Unreachable, TryFailure::Unreachable),
        };
        self.attempts[number].no_answer = no_answer;
        self.plan.failed(number, how);
    }

    /// The question is settled: tells every server what that says of it.
    fn won(&mut self, number: usize, response: Response, now: Instant) -> Answer {
        self.mailbox.settle();
        if self.attempts[number].why == Why::Hedge {
            self.groups[0].extra.hedge_won();
        }
        if self.attempts[number].why != Why::Turn {
            self.groups[0].metrics.hedges_won.inc();
        }
        for (other, attempt) in self.attempts.iter().enumerate() {
            let server = self.server(other);
            let same_view = server.group == self.server(number).group;
            // What did not leave this host, or was cut off, says nothing of the server.
            if same_view && !matches!(attempt.no_answer, NoAnswer::Nothing | NoAnswer::Broken) {
                server.refused_alone(attempt.carrier, now);
            }
        }
        let tier = self.tier(number);
        Answer { response, tier }
    }

    /// Keeps the best of what is no final answer.
    fn keep(&mut self, number: usize, response: Response) {
        fn rank(response: &Response) -> u8 {
            match (response.truncated(), response.kind(), response.rcode()) {
                (true, _, _) => 4,
                (_, Kind::Referral, _) => 3,
                (_, _, rcode::SERVFAIL) => 2,
                (_, _, rcode::REFUSED) => 1,
                _ => 0,
            }
        }
        self.errors.add(response.view().errors());
        if self
            .fallback
            .as_ref()
            .is_none_or(|kept| rank(&kept.response) < rank(&response))
        {
            let tier = self.tier(number);
            self.fallback = Some(Answer { response, tier });
        }
    }

    fn give_up(&mut self) -> Result<Answer, Failed> {
        match self.fallback.take() {
            Some(answer)
                if answer.response.truncated() || answer.response.kind() == Kind::Referral =>
            {
                Ok(answer)
            }
            answer => {
                // Only when all say the same is it more than a failure.
                let code = answer.map_or(rcode::SERVFAIL, |answer| answer.response.rcode());
                let agreed = self
                    .attempts
                    .iter()
                    .all(|a_try| a_try.no_answer == NoAnswer::Code(code));
                let code = if agreed { code } else { rcode::SERVFAIL };
                Err(Failed {
                    code,
                    error: self.explain(),
                })
            }
        }
    }

    /// What each server did, by group: `vpc: 10.1.0.251 timed out, 10.0.0.2 refused`.
    fn explain(&self) -> ExtendedError {
        let mut unreachable = true;
        let mut of_server = |server: &Server| {
            let last = (0..self.attempts.len())
                .rev()
                .find(|&number| std::ptr::eq(self.server(number), server))
                .map(|number| self.attempts[number].no_answer);
            unreachable &= last == Some(NoAnswer::Unreachable);
            let did = match (last, server.state()) {
                (Some(no_answer), _) => no_answer.text(),
                (None, State::Down) => "is down",
                (None, _) => "was not asked",
            };
            format!("{} {did}", server.label)
        };
        let mut of_group = |group: &&Group| {
            let servers: Vec<String> = group
                .servers
                .iter()
                .map(|server| of_server(server))
                .collect();
            format!("{}: {}", group.name, servers.join(", "))
        };
        let groups: Vec<String> = self.groups.iter().map(&mut of_group).collect();
        let code = if unreachable {
            ede::NETWORK_ERROR
        } else {
            ede::NO_REACHABLE_AUTHORITY
        };
        ExtendedError::new(code, &groups.join("; ")).with_servers(self.errors.clone())
    }
}
