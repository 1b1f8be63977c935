//! Socket files that are taken away: by a vassal that binds its own socket, by a person, by another process.

use super::*;
use nix::sys::signal::Signal;
use std::os::unix::net::UnixListener;

fn one(kind: Kind, script: &str) -> (Bed, Emperor, std::path::PathBuf) {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    bed.script("a.ini", script);
    demand(&bed, "a.ini", path.to_str().expect("plain text"));
    let emperor = emperor(&bed, kind).start();
    waits(&emperor, "a.ini");
    (bed, emperor, path)
}

#[test]
fn a_file_that_is_removed_while_the_vassal_waits_is_made_anew_at_the_next_look() {
    let (bed, emperor, path) = one(Kind::Ours, "say=1,5,17");
    for times in 1..=2 {
        std::fs::remove_file(&path).expect("removal");
        emperor.signal(Signal::SIGWINCH);
        poll(PATIENCE, || path.exists().then_some(())).expect("a new socket");
        poll(PATIENCE, || (emperor.lines("is made anew").len() == times).then_some(())).expect("a line");
    }
    assert_eq!(answer(call(&path)), "ok\n");
    assert_eq!(bed.log().execs("a.ini").len(), 1);
    emperor.stop(&bed);
    assert!(!path.exists());
}

#[test]
fn one_that_is_removed_while_the_vassal_runs_is_made_anew_when_that_is_idle() {
    let (bed, emperor, path) = one(Kind::Ours, "say=1,5,17 after=200 say=22");
    assert_eq!(answer(call(&path)), "ok\n");
    std::fs::remove_file(&path).expect("removal");
    poll(PATIENCE, || path.exists().then_some(())).expect("a new socket");
    assert_eq!(answer(call(&path)), "ok\n");
    bed.started("a.ini", 2);
    emperor.stop(&bed);
}

#[test]
fn whoever_waits_at_a_socket_without_a_file_is_served_first() {
    let (bed, emperor, path) = one(Kind::Ours, "say=1,5,17 after=200 say=22 slow=300");
    assert_eq!(answer(call(&path)), "ok\n");
    bed.until("told to stop", |log| log.got("a.ini", 0) == 1);
    let late = call(&path);
    std::fs::remove_file(&path).expect("removal");
    assert_eq!(answer(late), "ok\n");
    poll(PATIENCE, || path.exists().then_some(())).expect("a new socket");
    assert_eq!(answer(call(&path)), "ok\n");
    emperor.stop(&bed);
}

#[test]
fn a_socket_in_its_place_that_is_served_stays_and_is_told_once() {
    let (bed, emperor, path) = one(Kind::Ours, "say=1,5,17");
    std::fs::remove_file(&path).expect("removal");
    let other = UnixListener::bind(&path).expect("a socket");
    let theirs = inode(&path);
    for _ in 0..3 {
        emperor.signal(Signal::SIGWINCH);
        emperor.wait_log("cannot be made anew");
    }
    assert_eq!(emperor.lines("cannot be made anew").len(), 1);
    assert_eq!(inode(&path), theirs);
    drop(other);
    emperor.signal(Signal::SIGWINCH);
    assert_eq!(
        poll(PATIENCE, || Some(answer(UnixStream::connect(&path).ok()?))).expect("a new socket"),
        "ok\n"
    );
    emperor.stop(&bed);
}

#[test]
fn what_somebody_else_has_put_there_is_not_removed_at_the_end() {
    let (bed, emperor, path) = one(Kind::Ours, "say=1,5,17");
    std::fs::remove_file(&path).expect("removal");
    std::fs::write(&path, "precious").expect("a file");
    emperor.stop(&bed);
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}

/// A vassal whose own file names its socket takes it away from the emperor: uWSGI unlinks and binds it.
#[test]
fn a_vassal_that_names_its_own_socket_is_told_of_and_can_be_activated_again() {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    bed.write("v/a.ini.socket", path.to_str().expect("plain text"));
    bed.script("a.ini", "say=1,5,17 after=200 say=22");
    bed.write("v/a.ini", format!("[uwsgi]\nmaster = true\nhttp-socket = {}\n", path.display()));
    demand(&bed, "b.ini", bed.path("b.sock").to_str().expect("plain text"));
    let emperor = emperor(&bed, Kind::Ours).start();
    for life in 1..=3 {
        assert_eq!(answer(call(&path)), "ok\n");
        bed.until("its end", |log| log.of("a.ini", "exit").len() == life);
        // What uWSGI does at its start: here it is done when it has ended, which leaves the same. In one step, because
        // the emperor looks when it likes: it must find neither no file nor a socket that somebody serves.
        let other = bed.path("other.sock");
        drop(UnixListener::bind(&other).expect("a socket"));
        std::fs::rename(&other, &path).expect("the other in its place");
        emperor.signal(Signal::SIGWINCH);
        poll(PATIENCE, || (emperor.lines("is made anew").len() == life).then_some(())).expect("a line");
    }
    let line = emperor.wait_log("binds its own on-demand socket");
    assert!(line.contains("a.ini:3") && line.contains("http-socket"), "{line}");
    assert_eq!(emperor.lines("binds its own").len(), 1, "once for a file, and not for b.ini");
    assert_eq!(answer(call(&bed.path("b.sock"))), "ok\n");
    emperor.stop(&bed);
}
