//! Vassals' control groups: made before the start, told of at the end, and gone before the end counts.
//!
//! The death of a vassal is reported only when nothing lives in its group any more: whatever it has left behind is
//! ended with it, and the next start finds an empty house.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::inotify::WatchDescriptor;
use tracing::{error, info, warn};

use super::agree::Agreement;
use super::{Hands, Token};
use crate::emperor::cgroup::{Entrance, Group, GroupError, GroupRecord, Groups, Member, Troubles, Usage};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::sys::wait::Ending;
use crate::vassal::terms::Terms;
use crate::vassal::terms::cgroup::ResourceTerms;

/// What is known of one vassal's group.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// While it is there.
    group: Option<Group>,
    /// What the vassal's file asks for, under the policy.
    share: ResourceTerms,
    /// The limits that are written in it: these, and those for all vassals.
    terms: ResourceTerms,
    /// What had happened in it before its present process.
    before: Troubles,
    /// Processes that the kernel has ended for lack of memory, in groups of this vassal that are no more.
    oom_kills: u64,
    /// When it was looked at last, and what was seen.
    usage: Option<(Instant, Usage)>,
    /// There is none although it was to be, so that what is left behind has to be ended otherwise.
    lacking: bool,
    /// Its process is a subreaper's.
    reaped: bool,
    /// Its vassal has ended, and something lives in it.
    emptying: Option<Emptying>,
}

#[derive(Debug)]
struct Emptying {
    clean: bool,
    /// When it is looked at, whatever the kernel says.
    look: Instant,
    /// When it is given up.
    until: Instant,
    watched: bool,
}

/// What the hands know of all groups.
#[derive(Debug)]
pub(super) struct Book {
    groups: Groups,
    watches: HashMap<WatchDescriptor, Option<Key>>,
    is_heard: bool,
    /// Those whose groups are emptying.
    emptying: Vec<Key>,
    /// Groups of vassals that have gone on without them.
    left: Vec<Group>,
    /// Where the next look at usages begins.
    cursor: usize,
}

impl Book {
    pub(super) fn new(groups: Groups) -> Self {
        Self {
            groups,
            watches: HashMap::new(),
            is_heard: false,
            emptying: Vec::new(),
            left: Vec::new(),
            cursor: 0,
        }
    }

    pub(super) fn is_at_ease(&self) -> bool {
        self.emptying.is_empty()
    }
}

/// Killed processes are gone within milliseconds. What takes longer hangs in the kernel, and is not waited for.
const EMPTYING: Duration = Duration::from_secs(2);
/// How often is looked where the kernel does not tell: version 1 alone.
const UNTOLD: Duration = Duration::from_millis(20);
/// What was seen of a group is as good as new for so long.
const FRESH: Duration = Duration::from_secs(1);

impl Hands {
    /// The group in which a vassal with this share of the machine is to start; an empty entrance where it needs none.
    pub(super) fn enter_group(
        &mut self,
        key: Key,
        vassal: &Vassal,
        court: &Court,
        share: ResourceTerms,
    ) -> Result<Entrance, GroupError> {
        let terms = share.clone().joined(&self.launch.groups.policy);
        if let Some(kept) = self.held(key).and_then(|held| held.group.as_mut()) {
            (kept.lacking, kept.reaped) = (false, false);
        }
        if !terms.wants_group() {
            return Ok(Entrance::default());
        }
        if !self.book.groups.are_open() && self.book.groups.open() {
            self.sweep_groups();
        }
        let base = vassal.zerg.and_then(|zerg| court.get(zerg.base)).map(|base| base.name.as_bytes());
        let own = vassal.name.as_bytes();
        let name = base.unwrap_or_else(|| vassal.zerg.map_or(own, |zerg| zerg.role.base_of(own)));
        let member = Member { name, zerg: vassal.zerg_number(), is_alone: !vassal.is_successor() };
        let scales = self.scale_of(vassal.zerg.map_or(key, |zerg| zerg.base)).is_some();
        let families = self.launch.groups.families || scales;
        let Some((group, entrance)) = self.book.groups.make(member, families, &terms)? else {
            self.held.slot(key).group.get_or_insert_default().lacking = true;
            return Ok(Entrance::default());
        };
        let before = if families { self.book.groups.troubles(&group) } else { Troubles::default() };
        let kept = self.held.slot(key).group.get_or_insert_default();
        let oom_kills = kept.oom_kills;
        **kept = Kept { group: Some(group), share, terms, before, oom_kills, ..Kept::default() };
        Ok(entrance)
    }

