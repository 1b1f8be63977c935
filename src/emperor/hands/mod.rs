//! The emperor's hands: they perform what the court decides, and report what came of it.
//!
//! Caller: the emperor's main loop. Nothing here waits: every wait is a descriptor in one epoll, which the
//! loop watches as a whole. A running vassal costs two descriptors, its link and its pidfd.

pub mod command;
mod notices;
mod start;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::MsgFlags;
use tracing::{info, warn};

use super::court::{Action, Court, Event, Key, Signal};
use super::source::VassalName;
use crate::sys::fds;
use crate::sys::spawn::{CStrings, Spawner};
use crate::sys::wait::{self, Ending};
use crate::vassal::link::{Order, Word};

pub use start::{Launch, Place};

/// What is open for one vassal.
#[derive(Debug, Default)]
struct Held {
    key: Option<Key>,
    link: Option<OwnedFd>,
    pidfd: Option<OwnedFd>,
}

/// The hands.
#[derive(Debug)]
pub struct Hands {
    epoll: Epoll,
    held: Vec<Held>,
    spawner: Spawner,
    launch: Launch,
    /// The environment of every vassal that needs nothing special.
    environment: CStrings,
    rescan: bool,
    buried: bool,
}

/// How many descriptors are looked at in one go.
const BATCH: usize = 256;
/// How much of what a vassal says is read in one go. A flood is read in such pieces, in turn with the others.
const EARFUL: usize = 4096;

/// The two descriptors of a vassal, told apart by one bit of what the epoll gives back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Link,
    Pidfd,
}

const PIDFD_BIT: u64 = 1 << 31;

impl Kind {
    fn token(self, key: Key) -> u64 {
        key.to_bits() | if self == Self::Pidfd { PIDFD_BIT } else { 0 }
    }

    fn of(token: u64) -> (Self, Key) {
        let kind = if token & PIDFD_BIT == 0 { Self::Link } else { Self::Pidfd };
        (kind, Key::from_bits(token & !PIDFD_BIT))
    }
}

