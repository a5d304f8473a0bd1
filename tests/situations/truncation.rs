//! Cut and oversized datagrams, servers that have UDP only, and replies that fit only when they are compressed.

use std::time::Duration;

use crate::client::{
    BOTH, Reply, all_at_once, ask, group_of, in_front_of, question, send, settled, tiers,
};
use crate::common::dns::{Over, Section, flag};
use crate::server::{Does, Query, Server, Tcp};
use crate::wire::Says;

/// So many addresses.
fn addresses(q: &Query, head: &str, count: usize, owner: &str) -> Says {
    (0..count).fold(q.says(head), |says, number| {
        let (high, low) = (number / 256, number % 256);
        says.answer(&format!("{owner} 300 A 10.0.{high}.{low}"))
    })
}

/// Addresses a reply holds.
fn count(reply: &Reply) -> usize {
    reply.message.count(Section::Answer)
}

/// Over TCP: twenty addresses, whole. Over UDP: TC, and the first octets of the same message, as many as `cut` says of
/// its question's end and its length.
fn cut_server(cut: fn(usize, usize) -> usize) -> Server {
    Server::start(move |q: &Query| {
        let whole = addresses(q, "NOERROR", 20, "@").bytes();
        if q.over == Over::Tcp {
            return whole;
        }
        let mut message = addresses(q, "NOERROR tc", 20, "@").bytes();
        let question_end = crate::common::dns::question_end(&message);
        message.truncate(cut(question_end, whole.len()));
        message
    })
}

fn the_whole_is_fetched(cut: fn(usize, usize) -> usize) {
    let server = cut_server(cut);
    let nodens = in_front_of(&server);
    for text in ["web.corp. A", "shop.corp. A"] {
        let reply = ask(&nodens, text, Over::Tcp);
        assert_eq!(
            (&reply.gist()[..7], count(&reply)),
            ("NOERROR", 20),
            "{reply:?}"
        );
        let over_tcp = server
            .asked()
            .iter()
            .any(|q| q.over == Over::Tcp && q.is(text));
        assert!(over_tcp, "{text} was asked over TCP");
    }
}

#[test]
fn a_datagram_cut_inside_an_address_is_asked_again_over_tcp() {
    the_whole_is_fetched(|question_end, _| question_end + 10 * 16 + 14);
}

#[test]
fn a_datagram_cut_inside_an_owner_is_asked_again_over_tcp() {
    the_whole_is_fetched(|question_end, _| question_end + 10 * 16 + 1);
}

#[test]
fn a_datagram_cut_inside_a_ttl_is_asked_again_over_tcp() {
    the_whole_is_fetched(|question_end, _| question_end + 8);
}

#[test]
fn a_datagram_cut_between_records_with_counts_of_the_whole_is_asked_again_over_tcp() {
    the_whole_is_fetched(|question_end, _| question_end + 10 * 16);
}

#[test]
fn a_datagram_cut_after_the_question_with_counts_of_the_whole_is_asked_again_over_tcp() {
    the_whole_is_fetched(|question_end, _| question_end);
}

#[test]
fn a_datagram_cut_inside_its_opt_is_asked_again_over_tcp() {
    the_whole_is_fetched(|_, whole| whole - 5);
}

#[test]
fn a_datagram_cut_after_its_header_is_asked_again_over_tcp() {
    the_whole_is_fetched(|_, _| 12);
}

/// Forty addresses, of which a router on the way lets 512 octets through, and leaves TC clear.
#[test]
fn a_datagram_cut_at_512_octets_without_tc_is_asked_again_over_tcp() {
    let server = Server::start(|q: &Query| {
        let mut whole = addresses(q, "NOERROR", 40, "@").bytes();
        if q.over == Over::Udp {
            whole.truncate(512);
        }
        whole
    });
    let nodens = in_front_of(&server);
    for text in ["web.corp. A", "shop.corp. A"] {
        let reply = ask(&nodens, text, Over::Tcp);
        assert_eq!((&reply.gist()[..7], count(&reply)), ("NOERROR", 40));
    }
    assert!(
        server.asked().iter().all(|q| q.edns),
        "EDNS is not to blame"
    );
}

#[test]
fn a_datagram_that_says_tc_and_is_whole_is_asked_again_over_tcp() {
    the_whole_is_fetched(|_, whole| whole);
}

/// A server that sends whatever it has in one datagram, without TC, however large.
fn large_datagrams(records: usize, octets: std::ops::RangeInclusive<usize>) {
    let server = Server::start(move |q: &Query| {
        let message = addresses(q, "NOERROR", records, "@").bytes();
        assert!(octets.contains(&message.len()), "{} octets", message.len());
        message
    });
    let nodens = in_front_of(&server);
    for text in ["web.corp. A", "shop.corp. A"] {
        let reply = ask(&nodens, text, Over::Tcp);
        assert_eq!(
            (&reply.gist()[..7], count(&reply)),
            ("NOERROR", records),
            "{text}"
        );
    }
}

#[test]
fn a_datagram_of_4096_octets_is_taken() {
    large_datagrams(253, 4080..=4096);
}

