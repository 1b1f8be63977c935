//! What a vassal's process is: environment, descriptors, directory, signals, limits.

use crate::parity;
use crate::support::Bed;
use crate::support::emperor::{Builder, Kind};
use crate::support::given::Given;
use std::path::Path;

/// What the only vassal, `a.ini`, was given by an emperor with these options, and something of that emperor.
fn given(kind: Kind, options: impl Fn(Builder) -> Builder) -> (Bed, Given, i32) {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = options(Builder::new(&bed, kind)).start();
    let given = bed.given("a.ini", 1);
    let pid = emperor.pid();
    emperor.stop(&bed);
    (bed, given, pid)
}

parity!(
    /// Source: spec/emperor.md 4.2. `UWSGI_ORIGINAL_PROC_NAME` is uWSGI's own business.
    environment,
    |kind| {
        let own = |e: Builder| e.env("TENANT", "x y").env("UWSGI_RELOADS", "3").env("NOTIFY_SOCKET", "/nonexistent");
        let (bed, given, _) = given(kind, own);
        let mut env = given.raw_env;
        env.retain(|e| !e.starts_with("UWSGI_ORIGINAL_PROC_NAME="));
        env.sort();
        let fd = given.env["UWSGI_EMPEROR_FD"].clone();
        env.iter().map(|e| bed.anonymous(e).replace(&format!("FD={fd}"), "FD=N")).collect::<Vec<_>>()
    },
    [
        "HOME=/nonexistent",
        "LC_ALL=C",
        "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "TENANT=x y",
        "UWSGI_EMPEROR_FD=N",
        "WITNESS_DIR=@",
    ]
);

parity!(
    variables_of_socket_activation_are_passed_on,
    |kind| {
        let own = |e: Builder| e.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("WATCHDOG_USEC", "5");
        let (_, given, _) = given(kind, own);
        ["LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"].map(|name| given.env.get(name).cloned().unwrap_or_default())
    },
    real: ["1", "1", "5"],
    ours: ["", "", ""],
    because: "they were meant for the emperor; an application that trusts LISTEN_FDS would take wrong descriptors"
);

parity!(
    /// Documented: `UWSGI_VASSAL_X=v` becomes `UWSGI_X=v`. Source: spec/emperor.md 13.3.
    uwsgi_vassal_variables_lose_their_middle,
    |kind| {
        let (_, given, _) = given(kind, |e| e.env("UWSGI_VASSAL_WORKERS", "4"));
        ["UWSGI_WORKERS", "UWSGI_VASSAL_WORKERS"].map(|name| given.env.get(name).cloned().unwrap_or_default())
    },
    real: ["", ""],
    ours: ["4", ""],
    because: "the documented meaning; uWSGI loses the value"
);

parity!(
    uwsgi_vassal_set_is_an_option_of_the_emperor,
    |kind| given(kind, |e| e.env("UWSGI_VASSAL_SET", "x=y")).1.argv[1..].join(" "),
    "--set x=y --ini a.ini"
);

parity!(
    options_in_the_environment,
    |kind| {
        let own = |e: Builder| {
            e.env("UWSGI_VASSALS_INHERIT", "/d.ini").env("UWSGI_VASSALS_INCLUDE_BEFORE", "/b.ini")
        };
        given(kind, own).1.argv[1..].join(" ")
    },
    "--include /b.ini --ini a.ini --inherit /d.ini"
);

parity!(
    /// Each such variable would be an option of every vassal too.
    options_of_the_emperor_in_the_environment_reach_vassals,
    |kind| {
        let (_, given, _) = given(kind, |e| e.env("UWSGI_VASSALS_INHERIT", "/d.ini"));
        given.env.get("UWSGI_VASSALS_INHERIT").cloned()
    },
    real: Some("/d.ini".to_owned()),
    ours: None,
    because: "an option that was the emperor's is not the vassals'"
);

