//! Compression pointers of records that stand behind OPT, once OPT is taken out of the message.

use crate::message::rdata;
use crate::message::wire::{self, Malformed, Record};

/// A record that stood behind OPT moved forward by OPT's length; so must the pointers in it that lead behind OPT. `message` is
/// what arrived, `bytes` what is left of it.
pub(super) fn shift_pointers(
    message: &[u8],
    bytes: &mut [u8],
    record: &Record,
    opt: Record,
) -> Result<(), Malformed> {
    let shift = opt.end - opt.start;
    // RDATA that does not have its type's format is copied unchanged.
    let in_rdata = rdata::names(message, record);
    let in_rdata = in_rdata.iter().flat_map(|(layout, at)| &at[..layout.count]);
    for &name in std::iter::once(&record.start).chain(in_rdata) {
        if let Some(at) = final_pointer(bytes, name - shift) {
            shift_pointer(bytes, at, opt)?;
        }
    }
    Ok(())
}

/// Offset of the pointer that ends a name; none for a name without one.
fn final_pointer(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 | 64..=0xbf => return None,
            length @ 1..=63 => at += usize::from(length) + 1,
            0xc0..=0xff => return Some(at),
        }
    }
}

fn shift_pointer(bytes: &mut [u8], at: usize, opt: Record) -> Result<(), Malformed> {
    let target = usize::from(wire::u16_at(bytes, at).ok_or(Malformed)? & 0x3fff);
    if target >= opt.end {
        let moved = target - (opt.end - opt.start);
        wire::put_u16(
            bytes,
            at,
            0xc000 | u16::try_from(moved).map_err(|_| Malformed)?,
        );
    } else if target >= opt.start {
        return Err(Malformed);
    }
    Ok(())
}
