//! What the emperor's process does to itself before it is an emperor: log, pidfiles, hooks, user, directory, limits.
//!
//! Caller: the role `emperor run`, once, before the event loop, the watcher or any other thread exists.
//! On failure: the process is half changed and must end; every error names the thing and the cause.
//! At the end the same caller hands in the [`Standing`], which runs the last hooks and removes the pidfiles.
//!
//! The order is uWSGI's for a process that starts for the first time, with three differences: everything
//! happens once (uWSGI runs its drop four times while it stays root), limits are set while there is still the
//! right to, and `chroot` also enters the new root.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, chdir, chroot};
use tracing::warn;

use super::survival::PidFileRecord;
use crate::sys::title;
use crate::vassal::hook::run::{self, Ran, tell};
use crate::vassal::hook::{Awaited, Hook, Who};
use crate::vassal::link::FD_VARIABLE;
use crate::vassal::plan::{Capabilities, Text};

mod environment;
mod identity;
mod limits;
mod logs;
pub mod pidfile;

pub use environment::Change;
pub use limits::Limits;
pub use logs::Logs;
use logs::Starter;
use pidfile::{PidFile, PidFileError};

/// uWSGI's default for `wait-for-*-timeout`.
const WAIT_LIMIT: Duration = run::WAIT_LIMIT;

/// Options that concern the process itself. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct ProcessOptions {
    /// `early-emperor`: be the emperor before jail, drop, directory and limits, so none of these happens.
    pub early: bool,
    /// `umask`.
    pub umask: Option<u32>,
    /// `env` and `unenv`, in the order of the configuration.
    pub environment: Vec<Change>,
    /// `envdir`.
    pub env_dirs: Vec<PathBuf>,
    /// Where the log goes, and whether the process goes into the background.
    pub logs: Logs,
    /// Files that hold the process id.
    pub pid_files: PidFiles,
    /// Hooks, by phase.
    pub hooks: Hooks,
    /// `jailed`: run the hooks of the phase `post-jail`.
    pub jailed: bool,
    /// `file-write`: file and text.
    pub file_writes: Vec<(PathBuf, Text)>,
    /// `wait-for-fs`, `-file`, `-dir`, `-mountpoint`, `-interface`: before the hooks as root.
    pub waits: Vec<(Awaited, Text)>,
    /// `wait-for-socket`: after the drop.
    pub socket_waits: Vec<Text>,
    /// `wait-for-*-timeout`.
    pub wait_limit: Option<Duration>,
    /// `chroot`.
    pub chroot: Option<PathBuf>,
    /// `uid`.
    pub uid: Option<Who>,
    /// `gid`.
    pub gid: Option<Who>,
    /// `add-gid`.
    pub add_gid: Vec<Who>,
    /// `no-initgroups`.
    pub no_initgroups: bool,
    /// `cap`: what stays after the change of the user.
    pub cap: Option<Capabilities>,
    /// `chdir`.
    pub chdir: Option<PathBuf>,
    /// `limit-as`, `limit-nproc`, `max-fd`, `prio`.
    pub limits: Limits,
    /// What `ps` shows: see [`title`](ProcessOptions::title).
    pub title: Option<String>,
}

/// `pidfile` and its kin.
#[derive(Clone, Debug, Default)]
pub struct PidFiles {
    /// `pidfile`: before the drop, relative to the start directory.
    pub before_drop: Option<PathBuf>,
    /// `pidfile2`: after the drop and `chdir`.
    pub after_drop: Option<PathBuf>,
    /// `safe-pidfile` and `safe-pidfile2`: when the emperor is ready ([`Standing::ready`]).
    pub when_ready: Vec<PathBuf>,
    /// `emperor-pidfile`: last; removed at a clean end.
    pub emperor: Option<PathBuf>,
    /// `vacuum`: the others are removed at a clean end, too.
    pub vacuum: bool,
}

