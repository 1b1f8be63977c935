//! Sets of system calls, and how a person writes them.

use serde::{Deserialize, Serialize};

use super::groups;
use crate::sys::calls;

/// Numbers of this kind of machine's system calls; none is higher than 511.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct CallSet([u64; 8]);

/// How a list of system calls is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listed {
    /// Everything else is refused.
    Allowed,
    /// These are refused: the list began with `~`.
    Refused,
}

impl CallSet {
    /// Higher numbers belong to no call.
    pub(super) const NUMBERS: u32 = 512;

    /// The calls that these words name: calls and `@groups`, of systemd 252.
    ///
    /// # Errors
    /// The first word that is neither.
    pub fn of_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, String> {
        let mut set = Self::default();
        words.into_iter().try_for_each(|word| set.add(word))?;
        Ok(set)
    }

    /// Without these nothing can be started or ended. No filter refuses them.
    #[must_use]
    pub fn needed() -> Self {
        Self::of_words(["execve", "exit", "exit_group", "rt_sigreturn"]).unwrap_or_default()
    }

    /// Every call that this program knows.
    pub(super) fn known() -> Self {
        let mut set = Self::default();
        calls::all().for_each(|(_, number)| set.insert(number));
        set
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        if let Some(members) = groups::members(word) {
            for member in members {
                self.add(member)?;
            }
        } else if let Some(number) = calls::number(word) {
            self.insert(number);
        } else if word.starts_with('@') {
            let known: Vec<&str> = groups::names().collect();
            return Err(format!("{word} is no group of system calls (known: {})", known.join(" ")));
        } else if word.contains(':') {
            return Err(format!(
                "{word}: what is refused fails with EPERM, and no other error can be chosen"
            ));
        } else if !groups::knows(word) {
            return Err(format!("{word} is no system call"));
        }
        Ok(())
    }

    fn insert(&mut self, number: i64) {
        if let Some((word, bit)) = u32::try_from(number).ok().and_then(place) {
            self.0[word] |= bit;
        }
    }

    /// Whether the call of that number is in it.
    #[must_use]
    pub fn holds(&self, number: u32) -> bool {
        place(number).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is in either.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        self.each(other, |one, two| one | two)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn without(self, other: &Self) -> Self {
        self.each(other, |one, two| one & !two)
    }

    /// What is not in it.
    #[must_use]
    pub fn others(self) -> Self {
        self.each(&Self::default(), |one, _| !one)
    }

    fn each(mut self, other: &Self, what: impl Fn(u64, u64) -> u64) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(one, two)| *one = what(*one, two));
        self
    }

    /// How many calls that exist are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names().count()
    }

    /// The names of those that exist.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        calls::all()
            .filter(|(_, number)| u32::try_from(*number).is_ok_and(|it| self.holds(it)))
            .map(|it| it.0)
    }
}

fn place(number: u32) -> Option<(usize, u64)> {
    (number < CallSet::NUMBERS).then_some(((number / 64) as usize, 1 << (number % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_group_is_a_call_or_that_of_another_machine() {
        for group in groups::names() {
            let set = CallSet::of_words([group]).unwrap();
            let foreign = ["@cpu-emulation", "@raw-io", "@obsolete"]; // there is little of it elsewhere
            assert!(!set.is_empty() || foreign.contains(&group), "{group}");
        }
    }

    #[test]
    fn no_two_calls_share_a_number_and_all_have_a_place() {
        let mut seen = std::collections::HashMap::new();
        for (name, number) in calls::all() {
            assert!((0..i64::from(CallSet::NUMBERS)).contains(&number), "{name}");
            assert_eq!(seen.insert(number, name), None, "{name}");
            assert!(groups::knows(name), "{name} is in no group");
        }
    }

    #[test]
    fn a_word_that_is_nothing_is_named_and_a_foreign_one_is_not() {
        assert!(CallSet::of_words(["raed"]).unwrap_err().contains("raed is no system call"));
        assert!(CallSet::of_words(["@clocks"]).unwrap_err().contains("@clock "));
        assert!(CallSet::of_words(["reboot:ENOSYS"]).unwrap_err().contains("no other error"));
        assert!(CallSet::of_words(["s390_sthyi", "mmap2"]).unwrap().is_empty());
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let of = |words: &str| CallSet::of_words(words.split(' ')).unwrap();
        assert_eq!(of("read write").without(&of("read")), of("write"));
        assert_eq!(of("read").with(&of("write")), of("write read"));
        assert!(!of("read").others().holds(0) && of("read").others().holds(1), "read is 0 on x86_64 only");
        assert_eq!(of("@swap").names().collect::<Vec<_>>().len(), 2);
    }
}
