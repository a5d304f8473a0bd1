//! Asks a route's groups one question until a server answers: runs a [`Plan`] over a worker's own transports.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::extra::Extra;
use super::group::{self, Group};
use super::plan::{Plan, Step, TryFailure};
use super::server::Server;
use super::tolerance::Refusal;
use super::{Upstreams, health::State};
use crate::config::Bogus;
use crate::message::ede::{self, ExtendedError, PassedOn};
use crate::message::form::{QueryForm, may_refuse_form};
use crate::message::response::{Kind, Response};
use crate::message::wire::{flag, rcode};
use crate::runtime;
use crate::runtime::Turns;
use crate::runtime::timeout::read_what_arrived;
use crate::transport::stream::StreamPool;
use crate::transport::udp::{Port, Shared, UdpPool};
use crate::transport::{Carrier, Delivery, Exchange, SharedQuestion, TryError};

/// How long a question that UDP answered with TC may wait for an answer over TCP, if `try_timeout` is longer. Then a server
/// that has UDP only is found out before the client asks again.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// After so many tries at a server without an answer, long answers may be what is lost: firewalls and links are known to
/// drop datagrams of more than 512 octets, or fragments of them. Further queries ask for short answers (RFC 6891 §6.2.5), so
/// that the server sets TC.
const LONG_ANSWERS_LOST: usize = 2;

/// How long other servers may take to give the whole answer, after one server gave a truncated answer and cannot be asked
/// over TCP. A server that is asked later has as long from then.
const CUT_PATIENCE: Duration = Duration::from_millis(200);

/// One worker's transports to every server of a configuration.
pub struct Links {
    by_server: Vec<Rc<Link>>,
    shared: Shared,
}

struct Link {
    server: Arc<Server>,
    udp: UdpPool,
    stream: StreamPool,
}

impl Links {
    /// Opens nothing before the first query. Sockets to servers that `previous` has, too, stay open. All servers together
    /// get about `sockets` of them.
    #[must_use]
    pub fn new(
        upstreams: &Upstreams,
        previous: Option<&Self>,
        sockets: usize,
        turns: &Turns,
    ) -> Self {
        let shared = previous.map_or_else(
            || Shared::new(turns, &upstreams.network),
            |old| old.shared.clone(),
        );
        shared.share_out(sockets, upstreams.servers.len());
        let link = |server: &Arc<Server>| {
            let same = |link: &&Rc<Link>| Arc::ptr_eq(&link.server, server);
            let known = previous.and_then(|old| old.by_server.iter().find(same).cloned());
            known.unwrap_or_else(|| {
                let peer = Rc::new(server.peer());
                Rc::new(Link {
                    server: Arc::clone(server),
                    udp: UdpPool::new(Rc::clone(&peer), shared.clone()),
                    stream: StreamPool::new(peer, shared.clone()),
                })
            })
        };
        let by_server = upstreams.servers.iter().map(link).collect();
        Self { by_server, shared }
    }

    /// Ends queries whose time is over, and closes sockets that are no longer usable. To be called from time to time.
    pub fn sweep(&self, now: Instant) {
        for link in &self.by_server {
            link.udp.sweep(now);
            link.stream.sweep(now);
        }
    }

    fn send(
        &self,
        server: usize,
        carrier: Carrier,
        exchange: Exchange,
        before: Option<Instant>,
        now: Instant,
    ) -> Option<Weak<Port>> {
        match carrier {
            Carrier::Datagram => self.by_server[server].udp.send(exchange, before, now),
            Carrier::Stream => {
                self.by_server[server].stream.send(exchange, now);
                None
            }
        }
    }
}

/// A response, and the server that gave it.
#[derive(Debug)]
pub struct Answer {
    /// The response.
    pub response: Response,
    /// The tier: index of the server's group among those of the route.
    pub tier: usize,
    /// Index of the server among those of [`Upstreams`]. None if no server gave the response.
    pub server: Option<u32>,
    /// The query left this host no earlier than at this time.
    pub asked: Instant,
}

/// No server gave a usable answer.
#[derive(Debug)]
pub struct Failed {
    /// The response code of the reply: the one that all servers gave, or SERVFAIL.
    pub code: u16,
    /// The reason, with the names of the servers.
    pub error: ExtendedError,
}