/// Hooks of the emperor's own phases: in each, `hook-` first, then `mount-`, `umount-`, `exec-`.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is uWSGI's name of the phase")]
pub struct Hooks {
    pub asap: Vec<Hook>,
    pub pre_jail: Vec<Hook>,
    pub post_jail: Vec<Hook>,
    pub in_jail: Vec<Hook>,
    pub as_root: Vec<Hook>,
    pub as_user: Vec<Hook>,
    pub as_user_atexit: Vec<Hook>,
}

/// Why the process cannot be an emperor.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProcessError {
    #[error("{action} hook {hook} failed")]
    Hook { action: &'static str, hook: String, source: io::Error },
    /// A hook `exit:` has asked for this status; there is nothing to report.
    #[error("a hook ended the start with status {0}")]
    Ended(u8),
    #[error("cannot change the environment: {what}")]
    Environment { what: String, source: io::Error },
    #[error("cannot write the log to {target}")]
    Log { target: String, source: io::Error },
    #[error("cannot go into the background")]
    Daemonize { source: io::Error },
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error("cannot write {}", path.display())]
    FileWrite { path: PathBuf, source: io::Error },
    #[error("waited in vain for {what}")]
    Wait { what: String, source: io::Error },
    #[error("cannot chroot() to {}", path.display())]
    Chroot { path: PathBuf, source: io::Error },
    #[error("cannot chroot() as non-root user")]
    ChrootAsUser,
    #[error("cannot {call}() as non-root user (uid or gid {wanted})")]
    NotRoot { call: &'static str, wanted: u32 },
    #[error("user {0} not found.")]
    NoUser(String),
    #[error("group {0} not found.")]
    NoGroup(String),
    #[error("cannot change to {what}")]
    Identity { what: String, source: io::Error },
    #[error("cannot keep the capabilities {wanted}")]
    Capabilities { wanted: Capabilities, source: io::Error },
    #[error("cannot chdir() to {}", path.display())]
    Chdir { path: PathBuf, source: io::Error },
}

impl ProcessError {
    /// Exit status of a process that could not become an emperor.
    #[must_use]
    pub fn status(&self) -> u8 {
        if let Self::Ended(status) = self { *status } else { 1 }
    }
}

/// What has to be undone at a clean end.
#[derive(Debug, Default)]
#[must_use = "the last hooks run, and the pidfiles go, when this is handed in"]
pub struct Standing {
    pid_files: Vec<(PidFile, bool)>,
    when_ready: Vec<PathBuf>,
    vacuum: bool,
    at_exit: Vec<Hook>,
}

impl Standing {
    /// Writes the `safe-pidfile`s. Call when the emperor is about to start its loop.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn ready(&mut self) -> Result<(), ProcessError> {
        for path in std::mem::take(&mut self.when_ready) {
            self.claim(&path, self.vacuum)?;
        }
        Ok(())
    }

    /// What it takes to go on in a program that takes this one's place.
    #[must_use]
    pub fn record(&self) -> Vec<PidFileRecord> {
        self.pid_files.iter().map(|(file, remove)| file.record(*remove)).collect()
    }

    /// Runs `as-user-atexit` and removes the pidfiles. Failures are logged.
    pub fn leave(self) {
        for hook in &self.at_exit {
            if let Err(error) = run::run(hook, "atexit", &mut io::stderr()) {
                warn!("atexit hook {hook} failed: {error}");
            }
        }
        for (file, _) in self.pid_files.into_iter().filter(|(_, remove)| *remove) {
            file.remove();
        }
    }

    fn claim(&mut self, path: &Path, remove: bool) -> Result<(), ProcessError> {
        say(&format!("writing pidfile to {}", path.display()));
        self.pid_files.push((PidFile::claim(path)?, remove));
        Ok(())
    }
}

