//! Files, names and directories that are not as they should be. The emperor keeps running, says in one line
//! what is wrong and where, leaves the other vassals alone, and goes on when the cause is gone.

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};
use support::empire::Empire;
use support::{Bed, root};

fn mode(mode: u32) -> Permissions {
    Permissions::from_mode(mode)
}

/// A user that nobody else is, for an emperor that is not root.
const NOBODY: u32 = 61_616;

/// A bed whose directories and log belong to that user.
fn nobodys_bed() -> Bed {
    let bed = Bed::new();
    for path in ["", "v", "log", "log/events", "script"] {
        std::os::unix::fs::chown(bed.path(path), Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    bed
}

/// An emperor whom permissions mean something to.
fn nobodys(options: impl FnOnce(support::emperor::Builder) -> support::emperor::Builder) -> Empire {
    Empire::on(nobodys_bed(), |e| options(e.usher(format!("gid={NOBODY}")).usher(format!("uid={NOBODY}"))))
}

#[test]
fn root_unreadable_file() {
    if !root() {
        return;
    }
    let empire = nobodys(|e| e);
    empire.bed.script("bad.ini", "reads say=1,5,17");
    empire.bed.write("bad", "[uwsgi]\n");
    fs::set_permissions(empire.bed.path("bad"), mode(0)).expect("its mode");
    fs::rename(empire.bed.path("bad"), empire.bed.path("v/bad.ini")).expect("a rename");
    empire.told(&["bad.ini", "permission denied"]);
    fs::set_permissions(empire.bed.path("v/bad.ini"), mode(0o644)).expect("its mode");
    empire.bed.until("it runs", |log| log.said("bad.ini", 17) == 1);
    empire.unharmed();
}

#[test]
fn empty_file() {
    let empire = Empire::new();
    empire.bed.script("bad.ini", "reads say=1,5,17");
    empire.bed.write("v/bad.ini", "");
    empire.told(&["bad.ini", "empty"]);
    empire.bed.write("v/bad.ini", "[uwsgi]\n");
    empire.bed.until("it runs", |log| log.said("bad.ini", 17) == 1);
    empire.unharmed();
}

/// Something with a vassal's name that cannot be one is named once, and a file in its place is started.
fn odd(make: impl FnOnce(&Bed), words: &[&str]) {
    let empire = Empire::new();
    make(&empire.bed);
    empire.told(words);
    empire.fence("fence.ini");
    empire.told_once(words);
    assert!(empire.bed.log().execs("odd.ini").is_empty());
    let there = empire.bed.path("v/odd.ini");
    if there.is_dir() && !there.is_symlink() {
        fs::remove_dir(&there).expect("removal");
    }
    empire.bed.vassal("odd.ini");
    empire.bed.started("odd.ini", 1);
    empire.unharmed();
}

#[test]
fn directory_named_as_a_vassal() {
    odd(|bed| fs::create_dir(bed.path("v/odd.ini")).expect("a directory"), &["odd.ini", "directory"]);
}

#[test]
fn fifo_named_as_a_vassal() {
    let make = |bed: &Bed| {
        nix::unistd::mkfifo(&bed.path("v/odd.ini"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo")
    };
    odd(make, &["odd.ini", "fifo"]);
}

#[test]
fn socket_named_as_a_vassal() {
    let make =
        |bed: &Bed| drop(std::os::unix::net::UnixListener::bind(bed.path("v/odd.ini")).expect("a socket"));
    odd(make, &["odd.ini", "socket"]);
}

#[test]
fn link_to_a_device_named_as_a_vassal() {
    odd(|bed| symlink("/dev/zero", bed.path("v/odd.ini")).expect("a link"), &["odd.ini", "device"]);
}

#[test]
fn root_device_named_as_a_vassal() {
    if !root() {
        return;
    }
    let make = |bed: &Bed| {
        let mode = nix::sys::stat::Mode::S_IRUSR;
        let null = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(&bed.path("v/odd.ini"), nix::sys::stat::SFlag::S_IFCHR, mode, null)
            .expect("a device");
    };
    odd(make, &["odd.ini", "device"]);
}

#[test]
fn dangling_link() {
    odd(|bed| symlink("/nonexistent", bed.path("v/odd.ini")).expect("a link"), &["odd.ini", "link"]);
}

#[test]
fn dangling_link_whose_target_appears() {
    let empire = Empire::new();
    symlink(empire.bed.path("target"), empire.bed.path("v/odd.ini")).expect("a link");
    empire.told(&["odd.ini", "link"]);
    empire.bed.write("target", "[uwsgi]\n");
    empire.bed.started("odd.ini", 1);
    empire.unharmed();
}

#[test]
fn links_in_a_circle() {
    let make = |bed: &Bed| {
        symlink("odd.ini", bed.path("v/circle")).expect("a link");
        symlink("circle", bed.path("v/odd.ini")).expect("a link");
    };
    odd(make, &["odd.ini", "link"]);
}

/// A file that uWSGI would not understand either. It ends at once, is tried again in ever longer pauses, and runs
/// as soon as the file is right.
fn nonsense(content: &[u8]) {
    let empire = Empire::new();
    empire.bed.script("bad.ini", "reads say=1,5,17");
    empire.bed.write("v/bad.ini", content);
    empire.told(&["bad.ini"]);
    empire.fence("fence.ini");
    assert_eq!(empire.bed.log().said("bad.ini", 1), 0);
    empire.bed.write("v/bad.ini", "[uwsgi]\nright = now\n");
    empire.bed.until("it runs", |log| log.said("bad.ini", 17) == 1);
    empire.unharmed();
}

#[test]
fn line_of_200_kilobytes() {
    nonsense(format!("[uwsg]\nkey = {}\n", "x".repeat(200 * 1024)).as_bytes());
}

#[test]
fn long_line_in_a_file_that_is_right() {
    let empire = Empire::new();
    empire.bed.script("long.ini", "reads say=1,5,17");
    empire.bed.write("v/long.ini", format!("[uwsgi]\nkey = {}\n", "x".repeat(200 * 1024)));
    empire.bed.until("it runs", |log| log.said("long.ini", 17) == 1);
    empire.unharmed();
}

#[test]
fn binary_garbage() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let garbage: Vec<u8> = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[0]
    })
    .take(64 * 1024)
    .collect();
    nonsense(&garbage);
}

/// A vassal with this name is started, reloaded, shown and stopped like any other, and no line of the log is broken.
fn odd_name(name: &[u8], escaped: &str) {
    let empire = Empire::new();
    let name = std::ffi::OsStr::from_bytes(name);
    empire.bed.vassal(name);
    empire.bed.set_age(std::path::Path::new("v").join(name), 100);
    empire.bed.until("it runs", |log| log.said(escaped, 17) == 1);
    let rows = empire.emperor.stats()["vassals"].as_array().map(Vec::len);
    assert_eq!(rows, Some(2), "the stats are JSON and have both");
    empire.bed.set_age(std::path::Path::new("v").join(name), 50);
    empire.bed.until("it was told", |log| log.got(escaped, 1) >= 1);
    fs::remove_file(empire.bed.v().join(name)).expect("removal");
    empire.bed.until("it ended", |log| !log.of(escaped, "exit").is_empty());
    let log = empire.emperor.log();
    assert!(!log.contains("forged"), "a name made a line of its own, or went out unescaped: {log}");
    empire.unharmed();
}

#[test]
fn name_with_blanks() {
    odd_name(b" two  words .ini", "%20two%20%20words%20.ini");
}

#[test]
fn name_with_quotes_and_what_a_shell_would_run() {
    odd_name(b"\"'`id`$(id);&|<>*?[]{}\\.ini", "\"'`id`$(id);&|<>*?[]{}\\.ini");
}

#[test]
fn name_with_a_newline() {
    let empire = Empire::new();
    let name = "a\nforged line.ini";
    empire.bed.vassal(name);
    empire.bed.until("it runs", |log| log.said("a%0aforged%20line.ini", 17) == 1);
    assert_eq!(empire.emperor.stats_of(name).expect("its row by its very name")["loyal"], 1);
    let log = empire.emperor.log();
    assert!(!log.lines().any(|l| l.starts_with("forged")), "{log}");
    empire.unharmed();
}

#[test]
fn name_that_is_not_utf8() {
    odd_name(b"caf\xe9\xff.ini", "caf%e9%ff.ini");
}

#[test]
fn name_with_an_escape_sequence_of_a_terminal() {
    let empire = Empire::new();
    empire.bed.vassal("\x1b[31mred.ini");
    empire.bed.until("it runs", |log| log.said("%1b[31mred.ini", 17) == 1);
    empire.emperor.wait_log("red.ini is now loyal");
    assert!(!empire.emperor.log().contains('\x1b'), "{}", empire.emperor.log());
    empire.unharmed();
}

#[test]
fn name_with_a_colon() {
    let empire = Empire::new();
    empire.bed.vassal("good.ini:zerg.ini");
    empire.told(&["good.ini:zerg.ini", "`:`"]);
    empire.fence("fence.ini");
    empire.told_once(&["good.ini:zerg.ini", "`:`"]);
    empire.unharmed();
}

#[test]
fn name_of_255_bytes() {
    let empire = Empire::new();
    let longest = format!("{}.ini", "l".repeat(250));
    let longer = format!("{}.ini", "m".repeat(251));
    empire.bed.vassal(&longest);
    empire.bed.vassal(&longer);
    empire.bed.started(&longest, 1);
    empire.told(&[&longer, "longer than 254"]);
    assert!(empire.bed.log().execs(&longer).is_empty());
    empire.unharmed();
}

#[test]
fn file_replaced_a_thousand_times_a_second() {
    let empire = Empire::new();
    empire.bed.script("busy.ini", "say=1,5,17 reexec");
    empire.bed.vassal("busy.ini");
    empire.bed.until("it runs", |log| log.said("busy.ini", 17) == 1);
    let begin = Instant::now();
    let mut times = 0;
    while times < 2000 {
        times += 1;
        empire.bed.write("v/busy.ini", format!("[uwsgi]\ntimes = {times}\n"));
        let due = begin + Duration::from_millis(times);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    // However many it was told of: in the end it runs with the last.
    let last = format!("[uwsgi]\ntimes = {times}\n");
    let runs_with = || {
        let starts = empire.bed.log().execs("busy.ini").len();
        (empire.bed.given("busy.ini", starts).config.as_ref() == Some(&last)).then_some(starts)
    };
    let starts = support::poll(support::PATIENCE, runs_with);
    let starts = starts.unwrap_or_else(|| panic!("it never got the last content\n{}", empire.bed.report()));
    assert!(starts < 1000, "it hardly got to run: {starts} starts");
    assert_eq!(empire.bed.log().execs("busy.ini")[0].pid, empire.bed.started("busy.ini", starts));
    empire.unharmed();
}

#[test]
fn file_that_is_written_slowly_is_not_started_half_way() {
    let empire = Empire::new();
    let mut file = fs::File::create(empire.bed.path("v/slow.ini")).expect("a file");
    for line in ["[uwsgi]\n", "one = 1\n", "two = 2\n"] {
        file.write_all(line.as_bytes()).expect("a line");
        std::thread::sleep(Duration::from_millis(30));
    }
    file.write_all(b"three = 3\n").expect("the last line");
    drop(file);
    let config = empire.bed.given("slow.ini", 1).config;
    assert_eq!(config.as_deref(), Some("[uwsgi]\none = 1\ntwo = 2\nthree = 3\n"));
    empire.unharmed();
}

#[test]
fn root_directory_without_permission() {
    if !root() {
        return;
    }
    let empire = nobodys(|e| e);
    fs::set_permissions(empire.bed.v(), mode(0)).expect("its mode");
    empire.bed.write("late", "[uwsgi]\n");
    fs::rename(empire.bed.path("late"), empire.bed.path("v/late.ini")).expect("a rename");
    // The emperor is told of the new file, and finds the door closed.
    empire.told(&[empire.bed.v().to_str().expect("plain text"), "permission denied"]);
    fs::set_permissions(empire.bed.v(), mode(0o755)).expect("its mode");
    empire.bed.started("late.ini", 1);
    empire.told_once(&[empire.bed.v().to_str().expect("plain text"), "permission denied"]);
    empire.unharmed();
}

#[test]
fn root_directory_without_permission_at_start() {
    if !root() {
        return;
    }
    let bed = nobodys_bed();
    fs::create_dir(bed.path("w")).expect("a directory");
    bed.write("w/late.ini", "[uwsgi]\n");
    fs::set_permissions(bed.path("w"), mode(0)).expect("its mode");
    let dir = bed.path("w");
    let user = |e: support::emperor::Builder| e.usher(format!("gid={NOBODY}")).usher(format!("uid={NOBODY}"));
    let empire = Empire::on(bed, |e| user(e).on(&dir));
    empire.told(&[dir.to_str().expect("plain text"), "permission denied"]);
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("chown");
    fs::set_permissions(&dir, mode(0o755)).expect("its mode");
    empire.bed.started("late.ini", 1);
    empire.unharmed();
}

#[test]
fn directory_deleted_and_made_again() {
    let bed = Bed::new();
    fs::create_dir(bed.path("w")).expect("a directory");
    bed.write("w/a.ini", "[uwsgi]\n");
    let dir = bed.path("w");
    let empire = Empire::on(bed, |e| e.on(&dir));
    empire.bed.started("a.ini", 1);
    // A directory that is gone says nothing about its vassals; files that were removed one by one do.
    fs::rename(&dir, empire.bed.path("away")).expect("a rename");
    empire.told(&[dir.to_str().expect("plain text")]);
    assert_eq!(empire.bed.log().heard("a.ini"), [""; 0]);
    fs::create_dir(&dir).expect("a directory");
    empire.bed.write("w/b.ini", "[uwsgi]\n");
    empire.bed.started("b.ini", 1);
    empire.bed.until("what is not in it is stopped", |log| log.got("a.ini", 0) == 1);
    fs::remove_dir_all(&dir).expect("removal");
    fs::create_dir_all(&dir).expect("a directory");
    empire.bed.write("w/c.ini", "[uwsgi]\n");
    empire.bed.started("c.ini", 1);
    empire.bed.until("what is not in it is stopped", |log| log.got("b.ini", 0) == 1);
    empire.unharmed();
}
