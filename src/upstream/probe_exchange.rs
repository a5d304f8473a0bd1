//! One question of our own, asked outside of any worker: probes of health, of loops, and of what a server bears.
//!
//! Owns the sockets of probes: a connected UDP socket for each, streams framed as everywhere here.

use std::io;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, Query};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::server::Server;
use crate::config::Transport;
use crate::message::form::{QueryForm, code_of};
use crate::message::framing::{Frames, put_frame};
use crate::message::wire::{self, HEADER_LEN, MAX_PAYLOAD};
use crate::net::open::connect_udp;
use crate::transport::{Carrier, exchange};

/// Octets read of a datagram: more than we ask for, and of what is longer the header is enough.
const DATAGRAM_BYTES: usize = 4_096;

/// Asks a server a question in this form. Returns the response code once it has answered anything.
///
/// # Errors
/// Those of the socket, of the TLS handshake, and a connection that ends before the answer.
pub(super) async fn ask(
    server: &Server,
    carrier: Carrier,
    question: Query,
    form: QueryForm,
) -> io::Result<u16> {
    // Our own questions count as well, and need not wait: they are few.
    let _ = server.rate.take(Instant::now());
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = form.has_ad();
    message.add_query(question);
    if form.has_opt() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD);
        message.set_edns(edns);
    }
    let query = message.to_vec().map_err(io::Error::other)?;
    let address = server.config.address;
    match (carrier, &server.config.transport, server.tls.clone()) {
        (Carrier::Datagram, _, _) => {
            let socket = UdpSocket::from_std(connect_udp(address)?.into())?;
            over_datagrams(&socket, &query).await
        }
        (Carrier::Stream, Transport::Tls(_), Some(tls)) => {
            let stream = TcpStream::connect(address).await?;
            over_stream(tls.connector.connect(tls.name, stream).await?, &query).await
        }
        (Carrier::Stream, _, _) => over_stream(TcpStream::connect(address).await?, &query).await,
    }
}

/// Whether a message is the response to this query, which has one question and at most an OPT, whatever it says. Messages
/// to anybody else's questions are no sign of life.
fn answers(query: &[u8], response: &[u8]) -> bool {
    let Ok(name_end) = wire::skip_question_name(query, HEADER_LEN) else {
        return false;
    };
    response.len() >= HEADER_LEN
        && wire::id(response) == wire::id(query)
        && exchange::answers(&query[HEADER_LEN..name_end + 4], response).is_ok()
}

async fn over_datagrams(socket: &UdpSocket, query: &[u8]) -> io::Result<u16> {
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let response = &buffer[..length];
        if answers(query, response) {
            return Ok(code_of(response));
        }
    }
}

async fn over_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    query: &[u8],
) -> io::Result<u16> {
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(query));
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let mut frames = Frames::new();
    loop {
        if let Some(response) = frames.next_message() {
            if answers(query, response) {
                return Ok(code_of(response));
            }
        } else if frames.fill(&mut stream).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
