//! An emperor under test: uWSGI's or ours, on a [`Bed`].

use super::bed::Bed;
use super::{PATIENCE, poll, skip, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Which emperor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// `uwsgi --emperor`, as installed.
    Real,
    /// The one built here.
    Ours,
}

impl Kind {
    /// The program; `None`, and a line that says so, where it is not installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Ours => Some(env!("CARGO_BIN_EXE_emperor").into()),
            Self::Real => {
                let found = tools::on_path("uwsgi");
                if found.is_none() {
                    skip("uwsgi is not installed");
                }
                found
            }
        }
    }
}

/// How an emperor is to be started.
pub(crate) struct Builder {
    root: PathBuf,
    kind: Kind,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    usher: Vec<String>,
    before: Vec<OsString>,
    cwd: PathBuf,
    program: Option<PathBuf>,
}

impl Builder {
    /// An emperor without any option.
    pub(crate) fn bare(bed: &Bed, kind: Kind) -> Self {
        let env = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
        ];
        let mut env: Vec<_> = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        env.push(("WITNESS_DIR".into(), bed.root().into()));
        let cwd = bed.root().to_path_buf();
        Self {
            root: cwd.clone(),
            kind,
            args: Vec::new(),
            env,
            usher: Vec::new(),
            before: Vec::new(),
            cwd,
            program: None,
        }
    }

    /// An emperor on `v/` whose vassals are witnesses, which looks every second where it has to look.
    pub(crate) fn new(bed: &Bed, kind: Kind) -> Self {
        Self::bare(bed, kind).on(bed.v()).quick().witnessed()
    }

    /// One more monitor.
    pub(crate) fn on(self, monitor: impl AsRef<OsStr>) -> Self {
        self.opt("emperor", monitor)
    }

    /// The shortest period of its scans.
    pub(crate) fn quick(self) -> Self {
        self.opt("emperor-freq", "1")
    }

    /// The vassals are witnesses.
    pub(crate) fn witnessed(self) -> Self {
        let witness = self.root.join("witness");
        self.opt("emperor-wrapper", witness)
    }

    /// The stats server, where [`Emperor::stats`] asks.
    pub(crate) fn stats(self) -> Self {
        let socket = self.root.join("stats");
        self.opt("emperor-stats", socket)
    }

    /// `--name value`.
    pub(crate) fn opt(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.push(format!("--{name}").into());
        self.args.push(value.as_ref().into());
        self
    }

    /// `--name`.
    pub(crate) fn flag(mut self, name: &str) -> Self {
        self.args.push(format!("--{name}").into());
        self
    }

    /// An argument as it stands.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// A variable of the emperor's own environment.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// A word for the usher: an attribute of the process in which the emperor starts.
    pub(crate) fn usher(mut self, word: impl Into<String>) -> Self {
        self.usher.push(word.into());
        self
    }

    /// A word of a command that execs the emperor: `unshare`, `strace` …
    pub(crate) fn before(mut self, word: impl AsRef<OsStr>) -> Self {
        self.before.push(word.as_ref().into());
        self
    }

    /// Another file of the same program.
    pub(crate) fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// The directory the emperor starts in; the bed's own otherwise.
    pub(crate) fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = cwd.into();
        self
    }

    /// Starts it. Its output goes to `emperor.log`, behind that of an earlier one.
    pub(crate) fn start(self) -> Emperor {
        let program = self.program.or_else(|| self.kind.program());
        let program = program.expect("an emperor that is installed: ask `Kind::program` first");
        let path = self.root.join("emperor.log");
        let output = File::options().create(true).append(true).open(&path).expect("the emperor's log");
        let begin = output.metadata().expect("its size").len();
        let mut args = self.args;
        if self.kind == Kind::Ours && !args.iter().any(|arg| arg == "--emperor-control") {
            // Where it would be otherwise, other tests' emperors would be, too.
            args.extend(["--emperor-control".into(), "none".into()]);
        }
        let mut command = Command::new(tools::usher());
        command.arg("launch").args(&self.usher).arg("--").args(&self.before).arg(program).args(&args);
        command.env_clear().envs(self.env).current_dir(&self.cwd).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a second descriptor")).stderr(output);
        note_tree(&self.root, &args, &self.cwd);
        let child = command.spawn().expect("an emperor");
        Emperor { kind: self.kind, root: self.root, child, begin }
    }
}

