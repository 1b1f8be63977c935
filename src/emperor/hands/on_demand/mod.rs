//! Sockets that wait on demand: where their addresses come from, binding them, watching them, and making those
//! anew that were taken from us. The life of one is drawn in `docs/design/sockets.md`.
//!
//! In tyrant mode an address that stands in a tenant's file is bound with that tenant's rights to files, and
//! may not be a privileged port: who writes the file gets no more than he has.

mod ask;
mod companion;
mod own;
mod passed;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::WatchDescriptor;
use tracing::{error, info, warn};

use super::agree::legible;
use super::{Hands, Held, Token, judge};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::source::{SourceId, Supply, VassalName};
use crate::emperor::story::Kind;
use crate::vassal::socket::{Address, FileRecord, Listener, Manner, SocketFile};
use crate::vassal::terms::demand::{self, ForAll};

pub(super) use ask::Asks;
pub(super) use passed::Passed;

/// Where the address of a vassal's socket comes from. Only the first that is set counts.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// Nowhere: vassals start at once.
    #[default]
    Never,
    /// `emperor-on-demand-extension`: the first line of a file beside the vassal's, with this added to its name.
    Extension(OsString),
    /// `emperor-on-demand-directory`: a socket in this directory, named after the vassal.
    Directory(PathBuf),
    /// `emperor-on-demand-exec`: the first line of what this shell command prints when given the vassal's name.
    Command(OsString),
}

/// How on-demand sockets are made.
#[derive(Clone, Debug, Default)]
pub struct OnDemand {
    /// Where their addresses come from.
    pub demand: Demand,
    /// Connections that may wait (`listen`).
    pub backlog: u32,
    /// How many commands may look for an address at once.
    pub at_once: u32,
    /// What all are to do.
    pub all: ForAll,
}

/// A vassal's socket.
#[derive(Debug)]
pub(super) struct Waiting {
    listener: Listener,
    /// The address as it was given, for people; none if it is the file's path.
    address: Option<Box<str>>,
    /// What the vassal's file says of it. None before the vassal is started: most of those that sleep never are.
    mention: Option<Box<Mention>>,
    /// Whether the epoll knows it.
    watched: bool,
    /// It was made in this moment, and its file is there.
    is_new: bool,
    /// It passes from process to process, and starts nobody.
    passes: bool,
    /// How often something was done to its file since the last look at all.
    alarms: u8,
    /// What tells of that; none yet, or no more.
    watch: Option<WatchDescriptor>,
    /// One of those that its tenant may have.
    share: Option<Arc<()>>,
}

/// What a vassal's own file says of its socket.
#[derive(Debug, Default)]
struct Mention {
    /// Time of that file when it was last searched for this very socket.
    searched: Option<i64>,
    /// The option by which it names this very socket, and uWSGI is told that it has it already.
    named: Option<Box<str>>,
    /// How the socket was made, if it says so.
    manner: Option<Manner>,
}

impl Waiting {
    fn new(listener: Listener, address: &str) -> Box<Self> {
        let is_path = listener.file.as_ref().is_some_and(|file| file.path().to_str() == Some(address));
        let address = (!is_path).then(|| address.into());
        Box::new(Self {
            listener,
            address,
            mention: None,
            watched: false,
            is_new: true,
            passes: false,
            alarms: 0,
            watch: None,
            share: None,
        })
    }

    fn mention(&mut self) -> &mut Mention {
        self.mention.get_or_insert_default()
    }

    /// How it was made, if the vassal's own file has said so.
    fn manner(&self) -> Option<&Manner> {
        self.mention.as_ref()?.manner.as_ref()
    }

    /// The vassal's file was searched. What was known of the socket from an earlier one is forgotten; `false` if it was
    /// this very file.
    fn search(&mut self, file: i64) -> bool {
        let mention = self.mention();
        let is_another = mention.searched.replace(file) != Some(file);
        if is_another {
            mention.named = None;
        }
        is_another
    }

    /// The vassal's own file names it, as the value of this option.
    fn is_named(&mut self, file: i64, option: &str, manner: &Manner, passes: bool) {
        let (named, manner) = (Some(option.into()), Some(manner.clone()));
        self.mention = Some(Box::new(Mention { searched: Some(file), named, manner }));
        self.passes = passes;
    }

