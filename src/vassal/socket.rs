//! Addresses of listening sockets, and binding them.
//!
//! Caller: the emperor's hands for sockets that wait on demand, and its stats server. Nothing here looks up a name
//! or waits, whatever is behind an address.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    UnixAddr, bind, getsockname, getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use super::plan::Text;
use crate::sys::fs_identity::acting_for;

mod file;
mod rights;

use file::within_reach;
pub use file::{FileRecord, Restored, SocketFile, clear_the_way};
pub use rights::first_free_port;

/// Where to listen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Written", into = "Written")]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A socket's file.
    Path(PathBuf),
    /// A name without a file. uWSGI's end in a NUL, and so do ours.
    Abstract(Vec<u8>),
    /// A name without a file, and without a NUL at its end (`abstract-socket`).
    BareAbstract(Vec<u8>),
}

/// How a socket is made, beside its address.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Manner {
    /// Connections that may wait.
    pub backlog: u32,
    /// Mode of its file; what the umask leaves of 0777 if `None`.
    pub mode: Option<u32>,
    /// The user and the group that get its file.
    pub owner: (Option<u32>, Option<u32>),
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// SO_KEEPALIVE of its connections.
    pub keepalive: bool,
    /// SO_SNDBUF of its connections, bytes.
    pub send_buffer: Option<u32>,
    /// SO_RCVBUF of its connections, bytes.
    pub receive_buffer: Option<u32>,
}

/// The same as text that survives JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Written {
    Tcp(SocketAddr),
    Path(Text),
    Abstract(Vec<u8>),
    BareAbstract(Vec<u8>),
}

impl From<Address> for Written {
    fn from(address: Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Tcp(address),
            Address::Path(path) => Self::Path(path.into_os_string().into()),
            Address::Abstract(name) => Self::Abstract(name),
            Address::BareAbstract(name) => Self::BareAbstract(name),
        }
    }
}

impl From<Written> for Address {
    fn from(written: Written) -> Self {
        match written {
            Written::Tcp(address) => Self::Tcp(address),
            Written::Path(path) => Self::Path(path.as_path().into()),
            Written::Abstract(name) => Self::Abstract(name),
            Written::BareAbstract(name) => Self::BareAbstract(name),
        }
    }
}

/// Why a text is no address, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// Nothing is there.
    #[error("the address is empty; write IP:PORT, :PORT, [IPv6]:PORT, @NAME or a path")]
    Empty,
    /// A NUL, which ends paths and names elsewhere.
    #[error("`{0}` holds a NUL byte; take it out")]
    Nul(String),
    /// What is behind the colon.
    #[error(
        "`{0}` has no port between 0 and 65535 behind its last colon; write a number, or a path without colons"
    )]
    Port(String),
    /// What is before it.
    #[error("the host in `{0}` is no IP address, and names are not looked up here; write its address")]
    Host(String),
    /// There are more colons.
    #[error("`{0}`: an IPv6 address stands in brackets; write {1}")]
    Bare6(String, String),
    /// There are brackets.
    #[error("what stands in the brackets of `{0}` is no IPv6 address; mend it, as in `[::1]:8080`")]
    Bad6(String),
    /// A unix socket's path.
    #[error(
        "`{0}` is longer than the {MAX_PATH} bytes that a unix socket's path may have; choose a shorter one"
    )]
    TooLong(String),
}

/// Longest path of a unix socket, bytes. Source: `sun_path` of unix(7), less uWSGI's own reserve.
const MAX_PATH: usize = 102;
/// How much of a bad address is shown.
const SHOWN: usize = 120;

impl Address {
    /// The file of a unix socket.
    #[must_use]
    pub fn file(&self) -> Option<Text> {
        match self {
            Self::Path(path) => Some(path.as_os_str().into()),
            _ => None,
        }
    }

