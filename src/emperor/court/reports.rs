//! What the sources say, held against what the court knows.

use super::vassal::{Rest, State, Then, Vassal};
use super::{Action, Court, Identity, Key, Now, Odd, Oddity, Reign, Report, SourceId, VassalName, What};
use std::time::Duration;

/// A vassal that failed and whose file changed, or whose file was away, may start again, but not more often than this.
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
            Report::Odd(source, name, oddity) => {
                self.note_odd(source, &name, oddity);
                self.gone(source, &name, now);
            }
            Report::Unusable(source, name, oddity) => {
                self.note_odd(source, &name, oddity);
                self.writing(source, &name);
            }
            Report::Gone(source, name) => {
                self.no_longer_odd(source, &name);
                self.gone(source, &name, now);
            }
            Report::ScanEnded(source) => self.scan_ended(source, now),
            // The loop has said these, or given them to the hands; nothing is known of the vassals by them.
            Report::Trouble(..) | Report::Remark(..) | Report::Supplies(..) => {}
        }
    }

    fn scan_of(&mut self, source: SourceId) -> &mut u16 {
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

    fn enter(&mut self, mut vassal: Vassal, now: Now) {
        let name = vassal.name.clone();
        match self.lately.started(&name, now) {
            0 => {} // never
            started => vassal.instance.started = started,
        }
        let stopped = self.was_stopped(&vassal);
        let key = self.vassals.insert(vassal);
        self.names.insert(name, key);
        if stopped { self.rest_by_hand(key, now) } else { self.start_after_gap(key, now) }
    }

    fn changed(&mut self, key: Key, before: Identity, now: Now) {
        let vassal = &mut self.vassals[key];
        let after = vassal.identity;
        let other_owner = self.policy.tyrant && (before.uid, before.gid) != (after.uid, after.gid);
        // Somebody else, or on another socket: it cannot become that while it runs.
        let another = other_owner || before.demand() != after.demand();
        vassal.pardon();
        let state = vassal.state;
        if another {
            if state != State::Waiting {
                vassal.on_demand = false; // its socket is bound anew
            }
            self.dismiss_zergs(key, now);
        } else if state != State::Up || !self.rolls(key) {
            self.change_zergs(key, after, now);
        }
        match state {
            State::Up if another => {
                if other_owner {
                    self.say(key, What::OwnerChanged);
                }
                self.stop(key, Then::Restart, now);
            }
            State::Up => self.reload(key, true, now),
            State::Paused | State::Resting(_) => self.try_again(key, now),
            State::Waiting if another => self.enter_anew(key, now),
            State::Waiting if self.vassals[key].own_demand => {
                self.say(key, What::OnDemandUpdated);
                self.ask_file(key);
                self.start_after_gap(key, now);
            }
            State::Waiting => self.say(key, What::OnDemandUpdated),
            State::Stopping(Then::Rest | Then::RestByHand | Then::Pause) => {
                self.vassals[key].state = State::Stopping(Then::Restart)
            }
            State::Stopping(Then::Wait) if another => {
                self.vassals[key].state = State::Stopping(Then::Restart);
            }
            // It has not read the file yet, or will read it when it starts again.
            State::Admitting | State::Queued | State::Cursed | State::Stopping(_) => {}
        }
    }

    /// A vassal without a process becomes another one, which was stopped by hand.
    pub(super) fn enter_stopped(&mut self, key: Key, now: Now) {
        self.stopped.insert(self.vassals[key].name.clone(), self.vassals[key].identity);
        self.enter_anew(key, now);
    }

    /// Strikes off a vassal without a process, and enters it as if it had just been found.
    fn enter_anew(&mut self, key: Key, now: Now) {
        let Vassal { name, source, identity, scan, elsewhere, .. } = self.vassals[key].clone();
        self.forget_quietly(key, now);
        self.enter(Vassal { elsewhere, ..Vassal::new(name, source, identity, scan, now) }, now);
    }

    /// What a vassal failed for may have been mended: its failures are forgotten.
    fn try_again(&mut self, key: Key, now: Now) {
        self.vassals[key].pardon();
        self.start_after_gap(key, now);
    }

    /// The same of what was in the way of its sockets.
    pub(super) fn unobstructed(&mut self, key: Key, now: Now) {
        if matches!(self.vassals[key].state, State::Paused | State::Resting(Rest::Abandoned)) {
            self.try_again(key, now);
        }
    }

    /// A vassal without a process becomes one that may start, but not sooner after its last start than this: a file
    /// that changes, or comes and goes, may come and go as fast as its owner can write.
    pub(super) fn start_after_gap(&mut self, key: Key, now: Now) {
        let soon = self.is_soon(key, now);
        let vassal = &mut self.vassals[key];
        let from = Now { micros: vassal.instance.started, ..now }.after(CHANGE_GAP);
        if soon {
            vassal.state = State::Paused;
            self.set_deadline(key, from);
        } else if vassal.state == State::Paused {
            self.resume(key, now);
        } else {
            self.appear(key, now);
        }
    }

    /// Whether its last start is too short a time ago for another.
    pub(super) fn is_soon(&self, key: Key, now: Now) -> bool {
        let started = self.vassals[key].instance.started;
        started > 0 && Now { micros: started, ..now }.after(CHANGE_GAP) > now.micros
    }

    fn note_odd(&mut self, source: SourceId, name: &VassalName, oddity: Oddity) {
        let scan = *self.scan_of(source);
        let many = self.odd.len() >= MANY_ODD;
        match self.odd.get_mut(name) {
            Some(odd) if odd.source == source => {
                odd.scan = scan;
                if odd.oddity != oddity {
                    odd.oddity = oddity.clone();
                    self.tell(name, What::Odd(oddity));
                }
            }
            Some(_) => {} // it is odd in another source already; that is told
            None if !many => {
                self.odd.insert(name.clone(), Odd { source, oddity: oddity.clone(), scan });
                self.tell(name, What::Odd(oddity));
            }
            None => {}
        }
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
    pub(super) fn lose(&mut self, key: Key, now: Now) {
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

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use super::*;
    use crate::emperor::court::{Event, Order, Policy, Signal, Word};
    use crate::emperor::source::DEMAND;

    const OTHER: SourceId = SourceId(1);

    #[test]
    fn what_was_in_the_way_is_gone_and_it_is_tried_at_once_but_four_times_a_second_at_most() {
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let a = stage.key("a");
        stage.on(Event::NotBound(a));
        let mut tries = 0;
        for _ in 0..1000 {
            let actions = [stage.on(Event::Unobstructed(a)), stage.pass(ms(1))].concat();
            if actions.contains(&Action::Admit(a)) {
                tries += 1;
                stage.on(Event::NotBound(a));
            }
        }
        assert!((3..=5).contains(&tries), "{tries}");
        for state in ["running", "waiting"] {
            let mut stage = Stage::new(Policy::default());
            let b = stage.up("b");
            if state == "waiting" {
                stage.on(Event::Sleeps(b));
            }
            assert_eq!(stage.on(Event::Unobstructed(b)), [], "{state}: it comes late");
        }
    }

    #[test]
    fn what_a_scan_does_not_see_is_gone() {
        let mut stage = Stage::new(Policy::default());
        let (a, b) = (stage.up("a"), stage.up("b"));
        stage.report(Report::Seen(OTHER, name("c"), version(1)));
        stage.report(Report::ScanBegan(SourceId(0)));
        assert_eq!(stage.file("b", version(1)), []);
        assert_eq!(stage.report(Report::ScanEnded(SourceId(0))), [Action::Stop(a, Order::Stop)]);
        assert_eq!((stage.state(b), stage.court.len()), (State::Up, 3));
    }

    #[test]
    fn what_cannot_be_used_is_told_once_and_neither_starts_nor_ends_anybody() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.up("a");
        for told in [vec![What::Odd(Oddity::NoText)], vec![]] {
            stage.report(Report::ScanBegan(SourceId(0)));
            let done = stage.report(Report::Unusable(SourceId(0), name("a"), Oddity::NoText));
            assert_eq!((done, &stage.told), (vec![], &told));
            stage.report(Report::Unusable(SourceId(0), name("b"), Oddity::TextTooLong(70_000)));
            assert_eq!(stage.report(Report::ScanEnded(SourceId(0))), []);
        }
        assert_eq!((stage.state(a), stage.court.find(&name("b"))), (State::Up, None));
        assert_eq!(stage.file("a", version(1)), [], "and it is as it was");
    }

    #[test]
    fn another_socket_in_its_source_restarts_a_vassal_and_enters_a_waiting_one_anew() {
        let at = |socket: u64| Identity { device: socket | DEMAND, ..version(1) };
        let mut stage = Stage::new(Policy { on_demand: true, ..Policy::default() });
        stage.file("a", at(1));
        let a = stage.key("a");
        stage.on(Event::Admitted(a, true));
        assert_eq!(stage.state(a), State::Waiting);
        let done = stage.file("a", at(2));
        let a = stage.key("a");
        assert!(done.contains(&Action::Admit(a)), "{done:?}");
        stage.on(Event::Admitted(a, true));
        stage.on(Event::Connection(a));
        stage.start(a);
        stage.say(a, Word::Loyal);
        stage.pass(s(1));
        assert_eq!(stage.file("a", at(2)), []);
        assert_eq!(stage.file("a", version(1)), [Action::Stop(a, Order::Stop)]);
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Admit(a)]);
    }

    #[test]
    fn a_scan_that_breaks_off_loses_nobody() {
        let mut stage = Stage::new(Policy::default());
        stage.up("a");
        stage.report(Report::ScanBegan(SourceId(0)));
        assert_eq!(stage.report(Report::Trouble(SourceId(0), "gone".into())), []);
        stage.report(Report::ScanBegan(SourceId(0)));
        stage.file("a", version(1));
        assert_eq!(stage.report(Report::ScanEnded(SourceId(0))), []);
    }

    #[test]
    fn of_two_files_with_one_name_the_first_counts_and_then_the_other() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.up("a");
        assert_eq!(stage.report(Report::Seen(OTHER, name("a"), version(5))), []);
        assert_eq!(stage.told, [What::TwoSources]);
        assert_eq!(stage.report(Report::Seen(OTHER, name("a"), version(6))), []);
        assert_eq!(stage.told, []);
        assert_eq!(stage.report(Report::Gone(OTHER, name("b"))), []);
        assert_eq!(stage.gone("a"), [Action::Stop(a, Order::Stop), Action::Rescan]);
        assert_eq!(stage.report(Report::Seen(OTHER, name("a"), version(6))), []);
        assert_eq!(stage.gone("a"), [], "that is not its file any more");
        stage.pass(s(1));
        assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
        assert_eq!(stage.vassal(a).source, OTHER);
    }

    #[test]
    fn what_is_odd_is_told_once_a_source_and_counts_as_gone() {
        let mut stage = Stage::new(Policy::default());
        let a = stage.up("a");
        let odd = |source, what| Report::Odd(source, name("a"), what);
        let stopped = stage.report(odd(SourceId(0), Oddity::DanglingLink));
        assert_eq!(stopped, [Action::Stop(a, Order::Stop)]);
        assert_eq!(stage.told, [What::Odd(Oddity::DanglingLink), What::Stop]);
        stage.report(odd(SourceId(0), Oddity::DanglingLink));
        assert_eq!(stage.told, []);
        stage.report(odd(SourceId(0), Oddity::LinkLoop));
        assert_eq!(stage.told, [What::Odd(Oddity::LinkLoop)]);
        stage.report(Report::Seen(OTHER, name("a"), version(1)));
        stage.report(odd(SourceId(0), Oddity::LinkLoop));
        assert_eq!(stage.told, [], "a file in another source does not make it news");
        stage.report(Report::ScanBegan(SourceId(0)));
        stage.report(Report::ScanEnded(SourceId(0)));
        assert!(stage.court.odd.is_empty(), "what no scan sees is not remembered");
    }

    #[test]
    fn another_owner_stops_and_starts_under_the_new_one_in_tyrant_mode_only() {
        let other = Identity { uid: 9, ..version(1) };
        for tyrant in [false, true] {
            let mut stage = Stage::new(Policy { tyrant, ..Policy::default() });
            let a = stage.loyal("a");
            stage.pass(s(1));
            let done = stage.file("a", other);
            if tyrant {
                assert_eq!(done, [Action::Stop(a, Order::Stop)]);
                assert_eq!(stage.told, [What::OwnerChanged, What::Stop]);
                assert_eq!(stage.die(a), [Action::Ended(name("a")), Action::Spawn(a)]);
                assert_eq!(stage.vassal(a).identity.uid, 9);
            } else {
                assert_eq!(done, [Action::Reload { key: a, changed: true }]);
            }
        }
    }

    #[test]
    fn a_waiting_vassal_with_another_owner_gets_its_socket_anew() {
        let mut stage = Stage::new(Policy { tyrant: true, on_demand: true, ..Policy::default() });
        stage.file("a", version(1));
        let before = stage.key("a");
        stage.on(Event::Admitted(before, true));
        let done = stage.file("a", Identity { uid: 9, ..version(1) });
        let after = stage.key("a");
        assert_ne!(before, after);
        assert_eq!(done, [Action::Forget(before, name("a")), Action::Admit(after)]);
        assert_eq!(stage.on(Event::Admitted(before, true)), [], "that one is no more");
    }

    #[test]
    fn other_permissions_are_a_reason_to_try_again_and_none_to_reload() {
        let chmod = Identity { ctime_ns: 77, ..version(1) };
        let mut stage = Stage::new(Policy { abandon_after: 2, ..Policy::default() });
        let (up, fails) = (stage.up("up"), stage.mute("fails"));
        assert_eq!(stage.file("up", chmod), []);
        assert_eq!(stage.vassal(up).respawns, 0);
        stage.pass(s(1));
        stage.die(fails);
        assert_eq!(stage.file("fails", chmod), [Action::Spawn(fails)]);
        stage.start(fails);
        stage.die(fails);
        stage.pass(ms(100));
        stage.start(fails);
        stage.die(fails);
        assert_eq!(stage.state(fails), State::Resting(Rest::Abandoned));
        stage.pass(s(1));
        assert_eq!(stage.file("fails", Identity { ctime_ns: 78, ..chmod }), [Action::Spawn(fails)]);
    }

    #[test]
    fn a_file_that_goes_ends_its_vassal_from_every_state() {
        let policy = Policy { on_demand: true, max_starting: 1, abandon_after: 1, ..Policy::default() };
        let struck = |key| vec![Action::Forget(key, name("a"))];
        type Row = (&'static str, fn(&mut Stage, Key), Vec<Action>);
        let mut rows: Vec<Row> = Vec::new();
        let key = {
            let mut stage = Stage::new(policy.clone());
            stage.file("a", version(1));
            stage.key("a")
        };
        rows.push(("admitting", |_, _| {}, struck(key)));
        rows.push(("waiting", |stage, key| drop(stage.on(Event::Admitted(key, true))), struck(key)));
        rows.push(("given up", |stage, key| drop(stage.on(Event::NotBound(key))), struck(key)));
        rows.push((
            "queued",
            |stage, key| {
                stage.on(Event::Admitted(key, false));
                stage.on(Event::NotStarted(key, true));
            },
            struck(key),
        ));
        rows.push(("being made", |stage, key| drop(stage.on(Event::Admitted(key, false))), vec![]));
        rows.push((
            "up",
            |stage, key| {
                stage.on(Event::Admitted(key, false));
                stage.start(key);
            },
            vec![Action::Stop(key, Order::Stop), Action::Signal(key, Signal::Term)],
        ));
        rows.push((
            "cursed",
            |stage, key| {
                stage.on(Event::Admitted(key, false));
                stage.start(key);
                stage.on(Event::LinkClosed(key));
            },
            vec![],
        ));
        rows.push((
            "stopping",
            |stage, key| {
                stage.on(Event::Admitted(key, false));
                stage.start(key);
                stage.say(key, Word::Idle);
            },
            vec![],
        ));
        for (case, bring, expected) in rows {
            let mut stage = Stage::new(policy.clone());
            stage.file("a", version(1));
            bring(&mut stage, key);
            assert_eq!(stage.gone("a"), expected, "{case}");
            assert_eq!(stage.gone("a"), [], "{case}, told twice");
            if stage.court.get(key).is_some() {
                stage.start(key);
                assert_eq!(stage.die(key).last(), struck(key).last(), "{case}");
            }
            assert!(stage.court.is_empty(), "{case}");
            assert_eq!(stage.court.next_timeout(), None, "{case}");
        }
    }
}
