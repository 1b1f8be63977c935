//! One name: what stands under it now, where it leads, and what is said of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;

use super::name;
use super::resolve::{self, Dependency};
use super::settle::{ABSENCE, Change, Place, Shape, Waiting};
use super::sources::{Hint, Link, Sources};
use super::stat::{self, Found, Kind, Listing, Look};
use super::tree::{Scan, TRIES};
use super::watch::Target;
use super::{Oddity, Report, SourceId};

/// The directory that was looked into last: most events of one wake-up are from the same.
pub(super) type Open = Option<(u32, OwnedFd)>;

impl Sources {
    /// Something happened to a name.
    pub(super) fn look_at(
        &mut self,
        place: &Place,
        hint: Hint,
        open: &mut Open,
        now: Instant,
        report: &mut dyn FnMut(Report),
    ) {
        let Some(directory) = self.directory(place.0, open, now) else { return };
        let Some(node) = self.nodes.get(&place.0) else { return };
        let source = usize::from(node.source);
        if usize::from(node.level) + 1 < self.sources[source].levels.len() {
            return self.look_at_child(place, directory, now, report);
        }
        let (id, vassal) = (SourceId(node.source), self.vassal(node, &place.1));
        if let Some(oddity) = name::oddity(vassal.as_bytes()) {
            let there = !matches!(stat::look(directory, &place.1, self.follow), Look::Absent);
            return report(if there { Report::Odd(id, vassal, oddity) } else { Report::Gone(id, vassal) });
        }
        let was_elsewhere = node.links.get(&place.1).is_some();
        let look = self.look_through(place, directory, hint.relink);
        match look {
            Look::File(found) => {
                if found.kind == Kind::Shared && !was_elsewhere {
                    self.ask(source, now + ABSENCE); // its other name may be ours, too
                }
                let shape = shape(&found, hint.inner, stat::wall_clock());
                if self.settle.changed(place, hint.change, shape, now) {
                    report(Report::Seen(id, vassal, found.identity));
                }
            }
            Look::Absent | Look::Odd(Oddity::DanglingLink, _) => {
                self.settle.absent(place, now);
            }
            Look::Odd(oddity, _) => {
                self.settle.forget(place);
                report(Report::Odd(id, vassal, oddity));
            }
            Look::Refused(_) => self.ask_for(place, now),
        }
    }

    /// The names that waited long enough.
    pub(super) fn waited(&mut self, now: Instant, report: &mut dyn FnMut(Report)) {
        let (mut open, wall_clock) = (None, stat::wall_clock());
        for _ in 0..AT_ONCE {
            let Some((place, waiting)) = self.settle.due(now) else { return };
            let Some(directory) = self.directory(place.0, &mut open, now) else { continue };
            let look = self.look_through(&place, directory, false);
            let Some(node) = self.nodes.get(&place.0) else { continue };
            let (id, vassal) = (SourceId(node.source), self.vassal(node, &place.1));
            match (look, waiting) {
                (Look::File(found), Waiting::Writing { .. }) => {
                    if self.settle.looked_again(&place, waiting, shape(&found, true, wall_clock), now) {
                        report(Report::Seen(id, vassal, found.identity));
                    }
                }
                (Look::File(found), Waiting::Absent { .. }) => {
                    if self.settle.changed(&place, Change::Created, shape(&found, true, wall_clock), now) {
                        report(Report::Seen(id, vassal, found.identity));
                    }
                }
                (Look::Absent | Look::Odd(Oddity::DanglingLink, _), Waiting::Writing { .. }) => {
                    self.settle.absent(&place, now);
                }
                (look @ (Look::Absent | Look::Odd(..)), Waiting::Absent { first }) => {
                    if self.settle.still_absent(&place, first, now) {
                        report(match look {
                            Look::Odd(oddity, _) => Report::Odd(id, vassal, oddity),
                            _ => Report::Gone(id, vassal),
                        });
                    }
                }
                (Look::Odd(oddity, _), Waiting::Writing { .. }) => report(Report::Odd(id, vassal, oddity)),
                (Look::Refused(_), _) => self.ask_for(&place, now),
            }
        }
    }

    /// A name that a scan came across.
    pub(super) fn scan_name(
        &mut self,
        place: &Place,
        listing: &Listing,
        scan: &mut Scan<'_>,
        links: &mut Vec<Rc<[u8]>>,
    ) -> Result<(), (PathBuf, Errno)> {
        let node = &self.nodes[&place.0];
        let (id, vassal) = (SourceId(node.source), self.vassal(node, &place.1));
        if let Some(oddity) = name::oddity(vassal.as_bytes()) {
            if listing.is_read() {
                (scan.report)(Report::Odd(id, vassal, oddity));
            }
            return Ok(());
        }
        let look = self.look_through(place, listing.directory(), true);
        if look.is_elsewhere() {
            links.push(Rc::clone(&place.1));
        }
        match look {
            Look::File(found) => {
                if self.settle.scanned(place, scan.first, shape(&found, true, scan.wall_clock), scan.now) {
                    (scan.report)(Report::Seen(id, vassal, found.identity));
                } else {
                    (scan.report)(Report::Writing(id, vassal));
                }
            }
            Look::Odd(oddity, _) => {
                self.settle.forget(place);
                (scan.report)(Report::Odd(id, vassal, oddity));
            }
            Look::Absent => {}
            Look::Refused(errno) => return Err((self.path(&self.nodes[&place.0]), errno)),
        }
        Ok(())
    }

