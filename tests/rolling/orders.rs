//! What an operator, a signal or the vassal itself does while processes take turns: one process is left, or none.

use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::stages::{STAGES, Stage, Turns, signal};
use super::support::emperor::{Builder, Emperor, Kind};
use super::support::{PATIENCE, poll};

fn start(turns: &Turns) -> Emperor {
    with(turns, |builder| builder)
}

fn with(turns: &Turns, options: impl FnOnce(Builder) -> Builder) -> Emperor {
    let builder = Builder::new(&turns.bed, Kind::Ours).stats();
    options(builder.opt("emperor-control", turns.bed.path("control.sock"))).start()
}

fn client(turns: &Turns, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(words).env_clear().env("EMPEROR_CONTROL", turns.bed.path("control.sock"));
    let output = command.output().expect("the client");
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What the file said when this process began.
fn version(turns: &Turns, start: usize) -> String {
    let config = turns.bed.given("a.ini", start).config.unwrap_or_default();
    config.lines().last().unwrap_or_default().to_owned()
}

/// A vassal that is deaf to orders, and killed soon.
fn deaf() -> Turns {
    Turns::new("stop-timeout = 1\n")
}

#[test]
fn the_end_of_the_emperor_is_the_end_of_both_at_each_stage() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        turns.begin(&emperor);
        turns.advance(&emperor, stage);
        emperor.stop_politely(&turns.bed);
    }
}

#[test]
fn the_end_of_its_file_is_the_end_of_both_at_each_stage() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        turns.begin(&emperor);
        turns.advance(&emperor, stage);
        turns.bed.remove("v/a.ini");
        turns.pids(&emperor, "none", &[]);
        emperor.wait_log("removed uwsgi instance a.ini");
        emperor.stop_politely(&turns.bed);
    }
}

#[test]
fn one_that_is_stopped_by_hand_rests_at_each_stage_and_starts_by_hand_with_what_is_newest() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        turns.begin(&emperor);
        turns.advance(&emperor, stage);
        client(&turns, &["stop", "a.ini"]);
        turns.pids(&emperor, "it rests", &[("a.ini", -1)]);
        turns.script("say=1,5,17");
        client(&turns, &["start", "a.ini"]);
        let third = turns.bed.started("a.ini", 3);
        turns.settled(&emperor, third);
        assert_eq!(version(&turns, 3), "env = VERSION=2");
        emperor.stop_politely(&turns.bed);
    }
}

#[test]
fn restarted_by_hand_at_each_stage_it_is_one_process_that_has_read_the_newest() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        turns.begin(&emperor);
        turns.advance(&emperor, stage);
        turns.script("say=1,5,17");
        client(&turns, &["restart", "a.ini"]);
        turns.settled(&emperor, turns.bed.started("a.ini", 3));
        assert_eq!(version(&turns, 3), "env = VERSION=2");
        emperor.stop_politely(&turns.bed);
    }
}

/// One that is on its way has read the file; one that has taken over is asked like any other.
#[test]
fn sighup_is_answered_by_the_one_that_is_on_its_way_or_else_by_one_more() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        let first = turns.begin(&emperor);
        let clients = turns.clients();
        let next = turns.advance(&emperor, stage);
        turns.script("say=1,5,17");
        emperor.signal(Signal::SIGHUP);
        if stage == Stage::Retiring {
            turns.settled(&emperor, turns.bed.started("a.ini", 3));
        } else {
            let next = turns.go_on(&emperor, stage, first, next);
            turns.settled(&emperor, next);
            assert_eq!(turns.bed.log().execs("a.ini").len(), 2);
        }
        clients.end(|| turns.bed.report());
        emperor.stop_politely(&turns.bed);
    }
}

#[test]
fn of_many_changes_in_a_row_the_last_counts_at_each_stage() {
    for stage in STAGES {
        let turns = deaf();
        let emperor = start(&turns);
        turns.begin(&emperor);
        let clients = turns.clients();
        turns.advance(&emperor, stage);
        turns.script("say=1,5,17");
        (3..7).for_each(|version| turns.write(version));
        // Which one reads the last of them first is chance; what counts is who stays.
        let only = || {
            let stats = emperor.stats();
            let rows = stats["vassals"].as_array()?;
            let last = i64::from(turns.bed.log().execs("a.ini").last()?.pid);
            (rows.len() == 1 && rows[0]["pid"].as_i64() == Some(last)).then_some(last)
        };
        let newest = || {
            let starts = turns.bed.log().execs("a.ini").len();
            only().filter(|_| version(&turns, starts) == "env = VERSION=6")
        };
        let pid = poll(PATIENCE, newest).unwrap_or_else(|| panic!("{stage:?}\n{}", turns.bed.report()));
        turns.alone(i32::try_from(pid).expect("a process id"));
        clients.end(|| turns.bed.report());
        emperor.stop_politely(&turns.bed);
    }
}

