//! How many connections wait at a listening socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Connections that wait to be accepted at a TCP socket that listens.
///
/// # Errors
/// `EOPNOTSUPP` for another kind of socket. On a listening socket `tcpi_unacked` is the length of the queue: tcp(7),
/// Linux 2.6.24.
pub fn waiting_at_tcp(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes, the size of the value behind the pointer, and says how many;
    // the rest stays zero, and a struct of integers is valid with any content.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zeroed, and every field is an integer.
    Ok(unsafe { info.assume_init() }.tcpi_unacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn who_waits_is_counted_until_he_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(waiting_at_tcp(listener.as_fd()).unwrap(), 0);
        let _clients = [(); 3].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        assert_eq!(waiting_at_tcp(listener.as_fd()).unwrap(), 3);
        let _one = listener.accept().unwrap();
        assert_eq!(waiting_at_tcp(listener.as_fd()).unwrap(), 2);
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(waiting_at_tcp(unix.as_fd()).is_err());
    }
}
