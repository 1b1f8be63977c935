//! The root directories of uWSGI's options, and namespaces that somebody else offers.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::super::text::Text;
use crate::zerg::wire::{self, Greeting};

/// How long a server of namespaces that is not there yet is waited for, and how often it is looked for. uWSGI waits for
/// ever, once a second.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A change of the root directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewRoot {
    /// `chroot`; the working directory is the new root then.
    Change(Text),
    /// `pivot-root`: the old root appears at `old`, a directory in `new`, which must be a mount point.
    Pivot {
        /// The new root.
        new: Text,
        /// Where the old one goes.
        old: Text,
    },
}

impl fmt::Display for NewRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(path) => write!(f, "is {path}"),
            Self::Pivot { new, old } => write!(f, "is {new}, the old one at {old}"),
        }
    }
}

/// Changes it.
pub(in super::super) fn change(root: &NewRoot) -> io::Result<()> {
    match root {
        NewRoot::Change(path) => nix::unistd::chroot(path.as_path())?,
        NewRoot::Pivot { new, old } => {
            let old = old.as_path();
            nix::unistd::chdir(new.as_path())?;
            // As uWSGI has it: with the name of the new root in front, or without.
            let inside = old.strip_prefix(new.as_path()).or_else(|_| old.strip_prefix("/")).unwrap_or(old);
            nix::unistd::pivot_root(Path::new("."), inside)?;
        }
    }
    Ok(nix::unistd::chdir("/")?)
}

/// Joins what the server at this path offers, in its order.
pub(in super::super) fn join(path: &Text) -> io::Result<()> {
    let server = connect(path.as_path())?;
    let offered = wire::receive(server.as_fd(), Greeting::Namespaces, WAIT_LIMIT);
    for namespace in offered.map_err(io::Error::other)?.descriptors {
        setns(namespace, CloneFlags::empty())?;
    }
    Ok(())
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + WAIT_LIMIT;
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < end =>
            {
                std::thread::sleep(LOOK_EVERY);
            }
            connected => return connected,
        }
    }
}