#[test]
fn a_datagram_just_over_4096_octets_is_taken_or_asked_again_over_tcp() {
    large_datagrams(255, 4097..=4130);
}

#[test]
fn a_datagram_of_6500_octets_is_taken_or_asked_again_over_tcp() {
    large_datagrams(405, 6500..=6540);
}

#[test]
fn a_datagram_of_60000_octets_is_taken_or_asked_again_over_tcp() {
    large_datagrams(3750, 60_000..=60_100);
}

/// Says TC with five addresses over UDP, and this is behind its TCP port. The first names may take their time; from
/// the fifth on the five addresses come at once, to clients of UDP and of TCP.
fn the_cut_answer_comes_at_once(tcp: Tcp) {
    let server = Server::start_with(tcp, |q: &Query| addresses(q, "NOERROR tc", 5, "@"));
    let nodens = in_front_of(&server);
    let first: Vec<_> = (0..4).map(|n| format!("first{n}.corp. A")).collect();
    for (gist, _) in all_at_once(&nodens, &first) {
        assert!(gist.starts_with("NOERROR 10.0.0.0"), "{gist}");
    }
    let mut late = Vec::new();
    for number in 0..5 {
        for over in BOTH {
            let reply = ask(&nodens, &format!("{over:?}{number}.corp. A"), over);
            assert_eq!(
                (&reply.gist()[..7], count(&reply)),
                ("NOERROR", 5),
                "{reply:?}"
            );
            if over == Over::Udp {
                assert!(reply.has(flag::TC), "it is cut, and says so: {reply:?}");
            }
            if reply.took > Duration::from_millis(300) {
                late.push((over, reply.took));
            }
        }
    }
    // One of ten may be a new look at the port, or a busy machine.
    assert!(late.len() <= 1, "of 10 replies took too long: {late:?}");
}

#[test]
fn the_cut_answer_comes_at_once_when_tcp_is_refused() {
    the_cut_answer_comes_at_once(Tcp::Refused);
}

#[test]
fn the_cut_answer_comes_at_once_when_syn_is_dropped() {
    the_cut_answer_comes_at_once(Tcp::SynDropped);
}

#[test]
fn the_cut_answer_comes_at_once_when_tcp_is_mute() {
    the_cut_answer_comes_at_once(Tcp::Mute);
}

#[test]
fn one_name_asked_repeatedly_gets_its_cut_answer_at_once_when_tcp_is_mute() {
    let server = Server::start_with(Tcp::Mute, |q: &Query| addresses(q, "NOERROR tc", 5, "@"));
    let nodens = in_front_of(&server);
    let mut took = Vec::new();
    for _ in 0..6 {
        let reply = ask(&nodens, "web.corp. A", Over::Udp);
        assert_eq!(
            (&reply.gist()[..7], count(&reply)),
            ("NOERROR", 5),
            "{reply:?}"
        );
        took.push(reply.took);
    }
    let late = took[2..]
        .iter()
        .filter(|took| **took > Duration::from_millis(300));
    assert!(late.count() <= 1, "{took:?}");
}

#[test]
fn a_whole_answer_of_another_server_beats_the_cut_one_of_a_server_without_tcp() {
    for tcp in [Tcp::Refused, Tcp::Mute, Tcp::SynDropped] {
        let first = Server::start_with(tcp, |q: &Query| addresses(q, "NOERROR tc", 5, "@"));
        let second = Server::start(|q: &Query| addresses(q, "NOERROR", 20, "@"));
        let servers = [first.over(""), second.over("")];
        let nodens = settled(&group_of(&servers, ""), &servers);
        for name in ["first.corp. A", "then.corp. A"] {
            assert_eq!(count(&ask(&nodens, name, Over::Tcp)), 20, "{tcp:?}");
        }
    }
}

/// Over UDP a client may make do with the cut answer, or ask again over TCP. There, nothing but the whole one is of use.
#[test]
fn over_tcp_the_whole_answer_of_a_slow_server_is_waited_for() {
    let first = Server::start_with(Tcp::Refused, |q: &Query| addresses(q, "NOERROR tc", 5, "@"));
    let second = Server::start(|q: &Query| {
        let says = addresses(q, "NOERROR", 20, "@");
        if q.name.ends_with("corp.") {
            says.after(Duration::from_millis(600))
        } else {
            Does::from(says)
        }
    });
    let servers = [first.over(""), second.over("")];
    let nodens = settled(&group_of(&servers, "policy: ordered"), &servers);
    let over_udp = ask(&nodens, "first.corp. A", Over::Udp);
    assert!(over_udp.has(flag::TC), "{over_udp:?}");
    assert!(over_udp.took < Duration::from_millis(500), "{over_udp:?}");
    let over_tcp = ask(&nodens, "then.corp. A", Over::Tcp);
    assert!(!over_tcp.has(flag::TC), "{over_tcp:?}");
    assert_eq!(count(&over_tcp), 20, "{over_tcp:?}");
}

