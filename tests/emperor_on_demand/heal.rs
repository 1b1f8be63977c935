//! What was in the way of a socket goes, and the vassal has it at once: every pause here is longer than the test. And who
//! has what another one names is told of that, as the other one is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;

use super::own::{ask, plain, serve};
use super::*;

/// The first pause is a thousandth of that, milliseconds.
const FOR_EVER: &str = "100000000";

/// The three kinds of vassals whose socket the emperor binds, each named `KIND.ini`, and what each says in the log when it
/// cannot have it.
const KINDS: [(&str, &str); 3] = [
    ("companion", "gets no on-demand socket"),
    ("own", "cannot have its socket held"),
    ("program", "cannot be started"),
];

fn vassal(bed: &Bed, kind: &str, address: &str) {
    let name = format!("{kind}.ini");
    match kind {
        "companion" => demand(bed, &name, address),
        "own" => {
            bed.write(
                format!("v/{name}"),
                format!("[uwsgi]\nmaster = true\non-demand = true\nsocket = {address}\n"),
            );
        }
        _ => serve(bed, &name, &format!("on-demand = true\nsocket = {address}\n")),
    }
}

fn start(bed: &Bed) -> Emperor {
    fs::create_dir(bed.path("run")).expect("a directory");
    let emperor = plain(bed).opt("emperor-on-demand-extension", ".socket").opt("emperor-throttle", FOR_EVER);
    emperor
        .opt("emperor-control", bed.path("control.sock"))
        .opt("emperor-runtime-dir", bed.path("run"))
        .start()
}

/// What `emperor WORDS` prints.
fn told(bed: &Bed, words: &[&str]) -> String {
    let mut client = Command::new(env!("CARGO_BIN_EXE_emperor"));
    let done =
        client.args(words).env("EMPEROR_CONTROL", bed.path("control.sock")).output().expect("the client");
    String::from_utf8(done.stdout).expect("text")
}

fn until_told(bed: &Bed, words: &[&str], wanted: &str) {
    let there = poll(PATIENCE, || told(bed, words).contains(wanted).then_some(()));
    assert!(there.is_some(), "no `{wanted}` in {}\n{}", told(bed, words), bed.report());
}

fn is_had(emperor: &Emperor, path: &Path) {
    let had = poll(PATIENCE, || UnixStream::connect(path).ok());
    assert!(had.is_some(), "nobody listens at {}\n{}", path.display(), emperor.log());
}

/// Each kind of vassal in turn meets what `obstruct` makes of its path, is told of with these words, and has its socket
/// when `mend` has undone it.
fn heals(words: &str, obstruct: impl Fn(&Path), mend: impl Fn(&Path)) {
    let bed = Bed::new();
    let emperor = start(&bed);
    for (kind, refusal) in KINDS {
        let path = bed.path(format!("{kind}/deep/er/a.sock"));
        obstruct(&path);
        vassal(&bed, kind, path.to_str().expect("plain text"));
        let line = poll(PATIENCE, || {
            emperor.lines(refusal).into_iter().find(|line| line.contains(&format!("vassal {kind}.ini")))
        });
        let line = line.unwrap_or_else(|| panic!("{kind} is not told of\n{}", emperor.log()));
        assert!(line.contains(words), "{kind}: {line}");
        until_told(&bed, &["status", &format!("{kind}.ini")], words);
        until_told(&bed, &["why", &format!("{kind}.ini")], words);
        mend(&path);
        is_had(&emperor, &path);
        assert_eq!(emperor.lines(refusal).len(), 1, "{}", emperor.log());
        bed.remove(format!("v/{kind}.ini"));
        emperor.wait_stats("no vassal", |stats| stats["vassals"].as_array()?.is_empty().then_some(()));
        let _ = fs::remove_file(bed.path(format!("v/{kind}.ini.socket")));
        let _ = fs::remove_dir_all(bed.path(kind));
    }
    emperor.stop(&bed);
}

fn directory_of(path: &Path) -> &Path {
    path.parent().expect("a directory")
}

