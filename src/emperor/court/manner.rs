//! Programs that the protocol alone does not govern: how they are told things, and when they are of use.
//!
//! What is agreed with one is an [`Event::Agreed`](super::Event::Agreed) before it is started, and holds for that
//! life. A program that nobody speaks of here is a vassal as uWSGI is one, and pays nothing for the others.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vassal::{State, Then};
use super::{Court, Key, Now, What};

/// A program that shows that it is ready, or of which nothing can be known but that it lives, is of use when it has
/// lived on for so long: some say that they are ready before they have loaded what they run.
const LONG_TRIAL: Duration = Duration::from_secs(3);
/// The same for one that was asked and has answered.
const SHORT_TRIAL: Duration = Duration::from_secs(1);
/// How long a successor may take to be ready, where its file does not say.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(90);

/// What is agreed with a vassal. The default is the protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Manner {
    /// Whether the end of its link is its own end.
    pub linked: bool,
    /// The signal that asks it to end; none: it is told over its link.
    pub stop: Option<u8>,
    /// How it reloads.
    pub reload: Reload,
    /// When it is ready.
    pub ready: Ready,
    /// How long it may take to end; none: as long as the others.
    pub stop_timeout: Option<Duration>,
    /// How long it may take to be ready; none: for ever.
    pub start_timeout: Option<Duration>,
    /// The longest silence once it is ready; none: any.
    pub watchdog: Option<Duration>,
    /// How long nobody may use it before it goes back to its sockets; none: for ever.
    #[serde(default)]
    pub idle: Option<Duration>,
    /// It is left alone for so long after its start.
    #[serde(default)]
    pub idle_min_uptime: Duration,
    /// To reload, another process starts beside it and takes its place.
    #[serde(default)]
    pub rolling: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            linked: true,
            stop: None,
            reload: Reload::Told,
            ready: Ready::Says,
            stop_timeout: None,
            start_timeout: None,
            watchdog: None,
            idle: None,
            idle_min_uptime: Duration::ZERO,
            rolling: false,
        }
    }
}

/// How a vassal reloads.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Reload {
    /// It is told over its link.
    #[default]
    Told,
    /// It is sent this signal, and no answer is expected.
    Signal(u8),
    /// Another process takes its place.
    Restart,
}

/// When a vassal is ready.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ready {
    /// When it says so over its link.
    #[default]
    Says,
    /// As soon as it runs; a notification counts besides.
    AtOnce,
    /// At its first notification.
    Notified,
    /// When somebody has asked it and got an answer.
    Checked,
}

/// What a program shows, or what was seen of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sign {
    /// It says that it is ready, or has come back from a reload.
    Ready,
    /// Somebody has asked, and it has answered.
    Answers,
    /// It says that it is about to read its configuration again.
    Reloading,
    /// It says that it is about to end.
    Stopping,
    /// It is alive.
    Alive,
    /// It says that it hangs.
    Hangs,
}

/// What is agreed with a vassal, and how far it has come.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Course {
    /// What is agreed.
    pub manner: Manner,
    /// Whether it has shown in this life that it is ready.
    pub(super) shown: bool,
    /// When it is too late to be ready, microseconds; 0 for never.
    pub(super) start_due: u64,
    /// When it has proved to be of use, microseconds; 0 for never.
    pub(super) loyal_due: u64,
    /// When it is looked at next, microseconds; 0 for never.
    #[serde(default)]
    pub(super) idle_due: u64,
    /// When somebody used it last.
    #[serde(default)]
    pub(super) busy: u64,
    /// When it was looked at last; 0 for never.
    #[serde(default)]
    pub(super) looked: u64,
    /// What it had taken of the processor then.
    #[serde(default)]
    pub(super) cpu: u64,
    /// Since when it is frozen, microseconds; 0 if it is not.
    #[serde(default)]
    pub(super) frozen: u64,
}

