//! The life of a listen address: bound → waiting for the predecessor → sole → draining. Each address has one owner, whose
//! drop ends everything it started.
//!
//! Two instances may share an address (`handover`): the kernel spreads clients over the sockets of both. The instance
//! that ends must empty its sockets before it closes them:
//! - UDP: [`crate::net::steering::stop_receiving`] sends new datagrams to the other instance; queued ones are answered.
//! - TCP: closing a listener resets the connections in its queue, so new ones are first steered to the other's listener
//!   ([`crate::net::steering::steer`]), and queued ones are accepted. Each instance has one listener; ours began to
//!   listen earlier.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::threads::{Command, Commands, Datagrams};
use crate::budgets::{CONNECTION_SEND_BUFFER, CONNECTIONS_HANDED_OVER};
use crate::config::Config;
use crate::listener::tcp::Accepted;
use crate::metrics::repeated::Repeated;
use crate::net::claim::Claim;
use crate::net::network::NewStream;
use crate::net::open::{self, UdpOptions};
use crate::net::steering;

/// Attempts to find a free port when `listen` has port 0: the port that UDP got may be taken for TCP.
const PORT_ATTEMPTS: usize = 20;

/// Pause between steering and accepting the last connections. Handshakes that have begun complete within it: each takes
/// one round trip, on the node a fraction of a millisecond. A connection that completed later would be reset.
const HANDSHAKES: Duration = Duration::from_millis(50);

/// Pause between checks whether the predecessor has ended.
const CLAIM_INTERVAL: Duration = Duration::from_millis(250);

/// Index of the successor's listener in the reuseport group: the second, since ours began to listen earlier.
const SUCCESSOR_LISTENER: u32 = 1;

/// Pause after an error such as EMFILE, which passes when a connection ends. Accepting again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Stage of a served address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The predecessor serves it too.
    Waiting,
    /// It is ours alone.
    Sole,
    /// New clients go elsewhere; what is here is answered.
    Draining,
}

/// The stage, shared with readers while the owner's task changes it.
#[derive(Debug)]
struct SharedStage(AtomicU8);

impl SharedStage {
    fn new(stage: Stage) -> Arc<Self> {
        Arc::new(Self(AtomicU8::new(stage as u8)))
    }

    fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.0.load(Ordering::Relaxed) == stage as u8
    }
}

/// Sockets that are bound and not served yet: a UDP socket for each worker, and one TCP listener. Serving them cannot
/// fail.
#[derive(Debug)]
pub struct BoundAddress {
    wanted: SocketAddr,
    address: SocketAddr,
    /// None while the predecessor has it.
    claim: Option<Claim>,
    /// Tells the predecessor that a successor waits for the address.
    waiting: Option<Claim>,
    udp: Vec<Socket>,
    tcp: TcpListener,
    handover: bool,
}

impl BoundAddress {
    /// Binds an address. Only another instance that shares the port loses queries to it before it is served.
    ///
    /// # Errors
    /// `AddrInUse` if another program has the address, or another instance and `handover` is off; else the kernel's
    /// errors.
    pub fn bind(config: &Config, wanted: SocketAddr) -> io::Result<Self> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let options = UdpOptions {
            receive_buffer: size(config.udp.receive_buffer),
            send_buffer: size(config.udp.send_buffer),
        };
        let mut attempts = if wanted.port() == 0 { PORT_ATTEMPTS } else { 1 };
        let (address, udp, tcp, claim) = loop {
            attempts -= 1;
            if wanted.port() != 0 && !config.handover {
                open::check_free(wanted)?;
            }
            let (udp, granted) = open::listen_udp(wanted, options)?;
            if granted < options.receive_buffer {
                tracing::warn!(
                    address = %wanted,
                    wanted = options.receive_buffer,
                    granted,
                    "the kernel grants a smaller receive buffer than udp.receive_buffer; raise the sysctl net.core.rmem_max"
                );
            }
            let bound = udp
                .local_addr()?
                .as_socket()
                .ok_or(io::ErrorKind::AddrNotAvailable)?;
            let address = SocketAddr::new(wanted.ip(), bound.port());
            let tcp = open::listen_tcp(address, CONNECTION_SEND_BUFFER);
            // The kernel may give the port of another instance's UDP socket, because both sockets may share it.
            match tcp.and_then(|tcp| Ok((tcp, claim(address, config)?))) {
                Ok((tcp, claim)) => break (address, udp, tcp, claim),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        };
        let waiting = match claim {
            Some(_) => None,
            None => next_in_line(address),
        };
        let mut udp = vec![udp];
        for _ in 1..config.workers.get() {
            udp.push(open::listen_udp(address, options)?.0);
        }
        Ok(Self {
            wanted,
            address,
            claim,
            waiting,
            udp,
            tcp: TcpListener::from_std(tcp.into())?,
            handover: config.handover,
        })
    }

