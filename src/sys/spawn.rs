//! Starting a program: the one place where this program makes a process.
//!
//! The child shares our memory and our descriptor table until it has a table of its own that holds the wanted
//! numbers only (`CLOSE_RANGE_UNSHARE`): the cost does not grow with the number of descriptors we hold, nor
//! with any limit. We are suspended until it has exec'ed or failed, so a failed exec is known at once.
//!
//! Only for a child that keeps our identity: one that changes its user while it shares our memory could be
//! stopped by that user, and we with it. Whoever needs that starts the launcher, which has its own memory.
//!
//! Caller: the emperor's hands; one thread.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "spawn/into_no_group.rs")]
mod into_group;

use super::fds::{FIRST_SLOT, Reserved, SLOTS};
use super::process::DescriptorLimit;

/// A list of C strings in the form that execve(2) wants, built once.
#[derive(Debug)]
pub struct CStrings {
    owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Takes the strings.
    #[must_use]
    pub fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { owned, pointers }
    }

    /// The strings.
    #[must_use]
    pub fn as_slice(&self) -> &[CString] {
        &self.owned
    }
}

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Paths tried in this order until one can be exec'ed; argv\[0\] comes with each.
    pub candidates: &'a [Candidate<'a>],
    /// The environment.
    pub environment: &'a CStrings,
    /// The directory to start in; ours if `None`.
    pub cwd: Option<&'a CStr>,
    /// Standard input; ours, which is `/dev/null`, if `None`.
    pub stdin: Option<BorrowedFd<'a>>,
    /// What the child finds at the descriptors 3, 4 and 5. All others are closed.
    pub passed: [Option<BorrowedFd<'a>>; SLOTS - 1],
    /// Descriptors that the child keeps under their own numbers besides (`safe-fd`).
    pub kept: &'a [RawFd],
    /// Signal that the child gets when our thread dies; 0 for none. prctl(2), `PR_SET_PDEATHSIG`.
    pub parent_death_signal: i32,
    /// Whether the child leads a process group of its own. setpgid(2).
    pub own_group: bool,
    /// Whether the child is the first process of a new pid namespace. clone(2), `CLONE_NEWPID`.
    pub new_pid_namespace: bool,
    /// The control groups that the child is in before its first instruction.
    pub groups: Groups<'a>,
}

/// Control groups to start in: one of version 2, and any number of version 1. None by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Groups<'a> {
    /// The directory of the group of version 2. Where the kernel clones into a group the child never was elsewhere:
    /// clone3(2), `CLONE_INTO_CGROUP`, Linux 5.7.
    pub directory: Option<BorrowedFd<'a>>,
    /// Its `cgroup.procs`, open for writing: the child enters by itself where it cannot be cloned there.
    pub procs: Option<BorrowedFd<'a>>,
    /// The `cgroup.procs` of groups of version 1.
    pub legacy: &'a [OwnedFd],
}

