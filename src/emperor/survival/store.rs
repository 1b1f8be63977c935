//! The service manager's store of descriptors: what is in it outlives a crash.
//!
//! For each vassal the manager keeps copies of its link and its process, under one name; each socket under a name of
//! its own for as long as anybody wants it; and once the state, a memory file to which a line is appended whenever
//! something changes that must be known. So a vassal costs a message when it starts and one when it ends, and nothing in
//! between but the lines.
//!
//! A socket outlives the processes of its vassal, and systemd drops a descriptor that it has under another name already:
//! what is to stay must keep its name.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use tracing::error;

use super::state::{Header, OffersRecord, State, StoreRecord, Survivor, memory};
use crate::emperor::court::{Gist, Key};
use crate::emperor::hands::{Holdings, socket_id as id};
use crate::emperor::systemd;
use crate::sys::fds::Readable;

/// What is kept for this emperor, and under which names.
#[derive(Debug)]
pub struct Store {
    kept: HashMap<Key, Kept>,
    /// The sockets that it keeps, by the kernel's numbers, and for how many each is wanted.
    sockets: BTreeMap<u64, usize>,
    /// Some socket may be wanted by nobody.
    unwanted: bool,
    /// What the state says of the emperor's own sockets.
    offers: OffersRecord,
    last: u64,
    generation: u64,
    archive: File,
    /// Bytes in the archive, and how many there may be before it is written anew.
    length: usize,
    limit: usize,
    /// How many descriptors the manager says that it keeps.
    room: Option<usize>,
    /// What closes when the manager does not keep it.
    canary: Option<Readable>,
    /// Something was given to the manager since the canary was.
    untried: bool,
    told: bool,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    gist: Gist,
    descriptors: usize,
    waiting: bool,
    /// The kernel's numbers of its sockets.
    sockets: Vec<u64>,
}

/// Names of what the manager keeps: what they begin with, and the kinds.
pub(super) const OURS: &str = "emperor-";
pub(super) const VASSAL: &str = "emperor-vassal-";
pub(super) const CONFIG: &str = "emperor-config-";
pub(super) const SOCKET: &str = "emperor-socket-";
pub(super) const STATE: &str = "emperor-state-";
pub(super) const CANARY: &str = "emperor-canary";

/// The archive may grow by so much, beside its own size, before it is written anew.
const SLACK: usize = 256 * 1024;

impl Store {
    /// Goes on with what the manager keeps already, if that is anything. Then [`Store::rewrite`] must follow.
    ///
    /// # Errors
    /// Memory or descriptors are short.
    pub fn new(before: StoreRecord, room: Option<usize>) -> io::Result<Self> {
        Ok(Self {
            kept: HashMap::new(),
            sockets: before.sockets.iter().flatten().map(|id| (*id, 0)).collect(),
            unwanted: true, // as far as nobody is adopted who wants them
            offers: OffersRecord::default(),
            last: before.last,
            generation: before.generation,
            archive: memory(b"")?.into(),
            length: 0,
            limit: 0,
            room,
            canary: None,
            untried: false,
            told: false,
        })
    }

    /// What another program has to know to go on with it.
    #[must_use]
    pub fn record(&self) -> StoreRecord {
        let sockets = Some(self.sockets.keys().copied().collect());
        StoreRecord { generation: self.generation, last: self.last, sockets }
    }

    /// The manager keeps the descriptors of this vassal already.
    pub fn has_kept(&mut self, key: Key, number: u64, gist: Gist, holdings: &Holdings<'_>) {
        let descriptors = parts(holdings).count() + usize::from(holdings.config.is_some());
        let waiting = holdings.waiting.is_some();
        let sockets = self.want_all(sockets(holdings));
        self.kept.insert(key, Kept { number, gist, descriptors, waiting, sockets });
        self.last = self.last.max(number);
    }