    /// Reads `IP:PORT`, `:PORT`, `[V6]:PORT`, `@abstract`, or a path, which is relative to `directory`.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn parse(text: &[u8], directory: &Path) -> Result<Self, BadAddress> {
        let text = text.trim_ascii();
        match text {
            b"" | b"@" => return Err(BadAddress::Empty),
            _ if text.contains(&0) => return Err(BadAddress::Nul(shown(text))),
            [b'@', name @ ..] if name.len() <= MAX_PATH => return Ok(Self::Abstract(name.into())),
            [b'@', ..] => return Err(BadAddress::TooLong(shown(text))),
            _ => {}
        }
        let Some(colon) = text.iter().rposition(|byte| *byte == b':') else {
            return Self::at(Path::new(OsStr::from_bytes(text)), directory);
        };
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        let Some(port) = number(&text[colon + 1..]) else { return Err(BadAddress::Port(shown(text))) };
        let host = std::str::from_utf8(&text[..colon]).unwrap_or("?");
        let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => match v6.parse::<Ipv6Addr>() {
                Ok(ip) => IpAddr::V6(ip),
                Err(_) => return Err(BadAddress::Bad6(shown(text))),
            },
            None if host.is_empty() => Ipv4Addr::UNSPECIFIED.into(),
            None if host.contains(':') => return Err(bare_v6(text, host, port)),
            None => match host.parse::<Ipv4Addr>() {
                Ok(ip) => IpAddr::V4(ip),
                Err(_) => return Err(BadAddress::Host(shown(text))),
            },
        };
        Ok(Self::Tcp(SocketAddr::new(ip, port)))
    }

    /// A socket's file, whatever its name looks like.
    ///
    /// # Errors
    /// [`BadAddress::TooLong`].
    pub fn at(path: &Path, directory: &Path) -> Result<Self, BadAddress> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() > MAX_PATH {
            return Err(BadAddress::TooLong(shown(bytes)));
        }
        Ok(Self::Path(directory.join(path)))
    }

    /// Whether a server on one address keeps one from the other.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(two)) => {
                let any = one.ip().is_unspecified() || two.ip().is_unspecified();
                one.port() == two.port() && (any || one.ip() == two.ip())
            }
            _ => self == other,
        }
    }

    /// Binds and listens; the descriptor is blocking and close-on-exec.
    ///
    /// The file of a server that is no more is replaced; a file that is no socket, and one that somebody serves,
    /// stays and is an error. A new file gets this mode. With an `owner`, a user's and a group's number, the file is
    /// made, and later removed, with that user's rights.
    ///
    /// # Errors
    /// socket(2), bind(2), listen(2), unlink(2); [`clear_the_way`].
    pub fn bind(&self, backlog: u32, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Listener> {
        self.bind_in(&Manner { backlog, mode: Some(mode), ..Manner::default() }, owner)
    }

    /// The same, in more of a manner. What a user with these rights may not give to another one, it is not given.
    ///
    /// # Errors
    /// As [`Address::bind`]; setsockopt(2), chown(2).
    pub fn bind_in(&self, manner: &Manner, rights: Option<(u32, u32)>) -> io::Result<Listener> {
        let mut file = None;
        let bound = |family: AddressFamily, address: &dyn SockaddrLike| bound(family, address, manner);
        let socket = match self {
            Self::Tcp(SocketAddr::V4(address)) => bound(AddressFamily::Inet, &SockaddrIn::from(*address))?,
            Self::Tcp(SocketAddr::V6(address)) => bound(AddressFamily::Inet6, &SockaddrIn6::from(*address))?,
            Self::Abstract(name) => {
                let name = [name, &b"\0"[..]].concat();
                bound(AddressFamily::Unix, &UnixAddr::new_abstract(&name)?)?
            }
            Self::BareAbstract(name) => bound(AddressFamily::Unix, &UnixAddr::new_abstract(name)?)?,
            Self::Path(path) => acting_for(rights, || {
                let make = || {
                    with_mode(manner.mode, || {
                        within_reach(path, |path| bound(AddressFamily::Unix, &UnixAddr::new(path)?))
                    })
                };
                // Mostly nothing is in the way, and the call that binds is the cheapest to say so.
                let socket = match make() {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        clear_the_way(path)?;
                        make()?
                    }
                    made => made?,
                };
                let made = SocketFile::of(path)?.owned(rights);
                made.give_to(manner.owner)?; // else it goes again
                file = Some(made);
                Ok(socket)
            })?,
        };
        listen(&socket, depth(manner.backlog))?;
        Ok(Listener { file, socket })
    }
}

impl Manner {
    /// Whether a socket made in one manner can be used as if it were made in the other.
    #[must_use]
    pub fn binds_as(&self, other: &Self) -> bool {
        (self.reuse_port, self.freebind) == (other.reuse_port, other.freebind)
    }
}

impl Listener {
    /// Whether clients can be served by it: whoever has had it may have shut it down, for all that have it.
    #[must_use]
    pub fn listens(&self) -> bool {
        let hang_up = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut asked = [PollFd::new(self.socket.as_fd(), hang_up)];
        // What poll reports unasked means no good either, and the library does not know the flag.
        let shut = poll(&mut asked, PollTimeout::ZERO).map_or(true, |events| events > 0);
        !shut && getsockopt(&self.socket, sockopt::AcceptConn) == Ok(true)
    }

