//! Fresh namespaces.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Uid, getegid, geteuid, setuid};
use serde::{Deserialize, Serialize};

use super::super::link::Failure;
use super::super::plan::{Namespaces, Step};
use crate::sys::{alone, loopback};

/// Whether the spawner has cloned us into a pid namespace, as the plan wants: the vassal is process 1 there.
pub(in super::super) fn be_first_process() -> io::Result<()> {
    if std::process::id() == 1 { Ok(()) } else { Err(io::Error::other("not cloned into a pid namespace")) }
}

/// Enters all but the pid namespace. In a user namespace the ids are the same numbers as outside and we are
/// root; mounts follow the host's, and none of ours reaches it.
pub(in super::super) fn enter(wanted: Namespaces) -> Result<(), Failure> {
    let of = [
        (wanted.ipc, CloneFlags::CLONE_NEWIPC),
        (wanted.net, CloneFlags::CLONE_NEWNET),
        (wanted.mount, CloneFlags::CLONE_NEWNS),
        (wanted.uts, CloneFlags::CLONE_NEWUTS),
        (wanted.user, CloneFlags::CLONE_NEWUSER),
    ];
    let flags = of.iter().filter(|(on, _)| *on).fold(CloneFlags::empty(), |all, (_, flag)| all | *flag);
    let entered = || Ok(unshare(flags)?);
    if wanted.user {
        let failed = |error| Failure::new(Step::UserNamespace, &wanted, &error);
        as_user_namespace_root(entered).map_err(failed)?;
    } else {
        entered().map_err(|error| Failure::new(Step::Namespaces, &wanted, &error))?;
    }
    if wanted.mount {
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        let made = mount(None::<&str>, "/", None::<&str>, slave, None::<&str>);
        made.map_err(|errno| Failure::new(Step::Namespaces, &"propagation of /", &errno.into()))?;
    }
    Ok(())
}

/// Namespaces of a view: one call makes them all, and before anything else happens in them the mounts are cut off
/// from the host's.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Isolation {
    /// Mounts.
    pub mounts: bool,
    /// System V and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Names of control groups: its own is the root.
    pub cgroup: bool,
    /// A network: only a loopback device, which is brought up.
    pub net: bool,
}

impl Isolation {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those of either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            mounts: self.mounts || other.mounts,
            ipc: self.ipc || other.ipc,
            uts: self.uts || other.uts,
            cgroup: self.cgroup || other.cgroup,
            net: self.net || other.net,
        }
    }

    fn parts(self) -> [(bool, &'static str, CloneFlags); 5] {
        [
            (self.mounts, "mount", CloneFlags::CLONE_NEWNS),
            (self.ipc, "ipc", CloneFlags::CLONE_NEWIPC),
            (self.uts, "uts", CloneFlags::CLONE_NEWUTS),
            (self.cgroup, "cgroup", CloneFlags::CLONE_NEWCGROUP),
            (self.net, "net", CloneFlags::CLONE_NEWNET),
        ]
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given: Vec<_> = self.parts().iter().filter(|(on, ..)| *on).map(|(_, word, _)| *word).collect();
        f.write_str(&given.join(","))
    }
}

/// Enters them.
pub(in super::super) fn isolate(wanted: Isolation) -> Result<(), Failure> {
    let failed = |step, object: &str, error: io::Error| Failure::new(step, &object, &error);
    let flags = wanted
        .parts()
        .iter()
        .filter(|(on, ..)| *on)
        .fold(CloneFlags::empty(), |all, (_, _, flag)| all | *flag);
    unshare(flags).map_err(|errno| failed(Step::Namespaces, &wanted.to_string(), errno.into()))?;
    if wanted.mounts {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let made = mount(None::<&str>, "/", None::<&str>, private, None::<&str>);
        made.map_err(|errno| failed(Step::Namespaces, "propagation of /", errno.into()))?;
    }
    if wanted.net {
        loopback::bring_up().map_err(|error| failed(Step::Network, "lo", error))?;
    }
    Ok(())
}

