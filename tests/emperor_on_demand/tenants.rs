//! Tyrant mode: a tenant's address gets him no more than he has. All of it needs root.

use super::*;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

const ALICE: u32 = 61_414;
const BOB: u32 = 61_515;

/// A vassal of a user, with a companion of another.
fn tenant(bed: &Bed, name: &str, uid: u32, address: &str) {
    own(&bed.write(format!("v/{name}.socket"), format!("{address}\n")), uid);
    put(bed, name, uid);
}

fn put(bed: &Bed, name: &str, uid: u32) {
    let part = bed.write(".new", "[uwsgi]\n");
    own(&part, uid);
    fs::rename(part, bed.path(format!("v/{name}"))).expect("a vassal's file");
}

fn tyrant(bed: &Bed) -> Builder {
    emperor(bed, Kind::Ours).flag("emperor-tyrant").opt("emperor-throttle", "100")
}

#[test]
fn root_a_tenants_socket_is_his_and_reaches_his_vassal() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let path = home(&bed, "alice", ALICE).join("a.sock");
    tenant(&bed, "a.ini", ALICE, path.to_str().expect("plain text"));
    let emperor = tyrant(&bed).start();
    waits(&emperor, "a.ini");
    let file = fs::symlink_metadata(&path).expect("the socket");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (ALICE, ALICE, 0o666));
    assert_eq!(answer(call(&path)), "ok\n");
    let given = bed.given("a.ini", 1);
    let numbers: Vec<i32> = given.fds.iter().map(|fd| fd.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(given.fd(0).expect("standard input").listening);
    assert!(given.field("Uid").starts_with(&ALICE.to_string()));
    emperor.stop(&bed);
    assert!(!path.exists());
}

#[test]
fn root_what_a_tenant_may_not_do_is_not_done_for_him() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let (alice, bob) = (home(&bed, "alice", ALICE), home(&bed, "bob", BOB));
    let roots = home(&bed, "root", 0);
    let text = |path: std::path::PathBuf| path.to_str().expect("plain text").to_owned();
    tenant(&bed, "roots.ini", ALICE, &text(roots.join("x.sock")));
    tenant(&bed, "etc.ini", ALICE, "/etc/emperor-test.sock");
    tenant(&bed, "run.ini", ALICE, "/run/emperor-test.sock");
    tenant(&bed, "bobs.ini", ALICE, &text(bob.join("x.sock")));
    tenant(&bed, "beside.ini", ALICE, "beside.sock"); // the vassals' directory is root's
    tenant(&bed, "port.ini", ALICE, "127.0.0.1:1023");
    // A stale socket of root's in a directory of all: he may not remove it there.
    let all = home(&bed, "all", 0);
    fs::set_permissions(&all, Permissions::from_mode(0o1777)).expect("a mode");
    drop(std::os::unix::net::UnixListener::bind(all.join("stale.sock")).expect("a socket"));
    tenant(&bed, "stale.ini", ALICE, &text(all.join("stale.sock")));
    let good = alice.join("good.sock");
    tenant(&bed, "good.ini", ALICE, &text(good.clone()));
    let emperor = tyrant(&bed).start();
    let names = ["roots", "etc", "run", "bobs", "beside", "port", "stale"];
    for name in names {
        let line =
            emperor.wait_log(&format!("vassal {name}.ini gets no on-demand socket: {name}.ini.socket: "));
        assert!(
            line.contains("ermission denied")
                || line.contains("port below 1024")
                || line.contains("not permitted"),
            "{line}"
        );
    }
    assert_eq!(answer(call(&good)), "ok\n");
    assert!(!Path::new("/etc/emperor-test.sock").exists() && !Path::new("/run/emperor-test.sock").exists());
    assert!(
        !roots.join("x.sock").exists() && !bob.join("x.sock").exists() && all.join("stale.sock").exists()
    );
    assert_eq!(bed.log().names().len(), 1, "nobody starts without his socket");
    emperor.stop(&bed);
}

#[test]
fn root_a_tenant_may_have_the_ports_that_the_kernel_leaves_to_everybody() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    tenant(&bed, "low.ini", ALICE, "127.0.0.1:79");
    tenant(&bed, "free.ini", ALICE, "127.0.0.1:81");
    // In a network of its own nothing else changes.
    let script = "ip link set lo up; echo 80 > /proc/sys/net/ipv4/ip_unprivileged_port_start && exec \"$@\"";
    let words = ["unshare", "-n", "sh", "-c", script, "sh"];
    let emperor = words.into_iter().fold(tyrant(&bed), |emperor, word| emperor.before(word)).start();
    waits(&emperor, "free.ini");
    let line = emperor.wait_log("vassal low.ini gets no on-demand socket: low.ini.socket: 127.0.0.1:79: ");
    assert!(line.contains("a tenant may not have a port below 80; choose another"), "{line}");
    emperor.stop(&bed);
}

