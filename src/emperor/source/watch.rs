//! What the kernel says of directories and files: inotify(7), and who wants to hear of it.
//!
//! Caller: this room only. One descriptor and no thread; the kernel's queue is the only queue, so that a
//! flood of events is bounded by it and ends in [`Heard::lost`]. An inode is watched once, however many
//! paths lead to it, and each subscriber hears only of the names it asked for.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe;

/// Who asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Target {
    /// The way to a source's first directory; the index of the source.
    Way(usize),
    /// A directory in which vassals, or directories of vassals, are looked for.
    Node(u32),
    /// A symbolic link that has a vassal's name; what it hangs on.
    Link(u32),
}

/// What is to be heard of a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest<'a> {
    /// A directory: everything that happens to any name in it.
    Files,
    /// A directory: names that come and go.
    Entries,
    /// A directory: one name that comes or goes.
    Name(&'a [u8]),
    /// A directory: one name that comes or goes, or whose file is closed after writing.
    File(&'a [u8]),
    /// A directory: only that it is itself moved or removed.
    Place,
    /// A file: its content and its attributes.
    Content,
}

/// A subscription, to be given back with [`Watch::unsubscribe`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Key {
    wd: WatchDescriptor,
    name: Option<Box<[u8]>>,
    target: Target,
}

/// Why a path cannot be watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unwatched {
    /// Too many inotify instances of this user: `fs.inotify.max_user_instances`, or descriptors.
    Instances,
    /// Too many watches of this user: `fs.inotify.max_user_watches`.
    Watches,
    /// Links lead to more places than we watch.
    Links,
    /// The path is not there, or not what it was.
    Vanished,
    /// Anything else.
    Other(Errno),
}

/// What was read at once.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) events: Vec<(Target, Event)>,
    /// Something happened that is not among the events: only a full scan helps.
    pub(super) lost: bool,
}

/// One thing that happened, as one subscriber hears it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) mask: AddWatchFlags,
    /// The entry of the watched directory; `None` when it is about the watched path itself.
    pub(super) name: Option<Box<[u8]>>,
}

impl Event {
    /// Whether the watched path itself is gone or lies elsewhere now.
    pub(super) fn uproots(&self) -> bool {
        self.name.is_none()
            && self.mask.intersects(
                AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_UNMOUNT
                    | AddWatchFlags::IN_IGNORED,
            )
    }
}

#[derive(Debug, Default)]
struct Watched {
    /// Hear of the path itself, and of every name where the flag says so. Most often there is one.
    whole: Vec<(Target, bool)>,
    /// Hear of one name, and of the path itself. Seldom there are any.
    names: Option<Box<ByName>>,
}

type ByName = HashMap<Box<[u8]>, Vec<Target>>;

impl Watched {
    fn is_unused(&self) -> bool {
        self.whole.is_empty() && self.names.is_none()
    }
}

/// The inotify instance and its subscribers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    ready: Option<pipe::Receiver>,
    watched: HashMap<WatchDescriptor, Watched>,
}

