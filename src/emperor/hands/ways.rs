//! What keeps vassals from their sockets, as far as its end can be noticed: another vassal that has the address, or what
//! is wrong with a directory. When that ends, it is tried again at once, and not only when a pause is over.
//! Source: inotify(7).
//!
//! In tyrant mode a directory is looked at with the tenant's rights: who may not read it does not learn what is done in it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tracing::warn;

use super::on_demand::{Owner, remedy};
use super::{Hands, Token};
use crate::emperor::court::{Court, Event, Key, Rest, State};
use crate::emperor::story::Kind;
use crate::sys::fs_identity::acting_for;
use crate::vassal::socket::Address;

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Ways {
    inotify: Option<Inotify>,
    watched: HashMap<WatchDescriptor, Watched>,
    of: HashMap<Key, Vec<WatchDescriptor>>,
    contests: HashMap<Key, Contest>,
    /// Somebody has let go of a socket.
    freed: bool,
}

/// A directory, and for whose sake it is watched: of what is done in it, one name counts.
#[derive(Debug, Default)]
struct Watched {
    whose: Vec<(Key, OsString)>,
    noise: u32,
}

/// An address that another vassal has.
#[derive(Debug, Eq, PartialEq)]
struct Contest {
    holder: Key,
    address: Address,
}

/// What else is done in a directory that many use is not listened to for ever.
const MOST_NOISE: u32 = 1000;

impl Hands {
    /// Sees to it that a vassal is tried again when what is in the way of its socket goes, as far as that can be noticed;
    /// and says what helps.
    pub(super) fn obstructed(
        &mut self,
        key: Key,
        court: &Court,
        address: &Address,
        cause: &io::Error,
        owner: Option<Owner>,
    ) -> String {
        self.way_is_clear(key);
        let is_taken = cause.kind() == io::ErrorKind::AddrInUse;
        if let Some(holder) = self.who_has(key, address).filter(|_| is_taken)
            && let Some(has) = court.get(holder)
        {
            self.tell_holder(key, holder, court, address);
            self.ways.contests.insert(key, Contest { holder, address: address.clone() });
            return format!("; vassal {} has it, choose another address", has.name);
        }
        if let Address::Path(path) = address {
            self.watch_way(key, path, cause, owner);
        }
        match self.who_else_has(address).filter(|_| is_taken) {
            Some(who) => format!("; {who} has it, choose another address"),
            None => remedy(cause, owner),
        }
    }

    /// The one who has an address hears of the other's wish as well, once.
    fn tell_holder(&self, wants: Key, holder: Key, court: &Court, address: &Address) {
        let (Some(vassal), Some(has)) = (court.get(wants), court.get(holder)) else { return };
        if self.refusals.get(&wants).is_some_and(|why| why.contains(&format!("vassal {} has it", has.name))) {
            return; // it was tried before
        }
        let (has_name, wants) = (&has.name, &vassal.name);
        warn!(
            "[emperor] vassal {has_name} keeps the socket {address}, which vassal {wants} names as well: choose another \
             address in one of their files"
        );
        let text = format!("it keeps the socket {address}, which vassal {wants} names as well");
        self.tell_of(has_name, Some(has), Kind::Warning, text);
    }

    /// Who names a socket of this vassal's in vain, in a sentence.
    #[must_use]
    pub fn contested(&self, key: Key, court: &Court) -> Option<String> {
        let of_it = self.ways.contests.iter().filter(|(_, contest)| contest.holder == key);
        let waiting = of_it.filter_map(|(wants, contest)| Some((court.get(*wants)?, &contest.address)));
        let waiting = waiting.filter(|(vassal, _)| !matches!(vassal.state, State::Resting(_)));
        let mut wanted: Vec<_> = waiting.map(|(vassal, address)| (&vassal.name, address)).collect();
        wanted.sort_unstable_by_key(|(name, _)| *name);
        let (name, address) = wanted.first()?;
        let more = match wanted.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        Some(format!(
            "vassal {name}{more} names its socket {address} as well, and waits for it: choose another address in one of \
             their files"
        ))
    }

    /// A vassal has its sockets, or is to have none.
    pub(super) fn is_provided(&mut self, key: Key) {
        self.refusals.remove(&key);
        self.way_is_clear(key);
    }

    /// Nothing is in the way of a vassal any more, or it is no more.
    pub(super) fn way_is_clear(&mut self, key: Key) {
        self.ways.contests.remove(&key);
        for watch in self.ways.of.remove(&key).unwrap_or_default() {
            let Some(watched) = self.ways.watched.get_mut(&watch) else { continue };
            watched.whose.retain(|(whose, _)| *whose != key);
            if watched.whose.is_empty() {
                self.ways.watched.remove(&watch);
                // It may have ended with its directory.
                let _ = self.ways.inotify.as_ref().map(|inotify| inotify.rm_watch(watch));
            }
        }
    }

    /// A vassal has let go of a socket, or may have.
    pub(super) fn may_be_free(&mut self) {
        self.ways.freed = true;
    }

    /// What a vassal has is another's from now on.
    pub(super) fn pass_contests(&mut self, old: Key, new: Key) {
        for contest in self.ways.contests.values_mut().filter(|contest| contest.holder == old) {
            contest.holder = new;
        }
    }

