//! Any sequence of answers, silence and network errors, for one question's plan and the health of its servers. The plan ends by
//! its deadline. It does not ask a server again that said "not me", does not ask a server twice at once, and does not send more
//! queries than its extra queries allow. For each server that is not good, a probe is due or in flight.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nodens::config::FailoverConfig;
use nodens::transport::AnswerQuality;
use nodens::upstream::health::{Health, LostProbe, Reason, State};
use nodens::upstream::plan::{Candidate, Plan, Step, Tier, Tiers, TryFailure};

const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_millis(4000);
const TRY_TIMEOUT: Duration = Duration::from_millis(1000);
const SERVERS: usize = 6;

/// Reads the input octet by octet. After its end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }
}

struct Server {
    health: Health,
    probe_sent: Option<Instant>,
}

impl Server {
    fn check(&self, config: &FailoverConfig, now: Instant) {
        let health = &self.health;
        assert!((config.hedge_min..=config.hedge_max).contains(&health.hedge_delay(config)));
        assert!(health.answer_time(config) >= health.hedge_delay(config));
        assert!(health.loss_percent() <= 100);
        if health.state() != State::Good {
            let due = health.probe_due();
            assert!(
                self.probe_sent.is_some() || due.is_some(),
                "{:?} without a probe",
                health.state()
            );
            let latest = now + config.probe_max;
            assert!(due.is_none_or(|at| at <= latest), "a probe in a long time");
        }
    }

    /// An event at a server between two steps of the plan.
    fn event(&mut self, config: &FailoverConfig, now: Instant, what: u8, value: u8) {
        let rtt = MS * u32::from(value) * 4;
        let sent = now.checked_sub(rtt).unwrap_or(now);
        let others = (value & 1 == 0).then_some(MS * 3);
        let health = &mut self.health;
        match what % 10 {
            0 => {
                health.answered(config, now, rtt, AnswerQuality::Final, others);
                assert!(matches!(health.state(), State::Good | State::Poor));
            }
            1 => health.refused_alone(config, now),
            2 => health.expired(now),
            3 => health.lost(config, now, sent),
            4 => health.overdue(now, sent, value.into()),
            5 => {
                let before = health.state();
                health.unreachable(config, now, sent);
                assert!(health.state().suspected() || health.state() == before);
            }
            6 => health.unanswered(config, now, sent),
            7 => health.looped(config, now),
            8 if self.probe_sent.is_none() && health.probe_due().is_some_and(|at| at <= now) => {
                health.probe_sent();
                self.probe_sent = Some(now);
            }
            8 => {}
            _ => {
                let Some(sent) = self.probe_sent.take() else {
                    return;
                };
                if value & 2 == 0 {
                    health.probe_answered(config, now, (now - sent, false), others);
                    assert_ne!(health.state(), State::Silent);
                } else {
                    let reason = Reason::ProbeLost;
                    let jitter = f64::from(value) / 256.0;
                    health.probe_lost(
                        config,
                        now,
                        LostProbe {
                            sent,
                            reason,
                            jitter,
                        },
                    );
                }
            }
        }
        self.check(config, now);
    }
}

struct Asked {
    server: usize,
    sent: Instant,
    over: Option<TryFailure>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let config = FailoverConfig::default();
    let start = Instant::now();
    let mut servers: Vec<Server> = (0..SERVERS)
        .map(|_| Server {
            health: Health::new(&config, start),
            probe_sent: None,
        })
        .collect();
    let mut now = start;
    for _ in 0..input.next() % 64 {
        let [which, what, value, pause] = [(); 4].map(|()| input.next());
        now += MS * u32::from(pause) * 8;
        servers[usize::from(which) % SERVERS].event(&config, now, what, value);
    }
    query(&mut input, &config, &mut servers, now);
});

fn tiers(input: &mut Input<'_>, config: &FailoverConfig, servers: &[Server]) -> Tiers {
    let mut tiers = Tiers::new();
    let mut next = 0;
    while next < SERVERS {
        let shape = input.next();
        let size = usize::from(shape % 4 + 1).min(SERVERS - next);
        let candidate = |server: usize| Candidate {
            server,
            hedge_delay: servers[server].health.hedge_delay(config),
            answer_time: servers[server].health.answer_time(config),
        };
        tiers.push(Tier {
            candidates: (next..next + size).map(candidate).collect(),
            at_once: usize::from(shape >> 2 & 3).max(1),
            try_timeout: TRY_TIMEOUT,
        });
        next += size;
        if shape & 128 != 0 {
            break;
        }
    }
    tiers
}

