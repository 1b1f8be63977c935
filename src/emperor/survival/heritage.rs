//! What a former emperor has left to this process, claimed at its start.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::STATE_VARIABLE;
use super::found::{Bundle, Found, take_door};
use super::origin::LISTEN_VARIABLES;
use super::state::{Damage, Estate, Header, SocketEstate, State, StoreRecord, Survivor};
use super::store::{CONFIG, OURS, STATE, VASSAL};
use crate::emperor::court::{self, Record};
use crate::emperor::hands::{Belongings, DoorRecord, OffersLeft};
use crate::emperor::source::Supply;
use crate::sys::{alone, fds, wait};

/// What was left.
#[derive(Debug, Default)]
pub struct Heritage {
    /// What is known of the empire; none if nothing was left.
    pub header: Option<Header>,
    /// The vassals.
    pub vassals: Vec<Inherited>,
    /// What the service manager keeps beside them.
    pub store: Option<StoreRecord>,
    /// Names under which it keeps what nobody wants any more.
    pub stale: Vec<String>,
    /// What is offered to others.
    pub offers: OffersLeft,
    /// What is to be told as soon as there is a log.
    pub troubles: Vec<String>,
    /// Listening sockets that the service manager has passed, by the names that it gives them.
    pub sockets: Vec<(String, OwnedFd)>,
}

/// One vassal.
#[derive(Debug)]
pub struct Inherited {
    /// What the former court knew.
    pub record: Record,
    /// Under which number the service manager keeps it; 0 if it does not.
    pub kept: u64,
    /// What the former hands held.
    pub belongings: Belongings,
    /// What its source had supplied for it.
    pub supply: Option<Supply>,
}

impl Heritage {
    /// Claims what is there. Call first of all, while there is one thread and nothing was opened; the variables that
    /// tell of it are gone then.
    ///
    /// A state that cannot be used is left, and what came with it is killed and closed: better a fresh start than two
    /// processes of a vassal.
    #[must_use]
    pub fn claim() -> Self {
        let mut heritage = Self::default();
        if let Some(file) = left_by_exec() {
            heritage.take_over(file);
            return heritage;
        }
        let mut found = Found::default();
        for (name, fd) in inherited_sockets() {
            if name.starts_with(OURS) {
                found.add(&name, fd);
            } else {
                heritage.sockets.push((name, fd));
            }
        }
        if found.is_something() {
            heritage.take_from_manager(found);
        }
        heritage
    }

