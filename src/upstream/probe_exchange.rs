//! Asks one question of our own, outside of the workers: probes of health, of loops and of the forms that a server accepts;
//! host names of servers; questions that a person asks of every server.
//!
//! Owns the sockets of these questions: a connected UDP socket or a connection for each.

use std::io;
use std::pin::pin;

use hickory_proto::op::{Edns, Message, Query};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::server::Server;
use crate::message::form::{QueryForm, code_of};
use crate::message::framing::{Frames, put_frame};
use crate::message::wire::{self, HEADER_LEN, MAX_PAYLOAD, flag, rcode};
use crate::net::batch::ReceiveBatch;
use crate::net::network::Stream;
use crate::net::watched::{Ready, Watched, receive};
use crate::runtime;
use crate::transport::Carrier;
use crate::transport::exchange::answers as is_answered;
use crate::transport::https::{self, Endpoint, Failure};

/// Octets read of a datagram. We ask for less, and the header of a longer one is enough.
const DATAGRAM_BYTES: usize = 4_096;

/// Asks a server a question in this form. Returns the response code, whatever it is.
///
/// # Errors
/// Those of [`exchange`].
pub(super) async fn ask(
    server: &Server,
    carrier: Carrier,
    question: Query,
    form: QueryForm,
) -> io::Result<u16> {
    let response = exchange(server, carrier, question, form).await?;
    Ok(code_of(&response))
}

/// As [`ask`], but returns the whole response.
///
/// # Errors
/// Those of the socket, of the TLS handshake, and a connection that ends before the answer.
pub(super) async fn exchange(
    server: &Server,
    carrier: Carrier,
    question: Query,
    form: QueryForm,
) -> io::Result<Vec<u8>> {
    // Our own questions count for the rate limit, too, but do not wait, because they are few.
    let _ = server.rate.take(runtime::now());
    let mut id = [0; 2];
    server.network.fill_random(&mut id);
    let mut message = Message::query();
    message.metadata.id = u16::from_ne_bytes(id);
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
    if carrier == Carrier::Datagram {
        let socket = Watched::new(server.network.connect_udp(address)?)?;
        return over_datagrams(&socket, &query).await;
    }
    let stream = server.network.connect_tcp(address).await?;
    let Some(tls) = server.tls.clone() else {
        return over_stream(stream, &query).await;
    };
    // In a box, because the future of TLS with HTTP/2 is large, and a caller with a timeout would store it twice.
    Box::pin(async {
        let stream = tls.connect(&server.label, stream).await?;
        match &server.https {
            None => over_stream(stream, &query).await,
            Some(endpoint) => over_https(stream, endpoint, &query).await,
        }
    })
    .await
}

/// Whether a message is a response to `query`, which has one question and at most an OPT. Messages with other questions do
/// not show that the server is alive.
fn answers(query: &[u8], response: &[u8]) -> bool {
    let Ok(name_end) = wire::skip_question_name(query, HEADER_LEN) else {
        return false;
    };
    response.len() >= HEADER_LEN
        && wire::id(response) == wire::id(query)
        && is_answered(&query[HEADER_LEN..name_end + 4], response).is_ok()
}

async fn over_datagrams(socket: &Watched, query: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(query)?;
    loop {
        let mut ready = socket.ready().await?;
        match datagram(&mut ready) {
            Ok(response) if answers(query, &response) => return Ok(response),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}

fn datagram(ready: &mut Ready<'_>) -> io::Result<Vec<u8>> {
    let mut batch = ReceiveBatch::new(1, DATAGRAM_BYTES);
    receive(ready, &mut batch)?;
    Ok(batch.datagram(0).to_vec())
}

async fn over_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(query));
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let mut frames = Frames::new();
    loop {
        if let Some(response) = frames.next_message() {
            if answers(query, response) {
                return Ok(response.to_vec());
            }
        } else if frames.fill(&mut stream).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn over_https(
    stream: TlsStream<Stream>,
    endpoint: &Endpoint,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let (mut requests, connection) = https::open(stream).await?;
    let mut asked = pin!(async {
        let response = https::post(&mut requests, endpoint, query).await;
        let response = response.map_err(io::Error::other)?;
        match https::receive(response, wire::id(query)).await {
            Ok(response) if answers(query, &response) => Ok(response),
            Ok(_) | Err(Failure::Malformed) => Err(io::ErrorKind::InvalidData.into()),
            // The server is alive, and its status says that it cannot answer, as for clients' queries.
            Err(Failure::Status(_)) => Ok(servfail(query)),
            Err(Failure::Ended(error)) => Err(io::Error::other(error)),
        }
    });
    tokio::select! {
        response = &mut asked => response,
        // The answer may have arrived together with the end of the connection.
        _ = connection => asked.await,
    }
}

/// The SERVFAIL response to a query, as a header only.
fn servfail(query: &[u8]) -> Vec<u8> {
    let mut response = query[..HEADER_LEN].to_vec();
    wire::put_u16(&mut response, 2, flag::QR | rcode::SERVFAIL);
    response[4..].fill(0);
    response
}
