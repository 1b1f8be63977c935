//! What a group uses and what has happened in it, from the files of either version. Parsing is pure.

use serde::Serialize;

/// What the stats say of a vassal's group. Keys that the kernel has no answer for are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Where it is, below the emperor's own groups.
    pub group: Box<str>,
    /// Bytes now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_current: Option<u64>,
    /// Bytes at most so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Processor time so far, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// Times that `cpu-max` has held it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttled: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Processes that the kernel has ended for lack of memory, since the vassal was there.
    pub oom_kills: u64,
    /// How much of the last ten seconds tasks have waited, percent.
    #[serde(skip_serializing_if = "Pressure::is_unknown")]
    pub pressure: Pressure,
    /// When this was read, seconds since the epoch.
    pub read_at: u64,
}

#[cfg(test)]
impl Usage {
    /// One in which nothing is unknown.
    pub(in crate::emperor) fn sample() -> Self {
        let waits = Some(Waits { some_avg10: 12.5, full_avg10: 1.0 });
        Self {
            group: "shop.ini".into(),
            memory_current: Some(123_456_789),
            memory_peak: Some(234_567_890),
            cpu_usec: Some(1_234_567_890),
            cpu_throttled: Some(12),
            tasks: Some(17),
            oom_kills: 2,
            pressure: Pressure { cpu: waits, memory: waits, io: waits },
            read_at: 1,
        }
    }
}

/// Pressure by resource: some tasks waited, and all did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// For a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Waits>,
    /// For memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Waits>,
    /// For a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Waits>,
}

impl Pressure {
    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// Shares of ten seconds, percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Waits {
    /// At least one task waited.
    pub some_avg10: f32,
    /// All of them did.
    pub full_avg10: f32,
}

impl Waits {
    /// Of a `*.pressure` file. Source: the kernel's documentation of PSI.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let of = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            line.split_whitespace().find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
        };
        Some(Self { some_avg10: of("some ")?, full_avg10: of("full ").unwrap_or_default() })
    }
}

/// What has happened in a group so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Troubles {
    /// Times that its own limit of memory left the kernel no choice.
    pub own_limit: u64,
    /// Processes that the kernel has ended for lack of memory.
    pub oom_kills: u64,
    /// Times that a process was refused to it.
    pub tasks_refused: u64,
}

impl Troubles {
    /// What has come to these since they were others.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            own_limit: self.own_limit.saturating_sub(before.own_limit),
            oom_kills: self.oom_kills.saturating_sub(before.oom_kills),
            tasks_refused: self.tasks_refused.saturating_sub(before.tasks_refused),
        }
    }
}

/// The number behind a key, as in `memory.events`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_pressures_are_read() {
        let events = "low 0\nhigh 3\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(field(events, "oom"), Some(2));
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field(events, "oom_"), None);
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(Waits::parse(text), Some(Waits { some_avg10: 1.5, full_avg10: 0.25 }));
        assert_eq!(
            Waits::parse("some avg10=2.00 total=1\n"),
            Some(Waits { some_avg10: 2.0, full_avg10: 0.0 })
        );
        assert_eq!(Waits::parse(""), None);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_left_out() {
        let usage = Usage { group: "a".into(), oom_kills: 2, ..Usage::default() };
        assert_eq!(serde_json::to_string(&usage).unwrap(), r#"{"group":"a","oom_kills":2,"read_at":0}"#);
    }
}
