//! `emperor why NAME…`: how a vassal came to its state, for a person.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Deserialize;

use super::table::{Screen, shade};
use super::{Client, REFUSED, UNWELL, Vassal, Why, age, complain, epoch_seconds, legible, path, run};
use crate::cli::print;
use crate::sys::clock;

/// What the emperor says.
#[derive(Debug, Deserialize)]
struct Account {
    vassal: Vassal,
    file: Option<String>,
    events: Vec<Event>,
    output: Output,
    next: String,
    advice: Vec<String>,
}

/// One event.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    #[serde(default)]
    pub(super) number: u64,
    pub(super) at: f64,
    #[serde(default)]
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) pid: Option<i32>,
    pub(super) text: String,
}

#[derive(Debug, Deserialize)]
struct Output {
    place: String,
    lines: Vec<String>,
}

/// `emperor why NAME…`.
pub(in crate::cli) fn why(arguments: &Why) -> ExitCode {
    run(|| {
        let client = Client::new(arguments.which.control.clone());
        let (mut refused, mut unwell) = (false, false);
        let (mut text, mut documents) = (String::new(), Vec::new());
        for name in &arguments.names {
            let reply = client.ask("GET", &path(name, Some("why")))?;
            match reply.read::<Account>() {
                Ok(account) => {
                    unwell |= !account.vassal.is_well();
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text += &account.told(epoch_seconds(), Screen::here());
                }
                Err(problem) => {
                    refused = true;
                    complain(&problem);
                }
            }
            documents.extend(reply.body);
        }
        let written = print(if arguments.which.json { &documents } else { text.as_bytes() });
        if let Err(error) = &written {
            complain(&format!("cannot print: {error}"));
        }
        Ok(if refused || written.is_err() {
            REFUSED
        } else if unwell {
            UNWELL
        } else {
            0
        })
    })
}

impl Account {
    fn told(&self, now: u64, screen: Screen) -> String {
        let vassal = &self.vassal;
        let mut text = format!(
            "{}  {} since {}",
            screen.paint(&vassal.name(), "1"),
            screen.paint(&legible(&vassal.state), shade(vassal)),
            age(now.saturating_sub(vassal.since)),
        );
        if let Some(pid) = vassal.pid {
            add(&mut text, &format!(", process {pid}"));
        }
        add(&mut text, &format!(", started again {} times\n", vassal.restarts));
        if let Some(file) = &self.file {
            add(&mut text, &format!("file: {}\n", legible(file)));
        }
        if let Some(cause) = &vassal.cause {
            add(&mut text, &format!("why: {}\n", legible(cause)));
        }
        if let Some(note) = &vassal.note {
            add(&mut text, &format!("note: {}\n", legible(note)));
        }
        add(&mut text, "\nWhat has happened:\n");
        if self.events.is_empty() {
            add(&mut text, "  nothing that is still known\n");
        }
        for event in &self.events {
            add(&mut text, &format!("  {}\n", event.told()));
        }
        if !self.output.place.is_empty() {
            add(&mut text, &format!("\nWhat it wrote last ({}):\n", legible(&self.output.place)));
            if self.output.lines.is_empty() && !self.output.place.starts_with("the journal") {
                add(&mut text, "  nothing\n");
            }
            for line in &self.output.lines {
                add(&mut text, &format!("  {}\n", legible(line)));
            }
        }
        add(&mut text, &format!("\nWhat comes next: {}.\n", legible(&self.next)));
        if !self.advice.is_empty() {
            add(&mut text, "\nWhat you can do:\n");
            for line in &self.advice {
                add(&mut text, &format!("  - {}\n", legible(line)));
            }
        }
        text
    }
}

impl Event {
    /// In one line: the local time, and what happened.
    pub(super) fn told(&self) -> String {
        let pid = self.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        format!("{}  {}{pid}", local(self.at), legible(&self.text))
    }
}

/// A moment, in seconds since the epoch, as people here say it.
fn local(at: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds and milliseconds; saturates"
    )]
    let (seconds, millis) = (at as u64, (at.fract() * 1000.0).round().clamp(0.0, 999.0) as u16);
    format!("{}.{millis:03}", clock::local_time_of(seconds, c"%Y-%m-%d %H:%M:%S"))
}

fn add(text: &mut String, more: &str) {
    let _ = text.write_str(more); // into memory: it cannot fail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_known_is_told_in_order() {
        let document = r#"{"vassal":{"id":"a.ini","state":"backing-off","since":100,"pid":null,"restarts":3,
            "cause":"exited with status 1; starts again in 2.0 s","reinforces":null},"file":"/v/a.ini",
            "events":[{"at":100.25,"kind":"file","text":"its file was found"},
                {"at":101.0,"kind":"started","pid":7,"text":"its process was made"}],
            "output":{"place":"the log","lines":["bad \u001b[1m"]},"next":"it is started again in 2.0 s",
            "advice":["mend it"]}"#;
        let account: Account = serde_json::from_str(document).unwrap();
        let text = account.told(400, Screen::default());
        let parts = [
            "a.ini  backing-off since 5m0s, started again 3 times\nfile: /v/a.ini\nwhy: exited with status 1",
            ".250  its file was found\n",
            ".000  its process was made (process 7)\n",
            "What it wrote last (the log):\n  bad \u{fffd}[1m\n",
            "What comes next: it is started again in 2.0 s.\n",
            "What you can do:\n  - mend it\n",
        ];
        let mut at = 0;
        for part in parts {
            at += text[at..].find(part).unwrap_or_else(|| panic!("{part:?} in\n{text}"));
        }
    }
}
