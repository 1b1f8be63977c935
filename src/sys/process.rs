//! Facts about and settings of this process that no safe wrapper offers.

use std::io;

/// The soft and hard limit of open descriptors, getrlimit(2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DescriptorLimit {
    /// What counts now.
    pub soft: u64,
    /// Up to where it may be raised without privileges.
    pub hard: u64,
}

impl DescriptorLimit {
    /// The limit in force.
    ///
    /// # Errors
    /// getrlimit(2); none in practice.
    pub fn get() -> io::Result<Self> {
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        Ok(Self { soft, hard })
    }

    /// Puts this limit in force.
    ///
    /// # Errors
    /// `EPERM` when the hard limit rises without CAP_SYS_RESOURCE or beyond `fs.nr_open`.
    pub fn set(self) -> io::Result<()> {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, self.soft, self.hard)?;
        Ok(())
    }
}

/// Gives every signal its default disposition, but for SIGPIPE, which becomes ignored; nothing is blocked.
///
/// What a shell's background job or `nohup` had set would otherwise reach each vassal.
///
/// # Errors
/// sigprocmask(2); none in practice.
pub fn reset_signals() -> io::Result<()> {
    for number in (1..=LAST_SIGNAL).filter(|number| ![libc::SIGKILL, libc::SIGSTOP].contains(number)) {
        let action = if number == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        if number == libc::SIGPIPE || is_ignored(number) {
            set_disposition(number, action)?;
        }
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// The kernel's highest signal. The C library keeps 32 and 33 for itself, and its wrapper would refuse them.
const LAST_SIGNAL: i32 = 64;

/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
type KernelAction = [usize; 4];

fn is_ignored(number: i32) -> bool {
    let mut action: KernelAction = [0; 4];
    let nothing = std::ptr::null::<KernelAction>();
    // SAFETY: reads a disposition into a buffer as large as the kernel's struct, whose mask has 8 bytes.
    let r = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, nothing, &raw mut action, 8) };
    r == 0 && action[0] == libc::SIG_IGN
}

fn set_disposition(number: i32, handler: libc::sighandler_t) -> io::Result<()> {
    let action: KernelAction = [handler, 0, 0, 0];
    let nothing = std::ptr::null_mut::<KernelAction>();
    // SAFETY: the handler is SIG_DFL or SIG_IGN and runs no code; the struct is the kernel's, its mask has 8 bytes.
    let r = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const action, nothing, 8) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives this process a fresh, empty session keyring in place of the one that it has inherited. Where there are no
/// keyrings, or a filter keeps them from us and so from all that we execute, nothing is to be done.
///
/// # Errors
/// `EDQUOT` when this user has too many keys. Source: keyctl_join_session_keyring(3).
pub fn own_keyring() -> io::Result<()> {
    let unnamed = std::ptr::null::<libc::c_char>();
    // SAFETY: two integers and a null pointer, which asks for a keyring without a name.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, unnamed) };
    if r >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => Ok(()),
        _ => Err(error),
    }
}
