//! All sources of an emperor, and the one place where they are woken.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::inotify::AddWatchFlags as Mask;

use super::carried::{Carrier, Inbox};
use super::name::Names;
use super::pattern::Level;
use super::settle::{ABSENCE, Change, Place, Settle};
use super::spec::{SourceError, Spec, Start};
use super::stat::Follow;
use super::watch::{Event, Key, Target, Unwatched, Watch};
use super::{Report, SourceId, SourceInfo, VassalName};

/// How the sources behave. The options of the same names, and three times.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// `emperor-extra-extension`: suffixes, in bytes, beside the known ones.
    pub extra_extensions: Vec<Vec<u8>>,
    /// `emperor-nofollow`: a symbolic link is itself the vassal's file.
    pub nofollow: bool,
    /// `emperor-tyrant-nofollow`: a vassal's owner is the link's.
    pub tyrant_nofollow: bool,
    /// A file that is not closed counts as written when it did not change for so long.
    pub settle: Duration,
    /// Everything is looked at anew so often, in case an event went missing; zero: never.
    pub rescan: Duration,
    /// `emperor-freq`: how often a source is looked at that cannot be watched. `None`: 3 s.
    pub scan_every: Option<Duration>,
    /// `force-cwd`, or the directory in which the emperor was started: patterns are meant from it, and their vassals
    /// start in it. `None`: the same as for directories.
    pub pattern_cwd: Option<PathBuf>,
    /// `emperor-tyrant`: a source without files must say whose its vassals are.
    pub tyrant: bool,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            extra_extensions: Vec::new(),
            nofollow: false,
            tyrant_nofollow: false,
            settle: Duration::from_millis(100),
            rescan: Duration::from_secs(60),
            scan_every: None,
            pattern_cwd: None,
            tyrant: false,
        }
    }
}

/// The sources. Nothing is looked at before the first [`Sources::rescan`].
#[derive(Debug)]
pub struct Sources {
    pub(super) names: Names,
    pub(super) follow: Follow,
    pub(super) poll: Duration,
    pub(super) watch: Watch,
    pub(super) settle: Settle,
    pub(super) sources: Vec<Source>,
    pub(super) nodes: HashMap<u32, Node>,
    pub(super) links: HashMap<u32, Link>,
    pub(super) last_id: u32,
    pub(super) inbox: Inbox,
    pub(super) tyrant: bool,
    safety: Duration,
    safety_at: Option<Instant>,
}

/// One argument.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) info: SourceInfo,
    pub(super) is_dir: bool,
    /// What reads it, if it has no files.
    pub(super) carrier: Option<Carrier>,
    pub(super) base: PathBuf,
    pub(super) levels: Rc<[Level]>,
    pub(super) prefix: Box<[u8]>,
    /// What tells that `base` leads elsewhere.
    pub(super) way: Vec<Key>,
    /// The node of `base`, while it is a directory, and its real path.
    pub(super) root: Option<(u32, PathBuf)>,
    /// It was scanned once.
    pub(super) scanned: bool,
    /// When to scan, and when not before: a scan may take a tenth of the time at most.
    pub(super) scan_at: Option<Instant>,
    pub(super) rest_until: Option<Instant>,
    /// What was said last of its trouble.
    pub(super) trouble: Option<String>,
    /// The first thing of the last scan that could not be watched.
    pub(super) unwatched: Option<Unwatched>,
}

/// A directory in which names are looked at. There may be one for each vassal, so it is kept small: its path
/// and its vassals' names are put together from its parents'.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) source: u16,
    pub(super) level: u16,
    /// The node in which it was found, and its name there; none for the base of a source.
    pub(super) parent: Option<u32>,
    pub(super) name: Rc<[u8]>,
    /// Device and inode.
    pub(super) inode: (u64, u64),
    pub(super) key: Option<Key>,
    pub(super) children: Few,
    pub(super) links: Few,
}

/// Numbers under names, most often one or none.
#[derive(Debug, Default)]
pub(super) struct Few(Vec<(Rc<[u8]>, u32)>);

impl Few {
    pub(super) fn get(&self, name: &[u8]) -> Option<u32> {
        self.find(name).ok().map(|at| self.0[at].1)
    }

