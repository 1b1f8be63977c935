//! Files, processes, and hands that do what the court says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use emperor::emperor::court::{
    Action, Court, Event, Key, Manner, Now, Policy, Ready, Reload, Role, Sign, Signal, State, Vassal, Wish,
};
use emperor::emperor::source::{Identity, Oddity, Report, SourceId, VassalName};
use emperor::vassal::link::{Order, Word};

use super::steps::{Answer, Started, Step};

/// Names 0 and 1 are of programs that do not speak the protocol, and nothing is agreed with them; the last one is of a
/// program that is told by signals, and the one before it of a uWSGI whose processes take one another's place.
pub(crate) const NAMES: u8 = 6;
pub(crate) const SOURCES: u16 = 2;
/// How long a silent vassal counts as starting.
pub(crate) const STARTING_HOLD: u64 = 500_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) identity: Identity,
    pub(crate) version: u64,
    pub(crate) broken: bool,
}

#[derive(Debug)]
pub(crate) struct Process {
    /// The version of its file that it has read.
    pub(crate) version: u64,
    pub(crate) started: u64,
    pub(crate) mute: bool,
    pub(crate) manner: Option<Manner>,
    pub(crate) came_up: bool,
    pub(crate) hangs: bool,
    pub(crate) closed: bool,
    pub(crate) unread: Vec<Order>,
    pub(crate) doomed: bool,
}

pub(crate) struct World {
    pub(crate) court: Court,
    pub(crate) policy: Policy,
    pub(crate) now: Now,
    pub(crate) files: BTreeMap<(u16, u8), File>,
    pub(crate) live: BTreeMap<Key, Process>,
    /// Asked for and not answered, with the version that was there then.
    pub(crate) spawning: Vec<(Key, u64)>,
    pub(crate) admitting: Vec<Key>,
    pub(crate) forgotten: HashSet<Key>,
    /// What those that ended had read.
    pub(crate) last_version: HashMap<Key, u64>,
    /// Those that were stopped by hand last, and the versions of their files then.
    pub(crate) by_hand: HashMap<VassalName, u64>,
    pub(crate) scanning: BTreeSet<u16>,
    pub(crate) short_until: u64,
    pub(crate) versions: u64,
    pub(crate) rescan: bool,
    pub(crate) shut: bool,
    /// Whoever starts now is not watched.
    pub(crate) calm: bool,
    pub(crate) burials: u32,
}

/// What is agreed with the program of the last name: something else for each version of its file.
fn manner_of(version: u64) -> Manner {
    let pick = |n: u64| version.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(8) % n;
    let reload = if pick(2) == 0 { Reload::Restart } else { Reload::Signal(10) };
    let ready = [Ready::AtOnce, Ready::Notified, Ready::Checked][usize::try_from(pick(3)).unwrap_or(0)];
    let seconds = |number: u64| Some(Duration::from_secs(number)).filter(|_| number > 0);
    Manner {
        linked: false,
        stop: Some(12),
        reload,
        ready,
        stop_timeout: seconds(pick(3)),
        start_timeout: seconds(pick(5)),
        watchdog: seconds(pick(4)),
        rolling: pick(3) > 0,
        ..Manner::default()
    }
}

pub(crate) fn name_of(name: u8) -> VassalName {
    VassalName::new(format!("{name}.ini").as_bytes())
}

