//! The service manager's store of descriptors: what is in it outlives a crash.
//!
//! For each vassal the manager keeps copies of its link, its process and its sockets, under one name; and
//! once the state, a memory file to which a line is appended whenever something changes that must be known. So a vassal
//! costs a message when it starts and one when it ends, and nothing in between but the lines.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use tracing::error;

use super::state::{Header, State, StoreRecord, Survivor, memory};
use crate::emperor::court::{Gist, Key};
use crate::emperor::hands::Holdings;
use crate::emperor::systemd;
use crate::sys::fds::Readable;

/// What is kept for this emperor, and under which names.
#[derive(Debug)]
pub struct Store {
    kept: HashMap<Key, Kept>,
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
    /// The kernel's numbers of the sockets of its own.
    sockets: Vec<u64>,
}

/// Names of what the manager keeps: what they begin with, and the kinds.
pub(super) const OURS: &str = "emperor-";
pub(super) const VASSAL: &str = "emperor-vassal-";
pub(super) const CONFIG: &str = "emperor-config-";
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
        StoreRecord { generation: self.generation, last: self.last }
    }

    /// The manager keeps the descriptors of this vassal already.
    pub fn has_kept(&mut self, key: Key, number: u64, gist: Gist, holdings: &Holdings<'_>) {
        let descriptors = parts(holdings).count() + usize::from(holdings.config.is_some());
        let waiting = holdings.waiting.is_some();
        let sockets = ids(holdings);
        self.kept.insert(key, Kept { number, gist, descriptors, waiting, sockets });
        self.last = self.last.max(number);
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
        let waiting = holdings.waiting.is_some();
        let sockets = ids(&holdings);
        let former = self.kept.get(&key);
        let same = former.is_some_and(|former| former.waiting == waiting && former.sockets == sockets);
        let number = match former {
            Some(former) if same && former.gist == gist => return,
            Some(former) if same && former.gist.pid == gist.pid => former.number,
            _ => {
                self.last += 1;
                let descriptors: Vec<_> = parts(&holdings).collect();
                if let Err(error) = systemd::keep(&format!("{VASSAL}{}", self.last), &descriptors) {
                    self.complain(&format!("cannot have a vassal's descriptors kept: {error}"));
                }
                // Under another name: nothing else would tell it from the link.
                if let Some((pipe, _)) = holdings.config
                    && let Err(error) = systemd::keep(&format!("{CONFIG}{}", self.last), &[pipe])
                {
                    self.complain(&format!("cannot have a vassal's config pipe kept: {error}"));
                }
                self.untried = true;
                self.forget(key);
                self.last
            }
        };
        if let Some(survivor) = survivor(number) {
            self.append(State::survivor_line(&survivor));
        }
        let descriptors = parts(&holdings).count() + usize::from(holdings.config.is_some());
        self.kept.insert(key, Kept { number, gist, descriptors, waiting, sockets });
    }

    fn forget(&mut self, key: Key) {
        if let Some(kept) = self.kept.remove(&key) {
            Self::release(kept.number);
            self.append(State::gone_line(kept.number));
        }
    }

    fn append(&mut self, line: io::Result<Vec<u8>>) {
        match line.and_then(|line| self.archive.write_all(&line).map(|()| line.len())) {
            Ok(length) => self.length += length,
            Err(error) => self.complain(&format!("cannot write the state: {error}")),
        }
    }

    /// At the end of a turn of the loop: tries whether the manager has kept what it was given.
    pub fn settle(&mut self) {
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
        3 + self.kept.values().map(|kept| kept.descriptors).sum::<usize>()
    }

    /// The emperor ends on purpose: nothing is kept any more.
    pub fn dissolve(self) {
        Self::dissolve_former(self.record(), self.kept.values().map(|kept| kept.number));
    }

    /// A vassal is not to be kept any more, under whatever number, and 0 is none.
    pub fn release(number: u64) {
        if number > 0 {
            systemd::release(&format!("{VASSAL}{number}"));
            systemd::release(&format!("{CONFIG}{number}"));
        }
    }

    /// Nothing of what an emperor has kept before is wanted any more.
    pub fn dissolve_former(record: StoreRecord, numbers: impl Iterator<Item = u64>) {
        numbers.for_each(Self::release);
        systemd::release(CANARY);
        systemd::release(&format!("{STATE}{}", record.generation));
    }
}

/// The descriptors of a vassal.
fn parts<'h>(holdings: &'h Holdings<'_>) -> impl Iterator<Item = BorrowedFd<'h>> {
    let waiting = holdings.waiting.as_ref().map(|(socket, ..)| *socket);
    let sockets = holdings.sockets.iter().map(|(socket, _)| *socket);
    [holdings.pidfd, holdings.link, waiting, holdings.notify].into_iter().flatten().chain(sockets)
}

fn ids(holdings: &Holdings<'_>) -> Vec<u64> {
    holdings.sockets.iter().map(|(_, record)| record.id).collect()
}
