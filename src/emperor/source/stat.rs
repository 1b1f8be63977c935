//! Reading directories and inodes: relative to an open directory, no paths built.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::{Identity, Oddity};

/// Which of a link and its target counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follow {
    /// `emperor-nofollow`: the link counts, whatever it points to.
    pub(super) never: bool,
    /// `emperor-tyrant-nofollow`: the owner is the link's.
    pub(super) not_for_owner: bool,
}

/// What stands under a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Look {
    /// Something that can be a vassal's file.
    File(Found),
    /// Something else; the flag says whether it was reached through a link that is followed.
    Odd(Oddity, bool),
    /// Nothing.
    Absent,
    /// The directory itself cannot be searched.
    Refused(Errno),
}

/// A file that can be a vassal's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
}

/// How a name and its file belong together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A file with this one name.
    Plain,
    /// A file with other names, too: it can change under one of them, and this directory says nothing.
    Shared,
    /// A symbolic link that is the vassal's file itself.
    Link,
    /// A symbolic link to the file, which is elsewhere.
    Followed,
}

impl Look {
    /// Whether it can change without a word from the directory of its name.
    pub(super) fn is_elsewhere(&self) -> bool {
        match self {
            Self::File(found) => matches!(found.kind, Kind::Shared | Kind::Followed),
            Self::Odd(_, followed) => *followed,
            Self::Absent | Self::Refused(_) => false,
        }
    }
}

/// The time now, as files have it: nanoseconds since the epoch.
pub(super) fn wall_clock() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Time since a file's date; `None` when that lies in the future. A second is forgiven: clocks differ, and
/// the time may have been taken before.
pub(super) fn age(mtime_ns: i64, wall_clock: i64) -> Option<Duration> {
    let nanos = wall_clock.saturating_sub(mtime_ns);
    if nanos < -1_000_000_000 { None } else { Some(Duration::from_nanos(nanos.try_into().unwrap_or(0))) }
}

/// Looks at one name in a directory.
pub(super) fn look(directory: impl AsFd, name: &[u8], follow: Follow) -> Look {
    let directory = directory.as_fd();
    let own = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(own) => own,
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => return Look::Absent,
        Err(errno) => return Look::Refused(errno),
    };
    let is_link = kind(&own) == SFlag::S_IFLNK;
    if !is_link || follow.never {
        return match odd_kind(&own) {
            Some(word) if !is_link => Look::Odd(Oddity::NotAFile(word), false),
            _ => {
                let kind = match (is_link, own.st_nlink) {
                    (true, _) => Kind::Link,
                    (false, 0 | 1) => Kind::Plain,
                    (false, _) => Kind::Shared,
                };
                Look::File(Found { identity: identity(&own), kind })
            }
        };
    }
    match fstatat(directory, name, AtFlags::empty()) {
        Ok(target) => match odd_kind(&target) {
            Some(word) => Look::Odd(Oddity::NotAFile(word), true),
            None => {
                let mut identity = identity(&target);
                if follow.not_for_owner {
                    (identity.uid, identity.gid) = (own.st_uid, own.st_gid);
                }
                Look::File(Found { identity, kind: Kind::Followed })
            }
        },
        Err(Errno::ENOENT | Errno::ENOTDIR) => Look::Odd(Oddity::DanglingLink, true),
        Err(Errno::ELOOP) => Look::Odd(Oddity::LinkLoop, true),
        Err(errno) => Look::Odd(Oddity::Unreadable(errno as i32), true),
    }
}

/// An open directory and the names in it that were asked for, sorted by their bytes.
#[derive(Debug)]
pub(super) struct Listing {
    directory: Opened,
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

#[derive(Debug)]
enum Opened {
    ToRead(Dir),
    ToSearch(OwnedFd),
}

impl Listing {
    /// Opens a directory and reads the names that `keep` wants.
    pub(super) fn read(path: &Path, mut keep: impl FnMut(&[u8]) -> bool) -> Result<Self, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = Dir::open(path, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        let mut spans = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && keep(name) {
                let start = u32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)?;
                bytes.extend_from_slice(name);
                spans.push((start, u32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)?));
            }
        }
        spans.sort_unstable_by(|a, b| slice(&bytes, *a).cmp(slice(&bytes, *b)));
        Ok(Self { directory: Opened::ToRead(directory), bytes, spans })
    }

    /// Opens a directory to look for one name, which need not be there.
    pub(super) fn of_one(path: &Path, name: &[u8]) -> Result<Self, Errno> {
        let end = u32::try_from(name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
        let directory = Opened::ToSearch(open_directory(path)?);
        Ok(Self { directory, bytes: name.to_vec(), spans: vec![(0, end)] })
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        match &self.directory {
            Opened::ToRead(directory) => directory.as_fd(),
            Opened::ToSearch(directory) => directory.as_fd(),
        }
    }

    /// Whether the names were read from the directory.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.directory, Opened::ToRead(_))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|span| slice(&self.bytes, *span))
    }
}

/// Opens a directory to look names up in it; it need not be readable.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Device and inode of what is open.
pub(super) fn inode(open: impl AsFd) -> Result<(u64, u64), Errno> {
    let found = fstat(open)?;
    Ok((found.st_dev, found.st_ino))
}

/// Device and inode of what a name leads to, when that is a directory.
pub(super) fn directory_behind(directory: impl AsFd, name: &[u8]) -> Result<(u64, u64), Errno> {
    let found = fstatat(directory, name, AtFlags::empty())?;
    if kind(&found) == SFlag::S_IFDIR { Ok((found.st_dev, found.st_ino)) } else { Err(Errno::ENOTDIR) }
}

/// Whether the name is a symbolic link.
pub(super) fn is_link(directory: impl AsFd, name: &[u8]) -> bool {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|own| kind(&own) == SFlag::S_IFLNK)
}

fn slice(bytes: &[u8], (start, end): (u32, u32)) -> &[u8] {
    &bytes[start as usize..end as usize]
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn odd_kind(stat: &FileStat) -> Option<&'static str> {
    match kind(stat) {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("directory"),
        SFlag::S_IFIFO => Some("fifo"),
        SFlag::S_IFSOCK => Some("socket"),
        _ => Some("device"),
    }
}

fn identity(stat: &FileStat) -> Identity {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Identity {
        mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}
