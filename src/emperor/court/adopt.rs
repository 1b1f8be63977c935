//! What is known of a vassal, as data that another court can go on with: that of the emperor's next program, or of
//! the next emperor.
//!
//! Moments in microseconds stay what they are: both courts live by the clock of one boot.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rules::LEAST_HEARTBEAT;
use super::vassal::{Instance, Rest, Role, State, Then, Vassal, Zerg};
use super::{Action, Backoff, Course, Court, Event, Identity, Key, Now, SourceId, VassalName};

/// A vassal as data. What a later version adds must have a default.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// Its name.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    pub name: VassalName,
    /// The source that it belongs to.
    pub source: u16,
    /// Its file, as it was last seen.
    pub identity: Identity,
    /// What it is doing.
    pub state: State,
    /// Its process id; -1 without one.
    pub pid: i32,
    /// What is known of its process.
    #[serde(default)]
    pub instance: Instance,
    /// What is agreed with it, if that is not the protocol.
    #[serde(default)]
    pub course: Option<Box<Course>>,
    /// Its entry on the blacklist.
    #[serde(default)]
    pub backoff: Option<Box<Backoff>>,
    /// Which vassal it belongs to, if it does.
    #[serde(default)]
    pub zerg: Option<ZergRecord>,
    /// Whether it has an on-demand socket.
    #[serde(default)]
    pub on_demand: bool,
    /// Whether that is its own file's wish.
    #[serde(default)]
    pub own_demand: bool,
    born: u64,
    first_run: u64,
    last_run: u64,
    #[serde(default)]
    down_since: u64,
    #[serde(default)]
    starts: u32,
    #[serde(default)]
    respawns: u32,
    present: bool,
    #[serde(default)]
    elsewhere: bool,
    #[serde(default)]
    short_lives: u16,
    #[serde(default)]
    failures: u32,
    #[serde(default)]
    deadline: u64,
}

/// What makes a vassal one that belongs to another, as data.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ZergRecord {
    /// The vassal that it belongs to.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    pub base: VassalName,
    /// Its number among all reinforcements that were ever started.
    pub number: u32,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
}

/// What has become of the world since a record was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Adoption {
    /// The source that the record's is now; none if there is no such source any more.
    pub source: Option<SourceId>,
    /// Whether its on-demand socket was handed over.
    pub socket: bool,
    /// Whether it was started as somebody that it must not be any more, and is to start again.
    pub restart: bool,
}

/// What of a vassal must be known to govern it after a crash. Times are not: they say when, not what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gist {
    /// Its process id; -1 without one.
    pub pid: i32,
    state: State,
    identity: Identity,
    said: [bool; 7],
    backoff: Option<Box<Backoff>>,
    respawns: u32,
    zerg: Option<Zerg>,
    /// Somebody is to take its place.
    followed: bool,
}

impl Event {
    /// The vassal that it is about.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Admitted(key, _)
            | Self::AdmitAgain(key, _)
            | Self::NotBound(key)
            | Self::Agreed(key, _)
            | Self::Sleeps(key)
            | Self::Measured(key, _)
            | Self::NotFrozen(key)
            | Self::Started(key, _)
            | Self::NotStarted(key, _)
            | Self::Said(key, _)
            | Self::Shows(key, _)
            | Self::LinkClosed(key)
            | Self::Died(key, _)
            | Self::Connection(key)
            | Self::Unobstructed(key)
            | Self::ReloadRefused(key)
            | Self::MustRestart(key)
            | Self::Queue { key, .. }
            | Self::Wanted(key, _)
            | Self::Unread(key, _) => Some(*key),
            Self::Report(_) | Self::ReloadAll | Self::ClearBlacklist | Self::Shutdown | Self::Tick => None,
        }
    }
}

