//! Capabilities, users, limits: what takes root to give up.

use emperor::vassal::plan::{
    Become, Capabilities, Extra, Granted, Limit, Limits, Op, Privilege, Step, VassalOrder, Who,
};
use emperor::vassal::terms::{Bounding, Level, OF_ROOT, Privileges, Start};
use nix::libc::{EACCES, EPERM};

use super::bed::{GID, NOBODY, TELL, UID, launch, order, root, tyrant, vassals};
use super::{answers, launch_unprivileged, ops, plan};

const NONE: &str = "0000000000000000";
const SETS: [&str; 5] = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];

fn becomes(user: Who, group: Option<Who>, keep: Capabilities) -> Vec<Op> {
    vec![Op::Become(Become { user: Some(user), group, groups: Extra::OfUser, keep })]
}

#[test]
fn root_a_standard_vassal_has_no_capability_and_no_way_to_one() {
    if !root() {
        return;
    }
    let identity = becomes(Who::Id(UID), Some(Who::Id(GID)), Capabilities::default());
    let ops = ops(&Privileges::level(Level::Standard), Start::Another, identity, &[], &[]);
    let ended = launch(&plan(ops, &["status", "secure-bits", "bind-80"]));
    assert_eq!(answers(&ended)["secure-bits"], 0b10_1111);
    assert_eq!(answers(&ended)["bind-80"], EACCES);
    for set in SETS {
        assert_eq!(ended.told(set), NONE, "{set}");
    }
    assert_eq!(ended.told("NoNewPrivs:"), "1");
    assert_eq!(ended.told("Seccomp:"), "2");
    assert_eq!(ended.told("Uid:"), format!("{UID} {UID} {UID} {UID}"));
    assert_eq!(ended.told("Gid:"), format!("{GID} {GID} {GID} {GID}"));
    assert_eq!(ended.told("Groups:"), "", "a number that the system does not know has no groups");
}

#[test]
fn root_a_standard_vassal_that_starts_as_root_has_what_a_server_drops_and_no_more() {
    if !root() {
        return;
    }
    let ops = ops(&Privileges::level(Level::Standard), Start::Root, Vec::new(), &[], &[]);
    let ended = launch(&plan(ops, &["status", "bind-80", "mount", "keyctl", "secure-bits"]));
    let set = format!("{:016x}", OF_ROOT.bits());
    for (name, wanted) in SETS.iter().zip([NONE, &set, &set, &set, NONE]) {
        assert_eq!(ended.told(name), wanted, "{name}");
    }
    let answers = answers(&ended);
    assert_ne!(answers["bind-80"], EACCES);
    assert_eq!((answers["mount"], answers["keyctl"], answers["secure-bits"]), (EPERM, EPERM, 0));
}

#[test]
fn root_capabilities_that_are_granted_come_through_the_change_of_user_and_the_exec() {
    if !root() {
        return;
    }
    let bind = Capabilities::parse("net_bind_service").unwrap().0;
    for lock_secure_bits in [false, true] {
        let privileges = Privileges {
            ambient: bind,
            bounding: Some(Bounding { of_root: bind, of_others: bind }),
            lock_secure_bits,
            no_new_privileges: true,
            ..Privileges::default()
        };
        let identity = becomes(Who::Id(UID), Some(Who::Id(GID)), bind);
        let ended =
            launch(&plan(ops(&privileges, Start::Another, identity, &[], &[]), &["status", "bind-80"]));
        for set in SETS {
            assert_eq!(ended.told(set), format!("{:016x}", bind.bits()), "{set}");
        }
        assert_ne!(answers(&ended)["bind-80"], EACCES);
        assert_eq!(ended.told("Uid:"), format!("{UID} {UID} {UID} {UID}"));
    }
}

