//! No text makes reading panic.

use proptest::prelude::*;

use super::*;

/// Scalars that have gone wrong somewhere.
fn scalar() -> impl Strategy<Value = String> {
    let words = [
        "",
        "0",
        "-1",
        "1",
        "5300",
        "99999999999999999999",
        "1.5",
        "true",
        "null",
        "~",
        "4s",
        "500ms",
        "9d",
        "64MiB",
        "1e400GiB",
        "10.0.0.2",
        "10.0.0.2:53",
        "\"[::1]:53\"",
        "fd00::1",
        "tls://1.1.1.1#a",
        "tcp://[fd00::1",
        "tls://#",
        "://",
        ".",
        "a..b",
        "vpc",
        "private",
        "all",
        "\"\\0\"",
        "\"\\n\"",
        ". NS",
        "info,x=",
        "[]",
        "[[]]",
        "{}",
        "{a: b}",
        "[vpc, vpc]",
        "ordered",
        "[10.0.0.2, 10.0.0.2]",
        "99999999999999999999y",
        "./nonexistent",
        "\u{1f980}",
        "xn--",
        "*",
        "'*.x'",
    ];
    prop_oneof![
        3 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| format!("{text:?}")),
    ]
}

fn key() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "listen",
        "allow",
        "admin",
        "metrics",
        "socket",
        "workers",
        "handover",
        "shutdown_grace",
        "node_name",
        "upstreams",
        "vpc",
        "servers",
        "policy",
        "try_timeout",
        "deadline",
        "probe",
        "failover",
        "hedge_min",
        "hedge_max",
        "streams",
        "max_age",
        "routes",
        "\".\"",
        "cluster.local",
        "group",
        "tiers",
        "max_negative_ttl",
        "answer",
        "filter",
        "private_zones",
        "hosts",
        "records",
        "complete_cnames",
        "A",
        "AAAA",
        "CNAME",
        "TXT",
        "cache",
        "max_size",
        "max_ttl",
        "stale",
        "after",
        "tcp",
        "udp",
        "limits",
        "log",
        "level",
        "queries",
        "min_ttl",
        "*.x",
        "node",
        "addresses",
        "interface",
        "notrack",
        "on_exit",
        "x",
    ])
}

/// Tables of our keys, three levels deep, with anything as values.
fn table() -> impl Strategy<Value = String> {
    let flow = |entries: Vec<(&str, String)>| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        format!("{{{}}}", entries.join(", "))
    };
    let leaf = scalar().boxed();
    leaf.prop_recursive(3, 32, 6, move |inner| {
        proptest::collection::vec((key(), inner), 0..6).prop_map(flow)
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Config::from_yaml(&text);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "[a-c:{}\\[\\]\"'&*!|>%@`#,?~ \t\n-]{0,60}") {
        let _ = Config::from_yaml(&text);
    }

    #[test]
    fn no_table_of_our_keys_makes_it_panic_and_each_mistake_is_one_line(text in table(), variable in scalar()) {
        let variables = environment(&[("NODENS__LISTEN", &variable), ("NODENS__UPSTREAMS__VPC__SERVERS", &variable)]);
        if let Err(errors) = load_from(Some((Path::new("nodens.yaml"), &text)), variables, &[]) {
            prop_assert!(errors.iter().count() > 0);
            for error in &errors {
                prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error);
            }
        }
    }
}
