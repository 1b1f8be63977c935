//! System calls and Landlock.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use emperor::vassal::plan::{CallFilter, CallSet, NamespaceKinds, Op};
use emperor::vassal::terms::{Landlock, Level, Privileges, Start};
use nix::libc::{EACCES, EAFNOSUPPORT, EBADF, EFAULT, EINVAL, ENOENT, ENOSYS, ENOTTY, EPERM, ESRCH, SIGSYS};

use super::bed::NOBODY;
use super::{answers, launch_unprivileged, ops, plan};

/// What a child's death by a filter is shown as.
const KILLED: i32 = 1000 + SIGSYS;

/// Attempt; the answer without any sandbox, or -1 where that depends on the machine; in `standard`; in `strict`.
const TABLE: &[(&str, i32, i32, i32)] = &[
    ("thread", 0, 0, 0),
    ("socketpair", 0, 0, 0),
    ("socket-1", 0, 0, 0),
    ("socket-2", 0, 0, 0),
    ("socket-16", 0, 0, EAFNOSUPPORT),                // netlink
    ("socket-17", EPERM, EAFNOSUPPORT, EAFNOSUPPORT), // packet
    ("socket-38", -1, EAFNOSUPPORT, EAFNOSUPPORT),    // alg
    ("socket-40", -1, EAFNOSUPPORT, EAFNOSUPPORT),    // vsock
    ("unshare-user", -1, EPERM, EPERM),
    ("unshare-mount", EPERM, EPERM, EPERM),
    ("unshare-files", 0, 0, 0),
    ("clone-user", -1, EPERM, EPERM),
    ("clone3", EINVAL, ENOSYS, ENOSYS),
    ("setns", EBADF, EPERM, EPERM),
    ("setns-user", EBADF, EPERM, EPERM),
    ("mount", -1, EPERM, EPERM),
    ("chroot", ENOENT, EPERM, EPERM),
    ("ptrace", ESRCH, EPERM, EPERM),
    ("bpf", -1, EPERM, EPERM),
    ("userfaultfd", -1, EPERM, EPERM),
    ("io_uring_setup", -1, EPERM, EPERM),
    ("keyctl", -1, EPERM, EPERM),
    ("add_key", -1, EPERM, EPERM),
    ("open_by_handle_at", -1, EPERM, EPERM),
    ("process_vm_readv", 0, EPERM, EPERM),
    ("adjtimex", EFAULT, EPERM, EPERM),
    ("syslog", -1, EPERM, EPERM),
    ("kcmp", -1, EPERM, EPERM),
    ("personality", 0, EPERM, EPERM),
    ("personality-query", 0, 0, 0),
    ("tiocsti", ENOTTY, EPERM, EPERM),
    ("tiocsti-high", ENOTTY, EPERM, EPERM),
    ("fionread", 0, 0, 0),
    ("batch", 0, 0, 0),
    ("sched_setattr", EINVAL, EINVAL, EPERM),
    ("chmod", 0, 0, 0),
    ("chmod-suid", 0, 0, EPERM),
    ("open-sgid", 0, 0, EPERM),
    ("open-tmp-suid", -1, -1, EPERM),
    ("open", 0, 0, 0),
    ("open-create", 0, 0, 0),
    ("openat2", EINVAL, EINVAL, ENOSYS),
    ("mmap-wx", 0, 0, 0),
    ("mprotect-x", 0, 0, 0),
    ("setuid", 0, 0, 0),
    ("statmount", -1, -1, EPERM),
    ("unknown", ENOSYS, ENOSYS, ENOSYS),
    ("far", ENOSYS, ENOSYS, ENOSYS),
    #[cfg(target_arch = "x86_64")]
    ("x32", -1, EPERM, EPERM),
    #[cfg(target_arch = "x86_64")]
    ("i386", -1, KILLED, KILLED),
];

#[test]
fn each_level_answers_each_attempt_as_the_table_says() {
    let attempts: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
    let all = [Path::new("/")];
    for level in [Level::None, Level::Standard, Level::Strict] {
        let plan = plan(ops(&Privileges::level(level), Start::Same, Vec::new(), &[], &all), &attempts);
        let Some(ended) = launch_unprivileged(&plan) else { return };
        let answers = answers(&ended);
        for (attempt, none, standard, strict) in TABLE {
            let wanted = [*none, *standard, *strict][level as usize];
            assert!(
                wanted == -1 || answers[*attempt] == wanted,
                "{attempt} in {level:?}: {}",
                answers[*attempt]
            );
        }
    }
}

