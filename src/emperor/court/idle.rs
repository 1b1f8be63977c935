//! Programs that nobody uses: when they are looked at, and when they go back to their sockets.
//!
//! Only those with `idle` in their files are looked at, and all in the same moments: at whole multiples of a second.
//! Where there is a freezer, they stop in their steps before they are stopped: whoever connects soon finds them as they
//! were. Whatever else one is told, it thaws first.

use std::time::Duration;

use super::vassal::{State, Then};
use super::{Action, Court, Key, Now, What, micros};

/// What was seen of a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Use {
    /// Somebody is connected, or waits to be.
    pub clients: bool,
    /// Processor time so far, microseconds.
    pub cpu_micros: u64,
}

/// A program that takes less of a processor than one part in so many does nothing to speak of: servers look at their
/// workers now and then.
const BUSY_PART: u64 = 50;

/// A program is looked at so many times in the time in which it may be idle; not more often than each second, and at
/// least each minute.
const LOOKS: u32 = 4;
const MOST_OFTEN: Duration = Duration::from_secs(1);
const LEAST_OFTEN: Duration = Duration::from_secs(60);
/// A frozen program is looked at once more after so long: it may have taken a client between the look and the frost.
const SECOND_LOOK: Duration = Duration::from_millis(100);

impl Court {
    /// A life begins that is to end when nobody uses it.
    pub(super) fn look_for_idleness(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let is_ours = vassal.on_demand;
        let Some(course) = vassal.course.as_mut().filter(|_| is_ours) else { return };
        let Some(idle) = course.manner.idle else { return };
        (course.busy, course.cpu, course.looked) = (now.micros, 0, 0);
        course.frozen = 0;
        course.idle_due = next_look(idle, now);
        self.arm(key);
    }

    /// It is to be looked at now, if that is due; `true` if it is stopped instead, frozen for long enough.
    pub(super) fn look_if_due(&mut self, key: Key, now: Now) -> bool {
        let Some(course) = &mut self.vassals[key].course else { return false };
        if course.idle_due == 0 || course.idle_due > now.micros {
            return false;
        }
        if course.frozen > 0 {
            let limit = self.policy.idle_freeze.unwrap_or_default();
            let since = Now { micros: course.frozen, ..now };
            course.idle_due = if limit.is_zero() { 0 } else { since.after(limit) };
            if course.idle_due > 0 && course.idle_due <= now.micros {
                self.end_idle(key, now);
                return true;
            }
            self.out.push(Action::Measure(key));
            return false;
        }
        course.idle_due = course.manner.idle.map_or(0, |idle| next_look(idle, now));
        self.out.push(Action::Measure(key));
        false
    }

    pub(super) fn measured(&mut self, key: Key, seen: Use, now: Now) {
        let is_followed = self.is_followed(key);
        let vassal = &mut self.vassals[key];
        let (is_up, instance) = (vassal.state == State::Up && vassal.pid > 0, *vassal.instance);
        let started = instance.started;
        let Some(course) = vassal.course.as_mut().filter(|_| is_up) else { return };
        let Some(idle) = course.manner.idle else { return };
        if course.frozen > 0 {
            if seen.clients {
                self.wake(key, now);
            }
            return;
        }
        let last = std::mem::replace(&mut course.looked, now.micros);
        let used = seen.cpu_micros.abs_diff(std::mem::replace(&mut course.cpu, seen.cpu_micros));
        let works = used > now.micros.saturating_sub(last) / BUSY_PART;
        if seen.clients || works || last == 0 {
            course.busy = now.micros;
            return;
        }
        if now.since(course.busy) < idle || now.since(started) < course.manner.idle_min_uptime {
            return;
        }
        // One that has yet to be ready, or comes back from a reload, would do neither in the frost; and one whose place
        // is about to be taken has read another file than it would thaw with.
        let is_calm = instance.ready && !instance.reloading && !instance.reload_again && !is_followed;
        if self.policy.idle_freeze.is_some() && is_calm {
            self.freeze(key, now)
        } else {
            self.end_idle(key, now)
        }
    }

