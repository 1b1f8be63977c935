//! The life of one vassal: how it starts, what it says, and what follows from its death.

use super::reports::CHANGE_GAP;
use super::vassal::{Rest, State, Then};
use super::{Action, Backoff, Court, Key, Now, Reign, Signal, What, Word, backoff};
use std::time::Duration;

/// A vassal that says nothing counts as starting for so long.
const STARTING_HOLD: Duration = Duration::from_millis(500);
/// A loyal vassal that lived so long starts again at once, however often it dies.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// A vassal that lived so long was of use, though it never said so: its failures before are forgotten.
const USEFUL_LIFE: Duration = Duration::from_secs(60);
/// The shortest silence that counts as a missed heartbeat: uWSGI counts whole seconds.
const LEAST_HEARTBEAT: Duration = Duration::from_secs(1);
/// So many short lives in a row are forgiven to a loyal vassal.
const SHORT_LIVES: u32 = 3;
/// The pause of a vassal that fails over and over where no other is to be made.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

impl Court {
    pub(super) fn admitted(&mut self, key: Key, on_demand: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Admitting {
            return;
        }
        vassal.on_demand = on_demand;
        if on_demand { self.wait(key, now) } else { self.enqueue(key) }
    }

    pub(super) fn not_bound(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state == State::Admitting {
            vassal.on_demand = false;
            self.failed_to_start(key, now);
        }
    }

    pub(super) fn connection(&mut self, key: Key) {
        if self.vassals[key].state == State::Waiting {
            self.enqueue(key);
        }
    }

    pub(super) fn started(&mut self, key: Key, pid: i32, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.is_alive() || pid <= 0 {
            return; // it can only be a repetition: no second process is ever asked for
        }
        vassal.pid = pid;
        vassal.respawns = 0;
        vassal.last_run = now.epoch;
        vassal.instance.started = now.micros;
        self.running += 1;
        self.probing = false;
        match vassal.state {
            State::Up => {
                let changed = std::mem::take(&mut vassal.instance.reload_again);
                self.set_deadline(key, now.after(STARTING_HOLD));
                if changed {
                    self.reload(key, true, now); // it may have read the file as it was before
                }
            }
            // Whatever was decided while it was being made holds for it too.
            State::Stopping(then) => self.order_to_stop(key, then, now),
            _ => {
                self.signal(key, Signal::Kill); // nobody has asked for it
                self.curse(key, self.policy.curse_tolerance, now);
            }
        }
    }

    pub(super) fn not_started(&mut self, key: Key, machine: bool, now: Now) {
        let vassal = &self.vassals[key];
        if vassal.is_alive() {
            return;
        }
        match vassal.state {
            State::Up => {
                self.release(key);
                if machine { self.hold(key, now) } else { self.failed_to_start(key, now) }
            }
            State::Stopping(then) => {
                self.release(key);
                self.has_stopped(key, then, now);
            }
            _ => {} // nobody has asked for it
        }
    }

    fn failed_to_start(&mut self, key: Key, now: Now) {
        if self.vassals[key].zerg.is_some() {
            return self.forget(key);
        }
        self.vassals[key].instance.started = now.micros;
        self.penalise(key, now);
    }

    pub(super) fn said(&mut self, key: Key, word: Word, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up || !vassal.is_alive() {
            return; // it is on its way out, and nothing it says changes that
        }
        let instance = &mut vassal.instance;
        instance.spoke = true;
        match word {
            Word::Spawned => {
                let news = !std::mem::replace(&mut instance.ready, true);
                let last = std::mem::replace(&mut instance.last_ready, now.epoch);
                self.came_up(key, (news || last != now.epoch).then_some(What::Spawned));
            }
            Word::Accepting => {
                let news = !std::mem::replace(&mut instance.accepting, true);
                let last = std::mem::replace(&mut instance.last_accepting, now.epoch);
                self.came_up(key, (news || last != now.epoch).then_some(What::Accepting));
            }
            Word::Loyal => {
                let news = !std::mem::replace(&mut instance.loyal, true);
                let last = std::mem::replace(&mut instance.last_loyal, now.epoch);
                vassal.backoff = None;
                vassal.failures = 0;
                self.came_up(key, (news || last != now.epoch).then_some(What::Loyal));
            }
            Word::Heartbeat => {
                instance.last_heartbeat = now.epoch;
                instance.heartbeat_due = now.after(self.policy.required_heartbeat.max(LEAST_HEARTBEAT));
                self.arm(key);
            }
            Word::Idle if vassal.on_demand => {
                self.say(key, What::BackToOnDemand);
                self.stop(key, Then::Wait, now);
            }
            Word::Idle if vassal.zerg.is_some() => self.stop(key, Then::Forget, now),
            // It has not read yet that there is something new.
            Word::Idle if instance.reloading || instance.reload_again => self.stop(key, Then::Restart, now),
            Word::Idle => {
                self.say(key, What::Rests);
                self.stop(key, Then::Rest, now);
            }
            Word::ConfigWanted => self.out.push(Action::PushConfig(key)),
            Word::Sos => self.reinforce(key, now),
        }
    }

    /// It has started, or come back from a reload. What it repeats is said once a second at most.
    fn came_up(&mut self, key: Key, news: Option<What>) {
        if let Some(what) = news {
            self.say(key, what);
        }
        self.release(key);
        self.heard_of(key);
    }

