//! The end of a process, read through its pidfd: that of a child, and of one that has lost its parent to us.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ending {
    /// It exited with this status.
    Exited(u8),
    /// A signal with this number killed it.
    Killed(u8),
    /// It is no child of ours, and the kernel does not tell us.
    Unknown,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed(number) => match nix::sys::signal::Signal::try_from(i32::from(*number)) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Unknown => f.write_str("ended, and only its parent was told how"),
        }
    }
}

/// Reaps the child behind a pidfd; `None` while it lives. One that is not a child of ours is looked at only: somebody
/// else reaps it.
///
/// # Errors
/// `EBADF`; no other in practice. Source: waitid(2), `P_PIDFD`, Linux 5.4.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
    wait(pidfd, libc::WNOHANG)
}

/// How the child behind a pidfd has ended, which stays to be reaped; `None` while it lives.
///
/// # Errors
/// As [`reap`].
pub fn peek(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
    wait(pidfd, libc::WNOHANG | libc::WNOWAIT)
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
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { look(pidfd) } else { Err(error) };
    }
    // SAFETY: waitid filled the child fields, or left them zero when nothing has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let number = u8::try_from(status & 0xff).unwrap_or(u8::MAX);
    Ok(Some(if info.si_code == libc::CLD_EXITED { Ending::Exited(number) } else { Ending::Killed(number) }))
}

/// Reaps some child that has ended, with its process id; `None` if all live. Only for a process whose children are
/// nobody else's business, such as process 1.
///
/// # Errors
/// `ECHILD`: there is no child. Source: wait(2).
pub fn reap_any() -> io::Result<Option<(i32, Ending)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid out-pointer for the duration of the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ if libc::WIFSIGNALED(status) => Ok(Some((pid, Ending::Killed(byte(libc::WTERMSIG(status)))))),
        _ => Ok(Some((pid, Ending::Exited(byte(libc::WEXITSTATUS(status)))))),
    }
}

