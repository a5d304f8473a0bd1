//! The stub resolver before servers on loopback that answer, refuse, truncate or stay silent.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{RData, Record};

use super::*;
use crate::lab::stand_in::{BlackHole, StandIn, Zone, kube_dns, vpc_dns};

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
/// What a silent server costs in these tests; answers on loopback take a hundredth of it.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

async fn start(zones: &[Zone]) -> StandIn {
    StandIn::start(zones, LOOPBACK.into()).await.unwrap()
}

fn silent() -> (BlackHole, SocketAddr) {
    let hole = BlackHole::bind(LOOPBACK.into()).unwrap();
    let address = hole.address().unwrap();
    (hole, address)
}

/// An address where nobody listens: that of a black hole which is no more.
fn closed() -> SocketAddr {
    silent().1
}

#[tokio::test]
async fn a_silent_first_server_costs_its_timeout_and_the_second_answers() {
    let (_hole, hole) = silent();
    let vpc = start(&vpc_dns()).await;
    let servers = [hole, vpc.address()];
    let (waited, found) = plain_stub_wait(&servers, "registry.example.com", SHORT, 2).await;
    let expected: [IpAddr; 2] = [
        "10.1.20.5".parse().unwrap(),
        "2001:db8:20::5".parse().unwrap(),
    ];
    assert_eq!(found.unwrap(), expected);
    assert!(waited >= SHORT, "{waited:?}");
    assert_eq!(vpc.queries(), 2);
}

#[tokio::test]
async fn nothing_is_remembered_from_one_call_to_the_next() {
    let (_hole, hole) = silent();
    let vpc = start(&vpc_dns()).await;
    let servers = [hole, vpc.address()];
    for _ in 0..2 {
        let (waited, found) = plain_stub_wait(&servers, "gitlab.example.com", SHORT, 2).await;
        assert_eq!(found.unwrap().len(), 1);
        assert!(waited >= SHORT, "{waited:?}");
    }
}

#[tokio::test]
async fn only_silent_servers_cost_every_round() {
    let (_hole, hole) = silent();
    let (waited, found) = plain_stub_wait(&[hole], "gitlab.example.com", SHORT, 2).await;
    let reason = found.unwrap_err();
    assert!(waited >= 2 * SHORT, "{waited:?}");
    assert!(reason.contains("timed out"), "{reason}");
    assert!(reason.contains(&hole.to_string()), "{reason}");
    assert!(reason.contains("2 queries"), "{reason}");
}

#[tokio::test]
async fn a_closed_port_and_a_refusal_cost_nothing() {
    let kube = start(&kube_dns()).await;
    let vpc = start(&vpc_dns()).await;
    let servers = [closed(), kube.address(), vpc.address()];
    let (waited, found) = plain_stub_wait(&servers, "gitlab.example.com", LONG, 2).await;
    assert_eq!(found.unwrap().len(), 1);
    assert!(waited < LONG, "{waited:?}");
    assert_eq!(kube.queries(), 2);
}

#[tokio::test]
async fn failures_are_said_in_words() {
    let kube = start(&kube_dns()).await;
    let vpc = start(&vpc_dns()).await;
    let cases = [
        (vec![kube.address()], "gitlab.example.com", "REFUSED from"),
        (vec![vpc.address()], "missing.example.com", "NXDOMAIN from"),
        (vec![vpc.address()], "example.com", "NODATA from"),
        (vec![closed()], "example.com", "refused"),
        (vec![], "example.com", "no nameserver"),
        (vec![vpc.address()], "bad..name", "is no name"),
    ];
    for (servers, owner, expected) in cases {
        let (_, found) = plain_stub_wait(&servers, owner, LONG, 1).await;
        let reason = found.unwrap_err();
        assert!(reason.contains(expected), "{owner}: {reason}");
    }
}

#[tokio::test]
async fn a_refusal_from_all_is_asked_for_again_and_then_told() {
    let kube = start(&kube_dns()).await;
    let stub = Stub::new(vec![kube.address()], LONG, 3);
    let heard = stub
        .ask(&name("example.org."), RecordType::A)
        .await
        .unwrap();
    assert_eq!(heard.outcome(), StubOutcome::Failure(ResponseCode::Refused));
    assert_eq!(kube.queries(), 3);
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let vpc = start(&vpc_dns()).await;
    for edns in [false, true] {
        let stub = Stub {
            edns,
            ..Stub::new(vec![vpc.address()], LONG, 1)
        };
        let heard = stub
            .ask(&name("big.example.com."), RecordType::AAAA)
            .await
            .unwrap();
        assert_eq!(
            (heard.transport, heard.addresses().count()),
            (StubTransport::Tcp, 60)
        );
        assert_eq!(heard.message.edns.is_some(), edns);
    }
}

