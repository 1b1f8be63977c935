//! A real systemd in namespaces of its own, run by the program that SYSTEMD_BOX names.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Bed, PATIENCE, poll, skip};

/// It stops when this is dropped.
pub(crate) struct SystemdBox {
    program: OsString,
    name: String,
    unit: String,
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
