//! Sends probes, in one task of the process. At most one health probe is in flight for a server and transport, beside late
//! ones: these have counted as lost already, but an answer to them still counts.
//!
//! Owns the sending of probes, their results, and the search for a form of queries that a server accepts. The rules are
//! those of [`super::health`] and [`super::tolerance`].

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Query;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Upstreams;
use super::group::Group;
use super::health::{LostProbe, Reason, State};
use super::loops::{self, LoopNames};
use super::probe_exchange::ask;
use super::server::Server;
use super::tolerance::Refusal;
use crate::config::Probe;
use crate::message::form::{QueryForm, may_refuse_probes_form};
use crate::net::open::shortage;
use crate::runtime;
use crate::runtime::timeout::timeout;
use crate::transport::Carrier;

/// How long the task sleeps at most.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// A question with OPT counts as unanswered after twice the time that an answer without OPT took, and this time in addition.
const SILENCE: Duration = Duration::from_millis(50);

/// How many times more, after the first, a question must be answered without OPT and not with OPT, before this is taken for
/// the server's doing. Where half of all queries are lost, chance alone does this to one probe in 8,000. With one time more,
/// it would be one in 30: within a minute, a server would lose EDNS by chance, for a quarter of an hour.
const SILENCE_CONFIRMED: u32 = 5;

/// Sends probes when they are due, until the sender of configurations is dropped. `started` is called once the first probes
/// were started.
pub async fn run(
    mut configured: watch::Receiver<Arc<Upstreams>>,
    loop_names: Arc<LoopNames>,
    started: impl FnOnce(),
) {
    let mut started = Some(started);
    let mut probes = JoinSet::new();
    let mut upstreams = configured.borrow_and_update().clone();
    let mut loop_checks = LoopChecks::default();
    loop {
        let now = runtime::now();
        let mut next = now + MAX_SLEEP;
        for group in &upstreams.groups {
            for server in &group.servers {
                next = next.min(send_due(group, server, &mut probes, now));
                if loop_checks.is_due(server, now) {
                    let (zone, names) = (group.zone.clone(), Arc::clone(&loop_names));
                    probes.spawn(loops::check(zone, names, Arc::clone(server)));
                }
            }
        }
        if let Some(started) = started.take() {
            started();
        }
        tokio::select! {
            biased;
            () = sleep_until(next.into()) => {}
            () = upstreams.probe_wanted.notified() => {}
            Some(_) = probes.join_next(), if !probes.is_empty() => {}
            changed = configured.changed() => {
                if changed.is_err() {
                    return;
                }
                upstreams = configured.borrow_and_update().clone();
                loop_checks.keep_only(&upstreams);
            }
        }
    }
}

/// When each server is next checked for a loop. The key is the server's address in memory, which stays the same for as long
/// as the server is configured.
#[derive(Debug, Default)]
struct LoopChecks(HashMap<usize, Instant>);

impl LoopChecks {
    /// Whether a server is to be checked now. If so, sets the time of its next check.
    fn is_due(&mut self, server: &Arc<Server>, now: Instant) -> bool {
        let due = self.0.entry(Arc::as_ptr(server).addr()).or_insert(now);
        let is_due = *due <= now;
        if is_due {
            *due = now + loops::interval(server);
        }
        is_due
    }

    fn keep_only(&mut self, upstreams: &Upstreams) {
        let servers = upstreams.servers.iter();
        let there: Vec<usize> = servers.map(|server| Arc::as_ptr(server).addr()).collect();
        self.0.retain(|server, _| there.contains(server));
    }
}

/// Sends a server's probes that are due. Returns when to look for due probes again.
fn send_due(
    group: &Group,
    server: &Arc<Server>,
    probes: &mut JoinSet<()>,
    now: Instant,
) -> Instant {
    let mut next = now + MAX_SLEEP;
    match server.form_trial_due() {
        Some(due) if due <= now && !server.looped() => {
            server.form_trial_sent(now);
            probes.spawn(try_form_anew(group.probe.clone(), Arc::clone(server)));
        }
        Some(due) if due > now => next = next.min(due),
        _ => {}
    }
    for carrier in probed_carriers(server) {
        match server.probe_due(carrier) {
            Some(due) if due <= now => {
                server.probe_sent(carrier);
                probes.spawn(probe(group.probe.clone(), Arc::clone(server), carrier));
            }
            Some(due) => next = next.min(due),
            None => {}
        }
    }
    next
}