/// One program to try.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The file to execute.
    pub path: &'a CStr,
    /// The arguments, with the name of the program first.
    pub arguments: &'a CStrings,
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    /// The handle that never means another process. Close-on-exec.
    pub pidfd: OwnedFd,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The machine or a limit does not allow another process or descriptor; the program is not at fault.
    #[error("cannot make a process")]
    NoProcess(#[source] io::Error),
    /// The child could not enter its directory.
    #[error("cannot enter its directory")]
    Directory(#[source] io::Error),
    /// The child could not be made in its control group, or not enter it.
    #[error("cannot enter its control group")]
    Group(#[source] io::Error),
    /// None of the programs could be executed; the error is that of the last one that exists.
    #[error("cannot execute")]
    Exec(#[source] io::Error),
    /// The child could not be prepared otherwise.
    #[error("cannot prepare the child")]
    Prepare(#[source] io::Error),
}

/// Starts programs.
#[derive(Debug)]
pub struct Spawner {
    reserved: Reserved,
    stack: Stack,
    limit: Option<DescriptorLimit>,
    pid: i32,
    /// Whether the kernel clones into control groups, as far as we know.
    clones_into_groups: bool,
}

const STDIN_SLOT: RawFd = FIRST_SLOT + 3;

impl Spawner {
    /// Takes the reserved descriptors. `limit` is put in force in each child, where ours was raised.
    ///
    /// # Errors
    /// No memory for the children's stack.
    pub fn new(reserved: Reserved, limit: Option<DescriptorLimit>) -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        Ok(Self { reserved, stack: Stack::new()?, limit, pid, clones_into_groups: into_group::KNOWN })
    }

    /// Starts `program` and waits until it runs.
    ///
    /// The child has an empty signal mask, but for the first process of a pid namespace, which has all signals blocked;
    /// SIGPIPE is ignored and every other signal at its default.
    ///
    /// # Errors
    /// [`SpawnError`]; no process is left behind then.
    pub fn spawn(&mut self, program: &Program<'_>) -> Result<Child, SpawnError> {
        let mut last = FIRST_SLOT - 1;
        for (slot, fd) in (FIRST_SLOT..).zip(program.passed) {
            if let Some(fd) = fd {
                self.reserved.put(slot, fd).map_err(SpawnError::NoProcess)?;
                last = slot;
            }
        }
        if let Some(fd) = program.stdin {
            self.reserved.put(STDIN_SLOT, fd).map_err(SpawnError::NoProcess)?;
            last = STDIN_SLOT;
        }
        let enters =
            program.groups.procs.filter(|_| program.groups.directory.is_none() || !self.clones_into_groups);
        let mut task = Task { program, enters, last, limit: self.limit, parent: self.pid, failure: None };
        let child = self.clone_and_run(&mut task);
        for slot in FIRST_SLOT..=last {
            // A slot that cannot be emptied now is overwritten by the next spawn.
            let _ = self.reserved.clear(slot);
        }
        let child = child.map_err(|error| match error.raw_os_error() {
            // Removed, frozen, a threaded one: the machine is not short of anything.
            Some(libc::ENODEV | libc::EBUSY | libc::EOPNOTSUPP | libc::EACCES) => SpawnError::Group(error),
            _ => SpawnError::NoProcess(error),
        })?;
        let Some((step, errno)) = task.failure else { return Ok(child) };
        use std::os::fd::AsFd;
        // The child is in its exit; its status says nothing, and nobody else could have reaped it.
        let _ = super::wait::reap_ending(child.pidfd.as_fd());
        let error = io::Error::from_raw_os_error(errno);
        Err(match step {
            Step::Directory => SpawnError::Directory(error),
            Step::Group => SpawnError::Group(error),
            Step::Exec => SpawnError::Exec(error),
            Step::Prepare => SpawnError::Prepare(error),
        })
    }

    fn clone_and_run(&mut self, task: &mut Task<'_>) -> io::Result<Child> {
        let everything = nix::sys::signal::SigSet::all();
        let before = everything.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        let mut result = match task.program.groups.directory {
            Some(group) if self.clones_into_groups => into_group::clone(&self.stack, task, group),
            _ => clone(&self.stack, task),
        };
        if self.clones_into_groups
            && task.program.groups.directory.is_some()
            && let Err(error) = &result
            && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG))
        {
            // An older kernel, or a filter that does not know the call.
            self.clones_into_groups = false;
            task.enters = task.program.groups.procs;
            result = clone(&self.stack, task);
        }
        before.thread_set_mask()?;
        result
    }
}

/// What every child shares with us until it has exec'ed, and how we know it.
const SHARED: libc::c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD;

fn clone(stack: &Stack, task: &mut Task<'_>) -> io::Result<Child> {
    let namespace = if task.program.new_pid_namespace { libc::CLONE_NEWPID } else { 0 };
    let flags = SHARED | namespace | libc::SIGCHLD;
    let mut pidfd: RawFd = -1;
    // SAFETY: the stack is ours, used by one child at a time, and we are suspended (CLONE_VFORK) until the
    // child has left our memory; `task` outlives that. The child only makes system calls (see `child`).
    let pid = unsafe { libc::clone(child, stack.top(), flags, ptr::from_mut(task).cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just stored this descriptor there, for us.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// What the child needs, in our memory, which it shares.
struct Task<'a> {
    program: &'a Program<'a>,
    /// The group of version 2 that the child enters by itself.
    enters: Option<BorrowedFd<'a>>,
    last: RawFd,
    limit: Option<DescriptorLimit>,
    parent: i32,
    failure: Option<(Step, i32)>,
}

#[derive(Clone, Copy)]
enum Step {
    Prepare,
    Group,
    Directory,
    Exec,
}

/// Exit status of a child that could not be exec'ed; uWSGI's «exile».
const EXILE: i32 = 26;

/// Runs in the child, on a stack of its own and in our memory: system calls only, no allocation, no lock.
extern "C" fn child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `clone_and_run` passes a pointer to a `Task` and is suspended while this runs.
    let task = unsafe { &mut *argument.cast::<Task<'_>>() };
    task.failure = Some(task.prepare().map_or_else(|failure| failure, |()| task.exec()));
    // SAFETY: ends this process alone, without running anything of our memory's owner.
    unsafe { libc::_exit(EXILE) }
}

impl Task<'_> {
    fn prepare(&self) -> Result<(), (Step, i32)> {
        let check = |r: libc::c_long, step| if r < 0 { Err((step, errno())) } else { Ok(()) };
        let first_closed = self.last + 1;
        let how = libc::CLOSE_RANGE_UNSHARE
            | if self.program.kept.is_empty() { 0 } else { libc::CLOSE_RANGE_CLOEXEC };
        // SAFETY: integers and pointers to live data only; the descriptor table is the child's own from the first
        // call on, and every other setting is per process.
        unsafe {
            // First of all: what is done for the child counts as the child's. `0` is who writes it.
            let own = self.enters.iter().map(AsRawFd::as_raw_fd);
            for procs in own.chain(self.program.groups.legacy.iter().map(AsRawFd::as_raw_fd)) {
                let written = libc::write(procs, c"0".as_ptr().cast(), 1);
                check(libc::c_long::try_from(written).unwrap_or(-1), Step::Group)?;
            }
            check(libc::syscall(libc::SYS_close_range, first_closed, u32::MAX, how), Step::Prepare)?;
            if self.program.stdin.is_some() {
                check(libc::dup2(STDIN_SLOT, 0).into(), Step::Prepare)?;
            }
            for (slot, fd) in (FIRST_SLOT..).zip(self.program.passed) {
                if fd.is_some() {
                    check(libc::fcntl(slot, libc::F_SETFD, 0).into(), Step::Prepare)?;
                }
            }
            for number in self.program.kept {
                libc::fcntl(*number, libc::F_SETFD, 0);
            }
            for number in [
                libc::SIGHUP,
                libc::SIGINT,
                libc::SIGQUIT,
                libc::SIGTERM,
                libc::SIGUSR1,
                libc::SIGUSR2,
                libc::SIGURG,
                libc::SIGWINCH,
                libc::SIGCHLD,
            ] {
                libc::signal(number, libc::SIG_DFL);
            }
            if self.program.own_group {
                check(libc::setpgid(0, 0).into(), Step::Prepare)?;
            }
            if let Some(limit) = self.limit {
                let limit = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
                check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into(), Step::Prepare)?;
            }
            if self.program.parent_death_signal != 0 {
                let number = self.program.parent_death_signal;
                check(libc::prctl(libc::PR_SET_PDEATHSIG, number).into(), Step::Prepare)?;
                if libc::getppid() != self.parent {
                    return Err((Step::Prepare, libc::ESRCH)); // it died before we asked
                }
            }
            if let Some(cwd) = self.program.cwd {
                check(libc::chdir(cwd.as_ptr()).into(), Step::Directory)?;
            }
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            if self.program.new_pid_namespace {
                // The kernel drops what process 1 neither blocks nor handles; the launcher takes it from here.
                libc::sigfillset(none.as_mut_ptr());
            }
            check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()).into(), Step::Prepare)
        }
    }

    /// Returns only when nothing could be executed.
    fn exec(&self) -> (Step, i32) {
        let mut failure = libc::ENOENT;
        for candidate in self.program.candidates {
            let arguments = candidate.arguments.pointers.as_ptr();
            // SAFETY: a path and two null-terminated lists of C strings, all alive while the parent waits.
            unsafe {
                libc::execve(candidate.path.as_ptr(), arguments, self.program.environment.pointers.as_ptr());
            }
            let errno = errno();
            if errno != libc::ENOENT && errno != libc::ENOTDIR {
                failure = errno;
            }
        }
        (Step::Exec, failure)
    }
}

fn errno() -> i32 {
    // SAFETY: the C library's errno of this thread, which the suspended parent does not use meanwhile.
    unsafe { *libc::__errno_location() }
}

/// The stack that a child uses until it execs.
#[derive(Debug)]
struct Stack {
    base: *mut libc::c_void,
}

const STACK_BYTES: usize = 64 * 1024;

impl Stack {
    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base }) }
    }

    fn base(&self) -> *mut libc::c_void {
        self.base
    }

    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no child runs on it, since `spawn` waits for each.
        unsafe { libc::munmap(self.base, STACK_BYTES) };
    }
}

/// The raw number of a borrowed descriptor, for a log line.
#[must_use]
pub fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
