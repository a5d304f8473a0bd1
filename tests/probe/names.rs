//! Names: what each server says, whether they agree, what a client gets, and what a pod's search list costs.

use super::common::dns::{Over, failure, flag, rcode, record, rr, wire_name};
use super::common::stand_in::StandIn;
use super::servers::{answer, good};
use super::{Said, Scene};

/// What a server says about A records of the names it knows.
type Known = &'static [(&'static str, &'static [[u8; 4]])];

/// A server that knows these names, and no others; to the root's questions it has answers.
fn knowing(known: Known) -> StandIn {
    StandIn::scripting_probes(move |query, over| {
        if query[12] == 0 {
            return good(query, over);
        }
        let found = known
            .iter()
            .find(|(name, _)| query[12..].starts_with(&wire_name(name)));
        let Some((name, addresses)) = found else {
            let mut message = failure(query, rcode::NXDOMAIN);
            message[3] |= flag::RA.to_be_bytes()[1];
            return vec![message];
        };
        let is_a = query[12 + wire_name(name).len() + 1] == 1;
        let addresses = addresses.iter().filter(|_| is_a);
        let records: Vec<_> = addresses.map(|ip| record(rr::A, 60, ip)).collect();
        vec![answer(query, &records, flag::RA)]
    })
}

fn group(servers: &[Known]) -> (Vec<StandIn>, Scene) {
    let servers: Vec<_> = servers.iter().map(|known| knowing(known)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let scene = Scene::of(&addresses);
    (servers, scene)
}

const WWW: &str = "www.example";

#[test]
fn servers_of_a_group_agree_differ_or_contradict_each_other() {
    let private: Known = &[(WWW, &[[10, 0, 0, 1]])];
    let turned: Known = &[(WWW, &[[10, 0, 0, 2], [10, 0, 0, 1]])];
    let elsewhere: Known = &[(WWW, &[[10, 9, 9, 9]])];
    let public: Known = &[(WWW, &[[192, 0, 2, 1]])];
    let empty: Known = &[(WWW, &[])];
    let nothing: Known = &[];
    for (name, servers, agreement, findings) in [
        ("the same", [private, private], "same", &[][..]),
        ("overlapping", [private, turned], "differs", &[]),
        ("a CDN's", [private, elsewhere], "differs", &[]),
        (
            "inside and outside",
            [private, public],
            "differs",
            &["servers_disagree"],
        ),
        (
            "no record",
            [private, empty],
            "conflict",
            &["servers_disagree"],
        ),
        (
            "no name",
            [private, nothing],
            "conflict",
            &["known_in_part"],
        ),
    ] {
        let (_servers, scene) = group(&servers);
        let said = scene.probe(&["www.example."]);
        let status = i32::from(!findings.is_empty());
        let complaint = said.complaint(findings, status);
        assert!(
            complaint.is_none(),
            "{name}: {}",
            complaint.unwrap_or_default()
        );
        let tier = &said.json["names"][0]["tiers"][0];
        assert_eq!(tier["agreement"], agreement, "{name}");
        let client = &said.json["names"][0]["client"];
        assert_eq!(client["addresses"][0], "10.0.0.1", "{name}: {client}");
        assert_eq!(client["group"], "g", "{name}: {client}");
    }
}

#[test]
fn each_answer_is_told_with_its_addresses_sorted() {
    let (_servers, scene) = group(&[&[(WWW, &[[10, 0, 0, 2], [10, 0, 0, 1]])]]);
    let said = scene.probe(&["www.example."]);
    let answers = &said.json["names"][0]["tiers"][0]["answers"];
    let a = &answers[0];
    assert_eq!(
        (&a["type"], &a["result"], &a["rcode"]),
        (&"A".into(), &"addresses".into(), &"NOERROR".into())
    );
    assert_eq!(a["addresses"], serde_json::json!(["10.0.0.1", "10.0.0.2"]));
    assert_eq!((&a["ttl"], &a["transport"]), (&60.into(), &"udp".into()));
    assert!(a["ms"].as_f64() > Some(0.0), "{a}");
    assert_eq!(
        (&answers[1]["type"], &answers[1]["result"]),
        (&"AAAA".into(), &"nodata".into())
    );
}

#[test]
fn a_server_that_fails_for_a_name_alone_is_found() {
    let failing = StandIn::scripting_probes(|query, over| {
        if query[12] == 0 {
            good(query, over)
        } else {
            vec![failure(query, rcode::SERVFAIL)]
        }
    });
    let other = knowing(&[(WWW, &[[10, 0, 0, 1]])]);
    let said = Scene::of(&[failing.address, other.address]).probe(&["www.example."]);
    said.expect(&["fails_name"], 1);
    assert_eq!(said.findings()[0]["server"], failing.address.to_string());
    assert_eq!(
        said.json["names"][0]["client"]["server"],
        other.address.to_string()
    );
}

#[test]
fn a_server_that_fails_for_one_type_alone_is_found() {
    let server = |failing: fn(&[u8]) -> Vec<Vec<u8>>| {
        StandIn::scripting_probes(move |query, over| {
            let is_aaaa = query[12..].starts_with(b"\x03www\x07example\0\0\x1c");
            if is_aaaa {
                failing(query)
            } else {
                good(query, over)
            }
        })
    };
    let refusing = server(|query| vec![failure(query, rcode::SERVFAIL)]);
    let silent = server(|_| vec![]);
    for server in [refusing, silent] {
        let said = Scene::of(&[server.address]).probe(&["www.example."]);
        said.expect(&["fails_name"], 1);
        let problem = said.findings()[0]["problem"].as_str().expect("a sentence");
        assert!(problem.contains("AAAA"), "{problem}");
    }
}

/// Two tiers of one server each.
fn tiers(first: Known, second: Known) -> Said {
    let (first, second) = (knowing(first), knowing(second));
    let yaml = format!(
        "upstreams: {{a: {{servers: [\"{}\"]}}, b: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": [a, b]}}\n",
        first.address, second.address
    );
    Scene::written(&yaml).probe(&["www.example."])
}

