//! What a running vassal is told: reload, stop, and when it is killed.

use crate::parity;
use crate::support::Bed;
use crate::support::emperor::{Builder, Emperor, Kind};
use nix::sys::signal::Signal;

/// `a.ini` and `b.ini`, an hour old, running and loyal.
fn two(kind: Kind, options: impl Fn(Builder) -> Builder) -> (Bed, Emperor) {
    let bed = Bed::new();
    for name in ["a.ini", "b.ini"] {
        bed.vassal(name);
        bed.set_age(format!("v/{name}"), 3600);
    }
    let emperor = options(Builder::new(&bed, kind).stats()).start();
    for name in ["a.ini", "b.ini"] {
        emperor.wait_stats("loyal", |_| emperor.stats_of(name).filter(|v| v["loyal"] == 1));
    }
    (bed, emperor)
}

/// Proves that a change made before has been looked at: a later one, of `b.ini`, was.
fn fence(bed: &Bed, emperor: &Emperor, times: usize) {
    bed.set_age("v/b.ini", 3000 - 100 * i64::try_from(times).expect("a small number"));
    emperor.nudge();
    bed.until("the later reload", |log| log.got("b.ini", 1) == times);
}

/// What `a.ini` has heard when its file is removed, and then is told to stop.
pub(crate) fn up_to_the_stop(bed: &Bed, emperor: Emperor) -> String {
    bed.remove("v/a.ini");
    emperor.nudge();
    bed.until("the stop", |log| log.got("a.ini", 0) == 1);
    let heard = bed.log().heard("a.ini").join(" ");
    emperor.stop(bed);
    heard
}

/// What `a.ini` hears when all are told to reload and its file is removed then. It is loyal, and the emperor is stopped.
pub(crate) fn to_reload_and_to_stop(bed: &Bed, emperor: Emperor) -> String {
    emperor.signal(Signal::SIGHUP);
    bed.until("told", |log| log.got("a.ini", 1) == 1);
    bed.remove("v/a.ini");
    emperor.nudge();
    bed.until("its end", |log| !log.of("a.ini", "exit").is_empty());
    let heard = bed.log().heard("a.ini").join(" ");
    emperor.stop(bed);
    heard
}

/// What `a.ini` heard after something was done to its file, up to the 0 of its removal; more, if it was
/// started again.
fn after(kind: Kind, change: impl Fn(&Bed)) -> String {
    let (bed, emperor) = two(kind, |e| e);
    change(&bed);
    emperor.nudge();
    fence(&bed, &emperor, 1);
    fence(&bed, &emperor, 2);
    // All that came before this one has been read when this one has.
    bed.remove("v/a.ini");
    emperor.nudge();
    bed.until("the stop", |log| log.got("a.ini", 0) == 1);
    let log = bed.log();
    emperor.stop(&bed);
    let again = if log.execs("a.ini").len() == 1 { "" } else { " and was started again" };
    log.heard("a.ini").join(" ") + again
}

parity!(a_newer_time_is_a_reload, |kind| after(kind, |bed| bed.set_age("v/a.ini", 1800)), "1 0");

parity!(a_time_to_come_is_a_reload, |kind| after(kind, |bed| bed.set_age("v/a.ini", -1800)), "1 0");

parity!(
    two_newer_times_are_two_reloads,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        for (times, age) in [(1, 1800), (2, 1700)] {
            bed.set_age("v/a.ini", age);
            emperor.nudge();
            bed.until("a reload", |log| log.got("a.ini", 1) == times);
        }
        let heard = bed.log().heard("a.ini").join(" ");
        emperor.stop(&bed);
        heard
    },
    "1 1"
);

parity!(
    an_older_time,
    |kind| after(kind, |bed| bed.set_age("v/a.ini", 7200)),
    real: "0",
    ours: "1 0",
    because: "any change of the file counts, also going back to an older one"
);

parity!(
    a_second_change_within_a_second,
    |kind| after(kind, |bed| {
        let age = std::fs::metadata(bed.path("v/a.ini")).and_then(|m| m.modified()).expect("its time");
        // Closed once: looked at in between, these would be two changes.
        let mut file = std::fs::File::create(bed.path("v/a.ini")).expect("the file");
        std::io::Write::write_all(&mut file, b"[uwsgi]\nchanged = yes\n").expect("a change");
        file.set_modified(age + std::time::Duration::from_nanos(1)).expect("its time");
    }),
    real: "0",
    ours: "1 0",
    because: "any change of the file counts, also a nanosecond later"
);

