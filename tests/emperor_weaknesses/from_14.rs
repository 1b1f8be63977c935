//! Numbers 13.14 to 13.29: what stalls, leaks, floods, and is left behind.

use crate::support::emperor::{Builder, Kind};
use crate::support::{self, Bed, root};
use crate::weakness;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

weakness!(
    /// A hook of the emperor's that takes its time holds up all vassals.
    weakness_13_14_a_slow_hook_stalls_everything,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let slow = "test $UWSGI_VASSAL_CONFIG != slow.ini || sleep 3";
        let emperor = Builder::new(&bed, kind).opt("exec-as-emperor", slow).start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        emperor.wait_log("a.ini is now loyal");
        bed.vassal("slow.ini");
        emperor.nudge();
        bed.started("slow.ini", 1);
        let begin = Instant::now();
        kill(Pid::from_raw(bed.started("a.ini", 1)), Signal::SIGKILL).expect("kill");
        bed.started("a.ini", 2);
        let took = begin.elapsed();
        emperor.stop(&bed);
        took > Duration::from_millis(1500)
    }
);

weakness!(
    /// A client of the stats server that does not read holds up all vassals.
    weakness_13_14_a_slow_client_stalls_everything,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        // More than a socket's buffers hold.
        bed.script("default", "say=1,5,17");
        for n in 0..400 {
            fs::write(bed.v().join(format!("{}{n}.ini", "x".repeat(200))), "[uwsgi]\n").expect("a file");
        }
        let emperor = Builder::new(&bed, kind).stats().start();
        bed.until("all run", |log| log.names().len() == 401);
        emperor.wait_log("a.ini is now loyal");
        // Three that read no more than the first byte: then the emperor is at it.
        let lazy = [(); 3].map(|()| std::os::unix::net::UnixStream::connect(bed.path("stats")).expect("a client"));
        std::io::Read::read_exact(&mut &lazy[0], &mut [0]).expect("the first byte");
        kill(Pid::from_raw(bed.started("a.ini", 1)), Signal::SIGKILL).expect("kill");
        let again = || (bed.log().execs("a.ini").len() == 2).then_some(());
        let stalled = support::poll(Duration::from_millis(1500), again).is_none();
        drop(lazy);
        emperor.stop(&bed);
        stalled
    }
);

weakness!(
    /// Descriptors are closed one by one, up to the limit, for each start.
    weakness_13_15_a_start_costs_by_the_limit_of_descriptors,
    |kind| {
        let bed = Bed::new();
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("the limit");
        let limit = hard.min(500_000);
        let names: Vec<_> = (0..9).map(|n| format!("v{n}.ini")).collect();
        names.iter().for_each(|n| drop(bed.vassal(n)));
        let emperor = Builder::new(&bed, kind).usher(format!("nofile={limit}")).start();
        let mut costs: Vec<_> = names.iter().map(|n| bed.given(n, 1).number("cpu_us")).collect();
        costs.sort_unstable();
        emperor.stop(&bed);
        // The processor time of the vassal's process at its entry; 100 ns for each descriptor is little.
        u64::try_from(costs[4]).expect("a time") > limit / 10 + 500
    }
);

weakness!(
    /// What the emperor runs inherits its descriptors: other vassals' links, its epoll.
    weakness_13_16_hooks_inherit_every_descriptor,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let list = format!("ls -l /proc/self/fd > {0}.part; mv {0}.part {0}", bed.path("fds").display());
        let emperor = Builder::new(&bed, kind).opt("exec-as-emperor", list).start();
        let fds = support::poll(support::PATIENCE, || fs::read_to_string(bed.path("fds")).ok()).expect("a list");
        emperor.stop(&bed);
        fds.contains("socket:") || fds.contains("anon_inode:")
    }
);

weakness!(
    /// A directory that may be entered but not read ends the emperor, and all its vassals.
    weakness_13_17_root_an_unreadable_directory_is_a_crash,
    |kind| {
        if !root() {
            return kind == Kind::Real;
        }
        let user = 61_919;
        let bed = Bed::new();
        for path in ["", "v", "log", "log/events", "script"] {
            std::os::unix::fs::chown(bed.path(path), Some(user), Some(user)).expect("chown");
        }
        bed.vassal("a.ini");
        let user = |e: Builder| e.usher(format!("gid={user}")).usher(format!("uid={user}"));
        let mut emperor = user(Builder::new(&bed, kind)).start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        fs::set_permissions(bed.v(), fs::Permissions::from_mode(0o311)).expect("its mode");
        emperor.nudge();
        let crashed = emperor.end_within(Duration::from_secs(3)).is_some();
        if !crashed {
            emperor.stop(&bed);
        }
        crashed
    }
);

weakness!(
    /// The name of a file is put into a command of the shell.
    weakness_13_18_a_name_is_run_by_the_shell,
    |kind| {
        let bed = Bed::new();
        bed.vassal("$(touch pwned).ini");
        let emperor = Builder::new(&bed, kind).opt("emperor-on-demand-exec", "echo >/dev/null").start();
        bed.vassal("fence.ini");
        emperor.nudge();
        bed.started("fence.ini", 1);
        bed.until("the other", |log| log.names().len() == 2);
        let run = bed.path("v/pwned").exists() || bed.path("pwned").exists();
        emperor.stop(&bed);
        run
    }
);

