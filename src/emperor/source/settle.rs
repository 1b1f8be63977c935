//! When a name is ready to be reported: a file that is being written, and a name that is being replaced, wait.
//!
//! Pure: reads no clock and no file. Deadlines come out of [`Settle::next`], and [`Settle::due`] hands back
//! what has to be looked at again.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::inotify::AddWatchFlags as Mask;

/// A name in a directory that is looked at.
pub(super) type Place = (u32, Rc<[u8]>);

/// What the events of one wake-up come to for one name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Only its attributes changed.
    Touched,
    /// The name is new, and nobody has closed the file yet.
    Created,
    /// The content changed, and nobody has closed the file yet.
    Written,
    /// It was closed, or put in place complete.
    Complete,
    /// The name was taken away.
    Removed,
}

impl Change {
    /// What one event means; `None` for one that says nothing of a file.
    pub(super) fn of(mask: Mask) -> Option<Self> {
        let is = |flag| mask.contains(flag);
        Some(match () {
            () if is(Mask::IN_CREATE) => Self::Created,
            () if is(Mask::IN_MODIFY) => Self::Written,
            () if is(Mask::IN_CLOSE_WRITE) || is(Mask::IN_MOVED_TO) => Self::Complete,
            () if is(Mask::IN_DELETE) || is(Mask::IN_MOVED_FROM) => Self::Removed,
            () if is(Mask::IN_ATTRIB) => Self::Touched,
            () => return None,
        })
    }

    /// What the two come to, the other one being later.
    pub(super) fn then(self, later: Self) -> Self {
        match (self, later) {
            (before, Self::Touched) => before,
            (Self::Created, Self::Written) => Self::Created,
            (_, later) => later,
        }
    }
}

/// As much of a file as settling asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    /// Nobody can be writing a name that has just been created like this: a link.
    pub(super) whole: bool,
    /// Time since the content changed; `None` when it is dated in the future.
    pub(super) age: Option<Duration>,
}

/// Why a name waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waiting {
    /// Somebody writes it; what it was when it was looked at.
    Writing { size: u64, mtime_ns: i64, first: Instant },
    /// It is not there; it may be back in a moment.
    Absent { first: Instant },
}

/// The names that wait. Most of the time there are none.
#[derive(Debug)]
pub(super) struct Settle {
    quiet: Duration,
    waiting: HashMap<Place, (Instant, Waiting)>,
    order: BTreeSet<(Instant, Place)>,
    /// The directory in which a name was missed last, and when.
    missed: Option<(u32, Instant)>,
}

impl Settle {
    /// A file that is not closed counts as written when it did not change for `quiet`.
    pub(super) fn new(quiet: Duration) -> Self {
        Self { quiet, waiting: HashMap::new(), order: BTreeSet::new(), missed: None }
    }

    /// A file changed. Whether to report it now.
    pub(super) fn changed(&mut self, place: &Place, change: Change, shape: Shape, now: Instant) -> bool {
        let wait = match change {
            Change::Complete => false,
            // Removed, and there all the same: it has just been made anew.
            Change::Created | Change::Removed => !shape.whole && self.is_young(shape),
            Change::Written => self.is_young(shape),
            Change::Touched => self.is_writing(place),
        };
        if wait {
            self.write(place, shape, now);
        } else {
            self.forget(place);
        }
        !wait
    }

    /// A scan found a file. Whether to report it now. In the first scan of all, the files were there before
    /// us: only one that is empty and new waits.
    pub(super) fn scanned(&mut self, place: &Place, first: bool, shape: Shape, now: Instant) -> bool {
        let wait = if first {
            shape.size == 0 && self.is_young(shape)
        } else {
            self.is_writing(place) || self.is_young(shape)
        };
        if wait {
            self.write(place, shape, now);
        } else {
            self.forget(place);
        }
        !wait
    }

