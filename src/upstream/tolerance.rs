//! Which parts of our queries one server accepts, learnt from its refusals. Pure: takes events and `now`.
//!
//! A form is learnt only when a question that was refused in another form is answered in this one. The form is used for a
//! while. Then a probe, and no client's query, tries the whole form again.

use std::time::{Duration, Instant};

use crate::message::form::QueryForm;
use crate::message::wire::rcode;
use crate::metrics::impl_label;

/// How long a form is used before a probe tries the whole form again. Unbound keeps what it knows of a server as long
/// (`infra-host-ttl`, 900 s). A shorter time costs more probes. With a longer one, a server that was replaced gets queries
/// without DNSSEC and large datagrams for longer.
const REMEMBERED: Duration = Duration::from_mins(15);
/// After so many questions that were refused in every form within [`ODD_QUESTIONS_TIME`], a refused question is not asked in
/// another form. A client may ask many such questions, and each costs one query then.
const ODD_QUESTIONS: u32 = 8;
/// See [`ODD_QUESTIONS`].
const ODD_QUESTIONS_TIME: Duration = Duration::from_secs(10);

/// How a server refused a form of query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It said FORMERR.
    Formerr,
    /// It said NOTIMP.
    Notimp,
    /// It said BADVERS, although we ask for version 0.
    Badvers,
    /// It said SERVFAIL to probes.
    Servfail,
    /// It said REFUSED to probes.
    Refused,
    /// Its message could not be read.
    Malformed,
    /// It did not answer, several times, while it answered the same question without OPT.
    Silence,
}

impl_label!(Refusal {
    Formerr => "formerr",
    Notimp => "notimp",
    Badvers => "badvers",
    Servfail => "servfail",
    Refused => "refused",
    Malformed => "malformed",
    Silence => "silence",
});

impl Refusal {
    /// The refusal for a response code that refuses a form.
    #[must_use]
    pub fn of(code: u16) -> Self {
        match code {
            rcode::NOTIMP => Self::Notimp,
            rcode::BADVERS => Self::Badvers,
            rcode::SERVFAIL => Self::Servfail,
            rcode::REFUSED => Self::Refused,
            _ => Self::Formerr,
        }
    }
}

/// The form in which one server is asked, and how it came to be known.
#[derive(Debug, Default)]
pub struct Tolerance {
    learnt: Option<Learnt>,
    /// When counting began, and questions refused in every form since.
    odd_questions: Option<(Instant, u32)>,
}

/// A form that was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// The form that the server accepts.
    pub form: QueryForm,
    /// How it refused the whole form.
    pub refusal: Refusal,
    /// When the form was first learnt.
    pub since: Instant,
    /// When a probe tries the whole form again.
    pub tried_anew: Instant,
}

impl Tolerance {
    /// The form that was learnt; None while the server accepts the whole form.
    #[must_use]
    pub fn learnt(&self) -> Option<Learnt> {
        self.learnt
    }

    /// The form in which the server is asked.
    #[must_use]
    pub fn form(&self) -> QueryForm {
        self.learnt.map_or(QueryForm::Full, |learnt| learnt.form)
    }

    /// The server refused a question in the whole form, and answered it in `form`.
    pub fn learn(&mut self, form: QueryForm, refusal: Refusal, now: Instant) {
        let known = self.learnt.filter(|known| known.form == form);
        self.learnt = Some(Learnt {
            form,
            refusal,
            since: known.map_or(now, |known| known.since),
            tried_anew: now + REMEMBERED,
        });
    }

    /// When a probe is to try the whole form again.
    #[must_use]
    pub fn trial_due(&self) -> Option<Instant> {
        self.learnt.map(|learnt| learnt.tried_anew)
    }

    /// The probe of the whole form is sent. Unless it is answered, the learnt form holds as long again.
    pub fn trial_sent(&mut self, now: Instant) {
        if let Some(learnt) = &mut self.learnt {
            learnt.tried_anew = now + REMEMBERED;
        }
    }

    /// The server accepted the whole form.
    pub fn forget(&mut self) {
        self.learnt = None;
    }

    /// A question was refused in every form: the server refuses the question rather than the form.
    pub fn refused_in_every_form(&mut self, now: Instant) {
        let counted = self
            .odd_questions
            .filter(|(since, _)| is_recent(*since, now));
        let (since, count) = counted.unwrap_or((now, 0));
        self.odd_questions = Some((since, count + 1));
    }

    /// Whether a refused question is worth asking in another form.
    #[must_use]
    pub fn may_ask_otherwise(&self, now: Instant) -> bool {
        self.odd_questions
            .is_none_or(|(since, count)| count < ODD_QUESTIONS || !is_recent(since, now))
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < ODD_QUESTIONS_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_learnt_holds_until_a_probe_has_tried_anew() {
        let (mut tolerance, start) = (Tolerance::default(), Instant::now());
        assert_eq!(
            (tolerance.form(), tolerance.trial_due()),
            (QueryForm::Full, None)
        );
        tolerance.learn(QueryForm::WithoutOpt, Refusal::Notimp, start);
        assert_eq!(tolerance.form(), QueryForm::WithoutOpt);
        let due = tolerance.trial_due().expect("it is tried anew");
        assert_eq!(due, start + REMEMBERED);

        // The probe is lost: the form of clients' queries does not change.
        tolerance.trial_sent(due);
        assert_eq!(tolerance.form(), QueryForm::WithoutOpt);
        assert_eq!(tolerance.trial_due(), Some(due + REMEMBERED));
        tolerance.forget();
        assert_eq!(
            (tolerance.form(), tolerance.trial_due()),
            (QueryForm::Full, None)
        );
    }

    #[test]
    fn learning_the_same_again_prolongs_it_and_does_not_begin_anew() {
        let (mut tolerance, start) = (Tolerance::default(), Instant::now());
        tolerance.learn(QueryForm::WithoutOpt, Refusal::Formerr, start);
        tolerance.learn(QueryForm::WithoutOpt, Refusal::Formerr, start + SECOND);
        let learnt = tolerance.learnt().expect("it was learnt");
        assert_eq!(learnt.since, start);
        assert_eq!(learnt.tried_anew, start + SECOND + REMEMBERED);
        tolerance.learn(QueryForm::Plain, Refusal::Formerr, start + 2 * SECOND);
        assert_eq!(
            tolerance.learnt().map(|learnt| learnt.since),
            Some(start + 2 * SECOND)
        );
    }

    #[test]
    fn many_questions_refused_in_every_form_end_the_experiments_for_a_while() {
        let (mut tolerance, start) = (Tolerance::default(), Instant::now());
        for _ in 0..ODD_QUESTIONS {
            assert!(tolerance.may_ask_otherwise(start));
            tolerance.refused_in_every_form(start);
        }
        assert!(!tolerance.may_ask_otherwise(start + SECOND));
        let later = start + ODD_QUESTIONS_TIME;
        assert!(tolerance.may_ask_otherwise(later));
        tolerance.refused_in_every_form(later);
        assert!(tolerance.may_ask_otherwise(later));
    }
}
