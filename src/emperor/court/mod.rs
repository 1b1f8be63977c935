//! The court decides: which vassal starts, waits, is told, is stopped, and when.
//!
//! One value and one function: [`Court::on_event`] takes what happened and the time, and returns what to do.
//! It reads no clock, makes no system call, awaits nothing and logs nothing; the hands perform its actions in
//! order and feed back what came of them. All timers are data: [`Court::next_timeout`] says when to send the
//! next [`Event::Tick`]. The states of one vassal and their transitions are drawn in `docs/design/court.md`.

mod adopt;
mod backoff;
mod crowd;
mod ends;
mod failures;
mod idle;
mod lately;
mod manner;
mod operator;
mod reign;
mod reload;
mod reports;
mod roll;
mod rules;
#[cfg(test)]
mod stage;
mod succession;
mod timers;
mod turns;
mod vassal;
mod zergs;

pub use adopt::{Adoption, Gist, Record, ZergRecord};
pub use backoff::Backoff;
pub use idle::Use;
pub use manner::{Course, Manner, Ready, Reload, Sign};
pub use operator::Wish;
pub use roll::Key;
pub use vassal::{Instance, Rest, Role, State, Then, Vassal};
pub use zergs::Scale;

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use super::source::{Identity, Oddity, Report, SourceId, VassalName};
use crate::vassal::link::{Order, Word};

/// A moment: for the court's own arithmetic, and for the people who read its figures.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Now {
    /// Microseconds of a clock that never goes backwards, from any start but 0.
    pub micros: u64,
    /// Seconds since the epoch.
    pub epoch: u64,
}

impl Now {
    /// The moment that is `duration` later, in microseconds; the end of time if there is none.
    fn after(self, duration: Duration) -> u64 {
        self.micros.saturating_add(micros(duration))
    }

    /// How long ago a moment in microseconds was.
    fn since(self, micros: u64) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(micros))
    }
}