    /// A file that was written has been looked at again. Whether to report it now.
    pub(super) fn looked_again(&mut self, place: &Place, was: Waiting, shape: Shape, now: Instant) -> bool {
        let Waiting::Writing { size, mtime_ns, first } = was else { return true };
        let still = size == shape.size && mtime_ns == shape.mtime_ns;
        if still || now >= first + self.quiet * LONGEST {
            return true;
        }
        let waiting = Waiting::Writing { size: shape.size, mtime_ns: shape.mtime_ns, first };
        self.wait(place, now + self.quiet, waiting);
        false
    }

    /// A name is not there, or leads nowhere. It is reported when it does not come back at once: many
    /// programs replace a file by removing it first.
    pub(super) fn absent(&mut self, place: &Place, now: Instant) {
        self.missed = Some((place.0, now));
        if !matches!(self.waiting.get(place), Some((_, Waiting::Absent { .. }))) {
            self.wait(place, now + ABSENCE, Waiting::Absent { first: now });
        }
    }

    /// A name was still not there. Whether to report it now: not while others of its directory are being
    /// removed, for then the directory may be on its way out.
    pub(super) fn still_absent(&mut self, place: &Place, first: Instant, now: Instant) -> bool {
        let last = self.missed.filter(|(node, _)| *node == place.0).map_or(first, |(_, at)| at);
        let until = last + ABSENCE;
        if until <= now || now >= first + ABSENCE * LONGEST {
            return true;
        }
        self.wait(place, until, Waiting::Absent { first });
        false
    }

    /// The name is dealt with.
    pub(super) fn forget(&mut self, place: &Place) {
        if !self.waiting.is_empty()
            && let Some((due, _)) = self.waiting.remove(place)
        {
            self.order.remove(&(due, place.clone()));
        }
    }

    /// Takes one name whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Place, Waiting)> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, place) = self.order.pop_first()?;
        self.waiting.remove(&place).map(|(_, waiting)| (place, waiting))
    }

    /// When [`Settle::due`] has something next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    fn is_writing(&self, place: &Place) -> bool {
        !self.waiting.is_empty() && matches!(self.waiting.get(place), Some((_, Waiting::Writing { .. })))
    }

    /// A date in the future comes from somewhere else: nobody is writing.
    fn is_young(&self, shape: Shape) -> bool {
        shape.age.is_some_and(|age| age < self.quiet)
    }

    fn write(&mut self, place: &Place, shape: Shape, now: Instant) {
        let first = match self.waiting.get(place) {
            Some((_, Waiting::Writing { first, .. })) => *first,
            _ => now,
        };
        // Looked at again after `quiet`, not later with every event: events alone cost nothing here.
        if !self.is_writing(place) {
            let waiting = Waiting::Writing { size: shape.size, mtime_ns: shape.mtime_ns, first };
            self.wait(place, now + self.quiet, waiting);
        }
    }

    fn wait(&mut self, place: &Place, due: Instant, waiting: Waiting) {
        if let Some((before, _)) = self.waiting.insert(place.clone(), (due, waiting)) {
            self.order.remove(&(before, place.clone()));
        }
        self.order.insert((due, place.clone()));
    }
}

/// How long a name may be missing before it is gone. Source: unlink and creat of one program are some
/// hundred microseconds apart; what is removed is to be told within 5 ms.
pub(super) const ABSENCE: Duration = Duration::from_millis(2);

