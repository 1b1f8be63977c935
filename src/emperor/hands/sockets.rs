//! The listening sockets of vassals that are not run by uWSGI: bound and held here for as long as their files name
//! them, never read from, and handed to each of their processes. So no connection is refused while there is none.
//!
//! In tyrant mode a socket's file is made, put back and removed with the tenant's rights to files, ports below 1024 and
//! SO_REUSEPORT are refused, and there is a limit to how many of our descriptors one tenant can hold.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::on_demand::{Owner, remedy};
use super::{Hands, Token};
use crate::emperor::court::{Court, Key, Vassal};
use crate::emperor::story::Kind;
use crate::vassal::plan::Passing;
use crate::vassal::socket::{Address, FileRecord, Listener, Restored, SocketFile};
use crate::vassal::terms::Terms;
use crate::vassal::terms::sockets::{SocketTerm, SocketTerms};

mod files;
mod watch;

pub(super) use watch::Watches;

/// The sockets of one vassal, in the order of its file.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    list: Vec<Socket>,
    /// How often something was done to their files since the last start.
    alarms: u8,
    /// Whether the epoll knows them: the vassal waits for a connection to one of them.
    watched: bool,
}

#[derive(Debug)]
struct Socket {
    term: SocketTerm,
    tenant: Option<Owner>,
    /// None while the on-demand socket is this one.
    listener: Option<Listener>,
    /// One of those that its tenant may have.
    _share: Option<Arc<()>>,
}

/// How many sockets each tenant has.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<u32, Arc<()>>);

/// What a process of a vassal is given.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// The sockets as they were asked for, with the addresses that they have come to have.
    pub(super) terms: SocketTerms,
    /// Their descriptors.
    pub(super) numbers: Vec<RawFd>,
}

impl Handed {
    /// The operation of its launch, if there is any.
    pub(super) fn passing(&self) -> Option<Passing> {
        let any = !self.terms.own().is_empty() || !self.terms.zerg().servers.is_empty();
        any.then(|| self.terms.passing(self.numbers.clone()))
    }
}

/// A held socket as data, for the emperor that goes on with it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SocketRecord {
    pub(super) term: SocketTerm,
    #[serde(default)]
    pub(super) tenant: Option<Owner>,
    #[serde(default)]
    pub(super) file: Option<FileRecord>,
    /// The kernel's number of the socket, by which it is told from others.
    pub id: u64,
}

/// A tenant's sockets take no more than this part of our descriptors: others need some too.
const PART_OF_A_TENANT: u64 = 4;
/// So many he may have in any case.
const LEAST_OF_A_TENANT: u64 = 64;
/// The longest queue that the kernel keeps.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

impl Hands {
    /// The sockets that a vassal is to have, for its next process; bound as far as they are not yet, and those that
    /// it is not to have any more are closed.
    ///
    /// `None` if it cannot have them, and that was said.
    pub(super) fn hand_sockets(&mut self, key: Key, court: &Court, terms: Option<&Terms>) -> Option<Handed> {
        let vassal = court.get(key)?;
        // A reinforcement serves the sockets of what it reinforces.
        let holder = vassal.zerg.map_or(key, |zerg| zerg.base);
        let terms = terms.filter(|terms| terms.program.is_some()).map(|terms| &terms.sockets);
        let given = terms.and_then(|_| self.given_address(holder, vassal));
        if given.is_none() && terms.is_none_or(SocketTerms::is_empty) && !self.has_sockets(key) {
            self.is_provided(key);
            return Some(Handed::default());
        }
        self.look_away(key); // some of them may be closed
        self.may_be_free();
        let terms = terms.cloned().unwrap_or_default();
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        let held = self.held(holder).and_then(|held| held.sockets.take());
        if terms.is_empty() && given.is_none() {
            if let Some(held) = held {
                held.close(&terms);
            }
            self.close_all_doors(holder);
            self.is_provided(key);
            return Some(Handed::default());
        }
        let terms = terms.in_directory(&directory).with_on_demand(given);
        let tenant = self.launch.confinement.tyrant.map(|_| (vassal.identity.uid, vassal.identity.gid));
        let held = held.map_or_else(Box::default, |held| Box::new(held.keep(&terms, tenant)));
        let mut kept = held.list;
        let mut sockets = Vec::new();
        let mut trouble = None;
        for term in terms.sockets() {
            let former = kept.iter().position(|socket| socket.term.address == term.address);
            let former = former.map(|at| kept.swap_remove(at));
            match self.provide(holder, court, term, tenant, former) {
                Ok(mut socket) => {
                    if let Some(file) = socket.listener.as_mut().and_then(|it| it.file.as_mut()) {
                        file.set_stays(!terms.vacuum());
                    }
                    sockets.push(socket);
                }
                Err((former, why)) => {
                    sockets.extend(former.map(|socket| *socket));
                    trouble = Some(format!("{} = {}: {why}", term.name, term.address));
                    break;
                }
            }
        }
        sockets.extend(kept);
        let waiting = self.held(holder).and_then(|held| held.waiting.as_deref());
        let descriptor = |socket: &Socket| match &socket.listener {
            Some(listener) => Some((listener.socket.as_raw_fd(), listener.tcp_address())),
            None => waiting.map(|waiting| (waiting.parts().0.as_raw_fd(), None)),
        };
        let handed: Option<Vec<_>> = sockets.iter().map(descriptor).collect();
        self.held.slot(holder).sockets = Some(Box::new(Sockets { list: sockets, alarms: 0, watched: false }));
        self.watch_files(holder);
        if trouble.is_none() && holder == key {
            trouble = self.open_doors(key, court, &terms, tenant).err();
        }
        if let Some(why) = trouble {
            self.refuse_sockets(key, vassal, &why);
            return None;
        }
        self.is_provided(key);
        self.lost.remove(&holder);
        let (numbers, addresses): (Vec<_>, Vec<_>) = handed?.into_iter().unzip();
        Some(Handed { terms: terms.bound_at(addresses), numbers })
    }

