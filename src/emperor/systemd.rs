//! What the emperor tells the service manager (`NOTIFY_SOCKET`, sd_notify(3)): ready, status, watchdog, the end.
//!
//! Every message is one datagram that is dropped when nobody listens; nothing here fails the emperor.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    told: Option<u32>,
    note: Option<String>,
    ready: bool,
}

impl Manager {
    /// What is going on before the vassals are looked for.
    pub fn initializing(&self) {
        send(&[NotifyState::Status("initializing the Emperor")]);
    }

    /// The number of governed vassals; said only when it has changed.
    pub fn governing(&mut self, vassals: u32) {
        if self.told.replace(vassals) != Some(vassals) {
            let note = self.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
            send(&[NotifyState::Status(&format!("The Emperor is governing {vassals} vassals{note}"))]);
        }
    }

    /// What the next status says besides.
    pub fn note(&mut self, note: Option<String>) {
        if self.note != note {
            (self.note, self.told) = (note, None);
        }
    }

    /// The sources have been read and their vassals started. Said once; whether it was said now.
    pub fn ready(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.ready, true);
        if first {
            send(&[NotifyState::Ready]);
        }
        first
    }

    /// Whether that was said.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// All vassals are being told to reload; [`Manager::reloaded`] must follow.
    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            send(&[NotifyState::Reloading, now]);
        }
    }

    /// They have been told.
    pub fn reloaded(&self) {
        send(&[NotifyState::Ready]);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// The last vassal is gone.
    pub fn buried(&self) {
        send(&[NotifyState::Status("The Emperor is buried.")]);
    }

    /// How often [`Manager::alive`] is to be said: half of what the manager allows. `None` if it does not ask.
    #[must_use]
    pub fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }

    /// The loop turns.
    pub fn alive(&self) {
        send(&[NotifyState::Watchdog]);
    }
}

/// A vassal without an emperor is ready. Its own emperor's `NOTIFY_SOCKET` no vassal is given.
pub fn tell_ready() {
    send(&[NotifyState::Ready]);
}

/// Whether a service manager listens, and how many descriptors it says that it keeps; systemd says so from version
/// 254 on.
#[must_use]
pub fn keeps() -> (bool, Option<usize>) {
    let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
    (listens, std::env::var("FDSTORE").ok().and_then(|number| number.parse().ok()))
}

/// Gives the manager copies of descriptors to keep under a name. It does not say whether it does.
///
/// # Errors
/// It does not listen any more, or the kernel has too many descriptors under way.
pub fn keep(name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    // Without FDPOLL=0 it would drop the process of a vassal that has ended, and nobody would hear of that.
    let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&states, descriptors)
}

/// Has the manager close all that it keeps under a name.
pub fn release(name: &str) {
    send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn send(states: &[NotifyState<'_>]) {
    // The manager may be restarting, or its socket full; the next change is told anew.
    let _ = match abstract_manager() {
        Some(manager) => {
            let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
            let sent = UnixDatagram::unbound();
            sent.and_then(|socket| socket.send_to_addr(lines.as_bytes(), &manager)).map(drop)
        }
        None => sd_notify::notify(states),
    };
}

/// The manager's address where it is an abstract socket, which the crate takes for a path.
fn abstract_manager() -> Option<SocketAddr> {
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    SocketAddr::from_abstract_name(name.as_encoded_bytes().strip_prefix(b"@")?).ok()
}
