//! What the emperor counts itself, from the time it was started on: launches, ends, and how long things take.

use std::collections::HashMap;
use std::time::Duration;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::emperor::court::{Action, Court, Event, Key, Notice, Now, State, What};
use crate::emperor::source::VassalName;

/// Seconds: from a program that is there at once to one that a virtual machine has to load.
const BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The counters. A clone counts on with the first.
#[derive(Clone, Debug)]
pub struct Counts {
    launches: Counter,
    launch_failures: Counter,
    exits: Counter,
    failed_exits: Counter,
    failed_turns: Counter,
    starts: Histogram,
    reloads: Histogram,
    cold_starts: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        let times = || Histogram::new(BUCKETS);
        Self {
            launches: Counter::default(),
            launch_failures: Counter::default(),
            exits: Counter::default(),
            failed_exits: Counter::default(),
            failed_turns: Counter::default(),
            starts: times(),
            reloads: times(),
            cold_starts: times(),
        }
    }
}

impl Counts {
    /// The counters: name, help, metric.
    pub(super) fn all(&self) -> [(&'static str, &'static str, &dyn Metric); 5] {
        [
            ("emperor_launches", "Processes that were started for vassals", &self.launches),
            ("emperor_launch_failures", "Times that no process could be started", &self.launch_failures),
            ("emperor_exits", "Processes of vassals that have ended", &self.exits),
            ("emperor_failed_exits", "Those of them that were not asked to, or failed", &self.failed_exits),
            (
                "emperor_failed_rolling_reloads",
                "Rolling reloads whose new process was not ready, so that the old one went on",
                &self.failed_turns,
            ),
        ]
    }

    /// The histograms, in seconds: name, help, metric.
    pub(super) fn times(&self) -> [(&'static str, &'static str, &dyn Metric); 3] {
        [
            (
                "emperor_vassal_start",
                "From the start of a vassal's process to its first readiness",
                &self.starts,
            ),
            ("emperor_vassal_reload", "From the order to reload to readiness", &self.reloads),
            (
                "emperor_vassal_cold_start",
                "From the connection that starts a vassal on demand to its readiness",
                &self.cold_starts,
            ),
        ]
    }
}

/// What can be written, whatever it counts.
pub(super) trait Metric {
    fn metric_type(&self) -> prometheus_client::metrics::MetricType;
    fn encode(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result;
}

impl<M: EncodeMetric> Metric for M {
    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        EncodeMetric::metric_type(self)
    }

    fn encode(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result {
        EncodeMetric::encode(self, encoder)
    }
}

/// What a vassal is on its way to, since when, in microseconds.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Called by a connection, it has no process yet.
    Called(u64),
    Starting {
        from: u64,
        called: Option<u64>,
    },
    Reloading(u64),
}

/// Looks on as events and actions go by. Knows something of those vassals only that are on their way.
#[derive(Debug, Default)]
pub struct Times {
    counts: Counts,
    ways: HashMap<Key, Way>,
    /// Vassals whose place is to be taken, and since when.
    turns: HashMap<VassalName, u64>,
}

impl Times {
    /// The counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Before the court hears of an event.
    pub fn before(&mut self, event: &Event, court: &Court, now: Now) {
        match event {
            Event::Connection(key)
                if court.get(*key).is_some_and(|vassal| vassal.state == State::Waiting) =>
            {
                self.ways.insert(*key, Way::Called(now.micros));
            }
            Event::Started(key, _) => {
                self.counts.launches.inc();
                let called = match self.ways.remove(key) {
                    Some(Way::Called(at)) => Some(at),
                    _ => None,
                };
                self.ways.insert(*key, Way::Starting { from: now.micros, called });
            }
            Event::NotStarted(key, _) => {
                self.counts.launch_failures.inc();
                self.ways.remove(key);
            }
            Event::Died(key, clean) => {
                self.counts.exits.inc();
                if !clean {
                    self.counts.failed_exits.inc();
                }
                self.ways.remove(key);
            }
            _ => {}
        }
    }

    /// After the court has heard of an event.
    pub fn after(&mut self, key: Option<Key>, court: &Court, now: Now) {
        let Some(key) = key.filter(|key| self.ways.contains_key(key)) else { return };
        let Some(vassal) = court.get(key) else {
            self.ways.remove(&key);
            return;
        };
        if !vassal.instance.accepting || vassal.state != State::Up {
            return;
        }
        let seconds = |since: u64| Duration::from_micros(now.micros.saturating_sub(since)).as_secs_f64();
        match self.ways.get(&key) {
            Some(Way::Starting { from, called }) => {
                self.counts.starts.observe(seconds(*from));
                if let Some(called) = called {
                    self.counts.cold_starts.observe(seconds(*called));
                }
            }
            Some(Way::Reloading(from)) => self.counts.reloads.observe(seconds(*from)),
            Some(Way::Called(_)) | None => return,
        }
        self.ways.remove(&key);
    }

    /// Before the hands do something.
    pub fn doing(&mut self, action: &Action, now: impl FnOnce() -> Now) {
        match action {
            Action::Reload { key, .. } => {
                self.ways.insert(*key, Way::Reloading(now().micros));
            }
            Action::Tell(Notice { name: Some(name), what }) => self.turn(name, what, now),
            Action::Forget(_, name) => drop(self.turns.remove(name)),
            _ => {}
        }
    }