#[tokio::test]
async fn a_cname_that_leads_out_of_the_answer_is_nodata() {
    let zone = Zone::new("test").cname("away.test", "elsewhere.example");
    let server = start(&[zone]).await;
    let stub = Stub::new(vec![server.address()], LONG, 1);
    let heard = stub.ask(&name("away.test."), RecordType::A).await.unwrap();
    assert_eq!(heard.outcome(), StubOutcome::NoData);
    assert_eq!(server.queries(), 1, "a stub resolver chases nothing");
}

#[test]
fn resolv_conf_is_read_as_glibc_does() {
    let pod = Stub::from_resolv_conf(
        "nameserver 10.96.0.10\nnameserver fd00::a\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
         search default.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5 timeout:1 attempts:3 edns0\n",
    )
    .unwrap();
    let servers = ["10.96.0.10:53", "[fd00::a]:53", "10.0.0.2:53"];
    assert_eq!(pod.servers, servers.map(|text| text.parse().unwrap()));
    assert_eq!(pod.search[0], name("default.svc.cluster.local"));
    assert_eq!((pod.search.len(), pod.ndots), (3, 5));
    assert_eq!((pod.timeout, pod.attempts), (Duration::from_secs(1), 3));
    assert!(pod.edns);

    let empty = Stub::from_resolv_conf("# nothing\n").unwrap();
    assert_eq!(empty.servers, ["127.0.0.1:53".parse().unwrap()]);
    assert_eq!((empty.timeout, empty.attempts), (LONG, 2));
    assert_eq!((empty.ndots, empty.edns), (1, false));
    assert!(Stub::from_resolv_conf("search a..b\n").is_err());
}

#[test]
fn the_search_list_goes_before_or_after_by_ndots() {
    let mut stub = Stub::new(Vec::new(), LONG, 1);
    stub.search = vec![name("svc.cluster.local"), name("cluster.local.")];
    stub.ndots = 2;
    for (asked, expected) in [
        ("web.", vec!["web."]),
        (
            "web",
            vec!["web.svc.cluster.local.", "web.cluster.local.", "web."],
        ),
        (
            "a.b",
            vec!["a.b.svc.cluster.local.", "a.b.cluster.local.", "a.b."],
        ),
        (
            "a.b.c",
            vec!["a.b.c.", "a.b.c.svc.cluster.local.", "a.b.c.cluster.local."],
        ),
        (
            "*.b.c",
            vec!["*.b.c.", "*.b.c.svc.cluster.local.", "*.b.c.cluster.local."],
        ),
    ] {
        let candidates: Vec<String> = stub
            .candidates(&name(asked))
            .iter()
            .map(Name::to_ascii)
            .collect();
        assert_eq!(candidates, expected, "{asked}");
    }
}

#[test]
fn later_servers_get_glibcs_share_of_time() {
    let seconds = |position, servers| patience(LONG, position, servers).as_secs_f64();
    for (position, servers, expected) in [(0, 1, 5.0), (0, 3, 5.0), (1, 2, 5.0), (2, 4, 5.0)] {
        let patience = seconds(position, servers);
        assert!(
            (patience - expected).abs() < 1e-6,
            "{position} of {servers}: {patience}"
        );
    }
    assert!((seconds(1, 3) - 10.0 / 3.0).abs() < 1e-6);
    assert!(seconds(1_000, usize::MAX) >= 0.0);
}

#[test]
fn any_type_of_record_answers_any() {
    let heard = |wanted| StubReply {
        question: Query::query(name("a."), wanted),
        server: LOOPBACK.into(),
        transport: StubTransport::Udp,
        message: {
            let mut message = Message::query().into_response();
            let data = RData::Unknown {
                code: RecordType::Unknown(65_300),
                rdata: NULL::with(vec![1]),
            };
            message.add_answer(Record::from_rdata(name("a."), 1, data));
            message
        },
        waited: Duration::ZERO,
    };
    assert_eq!(heard(RecordType::ANY).outcome(), StubOutcome::Records);
    assert_eq!(heard(RecordType::A).outcome(), StubOutcome::NoData);
    assert_eq!(
        heard(RecordType::Unknown(65_300)).outcome(),
        StubOutcome::Records
    );
}