impl Course {
    fn new(manner: Manner) -> Box<Self> {
        Box::new(Self {
            manner,
            shown: false,
            start_due: 0,
            loyal_due: 0,
            idle_due: 0,
            busy: 0,
            looked: 0,
            cpu: 0,
            frozen: 0,
        })
    }

    /// Whether it still has to show that it is ready.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.shown && matches!(self.manner.ready, Ready::Notified | Ready::Checked)
    }
}

impl Court {
    /// What the next life of a vassal goes by.
    pub(super) fn agreed(&mut self, key: Key, manner: Manner) {
        let vassal = &mut self.vassals[key];
        let to_come = matches!(vassal.state, State::Up | State::Stopping(_)) && !vassal.is_alive();
        if to_come {
            vassal.course = (manner != Manner::default()).then(|| Course::new(manner));
        }
    }

    /// What is agreed with a vassal, if it is anything but the protocol.
    pub(super) fn manner(&self, key: Key) -> Option<&Manner> {
        self.vassals[key].course.as_ref().map(|course| &course.manner)
    }

    /// How long a vassal that was told to stop may take.
    pub(super) fn stop_timeout(&self, key: Key) -> Duration {
        let own = self.manner(key).and_then(|manner| manner.stop_timeout);
        own.unwrap_or(self.policy.stop_timeout)
    }

    /// How long a vassal that sends heartbeats may be silent.
    pub(super) fn required_heartbeat(&self, key: Key) -> Duration {
        let own = self.manner(key).and_then(|manner| manner.watchdog);
        own.unwrap_or_else(|| self.policy.required_heartbeat.max(super::rules::LEAST_HEARTBEAT))
    }

    /// Its process runs.
    pub(super) fn course_begins(&mut self, key: Key, now: Now) {
        self.look_for_idleness(key, now);
        let vassal = &mut self.vassals[key];
        let mut default = None;
        if vassal.is_successor() {
            // Somebody waits for it, and not for ever.
            vassal.course.get_or_insert_with(|| Course::new(Manner::default()));
            default = Some(SUCCESSOR_TIMEOUT);
        }
        let Some(course) = &mut vassal.course else { return };
        match (course.manner.ready, course.manner.start_timeout.or(default)) {
            (Ready::AtOnce, _) => self.is_ready(key, now),
            (_, Some(timeout)) => {
                course.start_due = now.after(timeout);
                self.arm(key);
            }
            (_, None) => {}
        }
    }

    pub(super) fn shows(&mut self, key: Key, sign: Sign, now: Now) {
        let vassal = &mut self.vassals[key];
        let Some(course) = &mut vassal.course else { return };
        if vassal.state != State::Up || vassal.pid <= 0 {
            return; // it is on its way out
        }
        match sign {
            // Whoever is asked says more by the answer.
            Sign::Ready if course.manner.ready == Ready::Checked && !course.shown => {}
            Sign::Ready | Sign::Answers => self.shows_ready(key, now),
            Sign::Reloading => {
                vassal.instance.ready = false;
                vassal.instance.accepting = false;
                if let Some(timeout) = course.manner.start_timeout
                    && course.shown
                {
                    course.start_due = now.after(timeout);
                    self.arm(key);
                }
            }
            Sign::Alive => {
                vassal.instance.last_heartbeat = now.epoch;
                if let (true, Some(watchdog)) = (vassal.instance.heartbeat_due > 0, course.manner.watchdog) {
                    vassal.instance.heartbeat_due = now.after(watchdog);
                    self.arm(key);
                }
            }
            Sign::Hangs => {
                self.say(key, What::Hangs);
                self.no_sign_of_life(key, now);
            }
            Sign::Stopping => {
                let patience = self.stop_timeout(key);
                self.say(key, What::EndsItself);
                self.curse(key, patience, now);
            }
        }
    }