#[test]
fn root_a_tenant_with_very_many_sockets_has_a_quarter_of_the_emperors_descriptors_and_others_have_theirs() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let (alice, bob) = (home(&bed, "alice", ALICE), home(&bed, "bob", BOB));
    for number in 0..150 {
        let path = alice.join(format!("{number}.sock"));
        tenant(&bed, &format!("{number}.ini"), ALICE, path.to_str().expect("plain text"));
    }
    tenant(&bed, "zoe.ini", BOB, bob.join("zoe.sock").to_str().expect("plain text"));
    let emperor = tyrant(&bed).usher("nofile=400:400").start();
    let line =
        emperor.wait_log("user 61414 has 100 sockets already, a quarter of the descriptors of the emperor");
    assert!(line.contains("remove some of them, or raise that limit"), "{line}");
    assert_eq!(answer(call(&bob.join("zoe.sock"))), "ok\n");
    let made = || fs::read_dir(&alice).expect("a directory").count();
    assert_eq!(poll(PATIENCE, || (made() == 100).then_some(())), Some(()), "{} were made", made());
    // One that goes makes room for another.
    let gone = (0..150).find(|number| alice.join(format!("{number}.sock")).exists()).expect("one");
    bed.remove(format!("v/{gone}.ini"));
    let is_another = || (made() == 100 && !alice.join(format!("{gone}.sock")).exists()).then_some(());
    assert_eq!(poll(PATIENCE, is_another), Some(()), "{}", emperor.log());
    emperor.stop(&bed);
}

/// Her directory is another's from one moment to the next, while sockets are made, examined, given a mode and removed in it.
#[test]
fn root_a_directory_that_is_swapped_for_anothers_all_the_time_gets_a_tenant_nothing_in_there() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let (alice, bob) = (home(&bed, "alice", ALICE), home(&bed, "bob", BOB));
    fs::set_permissions(&bob, Permissions::from_mode(0o755)).expect("a mode");
    let (there, other) = (alice.join("there"), alice.join("other"));
    fs::create_dir(&there).expect("a directory");
    own(&there, ALICE);
    symlink(&bob, &other).expect("a link");
    own(&other, ALICE);
    let mut stale = Vec::new();
    for number in 0..20 {
        let name = format!("{number}.sock");
        let path = bob.join(&name);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket")); // served by nobody
        own(&path, BOB);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        stale.push(path);
        let text = there.join(&name).display().to_string();
        match number % 2 {
            0 => tenant(&bed, &format!("{number}.ini"), ALICE, &text),
            _ => {
                let lines = format!("socket = {text}\nchmod-socket = 666\nchown-socket = {ALICE}\n");
                let file = bed.write("fresh", format!("[uwsgi]\nmaster = true\non-demand = true\n{lines}"));
                own(&file, ALICE);
                fs::rename(file, bed.path(format!("v/{number}.ini"))).expect("a rename");
            }
        }
    }
    let before: Vec<_> = stale.iter().map(|path| fs::symlink_metadata(path).expect("a socket")).collect();
    let emperor = tyrant(&bed).opt("emperor-throttle", "0").start();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while std::time::Instant::now() < end {
                renameat2(AT_FDCWD, &there, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE)
                    .expect("an exchange");
            }
        });
        while std::time::Instant::now() < end {
            for number in 0..20 {
                // Only hers: in the other state of things this is bob's, and root would remove it.
                for directory in [&there, &other] {
                    let real = directory.symlink_metadata().is_ok_and(|it| it.is_dir());
                    let open = real.then(|| fs::File::open(directory).ok()).flatten();
                    let hers = open.filter(|it| it.metadata().is_ok_and(|it| it.uid() == ALICE));
                    let name = format!("{number}.sock");
                    hers.map(|hers| {
                        nix::unistd::unlinkat(&hers, name.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)
                    });
                }
            }
            emperor.nudge();
        }
    });
    for (path, before) in stale.iter().zip(&before) {
        let now = fs::symlink_metadata(path).expect("his socket is still there");
        let facts = |it: &fs::Metadata| (it.ino(), it.uid(), it.gid(), it.mode(), it.ctime_nsec());
        assert_eq!(facts(&now), facts(before), "{}", path.display());
    }
    assert_eq!(fs::read_dir(&bob).expect("a directory").count(), 20, "nothing was made there");
    assert!(!emperor.lines("is made anew").is_empty(), "it was busy with them\n{}", emperor.log());
    emperor.stop(&bed);
    assert_eq!(fs::read_dir(&bob).expect("a directory").count(), 20, "nothing was removed there");
}