fn calls(filter: CallFilter, attempts: &[&str]) -> Option<Vec<i32>> {
    let ended = launch_unprivileged(&plan(vec![Op::SystemCalls(filter)], attempts))?;
    let answers = answers(&ended);
    Some(attempts.iter().map(|attempt| answers[*attempt]).collect())
}

#[test]
fn each_restriction_works_alone() {
    let filter = CallFilter { realtime: true, ..CallFilter::default() };
    let Some(found) = calls(filter, &["fifo", "fifo-reset", "batch", "clone3"]) else { return };
    assert_eq!(found, [EPERM, EPERM, 0, EINVAL]);
    let filter = CallFilter { write_execute: true, ..CallFilter::default() };
    assert_eq!(calls(filter, &["mmap-wx", "mprotect-x", "thread"]).unwrap(), [EPERM, EPERM, 0]);
    let namespaces = NamespaceKinds::named("net").unwrap();
    let filter = CallFilter { namespaces, ..CallFilter::default() };
    let found = calls(filter, &["setns", "setns-user", "clone3", "unshare-files"]).unwrap();
    assert_eq!(found, [EPERM, EBADF, ENOSYS, 0]);
    let filter = CallFilter { families: Some(Default::default()), ..CallFilter::default() };
    let found = calls(filter, &["socketpair", "socket-2", "io_uring_setup"]).unwrap();
    assert_eq!(found, [EAFNOSUPPORT, EAFNOSUPPORT, EPERM]);
}

#[test]
fn a_list_of_what_is_allowed_need_not_hold_what_the_launcher_does() {
    // No sendto, no prctl, no seccomp: and still the program is started and the report sent.
    let allowed =
        CallSet::of_words(["@default", "write", "read", "openat", "newfstatat", "fstat", "unlink"]).unwrap();
    let filter = CallFilter { refused: allowed.others(), unknown_refused: true, ..CallFilter::default() };
    let Some(found) = calls(filter, &["setuid", "chmod", "unknown", "far"]) else { return };
    assert_eq!(found, [EPERM, EPERM, ENOSYS, ENOSYS]);
}

#[test]
fn a_wall_of_landlock_leaves_only_what_is_named_and_signals_nobody_outside() {
    let dir = tempfile::tempdir().unwrap();
    let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
    for path in [&open, &closed] {
        std::fs::create_dir(path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    }
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(open.join("r"), "").unwrap();
    std::fs::write(closed.join("r"), "").unwrap();
    let mut attempts = Vec::new();
    for path in [&open, &closed] {
        attempts.push(format!("read={}", path.join("r").display()));
        attempts.push(format!("write={}", path.join("w").display()));
    }
    let outside = Bystander::new();
    attempts.push(format!("signal={}", outside.0.id()));
    let attempts: Vec<&str> = attempts.iter().map(String::as_str).collect();
    let program = super::asker();
    let home = program.parent().unwrap();
    for (landlock, wanted) in [(Landlock::No, [0, 0, 0, 0]), (Landlock::BestEffort, [0, 0, EACCES, EACCES])] {
        let privileges = Privileges { landlock, ..Privileges::default() };
        let ops = ops(&privileges, Start::Same, Vec::new(), &[home], &[&open, Path::new("/dev/null")]);
        let Some(ended) = launch_unprivileged(&plan(ops, &attempts)) else { return };
        if ended.err.contains("without landlock") {
            return println!("skipped: this kernel has no landlock");
        }
        let answers = answers(&ended);
        let found: Vec<i32> = attempts[..4].iter().map(|attempt| answers[*attempt]).collect();
        assert_eq!(found, wanted, "{landlock:?}");
        let signalled = answers[attempts[4]];
        let scoped = landlock != Landlock::No && landlock_version() >= 6;
        assert_eq!(signalled, if scoped { EPERM } else { 0 }, "{landlock:?}");
    }
}

/// A process of the user as whom [`launch_unprivileged`] launches.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        let mut command = Command::new("cat");
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        drop(self.0.stdin.take()); // which ends it
        let _ = self.0.wait();
    }
}

pub(super) fn landlock_version() -> i64 {
    // SAFETY: a null pointer of no size and the flag LANDLOCK_CREATE_RULESET_VERSION only ask for a number.
    unsafe { nix::libc::syscall(nix::libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) }
}
