//! A scripted upstream server: the test gives the octets of each answer.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::dns::{Over, failure, question_end, rcode, read_frame, send_frame, tcp_to, wire_name};
use super::sockets_at_port;

/// Returns the messages to send back, in this order, to a query and its transport.
type Answer = dyn Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync;

/// A gate that threads wait for. It is opened once.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("no thread panics with it") = true;
        self.0.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let open = self.0.0.lock().expect("no thread panics with it");
        drop(
            self.0
                .1
                .wait_while(open, |open| !*open)
                .expect("no thread panics with it"),
        );
    }
}

/// A server over UDP and TCP that answers by a script and remembers its queries. It ends when the value is dropped.
///
/// Probes of nodens do not reach the script: they get NXDOMAIN, which says that the server is alive.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

struct State {
    answer: Box<Answer>,
    /// Whether probes reach the script, too.
    scripts_probes: bool,
    asked: Mutex<Vec<Vec<u8>>>,
    silent: AtomicBool,
    stopped: AtomicBool,
}

impl StandIn {
    pub(crate) fn new<F>(answer: F) -> Self
    where
        F: Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    {
        Self::at_port(0, answer)
    }

    /// A server at an address of its own with this port; 0 for any free port.
    pub(crate) fn at_port<F>(port: u16, answer: F) -> Self
    where
        F: Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    {
        Self::start(port, false, Box::new(answer))
    }

    /// A server whose script gets probes, too.
    pub(crate) fn scripting_probes<F>(answer: F) -> Self
    where
        F: Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    {
        Self::start(0, true, Box::new(answer))
    }

    fn start(port: u16, scripts_probes: bool, answer: Box<Answer>) -> Self {
        let (socket, listener) = sockets_at_port(port);
        let address = socket.local_addr().expect("it is bound");
        let state = Arc::new(State {
            answer,
            scripts_probes,
            asked: Mutex::default(),
            silent: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let (udp, tcp) = (Arc::clone(&state), Arc::clone(&state));
        let threads = vec![
            thread::spawn(move || udp.serve_udp(&socket)),
            thread::spawn(move || tcp.serve_tcp(&listener)),
        ];
        Self {
            address,
            state,
            threads,
        }
    }

    /// The script's answer to a query, which is not counted.
    pub(crate) fn answer(&self, query: &[u8], over: Over) -> Vec<Vec<u8>> {
        (self.state.answer)(query, over)
    }

    /// Makes the server silent or ends that. A silent server answers nothing, not even probes, and still remembers its queries.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Release);
    }

    /// Number of queries so far, without probes.
    pub(crate) fn asked_count(&self) -> usize {
        self.state
            .asked
            .lock()
            .expect("no thread panics with it")
            .len()
    }

    /// All queries so far, without probes.
    pub(crate) fn asked(&self) -> Vec<Vec<u8>> {
        self.state
            .asked
            .lock()
            .expect("no thread panics with it")
            .clone()
    }
}

impl State {
    fn answers_to(&self, query: &[u8], over: Over) -> Vec<Vec<u8>> {
        let silent = self.silent.load(Ordering::Acquire);
        if !self.scripts_probes && is_probe(query) {
            return if silent {
                vec![]
            } else {
                vec![failure(query, rcode::NXDOMAIN)]
            };
        }
        self.asked
            .lock()
            .expect("no thread panics with it")
            .push(query.to_vec());
        if silent {
            return vec![];
        }
        (self.answer)(query, over)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            for answer in self.answers_to(&buffer[..length], Over::Udp) {
                // An error means that the client is gone.
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn serve_tcp(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            let state = Arc::clone(self);
            // Ends when the client closes the connection.
            thread::spawn(move || state.serve_connection(stream));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) {
        while let Ok(query) = read_frame(&mut stream) {
            for answer in self.answers_to(&query, Over::Tcp) {
                if send_frame(&mut stream, &answer).is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether a query is a probe of nodens: for the root (health), or for a name under `nodens.invalid` (loops).
pub(crate) fn is_probe(query: &[u8]) -> bool {
    let name = &query[12..question_end(query) - 4];
    name == [0] || name.ends_with(&wire_name("nodens.invalid"))
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        // Wakes both threads, which then see `stopped`.
        let woken = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[], self.address));
        if woken.is_ok() && tcp_to(self.address).is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}