#[test]
fn a_directory_that_is_made_is_noticed_however_much_of_its_path_was_missing() {
    heals("make its directory", |_| {}, |path| fs::create_dir_all(directory_of(path)).expect("a directory"));
}

#[test]
fn a_directory_that_is_moved_into_its_place_is_noticed() {
    let aside = |path: &Path| path.ancestors().nth(3).expect("above").with_extension("aside");
    heals(
        "make its directory",
        |path| fs::create_dir_all(aside(path).join("deep/er")).expect("a directory"),
        |path| fs::rename(aside(path), path.ancestors().nth(3).expect("above")).expect("a rename"),
    );
}

#[test]
fn a_file_in_the_way_that_is_removed_is_noticed() {
    heals(
        "a file that is no socket is in the way",
        |path| {
            fs::create_dir_all(directory_of(path)).expect("a directory");
            fs::write(path, "precious").expect("a file");
        },
        |path| fs::remove_file(path).expect("the file"),
    );
}

#[test]
fn a_server_that_ends_and_takes_its_file_along_is_noticed() {
    let served = std::cell::RefCell::new(None);
    heals(
        "another process serves this socket; end that process",
        |path| {
            fs::create_dir_all(directory_of(path)).expect("a directory");
            *served.borrow_mut() = Some(UnixListener::bind(path).expect("a socket"));
        },
        |path| {
            served.take();
            fs::remove_file(path).expect("its file");
        },
    );
}

/// Who has an address goes, or names another one; and until then both are told.
#[test]
fn two_that_name_one_socket_are_both_told_and_the_other_has_it_as_soon_as_it_is_free() {
    let bed = Bed::new();
    let emperor = start(&bed);
    let path = bed.path("one.sock");
    let text = path.to_str().expect("plain text");
    vassal(&bed, "companion", text);
    is_there(&emperor, &path);
    for (kind, refusal) in [KINDS[1], KINDS[2]] {
        vassal(&bed, kind, text);
        let line = emperor.wait_log(&format!("vassal {kind}.ini {refusal}: "));
        assert!(line.contains("vassal companion.ini has it, choose another address"), "{line}");
        let line = emperor.wait_log(&format!(
            "vassal companion.ini keeps the socket {text}, which vassal {kind}.ini names as well"
        ));
        assert!(line.contains("choose another address in one of their files"), "{line}");
        until_told(
            &bed,
            &["why", &format!("{kind}.ini")],
            "two vassals name the same address: choose another one",
        );
        let events = told(&bed, &["why", "companion.ini"]);
        assert!(
            events.contains(&format!("it keeps the socket {text}, which vassal {kind}.ini names as well")),
            "{events}"
        );
    }
    until_told(&bed, &["status", "companion.ini"], "and 1 more) names its socket");
    until_told(&bed, &["why", "companion.ini"], "note: vassal own.ini (and 1 more) names its socket");
    bed.remove("v/own.ini");
    until_told(&bed, &["status", "companion.ini"], "vassal program.ini names its socket");
    bed.remove("v/companion.ini");
    until_told(&bed, &["status", "program.ini"], "on-demand");
    ask(call(&path), "hey");
    let status = told(&bed, &["status"]);
    assert!(!status.contains("names its socket") && !status.contains("has it"), "{status}");
    emperor.stop(&bed);
}

#[test]
fn a_socket_whose_file_or_directory_is_removed_while_it_waits_is_made_anew_at_once() {
    let bed = Bed::new();
    let emperor = start(&bed);
    for (kind, _) in KINDS {
        let path = bed.path(format!("{kind}/a.sock"));
        fs::create_dir(directory_of(&path)).expect("a directory");
        vassal(&bed, kind, path.to_str().expect("plain text"));
        is_there(&emperor, &path);
        for _ in 0..3 {
            fs::remove_file(&path).expect("the socket");
            is_there(&emperor, &path);
        }
        // At once: what is removed file by file is put back meanwhile.
        fs::rename(directory_of(&path), bed.path("aside")).expect("a rename");
        fs::remove_dir_all(bed.path("aside")).expect("the directory");
        until_told(
            &bed,
            &["status", &format!("{kind}.ini")],
            "has no file any more, and cannot be made anew",
        );
        until_told(&bed, &["why", &format!("{kind}.ini")], "make its directory");
        fs::create_dir(directory_of(&path)).expect("a directory");
        is_there(&emperor, &path);
        until_told(&bed, &["status", &format!("{kind}.ini")], "on-demand");
        let status = told(&bed, &["status", &format!("{kind}.ini")]);
        assert!(!status.contains("no file"), "{status}");
        if kind != "own" {
            drop(call(&path)); // who connects wakes it
            emperor.wait_stats("its process", |_| {
                emperor.stats_of(&format!("{kind}.ini"))?["pid"].as_i64().filter(|pid| *pid > 0)
            });
        }
    }
    emperor.stop(&bed);
}

