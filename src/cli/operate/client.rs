//! HTTP as far as it is needed to ask one question over a unix socket: one connection, one request, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
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
/// How long is waited before it is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest line of an answer that goes on.
const MOST_LINE: u64 = 64 << 10;
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
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }
}

/// One line of an answer that goes on, or why there is none.
pub(super) enum Line<'a> {
    /// A line, with its end.
    Text(&'a [u8]),
    /// The emperor refuses.
    Problem(String),
}

impl Client {
    /// Reads an answer line by line until its end, or until `take` says that it is enough; with `follow` over renewals
    /// of the emperor, until that is gone.
    pub(super) fn lines(
        &self,
        path: &str,
        follow: bool,
        take: &mut dyn FnMut(Line<'_>) -> bool,
    ) -> Result<(), Unreachable> {
        let socket = self.socket.as_ref().ok_or(Unreachable::Nowhere)?;
        let silent = |cause| Unreachable::Silent { path: socket.clone(), cause };
        let mut away: Option<Instant> = None;
        loop {
            let mut heard = false;
            let mut take = |line: Line<'_>| {
                heard = true;
                take(line)
            };
            match self.read_lines(socket, path, follow, &mut take) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                // One that renews itself may take a connection with it, and its socket is away for a moment.
                Err(error) if away.is_none() || !is_passing(&error) => return Err(silent(error)),
                Err(error) if away.is_some_and(|since| since.elapsed() > AWAY) => return Err(silent(error)),
                Err(_) => {}
            }
            if heard || away.is_none() {
                away = Some(Instant::now());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether there is more to be had by asking again.
    fn read_lines(
        &self,
        socket: &Path,
        path: &str,
        follow: bool,
        take: &mut dyn FnMut(Line<'_>) -> bool,
    ) -> io::Result<bool> {
        let mut stream = self.connect(socket)?;
        if !follow {
            stream.set_read_timeout(Some(self.patience))?;
        }
        // HTTP/1.0: the answer ends with the connection, and is in no chunks.
        let query = if follow { "?follow" } else { "" };
        stream.write_all(format!("GET {path}{query} HTTP/1.0\r\nHost: emperor\r\n\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| {
            line.clear();
            (&mut reader).take(MOST_LINE).read_until(b'\n', line)
        };
        next(&mut line)?;
        let refused = line.get(9..12) != Some(b"200");
        while next(&mut line)? > 2 {}
        while next(&mut line)? > 0 {
            let told = if refused {
                let problem = serde_json::from_slice::<Problem>(&line).map(|problem| problem.detail);
                Line::Problem(problem.unwrap_or_else(|_| "this is no answer of an emperor".into()))
            } else {
                Line::Text(&line)
            };
            if !take(told) || refused {
                return Ok(false);
            }
        }
        Ok(follow && !refused)
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotFound)
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
