//! Extended DNS errors (RFC 8914): why a reply is what it is, for the person on call.

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
/// The network itself said so (§4.24).
pub const NETWORK_ERROR: u16 = 23;

/// An extended DNS error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: String,
}

/// EDNS option code of an extended error (§2).
pub(super) const OPTION: u16 = 15;

impl ExtendedError {
    /// An error with its text.
    #[must_use]
    pub fn new(code: u16, text: &str) -> Self {
        Self {
            code,
            text: text.to_owned(),
        }
    }
    /// Whether it is a validator's verdict that the answer is forged or its signatures do not hold.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        (DNSSEC_BOGUS..=DNSKEY_MISSING).contains(&self.code)
    }
}