impl World {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            court: Court::new(policy.clone()),
            policy,
            now: Now { micros: 1, epoch: 1_000_000 },
            files: BTreeMap::new(),
            live: BTreeMap::new(),
            spawning: Vec::new(),
            admitting: Vec::new(),
            forgotten: HashSet::new(),
            last_version: HashMap::new(),
            by_hand: HashMap::new(),
            scanning: BTreeSet::new(),
            short_until: 0,
            versions: 0,
            rescan: false,
            shut: false,
            calm: false,
            burials: 0,
        }
    }

    pub(crate) fn happens(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut actions = Vec::new();
            self.court.on_event(event, self.now, &mut actions);
            assert!(self.burials == 0 || actions.is_empty(), "after the burial: {actions:?}");
            for action in actions {
                events.extend(self.perform(&action));
            }
        }
        self.check();
    }

    pub(crate) fn file_of(&self, key: Key) -> Option<File> {
        let vassal = self.court.get(key)?;
        let name = vassal.name.as_bytes()[0] - b'0';
        self.files.get(&(vassal.source.0, name)).copied()
    }

    pub(crate) fn perform(&mut self, action: &Action) -> Option<Event> {
        let known = |key: &Key| assert!(!self.forgotten.contains(key), "{action:?} for a forgotten vassal");
        match action {
            Action::Spawn(key) => {
                known(key);
                assert!(!self.live.contains_key(key), "{key:?} runs already");
                assert!(
                    self.spawning.iter().all(|(other, _)| other != key),
                    "{key:?} is being started already"
                );
                let vassal = self.court.get(*key).expect("only a vassal that is there is started");
                assert!(!self.policy.tyrant || (vassal.identity.uid != 0 && vassal.identity.gid != 0));
                self.spawning.push((*key, self.file_of(*key).map_or(0, |file| file.version)));
            }
            Action::Admit(key) => {
                known(key);
                assert!(!self.admitting.contains(key));
                self.admitting.push(*key);
            }
            Action::Reload { key, changed } => {
                known(key);
                if *changed && self.file_of(*key).is_none_or(|file| file.broken) {
                    return Some(Event::ReloadRefused(*key));
                }
                let process = self.live.get_mut(key).expect("only what runs is told");
                if process.manner.is_some_and(|manner| manner.reload == Reload::Restart) {
                    return Some(Event::MustRestart(*key));
                }
                process.unread.push(Order::Reload);
            }
            Action::Stop(key, order) => {
                known(key);
                let process = self.live.get_mut(key).expect("only what runs is told");
                assert_eq!(process.manner, None, "a program is told by signals");
                process.unread.push(*order);
            }
            Action::Signal(key, signal) => {
                known(key);
                let process = self.live.get_mut(key).expect("a signal needs a process");
                match signal {
                    Signal::Agreed(number) => {
                        assert_eq!(process.manner.and_then(|manner| manner.stop), Some(*number));
                        process.unread.push(Order::Stop);
                    }
                    Signal::Term | Signal::Kill => process.doomed |= *signal == Signal::Kill || process.mute,
                }
            }
            Action::AskUnread(key) => {
                known(key);
                assert_eq!(self.live[key].manner, None, "a program has no link");
                return Some(Event::Unread(*key, !self.live[key].unread.is_empty()));
            }
            Action::Measure(key) | Action::Freeze(key) | Action::PushConfig(key) => {
                assert!(self.live.contains_key(key));
            }
            Action::Thaw(key) => known(key),
            Action::Listen(key) => {
                known(key);
                assert!(self.court.get(*key).is_some_and(|vassal| vassal.on_demand));
            }
            Action::Succeed { old, new } => {
                known(new);
                let heir = self.court.get(*new).expect("only one that is there takes a place");
                let is_ready = heir.instance.accepting || heir.instance.loyal;
                assert!(!self.live.contains_key(old) || is_ready, "{old:?} goes before another is ready");
            }
            Action::Ended(_) | Action::Tell(_) => {}
            Action::Forget(key, _) => {
                assert!(self.forgotten.insert(*key), "{key:?} is forgotten twice");
                if let Some(process) = self.live.remove(key) {
                    assert!(self.shut && process.doomed, "{key:?} still runs, and could be killed");
                }
                assert!(self.spawning.iter().all(|(other, _)| other != key), "{key:?} is being started");
                self.admitting.retain(|other| other != key);
            }
            Action::Rescan => self.rescan = true,
            Action::Bury => {
                self.burials += 1;
                assert!(self.live.is_empty() && self.spawning.is_empty() && self.burials == 1);
            }
        }
        None
    }

    /// What holds at all times.
    pub(crate) fn check(&self) {
        assert_eq!(self.court.running() as usize, self.live.len());
        let mut running = BTreeSet::new();
        let mut zergs = 0;
        let mut successors = BTreeSet::new();
        for (key, vassal) in self.court.vassals() {
            assert!(!self.forgotten.contains(&key));
            assert_eq!(vassal.pid > 0, self.live.contains_key(&key), "{vassal:?}");
            if let Some(zerg) = vassal.zerg {
                zergs += u32::from(zerg.role == Role::Reinforcement);
                let ends = matches!(vassal.state, State::Stopping(_) | State::Cursed);
                assert!(zerg.role != Role::Predecessor || ends, "nobody follows {vassal:?}");
                assert!(
                    zerg.role != Role::Successor || ends || successors.insert(zerg.base),
                    "two take one place: {vassal:?}"
                );
            } else {
                assert_eq!(self.court.find(&vassal.name), Some(key));
                assert!(vassal.pid < 0 || running.insert(vassal.name.clone()), "{} runs twice", vassal.name);
            }
        }
        assert!(zergs <= self.policy.broodlord);
        let fresh = |(key, process): (&Key, &Process)| {
            let up = self.court.get(*key).is_some_and(|vassal| vassal.state == State::Up);
            up && !process.came_up && self.now.micros < process.started + STARTING_HOLD
        };
        let limit = self.policy.max_starting.max(1) as usize;
        let fresh = self.live.iter().filter(|entry| fresh(*entry)).count();
        assert!(self.spawning.len() + fresh <= limit, "too many start at once");
        let waits = self.court.vassals().any(|(_, vassal)| vassal.state == State::Queued);
        let reason = self.spawning.len() + fresh > 0 || self.now.micros < self.short_until;
        assert!(!waits || reason, "a vassal waits for nothing: {:?}", self.court);
        assert_eq!(self.court.is_starting(), waits || self.spawning.len() + fresh > 0);
    }

    pub(crate) fn pass(&mut self, micros: u64) {
        let until = self.now.micros + micros;
        let mut at_once = 0;
        while let Some(due) = self.court.next_timeout().filter(|due| *due <= until) {
            at_once = if due > self.now.micros { 0 } else { at_once + 1 };
            assert!(at_once < 4, "the same moment is due over and over: {:?}", self.court);
            self.now.micros = self.now.micros.max(due);
            self.happens(Event::Tick);
        }
        self.now.micros = until;
        self.now.epoch = 1_000_000 + until / 1_000_000;
        self.check();
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.happens(Event::Report(report));
    }

    pub(crate) fn look(&mut self, source: u16, name: u8) {
        let (id, vassal) = (SourceId(source), name_of(name));
        match self.files.get(&(source, name)) {
            Some(file) => self.report(Report::Seen(id, vassal, file.identity)),
            None => self.report(Report::Gone(id, vassal)),
        }
    }

    pub(crate) fn see(&mut self, source: u16, name: u8) {
        if let Some(file) = self.files.get(&(source, name)) {
            self.report(Report::Seen(SourceId(source), name_of(name), file.identity));
        }
    }

    pub(crate) fn scan(&mut self, source: u16) {
        self.scanning.remove(&source);
        self.report(Report::ScanBegan(SourceId(source)));
        (0..NAMES).for_each(|name| self.see(source, name));
        self.report(Report::ScanEnded(SourceId(source)));
    }

    pub(crate) fn write(&mut self, source: u16, name: u8, root: bool, broken: bool) {
        self.versions += 1;
        let version = self.versions;
        let time = i64::try_from(version).unwrap_or(0);
        let (uid, gid) = if root { (0, 7) } else { (1 + u32::from(name) / 2, 7) };
        let identity =
            Identity { mtime_ns: time, ctime_ns: time, device: 1, inode: version, size: 1, uid, gid };
        self.files.insert((source, name), File { identity, version, broken });
    }

    pub(crate) fn answer(&mut self, which: usize, how: Started) {
        if self.spawning.is_empty() {
            return;
        }
        let place = which % self.spawning.len();
        let (key, version) = self.spawning[place];
        let is_named = |name: u8| {
            let is_it = |vassal: &Vassal| vassal.name.as_bytes().starts_with(name_of(name).as_bytes());
            self.court.get(key).is_some_and(|it| is_it(it) && (it.zerg.is_none() || it.is_successor()))
        };
        let (rolls, is_program) = (is_named(NAMES - 2), is_named(NAMES - 1));
        if rolls {
            self.happens(Event::Agreed(key, Manner { rolling: true, ..Manner::default() }));
        }
        let manner = is_program.then(|| manner_of(version));
        let manner =
            manner.map(|manner| if self.calm { Manner { watchdog: None, ..manner } } else { manner });
        if let Some(manner) = manner {
            self.happens(Event::Agreed(key, manner));
        }
        self.spawning.remove(place);
        let event = match how {
            Started::Well => {
                let mute = self.court.get(key).is_some_and(|vassal| vassal.name.as_bytes()[0] < b'2');
                let process = Process {
                    version,
                    started: self.now.micros,
                    mute,
                    manner,
                    came_up: false,
                    hangs: false,
                    closed: false,
                    unread: Vec::new(),
                    doomed: false,
                };
                self.live.insert(key, process);
                Event::Started(key, 100 + i32::try_from(key.index()).unwrap_or(0))
            }
            Started::MachineShort => {
                self.short_until = self.now.micros + 1_000_000;
                Event::NotStarted(key, true)
            }
            Started::Badly => Event::NotStarted(key, false),
        };
        self.happens(event);
    }

    pub(crate) fn die(&mut self, key: Key, clean: bool) {
        if let Some(process) = self.live.remove(&key) {
            self.last_version.insert(key, process.version);
            self.happens(Event::Died(key, clean));
        }
    }

    pub(crate) fn say(&mut self, key: Key, word: Word) {
        let speaks = |process: &&mut Process| !process.mute && !process.closed && process.manner.is_none();
        let Some(process) = self.live.get_mut(&key).filter(speaks) else {
            return;
        };
        process.came_up |= matches!(word, Word::Spawned | Word::Accepting | Word::Loyal);
        self.happens(Event::Said(key, word));
    }

    /// A program shows something; so may one that speaks the protocol, and nothing comes of it.
    pub(crate) fn shows(&mut self, key: Key, sign: Sign) {
        let rolls =
            self.court.get(key).is_some_and(|it| it.course.as_ref().is_some_and(|it| it.manner.linked));
        if rolls {
            return; // nobody hears it
        }
        if let Some(process) = self.live.get_mut(&key) {
            process.came_up |= match (process.manner.map(|manner| manner.ready), sign) {
                (None, _) => false,
                (_, Sign::Answers) => true,
                (Some(Ready::Checked), Sign::Ready) => process.came_up,
                (_, sign) => sign == Sign::Ready,
            };
            self.happens(Event::Shows(key, sign));
        }
    }

    /// The process does what it is told.
    pub(crate) fn read(&mut self, key: Key) {
        let file = self.file_of(key);
        let Some(process) = self.live.get_mut(&key) else { return };
        if process.doomed {
            return self.die(key, false);
        }
        if process.mute || process.hangs || process.closed {
            return;
        }
        for order in std::mem::take(&mut process.unread) {
            match (order, file) {
                (Order::Reload, Some(file)) if !file.broken => process.version = file.version,
                (Order::Reload, _) => return self.die(key, false),
                (Order::Stop | Order::StopGracefully, _) => return self.die(key, true),
            }
        }
    }

    pub(crate) fn nth(&self, which: usize) -> Option<Key> {
        (!self.live.is_empty()).then(|| self.live.keys().nth(which % self.live.len()).copied())?
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Write { source, name, root, broken, noticed } => {
                self.write(source, name, root, broken);
                if noticed {
                    self.look(source, name);
                }
            }
            Step::Remove { source, name, noticed } => {
                self.files.remove(&(source, name));
                if noticed {
                    self.look(source, name);
                }
            }
            Step::BecomeOdd { source, name } => {
                self.files.remove(&(source, name));
                self.report(Report::Odd(SourceId(source), name_of(name), Oddity::DanglingLink));
            }
            Step::Chmod { source, name } => {
                if let Some(file) = self.files.get_mut(&(source, name)) {
                    file.identity.ctime_ns += 1;
                    self.look(source, name);
                }
            }
            Step::ScanBegins { source } => {
                self.scanning.insert(source);
                self.report(Report::ScanBegan(SourceId(source)));
            }
            Step::ScanSees { source, name } => self.see(source, name),
            Step::ScanEnds { source } => {
                if self.scanning.remove(&source) {
                    (0..NAMES).for_each(|name| self.see(source, name));
                    self.report(Report::ScanEnded(SourceId(source)));
                }
            }
            Step::Scan { source } => self.scan(source),
            Step::Spawned { which, how } => self.answer(which, how),
            Step::Admitted { which, answer } => self.admitted(which, answer),
            Step::Connect => {
                let waiting = self.court.vassals().find(|(_, vassal)| vassal.state == State::Waiting);
                if let Some((key, _)) = waiting {
                    self.happens(Event::Connection(key));
                }
            }
            Step::Want { which, wish } => {
                let keys: Vec<_> = self.court.vassals().map(|(key, _)| key).collect();
                if let Some(key) = keys.get(which % keys.len().max(1)) {
                    self.want(*key, wish);
                }
            }
            Step::Pass { micros } => self.pass(micros),
            Step::ReloadAll => self.happens(Event::ReloadAll),
            Step::ClearBlacklist => self.happens(Event::ClearBlacklist),
            Step::Shutdown => self.shut(),
            Step::Stray { what, which } => self.stray(what, which),
            Step::Say { which, .. }
            | Step::Show { which, .. }
            | Step::Read { which }
            | Step::Hang { which }
            | Step::CloseLink { which }
            | Step::Die { which, .. } => {
                if let Some(key) = self.nth(which) {
                    self.of_process(key, &step);
                }
            }
        }
    }

    pub(crate) fn of_process(&mut self, key: Key, step: &Step) {
        match *step {
            Step::Say { word, .. } => self.say(key, word),
            Step::Show { sign, .. } => self.shows(key, sign),
            Step::Read { .. } => self.read(key),
            Step::Die { clean, .. } => self.die(key, clean),
            Step::Hang { .. } => {
                self.live.entry(key).and_modify(|process| process.hangs = true);
            }
            _ => {
                self.live.entry(key).and_modify(|process| process.closed = true);
                self.happens(Event::LinkClosed(key));
            }
        }
    }

    /// Who is stopped by hand, and with which version of his file, is known here, too.
    fn want(&mut self, key: Key, wish: Wish) {
        if let (Ok(()), Some(vassal)) = (self.court.permits(key, wish), self.court.get(key)) {
            match wish {
                Wish::Stop => drop(self.by_hand.insert(vassal.name.clone(), vassal.identity.inode)),
                Wish::Start | Wish::Restart => drop(self.by_hand.remove(&vassal.name)),
                Wish::Reload | Wish::Roll | Wish::Clear => {}
            }
        }
        self.happens(Event::Wanted(key, wish));
    }

    pub(crate) fn admitted(&mut self, which: usize, answer: Answer) {
        if !self.admitting.is_empty() {
            let key = self.admitting.remove(which % self.admitting.len());
            self.happens(match answer {
                Answer::OnDemand => Event::Admitted(key, true),
                Answer::Ordinary => Event::Admitted(key, false),
                Answer::NotBound => Event::NotBound(key),
                Answer::Again => Event::AdmitAgain(key, Duration::from_millis(200)),
            });
        }
    }

    /// Reports that can only come too late, or twice, or from hands that have lost count: they change no count.
    pub(crate) fn stray(&mut self, what: u8, which: usize) {
        let forgotten = self.forgotten.iter().next().copied();
        let idle: Vec<_> = self.court.vassals().filter(|(key, _)| !self.live.contains_key(key)).collect();
        let idle = (!idle.is_empty()).then(|| idle[which % idle.len()].0);
        let Some(key) = (if what.is_multiple_of(2) { forgotten } else { idle }) else { return };
        self.happens(match what {
            0 | 1 => Event::Died(key, true),
            2 | 3 => Event::LinkClosed(key),
            4 => Event::Started(key, 9),
            5 => Event::Said(key, Word::Idle),
            6 => Event::Shows(key, Sign::Stopping),
            7 => Event::MustRestart(key),
            _ => Event::Unread(key, true),
        });
    }

    pub(crate) fn shut(&mut self) {
        self.shut = true;
        self.happens(Event::Shutdown);
    }
}
