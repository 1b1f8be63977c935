//! The file of a unix socket: clearing the way for it, and removing it with its socket.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize};

use crate::sys::fs_identity::acting_for;
use crate::vassal::plan::Text;

/// What the kernel takes as the path in a socket's address.
const SUN_PATH: usize = 107;

/// Runs `act` with a path that fits into a socket's address, and leads to the same file.
pub(super) fn within_reach<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (true, Some(parent), Some(name)) =
        (path.as_os_str().len() > SUN_PATH, path.parent(), path.file_name())
    else {
        return act(path);
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let directory = File::options().read(true).custom_flags(flags.bits()).open(parent)?;
    act(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

/// Removes the socket file of a server that is no more. Anything else in the way stays, and is an error.
///
/// # Errors
/// `EEXIST` for a file that is no socket, `EADDRINUSE` for one that is served, or what the system says.
pub fn clear_the_way(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    if is_served(path)? {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
    }
    fs::remove_file(path)
}

/// Whether a socket's file belongs to an open socket. A socket of another type is used to ask: the answer is the same,
/// but no connection is made that would wake somebody, or wait for him.
fn is_served(path: &Path) -> io::Result<bool> {
    let asks = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let asked =
        within_reach(path, |path| connect(asks.as_raw_fd(), &UnixAddr::new(path)?).map_err(io::Error::from));
    match asked {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Ok(false),
            Some(Errno::EPROTOTYPE | Errno::EPERM | Errno::EAGAIN) => Ok(true),
            _ => Err(error),
        },
    }
}

/// A socket's file, removed with this value unless somebody has put another one in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: Box<Path>,
    inode: (u64, u64),
    /// With whose rights it is removed: its directory may be his, and lead elsewhere by then.
    owner: Option<(u32, u32)>,
    /// Whether it has a second name, from which it is given back its first ([`SocketFile::secure`]).
    has_spare: bool,
    /// Whether it is left when this value goes.
    stays: bool,
}

/// What has become of a socket's file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restored {
    /// Nothing.
    WasThere,
    /// It was gone, and is back. Nobody who waits at the socket has noticed.
    IsBack,
    /// It is gone for ever: the socket must be made anew.
    Lost,
}

