//! A filter as a program for the kernel.
//!
//! `seccompiler` writes the comparisons of arguments, and hands the program to the kernel. Which call has which fate is
//! decided by a search tree of our own: `seccompiler` compares a call's number with one after the other, knows only
//! one error per filter, and lets x32 pass, whose numbers are those of x86_64 with one more bit. A tree answers after
//! nine comparisons whatever the filter holds, and when the filter is put in force the kernel asks it once for each
//! number of a call, to answer for those without a comparison of arguments by itself from then on.

use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, TargetArch,
    sock_filter,
};

use super::{CallFilter, CallSet};
use crate::sys::calls;

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Allowed,
    Fails(i32),
    /// Allowed if one of these rules holds, else it fails.
    FailsUnless(Vec<SeccompRule>, i32),
}

/// The program: the machine, the manner of the call, then the tree.
pub(super) fn program(filter: &CallFilter) -> io::Result<BpfProgram> {
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let fates = fates(filter).map_err(io::Error::other)?;
    let mut program = vec![
        load(OFFSET_OF_MACHINE),
        jump(JUMP_IF_EQUAL, audit_number(&machine), 1, 0),
        stop(libc::SECCOMP_RET_KILL_PROCESS),
        load(OFFSET_OF_NUMBER),
    ];
    if machine == TargetArch::x86_64 {
        program.extend([jump(JUMP_IF_AT_LEAST, X32, 0, 1), stop(errno(libc::EPERM))]);
    }
    program.extend(tree(&fates));
    Ok(program)
}

/// From each of these numbers on, up to the next, all calls have that fate.
fn fates(filter: &CallFilter) -> Result<Vec<(u32, Fate)>, seccompiler::BackendError> {
    let known = CallSet::known();
    let needed = CallSet::needed();
    let mut special = special(filter)?;
    special.sort_by_key(|(number, _)| *number);
    let mut fates: Vec<(u32, Fate)> = Vec::new();
    let mut special = special.into_iter().peekable();
    for number in 0..CallSet::NUMBERS {
        let mut fate = match (filter.refused.holds(number), known.holds(number)) {
            _ if needed.holds(number) => Fate::Allowed,
            (true, true) => Fate::Fails(libc::EPERM),
            (true, false) => Fate::Fails(libc::ENOSYS), // the C library then does without
            (false, _) => Fate::Allowed,
        };
        while let Some((_, other)) = special.next_if(|(it, _)| *it == number) {
            if fate == Fate::Allowed {
                fate = other;
            }
        }
        if fates.last().is_none_or(|(_, last)| *last != fate) {
            fates.push((number, fate));
        }
    }
    let beyond = if filter.unknown_refused { Fate::Fails(libc::ENOSYS) } else { Fate::Allowed };
    fates.push((CallSet::NUMBERS, beyond));
    Ok(fates)
}

/// The calls whose fate depends on their arguments, or that would be a way around those.
fn special(filter: &CallFilter) -> Result<Vec<(u32, Fate)>, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let mut found = Found::default();
    let namespaces = u64::from(filter.namespaces.flags());
    if namespaces != 0 {
        // The flags are the first argument everywhere but on s390 and cris.
        let none = || Ok(vec![rule([when(0, MaskedEq(namespaces), 0)?])?]);
        found.add(
            &["clone"],
            Fate::FailsUnless(vec![rule([when(0, MaskedEq(namespaces & !0xff), 0)?])?], libc::EPERM),
        );
        found.add(&["unshare"], Fate::FailsUnless(none()?, libc::EPERM));
        // Its flags are in memory, where no filter can look.
        found.add(&["clone3"], Fate::Fails(libc::ENOSYS));
        // 0 is any kind.
        let others = rule([when(1, MaskedEq(namespaces), 0)?, when(1, Ne, 0)?])?;
        found.add(&["setns"], Fate::FailsUnless(vec![others], libc::EPERM));
    }
    if let Some(families) = filter.families {
        let rules = families.numbers().map(|number| rule([when(0, Eq, number.into())?]));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        found.add(&["socket", "socketpair"], Fate::FailsUnless(rules, libc::EAFNOSUPPORT));
    }
    if filter.realtime {
        let policies = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].map(i32::cast_unsigned);
        let ordinary = policies.map(|policy| rule([when(1, MaskedEq(!RESET_ON_FORK), policy.into())?]));
        let ordinary = ordinary.into_iter().collect::<Result<Vec<_>, _>>()?;
        found.add(&["sched_setscheduler"], Fate::FailsUnless(ordinary, libc::EPERM));
        found.add(&["sched_setattr"], Fate::Fails(libc::EPERM)); // the policy is in memory
    }
    if filter.suid_sgid {
        let mode = |argument| rule([when(argument, MaskedEq(SET_ID), 0)?]);
        let fails_unless = |rules| Fate::FailsUnless(rules, libc::EPERM);
        found.add(&["chmod", "fchmod", "mkdir", "mknod", "creat"], fails_unless(vec![mode(1)?]));
        found.add(&["fchmodat", "fchmodat2", "mkdirat", "mknodat"], fails_unless(vec![mode(2)?]));
        let makes_none = |argument| rule([when(argument, MaskedEq(MAKES_FILE), 0)?]);
        found.add(&["open"], fails_unless(vec![makes_none(1)?, mode(2)?]));
        found.add(&["openat"], fails_unless(vec![makes_none(2)?, mode(3)?]));
        found.add(&["openat2"], Fate::Fails(libc::ENOSYS)); // the mode is in memory
    }
    if filter.personality {
        let rules = vec![rule([when(0, Eq, 0)?])?, rule([when(0, Eq, ASKS_PERSONALITY)?])?];
        found.add(&["personality"], Fate::FailsUnless(rules, libc::EPERM));
    }
    if filter.write_execute {
        let lacks = |protection: i32| rule([when(2, MaskedEq(protection.cast_unsigned().into()), 0)?]);
        let (write, execute) = (lacks(libc::PROT_WRITE)?, lacks(libc::PROT_EXEC)?);
        found.add(&["mmap"], Fate::FailsUnless(vec![write, execute.clone()], libc::EPERM));
        found.add(&["mprotect", "pkey_mprotect"], Fate::FailsUnless(vec![execute], libc::EPERM));
        let shared = rule([when(2, MaskedEq(libc::SHM_EXEC.cast_unsigned().into()), 0)?])?;
        found.add(&["shmat"], Fate::FailsUnless(vec![shared], libc::EPERM));
    }
    if filter.terminal {
        let other = rule([when(1, Ne, libc::TIOCSTI)?, when(1, Ne, TIOCLINUX)?])?;
        found.add(&["ioctl"], Fate::FailsUnless(vec![other], libc::EPERM));
    }
    if filter.families.is_some() || filter.suid_sgid {
        // A ring makes sockets and files without a call of its own for each.
        found.add(&["io_uring_setup", "io_uring_enter", "io_uring_register"], Fate::Fails(libc::EPERM));
    }
    Ok(found.0)
}

