//! `vassal-touch-reload-mode`: what all vassals do that can, and whose files do not say otherwise.

use super::support::emperor::{Builder, Kind};
use super::support::{Bed, PATIENCE, poll};

fn vassal(bed: &Bed, name: &str, lines: &str) {
    bed.write(format!("v/{name}"), format!("[uwsgi]\n{lines}"));
}

#[test]
fn all_take_turns_that_can_but_those_that_will_not() {
    let bed = Bed::new();
    let socket = |name: &str| format!("socket = {}\n", bed.path(name).display());
    let files = [
        ("can.ini", socket("can.sock")),
        ("not.ini", socket("not.sock") + "touch-reload-mode = reload\n"),
        ("two.ini", socket("two.sock") + "http-socket = 127.0.0.1:1\n"),
        ("stats.ini", socket("stats.sock") + "stats = 127.0.0.1:1\n"),
        ("none.ini", "master = true\n".to_owned()),
    ];
    files.iter().for_each(|(name, lines)| vassal(&bed, name, lines));
    vassal(&bed, "program.ini", "command = sleep 1000\n");
    let emperor = Builder::new(&bed, Kind::Ours).stats().opt("vassal-touch-reload-mode", "rolling").start();
    for (name, _) in &files {
        bed.until("all are loyal", |log| log.said(name, 17) == 1);
    }
    for (name, why) in [
        ("two.ini", "two.ini:3: http-socket: its processes take turns"),
        ("stats.ini", "stats.ini:3: stats: its processes take turns, and two cannot have this port"),
        ("none.ini", "there is no socket"),
    ] {
        let line = emperor.wait_log(&format!("vassal {name}: vassal-touch-reload-mode is left out: "));
        assert!(line.contains(why), "{line}");
    }
    files.iter().for_each(|(name, lines)| vassal(&bed, name, &format!("{lines}env = A=1\n")));
    vassal(&bed, "program.ini", "command = sleep 1001\n");
    bed.until("another process", |log| log.execs("can.ini").len() == 2 && log.heard("can.ini") == ["2"]);
    for name in ["not.ini", "two.ini", "stats.ini", "none.ini"] {
        bed.until("a reload in place", |log| log.heard(name) == ["1"] && log.execs(name).len() == 1);
    }
    emperor.wait_stats("a successor of a program", |stats| {
        stats["vassals"].as_array()?.iter().any(|row| row["id"] == "program.ini:next").then_some(())
    });
    emperor.stop(&bed);
}

/// What a vassal waits at on demand is not always what its file names: then it is as if it were not for all.
#[test]
fn one_that_another_socket_starts_reloads_in_place() {
    let bed = Bed::new();
    let other = bed.path("other.sock");
    vassal(&bed, "a.ini", &format!("socket = {}\n", bed.path("own.sock").display()));
    bed.write("v/a.ini.socket", other.to_str().expect("text"));
    let builder = Builder::new(&bed, Kind::Ours).stats().opt("emperor-on-demand-extension", ".socket");
    let emperor = builder.opt("vassal-touch-reload-mode", "rolling").start();
    poll(PATIENCE, || std::os::unix::net::UnixStream::connect(&other).ok()).expect("its socket");
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    emperor.wait_log("vassal-touch-reload-mode is left out: its file names");
    vassal(&bed, "a.ini", &format!("socket = {}\nenv = A=1\n", bed.path("own.sock").display()));
    bed.until("a reload in place", |log| log.heard("a.ini") == ["1"]);
    emperor.stop(&bed);
}

#[test]
fn a_mode_that_there_is_not_is_refused_with_its_place() {
    let bed = Bed::new();
    let ini = bed.write("emperor.ini", "[uwsgi]\nvassal-touch-reload-mode = roling\n");
    let mut emperor = Builder::new(&bed, Kind::Ours).opt("ini", ini).start();
    assert_eq!(emperor.end().code(), Some(1));
    let line = emperor.wait_log("vassal-touch-reload-mode");
    let why = "emperor.ini:2: vassal-touch-reload-mode: `reload` or `rolling` is wanted; this is `roling`: did you mean \
               `rolling`?";
    assert!(line.contains(why), "{line}");
}
