//! How a socket stays, comes and goes while vassals do.

use super::*;

#[test]
fn a_program_that_removes_the_file_finds_the_same_socket_again() {
    let bed = bed();
    let path = bed.path("a.sock");
    serve(&bed, "unlink.ini", "socket = ../a.sock\n");
    let emperor = emperor(&bed).start();
    let (pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    serve(&bed, "unlink.ini", "socket = ../a.sock\n");
    successor(&bed, pid, || at_path(&path));
    assert_eq!(inode(&path), before);
    emperor.wait_log("a.sock was removed, and is back");
    emperor.stop(&bed);
}

#[test]
fn a_removed_file_comes_back_while_the_program_runs() {
    let bed = bed();
    let path = bed.path("a.sock");
    serve(&bed, "a.ini", "socket = ../a.sock\n");
    let emperor = emperor(&bed).start();
    let (pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    for _ in 0..3 {
        std::fs::remove_file(&path).expect("the socket");
        assert_eq!(answer(&bed, || at_path(&path)).0, pid);
        assert_eq!(inode(&path), before);
    }
    for _ in 0..20 {
        std::fs::set_permissions(&path, std::fs::metadata(&path).expect("a socket").permissions())
            .expect("chmod");
        emperor.stats(); // it has heard of that by now
    }
    std::fs::remove_file(&path).expect("the socket");
    emperor.nudge(); // who is called too often does not come at once any more
    assert_eq!(answer(&bed, || at_path(&path)).0, pid);
    emperor.stop(&bed);
}

#[test]
fn a_program_that_shuts_its_sockets_down_gets_new_ones() {
    let bed = bed();
    let (path, port) = (bed.path("a.sock"), free_port());
    let lines = format!("socket = ../a.sock\nsocket = 127.0.0.1:{port}\n");
    serve(&bed, "shut.ini", &lines);
    let emperor = emperor(&bed).start();
    let (pid, _) = answer(&bed, || at_path(&path));
    serve(&bed, "shut.ini", &lines);
    let pid = successor(&bed, pid, || at_path(&path));
    assert_eq!(answer(&bed, || at_port(port)).0, pid);
    emperor.wait_log("is made anew: its program has shut it down");
    emperor.stop(&bed);
}

#[test]
fn sockets_come_and_go_with_the_file_and_the_others_stay() {
    let bed = bed();
    let [a, b] = ["a.sock", "b.sock"].map(|name| bed.path(name));
    serve(&bed, "a.ini", "socket = ../a.sock\nsocket = ../c.sock\nvacuum = true\n");
    let emperor = emperor(&bed).start();
    let (pid, _) = answer(&bed, || at_path(&a));
    let before = inode(&a);
    serve(&bed, "a.ini", "http-socket = ../b.sock\nsocket = ../a.sock\nvacuum = true\n");
    let pid = successor(&bed, pid, || at_path(&a));
    assert_eq!(inode(&a), before);
    assert_eq!(at_path(&b).expect("an answer"), (pid, "http-socket".into()));
    assert!(!bed.path("c.sock").exists());
    bed.write("v/a.ini", "[uwsgi]\ncommand = sleep 1000\nvacuum = true\n");
    poll(PATIENCE, || (!a.exists() && !b.exists()).then_some(())).expect("no sockets");
    emperor.stop(&bed);
}

#[test]
fn a_socket_on_demand_that_the_file_names_too_is_one_socket() {
    let bed = bed();
    let path = bed.path("a.sock");
    bed.write("v/a.ini.socket", format!("{}\n", bed.v().join("../a.sock").display()));
    serve(&bed, "a.ini", "socket = ../a.sock\nsocket = ../b.sock\n");
    let emperor = emperor(&bed).opt("emperor-on-demand-extension", ".socket").start();
    let (pid, name) = answer(&bed, || at_path(&path));
    assert_eq!(name, "socket");
    let before = inode(&path);
    assert_eq!(at_path(&bed.path("b.sock")), Some((pid, "socket-2".into())));
    kill(pid);
    successor(&bed, pid, || at_path(&path));
    assert_eq!(inode(&path), before);
    assert!(emperor.lines("binds its own on-demand socket").is_empty());
    emperor.stop(&bed);
}