    /// What is held: the socket, its address as it was given, its file.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, &str, Option<FileRecord>) {
        let file = self.listener.file.as_ref().map(SocketFile::record);
        (self.listener.socket.as_fd(), self.address(), file)
    }

    fn address(&self) -> &str {
        let path = self.listener.file.as_ref().and_then(|file| file.path().to_str());
        self.address.as_deref().or(path).unwrap_or_default()
    }

    /// Whether it is the socket of this address.
    pub(super) fn serves(&self, address: &Address) -> bool {
        match (&self.listener.file, address) {
            (Some(file), Address::Path(path)) => file.path() == path,
            (None, address) => {
                Address::parse(self.address().as_bytes(), Path::new("")).is_ok_and(|own| own == *address)
            }
            _ => false,
        }
    }

    /// Its file.
    pub(super) fn file(&self) -> Option<&SocketFile> {
        self.listener.file.as_ref()
    }

    /// How often something was done to that.
    pub(super) fn alarms(&mut self) -> &mut u8 {
        &mut self.alarms
    }

    /// What tells of that.
    pub(super) fn watch(&mut self) -> &mut Option<WatchDescriptor> {
        &mut self.watch
    }

    /// Where it listens.
    pub(super) fn at(&self) -> Option<Address> {
        match &self.listener.file {
            Some(file) => Some(Address::Path(file.path().to_path_buf())),
            None => Address::parse(self.address().as_bytes(), Path::new("")).ok(),
        }
    }

    /// Whether it is in the way of a socket at this address.
    pub(super) fn meets(&self, address: &Address) -> bool {
        let own = Address::parse(self.address().as_bytes(), Path::new(""));
        self.serves(address) || own.is_ok_and(|own| own.meets(address))
    }

    /// Whether it was made with the rights of this tenant. Without a file there are none to have.
    fn is_for(&self, tenant: Option<Owner>) -> bool {
        self.listener.file.as_ref().is_none_or(|file| file.owner() == tenant)
    }
}

/// A user's and a group's number.
pub(super) type Owner = (u32, u32);

/// Mode of a socket's file. Source: uWSGI 2.0.21, which takes no other.
const MODE: u32 = 0o666;
/// How much of a file or of a command's output may be an address.
const MOST: usize = 4096;
/// How long until it is seen again whether a source has supplied anything yet, which it does when it can be reached.
const SUPPLY_PATIENCE: Duration = Duration::from_secs(3);

impl Hands {
    /// The address of a vassal's on-demand socket; empty without one.
    #[must_use]
    pub fn on_demand_address(&self, key: Key) -> &str {
        let held = self.held.of(key);
        let waiting = held.and_then(|held| held.waiting.as_ref()).filter(|waiting| !waiting.passes);
        waiting.map_or("", |waiting| waiting.address())
    }

    pub(super) fn admit(&mut self, key: Key, court: &Court) -> Option<Event> {
        if let Some(outcome) = self.admit_to_passed(key, court) {
            return Some(outcome);
        }
        let vassal = court.get(key)?;
        let owner = self.socket_owner(vassal);
        let carried = self.launch.carries(vassal.source);
        let supply = self.supply_of(vassal).cloned();
        let is_wanted = |address: &str| supply.as_ref().is_none_or(|it| it.socket() == Some(address));
        match self.held(key).and_then(|held| held.waiting.as_ref()) {
            Some(waiting) if waiting.is_for(owner) && is_wanted(waiting.address()) => {
                return Some(Event::Admitted(key, true));
            }
            Some(_) => self.let_go(key), // it was another tenant's, or is at another address now
            None => {}
        }
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        if carried {
            return Some(match supply.as_ref().map(Supply::socket) {
                None => Event::AdmitAgain(key, SUPPLY_PATIENCE),
                Some(None) => self.is_ordinary(key),
                Some(Some(line)) => {
                    self.bind(key, court, line.as_bytes(), "the address in its source", &directory)
                }
            });
        }
        match self.launch.on_demand.demand.clone() {
            Demand::Never => Some(Event::Admitted(key, false)),
            Demand::Extension(extension) => {
                let file = [vassal.name.as_bytes(), extension.as_bytes()].concat();
                let by = OsStr::from_bytes(&file).display().to_string();
                match companion::first_line_of(&directory.join(OsStr::from_bytes(&file)), owner) {
                    Ok(line) if line.is_empty() => Some(match companion::may_come(&vassal.identity) {
                        Some(patience) => Event::AdmitAgain(key, patience),
                        None => self.is_ordinary(key),
                    }),
                    Ok(line) => Some(self.bind(key, court, &line, &by, &directory)),
                    Err(cause) => Some(self.refuse(key, vassal, &format!("{by}: {cause}"))),
                }
            }
            Demand::Directory(sockets) => {
                let base = vassal.name.as_path().file_stem().unwrap_or_default();
                let path = sockets.join(OsString::from_vec([base.as_bytes(), b".socket"].concat()));
                let text = path.display().to_string();
                Some(match Address::at(&path, &directory) {
                    Ok(address) => self.bind_to(key, court, &address, &text, "emperor-on-demand-directory"),
                    Err(bad) => self.refuse(key, vassal, &format!("emperor-on-demand-directory: {bad}")),
                })
            }
            Demand::Command(_) => {
                self.ask_about(key, court);
                None
            }
        }
    }

