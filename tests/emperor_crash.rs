//! Vassals survive a crash of their emperor, where a service manager keeps their descriptors.
//!
//! The test is the manager: it keeps what it is given, and passes it to the emperor that it starts next.

#[path = "support/mod.rs"]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use support::emperor::{Builder, Emperor, Kind};
use support::manager::Manager;
use support::{Bed, PATIENCE, poll};

/// The emperor's options; it finds the manager.
fn builder(bed: &Bed, manager: &Manager) -> Builder {
    let builder = Builder::new(bed, Kind::Ours).stats().env("NOTIFY_SOCKET", manager.socket());
    builder.flag("emperor-fd-store")
}

/// Kills the emperor and starts the next one, with what is kept; returns when that governs.
fn crash(bed: &Bed, manager: &Manager, emperor: Emperor, meanwhile: impl FnOnce()) -> Emperor {
    drop(emperor);
    meanwhile();
    let word = manager.pass();
    let ready = manager.heard("READY=1");
    let emperor = builder(bed, manager).usher(word).start();
    assert!(
        poll(PATIENCE, || (manager.heard("READY=1") > ready).then_some(())).is_some(),
        "{}",
        bed.report()
    );
    emperor
}

/// Waits until so many vassals are there, all are loyal, and the emperor knows it.
fn all_are_loyal(emperor: &Emperor, count: usize) {
    emperor.wait_stats("all are loyal", |stats| {
        let vassals = stats["vassals"].as_array()?;
        (vassals.len() == count && vassals.iter().all(|vassal| vassal["loyal"] == 1)).then_some(())
    });
}

fn kill_vassal(bed: &Bed, name: &str, times: usize) {
    kill(Pid::from_raw(bed.started(name, times)), Signal::SIGKILL).expect("a vassal that lives");
}

#[test]
fn the_next_emperor_governs_the_vassals_of_one_that_was_killed() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    bed.script("beats.ini", "say=1,5,17 beat=200");
    let names = ["good.ini", "beats.ini", "gone.ini", "dies.ini", "touched.ini"];
    for name in names {
        bed.vassal(name);
    }
    let mut emperor = builder(&bed, &manager).start();
    all_are_loyal(&emperor, names.len());
    manager.until_vassals(10);
    for _ in 0..2 {
        emperor = crash(&bed, &manager, emperor, || {});
        emperor.wait_log("5 vassals taken over from emperor");
        assert_eq!(manager.vassals(), 10);
        for name in names {
            let stats = emperor.stats_of(name).expect("its row");
            assert_eq!(stats["loyal"], 1, "{stats:#}");
            assert_eq!(stats["pid"], bed.started(name, 1));
        }
    }
    let log = bed.log();
    assert!(
        names.iter().all(|name| log.execs(name).len() == 1 && log.heard(name).is_empty()),
        "{}",
        bed.report()
    );

    bed.vassal("touched.ini");
    bed.until("a reload", |log| log.heard("touched.ini") == ["1"]);
    bed.remove("v/gone.ini");
    bed.until("a stop", |log| log.heard("gone.ini") == ["0"]);
    kill_vassal(&bed, "dies.ini", 1);
    bed.started("dies.ini", 2);
    bed.vassal("new.ini");
    bed.started("new.ini", 1);
    bed.until("loyal", |log| log.said("new.ini", 17) == 1);
    manager.until_vassals(10);
    emperor.stop_politely(&bed);
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0], "nothing is kept for nobody");
}

#[test]
fn what_happens_while_there_is_no_emperor_is_made_up_for() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    let names = ["dies.ini", "gone.ini", "same.ini", "touched.ini"];
    for name in names {
        bed.vassal(name);
    }
    let emperor = builder(&bed, &manager).start();
    all_are_loyal(&emperor, names.len());
    manager.until_vassals(8);
    let emperor = crash(&bed, &manager, emperor, || {
        kill_vassal(&bed, "dies.ini", 1);
        bed.remove("v/gone.ini");
        bed.vassal("touched.ini");
        bed.vassal("new.ini");
    });
    bed.started("dies.ini", 2);
    bed.started("new.ini", 1);
    bed.until("a stop", |log| log.heard("gone.ini") == ["0"]);
    bed.until("a reload", |log| log.heard("touched.ini") == ["1"]);
    assert_eq!(bed.log().execs("same.ini").len(), 1);
    emperor.wait_log("vassal dies.ini (pid: ");
    manager.until_vassals(8);
    emperor.stop_politely(&bed);
}

