//! Tyrant mode: a tenant's sockets get him no more than he has. All of it needs root.

use super::*;
use crate::support::{PATIENCE, poll};
use std::fs;
use std::os::unix::fs::symlink;

const ALICE: u32 = 61_616;
const BOB: u32 = 61_717;

fn tyrant(bed: &Bed) -> Emperor {
    emperor(bed).flag("emperor-tyrant").opt("emperor-throttle", "100").start()
}

#[test]
fn root_a_tenants_socket_is_his_and_stays_over_restarts() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let path = home(&bed, "alice", ALICE).join("a.sock");
    let port = free_port();
    tenant(
        &bed,
        "unlink.ini",
        ALICE,
        &format!("socket = ../alice/a.sock\nsocket = 127.0.0.1:{port}\nchmod-socket = 666\n"),
    );
    let emperor = tyrant(&bed);
    let (pid, _) = answer(&bed, || at_path(&path));
    let file = fs::symlink_metadata(&path).expect("the socket");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (ALICE, ALICE, 0o666));
    assert_eq!(inode(&path.with_file_name(".a.sock.held")), file.ino());
    let pid = {
        kill(pid);
        successor(&bed, pid, || at_port(port))
    };
    tenant(&bed, "unlink.ini", ALICE, &format!("socket = ../alice/a.sock\nsocket = 127.0.0.1:{port}\n"));
    successor(&bed, pid, || at_path(&path));
    assert_eq!(inode(&path), file.ino());
    emperor.stop(&bed);
}

#[test]
fn root_what_a_tenant_may_not_do_is_not_done_for_him() {
    if !support::root() {
        return;
    }
    let bed = bed();
    home(&bed, "alice", ALICE);
    let bobs = home(&bed, "bob", BOB);
    fs::write(bobs.join("file"), "precious").expect("a file");
    symlink(&bobs, bed.path("alice/there")).expect("a link");
    let cases = [
        (
            "a.ini",
            "socket = ../bob/a.sock",
            "Permission denied (os error 13); user 61616 must be allowed to make it",
        ),
        ("b.ini", "socket = ../alice/there/a.sock", "Permission denied"),
        ("c.ini", "socket = 127.0.0.1:1023", "a tenant may not have a port below 1024"),
        ("d.ini", "socket = 127.0.0.1:9999\nreuse-port = true", "reuse-port would let one tenant have"),
        ("e.ini", "socket = ../alice/e.sock\nchown-socket = root", "Operation not permitted"),
        ("f.ini", "socket = ../alice/f.sock\nchown-socket = :61717", "Operation not permitted"),
        ("g.ini", "socket = /run/emperor-test-of-a-tenant.sock", "Permission denied"),
    ];
    let emperor = tyrant(&bed);
    for (name, lines, words) in cases {
        tenant(&bed, name, ALICE, &format!("{lines}\n"));
        let told = emperor.wait_log(&format!("vassal {name} cannot be started: "));
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(fs::read_dir(&bobs).expect("a directory").count(), 1);
    // The next try makes one and removes it again, now and then just here.
    let sockets = || fs::read_dir(bed.path("alice")).expect("a directory").count();
    poll(PATIENCE, || (sockets() == 1).then_some(())).expect("nothing is left of what was refused");
    emperor.stop(&bed);
}

#[test]
fn root_a_tenant_cannot_have_the_emperor_put_back_what_is_not_his() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let path = home(&bed, "alice", ALICE).join("a.sock");
    let bobs = home(&bed, "bob", BOB);
    tenant(&bed, "a.ini", ALICE, "socket = ../alice/a.sock\nvacuum = true\n");
    let emperor = tyrant(&bed);
    let (pid, _) = answer(&bed, || at_path(&path));
    // His directory leads to another's by now.
    fs::rename(bed.path("alice"), bed.path("alice.old")).expect("a rename");
    symlink(&bobs, bed.path("alice")).expect("a link");
    fs::write(bobs.join(".a.sock.held"), "precious").expect("a file");
    emperor.nudge();
    emperor.wait_log("a.sock is gone, and so is its second name");
    kill(pid);
    let told = emperor.wait_log("vassal a.ini cannot be started: socket = ");
    assert!(told.contains("Permission denied"), "{told}");
    bed.remove("v/a.ini");
    emperor.wait_stats("none", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
    assert_eq!(fs::read_dir(&bobs).expect("a directory").count(), 1);
    emperor.stop(&bed);
}
