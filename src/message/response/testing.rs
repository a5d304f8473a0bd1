//! Responses for tests of code that handles them.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Response;

/// A response to `name A` with the given addresses' last octets, or NXDOMAIN for none.
pub(crate) fn response(name: &str, ttl: u32, addresses: &[u8]) -> Response {
    let name = Name::from_ascii(name).expect("a name");
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(name.clone(), RecordType::A));
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    for last in addresses {
        let data = RData::A(A::new(192, 0, 2, *last));
        message.add_answer(Record::from_rdata(name.clone(), ttl, data));
    }
    if addresses.is_empty() {
        message.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, ttl);
        message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
    }
    Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
}

/// The same, truncated.
pub(crate) fn cut(name: &str, ttl: u32, addresses: &[u8]) -> Response {
    let mut message = response(name, ttl, addresses).view().message().to_vec();
    message[2] |= 2;
    Response::read(&message).expect("well-formed")
}
