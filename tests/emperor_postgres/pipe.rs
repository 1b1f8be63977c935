//! The text comes through the config pipe, whole and in its newest version.

use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::{Bed, PATIENCE, poll, postgres::Postgres, root};
use crate::{NEVER, listening, says, until_said};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// An emperor on a database, whose vassals are run by what is installed.
fn real_vassals(bed: &Bed, postgres: &Postgres) -> Builder {
    Builder::bare(bed, Kind::Ours).on(postgres.all()).stats().opt("emperor-freq", NEVER)
}

/// The vassal has come back from its last reload.
fn settled(emperor: &Emperor) {
    emperor.wait_stats("accepting", |stats| (stats["vassals"][0]["accepting"] == 1).then_some(()));
}

#[test]
fn real_each_version_of_the_longest_text_comes_whole() {
    if Kind::Real.program().is_none() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    let filled = |word: &str| {
        let text = says(&bed, word);
        // The last line counts, too.
        let end = format!("\nexec-asap = echo {word}-end >> {}", bed.path("said").display());
        let filler = format!("; {}", "x".repeat(65_535 - text.len() - end.len() - 2));
        format!("{text}{filler}{end}")
    };
    assert_eq!(filled("one").len(), 65_535);
    postgres.vassal("a.ini", &filled("one"));
    let emperor = real_vassals(&bed, &postgres).start();
    assert_eq!(until_said(&bed, &emperor, 2), ["one", "one-end"]);
    settled(&emperor);
    postgres.vassal("a.ini", &filled("two"));
    assert_eq!(until_said(&bed, &emperor, 4)[2..], ["two", "two-end"]);
    settled(&emperor);

    // One more byte cannot be sent: nothing becomes of it, and a person is told.
    postgres.vassal("a.ini", &format!("{}\n", filled("bad")));
    postgres.vassal("b.ini", &format!("{}\n", filled("bad")));
    let line = emperor.wait_log("vassal b.ini cannot be started");
    assert!(line.contains("65536 bytes") && line.contains("65535"), "{line}");
    assert_eq!(emperor.lines("a.ini cannot be started, and goes on as it is").len(), 1, "{}", emperor.log());
    postgres.vassal("a.ini", &filled("six"));
    assert_eq!(until_said(&bed, &emperor, 6)[4..], ["six", "six-end"]);
    emperor.stop(&bed);
}

#[test]
fn real_every_way_to_reload_brings_the_newest_text() {
    if Kind::Real.program().is_none() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", &says(&bed, "1"));
    let emperor = real_vassals(&bed, &postgres).start();
    until_said(&bed, &emperor, 1);
    for round in 2..=4 {
        settled(&emperor);
        postgres.vassal("a.ini", &says(&bed, &round.to_string()));
        until_said(&bed, &emperor, 2 * round - 2);
        settled(&emperor);
        // The same again, for no other reason than that somebody wants it.
        emperor.signal(Signal::SIGHUP);
        until_said(&bed, &emperor, 2 * round - 1);
    }
    assert_eq!(until_said(&bed, &emperor, 7), ["1", "2", "2", "3", "3", "4", "4"]);
    emperor.stop(&bed);
}

