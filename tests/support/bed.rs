//! A directory for one test, and what is done to the files in it.

use super::events::{Log, escape};
use super::given::Given;
use super::{PATIENCE, poll, tools};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// A directory of its own, with `v/` for the vassals' files and the witness beside it.
///
/// When it is dropped, or when the test's process dies in whatever way, all that was started on its behalf is
/// killed by pid, and the directory is removed.
pub(crate) struct Bed {
    root: PathBuf,
    keeper: Child,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let root =
            tempfile::Builder::new().prefix("emperor-").tempdir().expect("a temporary directory").keep();
        let root = root.canonicalize().expect("its real path");
        for (dir, mode) in [("", 0o755), ("log", 0o777), ("script", 0o755), ("v", 0o755)] {
            let path = root.join(dir);
            fs::create_dir_all(&path).expect("a directory in the test's own");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        }
        for file in [".test-bed", "log/events"] {
            File::create(root.join(file)).expect("a file in the test's own directory");
        }
        fs::set_permissions(root.join("log/events"), Permissions::from_mode(0o666)).expect("its mode");
        let mut keeper = Command::new(tools::usher());
        keeper.arg("keep").arg(&root).env_clear().env("PATH", "/usr/bin:/bin");
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the keeper");
        let bed = Self { root, keeper };
        bed.install(&tools::witness(), "witness");
        bed
    }

    /// Copies a program into the bed. Another process does it: a descriptor of ours that is open for writing
    /// could be inherited by some other test's child at the wrong moment, and nobody could exec the file then.
    pub(crate) fn install(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.root.join(name);
        let done = Command::new("cp").arg(from).arg(&to).status().expect("cp");
        assert!(done.success(), "cannot copy {} to {}", from.display(), to.display());
        to
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the bed.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The directory of the vassals' files.
    pub(crate) fn v(&self) -> PathBuf {
        self.root.join("v")
    }

    pub(crate) fn witness(&self) -> PathBuf {
        self.root.join("witness")
    }

    /// Writes a file, in one step as far as anybody watching can see.
    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let part = self.path(".part");
        fs::write(&part, content).expect("a file in the test's own directory");
        fs::rename(&part, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Puts a vassal's file into `v/`.
    pub(crate) fn vassal(&self, name: impl AsRef<Path>) -> PathBuf {
        self.write(Path::new("v").join(name), "[uwsgi]\n")
    }

    /// Decides what the witness does that is started for this vassal; `default` is for all that have none.
    pub(crate) fn script(&self, name: impl AsRef<Path>, words: &str) {
        let name = escape(name.as_ref().as_os_str().as_bytes());
        self.write(Path::new("script").join(name), words);
    }

    pub(crate) fn remove(&self, name: impl AsRef<Path>) {
        fs::remove_file(self.path(name)).expect("removal of a file");
    }

    /// Sets the time of the last change, relative to now.
    pub(crate) fn set_age(&self, name: impl AsRef<Path>, age_s: i64) {
        let now = SystemTime::now();
        let span = Duration::from_secs(age_s.unsigned_abs());
        let time = if age_s >= 0 { now - span } else { now + span };
        let file = File::open(self.path(name)).expect("the file to date");
        file.set_times(FileTimes::new().set_modified(time)).expect("its time of change");
    }

    /// A program for the shell, as a file that can be executed.
    pub(crate) fn shell(&self, name: &str, body: &str) -> PathBuf {
        let path = self.root.join(name);
        // Written by another process for the reason given at `install`.
        let mut cat = Command::new("sh");
        cat.arg("-c").arg("cat > \"$0\" && chmod 755 \"$0\"").arg(&path);
        let mut cat = cat.stdin(Stdio::piped()).spawn().expect("sh");
        let mut input = cat.stdin.take().expect("its input");
        input.write_all(format!("#!/bin/sh\n{body}\n").as_bytes()).expect("a short program");
        drop(input);
        assert!(cat.wait().expect("sh").success());
        path
    }

    /// All that the witnesses wrote so far.
    pub(crate) fn log(&self) -> Log {
        Log::parse(&fs::read_to_string(self.root.join("log/events")).expect("the witnesses' log"))
    }

    /// Waits until the witnesses' log holds what is asked for.
    pub(crate) fn wait<T>(&self, what: &str, ask: impl Fn(&Log) -> Option<T>) -> T {
        self.wait_up_to(PATIENCE, what, ask)
    }

    /// The same with a deadline that is part of what is tested.
    pub(crate) fn wait_up_to<T>(&self, patience: Duration, what: &str, ask: impl Fn(&Log) -> Option<T>) -> T {
        let path = self.root.join("log/events");
        let mut size = u64::MAX;
        let found = poll(patience, || {
            let grown = fs::metadata(&path).map_or(0, |m| m.len());
            if grown == size {
                return None;
            }
            size = grown;
            ask(&self.log())
        });
        found.unwrap_or_else(|| panic!("never happened: {what}\n{}", self.report()))
    }

    /// Waits until a condition on the witnesses' log holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Log) -> bool) {
        self.wait(what, |log| holds(log).then_some(()));
    }

    /// Waits for the start with this number (from 1) of a vassal, gives its process.
    pub(crate) fn started(&self, name: &str, times: usize) -> i32 {
        self.wait(&format!("start {times} of {name}"), |log| log.execs(name).get(times - 1).map(|e| e.pid))
    }

    /// What a vassal was given at a start, numbered from 1.
    pub(crate) fn given(&self, name: &str, times: usize) -> Given {
        self.started(name, times);
        let record = self.log().execs(name)[times - 1].arg.clone();
        Given::read(&self.root.join("log").join(record))
    }

    /// Text with the bed's path as `@`.
    pub(crate) fn anonymous(&self, text: &str) -> String {
        text.replace(self.root.to_str().expect("a path in plain text"), "@")
    }

    /// The processes that run on behalf of this bed, but for the given ones: pid and command line.
    pub(crate) fn left(&self) -> Vec<(i32, String)> {
        let marker = format!("WITNESS_DIR={}", self.root.display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if exe.starts_with(&self.root) || environ.split(|&b| b == 0).any(|e| e == marker.as_bytes()) {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Fails unless nothing runs any more on behalf of this bed, within the patience.
    pub(crate) fn nothing_left(&self) {
        let empty = poll(PATIENCE, || self.left().is_empty().then_some(()));
        assert!(empty.is_some(), "processes left behind: {:?}\n{}", self.left(), self.report());
    }

    /// What a person needs to understand a failure.
    pub(crate) fn report(&self) -> String {
        let emperor = fs::read(self.root.join("emperor.log")).unwrap_or_default();
        let emperor = String::from_utf8_lossy(&emperor);
        let lines: Vec<&str> = emperor.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- witnesses\n{}--- emperor\n{tail}\n", self.log().tail(60))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let trees = fs::read_to_string(self.root.join(".groups")).unwrap_or_default();
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        trees.lines().for_each(remove_groups);
    }
}

/// Removes the control groups that an emperor of this test has made, as far as nothing lives in them.
fn remove_groups(tree: &str) {
    fn remove(path: &Path) {
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
        let _ = fs::remove_dir(path);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        for hierarchy in [controllers, "unified", ""] {
            let place =
                Path::new("/sys/fs/cgroup").join(hierarchy).join(group.trim_start_matches('/')).join(tree);
            if place.is_dir() {
                remove(&place);
            }
        }
    }
}