/// A user namespace in which only the vassal's own user exists, and no group is root's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// The user; without a number, whom a later operation of the plan makes of the vassal.
    pub uid: Option<u32>,
    /// Whether the vassal is started without it where the machine does not allow it.
    pub best_effort: bool,
}

/// Enters it. Everything that was entered before belongs to the host's users, and stays out of reach for whoever has
/// privileges in here; nobody has the number of root.
pub(in super::super) fn own_users(wanted: Users) -> io::Result<()> {
    let Some(uid) = wanted.uid.filter(|uid| *uid != 0) else {
        return Err(io::Error::other(
            "root cannot be the only user of a user namespace: say another, by `uid`",
        ));
    };
    let groups: String = identity_map("/proc/self/gid_map")?.lines().filter_map(without_root).collect();
    map_from_outside(|| Ok(unshare(CloneFlags::CLONE_NEWUSER)?), &format!("{uid} {uid} 1"), &groups)
}

/// A line of an identity map, without the number 0.
fn without_root(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (first, _, count) = (words.next()?, words.next()?, words.next()?);
    let cut = u64::from(first == 0);
    let (first, count) = (first + cut, count.checked_sub(cut).filter(|count| *count > 0)?);
    Some(format!("{first} {first} {count}\n"))
}

/// `/proc/self`, by descriptor: our process id need not be the one that this /proc knows us by.
fn own_proc() -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open("/proc/self", flags, Mode::empty())?)
}

/// Only a process outside may map more than one id, and only after we are inside.
fn map_from_outside(enter: impl FnOnce() -> io::Result<()>, users: &str, groups: &str) -> io::Result<()> {
    let proc = own_proc()?;
    let (go, wait) = io::pipe().map(|(read, write)| (write, read))?;
    let Some(mapper) = alone::fork()? else {
        drop(go);
        std::process::exit(i32::from(map_when_told(wait, &proc, users, groups).is_err()));
    };
    drop(wait);
    let entered = enter().and_then(|()| (&go).write_all(b"."));
    drop(go);
    let mapped = waitpid(mapper, None)?;
    entered?;
    if matches!(mapped, WaitStatus::Exited(_, 0)) {
        return Ok(());
    }
    Err(io::Error::other("its id maps could not be written"))
}

fn as_user_namespace_root(enter: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if geteuid().is_root() {
        let (users, groups) = (identity_map("/proc/self/uid_map")?, identity_map("/proc/self/gid_map")?);
        map_from_outside(enter, &users, &groups)?;
    } else {
        let proc = own_proc()?;
        let (users, groups) = (format!("0 {} 1", geteuid()), format!("0 {} 1", getegid()));
        enter()?;
        write_at(&proc, "setgroups", "deny")?; // user_namespaces(7): or the group map may not be written
        write_maps(&proc, &users, &groups)?;
    }
    setuid(Uid::from_raw(0))?;
    Ok(())
}

/// Each id that exists here, as itself. Lines of `/proc/PID/uid_map` are: first inside, first outside, count.
fn identity_map(path: &str) -> io::Result<String> {
    let lines = fs::read_to_string(path)?;
    let same = lines.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    Ok(same.collect())
}

fn map_when_told(mut told: io::PipeReader, proc: &OwnedFd, users: &str, groups: &str) -> io::Result<()> {
    io::Read::read_exact(&mut told, &mut [0])?;
    write_maps(proc, users, groups)
}

fn write_maps(proc: &OwnedFd, users: &str, groups: &str) -> io::Result<()> {
    write_at(proc, "uid_map", users)?;
    write_at(proc, "gid_map", groups)
}

fn write_at(proc: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let fd = openat(proc, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(fd).write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_cut_off_a_map() {
        assert_eq!(without_root("0 0 4294967295").as_deref(), Some("1 1 4294967294\n"));
        assert_eq!(without_root("1000 1000 10").as_deref(), Some("1000 1000 10\n"));
        assert_eq!(without_root("0 0 1"), None);
        assert_eq!(without_root("x"), None);
    }
}
