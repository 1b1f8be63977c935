//! What the service manager keeps for the emperor that follows a crash of this one.

use std::os::fd::BorrowedFd;

use super::Reign;
use super::reform::{Reform, Touched};
use crate::emperor::court::{Adoption, Event, Key};
use crate::emperor::hands::socket_id;
use crate::emperor::source::SourceId;
use crate::emperor::survival::{self, Heritage, Inherited, SourceRecord, Store, Survivor};
use crate::emperor::systemd;
use crate::sys::wait;

use tracing::{error, info};

impl Reign {
    /// Goes on with what was left.
    pub(super) fn inherit(&mut self, heritage: Heritage) {
        let Heritage { header, vassals, store, stale, troubles, offers: _, sockets: _ } = heritage;
        for trouble in &troubles {
            error!("[emperor] {trouble}");
        }
        stale.iter().for_each(|name| systemd::release(name));
        if self.keeps {
            match Store::new(store.unwrap_or_default(), systemd::keeps().1) {
                Ok(store) => {
                    self.store = Some(store);
                    self.keep_offers();
                }
                Err(cause) => error!("[emperor] vassals would not survive a crash of the emperor: {cause}"),
            }
        } else if let Some(store) = store {
            Store::dissolve_former(&store, vassals.iter().map(|inherited| inherited.kept));
        }
        if let Some(mut header) = header {
            let story = header.process.as_mut().map(|process| std::mem::take(&mut process.story));
            self.hands.story().restore(story.unwrap_or_default());
            self.court.count_zergs_from(header.zergs_ever);
            self.hands.inherit_tree(&header.tree);
            let sources: Vec<_> = header.sources.iter().map(|source| self.source_of(source)).collect();
            let mut reform = self.reform(&header);
            let mut taken = 0;
            for inherited in vassals {
                let source = sources.get(usize::from(inherited.record.source)).copied().flatten();
                taken += usize::from(self.adopt(inherited, source, &mut reform));
            }
            self.hands.resume_questions(&self.court);
            info!("[emperor] {taken} vassals taken over from emperor {}", header.version);
            self.tell_reform(&reform, taken);
        }
        self.hands.sweep_groups();
        self.rewrite_archive();
        let all: Vec<_> = self.court.vassals().map(|(key, _)| key).collect();
        all.into_iter().for_each(|key| self.touch(Some(key)));
        self.keep_touched();
    }

    fn source_of(&self, record: &SourceRecord) -> Option<SourceId> {
        let given = self.renewal.given.iter().position(|given| *given == record.given);
        let shown = || self.sources.infos().position(|(_, info)| info.argument == record.shown);
        given.or_else(shown).and_then(|at| u16::try_from(at).ok()).map(SourceId)
    }

    /// Whether it has a process.
    fn adopt(&mut self, inherited: Inherited, source: Option<SourceId>, reform: &mut Reform) -> bool {
        let Inherited { record, kept, mut belongings, supply } = inherited;
        let Touched { restart, moves } = self.touched(reform, &record, &mut belongings, source);
        let socket = belongings.waiting.is_some() && !moves;
        let adoption = Adoption { source, socket, restart };
        if let (Some(source), Some(supply)) = (source, supply) {
            self.hands.supply_again(source, &record.name, supply);
        }
        let (name, alive) = (record.name.clone(), record.pid > 0);
        let mut actions = Vec::new();
        let Some(key) = self.court.adopt(record, adoption, super::now(), &mut actions) else {
            if let Some(pidfd) = belongings.pidfd {
                survival::end(pidfd);
            }
            belongings.doors.into_iter().for_each(|(record, _)| record.forsake());
            Store::release(kept);
            return false;
        };
        let held = self.hands.adopt(key, belongings);
        if moves {
            self.hands.leave_socket(key);
        }
        if let (Some(store), Some(gist), Some(holdings)) =
            (&mut self.store, self.court.gist(key), self.hands.holdings(key))
            && kept > 0
        {
            store.has_kept(key, kept, gist, &holdings);
        }
        self.perform(actions);
        if let Err(error) = held {
            error!("[emperor] vassal {name} cannot be governed, and has been killed: {error}");
            self.feed(Event::Died(key, false));
        }
        alive
    }

    /// Something has happened to a vassal.
    pub(super) fn touch(&mut self, key: Option<Key>) {
        self.forwarding.touch(key);
        if self.store.is_some() && key.is_some() && self.touched.last().copied() != key {
            self.touched.extend(key);
        }
    }

    /// Has the manager keep what the emperor itself offers.
    pub(super) fn keep_offers(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        let (record, fds) = self.hands.own_offers();
        store.keep_offers(record, fds.into_iter(), || self.header());
        self.store = Some(store);
    }

    /// Has the manager keep what has changed.
    pub(super) fn keep_touched(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let Some(mut store) = self.store.take() else { return };
            let (gist, holdings) = (self.court.gist(key), self.hands.holdings(key));
            store.keep(key, gist, holdings, |number| self.kept_survivor(key, number));
            self.store = Some(store);
        }
        if self.store.as_ref().is_some_and(Store::is_long) {
            self.rewrite_archive();
        }
    }

    fn rewrite_archive(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        let kept = self.court.vassals().map(|(key, _)| (key, store.number(key)));
        let kept: Vec<_> = kept.filter(|(_, number)| *number > 0).collect();
        let survivors = kept.into_iter().filter_map(|(key, number)| self.kept_survivor(key, number));
        store.rewrite(&self.header(), survivors);
        self.store = Some(store);
    }

    /// A vassal as the manager's state has it: the names of the descriptors say more there than numbers.
    fn kept_survivor(&self, key: Key, number: u64) -> Option<Survivor> {
        let mut survivor = self.survivor(key)?;
        let started = if survivor.record.pid > 0 { wait::start_time(survivor.record.pid) } else { Ok(0) };
        let estate = &mut survivor.estate;
        (estate.kept, estate.started) = (number, started.unwrap_or(0));
        (estate.link, estate.pidfd, estate.socket, estate.config) = (None, None, None, None);
        estate.supply = None; // it may be long, and comes again from its source
        estate.sockets.iter_mut().for_each(|socket| socket.number = None);
        if let Some(holdings) = self.hands.holdings(key) {
            let id = |fd: Option<BorrowedFd<'_>>| fd.map_or(0, socket_id);
            estate.socket_ids = (id(holdings.waiting.map(|(fd, ..)| fd)), id(holdings.notify));
        }
        estate.doors = self.hands.door_records(key, &self.court);
        Some(survivor)
    }
}
