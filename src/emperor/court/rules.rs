//! The life of one vassal: how it starts, what it says, and what follows from its death.

use super::failures::Penalty;
use super::vassal::{Instance, Rest, State, Then};
use super::{Action, Court, Key, Now, Reign, Signal, What, Word};
use std::time::Duration;

/// A vassal that says nothing counts as starting for so long.
const STARTING_HOLD: Duration = Duration::from_millis(500);
/// The shortest silence that counts as a missed heartbeat: uWSGI counts whole seconds.
pub(super) const LEAST_HEARTBEAT: Duration = Duration::from_secs(1);

/// A vassal on demand may end in peace while somebody still waits at its socket. It starts again, but not more often
/// than this.
const SHORTEST_LIFE: Duration = Duration::from_millis(100);

impl Court {
    pub(super) fn admitted(&mut self, key: Key, on_demand: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Admitting {
            return;
        }
        vassal.on_demand = on_demand;
        vassal.deadline = 0;
        if on_demand { self.wait(key, now) } else { self.enqueue(key) }
    }

    /// A vassal without its answer keeps its state, and the hands are asked again.
    pub(super) fn admit_again(&mut self, key: Key, patience: Duration, now: Now) {
        if self.vassals[key].state == State::Admitting {
            self.set_deadline(key, now.after(patience));
        }
    }

    pub(super) fn not_bound(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state == State::Admitting {
            vassal.on_demand = false;
            vassal.deadline = 0;
            vassal.instance.started = now.micros;
            self.penalise(key, Penalty::Quiet, now);
        }
    }

    /// The hands have read its file, and it waits.
    pub(super) fn sleeps(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.is_alive() {
            return;
        }
        match vassal.state {
            State::Up => {
                (vassal.on_demand, vassal.own_demand) = (true, true);
                vassal.instance.pardoned = false;
                self.release(key);
                self.wait(key, now);
            }
            State::Stopping(then) => {
                self.release(key);
                self.has_stopped(key, then, now);
            }
            _ => {} // nobody has asked for it
        }
    }

    /// Its file has changed since it was read, and may want something else: it is read before the vassal waits.
    pub(super) fn ask_file(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        (vassal.on_demand, vassal.own_demand) = (false, false);
        vassal.instance.pardoned = false;
    }

    pub(super) fn connection(&mut self, key: Key, now: Now) {
        match self.vassals[key].state {
            State::Waiting => self.enqueue(key),
            State::Up => self.wake(key, now),
            _ => {}
        }
    }

