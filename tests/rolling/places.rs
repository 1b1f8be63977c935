//! Processes that take turns where vassals are somebody else's, shut in, grouped, frozen, or have processes of their own.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use super::stages::{Clients, Turns, crash, kept, signal};
use super::support::emperor::{Builder, Kind};
use super::support::manager::Manager;
use super::support::{Bed, PATIENCE, poll, root, skip};

const TENANTS: [u32; 2] = [61_811, 61_812];

/// The user of a process.
fn user(pid: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that lives");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("its user");
    line.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number")
}

/// The emperor's default, and a tenant's own word: both change processes as who they are, over a crash of the emperor.
#[test]
fn root_tenants_take_turns_as_who_they_are_and_one_may_say_otherwise() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    let turns = Turns { bed, lines: String::new() };
    let bed = &turns.bed;
    let file = |name: &str, uid: u32, lines: &str| {
        let home = bed.path(format!("home-{uid}"));
        let _ = fs::create_dir(&home); // it may be there
        chown(&home, Some(uid), Some(uid)).expect("chown");
        let text = format!("[uwsgi]\nsocket = {}/{name}.sock\n{lines}", home.display());
        let part = bed.write(".tenant", text);
        chown(&part, Some(uid), Some(uid)).expect("chown");
        fs::rename(part, bed.path("v").join(name)).expect("rename");
    };
    let start = || kept(&turns, &manager).flag("emperor-tyrant").opt("vassal-touch-reload-mode", "rolling");
    let names = ["a.ini", "b.ini"];
    for (name, uid) in names.into_iter().zip(TENANTS) {
        bed.script(name, "say=1,5,17");
        file(name, uid, "");
    }
    file("own.ini", TENANTS[0], "touch-reload-mode = reload\n");
    let emperor = start().start();
    for name in ["a.ini", "b.ini", "own.ini"] {
        bed.until("loyal", |log| log.said(name, 17) == 1);
    }
    let clients: Vec<_> = names
        .into_iter()
        .zip(TENANTS)
        .map(|(name, uid)| Clients::of(bed.path(format!("home-{uid}/{name}.sock"))))
        .collect();
    for (name, uid) in names.into_iter().zip(TENANTS) {
        bed.script(name, "say=1 wait say=5,17");
        file(name, uid, "env = A=1\n");
    }
    file("own.ini", TENANTS[0], "touch-reload-mode = reload\nenv = A=1\n");
    bed.until("its own way", |log| log.heard("own.ini") == ["1"] && log.execs("own.ini").len() == 1);
    let next = names.map(|name| bed.started(name, 2));
    for (pid, uid) in next.into_iter().zip(TENANTS) {
        turns.waits(pid);
        assert_eq!(user(pid), uid);
    }
    let next_of =
        |name: &str| emperor.stats_of(&format!("{name}:next"))?["pid"].as_i64().filter(|pid| *pid > 0);
    for name in names {
        poll(PATIENCE, || next_of(name)).expect("both are known");
    }
    let emperor = crash(start(), &manager, emperor, || {});
    next.iter().for_each(|pid| signal(*pid, Signal::SIGUSR1));
    let own = bed.started("own.ini", 1);
    turns.pids(&emperor, "all", &[("a.ini", next[0]), ("b.ini", next[1]), ("own.ini", own)]);
    for (pid, uid) in next.into_iter().zip(TENANTS) {
        assert_eq!(user(pid), uid);
    }
    clients.into_iter().for_each(|clients| clients.end(|| bed.report()));
    emperor.stop_politely(bed);
}