#[test]
fn root_a_tenant_in_a_sandbox_has_no_capability_but_what_the_policy_grants() {
    if !root() {
        return;
    }
    let bind = Capabilities::parse("net_bind_service").unwrap().0;
    let dir = vassals();
    for (granted, wanted) in
        [(Capabilities::default(), NONE.to_owned()), (bind, format!("{:016x}", bind.bits()))]
    {
        let both = Bounding { of_root: granted, of_others: granted };
        let level = Privileges::level(Level::Standard);
        let privileges = Privileges { ambient: granted, bounding: Some(both), ..level };
        let ended = launch(&VassalOrder { tyrant: tyrant(), privileges, ..order(dir.path(), TELL) }.plan());
        for set in SETS {
            assert_eq!(ended.told(set), wanted, "{set}");
        }
        assert_eq!(ended.told("Uid:"), format!("{UID} {UID} {UID} {UID}"));
        assert_eq!(ended.told("Groups:"), "");
    }
}

#[test]
fn root_a_user_without_a_group_gets_its_own_and_not_roots() {
    if !root() {
        return;
    }
    let ended =
        launch(&plan(becomes(Who::Name("nobody".into()), None, Capabilities::default()), &["status"]));
    assert_eq!(ended.told("Gid:"), format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}"));
    assert_eq!(ended.told("Groups:"), NOBODY.to_string());
    let unknown = launch(&plan(becomes(Who::Id(UID), None, Capabilities::default()), &["status"]));
    assert_eq!(unknown.failure().0, Step::User);
    let unknown =
        launch(&plan(becomes(Who::Name("no-such".into()), None, Capabilities::default()), &["status"]));
    assert_eq!(unknown.failure(), (Step::User, "user no-such".into(), 0));
    let of_root =
        launch(&plan(becomes(Who::Name("root".into()), None, Capabilities::default()), &["status"]));
    assert_eq!(of_root.failure().0, Step::Group, "root's group is refused first");
}

#[test]
fn limits_and_priorities_are_those_of_the_plan_and_a_tenants_are_never_more() {
    let limits = Limits {
        nofile: Some(Granted::by_root(Limit { soft: 40, hard: 50 })),
        nice: Some(Granted::by_root(5)),
        oom_score_adjust: Some(Granted::by_root(700)),
        umask: Some(0o27),
        ..Limits::default()
    };
    let asked = ["status", "limits", "oom-score", "nice"];
    let Some(ended) = launch_unprivileged(&plan(vec![Op::Limits(limits)], &asked)) else { return };
    assert_eq!(ended.told("Umask:"), "0027");
    let files = ended.told("Max open files");
    assert_eq!(files.split_whitespace().collect::<Vec<_>>(), ["40", "50", "files"]);
    let answers = answers(&ended);
    assert_eq!((answers["oom-score"], answers["nice"]), (700, 5));
    let low = Limits { nice: Some(Granted::by_root(-5)), ..Limits::default() };
    let failed = launch_unprivileged(&plan(vec![Op::Limits(low)], &[])).unwrap().failure();
    assert_eq!((failed.0, failed.1.as_str()), (Step::Nice, "nice -5"));
    let kept = Privilege::Keep(Capabilities::parse("kill").unwrap().0);
    let failed = launch_unprivileged(&plan(vec![Op::Privilege(kept)], &[])).unwrap().failure();
    assert_eq!((failed.0, failed.2), (Step::Capabilities, EPERM));
}

#[test]
fn root_a_tenants_wish_for_more_is_refused_although_the_launcher_could() {
    if !root() {
        return;
    }
    let wish = Limits { nice: Some(Granted::by_root(-5)), ..Limits::default() };
    assert_eq!(launch(&plan(vec![Op::Limits(wish.clone())], &["status"])).status, Some(0));
    let failed = launch(&plan(vec![Op::Limits(wish.of_tenant())], &["status"])).failure();
    assert_eq!((failed.0, failed.2), (Step::Nice, EPERM));
    let wish = Limits { oom_score_adjust: Some(Granted::by_root(-900)), ..Limits::default() };
    let failed = launch(&plan(vec![Op::Limits(wish.of_tenant())], &["status"])).failure();
    assert_eq!((failed.0, failed.2), (Step::OomScore, EPERM));
}