#[test]
fn real_the_text_is_the_newest_after_an_upgrade_too() {
    if Kind::Real.program().is_none() {
        return;
    }
    let Some(mut postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", &says(&bed, "one"));
    let emperor = real_vassals(&bed, &postgres).start();
    until_said(&bed, &emperor, 1);
    settled(&emperor);
    let pid = emperor.stats()["vassals"][0]["pid"].clone();
    emperor.signal(Signal::SIGUSR2);
    emperor.wait_log("1 vassals taken over");
    emperor.wait_stats("the new one", |_| emperor.stats_of("a.ini"));
    postgres.vassal("a.ini", &says(&bed, "two"));
    assert_eq!(until_said(&bed, &emperor, 2), ["one", "two"]);
    settled(&emperor);

    // And without a database what was known is handed over.
    postgres.stop();
    emperor.wait_log("no connection");
    emperor.signal(Signal::SIGUSR2);
    let again = || (emperor.lines("1 vassals taken over").len() == 2).then_some(());
    poll(PATIENCE, again).expect("the second upgrade");
    emperor.signal(Signal::SIGHUP);
    assert_eq!(until_said(&bed, &emperor, 3), ["one", "two", "two"]);
    settled(&emperor);
    assert_eq!(emperor.stats()["vassals"][0]["pid"], pid, "it was one process all the time");
    let process = nix::unistd::Pid::from_raw(i32::try_from(pid.as_i64().expect("a pid")).expect("a pid"));
    nix::sys::signal::kill(process, Signal::SIGKILL).expect("the vassal is there");
    assert_eq!(until_said(&bed, &emperor, 4)[3], "two", "a new process, and still no database");
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_real_vassal_reads_the_newest_text_too() {
    if !root() || Kind::Real.program().is_none() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    let file = bed.write("said", "");
    std::os::unix::fs::chown(&file, Some(4242), Some(4242)).expect("its owner");
    postgres.vassal("a.ini", &says(&bed, "one"));
    postgres.sql("UPDATE vassals SET uid = 4242, gid = 4242");
    let emperor = real_vassals(&bed, &postgres).flag("emperor-tyrant").start();
    until_said(&bed, &emperor, 1);
    for (count, word) in [(2, "two"), (3, "three")] {
        settled(&emperor);
        postgres.vassal("a.ini", &says(&bed, word));
        until_said(&bed, &emperor, count);
    }
    assert_eq!(until_said(&bed, &emperor, 3), ["one", "two", "three"]);
    settled(&emperor);
    // What is broken is found by a process that has become the tenant, and harms nobody.
    postgres.vassal("a.ini", "[uwsgi]\nini = /nowhere.ini\n");
    emperor.wait_log("vassal a.ini is not told to reload: its new file is broken");
    assert!(emperor.log().contains("/nowhere.ini"), "{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn a_text_that_would_end_its_vassal_is_not_told() {
    if Kind::Real.program().is_none() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", &says(&bed, "one"));
    let emperor = real_vassals(&bed, &postgres).start();
    until_said(&bed, &emperor, 1);
    settled(&emperor);
    postgres.vassal("a.ini", "[uwsgi]\nini = /nowhere.ini\n");
    let line = emperor.wait_log("vassal a.ini is not told to reload");
    assert!(line.contains("emperor://a.ini:2") && line.contains("/nowhere.ini"), "{line}");
    postgres.vassal("a.ini", &says(&bed, "two"));
    assert_eq!(until_said(&bed, &emperor, 2), ["one", "two"]);
    emperor.stop(&bed);
}

#[test]
fn the_built_in_engine_reads_each_version() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    for folder in ["1", "2", "3"] {
        fs::create_dir(bed.path(folder)).expect("a folder");
        fs::write(bed.path(folder).join("index.html"), folder).expect("a page");
    }
    let socket = bed.path("web.sock");
    let config = |folder: &str| {
        let (socket, folder) = (socket.display(), bed.path(folder));
        format!(
            "[uwsgi]\nhttp-socket = {socket}\ncheck-static = {}\nstatic-index = index.html\n",
            folder.display()
        )
    };
    postgres.vassal("a.ini", &config("1"));
    let own = env!("CARGO_BIN_EXE_emperor");
    let emperor = real_vassals(&bed, &postgres).opt("binary-path", own).start();
    let page = || {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.rsplit("\r\n\r\n").next()?.to_owned())
    };
    for folder in ["1", "2", "3"] {
        postgres.vassal("a.ini", &config(folder));
        let shows = || page().filter(|page| page == folder);
        poll(PATIENCE, shows).unwrap_or_else(|| panic!("{:?}, not {folder}\n{}", page(), emperor.log()));
    }
    emperor.stop(&bed);
}

#[test]
fn a_vassal_that_asks_without_reading_gets_no_second_copy() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", "[uwsgi]\n");
    bed.script("a.ini", "say=1,5,17,2,2,2");
    let emperor = listening(&bed, &postgres).start();
    bed.until("it has asked", |log| log.said("a.ini", 2) >= 1);
    emperor.wait_stats("loyal", |stats| (stats["vassals"][0]["loyal"] == 1).then_some(()));
    let unread = poll(PATIENCE, || Some(queued(&bed)).filter(|bytes| *bytes > 0)).expect("a text that waits");
    assert_eq!(unread, 4 + "[uwsgi]\n".len());
    emperor.stop(&bed);
}

/// What waits in the witness's config pipe.
fn queued(bed: &Bed) -> usize {
    let pid = bed.given("a.ini", 1).number("pid");
    let script = "import fcntl, os, socket, struct, sys, termios\n\
         pidfd = os.pidfd_open(int(sys.argv[1]))\n\
         import ctypes\n\
         fd = ctypes.CDLL(None).syscall(438, pidfd, 5, 0)\n\
         print(struct.unpack('i', fcntl.ioctl(fd, termios.FIONREAD, b'    '))[0])\n";
    let done = std::process::Command::new("python3").args(["-c", script, &pid.to_string()]).output();
    let done = done.expect("python3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().parse().expect("a number")
}

#[test]
fn an_emperor_may_be_such_a_vassal_and_is_not_renewed() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    bed.vassal("leaf.ini");
    let (v, witness) = (bed.v(), bed.witness());
    postgres.vassal(
        "sub.ini",
        &format!("[uwsgi]\nemperor = {}\nemperor-wrapper = {}\n", v.display(), witness.display()),
    );
    let emperor = real_vassals(&bed, &postgres).opt("binary-path", env!("CARGO_BIN_EXE_emperor")).start();
    let given = bed.given("leaf.ini", 1);
    assert_eq!((given.argv[1..].join(" "), given.fd(5)), ("--ini leaf.ini".to_owned(), None));
    emperor.wait_stats("loyal", |stats| (stats["vassals"][0]["loyal"] == 1).then_some(()));
    let sub = i32::try_from(emperor.stats()["vassals"][0]["pid"].as_i64().expect("a pid")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sub), Signal::SIGUSR2).expect("it is there");
    emperor.wait_log("not upgraded, everything goes on as before");
    assert!(emperor.log().contains("no emperor sent a configuration"), "{}", emperor.log());
    assert_eq!(bed.log().heard("leaf.ini"), [""; 0]);
    emperor.stop(&bed);
}
