//! Runs the operations of a [`LaunchPlan`], then becomes the vassal.
//!
//! Caller: the role `emperor vassal --plan` only: freshly executed, one thread, descriptors known by number.
//! Never called from the emperor, which has an event loop and other vassals' sockets open.
//! On failure: writes one [`Failure`] to the link and one line to standard error, and ends with the status of
//! the step. It never goes on after a failed operation, and never executes anything half prepared.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};

use super::hook::run::{self, Ran, tell};
use super::jail::{cgroup, identity, landlock, namespaces, root, seccomp, view};
use super::link::{CONFIG_FD, Failure, LINK_FD, LaunchReport, PLAN_FD};
use super::plan::{LaunchPlan, Op, Step, Text, Trees, Users};
use super::{init, reaper};
use crate::sys::{alone, caps, fds, process};

mod exec;
mod log;
mod sockets;

/// Status of a launcher that a person has started by hand.
const USAGE: u8 = 2;

/// The launcher. Returns only where nothing was executed.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    if args != ["--plan"] {
        tell(&mut io::stderr(), "emperor vassal: only the emperor starts this, with a plan");
        return ExitCode::from(USAGE);
    }
    // Before anything is parsed: nothing inherited is passed on, and no variable means anything.
    let clean = fds::cloexec_from(LINK_FD).and_then(|()| alone::clear_environment());
    let link = fds::adopt(LINK_FD).ok();
    let mut launcher = Launcher {
        vassal: Text::default(),
        link,
        alone: false,
        pipe: None,
        kept: Vec::new(),
        limit: Cell::new(0),
        filter: RefCell::new(None),
    };
    let ended = clean.map_err(|error| Failure::new(Step::Plan, &"its descriptors and environment", &error));
    match ended.and_then(|()| launcher.run()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => launcher.fail(failure),
    }
}

struct Launcher {
    vassal: Text,
    link: Option<OwnedFd>,
    /// No emperor has started this.
    alone: bool,
    pipe: Option<OwnedFd>,
    kept: Vec<OwnedFd>,
    /// Seconds after which this process is ended; 0 for never.
    limit: Cell<u32>,
    /// What comes in force at the very end.
    filter: RefCell<Option<seccomp::Prepared>>,
}

impl Launcher {
    /// Runs the plan. `Ok` is the status of a plan, or of a hook, that ends without an exec.
    fn run(&mut self) -> Result<u8, Failure> {
        let plan = fds::adopt(PLAN_FD).and_then(LaunchPlan::read);
        let plan =
            plan.map_err(|error| Failure::new(Step::Plan, &format!("descriptor {PLAN_FD}"), &error))?;
        self.vassal = plan.vassal;
        self.alone = plan.alone;
        if self.alone {
            self.link = None; // whatever else was open there
        }
        if plan.config_pipe {
            let pipe = fds::adopt(CONFIG_FD);
            let failed = |error| Failure::new(Step::Descriptors, &format!("descriptor {CONFIG_FD}"), &error);
            self.pipe = Some(pipe.map_err(failed)?);
        }
        self.kept.extend(plan.safe_fds.into_iter().filter_map(|number| fds::adopt(number).ok()));
        let mut ops = plan.ops;
        // While the files and the libraries that answer are still the system's.
        let changes_view = ops.iter().any(|op| matches!(op, Op::View(_) | Op::Root(_)));
        let mut user = None;
        for op in &mut ops {
            match op {
                Op::Become(who) => {
                    who.look_up()?;
                    user = who.uid();
                }
                Op::SetGroups(groups) if changes_view => identity::look_up(groups)?,
                _ => {}
            }
        }
        for op in &mut ops {
            match op {
                Op::OwnUsers(users) => users.uid = users.uid.or(user),
                Op::View(scene) => scene.home_of = scene.home_of.or(user.filter(|_| scene.homes_hidden)),
                _ => {}
            }
        }
        for op in ops {
            match op {
                Op::Exec(wanted) => return Err(self.exec(wanted)),
                Op::Exit => return Ok(0),
                Op::Sockets(passing) => self.pass_on(&passing)?,
                op => {
                    if let Ran::Exit(status) = self.perform(&op)? {
                        return Ok(status);
                    }
                }
            }
        }
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(Failure::new(Step::Plan, &"a plan without exec or exit", &end))
    }

