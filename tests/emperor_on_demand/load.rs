//! A program's own sockets under clients that connect without a pause, through all that can happen to it.

use super::own::plain;
use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::load::{Load, Target};

/// Answers each client with its process id. It ends after an answer only: told to, or in peace when it hears `bye`.
const SERVER: &str = r#"
import os, select, signal, socket, sys
there = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
told, tell = os.pipe()
os.set_blocking(tell, False)
signal.set_wakeup_fd(tell)
signal.signal(signal.SIGTERM, lambda *_: None)
link = socket.socket(fileno=int(os.environ["UWSGI_EMPEROR_FD"]))
link.send(b"\x01\x05\x11")
while True:
    ready, _, _ = select.select([told, *there], [], [])
    if told in ready: sys.exit(0)
    for listener in ready:
        client, _ = listener.accept()
        word = client.recv(3)
        client.sendall(f"{os.getpid()}".encode())
        client.close()
        if word == b"bye": sys.exit(0)
"#;

#[test]
fn activation_reload_peaceful_end_crash_and_back_off_refuse_and_reset_nobody() {
    const ROUNDS: usize = 4;
    const DEATHS: usize = 6; // in a row: the fourth and each after it brings a pause
    let bed = Bed::new();
    let (path, port) = (bed.path("a.sock"), free_port());
    let server = bed.write("server.py", SERVER);
    let text = format!(
        "[uwsgi]\ncommand = python3 -S {}\non-demand = true\nsocket = ../a.sock\nsocket = 127.0.0.1:{port}\nlisten = 100\n",
        server.display()
    );
    bed.write("v/a.ini", &text);
    let emperor = plain(&bed).opt("emperor-throttle", "100").start();
    poll(PATIENCE, || path.exists().then_some(())).expect("a socket");
    let before = inode(&path);
    let at = [Target::File(path.clone()), Target::Port(port)];
    let loads = at.each_ref().map(|target| Load::new(target, "hey", 2));
    // Some of these come to a process that is killed at once.
    let answers = |word: &str| poll(PATIENCE, || at[0].ask(word).ok()?.parse().ok()).expect("an answer");
    let other =
        |than: i32| poll(PATIENCE, || Some(answers("hey")).filter(|pid| *pid != than)).expect("a successor");
    let mut pid = answers("hey");
    for round in 1..=ROUNDS {
        bed.write("v/a.ini", format!("{text}; {round}\n"));
        other(pid);
        let ended = answers("bye"); // at its socket, somebody waits already
        pid = other(ended);
    }
    for _ in 0..DEATHS {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        pid = other(pid);
    }
    let told = loads.map(Load::end);
    assert!(
        told.iter().all(|told| told.refused.is_empty() && told.answered > ROUNDS * 5),
        "{told:?}\n{}",
        emperor.log()
    );
    // One process answers one client at a time, and each sudden death takes that one along at most.
    assert!(told.iter().map(|told| told.lost).sum::<usize>() <= DEATHS, "{told:?}\n{}", emperor.log());
    assert!(!emperor.lines("is started again in").is_empty(), "no pause was seen\n{}", emperor.log());
    assert_eq!(inode(&path), before);
    emperor.stop(&bed);
}