impl Watch {
    /// Starts to listen. What has happened before is not heard, so look after this and not before.
    pub(super) fn subscribe(
        &mut self,
        path: &Path,
        interest: Interest<'_>,
        target: Target,
    ) -> Result<Key, Unwatched> {
        let inotify = match &mut self.inotify {
            Some(inotify) => inotify,
            none => match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
                Ok(inotify) => none.insert(inotify),
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => return Err(Unwatched::Instances),
                Err(errno) => return Err(Unwatched::Other(errno)),
            },
        };
        if matches!(target, Target::Link(_)) && self.watched.len() >= MANY {
            return Err(Unwatched::Links);
        }
        let mask = mask_of(interest);
        let add = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD | libc::IN_EXCL_UNLINK);
        let wd = inotify.add_watch(path, mask | add).map_err(|errno| match errno {
            Errno::ENOSPC => Unwatched::Watches,
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Unwatched::Vanished,
            other => Unwatched::Other(other),
        })?;
        let watched = self.watched.entry(wd).or_default();
        let mut key = Key { wd, name: None, target };
        match interest {
            Interest::Files | Interest::Entries | Interest::Place | Interest::Content => {
                watched.whole.reserve_exact(1);
                watched.whole.push((target, matches!(interest, Interest::Files | Interest::Entries)));
            }
            Interest::Name(name) | Interest::File(name) => {
                watched.names.get_or_insert_default().entry(name.into()).or_default().push(target);
                key.name = Some(name.into());
            }
        }
        Ok(key)
    }

    /// Ends a subscription. Nothing happens when the kernel has ended it before.
    pub(super) fn unsubscribe(&mut self, key: &Key) {
        let Some(watched) = self.watched.get_mut(&key.wd) else { return };
        match (&key.name, &mut watched.names) {
            (Some(name), Some(names)) => {
                if let Some(targets) = names.get_mut(name) {
                    if let Some(at) = targets.iter().position(|target| *target == key.target) {
                        targets.swap_remove(at);
                    }
                    if targets.is_empty() {
                        names.remove(name);
                    }
                }
                if names.is_empty() {
                    watched.names = None;
                }
            }
            (Some(_), None) => {}
            (None, _) => {
                if let Some(at) = watched.whole.iter().position(|(target, _)| *target == key.target) {
                    watched.whole.swap_remove(at);
                }
            }
        }
        if watched.is_unused() {
            self.watched.remove(&key.wd);
            if let Some(inotify) = &self.inotify {
                let _gone_before = inotify.rm_watch(key.wd);
            }
        }
    }

    /// Reads what has happened, but no more than is handled within a millisecond or two. What is left stays
    /// in the kernel, and [`Watch::readable`] returns at once.
    pub(super) fn read(&mut self) -> Heard {
        let mut heard = Heard::default();
        for _ in 0..READS {
            let Some(inotify) = &self.inotify else { break };
            let read = match &self.ready {
                Some(ready) => ready.try_io(|| inotify.read_events().map_err(std::io::Error::from)),
                None => inotify.read_events().map_err(std::io::Error::from),
            };
            match read {
                Ok(events) => events.into_iter().for_each(|event| self.hear(event, &mut heard)),
                Err(error) => {
                    heard.lost |= error.kind() != std::io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        heard
    }

    fn hear(&mut self, event: nix::sys::inotify::InotifyEvent, heard: &mut Heard) {
        use std::os::unix::ffi::OsStringExt;
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            heard.lost = true;
            return;
        }
        let Some(watched) = self.watched.get(&event.wd) else { return };
        let mask = event.mask;
        let names = watched.names.as_deref();
        let mut tell = |target: Target, name: Option<&[u8]>| {
            heard.events.push((target, Event { mask, name: name.map(Box::from) }));
        };
        match event.name.map(OsStringExt::into_vec) {
            Some(name) => {
                let all = watched.whole.iter().filter(|(_, all)| *all).map(|(target, _)| target);
                let one = names.and_then(|names| names.get(&*name)).into_iter().flatten();
                all.chain(one).for_each(|target| tell(*target, Some(&name)));
            }
            None => {
                let whole = watched.whole.iter().map(|(target, _)| target);
                let one = names.into_iter().flat_map(HashMap::values).flatten();
                whole.chain(one).for_each(|target| tell(*target, None));
                if mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&event.wd);
                }
            }
        }
    }

    /// Waits until there is something to read. Cancel-safe. Must run within the runtime.
    pub(super) async fn readable(&mut self) {
        if self.ready.is_none()
            && let Some(inotify) = &self.inotify
        {
            // tokio asks the kernel whether it can be read, as of a pipe; it never reads.
            let ready =
                inotify.as_fd().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd_unchecked);
            self.ready = ready.ok();
        }
        match &self.ready {
            Some(ready) if ready.readable().await.is_ok() => {}
            // Without descriptors, or without inotify: the sources are looked at now and then.
            _ => std::future::pending().await,
        }
    }
}

fn mask_of(interest: Interest<'_>) -> AddWatchFlags {
    use AddWatchFlags as F;
    let place = F::IN_DELETE_SELF | F::IN_MOVE_SELF;
    let entries = place | F::IN_CREATE | F::IN_DELETE | F::IN_MOVED_FROM | F::IN_MOVED_TO | F::IN_ONLYDIR;
    let content = F::IN_MODIFY | F::IN_CLOSE_WRITE | F::IN_ATTRIB;
    match interest {
        Interest::Files => entries | content,
        Interest::Entries => entries | F::IN_ATTRIB,
        Interest::Name(_) => entries,
        Interest::File(_) => entries | F::IN_CLOSE_WRITE,
        Interest::Place => place | F::IN_ONLYDIR,
        Interest::Content => place | content,
    }
}

/// Reads of 4 KiB for one wake-up: about a thousand events of ordinary names.
const READS: u32 = 8;

/// Beyond so many watched inodes no link is followed by watches: a tenant can make links for nothing.
const MANY: usize = 65_536;
