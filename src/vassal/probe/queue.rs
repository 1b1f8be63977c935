//! Whether somebody accepts at a socket: on one that was bound for the vassal before it runs, every connection succeeds
//! and waits in the queue.
//!
//! The kernel shows a connection that nobody has accepted yet as one without an inode (TCP) or one that is still
//! connecting (unix), to everybody. Source: proc(5), `/proc/net/tcp`, `/proc/net/unix`; measured on Linux 6.1.

use std::fs;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};

use super::{Address, Asker, Stream, is_nothing_yet};
use std::os::unix::ffi::OsStrExt;

/// The first pause between two looks, which doubles up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Waits until somebody has accepted the connection, or answered. One is enough: further ones would fill the queue.
pub(super) fn is_accepted(stream: &Stream, address: &Address, asker: &mut Asker) -> Result<(), String> {
    let mut pause = FIRST_LOOK;
    loop {
        let mut byte = [0];
        let number = std::os::fd::AsFd::as_fd(stream).as_raw_fd();
        match recv(number, &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(_) => return Ok(()), // it has said something, or accepted and hung up
            Err(errno) if is_nothing_yet(errno) => {}
            Err(errno) => return Err(format!("{address} hangs up: {errno}")),
        }
        let waits = match stream {
            Stream::Tcp(stream) => waits_in_tcp(stream),
            Stream::Unix(stream) => waits_in_unix(stream),
        };
        if !waits {
            return Ok(());
        }
        asker.tell(&format!("{address} listens, and nobody accepts"));
        if !asker.goes_on(Some(stream), pause) {
            return Err("nobody wants to know any more".into());
        }
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

/// Whether the other end of a connection is there and nobody's yet.
fn waits_in_tcp(stream: &TcpStream) -> bool {
    let ports = (stream.local_addr(), stream.peer_addr());
    let (Ok(ours), Ok(theirs)) = ports else { return false };
    let (ours, theirs) = (format!(":{:04X}", ours.port()), format!(":{:04X}", theirs.port()));
    let mut waits = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [_, local, remote, _, _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&theirs)
                && remote.ends_with(&ours)
            {
                if inode != "0" {
                    return false;
                }
                waits = true;
            }
        }
    }
    waits
}

/// Whether connections to the same socket are there that are nobody's yet.
fn waits_in_unix(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_addr() else { return false };
    let name = match (peer.as_pathname(), std::os::linux::net::SocketAddrExt::as_abstract_name(&peer)) {
        (Some(path), _) => path.as_os_str().as_bytes().to_vec(),
        (None, Some(name)) => {
            let visible = name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte });
            std::iter::once(b'@').chain(visible).collect()
        }
        (None, None) => return false,
    };
    let Ok(text) = fs::read("/proc/net/unix") else { return false };
    text.split(|byte| *byte == b'\n').any(|line| {
        // Number, references, protocol, flags, type, state, inode, and what may hold blanks.
        let mut rest = line;
        let mut state = &b""[..];
        for field in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            if field == 5 {
                state = &rest[..end];
            }
            rest = &rest[end..];
        }
        state == CONNECTING && rest.strip_prefix(b" ").unwrap_or(rest) == name
    })
}

/// `SS_CONNECTING` of `linux/net.h`.
const CONNECTING: &[u8] = b"02";
