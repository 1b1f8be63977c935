//! Vassals survive their emperor: another program takes its place (SIGUSR2), and nothing is told to anybody.

#[path = "support/mod.rs"]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::Bed;
use support::emperor::{Builder, Kind};
use support::empire::Empire;
use support::{PATIENCE, poll, tools};

#[test]
fn a_renewed_emperor_goes_on_where_the_former_was() {
    let bed = Bed::new();
    bed.script("bad.ini", "exit=1");
    bed.script("idle.ini", "say=1,5,17,22");
    bed.script("beats.ini", "say=1,5,17 beat=300");
    for name in ["bad.ini", "idle.ini", "beats.ini", "gone.ini"] {
        bed.vassal(name);
    }
    let options = |e: Builder| e.opt("emperor-throttle", "60000").opt("emperor-required-heartbeat", "2");
    let empire = Empire::on(bed, options);
    let Empire { emperor, bed } = &empire;
    let pid = emperor.pid();
    bed.until("beats", |log| log.said("beats.ini", 26) > 1);
    bed.until("the idle one ends", |log| !log.of("idle.ini", "exit").is_empty());
    emperor.wait_stats("the bad one rests for a minute", |stats| {
        stats["blacklist"].as_array()?.iter().find(|entry| entry["throttle_level"] == 60_060).cloned()
    });
    let what = ["id", "pid", "born", "first_run", "last_run", "loyal", "ready", "last_ready", "respawns"];
    let facts = || {
        let stats = emperor.stats();
        let vassals = stats["vassals"].as_array().unwrap().clone();
        let mut facts: Vec<_> =
            vassals.iter().map(|vassal| what.map(|key| vassal[key].to_string())).collect();
        facts.sort();
        (facts, stats["blacklist"].clone())
    };
    let before = facts();
    assert_eq!(before.0.len(), 5);
    for _ in 0..3 {
        emperor.renew(bed);
        assert_eq!(facts(), before);
    }
    assert_eq!(emperor.pid(), pid);

    // It sees files, bytes, deaths and missing heartbeats as ever.
    bed.vassal("gone.ini");
    bed.until("a reload", |log| log.got("gone.ini", 1) == 1);
    bed.remove("v/gone.ini");
    bed.until("a stop", |log| log.got("gone.ini", 0) == 1);
    let beats = bed.started("beats.ini", 1);
    kill(Pid::from_raw(beats), Signal::SIGSTOP).unwrap();
    emperor.wait_log("vassal beats.ini sent no heartbeat");
    bed.started("beats.ini", 2);
    bed.vassal("new.ini");
    bed.started("new.ini", 1);
    bed.vassal("idle.ini");
    bed.started("idle.ini", 2);
    let log = bed.log();
    assert_eq!(log.heard("beats.ini"), [""; 0]);
    assert_eq!((log.execs("bad.ini").len(), log.execs("idle.ini").len()), (2, 2));
    empire.unharmed();
}

#[test]
fn what_happens_to_files_and_vassals_while_nobody_looks_is_made_up_for() {
    let bed = Bed::new();
    for name in ["dies.ini", "gone.ini", "touched.ini"] {
        bed.vassal(name);
    }
    let empire = Empire::on(bed, |e| e);
    let Empire { emperor, bed } = &empire;
    for name in ["dies.ini", "gone.ini", "touched.ini"] {
        bed.until("all are loyal", |log| log.said(name, 17) == 1);
    }
    for round in 1..=10 {
        emperor.signal(Signal::SIGUSR2);
        if round == 5 {
            kill(Pid::from_raw(bed.started("dies.ini", 1)), Signal::SIGKILL).unwrap();
            bed.vassal("touched.ini");
            bed.remove("v/gone.ini");
            bed.vassal("new.ini");
        }
        let done = poll(PATIENCE, || (emperor.lines("taken over from").len() >= round).then_some(()));
        assert!(done.is_some(), "{}", bed.report());
    }
    bed.started("dies.ini", 2);
    bed.started("new.ini", 1);
    bed.until("a reload", |log| log.got("touched.ini", 1) == 1);
    bed.until("a stop", |log| log.got("gone.ini", 0) == 1);
    assert_eq!(bed.log().execs("touched.ini").len(), 1);
    empire.unharmed();
}

