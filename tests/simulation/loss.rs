//! What a question costs while all servers of a group lose datagrams, as the network sees it.
//!
//! Nobody tells which datagram is whose. One instance with one worker has one question of a key at a time: it begins with a
//! datagram, and ends when an answer reaches the node, when a client hears that it failed, or when it may have ended
//! without anybody hearing. Where that is in doubt, a datagram counts as a new question.

use std::collections::BTreeMap;

use crate::world::{Micros, SECOND};

/// How long after the loss begins nodens may take it for a few servers' own, whose extra queries are given back.
const NOTICED: Micros = 8 * SECOND;

/// The time over which the budget holds, in seconds.
const WINDOW: usize = 10;

/// Extra queries that a hundred questions pay for, those of a second while fewer questions than this are asked, and how many
/// are saved up at any rate. From 167 questions a second on, that makes 1.3 datagrams for a question at most. They stand here
/// once more, so that nobody changes them alone.
const EXTRA_PERCENT: u64 = 27;
const EXTRA_PER_SECOND: u64 = 20;
const FEW_QUESTIONS: u64 = 40;
const SAVED: u64 = 50;

/// A question is given up after this long; when its servers are all silent, and nobody waits for it any more, after this long.
const QUESTION: Micros = 4 * SECOND;
const QUESTION_UNHEARD: Micros = 2 * SECOND;

/// A name and a type.
pub(crate) type Key = (usize, u16);

struct Question {
    began: Micros,
    /// A client was told something else meanwhile: it may end unheard.
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
    /// Since it began to hold.
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

    /// A datagram with this question was sent to the group; says whether the seconds before it had too many.
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

    /// An answer reached the node.
    pub(crate) fn answered(&mut self, key: Key) {
        self.questions.remove(&key);
    }

    /// A client was told that its question failed, or something else that no answer of this question's is.
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
            // What nodens counts as a second begins elsewhere.
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
