//! The connections of this network namespace, as the kernel lists them. Source: sock_diag(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The server's end of a connection, by where it was accepted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Accepted {
    /// At this address.
    Tcp(SocketAddr),
    /// At the socket of this name, as the kernel has it.
    Unix(Vec<u8>),
}

/// A socket that listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listening {
    /// The number by which it stands in `/proc/PID/fd`.
    pub inode: u64,
    /// Who has made it.
    pub uid: u32,
    /// Where it listens, as the kernel has it.
    pub place: Accepted,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// How many may wait.
    pub limit: u32,
}

const BY_FAMILY: u16 = 20;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const DUMP_REQUEST: u16 = 0x301;
/// ESTABLISHED, SYN_RECV, CLOSE_WAIT and NEW_SYN_RECV: a client is there.
const OPEN: u32 = 1 << 1 | 1 << 3 | 1 << 8 | 1 << 12;
/// LISTEN.
const LISTEN: u32 = 1 << 10;
const HEADER: usize = 16;

/// All connections that a server's process has not closed. Those that it has not accepted yet are among them if they are
/// TCP's; a unix socket that has such ones is readable.
///
/// # Errors
/// The kernel has no sock_diag (Linux 3.3), or no memory.
pub fn connections() -> io::Result<Vec<Accepted>> {
    let mut found = Vec::new();
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        let mut request = vec![u8::try_from(family).unwrap_or(0), 6, 0, 0]; // IPPROTO_TCP
        request.extend(OPEN.to_ne_bytes());
        request.resize(56, 0);
        dump(&request, &mut |message| found.extend(tcp(message)))?;
    }
    let mut request = vec![1, 0, 0, 0]; // AF_UNIX
    request.extend((1_u32 << 1).to_ne_bytes());
    request.extend([0; 4]);
    request.extend(1_u32.to_ne_bytes()); // UDIAG_SHOW_NAME
    request.extend([0; 8]);
    dump(&request, &mut |message| found.extend(unix(message)))?;
    Ok(found)
}

/// All sockets that listen.
///
/// # Errors
/// The kernel has no sock_diag (Linux 3.3), or no memory.
pub fn listening() -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        let mut request = vec![u8::try_from(family).unwrap_or(0), 6, 0, 0]; // IPPROTO_TCP
        request.extend(LISTEN.to_ne_bytes());
        request.resize(56, 0);
        dump(&request, &mut |message| found.extend(listening_tcp(message)))?;
    }
    let mut request = vec![1, 0, 0, 0]; // AF_UNIX
    request.extend(LISTEN.to_ne_bytes());
    request.extend([0; 4]);
    request.extend((1_u32 | 0x10 | 0x40).to_ne_bytes()); // UDIAG_SHOW_NAME, _RQLEN, _UID (Linux 5.3)
    request.extend([0; 8]);
    dump(&request, &mut |message| found.extend(listening_unix(message)))?;
    Ok(found)
}

fn dump(request: &[u8], each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let kind = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    let link: OwnedFd = socket(AddressFamily::Netlink, kind.0, kind.1, SockProtocol::NetlinkSockDiag)?;
    let length = u32::try_from(HEADER + request.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(DUMP_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    send(link.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buffer = vec![0; 32 << 10];
    loop {
        // The kernel answers such a question while it is asked for the next piece: this never waits.
        let count = recv(link.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let mut rest = &buffer[..count];
        while rest.len() >= HEADER {
            let length = word(rest, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if length < HEADER || length > rest.len() || kind == ERROR {
                return Err(io::Error::other("the kernel does not list its sockets"));
            }
            if kind == DONE {
                return Ok(());
            }
            each(&rest[HEADER..length]);
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `struct inet_diag_msg`.
fn tcp(message: &[u8]) -> Option<Accepted> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let source: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let ip = match i32::from(*message.first()?) {
        nix::libc::AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&source[..4]).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(source)),
    };
    Some(Accepted::Tcp(SocketAddr::new(ip.to_canonical(), port)))
}

/// The same of one that listens: its queue is what is to be read, and its length what may be written.
fn listening_tcp(message: &[u8]) -> Option<Listening> {
    Some(Listening {
        place: tcp(message)?,
        waiting: word(message, 56)?,
        limit: word(message, 60)?,
        uid: word(message, 64)?,
        inode: word(message, 68)?.into(),
    })
}

/// `struct unix_diag_msg`, and its attributes. Only a server's end has a name.
fn unix(message: &[u8]) -> Option<Accepted> {
    let name = attributes(message).find(|(kind, _)| *kind == NAME)?.1;
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    Some(Accepted::Unix(name[..end].to_vec()))
}

fn listening_unix(message: &[u8]) -> Option<Listening> {
    let of = |wanted: u16| attributes(message).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let queue = of(QUEUE);
    Some(Listening {
        place: unix(message).unwrap_or(Accepted::Unix(Vec::new())), // bound to nothing
        waiting: queue.and_then(|value| word(value, 0)).unwrap_or(0),
        limit: queue.and_then(|value| word(value, 4)).unwrap_or(0),
        uid: of(OWNER).and_then(|value| word(value, 0)).unwrap_or(u32::MAX),
        inode: word(message, 4)?.into(),
    })
}

/// Kinds of attributes of a unix socket.
const NAME: u16 = 0;
const QUEUE: u16 = 4;
const OWNER: u16 = 7;

fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(16..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn connections_are_seen_until_the_servers_end_of_them_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = tcp.local_addr().unwrap();
        let wanted = [Accepted::Tcp(address), Accepted::Unix(path.as_os_str().as_bytes().to_vec())];
        let seen = || {
            let all = connections().unwrap();
            wanted.each_ref().map(|one| all.iter().filter(|it| *it == one).count())
        };
        assert_eq!(seen(), [0, 0]);
        let clients = (TcpStream::connect(address).unwrap(), UnixStream::connect(&path).unwrap());
        assert_eq!(seen(), [1, 0], "nobody has accepted them yet");
        let served = (tcp.accept().unwrap(), unix.accept().unwrap());
        assert_eq!(seen(), [1, 1]);
        drop(served);
        assert_eq!(seen(), [0, 0]);
        drop(clients);
    }

    #[test]
    fn queues_and_owners_of_sockets_that_listen_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = tcp.local_addr().unwrap();
        let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        let _client = UnixStream::connect(&path).unwrap();
        let all = listening().unwrap();
        let seen = |fd: std::os::fd::RawFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            let found = all.iter().find(|it| link.to_str() == Some(&format!("socket:[{}]", it.inode)));
            found.unwrap_or_else(|| panic!("{link:?} is not listed"))
        };
        let uid = nix::unistd::geteuid().as_raw();
        let tcp = seen(tcp.as_raw_fd());
        assert_eq!((&tcp.place, tcp.uid, tcp.waiting), (&Accepted::Tcp(address), uid, 2));
        assert!(tcp.limit >= 128, "{tcp:?}");
        let unix = seen(unix.as_raw_fd());
        let name = Accepted::Unix(path.as_os_str().as_bytes().to_vec());
        assert_eq!((&unix.place, unix.uid, unix.waiting), (&name, uid, 1));
        assert!(unix.limit >= 128, "{unix:?}");
    }
}
