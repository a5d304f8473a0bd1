//! Aliases that lead from one route into another: the client gets alias and target in one answer, or hears why not.

use std::time::{Duration, Instant};

use crate::client::{
    BOTH, Reply, all_at_once, always, ask, change, in_front_of, question, says, send, settled,
};
use crate::common::dns::{Ask, Over, Section, flag, rr};
use crate::common::{Nodens, wait_for};
use crate::server::{Does, Query, Server, text_of};
use crate::wire::extended_errors;

const CORP_SOA: &str = "corp. 60 SOA 60";

/// Three views of names, each behind a route of its own: `cluster.local`, `corp`, and the rest.
struct Views {
    cluster: Server,
    vpc: Server,
    public: Server,
}

impl Views {
    /// Each server knows what `known` answers; everything else does not exist.
    fn start() -> Self {
        let nothing = |q: &Query| q.says("NXDOMAIN").authority(". 60 SOA 60");
        Self {
            cluster: Server::start(nothing),
            vpc: Server::start(nothing),
            public: Server::start(nothing),
        }
    }

    fn routes(&self) -> String {
        let (cluster, vpc) = (self.cluster.over(""), self.vpc.over(""));
        format!(
            "workers: 1\nupstreams:\n  cluster: {{servers: [\"{cluster}\"]}}\n  vpc: {{servers: [\"{vpc}\"], deadline: 2s}}\n  \
             public: {{servers: [\"{}\"]}}\nroutes: {{cluster.local: cluster, corp.: vpc, \".\": public}}\n",
            self.public.over("")
        )
    }

    fn nodens(&self, more: &str) -> Nodens {
        let servers = [&self.cluster, &self.vpc, &self.public].map(|server| server.over(""));
        settled(&format!("{}{more}", self.routes()), &servers)
    }

    /// kube-dns knows the Service only: `db.cluster.local` is `db.corp`, which is what `vpc` says it is.
    fn external_name<D: Into<Does>>(vpc: impl Fn(&Query) -> D + Send + Sync + 'static) -> Self {
        let views = Self::start();
        views
            .cluster
            .now_says(|q| q.says("NOERROR aa").answer("@ 30 CNAME db.corp."));
        views.vpc.now_says(vpc);
        views
    }
}

fn database(q: &Query) -> crate::wire::Says {
    match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 20 A 10.0.0.5"),
        _ => q.says("NOERROR").authority(CORP_SOA),
    }
}

/// Owners and TTLs of the answer section, in order.
fn answers(reply: &Reply) -> Vec<(String, u32)> {
    let section = reply.message.section(Section::Answer);
    section
        .map(|record| (text_of(&record.owner), record.ttl))
        .collect()
}

fn with_edns(nodens: &Nodens, text: &str) -> (String, Vec<(u16, String)>) {
    let reply = send(nodens, &question(text).payload(1232), Over::Udp);
    (reply.gist(), extended_errors(&reply.message))
}

#[test]
fn an_external_name_comes_with_its_addresses() {
    let views = Views::external_name(database);
    let nodens = views.nodens("");
    for over in BOTH {
        let reply = ask(&nodens, "db.cluster.local. A", over);
        assert_eq!(reply.gist(), "NOERROR 10.0.0.5 CNAME", "{over:?}");
        let owners: Vec<_> = answers(&reply).into_iter().map(|(name, _)| name).collect();
        assert_eq!(owners, ["db.cluster.local.", "db.corp."], "{over:?}");
        assert!(
            answers(&reply).iter().all(|(_, ttl)| *ttl <= 20),
            "{reply:?}"
        );
    }
    // The second came from the cache, as does the target under its own name.
    assert_eq!(says(&nodens, "db.corp. A"), "NOERROR 10.0.0.5");
    assert_eq!(views.cluster.asked_for("db.cluster.local. A"), 1);
    assert_eq!(views.vpc.asked_for("db.corp. A"), 1);
}

