//! The questions of the tour, each with its expected result.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::client::{CacheUse, ClientReply, CounterGrowth};
use crate::cli::stub::StubTransport;
use crate::lab::scene::{Scene, Who};
use crate::message::labels::rcode_label;
use crate::message::wire::MAX_PAYLOAD;

/// A reply that takes this long came too late: an impatient stub resolver (`options timeout:1`) has turned to the next
/// server by then. It is also when a single try counts as lost, so that failover which waits for that shows.
const PROMPT: Duration = Duration::from_secs(1);

/// AAAA records of big.example.com.
const MANY: usize = 60;

/// A question of the tour.
pub(super) struct DemoStep {
    pub(super) name: &'static str,
    pub(super) record_type: RecordType,
    pub(super) transport: StubTransport,
    /// What is special about it.
    pub(super) title: &'static str,
    pub(super) promise: Promise,
}

/// The expected result of a question.
pub(super) struct Promise {
    /// In words.
    pub(super) words: &'static str,
    answer: ExpectedAnswer,
    cached: CacheUse,
    route: &'static str,
    from: Option<Who>,
}

/// The expected records of a reply.
#[derive(Clone, Copy)]
enum ExpectedAnswer {
    /// These records, in this order.
    Data(&'static [&'static str]),
    /// NXDOMAIN with an SOA, from one server, asked once.
    NoName,
    /// A part of this many records, with TC, and small enough for the client.
    SomeOf(usize),
    /// This many different records.
    AllOf(usize),
}

const REGISTRY: ExpectedAnswer = ExpectedAnswer::Data(&["10.1.20.5"]);

fn step(name: &'static str, title: &'static str, promise: Promise) -> DemoStep {
    DemoStep {
        name,
        record_type: RecordType::A,
        transport: StubTransport::Udp,
        title,
        promise,
    }
}

/// `registry.example.com`, the name whose failure brings users here.
pub(super) fn registry(
    title: &'static str,
    words: &'static str,
    cached: CacheUse,
    from: Option<Who>,
) -> DemoStep {
    let promise = Promise {
        words,
        answer: REGISTRY,
        cached,
        route: ".",
        from,
    };
    step("registry.example.com", title, promise)
}

pub(super) fn cluster_name() -> DemoStep {
    let promise = Promise {
        words: "cluster names go to kube-dns; the VPC's servers do not know them",
        answer: ExpectedAnswer::Data(&["10.96.12.34"]),
        cached: CacheUse::Miss,
        route: "cluster.local.",
        from: Some(Who::KubeDns),
    };
    step("web.shop.svc.cluster.local", "a Service", promise)
}

pub(super) fn no_such_name() -> DemoStep {
    let promise = Promise {
        words: "an NXDOMAIN is final: one server was asked, once",
        answer: ExpectedAnswer::NoName,
        cached: CacheUse::Miss,
        route: ".",
        from: Some(Who::VpcDns),
    };
    step("missing.example.com", "a name that does not exist", promise)
}

pub(super) fn big(transport: StubTransport) -> DemoStep {
    let (title, words, answer, cached, from) = match transport {
        StubTransport::Udp => (
            "more than fits a datagram",
            "as many whole records as fit, for clients that never ask again over TCP",
            ExpectedAnswer::SomeOf(MANY),
            CacheUse::Miss,
            Some(Who::VpcDns),
        ),
        StubTransport::Tcp => (
            "the same over TCP",
            "the whole answer, which was fetched and kept when UDP asked",
            ExpectedAnswer::AllOf(MANY),
            CacheUse::Hit,
            None,
        ),
    };
    let promise = Promise {
        words,
        answer,
        cached,
        route: ".",
        from,
    };
    DemoStep {
        record_type: RecordType::AAAA,
        transport,
        ..step("big.example.com", title, promise)
    }
}

pub(super) fn alias() -> DemoStep {
    let promise = Promise {
        words: "the chain arrives whole and in order",
        answer: ExpectedAnswer::Data(&["gateway.internal.example.com.", "10.1.30.9"]),
        cached: CacheUse::Miss,
        route: ".",
        from: Some(Who::VpcDns),
    };
    step("s3.internal.example.com", "a CNAME", promise)
}

pub(super) fn own_name() -> DemoStep {
    let promise = Promise {
        words: "answered from the configuration; no server was asked",
        answer: ExpectedAnswer::Data(&["10.1.40.7"]),
        cached: CacheUse::Own,
        route: "none",
        from: None,
    };
    step("ci-cache.example.com", "a name of `records:`", promise)
}

