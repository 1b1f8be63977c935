//! What the kernel counts for each process: limits, priorities, the processors, the mask for new files.

use std::fmt;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::super::link::Failure;
use super::super::plan::Step;
use crate::sys::priority;

/// A value, and whether it may be more than what is in force: what root has written may, what a tenant wrote may not.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Granted<T> {
    /// What is wanted.
    pub value: T,
    /// Whether privileges may be used to get it.
    pub may_raise: bool,
}

impl<T> Granted<T> {
    /// What root wants.
    #[must_use]
    pub const fn by_root(value: T) -> Self {
        Self { value, may_raise: true }
    }

    fn joined(one: Option<Self>, two: Option<Self>, stricter: impl Fn(T, T) -> T) -> Option<Self> {
        match (one, two) {
            (Some(one), Some(two)) => Some(Self {
                value: stricter(one.value, two.value),
                may_raise: one.may_raise || two.may_raise,
            }),
            (one, two) => one.or(two),
        }
    }
}

/// A limit as getrlimit(2) has it; `u64::MAX` is none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limit {
    /// What counts.
    pub soft: u64,
    /// Up to where the vassal may raise it.
    pub hard: u64,
}

impl Limit {
    /// The same for both.
    #[must_use]
    pub const fn of(value: u64) -> Self {
        Self { soft: value, hard: value }
    }

    fn stricter(one: Self, two: Self) -> Self {
        let hard = one.hard.min(two.hard);
        Self { soft: one.soft.min(two.soft).min(hard), hard }
    }
}

/// Processors by number, the first 1024.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Processors([u64; 16]);

impl Processors {
    /// Reads `0-3,6`; blanks separate as well.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse(list: &str) -> Result<Self, String> {
        let wrong = || "numbers of processors from 0 to 1023 are wanted, as in 0-3,6".to_owned();
        let mut set = Self::default();
        for word in list.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            let (from, to): (usize, usize) =
                (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
            if from > to || to >= 1024 {
                return Err(wrong());
            }
            (from..=to).for_each(|number| set.0[number / 64] |= 1 << (number % 64));
        }
        if set == Self::default() { Err(wrong()) } else { Ok(set) }
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..1024).filter(|number| self.0[number / 64] & 1 << (number % 64) != 0)
    }

    /// Those of both; the second's where they have none in common, since a process runs somewhere.
    fn common(mut one: Self, two: Self) -> Self {
        one.0.iter_mut().zip(two.0).for_each(|(one, two)| *one &= two);
        if one == Self::default() { two } else { one }
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut rest = self.numbers().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// All of it. What is `None` stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes of address space.
    pub address_space: Option<Granted<Limit>>,
    /// Processes and threads of the user.
    pub nproc: Option<Granted<Limit>>,
    /// One more than the highest descriptor.
    pub nofile: Option<Granted<Limit>>,
    /// Bytes of a core file.
    pub core: Option<Granted<Limit>>,
    /// Bytes of locked memory.
    pub memlock: Option<Granted<Limit>>,
    /// Bytes of a file.
    pub fsize: Option<Granted<Limit>>,
    /// Seconds of a processor's time.
    pub cpu: Option<Granted<Limit>>,
    /// From -20, most urgent, to 19.
    pub nice: Option<Granted<i8>>,
    /// From -1000, never ended for want of memory, to 1000, the first.
    pub oom_score_adjust: Option<Granted<i16>>,
    /// Where it runs.
    pub processors: Option<Processors>,
    /// Permissions that new files lack.
    pub umask: Option<u16>,
}