    fn shows_ready(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        let Some(course) = &mut vassal.course else { return };
        let first = !std::mem::replace(&mut course.shown, true);
        let was = vassal.instance.accepting && !first;
        let last = vassal.instance.last_accepting;
        self.is_ready(key, now);
        // What it repeats is said once a second at most.
        if !was && (first || last != now.epoch) {
            self.say(key, What::Accepting);
        }
        self.release(key);
    }

    /// It counts as ready, and its trial begins.
    fn is_ready(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        // Who asks at the sockets of a successor may be answered by the one before it.
        let is_successor = vassal.is_successor();
        let Some(course) = &mut vassal.course else { return };
        let instance = &mut vassal.instance;
        if instance.last_ready == 0 && !course.shown {
            self.out.push(super::Action::Tell(super::Notice {
                name: Some(vassal.name.clone()),
                what: What::Spawned,
            }));
        }
        (instance.ready, instance.accepting) = (true, true);
        (instance.last_ready, instance.last_accepting) = (now.epoch, now.epoch);
        course.start_due = 0;
        if course.loyal_due == 0 && !instance.loyal {
            let answered = course.manner.ready == Ready::Checked && !is_successor;
            course.loyal_due = now.after(if answered { SHORT_TRIAL } else { LONG_TRIAL });
        }
        if let Some(watchdog) = course.manner.watchdog {
            instance.heartbeat_due = now.after(watchdog);
        }
        self.arm(key);
    }

    /// It says so over its link.
    pub(super) fn says_ready(&mut self, key: Key) {
        let vassal = &mut self.vassals[key];
        let is_enough = vassal.instance.accepting || !vassal.is_successor();
        if let Some(course) = &mut vassal.course
            && course.manner.ready == Ready::Says
            && is_enough
        {
            course.start_due = 0;
        }
    }

    /// Something is due that only such vassals have. `true` if its life goes on otherwise than before.
    pub(super) fn course_is_due(&mut self, key: Key, now: Now) -> bool {
        if self.look_if_due(key, now) {
            return true;
        }
        let due = |at: u64| at > 0 && at <= now.micros;
        let Some(course) = &mut self.vassals[key].course else { return false };
        if due(course.loyal_due) {
            course.loyal_due = 0;
            self.becomes_loyal(key, now);
            self.succeed_if_ready(key, now);
        }
        let Some(course) = &mut self.vassals[key].course else { return false };
        if !due(course.start_due) {
            return false;
        }
        course.start_due = 0;
        let seconds = course.manner.start_timeout.unwrap_or(SUCCESSOR_TIMEOUT).as_secs();
        self.say(key, What::NotReady { seconds });
        self.stop(key, Then::Pause, now);
        true
    }

