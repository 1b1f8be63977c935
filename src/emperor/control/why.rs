//! `why`: how a vassal came to its state, what happens next, and what a person can do.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use serde::Serialize;

use super::Answer;
use super::advice::{self, Case};
use super::answer::{Row, View};
use crate::emperor::court::{Key, Vassal};
use crate::emperor::story::{Happening, Kind, shown};

/// What there is to tell of one vassal.
#[derive(Debug, Default)]
pub struct Account {
    /// What has happened to it, with the events' numbers.
    pub events: Vec<(u64, Happening)>,
    /// What its last process has said.
    pub output: Output,
}

/// The last lines of what a vassal's process has written.
#[derive(Debug, Default, Serialize)]
pub struct Output {
    /// Where they were read, or where they can be.
    pub place: String,
    /// The lines.
    pub lines: Vec<String>,
}

/// How many lines are shown.
const MOST_LINES: usize = 12;
/// How much of the log is read for them, bytes.
const MOST_BYTES: u64 = 16 << 10;
/// The longest line that is shown, characters.
const MOST_LINE: usize = 500;

impl Account {
    /// The events alone.
    #[must_use]
    pub fn events(&self) -> Answer {
        Answer::document(&Events { events: self.shown() })
    }

    fn shown(&self) -> Vec<impl Serialize> {
        self.events.iter().map(|(number, happening)| shown(*number, happening)).collect()
    }
}

#[derive(Serialize)]
struct Events<E> {
    events: Vec<E>,
}

#[derive(Serialize)]
struct Why<'a, E> {
    vassal: Row<'a>,
    file: Option<String>,
    events: Vec<E>,
    output: &'a Output,
    next: String,
    advice: Vec<String>,
}

impl View<'_> {
    /// How a vassal came to its state.
    #[must_use]
    pub fn why(&self, key: Key, account: &Account) -> Option<Answer> {
        let vassal = self.court.get(key)?;
        let row = self.row(key, vassal);
        let source = self.sources.get(usize::from(vassal.source.0)).filter(|source| !source.carries);
        let file = source.map(|source| source.cwd.join(vassal.name.as_path()).display().to_string());
        let next = next(vassal, row.state, row.next_start_in);
        let troubles = account.events.iter().rev().filter(|(_, it)| is_trouble(it.kind)).take(6);
        let troubles: Vec<&str> = troubles.map(|(_, it)| &*it.text).collect();
        let case = Case {
            name: &vassal.name.to_string(),
            file: file.as_deref(),
            state: row.state,
            is_well: row.cause.is_none(),
            cause: row.cause.as_deref().unwrap_or_default(),
            troubles: &troubles,
            output: &account.output.lines,
        };
        let advice = advice::of(&case);
        Some(Answer::document(&Why {
            vassal: row,
            file,
            events: account.shown(),
            output: &account.output,
            next,
            advice,
        }))
    }
}

fn is_trouble(kind: Kind) -> bool {
    matches!(kind, Kind::Failed | Kind::Refused | Kind::Warning)
}

/// What happens next, and when.
fn next(vassal: &Vassal, state: &str, next_start_in: Option<f64>) -> String {
    match state {
        "backing-off" => format!(
            "it is started again in {:.1} s; with each failure in a row the pause grows by emperor-throttle, up to \
             emperor-max-throttle",
            next_start_in.unwrap_or(0.0)
        ),
        "failed" => "nothing: it is given up until it is started by hand or its file changes".into(),
        "refused" => "nothing: it starts when its file belongs to a user who is not root".into(),
        "stopped" => "nothing: it is stopped by hand until it is started by hand or its file changes".into(),
        "idle" => "nothing: it is idle, and starts when its file is touched".into(),
        "frozen" => "it is frozen, as nobody needs it, and goes on with the next connection".into(),
        "on-demand" => "it starts with the first connection to its socket".into(),
        "queued" => "it starts when it is its turn (emperor-max-starting)".into(),
        "starting" => match vassal.course.as_deref().and_then(|course| course.manner.start_timeout) {
            Some(timeout) => {
                format!("it has {} s after its start to be ready (start-timeout)", timeout.as_secs_f32())
            }
            None => "it is waited for without end: its engine says when it is ready".into(),
        },
        "cursed" => "it is killed if it does not end by itself (emperor-curse-tolerance)".into(),
        "restarting" => "it starts again as soon as it has ended".into(),
        "stopping" => "it is killed if it does not end in time (emperor-stop-timeout)".into(),
        "reloading" => "it comes back with its new file".into(),
        _ if vassal.runs_old_file() => {
            "it goes on with the old file; the next change of its file is looked at again".into()
        }
        _ => "it goes on; a change of its file reloads it".into(),
    }
}

