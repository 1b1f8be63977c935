//! The loopback device of a fresh network namespace, which is down at first.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `IFF_UP`, in the width of the field.
const UP: libc::c_short = 1;

/// Brings the loopback device up.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over the network namespace. Source: netdevice(7), `SIOCSIFFLAGS`.
pub fn bring_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a struct of integers and byte arrays, for which all zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request reads the name and writes the flags of a valid struct.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the last call has filled this member of the union in.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | UP;
    // SAFETY: the request reads name and flags of a valid struct.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
