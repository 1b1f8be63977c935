//! Control groups: the kernel's accounts, limits and nets for all that a vassal's process starts.
//!
//! Caller: the hands. Nothing is looked for, made or written before a vassal wants a group. Nothing here waits; what
//! is read are small files of the kernel's own, which no tenant can make larger or slower.

mod act;
mod dir;
mod find;
mod limits;
mod name;
mod tree;
mod usage;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::sys::{cgroup as machine, spawn};
use crate::vassal::terms::cgroup::ResourceTerms;
use limits::{Machine, Setting};
use tree::Tree;

pub use usage::{Pressure, Troubles, Usage, Waits};

/// What the emperor's configuration says of its vassals' groups.
#[derive(Clone, Debug, Default)]
pub struct GroupRules {
    /// What no vassal gets more than.
    pub policy: ResourceTerms,
    /// Whether vassals may have reinforcements, which share their limits.
    pub families: bool,
    /// Whether programs that nobody uses are frozen.
    pub freezes: bool,
    /// A name for this emperor's tree where others may stand beside it.
    pub tree: String,
}

impl GroupRules {
    /// The name of the tree of an emperor with these sources, which its successor finds again. Their directories count,
    /// not only their names: in another mount namespace the same path is another emperor's.
    #[must_use]
    pub fn tree_of(sources: &[OsString], cwd: &Path) -> String {
        let mut texts = Vec::new();
        for source in sources.iter().map(OsString::as_os_str).chain([cwd.as_os_str()]) {
            texts.push(source.as_bytes().to_vec());
            texts.push(directory_of(source, cwd).to_vec());
        }
        format!("{TREE}{:016x}", name::fingerprint(texts.iter().map(Vec::as_slice)))
    }
}

/// What the name of a tree begins with; sixteen digits follow.
const TREE: &str = "emperor-";

/// How long processes that were killed are awaited at the start, all in all: they take milliseconds.
const DYING: Duration = Duration::from_millis(200);

/// Device and number of the directory that a source is about: itself, or what is left of a pattern or a file without what
/// is behind the last `/` that means itself. Zeros for one that is none.
fn directory_of(source: &OsStr, cwd: &Path) -> [u8; 16] {
    let bytes = source.as_bytes();
    let path = ["dir://", "glob://"].iter().find_map(|scheme| bytes.strip_prefix(scheme.as_bytes()));
    let path = Path::new(OsStr::from_bytes(path.unwrap_or(bytes)));
    let means_itself = |path: &&Path| !path.as_os_str().as_bytes().iter().any(|byte| b"*?[".contains(byte));
    let found = path.ancestors().filter(means_itself).find_map(|path| {
        let found = std::fs::metadata(cwd.join(path)).ok()?;
        found.is_dir().then(|| (found.dev(), found.ino()))
    });
    let (device, number) = found.unwrap_or_default();
    let mut out = [0; 16];
    out[..8].copy_from_slice(&device.to_le_bytes());
    out[8..].copy_from_slice(&number.to_le_bytes());
    out
}

/// Kinds of limits that a kernel may have or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Controllers(u8);

impl Controllers {
    const MEMORY: Self = Self(1);
    const PIDS: Self = Self(2);
    const CPU: Self = Self(4);
    const IO: Self = Self(8);
    /// Accounts only, in version 1; part of `CPU` in version 2.
    const CPUACCT: Self = Self(16);
    /// A file of every group in version 2, since Linux 5.2.
    const FREEZER: Self = Self(32);

    const NAMES: [(Self, &str); 4] =
        [(Self::MEMORY, "memory"), (Self::PIDS, "pids"), (Self::CPU, "cpu"), (Self::IO, "io")];

    fn of_names(text: &str) -> Self {
        let known = |word: &str| Self::NAMES.iter().find(|(_, name)| *name == word).map(|(it, _)| *it);
        let found = text.split_whitespace().filter_map(known).fold(Self::default(), |all, it| all | it);
        if found.has(Self::CPU) { found | Self::CPUACCT } else { found }
    }

