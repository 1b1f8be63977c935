//! What an emperor itself is given is not as it should be: its file, its directories, its sockets, and a second one that
//! wants the same. It says in one line what is wrong, where, and what can be done.

#[path = "support/mod.rs"]
mod support;

use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll, root};

/// A user that nobody else is.
const NOBODY: u32 = 61_717;

fn bare(bed: &Bed) -> Builder {
    Builder::bare(bed, Kind::Ours).opt("emperor-runtime-dir", bed.path("run"))
}

/// It does not start, and its last line says all this.
fn refused(bed: &Bed, builder: Builder, words: &[&str]) {
    let mut emperor = builder.start();
    assert_eq!(emperor.end().code(), Some(1), "{}", bed.report());
    let log = emperor.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(words.iter().all(|word| last.contains(word)), "{words:?}\n{log}");
    assert!(bed.log().execs("a.ini").is_empty(), "nothing has been started");
}

fn stops(bed: &Bed, emperor: Emperor) {
    emperor.stop(bed);
}

#[test]
fn a_configuration_that_is_not_there() {
    let bed = Bed::new();
    refused(
        &bed,
        bare(&bed).opt("ini", "/nonexistent/emperor.ini"),
        &["/nonexistent/emperor.ini", "No such file"],
    );
}

#[test]
fn root_a_configuration_that_may_not_be_read() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let file = bed.write("emperor.ini", "[uwsgi]\n");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode");
    let user = bare(&bed).usher(format!("gid={NOBODY}")).usher(format!("uid={NOBODY}"));
    refused(&bed, user.opt("ini", &file), &["emperor.ini", "Permission denied"]);
}

#[test]
fn a_configuration_with_a_typing_error() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let v = bed.v().display().to_string();
    let file = bed.write("emperor.ini", format!("[uwsgi]\nemperor = {v}\nemperor-trottle = 5\n"));
    let emperor = bare(&bed).opt("ini", &file).witnessed().start();
    emperor.wait_log(&format!(
        "{}:3: `emperor-trottle` is no known option; `emperor-throttle` is",
        file.display()
    ));
    bed.started("a.ini", 1);
    stops(&bed, emperor);
    let bed = Bed::new();
    let file = bed.write("emperor.ini", format!("[uwsgi]\nempreor = {v}\n"));
    let told = format!("{}:2: `empreor` is no known option; `emperor` is", file.display());
    let mut misspelt = bare(&bed).opt("ini", &file).start();
    assert_eq!(misspelt.end().code(), Some(1));
    assert!(misspelt.log().contains(&told), "{}", misspelt.log());
    let file = bed.write("emperor.ini", format!("[uwsgi]\nemperor = {v}\nemperor-settle = often\n"));
    refused(&bed, bare(&bed).opt("ini", &file), &["emperor.ini:3: ", "often", "a number from 0 to 60000"]);
}

#[test]
fn a_directory_of_vassals_that_comes_later() {
    let bed = Bed::new();
    for named in ["option", "argument"] {
        let late = bed.path(format!("late-{named}"));
        let builder = bare(&bed).witnessed();
        let emperor = match named {
            "option" => builder.on(&late).start(),
            // The first argument: nothing can stand before it.
            _ => Builder::bare(&bed, Kind::Ours).arg(&late).witnessed().start(),
        };
        emperor.wait_log(&format!(
            "directory {} does not exist; it is used as soon as it appears",
            late.display()
        ));
        fs::create_dir(&late).expect("the directory");
        let name = format!("{named}.ini");
        bed.write(late.join(&name), "[uwsgi]\n");
        bed.started(&name, 1);
        stops(&bed, emperor);
    }
}

#[test]
fn a_runtime_directory_that_is_not_there_or_goes_away() {
    let bed = Bed::new();
    let program = "[uwsgi]\ncommand = sleep 7778\nready-check = notify\n";
    bed.write("v/a.ini", program);
    let nowhere = bed.path("no/run");
    let builder = Builder::bare(&bed, Kind::Ours).on(bed.v()).opt("emperor-runtime-dir", &nowhere);
    let emperor = builder.start();
    let line = emperor.wait_log("vassal a.ini cannot be started");
    for word in [nowhere.to_str().expect("plain text"), "No such file", "set emperor-runtime-dir"] {
        assert!(line.contains(word), "{line}");
    }
    stops(&bed, emperor);

    let emperor = bare(&bed).on(bed.v()).stats().start();
    let runs = |name: &str| {
        emperor.wait_stats("it runs", |_| emperor.stats_of(name)?["pid"].as_i64().filter(|pid| *pid > 0));
    };
    runs("a.ini");
    fs::remove_dir_all(bed.path("run")).expect("its removal");
    bed.write("v/b.ini", program);
    runs("b.ini");
    assert!(bed.path("run").is_dir());
    stops(&bed, emperor);
}

