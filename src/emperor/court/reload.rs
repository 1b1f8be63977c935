//! Telling a vassal to reload: not too often, never in vain, and not without end.
//!
//! A vassal that was told is *reloading* until it has read that and is heard of again. If there is a reason to tell
//! it once more before, it is looked whether it has read the first message: one that it has yet to read says enough.

use super::vassal::{Instance, State, Then};
use super::{Action, Court, Key, Now, What};
use std::time::Duration;

/// A program that has not said anything for so long is one that does not speak the protocol.
const MUTE_AGE: Duration = Duration::from_secs(10);
/// How long a program that does not speak the protocol may leave a reload message unread.
const MUTE_RELOAD: Duration = Duration::from_secs(1);

impl Instance {
    /// It was told over its link, and counts as new until it is heard of.
    fn awaits_answer(&mut self, reload_timeout: Duration, now: Now) {
        if !self.reloading {
            (self.was_ready, self.was_accepting) = (self.ready, self.accepting);
        }
        (self.asked, self.heard) = (false, false);
        self.reloading = true;
        self.ready = false;
        self.accepting = false;
        self.reload_due = if self.spoke {
            now.after(reload_timeout)
        } else {
            let mute = Now { micros: self.started, ..now }.after(MUTE_AGE).max(now.micros);
            Now { micros: mute, ..now }.after(MUTE_RELOAD)
        };
    }
}

impl Court {
    /// There is a reason for a vassal to reload. `changed` if that is its file.
    pub(super) fn reload(&mut self, key: Key, changed: bool, now: Now) {
        if self.vassals[key].state != State::Up || self.vassals[key].is_successor() {
            return; // a successor that has read too early is followed by another
        }
        self.wake(key, now);
        let rolls = self.rolls(key);
        let vassal = &mut self.vassals[key];
        let is_early = vassal.reload_from() > now.micros;
        let instance = &mut vassal.instance;
        if vassal.pid <= 0 || is_early {
            instance.reload_again = true;
            self.arm(key);
        } else if rolls {
            self.roll_over(key, now);
        } else if instance.reloading {
            instance.reload_again = true;
            self.ask_unread(key);
        } else {
            self.tell_to_reload(key, changed, now);
        }
    }

    fn tell_to_reload(&mut self, key: Key, changed: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        let is_told = vassal.is_told();
        let instance = &mut vassal.instance;
        instance.reload_again = false;
        instance.told = now.micros;
        if is_told {
            instance.awaits_answer(self.policy.reload_timeout, now);
        }
        let changed = std::mem::take(&mut instance.refused) || changed;
        vassal.respawns = vassal.respawns.saturating_add(1);
        vassal.last_run = now.epoch;
        self.out.push(Action::Reload { key, changed });
        self.arm(key);
    }

    fn ask_unread(&mut self, key: Key) {
        if !std::mem::replace(&mut self.vassals[key].instance.asked, true) {
            self.out.push(Action::AskUnread(key));
        }
    }

    /// It says that it is there. Has it come back from a reload, or not even read that it shall?
    pub(super) fn heard_of(&mut self, key: Key) {
        let instance = &mut self.vassals[key].instance;
        if instance.reloading {
            instance.heard = true;
            self.ask_unread(key);
        }
    }

    /// It has come back after it was told to reload.
    fn reloaded(&mut self, key: Key, now: Now) {
        let instance = &mut self.vassals[key].instance;
        (instance.asked, instance.heard) = (false, false);
        instance.reloading = false;
        instance.reload_due = 0;
        if instance.reload_again {
            self.reload(key, true, now);
        }
    }

    /// The file would not start: it runs on as it is, until there is another.
    pub(super) fn reload_refused(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up || !vassal.is_alive() {
            return;
        }
        let instance = &mut vassal.instance;
        instance.refused = true;
        instance.ready |= instance.was_ready;
        instance.accepting |= instance.was_accepting;
        vassal.respawns = vassal.respawns.saturating_sub(1);
        self.reloaded(key, now);
    }

    /// Whether a vassal has read what it was told.
    pub(super) fn unread(&mut self, key: Key, unread: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        let instance = &mut vassal.instance;
        if vassal.state != State::Up || !std::mem::take(&mut instance.asked) || !instance.reloading {
            return; // it has come back, or is on its way out
        }
        let overdue = instance.reload_due > 0 && instance.reload_due <= now.micros;
        let heard = std::mem::take(&mut instance.heard);
        if !unread && heard {
            self.reloaded(key, now);
        } else if !unread && instance.reload_again {
            self.tell_to_reload(key, true, now);
        } else if !unread && overdue {
            instance.reloading = false; // it never says so, but it does read
            instance.reload_due = 0;
        } else if unread && overdue {
            let until = Now { micros: instance.told, ..now }.after(self.policy.reload_timeout);
            if instance.spoke && until > now.micros {
                instance.reload_due = until; // it has learnt to speak since
                return self.arm(key);
            }
            self.say(key, What::ReloadUnread);
            self.stop(key, Then::Restart, now);
        } else {
            // Read, and nothing more to say; or unread, and the file that it will then read is the newest.
            instance.reload_again = false;
            self.arm(key);
        }
    }

