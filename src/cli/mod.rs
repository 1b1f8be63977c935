//! What a person types: uWSGI's options, the subcommands, tables.
//!
//! A first word that is a subcommand's name is one; everything else is uWSGI's command line, which has its own
//! rules (any option of the table, unique prefixes, files) and its own reader in `config`.
#![forbid(unsafe_code)]

mod alone;
mod check;
mod operate;
mod options;
mod run;

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::emperor::survival::REHEARSAL_VARIABLE;
use crate::sys::fds;
use crate::vassal::{launch, probe};

#[derive(Debug, Parser)]
#[command(name = "emperor", version, about = ABOUT, after_help = AFTER_HELP, override_usage = USAGE)]
struct Command {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the emperor: the same as without a subcommand.
    #[command(disable_help_flag = true)]
    Run {
        /// Directories, files and options, as uWSGI takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run one vassal without an emperor, as `uwsgi --ini FILE` would; for a unit of its own.
    Vassal {
        /// Options of the vassal, such as `--ini FILE`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
        arguments: Vec<OsString>,
    },
    /// Look at files as the emperor would: options, problems, engine, command line.
    Check(check::Arguments),
    /// List the options, or those that a word is in.
    Options {
        /// Part of a name or of a description.
        word: Option<String>,
    },
    /// Show how vassals are: state, since when, and why they are not well.
    Status(operate::Status),
    /// Tell how vassals came to their state, what comes next, and what can be done.
    Why(operate::Why),
    /// Show what has happened to vassals, and with -f what happens now.
    Events(operate::Events),
    /// Have vassals read their files again.
    Reload(operate::Reload),
    /// Stop vassals and start them anew.
    Restart(operate::Operate),
    /// Stop vassals; they stay so until they are started or their files change.
    Stop(operate::Operate),
    /// Start vassals that are stopped, are given up, or wait.
    Start(operate::Operate),
    /// Forget vassals' failures, and start those that were kept from it.
    Clear(operate::Operate),
    /// Have the emperor read its own configuration and program anew, in place; what is wrong with them is told.
    Renew(operate::Renew),
    /// Print the version.
    Version,
}

const ABOUT: &str =
    "Runs a vassal for every file in a directory, and keeps it running: the successor of uWSGI's Emperor";
const USAGE: &str = "emperor DIRECTORY | FILE.ini | OPTIONS…\n       emperor COMMAND …";
const AFTER_HELP: &str = "\
Examples:
  emperor /etc/uwsgi/vassals
  emperor --ini /etc/uwsgi/emperor.ini
  emperor --emperor '/srv/*/uwsgi.ini' --emperor-tyrant --emperor-stats /run/emperor.stats
  emperor check /etc/uwsgi/vassals/shop.ini

`emperor options` lists what an emperor can be told, in files, by the command line and as UWSGI_* variables.";

/// What may be typed behind `emperor`, for what is made from it: man pages and completions.
#[must_use]
pub fn grammar() -> clap::Command {
    Command::command()
}

/// Runs the role that the command line asks for, and turns an error into a report and an exit status.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    role(&arguments).unwrap_or_else(|failure| {
        // Nobody may be there to read it; the status remains.
        let _ = writeln!(io::stderr(), "emperor: {failure}");
        ExitCode::FAILURE
    })
}

fn role(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().and_then(|word| word.to_str()) {
        // First: it is the emperor that waits.
        Some("vassal") if rest == ["--plan"] => Ok(launch::main(rest)),
        Some("vassal") if !is_help(rest) => alone::main(rest),
        Some("probe") => Ok(probe::main(rest)),
        Some("judge") => Ok(check::judge(rest)),
        Some("rehearse") => report(rehearse, rest),
        Some(
            "run" | "vassal" | "check" | "status" | "why" | "events" | "reload" | "restart" | "stop"
            | "start" | "clear" | "renew" | "options" | "version" | "help" | "-h" | "--help" | "-V"
            | "--version",
        )
        | None => command(arguments),
        Some(_) => run::main(arguments),
    }
}