    /// One socket: the one that is there, if it is still good, or a new one.
    fn provide(
        &mut self,
        holder: Key,
        court: &Court,
        term: &SocketTerm,
        tenant: Option<Owner>,
        former: Option<Socket>,
    ) -> Result<Socket, (Option<Box<Socket>>, String)> {
        let on_demand = self.held(holder).and_then(|held| held.waiting.as_deref());
        if on_demand.is_some_and(|waiting| waiting.serves(&term.address)) {
            return Ok(Socket { term: term.clone(), tenant, listener: None, _share: None });
        }
        if let Some(mut socket) = former
            && let Some(listener) = &socket.listener
        {
            match good_as_new(listener) {
                Ok(true) => {
                    if socket.term.manner != term.manner
                        && let Err(cause) = listener.tune(&term.manner)
                    {
                        return Err((Some(Box::new(socket)), format!("{cause}{}", remedy(&cause, tenant))));
                    }
                    socket.term = term.clone();
                    return Ok(socket);
                }
                Ok(false) => warn!(
                    "[emperor] the socket {} is made anew: its program has shut it down, or has removed its file for \
                     good; who waited at it must connect again",
                    term.address
                ),
                Err(cause) => {
                    return Err((Some(Box::new(socket)), format!("{cause}{}", remedy(&cause, tenant))));
                }
            }
            socket.remove();
        }
        forbidden(term, tenant).map_err(|why| (None, why))?;
        let share = self.shares.take(tenant).map_err(|why| (None, why))?;
        match term.address.bind_in(&term.manner, tenant) {
            Ok(listener) => {
                Ok(Socket { term: term.clone(), tenant, listener: Some(listener.secured()), _share: share })
            }
            Err(cause) => {
                let help = self.obstructed(holder, court, &term.address, &cause, tenant);
                Err((None, format!("{cause}{help}")))
            }
        }
    }

    /// The vassal, other than this one, that holds a socket at an address or in its way.
    pub(super) fn who_has(&self, but: Key, address: &Address) -> Option<Key> {
        let keys = self.held.places().iter().filter_map(|held| held.key);
        keys.filter(|key| *key != but).find(|key| self.has(*key, address))
    }

    /// Whether a vassal holds a socket at an address or in its way.
    pub(super) fn has(&self, key: Key, address: &Address) -> bool {
        let Some(held) = self.held.of(key) else {
            return false;
        };
        let own = held.sockets.as_ref().is_some_and(|sockets| sockets.meet(address));
        own || held.waiting.as_ref().is_some_and(|waiting| waiting.meets(address))
            || self.has_door(Some(key), address)
    }

    /// Who else of us holds one there, for a person.
    pub(super) fn who_else_has(&self, address: &Address) -> Option<String> {
        if self.offers_at(address) {
            return Some("the emperor itself (zerg-server, zerg-pool)".into());
        }
        self.passed_at(address).map(|name| format!("the service manager, as `{name}`,"))
    }

