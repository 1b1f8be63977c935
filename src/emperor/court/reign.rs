//! What concerns all vassals: the emperor's signals, and the end.

use super::crowd::HOLD;
use super::vassal::{Rest, State, Then};
use super::{Action, Court, Key, Now, Reign, Signal, What};

/// So many seconds in a row in which no vassal ends, although all were killed, and those left are given up: only the
/// kernel can free them.
const LAST_WAIT: u8 = 10;

impl Court {
    /// SIGHUP. Vassals that wait on demand read their file when they start; the others are told.
    pub(super) fn reload_all(&mut self, now: Now) {
        for key in self.vassals.keys(|vassal| vassal.state == State::Up && vassal.is_alive()) {
            self.reload(key, false, now);
        }
    }

    /// SIGURG.
    pub(super) fn clear_blacklist(&mut self, now: Now) {
        self.tell_all(What::BlacklistCleared);
        let blamed = |vassal: &super::Vassal| vassal.failures > 0 || vassal.short_lives > 0;
        for key in self.vassals.keys(blamed) {
            self.vassals[key].pardon();
            if matches!(self.vassals[key].state, State::Paused | State::Resting(Rest::Abandoned)) {
                self.resume(key, now);
            }
        }
        self.hold_until = 0;
    }

    /// Once: stop everything within the grace. Twice: kill.
    pub(super) fn shutdown(&mut self, now: Now) {
        match self.reign {
            Reign::Lasting => {
                self.tell_all(What::Ragnarok { vassals: self.running });
                self.reign = Reign::Ending { deadline: now.after(self.policy.shutdown_grace), kills: 0 };
                for key in self.vassals.keys(|_| true) {
                    match self.vassals.get(key).map(super::Vassal::has_process) {
                        Some(true) => self.stop(key, Then::Forget, now),
                        Some(false) => self.forget_quietly(key, now),
                        None => {} // a reinforcement that went with its base
                    }
                }
                self.queue = super::turns::Turns::default();
            }
            Reign::Ending { deadline, .. } => {
                let seconds = deadline.saturating_sub(now.micros) / 1_000_000;
                self.tell_all(What::RagnarokAgain { seconds });
                self.kill_all(now);
            }
            Reign::Buried => {}
        }
    }

    /// They are dead in a moment. Should one not be, because its file system hangs, it is tried again, and left
    /// alone when that is no use.
    pub(super) fn kill_all(&mut self, now: Now) {
        let Reign::Ending { kills, .. } = self.reign else { return };
        self.reign = Reign::Ending { deadline: now.after(HOLD), kills: kills.saturating_add(1) };
        for key in self.vassals.keys(super::Vassal::is_alive) {
            if kills == 0 {
                self.say(key, What::NoMercy);
            }
            self.signal(key, Signal::Kill);
        }
        if kills >= LAST_WAIT {
            for key in self.vassals.keys(super::Vassal::is_alive) {
                self.forget_quietly(key, now);
            }
        }
    }

    /// A vassal has ended: while that goes on, none is given up.
    pub(super) fn have_patience(&mut self) {
        if let Reign::Ending { kills, .. } = &mut self.reign {
            *kills = (*kills).min(1);
        }
    }

    pub(super) fn bury_if_empty(&mut self) {
        if matches!(self.reign, Reign::Ending { .. }) && self.vassals.len() == 0 {
            self.reign = Reign::Buried;
            self.out.push(Action::Bury);
        }
    }

    pub(super) fn tell_all(&mut self, what: What) {
        self.out.push(Action::Tell(super::Notice { name: None, what }));
    }

    /// Strikes a vassal off, and says so.
    pub(super) fn forget(&mut self, key: Key, now: Now) {
        let is_vassal = self.vassals[key].zerg.is_none();
        self.say(key, if is_vassal { What::Removed } else { What::Dismissed });
        self.forget_quietly(key, now);
    }

    pub(super) fn forget_quietly(&mut self, key: Key, now: Now) {
        self.release(key);
        let Some(vassal) = self.vassals.remove(key) else { return };
        if vassal.zerg.is_some() {
            self.zergs.retain(|zerg| *zerg != key);
            self.retiring.remove(&key);
            self.is_nobodys_heir(key, &vassal);
            self.grant(now);
        } else {
            self.names.remove(&vassal.name);
            self.crowded.remove(&key);
            self.lately.add(&vassal.name, vassal.instance.started, now);
        }
        if vassal.is_alive() {
            self.running -= 1;
        }
        if vassal.state == State::Queued {
            self.leave_queue();
        }
        if vassal.is_successor() {
            self.has_not_succeeded(key, &vassal, now);
        }
        self.out.push(Action::Forget(key, vassal.name));
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Order, Policy, Word};

