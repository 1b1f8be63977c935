//! What a vassal sees: of the file system, of processes, of the network. Named after systemd's directives, which mean
//! the same there; what is ours alone says so.

use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::{Asked, Level, TermsError};
use crate::config::{Got, words};
use crate::vassal::plan::scene::{Bind, Entry, HidePid, Proc, Root, Scene, Tmpfs, What};
use crate::vassal::plan::{Init, Isolation, Op, Text, Users};

mod base;
mod paths;

pub use paths::{PathKind, PathRule};

/// Bytes of a private `/tmp`, and of everything else in memory, if nothing is said.
const TMP_BYTES: u64 = 256 << 20;
/// Bytes that one file of a tmpfs is meant to have, for the number of files that fit.
const BYTES_PER_INODE: u64 = 4096;
/// The smallest and the largest tmpfs that makes sense.
const TMP_RANGE: std::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 40);
/// Most paths in all of a vassal's options: each costs a few mounts.
const MOST_PATHS: usize = 128;

/// The view of one vassal: effective values. The default changes nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct View {
    /// `private-pids`: its own process ids, with a reaper as process 1.
    pub private_pids: bool,
    /// Mounts of its own, with nothing changed in them. No option of ours: `unshare = fs`.
    pub private_mounts: bool,
    /// `private-ipc`
    pub private_ipc: bool,
    /// `protect-hostname`
    pub protect_hostname: bool,
    /// `private-network`
    pub private_network: bool,
    /// `private-users`
    pub private_users: Wish,
    /// `private-root`, ours: a root of its own with a minimal base.
    pub private_root: bool,
    /// `private-tmp`
    pub private_tmp: bool,
    /// `private-tmp-size`, ours: bytes of each file system in memory. 0 is the default.
    pub tmp_bytes: u64,
    /// `private-devices`
    pub private_devices: bool,
    /// `protect-system`
    pub protect_system: System,
    /// `protect-home`
    pub protect_home: Home,
    /// `protect-proc`
    pub protect_proc: HidePid,
    /// `proc-subset = pid`
    pub only_processes: bool,
    /// `protect-kernel-tunables`
    pub protect_kernel_tunables: bool,
    /// `protect-control-groups`
    pub protect_control_groups: ControlGroups,
    /// Set-id programs have no effect. No option: part of the levels, and of every view that a tenant has a word in.
    pub no_suid: bool,
    /// `read-write-paths`, `read-only-paths`, `inaccessible-paths`, `temporary-file-system`, `bind`, `bind-read-only`
    pub paths: Vec<PathRule>,
    /// The directory that becomes the root: uWSGI's `namespace`. Not read from outside, where it would be a tenant's.
    #[serde(skip)]
    pub root_directory: Option<Text>,
    /// What is kept of the host in that.
    #[serde(skip)]
    pub kept_mounts: Vec<Entry>,
}

/// Something that a machine may not allow.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Not wanted.
    #[default]
    No,
    /// Wanted where it is possible.
    BestEffort,
    /// Wanted; without it the vassal is not started.
    Yes,
}

/// How much of the system is read-only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Nothing.
    #[default]
    No,
    /// `/usr` and `/boot`.
    Yes,
    /// And `/etc`.
    Full,
    /// Everything but `/dev`, `/proc` and `/sys`.
    Strict,
}

/// What is there of `/home`, `/root` and `/run/user`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// Everything.
    #[default]
    No,
    /// Everything, to read.
    ReadOnly,
    /// Nothing but the vassal's own; `tmpfs` is the same.
    Yes,
}

/// What can be done with control groups.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlGroups {
    /// What permissions allow.
    #[default]
    No,
    /// They can be read.
    Yes,
    /// Its own can be read, which is the root of what it sees.
    Strict,
}

/// What a view needs to know of its vassal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Around {
    /// Absolute path of the directory in which its file lies: it stays, whatever is hidden.
    pub directory: Text,
    /// Absolute path of its file, which stays where its directory is itself one that is hidden. Empty without one.
    pub file: Text,
    /// The user that it becomes, if that is known: its home stays.
    pub uid: Option<u32>,
    /// What has to be there in a root of its own, besides: the socket of notifications, a program outside of `/usr`, the
    /// files of its own sockets.
    pub needs: Vec<Bind>,
}

impl View {
    /// What a level means.
    #[must_use]
    pub fn level(level: Level) -> Self {
        if level == Level::None {
            return Self::default();
        }
        let strict = level == Level::Strict;
        Self {
            private_pids: true,
            private_mounts: true,
            private_ipc: true,
            protect_hostname: true,
            private_network: strict,
            private_users: if strict { Wish::BestEffort } else { Wish::No },
            private_root: strict,
            private_tmp: true,
            tmp_bytes: 0,
            private_devices: true,
            protect_system: System::Full,
            protect_home: Home::Yes,
            protect_proc: HidePid::Invisible,
            only_processes: false,
            protect_kernel_tunables: true,
            protect_control_groups: ControlGroups::Strict,
            no_suid: true,
            ..Self::default()
        }
    }

