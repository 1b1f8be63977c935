//! `emperor-stats`: the state of the empire as one JSON document a connection, with uWSGI's keys and types.
//!
//! The document is written by the loop in one go, from the court into one buffer; it is sent by a task of its
//! own, so that a client that does not read delays nobody.

use std::io;

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::cgroup::Usage;
use super::court::{Court, Key, Vassal};
use super::source::SourceInfo;
use crate::vassal::link::Failure;

/// What the document says of the emperor itself.
#[derive(Clone, Debug)]
pub struct Itself {
    /// The program's version.
    pub version: &'static str,
    /// Process id, user and group.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Working directory.
    pub cwd: String,
    /// Whether tyrant mode is on.
    pub tyrant: bool,
    /// Without white space (`stats-minified`).
    pub minified: bool,
}

/// Writes the document. `on_demand` tells the address of a vassal's on-demand socket, `usage` what its control group
/// uses, if it has one.
#[must_use]
pub fn document<'a>(
    itself: &'a Itself,
    sources: &'a [&'a SourceInfo],
    court: &'a Court,
    told: &'a dyn Fn(Key) -> Told<'a>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + court.len() * 448);
    let document = Document {
        version: itself.version,
        pid: itself.pid,
        uid: itself.uid,
        gid: itself.gid,
        cwd: &itself.cwd,
        emperor: Arguments(sources),
        emperor_tyrant: itself.tyrant.into(),
        throttle_level: 0,
        vassals: Vassals { court, sources, told },
        blacklist: Blacklist(court),
    };
    let written = if itself.minified {
        document.serialize(&mut serde_json::Serializer::new(&mut out))
    } else {
        document.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Tabs::default()))
    };
    // Plain data into memory: neither can fail.
    if written.is_err() {
        out.clear();
    }
    out
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    cwd: &'a str,
    emperor: Arguments<'a>,
    emperor_tyrant: u8,
    throttle_level: u8,
    vassals: Vassals<'a>,
    blacklist: Blacklist<'a>,
}

struct Arguments<'a>(&'a [&'a SourceInfo]);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|source| &source.argument))
    }
}

struct Vassals<'a> {
    court: &'a Court,
    sources: &'a [&'a SourceInfo],
    told: &'a dyn Fn(Key) -> Told<'a>,
}

/// What others than the court know of a vassal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The address of its on-demand socket, or nothing.
    pub on_demand: &'a str,
    /// What its control group has used.
    pub usage: Option<&'a Usage>,
    /// What its program says of itself (`STATUS=`).
    pub status: &'a str,
    /// Why its last launch has failed.
    pub failure: Option<&'a Failure>,
    /// Why the process did not take its place that was to.
    pub not_replaced: Option<&'a str>,
}

impl Serialize for Vassals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        for (key, vassal) in self.court.vassals() {
            let source = self.sources.get(usize::from(vassal.source.0));
            let monitor = source.map_or("", |source| &source.argument);
            sequence.serialize_element(&Row::new(self.court, vassal, monitor, (self.told)(key)))?;
        }
        sequence.end()
    }
}

/// One vassal. Times are seconds since the epoch, or 0.
#[derive(Serialize)]
struct Row<'a> {
    id: std::borrow::Cow<'a, str>,
    pid: i32,
    born: u64,
    last_mod: u64,
    last_heartbeat: u64,
    loyal: u8,
    ready: u8,
    accepting: u8,
    last_loyal: u64,
    last_ready: u64,
    last_accepting: u64,
    first_run: u64,
    last_run: u64,
    cursed: u64,
    zerg: u8,
    on_demand: &'a str,
    uid: u32,
    gid: u32,
    monitor: &'a str,
    respawns: u32,
    /// Only of a reinforcement, or a successor: the vassal that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<std::borrow::Cow<'a, str>>,
    /// Only of a vassal that has a group: uWSGI's row has no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a Usage>,
    /// Only of a program that says something of itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    /// Only of a vassal whose last launch has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_failure: Option<LaunchFailure<'a>>,
    /// Only of a vassal whose last rolling reload has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    rolling_failure: Option<&'a str>,
}

/// The step of a launch that failed, and the status its launcher ended with.
#[derive(Serialize)]
struct LaunchFailure<'a> {
    status: u8,
    #[serde(flatten)]
    failure: &'a Failure,
}

