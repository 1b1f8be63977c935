//! Whose turn it is: those that wait to start, and how owners share the turns.
//!
//! Each that comes is given the number of a round. An owner has one place in each round, so whoever has a hundred
//! thousand vassals waits for his own, and somebody with a single one is in the next round whatever the others have.
//! Within a round, and among the vassals of one owner, the order is that in which they came.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::Key;

/// So many places of those that were lost, and so many owners who wait no more, may stay however few wait.
const FEW: usize = 64;

/// Those that wait for their turn, and some that were struck off meanwhile.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those that had their turn and could not be made. They come first.
    refused: VecDeque<Key>,
    /// How many at their front were put back together.
    together: usize,
    /// The others, by round and by when they came.
    waiting: BinaryHeap<Reverse<(u64, u64, Key)>>,
    /// The last round in which an owner has a place, where it is still to come or is the present one.
    last: HashMap<u32, u64>,
    round: u64,
    came: u64,
    /// How many of all these were struck off.
    lost: usize,
}

impl Turns {
    /// How many places there are, those of the lost included.
    pub(super) fn len(&self) -> usize {
        self.refused.len() + self.waiting.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() <= self.lost
    }

    /// One more waits.
    pub(super) fn add(&mut self, key: Key, owner: u32) {
        let next = self.last.get(&owner).map_or(0, |last| last + 1);
        let round = self.round.max(next);
        self.last.insert(owner, round);
        self.came += 1;
        self.waiting.push(Reverse((round, self.came, key)));
        if self.last.len() > self.waiting.len() + FEW {
            self.last.retain(|_, last| *last >= self.round);
        }
    }

    /// One that had its turn waits again, before all others. Those that are put back one after the other keep their
    /// order.
    pub(super) fn put_back(&mut self, key: Key) {
        self.refused.insert(self.together.min(self.refused.len()), key);
        self.together += 1;
    }

    /// Those that are put back from now on come before those that were put back until now.
    pub(super) fn part(&mut self) {
        self.together = 0;
    }

    /// The one whose turn it is, of those that still wait.
    pub(super) fn next(&mut self, waits: impl Fn(Key) -> bool) -> Option<Key> {
        loop {
            let key = if let Some(key) = self.refused.pop_front() {
                key
            } else if let Some(Reverse((round, _, key))) = self.waiting.pop() {
                self.round = round;
                key
            } else {
                if self.came > 0 {
                    *self = Self::default(); // and the memory goes: there may have been many
                }
                return None;
            };
            if waits(key) {
                return Some(key);
            }
            self.lost = self.lost.saturating_sub(1);
        }
    }

    /// One was struck off while it waited. Its place is cleared away with others', or when its turn comes.
    pub(super) fn lose(&mut self, waits: impl Fn(Key) -> bool) {
        self.lost += 1;
        if self.lost > FEW && self.lost > self.len() / 2 {
            self.refused.retain(|key| waits(*key));
            self.waiting.retain(|Reverse((_, _, key))| waits(*key));
            (self.lost, self.together) = (0, 0);
        }
    }

    #[cfg(test)]
    pub(super) fn has_no_memory(&self) -> bool {
        self.last.capacity() + self.waiting.capacity() + self.refused.capacity() == 0
    }
}
