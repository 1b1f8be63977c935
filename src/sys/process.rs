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
    for number in 1..=64 {
        let keep = [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS];
        if keep.contains(&number) {
            continue;
        }
        let action = if number == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: sets a disposition that runs no code of ours; EINVAL for the C library's own two signals.
        unsafe { libc::signal(number, action) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}