    /// Whether a vassal that is about to start was to have a group, and there are none.
    pub(super) fn lacks_group(&self, key: Key) -> bool {
        self.kept(key).is_some_and(|kept| kept.lacking)
    }

    /// Whether the process of a vassal is a subreaper, which ends all of it at [`END_ALL`](crate::vassal::link::END_ALL).
    pub(super) fn has_reaper(&self, key: Key) -> bool {
        self.kept(key).is_some_and(|kept| kept.reaped)
    }

    /// Notes that for the process that is made next.
    pub(super) fn is_reaped(&mut self, key: Key, reaped: bool) {
        if let Some(kept) = self.held(key).and_then(|held| held.group.as_mut()) {
            kept.reaped = reaped;
        }
    }

    fn kept(&self, key: Key) -> Option<&Kept> {
        self.held.of(key)?.group.as_deref()
    }

    /// Whether a process could not be made because of the limits of the vassal's own group, and not the machine's.
    pub(super) fn is_group_full(&mut self, key: Key, errno: Option<i32>) -> bool {
        let Some(kept) = self.held(key).and_then(|held| held.group.take()) else { return false };
        let full = match errno {
            Some(nix::libc::EAGAIN) => {
                kept.group.as_ref().is_some_and(|group| self.book.groups.is_full(group))
            }
            Some(nix::libc::ENOMEM) => kept.terms.memory_max != ResourceTerms::default().memory_max,
            _ => false,
        };
        if let Some(held) = self.held(key) {
            held.group = Some(kept);
        }
        full
    }

    /// Ends and removes the group of a vassal that has not come to be, or is forgotten.
    pub(super) fn leave_group(&mut self, key: Key) {
        let Some(kept) = self.held(key).and_then(|held| held.group.as_mut()) else { return };
        kept.emptying = None;
        let Some(group) = kept.group.take() else { return };
        self.book.emptying.retain(|other| *other != key);
        if !self.book.groups.remove(&group) {
            self.book.groups.kill(&group);
            self.abandon(group);
        }
    }

    /// Ends all that lives in a vassal's group.
    pub(super) fn kill_group(&mut self, key: Key) {
        let Self { held, book, .. } = self;
        let held = held.of(key);
        if let Some(group) = held.and_then(|held| held.group.as_ref()?.group.as_ref()) {
            book.groups.kill(group);
        }
    }

    /// Freezes all that lives in a vassal's group, or lets it go on.
    ///
    /// # Errors
    /// It has none, there is no freezer, or the kernel refuses.
    pub(super) fn freeze_group(&self, key: Key, frozen: bool) -> std::io::Result<()> {
        let group = self.kept(key).and_then(|kept| kept.group.as_ref());
        self.book.groups.freeze(group.ok_or(std::io::ErrorKind::Unsupported)?, frozen)
    }

    /// Whether nothing moves in a vassal's group.
    pub(super) fn is_group_frozen(&self, key: Key) -> bool {
        let group = self.kept(key).and_then(|kept| kept.group.as_ref());
        group.is_some_and(|group| self.book.groups.is_frozen(group))
    }