/// A name waits at most so many times its pause, however busy it is.
const LONGEST: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(100);
    const MS: Duration = Duration::from_millis(1);

    fn place(name: &str) -> Place {
        (0, name.as_bytes().into())
    }

    fn shape(size: u64, mtime_ns: i64) -> Shape {
        Shape { size, mtime_ns, whole: false, age: Some(Duration::ZERO) }
    }

    #[test]
    fn a_file_is_reported_when_it_is_closed_and_not_before() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(!settle.changed(&a, Change::Created, shape(0, 1), t0));
        assert!(!settle.changed(&a, Change::Written, shape(5, 2), t0 + MS));
        assert!(!settle.changed(&a, Change::Touched, shape(5, 2), t0 + MS));
        assert!(settle.changed(&a, Change::Complete, shape(5, 2), t0 + 2 * MS));
        assert_eq!(settle.next(), None);
    }

    #[test]
    fn a_file_that_stays_open_is_reported_once_it_did_not_change_for_the_pause() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(!settle.changed(&a, Change::Created, shape(0, 1), t0));
        assert_eq!(settle.next(), Some(t0 + QUIET));
        assert_eq!(settle.due(t0 + QUIET - MS), None);
        let (_, was) = settle.due(t0 + QUIET).unwrap();
        assert!(!settle.looked_again(&a, was, shape(5, 2), t0 + QUIET));
        let (_, was) = settle.due(t0 + 2 * QUIET).unwrap();
        assert!(settle.looked_again(&a, was, shape(5, 2), t0 + 2 * QUIET));
        assert_eq!(settle.next(), None);
    }

    #[test]
    fn a_file_that_never_rests_is_reported_after_a_bounded_time() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(!settle.changed(&a, Change::Written, shape(0, 0), t0));
        for round in 1..=LONGEST {
            let now = t0 + QUIET * round;
            let (_, was) = settle.due(now).unwrap();
            let reported = settle.looked_again(&a, was, shape(0, i64::from(round)), now);
            assert_eq!(reported, round == LONGEST);
        }
    }

    #[test]
    fn links_old_files_and_files_from_the_future_do_not_wait() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(settle.changed(&a, Change::Created, Shape { whole: true, ..shape(1, 1) }, t0));
        assert!(settle.changed(&a, Change::Created, Shape { age: Some(QUIET), ..shape(1, 1) }, t0));
        assert!(settle.changed(&a, Change::Written, Shape { age: None, ..shape(1, 1) }, t0));
        assert!(settle.changed(&a, Change::Touched, shape(1, 1), t0));
        assert_eq!(settle.next(), None);
    }

    #[test]
    fn the_first_scan_waits_only_for_files_that_are_new_and_empty() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(settle.scanned(&a, true, shape(1, 1), t0));
        assert!(!settle.scanned(&a, true, shape(0, 1), t0));
        assert!(!settle.scanned(&place("b"), false, shape(1, 1), t0));
        assert!(settle.scanned(&place("c"), false, Shape { age: Some(QUIET), ..shape(1, 1) }, t0));
    }

    #[test]
    fn a_name_that_is_removed_and_made_again_was_never_gone() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        settle.absent(&a, t0);
        assert_eq!(settle.next(), Some(t0 + ABSENCE));
        assert!(settle.changed(&a, Change::Complete, shape(1, 1), t0 + MS));
        assert_eq!(settle.due(t0 + QUIET), None);
    }

    #[test]
    fn a_name_whose_removal_is_heard_when_it_is_there_again_waits_for_its_content() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        assert!(!settle.changed(&a, Change::Removed, shape(0, 1), t0));
        assert!(settle.changed(&a, Change::Complete, shape(7, 1), t0 + MS));
    }

    #[test]
    fn while_others_are_being_removed_a_removal_waits_but_not_for_ever() {
        let (mut settle, a, t0) = (Settle::new(QUIET), place("a"), Instant::now());
        settle.absent(&a, t0);
        let mut now = t0;
        loop {
            now += MS;
            settle.absent(&place("another"), now);
            let Some((_, was)) = settle.due(now) else { continue };
            let Waiting::Absent { first } = was else { panic!("{was:?}") };
            if first == t0 && settle.still_absent(&a, first, now) {
                break;
            }
        }
        assert!(now - t0 >= ABSENCE * LONGEST, "{:?}", now - t0);
        assert!(now - t0 <= ABSENCE * (LONGEST + 1), "{:?}", now - t0);
    }

    #[test]
    fn events_of_one_wake_up_come_to_what_the_last_of_them_left() {
        use Change::{Complete, Created, Removed, Touched, Written};
        for (events, sum) in [
            (&[Created, Written, Complete, Touched][..], Complete),
            (&[Created, Written], Created),
            (&[Complete, Written], Written),
            (&[Removed, Created], Created),
            (&[Complete, Removed], Removed),
            (&[Written, Touched], Written),
            (&[Touched], Touched),
        ] {
            assert_eq!(events.iter().copied().reduce(Change::then), Some(sum), "{events:?}");
        }
    }
}
