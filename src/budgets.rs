//! Every fixed limit on what clients, servers and the process itself may make us hold. Those that can be configured stand
//! in `config::limits`; docs/architecture/limits.md lists both, with what happens at each limit and the test that shows it.

use std::time::Duration;

/// Octets of a query over UDP that are read; longer ones are malformed. Queries are far shorter.
pub const CLIENT_DATAGRAM_BYTES: usize = 2_048;

/// Reply buffers that a UDP socket keeps between batches, each of at most [`crate::message::wire::MAX_PAYLOAD`] octets.
/// A burst of replies may take more; they are given back.
pub const REPLY_BUFFERS_KEPT: usize = 256;

/// Octets of buffers that a client's connection keeps between replies; larger ones are given back.
pub const CONNECTION_BUFFER_KEPT: usize = 16 << 10;

/// Octets that clients' connections hold together: queries read in part, replies that wait to be sent, and room for more.
/// Over it, a worker whose connections hold more than its share closes the one whose client has taken nothing for longest.
pub const CONNECTION_BUFFERS: usize = 64 << 20;

/// Octets that the kernel keeps of what was sent on a client's connection and not taken; it doubles them, for its own
/// bookkeeping. The longest reply fits, and both ends are on one node.
pub const CONNECTION_SEND_BUFFER: usize = 64 << 10;

/// CPU time that a worker under real-time scheduling may use in a second. It takes this from everybody else on the node; over
/// it, it goes on under normal scheduling for [`REALTIME_PAUSE`].
pub const REALTIME_CPU_PER_SECOND: Duration = Duration::from_millis(500);

/// How long a worker that used more CPU time than that goes on under normal scheduling.
pub const REALTIME_PAUSE: Duration = Duration::from_secs(10);

/// CPU time that a worker under real-time scheduling may use without sleeping before the kernel ends the process: the
/// last resort if the worker does not get to check its budget.
pub const REALTIME_WITHOUT_SLEEP: Duration = Duration::from_secs(2);

/// Prefetches that a worker has in flight: they must not take the place of queries that clients wait for.
pub const PREFETCHES_IN_FLIGHT: usize = 64;

/// Tasks of flights that are over which a worker keeps for the next ones, of some 1.7 kB each.
pub const FLIGHT_TASKS_KEPT: usize = 64;

/// Failures remembered by the process (RFC 9520); each is a name that somebody keeps asking for.
pub const FAILURES: usize = 8_192;

/// Questions of which the process remembers when they were last asked upstream: more than are answered within a second on most
/// nodes. Each takes 8 octets.
pub const LAST_ASKED: usize = 4_096;

/// UDP sockets in use for one server by one worker: so many random ports at once make a guess as many times as hard, and
/// each carries enough for a node.
pub const UPSTREAM_PORTS: usize = 32;

/// Replaced UDP sockets that wait for late answers, per server and worker. At the limit, a socket that lost a query stays
/// in use until one of them is done: a server that is gone loses every query, and would cost a socket each.
pub const UPSTREAM_PORTS_RETIRED: usize = 32;

/// Messages that match no query, after which an upstream UDP socket is closed and its queries are asked again from
/// another port: somebody may be guessing IDs (RFC 5452 §9.2). With this many guesses at 65,536 IDs, one in 2,048 hits.
pub const UNMATCHED_PER_PORT: u32 = 32;

/// Times that a query is asked again on another socket because its socket was closed. Then a query over UDP goes to the same
/// server over TCP, and otherwise the server counts as unable to answer it.
pub const MOVES_PER_EXCHANGE: u8 = 8;

/// Queries in flight on one upstream socket, be it UDP or a stream: a server that answers none must not make memory grow.
pub const IN_FLIGHT_PER_SOCKET: usize = 4_096;

/// Streams open to one server by one worker. Many servers answer one query at a time on a stream, so this is how many of a
/// worker's queries such a server answers at once.
pub const UPSTREAM_STREAMS: usize = 16;

/// Streams to one server by one worker if the server answers the queries of a stream in parallel, and closes no stream early.
/// One is enough for most.
pub const UPSTREAM_STREAMS_PARALLEL: usize = 4;

/// Octets not yet sent on one upstream stream: a server that does not read must not make memory grow.
pub const UPSTREAM_STREAM_UNSENT: usize = 64 << 10;

/// Addresses of one host name that become servers; the lowest are taken. A name with more is probably no name of DNS
/// servers.
pub const HOST_ADDRESSES: usize = 16;

/// Octets of the header of a response over HTTPS; the server is told so, and more ends the request.
pub const UPSTREAM_HTTP_HEADER_BYTES: u32 = 16 << 10;

/// Queries that wait for a stream to one server, per worker. At the limit the server counts as unable to answer.
pub const WAITING_FOR_STREAM: usize = 4_096;

/// Open files that clients' connections leave to upstream sockets, the admin interface and reloads: enough for the sockets
/// of 10 servers and 8 workers. Where the process may open less than twice as many, clients leave half.
pub const FILES_NOT_FOR_CLIENTS: usize = 8_192;

