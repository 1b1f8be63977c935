//! Vassals that are run by a program of their own choice.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};

use support::emperor::{Builder, Emperor, Kind};
use support::{Bed, PATIENCE, poll, root};

const TENANT: u32 = 61_555;

fn emperor(bed: &Bed) -> Emperor {
    Builder::new(bed, Kind::Ours).start()
}

/// Says what it was given, then stays.
const TELL: &str = r#"sh -c 'echo "$0|$1|$A|${B-none}|$PWD|$(id -u)" > told.part; mv told.part told; exec sleep 1000' zero "one word""#;

fn told(bed: &Bed, path: &str) -> String {
    let text = poll(PATIENCE, || fs::read_to_string(bed.path(path)).ok());
    text.unwrap_or_else(|| panic!("it says nothing\n{}", bed.report()))
}

#[test]
fn a_command_runs_with_its_words_and_variables_in_the_directory_of_its_file() {
    let bed = Bed::new();
    let emperor = Builder::new(&bed, Kind::Ours).env("B", "emperors").start();
    bed.write("v/a.ini", format!("[uwsgi]\ncommand = {TELL}\nenv = A=first\nunenv = B\n"));
    let uid = nix::unistd::getuid();
    assert_eq!(told(&bed, "v/told"), format!("zero|one word|first|none|{}|{uid}\n", bed.v().display()));
    emperor.stop(&bed);
}

#[test]
fn what_a_file_loads_counts_as_the_file() {
    let bed = Bed::new();
    let emperor = emperor(&bed);
    bed.write("common", format!("[uwsgi]\ncommand = {TELL}\n"));
    bed.write("v/a.ini", "[uwsgi]\nini = ../common\n");
    told(&bed, "v/told");
    emperor.stop(&bed);
}

#[test]
fn its_output_goes_to_the_file_that_it_names() {
    let bed = Bed::new();
    let emperor = emperor(&bed);
    bed.write(
        "v/a.ini",
        "[uwsgi]\ncommand = sh -c 'echo hello; echo world >&2; exec sleep 1000'\nlogto = ../out\n",
    );
    let out = bed.path("out");
    poll(PATIENCE, || (fs::read_to_string(&out).ok()? == "hello\nworld\n").then_some(()))
        .expect("both lines");
    emperor.stop(&bed);
}

#[test]
fn what_a_command_cannot_have_is_refused_and_what_it_leaves_out_is_told() {
    let bed = Bed::new();
    let emperor = Builder::new(&bed, Kind::Ours).stats().start();
    bed.write("v/a.ini", "[uwsgi]\ncommand = sleep 1000\ncron = -1 -1 -1 -1 -1 true\n");
    emperor.wait_log("a.ini cannot be started: a.ini:3: cron: a command vassal has no clock");
    bed.write("v/b.ini", "[uwsgi]\ncommand = sleep 1000\nprocesses = 4\n");
    emperor.wait_log("b.ini: b.ini:3: processes means nothing to `command`, and is left out");
    bed.write("v/c.ini", "[uwsgi]\ncommand = no-such-program\n");
    emperor.wait_log(
        "c.ini cannot be started: cannot execute its program: no-such-program: No such file or directory",
    );
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_command_runs_as_the_tenant_and_its_log_is_opened_with_his_rights() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let home = bed.path("home");
    fs::create_dir(&home).expect("a directory");
    lchown(&home, Some(TENANT), Some(TENANT)).expect("chown");
    let emperor = Builder::new(&bed, Kind::Ours).flag("emperor-tyrant").start();
    let tenants = |name: &str, lines: &str| {
        let fresh = bed.write("fresh", format!("[uwsgi]\n{lines}"));
        lchown(&fresh, Some(TENANT), Some(TENANT)).expect("chown");
        fs::rename(fresh, bed.v().join(name)).expect("a rename");
    };
    let command =
        "sh -c 'cd ../home; id -u > told.part; id -G >> told.part; mv told.part told; exec sleep 1000'";
    tenants("a.ini", &format!("command = {command}\nlogto = ../home/log\n"));
    assert_eq!(told(&bed, "home/told"), format!("{TENANT}\n{TENANT}\n"));
    assert_eq!(fs::metadata(home.join("log")).expect("its log").uid(), TENANT);
    tenants("b.ini", "command = sleep 1000\nlogto = /var/log/mallory.log\n");
    emperor.wait_log("b.ini cannot be started: cannot open its log: /var/log/mallory.log: Permission denied");
    tenants("c.ini", "command = 'sleep\n");
    emperor.wait_log("c.ini cannot be started: c.ini:2: command: a quotation mark is not closed");
    emperor.stop(&bed);
}
#[test]
fn a_policy_that_changes_is_read_again_at_once_and_a_broken_one_changes_nothing() {
    let bed = Bed::new();
    let policy = bed.write("policy.ini", "[default]\nsandbox = none\n");
    let emperor = Builder::new(&bed, Kind::Ours).opt("emperor-policy", &policy).start();
    bed.write("v/a.ini", format!("[uwsgi]\ncommand = {TELL}\n"));
    told(&bed, "v/told");
    fs::write(&policy, "[default]\nsandbox = tight\n").expect("a policy");
    emperor.wait_log(
        "`none`, `standard` or `strict` is wanted; this is `tight`; what it said before stays in force",
    );
    fs::write(&policy, "[default]\nsandbox = none\n[vassal x*]\nsandbox = strict\n").expect("a policy");
    emperor.wait_log("is read again; it counts from the next start on");
    emperor.stop(&bed);
}

#[test]
fn root_a_command_becomes_the_user_of_its_file_and_a_sandbox_takes_its_powers() {
    if !root() {
        return;
    }
    let bed = Bed::new();
    let emperor = Builder::new(&bed, Kind::Ours).opt("vassal-sandbox", "standard").start();
    let facts = r#"grep -E "^(Uid|Groups|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status"#;
    let lines =
        format!("command = sh -c '{facts} > ../home/part; mv ../home/part ../home/told; exec sleep 1000'\n");
    let home = bed.path("home");
    fs::create_dir(&home).expect("a directory");
    lchown(&home, Some(TENANT), Some(TENANT)).expect("chown");
    bed.write(
        "v/a.ini",
        format!(
            "[uwsgi]\nuid = {TENANT}\ngid = {TENANT}\nsandbox = none\nbind = {}\n{lines}",
            home.display()
        ),
    );
    let status = told(&bed, "home/told");
    let ids = format!("{TENANT}\t{TENANT}\t{TENANT}\t{TENANT}");
    for line in [&format!("Uid:\t{ids}"), "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}\n{status}");
    }
    emperor.stop(&bed);
}

#[test]
fn root_a_capability_that_the_policy_does_not_give_is_told_once() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    bed.write("v/a.ini", "[uwsgi]\ncommand = sleep 1000\nuid = 33\ncap = net_admin\nstop-timeout = 1\n");
    let emperor = Builder::new(&bed, Kind::Ours).opt("vassal-sandbox", "standard").start();
    emperor.wait_log("vassal a.ini goes without net_admin");
    bed.write("v/a.ini", "[uwsgi]\ncommand = sleep 1001\nuid = 33\ncap = net_admin\nstop-timeout = 1\n");
    let twice = poll(PATIENCE, || (emperor.lines("vassal a.ini has been spawned").len() == 2).then_some(()));
    assert!(twice.is_some(), "{}", bed.report());
    assert_eq!(emperor.lines("goes without").len(), 1, "{}", emperor.log());
    emperor.stop(&bed);
}
