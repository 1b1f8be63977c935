//! Sockets that are offered to others: `zerg-server` and `zerg-pool`, of the emperor's own configuration and of vassals
//! that are not run by uWSGI.
//!
//! What is offered is bound and held here or in `sockets.rs`, never read from, and given to whoever connects at the door
//! and is allowed. A client costs an accept, a message and a close, whatever it does; nobody waits for it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::{error, info, warn};

use super::on_demand::{Owner, remedy};
use super::sockets::{SocketRecord, good_as_new};
use super::{Hands, Token};
use crate::emperor::court::{Court, Key};
use crate::sys::peer;
use crate::vassal::socket::{Address, Listener, Manner};
use crate::vassal::terms::sockets::{SocketTerm, SocketTerms};
use crate::vassal::terms::zerg::Door;
use crate::zerg::server::{Allowed, Peer, Served, serve};
use crate::zerg::wire::{Greeting, Label, messages};

mod care;
mod kept;

pub use kept::{DoorRecord, OffersLeft};

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
    /// What was said of its file.
    told: String,
}

/// A door that is open.
#[derive(Debug)]
struct Open {
    /// The vassal whose sockets are offered; none for the emperor's own.
    of: Option<Key>,
    door: Door,
    tenant: Option<Owner>,
    /// The owner of the vassal's file.
    owner: Option<u32>,
    allowed: Allowed,
    listeners: Vec<Listener>,
    /// What was said of its file.
    told: String,
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
    pub fn offer_own(&mut self, directory: &Path, left: OffersLeft) -> Result<(), OfferError> {
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
        let wanted: Vec<_> = terms.sockets().iter().filter(is_offered).collect();
        // Those that nobody wants any more go first: they may be in the way of others.
        let is_wanted = |record: &SocketRecord| wanted.iter().any(|term| term.address == record.term.address);
        let (kept, gone): (Vec<_>, _) = left_sockets.drain(..).partition(|(_, record)| is_wanted(record));
        left_sockets = kept;
        gone.into_iter().map(kept::listener).for_each(drop);
        for term in wanted {
            if self.offers.sockets.iter().any(|own| is_there(own, term)) {
                continue;
            }
            let former = left_sockets.iter().position(|(_, record)| record.term.address == term.address);
            let former = former.and_then(|at| go_on(term, left_sockets.swap_remove(at)));
            let listener = match former {
                Some(listener) => Ok(listener),
                None => term.address.bind_in(&term.manner, None).map(Listener::secured),
            };
            match listener {
                Ok(listener) => {
                    let told = String::new();
                    self.offers.sockets.push(Own { term: term.clone(), listener, told });
                }
                Err(cause) => fail("its doors", &term.address, cause),
            }
        }
        let (of_doors, gone): (Vec<_>, _) = left_doors
            .drain(..)
            .partition(|(record, _)| terms.zerg().doors.iter().any(|door| record.is_own(door)));
        left_doors = of_doors;
        gone.into_iter().for_each(|(record, _)| record.forsake());
        for door in &terms.zerg().doors {
            let own = |open: &Open| open.of.is_none() && open.door == *door;
            if self.offers.doors.iter().flatten().any(own) {
                continue;
            }
            let former = left_doors.iter().position(|(record, _)| record.is_own(door));
            let opened = match former.map(|at| left_doors.swap_remove(at)) {
                Some((record, fds)) => self.reopen(None, door.clone(), record, fds),
                None => self.open(None, door, None, None),
            };
            if let Err(cause) = opened {
                fail(&door.at.to_string(), &door.at, cause);
            }
        }
        self.offers.lacking = failed.as_ref().map(|error| (directory.to_path_buf(), error.to_string()));
        failed.map_or(Ok(()), Err)
    }

    /// Opens and closes the doors of a vassal, as its file says.
    ///
    /// # Errors
    /// What cannot be opened and why, for a person.
    pub(super) fn open_doors(
        &mut self,
        key: Key,
        court: &Court,
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
            let owner = court.get(key).map(|vassal| vassal.identity.uid);
            self.open(Some(key), door, tenant, owner).map_err(|cause| {
                let help = self.obstructed(key, court, &door.at, &cause, tenant);
                format!("cannot offer its sockets at {}: {cause}{help}", door.at)
            })?;
        }
        Ok(())
    }

    /// Closes the doors of a vassal but for those to keep.
    fn close_doors(&mut self, key: Key, keep: impl Fn(&Open) -> bool) {
        self.may_be_free();
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

    /// Whether one of a vassal's doors, or of the emperor's own, is at an address.
    pub(super) fn has_door(&self, of: Option<Key>, address: &Address) -> bool {
        self.offers.doors.iter().flatten().any(|open| open.of == of && open.door.at == *address)
    }

    /// Whether the emperor itself offers something at an address.
    pub(super) fn offers_at(&self, address: &Address) -> bool {
        let own = self.offers.sockets.iter().any(|own| own.term.address.meets(address));
        own || self.has_door(None, address)
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
        let listeners = bind(door, tenant)?;
        info!("[emperor] zerg server enabled on {}", door.at);
        self.watch_door(of, door.clone(), tenant, owner, listeners)
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
        let users = users.into_iter().flatten().chain(door.allowed.iter().copied());
        let stranger = peer::stranger();
        let named = |uid: u32| stranger != Some(uid);
        if let Some(uid) = users.clone().find(|uid| !named(*uid)) {
            warn!(
                "[emperor] user {uid} gets no sockets: users without a number in this user namespace appear as it at \
                 {}; let the one that is meant have another number",
                door.at
            );
        }
        let allowed = users.filter(|uid| named(*uid)).collect();
        let open = Open { of, door, tenant, owner, allowed, listeners, told: String::new() };
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
        let messages = messages(Greeting::Zerg, &sockets, &labels);
        let mut refused = Vec::new();
        let mut short = None;
        for listener in &open.listeners {
            for _ in 0..AT_ONCE {
                // Who is told nothing because there is nothing learns of it by the end of the connection.
                let outcome = serve(listener.socket.as_fd(), &open.allowed, &messages);
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
}

/// Makes the sockets of a door.
fn bind(door: &Door, tenant: Option<Owner>) -> io::Result<Vec<Listener>> {
    let manner = manner(door);
    let mut listeners = vec![door.at.bind_in(&manner, tenant)?];
    if let Address::Abstract(name) = &door.at {
        // uWSGI's clients look for the name with a NUL behind it, others without.
        listeners.push(Address::BareAbstract(name.clone()).bind_in(&manner, tenant)?);
    }
    Ok(listeners)
}

/// A socket that was held before, if it is still good for what is wanted now.
fn go_on(term: &SocketTerm, left: (OwnedFd, SocketRecord)) -> Option<Listener> {
    let binds_as = left.1.term.manner.binds_as(&term.manner);
    let listener = kept::listener(left);
    let is_good = binds_as && listener.is_at(&term.address) && matches!(good_as_new(&listener), Ok(true));
    let tuned = is_good.then(|| listener.tune(&term.manner).map(|()| listener));
    match tuned {
        Some(Ok(listener)) => return Some(listener),
        Some(Err(cause)) => warn!("[emperor] the socket {} is made anew: {cause}", term.address),
        None => warn!(
            "[emperor] the socket {} is made anew: the former one was shut down, is another one, or has lost its file",
            term.address
        ),
    }
    None
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
