//! What a vassal's processes take, from `/proc` and the control group. Small files of the kernel's own; how many of
//! them are read for one vassal is bounded.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};

use super::Processes;
use crate::sys::sock_diag::Listening;

/// Most processes that are looked at.
const MOST_PROCESSES: usize = 512;
/// Most descriptors that are looked at, of all of them.
const MOST_DESCRIPTORS: usize = 16_384;

/// Sockets that listen: how many wait there, and how many may, by their numbers.
pub(super) type Queues = HashMap<u64, (u32, u32)>;

/// The queues of these sockets.
pub(super) fn queues(listening: &[Listening]) -> Queues {
    listening.iter().map(|it| (it.inode, (it.waiting, it.limit))).collect()
}

/// Looks at the process with this id and all that it has started; at its control group, where it has one. `None` if it
/// is no more.
pub(super) fn look(pid: i32, group: Option<&Path>, queues: &Queues) -> Option<Processes> {
    let own = Stat::of(pid)?;
    let in_group = group.map(members).filter(|pids| !pids.is_empty());
    let pids = in_group.unwrap_or_else(|| descendants(pid));
    let mut sum =
        Processes { count: pids.len() as u64, more: pids.len() >= MOST_PROCESSES, ..Processes::default() };
    let mut sockets = Sockets::default();
    for other in pids {
        let Some(stat) = (if other == pid { Some(own) } else { Stat::of(other) }) else { continue };
        sum.cpu_micros = sum.cpu_micros.saturating_add(stat.cpu_micros());
        sum.memory_bytes = sum.memory_bytes.saturating_add(stat.memory_bytes());
        sockets.add(other);
    }
    let number = |file: &str| std::fs::read_to_string(group?.join(file)).ok()?.trim().parse().ok();
    sum.memory_bytes = number("memory.current").unwrap_or(sum.memory_bytes);
    let accounts = group.and_then(|group| std::fs::read_to_string(group.join("cpu.stat")).ok());
    let cpu = |text: &str| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    sum.cpu_micros = accounts.as_deref().and_then(cpu).unwrap_or(sum.cpu_micros);
    if sockets.seen {
        let listening = sockets.inodes.iter().filter_map(|inode| queues.get(inode));
        let (waiting, limit) = listening.fold((0, 0), |(waiting, limit), queue| {
            (waiting + u64::from(queue.0), limit + u64::from(queue.1))
        });
        sum.sockets = Some(sockets.inodes.len() as u64);
        (sum.queue, sum.queue_limit) = (Some(waiting), Some(limit));
    }
    Some(sum)
}

fn members(group: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().take(MOST_PROCESSES).filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// A process and its descendants. Source: proc(5), `/proc/PID/task/TID/children`, Linux 4.2.
fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.take(MOST_PROCESSES).flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
            if found.len() >= MOST_PROCESSES {
                found.truncate(MOST_PROCESSES);
                return found;
            }
        }
    }
    found
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    /// Ticks, with those of children that were waited for.
    ticks: u64,
    /// Pages.
    pages: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Source: proc(5), fields 14 to 17 and 24.
    fn parse(text: &str) -> Option<Self> {
        let fields = text.rsplit_once(')')?.1; // the second, a name, may hold anything
        let mut fields = fields.split_whitespace().skip(14 - 3);
        let mut ticks = 0_u64;
        for _ in 14..=17 {
            ticks = ticks.saturating_add(fields.next()?.parse().unwrap_or(0));
        }
        Some(Self { ticks, pages: fields.nth(24 - 18)?.parse().unwrap_or(0) })
    }

    fn cpu_micros(self) -> u64 {
        self.ticks.saturating_mul(1_000_000) / unit(SysconfVar::CLK_TCK, 100)
    }

    fn memory_bytes(self) -> u64 {
        self.pages.saturating_mul(unit(SysconfVar::PAGE_SIZE, 4096))
    }
}

fn unit(name: SysconfVar, usual: u64) -> u64 {
    let value = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    value.filter(|value| *value > 0).unwrap_or(usual)
}

/// The sockets that processes hold.
#[derive(Default)]
struct Sockets {
    inodes: HashSet<u64>,
    looked_at: usize,
    /// Whether any process let us look.
    seen: bool,
}

impl Sockets {
    fn add(&mut self, pid: i32) {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        self.seen = true;
        for descriptor in descriptors.flatten() {
            if self.looked_at >= MOST_DESCRIPTORS {
                return;
            }
            self.looked_at += 1;
            let Ok(link) = std::fs::read_link(descriptor.path()) else { continue };
            let inode = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            self.inodes.extend(inode.and_then(|digits| digits.parse::<u64>().ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        let numbers: Vec<String> = (4..=30).map(|field| (field * 10).to_string()).collect();
        let text = format!("7 (a) b) S {}", numbers.join(" "));
        assert_eq!(Stat::parse(&text), Some(Stat { ticks: 140 + 150 + 160 + 170, pages: 240 }));
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn processes_are_counted_with_their_sockets_and_queues() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
        let listening = crate::sys::sock_diag::listening().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let seen = look(pid, None, &queues(&listening)).unwrap();
        let childs = look(i32::try_from(child.id()).unwrap(), None, &queues(&listening)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.count >= 2 && seen.memory_bytes > 1 << 20 && !seen.more, "{seen:?}");
        assert!(seen.sockets >= Some(2) && seen.queue == Some(1), "{seen:?}");
        assert_eq!((childs.count, childs.queue), (1, Some(0)), "{childs:?}");
        assert_eq!(look(i32::MAX, None, &Queues::new()), None);
    }
}
