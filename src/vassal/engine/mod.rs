//! The built-in engine: serves static files over HTTP for vassals that need nothing else, where uWSGI is not
//! installed.
//!
//! Caller: `main`, in a process of its own that the emperor (or a person) started for one vassal; one thread.
//! It speaks the emperor protocol, reloads in place and refuses what it cannot do, see `options.rs`.
//! On failure: one line on standard error and exit status 1.
#![forbid(unsafe_code)]

mod http;
mod identity;
mod link;
mod listen;
mod options;
mod server;
mod site;
mod sockets;
mod types;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use identity::IdentityError;
use link::Link;
use listen::Address;
use options::{Options, Refusal};
use server::Ending;

use crate::config::check::{Problem, Severity};
use crate::config::{Config, ConfigError, Limits, Loader, Machine, Mode};
use crate::vassal::link::{FD_VARIABLE, Word};
use crate::vassal::sent::ConfigPipe;

/// Serves one vassal to its end. `arguments` are those that uWSGI would get, behind the program's name. The machine
/// holds what came through the pipe, if there is one. `passed` is what a service manager has passed;
/// `begun` runs when the sockets are bound.
#[must_use]
pub fn main(
    arguments: &[OsString],
    machine: &Machine,
    pipe: Option<&ConfigPipe>,
    passed: Vec<OwnedFd>,
    begun: impl FnOnce(),
) -> ExitCode {
    listen::take_passed(passed);
    let read = |link: Option<&Link>| match (link, pipe) {
        (Some(link), Some(pipe)) => {
            link.say(Word::ConfigWanted);
            let text = pipe.receive().map_err(Failure::Sent)?;
            read(arguments, &machine.clone().with_sent(text))
        }
        _ => read(arguments, machine),
    };
    match server::run(read, begun) {
        Ok(Ending::Asked) => ExitCode::SUCCESS,
        Ok(Ending::Abandoned) => ExitCode::FAILURE,
        Err(Failure::Exit(status)) => ExitCode::from(status),
        Err(failure) => {
            log(&chain(&failure));
            ExitCode::FAILURE
        }
    }
}

/// What keeps the engine from running a vassal with this configuration, as far as the configuration tells.
#[must_use]
pub fn objection(config: &Config) -> Option<Problem> {
    let refusal = Options::from_config(config).err()?;
    let message = refusal.lasting()?;
    Some(Problem { severity: Severity::Fatal, origin: refusal.origin, message, remedy: None })
}

fn read(arguments: &[OsString], machine: &Machine) -> Result<Options, Failure> {
    let environment: Vec<(OsString, OsString)> = env::vars_os().collect();
    let config = Loader::new(machine, Limits::default()).load(arguments, &environment, Mode::Uwsgi)?;
    let _ = io::stdout().write_all(&config.output().stdout);
    match config.exit() {
        Some(status) => Err(Failure::Exit(status)),
        None => Ok(Options::from_config(&config)?),
    }
}

/// Why a vassal cannot start, or keeps the configuration it has.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the configuration asks to exit with status {0}")]
    Exit(u8),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot listen on {address}")]
    Listen { address: Address, source: io::Error },
    #[error("cannot enter {}", dir.display())]
    Enter { dir: PathBuf, source: io::Error },
    #[error("cannot log to {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot become another user")]
    Identity(#[from] IdentityError),
    #[error("`uid` and `gid` cannot change while the vassal runs: restart it")]
    IdentityChanged,
    #[error("cannot read what the emperor sends (UWSGI_EMPEROR_FD_CONFIG)")]
    Sent(#[source] io::Error),
    #[error("cannot use the link to the emperor ({FD_VARIABLE})")]
    Link(#[source] io::Error),
    #[error("cannot prepare the vassal")]
    Prepare(#[source] io::Error),
}

/// Writes one line to the log, which is standard error. If that is gone there is nobody to tell.
fn log(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
