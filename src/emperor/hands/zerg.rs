//! Sockets that are offered to others: `zerg-server` and `zerg-pool`, of the emperor's own configuration and of vassals
//! that are not run by uWSGI.
//!
//! What is offered is bound and held here or in `sockets.rs`, never read from, and given to whoever connects at the door
//! and is allowed. A client costs an accept, a message and a close, whatever it does; nobody waits for it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::on_demand::{Owner, remedy};
use super::sockets::{SocketRecord, id};
use super::{Hands, Token};
use crate::emperor::court::{Court, Key, Vassal};
use crate::emperor::source::VassalName;
use crate::vassal::plan::Text;
use crate::vassal::socket::{Address, FileRecord, Listener, Manner, Restored, SocketFile};
use crate::vassal::terms::sockets::{SocketTerm, SocketTerms};
use crate::vassal::terms::zerg::Door;
use crate::zerg::server::{Allowed, Peer, Served, serve};
use crate::zerg::wire::{Greeting, Label, message};

/// All that is offered.
#[derive(Debug, Default)]
pub(super) struct Offers {
    doors: Vec<Option<Open>>,
    /// The emperor's own sockets.
    sockets: Vec<Own>,
    /// Nobody is let in before, because no descriptor was left.
    shut_until: Option<Instant>,
    /// What the emperor's own configuration offers, if all of it is not there yet, and what was said of that.
    lacking: Option<(PathBuf, String)>,
    /// Who was refused, as far as that was said.
    refused: BTreeSet<(String, u32)>,
}

#[derive(Debug)]
struct Own {
    term: SocketTerm,
    listener: Listener,
}

/// A door that is open.
#[derive(Debug)]
struct Open {
    /// The vassal whose sockets are offered; none for the emperor's own.
    of: Option<Key>,
    door: Door,
    tenant: Option<Owner>,
    allowed: Allowed,
    listeners: Vec<Listener>,
}

/// A door as data, for the program that goes on with it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DoorRecord {
    vassal: Option<Text>,
    door: Door,
    tenant: Option<Owner>,
    owner: Option<u32>,
    /// Its listening sockets, by their numbers, with their files.
    pub numbers: Vec<(RawFd, Option<FileRecord>)>,
}

/// What a program before this one has held open.
#[derive(Debug, Default)]
pub struct OffersLeft {
    /// Doors, with their listening sockets.
    pub doors: Vec<(DoorRecord, Vec<OwnedFd>)>,
    /// The emperor's own sockets.
    pub sockets: Vec<(OwnedFd, SocketRecord)>,
}

/// Why what the emperor's own configuration offers cannot be.
#[derive(Debug, thiserror::Error)]
#[error("cannot offer sockets at {at}: {address}: {cause}{help}")]
pub struct OfferError {
    at: String,
    address: String,
    cause: io::Error,
    help: String,
}

/// So many clients are served before others have their turn.
const AT_ONCE: usize = 64;
/// How long nobody is let in when there is no descriptor for him.
const SHUT: Duration = Duration::from_secs(1);
/// Connections that may wait at a door.
const BACKLOG: u32 = 100;
/// For so many users it is said that they were refused.
const MOST_TOLD: usize = 100;

