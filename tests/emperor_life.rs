//! The emperor's own life: how soon it notices, that it converges, that it costs nothing when nothing happens,
//! and how it ends.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};
use support::emperor::{Builder, Emperor, Kind};
use support::empire::Empire;
use support::{Bed, root};

/// The middle one of several spans.
fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

/// Does something 15 times and measures until the witness `good.ini`, or another, notes the effect.
fn latency(mut act: impl FnMut(&Empire, usize) -> (SystemTime, SystemTime), empire: &Empire) -> Duration {
    let spans = (1..=15).map(|n| {
        let (done, seen) = act(empire, n);
        seen.duration_since(done).unwrap_or_default()
    });
    median(spans.collect())
}

/// An empire that is seldom scanned, and fifteen loyal vassals, `n1.ini` and so on.
fn loyal_ones() -> (Empire, Vec<String>) {
    let empire = Empire::with(|e| e.opt("emperor-freq", "60"));
    let names: Vec<_> = (1..=15).map(|n| format!("n{n}.ini")).collect();
    for name in &names {
        empire.bed.vassal(name);
        empire.bed.until("loyal", |log| log.said(name, 17) == 1);
    }
    (empire, names)
}

/// What is noticed by a scan now and then takes about a second; the limit is far from both.
const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_new_file_is_started_at_once() {
    let empire = Empire::with(|e| e.opt("emperor-freq", "60"));
    let span = latency(
        |empire, n| {
            let name = format!("n{n}.ini");
            let done = SystemTime::now();
            empire.bed.vassal(&name);
            (done, empire.bed.wait("its start", |log| log.execs(&name).first().map(|e| e.wall)))
        },
        &empire,
    );
    assert!(span < SOON, "{span:?}");
    empire.unharmed();
}

#[test]
fn a_changed_file_is_told_at_once() {
    let (empire, names) = loyal_ones();
    let span = latency(
        |empire, n| {
            let done = SystemTime::now();
            empire.bed.set_age(format!("v/n{n}.ini"), 1000);
            let name = &names[n - 1];
            (done, empire.bed.wait("the reload", |log| log.of(name, "got").first().map(|e| e.wall)))
        },
        &empire,
    );
    assert!(span < SOON, "{span:?}");
    empire.unharmed();
}

#[test]
fn a_removed_file_is_told_at_once() {
    let (empire, names) = loyal_ones();
    let span = latency(
        |empire, n| {
            let name = &names[n - 1];
            let done = SystemTime::now();
            empire.bed.remove(format!("v/{name}"));
            (done, empire.bed.wait("the stop", |log| log.of(name, "got").first().map(|e| e.wall)))
        },
        &empire,
    );
    assert!(span < SOON, "{span:?}");
    empire.unharmed();
}

#[test]
fn a_loyal_vassal_that_is_killed_now_and_then_is_back_at_once() {
    let empire = Empire::new();
    let mut spans = Vec::new();
    for n in 1..=10 {
        let name = format!("n{n}.ini");
        empire.bed.vassal(&name);
        empire.bed.until("loyal", |log| log.said(&name, 17) == 1);
        empire.emperor.wait_log(&format!("{name} is now loyal"));
        let pid = empire.bed.started(&name, 1);
        let done = SystemTime::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        let seen = empire.bed.wait("its successor", |log| log.execs(&name).get(1).map(|e| e.wall));
        spans.push(seen.duration_since(done).unwrap_or_default());
    }
    assert!(median(spans.clone()) < SOON, "{spans:?}");
    assert!(spans.iter().max() < Some(&Duration::from_secs(2)), "{spans:?}");
    empire.unharmed();
}

/// The processes of a bed that are witnesses of a name, by that name.
fn running(bed: &Bed) -> BTreeMap<String, Vec<i32>> {
    let mut running: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (pid, line) in bed.left() {
        let words: Vec<&str> = line.split(' ').collect();
        if let Some(at) = words.iter().position(|w| *w == "--ini") {
            running.entry(words[at + 1].to_owned()).or_default().push(pid);
        }
    }
    running
}

#[test]
fn what_runs_converges_to_what_is_there() {
    let bed = Bed::new();
    bed.script("default", "say=1,5,17 reexec");
    let emperor = Builder::new(&bed, Kind::Ours).stats().start();
    let mut seed = 88_172_645_463_325_252_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut content: BTreeMap<String, String> = BTreeMap::new();
    for step in 0..600 {
        let name = format!("v{:02}.ini", random(25));
        let text = format!("[uwsgi]\nstep = {step}\n");
        match random(5) {
            0 if content.remove(&name).is_some() => bed.remove(format!("v/{name}")),
            1 => {
                std::fs::write(bed.v().join(&name), &text).expect("a file");
                content.insert(name, text);
            }
            2 if content.contains_key(&name) => {
                let other = format!("v{:02}.ini", random(25));
                std::fs::rename(bed.v().join(&name), bed.v().join(&other)).expect("a rename");
                let text = content.remove(&name).expect("its content");
                content.insert(other, text);
            }
            _ => {
                bed.write(format!("v/{name}"), &text);
                content.insert(name, text);
            }
        }
        if random(4) == 0 {
            std::thread::sleep(Duration::from_millis(random(8)));
        }
    }
    let want: BTreeSet<_> = content.keys().cloned().collect();
    let begin = Instant::now();
    let settled = || {
        let now = running(&bed);
        (now.keys().cloned().collect::<BTreeSet<_>>() == want && now.values().all(|pids| pids.len() == 1))
            .then_some(())
    };
    support::poll(support::PATIENCE, settled)
        .unwrap_or_else(|| panic!("runs {:?}\nwanted {want:?}\n{}", running(&bed), bed.report()));
    for (name, text) in &content {
        let runs_with = || {
            let starts = bed.log().execs(name).len();
            (bed.given(name, starts).config.as_ref() == Some(text)).then_some(())
        };
        let found = support::poll(support::PATIENCE, runs_with);
        assert!(found.is_some(), "{name} does not run with {text:?}\n{}", bed.report());
    }
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}: somebody had to be killed\n{}",
        begin.elapsed(),
        bed.report()
    );
    emperor.stop_politely(&bed);
}

