//! Worker threads: each runs one worker's state, its client sockets and its upstream sockets on a runtime of its own.
//! The only module that uses both listeners and serving.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio_util::sync::CancellationToken;

use super::scheduling::{SchedulingMetrics, WorkerScheduling};
use crate::listener::slots::ConnectionSlots;
use crate::listener::{tcp, udp};
use crate::net::network::UdpSocket;
use crate::runtime::timeout::read_what_arrived;
use crate::runtime::{self, until};
use crate::serving::setup::Setup;
use crate::serving::worker::{CurrentWorker, Shared};

/// How often a worker cleans up, publishes its counters and updates its heartbeat.
const TICK: Duration = Duration::from_millis(250);

/// Time after the grace: enough to send SERVFAIL to every waiting client.
const LAST_REPLIES: Duration = Duration::from_millis(200);

/// One worker's UDP socket for one listen address.
pub struct Datagrams {
    /// The socket.
    pub socket: UdpSocket,
    /// When to take no more.
    pub stop: CancellationToken,
}

/// A command to a worker. A worker ends when all senders are dropped and its queries are answered.
pub enum Command {
    /// Serve this address too.
    Listen(Datagrams),
    /// Serve this connection.
    Connection(tcp::Accepted),
    /// Work under this setup from now on, and say when that is so.
    Work(Arc<Setup>, oneshot::Sender<()>),
}

/// Gives commands to one worker; clones reach the same one.
pub type Commands = mpsc::UnboundedSender<Command>;

/// Milliseconds since the process started at which a worker's loop last ran; /health reads it.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    last: AtomicU64,
}

