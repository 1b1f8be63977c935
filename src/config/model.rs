//! The boundary types: a pair, where it came from, and what a reading may cost.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// One `key = value` in the order it was read. Keys and values are bytes; no character set is assumed.
#[derive(Clone, Debug)]
pub struct Pair {
    pub(super) key: Arc<[u8]>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) written: Option<Box<[u8]>>,
    pub(super) origin: Origin,
}

impl Pair {
    /// The key as it was written, never expanded.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value in force. `None` only for a flag on the command line, which has none.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The value before `$(..)`, `@(..)` and `%(..)` were replaced in it.
    #[must_use]
    pub fn written(&self) -> Option<&[u8]> {
        self.written.as_deref().or(self.value.as_deref())
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Where a pair came from: a place, and what brought it there when it was not simply written in that place.
#[derive(Clone, Default)]
pub struct Origin {
    pub(super) place: Place,
    pub(super) via: Option<Arc<Via>>,
}

/// The place a person can go to and change something.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// No place of its own, for example an option that another one implies.
    #[default]
    Nowhere,
    /// The n-th argument of the command line, counted from 1.
    Argument(usize),
    /// An environment variable.
    Variable(Arc<[u8]>),
    /// A line of a file, counted from 1; 0 stands for the file as a whole.
    Line(Arc<SourceFile>, u32),
}

/// A file (or URL, or standard input) that was read.
#[derive(Debug)]
pub struct SourceFile {
    /// The name as it was given, without a section.
    pub given: Vec<u8>,
    /// The absolute path; `None` for URLs and standard input.
    pub absolute: Option<PathBuf>,
    /// The pair that had it loaded.
    pub loaded_by: Origin,
    /// The word of that pair: `ini`, `include`, `inherit`…
    pub loaded_as: &'static str,
    /// How many files had to be loaded to come to this one.
    pub(super) depth: usize,
}

/// One step of a pair's history.
#[derive(Debug)]
pub struct Via {
    /// What happened.
    pub how: How,
    /// To what it happened.
    pub origin: Origin,
}

/// How a pair came about, other than by being written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// `set`, `set-placeholder`, `resolve` made it.
    Set,
    /// A block (`for`, `if-…`) repeated or passed it.
    Block,
    /// A use of a declared option made it.
    Declared,
}

impl Origin {
    /// Whether it stands on the command line itself, and is nothing that another option there made.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(self.place, Place::Argument(_)) && self.via.is_none()
    }

    pub(super) fn argument(index: usize) -> Self {
        Self { place: Place::Argument(index), via: None }
    }

    pub(super) fn variable(name: &[u8]) -> Self {
        Self { place: Place::Variable(name.into()), via: None }
    }

    pub(super) fn line(file: &Arc<SourceFile>, line: u32) -> Self {
        Self { place: Place::Line(Arc::clone(file), line), via: None }
    }

    pub(super) fn with(&self, how: How, origin: &Self) -> Self {
        Self { place: self.place.clone(), via: Some(Arc::new(Via { how, origin: origin.clone() })) }
    }

    /// Where to look.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What happened to it, the last step first.
    #[must_use]
    pub fn via(&self) -> Option<&Via> {
        self.via.as_deref()
    }

    /// The file and the line in it, if it stands in a file.
    #[must_use]
    pub fn file_line(&self) -> Option<(&SourceFile, u32)> {
        match &self.place {
            Place::Line(file, line) => Some((file, *line)),
            _ => None,
        }
    }

    /// Whether there is anything to say.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self.place, Place::Nowhere)
    }
}

/// As it is displayed: a chain of files that load one another has no end worth printing.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Nowhere => f.write_str("configuration"),
            Place::Argument(n) => write!(f, "command line, argument {n}"),
            Place::Variable(name) => write!(f, "environment variable {}", lossy(name)),
            Place::Line(file, 0) => f.write_str(&lossy(&file.given)),
            Place::Line(file, line) => write!(f, "{}:{line}", lossy(&file.given)),
        }
    }
}

/// What a reading may cost at most. The defaults are far above anything a person writes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How deep files may load files.
    pub depth: usize,
    /// How many files (and URLs, and `@(..)`) may be read in all.
    pub reads: usize,
    /// Bytes of one file or URL.
    pub file_bytes: usize,
    /// Bytes of one value after expansion.
    pub value_bytes: usize,
    /// Bytes of all keys and values, and of all files read.
    pub total_bytes: usize,
    /// Pairs in the list.
    pub pairs: usize,
    /// References replaced in one value.
    pub expansions: usize,
    /// Bytes looked at by expansions, conditions and declared options, which can multiply.
    pub work: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 64,
            reads: 1024,
            file_bytes: 16 << 20,
            value_bytes: 4 << 20,
            total_bytes: 128 << 20,
            pairs: 1 << 18,
            expansions: 1 << 16,
            work: 1 << 28,
        }
    }
}

/// What a reading has to say: lines for standard output, and lines for the log.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Bytes for standard output (`iprint`, `print`).
    pub stdout: Vec<u8>,
    /// Lines for the log, as the old server writes them.
    pub log: Vec<u8>,
}

impl Output {
    pub(super) fn say(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.log.extend_from_slice(part);
        }
        self.log.push(b'\n');
    }

    pub(super) fn print(&mut self, text: &[u8]) {
        self.stdout.extend_from_slice(text);
        self.stdout.push(b'\n');
    }
}

/// Text for a message: bytes that are no UTF-8 and control characters are made visible.
#[must_use]
pub fn lossy(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.chars().any(char::is_control) { text.escape_default().to_string() } else { text.into_owned() }
}
