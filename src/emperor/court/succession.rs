//! Rolling reload: another process starts beside a vassal's, and takes its place as soon as it is ready.
//!
//! The successor is an entry of its own on the roll, and the name passes to it: so each process keeps its key for life,
//! and what is still to be heard of the former one cannot be taken for the other's. If the successor fails, nothing has
//! happened but that.

use super::vassal::{Instance, Role, State, Then, Vassal, Zerg};
use super::{Action, Court, Key, Now, Ready, Reign, VassalName, What};

impl Court {
    /// Whether a vassal reloads by another process beside it.
    pub(super) fn rolls(&self, key: Key) -> bool {
        self.vassals[key].zerg.is_none() && self.manner(key).is_some_and(|manner| manner.rolling)
    }

    /// Whether another process can serve beside it: the sockets of a program are the emperor's.
    pub(super) fn can_roll(&self, key: Key) -> bool {
        self.manner(key).is_some_and(|manner| manner.rolling || !manner.linked)
    }

    /// The one that is about to take a vassal's place.
    pub(super) fn successor_of(&self, base: Key) -> Option<Key> {
        let comes = |heir: &Key| {
            let heir = &self.vassals[*heir];
            matches!(heir.state, State::Queued | State::Paused | State::Up) && heir.present
        };
        self.heirs.get(&base).copied().filter(comes)
    }

    /// Another process starts beside this one; if that happens already, it is to have read the newest file.
    pub(super) fn roll_over(&mut self, key: Key, now: Now) {
        let base = &mut self.vassals[key];
        if base.state != State::Up || !base.is_alive() || self.reign != Reign::Lasting {
            return;
        }
        base.instance.reload_again = false;
        base.instance.told = now.micros;
        self.wake(key, now);
        let base = &self.vassals[key];
        let (identity, base_started) = (base.identity, base.instance.started);
        if let Some(next) = self.heirs.get(&key).copied() {
            let heir = &mut self.vassals[next];
            match heir.state {
                State::Queued | State::Paused => heir.identity = identity,
                // It has read another file. When it is gone, the next one starts.
                State::Up if heir.identity.differs(&identity) => self.stop(next, Then::Forget, now),
                _ => {}
            }
            return;
        }
        let base = &self.vassals[key];
        let name = with_suffix(&base.name, Role::Successor);
        let mut heir = Vassal::new(name, base.source, identity, base.scan, now);
        heir.zerg = Some(Zerg { base: key, number: 0, role: Role::Successor });
        heir.born = base.born;
        // However often it is wanted, it starts no more often than one whose file changes.
        heir.instance.started = base_started;
        self.say(key, What::Rolling);
        let heir = self.vassals.insert(heir);
        self.heirs.insert(key, heir);
        self.start_after_gap(heir, now);
    }

    /// A successor takes its place if it has shown that it can.
    ///
    /// A program must have stood its trial: some say that they are ready before they have loaded what they run.
    pub(super) fn succeed_if_ready(&mut self, key: Key, now: Now) {
        let Some(heir) = self.vassals.get(key) else { return };
        if !heir.is_successor() || heir.state != State::Up || !heir.is_alive() {
            return;
        }
        let says = self.manner(key).is_none_or(|manner| manner.ready == Ready::Says);
        if heir.instance.loyal || says && heir.instance.accepting {
            self.succeed(key, now);
        }
    }

