//! Extended DNS errors (RFC 8914), which tell the person on call why a reply has its response code.
//!
//! Owns which of the servers' errors are passed on to clients: how many, and how many octets of UTF-8 text each may
//! have.

use super::wire;
use crate::budgets::{EXTENDED_ERROR_BYTES, EXTENDED_ERRORS_PASSED_ON};

/// None of the registered reasons (§4.1).
pub const OTHER: u16 = 0;
/// The answer is older than its TTL (§4.4).
pub const STALE_ANSWER: u16 = 3;
/// The first of the four verdicts of a validator (§4.7): DNSSEC Bogus, Signature Expired, Signature Not Yet Valid, DNSKEY
/// Missing.
pub const DNSSEC_BOGUS: u16 = 6;
/// The last of them (§4.10).
pub const DNSKEY_MISSING: u16 = 9;
/// The answer is not what the name's owner says (§4.5).
pub const FORGED_ANSWER: u16 = 4;
/// The operator of this server does not want the name resolved (§4.16).
pub const BLOCKED: u16 = 15;
/// The failure is a remembered one (§4.14, RFC 9520).
pub const CACHED_ERROR: u16 = 13;
/// The server is not up yet, or no longer (§4.15).
pub const NOT_READY: u16 = 14;
/// The client may not ask (§4.19).
pub const PROHIBITED: u16 = 18;
/// The NXDOMAIN is older than its TTL (§4.20).
pub const STALE_NXDOMAIN: u16 = 19;
/// No route holds the name (§4.21).
pub const NOT_AUTHORITATIVE: u16 = 20;
/// What the query asks for is not supported here (§4.22).
pub const NOT_SUPPORTED: u16 = 21;
/// No server could be reached, or none could answer (§4.23).
pub const NO_REACHABLE_AUTHORITY: u16 = 22;
/// The network reported the failure (§4.24).
pub const NETWORK_ERROR: u16 = 23;

/// An extended DNS error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: String,
    /// Servers' errors about the same question, which follow this one in the reply.
    pub servers: PassedOn,
}

/// Extended errors of servers, as the options of an OPT record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedOn(Vec<u8>);

/// EDNS option code of an extended error (§2).
pub(super) const OPTION: u16 = 15;

impl ExtendedError {
    /// An error with its text.
    #[must_use]
    pub fn new(code: u16, text: &str) -> Self {
        Self {
            code,
            text: text.to_owned(),
            servers: PassedOn::default(),
        }
    }

    /// The same error, followed by these errors of servers.
    #[must_use]
    pub fn with_servers(mut self, servers: PassedOn) -> Self {
        self.servers = servers;
        self
    }

    /// Whether it is a validator's verdict that the answer is forged or its signatures do not hold.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        (DNSSEC_BOGUS..=DNSKEY_MISSING).contains(&self.code)
    }
}

impl From<&ExtendedError> for PassedOn {
    /// Appends an error of ours behind another one.
    fn from(error: &ExtendedError) -> Self {
        let (mut option, text) = (Vec::new(), error.text.as_str());
        let text = &text[..text.floor_char_boundary(EXTENDED_ERROR_BYTES)];
        put(error.code, text.as_bytes(), &mut option);
        Self(option)
    }
}

impl PassedOn {
    /// The extended errors among the options of an OPT record.
    #[must_use]
    pub fn of(options: &[u8]) -> Self {
        let mut errors = Self::default();
        errors.add(options);
        errors
    }

    /// Adds the extended errors of another OPT record, each once, up to the limit.
    pub fn add(&mut self, options: &[u8]) {
        for error in extended_errors(options) {
            let mut known = 0;
            let twice = extended_errors(&self.0).any(|other| {
                known += 1;
                other == error
            });
            if !twice && known < EXTENDED_ERRORS_PASSED_ON {
                put(error.code, error.text.as_bytes(), &mut self.0);
            }
        }
    }

