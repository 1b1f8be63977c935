//! The addresses of `http-socket`, and the sockets bound to them.
//!
//! Caller: the engine's loop, inside its runtime.
//! Source: the table of addresses that uWSGI 2.0.21 was seen to bind. What it accepts by accident (a host that
//! does not resolve, a port above 65535) is an error here.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use nix::sys::socket::{
    AddressFamily, Backlog, SockaddrLike, SockaddrStorage, getsockname, getsockopt, listen,
    sockopt::AcceptConn,
};
use nix::sys::stat::{Mode, umask};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::vassal::socket::{self, SocketFile};

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Address {
    /// At an address of its own.
    Own(socket::Address),
    /// Standard input is the listening socket: the emperor starts this vassal on demand.
    Inherited,
    /// The service manager has passed it (`LISTEN_FDS`): which one, from 0.
    Passed(usize),
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAddress {
    #[error(transparent)]
    Socket(#[from] socket::BadAddress),
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
        if text.starts_with('=') || text.contains("://") {
            return Err(BadAddress::Form(text.into()));
        }
        let text = match text.strip_prefix("\\0") {
            Some(name) => format!("@{name}"),
            // The kernel chooses a port where none is given.
            None if text.ends_with(':') => format!("{text}0"),
            None => text.to_owned(),
        };
        match socket::Address::parse(text.as_bytes(), Path::new("")) {
            Err(socket::BadAddress::Host(_)) if !text.starts_with('[') => {
                let mut found = text.to_socket_addrs().ok().into_iter().flatten();
                let address = found.find(SocketAddr::is_ipv4).ok_or(BadAddress::Host(text))?;
                Ok(Self::Own(socket::Address::Tcp(address)))
            }
            parsed => Ok(Self::Own(parsed?)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(address) => address.fmt(f),
            Self::Inherited => f.write_str("standard input"),
            Self::Passed(at) => match passed().get(*at).and_then(socket::Address::of) {
                Some(address) => write!(f, "{address}, passed by the service manager"),
                None => f.write_str("a socket passed by the service manager"),
            },
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
    /// Binds and listens; the socket's file, if it has one, goes when it is dropped.
    ///
    /// # Errors
    /// As [`socket::Address::bind`].
    pub(super) fn bind(
        address: &Address,
        backlog: u32,
        mode: Option<u32>,
    ) -> io::Result<(Self, Option<SocketFile>)> {
        match address {
            Address::Own(address) => {
                let bound = address.bind(backlog, mode.unwrap_or_else(usual_mode), None)?;
                Ok((Self::of(bound.socket)?, bound.file))
            }
            Address::Passed(at) => {
                let socket = passed().get(*at).ok_or(io::ErrorKind::NotFound)?;
                Ok((Self::of(socket.try_clone()?)?, None))
            }
            Address::Inherited => Ok((Self::of(io::stdin().as_fd().try_clone_to_owned()?)?, None)),
        }
    }

    fn of(socket: OwnedFd) -> io::Result<Self> {
        if getsockname::<SockaddrStorage>(socket.as_raw_fd())?.family() == Some(AddressFamily::Unix) {
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

/// The sockets that the service manager has passed. They are this process's for as long as it lives.
static PASSED: OnceLock<Vec<OwnedFd>> = OnceLock::new();

/// Takes them. Once, at the start.
pub(super) fn take_passed(sockets: Vec<OwnedFd>) {
    let listening = sockets.into_iter().filter(|socket| socket::Address::of(socket).is_some());
    let _ = PASSED.set(listening.collect()); // a second time there would be none
}

fn passed() -> &'static [OwnedFd] {
    PASSED.get().map_or(&[], Vec::as_slice)
}

/// All of them, with their own addresses.
pub(super) fn all_passed() -> impl Iterator<Item = (Address, Address)> {
    let address = |socket| socket::Address::of(socket).map(Address::Own);
    passed().iter().enumerate().filter_map(move |(at, socket)| Some((Address::Passed(at), address(socket)?)))
}

/// Whether standard input is a socket that listens: this vassal was started on demand.
pub(super) fn stdin_listens() -> bool {
    getsockopt(&io::stdin(), AcceptConn).unwrap_or(false)
}

/// The mode of files that this process makes.
fn usual_mode() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    0o777 & !mask.bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_a_colon_makes_an_address_and_everything_else_is_a_path() {
        let tcp = |text: &str| socket::Address::Tcp(text.parse().unwrap());
        let name = || socket::Address::Abstract(b"name".to_vec());
        for (text, address) in [
            ("127.0.0.1:3031", tcp("127.0.0.1:3031")),
            (":3031", tcp("0.0.0.0:3031")),
            ("127.0.0.1:", tcp("127.0.0.1:0")),
            ("localhost:3031", tcp("127.0.0.1:3031")),
            ("[::1]:80", tcp("[::1]:80")),
            ("[::]:0", tcp("[::]:0")),
            (" \ta.sock", socket::Address::Path("a.sock".into())),
            ("3031", socket::Address::Path("3031".into())),
            ("@name", name()),
            ("\\0name", name()),
        ] {
            assert_eq!(Address::parse(text).unwrap(), Address::Own(address), "{text}");
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
}
