//! What else may happen while processes take turns, at each stage of it: the witness says when it goes on.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::emperor::{Builder, Emperor, Kind};
use super::support::manager::Manager;
use super::support::{Bed, PATIENCE, poll};

/// How far a turn has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The next process has just begun.
    Made,
    /// It loads.
    Awaited,
    /// It has taken over, and the old one ends its requests.
    Retiring,
}

pub(super) const STAGES: [Stage; 3] = [Stage::Made, Stage::Awaited, Stage::Retiring];

/// Clients of a socket, one after the other, whom nobody may refuse.
pub(super) struct Clients {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Clients {
    pub(super) fn of(path: std::path::PathBuf) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                match UnixStream::connect(&path) {
                    Ok(_) => count += 1,
                    // Nobody takes them for the moment: the next one waits.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(format!("client {count}: {error}")),
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(count)
        });
        Self { ended, thread }
    }

    /// None was refused.
    pub(super) fn end(self, report: impl FnOnce() -> String) {
        self.ended.store(true, Ordering::Relaxed);
        match self.thread.join().expect("the clients") {
            Ok(count) => assert!(count > 10, "only {count} clients\n{}", report()),
            Err(why) => panic!("{why}\n{}", report()),
        }
    }
}

/// A vassal `a.ini` that takes turns.
pub(super) struct Turns {
    pub(super) bed: Bed,
    pub(super) lines: String,
}

impl Turns {
    pub(super) fn new(lines: &str) -> Self {
        let bed = Bed::new();
        let socket = bed.path("a.sock");
        let lines = format!("socket = {}\ntouch-reload-mode = rolling\n{lines}", socket.display());
        Self { bed, lines }
    }

    /// The file in this version.
    pub(super) fn write(&self, version: u32) {
        self.bed.write("v/a.ini", format!("[uwsgi]\n{}env = VERSION={version}\n", self.lines));
    }

    /// What the processes do that start from now on.
    pub(super) fn script(&self, words: &str) {
        self.bed.script("a.ini", words);
    }

    pub(super) fn clients(&self) -> Clients {
        let path = self.bed.path("a.sock");
        poll(PATIENCE, || UnixStream::connect(&path).ok()).expect("its socket");
        Clients::of(path)
    }

    /// The first process, which is told that it may end when it is signalled; it has been loyal for long enough.
    pub(super) fn begin(&self, emperor: &Emperor) -> i32 {
        self.script("say=1,5,17 deaf wait exit=0");
        self.write(1);
        let first = self.bed.started("a.ini", 1);
        self.waits(first);
        self.pids(emperor, "the first process", &[("a.ini", first)]);
        first
    }

    /// The file is changed, and the turn comes this far; gives the new process.
    pub(super) fn advance(&self, emperor: &Emperor, stage: Stage) -> i32 {
        self.script(match stage {
            Stage::Made => "wait say=1,5,17",
            Stage::Awaited => "say=1 wait say=5,17",
            Stage::Retiring => "say=1,5,17",
        });
        let before = self.bed.log().execs("a.ini").len();
        self.write(2);
        let next = self.bed.started("a.ini", before + 1);
        match stage {
            Stage::Made => {}
            Stage::Awaited => {
                let first = self.bed.log().execs("a.ini")[before - 1].pid;
                self.waits(next);
                self.pids(emperor, "both", &[("a.ini", first), ("a.ini:next", next)]);
            }
            Stage::Retiring => {
                let first = self.bed.log().execs("a.ini")[before - 1].pid;
                self.pids(emperor, "both", &[("a.ini", next), ("a.ini:last", first)]);
            }
        }
        next
    }