/// How the emperor's options say that vassals are to be treated.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `emperor-throttle`: step of the back-off of a vassal that fails. Default 1 s.
    pub throttle: Duration,
    /// `emperor-max-throttle`: ceiling of the back-off. Default 180 s.
    pub max_throttle: Duration,
    /// `emperor-no-blacklist`: a failing vassal is not put on the blacklist.
    pub no_blacklist: bool,
    /// `emperor-required-heartbeat`: the longest silence after the first heartbeat. Default 30 s.
    pub required_heartbeat: Duration,
    /// `emperor-curse-tolerance`: how long a cursed vassal may take to end. Default 30 s.
    pub curse_tolerance: Duration,
    /// `emperor-stop-timeout`: how long a vassal that was told to stop may take. Default: the curse tolerance.
    pub stop_timeout: Duration,
    /// `reload-mercy`: how long the whole empire may take to end. Default 30 s.
    pub shutdown_grace: Duration,
    /// `emperor-reload-timeout`: how long a reload may stay unread before the vassal is restarted. Default 30 s.
    pub reload_timeout: Duration,
    /// `emperor-max-starting`: how many vassals may be starting at once.
    pub max_starting: u32,
    /// `emperor-abandon-after`: give a vassal up after so many failures in a row; 0 is never.
    pub abandon_after: u32,
    /// `emperor-broodlord`: how many reinforcements may run in all; 0 is none.
    pub broodlord: u32,
    /// `vassal-broodlord`: how many reinforcements one vassal may have; 0 for as many as there may be.
    pub zergs_each: u32,
    /// `emperor-tyrant`: vassals run as the owner of their file, and root's are refused.
    pub tyrant: bool,
    /// `emperor-graceful-shutdown`: stop with byte 2 instead of 0.
    pub graceful: bool,
    /// `emperor-idle-freeze`: programs that nobody uses are frozen for so long before they are stopped, or for ever if
    /// that is zero.
    pub idle_freeze: Option<Duration>,
    /// Whether some vassals may start on demand for other reasons than their own files: each new one is asked for.
    pub on_demand: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            throttle: Duration::from_secs(1),
            max_throttle: Duration::from_secs(180),
            no_blacklist: false,
            required_heartbeat: Duration::from_secs(30),
            curse_tolerance: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            reload_timeout: Duration::from_secs(30),
            max_starting: 32,
            abandon_after: 0,
            broodlord: 0,
            zergs_each: 0,
            tyrant: false,
            graceful: false,
            idle_freeze: None,
            on_demand: false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A source has looked.
    Report(Report),
    /// The answer to [`Action::Admit`]: whether the vassal has an on-demand socket, bound and quiet.
    Admitted(Key, bool),
    /// Not known yet: the action is to come once more, so much later.
    AdmitAgain(Key, Duration),
    /// Its on-demand socket could not be bound, and why was said.
    NotBound(Key),
    /// What is agreed with it; before [`Event::Started`], and without it that is the protocol.
    Agreed(Key, Manner),
    /// No process was made, because its own file wants it to start with the first connection to its own sockets, which
    /// are bound.
    Sleeps(Key),
    /// A process was made for it.
    Started(Key, i32),
    /// No process could be made; `true` if the machine is short of something, `false` if it is the vassal's fault.
    NotStarted(Key, bool),
    /// It said something.
    Said(Key, Word),
    /// It has shown something, otherwise than over its link.
    Shows(Key, Sign),
    /// Its end of the link is closed.
    LinkClosed(Key),
    /// Its process has ended; `true` if that was by its own will with status 0. What it said before was reported
    /// before, and nothing of this life is reported after: the key soon stands for the next one.
    Died(Key, bool),
    /// Somebody connects to its on-demand socket.
    Connection(Key),
    /// What was in the way of its sockets may be gone.
    Unobstructed(Key),
    /// The answer to [`Action::Measure`].
    Measured(Key, Use),
    /// It cannot be frozen, or must not stay so.
    NotFrozen(Key),
    /// Its changed file would not start: it was not told.
    ReloadRefused(Key),
    /// It cannot be told to reload: another process is to take its place.
    MustRestart(Key),
    /// The answer to [`Action::AskUnread`]: whether what it was told last is still unread.
    Unread(Key, bool),
    /// So many wait at one of a vassal's sockets, which may be reinforced so.
    Queue {
        /// Whose.
        key: Key,
        /// How many.
        waiting: u32,
        /// What its file says.
        scale: Scale,
    },
    /// Somebody wants something of it.
    Wanted(Key, Wish),
    /// SIGHUP: tell every running vassal to reload.
    ReloadAll,
    /// SIGURG: forget all failures.
    ClearBlacklist,
    /// The first of SIGTERM, SIGINT, SIGQUIT: stop everything. The second: at once.
    Shutdown,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Look whether it has an on-demand socket and bind it, unless that is done already; then [`Event::Admitted`], [`Event::AdmitAgain`] or
    /// [`Event::NotBound`].
    Admit(Key),
    /// Start it; then [`Event::Started`] or [`Event::NotStarted`].
    Spawn(Key),
    /// Tell it to reload. `changed` if its file has: then look first whether the new one would start.
    Reload {
        /// Whom.
        key: Key,
        /// Whether its file has changed.
        changed: bool,
    },
    /// Tell it to stop.
    Stop(Key, Order),
    /// Send it a signal.
    Signal(Key, Signal),
    /// Answer [`Event::Unread`], before anything else is reported: the answer holds for this moment.
    AskUnread(Key),
    /// Look whether it is of use to anybody; then [`Event::Measured`].
    Measure(Key),
    /// Freeze it, and watch its sockets; [`Event::Connection`] when somebody connects, [`Event::NotFrozen`] if it cannot be.
    Freeze(Key),
    /// Let it go on, and leave its sockets to it.
    Thaw(Key),
    /// Send it its configuration once more.
    PushConfig(Key),
    /// Watch its on-demand socket: nobody serves it. [`Event::Connection`] if there is none any more.
    Listen(Key),
    /// Its process is gone: run the stop hook.
    Ended(VassalName),
    /// Close what is held for it. It is no more.
    Forget(Key, VassalName),
    /// Another process has taken a vassal's place: what is held for it is the new key's from now on, but for what
    /// belongs to its old process.
    Succeed {
        /// The key that it had.
        old: Key,
        /// The one that it has.
        new: Key,
    },
    /// Look at all sources again.
    Rescan,
    /// Say it.
    Tell(Notice),
    /// All vassals are gone: end.
    Bury,
}

