//! A full scan: from an argument's base down to the names, watching each directory before it is read.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;

use super::pattern::Level;
use super::resolve::{self, Dependency, End, Walk};
use super::settle::Place;
use super::sources::{Few, Node, Sources};
use super::stat::{self, Listing};
use super::watch::{Interest, Key, Target, Unwatched};
use super::{Report, SourceInfo};

/// What a scan carries along.
pub(super) struct Scan<'a> {
    pub(super) first: bool,
    pub(super) now: Instant,
    /// The time in which files are dated, at the beginning.
    pub(super) wall_clock: i64,
    pub(super) report: &'a mut dyn FnMut(Report),
}

/// A directory that cannot be read, and why.
type Unread = (PathBuf, Errno);

impl Sources {
    /// Looks at everything of one source and reports it.
    pub(super) fn scan(&mut self, at: usize, now: Instant, report: &mut dyn FnMut(Report)) {
        if self.wish(at) {
            return; // what it has comes later
        }
        let began = Instant::now();
        let id = Self::id(at);
        let first = !self.sources[at].scanned;
        self.sources[at].scan_at = None;
        self.sources[at].unwatched = None;
        let trouble = match self.reach(at, now) {
            Ok(root) => {
                report(Report::ScanBegan(id));
                match self.expand(root, &mut Scan { first, now, wall_clock: stat::wall_clock(), report }) {
                    Ok(()) => {
                        report(Report::ScanEnded(id));
                        None
                    }
                    Err((path, errno)) => Some(self.cannot_read(&path, errno, now, at)),
                }
            }
            // A pattern below a directory that is not there matches nothing, and that is no trouble.
            Err(End::Missing(_) | End::NotADirectory(_)) if !self.sources[at].is_dir => {
                report(Report::ScanBegan(id));
                report(Report::ScanEnded(id));
                None
            }
            Err(End::Missing(path)) => {
                let base = &self.sources[at].info.argument;
                let why = if path == Path::new(base) {
                    String::new()
                } else {
                    format!(" ({} is missing)", path.display())
                };
                Some(format!("directory {base} does not exist{why}; it is used as soon as it appears"))
            }
            Err(End::Refused(path, errno)) => Some(self.cannot_read(&path, errno, now, at)),
            Err(End::Loop) => Some(format!(
                "directory {} cannot be reached: its symbolic links form a circle; point them elsewhere",
                self.sources[at].base.display()
            )),
            Err(End::File | End::Directory(..) | End::NotADirectory(_)) => Some(format!(
                "{} is not a directory; it is used as soon as it is one",
                self.sources[at].base.display()
            )),
        };
        if self.sources[at].unwatched.is_some() {
            self.ask(at, now + self.poll);
        }
        let trouble = trouble.or_else(|| self.cannot_watch(at));
        let source = &mut self.sources[at];
        source.scanned = true;
        source.rest_until = Some(now + began.elapsed() * REST);
        if source.trouble != trouble {
            if let Some(text) = &trouble {
                report(Report::Trouble(id, text.clone()));
            }
            source.trouble = trouble;
        }
    }

    fn cannot_read(&mut self, path: &Path, errno: Errno, now: Instant, at: usize) -> String {
        self.ask(at, now + self.poll);
        let remedy = match errno {
            Errno::EACCES => "let the emperor's user read and enter it",
            Errno::EMFILE | Errno::ENFILE => "raise the limit of open files",
            _ => "look at the file system it is on",
        };
        let (path, why) = (path.display(), errno.desc());
        format!("cannot read directory {path}: {why}; its vassals keep running; {remedy}")
    }

    fn cannot_watch(&self, at: usize) -> Option<String> {
        let source = &self.sources[at];
        let what = &source.info.argument;
        let instead = format!("it is looked at every {:?} instead", self.poll);
        match source.unwatched? {
            Unwatched::Instances => Some(format!(
                "cannot watch {what}: no inotify instance is left; {instead}; raise \
                 fs.inotify.max_user_instances with sysctl"
            )),
            Unwatched::Watches => Some(format!(
                "cannot watch all of {what}: no inotify watch is left; {instead}; raise \
                 fs.inotify.max_user_watches with sysctl"
            )),
            Unwatched::Links => Some(format!(
                "cannot watch all of {what}: its symbolic links lead to too many places; {instead}; use fewer links"
            )),
            Unwatched::Vanished => None,
            Unwatched::Other(errno) => {
                Some(format!("cannot watch all of {what}: {}; {instead}", errno.desc()))
            }
        }
    }