fn query(input: &mut Input<'_>, config: &FailoverConfig, servers: &mut [Server], start: Instant) {
    let mut now = start;
    let end = now + DEADLINE;
    let tiers = tiers(input, config, servers);
    let last_resort = input.next() & 7 == 7;
    let delays = |tier: &Tier| {
        tier.candidates
            .iter()
            .map(|candidate| candidate.hedge_delay)
            .min()
    };
    let shortest = tiers.iter().filter_map(delays).min().expect("candidates");
    let tier_count = tiers.len();
    let mut plan = if last_resort {
        Plan::last_resort(tiers[0].candidates.clone(), now, end)
    } else {
        Plan::new(tiers, now, end)
    };
    let mut extra_left = input.next();
    let mut asked: Vec<Asked> = Vec::new();
    let (mut granted, mut failures, mut retries) = (0, 0, 0);
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 20_000, "it spins");
        let states: Vec<State> = servers.iter().map(|server| server.health.state()).collect();
        let may = |_, _| {
            let some = extra_left > 0;
            extra_left = extra_left.saturating_sub(1);
            granted += usize::from(some);
            some
        };
        match plan.step(now, |server| states[server].suspected(), may) {
            Step::Exhausted => {
                let is_declined = |one: &Asked| one.over == Some(TryFailure::Declined);
                let declined = |server| {
                    let mut of_server = asked.iter().filter(|one| one.server == server);
                    of_server.any(is_declined)
                };
                let returns = asked.iter().rev().find(|one| !declined(one.server));
                let until = now + MS * u32::from(input.next()) * 16;
                if returns.is_none_or(|one| !plan.wait_for_return(one.server, until, now)) {
                    break;
                }
            }
            Step::Overdue(number) => {
                let Asked { server, sent, .. } = asked[number];
                servers[server].health.overdue(now, sent, 7);
            }
            Step::Try { number, server, .. } => {
                assert!(now < end, "too late");
                assert_eq!(number, asked.len());
                let mut at_once = false;
                for earlier in asked.iter().filter(|earlier| earlier.server == server) {
                    match earlier.over {
                        Some(TryFailure::Declined) => {
                            panic!("asked again after it said that it cannot answer")
                        }
                        Some(TryFailure::Unreachable) => {
                            at_once |= now - earlier.sent < shortest;
                        }
                        None => assert!(now - earlier.sent >= shortest, "asked twice at once"),
                    }
                }
                if at_once {
                    retries += 1;
                    assert!(
                        retries <= 17,
                        "asked again and again where it cannot be reached"
                    );
                }
                asked.push(Asked {
                    server,
                    sent: now,
                    over: None,
                });
            }
            Step::Wait(at) => {
                assert!(at > now && at <= end, "a wait that does not wait");
                // The next event may come before the plan's time.
                let early = input.next();
                now = if early & 3 == 0 {
                    at
                } else {
                    at.min(now + MS * u32::from(early))
                };
            }
        }
        failures += usize::from(news(input, &mut plan, &mut asked, now));
        if let what @ 128.. = input.next() {
            let which = usize::from(what) % SERVERS;
            servers[which].event(config, now, input.next(), input.next());
        }
        let allowed = if last_resort {
            granted + failures + SERVERS
        } else {
            tier_count + granted + failures
        };
        assert!(
            plan.tries() <= allowed,
            "more tries than extra queries allow"
        );
    }
    assert!(now <= end);
}

/// One of the tries may end, or be continued over TCP or in another form. Returns whether a try ended.
fn news(input: &mut Input<'_>, plan: &mut Plan, asked: &mut [Asked], now: Instant) -> bool {
    let what = input.next();
    let count = asked.len();
    if count == 0 || what & 3 == 0 {
        return false;
    }
    let number = usize::from(what >> 2) % count;
    if asked[number].over.is_some() {
        return false;
    }
    match what & 3 {
        1 => {
            plan.failed(number, TryFailure::Declined);
            asked[number].over = Some(TryFailure::Declined);
            true
        }
        2 => {
            plan.failed(number, TryFailure::Unreachable);
            asked[number].over = Some(TryFailure::Unreachable);
            true
        }
        _ => {
            plan.goes_on(number, now);
            asked[number].sent = now;
            false
        }
    }
}