    /// A vassal's own socket that is to be its on-demand socket from now on.
    pub(super) fn cede_socket(&mut self, key: Key, address: &Address) -> Option<Listener> {
        let sockets = &mut self.held(key)?.sockets.as_mut()?.list;
        sockets.iter_mut().find(|socket| socket.term.address == *address)?.listener.take()
    }

    /// Whether a vassal has sockets of its own.
    pub(super) fn has_listeners(&self, key: Key) -> bool {
        let held = self.held.of(key);
        held.and_then(|held| held.sockets.as_ref()).is_some_and(|sockets| sockets.has_listener())
    }

    /// Whether its file names sockets of its own.
    pub(super) fn has_sockets(&self, key: Key) -> bool {
        let held = self.held.of(key);
        held.is_some_and(|held| held.sockets.is_some())
    }

    /// Whether these sockets are others than those that a vassal has.
    pub(super) fn sockets_differ(&self, key: Key, terms: &SocketTerms, directory: &Path) -> bool {
        let held = self.held.of(key);
        let has = held.and_then(|held| held.sockets.as_ref()).map_or(&[][..], |sockets| &sockets.list);
        let given = held.and_then(|held| held.waiting.as_ref()).and_then(|waiting| waiting.at());
        let given = given.filter(|_| has.iter().any(|socket| socket.listener.is_none()));
        let wanted = terms.in_directory(directory).with_on_demand(given);
        !wanted.sockets().iter().eq(has.iter().map(|socket| &socket.term))
    }

    /// Says why a vassal cannot have its sockets: once, however often it is tried.
    fn refuse_sockets(&mut self, key: Key, vassal: &Vassal, why: &str) {
        let before = self.refusals.insert(key, why.into());
        if before.as_deref() != Some(why) {
            let name = &vassal.name;
            error!(
                "[emperor] vassal {name} cannot be started: {why}. It is tried again by and by, and at once when \
                 {name} is touched"
            );
            self.tell_of(name, Some(vassal), Kind::Refused, format!("it cannot be started: {why}"));
        }
    }

    /// The sockets of a vassal at these addresses, in this order; those of its program if there are none.
    pub(super) fn held_sockets<L>(
        &self,
        key: Key,
        order: &[Address],
        label: impl Fn(&SocketTerm) -> L,
    ) -> Vec<(BorrowedFd<'_>, L)> {
        let Some(held) = self.held.of(key) else {
            return Vec::new();
        };
        let all = held.sockets.as_ref().map_or(&[][..], |sockets| &sockets.list);
        let chosen: Vec<_> = if order.is_empty() {
            all.iter().filter(|socket| !socket.term.pooled).collect()
        } else {
            order.iter().filter_map(|at| all.iter().find(|socket| socket.term.address == *at)).collect()
        };
        let waiting = held.waiting.as_deref();
        let mut found = Vec::new();
        for socket in chosen {
            let fd = match &socket.listener {
                Some(listener) => Some(listener.socket.as_fd()),
                None => waiting.map(|waiting| waiting.parts().0),
            };
            found.extend(fd.map(|fd| (fd, label(&socket.term))));
        }
        found
    }

    /// Holds from now on sockets that somebody else has held.
    pub(super) fn hold_sockets(&mut self, key: Key, sockets: Vec<(OwnedFd, SocketRecord)>) {
        let mut taken = Vec::new();
        for (socket, SocketRecord { term, tenant, file, .. }) in sockets {
            let listener = Listener { file: file.as_ref().map(SocketFile::of_record), socket };
            let share = self.shares.take(tenant).ok().flatten(); // it was counted before
            taken.push(Socket { term, tenant, listener: Some(listener), _share: share });
        }
        if !taken.is_empty() {
            self.held.slot(key).sockets = Some(Box::new(Sockets { list: taken, alarms: 0, watched: false }));
            self.watch_files(key);
        }
    }
}