impl SocketFile {
    /// The file that is there now.
    ///
    /// # Errors
    /// It is not there, or cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let there = fs::symlink_metadata(&path)?;
        let inode = (there.dev(), there.ino());
        Ok(Self { path: path.into(), inode, owner: None, has_spare: false, stays: false })
    }

    pub(super) fn owned(mut self, owner: Option<(u32, u32)>) -> Self {
        self.owner = owner;
        self
    }

    /// The user and the group with whose rights it was made; ours if `None`.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still there. `true` where that cannot be told.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let look = acting_for(self.owner, || match fs::symlink_metadata(&self.path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(false)
            }
            there => there.map(|there| (there.dev(), there.ino()) == self.inode),
        });
        look.unwrap_or(true)
    }

    /// Whether it is left where it is when this value goes.
    pub fn set_stays(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Whether it is left.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// Gives it a second name, so that it can be put back when its server removes it: many do so when they end, as if
    /// they had made it. A socket whose file has no name left can never get one again. Source: link(2).
    pub fn secure(&mut self) {
        self.has_spare = acting_for(self.owner, || {
            let spare = self.spare()?;
            clear_the_way(&spare)?;
            fs::hard_link(&self.path, &spare)?;
            Ok(self.is_at(&spare))
        })
        .unwrap_or(false); // then a socket is made anew instead
    }

    /// Whether it has a second name.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.has_spare
    }

    /// Puts it back if it is gone, or if a socket that nobody serves is in its place.
    ///
    /// # Errors
    /// What is in the way ([`clear_the_way`]), or link(2).
    pub fn restore(&self) -> io::Result<Restored> {
        acting_for(self.owner, || {
            if self.is_at(&self.path) {
                return Ok(Restored::WasThere);
            }
            clear_the_way(&self.path)?;
            let spare = self.spare()?;
            if !self.has_spare || !self.is_at(&spare) {
                return Ok(Restored::Lost);
            }
            fs::hard_link(&spare, &self.path)?;
            if self.is_at(&self.path) {
                return Ok(Restored::IsBack);
            }
            // Somebody has exchanged the second name in this moment.
            fs::remove_file(&self.path)?;
            Ok(Restored::Lost)
        })
    }

    /// The second name: in the same directory, where its owner may make files and it stays on the same file system.
    fn spare(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let name = [b".", name.as_bytes(), b".held"].concat();
        Ok(self.path.with_file_name(OsStr::from_bytes(&name)))
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode)
    }

    /// Gives it to a user and a group. Call with the rights of its maker.
    pub(super) fn give_to(&self, (user, group): (Option<u32>, Option<u32>)) -> io::Result<()> {
        if (user, group) == (None, None) {
            return Ok(());
        }
        let there = fs::symlink_metadata(&self.path)?;
        if user.is_none_or(|uid| uid == there.uid()) && group.is_none_or(|gid| gid == there.gid()) {
            return Ok(());
        }
        self.with_descriptor(|path| chown(path, user, group))
    }

    /// Sets its mode. Call with the rights of its maker.
    pub(super) fn set_mode(&self, mode: Option<u32>) -> io::Result<()> {
        let Some(mode) = mode else { return Ok(()) };
        if fs::symlink_metadata(&self.path)?.permissions().mode() & 0o777 == mode {
            return Ok(());
        }
        self.with_descriptor(|path| fs::set_permissions(path, Permissions::from_mode(mode)))
    }

    /// Acts on the very file, whatever is in its place by then: a directory in its path may be another one's.
    fn with_descriptor(&self, act: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags.bits()).open(&self.path)?;
        let there = file.metadata()?;
        if (there.dev(), there.ino()) != self.inode || !there.file_type().is_socket() {
            return Err(io::Error::other("another file was put in its place meanwhile"));
        }
        act(&Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()))
    }

    /// What it takes to go on with it in a program that takes this one's place.
    #[must_use]
    pub fn record(&self) -> FileRecord {
        let Self { inode, owner, has_spare, stays, .. } = *self;
        FileRecord { path: Text::from(self.path.as_os_str()), inode, owner, has_spare, stays }
    }

    /// Goes on with it.
    #[must_use]
    pub fn of_record(record: &FileRecord) -> Self {
        let FileRecord { ref path, inode, owner, has_spare, stays } = *record;
        Self { path: path.as_path().into(), inode, owner, has_spare, stays }
    }
}

/// A socket's file, as data.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileRecord {
    path: Text,
    inode: (u64, u64),
    #[serde(default)]
    owner: Option<(u32, u32)>,
    #[serde(default)]
    has_spare: bool,
    #[serde(default)]
    stays: bool,
}

