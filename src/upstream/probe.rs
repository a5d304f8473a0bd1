//! Probes: one task for the process, at most one health probe in flight for a server and transport.
//!
//! Owns the sockets of probes (hickory's UDP exchange; streams as [`crate::transport`] frames them), and the names by
//! which our own loop probes are known again should an upstream lead back to us.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::net::NetError;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::health::{Lost, Reason, State};
use super::server::{Carrier, Server};
use crate::config::Transport;
use crate::message::framing::{Frames, put_frame};
use crate::message::wire::{self, flag};
use crate::net::connected::ConnectedSockets;
use crate::serving::setup::Setup;
use crate::upstream::routes::wire_name;

/// How often each server is asked whether it leads back to us.
const LOOP_CHECK: Duration = Duration::from_secs(30);
/// The same for one that did.
const LOOPED_CHECK: Duration = Duration::from_secs(5);
/// What follows the first label of every loop probe's name: nobody delegates it (RFC 6761 §6.4), so nobody else is
/// troubled. The zone by which the group is reached comes behind it, so that loops through that zone are found too.
const LOOP_LABELS: &[u8] = b"\x06nodens\x07invalid";
/// Octets of the first label, its length included.
const LOOP_LABEL_LEN: usize = 17;

/// Names asked by loop probes in flight, and whether one of them came back to our own listeners.
#[derive(Debug, Default)]
pub struct LoopNames(Mutex<HashMap<Vec<u8>, bool>>);

impl LoopNames {
    /// Whether a client's name is that of a loop probe of ours; remembers that it came.
    #[must_use]
    pub fn seen(&self, name: &[u8]) -> bool {
        if !name
            .get(LOOP_LABEL_LEN..)
            .is_some_and(|rest| rest.starts_with(LOOP_LABELS))
        {
            return false;
        }
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            Some(seen) => {
                *seen = true;
                true
            }
            None => false,
        }
    }

    fn expect(&self, name: Vec<u8>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, false);
    }

    /// Whether it came back.
    fn take(&self, name: &[u8]) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
            .unwrap_or(false)
    }
}

/// Sends probes whenever they are due, for as long as setups may come. `started` is called once the first have left.
pub async fn run(
    mut setups: watch::Receiver<Arc<Setup>>,
    loops: Arc<LoopNames>,
    started: impl FnOnce(),
) {
    let mut started = Some(started);
    let mut probes = JoinSet::new();
    let mut setup = setups.borrow_and_update().clone();
    // Of the servers there are, by their addresses in memory, which stay as long as they are used.
    let mut loop_checks: HashMap<usize, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        let mut next = now + LOOPED_CHECK;
        for server in &setup.upstreams.servers {
            for carrier in carriers(server) {
                match server.probe_due(carrier) {
                    Some(due) if due <= now => {
                        server.probe_sent(carrier);
                        probes.spawn(probe(Arc::clone(&setup), Arc::clone(server), carrier));
                    }
                    Some(due) => next = next.min(due),
                    None => {}
                }
            }
            let due = loop_checks.entry(address(server)).or_insert(now);
            if *due <= now {
                *due = now
                    + if server.looped() {
                        LOOPED_CHECK
                    } else {
                        LOOP_CHECK
                    };
                let (setup, loops) = (Arc::clone(&setup), Arc::clone(&loops));
                probes.spawn(check_loop(setup, loops, Arc::clone(server)));
            }
            next = next.min(*due);
        }
        if let Some(started) = started.take() {
            started();
        }
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = setup.upstreams.probe_wanted.notified() => {}
            Some(_) = probes.join_next(), if !probes.is_empty() => {}
            changed = setups.changed() => {
                if changed.is_err() {
                    return;
                }
                setup = setups.borrow_and_update().clone();
                let there: Vec<_> = setup.upstreams.servers.iter().map(address).collect();
                loop_checks.retain(|server, _| there.contains(server));
            }
        }
    }
}

fn address(server: &Arc<Server>) -> usize {
    Arc::as_ptr(server).addr()
}