/// glibc reads an answer from front to back, and passes over records of names that no alias has led to so far.
#[test]
fn an_alias_that_comes_behind_its_address_is_put_before_it() {
    let server = Server::start(|q: &Query| match &q.name[..] {
        "one.corp." => q
            .says("NOERROR")
            .answer("end.corp. 20 A 10.0.0.5")
            .answer("@ 30 CNAME end.corp."),
        _ => q
            .says("NOERROR")
            .answer("end.corp. 20 A 10.0.0.5")
            .answer("end.corp. 20 A 10.0.0.6")
            .answer("middle.corp. 25 CNAME end.corp.")
            .answer("@ 30 CNAME middle.corp.")
            .authority(CORP_SOA),
    });
    let nodens = in_front_of(&server);
    for (text, want) in [
        ("one.corp. A", &["one.corp.", "end.corp."][..]),
        (
            "two.corp. A",
            &["two.corp.", "middle.corp.", "end.corp.", "end.corp."],
        ),
    ] {
        for over in BOTH {
            let answers = answers(&ask(&nodens, text, over));
            let owners: Vec<&str> = answers.iter().map(|(owner, _)| &owner[..]).collect();
            assert_eq!(owners, want, "{text} over {over:?}");
        }
        assert_eq!(server.asked_for(text), 1, "the second came from the cache");
    }
}

/// musl fails a lookup of which one half fails.
#[test]
fn an_alias_to_a_configured_name_without_such_a_record_is_nodata() {
    let views = Views::start();
    views
        .public
        .now_says(|q| q.says("NOERROR").answer("@ 30 CNAME fixed.corp."));
    let nodens = views.nodens(
        "records:\n  fixed.corp: {A: [10.2.0.1]}\n  ours.example: {CNAME: fixed.corp}\n  \
         \"*.w.corp\": {A: [10.2.0.1]}\n  wild.example: {CNAME: any.w.corp}\n",
    );
    for alias in ["ours.example.", "wild.example.", "www.example."] {
        for over in BOTH {
            let reply = ask(&nodens, &format!("{alias} A"), over);
            assert_eq!(
                reply.gist(),
                "NOERROR 10.2.0.1 CNAME",
                "{alias} over {over:?}"
            );
            for kind in ["AAAA", "MX"] {
                let reply = ask(&nodens, &format!("{alias} {kind}"), over);
                assert_eq!(
                    reply.gist(),
                    "NOERROR CNAME",
                    "{alias} {kind} over {over:?}"
                );
                let soas = reply.message.section(Section::Authority);
                assert_eq!(soas.filter(|record| record.rtype == rr::SOA).count(), 1);
            }
        }
    }
}

#[test]
fn an_external_name_without_such_a_record_is_nodata() {
    let views = Views::external_name(database);
    let nodens = views.nodens("");
    let reply = ask(&nodens, "db.cluster.local. AAAA", Over::Udp);
    assert_eq!(reply.gist(), "NOERROR CNAME");
    let soas = reply.message.section(Section::Authority);
    assert_eq!(soas.filter(|record| record.rtype == rr::SOA).count(), 1);
}

#[test]
fn a_public_alias_into_the_cluster_is_followed_though_the_public_server_denies_its_target() {
    let views = Views::start();
    views.public.now_says(|q| {
        q.says("NXDOMAIN")
            .answer("@ 300 CNAME api.cluster.local.")
            .authority(". 3600 SOA 3600")
    });
    views
        .cluster
        .now_says(|q| q.says("NOERROR aa").answer("@ 30 A 10.96.0.7"));
    let nodens = views.nodens("");
    let reply = ask(&nodens, "api.example. A", Over::Udp);
    assert_eq!(reply.gist(), "NOERROR 10.96.0.7 CNAME");
    assert_eq!(reply.message.section(Section::Authority).count(), 0);
}

#[test]
fn an_alias_made_from_a_dname_is_one() {
    let views = Views::start();
    views.public.now_says(|q| {
        q.says("NOERROR")
            .answer("old.example. 300 DNAME corp.")
            .answer("@ 300 CNAME db.corp.")
    });
    views.vpc.now_says(database);
    let nodens = views.nodens("");
    assert_eq!(
        says(&nodens, "db.old.example. A"),
        "NOERROR 10.0.0.5 CNAME DNAME"
    );
}

