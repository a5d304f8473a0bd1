//! Sends the tour's questions to the proxy. The proxy's metrics, read before and after, tell how each was answered.
//!
//! Plain sockets and hickory-proto's messages; the operating system's resolver is never used.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::stub::StubTransport;
use crate::message::wire::MAX_PAYLOAD;
use crate::process::metrics::Metrics;

/// A client that hears nothing for so long has long given up: the proxy's own deadline is 4 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// RFC 8914: the option that says why an answer is what it is.
const EDE: u16 = 15;

/// Workers add their counts to the process's four times a second; this is more than enough even on a busy machine.
const COUNTED_WITHIN: Duration = Duration::from_secs(3);

/// How often the metrics are looked at meanwhile.
const POLL: Duration = Duration::from_millis(30);

/// A reply.
pub(super) struct ClientReply {
    pub(super) message: Message,
    pub(super) bytes: usize,
    pub(super) took: Duration,
}

/// Asks `server` one question over `transport`. Timed is from sending to having the whole reply; over TCP the connection
/// is made before.
///
/// # Errors
/// No reply, or one that is not to this question.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    record_type: RecordType,
    transport: StubTransport,
) -> anyhow::Result<ClientReply> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_PAYLOAD);
    query.set_edns(edns);
    let bytes = query.to_vec().context("a query")?;
    let exchange = async {
        match transport {
            StubTransport::Udp => over_udp(server, &bytes).await,
            StubTransport::Tcp => over_tcp(server, &bytes).await,
        }
    };
    let (reply, took) = match timeout(PATIENCE, exchange).await {
        Ok(exchanged) => exchanged?,
        Err(_) => bail!("no reply within {} s", PATIENCE.as_secs()),
    };
    let message = Message::from_vec(&reply).context("a reply that does not parse")?;
    if message.metadata.id != query.metadata.id || message.queries != query.queries {
        bail!("a reply to another question");
    }
    Ok(ClientReply {
        message,
        bytes: reply.len(),
        took,
    })
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> anyhow::Result<(Vec<u8>, Duration)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(server).await?;
    let mut reply = vec![0; usize::from(u16::MAX)];
    let sent = Instant::now();
    socket.send(query).await?;
    let length = socket.recv(&mut reply).await?;
    let took = sent.elapsed();
    reply.truncate(length);
    Ok((reply, took))
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> anyhow::Result<(Vec<u8>, Duration)> {
    let mut stream = TcpStream::connect(server).await?;
    let mut frame = u16::try_from(query.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(query);
    let sent = Instant::now();
    stream.write_all(&frame).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    Ok((reply, sent.elapsed()))
}

impl ClientReply {
    /// The answer's data in its order, without TTLs.
    pub(super) fn data(&self) -> Vec<String> {
        let records = self.message.answers.iter();
        records.map(|record| record.data.to_string()).collect()
    }

    /// Why the reply is what it is, in the proxy's words (RFC 8914).
    pub(super) fn extended_error(&self) -> Option<String> {
        let edns = self.message.edns.as_ref()?;
        let EdnsOption::Unknown(_, bytes) = edns.option(EdnsCode::Unknown(EDE))? else {
            return None;
        };
        let (code, text) = bytes.split_first_chunk::<2>()?;
        let (code, text) = (u16::from_be_bytes(*code), String::from_utf8_lossy(text));
        Some(format!("EDE {code}, {text}"))
    }
}

/// How the proxy came by its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheUse {
    /// From the cache.
    Hit,
    /// By asking upstream servers.
    Miss,
    /// From the cache, expired, for want of anything better.
    Stale,
    /// From its own configuration.
    Own,
}

impl CacheUse {
    /// What the tour calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Own => "own",
        }
    }
}

/// The proxy's counters at one time, by name and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CounterValues(BTreeMap<String, u64>);

/// The differences between two readings.
#[derive(Debug, Default)]
pub(super) struct CounterGrowth(Vec<(String, u64)>);

impl CounterValues {
    /// The families that count queries and replies.
    pub(super) fn read(metrics: &Metrics) -> Self {
        let text = metrics.render();
        let counters = text.lines().filter_map(|line| {
            let (series, count) = line.rsplit_once(' ')?;
            let wanted = [
                "nodens_replies_total{",
                "nodens_cache_hits_total",
                "nodens_cache_misses_total",
                "nodens_stale_total{",
                "nodens_upstream_tries_total{",
            ];
            let wanted = wanted.iter().any(|name| series.starts_with(name));
            wanted.then_some(())?;
            Some((series.to_owned(), count.parse().ok()?))
        });
        Self(counters.collect())
    }

