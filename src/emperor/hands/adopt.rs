//! What the hands hold for a vassal, to be handed over; and taking over what others have held.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::config_pipe::{ConfigPipe, ConfigRecord};
use super::sockets::SocketRecord;
use super::zerg::DoorRecord;
use super::{Hands, LifeRecord, Token};
use crate::emperor::cgroup::GroupRecord;
use crate::emperor::court::Key;
use crate::sys::spawn::{Child, Program, SpawnError};
use crate::sys::wait;
use crate::vassal::link::Reports;
use crate::vassal::socket::FileRecord;

/// What is held for one vassal.
#[derive(Debug)]
pub struct Holdings<'h> {
    /// Its link, while that is open.
    pub link: Option<BorrowedFd<'h>>,
    /// Its process, while there is one.
    pub pidfd: Option<BorrowedFd<'h>>,
    /// How far its launcher has come, while that speaks.
    pub reports: Option<&'h Reports>,
    /// Where it notifies us.
    pub notify: Option<BorrowedFd<'h>>,
    /// Its on-demand socket, the address that was given for that, and the socket's file.
    pub waiting: Option<(BorrowedFd<'h>, &'h str, Option<FileRecord>)>,
    /// Its control group.
    pub group: Option<GroupRecord>,
    /// What the policy came down to when it started.
    pub policy: Option<u64>,
    /// Its config pipe.
    pub config: Option<(BorrowedFd<'h>, &'h ConfigRecord)>,
    /// The sockets of its own.
    pub sockets: Vec<(BorrowedFd<'h>, SocketRecord)>,
    /// Where it offers them.
    pub doors: Vec<BorrowedFd<'h>>,
}

/// The same, taken over.
#[derive(Debug, Default)]
pub struct Belongings {
    /// Its link.
    pub link: Option<OwnedFd>,
    /// Its process.
    pub pidfd: Option<OwnedFd>,
    /// How far its launcher has come.
    pub reports: Option<Reports>,
    /// What was agreed with it, and where it notifies us.
    pub life: Option<(LifeRecord, Option<OwnedFd>)>,
    /// Its on-demand socket, the address that was given for that, and the socket's file.
    pub waiting: Option<(OwnedFd, String, Option<FileRecord>)>,
    /// Its control group.
    pub group: Option<GroupRecord>,
    /// What the policy came down to when it started.
    pub policy: Option<u64>,
    /// Its config pipe.
    pub config: Option<(OwnedFd, ConfigRecord)>,
    /// The sockets of its own.
    pub sockets: Vec<(OwnedFd, SocketRecord)>,
    /// Where it offers them.
    pub doors: Vec<(DoorRecord, Vec<OwnedFd>)>,
}

impl Hands {
    /// What is held for a vassal.
    #[must_use]
    pub fn holdings(&self, key: Key) -> Option<Holdings<'_>> {
        let held = self.held.of(key)?;
        Some(Holdings {
            link: held.link.as_ref().map(AsFd::as_fd),
            pidfd: held.pidfd.as_ref().map(AsFd::as_fd),
            reports: held.reports.as_deref(),
            notify: self.notify_fd(key),
            waiting: held.waiting.as_ref().map(|waiting| waiting.parts()),
            group: self.group_of(key),
            policy: self.policies.get(&key).copied(),
            config: held.config.as_ref().map(|config| config.parts()),
            sockets: held.sockets.as_ref().map_or_else(Vec::new, |sockets| sockets.parts()),
            doors: self.door_fds(Some(key)).collect(),
        })
    }

    /// Holds from now on what somebody else has held.
    ///
    /// # Errors
    /// It cannot be watched. A process that nobody watches must not run: it has been killed.
    pub fn adopt(&mut self, key: Key, belongings: Belongings) -> io::Result<()> {
        let Belongings { link, pidfd, reports, life, waiting, sockets, doors, group, policy, config } =
            belongings;
        self.hold_sockets(key, sockets);
        for (record, fds) in doors {
            self.reopen_door(key, record, fds);
        }
        if let Some((socket, address, file)) = waiting {
            self.wait_on(key, socket, &address, file.as_ref());
        }
        let watch = |fd: &Option<OwnedFd>, token: Token| match fd {
            Some(fd) => self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.to_bits())),
            None => Ok(()),
        };
        let watched = watch(&link, Token::Link(key)).and_then(|()| watch(&pidfd, Token::Process(key)));
        if let Err(errno) = watched {
            if let Some(pidfd) = &pidfd {
                // It may have ended by itself.
                let _ = wait::signal(pidfd.as_fd(), nix::libc::SIGKILL);
            }
            return Err(errno.into());
        }
        let held = self.held.slot(key);
        let alive = pidfd.is_some();
        (held.link, held.pidfd, held.reports) = (link, pidfd, reports.map(Box::new));
        held.config = config.map(|(socket, record)| Box::new(ConfigPipe::of(socket, record)));
        self.watch_config(key);
        if alive {
            self.policies.extend(policy.map(|policy| (key, policy)));
        }
        if let Some(record) = group {
            self.adopt_group(key, record);
        }
        if let Some((record, socket)) = life {
            self.adopt_life(key, record, socket, alive);
        }
        Ok(())
    }

    /// Whether processes run beside the vassals.
    #[must_use]
    pub fn has_others(&self) -> bool {
        !self.sides.is_empty()
    }

    /// Whether no process runs beside the vassals of which something is to be heard, and none is awaited
    /// in their groups.
    #[must_use]
    pub fn is_at_ease(&self) -> bool {
        self.sides.is_idle() && self.book.is_at_ease()
    }

    /// Descriptors that vassals keep (`safe-fd`).
    #[must_use]
    pub fn safe_fds(&self) -> &[RawFd] {
        &self.launch.safe_fds
    }

    /// Starts a process that is no vassal, and that the caller reaps.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn start_other(&mut self, program: &Program<'_>) -> Result<Child, SpawnError> {
        self.spawner.spawn(program)
    }
}