    /// The tenant whose rights a vassal's socket is made with: his, if the address is his own writing.
    fn socket_owner(&self, vassal: &Vassal) -> Option<Owner> {
        let his = matches!(self.launch.on_demand.demand, Demand::Extension(_))
            || self.launch.carries(vassal.source);
        let tyrant = self.launch.confinement.tyrant.filter(|_| his);
        tyrant.map(|_| (vassal.identity.uid, vassal.identity.gid))
    }

    fn is_ordinary(&mut self, key: Key) -> Event {
        self.is_provided(key);
        Event::Admitted(key, false)
    }

    /// Binds what a line says, which `by` has named.
    fn bind(&mut self, key: Key, court: &Court, line: &[u8], by: &str, directory: &Path) -> Event {
        let Some(vassal) = court.get(key) else { return Event::NotBound(key) };
        match Address::parse(line, directory) {
            Ok(address) => self.bind_to(key, court, &address, &String::from_utf8_lossy(line), by),
            Err(bad) => self.refuse(key, vassal, &format!("{by}: {bad}")),
        }
    }

    fn bind_to(&mut self, key: Key, court: &Court, address: &Address, text: &str, by: &str) -> Event {
        let Some(vassal) = court.get(key) else { return Event::NotBound(key) };
        let owner = self.socket_owner(vassal);
        if owner.is_some()
            && let Err(why) = address.permits_tenant(&Manner::default())
        {
            return self.refuse(key, vassal, &format!("{by}: {address}: {why}"));
        }
        let share = match self.shares.take(owner) {
            Ok(share) => share,
            Err(why) => return self.refuse(key, vassal, &format!("{by}: {address}: {why}")),
        };
        let own = self.cede_socket(key, address).map(Ok);
        match own.unwrap_or_else(|| address.bind(self.launch.on_demand.backlog, MODE, owner)) {
            Ok(listener) => {
                detected(vassal, address);
                let mut waiting = Waiting::new(listener, text);
                waiting.share = share;
                self.held.slot(key).waiting = Some(waiting);
                self.is_provided(key);
                self.watch_files(key);
                Event::Admitted(key, true)
            }
            Err(cause) => {
                let help = self.obstructed(key, court, address, &cause, owner);
                self.refuse(key, vassal, &format!("{by}: {address}: {cause}{help}"))
            }
        }
    }

    /// Says why a vassal cannot have its socket: once, however often it is tried.
    fn refuse(&mut self, key: Key, vassal: &Vassal, why: &str) -> Event {
        let before = self.refusals.insert(key, why.into());
        if before.as_deref() != Some(why) {
            let name = &vassal.name;
            error!(
                "[emperor] vassal {name} gets no on-demand socket: {why}. It is tried again by and by, and at once \
                 when {name} is touched"
            );
            self.tell_of(name, Some(vassal), Kind::Refused, format!("it gets no on-demand socket: {why}"));
        }
        Event::NotBound(key)
    }

    /// Holds from now on the socket that somebody else has held.
    pub(super) fn wait_on(&mut self, key: Key, socket: OwnedFd, address: &str, file: Option<&FileRecord>) {
        let listener = Listener { file: file.map(SocketFile::of_record), socket };
        let mut waiting = Waiting::new(listener, address);
        waiting.is_new = false; // nobody has looked after its file meanwhile
        waiting.share = self.shares.take(file.and_then(FileRecord::owner)).ok().flatten(); // it was counted before
        self.held.slot(key).waiting = Some(waiting);
        self.watch_files(key);
    }

