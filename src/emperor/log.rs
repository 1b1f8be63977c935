//! The emperor's log: one line an event on standard error, in uWSGI's form or as JSON.
//!
//! Once the loop turns, lines are gathered and written at the end of each turn ([`gather`], [`flush`]): a thousand
//! vassals that are told to stop make a few writes and not a thousand. Warnings and errors are written at once,
//! with what was gathered before.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::sys::clock;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// `Sun Nov 22 15:00:13 2026 - [emperor] vassal x.ini is now loyal`.
    #[default]
    Uwsgi,
    /// One JSON object a line.
    Json,
}

/// Directs all events of this process to standard error, from `level` on. The first call counts.
pub fn start(form: Form, level: Level) {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(Lines).with_ansi(false);
    // A second call, as in a test that starts two roles, changes nothing.
    let _ = match form {
        Form::Uwsgi => builder.event_format(UwsgiForm).try_init(),
        Form::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    };
}

/// Begins to gather lines on this thread, which must [`flush`] before it waits for anything.
pub fn gather() {
    GATHERED.with_borrow_mut(|gathered| gathered.lines.get_or_insert_default().reserve(MOST));
}

/// Writes what was gathered.
pub fn flush() {
    GATHERED.with_borrow_mut(Gathered::write);
}

/// Writes what was gathered, and gathers no more.
pub fn stop_gathering() {
    GATHERED.with_borrow_mut(|gathered| {
        gathered.write();
        gathered.lines = None;
    });
}

/// As many bytes are gathered at most.
const MOST: usize = 16 * 1024;

thread_local! {
    static GATHERED: RefCell<Gathered> = const { RefCell::new(Gathered { lines: None, second: 0, stamp: String::new() }) };
}

struct Gathered {
    lines: Option<Vec<u8>>,
    /// The second that `stamp` shows.
    second: u64,
    stamp: String,
}

impl Gathered {
    fn write(&mut self) {
        if let Some(lines) = self.lines.as_mut().filter(|lines| !lines.is_empty()) {
            // A log that cannot be written cannot say so.
            let _ = io::stderr().write_all(lines);
            lines.clear();
        }
    }

    fn stamp(&mut self) -> &str {
        let second = clock::epoch_seconds();
        if self.second != second {
            self.second = second;
            self.stamp = clock::local_time(c"%a %b %e %H:%M:%S %Y");
        }
        &self.stamp
    }
}

/// Where the lines go.
struct Lines;

/// Takes one line.
struct Line {
    at_once: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { at_once: true }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line { at_once: *about.level() <= Level::WARN }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        GATHERED.with_borrow_mut(|gathered| {
            let Some(lines) = &mut gathered.lines else { return io::stderr().write(line) };
            lines.extend_from_slice(line);
            if self.at_once || lines.len() > MOST - LONG_LINE {
                gathered.write();
            }
            Ok(line.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Room that is kept for one more line.
const LONG_LINE: usize = 1024;

struct UwsgiForm;

impl<S, N> FormatEvent<S, N> for UwsgiForm
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        GATHERED.with_borrow_mut(|gathered| write!(writer, "{} - ", gathered.stamp()))?;
        context.field_format().format_fields(Writer::new(&mut Visible(writer.by_ref())), event)?;
        writeln!(writer)
    }
}

/// Writes on, with all escaped that would end the line, steer a terminal or turn the reading around: names and
/// texts of tenants come here by many ways.
struct Visible<'w>(Writer<'w>);

impl std::fmt::Write for Visible<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let mut rest = text;
        while let Some((at, harmful)) = rest.char_indices().find(|(_, c)| is_harmful(*c)) {
            write!(self.0, "{}{}", &rest[..at], harmful.escape_default())?;
            rest = &rest[at + harmful.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_on_its_line() {
        let mut line = String::new();
        let mut visible = Visible(Writer::new(&mut line));
        std::fmt::Write::write_str(&mut visible, "é a\nb\u{1b}[2Jc\u{202e}\r").unwrap();
        assert_eq!(line, "é a\\nb\\u{1b}[2Jc\\u{202e}\\r");
    }
}
