//! Descriptors: the reserved low numbers, what was inherited by accident, and readiness.
//!
//! Caller: every role's first act ([`reserve`], before any thread or library opens a descriptor), then the
//! emperor's hands.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// Lowest number of a reserved descriptor.
pub const FIRST_SLOT: RawFd = 3;
/// How many consecutive descriptors are reserved.
pub const SLOTS: usize = 4;

/// The descriptors 3 to 6, kept occupied by `/dev/null` so that nothing else can take these numbers.
///
/// A child finds what it is given at one of these numbers; see [`crate::sys::spawn`].
#[derive(Debug)]
pub struct Reserved {
    null: OwnedFd,
}

/// Marks every inherited descriptor from 3 on close-on-exec, moves those that occupy a reserved number out of
/// the way and reserves the numbers.
///
/// `moved` is told the old and the new number of each moved descriptor.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11 (`CLOSE_RANGE_CLOEXEC`, close_range(2)); or `/dev/null`
/// cannot be opened.
pub fn reserve(mut moved: impl FnMut(RawFd, RawFd)) -> io::Result<Reserved> {
    cloexec_from(FIRST_SLOT)?;
    let end = FIRST_SLOT + RawFd::try_from(SLOTS).unwrap_or(RawFd::MAX);
    // The number that opening gives may be a reserved one: it is free again before these are filled.
    let null = dup_above(File::options().read(true).write(true).open("/dev/null")?.as_fd(), end)?;
    for number in FIRST_SLOT..end {
        if is_open(number) {
            // SAFETY: the number is open (just asked) and only borrowed for the duplication.
            let there = unsafe { BorrowedFd::borrow_raw(number) };
            let kept = dup_above(there, end)?;
            moved(number, std::os::fd::IntoRawFd::into_raw_fd(kept));
        }
        place(null.as_fd(), number)?;
    }
    Ok(Reserved { null })
}

impl Reserved {
    /// `/dev/null`, opened for reading and writing.
    #[must_use]
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Puts a copy of `fd` at the reserved number `slot`; the former content is closed.
    ///
    /// # Errors
    /// dup3(2); `EBUSY` when another thread is opening a descriptor at that very moment.
    ///
    /// # Panics
    /// When `slot` is not a reserved number: a mistake in this program.
    pub fn put(&self, slot: RawFd, fd: BorrowedFd<'_>) -> io::Result<()> {
        assert!((FIRST_SLOT..).take(SLOTS).any(|number| number == slot), "descriptor {slot} is not reserved");
        place(fd, slot)
    }

    /// Empties the reserved number `slot`, that is, fills it with `/dev/null` again.
    ///
    /// # Errors
    /// As [`Reserved::put`].
    pub fn clear(&self, slot: RawFd) -> io::Result<()> {
        self.put(slot, self.null())
    }
}

