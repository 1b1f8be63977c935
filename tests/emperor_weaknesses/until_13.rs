//! Numbers 13.1 to 13.13: starting, telling, noticing.

use crate::support::emperor::{Builder, Kind};
use crate::support::{self, Bed};
use crate::weakness;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

weakness!(
    /// At the end, SIGKILL for a waiting on-demand vassal goes to its process id, which is -1: to every process.
    /// Only ever in a process namespace of its own.
    weakness_13_01_root_the_end_kills_every_process,
    |kind| {
        if !crate::support::root() {
            return kind == Kind::Real;
        }
        let bed = Bed::new();
        for name in ["x", "y"] {
            bed.vassal(format!("{name}.ini"));
            bed.write(format!("v/{name}.ini.socket"), format!("{}\n", bed.path(format!("{name}.socket")).display()));
        }
        bed.script("z.ini", "say=1,5,17 deaf immune linger");
        bed.vassal("z.ini");
        // The first process of the namespace cannot be killed from inside; the bystander can.
        let script = "cd \"$0\"; sleep 600 & bystander=$!; \"$@\" & emperor=$!\n\
             while [ ! -e go ]; do sleep 0.02; done; kill -TERM $emperor; wait $emperor\n\
             if grep -q 'State:.[SR]' /proc/$bystander/status; then echo alive; else echo dead; fi > out.part\n\
             mv out.part out";
        let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script];
        let emperor = words.iter().fold(Builder::new(&bed, kind), |e, w| e.before(w)).before(bed.root());
        let emperor = emperor.opt("emperor-on-demand-extension", ".socket").opt("reload-mercy", "1").start();
        bed.until("loyal", |log| log.said("z.ini", 17) == 1);
        let waiting = || ["x", "y"].iter().all(|n| bed.path(format!("{n}.socket")).exists()).then_some(());
        support::poll(support::PATIENCE, waiting).expect("two on-demand sockets");
        bed.write("go", "");
        let out = support::poll(support::PATIENCE, || fs::read_to_string(bed.path("out")).ok());
        drop(emperor);
        out.expect("what became of the bystander").trim() == "dead"
    }
);

weakness!(
    /// With a stop hook the shutdown never sends the stop byte.
    weakness_13_02_stop_hook_breaks_the_shutdown,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let mut emperor =
            Builder::new(&bed, kind).opt("vassals-stop-hook", "/bin/true").opt("reload-mercy", "1").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        emperor.signal(Signal::SIGTERM);
        emperor.end();
        bed.nothing_left();
        bed.log().heard("a.ini") != ["0"]
    }
);

weakness!(weakness_13_03_uwsgi_vassal_variables_are_corrupted, |kind| {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = Builder::new(&bed, kind).env("UWSGI_VASSAL_WORKERS", "4").env("X_NEXT", "n").start();
    let env = bed.given("a.ini", 1).raw_env;
    emperor.stop(&bed);
    !env.contains(&"UWSGI_WORKERS=4".to_owned()) || env.iter().any(|e| e.starts_with("UWSGI_VASSAL_"))
});

weakness!(
    /// The emperor comes to a death notice in the same turn as to an expired curse, and forgets the death.
    weakness_13_04_death_notices_are_lost,
    a_death_beside_an_expired_curse_is_noticed_late
);

fn a_death_beside_an_expired_curse_is_noticed_late(kind: Kind) -> bool {
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 deaf immune linger");
    // The third one lives on: without any child, the real one starts from nothing, and finds the second again.
    ["a.ini", "b.ini", "c.ini"].iter().for_each(|n| drop(bed.vassal(n)));
    let glob = bed.v().join("*.ini");
    let tolerance = Duration::from_secs(2);
    let options = |e: Builder| e.on(&glob).quick().witnessed().opt("emperor-curse-tolerance", "2");
    let emperor = options(Builder::bare(&bed, kind)).start();
    let [a, b] = ["a.ini", "b.ini"].map(|n| bed.v().join(n).display().to_string());
    bed.until("both loyal", |log| [&a, &b].iter().all(|n| log.said(n, 17) == 1));
    emperor.wait_log("b.ini is now loyal");
    emperor.wait_log("c.ini is now loyal");
    bed.remove("v/a.ini");
    emperor.nudge();
    bed.until("told to stop", |log| log.got(&a, 0) == 1);
    emperor.signal(Signal::SIGSTOP);
    // Longer than the tolerance in whole seconds, in which the emperor cannot look.
    std::thread::sleep(tolerance + Duration::from_millis(1100));
    let pid = bed.started(&b, 1);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
    let dead =
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z ")).then_some(());
    support::poll(support::PATIENCE, dead).expect("a dead process that nobody has buried");
    let begin = Instant::now();
    emperor.signal(Signal::SIGCONT);
    bed.started(&b, 2);
    let took = begin.elapsed();
    emperor.stop(&bed);
    took > tolerance - Duration::from_millis(600)
}