    /// Whether it is a good socket of this address, and no other one.
    #[must_use]
    pub fn is_at(&self, address: &Address) -> bool {
        let streams = getsockopt(&self.socket, sockopt::SockType) == Ok(SockType::Stream);
        let bound = Address::of(&self.socket).filter(|_| streams && self.listens());
        match (address, bound) {
            (Address::Tcp(wanted), Some(Address::Tcp(there))) => {
                wanted.ip() == there.ip() && (wanted.port() == 0 || wanted.port() == there.port())
            }
            // A long path was shortened when it was bound.
            (Address::Path(wanted), Some(Address::Path(there))) => {
                *wanted == there
                    || there.starts_with("/proc/self/fd") && wanted.file_name() == there.file_name()
            }
            (Address::Abstract(wanted), Some(Address::BareAbstract(there))) => {
                there.strip_suffix(b"\0") == Some(wanted)
            }
            (Address::BareAbstract(wanted), Some(Address::BareAbstract(there))) => *wanted == there,
            _ => false,
        }
    }

    /// The same, and whoever removes its file has not the last word ([`SocketFile::secure`]).
    #[must_use]
    pub fn secured(mut self) -> Self {
        if let Some(file) = &mut self.file {
            file.secure();
        }
        self
    }

    /// Goes on in another manner.
    ///
    /// # Errors
    /// listen(2), setsockopt(2), chmod(2), chown(2).
    pub fn tune(&self, manner: &Manner) -> io::Result<()> {
        if let Some(file) = &self.file {
            acting_for(file.owner(), || {
                file.set_mode(manner.mode)?;
                file.give_to(manner.owner)
            })?;
        }
        set_options(&self.socket, self.file.is_none(), manner)?;
        Ok(listen(&self.socket, depth(manner.backlog))?)
    }

    /// Where it listens; for a port 0 what the kernel has chosen. `None` for a unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        let address = getsockname::<SockaddrStorage>(self.socket.as_raw_fd()).ok()?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
    }
}

impl Address {
    /// Where a listening socket of somebody else's listens; `None` for what is none, or has no name.
    #[must_use]
    pub fn of(socket: &impl AsFd) -> Option<Self> {
        let socket = socket.as_fd();
        if getsockopt(&socket, sockopt::AcceptConn) != Ok(true) {
            return None;
        }
        let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(Self::Tcp(SocketAddr::from((v4.ip(), v4.port()))));
        }
        if let Some(v6) = address.as_sockaddr_in6() {
            return Some(Self::Tcp(SocketAddr::from((v6.ip(), v6.port()))));
        }
        let unix = address.as_unix_addr()?;
        match unix.path() {
            Some(path) => Some(Self::Path(path.to_owned())),
            None => unix.as_abstract().map(|name| Self::BareAbstract(name.to_vec())),
        }
    }
}

/// Where the port begins without brackets, only its writer knows.
fn bare_v6(text: &[u8], host: &str, port: u16) -> BadAddress {
    let likely = host.parse::<Ipv6Addr>().map(|ip| SocketAddr::new(ip.into(), port));
    let instead = likely.map_or_else(|_| "`[ADDRESS]:PORT`".into(), |address| format!("`{address}`"));
    BadAddress::Bare6(shown(text), instead)
}

fn depth(backlog: u32) -> Backlog {
    Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN)
}

/// Text for a log line: not too long, and nothing that a terminal would obey.
fn shown(text: &[u8]) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let whole: String = String::from_utf8_lossy(text).chars().map(escape).collect();
    match whole.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Path(path) => f.write_str(&shown(path.as_os_str().as_bytes())),
            Self::Abstract(name) | Self::BareAbstract(name) => write!(f, "@{}", shown(name)),
        }
    }
}

/// A listening socket. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    /// Its file, if it has one. It goes first: while the socket is open, no other file can have its inode.
    pub file: Option<SocketFile>,
    /// The socket.
    pub socket: OwnedFd,
}