    /// The moment has come to tell it once more, or to see whether it has read what it was told.
    pub(super) fn look_after_reload(&mut self, key: Key, now: Now) {
        let vassal = &self.vassals[key];
        let instance = &vassal.instance;
        let due = |at: u64| at > 0 && at <= now.micros;
        if instance.asked {
            return;
        }
        if instance.reload_again && due(vassal.reload_from()) {
            self.reload(key, true, now);
        } else if due(instance.reload_due) {
            self.ask_unread(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Order, Policy, Signal, Word};

    const fn told(key: Key) -> Action {
        Action::Reload { key, changed: true }
    }

    /// A vassal that was told, with the message unread.
    fn telling(policy: Policy) -> (Stage, Key) {
        let mut stage = Stage::new(policy);
        let a = stage.loyal("a");
        assert_eq!(stage.file("a", version(2)), [told(a)]);
        (stage, a)
    }

    #[test]
    fn parity_a_change_is_one_message_and_the_vassal_counts_as_new_until_it_is_back() {
        let (mut stage, a) = telling(Policy::default());
        let instance = &stage.vassal(a).instance;
        assert_eq!((instance.ready, instance.accepting, instance.loyal), (false, false, true));
        assert_eq!(stage.vassal(a).respawns, 1);
        assert_eq!(stage.file("a", version(2)), [], "nothing has changed since");
        assert_eq!(stage.say(a, Word::Accepting), [Action::AskUnread(a)]);
        assert_eq!(stage.on(Event::Unread(a, false)), []);
        assert_eq!(stage.court.next_timeout(), None);
    }

    #[test]
    fn a_flood_of_changes_is_one_message_as_long_as_that_is_unread() {
        let (mut stage, a) = telling(Policy::default());
        let mut asked = 0;
        for number in 3..12_000 {
            let mut actions = stage.file("a", version(number));
            actions.extend(stage.pass(ms(1)));
            asked += actions.len();
            assert!(actions.iter().all(|action| *action == Action::AskUnread(a)), "{actions:?}");
            if !actions.is_empty() {
                assert_eq!(stage.on(Event::Unread(a, true)), []);
            }
        }
        assert!(asked > 0);
    }

    #[test]
    fn a_change_after_the_message_was_read_is_told_when_it_is_back_or_ten_seconds_later() {
        for back in [false, true] {
            let (mut stage, a) = telling(Policy::default());
            stage.pass(ms(300));
            assert_eq!(stage.file("a", version(3)), []);
            let asked = if back { stage.say(a, Word::Accepting) } else { stage.pass(ms(9_700)) };
            assert_eq!(asked, [Action::AskUnread(a)]);
            let then = stage.on(Event::Unread(a, false));
            if back {
                // Not in the moment in which its workers begin.
                assert_eq!((then, stage.pass(ms(249))), (vec![], vec![]));
                assert_eq!(stage.pass(ms(1)), [told(a)]);
            } else {
                assert_eq!(then, [told(a)]);
            }
        }
    }

    #[test]
    fn a_change_while_it_starts_is_told_when_its_workers_have_begun() {
        for words in [&[Word::Spawned, Word::Accepting][..], &[Word::Loyal], &[Word::Loyal, Word::Accepting]]
        {
            let mut stage = Stage::new(Policy::default());
            let a = stage.mute("a");
            stage.pass(s(3)); // it loads an application
            assert_eq!(stage.file("a", version(2)), []);
            for word in words {
                assert_eq!((stage.say(a, *word), stage.pass(ms(100))), (vec![], vec![]), "{words:?}");
            }
            assert_eq!(stage.pass(ms(150)), [told(a)], "{words:?}");
            assert_eq!(stage.pass(ms(100)), []);
        }
    }

    #[test]
    fn a_vassal_that_comes_back_at_once_is_told_four_times_a_second_at_most() {
        let (mut stage, a) = telling(Policy::default());
        let mut messages = 0;
        for number in 3..1003 {
            let mut actions = stage.say(a, Word::Accepting);
            if actions.contains(&Action::AskUnread(a)) {
                actions.extend(stage.on(Event::Unread(a, false)));
            }
            actions.extend(stage.file("a", version(number)));
            actions.extend(stage.pass(ms(1)));
            messages += actions.iter().filter(|action| **action == told(a)).count();
        }
        assert!((3..=4).contains(&messages), "{messages}");
    }

    #[test]
    fn a_change_while_it_is_being_made_is_told_when_it_can_hear() {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        let a = stage.key("a");
        assert_eq!(stage.file("a", version(2)), []);
        assert_eq!(stage.start(a), []);
        assert_eq!(stage.say(a, Word::Accepting), []);
        assert_eq!(stage.pass(ms(250)), [told(a)]);
        // It says something on its way; the message is still there.
        assert_eq!(stage.say(a, Word::Loyal), [Action::AskUnread(a)]);
        assert_eq!(stage.on(Event::Unread(a, true)), []);
        assert!(stage.court.next_timeout().is_some(), "it is looked after until it has read it");
    }

    #[test]
    fn a_message_that_stays_unread_makes_it_start_again() {
        let (mut stage, a) = telling(Policy { reload_timeout: s(30), ..Policy::default() });
        assert_eq!(stage.pass(ms(29_999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::AskUnread(a)]);
        assert_eq!(stage.on(Event::Unread(a, true)), [Action::Stop(a, Order::Stop)]);
        assert_eq!(stage.told, [What::ReloadUnread, What::Stop]);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        assert!(stage.vassal(a).backoff.is_none(), "it was stopped on purpose");
    }

    #[test]
    fn one_that_reads_and_never_says_so_is_left_alone() {
        let (mut stage, a) = telling(Policy::default());
        assert_eq!(stage.pass(s(30)), [Action::AskUnread(a)]);
        assert_eq!(stage.on(Event::Unread(a, false)), []);
        assert_eq!(stage.court.next_timeout(), None);
    }

    #[test]
    fn further_changes_do_not_put_off_the_end_of_one_that_hangs() {
        let (mut stage, a) = telling(Policy { reload_timeout: s(3), ..Policy::default() });
        let mut stopped = 0;
        for number in 3..40 {
            let mut actions = stage.pass(ms(100));
            actions.extend(stage.file("a", version(number)));
            if actions.contains(&Action::AskUnread(a)) {
                stopped += usize::from(!stage.on(Event::Unread(a, true)).is_empty());
            }
        }
        assert_eq!(stopped, 1);
    }

    #[test]
    fn a_program_that_does_not_speak_the_protocol_is_started_again_when_its_file_changes() {
        // Its age at the change. One that may just be slow to start is told when it is ten seconds old.
        for age in [s(60), s(2)] {
            let mut stage = Stage::new(Policy::default());
            let mute = stage.mute("mute");
            stage.pass(age);
            let mut done = stage.file("mute", version(2));
            done.extend(stage.pass(s(10).saturating_sub(age)));
            assert_eq!(done, [told(mute)]);
            assert_eq!(stage.pass(ms(999)), []);
            assert_eq!(stage.pass(ms(1)), [Action::AskUnread(mute)]);
            let stop = [Action::Stop(mute, Order::Stop), Action::Signal(mute, Signal::Term)];
            assert_eq!(stage.on(Event::Unread(mute, true)), stop);
            assert_eq!(stage.die(mute), [Action::Ended(name("mute")), Action::Spawn(mute)]);
        }
    }

    #[test]
    fn a_file_that_would_not_start_leaves_the_vassal_as_it_was() {
        let (mut stage, a) = telling(Policy::default());
        assert_eq!(stage.on(Event::ReloadRefused(a)), []);
        let vassal = stage.vassal(a);
        assert_eq!((vassal.respawns, vassal.instance.ready, vassal.instance.accepting), (0, true, true));
        assert_eq!(stage.court.next_timeout(), None);
        stage.pass(s(1));
        assert_eq!(stage.on(Event::ReloadAll), [told(a)], "whether it would start is looked at once more");
        stage.say(a, Word::Accepting);
        stage.on(Event::Unread(a, false));
        stage.pass(s(1));
        assert_eq!(stage.on(Event::ReloadAll), [Action::Reload { key: a, changed: false }]);
    }

    #[test]
    fn a_file_that_is_mended_while_it_is_refused_is_told() {
        let (mut stage, a) = telling(Policy::default());
        stage.file("a", version(3));
        assert_eq!(stage.on(Event::ReloadRefused(a)), []);
        assert_eq!(stage.pass(ms(250)), [told(a)]);
    }

    #[test]
    fn one_that_is_idle_before_it_has_read_of_the_change_starts_again() {
        let (mut stage, a) = telling(Policy::default());
        stage.say(a, Word::Idle);
        stage.pass(s(1));
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
    }

    #[test]
    fn answers_that_come_too_late_change_nothing() {
        let (mut stage, a) = telling(Policy::default());
        assert_eq!(stage.on(Event::Unread(a, true)), [], "nobody has asked");
        stage.pass(s(30));
        stage.on(Event::LinkClosed(a));
        for late in [Event::Unread(a, true), Event::ReloadRefused(a), Event::Said(a, Word::Idle)] {
            assert_eq!(stage.on(late), []);
        }
        assert_eq!(stage.state(a), State::Cursed);
    }
}
