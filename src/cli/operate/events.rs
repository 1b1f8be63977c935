//! `emperor events [-f] [NAME…]`: what has happened to the vassals, and what happens now.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use super::client::Line;
use super::table::Screen;
use super::why::Event;
use super::{Client, REFUSED, VassalName, Which, complain, escape, run, unescape};
use crate::cli::show;

/// `emperor events`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Events {
    /// Vassals; all of them otherwise.
    names: Vec<OsString>,
    /// Go on as more happens, until interrupted.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    which: Which,
}

/// `emperor events`.
pub(in crate::cli) fn events(arguments: &Events) -> ExitCode {
    run(|| {
        let client = Client::new(arguments.which.control.clone());
        let wanted: HashSet<String> = arguments.names.iter().map(|name| escape(name.as_bytes())).collect();
        let screen = Screen::here();
        let (mut last, mut status) = (0, 0);
        client.lines("/v1/events", arguments.follow, &mut |line| {
            let text = match line {
                Line::Problem(problem) => {
                    complain(&problem);
                    status = REFUSED;
                    return false;
                }
                Line::Text(text) => text,
            };
            let Ok(event) = serde_json::from_slice::<Event>(text) else { return true };
            // An emperor that has renewed itself begins anew with what it knows.
            if event.number <= last || !(wanted.is_empty() || wanted.contains(&event.id)) {
                return true;
            }
            last = event.number;
            let shown = if arguments.which.json { text.to_vec() } else { told(&event, screen).into_bytes() };
            show(&shown)
        })?;
        Ok(status)
    })
}

fn told(event: &Event, screen: Screen) -> String {
    let name = VassalName::new(&unescape(&event.id).unwrap_or_default()).to_string();
    let colour = match &*event.kind {
        "failed" | "refused" => "31",
        "warning" | "next" => "33",
        "ready" => "32",
        _ => "0",
    };
    format!("{}\n", event.told().replacen("  ", &format!("  {}  ", screen.paint(&name, colour)), 1))
}
