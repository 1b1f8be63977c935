//! Programs that nobody uses: when they are looked at, and when they go back to their sockets.
//!
//! Only those with `idle` in their files are looked at, and all in the same moments: at whole multiples of a second.

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

impl Court {
    /// A life begins that is to end when nobody uses it.
    pub(super) fn look_for_idleness(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let is_ours = vassal.on_demand;
        let Some(course) = vassal.course.as_mut().filter(|_| is_ours) else { return };
        let Some(idle) = course.manner.idle else { return };
        (course.busy, course.cpu, course.looked) = (now.micros, 0, 0);
        course.idle_due = next_look(idle, now);
        self.arm(key);
    }

    /// It is to be looked at now, if that is due.
    pub(super) fn look_if_due(&mut self, key: Key, now: Now) {
        let Some(course) = &mut self.vassals[key].course else { return };
        if course.idle_due == 0 || course.idle_due > now.micros {
            return;
        }
        course.idle_due = course.manner.idle.map_or(0, |idle| next_look(idle, now));
        self.out.push(Action::Measure(key));
    }

    pub(super) fn measured(&mut self, key: Key, seen: Use, now: Now) {
        let vassal = &mut self.vassals[key];
        let (is_up, started) = (vassal.state == State::Up && vassal.pid > 0, vassal.instance.started);
        let Some(course) = vassal.course.as_mut().filter(|_| is_up) else { return };
        let Some(idle) = course.manner.idle else { return };
        let last = std::mem::replace(&mut course.looked, now.micros);
        let used = seen.cpu_micros.abs_diff(std::mem::replace(&mut course.cpu, seen.cpu_micros));
        let works = used > now.micros.saturating_sub(last) / BUSY_PART;
        if seen.clients || works || last == 0 {
            course.busy = now.micros;
            return;
        }
        if now.since(course.busy) >= idle && now.since(started) >= course.manner.idle_min_uptime {
            self.say(key, What::BackToOnDemand);
            self.stop(key, Then::Wait, now);
        }
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

    #[test]
    fn late_answers_change_nothing() {
        let (mut stage, a) = running(Some(s(1)));
        stage.pass(s(10));
        stage.die(a);
        assert_eq!(stage.on(Event::Measured(a, Use { clients: false, cpu_micros: 0 })), []);
        assert_ne!(stage.vassal(a).name, name("b"));
    }
}
