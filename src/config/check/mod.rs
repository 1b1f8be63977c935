//! What is wrong, or will surprise somebody, in a configuration: the analysis behind `emperor check`, and behind the
//! look an emperor takes at a changed file before it tells its vassal.
//!
//! Everything here is data; nothing prints. [`Severity::Fatal`] means that the real uWSGI would end with status 1.

mod explain;
mod texts;
mod values;

use super::answers::Config;
use super::engine::Mode;
use super::error::Trouble;
use super::loader::Loader;
use super::model::{Origin, Pair, lossy};
use super::options::{self, HandledBy, Opt};
use std::ffi::OsString;

pub use explain::{Explanation, Mention};

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably not what was meant.
    Warning,
    /// uWSGI ends with status 1 here.
    Fatal,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where to look.
    pub origin: Origin,
    /// What is the matter.
    pub message: String,
    /// What to do about it, if that can be said.
    pub remedy: Option<String>,
}

/// A configuration that was looked at.
#[derive(Debug)]
pub struct Checked {
    /// What was read, up to the first fatal error.
    pub config: Config,
    /// The findings, sorted by place.
    pub problems: Vec<Problem>,
}

impl Checked {
    /// The worst finding, if there is any.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.problems.iter().map(|p| p.severity).max()
    }

    /// The first finding that would end uWSGI.
    #[must_use]
    pub fn fatal(&self) -> Option<&Problem> {
        self.problems.iter().find(|p| p.severity == Severity::Fatal)
    }
}

/// Reads a configuration and looks at it. `fallback-config` is not followed: it is the broken file that matters.
#[must_use]
pub fn check(
    loader: &Loader<'_>,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    mode: Mode,
) -> Checked {
    let reading = loader.read(arguments, environment, mode, true);
    let mut findings = Findings { problems: Vec::new() };
    if let Some(error) = &reading.error {
        let remedy = remedy(&error.trouble);
        findings.add(severity(&error.trouble), &error.origin, error.trouble.to_string(), remedy.as_deref());
    }
    texts::look(&reading.config, &mut findings);
    if reading.error.is_none() {
        values::look(&reading.config, loader.world, &mut findings);
        keys(&reading.config, &mut findings);
    }
    let mut problems = findings.problems;
    problems.sort_by_cached_key(|p| match p.origin.file_line() {
        Some((file, line)) => (1, file.given.clone(), line),
        None => (0, Vec::new(), 0),
    });
    problems.dedup_by(|a, b| a.message == b.message && a.origin.to_string() == b.origin.to_string());
    Checked { config: reading.config, problems }
}

/// Collects problems.
struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    fn add(&mut self, severity: Severity, origin: &Origin, message: impl Into<String>, remedy: Option<&str>) {
        // A file that is wrong all over needs no more of it, but what ends uWSGI must be seen.
        if self.problems.len() >= MOST_PROBLEMS && severity < Severity::Fatal {
            return;
        }
        let (origin, message) = (origin.clone(), message.into());
        self.problems.push(Problem { severity, origin, message, remedy: remedy.map(str::to_owned) });
    }
}

/// Nobody reads more.
const MOST_PROBLEMS: usize = 1000;

/// What is not allowed here may well work there, and so may what is beyond our limits.
fn severity(trouble: &Trouble) -> Severity {
    match trouble {
        Trouble::Refused { .. } => Severity::Note,
        Trouble::TooMuch(_) => Severity::Warning,
        Trouble::Unreadable { error, .. } if error.kind() == std::io::ErrorKind::FileTooLarge => {
            Severity::Warning
        }
        _ => Severity::Fatal,
    }
}

