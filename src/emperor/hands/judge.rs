//! A changed file is looked at before its vassal is told to reload: a broken one would end a healthy vassal.
//!
//! In tyrant mode the file is a tenant's, and is read by a process that has become that tenant; otherwise it is
//! read here, which takes microseconds. Nothing is run or fetched on its behalf.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::check::{self, Problem};
use crate::config::{Limits, Loader, Machine, Mode};

/// What uWSGI would end with, if it read these arguments in this directory.
///
/// `arguments` and `environment` are those of the vassal.
#[must_use]
pub fn fault(directory: &Path, arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Option<Problem> {
    let world = Machine::new().in_directory(directory);
    let arguments: Vec<OsString> = arguments.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|entry| pair(entry)).collect();
    let loader = Loader::new(&world, Limits::default());
    let checked = check::check(&loader, &arguments, &environment, Mode::Uwsgi);
    checked.fatal().cloned()
}

/// A problem in one line.
#[must_use]
pub fn line(problem: &Problem) -> String {
    let remedy = problem.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    format!("{}: {}{remedy}", problem.origin, problem.message)
}

/// The name and the value of an environment entry.
pub(super) fn pair(entry: &[u8]) -> (OsString, OsString) {
    let at = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
    let value = entry.get(at + 1..).unwrap_or_default();
    (OsStr::from_bytes(&entry[..at]).to_owned(), OsStr::from_bytes(value).to_owned())
}
