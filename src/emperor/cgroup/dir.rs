//! A directory of a control group file system, by descriptor: names are looked up in it and nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir as Listing, Type};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{UnlinkatFlags, faccessat, unlinkat};

/// One directory, and where it was found, for messages.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// The version of a control group file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Legacy,
    Unified,
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);
/// A file of a group is a page at most, but for lists of processes.
const LONGEST: u64 = 1 << 20;

impl Dir {
    /// The directory at `path`, if it is a group of this version.
    pub(super) fn open(path: &Path, version: Version) -> io::Result<Self> {
        let fd = open(path, DIRECTORY, Mode::empty())?;
        let magic: FsType = match version {
            Version::Legacy => CGROUP_SUPER_MAGIC,
            Version::Unified => CGROUP2_SUPER_MAGIC,
        };
        if fstatfs(&fd)?.filesystem_type() != magic {
            return Err(io::Error::other("something else is mounted there"));
        }
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn below(&self, name: &str) -> io::Result<Self> {
        Ok(Self { fd: self.descriptor_of(name)?, path: self.path.join(name) })
    }

    pub(super) fn descriptor_of(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.fd, name, DIRECTORY, Mode::empty())?)
    }

    /// `true` if it was made now.
    pub(super) fn make(&self, name: &str) -> io::Result<bool> {
        match mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// `true` if it is gone; `false` while there are processes in it.
    pub(super) fn remove(&self, name: &str) -> io::Result<bool> {
        use nix::errno::Errno;
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The same with all that is below, as far as that has no processes.
    pub(super) fn remove_tree(&self, name: &str) -> io::Result<bool> {
        if self.remove(name)? {
            return Ok(true);
        }
        let inside = match self.below(name) {
            Ok(inside) => inside,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        for child in inside.groups()? {
            inside.remove_tree(&child)?;
        }
        self.remove(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        faccessat(&self.fd, name, nix::unistd::AccessFlags::F_OK, AtFlags::empty()).is_ok()
    }

    pub(super) fn writable(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(openat(&self.fd, name, flags, Mode::empty())?)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        File::from(self.writable(name)?).write_all(text.as_bytes())
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty())?);
        let mut text = String::with_capacity(512);
        file.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    }

    /// The processes in it, as numbers of this pid namespace; 0 for one of another.
    pub(super) fn processes(&self, name: &str) -> io::Result<Vec<i32>> {
        let path = if name.is_empty() { "cgroup.procs".to_owned() } else { format!("{name}/cgroup.procs") };
        Ok(self.read(&path)?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// The groups directly below.
    pub(super) fn groups(&self) -> io::Result<Vec<String>> {
        let mut listing = Listing::openat(&self.fd, ".", DIRECTORY, Mode::empty())?;
        let mut found = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if entry.file_type() == Some(Type::Directory) && name != "." && name != ".." {
                found.extend(name.to_str().map(str::to_owned));
            }
        }
        Ok(found)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
