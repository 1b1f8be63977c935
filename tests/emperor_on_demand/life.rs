//! Going back to the socket, crashes, changes, and ends.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn on(bed: &Bed, name: &str) -> std::path::PathBuf {
    let path = bed.path(format!("{name}.sock"));
    demand(bed, &format!("{name}.ini"), path.to_str().expect("plain text"));
    path
}

both!(
    /// Source: spec/zerg.md 5.4. Byte 22, byte 0, and a client that comes meanwhile is answered by the next life.
    an_idle_vassal_goes_back_to_the_same_socket_with_all_who_wait,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 after=300 say=22 slow=400");
        let path = on(&bed, "a");
        let emperor = emperor(&bed, kind).start();
        waits(&emperor, "a.ini");
        let before = inode(&path);
        assert_eq!(answer(call(&path)), "ok\n");
        bed.until("told to stop", |log| log.got("a.ini", 0) == 1);
        let (late, later) = (call(&path), call(&path)); // it lives, and does not accept any more
        assert_eq!(answer(late), "ok\n");
        assert_eq!(answer(later), "ok\n");
        assert_eq!(bed.log().execs("a.ini").len(), 2);
        bed.until("its second end", |log| log.of("a.ini", "exit").len() == 2);
        waits(&emperor, "a.ini");
        bed.script("a.ini", "say=1,5,17");
        assert_eq!(answer(call(&path)), "ok\n");
        assert_eq!(bed.log().execs("a.ini").len(), 3);
        assert_eq!(inode(&path), before, "the socket is the same");
        emperor.wait_log("bringing back instance a.ini to on-demand mode");
        assert_eq!(emperor.stats_of("a.ini").expect("a row")["loyal"], 1);
        assert_eq!(emperor.stats()["blacklist"], serde_json::json!([]));
        emperor.stop(&bed);
    }
);

both!(
    /// Source: spec/emperor.md 6.2: only noted, and read at the next start; a running one is told.
    a_change_of_a_waiting_vassal_is_noted,
    |kind| {
        let bed = Bed::new();
        let path = on(&bed, "a");
        bed.set_age("v/a.ini", 100);
        let emperor = emperor(&bed, kind).start();
        waits(&emperor, "a.ini");
        let born = emperor.stats_of("a.ini").expect("a row")["last_mod"].as_u64().expect("a time");
        bed.vassal("a.ini");
        emperor.wait_stats("the change", |_| {
            emperor.stats_of("a.ini").filter(|row| row["last_mod"].as_u64() > Some(born))
        });
        emperor.wait_log("updated configuration for \"on demand\" instance a.ini");
        emperor.signal(Signal::SIGHUP);
        emperor.signal(Signal::SIGUSR1);
        poll(PATIENCE, || emperor.lines("loyal").into_iter().find(|line| line.contains("a.ini"))).expect("a list");
        assert!(bed.log().execs("a.ini").is_empty());
        assert_eq!(answer(call(&path)), "ok\n");
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        emperor.wait_stats("loyal", |_| emperor.stats_of("a.ini").filter(|row| row["loyal"] == 1));
        emperor.signal(Signal::SIGHUP);
        bed.until("told", |log| log.got("a.ini", 1) == 1);
        assert_eq!(bed.log().execs("a.ini").len(), 1);
        emperor.stop(&bed);
    }
);

