//! How long a vassal that fails is kept from starting: uWSGI's blacklist, per vassal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Now, Policy, micros};

/// A blacklist entry. Source: measured behaviour of uWSGI 2.0.21, `docs/migration.md` for what differs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Backoff {
    /// The pause after the last failure, microseconds.
    pub level_micros: u64,
    /// Failures since the first, from 0.
    pub attempt: u32,
    /// When the first happened, seconds since the epoch.
    pub first_attempt: u64,
    /// When the last happened, seconds since the epoch.
    pub last_attempt: u64,
}

/// What one more failure changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing worth a line.
    Quiet,
    /// It has now failed often enough to say so.
    Throttled,
    /// The ceiling was reached: the pause halves.
    Ceiling,
}

impl Backoff {
    /// The entry after a first failure: a pause of as many microseconds as the step has milliseconds.
    pub(super) fn first(policy: &Policy, now: Now) -> Self {
        Self {
            level_micros: micros(policy.throttle) / 1000,
            attempt: 0,
            first_attempt: now.epoch,
            last_attempt: now.epoch,
        }
    }

    /// One more failure: the pause grows by a step until the ceiling, then halves.
    pub(super) fn aggravate(&mut self, policy: &Policy, now: Now) -> Step {
        self.last_attempt = now.epoch;
        self.attempt = self.attempt.saturating_add(1);
        if self.level_micros >= micros(policy.max_throttle) {
            self.level_micros /= 2;
            return Step::Ceiling;
        }
        self.level_micros = self.level_micros.saturating_add(micros(policy.throttle));
        if self.attempt == 2 { Step::Throttled } else { Step::Quiet }
    }

    /// The pause from the last failure on.
    #[must_use]
    pub fn pause(&self) -> Duration {
        Duration::from_micros(self.level_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(policy: &Policy, count: usize) -> Vec<u64> {
        let now = Now { micros: 1, epoch: 100 };
        let mut entry = Backoff::first(policy, now);
        std::iter::once(entry.level_micros / 1000)
            .chain((1..count).map(|_| {
                entry.aggravate(policy, now);
                entry.level_micros / 1000
            }))
            .collect()
    }

    #[test]
    fn parity_pauses_grow_by_a_step_and_halve_at_the_ceiling() {
        // Measured on uWSGI 2.0.21 with emperor-throttle 1000 and emperor-max-throttle 4000.
        let policy = Policy { max_throttle: Duration::from_secs(4), ..Policy::default() };
        assert_eq!(levels(&policy, 9), [1, 1001, 2001, 3001, 4001, 2000, 3000, 4000, 2000]);
    }

    #[test]
    fn the_third_failure_in_a_row_is_worth_a_line() {
        let (policy, now) = (Policy::default(), Now { micros: 1, epoch: 100 });
        let mut entry = Backoff::first(&policy, now);
        assert_eq!(
            [(); 3].map(|()| entry.aggravate(&policy, now)),
            [Step::Quiet, Step::Throttled, Step::Quiet]
        );
    }
}