#[test]
fn a_vassal_of_a_source_that_is_none_any_more_is_stopped() {
    let bed = Bed::new();
    fs::create_dir(bed.path("w")).unwrap();
    let ini = |sources: &[&str]| {
        let sources: Vec<_> =
            sources.iter().map(|dir| format!("emperor = {}", bed.path(dir).display())).collect();
        bed.write("emperor.ini", format!("[uwsgi]\n{}\n", sources.join("\n")));
    };
    ini(&["w", "v"]);
    bed.vassal("a.ini");
    bed.write("w/b.ini", "[uwsgi]\n");
    let emperor = Builder::bare(&bed, Kind::Ours).opt("ini", bed.path("emperor.ini")).witnessed().start();
    for name in ["a.ini", "b.ini"] {
        bed.until("both are loyal", |log| log.said(name, 17) == 1);
    }
    ini(&["v"]);
    emperor.renew(&bed);
    bed.until("b.ini is told to stop", |log| log.heard("b.ini") == ["0"]);
    bed.vassal("a.ini");
    bed.until("a.ini, which has another number now, is told to reload", |log| log.heard("a.ini") == ["1"]);
    emperor.stop_politely(&bed);
}

#[test]
fn a_program_that_cannot_take_over_is_refused_with_the_reason_and_nothing_has_happened() {
    let bed = Bed::new();
    let program = bed.install(Path::new(env!("CARGO_BIN_EXE_emperor")), "program");
    let good = format!("[uwsgi]\nemperor = {}\n", bed.v().display());
    bed.write("emperor.ini", &good);
    bed.vassal("a.ini");
    let mut emperor = Builder::bare(&bed, Kind::Ours)
        .program(&program)
        .arg("run")
        .opt("ini", bed.path("emperor.ini"))
        .witnessed()
        .start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    let refused = |reason: &str, said: &str, times: usize| {
        emperor.signal(Signal::SIGUSR2);
        emperor.wait_log(reason);
        emperor.wait_log(said);
        let lines = || emperor.lines("not upgraded, everything goes on as before").len() == times;
        assert!(poll(PATIENCE, || lines().then_some(())).is_some(), "{}", bed.report());
    };
    bed.write("emperor.ini", format!("{good}emperor-settle = often\n"));
    refused("everything goes on as before: ", "emperor-settle", 1);
    bed.write("emperor.ini", "[uwsgi]\n");
    refused("everything goes on as before: ", "does not ask for an emperor", 2);
    bed.write("emperor.ini", &good);
    fs::remove_file(&program).unwrap();
    refused("cannot be started: ", "No such file", 3);
    bed.shell("program", "exit 3");
    refused("exited with status 3", "status 3", 4);
    fs::remove_file(&program).unwrap();
    bed.write("program", "neither a program nor a script");
    refused("cannot be started: ", "Permission denied", 5);

    // The next version comes under another inode; it is taken, and goes on.
    fs::remove_file(&program).unwrap();
    bed.install(Path::new(env!("CARGO_BIN_EXE_emperor")), "program");
    emperor.renew(&bed);
    assert!(emperor.running());
    assert_eq!(bed.log().heard("a.ini"), [""; 0]);
    emperor.stop_politely(&bed);
    assert_eq!(bed.log().execs("a.ini").len(), 1);
}

#[test]
fn signals_that_come_while_the_program_is_replaced_are_not_lost() {
    for late in [0, 2, 5, 8, 11, 15, 20, 30] {
        let mut empire = Empire::new();
        let Empire { emperor, bed } = &mut empire;
        emperor.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(late));
        emperor.signal(Signal::SIGTERM);
        assert_eq!(emperor.end().code(), Some(0), "{late} ms: {}", bed.report());
        assert_eq!(bed.log().heard("good.ini"), ["0"], "{late} ms");
        bed.nothing_left();
    }
}

#[test]
fn nothing_is_lost_or_left_behind_by_many_renewals() {
    let empire = Empire::with(|e| {
        e.opt("emperor-pidfile", "emperor.pid").opt("hook-emperor-start", "appendn:hooks once")
    });
    let Empire { emperor, bed } = &empire;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", emperor.pid())).unwrap().count();
    emperor.renew(bed);
    let before = descriptors();
    let pidfile = fs::read_to_string(bed.path("emperor.pid")).unwrap();
    for _ in 0..20 {
        emperor.renew(bed);
    }
    // Some are open for a moment only.
    assert!(descriptors() < before + 5, "{} of {before}", descriptors());
    assert_eq!(fs::read_to_string(bed.path("emperor.pid")).unwrap(), pidfile);
    assert_eq!(fs::read_to_string(bed.path("v/hooks")).unwrap(), "once\n", "its hooks have run");
    let environment = fs::read(format!("/proc/{}/environ", emperor.pid())).unwrap();
    assert_eq!(String::from_utf8_lossy(&environment).matches("EMPEROR_STATE=").count(), 1);
    bed.vassal("late.ini");
    let given = bed.given("late.ini", 1);
    assert!(!given.env.contains_key("EMPEROR_STATE"));
    let mut second = Builder::new(bed, Kind::Ours).opt("emperor-pidfile", "emperor.pid").start();
    assert_eq!(second.end().code(), Some(1), "the pidfile is held");
    bed.remove("v/late.ini");
    bed.until("the end of the late one", |log| !log.of("late.ini", "exit").is_empty());
    let pid_path = bed.path("emperor.pid");
    empire.unharmed();
    assert!(!pid_path.exists());
}

