//! The tree of groups: found, taken over, and given back.

use std::io;
use std::path::{Path, PathBuf};

use super::Controllers;
use super::dir::{Dir, Version};
use super::find::Own;
use crate::sys::cgroup;

/// The group of the emperor itself, in a tree that is its own.
const LEAF: &str = "emperor";
/// The group of all vassals there.
const VASSALS: &str = "vassals";
/// Processes may be made while they are moved.
const ROUNDS: u32 = 16;

/// Where the vassals' groups are.
#[derive(Debug)]
pub(super) struct Tree {
    /// Version 2: for the processes, and for the limits whose controllers it has.
    pub(super) unified: Option<Unified>,
    /// Version 1: for the other limits.
    pub(super) legacy: Vec<Legacy>,
}

#[derive(Debug)]
pub(super) struct Unified {
    pub(super) top: Dir,
    pub(super) controllers: Controllers,
    /// The group above, and the name of `top` in it.
    base: Dir,
    name: String,
    /// Whether we have moved into the leaf ourselves.
    moved: bool,
    /// Why there are fewer controllers than there could be.
    pub(super) shared: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) top: Dir,
    pub(super) controllers: Controllers,
    base: Dir,
    name: String,
}

/// Why there are no groups of a version.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("no control group file system is mounted")]
    None,
    #[error("{}", path.display())]
    At { path: PathBuf, source: io::Error },
}

impl Tree {
    /// Finds this process's own groups, and makes the vassals' tree below each of them. `name` is that of a tree which
    /// others may stand beside; a hierarchy that only freezes is of use if somebody is to be frozen.
    ///
    /// # Errors
    /// There is none that we may make groups in; why the first of them is not.
    pub(super) fn open(name: &str, freezes: bool) -> Result<Self, TreeError> {
        let read =
            |path: &str| std::fs::read(path).map_err(|source| TreeError::At { path: path.into(), source });
        let own = Own::find(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        let mut trouble = None;
        let mut first = |error| {
            trouble.get_or_insert(error);
        };
        let unified = own.unified.as_ref().and_then(|path| {
            Unified::open(path, own.is_top, name)
                .map_err(|source| first(TreeError::At { path: path.clone(), source }))
                .ok()
        });
        let mut there = unified.as_ref().map_or(Controllers::default(), |unified| unified.controllers);
        if !freezes {
            there = there | Controllers::FREEZER;
        }
        let mut legacy = Vec::new();
        for (controllers, path) in own.legacy {
            if controllers.without(there).is_empty() {
                continue;
            }
            match Legacy::open(&path, controllers, name) {
                Ok(hierarchy) => legacy.push(hierarchy),
                Err(source) => first(TreeError::At { path, source }),
            }
        }
        if unified.is_none() && legacy.is_empty() {
            return Err(trouble.unwrap_or(TreeError::None));
        }
        Ok(Self { unified, legacy })
    }

    /// Which limits can be set at all.
    pub(super) fn controllers(&self) -> Controllers {
        let unified = self.unified.as_ref().map_or(Controllers::default(), |unified| unified.controllers);
        self.legacy.iter().fold(unified, |all, hierarchy| all | hierarchy.controllers)
    }

    /// Removes what is empty, and goes back to where this process was.
    pub(super) fn close(self) {
        for Legacy { base, name, .. } in self.legacy {
            // What is not empty stays: somebody is in it.
            let _ = base.remove_tree(&name);
        }
        let Some(Unified { base, name, controllers, moved, top, .. }) = self.unified else { return };
        drop(top);
        let _ = base.remove_tree(&name);
        if moved {
            for controller in controllers.names() {
                let _ = base.write("cgroup.subtree_control", &format!("-{controller}"));
            }
            if base.write("cgroup.procs", "0").is_ok() {
                let _ = base.remove(LEAF);
            }
        }
    }
}

impl Unified {
    fn open(path: &Path, is_top: bool, name: &str) -> io::Result<Self> {
        let own = Dir::open(path, Version::Unified)?;
        // A program before this one has been here, or the service manager has put us into our leaf.
        if path.file_name().is_some_and(|name| name == LEAF)
            && let Some(above) = path.parent().and_then(|above| Dir::open(above, Version::Unified).ok())
            && (above.has(VASSALS) || cgroup::is_delegated(std::os::fd::AsFd::as_fd(&above)))
        {
            return Self::below(above, VASSALS, true, None);
        }
        if !own.has("cgroup.type") {
            return Self::below(own, name, false, None); // the root, which may have both processes and groups
        }
        let delegated = is_top || cgroup::is_delegated(std::os::fd::AsFd::as_fd(&own)) || is_alone(&own)?;
        if !delegated {
            let why = "other processes are in the emperor's own group, which is not delegated to it: start it as a \
                       service with Delegate=yes, or by systemd-run -p Delegate=yes";
            return Self::below(own, name, false, Some(why));
        }
        own.make(LEAF)?;
        let moved = vacate(&own);
        if let Err(error) = moved {
            let _ = own.remove(LEAF);
            return Err(error);
        }
        Self::below(own, VASSALS, true, None)
    }

    fn below(base: Dir, name: &str, moved: bool, shared: Option<&'static str>) -> io::Result<Self> {
        base.make(name)?;
        let top = base.below(name)?;
        if shared.is_none() {
            hand_down(&base);
            hand_down(&top);
        }
        let mut controllers = Controllers::of_names(&top.read("cgroup.subtree_control")?);
        if top.has("cgroup.freeze") {
            controllers = controllers | Controllers::FREEZER;
        }
        Ok(Self { top, controllers, base, name: name.to_owned(), moved, shared })
    }
}

/// Lets the groups below have what this one has, as far as we know it and may.
fn hand_down(group: &Dir) {
    let there = group.read("cgroup.controllers").unwrap_or_default();
    let down = Controllers::of_names(&group.read("cgroup.subtree_control").unwrap_or_default());
    for controller in Controllers::of_names(&there).without(down).names() {
        // What is refused is missing, which is said when a limit needs it.
        let _ = group.write("cgroup.subtree_control", &format!("+{controller}"));
    }
}

/// Moves all processes of a group that is ours into the leaf: a group that hands controllers down holds none.
fn vacate(own: &Dir) -> io::Result<()> {
    let procs = format!("{LEAF}/cgroup.procs");
    for _ in 0..ROUNDS {
        let processes = own.processes("")?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in processes {
            match own.write(&procs, &process.to_string()) {
                Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
    }
    Err(io::Error::other("new processes appear in it as fast as they are moved"))
}

/// Whether every process of a group is this one or has been started by it.
fn is_alone(own: &Dir) -> io::Result<bool> {
    let itself = i32::try_from(std::process::id()).unwrap_or_default();
    let descends = |mut process: i32| {
        for _ in 0..64 {
            if process == itself {
                return true;
            }
            match parent(process) {
                Some(above) if above > 0 => process = above,
                _ => return false,
            }
        }
        false
    };
    Ok(own.processes("")?.into_iter().all(descends))
}

/// Source: proc(5), `/proc/PID/stat`, field 4.
fn parent(process: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

impl Legacy {
    fn open(path: &Path, controllers: Controllers, name: &str) -> io::Result<Self> {
        let base = Dir::open(path, Version::Legacy)?;
        base.make(name)?;
        let top = base.below(name)?;
        Ok(Self { top, controllers, base, name: name.to_owned() })
    }
}