    /// Whoever waits goes on: the new process gets ready, the old one ends. Gives the new one, which is another if the
    /// emperor was killed before it could write down that it had made one.
    pub(super) fn go_on(&self, emperor: &Emperor, stage: Stage, first: i32, next: i32) -> i32 {
        let mut next = next;
        if stage != Stage::Retiring {
            let made = || emperor.stats_of("a.ini:next")?["pid"].as_i64().filter(|pid| *pid > 0);
            let found =
                poll(PATIENCE, made).unwrap_or_else(|| panic!("nobody follows\n{}", self.bed.report()));
            assert!(stage == Stage::Made || found == i64::from(next), "{}", self.bed.report());
            next = i32::try_from(found).expect("a process id");
            self.waits(next);
            signal(next, Signal::SIGUSR1);
            self.pids(emperor, "the new one has taken over", &[("a.ini", next), ("a.ini:last", first)]);
        }
        signal(first, Signal::SIGUSR1);
        next
    }

    /// Waits until it has come so far that it waits for a signal.
    pub(super) fn waits(&self, pid: i32) {
        self.bed.until("it waits", |log| log.0.iter().any(|it| it.pid == pid && it.what == "waits"));
    }

    /// Waits until these are all vassals, with these processes.
    pub(super) fn pids(&self, emperor: &Emperor, what: &str, wanted: &[(&str, i32)]) {
        let wanted: BTreeSet<_> =
            wanted.iter().map(|(name, pid)| ((*name).to_owned(), i64::from(*pid))).collect();
        let seen = || -> BTreeSet<_> {
            let stats = emperor.stats();
            let rows = stats["vassals"].as_array().into_iter().flatten();
            let id = |row: &serde_json::Value| row["id"].as_str().unwrap_or_default().to_owned();
            rows.map(|row| (id(row), row["pid"].as_i64().unwrap_or_default())).collect()
        };
        let done = poll(PATIENCE, || (seen() == wanted).then_some(()));
        assert!(done.is_some(), "{what}: {:?}, and not {wanted:?}\n{}", seen(), self.bed.report());
    }

    /// One process is left, which is this one.
    pub(super) fn settled(&self, emperor: &Emperor, pid: i32) {
        self.pids(emperor, "one is left", &[("a.ini", pid)]);
        self.alone(pid);
    }

    /// One witness is left in all.
    pub(super) fn alone(&self, pid: i32) {
        let witness = self.bed.witness();
        let witnesses = || -> Vec<i32> {
            let all = self.bed.left().into_iter().map(|(pid, _)| pid);
            all.filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == witness))
                .collect()
        };
        let done = poll(PATIENCE, || (witnesses() == [pid]).then_some(()));
        assert!(done.is_some(), "{:?}, and not {pid}\n{}", witnesses(), self.bed.report());
    }
}

pub(super) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process that lives");
}

pub(super) fn kept(turns: &Turns, manager: &Manager) -> Builder {
    let builder = Builder::new(&turns.bed, Kind::Ours).stats().flag("emperor-fd-store");
    builder.env("NOTIFY_SOCKET", manager.socket())
}

/// Kills the emperor, and starts the next one with what is kept.
pub(super) fn crash(next: Builder, manager: &Manager, emperor: Emperor, meanwhile: impl FnOnce()) -> Emperor {
    drop(emperor);
    meanwhile();
    let next = next.usher(manager.pass()).start();
    next.wait_log("vassals taken over from emperor");
    next
}

#[test]
fn the_next_emperor_goes_on_with_a_turn_at_whatever_stage_the_last_one_was_killed() {
    for stage in STAGES {
        let turns = Turns::new("");
        let manager = Manager::new(turns.bed.root(), 100);
        let emperor = kept(&turns, &manager).start();
        let first = turns.begin(&emperor);
        let clients = turns.clients();
        let next = turns.advance(&emperor, stage);
        let emperor = crash(kept(&turns, &manager), &manager, emperor, || {});
        let next = turns.go_on(&emperor, stage, first, next);
        turns.settled(&emperor, next);
        // And it is a vassal like any other, whose place can be taken once more.
        let starts = turns.bed.log().execs("a.ini").len();
        turns.script("say=1,5,17");
        turns.write(3);
        turns.settled(&emperor, turns.bed.started("a.ini", starts + 1));
        clients.end(|| turns.bed.report());
        emperor.stop_politely(&turns.bed);
        manager.hear_all();
        assert_eq!(manager.names(), [""; 0], "{stage:?}: nothing is kept for nobody");
    }
}

