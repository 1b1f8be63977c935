//! Vassals whose own files say `on-demand`: their own sockets start them.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;

/// Answers everybody with its process id. It ends in peace when it hears `bye`, and crashes when it hears `die`.
const SERVER: &str = r#"
import os, select, socket, sys
there = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
link = socket.socket(fileno=int(os.environ["UWSGI_EMPEROR_FD"]))
link.send(b"\x01\x05\x11")
ticks = os.environ.get("TICKS")
while True:
    ready, _, _ = select.select([link, *there], [], [], 0.25 if ticks else None)
    if ticks: open(ticks, "ab").write(b".")
    if link in ready: sys.exit(0)
    for listener in ready:
        client, _ = listener.accept()
        word = client.recv(3)
        client.sendall(f"{os.getpid()}".encode())
        client.close()
        if word == b"bye": sys.exit(0)
        if word == b"die": os.kill(os.getpid(), 9)
"#;

pub(crate) fn serve(bed: &Bed, name: &str, lines: &str) {
    let server = bed.write("server.py", SERVER);
    let words = format!("[uwsgi]\ncommand = python3 -S {}\n{lines}", server.display());
    bed.write(format!("v/{name}"), words);
}

/// Says a word, and hears who answers.
pub(crate) fn ask(mut stream: impl Read + Write, word: &str) -> i32 {
    stream.write_all(word.as_bytes()).expect("a word");
    answer(stream).parse().expect("a process id")
}

pub(crate) fn plain(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).stats()
}

/// Waits until a vassal of that name has no process.
pub(crate) fn sleeps(emperor: &Emperor, name: &str) {
    emperor.wait_stats(&format!("{name} sleeps"), |stats| {
        let row = stats["vassals"].as_array()?.iter().find(|v| v["id"] == name)?;
        (row["pid"] == -1).then_some(())
    });
}

#[test]
fn a_program_starts_with_the_first_connection_to_any_of_its_sockets_and_keeps_them() {
    let bed = Bed::new();
    let (path, port) = (bed.path("a.sock"), free_port());
    serve(&bed, "a.ini", &format!("on-demand = true\nsocket = ../a.sock\nsocket = 127.0.0.1:{port}\n"));
    let emperor = plain(&bed).start();
    emperor.wait_log("waiting for connections on socket");
    sleeps(&emperor, "a.ini");
    let before = inode(&path);
    let first = ask(call(&path), "bye");
    sleeps(&emperor, "a.ini");
    let second = ask(call_port(port), "bye");
    assert_ne!(first, second);
    sleeps(&emperor, "a.ini");
    let third = ask(call(&path), "die"); // it was loyal, and the next one may come at once
    let fourth = ask(call(&path), "hey");
    assert!(![first, second, third].contains(&fourth));
    assert_eq!(ask(call_port(port), "hey"), fourth);
    assert_eq!(inode(&path), before);
    emperor.stop(&bed);
}

#[test]
fn an_upgrade_of_the_emperor_wakes_nobody_and_loses_nobody() {
    let bed = Bed::new();
    for name in ["a", "b"] {
        serve(&bed, &format!("{name}.ini"), &format!("on-demand = true\nsocket = ../{name}.sock\n"));
    }
    let emperor = plain(&bed).start();
    for name in ["a.ini", "b.ini"] {
        emperor.wait_log(&format!("{name} -> \"on demand\" instance detected"));
    }
    let [a, b] = ["a.sock", "b.sock"].map(|name| bed.path(name));
    let runs = ask(call(&a), "hey");
    let before = [inode(&a), inode(&b)];
    emperor.renew(&bed);
    sleeps(&emperor, "b.ini");
    assert_eq!(ask(call(&a), "hey"), runs);
    assert_eq!([inode(&a), inode(&b)], before);
    let woken = ask(call(&b), "hey");
    kill(Pid::from_raw(woken), Signal::SIGKILL).expect("kill");
    assert_ne!(ask(call(&b), "hey"), woken);
    assert_eq!(emperor.stats_of("a.ini").expect("a row")["pid"], runs);
    emperor.stop(&bed);
}