#[test]
fn one_that_hangs_before_it_is_ready_fails_and_is_told_by_all_who_are_asked() {
    let turns = deaf();
    let emperor = with(&turns, |builder| builder.opt("emperor-required-heartbeat", "1"));
    let first = turns.begin(&emperor);
    // It beats once, and never again.
    turns.script("say=1,26 wait");
    turns.write(2);
    let line = emperor.wait_log("the rolling reload of vassal a.ini has failed, and it goes on as it was");
    assert!(line.contains("heartbeat"), "{line}");
    turns.settled(&emperor, first);
    for words in [["status", "a.ini"], ["why", "a.ini"]] {
        let told = client(&turns, &words);
        assert!(told.contains("rolling reload has failed") && told.contains("heartbeat"), "{told}");
    }
    emperor.stop_politely(&turns.bed);
}

/// What fails is not the vassal: it pays no pause, and its next start is not later for it.
#[test]
fn one_that_fails_over_and_over_costs_the_vassal_no_pause() {
    let turns = deaf();
    let emperor = with(&turns, |builder| builder.opt("emperor-throttle", "60000"));
    let first = turns.begin(&emperor);
    for number in 2..5 {
        turns.script("say=1 exit=3");
        turns.write(number);
        let failed = || emperor.lines("the rolling reload of vassal a.ini has failed").len();
        let done = poll(PATIENCE, || (failed() == number as usize - 1).then_some(()));
        assert!(done.is_some(), "{}", turns.bed.report());
        let row = emperor.stats_of("a.ini").expect("its row");
        assert!(
            row["rolling_failure"].as_str().is_some_and(|why| why.contains("exited with status 3")),
            "{row:#}"
        );
        assert_eq!(
            (emperor.stats()["blacklist"].clone(), row["pid"].as_i64()),
            (Value::Array(vec![]), Some(first.into()))
        );
    }
    turns.script("say=1,5,17");
    turns.write(9);
    turns.settled(&emperor, turns.bed.started("a.ini", 5));
    assert_eq!(emperor.stats_of("a.ini").expect("its row")["rolling_failure"], Value::Null);
    emperor.stop_politely(&turns.bed);
}

#[test]
fn one_that_sleeps_takes_no_turn_and_wakes_with_what_is_newest() {
    let turns = Turns::new("on-demand = true\n");
    let emperor = start(&turns);
    turns.write(1);
    let path = turns.bed.path("a.sock");
    let sleeps =
        || emperor.stats_of("a.ini").filter(|row| row["pid"] == -1).map(|_| path.exists().then_some(()));
    poll(PATIENCE, || sleeps().flatten()).expect("its socket");
    turns.write(2);
    emperor.wait_log("a.ini");
    emperor.nudge();
    client(&turns, &["reload", "--rolling", "a.ini"]);
    assert_eq!(turns.bed.log().execs("a.ini").len(), 0, "nobody needs it\n{}", turns.bed.report());
    drop(UnixStream::connect(&path).expect("its socket"));
    let first = turns.bed.started("a.ini", 1);
    assert_eq!(version(&turns, 1), "env = VERSION=2");
    turns.settled(&emperor, first);
    turns.write(3);
    let second = turns.bed.started("a.ini", 2);
    turns.settled(&emperor, second);
    assert!(UnixStream::connect(&path).is_ok());
    emperor.stop_politely(&turns.bed);
}

#[test]
fn reinforcements_are_told_when_the_new_one_has_taken_over_and_not_before() {
    let turns = deaf();
    let emperor = with(&turns, |builder| builder.opt("emperor-broodlord", "1"));
    turns.script("say=1,5,17,30 wait exit=0");
    turns.write(1);
    let first = turns.bed.started("a.ini", 1);
    let zerg = turns.bed.started("a.ini:zerg", 1);
    turns.pids(&emperor, "reinforced", &[("a.ini", first), ("a.ini:zerg", zerg)]);
    turns.script("say=1 wait say=5,17");
    turns.write(2);
    let next = turns.bed.started("a.ini", 2);
    turns.pids(&emperor, "all", &[("a.ini", first), ("a.ini:zerg", zerg), ("a.ini:next", next)]);
    assert_eq!(turns.bed.log().heard("a.ini:zerg"), [""; 0]);
    turns.waits(next);
    signal(next, Signal::SIGUSR1);
    turns.bed.until("the reinforcement is told", |log| log.heard("a.ini:zerg") == ["1"]);
    turns.pids(&emperor, "reinforced again", &[("a.ini", next), ("a.ini:zerg", zerg)]);
    emperor.stop_politely(&turns.bed);
}
