//! Where the log goes, and going into the background.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::ProcessError;
use crate::sys::alone;

/// Mode of a fresh log file, less the umask. Source: uWSGI.
const LOG_MODE: u32 = 0o640;

/// Where standard output and standard error go. Each is a file, or `host:port` for UDP.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// `logto`.
    pub logto: Option<String>,
    /// `logto2`: after the drop.
    pub logto2: Option<String>,
    /// `daemonize`: the same, in the background.
    pub daemonize: Option<String>,
    /// `daemonize2`: in the background once everything is set up.
    pub daemonize2: Option<String>,
}

impl Logs {
    pub(super) fn open_first(&self, may_detach: bool, clear_umask: bool) -> Result<Starter, ProcessError> {
        redirect(self.logto.as_deref())?;
        let starter =
            if self.daemonize.is_some() && may_detach { detach(clear_umask)? } else { Starter(None) };
        redirect(self.daemonize.as_deref())?;
        Ok(starter)
    }

    pub(super) fn open_after_drop(&self) -> Result<(), ProcessError> {
        redirect(self.logto2.as_deref())
    }

    /// `None` where this process keeps its id.
    pub(super) fn detach_last(
        &self,
        may_detach: bool,
        clear_umask: bool,
    ) -> Result<Option<Starter>, ProcessError> {
        let starter =
            self.daemonize2.as_ref().filter(|_| may_detach).map(|_| detach(clear_umask)).transpose()?;
        redirect(self.daemonize2.as_deref())?;
        Ok(starter)
    }
}

/// The process that a person or a service manager has started, while the emperor sets itself up in the background.
pub(super) struct Starter(Option<io::PipeWriter>);

impl Starter {
    /// Lets it end with success. Dropped without that, or when we die, it ends with status 1.
    pub(super) fn let_go(self) {
        if let Some(mut pipe) = self.0 {
            // Nobody may be waiting any more, and nothing depends on it.
            let _ = pipe.write_all(b".");
        }
    }
}

fn redirect(target: Option<&str>) -> Result<(), ProcessError> {
    let Some(target) = target else { return Ok(()) };
    let opened = if target.contains(':') { datagrams_to(target) } else { file(Path::new(target)) };
    let redirected = opened.and_then(|log| {
        dup2_stdout(&log)?;
        Ok(dup2_stderr(&log)?)
    });
    redirected.map_err(|source| ProcessError::Log { target: target.to_owned(), source })
}

fn file(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().create(true).append(true).read(true).mode(LOG_MODE).open(path)?.into())
}

/// A socket whose writes go to that address, one datagram each.
fn datagrams_to(address: &str) -> io::Result<OwnedFd> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "no such address");
    let address = address.to_socket_addrs()?.next().ok_or_else(none)?;
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    Ok(socket.into())
}

/// Becomes a child of init, in a session that never gets a terminal, without standard input.
fn detach(clear_umask: bool) -> Result<Starter, ProcessError> {
    let go = || -> io::Result<Starter> {
        let (mut done, tell) = io::pipe()?;
        if alone::fork()?.is_some() {
            drop(tell);
            let status = if done.read_exact(&mut [0]).is_ok() { 0 } else { 1 };
            std::process::exit(status);
        }
        setsid()?;
        if alone::fork()?.is_some() {
            std::process::exit(0);
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        if clear_umask {
            umask(Mode::empty());
        }
        Ok(Starter(Some(tell)))
    };
    go().map_err(|source| ProcessError::Daemonize { source })
}
