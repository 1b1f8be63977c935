//! Broodlord mode: reinforcements for overloaded vassals.

use super::vassal::{Role, State, Then, Vassal, Zerg};
use super::{Court, Identity, Key, Now, Reign, VassalName, What};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A vassal is reinforced so often at most: uWSGI looks at its queue once a second. A reinforcement that ends at once
/// must not be called again as fast as its base can ask.
const GAP: Duration = Duration::from_secs(1);
/// Who has asked in vain is still overloaded for so long.
const WISH: Duration = Duration::from_secs(10);

/// How a program is reinforced that cannot ask for it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Scale {
    /// The most processes, its own included.
    pub max: u32,
    /// So many that wait call for one more.
    pub backlog: u32,
    /// How long nobody may have waited before one is taken away.
    pub cooldown: Duration,
}

/// A vassal that has asked when there was no place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) base: Key,
    until: u64,
}

impl Court {
    /// A vassal says that it is overloaded (byte 30).
    pub(super) fn reinforce(&mut self, key: Key, now: Now) {
        if self.policy.broodlord > 0 {
            self.call_zerg(key, now);
        }
    }

    /// So many wait at a vassal's sockets.
    pub(super) fn look_at_queue(&mut self, key: Key, waiting: u32, scale: Scale, now: Now) {
        let base = &self.vassals[key];
        if base.state != State::Up || !base.is_alive() || base.zerg.is_some() {
            return;
        }
        let crowded = self.crowded.entry(key).or_insert(now.micros);
        if waiting > 0 {
            *crowded = now.micros;
        }
        let quiet = now.since(*crowded) >= scale.cooldown;
        let zergs = self.zergs_of(key);
        let comes = |zerg: &Key| {
            let zerg = &self.vassals[*zerg];
            zerg.state != State::Up || zerg.instance.starting
        };
        let others = u32::try_from(zergs.len()).unwrap_or(u32::MAX);
        if waiting >= scale.backlog && others < scale.max.saturating_sub(1) && !zergs.iter().any(comes) {
            self.call_zerg(key, now);
        } else if let (true, Some(newest)) = (quiet, zergs.last()) {
            self.crowded.insert(key, now.micros);
            self.retire(*newest, now);
        }
    }

    /// A reinforcement starts if there may be one more, and nobody with fewer waits for one.
    fn call_zerg(&mut self, key: Key, now: Now) {
        let base = &mut self.vassals[key];
        let soon = base.reinforced > 0 && Now { micros: base.reinforced, ..now }.after(GAP) > now.micros;
        if base.zerg.is_some() || soon {
            return;
        }
        base.reinforced = now.micros;
        let own = self.zergs_of(key).len();
        if self.policy.zergs_each > 0 && own >= self.policy.zergs_each as usize {
            return;
        }
        self.asking.retain(|asking| asking.base != key);
        self.asking.push(Asking { base: key, until: now.after(WISH) });
        self.grant(now);
        let denied = self.asking.iter().any(|asking| asking.base == key);
        if denied {
            self.share_out(own, now);
        }
    }

    /// Gives the places that are free to those who have asked: who has the fewest comes first, then who asked first.
    pub(super) fn grant(&mut self, now: Now) {
        let lasting = self.reign == Reign::Lasting;
        self.asking.retain(|asking| asking.until > now.micros && lasting);
        loop {
            let all = self.policy.broodlord as usize;
            let full = all > 0 && self.zergs.len() >= all;
            let can = |asking: &&Asking| {
                self.vassals.get(asking.base).is_some_and(|base| base.state == State::Up && base.is_alive())
            };
            let first = self.asking.iter().filter(can).min_by_key(|asking| self.zergs_of(asking.base).len());
            let Some(base) = first.map(|asking| asking.base).filter(|_| !full) else { return };
            self.asking.retain(|asking| asking.base != base);
            self.start_zerg(base, now);
        }
    }

    /// Nobody keeps two more than one who asks has: the newest of who has most ends gracefully, one at a time.
    fn share_out(&mut self, own: usize, now: Now) {
        let ends = |zerg: &Key| matches!(self.vassals[*zerg].state, State::Stopping(_) | State::Cursed);
        if self.zergs.iter().any(ends) {
            return; // a place is about to be free
        }
        let base_of = |zerg: &Key| self.vassals[*zerg].zerg.map(|zerg| zerg.base);
        let count = |zerg: &&Key| self.zergs.iter().filter(|other| base_of(other) == base_of(zerg)).count();
        let Some(newest) = self.zergs.iter().max_by_key(count).filter(|zerg| count(zerg) >= own + 2) else {
            return;
        };
        self.retire(*newest, now);
    }

