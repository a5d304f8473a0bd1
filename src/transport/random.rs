//! IDs and ports that nobody can guess (RFC 5452 §9.2).

use std::sync::Arc;

use crate::net::network::Network;

/// Random numbers from the operating system, which is called once for 256 of them.
#[derive(Debug)]
pub struct Unpredictable {
    network: Arc<dyn Network>,
    buffer: [u8; 512],
    at: usize,
}

impl Unpredictable {
    /// An empty buffer; the first call of `next_u16` fills it.
    #[must_use]
    pub fn new(network: &Arc<dyn Network>) -> Self {
        Self {
            network: Arc::clone(network),
            buffer: [0; 512],
            at: 512,
        }
    }

    /// 16 random bits.
    pub fn next_u16(&mut self) -> u16 {
        if self.at + 2 > self.buffer.len() {
            self.network.fill_random(&mut self.buffer);
            self.at = 0;
        }
        self.at += 2;
        u16::from_ne_bytes([self.buffer[self.at - 2], self.buffer[self.at - 1]])
    }
}