    fn end_idle(&mut self, key: Key, now: Now) {
        self.say(key, What::BackToOnDemand);
        self.stop(key, Then::Wait, now);
    }

    fn freeze(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let Some(course) = &mut vassal.course else { return };
        course.frozen = now.micros.max(1);
        course.idle_due = now.after(SECOND_LOOK);
        vassal.instance.heartbeat_due = 0;
        self.dismiss_zergs(key, now);
        self.out.push(Action::Freeze(key));
        self.arm(key);
    }

    /// It could not be frozen, or nobody can find it where it waits: it is stopped as if there were no frost.
    pub(super) fn not_frozen(&mut self, key: Key, now: Now) {
        if self.vassals[key].is_frozen() {
            self.end_idle(key, now);
        }
    }

    /// If it is frozen, it is so no more, and has as long as after a start to be of use.
    pub(super) fn wake(&mut self, key: Key, now: Now) {
        if !self.thaw(key) {
            return;
        }
        self.say(key, What::Thawed);
        self.look_for_idleness(key, now);
        let vassal = &mut self.vassals[key];
        let watchdog = vassal.course.as_ref().and_then(|course| course.manner.watchdog);
        if let Some(watchdog) = watchdog {
            vassal.instance.heartbeat_due = now.after(watchdog);
        }
        self.arm(key);
    }

    /// Whether it was frozen, which it is no more.
    pub(super) fn thaw(&mut self, key: Key) -> bool {
        let Some(course) = &mut self.vassals[key].course else { return false };
        let was = std::mem::take(&mut course.frozen) > 0;
        if was {
            course.idle_due = 0;
            self.out.push(Action::Thaw(key));
        }
        was
    }
}

