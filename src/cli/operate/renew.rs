//! `emperor renew`: the emperor reads its configuration and its program anew, in place, and it is waited for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::client::{Client, Reply, Unreachable};
use super::{REFUSED, Which, complain, legible, run};
use crate::cli::print;
use crate::emperor::control::Reloads;

/// `emperor renew`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Renew {
    /// The emperor's process: it is sent SIGUSR2 if it has no control socket, or another emperor has it.
    pid: Option<i32>,
    #[command(flatten)]
    which: Which,
}

/// The emperor, as far as it concerns us.
#[derive(Debug, Deserialize)]
struct Emperor {
    version: String,
    pid: i32,
    running: usize,
    #[serde(flatten)]
    reloads: Option<Reloads>,
}

/// How long the next program may take until it answers.
const TO_COME: Duration = Duration::from_secs(60);
/// It is asked so often whether it is there: nothing tells of it.
const AGAIN: Duration = Duration::from_millis(20);

/// `emperor renew [PID]`.
pub(in crate::cli) fn renew(arguments: &Renew) -> ExitCode {
    run(|| {
        let client = Client::new(arguments.which.control.clone());
        let there = client.ask("GET", "/v1/emperor").map(|reply| reply.read::<Emperor>());
        match (there, arguments.pid) {
            (Ok(Ok(emperor)), Some(pid)) if emperor.pid == pid => {}
            (Ok(_), None) => {}
            (_, Some(pid)) => return Ok(signal(pid)),
            (Err(unreachable), None) => return Err(unreachable),
        }
        let asked = client.ask("POST", "/v1/emperor/renew")?;
        let before = match asked.accepted::<Reloads>() {
            Ok(before) => before,
            Err(problem) => {
                complain(&problem);
                return Ok(REFUSED);
            }
        };
        let (reply, emperor) = next(&client, before.count)?;
        let reloads = emperor.reloads.unwrap_or_default();
        if reloads.refused.is_none() && reloads.count <= before.count {
            complain(&format!(
                "no other program has taken over within {} seconds; see its log",
                TO_COME.as_secs()
            ));
            return Ok(REFUSED);
        }
        if let Some(refused) = &reloads.refused {
            complain(refused);
            return Ok(REFUSED);
        }
        let text = if arguments.which.json {
            reply.body
        } else {
            let mut text = format!("emperor {} goes on with {} vassals\n", emperor.version, emperor.running);
            for change in &reloads.needs_restart {
                text += &format!("needs a restart of the emperor: {}\n", legible(change));
            }
            text.into_bytes()
        };
        match print(&text) {
            Ok(()) => Ok(0),
            Err(error) => {
                complain(&format!("cannot print: {error}"));
                Ok(REFUSED)
            }
        }
    })
}

/// Asks until another program answers, or the same one says why none does.
fn next(client: &Client, before: u32) -> Result<(Reply, Emperor), Unreachable> {
    let deadline = Instant::now() + TO_COME;
    loop {
        let reply = client.ask("GET", "/v1/emperor");
        let late = deadline <= Instant::now();
        match reply {
            Ok(reply) => match reply.read::<Emperor>() {
                Ok(emperor)
                    if late
                        || emperor
                            .reloads
                            .as_ref()
                            .is_none_or(|it| it.count > before || it.refused.is_some()) =>
                {
                    return Ok((reply, emperor));
                }
                _ => {}
            },
            Err(unreachable) if late => return Err(unreachable),
            Err(_) => {} // it is between two programs
        }
        std::thread::sleep(AGAIN);
    }
}

fn signal(pid: i32) -> u8 {
    match kill(Pid::from_raw(pid), Signal::SIGUSR2) {
        Ok(()) => {
            complain(&format!("process {pid} is told (SIGUSR2), and its log says what comes of it"));
            0
        }
        Err(errno) => {
            complain(&format!("process {pid} cannot be told: {errno}"));
            REFUSED
        }
    }
}