parity!(
    /// Each line: number, flags, what it is. Two descriptors were left open by whoever started the emperor.
    descriptors,
    |kind| {
        let stray = |bed: &Bed, n: i32| format!("open={n}:{}", bed.path(format!("stray{n}")).display());
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).usher(stray(&bed, 7)).usher(stray(&bed, 500)).start();
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        let link = given.fd_in("UWSGI_EMPEROR_FD").expect("the number of the link");
        assert!(link >= 3, "{link}");
        let describe = |number: i32, target: &str, flags: i32, cloexec: bool| {
            let number = if number == link { "link".to_owned() } else { number.to_string() };
            let target = bed.anonymous(target.split('[').next().expect("at least nothing"));
            // 04000 is O_NONBLOCK, 2 is O_RDWR, 1 is O_WRONLY.
            format!("{number} {target} {:o}{}", flags & 0o4003, if cloexec { " cloexec" } else { "" })
        };
        let mut lines: Vec<_> = given.fds.iter().map(|f| describe(f.number, &f.target, f.flags, f.cloexec)).collect();
        lines.sort();
        lines
    },
    ["0 /dev/null 2", "1 @/emperor.log 1", "2 @/emperor.log 1", "link socket: 2"]
);

parity!(
    safe_fd_is_kept,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let stray = |n: i32| format!("open={n}:{}", bed.path(format!("stray{n}")).display());
        let emperor = Builder::new(&bed, kind).usher(stray(7)).usher(stray(8)).opt("safe-fd", "7").start();
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        (given.fd(7).is_some(), given.fd(8).is_some())
    },
    (true, false)
);

/// The directories two vassals found themselves in.
fn cwd(kind: Kind, monitors: &[&str], names: &[&str]) -> Vec<String> {
    let bed = Bed::new();
    for dir in ["w/one", "w/two"] {
        std::fs::create_dir_all(bed.path(dir)).expect("a directory");
    }
    for name in ["w/one/a.ini", "w/two/b.ini"] {
        bed.write(name, "[uwsgi]\n");
    }
    let emperor = monitors.iter().fold(Builder::bare(&bed, kind).quick().witnessed(), |e, m| {
        e.on(m.replace('@', bed.root().to_str().expect("plain text")))
    });
    let emperor = emperor.start();
    let found = names.iter().map(|n| bed.anonymous(&bed.given(n, 1).cwd.display().to_string())).collect();
    emperor.stop(&bed);
    found
}

parity!(directory_of_a_dir, |kind| cwd(kind, &["@/w/one"], &["a.ini"]), ["@/w/one"]);
parity!(directory_of_a_relative_dir, |kind| cwd(kind, &["dir://w/one"], &["a.ini"]), ["@/w/one"]);
parity!(directory_of_a_glob, |kind| cwd(kind, &["w/*/a.ini"], &["w/one/a.ini"]), ["@"]);
parity!(
    directories_of_two_dirs,
    |kind| cwd(kind, &["@/w/one", "@/w/two"], &["a.ini", "b.ini"]),
    ["@/w/one", "@/w/two"]
);
parity!(
    directories_of_a_dir_and_a_glob,
    |kind| cwd(kind, &["@/w/one", "w/two/*.ini"], &["a.ini", "w/two/b.ini"]),
    real: ["@/w/one", "@"],
    ours: ["@/w/one", "@"]
);
/// The directories in which vassals start, and what they are called, by an emperor that has changed to `home`. Its
/// sources are below a `w` that is also where it was started and in the directory `forced`.
fn cwd_after_chdir(kind: Kind, source: &str, forced: Option<&str>) -> String {
    let bed = Bed::new();
    for (dir, name) in [("w", "start"), ("home/w", "home"), ("forced/w", "forced")] {
        std::fs::create_dir_all(bed.path(dir)).expect("a directory");
        bed.write(format!("{dir}/{name}.ini"), "[uwsgi]\n");
    }
    let mut emperor = Builder::bare(&bed, kind).on(source).quick().witnessed().opt("chdir", bed.path("home"));
    if let Some(forced) = forced {
        emperor = emperor.opt("force-cwd", bed.path(forced));
    }
    let emperor = emperor.start();
    let first = bed.wait("a start", |log| log.names().into_iter().next());
    let cwd = bed.given(&first, 1).cwd;
    emperor.stop(&bed);
    format!("{first} in {}", bed.anonymous(&cwd.display().to_string()))
}

parity!(
    /// A glob goes back to the directory in which the emperor was started.
    directory_of_a_glob_after_chdir,
    |kind| cwd_after_chdir(kind, "w/*.ini", None),
    "w/start.ini in @"
);
parity!(
    directory_of_a_glob_with_force_cwd,
    |kind| cwd_after_chdir(kind, "w/*.ini", Some("forced")),
    "w/forced.ini in @/forced"
);
parity!(
    directory_of_a_dir_after_chdir,
    |kind| cwd_after_chdir(kind, "w", Some("forced")),
    "home.ini in @/home/w"
);

