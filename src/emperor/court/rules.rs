//! The life of one vassal: what each event does in each of its states.

use super::vassal::{Instance, Rest, State, Then, Vassal, Zerg};
use super::{
    Action, Backoff, Court, Key, Now, Order, Reign, Signal, VassalName, What, Word, backoff, micros,
};
use std::time::Duration;

/// A vassal that says nothing counts as starting for so long.
const STARTING_HOLD: Duration = Duration::from_millis(500);
/// Two reload messages are so far apart at least, unless the vassal has come back in between.
const RELOAD_GAP: Duration = Duration::from_secs(1);
/// A program that has not said anything for so long is one that does not speak the protocol.
const MUTE_AGE: Duration = Duration::from_secs(10);
/// How long a program that does not speak the protocol may leave a reload message unread.
const MUTE_RELOAD: Duration = Duration::from_secs(1);
/// A loyal vassal that lived so long starts again at once, however often it dies.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// So many short lives in a row are forgiven to a loyal vassal.
const SHORT_LIVES: u32 = 3;
/// The pause of a vassal that fails over and over where no other is to be made.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

impl Court {
    pub(super) fn admitted(&mut self, key: Key, on_demand: bool) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Admitting {
            return;
        }
        vassal.on_demand = on_demand;
        if on_demand { self.wait(key) } else { self.enqueue(key) }
    }

    fn wait(&mut self, key: Key) {
        self.vassals[key].state = State::Waiting;
        self.vassals[key].deadline = 0;
        self.out.push(Action::Listen(key));
    }

    pub(super) fn connection(&mut self, key: Key) {
        if self.vassals[key].state == State::Waiting {
            self.enqueue(key);
        }
    }

    pub(super) fn started(&mut self, key: Key, pid: i32, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.pid = pid;
        vassal.respawns = 0;
        vassal.last_run = now.epoch;
        vassal.instance.started = now.micros;
        self.running += 1;
        self.short = false;
        match vassal.state {
            State::Up => self.set_deadline(key, now.micros + micros(STARTING_HOLD)),
            // Whatever was decided while it was being made holds for it too.
            State::Stopping(then) => self.order_to_stop(key, then, now),
            _ => {
                vassal.state = State::Cursed;
                self.out.push(Action::Signal(key, Signal::Kill));
            }
        }
    }

    pub(super) fn not_started(&mut self, key: Key, machine: bool, now: Now) {
        self.release(key);
        if machine && self.reign == Reign::Lasting && self.vassals[key].present {
            self.hold(key, now);
        } else {
            self.failed_to_start(key, now);
        }
    }

    pub(super) fn failed_to_start(&mut self, key: Key, now: Now) {
        self.release(key);
        let vassal = &self.vassals[key];
        if !vassal.present || vassal.zerg.is_some() || self.reign != Reign::Lasting {
            return self.forget(key);
        }
        self.penalise(key, now);
    }

    pub(super) fn said(&mut self, key: Key, word: Word, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up {
            return; // it is on its way out, and nothing it says changes that
        }
        vassal.instance.spoke = true;
        match word {
            Word::Spawned => {
                vassal.instance.ready = true;
                vassal.instance.last_ready = now.epoch;
                self.say(key, What::Spawned);
                self.came_up(key, now);
            }
            Word::Accepting => {
                vassal.instance.accepting = true;
                vassal.instance.last_accepting = now.epoch;
                self.say(key, What::Accepting);
                self.came_up(key, now);
            }
            Word::Loyal => {
                vassal.instance.loyal = true;
                vassal.instance.last_loyal = now.epoch;
                vassal.backoff = None;
                self.say(key, What::Loyal);
                self.came_up(key, now);
            }
            Word::Heartbeat => {
                vassal.instance.last_heartbeat = now.epoch;
                vassal.instance.heartbeat_due = now.micros + micros(self.policy.required_heartbeat);
                self.arm(key);
            }
            Word::Idle if vassal.on_demand => {
                self.say(key, What::BackToOnDemand);
                self.stop(key, Then::Wait, now);
            }
            Word::Idle if vassal.zerg.is_some() => self.stop(key, Then::Forget, now),
            Word::Idle => {
                self.say(key, What::Rests);
                self.stop(key, Then::Rest, now);
            }
            Word::ConfigWanted => self.out.push(Action::PushConfig(key)),
            Word::Sos => self.reinforce(key, now),
        }
    }

    /// It has started, or come back from a reload.
    fn came_up(&mut self, key: Key, now: Now) {
        self.release(key);
        let instance = &mut self.vassals[key].instance;
        if std::mem::take(&mut instance.reloading) {
            instance.reload_due = 0;
            if instance.reload_again {
                self.reload(key, true, now);
            }
        }
    }

    pub(super) fn link_closed(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up {
            return; // uWSGI closes its end as soon as it is told to stop
        }
        vassal.state = State::Cursed;
        vassal.instance.cursed = now.epoch;
        let pid = vassal.pid;
        self.say(key, What::Curse { pid });
        self.release(key);
        self.set_deadline(key, now.micros + micros(self.policy.curse_tolerance));
    }

    pub(super) fn died(&mut self, key: Key, clean: bool, now: Now) {
        self.release(key);
        let vassal = &mut self.vassals[key];
        vassal.pid = -1;
        vassal.deadline = 0;
        self.running -= 1;
        self.out.push(Action::Ended(vassal.name.clone()));
        if !vassal.present || self.reign != Reign::Lasting {
            return self.forget(key);
        }
        match vassal.state {
            State::Stopping(Then::Forget) => self.forget(key),
            State::Stopping(Then::Restart) => self.appear(key),
            State::Stopping(Then::Wait) => self.wait(key),
            State::Stopping(Then::Rest) => vassal.state = State::Resting(Rest::Idle),
            _ if vassal.zerg.is_some() => self.forget(key),
            // Nobody is connected, and it ended in peace: the next connection starts it again.
            _ if vassal.on_demand && vassal.instance.loyal && clean => self.wait(key),
            _ if vassal.instance.loyal => self.lost_loyal(key, now),
            _ => self.penalise(key, now),
        }
    }

    /// A loyal vassal died: it starts again at once, unless it makes a habit of it.
    fn lost_loyal(&mut self, key: Key, now: Now) {
        let throttle = self.policy.throttle;
        let vassal = &mut self.vassals[key];
        let long = now.micros - vassal.instance.started >= micros(LONG_LIFE);
        vassal.short_lives = if long { 0 } else { vassal.short_lives + 1 };
        if vassal.short_lives <= SHORT_LIVES {
            self.say(key, What::Restarting { after: Duration::ZERO, loyal: true });
            return self.resume(key);
        }
        let pause = (throttle * (vassal.short_lives - SHORT_LIVES)).min(self.policy.max_throttle);
        self.pause(key, pause.max(LEAST_PAUSE), true, now);
    }

    /// A vassal failed that never was of use: its own pause grows.
    fn penalise(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.short_lives = vassal.short_lives.saturating_add(1);
        let failures = vassal.short_lives;
        if self.policy.abandon_after > 0 && failures >= self.policy.abandon_after {
            vassal.state = State::Resting(Rest::Abandoned);
            return self.say(key, What::Abandoned { failures });
        }
        let mut pause = Duration::ZERO;
        if !self.policy.no_blacklist {
            let step = match &mut vassal.backoff {
                Some(entry) => entry.aggravate(&self.policy, now),
                none => {
                    *none = Some(Backoff::first(&self.policy, now));
                    backoff::Step::Quiet
                }
            };
            pause = vassal.backoff.map_or(pause, |entry| entry.pause());
            match step {
                backoff::Step::Quiet => {}
                backoff::Step::Throttled => self.say(key, What::Throttled),
                backoff::Step::Ceiling => self.say(key, What::MaxThrottle),
            }
        }
        let least = if failures > 1 { LEAST_PAUSE } else { Duration::ZERO };
        self.pause(key, pause.max(least), false, now);
    }

    fn pause(&mut self, key: Key, pause: Duration, loyal: bool, now: Now) {
        self.say(key, What::Restarting { after: pause, loyal });
        self.vassals[key].state = State::Paused;
        self.set_deadline(key, now.micros + micros(pause).max(1));
    }

    /// The pause is over, or forgiven.
    pub(super) fn resume(&mut self, key: Key) {
        if self.vassals[key].on_demand { self.wait(key) } else { self.appear(key) }
    }

    /// Tells a running vassal to reload; if it is still busy with the last time, when it has come back.
    pub(super) fn reload(&mut self, key: Key, changed: bool, now: Now) {
        let timeout = self.policy.reload_timeout;
        let vassal = &mut self.vassals[key];
        let instance = &mut vassal.instance;
        if instance.told > 0 && now.micros < instance.told + micros(RELOAD_GAP) {
            instance.reload_again = true;
            instance.reload_due = instance.told + micros(RELOAD_GAP);
            return self.arm(key);
        }
        instance.reload_again = false;
        instance.reloading = true;
        instance.ready = false;
        instance.accepting = false;
        instance.told = now.micros;
        instance.reload_due = if instance.spoke {
            now.micros + micros(timeout)
        } else {
            now.micros.max(instance.started + micros(MUTE_AGE)) + micros(MUTE_RELOAD)
        };
        vassal.respawns += 1;
        vassal.last_run = now.epoch;
        self.out.push(Action::Reload { key, changed });
        if self.vassals[key].instance.loyal || !changed {
            // nothing to forgive
        } else {
            self.vassals[key].backoff = None; // a mended file is a new chance
        }
        self.arm(key);
        for zerg in self.zergs_of(key) {
            self.reload(zerg, changed, now);
        }
    }

    pub(super) fn reload_refused(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        vassal.instance.reloading = false;
        vassal.instance.reload_due = 0;
        vassal.respawns = vassal.respawns.saturating_sub(1);
        vassal.instance.ready = vassal.instance.last_ready > 0;
        vassal.instance.accepting = vassal.instance.last_accepting > 0;
    }

    pub(super) fn unread(&mut self, key: Key, unread: bool, now: Now) {
        if unread && self.vassals[key].state == State::Up {
            self.say(key, What::ReloadUnread);
            self.stop(key, Then::Restart, now);
        }
    }

    /// Tells a vassal to stop. One that has never spoken the protocol is sent SIGTERM besides.
    pub(super) fn stop(&mut self, key: Key, then: Then, now: Now) {
        match self.vassals[key].state {
            State::Up if self.vassals[key].pid > 0 => {
                self.say(key, What::Stop);
                self.order_to_stop(key, then, now);
            }
            State::Up | State::Stopping(_) => self.vassals[key].state = State::Stopping(then),
            State::Cursed => self.vassals[key].present &= then != Then::Forget,
            _ => self.forget(key),
        }
    }

    fn order_to_stop(&mut self, key: Key, then: Then, now: Now) {
        self.release(key);
        let order = if self.policy.graceful { Order::StopGracefully } else { Order::Stop };
        let vassal = &mut self.vassals[key];
        vassal.state = State::Stopping(then);
        vassal.instance.cursed = now.epoch;
        let mute = !vassal.instance.spoke;
        self.out.push(Action::Stop(key, order));
        if mute {
            self.out.push(Action::Signal(key, Signal::Term));
        }
        self.set_deadline(key, now.micros + micros(self.policy.stop_timeout));
    }

    /// Something of this vassal is due.
    pub(super) fn on_due(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        match vassal.state {
            State::Paused => self.resume(key),
            State::Up => self.due_while_up(key, now),
            State::Cursed | State::Stopping(_) => {
                let again = if vassal.state == State::Cursed {
                    self.policy.curse_tolerance
                } else {
                    self.policy.stop_timeout
                };
                vassal.instance.cursed = now.epoch;
                self.say(key, What::NotYetGone { seconds: again.as_secs() });
                self.out.push(Action::Signal(key, Signal::Kill));
                self.set_deadline(key, now.micros + micros(again.max(RELOAD_GAP)));
            }
            State::Admitting | State::Waiting | State::Queued | State::Resting(_) => vassal.deadline = 0,
        }
    }

    fn due_while_up(&mut self, key: Key, now: Now) {
        let due = |at: u64| at > 0 && at <= now.micros;
        let vassal = &mut self.vassals[key];
        if due(vassal.instance.heartbeat_due) {
            let seconds = self.policy.required_heartbeat.as_secs();
            vassal.instance =
                Instance { heartbeat_due: 0, last_heartbeat: 0, cursed: now.epoch, ..vassal.instance };
            vassal.state = State::Cursed;
            self.release(key);
            self.say(key, What::NoHeartbeat { seconds });
            self.out.push(Action::Signal(key, Signal::Kill));
            return self.set_deadline(key, now.micros + micros(self.policy.curse_tolerance.max(RELOAD_GAP)));
        }
        if due(vassal.deadline) {
            vassal.deadline = 0;
            self.release(key); // it says nothing, but it lives
        }
        let instance = &mut self.vassals[key].instance;
        if due(instance.reload_due) {
            instance.reload_due = 0;
            if instance.reload_again {
                self.reload(key, true, now);
            } else {
                instance.reloading = false;
                self.out.push(Action::AskUnread(key));
            }
        }
    }

    /// A vassal is overloaded: a reinforcement starts, if there may be one more.
    fn reinforce(&mut self, key: Key, now: Now) {
        let base = &self.vassals[key];
        if self.zergs >= self.policy.broodlord || base.zerg.is_some() {
            return;
        }
        self.zergs += 1;
        self.zergs_ever += 1;
        let name = VassalName::new(&[base.name.as_bytes(), b":zerg"].concat());
        let mut zerg = Vassal::new(name, base.source, base.identity, base.scan, now);
        zerg.zerg = Some(Zerg { base: key, number: self.zergs_ever });
        zerg.born = now.epoch;
        self.say(key, What::Reinforced);
        let zerg = self.vassals.insert(zerg);
        self.enqueue(zerg);
    }

    fn zergs_of(&self, key: Key) -> Vec<Key> {
        if self.zergs == 0 {
            return Vec::new();
        }
        self.vassals.keys(|vassal| {
            vassal.zerg.is_some_and(|zerg| zerg.base == key) && vassal.state == State::Up && vassal.pid > 0
        })
    }
}