    /// Watches a socket for its next connection.
    pub(super) fn listen_on(&mut self, key: Key, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        self.restore_sockets(key, vassal);
        let waiting = self.held(key).and_then(|held| held.waiting.as_mut());
        if !waiting.is_some_and(|waiting| std::mem::take(&mut waiting.is_new)) {
            self.mend(key, vassal, court);
        }
        self.watch(key);
        let waits = self.held(key).is_some_and(|held| held.waiting.is_some());
        // Its file names none any more, or they could not be handed over: it is not to wait for ever.
        (!waits && !self.has_listeners(key)).then_some(Event::Connection(key))
    }

    pub(super) fn watch(&mut self, key: Key) {
        if let Some(sockets) = self.held.of_mut(key).and_then(|held| held.sockets.as_mut()) {
            sockets.watch(&self.epoll, Some(Token::Waiting(key)));
        }
        let token = EpollEvent::new(EpollFlags::EPOLLIN, Token::Waiting(key).to_bits());
        let Some(held) = self.held.of_mut(key) else { return };
        let Some(waiting) = held.waiting.as_mut().filter(|waiting| !waiting.watched) else { return };
        match self.epoll.add(&waiting.listener.socket, token) {
            Ok(()) => waiting.watched = true,
            Err(cause) => error!("[emperor] cannot watch the socket {}: {cause}", waiting.address()),
        }
    }

    /// Somebody connects: from here on the vassal itself looks at the socket.
    pub(super) fn connected(&mut self, key: Key) -> Option<Event> {
        self.look_away(key)?;
        Some(Event::Connection(key))
    }

    pub(super) fn look_away(&mut self, key: Key) -> Option<()> {
        let held = self.held.of_mut(key)?;
        let others = held.sockets.as_mut().is_some_and(|sockets| sockets.watch(&self.epoll, None));
        let Some(waiting) = held.waiting.as_mut().filter(|waiting| waiting.watched) else {
            return others.then_some(());
        };
        waiting.watched = false;
        // It was added, and is open.
        let _ = self.epoll.delete(&waiting.listener.socket);
        Some(())
    }

    /// Whether the emperor's options say where this vassal waits, and neither its source nor a service manager.
    #[must_use]
    pub fn is_demand_ours(&self, source: SourceId, name: &VassalName) -> bool {
        !self.launch.carries(source) && !self.is_passed(name)
    }

    /// Whether the emperor's options name a socket for this vassal.
    #[must_use]
    pub fn demand_names(&self, source: SourceId, name: &VassalName) -> bool {
        match &self.launch.on_demand.demand {
            Demand::Never => false,
            Demand::Directory(_) | Demand::Command(_) => true,
            Demand::Extension(extension) => {
                let file = [name.as_bytes(), extension.as_bytes()].concat();
                let place = self.launch.places.get(usize::from(source.0));
                place.is_some_and(|place| {
                    place.path().join(OsStr::from_bytes(&file)).symlink_metadata().is_ok()
                })
            }
        }
    }

    /// A vassal's socket is to be another one, or none.
    pub fn leave_socket(&mut self, key: Key) {
        self.let_go(key);
    }

    /// Closes a vassal's socket. Whoever else has it open, such as what a vassal left behind, must not keep it in the
    /// epoll.
    pub(super) fn let_go(&mut self, key: Key) {
        self.look_away(key);
        if let Some(held) = self.held(key) {
            held.waiting = None;
        }
        self.may_be_free();
    }

    /// The socket that becomes a vassal's standard input, if it is to have one.
    ///
    /// # Errors
    /// No more descriptors.
    pub(super) fn on_demand_socket(&mut self, key: Key) -> io::Result<Option<OwnedFd>> {
        let waiting = self.held(key).and_then(|held| held.waiting.as_ref());
        waiting.map(|waiting| waiting.listener.socket.try_clone()).transpose()
    }

    /// Looks whether clients still find the sockets. Gives the vassals that may have new ones now.
    pub fn look_after_sockets(&mut self, court: &Court) -> Vec<Key> {
        self.restore_all_sockets(court);
        let mut mended = self.look_after_offers();
        let keys: Vec<Key> = self
            .held
            .places()
            .iter()
            .filter(|held| has_lost_file(held))
            .filter_map(|held| held.key)
            .collect();
        mended.extend(&keys);
        for key in keys {
            if let Some(vassal) = court.get(key) {
                self.put_back(key, vassal, court);
                self.forget_alarms(key);
            }
        }
        mended
    }

