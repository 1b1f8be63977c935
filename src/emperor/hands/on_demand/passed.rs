//! Sockets that the service manager has bound and passed: each is the on-demand socket of the vassal of its name.
//!
//! They stay open for as long as the emperor reigns, whatever becomes of their vassals; the manager made their files,
//! and the manager removes them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use tracing::{info, warn};

use super::{Hands, Waiting, legible};
use crate::emperor::court::{Court, Event, Key};
use crate::emperor::source::VassalName;
use crate::vassal::socket::{Address, Listener};

/// One of them.
#[derive(Debug)]
pub(in crate::emperor::hands) struct Passed {
    name: String,
    address: String,
    socket: OwnedFd,
    holder: Option<Key>,
}

/// What systemd puts behind the name of a socket unit, which names its sockets if `FileDescriptorName` does not.
const SUFFIX: &str = ".socket";

impl Hands {
    /// Takes the sockets that were passed, with their names.
    pub fn take_passed(&mut self, sockets: Vec<(String, OwnedFd)>) {
        for (name, socket) in sockets {
            let is_stream = getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
            match Address::of(&socket).filter(|_| is_stream) {
                Some(address) => {
                    let address = address.to_string();
                    self.passed.push(Passed { name, address, socket, holder: None });
                }
                None => warn!(
                    "[emperor] what the service manager has passed as `{}` is no listening stream socket, and is closed: \
                     its unit must say ListenStream= and Accept=no",
                    legible(&name)
                ),
            }
        }
    }

    /// All of them, for the program that takes this one's place.
    pub fn passed(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.passed.iter().map(|passed| (passed.name.as_str(), passed.socket.as_fd()))
    }

    /// Whether one of them is this vassal's.
    pub(super) fn is_passed(&self, name: &VassalName) -> bool {
        self.passed.iter().any(|passed| is_called(passed, name))
    }

    /// The name of one at an address.
    pub(in crate::emperor::hands) fn passed_at(&self, address: &Address) -> Option<&str> {
        let is_there = |passed: &&Passed| {
            let own = Address::parse(passed.address.as_bytes(), Path::new(""));
            own.is_ok_and(|own| own.meets(address))
        };
        self.passed.iter().find(is_there).map(|passed| passed.name.as_str())
    }

    /// Says which of them no vassal has.
    pub fn tell_of_idle_sockets(&self, court: &Court) {
        let holder = |passed: &Passed| passed.holder.filter(|key| court.get(*key).is_some());
        for passed in self.passed.iter().filter(|passed| holder(passed).is_none()) {
            let (address, name) = (&passed.address, legible(&passed.name));
            let other = self.passed.iter().find(|other| {
                holder(other)
                    .and_then(|key| court.get(key))
                    .is_some_and(|vassal| is_called(passed, &vassal.name))
            });
            match other {
                Some(other) => warn!(
                    "[emperor] the socket {address}, which the service manager has passed as `{name}`, is not used: the \
                     vassal of that name waits at {} already, and at one alone; give it a unit and a vassal of its own, or \
                     name it in the vassal's file and not in the unit",
                    other.address
                ),
                None => warn!(
                    "[emperor] the socket {address}, which the service manager has passed as `{name}`, belongs to no \
                     vassal: FileDescriptorName= must be a vassal's name, with or without its extension"
                ),
            }
        }
    }

    /// The outcome for a vassal to which one of them belongs; `None` for all others.
    pub(super) fn admit_to_passed(&mut self, key: Key, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        let is_free =
            |passed: &Passed| passed.holder.is_none_or(|holder| holder == key || court.get(holder).is_none());
        let at = self.passed.iter().position(|passed| is_called(passed, &vassal.name) && is_free(passed))?;
        let passed = self.passed.get_mut(at)?;
        passed.holder = Some(key);
        let (address, socket) = (passed.address.clone(), passed.socket.try_clone());
        let address = address.as_str();
        let waiting = self.held(key).and_then(|held| held.waiting.as_ref());
        if waiting.is_some_and(|waiting| waiting.address() == address) {
            return Some(Event::Admitted(key, true));
        }
        self.let_go(key);
        let Ok(socket) = socket else { return Some(Event::NotBound(key)) }; // no more descriptors
        info!(
            "[uwsgi-emperor] {} -> \"on demand\" instance detected, waiting for connections on socket \"{address}\", \
             which the service manager has bound ...",
            vassal.name
        );
        self.held.slot(key).waiting = Some(Waiting::new(Listener { file: None, socket }, address));
        self.is_provided(key);
        Some(Event::Admitted(key, true))
    }
}

fn is_called(passed: &Passed, name: &VassalName) -> bool {
    let name = name.as_bytes();
    let stem = std::path::Path::new(OsStr::from_bytes(name)).file_stem().map(OsStr::as_bytes);
    // A name with directories is a pattern's: what it ends in may be many vassals' name.
    let stem = stem.filter(|_| !name.contains(&b'/'));
    let called = |wanted: &str| wanted.as_bytes() == name || Some(wanted.as_bytes()) == stem;
    called(&passed.name) || passed.name.strip_suffix(SUFFIX).is_some_and(called)
}
