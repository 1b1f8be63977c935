//! Lays out a [`Scene`]: the file system as the vassal sees it.
//!
//! Everything that the host has to give is taken first, as it is there; then what shall not be seen or written is
//! covered or closed; then what was taken is laid over it. A tree gets its attributes before it appears anywhere.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, umask};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{Uid, User, symlinkat};

use super::super::link::Failure;
use super::super::plan::Step;
use super::super::text::Text;
use super::path::{Kind, Walk, kind_of};
use super::scene::{Bind, Entry, Proc, Root, Scene, Tmpfs, What};
use crate::sys::fs_identity::acting_for;
use crate::sys::mounts::{Limits, Tree, become_root, limit};

/// The device files of a private `/dev`. Source: systemd.exec(5), `PrivateDevices`.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What programs expect in `/dev` besides.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
const READ_ONLY: Limits = Limits { read_only: true, no_suid: false, no_dev: false, no_exec: false };
const DATA: Limits = Limits { read_only: false, no_suid: true, no_dev: true, no_exec: false };
const NO_FILES: Limits = Limits { read_only: false, no_suid: true, no_dev: true, no_exec: true };
const ANY_PATH: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Lays the scene out, in the mount namespace that this process has to itself. The working directory is the same
/// path in the new view.
pub(in super::super) fn build(scene: &Scene) -> Result<(), Failure> {
    let failed = |object: &str, error: io::Error| Failure::new(Step::View, &object, &error);
    let directory = std::env::current_dir();
    let directory = directory.map_err(|error| Failure::new(Step::ChangeDir, &"working directory", &error))?;
    let host =
        open("/", ANY_PATH | OFlag::O_DIRECTORY, Mode::empty()).map_err(|errno| failed("/", errno.into()))?;
    let mut scene = scene.clone();
    scene.entries.extend(scene.home_of.and_then(|uid| home(&host, uid)));
    scene.sort();
    let before = umask(Mode::from_bits_truncate(0o022));
    let built = Builder::new(&host, &scene.root)
        .map_err(|error| failed("/", error))
        .and_then(|builder| builder.build(&scene).map_err(|(entry, error)| failed(&entry, error)));
    umask(before);
    built?;
    // Also in the host's root: the old working directory is in a mount that is covered by now. A directory that became
    // the root need not have it.
    let inside = matches!(scene.root, Root::Directory(_)) && !directory.is_dir();
    let entered = std::env::set_current_dir(if inside { Path::new("/") } else { &directory });
    entered.map_err(|error| Failure::new(Step::ChangeDir, &directory.display(), &error))
}

/// The home of a user stays, as it is, if it is that user's.
fn home(host: &OwnedFd, uid: u32) -> Option<Entry> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    let is = fstat(&Walk { root: host.as_fd(), trusted: None }.find(&user.dir).ok()?).ok()?;
    let bind = Bind { source: user.dir.as_os_str().into(), read_only: false, opened_as: None };
    let own = is.st_uid == uid && kind_of(&is) == SFlag::S_IFDIR && user.dir.is_absolute();
    // Elsewhere it would be no home but a part of the system.
    let hidden = ["/home", "/root", "/run/user"].iter().any(|top| user.dir.starts_with(top));
    (own && hidden).then(|| Entry::new(user.dir.into_os_string(), What::Bind(bind)).or_nothing())
}

/// What was taken from the host for one entry, before anything was changed.
enum Taken {
    Nothing,
    Tree(Tree, Kind),
    Link(PathBuf),
    Nodes(Vec<(&'static str, Tree)>, Option<Tree>),
    Missing,
}

struct Builder<'h> {
    host: &'h OwnedFd,
    root: Option<Tree>,
    /// Devices of the file systems that were made here, in which nobody else has put anything yet.
    ours: BTreeSet<u64>,
    /// What becomes read-only when everything is in its place.
    later: Vec<Tree>,
}

type Wrong = (String, io::Error);

impl<'h> Builder<'h> {
    fn new(host: &'h OwnedFd, root: &Root) -> io::Result<Self> {
        let mut builder = Self { host, root: None, ours: BTreeSet::new(), later: Vec::new() };
        match root {
            Root::Host => {}
            Root::Empty => {
                let bounds = Tmpfs { bytes: 1 << 20, inodes: 4096, mode: 0o755, read_only: true };
                builder.root = Some(builder.tmpfs(bounds, DATA)?);
            }
            Root::Directory(path) => {
                let there = builder.of_host(None).find(path.as_path())?;
                builder.root = Some(Tree::copy(there.as_fd(), false)?);
            }
        }
        Ok(builder)
    }

    fn of_host(&self, trusted: Option<u32>) -> Walk<'_> {
        Walk { root: self.host.as_fd(), trusted }
    }

