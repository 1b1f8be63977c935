//! Process 1 of a vassal's pid namespace: hands on signals, reaps what is orphaned, ends as its program ends.
//!
//! Caller: the launcher, which is that process and makes another one to become the program. What stays behind holds no
//! descriptor, no capability but the one for signals, and next to no memory; when it ends, the kernel kills whatever is
//! left in the namespace.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use crate::sys::wait::{self, Ending};
use crate::sys::{alone, caps, fds, memory};

/// CAP_KILL: the program may have become another user.
const KILL: u64 = 1 << 5;

/// How process 1, or a subreaper, goes about its life.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// `emperor-die-together`.
    pub die_with_emperor: bool,
}

/// Makes the process that becomes the program, and returns there. It leads a session of its own, so that a signal to
/// its group reaches neither process 1 nor the emperor. Signals that have come since the start reach it as well.
pub(super) fn leave_behind(init: Init, link: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other("it is not process 1 of a pid namespace"));
    }
    fork_off(|program, signals| stay(init, link, program, signals))
}

/// Makes the process that becomes the program, and returns there, in a session of its own. Here `stay` runs, with all
/// signals held back, and gives the status to end with.
pub(super) fn fork_off(stay: impl FnOnce(Pid, &SigSet) -> i32) -> io::Result<()> {
    let everything = SigSet::all();
    let before = everything.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    match alone::fork() {
        Err(error) => {
            before.thread_set_mask()?;
            Err(error)
        }
        Ok(None) => {
            setsid()?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        }
        Ok(Some(program)) => std::process::exit(stay(program, &everything)),
    }
}

/// The rest of the life of process 1; gives the status to end with.
fn stay(init: Init, link: Option<BorrowedFd<'_>>, program: Pid, signals: &SigSet) -> i32 {
    // Not of the emperor's session or group: who signals those means the emperor.
    let _ = setsid();
    renounce(c"emperor-init", KILL);
    if init.die_with_emperor && !dies_with_emperor(link, Signal::SIGKILL) {
        return 128 + Signal::SIGKILL as i32;
    }
    fds::close_all();
    let _ = std::env::set_current_dir("/");
    let _ = memory::give_back();
    loop {
        match wait::next_signal(signals) {
            Ok(number) if number == Signal::SIGCHLD as i32 => {
                if let Some(status) = reap(program) {
                    return status;
                }
            }
            // It may have ended: then SIGCHLD is the next.
            Ok(number) => wait::hand_on(program.as_raw(), number),
            Err(_) => {} // EINTR: stopped and continued
        }
    }
}

/// Gives up what could be of use to somebody in the vassal, but for these powers. Nothing here can fail for a reason
/// that matters.
pub(super) fn renounce(name: &CStr, powers: u64) {
    let _ = prctl::set_name(name);
    let _ = prctl::set_dumpable(false);
    let _ = caps::bound(0);
    let _ = caps::keep_for_ourselves(powers).or_else(|_| caps::clear_all());
    let _ = prctl::set_no_new_privs();
}

/// Whether the emperor is alive and will take us along, by this signal.
pub(super) fn dies_with_emperor(link: Option<BorrowedFd<'_>>, signal: Signal) -> bool {
    let asked = prctl::set_pdeathsig(signal).is_ok();
    let peek =
        |link: BorrowedFd<'_>| recv(link.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    asked && link.is_none_or(|link| matches!(peek(link), Ok(1..) | Err(Errno::EAGAIN)))
}

/// Reaps all that has ended. The status of the program, if it is among them: a death by signal is 128 and the
/// signal's number, because process 1 cannot die of it.
pub(super) fn reap(program: Pid) -> Option<i32> {
    while let Ok(Some((pid, ending))) = wait::reap_any() {
        if pid == program.as_raw() {
            return Some(match ending {
                Ending::Exited(status) => status.into(),
                Ending::Killed(number) => 128 + i32::from(number),
                Ending::Unknown => 255,
            });
        }
    }
    None
}