#[test]
fn a_waiting_vassal_that_is_removed_takes_its_socket_along_and_comes_back_with_a_new_one() {
    let bed = Bed::new();
    let path = on(&bed, "a");
    let mut emperor = emperor(&bed, Kind::Ours).start();
    waits(&emperor, "a.ini");
    bed.remove("v/a.ini");
    poll(PATIENCE, || (!path.exists()).then_some(())).expect("removed");
    emperor.wait_stats("no row", |_| emperor.stats_of("a.ini").is_none().then_some(()));
    bed.vassal("a.ini");
    assert_eq!(answer(call(&path)), "ok\n");
    bed.remove("v/a.ini");
    bed.until("its end", |log| log.of("a.ini", "exit").len() == 1);
    poll(PATIENCE, || (!path.exists()).then_some(())).expect("removed");
    assert!(bed.path("v/a.ini.socket").exists(), "what a person wrote is a person's");
    // The end of the emperor, with nothing but a socket: at once, and the file is gone.
    bed.vassal("a.ini");
    waits(&emperor, "a.ini");
    let begin = Instant::now();
    emperor.signal(Signal::SIGTERM);
    assert_eq!(emperor.end().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(!path.exists());
}

/// The threads that connect until they are told to stop, and what became of it.
struct Load {
    stop: AtomicBool,
    refused: AtomicUsize,
    answered: AtomicUsize,
    unanswered: AtomicUsize,
}

impl Load {
    fn run(&self, path: &Path) {
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
            let Ok(mut stream) = UnixStream::connect(path) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let mut text = String::new();
            let read = stream.read_to_string(&mut text);
            let good = read.is_ok() && text == "ok\n";
            (if good { &self.answered } else { &self.unanswered }).fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn weakness_13_12_a_hundred_crashes_under_load_refuse_and_reset_no_connection() {
    let bed = Bed::new();
    let path = on(&bed, "a");
    let emperor = emperor(&bed, Kind::Ours).opt("emperor-throttle", "0").start();
    waits(&emperor, "a.ini");
    let before = inode(&path);
    let zero = || AtomicUsize::new(0);
    let load = Load { stop: AtomicBool::new(false), refused: zero(), answered: zero(), unanswered: zero() };
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| load.run(&path));
        }
        for life in 1..=100 {
            let pid = bed.started("a.ini", life);
            let seen = load.answered.load(Ordering::Relaxed);
            poll(PATIENCE, || (load.answered.load(Ordering::Relaxed) > seen + 2).then_some(()))
                .expect("answers");
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        }
        bed.started("a.ini", 101);
        load.stop.store(true, Ordering::Relaxed);
    });
    let count = |what: &AtomicUsize| what.load(Ordering::Relaxed);
    assert_eq!(count(&load.refused), 0, "the socket was always there");
    assert_eq!(inode(&path), before);
    // Each process that was killed may have had one client in its hands; nobody was lost in the queue.
    let (answered, unanswered) = (count(&load.answered), count(&load.unanswered));
    assert!(unanswered <= 100, "{unanswered} of {answered}");
    emperor.stop(&bed);
}

#[test]
fn those_who_wait_while_a_crashed_vassal_must_pause_are_answered_later_and_nothing_spins() {
    let bed = Bed::new();
    bed.script("a.ini", "say=1 exit=1");
    let path = on(&bed, "a");
    let emperor = emperor(&bed, Kind::Ours).opt("emperor-throttle", "60000").start();
    let clients: Vec<_> = (0..5).map(|_| call(&path)).collect();
    bed.started("a.ini", 2);
    emperor.wait_stats("a pause", |stats| {
        stats["blacklist"][0]["throttle_level"].as_u64().filter(|&ms| ms > 1000)
    });
    quiet(&emperor);
    assert_eq!(bed.log().execs("a.ini").len(), 2);
    bed.script("a.ini", "say=1,5,17");
    bed.vassal("a.ini"); // a changed file ends the pause
    for client in clients {
        assert_eq!(answer(client), "ok\n");
    }
    emperor.stop(&bed);
}

/// Fails if the emperor does anything to speak of within half a second.
fn quiet(emperor: &Emperor) {
    // What has just happened may have its last effects.
    let calm = poll(Duration::from_secs(5), || {
        let (ticks, slept) = used(emperor.pid());
        std::thread::sleep(Duration::from_millis(500));
        let (ticks_after, slept_after) = used(emperor.pid());
        (ticks_after - ticks <= 1 && slept_after - slept <= 3).then_some(())
    });
    assert!(calm.is_some(), "the emperor does not come to rest\n{}", emperor.log());
}

