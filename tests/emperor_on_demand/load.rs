//! A program's own sockets under clients that connect without a pause, through all that can happen to it.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::own::plain;
use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

#[derive(Default)]
struct Counts {
    over: AtomicBool,
    answered: AtomicUsize,
    /// Taken by a process that was killed before it answered.
    lost: AtomicUsize,
    refused: Mutex<Vec<ErrorKind>>,
}

fn ask<S: Read + Write>(
    connect: impl Fn() -> std::io::Result<S>,
    word: &str,
    counts: &Counts,
) -> Option<i32> {
    let mut stream = match connect() {
        Ok(stream) => stream,
        Err(error) => {
            counts.refused.lock().expect("a list").push(error.kind());
            return None;
        }
    };
    let mut text = String::new();
    let heard = stream.write_all(word.as_bytes()).and_then(|()| stream.read_to_string(&mut text));
    let pid = heard.ok().and_then(|_| text.parse().ok());
    (if pid.is_some() { &counts.answered } else { &counts.lost }).fetch_add(1, Ordering::Relaxed);
    pid
}

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
    let at_path = {
        let path = path.clone();
        move || {
            let stream = std::os::unix::net::UnixStream::connect(&path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        }
    };
    let at_port = move || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let counts = Arc::new(Counts::default());
    let client = |tcp: bool| {
        let (counts, at_path) = (Arc::clone(&counts), at_path.clone());
        std::thread::spawn(move || {
            while !counts.over.load(Ordering::Relaxed) {
                if tcp {
                    ask(at_port, "hey", &counts)
                } else {
                    ask(&at_path, "hey", &counts)
                };
            }
        })
    };
    let clients: Vec<_> = [false, false, true, true].into_iter().map(client).collect();
    let own = Counts::default();
    let answers = |word: &str| poll(PATIENCE, || ask(&at_path, word, &own)).expect("an answer");
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
    counts.over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    for counts in [&counts, &own] {
        let refused = counts.refused.lock().expect("a list");
        assert!(refused.is_empty(), "{refused:?}\n{}", emperor.log());
    }
    // One process answers one client at a time, and each sudden death takes that one along at most.
    let lost = counts.lost.load(Ordering::Relaxed) + own.lost.load(Ordering::Relaxed);
    assert!(lost <= DEATHS, "{lost} lost\n{}", emperor.log());
    assert!(counts.answered.load(Ordering::Relaxed) > ROUNDS * 10);
    assert!(!emperor.lines("is started again in").is_empty(), "no pause was seen\n{}", emperor.log());
    assert_eq!(inode(&path), before);
    emperor.stop(&bed);
}