/// Performs `options` on this process, in uWSGI's order.
///
/// # Errors
/// [`ProcessError`]; the process must then end with its [`status`](ProcessError::status).
pub fn become_emperor(options: &ProcessOptions) -> Result<Standing, ProcessError> {
    let ProcessOptions { hooks, pid_files, logs, .. } = options;
    let mut standing = Standing {
        when_ready: pid_files.when_ready.clone(),
        vacuum: pid_files.vacuum,
        at_exit: hooks.as_user_atexit.clone(),
        ..Standing::default()
    };
    if let Some(mask) = options.umask {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    environment::change(&options.environment)?;
    run_hooks(&hooks.asap, "asap")?;
    environment::read_dirs(&options.env_dirs)?;
    // A vassal's own emperor holds it by its process id: it only redirects its log.
    let may_detach = std::env::var_os(FD_VARIABLE).is_none();
    let starter = logs.open_first(may_detach, options.umask.is_none())?;
    if let Some(path) = &pid_files.before_drop {
        standing.claim(path, pid_files.vacuum)?;
    }
    let mut late_starter = None;
    if !options.early {
        in_jail_and_as_user(options, &mut standing)?;
        late_starter = logs.detach_last(may_detach, options.umask.is_none())?;
        if late_starter.is_some() {
            standing.pid_files.iter_mut().try_for_each(|(file, _)| file.write())?;
        }
    }
    if let Some(path) = &pid_files.emperor {
        standing.claim(path, true)?;
    }
    if let Some(text) = &options.title {
        set_title(text);
    }
    late_starter.into_iter().chain([starter]).for_each(Starter::let_go);
    Ok(standing)
}

/// Goes on as the emperor that this process was under another program: its user, log, limits and pidfiles stay as
/// they are, and its hooks have run. What the options say of environment and directory holds anew.
///
/// # Errors
/// [`ProcessError`], before anything has changed that matters to somebody else.
pub fn remain_emperor(
    options: &ProcessOptions,
    pid_files: &[PidFileRecord],
) -> Result<Standing, ProcessError> {
    let mut standing = Standing { at_exit: options.hooks.as_user_atexit.clone(), ..Standing::default() };
    for record in pid_files {
        match PidFile::of_record(record) {
            Ok(file) => standing.pid_files.push((file, record.remove)),
            Err(error) => warn!("the pidfile {} is lost: {error}", record.path),
        }
    }
    if let Some(mask) = options.umask {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    if let Some(wanted) = options.cap.filter(|_| !options.early && Uid::effective().is_root()) {
        let failed = |source| ProcessError::Capabilities { wanted, source };
        crate::sys::caps::limit_to(wanted.bits()).map_err(failed)?;
    }
    rehearse(options)?;
    if let Some(text) = &options.title {
        set_title(text);
    }
    Ok(standing)
}

/// The part of the options that concerns this process alone: environment and directory.
///
/// # Errors
/// [`ProcessError`].
pub fn rehearse(options: &ProcessOptions) -> Result<(), ProcessError> {
    environment::change(&options.environment)?;
    environment::read_dirs(&options.env_dirs)?;
    match &options.chdir {
        Some(path) if !options.early => {
            chdir(path).map_err(|errno| ProcessError::Chdir { path: path.clone(), source: errno.into() })
        }
        _ => Ok(()),
    }
}

fn in_jail_and_as_user(options: &ProcessOptions, standing: &mut Standing) -> Result<(), ProcessError> {
    let ProcessOptions { hooks, pid_files, .. } = options;
    run_hooks(&hooks.pre_jail, "pre-jail")?;
    run_hooks(&hooks.in_jail, "in-jail")?;
    for (path, text) in &options.file_writes {
        let failed = |source| ProcessError::FileWrite { path: path.clone(), source };
        std::fs::write(path, text.as_bytes()).map_err(failed)?;
    }
    if Uid::current().is_root() {
        as_root(options)?
    } else {
        as_somebody(options)?
    }
    for address in &options.socket_waits {
        wait_for(options, Awaited::Socket, address)?;
    }
    options.logs.open_after_drop()?;
    if let Some(path) = &options.chdir {
        say(&format!("chdir() to {}", path.display()));
        chdir(path).map_err(|errno| ProcessError::Chdir { path: path.clone(), source: errno.into() })?;
    }
    match &pid_files.after_drop {
        Some(path) => standing.claim(path, pid_files.vacuum),
        None => Ok(()),
    }
}

/// The drop: what root does to be root no more.
fn as_root(options: &ProcessOptions) -> Result<(), ProcessError> {
    let hooks = &options.hooks;
    if options.jailed {
        run_hooks(&hooks.post_jail, "post-jail")?;
    } else if !hooks.post_jail.is_empty() {
        warn!("hooks of the phase post-jail do not run without a jail (option jailed)");
    }
    if let Some(path) = &options.chroot {
        say(&format!("chroot() to {}", path.display()));
        let failed = |errno: nix::Error| ProcessError::Chroot { path: path.clone(), source: errno.into() };
        // Without the second call the old tree stays within reach.
        chroot(path).and_then(|()| chdir("/")).map_err(failed)?;
    }
    for (what, path) in &options.waits {
        wait_for(options, *what, path)?;
    }
    run_hooks(&hooks.as_root, "as root")?;
    options.limits.set();
    identity::change(options)?;
    run_hooks(&hooks.as_user, "as user")
}

/// Nobody but root changes its identity. Names are not even looked up. Source: uWSGI, observed.
fn as_somebody(options: &ProcessOptions) -> Result<(), ProcessError> {
    if options.chroot.is_some() {
        return Err(ProcessError::ChrootAsUser);
    }
    identity::check_own(options)?;
    let hooks = &options.hooks;
    for (phase, list) in
        [("as-root", &hooks.as_root), ("as-user", &hooks.as_user), ("post-jail", &hooks.post_jail)]
    {
        if !list.is_empty() {
            warn!("hooks of the phase {phase} run only where the emperor is started by root");
        }
    }
    options.limits.set();
    Ok(())
}

/// Runs hooks of this process, one after the other. Only before its loop.
///
/// # Errors
/// The first that fails, or asks for an end.
pub fn run_hooks(hooks: &[Hook], phase: &'static str) -> Result<(), ProcessError> {
    for hook in hooks {
        match run::run(hook, phase, &mut io::stderr()) {
            Ok(Ran::Done) => {}
            Ok(Ran::Exit(status)) => return Err(ProcessError::Ended(status)),
            Err(source) => return Err(ProcessError::Hook { action: phase, hook: hook.to_string(), source }),
        }
    }
    Ok(())
}

fn wait_for(options: &ProcessOptions, what: Awaited, path: &Text) -> Result<(), ProcessError> {
    say(&format!("waiting for {path} ..."));
    let failed = |source| ProcessError::Wait { what: path.to_string(), source };
    run::wait_for(what, path, options.wait_limit.unwrap_or(WAIT_LIMIT)).map_err(failed)
}

fn set_title(text: &str) {
    if let Err(error) = title::set_name(text) {
        warn!("cannot set the process name to {text}: {error}");
    }
    // Not every kernel can; `ps` goes on showing the arguments there, and the name above.
    let _ = title::set_command_line(text);
}

/// A line in uWSGI's words.
fn say(line: &str) {
    tell(&mut io::stderr(), line);
}

/// Puts a process title together from uWSGI's options.
#[derive(Clone, Debug, Default)]
pub struct TitleOptions<'a> {
    /// `emperor-procname`, or else `procname-master`, or else `procname`.
    pub name: Option<&'a str>,
    /// `auto-procname`.
    pub auto: bool,
    /// `procname-prefix`, or `procname-prefix-spaced` with its blank.
    pub prefix: &'a str,
    /// `procname-append`.
    pub append: &'a str,
}

impl TitleOptions<'_> {
    /// The title; `None` where nothing asks for one.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        let asked = self.auto || self.name.is_some() || !self.prefix.is_empty() || !self.append.is_empty();
        asked.then(|| format!("{}{}{}", self.prefix, self.name.unwrap_or("uWSGI Emperor"), self.append))
    }
}
