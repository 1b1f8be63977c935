//! Addresses of listening sockets, and binding them.
//!
//! Caller: the emperor's hands for sockets that wait on demand. Nothing here looks up a name or waits.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, bind,
    listen, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

use super::plan::Text;

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A socket's file.
    Path(PathBuf),
    /// A name without a file. uWSGI's end in a NUL, and so do ours.
    Abstract(Vec<u8>),
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// Nothing is there.
    #[error("the address is empty")]
    Empty,
    /// What is behind the colon.
    #[error("`{0}` has no port between 0 and 65535 behind its last colon")]
    Port(String),
    /// What is before it.
    #[error("the host in `{0}` is no IP address; names are not looked up here")]
    Host(String),
    /// A unix socket's path.
    #[error("the path is longer than the {MAX_PATH} bytes that a unix socket's may have")]
    TooLong,
}

/// Longest path of a unix socket, bytes. Source: `sun_path` of unix(7), less uWSGI's own reserve.
const MAX_PATH: usize = 102;

impl Address {
    /// Reads `IP:PORT`, `:PORT`, `[V6]:PORT`, `@abstract`, or a path, which is relative to `directory`.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn parse(text: &[u8], directory: &Path) -> Result<Self, BadAddress> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(BadAddress::Empty);
        }
        if let Some(name) = text.strip_prefix(b"@") {
            return if name.len() > MAX_PATH {
                Err(BadAddress::TooLong)
            } else {
                Ok(Self::Abstract(name.into()))
            };
        }
        let Some(colon) = text.iter().rposition(|byte| *byte == b':') else {
            let path = directory.join(std::ffi::OsStr::from_bytes(text));
            let fits = path.as_os_str().len() <= MAX_PATH;
            return if fits { Ok(Self::Path(path)) } else { Err(BadAddress::TooLong) };
        };
        let whole = String::from_utf8_lossy(text).into_owned();
        let (host, port) = (&whole[..colon], &whole[colon + 1..]);
        let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            None if host.is_empty() => Some(Ipv4Addr::UNSPECIFIED.into()),
            None => host.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        };
        let Ok(port) = port.parse() else { return Err(BadAddress::Port(whole)) };
        ip.map(|ip| Self::Tcp(SocketAddr::new(ip, port))).ok_or(BadAddress::Host(whole))
    }

    /// Binds and listens; the descriptor is blocking and close-on-exec.
    ///
    /// The file of a server that is no more is replaced; a file that is no socket, and one that somebody serves,
    /// stays and is an error. `mode` is given to a socket's file.
    ///
    /// # Errors
    /// socket(2), bind(2), listen(2), chmod(2), unlink(2).
    pub fn bind(&self, backlog: u32, mode: u32) -> io::Result<Listener> {
        let mut file = None;
        let socket = match self {
            Self::Tcp(SocketAddr::V4(address)) => bound(AddressFamily::Inet, &SockaddrIn::from(*address))?,
            Self::Tcp(SocketAddr::V6(address)) => bound(AddressFamily::Inet6, &SockaddrIn6::from(*address))?,
            Self::Abstract(name) => {
                let name = [name, &b"\0"[..]].concat();
                bound(AddressFamily::Unix, &UnixAddr::new_abstract(&name)?)?
            }
            Self::Path(path) => {
                clear_the_way(path)?;
                let socket = bound(AddressFamily::Unix, &UnixAddr::new(path)?)?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                file = Some(SocketFile::of(path)?);
                socket
            }
        };
        listen(
            &socket,
            Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN),
        )?;
        Ok(Listener { socket, file })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

/// A listening socket. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Its file, if it has one.
    pub file: Option<SocketFile>,
}

fn bound(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if family != AddressFamily::Unix {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
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
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket")),
        Err(error) => Err(error),
    }
}

/// A socket's file, removed with this value unless somebody has put another one in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    /// The file that is there now.
    ///
    /// # Errors
    /// It is not there, or cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let there = fs::symlink_metadata(&path)?;
        Ok(Self { path, inode: (there.dev(), there.ino()) })
    }

    /// What it takes to go on with it in a program that takes this one's place.
    #[must_use]
    pub fn record(&self) -> FileRecord {
        FileRecord { path: Text::from(self.path.as_os_str()), inode: self.inode }
    }

    /// Goes on with it.
    #[must_use]
    pub fn of_record(record: &FileRecord) -> Self {
        Self { path: record.path.as_path().to_owned(), inode: record.inode }
    }
}

/// A socket's file, as data.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileRecord {
    path: Text,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.inode) {
            // Its server is ending, and can do nothing about a directory that has become read-only.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        Address::parse(text.as_bytes(), Path::new("/srv"))
            .map_or_else(|bad| bad.to_string(), |a| format!("{a:?}"))
    }

    #[test]
    fn an_address_is_what_it_looks_like() {
        assert_eq!(parsed("127.0.0.1:80"), "Tcp(127.0.0.1:80)");
        assert_eq!(parsed(":80"), "Tcp(0.0.0.0:80)");
        assert_eq!(parsed("[::1]:80"), "Tcp([::1]:80)");
        assert_eq!(parsed(" a.sock "), "Path(\"/srv/a.sock\")");
        assert_eq!(parsed("/run/a.sock"), "Path(\"/run/a.sock\")");
        assert!(parsed("@a").starts_with("Abstract("));
    }

    #[test]
    fn what_is_no_address_is_named() {
        assert_eq!(parsed(""), "the address is empty");
        assert!(parsed("localhost:80").contains("no IP address"));
        assert!(parsed("127.0.0.1:99999").contains("no port"));
        assert!(parsed(&"x".repeat(200)).contains("102 bytes"));
    }

    #[test]
    fn a_socket_file_comes_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse(b"s", dir.path()).unwrap();
        let listener = address.bind(10, 0o666).unwrap();
        assert_eq!(fs::metadata(dir.path().join("s")).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(address.bind(10, 0o666).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!dir.path().join("s").exists());
        fs::write(dir.path().join("s"), "precious").unwrap();
        assert_eq!(address.bind(10, 0o666).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path().join("s")).unwrap(), b"precious");
    }
}