/// The transports that are probed: the one queries take, and TCP beside UDP once it has failed there.
fn carriers(server: &Server) -> impl Iterator<Item = Carrier> {
    let first = server.carrier();
    let looped = server.looped();
    Carrier::ALL.into_iter().filter(move |&carrier| {
        !looped
            && (carrier == first || server.state_of(carrier) != State::Unknown)
            && (carrier == Carrier::Stream || first == Carrier::Datagram)
    })
}

/// One health probe; whatever comes back, the server is alive.
async fn probe(setup: Arc<Setup>, server: Arc<Server>, carrier: Carrier) {
    let group = setup
        .upstreams
        .groups
        .iter()
        .find(|group| group.name == server.group);
    let Some(group) = group else { return };
    let (name, record_type) = group.probe_question();
    let sent = Instant::now();
    let question = Query::query(name.clone(), record_type);
    let answer = timeout(server.try_timeout, ask(&server, carrier, question)).await;
    let now = Instant::now();
    match answer {
        Ok(Ok(())) => server.probe_answered(carrier, now, now - sent),
        Ok(Err(error)) => {
            tracing::debug!(server = %server.label, %error, "probe failed");
            let reason = match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::PermissionDenied => Reason::Unreachable,
                _ => Reason::ProbeLost,
            };
            server.probe_lost(
                carrier,
                now,
                Lost {
                    sent,
                    reason,
                    jitter: fastrand::f64(),
                },
            );
        }
        Err(_) => {
            let lost = Lost {
                sent,
                reason: Reason::ProbeLost,
                jitter: fastrand::f64(),
            };
            server.probe_lost(carrier, now, lost);
        }
    }
}

/// Asks for a name nobody else knows, and looks whether the question arrives at our own listeners.
async fn check_loop(setup: Arc<Setup>, loops: Arc<LoopNames>, server: Arc<Server>) {
    let label = format!("{:016x}", fastrand::u64(..));
    let zone = setup.zone_of(&server.group);
    // A zone too long for the name in front of it is left unchecked.
    let Ok(name) = Name::from_ascii(format!("{label}.nodens.invalid.{zone}")) else {
        return;
    };
    let wire = wire_name(&name);
    loops.expect(wire.clone());
    let question = Query::query(name, RecordType::TXT);
    // Lost or answered, what matters is whether we saw it.
    let _ = timeout(server.try_timeout, ask(&server, server.carrier(), question)).await;
    let came_back = loops.take(&wire);
    if came_back && !server.looped() {
        tracing::error!(
            group = &*server.group,
            server = %server.label,
            "this upstream leads back to nodens itself and is not used until it no longer does; name a server that \
             does not forward to this node's address"
        );
    }
    server.set_looped(came_back, Instant::now());
}

async fn ask(server: &Server, carrier: Carrier, question: Query) -> io::Result<()> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    let address = server.config.address;
    match (carrier, &server.config.transport, server.tls.clone()) {
        (Carrier::Datagram, _, _) => {
            let exchange = UdpClientStream::builder(address, ConnectedSockets::default())
                .with_timeout(Some(server.try_timeout))
                .exchange();
            let request = DnsRequest::new(message, DnsRequestOptions::default());
            exchange
                .send(request)
                .first_answer()
                .await
                .map_err(|error| match error {
                    NetError::Io(error) => error.kind().into(),
                    error => io::Error::other(error),
                })?;
            Ok(())
        }
        (Carrier::Stream, Transport::Tls(_), Some(tls)) => {
            let stream = TcpStream::connect(address).await?;
            over_stream(tls.connector.connect(tls.name, stream).await?, &message).await
        }
        (Carrier::Stream, _, _) => over_stream(TcpStream::connect(address).await?, &message).await,
    }
}

async fn over_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    message: &Message,
) -> io::Result<()> {
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(&bytes));
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let mut frames = Frames::new();
    loop {
        if let Some(response) = frames.next_message() {
            let ours = wire::id(response) == message.metadata.id;
            if ours && wire::flags(response) & flag::QR != 0 {
                return Ok(());
            }
        } else if frames.fill(&mut stream).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
