//! Engines that cannot be started, and vassals that misbehave. Each is dealt with by itself: the other vassal is
//! not told anything, and a touch of its file is still answered at once.

mod support;

use nix::sys::signal::Signal;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::Bed;
use support::emperor::{Builder, Kind};
use support::empire::Empire;

/// All vassals' engine is this file, which is not yet as it should be; `mend` makes it so.
fn bad_engine(spoil: impl FnOnce(&Bed, &Path), words: &[&str]) {
    let bed = Bed::new();
    let engine = bed.path("engine");
    spoil(&bed, &engine);
    bed.vassal("a.ini");
    bed.vassal("b.ini");
    let options =
        |e: Builder| e.on(bed.v()).opt("emperor-wrapper", &engine).opt("emperor-throttle", "200").stats();
    let mut emperor = options(Builder::bare(&bed, Kind::Ours)).start();
    for name in ["a.ini", "b.ini"] {
        let mut all = vec![name, engine.to_str().expect("plain text")];
        all.extend(words);
        let told = || emperor.log().lines().any(|l| all.iter().all(|w| l.contains(w))).then_some(());
        support::poll(support::PATIENCE, told)
            .unwrap_or_else(|| panic!("never said: {all:?}\n{}", emperor.log()));
    }
    assert!(emperor.running());
    let _ = std::fs::remove_file(&engine);
    bed.install(&bed.witness(), "engine");
    bed.until("both run", |log| log.said("a.ini", 17) == 1 && log.said("b.ini", 17) == 1);
    emperor.stop_politely(&bed);
}

#[test]
fn engine_missing() {
    bad_engine(|_, _| (), &["install it"]);
}

#[test]
fn engine_not_executable() {
    let spoil = |bed: &Bed, engine: &Path| {
        bed.install(&bed.witness(), "engine");
        std::fs::set_permissions(engine, Permissions::from_mode(0o644)).expect("its mode");
    };
    bad_engine(spoil, &["not an executable"]);
}

#[test]
fn engine_of_another_architecture() {
    let spoil = |bed: &Bed, _: &Path| {
        let mut program = std::fs::read(bed.witness()).expect("a program");
        program[18] ^= 0x55; // e_machine of the ELF header
        bed.write("engine.part", program);
        bed.install(&bed.path("engine.part"), "engine");
        std::fs::set_permissions(bed.path("engine"), Permissions::from_mode(0o755)).expect("its mode");
    };
    bad_engine(spoil, &["Exec format error"]);
}

#[test]
fn engine_is_a_directory() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).opt("emperor-wrapper", bed.v()).start();
    emperor.wait_log("a.ini cannot be started");
    emperor.stop_politely(&bed);
}

/// `bad.ini` does this; `good.ini` can be changed meanwhile and is told at once.
fn neighbour_of(script: &str, options: impl FnOnce(Builder) -> Builder, check: impl FnOnce(&Empire)) {
    let empire = Empire::with(options);
    empire.bed.script("bad.ini", script);
    empire.bed.vassal("bad.ini");
    empire.bed.started("bad.ini", 1);
    check(&empire);
    let begin = Instant::now();
    empire.bed.vassal("quick.ini");
    empire.bed.started("quick.ini", 1);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}\n{}", begin.elapsed(), empire.bed.report());
    empire.unharmed();
}

#[test]
fn vassal_that_exits_at_once() {
    let quick = |e: Builder| e.opt("emperor-throttle", "300");
    neighbour_of("exit=3", quick, |empire| {
        empire.bed.started("bad.ini", 4);
        let starts: Vec<_> = empire.bed.log().execs("bad.ini").iter().map(|e| e.at).collect();
        assert!(starts[3] - starts[0] >= Duration::from_millis(800), "{starts:?}");
        empire.told(&["bad.ini", "throttling"]);
        empire.told(&["bad.ini", "3"]);
    });
}

#[test]
fn vassal_that_is_killed_by_a_signal_at_once() {
    neighbour_of(
        "kill=11",
        |e| e.opt("emperor-throttle", "300"),
        |empire| {
            empire.bed.started("bad.ini", 3);
        },
    );
}

#[test]
fn vassal_that_never_answers() {
    neighbour_of(
        "linger deaf noreload",
        |e| e.opt("emperor-curse-tolerance", "2"),
        |empire| {
            let row = empire.emperor.stats_of("bad.ini").expect("a row");
            assert_eq!((&row["ready"], &row["loyal"], &row["cursed"]), (&0.into(), &0.into(), &0.into()));
            // It takes no orders, so it ends with a signal, well before the tolerance.
            empire.bed.remove("v/bad.ini");
            empire.bed.until("SIGTERM", |log| log.of("bad.ini", "signal").iter().any(|e| e.arg == "15"));
            let gone = |_: &_| empire.emperor.stats_of("bad.ini").is_none().then_some(());
            empire.emperor.wait_stats("gone", gone);
        },
    );
}

#[test]
fn vassal_that_never_answers_and_ignores_signals() {
    neighbour_of(
        "linger deaf noreload immune",
        |e| e.opt("emperor-curse-tolerance", "2"),
        |empire| {
            empire.bed.remove("v/bad.ini");
            let gone = |_: &_| empire.emperor.stats_of("bad.ini").is_none().then_some(());
            empire.emperor.wait_stats("gone", gone);
            empire.told_once(&["bad.ini", "not ended within 2 seconds"]);
        },
    );
}

#[test]
fn vassal_that_ignores_a_reload() {
    neighbour_of(
        "say=1,5,17 noreload",
        |e| e.opt("emperor-reload-timeout", "2"),
        |empire| {
            empire.bed.until("loyal", |log| log.said("bad.ini", 17) == 1);
            empire.bed.set_age("v/bad.ini", -3);
            empire.bed.until("told", |log| log.got("bad.ini", 1) == 1);
        },
    );
}