#[test]
fn a_cut_answer_is_not_given_up_for_what_a_later_tier_says() {
    for tcp in [Tcp::Refused, Tcp::Mute] {
        let vpc = Server::start_with(tcp, |q: &Query| addresses(q, "NOERROR tc", 5, "@"));
        let public = Server::start(|q: &Query| q.says("NXDOMAIN"));
        let nodens = tiers(&vpc, &public, "");
        for name in ["first.corp. A", "then.corp. A"] {
            let reply = ask(&nodens, name, Over::Udp);
            assert_eq!(
                (&reply.gist()[..7], count(&reply)),
                ("NOERROR", 5),
                "{tcp:?}"
            );
        }
        assert_eq!(public.count(), 0, "the second tier has no say, {tcp:?}");
    }
}

/// A name with which twenty addresses take 1,136 octets as they come and 376 with pointers.
const NAME: &str = "service.name-of-some-leng.corp.example.";

#[test]
fn twenty_addresses_with_their_owners_written_out_fit_512_octets() {
    let server = Server::start(move |q: &Query| {
        let says = addresses(q, "NOERROR", 20, &q.name).without_opt();
        assert_eq!(says.bytes().len(), 1136);
        says
    });
    let nodens = in_front_of(&server);
    for turn in ["first", "cached"] {
        let reply = ask(&nodens, &format!("{NAME} A"), Over::Udp);
        assert!(
            reply.message.length <= 512,
            "{} octets",
            reply.message.length
        );
        assert_eq!(count(&reply), 20, "{turn}");
        assert!(!reply.has(flag::TC), "{turn}");
    }
}

#[test]
fn aliases_and_their_targets_written_out_fit_512_octets() {
    let server = Server::start(|q: &Query| {
        let target = "balancer-0123456789.region-of-some-name.cloud.example.";
        let says = q
            .says("NOERROR")
            .answer(&format!("{} 300 CNAME {target}", q.name));
        (1..=12).fold(says, |says, n| {
            says.answer(&format!("{target} 300 A 10.0.0.{n}"))
        })
    });
    let nodens = in_front_of(&server);
    let reply = ask(&nodens, "shop.corp.example. A", Over::Udp);
    assert_eq!(
        (count(&reply), reply.has(flag::TC)),
        (13, false),
        "{reply:?}"
    );
}

#[test]
fn mail_exchangers_written_out_fit_512_octets() {
    let server = Server::start(|q: &Query| {
        (10..20).fold(q.says("NOERROR"), |says, n| {
            let zone = "mail-exchangers.department.corp.example";
            says.answer(&format!("{} 300 MX {n} mx{n}.{zone}.", q.name))
        })
    });
    let nodens = in_front_of(&server);
    let reply = ask(&nodens, "department.corp.example. MX", Over::Udp);
    assert_eq!(
        (count(&reply), reply.has(flag::TC)),
        (10, false),
        "{reply:?}"
    );
}

#[test]
fn targets_of_srv_are_not_compressed_and_are_cut_when_they_do_not_fit() {
    // RFC 2782, RFC 3597 §4: clients need not understand a pointer there.
    let server = Server::start(|q: &Query| {
        (10..20).fold(q.says("NOERROR"), |says, n| {
            let target = format!("srv{n}.targets-of-some-length.department.corp.example.");
            says.answer(&format!("@ 300 SRV {n} 5 443 {target}"))
        })
    });
    let nodens = in_front_of(&server);
    let reply = ask(&nodens, "_https._tcp.corp.example. SRV", Over::Udp);
    assert!(
        reply.message.length <= 512 && reply.has(flag::TC),
        "{reply:?}"
    );
    let records: Vec<_> = reply.message.section(Section::Answer).collect();
    assert!(!records.is_empty());
    for record in records {
        // Pointer, type, class, TTL and length take 12 octets; the rest is there in full.
        assert_eq!(record.length, 12 + record.rdata.len(), "{record:?}");
    }
}

#[test]
fn seventy_addresses_with_their_owners_written_out_fit_a_payload_of_1232() {
    let server = Server::start(|q: &Query| addresses(q, "NOERROR", 70, &q.name));
    let servers = [server.over("tcp://")];
    let nodens = settled(&group_of(&servers, ""), &servers);
    let ask = question("web.corp.example. A").payload(1232);
    let reply = send(&nodens, &ask, Over::Udp);
    assert_eq!(
        (count(&reply), reply.has(flag::TC)),
        (70, false),
        "{} octets",
        reply.message.length
    );
}

#[test]
fn what_does_not_fit_even_compressed_is_cut_after_as_many_as_fit() {
    let server = Server::start(|q: &Query| {
        if q.over == Over::Udp {
            return Does::from(q.says("NOERROR tc"));
        }
        addresses(q, "NOERROR", 60, &q.name).into()
    });
    let nodens = in_front_of(&server);
    let reply = ask(&nodens, "web.corp.example. A", Over::Udp);
    let most = (512 - 12 - question("web.corp.example. A").question().len()) / 16;
    assert_eq!(
        (count(&reply), reply.has(flag::TC)),
        (most, true),
        "{reply:?}"
    );
}
