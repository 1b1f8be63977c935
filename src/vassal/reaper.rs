//! The subreaper of a vassal for which there is no control group: whatever the vassal leaves behind ends with it.
//!
//! Caller: the launcher, which becomes the subreaper and makes another process to become the program. What stays behind
//! is to the emperor what the program is: it hands on signals and ends as the program ends, after it has killed all that
//! has lost its parent to it. It outlives an emperor that dies, and is the next one's vassal. Only SIGKILL cannot be
//! handed on; the emperor sends [`END_ALL`] in its place.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, alarm, setsid};

use super::init::{self, Init};
use super::link::END_ALL;
use crate::sys::wait::{self, Ending};
use crate::sys::{fds, memory};

/// Killed processes are gone within milliseconds. What takes longer hangs in the kernel, and is left to process 1.
const ENDING_SECONDS: u32 = 2;
/// CAP_KILL, and CAP_SYS_PTRACE: who has lost its parent may be another user, and be hidden in /proc from others.
const POWERS: u64 = 1 << 5 | 1 << 19;

/// Makes the process that becomes the program, and returns there. It leads a session of its own, and dies should the
/// subreaper be killed: nobody would know of it any more.
pub(super) fn leave_behind(wanted: Init, link: Option<BorrowedFd<'_>>) -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    init::fork_off(|program, signals| stay(wanted, link, program, signals))
}

/// The rest of the life of the subreaper; gives the status to end with.
fn stay(wanted: Init, link: Option<BorrowedFd<'_>>, program: Pid, signals: &SigSet) -> i32 {
    let _ = setsid(); // it leads one already, if this is a `command`
    init::renounce(c"emperor-reaper", POWERS);
    if wanted.die_with_emperor && !init::dies_with_emperor(link, END_ALL) {
        wait::hand_on(program.as_raw(), Signal::SIGKILL as i32);
    }
    fds::close_all();
    let _ = std::env::set_current_dir("/");
    let _ = memory::give_back();
    loop {
        match wait::next_signal(signals) {
            Ok(number) if number == Signal::SIGCHLD as i32 => {
                if let Some(status) = init::reap(program) {
                    end_rest(signals);
                    return status;
                }
            }
            Ok(number) if number == END_ALL as i32 => {
                wait::hand_on(program.as_raw(), Signal::SIGKILL as i32);
            }
            // It may have ended: then SIGCHLD is the next.
            Ok(number) => wait::hand_on(program.as_raw(), number),
            Err(_) => {} // EINTR: stopped and continued
        }
    }
}

/// Kills all children, and those that lose their parents to us by that, until there are none.
fn end_rest(signals: &SigSet) {
    alarm::set(ENDING_SECONDS);
    loop {
        // Nobody but us reaps them: none of these numbers can have become somebody else's.
        for child in children() {
            wait::hand_on(child, Signal::SIGKILL as i32);
        }
        loop {
            match wait::reap_any() {
                Ok(Some((_, Ending::Exited(_) | Ending::Killed(_) | Ending::Unknown))) => {}
                Ok(None) => break,
                Err(_) => return, // ECHILD: no one is left
            }
        }
        if wait::next_signal(signals).is_ok_and(|number| number == Signal::SIGALRM as i32) {
            return;
        }
    }
}

/// The processes whose parent this is. Source: proc(5), `/proc/PID/stat`, field 4; `/proc/PID/task/TID/children` is not
/// in every kernel.
fn children() -> Vec<i32> {
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The second field, a name, may hold anything.
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(4 - 3)) == Some(own.as_str())
    };
    pids.filter(is_child).collect()
}
