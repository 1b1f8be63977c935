//! HTTP as far as it is needed to ask one question over a unix socket: one connection, one request, one answer.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::Problem;
use crate::emperor::control::FILE_NAME;
use crate::emperor::hands::RuntimeDir;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for what a shell asks while somebody types.
const HASTE: Duration = Duration::from_secs(1);
/// An emperor that replaces its program is away for a moment.
const AWAY: Duration = Duration::from_secs(2);
/// The longest answer.
const MOST_BYTES: u64 = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error(
        "it is not known where the emperor's control socket is: say --control PATH, or set EMPEROR_CONTROL"
    )]
    Nowhere,
    #[error("no emperor answers at {}: {cause}; say --control PATH, or set EMPEROR_CONTROL", path.display())]
    Silent { path: PathBuf, cause: io::Error },
}

/// An answer.
pub(super) struct Reply {
    pub(super) body: Vec<u8>,
    status: u16,
}

impl Reply {
    /// The document; or what is wrong.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        self.of_status(200)
    }

    /// The document about what has begun; or what is wrong.
    pub(super) fn accepted<T: DeserializeOwned>(&self) -> Result<T, String> {
        self.of_status(202)
    }

    fn of_status<T: DeserializeOwned>(&self, status: u16) -> Result<T, String> {
        if self.status == status {
            return serde_json::from_slice(&self.body)
                .map_err(|error| format!("the emperor's answer: {error}"));
        }
        Err(serde_json::from_slice::<Problem>(&self.body)
            .map_or_else(|_| String::new(), |problem| problem.detail))
    }
}

/// Somebody who asks.
pub(super) struct Client {
    socket: Option<PathBuf>,
    patience: Duration,
    away: Duration,
}

impl Client {
    pub(super) fn new(given: Option<PathBuf>) -> Self {
        let set = std::env::var_os("EMPEROR_CONTROL").filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { socket: given.or(set).or_else(usual), patience: PATIENCE, away: AWAY }
    }

    /// One that somebody waits for who has not asked anything: it is answered at once or not at all.
    pub(super) fn hasty(given: Option<PathBuf>) -> Self {
        Self { patience: HASTE, away: Duration::ZERO, ..Self::new(given) }
    }

    /// Asks.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Reply, Unreachable> {
        let socket = self.socket.as_ref().ok_or(Unreachable::Nowhere)?;
        self.exchange(socket, method, path)
            .map_err(|cause| Unreachable::Silent { path: socket.clone(), cause })
    }

    fn exchange(&self, socket: &Path, method: &str, path: &str) -> io::Result<Reply> {
        let mut stream = self.connect(socket)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: emperor\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut all = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut all)?;
        parse(all).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "this is no whole answer of an emperor")
        })
    }

    fn connect(&self, socket: &Path) -> io::Result<UnixStream> {
        let deadline = Instant::now() + self.away;
        loop {
            match UnixStream::connect(socket) {
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }
}

/// Where the socket is if nothing is said: this user's own emperor's, else root's.
fn usual() -> Option<PathBuf> {
    let dir = |is_root| {
        let dir = RuntimeDir::choose(None, |name| std::env::var_os(name), is_root);
        dir.path().map(|dir| dir.join(FILE_NAME))
    };
    let is_root = nix::unistd::geteuid().is_root();
    dir(is_root).filter(|path| is_root || path.exists()).or_else(|| dir(true))
}

/// Reads an answer whose length is told.
fn parse(mut all: Vec<u8>) -> Option<Reply> {
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&all[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = all.split_off(end + 4);
    (body.len() == length).then_some(Reply { body, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let reply = |text: &str| parse(text.as_bytes().to_vec()).map(|reply| (reply.status, reply.body));
        assert_eq!(reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Some((200, b"{}".to_vec())));
        assert_eq!(
            reply("HTTP/1.1 409 Conflict\r\nx: y\r\ncontent-length:2\r\n\r\n{}").map(|it| it.0),
            Some(409)
        );
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\n{}",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 \u{20ac}\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert_eq!(reply(bad), None, "{bad:?}");
        }
    }
}
