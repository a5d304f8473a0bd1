//! Datagrams that leave for each question, when servers are slow, lose most of what they get, or allow only so many.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{group_of, new_names, question, says, settled};
use crate::common::dns::Message;
use crate::common::{Nodens, PATIENCE};
use crate::server::{Does, Query, Server};
use crate::wire::{extended_errors, gist};

/// Datagrams in hundredths for each question, rounded up.
fn percent(datagrams: usize, questions: usize) -> usize {
    (datagrams * 100).div_ceil(questions)
}

/// Names asked, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) asked: AtomicUsize,
    pub(crate) answered: AtomicUsize,
    /// SERVFAIL with an extended error.
    explained: AtomicUsize,
    other: AtomicUsize,
}

/// Asks new names at a steady pace for so long, each once, as a client without patience for a second try. Returns when
/// all have a reply.
pub(crate) fn ask_steadily(nodens: &Nodens, word: &str, per_second: u32, lasts: Duration) -> Load {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(nodens.address()).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("settable");
    let load = Load::default();
    let total = (f64::from(per_second) * lasts.as_secs_f64()).round();
    thread::scope(|scope| {
        scope.spawn(|| {
            let started = Instant::now();
            for number in 0..per_second * u32::try_from(lasts.as_secs()).expect("short") {
                let due = started + Duration::from_secs(1) / per_second * number;
                // The load's own pace.
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let question = question(&format!("{word}{number}.example. A")).payload(1232);
                socket.send(&question.message()).expect("sent");
                load.asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut buffer = [0; 2048];
        let mut replies = 0.0;
        while replies < total {
            let length = socket
                .recv(&mut buffer)
                .expect("every question gets a reply");
            let reply = Message::read(&buffer[..length]).expect("well-formed");
            let counter = match &gist(&reply)[..] {
                "NOERROR 192.0.2.1" => &load.answered,
                "SERVFAIL" if !extended_errors(&reply).is_empty() => &load.explained,
                _ => &load.other,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            replies += 1.0;
        }
    });
    load
}

/// In front of servers over UDP, all of them good.
fn before(servers: &[&Server], options: &str) -> Nodens {
    let servers: Vec<_> = servers.iter().map(|server| server.over("")).collect();
    settled(&group_of(&servers, options), &servers)
}

/// A sole server that needs this long, known for five questions: datagrams in percent of 15 further questions, asked one
/// after the other.
fn datagrams_to_a_sole_server(needs: Duration) -> usize {
    let server = Server::start(move |q: &Query| q.honest().after(needs));
    let nodens = before(&[&server], "");
    let ask_all = |word: &str, count: usize| {
        for name in new_names(word, count) {
            assert_eq!(says(&nodens, &name), "NOERROR 192.0.2.1");
        }
    };
    ask_all("warm", 5);
    let sent = server.count();
    ask_all("then", 15);
    percent(server.count() - sent, 15)
}

#[test]
fn a_sole_server_that_needs_a_millisecond_gets_each_question_about_once() {
    let percent = datagrams_to_a_sole_server(Duration::from_millis(1));
    assert!(percent <= 150, "{percent} datagrams for 100 questions");
}

#[test]
fn a_sole_server_that_needs_100_ms_gets_each_question_about_once() {
    let percent = datagrams_to_a_sole_server(Duration::from_millis(100));
    assert!(percent <= 150, "{percent} datagrams for 100 questions");
}

#[test]
fn a_sole_server_that_needs_longer_than_the_longest_hedge_delay_gets_each_question_about_once() {
    // `failover.hedge_max` is 200 ms.
    let percent = datagrams_to_a_sole_server(Duration::from_millis(300));
    assert!(percent <= 150, "{percent} datagrams for 100 questions");
}

#[test]
fn a_sole_server_that_needs_700_ms_gets_each_question_about_once() {
    let percent = datagrams_to_a_sole_server(Duration::from_millis(700));
    assert!(percent <= 150, "{percent} datagrams for 100 questions");
}

/// Allows so many packets in any second, as a VPC does for each interface; what is above vanishes.
#[derive(Clone)]
struct Allowance {
    per_second: usize,
    window: Arc<Mutex<(Option<Instant>, usize)>>,
}

impl Allowance {
    fn new(per_second: usize) -> Self {
        let window = Arc::default();
        Self { per_second, window }
    }

    fn allows(&self) -> bool {
        let mut window = self.window.lock().expect("no thread panics with it");
        let now = Instant::now();
        let started = *window.0.get_or_insert(now);
        if now - started >= Duration::from_secs(1) {
            *window = (Some(now), 0);
        }
        window.1 += 1;
        window.1 <= self.per_second
    }
}

/// A server with an allowance, probes included.
fn limited(allowance: &Allowance) -> Server {
    let allowance = allowance.clone();
    Server::start_for_all(move |q: &Query| {
        if allowance.allows() {
            q.honest().into()
        } else {
            Does::Silence
        }
    })
}

/// Three seconds for the loss to become known, then ten that count: datagrams to these servers in percent of questions.
fn ten_seconds(nodens: &Nodens, servers: &[&Server], per_second: u32) -> (usize, Load) {
    let sent = || servers.iter().map(|server| server.count()).sum::<usize>();
    ask_steadily(nodens, "warm", per_second, Duration::from_secs(3));
    let before = sent();
    let load = ask_steadily(nodens, "then", per_second, Duration::from_secs(10));
    let datagrams = sent() - before;
    (percent(datagrams, load.asked.load(Ordering::Relaxed)), load)
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_limit_upstream_below_what_clients_ask_is_not_made_worse() {
    let server = limited(&Allowance::new(200));
    let nodens = before(&[&server], "");
    let (percent, load) = ten_seconds(&nodens, &[&server], 300);
    assert!(
        percent <= 130,
        "{percent} datagrams for 100 questions; {load:?}"
    );
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_limit_that_three_servers_share_is_not_made_worse() {
    let allowance = Allowance::new(200);
    let servers = [
        limited(&allowance),
        limited(&allowance),
        limited(&allowance),
    ];
    let servers: Vec<&Server> = servers.iter().collect();
    let nodens = before(&servers, "");
    let (percent, load) = ten_seconds(&nodens, &servers, 300);
    assert!(
        percent <= 130,
        "{percent} datagrams for 100 questions; {load:?}"
    );
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_sole_server_that_needs_longer_than_a_try_may_take_gets_1_3_datagrams_a_question() {
    let server = Server::start(|q: &Query| q.honest().after(Duration::from_millis(700)));
    let nodens = before(&[&server], "try_timeout: 300ms");
    let (percent, load) = ten_seconds(&nodens, &[&server], 50);
    assert!(
        percent <= 130,
        "{percent} datagrams for 100 questions; {load:?}"
    );
}

/// In front of servers that all lose this share of what they get.
fn before_lossy(servers: usize, loss: u32) -> (Nodens, Vec<Server>) {
    let lossy = || {
        Server::start_for_all(move |q: &Query| {
            if fastrand::u32(..100) < loss {
                Does::Silence
            } else {
                q.honest().into()
            }
        })
    };
    let servers: Vec<_> = (0..servers).map(|_| lossy()).collect();
    let yaml: Vec<_> = servers.iter().map(|server| server.over("")).collect();
    (Nodens::start(&group_of(&yaml, "")), servers)
}

fn general_loss(servers: usize, loss: u32) {
    let (nodens, servers) = before_lossy(servers, loss);
    let servers: Vec<&Server> = servers.iter().collect();
    let (percent, load) = ten_seconds(&nodens, &servers, 200);
    assert!(
        percent <= 130,
        "{loss} % lost: {percent} datagrams for 100 questions; {load:?}"
    );
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn who_asks_little_of_servers_that_lose_half_is_always_answered() {
    let (nodens, _servers) = before_lossy(3, 50);
    let load = ask_steadily(&nodens, "few", 10, Duration::from_secs(15));
    let answered = load.answered.load(Ordering::Relaxed);
    assert_eq!(answered, load.asked.load(Ordering::Relaxed), "{load:?}");
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_sole_server_that_loses_20_percent_gets_1_3_datagrams_a_question() {
    general_loss(1, 20);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_sole_server_that_loses_50_percent_gets_1_3_datagrams_a_question() {
    general_loss(1, 50);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_sole_server_that_loses_90_percent_gets_1_3_datagrams_a_question() {
    general_loss(1, 90);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn three_servers_that_lose_20_percent_get_1_3_datagrams_a_question() {
    general_loss(3, 20);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn three_servers_that_lose_50_percent_get_1_3_datagrams_a_question() {
    general_loss(3, 50);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn three_servers_that_lose_90_percent_get_1_3_datagrams_a_question() {
    general_loss(3, 90);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn three_servers_that_are_silent_get_1_3_datagrams_a_question() {
    general_loss(3, 100);
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn no_more_than_max_queries_per_second_leave_and_everybody_hears_something() {
    let server = limited(&Allowance::new(200));
    let nodens = before(&[&server], "max_queries_per_second: 180");
    ask_steadily(&nodens, "warm", 300, Duration::from_secs(3));
    let sent = server.count();
    let started = Instant::now();
    let load = ask_steadily(&nodens, "then", 300, Duration::from_secs(10));
    let took = started.elapsed().as_secs_f64();
    let datagrams = u32::try_from(server.count() - sent).expect("few");
    // A second's worth may be saved up.
    let most = 180.0 * (took + 1.0);
    assert!(
        f64::from(datagrams) <= most,
        "{datagrams} in {took} s; {load:?}"
    );
    assert_eq!(load.other.load(Ordering::Relaxed), 0, "{load:?}");
    // A naive forwarder would have two thirds answered; the rest hears why.
    assert!(load.answered.load(Ordering::Relaxed) >= 1500, "{load:?}");
}

/// Twice as many questions as both servers may be sent.
fn two_servers_share_what_exceeds_max_queries_per_second(policy: &str) {
    let servers = [(); 2].map(|()| limited(&Allowance::new(200)));
    let servers: Vec<&Server> = servers.iter().collect();
    let nodens = before(
        &servers,
        &format!("max_queries_per_second: 90, policy: {policy}"),
    );
    ask_steadily(&nodens, "warm", 360, Duration::from_secs(3));
    let started = Instant::now();
    let load = ask_steadily(&nodens, "then", 360, Duration::from_secs(10));
    let took = started.elapsed();
    // `deadline` is 4 s.
    assert!(took < Duration::from_secs(15), "{took:?}; {load:?}");
    assert_eq!(load.other.load(Ordering::Relaxed), 0, "{load:?}");
    assert!(load.answered.load(Ordering::Relaxed) >= 1500, "{load:?}");
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn over_max_queries_per_second_of_two_ordered_servers_everybody_hears_something_in_time() {
    two_servers_share_what_exceeds_max_queries_per_second("ordered");
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn over_max_queries_per_second_of_two_fast_servers_everybody_hears_something_in_time() {
    two_servers_share_what_exceeds_max_queries_per_second("fastest");
}

#[test]
fn over_max_queries_per_second_a_stale_answer_is_served() {
    let server = Server::start(|q: &Query| q.says("NOERROR").answer("@ 1 A 192.0.2.1"));
    let nodens = before(&[&server], "max_queries_per_second: 5");
    assert_eq!(says(&nodens, "kept.example. A"), "NOERROR 192.0.2.1");
    let flood: Vec<_> = (0..10)
        .flat_map(|n| new_names(&format!("flood{n}-"), 20))
        .collect();
    let until = Instant::now() + Duration::from_secs(3);
    let mut names = flood.iter().cycle();
    while Instant::now() < until {
        // Whatever they get, the one that is kept is there.
        let some: Vec<_> = names.by_ref().take(5).cloned().collect();
        crate::client::all_at_once(&nodens, &some);
        assert_eq!(says(&nodens, "kept.example. A"), "NOERROR 192.0.2.1");
    }
}