    /// Has the workers serve it.
    #[must_use]
    pub fn serve(self, workers: &[Commands]) -> ListenAddress {
        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        for (worker, socket) in workers.iter().zip(self.udp) {
            let stop = stop.clone();
            // A worker that ended has said so.
            let _ = worker.send(Command::Listen(Datagrams {
                socket: socket.into(),
                stop,
            }));
        }
        if self.claim.is_none() {
            tracing::info!(address = %self.address, "shared with an earlier instance");
        }
        let stage = SharedStage::new(match self.claim {
            Some(_) => Stage::Sole,
            None => Stage::Waiting,
        });
        let acceptor = Acceptor {
            address: self.address,
            listener: self.tcp,
            claim: self.claim,
            waiting: self.waiting,
            handover: self.handover,
            stage: Arc::clone(&stage),
            workers: workers.to_vec(),
            turn: 0,
            stop: stop.clone(),
            handed_over: Arc::new(Semaphore::new(CONNECTIONS_HANDED_OVER)),
            cannot_accept: Repeated::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(acceptor.run(drain.clone()));
        ListenAddress {
            wanted: self.wanted,
            address: self.address,
            stage,
            stop,
            drain,
            tasks,
        }
    }
}

/// An address that is served. Dropping it closes its sockets: new clients find nobody, queries in flight are answered.
#[derive(Debug)]
pub struct ListenAddress {
    /// As configured.
    pub wanted: SocketAddr,
    /// With the port that was taken.
    pub address: SocketAddr,
    stage: Arc<SharedStage>,
    /// Ends the workers' UDP sockets, and tells connections that no more queries are wanted.
    stop: CancellationToken,
    /// Tells the acceptor to steer new connections to a successor, to accept the queued ones, and to end.
    drain: CancellationToken,
    tasks: JoinSet<()>,
}

impl ListenAddress {
    /// Whether an earlier instance serves the address too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.stage.is_at(Stage::Waiting)
    }

    /// Whether another instance, earlier or later, serves the address and would go on if this one ended.
    #[must_use]
    pub fn has_other_instance(&self) -> bool {
        self.is_shared() || Claim::is_waited_for(self.address)
    }

