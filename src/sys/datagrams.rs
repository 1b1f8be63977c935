//! Datagrams of strangers, with who has sent them and without what they would have us hold.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// A datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// Its length; what is in the buffer.
    pub length: usize,
    /// Whether it was longer than the buffer.
    pub cut: bool,
    /// The user of the process that has sent it, if the socket has `SO_PASSCRED`.
    pub uid: Option<u32>,
}

/// Room for the sender's credentials, and for no descriptor: the kernel closes what finds no room.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// `CMSG_SPACE(sizeof(struct ucred))`: a header of 16 bytes and 12 bytes, in units of 8.
const CONTROL_BYTES: usize = 32;

/// Takes the next datagram; `None` if there is none. Descriptors that come with one never get a number here.
///
/// # Errors
/// recvmsg(2). Source: unix(7), `SCM_RIGHTS`: what does not fit into the ancillary buffer is closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control.0).cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: both buffers are live, and as long as the message says.
    let r = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(length) = usize::try_from(r) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    };
    let cut = message.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Some(Datagram { length, cut, uid: uid(&message) }))
}

fn uid(message: &libc::msghdr) -> Option<u32> {
    // SAFETY: the kernel has filled the control buffer, which lives, and said how much of it.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    let whole = libc::c_uint::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: only computes a length.
    let wanted = unsafe { libc::CMSG_LEN(whole) };
    let is_credentials = header.cmsg_level == libc::SOL_SOCKET
        && header.cmsg_type == libc::SCM_CREDENTIALS
        && header.cmsg_len as usize >= wanted as usize;
    // SAFETY: just checked that a whole `ucred` is there; it may stand at any address.
    is_credentials.then(|| unsafe { libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned().uid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt::PassCred};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_datagram_comes_with_its_sender_and_without_descriptors() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        setsockopt(&ours, PassCred, &true).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive(ours.as_fd(), &mut buffer).unwrap(), None);
        theirs.send(b"READY=1").unwrap();
        let uid = Some(nix::unistd::getuid().as_raw());
        let datagram = Datagram { length: 7, cut: false, uid };
        assert_eq!(receive(ours.as_fd(), &mut buffer).unwrap(), Some(datagram));
        assert_eq!(&buffer[..7], b"READY=1");
        theirs.send(b"0123456789").unwrap();
        assert!(receive(ours.as_fd(), &mut buffer).unwrap().is_some_and(|it| it.cut && it.length == 8));

        // A pipe's end that nobody holds any more is closed: its other end notices.
        let (reader, writer) = std::io::pipe().unwrap();
        let many = [writer.as_raw_fd(); 100];
        let rights = [ControlMessage::ScmRights(&many)];
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(b"FD")], &rights, MsgFlags::empty(), None).unwrap();
        drop(writer);
        assert_eq!(
            receive(ours.as_fd(), &mut buffer).unwrap(),
            Some(Datagram { length: 2, cut: false, uid })
        );
        let mut ended = [PollFd::new(reader.as_fd(), PollFlags::empty())];
        assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)), Ok(1), "somebody holds it");
    }
}