    pub(super) fn started(&mut self, key: Key, pid: i32, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.is_alive() || pid <= 0 {
            return; // it can only be a repetition: no second process is ever asked for
        }
        vassal.pid = pid;
        vassal.respawns = 0;
        vassal.starts = vassal.starts.saturating_add(1);
        vassal.last_run = now.epoch;
        vassal.instance.started = now.micros;
        self.running += 1;
        self.probing = false;
        match vassal.state {
            State::Up => {
                let changed = std::mem::take(&mut vassal.instance.reload_again);
                self.set_deadline(key, now.after(STARTING_HOLD));
                self.course_begins(key, now);
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
            return self.forget(key, now);
        }
        self.vassals[key].instance.started = now.micros;
        self.penalise(key, Penalty::Told, now);
    }

    pub(super) fn said(&mut self, key: Key, word: Word, now: Now) {
        let is_followed = self.successor_of(key).is_some();
        let vassal = &mut self.vassals[key];
        if vassal.instance.untold && word == Word::Accepting {
            let from = now.after(Instance::STOP_GAP).min(vassal.deadline);
            return self.set_deadline(key, from); // it has come back, and can soon hear that it is to stop
        }
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
                if news {
                    instance.accepted = now.micros;
                }
                self.came_up(key, (news || last != now.epoch).then_some(What::Accepting));
            }
            Word::Loyal => {
                if !instance.accepting {
                    instance.accepted = now.micros;
                }
                self.becomes_loyal(key, now);
                self.came_up(key, None);
            }
            Word::Heartbeat => {
                instance.last_heartbeat = now.epoch;
                let required = self.required_heartbeat(key);
                self.vassals[key].instance.heartbeat_due = now.after(required);
                self.arm(key);
            }
            Word::Idle if vassal.on_demand => {
                self.say(key, What::BackToOnDemand);
                self.stop(key, Then::Wait, now);
            }
            Word::Idle if vassal.zerg.is_some() => self.stop(key, Then::Forget, now),
            // It has not read yet that there is something new.
            Word::Idle if instance.reloading || instance.reload_again || is_followed => {
                self.stop(key, Then::Restart, now)
            }
            Word::Idle => {
                self.say(key, What::Rests);
                self.stop(key, Then::Rest, now);
            }
            Word::ConfigWanted => self.out.push(Action::PushConfig(key)),
            Word::Sos => self.reinforce(key, now),
        }
        self.succeed_if_ready(key, now);
    }

    /// It has been of use: whatever it failed for before is forgotten. That it is so is said once a second at most.
    pub(super) fn becomes_loyal(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let news = !std::mem::replace(&mut vassal.instance.loyal, true);
        let last = std::mem::replace(&mut vassal.instance.last_loyal, now.epoch);
        vassal.backoff = None;
        vassal.failures = 0;
        if news || last != now.epoch {
            self.say(key, What::Loyal);
        }
    }

    /// It has started, or come back from a reload. What it repeats is said once a second at most.
    fn came_up(&mut self, key: Key, news: Option<What>) {
        if let Some(what) = news {
            self.say(key, what);
        }
        self.release(key);
        self.says_ready(key);
        self.heard_of(key);
        if self.vassals[key].instance.reload_again {
            self.arm(key); // it may be told sooner than was thought
        }
    }

    pub(super) fn died(&mut self, key: Key, clean: bool, now: Now) {
        if !self.vassals[key].is_alive() {
            return; // one death is enough
        }
        self.release(key);
        self.thaw(key);
        let vassal = &mut self.vassals[key];
        vassal.pid = -1;
        vassal.down_since = now.epoch;
        vassal.deadline = 0;
        vassal.instance.ready = false;
        vassal.instance.accepting = false;
        vassal.instance.cursed = 0;
        self.running -= 1;
        self.out.push(Action::Ended(vassal.name.clone()));
        if !vassal.present || self.reign != Reign::Lasting {
            self.have_patience();
            return self.forget(key, now);
        }
        let next = self.successor_of(key);
        let vassal = &self.vassals[key];
        match vassal.state {
            State::Stopping(then) => self.has_stopped(key, then, now),
            _ if vassal.zerg.is_some() => self.forget(key, now),
            // Another one is on its way already.
            _ if let Some(next) = next => self.succeed(next, now),
            // Nobody is connected, and it ended in peace: the next connection starts it again.
            _ if vassal.on_demand && vassal.instance.loyal && clean => self.wait_again(key, now),
            _ if vassal.instance.loyal => self.lost_loyal(key, now),
            _ => self.penalise(key, Penalty::Told, now),
        }
    }

    /// It has no process any more, on purpose: nobody is to blame.
    fn has_stopped(&mut self, key: Key, then: Then, now: Now) {
        match then {
            Then::Forget => self.forget(key, now),
            Then::Restart => self.start_after_gap(key, now),
            Then::Wait => self.wait_again(key, now),
            Then::Rest => self.vassals[key].state = State::Resting(Rest::Idle),
            Then::RestByHand => self.rest_by_hand(key, now),
            Then::Pause if self.vassals[key].zerg.is_some() => self.forget(key, now),
            Then::Pause => self.penalise(key, Penalty::Told, now),
        }
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
        if self.policy.on_demand && vassal.zerg.is_none() && !vassal.own_demand {
            vassal.state = State::Admitting;
            vassal.deadline = 0;
            self.out.push(Action::Admit(key));
        } else {
            self.enqueue(key);
        }
    }

    /// Its socket waits for the next connection, but not for the one that it has just left alone.
    fn wait_again(&mut self, key: Key, now: Now) {
        let rest = SHORTEST_LIFE.saturating_sub(now.since(self.vassals[key].instance.started));
        if rest.is_zero() { self.wait(key, now) } else { self.pause_quietly(key, rest, now) }
    }

    /// Its socket waits for the next connection.
    fn wait(&mut self, key: Key, now: Now) {
        if self.vassals[key].own_demand && self.vassals[key].instance.pardoned {
            self.ask_file(key);
            return self.appear(key, now);
        }
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
        if self.vassals[key].zerg.is_some() {
            self.forget(key, now); // it is never started again
            return true;
        }
        self.dismiss_zergs(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Policy};

    #[test]
    fn an_ordinary_vassal_that_asks_to_be_stopped_rests_until_its_file_changes() {
        // uWSGI 2.0.21 starts it again at once, without end.
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.say(a, Word::Idle);
        assert_eq!(stage.die(a), [Action::Ended(name("a"))]);
        assert_eq!(stage.state(a), State::Resting(Rest::Idle));
        assert_eq!(stage.pass(s(3600)), []);
        assert_eq!(stage.on(Event::ReloadAll), []);
        assert_eq!(stage.file("a", version(2)), [Action::Spawn(a)]);
    }

    #[test]
    fn an_on_demand_vassal_starts_with_a_connection_and_returns_to_its_socket() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let a = stage.key("a");
        assert_eq!(stage.on(Event::Connection(a)), [], "its socket is not there yet");
        assert_eq!(stage.on(Event::Admitted(a, true)), [Action::Listen(a)]);
        let mut ends: Vec<fn(&mut Stage, Key) -> Vec<Action>> = Vec::new();
        ends.push(|stage, key| {
            stage.say(key, Word::Idle);
            stage.die(key)
        });
        ends.push(|stage, key| stage.on(Event::Died(key, true)));
        ends.push(|stage, key| stage.die(key));
        for end in ends {
            assert_eq!(stage.on(Event::Connection(a)), [Action::Spawn(a)]);
            assert_eq!(stage.on(Event::Connection(a)), []);
            stage.start(a);
            stage.say(a, Word::Loyal);
            stage.pass(ms(600));
            assert_eq!(end(&mut stage, a), [Action::Ended(name("a")), Action::Listen(a)]);
        }
        assert_eq!(stage.file("a", version(2)), []);
        assert_eq!(stage.told, [What::OnDemandUpdated]);
        assert_eq!(stage.gone("a"), [Action::Forget(a, name("a"))]);
    }

    /// A vassal whose own file wants it to wait at its own sockets, and does.
    fn sleeping(stage: &mut Stage) -> Key {
        assert_eq!(stage.file("a", version(1)).len(), 1);
        let a = stage.key("a");
        assert_eq!(stage.on(Event::Sleeps(a)), [Action::Listen(a)]);
        a
    }

    #[test]
    fn a_file_that_wants_its_vassal_to_wait_is_read_first_and_the_connection_starts_it() {
        let mut stage = Stage::new(Policy { max_starting: 1, ..Policy::default() });
        let a = sleeping(&mut stage);
        assert_eq!(stage.state(a), State::Waiting);
        assert!(stage.vassal(a).on_demand && stage.court.next_timeout().is_none());
        let b = stage.up("b"); // its turn was given back
        assert_eq!(stage.on(Event::Connection(a)), [Action::Spawn(a)]);
        stage.start(a);
        assert_eq!(stage.on(Event::Sleeps(a)), [], "too late");
        stage.say(a, Word::Loyal);
        stage.pass(ms(600));
        stage.say(a, Word::Idle);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Listen(a)]);
        assert_eq!(stage.state(b), State::Up);
    }

    #[test]
    fn one_that_crashes_waits_again_after_its_pause_and_never_spins() {
        let mut stage = Stage::new(Policy::default());
        let a = sleeping(&mut stage);
        let mut starts = 0;
        for _ in 0..1000 {
            if stage.state(a) == State::Waiting {
                starts += stage.on(Event::Connection(a)).len();
                stage.start(a);
                stage.on(Event::Died(a, false));
            }
            stage.pass(ms(10));
        }
        assert!((3..10).contains(&starts), "{starts} starts in ten seconds");
    }

    #[test]
    fn a_change_of_its_file_is_read_before_it_waits_again() {
        // While it waits: at once. While it runs: it is told, and the file is read when it goes back.
        let mut stage = Stage::new(Policy::default());
        let a = sleeping(&mut stage);
        stage.pass(ms(250));
        assert_eq!(stage.file("a", version(2)), [Action::Spawn(a)]);
        assert_eq!(stage.told, [What::OnDemandUpdated]);
        assert_eq!(stage.on(Event::Sleeps(a)), [Action::Listen(a)]);
        stage.on(Event::Connection(a));
        stage.start(a);
        stage.say(a, Word::Loyal);
        stage.pass(ms(600));
        assert_eq!(stage.file("a", version(3)), [Action::Reload { key: a, changed: true }]);
        stage.say(a, Word::Accepting);
        stage.on(Event::Unread(a, false));
        stage.pass(s(10));
        stage.say(a, Word::Idle);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        assert!(!stage.vassal(a).on_demand, "it starts, unless its file still wants it to wait");
    }

    #[test]
    fn a_vassal_that_leaves_a_connection_alone_and_ends_in_peace_does_not_spin() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.on(Event::Admitted(a, true));
        let mut starts = 0;
        let end = stage.now.after(s(10));
        while stage.now.micros < end {
            if stage.state(a) == State::Waiting {
                assert_eq!(stage.on(Event::Connection(a)), [Action::Spawn(a)]);
                stage.start(a);
                stage.say(a, if starts % 2 == 0 { Word::Idle } else { Word::Loyal });
                assert_eq!(stage.on(Event::Died(a, true)), [Action::Ended(name("a"))]);
                starts += 1;
            }
            stage.pass(ms(1));
        }
        assert_eq!(starts, 100);
        assert!(stage.vassal(a).backoff.is_none(), "nobody is blamed");
    }

    #[test]
    fn a_vassal_whose_socket_is_not_known_yet_is_asked_for_again() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        assert_eq!(stage.file("a", version(1)), [Action::Admit(stage.key("a"))]);
        let a = stage.key("a");
        assert_eq!(stage.on(Event::AdmitAgain(a, ms(200))), []);
        assert_eq!(stage.file("a", version(2)), [], "it is still not known");
        assert_eq!(stage.pass(ms(199)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Admit(a)]);
        assert_eq!(stage.on(Event::Admitted(a, false)), [Action::Spawn(a)]);
        assert_eq!(stage.on(Event::AdmitAgain(a, ms(200))), [], "late");
        assert_eq!(stage.court.next_timeout(), None);
    }

    #[test]
    fn a_socket_that_cannot_be_bound_is_tried_again_after_the_pause_and_when_the_file_changes() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.on(Event::NotBound(a));
        assert_eq!(stage.told, [], "the hands have said why");
        assert_eq!(stage.pass(ms(1)), [Action::Admit(a)]);
        stage.on(Event::NotBound(a));
        assert_eq!(stage.pass(ms(1000)), []);
        assert_eq!(stage.file("a", version(2)), [Action::Admit(a)]);
    }

    #[test]
    fn tyrant_mode_lets_no_file_of_root_start_whenever_it_becomes_roots() {
        let root = crate::emperor::source::Identity { uid: 0, ..version(2) };
        let tyrant = Policy { tyrant: true, max_starting: 1, ..Policy::default() };
        type Case = (&'static str, bool, fn(&mut Stage));
        let mut bring_about: Vec<Case> = Vec::new();
        bring_about.push(("new", false, |_| {}));
        bring_about.push(("queued", false, |stage| {
            stage.file("z", version(1));
            stage.file("a", version(1));
        }));
        bring_about.push(("up", false, |stage| {
            stage.loyal("a");
        }));
        bring_about.push(("paused", false, |stage| {
            let a = stage.mute("a");
            stage.die(a);
        }));
        bring_about.push(("resting", false, |stage| {
            let a = stage.mute("a");
            stage.say(a, Word::Idle);
            stage.die(a);
        }));
        bring_about.push(("admitting", true, |stage| drop(stage.file("a", version(1)))));
        bring_about.push(("waiting", true, |stage| {
            stage.file("a", version(1));
            stage.on(Event::Admitted(stage.key("a"), true));
        }));
        bring_about.push(("returning", true, |stage| {
            stage.file("a", version(1));
            let a = stage.key("a");
            stage.on(Event::Admitted(a, true));
            stage.on(Event::Connection(a));
            stage.start(a);
            stage.say(a, Word::Idle);
        }));
        for (case, on_demand, bring) in bring_about {
            let mut stage = Stage::new(Policy { on_demand, ..tyrant.clone() });
            bring(&mut stage);
            let mut done = stage.file("a", root);
            let a = stage.key("a");
            for event in [Event::Died(a, true), Event::Admitted(a, true), Event::Connection(a)] {
                done.extend(stage.on(event));
            }
            if let Some(z) = stage.court.find(&name("z")) {
                stage.start(z);
            }
            done.extend(stage.pass(s(10)));
            assert!(!done.contains(&Action::Spawn(a)), "{case}: {done:?}");
            assert_eq!(stage.state(a), State::Resting(Rest::Refused), "{case}");
            stage.pass(s(10));
            let again = stage.file("a", version(3));
            assert!(
                again.contains(&Action::Spawn(a)) || again.contains(&Action::Admit(a)),
                "{case}: {again:?}"
            );
        }
    }

    #[test]
    fn a_refusal_is_told_once_a_change() {
        let root = crate::emperor::source::Identity { gid: 0, ..version(1) };
        let mut stage = Stage::new(Policy { tyrant: true, ..Policy::default() });
        stage.file("a", root);
        assert_eq!(stage.told, [What::InvalidPermissions { uid: 7, gid: 0 }]);
        stage.file("a", root);
        assert_eq!(stage.told, []);
    }

    #[test]
    fn what_a_vassal_repeats_is_told_once_a_second() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.mute("a");
        for (word, what) in
            [(Word::Spawned, What::Spawned), (Word::Accepting, What::Accepting), (Word::Loyal, What::Loyal)]
        {
            stage.say(a, word);
            assert_eq!(stage.told, std::slice::from_ref(&what));
            stage.say(a, word);
            assert_eq!(stage.told, []);
            stage.pass(s(1));
            stage.say(a, word);
            assert_eq!(stage.told, [what]);
        }
    }

    #[test]
    fn what_vanishes_while_it_is_being_made_is_stopped_as_soon_as_it_is_there() {
        for back in [false, true] {
            let mut stage = Stage::new(Policy::default());
            stage.file("a", version(1));
            let a = stage.key("a");
            assert_eq!(stage.gone("a"), []);
            if back {
                assert_eq!(stage.file("a", version(1)), []);
            }
            assert!(stage.start(a).contains(&Action::Signal(a, Signal::Term)));
            stage.pass(ms(250));
            let then = if back { Action::Spawn(a) } else { Action::Forget(a, name("a")) };
            assert_eq!(stage.die(a), [Action::Ended(name("a")), then]);
        }
    }

    #[test]
    fn what_vanishes_and_cannot_be_made_is_forgotten_whoever_is_to_blame() {
        for machine in [false, true] {
            let mut stage = Stage::new(Policy::default());
            stage.file("a", version(1));
            let a = stage.key("a");
            stage.gone("a");
            assert_eq!(stage.on(Event::NotStarted(a, machine)), [Action::Forget(a, name("a"))]);
            assert!(!stage.court.is_starting());
        }
    }
}
