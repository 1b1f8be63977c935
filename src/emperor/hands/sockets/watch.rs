//! The files of held sockets are watched, so that one that a program removes is back within microseconds, and not only
//! when the program has ended. Source: inotify(7).

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::os::fd::AsFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::emperor::court::{Court, Key};
use crate::emperor::hands::{Hands, Token};
use crate::sys::fs_identity::acting_for;
use crate::vassal::socket::SocketFile;

/// What is watched, and for whom. A watch ends when it has said something, also when the socket is closed: its second
/// name goes with it, and that is told.
#[derive(Debug, Default)]
pub(in crate::emperor::hands) struct Watches {
    inotify: Option<Inotify>,
    of: HashMap<WatchDescriptor, Key>,
    /// Those whose sockets are to be watched as soon as there is time: ten thousand that are bound at once come first.
    fresh: Vec<Key>,
    /// Those whose files were gone before they could be watched.
    missed: Vec<Key>,
}

/// How often the files of one vassal are looked after between two of its starts. Whoever owns a file can change its
/// mode all day, and must not keep us busy.
const MOST_ALARMS: u8 = 16;

impl Hands {
    /// Hears soon of what is done to the files of a vassal's sockets; without that it is seen at its end.
    pub(in crate::emperor::hands) fn watch_files(&mut self, key: Key) {
        let held = self.held.of(key);
        if held.is_some_and(|held| held.sockets.is_some()) {
            self.watch_now(key); // its program is about to start
        } else if held.and_then(|held| held.waiting.as_ref()).is_some_and(|waiting| waiting.file().is_some())
        {
            self.watches.fresh.push(key);
        }
    }

    /// Whether there are files to be watched.
    pub(in crate::emperor::hands) fn has_unwatched_files(&self) -> bool {
        !(self.watches.fresh.is_empty() && self.watches.missed.is_empty())
    }

    /// What was done to a vassal's files may have been missed.
    pub(in crate::emperor::hands) fn files_may_have_changed(&mut self, key: Key) {
        self.watches.missed.push(key);
    }

    /// Watches them.
    pub(in crate::emperor::hands) fn watch_fresh_files(&mut self, court: &Court) {
        for key in std::mem::take(&mut self.watches.fresh) {
            self.watch_now(key);
        }
        let missed = std::mem::take(&mut self.watches.missed);
        self.files_changed(missed, court);
    }

    fn watch_now(&mut self, key: Key) {
        if self.watches.inotify.is_none() {
            let Ok(inotify) = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) else { return };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Files.to_bits());
            if self.epoll.add(inotify.as_fd(), event).is_err() {
                return;
            }
            self.watches.inotify = Some(inotify);
        }
        let Some(inotify) = &self.watches.inotify else { return };
        let Some(held) = self.held.of_mut(key) else { return };
        let what = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        let how = AddWatchFlags::IN_ONESHOT | AddWatchFlags::IN_DONT_FOLLOW;
        let mut is_gone = false;
        let mut watch = |file: &SocketFile| {
            let added = acting_for(file.owner(), || Ok(inotify.add_watch(file.path(), what | how)?));
            is_gone |= added.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
            added.ok()
        };
        for file in held.sockets.iter().flat_map(|sockets| sockets.files()).filter(|file| file.has_spare()) {
            if let Some(watch) = watch(file) {
                self.watches.of.insert(watch, key);
            }
        }
        if let Some(waiting) = &mut held.waiting {
            *waiting.watch() = waiting.file().and_then(watch);
        }
        if is_gone {
            self.watches.missed.push(key);
        }
    }

    /// Something has been done to such files.
    pub(in crate::emperor::hands) fn hear_of_files(&mut self, court: &Court) {
        let Some(Ok(events)) = self.watches.inotify.as_ref().map(Inotify::read_events) else { return };
        let (mut keys, mut of_waiting): (Vec<Key>, _) = (Vec::new(), HashSet::new());
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watches.of.remove(&event.wd);
            } else if let Some(key) = self.watches.of.get(&event.wd) {
                keys.push(*key);
            } else {
                of_waiting.insert(event.wd);
            }
        }
        if !of_waiting.is_empty() {
            // Seldom enough to look for them: a table of all would cost each that sleeps.
            for held in self.held.places_mut() {
                let Some(waiting) = &mut held.waiting else { continue };
                if waiting.watch().take_if(|watch| of_waiting.contains(watch)).is_some() {
                    keys.extend(held.key);
                }
            }
        }
        self.files_changed(keys, court);
    }

    fn files_changed(&mut self, mut keys: Vec<Key>, court: &Court) {
        keys.sort_unstable_by_key(|key| key.to_bits());
        keys.dedup();
        for key in keys {
            let Some(vassal) = court.get(key) else { continue };
            if self.may_be_called(key) {
                self.put_back(key, vassal, court);
                if self.lost(key).is_none() && !self.cannot_be_found(key) {
                    self.watch_files(key);
                }
            }
        }
    }
}

impl Hands {
    /// Whether what is done to a vassal's sockets is still looked at when it is done; it was once more.
    pub(in crate::emperor::hands) fn may_be_called(&mut self, key: Key) -> bool {
        let Some(held) = self.held(key) else { return false };
        let own = held.sockets.as_mut().map(|sockets| &mut sockets.alarms);
        let all = own.into_iter().chain(held.waiting.as_mut().map(|waiting| waiting.alarms()));
        let counted = all.map(|alarms| {
            *alarms = alarms.saturating_add(1);
            *alarms
        });
        counted.max() <= Some(MOST_ALARMS)
    }

    /// All have been looked at: who was called too often is called again.
    pub(in crate::emperor::hands) fn forget_alarms(&mut self, key: Key) {
        let Some(held) = self.held(key) else { return };
        held.sockets.iter_mut().for_each(|sockets| sockets.alarms = 0);
        held.waiting.iter_mut().for_each(|waiting| *waiting.alarms() = 0);
        self.watch_files(key);
    }
}
