//! What a vassal sees of the file system, as data: a root, and what is laid over it, parents first.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::text::Text;

/// The view of one vassal. Nothing of it is mounted anywhere else.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// What everything else is laid over.
    pub root: Root,
    /// Set-id bits and file capabilities have no effect anywhere in it. Never off where a tenant has a word in it: who
    /// decides what `/etc/passwd` says is root as soon as a set-id program believes it.
    pub no_suid: bool,
    /// The home of this user stays, where it belongs to that user and would be hidden.
    pub home_of: Option<u32>,
    /// Homes are hidden: where a user is known only to the launcher, it fills in the last.
    #[serde(default)]
    pub homes_hidden: bool,
    /// In the order of [`Scene::sort`].
    pub entries: Vec<Entry>,
}

/// What the root directory is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The host's.
    #[default]
    Host,
    /// An empty one, in which missing directories and files are made for what is laid over them. Read-only in the end.
    Empty,
    /// This directory, without what is mounted below it.
    Directory(Text),
}

/// One thing that is laid over the root.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where, as seen from inside.
    pub target: Text,
    /// What.
    pub what: What,
    /// Whether it is left out where its source or its target does not exist.
    pub optional: bool,
    /// Whether it is laid over everything that is not: the emperor's word on what a tenant has opened.
    #[serde(default)]
    pub last: bool,
}

/// What is laid over a place.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// What is there, read-only with all that is mounted below.
    ReadOnly,
    /// The host's directory of that path, read-only; or the same symbolic link, if it is one.
    System,
    /// A path of the host, as the host has it.
    Bind(Bind),
    /// An empty file system in memory.
    Tmpfs(Tmpfs),
    /// The few devices that a program needs, and no other.
    Devices(Tmpfs),
    /// The processes of this pid namespace.
    Proc(Proc),
    /// The control groups of this control group namespace, read-only. Where the host has not mounted the second
    /// version: what the host has, read-only.
    ControlGroups,
    /// Nothing: an empty directory or file that nobody may open.
    Inaccessible,
}

/// A path of the host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// The path.
    pub source: Text,
    /// Whether nothing can be written there.
    pub read_only: bool,
    /// Who has asked for it: it is looked for with the rights of this user and group, and must belong to the user.
    /// `None` for the emperor.
    pub opened_as: Option<(u32, u32)>,
}

/// Bounds of a file system in memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Most bytes in it.
    pub bytes: u64,
    /// Most files, directories and links in it.
    pub inodes: u64,
    /// Permissions of its root.
    pub mode: u32,
    /// Whether nothing can be written there once the view is ready.
    pub read_only: bool,
}

/// What `/proc` shows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proc {
    /// Of other users' processes.
    pub hide: HidePid,
    /// Whether there is nothing but processes.
    pub only_processes: bool,
}

/// What a user sees of others' processes. Source: proc(5), `hidepid`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HidePid {
    /// Everything that is not private.
    #[default]
    Default,
    /// That they are there.
    NoAccess,
    /// Nothing.
    Invisible,
    /// Nothing of those that it may not trace.
    Ptraceable,
}

impl HidePid {
    /// The kernel's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Default => "off",
            Self::NoAccess => "noaccess",
            Self::Invisible => "invisible",
            Self::Ptraceable => "ptraceable",
        }
    }
}

impl Scene {
    /// Puts parents before what lies in them, and drops what is said twice. At the same place, the order stays.
    pub fn sort(&mut self) {
        self.entries.sort_by_cached_key(Entry::rank);
        self.entries.dedup();
    }

    /// Whether nothing would be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root == Root::Host && self.entries.is_empty() && !self.no_suid
    }
}

impl Entry {
    /// An entry that must be possible.
    #[must_use]
    pub fn new(target: impl Into<Text>, what: What) -> Self {
        Self { target: target.into(), what, optional: false, last: false }
    }

    /// The same, left out where it is not possible for want of a file.
    #[must_use]
    pub fn or_nothing(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The same, over everything that is not last itself.
    #[must_use]
    pub fn at_last(self, last: bool) -> Self {
        Self { last, ..self }
    }

    fn rank(&self) -> (bool, Vec<Vec<u8>>) {
        let parts = self.target.as_bytes().split(|byte| *byte == b'/');
        let parts = parts.filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
        (self.last, parts)
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Root::Host => f.write_str("of the host")?,
            Root::Empty => f.write_str("of its own")?,
            Root::Directory(path) => write!(f, "of {path}")?,
        }
        if self.no_suid {
            f.write_str(", no set-id programs")?;
        }
        if let Some(uid) = self.home_of {
            write!(f, ", home of uid {uid}")?;
        }
        let mut mark = ":";
        for entry in &self.entries {
            write!(f, "{mark} {entry}")?;
            mark = ";";
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} ", if self.optional { "-" } else { "" }, self.target)?;
        let ro = |read_only| if read_only { " ro" } else { "" };
        match &self.what {
            What::ReadOnly => f.write_str("ro"),
            What::System => f.write_str("system"),
            What::Bind(bind) => {
                f.write_str("bind")?;
                if bind.source != self.target {
                    write!(f, " {}", bind.source)?;
                }
                f.write_str(ro(bind.read_only))?;
                bind.opened_as.map_or(Ok(()), |(uid, gid)| write!(f, " as {uid}:{gid}"))
            }
            What::Tmpfs(tmpfs) => write!(f, "tmpfs {} KiB{}", tmpfs.bytes / 1024, ro(tmpfs.read_only)),
            What::Devices(_) => f.write_str("devices"),
            What::Proc(proc) => {
                let subset = if proc.only_processes { " only processes" } else { "" };
                write!(f, "proc hidepid={}{subset}", proc.hide.word())
            }
            What::ControlGroups => f.write_str("cgroup ro"),
            What::Inaccessible => f.write_str("inaccessible"),
        }
    }
}