/// How often the emperor's threads went to sleep and were woken.
fn wakeups(emperor: &Emperor) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", emperor.pid())).expect("its threads");
    let of = |status: String| -> u64 {
        let lines = status.lines().filter(|l| l.contains("ctxt_switches"));
        lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    tasks.flatten().map(|t| of(std::fs::read_to_string(t.path().join("status")).unwrap_or_default())).sum()
}

#[test]
fn nothing_happens_nothing_is_done() {
    let bed = Bed::new();
    let names: Vec<_> = (0..30).map(|n| format!("v{n:02}.ini")).collect();
    names.iter().for_each(|n| drop(bed.vassal(n)));
    let options = |e: Builder| e.on(bed.v()).witnessed();
    let emperor = options(Builder::bare(&bed, Kind::Ours)).start();
    bed.until("all loyal", |log| names.iter().all(|n| log.said(n, 17) == 1));
    // Within half a minute there must be three seconds without a single wake-up.
    let mut seen = (wakeups(&emperor), Instant::now());
    let quiet = support::poll(Duration::from_secs(30), || {
        let now = wakeups(&emperor);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        (seen.1.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert!(quiet.is_some(), "it is never still");
    emperor.stop_politely(&bed);
}

#[test]
fn nothing_piles_up() {
    let empire = Empire::new();
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", empire.emperor.pid())).expect("its descriptors").count();
    let mut before = 0;
    for round in 0..6 {
        let names: Vec<_> = (0..20).map(|n| format!("r{round}n{n}.ini")).collect();
        empire.bed.script("default", if round % 2 == 0 { "say=1,5,17" } else { "exit=1" });
        names.iter().for_each(|n| drop(empire.bed.vassal(n)));
        names.iter().for_each(|n| assert!(empire.bed.started(n, 1) > 0));
        names.iter().for_each(|n| empire.bed.remove(format!("v/{n}")));
        empire
            .emperor
            .wait_stats("only the good one", |s| (s["vassals"].as_array()?.len() == 1).then_some(()));
        let settled =
            support::poll(support::PATIENCE, || (round == 0 || descriptors() <= before).then_some(()));
        assert!(settled.is_some(), "{} descriptors, before {before}", descriptors());
        if round == 0 {
            before = descriptors() + 2;
        }
        assert_eq!(empire.emperor.stats()["blacklist"], serde_json::json!([]));
    }
    empire.unharmed();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 deaf immune linger");
    bed.vassal("a.ini");
    let mut emperor = Builder::new(&bed, Kind::Ours).start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    emperor.signal(Signal::SIGTERM);
    bed.until("told", |log| log.got("a.ini", 0) == 1);
    // Two that come together are one wish, as from a tool that signals a process and its group.
    std::thread::sleep(Duration::from_millis(700));
    let begin = Instant::now();
    emperor.signal(Signal::SIGINT);
    assert_eq!(emperor.end().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    bed.nothing_left();
}

#[test]
fn the_end_is_as_quick_as_the_slowest_vassal() {
    let bed = Bed::new();
    bed.script("default", "say=1,5,17 slow=100");
    for n in 0..20 {
        bed.vassal(format!("v{n}.ini"));
    }
    let mut emperor = Builder::new(&bed, Kind::Ours).start();
    bed.until("all loyal", |log| (0..20).all(|n| log.said(&format!("v{n}.ini"), 17) == 1));
    let begin = Instant::now();
    emperor.signal(Signal::SIGTERM);
    assert_eq!(emperor.end().code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}: it did not wait", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    bed.nothing_left();
}

#[test]
fn the_end_comes_also_while_a_crowd_starts() {
    let bed = Bed::new();
    for n in 0..200 {
        bed.vassal(format!("v{n}.ini"));
    }
    let mut emperor = Builder::new(&bed, Kind::Ours).start();
    bed.until("some", |log| log.names().len() >= 5);
    emperor.signal(Signal::SIGTERM);
    assert_eq!(emperor.end().code(), Some(0));
    bed.nothing_left();
}

#[test]
fn root_first_process_of_a_container() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    // A daemon that leaves its starter becomes a child of the first process, which has to bury it.
    bed.script("a.ini", "say=1,5,17 after=100 daemon after=100 exit=0");
    let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let emperor = words.iter().fold(Builder::new(&bed, Kind::Ours), |e, w| e.before(w)).start();
    bed.started("a.ini", 3);
    let children = format!("/proc/{0}/task/{0}/children", emperor.pid());
    let first: i32 = std::fs::read_to_string(children).expect("its child").trim().parse().expect("a process");
    let zombies = || {
        let pids =
            std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        let state = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        pids.split_whitespace().filter(|pid| state(pid).contains(") Z ")).count()
    };
    bed.script("a.ini", "say=1,5,17");
    bed.until("it stays", |log| log.said("a.ini", 17) == log.execs("a.ini").len());
    assert!(
        support::poll(support::PATIENCE, || (zombies() == 0).then_some(())).is_some(),
        "{} zombies",
        zombies()
    );
    kill(Pid::from_raw(first), Signal::SIGTERM).expect("a signal");
    let mut emperor = emperor;
    assert_eq!(emperor.end().code(), Some(0), "{}", bed.report());
    bed.nothing_left();
}
