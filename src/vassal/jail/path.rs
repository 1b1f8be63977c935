//! From a path to a descriptor, one component after the other, so that nobody can swap in a link on the way.
//!
//! A symbolic link is followed where it belongs to somebody who is trusted, by its text; those of `/proc`, which lead
//! elsewhere than their text says, lead to their text as well.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

/// Most links on the way. Source: path_resolution(7).
const MOST_LINKS: u32 = 40;
const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The root of a tree, and whose links are followed in it. Root's always are.
#[derive(Clone, Copy)]
pub(super) struct Walk<'w> {
    pub(super) root: BorrowedFd<'w>,
    pub(super) trusted: Option<u32>,
}

/// What has to be there at the end.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Kind {
    Directory,
    Other,
}

impl Walk<'_> {
    /// What the path leads to; links at its end are followed too. `..` never leads out of the root.
    pub(super) fn find(self, path: &Path) -> io::Result<OwnedFd> {
        self.walk(path, |_, _, _| Err(Errno::ENOENT.into()))
    }

    /// The same. What is missing is made in those directories of which `ours` says so: those are in file systems that
    /// this process has just made, where nobody else can have put anything.
    pub(super) fn find_or_make(
        self,
        path: &Path,
        kind: Kind,
        ours: impl Fn(&FileStat) -> bool,
    ) -> io::Result<OwnedFd> {
        self.walk(path, |parent, name, is_last| {
            if !ours(&fstat(parent)?) {
                return Err(Errno::ENOENT.into());
            }
            if is_last && kind == Kind::Other {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                openat(parent, name, flags, Mode::empty())?;
            } else {
                mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
            }
            Ok(openat(parent, name, LOOK, Mode::empty())?)
        })
    }

    fn walk(
        self,
        path: &Path,
        missing: impl Fn(BorrowedFd<'_>, &OsStr, bool) -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let mut here = vec![openat(self.root, ".", LOOK, Mode::empty())?];
        let mut ahead = parts(path.as_os_str());
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                if here.len() > 1 {
                    here.pop();
                }
                continue;
            }
            let parent = here.last().ok_or(Errno::ENOENT)?;
            let next = match openat(parent, part.as_os_str(), LOOK, Mode::empty()) {
                Err(Errno::ENOENT) => missing(parent.as_fd(), &part, ahead.is_empty())?,
                next => next?,
            };
            let is = fstat(&next)?;
            if kind_of(&is) != SFlag::S_IFLNK {
                here.push(next);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP.into());
            }
            if is.st_uid != 0 && Some(is.st_uid) != self.trusted {
                return Err(io::Error::other(format!(
                    "the symbolic link {} belongs to uid {}, who could lead it anywhere",
                    part.display(),
                    is.st_uid
                )));
            }
            let text = readlinkat(&next, "")?;
            if text.as_bytes().first() == Some(&b'/') {
                here.truncate(1);
            }
            let mut ahead_of_it = parts(&text);
            ahead_of_it.append(&mut ahead);
            ahead = ahead_of_it;
        }
        here.pop().ok_or_else(|| Errno::ENOENT.into())
    }
}

pub(super) fn kind_of(is: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(is.st_mode & SFlag::S_IFMT.bits())
}

fn parts(path: &OsStr) -> VecDeque<OsString> {
    let parts = path.as_bytes().split(|byte| *byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn root(dir: &Path) -> OwnedFd {
        nix::fcntl::open(dir, LOOK, Mode::empty()).unwrap()
    }

    fn ino(fd: &OwnedFd) -> u64 {
        fstat(fd).unwrap().st_ino
    }

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn links_stay_in_the_root_and_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("/a/b", dir.path().join("absolute")).unwrap();
        symlink("../../../../a", dir.path().join("a/up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = root(dir.path());
        let walk = Walk { root: root.as_fd(), trusted: Some(me()) };
        let wanted = fs::metadata(dir.path().join("a/b")).unwrap().ino();
        for path in ["/a/b", "absolute", "a/up/b", "a/../../a//./b", "/../../a/b/"] {
            assert_eq!(ino(&walk.find(Path::new(path)).unwrap()), wanted, "{path}");
        }
        assert_eq!(walk.find(Path::new("loop")).unwrap_err().raw_os_error(), Some(nix::libc::ELOOP));
        assert_eq!(walk.find(Path::new("/etc/passwd")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_of_somebody_else_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give a link away
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        std::os::unix::fs::lchown(dir.path().join("link"), Some(12345), None).unwrap();
        let root = root(dir.path());
        let refused = Walk { root: root.as_fd(), trusted: Some(54321) }.find(Path::new("link")).unwrap_err();
        assert!(refused.to_string().contains("uid 12345"), "{refused}");
        assert!(Walk { root: root.as_fd(), trusted: Some(12345) }.find(Path::new("link")).is_ok());
    }

    #[test]
    fn a_magic_link_leads_to_its_text() {
        let root = root(Path::new("/"));
        let walk = Walk { root: root.as_fd(), trusted: Some(me()) };
        // The text is `pipe:[…]`, and no such file.
        let (pipe, _other) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        assert_eq!(walk.find(Path::new(&path)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_in_our_own_is_something_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        let walk = Walk { root: root.as_fd(), trusted: None };
        let path = Path::new("/x/y/file");
        let refused = walk.find_or_make(path, Kind::Other, |_| false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        walk.find_or_make(path, Kind::Other, |_| true).unwrap();
        assert!(dir.path().join("x/y/file").is_file());
        walk.find_or_make(Path::new("/x/z"), Kind::Directory, |_| true).unwrap();
        assert!(dir.path().join("x/z").is_dir());
    }
}
