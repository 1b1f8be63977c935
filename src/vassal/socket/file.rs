//! The file of a unix socket: clearing the way for it, and removing it with its socket.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

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
}

impl SocketFile {
    /// The file that is there now.
    ///
    /// # Errors
    /// It is not there, or cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let there = fs::symlink_metadata(&path)?;
        Ok(Self { path: path.into(), inode: (there.dev(), there.ino()), owner: None })
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

    /// What it takes to go on with it in a program that takes this one's place.
    #[must_use]
    pub fn record(&self) -> FileRecord {
        FileRecord { path: Text::from(self.path.as_os_str()), inode: self.inode, owner: self.owner }
    }

    /// Goes on with it.
    #[must_use]
    pub fn of_record(record: &FileRecord) -> Self {
        Self { path: record.path.as_path().into(), inode: record.inode, owner: record.owner }
    }
}

/// A socket's file, as data.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileRecord {
    path: Text,
    inode: (u64, u64),
    #[serde(default)]
    owner: Option<(u32, u32)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Its server is ending, and can do nothing about a directory that has become read-only.
        let _ = acting_for(self.owner, || {
            let there = fs::symlink_metadata(&self.path)?;
            if (there.dev(), there.ino()) == self.inode { fs::remove_file(&self.path) } else { Ok(()) }
        });
    }
}
