//! The families of a vassal's series: one table for what is written and what is documented.
//!
//! Names, units and types follow the conventions of OpenMetrics 1.0: base units, the unit in the name, counters end in
//! `_total`.

use prometheus_client::registry::Unit;

use super::Row;
use crate::emperor::cgroup::{Usage, Waits};
use crate::emperor::forward::{Figures, Processes};

/// What a value may do between two looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until what it counts begins anew.
    Counter,
}

/// A value, with the label that tells it from others of the same vassal, if there is more than one.
pub(super) type Value = (Option<(&'static str, &'static str)>, f64);

/// One family of series, of which each vassal has one or a few.
#[derive(Debug)]
pub struct Family {
    /// Its name, without unit and `_total`.
    pub name: &'static str,
    /// What it counts in, where that is a base unit.
    pub unit: Option<Unit>,
    /// What its values may do.
    pub kind: Kind,
    /// One line for people.
    pub help: &'static str,
    /// Of one vassal; nothing where that is not known.
    pub(super) values: fn(&Row, &mut dyn FnMut(Value)),
}

impl Family {
    /// The name of its series.
    #[must_use]
    pub fn series(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name)
    }
}

macro_rules! families {
    ($($kind:ident $name:literal $(in $unit:ident)?, $help:literal: |$row:ident| $value:expr;)*) => {
        /// All families of vassals, in the order in which they are written.
        pub const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            unit: families!(@unit $($unit)?),
            kind: Kind::$kind,
            help: $help,
            values: |$row, put| IntoValues::put($value, put),
        }),*];
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

families! {
    Gauge "emperor_vassal_state", "1 for what the vassal is doing": |row| [(("state", row.state), Some(1.0))];
    Gauge "emperor_vassal_state_timestamp" in Seconds, "Since when it has been doing that": |row| float(row.since);
    Counter "emperor_vassal_restarts", "Times that it was started again": |row| f64::from(row.restarts);
    Gauge "emperor_vassal_failures", "Failures in a row": |row| f64::from(row.failures);
    Gauge "emperor_vassal_old_file", "1 while it goes on with an earlier file, because the one that is there does not start":
        |row| row.runs_old_file.then_some(1.0);
    Gauge "emperor_vassal_backoff" in Seconds, "Time until it starts again, while it is kept from that": |row| row.backoff;
    Gauge "emperor_vassal_last_exit_status", "How its last process failed: exit status, or 128 and the signal":
        |row| row.last_exit.map(f64::from);
    Gauge "emperor_vassal_processes", "Its processes": |row| process(row, |it| Some(float(it.count)));
    Gauge "emperor_vassal_tasks", "Processes and threads in its control group":
        |row| used(row, |usage| usage.tasks.map(float));
    Gauge "emperor_vassal_memory" in Bytes, "Memory of its control group, or of its processes":
        |row| used(row, |usage| usage.memory_current.map(float))
            .or_else(|| process(row, |it| Some(float(it.memory_bytes))));
    Counter "emperor_vassal_cpu" in Seconds, "Processor time of its control group, or of its processes":
        |row| used(row, |usage| usage.cpu_usec.map(seconds))
            .or_else(|| process(row, |it| Some(seconds(it.cpu_micros))));
    Counter "emperor_vassal_cpu_throttled_periods", "Times that cpu-max has held it up":
        |row| used(row, |usage| usage.cpu_throttled.map(float));
    Gauge "emperor_vassal_pressure" in Ratios, "Share of the last ten seconds in which some of its tasks waited for a resource":
        |row| [
            (("resource", "cpu"), used(row, |usage| usage.pressure.cpu.map(share))),
            (("resource", "memory"), used(row, |usage| usage.pressure.memory.map(share))),
            (("resource", "io"), used(row, |usage| usage.pressure.io.map(share))),
        ];
    Counter "emperor_vassal_oom_kills", "Processes that the kernel has ended in it for lack of memory":
        |row| used(row, |usage| Some(float(usage.oom_kills)));
    Gauge "emperor_vassal_queue_length", "Connections that wait at its sockets":
        |row| process(row, |it| it.queue.map(float));
    Gauge "emperor_vassal_stats_read", "Whether its own stats server, if it has one, has answered":
        |row| row.gathered.address.as_ref().map(|_| f64::from(u8::from(row.gathered.figures.is_some())));
    Counter "emperor_vassal_requests", "Requests that it has answered": |row| own(row, |it| float(it.requests));
    Counter "emperor_vassal_exceptions", "Exceptions that no application has caught":
        |row| own(row, |it| float(it.exceptions));
    Counter "emperor_vassal_harakiri", "Requests that took too long": |row| own(row, |it| float(it.harakiri));
    Gauge "emperor_vassal_workers", "Its workers by what they are doing": |row| [
        (("state", "busy"), own(row, |it| float(it.busy))),
        (("state", "idle"), own(row, |it| float(it.idle))),
    ];
    Gauge "emperor_vassal_response" in Seconds, "How long a request takes, by the workers' own averages":
        |row| own(row, |it| seconds(it.response_micros));
    Counter "emperor_vassal_running" in Seconds, "How long requests took in all": |row| own(row, |it| seconds(it.running_micros));
    Counter "emperor_vassal_transmitted" in Bytes, "Bytes that it has sent": |row| own(row, |it| float(it.tx_bytes));
}

/// By the kernel's word, of its control group.
fn used(row: &Row, value: impl FnOnce(&Usage) -> Option<f64>) -> Option<f64> {
    row.usage.as_ref().and_then(value)
}

/// By the kernel's word, of its processes.
fn process(row: &Row, value: impl FnOnce(&Processes) -> Option<f64>) -> Option<f64> {
    row.gathered.process.as_ref().and_then(value)
}

/// By the vassal's own word.
fn own(row: &Row, value: impl FnOnce(&Figures) -> f64) -> Option<f64> {
    row.gathered.figures.as_ref().map(value)
}

fn seconds(micros: u64) -> f64 {
    float(micros) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "what is exact up to 2^53 is exact enough for a graph")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

fn share(waits: Waits) -> f64 {
    f64::from(waits.some_avg10) / 100.0
}

/// What a family's column may give.
trait IntoValues {
    fn put(self, put: &mut dyn FnMut(Value));
}

impl IntoValues for f64 {
    fn put(self, put: &mut dyn FnMut(Value)) {
        put((None, self));
    }
}

impl IntoValues for Option<f64> {
    fn put(self, put: &mut dyn FnMut(Value)) {
        if let Some(value) = self {
            put((None, value));
        }
    }
}

impl<const N: usize> IntoValues for [((&'static str, &'static str), Option<f64>); N] {
    fn put(self, put: &mut dyn FnMut(Value)) {
        for (label, value) in self {
            if let Some(value) = value {
                put((Some(label), value));
            }
        }
    }
}