impl FileRecord {
    /// The user and the group with whose rights it was made.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Its server is ending, and can do nothing about a directory that has become read-only.
        let _ = acting_for(self.owner, || {
            if self.has_spare && self.is_at(&self.spare()?) {
                fs::remove_file(self.spare()?)?;
            }
            if !self.stays && self.is_at(&self.path) { fs::remove_file(&self.path) } else { Ok(()) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vassal::socket::{Address, Listener, Manner};
    use std::io::ErrorKind;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn made(dir: &Path, manner: &Manner) -> Listener {
        let mut listener = Address::Path(dir.join("s")).bind_in(manner, None).unwrap();
        listener.file.as_mut().unwrap().secure();
        listener
    }

    #[test]
    fn a_removed_file_is_put_back_and_who_waits_has_not_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = made(dir.path(), &Manner { backlog: 5, ..Manner::default() });
        let file = listener.file.as_ref().unwrap();
        assert_eq!(file.restore().unwrap(), Restored::WasThere);
        let early = UnixStream::connect(dir.path().join("s")).unwrap();
        fs::remove_file(dir.path().join("s")).unwrap();
        assert_eq!(file.restore().unwrap(), Restored::IsBack);
        let late = UnixStream::connect(dir.path().join("s")).unwrap();
        let server = UnixListener::from(listener.socket.try_clone().unwrap());
        drop([server.accept().unwrap(), server.accept().unwrap()]);
        drop([early, late]);
        fs::remove_file(dir.path().join("s")).unwrap();
        drop(UnixListener::bind(dir.path().join("s")).unwrap());
        assert_eq!(file.restore().unwrap(), Restored::IsBack, "in the place of a dead one");
        fs::remove_file(dir.path().join("s")).unwrap();
        let other = UnixListener::bind(dir.path().join("s")).unwrap();
        assert_eq!(file.restore().unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(other);
        fs::remove_file(dir.path().join("s")).unwrap();
        fs::remove_file(dir.path().join(".s.held")).unwrap();
        assert_eq!(file.restore().unwrap(), Restored::Lost);
        fs::write(dir.path().join("s"), "precious").unwrap();
        assert_eq!(file.restore().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path().join("s")).unwrap(), b"precious");
    }

    #[test]
    fn another_file_under_the_second_name_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let listener = made(dir.path(), &Manner::default());
        fs::remove_file(dir.path().join("s")).unwrap();
        fs::remove_file(dir.path().join(".s.held")).unwrap();
        fs::write(dir.path().join(".s.held"), "precious").unwrap();
        assert_eq!(listener.file.as_ref().unwrap().restore().unwrap(), Restored::Lost);
        drop(listener);
        assert_eq!(fs::read(dir.path().join(".s.held")).unwrap(), b"precious");
    }

    #[test]
    fn the_second_name_goes_with_the_socket_and_the_first_one_if_that_is_wanted() {
        for stays in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut listener = made(dir.path(), &Manner::default());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
            listener.file.as_mut().unwrap().set_stays(stays);
            drop(listener);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(stays));
            drop(made(dir.path(), &Manner::default())); // what was left is in nobody's way
        }
    }

    #[test]
    fn a_socket_that_its_program_has_shut_down_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let unix = made(dir.path(), &Manner { backlog: 5, ..Manner::default() });
        let tcp = Address::Tcp("127.0.0.1:0".parse().unwrap()).bind_in(&Manner::default(), None).unwrap();
        let waiting = UnixStream::connect(dir.path().join("s")).unwrap();
        for listener in [unix, tcp] {
            assert!(listener.listens(), "{listener:?}");
            let shut = nix::sys::socket::Shutdown::Both;
            nix::sys::socket::shutdown(listener.socket.as_raw_fd(), shut).unwrap();
            assert!(!listener.listens(), "{listener:?}");
        }
        drop(waiting);
    }

    #[test]
    fn mode_and_backlog_change_while_the_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let listener = made(dir.path(), &Manner { mode: Some(0o600), ..Manner::default() });
        let mode = || fs::metadata(dir.path().join("s")).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        listener.tune(&Manner { mode: Some(0o660), backlog: 9, ..Manner::default() }).unwrap();
        assert_eq!(mode(), 0o660);
        fs::remove_file(dir.path().join("s")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("s")).unwrap();
        assert!(listener.tune(&Manner { mode: Some(0o600), ..Manner::default() }).is_err());
    }

    #[test]
    fn root_a_file_is_given_away_and_a_tenant_gives_his_to_nobody() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root may give files away
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let manner = Manner { owner: (Some(12345), Some(12346)), ..Manner::default() };
        let listener = made(dir.path(), &manner);
        let there = fs::metadata(dir.path().join("s")).unwrap();
        assert_eq!((there.uid(), there.gid()), (12345, 12346));
        drop(listener);
        let his = Address::Path(dir.path().join("s"));
        for (owner, fine) in [((Some(12345), None), true), ((Some(0), None), false), ((None, Some(0)), false)]
        {
            let bound = his.bind_in(&Manner { owner, ..Manner::default() }, Some((12345, 12346)));
            assert_eq!(bound.is_ok(), fine, "{owner:?} {bound:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
