//! `records` and `hosts`.

use super::*;

/// Mistakes of records and hosts files.
pub(super) const BAD_RECORDS: &[BadCase] = &[
    (
        "record name",
        "records: {\"a b\": {A: 10.0.0.1}}",
        "2: records.\"a b\": a b is not a domain name: ",
    ),
    (
        "record wildcard",
        "records: {\"*\": {A: 10.0.0.1}}",
        "2: records.\"*\": *: nothing would be forwarded; write routes: {\".\": {answer: 10.0.0.1}}",
    ),
    (
        "record wildcard that points to itself",
        "records:\n  \"*.x\": {CNAME: web.x}\n  b.x: {A: 10.0.0.1}",
        "3: records.\"*.x\".CNAME: the CNAME points to web.x, which this wildcard stands for itself; write web.x in `records`, too",
    ),
    (
        "hosts file that is not there",
        "hosts: /nonexistent/hosts",
        "2: hosts: /nonexistent/hosts: cannot be read: No such file or directory (os error 2); check the path and the file's permissions",
    ),
    (
        "hosts file of two lines",
        "hosts: \"\\n\"",
        "2: hosts: \"\\n\": cannot be read: No such file or directory (os error 2); check the path and the file's permissions",
    ),
    (
        "hosts file without an end",
        "hosts: /dev/zero",
        "2: hosts: the size of /dev/zero is over the limit of 4MiB",
    ),
    (
        "hosts file twice",
        "hosts: [/dev/null, /dev/null]",
        "2: hosts[1]: /dev/null is here twice; keep one",
    ),
    (
        "hosts in place of records",
        "hosts: {x: {A: 10.0.0.1}}",
        "2: hosts: {x: {A: 10.0.0.1}} is not a path such as /run/nodens/nodens.sock",
    ),
    (
        "record address",
        "records: {x: {A: fd00::1}}",
        "2: records.x.A: fd00::1 is not an IPv4 address such as 10.0.0.1",
    ),
    (
        "record address 6",
        "records: {x: {AAAA: [10.0.0.1]}}",
        "2: records.x.AAAA[0]: 10.0.0.1 is not an IPv6 address such as fd00::1",
    ),
    (
        "record twice",
        "records: {x: {A: [10.0.0.1, 10.0.0.1]}}",
        "2: records.x.A[1]: 10.0.0.1 is here twice; keep one",
    ),
    (
        "record type",
        "records: {x: {MX: y}}",
        "2: records.x.MX: there is no such key; keys here: A, AAAA, CNAME, TXT",
    ),
    (
        "record type twice",
        "records: {x: {TXT: y, txt: z}}",
        "2: records.x.txt: txt is here twice (types ignore case); keep one",
    ),
    (
        "record empty",
        "records: {x: {}}",
        "2: records.x: the name has no records; write for example {A: [10.0.0.1]}",
    ),
    (
        "record not a table",
        "records: {x: 10.0.0.1}",
        "2: records.x: 10.0.0.1 is not a table such as {A: [10.0.0.1]}",
    ),
    (
        "record list empty",
        "records: {x: {A: []}}",
        "2: records.x.A: has no value; write one or remove the key",
    ),
    (
        "cname and more",
        "records: {x: {CNAME: y, A: 10.0.0.1}}",
        "2: records.x: a CNAME excludes other records of its name (RFC 2181 §10.1); keep one or the other",
    ),
    (
        "cname list",
        "records: {x: {CNAME: [y, z]}}",
        "2: records.x.CNAME: [y, z] is not one name such as registry.example.com",
    ),
    (
        "cname to itself",
        "records: {x.y: {CNAME: X.Y.}}",
        "2: records.\"x.y\".CNAME: the CNAME points to itself",
    ),
    (
        "same name twice",
        "records:\n  x.: {A: 10.0.0.1}\n  X: {A: 10.0.0.2}",
        "records.",
    ),
];

#[test]
fn a_bad_record_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_RECORDS);
}