impl<'a> Row<'a> {
    fn new(court: &'a Court, vassal: &'a Vassal, monitor: &'a str, told: Told<'a>) -> Self {
        let failure = |failure: &'a Failure| LaunchFailure { status: failure.step.status(), failure };
        let instance = &vassal.instance;
        Self {
            id: String::from_utf8_lossy(vassal.name.as_bytes()),
            pid: vassal.pid,
            born: vassal.born,
            last_mod: vassal.last_mod(),
            last_heartbeat: instance.last_heartbeat,
            loyal: instance.loyal.into(),
            ready: instance.ready.into(),
            accepting: instance.accepting.into(),
            last_loyal: instance.last_loyal,
            last_ready: instance.last_ready,
            last_accepting: instance.last_accepting,
            first_run: vassal.first_run,
            last_run: vassal.last_run,
            cursed: instance.cursed,
            zerg: vassal.zerg.is_some().into(),
            on_demand: told.on_demand,
            uid: vassal.identity.uid,
            gid: vassal.identity.gid,
            monitor,
            respawns: vassal.respawns,
            parent: vassal
                .zerg
                .and_then(|zerg| court.get(zerg.base))
                .map(|base| String::from_utf8_lossy(base.name.as_bytes())),
            cgroup: told.usage,
            status: told.status,
            launch_failure: told.failure.map(failure),
            rolling_failure: told.not_replaced,
        }
    }
}

struct Blacklist<'a>(&'a Court);

impl Serialize for Blacklist<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.0.vassals().filter_map(|(_, vassal)| {
            let entry = vassal.backoff.as_deref()?;
            Some(Entry {
                id: String::from_utf8_lossy(vassal.name.as_bytes()),
                throttle_level: entry.level_micros / 1000,
                attempt: entry.attempt,
                first_attempt: entry.first_attempt,
                last_attempt: entry.last_attempt,
            })
        });
        serializer.collect_seq(entries)
    }
}

/// One entry of the blacklist; the level in milliseconds.
#[derive(Serialize)]
struct Entry<'a> {
    id: std::borrow::Cow<'a, str>,
    throttle_level: u64,
    attempt: u32,
    first_attempt: u64,
    last_attempt: u64,
}

/// Tabs and line ends as uWSGI sets them: `"key":value`, one to a line.
#[derive(Debug, Default)]
struct Tabs {
    depth: usize,
    empty: bool,
}

impl Tabs {
    fn line<W: io::Write + ?Sized>(&self, writer: &mut W) -> io::Result<()> {
        const TABS: [u8; 8] = [b'\t'; 8];
        writer.write_all(b"\n")?;
        writer.write_all(&TABS[..self.depth.min(TABS.len())])
    }

    fn open<W: io::Write + ?Sized>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(&[bracket])
    }

    fn close<W: io::Write + ?Sized>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.empty) {
            self.line(writer)?;
        }
        writer.write_all(&[bracket])
    }

    fn item<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            writer.write_all(b",")?;
        }
        self.line(writer)
    }
}

impl serde_json::ser::Formatter for Tabs {
    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b'[')
    }
    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b']')
    }
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }
    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b'{')
    }
    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b'}')
    }
    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emperor::court::{Court, Event, Now, Policy};
    use crate::emperor::source::{Identity, Report, SourceId, VassalName};

    #[test]
    fn names_are_escaped_and_the_form_is_uwsgis() {
        let mut court = Court::new(Policy::default());
        let name = VassalName::new(b"a\"\n\xff.ini");
        let identity =
            Identity { mtime_ns: 5_000_000_000, ctime_ns: 0, device: 0, inode: 1, size: 1, uid: 7, gid: 8 };
        let now = Now { micros: 1, epoch: 9 };
        court.on_event(Event::Report(Report::Seen(SourceId(0), name, identity)), now, &mut Vec::new());
        let source = SourceInfo { argument: "/srv".into(), cwd: "/srv".into(), carries: false };
        let itself =
            Itself { version: "1", pid: 2, uid: 0, gid: 0, cwd: "/".into(), tyrant: true, minified: false };
        let text = String::from_utf8(document(&itself, &[&source], &court, &|_| Told::default())).unwrap();
        assert!(text.starts_with("{\n\t\"version\":\"1\",\n\t\"pid\":2,"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["vassals"][0]["id"], "a\"\n\u{fffd}.ini");
        assert_eq!(value["vassals"][0]["born"], 5);
        assert_eq!(value["vassals"][0]["monitor"], "/srv");
        assert_eq!(value["blacklist"], serde_json::json!([]));
    }
}
