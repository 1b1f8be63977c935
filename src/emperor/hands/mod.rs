//! The emperor's hands: they perform what the court decides, and report what came of it.
//!
//! Caller: the emperor's main loop. Nothing here waits: every wait is a descriptor in one epoll, which the
//! loop watches as a whole. A running vassal costs two descriptors, its link and its pidfd.

mod adopt;
pub mod agree;
pub mod command;
mod config_pipe;
pub mod draft;
mod group;
mod held;
mod idle;
pub mod judge;
mod life;
mod notices;
mod notify;
mod on_demand;
mod ready;
mod scale;
mod side;
mod sockets;
mod start;
mod succession;
pub mod telling;
mod token;
mod ways;
mod whereabouts;
mod zerg;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::MsgFlags;
use tracing::{error, info, warn};

use super::cgroup::Groups;
use super::court::{Action, Court, Event, Key, Reload, Signal, State, Vassal};
use super::source::VassalName;
use super::story::{Kind, Story};
use crate::sys::fds;
use crate::sys::spawn::{CStrings, Spawner};
use crate::sys::wait::{self, Ending};
use crate::vassal::link::{END_ALL, Failure, Order, Reports, Word};
use crate::vassal::plan::Capabilities;
use held::{Held, Table};
use side::Errand;
use token::Token;

pub use adopt::{Belongings, Holdings};
pub use config_pipe::ConfigRecord;
pub use life::LifeRecord;
pub use notify::RuntimeDir;
pub use on_demand::{Demand, OnDemand};
pub use side::{BROKEN, SideHooks};
pub use sockets::SocketRecord;
pub(super) use sockets::id as socket_id;
pub use start::{Confinement, Launch, Place, TyrantRules};
pub use zerg::{DoorRecord, OfferError, OffersLeft};

/// The hands.
#[derive(Debug)]
pub struct Hands {
    epoll: Epoll,
    held: Table,
    sides: side::Sides,
    spawner: Spawner,
    launch: Launch,
    /// The environment of every vassal that needs nothing special.
    environment: CStrings,
    asks: on_demand::Asks,
    /// Sockets that the service manager has bound.
    passed: Vec<on_demand::Passed>,
    book: group::Book,
    /// What vassals without files are started with.
    supplies: config_pipe::Table,
    /// Of vassals that the protocol alone does not govern.
    lives: HashMap<Key, life::Life>,
    /// What the court is to know before the outcome of its last action.
    agreed: Option<Event>,
    /// It was said that programs are not heard.
    told_deaf: bool,
    /// What has happened to them.
    story: Story,
    /// Which limits the last processes of those have met that do not run well.
    limits_met: HashMap<Key, Box<str>>,
    /// Why vassals could not even be launched, of those whose last start was none, and for which version of their files
    /// that was said.
    hindered: HashMap<Key, (u64, Box<str>)>,
    /// Why launches have failed, of vassals whose last one has.
    failures: HashMap<Key, Box<Failure>>,
    /// How the last processes of those have failed that do not run well.
    causes: HashMap<Key, Ending>,
    /// The capabilities that were wished for in vain, and of which that was said.
    denied: HashMap<Key, Capabilities>,
    /// What the policy came down to when vassals were started, of those of whom it asks something.
    policies: HashMap<Key, u64>,
    /// Why those did not take a vassal's place that were to.
    not_replaced: HashMap<Key, Box<str>>,
    /// Why vassals have no socket, as far as that was said.
    refusals: HashMap<Key, Box<str>>,
    shares: sockets::Shares,
    seen: idle::Seen,
    offers: zerg::Offers,
    queues: scale::Queues,
    watches: sockets::Watches,
    ways: ways::Ways,
    /// What is wrong with sockets that vassals have, as far as that was said.
    lost: HashMap<Key, Box<str>>,
    sought: whereabouts::Sought,
    /// What came of actions, and is told later.
    late: Vec<Event>,
    odd_lines: notices::Quota,
    rescan: bool,
    buried: bool,
}

