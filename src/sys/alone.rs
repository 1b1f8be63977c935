//! What only a process with a single thread may do: change its environment, fork without exec, speak when an alarm ends
//! it.
//!
//! Caller: the launcher, and the emperor before its loop and its watcher start. Each function asks the kernel
//! whether this is the only thread, and refuses otherwise; so they are safe to call from anywhere.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, getpid, getppid};

/// Sets a variable of this process's environment.
///
/// # Errors
/// `InvalidInput` for a name that is empty or holds `=` or NUL, or a value with NUL; `Other` with threads.
pub fn set_variable(name: &OsStr, value: &OsStr) -> io::Result<()> {
    check_name(name)?;
    if value.as_bytes().contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    must_be_alone()?;
    // SAFETY: we are the only thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
    Ok(())
}

/// Removes a variable from this process's environment.
///
/// # Errors
/// As [`set_variable`].
pub fn remove_variable(name: &OsStr) -> io::Result<()> {
    check_name(name)?;
    must_be_alone()?;
    // SAFETY: we are the only thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Ok(())
}

/// Removes every variable.
///
/// # Errors
/// With threads.
pub fn clear_environment() -> io::Result<()> {
    must_be_alone()?;
    // SAFETY: we are the only thread, so nobody reads the environment meanwhile.
    if unsafe { libc::clearenv() } == 0 { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
}

/// Makes a copy of this process: `None` in the copy, its process id in the original.
///
/// # Errors
/// fork(2), such as `EAGAIN` at a limit; `Other` with threads, whose locks the copy would inherit.
pub fn fork() -> io::Result<Option<Pid>> {
    must_be_alone()?;
    // SAFETY: we are the only thread, so no lock is held by one that the copy lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(None),
        ForkResult::Parent { child } => Ok(Some(child)),
    }
}

/// The command will be killed when the thread that starts it dies.
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = getpid();
    let tie = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec `tie` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// These bytes are written to standard error when SIGALRM comes, which then ends this process as it would have before.
/// The last ones given hold.
///
/// # Errors
/// sigaction(2), none in practice; `Other` with threads.
pub fn last_words(words: Vec<u8>) -> io::Result<()> {
    must_be_alone()?;
    // Never given back: the handler may be reading them at any time.
    LAST_WORDS.store(Box::leak(Box::new(words)), Ordering::Release);
    let flags = SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::Handler(speak), flags, SigSet::empty());
    // SAFETY: `speak` makes only calls that signal-safety(7) allows, and reads what nobody changes.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    Ok(())
}

static LAST_WORDS: AtomicPtr<Vec<u8>> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn speak(signal: libc::c_int) {
    // SAFETY: null, or a vector that was leaked and is never changed.
    if let Some(words) = unsafe { LAST_WORDS.load(Ordering::Acquire).as_ref() } {
        // SAFETY: the bytes of a living vector. Should nobody take them, they are lost.
        unsafe { libc::write(libc::STDERR_FILENO, words.as_ptr().cast(), words.len()) };
    }
    // SAFETY: an integer. By now (SA_RESETHAND) the signal has its own effect again, as soon as we return.
    unsafe { libc::raise(signal) };
}

fn check_name(name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    let wrong = name.is_empty() || name.contains(&b'=') || name.contains(&0);
    if wrong { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a variable's name")) } else { Ok(()) }
}

fn must_be_alone() -> io::Result<()> {
    let alone = match unshare(CloneFlags::CLONE_THREAD) {
        // unshare(2): CLONE_THREAD has no effect, but fails when there is more than one thread.
        Ok(()) => true,
        Err(Errno::EINVAL) => false,
        Err(_) => count_threads()? == 1, // a container's filter may forbid unshare
    };
    if alone { Ok(()) } else { Err(io::Error::other("not while there are other threads")) }
}

fn count_threads() -> io::Result<usize> {
    std::fs::read_dir("/proc/self/task")?.try_fold(0, |count, entry: io::Result<_>| entry.map(|_| count + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_changed_while_there_are_threads() {
        // A test runs in a thread of its own, beside the main one.
        assert!(set_variable(OsStr::new("EMPEROR_TEST"), OsStr::new("1")).is_err());
        assert!(fork().is_err());
        assert!(count_threads().unwrap() > 1);
    }

    #[test]
    fn names_that_would_corrupt_the_environment_are_refused() {
        for name in ["", "A=B", "A\0"] {
            assert_eq!(check_name(OsStr::new(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