/// Without a connection, which would wake the vassal.
fn is_there(emperor: &Emperor, path: &Path) {
    assert!(
        poll(PATIENCE, || path.exists().then_some(())).is_some(),
        "no {}\n{}",
        path.display(),
        emperor.log()
    );
}

#[test]
fn who_removes_a_socket_all_day_keeps_nobody_busy() {
    let bed = Bed::new();
    let emperor = start(&bed);
    let path = bed.path("a.sock");
    vassal(&bed, "companion", path.to_str().expect("plain text"));
    is_there(&emperor, &path);
    let comes_back = || poll(std::time::Duration::from_secs(1), || path.exists().then_some(())).is_some();
    // A scan in between, which there is now and then, begins the count anew.
    let is_enough = (0..100).any(|_| {
        fs::remove_file(&path).expect("the socket");
        !comes_back()
    });
    assert!(is_enough, "{}", emperor.log());
    assert!(emperor.lines("is made anew").len() >= 12, "{}", emperor.log());
    emperor.nudge();
    is_there(&emperor, &path);
    fs::remove_file(&path).expect("the socket");
    is_there(&emperor, &path); // and it listens again
    emperor.stop(&bed);
}

const ALICE: u32 = 61_616;
const BOB: u32 = 61_717;

fn own(path: &Path, uid: u32) {
    lchown(path, Some(uid), Some(uid)).expect("chown");
}

#[test]
fn root_a_directory_that_is_opened_to_a_tenant_is_noticed_and_what_she_may_not_read_is_not_watched_for_her() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let closed = |name: &str, mode: u32| -> PathBuf {
        let path = bed.path(name);
        fs::create_dir(&path).expect("a directory");
        own(&path, BOB);
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        path
    };
    let (readable, secret) = (closed("readable", 0o755), closed("secret", 0o700));
    fs::create_dir(secret.join("er")).expect("a directory");
    let emperor = {
        fs::create_dir(bed.path("run")).expect("a directory");
        let emperor =
            plain(&bed).opt("emperor-on-demand-extension", ".socket").opt("emperor-throttle", FOR_EVER);
        emperor.opt("emperor-runtime-dir", bed.path("run")).flag("emperor-tyrant").start()
    };
    for (name, address) in [("a", readable.join("a.sock")), ("b", secret.join("er/b.sock"))] {
        let companion = bed.write(format!("v/{name}.ini.socket"), address.to_str().expect("plain text"));
        own(&companion, ALICE);
        own(&bed.vassal(format!("{name}.ini")), ALICE);
        let line = emperor.wait_log(&format!("vassal {name}.ini gets no on-demand socket"));
        assert!(
            line.contains("Permission denied (os error 13); user 61616 must be allowed to make it"),
            "{line}"
        );
    }
    // What happens in there is none of her business: nobody is woken by it.
    let (_, slept) = used(emperor.pid());
    for number in 0..50 {
        fs::write(secret.join(format!("er/{number}")), "").expect("a file");
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(used(emperor.pid()).1 - slept <= 3, "it was woken");
    for directory in [&readable, &secret] {
        fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    fs::set_permissions(secret.join("er"), PermissionsExt::from_mode(0o777)).expect("a mode");
    for path in [readable.join("a.sock"), secret.join("er/b.sock")] {
        is_had(&emperor, &path);
        assert_eq!(fs::symlink_metadata(&path).expect("a socket").uid(), ALICE);
    }
    emperor.stop(&bed);
}
