//! What a former emperor has left to this process, claimed at its start.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::STATE_VARIABLE;
use super::state::{Damage, Estate, Header, State};
use crate::emperor::court::Record;
use crate::emperor::hands::Belongings;
use crate::sys::{alone, fds, wait};

/// What was left.
#[derive(Debug, Default)]
pub struct Heritage {
    /// What is known of the empire; none if nothing was left.
    pub header: Option<Header>,
    /// The vassals.
    pub vassals: Vec<Inherited>,
    /// What is to be told as soon as there is a log.
    pub troubles: Vec<String>,
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

    fn inherit(&mut self, record: Record, estate: Estate) {
        let Estate { kept, link, pidfd, reports, socket, address, file } = estate;
        let name = record.name.clone();
        let mut take = |number: Option<RawFd>, what: &str| match number.map(fds::adopt) {
            Some(Err(error)) => {
                self.troubles.push(format!("the {what} of vassal {name} is lost: {error}"));
                None
            }
            taken => taken.and_then(Result::ok),
        };
        let (link, pidfd) = (take(link, "link"), take(pidfd, "process"));
        let waiting = take(socket, "on-demand socket").map(|socket| (socket, address, file));
        if record.pid > 0 && pidfd.is_none() {
            return;
        }
        let belongings = Belongings { link, pidfd, reports, waiting };
        self.vassals.push(Inherited { record, kept, belongings });
    }
}

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
pub(super) fn end(fd: OwnedFd) {
    if wait::pid_of(fd.as_fd()).is_ok_and(|pid| pid.is_some()) {
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
