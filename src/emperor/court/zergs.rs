//! Broodlord mode: reinforcements for overloaded vassals.

use super::vassal::{Then, Vassal, Zerg};
use super::{Court, Identity, Key, Now, VassalName, What};

impl Court {
    /// A vassal is overloaded: a reinforcement starts, if there may be one more.
    pub(super) fn reinforce(&mut self, key: Key, now: Now) {
        let base = &self.vassals[key];
        if self.zergs.len() >= self.policy.broodlord as usize || base.zerg.is_some() {
            return;
        }
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
