//! What the court knows of one vassal.

use super::{Backoff, Course, Identity, Now, Reload, SourceId, VassalName, micros, mtime_seconds};
use serde::{Deserialize, Serialize};
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;
use std::time::Duration;

/// One vassal: a name, the file it stands for, and what its process is doing.
#[derive(Clone, Debug)]
pub struct Vassal {
    /// Its name; that of one that belongs to another vassal ends in its [`Role::suffix`].
    pub name: VassalName,
    /// The source that it belongs to.
    pub source: SourceId,
    /// Its file, as it was last seen.
    pub identity: Identity,
    /// What it is doing.
    pub state: State,
    /// Its process id; -1 without one.
    pub pid: i32,
    /// What is known of the running instance, and of the last one once it has ended.
    pub instance: Lived,
    /// What is agreed with it, if that is not the protocol.
    pub course: Option<Box<Course>>,
    /// Its entry on the blacklist; boxed, for those that are well have none.
    pub backoff: Option<Box<Backoff>>,
    /// Whether it belongs to another vassal, as its reinforcement or its successor.
    pub zerg: Option<Zerg>,
    /// Whether it has an on-demand socket.
    pub on_demand: bool,
    /// Whether that is its own file's wish.
    pub own_demand: bool,
    /// When the file was added, seconds since the epoch: the file's own time, as in uWSGI.
    pub born: u64,
    /// When it was added, seconds since the epoch.
    pub first_run: u64,
    /// When it was started or told to reload last, seconds since the epoch.
    pub last_run: u64,
    /// When its last process ended, or it was kept from having one, seconds since the epoch; 0 for never.
    pub(super) down_since: u64,
    /// How often it was started.
    pub(super) starts: u32,
    /// Reload messages sent to this instance.
    pub respawns: u32,
    /// The scan that saw the file last. Only told from the one before it.
    pub(super) scan: u16,
    /// Whether the file is there.
    pub(super) present: bool,
    /// Whether another source has shown a file of the same name.
    pub(super) elsewhere: bool,
    /// Deaths in a row of instances that were loyal and did not live long.
    pub(super) short_lives: u16,
    /// Failures in a row, since it was of use last or its file has changed.
    pub(super) failures: u32,
    /// When it was reinforced last, microseconds; 0 for never.
    pub(super) reinforced: u64,
    /// The earliest moment for which the timer queue holds an entry of this vassal; 0 for none.
    pub(super) timer: u64,
    /// When `state` ends by itself; 0 for never.
    pub(super) deadline: u64,
}

/// One life of a vassal's process.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Instance {
    /// It has said that it is configured (byte 1). Until the next reload.
    pub ready: bool,
    /// It has said that it accepts requests (byte 5). Until the next reload.
    pub accepting: bool,
    /// It has answered a request (byte 17).
    pub loyal: bool,
    /// When it said so last, seconds since the epoch; 0 for never.
    pub last_ready: u64,
    /// The same for `accepting`.
    pub last_accepting: u64,
    /// The same for `loyal`.
    pub last_loyal: u64,
    /// The last heartbeat, seconds since the epoch; 0 for never, or when it was missed.
    pub last_heartbeat: u64,
    /// When it was told to stop or lost its link, seconds since the epoch; 0 if neither.
    pub cursed: u64,
    /// It has said anything at all: it speaks the protocol.
    pub(super) spoke: bool,
    /// It counts among those that are starting.
    pub(super) starting: bool,
    /// It was told to reload and has not come back yet.
    pub(super) reloading: bool,
    /// There is a reason to tell it once more, as soon as that makes sense.
    pub(super) reload_again: bool,
    /// Whether it has read the message was asked, and is not answered yet.
    pub(super) asked: bool,
    /// It was asked because the vassal has said something.
    pub(super) heard: bool,
    /// The file that is there now would not start: the instance runs on with an earlier one.
    pub(super) refused: bool,
    /// It is to stop, and is told as soon as it can hear that.
    pub(super) untold: bool,
    /// What `ready` was before it was told to reload.
    pub(super) was_ready: bool,
    /// What `accepting` was before it was told to reload.
    pub(super) was_accepting: bool,
    /// Its file has changed since it was started, and its failures were forgotten for it.
    pub(super) pardoned: bool,
    /// When it was started, or tried to, microseconds.
    pub(super) started: u64,
    /// When it was told to reload last, microseconds; 0 for never.
    pub(super) told: u64,
    /// When it said last that it accepts requests, or without that has answered one, microseconds; 0 for never.
    pub(super) accepted: u64,
    /// When its next heartbeat is overdue, microseconds; 0 for never.
    pub(super) heartbeat_due: u64,
    /// How long the reload message may stay unread, microseconds; 0 for any time.
    pub(super) reload_due: u64,
}

/// An instance where there is or was one. Most vassals that sleep never had any, and are not to pay for it: all that is
/// read of theirs is as [`Instance::default`] has it, and what is written makes it.
#[derive(Clone, Debug, Default)]
pub struct Lived(Option<Box<Instance>>);

