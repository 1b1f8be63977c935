//! `emperor status`: one line a vassal, as wide as the terminal.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use super::{Vassal, age, legible};
use crate::sys::terminal;

/// Where a table is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Screen {
    /// How wide it is; none for as wide as the text is.
    pub(super) columns: Option<usize>,
    /// Whether colours are shown.
    pub(super) colour: bool,
}

impl Screen {
    /// Standard output.
    pub(super) fn here() -> Self {
        let out = io::stdout();
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { columns: terminal::columns(&out), colour }
    }

    /// A text in a colour, by its number.
    pub(super) fn paint(self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Names are not made shorter than this.
const LEAST_NAME: usize = 12;
/// Room that is left for a cause at least, by shorter names.
const ROOM_FOR_CAUSE: usize = 30;

/// One line a vassal.
pub(super) fn table(vassals: &[Vassal], now: u64, screen: Screen) -> String {
    if vassals.is_empty() {
        return String::new();
    }
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(vassals.iter().map(|vassal| {
        let pid = shown(vassal.pid, |pid| pid.to_string());
        let since = age(now.saturating_sub(vassal.since));
        let used = vassal.use_.as_ref();
        let process = used.and_then(|used| used.process.as_ref());
        let figures = used.and_then(|used| used.figures.as_ref());
        let queue = process.and_then(|process| process.queue).or(figures.map(|figures| figures.listen_queue));
        [
            vassal.name(),
            legible(&vassal.state),
            since,
            vassal.restarts.to_string(),
            pid,
            shown(process, |process| size(process.memory_bytes)),
            shown(process, |process| age(process.cpu_micros / 1_000_000)),
            shown(figures, |figures| figures.requests.to_string()),
            shown(queue, |queue| queue.to_string()),
        ]
    }));
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut widths: [usize; HEADS.len()] = std::array::from_fn(widest);
    let others: usize = widths[1..].iter().map(|width| width + GAP).sum::<usize>() + GAP;
    if let Some(columns) = screen.columns {
        let is_any_unwell = vassals.iter().any(|vassal| vassal.remark().is_some());
        let for_cause = if is_any_unwell { ROOM_FOR_CAUSE } else { 0 };
        let room = columns.saturating_sub(others + for_cause).max(LEAST_NAME);
        widths[0] = widths[0].min(room);
    }
    let causes = std::iter::once(None).chain(vassals.iter().map(Vassal::remark));
    let colours = std::iter::once("1").chain(vassals.iter().map(shade));
    let mut text = String::new();
    for ((row, cause), shade) in rows.iter().zip(causes).zip(colours) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if column == 0 { without_middle(cell, width) } else { cell.clone() };
            let pad = " ".repeat(width - cell.chars().count() + GAP);
            let cell = if column == 1 { screen.paint(&cell, shade) } else { cell };
            let _ = write!(line, "{cell}{pad}"); // into memory: it cannot fail
        }
        let room = screen.columns.map(|columns| columns.saturating_sub(widths[0] + others));
        line.push_str(&cut(&legible(cause.unwrap_or_default()), room));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

const HEADS: [&str; 9] = ["NAME", "STATE", "SINCE", "RESTARTS", "PID", "MEM", "CPU", "REQS", "QUEUE"];

fn shown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), show)
}

/// Bytes in the largest unit of which there are some.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];
    let fitting = units.into_iter().find(|(unit, _)| bytes >= *unit);
    fitting.map_or_else(|| format!("{bytes}B"), |(unit, letter)| format!("{}{letter}", bytes / unit))
}

/// Blanks between two columns.
const GAP: usize = 2;

/// The number of a state's colour.
pub(super) fn shade(vassal: &Vassal) -> &'static str {
    match &*vassal.state {
        "running" if vassal.is_well() => "32",
        "stopped" | "idle" | "on-demand" | "frozen" => "2",
        _ if vassal.is_well() => "33",
        _ => "31",
    }
}

/// A name that is too long loses its middle: what tells it from others stands at either end.
fn without_middle(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        return name.to_owned();
    }
    let tail = most.saturating_sub(1) / 2;
    let head = most.saturating_sub(1 + tail);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(count - tail)).collect()
}

fn cut(text: &str, most: Option<usize>) -> String {
    match most {
        Some(most) if text.chars().count() > most => {
            text.chars().take(most.saturating_sub(1)).chain((most > 0).then_some('…')).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Figures, Processes, Use};
    use super::*;

    fn vassal(id: &str, state: &str, cause: Option<&str>) -> Vassal {
        let cause = cause.map(str::to_owned);
        Vassal {
            id: id.into(),
            state: state.into(),
            since: 100,
            pid: Some(7),
            restarts: 2,
            cause,
            note: None,
            reinforces: None,
            use_: None,
        }
    }

    #[test]
    fn one_line_a_vassal_with_the_cause_of_those_that_are_not_well() {
        let process = Processes { memory_bytes: 12_242_944, cpu_micros: 61_900_000, queue: None };
        let figures = Figures { requests: 9, listen_queue: 3 };
        let used = Use { id: "shop.ini".into(), process: Some(process), figures: Some(figures) };
        let vassals = [
            Vassal { use_: Some(used), ..vassal("shop.ini", "running", None) },
            vassal("a%1B%5B1m.ini", "backing-off", Some("exited\x1b[31m with status 1")),
        ];
        let wanted = "NAME            STATE        SINCE  RESTARTS  PID  MEM  CPU   REQS  QUEUE\n\
                      shop.ini        running      5m0s   2         7    11M  1m1s  9     3\n\
                      a\\u{1b}[1m.ini  backing-off  5m0s   2         7    -    -     -     -      exited\u{fffd}[31m \
                      with status 1\n";
        assert_eq!(table(&vassals, 400, Screen::default()), wanted);
        let coloured = table(&vassals, 400, Screen { columns: None, colour: true });
        assert!(
            coloured.contains("\x1b[32mrunning\x1b[0m") && coloured.contains("\x1b[31mbacking-off\x1b[0m")
        );
        assert_eq!(table(&[], 0, Screen::default()), "");
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let long = "very-long-name-of-a-customer-".repeat(5) + "1.ini";
        let vassals = [
            vassal(&long, "running", None),
            vassal(
                "shop.ini",
                "backing-off",
                Some("exited with status 1; 7 failures in a row, starts again in 6.0 s"),
            ),
        ];
        for columns in [100, 120, 160, 500] {
            let text = table(&vassals, 400, Screen { columns: Some(columns), colour: false });
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= columns), "{columns}:\n{text}");
            assert!(
                text.contains("…") == (columns < 500)
                    && text.contains("1.ini")
                    && text.contains("exited with"),
                "{text}"
            );
        }
        assert_eq!(without_middle("abcdefgh", 5), "ab…gh");
        assert_eq!(
            (cut("abc", Some(0)), cut("abc", Some(2)), cut("abc", Some(3))),
            ("".into(), "a…".into(), "abc".into())
        );
    }
}
