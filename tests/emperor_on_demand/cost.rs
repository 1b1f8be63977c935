//! What a vassal that nobody uses costs: a socket and a few hundred bytes.

use super::*;
use std::time::{Duration, Instant};

/// Anonymous memory of a process, bytes.
fn anonymous(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a figure");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// An emperor with so many vassals that wait, and how long it took.
fn crowd(count: usize) -> (Bed, Emperor, Duration) {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("s")).expect("a directory");
    for n in 0..count {
        std::fs::write(bed.path(format!("v/vassal-{n:04}.ini")), "[uwsgi]\n").expect("a file");
    }
    let begin = Instant::now();
    let emperor =
        Builder::new(&bed, Kind::Ours).stats().opt("emperor-on-demand-directory", bed.path("s")).start();
    emperor.wait_log("starting uWSGI Emperor");
    let all = || std::fs::read_dir(bed.path("s")).expect("a directory").count() == count;
    poll(PATIENCE, || all().then_some(())).expect("all sockets");
    let taken = begin.elapsed();
    assert_eq!(emperor.stats()["vassals"].as_array().expect("rows").len(), count);
    (bed, emperor, taken)
}

#[test]
fn a_thousand_vassals_that_wait_cost_little_memory_and_no_wakeup() {
    let (few, little, _) = crowd(100);
    let (many, much, taken) = crowd(1100);
    let each = anonymous(much.pid()).saturating_sub(anonymous(little.pid())) / 1000;
    // The budget is 0.55 KiB for an optimised build; this one is not.
    assert!(each < 1024, "{each} bytes each");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    let rest = poll(Duration::from_secs(10), || {
        let before = used(much.pid());
        std::thread::sleep(Duration::from_secs(1));
        (used(much.pid()) == before).then_some(())
    });
    assert!(rest.is_some(), "it wakes up though nothing happens");
    assert_eq!(answer(call(&many.path("s/vassal-0700.socket"))), "ok\n");
    much.stop(&many);
    little.stop(&few);
    assert_eq!(std::fs::read_dir(many.path("s")).expect("a directory").count(), 0);
}
