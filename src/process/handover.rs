//! Transfers the cache from an instance to its successor.
//!
//! The successor connects to the instance that serves one of its addresses ([`crate::net::meeting`]), sends the size of
//! its cache and its time limit, and receives a description of the other's setup and then entries
//! ([`crate::cache::transfer`]). Each entry is read as a server's response would be, and kept only if its name takes
//! the same route here ([`crate::serving::inheritance`]). This happens before the successor listens, and takes at most
//! [`HANDOVER_TIME`]; entries that arrived by then are kept. After any error in the stream the cache starts empty.
//!
//! Limits: answers that the predecessor gets afterwards, while both serve, are not handed over.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::metrics::Metrics;
use crate::budgets::{HANDOVER_ENTRY_BYTES, HANDOVER_SETUP_BYTES, HANDOVER_TIME};
use crate::cache::transfer::{MAGIC, Received, TransferError, read_frame, read_magic, write_frame};
use crate::cache::{Cache, Origin};
use crate::net::meeting::{MeetingPlace, meet};
use crate::serving::inheritance::{Inheritance, SetupWords};
use crate::serving::setup::Setup;
use crate::serving::worker::Shared;
use crate::upstream::routes::UnknownZones;

/// Pause between checks whether the predecessor has released the socket.
const OPEN_INTERVAL: Duration = Duration::from_millis(250);

/// Pause after an error such as EMFILE, which passes. Accepting again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Octets read or written at once.
const BUFFER: usize = 64 << 10;

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The stream is malformed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The description of the setup is malformed.
    #[error("its setup cannot be read: {0}")]
    Setup(#[from] serde_json::Error),
    /// Its routes are invalid.
    #[error(transparent)]
    Zones(#[from] UnknownZones),
}

impl From<io::Error> for HandoverError {
    fn from(error: io::Error) -> Self {
        Self::Transfer(error.into())
    }
}

/// What became of the answers that were offered.
#[derive(Debug, Default, Clone, Copy)]
pub struct HandoverCounts {
    /// Those that are in the cache now, or were.
    pub taken: usize,
    /// Those whose names take another route here, or that cannot be read.
    pub refused: usize,
}

/// Takes over what an earlier instance on one of the setup's addresses has cached, if there is one. Returns the cache, empty if
/// anything went wrong.
pub async fn inherit(cache: Cache, setup: Arc<Setup>, metrics: &Metrics) -> Cache {
    let start = Instant::now();
    let config = setup.config.cache.clone();
    let take = move || {
        let mut counts = HandoverCounts::default();
        let result = take_over(&cache, &setup, &mut counts, start);
        (cache, counts, result)
    };
    let (cache, mut counts, result) = match spawn_blocking(take).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "taking over the earlier instance's cache failed; it starts empty");
            return Cache::new(&config);
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let shown_seconds = (seconds * 1e3).round() / 1e3;
    match result {
        Ok(false) => return cache,
        Ok(true) => tracing::info!(
            taken = counts.taken,
            refused = counts.refused,
            seconds = shown_seconds,
            "took over the earlier instance's cache"
        ),
        Err(HandoverError::Transfer(error)) if error.is_timeout() && counts.taken > 0 => {
            tracing::warn!(
                taken = counts.taken,
                refused = counts.refused,
                seconds = shown_seconds,
                "took over what the earlier instance handed over of its cache in time"
            );
        }
        Err(error) => {
            cache.retain(|_| false);
            counts.taken = 0;
            tracing::warn!(
                %error,
                seconds = shown_seconds,
                "the earlier instance's cache cannot be taken over; it starts empty"
            );
        }
    }
    for (result, count) in [("taken", counts.taken), ("refused", counts.refused)] {
        let gauge = metrics.handover_answers.with_label_values(&[result]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let no_labels: &[&str] = &[];
    metrics
        .handover_seconds
        .with_label_values(no_labels)
        .set(seconds);
    cache
}

/// Whether there was a predecessor.
fn take_over(
    cache: &Cache,
    setup: &Setup,
    counts: &mut HandoverCounts,
    start: Instant,
) -> Result<bool, HandoverError> {
    let deadline = start + HANDOVER_TIME;
    let Some(stream) = predecessor(&setup.config.listen, deadline)? else {
        return Ok(false);
    };
    take_from(stream, cache, setup, counts, deadline).map(|()| true)
}

/// Takes over what the instance at the other end of a stream hands over until `deadline`.
///
/// # Errors
/// What is wrong with the stream; entries that were taken before stay in the cache.
pub fn take_from(
    mut stream: UnixStream,
    cache: &Cache,
    setup: &Setup,
    counts: &mut HandoverCounts,
    deadline: Instant,
) -> Result<(), HandoverError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let request = Request {
        bytes: setup.config.cache.max_size,
        // The rest of the time is for entries that are still on their way.
        time: left * 3 / 4,
    };
    request.write(&mut stream)?;
    let mut stream = BufReader::with_capacity(BUFFER, Timed { stream, deadline });
    read_magic(&mut stream)?;
    let mut frame = Vec::new();
    read_frame(&mut stream, &mut frame, HANDOVER_SETUP_BYTES)?;
    let words: SetupWords = serde_json::from_slice(&frame)?;
    let inheritance = setup.inheritance(&words)?;
    // Ages are those at the time of sending. They are counted from an earlier time, so that entries are never taken for
    // fresher than they are.
    let now = Instant::now();
    while read_frame(&mut stream, &mut frame, HANDOVER_ENTRY_BYTES)? {
        match take_entry(cache, setup, &inheritance, &frame, now) {
            Some(()) => counts.taken += 1,
            None => counts.refused += 1,
        }
    }
    Ok(())
}

/// A stream to the instance that serves one of these addresses; none if there is none.
fn predecessor(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<Option<UnixStream>, HandoverError> {
    for &address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        match meet(address, left.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Keeps an entry, if it may be.
pub fn take_entry(
    cache: &Cache,
    setup: &Setup,
    inheritance: &Inheritance<'_>,
    frame: &[u8],
    now: Instant,
) -> Option<()> {
    let received = Received::read(frame)?;
    let route = inheritance.route(received.route)?;
    let ours = setup.routes.existing(route)?;
    let tier = usize::from(received.tier);
    if tier >= ours.tiers.len() {
        return None;
    }
    let origin = Origin {
        route,
        tier,
        took: Duration::ZERO,
    };
    let entry = received.entry(now, origin, ours.bounds)?;
    if !entry.storable() || !inheritance.takes(&entry) {
        return None;
    }
    cache.insert(&received.key(), &entry);
    Some(())
}

/// What a successor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    /// The weight of its cache.
    bytes: u64,
    /// How long it waits.
    time: Duration,
}

impl Request {
    fn write(self, stream: &mut impl Write) -> io::Result<()> {
        let milliseconds = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        let numbers = [self.bytes, milliseconds].map(u64::to_be_bytes).concat();
        stream.write_all(&[&MAGIC[..], &numbers].concat())
    }

    fn read(stream: &mut impl Read) -> Result<Self, TransferError> {
        read_magic(stream)?;
        let mut number = || {
            let mut octets = [0; 8];
            stream.read_exact(&mut octets)?;
            Ok::<_, io::Error>(u64::from_be_bytes(octets))
        };
        let (bytes, milliseconds) = (number()?, number()?);
        Ok(Self {
            bytes,
            time: Duration::from_millis(milliseconds).min(HANDOVER_TIME),
        })
    }
}

/// A stream on which reads and writes end at a time.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Hands the cache over to successors that connect, on each of the instance's addresses. Dropping it ends that.
pub struct Offers {
    shared: Arc<Shared>,
    by_address: HashMap<SocketAddr, JoinSet<()>>,
}

impl Offers {
    /// On no address yet.
    #[must_use]
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            by_address: HashMap::new(),
        }
    }

    /// On these addresses and no others, on the current runtime.
    pub fn follow(&mut self, addresses: &[SocketAddr]) {
        self.by_address
            .retain(|address, _| addresses.contains(address));
        for &address in addresses {
            let shared = &self.shared;
            self.by_address.entry(address).or_insert_with(|| {
                let mut tasks = JoinSet::new();
                tasks.spawn(offer(address, Arc::clone(shared)));
                tasks
            });
        }
    }
}

/// Serves successors on one address, one after the other, for ever.
async fn offer(address: SocketAddr, shared: Arc<Shared>) {
    let place = loop {
        match MeetingPlace::open(address) {
            Ok(place) => break place,
            // Our own predecessor is there.
            Err(_) => sleep(OPEN_INTERVAL).await,
        }
    };
    loop {
        let stream = match place.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "nobody to hand the cache over to");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        match spawn_blocking(move || hand_over(&shared, stream)).await {
            Ok(Ok(answers)) => tracing::info!(answers, "handed the cache over to a successor"),
            Ok(Err(error)) => tracing::info!(%error, "a successor did not get the whole cache"),
            Err(error) => tracing::error!(%error, "handing over the cache failed"),
        }
    }
}

