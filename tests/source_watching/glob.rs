//! Patterns and single files.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use emperor::emperor::source::{Report, SourceOptions};

use crate::world::{FIRST, World, stage, write};

/// Sources on one pattern, `apps/*/conf/*.ini`, with two applications.
fn apps() -> World {
    let (keep, root) = stage();
    for app in ["b", "a"] {
        fs::create_dir_all(root.join("apps").join(app).join("conf")).unwrap();
        write(root.join("apps").join(app).join("conf/u.ini"), "x");
    }
    World::with((keep, root), &["glob://apps/*/conf/*.ini"], SourceOptions::default())
}

#[test]
fn parity_names_are_the_paths_as_the_pattern_gives_them_in_order() {
    // spec/emperor.md 3.2
    let mut world = apps();
    assert_eq!(world.seen(), ["apps/a/conf/u.ini", "apps/b/conf/u.ini"]);
    let info = world.sources.info(FIRST).unwrap();
    assert_eq!((info.argument.as_str(), &info.cwd), ("apps/*/conf/*.ini", &world.root));
    world.settle();
}

#[test]
fn a_file_in_a_matched_directory_is_seen_and_gone() {
    let mut world = apps();
    world.settle();
    write(world.root.join("apps/a/conf/x.ini"), "x");
    write(world.root.join("apps/a/conf/.hidden.ini"), "x");
    write(world.root.join("apps/a/x.ini"), "x");
    world.until_seen("apps/a/conf/x.ini");
    fs::remove_file(world.root.join("apps/a/conf/x.ini")).unwrap();
    world.until_gone("apps/a/conf/x.ini");
    assert_eq!(world.seen(), ["apps/a/conf/x.ini"]);
}

#[test]
fn a_new_directory_that_matches_is_looked_into_at_every_level() {
    let mut world = apps();
    world.settle();
    for dir in ["c", "c/conf"] {
        fs::create_dir(world.root.join("apps").join(dir)).unwrap();
        world.run(Duration::from_millis(20), |_| false);
    }
    write(world.root.join("apps/c/conf/u.ini"), "x");
    world.until_seen("apps/c/conf/u.ini");
    // All at once.
    fs::create_dir_all(world.root.join("apps/d/conf")).unwrap();
    write(world.root.join("apps/d/conf/u.ini"), "x");
    world.until_seen("apps/d/conf/u.ini");
}

#[test]
fn a_whole_application_that_is_moved_in_or_out_is_noticed() {
    let mut world = apps();
    world.settle();
    fs::rename(world.root.join("apps/a"), world.root.join("a")).unwrap();
    world.until_scanned();
    assert_eq!(world.seen(), ["apps/b/conf/u.ini"]);
    world.settle();
    fs::rename(world.root.join("a"), world.root.join("apps/e")).unwrap();
    world.until_seen("apps/e/conf/u.ini");
    world.settle();
    fs::remove_dir_all(world.root.join("apps/e")).unwrap();
    world.until_scanned();
    assert_eq!(world.seen(), ["apps/b/conf/u.ini"]);
}

#[test]
fn a_linked_application_is_followed_where_its_link_leads_next() {
    let mut world = apps();
    fs::create_dir_all(world.root.join("r/1/conf")).unwrap();
    fs::create_dir_all(world.root.join("r/2/conf")).unwrap();
    write(world.root.join("r/1/conf/one.ini"), "x");
    write(world.root.join("r/2/conf/two.ini"), "x");
    symlink("../r/now", world.root.join("apps/l")).unwrap();
    symlink("1", world.root.join("r/now")).unwrap();
    world.until_seen("apps/l/conf/one.ini");
    world.settle();
    symlink("2", world.root.join("r/next")).unwrap();
    fs::rename(world.root.join("r/next"), world.root.join("r/now")).unwrap();
    world.until_seen("apps/l/conf/two.ini");
}

#[test]
fn a_single_file_is_seen_when_it_appears_and_gone_when_it_is_removed() {
    let mut world = World::with(stage(), &["sub/one.ini"], SourceOptions::default());
    assert!(matches!(world.said[..], [Report::ScanBegan(_), Report::ScanEnded(_)]), "{:?}", world.said);
    fs::create_dir(world.root.join("sub")).unwrap();
    world.run(Duration::from_millis(20), |_| false);
    write(world.root.join("sub/other.ini"), "x");
    write(world.root.join("sub/one.ini"), "x");
    world.until_seen("sub/one.ini");
    assert_eq!(world.seen(), ["sub/one.ini"]);
    fs::remove_file(world.root.join("sub/one.ini")).unwrap();
    world.until_gone("sub/one.ini");
}

#[test]
fn a_pattern_without_a_directory_part_matches_where_the_emperor_started() {
    let (keep, root) = stage();
    write(root.join("here.ini"), "x");
    let world = World::with((keep, root), &["*.ini"], SourceOptions::default());
    assert_eq!(world.seen(), ["here.ini"]);
}

#[test]
fn a_pattern_matches_bytes_that_are_not_text() {
    use std::os::unix::ffi::OsStrExt;
    let (keep, root) = stage();
    write(root.join("v").join(std::ffi::OsStr::from_bytes(b"\xff.ini")), "x");
    let world = World::with((keep, root), &["glob://v/*.ini"], SourceOptions::default());
    assert_eq!(world.seen(), ["v/\\xff.ini"]);
}
