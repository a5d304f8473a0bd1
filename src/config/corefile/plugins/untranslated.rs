//! Plugins without a translation: those on which answers do not depend, and those that cannot be replaced.

use crate::config::corefile::draft::LineVerdict::{self, Differs, NoCounterpart, Taken};

/// Plugins on which answers do not depend, with the remark about each.
pub(super) const WITHOUT: [(&str, LineVerdict, &str); 23] = [
    (
        "errors",
        Taken,
        "always on: servers that fail are warned of, and log.queries: errors shows each query",
    ),
    (
        "loop",
        Taken,
        "always on: checked every 30 s, and the server is left out instead of the process ending",
    ),
    (
        "reload",
        Taken,
        "always on: once a second, and nothing is forgotten",
    ),
    ("bufsize", NoCounterpart, "always 1,232 octets upstream"),
    (
        "minimal",
        NoCounterpart,
        "records beside the answer are passed on",
    ),
    ("any", NoCounterpart, "questions for ANY are forwarded"),
    (
        "autopath",
        NoCounterpart,
        "each name of a pod's search list is a query of its own, most of them hits",
    ),
    ("cancel", NoCounterpart, "deadline (4 s) bounds a query"),
    ("chaos", Taken, "version.server and id.server are answered"),
    ("debug", NoCounterpart, "a panic ends its query alone"),
    (
        "trace",
        NoCounterpart,
        "no traces; metrics and the query log show where time goes",
    ),
    (
        "dnstap",
        NoCounterpart,
        "no dnstap; log.queries logs queries",
    ),
    ("pprof", NoCounterpart, "no profiles of a Go process"),
    ("nsid", Taken, "node_name is sent as NSID"),
    (
        "local",
        Differs,
        "private_zones: NXDOMAIN answers those reverse zones; localhost is always answered",
    ),
    ("metadata", NoCounterpart, "other plugins read it"),
    ("geoip", NoCounterpart, "other plugins read it"),
    ("multisocket", Taken, "workers: a socket for each"),
    ("timeouts", NoCounterpart, "tcp.idle_timeout is 10 s"),
    ("root", NoCounterpart, "paths are taken as they are"),
    ("deprecated", NoCounterpart, "it does nothing"),
    ("on", NoCounterpart, "no commands are run"),
    (
        "shed",
        NoCounterpart,
        "limits: what is in flight is bounded, and over it clients hear SERVFAIL",
    ),
];

/// Plugins that answer from data of their own, or change messages.
pub(super) const REFUSED: [&str; 31] = [
    "auto",
    "azure",
    "clouddns",
    "dnssec",
    "dynupdate",
    "erratic",
    "etcd",
    "file",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "nomad",
    "proxyproto",
    "quic",
    "route53",
    "secondary",
    "sign",
    "siit",
    "tls",
    "transfer",
    "tsig",
    "view",
    "whoami",
    "records",
    "alias",
    "mysql",
    "redis",
    "unbound",
];
