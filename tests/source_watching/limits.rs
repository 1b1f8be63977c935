//! Where the kernel gives no more, and where it forbids.
//!
//! A limit is set in a user namespace of its own, and a permission is lost by another user: the test runs
//! itself again there, alone, with the name of the scene in its environment.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use emperor::emperor::source::{Report, SourceOptions};

use crate::world::{FIRST, World, stage, write};

const SCENE: &str = "EMPEROR_SOURCE_SCENE";

/// Runs the test of this name again as the argument of a command, and says so; not when this is that run.
#[expect(clippy::print_stdout, reason = "a test says why it skipped")]
fn again(test: &str, command: &[&str]) -> bool {
    if std::env::var_os(SCENE).is_some() {
        return false;
    }
    let (program, arguments) = command.split_first().unwrap();
    if !Command::new(program).args(arguments).arg("true").output().is_ok_and(|ran| ran.status.success()) {
        println!("skipped: {program} cannot do this here");
        return true;
    }
    let ran = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SCENE, test)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(out.contains("1 passed"), "{out}");
    true
}

fn polled() -> SourceOptions {
    SourceOptions { scan_every: Some(Duration::from_millis(100)), ..SourceOptions::default() }
}

#[test]
fn without_inotify_watches_a_source_is_looked_at_now_and_then_until_there_are_some() {
    let limited =
        ["unshare", "-Ur", "sh", "-c", "echo 3 > /proc/sys/user/max_inotify_watches; exec \"$0\" \"$@\""];
    if again(
        "limits::without_inotify_watches_a_source_is_looked_at_now_and_then_until_there_are_some",
        &limited,
    ) {
        return;
    }
    let mut world = World::with(stage(), &["v"], polled());
    assert_eq!(world.troubles().len(), 1, "{:?}", world.said);
    assert!(world.troubles()[0].contains("fs.inotify.max_user_watches"), "{:?}", world.troubles());
    write(world.v("a.ini"), "x");
    world.until_seen("a.ini");
    fs::remove_file(world.v("a.ini")).unwrap();
    world.said.clear();
    world.until_scanned();
    assert!(world.troubles().is_empty(), "told once");
    fs::write("/proc/sys/user/max_inotify_watches", "100").unwrap();
    world.until_scanned();
    world.run(Duration::from_millis(300), |_| false);
    assert_eq!(world.sources.trouble(FIRST), None);
    world.said.clear();
    assert!(!world.run(Duration::from_millis(300), |_| true), "it is still polled: {:?}", world.said);
    write(world.v("b.ini"), "x");
    world.until_seen("b.ini");
}

#[test]
fn without_an_inotify_instance_a_source_is_looked_at_now_and_then() {
    let limited =
        ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$0\" \"$@\""];
    if again("limits::without_an_inotify_instance_a_source_is_looked_at_now_and_then", &limited) {
        return;
    }
    let mut world = World::with(stage(), &["v"], polled());
    assert!(world.troubles()[0].contains("fs.inotify.max_user_instances"), "{:?}", world.troubles());
    write(world.v("a.ini"), "x");
    world.until_seen("a.ini");
    fs::write("/proc/sys/user/max_inotify_instances", "100").unwrap();
    world.said.clear();
    world.until_scanned();
    world.until_scanned();
    world.run(Duration::from_millis(300), |_| false);
    assert_eq!(world.sources.trouble(FIRST), None);
    write(world.v("b.ini"), "x");
    world.until_seen("b.ini");
}

#[test]
fn a_directory_that_may_not_be_read_keeps_its_vassals_and_is_used_when_it_may() {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let root = nix::unistd::geteuid().is_root();
    if root
        && again(
            "limits::a_directory_that_may_not_be_read_keeps_its_vassals_and_is_used_when_it_may",
            &nobody,
        )
    {
        return;
    }
    let (keep, path) = stage();
    write(path.join("v/a.ini"), "x");
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&path.join("v"), 0o000);
    let mut world = World::with((keep, path), &["v"], polled());
    assert_eq!(world.troubles().len(), 1, "{:?}", world.said);
    assert!(world.troubles()[0].contains("Permission denied"), "{:?}", world.troubles());
    mode(&world.root.join("v"), 0o700);
    world.until_seen("a.ini");
    world.settle();
    // Lost while it runs: found when somebody asks, and the change of permissions brings it back.
    for lost in [0o000, 0o300, 0o600] {
        mode(&world.root.join("v"), lost);
        world.said.clear();
        world.rescan();
        world.until_trouble("Permission denied");
        assert!(!world.says_gone());
        assert!(!world.said.iter().any(|report| matches!(report, Report::ScanEnded(_))), "{:?}", world.said);
        world.said.clear();
        mode(&world.root.join("v"), 0o700);
        world.until_seen("a.ini");
        world.until_scanned();
        assert_eq!(world.sources.trouble(FIRST), None);
    }
    // A directory on the way.
    mode(&world.root, 0o000);
    world.said.clear();
    world.rescan();
    let denied = world.troubles().len();
    mode(&world.root, 0o700);
    assert_eq!(denied, 1, "{:?}", world.said);
    world.until_scanned();
}

#[test]
fn one_tenants_unreadable_directory_hides_only_his_own_vassals() {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let root = nix::unistd::geteuid().is_root();
    if root && again("limits::one_tenants_unreadable_directory_hides_only_his_own_vassals", &nobody) {
        return;
    }
    let (keep, path) = stage();
    for tenant in ["a", "b", "c"] {
        fs::create_dir(path.join("v").join(tenant)).unwrap();
        write(path.join("v").join(tenant).join("u.ini"), "x");
    }
    fs::set_permissions(path.join("v/a"), fs::Permissions::from_mode(0o000)).unwrap();
    symlink("a/below", path.join("v/d")).unwrap();
    let mut world = World::with((keep, path), &["glob://v/*/*.ini"], polled());
    assert_eq!(world.seen(), ["v/b/u.ini", "v/c/u.ini"]);
    world.until_scanned();
    fs::set_permissions(world.root.join("v/a"), fs::Permissions::from_mode(0o700)).unwrap();
    world.until_seen("v/a/u.ini");
}