#[test]
fn a_client_that_leaves_at_once_starts_one_process_and_nothing_spins() {
    let bed = Bed::new();
    let path = on(&bed, "a");
    let emperor = emperor(&bed, Kind::Ours).start();
    waits(&emperor, "a.ini");
    drop(call(&path));
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    quiet(&emperor);
    assert_eq!(bed.log().execs("a.ini").len(), 1);
    emperor.stop(&bed);
}

#[test]
fn a_vassal_that_goes_idle_without_serving_does_not_spin() {
    let bed = Bed::new();
    bed.script("a.ini", "blind say=22"); // it stops at once, and leaves its client in the queue
    let path = on(&bed, "a");
    let emperor = emperor(&bed, Kind::Ours).start();
    let client = call(&path);
    let begin = Instant::now();
    bed.started("a.ini", 10);
    assert!(begin.elapsed() > Duration::from_millis(800), "{:?}", begin.elapsed());
    bed.script("a.ini", "say=1,5,17");
    assert_eq!(answer(client), "ok\n");
    emperor.stop(&bed);
}

#[test]
fn a_socket_that_a_daemon_of_a_removed_vassal_still_holds_does_not_wake_the_emperor() {
    let bed = Bed::new();
    let port = free_port();
    bed.script("a.ini", "say=1,5,17 after=1 leave"); // its child has the socket and no link
    demand(&bed, "a.ini", &format!("127.0.0.1:{port}"));
    let emperor = emperor(&bed, Kind::Ours).start();
    let _first = call_port(port);
    let child = bed.wait("a child", |log| log.of("a.ini", "child").first().map(|event| event.pid));
    kill(Pid::from_raw(child), Signal::SIGSTOP).expect("stop");
    waits(&emperor, "a.ini");
    bed.remove("v/a.ini");
    emperor.wait_stats("no row", |_| emperor.stats_of("a.ini").is_none().then_some(()));
    let _second = call_port(port); // nobody accepts it
    quiet(&emperor);
    kill(Pid::from_raw(child), Signal::SIGKILL).expect("kill");
    emperor.stop(&bed);
}

#[test]
fn root_weakness_13_01_two_that_wait_and_a_stubborn_one_end_without_harm_to_others() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let paths = [on(&bed, "a"), on(&bed, "b")];
    bed.script("stubborn.ini", "say=1,5,17 deaf immune linger");
    bed.vassal("stubborn.ini");
    // In a namespace of its own: should it signal everybody, nobody else is hit.
    let outside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"];
    let wrapped = outside.iter().fold(emperor(&bed, Kind::Ours), |emperor, word| emperor.before(word));
    let witness = bed.witness();
    let inside = format!("sleep 1000 & echo $! > {}/canary; exec \"$@\"", bed.root().display());
    let wrapped = wrapped.before("sh").before("-c").before(inside).before("sh");
    let mut emperor = wrapped.opt("reload-mercy", "1").start();
    assert!(witness.exists());
    for name in ["a.ini", "b.ini"] {
        waits(&emperor, name);
    }
    bed.until("loyal", |log| log.said("stubborn.ini", 17) == 1);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", emperor.pid()));
    let first: i32 = children.expect("a child").trim().parse().expect("one child");
    kill(Pid::from_raw(first), Signal::SIGTERM).expect("a signal");
    emperor.wait_log("NO MERCY for vassal stubborn.ini");
    assert_eq!(emperor.end().code(), Some(0), "{}", emperor.log());
    assert!(emperor.log().contains("The Emperor is buried."), "it was not killed itself\n{}", emperor.log());
    assert_eq!(emperor.lines("NO MERCY").len(), 1);
    assert!(paths.iter().all(|path| !path.exists()));
}