    /// What a file says, over the level that it says.
    ///
    /// # Errors
    /// The option that cannot be understood, with its place.
    pub fn read(asked: Asked<'_>, level: Level) -> Result<Self, TermsError> {
        let of = Self::level(level);
        let flag = |option, level| asked.flag(option).unwrap_or(level);
        let choose = |option, table: &[(&str, u8)], level: u8| choice(asked, option, table, level);
        let system = choose("protect-system", &[("full", 2), ("strict", 3)], of.protect_system as u8)?;
        let home =
            choose("protect-home", &[("read-only", 1), ("yes", 2), ("tmpfs", 2)], of.protect_home as u8)?;
        let users = choose("private-users", &[("best-effort", 1), ("yes", 2)], of.private_users as u8)?;
        let groups = choose("protect-control-groups", &[("strict", 2)], of.protect_control_groups as u8)?;
        Ok(Self {
            private_pids: flag("private-pids", of.private_pids),
            private_mounts: of.private_mounts,
            private_ipc: flag("private-ipc", of.private_ipc),
            protect_hostname: flag("protect-hostname", of.protect_hostname),
            private_network: flag("private-network", of.private_network),
            private_users: [Wish::No, Wish::BestEffort, Wish::Yes][usize::from(users)],
            private_root: flag("private-root", of.private_root),
            private_tmp: flag("private-tmp", of.private_tmp),
            tmp_bytes: asked.parsed("private-tmp-size", size)?.unwrap_or(of.tmp_bytes),
            private_devices: flag("private-devices", of.private_devices),
            protect_system: [System::No, System::Yes, System::Full, System::Strict][usize::from(system)],
            protect_home: [Home::No, Home::ReadOnly, Home::Yes][usize::from(home)],
            protect_proc: asked.parsed("protect-proc", hide)?.unwrap_or(of.protect_proc),
            only_processes: asked.parsed("proc-subset", subset)?.unwrap_or(of.only_processes),
            protect_kernel_tunables: flag("protect-kernel-tunables", of.protect_kernel_tunables),
            protect_control_groups: [ControlGroups::No, ControlGroups::Yes, ControlGroups::Strict]
                [usize::from(groups)],
            no_suid: of.no_suid,
            paths: paths::read(asked)?,
            ..Self::default()
        })
    }

