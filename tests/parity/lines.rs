//! The log lines that other tools match on.

use crate::parity;
use crate::support::emperor::{Builder, Emperor};
use crate::support::{self, Bed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// The first of these lines that is not there, in this order: each is to begin with this text, or to hold it
/// behind a date as `Mon Nov 22 14:44:00 2026 - `.
fn missing(bed: &Bed, emperor: &Emperor, lines: &[&str]) -> Option<String> {
    let message = |line: &str| match line.split_once(" - ") {
        Some((date, message)) if looks_like_ctime(date) => message.to_owned(),
        _ => line.to_owned(),
    };
    let absent = || {
        let log = bed.anonymous(&emperor.log());
        let mut rest = log.lines().map(message);
        lines.iter().find(|want| !rest.any(|line| line.starts_with(**want))).map(|w| (*w).to_owned())
    };
    support::poll(Duration::from_secs(10), || absent().is_none().then_some(()));
    absent()
}

fn looks_like_ctime(date: &str) -> bool {
    let shape: String = date
        .chars()
        .map(|c| match c {
            '0'..='9' => '0',
            'A'..='Z' => 'A',
            'a'..='z' => 'a',
            c => c,
        })
        .collect();
    shape == "Aaa Aaa 00 00:00:00 0000" || shape == "Aaa Aaa  0 00:00:00 0000"
}

parity!(
    /// Source: spec/emperor.md 9.3.
    life_of_a_vassal,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.set_age("v/a.ini", 3600);
        let emperor = Builder::new(&bed, kind).start();
        emperor.wait_log("is now loyal");
        bed.set_age("v/a.ini", 0);
        emperor.nudge();
        emperor.wait_log("reload the uwsgi instance");
        bed.remove("v/a.ini");
        emperor.nudge();
        emperor.wait_log("removed uwsgi instance");
        let lines = [
            "*** starting uWSGI Emperor ***",
            "[emperor] vassal a.ini has been spawned",
            "[emperor] vassal a.ini is ready to accept requests",
            "[emperor] vassal a.ini is now loyal",
            "[emperor] reload the uwsgi instance a.ini",
            "[emperor] stop the uwsgi instance a.ini",
            "[emperor] removed uwsgi instance a.ini",
        ];
        let missing = missing(&bed, &emperor, &lines);
        // A stop that was asked for is no curse.
        let cursed = emperor.lines("curse the uwsgi").len();
        emperor.stop(&bed);
        (missing, cursed)
    },
    (None, 0)
);

parity!(
    crash_and_blacklist,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "exit=1");
        let throttle = |e: Builder| e.opt("emperor-throttle", "100").opt("emperor-max-throttle", "200");
        let emperor = throttle(Builder::new(&bed, kind).stats()).start();
        let pid = bed.started("a.ini", 1);
        let reached = |s: &serde_json::Value| {
            emperor.nudge();
            (s["blacklist"][0]["attempt"].as_u64()? > 4).then_some(())
        };
        emperor.wait_stats("five attempts", reached);
        emperor.signal(Signal::SIGURG);
        let lines = [
            &format!("[emperor] curse the uwsgi instance a.ini (pid: {pid})"),
            "[emperor] unloyal bad behaving vassal found: a.ini throttling it...",
            "[emperor] maximum throttle level for vassal a.ini reached !!!",
            "[emperor] cleaning up blacklist ...",
        ];
        let missing = missing(&bed, &emperor, &lines);
        emperor.stop(&bed);
        missing
    },
    None
);

parity!(
    a_loyal_vassal_that_crashes,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).start();
        let pid = bed.started("a.ini", 1);
        emperor.wait_log("is now loyal");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        bed.started("a.ini", 2);
        let lines = [
            &format!("[emperor] curse the uwsgi instance a.ini (pid: {pid})"),
            "[emperor] vassal a.ini has been spawned",
            "[emperor] vassal a.ini is now loyal",
        ];
        let missing = missing(&bed, &emperor, &lines);
        let removed = emperor.lines("removed uwsgi instance").len();
        emperor.stop(&bed);
        (missing, removed)
    },
    real: (None, 1),
    ours: (None, 0),
    because: "it is the same vassal that goes on, in another process: nothing was removed"
);

parity!(
    shutdown,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17 deaf immune linger");
        let mut emperor = Builder::new(&bed, kind).opt("reload-mercy", "1").start();
        emperor.wait_log("is now loyal");
        emperor.signal(Signal::SIGTERM);
        emperor.end();
        let lines = [
            "[emperor] *** RAGNAROK EVOKED ***",
            "[emperor] stop the uwsgi instance a.ini",
            "[emperor] NO MERCY for vassal a.ini !!!",
            "The Emperor is buried.",
        ];
        missing(&bed, &emperor, &lines)
    },
    None
);

parity!(
    stats_server,
    |kind| {
        let bed = Bed::new();
        let emperor = Builder::new(&bed, kind).stats().start();
        let missing = missing(&bed, &emperor, &["*** Emperor stats server enabled on @/stats fd: "]);
        emperor.stop(&bed);
        missing
    },
    None
);

parity!(
    heartbeat,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,26");
        let emperor = Builder::new(&bed, kind).opt("emperor-required-heartbeat", "1").start();
        emperor.wait_log("sent no heartbeat");
        let missing =
            missing(&bed, &emperor, &["[emperor] vassal a.ini sent no heartbeat in last 1 seconds, "]);
        emperor.stop(&bed);
        missing
    },
    None
);