    /// Something happened to the name of a directory in which to go on.
    fn look_at_child(
        &mut self,
        place: &Place,
        directory: &OwnedFd,
        now: Instant,
        report: &mut dyn FnMut(Report),
    ) {
        if stat::is_link(directory, &place.1) {
            self.follow_link(place);
        }
        let node = &self.nodes[&place.0];
        let at = usize::from(node.source);
        let before = node.children.get(&place.1).and_then(|child| self.nodes.get(&child));
        let is_new = before.is_none();
        match stat::directory_behind(directory, &place.1) {
            Ok(inode) if before.is_some_and(|child| child.inode == inode && child.key.is_some()) => {}
            Ok(inode) if is_new => {
                let child = self.child(place, inode);
                let mut scan = Scan { first: false, now, wall_clock: stat::wall_clock(), report };
                if self.expand(child, &mut scan).is_err() {
                    self.ask(at, now + ABSENCE);
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) if is_new => {}
            // What was below it may be gone, and only a scan can tell.
            _ => self.ask(at, now + ABSENCE),
        }
    }

    /// Looks at a name; where it is a link, sees to it that its way is watched.
    fn look_through(&mut self, place: &Place, directory: impl std::os::fd::AsFd, relink: bool) -> Look {
        let look = stat::look(&directory, &place.1, self.follow);
        let known = self.nodes.get(&place.0).and_then(|node| node.links.get(&place.1));
        match (look.is_elsewhere(), known) {
            (true, known) if relink || known.is_none() => {
                self.follow_link(place);
                stat::look(&directory, &place.1, self.follow)
            }
            (false, Some(link)) if !matches!(look, Look::Refused(_)) => {
                if let Some(node) = self.nodes.get_mut(&place.0) {
                    node.links.remove(&place.1);
                }
                self.drop_link(link);
                look
            }
            _ => look,
        }
    }

    /// Watches everything that a symbolic link hangs on.
    pub(super) fn follow_link(&mut self, place: &Place) {
        let Some(node) = self.nodes.get(&place.0) else { return };
        let (at, path) = (usize::from(node.source), self.path(node));
        let link = node.links.get(&place.1).unwrap_or_else(|| {
            self.last_id += 1;
            self.last_id
        });
        if let Some(node) = self.nodes.get_mut(&place.0) {
            node.links.insert(&place.1, link);
        }
        let mut walk = resolve::to_file(&path, &place.1);
        for _ in 0..TRIES {
            // The name itself is one of its directory, which is watched.
            let is_own = |on: &&Dependency| match on {
                Dependency::Name(directory, name) | Dependency::File(directory, name) => {
                    *directory == path && **name == *place.1
                }
                Dependency::Place(_) | Dependency::Content(_) => false,
            };
            let others: Vec<_> = walk.dependencies.iter().filter(|on| !is_own(on)).collect();
            let keys = self.depend(at, Target::Link(link), others);
            if let Some(before) = self.links.insert(link, Link { place: place.clone(), keys }) {
                before.keys.iter().for_each(|key| self.watch.unsubscribe(key));
            }
            // Only what changes from here on is heard: so look once more.
            let again = resolve::to_file(&path, &place.1);
            if again == walk {
                return;
            }
            walk = again;
        }
        self.ask(at, Instant::now() + ABSENCE);
    }

    pub(super) fn drop_link(&mut self, link: u32) {
        if let Some(link) = self.links.remove(&link) {
            link.keys.iter().for_each(|key| self.watch.unsubscribe(key));
        }
    }

    /// Opens a node's directory to look into it; `None`, and a scan, when it is not the one we know.
    fn directory<'a>(&mut self, id: u32, open: &'a mut Open, now: Instant) -> Option<&'a OwnedFd> {
        if open.as_ref().is_none_or(|(before, _)| *before != id) {
            let node = self.nodes.get(&id)?;
            let fd = stat::open_directory(&self.path(node));
            match fd.and_then(|fd| Ok((stat::inode(&fd)?, fd))) {
                Ok((inode, fd)) if inode == node.inode => *open = Some((id, fd)),
                _ => {
                    let at = usize::from(node.source);
                    self.ask(at, now + ABSENCE);
                    return None;
                }
            }
        }
        open.as_ref().map(|(_, fd)| fd)
    }

    pub(super) fn ask_for(&mut self, place: &Place, now: Instant) {
        if let Some(node) = self.nodes.get(&place.0) {
            self.ask(usize::from(node.source), now + ABSENCE);
        }
    }
}

/// `inner`: what happened, happened to the file behind a link, which can be half written, and not to the link.
fn shape(found: &Found, inner: bool, wall_clock: i64) -> Shape {
    let Found { identity, kind } = found;
    let whole = match kind {
        Kind::Plain => false,
        Kind::Link | Kind::Shared => true,
        Kind::Followed => !inner,
    };
    let age = stat::age(identity.mtime_ns, wall_clock);
    Shape { size: identity.size, mtime_ns: identity.mtime_ns, whole, age }
}

/// Names looked at in one go.
const AT_ONCE: u32 = 1_000;
