//! All vassals together: who may start now, the timers, and the end.

use super::vassal::{Rest, State, Then};
use super::{Action, Court, Key, Now, Reign, Signal, What, micros};
use std::cmp::Reverse;
use std::time::Duration;

/// How long nobody is started after the machine refused to make a process.
const HOLD: Duration = Duration::from_secs(1);

impl Court {
    /// Puts a vassal at the end of those that wait for their turn.
    pub(super) fn enqueue(&mut self, key: Key) {
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        self.queue.push_back(key);
    }

    /// Lets as many start as may be starting at once, in the order in which they came.
    pub(super) fn admit_starters(&mut self, now: Now) {
        if self.hold_until > now.micros || self.reign != Reign::Lasting {
            return;
        }
        self.hold_until = 0;
        while self.starting < self.policy.max_starting
            && let Some(key) = self.queue.pop_front()
        {
            let Some(vassal) = self.vassals.get_mut(key).filter(|vassal| vassal.state == State::Queued)
            else {
                continue; // it was lost while it waited
            };
            vassal.state = State::Up;
            vassal.instance = super::Instance { starting: true, ..Default::default() };
            self.starting += 1;
            self.out.push(Action::Spawn(key));
        }
    }

    /// The machine could not make a process: nobody is to blame, and nobody else is tried for a moment.
    pub(super) fn hold(&mut self, key: Key, now: Now) {
        if !std::mem::replace(&mut self.short, true) {
            self.tell_all(What::ShortOfProcesses);
        }
        self.hold_until = now.micros + micros(HOLD);
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        self.queue.push_front(key);
    }

    /// A vassal no longer counts among those that are starting.
    pub(super) fn release(&mut self, key: Key) {
        if std::mem::take(&mut self.vassals[key].instance.starting) {
            self.starting -= 1;
            if self.vassals[key].state == State::Up {
                self.vassals[key].deadline = 0;
            }
        }
    }

    /// Sets when a vassal's state ends by itself.
    pub(super) fn set_deadline(&mut self, key: Key, at: u64) {
        self.vassals[key].deadline = at;
        self.arm(key);
    }

    /// Sees to it that a tick comes when something of this vassal is due.
    pub(super) fn arm(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        let due = vassal.due();
        if due > 0 && (vassal.timer == 0 || due < vassal.timer) {
            vassal.timer = due;
            self.timers.push(Reverse((due, key)));
        }
    }

    pub(super) fn tick(&mut self, now: Now) {
        while let Some(&Reverse((at, key))) = self.timers.peek()
            && at <= now.micros
        {
            self.timers.pop();
            let Some(vassal) = self.vassals.get_mut(key) else { continue };
            if vassal.timer != at {
                continue; // an earlier entry has taken its place
            }
            vassal.timer = 0;
            let due = vassal.due();
            if due > 0 && due <= now.micros {
                self.on_due(key, now);
            }
            if self.vassals.get(key).is_some() {
                self.arm(key);
            }
        }
        if let Reign::Ending { deadline } = self.reign
            && deadline <= now.micros
        {
            self.kill_all(now);
        }
    }

    /// SIGHUP. Vassals that wait on demand read their file when they start; the others are told.
    pub(super) fn reload_all(&mut self, now: Now) {
        for key in self.vassals.keys(|vassal| vassal.state == State::Up && vassal.pid > 0) {
            self.reload(key, false, now);
        }
    }

    /// SIGURG.
    pub(super) fn clear_blacklist(&mut self, now: Now) {
        self.tell_all(What::BlacklistCleared);
        for key in self.vassals.keys(|vassal| {
            vassal.backoff.is_some()
                || matches!(vassal.state, State::Paused | State::Resting(Rest::Abandoned))
        }) {
            self.vassals[key].backoff = None;
            self.vassals[key].short_lives = 0;
            match self.vassals[key].state {
                State::Paused | State::Resting(Rest::Abandoned) => self.resume(key),
                _ => {}
            }
        }
        self.hold_until = 0;
        self.admit_starters(now);
    }

    /// Once: stop everything within the grace. Twice: kill.
    pub(super) fn shutdown(&mut self, now: Now) {
        match self.reign {
            Reign::Lasting => {
                self.tell_all(What::Ragnarok { vassals: self.running });
                let deadline = now.micros + micros(self.policy.shutdown_grace);
                self.reign = Reign::Ending { deadline };
                self.queue.clear();
                for key in self.vassals.keys(|_| true) {
                    match self.vassals[key].state {
                        State::Up => self.stop(key, Then::Forget, now),
                        State::Stopping(_) => self.vassals[key].state = State::Stopping(Then::Forget),
                        State::Cursed => self.vassals[key].present = false,
                        _ => self.forget_quietly(key),
                    }
                }
            }
            Reign::Ending { deadline } => {
                let seconds = deadline.saturating_sub(now.micros) / 1_000_000;
                self.tell_all(What::RagnarokAgain { seconds });
                self.kill_all(now);
            }
            Reign::Buried => {}
        }
    }

    fn kill_all(&mut self, now: Now) {
        // They are dead in a moment; should one not be, because its file system hangs, it is tried again.
        self.reign = Reign::Ending { deadline: now.micros + micros(HOLD) };
        for key in self.vassals.keys(|vassal| vassal.pid > 0) {
            self.say(key, What::NoMercy);
            self.out.push(Action::Signal(key, Signal::Kill));
        }
    }

    pub(super) fn bury_if_empty(&mut self) {
        if matches!(self.reign, Reign::Ending { .. }) && self.vassals.len() == 0 {
            self.reign = Reign::Buried;
            self.out.push(Action::Bury);
        }
    }

    fn tell_all(&mut self, what: What) {
        self.out.push(Action::Tell(super::Notice { name: None, what }));
    }

    /// Strikes a vassal off, and says so.
    pub(super) fn forget(&mut self, key: Key) {
        self.say(key, What::Removed);
        self.forget_quietly(key);
    }

    pub(super) fn forget_quietly(&mut self, key: Key) {
        self.release(key);
        let Some(vassal) = self.vassals.remove(key) else { return };
        if vassal.zerg.is_some() {
            self.zergs -= 1;
        } else {
            self.names.remove(&vassal.name);
        }
        self.out.push(Action::Forget(key, vassal.name));
    }
}