#[test]
fn root_they_take_turns_in_a_jail() {
    if !root() {
        return;
    }
    for level in ["standard", "strict"] {
        let mut turns = Turns::new("");
        turns.lines += &format!("sandbox = {level}\nbind = {}\n", turns.bed.root().display());
        let emperor = Builder::new(&turns.bed, Kind::Ours).stats().start();
        turns.script("say=1,5,17");
        turns.write(1);
        turns.bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        let clients = turns.clients();
        let row = |id: &str| emperor.stats_of(id)?["pid"].as_i64().filter(|pid| *pid > 0);
        let first = poll(PATIENCE, || row("a.ini")).expect("its process");
        turns.write(2);
        let done = poll(PATIENCE, || {
            let alone = emperor.stats()["vassals"].as_array()?.len() == 1;
            row("a.ini").filter(|pid| alone && *pid != first)
        });
        let second = done.unwrap_or_else(|| panic!("{level}\n{}", turns.bed.report()));
        let views = [first, second].map(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok());
        assert!(views[0].is_none() && views[1].is_some(), "{views:?}");
        assert_ne!(views[1], fs::read_link("/proc/self/ns/mnt").ok(), "it is shut in");
        clients.end(|| turns.bed.report());
        emperor.stop_politely(&turns.bed);
    }
}

const SERVER: &str = "import os, socket
server = socket.socket(fileno=3)
while True:
    client, _ = server.accept()
    client.sendall(('%d %s' % (os.getpid(), os.environ['VERSION'])).encode())
    client.close()
";

#[test]
fn root_one_that_is_frozen_thaws_and_its_place_is_taken() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let server = bed.write("server.py", SERVER);
    let write = |version: u32| {
        let lines = format!(
            "[uwsgi]\ncommand = python3 -S {}\nsocket = ../a.sock\non-demand = true\nidle = 4\n\
             touch-reload-mode = rolling\nenv = VERSION={version}\n",
            server.display()
        );
        bed.write("v/a.ini", lines);
    };
    write(1);
    let emperor = Builder::new(&bed, Kind::Ours).stats().flag("emperor-idle-freeze").start();
    let path = bed.path("a.sock");
    let ask = || -> Option<String> {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let _ = stream.flush();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text).filter(|text| !text.is_empty())
    };
    let first = poll(PATIENCE, ask).expect("an answer");
    assert!(first.ends_with(" 1"), "{first}");
    let seen = |word: &str| (!emperor.lines(word).is_empty()).then_some(());
    let frozen = poll(PATIENCE, || seen("is idle and frozen").or_else(|| seen("to on-demand mode")));
    assert!(frozen.is_some(), "{}", emperor.log());
    if emperor.lines("is idle and frozen").is_empty() {
        skip("there is no freezer for us here");
        return emperor.stop(&bed);
    }
    write(2);
    emperor.wait_log("another process starts beside vassal a.ini");
    emperor.wait_log("another process has taken the place of vassal a.ini");
    let second = ask().expect("an answer");
    assert!(second.ends_with(" 2"), "{second}");
    emperor.wait_stats("one is left", |stats| (stats["vassals"].as_array()?.len() == 1).then_some(()));
    emperor.stop(&bed);
}

/// uWSGI's own children go with the one that has started them.
#[test]
fn of_daemons_that_uwsgi_has_attached_one_of_each_is_left() {
    if Kind::Real.program().is_none() {
        return;
    }
    let turns = Turns::new("master = true\nattach-daemon = exec sleep 7654321\n");
    let bed = &turns.bed;
    let emperor = Builder::bare(bed, Kind::Ours).on(bed.v()).stats().start();
    let daemons = || bed.left().into_iter().filter(|(_, line)| line.contains("7654321")).map(|(pid, _)| pid);
    let up = || emperor.stats_of("a.ini").filter(|row| row["accepting"] == 1)?["pid"].as_i64();
    turns.write(1);
    let first = poll(PATIENCE, up).expect("it is up");
    let before = poll(PATIENCE, || daemons().next()).expect("its daemon");
    let clients = turns.clients();
    turns.write(2);
    let second = poll(PATIENCE, || {
        let alone = emperor.stats()["vassals"].as_array()?.len() == 1;
        up().filter(|pid| alone && *pid != first)
    });
    assert!(second.is_some(), "{}", bed.report());
    let after = poll(PATIENCE, || {
        Some(daemons().collect::<Vec<_>>()).filter(|all| all.len() == 1 && all[0] != before)
    });
    assert!(after.is_some(), "{:?}, before {before}", daemons().collect::<Vec<_>>());
    clients.end(|| bed.report());
    emperor.stop(bed);
}
