//! What a service manager has written about a control group.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether the service manager has left the tree below this group to its processes (`Delegate=`). It says so in an
/// extended attribute: `trusted.delegate`, which only root can read, and since systemd 251 `user.delegate`.
///
/// Source: systemd's documentation of control group delegation; fgetxattr(2).
#[must_use]
pub fn is_delegated(group: BorrowedFd<'_>) -> bool {
    [c"user.delegate", c"trusted.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 8];
        // SAFETY: an open descriptor, a C string and a buffer with its own length, all alive during the call.
        let read = unsafe {
            libc::fgetxattr(group.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        usize::try_from(read).is_ok_and(|length| value.get(..length) == Some(&b"1"[..]))
    })
}

/// How much memory this machine has, bytes.
///
/// # Errors
/// sysinfo(2); none in practice.
pub fn memory_bytes() -> io::Result<u64> {
    // SAFETY: all-zero bytes are a valid struct sysinfo.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid out-pointer for the duration of the call.
    let r = unsafe { libc::sysinfo(&raw mut info) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(info.totalram * u64::from(info.mem_unit)) }
}
