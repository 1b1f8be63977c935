//! The most usual failures, with the real thing where there is one: what `status` and `why` say of each, and whether a
//! tired person could act on it.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::emperor::{Builder, Kind};
use support::{Bed, PATIENCE, poll, root, skip};

const ALICE: u32 = 61_717;

fn emperor(bed: &Bed, builder: Builder) -> Builder {
    builder.opt("emperor-control", bed.path("control.sock")).opt("emperor-runtime-dir", bed.path("run"))
}

/// An emperor on `v/` with real engines.
fn real(bed: &Bed) -> Builder {
    emperor(bed, Builder::bare(bed, Kind::Ours).on(bed.v()).quick())
}

fn client(bed: &Bed, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(words).env_clear().env("EMPEROR_CONTROL", bed.path("control.sock")).stdin(Stdio::null());
    command.output().expect("the client")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is said of a vassal that fails: its line in `status` and all of `why` hold these words.
fn fails(bed: &Bed, name: &str, in_status: &str, in_why: &[&str]) -> String {
    let line = || {
        let all = text(&client(bed, &["status", name]));
        all.lines().nth(1).filter(|line| line.contains(in_status)).map(str::to_owned)
    };
    let line = poll(PATIENCE, line)
        .unwrap_or_else(|| panic!("{}\n{}", text(&client(bed, &["status"])), bed.report()));
    let unwell = || Some(client(bed, &["why", name])).filter(|why| why.status.code() == Some(4));
    let why = text(&poll(PATIENCE, unwell).expect("one that is not well"));
    for words in in_why {
        assert!(why.contains(words), "{words:?} is not in\n{line}\n{why}");
    }
    assert!(why.contains("What comes next: ") && why.contains("What you can do:\n  - "), "{why}");
    why
}

fn python() -> bool {
    let there = Path::new("/usr/lib/uwsgi/plugins/python3_plugin.so").exists();
    if !there || Kind::Real.program().is_none() {
        skip("uWSGI and its plugin for Python are not installed");
    }
    there && Kind::Real.program().is_some()
}

#[test]
fn a_missing_module_a_port_in_use_a_wrong_user_and_a_broken_file_are_told_apart() {
    if !python() {
        return;
    }
    let bed = Bed::new();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("its address");
    let vassal = |name: &str, lines: &str| bed.write(format!("v/{name}"), format!("[uwsgi]\n{lines}\n"));
    let emperor = real(&bed).opt("emperor-max-throttle", "600000").opt("emperor-throttle", "60000").start();
    // One after the other: they write to one log, and each tells its reason once more after a minute.
    vassal("module.ini", "plugin = python3\nneed-app = true\nwsgi = nothing_here:app\nsocket = module.sock");
    let module = "exited with status 22: uWSGI cannot load its application";
    let why = fails(
        &bed,
        "module.ini",
        "failures in a row",
        &[
            module,
            "its file was found",
            "its process was made (process ",
            "No module named 'nothing_here'",
            "a module of the application is missing",
            "it is started again in ",
            "emperor start module.ini",
        ],
    );
    assert!(!why.contains("[emperor]"), "the emperor's own lines are left out: {why}");
    vassal("port.ini", &format!("master = true\nsocket = {port}"));
    fails(&bed, "port.ini", "failures in a row", &["ddress already in use", "ss -lptn"]);
    vassal("user.ini", "uid = nobody-of-this-name\nsocket = user.sock");
    fails(&bed, "user.ini", "failures in a row", &["mend uid and gid"]);
    vassal("broken.ini", "strict = true\nsocket = broken.sock\nproceses = 4");
    let why = fails(&bed, "broken.ini", "exited with status 1: uWSGI refuses", &["broken.ini:4", "proceses"]);
    assert!(why.contains("mend it and look at it by `emperor check "), "{why}");
    // What is mended is well at once, and its story says so.
    vassal("broken.ini", "strict = true\nsocket = broken.sock\nprocesses = 1");
    let well =
        poll(PATIENCE, || (client(&bed, &["why", "broken.ini"]).status.code() == Some(0)).then_some(()));
    let told = text(&client(&bed, &["why", "broken.ini"]));
    assert!(well.is_some() && told.contains("its file has changed: it is another file"), "{told}");
    assert!(!told.contains("What you can do"), "{told}");
    emperor.stop(&bed);
}

#[test]
fn a_missing_engine_a_hang_a_jail_that_cannot_be_and_a_crash_loop_are_told_apart() {
    let bed = Bed::new();
    let vassal = |name: &str, lines: &str| bed.write(format!("v/{name}"), format!("[uwsgi]\n{lines}\n"));
    vassal("engine.ini", "command = /nonexistent/gunicorn app:app");
    vassal("hang.ini", "command = /bin/sleep 1000\nready-check = notify\nstart-timeout = 1");
    vassal("jail.ini", "command = /bin/sleep 1000\nchdir = /nonexistent/place");
    vassal("loop.ini", "command = /bin/sh -c 'echo connection to the database refused >&2; exit 3'");
    vassal("word.ini", "command = /bin/sleep 1000\nsandbox = strct");
    vassal("option.ini", "command = /bin/sleep 1000\nprotect-sytem = full");
    let emperor = real(&bed).start();
    fails(
        &bed,
        "engine.ini",
        "/nonexistent/gunicorn",
        &[
            "No such file or directory",
            "the program that is to run it is missing",
            "emperor start engine.ini",
        ],
    );
    fails(
        &bed,
        "hang.ini",
        "failures in a row",
        &["it was not ready within 1 s: it has not sent READY=1", "raise start-timeout"],
    );
    fails(&bed, "jail.ini", "cannot enter its directory: /nonexistent/place", &["(ENOENT)", "jail.ini"]);
    fails(
        &bed,
        "loop.ini",
        "exited with status 3",
        &["connection to the database refused", "read its last lines above", "with each failure in a row"],
    );
    fails(&bed, "word.ini", "is wanted; this is `strct`: did you mean `strict`?", &["word.ini:3: sandbox: "]);
    // That one runs, and not as its file was meant.
    let told = text(&client(&bed, &["why", "option.ini"]));
    let meant =
        "option.ini:3: protect-sytem is no option and nothing refers to it: did you mean `protect-system`?";
    assert!(told.contains("running") && told.contains(meant), "{told}");
    emperor.wait_log(meant);
    assert_eq!(client(&bed, &["status"]).status.code(), Some(4));
    // Nobody needs to look after what is stopped by hand.
    assert_eq!(client(&bed, &["stop", "loop.ini"]).status.code(), Some(0));
    let why = poll(PATIENCE, || {
        Some(client(&bed, &["why", "loop.ini"])).filter(|why| why.status.code() == Some(0))
    });
    let why = text(&why.unwrap_or_else(|| panic!("{}", bed.report())));
    assert!(why.contains("stop by hand") && why.contains("start it: emperor start loop.ini"), "{why}");
    let unknown = client(&bed, &["why", "nobody.ini"]);
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!((unknown.status.code(), told.as_str()), (Some(1), "emperor: there is no vassal nobody.ini\n"));
    emperor.stop(&bed);
}

#[test]
fn root_a_socket_that_may_not_be_made_and_a_file_of_roots_are_told_apart() {
    if !root() || Kind::Real.program().is_none() {
        return;
    }
    let bed = Bed::new();
    fs::create_dir(bed.path("closed")).expect("a directory");
    fs::set_permissions(bed.path("closed"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let socket = bed.path("closed/a.sock");
    let part = bed.write(".new", format!("[uwsgi]\nmaster = true\nsocket = {}\n", socket.display()));
    lchown(&part, Some(ALICE), Some(ALICE)).expect("its owner");
    fs::rename(part, bed.path("v/alice.ini")).expect("a vassal's file");
    bed.vassal("root.ini");
    let emperor = real(&bed).flag("emperor-tyrant").start();
    fails(&bed, "alice.ini", "failures in a row", &["ermission denied", "namei -l"]);
    fails(
        &bed,
        "root.ini",
        "its file belongs to root",
        &["`chown USER:GROUP` the file", "it starts when its file"],
    );
    // A tenant is told of his own, without the log in which others write.
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={ALICE}"), format!("--regid={ALICE}"), "--clear-groups".into()]);
    command.arg(env!("CARGO_BIN_EXE_emperor")).args(["why", "--json", "alice.ini"]).current_dir("/");
    let why = command.env("EMPEROR_CONTROL", bed.path("control.sock")).output().expect("setpriv");
    let why: Value = serde_json::from_slice(&why.stdout).unwrap_or_else(|e| panic!("{e}: {why:?}"));
    assert_eq!(
        (&why["output"]["lines"], why["vassal"]["uid"].as_u64()),
        (&Value::Array(vec![]), Some(ALICE.into()))
    );
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={ALICE}"), format!("--regid={ALICE}"), "--clear-groups".into()]);
    command.arg(env!("CARGO_BIN_EXE_emperor")).args(["events"]).current_dir("/");
    let events = command.env("EMPEROR_CONTROL", bed.path("control.sock")).output().expect("setpriv");
    assert!(text(&events).contains("alice.ini") && !text(&events).contains("root.ini"), "{events:?}");
    emperor.stop(&bed);
}

#[test]
fn root_a_vassal_that_takes_too_much_memory_is_told_so() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let glutton = "command = /usr/bin/python3 -c 'b = bytearray(1 << 28)'\nmemory-max = 32M";
    bed.write("v/glutton.ini", format!("[uwsgi]\n{glutton}\n"));
    let emperor = real(&bed).start();
    let failed = poll(PATIENCE, || {
        let log = emperor.log();
        (log.contains("out of memory") || log.contains("cannot be started") || log.contains("not enforced"))
            .then_some(log)
    });
    if !failed.is_some_and(|log| log.contains("out of memory")) {
        skip(&format!("no controller of memory for us here: {:?}", emperor.lines("not enforced")));
        return emperor.stop(&bed);
    }
    fails(&bed, "glutton.ini", "out of memory (memory-max 32M", &["raise memory-max"]);
    emperor.stop(&bed);
}

/// Reads lines of `emperor events -f` until one holds these words.
fn until(lines: &mut impl BufRead, words: &str) -> String {
    let mut line = String::new();
    while lines.read_line(&mut line).expect("more lines") > 0 {
        if line.contains(words) {
            return line;
        }
        line.clear();
    }
    panic!("the events ended before {words:?}");
}

fn follow(bed: &Bed, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(["events", "--json", "-f"]).args(words).env_clear().stdin(Stdio::null());
    command
        .env("EMPEROR_CONTROL", bed.path("control.sock"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client")
}

#[test]
fn events_are_followed_by_name_and_survive_a_renewal() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.vassal("b.ini");
    let emperor = emperor(&bed, Builder::new(&bed, Kind::Ours)).start();
    let first = bed.started("a.ini", 1);
    bed.started("b.ini", 1);
    let mut child = follow(&bed, &["a.ini"]);
    let mut lines = BufReader::new(child.stdout.take().expect("its output"));
    until(&mut lines, "its file was found");
    let started = until(&mut lines, "\"kind\":\"started\"");
    assert!(started.contains(&format!("\"pid\":{first}")), "{started}");
    let before = text(&client(&bed, &["events", "--json"]));
    emperor.renew(&bed);
    let after = text(&client(&bed, &["events", "--json"]));
    assert!(after.starts_with(&before), "{before}\n{after}");
    assert_eq!(client(&bed, &["restart", "b.ini", "a.ini"]).status.code(), Some(0));
    // The client has found its way to the next program, tells nothing twice, and nothing of others.
    let line = until(&mut lines, "");
    assert!(line.contains("restart by hand") || line.contains("\"id\":\"a.ini\""), "{line}");
    until(&mut lines, "\"kind\":\"started\"");
    let status = client(&bed, &["events", "nobody.ini"]);
    assert_eq!((status.status.code(), text(&status)), (Some(0), String::new()));
    emperor.stop(&bed);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("its end");
    assert!(!rest.contains("b.ini"), "{rest}");
    assert_eq!(child.wait().expect("its end").code(), Some(3), "the emperor is gone");
}

#[test]
fn who_follows_and_does_not_read_is_cut_off_and_delays_nobody() {
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17");
    bed.vassal("a.ini");
    let emperor = emperor(&bed, Builder::new(&bed, Kind::Ours)).start();
    bed.started("a.ini", 1);
    let mut deaf = UnixStream::connect(bed.path("control.sock")).expect("the control socket");
    deaf.write_all(b"GET /v1/events?follow HTTP/1.0\r\n\r\n").expect("a request");
    let begin = Instant::now();
    // Each is an event, and there are more of them than fit anywhere.
    for _ in 0..6 {
        let mut stream = UnixStream::connect(bed.path("control.sock")).expect("the control socket");
        stream.write_all(b"POST /v1/vassals/a.ini/clear HTTP/1.0\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(" 200 "), "{answer}");
    }
    let names: Vec<String> = (0..400).map(|number| format!("n{number}.ini")).collect();
    for name in &names {
        bed.vassal(name);
    }
    for name in &names {
        bed.started(name, 1);
    }
    assert!(begin.elapsed() < Duration::from_secs(35), "{:?}", begin.elapsed());
    // One who reads is served meanwhile.
    let mut child = follow(&bed, &[]);
    let mut lines = BufReader::new(child.stdout.take().expect("its output"));
    until(&mut lines, "n399.ini");
    drop(lines);
    bed.vassal("last.ini");
    bed.started("last.ini", 1);
    assert_eq!(child.wait().expect("its end").code(), Some(0), "a closed pipe is no error");
    drop(deaf);
    emperor.stop(&bed);
}