    /// Puts a number under a name that has none.
    pub(super) fn insert(&mut self, name: &Rc<[u8]>, id: u32) {
        if let Err(at) = self.find(name) {
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(at, (Rc::clone(name), id));
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<u32> {
        self.find(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Takes out what is under a name that is not in a sorted list.
    pub(super) fn take_lost<N: AsRef<[u8]>>(&mut self, names: &[N]) -> Vec<u32> {
        let is_there = |name: &[u8]| names.binary_search_by(|other| other.as_ref().cmp(name)).is_ok();
        let lost = self.0.iter().filter(|(name, _)| !is_there(name)).map(|(_, id)| *id).collect();
        self.0.retain(|(name, _)| is_there(name));
        lost
    }

    pub(super) fn into_ids(self) -> impl Iterator<Item = u32> {
        self.0.into_iter().map(|(_, id)| id)
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(name))
    }
}

/// A symbolic link under a name that matters.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) place: Place,
    pub(super) keys: Vec<Key>,
}

impl Sources {
    /// Understands the arguments, in the order of the options; relative ones are meant from `start_cwd`, patterns
    /// from the options' own directory, where there is one.
    ///
    /// # Errors
    /// [`SourceError`], for the first argument that cannot be a source.
    pub fn open(
        arguments: &[OsString],
        start_cwd: &Path,
        options: &SourceOptions,
    ) -> Result<Self, SourceError> {
        let names = Names::new(&options.extra_extensions);
        let cwd = std::path::absolute(start_cwd).unwrap_or_else(|_| start_cwd.to_owned());
        if arguments.len() > usize::from(u16::MAX) {
            return Err(SourceError::TooMany);
        }
        let start = Start { cwd: &cwd, patterns: options.pattern_cwd.as_deref().unwrap_or(&cwd) };
        let specs = arguments.iter().map(|argument| Spec::parse(argument, start, &names));
        Ok(Self {
            sources: specs.map(|spec| spec.map(Source::new)).collect::<Result<_, _>>()?,
            names,
            follow: Follow { never: options.nofollow, not_for_owner: options.tyrant_nofollow },
            poll: options.scan_every.unwrap_or(POLL).max(SHORTEST_POLL),
            watch: Watch::default(),
            settle: Settle::new(options.settle),
            nodes: HashMap::new(),
            links: HashMap::new(),
            last_id: 0,
            inbox: Inbox::default(),
            tyrant: options.tyrant,
            safety: options.rescan,
            safety_at: None,
        })
    }

    /// The source of this number, when there is one. Its directory follows a link that is re-pointed, so it
    /// may change with a scan.
    #[must_use]
    pub fn info(&self, id: SourceId) -> Option<&SourceInfo> {
        self.sources.get(usize::from(id.0)).map(|source| &source.info)
    }

    /// All sources, in the order of the options.
    pub fn infos(&self) -> impl Iterator<Item = (SourceId, &SourceInfo)> {
        (0u16..).zip(&self.sources).map(|(id, source)| (SourceId(id), &source.info))
    }

    /// What is wrong with a source now, in the words of its last [`Report::Trouble`].
    #[must_use]
    pub fn trouble(&self, id: SourceId) -> Option<&str> {
        self.sources.get(usize::from(id.0))?.trouble.as_deref()
    }

    /// Resolves when something happened that [`Sources::on_hint`] should look at. Cancel-safe.
    pub async fn hinted(&mut self) {
        tokio::select! {
            () = self.watch.readable() => {}
            () = self.inbox.filled() => {}
        }
    }

    /// Looks at what happened: about a thousand events at most, then [`Sources::hinted`] resolves at once.
    pub fn on_hint(&mut self, now: Instant, report: &mut dyn FnMut(Report)) {
        self.unpack(report);
        let heard = self.watch.read();
        if heard.lost {
            (0..self.sources.len()).for_each(|at| self.ask(at, now));
        }
        // One name is looked at once for all that happened to it.
        let mut changes: BTreeMap<Place, Hint> = BTreeMap::new();
        for (target, event) in heard.events {
            match target {
                Target::Way(at) => self.ask(at, now + ABSENCE),
                Target::Node(id) => self.node_heard(id, &event, now, &mut changes),
                Target::Link(id) => self.link_heard(id, &event, &mut changes),
            }
        }
        let mut open = None;
        for (place, hint) in changes {
            self.look_at(&place, hint, &mut open, now, report);
        }
    }

    /// When [`Sources::on_timeout`] has something to do. It may lie in the past: then at once.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let scans = self.sources.iter().filter_map(|source| source.scan_at);
        scans.chain(self.settle.next()).chain(self.safety_at).min()
    }

    /// Does what is due: names that waited, then one scan. There may be more.
    pub fn on_timeout(&mut self, now: Instant, report: &mut dyn FnMut(Report)) {
        self.waited(now, report);
        if self.safety_at.is_some_and(|at| at <= now) {
            self.safety_at = self.next_safety(now);
            (0..self.sources.len()).for_each(|at| self.ask(at, now));
        }
        let due = |at: &usize| self.sources[*at].scan_at.is_some_and(|due| due <= now);
        if let Some(at) = (0..self.sources.len()).find(due) {
            self.scan(at, now, report);
        }
    }

    /// Scans everything: at the start, and when somebody asks.
    pub fn rescan(&mut self, now: Instant, report: &mut dyn FnMut(Report)) {
        for at in 0..self.sources.len() {
            self.scan(at, now, report);
        }
        self.safety_at = self.next_safety(now);
    }

    fn next_safety(&self, now: Instant) -> Option<Instant> {
        let wanted = !self.safety.is_zero() && !self.sources.is_empty();
        wanted.then(|| now.checked_add(self.safety)).flatten()
    }

    /// Wishes for a scan of one source, and gets it when the source has rested from its last one.
    pub(super) fn ask(&mut self, at: usize, when: Instant) {
        let source = &mut self.sources[at];
        let when = source.rest_until.map_or(when, |rest| rest.max(when));
        source.scan_at = Some(source.scan_at.map_or(when, |before| before.min(when)));
    }

    fn node_heard(&mut self, id: u32, event: &Event, now: Instant, changes: &mut BTreeMap<Place, Hint>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let (at, level) = (usize::from(node.source), usize::from(node.level));
        let Some(name) = &event.name else {
            if event.uproots() {
                if let Some(key) = node.key.take() {
                    self.watch.unsubscribe(&key);
                }
                self.ask(at, now + ABSENCE);
            } else if self.sources[at].trouble.is_some() {
                self.ask(at, now);
            }
            return;
        };
        let levels = &self.sources[at].levels;
        let is_last = level + 1 == levels.len();
        if let Some(change) = Change::of(event.mask)
            && levels[level].matches(name)
            && (!is_last || self.names.accepts(name))
        {
            let relink = !matches!(change, Change::Touched | Change::Written);
            Hint { change, relink, inner: false }.add(changes, (id, Rc::from(&**name)));
        }
    }

    fn link_heard(&mut self, id: u32, event: &Event, changes: &mut BTreeMap<Place, Hint>) {
        let Some(link) = self.links.get(&id) else { return };
        let place = link.place.clone();
        let hint = match Change::of(event.mask) {
            Some(change) if event.name.is_some() || !event.uproots() => {
                let closed = event.mask.contains(Mask::IN_CLOSE_WRITE);
                let relink = !closed && !matches!(change, Change::Touched | Change::Written);
                Hint { change, relink, inner: true }
            }
            _ => Hint { change: Change::Complete, relink: true, inner: true },
        };
        hint.add(changes, place);
    }

    pub(super) fn id(at: usize) -> SourceId {
        SourceId(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// The name under which a vassal in this node is known.
    pub(super) fn vassal(&self, node: &Node, name: &Rc<[u8]>) -> VassalName {
        let prefix = &self.sources[usize::from(node.source)].prefix;
        if prefix.is_empty() && node.parent.is_none() {
            return VassalName(Rc::clone(name));
        }
        let mut parts = vec![&**name];
        parts.extend(self.names_up(node).flat_map(|name| [&b"/"[..], name]));
        parts.push(prefix);
        parts.reverse();
        VassalName(parts.concat().into())
    }

    /// The directory of a node.
    pub(super) fn path(&self, node: &Node) -> PathBuf {
        let mut parts: Vec<_> = self.names_up(node).collect();
        let base = &self.sources[usize::from(node.source)].root;
        parts.push(base.as_ref().map_or(&[], |(_, path)| path.as_os_str().as_bytes()));
        parts.iter().rev().map(|part| super::path_of(part)).collect()
    }

    fn names_up<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a [u8]> {
        let up = |node: &&'a Node| node.parent.and_then(|parent| self.nodes.get(&parent));
        std::iter::successors(Some(node), up).filter(|node| node.parent.is_some()).map(|node| &*node.name)
    }
}

impl Source {
    fn new(spec: Spec) -> Self {
        Self {
            info: spec.info,
            is_dir: spec.is_dir,
            carrier: spec.carrier,
            base: spec.base,
            levels: spec.levels,
            prefix: spec.prefix,
            way: Vec::new(),
            root: None,
            scanned: false,
            scan_at: None,
            rest_until: None,
            trouble: None,
            unwatched: None,
        }
    }
}

/// What happened to one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    pub(super) change: Change,
    /// If it is a link, it may lead elsewhere.
    pub(super) relink: bool,
    /// It happened to what the name leads to, not to the name.
    pub(super) inner: bool,
}

impl Hint {
    fn add(self, changes: &mut BTreeMap<Place, Self>, place: Place) {
        changes
            .entry(place)
            .and_modify(|hint| {
                *hint = Self {
                    change: hint.change.then(self.change),
                    relink: hint.relink || self.relink,
                    inner: hint.inner || self.inner,
                }
            })
            .or_insert(self);
    }
}

/// What uWSGI's Emperor waits between two scans, unless told otherwise.
const POLL: Duration = Duration::from_secs(3);

/// `emperor-freq = 0` keeps a processor busy there; here it asks for the fastest that makes sense.
const SHORTEST_POLL: Duration = Duration::from_millis(100);
