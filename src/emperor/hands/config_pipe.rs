//! The config pipe: how a vassal gets a configuration that is in no file, and again each time it asks.
//!
//! The text goes through a pair of sockets, once right after the start and then only when the vassal says
//! [`Word::ConfigWanted`](crate::vassal::link::Word), which it does when it has been told to reload. Nothing is put
//! there on any other occasion, and nothing while the vassal has not read what is there: so what it reads is never the
//! version before the one that was meant. What does not fit into the socket waits here until it does.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::agree::base_name;
use super::command::Subject;
use super::{Hands, Launch, Token};
use crate::emperor::court::{Court, Key, Vassal};
use crate::emperor::source::{SourceId, Supplies, Supply, VassalName};
use crate::sys::fds;
use crate::vassal::link::config_frame;

/// Our end of a vassal's config pipe.
#[derive(Debug)]
pub(super) struct ConfigPipe {
    socket: OwnedFd,
    record: ConfigRecord,
    /// Whether the epoll knows it, to say when more fits.
    watched: bool,
}

/// What has to be known of a config pipe to go on with it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ConfigRecord {
    /// The vassal has asked, and there was nothing to send yet.
    pub owed: bool,
    /// What did not fit yet.
    pub unsent: Vec<u8>,
}

/// What sources without files have supplied.
pub(super) type Table = HashMap<SourceId, Supplies>;

impl ConfigPipe {
    /// A pipe, and the vassal's end of it.
    pub(super) fn new() -> nix::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::of(ours, ConfigRecord::default()), theirs))
    }

    /// The vassal's end of a pipe in which a text is, and nothing will follow.
    ///
    /// # Errors
    /// No more descriptors, or it does not fit.
    pub(super) fn filled(text: &[u8]) -> nix::Result<OwnedFd> {
        let (mut pipe, theirs) = Self::new()?;
        pipe.put(text);
        if pipe.record.unsent.is_empty() { Ok(theirs) } else { Err(Errno::ENOBUFS) }
    }

    /// One that somebody else has held.
    pub(super) fn of(socket: OwnedFd, record: ConfigRecord) -> Self {
        Self { socket, record, watched: false }
    }

    /// What is held.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, &ConfigRecord) {
        (self.socket.as_fd(), &self.record)
    }

    /// Whether the vassal has read all that was put there.
    fn is_read(&self) -> bool {
        self.record.unsent.is_empty() && fds::unread_bytes(self.socket.as_fd()).is_ok_and(|bytes| bytes == 0)
    }

    /// Puts a text there. It must be one that fits into a frame, which a [`Supply`] is.
    pub(super) fn put(&mut self, text: &[u8]) {
        let Some(frame) = config_frame(text) else { return };
        self.record.owed = false;
        self.record.unsent.extend(frame);
        self.flush();
    }

    /// Writes what fits. `false` if something is left.
    fn flush(&mut self) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while !self.record.unsent.is_empty() {
            match send(self.socket.as_raw_fd(), &self.record.unsent, flags) {
                Ok(count) => drop(self.record.unsent.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return false,
                // The vassal has closed it, and will never read the rest.
                Err(_) => self.record.unsent.clear(),
            }
        }
        self.record.unsent = Vec::new();
        true
    }
}

impl Launch {
    /// Whether the vassals of a source have no files.
    pub(super) fn carries(&self, source: SourceId) -> bool {
        self.places.get(usize::from(source.0)).is_some_and(super::Place::carries)
    }

    /// What a vassal's configuration argument is made of.
    pub(super) fn subject<'v>(&self, vassal: &'v Vassal) -> Subject<'v> {
        let name = base_name(vassal);
        match (self.carries(vassal.source), vassal.zerg_number().is_some()) {
            (false, false) => Subject::File(name),
            (false, true) => Subject::Zerg(name),
            (true, false) => Subject::Sent(name),
            (true, true) => Subject::SentZerg(name),
        }
    }
}