    /// The stricter of two, field by field. Paths are those of both.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        let mut paths = self.paths;
        paths.extend(other.paths.iter().filter(|rule| !paths.contains(rule)).cloned().collect::<Vec<_>>());
        Self {
            private_pids: self.private_pids || other.private_pids,
            private_mounts: self.private_mounts || other.private_mounts,
            private_ipc: self.private_ipc || other.private_ipc,
            protect_hostname: self.protect_hostname || other.protect_hostname,
            private_network: self.private_network || other.private_network,
            private_users: self.private_users.max(other.private_users),
            private_root: self.private_root || other.private_root,
            private_tmp: self.private_tmp || other.private_tmp,
            tmp_bytes: match (self.tmp_bytes, other.tmp_bytes) {
                (0, bytes) | (bytes, 0) => bytes,
                (one, other) => one.min(other),
            },
            private_devices: self.private_devices || other.private_devices,
            protect_system: self.protect_system.max(other.protect_system),
            protect_home: self.protect_home.max(other.protect_home),
            protect_proc: self.protect_proc.max(other.protect_proc),
            only_processes: self.only_processes || other.only_processes,
            protect_kernel_tunables: self.protect_kernel_tunables || other.protect_kernel_tunables,
            protect_control_groups: self.protect_control_groups.max(other.protect_control_groups),
            no_suid: self.no_suid || other.no_suid,
            paths,
            root_directory: self.root_directory.or_else(|| other.root_directory.clone()),
            kept_mounts: self.kept_mounts.into_iter().chain(other.kept_mounts.iter().cloned()).collect(),
        }
    }

    /// The same as the word of a tenant: what it opens, it opens with the tenant's rights and only of the tenant's own,
    /// and set-id programs mean nothing in a view that a tenant has shaped. Before it is [joined](Self::joined).
    ///
    /// # Errors
    /// What is out of bounds: the terms may have come from a process of the tenant's.
    pub fn of_tenant(mut self, uid: u32, gid: u32) -> Result<Self, String> {
        if self.paths.len() > MOST_PATHS {
            return Err(format!("{} paths are named, and {MOST_PATHS} may be", self.paths.len()));
        }
        if self.tmp_bytes != 0 && !TMP_RANGE.contains(&self.tmp_bytes) {
            return Err(format!("private-tmp-size is {} bytes", self.tmp_bytes));
        }
        for rule in &mut self.paths {
            rule.check()?;
            rule.tenant = Some((uid, gid));
        }
        self.no_suid |= self.has_mounts();
        Ok(self)
    }

    /// Whether the view differs from the host's in nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a process can gain privileges by what it sees: then the launch must include `no_new_privs` as well.
    #[must_use]
    pub fn has_tenants_word(&self) -> bool {
        self.paths.iter().any(|rule| rule.tenant.is_some())
    }

    fn has_mounts(&self) -> bool {
        let without = Self {
            private_ipc: false,
            protect_hostname: false,
            private_network: false,
            private_users: Wish::No,
            tmp_bytes: 0,
            ..self.clone()
        };
        !without.is_none()
    }

    /// The namespaces, mounts included where there is anything to mount.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        Isolation {
            mounts: self.has_mounts(),
            ipc: self.private_ipc,
            uts: self.protect_hostname,
            cgroup: self.protect_control_groups == ControlGroups::Strict,
            net: self.private_network,
        }
    }

    /// The check of the pid namespace, which the spawner makes. Before everything.
    #[must_use]
    pub fn first_ops(&self) -> Vec<Op> {
        self.private_pids.then_some(Op::PidNamespace).into_iter().collect()
    }

    /// Namespaces, and what is to be seen of the file system. After hooks that are meant for the host's view, before
    /// everything that is meant for the vassal's.
    #[must_use]
    pub fn ops(&self, around: &Around) -> Vec<Op> {
        let mut ops = Vec::new();
        let isolation = self.isolation();
        ops.extend((!isolation.is_empty()).then_some(Op::Isolate(isolation)));
        let scene = self.scene(around);
        ops.extend((!scene.is_empty()).then_some(Op::View(scene)));
        ops
    }

    /// The reaper. After [`ops`](Self::ops) and every change of the root directory, before limits and identity.
    #[must_use]
    pub fn init_ops(&self, die_with_emperor: bool) -> Vec<Op> {
        self.private_pids.then_some(Op::Init(Init { die_with_emperor })).into_iter().collect()
    }

    /// The user namespace, for a vassal that becomes this user, or whom the plan's `become` names. After the owner of its file was verified and before
    /// anything about capabilities, which are new in there; then groups and user as without it.
    #[must_use]
    pub fn users_ops(&self, uid: Option<u32>) -> Vec<Op> {
        let best_effort = match self.private_users {
            Wish::No => return Vec::new(),
            wish => wish == Wish::BestEffort,
        };
        vec![Op::OwnUsers(Users { uid, best_effort })]
    }

    /// Where the vassal finds things to read, and where things that it may write to as far as permissions go.
    #[must_use]
    pub fn trees(&self) -> (Vec<Text>, Vec<Text>) {
        if !self.private_root && self.protect_system != System::Strict {
            return (Vec::new(), vec!["/".into()]);
        }
        let written = |rule: &&PathRule| {
            matches!(rule.kind, PathKind::ReadWrite | PathKind::Bind | PathKind::Temporary)
        };
        let own = self.paths.iter().filter(written).map(|rule| rule.target.clone());
        let of_all =
            if self.private_tmp { &["/tmp", "/var/tmp", "/dev", "/proc"][..] } else { &["/dev", "/proc"] };
        (vec!["/".into()], of_all.iter().map(|path| Text::from(*path)).chain(own).collect())
    }

    /// What is to be seen of the file system.
    #[must_use]
    pub fn scene(&self, around: &Around) -> Scene {
        let root = match (&self.root_directory, self.private_root) {
            (Some(path), _) => Root::Directory(path.clone()),
            (None, true) => Root::Empty,
            (None, false) => Root::Host,
        };
        let mut scene = Scene { root, no_suid: self.no_suid, ..Scene::default() };
        match scene.root {
            Root::Empty => scene.entries.extend(base::minimal(around)),
            Root::Host => self.host_system(&mut scene),
            Root::Directory(_) => scene.entries.extend(self.kept_mounts.iter().cloned()),
        }
        if self.private_tmp {
            for place in ["/tmp", "/var/tmp"] {
                let tmpfs = self.tmpfs(0o1777, false);
                scene.entries.push(Entry::new(place, What::Tmpfs(tmpfs)).or_nothing());
            }
        }
        if self.private_devices {
            scene.entries.push(Entry::new("/dev", What::Devices(self.tmpfs(0o1777, false))));
        }
        let proc = Proc { hide: self.protect_proc, only_processes: self.only_processes };
        if self.private_pids || proc != Proc::default() {
            scene.entries.push(Entry::new("/proc", What::Proc(proc)));
        }
        if self.protect_kernel_tunables {
            scene.entries.extend(base::tunables(self.private_root));
        }
        if self.protect_control_groups != ControlGroups::No && !self.private_root {
            scene.entries.push(Entry::new("/sys/fs/cgroup", What::ControlGroups).or_nothing());
        }
        if scene.root == Root::Host {
            let hidden = hidden(&scene);
            scene.entries.extend(base::kept(around, &hidden));
        }
        scene.homes_hidden = self.protect_home == Home::Yes && !self.private_root;
        scene.home_of = around.uid.filter(|_| scene.homes_hidden);
        let opened = self.paths.iter().any(|rule| rule.tenant.is_some());
        scene.entries.extend(self.paths.iter().map(|rule| rule.entry(self.tmp_bytes(), opened)));
        scene.sort();
        scene
    }

    fn host_system(&self, scene: &mut Scene) {
        let read_only = |path: &&str| Entry::new(*path, What::ReadOnly).or_nothing();
        match self.protect_system {
            System::No => {}
            System::Yes | System::Full => {
                let etc = (self.protect_system == System::Full).then_some("/etc");
                scene.entries.extend(base::SYSTEM.map(|path| Entry::new(path, What::System).or_nothing()));
                scene.entries.extend(etc.iter().map(read_only));
            }
            System::Strict => {
                scene.entries.push(Entry::new("/", What::ReadOnly));
                let kept = |path: &str| {
                    Entry::new(path, What::Bind(Bind { source: path.into(), ..Bind::default() }))
                };
                scene.entries.extend(base::OF_THE_KERNEL.map(kept));
            }
        }
        match self.protect_home {
            Home::No => {}
            Home::ReadOnly => scene.entries.extend(base::HOMES.iter().map(read_only)),
            Home::Yes => {
                let tmpfs = self.tmpfs(0o755, true);
                let empty = |path| Entry::new(path, What::Tmpfs(tmpfs)).or_nothing();
                scene.entries.extend(base::HOMES.map(empty));
            }
        }
    }

    fn tmp_bytes(&self) -> u64 {
        if self.tmp_bytes == 0 { TMP_BYTES } else { self.tmp_bytes }
    }

    fn tmpfs(&self, mode: u32, read_only: bool) -> Tmpfs {
        tmpfs(if read_only { 64 << 10 } else { self.tmp_bytes() }, mode, read_only)
    }
}