/// That of those who have none.
static UNBORN: LazyLock<Instance> = LazyLock::new(Instance::default);

impl Deref for Lived {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        self.0.as_deref().unwrap_or(&UNBORN)
    }
}

impl DerefMut for Lived {
    fn deref_mut(&mut self) -> &mut Instance {
        self.0.get_or_insert_default()
    }
}

impl From<Instance> for Lived {
    fn from(instance: Instance) -> Self {
        Self((instance != Instance::default()).then(|| Box::new(instance)))
    }
}

impl Instance {
    /// Two reload messages are so far apart at least, while nothing is heard of the first.
    const UNANSWERED_GAP: Duration = Duration::from_secs(1);
    /// The same if it has come back in between; and none comes sooner after it has begun to accept. The workers of uWSGI
    /// 2.0.21 miss one that comes within some milliseconds of their start, and go on as they are for
    /// `worker-reload-mercy`.
    const ANSWERED_GAP: Duration = Duration::from_millis(250);
    /// A stop comes no sooner after it has begun to accept: they miss that, too, and are killed in the end.
    pub(super) const STOP_GAP: Duration = Duration::from_millis(100);
    /// How long one that reloads is waited for before it is told to stop. It may wait for requests itself.
    const RELOAD_PATIENCE: Duration = Duration::from_secs(3);
    /// How long one that has yet to say that it accepts is waited for.
    const ACCEPTING_PATIENCE: Duration = Duration::from_secs(10);

    /// The earliest moment for another reload message, microseconds; 0 for any. `answers` if it is one that says when it
    /// accepts requests.
    fn reload_from(&self, answers: bool) -> u64 {
        let after = |moment: u64, gap: Duration| moment.saturating_add(micros(gap));
        match (self.told, self.reloading) {
            (told, reloading) if answers && (self.accepting || self.loyal && !reloading) => {
                after(told.max(self.accepted), Self::ANSWERED_GAP)
            }
            (told, true) if answers && self.last_accepting > 0 => after(told, Self::ACCEPTING_PATIENCE),
            (0, _) if answers => after(self.started, Self::ACCEPTING_PATIENCE),
            (0, _) => 0,
            (told, true) => after(told, Self::UNANSWERED_GAP),
            (told, false) => after(told, Self::ANSWERED_GAP),
        }
    }
}

/// The states of a vassal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum State {
    /// The hands look whether it has an on-demand socket.
    Admitting,
    /// Its socket waits for the first connection.
    Waiting,
    /// It waits for its turn to start.
    Queued,
    /// It failed, and may not start before its deadline.
    Paused,
    /// Its process was asked for, or runs.
    Up,
    /// It lost its link or missed its heartbeat: its death is awaited, and brought about at the deadline.
    Cursed,
    /// It was told to stop, is killed at the deadline, and then…
    Stopping(Then),
    /// It does not run, and stays so until its file changes.
    Resting(Rest),
}

/// What follows when a vassal has stopped.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Then {
    /// It is struck off.
    Forget,
    /// It starts again.
    Restart,
    /// Its socket waits for the next connection.
    Wait,
    /// It rests.
    Rest,
    /// It rests because somebody has stopped it by hand.
    RestByHand,
    /// It was of no use, and pays for that with a pause.
    Pause,
}

/// Why a vassal rests.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Rest {
    /// It asked to be stopped when it was idle.
    Idle,
    /// Tyrant mode does not let it run.
    Refused,
    /// It failed too often.
    Abandoned,
    /// Somebody has stopped it.
    ByHand,
}

/// What makes a vassal one that belongs to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Zerg {
    /// The vassal that it belongs to.
    pub base: super::Key,
    /// Its number among all reinforcements that were ever started, from 1; 0 for those that are none.
    pub number: u32,
    /// What it is for.
    pub role: Role,
}

/// What a vassal that belongs to another is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Role {
    /// It serves beside the other.
    #[default]
    Reinforcement,
    /// It takes the other's place as soon as it is ready.
    Successor,
    /// Its place was taken, and it ends.
    Predecessor,
}

impl Role {
    /// What its name ends in, behind that of the other.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Reinforcement => ":zerg",
            Self::Successor => ":next",
            Self::Predecessor => ":last",
        }
    }

    /// The name of the other in a name.
    #[must_use]
    pub fn base_of(self, name: &[u8]) -> &[u8] {
        name.strip_suffix(self.suffix().as_bytes()).unwrap_or(name)
    }
}

impl Vassal {
    pub(super) fn new(name: VassalName, source: SourceId, identity: Identity, scan: u16, now: Now) -> Self {
        Self {
            name,
            source,
            identity,
            state: State::Queued,
            pid: -1,
            instance: Lived::default(),
            course: None,
            backoff: None,
            zerg: None,
            on_demand: false,
            own_demand: false,
            born: mtime_seconds(&identity),
            first_run: now.epoch,
            last_run: now.epoch,
            down_since: 0,
            starts: 0,
            respawns: 0,
            scan,
            present: true,
            elsewhere: false,
            short_lives: 0,
            failures: 0,
            reinforced: 0,
            timer: 0,
            deadline: 0,
        }
    }

