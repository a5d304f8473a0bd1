//! IDs and ports that nobody can guess (RFC 5452 §9.2).

/// Random numbers from the operating system, a few hundred a call.
#[derive(Debug)]
pub struct Unpredictable {
    buffer: [u8; 512],
    at: usize,
}

impl Unpredictable {
    /// Empty; the first number fills it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: [0; 512],
            at: 512,
        }
    }

    /// 16 random bits.
    ///
    /// # Panics
    /// If the operating system has no random numbers, which it does once it has booted.
    pub fn next_u16(&mut self) -> u16 {
        if self.at + 2 > self.buffer.len() {
            getrandom::fill(&mut self.buffer)
                .expect("getrandom(2) works once the kernel has booted");
            self.at = 0;
        }
        self.at += 2;
        u16::from_ne_bytes([self.buffer[self.at - 2], self.buffer[self.at - 1]])
    }
}

impl Default for Unpredictable {
    fn default() -> Self {
        Self::new()
    }
}