#[test]
fn a_socket_that_waits_on_demand_refuses_nobody() {
    let bed = Bed::new();
    fs::create_dir(bed.path("sockets")).unwrap();
    let empire = Empire::on(bed, |e| e.on("w").opt("emperor-on-demand-extension", ".at"));
    let Empire { emperor, bed } = &empire;
    fs::create_dir(bed.path("w")).unwrap();
    let at = |name: &str| bed.path(format!("sockets/{name}"));
    for name in ["one", "two"] {
        bed.write(format!("w/{name}.ini.at"), at(name).to_str().unwrap());
        bed.write(format!("w/{name}.ini"), "[uwsgi]\n");
    }
    let connect = |name: &str| std::os::unix::net::UnixStream::connect(at(name)).unwrap();
    let answer = |mut stream: std::os::unix::net::UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    // A file that is there is not enough: until it listens, a socket refuses.
    for name in ["one.ini", "two.ini"] {
        emperor.wait_stats("a socket", |_| emperor.stats_of(name).filter(|row| row["on_demand"] != ""));
    }
    assert_eq!(answer(connect("one")), "ok\n");
    for _ in 0..3 {
        emperor.renew(bed);
    }
    assert_eq!(answer(connect("one")), "ok\n");
    assert_eq!(bed.log().execs("one.ini").len(), 1);
    assert_eq!(bed.log().execs("two.ini").len(), 0);
    emperor.signal(Signal::SIGUSR2);
    let early: Vec<_> = (0..20).map(|_| connect("two")).collect();
    for stream in early {
        assert_eq!(answer(stream), "ok\n");
    }
    assert_eq!(bed.log().execs("two.ini").len(), 1);
    // A death without a byte brings it back to its socket.
    kill(Pid::from_raw(bed.started("one.ini", 1)), Signal::SIGKILL).unwrap();
    assert_eq!(answer(connect("one")), "ok\n");
    for name in ["one", "two"] {
        bed.remove(format!("w/{name}.ini"));
        assert!(poll(PATIENCE, || (!at(name).exists()).then_some(())).is_some(), "{}", bed.report());
    }
    empire.unharmed();
}

#[test]
fn a_state_that_is_none_or_somebody_elses_is_a_fresh_start() {
    for (pid, told) in [("$$", 1), ("1", 0)] {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let script = format!("EMPEROR_STATE={pid}:9 exec \"$0\" \"$@\" 9</dev/null");
        let emperor = Builder::new(&bed, Kind::Ours).before("sh").before("-c").before(script).start();
        bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
        assert_eq!(emperor.lines("(its beginning is missing): its vassals are started afresh").len(), told);
        assert!(!bed.given("a.ini", 1).env.contains_key("EMPEROR_STATE"));
        emperor.stop_politely(&bed);
    }
}

/// One request, one answer; whether it was the right one.
fn ask(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /copyright HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"))
}

#[test]
fn no_request_is_lost_by_ten_renewals_under_load() {
    if tools::on_path("uwsgi").is_none() {
        return support::skip("uwsgi is not installed");
    }
    let bed = Bed::new();
    fs::create_dir(bed.path("www")).unwrap();
    fs::write(bed.path("www/copyright"), "x".repeat(1000)).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "[uwsgi]\nplugin = 0:notfound\nhttp-socket = 127.0.0.1:{port}\ncheck-static = {}\nmaster = true\nworkers = 2\n",
        bed.path("www").display()
    );
    bed.write("v/web.ini", text);
    let emperor = Builder::bare(&bed, Kind::Ours).on(bed.v()).stats().start();
    let vassal = || emperor.stats_of("web.ini").map(|vassal| vassal["pid"].clone());
    assert!(poll(PATIENCE, || ask(port).ok().filter(|fine| *fine)).is_some(), "{}", bed.report());
    let pid = vassal();
    let (stop, asked, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, asked, failed) = (stop.clone(), asked.clone(), failed.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let fine = ask(port).unwrap_or(false);
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u32::from(!fine), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let before = asked.load(Ordering::Relaxed);
        emperor.renew(&bed);
        assert!(poll(PATIENCE, || (asked.load(Ordering::Relaxed) > before + 20).then_some(())).is_some());
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", asked.load(Ordering::Relaxed));
    assert_eq!(vassal(), pid);
    emperor.stop_politely(&bed);
}
