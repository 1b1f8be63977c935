//! Making a vassal's process.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tracing::error;

use super::command::{self, Command, Engine, Environment, Subject, Templates};
use super::{Hands, VassalName};
use crate::emperor::court::{Court, Event, Key};
use crate::sys::spawn::{CStrings, Candidate, Program, SpawnError};

/// Where the vassals of one source start.
#[derive(Clone, Debug)]
pub struct Place(CString);

impl Place {
    /// The directory. `None` if its path holds a NUL, which no path does.
    #[must_use]
    pub fn new(directory: PathBuf) -> Option<Self> {
        CString::new(directory.into_os_string().into_encoded_bytes()).ok().map(Self)
    }
}

/// How vassals are started.
#[derive(Debug)]
pub struct Launch {
    /// The program that runs them.
    pub engine: Engine,
    /// What shapes their arguments.
    pub templates: Templates,
    /// What their environment is made of.
    pub environment: Environment,
    /// The directories in which programs are searched, a list separated by colons.
    pub path: OsString,
    /// Where they start, by source.
    pub places: Vec<Place>,
    /// `safe-fd`: descriptors that they keep.
    pub safe_fds: Vec<RawFd>,
    /// What they get when the emperor dies; 0 for nothing.
    pub parent_death_signal: i32,
}

impl Hands {
    pub(super) fn start(&mut self, key: Key, court: &Court) -> Event {
        let Some(vassal) = court.get(key) else { return Event::NotStarted(key, false) };
        let base = vassal.zerg.and_then(|zerg| court.get(zerg.base));
        let subject = match base {
            Some(base) => Subject::Zerg(base.name.as_bytes()),
            None => Subject::File(vassal.name.as_bytes()),
        };
        let launch = &self.launch;
        let arguments = launch.templates.arguments(subject);
        let commands = launch.templates.commands(&launch.engine, &arguments, &launch.path);
        let special =
            vassal.zerg.map(|zerg| command::c_strings(launch.environment.of(false, Some(zerg.number))));
        let prepared: Vec<_> = commands.iter().flat_map(prepare).collect();
        if prepared.is_empty() {
            no_program(&vassal.name, &commands);
            return Event::NotStarted(key, false);
        }
        let candidates: Vec<_> =
            prepared.iter().map(|(path, arguments)| Candidate { path, arguments }).collect();
        let (ours, theirs) =
            match socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC) {
                Ok(pair) => pair,
                Err(_) => return Event::NotStarted(key, true),
            };
        let program = Program {
            candidates: &candidates,
            environment: special.as_ref().unwrap_or(&self.environment),
            cwd: self.launch.places.get(usize::from(vassal.source.0)).map(|place| place.0.as_c_str()),
            stdin: None,
            passed: [Some(theirs.as_fd()), None, None],
            kept: &self.launch.safe_fds,
            parent_death_signal: self.launch.parent_death_signal,
        };
        let child = match self.spawner.spawn(&program) {
            Ok(child) => child,
            Err(SpawnError::NoProcess(_)) => return Event::NotStarted(key, true),
            Err(failure) => {
                report(&vassal.name, &failure, &commands);
                return Event::NotStarted(key, false);
            }
        };
        let pid = child.pid;
        drop(theirs);
        match self.hold(key, ours, child.pidfd) {
            Ok(()) => Event::Started(key, pid),
            Err(_) => Event::NotStarted(key, true),
        }
    }
}

fn prepare(command: &Command) -> Vec<(CString, CStrings)> {
    let path = |file: &PathBuf| CString::new(file.as_os_str().as_bytes()).ok();
    let with_arguments = |file| (file, command::c_strings(command.arguments.iter().cloned()));
    command.files.iter().filter_map(path).map(with_arguments).collect()
}

fn programs(commands: &[Command]) -> String {
    let name = |command: &Command| {
        String::from_utf8_lossy(command.arguments.first().map_or(b"", |a| a)).into_owned()
    };
    commands.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn no_program(name: &VassalName, commands: &[Command]) {
    error!(
        "[emperor] vassal {name} cannot be started: {} is not an executable file, nor found in PATH; install it, or \
         name another by binary-path or emperor-wrapper",
        programs(commands)
    );
}

fn report(name: &VassalName, failure: &SpawnError, commands: &[Command]) {
    let cause = std::error::Error::source(failure).map(ToString::to_string).unwrap_or_default();
    error!("[emperor] vassal {name} cannot be started: {failure} {}: {cause}", programs(commands));
}
