//! A full scan: from an argument's base down to the names, watching each directory before it is read.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;

use super::pattern::Level;
use super::resolve::{self, Dependency, End, Walk};
use super::settle::Place;
use super::sources::{Node, Sources};
use super::stat::{self, Listing};
use super::watch::{Interest, Key, Target, Unwatched};
use super::{Report, SourceInfo};

/// What a scan carries along.
pub(super) struct Scan<'a> {
    pub(super) first: bool,
    pub(super) now: Instant,
    pub(super) report: &'a mut dyn FnMut(Report),
}

/// A directory that cannot be read, and why.
type Unread = (PathBuf, Errno);

impl Sources {
    /// Looks at everything of one source and reports it.
    pub(super) fn scan(&mut self, at: usize, now: Instant, report: &mut dyn FnMut(Report)) {
        let began = Instant::now();
        let id = Self::id(at);
        let first = !self.sources[at].scanned;
        self.sources[at].scan_at = None;
        self.sources[at].unwatched = None;
        let trouble = match self.reach(at, now) {
            Ok(root) => {
                report(Report::ScanBegan(id));
                match self.expand(root, &mut Scan { first, now, report }) {
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
        match (walk.end, self.sources[at].root) {
            (End::Directory(path, ..), Some(root)) => {
                let source = &mut self.sources[at];
                if source.is_dir && source.info.cwd != path {
                    source.info = SourceInfo { argument: path.to_string_lossy().into_owned(), cwd: path };
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
        if let Some(root) = self.sources[at].root {
            let node = &self.nodes[&root];
            if node.inode == inode && node.path == path {
                return self.arm(root);
            }
            self.drop_node(root);
        }
        let prefix = self.sources[at].prefix.clone();
        let root = self.new_node(Node::new(at, 0, path.to_owned(), prefix, inode));
        self.sources[at].root = Some(root);
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
        node.links.into_values().for_each(|link| self.drop_link(link));
        node.children.into_values().for_each(|child| self.drop_node(child));
    }

    /// Watches a node's directory, unless it is watched.
    fn arm(&mut self, id: u32) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.key.is_some() {
            return;
        }
        let at = node.source;
        let is_last = node.level + 1 == self.sources[at].levels.len();
        let interest = if is_last { Interest::Files } else { Interest::Entries };
        match self.watch.subscribe(&node.path, interest, Target::Node(id)) {
            Ok(key) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.key = Some(key);
                }
            }
            Err(why) => self.unwatched(at, why),
        }
    }

    /// Reads a node's directory, and what is below it.
    pub(super) fn expand(&mut self, id: u32, scan: &mut Scan<'_>) -> Result<(), Unread> {
        self.arm(id);
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let (at, inode) = (node.source, node.inode);
        let levels = Rc::clone(&self.sources[at].levels);
        let level = &levels[node.level];
        let is_last = node.level + 1 == levels.len();
        let listing = match level {
            Level::Literal(name) => Listing::of_one(&node.path, name),
            _ => Listing::read(&node.path, |name| {
                level.matches(name) && (!is_last || self.names.accepts(name))
            }),
        };
        let listing = listing.map_err(|errno| (node.path.clone(), errno))?;
        if stat::inode(listing.directory()) != Ok(inode) {
            self.ask(at, scan.now); // replaced since we looked
        }
        let mut links = Vec::new();
        for name in listing.names() {
            let place = (id, Rc::from(name));
            if is_last {
                self.scan_name(&place, &listing, scan, &mut links)?;
            } else {
                self.scan_child(&place, &listing, scan, &mut links)?;
            }
        }
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let mut dead = Vec::new();
        node.links.retain(|name, link| {
            let alive = links.binary_search(name).is_ok();
            if !alive {
                dead.push(*link);
            }
            alive
        });
        let names: Vec<&[u8]> = if is_last { Vec::new() } else { listing.names().collect() };
        let mut lost = Vec::new();
        node.children.retain(|name, child| {
            let alive = names.binary_search(&&**name).is_ok();
            if !alive {
                lost.push(*child);
            }
            alive
        });
        dead.into_iter().for_each(|link| self.drop_link(link));
        lost.into_iter().for_each(|child| self.drop_node(child));
        Ok(())
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
        let path = || self.nodes[&place.0].path.join(super::path_of(&place.1));
        match stat::directory_behind(listing.directory(), &place.1) {
            Ok(inode) => {
                let child = self.child(place, inode);
                match self.expand(child, scan) {
                    // Gone in the meantime: its watch, or its parent's, tells what came of it.
                    Err((_, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
                        let at = self.nodes[&place.0].source;
                        self.ask(at, scan.now);
                        Ok(())
                    }
                    other => other,
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                self.drop_child(place);
                Ok(())
            }
            Err(errno) => Err((path(), errno)),
        }
    }

    /// The node below another one, made anew when the directory is another one.
    pub(super) fn child(&mut self, (parent, name): &Place, inode: (u64, u64)) -> u32 {
        let node = &self.nodes[parent];
        if let Some(&child) = node.children.get(name) {
            if self.nodes.get(&child).is_some_and(|child| child.inode == inode) {
                return child;
            }
            self.drop_node(child);
        }
        let node = &self.nodes[parent];
        let prefix = [&*node.prefix, name, b"/"].concat();
        let path = node.path.join(super::path_of(name));
        let child = Node::new(node.source, node.level + 1, path, prefix.into(), inode);
        let child = self.new_node(child);
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children.insert(Rc::clone(name), child);
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

impl Node {
    fn new(source: usize, level: usize, path: PathBuf, prefix: Box<[u8]>, inode: (u64, u64)) -> Self {
        let (children, links) = Default::default();
        Self { source, level, path, prefix, inode, key: None, children, links, missed: None }
    }
}

/// After a scan, so many times its duration passes before the next one that nobody asked for by hand.
const REST: u32 = 10;

/// How often a way that changes under our feet is walked before it is left to the next scan.
pub(super) const TRIES: u32 = 3;
