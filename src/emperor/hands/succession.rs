//! Rolling reload: what a vassal's successor is handed, and what becomes its own when it takes the vassal's place.

use super::Hands;
use crate::emperor::court::{Court, Event, Key};
use crate::vassal::terms::Terms;

impl Hands {
    /// A successor serves the very sockets of the one before it: with others it could not take its place without a gap,
    /// and should it fail, the other would have lost its own.
    pub(super) fn refuse_successor(&mut self, key: Key, court: &Court, terms: &Terms) -> Option<Event> {
        let vassal = court.get(key)?;
        let base = vassal.zerg.filter(|_| vassal.is_successor())?.base;
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        let others =
            || Err("its file names other sockets now; `emperor restart` closes the old ones".to_owned());
        let outcome = match terms.demand.socket() {
            _ if self.sockets_differ(base, &terms.sockets, &directory) => others(),
            Some(socket) if self.serves(base, &socket.term.address) => match court.get(base) {
                Some(former) => self.provide_own(base, court, former, socket, !terms.demand.waits()),
                None => return None,
            },
            None if terms.program.is_some() || !self.has_waiting(base) => Ok(()),
            _ => others(),
        };
        let Err(why) = outcome else { return None };
        // A file that cannot be read names no sockets, and that is not what is wrong with it.
        let why = self.fault_of(vassal).unwrap_or(why);
        self.hinder(key, vassal, why);
        Some(Event::NotStarted(key, false))
    }

    /// What is held for a vassal passes to the process that has taken its place.
    pub(super) fn succeed(&mut self, old: Key, new: Key) {
        self.look_away(old);
        let former = self.held.slot(old);
        let (waiting, sockets) = (former.waiting.take(), former.sockets.take());
        let heir = self.held.slot(new);
        (heir.waiting, heir.sockets) = (waiting, sockets);
        self.watch_files(new);
        self.pass_doors(old, new);
        self.forget_queues(old);
        [old, new].iter().for_each(|key| drop(self.not_replaced.remove(key)));
        self.is_provided(old);
        self.pass_contests(old, new);
    }

    /// Why the process did not take a vassal's place that was to, if one was, and has failed.
    #[must_use]
    pub fn not_replaced(&self, key: Key) -> Option<&str> {
        self.not_replaced.get(&key).map(Box::as_ref)
    }
}