#[test]
fn tiers_that_do_not_know_the_same_names_are_found() {
    let known: Known = &[(WWW, &[[10, 0, 0, 1]])];
    tiers(known, known).expect(&[], 0);
    tiers(known, &[]).expect(&["denied_by_later_tier"], 1);
    let hidden = tiers(&[], known);
    hidden.expect(&["hidden_by_tier"], 2);
    assert_eq!(hidden.json["names"][0]["client"]["result"], "nxdomain");
    tiers(&[], &[]).expect(&["name_not_resolved"], 2);
}

/// The names a pod tries, what came of each, and how many queries that were.
fn search(said: &Said) -> (Vec<(&str, &str)>, u64) {
    let search = &said.json["names"][0]["search"];
    let steps = search["steps"].as_array().expect("a list").iter();
    let steps = steps.map(|step| {
        let name = step["name"].as_str().expect("a name");
        (name, step["result"].as_str().expect("a result"))
    });
    (
        steps.collect(),
        search["queries"].as_u64().expect("a number"),
    )
}

#[test]
fn the_search_list_and_its_cost_are_those_of_a_pod() {
    let (_servers, scene) = group(&[&[(WWW, &[[10, 0, 0, 1]]), ("db.two.test", &[[10, 0, 0, 2]])]]);
    let pod = [
        "--search", "one.test", "--search", "two.test", "--ndots", "5",
    ];
    let probe = |name: &str, ndots: &str| {
        let mut arguments = [&[name][..], &pod].concat();
        *arguments.last_mut().expect("ndots") = ndots;
        scene.probe(&arguments)
    };
    let said = probe("www.example", "5");
    let all = vec![
        ("www.example.one.test.", "nxdomain"),
        ("www.example.two.test.", "nxdomain"),
        ("www.example.", "addresses"),
    ];
    assert_eq!(search(&said), (all, 6));
    said.expect(&[], 0);
    let said = probe("www.example", "1");
    assert_eq!(search(&said), (vec![("www.example.", "addresses")], 2));
    let said = probe("db", "1");
    let found = vec![("db.one.test.", "nxdomain"), ("db.two.test.", "addresses")];
    assert_eq!(search(&said), (found, 4));
    assert_eq!(said.json["names"][0]["asked"], "db.two.test.");
    let said = probe("nowhere", "1");
    assert_eq!(search(&said).1, 6);
    said.expect(&["name_not_resolved"], 2);
}

#[test]
fn names_go_the_way_that_the_configuration_says() {
    let inside = knowing(&[
        ("db.inside", &[[10, 0, 0, 1]]),
        ("host.real", &[[10, 0, 0, 3]]),
    ]);
    // An alias that leads to another group, which the asked server leaves open.
    let alias = StandIn::scripting_probes(|query, over: Over| {
        if query[12..].starts_with(&wire_name("alias.outside")) {
            vec![answer(
                query,
                &[record(rr::CNAME, 60, &wire_name("db.inside"))],
                flag::RA,
            )]
        } else {
            good(query, over)
        }
    });
    let yaml = format!(
        "upstreams: {{i: {{servers: [\"{}\"]}}, o: {{servers: [\"{}\"]}}}}\n\
         routes: {{inside: i, outside: o, real: {{answer: NXDOMAIN}}, \
         shown: {{group: i, rewrite: {{from: shown, to: real}}}}}}\n\
         records: {{own.example: {{a: [192.0.2.9]}}}}\n",
        inside.address, alias.address
    );
    let scene = Scene::written(&yaml);
    let client = |name: &str| {
        let said = scene.probe(&[name]);
        let name = said.json["names"][0].clone();
        let address = name["client"]["addresses"][0].as_str().map(str::to_owned);
        (address, name["route"].as_str().map(str::to_owned), said)
    };
    for (name, address, route, findings, status) in [
        ("db.inside.", Some("10.0.0.1"), Some("inside."), &[][..], 0),
        ("alias.outside.", Some("10.0.0.1"), Some("outside."), &[], 0),
        ("host.shown.", Some("10.0.0.3"), Some("shown."), &[], 0),
        ("own.example.", Some("192.0.2.9"), None, &[], 0),
        ("host.real.", None, Some("real."), &["name_not_resolved"], 2),
        ("www.elsewhere.", None, None, &["no_route"], 2),
    ] {
        let (got, way, said) = client(name);
        let complaint = said.complaint(findings, status);
        assert!(
            complaint.is_none(),
            "{name}: {}",
            complaint.unwrap_or_default()
        );
        assert_eq!((got.as_deref(), way.as_deref()), (address, route), "{name}");
    }
}