impl Sockets {
    /// Has the epoll tell of connections, or not any more. Whether that is other than before.
    pub(super) fn watch(&mut self, epoll: &Epoll, token: Option<Token>) -> bool {
        if self.watched == token.is_some() {
            return false;
        }
        self.watched = token.is_some();
        for socket in self.list.iter().filter_map(|socket| Some(&socket.listener.as_ref()?.socket)) {
            let done = match token {
                Some(token) => epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token.to_bits())),
                None => epoll.delete(socket),
            };
            if let Err(cause) = done {
                error!("[emperor] cannot watch a socket for connections: {cause}");
            }
        }
        true
    }

    /// Its listening descriptors.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.list.iter().filter_map(|socket| Some(socket.listener.as_ref()?.socket.as_fd()))
    }

    /// Whether there is one that can be watched.
    fn has_listener(&self) -> bool {
        self.list.iter().any(|socket| socket.listener.is_some())
    }

    /// Those that can go on on these terms; the others are closed, and first, for they may be in the way of new ones.
    fn keep(self, terms: &SocketTerms, tenant: Option<Owner>) -> Self {
        let wanted = |socket: &Socket| {
            let term = terms.sockets().iter().find(|term| term.address == socket.term.address);
            let same = term.is_some_and(|term| term.manner.binds_as(&socket.term.manner));
            same && socket.tenant == tenant
        };
        let (kept, gone): (Vec<_>, _) = self.list.into_iter().partition(wanted);
        Self { list: gone, alarms: 0, watched: false }.close(terms);
        Self { list: kept, alarms: 0, watched: false }
    }

    /// Closes them; their files go if the vassal's file says so now.
    fn close(mut self, terms: &SocketTerms) {
        for file in self.list.iter_mut().filter_map(|it| it.listener.as_mut()?.file.as_mut()) {
            file.set_stays(!terms.vacuum());
        }
    }

    fn files(&self) -> impl Iterator<Item = &SocketFile> {
        self.list.iter().filter_map(|socket| socket.listener.as_ref()?.file.as_ref())
    }

    fn meet(&self, address: &Address) -> bool {
        self.list.iter().any(|socket| socket.term.address.meets(address))
    }

    /// What is held: the sockets, and what another emperor must know of them.
    pub(super) fn parts(&self) -> Vec<(BorrowedFd<'_>, SocketRecord)> {
        let part = |socket: &'_ Socket| {
            let listener = socket.listener.as_ref()?;
            let (term, tenant) = (socket.term.clone(), socket.tenant);
            let file = listener.file.as_ref().map(SocketFile::record);
            Some(SocketRecord { term, tenant, file, id: id(listener.socket.as_fd()) })
        };
        let held = self
            .list
            .iter()
            .filter_map(|socket| Some((socket.listener.as_ref()?.socket.as_fd(), part(socket)?)));
        held.collect()
    }
}

impl Socket {
    /// Closes it, and removes its file: a new one comes in its place.
    fn remove(mut self) {
        if let Some(file) = self.listener.as_mut().and_then(|it| it.file.as_mut()) {
            file.set_stays(false);
        }
    }
}

impl Shares {
    pub(super) fn take(&mut self, tenant: Option<Owner>) -> Result<Option<Arc<()>>, String> {
        let Some((uid, _)) = tenant else { return Ok(None) };
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let most =
            usize::try_from((descriptors / PART_OF_A_TENANT).max(LEAST_OF_A_TENANT)).unwrap_or(usize::MAX);
        let of_his = self.0.entry(uid).or_default();
        if Arc::strong_count(of_his) > most {
            return Err(format!(
                "user {uid} has {most} sockets already, a quarter of the descriptors of the emperor (RLIMIT_NOFILE); remove \
                 some of them, or raise that limit"
            ));
        }
        Ok(Some(Arc::clone(of_his)))
    }

    /// Forgets those who have none any more.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|_, shares| Arc::strong_count(shares) > 1);
    }
}

/// The kernel's number of a socket; the same for every descriptor of it. 0 if it has none, which does not happen.
pub(in crate::emperor) fn id(socket: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(socket).map_or(0, |there| there.st_ino)
}

/// What nobody may have, and what a tenant may not.
fn forbidden(term: &SocketTerm, tenant: Option<Owner>) -> Result<(), String> {
    let most = std::fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let backlog = term.manner.backlog;
    if let Some(most) = most.filter(|most| *most < backlog) {
        return Err(format!(
            "listen = {backlog} is more than net.core.somaxconn allows ({most}); raise that, or lower listen"
        ));
    }
    if tenant.is_some() { term.address.permits_tenant(&term.manner) } else { Ok(()) }
}

/// Whether clients find it and are served, once its file is put back.
pub(super) fn good_as_new(listener: &Listener) -> io::Result<bool> {
    if !listener.listens() {
        return Ok(false);
    }
    let file = listener.file.as_ref().map(SocketFile::restore).transpose()?;
    Ok(file != Some(Restored::Lost))
}
