//! A plan for a person to read.

use std::fmt;

use super::{Groups, LaunchPlan, Op, OwnedFile};

/// One operation a line, numbered, with what it acts on: what `emperor check --plan` prints.
impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, op) in (1..).zip(&self.ops) {
            writeln!(f, "{number:2}  {op}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndAfter(seconds) => write!(f, "signals end after {seconds} s"),
            Self::EnterGroups(groups) => write!(f, "cgroup {groups}"),
            Self::Reaper(reaper) => {
                f.write_str("reaper stays, and ends what is left behind")?;
                f.write_str(if reaper.die_with_emperor { ", and all with the emperor" } else { "" })
            }
            Self::ChangeDir(path) => write!(f, "chdir {path}"),
            Self::Log(path) => write!(f, "log {path}"),
            Self::PidNamespace => f.write_str("pid-namespace"),
            Self::Namespaces(set) => write!(f, "namespaces {set}"),
            Self::Isolate(set) => write!(f, "namespaces of its own: {set}"),
            Self::View(scene) => write!(f, "view {scene}"),
            Self::Init(init) => {
                f.write_str("init stays as process 1")?;
                f.write_str(if init.die_with_emperor { ", and dies with the emperor" } else { "" })
            }
            Self::OwnUsers(users) => {
                match users.uid {
                    Some(uid) => write!(f, "user-namespace of uid {uid} alone")?,
                    None => f.write_str("user-namespace of the vassal's user alone")?,
                }
                f.write_str(if users.best_effort { ", if possible" } else { "" })
            }
            Self::JoinNamespaces(path) => write!(f, "setns {path}"),
            Self::Root(root) => write!(f, "root {root}"),
            Self::BoundCapabilities(keep) => write!(f, "capabilities keep {keep} in the bounding set"),
            Self::Undumpable => f.write_str("capabilities not dumpable, not traceable"),
            Self::OwnKeyring => f.write_str("keyring of its own"),
            Self::OwnSession => f.write_str("session of its own"),
            Self::LeaveTerminal => f.write_str("session of its own if this one has a terminal"),
            Self::SetGroup(gid) => write!(f, "group {gid}"),
            Self::SetGroups(Groups::Exactly(list)) if list.is_empty() => f.write_str("groups none"),
            Self::SetGroups(Groups::Exactly(list)) => write!(f, "groups {list:?}"),
            Self::SetGroups(Groups::OfUser(uid)) => write!(f, "groups of uid {uid}"),
            Self::SetUser(uid) => write!(f, "user {uid}"),
            Self::Limits(limits) => write!(f, "limits {limits}"),
            Self::Become(who) => write!(f, "become {who}"),
            Self::Privilege(privilege) => privilege.fmt(f),
            Self::Landlock(trees) => write!(f, "landlock {trees}"),
            Self::SystemCalls(filter) => write!(f, "system-calls {filter}"),
            Self::DieWithEmperor => f.write_str("emperor die with it"),
            Self::VerifyOwner(OwnedFile { path, uid, gid, nofollow, .. }) => {
                let link = if *nofollow { ", the link itself" } else { "" };
                write!(f, "owner {path} is {uid}:{gid}{link}")
            }
            Self::Environment(entries) => {
                f.write_str("environment")?;
                entries.iter().try_for_each(|(name, value)| write!(f, "\n      {name}={value}"))
            }
            Self::Command { program, argument, .. } => write!(f, "command {program} {argument}"),
            Self::Hook { hook, phase, fatal } => {
                write!(f, "{} {hook} ({phase}{})", self.step().name(), if *fatal { "" } else { ", may fail" })
            }
            Self::Sockets(passing) => write!(f, "descriptors {passing}"),
            Self::Exec(exec) => {
                f.write_str("exec")?;
                let or = |n| if n == 0 { "" } else { " or" };
                exec.programs
                    .iter()
                    .enumerate()
                    .try_for_each(|(n, program)| write!(f, "{} {program}", or(n)))?;
                exec.args.iter().try_for_each(|arg| write!(f, "\n      {arg}"))?;
                match &exec.magic {
                    Some(magic) => write!(f, "\n      (exec://{} if executable)", magic.file),
                    None => Ok(()),
                }
            }
            Self::Exit => f.write_str("exit"),
        }
    }
}
