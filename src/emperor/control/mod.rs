//! The control socket: HTTP/1.1 and JSON for whoever operates the emperor.
//!
//! Callers: the emperor's loop, which takes one request after the other from a bounded queue and answers it at once.
//! Everything that a client could delay (reading what it asks, writing the answer) happens in tasks beside the loop,
//! with bounds in number, size and time. Who a client is, the kernel says (`SO_PEERCRED`): root, the emperor's own user
//! and the members of `emperor-control-group` may do all; in tyrant mode a tenant may see and operate his own vassals.

mod advice;
mod answer;
mod commands;
mod gallery;
mod http;
mod routes;
mod stopped;
mod why;

pub use answer::{Answer, Itself, Reloads, View};
pub use commands::Commands;
pub use gallery::Gallery;
pub use routes::{Route, escape, unescape};
pub use stopped::StoppedFile;
pub use why::{Account, Output};

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::emperor::listen::remedy;
use crate::sys::peer;
use crate::vassal::socket::{SocketFile, clear_the_way, with_mode};

/// How many clients are served at once; the others wait in the backlog.
const CLIENTS: usize = 64;
/// Of these, how many may belong to people who may not do all: so that there is always room for those who may.
const GUESTS: usize = 48;
/// How many of one such person.
const OF_ONE_GUEST: usize = 8;
/// Connections that may wait.
const BACKLOG: i32 = 128;

/// The name of the socket in the runtime directory.
pub const FILE_NAME: &str = "control.sock";

/// Where the control socket is to be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Place {
    /// In the runtime directory, if there is one.
    #[default]
    Usual,
    /// Nowhere.
    None,
    /// There.
    At(PathBuf),
}

/// How the control socket is to be set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where (`emperor-control`).
    pub place: Place,
    /// Mode of its file (`emperor-control-mode`).
    pub mode: Option<u32>,
    /// A group whose members may do all (`emperor-control-group`).
    pub group: Option<u32>,
    /// Whether tenants may see and operate their own vassals.
    pub tyrant: bool,
    /// Where `/metrics` is served to whoever can connect (`emperor-http`).
    pub http: Option<String>,
    /// Where uWSGI's one-way commands are taken (`emperor-command-socket`).
    pub commands: Option<PathBuf>,
}

impl Options {
    /// The same with a path that is meant from there.
    #[must_use]
    pub fn within(self, directory: &Path) -> Self {
        let place = match self.place {
            Place::At(path) => Place::At(directory.join(path)),
            place => place,
        };
        let commands = self.commands.map(|path| directory.join(path));
        Self { place, commands, ..self }
    }
}

/// Why the emperor cannot be asked there.
#[derive(Debug, thiserror::Error)]
#[error("{option}: cannot serve {place}{}", remedy(place, source))]
pub struct ControlError {
    option: &'static str,
    place: String,
    source: io::Error,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Somebody who may do all.
    Master,
    /// A tenant, in tyrant mode.
    Tenant(u32),
    /// Anybody else.
    Stranger(u32),
    /// Whoever reaches `emperor-http`: he sees what is to be seen there, and operates nothing.
    Onlooker,
}

impl Peer {
    /// Whether he may see and operate what belongs to a user.
    #[must_use]
    pub fn may(self, owner: u32) -> bool {
        match self {
            Self::Master => true,
            Self::Tenant(uid) => uid == owner,
            Self::Stranger(_) | Self::Onlooker => false,
        }
    }

    /// Whether he may see a user's vassals.
    #[must_use]
    pub fn may_see(self, owner: u32) -> bool {
        self == Self::Onlooker || self.may(owner)
    }

    /// Whether he sees everything.
    #[must_use]
    pub fn may_see_all(self) -> bool {
        matches!(self, Self::Master | Self::Onlooker)
    }
}

/// One request, for the loop.
#[derive(Debug)]
pub struct Asked {
    /// Who asks.
    pub peer: Peer,
    /// What.
    pub route: Route,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    /// A request, and where its answer arrives.
    #[must_use]
    pub fn new(peer: Peer, route: Route) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { peer, route, reply }, answer)
    }

    /// Where the answer goes, if it does not come from the loop.
    #[must_use]
    pub fn into_reply(self) -> oneshot::Sender<Answer> {
        self.reply
    }

    /// Answers. Whoever has asked may have gone.
    pub fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }
}

