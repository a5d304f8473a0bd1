//! DNS over HTTPS to upstream servers (RFC 8484): one message is the body of one HTTP/2 request, its response the body of
//! that request's response.
//!
//! Owns what HTTP adds to a message: the request, and what makes a response unusable. Connections, and who waits on them,
//! are [`super::stream`]'s. Requests are POSTs: their bodies need no encoding, and no cache between us and the server would
//! serve us better than our own. There is no HTTP/1.1, and a redirection is not followed.

use std::future::poll_fn;
use std::io;
use std::net::Ipv6Addr;

use h2::Reason;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use hyper::body::Bytes;
use hyper::http::header::{ACCEPT, AGE, CONTENT_TYPE, HeaderMap};
use hyper::http::{Method, Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::tls::agreed_on_http2;
use crate::budgets::UPSTREAM_HTTP_HEADER_BYTES;
use crate::message::response::grow_older;
use crate::message::wire::{self, HEADER_LEN, MAX_MESSAGE_LEN};

/// RFC 8484 §6.
const MEDIA_TYPE: &str = "application/dns-message";
/// RFC 9110 §4.2.2: the port that stands in no authority.
const PORT: u16 = 443;

/// Where a server takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// That of a server whose certificate has this name; `path` begins with a slash.
    ///
    /// # Errors
    /// If the path holds what no path can.
    pub fn new(name: &str, port: u16, path: &str) -> io::Result<Self> {
        let host = match name.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => name.to_owned(),
        };
        let authority = if port == PORT {
            host
        } else {
            format!("{host}:{port}")
        };
        let uri = Uri::builder()
            .scheme("https")
            .authority(authority)
            .path_and_query(path)
            .build();
        uri.map(Self)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// Why a request brought no message.
#[derive(Debug)]
pub enum Failure {
    /// The server gave another status than 200.
    Status(StatusCode),
    /// The body is no DNS message, or longer than one can be.
    Malformed,
    /// The server, or the end of the connection, ended the request.
    Ended(h2::Error),
}

/// Begins HTTP/2. The connection is to be driven beside the requests, and ends once nobody can make any.
///
/// # Errors
/// If the server does not speak HTTP/2, and those of the stream.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: TlsStream<S>,
) -> io::Result<(SendRequest<Bytes>, Connection<TlsStream<S>, Bytes>)> {
    agreed_on_http2(&stream)?;
    Builder::new()
        .enable_push(false)
        .max_header_list_size(UPSTREAM_HTTP_HEADER_BYTES)
        .handshake(stream)
        .await
        .map_err(into_io)
}

/// Sends a message, once the server takes one more request.
///
/// # Errors
/// If it takes none any more on this connection.
pub async fn post(
    requests: &mut SendRequest<Bytes>,
    endpoint: &Endpoint,
    message: &[u8],
) -> Result<ResponseFuture, h2::Error> {
    let mut body = message.to_vec();
    // RFC 8484 §4.1: equal questions are equal requests.
    wire::put_u16(&mut body, 0, 0);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.0.clone();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, MEDIA_TYPE.parse().expect("visible ASCII"));
    headers.insert(ACCEPT, MEDIA_TYPE.parse().expect("visible ASCII"));
    poll_fn(|context| requests.poll_ready(context)).await?;
    let (response, mut sending) = requests.send_request(request, false)?;
    sending.send_data(Bytes::from(body), true)?;
    Ok(response)
}

/// Waits for the message that answers a request; it gets this ID, and its TTLs are less by the time it has spent in caches.
///
/// # Errors
/// If it brings none.
pub async fn receive(response: ResponseFuture, id: u16) -> Result<Vec<u8>, Failure> {
    let (head, mut body) = response.await.map_err(Failure::Ended)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status));
    }
    if !is_message(&head.headers) {
        return Err(Failure::Malformed);
    }
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(Failure::Ended)?;
        if message.len() + data.len() > MAX_MESSAGE_LEN {
            return Err(Failure::Malformed);
        }
        // Without an end of the stream the server may send on.
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
    }
    if message.len() < HEADER_LEN {
        return Err(Failure::Malformed);
    }
    wire::put_u16(&mut message, 0, id);
    grow_older(&mut message, age(&head.headers));
    Ok(message)
}

/// Whether the server has done nothing about a request that ended so, and says so (RFC 9113 §8.7).
pub(super) fn is_untouched(error: &h2::Error) -> bool {
    error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)
}

/// An error of HTTP/2 as one of the stream below.
pub(super) fn into_io(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(source) = error.get_io()
    {
        // Its own error number tells whether it is this host's.
        return source
            .raw_os_error()
            .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
    }
    io::Error::other(error)
}

fn is_message(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next());
    media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// RFC 8484 §5.1: seconds since the response left the server.
fn age(headers: &HeaderMap) -> u32 {
    let value = headers.get(AGE).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_the_name_and_a_port_that_is_not_the_usual_one() {
        for (name, port, want) in [
            ("dns.example", 443, "https://dns.example/dns-query"),
            ("dns.example", 8443, "https://dns.example:8443/dns-query"),
            ("192.0.2.1", 443, "https://192.0.2.1/dns-query"),
            ("2001:db8::1", 443, "https://[2001:db8::1]/dns-query"),
        ] {
            let endpoint = Endpoint::new(name, port, "/dns-query").expect("an endpoint");
            assert_eq!(endpoint.0.to_string(), want);
        }
    }
}
