//! Who may start now: the queue, and what happens when the machine is short of processes.

use super::vassal::{Instance, State};
use super::{Action, Court, Key, Now, Reign, What};
use std::time::Duration;

/// How long nobody is started after the machine refused to make a process.
pub(super) const HOLD: Duration = Duration::from_secs(1);
/// So many of those that were lost while they waited may stay in the queue, whatever its length.
const FEW: usize = 64;

impl Court {
    /// Puts a vassal at the end of those that wait for their turn.
    pub(super) fn enqueue(&mut self, key: Key) {
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        self.queue.push_back(key);
    }

    /// Lets as many start as may be starting at once, in the order in which they came.
    pub(super) fn admit_starters(&mut self, now: Now) {
        if self.hold_until > now.micros || self.reign != Reign::Lasting {
            return;
        }
        (self.hold_until, self.held) = (0, 0);
        // After a shortage one vassal tries first whether it is over.
        while self.starting < if self.probing { 1 } else { self.policy.max_starting.max(1) }
            && let Some(key) = self.queue.pop_front()
        {
            if self.vassals.get(key).is_none_or(|vassal| vassal.state != State::Queued) {
                self.lost = self.lost.saturating_sub(1);
                continue; // it was lost while it waited
            }
            if self.refuse(key, now) {
                continue; // its file has got another owner while it waited
            }
            let vassal = &mut self.vassals[key];
            vassal.state = State::Up;
            vassal.instance = Instance { starting: true, started: now.micros, ..Default::default() };
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
        // Those that were refused together keep their order.
        self.queue.insert(self.held.min(self.queue.len()), key);
        self.held += 1;
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

    /// A vassal was struck off while it waited. Its place is cleared away with others', or when its turn comes.
    pub(super) fn leave_queue(&mut self) {
        self.lost += 1;
        if self.lost > FEW && self.lost > self.queue.len() / 2 {
            self.queue.retain(|key| self.vassals.get(*key).is_some());
            (self.lost, self.held) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Policy, Word};

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