/// What helps against an error of the loader.
fn remedy(trouble: &Trouble) -> Option<String> {
    let text = match trouble {
        Trouble::NoFile { .. } => {
            "names are relative to the directory the program starts in, not to this file"
        }
        Trouble::UnknownFormat(name) if name.contains(&b':') => {
            "write `ini = FILE:SECTION` to name a section"
        }
        Trouble::UnknownFormat(_) => "the name must end in .ini, .yml, .yaml, .json, .js or .xml",
        Trouble::Strict(key) => {
            let near = options::nearest(key, options::Plugins::core());
            return Some(near.map_or_else(
                || "define placeholders with `set-ph = KEY=VALUE`".to_owned(),
                |option| format!("write `{}`", option.name),
            ));
        }
        Trouble::BadSet => "write `set = KEY=VALUE`",
        Trouble::PlaceholderIsOption(_) => "use `set`, or another name",
        Trouble::NestedBlock(_) => "end the block above first; there is no nesting",
        Trouble::Value(text) if text.starts_with("invalid chmod value") => {
            "write exactly three octal digits, as 660; without any value the mode is 666"
        }
        Trouble::Value(text) if text.starts_with("invalid cron") => {
            "write five numbers and a command; -1 stands for any"
        }
        Trouble::Refused { .. } => "allow it to check this file completely",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Keys: unknown ones, those of other plugins, those that do nothing here, old names, blocks that never end.
fn keys(config: &Config, findings: &mut Findings) {
    let used = Used::of(config);
    for (pair, near) in config.unknown() {
        let key = lossy(pair.key());
        match options::find(pair.key()) {
            Some(option) if option.plugin_name() == "emperor" => findings.add(
                Severity::Warning,
                pair.origin(),
                format!("{key} is an option of the emperor; in a vassal's file it does nothing"),
                Some("move it to the emperor's own configuration"),
            ),
            Some(option) if option.plugin_name() == "vassal" => {} // what the emperor reads there
            Some(option) if config.mode() == Mode::Emperor => findings.add(
                Severity::Note,
                pair.origin(),
                format!("{key} means something only in a vassal ({})", option.plugin_name()),
                None,
            ),
            Some(option) => findings.add(
                Severity::Warning,
                pair.origin(),
                format!("{key} is an option of the plugin {}, which is not loaded", option.plugin_name()),
                Some(&format!("add `plugin = {}`", plugin_hint(option))),
            ),
            None if used.has(pair.key()) => {}
            None => match near {
                Some(near) => findings.add(
                    Severity::Warning,
                    pair.origin(),
                    format!("{key} is no option and nothing refers to it"),
                    Some(&format!("{} is one", near.name)),
                ),
                None => findings.add(
                    Severity::Note,
                    pair.origin(),
                    format!("{key} is no option and nothing refers to it"),
                    None,
                ),
            },
        }
    }
    for (option, pair) in config.applied() {
        let written = lossy(pair.key());
        if config.mode() == Mode::Emperor {
            let text = match option.handled_by {
                HandledBy::Vassal => "means something only in a vassal",
                HandledBy::Ignored => "cannot be done here and is ignored",
                _ => continue,
            };
            findings.add(Severity::Note, pair.origin(), format!("{written} {text}"), None);
        } else if let Some((_, better)) = OLD.iter().find(|(old, _)| *old == option.name) {
            findings.add(Severity::Note, pair.origin(), format!("{written} is an old option"), Some(better));
        }
    }
    if let Some(origin) = config.open_block() {
        findings.add(
            Severity::Warning,
            origin,
            "this block is never closed: it goes on in whatever is read next",
            Some("write `endif =` or `endfor =`; in yaml `endif: \"\"`"),
        );
    }
}

/// Pairs whose key is no option, nor anything that the configuration refers to, and so near to an option that this is
/// what was meant.
pub fn misspelt(config: &Config) -> impl Iterator<Item = (&Pair, &'static Opt)> {
    let used = Used::of(config);
    let unknown = config
        .unknown()
        .filter(move |(pair, _)| options::find(pair.key()).is_none() && !used.has(pair.key()));
    unknown.filter_map(|(pair, near)| Some((pair, near?)))
}

/// The plugin as Debian calls it.
fn plugin_hint(option: &Opt) -> &'static str {
    match option.plugin_name() {
        "python" => "python3",
        other => other,
    }
}

/// Options uWSGI still takes, and what its documentation says instead.
const OLD: [(&str, &str); 3] = [
    ("lazy", "`lazy-apps` loads applications in each worker without its drawbacks"),
    ("cgi-mode", "load the plugin `cgi`"),
    ("ssl-enable3", "SSLv3 is broken; leave it out"),
];

/// Keys that something refers to: `%(key)`, `if-opt = key`.
struct Used(Vec<Vec<u8>>);

/// Longer references are not looked into.
const LONGEST_REFERENCE: usize = 1024;

impl Used {
    fn of(config: &Config) -> Self {
        let mut used = Vec::new();
        for pair in config.pairs() {
            let value = pair.written().unwrap_or_default();
            for (at, _) in value.windows(2).enumerate().filter(|(_, two)| two == b"%(") {
                let name = &value[at + 2..value.len().min(at + 2 + LONGEST_REFERENCE)];
                let end = name.iter().position(|b| *b == b')').unwrap_or(name.len());
                used.extend(name[..end].split(|b| *b == b' ').map(<[u8]>::to_vec));
            }
            if matches!(pair.key(), b"if-opt" | b"if-not-opt") {
                used.push(value.split(|b| *b == b'=').next().unwrap_or_default().to_vec());
            }
            if matches!(pair.key(), b"get" | b"declare-option" | b"declare-option2") {
                used.push(value.split(|b| *b == b'=').next().unwrap_or_default().to_vec());
            }
        }
        used.sort();
        Self(used)
    }

    fn has(&self, key: &[u8]) -> bool {
        self.0.binary_search_by(|used| used.as_slice().cmp(key)).is_ok()
    }
}