    fn of_view(&self, trusted: Option<u32>) -> Walk<'_> {
        let root = self.root.as_ref().map_or(self.host.as_fd(), AsFd::as_fd);
        Walk { root, trusted }
    }

    fn build(mut self, scene: &Scene) -> Result<(), Wrong> {
        let mut taken = Vec::with_capacity(scene.entries.len());
        for entry in &scene.entries {
            taken.push(match self.take(entry) {
                Err(error) if entry.optional && is_missing(&error) => Taken::Missing,
                took => took.map_err(|error| (source_of(entry), error))?,
            });
        }
        if let Some(root) = &self.root {
            // Over the old root, which lets go of it all in the end.
            root.attach(self.host.as_fd()).map_err(|error| ("/".into(), error))?;
        }
        for (entry, taken) in scene.entries.iter().zip(taken) {
            match self.lay(entry, taken) {
                Err(error) if entry.optional && is_missing(&error) => {}
                laid => laid.map_err(|error| (entry.target.to_string(), error))?,
            }
        }
        self.finish(scene).map_err(|error| ("/".into(), error))
    }

    /// Takes what an entry needs of the host.
    fn take(&self, entry: &Entry) -> io::Result<Taken> {
        let target = entry.target.as_path();
        Ok(match &entry.what {
            What::Bind(bind) => {
                let there = self.source(bind)?;
                let kind = kind(&fstat(&there)?);
                let tree = Tree::copy(there.as_fd(), true)?;
                let no_dev = bind.opened_as.is_some();
                tree.limit(Limits { read_only: bind.read_only, no_dev, ..Limits::default() }, true)?;
                Taken::Tree(tree, kind)
            }
            What::System => {
                let name = target.strip_prefix("/").unwrap_or(target);
                let is = fstatat(self.host, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if kind_of(&is) == SFlag::S_IFLNK {
                    return Ok(Taken::Link(readlinkat(self.host, name)?.into()));
                }
                let there = self.of_host(None).find(target)?;
                let tree = Tree::copy(there.as_fd(), true)?;
                tree.limit(READ_ONLY, true)?;
                Taken::Tree(tree, kind(&is))
            }
            What::Devices(_) => {
                let node = |name: &'static str| {
                    let there = self.of_host(None).find(&Path::new("/dev").join(name))?;
                    Ok((name, self.device(&there)?))
                };
                let nodes = NODES.into_iter().map(node).collect::<io::Result<_>>()?;
                let log = self.of_host(None).find(Path::new("/dev/log")).ok();
                let log = log.filter(|fd| fstat(fd).is_ok_and(|is| kind_of(&is) == SFlag::S_IFSOCK));
                Taken::Nodes(nodes, log.map(|fd| Tree::copy(fd.as_fd(), false)).transpose()?)
            }
            What::Inaccessible => {
                let there = self.of_host(None).find(Path::new("/dev/null"))?;
                let tree = self.device(&there)?;
                tree.limit(Limits { read_only: true, ..NO_FILES }, false)?; // a device that cannot be opened
                Taken::Tree(tree, Kind::Other)
            }
            What::ReadOnly | What::Tmpfs(_) | What::Proc(_) | What::ControlGroups => Taken::Nothing,
        })
    }

    /// The source of a bind. One that a tenant has asked for is found with the tenant's rights, and is the tenant's.
    fn source(&self, bind: &Bind) -> io::Result<OwnedFd> {
        let Some((uid, _)) = bind.opened_as else { return self.of_host(None).find(bind.source.as_path()) };
        let there = acting_for(bind.opened_as, || self.of_host(Some(uid)).find(bind.source.as_path()))?;
        let owner = fstat(&there)?.st_uid;
        if owner == uid {
            return Ok(there);
        }
        Err(io::Error::other(format!(
            "it belongs to uid {owner}, and a tenant can open only what is its own: uid {uid}"
        )))
    }

    fn device(&self, there: &OwnedFd) -> io::Result<Tree> {
        if kind_of(&fstat(there)?) != SFlag::S_IFCHR {
            return Err(io::Error::other("it is no device on this host"));
        }
        let tree = Tree::copy(there.as_fd(), false)?;
        tree.limit(Limits { no_suid: true, no_exec: true, ..Limits::default() }, false)?;
        Ok(tree)
    }

    fn lay(&mut self, entry: &Entry, taken: Taken) -> io::Result<()> {
        let target = entry.target.as_path();
        let trusted = match &entry.what {
            What::Bind(bind) => bind.opened_as.map(|(uid, _)| uid),
            _ => None,
        };
        let find =
            |kind| self.of_view(trusted).find_or_make(target, kind, |is| self.ours.contains(&is.st_dev));
        match (&entry.what, taken) {
            (_, Taken::Missing) => Ok(()),
            (What::System, Taken::Link(text)) => match &self.root {
                Some(root) => Ok(symlinkat(&text, root, target.strip_prefix("/").unwrap_or(target))?),
                None => Ok(()), // the host's, and what it leads to is an entry of its own
            },
            (What::Inaccessible, Taken::Tree(null, _)) => {
                let place = find(Kind::Directory)?;
                if kind(&fstat(&place)?) == Kind::Other {
                    return null.attach(place.as_fd());
                }
                let bounds = Tmpfs { bytes: 4096, inodes: 1, mode: 0, read_only: true };
                let tree = self.tmpfs(bounds, Limits { read_only: true, ..NO_FILES })?;
                tree.attach(place.as_fd())
            }
            (_, Taken::Tree(tree, kind)) => tree.attach(find(kind)?.as_fd()),
            (What::Devices(bounds), Taken::Nodes(nodes, log)) => {
                let place = find(Kind::Directory)?;
                self.devices(*bounds, &place, nodes, log)
            }
            (What::ReadOnly, _) if target == Path::new("/") => {
                limit(self.of_view(None).root, READ_ONLY, true)
            }
            (What::ReadOnly, _) => {
                let place = self.of_view(None).find(target)?;
                let tree = Tree::copy(place.as_fd(), true)?;
                tree.limit(READ_ONLY, true)?;
                tree.attach(place.as_fd())
            }
            (What::Tmpfs(bounds), _) => {
                let place = find(Kind::Directory)?;
                let tree = self.tmpfs(*bounds, DATA)?;
                tree.attach(place.as_fd())?;
                if bounds.read_only {
                    self.later.push(tree);
                }
                Ok(())
            }
            (What::Proc(proc), _) => {
                let place = find(Kind::Directory)?;
                self::proc(*proc)?.attach(place.as_fd())
            }
            (What::ControlGroups, _) => {
                let place = self.of_view(None).find(target)?;
                control_groups(&place)?.attach(place.as_fd())
            }
            (What::Bind(_) | What::System | What::Devices(_) | What::Inaccessible, _) => Ok(()),
        }
    }

    fn tmpfs(&mut self, bounds: Tmpfs, limits: Limits) -> io::Result<Tree> {
        let tree = tmpfs(bounds, limits)?;
        self.ours.insert(fstat(&tree)?.st_dev);
        Ok(tree)
    }

    /// A `/dev` of its own.
    fn devices(
        &mut self,
        bounds: Tmpfs,
        place: &OwnedFd,
        nodes: Vec<(&'static str, Tree)>,
        log: Option<Tree>,
    ) -> io::Result<()> {
        let limits = Limits { no_dev: false, ..NO_FILES };
        let dev = self.tmpfs(Tmpfs { bytes: 64 << 10, inodes: 64, mode: 0o755, read_only: true }, limits)?;
        dev.attach(place.as_fd())?;
        let of_dev = Walk { root: dev.as_fd(), trusted: None };
        let make = |name: &str, kind| of_dev.find_or_make(Path::new(name), kind, |_| true);
        for (name, tree) in nodes {
            tree.attach(make(name, Kind::Other)?.as_fd())?;
        }
        if let Some(log) = log {
            log.attach(make("log", Kind::Other)?.as_fd())?;
        }
        for (text, name) in LINKS {
            symlinkat(text, &dev, name)?;
        }
        tmpfs(bounds, NO_FILES)?.attach(make("shm", Kind::Directory)?.as_fd())?;
        let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        let pts = Tree::file_system("devpts", &options, Limits { no_dev: false, ..NO_FILES })?;
        pts.attach(make("pts", Kind::Directory)?.as_fd())?;
        self.later.push(dev);
        Ok(())
    }

    fn finish(self, scene: &Scene) -> io::Result<()> {
        for tree in &self.later {
            tree.limit(READ_ONLY, false)?;
        }
        let root = self.of_view(None).root;
        if scene.root == Root::Empty {
            limit(root, READ_ONLY, false)?;
        }
        if scene.no_suid {
            limit(root, Limits { no_suid: true, ..Limits::default() }, true)?;
        }
        if self.root.is_some() { become_root(root) } else { Ok(()) }
    }
}