    /// The last change of its file that was acted on, seconds since the epoch.
    #[must_use]
    pub fn last_mod(&self) -> u64 {
        mtime_seconds(&self.identity)
    }

    /// Whether it has a process, or one was just asked for.
    #[must_use]
    pub fn has_process(&self) -> bool {
        matches!(self.state, State::Up | State::Cursed | State::Stopping(_))
    }

    /// Since when it is in its state, as far as that is known: seconds since the epoch.
    #[must_use]
    pub fn since(&self, now: Now) -> u64 {
        match self.state {
            State::Up if self.is_alive() => {
                now.epoch - now.since(self.instance.started).as_secs().min(now.epoch)
            }
            State::Cursed | State::Stopping(_) if self.instance.cursed > 0 => self.instance.cursed,
            _ if self.down_since > 0 => self.down_since,
            _ => self.first_run,
        }
    }

    /// In how many seconds its pause is over; none while it is not paused.
    #[must_use]
    pub fn pause_left(&self, now: Now) -> Option<Duration> {
        let left = self.deadline.saturating_sub(now.micros);
        (self.state == State::Paused).then(|| Duration::from_micros(left))
    }

    /// Whether it has just started, or has yet to show that it is ready.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        let awaited = self.course.as_ref().is_some_and(|course| course.is_awaited());
        (self.instance.starting || awaited) && !self.instance.accepting
    }

    /// Whether it is frozen, because nobody uses it.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.course.as_ref().is_some_and(|course| course.frozen > 0)
    }

    /// Whether it was told to reload and has not come back yet.
    #[must_use]
    pub fn is_reloading(&self) -> bool {
        self.instance.reloading
    }

    /// Whether its file has changed into one that would not start.
    #[must_use]
    pub fn runs_old_file(&self) -> bool {
        self.instance.refused
    }

    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// How often in a row it has failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Its number, if it is a reinforcement.
    #[must_use]
    pub fn zerg_number(&self) -> Option<u32> {
        self.zerg.filter(|zerg| zerg.role == Role::Reinforcement).map(|zerg| zerg.number)
    }

    /// Whether it is to take the place of another.
    #[must_use]
    pub fn is_successor(&self) -> bool {
        self.zerg.is_some_and(|zerg| zerg.role == Role::Successor)
    }

    /// Whether its process runs, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        self.pid > 0
    }

    /// Its failures are forgotten: its file has changed, or somebody says so.
    pub(super) fn pardon(&mut self) {
        self.backoff = None;
        self.failures = 0;
        self.short_lives = 0;
        self.instance.pardoned = true;
    }

    /// Whether it is told to reload by the protocol.
    pub(super) fn is_told(&self) -> bool {
        self.course.as_ref().is_none_or(|course| course.manner.reload == Reload::Told)
    }

    /// The earliest moment for another reload, microseconds; 0 for any.
    pub(super) fn reload_from(&self) -> u64 {
        self.instance.reload_from(self.is_told())
    }

    /// The earliest moment for a stop message, microseconds; 0 for any. Workers of uWSGI miss it as they miss a reload.
    pub(super) fn stop_from(&self, now: Now) -> u64 {
        let is_signalled = self.course.as_ref().is_some_and(|course| course.manner.stop.is_some());
        let Instance { spoke, accepting, loyal, reloading, accepted, told, .. } = *self.instance;
        match (accepting || loyal && !reloading, reloading) {
            _ if is_signalled || !spoke => 0,
            (true, _) => accepted.saturating_add(micros(Instance::STOP_GAP)),
            (false, true) => told.saturating_add(micros(Instance::RELOAD_PATIENCE)),
            (false, false) => now.after(Instance::STOP_GAP),
        }
    }

    /// The next moment at which something is due; 0 for never.
    pub(super) fn due(&self) -> u64 {
        let mut times = [self.deadline, 0, 0, 0, 0, 0, 0];
        if self.state == State::Up && self.is_alive() {
            times[1] = if self.is_frozen() { 0 } else { self.instance.heartbeat_due };
            if !self.instance.asked {
                times[2] = self.instance.reload_due;
                times[3] = if self.instance.reload_again { self.reload_from() } else { 0 };
            }
            if let Some(course) = &self.course {
                (times[4], times[5]) = (course.start_due, course.loyal_due);
                times[6] = course.idle_due;
            }
        }
        times.into_iter().filter(|time| *time > 0).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, version};
    use super::*;
    use crate::emperor::court::{Event, Policy};

    #[test]
    fn one_that_sleeps_pays_for_no_instance_until_it_is_woken() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let key = stage.key("a");
        stage.on(Event::Admitted(key, true));
        assert_eq!((stage.state(key), stage.vassal(key).instance.0.is_none()), (State::Waiting, true));
        assert_eq!(*stage.vassal(key).instance, Instance::default());
        stage.on(Event::Connection(key));
        assert!(stage.vassal(key).instance.starting);
    }
}