impl Hands {
    /// Offers what the emperor's own configuration says; sockets that were held before are held on.
    ///
    /// # Errors
    /// [`OfferError`], for the first that cannot be had; the others are offered.
    pub fn offer_own(&mut self, directory: &Path, left: OffersLeft, court: &Court) -> Result<(), OfferError> {
        let terms = self.launch.offered.in_directory(directory);
        let OffersLeft { doors: mut left_doors, sockets: mut left_sockets } = left;
        let mut failed = None;
        let mut fail = |at: &str, address: &Address, cause: io::Error| {
            let help = remedy(&cause, None);
            failed.get_or_insert(OfferError { at: at.into(), address: address.to_string(), cause, help });
        };
        let is_offered = |term: &&SocketTerm| {
            let pooled = |door: &Door| door.sockets.is_empty() || door.sockets.contains(&term.address);
            terms.zerg().doors.iter().any(pooled)
        };
        let is_there = |own: &Own, term: &SocketTerm| own.term.address == term.address;
        for term in terms.sockets().iter().filter(is_offered) {
            if self.offers.sockets.iter().any(|own| is_there(own, term)) {
                continue;
            }
            let former = left_sockets.iter().position(|(_, record)| record.term.address == term.address);
            let listener = match former.map(|at| left_sockets.swap_remove(at)) {
                Some((socket, record)) => {
                    let file = record.file.as_ref().map(SocketFile::of_record);
                    let listener = Listener { file, socket };
                    listener.tune(&term.manner).map(|()| listener)
                }
                None => term.address.bind_in(&term.manner, None).map(secured),
            };
            match listener {
                Ok(listener) => {
                    self.offers.sockets.push(Own { term: term.clone(), listener });
                }
                Err(cause) => fail("its doors", &term.address, cause),
            }
        }
        for door in &terms.zerg().doors {
            let own = |open: &Open| open.of.is_none() && open.door == *door;
            if self.offers.doors.iter().flatten().any(own) {
                continue;
            }
            let is_it =
                |left: &(DoorRecord, Vec<OwnedFd>)| left.0.vassal.is_none() && left.0.door.at == door.at;
            let former = left_doors.iter().position(is_it).map(|at| left_doors.swap_remove(at));
            let opened = match former {
                Some((record, fds)) => self.reopen(None, Door { ..door.clone() }, record, fds),
                None => self.open(None, door, None, None),
            };
            if let Err(cause) = opened {
                fail(&door.at.to_string(), &door.at, cause);
            }
        }
        for (record, fds) in left_doors {
            let name = record.vassal.as_ref().map(|name| VassalName::new(name.as_bytes()));
            let (Some(key), door) = (name.and_then(|name| court.find(&name)), record.door.clone()) else {
                // Whose it was is no more, or does not offer it any more: its file goes.
                record
                    .numbers
                    .iter()
                    .filter_map(|(_, file)| file.as_ref())
                    .map(SocketFile::of_record)
                    .for_each(drop);
                continue;
            };
            if let Err(cause) = self.reopen(Some(key), door, record, fds) {
                error!("[emperor] a zerg server is lost until its vassal starts again: {cause}");
            }
        }
        left_sockets
            .iter()
            .filter_map(|(_, record)| record.file.as_ref())
            .map(SocketFile::of_record)
            .for_each(drop);
        self.offers.lacking = failed.as_ref().map(|error| (directory.to_path_buf(), error.to_string()));
        failed.map_or(Ok(()), Err)
    }

    /// Puts the files of the emperor's own sockets back, and tries once more what could not be had.
    pub(super) fn look_after_offers(&mut self, court: &Court) {
        for file in self.offers.sockets.iter().filter_map(|own| own.listener.file.as_ref()) {
            match file.restore() {
                Ok(Restored::WasThere) => {}
                Ok(Restored::IsBack) => {
                    info!("[emperor] the file of the socket {} is back", file.path().display())
                }
                Ok(Restored::Lost) => {
                    warn!("[emperor] the file of the socket {} is gone", file.path().display())
                }
                Err(cause) => warn!("[emperor] the file of the socket {}: {cause}", file.path().display()),
            }
        }
        let Some((directory, told)) = self.offers.lacking.take() else { return };
        match self.offer_own(&directory, OffersLeft::default(), court) {
            Ok(()) => info!("[emperor] all that zerg-server and zerg-pool name is offered now"),
            Err(error) if error.to_string() != told => error!("[emperor] {error}"),
            Err(_) => {}
        }
    }

    /// Opens and closes the doors of a vassal, as its file says.
    ///
    /// # Errors
    /// What cannot be opened and why, for a person.
    pub(super) fn open_doors(
        &mut self,
        key: Key,
        vassal: &Vassal,
        terms: &SocketTerms,
        tenant: Option<Owner>,
    ) -> Result<(), String> {
        let wanted = &terms.zerg().doors;
        self.close_doors(key, |open| wanted.contains(&open.door) && open.tenant == tenant);
        for door in wanted {
            let is_open = |open: &Open| open.of == Some(key) && open.door == *door;
            if self.offers.doors.iter().flatten().any(is_open) {
                continue;
            }
            self.open(Some(key), door, tenant, Some(vassal.identity.uid)).map_err(|cause| {
                let help = remedy(&cause, tenant);
                format!("cannot offer its sockets at {}: {cause}{help}", door.at)
            })?;
        }
        Ok(())
    }

