//! Vassals in control groups: on this machine, with whatever versions it has, and on one that has all controllers of
//! version 2, where CGROUP2_VM names the program that boots one. All of it needs root.

#[path = "../support/mod.rs"]
mod support;

mod reaper;
mod turns;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll, root, skip};

/// The groups of a process that are below an emperor's tree, as the kernel has them.
fn groups(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let below = |line: &&str| line.contains("/emperor-") || line.contains("/vassals/");
    text.lines().filter(below).map(str::to_owned).collect()
}

/// The directory of such a group: where it is mounted, and its path.
fn directory(group: &str) -> PathBuf {
    let (_, rest) = group.split_once(':').expect("a line of three parts");
    let (controllers, path) = rest.split_once(':').expect("a line of three parts");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let point = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let (kind, options) = (back.next()?, back.nth(1)?);
        let fits = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.ends_with(controllers)
        };
        fits.then(|| front.split(' ').nth(4).unwrap_or_default().to_owned())
    });
    PathBuf::from(format!("{}{path}", point.expect("where it is mounted")))
}

/// Whether vassals can have groups here; says why the test is skipped where they cannot.
fn has_groups(emperor: &Emperor, pid: i32) -> bool {
    let there = !groups(pid).is_empty();
    if !there {
        skip(&format!("no control groups for us here: {:?}", emperor.lines("not enforced")));
    }
    there
}

fn emperor(bed: &Bed) -> Builder {
    Builder::new(bed, Kind::Ours).stats().flag("vassal-cgroup")
}

#[test]
fn root_what_a_vassal_leaves_behind_ends_with_it_and_no_group_stays() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 daemon");
    bed.vassal("b.ini");
    let emperor = emperor(&bed).start();
    let good = bed.started("b.ini", 1);
    if !has_groups(&emperor, good) {
        return emperor.stop(&bed);
    }
    let directories: Vec<_> = groups(good).iter().map(|group| directory(group)).collect();
    assert!(directories.iter().all(|path| path.is_dir()), "{directories:?}");
    bed.vassal("a.ini");
    // The witness forks, and its first process ends: the one that goes on in a session of its own must not.
    bed.until("the second life of a.ini", |log| log.execs("a.ini").len() == 2);
    let strays = || bed.left().into_iter().filter(|(_, line)| line.contains("a.ini")).count();
    bed.remove("v/a.ini");
    let none = poll(PATIENCE, || (strays() == 0).then_some(()));
    assert!(none.is_some(), "left behind: {:?}\n{}", bed.left(), bed.report());
    assert_eq!(groups(good).len(), directories.len(), "the other vassal is where it was");
    emperor.stop_politely(&bed);
    for path in directories {
        assert!(!path.exists() && !path.parent().is_some_and(Path::exists), "{} stays", path.display());
    }
}

#[test]
fn root_limits_for_all_vassals_are_in_force_and_a_renewed_emperor_changes_them() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let file = bed.write("emperor.ini", "[uwsgi]\nvassal-tasks-max = 77\n");
    let emperor = Builder::new(&bed, Kind::Ours).stats().opt("ini", &file).start();
    let pid = bed.started("a.ini", 1);
    if !has_groups(&emperor, pid) {
        return emperor.stop(&bed);
    }
    let pids = groups(pid).into_iter().find(|group| group.contains(":pids:")).or_else(|| groups(pid).pop());
    let max = directory(&pids.expect("its group")).join("pids.max");
    if !max.exists() {
        skip("no controller of tasks for us here");
        return emperor.stop(&bed);
    }
    assert_eq!(fs::read_to_string(&max).expect("a limit"), "77\n");
    let row = emperor.wait_stats("its group", |stats| stats["vassals"][0]["cgroup"].as_object().cloned());
    assert!(row["tasks"].as_u64() >= Some(1), "{row:?}");
    bed.write("emperor.ini", "[uwsgi]\nvassal-tasks-max = 66\n");
    emperor.signal(nix::sys::signal::Signal::SIGUSR2);
    let changed = poll(PATIENCE, || (fs::read_to_string(&max).ok()? == "66\n").then_some(()));
    assert!(changed.is_some(), "{}", bed.report());
    assert_eq!(bed.log().execs("a.ini").len(), 1, "its vassal goes on");
    emperor.stop_politely(&bed);
    assert!(!max.exists());
}

#[test]
fn root_a_vassal_without_limits_has_no_group_and_no_key_in_the_stats() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = Builder::new(&bed, Kind::Ours).stats().start();
    let pid = bed.started("a.ini", 1);
    let own = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    assert_eq!(own(pid), own(emperor.pid()), "where the emperor is");
    let row = emperor.stats_of("a.ini").expect("its row");
    assert!(row.get("cgroup").is_none(), "{row}");
    emperor.stop_politely(&bed);
}

#[test]
fn root_two_emperors_of_one_path_in_two_mount_namespaces_do_not_share_groups() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let first = emperor(&bed).start();
    let one = bed.started("a.ini", 1);
    if !has_groups(&first, one) {
        return first.stop(&bed);
    }
    let script = format!(
        "mount -t tmpfs -o size=64k,mode=755 tmpfs '{0}' && printf '[uwsgi]\\n' > '{0}/b.ini' && exec \"$@\"",
        bed.v().display()
    );
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    let builder = Builder::new(&bed, Kind::Ours).flag("vassal-cgroup");
    let mut second = words.iter().fold(builder, |e, w| e.before(w)).start();
    let other = bed.started("b.ini", 1);
    let tree = |pid: i32| groups(pid).iter().map(|group| directory(group)).collect::<Vec<_>>();
    let (one_tree, other_tree) = (tree(one), tree(other));
    for (one, other) in one_tree.iter().zip(&other_tree) {
        assert_ne!(one.parent(), other.parent(), "they share a tree");
    }
    second.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(second.end().success());
    assert!(other_tree.iter().all(|path| !path.exists()), "{other_tree:?}");
    assert!(one_tree.iter().all(|path| path.exists()), "{one_tree:?}");
    assert_eq!(bed.log().execs("a.ini").len(), 1, "the other emperor has swept what was not its own");
    first.stop_politely(&bed);
}

#[test]
fn root_every_controller_of_version_2_bites_and_is_told() {
    if !root() {
        return;
    }
    let Some(machine) = std::env::var_os("CGROUP2_VM") else {
        return skip("CGROUP2_VM names no program that boots a machine with all of cgroup v2");
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/root_cgroups/machine.sh");
    let run =
        Command::new(machine).args(["--timeout", "500", script, env!("CARGO_BIN_EXE_emperor")]).output();
    let run = run.expect("the machine");
    let text = String::from_utf8_lossy(&run.stdout);
    let passed = text.lines().filter(|line| line.starts_with("PASS ")).count();
    assert!(
        run.status.success() && passed == 33,
        "{passed} passed\n{text}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
