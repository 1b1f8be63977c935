//! `emperor status`, `emperor stop` and their like: a client of the control socket.
//!
//! Exit status: 0 all is well, or done; 1 a vassal is unknown, or what was wanted of it was refused; 2 a mistake on the
//! command line; 3 no emperor can be reached; 4 a vassal whose status, or the reason of it, was asked is not well.

mod client;
mod events;
mod names;
mod renew;
mod table;
mod why;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Deserialize;

use super::print;
use crate::emperor::control::{escape, unescape};
use crate::emperor::source::VassalName;
use crate::sys::clock::epoch_seconds;
use client::{Client, Reply, Unreachable};
pub(super) use events::{Events, events};
pub(super) use renew::{Renew, renew};
use table::{Screen, table};
pub(super) use why::why;

/// Some vassal is unknown, or what was wanted was refused.
const REFUSED: u8 = 1;
/// No emperor can be reached.
const UNREACHABLE: u8 = 3;
/// Some vassal is not well.
const UNWELL: u8 = 4;

/// Which emperor.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The emperor's control socket (default: $EMPEROR_CONTROL, then the one in the usual runtime directory).
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print the emperor's own documents.
    #[arg(long)]
    json: bool,
}

/// `emperor status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Vassals; all of them otherwise.
    names: Vec<OsString>,
    /// Print nothing but the names of all vassals, one a line, and nothing at all if no emperor answers at once.
    #[arg(long = "names", conflicts_with_all = ["names", "json"])]
    only_names: bool,
    #[command(flatten)]
    which: Which,
}

/// `emperor why`.
#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// Vassals.
    #[arg(required = true)]
    names: Vec<OsString>,
    #[command(flatten)]
    which: Which,
}

/// `emperor stop` and its like.
#[derive(Debug, clap::Args)]
pub(super) struct Operate {
    /// Vassals.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<OsString>,
    /// All vassals.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
}

/// `emperor reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    /// Start a new process beside each, which takes its place when it is ready; should it fail, the old one stays.
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    operate: Operate,
}

/// One vassal, as far as it is shown here.
#[derive(Debug, Deserialize)]
struct Vassal {
    id: String,
    state: String,
    since: u64,
    pid: Option<i32>,
    restarts: u32,
    cause: Option<String>,
    note: Option<String>,
    reinforces: Option<String>,
    /// What it takes and does; in another document.
    #[serde(skip)]
    use_: Option<Use>,
}

#[derive(Debug, Deserialize)]
struct Vassals {
    vassals: Vec<Vassal>,
}

/// What is measured of a vassal, as far as it is shown here.
#[derive(Debug, Default, Deserialize)]
struct Use {
    id: String,
    process: Option<Processes>,
    figures: Option<Figures>,
}

#[derive(Debug, Deserialize)]
struct Processes {
    memory_bytes: u64,
    cpu_micros: u64,
    queue: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Figures {
    requests: u64,
    listen_queue: u64,
}

#[derive(Debug, Deserialize)]
struct Uses {
    vassals: Vec<Use>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

impl Vassal {
    /// Its name, without what would do something to a terminal.
    fn name(&self) -> String {
        VassalName::new(&unescape(&self.id).unwrap_or_default()).to_string()
    }

    /// Why it is not well; else what is to be said of it.
    fn remark(&self) -> Option<&str> {
        self.cause.as_deref().or(self.note.as_deref())
    }