    /// A successor becomes the vassal, in whatever state it is; the one before it ends its requests and goes.
    pub(super) fn succeed(&mut self, next: Key, now: Now) {
        let Some(old) = self.vassals[next].zerg.map(|zerg| zerg.base) else { return };
        let name = self.vassals[old].name.clone();
        let before = self.vassals[old].clone();
        let former = &mut self.vassals[old];
        former.name = with_suffix(&name, Role::Predecessor);
        former.zerg = Some(Zerg { base: next, number: 0, role: Role::Predecessor });
        let read = self.vassals[next].identity;
        let heir = &mut self.vassals[next];
        *heir = Vassal {
            name: name.clone(),
            zerg: None,
            source: before.source,
            identity: before.identity,
            scan: before.scan,
            present: before.present,
            elsewhere: before.elsewhere,
            on_demand: before.on_demand,
            own_demand: before.own_demand,
            born: before.born,
            first_run: before.first_run,
            reinforced: before.reinforced,
            starts: before.starts.saturating_add(heir.starts),
            instance: Instance { told: now.micros, ..*heir.instance }.into(),
            ..heir.clone()
        };
        self.names.insert(name, next);
        self.heirs.remove(&old);
        if let Some(crowded) = self.crowded.remove(&old) {
            self.crowded.insert(next, crowded);
        }
        self.asking.iter_mut().filter(|asking| asking.base == old).for_each(|asking| asking.base = next);
        let zergs = self.zergs_of(old);
        for zerg in &zergs {
            self.vassals[*zerg].zerg.as_mut().into_iter().for_each(|zerg| zerg.base = next);
        }
        self.out.push(Action::Succeed { old, new: next });
        self.say(next, What::Replaced);
        if before.is_alive() {
            self.retire(old, now);
        } else {
            self.forget_quietly(old, now);
        }
        self.look_for_idleness(next, now);
        for zerg in zergs {
            self.vassals[zerg].identity = before.identity;
            self.reload(zerg, true, now);
        }
        if read.differs(&before.identity) {
            self.reload(next, true, now);
        }
        self.arm(next);
    }

    /// A successor is gone, and has not taken anybody's place.
    pub(super) fn has_not_succeeded(&mut self, key: Key, heir: &Vassal, now: Now) {
        let Some(base) = heir.zerg.map(|zerg| zerg.base) else { return };
        let lasting = self.reign == Reign::Lasting;
        let Some(vassal) = self.vassals.get_mut(base).filter(|_| lasting) else { return };
        if vassal.state != State::Up || !vassal.is_alive() {
            return; // its successor goes with it
        }
        if heir.present {
            vassal.instance.refused = true;
            self.say(base, What::NotReplaced(key));
        }
        if self.vassals[base].identity.differs(&heir.identity) {
            self.roll_over(base, now);
        }
    }

    /// Nobody's place is to be taken any more.
    pub(super) fn dismiss_successor(&mut self, base: Key, now: Now) {
        if let Some(next) = self.successor_of(base) {
            self.stop(next, Then::Forget, now);
        }
    }

    /// Whether there is somebody whose place a successor can take.
    pub(super) fn is_awaited(&self, heir: Key) -> bool {
        let base = self.vassals[heir].zerg.and_then(|zerg| self.vassals.get(zerg.base));
        base.is_some_and(|base| base.state == State::Up && base.is_alive())
    }

    /// Whether another process is to take a vassal's place, or is on its way out and followed by the one that is.
    pub(super) fn is_followed(&self, base: Key) -> bool {
        self.heirs.contains_key(&base)
    }

    /// It is no more.
    pub(super) fn is_nobodys_heir(&mut self, key: Key, vassal: &Vassal) {
        if let Some(base) =
            vassal.zerg.map(|zerg| zerg.base).filter(|base| self.heirs.get(base) == Some(&key))
        {
            self.heirs.remove(&base);
        }
    }

    /// A vassal of a former court that was followed reloads, in case that its successor had no process yet. This one
    /// has: what it has not read it is asked for when it has taken the place.
    pub(super) fn has_come_over(&mut self, heir: Key) {
        let base = self.vassals[heir].zerg.filter(|zerg| zerg.role == Role::Successor).map(|zerg| zerg.base);
        if let Some(base) = base.and_then(|base| self.vassals.get_mut(base)) {
            base.instance.reload_again = false;
        }
    }
}

