//! Positions of names in RDATA, and whether they may be compressed (RFC 1035 §4.1.4, RFC 3597 §4, RFC 9460 §2.2).

use super::wire::{self, Record, rr};

/// Whether names in a type's RDATA may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// They may be: every resolver must understand pointers in these types.
    Compressed,
    /// RFC 3597 §4: they must be written out; some upstreams compress them all the same.
    WrittenOut,
}

/// The layout of a type's RDATA around its names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Octets before the names.
    pub(super) before: usize,
    pub(super) count: usize,
    /// Octets after the names.
    pub(super) after: usize,
    pub(super) names: Names,
}

/// The layout of a record's RDATA; none if it holds no names, or only names that are never compressed (RFC 3597 §4).
fn layout(message: &[u8], record: &Record) -> Option<Layout> {
    use Names::{Compressed, WrittenOut};
    let (before, count, after, names) = match record.rtype {
        rr::NS | rr::CNAME | rr::PTR | rr::MD | rr::MF | rr::MB | rr::MG | rr::MR => {
            (0, 1, 0, Compressed)
        }
        rr::MX => (2, 1, 0, Compressed),
        rr::MINFO => (0, 2, 0, Compressed),
        // Five 32-bit numbers follow.
        rr::SOA => (0, 2, 20, Compressed),
        rr::DNAME => (0, 1, 0, WrittenOut),
        rr::AFSDB | rr::RT => (2, 1, 0, WrittenOut),
        rr::RP => (0, 2, 0, WrittenOut),
        rr::PX => (2, 2, 0, WrittenOut),
        rr::SRV => (6, 1, 0, WrittenOut),
        rr::SVCB | rr::HTTPS => (2, 1, service_parameters(message, record)?, WrittenOut),
        rr::NAPTR => (naptr_before(message, record)?, 1, 0, WrittenOut),
        _ => return None,
    };
    Some(Layout {
        before,
        count,
        after,
        names,
    })
}

/// Whether the record's RDATA has a compressed name that RFC 3597 §4 wants written out.
pub(super) fn wrongly_compressed(message: &[u8], record: &Record) -> bool {
    // Most records are of types that hold no names, or names that may be compressed.
    layout(message, record).is_some_and(|layout| layout.names == Names::WrittenOut)
        && names(message, record).is_some_and(|(layout, names)| {
            let mut names = names[..layout.count].iter();
            names.any(|&at| wire::is_compressed(message, at))
        })
}

/// RFC 9460 §2.2: octets of the parameters, which follow a 16-bit number and the name.
fn service_parameters(message: &[u8], record: &Record) -> Option<usize> {
    let at = wire::skip_name(message, record.rdata_at() + 2).ok()?;
    record.end.checked_sub(at)
}

/// RFC 3403 §4.1: two 16-bit numbers and three strings stand before the name.
fn naptr_before(message: &[u8], record: &Record) -> Option<usize> {
    let mut at = record.rdata_at() + 4;
    for _ in 0..3 {
        at += usize::from(*message.get(at)?) + 1;
    }
    Some(at - record.rdata_at())
}

/// Offsets of the names in a record's RDATA; none if the names and the octets around them do not fill it exactly.
pub(super) fn names(message: &[u8], record: &Record) -> Option<(Layout, [usize; 2])> {
    let layout = layout(message, record)?;
    let mut names = [0; 2];
    let mut at = record.rdata_at() + layout.before;
    for name in &mut names[..layout.count] {
        *name = at;
        at = wire::skip_name(message, at).ok()?;
    }
    (at + layout.after == record.end).then_some((layout, names))
}