impl Action {
    /// The vassal that it is about.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Admit(key)
            | Self::Spawn(key)
            | Self::Measure(key)
            | Self::Freeze(key)
            | Self::Thaw(key)
            | Self::Reload { key, .. }
            | Self::Stop(key, _)
            | Self::Signal(key, _)
            | Self::AskUnread(key)
            | Self::PushConfig(key)
            | Self::Listen(key)
            | Self::Succeed { new: key, .. }
            | Self::Forget(key, _) => Some(*key),
            Self::Ended(_) | Self::Rescan | Self::Tell(_) | Self::Bury => None,
        }
    }
}

impl Court {
    /// The gist of a vassal.
    #[must_use]
    pub fn gist(&self, key: Key) -> Option<Gist> {
        let vassal = self.get(key)?;
        let Instance { ready, accepting, loyal, spoke, reloading, refused, heartbeat_due, .. } =
            *vassal.instance;
        Some(Gist {
            pid: vassal.pid,
            state: vassal.state,
            identity: vassal.identity,
            said: [ready, accepting, loyal, spoke, reloading, refused, heartbeat_due > 0],
            backoff: vassal.backoff.clone(),
            respawns: vassal.respawns,
            zerg: vassal.zerg,
            followed: self.is_followed(key),
        })
    }

    /// What is known of a vassal, as data.
    #[must_use]
    pub fn record(&self, key: Key) -> Option<Record> {
        let vassal = self.get(key)?;
        let zerg = vassal.zerg.map(|zerg| {
            let base = VassalName::new(zerg.role.base_of(vassal.name.as_bytes()));
            ZergRecord { base, number: zerg.number, role: zerg.role }
        });
        Some(Record {
            name: vassal.name.clone(),
            source: vassal.source.0,
            identity: vassal.identity,
            state: vassal.state,
            pid: vassal.pid,
            instance: Instance {
                reload_again: vassal.instance.reload_again || self.is_followed(key),
                ..*vassal.instance
            },
            course: vassal.course.clone(),
            backoff: vassal.backoff.clone(),
            zerg,
            on_demand: vassal.on_demand,
            own_demand: vassal.own_demand,
            born: vassal.born,
            first_run: vassal.first_run,
            last_run: vassal.last_run,
            down_since: vassal.down_since,
            starts: vassal.starts,
            respawns: vassal.respawns,
            present: vassal.present,
            elsewhere: vassal.elsewhere,
            short_lives: vassal.short_lives,
            failures: vassal.failures,
            deadline: vassal.deadline,
        })
    }

    /// How many reinforcements were ever started.
    #[must_use]
    pub fn zergs_ever(&self) -> u32 {
        self.zergs_ever
    }

    /// Goes on counting from there.
    pub fn count_zergs_from(&mut self, number: u32) {
        self.zergs_ever = self.zergs_ever.max(number);
    }