parity!(
    /// 13 is SIGPIPE. What the emperor blocks or handles must not show.
    signals,
    |kind| {
        let (_, given, _) = given(kind, |e| e);
        ["SigBlk", "SigPnd", "ShdPnd", "SigIgn", "SigCgt"].map(|field| format!("{field} {:?}", given.signals(field)))
    },
    ["SigBlk []", "SigPnd []", "ShdPnd []", "SigIgn [13]", "SigCgt []"]
);

parity!(
    /// Started by a careless parent: SIGUSR1 (10) blocked, SIGINT (2) and SIGUSR2 (12) ignored.
    signals_that_somebody_blocked_or_ignored_before,
    |kind| {
        let (_, given, _) = given(kind, |e| e.usher("block=10").usher("ignore=12").usher("ignore=2"));
        format!("{:?} {:?}", given.signals("SigBlk"), given.signals("SigIgn"))
    },
    real: "[] [12, 13]",
    ours: "[] [13]",
    because: "a vassal starts from a clean slate, whoever started the emperor"
);

parity!(
    attributes_that_are_inherited,
    |kind| {
        let (_, given, emperor) =
            given(kind, |e| e.usher("umask=027").usher("nice=3").usher("nofile=300:900"));
        assert_eq!(given.number("ppid"), emperor);
        let files = &given.limits["Max open files"];
        format!("umask {} nice {} files {} {}", given.field("Umask"), given.number("nice"), files.0, files.1)
    },
    "umask 0027 nice 3 files 300 900"
);

parity!(
    umask_and_limits_of_the_emperors_own_options,
    |kind| {
        let options = |e: Builder| e.opt("umask", "077").opt("max-fd", "400").opt("limit-as", "8192");
        let (_, given, _) = given(kind, |e| options(e).usher("nofile=300:900"));
        let limit = |name: &str| format!("{} {}", given.limits[name].0, given.limits[name].1);
        format!("{} | {} | {}", given.field("Umask"), limit("Max open files"), limit("Max address space"))
    },
    "0077 | 400 400 | 8589934592 8589934592"
);

parity!(
    session_and_group_are_the_emperors,
    |kind| {
        let (_, given, emperor) = given(kind, |e| e);
        (given.number("sid") == emperor, given.number("pgrp") == emperor)
    },
    (true, true)
);

parity!(death_of_the_emperor_is_a_signal, |kind| given(kind, |e| e).1.number("pdeathsig"), 9);

/// What becomes of a vassal that ignores the end of its link when its emperor is killed.
fn after_the_emperor(kind: Kind, options: &str) -> Option<&'static str> {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.script("default", "say=1,5,17 linger");
    bed.write("options.ini", format!("[uwsgi]\n{options}"));
    let emperor = Builder::new(&bed, kind).opt("ini", bed.path("options.ini")).start();
    let pid = bed.started("a.ini", 1);
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    drop(emperor);
    // The emperor is gone and reaped: a signal that its death sends has been sent, and comes first.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGUSR1);
    let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some("killed");
    let lives = || (!bed.log().of("a.ini", "signal").is_empty()).then_some("told, and lives");
    let end = crate::support::poll(crate::support::PATIENCE, || gone().or_else(lives));
    bed.until("told", |log| end != Some("told, and lives") || log.heard("a.ini") == ["EOF"]);
    end
}

parity!(death_of_the_emperor_kills, |kind| after_the_emperor(kind, ""), Some("killed"));

parity!(
    death_of_the_emperor_without_dying_together,
    |kind| after_the_emperor(kind, "emperor-die-together = false\n"),
    real: Some("killed"),
    ours: Some("told, and lives"),
    because: "a vassal can outlive its emperor"
);

parity!(
    /// Root keeps what it has; nothing is added, no filter is put on.
    root_privileges_without_tyrant,
    |kind| {
        if !crate::support::root() {
            return vec!["1".to_owned(); 3];
        }
        let (_, given, _) = given(kind, |e| e);
        let own = std::fs::read_to_string("/proc/self/status").expect("own status");
        let same = |field: &str| {
            let line = own.lines().find_map(|l| l.strip_prefix(&format!("{field}:"))).expect("a field");
            usize::from(line.split_whitespace().collect::<Vec<_>>().join(" ") == given.field(field)).to_string()
        };
        ["CapBnd", "CapEff", "NoNewPrivs"].map(same).to_vec()
    },
    ["1", "1", "1"]
);
