//! `emperor-on-demand-exec`: a command that looks for the address.

use super::*;
use std::time::{Duration, Instant};

fn asks(bed: &Bed, kind: Kind, body: &str) -> Builder {
    let command = bed.shell("ask", body);
    Builder::new(bed, kind).stats().opt("emperor-on-demand-exec", command)
}

both!(
    /// The first line counts; without one the vassal is an ordinary one, whatever the command's status.
    what_the_command_prints,
    |kind| {
        let bed = Bed::new();
        for name in ["a.ini", "two words.ini", "none.ini", "fails.ini", "line.ini"] {
            bed.vassal(name);
        }
        let body = "case \"$1\" in none.ini) ;; fails.ini) exit 3 ;; line.ini) echo; echo never.sock ;; \
                    *) printf '%s/%s.sock\\nmore\\n' \"$WITNESS_DIR\" \"$1\" ;; esac; pwd >> $WITNESS_DIR/pwd";
        let emperor = asks(&bed, kind, body).start();
        for name in ["a.ini", "two words.ini"] {
            assert_eq!(answer(call(&bed.path(format!("{name}.sock")))), "ok\n");
        }
        for name in ["none.ini", "fails.ini", "line.ini"] {
            bed.started(&name.replace(' ', "%20"), 1);
        }
        let asked_in = std::fs::read_to_string(bed.path("pwd")).expect("where it was");
        let vassals = bed.v().display().to_string();
        assert!(asked_in.lines().all(|line| line == vassals), "{asked_in}");
        emperor.stop(&bed);
    }
);

#[test]
fn weakness_13_18_a_name_is_never_part_of_a_command() {
    let bed = Bed::new();
    let names = ["$(touch pwned).ini", "`touch pwned`.ini", "\"; touch pwned; \".ini", "-n.ini", "a\nb.ini"];
    for name in names {
        bed.vassal(name);
    }
    let body = "printf '%s\\0' \"$1\" >> $WITNESS_DIR/names";
    let emperor = asks(&bed, Kind::Ours, body).start();
    for name in names {
        bed.started(&support::events::escape(name.as_bytes()), 1);
    }
    let given = std::fs::read_to_string(bed.path("names")).expect("the names");
    for name in names {
        assert!(given.split('\0').any(|other| other == name), "{given:?}");
    }
    assert!(!bed.path("v/pwned").exists() && !bed.path("pwned").exists());
    emperor.stop(&bed);
}

#[test]
fn a_command_that_takes_its_time_delays_nobody_and_not_too_many_run_at_once() {
    let bed = Bed::new();
    for n in 0..6 {
        bed.vassal(format!("{n}.ini"));
    }
    let body = "cd $WITNESS_DIR; echo begin $1 >> trace; until test -e $1.go; do sleep 0.02; done; \
                echo end $1 >> trace; echo $1.sock";
    let emperor = asks(&bed, Kind::Ours, body).opt("emperor-max-starting", "2").start();
    let trace = || std::fs::read_to_string(bed.path("trace")).unwrap_or_default();
    poll(PATIENCE, || (trace().lines().count() == 2).then_some(())).expect("two begin");
    let begin = Instant::now();
    assert_eq!(emperor.stats()["vassals"].as_array().expect("rows").len(), 6);
    assert!(begin.elapsed() < Duration::from_secs(1), "the emperor is not held up");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(trace().lines().count(), 2);
    for n in 0..6 {
        bed.write(format!("{n}.ini.go"), "");
    }
    for n in 0..6 {
        waits(&emperor, &format!("{n}.ini"));
    }
    let mut running = 0;
    for line in trace().lines() {
        running += if line.starts_with("begin") { 1 } else { -1 };
        assert!(running <= 2, "{}", trace());
    }
    emperor.stop(&bed);
}

#[test]
fn what_a_command_leaves_behind_is_not_waited_for() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    // It has the pipe open for as long as the test takes.
    let emperor = asks(&bed, Kind::Ours, "sleep 1000 & echo $1.sock").start();
    waits(&emperor, "a.ini");
    bed.vassal("b.ini");
    waits(&emperor, "b.ini");
    assert!(emperor.lines("killed").is_empty());
    let mut emperor = emperor;
    emperor.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(emperor.end().code(), Some(0));
}

#[test]
fn a_command_without_end_is_killed_with_all_it_has_started() {
    let bed = Bed::new();
    for name in ["mute.ini", "flood.ini", "pipe.ini", "good.ini"] {
        bed.vassal(name);
    }
    let body = "case $1 in mute.ini) sleep 1000 ;; flood.ini) tr '\\0' x < /dev/zero ;; pipe.ini) echo pipe.sock; sleep 1000 ;; \
                *) echo $1.sock ;; esac";
    let emperor = asks(&bed, Kind::Ours, body).opt("emperor-throttle", "3600000").start();
    let begin = Instant::now();
    waits(&emperor, "good.ini");
    waits(&emperor, "pipe.ini"); // its line is enough
    emperor.wait_log("flood.ini gets no on-demand socket");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(emperor.lines("flood.ini gets no on-demand socket")[0].len() < 500);
    let line =
        emperor.wait_log("mute.ini gets no on-demand socket: emperor-on-demand-exec has not printed a line");
    assert!(line.contains("killed"), "{line}");
    assert!(begin.elapsed() > Duration::from_secs(9), "{:?}", begin.elapsed());
    emperor.wait_log("emperor-on-demand-exec for pipe.ini is not done after 10 s and is killed");
    emperor.wait_log("emperor-on-demand-exec for flood.ini is not done after 10 s and is killed");
    let left = || {
        bed.left().into_iter().filter(|(_, line)| line.contains("sleep") || line.starts_with("tr ")).count()
    };
    poll(PATIENCE, || (left() == 0).then_some(())).unwrap_or_else(|| panic!("{:?}", bed.left()));
    emperor.stop(&bed);
}

#[test]
fn nobody_is_asked_for_a_vassal_that_is_removed_or_at_the_end() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.vassal("b.ini");
    let emperor = asks(&bed, Kind::Ours, "echo $1 >> $WITNESS_DIR/asked; sleep 1000").start();
    let asked = || std::fs::read_to_string(bed.path("asked")).unwrap_or_default().lines().count();
    poll(PATIENCE, || (asked() == 2).then_some(())).expect("both are asked for");
    bed.remove("v/a.ini");
    let sleepers = || bed.left().into_iter().filter(|(_, line)| line.contains("sleep")).count();
    poll(PATIENCE, || (sleepers() == 1).then_some(())).unwrap_or_else(|| panic!("{:?}", bed.left()));
    emperor.stop(&bed); // leaves nothing
}
