//! What strangers do at the doors, and to their files.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

/// Waits until the emperor has looked again, and something is offered or not.
fn looks(emperor: &Emperor, door: &Path, offered: bool) {
    let ask = || {
        emperor.nudge();
        (attach(Server(text(door).as_bytes()), PATIENCE).is_ok() == offered).then_some(())
    };
    assert!(poll(PATIENCE, ask).is_some(), "{} {offered}\n{}", door.display(), emperor.log());
}

#[test]
fn a_door_whose_file_is_removed_or_replaced_is_made_anew_and_what_is_in_the_way_stays() {
    let bed = bed();
    fs::create_dir(bed.path("d")).expect("a directory");
    let (own, of_vassal) = (bed.path("d/pool"), bed.path("all"));
    serve(&bed, "a.ini", &format!("socket = ../b.sock\nzerg-server = {}\n", text(&of_vassal)));
    let emperor =
        emperor(&bed).opt("zerg-pool", format!("{}:{}", text(&own), text(&bed.path("a.sock")))).start();
    for door in [&own, &of_vassal] {
        looks(&emperor, door, true);
        fs::remove_file(door).expect("its file");
        looks(&emperor, door, true);
        // A link that leads elsewhere.
        let precious = bed.write("precious", "precious");
        fs::remove_file(door).expect("its file");
        symlink(&precious, door).expect("a link");
        for _ in 0..3 {
            emperor.nudge();
        }
        emperor.wait_log(&format!("{}: a file that is no socket is in the way", door.display()));
        assert_eq!(fs::read(&precious).expect("what was there"), b"precious");
        assert!(attach(Server(text(door).as_bytes()), PATIENCE).is_err());
        fs::remove_file(door).expect("the link");
        looks(&emperor, door, true);
        // Somebody else's server.
        fs::remove_file(door).expect("its file");
        let squatter = UnixListener::bind(door).expect("the place");
        for _ in 0..3 {
            emperor.nudge();
        }
        emperor.wait_log(&format!("{}: another process serves this socket", door.display()));
        drop(squatter);
        looks(&emperor, door, true);
    }
    assert_eq!(emperor.lines("is no socket is in the way").len(), 2, "once for each: {}", emperor.log());
    assert_eq!(emperor.lines("another process serves").len(), 2, "once for each: {}", emperor.log());
    // The whole directory.
    fs::remove_dir_all(bed.path("d")).expect("a directory");
    looks(&emperor, &own, false);
    emperor.wait_log("No such file or directory");
    fs::create_dir(bed.path("d")).expect("a directory");
    looks(&emperor, &own, true);
    emperor.stop(&bed);
    assert!(!own.exists() && !of_vassal.exists());
}

#[test]
fn a_socket_of_a_pool_without_any_name_left_is_made_anew() {
    let bed = bed();
    let (door, at) = (bed.path("pool"), bed.path("a.sock"));
    let emperor = emperor(&bed).opt("zerg-pool", format!("{}:{}", text(&door), text(&at))).start();
    let id = || nix::sys::stat::fstat(&offered(text(&door))[0].socket).expect("the socket").st_ino;
    let before = id();
    for name in ["a.sock", ".a.sock.held"] {
        fs::remove_file(bed.path(name)).expect("its file");
    }
    emperor.nudge();
    emperor.wait_log("and the socket is made anew: whoever has the former one must take the sockets again");
    assert_ne!(id(), before);
    let waiting = UnixStream::connect(&at).expect("its place");
    drop(waiting);
    emperor.stop(&bed);
}

#[test]
fn a_thousand_clients_that_never_read_hold_nobody_up() {
    let bed = bed();
    let door = bed.path("pool");
    let emperor =
        emperor(&bed).opt("zerg-pool", format!("{}:{}", text(&door), text(&bed.path("a.sock")))).start();
    offered(text(&door));
    let before = fs::read_dir(format!("/proc/{}/fd", emperor.pid())).expect("its descriptors").count();
    // Who finds the queue full waits in connect(2).
    let silent: Vec<_> = (0..1000).map(|_| UnixStream::connect(&door).expect("the door")).collect();
    assert_eq!(offered(text(&door)).len(), 1);
    let count = || fs::read_dir(format!("/proc/{}/fd", emperor.pid())).expect("its descriptors").count();
    poll(PATIENCE, || (count() <= before).then_some(())).expect("as many as before");
    drop(silent);
    emperor.stop(&bed);
}

#[test]
fn root_a_user_who_is_root_in_a_namespace_of_its_own_is_who_it_is_outside() {
    if !support::root() {
        return;
    }
    const STRANGER: u32 = 61_919;
    let bed = bed();
    fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let door = bed.path("pool");
    let pool = format!("{}:{}", text(&door), text(&bed.path("a.sock")));
    let script = "import os, socket, sys\nassert os.getuid() == 0\ns = socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\nprint(len(s.recvmsg(100, socket.CMSG_SPACE(4))[1]))";
    let ask = || {
        let mut unshare = Command::new("unshare");
        let unshare = unshare.args(["--user", "--map-root-user", "python3", "-S", "-c", script]).arg(&door);
        let output = unshare.uid(STRANGER).gid(STRANGER).output().expect("unshare");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), told)
    };
    for (allowed, expected) in [("1", "0"), ("61919", "1")] {
        let emperor = emperor(&bed).opt("zerg-pool", &pool).opt("zerg-allow", allowed).start();
        assert_eq!(offered(text(&door)).len(), 1);
        let (got, told) = ask();
        if told.contains("unshare failed") {
            return support::skip("a user may make no user namespace here");
        }
        assert_eq!(got, expected, "{allowed} {told}");
        if expected == "0" {
            emperor.wait_log(&format!("user {STRANGER}"));
        }
        emperor.stop(&bed);
    }
}

/// Who has no number in the emperor's own user namespace appears there as another user, who may be one that is named.
#[test]
fn root_a_user_without_a_number_in_the_emperors_namespace_is_nobody_that_can_be_named() {
    if !support::root() {
        return;
    }
    let bed = bed();
    fs::set_permissions(bed.root(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let door = bed.path("pool");
    let pool = format!("{}:{}", text(&door), text(&bed.path("a.sock")));
    let builder = ["unshare", "--user", "--map-root-user"].into_iter().fold(emperor(&bed), Builder::before);
    let mut emperor = builder.opt("zerg-pool", pool).opt("zerg-allow", "65534").start();
    let told = poll(PATIENCE, || {
        let refused = emperor.log().contains("unshare failed");
        (refused || !emperor.running() || door.exists()).then_some(refused)
    });
    if told.expect("a door, or none") {
        return support::skip("there may be no user namespaces here");
    }
    assert_eq!(offered(text(&door)).len(), 1, "root may");
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  sys.exit(not s.recvmsg(100, socket.CMSG_SPACE(4))[1])";
    let mut python = Command::new("python3");
    let python = python.args(["-S", "-c", script]).arg(&door).uid(61_919).gid(61_919);
    assert!(!python.stderr(Stdio::null()).status().expect("python3").success(), "{}", emperor.log());
    emperor.wait_log("gets no sockets: users without a number in this user namespace appear as it");
    emperor.stop(&bed);
}