/// Writes the cache's entries to the successor; returns how many. After a reload or a flush meanwhile, the stream stops
/// without its end mark, and the successor keeps none of the entries.
///
/// # Errors
/// The successor has closed the stream, or reads too slowly.
pub fn hand_over(shared: &Shared, stream: UnixStream) -> Result<usize, TransferError> {
    let start = Instant::now();
    let mut stream = Timed {
        stream,
        deadline: start + HANDOVER_TIME,
    };
    let request = Request::read(&mut stream)?;
    stream.deadline = start + request.time;
    let deadline = stream.deadline;
    let (cache, setup) = (&shared.cache, shared.current.load_full());
    let flushes = cache.flushes();
    let still_true = || Arc::ptr_eq(&shared.current.load(), &setup) && cache.flushes() == flushes;
    let mut stream = BufWriter::with_capacity(BUFFER, stream);
    stream.write_all(&MAGIC)?;
    let words = serde_json::to_vec(&setup.words()).map_err(io::Error::other)?;
    write_frame(&mut stream, &words)?;
    let (mut bytes, mut answers, mut frame) = (0, 0, Vec::new());
    for entry in cache.iter() {
        bytes += entry.weight();
        let now = Instant::now();
        if bytes > request.bytes || now >= deadline {
            break;
        }
        if !still_true() {
            return Err(io::Error::other("the cache was flushed or the setup changed").into());
        }
        if entry.write(now, &mut frame) {
            write_frame(&mut stream, &frame)?;
            answers += 1;
        }
    }
    if !still_true() {
        return Err(io::Error::other("the cache was flushed or the setup changed").into());
    }
    stream.get_mut().deadline = start + HANDOVER_TIME;
    write_frame(&mut stream, &[])?;
    stream.flush()?;
    Ok(answers)
}
