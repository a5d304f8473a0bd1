//! Types and data of records in presentation form (RFC 1035 §5.1, RFC 3597), where hickory's own form differs.

use std::fmt::Write;

use hickory_proto::rr::rdata::{CNAME, NS, PTR};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::labels::presentation;

/// A type; one without a name by its number (RFC 3597 §5).
#[must_use]
pub fn type_text(record_type: RecordType) -> String {
    match record_type {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// The data of a record.
#[must_use]
pub fn data_text(data: &RData) -> String {
    match data {
        RData::TXT(txt) => {
            let strings: Vec<String> = txt.txt_data.iter().map(|text| quoted(text)).collect();
            strings.join(" ")
        }
        RData::CNAME(CNAME(name)) | RData::NS(NS(name)) | RData::PTR(PTR(name)) => name_text(name),
        RData::MX(mx) => format!("{} {}", mx.preference, name_text(&mx.exchange)),
        RData::SRV(srv) => {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            format!("{priority} {weight} {port} {}", name_text(&srv.target))
        }
        RData::Unknown { .. } | RData::NULL(_) => generic(data),
        data => data.to_string(),
    }
}

/// A name. hickory writes octets that cannot be printed in octal, where RFC 1035 has them in decimal.
fn name_text(name: &Name) -> String {
    if name.iter().flatten().all(u8::is_ascii_graphic) {
        return name.to_ascii();
    }
    let mut wire = Vec::new();
    for label in name {
        wire.push(u8::try_from(label.len()).unwrap_or_default());
        wire.extend_from_slice(label);
    }
    presentation(&wire)
}

/// A character-string of RFC 1035 §5.1; hickory prints a TXT's strings one after the other, without quotes.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from('"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => {
                quoted.push('\\');
                quoted.push(char::from(byte));
            }
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\{byte:03}");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// RDATA of a type without a form of its own (RFC 3597 §5); hickory prints base64.
fn generic(data: &RData) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = data.emit(&mut BinEncoder::new(&mut bytes)) {
        return format!("; not to be written: {error}");
    }
    let mut text = format!("\\# {}", bytes.len());
    for (position, byte) in bytes.iter().enumerate() {
        let separator = if position == 0 { " " } else { "" };
        let _ = write!(text, "{separator}{byte:02X}");
    }
    text
}
