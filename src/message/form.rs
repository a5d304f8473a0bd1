//! What a query upstream carries beside its question, and what to leave out when a server refuses it.
//!
//! Owns the order in which forms are tried (RFC 6891 §7; RFC 6840 §5.7 for AD). `upstream::tolerance` remembers which
//! form each server accepts.

use super::response::Response;
use super::wire::{self, flag, rcode};

/// What a query upstream carries beside its question. Some servers, and firewalls in front of them, refuse part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryForm {
    /// Our OPT and the AD bit: the usual form.
    Full = 0,
    /// The AD bit alone.
    WithoutOpt = 1,
    /// Our OPT alone.
    WithoutAd = 2,
    /// Neither, as in RFC 1035.
    Plain = 3,
}

impl QueryForm {
    const ALL: [Self; 4] = [Self::Full, Self::WithoutOpt, Self::WithoutAd, Self::Plain];

    /// The form whose `as u8` this is.
    #[must_use]
    pub fn from_u8(value: u8) -> Self {
        let known = Self::ALL.get(usize::from(value));
        known.copied().unwrap_or(Self::Full)
    }

    /// Whether it carries our OPT.
    #[must_use]
    pub fn has_opt(self) -> bool {
        matches!(self, Self::Full | Self::WithoutAd)
    }

    /// Whether it carries the AD bit.
    #[must_use]
    pub fn has_ad(self) -> bool {
        matches!(self, Self::Full | Self::WithoutOpt)
    }

    /// The same without OPT.
    #[must_use]
    pub fn without_opt(self) -> Self {
        match self {
            Self::Full | Self::WithoutOpt => Self::WithoutOpt,
            Self::WithoutAd | Self::Plain => Self::Plain,
        }
    }

    /// The next form to try after a response with this code; none if nothing is left to leave out, or if the code does
    /// not depend on the form. FORMERR may mean OPT or the AD bit, NOTIMP and BADVERS mean OPT.
    #[must_use]
    pub fn after(self, code: u16) -> Option<Self> {
        match (code, self) {
            (rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS, Self::Full) => Some(Self::WithoutOpt),
            (rcode::FORMERR, Self::WithoutOpt) => Some(Self::WithoutAd),
            (rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS, Self::WithoutAd) => Some(Self::Plain),
            _ => None,
        }
    }

    /// The next form to try after the response to a probe. Some servers and firewalls answer OPT with SERVFAIL or
    /// REFUSED. Clients' queries are not asked again after these codes, because most often the name is the reason.
    #[must_use]
    pub fn after_probe(self, code: u16) -> Option<Self> {
        if refuses_probes_opt(code) {
            self.has_opt().then_some(self.without_opt())
        } else {
            self.after(code)
        }
    }
}

/// Whether a response with this code may refuse the query's form rather than its question.
#[must_use]
pub fn may_refuse_form(code: u16) -> bool {
    matches!(code, rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS)
}

/// Whether the response to a probe with this code may refuse the query's form.
#[must_use]
pub fn may_refuse_probes_form(code: u16) -> bool {
    may_refuse_form(code) || refuses_probes_opt(code)
}

/// Whether this code, which usually concerns the question, may concern OPT when it answers a probe.
fn refuses_probes_opt(code: u16) -> bool {
    matches!(code, rcode::SERVFAIL | rcode::REFUSED)
}

/// Whether the header says that the server could not answer. What follows the question is then not needed, and servers
/// that refuse OPT often encode it wrongly.
#[must_use]
pub fn failed(message: &[u8]) -> bool {
    let code = wire::flags(message) & flag::RCODE;
    !matches!(code, rcode::NOERROR | rcode::NXDOMAIN)
}

/// A response's whole code; that of the header if the rest cannot be read.
#[must_use]
pub fn code_of(message: &[u8]) -> u16 {
    Response::read(message).map_or(wire::flags(message) & flag::RCODE, |response| {
        response.rcode()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms in which a server that always gives this code is asked.
    fn tried(code: u16) -> Vec<QueryForm> {
        let mut forms = vec![QueryForm::Full];
        while let Some(next) = forms.last().and_then(|form| form.after(code)) {
            forms.push(next);
        }
        forms
    }

    #[test]
    fn what_is_left_out_depends_on_the_code() {
        use QueryForm::{Full, Plain, WithoutAd, WithoutOpt};
        for (name, code, forms) in [
            (
                "FORMERR",
                rcode::FORMERR,
                vec![Full, WithoutOpt, WithoutAd, Plain],
            ),
            ("NOTIMP", rcode::NOTIMP, vec![Full, WithoutOpt]),
            ("BADVERS", rcode::BADVERS, vec![Full, WithoutOpt]),
            ("SERVFAIL", rcode::SERVFAIL, vec![Full]),
            ("NOERROR", rcode::NOERROR, vec![Full]),
        ] {
            assert_eq!(tried(code), forms, "{name}");
        }
    }

    #[test]
    fn a_form_is_read_back_from_its_number() {
        for form in QueryForm::ALL {
            assert_eq!(QueryForm::from_u8(form as u8), form);
            assert!(!form.without_opt().has_opt());
            assert_eq!(form.without_opt().has_ad(), form.has_ad());
        }
    }

    #[test]
    fn badvers_is_read_from_opt_and_formerr_from_any_header() {
        let badvers = b"\0\0\x81\0\0\x01\0\0\0\0\0\x01\0\0\x02\0\x01\0\0\x29\x04\xd0\x01\0\0\0\0\0";
        assert_eq!(code_of(badvers), rcode::BADVERS);
        let lying = b"\0\0\x81\x01\0\x01\0\0\0\0\0\x01\0\0\x02\0\x01";
        assert_eq!(code_of(lying), rcode::FORMERR);
        assert_eq!(code_of(&lying[..12]), rcode::FORMERR);
    }
}