/// Writes down what its control groups would be called: one that is killed leaves them to its successor, which a test
/// does not have.
fn note_tree(root: &Path, args: &[OsString], cwd: &Path) {
    let sources: Vec<_> =
        args.windows(2).filter(|two| two[0] == "--emperor").map(|two| two[1].clone()).collect();
    let tree = emperor::emperor::cgroup::GroupRules::tree_of(&sources, cwd);
    let file = File::options().create(true).append(true).open(root.join(".groups"));
    let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{tree}\n").as_bytes()));
}

/// A running emperor. It is killed when dropped; its vassals are the bed's to clear away.
pub(crate) struct Emperor {
    kind: Kind,
    root: PathBuf,
    child: Child,
    begin: u64,
}

impl Emperor {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a signal for a running emperor");
    }

    /// Has it look at once: what SIGWINCH is for in uWSGI's Emperor, which otherwise looks every second here.
    pub(crate) fn nudge(&self) {
        self.signal(Signal::SIGWINCH);
    }

    /// Has it replaced by its program's file; returns when the new one governs.
    pub(crate) fn renew(&self, bed: &Bed) {
        let taken = || self.lines("taken over from emperor").len();
        let before = taken();
        self.signal(Signal::SIGUSR2);
        let done = poll(PATIENCE, || (taken() > before).then_some(()));
        assert!(done.is_some(), "the emperor was not renewed\n{}", bed.report());
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        let all = fs::read(self.root.join("emperor.log")).expect("the emperor's log");
        let begin = usize::try_from(self.begin).expect("a size");
        String::from_utf8_lossy(&all[begin..]).into_owned()
    }

    /// Waits for a piece of text in what it writes; gives the line.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        let line = || self.log().lines().find(|l| l.contains(text)).map(str::to_owned);
        poll(PATIENCE, line).unwrap_or_else(|| panic!("never logged: {text:?}\n--- emperor\n{}", self.log()))
    }

    /// The lines that hold a piece of text.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|l| l.contains(text)).map(str::to_owned).collect()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.end_within(PATIENCE)
            .unwrap_or_else(|| panic!("the emperor does not end\n--- emperor\n{}", self.log()))
    }

    /// Its exit status, if it ends in time.
    pub(crate) fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        poll(patience, || self.child.try_wait().expect("its exit status"))
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().expect("its exit status").is_none()
    }

    /// The end of a scenario that is about something else. Ours is asked to stop as a person does; it must do
    /// so with status 0 and leave no process. uWSGI's, which needs 2 s for that, is killed, and its vassals
    /// with it.
    pub(crate) fn stop(self, bed: &Bed) {
        if self.kind == Kind::Ours {
            self.stop_politely(bed);
        }
    }

    /// Asks either to stop, with the same expectations.
    pub(crate) fn stop_politely(mut self, bed: &Bed) {
        self.signal(Signal::SIGTERM);
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{status}\n{}", bed.report());
        bed.nothing_left();
    }

    /// The stats, once the server answers.
    pub(crate) fn stats(&self) -> serde_json::Value {
        fetch(&self.root.join("stats"))
    }

    /// One vassal's row of the stats.
    pub(crate) fn stats_of(&self, id: &str) -> Option<serde_json::Value> {
        let stats = self.stats();
        stats["vassals"].as_array().expect("vassals").iter().find(|v| v["id"] == id).cloned()
    }

    /// Waits until the stats hold what is asked for.
    pub(crate) fn wait_stats<T>(&self, what: &str, ask: impl Fn(&serde_json::Value) -> Option<T>) -> T {
        let found = poll(PATIENCE, || ask(&self.stats()));
        found.unwrap_or_else(|| panic!("stats never show: {what}\n{:#}\n{}", self.stats(), self.log()))
    }
}

impl Drop for Emperor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a socket says to somebody who only listens, parsed as JSON.
pub(crate) fn fetch(socket: &Path) -> serde_json::Value {
    let mut text = String::new();
    let connect = || UnixStream::connect(socket).ok();
    let mut stream =
        poll(PATIENCE, connect).unwrap_or_else(|| panic!("nobody listens on {}", socket.display()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.read_to_string(&mut text).expect("the stats, to their end");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
}
