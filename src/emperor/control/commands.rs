//! `emperor-command-socket`: one-way commands in uwsgi packets, as uWSGI 2.1 takes them, over a unix socket.
//!
//! A datagram has no answer. Who has sent it, the kernel says (`SCM_CREDENTIALS`), and he may do what he may do over the
//! control socket. Source: spec/emperor.md 12; unix(7).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::PassCred};
use tracing::{info, warn};

use super::{Asked, ControlError, Peer, Route};
use crate::emperor::court::Wish;
use crate::emperor::log;
use crate::emperor::source::VassalName;
use crate::sys::datagrams;
use crate::sys::fds::Readable;
use crate::vassal::socket::{SocketFile, clear_the_way, with_mode};

/// The longest packet: a header and what its length can say.
const MOST_BYTES: usize = 4 + u16::MAX as usize;

/// The longest line of somebody's that is logged.
const MOST_LINE: usize = 500;

/// The open socket. Its file goes with it.
#[derive(Debug)]
pub struct Commands {
    socket: Readable,
    own: u32,
    tyrant: bool,
    buffer: Vec<u8>,
    _file: SocketFile,
}

/// What one packet says.
#[derive(Debug, Eq, PartialEq)]
enum Command {
    Wish(Vec<u8>, Wish),
    Log(String),
}

impl Commands {
    /// Binds. Call inside the runtime. Tenants may send to it in tyrant mode.
    ///
    /// # Errors
    /// It is no path, or the socket may not be bound there.
    pub fn bind(address: &Path, tyrant: bool) -> Result<Self, ControlError> {
        let option = "emperor-command-socket";
        let failed = |source| ControlError { option, place: address.display().to_string(), source };
        if address.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b':')) {
            let why = "a port would take commands from whoever reaches it: give the path of a unix socket";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        let (socket, file) = bind(address, tyrant).map_err(failed)?;
        let own = nix::unistd::geteuid().as_raw();
        Ok(Self { socket, own, tyrant, buffer: vec![0; MOST_BYTES], _file: file })
    }

    /// The next command. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        loop {
            match datagrams::receive(self.socket.fd(), &mut self.buffer) {
                Ok(Some(datagram)) => {
                    let peer = self.peer(datagram.uid);
                    let packet = &self.buffer[..datagram.length];
                    match read(packet).filter(|_| !datagram.cut) {
                        Some(Command::Wish(name, wish)) => return asked(peer, name, wish),
                        Some(Command::Log(line)) if peer == Peer::Master => {
                            info!("[emperor] somebody says over emperor-command-socket: {line}");
                            log::flush(); // the loop is not awake
                        }
                        // Whoever may send here sends what he likes: a line for each would fill the log.
                        Some(Command::Log(_)) | None => {}
                    }
                    tokio::task::yield_now().await; // others come first, however many there are
                }
                Ok(None) => {
                    if self.socket.ready().await.is_err() {
                        std::future::pending::<()>().await; // the runtime ends
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn peer(&self, uid: Option<u32>) -> Peer {
        match uid {
            Some(uid) if uid == 0 || uid == self.own => Peer::Master,
            Some(uid) if self.tyrant => Peer::Tenant(uid),
            uid => Peer::Stranger(uid.unwrap_or(u32::MAX)),
        }
    }
}

fn bind(path: &Path, tyrant: bool) -> io::Result<(Readable, SocketFile)> {
    clear_the_way(path)?;
    let socket = with_mode(Some(0o600), || UnixDatagram::bind(path))?;
    let file = SocketFile::of(path)?;
    setsockopt(&socket, PassCred, &true)?;
    if tyrant {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    }
    Ok((Readable::new(OwnedFd::from(socket))?, file))
}

/// Nobody waits for the answer: what somebody who may do all was refused is logged.
fn asked(peer: Peer, name: Vec<u8>, wish: Wish) -> Asked {
    let text = VassalName::new(&name).to_string();
    let (asked, answer) = Asked::new(peer, Route::Operate(name, wish));
    tokio::spawn(async move {
        if let Ok(answer) = answer.await
            && answer.status().as_u16() >= 400
            && peer == Peer::Master
        {
            let word = format!("{wish:?}").to_lowercase();
            warn!("[emperor] {word} of {text:?} was wanted over emperor-command-socket, and is refused");
            log::flush(); // the loop is not awake
        }
    });
    asked
}

/// A uwsgi packet: a modifier, the length of the rest (little-endian), another modifier; then pairs of strings, each
/// behind its length.
fn read(packet: &[u8]) -> Option<Command> {
    let [_, low, high, _, rest @ ..] = packet else { return None };
    let mut rest = rest.get(..usize::from(u16::from_le_bytes([*low, *high])))?;
    let (mut command, mut vassal, mut message) = (None, None, None);
    while !rest.is_empty() {
        let (key, value) = (string(&mut rest)?, string(&mut rest)?);
        match key {
            b"cmd" | b"command" => command = Some(value),
            b"vassal" => vassal = Some(value),
            b"msg" => message = Some(value),
            _ => {}
        }
    }
    let wish = match command? {
        b"spawn" => Wish::Start,
        b"respawn" => Wish::Reload,
        b"stop" => Wish::Stop,
        b"log" => {
            let line = String::from_utf8_lossy(message?);
            return Some(Command::Log(line.chars().filter(|c| !c.is_control()).take(MOST_LINE).collect()));
        }
        _ => return None,
    };
    Some(Command::Wish(vassal.filter(|name| !name.is_empty())?.to_vec(), wish))
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (string, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
            body.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            body.extend(text.as_bytes());
        }
        let [low, high] = u16::try_from(body.len()).unwrap().to_le_bytes();
        [&[0, low, high, 0], &body[..]].concat()
    }

    #[test]
    fn the_commands_of_the_old_line_are_understood() {
        let wish = |pairs| match read(&packet(pairs)) {
            Some(Command::Wish(name, wish)) => Some((String::from_utf8(name).unwrap(), wish)),
            _ => None,
        };
        assert_eq!(wish(&[("cmd", "stop"), ("vassal", "a.ini")]), Some(("a.ini".into(), Wish::Stop)));
        assert_eq!(wish(&[("vassal", "b"), ("command", "spawn")]), Some(("b".into(), Wish::Start)));
        assert_eq!(
            wish(&[("cmd", "respawn"), ("vassal", "b"), ("x", "y")]),
            Some(("b".into(), Wish::Reload))
        );
        for bad in [
            &[("cmd", "stop")][..],
            &[("vassal", "a")],
            &[("cmd", "eat"), ("vassal", "a")],
            &[("cmd", "stop"), ("vassal", "")],
        ] {
            assert_eq!(wish(bad), None, "{bad:?}");
        }
        let said = read(&packet(&[("cmd", "log"), ("msg", "a\nb\u{1b}[31m")]));
        assert_eq!(said, Some(Command::Log("ab[31m".into())));
    }

    #[test]
    fn a_packet_that_is_cut_anywhere_says_nothing() {
        let whole = packet(&[("cmd", "stop"), ("vassal", "a.ini")]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut other = whole.clone();
                other[at] = byte;
                let _ = read(&other);
            }
        }
    }
}
