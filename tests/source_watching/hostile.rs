//! Many files, many events, and limits.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use emperor::emperor::source::{Report, SourceOptions};

use crate::world::{World, stage, write};

#[test]
fn ten_thousand_files_are_scanned_in_order() {
    let (keep, root) = stage();
    for n in 0..10_000 {
        write(root.join(format!("v/{n:05}.ini")), "x");
    }
    let mut world = World::with((keep, root), &["v"], SourceOptions::default());
    assert_eq!(world.seen().len(), 10_000);
    assert!(world.seen().is_sorted());
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            world.said.clear();
            let began = Instant::now();
            world.rescan();
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("scan of 10,000 files: best {:?}, median {:?}", times[0], times[2]);
    // One more is one look, not a scan.
    world.said.clear();
    write(world.v("new.ini"), "x");
    world.until_seen("new.ini");
    assert!(world.said.len() < 10, "{}", world.said.len());
}

#[test]
fn ten_thousand_files_that_arrive_together_are_all_seen() {
    let mut world = World::new();
    let v = world.root.join("v");
    let writer = std::thread::spawn(move || {
        for n in 0..10_000 {
            write(v.join(format!("{n}.ini")), "x");
        }
    });
    let mut names = std::collections::HashSet::new();
    world.until("all of them", |report| {
        if let Report::Seen(_, name, _) = report {
            names.insert(name.clone());
        }
        names.len() == 10_000
    });
    writer.join().unwrap();
}

#[test]
fn a_file_replaced_a_thousand_times_a_second_is_reported_all_the_time() {
    let mut world = World::new();
    write(world.v("a.ini"), "x");
    write(world.v("b.ini"), "x");
    world.until_seen("b.ini");
    let stop = Arc::new(AtomicBool::new(false));
    let (root, stopped) = (world.root.clone(), stop.clone());
    let replacing = std::thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            write(root.join("new"), "replaced");
            fs::rename(root.join("new"), root.join("v/a.ini")).unwrap();
            count += 1;
            std::thread::sleep(Duration::from_micros(900));
        }
        count
    });
    let began = Instant::now();
    let (mut last, mut widest, mut reports) = (began, Duration::ZERO, 0);
    world.run(Duration::from_secs(1), |report| {
        if matches!(report, Report::Seen(_, name, _) if name.as_bytes() == b"a.ini") {
            widest = widest.max(last.elapsed());
            last = Instant::now();
            reports += 1;
        }
        false
    });
    assert!(!world.says_gone());
    // Another file is not made to wait.
    world.said.clear();
    write(world.v("b.ini"), "changed");
    world.until_seen_as("b.ini", &world.v("b.ini"));
    stop.store(true, Ordering::Relaxed);
    println!("{} replaces, {reports} reports, widest gap {widest:?}", replacing.join().unwrap());
    fs::rename(world.root.join("v/b.ini"), world.v("a.ini")).unwrap();
    assert!(reports >= 10 && widest < Duration::from_millis(500), "{reports} {widest:?}");
    world.until_seen_as("a.ini", &world.v("a.ini"));
}

#[test]
fn after_a_flood_that_overflows_the_queue_everything_is_right_again() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut world = World::new();
    write(world.v("stays.ini"), "x");
    write(world.v("goes.ini"), "x");
    world.until_seen("goes.ini");
    let files: Vec<_> = (0..2).map(|n| fs::File::create(world.v(&format!("noise{n}"))).unwrap()).collect();
    for _ in 0..=limit {
        for file in &files {
            file.set_modified(std::time::SystemTime::now()).unwrap();
        }
    }
    world.said.clear();
    fs::remove_file(world.v("goes.ini")).unwrap();
    write(world.v("comes.ini"), "x");
    world.until_scanned();
    world.until_seen("comes.ini");
    assert!(!world.seen().contains(&"goes.ini".to_owned()));
    world.said.clear();
    write(world.v("after.ini"), "x");
    world.until_seen("after.ini");
}

#[test]
fn a_flood_that_never_ends_does_not_keep_one_call_busy() {
    let mut world = World::new();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..3)
        .map(|n| {
            let (v, stopped) = (world.root.join("v"), stop.clone());
            std::thread::spawn(move || {
                let files = [0, 1].map(|m| fs::File::create(v.join(format!("{n}-{m}.ini"))).unwrap());
                while !stopped.load(Ordering::Relaxed) {
                    for file in &files {
                        file.set_modified(std::time::SystemTime::now()).unwrap();
                    }
                }
            })
        })
        .collect();
    let end = Instant::now() + Duration::from_millis(500);
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        world.run(Duration::ZERO, |_| false);
        world.sources.on_hint(Instant::now(), &mut |_| {});
        longest = longest.max(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    println!("longest call during the flood: {longest:?}");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    write(world.v("after.ini"), "x");
    world.until_seen("after.ini");
}
