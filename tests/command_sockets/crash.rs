//! Sockets outlive the emperor that made them.

use super::*;
use support::manager::Manager;

#[test]
fn sockets_stay_when_another_program_takes_the_emperors_place() {
    let bed = bed();
    let (path, port) = (bed.path("a.sock"), free_port());
    serve(&bed, "unlink.ini", &format!("socket = ../a.sock\nsocket = 127.0.0.1:{port}\n"));
    let emperor = emperor(&bed).start();
    let (mut pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    for _ in 0..2 {
        emperor.renew(&bed);
        assert_eq!(at_port(port).expect("an answer").0, pid);
        kill(pid);
        pid = successor(&bed, pid, || at_path(&path));
        assert_eq!(at_port(port).expect("an answer").0, pid);
        assert_eq!(inode(&path), before);
    }
    std::fs::remove_file(&path).expect("the socket");
    emperor.nudge();
    assert_eq!(answer(&bed, || at_path(&path)).0, pid, "its second name is known");
    assert_eq!(inode(&path), before);
    emperor.stop(&bed);
}

#[test]
fn sockets_stay_when_the_emperor_is_killed_and_a_service_manager_keeps_them() {
    let bed = bed();
    let (path, port) = (bed.path("a.sock"), free_port());
    let manager = Manager::new(bed.root(), 100);
    let builder = || emperor(&bed).env("NOTIFY_SOCKET", manager.socket()).flag("emperor-fd-store");
    serve(&bed, "a.ini", &format!("socket = ../a.sock\nsocket = 127.0.0.1:{port}\n"));
    let emperor = builder().start();
    let (pid, _) = answer(&bed, || at_path(&path));
    let before = inode(&path);
    // Its process, its link, the socket at which it notifies us, two sockets.
    manager.until_vassals(5);
    drop(emperor);
    kill(pid);
    let early = std::thread::spawn(move || at_port(port)); // waits in the queue, with nobody there at all
    let emperor = builder().usher(manager.pass()).start();
    let successor = successor(&bed, pid, || at_path(&path));
    assert_eq!(early.join().expect("a client").expect("an answer").0, successor);
    assert_eq!(inode(&path), before);
    emperor.stop(&bed);
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0], "nothing is kept for nobody");
}
