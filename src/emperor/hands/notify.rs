//! NOTIFY_SOCKET: what programs say of themselves in systemd's words.
//!
//! Each program that is run by a `command` has a socket of its own, whose file belongs to it and which no other tenant
//! can open. What comes is a stranger's: so much of it is looked at in one turn of the loop, descriptors are not
//! taken, and senders who are neither the vassal's user nor ours are not heard. Source: sd_notify(3).

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::{setsockopt, sockopt};
use tracing::{debug, info, warn};

use crate::emperor::court::Sign;
use crate::sys::datagrams;
use crate::vassal::socket::with_mode;

/// Most datagrams that are taken in one go. What is left comes in turn with the others.
const MOST_AT_ONCE: usize = 16;
/// Longest message that is read.
const MOST_BYTES: usize = 4096;
/// Longest status that is kept.
const MOST_STATUS: usize = 200;
/// Most names that are tried.
const MOST_TRIES: u32 = 100_000;
/// Most files of former emperors that are looked at.
const MOST_STALE: usize = 10_000;

/// The directory of these sockets.
#[derive(Debug, Default)]
pub struct RuntimeDir {
    path: Option<PathBuf>,
    opened: bool,
    made: u64,
}

impl RuntimeDir {
    /// `emperor-runtime-dir`, else what `variable` says where an emperor's sockets may be.
    #[must_use]
    pub fn choose(
        option: Option<PathBuf>,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
        is_root: bool,
    ) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let given = || {
            let list = set("RUNTIME_DIRECTORY")?.into_string().ok()?;
            list.split(':').next().map(PathBuf::from)
        };
        let usual = || match is_root {
            true => Some(PathBuf::from("/run/emperor")),
            false => set("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("emperor")),
        };
        Self { path: option.or_else(given).or_else(usual), opened: false, made: 0 }
    }

    /// Whether it is known where it is to be.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.path.is_some()
    }

    /// Where it is to be, if that is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The directory, made if it is not there. Nobody else may write to it, or he could put his sockets in the place
    /// of ours.
    ///
    /// # Errors
    /// It cannot be used, and what to do about it.
    pub fn open(&mut self) -> io::Result<&Path> {
        let path = self.path.as_deref().ok_or_else(|| {
            io::Error::other("there is no directory for it: set emperor-runtime-dir, or XDG_RUNTIME_DIR")
        })?;
        if !self.opened {
            let named = |error: io::Error| {
                io::Error::other(format!(
                    "{}: {error}; set emperor-runtime-dir to a directory that can be used",
                    path.display()
                ))
            };
            match DirBuilder::new().mode(0o711).create(path) {
                Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o711)).map_err(named)?, // whatever our umask
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(named(error)),
            }
            let found = fs::symlink_metadata(path).map_err(named)?;
            let ours = nix::unistd::geteuid().as_raw();
            if !found.is_dir() || found.uid() != ours || found.mode() & 0o022 != 0 {
                return Err(named(io::Error::other(format!(
                    "it must be a directory of uid {ours} in which nobody else may write"
                ))));
            }
            sweep(path);
            self.opened = true;
        }
        Ok(path)
    }

    /// A socket that only this user can send to.
    ///
    /// # Errors
    /// The directory cannot be used, or the machine is short of descriptors.
    pub fn bind(&mut self, uid: u32) -> io::Result<NotifySocket> {
        let mut tries = 0;
        let bound = loop {
            let number = self.made;
            let path = self.open()?.join(format!("{PREFIX}{}.{number}", std::process::id()));
            self.made += 1;
            match with_mode(Some(0o600), || UnixDatagram::bind(&path)) {
                // One that was taken over, or that of an emperor in another container.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < MOST_TRIES => tries += 1,
                // Somebody has removed the directory since.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && self.opened && tries < MOST_TRIES =>
                {
                    (self.opened, tries) = (false, MOST_TRIES);
                }
                Err(error) => return Err(error),
                Ok(socket) => break NotifySocket { socket: socket.into(), path, uid, complained: false },
            }
        };
        setsockopt(&bound.socket, sockopt::PassCred, &true)?;
        if uid != nix::unistd::geteuid().as_raw() {
            std::os::unix::fs::lchown(&bound.path, Some(uid), None)?;
        }
        Ok(bound)
    }
}

