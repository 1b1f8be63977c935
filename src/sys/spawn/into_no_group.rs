//! In place of cloning into a control group, where it cannot be written: the child enters by itself.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Child, Stack, Task};

/// Whether this can be done on this architecture.
pub(super) const KNOWN: bool = false;

/// Nothing.
///
/// # Errors
/// Always `ENOSYS`.
pub(super) fn clone(_: &Stack, _: &mut Task<'_>, _: BorrowedFd<'_>) -> io::Result<Child> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