#[test]
fn what_becomes_of_a_turn_while_there_is_no_emperor_is_made_up_for() {
    // What happens meanwhile; then whether it is the first, the next or yet another process that is left.
    type Meanwhile = fn(&Turns, i32, i32);
    let rows: [(&str, Meanwhile, usize); 5] = [
        ("the next one is ready", |_, _, next| signal(next, Signal::SIGUSR1), 1),
        ("the next one dies", |_, _, next| signal(next, Signal::SIGKILL), 0),
        (
            "the old one dies",
            |_, first, next| {
                signal(next, Signal::SIGUSR1);
                signal(first, Signal::SIGKILL);
            },
            1,
        ),
        (
            "both die",
            |turns, first, next| {
                turns.script("say=1,5,17");
                [first, next].iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
            },
            2,
        ),
        (
            "the file changes",
            |turns, _, _| {
                turns.script("say=1,5,17");
                turns.write(3);
            },
            2,
        ),
    ];
    for (what, meanwhile, left) in rows {
        let turns = Turns::new("");
        let manager = Manager::new(turns.bed.root(), 100);
        let emperor = kept(&turns, &manager).start();
        let first = turns.begin(&emperor);
        let clients = turns.clients();
        let next = turns.advance(&emperor, Stage::Awaited);
        let emperor = crash(kept(&turns, &manager), &manager, emperor, || meanwhile(&turns, first, next));
        let pid = [first, next].get(left).copied().unwrap_or_else(|| turns.bed.started("a.ini", 3));
        if left == 0 {
            emperor.wait_log("the rolling reload of vassal a.ini has failed");
        } else if what.starts_with("the file") || what.starts_with("the next") {
            turns.pids(&emperor, what, &[("a.ini", pid), ("a.ini:last", first)]);
            signal(first, Signal::SIGUSR1);
        }
        turns.settled(&emperor, pid);
        clients.end(|| format!("{what}\n{}", turns.bed.report()));
        if left == 0 {
            // It is deaf to orders, and shall not be waited for.
            turns.bed.remove("v/a.ini");
            emperor.wait_log("stop the uwsgi instance a.ini");
            signal(first, Signal::SIGUSR1);
        }
        emperor.stop(&turns.bed);
    }
}

/// The order of an operator is not lost with the emperor that has taken it, however soon that dies.
#[test]
fn a_turn_that_was_asked_for_by_hand_is_taken_under_the_next_emperor() {
    let turns = Turns::new("");
    let manager = Manager::new(turns.bed.root(), 100);
    let control = turns.bed.path("control.sock");
    let start = || kept(&turns, &manager).opt("emperor-control", &control);
    let emperor = start().start();
    let first = turns.begin(&emperor);
    turns.script("say=1,5,17");
    let mut client = std::process::Command::new(env!("CARGO_BIN_EXE_emperor"));
    client.args(["reload", "--rolling", "a.ini"]).env_clear().env("EMPEROR_CONTROL", &control);
    assert!(client.status().expect("the client").success());
    drop(emperor);
    let emperor = start().usher(manager.pass()).start();
    emperor.wait_log("vassals taken over from emperor");
    let next = turns.bed.started("a.ini", 2);
    turns.pids(&emperor, "a turn", &[("a.ini", next), ("a.ini:last", first)]);
    signal(first, Signal::SIGUSR1);
    turns.settled(&emperor, next);
    emperor.stop(&turns.bed);
}

#[test]
fn a_renewed_emperor_goes_on_with_a_turn_at_whatever_stage_it_is() {
    for stage in STAGES {
        let turns = Turns::new("");
        let emperor = Builder::new(&turns.bed, Kind::Ours).stats().start();
        let first = turns.begin(&emperor);
        let clients = turns.clients();
        let next = turns.advance(&emperor, stage);
        emperor.renew(&turns.bed);
        let next = turns.go_on(&emperor, stage, first, next);
        turns.settled(&emperor, next);
        clients.end(|| turns.bed.report());
        emperor.stop(&turns.bed);
    }
}
