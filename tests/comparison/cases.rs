//! The table: situations in three parts, each with what is right.

use crate::cell::Cell;
use crate::resolver::Kind;
use crate::{no_answer, unfair, wrong_data};

/// A row.
pub(crate) struct Case {
    pub(crate) situation: &'static str,
    pub(crate) right: &'static str,
    pub(crate) put: fn(Kind) -> Cell,
}

impl Case {
    pub(crate) const fn new(
        situation: &'static str,
        right: &'static str,
        put: fn(Kind) -> Cell,
    ) -> Self {
        Self {
            situation,
            right,
            put,
        }
    }
}

pub(crate) struct Part {
    pub(crate) heading: &'static str,
    pub(crate) cases: &'static [Case],
}

pub(crate) fn table() -> [Part; 3] {
    [
        Part {
            heading: "Wrong data",
            cases: wrong_data::CASES,
        },
        Part {
            heading: "Silence or failure where an answer exists",
            cases: no_answer::CASES,
        },
        Part {
            heading: "Slow, unfair, incomplete",
            cases: unfair::CASES,
        },
    ]
}
