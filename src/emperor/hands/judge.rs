//! A changed file is looked at before its vassal is told to reload: a broken one would end a healthy vassal.
//!
//! In tyrant mode the file is a tenant's, and is read by a process that has become that tenant; otherwise it is
//! read here, which takes microseconds: of what is larger than any configuration that a person writes nothing is
//! said. Nothing is run or fetched on its behalf.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::config::check::{self, Checked, Problem, Severity};
use crate::config::options::{self, Kind};
use crate::config::{Limits, Loader, Machine, Mode};
use crate::vassal::socket::Address;

/// What uWSGI would end with, if it read these arguments in this directory.
///
/// `arguments` and `environment` are those of the vassal; `sent` is what it reads from its config pipe.
#[must_use]
pub fn fault(
    directory: &Path,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    sent: Option<&[u8]>,
) -> Option<Problem> {
    look(directory, arguments, environment, sent).fatal().cloned()
}

/// What is most likely the reason for which a vassal of these arguments has ended before it was of any use.
#[must_use]
pub fn suspicion(
    directory: &Path,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    sent: Option<&[u8]>,
) -> Option<Problem> {
    let checked = look(directory, arguments, environment, sent);
    let worst = checked.worst().filter(|worst| *worst >= Severity::Warning)?;
    checked.problems.into_iter().find(|problem| problem.severity == worst)
}

/// The same where the engine reads its files in a way of its own: only whether there is anything to read.
#[must_use]
pub fn plain_suspicion(file: &Path) -> Option<String> {
    match std::fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file) {
        Err(cause) => Some(format!("it cannot be read: {cause} (see to its owner and mode)")),
        Ok(file) => {
            let empty = file.metadata().is_ok_and(|there| there.is_file() && there.len() == 0);
            empty.then(|| "the file is empty (write the options of its application into it)".into())
        }
    }
}

fn look(directory: &Path, arguments: &[Vec<u8>], environment: &[Vec<u8>], sent: Option<&[u8]>) -> Checked {
    let world = machine(directory, sent);
    let arguments: Vec<OsString> = arguments.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|entry| pair(entry)).collect();
    let loader = Loader::new(&world, LIMITS);
    check::check(&loader, &arguments, &environment, Mode::Uwsgi)
}

pub(in crate::emperor) fn machine(directory: &Path, sent: Option<&[u8]>) -> Machine {
    let machine = Machine::new().in_directory(directory);
    match sent {
        Some(text) => machine.with_sent(text.to_vec()),
        None => machine,
    }
}

/// How a vassal binds an address itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bound {
    /// The option, as it is written.
    pub option: String,
    /// The address as it is written.
    pub text: Vec<u8>,
    /// The place, option and address for a person.
    pub line: String,
}

impl Bound {
    /// Whether its option names a socket and nothing else. It may be the word of a tenant.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let known = options::find(self.option.as_bytes());
        known.is_some_and(|option| option.kind == Kind::Socket && option.plugin_name() == "core")
    }
}

/// How a vassal of these arguments binds this address itself.
#[must_use]
pub fn binds(
    directory: &Path,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    sent: Option<&[u8]>,
    address: &Address,
) -> Option<Bound> {
    let world = machine(directory, sent);
    let arguments: Vec<OsString> = arguments.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|entry| pair(entry)).collect();
    let config = Loader::new(&world, LIMITS).load(&arguments, &environment, Mode::Uwsgi).ok()?;
    config.applied().find_map(|(option, pair)| {
        let is_socket = matches!(option.kind, Kind::Socket | Kind::SocketTls | Kind::SharedSocket);
        let text = pair.value().filter(|_| is_socket)?.split(|byte| *byte == b',').next()?;
        let bound = Address::parse(text, directory).ok()?;
        bound.meets(address).then(|| Bound {
            option: option.name.to_owned(),
            text: text.to_vec(),
            line: format!("{}: {} = {bound}", pair.origin(), option.name),
        })
    })
}

/// How much is looked at. What is beyond is no fault.
pub(in crate::emperor) const LIMITS: Limits = Limits {
    depth: 64,
    reads: 256,
    file_bytes: 1 << 20,
    value_bytes: 64 << 10,
    total_bytes: 2 << 20,
    pairs: 10_000,
    expansions: 1 << 10,
    work: 4 << 20,
};

/// How long a judge in a process of its own may take. Reading is a matter of milliseconds, but for file systems that
/// hang.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// What such a judge may take of the machine.
const CPU_SECONDS: u64 = 2;
const MEMORY_BYTES: u64 = 512 << 20;

/// Keeps this process, which reads a tenant's file, within its bounds. What ends for them has found no fault.
pub fn bound_this_process() {
    let limits = [
        (Resource::RLIMIT_CPU, CPU_SECONDS),
        (Resource::RLIMIT_AS, MEMORY_BYTES),
        (Resource::RLIMIT_CORE, 0),
    ];
    for (resource, most) in limits {
        let (soft, hard) = getrlimit(resource).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        // Less than what is in force can always be had.
        let _ = setrlimit(resource, soft.min(most), hard.min(most));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.ini"), text).unwrap();
        let arguments = [b"--ini".to_vec(), b"a.ini".to_vec()];
        fault(dir.path(), &arguments, &[], None).map(|problem| line(&problem))
    }

    #[test]
    fn what_is_too_large_to_be_looked_at_is_no_fault_and_takes_no_time() {
        let began = std::time::Instant::now();
        assert!(judged(&format!("[uwsgi]\nset = x={}\n", "y".repeat(2 << 20))).is_none());
        assert!(judged(&format!("[uwsgi]\n{}", "processes = 1\n".repeat(20_000))).is_none());
        let bomb: String = (1..60).map(|n| format!("set = a{n}=%(a{})%(a{})\n", n - 1, n - 1)).collect();
        assert!(judged(&format!("[uwsgi]\nset = a0=aaaaaaaa\n{bomb}")).is_none());
        assert!(judged("[uwsgi]\ninclude = /dev/zero\n").is_none_or(|line| line.contains("unable to load")));
        assert!(judged("[uwsgi]\nini = /dev/zero\n").is_none());
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn an_empty_file_and_one_that_cannot_be_found_are_suspicious() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.ini"), "").unwrap();
        let suspected = |name: &str| {
            let arguments = [b"--ini".to_vec(), name.as_bytes().to_vec()];
            suspicion(dir.path(), &arguments, &[], None).map(|problem| line(&problem)).unwrap_or_default()
        };
        assert!(suspected("a.ini").contains("empty"), "{}", suspected("a.ini"));
        assert!(plain_suspicion(&dir.path().join("a.ini")).is_some_and(|why| why.contains("empty")));
        assert!(plain_suspicion(&dir.path().join("b.ini")).is_some_and(|why| why.contains("No such file")));
        assert!(suspected("b.ini").contains("No such file"), "{}", suspected("b.ini"));
        std::fs::write(dir.path().join("a.ini"), "[uwsgi]\nmaster = true\n").unwrap();
        assert_eq!(suspected("a.ini"), "");
    }

    #[test]
    fn what_leads_to_itself_and_what_is_broken_is_one() {
        assert!(judged("[uwsgi]\nini = a.ini\n").is_some_and(|line| line.contains("does it load itself")));
        assert!(judged("[uwsgi]\nini = nowhere.ini\n").is_some());
        assert!(judged("[uwsgi]\nprocesses = 1\n").is_none());
    }
}
