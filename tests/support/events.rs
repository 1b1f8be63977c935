//! The log that the witnesses write, read back.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// One step of a witness.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When, on a clock that all processes share and that only goes forward.
    pub(crate) at: Duration,
    /// The same moment by the wall clock, to compare with the test's own steps.
    pub(crate) wall: SystemTime,
    /// Who.
    pub(crate) pid: i32,
    /// The vassal's name, escaped as [`escape`] does.
    pub(crate) name: String,
    /// What happened: `exec`, `said`, `got`, `lost`, `signal`, `exit` …
    pub(crate) what: String,
    /// With which number or text; empty where there is none.
    pub(crate) arg: String,
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let at = Duration::from_nanos(words.next()?.parse().ok()?);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_nanos(words.next()?.parse().ok()?);
        let pid = words.next()?.parse().ok()?;
        let [name, what] = [words.next()?.to_owned(), words.next()?.to_owned()];
        Some(Self { at, wall, pid, name, what, arg: words.next().unwrap_or_default().to_owned() })
    }
}

/// All that was written so far, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(pub(crate) Vec<Event>);

impl Log {
    pub(super) fn parse(text: &str) -> Self {
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Self(complete.lines().filter_map(Event::parse).collect())
    }

    /// The steps of one kind by one vassal.
    pub(crate) fn of(&self, name: &str, what: &str) -> Vec<&Event> {
        self.0.iter().filter(|e| e.name == name && e.what == what).collect()
    }

    /// The starts of a vassal.
    pub(crate) fn execs(&self, name: &str) -> Vec<&Event> {
        self.of(name, "exec")
    }

    /// What a vassal received over its link, and its end (`EOF`), in order.
    pub(crate) fn heard(&self, name: &str) -> Vec<String> {
        let heard = self.0.iter().filter(|e| e.name == name && (e.what == "got" || e.what == "lost"));
        heard.map(|e| if e.what == "got" { e.arg.clone() } else { "EOF".into() }).collect()
    }

    /// The times a byte was received by a vassal.
    pub(crate) fn got(&self, name: &str, byte: u8) -> usize {
        self.of(name, "got").iter().filter(|e| e.arg == byte.to_string()).count()
    }

    /// Whether a vassal said a byte at least so many times.
    pub(crate) fn said(&self, name: &str, byte: u8) -> usize {
        self.of(name, "said").iter().filter(|e| e.arg == byte.to_string()).count()
    }

    /// The names that were ever started.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.iter().filter(|e| e.what == "exec").map(|e| e.name.clone()).collect()
    }

    /// One line per step, for a failure's report.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let mut text = String::new();
        let Some(start) = self.0.first().map(|e| e.at) else { return "(no event)\n".into() };
        for e in &self.0[self.0.len().saturating_sub(lines)..] {
            let ms = (e.at.saturating_sub(start)).as_secs_f64() * 1000.0;
            text += &format!("{ms:10.1} ms  {} {} {} {}\n", e.pid, e.name, e.what, e.arg);
        }
        text
    }
}

/// Writes what would break a line of the log, and `%`, as `%XX`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let plain = |b: u8| b > b' ' && b < 127 && b != b'%';
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

/// The inverse of [`escape`].
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digits = [bytes.next().unwrap_or(b'?'), bytes.next().unwrap_or(b'?')];
        let hex = std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(hex.expect("two digits behind a % in a witness's log"));
    }
    out
}
