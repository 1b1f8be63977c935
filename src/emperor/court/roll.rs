//! The roll of the vassals: a table whose keys never mean another entry later.

use super::vassal::Vassal;

/// A vassal's place in the roll. Never reused with the same value.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The place in a table beside the roll. Of all keys at one moment, no two have the same.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The key as a number, for the kernel to give back.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key of a number that [`Key::to_bits`] made.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the number")]
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Place {
    generation: u32,
    vassal: Option<Vassal>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Roll {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Roll {
    /// Enters a vassal.
    pub(super) fn insert(&mut self, vassal: Vassal) -> Key {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.vassal = Some(vassal);
            return Key { index, generation: place.generation };
        }
        let index = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.places.push(Place { generation: 0, vassal: Some(vassal) });
        Key { index, generation: 0 }
    }

    /// Strikes a vassal off.
    pub(super) fn remove(&mut self, key: Key) -> Option<Vassal> {
        let place = self.places.get_mut(key.index()).filter(|place| place.generation == key.generation)?;
        let vassal = place.vassal.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(vassal)
    }

    /// The vassal of a key, unless it has been struck off.
    pub(super) fn get(&self, key: Key) -> Option<&Vassal> {
        self.places.get(key.index()).filter(|place| place.generation == key.generation)?.vassal.as_ref()
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Vassal> {
        self.places.get_mut(key.index()).filter(|place| place.generation == key.generation)?.vassal.as_mut()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Vassal)> {
        (0..).zip(&self.places).filter_map(|(index, place)| {
            Some((Key { index, generation: place.generation }, place.vassal.as_ref()?))
        })
    }

    /// The keys of those for which `wanted` holds.
    pub(super) fn keys(&self, wanted: impl Fn(&Vassal) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, vassal)| wanted(vassal)).map(|(key, _)| key).collect()
    }
}

impl std::ops::Index<Key> for Roll {
    type Output = Vassal;

    /// # Panics
    /// When the key's vassal has been struck off: the court checks each key that comes from outside.
    fn index(&self, key: Key) -> &Vassal {
        self.get(key).unwrap_or_else(|| panic!("{key:?} is not on the roll"))
    }
}

impl std::ops::IndexMut<Key> for Roll {
    fn index_mut(&mut self, key: Key) -> &mut Vassal {
        self.get_mut(key).unwrap_or_else(|| panic!("{key:?} is not on the roll"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, name, version};
    use super::*;
    use crate::emperor::court::Policy;

    #[test]
    fn a_key_never_means_another_vassal_later() {
        let mut stage = Stage::new(Policy::default());
        let mut keys = std::collections::HashSet::new();
        for _ in 0..100 {
            stage.file("a", version(1));
            let key = stage.key("a");
            assert!(keys.insert(key));
            assert_eq!(Key::from_bits(key.to_bits()), key);
            stage.start(key);
            stage.gone("a");
            stage.die(key);
            assert!(stage.court.get(key).is_none());
        }
        assert_eq!(stage.court.vassals.places.len(), 1, "places are used again");
        assert_eq!(stage.court.find(&name("a")), None);
    }
}
