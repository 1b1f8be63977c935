//! The way to a vassal's stats server, and who may be at its end.
//!
//! A tenant writes the address, and we are root: what he names is looked for with his rights, in his vassal's view of
//! the files, and has to be his own. Of the network only this machine's own is reached on his behalf.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::sys::fs_identity::acting_for;
use crate::sys::sock_diag::{Accepted, Listening};
use crate::vassal::socket::{Address, BadAddress};

/// A connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Whose stats server it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party {
    /// The vassal's process.
    pub(super) pid: i32,
    /// User and group, if it is a tenant's.
    pub(super) tenant: Option<(u32, u32)>,
}

/// Reads an address as uWSGI would bind it.
///
/// # Errors
/// Why it leads nowhere, and what is wanted.
pub(super) fn target(text: &[u8]) -> Result<Address, String> {
    let address = match Address::parse(text, Path::new("")) {
        Err(BadAddress::Host(_)) if text.starts_with(b"localhost:") => {
            let local = [b"127.0.0.1", &text[b"localhost".len()..]].concat();
            Address::parse(&local, Path::new(""))
        }
        address => address,
    };
    match address.map_err(|error| error.to_string())? {
        Address::Tcp(address) if address.port() == 0 => {
            Err("it leaves the port to the kernel, and nobody learns it: name one".into())
        }
        Address::Tcp(mut address) => {
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            Ok(Address::Tcp(address))
        }
        address => Ok(address),
    }
}

/// Connects.
///
/// # Errors
/// Nobody is there, or not he who has to be.
pub(super) async fn connect(
    address: &Address,
    party: Party,
    listening: &[Listening],
) -> Result<Box<dyn Stream>, String> {
    let stream = match address {
        Address::Tcp(address) => {
            in_our_network(party.pid)?;
            if let Some((uid, _)) = party.tenant {
                if !address.ip().to_canonical().is_loopback() {
                    return Err(
                        "only addresses of this machine's own (127.0.0.1, [::1]) are asked for tenants, \
                                and unix sockets"
                            .into(),
                    );
                }
                owned(
                    listening,
                    uid,
                    |place| matches!(place, Accepted::Tcp(at) if at.port() == address.port() && covers(at.ip(), address.ip())),
                )?;
            }
            return match TcpStream::connect(address).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(refused(&error)),
            };
        }
        Address::Abstract(name) | Address::BareAbstract(name) => {
            in_our_network(party.pid)?;
            let kernels: Vec<u8> = [b"\0", &name[..]].concat();
            if let Some((uid, _)) = party.tenant {
                owned(
                    listening,
                    uid,
                    |place| matches!(place, Accepted::Unix(name) if name.trim_ascii_end() == kernels),
                )?;
            }
            let name = match address {
                Address::Abstract(name) => [name, &b"\0"[..]].concat(),
                _ => name.clone(),
            };
            let address = UnixAddress::from_abstract_name(&name).map_err(|error| error.to_string())?;
            // It does not wait: a full queue is an error, for it is not to block.
            nonblocking(&address).map_err(|error| refused(&error))?
        }
        Address::Path(path) => {
            let path = path.clone();
            let found = tokio::task::spawn_blocking(move || find(&path, party)).await;
            let socket = found.map_err(|error| error.to_string())??;
            let way = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
            UnixStream::connect(&way).await.map_err(|error| refused(&error))?
        }
    };
    if let Some((uid, _)) = party.tenant {
        let other = stream.peer_cred().map_err(|error| error.to_string())?.uid();
        if other != uid {
            return Err(format!("uid {other} listens there, and not its own user, {uid}"));
        }
    }
    Ok(Box::new(stream))
}

fn refused(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            format!("nobody listens at its stats address ({error})")
        }
        io::ErrorKind::WouldBlock => "its stats server is not accepting, and its queue is full".into(),
        _ => format!("cannot connect to its stats address: {error}"),
    }
}

fn nonblocking(address: &UnixAddress) -> io::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let name = address.as_abstract_name().unwrap_or_default();
    connect(stream.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    UnixStream::from_std(StdUnixStream::from(stream))
}

/// Whether who listens at `bound` is asked at `address`.
fn covers(bound: IpAddr, address: IpAddr) -> bool {
    let (bound, address) = (bound.to_canonical(), address.to_canonical());
    bound == address || bound.is_unspecified()
}