    /// Walks to the base of a source, watches the way and the directory, and gives its node.
    fn reach(&mut self, at: usize, now: Instant) -> Result<u32, End> {
        let base = self.sources[at].base.clone();
        let mut walk = resolve::to_directory(&base);
        for _ in 0..TRIES {
            let before = std::mem::take(&mut self.sources[at].way);
            self.sources[at].way = self.depend(at, Target::Way(at), &walk.dependencies);
            before.iter().for_each(|key| self.watch.unsubscribe(key));
            if let End::Directory(path, device, inode) = &walk.end {
                self.root(at, path, (*device, *inode));
            }
            // Only what changes from here on is heard: so look once more.
            let again = resolve::to_directory(&base);
            if again == walk {
                return self.reached(at, walk);
            }
            walk = again;
        }
        self.ask(at, now);
        self.reached(at, walk)
    }

    fn reached(&mut self, at: usize, walk: Walk) -> Result<u32, End> {
        match (walk.end, self.sources[at].root.as_ref().map(|(root, _)| *root)) {
            (End::Directory(path, ..), Some(root)) => {
                let source = &mut self.sources[at];
                if source.is_dir && source.info.cwd != path {
                    source.info = SourceInfo {
                        argument: path.to_string_lossy().into_owned(),
                        cwd: path,
                        carries: false,
                    };
                }
                Ok(root)
            }
            (end, root) => {
                if let Some(root) = root {
                    self.drop_node(root);
                    self.sources[at].root = None;
                }
                Err(end)
            }
        }
    }

    fn root(&mut self, at: usize, path: &Path, inode: (u64, u64)) {
        if let Some((root, before)) = &self.sources[at].root {
            let root = *root;
            if before == path && self.nodes.get(&root).is_some_and(|node| node.inode == inode) {
                return self.arm(root);
            }
            self.drop_node(root);
        }
        let root = self.new_node(Node {
            source: Self::id(at).0,
            level: 0,
            parent: None,
            name: Rc::default(),
            inode,
            key: None,
            children: Few::default(),
            links: Few::default(),
        });
        self.sources[at].root = Some((root, path.to_owned()));
        self.arm(root);
    }