    /// Enters a vassal of a former court: before any report, and reinforcements after their bases. Its descriptors
    /// must be held under the key before the actions are performed.
    ///
    /// `None` if there is nothing to go on with: it was to be forgotten and has no process, or there is one of its
    /// name already.
    pub fn adopt(
        &mut self,
        record: Record,
        adoption: Adoption,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Option<Key> {
        let alive = record.pid > 0;
        let is_over = !alive && (record.zerg.is_some() || record.state == State::Stopping(Then::Forget));
        let is_twice = record.zerg.is_none() && self.names.contains_key(&record.name);
        if is_over || is_twice {
            return None;
        }
        let base = record.zerg.as_ref().map(|zerg| {
            // Of a base that is gone, none has the key.
            let base = self.find(&zerg.base).unwrap_or(Key::from_bits(u64::MAX));
            Zerg { base, number: zerg.number, role: zerg.role }
        });
        let mut course = record.course;
        let watchdog = course.as_ref().and_then(|course| course.manner.watchdog);
        let required = watchdog.unwrap_or(self.policy.required_heartbeat.max(LEAST_HEARTBEAT));
        let mut instance = Instance { asked: false, heard: false, ..record.instance };
        instance.starting &= alive && record.state == State::Up;
        if instance.heartbeat_due > 0 {
            instance.heartbeat_due = now.after(required); // nobody has listened meanwhile
        }
        if let Some(course) = &mut course
            && course.start_due > 0
        {
            course.start_due = course.manner.start_timeout.map_or(0, |timeout| now.after(timeout));
        }
        let vassal = Vassal {
            name: record.name,
            source: adoption.source.unwrap_or(NO_SOURCE),
            identity: record.identity,
            state: record.state,
            pid: if alive { record.pid } else { -1 },
            instance: instance.into(),
            course,
            backoff: record.backoff,
            zerg: base,
            // One without a process is asked for anew: its file says whether it still waits.
            on_demand: record.on_demand && if record.own_demand { alive } else { adoption.socket },
            own_demand: record.own_demand && alive,
            born: record.born,
            first_run: record.first_run,
            last_run: record.last_run,
            down_since: record.down_since,
            starts: record.starts,
            respawns: record.respawns,
            scan: 0,
            present: record.present && adoption.source.is_some(),
            elsewhere: record.elsewhere,
            short_lives: record.short_lives,
            failures: record.failures,
            reinforced: 0,
            timer: 0,
            deadline: record.deadline,
        };
        let key = self.enter_adopted(vassal);
        self.has_come_over(key);
        self.go_on(key, adoption, now);
        actions.append(&mut self.out);
        Some(key)
    }

    fn enter_adopted(&mut self, vassal: Vassal) -> Key {
        let (name, zerg) = (vassal.name.clone(), vassal.zerg);
        self.running += u32::from(vassal.is_alive());
        self.starting += u32::from(vassal.instance.starting);
        let key = self.vassals.insert(vassal);
        match zerg {
            Some(Zerg { role: Role::Predecessor, .. }) => {}
            Some(Zerg { base, role: Role::Successor, .. }) => {
                self.heirs.entry(base).or_insert(key);
            }
            Some(zerg) => {
                self.zergs.push(key);
                self.count_zergs_from(zerg.number);
            }
            None => drop(self.names.insert(name, key)),
        }
        key
    }

    fn go_on(&mut self, key: Key, adoption: Adoption, now: Now) {
        let vassal = &self.vassals[key];
        match vassal.state {
            _ if vassal.is_successor() && (adoption.restart || !self.is_awaited(key)) => {
                self.stop(key, Then::Forget, now);
            }
            State::Up if vassal.is_alive() && adoption.restart => self.stop(key, Then::Restart, now),
            State::Up if vassal.is_frozen() => self.wake(key, now), // it is watched by nobody yet
            State::Up | State::Cursed | State::Stopping(_) if vassal.is_alive() => self.arm(key),
            State::Paused => self.arm(key),
            State::Resting(Rest::Idle | Rest::Abandoned | Rest::ByHand) => {}
            State::Stopping(Then::RestByHand) => self.rest_by_hand(key, now),
            // It waited for something that is to be asked for again, or was decided by rules that may have changed.
            _ => self.appear(key, now),
        }
    }

    /// All sources have looked. What was adopted and belongs to none of them any more is stopped.
    pub fn dismiss_unclaimed(&mut self, now: Now, actions: &mut Vec<Action>) {
        for key in self.vassals.keys(|vassal| vassal.source == NO_SOURCE && vassal.zerg.is_none()) {
            self.lose(key, now);
        }
        for key in self.vassals.keys(|vassal| vassal.source == NO_SOURCE) {
            self.stop(key, Then::Forget, now); // a reinforcement whose base has gone before
        }
        self.drop_dead_timers();
        actions.append(&mut self.out);
    }
}

/// The source of what belongs to none.
const NO_SOURCE: SourceId = SourceId(u16::MAX);

/// A name is a text, but for the few that are none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

fn write_name<S: Serializer>(name: &VassalName, serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => name.as_bytes().serialize(serializer),
    }
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VassalName, D::Error> {
    Ok(match Name::deserialize(deserializer)? {
        Name::Text(text) => VassalName::new(text.as_bytes()),
        Name::Bytes(bytes) => VassalName::new(&bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Order, Policy, Signal, Word};

    const HERE: Adoption = Adoption { source: Some(SourceId(0)), socket: false, restart: false };

    /// Another court goes on with what this one knows, as text.
    fn succeed(stage: &Stage, policy: Policy, adoption: Adoption) -> (Stage, Vec<Action>) {
        let mut records: Vec<Record> =
            stage.court.vassals().filter_map(|(key, _)| stage.court.record(key)).collect();
        records.sort_by_key(|record| record.zerg.is_some());
        let text = serde_json::to_string(&records).unwrap();
        let mut next = Stage::new(policy);
        next.now = stage.now;
        let mut actions = Vec::new();
        for record in serde_json::from_str::<Vec<Record>>(&text).unwrap() {
            next.court.adopt(record, adoption, next.now, &mut actions);
        }
        actions.retain(|action| !matches!(action, Action::Tell(_)));
        (next, actions)
    }

    #[test]
    fn every_vassal_is_what_it_was() {
        let policy = || Policy { abandon_after: 3, broodlord: 1, ..Policy::default() };
        let mut stage = Stage::new(policy());
        let odd = VassalName::new(b"\xff.ini");
        stage.report(crate::emperor::source::Report::Seen(SourceId(0), odd.clone(), version(1)));
        stage.start(stage.court.find(&odd).unwrap());
        let idle = stage.loyal("idle");
        stage.say(idle, Word::Idle);
        stage.die(idle);
        let (beats, cursed) = (stage.loyal("beats"), stage.up("cursed"));
        stage.up("gone");
        stage.loyal("told");
        let fails = stage.mute("fails");
        stage.die(fails);
        stage.say(beats, Word::Heartbeat);
        stage.say(beats, Word::Sos);
        let zerg = stage.court.zergs_of(beats)[0];
        stage.start(zerg);
        stage.on(Event::LinkClosed(cursed));
        stage.gone("gone");
        stage.file("told", version(2));
        let (next, actions) = succeed(&stage, policy(), HERE);
        let told_to_start = stage.court.vassals().filter(|(_, vassal)| vassal.state == State::Queued).count();
        assert_eq!((actions.len(), told_to_start), (0, 0), "nobody is told anything: {actions:?}");
        assert_eq!((next.court.running(), next.court.zergs_ever()), (stage.court.running(), 1));
        assert_eq!(next.court.starting, stage.court.starting);
        for (key, before) in stage.court.vassals() {
            let find = |(_, vassal): &(Key, &Vassal)| vassal.name == before.name;
            let (other, after) = next.court.vassals().find(find).unwrap();
            let record = |court: &Court, key| {
                let record = court.record(key).unwrap();
                let instance = Instance { heartbeat_due: 0, ..record.instance };
                Record { instance, ..record }
            };
            assert_eq!(record(&next.court, other), record(&stage.court, key));
            assert_eq!(after.zerg.is_some(), before.zerg.is_some());
            assert_eq!(after.due(), before.due(), "{}", after.name);
            assert!(after.due() == 0 || after.timer > 0);
        }
        assert_eq!(next.vassal(next.key("beats")).zerg, None);
        assert!(next.court.find(&odd).is_some());
        let base = next.key("beats");
        assert_eq!(next.court.zergs_of(base).len(), 1);
    }

    #[test]
    fn the_first_scan_finds_out_what_has_changed() {
        let mut stage = Stage::new(Policy::default());
        for text in ["same", "changed", "gone"] {
            stage.loyal(text);
        }
        let (mut next, _) = succeed(&stage, Policy::default(), HERE);
        let scan = |report: fn(SourceId) -> crate::emperor::source::Report| report(SourceId(0));
        assert_eq!(next.report(scan(crate::emperor::source::Report::ScanBegan)), []);
        assert_eq!(next.file("same", version(1)), []);
        let changed = next.key("changed");
        assert_eq!(next.file("changed", version(2)), [Action::Reload { key: changed, changed: true }]);
        let gone = next.key("gone");
        assert_eq!(
            next.report(scan(crate::emperor::source::Report::ScanEnded)),
            [Action::Stop(gone, Order::Stop)]
        );
    }

    #[test]
    fn one_that_has_not_beaten_meanwhile_has_its_full_time_again() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.say(a, Word::Heartbeat);
        stage.now = Now { micros: stage.now.after(s(100)), ..stage.now };
        let (mut next, _) = succeed(&stage, Policy::default(), HERE);
        assert_eq!(next.pass(s(30) - ms(1)), []);
        assert_eq!(next.pass(ms(1)), [Action::Signal(next.key("a"), Signal::Kill)]);
    }

    #[test]
    fn what_waited_is_asked_for_again() {
        let on_demand = Policy { on_demand: true, max_starting: 1, ..Policy::default() };
        let mut stage = Stage::new(on_demand.clone());
        stage.file("asked", version(1));
        stage.file("waits", version(1));
        stage.on(Event::Admitted(stage.key("waits"), true));
        for socket in [true, false] {
            let (mut next, actions) = succeed(&stage, on_demand.clone(), Adoption { socket, ..HERE });
            let [asked, waits] = ["asked", "waits"].map(|text| next.key(text));
            assert_eq!(actions, [Action::Admit(asked), Action::Admit(waits)]);
            assert_eq!(next.on(Event::Admitted(waits, true)), [Action::Listen(waits)]);
        }
        let (next, actions) = succeed(&stage, Policy::default(), HERE);
        assert_eq!(actions, []);
        assert!(next.court.is_starting(), "they start with the next event");
    }

    #[test]
    fn what_must_not_be_who_it_is_starts_again() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.file("b", version(1));
        let b = stage.key("b");
        let tyrant = Policy { tyrant: true, ..Policy::default() };
        let (mut next, actions) = succeed(&stage, tyrant, Adoption { restart: true, ..HERE });
        assert_eq!(actions, [Action::Stop(a, Order::Stop)]);
        next.pass(s(1));
        assert_eq!(next.die(a).last(), Some(&Action::Spawn(a)));
        assert_eq!(next.state(b), State::Up);
    }

    #[test]
    fn what_no_source_has_any_more_is_stopped_and_what_another_has_stays() {
        let mut stage = Stage::new(Policy { broodlord: 1, ..Policy::default() });
        let a = stage.loyal("a");
        stage.loyal("b");
        stage.say(a, Word::Sos);
        let zerg = stage.court.zergs_of(a)[0];
        stage.start(zerg);
        stage.say(zerg, Word::Loyal);
        stage.pass(ms(250));
        let (mut next, _) = succeed(&stage, Policy::default(), Adoption { source: None, ..HERE });
        let [a, b] = ["a", "b"].map(|text| next.key(text));
        assert_eq!(next.file("b", version(1)), [Action::Reload { key: b, changed: true }]);
        let mut actions = Vec::new();
        next.court.dismiss_unclaimed(next.now, &mut actions);
        actions.retain(|action| !matches!(action, Action::Tell(_)));
        let zerg = next.court.zergs_of(a)[0];
        assert_eq!(actions, [Action::Stop(zerg, Order::Stop), Action::Stop(a, Order::Stop)]);
        assert_eq!(next.die(a).last(), Some(&Action::Forget(a, name("a"))));
        next.die(zerg);
        assert_eq!(next.court.len(), 1);
    }

    #[test]
    fn what_is_over_or_twice_is_not_entered() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        let record = stage.court.record(a).unwrap();
        let mut next = Stage::new(Policy::default());
        let over = Record { pid: -1, state: State::Stopping(Then::Forget), ..record.clone() };
        let mut actions = Vec::new();
        assert_eq!(next.court.adopt(over, HERE, next.now, &mut actions), None);
        assert!(next.court.adopt(record.clone(), HERE, next.now, &mut actions).is_some());
        assert_eq!(next.court.adopt(record, HERE, next.now, &mut actions), None);
        assert_eq!(next.court.running(), 1);
    }
}
