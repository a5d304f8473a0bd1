//! Which requests the admin interface refuses, because a foreign web page could have made a browser send them.
//!
//! A foreign page can make its own host name resolve to this machine and then read our answers as its own (DNS
//! rebinding), or send requests here without reading the answers (CSRF). Against the first, requests for a host name
//! are refused. Against the second, requests with an effect must come from our own page or from a program that is no
//! browser.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOrigin {
    /// Our Unix socket, which only our own user can open, and no browser.
    Socket,
    /// This machine, or a pod in its network.
    Loopback,
    /// Anywhere else.
    Network,
}

impl From<SocketAddr> for RequestOrigin {
    fn from(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() {
            Self::Loopback
        } else {
            Self::Network
        }
    }
}

/// Refuses requests for a host name, except over the Unix socket.
pub(super) async fn refuse_host_names(request: Request, next: Next) -> Response {
    let over_socket = request.extensions().get() == Some(&RequestOrigin::Socket);
    if !over_socket && !is_for_no_name(request.headers()) {
        let text = "nodens shows this to those who ask for an IP address or localhost only, not for a host name: \
                    another page could have that name lead here\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

fn is_for_no_name(headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(header::HOST);
    hosts.iter().all(|host| host.to_str().is_ok_and(is_no_name))
}

/// Whether a Host header (RFC 9110 §7.2) is empty, an IP address or `localhost`, with a port or without.
fn is_no_name(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((front, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => front,
        _ => host,
    };
    match without_port.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|ip| matches!(ip.parse(), Ok(IpAddr::V6(_)))),
        None => {
            without_port.is_empty()
                || without_port.eq_ignore_ascii_case("localhost")
                || matches!(without_port.parse(), Ok(IpAddr::V4(_)))
        }
    }
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request with an effect is refused; none if it is allowed.
pub(super) fn refusal(peer: RequestOrigin, headers: &HeaderMap) -> Option<&'static str> {
    if peer == RequestOrigin::Network {
        return Some("this can be asked for on the node itself only\n");
    }
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let own_origin = text(header::HOST).map(|host| format!("http://{host}"));
    let foreign_origin =
        text(header::ORIGIN).is_some_and(|origin| own_origin.as_deref() != Some(origin));
    let foreign_site = text(FETCH_SITE).is_some_and(|site| site != "same-origin");
    (foreign_origin || foreign_site).then_some("this can be asked for by our own page only\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_no_names() {
        for (host, want) in [
            ("", true),
            ("127.0.0.1", true),
            ("127.0.0.1:9153", true),
            ("10.0.0.7:80", true),
            ("localhost", true),
            ("LOCALHOST:9153", true),
            ("[::1]", true),
            ("[fd00::7]:9153", true),
            ("evil.example", false),
            ("evil.example:9153", false),
            ("127.0.0.1.evil.example:9153", false),
            ("localhost.evil.example", false),
            ("evil.localhost", false),
            ("[::1].evil.example", false),
            ("[127.0.0.1]", false),
            ("0x7f000001", false),
            ("user@127.0.0.1", false),
        ] {
            assert_eq!(is_no_name(host), want, "{host}");
        }
    }

    #[test]
    fn only_our_own_page_and_no_browser_have_something_done() {
        let headers = |pairs: &[(HeaderName, &'static str)]| -> HeaderMap {
            let pairs = pairs.iter().cloned();
            pairs
                .map(|(name, value)| (name, value.parse().expect("text")))
                .collect()
        };
        let host = || (header::HOST, "127.0.0.1:9153");
        let origin = |origin| (header::ORIGIN, origin);
        let site = |site| (FETCH_SITE, site);
        for (peer, headers, may) in [
            (RequestOrigin::Loopback, headers(&[host()]), true),
            (RequestOrigin::Socket, headers(&[]), true),
            (RequestOrigin::Network, headers(&[host()]), false),
            (
                RequestOrigin::Loopback,
                headers(&[host(), origin("http://127.0.0.1:9153"), site("same-origin")]),
                true,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), origin("http://127.0.0.1:9153")]),
                true,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), origin("http://127.0.0.1:80")]),
                false,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), origin("http://evil.example")]),
                false,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), origin("null")]),
                false,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), site("cross-site")]),
                false,
            ),
            (
                RequestOrigin::Loopback,
                headers(&[host(), site("same-site")]),
                false,
            ),
            (
                RequestOrigin::Socket,
                headers(&[origin("http://evil.example")]),
                false,
            ),
        ] {
            assert_eq!(
                refusal(peer, &headers).is_none(),
                may,
                "{peer:?} {headers:?}"
            );
        }
    }

    #[test]
    fn loopback_is_known_in_both_families() {
        for (address, want) in [
            ("127.0.0.1:1", RequestOrigin::Loopback),
            ("[::1]:1", RequestOrigin::Loopback),
            ("[::ffff:127.0.0.1]:1", RequestOrigin::Loopback),
            ("10.0.0.1:1", RequestOrigin::Network),
            ("[::ffff:10.0.0.1]:1", RequestOrigin::Network),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(RequestOrigin::from(address), want, "{address}");
        }
    }
}
