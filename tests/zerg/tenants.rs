//! Tyrant mode: a tenant offers what is his, where he may, to himself. All of it needs root.

use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;

const ALICE: u32 = 61_818;
const BOB: u32 = 61_919;

fn connects(uid: u32, door: &Path) -> bool {
    let script = "import array, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  sys.exit(not s.recvmsg(100, socket.CMSG_SPACE(4))[1])";
    let mut python = Command::new("python3");
    let python = python.args(["-S", "-c", script]).arg(door).uid(uid).gid(uid).stderr(Stdio::null());
    python.status().expect("python3").success()
}

#[test]
fn root_a_tenants_door_is_his_and_opens_to_himself_alone() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let home = bed.path("alice");
    fs::create_dir(&home).expect("a directory");
    own(&home, ALICE);
    let (door, port, pooled) = (home.join("door"), free_port(), free_port());
    let lines = format!(
        "http-socket = 127.0.0.1:{port}\nzerg-pool = {}:127.0.0.1:{port},127.0.0.1:{pooled}\nzerg-chmod = 666\n",
        text(&door)
    );
    tenant(&bed, "a.ini", ALICE, &lines);
    let emperor = emperor(&bed).flag("emperor-tyrant").opt("emperor-throttle", "100").start();
    assert_eq!(offered(text(&door)).len(), 2, "root may");
    let file = fs::symlink_metadata(&door).expect("the door");
    assert_eq!((file.uid(), file.mode() & 0o777), (ALICE, 0o666));
    assert!(connects(ALICE, &door));
    assert!(!connects(BOB, &door));
    // Another vassal of hers takes them as she, and one of his does not.
    tenant(&bed, "b.ini", ALICE, &format!("zerg = {}\n", text(&door)));
    assert_eq!(poll(PATIENCE, || get(pooled)).as_deref(), Some("b pool"));
    tenant(&bed, "c.ini", BOB, &format!("zerg = {}\n", text(&door)));
    let told = emperor.wait_log("vassal c.ini cannot be started");
    assert!(told.contains("it may serve only certain users"), "{told}");
    emperor.renew(&bed);
    assert_eq!(fs::symlink_metadata(&door).expect("the door").ino(), file.ino());
    assert!(connects(ALICE, &door) && !connects(BOB, &door));
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_door_is_made_only_where_she_may() {
    if !support::root() {
        return;
    }
    let bed = bed();
    let (theirs, port) = (bed.path("root"), free_port());
    fs::create_dir(&theirs).expect("a directory");
    let door = theirs.join("door");
    tenant(&bed, "a.ini", ALICE, &format!("http-socket = 127.0.0.1:{port}\nzerg-server = {}\n", text(&door)));
    let low = format!("zerg-pool = {}:127.0.0.1:99\n", text(&bed.path("low")));
    tenant(&bed, "b.ini", ALICE, &low);
    let emperor = emperor(&bed).flag("emperor-tyrant").opt("emperor-throttle", "100").start();
    let told = emperor.wait_log("vassal a.ini cannot be started");
    assert!(told.contains("Permission denied"), "{told}");
    let told = emperor.wait_log("vassal b.ini cannot be started");
    assert!(told.contains("port below 1024"), "{told}");
    assert!(!door.exists());
    emperor.stop(&bed);
}