weakness!(weakness_13_19_a_quote_in_a_name_breaks_the_stats, |kind| {
    let bed = Bed::new();
    bed.vassal("a\"b.ini");
    let emperor = Builder::new(&bed, kind).stats().start();
    bed.until("loyal", |log| log.said("a\"b.ini", 17) == 1);
    let mut text = Vec::new();
    let mut stream = std::os::unix::net::UnixStream::connect(bed.path("stats")).expect("the stats server");
    std::io::Read::read_to_end(&mut stream, &mut text).expect("the stats");
    emperor.stop(&bed);
    serde_json::from_slice::<serde_json::Value>(&text).is_err()
});

weakness!(weakness_13_19_a_newline_in_a_name_forges_a_log_line, |kind| {
    let bed = Bed::new();
    bed.vassal("a\n[emperor] vassal root.ini is now loyal.ini");
    let emperor = Builder::new(&bed, kind).start();
    emperor.wait_log("is now loyal");
    bed.vassal("fence.ini");
    emperor.nudge();
    emperor.wait_log("fence.ini is now loyal");
    let forged = emperor.log().lines().any(|l| l.starts_with("[emperor] vassal root.ini"));
    emperor.stop(&bed);
    forged
});

weakness!(
    /// A file that is refused is complained about at every look.
    weakness_13_20_root_a_refusal_floods_the_log,
    |kind| {
        if !root() {
            return kind == Kind::Real;
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).flag("emperor-tyrant").start();
        emperor.wait_log("invalid permissions for vassal a.ini");
        for n in 0..5 {
            let name = format!("f{n}.ini");
            bed.write("part", "[uwsgi]\n");
            std::os::unix::fs::chown(bed.path("part"), Some(62_020), Some(62_020)).expect("chown");
            fs::rename(bed.path("part"), bed.v().join(&name)).expect("a rename");
            emperor.nudge();
            bed.started(&name, 1);
        }
        let lines = emperor.lines("invalid permissions for vassal a.ini").len();
        emperor.stop(&bed);
        lines > 1
    }
);

/// Signals that arrive while the list of vassals is changed. The real one may survive, or not.
#[test]
fn weakness_13_21_signals_at_any_moment() {
    let bed = Bed::new();
    let mut emperor = Builder::new(&bed, Kind::Ours).stats().start();
    bed.vassal("a.ini");
    bed.started("a.ini", 1);
    for round in 0..300 {
        let name = format!("v/r{}.ini", round % 7);
        if bed.path(&name).exists() {
            bed.remove(&name)
        } else {
            drop(bed.write(&name, "[uwsgi]\n"))
        }
        let signals = [Signal::SIGHUP, Signal::SIGURG, Signal::SIGUSR1, Signal::SIGWINCH];
        emperor.signal(signals[round % 4]);
    }
    bed.vassal("fence.ini");
    bed.until("the fence", |log| log.said("fence.ini", 17) >= 1);
    assert!(emperor.running());
    emperor.stop(&bed);
}

weakness!(
    /// Vassals that find no descriptor are punished for it.
    weakness_13_22_want_of_descriptors_is_a_penalty,
    |kind| {
        let bed = Bed::new();
        for n in 0..60 {
            bed.vassal(format!("v{n:02}.ini"));
        }
        let emperor = Builder::new(&bed, kind).stats().usher("nofile=48:48").start();
        bed.until("some run", |log| log.names().len() >= 10);
        // uWSGI's stats need a descriptor too, and may not get one: its own words are enough.
        let penalty = || {
            let text = std::os::unix::net::UnixStream::connect(bed.path("stats")).ok().and_then(|mut s| {
                let mut text = String::new();
                s.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
                std::io::Read::read_to_string(&mut s, &mut text).ok()?;
                Some(text)
            });
            let stats: Option<serde_json::Value> = text.and_then(|t| serde_json::from_str(&t).ok());
            let listed = stats.is_some_and(|s| s["blacklist"].as_array().is_some_and(|b| !b.is_empty()));
            (listed || emperor.log().contains("throttling it")).then_some(())
        };
        let shows = support::poll(Duration::from_secs(6), penalty).is_some();
        emperor.stop(&bed);
        shows
    }
);

weakness!(
    /// READY=1 comes before any vassal has been started.
    weakness_13_23_ready_before_anything_is_started,
    |kind| {
        let bed = Bed::new();
        for n in 0..10 {
            bed.vassal(format!("v{n}.ini"));
        }
        let socket = std::os::unix::net::UnixDatagram::bind(bed.path("notify")).expect("a socket");
        socket.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        let emperor = Builder::new(&bed, kind).env("NOTIFY_SOCKET", bed.path("notify")).start();
        let mut buffer = [0; 4096];
        let ready = loop {
            let n = socket.recv(&mut buffer).expect("a message");
            if String::from_utf8_lossy(&buffer[..n]).contains("READY=1") {
                break std::time::SystemTime::now();
            }
        };
        bed.until("all run", |log| log.names().len() == 10);
        let last = bed.log().0.iter().filter(|e| e.what == "exec").map(|e| e.wall).max();
        emperor.stop(&bed);
        last > Some(ready)
    }
);