/// Connections of clients to one address that were accepted and that their workers have not taken yet. Each is an open file
/// beyond those that are counted.
pub const CONNECTIONS_HANDED_OVER: usize = 4;

/// Connections to one admin address. At the limit the oldest is closed.
pub const ADMIN_CONNECTIONS: usize = 64;

/// How long a client of the admin interface may take to send the header of a request.
pub const ADMIN_HEADER_TIME: Duration = Duration::from_secs(5);

/// Requests of one connection to the admin interface that are answered in quick succession; the page begins with a handful.
pub const ADMIN_REQUESTS_AT_ONCE: u32 = 20;

/// The pause after which one more request is answered.
pub const ADMIN_REQUEST_INTERVAL: Duration = Duration::from_millis(100);

/// Questions that the page at the admin address may ask of all servers of a route in quick succession.
pub const PAGE_QUESTIONS: u32 = 5;

/// The pause after which it may ask one more question.
pub const PAGE_QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// How long each server may take to answer such a question.
pub const PAGE_QUESTION_TIME: Duration = Duration::from_secs(3);

/// Round-trip times of a server that are kept, one a second.
pub const RTT_HISTORY: usize = 120;

/// Different failures that /status shows; the oldest one makes room.
pub const RECENT_FAILURES: usize = 32;

/// Names, and clients, that a worker counts at once. A name that makes up more than one in so many of a worker's queries is
/// always among them.
pub const TOP_COUNTED: usize = 256;

/// Names, and clients, of those that /status shows.
pub const TOP_SHOWN: usize = 20;

/// Entries of the cache that one request for a list may have: of further ones only the number is told.
pub const CACHE_ENTRIES_LISTED: usize = 10_000;

/// Octets of an answer of the admin interface that our own commands read: a list of as many entries of the cache has fewer.
pub const ADMIN_ANSWER_BYTES: usize = 16 << 20;

/// How long an instance that starts takes over answers from its predecessor: a start is delayed by at most this time.
pub const HANDOVER_TIME: Duration = Duration::from_secs(2);

/// How long an instance that starts leaves the node's addresses to others that serve them, while its own servers do not answer. A
/// kube-proxy knows a new Service within a second or two.
pub const TAKE_OVER_TIME: Duration = Duration::from_secs(5);

/// How long an instance that has taken the node's addresses from others leaves them the TCP connections that they have. A client
/// waits for an answer for 5 s (`timeout` in resolv.conf(5)).
pub const CONNECTIONS_OF_OTHERS: Duration = Duration::from_secs(5);

/// Octets of the description of a predecessor's setup: a hundred for each route.
pub const HANDOVER_SETUP_BYTES: usize = 4 << 20;

/// Octets of an entry of a predecessor: a message of 65,535 octets, what is said of it, and its extended errors.
pub const HANDOVER_ENTRY_BYTES: usize = 68 << 10;

/// Targets of aliases that are looked up for one question, each by its own route. Real chains lead from one zone into another
/// once or twice.
pub const ALIAS_STEPS: u8 = 8;

/// Octets of the text of an extended error (RFC 8914) in a reply.
pub const EXTENDED_ERROR_BYTES: usize = 200;

/// Extended errors of servers that are kept with an answer or a failure, and passed on to clients. Servers send one, two when a
/// validator explains itself.
pub const EXTENDED_ERRORS_PASSED_ON: usize = 4;

/// Queries beyond the first that a group's servers may be sent for each hundred questions: hedges, resends, and moves to
/// another server. With 20 % of all datagrams lost, every question can still be answered (25); with probes, it stays below
/// 1.3 queries a question.
pub const EXTRA_QUERIES_PERCENT: i64 = 27;

/// Such queries allowed in a second, while fewer than [`FEW_QUESTIONS`] are asked in it: a link that loses half of all
/// datagrams needs one for each question, or clients are not answered. 20 are 2 % of what a VPC's resolver takes from
/// one interface.
pub const EXTRA_QUERIES_PER_SECOND: i64 = 20;

/// Questions a second from which on only [`EXTRA_QUERIES_PERCENT`] counts.
pub const FEW_QUESTIONS: u64 = 40;

/// Records of a reply's answer section in a line of the query log, and octets of each: a line has some 300 octets, and a few
/// thousand at most, whatever the network sends.
pub const QUERY_LOG_RECORDS: usize = 3;
/// Octets of each such record: the longest names and addresses fit; long texts are cut.
pub const QUERY_LOG_RECORD_BYTES: usize = 300;
/// Octets of all extended errors in a line of the query log: enough for the results of half a dozen servers.
pub const QUERY_LOG_ERROR_BYTES: usize = 1_000;

/// Threads for work that would block the main thread: removing entries after a reload, lists of the cache, its
/// transfer. They are never ended, because a node that has reached its limit of processes gives no new ones. Further
/// work waits.
pub const BLOCKING_THREADS: usize = 8;

/// Lines of the log that wait to be written.
pub const LOG_LINES_WAITING: usize = 4_096;