impl Limits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What decides who comes first: nice value, score for when memory is short, processors.
    #[must_use]
    pub fn priorities(&self) -> Self {
        let Self { nice, oom_score_adjust, processors, .. } = *self;
        Self { nice, oom_score_adjust, processors, ..Self::default() }
    }

    /// All else.
    #[must_use]
    pub fn but_priorities(&self) -> Self {
        Self { nice: None, oom_score_adjust: None, processors: None, ..self.clone() }
    }

    /// The stricter of two, one by one.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        let limit = |one, two| Granted::joined(one, two, Limit::stricter);
        Self {
            address_space: limit(self.address_space, other.address_space),
            nproc: limit(self.nproc, other.nproc),
            nofile: limit(self.nofile, other.nofile),
            core: limit(self.core, other.core),
            memlock: limit(self.memlock, other.memlock),
            fsize: limit(self.fsize, other.fsize),
            cpu: limit(self.cpu, other.cpu),
            nice: Granted::joined(self.nice, other.nice, i8::max),
            oom_score_adjust: Granted::joined(self.oom_score_adjust, other.oom_score_adjust, i16::max),
            processors: match (self.processors, other.processors) {
                (Some(one), Some(two)) => Some(Processors::common(one, two)),
                (one, two) => one.or(two),
            },
            umask: match (self.umask, other.umask) {
                (Some(one), Some(two)) => Some(one | two),
                (one, two) => one.or(two),
            },
        }
    }

    /// As a tenant wants it: nothing that would be more than what is in force.
    #[must_use]
    pub fn of_tenant(mut self) -> Self {
        for (_, limit) in self.each_mut() {
            limit.iter_mut().for_each(|limit| limit.may_raise = false);
        }
        self.nice.iter_mut().for_each(|nice| nice.may_raise = false);
        self.oom_score_adjust.iter_mut().for_each(|adjust| adjust.may_raise = false);
        self
    }

    fn each_mut(&mut self) -> [(Resource, &mut Option<Granted<Limit>>); 7] {
        [
            (Resource::RLIMIT_AS, &mut self.address_space),
            (Resource::RLIMIT_NPROC, &mut self.nproc),
            (Resource::RLIMIT_NOFILE, &mut self.nofile),
            (Resource::RLIMIT_CORE, &mut self.core),
            (Resource::RLIMIT_MEMLOCK, &mut self.memlock),
            (Resource::RLIMIT_FSIZE, &mut self.fsize),
            (Resource::RLIMIT_CPU, &mut self.cpu),
        ]
    }

    fn each(&self) -> [(&'static str, Resource, Option<Granted<Limit>>); 7] {
        [
            ("as", Resource::RLIMIT_AS, self.address_space),
            ("nproc", Resource::RLIMIT_NPROC, self.nproc),
            ("nofile", Resource::RLIMIT_NOFILE, self.nofile),
            ("core", Resource::RLIMIT_CORE, self.core),
            ("memlock", Resource::RLIMIT_MEMLOCK, self.memlock),
            ("fsize", Resource::RLIMIT_FSIZE, self.fsize),
            ("cpu", Resource::RLIMIT_CPU, self.cpu),
        ]
    }

    /// Puts them in force, before the change of identity.
    pub(in super::super) fn perform(&self) -> Result<(), Failure> {
        for (name, resource, limit) in self.each() {
            let Some(limit) = limit else { continue };
            let done = set_limit(resource, limit);
            done.map_err(|error| {
                Failure::new(Step::Limits, &format!("{name} {}", shown(limit.value)), &error)
            })?;
        }
        if let Some(nice) = self.nice {
            let done = may(nice, nice.value < priority::get())
                .and_then(|()| priority::set(nice.value.clamp(-20, 19)));
            done.map_err(|error| Failure::new(Step::Nice, &format!("nice {}", nice.value), &error))?;
        }
        if let Some(adjust) = self.oom_score_adjust {
            let done = adjust_oom_score(adjust);
            done.map_err(|error| Failure::new(Step::OomScore, &format!("score {}", adjust.value), &error))?;
        }
        if let Some(processors) = self.processors {
            let failed = |error| Failure::new(Step::Processors, &format!("processors {processors}"), &error);
            run_on(&processors).map_err(failed)?;
        }
        if let Some(mask) = self.umask {
            umask(Mode::from_bits_truncate(libc::mode_t::from(mask)));
        }
        Ok(())
    }
}

