//! The court with 100,000 vassals on a virtual clock: what comes of them, and what one event and one vassal cost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use emperor::emperor::court::{Action, Court, Event, Key, Now, Policy, Vassal};
use emperor::emperor::source::{Identity, Report, SourceId, VassalName};
use emperor::vassal::link::Word;

/// How long it takes to make a process, to load an application, and to end: microseconds.
const FORK: u64 = 300;
const LOAD: u64 = 50_000;
const END: u64 = 100_000;
const SOURCE: SourceId = SourceId(0);

/// One test at a time, where both run in one process: one looks at the clock, the other at the memory.
static ALONE: Mutex<()> = Mutex::new(());

/// What the processes of the simulation will do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Later {
    Starts,
    Says(u8),
    Reads,
    Dies,
}

/// What was asked for in one phase, and what that took.
#[derive(Debug, Default)]
struct Tally {
    events: u64,
    spent: Duration,
    spawned: u64,
    reloaded: u64,
    stopped: u64,
    killed: u64,
    forgotten: u64,
    buried: u64,
}

struct Empire {
    court: Court,
    now: u64,
    later: BinaryHeap<Reverse<(u64, Key, Later)>>,
    starting: u32,
    most_starting: u32,
    tally: Tally,
    actions: Vec<Action>,
}

fn name(number: u32) -> VassalName {
    VassalName::new(format!("site{number:06}.ini").as_bytes())
}

fn version(number: i64) -> Identity {
    Identity { mtime_ns: number, ctime_ns: number, device: 1, inode: 1, size: 100, uid: 1000, gid: 1000 }
}

impl Empire {
    fn new(policy: Policy) -> Self {
        Self {
            court: Court::new(policy),
            now: 1,
            later: BinaryHeap::new(),
            starting: 0,
            most_starting: 0,
            tally: Tally::default(),
            actions: Vec::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        let now = Now { micros: self.now, epoch: self.now / 1_000_000 };
        let mut actions = std::mem::take(&mut self.actions);
        let before = Instant::now();
        self.court.on_event(event, now, &mut actions);
        self.tally.spent += before.elapsed();
        self.tally.events += 1;
        for action in actions.drain(..) {
            match action {
                Action::Spawn(key) => {
                    self.tally.spawned += 1;
                    self.starting += 1;
                    self.most_starting = self.most_starting.max(self.starting);
                    self.after(FORK, key, Later::Starts);
                }
                Action::Reload { key, .. } => {
                    self.tally.reloaded += 1;
                    self.after(LOAD, key, Later::Reads);
                }
                Action::Stop(key, _) => {
                    self.tally.stopped += 1;
                    self.after(END, key, Later::Dies);
                }
                Action::AskUnread(key) => self.after(0, key, Later::Reads),
                Action::Signal(..) => self.tally.killed += 1,
                Action::Forget(..) => self.tally.forgotten += 1,
                Action::Bury => self.tally.buried += 1,
                _ => {}
            }
        }
        self.actions = actions;
    }

    fn after(&mut self, micros: u64, key: Key, later: Later) {
        self.later.push(Reverse((self.now + micros, key, later)));
    }

    /// Lets time pass until nothing is under way, or until a moment.
    fn run(&mut self, until: u64) {
        loop {
            let mine = self.later.peek().map(|entry| entry.0.0);
            let courts = self.court.next_timeout();
            let Some(next) = [mine, courts].into_iter().flatten().min().filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            if mine.is_none_or(|mine| mine > next) {
                self.happens(Event::Tick);
                continue;
            }
            let Some(Reverse((_, key, later))) = self.later.pop() else { break };
            match later {
                Later::Starts => {
                    self.happens(Event::Started(key, 2));
                    self.after(LOAD, key, Later::Says(5));
                }
                Later::Says(byte) => {
                    if byte == 5 {
                        self.starting -= 1;
                    }
                    for byte in if byte == 5 { &[1, 5, 17][..] } else { &[26][..] } {
                        let word = Word::from_byte(*byte).expect("the byte of a word");
                        self.happens(Event::Said(key, word));
                    }
                }
                Later::Reads => {
                    self.happens(Event::Said(key, Word::Accepting));
                    self.happens(Event::Unread(key, false));
                }
                Later::Dies => self.happens(Event::Died(key, true)),
            }
        }
        if until < u64::MAX {
            self.now = until;
        }
    }

    fn scan(&mut self, files: impl Iterator<Item = (u32, i64)>) {
        self.happens(Event::Report(Report::ScanBegan(SOURCE)));
        for (number, time) in files {
            self.happens(Event::Report(Report::Seen(SOURCE, name(number), version(time))));
        }
        self.happens(Event::Report(Report::ScanEnded(SOURCE)));
    }

    fn keys(&self) -> Vec<Key> {
        self.court.vassals().map(|(key, _)| key).collect()
    }

    fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}

/// The whole life of an empire of `n` vassals. What one event took in each phase, in nanoseconds.
fn life(n: u32) -> Vec<(&'static str, f64)> {
    let many = u64::from(n);
    let mut empire = Empire::new(Policy { max_starting: 32, ..Policy::default() });
    let mut costs = Vec::new();
    let mut cost = |phase: &'static str, tally: &Tally| {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        costs.push((phase, tally.spent.as_nanos() as f64 / tally.events as f64));
    };

    empire.scan((0..n).map(|number| (number, 1)));
    let tally = empire.tally();
    cost("found", &tally);
    assert_eq!((tally.spawned, empire.court.len()), (32, n as usize));

