//! Who may start now: the queue, and what happens when the machine is short of processes.

use super::roll::Roll;
use super::vassal::{Instance, State};
use super::{Action, Court, Key, Now, Reign, What};
use std::time::Duration;

/// How long nobody is started after the machine refused to make a process.
pub(super) const HOLD: Duration = Duration::from_secs(1);

impl Court {
    /// A vassal waits for its turn from now on. Where vassals are of different people, each of them has turns of his
    /// own; otherwise all are one owner's.
    pub(super) fn enqueue(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        vassal.state = State::Queued;
        vassal.deadline = 0;
        let owner = if self.policy.tyrant { vassal.identity.uid } else { 0 };
        self.queue.add(key, owner);
    }

    /// Lets as many start as may be starting at once, each when it is its turn.
    pub(super) fn admit_starters(&mut self, now: Now) {
        if self.hold_until > now.micros || self.reign != Reign::Lasting {
            return;
        }
        self.hold_until = 0;
        self.queue.part();
        // After a shortage one vassal tries first whether it is over.
        while self.starting < if self.probing { 1 } else { self.policy.max_starting.max(1) }
            && let Some(key) = self.queue.next(|key| waits(&self.vassals, key))
        {
            if self.refuse(key, now) {
                continue; // its file has got another owner while it waited
            }
            let vassal = &mut self.vassals[key];
            vassal.state = State::Up;
            *vassal.instance = Instance { starting: true, started: now.micros, ..Default::default() };
            vassal.course = None; // until it is known what its file asks for
            self.starting += 1;
            self.out.push(Action::Spawn(key));
        }
        if self.queue.is_empty() && self.starting == 0 {
            (self.short, self.probing) = (false, false); // the next shortage is another one
        }
    }

    /// The machine could not make a process: nobody is to blame, and nobody else is tried for a moment.
    pub(super) fn hold(&mut self, key: Key, now: Now) {
        if !std::mem::replace(&mut self.short, true) {
            self.tell_all(What::ShortOfProcesses);
        }
        self.probing = true;
        self.hold_until = now.after(HOLD);
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        self.queue.put_back(key);
    }

    /// A vassal no longer counts among those that are starting.
    pub(super) fn release(&mut self, key: Key) {
        if std::mem::take(&mut self.vassals[key].instance.starting) {
            self.starting -= 1;
            if self.vassals[key].state == State::Up {
                self.vassals[key].deadline = 0;
            }
        }
    }

    /// A vassal was struck off while it waited.
    pub(super) fn leave_queue(&mut self) {
        self.queue.lose(|key| waits(&self.vassals, key));
    }
}