    /// Watches what a walk hangs on.
    pub(super) fn depend<'a>(
        &mut self,
        at: usize,
        target: Target,
        on: impl IntoIterator<Item = &'a Dependency>,
    ) -> Vec<Key> {
        let mut keys = Vec::new();
        for dependency in on {
            let subscribed = match dependency {
                Dependency::Name(path, name) => self.watch.subscribe(path, Interest::Name(name), target),
                Dependency::File(path, name) => self.watch.subscribe(path, Interest::File(name), target),
                Dependency::Place(path) => self.watch.subscribe(path, Interest::Place, target),
                Dependency::Content(path) => self.watch.subscribe(path, Interest::Content, target),
            };
            match subscribed {
                Ok(key) => keys.push(key),
                // A directory above that may be entered but not read: it is seldom renamed.
                Err(Unwatched::Other(_)) if matches!(dependency, Dependency::Place(_)) => {}
                Err(why) => self.unwatched(at, why),
            }
        }
        keys
    }

    fn unwatched(&mut self, at: usize, why: Unwatched) {
        if why != Unwatched::Vanished {
            self.sources[at].unwatched.get_or_insert(why);
        }
    }

    pub(super) fn new_node(&mut self, node: Node) -> u32 {
        self.last_id += 1;
        self.nodes.insert(self.last_id, node);
        self.last_id
    }

    pub(super) fn drop_node(&mut self, id: u32) {
        let Some(node) = self.nodes.remove(&id) else { return };
        if let Some(key) = &node.key {
            self.watch.unsubscribe(key);
        }
        node.links.into_ids().for_each(|link| self.drop_link(link));
        node.children.into_ids().for_each(|child| self.drop_node(child));
    }

    /// Watches a node's directory; anew, for the watch it had may have died without our hearing of it.
    fn arm(&mut self, id: u32) {
        let Some(node) = self.nodes.get(&id) else { return };
        let at = usize::from(node.source);
        let is_last = usize::from(node.level) + 1 == self.sources[at].levels.len();
        let interest = if is_last { Interest::Files } else { Interest::Entries };
        match self.watch.subscribe(&self.path(node), interest, Target::Node(id)) {
            Ok(key) => {
                let before = self.nodes.get_mut(&id).and_then(|node| node.key.replace(key));
                before.iter().for_each(|key| self.watch.unsubscribe(key));
            }
            Err(why) => self.unwatched(at, why),
        }
    }

    /// Reads a node's directory, and what is below it.
    pub(super) fn expand(&mut self, id: u32, scan: &mut Scan<'_>) -> Result<(), Unread> {
        self.arm(id);
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let (at, depth) = (usize::from(node.source), usize::from(node.level));
        let (inode, path) = (node.inode, self.path(node));
        let levels = Rc::clone(&self.sources[at].levels);
        let level = &levels[depth];
        let is_last = depth + 1 == levels.len();
        let listing = match level {
            Level::Literal(name) => Listing::of_one(&path, name),
            _ => Listing::read(&path, |name| level.matches(name) && (!is_last || self.names.accepts(name))),
        };
        let listing = listing.map_err(|errno| (path, errno))?;
        if stat::inode(listing.directory()) != Ok(inode) {
            self.ask(at, scan.now); // replaced since we looked
        }
        let mut links = Vec::new();
        let mut unread = Ok(()); // one name's trouble does not keep us from the others
        for name in listing.names() {
            let place = (id, Rc::from(name));
            let scanned = if is_last {
                self.scan_name(&place, &listing, scan, &mut links)
            } else {
                self.scan_child(&place, &listing, scan, &mut links)
            };
            unread = unread.and(scanned);
        }
        let names: Vec<&[u8]> = listing.names().filter(|_| !is_last).collect();
        self.prune(id, &names, &links);
        unread
    }

    /// Lets go of the directories and links of a node that a scan did not find again; both lists are sorted.
    fn prune(&mut self, id: u32, names: &[&[u8]], links: &[Rc<[u8]>]) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let lost_links = node.links.take_lost(links);
        let lost_nodes = node.children.take_lost(names);
        lost_links.into_iter().for_each(|link| self.drop_link(link));
        lost_nodes.into_iter().for_each(|child| self.drop_node(child));
    }

    /// Looks at an entry that can be a directory in which to go on.
    fn scan_child(
        &mut self,
        place: &Place,
        listing: &Listing,
        scan: &mut Scan<'_>,
        links: &mut Vec<Rc<[u8]>>,
    ) -> Result<(), Unread> {
        if stat::is_link(listing.directory(), &place.1) {
            self.follow_link(place);
            links.push(Rc::clone(&place.1));
        }
        match stat::directory_behind(listing.directory(), &place.1) {
            Ok(inode) => {
                let child = self.child(place, inode);
                match self.expand(child, scan) {
                    // As glob(3) has it: what may not be read does not match, and is its owner's concern.
                    Err((_, Errno::EACCES)) => Ok(()),
                    // Gone in the meantime: its watch, or its parent's, tells what came of it.
                    Err((_, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
                        self.ask_for(place, scan.now);
                        Ok(())
                    }
                    other => other,
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => {
                self.drop_child(place);
                Ok(())
            }
            Err(errno) => Err((self.path(&self.nodes[&place.0]).join(super::path_of(&place.1)), errno)),
        }
    }

    /// The node below another one, made anew when the directory is another one.
    pub(super) fn child(&mut self, (parent, name): &Place, inode: (u64, u64)) -> u32 {
        let node = &self.nodes[parent];
        if let Some(child) = node.children.get(name) {
            if self.nodes.get(&child).is_some_and(|child| child.inode == inode) {
                return child;
            }
            self.drop_node(child);
        }
        let node = &self.nodes[parent];
        let child = self.new_node(Node {
            source: node.source,
            level: node.level + 1,
            parent: Some(*parent),
            name: Rc::clone(name),
            inode,
            key: None,
            children: Few::default(),
            links: Few::default(),
        });
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children.remove(name);
            node.children.insert(name, child);
        }
        child
    }

    fn drop_child(&mut self, (parent, name): &Place) {
        if let Some(node) = self.nodes.get_mut(parent)
            && let Some(child) = node.children.remove(name)
        {
            self.drop_node(child);
        }
    }
}

/// After a scan, so many times its duration passes before the next one that nobody asked for by hand.
const REST: u32 = 10;

/// How often a way that changes under our feet is walked before it is left to the next scan.
pub(super) const TRIES: u32 = 3;