parity!(
    an_older_file_moved_over_it,
    |kind| after(kind, |bed| {
        bed.write("w.ini", "[uwsgi]\nrolled = back\n");
        bed.set_age("w.ini", 7200);
        std::fs::rename(bed.path("w.ini"), bed.path("v/a.ini")).expect("a rename");
    }),
    real: "0",
    ours: "1 0",
    because: "any change of the file counts, also another file in its place"
);

parity!(a_newer_file_moved_over_it_is_a_reload, |kind| after(kind, |bed| drop(bed.vassal("a.ini"))), "1 0");

parity!(
    neither_mode_nor_a_second_name_is_a_change,
    |kind| after(kind, |bed| {
        std::os::unix::fs::chown(bed.path("v/a.ini"), None, None).expect("chown to the same");
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(bed.path("v/a.ini"), readable).expect("its mode");
        std::fs::hard_link(bed.path("v/a.ini"), bed.path("other")).expect("a second name");
    }),
    "0"
);

parity!(
    a_removed_file_is_a_stop,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("its end", |log| !log.of("a.ini", "exit").is_empty());
        emperor.wait_stats("gone", |_| emperor.stats_of("a.ini").is_none().then_some(()));
        let log = bed.log();
        emperor.stop(&bed);
        (log.heard("a.ini"), log.execs("a.ini").len(), log.heard("b.ini"))
    },
    (vec!["0".to_owned()], 1, vec![])
);

parity!(
    a_file_taken_out_of_the_directory_and_back,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        std::fs::rename(bed.path("v/a.ini"), bed.path("a.ini")).expect("a rename");
        emperor.nudge();
        emperor.wait_stats("gone", |_| emperor.stats_of("a.ini").is_none().then_some(()));
        std::fs::rename(bed.path("a.ini"), bed.path("v/a.ini")).expect("a rename");
        emperor.nudge();
        bed.started("a.ini", 2);
        let log = bed.log();
        emperor.stop(&bed);
        log.heard("a.ini").join(" ")
    },
    "0"
);

parity!(
    a_new_name_is_another_vassal,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        std::fs::rename(bed.path("v/a.ini"), bed.path("v/c.ini")).expect("a rename");
        emperor.nudge();
        bed.started("c.ini", 1);
        bed.until("the end of the old", |log| !log.of("a.ini", "exit").is_empty());
        let log = bed.log();
        emperor.stop(&bed);
        (log.heard("a.ini").join(" "), log.heard("c.ini").join(" "))
    },
    ("0".to_owned(), String::new())
);

parity!(
    graceful_stop_of_a_removed_vassal,
    |kind| {
        let (bed, emperor) = two(kind, |e| e.flag("emperor-graceful-shutdown"));
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("its end", |log| !log.of("a.ini", "exit").is_empty());
        let heard = bed.log().heard("a.ini").join(" ");
        emperor.stop(&bed);
        heard
    },
    "2"
);

/// What both vassals hear when the emperor is ended by a signal, and the emperor's exit status.
fn ended(kind: Kind, signal: Signal, options: impl Fn(Builder) -> Builder) -> String {
    let (bed, mut emperor) = two(kind, options);
    emperor.signal(signal);
    let status = emperor.end();
    bed.nothing_left();
    let log = bed.log();
    format!("{} | {} | {:?}", log.heard("a.ini").join(" "), log.heard("b.ini").join(" "), status.code())
}

parity!(sigterm_stops_all, |kind| ended(kind, Signal::SIGTERM, |e| e), "0 | 0 | Some(0)");
parity!(sigint_stops_all, |kind| ended(kind, Signal::SIGINT, |e| e), "0 | 0 | Some(0)");
parity!(sigquit_stops_all, |kind| ended(kind, Signal::SIGQUIT, |e| e), "0 | 0 | Some(0)");
parity!(
    sigterm_stops_all_gracefully,
    |kind| ended(kind, Signal::SIGTERM, |e| e.flag("emperor-graceful-shutdown")),
    "2 | 2 | Some(0)"
);
parity!(
    sigterm_with_die_on_term,
    |kind| ended(kind, Signal::SIGTERM, |e| e.flag("die-on-term")),
    "0 | 0 | Some(0)"
);

