//! The vassal's end of the emperor protocol.

use std::env;
use std::io::{self, Write};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::sys;
use crate::vassal::link::{FD_VARIABLE, Order, Word};

/// A link to the emperor, if this process has one.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// For words: a byte is written at once or, should the emperor not read, not at all.
    words: Option<std::os::unix::net::UnixStream>,
    orders: Option<UnixStream>,
}

impl Link {
    /// Takes over the descriptor that the emperor left.
    ///
    /// # Errors
    /// The variable holds no number of an open socket.
    pub(super) fn from_environment() -> io::Result<Self> {
        let Some(number) = env::var_os(FD_VARIABLE) else { return Ok(Self::default()) };
        let number = number.to_str().and_then(|text| text.parse().ok());
        let fd = sys::fds::adopt(number.ok_or(io::ErrorKind::InvalidInput)?)?;
        let words = std::os::unix::net::UnixStream::from(fd);
        words.set_nonblocking(true)?;
        Ok(Self { words: Some(words), orders: None })
    }

    /// Begins to listen to orders. Only inside a runtime.
    ///
    /// # Errors
    /// dup(2), epoll_ctl(2).
    pub(super) fn connect(&mut self) -> io::Result<()> {
        let words = self.words.as_ref().map(std::os::unix::net::UnixStream::try_clone).transpose()?;
        self.orders = words.map(UnixStream::from_std).transpose()?;
        Ok(())
    }

    /// Whether there is an emperor.
    pub(super) fn exists(&self) -> bool {
        self.words.is_some()
    }

    pub(super) fn say(&self, word: Word) {
        if let Some(mut words) = self.words.as_ref() {
            let _ = words.write(&[byte(word)]);
        }
    }

    /// The next order that means something; `None` once the emperor is gone. Without one it waits for ever.
    pub(super) async fn order(&mut self) -> Option<Order> {
        let Some(orders) = &mut self.orders else { return std::future::pending().await };
        loop {
            match orders.read_u8().await {
                Ok(0) => return Some(Order::Stop),
                Ok(1) => return Some(Order::Reload),
                Ok(2) => return Some(Order::StopGracefully),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

fn byte(word: Word) -> u8 {
    match word {
        Word::Spawned => 1,
        Word::ConfigWanted => 2,
        Word::Accepting => 5,
        Word::Loyal => 17,
        Word::Idle => 22,
        Word::Heartbeat => 26,
        Word::Sos => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_sent_is_the_word_it_is_read_as() {
        for word in (0..=u8::MAX).filter_map(Word::from_byte) {
            assert_eq!(Word::from_byte(byte(word)), Some(word));
        }
    }
}
