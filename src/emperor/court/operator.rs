//! What an operator wants of one vassal: to stop it, start it, have it restarted or reloaded, or forget its failures.
//!
//! A vassal that was stopped by hand rests until it is started by hand, or until its file changes. Whoever may
//! operate a vassal may do so as fast as he likes, and it starts no more often than one whose file changes.

use super::vassal::{Rest, State, Then, Vassal};
use super::{Court, Identity, Key, Now, VassalName, What};

/// What an operator wants of a vassal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// It is not to run.
    Stop,
    /// It is to run, whatever it failed for; one that waits on demand, without a connection.
    Start,
    /// Another process is to take its place.
    Restart,
    /// It is to read its file again.
    Reload,
    /// Another process is to start beside it, and to take its place when it is ready.
    Roll,
    /// Its failures are to be forgotten.
    Clear,
}

impl Court {
    /// Why a wish cannot be granted, and what can be done instead; asked before [`super::Event::Wanted`].
    ///
    /// # Errors
    /// The reason.
    pub fn permits(&self, key: Key, wish: Wish) -> Result<(), &'static str> {
        let Some(vassal) = self.get(key) else { return Err("there is no such vassal any more") };
        match (wish, vassal.state) {
            _ if self.reign != super::Reign::Lasting => Err("the emperor is ending"),
            _ if vassal.zerg.is_some() => {
                Err("it is a reinforcement, and goes with the vassal that it reinforces")
            }
            _ if !vassal.present => Err("its file is gone, and so will it be"),
            (Wish::Reload, State::Resting(_) | State::Paused) => Err("it does not run: start it instead"),
            (Wish::Roll, State::Resting(_) | State::Paused) => Err("it does not run: start it instead"),
            (Wish::Roll, State::Cursed | State::Stopping(_)) => Err("it is ending: restart it instead"),
            (Wish::Roll, State::Up) if vassal.is_alive() && !self.can_roll(key) => Err(
                "uWSGI binds its sockets itself, so that two of its processes cannot serve at once: write \
                 `touch-reload-mode = rolling` into its file and restart it, then the emperor holds its socket",
            ),
            (Wish::Reload, State::Cursed | State::Stopping(_)) => Err("it is ending: restart it instead"),
            _ => Ok(()),
        }
    }

    /// What an operator wants is done, as far as it is permitted.
    pub(super) fn wanted(&mut self, key: Key, wish: Wish, now: Now) {
        if self.permits(key, wish).is_err() {
            return;
        }
        match wish {
            Wish::Stop => self.stop_by_hand(key, now),
            Wish::Start => self.start_by_hand(key, now),
            Wish::Restart => self.restart_by_hand(key, now),
            Wish::Reload if self.rolls(key) => self.reload(key, false, now),
            Wish::Roll if self.vassals[key].is_alive() => self.roll_over(key, now),
            Wish::Roll => self.reload(key, false, now),
            Wish::Reload => {
                for zerg in self.zergs_of(key) {
                    self.reload(zerg, false, now);
                }
                self.reload(key, false, now);
            }
            Wish::Clear => {
                self.vassals[key].pardon();
                if matches!(self.vassals[key].state, State::Paused | State::Resting(Rest::Abandoned)) {
                    self.start_after_gap(key, now);
                }
            }
        }
    }

    fn stop_by_hand(&mut self, key: Key, now: Now) {
        match self.vassals[key].state {
            State::Resting(Rest::ByHand) => return,
            State::Up | State::Stopping(_) => self.stop(key, Then::RestByHand, now),
            State::Cursed => self.vassals[key].state = State::Stopping(Then::RestByHand),
            // The hands still look for its socket: it becomes another one, of whom they have not been asked.
            State::Admitting => return self.enter_stopped(key, now),
            State::Queued => {
                self.rest_by_hand(key, now);
                self.leave_queue();
            }
            State::Waiting | State::Paused | State::Resting(_) => self.rest_by_hand(key, now),
        }
        self.vassals[key].pardon();
        self.dismiss_zergs(key, now);
    }

    /// It has no process, and gets none.
    pub(super) fn rest_by_hand(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.state = State::Resting(Rest::ByHand);
        vassal.deadline = 0;
        vassal.down_since = now.epoch;
        self.say(key, What::StoppedByHand);
    }

    fn start_by_hand(&mut self, key: Key, now: Now) {
        match self.vassals[key].state {
            State::Resting(_) | State::Paused => {
                self.vassals[key].pardon();
                self.start_after_gap(key, now);
            }
            State::Waiting if self.is_soon(key, now) => self.start_after_gap(key, now),
            State::Waiting => self.enqueue(key),
            State::Stopping(Then::RestByHand | Then::Rest | Then::Pause | Then::Wait) => {
                self.vassals[key].state = State::Stopping(Then::Restart);
            }
            State::Up => self.wake(key, now),
            // It is about to, or will as soon as its last process is gone.
            State::Admitting | State::Queued | State::Cursed | State::Stopping(_) => {}
        }
    }

    fn restart_by_hand(&mut self, key: Key, now: Now) {
        match self.vassals[key].state {
            State::Up => self.stop(key, Then::Restart, now),
            State::Cursed | State::Stopping(_) => self.vassals[key].state = State::Stopping(Then::Restart),
            State::Resting(_) | State::Paused => self.start_by_hand(key, now),
            State::Admitting | State::Waiting | State::Queued => {} // its next process is another one
        }
    }

    /// Vassals that were stopped by hand under a former emperor, by the versions of their files. Before any report.
    pub fn remember_stopped(&mut self, stopped: impl IntoIterator<Item = (VassalName, Identity)>) {
        self.stopped.extend(stopped);
    }

    /// All sources have looked: of what no file was found, nothing is remembered.
    pub fn forget_stopped(&mut self) {
        self.stopped = std::collections::HashMap::new();
    }

    /// The vassals that are stopped by hand, or will be as soon as they have ended, and the versions of their files;
    /// and those that are remembered so and have not come yet.
    pub fn stopped(&self) -> impl Iterator<Item = (&VassalName, &Identity)> {
        let by_hand =
            |state| matches!(state, State::Resting(Rest::ByHand) | State::Stopping(Then::RestByHand));
        let known = self.vassals.iter().filter(move |(_, vassal)| by_hand(vassal.state));
        known.map(|(_, vassal)| (&vassal.name, &vassal.identity)).chain(&self.stopped)
    }

    /// Whether a vassal that comes anew was stopped by hand, and its file is the same.
    pub(super) fn was_stopped(&mut self, vassal: &Vassal) -> bool {
        let before = if self.stopped.is_empty() { None } else { self.stopped.remove(&vassal.name) };
        before.is_some_and(|before| !before.differs(&vassal.identity))
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Action, Event, Order, Policy, Word};
    use crate::emperor::source::SourceId;

    impl Stage {
        fn wants(&mut self, key: Key, wish: Wish) -> Vec<Action> {
            self.on(Event::Wanted(key, wish))
        }
    }

    const BY_HAND: State = State::Resting(Rest::ByHand);

    #[test]
    fn one_that_is_stopped_by_hand_rests_until_it_is_started_or_its_file_changes() {
        for changes in [false, true] {
            let mut stage = Stage::new(Policy::default());
            let a = stage.loyal("a");
            stage.pass(s(1));
            assert_eq!(stage.wants(a, Wish::Stop), [Action::Stop(a, Order::Stop)]);
            assert_eq!(stage.die(a), [Action::Ended(name("a"))]);
            assert_eq!((stage.state(a), &stage.told[..]), (BY_HAND, &[What::StoppedByHand][..]));
            assert_eq!(stage.court.next_timeout(), None);
            for quiet in [Event::ReloadAll, Event::ClearBlacklist, Event::Wanted(a, Wish::Stop)] {
                assert_eq!(stage.on(quiet), []);
            }
            assert_eq!(stage.file("a", version(1)), []);
            assert_eq!(stage.wants(a, Wish::Clear), []);
            let done = if changes { stage.file("a", version(2)) } else { stage.wants(a, Wish::Start) };
            assert_eq!(done, [Action::Spawn(a)]);
        }
    }

    #[test]
    fn one_without_a_process_is_stopped_at_once_whatever_it_waits_for() {
        let policy = Policy { on_demand: true, max_starting: 1, ..Policy::default() };
        let mut stage = Stage::new(policy);
        for text in ["admitting", "waiting", "up", "queued", "paused"] {
            stage.file(text, version(1));
        }
        for (text, waits) in [("waiting", true), ("up", false), ("queued", false)] {
            stage.on(Event::Admitted(stage.key(text), waits));
        }
        stage.on(Event::NotBound(stage.key("paused")));
        for text in ["admitting", "waiting", "queued", "paused"] {
            let key = stage.key(text);
            let forgotten = (text == "admitting").then(|| Action::Forget(key, name(text)));
            assert_eq!(stage.wants(key, Wish::Stop), Vec::from_iter(forgotten), "{text}");
            assert_eq!(stage.on(Event::Admitted(key, true)), [], "late");
            let key = stage.key(text);
            assert_eq!(stage.state(key), BY_HAND, "{text}");
            assert_eq!(stage.on(Event::Connection(key)), []);
        }
        let up = stage.key("up");
        stage.start(up);
        stage.say(up, Word::Accepting);
        assert!(!stage.court.is_starting());
        assert_eq!(stage.court.next_timeout(), None);
    }

    #[test]
    fn one_that_is_being_made_is_stopped_as_soon_as_it_is_there() {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        let a = stage.key("a");
        assert_eq!(stage.wants(a, Wish::Stop), []);
        assert_eq!(stage.start(a)[0], Action::Stop(a, Order::Stop));
        stage.die(a);
        assert_eq!(stage.state(a), BY_HAND);
    }

    #[test]
    fn one_that_hangs_and_is_stopped_by_hand_is_killed_all_the_same_and_rests() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.on(Event::LinkClosed(a));
        assert_eq!(stage.wants(a, Wish::Stop), []);
        assert!(!stage.pass(s(30)).is_empty());
        stage.die(a);
        assert_eq!(stage.state(a), BY_HAND);
    }

    #[test]
    fn the_last_of_two_wishes_counts() {
        let rows: [(&[Wish], State); 4] = [
            (&[Wish::Stop, Wish::Start], State::Up),
            (&[Wish::Restart, Wish::Stop], BY_HAND),
            (&[Wish::Stop, Wish::Restart], State::Up),
            (&[Wish::Stop, Wish::Reload], BY_HAND),
        ];
        for (wishes, state) in rows {
            let mut stage = Stage::new(Policy::default());
            let a = stage.loyal("a");
            stage.pass(s(1));
            wishes.iter().for_each(|wish| drop(stage.wants(a, *wish)));
            stage.die(a);
            assert_eq!(stage.state(a), state, "{wishes:?}");
        }
    }

    #[test]
    fn a_wish_to_stop_does_not_keep_what_has_lost_its_file() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.gone("a");
        assert!(stage.court.permits(a, Wish::Stop).is_err());
        assert_eq!(stage.wants(a, Wish::Stop), []);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Forget(a, name("a"))]);
        stage.file("a", version(1));
        stage.pass(s(1));
        assert_eq!(stage.state(stage.key("a")), State::Up, "a file that is there anew is a new vassal");
    }

    #[test]
    fn a_start_by_hand_ends_a_pause_and_a_rest_of_any_kind() {
        let mut stage = Stage::new(Policy { abandon_after: 2, ..Policy::default() });
        let a = stage.mute("a");
        stage.die(a);
        stage.pass(ms(1));
        stage.start(a);
        stage.die(a);
        assert_eq!(stage.state(a), State::Resting(Rest::Abandoned));
        assert!(stage.court.permits(a, Wish::Reload).is_err());
        stage.pass(s(1));
        assert_eq!(stage.wants(a, Wish::Start), [Action::Spawn(a)]);
        assert!(stage.vassal(a).backoff.is_none());
        let b = stage.up("b");
        stage.say(b, Word::Idle);
        stage.die(b);
        stage.pass(s(1));
        assert_eq!(stage.wants(b, Wish::Restart), [Action::Spawn(b)]);
    }

    #[test]
    fn one_that_waits_on_demand_is_started_by_hand_without_a_connection() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.on(Event::Admitted(a, true));
        assert_eq!(stage.wants(a, Wish::Start), [Action::Spawn(a)]);
    }

    #[test]
    fn failures_are_forgotten_of_one_alone() {
        let mut stage = Stage::new(Policy::default());
        let (a, b) = (stage.mute("a"), stage.mute("b"));
        stage.pass(s(1));
        for key in [a, b] {
            stage.die(key);
        }
        assert_eq!(stage.wants(a, Wish::Clear), [Action::Spawn(a)]);
        assert!(stage.vassal(a).backoff.is_none() && stage.vassal(b).backoff.is_some());
    }

    #[test]
    fn whoever_restarts_over_and_over_has_four_starts_a_second() {
        for wish in [Wish::Restart, Wish::Clear, Wish::Start] {
            let mut stage = Stage::new(Policy::default());
            let a = stage.mute("a");
            let mut starts = 0;
            for _ in 0..1000 {
                let mut done = stage.wants(a, wish);
                if stage.vassal(a).is_alive() {
                    done.extend(stage.die(a));
                }
                done.extend(stage.wants(a, wish));
                done.extend(stage.pass(ms(1)));
                if done.contains(&Action::Spawn(a)) {
                    starts += 1;
                    stage.start(a);
                }
            }
            assert!((3..=5).contains(&starts), "{wish:?}: {starts}");
        }
    }

    #[test]
    fn a_restart_by_hand_is_no_failure_and_a_reload_reaches_reinforcements() {
        let mut stage = Stage::new(Policy { broodlord: 1, ..Policy::default() });
        let a = stage.loyal("a");
        stage.pass(s(1));
        let zerg = match stage.say(a, Word::Sos)[..] {
            [Action::Spawn(zerg)] => zerg,
            ref other => panic!("{other:?}"),
        };
        stage.start(zerg);
        stage.say(zerg, Word::Loyal);
        stage.pass(ms(250));
        let tells = |key| Action::Reload { key, changed: false };
        assert_eq!(stage.wants(a, Wish::Reload), [tells(zerg), tells(a)]);
        assert!(stage.court.permits(zerg, Wish::Stop).is_err());
        stage.pass(s(3));
        assert_eq!(
            stage.wants(a, Wish::Restart),
            [Action::Stop(a, Order::Stop), Action::Stop(zerg, Order::Stop)]
        );
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        assert_eq!(stage.vassal(a).failures, 0);
    }

    #[test]
    fn what_was_stopped_before_stays_so_unless_its_file_has_changed_since() {
        let mut first = Stage::new(Policy::default());
        for text in ["a", "b", "c"] {
            let key = first.loyal(text);
            first.wants(key, Wish::Stop);
        }
        first.die(first.key("a"));
        let mut stage = Stage::new(Policy::default());
        let stopped = first.court.stopped().map(|(name, identity)| (name.clone(), *identity));
        stage.court.remember_stopped(stopped);
        stage.on(Event::Report(crate::emperor::source::Report::ScanBegan(SourceId(0))));
        assert_eq!(stage.file("a", version(1)), []);
        let b = stage.file("b", version(2));
        assert_eq!(b, [Action::Spawn(stage.key("b"))]);
        assert_eq!(stage.state(stage.key("a")), BY_HAND);
        assert_eq!(stage.court.stopped().count(), 2, "one may come yet");
        stage.court.forget_stopped();
        assert_eq!(stage.court.stopped().count(), 1);
        let c = stage.file("c", version(1));
        assert_eq!(c, [Action::Spawn(stage.key("c"))]);
    }
}
