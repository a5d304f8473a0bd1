//! One question of our own, asked outside of any worker: probes of health and of loops.
//!
//! Owns the sockets of probes: hickory's exchange for UDP, streams framed as everywhere here.

use std::io;
use std::time::Instant;

use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query};
use hickory_resolver::net::NetError;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::Server;
use crate::config::Transport;
use crate::message::framing::{Frames, put_frame};
use crate::message::wire::{self, MAX_PAYLOAD, flag};
use crate::net::connected::ConnectedSockets;
use crate::transport::Carrier;

/// Asks a server a question, and returns once it has answered anything.
///
/// # Errors
/// Those of the socket, of the TLS handshake, and a connection that ends before the answer.
pub(super) async fn ask(server: &Server, carrier: Carrier, question: Query) -> io::Result<()> {
    // Our own questions count as well, and need not wait: they are few.
    let _ = server.rate.take(Instant::now());
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question);
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_PAYLOAD);
    message.set_edns(edns);
    let address = server.config.address;
    match (carrier, &server.config.transport, server.tls.clone()) {
        (Carrier::Datagram, _, _) => {
            let exchange = UdpClientStream::builder(address, ConnectedSockets::default())
                .with_timeout(Some(server.try_timeout))
                .exchange();
            let request = DnsRequest::new(message, DnsRequestOptions::default());
            exchange
                .send(request)
                .first_answer()
                .await
                .map_err(|error| match error {
                    NetError::Io(error) => error.kind().into(),
                    error => io::Error::other(error),
                })?;
            Ok(())
        }
        (Carrier::Stream, Transport::Tls(_), Some(tls)) => {
            let stream = TcpStream::connect(address).await?;
            over_stream(tls.connector.connect(tls.name, stream).await?, &message).await
        }
        (Carrier::Stream, _, _) => over_stream(TcpStream::connect(address).await?, &message).await,
    }
}

async fn over_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    message: &Message,
) -> io::Result<()> {
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(&bytes));
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let mut frames = Frames::new();
    loop {
        if let Some(response) = frames.next_message() {
            let ours = wire::id(response) == message.metadata.id;
            if ours && wire::flags(response) & flag::QR != 0 {
                return Ok(());
            }
        } else if frames.fill(&mut stream).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
