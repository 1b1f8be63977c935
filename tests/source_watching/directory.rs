//! What becomes of the watched directory itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use emperor::emperor::source::{Report, SourceOptions};

use crate::world::{FIRST, World, stage, write};

fn with_a() -> World {
    let (keep, root) = stage();
    write(root.join("v/a.ini"), "x");
    let mut world = World::with((keep, root), &["v"], SourceOptions::default());
    world.until_seen("a.ini");
    world.settle();
    world
}

#[test]
fn the_first_scan_names_files_in_order_and_ends() {
    let (keep, root) = stage();
    for name in ["c.ini", "a.ini", "b.yml", ".hidden.json", "no.txt"] {
        write(root.join("v").join(name), "x");
    }
    let world = World::with((keep, root), &["v"], SourceOptions::default());
    assert_eq!(world.seen(), [".hidden.json", "a.ini", "b.yml", "c.ini"]);
    assert!(matches!(world.said.first(), Some(Report::ScanBegan(FIRST))));
    assert!(matches!(world.said.last(), Some(Report::ScanEnded(FIRST))));
}

#[test]
fn a_directory_that_is_not_there_is_told_once_and_used_when_it_appears() {
    let mut world = World::with(stage(), &["later/vassals"], SourceOptions::default());
    world.rescan();
    let path = world.root.join("later/vassals").display().to_string();
    assert_eq!(world.troubles().len(), 1, "{:?}", world.said);
    assert!(world.troubles()[0].contains(&path) && world.troubles()[0].contains("does not exist"));
    fs::create_dir(world.root.join("later")).unwrap();
    world.run(Duration::from_millis(20), |_| false);
    fs::create_dir(world.root.join("later/vassals")).unwrap();
    world.until_scanned();
    assert_eq!(world.sources.trouble(FIRST), None);
    write(world.root.join("later/vassals/a.ini"), "x");
    world.until_seen("a.ini");
}

#[test]
fn parity_vassals_of_a_removed_directory_are_not_gone_and_it_is_used_again() {
    // spec/emperor.md 3.2: they keep running. A vassal works in it, so the kernel keeps its inode.
    let mut world = with_a();
    let held = fs::File::open(world.root.join("v")).unwrap();
    fs::remove_dir_all(world.root.join("v")).unwrap();
    world.until_trouble("does not exist");
    world.run(Duration::from_millis(50), |_| false);
    assert!(!world.says_gone(), "{:?}", world.said);
    world.said.clear();
    fs::create_dir(world.root.join("v")).unwrap();
    write(world.v("b.ini"), "x");
    world.until_seen("b.ini");
    write(world.v("c.ini"), "x");
    world.until_seen("c.ini");
    drop(held);
}

#[test]
fn a_directory_that_is_renamed_away_is_missed_and_another_one_is_taken() {
    let mut world = with_a();
    fs::rename(world.root.join("v"), world.root.join("old")).unwrap();
    world.until_trouble("does not exist");
    fs::remove_file(world.root.join("old/a.ini")).unwrap();
    write(world.root.join("old/stray.ini"), "x");
    world.run(Duration::from_millis(30), |_| false);
    assert!(!world.says_gone());
    assert!(world.seen().is_empty());
    fs::create_dir(world.root.join("new")).unwrap();
    write(world.root.join("new/b.ini"), "x");
    fs::rename(world.root.join("new"), world.root.join("v")).unwrap();
    world.until_scanned();
    world.said.clear();
    write(world.v("c.ini"), "x");
    world.until_seen("c.ini");
}

#[test]
fn a_directory_that_is_swapped_for_another_is_scanned_without_trouble() {
    let mut world = with_a();
    fs::create_dir(world.root.join("new")).unwrap();
    write(world.root.join("new/b.ini"), "x");
    fs::rename(world.root.join("v"), world.root.join("old")).unwrap();
    fs::rename(world.root.join("new"), world.root.join("v")).unwrap();
    world.until_seen("b.ini");
    assert!(world.troubles().is_empty());
}

#[test]
fn a_directory_put_over_an_empty_one_is_scanned() {
    let mut world = World::new();
    fs::create_dir(world.root.join("new")).unwrap();
    write(world.root.join("new/b.ini"), "x");
    fs::rename(world.root.join("new"), world.root.join("v")).unwrap();
    world.until_seen("b.ini");
}

#[test]
fn a_renamed_parent_is_noticed() {
    let (keep, root) = stage();
    fs::create_dir_all(root.join("p/q/v")).unwrap();
    let mut world = World::with((keep, root), &["p/q/v"], SourceOptions::default());
    fs::rename(world.root.join("p"), world.root.join("gone")).unwrap();
    world.until_trouble("does not exist");
    fs::create_dir_all(world.root.join("p/q/v")).unwrap();
    world.until_scanned();
    write(world.root.join("p/q/v/a.ini"), "x");
    world.until_seen("a.ini");
}