    /// A vassal's processes take turns.
    fn turn(&mut self, name: &VassalName, what: &What, now: impl FnOnce() -> Now) {
        match what {
            What::Rolling => drop(self.turns.insert(name.clone(), now().micros)),
            What::Replaced => {
                if let Some(from) = self.turns.remove(name) {
                    let took = Duration::from_micros(now().micros.saturating_sub(from));
                    self.counts.reloads.observe(took.as_secs_f64());
                }
            }
            What::NotReplaced(_) => {
                self.turns.remove(name);
                self.counts.failed_turns.inc();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Snapshot};
    use super::*;
    use crate::emperor::court::{Manner, Policy};
    use crate::emperor::source::{Identity, Report, SourceId};
    use crate::vassal::link::Word;

    /// A court that is looked at as the loop does it.
    struct Stage {
        court: Court,
        times: Times,
        now: Now,
    }

    impl Stage {
        fn on(&mut self, event: Event) -> Vec<Action> {
            let mut actions = Vec::new();
            let key = event.key();
            self.times.before(&event, &self.court, self.now);
            self.court.on_event(event, self.now, &mut actions);
            self.times.after(key, &self.court, self.now);
            actions.iter().for_each(|action| self.times.doing(action, || self.now));
            actions
        }

        fn later(&mut self, millis: u64) {
            self.now.micros += millis * 1000;
        }

        fn says(&self, line: &str) -> bool {
            let snapshot = Snapshot::new("1", &[], false, Some(self.times.counts()));
            snapshot.text(Format::OpenMetrics).lines().any(|found| found == line)
        }
    }

    #[test]
    fn starts_reloads_and_cold_starts_are_timed_to_readiness() {
        let mut stage = Stage {
            court: Court::new(Policy { on_demand: true, ..Policy::default() }),
            times: Times::default(),
            now: Now { micros: 1, epoch: 1 },
        };
        let identity = Identity { mtime_ns: 1, ctime_ns: 1, device: 1, inode: 1, size: 1, uid: 1, gid: 1 };
        stage.on(Event::Report(Report::Seen(SourceId(0), VassalName::new(b"a.ini"), identity)));
        let key = stage.court.find(&VassalName::new(b"a.ini")).unwrap();
        stage.on(Event::Admitted(key, true));
        stage.later(1000);
        assert!(stage.on(Event::Connection(key)).contains(&Action::Spawn(key)));
        stage.later(200);
        stage.on(Event::Started(key, 7));
        stage.later(100);
        stage.on(Event::Said(key, Word::Spawned));
        stage.on(Event::Said(key, Word::Accepting));
        assert!(
            stage.says("emperor_vassal_start_seconds_sum 0.1")
                && stage.says("emperor_vassal_start_seconds_count 1")
        );
        assert!(stage.says("emperor_vassal_cold_start_seconds_sum 0.3"));
        stage.later(5000);
        stage.on(Event::ReloadAll);
        stage.later(50);
        stage.on(Event::Said(key, Word::Accepting));
        assert!(stage.says("emperor_vassal_reload_seconds_sum 0.05"));
        stage.on(Event::Said(key, Word::Accepting));
        assert!(
            stage.says("emperor_vassal_reload_seconds_count 1")
                && stage.says("emperor_vassal_start_seconds_count 1")
        );
        stage.on(Event::Died(key, false));
        for line in ["emperor_launches_total 1", "emperor_exits_total 1", "emperor_failed_exits_total 1"] {
            assert!(stage.says(line), "{line}");
        }
        assert!(stage.times.ways.is_empty());
    }

    #[test]
    fn a_rolling_reload_is_timed_to_the_moment_at_which_the_new_one_takes_over() {
        let mut stage = Stage {
            court: Court::new(Policy::default()),
            times: Times::default(),
            now: Now { micros: 1, epoch: 1 },
        };
        let identity = Identity { mtime_ns: 1, ctime_ns: 1, device: 1, inode: 1, size: 1, uid: 1, gid: 1 };
        let name = VassalName::new(b"a.ini");
        stage.on(Event::Report(Report::Seen(SourceId(0), name.clone(), identity)));
        let up = |stage: &mut Stage, key, pid| {
            stage.on(Event::Agreed(key, Manner { rolling: true, ..Manner::default() }));
            stage.on(Event::Started(key, pid));
        };
        let first = stage.court.find(&name).unwrap();
        up(&mut stage, first, 7);
        stage.on(Event::Said(first, Word::Accepting));
        stage.later(5000);
        for (mtime_ns, ready) in [(2, true), (3, false)] {
            let changed = Report::Seen(SourceId(0), name.clone(), Identity { mtime_ns, ..identity });
            let next = stage.on(Event::Report(changed)).into_iter().find_map(|action| match action {
                Action::Spawn(key) => Some(key),
                _ => None,
            });
            let next = next.unwrap();
            up(&mut stage, next, 7 + i32::try_from(mtime_ns).unwrap());
            stage.later(200);
            stage.on(if ready { Event::Said(next, Word::Accepting) } else { Event::Died(next, false) });
            stage.later(5000);
        }
        assert!(stage.says("emperor_vassal_reload_seconds_sum 0.2"));
        assert!(stage.says("emperor_vassal_reload_seconds_count 1"));
        assert!(stage.says("emperor_failed_rolling_reloads_total 1"));
        assert!(stage.times.turns.is_empty());
    }
}
