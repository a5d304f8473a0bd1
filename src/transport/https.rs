//! DNS over HTTPS to upstream servers (RFC 8484). A query is the body of an HTTP/2 request, and the answer is the body of its
//! response.
//!
//! Owns what HTTP adds to a message: the request, and the checks of a response. [`super::stream`] owns connections and the
//! exchanges in flight on them. Requests are POSTs: their bodies need no encoding, and an HTTP cache on the way would not help,
//! because we have a cache. HTTP/1.1 is not supported, and redirections are not followed.

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
/// RFC 9110 §4.2.2: the default port, which is left out of the authority.
const PORT: u16 = 443;

/// The URI for requests to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// The URI for a server whose certificate has this name. `path` begins with a slash.
    ///
    /// # Errors
    /// If the path has characters that no path can have.
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

/// Why a request got no DNS message.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with another status than 200.
    Status(StatusCode),
    /// The body is not a DNS message, or is longer than one can be.
    Malformed,
    /// The server ended the request, or the connection ended.
    Ended(h2::Error),
}

/// Begins HTTP/2. The returned connection must be polled while requests are made. It ends when the `SendRequest` is dropped and
/// all requests have ended.
///
/// # Errors
/// If the server does not speak HTTP/2, and errors of the stream.
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

/// Sends a message as a request, as soon as the server's limit on concurrent requests allows one more.
///
/// # Errors
/// If the connection takes no more requests.
pub async fn post(
    requests: &mut SendRequest<Bytes>,
    endpoint: &Endpoint,
    message: &[u8],
) -> Result<ResponseFuture, h2::Error> {
    let mut body = message.to_vec();
    // RFC 8484 §4.1: the ID is 0, so that equal questions make equal requests.
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

/// Waits for a request's response, and returns its message. Sets the message's ID to `id`, and reduces its TTLs by the time
/// that it spent in HTTP caches.
///
/// # Errors
/// If the response has no message.
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
        // Gives the octets back to the flow control window, so that the server may send more.
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

/// Whether the server says by this error that it has not processed the request (RFC 9113 §8.7).
pub(super) fn is_untouched(error: &h2::Error) -> bool {
    error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)
}

/// An HTTP/2 error as an error of the underlying stream.
pub(super) fn into_io(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(source) = error.get_io()
    {
        // The error number is kept, because it tells whether this host is the cause.
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

/// RFC 8484 §5.1: seconds since the server generated the response.
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