/// The transports that are probed: the one that queries use at first, and TCP beside UDP once its state is known. None for a
/// server that loops.
fn probed_carriers(server: &Server) -> impl Iterator<Item = Carrier> {
    let first = server.carrier();
    let looped = server.looped();
    [Carrier::Datagram, Carrier::Stream]
        .into_iter()
        .filter(move |&carrier| {
            !looped
                && (carrier == first || server.state_of(carrier) != State::Unknown)
                && (carrier == Carrier::Stream || first == Carrier::Datagram)
        })
}

/// Sends one health probe. Any response shows that the server is alive, and may show which form of queries it accepts.
async fn probe(asks: Probe, server: Arc<Server>, carrier: Carrier) {
    let sent = runtime::now();
    let prober = Prober {
        question: Query::query(asks.name, asks.record_type),
        server,
        carrier,
    };
    let server = &prober.server;
    let mut answered = pin!(prober.first_heard());
    let mut patience = server.probe_patience(carrier);
    let mut answer = timeout(patience, answered.as_mut()).await;
    // Meanwhile, the answer to an earlier probe may have shown that the server takes longer.
    let longer = server.probe_patience(carrier);
    if answer.is_err() && longer > patience {
        answer = timeout(longer.saturating_sub(patience), answered.as_mut()).await;
        patience = longer;
    }
    let now = runtime::now();
    let is_late = answer.is_err();
    let reason = match answer {
        Ok(Ok(heard)) => {
            server.probe_answered(carrier, now, heard.rtt);
            return prober.learn_from(heard).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(server = %server.label, %error, "probe failed");
            if shortage(&error).is_some() {
                return server.probe_not_sent(carrier, now);
            }
            match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::PermissionDenied => Reason::Unreachable,
                _ => Reason::ProbeLost,
            }
        }
        Err(_) => Reason::ProbeLost,
    };
    let jitter = fastrand::f64();
    let lost = LostProbe {
        sent,
        reason,
        jitter,
    };
    server.probe_lost(carrier, now, lost);
    // A server whose answers take longer than a try may take is still of use to queries in flight, which wait for them.
    if is_late
        && let Ok(Ok(heard)) =
            timeout(server.late_patience().saturating_sub(patience), answered).await
    {
        server.probe_answered_late(carrier, runtime::now(), heard.rtt);
        prober.learn_from(heard).await;
    }
}

/// Tries the whole form again at a server that refused it.
async fn try_form_anew(asks: Probe, server: Arc<Server>) {
    let prober = Prober {
        question: Query::query(asks.name, asks.record_type),
        carrier: server.carrier(),
        server,
    };
    let server = &prober.server;
    let asked = timeout(server.try_timeout, prober.ask(QueryForm::Full));
    // No answer proves nothing: what was learnt holds.
    if let Ok(Sent { form, answer, rtt }) = asked.await
        && let Ok(code) = answer
    {
        if may_refuse_probes_form(code) {
            prober
                .learn_from(ProbeAnswer {
                    form,
                    code,
                    rtt,
                    silent: None,
                })
                .await;
        } else {
            server.forget_form();
        }
    }
}

/// Asks one server a probe's question, in different forms.
#[derive(Clone)]
struct Prober {
    question: Query,
    server: Arc<Server>,
    carrier: Carrier,
}

/// The result of one question.
struct Sent {
    form: QueryForm,
    answer: io::Result<u16>,
    rtt: Duration,
}

/// The first answer to a probe.
struct ProbeAnswer {
    form: QueryForm,
    code: u16,
    rtt: Duration,
    /// Questions with OPT that were sent no later and have no answer yet, if this answer is to one without OPT.
    silent: Option<JoinSet<Sent>>,
}

impl Prober {
    async fn ask(&self, form: QueryForm) -> Sent {
        let sent = runtime::now();
        let answer = ask(&self.server, self.carrier, self.question.clone(), form).await;
        Sent {
            form,
            answer,
            rtt: runtime::since(sent),
        }
    }