    /// It is to reload, and can only by a restart.
    pub(super) fn must_restart(&mut self, key: Key, now: Now) {
        if self.vassals[key].state == State::Up && self.vassals[key].is_alive() {
            self.stop(key, Then::Restart, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Action, Event, Order, Policy, Signal, Word};

    const PROGRAM: Manner = Manner {
        linked: false,
        stop: Some(15),
        reload: Reload::Restart,
        ready: Ready::AtOnce,
        stop_timeout: None,
        start_timeout: None,
        watchdog: None,
        idle: None,
        idle_min_uptime: Duration::ZERO,
        rolling: false,
    };
    const NOTIFIES: Manner =
        Manner { ready: Ready::Notified, start_timeout: Some(s(90)), reload: Reload::Signal(1), ..PROGRAM };
    const CHECKED: Manner = Manner { ready: Ready::Checked, ..NOTIFIES };

    impl Stage {
        fn agree(&mut self, key: Key, manner: Manner) -> Vec<Action> {
            let done = self.on(Event::Agreed(key, manner));
            assert_eq!(done, []);
            self.start(key)
        }

        fn shows(&mut self, key: Key, sign: Sign) -> Vec<Action> {
            self.on(Event::Shows(key, sign))
        }
    }

    fn program(manner: Manner) -> (Stage, Key) {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        let a = stage.key("a");
        assert_eq!(stage.agree(a, manner), []);
        (stage, a)
    }

    fn flags(stage: &Stage, key: Key) -> (bool, bool, bool) {
        let instance = &stage.vassal(key).instance;
        (instance.ready, instance.accepting, instance.loyal)
    }

    #[test]
    fn a_program_of_which_nothing_is_known_is_ready_at_once_and_loyal_when_it_has_lived_for_a_while() {
        let (mut stage, a) = program(PROGRAM);
        assert_eq!(stage.told, [What::Spawned]);
        assert_eq!(flags(&stage, a), (true, true, false));
        assert_eq!(stage.pass(ms(2_999)), []);
        assert_eq!(flags(&stage, a), (true, true, false));
        assert_eq!(stage.pass(ms(1)), []);
        assert_eq!(flags(&stage, a), (true, true, true));
        assert_eq!(stage.court.next_timeout(), None, "nothing is due any more");
        assert_eq!(
            stage.die(a),
            [Action::Ended(name("a")), Action::Spawn(a)],
            "a healthy one starts at once"
        );
    }

    #[test]
    fn one_that_dies_soon_after_it_says_that_it_is_ready_was_not_loyal() {
        for manner in [PROGRAM, NOTIFIES] {
            let (mut stage, a) = program(manner);
            let mut pauses = Vec::new();
            for _ in 0..4 {
                stage.shows(a, Sign::Ready);
                stage.pass(s(2));
                stage.die(a);
                let Some(What::Restarting { after, loyal: false }) = stage.told.last() else {
                    panic!("{:?}", stage.told)
                };
                pauses.push(after.as_millis());
                let after = *after;
                assert_eq!(stage.pass(after), [Action::Spawn(a)]);
                stage.agree(a, manner);
            }
            assert_eq!(pauses, [1, 1001, 2001, 3001], "a crash loop backs off");
        }
    }

    #[test]
    fn the_answer_to_a_check_is_the_better_evidence_and_what_it_says_itself_does_not_count_before() {
        let (mut stage, a) = program(CHECKED);
        assert_eq!(stage.shows(a, Sign::Ready), []);
        assert_eq!(flags(&stage, a), (false, false, false));
        assert_eq!(stage.shows(a, Sign::Answers), []);
        assert_eq!(stage.told, [What::Accepting]);
        assert_eq!(flags(&stage, a), (true, true, false));
        stage.pass(s(1));
        assert_eq!(flags(&stage, a), (true, true, true));
        stage.shows(a, Sign::Reloading);
        assert_eq!(flags(&stage, a), (false, false, true));
        stage.shows(a, Sign::Ready);
        assert_eq!(flags(&stage, a), (true, true, true), "it has been asked, and now it says so itself");
    }

    #[test]
    fn one_that_is_not_ready_in_time_is_stopped_and_has_failed() {
        for manner in [NOTIFIES, CHECKED] {
            let (mut stage, a) = program(manner);
            for pause in [1, 1001, 2001] {
                assert_eq!(stage.pass(s(90) - ms(1)), []);
                assert_eq!(stage.pass(ms(1)), [Action::Signal(a, Signal::Agreed(15))]);
                assert_eq!(stage.told, [What::NotReady { seconds: 90 }, What::Stop]);
                assert_eq!(stage.on(Event::Died(a, true)), [Action::Ended(name("a"))]);
                assert_eq!(stage.told.last(), Some(&What::Restarting { after: ms(pause), loyal: false }));
                assert_eq!(stage.pass(ms(pause)), [Action::Spawn(a)]);
                stage.agree(a, manner);
            }
        }
        let (mut stage, a) = program(Manner { start_timeout: None, ..NOTIFIES });
        assert_eq!(stage.pass(s(100_000)), []);
        assert_eq!(stage.state(a), State::Up);
    }

    #[test]
    fn a_file_that_changes_while_one_that_was_not_ready_ends_is_a_new_chance() {
        let (mut stage, a) = program(NOTIFIES);
        stage.pass(s(90));
        assert_eq!(stage.file("a", version(2)), []);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        let (mut stage, a) = program(NOTIFIES);
        stage.pass(s(90));
        stage.gone("a");
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Forget(a, name("a"))]);
    }

