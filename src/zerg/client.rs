//! Taking the sockets that a zerg server offers.
//!
//! Caller: the launcher, as the vassal, right before its program: the server sees the vassal's user.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname, getsockopt,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::wire::{self, Greeting, Label, WireError};

/// Where a server is, as uWSGI's `zerg` has it: a path, or `@` and a name without a file.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a>(pub &'a [u8]);

impl fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OsStr::from_bytes(self.0).display().fmt(f)
    }
}

/// A listening socket that was offered.
#[derive(Debug)]
pub struct Offered {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens, for people.
    pub address: String,
    /// What the server calls it.
    pub label: Option<Label>,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody is there, or may not be spoken to.
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    /// What it says.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What it offers.
    #[error("it offers no listening socket")]
    Nothing,
}

impl AttachError {
    /// The same as an error of the system, with its number if there is one.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Connect(error) | Self::Wire(WireError::System(error)) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// Connects and takes what is offered, within this time each. What is no listening socket is closed.
///
/// A name without a file is looked for with the NUL that uWSGI's servers have at its end, and then without.
///
/// # Errors
/// [`AttachError`].
pub fn attach(server: Server<'_>, patience: Duration) -> Result<Vec<Offered>, AttachError> {
    let connection = match server.0.strip_prefix(b"@") {
        Some(name) => {
            let with_nul = UnixAddr::new_abstract(&[name, b"\0"].concat()).map_err(io::Error::from)?;
            match dial(&with_nul, patience) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    dial(&UnixAddr::new_abstract(name).map_err(io::Error::from)?, patience)?
                }
                dialled => dialled?,
            }
        }
        None => {
            let path = Path::new(OsStr::from_bytes(server.0));
            dial(&UnixAddr::new(path).map_err(io::Error::from)?, patience)?
        }
    };
    let received = wire::receive_all(connection.as_fd(), Greeting::Zerg, patience)?;
    let mut labels = received.labels.into_iter();
    let offered = received.descriptors.into_iter().filter_map(|socket| {
        let label = labels.next();
        let address = address_of(&socket)?;
        (getsockopt(&socket, AcceptConn) == Ok(true)).then_some(Offered { socket, address, label })
    });
    let offered: Vec<_> = offered.collect();
    if offered.is_empty() { Err(AttachError::Nothing) } else { Ok(offered) }
}

/// A server whose queue is full is waited for; with nobody there, it fails at once.
fn dial(address: &UnixAddr, patience: Duration) -> io::Result<OwnedFd> {
    let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let seconds = i64::try_from(patience.as_secs().max(1)).unwrap_or(i64::MAX);
    setsockopt(&connection, SendTimeout, &TimeVal::new(seconds, 0))?;
    loop {
        match connect(connection.as_raw_fd(), address) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its queue stays full"));
            }
            connected => return Ok(connected.map(|()| connection)?),
        }
    }
}

/// Where a socket listens; `None` for what is no socket, or has no name.
fn address_of(socket: &OwnedFd) -> Option<String> {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    if let Some(unix) = address.as_unix_addr() {
        let name = unix.as_abstract().map(|name| {
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            format!("@{}", OsStr::from_bytes(name).display())
        });
        return unix.path().map(|path| path.display().to_string()).or(name);
    }
    let v4 = address.as_sockaddr_in().map(ToString::to_string);
    v4.or_else(|| address.as_sockaddr_in6().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::time::Instant;

    use crate::zerg::server::{Allowed, serve};
    use crate::zerg::wire::messages;

    const SOON: Duration = Duration::from_secs(20);

    /// Serves one client what is given.
    fn serve_one(listener: UnixListener, given: Vec<OwnedFd>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let given: Vec<_> = given.iter().map(AsFd::as_fd).collect();
            let allowed = Allowed::from_iter([nix::unistd::geteuid().as_raw()]);
            serve(listener.as_fd(), &allowed, &messages(Greeting::Zerg, &given, &[])).unwrap();
        })
    }

    #[test]
    fn only_listening_sockets_are_taken_and_each_has_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("z");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap().to_string();
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let given = vec![std::fs::File::open("/dev/null").unwrap().into(), tcp.into(), one.into()];
        let serving = serve_one(UnixListener::bind(&path).unwrap(), given);
        let offered = attach(Server(path.as_os_str().as_bytes()), SOON).unwrap();
        serving.join().unwrap();
        assert_eq!(offered.iter().map(|it| it.address.as_str()).collect::<Vec<_>>(), [at]);
    }

    #[test]
    fn a_name_without_a_file_is_found_with_and_without_the_nul_that_uwsgi_adds() {
        for nul in ["\0", ""] {
            let name = format!("emperor-zerg-client-{}-{}", std::process::id(), nul.len());
            let address = SocketAddr::from_abstract_name(format!("{name}{nul}")).unwrap();
            let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let serving = serve_one(UnixListener::bind_addr(&address).unwrap(), vec![tcp.into()]);
            let offered = attach(Server(format!("@{name}").as_bytes()), SOON).unwrap();
            serving.join().unwrap();
            assert_eq!(offered.len(), 1);
        }
    }

    #[test]
    fn a_server_that_is_not_there_silent_or_full_is_told_apart_and_waited_for_no_longer_than_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("z");
        let ask = || attach(Server(path.as_os_str().as_bytes()), Duration::from_secs(1)).unwrap_err();
        let begun = Instant::now();
        assert!(matches!(ask(), AttachError::Connect(error) if error.kind() == io::ErrorKind::NotFound));
        assert!(begun.elapsed() < Duration::from_secs(1), "at once");
        let listener = UnixListener::bind(&path).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        assert!(matches!(ask(), AttachError::Wire(WireError::Silent(_))));
        // The one that has gone is still in the queue, which holds no other.
        assert!(matches!(ask(), AttachError::Connect(error) if error.kind() == io::ErrorKind::TimedOut));
    }
}