#[derive(Default)]
struct Found(Vec<(u32, Fate)>);

impl Found {
    fn add(&mut self, names: &[&str], fate: Fate) {
        let numbers = names.iter().filter_map(|name| u32::try_from(calls::number(name)?).ok());
        self.0.extend(numbers.map(|number| (number, fate.clone())));
    }
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

/// Only the lower half of an argument is compared: the kernel takes all of these as 32 bits, and ignores the others.
fn when(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// A search by halves. The number stays in the accumulator on the way to a leaf.
fn tree(fates: &[(u32, Fate)]) -> BpfProgram {
    let (before, after) = match fates {
        [] => return vec![stop(libc::SECCOMP_RET_ALLOW)],
        [(_, fate)] => return leaf(fate),
        more => more.split_at(more.len() / 2),
    };
    let first = after.first().map_or(0, |(number, _)| *number);
    let (lower, upper) = (tree(before), tree(after));
    let mut program = match u8::try_from(lower.len()) {
        Ok(over) => vec![jump(JUMP_IF_AT_LEAST, first, over, 0)],
        Err(_) => {
            let over = u32::try_from(lower.len()).unwrap_or(u32::MAX);
            vec![jump(JUMP_IF_AT_LEAST, first, 0, 1), jump(JUMP, over, 0, 0)]
        }
    };
    program.extend(lower);
    program.extend(upper);
    program
}

fn leaf(fate: &Fate) -> BpfProgram {
    match fate {
        Fate::Allowed => vec![stop(libc::SECCOMP_RET_ALLOW)],
        Fate::Fails(with) => vec![stop(errno(*with))],
        Fate::FailsUnless(rules, with) => {
            let mut program = Vec::new();
            for rule in rules {
                // A rule that does not hold jumps over the one instruction behind it.
                program.extend(BpfProgram::from(rule.clone()));
                program.push(stop(SeccompAction::Allow.into()));
            }
            program.push(stop(errno(*with)));
            program
        }
    }
}

fn errno(number: i32) -> u32 {
    SeccompAction::Errno(number.cast_unsigned()).into()
}

const fn audit_number(machine: &TargetArch) -> u32 {
    match machine {
        TargetArch::x86_64 => 0xc000_003e,
        TargetArch::aarch64 => 0xc000_00b7,
        TargetArch::riscv64 => 0xc000_00f3,
    }
}

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn stop(action: u32) -> sock_filter {
    sock_filter { code: STOP, jt: 0, jf: 0, k: action }
}

// Source: linux/bpf_common.h, linux/filter.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const STOP: u16 = 0x06; // BPF_RET | BPF_K
// Source: `struct seccomp_data` of linux/seccomp.h.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_MACHINE: u32 = 4;
/// Calls of x32 have this bit. Source: `__X32_SYSCALL_BIT` of asm/unistd.h.
const X32: u32 = 0x4000_0000;
/// `SCHED_RESET_ON_FORK`, which may stand beside any policy. Source: sched(7).
const RESET_ON_FORK: u64 = 0x4000_0000;
/// `S_ISUID | S_ISGID`.
const SET_ID: u64 = 0o6000;
/// `O_CREAT`, and `O_TMPFILE` without the `O_DIRECTORY` in it: a mode is only read with one of them. Source: open(2).
const MAKES_FILE: u64 = 0o100 | 0o20_000_000;
/// Changes nothing. Source: personality(2).
const ASKS_PERSONALITY: u64 = 0xffff_ffff;
/// Source: ioctl_console(2).
const TIOCLINUX: u64 = 0x541c;
