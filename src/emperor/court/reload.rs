//! Telling a vassal to reload: not too often, never in vain, and not without end.
//!
//! A vassal that was told is *reloading* until it has read that and is heard of again. If there is a reason to tell
//! it once more before, it is looked whether it has read the first message: one that it has yet to read says enough.

use super::vassal::{State, Then};
use super::{Action, Court, Key, Now, What};
use std::time::Duration;

/// A program that has not said anything for so long is one that does not speak the protocol.
const MUTE_AGE: Duration = Duration::from_secs(10);
/// How long a program that does not speak the protocol may leave a reload message unread.
const MUTE_RELOAD: Duration = Duration::from_secs(1);

impl Court {
    /// There is a reason for a vassal to reload. `changed` if that is its file.
    pub(super) fn reload(&mut self, key: Key, changed: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up {
            return;
        }
        let instance = &mut vassal.instance;
        if vassal.pid <= 0 || instance.reload_from() > now.micros {
            instance.reload_again = true;
            self.arm(key);
        } else if instance.reloading {
            instance.reload_again = true;
            self.ask_unread(key);
        } else {
            self.tell_to_reload(key, changed, now);
        }
    }

    fn tell_to_reload(&mut self, key: Key, changed: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        let instance = &mut vassal.instance;
        if !instance.reloading {
            (instance.was_ready, instance.was_accepting) = (instance.ready, instance.accepting);
        }
        instance.reload_again = false;
        (instance.asked, instance.heard) = (false, false);
        instance.reloading = true;
        instance.ready = false;
        instance.accepting = false;
        instance.told = now.micros;
        instance.reload_due = if instance.spoke {
            now.after(self.policy.reload_timeout)
        } else {
            let mute = Now { micros: instance.started, ..now }.after(MUTE_AGE).max(now.micros);
            Now { micros: mute, ..now }.after(MUTE_RELOAD)
        };
        let changed = std::mem::take(&mut instance.refused) || changed;
        vassal.respawns = vassal.respawns.saturating_add(1);
        vassal.last_run = now.epoch;
        self.out.push(Action::Reload { key, changed });
        self.arm(key);
    }

    fn ask_unread(&mut self, key: Key) {
        if !std::mem::replace(&mut self.vassals[key].instance.asked, true) {
            self.out.push(Action::AskUnread(key));
        }
    }

    /// It says that it is there. Has it come back from a reload, or not even read that it shall?
    pub(super) fn heard_of(&mut self, key: Key) {
        let instance = &mut self.vassals[key].instance;
        if instance.reloading {
            instance.heard = true;
            self.ask_unread(key);
        }
    }

    /// It has come back after it was told to reload.
    fn reloaded(&mut self, key: Key, now: Now) {
        let instance = &mut self.vassals[key].instance;
        (instance.asked, instance.heard) = (false, false);
        instance.reloading = false;
        instance.reload_due = 0;
        if instance.reload_again {
            self.reload(key, true, now);
        }
    }

    /// The file would not start: it runs on as it is, until there is another.
    pub(super) fn reload_refused(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        if vassal.state != State::Up || !vassal.is_alive() {
            return;
        }
        let instance = &mut vassal.instance;
        instance.refused = true;
        instance.ready |= instance.was_ready;
        instance.accepting |= instance.was_accepting;
        vassal.respawns = vassal.respawns.saturating_sub(1);
        self.reloaded(key, now);
    }

    /// Whether a vassal has read what it was told.
    pub(super) fn unread(&mut self, key: Key, unread: bool, now: Now) {
        let vassal = &mut self.vassals[key];
        let instance = &mut vassal.instance;
        if vassal.state != State::Up || !std::mem::take(&mut instance.asked) || !instance.reloading {
            return; // it has come back, or is on its way out
        }
        let overdue = instance.reload_due > 0 && instance.reload_due <= now.micros;
        let heard = std::mem::take(&mut instance.heard);
        if !unread && heard {
            self.reloaded(key, now);
        } else if !unread && instance.reload_again {
            self.tell_to_reload(key, true, now);
        } else if !unread && overdue {
            instance.reloading = false; // it never says so, but it does read
            instance.reload_due = 0;
        } else if unread && overdue {
            let until = Now { micros: instance.told, ..now }.after(self.policy.reload_timeout);
            if instance.spoke && until > now.micros {
                instance.reload_due = until; // it has learnt to speak since
                return self.arm(key);
            }
            self.say(key, What::ReloadUnread);
            self.stop(key, Then::Restart, now);
        } else {
            // Read, and nothing more to say; or unread, and the file that it will then read is the newest.
            instance.reload_again = false;
            self.arm(key);
        }
    }

    /// The moment has come to tell it once more, or to see whether it has read what it was told.
    pub(super) fn look_after_reload(&mut self, key: Key, now: Now) {
        let instance = &self.vassals[key].instance;
        let due = |at: u64| at > 0 && at <= now.micros;
        if instance.asked {
            return;
        }
        if instance.reload_again && due(instance.reload_from()) {
            self.reload(key, true, now);
        } else if due(instance.reload_due) {
            self.ask_unread(key);
        }
    }
}