#[test]
fn a_second_emperor_is_refused_with_the_first_ones_pid_whatever_it_calls_the_directory() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    std::os::unix::fs::symlink(bed.v(), bed.path("link")).expect("a link");
    let pattern = bed.path("v/*.ini");
    let first = bare(&bed).on(bed.v()).on(&pattern).witnessed().start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    let pid = format!("process {}", first.pid());
    let second = |source: &Path| {
        let mut second = bare(&bed).on(source).witnessed().start();
        assert_eq!(second.end().code(), Some(1));
        let log = second.log();
        assert!(log.contains("is governed by another emperor already") && log.contains(&pid), "{log}");
    };
    second(&bed.v());
    second(&bed.path("link"));
    second(&pattern);
    first.renew(&bed);
    second(&bed.v());
    assert_eq!(bed.log().execs("a.ini").len(), 1);
    // Another one is another one's.
    fs::create_dir(bed.path("w")).expect("a directory");
    bed.write("w/b.ini", "[uwsgi]\n");
    let mut other = bare(&bed).on(bed.path("w")).witnessed().start();
    bed.started("b.ini", 1);
    other.signal(Signal::SIGTERM);
    assert_eq!(other.end().code(), Some(0));
    // One that was killed holds nothing.
    drop(first);
    let third = bare(&bed).on(bed.v()).witnessed().start();
    bed.started("a.ini", 2);
    stops(&bed, third);
    assert!(!bed.path("run/realms").exists());
}

/// Those of a machine start and end together, and look over the files of those that were killed.
#[test]
fn emperors_of_different_directories_that_start_at_once_do_not_take_one_another_for_a_second_one() {
    let bed = Bed::new();
    for round in 0..4 {
        let each = 0..16;
        let places = each.clone().map(|n| bed.path(format!("r{round}-{n}")));
        let places: Vec<_> = places.inspect(|place| fs::create_dir(place).expect("a directory")).collect();
        let start = |place| bare(&bed).on(place).start();
        let emperors: Vec<_> = places.iter().map(start).collect();
        let realms = bed.path("run/realms");
        let held = || fs::read_dir(&realms).map_or(0, |all| all.flatten().filter(is_plain).count());
        let all = poll(PATIENCE, || (held() == places.len()).then_some(()));
        assert!(all.is_some(), "{} of {}\n{}", held(), places.len(), bed.report());
        for mut emperor in emperors {
            if round % 2 == 0 {
                emperor.signal(Signal::SIGTERM);
                assert_eq!(emperor.end().code(), Some(0), "{}", bed.report());
            } // else it is killed
        }
    }
}

fn is_plain(file: &fs::DirEntry) -> bool {
    !file.file_name().as_encoded_bytes().starts_with(b".")
}

#[test]
fn a_pidfile_that_is_stale_or_held() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.write("emperor.pid", "999999999\n");
    let with = |e: Builder| e.opt("emperor-pidfile", bed.path("emperor.pid"));
    let first = with(bare(&bed).on(bed.v()).witnessed()).start();
    bed.started("a.ini", 1);
    assert_eq!(fs::read_to_string(bed.path("emperor.pid")).expect("it"), format!("{}\n", first.pid()));
    fs::create_dir(bed.path("w")).expect("a directory");
    let mut second = with(bare(&bed).on(bed.path("w"))).start();
    assert_eq!(second.end().code(), Some(1));
    let held = format!("emperor.pid is held by the running process {}", first.pid());
    assert!(second.log().contains(&held), "{}", second.log());
    stops(&bed, first);
    assert!(!bed.path("emperor.pid").exists());
}

#[test]
fn addresses_that_others_have() {
    let bed = Bed::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let file = bed.path("taken.sock");
    let _served = std::os::unix::net::UnixListener::bind(&file).expect("a socket");
    let file = file.to_str().expect("plain text");
    let on = || bare(&bed).on(bed.v());
    bed.vassal("a.ini");
    for option in ["emperor-stats", "emperor-stats-full", "emperor-http"] {
        refused(&bed, on().opt(option, &address), &[option, &address, "another process has", "ss -lxtnp"]);
    }
    for option in ["emperor-stats", "emperor-control"] {
        refused(&bed, on().opt(option, file), &[option, file, "another process has", "name another"]);
        refused(&bed, on().opt(option, "/nonexistent/a.sock"), &[option, "whose directory is not there"]);
    }
    // On a reload it is no reason to end, nor to have the vassals end.
    bed.write("emperor.ini", format!("[uwsgi]\nemperor = {}\n", bed.v().display()));
    let emperor = bare(&bed).opt("ini", bed.path("emperor.ini")).witnessed().start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    let lines = format!("[uwsgi]\nemperor = {}\nemperor-stats = {address}\n", bed.v().display());
    bed.write("emperor.ini", lines);
    emperor.renew(&bed);
    emperor.wait_log(&format!("emperor-stats: cannot listen on {address}, which another process has"));
    assert_eq!(bed.log().execs("a.ini").len(), 1);
    stops(&bed, emperor);
    assert!(bed.log().execs("a.ini").len() == 1);
}

#[test]
fn a_missing_vassal_file_of_emperor_vassal_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(["vassal", "--ini", "/nonexistent/shop.ini"]).env_clear().stdin(Stdio::null());
    let output = command.output().expect("emperor vassal");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("/nonexistent/shop.ini"), "{said}");
}