/// How many descriptors are looked at in one go.
const BATCH: usize = 256;
/// How much of what a vassal says is read in one go. A flood is read in such pieces, in turn with the others.
const EARFUL: usize = 4096;

/// How often a dead vassal's link is read for what it has said before.
const LAST_WORDS: u32 = 4;

/// What a judge says of a changed file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// Its vassal may read it.
    Fine,
    /// Its vassal would end.
    Broken,
    /// A process of its own is looking.
    Later,
    /// Its vassal must be started anew to follow it.
    Other,
}

impl Hands {
    /// Hands that hold nothing.
    ///
    /// # Errors
    /// epoll_create1(2).
    pub fn new(spawner: Spawner, launch: Launch) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let environment = command::c_strings(launch.environment.of(false, None));
        let book = group::Book::new(Groups::new(&launch.groups));
        Ok(Self {
            epoll,
            held: Table::default(),
            sides: side::Sides::default(),
            spawner,
            launch,
            environment,
            asks: on_demand::Asks::default(),
            passed: Vec::new(),
            book,
            supplies: HashMap::new(),
            lives: HashMap::new(),
            agreed: None,
            told_deaf: false,
            story: Story::default(),
            limits_met: HashMap::new(),
            hindered: HashMap::new(),
            failures: HashMap::new(),
            causes: HashMap::new(),
            denied: HashMap::new(),
            policies: HashMap::new(),
            not_replaced: HashMap::new(),
            refusals: HashMap::new(),
            shares: sockets::Shares::default(),
            seen: idle::Seen::default(),
            offers: zerg::Offers::default(),
            queues: scale::Queues::default(),
            watches: sockets::Watches::default(),
            ways: ways::Ways::default(),
            lost: HashMap::new(),
            sought: whereabouts::Sought::default(),
            late: Vec::new(),
            odd_lines: notices::Quota::default(),
            rescan: false,
            buried: false,
        })
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
    ///
    /// What [`Hands::take_agreed`] has then goes before it.
    pub fn perform(&mut self, action: &Action, court: &Court) -> Option<Event> {
        self.attend(action, court);
        let event = self.carry_out(action, court);
        self.try_freed();
        event
    }