#[test]
fn records_lead_to_names_of_servers_and_aliases_of_servers_to_records() {
    let views = Views::start();
    views
        .public
        .now_says(|q| q.says("NOERROR").answer("@ 300 CNAME fixed.corp."));
    views.vpc.now_says(database);
    let nodens = views.nodens(
        "records:\n  ours.example: {CNAME: db.corp}\n  fixed.corp: {A: [10.1.1.1]}\n  on.corp: {CNAME: db.corp}\n",
    );
    for over in BOTH {
        let reply = ask(&nodens, "ours.example. A", over);
        assert_eq!(reply.gist(), "NOERROR 10.0.0.5 CNAME", "{over:?}");
        assert!(
            answers(&reply).iter().all(|(_, ttl)| *ttl <= 20),
            "{reply:?}"
        );
    }
    assert_eq!(says(&nodens, "www.example. A"), "NOERROR 10.1.1.1 CNAME");
    // From a server to `records` to a server.
    views
        .public
        .now_says(|q| q.says("NOERROR").answer("@ 300 CNAME on.corp."));
    assert_eq!(
        says(&nodens, "far.example. A"),
        "NOERROR 10.0.0.5 CNAME CNAME"
    );
    assert_eq!(views.vpc.asked_for("db.corp. A"), 1);
}

#[test]
fn who_asks_for_dnssec_or_for_the_alias_gets_what_the_server_said() {
    let views = Views::external_name(database);
    let nodens = views.nodens("records: {ours.example: {CNAME: db.corp}}\n");
    for ask in [
        question("db.cluster.local. A").dnssec_ok(),
        question("db.cluster.local. A").flags(0),
        question("db.cluster.local. CNAME"),
        Ask::new("db.cluster.local.", rr::ANY),
        question("ours.example. A").dnssec_ok(),
    ] {
        let reply = send(&nodens, &ask, Over::Udp);
        assert_eq!(reply.gist(), "NOERROR CNAME", "{ask:?}");
    }
    assert_eq!(views.vpc.count(), 0);
}

#[test]
fn complete_cnames_off_gives_what_the_server_said() {
    let views = Views::external_name(database);
    let nodens =
        views.nodens("complete_cnames: false\nrecords: {ours.example: {CNAME: db.corp}}\n");
    assert_eq!(says(&nodens, "db.cluster.local. A"), "NOERROR CNAME");
    assert_eq!(says(&nodens, "ours.example. A"), "NOERROR CNAME");
    assert_eq!(views.vpc.count(), 0);
}

#[test]
fn a_target_that_does_not_exist_makes_the_alias_nxdomain() {
    let views = Views::external_name(|q| q.says("NXDOMAIN").authority("corp. 9 SOA 9"));
    let nodens = views.nodens("");
    for turn in ["asked", "cached"] {
        let reply = ask(&nodens, "db.cluster.local. A", Over::Udp);
        assert_eq!(reply.gist(), "NXDOMAIN CNAME", "{turn}");
        let records: Vec<_> = reply.message.section(Section::Authority).collect();
        assert_eq!(records.len(), 1, "{turn}");
        assert_eq!(text_of(&records[0].owner), "corp.", "{turn}");
        assert!(records[0].ttl <= 9, "{turn}: {}", records[0].ttl);
    }
    assert_eq!(views.cluster.asked_for("db.cluster.local. A"), 1);
}

#[test]
fn the_routes_cap_on_negative_answers_holds_behind_an_alias() {
    let views = Views::start();
    views
        .public
        .now_says(|q| q.says("NOERROR").answer("@ 3600 CNAME api.cluster.local."));
    views
        .cluster
        .now_says(|q| q.says("NXDOMAIN").authority("cluster.local. 3600 SOA 3600"));
    let yaml = views.routes().replace(
        "cluster.local: cluster",
        "cluster.local: {group: cluster, max_negative_ttl: 5s}",
    );
    let nodens = settled(&yaml, &[views.cluster.over(""), views.public.over("")]);
    let reply = ask(&nodens, "api.example. A", Over::Udp);
    assert_eq!(reply.gist(), "NXDOMAIN CNAME");
    let highest = reply.message.records.iter().map(|record| record.ttl).max();
    assert!(highest <= Some(5), "{highest:?}");
}