    /// Names between commas, as version 1 has them.
    fn of_legacy(text: &[u8]) -> Self {
        text.split(|byte| *byte == b',').fold(Self::default(), |all, word| {
            all | match word {
                b"memory" => Self::MEMORY,
                b"pids" => Self::PIDS,
                b"cpu" => Self::CPU,
                b"cpuacct" => Self::CPUACCT,
                b"blkio" => Self::IO,
                b"freezer" => Self::FREEZER,
                _ => Self::default(),
            }
        })
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(it, _)| self.has(*it)).map(|(_, name)| name)
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Controllers {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A vassal's group, by its names below the vassals' tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Where its processes are.
    leaf: Box<str>,
    /// How much of that names the group with the limits: all of it, or the part before the last `/`.
    limits: usize,
}

/// A group for the next emperor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupRecord {
    /// Its name, as [`Group::as_text`].
    pub leaf: String,
    /// What its vassal's file asks for, under the policy.
    pub share: ResourceTerms,
    /// There is no such group, but a subreaper.
    #[serde(default)]
    pub reaped: bool,
}

/// A vassal's name, and which of its family it is.
#[derive(Clone, Copy, Debug)]
pub struct Member<'n> {
    /// The vassal's, or that of the base of a reinforcement.
    pub name: &'n [u8],
    /// The number of a reinforcement.
    pub zerg: Option<u32>,
    /// Whether no other process of the same vassal is meant to run.
    pub is_alone: bool,
}

impl Group {
    /// The group as a text that [`Group::from_text`] reads.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.leaf
    }

    /// A group that a former emperor has made. A name that it could not have made is none.
    #[must_use]
    pub fn from_text(leaf: &str) -> Option<Self> {
        let mut parts = leaf.split('/');
        let limits = parts.next()?.len();
        let fine = |part: &str| !part.is_empty() && !part.starts_with('.') && part.len() <= 250;
        let few = leaf.split('/').count() <= 2 && leaf.split('/').all(fine) && !leaf.contains('\0');
        few.then(|| Self { leaf: leaf.into(), limits })
    }

    fn limits(&self) -> &str {
        &self.leaf[..self.limits]
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.leaf)
    }

    fn limit_file(&self, name: &str) -> String {
        format!("{}/{name}", self.limits())
    }
}

/// A group that a process can be started in.
#[derive(Debug, Default)]
pub struct Entrance {
    directory: Option<OwnedFd>,
    procs: Option<OwnedFd>,
    legacy: Vec<OwnedFd>,
}

impl Entrance {
    /// As the spawner wants it.
    #[must_use]
    pub fn groups(&self) -> spawn::Groups<'_> {
        spawn::Groups {
            directory: self.directory.as_ref().map(AsFd::as_fd),
            procs: self.procs.as_ref().map(AsFd::as_fd),
            legacy: &self.legacy,
        }
    }
}