    fn carry_out(&mut self, action: &Action, court: &Court) -> Option<Event> {
        match *action {
            Action::Spawn(key) => return self.spawn(key, court),
            Action::Admit(key) => return self.admit(key, court),
            Action::Reload { key, changed } => return self.reload(key, changed, court),
            Action::Stop(key, order) => {
                self.tell(key, order);
            }
            Action::Signal(key, signal) => self.signal(key, signal, court.get(key)?),
            Action::AskUnread(key) => {
                let link = self.held(key).and_then(|held| held.link.as_ref());
                let unread =
                    link.is_some_and(|link| fds::unread_bytes(link.as_fd()).is_ok_and(|bytes| bytes > 0));
                return Some(Event::Unread(key, unread));
            }
            Action::Listen(key) => return self.listen_on(key, court),
            Action::Measure(key) => return self.measure_use(key, court),
            Action::Freeze(key) => return self.freeze(key, court),
            Action::Thaw(key) => self.thaw(key),
            Action::PushConfig(key) => self.push_config(key, court),
            Action::Ended(ref name) => self.run_stop_hook(name),
            Action::Forget(key, _) => {
                self.close_all_doors(key);
                self.forget_queues(key);
                self.let_go(key);
                self.stop_asking(key);
                self.is_provided(key);
                self.lost.remove(&key);
                self.may_be_free();
                self.failures.remove(&key);
                self.hindered.remove(&key);
                self.limits_met.remove(&key);
                self.causes.remove(&key);
                self.denied.remove(&key);
                self.policies.remove(&key);
                self.not_replaced.remove(&key);
                self.sides.overtake(key);
                self.forget_whereabouts(key);
                self.leave_group(key);
                self.end_life(key);
                if let Some(held) = self.held(key) {
                    *held = Held::default();
                }
                self.shares.tidy();
            }
            Action::Succeed { old, new } => self.succeed(old, new),
            Action::Rescan => self.rescan = true,
            Action::Tell(ref notice) if life::is_told_better(notice) => {}
            Action::Tell(ref notice) => {
                notices::log(notice, &mut self.odd_lines);
                self.tell_story(notice, court);
            }
            Action::Bury => {
                self.close_groups();
                self.buried = true;
            }
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
            match Token::from_bits(event.data()) {
                Token::Link(key) => self.listen_to(key, court, events),
                Token::Process(key) => self.reap(key, court, events),
                Token::Notify(key) => self.hear_notifications(key, court, events),
                Token::Waiting(key) => events.extend(self.connected(key)),
                Token::Groups => self.hear_groups(court, events),
                Token::Config(key) => self.push_rest(key),
                Token::Door(place) => self.answer_door(place),
                Token::Files => self.hear_of_files(court),
                Token::Ways => self.hear_of_ways(court),
                Token::Answer(place) => events.extend(self.hear_answer(place, court)),
                Token::Side(place) => match self.sides.reap(place) {
                    Some((Errand::Judge(key), ending)) => {
                        self.judged(key, ending != Ending::Exited(BROKEN), court, events);
                    }
                    Some((Errand::Ask(place), ending)) => events.extend(self.asked(place, ending, court)),
                    Some((Errand::Terms(key, link), ending)) => {
                        let outcome = self.agreed(key, &link, ending, court);
                        events.extend(self.agreed.take().into_iter().chain(outcome));
                    }
                    Some((Errand::TermsAgain(key, link), ending)) => {
                        let answer = agree::read_answer(&link, ending).answer;
                        events.extend(self.looked_again(key, answer, court));
                    }
                    Some((Errand::Stats(key, link), ending)) => {
                        self.note_whereabouts(key, &link, ending, court);
                    }
                    Some((Errand::Ready(key), ending)) => events.extend(self.has_asked(key, ending, court)),
                    Some((Errand::Act { .. } | Errand::InVain | Errand::NoAnswer, _)) | None => {}
                },
            }
        }
        count > 0
    }

    fn held(&mut self, key: Key) -> Option<&mut Held> {
        self.held.of_mut(key)
    }

    fn hold(
        &mut self,
        key: Key,
        link: OwnedFd,
        pidfd: OwnedFd,
        reports: Option<Box<Reports>>,
    ) -> nix::Result<()> {
        let readable = EpollFlags::EPOLLIN;
        let watched = self
            .epoll
            .add(&link, EpollEvent::new(readable, Token::Link(key).to_bits()))
            .and_then(|()| self.epoll.add(&pidfd, EpollEvent::new(readable, Token::Process(key).to_bits())));
        if let Err(error) = watched {
            // A vassal that cannot be watched must not run. It has just started; its end takes no time.
            let _ = wait::signal(pidfd.as_fd(), nix::libc::SIGKILL);
            let _ = wait::reap_ending(pidfd.as_fd());
            return Err(error);
        }
        let held = self.held.slot(key);
        held.link = Some(link);
        held.pidfd = Some(pidfd);
        held.reports = reports;
        Ok(())
    }