parity!(
    /// `b.ini` never stops; it is killed when the mercy ends, and the status is 0 all the same.
    mercy_of_the_shutdown,
    |kind| {
        let bed = Bed::new();
        for name in ["a.ini", "b.ini"] {
            bed.vassal(name);
        }
        bed.script("b.ini", "say=1,5,17 deaf immune linger");
        let mut emperor = Builder::new(&bed, kind).opt("reload-mercy", "2").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1 && log.said("b.ini", 17) == 1);
        let begin = std::time::Instant::now();
        emperor.signal(Signal::SIGTERM);
        let code = emperor.end().code();
        let took = begin.elapsed();
        bed.nothing_left();
        assert!(took >= std::time::Duration::from_millis(1900), "{took:?}\n{}", bed.report());
        (code, bed.log().heard("b.ini").join(" "), emperor.lines("NO MERCY").len())
    },
    (Some(0), "0".to_owned(), 1)
);

parity!(
    sighup_reloads_all,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        emperor.signal(Signal::SIGHUP);
        bed.until("both told", |log| log.got("a.ini", 1) == 1 && log.got("b.ini", 1) == 1);
        emperor.signal(Signal::SIGHUP);
        bed.until("both told", |log| log.got("a.ini", 1) == 2 && log.got("b.ini", 1) == 2);
        let log = bed.log();
        let respawns = ["a.ini", "b.ini"].map(|n| emperor.stats_of(n).expect("a row")["respawns"].clone());
        emperor.stop(&bed);
        (log.execs("a.ini").len() + log.execs("b.ini").len(), respawns)
    },
    (2, [serde_json::json!(2), serde_json::json!(2)])
);

parity!(
    sigwinch_looks_at_once,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::bare(&bed, kind).on(bed.v()).opt("emperor-freq", "600").witnessed().start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        bed.vassal("b.ini");
        emperor.nudge();
        bed.started("b.ini", 1);
        let heard = bed.log().heard("a.ini").join(" ");
        emperor.stop(&bed);
        heard
    },
    ""
);

parity!(
    sigusr1_lists_and_tells_nothing,
    |kind| {
        let (bed, emperor) = two(kind, |e| e);
        emperor.signal(Signal::SIGUSR1);
        emperor.wait_log("vassal instance a.ini");
        emperor.wait_log("vassal instance b.ini");
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("the stop", |log| log.got("a.ini", 0) == 1);
        let lines = emperor.lines("last modified");
        let heard = bed.log().heard("a.ini").join(" ");
        emperor.stop(&bed);
        // uWSGI lists them as the directory has them, which is another order on another file system.
        let mut lines: Vec<String> = lines.iter().map(|line| listed(line)).collect();
        lines.sort();
        (heard, lines)
    },
    (
        "0".to_owned(),
        vec![
            "vassal instance a.ini (last modified TIME) status 0 loyal 1 zerg 0".to_owned(),
            "vassal instance b.ini (last modified TIME) status 0 loyal 1 zerg 0".to_owned(),
        ]
    )
);

/// A line without its date, and with the time in it replaced where it is one.
fn listed(line: &str) -> String {
    let line = line.split_once(" - ").map_or(line, |(_, message)| message);
    let words = line.split(' ').map(|w| match w.strip_suffix(')').map(str::parse::<u64>) {
        Some(Ok(_)) => "TIME)",
        _ => w,
    });
    words.collect::<Vec<_>>().join(" ")
}

parity!(
    /// Byte 22 of a vassal without a socket on demand: stopped, and started again since its file is there.
    a_vassal_that_asks_to_be_stopped,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,22");
        let emperor = Builder::new(&bed, kind).start();
        bed.until("its end", |log| !log.of("a.ini", "exit").is_empty());
        let heard = bed.log().heard("a.ini").join(" ");
        bed.script("a.ini", "say=1,5,17");
        emperor.stop(&bed);
        heard
    },
    "0"
);

parity!(
    bytes_without_a_meaning_are_ignored,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=0,99,255,2,30,3,1,5,17");
        let emperor = Builder::new(&bed, kind).stats().start();
        emperor.wait_stats("loyal", |_| emperor.stats_of("a.ini").filter(|v| v["loyal"] == 1));
        let log = bed.log();
        emperor.stop(&bed);
        (log.heard("a.ini").join(" "), log.execs("a.ini").len())
    },
    (String::new(), 1)
);