/// Waits for one of these signals, which must be blocked, and takes it. Its number may be a real-time signal's.
///
/// # Errors
/// `EINTR`: this process was stopped and goes on. Source: sigwaitinfo(2).
pub fn next_signal(signals: &nix::sys::signal::SigSet) -> io::Result<i32> {
    // SAFETY: a valid set, and no wish to know more than the number.
    let number = unsafe { libc::sigwaitinfo(signals.as_ref(), std::ptr::null_mut()) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// Sends a signal of any number to a child; to one that has ended, nothing is sent.
pub fn hand_on(child: i32, number: i32) {
    // SAFETY: two integers. The caller has not reaped the child, so the id is nobody else's.
    unsafe { libc::kill(child, number) };
}

/// How a process that is not our child has ended; `None` while it lives.
fn look(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
    let mut ready = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry; returns at once.
    let r = unsafe { libc::poll(&raw mut ready, 1, 0) };
    match r {
        0 => Ok(None),
        1.. => Ok(Some(exit_of(pidfd))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first version of `struct pidfd_info` of `linux/pidfd.h`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    /// Process, thread group and parent, then four pairs of user and group.
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// `PIDFD_INFO_EXIT`: how it ended, once somebody has reaped it. Linux 6.15.
const INFO_EXIT: u64 = 1 << 3;

fn exit_of(pidfd: BorrowedFd<'_>) -> Ending {
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the size in the request is that of the struct, which outlives the call.
    let r = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    let code = if r == 0 && info.mask & INFO_EXIT != 0 { Some(info.exit_code) } else { zombies_code(pidfd) };
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match code.map(|code| (code & 0x7f, code >> 8)) {
        None => Ending::Unknown,
        Some((0, status)) => Ending::Exited(byte(status)),
        Some((signal, _)) => Ending::Killed(byte(signal)),
    }
}

/// The same of one that its parent has not reaped yet, where we may trace it. Source: proc(5), `/proc/PID/stat`, field
/// 52, Linux 3.5.
fn zombies_code(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let pid = pid_of(pidfd).ok().flatten().filter(|pid| *pid > 0)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    (fields.next()? == "Z").then(|| fields.nth(52 - 4)?.parse().ok())?
}

/// When a process started, in the kernel's own unit; with its id, that tells it from every other of this boot.
///
/// # Errors
/// It is no more. Source: proc(5), `/proc/PID/stat`, field 22.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest); // the second, a name, may hold anything
    let field = fields.split_whitespace().nth(22 - 3).and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A pidfd of the process with this id, if it is still the one that started then.
///
/// # Errors
/// No more descriptors. Source: pidfd_open(2), Linux 5.3.
pub fn open(pid: i32, started: u64) -> io::Result<Option<OwnedFd>> {
    // SAFETY: two integers; the result is a fresh descriptor, or negative.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Some(number) = RawFd::try_from(r).ok().filter(|number| *number >= 0) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    };
    // SAFETY: the kernel has just given us this number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(number) };
    // Asked after it was opened: if the id has become another process's since, the time is that one's.
    Ok(start_time(pid).is_ok_and(|time| time == started).then_some(pidfd))
}

/// The process that a descriptor stands for, -1 if that is gone for good; `None` if the descriptor is no pidfd.
///
/// # Errors
/// `/proc` is not there. Source: proc(5), `/proc/PID/fdinfo`, Linux 5.2.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    Ok(text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()))
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

/// Whether the process behind a pidfd is a child of ours that was not reaped yet, alive or not.
#[must_use]
pub fn is_our_child(pidfd: BorrowedFd<'_>) -> bool {
    let Ok(id) = u32::try_from(pidfd.as_raw_fd()) else { return false };
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid out-pointer for the duration of the call, which leaves the child as it is.
    unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, how) == 0 }
}

/// Kills the process group that a child of ours leads. Only while that child is not reaped: until then no other group
/// can have its number.
pub fn kill_group(leader: i32) {
    if leader > 1 {
        // It may have ended by itself; its group is empty then.
        let _ =
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    #[test]
    fn the_end_of_somebody_elses_child_is_seen_and_how_it_ended_where_the_kernel_tells() {
        for (end, ending) in [("exit 7", Ending::Exited(7)), ("kill -9 $$", Ending::Killed(9))] {
            let (theirs, ours) = std::io::pipe().unwrap();
            let script = format!("exec 3<&0; sh -c 'read line; {end}' <&3 & echo $!; wait $!");
            let mut parent = Command::new("sh");
            parent.args(["-c", &script]).stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut parent = parent.spawn().unwrap();
            let mut output = BufReader::new(parent.stdout.take().unwrap());
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let pid: i32 = line.trim().parse().unwrap();
            let started = start_time(pid).unwrap();
            assert!(open(pid, started + 1).unwrap().is_none());
            let pidfd = open(pid, started).unwrap().unwrap();
            assert_eq!(reap(pidfd.as_fd()).unwrap(), None);
            assert_eq!(pid_of(pidfd.as_fd()).unwrap(), Some(pid));
            drop(ours);
            let mut ended = [libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: one valid entry.
            unsafe { libc::poll(ended.as_mut_ptr(), 1, -1) };
            let seen = reap(pidfd.as_fd()).unwrap();
            assert!(seen == Some(ending) || seen == Some(Ending::Unknown), "{seen:?}");
            output.read_to_end(&mut Vec::new()).unwrap();
            parent.wait().unwrap();
            let seen = reap(pidfd.as_fd()).unwrap();
            assert!(seen == Some(ending) || seen == Some(Ending::Unknown), "{seen:?}");
            assert_eq!(pid_of(pidfd.as_fd()).unwrap(), Some(-1));
            assert_eq!(pid_of(output.get_ref().as_fd()).unwrap(), None);
        }
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }
}