    fn until(&self, later: &Self) -> CounterGrowth {
        let grown = later.0.iter().filter_map(|(series, &count)| {
            let before = self.0.get(series).copied().unwrap_or(0);
            (count > before).then(|| (series.clone(), count - before))
        });
        CounterGrowth(grown.collect())
    }

    /// Waits until one more reply is counted than in this reading; what was counted beside it.
    ///
    /// # Errors
    /// The reply is not counted: a bug.
    pub(super) async fn after_a_reply(&self, metrics: &Metrics) -> anyhow::Result<CounterGrowth> {
        let started = Instant::now();
        let mut last = Self::read(metrics);
        loop {
            sleep(POLL).await;
            let now = Self::read(metrics);
            let counted = self.until(&now);
            // A worker publishes its counts one after the other; they are complete when two readings are equal.
            if now == last && counted.sum("nodens_replies_total") > 0 {
                return Ok(counted);
            }
            if started.elapsed() > COUNTED_WITHIN {
                bail!("the metrics do not count the reply");
            }
            last = now;
        }
    }
}

impl CounterGrowth {
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let grown = self.0.iter();
        grown.filter_map(move |(series, count)| {
            let labels = series.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *count))
        })
    }

    fn sum(&self, name: &str) -> u64 {
        self.of(name).map(|(_, count)| count).sum()
    }

    /// Hit, miss, stale or neither.
    pub(super) fn cached(&self) -> CacheUse {
        if self.sum("nodens_stale_total") > 0 {
            CacheUse::Stale
        } else if self.sum("nodens_cache_hits_total") > 0 {
            CacheUse::Hit
        } else if self.sum("nodens_cache_misses_total") > 0 {
            CacheUse::Miss
        } else {
            CacheUse::Own
        }
    }

    /// Queries sent to upstream servers that have ended, one way or the other.
    pub(super) fn tries(&self) -> u64 {
        self.sum("nodens_upstream_tries_total")
    }

    /// The zone of the route that the reply was counted for; `none` for what is answered here.
    pub(super) fn route(&self) -> String {
        let mut replies = self.of("nodens_replies_total");
        let route = replies.find_map(|(labels, _)| label(labels, "route"));
        route.unwrap_or("?").to_owned()
    }

    /// Upstream servers that gave a final answer.
    pub(super) fn answered_by(&self) -> Vec<String> {
        self.of("nodens_upstream_tries_total")
            .filter(|(labels, _)| label(labels, "outcome") == Some("answered"))
            .filter_map(|(labels, _)| label(labels, "server"))
            .map(ToOwned::to_owned)
            .collect()
    }
}

/// The value of a label in `{group="vpc",server="10.0.0.2"}`. Neither routes nor servers of the demo need escapes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels
        .trim_start_matches('{')
        .trim_end_matches('}')
        .split(',')
        .find_map(|pair| {
            let value = pair.strip_prefix(name)?.strip_prefix("=\"")?;
            value.strip_suffix('"')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_tell_what_became_of_a_query() {
        let reading = |series: &[(&str, u64)]| {
            let owned = series
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            CounterValues(owned.collect())
        };
        let miss = "nodens_cache_misses_total";
        let reply = r#"nodens_replies_total{rcode="NOERROR",route="."}"#;
        let answered =
            r#"nodens_upstream_tries_total{group="vpc",outcome="answered",server="127.0.0.1:5"}"#;
        let lost =
            r#"nodens_upstream_tries_total{group="vpc",outcome="lost",server="127.0.0.1:6"}"#;
        let before = reading(&[(miss, 3), (reply, 4)]);
        let after = reading(&[(miss, 4), (reply, 5), (answered, 1), (lost, 1)]);
        let counted = before.until(&after);
        assert_eq!(counted.cached(), CacheUse::Miss);
        assert_eq!(counted.route(), ".");
        assert_eq!(counted.answered_by(), ["127.0.0.1:5"]);
        assert_eq!(after.until(&after).cached(), CacheUse::Own);
    }
}