    /// Closes the doors of a vassal but for those to keep.
    fn close_doors(&mut self, key: Key, keep: impl Fn(&Open) -> bool) {
        for place in &mut self.offers.doors {
            if let Some(open) = place.take_if(|open| open.of == Some(key) && !keep(open)) {
                // Whoever has a copy must not keep it in the epoll.
                for listener in &open.listeners {
                    let _ = self.epoll.delete(&listener.socket);
                }
            }
        }
    }

    /// The doors of one vassal are another's from now on.
    pub(super) fn pass_doors(&mut self, old: Key, new: Key) {
        let of_old = self.offers.doors.iter_mut().flatten().filter(|open| open.of == Some(old));
        of_old.for_each(|open| open.of = Some(new));
    }

    /// Closes all of a vassal's.
    pub(super) fn close_all_doors(&mut self, key: Key) {
        self.close_doors(key, |_| false);
    }

    fn open(
        &mut self,
        of: Option<Key>,
        door: &Door,
        tenant: Option<Owner>,
        owner: Option<u32>,
    ) -> io::Result<()> {
        let manner = manner(door);
        let mut listeners = vec![door.at.bind_in(&manner, tenant)?];
        if let Address::Abstract(name) = &door.at {
            // uWSGI's clients look for the name with a NUL behind it, others without.
            listeners.push(Address::BareAbstract(name.clone()).bind_in(&manner, tenant)?);
        }
        info!("[emperor] zerg server enabled on {}", door.at);
        self.watch_door(of, door.clone(), tenant, owner, listeners)
    }

    fn reopen(
        &mut self,
        of: Option<Key>,
        door: Door,
        record: DoorRecord,
        fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let files = record.numbers.into_iter().map(|(_, file)| file);
        let listeners: Vec<_> = fds
            .into_iter()
            .zip(files)
            .map(|(socket, file)| Listener { file: file.as_ref().map(SocketFile::of_record), socket })
            .collect();
        for listener in &listeners {
            listener.tune(&manner(&door))?;
        }
        self.watch_door(of, door, record.tenant, record.owner, listeners)
    }

    fn watch_door(
        &mut self,
        of: Option<Key>,
        door: Door,
        tenant: Option<Owner>,
        owner: Option<u32>,
        listeners: Vec<Listener>,
    ) -> io::Result<()> {
        let place = self.offers.doors.iter().position(Option::is_none).unwrap_or(self.offers.doors.len());
        for listener in &listeners {
            let flags = OFlag::from_bits_retain(fcntl(&listener.socket, FcntlArg::F_GETFL)?);
            fcntl(&listener.socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Door(place).to_bits());
            self.epoll.add(&listener.socket, event)?;
        }
        let users = [Some(0), Some(nix::unistd::geteuid().as_raw()), owner, tenant.map(|(uid, _)| uid)];
        let allowed = users.into_iter().flatten().chain(door.allowed.iter().copied()).collect();
        let open = Open { of, door, tenant, allowed, listeners };
        match self.offers.doors.get_mut(place) {
            Some(free) => *free = Some(open),
            None => self.offers.doors.push(Some(open)),
        }
        Ok(())
    }

    /// Somebody waits at a door.
    pub(super) fn answer_door(&mut self, place: usize) {
        let Some(open) = self.offers.doors.get(place).and_then(Option::as_ref) else { return };
        let offered = self.offered(open);
        let labels: Vec<_> = offered.iter().filter_map(|(_, label)| label.clone()).collect();
        let sockets: Vec<_> = offered.iter().map(|(socket, _)| *socket).collect();
        let bytes = message(Greeting::Zerg, sockets.len(), &labels);
        let mut refused = Vec::new();
        let mut short = None;
        for listener in &open.listeners {
            for _ in 0..AT_ONCE {
                // Who is told nothing because there is nothing learns of it by the end of the connection.
                let outcome = serve(listener.socket.as_fd(), &open.allowed, &bytes, &sockets);
                match outcome {
                    Ok(Served::Nobody) => break,
                    Ok(Served::Given(Peer { pid, uid })) => {
                        tracing::debug!(pid, uid, "[emperor] sockets of {} given away", open.door.at);
                    }
                    Ok(Served::Refused(peer)) => refused.push(peer),
                    Ok(Served::Lost(Peer { pid, uid }, cause)) => {
                        tracing::debug!(pid, uid, "[emperor] sockets of {} not taken: {cause}", open.door.at);
                    }
                    Err(cause) => {
                        short = Some(cause);
                        break;
                    }
                }
            }
        }
        let at = open.door.at.to_string();
        for Peer { pid, uid } in refused {
            let told = &mut self.offers.refused;
            if told.len() < MOST_TOLD && told.insert((at.clone(), uid)) {
                warn!(
                    "[emperor] user {uid} (pid: {pid}) gets no sockets at {at}: it is not allowed to; name it in \
                     zerg-allow if it is to have them"
                );
            }
        }
        if let Some(cause) = short {
            self.shut_doors(&at, &cause);
        }
    }