#[test]
fn a_crash_behind_a_renewal_and_a_renewal_behind_a_crash_are_no_different() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    bed.vassal("a.ini");
    let mut emperor = builder(&bed, &manager).start();
    all_are_loyal(&emperor, 1);
    manager.until_vassals(2);
    for _ in 0..2 {
        emperor.signal(Signal::SIGUSR2);
        emperor.wait_log("taken over from emperor");
        assert_eq!(manager.vassals(), 2);
        emperor = crash(&bed, &manager, emperor, || {});
        emperor.wait_log("1 vassals taken over from emperor");
        assert_eq!(manager.vassals(), 2);
    }
    let states = manager.names().iter().filter(|name| name.starts_with("emperor-state-")).count();
    assert_eq!(states, 1);
    assert_eq!(bed.log().heard("a.ini"), [""; 0]);
    emperor.stop_politely(&bed);
    manager.hear_all();
    assert_eq!(manager.names(), [""; 0]);
}

#[test]
fn a_socket_that_waits_on_demand_refuses_nobody_over_a_crash() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    let at = bed.path("socket");
    for name in ["a.ini", "b.ini"] {
        bed.write(format!("v/{name}.at"), format!("{}-{name}", at.display()));
        bed.vassal(name);
    }
    let start = |word: Option<String>| {
        let builder = builder(&bed, &manager).opt("emperor-on-demand-extension", ".at");
        word.into_iter().fold(builder, Builder::usher).start()
    };
    let emperor = start(None);
    let connect =
        |name: &str| std::os::unix::net::UnixStream::connect(format!("{}-{name}", at.display())).unwrap();
    let answer = |mut stream: std::os::unix::net::UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    manager.until_vassals(2);
    assert_eq!(answer(connect("a.ini")), "ok\n");
    manager.until_vassals(4);
    emperor.wait_stats("it is loyal", |_| emperor.stats_of("a.ini").filter(|vassal| vassal["loyal"] == 1));
    drop(emperor);
    assert_eq!(answer(connect("a.ini")), "ok\n");
    let waits = connect("b.ini");
    let emperor = start(Some(manager.pass()));
    assert_eq!(answer(waits), "ok\n");
    assert_eq!(answer(connect("a.ini")), "ok\n");
    assert_eq!((bed.log().execs("a.ini").len(), bed.log().execs("b.ini").len()), (1, 1));
    emperor.stop_politely(&bed);
}

#[test]
fn a_manager_that_keeps_too_little_is_told_of_once_and_no_vassal_runs_twice() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 5);
    bed.script("default", "say=1,5,17 linger");
    for number in 0..4 {
        bed.vassal(format!("{number}.ini"));
    }
    let emperor = builder(&bed, &manager).start();
    all_are_loyal(&emperor, 4);
    emperor.wait_log(
        "the service manager does not keep all descriptors: set FileDescriptorStoreMax= to 16 at least",
    );
    bed.vassal("late.ini");
    all_are_loyal(&emperor, 5);
    manager.hear_all();
    assert_eq!(emperor.lines("does not keep all").len(), 1);
    let emperor = crash(&bed, &manager, emperor, || {});
    emperor.wait_log("cannot be taken over, and is started afresh: the service manager has not kept its");
    let names = ["0.ini", "1.ini", "2.ini", "3.ini", "late.ini"];
    all_are_loyal(&emperor, 5);
    let fresh = names.iter().filter(|name| bed.log().execs(name).len() == 2).count();
    assert!(fresh == 3 || fresh == 4, "{}", bed.report());
    let alive =
        |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    for name in names.iter().filter(|name| bed.log().execs(name).len() == 2) {
        assert!(!alive(bed.started(name, 1)), "{name} runs twice");
    }
    emperor.stop_politely(&bed);
}

