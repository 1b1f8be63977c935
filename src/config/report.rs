//! Words for findings: lines for people, and JSON for programs.

use super::check::{Explanation, Problem, Severity};
use super::model::{How, Origin, Place, lossy};
use serde_json::{Value, json};
use std::fmt::Write as _;

impl Severity {
    /// `note`, `warning`, `error`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fatal => "error",
        }
    }
}

/// One line for each finding as compilers write them, and one more for what to do about it.
#[must_use]
pub fn text(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let place = if problem.origin.is_known() { format!("{}: ", problem.origin) } else { String::new() };
        let _ = writeln!(out, "{place}{}: {}", problem.severity.word(), problem.message);
        if let Some(remedy) = &problem.remedy {
            let _ = writeln!(out, "    {remedy}");
        }
        for step in history(&problem.origin) {
            let _ = writeln!(out, "    {step}");
        }
    }
    out
}

/// An array with an object for each finding: `severity`, `file`, `line`, `place`, `message`, `remedy`, `history`.
#[must_use]
pub fn json(problems: &[Problem]) -> Value {
    problems
        .iter()
        .map(|problem| {
            let line = problem.origin.file_line();
            json!({
                "severity": problem.severity.word(),
                "file": line.map(|(file, _)| lossy(&file.given)),
                "path": line.and_then(|(file, _)| file.absolute.as_ref().map(|p| p.display().to_string())),
                "line": line.map(|(_, line)| line).filter(|line| *line > 0),
                "place": problem.origin.to_string(),
                "message": problem.message,
                "remedy": problem.remedy,
                "history": history(&problem.origin),
            })
        })
        .collect()
}

/// How a value came about, for people.
#[must_use]
pub fn explanation(key: &str, told: &Explanation<'_>) -> String {
    let mut out = String::new();
    match told.option {
        Some(option) if option.name != key => {
            let _ = writeln!(out, "{key} is another name of {}", option.name);
        }
        None => {
            let _ =
                writeln!(out, "{key} is no option; %({key}) is the value of the first pair with that key");
        }
        Some(_) => {}
    }
    if let Some(origin) = told.implied_by {
        let _ = writeln!(out, "{key} is on because of {origin}");
    } else if told.mentions.is_empty() {
        let _ = writeln!(out, "{key} is not set");
    }
    for mention in &told.mentions {
        let pair = mention.pair;
        let value = pair.value().map_or_else(|| "(no value)".to_owned(), lossy);
        let mark = if mention.counts { "=>" } else { "  " };
        let _ = writeln!(out, "{mark} {} = {value}", lossy(pair.key()));
        let _ = writeln!(out, "     at {}", pair.origin());
        if pair.written() != pair.value() {
            let _ = writeln!(out, "     written as {}", lossy(pair.written().unwrap_or_default()));
        }
        for step in history(pair.origin()) {
            let _ = writeln!(out, "     {step}");
        }
    }
    out
}

/// What brought a pair where it is, nearest step first.
#[must_use]
pub fn history(origin: &Origin) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = origin.clone();
    while steps.len() < MOST_STEPS {
        if let Some(via) = at.via() {
            steps.push(match via.how {
                How::Set => format!("set at {}", via.origin),
                How::Block => format!("in the block opened at {}", via.origin),
                How::Declared => format!("by the option declared at {}", via.origin),
            });
            if via.how == How::Set {
                at = via.origin.clone();
                continue;
            }
        }
        let Place::Line(file, _) = at.place() else { break };
        if !file.loaded_as.is_empty() {
            steps.push(format!(
                "{} was loaded by {} at {}",
                lossy(&file.given),
                file.loaded_as,
                file.loaded_by
            ));
        }
        at = file.loaded_by.clone();
    }
    steps
}

/// A history longer than this helps nobody.
const MOST_STEPS: usize = 16;
