//! One exchange with the kernel over netlink: sends requests and collects the replies (RFC 3549).
//!
//! Owns a socket for the length of one exchange, so that a late reply to another exchange cannot be mistaken for an
//! answer. Only what is asked for is looked at: attributes this program has no use for, and those of kernels yet to
//! come, must not make a node unusable.

use std::io;

use netlink_packet_core::{
    DecodeError, NLA_HEADER_SIZE, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};

/// A list is inconsistent if its objects change while the kernel lists them. Changes come in bursts, so the third
/// attempt nearly always succeeds; the next check follows within seconds.
const ATTEMPTS: u32 = 5;

/// Padding between messages (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// Length of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;

/// A message of the kernel, without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelMessage {
    /// Its header.
    pub header: NetlinkHeader,
    /// What follows it.
    pub payload: Vec<u8>,
}

impl NetlinkDeserializable for KernelMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            header: *header,
            payload: payload.to_vec(),
        })
    }
}

/// Sends `messages` as one datagram and returns what the kernel says until it acknowledges or ends its list. One
/// message at least must ask for either.
///
/// # Errors
/// The first error the kernel reports, as its `errno`; or those of the socket.
pub(super) fn exchange<M: NetlinkSerializable>(
    protocol: isize,
    messages: Vec<NetlinkMessage<M>>,
) -> io::Result<Vec<KernelMessage>> {
    let datagram = encode(messages);
    let mut attempt = 1;
    loop {
        match attempt_exchange(protocol, &datagram) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempt < ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn encode<M: NetlinkSerializable>(messages: Vec<NetlinkMessage<M>>) -> Vec<u8> {
    let mut datagram = Vec::new();
    for (sequence, mut message) in (1..).zip(messages) {
        message.header.sequence_number = sequence;
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len(), 0);
        message.serialize(&mut datagram[start..]);
        datagram.resize(datagram.len().next_multiple_of(ALIGNMENT), 0);
    }
    datagram
}

fn attempt_exchange(protocol: isize, datagram: &[u8]) -> io::Result<Vec<KernelMessage>> {
    let socket = Socket::new(protocol)?;
    // The kernel answers before `send` returns, so no reply comes later.
    socket.set_non_blocking(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(datagram, 0)?;
    let mut received = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, &mut received)? {
            return Ok(received);
        }
    }
}

/// Takes the messages out of a datagram; true when the exchange is complete.
///
/// # Errors
/// The error that the kernel reports, as its `errno`; `Interrupted` for a list that changed meanwhile; `InvalidData`.
pub fn read(datagram: &[u8], received: &mut Vec<KernelMessage>) -> io::Result<bool> {
    let malformed = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let message = NetlinkMessage::<KernelMessage>::deserialize(rest).map_err(malformed)?;
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        rest = rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(message) => received.push(message),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(io::Error::from_raw_os_error(
                    error.raw_code().saturating_abs(),
                ));
            }
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
            }
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// The attributes in `bytes`: kind, without the bits for nesting and byte order, and value. Ends at the first that is
/// cut short.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let end = usize::from(attribute.length());
            (
                attribute.kind(),
                &attribute.into_inner()[NLA_HEADER_SIZE..end],
            )
        })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLM_F_MULTIPART;

    use super::*;

    /// A message as the kernel writes it, in the byte order of this machine.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    /// `NLMSG_ERROR` and `NLMSG_DONE` with this `errno`, 0 for none.
    fn end(kind: u16, errno: i32) -> Vec<u8> {
        message(
            kind,
            0,
            &[&(-errno).to_ne_bytes()[..], &[0; HEADER]].concat(),
        )
    }

    #[test]
    fn messages_are_taken_until_the_end_of_the_list() {
        let mut received = Vec::new();
        let parts = [
            message(16, NLM_F_MULTIPART, b"abc"),
            message(16, NLM_F_MULTIPART, b"defg"),
        ];
        assert!(!read(&parts.concat(), &mut received).expect("two messages"));
        assert!(read(&end(3, 0), &mut received).expect("the end"));
        let payloads: Vec<_> = received
            .iter()
            .map(|message| &message.payload[..])
            .collect();
        assert_eq!(payloads, [&b"abc"[..], b"defg"]);
    }

    #[test]
    fn an_acknowledgement_is_the_end_and_an_error_is_an_error() {
        assert!(read(&end(2, 0), &mut Vec::new()).expect("an acknowledgement"));
        for kind in [2, 3] {
            let error = read(&end(kind, libc::EPERM), &mut Vec::new()).expect_err("an error");
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "kind {kind}");
        }
    }

    #[test]
    fn a_number_without_a_negative_is_an_error_too() {
        for kind in [2, 3] {
            let bytes = message(
                kind,
                0,
                &[&i32::MIN.to_ne_bytes()[..], &[0; HEADER]].concat(),
            );
            assert!(read(&bytes, &mut Vec::new()).is_err(), "kind {kind}");
        }
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_no_list() {
        let interrupted = message(16, NLM_F_MULTIPART | NLM_F_DUMP_INTR, b"abc");
        let error = read(&interrupted, &mut Vec::new()).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn what_is_cut_short_is_an_error_or_ignored() {
        let whole = message(16, 0, b"abcdefgh");
        assert!(read(&whole[..20], &mut Vec::new()).is_err());
        assert!(!read(&whole[..10], &mut Vec::new()).expect("less than a header"));
    }

    #[test]
    fn attributes_end_at_the_first_that_is_cut_short() {
        let mut bytes = Vec::new();
        for (kind, value) in [(1_u16, &b"abcd"[..]), (0x8002, b"ef\0\0")] {
            let length = u16::try_from(4 + value.len()).expect("short");
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
        }
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &b"abcd"[..]), (2, b"ef\0\0")]);
        assert_eq!(attributes(&bytes[..12]).count(), 1);
    }
}
