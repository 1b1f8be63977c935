//! Symbolic links: followed through every chain, or not at all.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, SystemTime};

use emperor::emperor::source::{Oddity, Report, SourceOptions};

use crate::world::{World, stage, write};

/// `v/a.ini` → `w/second` → `z/real`.
fn chain() -> World {
    let mut world = World::patient();
    for dir in ["w", "z"] {
        fs::create_dir(world.root.join(dir)).unwrap();
    }
    write(world.root.join("z/real"), "one");
    symlink("../z/real", world.root.join("w/second")).unwrap();
    symlink(world.root.join("w/second"), world.v("a.ini")).unwrap();
    world.until_seen("a.ini");
    world.settle();
    world
}

#[test]
fn a_link_is_seen_as_the_file_it_leads_to() {
    let mut world = chain();
    let target = fs::File::options().append(true).open(world.root.join("z/real")).unwrap();
    target.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    world.until_seen_as("a.ini", &world.root.join("z/real"));
    world.said.clear();
    world.rescan();
    world.until_seen_as("a.ini", &world.root.join("z/real"));
}

#[test]
fn a_link_that_is_pointed_elsewhere_is_seen() {
    let mut world = chain();
    write(world.root.join("other"), "older");
    symlink("../other", world.v("new")).unwrap();
    fs::rename(world.v("new"), world.v("a.ini")).unwrap();
    world.until_seen_as("a.ini", &world.root.join("other"));
    world.said.clear();
    write(world.root.join("other"), "changed");
    world.until_seen_as("a.ini", &world.root.join("other"));
}

#[test]
fn a_link_in_the_middle_that_is_pointed_elsewhere_is_seen() {
    let mut world = chain();
    write(world.root.join("other"), "older");
    symlink("../other", world.root.join("w/new")).unwrap();
    fs::rename(world.root.join("w/new"), world.root.join("w/second")).unwrap();
    world.until_seen_as("a.ini", &world.root.join("other"));
}

#[test]
fn a_target_that_is_written_is_seen_when_it_is_closed() {
    let mut world = chain();
    write(world.root.join("z/real"), "changed");
    assert_eq!(world.until_seen("a.ini").size, 7);
}

#[test]
fn a_target_that_is_replaced_is_seen_again_and_again() {
    let mut world = chain();
    for round in 1..10 {
        write(world.root.join("z/new"), &"x".repeat(round));
        fs::rename(world.root.join("z/new"), world.root.join("z/real")).unwrap();
        world.until_seen_as("a.ini", &world.root.join("z/real"));
        world.said.clear();
    }
}

#[test]
fn a_target_that_is_removed_leaves_a_dangling_link_and_is_seen_when_it_is_back() {
    let mut world = chain();
    fs::remove_file(world.root.join("z/real")).unwrap();
    world.until_odd("a.ini", &Oddity::DanglingLink);
    world.said.clear();
    write(world.root.join("z/real"), "back");
    world.until_seen_as("a.ini", &world.root.join("z/real"));
}

#[test]
fn a_target_whose_directory_is_removed_and_made_again_is_seen() {
    let mut world = chain();
    // Somebody works in it, as a vassal would.
    let held = fs::File::open(world.root.join("z")).unwrap();
    fs::remove_dir_all(world.root.join("z")).unwrap();
    world.until_odd("a.ini", &Oddity::DanglingLink);
    world.settle();
    fs::create_dir(world.root.join("z")).unwrap();
    world.run(Duration::from_millis(20), |_| false);
    write(world.root.join("z/real"), "back");
    world.until_seen_as("a.ini", &world.root.join("z/real"));
    drop(held);
}

#[test]
fn a_target_that_is_replaced_by_removing_it_first_is_never_missed() {
    let mut world = chain();
    fs::remove_file(world.root.join("z/real")).unwrap();
    write(world.root.join("z/real"), "again");
    world.until_seen_as("a.ini", &world.root.join("z/real"));
    assert!(!world.said.iter().any(|report| matches!(report, Report::Odd(..) | Report::Gone(..))));
}

#[test]
fn a_dangling_link_is_odd_until_its_target_appears() {
    let mut world = World::new();
    symlink("../x/y/real", world.v("a.ini")).unwrap();
    world.until_odd("a.ini", &Oddity::DanglingLink);
    for dir in ["x", "x/y"] {
        fs::create_dir(world.root.join(dir)).unwrap();
        world.run(Duration::from_millis(20), |_| false);
    }
    write(world.root.join("x/y/real"), "here");
    world.until_seen("a.ini");
}

