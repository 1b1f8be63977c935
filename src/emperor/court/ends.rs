//! How a vassal's process comes to its end: told to stop, cursed, or silent for too long.

use super::vassal::{Instance, State, Then};
use super::{Action, Court, Key, Now, Order, Signal, What};
use std::time::Duration;

/// What does not end when it is killed is killed again, but not more often than this.
const LEAST_AGAIN: Duration = Duration::from_secs(1);

impl Court {
    /// Tells a vassal to stop.
    pub(super) fn stop(&mut self, key: Key, then: Then, now: Now) {
        let vassal = &mut self.vassals[key];
        if then == Then::Forget {
            vassal.present = false;
        }
        match vassal.state {
            State::Up if vassal.is_alive() => self.order_to_stop(key, then, now),
            State::Up | State::Stopping(_) => vassal.state = State::Stopping(then),
            State::Cursed => {} // its death decides
            _ if then == Then::Forget => self.forget(key),
            _ => {}
        }
    }

    /// One that has never spoken the protocol is sent SIGTERM besides.
    pub(super) fn order_to_stop(&mut self, key: Key, then: Then, now: Now) {
        self.release(key);
        self.say(key, What::Stop);
        let order = if self.policy.graceful { Order::StopGracefully } else { Order::Stop };
        let vassal = &mut self.vassals[key];
        vassal.state = State::Stopping(then);
        vassal.instance.cursed = now.epoch;
        let mute = !vassal.instance.spoke;
        self.out.push(Action::Stop(key, order));
        if mute {
            self.signal(key, Signal::Term);
        }
        self.set_deadline(key, now.after(self.policy.stop_timeout));
        self.dismiss_zergs(key, now);
    }

    pub(super) fn link_closed(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up || !vassal.is_alive() {
            return; // uWSGI closes its end as soon as it is told to stop
        }
        let pid = vassal.pid;
        self.say(key, What::Curse { pid });
        self.curse(key, self.policy.curse_tolerance, now);
    }

    /// Its death is awaited, and brought about if that takes too long.
    pub(super) fn curse(&mut self, key: Key, tolerance: Duration, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.state = State::Cursed;
        vassal.instance.cursed = now.epoch;
        self.release(key);
        self.set_deadline(key, now.after(tolerance));
    }

    /// Something of this vassal is due.
    pub(super) fn on_due(&mut self, key: Key, now: Now) {
        match self.vassals[key].state {
            State::Paused => self.resume(key, now),
            State::Up => self.due_while_up(key, now),
            State::Cursed => self.kill_late(key, self.policy.curse_tolerance, now),
            State::Stopping(_) => self.kill_late(key, self.policy.stop_timeout, now),
            State::Admitting | State::Waiting | State::Queued | State::Resting(_) => {
                self.vassals[key].deadline = 0;
            }
        }
    }

    fn kill_late(&mut self, key: Key, patience: Duration, now: Now) {
        self.vassals[key].instance.cursed = now.epoch;
        self.say(key, What::NotYetGone { seconds: patience.as_secs() });
        self.signal(key, Signal::Kill);
        self.set_deadline(key, now.after(patience.max(LEAST_AGAIN)));
    }

    fn due_while_up(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let due = |at: u64| at > 0 && at <= now.micros;
        if due(vassal.instance.heartbeat_due) {
            vassal.instance = Instance { heartbeat_due: 0, last_heartbeat: 0, ..vassal.instance };
            self.say(key, What::NoHeartbeat { seconds: self.policy.required_heartbeat.as_secs() });
            self.signal(key, Signal::Kill);
            return self.curse(key, self.policy.curse_tolerance.max(LEAST_AGAIN), now);
        }
        if due(vassal.deadline) {
            vassal.deadline = 0;
            self.release(key); // it says nothing, but it lives
        }
        self.look_after_reload(key, now);
    }

    /// Sends a signal. Never to a vassal without a process: there is no telling whom that would hit.
    pub(super) fn signal(&mut self, key: Key, signal: Signal) {
        if self.vassals[key].is_alive() {
            self.out.push(Action::Signal(key, signal));
        }
    }
}
