//! The world once nothing goes wrong any more: what runs becomes what the files ask for.

use emperor::emperor::court::{Rest, Role, Sign, State};
use emperor::vassal::link::Word;

use super::steps::{Answer, Started};
use super::world::{NAMES, SOURCES, World, name_of};

impl World {
    /// From here on nothing goes wrong: all start, all do what they are told, all files are good and seen.
    pub(crate) fn settle(&mut self) {
        self.calm = true;
        let broken: Vec<_> =
            self.files.iter().filter(|(_, file)| file.broken).map(|(place, _)| *place).collect();
        broken.iter().for_each(|(source, name)| self.write(*source, *name, false, false));
        (0..SOURCES).for_each(|source| self.scan(source));
        for _ in 0..3000 {
            if std::mem::take(&mut self.rescan) {
                (0..SOURCES).for_each(|source| self.scan(source));
            }
            while !self.spawning.is_empty() {
                self.answer(0, Started::Well);
            }
            while !self.admitting.is_empty() {
                let on_demand = self
                    .court
                    .get(self.admitting[0])
                    .is_some_and(|vassal| matches!(vassal.name.as_bytes()[0], b'1' | b'2'));
                self.admitted(0, if on_demand { Answer::OnDemand } else { Answer::Ordinary });
            }
            for key in self.live.keys().copied().collect::<Vec<_>>() {
                self.read(key);
                if self.live.get(&key).is_some_and(|process| !process.hangs) {
                    if self.court.get(key).is_some_and(|vassal| !vassal.instance.ready) {
                        self.shows(key, Sign::Answers);
                    }
                    for word in [Word::Spawned, Word::Accepting, Word::Loyal] {
                        self.say(key, word);
                    }
                }
            }
            let pending = !self.spawning.is_empty() || !self.admitting.is_empty() || self.rescan;
            let doomed = self.live.values().any(|process| process.doomed);
            match self.court.next_timeout() {
                Some(due) => self.pass(due.saturating_sub(self.now.micros)),
                None if !pending && !doomed => return,
                None => {}
            }
        }
        panic!("it does not settle: {:#?}\n{:#?}", self.court, self.live);
    }

    /// What runs is what the files say.
    pub(crate) fn compare(&self) {
        assert!(!self.court.is_starting());
        for name in 0..NAMES {
            let there = (0..SOURCES).any(|source| self.files.contains_key(&(source, name)));
            assert_eq!(there, self.court.find(&name_of(name)).is_some(), "file {name} and its vassal");
        }
        for (key, vassal) in self.court.vassals() {
            let Some(file) = self.file_of(key) else { panic!("{vassal:?} has no file") };
            assert!(!vassal.identity.differs(&file.identity));
            assert!(vassal.zerg.is_none_or(|zerg| self.court.get(zerg.base).is_some()));
            let is_heir = vassal.zerg.is_some_and(|zerg| zerg.role != Role::Reinforcement);
            assert!(!is_heir, "two generations stay: {vassal:?}");
            let by_hand = self.by_hand.get(&vassal.name) == Some(&file.version);
            assert_eq!(by_hand, vassal.state == State::Resting(Rest::ByHand), "{vassal:?}");
            match vassal.state {
                State::Resting(Rest::ByHand) => {}
                State::Up => {
                    let process = &self.live[&key];
                    assert!(
                        process.version == file.version || vassal.runs_old_file(),
                        "{vassal:?} runs an old file: {process:?} {file:?}"
                    );
                }
                State::Waiting => assert!(vassal.on_demand),
                State::Resting(Rest::Idle) => assert_eq!(self.last_version[&key], file.version),
                State::Resting(Rest::Refused) => assert!(self.policy.tyrant && file.identity.uid == 0),
                State::Resting(Rest::Abandoned) => assert!(self.policy.abandon_after > 0),
                state => panic!("{} is still {state:?}", vassal.name),
            }
        }
    }
}
