//! The files of held sockets are watched, so that one that a program removes is back within microseconds, and not only
//! when the program has ended. Source: inotify(7).

use std::collections::HashMap;
use std::os::fd::AsFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::Sockets;
use crate::emperor::court::{Court, Key};
use crate::emperor::hands::{Hands, Token};
use crate::sys::fs_identity::acting_for;

/// What is watched, and for whom. A watch ends when it has said something, also when the socket is closed: its second
/// name goes with it, and that is told.
#[derive(Debug, Default)]
pub(in crate::emperor::hands) struct Watches {
    inotify: Option<Inotify>,
    of: HashMap<WatchDescriptor, Key>,
}

/// How often the files of one vassal are looked after between two of its starts. Whoever owns a file can change its
/// mode all day, and must not keep us busy.
const MOST_ALARMS: u8 = 16;

impl Hands {
    /// Hears from now on of what is done to the files of a vassal's sockets; without that it is seen at its end.
    pub(in crate::emperor::hands) fn watch_files(&mut self, key: Key) {
        let held = self.held.get(key.index()).filter(|held| held.key == Some(key));
        let Some(sockets) = held.and_then(|held| held.sockets.as_ref()) else { return };
        if sockets.files().next().is_none() {
            return;
        }
        if self.watches.inotify.is_none() {
            let Ok(inotify) = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) else { return };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Files.to_bits());
            if self.epoll.add(inotify.as_fd(), event).is_err() {
                return;
            }
            self.watches.inotify = Some(inotify);
        }
        let Some(inotify) = &self.watches.inotify else { return };
        let what = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        let how = AddWatchFlags::IN_ONESHOT | AddWatchFlags::IN_DONT_FOLLOW;
        for file in sockets.files().filter(|file| file.has_spare()) {
            let add = || Ok(inotify.add_watch(file.path(), what | how)?);
            if let Ok(watch) = acting_for(file.owner(), add) {
                self.watches.of.insert(watch, key);
            }
        }
    }

    /// Something has been done to such files.
    pub(in crate::emperor::hands) fn hear_of_files(&mut self, court: &Court) {
        let Some(Ok(events)) = self.watches.inotify.as_ref().map(Inotify::read_events) else { return };
        let mut keys: Vec<Key> = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watches.of.remove(&event.wd);
            } else {
                keys.extend(self.watches.of.get(&event.wd));
            }
        }
        keys.sort_unstable_by_key(|key| key.to_bits());
        keys.dedup();
        for key in keys {
            let Some(vassal) = court.get(key) else { continue };
            self.restore_sockets(key, vassal);
            if self.held(key).and_then(|held| held.sockets.as_mut()).is_some_and(|it| it.may_alarm()) {
                self.watch_files(key);
            }
        }
    }
}

impl Sockets {
    fn may_alarm(&mut self) -> bool {
        self.alarms = self.alarms.saturating_add(1);
        self.alarms < MOST_ALARMS
    }
}
