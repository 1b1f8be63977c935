//! What stays of a launcher without an emperor, whose vassal has process ids of its own: the process that the service
//! manager knows. It hands on signals, and ends as process 1 of the namespace ends.
//!
//! Caller: `emperor vassal OPTIONS`, while it has one thread and before it executes the launcher.

use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getppid};

use super::init;
use crate::sys::wait;
use crate::sys::{alone, fds, memory};

/// CAP_KILL: the program may become another user, and process 1 with it.
const KILL: u64 = 1 << 5;

/// Returns in process 1 of a new pid namespace, with all signals held back for the program; it is killed should what
/// stays behind be.
///
/// # Errors
/// Such a namespace is not for us, or no process can be made.
pub fn leave_behind() -> io::Result<()> {
    let everything = SigSet::all();
    let before = everything.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    match unshare(CloneFlags::CLONE_NEWPID).map_err(io::Error::from).and_then(|()| alone::fork()) {
        Err(error) => {
            before.thread_set_mask()?;
            Err(error)
        }
        Ok(None) => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // From in here, a parent outside has no number; one that is gone has another.
            if getppid() == Pid::from_raw(0) { Ok(()) } else { Err(io::Error::other("its keeper is gone")) }
        }
        Ok(Some(first)) => std::process::exit(stay(first, &everything)),
    }
}

/// Gives the status to end with.
fn stay(first: Pid, signals: &SigSet) -> i32 {
    init::renounce(c"emperor-keeper", KILL);
    fds::close_all();
    let _ = std::env::set_current_dir("/");
    let _ = memory::give_back();
    loop {
        match wait::next_signal(signals) {
            Ok(number) if number == Signal::SIGCHLD as i32 => {
                if let Some(status) = init::reap(first) {
                    return status;
                }
            }
            Ok(number) => wait::hand_on(first.as_raw(), number),
            Err(_) => {} // EINTR: stopped and continued
        }
    }
}