/// Why a try has no final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoAnswer {
    /// Nothing came so far, and the try goes on.
    Nothing,
    Code(u16),
    Referral,
    /// See [`Response::is_lame`].
    Lame,
    Malformed,
    HttpStatus(u16),
    Unreachable,
    Closed,
    /// The query could not be sent.
    Broken,
    Forged,
    /// The answer over UDP was truncated or in doubt, and the server does not answer over TCP.
    NoStream,
}

impl NoAnswer {
    fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::HttpStatus(status) => {
                return format!("answered with HTTP status {status}").into();
            }
            Self::Nothing => "timed out",
            Self::Code(rcode::SERVFAIL) => "failed (SERVFAIL)",
            Self::Code(rcode::REFUSED) => "refused",
            Self::Code(rcode::NOTIMP) => "not implemented (NOTIMP)",
            Self::Code(rcode::FORMERR) => "did not understand (FORMERR)",
            Self::Code(_) => "answered with an unusual code",
            Self::Referral => "does not resolve (referral)",
            Self::Lame => "does not resolve (lame)",
            Self::Malformed => "answered garbage",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed the connection",
            Self::Broken => "could not be asked",
            Self::Forged => "was drowned out by forged responses",
            Self::NoStream => "gave no whole answer over UDP, and cannot be asked over TCP",
        };
        text.into()
    }
}

/// The host names of a group's servers that have no address yet, each with the reason.
fn unresolved(group: &Group) -> impl Iterator<Item = String> {
    let hosts = group.hosts.iter().filter(|host| host.addresses.is_empty());
    hosts.map(|host| match host.failure() {
        None => format!("{} is being resolved", host.name),
        Some(failure) => format!("{} cannot be resolved ({failure})", host.name),
    })
}

/// The state of one try.
struct Attempt {
    no_answer: NoAnswer,
    carrier: Carrier,
    port: Option<Weak<Port>>,
    /// The query that was answered last left this host no earlier than at this time.
    left: Instant,
    why: Why,
    /// How the server refused the question in an earlier form.
    refusal: Option<Refusal>,
    /// After TC: when the question was sent over TCP.
    stream_sent: Option<Instant>,
}

impl Attempt {
    fn waits_for_stream(&self) -> bool {
        self.no_answer == NoAnswer::Nothing && self.stream_sent.is_some()
    }
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
    /// All earlier tries have failed, and a server is asked again.
    Again,
}

/// The lookup of one question in the groups of its route.
struct Lookup<'a> {
    links: &'a Links,
    upstreams: &'a Upstreams,
    groups: SmallVec<[&'a Group; 2]>,
    question: &'a Rc<SharedQuestion>,
    plan: Plan,
    /// By the number of the plan's try.
    attempts: SmallVec<[Attempt; 2]>,
    /// The best response so far that is no final answer.
    fallback: Option<Answer>,
    /// Whether the route's only server has failed and was asked once more.
    asked_once_more: bool,
    /// Whether the plan asks an unreachable server again until it answers. Tries sent to it in vain do not show that loss is
    /// general.
    awaits_return: bool,
    /// Extended errors of responses that were no final answers.
    errors: PassedOn,
    /// A server that cannot be asked over TCP gave a truncated answer: until when other servers may give the whole one.
    cut_until: Option<Instant>,
    /// Whether a client over TCP waits, which cannot use a truncated answer.
    wants_whole: &'a Cell<bool>,
}

/// Asks the groups in turn until one of their servers gives a final answer, or the first group's deadline is near.
/// `wants_whole` tells whether a client waits that cannot use a truncated answer.
///
/// # Errors
/// [`Failed`], with the reason, if no server gave such an answer.
pub async fn ask(
    links: &Links,
    upstreams: &Upstreams,
    tiers: &[usize],
    (question, wants_whole): (&Rc<SharedQuestion>, &Cell<bool>),
    now: Instant,
) -> Result<Answer, Failed> {
    let groups: SmallVec<[&Group; 2]> = tiers.iter().map(|&tier| &upstreams.groups[tier]).collect();
    let plan = group::plan(&groups, now, now + groups[0].budget());
    let (attempts, fallback) = (SmallVec::new(), None);
    // Runs by reference: a future that takes `lookup` by value would store it twice.
    let mut lookup = Lookup {
        links,
        upstreams,
        groups,
        question,
        plan,
        attempts,
        fallback,
        asked_once_more: false,
        awaits_return: false,
        errors: PassedOn::default(),
        cut_until: None,
        wants_whole,
    };
    // The question's place in the first server's schedule is taken now, so that later questions get later places.
    let first = lookup.plan.first();
    let wait = first.map(|first| upstreams.servers[first].rate.take(now));
    match wait.filter(|wait| !wait.is_zero()) {
        None => lookup.run(now).await,
        Some(wait) => {
            lookup.links.shared.turns.until(now + wait).await;
            lookup.run(runtime::now()).await
        }
    }
}

