//! Where vassals come from: directories, patterns, several of them, symbolic links.

use crate::parity;
use crate::support::Bed;
use crate::support::emperor::{Builder, Kind};
use std::fs;
use std::os::unix::fs::symlink;

parity!(
    /// Both kinds start what a pattern matches in the order of the names.
    order_of_a_glob,
    |kind| {
        let bed = Bed::new();
        let names = ["v/m.ini", "v/b.ini", "v/z.ini", "v/a.ini", "v/10.ini", "v/9.ini", "v/B.ini"];
        names.iter().for_each(|n| drop(bed.write(n, "[uwsgi]\n")));
        let emperor = Builder::bare(&bed, kind).on("v/*.ini").quick().witnessed().stats().start();
        names.iter().for_each(|n| assert!(bed.started(n, 1) > 0));
        let rows = emperor.stats()["vassals"].clone();
        let order = rows.as_array().expect("rows").iter().map(|r| r["id"].to_string()).collect::<Vec<_>>();
        emperor.stop(&bed);
        order.join(" ")
    },
    r#""v/10.ini" "v/9.ini" "v/B.ini" "v/a.ini" "v/b.ini" "v/m.ini" "v/z.ini""#
);

parity!(
    what_is_not_a_regular_file_is_not_a_vassal,
    |kind| {
        let bed = Bed::new();
        fs::create_dir(bed.path("v/dir.ini")).expect("a directory");
        nix::unistd::mkfifo(&bed.path("v/fifo.ini"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let _socket = std::os::unix::net::UnixListener::bind(bed.path("v/socket.ini")).expect("a socket");
        symlink("/nonexistent", bed.path("v/dangling.ini")).expect("a link");
        symlink("loop.ini", bed.path("v/loop.ini")).expect("a link");
        symlink("/dev/null", bed.path("v/device.ini")).expect("a link");
        bed.write("target", "[uwsgi]\n");
        symlink(bed.path("target"), bed.path("v/link.ini")).expect("a link");
        bed.write("v/empty.ini", "");
        let emperor = Builder::new(&bed, kind).start();
        bed.started("link.ini", 1);
        bed.started("empty.ini", 1);
        bed.vassal("fence.ini");
        emperor.nudge();
        bed.started("fence.ini", 1);
        let names = bed.log().names();
        emperor.stop(&bed);
        names.into_iter().collect::<Vec<_>>()
    },
    ["empty.ini", "fence.ini", "link.ini"]
);

parity!(
    with_nofollow_every_link_is_a_vassal,
    |kind| {
        let bed = Bed::new();
        symlink("/nonexistent", bed.path("v/dangling.ini")).expect("a link");
        fs::create_dir(bed.path("v/dir.ini")).expect("a directory");
        symlink("dir.ini", bed.path("v/link.ini")).expect("a link");
        bed.vassal("plain.ini");
        let emperor = Builder::new(&bed, kind).flag("emperor-nofollow").start();
        for name in ["dangling.ini", "link.ini", "plain.ini"] {
            bed.started(name, 1);
        }
        let names = bed.log().names();
        emperor.stop(&bed);
        names.len()
    },
    3
);

/// `v/a.ini` is a link to `old`; `new` is there, an hour younger or older. Then the link is pointed to it.
fn repointed(kind: Kind, new_age: i64, options: impl Fn(Builder) -> Builder) -> String {
    let bed = Bed::new();
    for (name, age) in [("old", 7200), ("new", new_age)] {
        bed.write(name, "[uwsgi]\n");
        bed.set_age(name, age);
    }
    symlink(bed.path("old"), bed.path("v/a.ini")).expect("a link");
    bed.vassal("b.ini");
    bed.set_age("v/b.ini", 3600);
    let emperor = options(Builder::new(&bed, kind)).start();
    bed.until("loyal", |log| log.said("a.ini", 17) + log.said("b.ini", 17) == 2);
    symlink(bed.path("new"), bed.path("link")).expect("a link");
    fs::rename(bed.path("link"), bed.path("v/a.ini")).expect("a rename");
    emperor.nudge();
    bed.set_age("v/b.ini", 1800);
    emperor.nudge();
    bed.until("the later change", |log| log.got("b.ini", 1) == 1);
    crate::told::up_to_the_stop(&bed, emperor)
}

parity!(a_link_to_something_newer, |kind| repointed(kind, 3600, |e| e), "1 0");

parity!(
    a_link_to_something_older,
    |kind| repointed(kind, 9000, |e| e),
    real: "0",
    ours: "1 0",
    because: "another file is a change, also an older one"
);

parity!(
    /// The link itself is a second old at most, the first one too: its time is not newer by a whole second.
    a_link_to_something_newer_not_followed,
    |kind| {
        let bed = Bed::new();
        for (name, age) in [("old", 7200), ("new", 3600)] {
            bed.write(name, "[uwsgi]\n");
            bed.set_age(name, age);
        }
        symlink(bed.path("old"), bed.path("v/a.ini")).expect("a link");
        let past = nix::sys::time::TimeSpec::new(1_000_000_000, 0);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &bed.path("v/a.ini"), &past, &past, flags).expect("its time");
        let emperor = Builder::new(&bed, kind).flag("emperor-nofollow").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        // The target alone is nothing to look at.
        bed.set_age("old", 60);
        emperor.nudge();
        bed.vassal("fence.ini");
        emperor.nudge();
        bed.started("fence.ini", 1);
        symlink(bed.path("new"), bed.path("link")).expect("a link");
        fs::rename(bed.path("link"), bed.path("v/a.ini")).expect("a rename");
        emperor.nudge();
        bed.until("told", |log| log.got("a.ini", 1) > 0);
        crate::told::up_to_the_stop(&bed, emperor)
    },
    "1 0"
);

parity!(
    two_directories_and_a_pattern_at_once,
    |kind| {
        let bed = Bed::new();
        for dir in ["w", "x"] {
            fs::create_dir(bed.path(dir)).expect("a directory");
        }
        bed.vassal("a.ini");
        bed.write("w/b.ini", "[uwsgi]\n");
        bed.write("x/c.ini", "[uwsgi]\n");
        let emperor = Builder::new(&bed, kind).on(bed.path("w")).on(bed.path("x/*.ini")).stats().start();
        bed.started("a.ini", 1);
        bed.started("b.ini", 1);
        bed.started(&bed.path("x/c.ini").display().to_string(), 1);
        let rows = emperor.stats()["vassals"].clone();
        let row = |r: &serde_json::Value| bed.anonymous(&format!("{} {}", r["id"], r["monitor"]));
        let mut lines = rows.as_array().expect("rows").iter().map(row).collect::<Vec<_>>();
        lines.push(bed.anonymous(&emperor.stats()["emperor"].to_string()));
        emperor.stop(&bed);
        lines
    },
    [r#""a.ini" "@/v""#, r#""b.ini" "@/w""#, r#""@/x/c.ini" "@/x/*.ini""#, r#"["@/v","@/w","@/x/*.ini"]"#]
);

parity!(
    a_name_in_two_directories_is_one_vassal,
    |kind| {
        let bed = Bed::new();
        fs::create_dir(bed.path("w")).expect("a directory");
        for name in ["v/a.ini", "w/a.ini"] {
            bed.write(name, "[uwsgi]\n");
            bed.set_age(name, 3600);
        }
        let emperor = Builder::new(&bed, kind).on(bed.path("w")).stats().start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        bed.write("w/fence.ini", "[uwsgi]\n");
        emperor.nudge();
        bed.started("fence.ini", 1);
        let starts = bed.log().execs("a.ini").len();
        let cwd = bed.given("a.ini", 1).cwd;
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("stopped there", |log| log.got("a.ini", 0) == 1);
        let second = bed.given("a.ini", 2).cwd;
        emperor.stop(&bed);
        (starts, [cwd, second].map(|c| bed.anonymous(&c.display().to_string())))
    },
    (1, ["@/v", "@/w"].map(str::to_owned))
);

parity!(
    a_directory_that_vanishes_and_returns,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.set_age("v/a.ini", 3600);
        let emperor = Builder::new(&bed, kind).stats().start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        fs::rename(bed.path("v"), bed.path("away")).expect("a rename");
        emperor.nudge();
        emperor.wait_stats("still there", |_| emperor.stats_of("a.ini").filter(|v| v["cursed"] == 0));
        fs::rename(bed.path("away"), bed.path("v")).expect("a rename");
        bed.vassal("b.ini");
        emperor.nudge();
        bed.started("b.ini", 1);
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("the stop", |log| log.got("a.ini", 0) == 1);
        let log = bed.log();
        emperor.stop(&bed);
        (log.heard("a.ini").join(" "), log.execs("a.ini").len())
    },
    ("0".to_owned(), 1)
);

parity!(
    several_patterns_that_match_nothing,
    |kind| {
        let bed = Bed::new();
        let emperor = Builder::bare(&bed, kind).on("none/*.ini").on(bed.v()).quick().witnessed().start();
        bed.vassal("a.ini");
        emperor.nudge();
        bed.started("a.ini", 1);
        emperor.stop(&bed);
    },
    ()
);

parity!(
    /// The pattern's directory comes to be while the emperor runs.
    a_pattern_that_matches_later,
    |kind| {
        let bed = Bed::new();
        let emperor = Builder::bare(&bed, kind).on("apps/*/uwsgi.ini").quick().witnessed().start();
        emperor.wait_log("starting uWSGI Emperor");
        fs::create_dir_all(bed.path("apps/shop")).expect("directories");
        bed.write("apps/shop/uwsgi.ini", "[uwsgi]\n");
        emperor.nudge();
        bed.started("apps/shop/uwsgi.ini", 1);
        fs::remove_dir_all(bed.path("apps/shop")).expect("removal");
        emperor.nudge();
        bed.until("the stop", |log| log.got("apps/shop/uwsgi.ini", 0) == 1);
        emperor.stop(&bed);
    },
    ()
);