/// Who listens there has to be the tenant, and nobody else.
fn owned(listening: &[Listening], uid: u32, there: impl Fn(&Accepted) -> bool) -> Result<(), String> {
    let mut found = listening.iter().filter(|it| there(&it.place)).peekable();
    if found.peek().is_none() {
        return Err("nobody listens at its stats address".into());
    }
    match found.find(|it| it.uid != uid) {
        Some(_) => Err(format!("somebody else than its own user, uid {uid}, listens at its stats address")),
        None => Ok(()),
    }
}

/// Addresses without files mean another thing in another network.
fn in_our_network(pid: i32) -> Result<(), String> {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    match (network(&pid.to_string()), network("self")) {
        (Some(its), Some(ours)) if its != ours => {
            Err("it has a network of its own, which is not entered: give `stats` the path of a unix socket"
                .into())
        }
        _ => Ok(()),
    }
}

/// The socket's file: in the vassal's own root and working directory, found with the tenant's rights, and his.
fn find(path: &Path, party: Party) -> Result<OwnedFd, String> {
    let wrong = |error: nix::Error| {
        let error = io::Error::from(error);
        format!("its stats socket {} cannot be reached: {error}", path.display())
    };
    let directory = |name: &str| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(format!("/proc/{}/{name}", party.pid).as_str(), flags, Mode::empty())
    };
    let is_ours = |root: &OwnedFd| match (fstat(root), std::fs::metadata("/")) {
        (Ok(its), Ok(ours)) => (its.st_dev, its.st_ino) == (ours.dev(), ours.ino()),
        _ => false,
    };
    // Who may not look into another user's process takes the way that all take.
    let root = match directory("root") {
        Err(nix::Error::EACCES | nix::Error::EPERM) => {
            open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        }
        root => root,
    }
    .map_err(|error| if error == nix::Error::ENOENT { "it has no process".into() } else { wrong(error) })?;
    let no_magic = ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let (from, resolve) = match (path.is_absolute(), is_ours(&root)) {
        (true, true) => (root, no_magic),
        (true, false) => (root, no_magic | ResolveFlag::RESOLVE_IN_ROOT),
        (false, true) => (directory("cwd").map_err(wrong)?, no_magic),
        // A link that begins with a slash would mean our root.
        (false, false) => (directory("cwd").map_err(wrong)?, no_magic | ResolveFlag::RESOLVE_NO_SYMLINKS),
    };
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let relative = path.as_os_str().as_bytes();
    let socket = acting_for(party.tenant, || Ok(openat2(from.as_fd(), relative, how)?))
        .map_err(|error| format!("its stats socket {} cannot be reached: {error}", path.display()))?;
    let found = fstat(&socket).map_err(wrong)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(format!("{} is no socket", path.display()));
    }
    match party.tenant {
        Some((uid, _)) if found.st_uid != uid => Err(format!(
            "the socket {} belongs to uid {}, and not to its own user, {uid}",
            path.display(),
            found.st_uid
        )),
        _ => Ok(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        target(text.as_bytes()).map_or_else(|error| format!("! {error}"), |address| address.to_string())
    }

    #[test]
    fn addresses_are_those_that_uwsgi_would_bind() {
        assert_eq!(shown(" /run/a.stats"), "/run/a.stats");
        assert_eq!(shown("a.stats"), "a.stats");
        assert_eq!(shown("@a"), "@a");
        for text in [":1717", "0.0.0.0:1717", "127.0.0.1:1717", "localhost:1717"] {
            assert_eq!(shown(text), "127.0.0.1:1717", "{text}");
        }
        assert_eq!(shown("[::]:1717"), "[::1]:1717");
        assert_eq!(shown("10.0.0.1:1717"), "10.0.0.1:1717");
        assert!(shown("127.0.0.1:0").contains("name one"));
        assert!(shown("example.org:1").contains("example.org"));
        assert!(shown("localhost:x").contains("port"));
    }

    #[test]
    fn all_who_listen_have_to_be_the_tenant() {
        let one = |uid, place: &str| Listening {
            inode: 1,
            uid,
            place: Accepted::Tcp(place.parse().unwrap()),
            waiting: 0,
            limit: 0,
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |place: &Accepted| matches!(place, Accepted::Tcp(at) if at.port() == 7 && covers(at.ip(), ip("127.0.0.1")));
        assert!(owned(&[one(5, "127.0.0.1:7"), one(6, "127.0.0.1:8")], 5, at).is_ok());
        assert!(owned(&[one(5, "0.0.0.0:7")], 5, at).is_ok());
        assert!(owned(&[one(5, "0.0.0.0:7"), one(6, "127.0.0.1:7")], 5, at).is_err());
        assert!(owned(&[one(6, "[::]:7")], 5, at).is_err());
        assert!(owned(&[], 5, at).is_err());
    }
}
