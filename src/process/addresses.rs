//! An address that is served: its sockets, and how they are handed to a successor without losing a client.
//!
//! Two instances may share an address (`handover`): the kernel spreads clients over the sockets of both. The one that
//! ends has to see to it that nothing is left in a socket of its own when that closes:
//! - UDP: [`crate::net::steering::stop_receiving`] turns new datagrams to the other; what was queued is answered.
//! - TCP: closing a listener resets the connections in its queue, so new ones are steered to the other's listener first
//!   ([`crate::net::steering::steer`]), and what waits is accepted. Each instance has one listener, ours the earlier.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::listener::tcp::accept;
use crate::net::claim::Claim;
use crate::net::open::UdpOptions;
use crate::net::{open, steering};
use crate::serving::worker::{Command, Datagrams};

/// How often a free port is looked for when `listen` says 0: TCP may have what UDP just got.
const PORT_ATTEMPTS: usize = 20;

/// Handshakes with a listener that is steered away from are over after this: each takes one round trip, on the node a
/// fraction of a millisecond. Without the pause a connection that completes late would be reset.
const HANDSHAKES: Duration = Duration::from_millis(50);

/// How often we look whether an earlier instance is gone.
const LOOK: Duration = Duration::from_millis(250);

/// Where a successor's TCP listener is among all: behind ours, which began to listen earlier.
const SUCCESSOR: u32 = 1;

/// An address that is served. Dropping it has connections accepted no longer, and leaves the UDP sockets to the workers.
#[derive(Debug)]
pub struct Listening {
    /// As configured.
    pub wanted: SocketAddr,
    /// With the port that was taken.
    pub address: SocketAddr,
    /// None while an earlier instance serves it too.
    claim: Arc<Mutex<Option<Claim>>>,
    /// The listening TCP socket.
    tcp: Socket,
    accepting: JoinSet<io::Result<()>>,
    stop: CancellationToken,
    close: CancellationToken,
    /// Whether there may be a successor.
    handover: bool,
}

/// Sockets that are bound and not served yet: a UDP socket for each worker, and one TCP listener.
#[derive(Debug)]
pub struct Bound {
    wanted: SocketAddr,
    address: SocketAddr,
    claim: Option<Claim>,
    udp: Vec<Socket>,
    tcp: Socket,
    handover: bool,
}

impl Bound {
    /// Binds an address, without taking clients' queries from anybody yet but those who share the port.
    ///
    /// # Errors
    /// `AddrInUse` if another instance or program is there, unless `handover` allows the former; else those of the
    /// kernel.
    pub fn bind(config: &Config, wanted: SocketAddr) -> io::Result<Self> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let options = UdpOptions {
            receive_buffer: size(config.udp.receive_buffer),
            send_buffer: size(config.udp.send_buffer),
        };
        let mut attempts = if wanted.port() == 0 { PORT_ATTEMPTS } else { 1 };
        let (address, udp, tcp) = loop {
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
            match open::listen_tcp(address) {
                Ok(tcp) => break (address, udp, tcp),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        };
        let claim = match Claim::take(address) {
            Ok(claim) => Some(claim),
            Err(error) if config.handover && error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(error),
        };
        let mut udp = vec![udp];
        for _ in 1..config.workers.get() {
            udp.push(open::listen_udp(address, options)?.0);
        }
        Ok(Self {
            wanted,
            address,
            claim,
            udp,
            tcp,
            handover: config.handover,
        })
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the workers serve it.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn serve(self, workers: &[mpsc::UnboundedSender<Command>]) -> io::Result<Listening> {
        let (stop, close) = (CancellationToken::new(), CancellationToken::new());
        let tcp = self.tcp.try_clone()?;
        for (worker, socket) in workers.iter().zip(self.udp) {
            let stop = stop.clone();
            // A worker that ended has said so.
            let _ = worker.send(Command::Listen(Datagrams { socket, stop }));
        }
        let (workers, turn) = (workers.to_vec(), AtomicUsize::new(0));
        let hand_out = move |accepted| {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let _ = workers[turn % workers.len()].send(Command::Connection(accepted));
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(self.tcp, stop.clone(), close.clone(), hand_out));
        Ok(Listening {
            wanted: self.wanted,
            address: self.address,
            claim: Arc::new(Mutex::new(self.claim)),
            tcp,
            accepting,
            stop,
            close,
            handover: self.handover,
        })
    }
}

impl Listening {
    /// Whether an earlier instance serves the address too.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.claim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Waits until no earlier instance serves the address, and makes it ours alone: an instance that ends leaves its
    /// steering behind.
    pub fn take_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let (claim, address) = (Arc::clone(&self.claim), self.address);
        let listener = self.tcp.try_clone().ok();
        async move {
            let taken = loop {
                match Claim::take(address) {
                    Ok(taken) => break taken,
                    Err(_) => sleep(LOOK).await,
                }
            };
            if let Some(listener) = listener
                && let Err(error) = steering::stop_steering(&listener)
            {
                tracing::warn!(%address, %error, "a successor may get TCP connections before it is ready");
            }
            *claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
            tracing::info!(%address, "the earlier instance is gone");
        }
    }

    /// Ends it: queries that came are answered, and a successor on the same address gets all others.
    pub async fn end(mut self) {
        self.stop.cancel();
        // While an earlier instance is there too, the order of the listeners is not known. Without a successor there is
        // nobody to steer to, and the kernel does as before.
        if self.handover && !self.shared() {
            if let Err(error) = steering::steer(&self.tcp, SUCCESSOR) {
                tracing::debug!(%error, "new connections cannot be steered to a successor");
            }
            sleep(HANDSHAKES).await;
        }
        self.close.cancel();
        while self.accepting.join_next().await.is_some() {}
    }
}
