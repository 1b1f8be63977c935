//! The queues of programs that may have reinforcements: how many clients wait, once a second, for as long as such a
//! program runs. What follows is the court's to decide.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use tracing::warn;

use super::Hands;
use crate::emperor::court::{Court, Event, Key, Scale, State, Vassal};
use crate::sys::queue::waiting_at_tcp;
use crate::vassal::terms::Terms;

/// How often it is looked: as often as uWSGI does for its own.
const EVERY: Duration = Duration::from_secs(1);

/// Whose queues are looked at.
#[derive(Debug, Default)]
pub(super) struct Queues {
    scales: std::collections::BTreeMap<Key, Scale>,
    next: Option<Instant>,
    diag: Option<OwnedFd>,
    told: bool,
}

impl Hands {
    /// Looks at the queues of a vassal from now on if its file says so; reinforcements serve their base's.
    pub(super) fn watch_queues(&mut self, key: Key, vassal: &Vassal, terms: Option<&Terms>) {
        let terms =
            terms.filter(|terms| terms.program.is_some() && (vassal.zerg.is_none() || vassal.is_successor()));
        match terms.map(|terms| terms.scale).filter(|scale| scale.max > 1) {
            Some(scale) => self.scale_again(
                key,
                Scale {
                    max: scale.max,
                    backlog: scale.backlog,
                    cooldown: Duration::from_secs(scale.cooldown.into()),
                },
            ),
            None => drop(self.queues.scales.remove(&key)),
        }
    }

    /// The same, where another program of ours did.
    pub(super) fn scale_again(&mut self, key: Key, scale: Scale) {
        self.queues.scales.insert(key, scale);
        self.queues.next.get_or_insert_with(|| Instant::now() + EVERY);
    }

    /// How a vassal may be reinforced.
    pub(super) fn scale_of(&self, key: Key) -> Option<Scale> {
        self.queues.scales.get(&key).copied()
    }

    /// Nobody waits for it any more.
    pub(super) fn forget_queues(&mut self, key: Key) {
        self.queues.scales.remove(&key);
    }

    pub(super) fn queues_timeout(&self) -> Option<Instant> {
        self.queues.next
    }

    /// Looks at the queues, if it is time. Without such a program that runs, it is not time before one starts.
    pub(super) fn look_at_queues(&mut self, now: Instant, court: &Court, events: &mut Vec<Event>) {
        if self.queues.next.is_none_or(|at| at > now) {
            return;
        }
        let runs = |key: &Key| court.get(*key).is_some_and(|it| it.state == State::Up && it.pid > 0);
        let known: Vec<_> = self.queues.scales.iter().map(|(key, scale)| (*key, *scale)).collect();
        let running: Vec<_> = known.into_iter().filter(|(key, _)| runs(key)).collect();
        self.queues.next = (!running.is_empty()).then(|| now + EVERY);
        for (key, scale) in running {
            match self.longest_queue(key) {
                Ok(waiting) => events.push(Event::Queue { key, waiting, scale }),
                Err(cause) => {
                    if !std::mem::replace(&mut self.queues.told, true) {
                        warn!(
                            "[emperor] cannot see how many wait at a socket, and call no reinforcements: {cause}"
                        );
                    }
                }
            }
        }
        // Those that do not run now are looked at again from their next start on.
    }

    fn longest_queue(&mut self, key: Key) -> io::Result<u32> {
        let mut longest = 0;
        let mut unix = Vec::new();
        for (socket, ()) in self.held_sockets(key, &[], |_| ()) {
            match waiting_at_tcp(socket) {
                Ok(waiting) => longest = longest.max(waiting),
                Err(_) => unix.push(inode(socket)?),
            }
        }
        for inode in unix {
            let diag = match &self.queues.diag {
                Some(diag) => diag,
                None => self.queues.diag.insert(open()?),
            };
            longest = longest.max(waiting_at_unix(diag, inode)?);
        }
        Ok(longest)
    }
}

/// The kernel's number of a socket.
fn inode(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let there = nix::sys::stat::fstat(socket)?;
    u32::try_from(there.st_ino).map_err(io::Error::other)
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, Some(SockProtocol::NetlinkSockDiag))?)
}

/// Numbers of sock_diag(7), Linux 3.3, and netlink(7).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_RQLEN: u16 = 4;
const AF_UNIX: u8 = 1;
/// Bytes of a header, of a question, and of what an answer begins with.
const HEADER: usize = 16;
const QUESTION: usize = 24;
const ANSWER: usize = 16;

/// Connections that wait at the unix socket of this number. The kernel answers before the question returns.
fn waiting_at_unix(diag: &OwnedFd, inode: u32) -> io::Result<u32> {
    let length = u32::try_from(HEADER + QUESTION).unwrap_or(0);
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]); // sequence and sender
    question.extend([AF_UNIX, 0, 0, 0]);
    // Any state, this socket, its queue, whatever its cookie.
    for word in [u32::MAX, inode, UDIAG_SHOW_RQLEN, u32::MAX, u32::MAX] {
        question.extend(word.to_ne_bytes());
    }
    sendto(diag.as_raw_fd(), &question, &NetlinkAddr::new(0, 0), MsgFlags::MSG_DONTWAIT)?;
    let mut answer = [0; 1024];
    let length = recv(diag.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    read_answer(&answer[..length], inode)
}

fn read_answer(answer: &[u8], inode: u32) -> io::Result<u32> {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes)
    };
    let half = |at: usize| {
        let bytes = answer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u16::from_ne_bytes)
    };
    let odd = || io::Error::other("the kernel's answer about a socket makes no sense");
    if half(4) != Some(SOCK_DIAG_BY_FAMILY) {
        // An error message: its number, negative.
        let errno = word(HEADER).map(u32::cast_signed).filter(|errno| *errno < 0);
        return Err(errno.map_or_else(odd, |errno| io::Error::from_raw_os_error(-errno)));
    }
    if word(HEADER + 4) != Some(inode) {
        return Err(odd());
    }
    let mut at = HEADER + ANSWER;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == UNIX_DIAG_RQLEN {
            return word(at + 4).ok_or_else(odd);
        }
        at += usize::from(length.max(4)).next_multiple_of(4);
    }
    Err(odd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn who_waits_at_a_unix_socket_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let number = inode(listener.as_fd()).unwrap();
        let Ok(diag) = open() else { return }; // no netlink in this sandbox
        let wait = || waiting_at_unix(&diag, number);
        if wait().is_err_and(|error| error.raw_os_error() == Some(nix::libc::ENOENT)) {
            return; // a kernel without unix_diag
        }
        assert_eq!(wait().unwrap(), 0);
        let _clients = [(); 3].map(|()| UnixStream::connect(dir.path().join("s")).unwrap());
        assert_eq!(wait().unwrap(), 3);
        let _one = listener.accept().unwrap();
        assert_eq!(wait().unwrap(), 2);
        drop(listener);
        assert!(wait().is_err());
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        for length in 0..64 {
            assert!(read_answer(&vec![0; length], 7).is_err());
            assert!(read_answer(&vec![20; length], 7).is_err());
        }
    }
}
