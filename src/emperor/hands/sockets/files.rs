//! The files of held sockets: put back when somebody removes them, and told of where that cannot be.

use std::io;

use tracing::{error, info, warn};

use super::Socket;
use crate::emperor::court::{Court, Key, State, Vassal};
use crate::emperor::hands::on_demand::{Owner, remedy};
use crate::emperor::hands::{Hands, Held};
use crate::emperor::story::Kind;
use crate::vassal::socket::{Address, Restored, SocketFile};

/// What is wrong with a socket's file.
struct Trouble {
    what: String,
    address: Address,
    cause: io::Error,
    owner: Option<Owner>,
}

impl Hands {
    /// Puts the files of a vassal's sockets back that its program has removed. While it waits for a connection, a socket
    /// whose file has no name left is made anew: nobody serves it, and nobody would ever come.
    pub(in crate::emperor::hands) fn restore_sockets(&mut self, key: Key, vassal: &Vassal) {
        let Some(sockets) = self.held(key).and_then(|held| held.sockets.as_ref()) else { return };
        let (mut trouble, mut lost) = (None, Vec::new());
        let wrong = |socket: &Socket, what, cause| {
            let owner = socket.tenant;
            Some(Trouble { what, address: socket.term.address.clone(), cause, owner })
        };
        for (number, socket) in sockets.list.iter().enumerate() {
            let Some(file) = socket.listener.as_ref().and_then(|listener| listener.file.as_ref()) else {
                continue;
            };
            let path = file.path().display();
            match file.restore() {
                Ok(Restored::WasThere) => {}
                Ok(Restored::IsBack) => info!(
                    "[emperor] vassal {}: the file of the socket {path} was removed, and is back",
                    vassal.name
                ),
                Ok(Restored::Lost) if vassal.state == State::Waiting => lost.push(number),
                Ok(Restored::Lost) => {
                    let what = format!("the file of the socket {path} is gone, and so is its second name");
                    let then = io::Error::other("it is made anew when the vassal starts again");
                    trouble = wrong(socket, what, then);
                }
                Err(cause) => {
                    trouble = wrong(socket, format!("the file of the socket {path} was replaced"), cause);
                }
            }
        }
        if !lost.is_empty() {
            trouble = self.make_anew(key, vassal, &lost).or(trouble);
        }
        match trouble {
            Some(Trouble { what, address, cause, owner }) => {
                self.way_is_clear(key);
                if let Address::Path(path) = &address {
                    self.watch_way(key, path, &cause, owner);
                }
                self.has_lost(key, vassal, &format!("{what}: {cause}{}", remedy(&cause, owner)));
            }
            None if self.lost.is_empty() => {}
            None => self.has_all(key),
        }
    }

    fn make_anew(&mut self, key: Key, vassal: &Vassal, lost: &[usize]) -> Option<Trouble> {
        let is_watched = self.look_away(key).is_some();
        let sockets = self.held(key)?.sockets.as_mut()?;
        let mut trouble = None;
        for number in lost {
            let socket = sockets.list.get_mut(*number)?;
            let (address, owner) = (&socket.term.address, socket.tenant);
            match address.bind_in(&socket.term.manner, owner) {
                Ok(listener) => {
                    let mut listener = listener.secured();
                    let stays = socket
                        .listener
                        .as_ref()
                        .and_then(|it| it.file.as_ref())
                        .is_some_and(SocketFile::stays);
                    if let Some(file) = &mut listener.file {
                        file.set_stays(stays);
                    }
                    socket.listener = Some(listener);
                    warn!(
                        "[emperor] vassal {}: the file of the socket {address} was removed, and is made anew",
                        vassal.name
                    );
                }
                Err(cause) => {
                    let what = format!("its socket {address} has no file any more, and cannot be made anew");
                    trouble = Some(Trouble { what, address: address.clone(), cause, owner });
                }
            }
        }
        if is_watched {
            self.watch(key);
        }
        if trouble.is_none() {
            self.watch_files(key);
        }
        trouble
    }

    /// Says what is wrong with a socket that a vassal has: once, however often it is looked at.
    pub(in crate::emperor::hands) fn has_lost(&mut self, key: Key, vassal: &Vassal, why: &str) {
        if self.lost.insert(key, why.into()).as_deref() != Some(why) {
            error!("[emperor] vassal {}: {why}", vassal.name);
            self.tell_of(&vassal.name, Some(vassal), Kind::Warning, why.to_owned());
        }
    }

    /// Nothing is wrong with them any more.
    pub(in crate::emperor::hands) fn has_all(&mut self, key: Key) {
        if self.lost.remove(&key).is_some() {
            self.way_is_clear(key);
        }
    }

    /// What is wrong with the sockets of a vassal, if anything is.
    #[must_use]
    pub fn lost(&self, key: Key) -> Option<&str> {
        self.lost.get(&key).map(Box::as_ref)
    }

    /// Looks after the files of the sockets of all vassals.
    pub(in crate::emperor::hands) fn restore_all_sockets(&mut self, court: &Court) {
        let lost = |held: &&Held| {
            held.sockets.as_ref().is_some_and(|sockets| sockets.files().any(|file| !file.is_there()))
        };
        let keys: Vec<Key> = self.held.places().iter().filter(lost).filter_map(|held| held.key).collect();
        for key in keys {
            if let Some(vassal) = court.get(key) {
                self.restore_sockets(key, vassal);
                self.forget_alarms(key);
            }
        }
    }
}