impl Hands {
    /// Takes what a source supplies from now on. Vassals that have asked before are answered.
    pub fn supply(&mut self, source: SourceId, mut supplies: Supplies, court: &Court) {
        // What is there but cannot be used now may have to be started again as it was.
        let is_there = |name: &VassalName| {
            court.find(name).and_then(|key| court.get(key)).is_some_and(|vassal| vassal.source == source)
        };
        for (name, supply) in self.supplies.remove(&source).unwrap_or_default() {
            if !supplies.contains_key(&name) && is_there(&name) {
                supplies.insert(name, supply);
            }
        }
        self.supplies.insert(source, supplies);
        let is_owed = |held: &&super::Held| held.config.as_ref().is_some_and(|pipe| pipe.record.owed);
        let owed: Vec<Key> = self.held.places().iter().filter(is_owed).filter_map(|held| held.key).collect();
        owed.into_iter().for_each(|key| self.push_config(key, court));
    }

    /// Takes what a former emperor has known of what a source supplies for a vassal.
    pub fn supply_again(&mut self, source: SourceId, name: &VassalName, supply: Supply) {
        self.supplies.entry(source).or_default().entry(name.clone()).or_insert(supply);
    }

    /// What its source supplies for a vassal.
    #[must_use]
    pub fn supply_of(&self, vassal: &Vassal) -> Option<&Supply> {
        self.supplies.get(&vassal.source)?.get(&VassalName::new(base_name(vassal)))
    }

    /// The text that a vassal would read at its start, if it is in no file.
    pub(super) fn text_of(&self, vassal: &Vassal) -> Option<&[u8]> {
        self.supply_of(vassal).map(Supply::text)
    }

    /// Sends a vassal its configuration, because it asks for it.
    pub(super) fn push_config(&mut self, key: Key, court: &Court) {
        let Some(vassal) = court.get(key) else { return };
        let supply = self.supply_of(vassal).cloned();
        let Some(pipe) = self.held(key).and_then(|held| held.config.as_mut()) else { return };
        let Some(supply) = supply else {
            if !std::mem::replace(&mut pipe.record.owed, true) {
                warn!(
                    "[emperor] vassal {} asks for its configuration, which its source has not supplied yet: it is sent as \
                     soon as it has",
                    vassal.name
                );
            }
            return;
        };
        // A copy that it has yet to read answers the question: another one would be read after the next reload.
        if pipe.is_read() {
            pipe.put(supply.text());
            self.watch_config(key);
        }
    }

    /// There is room for more of what a vassal has to read.
    pub(super) fn push_rest(&mut self, key: Key) {
        if let Some(pipe) = self.held(key).and_then(|held| held.config.as_mut()) {
            pipe.flush();
        }
        self.watch_config(key);
    }

    /// Has the epoll say when more fits, or not any more.
    pub(super) fn watch_config(&mut self, key: Key) {
        let Some(held) = self.held.of_mut(key) else { return };
        let Some(pipe) = held.config.as_mut() else { return };
        let wanted = !pipe.record.unsent.is_empty();
        if wanted == pipe.watched {
            return;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, Token::Config(key).to_bits());
        let done = if wanted { self.epoll.add(&pipe.socket, event) } else { self.epoll.delete(&pipe.socket) };
        match done {
            Ok(()) => pipe.watched = wanted,
            Err(cause) => error!("[emperor] cannot send a vassal the rest of its configuration: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vassal::link::{MOST_CONFIG_BYTES, config_length};
    use nix::sys::socket::{recv, setsockopt, sockopt};

    fn read(theirs: &OwnedFd) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let count = recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    #[test]
    fn what_does_not_fit_waits_and_comes_whole() {
        let (mut pipe, theirs) = ConfigPipe::new().unwrap();
        setsockopt(&pipe.socket, sockopt::SndBuf, &4096).unwrap();
        let text: Vec<u8> = (0..MOST_CONFIG_BYTES).map(|n| u8::try_from(n % 251).unwrap()).collect();
        assert!(pipe.is_read());
        pipe.put(&text);
        assert!(!pipe.record.unsent.is_empty() && !pipe.is_read());
        let mut got = Vec::new();
        while got.len() < text.len() + 4 {
            let piece = read(&theirs);
            assert!(!piece.is_empty(), "{} bytes came", got.len());
            got.extend(piece);
            pipe.flush();
        }
        assert_eq!(config_length([got[0], got[1], got[2], got[3]]), Some(text.len()));
        assert_eq!(got[4..], text);
        assert!(pipe.is_read());
    }

    #[test]
    fn a_vassal_that_has_closed_its_end_costs_nothing() {
        let (mut pipe, theirs) = ConfigPipe::new().unwrap();
        drop(theirs);
        pipe.put(b"[uwsgi]\n");
        assert!(pipe.record.unsent.is_empty());
    }
}
