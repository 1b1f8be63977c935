//! Who was started a moment ago and struck off since: should the name come back, it is not a stranger's.

use std::collections::{HashMap, VecDeque};

use super::reports::CHANGE_GAP;
use super::{Now, VassalName};

/// The last start of names that are gone. It is kept for no longer than [`CHANGE_GAP`], so there are as many as can be
/// started and removed in that time.
#[derive(Debug, Default)]
pub(super) struct Lately {
    started: HashMap<VassalName, u64>,
    /// When they were struck off, in that order.
    order: VecDeque<(u64, VassalName)>,
}

impl Lately {
    /// A vassal is struck off that was started then; 0 if it never was.
    pub(super) fn add(&mut self, name: &VassalName, started: u64, now: Now) {
        self.forget_old(now);
        if is_recent(started, now) {
            self.started.insert(name.clone(), started);
            self.order.push_back((now.micros, name.clone()));
        }
    }

    /// When a vassal of this name was started last, if that was a moment ago; otherwise 0.
    pub(super) fn started(&mut self, name: &VassalName, now: Now) -> u64 {
        self.forget_old(now);
        self.started.get(name).copied().filter(|started| is_recent(*started, now)).unwrap_or(0)
    }

    fn forget_old(&mut self, now: Now) {
        while let Some((gone, name)) = self.order.front()
            && !is_recent(*gone, now)
        {
            if self.started.get(name).is_some_and(|started| !is_recent(*started, now)) {
                self.started.remove(name);
            }
            self.order.pop_front();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            *self = Self::default(); // and the memory goes
        }
    }

    #[cfg(test)]
    pub(super) fn has_no_memory(&self) -> bool {
        self.started.capacity() + self.order.capacity() == 0
    }
}

fn is_recent(micros: u64, now: Now) -> bool {
    micros > 0 && now.since(micros) < CHANGE_GAP
}