fn with_suffix(name: &VassalName, role: Role) -> VassalName {
    VassalName::new(&[name.as_bytes(), role.suffix().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, ms, name, s, version};
    use crate::emperor::court::{Action, Adoption, Court, Event, Key, Manner, Order, Policy, Record, Reload};
    use crate::emperor::court::{Ready, Sign, Signal, State, What, Wish, Word};
    use crate::emperor::source::{Identity, SourceId};

    const UWSGI: Manner = Manner {
        linked: true,
        stop: None,
        reload: Reload::Told,
        ready: Ready::Says,
        stop_timeout: None,
        start_timeout: None,
        watchdog: None,
        idle: None,
        idle_min_uptime: s(0),
        rolling: true,
    };
    const PROGRAM: Manner =
        Manner { linked: false, stop: Some(15), reload: Reload::Restart, ready: Ready::AtOnce, ..UWSGI };

    fn start(stage: &mut Stage, key: Key, manner: Manner) -> Vec<Action> {
        stage.on(Event::Agreed(key, manner));
        stage.start(key)
    }

    /// A vassal that is of use, with this manner.
    fn base(policy: Policy, manner: Manner) -> (Stage, Key) {
        let mut stage = Stage::new(policy);
        stage.file("a", version(1));
        let a = stage.key("a");
        start(&mut stage, a, manner);
        if manner.linked {
            stage.say(a, Word::Accepting);
            stage.say(a, Word::Loyal);
        }
        stage.pass(s(5));
        (stage, a)
    }

    /// Its file is changed, and what is to follow it runs.
    fn rolling(policy: Policy, manner: Manner) -> (Stage, Key, Key) {
        let (mut stage, a) = base(policy, manner);
        let [Action::Spawn(next)] = stage.file("a", version(2))[..] else { panic!("{:?}", stage.told) };
        assert_eq!(start(&mut stage, next, manner), []);
        (stage, a, next)
    }

    const fn succeed(old: Key, new: Key) -> Action {
        Action::Succeed { old, new }
    }

    #[test]
    fn the_next_one_takes_the_place_when_it_accepts_and_only_then_the_old_one_goes_gracefully() {
        let (mut stage, a, next) = rolling(Policy::default(), UWSGI);
        assert_eq!(stage.vassal(next).name, name("a:next"));
        assert_eq!(stage.say(next, Word::Spawned), [], "it has yet to load");
        let done = stage.say(next, Word::Accepting);
        assert_eq!(done, [succeed(a, next), Action::Stop(a, Order::StopGracefully)]);
        assert_eq!((stage.key("a"), &stage.vassal(a).name), (next, &name("a:last")));
        assert_eq!((stage.vassal(next).restarts(), stage.vassal(next).last_mod()), (1, 2));
        assert_eq!(
            stage.die(a),
            [Action::Ended(name("a:last")), Action::Forget(a, name("a:last"))],
            "and nothing starts for it"
        );
        assert!(stage.court.heirs.is_empty() && stage.court.retiring.is_empty());
        assert_eq!((stage.court.running(), stage.court.len()), (1, 1));
    }

    #[test]
    fn a_program_stands_its_trial_first_because_the_old_one_may_have_answered_for_it() {
        for manner in [PROGRAM, Manner { ready: Ready::Checked, ..PROGRAM }] {
            let (mut stage, a, next) = rolling(Policy::default(), manner);
            stage.on(Event::Shows(next, Sign::Answers));
            assert_eq!(stage.pass(ms(2999)), []);
            let agreed = Action::Signal(a, Signal::Agreed(15));
            assert_eq!(stage.pass(ms(1)), [succeed(a, next), agreed]);
        }
    }

    #[test]
    fn one_that_fails_is_told_and_the_old_one_goes_on() {
        type End = fn(&mut Stage, Key) -> Vec<Action>;
        let ends: [End; 3] = [
            |stage, next| stage.die(next),
            |stage, next| {
                assert_eq!(
                    stage.pass(s(90))[..1],
                    [Action::Stop(next, Order::Stop)],
                    "not ready for too long"
                );
                stage.die(next)
            },
            |stage, next| {
                stage.on(Event::LinkClosed(next));
                stage.die(next)
            },
        ];
        for end in ends {
            let (mut stage, a, next) = rolling(Policy::default(), UWSGI);
            let done = end(&mut stage, next);
            assert_eq!(done.last(), Some(&Action::Forget(next, name("a:next"))));
            assert!(stage.told.contains(&What::NotReplaced(next)), "{:?}", stage.told);
            assert_eq!((stage.key("a"), stage.state(a)), (a, State::Up));
            assert!(stage.vassal(a).runs_old_file() && stage.vassal(a).backoff.is_none());
            assert_eq!(stage.pass(s(3600)), [], "and is not tried again before there is a reason");
            assert!(matches!(stage.file("a", version(3))[..], [Action::Spawn(_)]));
        }
        let (mut stage, a) = base(Policy::default(), UWSGI);
        let [Action::Spawn(next)] = stage.file("a", version(2))[..] else { panic!() };
        stage.on(Event::NotStarted(next, false));
        assert_eq!((stage.key("a"), stage.state(a), stage.court.len()), (a, State::Up, 1));
    }

    #[test]
    fn a_change_meanwhile_is_followed_by_one_that_has_read_it() {
        let (mut stage, a, next) = rolling(Policy::default(), UWSGI);
        stage.pass(s(1));
        let stop = [Action::Stop(next, Order::Stop), Action::Signal(next, Signal::Term)];
        assert_eq!(stage.file("a", version(3)), stop);
        stage.pass(s(1));
        assert_eq!(stage.file("a", version(4)), [], "that one is on its way out");
        let done = stage.die(next);
        assert!(!stage.told.contains(&What::NotReplaced(next)), "nothing has failed");
        let third = done.iter().find_map(|action| match action {
            Action::Spawn(key) => Some(*key),
            _ => None,
        });
        let third = third.unwrap_or_else(|| panic!("{done:?}"));
        assert_eq!(stage.vassal(third).last_mod(), 4);
        start(&mut stage, third, UWSGI);
        assert!(stage.say(third, Word::Accepting).contains(&succeed(a, third)));
    }

    #[test]
    fn the_death_of_the_old_one_makes_way_at_once() {
        let (mut stage, a, next) = rolling(Policy::default(), UWSGI);
        let done = stage.die(a);
        assert_eq!(done, [Action::Ended(name("a")), succeed(a, next), Action::Forget(a, name("a:last"))]);
        assert_eq!((stage.key("a"), stage.state(next), stage.court.len()), (next, State::Up, 1));
        // From here on it is an ordinary vassal that has yet to be of use.
        stage.die(next);
        assert_eq!(stage.state(next), State::Paused);
    }

    #[test]
    fn whatever_ends_the_vassal_ends_what_is_to_follow_it() {
        type End = fn(&mut Stage, Key) -> Vec<Action>;
        let tyrant = Policy { tyrant: true, ..Policy::default() };
        let ends: [(Policy, End); 4] = [
            (Policy::default(), |stage, _| stage.gone("a")),
            (Policy::default(), |stage, a| stage.on(Event::Wanted(a, Wish::Stop))),
            (Policy::default(), |stage, a| stage.on(Event::Wanted(a, Wish::Restart))),
            (tyrant, |stage, _| stage.file("a", Identity { uid: 9, ..version(2) })),
        ];
        for (row, (policy, end)) in ends.into_iter().enumerate() {
            let (mut stage, a, next) = rolling(policy, UWSGI);
            let done = end(&mut stage, a);
            for key in [a, next] {
                assert!(done.contains(&Action::Stop(key, Order::Stop)), "row {row}: {done:?}");
            }
            stage.die(next);
            assert_eq!((stage.court.len(), stage.key("a")), (1, a), "row {row}");
        }
    }

    #[test]
    fn at_the_end_of_the_empire_both_go() {
        let (mut stage, a, next) = rolling(Policy::default(), UWSGI);
        stage.on(Event::Shutdown);
        stage.die(a);
        assert_eq!(stage.die(next).last(), Some(&Action::Bury));
    }

    #[test]
    fn by_hand_for_programs_and_for_whom_it_is_agreed_with() {
        let (mut stage, a) = base(Policy::default(), Manner { rolling: false, ..PROGRAM });
        assert_eq!(stage.file("a", version(2)), [Action::Reload { key: a, changed: true }]);
        let [Action::Spawn(next)] = stage.on(Event::Wanted(a, Wish::Roll))[..] else { panic!() };
        assert_eq!(stage.on(Event::Wanted(a, Wish::Roll)), [], "one is enough");
        start(&mut stage, next, PROGRAM);
        assert_eq!(stage.on(Event::Wanted(a, Wish::Roll)), []);
        let mut stage = Stage::new(Policy::default());
        let a = stage.loyal("a");
        assert!(stage.court.permits(a, Wish::Roll).is_err());
        assert_eq!(stage.on(Event::Wanted(a, Wish::Roll)), []);
    }

    #[test]
    fn reinforcements_follow_when_the_next_one_is_well() {
        let (mut stage, a) = base(Policy { broodlord: 1, ..Policy::default() }, UWSGI);
        let [Action::Spawn(zerg)] = stage.say(a, Word::Sos)[..] else { panic!() };
        stage.start(zerg);
        stage.say(zerg, Word::Loyal);
        stage.pass(s(1));
        let [Action::Spawn(next)] = stage.file("a", version(2))[..] else { panic!() };
        start(&mut stage, next, UWSGI);
        let done = stage.say(next, Word::Accepting);
        assert!(done.contains(&Action::Reload { key: zerg, changed: true }), "{done:?}");
        assert_eq!(stage.vassal(zerg).zerg.map(|zerg| zerg.base), Some(next));
    }

    #[test]
    fn one_that_fails_under_another_emperor_is_not_tried_again_either() {
        let (stage, a, next) = rolling(Policy::default(), UWSGI);
        let (mut stage, keys) = adopted(&stage, &[a, next]);
        let [Some(a), Some(next)] = keys[..] else { panic!("{keys:?}") };
        stage.die(next);
        assert_eq!((stage.pass(s(60)), stage.key("a"), stage.court.len()), (vec![], a, 1));
        assert!(stage.vassal(a).runs_old_file());
    }

    /// The same vassals in another court, in which `keep` of them have arrived.
    fn adopted(stage: &Stage, keys: &[Key]) -> (Stage, Vec<Option<Key>>) {
        let records: Vec<Record> = keys.iter().filter_map(|key| stage.court.record(*key)).collect();
        let mut next = Stage::new(Policy::default());
        next.now = stage.now;
        next.court = Court::new(Policy::default());
        let adoption = Adoption { source: Some(SourceId(0)), socket: false, restart: false };
        let (now, mut actions) = (next.now, Vec::new());
        let keys = records.into_iter().map(|record| next.court.adopt(record, adoption, now, &mut actions));
        let keys = keys.collect();
        (next, keys)
    }

    #[test]
    fn another_emperor_goes_on_with_it() {
        let (stage, a, next) = rolling(Policy::default(), UWSGI);
        let (mut stage, keys) = adopted(&stage, &[a, next]);
        let [Some(a), Some(next)] = keys[..] else { panic!("{keys:?}") };
        assert_eq!(stage.pass(s(60)), [], "it is not asked for twice");
        assert!(stage.say(next, Word::Accepting).contains(&succeed(a, next)));
        let (mut stage, keys) = adopted(&stage, &[next, a]);
        let [Some(next), Some(a)] = keys[..] else { panic!("{keys:?}") };
        assert_eq!(stage.die(a).last(), Some(&Action::Forget(a, name("a:last"))));
        assert_eq!(stage.key("a"), next);
    }

    #[test]
    fn another_emperor_starts_what_had_no_process_yet_and_ends_what_nobody_waits_for() {
        // After a crash there is not even a word of one without a process.
        for after_crash in [false, true] {
            let (mut stage, a) = base(Policy::default(), UWSGI);
            let before = stage.court.gist(a);
            let [Action::Spawn(unmade)] = stage.on(Event::Wanted(a, Wish::Roll))[..] else { panic!() };
            assert_ne!(stage.court.gist(a), before, "it must be known after a crash");
            let keys = [a, unmade];
            let (mut other, keys) = adopted(&stage, if after_crash { &keys[..1] } else { &keys });
            assert_eq!(keys.get(1).copied().flatten(), None);
            let [Action::Spawn(next)] = other.pass(s(1))[..] else { panic!("{after_crash}") };
            start(&mut other, next, UWSGI);
            assert!(other.say(next, Word::Accepting).contains(&succeed(keys[0].unwrap(), next)));
            other.die(keys[0].unwrap());
            assert_eq!(other.pass(s(60)), [], "and that is all");
        }
        // The vassal itself did not come over.
        let (stage, _, next) = rolling(Policy::default(), UWSGI);
        let (other, keys) = adopted(&stage, &[next]);
        let next = keys[0].expect("it has a process");
        assert!(matches!(other.state(next), State::Stopping(_)));
    }
}