#[test]
fn a_file_that_changes_while_its_vassal_sleeps_is_followed() {
    let bed = Bed::new();
    let [a, b] = ["a.sock", "b.sock"].map(|name| bed.path(name));
    serve(&bed, "a.ini", "on-demand = true\nsocket = ../a.sock\nvacuum = true\n");
    let emperor = plain(&bed).start();
    poll(PATIENCE, || a.exists().then_some(())).expect("a socket");
    serve(&bed, "a.ini", "on-demand = true\nsocket = ../b.sock\nvacuum = true\n");
    poll(PATIENCE, || (b.exists() && !a.exists()).then_some(())).expect("the other socket");
    sleeps(&emperor, "a.ini");
    serve(&bed, "a.ini", "socket = ../b.sock\n");
    emperor.wait_stats("it runs", |s| s["vassals"][0]["pid"].as_i64().filter(|pid| *pid > 0));
    ask(call(&b), "hey");
    emperor.stop(&bed);
}

#[test]
fn a_socket_file_that_is_removed_while_it_sleeps_is_back_and_wakes_it() {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    serve(&bed, "a.ini", "on-demand = true\nsocket = ../a.sock\n");
    let emperor = plain(&bed).start();
    poll(PATIENCE, || path.exists().then_some(())).expect("a socket");
    std::fs::remove_file(&path).expect("the socket");
    ask(call(&path), "hey");
    emperor.stop(&bed);
}

#[test]
fn a_program_that_nobody_uses_goes_back_to_its_sockets_and_one_with_a_client_does_not() {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    serve(&bed, "a.ini", "on-demand = true\nidle = 1\nsocket = ../a.sock\n");
    let emperor = plain(&bed).start();
    let mut former = 0;
    for _ in 0..2 {
        let held = call(&path); // it waits for a word of this one, and for nothing else
        let pid = emperor.wait_stats("it runs", |s| s["vassals"][0]["pid"].as_i64().filter(|pid| *pid > 0));
        assert_ne!(pid, former);
        former = pid;
        std::thread::sleep(std::time::Duration::from_secs(4)); // that nothing happens can only be waited for
        assert_eq!(emperor.stats()["vassals"][0]["pid"], pid, "{}", emperor.log());
        assert_eq!(i64::from(ask(held, "hey")), pid);
        sleeps(&emperor, "a.ini");
    }
    assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
    emperor.wait_log("bringing back instance a.ini to on-demand mode");
    emperor.stop(&bed);
}

#[test]
fn vassal_on_demand_is_for_all_that_can_but_those_that_will_not() {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    serve(&bed, "a.ini", "socket = ../a.sock\n");
    serve(&bed, "b.ini", "socket = ../b.sock\non-demand = false\n");
    bed.write("v/c.ini", "[uwsgi]\ncommand = sleep 1000\n");
    let emperor = plain(&bed).flag("vassal-on-demand").start();
    let pid = |name: &str| emperor.stats_of(name)?["pid"].as_i64().filter(|pid| *pid > 0);
    for name in ["b.ini", "c.ini"] {
        poll(PATIENCE, || pid(name)).unwrap_or_else(|| panic!("{name} does not run\n{}", emperor.log()));
    }
    emperor.wait_log("c.ini: vassal-on-demand is left out: ");
    assert_eq!(pid("a.ini"), None);
    ask(call(&path), "hey");
    emperor.stop(&bed);
}

