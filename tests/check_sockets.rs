//! `emperor check`: what it tells of the sockets that files name.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What is told of these files, and the status.
fn check(dir: &Path, files: &[(&str, &str)], arguments: &[&str]) -> (String, Option<i32>) {
    for (name, lines) in files {
        std::fs::write(dir.join(name), format!("[uwsgi]\n{lines}\n")).expect("a file");
    }
    let done = Command::new(env!("CARGO_BIN_EXE_emperor"))
        .arg("check")
        .args(arguments)
        .args(files.iter().map(|(name, _)| name))
        .current_dir(dir)
        .output()
        .expect("the program runs");
    (String::from_utf8(done.stdout).expect("text"), done.status.code())
}

#[test]
fn each_bad_address_is_told_with_its_place_and_what_helps() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("plain"), "precious").expect("a file");
    let long = "x".repeat(150);
    let long = format!("command = a\nsocket = {long}");
    let cases = [
        (
            "command = a\nsocket = 127.0.0.1:70000",
            "socket: `127.0.0.1:70000` has no port between 0 and 65535",
        ),
        ("command = a\nsocket = ::1:80", "write `[::1]:80`"),
        ("command = a\nsocket = @", "socket: the address is empty; write IP:PORT"),
        ("command = a\nsocket =", "a.ini:3: error: invalid/empty uwsgi socket name"),
        ("command = a\nsocket = nobody.invalid:80", "mend the name, or write the address"),
        (&*long, "choose a shorter one"),
        ("command = a\nsocket = no/a.sock", "a.ini:3: warning: socket = no/a.sock: its directory "),
        ("command = a\nsocket = plain/a.sock", "plain is no directory"),
        (
            "command = a\nsocket = plain",
            "a.ini:3: warning: socket = plain: a file that is no socket is in the way",
        ),
        ("http-socket = 127.0.0.1:70000", "a.ini:2: warning: http-socket = 127.0.0.1:70000: "),
        ("socket = no/a.sock", "    mkdir "),
        ("on-demand = true\nsocket = 127.0.0.1:http", "launch  cannot be started: a.ini:3: socket: "),
    ];
    for (lines, words) in cases {
        let (told, status) = check(dir.path(), &[("a.ini", lines)], &[]);
        assert!(told.contains(words), "{lines}: no `{words}` in\n{told}");
        assert!(!told.contains("no problems"), "{told}");
        assert_eq!(status, Some(1), "{told}");
        let is_command = lines.starts_with("command");
        assert_eq!(told.contains("engine  a (command)"), is_command, "{told}");
    }
    let (told, status) = check(dir.path(), &[("a.ini", "command = a\nsocket = good.sock")], &[]);
    assert!(told.ends_with("no problems\n") && status == Some(0), "{told}");
}

#[test]
fn two_files_that_name_one_socket_are_both_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = [
        ("a.ini", "command = a\nsocket = one.sock"),
        ("b.ini", "http-socket = ./one.sock"),
        ("c.ini", "command = a\nsocket = 127.0.0.1:8099"),
        ("d.ini", "socket = :8099"),
        ("e.ini", "socket = e.sock"),
    ];
    let (told, status) = check(dir.path(), &files, &[]);
    for line in [
        "a.ini:3: warning: socket = one.sock: b.ini names it as well (b.ini:2)",
        "b.ini:2: warning: http-socket = ./one.sock: a.ini names it as well (a.ini:3)",
        "c.ini:3: warning: socket = 127.0.0.1:8099: d.ini names it as well (d.ini:2)",
        "d.ini:2: warning: socket = :8099: c.ini names it as well (c.ini:3)",
    ] {
        assert!(told.contains(line), "no `{line}` in\n{told}");
    }
    assert_eq!((told.matches("as well").count(), status), (4, Some(1)), "{told}");
}

#[test]
fn root_what_its_user_may_not_bind_is_told() {
    if !nix::unistd::geteuid().is_root() {
        return; // nobody else can find out
    }
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let lines = "command = a\nsocket = a.sock\nsocket = :1";
    let (told, _) = check(dir.path(), &[("a.ini", lines)], &["--uid", "61000"]);
    assert!(told.contains("socket = a.sock: user 61000 may not make it in "), "{told}");
    assert!(told.contains("socket = :1: a port below "), "{told}");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let (told, _) = check(dir.path(), &[("a.ini", "command = a\nsocket = a.sock")], &["--uid", "61000"]);
    assert!(told.ends_with("no problems\n"), "{told}");
}