    /// The list without errors of this code, for which a better error is known.
    #[must_use]
    pub fn without(&self, code: u16) -> Self {
        let mut rest = Self::default();
        for error in extended_errors(&self.0).filter(|error| error.code != code) {
            put(error.code, error.text.as_bytes(), &mut rest.0);
        }
        rest
    }

    /// The options.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The extended errors among the options of an OPT record, up to the first that is malformed. A text that is not UTF-8 is
/// left out, one that is too long is cut between characters.
pub fn extended_errors(mut options: &[u8]) -> impl Iterator<Item = ExtendedError> {
    std::iter::from_fn(move || {
        loop {
            let (code, length) = (wire::u16_at(options, 0)?, wire::u16_at(options, 2)?);
            let data = options.get(4..4 + usize::from(length))?;
            options = &options[4 + usize::from(length)..];
            if code == OPTION
                && let Some(code) = wire::u16_at(data, 0)
            {
                // RFC 8914 §2: the text need not end with a null, but it may.
                let text = str::from_utf8(&data[2..]).unwrap_or("");
                let text = text.trim_end_matches('\0');
                let text = &text[..text.floor_char_boundary(EXTENDED_ERROR_BYTES)];
                return Some(ExtendedError::new(code, text));
            }
        }
    })
}

/// Appends an extended error as an option. Its text must not be longer than an option can be.
pub(super) fn put(code: u16, text: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(text.len() + 2).unwrap_or(u16::MAX);
    for word in [OPTION, length, code] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(text);
}

/// As many whole options as fit.
pub(super) fn fitting(options: &[u8], room: usize) -> &[u8] {
    let mut end = 0;
    while let Some(length) = wire::u16_at(options, end + 2) {
        let next = end + 4 + usize::from(length);
        if next > room.min(options.len()) {
            break;
        }
        end = next;
    }
    &options[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(code: u16, text: &[u8]) -> Vec<u8> {
        let mut option = Vec::new();
        put(code, text, &mut option);
        option
    }

    fn read(options: &[u8]) -> Vec<(u16, String)> {
        extended_errors(options)
            .map(|error| (error.code, error.text))
            .collect()
    }

    #[test]
    fn texts_are_utf8_and_short_and_errors_few() {
        let long = "é".repeat(EXTENDED_ERROR_BYTES);
        let options = [
            &b"\0\x0a\0\x02xy"[..],
            &option(15, b"blocked by list 7\0"),
            &option(17, b"\xff\xfe"),
            &option(15, b"blocked by list 7"),
            &option(4, long.as_bytes()),
            &b"\0\x0f\0\x01x"[..],
            &b"\0\x0f\0\x09cut"[..],
        ]
        .concat();
        let got = read(PassedOn::of(&options).as_bytes());
        assert_eq!(got[0], (15, "blocked by list 7".to_owned()));
        assert_eq!(got[1], (17, String::new()));
        assert_eq!((got[2].0, got[2].1.len()), (4, EXTENDED_ERROR_BYTES));
        assert_eq!(got.len(), 3);

        let many: Vec<u8> = (0..20).flat_map(|code| option(code, b"x")).collect();
        let mut passed_on = PassedOn::of(&many);
        assert_eq!(read(passed_on.as_bytes()).len(), EXTENDED_ERRORS_PASSED_ON);
        passed_on.add(&option(99, b""));
        assert_eq!(read(passed_on.as_bytes()).len(), EXTENDED_ERRORS_PASSED_ON);
        let rest = passed_on.without(0);
        assert_eq!(read(rest.as_bytes()).len(), EXTENDED_ERRORS_PASSED_ON - 1);
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let options = [option(1, b"abc"), option(2, b"de")].concat();
        for (room, want) in [(0, 0), (8, 0), (9, 9), (16, 9), (17, 17), (99, 17)] {
            assert_eq!(fitting(&options, room).len(), want, "{room}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(options: Vec<u8>, room in 0_usize..64) {
            let passed_on = PassedOn::of(&options);
            let read_again = PassedOn::of(passed_on.as_bytes());
            assert_eq!(read_again, passed_on);
            let _ = fitting(&options, room);
        }
    }
}