impl Promise {
    /// Whether the expectation was met; if not, why.
    pub(super) fn check(
        &self,
        scene: &Scene,
        reply: &ClientReply,
        counted: &CounterGrowth,
    ) -> Result<(), String> {
        self.answer.check(reply, counted)?;
        let cached = counted.cached();
        if cached != self.cached {
            let (is, wanted) = (cached.name(), self.cached.name());
            return Err(format!("counted as {is}, not as {wanted}"));
        }
        let route = counted.route();
        if route != self.route {
            return Err(format!("route {route:?}, not {:?}", self.route));
        }
        let from = counted.answered_by();
        let known: Vec<_> = from.iter().map(|server| scene.who(server)).collect();
        if known != self.from.map(Some).into_iter().collect::<Vec<_>>() {
            let wanted = self.from.map_or("nobody", Who::name);
            return Err(format!("answered by {from:?}, not by {wanted}"));
        }
        if reply.took >= PROMPT {
            return Err(format!("it took {} ms", reply.took.as_millis()));
        }
        Ok(())
    }
}

impl ExpectedAnswer {
    fn check(self, reply: &ClientReply, counted: &CounterGrowth) -> Result<(), String> {
        let data = reply.data();
        let (code, cut) = {
            let metadata = &reply.message.metadata;
            (metadata.response_code, metadata.truncation)
        };
        let wanted_code = match self {
            Self::NoName => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        };
        if code != wanted_code {
            let [code, wanted] = [code, wanted_code].map(|code| rcode_label(code.into()));
            return Err(format!("{code}, not {wanted}"));
        }
        if cut != matches!(self, Self::SomeOf(_)) {
            return Err(format!("TC is {cut}"));
        }
        let count = data.len();
        match self {
            Self::Data(wanted) if data != wanted => Err(format!("{data:?}, not {wanted:?}")),
            Self::NoName if count > 0 => Err(format!("{count} records in an NXDOMAIN")),
            Self::NoName if reply.message.authorities.is_empty() => Err("no SOA".to_owned()),
            Self::NoName if counted.tries() != 1 => {
                Err(format!("{} queries to upstream servers", counted.tries()))
            }
            Self::SomeOf(_) if reply.bytes > usize::from(MAX_PAYLOAD) => {
                Err(format!("{} bytes", reply.bytes))
            }
            Self::SomeOf(all) if count == 0 || count >= all => {
                Err(format!("{count} records of {all}"))
            }
            Self::AllOf(all) => {
                let different: std::collections::BTreeSet<_> = data.into_iter().collect();
                let count = different.len();
                (count == all)
                    .then_some(())
                    .ok_or_else(|| format!("{count} different records, not {all}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};

    use super::*;

    fn reply(code: ResponseCode, cut: bool, addresses: &[[u8; 4]]) -> ClientReply {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.truncation = cut;
        for &address in addresses {
            let data = RData::A(A(address.into()));
            message.add_answer(Record::from_rdata(Name::root(), 1, data));
        }
        ClientReply {
            message,
            bytes: 100,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_broken_promise_is_noticed() {
        let (ok, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
        let (one, two) = ([10, 1, 20, 5], [10, 1, 20, 6]);
        for (name, reply, answer, kept) in [
            ("as promised", reply(ok, false, &[one]), REGISTRY, true),
            ("another address", reply(ok, false, &[two]), REGISTRY, false),
            (
                "one too many",
                reply(ok, false, &[one, two]),
                REGISTRY,
                false,
            ),
            (
                "an error",
                reply(ResponseCode::ServFail, false, &[]),
                REGISTRY,
                false,
            ),
            ("cut", reply(ok, true, &[one]), REGISTRY, false),
            (
                "NXDOMAIN without SOA",
                reply(none, false, &[]),
                ExpectedAnswer::NoName,
                false,
            ),
            (
                "some of three",
                reply(ok, true, &[one, two]),
                ExpectedAnswer::SomeOf(3),
                true,
            ),
            (
                "none of three",
                reply(ok, true, &[]),
                ExpectedAnswer::SomeOf(3),
                false,
            ),
            (
                "not marked as cut",
                reply(ok, false, &[one]),
                ExpectedAnswer::SomeOf(3),
                false,
            ),
            (
                "both",
                reply(ok, false, &[one, two]),
                ExpectedAnswer::AllOf(2),
                true,
            ),
            (
                "the same twice",
                reply(ok, false, &[one, one]),
                ExpectedAnswer::AllOf(2),
                false,
            ),
        ] {
            let checked = answer.check(&reply, &CounterGrowth::default());
            assert_eq!(checked.is_ok(), kept, "{name}: {checked:?}");
        }
    }
}
