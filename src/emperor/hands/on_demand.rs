//! Sockets that wait on demand: where their addresses come from, binding them, and watching them.
//!
//! In tyrant mode an address that stands in a tenant's file is bound with that tenant's rights to files, and
//! may not be a privileged port: who writes the file gets no more than he has.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::{error, info};

use super::side::Errand;
use super::{Hands, Token, command};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::source::VassalName;
use crate::sys::fs_identity::acting_as;
use crate::sys::spawn::{Candidate, Program};
use crate::vassal::socket::{Address, FileRecord, Listener, SocketFile};

/// Where the address of a vassal's socket comes from. Only the first that is set counts.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// Nowhere: vassals start at once.
    #[default]
    Never,
    /// `emperor-on-demand-extension`: the first line of a file beside the vassal's, with this added to its name.
    Extension(OsString),
    /// `emperor-on-demand-directory`: a socket in this directory, named after the vassal.
    Directory(PathBuf),
    /// `emperor-on-demand-exec`: the first line of what this shell command prints when given the vassal's name.
    Command(OsString),
}

/// How on-demand sockets are made.
#[derive(Clone, Debug, Default)]
pub struct OnDemand {
    /// Where their addresses come from.
    pub demand: Demand,
    /// Connections that may wait (`listen`).
    pub backlog: u32,
}

/// A vassal's socket.
#[derive(Debug)]
pub(super) struct Waiting {
    listener: Listener,
    address: String,
    watched: bool,
}

impl Waiting {
    /// What is held: the socket, its address as it was given, its file.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, &str, Option<FileRecord>) {
        let file = self.listener.file.as_ref().map(SocketFile::record);
        (self.listener.socket.as_fd(), &self.address, file)
    }
}

/// Mode of a socket's file. Source: uWSGI 2.0.21, which takes no other.
const MODE: u32 = 0o666;
/// How much of a file or of a command's output may be an address.
const MOST: u64 = 4096;
/// Ports below this are root's.
const FIRST_FREE_PORT: u16 = 1024;

impl Hands {
    /// The address of a vassal's on-demand socket; empty without one.
    #[must_use]
    pub fn on_demand_address(&self, key: Key) -> &str {
        let held = self.held.get(key.index()).filter(|held| held.key == Some(key));
        held.and_then(|held| held.waiting.as_ref()).map_or("", |waiting| &waiting.address)
    }

    pub(super) fn admit(&mut self, key: Key, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        if self.held(key).is_some_and(|held| held.waiting.is_some()) {
            return Some(Event::Admitted(key, true));
        }
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        match self.launch.on_demand.demand.clone() {
            Demand::Never => Some(Event::Admitted(key, false)),
            Demand::Extension(extension) => {
                let file = [vassal.name.as_bytes(), extension.as_bytes()].concat();
                match first_line_of(&directory.join(OsStr::from_bytes(&file))) {
                    Ok(line) if line.is_empty() => Some(Event::Admitted(key, false)),
                    Ok(line) => Some(self.bind(key, vassal, &line, &directory, self.tenant(vassal))),
                    Err(cause) => Some(refuse(key, &vassal.name, &format!("its socket\'s file: {cause}"))),
                }
            }
            Demand::Directory(sockets) => {
                let base = vassal.name.as_path().file_stem().unwrap_or_default();
                let path = sockets.join(OsString::from_vec([base.as_bytes(), b".socket"].concat()));
                Some(self.bind(key, vassal, path.as_os_str().as_bytes(), &directory, None))
            }
            Demand::Command(command) => match self.ask(key, vassal, &command, &directory) {
                Ok(()) => None,
                Err(cause) => Some(refuse(key, &vassal.name, &format!("emperor-on-demand-exec: {cause}"))),
            },
        }
    }

    /// What `emperor-on-demand-exec` has printed.
    pub(super) fn answered(&mut self, key: Key, answer: &OwnedFd, court: &Court) -> Option<Event> {
        let vassal = court.get(key)?;
        let directory = self.launch.places.get(usize::from(vassal.source.0))?.path().to_path_buf();
        let mut bytes = Vec::new();
        let read = File::from(answer.try_clone().ok()?).take(MOST).read_to_end(&mut bytes);
        let line = first_line(&bytes);
        Some(match read {
            Err(cause) => refuse(key, &vassal.name, &format!("emperor-on-demand-exec: {cause}")),
            Ok(_) if line.is_empty() => Event::Admitted(key, false),
            Ok(_) => self.bind(key, vassal, line, &directory, None),
        })
    }

    /// Holds from now on the socket that somebody else has held.
    pub(super) fn wait_on(&mut self, key: Key, socket: OwnedFd, address: String, file: Option<&FileRecord>) {
        let listener = Listener { socket, file: file.map(SocketFile::of_record) };
        self.slot(key).waiting = Some(Box::new(Waiting { listener, address, watched: false }));
    }

