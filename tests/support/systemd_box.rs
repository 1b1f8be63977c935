//! A real systemd in namespaces of its own, run by the program that SYSTEMD_BOX names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Bed, PATIENCE, poll, root, skip};

/// It stops when this is dropped.
pub(crate) struct SystemdBox {
    program: OsString,
    name: String,
    unit: String,
}

/// The units of `packaging/systemd`.
pub(crate) const UNITS: [&str; 5] = [
    "emperor.uwsgi.service",
    "emperor.uwsgi.socket",
    "uwsgi@.service",
    "uwsgi@.socket",
    "uwsgi-secure@.service",
];

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)
}

static BOXES: AtomicU32 = AtomicU32::new(0);

impl SystemdBox {
    /// A box that shows the folder of this bed, for this unit; `None`, and a line that says so, where there is no such
    /// program.
    pub(crate) fn start(bed: &Bed, unit: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("SYSTEMD_BOX") else {
            skip("SYSTEMD_BOX names no program that boots systemd");
            return None;
        };
        let number = BOXES.fetch_add(1, Ordering::Relaxed);
        let made =
            Self { program, name: format!("emperor-{}-{number}", std::process::id()), unit: unit.into() };
        made.run(&["start", &made.name, "--bind", &bed.root().display().to_string()]);
        Some(made)
    }

    /// The same with all that is packaged installed, and nothing started. Takes root.
    pub(crate) fn installed(bed: &Bed, unit: &str) -> Option<Self> {
        if !root() {
            return None;
        }
        let systemd = Self::start(bed, unit)?;
        systemd.copy(Path::new(env!("CARGO_BIN_EXE_emperor")), "/usr/bin/emperor");
        for name in UNITS {
            systemd.copy(&packaged(name), "/etc/systemd/system/");
        }
        systemd.copy(&packaged("emperor.ini"), "/etc/uwsgi/emperor.ini");
        systemd.copy(&packaged("emperor.tmpfiles"), "/usr/lib/tmpfiles.d/emperor.conf");
        systemd.copy(&packaged("emperor.sysusers"), "/usr/lib/sysusers.d/emperor.conf");
        systemd.exec(&["systemd-sysusers", "emperor.conf"]);
        systemd.exec(&["systemd-tmpfiles", "--create", "emperor.conf"]);
        systemd.systemctl(&["daemon-reload"]);
        Some(systemd)
    }

    fn run(&self, words: &[&str]) -> String {
        let (done, said) = self.try_run(words);
        assert!(done, "{words:?}: {said}");
        said
    }

    /// Whether it was a success, and what was printed.
    fn try_run(&self, words: &[&str]) -> (bool, String) {
        let done = Command::new(&self.program).args(words).output().expect("the box");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() {
            return (true, text(&done.stdout));
        }
        (false, format!("{}{}", text(&done.stdout), text(&done.stderr)))
    }

    /// Runs a command inside, which must succeed; gives what it prints.
    pub(crate) fn exec(&self, words: &[&str]) -> String {
        self.run(&[&["exec", &self.name, "--"], words].concat())
    }

    /// The same for one that may fail.
    pub(crate) fn try_exec(&self, words: &[&str]) -> (bool, String) {
        self.try_run(&[&["exec", &self.name, "--"], words].concat())
    }

    /// Copies a file to a place inside.
    pub(crate) fn copy(&self, file: &Path, to: &str) {
        self.run(&["copy", &self.name, &file.display().to_string(), to]);
    }

    /// Writes a file inside.
    pub(crate) fn write(&self, bed: &Bed, path: &str, text: &str) {
        let file = bed.write("for-the-box", text);
        self.copy(&file, path);
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> String {
        self.exec(&[&["systemctl"], words].concat())
    }

    /// A property of the unit.
    pub(crate) fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "-p", name, &self.unit])
    }

    /// Waits until a property has a value.
    pub(crate) fn until(&self, name: &str, value: &str) {
        let done = poll(PATIENCE, || (self.property(name) == value).then_some(()));
        assert!(done.is_some(), "{name}={value} wanted, {}\n{}", self.property(name), self.journal());
    }

    /// Waits until the journal has a line with this.
    pub(crate) fn until_told(&self, text: &str) {
        let done = poll(PATIENCE, || self.journal().contains(text).then_some(()));
        assert!(done.is_some(), "{text}\n{}", self.journal());
    }

    /// What the unit has said.
    pub(crate) fn journal(&self) -> String {
        self.run(&["logs", &self.name, "-u", &self.unit])
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        let (stopped, said) = self.try_run(&["stop", &self.name]);
        if !stopped && !std::thread::panicking() {
            panic!("{said}");
        }
    }
}
