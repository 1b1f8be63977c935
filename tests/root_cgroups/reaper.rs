//! Where no control groups are mounted, a subreaper ends what a vassal leaves behind.

use std::fs;

use super::support::emperor::{Builder, Kind};
use super::support::{Bed, PATIENCE, poll, root};

/// An emperor that sees no control groups, in a mount namespace of its own.
fn emperor(bed: &Bed) -> Builder {
    let script = "umount -R -l /sys/fs/cgroup 2>/dev/null; exec \"$@\"";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let emperor = words.iter().fold(Builder::new(bed, Kind::Ours).stats(), |e, w| e.before(w));
    emperor.flag("vassal-cgroup")
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).unwrap_or(0)
}

/// How many processes live whose command line has this word.
fn count(word: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

#[test]
fn root_without_control_groups_what_a_vassal_leaves_behind_ends_with_it() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 daemon");
    bed.vassal("b.ini");
    let emperor = emperor(&bed).start();
    let good = bed.started("b.ini", 1);
    let reaper = parent_of(good);
    assert_eq!(name_of(reaper), "emperor-reaper");
    assert_eq!(parent_of(reaper), emperor.pid());
    bed.vassal("a.ini");
    // The witness forks, and its first process ends: the one that goes on in a session of its own must not.
    bed.until("the second life of a.ini", |log| log.execs("a.ini").len() == 2);
    let strays = || bed.left().into_iter().filter(|(_, line)| line.contains("a.ini")).count();
    bed.remove("v/a.ini");
    let none = poll(PATIENCE, || (strays() == 0).then_some(()));
    assert!(none.is_some(), "left behind: {:?}\n{}", bed.left(), bed.report());
    assert_eq!(emperor.lines("vassals have no control groups").len(), 1, "one warning: {}", emperor.log());
    bed.remove("v/b.ini");
    bed.until("the stop", |log| log.got("b.ini", 0) == 1);
    assert!(poll(PATIENCE, || (name_of(reaper) != "emperor-reaper").then_some(())).is_some());
    assert_eq!(bed.log().execs("b.ini").len(), 1);
    emperor.stop_politely(&bed);
}

/// It ignores every signal that can be ignored, and so do its daemons, two of whose fathers have ended.
#[test]
fn root_without_control_groups_a_program_that_must_be_killed_leaves_nobody_under_a_renewed_emperor_either() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let word = format!("{}", 7_000_000 + std::process::id());
    let script =
        format!("trap '' TERM INT HUP\n(setsid sh -c '(sleep {word} & sleep {word} &)' &)\nsleep {word}\n");
    let program = bed.write("program", &script);
    let file = format!("[uwsgi]\ncommand = /bin/sh {}\nstop-timeout = 1\n", program.display());
    bed.write("v/p.ini", &file);
    let emperor = emperor(&bed).start();
    let all = poll(PATIENCE, || (count(&word) == 3).then_some(()));
    assert!(all.is_some(), "{} there\n{}", count(&word), bed.report());
    emperor.renew(&bed);
    assert_eq!(count(&word), 3, "an emperor that is renewed ends nobody");
    bed.remove("v/p.ini");
    let none = poll(PATIENCE, || (count(&word) == 0).then_some(()));
    assert!(none.is_some(), "{} left\n{}", count(&word), bed.report());
    emperor.stop_politely(&bed);
}

#[test]
fn root_a_subreaper_that_is_killed_takes_its_program_along_and_it_runs_once() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).start();
    let first = bed.started("a.ini", 1);
    let reaper = nix::unistd::Pid::from_raw(parent_of(first));
    nix::sys::signal::kill(reaper, nix::sys::signal::Signal::SIGKILL).expect("its subreaper");
    bed.started("a.ini", 2);
    let gone = poll(PATIENCE, || (!fs::exists(format!("/proc/{first}")).unwrap_or(true)).then_some(()));
    assert!(gone.is_some(), "it runs twice");
    emperor.stop_politely(&bed);
}
