//! Handing sockets out to whoever connects and may have them.
//!
//! Caller: the emperor's loop, when a client waits. Nothing here waits: a client is accepted, sent its messages, and
//! closed, or closed without one. Nothing is ever read from it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::{SocketFlags, accept_with};

use super::wire::{self, Message};

/// The users that may have the sockets. Source: SO_PEERCRED of unix(7), which is the user at connect(2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowed(BTreeSet<u32>);

impl FromIterator<u32> for Allowed {
    fn from_iter<I: IntoIterator<Item = u32>>(users: I) -> Self {
        Self(users.into_iter().collect())
    }
}

impl Allowed {
    /// Whether this user may.
    #[must_use]
    pub fn admits(&self, user: u32) -> bool {
        self.0.contains(&user)
    }
}

/// What came of one client.
#[derive(Debug)]
pub enum Served {
    /// It has got the sockets.
    Given(Peer),
    /// It may not have them.
    Refused(Peer),
    /// It had gone, or did not take them.
    Lost(Peer, io::Error),
    /// Nobody waits.
    Nobody,
}

/// Who has connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its process, as this one sees it; 0 if it does not.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Serves the next client at a listening socket that is not blocking.
///
/// # Errors
/// accept4(2): no descriptor is left. The client waits on.
pub fn serve(listener: BorrowedFd<'_>, allowed: &Allowed, messages: &[Message<'_>]) -> io::Result<Served> {
    let Some(client) = accept(listener)? else { return Ok(Served::Nobody) };
    let who = getsockopt(&client, PeerCredentials).map_err(io::Error::from)?;
    let peer = Peer { pid: who.pid(), uid: who.uid() };
    if !allowed.admits(peer.uid) {
        return Ok(Served::Refused(peer));
    }
    Ok(match wire::send_all(client.as_fd(), messages) {
        Ok(()) => Served::Given(peer),
        Err(error) => Served::Lost(peer, error),
    })
}

fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(io::Error::from) {
        Ok(client) => Ok(Some(client)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    use crate::zerg::wire::{Greeting, WireError, messages, receive};

    fn bed() -> (tempfile::TempDir, UnixListener, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("z")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = UnixStream::connect(dir.path().join("z")).unwrap();
        (dir, listener, client)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn who_may_have_the_sockets_gets_them_and_is_closed() {
        let (_dir, listener, client) = bed();
        let own = nix::unistd::geteuid().as_raw();
        let allowed = Allowed::from_iter([own]);
        let given = [listener.as_fd()];
        let sending = messages(Greeting::Zerg, &given, &[]);
        let served = serve(listener.as_fd(), &allowed, &sending).unwrap();
        let peer = Peer { pid: i32::try_from(std::process::id()).unwrap(), uid: own };
        assert!(matches!(served, Served::Given(who) if who == peer), "{served:?}");
        assert_eq!(receive(client.as_fd(), Greeting::Zerg, SOON).unwrap().descriptors.len(), 1);
        let nobody = serve(listener.as_fd(), &allowed, &sending).unwrap();
        assert!(matches!(nobody, Served::Nobody));
    }

    #[test]
    fn who_may_not_gets_nothing_and_who_has_gone_costs_nothing() {
        let (dir, listener, client) = bed();
        let given = [listener.as_fd()];
        let sending = messages(Greeting::Zerg, &given, &[]);
        let nobody = Allowed::default();
        let served = serve(listener.as_fd(), &nobody, &sending).unwrap();
        assert!(matches!(served, Served::Refused(_)), "{served:?}");
        let refused = receive(client.as_fd(), Greeting::Zerg, SOON).unwrap_err();
        assert!(matches!(refused, WireError::Closed), "{refused:?}");
        drop(UnixStream::connect(dir.path().join("z")).unwrap());
        let all = Allowed::from_iter([nix::unistd::geteuid().as_raw()]);
        let served = serve(listener.as_fd(), &all, &sending).unwrap();
        assert!(matches!(served, Served::Lost(..)), "{served:?}");
    }
}
