//! Fresh namespaces.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Uid, getegid, geteuid, setuid};

use super::super::link::Failure;
use super::super::plan::{Namespaces, Step};
use crate::sys::alone;

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

fn as_user_namespace_root(enter: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // By descriptor: our process id need not be the one that this /proc knows us by.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc = open("/proc/self", flags, Mode::empty())?;
    if geteuid().is_root() {
        let (users, groups) = (identity_map("/proc/self/uid_map")?, identity_map("/proc/self/gid_map")?);
        // Only a process outside may map more than one id, and only after we are inside.
        let (go, wait) = io::pipe().map(|(read, write)| (write, read))?;
        let Some(mapper) = alone::fork()? else {
            drop(go);
            std::process::exit(i32::from(map_when_told(wait, &proc, &users, &groups).is_err()));
        };
        drop(wait);
        let entered = enter().and_then(|()| (&go).write_all(b"."));
        drop(go);
        let mapped = waitpid(mapper, None)?;
        entered?;
        if !matches!(mapped, WaitStatus::Exited(_, 0)) {
            return Err(io::Error::other("its id maps could not be written"));
        }
    } else {
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
