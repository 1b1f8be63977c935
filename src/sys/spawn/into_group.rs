//! Cloning into a control group: clone3(2), which no library wraps for a child that shares our memory.

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{Child, SHARED, STACK_BYTES, Stack, Task, child};

/// Whether this can be done on this architecture.
pub(super) const KNOWN: bool = true;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`. The library's constant is too narrow for it, and 0.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of `linux/sched.h`, as of Linux 5.7 (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts `child` with `task` on `stack`, as a member of the group from the first instant.
///
/// # Errors
/// Those of clone(2); `EBUSY`, `EOPNOTSUPP`, `ENODEV` and `EACCES` for a group that takes no processes; `ENOSYS`
/// before Linux 5.3, `E2BIG` or `EINVAL` before 5.7. Source: clone(2).
pub(super) fn clone(stack: &Stack, task: &mut Task<'_>, group: BorrowedFd<'_>) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let bits = |flags: libc::c_int| u64::from(flags.cast_unsigned());
    let namespace = if task.program.new_pid_namespace { bits(libc::CLONE_NEWPID) } else { 0 };
    let mut arguments = CloneArgs {
        flags: bits(SHARED) | namespace | INTO_CGROUP,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: bits(libc::SIGCHLD),
        stack: stack.base().addr() as u64,
        stack_size: STACK_BYTES as u64,
        cgroup: u64::from(group.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: as in `super::clone`: the stack is ours and used by one child at a time, we are suspended (CLONE_VFORK)
    // until the child has left our memory, `task` outlives that, and the child only makes system calls.
    let result = unsafe { call(&raw mut arguments, ptr::from_mut(task).cast()) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    let pid = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just stored this descriptor there, for us.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// The call itself: returns in the parent only. The child goes on with an empty, 16-byte aligned stack and never
/// returns from `child`.
///
/// # Safety
/// As for clone(2) with `CLONE_VM | CLONE_VFORK`; `arguments` name a stack that nobody else uses.
unsafe fn call(arguments: *mut CloneArgs, task: *mut libc::c_void) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: the parent's registers are as the constraints say; the child, on its own stack, calls `child`, which ends
    // its process. A trap stands behind it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") task,
            in("r13") child as extern "C" fn(*mut libc::c_void) -> libc::c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: the same.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") arguments => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") task,
            in("x21") child as extern "C" fn(*mut libc::c_void) -> libc::c_int,
        );
    }
    result
}
