//! What is done with one group in the tree: made, limited, entered, ended, removed, read.

use std::io;
use std::os::fd::AsFd;

use tracing::warn;

use super::dir::Dir;
use super::limits::{self, Machine, Setting};
use super::tree::Tree;
use super::usage::{self, Pressure, Troubles, Usage, Waits};
use super::{Controllers, Entrance, Group, GroupError, Member, name};
use crate::sys::wait;
use crate::vassal::terms::cgroup::{Rates, ResourceTerms};

/// So many names are tried for a group whose former processes do not end.
const NAMES: u32 = 64;

impl Tree {
    pub(super) fn tops(&self) -> impl Iterator<Item = &Dir> {
        self.unified.iter().map(|unified| &unified.top).chain(self.legacy.iter().map(|it| &it.top))
    }

    /// Whose directory tells the processes of a group.
    pub(super) fn first(&self) -> Option<&Dir> {
        self.tops().next()
    }

    pub(super) fn make(&self, member: Member<'_>, families: bool) -> Result<(Group, bool), GroupError> {
        let name = name::of_vassal(member.name);
        let failed = |dir: &Dir, name: &str| {
            let path = dir.path().join(name).display().to_string();
            move |source| GroupError::Make { path, source }
        };
        let mut last = None;
        for number in 1..=NAMES {
            let fresh = |name: String| if number == 1 { name } else { format!("{name}~{number}") };
            let (limits, leaf) = if families {
                let own = member.zerg.map_or_else(|| "base".to_owned(), |zerg| format!("zerg-{zerg}"));
                (name.clone(), Some(fresh(own)))
            } else {
                (fresh(name.clone()), None)
            };
            let path = leaf.map_or_else(|| limits.clone(), |leaf| format!("{limits}/{leaf}"));
            let group = Group { leaf: path.into(), limits: limits.len() };
            // What a former life has left is removed first: a fresh group has no history.
            if self.is_there(&group) && !self.remove(&group) {
                last = Some(group);
                continue;
            }
            let mut is_new = true;
            for dir in self.tops() {
                if families {
                    is_new &= dir.make(&limits).map_err(failed(dir, &limits))?;
                }
                dir.make(&group.leaf).map_err(failed(dir, &group.leaf))?;
            }
            if let Some(Group { leaf, .. }) = last.filter(|_| member.is_alone) {
                warn!(
                    "[emperor] the processes in control group {leaf} do not end: {} is used instead",
                    group.leaf
                );
            }
            return Ok((group, is_new));
        }
        let dir = self.first().map(|dir| dir.path().join(&name).display().to_string());
        let source = io::Error::other("processes of its former lives do not end");
        Err(GroupError::Make { path: dir.unwrap_or(name), source })
    }

    pub(super) fn entrance(&self, group: &Group) -> Result<Entrance, GroupError> {
        let procs = group.file("cgroup.procs");
        let open = |dir: &Dir| {
            let failed =
                |source| GroupError::Make { path: dir.path().join(&procs).display().to_string(), source };
            dir.writable(&procs).map_err(failed)
        };
        let mut entrance = Entrance::default();
        if let Some(unified) = &self.unified {
            let failed = |source| GroupError::Make {
                path: unified.top.path().join(&*group.leaf).display().to_string(),
                source,
            };
            entrance.directory = Some(unified.top.descriptor_of(&group.leaf).map_err(failed)?);
            entrance.procs = Some(open(&unified.top)?);
        }
        for hierarchy in &self.legacy {
            entrance.legacy.push(open(&hierarchy.top)?);
        }
        Ok(entrance)
    }

    /// Writes limits. `all` also writes those that a new group has anyway.
    pub(super) fn limit(
        &self,
        group: &Group,
        terms: &ResourceTerms,
        machine: Machine,
        all: bool,
    ) -> Result<Vec<Setting>, GroupError> {
        let devices = limits::devices(terms, device_numbers)
            .map_err(|(path, source)| GroupError::Device { path, source })?;
        let mut missing = Vec::new();
        let mut there = Controllers::default();
        let mut write = |dir, controllers: Controllers, settings: Vec<Setting>| {
            let wanted = |it: &Setting| controllers.has(it.controller) && (all || !it.is_default);
            for setting in settings.into_iter().filter(wanted) {
                if !set(dir, group, &setting)? && !setting.is_default {
                    missing.push(setting);
                }
            }
            Ok(())
        };
        if let Some(unified) = &self.unified {
            there = unified.controllers;
            write(&unified.top, there, limits::unified(terms, machine, &devices))?;
        }
        for hierarchy in &self.legacy {
            let controllers = hierarchy.controllers.without(there);
            write(&hierarchy.top, controllers, limits::legacy(terms, machine, &devices))?;
        }
        Ok(missing)
    }

