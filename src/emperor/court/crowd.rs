//! Who may start now: the queue, and what happens when the machine is short of processes.

use super::vassal::{Instance, State};
use super::{Action, Court, Key, Now, Reign, What};
use std::time::Duration;

/// How long nobody is started after the machine refused to make a process.
pub(super) const HOLD: Duration = Duration::from_secs(1);
/// So many of those that were lost while they waited may stay in the queue, whatever its length.
const FEW: usize = 64;

impl Court {
    /// Puts a vassal at the end of those that wait for their turn.
    pub(super) fn enqueue(&mut self, key: Key) {
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        self.queue.push_back(key);
    }

    /// Lets as many start as may be starting at once, in the order in which they came.
    pub(super) fn admit_starters(&mut self, now: Now) {
        if self.hold_until > now.micros || self.reign != Reign::Lasting {
            return;
        }
        (self.hold_until, self.held) = (0, 0);
        // After a shortage one vassal tries first whether it is over.
        while self.starting < if self.probing { 1 } else { self.policy.max_starting.max(1) }
            && let Some(key) = self.queue.pop_front()
        {
            if self.vassals.get(key).is_none_or(|vassal| vassal.state != State::Queued) {
                self.lost = self.lost.saturating_sub(1);
                continue; // it was lost while it waited
            }
            if self.refuse(key, now) {
                continue; // its file has got another owner while it waited
            }
            let vassal = &mut self.vassals[key];
            vassal.state = State::Up;
            vassal.instance = Instance { starting: true, started: now.micros, ..Default::default() };
            self.starting += 1;
            self.out.push(Action::Spawn(key));
        }
        if self.queue.is_empty() && self.starting == 0 {
            (self.short, self.probing) = (false, false); // the next shortage is another one
        }
    }

    /// The machine could not make a process: nobody is to blame, and nobody else is tried for a moment.
    pub(super) fn hold(&mut self, key: Key, now: Now) {
        if !std::mem::replace(&mut self.short, true) {
            self.tell_all(What::ShortOfProcesses);
        }
        self.probing = true;
        self.hold_until = now.after(HOLD);
        self.vassals[key].state = State::Queued;
        self.vassals[key].deadline = 0;
        // Those that were refused together keep their order.
        self.queue.insert(self.held.min(self.queue.len()), key);
        self.held += 1;
    }

    /// A vassal no longer counts among those that are starting.
    pub(super) fn release(&mut self, key: Key) {
        if std::mem::take(&mut self.vassals[key].instance.starting) {
            self.starting -= 1;
            if self.vassals[key].state == State::Up {
                self.vassals[key].deadline = 0;
            }
        }
    }

    /// A vassal was struck off while it waited. Its place is cleared away with others', or when its turn comes.
    pub(super) fn leave_queue(&mut self) {
        self.lost += 1;
        if self.lost > FEW && self.lost > self.queue.len() / 2 {
            self.queue.retain(|key| self.vassals.get(*key).is_some());
            (self.lost, self.held) = (0, 0);
        }
    }
}
