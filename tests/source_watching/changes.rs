//! Each way in which a file changes.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant, SystemTime};

use emperor::emperor::source::Report;

use crate::world::{World, write};

fn with_a() -> World {
    let mut world = World::new();
    write(world.v("a.ini"), "[uwsgi]");
    world.until_seen("a.ini");
    world.settle();
    world
}

#[test]
fn a_new_file_is_seen_when_it_is_closed() {
    let mut world = World::patient();
    let mut file = File::create(world.v("a.ini")).unwrap();
    file.write_all(b"[uwsgi]\n").unwrap();
    let seen = world.run(Duration::from_millis(30), |report| matches!(report, Report::Seen(..)));
    assert!(!seen, "half-written: {:?}", world.said);
    file.write_all(b"master = true\n").unwrap();
    drop(file);
    assert_eq!(world.until_seen("a.ini").size, 22);
}

#[test]
fn a_file_that_stays_open_is_seen_once_it_rests() {
    let mut world = World::new();
    let mut file = File::create(world.v("a.ini")).unwrap();
    file.write_all(b"one").unwrap();
    assert_eq!(world.until_seen("a.ini").size, 3);
    world.said.clear();
    file.write_all(b"two").unwrap();
    assert_eq!(world.until_seen("a.ini").size, 6);
}

#[test]
fn a_file_that_is_truncated_and_written_again_is_never_seen_empty() {
    let mut world = with_a();
    for _ in 0..50 {
        write(world.v("a.ini"), "[uwsgi]\nmaster = true\n");
        world.run(Duration::from_millis(1), |_| false);
    }
    world.run(Duration::from_millis(50), |_| false);
    for report in &world.said {
        if let Report::Seen(_, _, identity) = report {
            assert_ne!(identity.size, 0, "{:?}", world.said);
        }
    }
    assert!(!world.says_gone());
}

#[test]
fn a_touch_is_seen() {
    let mut world = with_a();
    let file = File::options().append(true).open(world.v("a.ini")).unwrap();
    world.settle();
    file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    world.until_seen_as("a.ini", &world.v("a.ini"));
}

#[test]
fn an_older_date_is_seen() {
    let mut world = with_a();
    let file = File::options().append(true).open(world.v("a.ini")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_times(FileTimes::new().set_modified(then)).unwrap();
    drop(file);
    world.until_seen_as("a.ini", &world.v("a.ini"));
}

#[test]
fn a_rewrite_of_the_same_size_within_the_same_second_is_seen() {
    let mut world = with_a();
    let before = fs::metadata(world.v("a.ini")).unwrap().modified().unwrap();
    while fs::metadata(world.v("a.ini")).unwrap().modified().unwrap() == before {
        write(world.v("a.ini"), "[UWSGI]");
    }
    world.until_seen_as("a.ini", &world.v("a.ini"));
}

#[test]
fn a_file_put_over_another_is_seen_even_with_the_same_date_and_size() {
    let mut world = with_a();
    let date = fs::metadata(world.v("a.ini")).unwrap().modified().unwrap();
    let other = world.root.join("other");
    write(&other, "[OTHER]");
    File::options().append(true).open(&other).unwrap().set_modified(date).unwrap();
    fs::rename(&other, world.v("a.ini")).unwrap();
    world.until_seen_as("a.ini", &world.v("a.ini"));
    assert!(!world.says_gone());
}

#[test]
fn a_change_of_permissions_is_reported_for_others_to_judge() {
    let mut world = with_a();
    let before = world.v("a.ini");
    fs::set_permissions(before, fs::Permissions::from_mode(0o600)).unwrap();
    world.until_seen("a.ini");
}

#[test]
fn a_hard_link_is_seen() {
    let mut world = World::patient();
    write(world.root.join("other"), "x");
    fs::hard_link(world.root.join("other"), world.v("a.ini")).unwrap();
    let began = Instant::now();
    world.until_seen("a.ini");
    assert!(began.elapsed() < Duration::from_secs(4), "it waited as if it were being written");
}

#[test]
fn a_removed_file_is_gone() {
    let mut world = with_a();
    fs::remove_file(world.v("a.ini")).unwrap();
    world.until_gone("a.ini");
}

#[test]
fn a_renamed_file_is_gone_under_one_name_and_seen_under_the_other() {
    let mut world = with_a();
    fs::rename(world.v("a.ini"), world.v("b.ini")).unwrap();
    world.until_seen("b.ini");
    world.until_gone("a.ini");
}

#[test]
fn a_file_renamed_to_a_name_that_is_none_of_ours_is_gone() {
    let mut world = with_a();
    fs::rename(world.v("a.ini"), world.v("a.ini~")).unwrap();
    world.until_gone("a.ini");
}

#[test]
fn a_file_that_is_removed_and_made_again_is_never_gone() {
    let mut world = with_a();
    for _ in 0..20 {
        fs::remove_file(world.v("a.ini")).unwrap();
        write(world.v("a.ini"), "[uwsgi]\nx = y\n");
        world.run(Duration::from_millis(10), |_| false);
    }
    world.until_seen_as("a.ini", &world.v("a.ini"));
    assert!(!world.says_gone(), "{:?}", world.said);
}

#[test]
fn what_is_not_named_like_a_vassal_makes_no_noise() {
    let mut world = World::new();
    write(world.v("a.txt"), "x");
    fs::rename(world.v("a.txt"), world.v("b.ini~")).unwrap();
    fs::create_dir(world.v("sub")).unwrap();
    world.said.clear();
    world.run(Duration::from_millis(50), |_| false);
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn reports_follow_the_change_within_milliseconds() {
    let mut world = with_a();
    let mut times: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut measure = |what, change: &mut dyn FnMut(&World, usize), world: &mut World| {
        let mut all: Vec<Duration> = (0..50)
            .map(|round| {
                world.said.clear();
                change(world, round);
                let began = Instant::now();
                world.until(what, |report| matches!(report, Report::Seen(..) | Report::Gone(..)));
                let time = began.elapsed();
                world.run(Duration::from_millis(5), |_| false);
                time
            })
            .collect();
        all.sort();
        times.push((what, all));
    };
    measure("close", &mut |world, n| write(world.v("a.ini"), &"x".repeat(n + 1)), &mut world);
    measure(
        "replace",
        &mut |world, n| {
            write(world.root.join("new"), &"x".repeat(n + 1));
            fs::rename(world.root.join("new"), world.v("a.ini")).unwrap();
        },
        &mut world,
    );
    measure(
        "remove, write",
        &mut |world, n| {
            if n % 2 == 0 {
                fs::remove_file(world.v("a.ini")).unwrap();
            } else {
                write(world.v("a.ini"), "x");
            }
        },
        &mut world,
    );
    for (what, all) in &times {
        println!("{what}: median {:?}, worst {:?}", all[all.len() / 2], all[all.len() - 1]);
        assert!(all[all.len() / 2] <= Duration::from_millis(10), "{what}: {all:?}");
    }
}
