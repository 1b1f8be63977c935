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
            _ if then == Then::Forget => self.forget(key, now),
            _ => {}
        }
    }

    pub(super) fn order_to_stop(&mut self, key: Key, then: Then, now: Now) {
        self.release(key);
        self.thaw(key);
        self.say(key, What::Stop);
        let vassal = &mut self.vassals[key];
        vassal.state = State::Stopping(then);
        vassal.instance.cursed = now.epoch;
        match vassal.stop_from(now) {
            from if from > now.micros => {
                vassal.instance.untold = true;
                self.set_deadline(key, from);
            }
            _ => self.tell_to_stop(key, now),
        }
        self.dismiss_zergs(key, now);
    }

    /// One that has never spoken the protocol is sent SIGTERM besides.
    fn tell_to_stop(&mut self, key: Key, now: Now) {
        let gently = self.policy.graceful || self.retiring.contains(&key);
        let order = if gently { Order::StopGracefully } else { Order::Stop };
        let instance = &mut self.vassals[key].instance;
        instance.untold = false;
        let mute = !instance.spoke;
        match self.manner(key).and_then(|manner| manner.stop) {
            Some(number) => self.signal(key, Signal::Agreed(number)),
            None => {
                self.out.push(Action::Stop(key, order));
                if mute {
                    self.signal(key, Signal::Term);
                }
            }
        }
        self.set_deadline(key, now.after(self.stop_timeout(key)));
    }

    pub(super) fn link_closed(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up || !vassal.is_alive() {
            return; // uWSGI closes its end as soon as it is told to stop
        }
        if vassal.course.as_ref().is_some_and(|course| !course.manner.linked) {
            return; // it does not know what that is
        }
        let pid = vassal.pid;
        self.say(key, What::Curse { pid });
        self.curse(key, self.policy.curse_tolerance, now);
    }

    /// Its death is awaited, and brought about if that takes too long.
    pub(super) fn curse(&mut self, key: Key, tolerance: Duration, now: Now) {
        self.thaw(key);
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
            State::Stopping(_) if self.vassals[key].instance.untold => self.tell_to_stop(key, now),
            State::Stopping(_) => self.kill_late(key, self.stop_timeout(key), now),
            State::Admitting => {
                self.vassals[key].deadline = 0;
                self.out.push(Action::Admit(key));
            }
            State::Waiting | State::Queued | State::Resting(_) => self.vassals[key].deadline = 0,
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
        if due(vassal.instance.heartbeat_due) && !vassal.is_frozen() {
            let required = self.manner(key).and_then(|manner| manner.watchdog);
            let required = required.unwrap_or(self.policy.required_heartbeat);
            self.say(key, What::NoHeartbeat { seconds: required.as_secs() });
            return self.no_sign_of_life(key, now);
        }
        if self.course_is_due(key, now) {
            return;
        }
        let vassal = &mut self.vassals[key];
        if due(vassal.deadline) {
            vassal.deadline = 0;
            self.release(key); // it says nothing, but it lives
        }
        self.look_after_reload(key, now);
    }

    /// It hangs, or does not say that it lives.
    pub(super) fn no_sign_of_life(&mut self, key: Key, now: Now) {
        let instance = &mut *self.vassals[key].instance;
        *instance = Instance { heartbeat_due: 0, last_heartbeat: 0, ..*instance };
        self.signal(key, Signal::Kill);
        self.curse(key, self.policy.curse_tolerance.max(LEAST_AGAIN), now);
    }

    /// Sends a signal. Never to a vassal without a process: there is no telling whom that would hit.
    pub(super) fn signal(&mut self, key: Key, signal: Signal) {
        if self.vassals[key].is_alive() {
            self.out.push(Action::Signal(key, signal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Policy, Word};

    #[test]
    fn a_program_that_never_spoke_is_sent_sigterm_besides_the_byte() {
        for (graceful, order) in [(false, Order::Stop), (true, Order::StopGracefully)] {
            let mut stage = Stage::new(Policy { graceful, ..Policy::default() });
            let (mute, up) = (stage.mute("mute"), stage.up("up"));
            assert_eq!(stage.gone("mute"), [Action::Stop(mute, order), Action::Signal(mute, Signal::Term)]);
            assert_eq!(stage.gone("up"), [Action::Stop(up, order)]);
        }
    }

    #[test]
    fn one_whose_workers_begin_is_told_to_stop_when_they_hear_it() {
        let stop = |a| [Action::Stop(a, Order::Stop)];
        // It has just begun to accept.
        let mut stage = Stage::new(Policy { stop_timeout: s(5), ..Policy::default() });
        let a = stage.up("a");
        stage.say(a, Word::Loyal);
        assert_eq!(stage.file("a", version(2)), [Action::Reload { key: a, changed: true }]);
        stage.say(a, Word::Accepting);
        stage.on(Event::Unread(a, false));
        stage.pass(ms(40));
        assert_eq!((stage.gone("a"), stage.pass(ms(59))), (vec![], vec![]));
        assert_eq!(stage.pass(ms(1)), stop(a));
        assert_eq!(stage.pass(s(5)), [Action::Signal(a, Signal::Kill)], "its time begins when it is told");
        // It reloads, and comes back or does not.
        for back in [true, false] {
            let mut stage = Stage::new(Policy::default());
            let a = stage.loyal("a");
            stage.file("a", version(2));
            stage.say(a, Word::Accepting);
            stage.on(Event::Unread(a, false));
            stage.pass(s(1));
            stage.file("a", version(3));
            stage.pass(s(1));
            assert_eq!(stage.gone("a"), []);
            if back {
                assert_eq!((stage.say(a, Word::Accepting), stage.pass(ms(99))), (vec![], vec![]));
                assert_eq!(stage.pass(ms(1)), stop(a));
            } else {
                assert_eq!((stage.pass(ms(1_999)), stage.pass(ms(1))), (vec![], stop(a).into()));
            }
            assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Forget(a, name("a"))]);
        }
    }

    #[test]
    fn what_does_not_stop_is_killed_at_the_stop_timeout_and_then_again() {
        let mut stage = Stage::new(Policy { stop_timeout: s(5), ..Policy::default() });
        let a = stage.up("a");
        stage.gone("a");
        assert_eq!(stage.pass(ms(4_999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.told, [What::NotYetGone { seconds: 5 }]);
        assert_eq!(stage.pass(s(5)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Forget(a, name("a"))]);
    }

    #[test]
    fn parity_a_vassal_that_closes_its_link_is_killed_after_the_curse_tolerance_and_started_again() {
        // Measured on uWSGI 2.0.21: emperor-curse-tolerance, 30 s by default, and again every so often.
        let mut stage = Stage::new(Policy::default());
        let a = stage.up("a");
        assert_eq!(stage.on(Event::LinkClosed(a)), []);
        let pid = stage.vassal(a).pid;
        assert_eq!(stage.told, [What::Curse { pid }]);
        assert!(stage.vassal(a).instance.cursed > 0);
        assert_eq!(stage.pass(ms(29_999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.pass(s(30)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.die(a), [Action::Ended(name("a"))]);
        assert_eq!(stage.pass(ms(1)), [Action::Spawn(a)]);
    }

    #[test]
    fn parity_a_missed_heartbeat_kills_and_only_after_the_first() {
        // Measured on uWSGI 2.0.21: required 2, last beat at 1.0 s, killed at 3.5 s when it next looked.
        for (required, silence) in [(s(2), s(2)), (s(30), s(30)), (s(0), s(1))] {
            let mut stage = Stage::new(Policy { required_heartbeat: required, ..Policy::default() });
            let a = stage.loyal("a");
            assert_eq!(stage.pass(s(1000)), [], "it never promised any");
            stage.say(a, Word::Heartbeat);
            assert_eq!(stage.pass(silence - ms(1)), []);
            stage.say(a, Word::Heartbeat);
            assert_eq!(stage.pass(silence - ms(1)), []);
            assert_eq!(stage.pass(ms(1)), [Action::Signal(a, Signal::Kill)]);
            assert_eq!(stage.told, [What::NoHeartbeat { seconds: required.as_secs() }]);
            assert_eq!(stage.vassal(a).instance.last_heartbeat, 0);
            assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)], "it was loyal");
        }
    }

    #[test]
    fn a_death_is_the_same_before_and_after_the_end_of_the_link() {
        for link_first in [true, false] {
            let mut stage = Stage::new(Policy::default());
            let a = stage.loyal("a");
            if link_first {
                stage.on(Event::LinkClosed(a));
            }
            assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
            assert_eq!(stage.on(Event::LinkClosed(a)), [], "late, and before the next one is there");
            assert_eq!(stage.on(Event::Died(a, true)), [], "one death is enough");
            assert_eq!(stage.start(a), []);
            assert_eq!((stage.state(a), stage.court.running()), (State::Up, 1));
        }
    }

    #[test]
    fn what_happens_to_the_file_while_the_vassal_ends_decides_what_follows() {
        // What the vassal said or suffered; what then happens to its file; the state after its death.
        type Act = fn(&mut Stage, Key);
        let rests: Act = |stage, key| drop(stage.say(key, Word::Idle));
        let lost: Act = |stage, _| drop(stage.gone("a"));
        let cursed: Act = |stage, key| drop(stage.on(Event::LinkClosed(key)));
        let nothing: Act = |_, _| {};
        let changes: Act = |stage, _| drop(stage.file("a", version(2)));
        let back: Act = |stage, _| drop(stage.file("a", version(1)));
        let rows: [(Act, Act, Option<State>); 9] = [
            (rests, nothing, Some(State::Resting(super::super::Rest::Idle))),
            (rests, changes, Some(State::Up)),
            (rests, lost, None),
            (lost, nothing, None),
            (lost, back, Some(State::Up)),
            (lost, changes, Some(State::Up)),
            (cursed, nothing, Some(State::Paused)),
            (cursed, lost, None),
            (cursed, changes, Some(State::Paused)),
        ];
        for (row, (end, then, state)) in rows.into_iter().enumerate() {
            let mut stage = Stage::new(Policy::default());
            let a = stage.up("a");
            stage.pass(s(1));
            end(&mut stage, a);
            then(&mut stage, a);
            stage.die(a);
            assert_eq!(stage.court.get(a).map(|vassal| vassal.state), state, "row {row}");
        }
    }
}
