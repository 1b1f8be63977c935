//! `/metrics`: the empire in numbers, in the text formats of OpenMetrics 1.0 and of Prometheus.
//!
//! Callers: the loop, which copies what it knows into a [`Snapshot`] and tells [`Times`] what happens; and the server of
//! the control socket, which writes the text beside the loop. A tenant sees the series of his own vassals alone.

mod families;
mod text;
mod times;

pub use families::{FAMILIES, Family, Kind};
pub use text::Format;
pub use times::{Counts, Times};

use std::collections::HashMap;

use crate::emperor::cgroup::Usage;
use crate::emperor::forward;

/// So many vassals have series of their own; the others are counted in the sums and in `emperor_vassals_left_out`.
pub const MOST_VASSALS: usize = 5_000;

/// So many of them may belong to one user in tyrant mode: no tenant pushes the others out.
pub const MOST_OF_ONE_OWNER: usize = 500;

/// What one vassal's series are made of.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its name, as the label has it.
    pub vassal: String,
    /// What it is doing, in the word of `emperor status`.
    pub state: &'static str,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// How often it was started again.
    pub restarts: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Whether it goes on with an earlier file.
    pub runs_old_file: bool,
    /// Seconds until it starts again, while it backs off.
    pub backoff: Option<f64>,
    /// How its last process ended, in the shell's numbers.
    pub last_exit: Option<u8>,
    /// What its control group uses.
    pub usage: Option<Usage>,
    /// What its processes take, and what it says itself.
    pub gathered: forward::Row,
}

/// The empire at one moment, as far as somebody may see it.
#[derive(Debug, Default)]
pub struct Snapshot {
    version: &'static str,
    states: Vec<(&'static str, u64)>,
    rows: Vec<Row>,
    left_out: u64,
    counts: Option<Counts>,
    of_owner: HashMap<u32, usize>,
    tyrant: bool,
}

impl Snapshot {
    /// An empire without vassals. `states` are all that a vassal can be in; `counts` what only somebody who may see
    /// everything is told.
    #[must_use]
    pub fn new(version: &'static str, states: &[&'static str], tyrant: bool, counts: Option<Counts>) -> Self {
        let states = states.iter().map(|state| (*state, 0)).collect();
        Self { version, states, tyrant, counts, ..Self::default() }
    }

    /// Counts one vassal, and adds its series if there is room: `row` is asked for it then. Whether there was.
    pub fn add(&mut self, state: &'static str, owner: u32, row: impl FnOnce() -> Row) -> bool {
        if let Some((_, count)) = self.states.iter_mut().find(|(known, _)| *known == state) {
            *count += 1;
        }
        let of_owner = self.of_owner.entry(owner).or_default();
        if self.rows.len() >= MOST_VASSALS || self.tyrant && *of_owner >= MOST_OF_ONE_OWNER {
            self.left_out += 1;
            return false;
        }
        *of_owner += 1;
        self.rows.push(row());
        true
    }

    /// Adds what was gathered of the vassals that have series, in their order.
    pub fn gathered(&mut self, rows: impl IntoIterator<Item = forward::Row>) {
        for (row, gathered) in self.rows.iter_mut().zip(rows) {
            row.gathered = gathered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot in which each family has a value.
    pub(super) fn full(vassals: usize) -> Snapshot {
        let mut snapshot = Snapshot::new("1.2.3", &["running", "failed"], false, Some(Counts::default()));
        for number in 0..vassals {
            snapshot.add("running", 0, || Row {
                vassal: format!("site-{number:04}.example.org.ini"),
                state: "running",
                since: 1_795_380_126,
                restarts: 3,
                failures: 1,
                runs_old_file: true,
                backoff: Some(1.5),
                last_exit: Some(137),
                usage: Some(Usage::sample()),
                gathered: forward::Row {
                    address: Some("127.0.0.1:1717".into()),
                    process: Some(forward::Processes {
                        count: 5,
                        cpu_micros: 1_234_567_890,
                        memory_bytes: 123_456_789,
                        sockets: Some(12),
                        queue: Some(3),
                        queue_limit: Some(100),
                        ..forward::Processes::default()
                    }),
                    figures: Some(forward::Figures {
                        requests: 123_456_789,
                        running_micros: 1_234_567_890,
                        response_micros: 12_345,
                        tx_bytes: 12_345_678_901,
                        ..forward::Figures::default()
                    }),
                    ..forward::Row::default()
                },
            });
        }
        snapshot
    }

    #[test]
    fn one_owner_does_not_push_the_others_out() {
        let mut snapshot = Snapshot::new("1", &["running"], true, None);
        for _ in 0..MOST_OF_ONE_OWNER + 7 {
            snapshot.add("running", 1000, Row::default);
        }
        snapshot.add("running", 1001, Row::default);
        assert_eq!((snapshot.rows.len(), snapshot.left_out), (MOST_OF_ONE_OWNER + 1, 7));
        assert_eq!(snapshot.states, [("running", MOST_OF_ONE_OWNER as u64 + 8)]);
    }

    #[test]
    fn all_together_have_a_bound_too() {
        let mut snapshot = Snapshot::new("1", &["running"], false, None);
        for _ in 0..MOST_VASSALS + 1 {
            snapshot.add("running", 0, Row::default);
        }
        assert_eq!((snapshot.rows.len(), snapshot.left_out), (MOST_VASSALS, 1));
    }
}
