//! What servers say beside what they were asked.

use crate::client::{BOTH, ask, in_front_of, question, says, send};
use crate::common::dns::{Ask, Message, Over, Section, rr};
use crate::server::{Query, Server};

const SOA: &str = "corp. 60 SOA 60";

fn types(reply: &Message, section: Section) -> Vec<u16> {
    reply.section(section).map(|record| record.rtype).collect()
}

/// musl takes the address of the first record, whatever its type says, and the length of another family fails the lookup.
#[test]
fn an_address_of_the_other_family_is_no_such_record() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "alone.corp." | "end.corp." => q.says("NOERROR").answer("@ 60 A 10.0.0.1"),
        "referred.corp." => q
            .says("NOERROR")
            .answer("@ 60 A 10.0.0.1")
            .authority("corp. 60 NS ns.corp."),
        "denied.corp." => q.says("NOERROR").answer("@ 60 A 10.0.0.1").authority(SOA),
        "alias.corp." => q
            .says("NOERROR")
            .answer("@ 60 CNAME end.corp.")
            .answer("end.corp. 60 A 10.0.0.1"),
        _ => q
            .says("NOERROR")
            .answer("@ 60 A 10.0.0.1")
            .answer("@ 60 AAAA fd00::1"),
    });
    let nodens = in_front_of(&server);
    for (text, want, authority) in [
        ("alone.corp. AAAA", "NOERROR", &[][..]),
        ("alone.corp. HTTPS", "NOERROR", &[]),
        ("alone.corp. A", "NOERROR 10.0.0.1", &[]),
        ("referred.corp. AAAA", "NOERROR", &[]),
        ("referred.corp. A", "NOERROR 10.0.0.1", &[rr::NS]),
        ("denied.corp. AAAA", "NOERROR", &[rr::SOA]),
        ("alias.corp. AAAA", "NOERROR CNAME", &[]),
        ("alias.corp. A", "NOERROR 10.0.0.1 CNAME", &[]),
        ("both.corp. AAAA", "NOERROR fd00::1", &[]),
        ("both.corp. A", "NOERROR 10.0.0.1", &[]),
    ] {
        for over in BOTH {
            let reply = ask(&nodens, text, over);
            assert_eq!(reply.gist(), want, "{text} over {over:?}");
            let got = types(&reply.message, Section::Authority);
            assert_eq!(got, authority, "{text} over {over:?}");
        }
    }
    let any = send(&nodens, &Ask::new("both.corp.", rr::ANY), Over::Udp);
    assert_eq!(any.gist(), "NOERROR 10.0.0.1 fd00::1");
}

#[test]
fn an_address_of_another_name_is_left_out_beside_the_names_own() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "own.corp." => q
            .says("NOERROR")
            .answer("@ 60 A 10.0.0.1")
            .answer("other.corp. 60 A 10.6.6.6"),
        "alias.corp." => q
            .says("NOERROR")
            .answer("end.corp. 60 A 10.0.0.1")
            .answer("@ 60 CNAME end.corp.")
            .answer("other.corp. 60 A 10.6.6.6"),
        // CoreDNS's rewrite, when it rewrites the question and not the answer.
        _ => q.says("NOERROR").answer("other.corp. 60 A 10.0.0.2"),
    });
    let nodens = in_front_of(&server);
    assert_eq!(says(&nodens, "own.corp. A"), "NOERROR 10.0.0.1");
    assert_eq!(says(&nodens, "alias.corp. A"), "NOERROR 10.0.0.1 CNAME");
    assert_eq!(says(&nodens, "rewritten.corp. A"), "NOERROR 10.0.0.2");
}

/// RFC 4035 §3.2.1.
#[test]
fn signatures_go_to_those_who_ask_for_them() {
    let server = Server::start(|q: &Query| {
        if q.name == "gone.corp." {
            q.says("NXDOMAIN")
                .authority(SOA)
                .authority("corp. 60 RRSIG SOA")
        } else {
            q.says("NOERROR")
                .answer("@ 60 A 10.0.0.1")
                .answer("@ 60 RRSIG A")
                .authority("corp. 60 NS ns.corp.")
                .authority("corp. 60 RRSIG NS")
        }
    });
    let nodens = in_front_of(&server);
    for over in BOTH {
        let plain = ask(&nodens, "x.corp. A", over).message;
        assert_eq!(types(&plain, Section::Answer), [rr::A]);
        assert_eq!(types(&plain, Section::Authority), [rr::NS]);
        let gone = ask(&nodens, "gone.corp. A", over).message;
        assert_eq!(types(&gone, Section::Authority), [rr::SOA]);
        let secure = send(&nodens, &question("x.corp. A").dnssec_ok(), over).message;
        assert_eq!(types(&secure, Section::Answer), [rr::A, rr::RRSIG]);
        assert_eq!(types(&secure, Section::Authority), [rr::NS, rr::RRSIG]);
        for (qtype, want) in [
            (rr::RRSIG, &[rr::RRSIG][..]),
            (rr::ANY, &[rr::A, rr::RRSIG]),
        ] {
            let named = send(&nodens, &Ask::new("x.corp.", qtype), over).message;
            assert_eq!(types(&named, Section::Answer), want);
        }
    }
}