    /// Takes one that belongs to another away: it ends its requests first.
    pub(super) fn retire(&mut self, zerg: Key, now: Now) {
        self.retiring.insert(zerg);
        self.stop(zerg, Then::Forget, now);
    }

    fn start_zerg(&mut self, key: Key, now: Now) {
        let base = &self.vassals[key];
        self.zergs_ever = self.zergs_ever.saturating_add(1);
        let name = VassalName::new(&[base.name.as_bytes(), b":zerg"].concat());
        let mut zerg = Vassal::new(name, base.source, base.identity, base.scan, now);
        zerg.zerg = Some(Zerg { base: key, number: self.zergs_ever, role: Role::Reinforcement });
        zerg.born = now.epoch;
        self.say(key, What::Reinforced);
        let zerg = self.vassals.insert(zerg);
        self.zergs.push(zerg);
        self.enqueue(zerg);
    }

    /// The reinforcements of a vassal. They end with it; a crash of it they outlive.
    pub(super) fn zergs_of(&self, base: Key) -> Vec<Key> {
        let is_its = |zerg: &Key| self.vassals[*zerg].zerg.is_some_and(|zerg| zerg.base == base);
        self.zergs.iter().copied().filter(is_its).collect()
    }

    /// A vassal ends on purpose, or for good: its reinforcements do too.
    pub(super) fn dismiss_zergs(&mut self, base: Key, now: Now) {
        for zerg in self.zergs_of(base) {
            self.stop(zerg, Then::Forget, now);
        }
        self.dismiss_successor(base, now);
    }