#[test]
fn vassal_that_never_reads_is_restarted_for_a_reload() {
    let empire = Empire::with(|e| e.opt("emperor-reload-timeout", "2"));
    empire.bed.script("bad.ini", "say=1,5,17");
    empire.bed.vassal("bad.ini");
    empire.bed.until("loyal", |log| log.said("bad.ini", 17) == 1);
    let pid = nix::unistd::Pid::from_raw(empire.bed.started("bad.ini", 1));
    // Stopped: what is sent to it stays unread, and only SIGKILL ends it.
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("a signal");
    empire.bed.set_age("v/bad.ini", -3);
    empire.told(&["bad.ini", "has not read the message to reload"]);
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("a signal");
    empire.bed.started("bad.ini", 2);
    empire.unharmed();
}

#[test]
fn vassal_that_closes_its_link() {
    neighbour_of(
        "say=1,5,17 immune close",
        |e| e.opt("emperor-curse-tolerance", "2"),
        |empire| {
            empire.told(&["curse the uwsgi instance bad.ini"]);
            empire.bed.script("bad.ini", "say=1,5,17");
            empire.bed.started("bad.ini", 2);
        },
    );
}

#[test]
fn vassal_that_floods_bytes() {
    neighbour_of(
        "say=1,5,17 flood=20000000",
        |e| e,
        |empire| {
            let begin = Instant::now();
            let status = || {
                std::fs::read_to_string(format!("/proc/{}/status", empire.emperor.pid())).expect("its status")
            };
            let rss = || -> u64 {
                let text = status();
                let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("a size");
                line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
            };
            let before = rss();
            empire.bed.until("told while it is flooded", |_| {
                empire.bed.set_age("v/bad.ini", -3);
                true
            });
            empire.bed.until("heard", |log| log.got("bad.ini", 1) >= 1);
            empire.bed.wait_up_to(Duration::from_secs(120), "taken", |log| {
                log.of("bad.ini", "flooded").first().map(|_| ())
            });
            assert!(rss() < before + 4096, "{} KiB, before {before}, in {:?}", rss(), begin.elapsed());
        },
    );
}

/// The process that the emperor started ends and leaves a child behind, which nobody can stop any more.
fn leaves(script: &str) {
    neighbour_of(
        script,
        |e| e.opt("emperor-throttle", "500"),
        |empire| {
            empire.bed.started("bad.ini", 3);
            empire.bed.until("children", |log| log.of("bad.ini", "child").len() >= 2);
            let log = empire.bed.log();
            let starts: Vec<_> = log.execs("bad.ini").iter().map(|e| e.pid).collect();
            let rows = empire.emperor.stats_of("bad.ini").expect("a row");
            let pid = rows["pid"].as_i64().expect("a number");
            let children: Vec<_> = log.of("bad.ini", "child").iter().map(|e| i64::from(e.pid)).collect();
            assert!(!children.contains(&pid), "{starts:?} {children:?} {pid}");
            // Leave no more of them, and take those away that the emperor does not know.
            empire.bed.script("bad.ini", "say=1,5,17");
            empire.bed.until("it stays", |log| log.said("bad.ini", 17) == 1);
            for child in empire.bed.log().of("bad.ini", "child") {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.pid), Signal::SIGKILL);
            }
        },
    );
}

#[test]
fn vassal_that_forks_and_leaves_with_the_link_open() {
    leaves("say=1,5 fork");
}

#[test]
fn vassal_that_forks_and_leaves_without_link() {
    leaves("say=1,5 leave");
}

#[test]
fn vassal_that_becomes_a_daemon() {
    leaves("say=1,5 daemon immune");
}

/// A process that has this id, and is no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_hook_that_never_ends_is_ended_with_what_it_has_started() {
    let begun = |name: &str| format!("case $UWSGI_VASSAL_CONFIG in {name}.ini) ");
    // A shell that has to wait, so that there is a process behind the one that is ended.
    let hangs = format!("{} sleep 1000 & echo $! > sleeper; wait;; esac", begun("hangs"));
    let empire = Empire::with(|e| {
        e.opt("hook-as-emperor", "print:first").opt("exec-as-emperor", hangs).opt("emperor-hook-timeout", "1")
    });
    empire.bed.vassal("hangs.ini");
    empire.told_once(&["vassal hangs.ini hook", "sleep 1000", "has taken 1 s"]);
    empire.told_once(&["as-emperor hook of hangs.ini", "ended after 1 s", "emperor-hook-timeout"]);
    assert_eq!(empire.lines(&["good.ini", "ended"]), [""; 0]);
    let sleeper = std::fs::read_to_string(empire.bed.v().join("sleeper")).expect("the sleeper's id");
    let gone = || (!lives(sleeper.trim())).then_some(());
    support::poll(support::PATIENCE, gone).expect("what the hook has started is ended, too");
    empire.unharmed();
}

#[test]
fn a_hook_may_take_any_time_where_that_is_said() {
    let slow = "test $UWSGI_VASSAL_CONFIG = good.ini || { sleep 1; touch done; }";
    let empire = Empire::with(|e| e.opt("exec-as-emperor", slow).opt("emperor-hook-timeout", "0"));
    empire.bed.vassal("slow.ini");
    let done = || empire.bed.v().join("done").exists().then_some(());
    support::poll(support::PATIENCE, done).expect("the end of the hook");
    assert_eq!(empire.lines(&["emperor-hook-timeout"]), [""; 0]);
    empire.unharmed();
}
