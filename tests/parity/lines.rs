//! The log lines that other tools match on.

use crate::parity;
use crate::support::emperor::Emperor;
use crate::support::{Bed, Builder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The message of the line that holds this text. Says where the line has no date as `Mon Nov 22 14:44:00 2026 - `
/// in front.
fn message(bed: &Bed, emperor: &Emperor, text: &str) -> String {
    let line = emperor.wait_log(text);
    let line = bed.anonymous(&line);
    match line.split_once(" - ") {
        Some((date, message)) if looks_like_ctime(date) => message.to_owned(),
        _ => format!("(no date) {line}"),
    }
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
        let emperor = Builder::new(&bed, kind).stats().start();
        let line = |text: &str| message(&bed, &emperor, text);
        let mut lines = vec![
            line("starting uWSGI Emperor").replace("(no date) ", ""),
            line("has been spawned"),
            line("is ready to accept requests"),
            line("is now loyal"),
        ];
        bed.set_age("v/a.ini", 0);
        emperor.nudge();
        lines.push(line("reload the uwsgi instance"));
        bed.remove("v/a.ini");
        emperor.nudge();
        lines.push(line("stop the uwsgi instance"));
        lines.push(line("removed uwsgi instance"));
        // A stop that was asked for is no curse.
        assert!(emperor.lines("curse the uwsgi").is_empty(), "{}", emperor.log());
        emperor.stop(&bed);
        lines
    },
    [
        "*** starting uWSGI Emperor ***",
        "[emperor] vassal a.ini has been spawned",
        "[emperor] vassal a.ini is ready to accept requests",
        "[emperor] vassal a.ini is now loyal",
        "[emperor] reload the uwsgi instance a.ini",
        "[emperor] stop the uwsgi instance a.ini",
        "[emperor] removed uwsgi instance a.ini",
    ]
);

parity!(
    crash_and_blacklist,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "exit=1");
        let throttle = |e: Builder| e.opt("emperor-throttle", "100").opt("emperor-max-throttle", "200");
        let emperor = throttle(Builder::new(&bed, kind).stats()).start();
        let pid = bed.started("a.ini", 1).to_string();
        let reached = |s: &serde_json::Value| {
            emperor.nudge();
            (s["blacklist"][0]["attempt"].as_u64()? > 4).then_some(())
        };
        emperor.wait_stats("five attempts", reached);
        let line = |text: &str| message(&bed, &emperor, text);
        let mut lines = vec![
            line(&format!("(pid: {pid})")).replace(&pid, "PID"),
            line("removed uwsgi instance"),
            line("unloyal bad behaving"),
            line("maximum throttle level"),
        ];
        emperor.signal(Signal::SIGURG);
        lines.push(line("cleaning up blacklist"));
        emperor.stop(&bed);
        lines
    },
    [
        "[emperor] curse the uwsgi instance a.ini (pid: PID)",
        "[emperor] removed uwsgi instance a.ini",
        "[emperor] unloyal bad behaving vassal found: a.ini throttling it...",
        "[emperor] maximum throttle level for vassal a.ini reached !!!",
        "[emperor] cleaning up blacklist ...",
    ]
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
        let pid = pid.to_string();
        let lines = [
            message(&bed, &emperor, &format!("(pid: {pid})")).replace(&pid, "PID"),
            message(&bed, &emperor, "removed uwsgi instance"),
        ];
        emperor.stop(&bed);
        lines
    },
    ["[emperor] curse the uwsgi instance a.ini (pid: PID)", "[emperor] removed uwsgi instance a.ini"]
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
        let line = |text: &str| message(&bed, &emperor, text);
        ["RAGNAROK", "stop the uwsgi instance", "NO MERCY", "is buried"].map(line)
    },
    [
        "(no date) [emperor] *** RAGNAROK EVOKED ***",
        "[emperor] stop the uwsgi instance a.ini",
        "[emperor] NO MERCY for vassal a.ini !!!",
        "The Emperor is buried.",
    ]
);

parity!(
    stats_server,
    |kind| {
        let bed = Bed::new();
        let emperor = Builder::new(&bed, kind).stats().start();
        let line = emperor.wait_log("Emperor stats server enabled");
        emperor.stop(&bed);
        let words = bed.anonymous(&line);
        words.split(' ').map(|w| if w.parse::<u32>().is_ok() { "N" } else { w }).collect::<Vec<_>>().join(" ")
    },
    "*** Emperor stats server enabled on @/stats fd: N ***"
);

parity!(
    heartbeat,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,26");
        let emperor = Builder::new(&bed, kind).opt("emperor-required-heartbeat", "1").start();
        let line = emperor.wait_log("sent no heartbeat");
        emperor.stop(&bed);
        line.split(", ").next().map(|l| l.split_once(" - ").map_or(l, |(_, m)| m).to_owned())
    },
    Some("[emperor] vassal a.ini sent no heartbeat in last 1 seconds".to_owned())
);