fn tmpfs(bounds: Tmpfs, limits: Limits) -> io::Result<Tree> {
    let options = [
        ("size", bounds.bytes.to_string()),
        ("nr_inodes", bounds.inodes.to_string()),
        ("mode", format!("{:o}", bounds.mode & 0o1777)),
    ];
    let options: Vec<(&str, &str)> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Tree::file_system("tmpfs", &options, limits)
}

fn proc(wanted: Proc) -> io::Result<Tree> {
    let mut options = vec![("hidepid", wanted.hide.word())];
    options.extend(wanted.only_processes.then_some(("subset", "pid")));
    Tree::file_system("proc", &options, NO_FILES)
}

fn control_groups(place: &OwnedFd) -> io::Result<Tree> {
    let limits = Limits { read_only: true, ..NO_FILES };
    if fstatfs(place)?.filesystem_type() == CGROUP2_SUPER_MAGIC
        && let Ok(tree) = Tree::file_system("cgroup2", &[], limits)
    {
        return Ok(tree);
    }
    let tree = Tree::copy(place.as_fd(), true)?;
    tree.limit(limits, true)?;
    Ok(tree)
}

fn kind(is: &FileStat) -> Kind {
    if kind_of(is) == SFlag::S_IFDIR { Kind::Directory } else { Kind::Other }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR))
}

fn source_of(entry: &Entry) -> String {
    match &entry.what {
        What::Bind(bind) if bind.source != entry.target => format!("{} for {}", bind.source, entry.target),
        _ => Text::to_string(&entry.target),
    }
}