    #[test]
    fn parity_the_end_stops_all_at_once_and_comes_when_the_last_is_gone() {
        // Measured on uWSGI 2.0.21: byte 0 to all, then "buried".
        let mut stage = Stage::new(Policy::default());
        let (a, b) = (stage.loyal("a"), stage.loyal("b"));
        assert_eq!(
            stage.on(Event::Shutdown),
            [Action::Stop(a, Order::Stop), Action::Stop(b, Order::Stop)],
            "both are told in the same moment"
        );
        assert_eq!(stage.told, [What::Ragnarok { vassals: 2 }, What::Stop, What::Stop]);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Forget(a, name("a"))]);
        assert_eq!(
            stage.die(b),
            [Action::Ended(name("b")), Action::Forget(b, name("b")), Action::Bury],
            "and the emperor ends with the last"
        );
        assert_eq!(stage.on(Event::Shutdown), []);
    }

    #[test]
    fn an_empire_without_vassals_ends_at_once() {
        let mut stage = Stage::new(Policy::default());
        assert_eq!(stage.on(Event::Shutdown), [Action::Bury]);
    }

    #[test]
    fn what_has_no_process_is_struck_off_at_the_end_and_never_signalled() {
        let on_demand = Policy { on_demand: true, max_starting: 1, stop_timeout: s(60), ..Policy::default() };
        let mut stage = Stage::new(on_demand);
        for text in ["waiting", "waiting too", "up", "queued", "admitting"] {
            stage.file(text, version(1));
        }
        for (text, waits) in [("waiting", true), ("waiting too", true), ("up", false), ("queued", false)] {
            stage.on(Event::Admitted(stage.key(text), waits));
        }
        let up = stage.key("up");
        stage.start(up);
        stage.file("paused", version(1));
        stage.on(Event::NotBound(stage.key("paused")));
        let ended = stage.on(Event::Shutdown);
        assert_eq!(
            ended.iter().filter(|action| matches!(action, Action::Forget(..))).count(),
            5,
            "{ended:?}"
        );
        assert_eq!(stage.court.len(), 1);
        // uWSGI 2.0.21 calls kill(-1, SIGKILL) here.
        assert_eq!(stage.pass(s(30)), [Action::Signal(up, Signal::Kill)]);
        assert_eq!(stage.die(up).last(), Some(&Action::Bury));
    }

    #[test]
    fn a_vassal_that_is_being_made_at_the_end_is_told_as_soon_as_it_is_there() {
        let mut stage = Stage::new(Policy::default());
        stage.file("a", version(1));
        stage.file("b", version(1));
        let (a, b) = (stage.key("a"), stage.key("b"));
        assert_eq!(stage.on(Event::Shutdown), []);
        assert_eq!(stage.start(a), [Action::Stop(a, Order::Stop), Action::Signal(a, Signal::Term)]);
        assert_eq!(stage.on(Event::NotStarted(b, true)), [Action::Forget(b, name("b"))]);
        assert_eq!(stage.die(a).last(), Some(&Action::Bury));
    }

    #[test]
    fn a_second_signal_kills() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.on(Event::Shutdown);
        stage.pass(ms(10_500));
        assert_eq!(stage.on(Event::Shutdown), [Action::Signal(a, Signal::Kill)]);
        assert_eq!(stage.told, [What::RagnarokAgain { seconds: 19 }, What::NoMercy]);
    }

    #[test]
    fn parity_after_the_grace_what_is_left_is_killed() {
        // Measured on uWSGI 2.0.21: 30.0 s by default, 4 s with reload-mercy 4.
        for seconds in [30, 4] {
            let grace = Policy { shutdown_grace: s(seconds), ..Policy::default() };
            let mut stage = Stage::new(grace);
            let a = stage.loyal("a");
            stage.on(Event::Shutdown);
            assert_eq!(stage.pass(s(seconds) - ms(1)), []);
            assert_eq!(stage.pass(ms(1)).first(), Some(&Action::Signal(a, Signal::Kill)));
        }
    }

    #[test]
    fn what_even_a_kill_does_not_end_is_given_up() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        stage.on(Event::Shutdown);
        stage.on(Event::Shutdown);
        let tries = stage.pass(s(9));
        assert!(tries.iter().all(|action| *action == Action::Signal(a, Signal::Kill)), "{tries:?}");
        let end = stage.pass(s(1));
        assert_eq!(end[end.len() - 2..], [Action::Forget(a, name("a")), Action::Bury]);
        assert_eq!(stage.court.running(), 0);
        assert_eq!(stage.court.next_timeout(), None);
    }

    #[test]
    fn parity_sighup_tells_what_runs_and_nobody_else() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        let rests = stage.up("b");
        stage.say(rests, Word::Idle);
        stage.die(rests);
        assert_eq!(stage.on(Event::ReloadAll), [Action::Reload { key: a, changed: false }]);
        let vassal = stage.vassal(a);
        assert_eq!((vassal.respawns, vassal.instance.ready, vassal.instance.loyal), (1, false, true));
    }

    #[test]
    fn parity_sigurg_forgets_failures_and_starts_those_that_were_kept_from_it() {
        let mut stage = Stage::new(Policy { abandon_after: 2, ..Policy::default() });
        let (paused, given_up) = (stage.up("a"), stage.up("b"));
        stage.die(given_up);
        stage.pass(ms(1));
        stage.start(given_up);
        stage.die(given_up);
        stage.die(paused);
        assert_eq!(stage.state(given_up), State::Resting(Rest::Abandoned));
        assert_eq!(stage.state(paused), State::Paused);
        assert_eq!(stage.on(Event::ClearBlacklist), [Action::Spawn(paused), Action::Spawn(given_up)]);
        assert!([paused, given_up].iter().all(|key| stage.vassal(*key).backoff.is_none()));
        assert_eq!(stage.told, [What::BlacklistCleared]);
    }
}