    /// Watches a socket for its next connection.
    pub(super) fn listen_on(&mut self, key: Key) {
        let token = EpollEvent::new(EpollFlags::EPOLLIN, Token::Waiting(key).to_bits());
        let Some(held) = self.held.get_mut(key.index()).filter(|held| held.key == Some(key)) else { return };
        let Some(waiting) = held.waiting.as_mut().filter(|waiting| !waiting.watched) else { return };
        match self.epoll.add(&waiting.listener.socket, token) {
            Ok(()) => waiting.watched = true,
            Err(cause) => error!("[emperor] cannot watch the socket {}: {cause}", waiting.address),
        }
    }

    /// Somebody connects: from here on the vassal itself looks at the socket.
    pub(super) fn connected(&mut self, key: Key) -> Option<Event> {
        let held = self.held.get_mut(key.index()).filter(|held| held.key == Some(key))?;
        let waiting = held.waiting.as_mut()?;
        waiting.watched = false;
        // It was added, and is open.
        let _ = self.epoll.delete(&waiting.listener.socket);
        Some(Event::Connection(key))
    }

    /// The socket that becomes a vassal's standard input.
    pub(super) fn on_demand_socket(&mut self, key: Key) -> Option<OwnedFd> {
        let waiting = self.held(key)?.waiting.as_ref()?;
        waiting.listener.socket.try_clone().ok()
    }

    fn tenant(&self, vassal: &Vassal) -> Option<(u32, u32)> {
        self.launch.confinement.tyrant.map(|_| (vassal.identity.uid, vassal.identity.gid))
    }

    fn bind(
        &mut self,
        key: Key,
        vassal: &Vassal,
        line: &[u8],
        directory: &Path,
        tenant: Option<(u32, u32)>,
    ) -> Event {
        let address = match Address::parse(line, directory) {
            Ok(address) => address,
            Err(bad) => return refuse(key, &vassal.name, &bad.to_string()),
        };
        if let (Some(_), Address::Tcp(tcp)) = (tenant, &address)
            && (1..FIRST_FREE_PORT).contains(&tcp.port())
        {
            return refuse(
                key,
                &vassal.name,
                &format!("{address}: a tenant may not have a port below {FIRST_FREE_PORT}"),
            );
        }
        let backlog = self.launch.on_demand.backlog;
        let bound = match tenant {
            Some((uid, gid)) => acting_as(uid, gid, || address.bind(backlog, MODE)),
            None => address.bind(backlog, MODE),
        };
        match bound {
            Ok(listener) => {
                let address = String::from_utf8_lossy(line).into_owned();
                info!(
                    "[uwsgi-emperor] {} -> \"on demand\" instance detected, waiting for connections on socket \"{address}\" ...",
                    vassal.name
                );
                self.slot(key).waiting = Some(Box::new(Waiting { listener, address, watched: false }));
                Event::Admitted(key, true)
            }
            Err(cause) => refuse(key, &vassal.name, &format!("{address}: {cause}")),
        }
    }

    /// Runs the command beside the loop; its first line comes back by a pipe. The name is an argument of the
    /// shell\'s, never part of its text.
    fn ask(&mut self, key: Key, vassal: &Vassal, command: &OsStr, directory: &Path) -> io::Result<()> {
        let (answer, says) = io::pipe()?;
        let script = [b"{ ", command.as_bytes(), b" \"$1\"\n} 3>&- | head -c 4096 >&3"].concat();
        let words =
            [b"/bin/sh".to_vec(), b"-c".to_vec(), script, b"sh".to_vec(), vassal.name.as_bytes().to_vec()];
        let arguments = command::c_strings(words);
        let environment = command::c_strings(
            std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()),
        );
        let cwd = CString::new(directory.as_os_str().as_bytes()).unwrap_or_default();
        let program = Program {
            candidates: &[Candidate { path: c"/bin/sh", arguments: &arguments }],
            environment: &environment,
            cwd: Some(&cwd),
            stdin: None,
            passed: [Some(says.as_fd()), None, None],
            kept: &[],
            parent_death_signal: nix::libc::SIGKILL,
            new_pid_namespace: false,
        };
        let child = self.spawner.spawn(&program).map_err(io::Error::other)?;
        drop(says);
        self.send(
            child,
            format!("emperor-on-demand-exec for {}", vassal.name),
            Errand::Ask(key, answer.into()),
        )
    }
}

fn refuse(key: Key, name: &VassalName, why: &str) -> Event {
    error!("[emperor] vassal {name} gets no on-demand socket: {why}");
    Event::NotBound(key)
}

/// The first line of a file; empty if there is none. A fifo or a device does not hold us up.
fn first_line_of(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match File::options().read(true).custom_flags(flags.bits()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(first_line(&bytes).to_vec())
}

/// Up to the first byte below the blank, as uWSGI cuts it.
fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte < b' ').unwrap_or(bytes.len());
    &bytes[..end]
}