    /// Those who wanted what somebody has let go of are tried again.
    pub(super) fn try_freed(&mut self) {
        if !std::mem::take(&mut self.ways.freed) || self.ways.contests.is_empty() {
            return;
        }
        let is_free = |(_, contest): &(&Key, &Contest)| !self.has(contest.holder, &contest.address);
        let mut free: Vec<Key> = self.ways.contests.iter().filter(is_free).map(|(wants, _)| *wants).collect();
        free.sort_unstable_by_key(|key| key.to_bits());
        for key in free {
            self.way_is_clear(key);
            self.late.push(Event::Unobstructed(key));
        }
    }

    /// Watches the last directory on the way to a file, and what leads to that.
    pub(super) fn watch_way(&mut self, key: Key, path: &Path, cause: &io::Error, owner: Option<Owner>) {
        let is_new = self.ways.inotify.is_none();
        if is_new {
            self.ways.inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok();
        }
        let Some(inotify) = &self.ways.inotify else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Ways.to_bits());
        if is_new && self.epoll.add(inotify.as_fd(), event).is_err() {
            self.ways.inotify = None;
            return;
        }
        let mut last = acting_for(owner, || Ok(last_directory(path))).ok().flatten();
        let mut added = Vec::new();
        while let Some((directory, name)) = last {
            let above =
                directory.parent().map(Path::to_path_buf).zip(directory.file_name().map(OsStr::to_owned));
            for (directory, name) in [Some((directory.clone(), name.clone())), above].into_iter().flatten() {
                // Who may not read it is tried again when his pause is over.
                let add = || Ok(inotify.add_watch(&directory, mask())?);
                added.extend(acting_for(owner, add).ok().map(|watch| (watch, name)));
            }
            // More of the way may have appeared meanwhile.
            let now = acting_for(owner, || Ok(last_directory(path))).ok().flatten();
            last = now.filter(|now| *now != (directory, name));
        }
        for (watch, name) in added {
            self.ways.watched.entry(watch).or_default().whose.push((key, name));
            self.ways.of.entry(key).or_default().push(watch);
        }
        let is_gone = acting_for(owner, || {
            Ok(match cause.kind() {
                io::ErrorKind::NotFound => path.parent().is_some_and(Path::is_dir),
                io::ErrorKind::AlreadyExists | io::ErrorKind::AddrInUse => path.symlink_metadata().is_err(),
                _ => false,
            })
        });
        if is_gone.unwrap_or(false) {
            // While we came to watch it.
            self.late.push(Event::Unobstructed(key));
            self.files_may_have_changed(key);
        }
    }

    /// Something has been done in such directories.
    pub(super) fn hear_of_ways(&mut self, court: &Court) {
        let Some(Ok(events)) = self.ways.inotify.as_ref().map(Inotify::read_events) else { return };
        let mut keys: Vec<Key> = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                keys.extend(self.ways.of.keys());
            }
            let Some(watched) = self.ways.watched.get_mut(&event.wd) else { continue };
            let counts = |name: &OsStr| event.name.as_deref().is_none_or(|done| done == name);
            let before = keys.len();
            keys.extend(watched.whose.iter().filter(|(_, name)| counts(name)).map(|(key, _)| *key));
            if keys.len() > before {
                continue;
            }
            watched.noise += 1;
            if watched.noise > MOST_NOISE {
                self.ways.watched.remove(&event.wd);
                let _ = self.ways.inotify.as_ref().map(|inotify| inotify.rm_watch(event.wd));
            }
        }
        keys.sort_unstable_by_key(|key| key.to_bits());
        keys.dedup();
        for key in keys {
            self.way_is_clear(key);
            let Some(vassal) = court.get(key) else { continue };
            if vassal.state == State::Paused || vassal.state == State::Resting(Rest::Abandoned) {
                self.late.push(Event::Unobstructed(key));
            } else if self.may_be_called(key) {
                self.put_back(key, vassal, court);
            }
        }
    }
}

/// What can end what is in the way: something comes or goes, or may be entered by others.
fn mask() -> AddWatchFlags {
    AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

/// The last directory on the way to a file that is there for us, and the name in it that comes next.
fn last_directory(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut ways = path.ancestors().zip(path.ancestors().skip(1));
    let (next, directory) =
        ways.find(|(_, directory)| fs::metadata(directory).is_ok_and(|it| it.is_dir()))?;
    let name = next.components().next_back()?.as_os_str();
    Some((directory.to_path_buf(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_directory_that_is_there_is_found_with_the_name_that_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| last_directory(&dir.path().join(path)).unwrap();
        let there = |name: &str| (dir.path().to_path_buf(), OsString::from(name));
        fs::write(dir.path().join("plain"), "").unwrap();
        assert_eq!(at("a.sock"), there("a.sock"));
        assert_eq!(at("a/b/c.sock"), there("a"));
        assert_eq!(at("plain/c.sock"), there("plain"));
        fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(at("a/b/c.sock"), (dir.path().join("a"), "b".into()));
        assert_eq!(at("a/../b/c.sock"), (dir.path().join("a/.."), "b".into()));
    }
}