    /// How the kernel's limits had to do with the end of a vassal, as it stands in the log.
    pub(super) fn limits_told(&mut self, key: Key, ending: Ending) -> Option<String> {
        let Self { held, book, .. } = self;
        let kept = held.of_mut(key)?.group.as_mut()?;
        let group = kept.group.as_ref()?;
        let troubles = book.groups.troubles(group).since(kept.before);
        kept.oom_kills += troubles.oom_kills;
        let limit = if troubles.own_limit == 0 {
            "not its own limit, but the machine's or the emperor's".to_owned()
        } else {
            format!("memory-max {}", kept.terms.memory_max)
        };
        let mut text = match (troubles.oom_kills, ending) {
            (0, _) => ending.to_string(),
            (_, Ending::Killed(9)) => format!("killed by the kernel: out of memory ({limit})"),
            (count, _) => format!(
                "{ending}; {count} of its processes were killed by the kernel: out of memory ({limit})"
            ),
        };
        if troubles.tasks_refused > 0 {
            text += &format!(
                "; {} times it was refused a process (tasks-max {})",
                troubles.tasks_refused, kept.terms.tasks_max
            );
        }
        (troubles.oom_kills > 0 || troubles.tasks_refused > 0).then_some(text)
    }

    /// The process of a vassal has ended: so must all that it has started. `true` if its death is to be reported now,
    /// `false` if that comes later.
    pub(super) fn empty_group(&mut self, key: Key, clean: bool) -> bool {
        let Self { held, book, epoll, .. } = self;
        let Some(kept) = held.of_mut(key).and_then(|held| held.group.as_mut()) else {
            return true;
        };
        let Some(group) = &kept.group else { return true };
        if book.groups.remove(group) {
            kept.group = None;
            return true;
        }
        let watch = book.groups.watch(group);
        let watched = watch.is_ok();
        if let Ok(watch) = watch {
            book.watches.insert(watch, Some(key));
        }
        if !book.is_heard
            && let Some(notifications) = book.groups.notifications()
        {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Groups.to_bits());
            book.is_heard = epoll.add(notifications, event).is_ok();
        }
        book.groups.kill(group);
        // Those that ended before the watch was there are not told of.
        if book.groups.remove(group) {
            kept.group = None;
            return true;
        }
        let now = Instant::now();
        let watched = watched && book.is_heard;
        let look = if watched { now + EMPTYING } else { now + UNTOLD };
        kept.emptying = Some(Emptying { clean, look, until: now + EMPTYING, watched });
        book.emptying.push(key);
        false
    }

    /// Looks at the groups of which the kernel has told something.
    pub(super) fn hear_groups(&mut self, court: &Court, events: &mut Vec<Event>) {
        for watch in self.book.groups.heard() {
            // One that is not known is the last word of a group that is gone.
            let Some(of) = self.book.watches.get(&watch).copied() else { continue };
            let settled = match of {
                Some(key) => self.look_at_group(key, Instant::now(), court, events),
                None => {
                    self.clear_left();
                    false
                }
            };
            if settled {
                self.book.watches.remove(&watch);
            }
        }
    }

    /// Whether that group is settled.
    fn look_at_group(&mut self, key: Key, now: Instant, court: &Court, events: &mut Vec<Event>) -> bool {
        let Self { held, book, .. } = self;
        let Some(kept) = held.of_mut(key).and_then(|held| held.group.as_mut()) else {
            return true;
        };
        let (Some(group), Some(emptying)) = (&kept.group, &mut kept.emptying) else { return true };
        let gone = book.groups.remove(group);
        if !gone && now < emptying.until {
            if !emptying.watched {
                book.groups.kill(group);
                emptying.look = now + UNTOLD;
            }
            return false;
        }
        let clean = emptying.clean;
        kept.emptying = None;
        let left = kept.group.take().filter(|_| !gone);
        book.emptying.retain(|other| *other != key);
        if let Some(group) = left {
            let name = court.get(key).map_or_else(String::new, |vassal| vassal.name.to_string());
            let processes = self.book.groups.processes(&group);
            warn!(
                "[emperor] vassal {name} has left {} processes in control group {} that do not end although they were \
                 killed ({processes:?}): it goes on without them",
                processes.len(),
                group.as_text()
            );
            self.abandon(group);
        }
        events.push(Event::Died(key, clean));
        true
    }

    /// Nobody waits for a group any more; it is removed when it is empty.
    fn abandon(&mut self, group: Group) {
        if let Ok(watch) = self.book.groups.watch(&group) {
            self.book.watches.insert(watch, None);
        }
        self.book.left.push(group);
        self.clear_left();
    }

    fn clear_left(&mut self) {
        let Book { groups, left, .. } = &mut self.book;
        left.retain(|group| !groups.remove(group));
    }

    /// When a group is to be looked at, whatever the kernel says.
    pub(super) fn group_timeout(&self) -> Option<Instant> {
        let emptying = self.book.emptying.iter();
        emptying.filter_map(|key| Some(self.held.of(*key)?.group.as_ref()?.emptying.as_ref()?.look)).min()
    }

    /// Looks at the groups that are due.
    pub(super) fn look_at_groups(&mut self, now: Instant, court: &Court, events: &mut Vec<Event>) {
        for key in self.book.emptying.clone() {
            let emptying = self.held(key).and_then(|held| held.group.as_ref()?.emptying.as_ref());
            if emptying.is_none_or(|emptying| emptying.look <= now) {
                self.look_at_group(key, now, court, events);
            }
        }
    }

    /// The file of a running vassal has changed, or the policy: its limits are written anew. What a tenant asks for
    /// himself counts from the next start on, since it takes a process of his to read it.
    pub(super) fn relimit(&mut self, key: Key, vassal: &Vassal, court: &Court) {
        let kept = self.held(key).and_then(|held| held.group.as_ref()).filter(|kept| kept.group.is_some());
        let Some(kept) = kept else { return };
        let share = kept.share.clone();
        let asked = if self.launch.confinement.tyrant.is_some() {
            Terms { resources: share, ..Terms::default() }
        } else {
            match self.agree(key, vassal) {
                Agreement::Terms(terms) => *terms,
                Agreement::Nothing => Terms::default(),
                Agreement::Later | Agreement::Refused => return,
            }
        };
        let Some(Terms { resources: share, .. }) = self.imposed(key, court, asked) else { return };
        let terms = share.clone().joined(&self.launch.groups.policy);
        let Self { held, book, .. } = self;
        let Some(kept) = held.of_mut(key).and_then(|held| held.group.as_mut()) else { return };
        if let Some(group) = &kept.group
            && kept.terms != terms
        {
            match book.groups.limit(group, &kept.terms, &terms) {
                Ok(()) => {
                    info!("[emperor] vassal {} has new limits, and goes on", vassal.name);
                    (kept.share, kept.terms) = (share, terms);
                }
                Err(error) => tell(vassal, &error, "keeps its former limits"),
            }
        }
    }

    /// The name of the tree of the vassals' groups.
    #[must_use]
    pub fn tree(&self) -> &str {
        self.book.groups.name()
    }

    /// Uses the tree of the emperor before this one.
    pub fn inherit_tree(&mut self, name: &str) {
        self.book.groups.inherit(name);
    }

    /// Takes over the group that a former emperor has made for a vassal.
    pub(super) fn adopt_group(&mut self, key: Key, record: GroupRecord) {
        let GroupRecord { leaf, share, reaped } = record;
        if reaped {
            let kept = Kept { share, reaped, lacking: true, ..Kept::default() };
            self.held.slot(key).group = Some(Box::new(kept));
            return;
        }
        let Some(group) = self.book.groups.adopt(&leaf) else { return };
        // Whether the former emperor had frozen it is not certain, if it was killed.
        if self.launch.groups.freezes || self.book.groups.is_frozen(&group) {
            let _ = self.book.groups.freeze(&group, false);
        }
        let terms = share.clone().joined(&self.launch.groups.policy);
        if let Err(error) = self.book.groups.limit(&group, &share, &terms) {
            error!("[emperor] {}", chain(&error));
        }
        let before = self.book.groups.troubles(&group);
        let oom_kills = before.oom_kills;
        let kept = Kept { group: Some(group), share, terms, before, oom_kills, ..Kept::default() };
        self.held.slot(key).group = Some(Box::new(kept));
    }

    /// Removes what former emperors have left, once it is known what is still in use.
    ///
    /// What is frozen does not end by itself, and holds its sockets: where programs are frozen, it is looked for at once.
    pub fn sweep_groups(&mut self) {
        if self.book.groups.are_open() || self.launch.groups.freezes && self.book.groups.open() {
            let kept = self.held.places().iter().filter_map(|held| held.group.as_ref()?.group.as_ref());
            let used: HashSet<_> = kept.chain(&self.book.left).map(Group::as_text).collect();
            self.book.groups.sweep(&used);
        }
    }

    /// The end of everything.
    pub(super) fn close_groups(&mut self) {
        for group in std::mem::take(&mut self.book.left) {
            self.book.groups.kill(&group);
            self.book.groups.remove(&group);
        }
        self.book.groups.close();
    }

    /// The group of a vassal, for its next emperor.
    pub(super) fn group_of(&self, key: Key) -> Option<GroupRecord> {
        let kept = self.kept(key)?;
        let leaf = match &kept.group {
            Some(group) => group.as_text().to_owned(),
            None if kept.reaped => String::new(),
            None => return None,
        };
        Some(GroupRecord { leaf, share: kept.share.clone(), reaped: kept.reaped })
    }

    /// What all that a vassal has started has taken of the processor, microseconds, if it has a group.
    pub(super) fn group_cpu(&self, key: Key) -> Option<u64> {
        let held = self.held.of(key)?;
        self.book.groups.usage(held.group.as_ref()?.group.as_ref()?).cpu_usec
    }

    /// Where the group of version 2 of a vassal is, if it has one.
    pub(super) fn group_directory(&self, key: Key) -> Option<PathBuf> {
        let held = self.held.of(key)?;
        self.book.groups.directory(held.group.as_ref()?.group.as_ref()?)
    }

    /// Looks at what vassals use, for no longer than this; those that it does not come to are next.
    pub fn measure(&mut self, patience: Duration) {
        let count = self.held.places().len();
        if count == 0 || !self.book.groups.are_open() {
            return;
        }
        let begin = Instant::now();
        let start = self.book.cursor % count;
        for place in (start..count).chain(0..start) {
            let Some(kept) = self.held.places_mut()[place].group.as_mut() else { continue };
            let Some(group) = &kept.group else {
                kept.usage = None;
                continue;
            };
            let now = Instant::now();
            if kept.usage.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < FRESH) {
                continue;
            }
            if now.duration_since(begin) >= patience {
                self.book.cursor = place;
                return;
            }
            let mut usage = self.book.groups.usage(group);
            usage.oom_kills = (usage.oom_kills + kept.oom_kills).saturating_sub(kept.before.oom_kills);
            kept.usage = Some((now, usage));
        }
    }

    /// What a vassal used when it was looked at last.
    #[must_use]
    pub fn usage(&self, key: Key) -> Option<&Usage> {
        let held = self.held.of(key)?;
        held.group.as_ref()?.usage.as_ref().map(|(_, usage)| usage)
    }
}

/// Says why the kernel does not do to a vassal's group what it should.
pub(super) fn tell(vassal: &Vassal, error: &GroupError, consequence: &str) {
    error!("[emperor] vassal {} {consequence}: {}", vassal.name, chain(error));
}

pub(super) fn chain(error: &GroupError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