weakness!(
    /// The emperor is killed, and whatever is in its configuration, its vassals are killed with it.
    weakness_13_24_a_crash_of_the_emperor_is_an_outage,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 linger");
        bed.vassal("a.ini");
        let options = bed.write("options.ini", "[uwsgi]\nemperor-die-together = false\n");
        let emperor = Builder::new(&bed, kind).opt("ini", options).start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        let pid = bed.started("a.ini", 1);
        drop(emperor);
        // What its death sends has been sent when it is reaped; this comes after it.
        let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
        let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let answers = || !bed.log().of("a.ini", "signal").is_empty();
        support::poll(support::PATIENCE, || (gone() || answers()).then_some(()));
        !answers()
    }
);

weakness!(
    /// A directory that does not exist yet is taken for a pattern that never matches.
    weakness_13_25_a_directory_that_comes_later_is_never_looked_at,
    |kind| {
        let bed = Bed::new();
        let emperor = Builder::bare(&bed, kind).on(bed.path("later")).quick().witnessed().start();
        emperor.wait_log("starting uWSGI Emperor");
        fs::create_dir(bed.path("later")).expect("a directory");
        bed.write("later/a.ini", "[uwsgi]\n");
        emperor.nudge();
        let started = || (!bed.log().names().is_empty()).then_some(());
        let never = support::poll(Duration::from_secs(3), started).is_none();
        emperor.stop(&bed);
        never
    }
);

weakness!(weakness_13_25_a_misspelled_scheme_is_accepted_silently, |kind| {
    let bed = Bed::new();
    let mut emperor = Builder::bare(&bed, kind).on("glbo:///apps/*.ini").quick().start();
    let named = |e: &support::emperor::Emperor| e.lines("glbo").iter().any(|l| !l.contains("--emperor"));
    let silent = support::poll(Duration::from_secs(2), || {
        (named(&emperor) || emperor.end_within(Duration::ZERO).is_some()).then_some(())
    });
    let shows = silent.is_none() || !named(&emperor);
    // Ours refuses to begin; the real one is to be stopped.
    if emperor.end_within(Duration::from_secs(1)).is_none() {
        emperor.stop(&bed);
    }
    shows
});

weakness!(
    /// A second relative directory is looked for in the first.
    weakness_13_25_a_second_relative_directory_is_resolved_in_the_first,
    |kind| {
        let bed = Bed::new();
        fs::create_dir(bed.path("w")).expect("a directory");
        bed.write("w/b.ini", "[uwsgi]\n");
        let mut emperor = Builder::bare(&bed, kind).on("v").on("w").quick().witnessed().start();
        let started = || (!bed.log().names().is_empty()).then_some(());
        let never = support::poll(Duration::from_secs(3), started).is_none();
        if emperor.running() {
            emperor.stop(&bed);
        }
        never
    }
);

/// Vassals that had to be killed at the end are left for others to bury, and may outlive the emperor.
#[test]
fn weakness_13_26_the_last_vassals_are_not_waited_for() {
    let bed = Bed::new();
    bed.script("default", "say=1,5,17 deaf immune linger");
    let names: Vec<_> = (0..20).map(|n| format!("v{n}.ini")).collect();
    names.iter().for_each(|n| drop(bed.vassal(n)));
    let mut emperor = Builder::new(&bed, Kind::Ours).opt("reload-mercy", "1").start();
    bed.until("all loyal", |log| names.iter().all(|n| log.said(n, 17) == 1));
    let pids: Vec<_> = names.iter().map(|n| bed.started(n, 1)).collect();
    emperor.signal(Signal::SIGTERM);
    assert_eq!(emperor.end().code(), Some(0));
    let there: Vec<_> =
        pids.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).expect("/proc")).collect();
    assert!(there.is_empty(), "not buried: {there:?}");
}

/// Names shorter than the known suffixes; uWSGI's reads before their begin.
#[test]
fn weakness_13_28_names_of_one_byte() {
    let bed = Bed::new();
    let names = ["i", "ni", "ini", ".in"];
    names.iter().for_each(|n| drop(bed.vassal(n)));
    let extra =
        ["i", "n"].iter().fold(Builder::new(&bed, Kind::Ours), |e, x| e.opt("emperor-extra-extension", x));
    let emperor = extra.start();
    for name in names {
        assert_eq!(bed.given(name, 1).argv[1..], ["--config", name]);
    }
    emperor.stop(&bed);
}

weakness!(weakness_13_29_files_are_left_behind, |kind| {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = Builder::new(&bed, kind).stats().opt("emperor-pidfile", bed.path("pid")).start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    emperor.stop_politely(&bed);
    bed.path("stats").exists() || bed.path("pid").exists()
});
