//! Honest clients: 50 questions a second, every second one for a name that nobody asked before, every fourth over TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::dns::{Ask, Message, Over, rcode, read_frame, receive, rr, send_frame};

/// What the servers say; any other address is a lie that was believed.
pub(crate) const RIGHT: [u8; 4] = [192, 0, 2, 1];
/// Between two questions.
const EVERY: Duration = Duration::from_millis(20);
/// How long a client waits: as glibc does.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) asked: u32,
    pub(crate) lost: Vec<String>,
    /// Told that there was no answer.
    pub(crate) failed: Vec<String>,
    /// Told what no server said.
    pub(crate) wrong: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Heard {
    pub(crate) fn assert_all_answered(&self, case: &str) {
        self.assert_nothing_wrong(case);
        assert!(self.failed.is_empty(), "{case}: failed: {:?}", self.failed);
        assert!(self.lost.is_empty(), "{case}: lost: {:?}", self.lost);
    }

    pub(crate) fn assert_nothing_wrong(&self, case: &str) {
        println!(
            "{case}: {} asked, {} lost, {} failed, {} wrong, slowest {:.1} ms",
            self.asked,
            self.lost.len(),
            self.failed.len(),
            self.wrong.len(),
            self.slowest.as_secs_f64() * 1000.0
        );
        assert!(self.asked > 0, "{case}: nobody asked");
        assert!(self.wrong.is_empty(), "{case}: wrong: {:?}", self.wrong);
    }
}

/// They ask until they are told to stop.
pub(crate) struct Honest {
    stop: Arc<AtomicBool>,
    clients: JoinHandle<Heard>,
}

impl Honest {
    pub(crate) fn start(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let clients = thread::spawn(move || {
            let mut heard = Heard::default();
            while !told.load(Ordering::Acquire) {
                let begin = Instant::now();
                ask(server, &mut heard);
                thread::sleep(EVERY.saturating_sub(begin.elapsed()));
            }
            heard
        });
        Self { stop, clients }
    }

    pub(crate) fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Release);
        self.clients.join().expect("no client panics")
    }
}

/// Where a question comes from: below the ephemeral ports, so that it does not compete for these.
fn own(number: u32) -> SocketAddr {
    let port = u16::try_from(10_000 + number % 10_000).expect("below 20,000");
    (Ipv4Addr::new(127, 77, 0, 1), port).into()
}

fn connect(from: SocketAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&server.into(), TIMEOUT)?;
    Ok(socket.into())
}

fn ask(server: SocketAddr, heard: &mut Heard) {
    let number = heard.asked;
    heard.asked += 1;
    let name = match number % 2 {
        0 => "cached.example.".to_owned(),
        _ => format!("new-{number}.honest.example."),
    };
    let over = if number % 4 < 3 { Over::Udp } else { Over::Tcp };
    let question = Ask::new(&name, rr::A);
    let begin = Instant::now();
    let reply = match over {
        Over::Udp => UdpSocket::bind(own(number)).and_then(|socket| {
            socket.connect(server)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.send(&question.message())?;
            receive(&socket)
        }),
        Over::Tcp => connect(own(number), server).and_then(|mut stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            send_frame(&mut stream, &question.message())?;
            read_frame(&mut stream)
        }),
    };
    heard.slowest = heard.slowest.max(begin.elapsed());
    match reply {
        Err(error) => heard.lost.push(format!("{name} over {over:?}: {error}")),
        Ok(bytes) => match Message::read(&bytes) {
            Ok(message)
                if message.id == question.id
                    && message.rcode() == rcode::NOERROR
                    && message.records.len() == 1
                    && message.records[0].rdata == RIGHT => {}
            Ok(message) if message.id == question.id && message.rcode() == rcode::SERVFAIL => {
                heard
                    .failed
                    .push(format!("{name} over {over:?}: {message:?}"));
            }
            other => heard.wrong.push(format!("{name} over {over:?}: {other:?}")),
        },
    }
}