/// The directories that something empty is laid over.
fn hidden(scene: &Scene) -> Vec<Text> {
    let empty = scene.entries.iter().filter(|entry| matches!(entry.what, What::Tmpfs(_)));
    empty.map(|entry| entry.target.clone()).collect()
}

fn tmpfs(bytes: u64, mode: u32, read_only: bool) -> Tmpfs {
    Tmpfs { bytes, inodes: (bytes / BYTES_PER_INODE).max(64), mode, read_only }
}

/// One of some words, or a truth value: 0 for no, 1 for yes unless the table has a `yes`.
fn choice(asked: Asked<'_>, option: &'static str, table: &[(&str, u8)], level: u8) -> Result<u8, TermsError> {
    let yes = table.iter().find(|(word, _)| *word == "yes").map_or(1, |(_, value)| *value);
    let parse = |word: &str| match word.to_ascii_lowercase().as_str() {
        "no" | "false" | "off" | "0" => Ok(0),
        "yes" | "true" | "on" | "1" => Ok(yes),
        word => table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let others = table.iter().map(|(name, _)| *name).filter(|name| *name != "yes");
            words::unknown(word, ["no", "yes"].into_iter().chain(others))
        }),
    };
    Ok(asked.parsed(option, parse)?.unwrap_or(level))
}

fn hide(word: &str) -> Result<HidePid, String> {
    let named = [HidePid::NoAccess, HidePid::Invisible, HidePid::Ptraceable].map(|hide| (hide.word(), hide));
    let [no_access, invisible, ptraceable] = named;
    words::choose(word, &[("default", HidePid::Default), no_access, invisible, ptraceable])
}

fn subset(word: &str) -> Result<bool, String> {
    words::choose(word, &[("all", false), ("pid", true)])
}

/// A number of bytes, with K, M, G or T behind it.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("a size from 64K to 1T is wanted, such as `256M`; this is `{text}`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| TMP_RANGE.contains(bytes)).ok_or_else(wrong)
}

/// The text of a word, as the system has it.
fn text(got: &Got<'_, &[u8]>) -> Text {
    Text::from(std::ffi::OsStr::from_bytes(got.value))
}

#[cfg(test)]
mod tests;