    /// Ends it: queries that came are answered, and a successor on the same address gets all others.
    pub async fn drain(mut self) {
        self.stop.cancel();
        self.drain.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for ListenAddress {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Accepts an address's connections and deals them out to the workers in turn. It owns the listening socket and the claim.
///
/// One listener for an address, whatever the number of workers: the kernel spreads connections over listeners without
/// knowing who is busy, and listeners that close pass nothing on.
struct Acceptor {
    address: SocketAddr,
    listener: TcpListener,
    /// None while the predecessor has it.
    claim: Option<Claim>,
    waiting: Option<Claim>,
    handover: bool,
    stage: Arc<SharedStage>,
    workers: Vec<Commands>,
    turn: usize,
    stop: CancellationToken,
    handed_over: Arc<Semaphore>,
    cannot_accept: Repeated,
}

impl Acceptor {
    async fn run(mut self, drain: CancellationToken) {
        let mut next_claim = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                () = self.accept_one() => {}
                () = sleep_until(next_claim), if self.claim.is_none() => {
                    self.try_to_take_over();
                    next_claim = tokio::time::Instant::now() + CLAIM_INTERVAL;
                }
            }
        }
        // While the predecessor is there too, the order of the listeners is not known. Without a successor there is
        // nobody to steer to, and the kernel chooses as before.
        let may_steer = self.handover && self.stage.is_at(Stage::Sole);
        self.stage.set(Stage::Draining);
        if may_steer {
            if let Err(error) = steering::steer(&self.listener, SUCCESSOR_LISTENER) {
                tracing::debug!(%error, "new connections cannot be steered to a successor");
            }
            let handshakes_over = tokio::time::Instant::now() + HANDSHAKES;
            loop {
                tokio::select! {
                    () = sleep_until(handshakes_over) => break,
                    () = self.accept_one() => {}
                }
            }
        }
        self.accept_what_waits();
    }

    async fn accept_one(&mut self) {
        let handed_over = Arc::clone(&self.handed_over).acquire_owned().await.ok();
        let accepted = match self.listener.accept().await {
            Ok((stream, peer)) => stream.into_std().map(|stream| (stream, peer)),
            Err(error) => Err(error),
        };
        match accepted {
            Ok((stream, peer)) => self.deal_out(stream, peer, handed_over),
            Err(error) => {
                if let Some(times) = self.cannot_accept.happened(Instant::now()) {
                    tracing::warn!(%error, times, "cannot accept a TCP connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Accepts directly from the kernel, because the runtime may not know of the last connections yet. Connections left
    /// in the queue would be reset.
    fn accept_what_waits(&mut self) {
        while let Ok((socket, peer)) = SockRef::from(&self.listener).accept() {
            let ready = socket.set_nonblocking(true).is_ok();
            if let (true, Some(peer)) = (ready, peer.as_socket()) {
                self.deal_out(socket.into(), peer, None);
            }
        }
    }

    fn deal_out(
        &mut self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        handed_over: Option<OwnedSemaphorePermit>,
    ) {
        self.turn = (self.turn + 1) % self.workers.len();
        let accepted = Accepted {
            stream: NewStream::Kernel(stream),
            peer,
            listener: self.address,
            stop: self.stop.clone(),
            handed_over,
        };
        // A worker that ended has said so.
        let _ = self.workers[self.turn].send(Command::Connection(accepted));
    }

    /// Claims the address if the predecessor has ended, and removes the steering that it left.
    fn try_to_take_over(&mut self) {
        let Ok(claim) = Claim::take(self.address) else {
            // The instance that waited before us may have ended or have taken over.
            if self.waiting.is_none() {
                self.waiting = next_in_line(self.address);
            }
            return;
        };
        if let Err(error) = steering::stop_steering(&self.listener) {
            tracing::warn!(address = %self.address, %error, "a successor may get TCP connections before it is ready");
        }
        self.claim = Some(claim);
        self.waiting = None;
        self.stage.set(Stage::Sole);
        tracing::info!(address = %self.address, "the earlier instance is gone");
    }
}

/// Claims an address. None if another instance has it and `handover` lets both share it.
fn claim(address: SocketAddr, config: &Config) -> io::Result<Option<Claim>> {
    match Claim::take(address) {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if config.handover && error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// The claim as successor; none if another instance waits already, because then the predecessor knows that it has a
/// successor.
fn next_in_line(address: SocketAddr) -> Option<Claim> {
    Claim::wait_for(address)
        .inspect_err(|error| tracing::debug!(%address, %error, "another instance is the next"))
        .ok()
}
