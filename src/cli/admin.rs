//! Finds the admin interface of the running instance, and sends it requests.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::budgets::ADMIN_ANSWER_BYTES;
use crate::config::{AdminLocation, Flags, admin_location};

/// The location of an instance's admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AdminAddress {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its admin address.
    Address(SocketAddr),
    /// The same by a host name, with the port.
    Name(String),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(out),
            Self::Address(address) => address.fmt(out),
            Self::Name(name) => name.fmt(out),
        }
    }
}

impl AdminAddress {
    /// The location in the running instance's configuration: its Unix socket if it has one, else its admin address. The instance
    /// may run although its file has mistakes meanwhile, so mistakes in other keys do not count.
    pub(super) fn of_configuration(config_file: Option<PathBuf>) -> anyhow::Result<Self> {
        let flags = Flags {
            config_file,
            ..Flags::default()
        };
        let location = admin_location(&flags).context(
            "the configuration does not say where the instance is; name its Unix socket with --socket",
        )?;
        match location {
            Some(AdminLocation::Socket(socket)) => Ok(Self::Socket(socket)),
            Some(AdminLocation::Address(address)) => Ok(Self::Address(address)),
            None => {
                bail!("neither `socket` nor `admin` is set, so the instance cannot be asked")
            }
        }
    }

    /// Sends a request and returns the response.
    pub(super) async fn exchange(
        &self,
        request: Builder,
        body: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let unreachable = || self.to_string();
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                exchange(stream.with_context(unreachable)?, request, body).await
            }
            Self::Address(address) => {
                let stream = TcpStream::connect(address).await;
                exchange(stream.with_context(unreachable)?, request, body).await
            }
            Self::Name(name) => {
                let stream = TcpStream::connect(name.as_str()).await;
                exchange(stream.with_context(unreachable)?, request, body).await
            }
        }
    }
}

/// Sends a request and returns what came back.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
    body: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    // The connection ends with us, also when we are no longer waited for.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = request.header(HOST, "localhost").body(body.into())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ADMIN_ANSWER_BYTES);
    let body = body.collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}
