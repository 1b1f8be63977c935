//! The addresses of `http-socket`, and the sockets bound to them.
//!
//! Caller: the engine's loop, inside its runtime.
//! Source: the table of addresses that uWSGI 2.0.21 was seen to bind. What it accepts by accident (a host that
//! does not resolve, a port above 65535) is an error here.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use nix::sys::socket::{
    AddressFamily, Backlog, SockaddrLike, SockaddrStorage, getsockname, getsockopt, listen,
    sockopt::AcceptConn,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Path(PathBuf),
    /// A name without a file; in the kernel it ends in a NUL, as uWSGI's do.
    Abstract(String),
    /// Standard input is the listening socket: the emperor starts this vassal on demand.
    Inherited,
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAddress {
    #[error("the address is empty")]
    Empty,
    #[error("`{0}` has no port between 0 and 65535")]
    Port(String),
    #[error("`{0}` has no IPv4 address")]
    Host(String),
    #[error("`{0}` cannot be used here: only addresses, paths and @names can")]
    Form(String),
}

impl Address {
    /// # Errors
    /// [`BadAddress`] carries the text.
    pub(super) fn parse(text: &str) -> Result<Self, BadAddress> {
        let text = text.trim_start();
        if text.is_empty() {
            return Err(BadAddress::Empty);
        }
        if let Some(name) = text.strip_prefix('@').or_else(|| text.strip_prefix("\\0")) {
            return Ok(Self::Abstract(name.into()));
        }
        if text.starts_with('=') || text.contains("://") {
            return Err(BadAddress::Form(text.into()));
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Ok(Self::Path(text.into())) };
        let port = match port {
            "" => 0,
            digits => digits.parse().map_err(|_| BadAddress::Port(text.into()))?,
        };
        let bad_host = || BadAddress::Host(text.into());
        let ip = if host.is_empty() {
            Ipv4Addr::UNSPECIFIED.into()
        } else if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            IpAddr::V6(v6.parse::<Ipv6Addr>().map_err(|_| bad_host())?)
        } else {
            let mut found = (host, port).to_socket_addrs().map_err(|_| bad_host())?;
            found.find(SocketAddr::is_ipv4).ok_or_else(bad_host)?.ip()
        };
        Ok(Self::Tcp(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::Inherited => f.write_str("standard input"),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection, and who is at the other end.
pub(super) enum Connection {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Binds and listens. A socket file that a former server left behind is replaced; any other file is not.
    ///
    /// # Errors
    /// socket(2), bind(2), listen(2), unlink(2).
    pub(super) fn bind(address: &Address, backlog: u32) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                socket.listen(backlog).map(Self::Tcp)
            }
            Address::Path(path) => {
                if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                unix(path, backlog)
            }
            Address::Abstract(name) => {
                let name = [b"\0", name.as_bytes(), b"\0"].concat();
                unix(Path::new(std::ffi::OsStr::from_bytes(&name)), backlog)
            }
            Address::Inherited => Self::inherit(),
        }
    }

    fn inherit() -> io::Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let family = getsockname::<SockaddrStorage>(socket.as_raw_fd())?.family();
        if family == Some(AddressFamily::Unix) {
            let socket = std::os::unix::net::UnixListener::from(socket);
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket).map(Self::Unix)
        } else {
            let socket = std::net::TcpListener::from(socket);
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket).map(Self::Tcp)
        }
    }

    /// Gives the queue of waiting connections a new length.
    ///
    /// # Errors
    /// listen(2).
    pub(super) fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        let backlog = i32::try_from(backlog).ok().and_then(|backlog| Backlog::new(backlog).ok());
        let backlog = backlog.unwrap_or(Backlog::MAXCONN);
        match self {
            Self::Tcp(socket) => listen(socket, backlog),
            Self::Unix(socket) => listen(socket, backlog),
        }?;
        Ok(())
    }

    /// The address it is bound to, with the port that the kernel chose.
    pub(super) fn name(&self, address: &Address) -> String {
        match self {
            Self::Tcp(socket) => {
                socket.local_addr().map_or_else(|_| address.to_string(), |at| at.to_string())
            }
            Self::Unix(_) => address.to_string(),
        }
    }

    /// # Errors
    /// accept(2).
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        match self {
            Self::Tcp(socket) => {
                socket.poll_accept(cx).map_ok(|(stream, peer)| Connection::Tcp(stream, peer))
            }
            Self::Unix(socket) => socket.poll_accept(cx).map_ok(|(stream, _)| Connection::Unix(stream)),
        }
    }
}

/// Whether standard input is a socket that listens: this vassal was started on demand.
pub(super) fn stdin_listens() -> bool {
    getsockopt(&io::stdin(), AcceptConn).unwrap_or(false)
}

fn unix(path: &Path, backlog: u32) -> io::Result<Listener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    socket.listen(backlog).map(Listener::Unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_a_colon_makes_an_address_and_everything_else_is_a_path() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (text, address) in [
            ("127.0.0.1:3031", tcp("127.0.0.1:3031")),
            (":3031", tcp("0.0.0.0:3031")),
            ("127.0.0.1:", tcp("127.0.0.1:0")),
            ("[::1]:80", tcp("[::1]:80")),
            ("[::]:0", tcp("[::]:0")),
            (" \ta.sock", Address::Path("a.sock".into())),
            ("3031", Address::Path("3031".into())),
            ("@name", Address::Abstract("name".into())),
            ("\\0name", Address::Abstract("name".into())),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
        for wrong in [
            "",
            " ",
            "127.0.0.1:99999",
            "127.0.0.1:http",
            "no.such.host.invalid:80",
            "fd://3",
            "=0",
            "[::1:80",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_dead_servers_socket_is_replaced_and_any_other_file_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.sock");
        drop(Listener::bind(&Address::Path(path.clone()), 1).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&Address::Path(path.clone()), 1).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&Address::Path(path.clone()), 1).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
