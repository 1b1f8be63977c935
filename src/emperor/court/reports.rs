//! What the sources say, held against what the court knows.

use super::vassal::{Rest, State, Then, Vassal};
use super::{Action, Court, Identity, Key, Now, Oddity, Reign, Report, SourceId, VassalName, What, micros};
use std::time::Duration;

/// A vassal that failed and whose file changed may start again, but not more often than this.
const CHANGE_GAP: Duration = Duration::from_millis(250);

impl Court {
    pub(super) fn report(&mut self, report: Report, now: Now) {
        if self.reign != Reign::Lasting {
            return;
        }
        match report {
            Report::ScanBegan(source) => *self.scan_of(source) += 1,
            Report::Seen(source, name, identity) => self.seen(source, &name, identity, now),
            Report::Odd(source, name, oddity) => self.odd(source, name, oddity, now),
            Report::Gone(source, name) => {
                self.odd.remove(&name);
                self.gone(source, &name, now);
            }
            Report::ScanEnded(source) => self.scan_ended(source, now),
            Report::Trouble(..) => {} // the hands have said it; nothing is known of the vassals
        }
    }

    fn scan_of(&mut self, source: SourceId) -> &mut u32 {
        let index = usize::from(source.0);
        if self.scans.len() <= index {
            self.scans.resize(index + 1, 0);
        }
        &mut self.scans[index]
    }

    fn seen(&mut self, source: SourceId, name: &VassalName, identity: Identity, now: Now) {
        let scan = *self.scan_of(source);
        self.odd.remove(name);
        let Some(&key) = self.names.get(name) else {
            return self.enter(Vassal::new(name.clone(), source, identity, scan, now));
        };
        let vassal = &mut self.vassals[key];
        if vassal.source != source {
            if vassal.present {
                if !std::mem::replace(&mut vassal.elsewhere, true) {
                    self.say(key, What::TwoSources);
                }
                return;
            }
            // Its own source has lost it, and it is still ending: it goes on as the other source's.
            vassal.source = source;
            vassal.identity = Identity { ctime_ns: 0, mtime_ns: 0, ..identity };
        }
        vassal.scan = scan;
        vassal.present = true;
        let before = std::mem::replace(&mut vassal.identity, identity);
        if vassal.state == State::Stopping(Then::Forget) {
            vassal.state = State::Stopping(Then::Restart);
        } else if before.differs(&identity) {
            self.changed(key, before, now);
        } else if before.ctime_ns != identity.ctime_ns && vassal.state == State::Paused {
            self.try_again(key, now); // its permissions may have been what it failed for
        }
    }

    fn enter(&mut self, vassal: Vassal) {
        let name = vassal.name.clone();
        let key = self.vassals.insert(vassal);
        self.names.insert(name, key);
        self.appear(key);
    }

    /// A vassal that has no process becomes one that may start.
    pub(super) fn appear(&mut self, key: Key) {
        let Identity { uid, gid, .. } = self.vassals[key].identity;
        let vassal = &mut self.vassals[key];
        if self.policy.tyrant && (uid == 0 || gid == 0) {
            vassal.state = State::Resting(Rest::Refused);
            self.say(key, What::InvalidPermissions { uid, gid });
        } else if self.policy.on_demand && vassal.zerg.is_none() {
            vassal.state = State::Admitting;
            self.out.push(Action::Admit(key));
        } else {
            self.enqueue(key);
        }
    }

    fn changed(&mut self, key: Key, before: Identity, now: Now) {
        let vassal = &mut self.vassals[key];
        let after = vassal.identity;
        let other_owner = (before.uid, before.gid) != (after.uid, after.gid);
        match vassal.state {
            State::Up if self.policy.tyrant && other_owner => {
                self.say(key, What::OwnerChanged);
                self.stop(key, Then::Restart, now);
            }
            State::Up => self.reload(key, true, now),
            State::Paused => self.try_again(key, now),
            State::Resting(_) => {
                vassal.backoff = None;
                self.appear(key);
            }
            State::Waiting if self.policy.tyrant && other_owner => {
                self.forget_quietly(key);
                self.out.push(Action::Rescan);
            }
            State::Waiting => self.say(key, What::OnDemandUpdated),
            // It has not read the file yet, or will read it when it starts again.
            State::Admitting | State::Queued | State::Cursed | State::Stopping(_) => {}
        }
    }

    /// What a vassal failed for may have been mended: its failures are forgotten.
    fn try_again(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.backoff = None;
        vassal.short_lives = 0;
        let gap = vassal.instance.started + micros(CHANGE_GAP);
        if gap > now.micros {
            self.set_deadline(key, gap);
        } else {
            self.resume(key);
        }
    }

    fn odd(&mut self, source: SourceId, name: VassalName, oddity: Oddity, now: Now) {
        let known = (source, oddity);
        if self.odd.get(&name) != Some(&known) && self.odd.len() < MANY_ODD {
            self.tell(&name, What::Odd(known.1.clone()));
            self.odd.insert(name.clone(), known);
        }
        self.gone(source, &name, now);
    }

    fn gone(&mut self, source: SourceId, name: &VassalName, now: Now) {
        if let Some(&key) = self.names.get(name)
            && self.vassals[key].source == source
        {
            self.lose(key, now);
        }
    }

    fn scan_ended(&mut self, source: SourceId, now: Now) {
        let scan = *self.scan_of(source);
        let lost = self.vassals.keys(|vassal| {
            vassal.source == source && vassal.present && vassal.scan != scan && vassal.zerg.is_none()
        });
        for key in lost {
            self.lose(key, now);
        }
    }

    /// The file of a vassal is no more.
    fn lose(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.present = false;
        let elsewhere = vassal.elsewhere;
        for zerg in self.vassals.keys(|other| other.zerg.is_some_and(|zerg| zerg.base == key)) {
            self.stop(zerg, Then::Forget, now);
        }
        match self.vassals[key].state {
            State::Up => self.stop(key, Then::Forget, now),
            State::Cursed => {}
            State::Stopping(_) => self.vassals[key].state = State::Stopping(Then::Forget),
            State::Admitting | State::Waiting | State::Queued | State::Paused | State::Resting(_) => {
                self.forget(key);
            }
        }
        if elsewhere {
            self.out.push(Action::Rescan);
        }
    }
}

/// How many odd names are remembered, so as to name each only once.
const MANY_ODD: usize = 10_000;
