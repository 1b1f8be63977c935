//! Tyrant mode: a vassal runs as the owner of its file. All of it needs root.

use crate::parity;
use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::{Bed, root};
use nix::unistd::{Gid, Uid, chown};
use std::os::unix::fs::symlink;

/// Two owners that nobody else has, it is hoped; no password file names them.
const ALICE: u32 = 61_414;
const BOB: u32 = 61_515;

fn own(bed: &Bed, name: &str, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(bed.path(name), Some(uid), Some(gid)).expect("chown");
}

fn tyrant(bed: &Bed, kind: Kind) -> Builder {
    Builder::new(bed, kind).flag("emperor-tyrant")
}

/// `v/a.ini` of Alice, running.
fn alices(kind: Kind, options: impl Fn(Builder) -> Builder) -> (Bed, Emperor) {
    let bed = Bed::new();
    bed.vassal("a.ini");
    own(&bed, "v/a.ini", ALICE, ALICE + 1);
    let emperor = options(tyrant(&bed, kind).stats()).start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    (bed, emperor)
}

parity!(
    /// Source: spec/emperor.md 8. Real, effective, saved and file-system ids.
    root_ids_and_groups,
    |kind| {
        if !root() {
            return EXPECTED.map(str::to_owned);
        }
        let (bed, emperor) = alices(kind, |e| e);
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb"].map(|f| format!("{f}: {}", given.field(f)))
    },
    EXPECTED
);

const EXPECTED: [&str; 7] = [
    "Uid: 61414 61414 61414 61414",
    "Gid: 61415 61415 61415 61415",
    "Groups: ",
    "CapInh: 0000000000000000",
    "CapPrm: 0000000000000000",
    "CapEff: 0000000000000000",
    "CapAmb: 0000000000000000",
];

parity!(
    root_environment_and_descriptors_are_as_ever,
    |kind| {
        if !root() {
            return ("/nonexistent".to_owned(), "a.ini".to_owned(), 4);
        }
        let (bed, emperor) = alices(kind, |e| e);
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        (given.env["HOME"].clone(), given.argv[2].clone(), given.fds.len())
    },
    ("/nonexistent".to_owned(), "a.ini".to_owned(), 4)
);