    #[test]
    fn its_own_signal_asks_it_to_end_and_its_own_time_is_kept() {
        let quit = Manner { stop: Some(3), stop_timeout: Some(s(2)), ..PROGRAM };
        let (mut stage, a) = program(quit);
        assert_eq!(stage.gone("a"), [Action::Signal(a, Signal::Agreed(3))]);
        assert_eq!(stage.pass(ms(1_999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.told, [What::NotYetGone { seconds: 2 }]);
        let by_bytes = Manner { stop_timeout: Some(s(2)), ..Manner::default() };
        let (mut stage, a) = program(by_bytes);
        stage.say(a, Word::Loyal);
        stage.pass(ms(250));
        assert_eq!(stage.gone("a"), [Action::Stop(a, Order::Stop)]);
        assert_eq!(stage.pass(s(2)), [Action::Signal(a, Signal::Kill)]);
    }

    #[test]
    fn the_shutdown_does_not_wait_longer_for_whoever_asks_for_more_time() {
        let (mut stage, a) = program(Manner { stop_timeout: Some(s(86_400)), ..PROGRAM });
        stage.on(Event::Shutdown);
        assert_eq!(stage.pass(s(30)), [Action::Signal(a, Signal::Kill)]);
    }

    #[test]
    fn a_reload_by_signal_expects_no_answer_and_none_is_asked_for() {
        let (mut stage, a) = program(NOTIFIES);
        stage.shows(a, Sign::Ready);
        stage.pass(s(10));
        assert_eq!(stage.file("a", version(2)), [Action::Reload { key: a, changed: true }]);
        assert_eq!(flags(&stage, a), (true, true, true), "it serves on");
        assert_eq!((stage.pass(s(1000)), stage.vassal(a).respawns), (vec![], 1));
        stage.shows(a, Sign::Reloading);
        assert_eq!(flags(&stage, a), (false, false, true));
        assert_eq!(stage.shows(a, Sign::Ready), []);
        assert_eq!((stage.told.as_slice(), flags(&stage, a)), (&[What::Accepting][..], (true, true, true)));
        stage.shows(a, Sign::Reloading);
        assert_eq!(stage.pass(s(90)), [Action::Signal(a, Signal::Agreed(15))], "it never came back");
    }

    #[test]
    fn a_flood_of_changes_is_four_signals_a_second() {
        let (mut stage, a) = program(NOTIFIES);
        stage.shows(a, Sign::Ready);
        stage.pass(s(10));
        let mut told = 0;
        for number in 2..1002 {
            let mut actions = stage.file("a", version(number));
            actions.extend(stage.pass(ms(1)));
            told += actions.len();
        }
        assert!((4..=5).contains(&told), "{told}");
    }

    #[test]
    fn one_that_cannot_be_told_is_restarted_and_blamed_for_nothing() {
        let (mut stage, a) = program(PROGRAM);
        stage.pass(s(1));
        assert_eq!(stage.file("a", version(2)), [Action::Reload { key: a, changed: true }]);
        assert_eq!(stage.on(Event::MustRestart(a)), [Action::Signal(a, Signal::Agreed(15))]);
        assert_eq!(stage.on(Event::Died(a, true)), [Action::Ended(name("a")), Action::Spawn(a)]);
        assert!(stage.vassal(a).backoff.is_none());
        assert_eq!(stage.vassal(a).course, None, "what its file asks for now is not known yet");
        assert_eq!(stage.on(Event::MustRestart(a)), [], "it has not started yet");
    }

    #[test]
    fn a_reload_that_its_file_would_not_survive_changes_nothing() {
        let (mut stage, a) = program(PROGRAM);
        stage.pass(s(10));
        stage.file("a", version(2));
        assert_eq!(stage.on(Event::ReloadRefused(a)), []);
        assert_eq!((flags(&stage, a), stage.vassal(a).respawns), ((true, true, true), 0));
        stage.pass(s(1));
        assert_eq!(
            stage.on(Event::ReloadAll),
            [Action::Reload { key: a, changed: true }],
            "and it is looked at again"
        );
    }

    #[test]
    fn the_watchdog_begins_when_it_is_ready_and_a_silent_one_is_killed() {
        let watched = Manner { watchdog: Some(s(2)), ..NOTIFIES };
        let (mut stage, a) = program(watched);
        assert_eq!(stage.pass(s(10)), [], "it starts");
        stage.shows(a, Sign::Ready);
        for _ in 0..5 {
            assert_eq!(stage.pass(ms(1_900)), []);
            stage.shows(a, Sign::Alive);
        }
        assert_eq!(stage.pass(s(2)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.told, [What::NoHeartbeat { seconds: 2 }]);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        let (mut stage, a) = program(PROGRAM);
        stage.shows(a, Sign::Alive);
        assert_eq!(stage.pass(s(1000)), [], "nobody has asked it for any");
    }

    #[test]
    fn one_that_says_that_it_hangs_is_killed_and_one_that_ends_by_itself_has_its_time_for_that() {
        let (mut stage, a) = program(NOTIFIES);
        assert_eq!(stage.shows(a, Sign::Hangs), [Action::Signal(a, Signal::Kill)]);
        assert_eq!((stage.told.as_slice(), stage.state(a)), (&[What::Hangs][..], State::Cursed));
        let (mut stage, a) = program(Manner { stop_timeout: Some(s(5)), ..PROGRAM });
        stage.pass(s(10));
        assert_eq!(stage.shows(a, Sign::Stopping), []);
        assert_eq!(stage.shows(a, Sign::Ready), [], "it has said that it ends");
        assert_eq!(stage.pass(s(5)), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(
            stage.die(a),
            [Action::Ended(name("a")), Action::Spawn(a)],
            "it was loyal, and nobody stopped it"
        );
    }

    #[test]
    fn the_end_of_a_link_means_nothing_to_a_program_that_does_not_know_it() {
        let (mut stage, a) = program(PROGRAM);
        assert_eq!(stage.on(Event::LinkClosed(a)), []);
        assert_eq!(stage.state(a), State::Up);
    }

    #[test]
    fn what_is_agreed_holds_for_one_life() {
        let (mut stage, a) = program(CHECKED);
        stage.on(Event::Agreed(a, PROGRAM));
        assert_eq!(
            stage.vassal(a).course.as_ref().map(|course| course.manner),
            Some(CHECKED),
            "it runs already"
        );
        stage.on(Event::Agreed(a, Manner::default()));
        stage.die(a);
        stage.on(Event::Shows(a, Sign::Answers));
        assert_eq!(flags(&stage, a), (false, false, false), "late");
        stage.pass(s(1));
        stage.start(a);
        assert_eq!(
            stage.gone("a"),
            [Action::Stop(a, Order::Stop), Action::Signal(a, Signal::Term)],
            "uWSGI runs it now"
        );
    }

    #[test]
    fn a_flood_of_contradictions_is_one_line_a_second() {
        let (mut stage, a) = program(NOTIFIES);
        let mut lines = 0;
        for _ in 0..1000 {
            for sign in [Sign::Ready, Sign::Reloading] {
                stage.shows(a, sign);
                lines += stage.told.len();
            }
            stage.pass(ms(1));
        }
        assert!(lines <= 4, "{lines}");
    }

    #[test]
    fn one_that_was_told_to_stop_while_it_was_made_is_asked_by_its_own_signal() {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.gone("a");
        assert_eq!(stage.agree(a, PROGRAM), [Action::Signal(a, Signal::Agreed(15))]);
    }
}
