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
                        Some(false) => self.forget_quietly(key),
                        None => {} // a reinforcement that went with its base
                    }
                }
                self.queue.clear();
                (self.lost, self.held) = (0, 0);
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
                self.forget_quietly(key);
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
    pub(super) fn forget(&mut self, key: Key) {
        self.say(key, What::Removed);
        self.forget_quietly(key);
    }

    pub(super) fn forget_quietly(&mut self, key: Key) {
        self.release(key);
        let Some(vassal) = self.vassals.remove(key) else { return };
        if vassal.zerg.is_some() {
            self.zergs.retain(|zerg| *zerg != key);
        } else {
            self.names.remove(&vassal.name);
        }
        if vassal.is_alive() {
            self.running -= 1;
        }
        if vassal.state == State::Queued {
            self.leave_queue();
        }
        self.out.push(Action::Forget(key, vassal.name));
    }
}
