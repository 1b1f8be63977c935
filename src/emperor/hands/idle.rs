//! Whether a program is of use to anybody: its clients, and what it takes of the processor. And the frost for those
//! that are not.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::socket::{SockaddrStorage, getsockname};
use nix::unistd::{SysconfVar, sysconf};
use tracing::{error, info, warn};

use super::Hands;
use super::on_demand::somebody_waits;
use crate::emperor::court::{Court, Event, Key, Use};
use crate::sys::sock_diag::{Accepted, connections};

/// All connections, as they were a moment ago: vassals are looked at together.
#[derive(Debug, Default)]
pub(super) struct Seen {
    at: Option<Instant>,
    all: Vec<Accepted>,
    told: bool,
}

/// Two looks within so short a time are one.
const SAME: Duration = Duration::from_millis(50);
/// So many processes of a vassal are looked at.
const MOST_PROCESSES: usize = 1024;

impl Hands {
    /// Looks at a program. What cannot be seen counts as use.
    pub(super) fn measure_use(&mut self, key: Key, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        let pid = vassal.pid;
        if self.seen.at.is_none_or(|at| at.elapsed() > SAME) {
            match connections() {
                Ok(all) => self.seen.all = all,
                Err(cause) => {
                    if !std::mem::replace(&mut self.seen.told, true) {
                        warn!(
                            "[emperor] idle programs are not stopped: their connections cannot be seen: {cause}"
                        );
                    }
                    return None;
                }
            }
            self.seen.at = Some(Instant::now());
        }
        let held = self.held.of(key)?;
        let own = held.sockets.iter().flat_map(|sockets| sockets.descriptors());
        let own: Vec<_> = own.chain(held.waiting.as_ref().map(|waiting| waiting.parts().0)).collect();
        let clients = own.iter().any(|socket| somebody_waits(socket) || self.is_connected(*socket));
        // What has not come to rest yet may be serving somebody who is gone by now.
        let clients = clients || vassal.is_frozen() && !self.is_group_frozen(key);
        let cpu_micros = self.group_cpu(key).unwrap_or_else(|| cpu_of_tree(pid));
        Some(Event::Measured(key, Use { clients, cpu_micros }))
    }

    /// Freezes a program, and looks at its sockets in its place.
    pub(super) fn freeze(&mut self, key: Key, court: &Court) -> Option<Event> {
        let name = &court.get(key)?.name;
        if self.cannot_be_found(key) {
            return Some(Event::NotFrozen(key));
        }
        match self.freeze_group(key, true) {
            Ok(()) => {
                info!("[emperor] vassal {name} is idle and frozen; the next connection thaws it");
                self.watch(key);
                None
            }
            Err(cause) => {
                if cause.kind() != io::ErrorKind::Unsupported {
                    warn!(
                        "[emperor] vassal {name} is idle and stopped, because it cannot be frozen: {cause}"
                    );
                }
                let _ = self.freeze_group(key, false);
                Some(Event::NotFrozen(key))
            }
        }
    }

    /// It goes on, and its sockets are its own again.
    pub(super) fn thaw(&mut self, key: Key) {
        self.look_away(key);
        // A group that is gone has nothing in it.
        if let Err(cause) = self.freeze_group(key, false)
            && !matches!(cause.kind(), io::ErrorKind::Unsupported | io::ErrorKind::NotFound)
        {
            error!("[emperor] cannot thaw a vassal: {cause}");
        }
    }

    fn is_connected(&self, listener: BorrowedFd<'_>) -> bool {
        let Ok(name) = getsockname::<SockaddrStorage>(listener.as_raw_fd()) else { return true };
        let v4 = name.as_sockaddr_in().map(|it| (IpAddr::V4(it.ip()), it.port()));
        let tcp = v4.or_else(|| name.as_sockaddr_in6().map(|it| (IpAddr::V6(it.ip()), it.port())));
        if let Some((ip, port)) = tcp {
            return self.seen.all.iter().any(|one| {
                matches!(one, Accepted::Tcp(at) if at.port() == port && (ip.is_unspecified() || at.ip() == ip.to_canonical()))
            });
        }
        let Some(unix) = name.as_unix_addr() else { return true };
        let wanted = unix.path().map_or_else(
            || [&b"\0"[..], unix.as_abstract().unwrap_or_default()].concat(),
            |path| path.as_os_str().as_encoded_bytes().to_vec(),
        );
        let end = wanted.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        self.seen.all.iter().any(|one| matches!(one, Accepted::Unix(at) if *at == wanted[..end]))
    }
}

/// Processor time of a process and all that it has started, microseconds. Source: proc(5), fields 14 to 17.
fn cpu_of_tree(pid: i32) -> u64 {
    let a_second =
        sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|it| u64::try_from(it).ok()).unwrap_or(100);
    let (mut ticks, mut at) = (0_u64, 0);
    let mut pids = vec![pid];
    while let Some(pid) = pids.get(at).copied() {
        at += 1;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        ticks += fields.skip(14 - 3).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        pids.truncate(MOST_PROCESSES);
    }
    ticks.saturating_mul(1_000_000) / a_second.max(1)
}
