//! The scheduling priority of this process.

use std::io;

/// Sets the nice value, −20 (most urgent) to 19, of the calling thread and of all that it starts.
///
/// # Errors
/// `EACCES` for a lower value than the present one without CAP_SYS_NICE. Source: setpriority(2).
pub fn set(nice: impl Into<i32>) -> io::Result<()> {
    // SAFETY: three integers.
    let r = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The nice value of the calling thread.
#[must_use]
pub fn get() -> i8 {
    // SAFETY: two integers. An error cannot be told from −1, and there is none for the caller itself.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    i8::try_from(nice).unwrap_or_default()
}