    /// Lifts the rates of devices that may not be named any more.
    pub(super) fn lift_rates(&self, group: &Group, former: &ResourceTerms) {
        // A device that is gone has no rates.
        let mut devices = limits::devices(former, device_numbers).unwrap_or_default();
        devices.iter_mut().for_each(|(_, rates)| *rates = Rates::default());
        let nothing = (ResourceTerms::default(), Machine { memory_bytes: u64::MAX, tasks: u64::MAX });
        let settings = limits::unified(&nothing.0, nothing.1, &devices);
        let legacy = limits::legacy(&nothing.0, nothing.1, &devices);
        for (dir, settings) in self
            .unified
            .iter()
            .map(|it| (&it.top, &settings))
            .chain(self.legacy.iter().map(|it| (&it.top, &legacy)))
        {
            for setting in settings.iter().filter(|setting| setting.option == "io-max") {
                let _ = set(dir, group, setting);
            }
        }
    }

    pub(super) fn is_there(&self, group: &Group) -> bool {
        self.tops().any(|dir| dir.has(&group.leaf))
    }

    pub(super) fn kill(&self, group: &Group) {
        if let Some(unified) = &self.unified
            && unified.top.write(&group.file("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // Before Linux 5.14 and in version 1, one by one. A process that is being made meanwhile is found in the next
        // round; frozen ones make none.
        let freeze = |text| self.unified.as_ref().map(|it| it.top.write(&group.file("cgroup.freeze"), text));
        let _ = freeze("1");
        for _ in 0..8 {
            let processes = self.processes(group);
            if processes.is_empty() {
                break;
            }
            for process in processes {
                kill(process);
            }
        }
        let _ = freeze("0");
        if self.legacy_freezer().is_some() {
            let _ = self.freeze(group, false); // there, what is frozen does not even die
        }
    }

    /// Freezes a group, or thaws it.
    pub(super) fn freeze(&self, group: &Group, frozen: bool) -> io::Result<()> {
        if let Some(unified) = self.unified.as_ref().filter(|it| it.controllers.has(Controllers::FREEZER)) {
            return unified.top.write(&group.file("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
        let top = self.legacy_freezer().ok_or(io::ErrorKind::Unsupported)?;
        top.write(&group.file("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
    }

    /// Whether nothing moves in a group. In version 1, to ask is what brings it to its end.
    pub(super) fn is_frozen(&self, group: &Group) -> bool {
        if let Some(unified) = self.unified.as_ref().filter(|it| it.controllers.has(Controllers::FREEZER)) {
            let events = unified.top.read(&group.file("cgroup.events")).unwrap_or_default();
            return usage::field(&events, "frozen") == Some(1);
        }
        let state = self.legacy_freezer().and_then(|top| top.read(&group.file("freezer.state")).ok());
        state.is_some_and(|state| state.trim() == "FROZEN")
    }

    fn legacy_freezer(&self) -> Option<&Dir> {
        self.legacy.iter().find(|it| it.controllers.has(Controllers::FREEZER)).map(|it| &it.top)
    }

    pub(super) fn is_populated(&self, group: &Group) -> bool {
        if let Some(unified) = &self.unified {
            let events = unified.top.read(&group.file("cgroup.events")).unwrap_or_default();
            return usage::field(&events, "populated") == Some(1);
        }
        !self.processes(group).is_empty()
    }

    pub(super) fn processes(&self, group: &Group) -> Vec<i32> {
        self.first().and_then(|dir| dir.processes(&group.leaf).ok()).unwrap_or_default()
    }

    /// With those of the groups below.
    pub(super) fn all_processes(&self, name: &str) -> Vec<i32> {
        let Some(dir) = self.first().and_then(|dir| dir.below(name).ok()) else { return Vec::new() };
        let mut all = dir.processes("").unwrap_or_default();
        for child in dir.groups().unwrap_or_default() {
            all.extend(dir.processes(&child).unwrap_or_default());
        }
        all
    }

    pub(super) fn remove(&self, group: &Group) -> bool {
        let mut gone = true;
        for dir in self.tops() {
            gone &= dir.remove_tree(&group.leaf).unwrap_or(true);
            if gone && group.limits < group.leaf.len() {
                // The last of a family takes the limits along.
                let _ = dir.remove(group.limits());
            }
        }
        gone
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.tops().filter_map(|dir| dir.groups().ok()).flatten().collect();
        names.sort();
        names.dedup();
        names
    }

    /// A file of whichever version has this controller.
    pub(super) fn read(&self, controller: Controllers, path: &str) -> Option<String> {
        let unified = self.unified.iter().filter(|it| it.controllers.has(controller)).map(|it| &it.top);
        let legacy = self.legacy.iter().filter(|it| it.controllers.has(controller)).map(|it| &it.top);
        unified.chain(legacy).next()?.read(path).ok()
    }

    pub(super) fn has_unified(&self, controller: Controllers) -> bool {
        self.unified.as_ref().is_some_and(|unified| unified.controllers.has(controller))
    }

    pub(super) fn troubles(&self, group: &Group) -> Troubles {
        let pids = self.read(Controllers::PIDS, &group.limit_file("pids.events")).unwrap_or_default();
        let tasks_refused = usage::field(&pids, "max").unwrap_or(0);
        if self.has_unified(Controllers::MEMORY) {
            let read =
                |name: &str| self.read(Controllers::MEMORY, &group.limit_file(name)).unwrap_or_default();
            // `oom` of the group itself: its own limit, not one above it.
            let own_limit = usage::field(&read("memory.events.local"), "oom").unwrap_or(0);
            return Troubles { own_limit, oom_kills: self.oom_kills(group), tasks_refused };
        }
        let failures = self.read(Controllers::MEMORY, &group.limit_file("memory.failcnt"));
        let own_limit = failures.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Troubles { own_limit, oom_kills: self.oom_kills(group), tasks_refused }
    }

    pub(super) fn oom_kills(&self, group: &Group) -> u64 {
        let file = if self.has_unified(Controllers::MEMORY) { "memory.events" } else { "memory.oom_control" };
        let read = |path: String| self.read(Controllers::MEMORY, &path);
        let count = |text: Option<String>| text.and_then(|text| usage::field(&text, "oom_kill")).unwrap_or(0);
        let own = count(read(group.limit_file(file)));
        // Version 1 does not count what is below.
        let below = !self.has_unified(Controllers::MEMORY) && group.limits < group.leaf.len();
        if below { own + count(read(group.file(file))) } else { own }
    }

    pub(super) fn usage(&self, group: &Group) -> Usage {
        let number = |controller, name: &str| {
            self.read(controller, &group.limit_file(name)).and_then(|text| text.trim().parse::<u64>().ok())
        };
        let mut usage = Usage {
            group: group.leaf.clone(),
            tasks: number(Controllers::PIDS, "pids.current"),
            read_at: crate::sys::clock::epoch_seconds(),
            oom_kills: self.oom_kills(group),
            ..Usage::default()
        };
        let memory = Controllers::MEMORY;
        (usage.memory_current, usage.memory_peak) = if self.has_unified(memory) {
            (number(memory, "memory.current"), number(memory, "memory.peak"))
        } else {
            (number(memory, "memory.usage_in_bytes"), number(memory, "memory.max_usage_in_bytes"))
        };
        if let Some(unified) = &self.unified {
            let read = |name: &str| unified.top.read(&group.limit_file(name)).ok();
            let waits = |name| read(name).and_then(|text| Waits::parse(&text));
            // Where version 2 has no controllers, nobody moves but processes, and it has no more to say than version 1.
            if let Some(stat) = read("cpu.stat") {
                usage.cpu_usec = usage::field(&stat, "usage_usec");
                usage.cpu_throttled = usage::field(&stat, "nr_throttled");
            }
            usage.pressure = Pressure {
                cpu: waits("cpu.pressure"),
                memory: waits("memory.pressure"),
                io: waits("io.pressure"),
            };
        }
        if usage.cpu_usec.is_none() {
            usage.cpu_usec = number(Controllers::CPUACCT, "cpuacct.usage").map(|nanos| nanos / 1000);
        }
        usage
    }
}

/// Writes one limit; `false` where this kernel's groups have no such file.
fn set(dir: &Dir, group: &Group, setting: &Setting) -> Result<bool, GroupError> {
    for file in setting.files {
        let path = group.limit_file(file);
        match dir.write(&path, &setting.value) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A limit that nobody wants need not be lifted where it cannot be.
            Err(_) if setting.is_default => return Ok(true),
            Err(source) => {
                let path = dir.path().join(path).display().to_string();
                let Setting { option, value, .. } = setting;
                return Err(GroupError::Limit { option, value: value.clone(), path, source });
            }
        }
    }
    Ok(false)
}

/// Kills a process by number. The descriptor in between makes sure that it is the one that was there when it was asked
/// for, as far as that can be.
fn kill(process: i32) {
    if process > 1
        && let Ok(started) = wait::start_time(process)
        && let Ok(Some(pidfd)) = wait::open(process, started)
    {
        // It may have ended by itself.
        let _ = wait::signal(pidfd.as_fd(), nix::libc::SIGKILL);
    }
}

fn device_numbers(path: &str) -> io::Result<(u32, u32)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let there = std::fs::symlink_metadata(path)?;
    // Links in /dev are the system's: names of disks.
    let there = if there.file_type().is_symlink() { std::fs::metadata(path)? } else { there };
    if !there.file_type().is_block_device() {
        return Err(io::Error::other("not a block device"));
    }
    let part = |number: u64| u32::try_from(number).map_err(io::Error::other);
    Ok((part(nix::sys::stat::major(there.rdev()))?, part(nix::sys::stat::minor(there.rdev()))?))
}
