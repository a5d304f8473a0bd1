//! Names that nobody asked before, as many as one thread can send.

use std::io;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, Over, rcode, receive, rr, udp_to};
use crate::common::wait_for;
use crate::scene::{Scene, server};

/// How many seconds each of two floods lasts; `NODENS_FLOOD_SECONDS` has another number.
const SECONDS: u64 = 4;
/// Questions a second, if this machine can send so many.
const RATE: f64 = 100_000.0;
/// The share of what was taken at that rate which is certain to be taken, and what the stand-in for a server can answer.
const CERTAIN: f64 = 0.6;
const SERVER: f64 = 20_000.0;
/// Between two questions of an honest client.
const EVERY: Duration = Duration::from_millis(20);
const CASE: &str = "new names";

fn flood_time() -> Duration {
    let seconds = std::env::var("NODENS_FLOOD_SECONDS");
    Duration::from_secs(seconds.map_or(SECONDS, |seconds| seconds.parse().expect("seconds")))
}

/// Asks for new names at this rate. Returns how many were sent a second.
fn flood(scene: &Scene, word: &str, rate: f64) -> f64 {
    let socket = udp_to(scene.nodens.address()).expect("a socket");
    let (mut sent, start, time) = (0_u32, Instant::now(), flood_time());
    while start.elapsed() < time {
        // In one go what became due meanwhile: the flooder may have been without a CPU.
        while f64::from(sent) < start.elapsed().min(time).as_secs_f64() * rate {
            let name = format!("n{sent}.{word}.example.");
            socket
                .send(&Ask::new(&name, rr::A).message())
                .expect("sent");
            sent += 1;
        }
    }
    f64::from(sent) / time.as_secs_f64()
}

/// Asks for a cached name until the flood is over: over TCP, where each question has to be answered, and over UDP, where
/// the kernel may drop what it has no room for. Returns how many of the latter were asked and answered, and the slowest
/// answer over TCP.
fn ask_cached_names(scene: &Scene, until: impl Fn() -> bool) -> (u32, u32, Duration) {
    let address = scene.nodens.address();
    let socket = udp_to(address).expect("a socket");
    socket.set_nonblocking(true).expect("set");
    let (mut asked, mut answered, mut slowest) = (0, 0, Duration::ZERO);
    while !until() {
        let question = Ask::new("cached.example.", rr::A);
        let begin = Instant::now();
        socket.send(&question.message()).expect("sent");
        asked += 1;
        let reply = question.send(address, Over::Tcp);
        assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
        slowest = slowest.max(begin.elapsed());
        answered += received(&socket);
        thread::sleep(EVERY.saturating_sub(begin.elapsed()));
    }
    // What was asked before this is answered before it; the first may be dropped, too.
    let again = udp_to(address).expect("a socket");
    again.set_read_timeout(Some(EVERY)).expect("set");
    wait_for("an answer after the flood", || {
        let question = Ask::new("cached.example.", rr::A).message();
        again.send(&question).expect("sent");
        receive(&again).ok()
    });
    (asked, answered + received(&socket), slowest)
}

/// Reads what has arrived; how many datagrams that were.
fn received(socket: &UdpSocket) -> u32 {
    let mut buffer = [0; 512];
    let mut count = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "needs root and cgroups"]
fn new_names_at_a_hundred_thousand_a_second_leave_nothing_behind() {
    let scene = Scene::start_with(1024, server(), "cache: {max_size: 4MiB}");
    let taken = || scene.nodens.metric("nodens_queries_total", &[]);
    let dropped = || scene.nodens.metric("nodens_kernel_drops_total", &[]);
    let question = Ask::new("cached.example.", rr::A);
    question.send(scene.nodens.address(), Over::Udp);

    let (taken_before, dropped_before) = (taken(), dropped());
    let (sent, (asked, answered, slowest)) = thread::scope(|scope| {
        let flooder = scope.spawn(|| flood(&scene, "most", RATE));
        let heard = ask_cached_names(&scene, || flooder.is_finished());
        (flooder.join().expect("it does not panic"), heard)
    });
    let rate = (taken() - taken_before) / flood_time().as_secs_f64();
    println!(
        "{CASE}: {sent:.0} a second sent, {rate:.0} a second taken, {} dropped by the kernel; of cached names over UDP \
         {answered} of {asked} answered; over TCP {asked} of {asked}, slowest {slowest:?}",
        dropped() - dropped_before
    );
    assert!(sent > RATE / 4.0, "no flood");
    assert!(rate > 1_000.0, "it took {rate} a second");

    let certain = (rate * CERTAIN).min(SERVER);
    let heard = scene.during(CASE, || {
        let sent = flood(&scene, "fewer", certain);
        println!("{CASE}: {sent:.0} a second sent");
    });
    heard.assert_all_answered(CASE);
}
