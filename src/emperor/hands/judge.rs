//! A changed file is looked at before its vassal is told to reload: a broken one would end a healthy vassal.
//!
//! In tyrant mode the file is a tenant's, and is read by a process that has become that tenant; otherwise it is
//! read here, which takes microseconds. Nothing is run or fetched on its behalf.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::check::{self, Problem};
use crate::config::options::Kind;
use crate::config::{Limits, Loader, Machine, Mode};
use crate::vassal::socket::Address;

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

/// The option, and its place, with which a vassal of these arguments binds this address itself.
#[must_use]
pub fn binds(
    directory: &Path,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    address: &Address,
) -> Option<String> {
    let world = Machine::new().in_directory(directory);
    let arguments: Vec<OsString> = arguments.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|entry| pair(entry)).collect();
    let config = Loader::new(&world, Limits::default()).load(&arguments, &environment, Mode::Uwsgi).ok()?;
    config.applied().find_map(|(option, pair)| {
        let is_socket = matches!(option.kind, Kind::Socket | Kind::SocketTls | Kind::SharedSocket);
        let value = pair.value().filter(|_| is_socket)?.split(|byte| *byte == b',').next()?;
        let bound = Address::parse(value, directory).ok()?;
        bound.meets(address).then(|| format!("{}: {} = {bound}", pair.origin(), option.name))
    })
}

/// A problem in one line.
#[must_use]
pub fn line(problem: &Problem) -> String {
    let remedy = problem.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    format!("{}: {}{remedy}", problem.origin, problem.message)
}

/// The name and the value of an environment entry.
#[must_use]
pub fn pair(entry: &[u8]) -> (OsString, OsString) {
    let at = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
    let value = entry.get(at + 1..).unwrap_or_default();
    (OsStr::from_bytes(&entry[..at]).to_owned(), OsStr::from_bytes(value).to_owned())
}