parity!(
    /// A file that only its owner may read is opened by the vassal itself.
    root_a_private_file,
    |kind| {
        if !root() {
            return Some("[uwsgi]\n".to_owned());
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(bed.path("v/a.ini"), private).expect("its mode");
        let emperor = tyrant(&bed, kind).start();
        let config = bed.given("a.ini", 1).config;
        emperor.stop(&bed);
        config
    },
    Some("[uwsgi]\n".to_owned())
);

parity!(
    root_files_of_root_are_refused,
    |kind| {
        if !root() {
            return vec!["fence.ini".to_owned()];
        }
        let bed = Bed::new();
        for (name, uid, gid) in [("v/root.ini", 0, 0), ("v/uid.ini", 0, ALICE), ("v/gid.ini", ALICE, 0)] {
            bed.write(name, "[uwsgi]\n");
            own(&bed, name, uid, gid);
        }
        let emperor = tyrant(&bed, kind).start();
        for name in ["root.ini", "uid.ini", "gid.ini"] {
            emperor.wait_log(&format!("[emperor-tyrant] invalid permissions for vassal {name}"));
        }
        bed.write("fence", "[uwsgi]\n");
        own(&bed, "fence", ALICE, ALICE);
        std::fs::rename(bed.path("fence"), bed.path("v/fence.ini")).expect("a rename");
        emperor.nudge();
        bed.started("fence.ini", 1);
        let names = bed.log().names();
        emperor.stop(&bed);
        names.into_iter().collect()
    },
    ["fence.ini"]
);

parity!(
    /// Not blacklisted: it is started as soon as it has an owner.
    root_a_refused_file_that_gets_an_owner,
    |kind| {
        if !root() {
            return ALICE.to_string();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = tyrant(&bed, kind).start();
        emperor.wait_log("invalid permissions for vassal a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE);
        emperor.nudge();
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        given.field("Uid").split(' ').next().expect("a uid").to_owned()
    },
    ALICE.to_string()
);

parity!(
    root_another_owner_is_a_stop_and_a_start,
    |kind| {
        if !root() {
            return ("0".to_owned(), format!("{BOB}"));
        }
        let (bed, emperor) = alices(kind, |e| e);
        own(&bed, "v/a.ini", BOB, BOB);
        emperor.nudge();
        emperor.wait_log("permissions of file a.ini changed. stopping the instance");
        let second = bed.given("a.ini", 2);
        let heard = bed.log().heard("a.ini").join(" ");
        emperor.stop(&bed);
        (heard, second.field("Uid").split(' ').next().expect("a uid").to_owned())
    },
    ("0".to_owned(), format!("{BOB}"))
);

/// A link of Bob's to a file of Alice's: whose is the vassal?
fn linked(kind: Kind, option: Option<&str>) -> String {
    if !root() {
        return option.map_or(ALICE, |_| BOB).to_string();
    }
    let bed = Bed::new();
    bed.write("file", "[uwsgi]\n");
    own(&bed, "file", ALICE, ALICE);
    symlink(bed.path("file"), bed.path("link")).expect("a link");
    // Of a link that is followed, and is neither root's nor the owner's, we are wary: docs/security.md.
    let link = if option.is_some() { BOB } else { 0 };
    own(&bed, "link", link, link);
    std::fs::rename(bed.path("link"), bed.path("v/a.ini")).expect("a rename");
    let emperor = option.into_iter().fold(tyrant(&bed, kind), Builder::flag).start();
    let given = bed.given("a.ini", 1);
    emperor.stop(&bed);
    given.field("Uid").split(' ').next().expect("a uid").to_owned()
}

parity!(root_a_link_is_its_targets_owners, |kind| linked(kind, None), ALICE.to_string());
parity!(
    root_a_link_is_its_own_owners_with_tyrant_nofollow,
    |kind| linked(kind, Some("emperor-tyrant-nofollow")),
    BOB.to_string()
);
parity!(
    root_a_link_is_its_own_owners_with_nofollow,
    |kind| linked(kind, Some("emperor-nofollow")),
    BOB.to_string()
);

parity!(
    /// Start hook and as-vassal hooks run as the tenant, those of the emperor as root.
    root_hooks_and_privileges,
    |kind| {
        if !root() {
            return HOOKS.map(str::to_owned).to_vec();
        }
        let bed = Bed::new();
        std::fs::create_dir(bed.path("out")).expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(bed.path("out"), open).expect("its mode");
        bed.vassal("a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE + 1);
        let say = |name: &str| format!("id -u > {0}.part && mv {0}.part {0}", bed.path(format!("out/{name}")).display());
        let start = bed.shell("start", &say("1-start-hook"));
        let emperor = tyrant(&bed, kind)
            .opt("vassals-start-hook", start)
            .opt("hook-as-vassal", format!("exec:{}", say("2-hook-as-vassal")))
            .opt("exec-as-vassal", say("3-exec-as-vassal"))
            .opt("exec-as-emperor", say("4-exec-as-emperor"))
            .start();
        let read = |n: &str| {
            let path = bed.path(format!("out/{n}"));
            let uid = crate::support::poll(crate::support::PATIENCE, || std::fs::read_to_string(&path).ok());
            format!("{n}: {}", uid.unwrap_or_else(|| panic!("{n} did not run\n{}", bed.report())).trim())
        };
        let lines = ["1-start-hook", "2-hook-as-vassal", "3-exec-as-vassal", "4-exec-as-emperor"].map(read).to_vec();
        emperor.stop(&bed);
        lines
    },
    HOOKS
);

const HOOKS: [&str; 4] =
    ["1-start-hook: 61414", "2-hook-as-vassal: 61414", "3-exec-as-vassal: 61414", "4-exec-as-emperor: 0"];

parity!(
    root_exec_as_emperor_knows_the_owner,
    |kind| {
        if !root() {
            return "61414 61415".to_owned();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE + 1);
        let told = bed.path("told");
        let line =
            format!("echo $UWSGI_VASSAL_UID $UWSGI_VASSAL_GID > {0}.part && mv {0}.part {0}", told.display());
        let emperor = tyrant(&bed, kind).opt("exec-as-emperor", line).start();
        let told = crate::support::poll(crate::support::PATIENCE, || std::fs::read_to_string(&told).ok());
        emperor.stop(&bed);
        told.expect("what the hook wrote").trim().to_owned()
    },
    "61414 61415"
);

parity!(
    root_reload_and_stop_reach_a_tenant,
    |kind| {
        if !root() {
            return "1 0".to_owned();
        }
        let (bed, emperor) = alices(kind, |e| e);
        crate::told::to_reload_and_to_stop(&bed, emperor)
    },
    "1 0"
);

parity!(
    /// A deaf vassal of another user is killed like any other.
    root_a_deaf_tenant_is_killed,
    |kind| {
        if !root() {
            return 0;
        }
        let bed = Bed::new();
        bed.script("a.ini", "say=1,5,17 deaf immune linger");
        bed.vassal("a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE);
        let emperor = tyrant(&bed, kind).stats().opt("emperor-curse-tolerance", "1").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        bed.remove("v/a.ini");
        emperor.nudge();
        emperor.wait_stats("gone", |_| emperor.stats_of("a.ini").is_none().then_some(()));
        let exits = bed.log().of("a.ini", "exit").len();
        emperor.stop(&bed);
        exits
    },
    0
);

parity!(
    /// An emperor that has no more than the right to change users is enough.
    root_an_emperor_with_two_capabilities,
    |kind| {
        if !root() {
            return EXPECTED[0].to_owned();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        own(&bed, "v/a.ini", ALICE, ALICE);
        chown(&bed.path("emperor.log"), None, None).ok();
        chown(bed.root(), Some(Uid::from_raw(BOB)), Some(Gid::from_raw(BOB))).expect("chown");
        let emperor = tyrant(&bed, kind).opt("uid", BOB.to_string()).opt("gid", BOB.to_string());
        let emperor = emperor.opt("cap", "setgid,setuid").start();
        let given = bed.given("a.ini", 1);
        let own = std::fs::read_to_string(format!("/proc/{}/status", emperor.pid())).expect("the emperor's status");
        let uid = own.lines().find(|l| l.starts_with("Uid:")).expect("a uid");
        assert_eq!(uid.split_whitespace().nth(2), Some(BOB.to_string().as_str()), "{uid}");
        emperor.stop(&bed);
        format!("Uid: {}", given.field("Uid"))
    },
    "Uid: 61414 61414 61414 61414"
);