/// Replaces standard input by `/dev/null`, opened for reading and writing, as vassals expect it.
///
/// # Errors
/// dup2(2).
pub fn null_stdin(reserved: &Reserved) -> io::Result<()> {
    // SAFETY: two integers; descriptor 0 belongs to nobody in this program.
    let r = unsafe { libc::dup2(reserved.null.as_raw_fd(), 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes standard output and standard error, where they are files or terminals open for reading as well, open for
/// writing only: who gets them shall not read what others write or type there.
///
/// # Errors
/// The file cannot be opened anew; it stays as it was.
pub fn no_reading_of_output() -> io::Result<()> {
    for number in [1, 2] {
        // SAFETY: reads the flags of a number; an error when it is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
        if flags < 0 || flags & libc::O_ACCMODE != libc::O_RDWR {
            continue;
        }
        let path = format!("/proc/self/fd/{number}");
        let kind = std::fs::metadata(&path)?.file_type();
        if !kind.is_file() && !kind.is_char_device() {
            continue; // a socket has one end only
        }
        let kept = libc::O_NOCTTY | flags & (libc::O_APPEND | libc::O_NONBLOCK);
        let file = File::options().write(true).custom_flags(kept).open(path)?;
        if flags & libc::O_APPEND == 0 && kind.is_file() {
            (&file).seek(io::SeekFrom::End(0))?;
        }
        // SAFETY: two open descriptors; the standard ones belong to nobody in this program.
        let r = unsafe { libc::dup2(file.as_raw_fd(), number) };
        if r < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets close-on-exec on every descriptor numbered `first` or higher.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11. Source: close_range(2).
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: three integers; nothing is closed and no memory of ours is read or written.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor of this process, also those that something here owns. Only for a process that never uses
/// one again, and ends without running anybody's `Drop`; where the kernel is older than Linux 5.9, they stay open.
pub fn close_all() {
    // SAFETY: integers; the caller never touches a descriptor again, so that no owner meets a stranger's number.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
}

/// Takes ownership of a descriptor that came with a message: `SCM_RIGHTS` of unix(7).
///
/// # Panics
/// For a number that is no descriptor's, which the kernel never sends.
#[must_use]
pub fn received(number: RawFd) -> OwnedFd {
    assert!(number >= 0 && is_open(number), "descriptor {number} was not received");
    // SAFETY: it is open (just asked); the kernel has made it for the receiver of the message, who calls this once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Takes ownership of an open descriptor that was handed to this process under a known number.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST_SLOT || !is_open(number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    pass_on(number, false)?;
    // SAFETY: the descriptor is open; it was passed to this process by number, once, for its own use.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The same for one that may have a number to be reserved: it gets another, and the old one is free.
///
/// # Errors
/// As [`adopt`], or no more descriptors.
pub fn adopt_elsewhere(number: RawFd) -> io::Result<OwnedFd> {
    let there = adopt(number)?;
    dup_above(there.as_fd(), FIRST_SLOT + RawFd::try_from(SLOTS).unwrap_or(RawFd::MAX))
}

/// Gives a descriptor a number from `first` on; its old number is free.
///
/// # Errors
/// fcntl(2): `EINVAL` where the limit of descriptors allows none, `EMFILE` where it allows no more.
pub fn move_above(fd: OwnedFd, first: RawFd) -> io::Result<OwnedFd> {
    dup_above(fd.as_fd(), first)
}

/// Gives a descriptor this very number, which must be free: nobody loses what it has. Its old number is free.
///
/// # Errors
/// `EBUSY` where something is open there; dup3(2), such as `EBADF` beyond the limit of descriptors.
pub fn move_to(fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST_SLOT || is_open(number) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    place(fd.as_fd(), number)?;
    // SAFETY: the number was free a moment ago, and the kernel has just filled it, with a copy for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a descriptor standard input as well.
///
/// # Errors
/// dup2(2).
pub fn copy_to_stdin(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor, and number 0, which belongs to nobody in this program.
    let r = unsafe { libc::dup2(fd.as_raw_fd(), 0) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Decides whether a program that takes this process's place finds a descriptor open, under the same number.
///
/// # Errors
/// `EBADF` when nothing is open there.
pub fn pass_on(number: RawFd, yes: bool) -> io::Result<()> {
    let flags = if yes { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: sets one flag of a number, and fails where nothing is open.
    let r = unsafe { libc::fcntl(number, libc::F_SETFD, flags) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a descriptor with this number is open.
#[must_use]
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: reads the flags of a number; EBADF when it is not open.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

fn dup_above(fd: BorrowedFd<'_>, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: duplicates a borrowed descriptor to a free number.
    let r = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this number.
    Ok(unsafe { OwnedFd::from_raw_fd(r) })
}

fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: `number` is one of the reserved ones, which no owner in this program has.
    let r = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits, inside the tokio runtime, for a descriptor that it does not know how to drive: an epoll of our own,
/// a signal pipe.
#[derive(Debug)]
pub struct Readable(tokio::io::unix::AsyncFd<OwnedFd>);

impl Readable {
    /// Takes the descriptor and registers it for reading. Call inside the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2), such as `EPERM` for a plain file.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `OwnedFd` stays open and keeps its number until the `AsyncFd` drops it.
        let registered =
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }

    /// Resolves when the descriptor may be readable; `drain` must then read until it would block. Cancel-safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// How many of the bytes written to a socket its peer has not read yet, with the kernel's own cost of each.
///
/// # Errors
/// ioctl(2), `SIOCOUTQ`.
pub fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one integer to a valid out-pointer.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}