#[test]
fn what_cannot_be_bound_is_told_to_both_and_tried_again() {
    let bed = Bed::new();
    let [a, gone] = ["a.sock", "gone/x.sock"].map(|name| bed.path(name));
    serve(&bed, "a.ini", &format!("on-demand = true\nsocket = {}\n", a.display()));
    let emperor = plain(&bed).start();
    poll(PATIENCE, || a.exists().then_some(())).expect("a socket");
    for (name, kind) in [("b.ini", "command"), ("c.ini", "uwsgi")] {
        let lines = format!("on-demand = true\nsocket = {}\n", a.display());
        if kind == "command" {
            serve(&bed, name, &lines)
        } else {
            drop(bed.write(format!("v/{name}"), format!("[uwsgi]\n{lines}")))
        };
        poll(PATIENCE, || emperor.lines("vassal a.ini has it").into_iter().find(|line| line.contains(name)))
            .unwrap_or_else(|| panic!("{name}\n{}", emperor.log()));
    }
    let long = "x".repeat(103);
    for (address, why) in [
        (gone.to_str().expect("text"), "make its directory"),
        (&format!("/{long}"), "longer than the 102 bytes"),
        ("127.0.0.1:70000", "no port between 0 and 65535"),
        ("198.51.100.7:80", "no interface of this machine has it"),
        ("run/x.sock", "write a whole path"),
    ] {
        bed.write("v/d.ini", format!("[uwsgi]\nmaster = true\non-demand = true\nsocket = {address}\n"));
        poll(PATIENCE, || emperor.lines(why).into_iter().find(|line| line.contains("d.ini")))
            .unwrap_or_else(|| panic!("{why}\n{}", emperor.log()));
    }
    // The cause goes away, and it is tried again without anybody's doing.
    bed.write("v/d.ini", format!("[uwsgi]\nmaster = true\non-demand = true\nsocket = {}\n", gone.display()));
    emperor.wait_stats("a pause", |stats| {
        (stats["blacklist"].as_array()?.iter().any(|row| row["id"] == "d.ini")).then_some(())
    });
    std::fs::create_dir(bed.path("gone")).expect("a directory");
    poll(PATIENCE, || gone.exists().then_some(())).unwrap_or_else(|| panic!("{}", emperor.log()));
    emperor.stop(&bed);
}

#[test]
fn a_vassal_of_uwsgi_has_its_first_socket_as_standard_input_and_is_told_its_kind() {
    let bed = Bed::new();
    let path = bed.path("a.sock");
    bed.script("a.ini", "say=1,5,17 after=100 say=22");
    let lines = format!(
        "on-demand = true\nhttp-socket = {}\nkill-on-idle = true\nchmod-socket = 640\n",
        path.display()
    );
    bed.write("v/a.ini", format!("[uwsgi]\nmaster = true\n{lines}"));
    let emperor = plain(&bed).start();
    for life in 1..=2 {
        waits(&emperor, "a.ini");
        assert_eq!(answer(call(&path)), "ok\n");
        bed.until("its end", |log| log.of("a.ini", "exit").len() == life);
        let argv = bed.given("a.ini", life).argv;
        assert_eq!(argv[1..], ["--http-socket", "fd://0", "--die-on-idle", "--ini", "a.ini"]);
    }
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it").permissions()) & 0o777,
        0o640
    );
    assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_socket_is_made_with_his_rights_and_low_ports_are_refused() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let home = bed.path("home");
    std::fs::create_dir(&home).expect("a directory");
    let tenants = |name: &str, lines: &str| {
        let fresh = bed.write("fresh", format!("[uwsgi]\nmaster = true\non-demand = true\n{lines}"));
        std::os::unix::fs::chown(&fresh, Some(61_415), Some(61_415)).expect("chown");
        std::fs::rename(fresh, bed.v().join(name)).expect("a rename");
    };
    std::os::unix::fs::chown(&home, Some(61_415), Some(61_415)).expect("chown");
    bed.script("a.ini", "say=1,5,17");
    let emperor = plain(&bed).flag("emperor-tyrant").start();
    let path = home.join("a.sock");
    tenants("a.ini", &format!("socket = {}\n", path.display()));
    assert_eq!(answer(call(&path)), "ok\n");
    assert_eq!(std::fs::metadata(&path).expect("a socket").uid(), 61_415);
    tenants("b.ini", "socket = 127.0.0.1:81\n");
    emperor.wait_log("a tenant may not have a port below 1024");
    tenants("c.ini", "socket = /run/mallory.sock\n");
    emperor.wait_log("user 61415 must be allowed to make it");
    emperor.stop(&bed);
}
