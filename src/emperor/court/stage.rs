//! A court on a stage, for the tests beside its acts: a clock, files by name, and short words for what happens.

use std::time::Duration;

use super::{Action, Court, Event, Key, Now, Policy, State, Vassal, What, Word};
use crate::emperor::source::{Identity, Report, SourceId, VassalName};

pub(super) struct Stage {
    pub(super) court: Court,
    pub(super) now: Now,
    /// What was last said, in order.
    pub(super) told: Vec<What>,
    pid: i32,
}

/// Identity of a file's version, that belongs to uid 7 and gid 8.
pub(super) fn version(number: i64) -> Identity {
    let ns = number * 1_000_000_000;
    Identity { mtime_ns: ns, ctime_ns: ns, device: 1, inode: 1, size: 1, uid: 7, gid: 8 }
}

pub(super) fn name(text: &str) -> VassalName {
    VassalName::new(text.as_bytes())
}

impl Stage {
    pub(super) fn new(policy: Policy) -> Self {
        let now = Now { micros: 1_000_000, epoch: 1000 };
        Self { court: Court::new(policy), now, told: Vec::new(), pid: 100 }
    }

    /// What the court does about an event, without what it says.
    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.court.on_event(event, self.now, &mut actions);
        self.told.clear();
        actions.retain(|action| match action {
            Action::Tell(notice) => {
                self.told.push(notice.what.clone());
                false
            }
            _ => true,
        });
        actions
    }

    /// Time passes, and each tick comes when it was asked for. What the court did in it.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now.after(time);
        let mut all = Vec::new();
        while let Some(due) = self.court.next_timeout().filter(|due| *due <= until) {
            self.to(due);
            all.extend(self.on(Event::Tick));
        }
        self.to(until);
        all
    }

    fn to(&mut self, micros: u64) {
        self.now = Now { micros, epoch: 999 + micros / 1_000_000 };
    }

    pub(super) fn report(&mut self, report: Report) -> Vec<Action> {
        self.on(Event::Report(report))
    }

    /// A file is there, or has changed, in the first source.
    pub(super) fn file(&mut self, text: &str, identity: Identity) -> Vec<Action> {
        self.report(Report::Seen(SourceId(0), name(text), identity))
    }

    pub(super) fn gone(&mut self, text: &str) -> Vec<Action> {
        self.report(Report::Gone(SourceId(0), name(text)))
    }

    pub(super) fn key(&self, text: &str) -> Key {
        self.court.find(&name(text)).unwrap()
    }

    pub(super) fn vassal(&self, key: Key) -> &Vassal {
        self.court.get(key).unwrap()
    }

    pub(super) fn state(&self, key: Key) -> State {
        self.vassal(key).state
    }

    pub(super) fn start(&mut self, key: Key) -> Vec<Action> {
        self.pid += 1;
        self.on(Event::Started(key, self.pid))
    }

    pub(super) fn say(&mut self, key: Key, word: Word) -> Vec<Action> {
        self.on(Event::Said(key, word))
    }

    pub(super) fn die(&mut self, key: Key) -> Vec<Action> {
        self.on(Event::Died(key, false))
    }

    /// A new vassal whose process runs and has said nothing.
    pub(super) fn mute(&mut self, text: &str) -> Key {
        self.file(text, version(1));
        let key = self.key(text);
        self.start(key);
        assert_eq!(self.state(key), State::Up);
        key
    }

    /// A new vassal that is up and has said so, a moment ago.
    pub(super) fn up(&mut self, text: &str) -> Key {
        let key = self.mute(text);
        self.say(key, Word::Spawned);
        self.say(key, Word::Accepting);
        self.pass(ms(250));
        key
    }

    /// A new vassal that has answered a request.
    pub(super) fn loyal(&mut self, text: &str) -> Key {
        let key = self.up(text);
        self.say(key, Word::Loyal);
        key
    }
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
