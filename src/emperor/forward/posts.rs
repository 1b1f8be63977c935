//! A unix socket for each vassal, at which its own document is: for tools that know one address and one document.
//!
//! Caller: the emperor's loop, when vassals come and go. Clients are served by tasks beside it.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::emperor::control::escape;
use crate::emperor::listen::Visitor;
use crate::vassal::socket::{SocketFile, clear_the_way, with_mode};

/// How many clients are served at once, of all sockets.
const CLIENTS: usize = 64;
/// Longest path of a unix socket, bytes. Source: unix(7).
const MOST_PATH: usize = 107;
/// Who writes into a directory can put something else in a socket's place.
const OTHERS_WRITE: u32 = 0o022;

/// How the sockets are to be.
#[derive(Clone, Debug)]
pub struct PostOptions {
    /// Where (`emperor-stats-directory`).
    pub directory: PathBuf,
    /// Mode of each (`chmod-socket`); by umask if `None`, and 600 in tyrant mode, for its vassal's user.
    pub mode: Option<u32>,
    /// How long a client may not read (`socket-timeout`).
    pub patience: Duration,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
#[error("emperor-stats-directory: cannot make sockets in {}", path.display())]
pub struct PostError {
    path: PathBuf,
    source: io::Error,
}

/// The sockets.
#[derive(Debug)]
pub struct Posts {
    options: PostOptions,
    seats: Arc<Semaphore>,
    there: HashMap<u64, Post>,
}

#[derive(Debug)]
struct Post {
    name: Box<[u8]>,
    owner: Option<(u32, u32)>,
    serving: Option<JoinHandle<()>>,
    _file: Option<SocketFile>,
}

impl Drop for Post {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Posts {
    /// Makes the directory, if it is not there, and removes what a former emperor has left in it.
    ///
    /// # Errors
    /// [`PostError`]; others than root and the emperor's user may write there.
    pub fn open(options: PostOptions) -> Result<Self, PostError> {
        let path = options.directory.clone();
        prepare(&path).map_err(|source| PostError { path, source })?;
        Ok(Self { options, seats: Arc::new(Semaphore::new(CLIENTS)), there: HashMap::new() })
    }

    /// There is a vassal of this name, whose sockets belongs to this user and group. What its clients get, `serve` says.
    pub fn put<F>(
        &mut self,
        id: u64,
        name: &[u8],
        owner: Option<(u32, u32)>,
        serve: impl Fn(Visitor) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.there.get(&id).is_some_and(|post| *post.name == *name && post.owner == owner) {
            return;
        }
        self.there.remove(&id);
        let path = self.options.directory.join(escape(name));
        let (listener, file) = match self.bind(&path, owner) {
            Ok(bound) => bound,
            Err(error) => {
                warn!("[emperor] there is no stats socket {}: {error}", path.display());
                // Said once: it is not tried again before something changes.
                let post = Post { name: name.into(), owner, serving: None, _file: None };
                self.there.insert(id, post);
                return;
            }
        };
        let serving = tokio::spawn(receive(listener, self.seats.clone(), self.options.patience, serve));
        let post = Post { name: name.into(), owner, serving: Some(serving), _file: Some(file) };
        self.there.insert(id, post);
    }

    /// That vassal is no more.
    pub fn remove(&mut self, id: u64) {
        self.there.remove(&id);
    }

    fn bind(&self, path: &Path, owner: Option<(u32, u32)>) -> io::Result<(UnixListener, SocketFile)> {
        let length = path.as_os_str().as_bytes().len();
        if length > MOST_PATH {
            return Err(io::Error::other(format!(
                "its path has {length} bytes, and {MOST_PATH} are possible"
            )));
        }
        clear_the_way(path)?;
        let mode = self.options.mode.or(owner.map(|_| 0o600));
        let socket = with_mode(mode, || StdUnixListener::bind(path))?;
        let file = SocketFile::of(path)?;
        if let Some((uid, gid)) = owner {
            lchown(path, Some(uid), Some(gid))?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        socket.set_nonblocking(true)?;
        Ok((UnixListener::from_std(socket)?, file))
    }
}

fn prepare(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let found = std::fs::symlink_metadata(path)?;
    let trusted = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
    if !found.is_dir() || !trusted || found.mode() & OTHERS_WRITE != 0 {
        let want = "it has to be a directory of root or the emperor's user, and nobody else may write to it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, want));
    }
    for entry in std::fs::read_dir(path)?.flatten() {
        // What is no socket, or is served, stays.
        let _ = clear_the_way(&entry.path());
    }
    Ok(())
}

async fn receive<F>(
    listener: UnixListener,
    seats: Arc<Semaphore>,
    patience: Duration,
    serve: impl Fn(Visitor) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(seat) = seats.clone().acquire_owned().await else { return };
                tokio::spawn(serve(Visitor::new(stream, patience, seat)));
            }
            // No descriptor is left, or the client has gone: others are served when there is one again.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn posts(directory: PathBuf) -> Result<Posts, PostError> {
        Posts::open(PostOptions { directory, mode: Some(0o600), patience: Duration::from_secs(5) })
    }

    #[test]
    fn a_socket_comes_and_goes_with_its_vassal() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("stats");
        let mut posts = posts(directory.clone()).unwrap();
        let serve = |visitor: Visitor| visitor.serve(b"{}".to_vec());
        posts.put(1, b"a b", None, serve);
        posts.put(2, "x".repeat(200).as_bytes(), None, serve);
        let there = directory.join("a%20b");
        let text = runtime.block_on(tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            UnixStream::connect(there).unwrap().read_to_string(&mut text).unwrap();
            text
        }));
        assert_eq!(text.unwrap(), "{}");
        assert_eq!(std::fs::metadata(directory.join("a%20b")).unwrap().mode() & 0o777, 0o600);
        posts.remove(1);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("stats");
        let left = StdUnixListener::bind(dir.path().join("left")).unwrap();
        drop(left);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(posts(dir.path().into()).is_err());
        assert!(posts(directory).is_ok(), "below it there is one of our own");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(posts(dir.path().into()).is_ok());
        assert!(!dir.path().join("left").exists());
    }
}