impl Output {
    /// What was written to the emperor's log while a vassal's last process ran, if the log is a file; of one that is not
    /// well, its last process that has ended. The emperor's own lines are left out. Read back from our own descriptor: nobody else chooses what is opened.
    #[must_use]
    pub fn of_last_process(events: &[(u64, Happening)], is_well: bool) -> Self {
        let is_start = |it: &Happening| it.kind == Kind::Started && it.pid > 0;
        let ended = events.iter().rev().find(|(_, it)| it.log_at > 0 && !is_start(it)).map(|(_, it)| it.pid);
        let ended = ended.filter(|_| !is_well);
        let is_it = |it: &Happening| is_start(it) && ended.is_none_or(|pid| pid == it.pid);
        let Some(start) = events.iter().rposition(|(_, it)| is_it(it)) else {
            return Self::default();
        };
        let began = &events[start].1;
        let is_end = |it: &Happening| it.pid == began.pid && it.log_at > 0;
        let end = events[start + 1..].iter().map(|(_, it)| it).find(|it| is_end(it)).map(|it| it.log_at);
        match own_log() {
            Some(log) => {
                let length = log.metadata().map_or(0, |there| there.len());
                let end = end.unwrap_or(length).min(length);
                let from = began.log_at.max(end.saturating_sub(MOST_BYTES));
                let lines = if from < end { last_lines(&log, from, end) } else { Vec::new() };
                Self {
                    place: "the emperor's log while its last process ran; others write there as well".into(),
                    lines,
                }
            }
            None if is_journal() => Self {
                place: format!("the journal: journalctl --no-pager -n 20 _PID={}", began.pid),
                lines: Vec::new(),
            },
            None => Self::default(),
        }
    }
}

/// The emperor's log, if it is a file.
fn own_log() -> Option<File> {
    let is_file = |file: &File| file.metadata().is_ok_and(|there| there.is_file());
    let ours = std::io::stderr().as_fd().try_clone_to_owned().ok().map(File::from)?;
    if !is_file(&ours) {
        return None;
    }
    if ours.read_at(&mut [0], 0).is_ok() {
        return Some(ours);
    }
    // Opened for writing alone.
    let options = OFlag::O_NONBLOCK.bits();
    File::options().read(true).custom_flags(options).open("/proc/self/fd/2").ok().filter(is_file)
}

/// Whether the service manager has connected standard error with the journal. Source: systemd.exec(5).
fn is_journal() -> bool {
    let there = nix::sys::stat::fstat(std::io::stderr().as_fd());
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    there.is_ok_and(|there| stream == format!("{}:{}", there.st_dev, there.st_ino))
}

fn last_lines(log: &File, from: u64, end: u64) -> Vec<String> {
    let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
    // It may have been cut meanwhile.
    if log.read_exact_at(&mut bytes, from).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let own = |line: &&str| !line.trim().is_empty() && !line.contains("[emperor");
    let mut lines: Vec<_> = text.lines().rev().filter(own).take(MOST_LINES).map(legible).collect();
    lines.reverse();
    lines
}

/// A line of a stranger.
fn legible(line: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    line.chars().take(MOST_LINE).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_lines_are_those_of_the_vassal_without_what_would_steer_a_terminal() {
        let mut log = tempfile::tempfile().unwrap();
        let others = "x\n".repeat(5);
        let own: String = (0..20).map(|number| format!("line {number}\n")).collect();
        write!(log, "{others}{own}Sun - [emperor] vassal b has been spawned\n\n\x1b[1mlast").unwrap();
        let end = log.metadata().unwrap().len();
        let lines = last_lines(&log, others.len() as u64, end);
        assert_eq!(lines.len(), MOST_LINES);
        assert_eq!((lines[0].as_str(), lines[11].as_str()), ("line 9", "\u{fffd}[1mlast"));
        assert!(last_lines(&log, 0, end + 1).is_empty(), "it was cut");
    }
}