#[test]
fn an_alias_whose_target_cannot_be_had_is_a_failure_that_says_so() {
    let views = Views::external_name(|q| q.says("SERVFAIL"));
    let nodens = views.nodens("");
    for turn in ["asked", "remembered"] {
        let (gist, errors) = with_edns(&nodens, "db.cluster.local. A");
        assert_eq!(gist, "SERVFAIL", "{turn}");
        assert!(
            errors[0].1.starts_with("alias db.corp.: vpc: "),
            "{errors:?}"
        );
    }
    assert_eq!(with_edns(&nodens, "db.cluster.local. A").0, "SERVFAIL");
}

#[test]
fn a_silent_target_ends_with_the_questions_own_deadline() {
    let views = Views::start();
    views.vpc.now_says(|q| {
        let says = q.says("NOERROR").answer("@ 30 CNAME api.cluster.local.");
        says.after(Duration::from_millis(1200))
    });
    let nodens = views.nodens("");
    views.cluster.falls_silent();
    // vpc's deadline is 2 s, cluster's 4 s.
    let reply = send(&nodens, &question("slow.corp. A").payload(1232), Over::Udp);
    assert_eq!(reply.gist(), "SERVFAIL");
    assert!(reply.took < Duration::from_millis(2200), "{:?}", reply.took);
    let errors = extended_errors(&reply.message);
    assert!(
        errors[0].1.starts_with("alias api.cluster.local.: "),
        "{errors:?}"
    );
}

/// A server may have an alias of its own, and resolve others' names if it is asked for them alone.
#[test]
fn what_the_same_servers_did_not_complete_is_asked_of_them() {
    let server = Server::start(|q: &Query| match (&q.name[..], q.qtype) {
        ("app.corp.", _) => q.says("NOERROR").answer("@ 30 CNAME app.example."),
        ("two.corp.", _) => q.says("NOERROR").answer("@ 30 CNAME app.corp."),
        ("app.example.", rr::A) => q.says("NOERROR").answer("@ 20 A 192.0.2.9"),
        _ => q.says("NOERROR").authority("example. 30 SOA 30"),
    });
    let nodens = in_front_of(&server);
    for over in BOTH {
        let reply = ask(&nodens, "app.corp. A", over);
        assert_eq!(reply.gist(), "NOERROR 192.0.2.9 CNAME");
        let none = ask(&nodens, "app.corp. AAAA", over);
        assert_eq!(none.gist(), "NOERROR CNAME");
    }
    assert_eq!(server.asked_for("app.corp. A"), 1, "then from the cache");
    assert_eq!(
        says(&nodens, "two.corp. A"),
        "NOERROR 192.0.2.9 CNAME CNAME"
    );
}

#[test]
fn what_the_same_servers_do_not_resolve_is_left_as_it_is() {
    for (code, ttl) in [("SERVFAIL", 5), ("REFUSED", 30)] {
        let server = Server::start(move |q: &Query| match &q.name[..] {
            "app.corp." => q.says("NOERROR").answer("@ 30 CNAME app.example."),
            _ => q.says(code),
        });
        let nodens = in_front_of(&server);
        let reply = ask(&nodens, "app.corp. A", Over::Udp);
        assert_eq!(reply.gist(), "NOERROR CNAME", "{code}");
        assert_eq!(reply.ttls(Section::Answer), [format!("{ttl} CNAME")]);
    }
    let views = Views::start();
    views
        .vpc
        .now_says(|q| q.says("NOERROR").answer("@ 30 CNAME nothing.corp."));
    let nodens = views.nodens("");
    assert_eq!(says(&nodens, "a.corp. A"), "NOERROR CNAME");
    assert_eq!(views.vpc.count(), 2, "alias and target");
    views.public.now_says(|q| {
        q.says("NXDOMAIN")
            .answer("@ 30 CNAME nothing.example.")
            .authority("example. 30 SOA 30")
    });
    assert_eq!(says(&nodens, "a.example. A"), "NXDOMAIN CNAME");
    assert_eq!(views.public.count(), 1);
}

