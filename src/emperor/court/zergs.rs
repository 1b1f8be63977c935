//! Broodlord mode: reinforcements for overloaded vassals.

use super::vassal::{Then, Vassal, Zerg};
use super::{Court, Identity, Key, Now, VassalName, What};
use std::time::Duration;

/// A vassal is reinforced so often at most: uWSGI looks at its queue once a second. A reinforcement that ends at once
/// must not be called again as fast as its base can ask.
const GAP: Duration = Duration::from_secs(1);

impl Court {
    /// A vassal is overloaded: a reinforcement starts, if there may be one more.
    pub(super) fn reinforce(&mut self, key: Key, now: Now) {
        let base = &mut self.vassals[key];
        let soon = base.reinforced > 0 && Now { micros: base.reinforced, ..now }.after(GAP) > now.micros;
        if self.zergs.len() >= self.policy.broodlord as usize || base.zerg.is_some() || soon {
            return;
        }
        base.reinforced = now.micros;
        self.zergs_ever = self.zergs_ever.saturating_add(1);
        let name = VassalName::new(&[base.name.as_bytes(), b":zerg"].concat());
        let mut zerg = Vassal::new(name, base.source, base.identity, base.scan, now);
        zerg.zerg = Some(Zerg { base: key, number: self.zergs_ever });
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
    use super::super::stage::{Stage, name, s, version};
    use crate::emperor::court::{Action, Event, Key, Order, Policy, Signal, State, Word};
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
}
