//! Names and kinds of entries that make trouble.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use emperor::emperor::source::{Oddity, Report, SourceOptions, VassalName};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::world::{World, stage, write};

fn awkward() -> Vec<Vec<u8>> {
    let long = [&[b'x'; 250][..], b".ini"].concat();
    let names: [&[u8]; 7] = [
        b"two\nlines.ini",
        b"it's \"quoted\".ini",
        b"$(reboot).ini",
        b" .ini",
        b"\xff\xfe.ini",
        b".ini",
        &long,
    ];
    names.map(<[u8]>::to_vec).into()
}

fn is_seen(report: &Report, name: &[u8]) -> bool {
    matches!(report, Report::Seen(_, vassal, _) if *vassal == VassalName::new(name))
}

#[test]
fn any_bytes_are_a_name_in_a_scan_and_in_a_change() {
    let (keep, root) = stage();
    for name in awkward() {
        write(root.join("v").join(OsStr::from_bytes(&name)), "x");
    }
    let mut world = World::with((keep, root), &["v"], SourceOptions::default());
    for name in awkward() {
        assert!(world.said.iter().any(|report| is_seen(report, &name)), "{name:?}");
    }
    world.settle();
    for name in awkward() {
        write(world.root.join("v").join(OsStr::from_bytes(&name)), "changed");
        world.until("the change", |report| is_seen(report, &name));
    }
}

fn make_odd(root: &std::path::Path) -> Vec<(String, Oddity)> {
    let v = root.join("v");
    let long = "x".repeat(251) + ".ini";
    fs::create_dir(v.join("directory.ini")).unwrap();
    nix::unistd::mkfifo(&v.join("fifo.ini"), Mode::S_IRWXU).unwrap();
    drop(std::os::unix::net::UnixListener::bind(v.join("socket.ini")).unwrap());
    symlink("nowhere", v.join("dangling.ini")).unwrap();
    symlink("loop.ini", v.join("loop.ini")).unwrap();
    symlink("directory.ini", v.join("to-directory.ini")).unwrap();
    write(v.join("a:b.ini"), "x");
    write(v.join(&long), "x");
    let mut all = vec![
        ("directory.ini".to_owned(), Oddity::NotAFile("directory")),
        ("fifo.ini".to_owned(), Oddity::NotAFile("fifo")),
        ("socket.ini".to_owned(), Oddity::NotAFile("socket")),
        ("dangling.ini".to_owned(), Oddity::DanglingLink),
        ("loop.ini".to_owned(), Oddity::LinkLoop),
        ("to-directory.ini".to_owned(), Oddity::NotAFile("directory")),
        ("a:b.ini".to_owned(), Oddity::Colon),
        (long, Oddity::NameTooLong),
    ];
    if mknod(&v.join("device.ini"), SFlag::S_IFCHR, Mode::S_IRWXU, nix::sys::stat::makedev(1, 3)).is_ok() {
        all.push(("device.ini".to_owned(), Oddity::NotAFile("device")));
    }
    all
}

#[test]
fn what_cannot_be_a_vassal_is_odd_in_a_scan() {
    let (keep, root) = stage();
    let odd = make_odd(&root);
    write(root.join("v/good.ini"), "x");
    let mut world = World::with((keep, root), &["v"], SourceOptions::default());
    for (name, oddity) in odd {
        world.until_odd(&name, &oddity);
    }
    assert_eq!(world.seen(), ["good.ini"]);
}

#[test]
fn what_cannot_be_a_vassal_is_odd_when_it_appears_and_good_when_it_is_replaced() {
    let mut world = World::new();
    for (name, oddity) in make_odd(&world.root) {
        world.until_odd(&name, &oddity);
    }
    fs::remove_dir(world.v("directory.ini")).unwrap();
    write(world.v("directory.ini"), "x");
    world.until_seen("directory.ini");
    fs::remove_file(world.v("fifo.ini")).unwrap();
    world.until_gone("fifo.ini");
    fs::remove_file(world.v("a:b.ini")).unwrap();
    world.until_gone("a:b.ini");
}

#[test]
fn a_file_that_becomes_a_directory_is_odd() {
    let mut world = World::new();
    write(world.v("a.ini"), "x");
    world.until_seen("a.ini");
    fs::remove_file(world.v("a.ini")).unwrap();
    fs::create_dir(world.v("a.ini")).unwrap();
    world.until_odd("a.ini", &Oddity::NotAFile("directory"));
}

#[test]
fn an_extra_extension_is_a_suffix_of_any_kind() {
    let options = SourceOptions {
        extra_extensions: vec![b".conf".to_vec(), b"rc".to_vec()],
        ..SourceOptions::default()
    };
    let mut world = World::with(stage(), &["v"], options);
    write(world.v("a.conf"), "x");
    write(world.v("vassalrc"), "x");
    world.until_seen("a.conf");
    world.until_seen("vassalrc");
}