    /// Whether this process governs already what it will govern: another program did in its place.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.process.is_some())
    }

    fn take_over(&mut self, file: RawFd) {
        let state = fds::adopt(file).map_err(Damage::from).and_then(State::read);
        match state {
            Ok(state) => {
                for survivor in state.survivors {
                    self.inherit(survivor.record, survivor.estate);
                }
                self.store = state.header.process.as_ref().and_then(|process| process.store.clone());
                if self.store.as_ref().is_some_and(|store| store.sockets.is_none()) {
                    self.keep_anew();
                }
                if let Some(process) = &state.header.process {
                    self.take_offers(&process.doors, &process.offered);
                }
                let passed = state.header.process.iter().flat_map(|process| process.sockets.clone());
                self.sockets =
                    passed.filter_map(|(name, number)| Some((name, fds::adopt(number).ok()?))).collect();
                self.header = Some(state.header);
            }
            Err(damage) => {
                let cause = chain(&damage);
                self.troubles.push(format!(
                    "the state of the program before this one is lost ({cause}): its vassals are started afresh"
                ));
                end_all_that_was_left();
            }
        }
    }

    /// What an earlier version has had kept must be let go first: the manager keeps nothing under two names.
    fn keep_anew(&mut self) {
        for inherited in self.vassals.iter_mut().filter(|inherited| inherited.kept > 0) {
            let kept = std::mem::take(&mut inherited.kept);
            self.stale.extend([VASSAL, CONFIG].map(|kind| format!("{kind}{kept}")));
        }
    }

    fn take_offers(&mut self, doors: &[DoorRecord], sockets: &[SocketEstate]) {
        let of_vassals: HashMap<_, _> =
            self.vassals.iter().enumerate().rev().map(|(at, it)| (it.record.name.clone(), at)).collect();
        let mut lost = |error: io::Error| {
            self.troubles.push(format!("a socket that was offered to others is lost: {error}"));
        };
        for door in doors {
            let taken: io::Result<Vec<_>> =
                door.numbers.iter().map(|(number, _)| fds::adopt(*number)).collect();
            let place = door.vassal().and_then(|name| of_vassals.get(&name).copied());
            match (taken, place.and_then(|place: usize| self.vassals.get_mut(place))) {
                (Ok(taken), Some(vassal)) => vassal.belongings.doors.push((door.clone(), taken)),
                (Ok(taken), None) => self.offers.doors.push((door.clone(), taken)),
                (Err(error), _) => lost(error),
            }
        }
        for SocketEstate { number, record } in sockets {
            match number.map(fds::adopt) {
                Some(Ok(socket)) => self.offers.sockets.push((socket, record.clone())),
                Some(Err(error)) => lost(error),
                None => {}
            }
        }
    }

    fn inherit(&mut self, record: Record, estate: Estate) {
        let Estate {
            kept,
            link,
            pidfd,
            reports,
            life,
            socket,
            address,
            file,
            sockets,
            group,
            config,
            config_record,
            supply,
            policy,
            ..
        } = estate;
        let name = record.name.clone();
        let mut take = |number: Option<RawFd>, what: &str| match number.map(fds::adopt) {
            Some(Err(error)) => {
                self.troubles.push(format!("the {what} of vassal {name} is lost: {error}"));
                None
            }
            taken => taken.and_then(Result::ok),
        };
        let (link, pidfd) = (take(link, "link"), take(pidfd, "process"));
        let life = life.map(|life| {
            let socket = take(life.notify.as_ref().map(|(number, ..)| *number), "notification socket");
            (life, socket)
        });
        let waiting = take(socket, "on-demand socket").map(|socket| (socket, address, file));
        let own = sockets.into_iter();
        let sockets = own.filter_map(|it| Some((take(it.number, "socket")?, it.record))).collect();
        let config = take(config, "config pipe").map(|config| (config, config_record));
        if record.pid > 0 && pidfd.is_none() {
            return;
        }
        let supply = supply.and_then(|(text, socket)| Supply::new(text.as_bytes(), socket.as_deref()).ok());
        let doors = Vec::new();
        let belongings =
            Belongings { link, pidfd, reports, life, waiting, sockets, doors, group, policy, config };
        self.vassals.push(Inherited { record, kept, belongings, supply });
    }
}

impl Heritage {
    fn take_from_manager(&mut self, found: Found) {
        let Found { states, mut bundles, mut sockets } = found;
        let generation = states.keys().next_back().copied().unwrap_or(0);
        let last = bundles.keys().next_back().copied().unwrap_or(0);
        let ids = sockets.keys().copied().collect();
        self.store = Some(StoreRecord { generation, last, sockets: Some(ids) });
        let mut survivors = Vec::new();
        for (number, file) in states.into_iter().rev() {
            match State::read(file) {
                // The newest is complete: it was written before it was kept.
                Ok(state) if self.header.is_none() => {
                    self.header = Some(state.header);
                    survivors = state.survivors;
                }
                Ok(_) => {}
                Err(damage) => {
                    self.troubles.push(format!("a state that was kept is lost: {}", chain(&damage)))
                }
            }
            if number != generation {
                self.stale.push(format!("{STATE}{number}"));
            }
        }
        if let Some(header) = &self.header {
            for door in &header.offers.doors {
                self.offers.doors.extend(take_door(door, &mut sockets));
            }
            for record in &header.offers.sockets {
                self.offers.sockets.extend(sockets.remove(&record.id).map(|fd| (fd, record.clone())));
            }
        }
        for Survivor { record, estate } in survivors {
            let name = record.name.clone();
            let mut bundle = bundles.remove(&estate.kept).unwrap_or_default();
            bundle.by_id(&estate, &mut sockets);
            if let Err(why) = self.inherit_bundle(record, estate, bundle) {
                self.troubles
                    .push(format!("vassal {name} cannot be taken over, and is started afresh: {why}"));
            }
        }
        for (number, bundle) in bundles {
            bundle.end();
            self.stale.push(format!("{VASSAL}{number}"));
            self.troubles.push(format!("a vassal of which nothing is known ({number}) has been killed"));
        }
    }