/// The tier of a server: the index of its group. Compares servers by pointer, because two groups may have servers with the
/// same address.
fn tier_of(server: &Server, groups: &[&Group]) -> usize {
    let is_it = |one: &Arc<Server>| std::ptr::eq(Arc::as_ptr(one), server);
    let holds = |group: &&Group| group.servers.iter().any(is_it);
    groups.iter().position(holds).unwrap_or_default()
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.question.mailbox().close();
    }
}

impl Lookup<'_> {
    async fn run(&mut self, now: Instant) -> Result<Answer, Failed> {
        // None after a wait.
        let mut known = Some(now);
        loop {
            // Takes all deliveries before the next step, even those that are still in their sockets. Otherwise a failure
            // that arrived together with a final answer could end the lookup first.
            while let Some(delivery) = self.question.mailbox().take() {
                if let Some(outcome) = self.weigh(delivery) {
                    return outcome;
                }
                read_what_arrived().await;
            }
            let now = known.take().unwrap_or_else(runtime::now);
            self.give_up_streams(now);
            if let Some(cut) = self.cut_answer(now) {
                return Ok(cut);
            }
            let servers = &self.upstreams.servers;
            let taken = Cell::new(None);
            let on_streams = self.asked_over_streams(now);
            let step = self.plan.step(
                now,
                |server| servers[server].state().suspected(),
                |server, extra| {
                    let asked = on_streams.contains(&server);
                    let server = &*servers[server];
                    let group = self.groups[tier_of(server, &self.groups)];
                    let may =
                        !asked && server.rate.wait(now).is_zero() && group.extra.take(extra, now);
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
                        Some(Extra::Replacement | Extra::AnotherServer) if hedge => {
                            Why::Replacement
                        }
                        Some(Extra::Replacement) if self.nobody_answered() => Why::Again,
                        _ => Why::Turn,
                    };
                    self.start(number, server, why, now);
                    known = Some(now);
                }
                Step::Overdue(number) => {
                    self.overdue(number, now);
                    known = Some(now);
                }
                Step::Wait(until) => {
                    let until = self.wake_at(until, now);
                    // With or without a delivery, the loop computes the next step anew.
                    let filled = self.question.mailbox().filled();
                    let _ = self.links.shared.turns.timeout_at(until, filled).await;
                }
                Step::Exhausted if self.waits_for_return(now) => known = Some(now),
                Step::Exhausted => return self.give_up(),
            }
        }
    }

    /// Servers over TCP, TLS or HTTPS that were sent the question too short a time ago to be sent it again: a stream loses no
    /// query. After half of `try_timeout` the connection may be dead, and the next query leaves on another.
    fn asked_over_streams(&self, now: Instant) -> SmallVec<[usize; 2]> {
        let is_recent = |number: &usize| {
            let server = self.server(*number);
            server.carrier() == Carrier::Stream
                && self.attempts[*number].no_answer == NoAnswer::Nothing
                && now < self.plan.sent(*number) + server.try_timeout / 2
        };
        let recent = (0..self.attempts.len()).filter(is_recent);
        recent.map(|number| self.plan.server(number)).collect()
    }

    /// Whether all tries so far have ended without a final answer.
    fn nobody_answered(&self) -> bool {
        let mut attempts = self.attempts.iter();
        attempts.all(|attempt| attempt.no_answer != NoAnswer::Nothing)
    }

    /// No server is left to ask, and no response gave a reason for the failure. If a server may answer again soon, the plan
    /// asks it again from time to time. That is a server that answered until lately and cannot be reached, such as a Service
    /// whose endpoints are being replaced, or a server that has answered other questions since it was asked this one.
    /// Returns false if there is none.
    fn waits_for_return(&mut self, now: Instant) -> bool {
        if self.fallback.is_some() {
            return false;
        }
        let asked = |number| (self.plan.server(number), self.plan.sent(number));
        let returns = (0..self.attempts.len())
            .map(asked)
            .filter(|&(server, _)| !self.plan.has_declined(server))
            .filter_map(|(server, sent)| {
                let until = self.upstreams.servers[server].bridged_until(sent)?;
                Some((until, server))
            })
            .max();
        let Some((until, server)) = returns else {
            return false;
        };
        self.awaits_return = self.upstreams.servers[server].cannot_be_reached();
        self.plan.wait_for_return(server, until, now)
    }

    fn server(&self, number: usize) -> &Server {
        &self.upstreams.servers[self.plan.server(number)]
    }

    fn start(&mut self, number: usize, server: usize, why: Why, now: Instant) {
        let carrier = self.upstreams.servers[server].carrier();
        if matches!(why, Why::Hedge | Why::Replacement) {
            let server = &self.upstreams.servers[server];
            let group = self.groups[tier_of(server, &self.groups)];
            group.metrics.hedges_sent.inc();
        }
        if !self.attempts.is_empty() {
            // `ask` took the place of the first try.
            let _ = self.upstreams.servers[server].rate.take(now);
        }
        self.attempts.push(Attempt {
            no_answer: NoAnswer::Nothing,
            carrier,
            port: None,
            left: now,
            why,
            refusal: None,
            stream_sent: None,
        });
        if self.earlier_tries(number).next().is_none()
            && let Some(until) = &mut self.cut_until
        {
            *until = (*until).max(now + CUT_PATIENCE);
        }
        let form = self.upstreams.servers[server].form();
        self.send(number, carrier, form, now);
    }

    fn send(&mut self, number: usize, carrier: Carrier, form: QueryForm, now: Instant) {
        let mut exchange = Exchange::new(self.question, number, form, now);
        let mut before = None;
        if carrier == Carrier::Datagram && number > 0 {
            let first = self.earlier_tries(number).next();
            before = first.map(|first| self.plan.sent(first));
            if self.earlier_tries(number).count() >= LONG_ANSWERS_LOST {
                exchange = exchange.with_least_payload();
            }
        }
        self.attempts[number].carrier = carrier;
        self.attempts[number].port =
            self.links
                .send(self.plan.server(number), carrier, exchange, before, now);
    }

    /// The earlier tries at the server of this one.
    fn earlier_tries(&self, number: usize) -> impl Iterator<Item = usize> {
        let server = self.plan.server(number);
        (0..number).filter(move |&earlier| self.plan.server(earlier) == server)
    }

    fn overdue(&mut self, number: usize, now: Instant) {
        let attempt = &self.attempts[number];
        if attempt.waits_for_stream() {
            // The server has answered over UDP. `give_up_streams` limits the time for TCP.
            return;
        }
        let server = self.server(number);
        let sent = self.plan.sent(number);
        server.overdue(attempt.carrier, now, sent, self.question.name_hash());
        // Behind kube-proxy, another source port may lead to another endpoint. If the server is down, no port leads to one.
        if let Some(port) = attempt.port.as_ref().and_then(Weak::upgrade)
            && server.state_of(attempt.carrier) != State::Down
        {
            port.overdue(sent);
        }
    }

    /// The tier of a try's server.
    fn tier(&self, number: usize) -> usize {
        tier_of(self.server(number), &self.groups)
    }

    /// Handles a delivery. Returns the outcome of the lookup, if the delivery decides it.
    fn weigh(&mut self, delivery: Delivery) -> Option<Result<Answer, Failed>> {
        let Delivery {
            number,
            carrier,
            form,
            result,
            left,
            at: now,
        } = delivery;
        self.attempts[number].left = left;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(next) = self.form_after_garbage(number, form, error, now) {
                    self.plan.goes_on(number, now);
                    self.send(number, carrier, next, now);
                } else if error == TryError::Forged && !self.no_stream(number) {
                    // Over TCP, an attacker would have to guess more than an ID.
                    self.ask_over_stream(number, form, now);
                } else {
                    self.lost(number, carrier, error, now);
                }
                return None;
            }
        };
        let answered = matches!(response.kind(), Kind::Positive | Kind::Negative);
        if (answered || response.truncated())
            && let Some(refusal) = self.attempts[number].refusal.take()
            // Some servers know OPT and refuse only the DO bit in it. Queries without DO must not lose OPT because of them.
            && !self.question.question().dnssec_ok
        {
            self.server(number).learn_form(form, refusal, now);
        }
        if response.truncated() && carrier == Carrier::Datagram {
            self.keep(number, response);
            self.ask_over_stream(number, form, now);
            return None;
        }
        if let Some(failed) = self.condemned(number, &response) {
            self.won(number, response, now);
            return Some(Err(failed));
        }
        let recursion = self.question.question().recursion_desired;
        match (response.kind(), response.rcode()) {
            (Kind::Negative, _) if recursion && response.is_lame() => {
                self.attempts[number].no_answer = NoAnswer::Lame;
            }
            (Kind::Positive | Kind::Negative, _) => {
                return Some(Ok(self.won(number, response, now)));
            }
            (Kind::Referral, _) if !recursion => return Some(Ok(self.won(number, response, now))),
            (Kind::Failure, code) if may_refuse_form(code) => {
                if let Some(next) = self.form_after(number, form, code, now) {
                    self.plan.goes_on(number, now);
                    self.send(number, carrier, next, now);
                    return None;
                }
                self.attempts[number].no_answer = NoAnswer::Code(code);
            }
            (Kind::Referral, _) => self.attempts[number].no_answer = NoAnswer::Referral,
            (Kind::Failure, rcode::SERVFAIL) if self.may_ask_once_more(number, &response, now) => {
                self.asked_once_more = true;
                self.plan.goes_on(number, now);
                self.send(number, carrier, form, now);
                return None;
            }
            (Kind::Failure, code) => self.attempts[number].no_answer = NoAnswer::Code(code),
        }
        self.plan.failed(number, TryFailure::Declined);
        if carrier != self.server(number).carrier() {
            self.stream_ended(number, now);
        }
        self.keep(number, response);
        None
    }

    /// The failure to report if the response is a validator's verdict that the answer is bogus. No other server is asked
    /// then: one that does not validate would give the client the bogus answer. None if the client set CD, or with `bogus:
    /// failover`.
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

    /// Whether the route's only server, which has failed at once, is asked once more. A stub resolver would ask it again,
    /// but gets our remembered failure instead. Behind kube-proxy, another source port may lead to another endpoint.
    fn may_ask_once_more(&self, number: usize, response: &Response, now: Instant) -> bool {
        let (server, attempt) = (self.server(number), &self.attempts[number]);
        let group = self.groups[0];
        let took = now.saturating_duration_since(self.plan.sent(number));
        let may = !self.asked_once_more
            && took < server.try_timeout / 2
            && self.groups.len() == 1
            && group.servers.len() == 1
            && response.verdict().is_none()
            && attempt.carrier == server.carrier()
            && server.rate.wait(now).is_zero()
            // A token of the hedges' own, so that names that fail do not use up the tokens for lost queries.
            && group.extra.take(Extra::Hedge, now);
        if may && let Some(port) = attempt.port.as_ref().and_then(Weak::upgrade) {
            port.failed_query();
        }
        may
    }

    /// The form in which a server is asked next, after it refused one. Nothing is learnt before an answer comes, because the
    /// server may refuse the question rather than the form.
    fn form_after(
        &mut self,
        number: usize,
        form: QueryForm,
        code: u16,
        now: Instant,
    ) -> Option<QueryForm> {
        let server = &self.upstreams.servers[self.plan.server(number)];
        let refusal = &mut self.attempts[number].refusal;
        match form.after(code) {
            Some(next) if server.may_ask_otherwise(now) => {
                refusal.get_or_insert(Refusal::of(code));
                Some(next)
            }
            _ => {
                if refusal.take().is_some() {
                    server.refused_in_every_form(now);
                }
                None
            }
        }
    }

    /// As `form_after`, after a message that cannot be read: some routers put OPT among the answers, in place of the
    /// address.
    fn form_after_garbage(
        &mut self,
        number: usize,
        form: QueryForm,
        error: TryError,
        now: Instant,
    ) -> Option<QueryForm> {
        if error != TryError::Malformed {
            return None;
        }
        let server = &self.upstreams.servers[self.plan.server(number)];
        let refusal = &mut self.attempts[number].refusal;
        if form.has_opt() && server.may_ask_otherwise(now) {
            refusal.get_or_insert(Refusal::Malformed);
            return Some(form.without_opt());
        }
        if refusal.take().is_some() {
            server.refused_in_every_form(now);
        }
        None
    }

    /// RFC 7766 §5: after a truncated answer over UDP, asks the same server over TCP. If TCP fails, a truncated answer is
    /// better than none.
    fn ask_over_stream(&mut self, number: usize, form: QueryForm, now: Instant) {
        if self.no_stream(number) {
            self.attempts[number].no_answer = NoAnswer::NoStream;
            self.plan.failed(number, TryFailure::Declined);
            self.cut_until.get_or_insert(now + CUT_PATIENCE);
            return;
        }
        self.plan.goes_on(number, now);
        let asked = (0..self.attempts.len()).find(|&other| {
            self.plan.server(other) == self.plan.server(number)
                && self.attempts[other].waits_for_stream()
        });
        if let Some(asked) = asked {
            // Another try has already asked this server over TCP. This one waits for the same answer.
            self.attempts[number].carrier = Carrier::Stream;
            self.attempts[number].port = None;
            self.attempts[number].stream_sent = self.attempts[asked].stream_sent;
            return;
        }
        self.attempts[number].stream_sent = Some(now);
        self.send(number, Carrier::Stream, form, now);
    }

    /// Whether the server of this try is known not to answer over TCP.
    fn no_stream(&self, number: usize) -> bool {
        self.server(number).state_of(Carrier::Stream).suspected()
    }

    /// The query over TCP has failed: ends all tries that wait for its answer.
    fn stream_ended(&mut self, number: usize, now: Instant) {
        self.cut_until.get_or_insert(now + CUT_PATIENCE);
        for other in 0..self.attempts.len() {
            if self.plan.server(other) == self.plan.server(number)
                && self.attempts[other].waits_for_stream()
            {
                self.attempts[other].no_answer = NoAnswer::NoStream;
                self.plan.failed(other, TryFailure::Declined);
            }
        }
    }

    /// Ends the tries whose time for TCP is over.
    fn give_up_streams(&mut self, now: Instant) {
        for number in 0..self.attempts.len() {
            let Some((sent, until)) = self.waits_for_stream_until(number) else {
                continue;
            };
            if until <= now {
                self.server(number).stream_unanswered(now, sent);
                self.stream_ended(number, now);
            }
        }
    }

    /// If the try waits for an answer over TCP after TC: since when, and until when.
    fn waits_for_stream_until(&self, number: usize) -> Option<(Instant, Instant)> {
        let attempt = &self.attempts[number];
        let sent = attempt.stream_sent.filter(|_| attempt.waits_for_stream())?;
        let patience = self.server(number).try_timeout.min(STREAM_PATIENCE);
        Some((sent, sent + patience))
    }

    /// The truncated answer of a server that cannot be asked over TCP, once no other server is expected to give the whole
    /// answer. Later tiers are not asked, because an earlier one has answered.
    fn cut_answer(&mut self, now: Instant) -> Option<Answer> {
        let until = self.cut_until?;
        if self.attempts.iter().any(Attempt::waits_for_stream) {
            return None;
        }
        let mut waiting = (0..self.attempts.len())
            .filter(|&number| self.attempts[number].no_answer == NoAnswer::Nothing)
            .peekable();
        let others = self.plan.has_unasked() || waiting.peek().is_some();
        if others && now < until {
            return None;
        }
        // A client over TCP has no other way to the answer. So each server has as long as before a later tier is asked.
        let had_its_chance = |number| {
            self.earlier_tries(number).next().is_some()
                || now >= self.plan.sent(number) + self.server(number).try_timeout
        };
        if self.wants_whole.get() && !waiting.all(had_its_chance) {
            return None;
        }
        self.fallback.take_if(|answer| answer.response.truncated())
    }

    /// When the lookup has something to do: at `until`, or earlier because of TCP or a truncated answer.
    fn wake_at(&self, until: Instant, now: Instant) -> Instant {
        let waiting = (0..self.attempts.len()).filter_map(|n| self.waits_for_stream_until(n));
        let streams = waiting.map(|(_, until)| until);
        let cut = self.cut_until.filter(|cut| *cut > now);
        streams.chain(cut).fold(until, Instant::min)
    }

    fn lost(&mut self, number: usize, carrier: Carrier, error: TryError, now: Instant) {
        let (no_answer, how) = match error {
            TryError::Malformed => (NoAnswer::Malformed, TryFailure::Declined),
            TryError::HttpStatus(status) => (NoAnswer::HttpStatus(status), TryFailure::Declined),
            TryError::Closed => (NoAnswer::Closed, TryFailure::Declined),
            TryError::Broken => (NoAnswer::Broken, TryFailure::Declined),
            TryError::Forged => (NoAnswer::Forged, TryFailure::Declined),
            // The server takes no TCP after a truncated answer, but is reached over UDP. Another source port would not help.
            TryError::Unreachable if carrier != self.server(number).carrier() => {
                (NoAnswer::Unreachable, TryFailure::Declined)
            }
            TryError::Unreachable => (NoAnswer::Unreachable, TryFailure::Unreachable),
        };
        self.attempts[number].no_answer = no_answer;
        self.plan.failed(number, how);
        if carrier != self.server(number).carrier() {
            self.stream_ended(number, now);
        }
    }

    /// The question is answered: gives back tokens of extra queries that were worth it, and reports the servers of the same
    /// group that refused or failed the question to their health.
    fn won(&mut self, number: usize, response: Response, now: Instant) -> Answer {
        self.question.mailbox().settle();
        let (why, group) = (self.attempts[number].why, self.groups[self.tier(number)]);
        if why == Why::Hedge {
            group.extra.hedge_won();
        }
        if matches!(why, Why::Hedge | Why::Replacement) {
            group.metrics.hedges_won.inc();
        }
        if why != Why::Turn && (self.awaits_return || self.server(number).is_reliable()) {
            group.extra.answered_by_a_reliable_server();
        }
        for (other, attempt) in self.attempts.iter().enumerate() {
            let server = self.server(other);
            let same_view = server.group == self.server(number).group;
            // A query that did not leave this host, or whose connection was closed, says nothing about the server.
            if same_view
                && !matches!(
                    attempt.no_answer,
                    NoAnswer::Nothing | NoAnswer::Closed | NoAnswer::Broken | NoAnswer::Forged
                )
            {
                server.refused_alone(attempt.carrier, now);
            }
        }
        self.answer(number, response)
    }

    fn answer(&self, number: usize, response: Response) -> Answer {
        Answer {
            response,
            tier: self.tier(number),
            server: u32::try_from(self.plan.server(number)).ok(),
            asked: self.attempts[number].left,
        }
    }

    /// Keeps the best response that is no final answer.
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
            self.fallback = Some(self.answer(number, response));
        }
    }

    fn give_up(&mut self) -> Result<Answer, Failed> {
        match self.fallback.take() {
            Some(answer)
                if answer.response.truncated() || answer.response.kind() == Kind::Referral =>
            {
                Ok(answer)
            }
            // There are servers that say "no such record" in this way. musl would fail the whole lookup after a SERVFAIL.
            Some(answer) if self.all_were_lame() => Ok(answer),
            answer => {
                // The client gets the code only if all servers gave it.
                let code = answer.map_or(rcode::SERVFAIL, |answer| answer.response.rcode());
                let agreed = self
                    .attempts
                    .iter()
                    .all(|a_try| a_try.no_answer == NoAnswer::Code(code));
                // RFC 6891 §6.1.3: codes beyond the header's four bits are about the hop between the server and us.
                let relayed = agreed && code <= flag::RCODE;
                let code = if relayed { code } else { rcode::SERVFAIL };
                Err(Failed {
                    code,
                    error: self.explain(),
                })
            }
        }
    }

    fn all_were_lame(&self) -> bool {
        let mut attempts = self.attempts.iter();
        attempts.all(|attempt| attempt.no_answer == NoAnswer::Lame)
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
                (None, State::Down) => "is down".into(),
                (None, _) => "was not asked".into(),
            };
            format!("{} {did}", server.label)
        };
        let mut of_group = |group: &&Group| {
            let servers: Vec<String> = group
                .servers
                .iter()
                .map(|server| of_server(server))
                .chain(unresolved(group))
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