    pub(super) fn died(&mut self, key: Key, clean: bool, now: Now) {
        if !self.vassals[key].is_alive() {
            return; // one death is enough
        }
        self.release(key);
        let vassal = &mut self.vassals[key];
        vassal.pid = -1;
        vassal.deadline = 0;
        vassal.instance.ready = false;
        vassal.instance.accepting = false;
        vassal.instance.cursed = 0;
        self.running -= 1;
        self.out.push(Action::Ended(vassal.name.clone()));
        if !vassal.present || self.reign != Reign::Lasting {
            self.have_patience();
            return self.forget(key);
        }
        match vassal.state {
            State::Stopping(then) => self.has_stopped(key, then, now),
            _ if vassal.zerg.is_some() => self.forget(key),
            // Nobody is connected, and it ended in peace: the next connection starts it again.
            _ if vassal.on_demand && vassal.instance.loyal && clean => self.wait(key, now),
            _ if vassal.instance.loyal => self.lost_loyal(key, now),
            _ => self.penalise(key, now),
        }
    }

    /// It has no process any more, on purpose: nobody is to blame.
    fn has_stopped(&mut self, key: Key, then: Then, now: Now) {
        match then {
            Then::Forget => self.forget(key),
            Then::Restart => self.appear(key, now),
            Then::Wait => self.wait(key, now),
            Then::Rest => self.vassals[key].state = State::Resting(Rest::Idle),
        }
    }

    /// A loyal vassal died: it starts again at once, unless it makes a habit of it.
    fn lost_loyal(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let long = now.since(vassal.instance.started) >= LONG_LIFE;
        vassal.short_lives = if long { 0 } else { vassal.short_lives.saturating_add(1) };
        if vassal.short_lives <= SHORT_LIVES {
            self.say(key, What::Restarting { after: Duration::ZERO, loyal: true });
            return self.resume(key, now);
        }
        let pause = self.policy.throttle.saturating_mul(vassal.short_lives - SHORT_LIVES);
        self.pause(key, pause.min(self.policy.max_throttle).max(LEAST_PAUSE), true, now);
    }

    /// A vassal failed that never was of use: its own pause grows.
    fn penalise(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let lived = now.since(vassal.instance.started);
        if lived >= USEFUL_LIFE {
            vassal.backoff = None;
            vassal.failures = 0;
        }
        vassal.failures = vassal.failures.saturating_add(1);
        let failures = vassal.failures;
        if self.policy.abandon_after > 0 && failures >= self.policy.abandon_after {
            vassal.state = State::Resting(Rest::Abandoned);
            self.say(key, What::Abandoned { failures });
            return self.dismiss_zergs(key, now);
        }
        let mut pause = if failures > 1 { LEAST_PAUSE } else { Duration::ZERO };
        if vassal.instance.pardoned {
            pause = pause.max(CHANGE_GAP.saturating_sub(lived));
        }
        if !self.policy.no_blacklist {
            let (entry, step) = match vassal.backoff {
                Some(mut entry) => {
                    let step = entry.aggravate(&self.policy, now);
                    (entry, step)
                }
                None => (Backoff::first(&self.policy, now), backoff::Step::Quiet),
            };
            vassal.backoff = Some(entry);
            pause = pause.max(entry.pause());
            match step {
                backoff::Step::Quiet => {}
                backoff::Step::Throttled => self.say(key, What::Throttled),
                backoff::Step::Ceiling => self.say(key, What::MaxThrottle),
            }
        }
        self.pause(key, pause, false, now);
    }

    fn pause(&mut self, key: Key, pause: Duration, loyal: bool, now: Now) {
        self.say(key, What::Restarting { after: pause, loyal });
        self.vassals[key].state = State::Paused;
        self.set_deadline(key, now.after(pause.max(Duration::from_micros(1))));
    }

    /// The pause is over, or forgiven.
    pub(super) fn resume(&mut self, key: Key, now: Now) {
        if self.vassals[key].on_demand { self.wait(key, now) } else { self.appear(key, now) }
    }

    /// A vassal that has no process becomes one that may start.
    pub(super) fn appear(&mut self, key: Key, now: Now) {
        if self.refuse(key, now) {
            return;
        }
        let vassal = &mut self.vassals[key];
        if self.policy.on_demand && vassal.zerg.is_none() {
            vassal.state = State::Admitting;
            vassal.deadline = 0;
            self.out.push(Action::Admit(key));
        } else {
            self.enqueue(key);
        }
    }

    /// Its socket waits for the next connection.
    fn wait(&mut self, key: Key, now: Now) {
        if !self.refuse(key, now) {
            self.vassals[key].state = State::Waiting;
            self.vassals[key].deadline = 0;
            self.out.push(Action::Listen(key));
        }
    }

    /// Whether tyrant mode does not let it run. Asked each time a vassal is to start, because its file may have got
    /// another owner in any state.
    pub(super) fn refuse(&mut self, key: Key, now: Now) -> bool {
        let vassal = &mut self.vassals[key];
        let (uid, gid) = (vassal.identity.uid, vassal.identity.gid);
        if !self.policy.tyrant || (uid != 0 && gid != 0) {
            return false;
        }
        vassal.state = State::Resting(Rest::Refused);
        vassal.deadline = 0;
        self.say(key, What::InvalidPermissions { uid, gid });
        self.dismiss_zergs(key, now);
        true
    }
}