/// The open control socket. Its file goes with it.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    accepting: JoinHandle<()>,
    _file: SocketFile,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Control {
    /// Binds. Call inside the runtime.
    ///
    /// # Errors
    /// Another emperor serves the socket, or it may not be bound there.
    pub fn bind(path: &Path, options: &Options) -> Result<Self, ControlError> {
        let place = path.display().to_string();
        let failed = |source| ControlError { option: "emperor-control", place, source };
        let (listener, file) = bind(path, options).map_err(failed)?;
        let (sender, requests) = mpsc::channel(CLIENTS);
        let house = House {
            own: nix::unistd::geteuid().as_raw(),
            group: options.group,
            tyrant: options.tyrant,
            guests: Arc::default(),
            sender,
        };
        let accepting = tokio::spawn(house.receive(listener));
        Ok(Self { path: path.into(), requests, accepting, _file: file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await, // the task that accepts holds its other end
        }
    }
}

fn bind(path: &Path, options: &Options) -> io::Result<(UnixListener, SocketFile)> {
    clear_the_way(path)?;
    // Nobody can connect before it is known who may.
    let socket = with_mode(Some(0o600), || StdUnixListener::bind(path))?;
    let file = SocketFile::of(path)?;
    if let Some(group) = options.group {
        chown(path, None, Some(group))?;
    }
    let usual = match (options.tyrant, options.group) {
        (true, _) => 0o666,
        (false, Some(_)) => 0o660,
        (false, None) => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.mode.unwrap_or(usual)))?;
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(BACKLOG)?)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from_std(socket)?, file))
}

/// What it takes to receive clients.
struct House {
    own: u32,
    group: Option<u32>,
    tyrant: bool,
    guests: Guests,
    sender: mpsc::Sender<Asked>,
}

impl House {
    async fn receive(self, listener: UnixListener) {
        let seats = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let peer = self.peer(&stream);
                    let Some(guest) = Guest::admit(&self.guests, peer) else { continue };
                    let sender = self.sender.clone();
                    tokio::spawn(async move {
                        http::serve(stream, peer, sender).await;
                        drop((seat, guest));
                    });
                }
                // No descriptor is left, or the client has gone: others are served when there is one again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn peer(&self, stream: &UnixStream) -> Peer {
        let Ok(uid) = stream.peer_cred().map(|cred| cred.uid()) else { return Peer::Stranger(u32::MAX) };
        let in_group = |group| peer::groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group));
        if uid == 0 || uid == self.own || self.group.is_some_and(in_group) {
            Peer::Master
        } else if self.tyrant {
            Peer::Tenant(uid)
        } else {
            Peer::Stranger(uid)
        }
    }
}

/// How many connections there are of each person who may not do all.
type Guests = Arc<Mutex<HashMap<u32, usize>>>;

/// One such connection, or one of somebody who is not counted.
struct Guest {
    guests: Guests,
    uid: Option<u32>,
}

impl Guest {
    /// `None` if there is no room for him.
    fn admit(guests: &Guests, peer: Peer) -> Option<Self> {
        let uid = match peer {
            Peer::Master | Peer::Onlooker => None,
            Peer::Tenant(uid) | Peer::Stranger(uid) => Some(uid),
        };
        if let Some(uid) = uid {
            let mut there = guests.lock().unwrap_or_else(PoisonError::into_inner);
            if there.values().sum::<usize>() >= GUESTS || there.get(&uid).is_some_and(|n| *n >= OF_ONE_GUEST)
            {
                return None;
            }
            *there.entry(uid).or_default() += 1;
        }
        Some(Self { guests: guests.clone(), uid })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some(uid) = self.uid else { return };
        let mut there = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = there.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                there.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_leave_room_for_masters_and_for_each_other() {
        let guests = Guests::default();
        let of_one: Vec<_> = (0..20).filter_map(|_| Guest::admit(&guests, Peer::Tenant(7))).collect();
        assert_eq!(of_one.len(), OF_ONE_GUEST);
        let others: Vec<_> =
            (100..200).filter_map(|uid| Guest::admit(&guests, Peer::Stranger(uid))).collect();
        assert_eq!(of_one.len() + others.len(), GUESTS);
        assert!(Guest::admit(&guests, Peer::Tenant(8)).is_none());
        assert!(Guest::admit(&guests, Peer::Master).is_some());
        drop((of_one, others));
        assert!(guests.lock().unwrap().is_empty());
    }

    #[test]
    fn each_sees_what_is_his() {
        assert!(Peer::Master.may(0) && Peer::Master.may(7) && Peer::Tenant(7).may(7));
        assert!(!Peer::Tenant(7).may(8) && !Peer::Tenant(7).may(0) && !Peer::Stranger(7).may(7));
    }
}
