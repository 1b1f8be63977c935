//! The end of a child, read through its pidfd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ending {
    /// It exited with this status.
    Exited(u8),
    /// A signal with this number killed it.
    Killed(u8),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed(number) => match nix::sys::signal::Signal::try_from(i32::from(*number)) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// Reaps the child behind a pidfd; `None` while it lives.
///
/// # Errors
/// `ECHILD` when it is not a child of ours, or was reaped before. Source: waitid(2), `P_PIDFD`, Linux 5.4.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
    wait(pidfd, libc::WNOHANG)
}

/// Waits for the end of the child behind a pidfd, which must be at hand, and reaps it.
///
/// # Errors
/// As [`reap`].
pub fn reap_ending(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    wait(pidfd, 0).map(drop)
}

fn wait(pidfd: BorrowedFd<'_>, how: libc::c_int) -> io::Result<Option<Ending>> {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = u32::try_from(pidfd.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: `info` is a valid out-pointer for the duration of the call.
    let r = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | how) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the child fields, or left them zero when nothing has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let number = u8::try_from(status & 0xff).unwrap_or(u8::MAX);
    Ok(Some(if info.si_code == libc::CLD_EXITED { Ending::Exited(number) } else { Ending::Killed(number) }))
}

/// Sends a signal to the process behind a pidfd: never to one that has taken over its number.
///
/// # Errors
/// `ESRCH` when it has ended, `EPERM`. Source: pidfd_send_signal(2), Linux 5.1.
pub fn signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a descriptor, an integer and a null pointer, which the kernel takes as «like kill(2)».
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A child that has ended and is not reaped yet, if there is one. It stays so.
#[must_use]
pub fn peek_ended() -> Option<i32> {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid out-pointer for the duration of the call.
    let r = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, how) };
    // SAFETY: waitid filled the child fields, or left them zero when nothing has ended.
    let pid = unsafe { info.si_pid() };
    (r == 0 && pid > 0).then_some(pid)
}

/// Reaps a child that has ended, whatever its end.
pub fn reap_pid(pid: i32) {
    // A child that is not ours any more has been reaped by somebody; there is nothing to do about it.
    let _ =
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
}
