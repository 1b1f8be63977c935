//! A tenant who changes what a path means while the launcher, as root, is about to open it.

use std::fs;
use std::os::unix::fs::symlink;

use super::stage::{MALLORY, VICTIM, World, mode, own, possible};
use super::support::emperor::{Builder, Kind};
use super::support::{Bed, PATIENCE, poll};

/// Vassals that are started while the path changes.
const STARTS: usize = 60;

#[test]
fn root_a_directory_that_is_swapped_for_a_link_is_never_bound_as_what_the_link_leads_to() {
    if !possible() {
        return;
    }
    let bed = Bed::new();
    let world = World::new(&bed, MALLORY, VICTIM);
    let mallory = world.srv.join("mallory");
    for dir in ["x", "seen"] {
        fs::create_dir(mallory.join(dir)).expect("a directory");
        own(mallory.join(dir), MALLORY);
    }
    symlink("/srv/victim", mallory.join("y")).expect("a link");
    own(mallory.join("y"), MALLORY);
    let builder = Builder::bare(&bed, Kind::Ours)
        .program("/srv/emperor")
        .opt("emperor-runtime-dir", "/srv/run")
        .on(format!("/srv/{}", world.vassals))
        .flag("emperor-tyrant")
        .opt("vassal-sandbox", "standard");
    let emperor = world.staged(builder).start();
    let put = |name: &str, lines: &str| {
        let fresh = world.srv.join("fresh");
        fs::write(&fresh, format!("[uwsgi]\n{lines}")).expect("a file");
        mode(&fresh, 0o644);
        own(&fresh, MALLORY);
        fs::rename(fresh, world.srv.join(&world.vassals).join(name)).expect("a rename");
    };
    put("swap.ini", "command = /srv/mallory/hostile swap /srv/mallory/x /srv/mallory/y\n");
    emperor.wait_log("hostile swaps");
    for number in 0..STARTS {
        let lines = "command = /srv/mallory/hostile owner /srv/mallory/seen\nbind = /srv/mallory/x:/srv/mallory/seen\n";
        put(&format!("a{number}.ini"), lines);
    }
    let (bound, refused) = ("hostile owner ", "cannot be started");
    let count = |log: &str, text: &str| log.lines().filter(|line| line.contains(text)).count();
    let ended = || {
        let log = emperor.log();
        (count(&log, bound) + count(&log, refused) >= STARTS
            && count(&log, refused) > 0
            && count(&log, bound) > 0)
            .then_some(log)
    };
    let log = poll(PATIENCE, ended).unwrap_or_else(|| panic!("not both were seen\n{}", emperor.log()));
    let of = |uid: u32| count(&log, &format!("hostile owner {uid}"));
    assert_eq!(of(VICTIM), 0, "{log}");
    assert_eq!(of(MALLORY), count(&log, bound), "{log}");
}