    /// Puts the files of a vassal's sockets back, or makes the sockets anew.
    pub(super) fn put_back(&mut self, key: Key, vassal: &Vassal, court: &Court) {
        self.restore_sockets(key, vassal);
        let has_lost = self.held(key).is_some_and(|held| has_lost_file(held));
        if has_lost && vassal.is_frozen() {
            self.late.push(Event::NotFrozen(key));
        } else if has_lost {
            self.mend(key, vassal, court);
        }
    }

    /// Whether a vassal's socket has no file any more, and is to be made anew when its process is gone.
    pub(super) fn cannot_be_found(&self, key: Key) -> bool {
        let held = self.held.of(key);
        let file = held.and_then(|held| held.waiting.as_ref()?.listener.file.as_ref());
        file.is_some_and(|file| !file.is_there())
    }

    /// Makes a socket anew whose file was removed, or replaced: no client would find it. Those who wait at the old one
    /// are served first.
    fn mend(&mut self, key: Key, vassal: &Vassal, court: &Court) {
        let backlog = self.launch.on_demand.backlog;
        let Some(held) = self.held(key).filter(|held| held.waiting.is_some()) else { return };
        let Some(waiting) = held.waiting.as_mut() else { return };
        let Some(file) = waiting.listener.file.as_ref().filter(|file| !file.is_there()) else { return };
        if somebody_waits(&waiting.listener.socket) {
            return;
        }
        let (address, owner) = (Address::Path(file.path().to_path_buf()), file.owner());
        let usual = Manner { backlog, mode: Some(MODE), ..Manner::default() };
        match address.bind_in(waiting.manner().unwrap_or(&usual), owner) {
            Ok(listener) => {
                let watched = self.look_away(key).is_some();
                if let Some(waiting) = self.held(key).and_then(|held| held.waiting.as_mut()) {
                    waiting.listener = listener;
                }
                self.has_all(key);
                self.watch_files(key);
                warn!(
                    "[emperor] the file of the on-demand socket {address} was gone or replaced, and is made anew: \
                     nobody but the emperor may bind it, also not {}, which has it as standard input",
                    vassal.name
                );
                if watched {
                    self.watch(key);
                }
            }
            Err(cause) => {
                let help = self.obstructed(key, court, &address, &cause, owner);
                let why = format!(
                    "its socket {address} has no file any more, and cannot be made anew: {cause}{help}"
                );
                let again = "It is tried again by and by, and at once on SIGWINCH";
                self.has_lost(key, vassal, &format!("{why}. {again}"));
            }
        }
    }

    /// What uWSGI is told besides, so that it takes its standard input for the socket that its own file names, and does
    /// not bind that again, which would take it away from us. Where it cannot be told, that is said. A tenant's file is
    /// not read here, but by who looks at what it asks for.
    pub(super) fn tell_of_socket(&mut self, key: Key, court: &Court) -> Vec<Vec<u8>> {
        let may_read = self.launch.confinement.tyrant.is_none();
        let vassal = court.get(key);
        let Some(waiting) = self.held(key).and_then(|held| held.waiting.as_mut()) else { return Vec::new() };
        let Some(vassal) = vassal.filter(|vassal| may_read && !vassal.own_demand) else {
            return waiting.words();
        };
        if !waiting.search(vassal.identity.mtime_ns) {
            return waiting.words();
        }
        let text = waiting.address().to_owned();
        let Some(place) = self.launch.places.get(usize::from(vassal.source.0)) else { return Vec::new() };
        let Ok(address) = Address::parse(text.as_bytes(), place.path()) else { return Vec::new() };
        let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
        let environment = self.launch.environment.of(false, None);
        let sent = self.text_of(vassal);
        if let Some(bound) = judge::binds(place.path(), &arguments, &environment, sent, &address) {
            self.heed(key, vassal, &address, &bound);
        }
        self.held(key).and_then(|held| held.waiting.as_ref()).map_or_else(Vec::new, |waiting| waiting.words())
    }

    /// Where a vassal waits that was not told so by its own file.
    pub(super) fn given_address(&self, key: Key, vassal: &Vassal) -> Option<Address> {
        let held = self.held.of(key)?;
        held.waiting.as_ref().filter(|_| !vassal.own_demand)?.at()
    }