    /// What a door offers now.
    fn offered(&self, open: &Open) -> Vec<(BorrowedFd<'_>, Option<Label>)> {
        let label = |term: &SocketTerm| Label::new(&term.name, protocol(&term.name));
        match open.of {
            Some(key) => self.held_sockets(key, &open.door.sockets, label),
            None => {
                let order = &open.door.sockets;
                let has = |own: &&Own| {
                    if order.is_empty() { !own.term.pooled } else { order.contains(&own.term.address) }
                };
                let mut found: Vec<_> = self.offers.sockets.iter().filter(has).collect();
                found.sort_by_key(|own| order.iter().position(|address| *address == own.term.address));
                found.into_iter().map(|own| (own.listener.socket.as_fd(), label(&own.term))).collect()
            }
        }
    }

    /// No descriptor is left for who waits: it would wake the emperor without end.
    fn shut_doors(&mut self, at: &str, cause: &io::Error) {
        warn!("[emperor] nobody can be let in at {at} for a second: {cause}");
        for listener in self.offers.doors.iter().flatten().flat_map(|open| &open.listeners) {
            // One that is not in there stays out.
            let _ = self.epoll.delete(&listener.socket);
        }
        self.offers.shut_until = Some(Instant::now() + SHUT);
    }

    pub(super) fn doors_timeout(&self) -> Option<Instant> {
        self.offers.shut_until
    }

    /// Lets clients in again.
    pub(super) fn open_doors_again(&mut self, now: Instant) {
        if self.offers.shut_until.is_none_or(|at| at > now) {
            return;
        }
        self.offers.shut_until = None;
        for (place, open) in self.offers.doors.iter().enumerate() {
            for listener in open.iter().flat_map(|open| &open.listeners) {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Door(place).to_bits());
                match self.epoll.add(&listener.socket, event) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {} // it may have been opened meanwhile
                    Err(cause) => error!("[emperor] a zerg server is not watched any more: {cause}"),
                }
            }
        }
    }

    /// What is offered, as data, for the program that goes on with it.
    #[must_use]
    pub fn offers(&self, court: &Court) -> (Vec<DoorRecord>, Vec<(BorrowedFd<'_>, SocketRecord)>) {
        let door = |open: &Open| {
            let vassal = match open.of {
                Some(key) => Some(Text::from(court.get(key)?.name.as_path().as_os_str())),
                None => None,
            };
            let numbers = open.listeners.iter().map(|listener| {
                (listener.socket.as_raw_fd(), listener.file.as_ref().map(SocketFile::record))
            });
            let owner = open.of.and_then(|key| court.get(key)).map(|vassal| vassal.identity.uid);
            let (door, tenant) = (open.door.clone(), open.tenant);
            Some(DoorRecord { vassal, door, tenant, owner, numbers: numbers.collect() })
        };
        let socket = |own: &'_ Own| SocketRecord {
            term: own.term.clone(),
            tenant: None,
            file: own.listener.file.as_ref().map(SocketFile::record),
            id: id(own.listener.socket.as_fd()),
        };
        let sockets = self.offers.sockets.iter().map(|own| (own.listener.socket.as_fd(), socket(own)));
        (self.offers.doors.iter().flatten().filter_map(door).collect(), sockets.collect())
    }
}

/// A member may remove its file, which has a second name then.
fn secured(mut listener: Listener) -> Listener {
    if let Some(file) = &mut listener.file {
        file.secure();
    }
    listener
}

fn manner(door: &Door) -> Manner {
    Manner { backlog: BACKLOG, mode: Some(door.mode), owner: door.owner, ..Manner::default() }
}

/// The protocol that an option of a socket names.
fn protocol(name: &str) -> Option<&'static str> {
    let known =
        [("http", "http"), ("fastcgi", "fastcgi"), ("scgi", "scgi"), ("uwsgi", "uwsgi"), ("raw", "raw")];
    known.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, protocol)| *protocol)
}