    fn inherit_bundle(
        &mut self,
        record: Record,
        estate: Estate,
        mut bundle: Bundle,
    ) -> Result<(), &'static str> {
        let Estate {
            mut kept,
            started,
            reports,
            life,
            address,
            file,
            group,
            policy,
            config_record,
            sockets,
            ..
        } = estate;
        let mut sockets = bundle.sort(sockets.into_iter().map(|it| it.record));
        if bundle.is_of_old {
            self.stale.extend([VASSAL, CONFIG].map(|kind| format!("{kind}{kept}")));
            kept = 0;
        }
        sockets.sort_by_key(|(place, ..)| *place);
        let sockets: Vec<_> = sockets.into_iter().map(|(_, fd, record)| (fd, record)).collect();
        let process = bundle.pidfd.as_ref().map(|pidfd| wait::pid_of(pidfd.as_fd()).ok().flatten());
        let linked = record.course.as_ref().is_none_or(|course| course.manner.linked);
        let is_up = linked && record.state == court::State::Up;
        let wrong = match process {
            None if record.pid > 0 => Some("the service manager has not kept its process"),
            None if bundle.socket.is_none() && sockets.is_empty() => return Ok(()),
            None => None,
            // That of one that has ended meanwhile has no number; its end is noticed as soon as it is watched.
            Some(pid) if pid != Some(record.pid) && pid != Some(-1) => Some("its process is another one now"),
            Some(_) => {
                (is_up && bundle.link.is_none()).then_some("the service manager has not kept its link")
            }
        };
        if let Some(why) = wrong {
            if process.is_none()
                && let Ok(Some(pidfd)) = wait::open(record.pid, started)
            {
                end(pidfd);
            }
            bundle.end();
            self.stale.extend([VASSAL, CONFIG].map(|kind| format!("{kind}{kept}")));
            return Err(why);
        }
        let waiting = bundle.socket.map(|socket| (socket, address, file));
        let Bundle { link, pidfd, config, notify, doors, .. } = bundle;
        let config = config.map(|config| (config, config_record));
        let life = life.map(|life| (life, notify));
        let belongings =
            Belongings { link, pidfd, reports, life, waiting, sockets, doors, group, policy, config };
        self.vassals.push(Inherited { record, kept, belongings, supply: None });
        Ok(())
    }
}

/// Takes what a service manager has passed to this process, with the names that it gives it; the variables that tell
/// of it are gone then. Call while there is one thread. Source: sd_listen_fds(3).
#[must_use]
pub fn inherited_sockets() -> Vec<(String, OwnedFd)> {
    let [pid, count, names] = LISTEN_VARIABLES.map(|name| std::env::var(name).ok());
    let ours = pid.and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count: usize = count.filter(|_| ours).and_then(|count| count.parse().ok()).unwrap_or(0);
    if count == 0 {
        return Vec::new();
    }
    let names = names.unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let passed = (FIRST_PASSED..).zip(names).take(count);
    let taken =
        passed.filter_map(|(number, name)| Some((name, fds::adopt_elsewhere(number).ok()?))).collect();
    for name in LISTEN_VARIABLES {
        // If it cannot be removed there are other threads, which nobody has started yet.
        let _ = alone::remove_variable(name.as_ref());
    }
    taken
}

/// The first descriptor that a service manager passes.
const FIRST_PASSED: RawFd = 3;

/// The descriptor of the state that the program before us has left, if it did.
fn left_by_exec() -> Option<RawFd> {
    let value = std::env::var(STATE_VARIABLE).ok()?;
    // If it cannot be removed there are other threads, which nobody has started yet.
    let _ = alone::remove_variable(STATE_VARIABLE.as_ref());
    let (pid, number) = value.split_once(':')?;
    if pid.parse() != Ok(std::process::id()) {
        return None;
    }
    number.parse().ok()
}

/// Kills and closes what an unreadable state has spoken of: whatever process or link is open.
fn end_all_that_was_left() {
    let own = std::env::var(crate::vassal::link::FD_VARIABLE).ok().and_then(|number| number.parse().ok());
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let above = fds::FIRST_SLOT + RawFd::try_from(fds::SLOTS).unwrap_or(RawFd::MAX);
    for number in numbers.filter(|number| *number >= above && Some(*number) != own).collect::<Vec<_>>() {
        let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) else { continue };
        let target = target.to_string_lossy().into_owned();
        if target.starts_with("anon_inode:[pidfd]") || target.starts_with("socket:") {
            let _ = fds::adopt(number).map(end);
        }
    }
}

/// Closes a descriptor; a process that it stands for is killed.
pub(crate) fn end(fd: OwnedFd) {
    if wait::pid_of(fd.as_fd()).is_ok_and(|pid| pid.is_some_and(|pid| pid > 0)) {
        // It may have ended by itself since.
        let _: io::Result<()> = wait::signal(fd.as_fd(), nix::libc::SIGKILL);
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}
