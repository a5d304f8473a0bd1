//! Counts datagrams for each question while all servers of a group lose datagrams, and checks them against the budget.
//!
//! The network does not know which datagrams belong to one question of nodens. One instance with one worker asks one question
//! of a key at a time. The question begins with a datagram. It ends when an answer reaches the node, when a client gets a
//! failure, or when it may have ended without any reply. In doubt, a datagram counts as the first of a new question.

use std::collections::BTreeMap;

use crate::world::{Micros, SECOND};

/// For this long after the loss began, nodens may take it for a fault of a few servers, and give the tokens of extra queries
/// back. The check begins afterwards.
const NOTICED: Micros = 8 * SECOND;

/// The period over which the budget is checked, in seconds.
const WINDOW: usize = 10;

/// The budget: extra queries for each hundred questions; extra queries a second while fewer than `FEW_QUESTIONS` are asked; and
/// the number that is always saved up. From 167 questions a second on, there are at most 1.3 datagrams for a question. The
/// numbers are repeated here, so that a change of the program's constants alone fails.
const EXTRA_PERCENT: u64 = 27;
const EXTRA_PER_SECOND: u64 = 20;
const FEW_QUESTIONS: u64 = 40;
const SAVED: u64 = 50;

/// A question ends after this time. If its servers are all silent, and no client waits for it any more, it ends after
/// `QUESTION_UNHEARD`.
const QUESTION: Micros = 4 * SECOND;
const QUESTION_UNHEARD: Micros = 2 * SECOND;

/// A name and a type.
pub(crate) type Key = (usize, u16);

struct Question {
    began: Micros,
    /// A client got another reply meanwhile, so the question may end without a reply.
    unheard: bool,
}

#[derive(Default, Clone, Copy)]
struct Second {
    questions: u64,
    datagrams: u64,
}

/// A group that loses datagrams.
pub(crate) struct Loss {
    pub(crate) group: u8,
    begins: Micros,
    pub(crate) ends: Micros,
    questions: BTreeMap<Key, Question>,
    /// Each second since the budget is checked.
    seconds: Vec<Second>,
}

impl Loss {
    pub(crate) fn new(group: u8, now: Micros, ends: Micros) -> Self {
        Self {
            group,
            begins: now,
            ends,
            questions: BTreeMap::new(),
            seconds: Vec::new(),
        }
    }

    /// Counts a datagram with this question to the group. Returns a violation if the seconds before had too many datagrams.
    pub(crate) fn sent(&mut self, key: Key, now: Micros) -> Option<String> {
        let is_new = self.questions.get(&key).is_none_or(|question| {
            let lasts = if question.unheard {
                QUESTION_UNHEARD
            } else {
                QUESTION
            };
            now >= question.began + lasts
        });
        if is_new {
            let question = Question {
                began: now,
                unheard: false,
            };
            self.questions.insert(key, question);
        }
        let since = now.checked_sub(self.begins + NOTICED)?;
        let second = usize::try_from(since / SECOND).expect("seconds of a run");
        let mut over = None;
        while self.seconds.len() <= second {
            over = over.or_else(|| self.over_budget());
            self.seconds.push(Second::default());
        }
        self.seconds[second].questions += u64::from(is_new);
        self.seconds[second].datagrams += 1;
        over
    }

    /// Ends a question, because an answer reached the node.
    pub(crate) fn answered(&mut self, key: Key) {
        self.questions.remove(&key);
    }

    /// Notes that a client got a failure for the question, or another reply that is not the question's answer.
    pub(crate) fn told(&mut self, key: Key, failed: bool) {
        if failed {
            self.questions.remove(&key);
        } else if let Some(question) = self.questions.get_mut(&key) {
            question.unheard = true;
        }
    }

    /// Whether the last seconds had more datagrams than their questions pay for.
    fn over_budget(&self) -> Option<String> {
        let from = self.seconds.len().checked_sub(WINDOW)?;
        let last = &self.seconds[from..];
        let questions: u64 = last.iter().map(|second| second.questions).sum();
        let datagrams: u64 = last.iter().map(|second| second.datagrams).sum();
        let share = |questions: u64| questions * EXTRA_PERCENT / 100;
        let mut allowed = SAVED.max(share(last.iter().map(|one| one.questions).max()?));
        for (index, second) in last.iter().enumerate() {
            // The seconds that nodens counts do not begin at the same time as these.
            let around = &last[index.saturating_sub(1)..(index + 2).min(last.len())];
            let few = around.iter().any(|one| one.questions < FEW_QUESTIONS);
            let time = if few { EXTRA_PER_SECOND } else { 0 };
            allowed += time.max(share(second.questions) + 1);
        }
        (datagrams > questions + allowed).then(|| {
            format!(
                "group {} loses datagrams, and was sent {datagrams} for {questions} questions in {WINDOW} s",
                self.group
            )
        })
    }

    /// Datagrams and questions of the seconds so far.
    pub(crate) fn total(&self) -> (u64, u64) {
        let seconds = self.seconds.iter();
        seconds.fold((0, 0), |(datagrams, questions), second| {
            (datagrams + second.datagrams, questions + second.questions)
        })
    }
}