fn waits(vassals: &Roll, key: Key) -> bool {
    vassals.get(key).is_some_and(|vassal| vassal.state == State::Queued)
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Policy, Word};
    use crate::emperor::source::Identity;

    fn crowd(max_starting: u32, names: &[&str]) -> (Stage, Vec<Action>) {
        let mut stage = Stage::new(Policy { max_starting, ..Policy::default() });
        let spawned = names.iter().flat_map(|name| stage.file(name, version(1))).collect();
        (stage, spawned)
    }

    #[test]
    fn no_more_start_at_once_than_may_and_the_others_follow_in_the_order_they_came() {
        let (mut stage, spawned) = crowd(2, &["d", "a", "c", "b"]);
        let [d, a, c, b] = ["d", "a", "c", "b"].map(|name| stage.key(name));
        assert_eq!(spawned, [Action::Spawn(d), Action::Spawn(a)]);
        assert_eq!(stage.start(d), []);
        assert_eq!(stage.start(a), []);
        assert_eq!(stage.say(a, Word::Heartbeat), [], "a heartbeat is no sign of having started");
        assert_eq!(stage.say(a, Word::Accepting), [Action::Spawn(c)]);
        assert_eq!(stage.die(d), [Action::Ended(name("d")), Action::Spawn(b)]);
        assert!(stage.court.is_starting());
    }

    /// The names in the order in which they are started, one at a time.
    fn order(stage: &mut Stage) -> String {
        let mut order = String::new();
        while let Some(&key) = stage.court.vassals.keys(|vassal| vassal.instance.starting).first() {
            order += &format!("{} ", stage.vassal(key).name);
            if !stage.vassal(key).is_alive() {
                stage.start(key);
            }
            stage.say(key, Word::Accepting);
        }
        order
    }

    fn owned(tyrant: bool, files: &[(&str, u32)]) -> Stage {
        let mut stage = Stage::new(Policy { max_starting: 1, tyrant, ..Policy::default() });
        for (name, uid) in files {
            stage.file(name, Identity { uid: *uid, ..version(1) });
        }
        stage
    }

    const OF_THREE: [(&str, u32); 8] =
        [("a1", 1), ("a2", 1), ("a3", 1), ("a4", 1), ("b1", 2), ("c1", 3), ("c2", 3), ("b2", 2)];

    #[test]
    fn in_tyrant_mode_owners_take_turns() {
        assert_eq!(order(&mut owned(true, &OF_THREE)), "a1 b1 c1 a2 c2 b2 a3 a4 ");
        assert_eq!(order(&mut owned(false, &OF_THREE)), "a1 a2 a3 a4 b1 c1 c2 b2 ", "all are the emperor's");
    }

    #[test]
    fn whoever_comes_late_waits_for_one_turn_of_each_other_and_saves_none_up() {
        let mut stage = owned(true, &OF_THREE[..4]);
        for name in ["a1", "a2"] {
            let key = stage.key(name);
            stage.start(key);
            stage.say(key, Word::Accepting);
        }
        for name in ["b1", "b2", "b3"] {
            stage.file(name, Identity { uid: 2, ..version(1) });
        }
        assert_eq!(order(&mut stage), "a3 b1 a4 b2 b3 ");
    }

    #[test]
    fn a_place_that_is_lost_costs_nobody_else_a_turn() {
        let mut stage = owned(true, &OF_THREE);
        for name in ["a2", "a3", "c1"] {
            stage.gone(name);
        }
        assert_eq!(order(&mut stage), "a1 b1 c2 b2 a4 ");
    }

    #[test]
    fn who_was_refused_for_a_shortage_has_had_his_turn_and_comes_first() {
        let mut stage = owned(true, &OF_THREE[..6]);
        let a1 = stage.key("a1");
        stage.on(Event::NotStarted(a1, true));
        stage.file("d1", Identity { uid: 4, ..version(1) });
        stage.pass(s(1));
        assert_eq!(order(&mut stage), "a1 b1 c1 d1 a2 a3 a4 ");
    }

    #[test]
    fn a_hundred_thousand_files_of_one_delay_another_by_those_that_start_already() {
        let mut stage = Stage::new(Policy { max_starting: 4, tyrant: true, ..Policy::default() });
        for number in 0..100_000 {
            stage.file(&number.to_string(), Identity { uid: 1, ..version(1) });
        }
        assert_eq!(stage.file("late", Identity { uid: 2, ..version(1) }), []);
        let [first, late] = ["0", "late"].map(|name| stage.key(name));
        stage.start(first);
        assert_eq!(stage.say(first, Word::Accepting), [Action::Spawn(late)]);
    }

    #[test]
    fn nothing_stays_of_those_that_have_waited() {
        let mut stage = Stage::new(Policy { max_starting: 1, tyrant: true, ..Policy::default() });
        for uid in 1..1000 {
            stage.file(&uid.to_string(), Identity { uid, ..version(1) });
        }
        order(&mut stage);
        assert!(stage.court.queue.has_no_memory());
    }

    #[test]
    fn a_silent_program_makes_room_after_half_a_second() {
        let (mut stage, _) = crowd(1, &["a", "b"]);
        let [a, b] = ["a", "b"].map(|name| stage.key(name));
        stage.start(a);
        assert_eq!(stage.pass(ms(499)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Spawn(b)]);
    }

    #[test]
    fn a_limit_of_none_at_once_still_lets_one() {
        let (stage, spawned) = crowd(0, &["a", "b"]);
        assert_eq!(spawned, [Action::Spawn(stage.key("a"))]);
    }

    #[test]
    fn a_shortage_is_told_once_blames_nobody_and_one_tries_for_all() {
        let (mut stage, spawned) = crowd(2, &["a", "b", "c"]);
        let [a, b, c] = ["a", "b", "c"].map(|name| stage.key(name));
        assert_eq!(spawned, [Action::Spawn(a), Action::Spawn(b)]);
        assert_eq!(stage.on(Event::NotStarted(a, true)), []);
        assert_eq!(stage.told, [What::ShortOfProcesses]);
        assert_eq!(stage.on(Event::NotStarted(b, true)), []);
        assert_eq!(stage.told, []);
        assert_eq!(stage.pass(ms(999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Spawn(a)], "the first tries alone");
        assert_eq!(stage.on(Event::NotStarted(a, true)), []);
        assert_eq!(stage.told, []);
        assert_eq!(stage.pass(s(1)), [Action::Spawn(a)]);
        assert_eq!(stage.start(a), [Action::Spawn(b)], "it is over, and the order is kept");
        assert_eq!(stage.say(a, Word::Spawned), [Action::Spawn(c)]);
        assert!([a, b, c].into_iter().all(|key| stage.vassal(key).backoff.is_none()));
    }

    #[test]
    fn the_next_shortage_is_told_again() {
        let (mut stage, _) = crowd(2, &["a"]);
        let a = stage.key("a");
        for _ in 0..2 {
            stage.on(Event::NotStarted(a, true));
            assert_eq!(stage.told, [What::ShortOfProcesses]);
            stage.pass(s(1));
            stage.start(a);
            stage.say(a, Word::Loyal);
            stage.die(a);
        }
    }

    #[test]
    fn files_that_come_and_go_while_nobody_can_start_do_not_fill_the_queue() {
        let (mut stage, _) = crowd(1, &["a"]);
        let a = stage.key("a");
        stage.on(Event::NotStarted(a, true));
        for _ in 0..10_000 {
            stage.file("b", version(1));
            stage.gone("b");
        }
        assert!(stage.court.queue.len() < 100, "{}", stage.court.queue.len());
        stage.gone("a");
        assert!(!stage.court.is_starting());
        assert_eq!(stage.court.next_timeout(), None);
    }
}
