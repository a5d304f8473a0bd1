//! Messages on a stream: each behind its length in two octets (RFC 1035 §4.2.2).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::wire::MAX_MESSAGE_LEN;

/// Octets asked of a stream at once.
const READ_LEN: usize = 4096;

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what the stream has; 0 octets at its end. Cancelling it loses nothing.
    ///
    /// # Errors
    /// The stream's errors.
    pub async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.make_room();
        stream.read_buf(&mut self.buffer).await
    }

    /// Adds octets that `read` obtains; it gets the buffer to append to.
    ///
    /// # Errors
    /// The errors of `read`.
    pub fn fill_with(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.make_room();
        read(&mut self.buffer)
    }

    fn make_room(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve(READ_LEN);
    }

    /// The next whole message.
    pub fn next_message(&mut self) -> Option<&[u8]> {
        let rest = &self.buffer[self.start..];
        let length = usize::from(crate::message::wire::u16_at(rest, 0)?);
        if rest.len() < 2 + length {
            return None;
        }
        let start = self.start + 2;
        self.start = start + length;
        Some(&self.buffer[start..self.start])
    }

    /// Octets of memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn partial(&self) -> bool {
        self.buffer.len() > self.start
    }
}

/// Appends a message behind its length; `write` appends the message itself. A message longer than a frame can hold is
/// left out; ours never are.
pub fn put_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    write(out);
    let length = out.len() - start - 2;
    debug_assert!(length <= MAX_MESSAGE_LEN);
    match u16::try_from(length) {
        Ok(length) if length > 0 => crate::message::wire::put_u16(out, start, length),
        _ => out.truncate(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn messages_survive_any_cut_of_the_stream() {
        let mut sent = Vec::new();
        for message in [&b"one"[..], b"", &[7; 70], b"last"] {
            sent.extend_from_slice(&u16::try_from(message.len()).expect("short").to_be_bytes());
            sent.extend_from_slice(message);
        }
        for size in 1..sent.len() {
            let mut frames = Frames::new();
            let mut got = Vec::new();
            for mut piece in sent.chunks(size) {
                while !piece.is_empty() {
                    frames.fill(&mut piece).await.expect("reads");
                }
                while let Some(message) = frames.next_message() {
                    got.push(message.to_vec());
                }
            }
            assert_eq!(
                got,
                [&b"one"[..], b"", &[7; 70], b"last"],
                "pieces of {size}"
            );
            assert!(!frames.partial());
        }
    }

    #[test]
    fn frames_carry_their_length() {
        let mut out = vec![9];
        put_frame(&mut out, |out| out.extend_from_slice(b"abc"));
        put_frame(&mut out, |_| {});
        assert_eq!(out, b"\x09\0\x03abc");
    }
}