    /// The file of a vassal has changed. Its reinforcements run from the same.
    pub(super) fn change_zergs(&mut self, base: Key, identity: Identity, now: Now) {
        for zerg in self.zergs_of(base) {
            self.vassals[zerg].identity = identity;
            self.reload(zerg, true, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use crate::emperor::court::{Action, Event, Key, Order, Policy, Scale, Signal, State, Word};
    use crate::emperor::source::Identity;

    fn reinforced(policy: Policy) -> (Stage, Key, Key) {
        let mut stage = Stage::new(Policy { broodlord: 2, ..policy });
        let base = stage.loyal("a");
        let zerg = match stage.say(base, Word::Sos)[..] {
            [Action::Spawn(zerg)] => zerg,
            ref other => panic!("{other:?}"),
        };
        stage.start(zerg);
        stage.say(zerg, Word::Loyal);
        stage.pass(ms(250));
        (stage, base, zerg)
    }

    #[test]
    fn parity_reinforcements_are_bounded_in_total_and_numbered_from_one() {
        let (mut stage, base, first) = reinforced(Policy::default());
        let other = stage.loyal("b");
        assert_eq!(stage.say(first, Word::Sos), [], "a reinforcement has none of its own");
        let second = match stage.say(other, Word::Sos)[..] {
            [Action::Spawn(second)] => second,
            ref done => panic!("{done:?}"),
        };
        stage.start(second);
        assert_eq!(stage.say(base, Word::Sos), [], "that is all there may be");
        let number = |stage: &Stage, key| stage.vassal(key).zerg.map(|zerg| (zerg.base, zerg.number));
        assert_eq!(number(&stage, first), Some((base, 1)));
        assert_eq!(number(&stage, second), Some((other, 2)));
        assert_eq!(stage.vassal(first).name, name("a:zerg"));
        stage.die(first);
        assert!(stage.court.get(first).is_none(), "it is not started again");
        assert_eq!(stage.say(base, Word::Sos), [], "not as fast as they end");
        stage.pass(s(1));
        let third = stage.say(base, Word::Sos);
        assert!(matches!(third[..], [Action::Spawn(key)] if number(&stage, key) == Some((base, 3))));
    }

    #[test]
    fn none_are_called_unless_there_may_be_some() {
        let mut stage = Stage::new(Policy::default());
        let base = stage.loyal("a");
        assert_eq!(stage.say(base, Word::Sos), []);
    }

    #[test]
    fn they_are_told_to_reload_with_their_base_and_each_once() {
        for signal in [true, false] {
            let (mut stage, base, zerg) = reinforced(Policy::default());
            let told = if signal { stage.on(Event::ReloadAll) } else { stage.file("a", version(2)) };
            let tells = |key| Action::Reload { key, changed: !signal };
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told.contains(&tells(base)) && told.contains(&tells(zerg)), "{told:?}");
            assert_eq!(stage.vassal(zerg).last_mod(), stage.vassal(base).last_mod());
        }
    }

    #[test]
    fn they_end_with_their_base() {
        // How the base ends, and whether that is in tyrant mode.
        type End = fn(&mut Stage, Key) -> Vec<Action>;
        let mut ends: Vec<(bool, End)> = Vec::new();
        ends.push((false, |stage, _| stage.gone("a")));
        ends.push((false, |stage, base| stage.say(base, Word::Idle)));
        ends.push((true, |stage, _| stage.file("a", Identity { uid: 9, ..version(1) })));
        for (row, (tyrant, end)) in ends.into_iter().enumerate() {
            let (mut stage, base, zerg) = reinforced(Policy { tyrant, ..Policy::default() });
            let ended = end(&mut stage, base);
            assert!(ended.contains(&Action::Stop(zerg, Order::Stop)), "row {row}: {ended:?}");
            assert_eq!(ended.iter().filter(|action| matches!(action, Action::Stop(..))).count(), 2);
            assert_eq!(
                stage.die(zerg),
                [Action::Ended(name("a:zerg")), Action::Forget(zerg, name("a:zerg"))]
            );
            assert!(stage.court.zergs.is_empty());
        }
    }

    #[test]
    fn they_outlive_a_crash_of_their_base_and_hear_of_its_changes() {
        let (mut stage, base, zerg) = reinforced(Policy::default());
        stage.on(Event::LinkClosed(base));
        assert_eq!(stage.file("a", version(2)), [Action::Reload { key: zerg, changed: true }]);
        assert_eq!(stage.die(base), [Action::Ended(name("a")), Action::Spawn(base)]);
        assert_eq!(stage.state(zerg), State::Up);
    }

    #[test]
    fn one_that_waits_for_its_turn_goes_with_its_base() {
        let mut stage = Stage::new(Policy { broodlord: 2, max_starting: 1, ..Policy::default() });
        let base = stage.loyal("a");
        stage.file("b", version(1));
        assert_eq!(stage.say(base, Word::Sos), []);
        let zerg = stage.court.zergs[0];
        assert_eq!(stage.gone("a"), [Action::Forget(zerg, name("a:zerg")), Action::Stop(base, Order::Stop)]);
        let b = stage.key("b");
        stage.start(b);
        assert_eq!(stage.pass(s(1)), []);
    }

    #[test]
    fn one_that_is_being_made_while_its_base_goes_does_not_stay() {
        for machine in [None, Some(false), Some(true)] {
            let mut stage = Stage::new(Policy { broodlord: 2, ..Policy::default() });
            let base = stage.loyal("a");
            stage.say(base, Word::Sos);
            let zerg = stage.court.zergs[0];
            stage.gone("a");
            match machine {
                Some(machine) => drop(stage.on(Event::NotStarted(zerg, machine))),
                None => {
                    let stop = [Action::Stop(zerg, Order::Stop), Action::Signal(zerg, Signal::Term)];
                    assert_eq!(stage.start(zerg), stop);
                    stage.die(zerg);
                }
            }
            assert!(stage.court.get(zerg).is_none());
            assert!(stage.court.zergs.is_empty() && !stage.court.is_starting());
        }
    }

    const SCALE: Scale = Scale { max: 4, backlog: 10, cooldown: s(60) };

    fn zergs(stage: &Stage, base: Key) -> Vec<Key> {
        stage.court.zergs_of(base)
    }

    /// So many wait at the sockets of a vassal; what it calls for starts.
    fn queue(stage: &mut Stage, base: Key, waiting: u32) -> Vec<Action> {
        stage.pass(s(1));
        let actions = stage.on(Event::Queue { key: base, waiting, scale: SCALE });
        for action in &actions {
            if let Action::Spawn(zerg) = *action {
                stage.start(zerg);
                stage.say(zerg, Word::Accepting);
            }
        }
        actions
    }

    #[test]
    fn a_program_whose_queue_is_long_is_reinforced_up_to_its_most_and_back_after_the_cool_down() {
        let mut stage = Stage::new(Policy::default());
        let base = stage.up("a");
        assert_eq!(queue(&mut stage, base, 9), []);
        for count in 1..=3 {
            assert_eq!(queue(&mut stage, base, 10).len(), 1);
            assert_eq!(zergs(&stage, base).len(), count);
        }
        assert_eq!(queue(&mut stage, base, 1000), [], "that is its most");
        // Somebody waits now and then: they are still of use.
        for _ in 0..5 {
            stage.pass(s(50));
            assert_eq!(queue(&mut stage, base, 1), []);
        }
        for left in (0..3).rev() {
            stage.pass(s(58));
            assert_eq!(queue(&mut stage, base, 0), [], "not yet");
            let newest = zergs(&stage, base)[left];
            stage.pass(s(1));
            assert_eq!(queue(&mut stage, base, 0), [Action::Stop(newest, Order::StopGracefully)]);
            stage.die(newest);
            assert_eq!(zergs(&stage, base).len(), left);
        }
        stage.pass(s(600));
        assert_eq!(queue(&mut stage, base, 0), []);
    }

    #[test]
    fn a_reinforcement_that_is_not_up_yet_is_waited_for() {
        let mut stage = Stage::new(Policy::default());
        let base = stage.up("a");
        stage.pass(s(1));
        let long = Event::Queue { key: base, waiting: 99, scale: SCALE };
        let [Action::Spawn(zerg)] = stage.on(long.clone())[..] else { panic!() };
        stage.pass(s(5));
        assert_eq!(stage.on(long.clone()), [], "it is being made");
        stage.start(zerg);
        assert_eq!(stage.on(long.clone()), [], "it starts");
        stage.say(zerg, Word::Accepting);
        assert!(matches!(stage.on(long)[..], [Action::Spawn(_)]));
    }

    #[test]
    fn places_are_shared_over_those_who_ask() {
        let mut stage = Stage::new(Policy { broodlord: 4, ..Policy::default() });
        let [a, b, c] = ["a", "b", "c"].map(|name| stage.loyal(name));
        let ask = |stage: &mut Stage, base: Key| {
            let mut actions = stage.say(base, Word::Sos);
            for action in actions.clone() {
                if let Action::Spawn(zerg) = action {
                    stage.start(zerg);
                    stage.say(zerg, Word::Loyal);
                }
            }
            actions.retain(|action| matches!(action, Action::Stop(..)));
            actions
        };
        for _ in 0..6 {
            ask(&mut stage, a);
            stage.pass(s(1));
        }
        assert_eq!(zergs(&stage, a).len(), 4, "nobody else has asked");
        // The others get theirs as it ends them, one by one, and it is not robbed of what is its share.
        for _ in 0..40 {
            for base in [a, b, c] {
                for action in ask(&mut stage, base) {
                    let Action::Stop(zerg, order) = action else { continue };
                    assert_eq!(order, Order::StopGracefully);
                    for action in stage.die(zerg) {
                        if let Action::Spawn(next) = action {
                            stage.start(next);
                            stage.say(next, Word::Loyal);
                        }
                    }
                }
            }
            stage.pass(s(1));
            assert!(stage.court.zergs.len() <= 4);
        }
        let mut shares = [a, b, c].map(|base| zergs(&stage, base).len());
        shares.sort_unstable();
        assert_eq!(shares, [1, 1, 2]);
    }

    #[test]
    fn a_place_that_becomes_free_is_for_who_has_asked_lately_and_has_fewest() {
        let mut stage = Stage::new(Policy { broodlord: 2, ..Policy::default() });
        let [a, b] = ["a", "b"].map(|name| stage.loyal(name));
        let first = match stage.say(a, Word::Sos)[..] {
            [Action::Spawn(zerg)] => zerg,
            ref other => panic!("{other:?}"),
        };
        stage.start(first);
        stage.pass(s(1));
        let [Action::Spawn(second)] = stage.say(b, Word::Sos)[..] else { panic!() };
        stage.start(second);
        stage.pass(s(1));
        assert_eq!(stage.say(b, Word::Sos), []);
        let after = stage.die(second);
        assert!(
            matches!(after.last(), Some(Action::Spawn(zerg)) if zergs(&stage, b) == [*zerg]),
            "{after:?}"
        );
        stage.pass(s(3600));
        let after = stage.die(first);
        assert!(
            !after.iter().any(|action| matches!(action, Action::Spawn(_))),
            "nobody asks any more: {after:?}"
        );
    }

    #[test]
    fn no_vassal_has_more_than_its_own_most() {
        let mut stage = Stage::new(Policy { broodlord: 10, zergs_each: 2, ..Policy::default() });
        let a = stage.loyal("a");
        for _ in 0..5 {
            if let [Action::Spawn(zerg)] = stage.say(a, Word::Sos)[..] {
                stage.start(zerg);
            }
            stage.pass(s(1));
        }
        assert_eq!(zergs(&stage, a).len(), 2);
    }
}