weakness!(
    /// What is started by an event of its own is started in the directory of the monitor that was looked at last:
    /// on the real one after a connection for certain, after a missed heartbeat by chance.
    weakness_13_05_wrong_directory_with_several_monitors,
    |kind| {
        let bed = Bed::new();
        fs::create_dir(bed.path("w")).expect("a directory");
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,26 deaf immune");
        let emperor = Builder::new(&bed, kind).on(bed.path("w")).opt("emperor-required-heartbeat", "1");
        let emperor = match kind {
            Kind::Real => emperor.opt("emperor-on-demand-directory", bed.root()).start(),
            Kind::Ours => emperor.start(),
        };
        let wrong = if kind == Kind::Real {
            let connect = || std::os::unix::net::UnixStream::connect(bed.path("a.socket")).ok();
            let _client = support::poll(support::PATIENCE, connect).expect("an on-demand socket");
            bed.given("a.ini", 1).cwd != bed.v()
        } else {
            (2..=4).any(|n| bed.given("a.ini", n).cwd != bed.v())
        };
        emperor.stop(&bed);
        wrong
    }
);

weakness!(
    /// Two changes within a second, and a change back to an older file, are not seen.
    weakness_13_06_changes_are_lost,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 reexec");
        bed.write("v/a.ini", "[uwsgi]\nversion = 1\n");
        let emperor = Builder::new(&bed, kind).start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        let time = fs::metadata(bed.path("v/a.ini")).and_then(|m| m.modified()).expect("its time");
        bed.write("new", "[uwsgi]\nversion = 2\n");
        let new = fs::File::options().write(true).open(bed.path("new")).expect("a file");
        new.set_modified(time).expect("the same time");
        fs::rename(bed.path("new"), bed.path("v/a.ini")).expect("a rename");
        emperor.nudge();
        bed.vassal("fence.ini");
        emperor.nudge();
        bed.until("the fence", |log| log.said("fence.ini", 17) == 1);
        let told = |kind| match kind {
            Kind::Real => bed.log().got("a.ini", 1) > 0,
            Kind::Ours => bed.given("a.ini", 2).config.is_some_and(|c| c.contains("version = 2")),
        };
        let lost = !told(kind);
        emperor.stop(&bed);
        lost
    }
);

/// A death is noticed in a moment or only after a whole period: about one in ten on the real one, by chance.
#[test]
fn weakness_13_07_a_crash_is_noticed_late() {
    let bed = Bed::new();
    let names: Vec<_> = (0..20).map(|n| format!("v{n}.ini")).collect();
    names.iter().for_each(|n| drop(bed.vassal(n)));
    let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).witnessed().start();
    for name in &names {
        bed.until("loyal", |log| log.said(name, 17) == 1);
        emperor.wait_log(&format!("{name} is now loyal"));
        let begin = Instant::now();
        kill(Pid::from_raw(bed.started(name, 1)), Signal::SIGKILL).expect("kill");
        bed.started(name, 2);
        assert!(begin.elapsed() < Duration::from_millis(1500), "{name}: {:?}", begin.elapsed());
    }
    emperor.stop(&bed);
}

weakness!(
    /// A vassal that becomes loyal and dies, over and over, is started without any pause.
    weakness_13_08_a_loyal_crash_loop_is_not_slowed,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 after=20 exit=1");
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).start();
        bed.started("a.ini", 6);
        let enough = Instant::now();
        // 40 more in 4 s would be one each 100 ms: nothing has slowed it.
        let fast = support::poll(Duration::from_secs(4), || (bed.log().execs("a.ini").len() >= 46).then_some(()));
        assert!(enough.elapsed() < Duration::from_secs(30));
        emperor.stop(&bed);
        fast.is_some()
    }
);