fn next_look(idle: Duration, now: Now) -> u64 {
    let step = micros((idle / LOOKS).clamp(MOST_OFTEN, LEAST_OFTEN)).next_multiple_of(micros(MOST_OFTEN));
    (now.micros / step + 1).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Manner, Policy, Ready};

    fn running(idle: Option<Duration>) -> (Stage, Key) {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.on(Event::Sleeps(a));
        stage.on(Event::Connection(a));
        let manner = Manner { idle, ready: Ready::AtOnce, linked: false, ..Manner::default() };
        stage.on(Event::Agreed(a, manner));
        stage.start(a);
        (stage, a)
    }

    /// Seconds until it is told to stop, when it uses so much of the processor, and has clients until then.
    fn ends_after(idle: u64, micros_a_second: u64, clients_until: u64) -> Option<u64> {
        let (mut stage, a) = running(Some(s(idle)));
        for second in 1..1000 {
            for action in stage.pass(s(1)) {
                assert_eq!(action, Action::Measure(a));
                let seen = Use { clients: second < clients_until, cpu_micros: second * micros_a_second };
                stage.on(Event::Measured(a, seen));
                if stage.state(a) != State::Up {
                    assert_eq!(stage.told[..1], [What::BackToOnDemand]);
                    assert!(stage.vassal(a).backoff.is_none());
                    stage.die(a);
                    stage.pass(ms(100));
                    assert_eq!(stage.state(a), State::Waiting);
                    return Some(second);
                }
            }
        }
        None
    }

    #[test]
    fn a_program_that_nobody_uses_goes_back_to_its_socket_without_blame() {
        assert!((8..=12).contains(&ends_after(8, 0, 0).unwrap()));
        assert!((8..=12).contains(&ends_after(8, 10_000, 0).unwrap()), "a look at its workers is no work");
        assert!((106..=112).contains(&ends_after(8, 0, 100).unwrap()));
        assert_eq!(ends_after(8, 100_000, 0), None, "it works on something");
    }

    #[test]
    fn who_has_no_idle_is_never_looked_at() {
        let (mut stage, _) = running(None);
        stage.pass(s(10));
        assert_eq!((stage.pass(s(1000)), stage.court.next_timeout()), (Vec::new(), None));
    }

    const NOBODY: Use = Use { clients: false, cpu_micros: 0 };
    const SOMEBODY: Use = Use { clients: true, cpu_micros: 0 };

    /// One that is frozen, and may be so for as many seconds.
    fn frozen(limit: u64) -> (Stage, Key) {
        let (mut stage, a) = running(Some(s(4)));
        stage.court.policy.idle_freeze = Some(s(limit));
        for _ in 0..10 {
            if stage.pass(s(1)) == [Action::Measure(a)]
                && stage.on(Event::Measured(a, NOBODY)) == [Action::Freeze(a)]
            {
                assert!(stage.vassal(a).is_frozen());
                return (stage, a);
            }
        }
        panic!("it was not frozen: {:?}", stage.vassal(a));
    }

    #[test]
    fn one_that_nobody_uses_is_frozen_looked_at_once_more_and_stopped_in_the_end() {
        for limit in [60, 0] {
            let (mut stage, a) = frozen(limit);
            assert_eq!(stage.pass(ms(100)), [Action::Measure(a)]);
            assert_eq!(stage.on(Event::Measured(a, NOBODY)), []);
            assert_eq!(stage.pass(s(59)), []);
            let done = stage.pass(s(1));
            if limit == 0 {
                assert_eq!((done, stage.court.next_timeout()), (vec![], None), "it costs no wakeup");
                continue;
            }
            assert_eq!(done[..2], [Action::Thaw(a), Action::Stop(a, crate::emperor::court::Order::Stop)]);
            assert_eq!(stage.told[0], What::BackToOnDemand);
            stage.die(a);
            assert_eq!(stage.state(a), State::Waiting);
        }
    }

    #[test]
    fn who_connects_thaws_it_and_so_does_one_who_was_there_already() {
        for seen in [Event::Connection, |key| Event::Measured(key, SOMEBODY)] {
            let (mut stage, a) = frozen(60);
            assert_eq!(stage.on(seen(a)), [Action::Thaw(a)]);
            assert!(!stage.vassal(a).is_frozen() && stage.state(a) == State::Up);
            assert_eq!(stage.on(Event::Connection(a)), [], "it is nobody's news any more");
            let mut again = 0;
            while again < 20 && stage.pass(s(1)).is_empty() || stage.on(Event::Measured(a, NOBODY)).is_empty()
            {
                again += 1;
            }
            assert!((2..20).contains(&again) && stage.vassal(a).is_frozen(), "{again}");
        }
    }

    #[test]
    fn whatever_it_is_told_it_thaws_first() {
        use crate::emperor::court::{Sign, Wish};
        type Told = fn(&mut Stage, Key) -> Vec<Action>;
        let rows: [Told; 9] = [
            |stage, _| stage.gone("a"),
            |stage, _| stage.file("a", version(2)),
            |stage, _| stage.on(Event::ReloadAll),
            |stage, _| stage.on(Event::Shutdown),
            |stage, a| stage.on(Event::Wanted(a, Wish::Stop)),
            |stage, a| stage.on(Event::Wanted(a, Wish::Start)),
            |stage, a| stage.on(Event::Wanted(a, Wish::Restart)),
            |stage, a| stage.on(Event::Shows(a, Sign::Stopping)),
            |stage, a| stage.on(Event::NotFrozen(a)),
        ];
        for (row, told) in rows.into_iter().enumerate() {
            let (mut stage, a) = frozen(60);
            let done = told(&mut stage, a);
            assert_eq!(done.first(), Some(&Action::Thaw(a)), "row {row}: {done:?}");
            assert!(stage.court.get(a).is_none_or(|vassal| !vassal.is_frozen()), "row {row}");
        }
    }

    #[test]
    fn one_that_dies_in_the_frost_is_looked_at_by_nobody_and_is_started_as_ever() {
        let (mut stage, a) = frozen(60);
        stage.pass(ms(50));
        let done = stage.die(a);
        assert_eq!(done[0], Action::Thaw(a));
        assert!(!stage.vassal(a).is_frozen());
        assert_eq!(stage.on(Event::Measured(a, NOBODY)), []);
    }

    #[test]
    fn a_watchdog_does_not_run_in_the_frost_and_runs_anew_after_it() {
        let (mut stage, a) = running(None);
        stage.die(a);
        stage.pass(s(10));
        stage.on(Event::Connection(a));
        let watched = Manner {
            idle: Some(s(2)),
            watchdog: Some(s(3)),
            ready: Ready::AtOnce,
            linked: false,
            ..Manner::default()
        };
        stage.on(Event::Agreed(a, watched));
        stage.start(a);
        stage.court.policy.idle_freeze = Some(s(0));
        while !stage.vassal(a).is_frozen() {
            stage.on(Event::Shows(a, crate::emperor::court::Sign::Alive));
            if stage.pass(ms(500)).contains(&Action::Measure(a)) {
                stage.on(Event::Measured(a, NOBODY));
            }
        }
        stage.on(Event::Shows(a, crate::emperor::court::Sign::Ready));
        let quiet = stage.pass(s(1000));
        assert!(!quiet.iter().any(|action| matches!(action, Action::Signal(..))), "{quiet:?}");
        stage.on(Event::Connection(a));
        let late: Vec<_> = (0..4).flat_map(|_| stage.pass(s(1))).collect();
        assert!(late.contains(&Action::Signal(a, crate::emperor::court::Signal::Kill)), "{late:?}");
    }

    #[test]
    fn one_that_has_yet_to_be_ready_is_not_frozen() {
        let (mut stage, a) = running(Some(s(4)));
        stage.court.policy.idle_freeze = Some(s(60));
        stage.on(Event::Shows(a, crate::emperor::court::Sign::Reloading));
        while stage.state(a) == State::Up {
            if stage.pass(s(1)).contains(&Action::Measure(a)) {
                let done = stage.on(Event::Measured(a, NOBODY));
                assert!(!done.contains(&Action::Freeze(a)), "{done:?}");
            }
        }
    }

    /// It would thaw with what it has read, and nothing would remember that there is something newer.
    #[test]
    fn one_whose_place_is_to_be_taken_is_stopped_instead_of_frozen() {
        let (mut stage, a) = running(None);
        stage.die(a);
        stage.pass(s(10));
        stage.on(Event::Connection(a));
        let rolls = Manner {
            idle: Some(s(2)),
            ready: Ready::AtOnce,
            linked: false,
            rolling: true,
            ..Manner::default()
        };
        stage.on(Event::Agreed(a, rolls));
        stage.start(a);
        stage.court.policy.idle_freeze = Some(s(60));
        stage.pass(s(1));
        let [Action::Spawn(next)] = stage.file("a", version(2))[..] else { panic!("{:?}", stage.told) };
        stage.on(Event::Agreed(next, Manner { ready: Ready::Notified, ..rolls }));
        stage.start(next);
        while stage.state(a) == State::Up {
            if stage.pass(s(1)).contains(&Action::Measure(a)) {
                let done = stage.on(Event::Measured(a, NOBODY));
                assert!(!done.contains(&Action::Freeze(a)), "{done:?}");
            }
        }
        stage.die(next);
        assert_eq!(stage.die(a).last(), Some(&Action::Spawn(a)), "its file is read before it waits");
        stage.on(Event::Sleeps(a));
        assert_eq!((stage.state(a), stage.court.len()), (State::Waiting, 1));
    }

    #[test]
    fn the_next_court_thaws_it() {
        let (stage, a) = frozen(0);
        let record = stage.court.record(a).unwrap();
        let mut next = Stage::new(Policy { idle_freeze: Some(s(0)), ..Policy::default() });
        let adoption = crate::emperor::court::Adoption {
            source: Some(crate::emperor::source::SourceId(0)),
            socket: true,
            restart: false,
        };
        let (mut actions, now) = (Vec::new(), next.now);
        let b = next.court.adopt(record, adoption, now, &mut actions).unwrap();
        assert_eq!(actions[0], Action::Thaw(b));
        assert!(!next.vassal(b).is_frozen() && next.court.next_timeout().is_some());
    }

    #[test]
    fn late_answers_change_nothing() {
        let (mut stage, a) = running(Some(s(1)));
        stage.pass(s(10));
        stage.die(a);
        assert_eq!(stage.on(Event::Measured(a, Use { clients: false, cpu_micros: 0 })), []);
        assert_ne!(stage.vassal(a).name, name("b"));
    }
}