fn may<T>(wish: Granted<T>, is_more: bool) -> io::Result<()> {
    if is_more && !wish.may_raise { Err(Errno::EPERM.into()) } else { Ok(()) }
}

fn set_limit(resource: Resource, wanted: Granted<Limit>) -> io::Result<()> {
    let Limit { soft, hard } = wanted.value;
    let (_, most) = getrlimit(resource)?;
    let is_less = |one: u64, other: u64| other == RLIM_INFINITY || one != RLIM_INFINITY && one <= other;
    may(wanted, !is_less(hard, most))?;
    Ok(setrlimit(resource, soft.min(hard), hard)?)
}

fn adjust_oom_score(wanted: Granted<i16>) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = fs::read_to_string(FILE)?;
    may(wanted, now.trim().parse().is_ok_and(|now: i16| wanted.value < now))?;
    fs::write(FILE, wanted.value.clamp(-1000, 1000).to_string())
}

/// On those of them that the machine has and that this process may use.
fn run_on(wanted: &Processors) -> io::Result<()> {
    let this = Pid::from_raw(0);
    let now = sched_getaffinity(this)?;
    let mut set = CpuSet::new();
    for number in wanted.numbers().filter(|number| now.is_set(*number).unwrap_or_default()) {
        set.set(number)?;
    }
    Ok(sched_setaffinity(this, &set)?) // EINVAL: none of them
}

fn shown(Limit { soft, hard }: Limit) -> String {
    let one = |value: u64| if value == RLIM_INFINITY { "infinity".into() } else { value.to_string() };
    if soft == hard { one(soft) } else { format!("{}:{}", one(soft), one(hard)) }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.each().into_iter();
        let mut parts: Vec<String> =
            limits.filter_map(|(name, _, limit)| Some(format!("{name} {}", shown(limit?.value)))).collect();
        parts.extend(self.nice.map(|nice| format!("nice {}", nice.value)));
        parts.extend(self.oom_score_adjust.map(|adjust| format!("oom-score {}", adjust.value)));
        parts.extend(self.processors.map(|set| format!("processors {set}")));
        parts.extend(self.umask.map(|mask| format!("umask {mask:03o}")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_and_shown_as_ranges() {
        let set = Processors::parse("6, 0-3 9").unwrap();
        assert_eq!(set.to_string(), "0-3,6,9");
        for wrong in ["", "3-1", "1024", "a", "1-"] {
            assert!(Processors::parse(wrong).is_err(), "{wrong}");
        }
        let two = Processors::parse("3-4").unwrap();
        assert_eq!(Processors::common(set, two).to_string(), "3");
        assert_eq!(Processors::common(set, Processors::parse("5").unwrap()).to_string(), "5");
    }

    #[test]
    fn the_stricter_of_two_limits_is_the_lower_and_of_two_priorities_the_lesser() {
        let limits = |soft, hard, nice| Limits {
            nofile: Some(Granted::by_root(Limit { soft, hard })),
            nice: Some(Granted::by_root(nice)),
            ..Limits::default()
        };
        let both = limits(10, 100, -5).joined(&limits(20, 15, 3));
        assert_eq!(both, limits(10, 15, 3));
        assert_eq!(both.to_string(), "nofile 10:15, nice 3");
        assert_eq!(limits(1, 1, 1).joined(&Limits::default()), limits(1, 1, 1));
    }

    #[test]
    fn a_tenant_cannot_be_given_more_than_there_is() {
        let wish = Limits { nofile: Some(Granted::by_root(Limit::of(u64::MAX))), ..Limits::default() };
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if most != RLIM_INFINITY {
            let failure = wish.of_tenant().perform().unwrap_err();
            assert_eq!((failure.step, failure.errno), (Step::Limits, libc::EPERM));
        }
        let of_root = Limits { nofile: Some(Granted::by_root(Limit::of(50))), ..Limits::default() };
        let granted = Limits { nofile: Some(Granted::by_root(Limit::of(90))), ..Limits::default() };
        assert!(of_root.of_tenant().joined(&granted).nofile.unwrap().may_raise, "root's own grant");
    }
}