/// What the names of the sockets' files begin with.
const PREFIX: &str = "notify.";

/// Removes the files of emperors that were killed: sockets at which nobody is.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.take(MOST_STALE).flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            continue;
        }
        let nobody = UnixDatagram::unbound().and_then(|socket| socket.connect(entry.path()));
        if nobody.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // Another emperor may have been quicker.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// One program's socket. Its file goes with it.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
    uid: u32,
    complained: bool,
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // The whole directory may be gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a program has said in one go.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) signs: Vec<Sign>,
    pub(super) status: Option<String>,
}

impl NotifySocket {
    /// Goes on with a socket that another program of ours has bound.
    #[must_use]
    pub fn adopt(socket: OwnedFd, path: PathBuf, uid: u32) -> Self {
        Self { socket, path, uid, complained: false }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user who may send to it.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The socket.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What was said to one life is not meant for the next.
    pub(super) fn drain(&mut self) {
        let mut nothing = [0; 1];
        for _ in 0..1000 {
            match datagrams::receive(self.socket.as_fd(), &mut nothing) {
                Ok(Some(_)) => {}
                _ => return,
            }
        }
    }

    /// What the program says. Signs that it repeats in one go count once.
    pub(super) fn hear(&mut self, vassal: &dyn std::fmt::Display) -> Heard {
        let mut heard = Heard::default();
        let mut buffer = [0; MOST_BYTES];
        for _ in 0..MOST_AT_ONCE {
            let datagram = match datagrams::receive(self.socket.as_fd(), &mut buffer) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(error) => {
                    warn!("[emperor] vassal {vassal}: cannot read its notifications: {error}");
                    break;
                }
            };
            let may = datagram
                .uid
                .is_some_and(|uid| uid == self.uid || uid == 0 || uid == nix::unistd::geteuid().as_raw());
            if may && !datagram.cut {
                heard.take(&buffer[..datagram.length], vassal);
            } else if !std::mem::replace(&mut self.complained, true) {
                warn!(
                    "[emperor] vassal {vassal}: a notification is not heard: {}",
                    if may {
                        format!("it is longer than {MOST_BYTES} bytes")
                    } else {
                        "its sender is another user".into()
                    }
                );
            }
        }
        heard
    }
}

impl Heard {
    fn take(&mut self, message: &[u8], vassal: &dyn std::fmt::Display) {
        for line in message.split(|byte| *byte == b'\n') {
            let sign = match line {
                b"READY=1" => Sign::Ready,
                b"RELOADING=1" => Sign::Reloading,
                b"STOPPING=1" => Sign::Stopping,
                b"WATCHDOG=1" => Sign::Alive,
                b"WATCHDOG=trigger" => Sign::Hangs,
                line => {
                    self.take_text(line, vassal);
                    continue;
                }
            };
            // Of two that contradict each other the last counts, and what came between them does not matter.
            self.signs.retain(|known| *known != sign);
            self.signs.push(sign);
        }
    }

    fn take_text(&mut self, line: &[u8], vassal: &dyn std::fmt::Display) {
        if let Some(status) = line.strip_prefix(b"STATUS=") {
            self.status = Some(legible(status));
        } else if let Some(number) = line.strip_prefix(b"ERRNO=") {
            info!("[emperor] vassal {vassal} says that it has failed: errno {}", legible(number));
        } else if !line.is_empty() {
            // Whose process it is, is known; its descriptors are not taken; and there is nothing to wait for.
            debug!("[emperor] vassal {vassal} says {}, which means nothing here", legible(line));
        }
    }
}