fn bound(family: AddressFamily, address: &dyn SockaddrLike, manner: &Manner) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let is_tcp = family != AddressFamily::Unix;
    if is_tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if manner.reuse_port {
            setsockopt(&socket, sockopt::ReusePort, &true)?;
        }
        if manner.freebind {
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
        }
    }
    set_options(&socket, is_tcp, manner)?;
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// What connections have from the socket at which they came in. Source: socket(7), tcp(7).
fn set_options(socket: &OwnedFd, is_tcp: bool, manner: &Manner) -> io::Result<()> {
    if is_tcp {
        setsockopt(socket, sockopt::KeepAlive, &manner.keepalive)?;
    }
    if let Some(bytes) = manner.send_buffer {
        setsockopt(socket, sockopt::SndBuf, &usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    if let Some(bytes) = manner.receive_buffer {
        setsockopt(socket, sockopt::RcvBuf, &usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    Ok(())
}

/// Runs `make`, and a socket's file that it makes has this mode from its first moment: nothing can be put in its place
/// before it is changed. No other thread of ours makes files.
pub fn with_mode<T>(mode: Option<u32>, make: impl FnOnce() -> T) -> T {
    let Some(mode) = mode else { return make() };
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let made = make();
    umask(before);
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

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
        for empty in ["", " ", "@"] {
            assert!(parsed(empty).starts_with("the address is empty; write IP:PORT"), "{empty:?}");
        }
        assert!(parsed("localhost:80").contains("no IP address"));
        assert!(parsed("::1:8080").ends_with("stands in brackets; write `[::1]:8080`"));
        for bare in ["::1", "fe80::1", "::g:80"] {
            assert!(parsed(bare).ends_with("write `[ADDRESS]:PORT`"), "{bare}: {}", parsed(bare));
        }
        assert!(parsed("[::g]:80").contains("no IPv6 address"));
        for nul in ["@a\0b", "/run/a\0.sock", "127.0.0.1\0:80"] {
            assert!(parsed(nul).contains("holds a NUL byte"), "{nul:?}: {}", parsed(nul));
        }
        for bad in ["127.0.0.1:99999", "127.0.0.1:", ":-1", ":80x", "a:b"] {
            assert!(parsed(bad).contains("no port"), "{bad}");
        }
        assert!(parsed(&"x".repeat(200)).contains("102 bytes"));
        assert_eq!(parsed(&"x".repeat(102)), format!("Path(\"/srv/{}\")", "x".repeat(102)));
        let long = parsed(&format!("\x7f\u{9b}{}:", "y".repeat(4000)));
        assert!(long.starts_with("`\\u{7f}\\u{9b}yyy") && long.len() < 300, "{long}");
    }

    #[test]
    fn two_addresses_meet_where_one_server_is_in_the_way_of_the_other() {
        let at = |text: &str| Address::parse(text.as_bytes(), Path::new("/srv")).unwrap();
        for (one, two, meet) in [
            ("a.sock", "/srv/a.sock", true),
            ("a.sock", "@a.sock", false),
            (":80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            (":80", ":81", false),
        ] {
            assert_eq!(at(one).meets(&at(two)), meet, "{one} {two}");
        }
    }

    #[test]
    fn a_socket_file_comes_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse(b"s", dir.path()).unwrap();
        let path = dir.path().join("s");
        let listener = address.bind(10, 0o666, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(address.bind(10, 0o666, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        accept_would_block(&listener);
        assert!(listener.file.as_ref().unwrap().is_there());
        drop(listener);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(address.bind(10, 0o666, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(address.bind(10, 0o666, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    /// Nobody has connected, though somebody asked whether it is served.
    fn accept_would_block(listener: &Listener) {
        let asked = std::os::unix::net::UnixListener::from(listener.socket.try_clone().unwrap());
        asked.set_nonblocking(true).unwrap();
        assert_eq!(asked.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_dead_servers_file_is_replaced_and_another_socket_in_its_place_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = Address::at(Path::new("s"), dir.path()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = address.bind(1, 0o600, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(!listener.file.as_ref().unwrap().is_there());
        assert_eq!(address.bind(1, 0o600, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn a_server_whose_queue_is_full_is_in_the_way_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::at(Path::new("s"), dir.path()).unwrap();
        let _full = address.bind(0, 0o666, None).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(dir.path().join("s")).unwrap();
        assert_eq!(address.bind(1, 0o666, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_short_name_in_a_deep_directory_works_as_it_does_from_within() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let address = Address::parse(b"s", &deep).unwrap();
        let listener = address.bind(1, 0o666, None).unwrap();
        assert!(deep.join("s").exists());
        assert_eq!(address.bind(1, 0o666, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!deep.join("s").exists());
    }

    #[test]
    fn a_socket_is_known_by_its_address_and_only_while_it_listens() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("emperor-is-at-{}", std::process::id()).into_bytes();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let addresses = [
            Address::Path(dir.path().join("s")),
            Address::Path(deep.join("s2")),
            Address::Abstract(name.clone()),
            Address::BareAbstract(name),
            any,
            Address::Tcp("[::1]:0".parse().unwrap()),
        ];
        let listeners: Vec<_> =
            addresses.iter().map(|it| it.bind_in(&Manner::default(), None).unwrap()).collect();
        for (at, listener) in listeners.iter().enumerate() {
            for (other, address) in addresses.iter().enumerate() {
                assert_eq!(listener.is_at(address), at == other, "{listener:?} {address}");
            }
        }
        let port = listeners[4].tcp_address().unwrap();
        assert!(listeners[4].is_at(&Address::Tcp(port)) && !listeners[5].is_at(&Address::Tcp(port)));
        let shut = nix::sys::socket::Shutdown::Both;
        nix::sys::socket::shutdown(listeners[0].socket.as_raw_fd(), shut).unwrap();
        assert!(!listeners[0].is_at(&addresses[0]));
        let datagrams = std::os::unix::net::UnixDatagram::bind(dir.path().join("d")).unwrap();
        let datagrams = Listener { file: None, socket: datagrams.into() };
        assert!(!datagrams.is_at(&Address::Path(dir.path().join("d"))));
    }
}