#[test]
fn a_link_to_the_directory_is_followed_where_it_leads_next() {
    let (keep, root) = stage();
    fs::create_dir_all(root.join("releases/1/v")).unwrap();
    fs::create_dir_all(root.join("releases/2/v")).unwrap();
    symlink("releases/1", root.join("current")).unwrap();
    write(root.join("releases/1/v/a.ini"), "x");
    write(root.join("releases/2/v/b.ini"), "x");
    let mut world = World::with((keep, root), &["current/v"], SourceOptions::default());
    assert_eq!(world.seen(), ["a.ini"]);
    world.said.clear();
    symlink("releases/2", world.root.join("next")).unwrap();
    fs::rename(world.root.join("next"), world.root.join("current")).unwrap();
    world.until_seen("b.ini");
    assert_eq!(world.sources.info(FIRST).unwrap().cwd, world.root.join("releases/2/v"));
    world.settle();
    write(world.root.join("releases/1/v/a.ini"), "changed");
    write(world.root.join("releases/2/v/b.ini"), "changed");
    world.until_seen("b.ini");
    assert_eq!(world.seen(), ["b.ini"]);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_trouble_until_it_is_one() {
    let (keep, root) = stage();
    fs::remove_dir(root.join("v")).unwrap();
    let mut world = World::with((keep, root), &["v"], SourceOptions::default());
    world.until_trouble("does not exist");
    write(world.root.join("v"), "not a directory");
    world.until_trouble("is not a directory");
    fs::remove_file(world.root.join("v")).unwrap();
    fs::create_dir(world.root.join("v")).unwrap();
    world.until_scanned();
}

#[test]
fn root_a_file_system_that_is_mounted_over_the_directory_and_taken_away_is_noticed() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let mut world = with_a();
    let none = None::<&str>;
    let v = world.root.join("v");
    if mount(Some("tmpfs"), &v, Some("tmpfs"), MsFlags::empty(), none).is_err() {
        println!("skipped: mounting needs root");
        return;
    }
    world.rescan(); // the kernel says nothing of a mount: the slow rescan finds it
    world.said.clear();
    write(world.v("inside.ini"), "x");
    let seen = world.run(Duration::from_secs(5), |report| matches!(report, Report::Seen(..)));
    world.said.clear();
    umount2(&v, MntFlags::empty()).unwrap();
    assert!(seen, "the mounted directory is not watched");
    world.until_seen("a.ini");
}

#[test]
fn a_scan_by_hand_reports_everything_again() {
    let mut world = with_a();
    world.rescan();
    assert_eq!(world.seen(), ["a.ini"]);
}

#[test]
fn a_file_that_is_being_written_counts_as_there_in_a_scan() {
    let mut world = with_a();
    write(world.v("a.ini"), "changed");
    world.rescan();
    let writing = |report: &Report| matches!(report, Report::Writing(_, name) if name.as_bytes() == b"a.ini");
    assert!(world.said.iter().any(writing), "{:?}", world.said);
    world.until_seen_as("a.ini", &world.v("a.ini"));
}

#[test]
fn everything_is_scanned_anew_after_the_safety_time_and_not_before() {
    let options = SourceOptions { rescan: Duration::from_millis(1_500), ..SourceOptions::default() };
    let mut world = World::with(stage(), &["v"], options);
    world.said.clear();
    assert!(!world.run(Duration::from_millis(100), |_| true));
    world.until_scanned();
}

#[test]
fn without_a_safety_time_nothing_is_due_ever() {
    let options = SourceOptions { rescan: Duration::ZERO, ..SourceOptions::default() };
    let world = World::with(stage(), &["v"], options);
    assert_eq!(world.sources.next_timeout(), None);
}

#[test]
fn without_an_event_there_is_nothing_to_do_until_the_safety_scan() {
    let mut world = with_a();
    world.run(Duration::from_millis(200), |_| false);
    let next = world.sources.next_timeout().unwrap();
    assert!(next - std::time::Instant::now() > Duration::from_secs(50), "{next:?}");
}

#[test]
fn several_sources_report_under_their_own_numbers() {
    let (keep, root) = stage();
    fs::create_dir(root.join("w")).unwrap();
    let mut world = World::with((keep, root), &["v", "w"], SourceOptions::default());
    write(world.root.join("w/a.ini"), "x");
    world.until("w/a.ini", |report| matches!(report, Report::Seen(id, ..) if id.0 == 1));
    write(world.v("a.ini"), "x");
    world.until("v/a.ini", |report| matches!(report, Report::Seen(id, ..) if id.0 == 0));
    let cwds: Vec<PathBuf> = world.sources.infos().map(|(_, info)| info.cwd.clone()).collect();
    assert_eq!(cwds, [world.root.join("v"), world.root.join("w")]);
}

#[test]
fn the_same_directory_twice_is_reported_twice() {
    let (keep, root) = stage();
    let mut world = World::with((keep, root), &["v", "dir://v"], SourceOptions::default());
    write(world.v("a.ini"), "x");
    for number in [0, 1] {
        world.until("both", |report| matches!(report, Report::Seen(id, ..) if id.0 == number));
    }
}