fn is_help(words: &[OsString]) -> bool {
    words.first().is_some_and(|word| word == "--help" || word == "-h")
}

/// Says what is wrong to the emperor that has asked, who says it to others; to a person otherwise.
fn report(
    rehearse: impl FnOnce(&[OsString]) -> Result<ExitCode, Failure>,
    arguments: &[OsString],
) -> Result<ExitCode, Failure> {
    let number = std::env::var(REHEARSAL_VARIABLE).ok().and_then(|number| number.parse().ok());
    let to = number.and_then(|number| fds::adopt(number).ok());
    rehearse(arguments).or_else(|failure| {
        let told = to.map(|to| write!(File::from(to), "{failure}"));
        if told.is_some_and(|told| told.is_ok()) { Ok(ExitCode::FAILURE) } else { Err(failure) }
    })
}

/// Another program of ours wants to know whether this one could take its place, with these arguments.
fn rehearse(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    if arguments.first().is_none_or(|word| word != "run") {
        return run::rehearse(arguments);
    }
    let words = std::iter::once("emperor".into()).chain(arguments.iter().cloned());
    match Command::try_parse_from(words).map_err(Failure::new)?.role {
        Role::Run { arguments } => run::rehearse(&arguments),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn command(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    let words = std::iter::once("emperor".into()).chain(arguments.iter().cloned());
    let command = match Command::try_parse_from(words) {
        Ok(command) => command,
        Err(usage) => {
            // Help goes to standard output and is a success, a mistake is neither.
            let _ = usage.print();
            return Ok(u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from));
        }
    };
    let text = match command.role {
        Role::Run { arguments } => return run::main(&arguments),
        Role::Vassal { arguments } => return alone::main(&arguments),
        Role::Check(arguments) => return check::main(&arguments),
        Role::Status(arguments) => return Ok(operate::status(&arguments)),
        Role::Why(arguments) => return Ok(operate::why(&arguments)),
        Role::Events(arguments) => return Ok(operate::events(&arguments)),
        Role::Reload(arguments) => return Ok(operate::reload(&arguments)),
        Role::Restart(arguments) => return Ok(operate::operate("restart", &arguments)),
        Role::Stop(arguments) => return Ok(operate::operate("stop", &arguments)),
        Role::Start(arguments) => return Ok(operate::operate("start", &arguments)),
        Role::Clear(arguments) => return Ok(operate::operate("clear", &arguments)),
        Role::Renew(arguments) => return Ok(operate::renew(&arguments)),
        Role::Options { word: None } => options::grouped(),
        Role::Options { word: Some(word) } => {
            let found = options::matching(&word);
            if found.is_empty() {
                let _ = writeln!(io::stderr(), "emperor: no option has `{word}` in its name or description");
                return Ok(ExitCode::FAILURE);
            }
            found
        }
        Role::Version => format!("emperor {}\n", env!("CARGO_PKG_VERSION")),
    };
    print(text.as_bytes()).map_err(Failure::of("cannot print"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output. A reader that has seen enough is no error.
fn print(text: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes to standard output at once; whether somebody may read on.
fn show(text: &[u8]) -> bool {
    io::stdout().write_all(text).and_then(|()| io::stdout().flush()).is_ok()
}

/// What went wrong, with all its causes.
#[derive(Debug)]
struct Failure {
    attempt: Option<&'static str>,
    cause: Box<dyn Error>,
}

impl Failure {
    fn new(cause: impl Error + 'static) -> Self {
        Self { attempt: None, cause: Box::new(cause) }
    }

    /// For `map_err`: the cause of an attempt.
    fn of<E: Error + 'static>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self { attempt: Some(attempt), cause: Box::new(cause) }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(attempt) = self.attempt {
            write!(f, "{attempt}: ")?;
        }
        write!(f, "{}", self.cause)?;
        let mut cause = self.cause.source();
        while let Some(next) = cause {
            write!(f, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}
