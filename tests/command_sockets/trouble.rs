//! What cannot be had is told in words: the address, the cause, and what helps.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn two_vassals_that_name_one_socket_are_both_told_and_the_first_keeps_it() {
    let bed = bed();
    let (path, port) = (bed.path("a.sock"), free_port());
    serve(&bed, "a.ini", &format!("socket = ../a.sock\nsocket = 127.0.0.1:{port}\n"));
    let emperor = emperor(&bed).opt("emperor-throttle", "100").start();
    let (pid, _) = answer(&bed, || at_path(&path));
    serve(&bed, "b.ini", "http-socket = ../a.sock\n");
    let line = emperor.wait_log("vassal b.ini cannot be started: http-socket = ");
    assert!(
        line.contains("a.sock") && line.contains("vassal a.ini has it, choose another address"),
        "{line}"
    );
    emperor.wait_log("vassal a.ini keeps the socket");
    serve(&bed, "c.ini", &format!("socket = :{port}\n"));
    let line = emperor.wait_log("vassal c.ini cannot be started: socket = 0.0.0.0:");
    assert!(line.contains("vassal a.ini has it"), "{line}");
    assert_eq!(answer(&bed, || at_path(&path)).0, pid);
    bed.remove("v/a.ini");
    bed.write("v/c.ini", "[uwsgi]\ncommand = sleep 1000\n");
    successor(&bed, pid, || at_path(&path)); // it is tried again
    assert_eq!(at_path(&path).expect("an answer").1, "http-socket");
    assert_eq!(emperor.lines("vassal b.ini cannot be started").len(), 1, "told once\n{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn each_cause_is_named_with_what_helps() {
    let bed = bed();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("its number").port();
    bed.write("plain", "precious");
    let long = "x".repeat(200);
    let cases = [
        (
            "used",
            format!("socket = 127.0.0.1:{port}"),
            "Address already in use (os error 98); end that process",
        ),
        ("file", "socket = ../plain".into(), "a file that is no socket is in the way; remove that file"),
        (
            "none",
            "socket = ../nowhere/a.sock".into(),
            "No such file or directory (os error 2); make its directory",
        ),
        (
            "long",
            format!("socket = {long}"),
            "is longer than the 102 bytes that a unix socket's path may have",
        ),
        ("port", "http-socket = 127.0.0.1:65536".into(), "has no port between 0 and 65535"),
        ("host", "socket = 192.0.2.1:9999".into(), "(os error 99); no interface of this machine has it"),
        ("queue", "socket = ../q.sock\nlisten = 65535".into(), "is more than net.core.somaxconn allows"),
        ("tls", "https-socket = :1,a.crt,a.key".into(), "only uWSGI itself serves TLS"),
        ("six", "socket = ::1:8080".into(), "an IPv6 address stands in brackets; write `[::1]:8080`"),
        ("number", "socket = 127.0.0.1:http".into(), "write a number"),
        ("name", "socket = no-such-host.invalid:80".into(), "mend the name, or write the address"),
        ("at", "socket = @".into(), "the address is empty; write IP:PORT"),
        ("empty", "socket =".into(), "invalid/empty uwsgi socket name"),
        ("door", "socket = ../e.sock\nzerg-server = ../nowhere/z".into(), "make its directory"),
        (
            "deep",
            format!("socket = ../f.sock\nzerg-server = {long}"),
            "106 bytes at most; choose a shorter one",
        ),
    ];
    let emperor = emperor(&bed).start();
    for (name, line, words) in cases {
        serve(&bed, &format!("{name}.ini"), &format!("{line}\n"));
        let told = emperor.wait_log(&format!("vassal {name}.ini cannot be started: "));
        assert!(told.contains(words), "{told}");
        assert!(
            told.ends_with(&format!("tried again by and by, and at once when {name}.ini is touched")),
            "{told}"
        );
    }
    // Each has been tried again meanwhile, and nothing of it was said twice.
    emperor.wait_log("unloyal bad behaving vassal found: empty.ini throttling it");
    let lines = emperor.lines("cannot be started: ");
    let of = |name: &str| lines.iter().filter(|line| line.contains(&format!("vassal {name}.ini "))).count();
    for name in ["used", "file", "none", "long", "port", "six", "name", "at", "empty", "door", "deep"] {
        assert_eq!(of(name), 1, "{name}: {lines:#?}");
    }
    bed.write("v/place.ini", "[uwsgi]\ncommand = a %(socket.0)\n");
    let told = emperor.wait_log("vassal place.ini cannot be started: ");
    assert!(told.contains("place.ini:2: command: `%(socket.0)`: the file names 0 sockets"), "{told}");
    assert_eq!(std::fs::read(bed.path("plain")).expect("the file"), b"precious");
    emperor.stop(&bed);
}

#[test]
fn what_its_user_may_not_make_is_refused() {
    if nix::unistd::geteuid().is_root() {
        return; // root may make anything; `tenants` tries this for another user
    }
    let bed = bed();
    std::fs::create_dir(bed.path("closed")).expect("a directory");
    std::fs::set_permissions(bed.path("closed"), PermissionsExt::from_mode(0o500)).expect("a mode");
    serve(&bed, "a.ini", "socket = ../closed/a.sock\n");
    let emperor = emperor(&bed).start();
    emperor.wait_log("Permission denied");
    emperor.stop(&bed);
}
