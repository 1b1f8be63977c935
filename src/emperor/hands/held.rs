//! What is open for the vassals: the hands find it here by a vassal's key.

use std::os::fd::OwnedFd;

use super::{config_pipe, group, on_demand, sockets};
use crate::emperor::court::Key;
use crate::vassal::link::Reports;

/// All vassals', by the places of their keys. The key of one that is gone finds nothing, also where its place is another's.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Held>);

/// What is open for one vassal.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) key: Option<Key>,
    pub(super) link: Option<OwnedFd>,
    pub(super) pidfd: Option<OwnedFd>,
    /// While its launcher speaks.
    pub(super) reports: Option<Box<Reports>>,
    /// Version of its file that asks for nothing; 0 if none is known to.
    pub(super) asks_nothing: u64,
    /// Its on-demand socket, for as long as it is known.
    pub(super) waiting: Option<Box<on_demand::Waiting>>,
    /// Its control group.
    pub(super) group: Option<Box<group::Kept>>,
    /// Its config pipe, while it runs, if it has no file.
    pub(super) config: Option<Box<config_pipe::ConfigPipe>>,
    /// The sockets of its own, for as long as its file names them.
    pub(super) sockets: Option<Box<sockets::Sockets>>,
}

impl Table {
    pub(super) fn of(&self, key: Key) -> Option<&Held> {
        self.0.get(key.index()).filter(|held| held.key == Some(key))
    }

    pub(super) fn of_mut(&mut self, key: Key) -> Option<&mut Held> {
        self.0.get_mut(key.index()).filter(|held| held.key == Some(key))
    }

    /// The place of a vassal, made empty if it was another's.
    pub(super) fn slot(&mut self, key: Key) -> &mut Held {
        if self.0.len() <= key.index() {
            self.0.resize_with(key.index() + 1, Held::default);
        }
        let held = &mut self.0[key.index()];
        if held.key != Some(key) {
            *held = Held { key: Some(key), ..Held::default() };
        }
        held
    }

    /// All places, also those that are nobody's.
    pub(super) fn places(&self) -> &[Held] {
        &self.0
    }

    pub(super) fn places_mut(&mut self) -> &mut [Held] {
        &mut self.0
    }
}
