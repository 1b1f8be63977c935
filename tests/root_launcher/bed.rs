//! Starts launchers, and reads what became of them.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use emperor::vassal::hook::Hook;
use emperor::vassal::link::{LaunchReport, Reports};
use emperor::vassal::plan::{Exec, LaunchPlan, Step, Tyrant, VassalOrder};
use nix::libc;

pub(crate) const UID: u32 = 12345;
pub(crate) const GID: u32 = 12346;
pub(crate) const NOBODY: u32 = 65534;
/// What the engine prints of itself.
pub(crate) const TELL: &str = "cat /proc/$$/status; echo cwd=$(pwd -P); tr '\\0' '\\n' < /proc/$$/environ; \
    echo fds=; ls /proc/$$/fd";

pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: only root can change users");
    }
    root
}

/// A directory that every user may enter.
pub(crate) fn vassals() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// A vassal `a.ini` in `dir`, owned by the tenant, whose engine is a shell that runs `script`.
pub(crate) fn order(dir: &Path, script: &str) -> VassalOrder {
    let file = dir.join("a.ini");
    fs::write(&file, "[uwsgi]\n").unwrap();
    chown(&file, Some(UID), Some(GID)).unwrap();
    VassalOrder {
        name: "a.ini".into(),
        directory: Some(dir.as_os_str().into()),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("UWSGI_EMPEROR_FD".into(), "3".into())],
        exec: Exec { programs: vec!["sh".into()], args: vec!["-c".into(), script.into()], magic: None },
        ..VassalOrder::default()
    }
}

pub(crate) fn tyrant() -> Option<Tyrant> {
    Tyrant::new(UID, GID).map(|tyrant| tyrant.of_file("a.ini".into(), false))
}

pub(crate) fn hook(text: &str) -> Hook {
    Hook::parse(OsStr::new(text)).unwrap()
}

/// How a launch ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) reports: Vec<LaunchReport>,
}

impl Ended {
    /// The value behind `name` in what the engine told.
    pub(crate) fn told(&self, name: &str) -> String {
        let line = self.out.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {self:#?}")).trim().replace('\t', " ")
    }

    /// The step, the object and the errno of the failure, which must stand in report and status, and not twice.
    pub(crate) fn failure(&self) -> (Step, String, i32) {
        let Some(LaunchReport::Failed(failure)) = self.reports.last() else {
            panic!("no failure in {self:#?}")
        };
        assert_eq!(self.status, Some(failure.step.status().into()));
        assert!(!self.err.contains(&failure.to_string()), "{failure} is also in {}", self.err);
        (failure.step, failure.object.clone(), failure.errno)
    }
}

pub(crate) fn launch(plan: &LaunchPlan) -> Ended {
    launch_by(env!("CARGO_BIN_EXE_emperor"), &[], plan)
}

/// Starts `program` with `args` and the launcher's, with link, plan, config pipe and a stray descriptor 9.
pub(crate) fn launch_by(program: &str, args: &[&str], plan: &LaunchPlan) -> Ended {
    launch_with(program, args, plan, &[])
}

/// The same, with further descriptors, each at a number.
pub(crate) fn launch_with(
    program: &str,
    args: &[&str],
    plan: &LaunchPlan,
    others: &[(BorrowedFd<'_>, i32)],
) -> Ended {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let sealed: OwnedFd = plan.seal().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let fixed = [theirs.as_raw_fd(), sealed.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
    let mut sources: Vec<_> = fixed.into_iter().zip([3, 4, 5, 9]).collect();
    // As from an emperor, whose spawner leaves nothing open that the plan does not name.
    sources.retain(|(_, number)| match number {
        5 => others.is_empty() || plan.config_pipe,
        9 => others.is_empty() || plan.safe_fds.contains(&9),
        _ => true,
    });
    sources.extend(others.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
    let mut command = Command::new(program);
    command.args(args).args(["vassal", "--plan"]).env("LEAK", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: system calls only between fork and exec, on the child's own table, in which no owner runs.
    unsafe {
        command.pre_exec(move || {
            for (fd, _) in &mut sources {
                *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 100);
            }
            for (fd, wanted) in &sources {
                if libc::dup2(*fd, *wanted) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    drop(theirs);
    let output = child.wait_with_output().unwrap();
    let mut bytes = Vec::new();
    ours.read_to_end(&mut bytes).unwrap();
    let mut reader = Reports::default();
    let (reports, rest) = reader.feed(&bytes);
    assert!(rest.is_empty(), "only reports on the link");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr), reports }
}