#[test]
fn a_removed_link_is_gone_and_its_target_is_of_no_interest() {
    let mut world = chain();
    fs::remove_file(world.v("a.ini")).unwrap();
    world.until_gone("a.ini");
    world.said.clear();
    write(world.root.join("z/real"), "changed");
    world.run(Duration::from_millis(50), |_| false);
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn a_circle_of_links_is_odd_until_it_is_opened() {
    let mut world = World::new();
    symlink("b.ini", world.v("a.ini")).unwrap();
    symlink("a.ini", world.v("b.ini")).unwrap();
    world.until_odd("a.ini", &Oddity::LinkLoop);
    fs::remove_file(world.v("b.ini")).unwrap();
    write(world.v("b.ini"), "x");
    world.until_seen("b.ini");
    world.until_seen("a.ini");
}

#[test]
fn the_noise_beside_a_target_is_not_heard() {
    let mut world = chain();
    for round in 0..100 {
        write(world.root.join(format!("z/log{}", round % 3)), "noise");
    }
    world.run(Duration::from_millis(50), |_| false);
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn a_file_with_two_names_is_seen_under_both() {
    let mut world = World::new();
    write(world.v("a.ini"), "one");
    world.until_seen("a.ini");
    fs::hard_link(world.v("a.ini"), world.v("b.ini")).unwrap();
    fs::hard_link(world.v("a.ini"), world.root.join("outside")).unwrap();
    world.until_seen("b.ini");
    world.settle();
    write(world.root.join("outside"), "changed");
    world.until_seen_as("a.ini", &world.root.join("outside"));
    world.until_seen_as("b.ini", &world.root.join("outside"));
}

#[test]
fn a_target_that_is_made_anew_is_not_seen_half_written() {
    use std::io::Write;
    let mut world = chain();
    fs::remove_file(world.root.join("z/real")).unwrap();
    world.until_odd("a.ini", &Oddity::DanglingLink);
    world.said.clear();
    let mut file = fs::File::create(world.root.join("z/real")).unwrap();
    assert!(!world.run(Duration::from_millis(30), |report| matches!(report, Report::Seen(..))));
    file.write_all(b"complete").unwrap();
    drop(file);
    assert_eq!(world.until_seen("a.ini").size, 8);
}

#[test]
fn many_links_to_one_file_all_hear_of_it() {
    let mut world = World::new();
    write(world.root.join("shared"), "one");
    for n in 0..20 {
        symlink("../shared", world.v(&format!("{n}.ini"))).unwrap();
    }
    world.until_seen("19.ini");
    world.settle();
    write(world.root.join("shared"), "changed");
    for n in 0..20 {
        world.until_seen_as(&format!("{n}.ini"), &world.root.join("shared"));
    }
}

#[test]
fn parity_without_following_a_link_counts_whatever_it_leads_to() {
    // spec/emperor.md 3.2
    let options = SourceOptions { nofollow: true, ..SourceOptions::default() };
    let (keep, root) = stage();
    symlink("nowhere", root.join("v/dangling.ini")).unwrap();
    symlink("..", root.join("v/directory.ini")).unwrap();
    write(root.join("real"), "x");
    symlink("../real", root.join("v/file.ini")).unwrap();
    let mut world = World::with((keep, root), &["v"], options);
    assert_eq!(world.seen(), ["dangling.ini", "directory.ini", "file.ini"]);
    world.settle();
    write(world.root.join("real"), "changed");
    fs::remove_file(world.root.join("real")).unwrap();
    world.run(Duration::from_millis(50), |_| false);
    assert!(world.said.is_empty(), "{:?}", world.said);
    fs::remove_file(world.v("file.ini")).unwrap();
    symlink("elsewhere", world.v("file.ini")).unwrap();
    world.until_seen("file.ini");
}

#[test]
fn root_the_owner_is_the_links_where_that_is_asked_for() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: changing an owner needs root");
        return;
    }
    let options = SourceOptions { tyrant_nofollow: true, ..SourceOptions::default() };
    let mut world = World::with(stage(), &["v"], options);
    write(world.root.join("real"), "four");
    std::os::unix::fs::chown(world.root.join("real"), Some(1001), Some(1002)).unwrap();
    symlink("../real", world.v("b.ini")).unwrap();
    std::os::unix::fs::lchown(world.v("b.ini"), Some(2001), Some(2002)).unwrap();
    world.settle();
    world.rescan();
    let identity = world.until_seen("b.ini");
    assert_eq!((identity.uid, identity.gid, identity.size), (2001, 2002, 4));
}
