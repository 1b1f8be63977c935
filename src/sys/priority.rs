//! The scheduling priority of this process.

use std::io;

/// Sets the nice value, −20 (most urgent) to 19, of the calling thread and of all that it starts.
///
/// # Errors
/// `EACCES` for a lower value than the present one without CAP_SYS_NICE. Source: setpriority(2).
pub fn set(nice: i32) -> io::Result<()> {
    // SAFETY: three integers.
    let r = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