    /// Reads what a vassal says. Repeated words count once: a flood costs little.
    fn listen_to(&mut self, key: Key, court: &Court, events: &mut Vec<Event>) {
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
                let words = match &mut held.reports {
                    Some(reports) => {
                        let (told, words) = reports.feed(&bytes[..count]);
                        let failure = start::log_failures(told, court.get(key).map(|vassal| &vassal.name));
                        if reports.is_over() {
                            held.reports = None;
                        }
                        if let Some(failure) = failure {
                            if let Some(vassal) = court.get(key) {
                                self.story.note(
                                    &vassal.name,
                                    vassal.identity.uid,
                                    Kind::Refused,
                                    failure.to_string(),
                                );
                            }
                            self.failures.insert(key, failure);
                        }
                        words
                    }
                    None => &bytes[..count],
                };
                for byte in words {
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
        let vassal = court.get(key);
        let ending = match self.held(key).and_then(|held| held.pidfd.as_ref()) {
            Some(pidfd) if vassal.is_some_and(life::is_program) => match wait::peek(pidfd.as_fd()) {
                Ok(None) => return,
                _ => {
                    let pidfd = pidfd.as_fd();
                    if let Some(vassal) = vassal {
                        life::end_group(pidfd, vassal);
                    }
                    wait::reap(pidfd)
                }
            },
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
        // Its last words, and the end of its link, come before its death; but whoever it left behind holds its end,
        // and may go on talking.
        for _ in 0..LAST_WORDS {
            let before = events.len();
            self.listen_to(key, court, events);
            if events.len() == before {
                break;
            }
        }
        if !self.lives.is_empty() {
            self.life_has_ended(key, court, events);
        }
        if let Some(held) = self.held(key) {
            held.link = None;
            held.pidfd = None;
            held.config = None;
        }
        let limits = self.limits_told(key, ending);
        match &limits {
            Some(told) => drop(self.limits_met.insert(key, told.as_str().into())),
            None if self.limits_met.is_empty() => {}
            None => drop(self.limits_met.remove(&key)),
        }
        let clean = vassal.map_or(ending == Ending::Exited(0), |vassal| Self::is_clean_end(vassal, ending));
        if let Some(vassal) = vassal {
            self.restore_sockets(key, vassal);
            self.tell_end(key, vassal, ending, clean, limits.as_deref());
            match (vassal.state, ending) {
                (State::Stopping(_), _) if clean && limits.is_none() => {} // as it was told
                (state, _) => {
                    match limits {
                        Some(told) => warn!("[emperor] vassal {} (pid: {}) {told}", vassal.name, vassal.pid),
                        None => info!("[emperor] vassal {} (pid: {}) {ending}", vassal.name, vassal.pid),
                    }
                    if matches!(state, State::Up | State::Cursed) {
                        self.suspect(vassal);
                    }
                }
            }
        }
        self.note_cause(key, ending, clean);
        if self.empty_group(key, clean) {
            events.push(Event::Died(key, clean));
        }
    }

    /// How a vassal's last process has ended, if that was a failure.
    fn note_cause(&mut self, key: Key, ending: Ending, clean: bool) {
        if clean {
            self.causes.remove(&key);
        } else {
            self.causes.insert(key, ending);
        }
    }

    /// How a vassal's last process has failed, if it did.
    #[must_use]
    pub fn cause(&self, key: Key) -> Option<String> {
        let refused = self.refusals.get(&key).map(|why| why.to_string());
        let failed = || self.failures.get(&key).map(|failure| format!("it cannot be started: {failure}"));
        let ended = || self.causes.get(&key).map(|ending| self.ending_in_words(key, *ending));
        let hindered = || self.hindered.get(&key).map(|(_, why)| format!("it cannot be started: {why}"));
        let limit = || self.limits_met.get(&key).map(|told| told.to_string());
        refused
            .or_else(failed)
            .or_else(hindered)
            .or_else(limit)
            .or_else(ended)
            .map(|cause| agree::legible(&cause))
    }

    /// The status that a vassal's last process has ended with, in the shell's numbers, if that was a failure.
    #[must_use]
    pub fn last_exit(&self, key: Key) -> Option<u8> {
        match *self.causes.get(&key)? {
            Ending::Exited(status) => Some(status),
            Ending::Killed(signal) => Some(signal.saturating_add(128)),
            Ending::Unknown => None,
        }
    }

    /// Where programs notify us, and the control socket is.
    pub fn runtime_dir(&mut self) -> &mut RuntimeDir {
        &mut self.launch.runtime
    }

    /// Reaps processes that were left to us as the first of a container; ours are left to [`Self::collect`],
    /// and `other` to whoever has started it.
    ///
    /// `false` if one of ours is in the way: collect first, then ask again.
    pub fn reap_orphans(&mut self, court: &Court, other: Option<i32>) -> bool {
        while let Some(pid) = wait::peek_ended() {
            let ours = self.sides.has(pid)
                || other == Some(pid)
                || court.vassals().any(|(_, vassal)| vassal.pid == pid);
            if ours {
                return false;
            }
            wait::reap_pid(pid);
        }
        true
    }

    fn reload(&mut self, key: Key, changed: bool, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        if changed {
            self.relimit(key, vassal, court);
        }
        if vassal.course.as_ref().is_some_and(|course| course.manner.reload != Reload::Told) {
            return self.reload_program(key, changed, court);
        }
        if changed && self.launch.check_reload && self.launch.engine.reads_uwsgi_files() {
            match self.judge(key, vassal) {
                Verdict::Fine => {}
                Verdict::Broken => return Some(Event::ReloadRefused(key)),
                Verdict::Later => return None,
                Verdict::Other => return Some(Event::MustRestart(key)),
            }
        }
        self.tell_to_reload(key, &vassal.name)
    }

    fn tell_to_reload(&mut self, key: Key, name: &VassalName) -> Option<Event> {
        info!("[emperor] reload the uwsgi instance {name}");
        self.tell_of(name, None, Kind::Told, "it is told to reload");
        (!self.tell(key, Order::Reload)).then_some(Event::Unread(key, true))
    }

    /// What a judge in a process of its own has found.
    fn judged(&mut self, key: Key, fine: bool, court: &Court, events: &mut Vec<Event>) {
        let Some(vassal) = court.get(key) else { return };
        if !fine {
            error!(
                "[emperor] vassal {} is not told to reload: its new file is broken, and it goes on with the old one",
                vassal.name
            );
            self.tell_of(
                &vassal.name,
                Some(vassal),
                Kind::Refused,
                "its new file is broken: it is not told to reload and goes on with the old one",
            );
            events.push(Event::ReloadRefused(key));
        } else if vassal.state == State::Up {
            events.extend(self.tell_to_reload(key, &vassal.name));
        }
    }

    /// Says one byte; `false` if its ear is full. A closed link is noticed elsewhere.
    fn tell(&mut self, key: Key, order: Order) -> bool {
        let Some(link) = self.held(key).and_then(|held| held.link.as_ref()) else { return true };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let said = nix::sys::socket::send(link.as_raw_fd(), &[order as u8], flags);
        !matches!(said, Err(Errno::EAGAIN | Errno::ENOBUFS))
    }

    fn signal(&mut self, key: Key, signal: Signal, vassal: &Vassal) {
        if signal == Signal::Kill {
            self.kill_group(key);
        }
        let reaped = self.has_reaper(key);
        let Some(pidfd) = self.held(key).and_then(|held| held.pidfd.as_ref()) else { return };
        let number = match signal {
            Signal::Term => nix::libc::SIGTERM,
            Signal::Kill if reaped => END_ALL as i32,
            Signal::Kill => nix::libc::SIGKILL,
            Signal::Agreed(number) => number.into(),
        };
        if signal == Signal::Kill && !reaped && life::is_program(vassal) {
            life::end_group(pidfd.as_fd(), vassal);
        }
        if let Err(error) = wait::signal(pidfd.as_fd(), number)
            && error.raw_os_error() != Some(nix::libc::ESRCH)
        {
            warn!("[emperor] cannot signal a vassal: {error}");
        }
    }
}
