//! The signals that the emperor obeys, each with its sender.
//!
//! A handler only notes the signal and wakes the loop; everything is done there. Source of the meanings:
//! measured behaviour of uWSGI 2.0.21, but for SIGUSR2, which is ours.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;

use crate::sys::fds::Readable;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// SIGTERM, SIGINT, SIGQUIT: end.
    Shutdown,
    /// SIGHUP: tell every vassal to reload.
    Reload,
    /// SIGUSR1: list the vassals in the log.
    List,
    /// SIGUSR2: let the program's file as it is now take this one's place.
    Upgrade,
    /// SIGURG: clear the blacklist.
    ClearBlacklist,
    /// SIGWINCH: look at all sources now.
    Rescan,
    /// SIGCHLD, as the first process of a container: reap what was left to us.
    Reap,
}

/// A signal that has come.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// What it asks for.
    pub wish: Wish,
    /// Its name, such as `SIGHUP`.
    pub name: &'static str,
    /// The process and the user that sent it; none when the kernel did.
    pub sender: Option<(i32, u32)>,
}

/// The signals, waiting to be asked for.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    readable: Readable,
}

const WISHES: [(i32, Wish, &str); 9] = [
    (libc::SIGTERM, Wish::Shutdown, "SIGTERM"),
    (libc::SIGINT, Wish::Shutdown, "SIGINT"),
    (libc::SIGQUIT, Wish::Shutdown, "SIGQUIT"),
    (libc::SIGHUP, Wish::Reload, "SIGHUP"),
    (libc::SIGUSR1, Wish::List, "SIGUSR1"),
    (libc::SIGUSR2, Wish::Upgrade, "SIGUSR2"),
    (libc::SIGURG, Wish::ClearBlacklist, "SIGURG"),
    (libc::SIGWINCH, Wish::Rescan, "SIGWINCH"),
    (libc::SIGCHLD, Wish::Reap, "SIGCHLD"),
];

impl Signals {
    /// Takes over the signals. Call inside the runtime. Orphans are reaped only by the first process.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(first_process: bool) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let readable = Readable::new(read.as_fd().try_clone_to_owned()?)?;
        let wanted = WISHES.iter().filter(|(_, wish, _)| first_process || *wish != Wish::Reap);
        let numbers: Vec<i32> = wanted.map(|(number, ..)| *number).collect();
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), numbers)?;
        Ok(Self { delivery, readable })
    }

    /// Resolves when a signal may have come. Cancel-safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.readable.ready().await
    }

    /// Whether some have come and are not taken yet.
    #[must_use]
    pub fn are_waiting(&self) -> bool {
        let mut there = [PollFd::new(self.readable.fd(), PollFlags::POLLIN)];
        poll(&mut there, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// The signals that have come since.
    pub fn take(&mut self) -> Vec<Arrival> {
        let arrivals = self.delivery.pending().filter_map(|origin| {
            let (_, wish, name) = WISHES.iter().find(|(number, ..)| *number == origin.signal)?;
            let sender = origin.process.map(|process| (process.pid, process.uid));
            Some(Arrival { wish: *wish, name, sender })
        });
        arrivals.collect()
    }
}
