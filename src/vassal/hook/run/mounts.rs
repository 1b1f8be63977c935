//! Mounts and unmounts of hooks.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::super::{Mount, MountFlag, Unmount};

/// Flags that a bind ignores: they need a second call. Source: mount(2), "Creating a bind mount".
const IGNORED_BY_BIND: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME);

pub(super) fn mount(wanted: &Mount) -> io::Result<()> {
    let flags = wanted.flags.iter().fold(MsFlags::empty(), |all, flag| all | kernel_flag(*flag));
    let target = wanted.target.as_path();
    let (source, fstype) = (Some(wanted.source.as_path()), Some(wanted.fstype.as_path()));
    nix::mount::mount(source, target, fstype, flags, wanted.data.as_ref().map(|data| data.as_path()))?;
    let later = flags & IGNORED_BY_BIND;
    if flags.contains(MsFlags::MS_BIND) && !flags.contains(MsFlags::MS_REMOUNT) && !later.is_empty() {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | later;
        nix::mount::mount(None::<&Path>, target, None::<&Path>, flags, None::<&Path>)?;
    }
    Ok(())
}

pub(super) fn unmount(wanted: &Unmount) -> io::Result<()> {
    let mut flags = MntFlags::empty();
    flags.set(MntFlags::MNT_FORCE, wanted.force);
    flags.set(MntFlags::MNT_DETACH, wanted.detach);
    if wanted.recursive {
        let top = fs::canonicalize(&wanted.target)?;
        for point in below(&top, &fs::read("/proc/self/mountinfo")?) {
            match nix::mount::umount2(&point, flags) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {} // gone with one above it
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    nix::mount::umount2(wanted.target.as_path(), flags)?;
    Ok(())
}

/// The mount points strictly below `top`, the last mounted first. Source: proc(5), `/proc/PID/mountinfo`.
fn below(top: &Path, mountinfo: &[u8]) -> Vec<PathBuf> {
    let points = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(field))))
    });
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(top) && point != top).collect();
    points.reverse();
    points
}

/// Blanks, tabs, newlines and backslashes stand there as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn kernel_flag(flag: MountFlag) -> MsFlags {
    match flag {
        MountFlag::Bind => MsFlags::MS_BIND,
        MountFlag::DirSync => MsFlags::MS_DIRSYNC,
        MountFlag::MandLock => MsFlags::MS_MANDLOCK,
        MountFlag::Move => MsFlags::MS_MOVE,
        MountFlag::NoATime => MsFlags::MS_NOATIME,
        MountFlag::NoDev => MsFlags::MS_NODEV,
        MountFlag::NoExec => MsFlags::MS_NOEXEC,
        MountFlag::NoSuid => MsFlags::MS_NOSUID,
        MountFlag::Private => MsFlags::MS_PRIVATE,
        MountFlag::ReadOnly => MsFlags::MS_RDONLY,
        MountFlag::Recursive => MsFlags::MS_REC,
        MountFlag::Remount => MsFlags::MS_REMOUNT,
        MountFlag::Shared => MsFlags::MS_SHARED,
        MountFlag::Sync => MsFlags::MS_SYNCHRONOUS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_is_unmounted_last_mounted_first() {
        let info =
            b"1 0 8:1 / / rw\n2 1 8:1 / /old rw\n3 2 8:1 / /old/a\\040b rw\n4 3 8:1 / /old/a\\040b/c rw\n\
            5 1 8:1 / /older rw\n";
        let points = below(Path::new("/old"), info);
        assert_eq!(points, [Path::new("/old/a b/c"), Path::new("/old/a b")]);
    }
}