/// A Windows server gives its own alias alone while the servers behind it fail (coredns/coredns#6958).
#[test]
fn addresses_known_before_outlive_an_alias_whose_target_fails() {
    for fails in [
        (|q| q.says("SERVFAIL").into()) as fn(&Query) -> Does,
        |_| Does::Silence,
    ] {
        let server = Server::start(|q: &Query| {
            let says = q.says("NOERROR").answer("@ 1 CNAME app.example.");
            says.answer("app.example. 1 A 192.0.2.1")
        });
        let nodens = in_front_of(&server);
        assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 192.0.2.1 CNAME");
        server.now_says(move |q| match &q.name[..] {
            "app.corp." => q.says("NOERROR").answer("@ 3600 CNAME app.example.").into(),
            _ => fails(q),
        });
        always(
            &nodens,
            "app.corp. A",
            &["NOERROR 192.0.2.1 CNAME"],
            "both were asked for again, and once more",
            || server.asked_for("app.corp. A") >= 3,
        );
        server.now_says(|q| match &q.name[..] {
            "app.corp." => q.says("NOERROR").answer("@ 3600 CNAME app.example."),
            _ => q.says("NOERROR").answer("@ 60 A 192.0.2.9"),
        });
        wait_for("the new address", || {
            (says(&nodens, "app.corp. A") == "NOERROR 192.0.2.9 CNAME").then_some(())
        });
    }
}

#[test]
fn an_alias_that_only_a_later_group_can_follow_is_followed_there() {
    let vpc = Server::start(|q: &Query| match &q.name[..] {
        "app.corp." => q.says("NOERROR aa").answer("@ 30 CNAME app.cdn.example."),
        _ => q.says("REFUSED"),
    });
    let public = Server::start(|q: &Query| q.says("NOERROR").answer("@ 30 A 192.0.2.9"));
    let nodens = crate::client::tiers(&vpc, &public, "");
    assert_eq!(says(&nodens, "app.corp. A"), "NOERROR 192.0.2.9 CNAME");
}

#[test]
fn a_target_that_no_route_holds_stays_with_what_the_server_said() {
    let cluster = Server::start(|q: &Query| q.says("NOERROR aa").answer("@ 30 CNAME db.example."));
    let yaml = format!(
        "workers: 1\nupstreams: {{cluster: {{servers: [\"{}\"]}}}}\nroutes: {{cluster.local: cluster}}\n",
        cluster.over("")
    );
    let nodens = settled(&yaml, &[cluster.over("")]);
    assert_eq!(says(&nodens, "db.cluster.local. A"), "NOERROR CNAME");
}

/// `n1.cluster.local` → `n1.corp` → `n2.cluster.local` → … for as many aliases as wanted.
fn ladder(last: u32) -> Views {
    let views = Views::start();
    let number = |q: &Query| -> u32 {
        let digits = q.name[1..].split('.').next().expect("a label");
        digits.parse().expect("a number")
    };
    views.cluster.now_says(move |q| {
        let n = number(q);
        if 2 * n - 2 >= last {
            return q.says("NOERROR").answer("@ 30 A 10.0.0.1");
        }
        q.says("NOERROR").answer(&format!("@ 30 CNAME n{n}.corp."))
    });
    views.vpc.now_says(move |q| {
        let n = number(q);
        if 2 * n > last {
            return q.says("NOERROR").answer("@ 30 A 10.0.0.1");
        }
        let next = n + 1;
        q.says("NOERROR")
            .answer(&format!("@ 30 CNAME n{next}.cluster.local."))
    });
    views
}

#[test]
fn eight_aliases_are_followed_and_no_more() {
    let views = ladder(8);
    let nodens = views.nodens("");
    let gist = says(&nodens, "n1.cluster.local. A");
    assert_eq!(gist, format!("NOERROR 10.0.0.1{}", " CNAME".repeat(8)));

    let views = ladder(100);
    let nodens = views.nodens("");
    let (gist, errors) = with_edns(&nodens, "n1.cluster.local. A");
    assert_eq!(gist, "SERVFAIL");
    assert!(errors[0].1.contains("more than 8 aliases"), "{errors:?}");
    assert_eq!(views.cluster.count() + views.vpc.count(), 9);
}