    empire.run(u64::MAX);
    let tally = empire.tally();
    cost("started", &tally);
    assert_eq!((tally.spawned, empire.court.running()), (many - 32, n));
    assert_eq!(empire.most_starting, 32);
    let rounds = many.div_ceil(32);
    assert!(empire.now <= rounds * (FORK + LOAD) + LOAD, "started in {} us", empire.now);
    assert_eq!(empire.court.next_timeout(), None, "what is idle wakes nobody");

    let keys = empire.keys();
    for second in 0..40 {
        for (place, key) in (0..).zip(&keys).filter(|(place, _)| place % 4 == second % 4) {
            empire.later.push(Reverse((empire.now + place % 1_000_000, *key, Later::Says(26))));
        }
        empire.run(empire.now + 1_000_000);
    }
    let tally = empire.tally();
    cost("heartbeat", &tally);
    assert_eq!(tally.killed, 0, "each beats every four seconds");
    assert!(tally.events < many * 10 + many * 2 + 100, "the timers stay few: {}", tally.events);

    for key in keys.iter().step_by(100) {
        empire.happens(Event::LinkClosed(*key));
        empire.happens(Event::Died(*key, false));
    }
    empire.run(empire.now + 10_000_000);
    let tally = empire.tally();
    cost("crashed", &tally);
    assert_eq!((tally.spawned, empire.court.running()), (many / 100, n));

    for number in (0..n).step_by(100) {
        empire.happens(Event::Report(Report::Seen(SOURCE, name(number), version(2))));
    }
    empire.run(empire.now + 10_000_000);
    let tally = empire.tally();
    cost("touched", &tally);
    assert_eq!((tally.reloaded, tally.stopped), (many / 100, 0));

    for number in (0..n).filter(|number| number % 4 == 1) {
        empire.happens(Event::Report(Report::Gone(SOURCE, name(number))));
    }
    empire.run(empire.now + 1_000_000);
    let touched = |number: u32| if number.is_multiple_of(100) { 2 } else { 1 };
    empire.scan((0..n).filter(|number| number % 2 == 0).map(|number| (number, touched(number))));
    empire.run(empire.now + 1_000_000);
    let tally = empire.tally();
    cost("removed", &tally);
    assert_eq!((tally.stopped, tally.forgotten, tally.reloaded), (many / 2, many / 2, 0));
    assert_eq!(empire.court.running(), n / 2);

    empire.happens(Event::Shutdown);
    empire.run(u64::MAX);
    let tally = empire.tally();
    cost("ended", &tally);
    assert_eq!((tally.stopped, tally.forgotten, tally.killed, tally.buried), (many / 2, many / 2, 0, 1));
    assert!(empire.court.is_empty());
    assert_eq!(empire.court.next_timeout(), None);
    costs
}

/// Between 1,000 and 100,000 vassals the cost may grow with the logarithm and with the distance to memory. A walk
/// over all vassals in any phase would make it a hundredfold.
const GROWTH: f64 = 20.0;

#[test]
fn an_event_among_a_hundred_thousand_vassals_costs_about_what_it_costs_among_a_thousand() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let best = |mut runs: Vec<Vec<(&'static str, f64)>>| {
        let mut best = runs.remove(0);
        for run in runs {
            best.iter_mut().zip(run).for_each(|(best, run)| best.1 = best.1.min(run.1));
        }
        best
    };
    let few = best((0..5).map(|_| life(1000)).collect());
    let many = life(100_000);
    for ((phase, few), (_, many)) in few.into_iter().zip(many) {
        println!("{phase:>9}: {few:6.0} ns an event with 1,000 vassals, {many:6.0} ns with 100,000");
        assert!(many < few * GROWTH, "{phase}: {few} ns has become {many} ns");
    }
}

/// The memory of this process that is backed by nothing else. Source: proc_pid_status(5).
fn anonymous_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 or later");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What a running vassal may cost the emperor besides what the hands hold for it (40 bytes).
const BUDGET: usize = 471 - 40;

/// What a running vassal takes of it, in bytes, where `MANY` came at once and each is another owner's.
fn bytes_each(policy: Policy) -> usize {
    let now = Now { micros: 1, epoch: 1 };
    let mut court = Court::new(policy);
    let (mut actions, mut todo) = (Vec::new(), Vec::new());
    let before = anonymous_kib();
    for number in 0..MANY {
        let identity = Identity { uid: 1000 + number, ..version(1) };
        court.on_event(Event::Report(Report::Seen(SOURCE, name(number), identity)), now, &mut actions);
        todo.append(&mut actions);
    }
    while let Some(action) = todo.pop() {
        let Action::Spawn(key) = action else { continue };
        court.on_event(Event::Started(key, 2), now, &mut actions);
        for word in [Word::Spawned, Word::Accepting, Word::Loyal, Word::Heartbeat] {
            court.on_event(Event::Said(key, word), now, &mut actions);
        }
        todo.append(&mut actions);
    }
    assert_eq!(court.running(), MANY);
    drop(todo);
    (anonymous_kib() - before) * 1024 / MANY as usize
}

const MANY: u32 = 100_000;

fn fits_the_budget(policy: Policy) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = bytes_each(policy);
    assert!(size_of::<Vassal>() <= 192, "{}", size_of::<Vassal>());
    assert!(bytes <= BUDGET, "{bytes} bytes");
}

#[test]
fn a_vassal_costs_the_court_less_than_half_a_kilobyte() {
    fits_the_budget(Policy { max_starting: u32::MAX, ..Policy::default() });
}

#[test]
fn nor_does_one_that_has_waited_for_the_turn_of_its_owner() {
    fits_the_budget(Policy { max_starting: 32, tyrant: true, ..Policy::default() });
}