    /// Whether nobody needs to look after it.
    fn is_well(&self) -> bool {
        self.cause.is_none() || self.state == "stopped"
    }
}

/// `emperor status [NAME…]`.
pub(super) fn status(arguments: &Status) -> ExitCode {
    if arguments.only_names {
        return names::main(arguments.which.control.clone());
    }
    run(|| {
        let client = Client::new(arguments.which.control.clone());
        let mut said = Said::default();
        if arguments.names.is_empty() {
            let reply = client.ask("GET", "/v1/vassals")?;
            match reply.read::<Vassals>() {
                Ok(all) => said.vassals = all.vassals,
                Err(problem) => said.refuse(&problem),
            }
            said.documents.push(reply);
        }
        for name in &arguments.names {
            said.take(client.ask("GET", &path(name, None))?, name);
        }
        said.all_count = true;
        if !arguments.which.json {
            said.measure(&client)?;
        }
        said.end(arguments.which.json)
    })
}

/// `emperor stop NAME…|--all` and its like.
pub(super) fn operate(verb: &str, arguments: &Operate) -> ExitCode {
    run(|| {
        let client = Client::new(arguments.which.control.clone());
        let mut said = Said::default();
        let mut names = arguments.names.clone();
        if arguments.all {
            let reply = client.ask("GET", "/v1/vassals")?;
            match reply.read::<Vassals>() {
                Ok(all) => {
                    let bases = all.vassals.iter().filter(|vassal| vassal.reinforces.is_none());
                    let name = |vassal: &Vassal| unescape(&vassal.id);
                    names = bases.filter_map(name).map(|name| OsStr::from_bytes(&name).to_owned()).collect();
                }
                Err(problem) => said.refuse(&problem),
            }
        }
        for name in &names {
            said.take(client.ask("POST", &path(name, Some(verb)))?, name);
        }
        said.end(arguments.which.json)
    })
}

/// `emperor reload [--rolling] NAME…|--all`.
pub(super) fn reload(arguments: &Reload) -> ExitCode {
    operate(if arguments.rolling { "roll" } else { "reload" }, &arguments.operate)
}

fn path(name: &OsStr, verb: Option<&str>) -> String {
    let name = escape(name.as_bytes());
    match verb {
        Some(verb) => format!("/v1/vassals/{name}/{verb}"),
        None => format!("/v1/vassals/{name}"),
    }
}

fn run(act: impl FnOnce() -> Result<u8, Unreachable>) -> ExitCode {
    act().map_or_else(
        |unreachable| {
            complain(&unreachable.to_string());
            UNREACHABLE.into()
        },
        ExitCode::from,
    )
}

fn complain(what: &str) {
    // Nobody may be there to read it; the status remains.
    let _ = writeln!(io::stderr(), "emperor: {}", legible(what));
}

/// Without what would do something to a terminal.
fn legible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What the emperor has said.
#[derive(Default)]
struct Said {
    vassals: Vec<Vassal>,
    documents: Vec<Reply>,
    refused: bool,
    /// Whether it counts how the vassals are.
    all_count: bool,
}

impl Said {
    fn take(&mut self, reply: Reply, name: &OsStr) {
        match reply.read::<Vassal>() {
            Ok(vassal) => self.vassals.push(vassal),
            Err(problem) if problem.is_empty() => {
                self.refuse(&format!("{}: the emperor gives no answer that is understood", name.display()));
            }
            Err(problem) => self.refuse(&problem),
        }
        self.documents.push(reply);
    }

    /// Adds what the vassals take and do. What cannot be had is left out: the states are what was asked for.
    fn measure(&mut self, client: &Client) -> Result<(), Unreachable> {
        if self.vassals.iter().all(|vassal| vassal.pid.is_none()) {
            return Ok(());
        }
        let Ok(uses) = client.ask("GET", "/v1/stats")?.read::<Uses>() else { return Ok(()) };
        let mut uses: HashMap<_, _> = uses.vassals.into_iter().map(|it| (it.id.clone(), it)).collect();
        for vassal in &mut self.vassals {
            vassal.use_ = uses.remove(&vassal.id);
        }
        Ok(())
    }

    fn refuse(&mut self, problem: &str) {
        self.refused = true;
        complain(problem);
    }

    fn end(mut self, json: bool) -> Result<u8, Unreachable> {
        let text = if json {
            self.documents.iter().flat_map(|reply| reply.body.iter().copied()).collect()
        } else {
            let screen = Screen::here();
            // What belongs to a vassal has its name before the colon.
            self.vassals.sort_by_cached_key(Vassal::name);
            table(&self.vassals, epoch_seconds(), screen).into_bytes()
        };
        if let Err(error) = print(&text) {
            complain(&format!("cannot print: {error}"));
            return Ok(REFUSED);
        }
        let unwell = self.all_count && !self.vassals.iter().all(Vassal::is_well);
        Ok(if self.refused {
            REFUSED
        } else if unwell {
            UNWELL
        } else {
            0
        })
    }
}

/// A time in its two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days}d{}h", hours % 24),
        (_, 1.., _) => format!("{hours}h{}m", minutes % 60),
        (_, _, 1..) => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_two_units() {
        assert_eq!([0, 59, 60, 3599, 3600, 90_000].map(age), ["0s", "59s", "1m0s", "59m59s", "1h0m", "1d1h"]);
    }

    #[test]
    fn any_name_is_one_step_of_the_path() {
        assert_eq!(path(OsStr::from_bytes(b"/srv/\xff?"), Some("stop")), "/v1/vassals/%2Fsrv%2F%FF%3F/stop");
    }
}
