//! A service manager, as far as an emperor needs one: it keeps descriptors, and passes them to the next.

use super::{PATIENCE, poll};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, UnixAddr, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One message on the notification socket: its lines, and what came beside it.
type Message = (String, Vec<OwnedFd>);

/// The manager. Dropping it closes all that it keeps.
pub(crate) struct Manager {
    kept: Arc<Mutex<Kept>>,
    socket: PathBuf,
    door: PathBuf,
}

#[derive(Default)]
struct Kept {
    store: Vec<(String, OwnedFd)>,
    room: usize,
    said: Vec<String>,
}

impl Manager {
    /// One that keeps so many descriptors, with its sockets in this directory.
    pub(crate) fn new(directory: &Path, room: usize) -> Self {
        let (socket, door) = (directory.join("notify"), directory.join("door"));
        let listener = UnixDatagram::bind(&socket).expect("the notification socket");
        let kept = Arc::new(Mutex::new(Kept { room, ..Kept::default() }));
        let theirs = Arc::downgrade(&kept);
        listener.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        std::thread::spawn(move || {
            while let Some(kept) = theirs.upgrade() {
                // Held back while the test holds the lock, so that what it saw stays so.
                if let Some(message) = receive(&listener) {
                    kept.lock().expect("the store").take(message);
                }
            }
        });
        Self { kept, socket, door }
    }

    /// The variable that tells of it.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Passes what it keeps to whoever is started next; gives the usher's word for it.
    pub(crate) fn pass(&self) -> String {
        self.hear_all();
        let kept = self.kept.lock().expect("the store");
        let names: Vec<&str> = kept.store.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(":");
        let copies: Vec<OwnedFd> = kept.store.iter().map(|(_, fd)| fd.try_clone().expect("a copy")).collect();
        let door = self.door.clone();
        let _ = std::fs::remove_file(&door);
        let listener = UnixListener::bind(&door).expect("the door");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody who is started");
            let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
            let beside = [ControlMessage::ScmRights(&numbers)];
            let text = [IoSlice::new(names.as_bytes())];
            sendmsg::<UnixAddr>(stream.as_raw_fd(), &text, &beside, MsgFlags::empty(), None)
                .expect("a message");
        });
        format!("passed={}", self.door.display())
    }

    /// Returns when everything that was sent before has been heard.
    pub(crate) fn hear_all(&self) {
        let before = self.heard("END");
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.send_to(b"END", &self.socket).expect("a message");
        poll(PATIENCE, || (self.heard("END") > before).then_some(())).expect("an end of the messages");
    }

    /// The names under which something is kept, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let kept = self.kept.lock().expect("the store");
        let mut names: Vec<_> = kept.store.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// How many descriptors are kept for vassals, and sockets.
    pub(crate) fn vassals(&self) -> usize {
        let kinds = ["emperor-vassal-", "emperor-socket-"];
        self.names().iter().filter(|name| kinds.iter().any(|kind| name.starts_with(kind))).count()
    }

    /// Waits until that are so many.
    pub(crate) fn until_vassals(&self, count: usize) {
        let done = poll(PATIENCE, || (self.vassals() == count).then_some(()));
        assert!(done.is_some(), "{count} wanted, there are {:?}", self.names());
    }

    /// Drops, or changes, what is kept.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<(String, OwnedFd)>)) {
        change(&mut self.kept.lock().expect("the store").store);
    }

    /// How often it was told this line.
    pub(crate) fn heard(&self, line: &str) -> usize {
        let kept = self.kept.lock().expect("the store");
        kept.said.iter().filter(|said| said.lines().any(|said| said == line)).count()
    }
}

impl Kept {
    fn take(&mut self, (text, descriptors): Message) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored").to_owned();
        if value("FDSTOREREMOVE") == Some("1") {
            self.store.retain(|(other, _)| *other != name);
        } else if value("FDSTORE") == Some("1") {
            for descriptor in descriptors {
                // As in systemd: what is there stays under its first name, and only there.
                let is_there = self.store.iter().any(|(_, other)| is_same_socket(other, &descriptor));
                if !is_there && self.store.len() < self.room {
                    self.store.push((name.clone(), descriptor));
                }
            }
        }
        self.said.push(text);
    }
}

fn is_same_socket(one: &OwnedFd, other: &OwnedFd) -> bool {
    use nix::sys::stat::{SFlag, fstat};
    let about = |fd: &OwnedFd| fstat(fd).map(|it| (it.st_mode & SFlag::S_IFMT.bits(), it.st_ino)).ok();
    let (one, other) = (about(one), about(other));
    one == other && one.is_some_and(|(kind, _)| kind == SFlag::S_IFSOCK.bits())
}

fn receive(socket: &UnixDatagram) -> Option<Message> {
    let mut text = [0; 4096];
    let mut space = cmsg_space!([RawFd; 253]);
    let mut slices = [IoSliceMut::new(&mut text)];
    let received: RecvMsg<'_, '_, UnixAddr> =
        recvmsg(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just given us these numbers.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let length = received.bytes;
    Some((String::from_utf8_lossy(&text[..length]).into_owned(), descriptors))
}
