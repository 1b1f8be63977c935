//! What a vassal may ask of the kernel, seen from inside: the built launcher executes a program that asks, and says
//! what it was answered.
//!
//! Nothing here needs root but what is named `root_…`; as root the rest is done by the user nobody, too.
#![cfg(test)]

#[expect(dead_code, reason = "the tests of the launcher use more of it")]
#[path = "../root_launcher/bed.rs"]
mod bed;
#[expect(dead_code, reason = "other tests use the other programs")]
#[path = "../support/tools.rs"]
mod tools;

mod filters;
mod identities;
mod programs;

use std::collections::BTreeMap;
use std::path::Path;

use bed::{Ended, launch_by};
use emperor::vassal::link::LaunchReport;
use emperor::vassal::plan::{Exec, LaunchPlan, Op, Text};
use emperor::vassal::terms::{Privileges, Start};
use tools::{asker, on_path};

/// A plan whose program asks for these things after these operations.
fn plan(mut ops: Vec<Op>, asked: &[&str]) -> LaunchPlan {
    ops.push(Op::Environment(Vec::new()));
    plan_of(ops, Vec::new(), asked)
}

fn plan_of(mut ops: Vec<Op>, last: Vec<Op>, asked: &[&str]) -> LaunchPlan {
    ops.extend(last);
    let program = Text::from(asker().into_os_string());
    let args = asked.iter().map(|word| Text::from(*word)).collect();
    ops.push(Op::Exec(Exec { programs: vec![program], args, magic: None }));
    LaunchPlan { vassal: "a.ini".into(), config_pipe: false, safe_fds: Vec::new(), alone: false, ops }
}

/// All operations of these privileges, in their order.
fn ops(privileges: &Privileges, start: Start, identity: Vec<Op>, read: &[&Path], write: &[&Path]) -> Vec<Op> {
    let texts = |paths: &[&Path]| paths.iter().map(|path| Text::from(path.as_os_str())).collect::<Vec<_>>();
    let mut ops = privileges.first_ops();
    ops.extend(privileges.limit_ops());
    ops.extend(privileges.ops_before_identity(start));
    ops.extend(identity);
    ops.extend(privileges.ops_after_identity(start, &texts(read), &texts(write)));
    ops.extend(privileges.last_ops());
    ops
}

/// The program's answers. Panics where it was not started.
fn answers(ended: &Ended) -> BTreeMap<String, i32> {
    assert_eq!(ended.reports, [LaunchReport::Launched], "{ended:#?}");
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    let lines = ended.out.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, answer)| Some((name.to_owned(), answer.parse().ok()?))).collect()
}

/// As whoever runs the tests, but never as root: then as nobody. `None` where root cannot do that here.
fn launch_unprivileged(plan: &LaunchPlan) -> Option<Ended> {
    let emperor = env!("CARGO_BIN_EXE_emperor");
    if !nix::unistd::geteuid().is_root() {
        return Some(launch_by(emperor, &[], plan));
    }
    let setpriv = on_path("setpriv")?;
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", emperor];
    let reachable = std::process::Command::new(&setpriv).args(as_nobody).arg("--version").output();
    if !reachable.is_ok_and(|output| output.status.success()) {
        println!("skipped: the built program cannot be executed by nobody");
        return None;
    }
    Some(launch_by(setpriv.to_str().unwrap(), &as_nobody, plan))
}
