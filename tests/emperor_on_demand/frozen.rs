//! `emperor-idle-freeze`: programs that nobody uses, in the freezers of both versions. All of it needs root.

use std::fs;
use std::time::{Duration, Instant};

use super::own::{ask, plain, serve, sleeps};
use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{root, skip};

/// What the machine freezes with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Freezer {
    /// `cgroup.freeze`.
    Two,
    /// A hierarchy of version 1, because no other can be seen.
    One,
    None,
}

const ONE: &str = "/sys/fs/cgroup/freezer";

/// An emperor that sees this freezer alone, if this machine has it.
fn freezing(bed: &Bed, freezer: Freezer) -> Option<Builder> {
    if !root() {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let has = |kind: &str| mounts.lines().filter(|line| line.split(' ').nth(2) == Some(kind)).count();
    let hybrid = has("cgroup") > 0;
    if freezer == Freezer::Two && has("cgroup2") == 0 || freezer == Freezer::One && !Path::new(ONE).is_dir() {
        skip(&format!("there is no freezer of version {freezer:?} here"));
        return None;
    }
    if freezer == Freezer::None && !hybrid && has("cgroup2") == 0 {
        return Some(plain(bed).flag("emperor-idle-freeze"));
    }
    let mut hidden = String::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
        let hide = match freezer {
            Freezer::Two => false,
            Freezer::One => kind == "cgroup2",
            Freezer::None => kind == "cgroup2" || kind == "cgroup" && point == ONE,
        };
        if hide {
            hidden += &format!("umount -l {point} && ");
        }
    }
    let script = format!("{hidden}exec \"$@\"");
    let builder = plain(bed).flag("emperor-idle-freeze");
    Some(
        ["unshare", "-m", "sh", "-c", script.as_str(), "sh"]
            .into_iter()
            .fold(builder, |builder, word| builder.before(word)),
    )
}

/// A program that is idle after a second without a client, and has just had its first.
struct Awake {
    emperor: Emperor,
    path: std::path::PathBuf,
    pid: i32,
    bed: Bed,
}

/// One of an emperor that sees this freezer alone, with more lines in its file and options of the emperor's.
fn awake(freezer: Freezer, lines: &str, options: impl FnOnce(Builder) -> Builder) -> Option<Awake> {
    let bed = Bed::new();
    let builder = freezing(&bed, freezer)?;
    let path = bed.path("a.sock");
    serve(&bed, "a.ini", &format!("on-demand = true\nidle = 1\nsocket = ../a.sock\n{lines}"));
    let emperor = options(builder).start();
    poll(PATIENCE, || path.exists().then_some(())).expect("a socket");
    let pid = ask(call(&path), "hey");
    Some(Awake { emperor, path, pid, bed })
}

macro_rules! each {
    ($($name:ident, $scenario:expr;)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn root_version_2() {
                $scenario(Freezer::Two);
            }
            #[test]
            fn root_version_1() {
                $scenario(Freezer::One);
            }
        }
    )*};
}

/// Waits until the vassal was frozen so many times.
fn frozen(emperor: &Emperor, times: usize) {
    let there = poll(PATIENCE, || (emperor.lines("a.ini is idle and frozen").len() >= times).then_some(()));
    assert!(there.is_some(), "not frozen {times} times\n{}", emperor.log());
}

fn is_gone(pid: i32) -> bool {
    poll(PATIENCE, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).is_some()
}

each! {
    it_does_nothing_at_all_and_whoever_connects_finds_it_as_it_was, |freezer| {
        let Some(Awake { bed, emperor, path, pid }) = awake(freezer, "env = TICKS=../ticks\n", |builder| builder) else {
            return;
        };
        let ticks = bed.path("ticks");
        for times in 1..=2 {
            frozen(&emperor, times);
            // It comes to rest within a moment, and nothing but time shows that it stays so.
            let still = poll(PATIENCE, || {
                let before = fs::metadata(&ticks).ok()?.len();
                std::thread::sleep(Duration::from_millis(700));
                (fs::metadata(&ticks).ok()?.len() == before).then_some(())
            });
            assert!(still.is_some(), "it goes on\n{}", emperor.log());
            assert_eq!(emperor.stats_of("a.ini").expect("a row")["pid"], pid);
            assert_eq!(ask(call(&path), "hey"), pid, "{}", emperor.log());
        }
        emperor.stop(&bed);
    };
    it_thaws_for_an_upgrade_and_a_reload, |freezer| {
        let Some(Awake { bed, emperor, path, pid }) = awake(freezer, "", |builder| builder) else { return };
        frozen(&emperor, 1);
        emperor.renew(&bed);
        assert_eq!(ask(call(&path), "hey"), pid, "{}", emperor.log());
        frozen(&emperor, 2);
        emperor.signal(Signal::SIGHUP);
        assert!(is_gone(pid), "{}", emperor.log());
        assert_ne!(ask(call(&path), "hey"), pid);
        emperor.stop(&bed);
    };
    it_ends_in_time_when_its_file_goes, |freezer| {
        let Some(Awake { bed, emperor, pid, .. }) = awake(freezer, "", |builder| builder) else { return };
        frozen(&emperor, 1);
        let before = Instant::now();
        bed.remove("v/a.ini");
        assert!(is_gone(pid) && before.elapsed() < Duration::from_secs(20), "{}", emperor.log());
        assert_eq!(emperor.lines("has not ended within"), Vec::<String>::new());
        emperor.stop_politely(&bed);
    };
    one_that_is_killed_in_the_frost_has_a_successor, |freezer| {
        let Some(Awake { bed, emperor, path, pid }) = awake(freezer, "", |builder| builder) else { return };
        frozen(&emperor, 1);
        // In version 1 that waits for the thaw.
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        assert_ne!(ask(call(&path), "hey"), pid, "{}", emperor.log());
        assert!(is_gone(pid));
        emperor.stop(&bed);
    };
    the_emperor_after_one_that_was_killed_ends_what_that_has_frozen, |freezer| {
        let Some(Awake { bed, mut emperor, path, pid }) = awake(freezer, "", |builder| builder) else { return };
        frozen(&emperor, 1);
        emperor.signal(Signal::SIGKILL);
        emperor.end_within(PATIENCE).expect("its end");
        let next = freezing(&bed, freezer).expect("the same freezer").start();
        next.wait_log("waiting for connections on socket");
        let other = poll(PATIENCE, || {
            let stream = std::os::unix::net::UnixStream::connect(&path).ok()?;
            Some(ask(stream, "hey"))
        });
        assert!(other.is_some_and(|other| other != pid), "{}", next.log());
        assert!(is_gone(pid), "{}", next.log());
        next.stop(&bed);
    };
    it_is_stopped_when_it_was_frozen_for_so_long, |freezer| {
        let Some(Awake { bed, emperor, path, pid }) = awake(freezer, "", |builder| builder.opt("emperor-idle-freeze-timeout", "1")) else { return };
        frozen(&emperor, 1);
        sleeps(&emperor, "a.ini");
        assert!(is_gone(pid));
        assert_ne!(ask(call(&path), "hey"), pid);
        assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
        emperor.stop(&bed);
    };
}

#[test]
fn root_without_a_freezer_idle_programs_are_stopped_and_that_is_said_once() {
    let Some(Awake { bed, emperor, path, .. }) = awake(Freezer::None, "", |builder| builder) else { return };
    sleeps(&emperor, "a.ini");
    ask(call(&path), "hey");
    sleeps(&emperor, "a.ini");
    assert_eq!(emperor.lines("never frozen (emperor-idle-freeze)").len(), 1, "{}", emperor.log());
    emperor.stop(&bed);
}