/// Why a vassal cannot have the group that it must have.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// It cannot be made.
    #[error("cannot make its control group {path}")]
    Make {
        /// Where.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A limit cannot be set.
    #[error("cannot set {option}: writing `{value}` to {path}")]
    Limit {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A rate is limited for a device that is none.
    #[error("cannot set io-max: {path}")]
    Device {
        /// Its file.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// All groups of an emperor.
#[derive(Debug)]
pub struct Groups {
    name: String,
    freezes: bool,
    tree: State,
    inotify: Option<Inotify>,
    machine: Machine,
    /// Limits of which was said that nothing enforces them.
    told: HashSet<&'static str>,
}

#[derive(Debug)]
enum State {
    /// Nobody has wanted a group yet.
    Untouched,
    /// There are none, and that was said.
    Absent,
    There(Tree),
}

impl Groups {
    /// None yet.
    #[must_use]
    pub fn new(rules: &GroupRules) -> Self {
        Self {
            name: rules.tree.clone(),
            freezes: rules.freezes,
            tree: State::Untouched,
            inotify: None,
            machine: Machine { memory_bytes: u64::MAX, tasks: u64::MAX },
            told: HashSet::new(),
        }
    }

    /// The name of the tree, for the next emperor.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Uses the tree of the emperor before this one, under whatever name it has made it: its sources may be in the places
    /// of others by now. Before anybody wants a group.
    pub fn inherit(&mut self, name: &str) {
        let digits = name.strip_prefix(TREE).unwrap_or_default();
        if digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            name.clone_into(&mut self.name);
        }
    }

    /// Whether there are groups. Looks for the place where they can be, the first time.
    pub fn open(&mut self) -> bool {
        if matches!(self.tree, State::Untouched) {
            self.machine = Machine {
                memory_bytes: machine::memory_bytes().unwrap_or(u64::MAX),
                tasks: ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"]
                    .iter()
                    .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
                    .min()
                    .unwrap_or(u64::MAX),
            };
            self.tree = match Tree::open(&self.name, self.freezes) {
                Ok(tree) => State::There(tree),
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map_or_else(String::new, |it| format!(": {it}"));
                    warn!(
                        "[emperor] vassals have no control groups, and no limit of memory, tasks, processor or disks is \
                         enforced; a subreaper for each ends what a vassal leaves behind: {error}{cause}; mount cgroup2, or run \
                         the emperor as a service with Delegate=yes"
                    );
                    State::Absent
                }
            };
            if self.freezes && !self.tree().is_some_and(|tree| tree.controllers().has(Controllers::FREEZER)) {
                warn!(
                    "[emperor] idle programs are stopped and never frozen (emperor-idle-freeze): there is no freezer,                      neither cgroup.freeze of version 2, which Linux has since 5.2, nor a `freezer` of version 1"
                );
            }
        }
        matches!(self.tree, State::There(_))
    }

    /// Whether groups were looked for and found.
    #[must_use]
    pub fn are_open(&self) -> bool {
        matches!(self.tree, State::There(_))
    }

    fn tree(&self) -> Option<&Tree> {
        if let State::There(tree) = &self.tree { Some(tree) } else { None }
    }

    /// Readable when something was said of a group that is watched.
    #[must_use]
    pub fn notifications(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Makes a fresh group with these limits. `None` where there are no control groups at all, which was said.
    ///
    /// # Errors
    /// [`GroupError`]; nothing is left then.
    pub fn make(
        &mut self,
        member: Member<'_>,
        families: bool,
        terms: &ResourceTerms,
    ) -> Result<Option<(Group, Entrance)>, GroupError> {
        if !self.open() {
            return Ok(None);
        }
        self.tell_missing(terms);
        let Some(tree) = self.tree() else { return Ok(None) };
        let (group, is_new) = tree.make(member, families)?;
        let limited = tree.limit(&group, terms, self.machine, !is_new);
        let made = limited.and_then(|missing| Ok((tree.entrance(&group)?, missing)));
        match made {
            Ok((entrance, missing)) => {
                self.tell_without_file(&missing);
                Ok(Some((group, entrance)))
            }
            Err(error) => {
                tree.remove(&group);
                Err(error)
            }
        }
    }

    /// Writes the limits of a group anew; the processes in it go on.
    ///
    /// # Errors
    /// [`GroupError`]: what was written before stays.
    pub fn limit(
        &mut self,
        group: &Group,
        former: &ResourceTerms,
        terms: &ResourceTerms,
    ) -> Result<(), GroupError> {
        self.tell_missing(terms);
        if former.io_max != terms.io_max
            && let Some(tree) = self.tree()
        {
            tree.lift_rates(group, former);
        }
        let missing =
            self.tree().map_or(Ok(Vec::new()), |tree| tree.limit(group, terms, self.machine, true))?;
        self.tell_without_file(&missing);
        Ok(())
    }

    fn tell_without_file(&mut self, missing: &[Setting]) {
        for Setting { option, files, .. } in missing {
            if self.told.insert(option) {
                warn!(
                    "[emperor] {option} is not enforced: control groups of this kernel have no {}",
                    files.join(" nor ")
                );
            }
        }
    }

    /// Takes over a group that a former emperor has made; `None` if it is not there.
    pub fn adopt(&mut self, leaf: &str) -> Option<Group> {
        let group = Group::from_text(leaf).filter(|_| self.open())?;
        self.tree()?.is_there(&group).then_some(group)
    }

    /// Ends all processes of a group.
    pub fn kill(&self, group: &Group) {
        if let Some(tree) = self.tree() {
            tree.kill(group);
        }
    }

    /// Freezes all processes of a group, or lets them go on.
    ///
    /// # Errors
    /// There is no freezer, or the kernel refuses.
    pub fn freeze(&self, group: &Group, frozen: bool) -> io::Result<()> {
        self.tree().ok_or(io::ErrorKind::Unsupported)?.freeze(group, frozen)
    }

    /// Whether all processes of a group are frozen by now, which takes them a moment.
    #[must_use]
    pub fn is_frozen(&self, group: &Group) -> bool {
        self.tree().is_some_and(|tree| tree.is_frozen(group))
    }

    /// Whether processes live in a group.
    #[must_use]
    pub fn is_populated(&self, group: &Group) -> bool {
        self.tree().is_some_and(|tree| tree.is_populated(group))
    }

    /// The processes in a group.
    #[must_use]
    pub fn processes(&self, group: &Group) -> Vec<i32> {
        self.tree().map_or_else(Vec::new, |tree| tree.processes(group))
    }

    /// Where a group's files of version 2 are.
    #[must_use]
    pub fn directory(&self, group: &Group) -> Option<PathBuf> {
        Some(self.tree()?.unified.as_ref()?.top.path().join(group.as_text()))
    }

    /// Whether no process can be added to a group, or no memory: nothing that the machine is short of.
    #[must_use]
    pub fn is_full(&self, group: &Group) -> bool {
        self.tree().is_some_and(|tree| {
            let number = |name: &str| tree.read(Controllers::PIDS, &group.limit_file(name));
            let (max, now) = (number("pids.max"), number("pids.current"));
            let full =
                |max: &str, now: &str| Some(now.trim().parse::<u64>().ok()? >= max.trim().parse().ok()?);
            max.zip(now).is_some_and(|(max, now)| full(&max, &now).unwrap_or(false))
        })
    }

    /// Has [`Groups::notifications`] speak of the end of all processes of a group.
    ///
    /// # Errors
    /// The kernel does not tell, or no more watches are allowed.
    pub fn watch(&mut self, group: &Group) -> io::Result<WatchDescriptor> {
        let Some(unified) = self.tree().and_then(|tree| tree.unified.as_ref()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let path = unified.top.path().join(group.file("cgroup.events"));
        if self.inotify.is_none() {
            self.inotify = Some(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
        }
        let inotify = self.inotify.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(inotify.add_watch(&path, AddWatchFlags::IN_MODIFY)?)
    }

    /// Of which watched groups something was said.
    #[must_use]
    pub fn heard(&self) -> Vec<WatchDescriptor> {
        let events = self.inotify.as_ref().and_then(|inotify| inotify.read_events().ok());
        events.map_or_else(Vec::new, |events| events.into_iter().map(|event| event.wd).collect())
    }

    /// Removes a group; `false` while there are processes in it.
    pub fn remove(&self, group: &Group) -> bool {
        self.tree().is_none_or(|tree| tree.remove(group))
    }

    /// What has happened in a group.
    #[must_use]
    pub fn troubles(&self, group: &Group) -> Troubles {
        self.tree().map_or_else(Troubles::default, |tree| tree.troubles(group))
    }

    /// What a group uses.
    #[must_use]
    pub fn usage(&self, group: &Group) -> Usage {
        self.tree().map_or_else(Usage::default, |tree| tree.usage(group))
    }

    /// Ends and removes all groups but these: whoever made them is no more, and nobody governs what is in them.
    pub fn sweep(&self, used: &HashSet<&str>) {
        let Some(tree) = self.tree() else { return };
        let mut dying = Vec::new();
        for name in tree.names() {
            let is_used = |leaf: &&str| leaf.split('/').next() == Some(name.as_str());
            if !used.iter().any(is_used)
                && let Some(group) = Group::from_text(&name)
            {
                let processes = tree.all_processes(&name);
                if !processes.is_empty() {
                    warn!(
                        "[emperor] {} processes that a former emperor's vassal has left in {name} are ended",
                        processes.len()
                    );
                    tree.kill(&group);
                }
                dying.push((name, group));
            }
        }
        // Only empty ones can be removed, and nobody comes back to them.
        let until = Instant::now() + DYING;
        for (name, group) in dying {
            while !tree.all_processes(&name).is_empty() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            tree.remove(&group);
        }
    }

    /// Gives back what was taken; groups with processes stay.
    pub fn close(&mut self) {
        if let State::There(tree) = std::mem::replace(&mut self.tree, State::Untouched) {
            tree.close();
        }
    }

    fn tell_missing(&mut self, terms: &ResourceTerms) {
        let Some(tree) = self.tree() else { return };
        let there = tree.controllers();
        let why = tree.unified.as_ref().and_then(|unified| unified.shared);
        let devices: Vec<_> =
            terms.io_max.lines().iter().map(|line| ("0:0".to_owned(), line.rates)).collect();
        let missing: Vec<_> = limits::unified(terms, self.machine, &devices)
            .into_iter()
            .filter(|setting| !setting.is_default && !there.has(setting.controller))
            .collect();
        let memory =
            |limit: crate::vassal::terms::cgroup::Limit| limit.on(self.machine.memory_bytes).is_some();
        let swap_alone = memory(terms.memory_swap_max) && !memory(terms.memory_max);
        if swap_alone && !tree.has_unified(Controllers::MEMORY) && self.told.insert("memory-swap-max") {
            warn!(
                "[emperor] memory-swap-max is not enforced without memory-max: version 1 has no limit of swap alone"
            );
        }
        for Setting { option, controller, .. } in missing {
            if self.told.insert(option) {
                let name = controller.names().next().unwrap_or_default();
                warn!(
                    "[emperor] {option} is not enforced: {}",
                    why.map_or_else(
                        || format!(
                            "the kernel's controller `{name}` is neither handed down to the emperor's control group nor \
                             mounted as version 1"
                        ),
                        str::to_owned
                    )
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_named_by_directories_and_not_by_their_paths_alone() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path();
        let tree = |source: &str| GroupRules::tree_of(&[source.into()], here);
        for source in ["v", "v/", "glob://v/*.ini", "v/a.ini"] {
            std::fs::create_dir(here.join("v")).unwrap();
            let before = tree(source);
            assert_eq!(tree(source), before, "{source}: its successor finds it again");
            std::fs::rename(here.join("v"), here.join("old")).unwrap();
            std::fs::create_dir(here.join("v")).unwrap(); // as in another mount namespace
            assert_ne!(tree(source), before, "{source}");
            std::fs::remove_dir(here.join("v")).unwrap();
            std::fs::remove_dir(here.join("old")).unwrap();
        }
        assert_eq!(tree("pg://host=/run/pg"), tree("pg://host=/run/pg"));
    }

    #[test]
    fn the_tree_of_the_emperor_before_is_used_if_it_could_be_one() {
        let mut groups =
            Groups::new(&GroupRules { tree: "emperor-0123456789abcdef".into(), ..Default::default() });
        for strange in ["", "emperor-", "emperor-../../../../x/", "x", "emperor-0123456789abcdeg"] {
            groups.inherit(strange);
            assert_eq!(groups.name(), "emperor-0123456789abcdef", "{strange}");
        }
        groups.inherit("emperor-fedcba9876543210");
        assert_eq!(groups.name(), "emperor-fedcba9876543210");
    }
}
