//! Makes replies from the records of names, for [`crate::serving::local`] and [`crate::lab::stand_in`].
//!
//! Owns following CNAMEs, negative answers (RFC 2308), the header of a reply, and the calls of hickory-server.
//! Must not know where the names come from. Limits: QUERY only, no zone transfers, no DNSSEC.

use std::collections::HashMap;

use hickory_proto::op::{
    Edns, Header, HeaderCounts, LowerQuery, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::message::wire::OPT_LEN;

/// RFC 2308 §5: how long clients may cache an NXDOMAIN or NODATA of ours, in seconds. With a longer time, clients would see a
/// name that was added to the configuration too late.
pub(crate) const NEGATIVE_TTL: u32 = 60;

/// Records by name in lower-case wire format. The hasher is randomly seeded, because clients choose the names that are looked
/// up.
pub(crate) type Names = HashMap<Box<[u8]>, Vec<Stored>, ahash::RandomState>;

/// A record without its owner name, which is the key in [`Names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Seconds.
    pub(crate) ttl: u32,
    pub(crate) data: RData,
}

/// What an [`Authority`] has for a name.
pub(crate) enum Known<'a> {
    /// The name exists; without records it is an empty non-terminal.
    Name { records: &'a [Stored], apex: Name },
    /// The name is in the zone `apex` and does not exist.
    Nothing { apex: Name },
    /// The name is in no zone of the authority.
    Elsewhere,
}

/// A source of names and records.
pub(crate) trait Authority {
    /// Looks up `name` in `class`.
    fn look_up(&self, name: &Name, class: DNSClass) -> Known<'_>;
}

/// The contents of a reply.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) rcode: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) soa: Option<Record>,
}

impl Verdict {
    fn error(rcode: ResponseCode) -> Self {
        Self {
            rcode,
            answers: Vec::new(),
            soa: None,
        }
    }

    /// Whether the reply gets AA.
    fn is_authoritative(&self) -> bool {
        matches!(self.rcode, ResponseCode::NoError | ResponseCode::NXDomain)
    }
}

/// `name` in lower case, as labels with their lengths and the root's zero.
pub(crate) fn wire_key(name: &Name) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 1);
    for label in name {
        // A label is at most 63 bytes (RFC 1035 §3.1), which `Name` has checked.
        key.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    key.push(0);
    key.into_boxed_slice()
}

/// Answers one question, following CNAMEs as far as `authority` knows their targets.
///
/// The answer ends with a CNAME if its target is in no zone of the authority, or was followed before.
pub(crate) fn decide(authority: &impl Authority, query: &Query) -> Verdict {
    let mut answers: Vec<Record> = Vec::new();
    let mut owner = query.name().clone();
    let class = query.query_class();
    let (rcode, soa) = loop {
        match authority.look_up(&owner, class) {
            Known::Elsewhere if answers.is_empty() => break (ResponseCode::Refused, None),
            Known::Elsewhere => break (ResponseCode::NoError, None),
            // RFC 6604 §3: the RCODE is that of the last name of the chain.
            Known::Nothing { apex } => break (ResponseCode::NXDomain, Some(apex)),
            Known::Name { records, apex } => {
                let matching = answers_of(records, query.query_type(), &owner, class);
                if !matching.is_empty() {
                    answers.extend(matching);
                    break (ResponseCode::NoError, None);
                }
                let alias = answers_of(records, RecordType::CNAME, &owner, class);
                let Some(RData::CNAME(target)) = alias.first().map(|record| &record.data) else {
                    break (ResponseCode::NoError, Some(apex));
                };
                owner = target.0.clone();
                answers.extend(alias);
                if answers.iter().any(|record| record.name == owner) {
                    break (ResponseCode::NoError, None);
                }
            }
        }
    };
    Verdict {
        rcode,
        answers,
        soa: soa.map(|apex| soa_record(apex, class)),
    }
}

/// Replies to `request` over `handler`. A request with EDNS is answered with EDNS and as many bytes as it allows.
pub(crate) async fn reply<R: ResponseHandler>(
    authority: &impl Authority,
    request: &Request,
    mut handler: R,
) -> ResponseInfo {
    let mut verdict = judge(authority, request);
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = verdict.rcode;
    metadata.authoritative = verdict.is_authoritative();
    metadata.recursion_available = true;

    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload());
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
        if request.protocol() == Protocol::Udp {
            metadata.truncation = truncate_for_opt(&mut verdict, metadata, request);
        }
    }
    let response = builder.build(metadata, &verdict.answers, [], &verdict.soa, []);
    match handler.send_response(response).await {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(%error, "a reply of ours could not be sent");
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header {
                metadata,
                counts: HeaderCounts::default(),
            })
        }
    }
}

/// Truncates `verdict` so that the OPT fits into the message, and returns whether records were removed.
///
/// hickory-server truncates by itself, but it writes the OPT last, and leaves it out when the answers have filled the message.
/// The client would take us for a server without EDNS then.
fn truncate_for_opt(verdict: &mut Verdict, metadata: Metadata, request: &Request) -> bool {
    let mut scratch = Vec::new();
    let mut encoder = BinEncoder::new(&mut scratch);
    let room = usize::from(request.max_payload()) - OPT_LEN;
    encoder.set_max_size(u16::try_from(room).expect("less than a payload"));
    let whole = MessageResponseBuilder::from_message_request(request).build(
        metadata,
        &verdict.answers,
        [],
        &verdict.soa,
        [],
    );
    match whole.destructive_emit(&mut encoder) {
        Ok(info) if info.truncation => {
            verdict.answers.truncate(usize::from(info.counts().answers));
            verdict.soa = None;
            true
        }
        // The same error is handled when the reply itself is encoded.
        Ok(_) | Err(_) => false,
    }
}

fn judge(authority: &impl Authority, request: &Request) -> Verdict {
    if request.metadata.op_code != OpCode::Query {
        return Verdict::error(ResponseCode::NotImp);
    }
    match request.queries.queries() {
        [query] if is_transfer(query) => Verdict::error(ResponseCode::Refused),
        // The original spelling, because owner names in the reply are spelt as in the query.
        [query] => decide(authority, query.original()),
        _ => Verdict::error(ResponseCode::FormErr),
    }
}

fn is_transfer(query: &LowerQuery) -> bool {
    matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)
}

fn answers_of(
    records: &[Stored],
    wanted: RecordType,
    owner: &Name,
    class: DNSClass,
) -> Vec<Record> {
    records
        .iter()
        .filter(|stored| wanted == RecordType::ANY || stored.data.record_type() == wanted)
        .map(|stored| {
            let mut record = Record::from_rdata(owner.clone(), stored.ttl, stored.data.clone());
            record.dns_class = class;
            record
        })
        .collect()
}

/// The SOA by which clients know how long to cache a negative answer (RFC 2308 §3). There are no zone transfers, so its names
/// are invalid ones and its timers are never used.
fn soa_record(apex: Name, class: DNSClass) -> Record {
    let nobody = Name::from_labels(["nobody", "invalid"]).unwrap_or_default();
    let soa = SOA::new(apex.clone(), nobody, 1, 3_600, 1_200, 604_800, NEGATIVE_TTL);
    let mut record = Record::from_rdata(apex, NEGATIVE_TTL, RData::SOA(soa));
    record.dns_class = class;
    record
}