#[test]
fn root_a_companion_is_read_as_the_tenant_and_must_be_his_or_roots() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let alice = home(&bed, "alice", ALICE);
    let socket = |name: &str| alice.join(format!("{name}.sock")).to_str().expect("plain text").to_owned();
    let secret = bed.write("secret", "the-secret-of-root");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a mode");
    let bobs = bed.write("bobs", socket("bobs"));
    own(&bobs, BOB);
    for (name, target) in [("secret", &secret), ("bobs", &bobs)] {
        symlink(target, bed.path(format!("v/{name}.ini.socket"))).expect("a link");
        own(&bed.path(format!("v/{name}.ini.socket")), ALICE);
        put(&bed, &format!("{name}.ini"), ALICE);
    }
    // Bob leads Alice's vassal to a file that is hers.
    let hers = bed.write("hers", socket("link"));
    own(&hers, ALICE);
    symlink(&hers, bed.path("v/link.ini.socket")).expect("a link");
    own(&bed.path("v/link.ini.socket"), BOB);
    put(&bed, "link.ini", ALICE);
    // Bob writes what Alice's vassal is to listen on.
    tenant(&bed, "foreign.ini", ALICE, &socket("foreign"));
    own(&bed.path("v/foreign.ini.socket"), BOB);
    // She has locked herself out.
    tenant(&bed, "locked.ini", ALICE, &socket("locked"));
    fs::set_permissions(bed.path("v/locked.ini.socket"), Permissions::from_mode(0o000)).expect("a mode");
    // Root may decide for her, and she may link.
    tenant(&bed, "roots.ini", ALICE, &socket("roots"));
    own(&bed.path("v/roots.ini.socket"), 0);
    symlink(&hers, bed.path("v/own.ini.socket")).expect("a link");
    own(&bed.path("v/own.ini.socket"), ALICE);
    put(&bed, "own.ini", ALICE);
    let emperor = tyrant(&bed).start();
    for (name, words) in [
        ("secret", "ermission denied"),
        ("bobs", "belongs to uid 61515"),
        ("link", "belongs to uid 61515"),
        ("foreign", "belongs to uid 61515"),
        ("locked", "ermission denied"),
    ] {
        let line = emperor.wait_log(&format!("vassal {name}.ini gets no on-demand socket"));
        assert!(line.contains(words), "{line}");
        assert!(!alice.join(format!("{name}.sock")).exists() || name == "link");
    }
    assert_eq!(answer(call(&alice.join("roots.sock"))), "ok\n");
    assert_eq!(answer(call(&alice.join("link.sock"))), "ok\n"); // that of own.ini
    assert_eq!(bed.log().names().into_iter().collect::<Vec<_>>(), ["own.ini", "roots.ini"]);
    assert!(!emperor.log().contains("the-secret"));
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_socket_is_removed_with_his_rights_only() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let home = home(&bed, "alice", ALICE);
    let path = home.join("a.sock");
    tenant(&bed, "a.ini", ALICE, path.to_str().expect("plain text"));
    let emperor = tyrant(&bed).start();
    waits(&emperor, "a.ini");
    emperor.signal(nix::sys::signal::Signal::SIGUSR2);
    emperor.wait_log("vassals taken over from emperor"); // the next program knows whose it is
    waits(&emperor, "a.ini");
    own(&home, 0); // what she had is not hers to change any more
    emperor.stop(&bed);
    assert!(path.exists());
}

#[test]
fn root_a_vassal_that_becomes_somebody_elses_gets_his_own_socket() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let (alice, bob) = (home(&bed, "alice", ALICE), home(&bed, "bob", BOB));
    for (state, running) in [("waits", false), ("runs", true)] {
        let name = format!("{state}.ini");
        let (hers, his) = (alice.join(state), bob.join(state));
        tenant(&bed, &name, ALICE, hers.to_str().expect("plain text"));
        let emperor = tyrant(&bed).start();
        waits(&emperor, &name);
        if running {
            assert_eq!(answer(call(&hers)), "ok\n");
        }
        own(&bed.write(format!("v/{name}.socket"), his.to_str().expect("plain text")), BOB);
        put(&bed, &name, BOB);
        assert_eq!(answer(call(&his)), "ok\n");
        assert!(!hers.exists());
        let given = bed.given(&name, if running { 2 } else { 1 });
        assert!(given.field("Uid").starts_with(&BOB.to_string()));
        emperor.stop(&bed);
        bed.remove(format!("v/{name}"));
    }
}