impl Heartbeat {
    /// Beats for the first time now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: runtime::now(),
            last: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let elapsed = u64::try_from(runtime::since(self.start).as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Time since the last beat.
    #[must_use]
    pub fn age(&self) -> Duration {
        runtime::since(self.start)
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// A worker's thread.
pub struct WorkerThread {
    /// Sends it commands.
    pub commands: Commands,
    /// Ends once all senders are dropped and the queries in flight are answered.
    pub handle: JoinHandle<io::Result<()>>,
}

/// Starts one thread for each heartbeat, with `realtime` under real-time scheduling, and waits until each has its runtime.
///
/// # Errors
/// If a thread or its runtime cannot be had. The threads that were started end by themselves.
pub fn start(
    shared: &Arc<Shared>,
    slots: &Arc<ConnectionSlots>,
    heartbeats: &[Arc<Heartbeat>],
    stop: &CancellationToken,
    realtime: Option<&SchedulingMetrics>,
) -> io::Result<Vec<WorkerThread>> {
    let mut threads = Vec::new();
    let (started, all_started) = std::sync::mpsc::channel();
    for (index, heartbeat) in heartbeats.iter().enumerate() {
        let (commands, receiver) = mpsc::unbounded_channel();
        let parts = Parts {
            shared: Arc::clone(shared),
            slots: Arc::clone(slots),
            heartbeat: Arc::clone(heartbeat),
            stop: stop.clone(),
            realtime: realtime.cloned(),
        };
        let started = started.clone();
        let in_thread = move || {
            let (runtime, result) = match runtime() {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // The receiver is gone if another worker has failed.
            let _ = started.send(result);
            // The receiver waits until all senders are dropped.
            drop(started);
            runtime.map_or(Ok(()), |runtime| run(&runtime, parts, receiver))
        };
        let handle = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(in_thread)?;
        threads.push(WorkerThread { commands, handle });
    }
    drop(started);
    all_started.iter().collect::<io::Result<()>>()?;
    Ok(threads)
}

/// The parameters of a worker's thread.
pub struct Parts {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The slots of client connections, of all workers together.
    pub slots: Arc<ConnectionSlots>,
    /// Shows that its loop runs.
    pub heartbeat: Arc<Heartbeat>,
    /// From then on what is in flight may take `shutdown_grace`.
    pub stop: CancellationToken,
    /// With it the worker runs under real-time scheduling.
    pub realtime: Option<SchedulingMetrics>,
}

/// A worker's runtime; it stays in the thread that makes it.
///
/// # Errors
/// `EMFILE` and its like.
pub fn runtime() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // A LocalSet would run all our tasks within one task, and wake the runtime by a system call for each of them.
        .build_local(LocalOptions::default())
}

/// Runs a worker until it is stopped and nobody can give it commands any more, and then until its queries in flight are
/// answered.
///
/// # Errors
/// If a listener panicked.
//
// Never inlined, so that `tests/instructions.rs` finds it in the binary.
#[inline(never)]
pub fn run(
    runtime: &LocalRuntime,
    parts: Parts,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    runtime.block_on(async move {
        // A task of its own, which is polled only when it is woken. The body of `block_on` is polled in every turn of
        // the runtime.
        let work = tokio::task::spawn_local(work(parts, commands));
        work.await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    })
}

/// Runs a worker on the current runtime, which must be tokio's local one.
///
/// # Errors
/// If a listener panicked.
pub async fn work(parts: Parts, mut commands: mpsc::UnboundedReceiver<Command>) -> io::Result<()> {
    let Parts {
        shared,
        slots,
        heartbeat,
        stop,
        realtime,
    } = parts;
    let mut realtime = realtime.as_ref().map(WorkerScheduling::realtime);
    let current = Rc::new(CurrentWorker::new(&shared));
    let mut listeners = JoinSet::new();
    let mut connections = tcp::Connections::new(&current, &slots);
    let mut ticks = tokio::time::interval(TICK);
    let mut told_all = false;
    let mut deadline = None;
    let mut abandoned = false;
    while !(told_all && listeners.is_empty() && connections.is_empty()) {
        tokio::select! {
            biased;
            _ = ticks.tick() => {
                heartbeat.beat();
                if let Some(realtime) = &mut realtime {
                    realtime.tick(runtime::now());
                }
                // Answers to tries that would now count as lost may be in a socket.
                read_what_arrived().await;
                current.tick();
            }
            command = commands.recv(), if !told_all => match command {
                Some(command) => obey(command, &current, &mut listeners, &mut connections).await,
                None => told_all = true,
            },
            () = stop.cancelled(), if deadline.is_none() => {
                deadline = Some(runtime::now() + current.get().setup.config.shutdown_grace);
            }
            () = connections.ended() => {}
            Some(ended) = listeners.join_next() => {
                if let Err(panic) = ended && panic.is_panic() {
                    // After a panic in a listener a restart of the process is safer than going on: listeners hold no
                    // state worth keeping.
                    tracing::error!("a listener of this worker failed; /health will tell");
                    return Err(io::Error::other("listener panicked"));
                }
            }
            () = until(deadline) => {
                if abandoned {
                    break;
                }
                abandoned = true;
                current.abandon();
                deadline = Some(runtime::now() + LAST_REPLIES);
            }
        }
    }
    heartbeat.beat();
    current.tick();
    Ok(())
}

async fn obey(
    command: Command,
    current: &Rc<CurrentWorker>,
    listeners: &mut JoinSet<()>,
    connections: &mut tcp::Connections,
) {
    match command {
        Command::Connection(accepted) => {
            connections.admit(accepted);
            // Connections that made room are closed before another is accepted, because each is an open file.
            yield_now().await;
        }
        Command::Listen(Datagrams { socket, stop }) => match udp::Listener::new(current, socket) {
            Ok(listener) => {
                listeners.spawn_local(listener.run(stop));
            }
            // The other workers' sockets of this address get its datagrams.
            Err(error) => tracing::error!(%error, "a worker cannot watch a UDP socket"),
        },
        Command::Work(setup, done) => {
            current.replace(&setup);
            // The receiver may have given up waiting.
            let _ = done.send(());
        }
    }
}
