//! The terminal behind a descriptor.

use std::os::fd::AsFd;

/// How many columns it has; `None` if it is no terminal, or does not say. Source: ioctl_tty(2), `TIOCGWINSZ`.
#[must_use]
pub fn columns(fd: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}