#[test]
fn a_state_that_makes_no_sense_is_a_fresh_start() {
    for garbage in [&b"no state\n"[..], b"", b"{\"empire\":{}}\n"] {
        let bed = Bed::new();
        let manager = Manager::new(bed.root(), 100);
        bed.script("default", "say=1,5,17 linger");
        bed.vassal("a.ini");
        let emperor = builder(&bed, &manager).start();
        all_are_loyal(&emperor, 1);
        manager.until_vassals(2);
        manager.hear_all();
        let emperor = crash(&bed, &manager, emperor, || {
            manager.change(|store| {
                for (_, fd) in store.iter_mut().filter(|(name, _)| name.starts_with("emperor-state-")) {
                    let mut file = tempfile::tempfile().unwrap();
                    file.write_all(garbage).unwrap();
                    *fd = file.into();
                }
            });
        });
        emperor.wait_log("a state that was kept is lost: ");
        emperor.wait_log("a vassal of which nothing is known (1) has been killed");
        bed.started("a.ini", 2);
        manager.until_vassals(2);
        emperor.stop_politely(&bed);
        manager.hear_all();
        assert_eq!(manager.names(), [""; 0]);
    }
}

#[test]
fn what_is_passed_to_somebody_else_is_left_alone_and_so_is_what_is_not_ours() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    bed.vassal("a.ini");
    let emperor = builder(&bed, &manager).start();
    all_are_loyal(&emperor, 1);
    manager.until_vassals(2);
    manager.change(|store| store.push(("web".into(), fs::File::open("/dev/null").unwrap().into())));
    let emperor = crash(&bed, &manager, emperor, || {});
    assert!(manager.names().contains(&"web".to_owned()));
    // As if it were a child of the process that this is meant for.
    let builder = Builder::bare(&bed, Kind::Ours)
        .on(format!("dir://{}", bed.path("w").display()))
        .usher(manager.pass());
    let mut other = builder.before("env").before("LISTEN_PID=1").start();
    other.wait_log("/w does not exist");
    assert_eq!(other.lines("taken over").len(), 0);
    other.signal(Signal::SIGTERM);
    assert_eq!(other.end().code(), Some(0));
    assert_eq!(bed.log().heard("a.ini"), [""; 0]);
    assert_eq!(bed.log().execs("a.ini").len(), 1);
    emperor.stop_politely(&bed);
}

#[test]
fn who_asks_for_it_without_a_manager_is_told_and_vassals_die_with_the_emperor_unless_they_are_kept() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let alone = |bed: &Bed| Builder::new(bed, Kind::Ours);
    let emperor = alone(&bed).flag("emperor-fd-store").start();
    emperor.wait_log("emperor-fd-store is ignored: there is no service manager");
    assert_eq!(bed.given("a.ini", 1).number("pdeathsig"), 9);
    emperor.stop_politely(&bed);
    let manager = Manager::new(bed.root(), 100);
    let offers = |bed: &Bed| alone(bed).env("NOTIFY_SOCKET", manager.socket()).env("FDSTORE", "100");
    for (times, builder, signal) in [
        (2, offers(&bed), 0),
        (3, offers(&bed).flag("emperor-die-together").flag("emperor-fd-store"), 9),
        (4, offers(&bed).env("UWSGI_EMPEROR_FD_STORE", "false"), 9),
    ] {
        let emperor = builder.start();
        assert_eq!(bed.given("a.ini", times).number("pdeathsig"), signal);
        if signal == 0 {
            manager.until_vassals(2);
        } else {
            manager.hear_all();
            assert_eq!(manager.vassals(), 0);
        }
        emperor.stop_politely(&bed);
    }
}

#[test]
fn the_state_stays_small_however_much_happens() {
    let bed = Bed::new();
    let manager = Manager::new(bed.root(), 100);
    bed.script("fails.ini", "exit=1");
    bed.vassal("fails.ini");
    bed.vassal("a.ini");
    let emperor = builder(&bed, &manager).flag("emperor-no-blacklist").start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    let size = || {
        let dir = format!("/proc/{}/fd", emperor.pid());
        let entries = fs::read_dir(dir).unwrap().flatten();
        let is_it = |entry: &fs::DirEntry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.starts_with("/memfd:emperor-state"))
        };
        entries
            .filter(is_it)
            .filter_map(|entry| fs::metadata(entry.path()).ok())
            .map(|file| file.len())
            .sum::<u64>()
    };
    for round in 0..1500 {
        kill(Pid::from_raw(emperor.pid()), Signal::SIGHUP).unwrap();
        if round % 50 == 0 {
            bed.vassal("a.ini");
        }
    }
    bed.started("fails.ini", 20);
    assert!(size() < 1 << 20, "{}", size());
    emperor.stop_politely(&bed);
}