impl Hands {
    /// Hands that hold nothing.
    ///
    /// # Errors
    /// epoll_create1(2).
    pub fn new(spawner: Spawner, launch: Launch) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let environment = command::c_strings(launch.environment.of(false, None));
        Ok(Self { epoll, held: Vec::new(), spawner, launch, environment, rescan: false, buried: false })
    }

    /// The descriptor that is readable while [`Hands::collect`] has something to collect.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn readiness(&self) -> io::Result<OwnedFd> {
        self.epoll.0.try_clone()
    }

    /// Whether the sources are to be looked at again; asked once.
    pub fn take_rescan(&mut self) -> bool {
        std::mem::take(&mut self.rescan)
    }

    /// Whether the emperor may end.
    #[must_use]
    pub fn is_buried(&self) -> bool {
        self.buried
    }

    /// Performs one action; an event comes of some.
    pub fn perform(&mut self, action: &Action, court: &Court) -> Option<Event> {
        match *action {
            Action::Spawn(key) => return Some(self.start(key, court)),
            Action::Admit(key) => return Some(Event::Admitted(key, false)),
            Action::Reload { key, .. } => return self.reload(key, court),
            Action::Stop(key, order) => {
                self.tell(key, order);
            }
            Action::Signal(key, signal) => self.signal(key, signal),
            Action::AskUnread(key) => {
                let link = self.held(key).and_then(|held| held.link.as_ref());
                let unread =
                    link.is_some_and(|link| fds::unread_bytes(link.as_fd()).is_ok_and(|bytes| bytes > 0));
                return Some(Event::Unread(key, unread));
            }
            Action::PushConfig(_) | Action::Listen(_) | Action::Ended(_) => {}
            Action::Forget(key, _) => {
                if let Some(held) = self.held(key) {
                    *held = Held::default();
                }
            }
            Action::Rescan => self.rescan = true,
            Action::Tell(ref notice) => notices::log(notice),
            Action::Bury => self.buried = true,
        }
        None
    }

    /// Appends what has happened to the vassals' descriptors. `false` if nothing has, and the loop may wait.
    pub fn collect(&mut self, court: &Court, events: &mut Vec<Event>) -> bool {
        let mut ready = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut ready, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => return true,
            Err(error) => {
                warn!("[emperor] cannot wait for vassals: {error}");
                0
            }
        };
        for event in &ready[..count] {
            match Kind::of(event.data()) {
                (Kind::Link, key) => self.listen_to(key, events),
                (Kind::Pidfd, key) => self.reap(key, court, events),
            }
        }
        count > 0
    }

    fn held(&mut self, key: Key) -> Option<&mut Held> {
        self.held.get_mut(key.index()).filter(|held| held.key == Some(key))
    }

    fn hold(&mut self, key: Key, link: OwnedFd, pidfd: OwnedFd) -> nix::Result<()> {
        let readable = EpollFlags::EPOLLIN;
        let watched = self
            .epoll
            .add(&link, EpollEvent::new(readable, Kind::Link.token(key)))
            .and_then(|()| self.epoll.add(&pidfd, EpollEvent::new(readable, Kind::Pidfd.token(key))));
        if let Err(error) = watched {
            // A vassal that cannot be watched must not run. It has just started; its end takes no time.
            let _ = wait::signal(pidfd.as_fd(), nix::libc::SIGKILL);
            while matches!(wait::reap(pidfd.as_fd()), Ok(None)) {
                std::thread::yield_now();
            }
            return Err(error);
        }
        if self.held.len() <= key.index() {
            self.held.resize_with(key.index() + 1, Held::default);
        }
        self.held[key.index()] = Held { key: Some(key), link: Some(link), pidfd: Some(pidfd) };
        Ok(())
    }

    /// Reads what a vassal says. Repeated words count once: a flood costs little.
    fn listen_to(&mut self, key: Key, events: &mut Vec<Event>) {
        let Some(held) = self.held(key) else { return };
        let Some(link) = &held.link else { return };
        let mut bytes = [0; EARFUL];
        match nix::sys::socket::recv(link.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET) => {
                held.link = None; // closing it takes it out of the epoll
                events.push(Event::LinkClosed(key));
            }
            Ok(count) => {
                let mut said = [false; 256];
                for byte in &bytes[..count] {
                    if !std::mem::replace(&mut said[usize::from(*byte)], true)
                        && let Some(word) = Word::from_byte(*byte)
                    {
                        events.push(Event::Said(key, word));
                    }
                }
            }
            Err(_) => {} // nothing there after all
        }
    }

    fn reap(&mut self, key: Key, court: &Court, events: &mut Vec<Event>) {
        let ending = match self.held(key).and_then(|held| held.pidfd.as_ref()) {
            Some(pidfd) => wait::reap(pidfd.as_fd()),
            None => return,
        };
        let ending = match ending {
            Ok(Some(ending)) => ending,
            Ok(None) => return,
            Err(error) => {
                warn!("[emperor] cannot learn how a vassal ended: {error}");
                Ending::Exited(0)
            }
        };
        // Its last words, and the end of its link, come before its death.
        while self.held(key).is_some_and(|held| held.link.is_some()) {
            let before = events.len();
            self.listen_to(key, events);
            if events.len() == before {
                break; // somebody else, whom it left behind, holds its end
            }
        }
        if let Some(held) = self.held(key) {
            held.link = None;
            held.pidfd = None;
        }
        if let Some(vassal) = court.get(key) {
            info!("[emperor] vassal {} (pid: {}) {ending}", vassal.name, vassal.pid);
        }
        events.push(Event::Died(key, ending == Ending::Exited(0)));
    }

    fn reload(&mut self, key: Key, court: &Court) -> Option<Event> {
        if let Some(vassal) = court.get(key) {
            info!("[emperor] reload the uwsgi instance {}", vassal.name);
        }
        (!self.tell(key, Order::Reload)).then_some(Event::Unread(key, true))
    }

    /// Says one byte; `false` if its ear is full. A closed link is noticed elsewhere.
    fn tell(&mut self, key: Key, order: Order) -> bool {
        let Some(link) = self.held(key).and_then(|held| held.link.as_ref()) else { return true };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let said = nix::sys::socket::send(link.as_raw_fd(), &[order as u8], flags);
        !matches!(said, Err(Errno::EAGAIN | Errno::ENOBUFS))
    }

    fn signal(&mut self, key: Key, signal: Signal) {
        let Some(pidfd) = self.held(key).and_then(|held| held.pidfd.as_ref()) else { return };
        let number = match signal {
            Signal::Term => nix::libc::SIGTERM,
            Signal::Kill => nix::libc::SIGKILL,
        };
        if let Err(error) = wait::signal(pidfd.as_fd(), number)
            && error.raw_os_error() != Some(nix::libc::ESRCH)
        {
            warn!("[emperor] cannot signal a vassal: {error}");
        }
    }
}