    fn perform(&self, op: &Op) -> Result<Ran, Failure> {
        let done = |result: io::Result<()>, object: &dyn ToString| {
            result.map_err(|error| Failure::new(op.step(), &object.to_string(), &error)).map(|()| Ran::Done)
        };
        match op {
            Op::EndAfter(seconds) => {
                nix::unistd::alarm::set(*seconds);
                self.limit.set(*seconds);
                Ok(Ran::Done)
            }
            Op::EnterGroups(groups) => cgroup::enter(groups).map(|()| Ran::Done),
            Op::Reaper(wanted) => {
                let link = self.link.as_ref().map(AsFd::as_fd);
                done(reaper::leave_behind(*wanted, link), &"subreaper")
            }
            Op::ChangeDir(path) => done(std::env::set_current_dir(path), path),
            Op::Log(path) => done(log::append_to(path.as_path()), path),
            Op::PidNamespace => {
                done(namespaces::be_first_process(), &format!("process {}", std::process::id()))
            }
            Op::Namespaces(wanted) => namespaces::enter(*wanted).map(|()| Ran::Done),
            Op::Isolate(wanted) => namespaces::isolate(*wanted).map(|()| Ran::Done),
            Op::View(scene) => view::build(scene).map(|()| Ran::Done),
            Op::Init(wanted) => {
                let link = self.link.as_ref().map(AsFd::as_fd);
                done(init::leave_behind(*wanted, link), &"process 1")
            }
            Op::OwnUsers(users) => match namespaces::own_users(*users) {
                // With an errno, it is outside of it still.
                Err(error) if users.best_effort && error.raw_os_error().is_some() => {
                    let failure = Failure::new(op.step(), &uid_of(*users), &error);
                    self.log(&format!("goes on without a user namespace: {failure}"));
                    Ok(Ran::Done)
                }
                entered => done(entered, &uid_of(*users)),
            },
            Op::JoinNamespaces(path) => done(root::join(path), path),
            Op::Root(wanted) => done(root::change(wanted), wanted),
            Op::BoundCapabilities(keep) => done(caps::bound(keep.bits()), &format!("bounding set {keep}")),
            Op::Undumpable => done(identity::become_undumpable(), &"dumpable"),
            Op::OwnKeyring => done(process::own_keyring(), &"session keyring"),
            Op::OwnSession => done(nix::unistd::setsid().map(drop).map_err(Into::into), &"session"),
            Op::LeaveTerminal => done(identity::leave_terminal(), &"/dev/tty"),
            Op::SetGroup(gid) => done(identity::set_group(*gid), &format!("gid {gid}")),
            Op::SetGroups(groups) => identity::set_groups(groups).map(|()| Ran::Done),
            Op::SetUser(uid) => done(identity::set_user(*uid), &format!("uid {uid}")),
            Op::DieWithEmperor => done(self.die_with_emperor(), &"parent-death signal"),
            Op::VerifyOwner(file) => done(identity::verify_owner(file), &file.path),
            Op::Limits(limits) => limits.perform().map(|()| Ran::Done),
            Op::Become(who) => who.perform().map(|()| Ran::Done),
            Op::Privilege(privilege) => done(privilege.perform(), privilege),
            Op::Landlock(trees) => self.enclose(trees).map(|()| Ran::Done),
            Op::SystemCalls(filter) => {
                let prepared = filter.prepare().map(|prepared| *self.filter.borrow_mut() = Some(prepared));
                done(prepared, filter)
            }
            Op::Environment(entries) => entries.iter().try_fold(Ran::Done, |_, (name, value)| {
                done(alone::set_variable(name.as_ref(), value.as_ref()), name)
            }),
            Op::Command { label, program, argument } => {
                self.command(label, program, argument);
                Ok(Ran::Done)
            }
            Op::Hook { hook, phase, fatal } => {
                self.prepare_to_end(&format!("hook {hook} ({phase})"));
                let ran = run::run(hook, phase, &mut io::stderr());
                let failed = |error| Failure::new(op.step(), &format!("{hook} ({phase})"), &error);
                match ran.map_err(failed) {
                    Err(failure) if !fatal => {
                        self.log(&failure.to_string());
                        Ok(Ran::Done)
                    }
                    ran => ran,
                }
            }
            Op::Sockets(_) | Op::Exec(_) | Op::Exit => Ok(Ran::Done), // `run` sees to these
        }
    }