#[test]
fn a_circle_of_aliases_is_found_at_once() {
    let views = Views::external_name(|q| q.says("NOERROR").answer("@ 30 CNAME db.cluster.local."));
    let nodens = views.nodens("records: {ours.example: {CNAME: db.corp}}\n");
    for text in ["db.cluster.local. A", "db.corp. A", "ours.example. A"] {
        let reply = send(&nodens, &question(text).payload(1232), Over::Udp);
        assert_eq!(reply.gist(), "SERVFAIL", "{text}");
        assert!(reply.took < Duration::from_millis(500), "{:?}", reply.took);
        let errors = extended_errors(&reply.message);
        assert!(errors[0].1.contains("circle"), "{text}: {errors:?}");
    }
    // Through `records`, too.
    let views = Views::start();
    views
        .vpc
        .now_says(|q| q.says("NOERROR").answer("@ 30 CNAME ours.example."));
    let nodens = views.nodens("records: {ours.example: {CNAME: db.corp}}\n");
    for text in ["db.corp. A", "ours.example. A"] {
        let reply = send(&nodens, &question(text).payload(1232), Over::Udp);
        assert_eq!(reply.gist(), "SERVFAIL", "{text}");
        assert!(reply.took < Duration::from_millis(500), "{:?}", reply.took);
    }
}

