//! The timers: one heap for all vassals, with one living entry a vassal at most.
//!
//! A deadline that moves away leaves the entry where it is: when that comes up it is put where it belongs. So a
//! heartbeat costs no operation on the heap. Only a deadline that comes nearer adds an entry, and the old one is
//! dead from then on. The dead at the top are dropped at once, so that nobody is woken for them, and the others
//! when they are the majority.

use super::{Court, Key, Now, Reign};
use std::cmp::Reverse;

/// So many dead entries may stay, however few vassals there are.
const FEW: usize = 64;

impl Court {
    /// Sets when a vassal's state ends by itself.
    pub(super) fn set_deadline(&mut self, key: Key, at: u64) {
        self.vassals[key].deadline = at;
        self.arm(key);
    }

    /// Sees to it that a tick comes when something of this vassal is due.
    pub(super) fn arm(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        let due = vassal.due();
        if due > 0 && (vassal.timer == 0 || due < vassal.timer) {
            vassal.timer = due;
            self.timers.push(Reverse((due, key)));
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Now) {
        while let Some(&Reverse((at, key))) = self.timers.peek()
            && at <= now.micros
        {
            self.timers.pop();
            let Some(vassal) = self.vassals.get_mut(key).filter(|vassal| vassal.timer == at) else {
                continue; // it is gone, or an earlier entry has taken this one's place
            };
            vassal.timer = 0;
            let due = vassal.due();
            if due > 0 && due <= now.micros {
                self.on_due(key, now);
            }
            if self.vassals.get(key).is_some() {
                self.arm(key);
            }
        }
        if let Reign::Ending { deadline, .. } = self.reign
            && deadline <= now.micros
        {
            self.kill_all(now);
        }
    }

    /// Drops entries that stand for nothing any more: those at the top, and all if they have become many.
    pub(super) fn drop_dead_timers(&mut self) {
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            match self.vassals.get_mut(key).filter(|vassal| vassal.timer == at) {
                Some(vassal) if vassal.due() > 0 => break,
                Some(vassal) => vassal.timer = 0,
                None => {}
            }
            self.timers.pop();
        }
        if self.timers.len() > 2 * self.vassals.len() + FEW {
            let living = self.vassals.iter().filter(|(_, vassal)| vassal.timer > 0);
            self.timers = living.map(|(key, vassal)| Reverse((vassal.timer, key))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, s, version};
    use crate::emperor::court::{Event, Policy, Word};
    use std::time::Duration;

    #[test]
    fn what_is_idle_wakes_nobody() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        assert_eq!(stage.court.next_timeout(), None);
        stage.say(a, Word::Heartbeat);
        assert!(stage.court.next_timeout().is_some());
        stage.gone("a");
        stage.die(a);
        assert_eq!(stage.court.next_timeout(), None, "timers of the gone are gone");
    }

    #[test]
    fn a_heartbeat_costs_no_timer() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        for _ in 0..1000 {
            stage.say(a, Word::Heartbeat);
            stage.pass(ms(10));
        }
        assert_eq!(stage.court.timers.len(), 1);
    }

    #[test]
    fn the_heap_stays_small_however_often_deadlines_come_nearer() {
        let long = Duration::from_secs(1_000_000);
        let mut stage = Stage::new(Policy {
            curse_tolerance: long,
            required_heartbeat: long,
            reload_timeout: long,
            ..Policy::default()
        });
        let a = stage.loyal("a");
        let mut most = 0;
        for number in 2..2000 {
            stage.say(a, Word::Heartbeat);
            stage.file("a", version(number));
            stage.on(Event::LinkClosed(a));
            stage.die(a);
            stage.pass(s(200));
            stage.start(a);
            stage.say(a, Word::Loyal);
            most = most.max(stage.court.timers.len());
        }
        assert!(most < 100, "{most}");
    }

    #[test]
    fn no_option_is_so_hostile_that_a_sum_overflows() {
        for time in [Duration::ZERO, Duration::MAX] {
            let mut stage = Stage::new(Policy {
                throttle: time,
                max_throttle: Duration::MAX,
                required_heartbeat: time,
                curse_tolerance: time,
                stop_timeout: time,
                shutdown_grace: time,
                reload_timeout: time,
                ..Policy::default()
            });
            let (a, b) = (stage.loyal("a"), stage.mute("b"));
            for number in 2..9 {
                for key in [a, b] {
                    stage.say(key, Word::Heartbeat);
                    stage.file("a", version(number));
                    stage.on(Event::Unread(key, true));
                    stage.on(Event::LinkClosed(key));
                    stage.die(key);
                    stage.on(Event::Tick);
                    stage.on(Event::ClearBlacklist);
                    stage.start(key);
                }
            }
            stage.on(Event::Shutdown);
            stage.on(Event::Tick);
        }
    }
}