    /// Has the manager keep what the emperor itself offers; `header` gives the state's first line with that.
    pub fn keep_offers<'f>(
        &mut self,
        record: OffersRecord,
        sockets: impl Iterator<Item = BorrowedFd<'f>>,
        header: impl FnOnce() -> Header,
    ) {
        if record == self.offers {
            return;
        }
        self.want_all(sockets.map(|fd| (id(fd), fd)));
        let former = std::mem::replace(&mut self.offers, record);
        former.ids().for_each(|id| self.unwant(id));
        self.append(State::header_line(&header()));
    }

    fn want_all<'f>(&mut self, wanted: impl Iterator<Item = (u64, BorrowedFd<'f>)>) -> Vec<u64> {
        let mut ids = Vec::new();
        for (id, fd) in wanted {
            match self.sockets.entry(id) {
                Entry::Occupied(mut for_how_many) => *for_how_many.get_mut() += 1,
                Entry::Vacant(place) => {
                    place.insert(1);
                    self.untried = true;
                    if let Err(error) = systemd::keep(&format!("{SOCKET}{id}"), &[fd]) {
                        self.complain(&format!("cannot have a socket kept: {error}"));
                    }
                }
            }
            ids.push(id);
        }
        ids
    }

    fn unwant(&mut self, id: u64) {
        if let Some(for_how_many) = self.sockets.get_mut(&id) {
            *for_how_many = for_how_many.saturating_sub(1);
            self.unwanted |= *for_how_many == 0;
        }
    }

    /// Under which number a vassal is kept; 0 if it is not.
    #[must_use]
    pub fn number(&self, key: Key) -> u64 {
        self.kept.get(&key).map_or(0, |kept| kept.number)
    }

    /// Whether the archive is to be written anew.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.length > self.limit
    }

    /// Writes the archive anew, with the vassals that are kept.
    pub fn rewrite(&mut self, header: &Header, survivors: impl Iterator<Item = Survivor>) {
        let state = State { header: header.clone(), survivors: survivors.collect() };
        let former = format!("{STATE}{}", self.generation);
        self.generation += 1;
        let archive = state.to_text().and_then(|text| {
            let archive = memory(&text)?;
            systemd::keep(&format!("{STATE}{}", self.generation), &[archive.as_fd()])?;
            Ok((archive, text.len()))
        });
        match archive {
            Ok((archive, length)) => {
                self.archive = archive.into();
                self.length = length;
                self.limit = 2 * length + SLACK;
                self.untried = true;
                systemd::release(&former);
            }
            Err(error) => {
                self.generation -= 1;
                self.limit = self.limit.max(self.length) + SLACK; // tried again then
                self.complain(&format!("cannot have the state kept: {error}"));
            }
        }
    }

    /// Has the manager keep what it must of a vassal as it is now; `survivor` gives its line, with this number.
    pub fn keep(
        &mut self,
        key: Key,
        gist: Option<Gist>,
        holdings: Option<Holdings<'_>>,
        survivor: impl FnOnce(u64) -> Option<Survivor>,
    ) {
        let holdings =
            holdings.filter(|it| it.pidfd.is_some() || it.waiting.is_some() || !it.sockets.is_empty());
        let Some((gist, holdings)) = gist.zip(holdings) else { return self.forget(key) };
        if holdings.pidfd.is_some() && gist.pid <= 0 {
            // The court is yet to hear of it. Kept twice, it would be lost: the manager leaves out what it has under
            // another name, which would be released then.
            return;
        }
        let waiting = holdings.waiting.is_some();
        let sockets: Vec<_> = sockets(&holdings).collect();
        let former = self.kept.get(&key);
        let same = former.is_some_and(|former| {
            former.waiting == waiting && former.sockets.iter().eq(sockets.iter().map(|(id, _)| id))
        });
        let number = match former {
            Some(former) if same && former.gist == gist => return,
            Some(former) if former.gist.pid == gist.pid => former.number,
            _ => {
                self.last += 1;
                let descriptors: Vec<_> = parts(&holdings).collect();
                if !descriptors.is_empty()
                    && let Err(error) = systemd::keep(&format!("{VASSAL}{}", self.last), &descriptors)
                {
                    self.complain(&format!("cannot have a vassal's descriptors kept: {error}"));
                }
                // Under another name: nothing else would tell it from the link.
                if let Some((pipe, _)) = holdings.config
                    && let Err(error) = systemd::keep(&format!("{CONFIG}{}", self.last), &[pipe])
                {
                    self.complain(&format!("cannot have a vassal's config pipe kept: {error}"));
                }
                self.untried = true;
                self.last
            }
        };
        let sockets = self.want_all(sockets.into_iter());
        if self.kept.get(&key).is_some_and(|former| former.number != number) {
            self.forget(key);
        }
        if let Some(survivor) = survivor(number) {
            self.append(State::survivor_line(&survivor));
        }
        if let Some(former) = self.kept.remove(&key) {
            former.sockets.into_iter().for_each(|id| self.unwant(id));
        }
        let descriptors = parts(&holdings).count() + usize::from(holdings.config.is_some());
        self.kept.insert(key, Kept { number, gist, descriptors, waiting, sockets });
    }

    fn forget(&mut self, key: Key) {
        if let Some(kept) = self.kept.remove(&key) {
            Self::release(kept.number);
            self.append(State::gone_line(kept.number));
            kept.sockets.into_iter().for_each(|id| self.unwant(id));
        }
    }

    fn append(&mut self, line: io::Result<Vec<u8>>) {
        match line.and_then(|line| self.archive.write_all(&line).map(|()| line.len())) {
            Ok(length) => self.length += length,
            Err(error) => self.complain(&format!("cannot write the state: {error}")),
        }
    }

    /// At the end of a turn of the loop: has those sockets let go that nobody has wanted at once, for they may pass
    /// from vassal to vassal; and tries whether the manager has kept what it was given.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unwanted) {
            self.sockets.retain(|id, for_how_many| {
                if *for_how_many == 0 {
                    systemd::release(&format!("{SOCKET}{id}"));
                }
                *for_how_many > 0
            });
        }
        if !std::mem::take(&mut self.untried) {
            return;
        }
        if let Some(room) = self.room.filter(|room| self.wanted() > *room) {
            self.refused_beyond(Some(room));
        }
        self.canary = None;
        systemd::release(CANARY);
        let tried = UnixStream::pair().and_then(|(ours, theirs)| {
            systemd::keep(CANARY, &[theirs.as_fd()])?;
            Readable::new(OwnedFd::from(ours))
        });
        match tried {
            Ok(canary) => self.canary = Some(canary),
            Err(error) => self.complain(&format!("cannot reach the service manager: {error}")),
        }
    }

    /// Resolves when the manager has refused something. Cancel-safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn refused(&self) -> io::Result<()> {
        match &self.canary {
            Some(canary) => canary.ready().await,
            None => std::future::pending().await,
        }
    }

    /// Says so, once.
    pub fn on_refused(&mut self) {
        self.canary = None;
        self.refused_beyond(None);
    }

    fn refused_beyond(&mut self, room: Option<usize>) {
        let limit = room.map(|room| format!(" ({room})")).unwrap_or_default();
        self.complain(&format!(
            "the service manager does not keep all descriptors: set FileDescriptorStoreMax={limit} to {} at least",
            self.wanted().next_power_of_two()
        ));
    }

    fn complain(&mut self, what: &str) {
        if !std::mem::replace(&mut self.told, true) {
            error!("[emperor] not every vassal would survive a crash of the emperor: {what}");
        }
    }

    /// How many descriptors there are to be kept: with the state, its successor while that is written, the canary.
    fn wanted(&self) -> usize {
        3 + self.sockets.len() + self.kept.values().map(|kept| kept.descriptors).sum::<usize>()
    }

    /// The emperor ends on purpose: nothing is kept any more.
    pub fn dissolve(self) {
        Self::dissolve_former(&self.record(), self.kept.values().map(|kept| kept.number));
    }

    /// A vassal is not to be kept any more, under whatever number, and 0 is none.
    pub fn release(number: u64) {
        if number > 0 {
            systemd::release(&format!("{VASSAL}{number}"));
            systemd::release(&format!("{CONFIG}{number}"));
        }
    }

    /// Nothing of what an emperor has kept before is wanted any more.
    pub fn dissolve_former(record: &StoreRecord, numbers: impl Iterator<Item = u64>) {
        numbers.for_each(Self::release);
        record.sockets.iter().flatten().for_each(|id| systemd::release(&format!("{SOCKET}{id}")));
        systemd::release(CANARY);
        systemd::release(&format!("{STATE}{}", record.generation));
    }
}

/// What a vassal's process begins with and ends with.
fn parts<'h>(holdings: &'h Holdings<'_>) -> impl Iterator<Item = BorrowedFd<'h>> {
    [holdings.pidfd, holdings.link].into_iter().flatten()
}

/// What may outlive it, by the kernel's numbers.
fn sockets<'h>(holdings: &'h Holdings<'_>) -> impl Iterator<Item = (u64, BorrowedFd<'h>)> {
    let waiting = holdings.waiting.as_ref().map(|(socket, ..)| *socket);
    let own = holdings.sockets.iter().map(|(socket, record)| (record.id, *socket));
    let others = [waiting, holdings.notify].into_iter().flatten().chain(holdings.doors.iter().copied());
    others.map(|fd| (id(fd), fd)).chain(own)
}
