//! An emperor that has given up root, or rules over tenants, is renewed in place like any other.

#[path = "support/mod.rs"]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use support::Bed;
use support::emperor::{Builder, Kind};
use support::systemd_box::SystemdBox;
use support::{PATIENCE, poll};

const TENANT: u32 = 23_456;
const RULER: u32 = 23_457;

fn tenant(bed: &Bed, name: &str) {
    let file = bed.write(".tenant", "[uwsgi]\n");
    chown(&file, Some(TENANT), Some(TENANT)).expect("chown");
    fs::rename(file, bed.path("v").join(name)).expect("rename");
}

/// A line of what the kernel says of a process.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that lives");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("that field");
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn tenants_go_on(bed: &Bed, emperor: Builder) {
    tenant(bed, "a.ini");
    let emperor = emperor.flag("emperor-tyrant").witnessed().start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    let facts =
        |pid: i32| ["Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb"].map(|field| status(pid, field));
    let (ruler, first) = (facts(emperor.pid()), facts(bed.started("a.ini", 1)));
    for _ in 0..2 {
        emperor.renew(bed);
        assert_eq!(facts(emperor.pid()), ruler);
    }
    assert_eq!(bed.log().heard("a.ini"), [""; 0]);
    kill(Pid::from_raw(bed.started("a.ini", 1)), Signal::SIGKILL).expect("a process that lives");
    let second = facts(bed.started("a.ini", 2));
    assert_eq!(second, first);
    assert!(second[0].starts_with(&TENANT.to_string()), "{second:?}");
    fs::remove_file(bed.path("v/a.ini")).expect("its file");
    bed.until("it is told to stop", |log| log.got("a.ini", 0) == 1);
    emperor.stop_politely(bed);
}

#[test]
fn root_tenants_go_on_under_a_renewed_emperor() {
    if support::root() {
        let bed = Bed::new();
        tenants_go_on(&bed, Builder::bare(&bed, Kind::Ours).on(bed.v()));
    }
}

#[test]
fn root_an_emperor_that_has_given_up_root_keeps_what_it_has_kept() {
    if support::root() {
        let bed = Bed::new();
        let program = bed.install(Path::new(env!("CARGO_BIN_EXE_emperor")), "program");
        let emperor = Builder::bare(&bed, Kind::Ours).program(program).on(bed.v());
        let emperor = emperor.opt("uid", RULER.to_string()).opt("gid", RULER.to_string());
        tenants_go_on(&bed, emperor.opt("cap", "setuid,setgid,kill").opt("pidfile", "pid"));
    }
}

#[test]
fn root_vassals_that_ran_as_root_do_not_go_on_so_under_a_tyrant() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let ini =
        |more: &str| bed.write("emperor.ini", format!("[uwsgi]\nemperor = {}\n{more}", bed.v().display()));
    ini("");
    tenant(&bed, "a.ini");
    let emperor = Builder::bare(&bed, Kind::Ours).opt("ini", bed.path("emperor.ini")).witnessed().start();
    bed.until("it is loyal", |log| log.said("a.ini", 17) == 1);
    assert!(status(bed.started("a.ini", 1), "Uid").starts_with("0 "));
    ini("emperor-tyrant = true\n");
    emperor.renew(&bed);
    assert!(status(bed.started("a.ini", 2), "Uid").starts_with(&TENANT.to_string()));
    emperor.stop_politely(&bed);
}

#[test]
fn root_systemd_keeps_the_vassals_of_an_emperor_that_was_killed() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    let program = bed.install(Path::new(env!("CARGO_BIN_EXE_emperor")), "program");
    let unit = format!(
        "[Service]\nType=notify\nExecStart={} --emperor {} --emperor-wrapper {} --emperor-fd-store\n\
         Environment=WITNESS_DIR={}\nExecReload=/bin/kill -USR2 $MAINPID\nKillMode=process\n\
         FileDescriptorStoreMax=16\nRestart=on-failure\nRestartSec=10ms\nStartLimitBurst=50\n",
        program.display(),
        bed.v().display(),
        bed.witness().display(),
        bed.root().display(),
    );
    let unit = bed.write("emperor.service", unit);
    for name in ["a.ini", "b.ini", "c.ini"] {
        bed.vassal(name);
    }
    let Some(systemd) = SystemdBox::start(&bed, "emperor") else { return };
    systemd.copy(&unit, "/etc/systemd/system/");
    systemd.systemctl(&["start", "emperor"]);
    for name in ["a.ini", "b.ini", "c.ini"] {
        bed.until("all are loyal", |log| log.said(name, 17) == 1);
    }
    let kept = |count: &str| {
        let done = poll(PATIENCE, || (systemd.property("NFileDescriptorStore") == count).then_some(()));
        assert!(done.is_some(), "{count} wanted, {}", systemd.property("NFileDescriptorStore"));
    };
    kept("8");
    for _ in 0..3 {
        let before = systemd.property("MainPID");
        systemd.systemctl(&["kill", "--kill-who=main", "-s", "KILL", "emperor"]);
        let done = poll(PATIENCE, || {
            (systemd.property("MainPID") != before && systemd.property("ActiveState") == "active")
                .then_some(())
        });
        assert!(done.is_some(), "{}", systemd.journal());
        systemd.systemctl(&["reload", "emperor"]);
        kept("8");
    }
    let log = bed.log();
    assert!(
        ["a.ini", "b.ini", "c.ini"]
            .iter()
            .all(|name| log.execs(name).len() == 1 && log.heard(name).is_empty())
    );
    bed.vassal("a.ini");
    bed.until("a reload", |log| log.heard("a.ini") == ["1"]);
    bed.remove("v/b.ini");
    bed.until("a stop", |log| log.heard("b.ini") == ["0"]);
    kept("6");
    systemd.exec(&["kill", "-KILL", &bed.started("c.ini", 1).to_string()]);
    bed.started("c.ini", 2);
    systemd.systemctl(&["stop", "emperor"]);
    kept("0");
    let log = bed.log();
    assert_eq!((log.heard("a.ini"), log.heard("c.ini")), (vec!["1".into(), "0".into()], vec!["0".into()]));
    assert_eq!(systemd.property("Result"), "success");
}