    /// Sends the question in all these forms at once.
    fn ask_all(&self, forms: &[QueryForm], asked: &mut JoinSet<Sent>) {
        for &form in forms {
            let prober = self.clone();
            asked.spawn(async move { prober.ask(form).await });
        }
    }

    /// Sends the question, and waits for any answer. If that takes long and the server may be silent to OPT, sends it
    /// without OPT, too.
    async fn first_heard(&self) -> io::Result<ProbeAnswer> {
        let (form, server) = (self.server.form(), &self.server);
        // A server that answers clients' queries is not silent to OPT.
        let state = server.state_of(self.carrier);
        let may_be_silent = state.suspected() || state == State::Unknown;
        let mut asked = JoinSet::new();
        self.ask_all(&[form], &mut asked);
        let mut first = None;
        if form.has_opt() && may_be_silent {
            match timeout(server.try_timeout / 4, asked.join_next()).await {
                Ok(answered) => first = answered,
                Err(_) => self.ask_all(&[form, form.without_opt()], &mut asked),
            }
        }
        if first.is_none() {
            first = asked.join_next().await;
        }
        let Some(Ok(Sent { form, answer, rtt })) = first else {
            return Err(io::ErrorKind::Interrupted.into());
        };
        let silent = (!asked.is_empty() && !form.has_opt()).then_some(asked);
        let code = answer?;
        Ok(ProbeAnswer {
            form,
            code,
            rtt,
            silent,
        })
    }

    /// Finds the form that the server accepts, and remembers it.
    async fn learn_from(&self, heard: ProbeAnswer) {
        let server = &self.server;
        if let Some(silent) = heard.silent {
            if self.is_silent_to_opt(heard.form, heard.rtt, silent).await {
                server.learn_form(heard.form, Refusal::Silence, runtime::now());
            }
            return;
        }
        let (mut form, mut code) = (heard.form, heard.code);
        let refusal = Refusal::of(code);
        while let Some(next) = form.after_probe(code) {
            let sent = timeout(server.try_timeout, self.ask(next)).await;
            let Ok(Ok(answered)) = sent.map(|sent| sent.answer) else {
                return;
            };
            (form, code) = (next, answered);
        }
        // If the server refuses the probe's question in every form, this says nothing about other questions.
        if form != heard.form && !may_refuse_probes_form(code) {
            server.learn_form(form, refusal, runtime::now());
        }
    }

    /// A question was answered without OPT after `rtt`, and those in `silent`, with OPT, were not. Asks again several times,
    /// and returns whether the result is always the same, so that it is no chance.
    async fn is_silent_to_opt(
        &self,
        without_opt: QueryForm,
        mut rtt: Duration,
        mut silent: JoinSet<Sent>,
    ) -> bool {
        let with_opt = match without_opt {
            QueryForm::Plain => QueryForm::WithoutAd,
            _ => QueryForm::Full,
        };
        for _ in 0..SILENCE_CONFIRMED {
            if !stays_silent(&mut silent, rtt).await {
                return false;
            }
            self.ask_all(&[without_opt, with_opt], &mut silent);
            match timeout(self.server.try_timeout, first_answered(&mut silent)).await {
                Ok(Some(answered)) if answered.form == without_opt => rtt = answered.rtt,
                _ => return false,
            }
        }
        stays_silent(&mut silent, rtt).await
    }
}

/// Whether none of `asked` is answered within twice `rtt`, the time of another question's answer, and [`SILENCE`].
async fn stays_silent(asked: &mut JoinSet<Sent>, rtt: Duration) -> bool {
    let answered = timeout(rtt * 2 + SILENCE, first_answered(asked)).await;
    !matches!(answered, Ok(Some(_)))
}

/// The first of `asked` that is answered; None if all end without an answer.
async fn first_answered(asked: &mut JoinSet<Sent>) -> Option<Sent> {
    while let Some(ended) = asked.join_next().await {
        if let Ok(sent) = ended
            && sent.answer.is_ok()
        {
            return Some(sent);
        }
    }
    None
}
