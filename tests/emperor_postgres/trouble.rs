//! The database is not there, or answers what is of no use.

use crate::support::emperor::{Builder, Kind};
use crate::support::{Bed, PATIENCE, poll, postgres::Postgres};
use crate::{NEVER, listening};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn vassals_outlive_their_database_and_follow_it_when_it_is_back() {
    let Some(mut postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    for name in ["a.ini", "b.ini"] {
        postgres.vassal(name, "[uwsgi]\n");
    }
    let emperor = listening(&bed, &postgres).start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1 && log.said("b.ini", 17) == 1);
    emperor.wait_log("is notified");
    postgres.stop();
    let line = emperor.wait_log("no connection");
    assert!(line.contains("its vassals keep running"), "{line}");
    // The emperor looks after its vassals as ever.
    let pid = bed.started("a.ini", 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("the vassal is there");
    bed.started("a.ini", 2);
    postgres.run();
    postgres.sql("UPDATE vassals SET config = '[uwsgi]\nmaster = true' WHERE name = 'a.ini'");
    postgres.sql("DELETE FROM vassals WHERE name = 'b.ini'");
    bed.until("told", |log| log.heard("a.ini").iter().any(|b| b == "1") && log.heard("b.ini") == ["0"]);
    emperor.wait_log("answers again");
    let all = emperor.log();
    assert!(emperor.lines("no connection").len() <= 3, "a line for each cause, not for each attempt\n{all}");
    assert_eq!(emperor.lines("answers again").len(), 1, "{all}");
    emperor.stop(&bed);
}

#[test]
fn a_database_that_comes_later_is_found_and_a_stuck_one_stalls_nobody() {
    // It accepts connections and never says a word.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = deaf.local_addr().expect("its number").port();
    let bed = Bed::new();
    bed.vassal("a.ini");
    let source = format!("pg://host=127.0.0.1 port={port} user=x password=secret connect_timeout=1");
    let emperor = Builder::bare(&bed, Kind::Ours).on(&source).on(bed.v()).witnessed().stats().start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    let began = Instant::now();
    emperor.stats();
    bed.vassal("b.ini");
    bed.started("b.ini", 1);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    emperor.wait_log("no answer within 1s");
    drop(deaf);
    emperor.wait_log("Connection refused");
    assert!(!emperor.log().contains("secret") && !emperor.stats().to_string().contains("secret"));
    emperor.stop(&bed);
}

#[test]
fn an_answer_without_end_is_not_taken() {
    let Some(postgres) = Postgres::start() else { return };
    let bed = Bed::new();
    let much = "SELECT n || '.ini', repeat('x', 60000) FROM generate_series(1, 100000) n";
    let emperor = Builder::bare(&bed, Kind::Ours).on(postgres.source(much)).witnessed().stats().start();
    emperor.wait_log("the answer is larger than 64 MiB");
    let status = std::fs::read_to_string(format!("/proc/{}/status", emperor.pid())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak").trim();
    let kib: u64 = peak.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(kib < 256 << 10, "{peak}");
    emperor.stop(&bed);
}

#[test]
fn what_can_be_known_at_the_start_ends_the_start() {
    let bed = Bed::new();
    for (source, words) in
        [("pg://colour=red", "colour"), ("pg://host=x sslmode=require", "no TLS"), ("pg://", "names nothing")]
    {
        let mut emperor = Builder::bare(&bed, Kind::Ours).on(source).start();
        assert_eq!(emperor.end().code(), Some(1));
        assert!(emperor.log().contains(words), "{}", emperor.log());
    }
}

#[test]
fn an_idle_emperor_asks_nothing() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", "[uwsgi]\n");
    let emperor = Builder::bare(&bed, Kind::Ours).on(postgres.all()).witnessed().quick();
    let emperor = emperor.opt("emperor-rescan", NEVER).start();
    emperor.wait_log("is notified");
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", emperor.pid())).expect("its status");
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim);
        line.and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    // What was under way has come to its end when two looks in a row see the same.
    let mut last = switches();
    let calm = poll(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = switches();
        (std::mem::replace(&mut last, now) == now).then_some(())
    });
    calm.expect("it comes to rest");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(switches(), last, "it woke although nothing had happened");
    emperor.stop(&bed);
}