/// The signals that the court sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL, to all of it.
    Kill,
    /// The one that is agreed to ask it to end.
    Agreed(u8),
}

/// One line for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// The vassal; none for the empire.
    pub name: Option<VassalName>,
    /// What is said of it.
    pub what: What,
}

/// What there is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is one log line, whose text is in `hands::notices`")]
pub enum What {
    Spawned,
    Accepting,
    Loyal,
    Reload,
    Stop,
    Curse { pid: i32 },
    Removed,
    Dismissed,
    BackToOnDemand,
    Thawed,
    OnDemandUpdated,
    Throttled,
    MaxThrottle,
    Restarting { after: Duration, loyal: bool },
    Abandoned { failures: u32 },
    BlacklistCleared,
    Reinforced,
    Rolling,
    Replaced,
    NotReplaced(Key),
    NoHeartbeat { seconds: u64 },
    InvalidPermissions { uid: u32, gid: u32 },
    OwnerChanged,
    Rests,
    StoppedByHand,
    Odd(Oddity),
    TwoSources,
    NotYetGone { seconds: u64 },
    ReloadUnread,
    NotReady { seconds: u64 },
    EndsItself,
    Hangs,
    ShortOfProcesses,
    Ragnarok { vassals: u32 },
    RagnarokAgain { seconds: u64 },
    NoMercy,
}

/// All vassals and what is decided about them.
#[derive(Debug)]
pub struct Court {
    policy: Policy,
    vassals: roll::Roll,
    names: HashMap<VassalName, Key>,
    odd: HashMap<VassalName, Odd>,
    /// Those stopped by hand under a former emperor that have not come yet.
    stopped: HashMap<VassalName, Identity>,
    lately: lately::Lately,
    /// The number of the current scan, by source.
    scans: Vec<u16>,
    timers: BinaryHeap<std::cmp::Reverse<(u64, Key)>>,
    queue: turns::Turns,
    starting: u32,
    running: u32,
    zergs: Vec<Key>,
    /// Who is to take a vassal's place.
    heirs: HashMap<Key, Key>,
    asking: Vec<zergs::Asking>,
    /// Those that end their requests before they end, whatever is the rule.
    retiring: HashSet<Key>,
    /// When somebody waited last at the sockets of those whose queues are looked at, microseconds.
    crowded: HashMap<Key, u64>,
    zergs_ever: u32,
    /// Nobody starts before; 0 for now.
    hold_until: u64,
    /// The machine is short of processes, and that was said.
    short: bool,
    /// It was when the last one was tried.
    probing: bool,
    reign: Reign,
    out: Vec<Action>,
}

/// A name in a source that cannot be a vassal's.
#[derive(Debug)]
struct Odd {
    source: SourceId,
    oddity: Oddity,
    scan: u16,
}

/// Whether the empire lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reign {
    Lasting,
    Ending {
        /// When all are killed; then, when they are killed again.
        deadline: u64,
        /// How often they were killed since the last one died.
        kills: u8,
    },
    Buried,
}