weakness!(weakness_13_08_a_mended_file_waits_for_the_end_of_its_penalty, |kind| {
    let bed = Bed::new();
    bed.script("a.ini", "exit=1");
    bed.vassal("a.ini");
    bed.set_age("v/a.ini", 100);
    let emperor = Builder::new(&bed, kind).stats().opt("emperor-throttle", "60000").start();
    emperor.wait_stats("a penalty", |s| s["blacklist"][0]["throttle_level"].as_u64().filter(|&l| l > 50_000));
    bed.script("a.ini", "say=1,5,17");
    let starts = bed.log().execs("a.ini").len();
    bed.set_age("v/a.ini", 0);
    emperor.nudge();
    let again = || (bed.log().execs("a.ini").len() > starts).then_some(());
    let waits = support::poll(Duration::from_secs(3), again).is_none();
    emperor.stop(&bed);
    waits
});

weakness!(weakness_13_08_entries_of_what_is_gone_stay_for_ever, |kind| {
    let bed = Bed::new();
    bed.script("a.ini", "exit=1");
    bed.vassal("a.ini");
    let emperor = Builder::new(&bed, kind).stats().opt("emperor-throttle", "60000").start();
    emperor.wait_stats("a penalty", |s| s["blacklist"][0]["throttle_level"].as_u64().filter(|&l| l > 50_000));
    bed.remove("v/a.ini");
    emperor.nudge();
    bed.vassal("fence.ini");
    emperor.nudge();
    bed.until("the fence", |log| log.said("fence.ini", 17) == 1);
    let stays = emperor.stats()["blacklist"] != serde_json::json!([]);
    emperor.stop(&bed);
    stays
});

weakness!(
    /// An idle vassal that asks to be stopped is stopped and started again, endlessly.
    weakness_13_09_die_on_idle_is_a_circle,
    |kind| {
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 after=50 say=22");
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).stats().start();
        bed.until("it was idle and went", |log| !log.of("a.ini", "exit").is_empty());
        let circle = support::poll(Duration::from_secs(4), || (bed.log().execs("a.ini").len() >= 3).then_some(()));
        emperor.stop(&bed);
        circle.is_some()
    }
);

#[test]
fn weakness_13_09_a_vassal_that_rests_is_woken_by_its_file() {
    let bed = Bed::new();
    bed.script("a.ini", "say=1,5,17 after=50 say=22");
    bed.vassal("a.ini");
    bed.set_age("v/a.ini", 100);
    let emperor = Builder::new(&bed, Kind::Ours).start();
    bed.until("it was idle and went", |log| !log.of("a.ini", "exit").is_empty());
    emperor.wait_log("stays so until its file is touched");
    bed.set_age("v/a.ini", 0);
    bed.started("a.ini", 2);
    emperor.stop(&bed);
}

weakness!(
    /// An on-demand vassal dies: the emperor closes the socket that it holds, and whoever waits there is sent off.
    weakness_13_12_a_crash_loses_waiting_connections,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17 blind after=200 exit=1");
        let emperor = Builder::new(&bed, kind).opt("emperor-on-demand-directory", bed.root()).start();
        let connect = || std::os::unix::net::UnixStream::connect(bed.path("a.socket")).ok();
        let mut client = support::poll(support::PATIENCE, connect).expect("an on-demand socket");
        bed.started("a.ini", 1);
        bed.script("a.ini", "say=1,5,17");
        client.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        let mut answer = String::new();
        let read = std::io::Read::read_to_string(&mut client, &mut answer);
        emperor.stop(&bed);
        read.is_err() || answer != "ok\n"
    }
);

weakness!(
    /// Each heartbeat makes it look at every file: one costs the more, the more vassals there are.
    weakness_13_13_heartbeats_cost_a_scan_each,
    |kind| {
        let (few, many) = (cost_of_heartbeats(kind, 20, 50), cost_of_heartbeats(kind, 160, 400));
        many > few * 5 / 2
    }
);

/// Processor time of the emperor for some 800 heartbeats of so many vassals, which are 400 each second.
fn cost_of_heartbeats(kind: Kind, vassals: usize, period_ms: u32) -> Duration {
    let bed = Bed::new();
    bed.script("default", &format!("say=1,5,17 beat={period_ms}"));
    let names: Vec<_> = (0..vassals).map(|n| format!("v{n:03}.ini")).collect();
    names.iter().for_each(|n| drop(bed.vassal(n)));
    let emperor = Builder::new(&bed, kind).start();
    let beats = || bed.log().0.iter().filter(|e| e.what == "said" && e.arg == "26").count();
    bed.until("all beat", |log| names.iter().all(|n| log.said(n, 26) >= 2));
    let spent = || -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", emperor.pid())).expect("its times");
        Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
    };
    let (before, since) = (beats(), spent());
    bed.until("800 more", |_| beats() >= before + 800);
    let cost = spent() - since;
    emperor.stop(&bed);
    cost
}
