//! One request to the running instance's admin interface.

use std::path::Path;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// A connection to its Unix socket.
pub(super) async fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket)
        .await
        .with_context(|| socket.display().to_string())
}

/// Sends a request and returns what came back.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
    body: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header(HOST, "localhost").body(body.into())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