    /// Start and stop hooks: whatever they do, we go on.
    fn command(&self, label: &str, program: &Text, argument: &Text) {
        tell(&mut io::stderr(), &format!("[emperor] running vassal {label}: {program} {argument}"));
        self.prepare_to_end(&format!("{label} {program}"));
        match run::program(program, argument) {
            Ok(status) => {
                let code = status.code().unwrap_or(-1);
                tell(&mut io::stderr(), &format!("[emperor] {argument} {label} returned {code}"));
            }
            Err(error) => self.log(&Failure::new(Step::Command, program, &error).to_string()),
        }
    }

    /// What is done next may be ended by the alarm: then the log is to say what it was.
    fn prepare_to_end(&self, what: &str) {
        let seconds = self.limit.get();
        if seconds > 0 {
            let mut line = Vec::new();
            tell(&mut line, &format!("[emperor] vassal {} {what} has taken {seconds} s: ended", self.vassal));
            if let Err(error) = alone::last_words(line) {
                self.log(&format!("cannot name what is ended when it takes too long: {error}"));
            }
        }
    }

    fn enclose(&self, trees: &Trees) -> Result<(), Failure> {
        match landlock::enclose(trees) {
            Err(error) => Err(Failure::new(Step::Landlock, trees, &error)),
            Ok(landlock::Wall::Whole | landlock::Wall::Partial) => Ok(()),
            Ok(landlock::Wall::None) => {
                self.log(
                    "goes on without landlock, which this kernel does not have (Linux 5.13, lsm=landlock)",
                );
                Ok(())
            }
        }
    }

    fn die_with_emperor(&self) -> io::Result<()> {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        let Some(link) = &self.link else { return Ok(()) };
        // It may have died before we asked; then its end of the link is closed.
        match recv(link.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::Error::other("the emperor is gone")),
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Becomes the engine; what comes back is why not.
    fn exec(&self, wanted: super::plan::Exec) -> Failure {
        let hand_over = || {
            if self.link.is_none() && !self.alone {
                return Err(Errno::EBADF.into());
            }
            self.kept.iter().chain(&self.pipe).chain(&self.link).try_for_each(|fd| keep_open(fd.as_fd()))
        };
        let wanted = exec::Prepared::new(wanted);
        if let Err(error) = hand_over() {
            return Failure::new(Step::Descriptors, &"emperor link", &error);
        }
        if let Err(error) = process::reset_signals() {
            return Failure::new(Step::Signals, &"signal mask", &error);
        }
        self.report(&LaunchReport::Launched);
        // The last of all: what has been done until here, the program need not be allowed to do.
        if let Some(filter) = self.filter.take()
            && let Err(error) = filter.apply()
        {
            return Failure::new(Step::SystemCalls, &"filter", &error);
        }
        wanted.exec()
    }

    fn fail(&self, failure: Failure) -> ExitCode {
        let (status, line) = (failure.step.status(), failure.to_string());
        if !self.report(&LaunchReport::Failed(failure)) {
            self.log(&line); // nobody else will
        }
        ExitCode::from(status)
    }

    fn log(&self, message: &str) {
        tell(&mut io::stderr(), &format!("[emperor] vassal {} {message}", self.vassal));
    }

    /// Tells the emperor; `false` if it is gone, or does not listen because this is no vassal but a hook of its own.
    fn report(&self, report: &LaunchReport) -> bool {
        let flags = MsgFlags::MSG_NOSIGNAL;
        self.link.as_ref().is_some_and(|link| send(link.as_raw_fd(), &report.encode(), flags).is_ok())
    }
}

fn uid_of(users: Users) -> String {
    users.uid.map_or_else(|| "root".into(), |uid| format!("uid {uid}"))
}

fn keep_open(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
