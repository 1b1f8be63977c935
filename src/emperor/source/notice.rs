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
use super::stat::{self, Found, Listing, Look};
use super::tree::{Scan, TRIES};
use super::watch::Target;
use super::{Oddity, Report};

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
        if node.level + 1 < self.sources[node.source].levels.len() {
            return self.look_at_child(place, directory, now, report);
        }
        let (id, vassal) = (Self::id(node.source), Self::vassal(node, &place.1));
        if let Some(oddity) = name::oddity(vassal.as_bytes()) {
            let there = !matches!(stat::look(directory, &place.1, self.follow), Look::Absent);
            return report(if there { Report::Odd(id, vassal, oddity) } else { Report::Gone(id, vassal) });
        }
        let look = self.look_through(place, directory, hint.relink);
        match look {
            Look::File(found) => {
                // A link is there at once; only what it leads to can be half written.
                let link_made = found.followed && hint.change == Change::Created;
                let change = if link_made { Change::Complete } else { hint.change };
                if self.settle.changed(place, change, shape(&found), now) {
                    report(Report::Seen(id, vassal, found.identity));
                }
            }
            Look::Absent | Look::Odd(Oddity::DanglingLink, _) => {
                if let Some(node) = self.nodes.get_mut(&place.0) {
                    node.missed = Some(now);
                }
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
        let mut open = None;
        for _ in 0..AT_ONCE {
            let Some((place, waiting)) = self.settle.due(now) else { return };
            let Some(directory) = self.directory(place.0, &mut open, now) else { continue };
            let look = self.look_through(&place, directory, false);
            let Some(node) = self.nodes.get(&place.0) else { continue };
            let (id, vassal, missed) = (Self::id(node.source), Self::vassal(node, &place.1), node.missed);
            match (look, waiting) {
                (Look::File(found), Waiting::Writing { .. }) => {
                    if self.settle.looked_again(&place, waiting, shape(&found), now) {
                        report(Report::Seen(id, vassal, found.identity));
                    }
                }
                (Look::File(found), Waiting::Absent { .. }) => {
                    if self.settle.changed(&place, Change::Created, shape(&found), now) {
                        report(Report::Seen(id, vassal, found.identity));
                    }
                }
                (Look::Absent | Look::Odd(Oddity::DanglingLink, _), Waiting::Writing { .. }) => {
                    self.settle.absent(&place, now);
                }
                (look @ (Look::Absent | Look::Odd(..)), Waiting::Absent { first }) => {
                    if self.settle.still_absent(&place, first, missed.unwrap_or(first), now) {
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
        let (id, vassal) = (Self::id(node.source), Self::vassal(node, &place.1));
        if let Some(oddity) = name::oddity(vassal.as_bytes()) {
            if listing.is_read() {
                (scan.report)(Report::Odd(id, vassal, oddity));
            }
            return Ok(());
        }
        let look = self.look_through(place, listing.directory(), true);
        if matches!(look, Look::Odd(_, true) | Look::File(Found { followed: true, .. })) {
            links.push(Rc::clone(&place.1));
        }
        match look {
            Look::File(found) => {
                if self.settle.scanned(place, scan.first, shape(&found), scan.now) {
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
            Look::Refused(errno) => return Err((self.nodes[&place.0].path.clone(), errno)),
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
        let at = node.source;
        let before = node.children.get(&place.1).and_then(|child| self.nodes.get(child));
        let is_new = before.is_none();
        match stat::directory_behind(directory, &place.1) {
            Ok(inode) if before.is_some_and(|child| child.inode == inode && child.key.is_some()) => {}
            Ok(inode) if is_new => {
                let child = self.child(place, inode);
                let first = false;
                if self.expand(child, &mut Scan { first, now, report }).is_err() {
                    self.ask(at, now + ABSENCE);
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if is_new => {}
            // What was below it may be gone, and only a scan can tell.
            _ => self.ask(at, now + ABSENCE),
        }
    }

    /// Looks at a name; where it is a link, sees to it that its way is watched.
    fn look_through(&mut self, place: &Place, directory: impl std::os::fd::AsFd, relink: bool) -> Look {
        let look = stat::look(&directory, &place.1, self.follow);
        let is_followed = matches!(look, Look::Odd(_, true) | Look::File(Found { followed: true, .. }));
        let known = self.nodes.get(&place.0).and_then(|node| node.links.get(&place.1).copied());
        match (is_followed, known) {
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
        let Some(node) = self.nodes.get_mut(&place.0) else { return };
        let (at, path) = (node.source, node.path.clone());
        let link = *node.links.entry(Rc::clone(&place.1)).or_insert_with(|| {
            self.last_id += 1;
            self.last_id
        });
        let mut walk = resolve::to_file(&path, &place.1);
        for _ in 0..TRIES {
            // The link itself is a name of its directory, which is watched.
            let own = Dependency::Name(path.clone(), (*place.1).into());
            let others: Vec<_> = walk.dependencies.iter().filter(|on| **on != own).collect();
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
            let fd = stat::open_directory(&node.path);
            match fd.and_then(|fd| Ok((stat::inode(&fd)?, fd))) {
                Ok((inode, fd)) if inode == node.inode => *open = Some((id, fd)),
                _ => {
                    let at = node.source;
                    self.ask(at, now + ABSENCE);
                    return None;
                }
            }
        }
        open.as_ref().map(|(_, fd)| fd)
    }

    fn ask_for(&mut self, place: &Place, now: Instant) {
        if let Some(node) = self.nodes.get(&place.0) {
            self.ask(node.source, now + ABSENCE);
        }
    }
}

fn shape(found: &Found) -> Shape {
    let identity = &found.identity;
    Shape { size: identity.size, mtime_ns: identity.mtime_ns, whole: found.whole, age: found.age() }
}

/// Names looked at in one go.
const AT_ONCE: u32 = 1_000;