impl Court {
    /// A court without vassals.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            vassals: roll::Roll::default(),
            names: HashMap::new(),
            odd: HashMap::new(),
            stopped: HashMap::new(),
            lately: lately::Lately::default(),
            scans: Vec::new(),
            timers: BinaryHeap::new(),
            queue: turns::Turns::default(),
            starting: 0,
            running: 0,
            zergs: Vec::new(),
            heirs: HashMap::new(),
            asking: Vec::new(),
            retiring: HashSet::new(),
            crowded: HashMap::new(),
            zergs_ever: 0,
            hold_until: 0,
            short: false,
            probing: false,
            reign: Reign::Lasting,
            out: Vec::new(),
        }
    }

    /// Takes what happened and appends to `actions` what to do, in order. `now` must not go backwards.
    ///
    /// Events about a vassal that is gone are ignored: they can only be late.
    pub fn on_event(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        if self.reign == Reign::Buried {
            return;
        }
        match event {
            Event::Report(report) => self.report(report, now),
            Event::ReloadAll => self.reload_all(now),
            Event::ClearBlacklist => self.clear_blacklist(now),
            Event::Shutdown => self.shutdown(now),
            Event::Tick => self.tick(now),
            Event::Admitted(key, on_demand) => self.with(key, |court| court.admitted(key, on_demand, now)),
            Event::AdmitAgain(key, patience) => self.with(key, |court| court.admit_again(key, patience, now)),
            Event::Sleeps(key) => self.with(key, |court| court.sleeps(key, now)),
            Event::NotBound(key) => self.with(key, |court| court.not_bound(key, now)),
            Event::Agreed(key, manner) => self.with(key, |court| court.agreed(key, manner)),
            Event::Started(key, pid) => self.with(key, |court| court.started(key, pid, now)),
            Event::NotStarted(key, machine) => self.with(key, |court| court.not_started(key, machine, now)),
            Event::Said(key, word) => self.with(key, |court| court.said(key, word, now)),
            Event::Shows(key, sign) => self.with(key, |court| court.shows(key, sign, now)),
            Event::LinkClosed(key) => self.with(key, |court| court.link_closed(key, now)),
            Event::Died(key, clean) => self.with(key, |court| court.died(key, clean, now)),
            Event::Queue { key, waiting, scale } => {
                self.with(key, |court| court.look_at_queue(key, waiting, scale, now));
            }
            Event::Unobstructed(key) => self.with(key, |court| court.unobstructed(key, now)),
            Event::Connection(key) => self.with(key, |court| court.connection(key, now)),
            Event::NotFrozen(key) => self.with(key, |court| court.not_frozen(key, now)),
            Event::Measured(key, seen) => self.with(key, |court| court.measured(key, seen, now)),
            Event::ReloadRefused(key) => self.with(key, |court| court.reload_refused(key, now)),
            Event::MustRestart(key) => self.with(key, |court| court.must_restart(key, now)),
            Event::Wanted(key, wish) => self.with(key, |court| court.wanted(key, wish, now)),
            Event::Unread(key, unread) => self.with(key, |court| court.unread(key, unread, now)),
        }
        self.admit_starters(now);
        self.bury_if_empty();
        self.drop_dead_timers();
        actions.append(&mut self.out);
    }

    /// When to send the next [`Event::Tick`], in [`Now::micros`]; `None` while only an event can move us.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        let first = self.timers.peek().map(|entry| entry.0.0);
        let hold = (!self.queue.is_empty() && self.hold_until > 0).then_some(self.hold_until);
        let end = match self.reign {
            Reign::Ending { deadline, .. } => Some(deadline),
            Reign::Lasting | Reign::Buried => None,
        };
        [first, hold, end].into_iter().flatten().min()
    }

    /// The vassal of a key.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Vassal> {
        self.vassals.get(key)
    }

    /// The key of a name; reinforcements have none.
    #[must_use]
    pub fn find(&self, name: &VassalName) -> Option<Key> {
        self.names.get(name).copied()
    }

    /// All vassals.
    pub fn vassals(&self) -> impl Iterator<Item = (Key, &Vassal)> {
        self.vassals.iter()
    }

    /// How many vassals have a process.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running
    }

    /// How many vassals there are, whatever they do.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vassals.len()
    }

    /// Whether there is no vassal at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vassals.len() == 0
    }

    /// Whether vassals wait for their turn to start, or are starting.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.starting > 0 || !self.queue.is_empty()
    }

    fn with(&mut self, key: Key, act: impl FnOnce(&mut Self)) {
        if self.vassals.get(key).is_some() {
            act(self);
        }
    }

    fn tell(&mut self, name: &VassalName, what: What) {
        self.out.push(Action::Tell(Notice { name: Some(name.clone()), what }));
    }

    fn say(&mut self, key: Key, what: What) {
        let name = self.vassals[key].name.clone();
        self.tell(&name, what);
    }
}

/// Whole seconds of an identity's last change, as the stats show it.
fn mtime_seconds(identity: &Identity) -> u64 {
    u64::try_from(identity.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