    /// The address of the socket that a tenant's vassal is given, and that its own file may name as well.
    pub(super) fn demanded(&self, key: Key, vassal: &Vassal) -> Option<Address> {
        let held = self.held.of(key)?;
        let waiting = held.waiting.as_ref().filter(|_| !vassal.own_demand)?;
        let place = self.launch.places.get(usize::from(vassal.source.0))?;
        Address::parse(waiting.address().as_bytes(), place.path()).ok()
    }

    /// Whether a tenant's file is still to be searched for the socket that his vassal is given.
    pub(super) fn is_unsearched(&self, key: Key, vassal: &Vassal) -> bool {
        let held = self.held.of(key);
        let waiting = held.and_then(|held| held.waiting.as_ref()).filter(|_| !vassal.own_demand);
        let is_tenants = self.launch.confinement.tyrant.is_some();
        let searched = |waiting: &Waiting| waiting.mention.as_ref()?.searched;
        is_tenants && waiting.is_some_and(|waiting| searched(waiting) != Some(vassal.identity.mtime_ns))
    }

    /// A process that has become the tenant has searched his file. What it says is his word: it makes his own vassal's
    /// command line, of an option that we know and an address that is the socket's.
    pub(super) fn was_searched(&mut self, key: Key, vassal: &Vassal, bound: Option<&judge::Bound>) {
        let Some(address) = self.demanded(key, vassal) else { return };
        let Some(waiting) = self.held(key).and_then(|held| held.waiting.as_mut()) else { return };
        waiting.search(vassal.identity.mtime_ns);
        waiting.mention().named = None;
        if let Some(bound) = bound {
            self.heed(key, vassal, &address, bound);
        }
    }

    /// Its file binds the socket that it is given: it is told that it has it, where that can be.
    fn heed(&mut self, key: Key, vassal: &Vassal, address: &Address, bound: &judge::Bound) {
        let line = legible(&bound.line);
        if bound.is_plain()
            && self.launch.engine.reads_uwsgi_files()
            && demand::known_as(address).as_ref() == Some(&bound.text)
        {
            info!("[emperor] vassal {} is handed the socket of its own line {line}", vassal.name);
            if let Some(waiting) = self.held(key).and_then(|held| held.waiting.as_mut()) {
                waiting.mention().named = Some(bound.option.as_str().into());
            }
            return;
        }
        warn!(
            "[emperor] vassal {} binds its own on-demand socket: {line}; take that line out, the vassal has the socket as \
             standard input",
            vassal.name
        );
    }
}

impl Waiting {
    fn words(&self) -> Vec<Vec<u8>> {
        let named = self.mention.as_ref().and_then(|mention| mention.named.as_deref());
        named.map_or_else(Vec::new, |option| demand::inherited(option).into())
    }
}

fn detected(vassal: &Vassal, address: &Address) {
    info!(
        "[uwsgi-emperor] {} -> \"on demand\" instance detected, waiting for connections on socket \"{address}\" ...",
        vassal.name
    );
}

fn has_lost_file(held: &Held) -> bool {
    let waiting = held.waiting.as_ref().filter(|waiting| waiting.watched);
    waiting.and_then(|waiting| waiting.listener.file.as_ref()).is_some_and(|file| !file.is_there())
}

pub(super) fn somebody_waits(socket: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
        .is_ok_and(|ready| ready > 0)
}

/// What helps when a socket cannot be made.
pub(super) fn remedy(cause: &io::Error, owner: Option<Owner>) -> String {
    match (cause.kind(), owner) {
        (io::ErrorKind::AddrInUse, _) => "; end that process, or choose another address".into(),
        (io::ErrorKind::AlreadyExists, _) => "; remove that file, or choose another address".into(),
        (io::ErrorKind::NotFound, _) => "; make its directory".into(),
        (io::ErrorKind::AddrNotAvailable, _) => "; no interface of this machine has it".into(),
        (io::ErrorKind::PermissionDenied, Some((uid, _))) => {
            format!("; user {uid} must be allowed to make it")
        }
        (io::ErrorKind::PermissionDenied, None) => {
            "; the emperor's user must be allowed to make it: see to the mode and owner of its directory, and of a port \
             below 1024 to CAP_NET_BIND_SERVICE"
                .into()
        }
        _ => String::new(),
    }
}
