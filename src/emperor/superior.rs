//! The emperor above this one, when this emperor is itself a vassal.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::sys::fds::Readable;

/// The link to it.
#[derive(Debug)]
pub struct Superior {
    link: Option<Readable>,
}

/// What it wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// End; also when it is no more.
    Stop,
    /// Tell the vassals to reload.
    Reload,
}

/// The byte by which a sub-emperor announces itself: it is loyal from its start. Measured on uWSGI 2.0.21.
const LOYAL: u8 = 17;

impl Superior {
    /// Takes the link that we were started with, if any. Call inside the runtime.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn new(link: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { link: link.map(Readable::new).transpose()? })
    }

    /// The number of the link, for a program that takes this one's place.
    #[must_use]
    pub fn number(&self) -> Option<RawFd> {
        self.link.as_ref().map(|link| link.fd().as_raw_fd())
    }

    /// Announces this emperor.
    pub fn announce(&self) {
        if let Some(link) = &self.link {
            // If it has gone in the meantime, the next reading tells.
            let _ = send(link.fd().as_raw_fd(), &[LOYAL], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }

    /// Resolves when it may have said something; never without a superior. Cancel-safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        match &self.link {
            Some(link) => link.ready().await,
            None => std::future::pending().await,
        }
    }

    /// What it has said since.
    pub fn take(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(link) = &self.link {
            let mut bytes = [0; 64];
            match recv(link.fd().as_fd().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(count @ 1..) => commands.extend(bytes[..count].iter().filter_map(|byte| match byte {
                    0 | 2 => Some(Command::Stop),
                    1 => Some(Command::Reload),
                    _ => None,
                })),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => {
                    self.link = None;
                    commands.push(Command::Stop);
                }
            }
        }
        commands
    }
}