#[test]
fn a_circle_asked_at_both_ends_at_once_ends_for_both() {
    let views = Views::external_name(|q| {
        let says = q.says("NOERROR").answer("@ 30 CNAME db.cluster.local.");
        says.after(Duration::from_millis(100))
    });
    let nodens = views.nodens("");
    let questions = ["db.cluster.local. A", "db.corp. A"].map(str::to_owned);
    for (gist, took) in all_at_once(&nodens, &questions) {
        assert_eq!(gist, "SERVFAIL");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn many_aliases_to_one_target_ask_for_it_once() {
    let views = Views::external_name(|q| database(q).after(Duration::from_millis(300)));
    let nodens = views.nodens("");
    let names: Vec<String> = (0..40)
        .map(|number| format!("n{number}.cluster.local. A"))
        .chain(["db.corp. A".to_owned()])
        .collect();
    for (gist, _) in all_at_once(&nodens, &names) {
        assert!(gist.starts_with("NOERROR 10.0.0.5"), "{gist}");
    }
    // More than once only because it was overdue.
    let asked = views.vpc.asked_for("db.corp. A");
    assert!(asked <= 4, "{asked} times for 41 questions");
}

#[test]
fn an_expired_target_is_served_behind_its_alias_while_its_servers_are_down() {
    let views = Views::external_name(|q| q.says("NOERROR").answer("@ 1 A 10.0.0.5"));
    let nodens = views.nodens("");
    assert_eq!(
        says(&nodens, "db.cluster.local. A"),
        "NOERROR 10.0.0.5 CNAME"
    );
    views.vpc.falls_silent();
    wait_for("vpc to be down", || {
        says(&nodens, &format!("n{}.corp. A", fastrand::u32(..)));
        let labels = [("server", &views.vpc.over("")[..]), ("state", "down")];
        (nodens.metric("nodens_upstream_state", &labels) >= 1.0).then_some(())
    });
    for text in ["db.cluster.local. A", "new.cluster.local. A"] {
        let reply = send(&nodens, &question(text).payload(1232), Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 10.0.0.5 CNAME", "{text}");
        let errors = extended_errors(&reply.message);
        assert_eq!(errors[0].0, 3, "{text}: {errors:?}");
        assert!(reply.took < Duration::from_millis(600), "{:?}", reply.took);
    }
}

#[test]
fn an_expired_alias_is_served_when_its_target_fails() {
    let views = Views::external_name(|q| q.says("NOERROR").answer("@ 1 A 10.0.0.5"));
    let nodens = views.nodens("cache: {stale: {max_age: 1h}}\n");
    assert_eq!(
        says(&nodens, "db.cluster.local. A"),
        "NOERROR 10.0.0.5 CNAME"
    );
    views.vpc.now_says(|q| q.says("SERVFAIL"));
    wait_for("the end of its lifetime", || {
        let (gist, errors) = with_edns(&nodens, "db.cluster.local. A");
        assert_eq!(gist, "NOERROR 10.0.0.5 CNAME");
        errors.iter().any(|(code, _)| *code == 3).then_some(())
    });
}

#[test]
fn a_popular_alias_is_fetched_anew_with_its_target() {
    let views = Views::external_name(|q| q.says("NOERROR").answer("@ 10 A 10.0.0.5"));
    let nodens = views.nodens("cache: {prefetch: {hits: 1, percent: 80}}\n");
    let started = Instant::now();
    wait_for("both to be asked for again", || {
        assert_eq!(
            says(&nodens, "db.cluster.local. A"),
            "NOERROR 10.0.0.5 CNAME"
        );
        let again = views.cluster.asked_for("db.cluster.local. A") > 1
            && views.vpc.asked_for("db.corp. A") > 1;
        again.then_some(())
    });
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "before it expired"
    );
    wait_for("the new answer", || {
        let reply = ask(&nodens, "db.cluster.local. A", Over::Udp);
        (answers(&reply)[1].1 >= 9).then_some(())
    });
}

#[test]
fn a_reload_forgets_aliases_that_lead_elsewhere_and_no_others() {
    let views = Views::external_name(|q| q.says("NOERROR").answer("@ 300 A 10.0.0.5"));
    views.cluster.now_says(|q| match q.name.split('.').next() {
        Some("out") => q.says("NOERROR").answer("@ 300 CNAME www.example."),
        _ => q.says("NOERROR").answer("@ 300 CNAME db.corp."),
    });
    views
        .public
        .now_says(|q| q.says("NOERROR").answer("@ 300 A 192.0.2.1"));
    let nodens = views.nodens("");
    let both = || {
        (
            says(&nodens, "db.cluster.local. A"),
            says(&nodens, "out.cluster.local. A"),
        )
    };
    let want = |inner: &str, outer: &str| {
        (
            format!("NOERROR {inner} CNAME"),
            format!("NOERROR {outer} CNAME"),
        )
    };
    assert_eq!(both(), want("10.0.0.5", "192.0.2.1"));
    // corp goes to public now: what `db` is has changed, `out` has not.
    let moved = views.routes().replace("corp.: vpc", "corp.: public");
    change(&nodens, &moved);
    assert_eq!(both(), want("192.0.2.1", "192.0.2.1"));
    assert_eq!(views.cluster.asked_for("out.cluster.local. A"), 1);
    assert_eq!(views.cluster.asked_for("db.cluster.local. A"), 2);
    // Its target is answered from the configuration now.
    change(
        &nodens,
        &format!("{moved}records: {{www.example: {{A: [10.9.9.9]}}}}\n"),
    );
    assert_eq!(both(), want("192.0.2.1", "10.9.9.9"));
    change(
        &nodens,
        &format!("{moved}records: {{www.example: {{A: [10.9.9.8]}}}}\n"),
    );
    assert_eq!(both(), want("192.0.2.1", "10.9.9.8"));
    change(&nodens, &format!("{moved}complete_cnames: false\n"));
    assert_eq!(
        both(),
        ("NOERROR CNAME".to_owned(), "NOERROR CNAME".to_owned())
    );
}

#[test]
fn header_bits_and_rotation_are_those_of_the_whole() {
    let views = Views::external_name(|q| {
        let says = q.says("NOERROR ad").answer("@ 300 A 10.0.0.1");
        says.answer("@ 300 A 10.0.0.2").answer("@ 300 A 10.0.0.3")
    });
    let nodens = views.nodens("");
    let ask_ad = question("db.cluster.local. A").flags(flag::RD | flag::AD);
    let first = send(&nodens, &ask_ad, Over::Udp);
    assert!(!first.has(flag::AD), "the alias itself is not authentic");
    assert!(first.has(flag::RA) && !first.has(flag::TC));
    wait_for("another address to come first", || {
        let reply = ask(&nodens, "db.cluster.local. A", Over::Udp);
        assert_eq!(reply.gist(), "NOERROR 10.0.0.1 10.0.0.2 10.0.0.3 CNAME");
        let addresses: Vec<_> = reply.ttls(Section::Answer);
        (!addresses[1].ends_with("10.0.0.1")).then_some(())
    });
}

/// Two groups. `public` knows that `ZONE.example` is an alias for `x.ZONE`, and says that this does not exist; `other` knows
/// every name.
fn rules_of_their_own(public: &Server, other: &Server, four: &str) -> String {
    let (public, other) = (public.over(""), other.over(""));
    format!(
        "workers: 1\nupstreams: {{public: {{servers: [\"{public}\"]}}, other: {{servers: [\"{other}\"]}}}}\n\
         routes: {{\".\": public, internal.: {{answer: NXDOMAIN}}, empty.: {{answer: NODATA}}, closed.: {{answer: REFUSED}}, \
         portal.: {{answer: 10.0.0.1}}, four.: {{group: other{four}}}, other.: other, \
         brief.: {{group: other, cache: off}}, dev.: {{group: public, rewrite: {{from: dev, to: svc.cluster}}}}}}\n\
         records: {{\"*.apps.corp\": {{CNAME: x.portal}}}}\n"
    )
}

#[test]
fn an_alias_into_a_route_with_rules_of_its_own_gets_what_its_target_would() {
    let address = |q: &Query| match q.qtype {
        rr::A => q.says("NOERROR").answer("@ 300 A 192.0.2.1"),
        _ => q.says("NOERROR").answer("@ 300 AAAA 2001:db8::1"),
    };
    let public = Server::start(move |q: &Query| match q.name.strip_suffix(".example.") {
        Some(zone) => {
            let alias = q.says("NXDOMAIN").authority(". 300 SOA 300");
            alias.answer(&format!("@ 300 CNAME x.{zone}."))
        }
        None => address(q),
    });
    let other = Server::start(address);
    let yaml = rules_of_their_own(&public, &other, ", filter: [AAAA]");
    let nodens = settled(&yaml, &[public.over(""), other.over("")]);

    for (text, want, why) in [
        (
            "internal.example. A",
            "NXDOMAIN CNAME",
            Some((15, "answered by the configuration of internal.")),
        ),
        (
            "empty.example. A",
            "NOERROR CNAME",
            Some((15, "answered by the configuration of empty.")),
        ),
        (
            "closed.example. A",
            "SERVFAIL",
            Some((
                15,
                "alias x.closed.: answered by the configuration of closed.",
            )),
        ),
        (
            "portal.example. A",
            "NOERROR 10.0.0.1 CNAME",
            Some((4, "answered by the configuration of portal.")),
        ),
        (
            "any.apps.corp. A",
            "NOERROR 10.0.0.1 CNAME",
            Some((4, "answered by the configuration of portal.")),
        ),
        (
            "portal.example. AAAA",
            "NOERROR CNAME",
            Some((4, "answered by the configuration of portal.")),
        ),
        (
            "four.example. AAAA",
            "NOERROR CNAME",
            Some((15, "filtered by the configuration of four.")),
        ),
        ("four.example. A", "NOERROR 192.0.2.1 CNAME", None),
        // Asked for as x.svc.cluster, which is not what `public` has denied.
        ("dev.example. A", "NOERROR 192.0.2.1 CNAME", None),
    ] {
        let (gist, errors) = with_edns(&nodens, text);
        assert_eq!(gist, want, "{text}");
        let why = why.map(|(code, why)| (code, why.to_owned()));
        assert_eq!(errors, Vec::from_iter(why), "{text}");
    }
    assert_eq!(public.asked_for("x.svc.cluster. A"), 1);
    assert_eq!(other.asked_for("x.four. AAAA"), 0);

    // A denial of ours can be kept, for as long as we say.
    for (text, owner) in [
        ("internal.example. A", "internal."),
        ("four.example. AAAA", "x.four."),
    ] {
        let reply = ask(&nodens, text, Over::Tcp);
        let soas: Vec<_> = reply.message.section(Section::Authority).collect();
        assert_eq!((soas.len(), soas[0].rtype), (1, rr::SOA), "{text}");
        assert_eq!(text_of(&soas[0].owner), owner, "{text}");
        assert!(answers(&reply)[0].1 <= 60, "{text}");
    }
    assert_eq!(public.asked_for("internal.example. A"), 1, "it was kept");

    // What is not kept has the TTLs of its servers, behind an alias as well.
    for times in 1..=2 {
        let reply = ask(&nodens, "brief.example. A", Over::Udp);
        assert_eq!(
            answers(&reply),
            [
                ("brief.example.".to_owned(), 300),
                ("x.brief.".to_owned(), 300)
            ]
        );
        assert_eq!(other.asked_for("x.brief. A"), times);
    }

    // The type is filtered no longer.
    change(&nodens, &rules_of_their_own(&public, &other, ""));
    assert_eq!(
        says(&nodens, "four.example. AAAA"),
        "NOERROR CNAME 2001:db8::1"
    );
}