/// Text of a stranger for a log line or the stats.
fn legible(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(MOST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dir(dir: &Path) -> RuntimeDir {
        RuntimeDir { path: Some(dir.into()), ..RuntimeDir::default() }
    }

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn the_directory_is_the_option_the_service_managers_or_the_usual_one() {
        let choose = |option: Option<&str>, set: &[(&str, &str)], root| {
            let variable =
                |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            RuntimeDir::choose(option.map(PathBuf::from), variable, root).path
        };
        let manager = [("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(choose(Some("/x"), &manager, true), Some("/x".into()));
        assert_eq!(choose(None, &manager, true), Some("/run/a".into()));
        assert_eq!(choose(None, &manager[1..], true), Some("/run/emperor".into()));
        assert_eq!(choose(None, &manager[1..], false), Some("/run/user/7/emperor".into()));
        assert_eq!(choose(None, &[], false), None);
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_vassal() {
        let dir = tempfile::tempdir().unwrap();
        let mut runtime = in_dir(&dir.path().join("emperor"));
        let (first, second) = (runtime.bind(me()).unwrap(), runtime.bind(me()).unwrap());
        assert_ne!(first.path(), second.path());
        let found = fs::symlink_metadata(first.path()).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, me()));
        assert_eq!(fs::metadata(dir.path().join("emperor")).unwrap().permissions().mode() & 0o777, 0o711);
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = in_dir(dir.path()).bind(me()).unwrap_err().to_string();
        assert!(error.contains("nobody else may write") && error.contains("emperor-runtime-dir"), "{error}");
        let error = RuntimeDir::default().bind(me()).unwrap_err().to_string();
        assert!(error.contains("set emperor-runtime-dir"), "{error}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(in_dir(&file).bind(me()).is_err());
    }

    #[test]
    fn what_a_killed_emperor_has_left_is_removed_and_what_another_uses_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [stale, used, other] = ["notify.1.0", "notify.1.1", "else"].map(|name| dir.path().join(name));
        drop(UnixDatagram::bind(&stale).unwrap());
        drop(UnixDatagram::bind(&other).unwrap());
        let _living = UnixDatagram::bind(&used).unwrap();
        in_dir(dir.path()).bind(me()).unwrap();
        assert_eq!([&stale, &used, &other].map(|path| path.exists()), [false, true, true]);
    }

    #[test]
    fn messages_become_signs_and_a_bounded_status() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = in_dir(dir.path()).bind(me()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.path()).unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut hear = |messages: &[&[u8]]| {
            assert!(messages.iter().all(|message| sender.send(message).is_ok()));
            let heard = socket.hear(&"a");
            (heard.signs, heard.status)
        };
        assert_eq!(
            hear(&[b"READY=1\nSTATUS=all \x1b[1mwell\x07\nMAINPID=1"]),
            (vec![Sign::Ready], Some("all [1mwell".into()))
        );
        assert_eq!(hear(&[b"WATCHDOG=1", b"WATCHDOG=1", b"READY=1"]).0, [Sign::Alive, Sign::Ready]);
        assert_eq!(hear(&[b"READY=1", b"RELOADING=1", b"READY=1"]).0, [Sign::Reloading, Sign::Ready]);
        assert_eq!(hear(&[b"STOPPING=1", b"WATCHDOG=trigger"]).0, [Sign::Stopping, Sign::Hangs]);
        let long = [&b"STATUS="[..], &[b'x'; 1000]].concat();
        assert_eq!(hear(&[&long]).1.map(|status| status.len()), Some(MOST_STATUS));
        let nothing: [&[u8]; 7] =
            [b"", b"READY=0", b"READY=1x", b" READY=1", b"FDSTORE=1", b"\xff\0", b"WATCHDOG_USEC=1"];
        assert_eq!(hear(&nothing), (vec![], None));
        let too_long = [&b"READY=1\n"[..], &[b'x'; 2 * MOST_BYTES]].concat();
        assert_eq!(hear(&[&too_long]), (vec![], None), "half a message is none");
    }

    #[test]
    fn a_flood_costs_so_much_a_turn_and_is_not_heard_by_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = in_dir(dir.path()).bind(me()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let flood = || (0..1000).take_while(|_| sender.send_to(b"READY=1", socket.path()).is_ok()).count();
        assert!(flood() > 0);
        socket.drain();
        assert!(socket.hear(&"a").signs.is_empty());
    }
}
