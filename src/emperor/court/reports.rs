//! What the sources say, held against what the court knows.

use super::vassal::{Rest, State, Then, Vassal};
use super::{Action, Court, Identity, Key, Now, Odd, Oddity, Reign, Report, SourceId, VassalName, What};
use std::time::Duration;

/// A vassal that failed and whose file changed may start again, but not more often than this.
pub(super) const CHANGE_GAP: Duration = Duration::from_millis(250);

impl Court {
    pub(super) fn report(&mut self, report: Report, now: Now) {
        if self.reign != Reign::Lasting {
            return;
        }
        match report {
            Report::ScanBegan(source) => {
                let scan = self.scan_of(source);
                *scan = scan.wrapping_add(1);
            }
            Report::Seen(source, name, identity) => self.seen(source, &name, identity, now),
            Report::Writing(source, name) => self.writing(source, &name),
            Report::Odd(source, name, oddity) => self.odd(source, name, oddity, now),
            Report::Gone(source, name) => {
                self.no_longer_odd(source, &name);
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
        self.no_longer_odd(source, name);
        let Some(&key) = self.names.get(name) else {
            return self.enter(Vassal::new(name.clone(), source, identity, scan, now), now);
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
            vassal.elsewhere = false;
        }
        vassal.scan = scan;
        let is_back = !std::mem::replace(&mut vassal.present, true);
        let before = std::mem::replace(&mut vassal.identity, identity);
        if vassal.state == State::Stopping(Then::Forget) {
            vassal.state = State::Stopping(Then::Restart);
        }
        if is_back || before.differs(&identity) {
            self.changed(key, before, now);
        } else if before.ctime_ns != identity.ctime_ns
            && matches!(vassal.state, State::Paused | State::Resting(Rest::Abandoned))
        {
            self.try_again(key, now); // its permissions may have been what it failed for
        }
    }

    /// The file is there, and its content is not known yet: for a scan it counts as unchanged.
    fn writing(&mut self, source: SourceId, name: &VassalName) {
        let scan = *self.scan_of(source);
        if let Some(&key) = self.names.get(name)
            && self.vassals[key].source == source
        {
            self.vassals[key].scan = scan;
        }
    }

    fn enter(&mut self, vassal: Vassal, now: Now) {
        let name = vassal.name.clone();
        let key = self.vassals.insert(vassal);
        self.names.insert(name, key);
        self.appear(key, now);
    }

    fn changed(&mut self, key: Key, before: Identity, now: Now) {
        let vassal = &mut self.vassals[key];
        let after = vassal.identity;
        let other_owner = self.policy.tyrant && (before.uid, before.gid) != (after.uid, after.gid);
        vassal.pardon();
        let state = vassal.state;
        if other_owner {
            if state != State::Waiting {
                vassal.on_demand = false; // its socket is bound anew
            }
            self.dismiss_zergs(key, now);
        } else {
            self.change_zergs(key, after, now);
        }
        match state {
            State::Up if other_owner => {
                self.say(key, What::OwnerChanged);
                self.stop(key, Then::Restart, now);
            }
            State::Up => self.reload(key, true, now),
            State::Paused | State::Resting(_) => self.try_again(key, now),
            State::Waiting if other_owner => self.enter_anew(key, now),
            State::Waiting => self.say(key, What::OnDemandUpdated),
            State::Stopping(Then::Rest) => self.vassals[key].state = State::Stopping(Then::Restart),
            State::Stopping(Then::Wait) if other_owner => {
                self.vassals[key].state = State::Stopping(Then::Restart);
            }
            // It has not read the file yet, or will read it when it starts again.
            State::Admitting | State::Queued | State::Cursed | State::Stopping(_) => {}
        }
    }

    /// Strikes off a vassal without a process, and enters it as if it had just been found.
    fn enter_anew(&mut self, key: Key, now: Now) {
        let Vassal { name, source, identity, scan, elsewhere, .. } = self.vassals[key].clone();
        self.forget_quietly(key);
        self.enter(Vassal { elsewhere, ..Vassal::new(name, source, identity, scan, now) }, now);
    }

    /// What a vassal failed for may have been mended: its failures are forgotten.
    fn try_again(&mut self, key: Key, now: Now) {
        let vassal = &mut self.vassals[key];
        vassal.pardon();
        let from = Now { micros: vassal.instance.started, ..now }.after(CHANGE_GAP);
        if vassal.instance.started > 0 && from > now.micros {
            vassal.state = State::Paused;
            self.set_deadline(key, from);
        } else if vassal.state == State::Paused {
            self.resume(key, now);
        } else {
            self.appear(key, now);
        }
    }

    fn odd(&mut self, source: SourceId, name: VassalName, oddity: Oddity, now: Now) {
        let scan = *self.scan_of(source);
        let many = self.odd.len() >= MANY_ODD;
        match self.odd.get_mut(&name) {
            Some(odd) if odd.source == source => {
                odd.scan = scan;
                if odd.oddity != oddity {
                    odd.oddity = oddity.clone();
                    self.tell(&name, What::Odd(oddity));
                }
            }
            Some(_) => {} // it is odd in another source already; that is told
            None if !many => {
                self.odd.insert(name.clone(), Odd { source, oddity: oddity.clone(), scan });
                self.tell(&name, What::Odd(oddity));
            }
            None => {}
        }
        self.gone(source, &name, now);
    }

    fn no_longer_odd(&mut self, source: SourceId, name: &VassalName) {
        if !self.odd.is_empty() && self.odd.get(name).is_some_and(|odd| odd.source == source) {
            self.odd.remove(name);
        }
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
        self.odd.retain(|_, odd| odd.source != source || odd.scan == scan);
        let lost = self.vassals.keys(|vassal| {
            vassal.source == source && vassal.present && vassal.scan != scan && vassal.zerg.is_none()
        });
        for key in lost {
            self.lose(key, now);
        }
    }

    /// The file of a vassal is no more.
    fn lose(&mut self, key: Key, now: Now) {
        let elsewhere = self.vassals[key].elsewhere;
        self.dismiss_zergs(key, now);
        self.stop(key, Then::Forget, now);
        if elsewhere {
            self.out.push(Action::Rescan);
        }
    }
}

/// How many odd names are remembered, so as to name each only once.
const MANY_ODD: usize = 10_000;
