//! The vassal's end of the config pipe: the configuration that its emperor sends instead of a file's name.
//!
//! Caller: whatever reads a vassal's configuration in a process of its own; it blocks for up to five seconds.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::link::{CONFIG_FD_VARIABLE, CONFIG_HEADER_BYTES, config_length};
use crate::sys::fds;

/// How long a configuration may take to come. Source: uWSGI 2.0.21, which waits so long for each piece.
const PATIENCE: Duration = Duration::from_secs(5);

/// The config pipe of this process.
#[derive(Debug)]
pub struct ConfigPipe(OwnedFd);

impl ConfigPipe {
    /// Takes over the descriptor that the emperor left; `None` if this is no vassal, or one that has a file, or if
    /// the variable is all that has come down from one.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let number = env::var_os(CONFIG_FD_VARIABLE)?.to_str()?.parse().ok()?;
        fds::adopt(number).ok().map(Self)
    }

    /// The next configuration. The emperor sends one at the start, and others only when asked.
    ///
    /// # Errors
    /// None comes in time, or what comes is none.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        let mut header = [0; CONFIG_HEADER_BYTES];
        self.fill(&mut header, until)?;
        let length = config_length(header);
        let length =
            length.ok_or_else(|| io::Error::other("what the emperor has sent is no configuration"))?;
        let mut text = vec![0; length];
        self.fill(&mut text, until)?;
        Ok(text)
    }

    fn fill(&self, mut wanted: &mut [u8], until: Instant) -> io::Result<()> {
        while !wanted.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) => {
                    let text = format!("the emperor has sent no configuration within {PATIENCE:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            match nix::unistd::read(&self.0, wanted) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => wanted = &mut wanted[count..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vassal::link::config_frame;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn pipe() -> (UnixStream, ConfigPipe) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, ConfigPipe(theirs.into()))
    }

    #[test]
    fn texts_are_read_one_by_one_to_the_byte() {
        let (mut emperor, vassal) = pipe();
        for text in ["one", "two"] {
            emperor.write_all(&config_frame(text.as_bytes()).unwrap()).unwrap();
        }
        assert_eq!(vassal.receive().unwrap(), b"one");
        assert_eq!(vassal.receive().unwrap(), b"two");
        drop(emperor);
        assert!(vassal.receive().is_err());
    }

    #[test]
    fn other_bytes_are_no_configuration() {
        let (mut emperor, vassal) = pipe();
        emperor.write_all(&[7, 1, 0, 0, b'x']).unwrap();
        assert!(vassal.receive().unwrap_err().to_string().contains("no configuration"));
    }
}
